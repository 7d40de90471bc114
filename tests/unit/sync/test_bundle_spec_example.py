"""The worked example of docs/spec/bundle.md, made again from the seeds, names and times that it states."""

from __future__ import annotations

import io
import re
from contextlib import closing
from hashlib import sha256
from pathlib import Path

from identity.history import build_add_device, build_inception, fold, key_commitment, sign_event
from identity.keys import Ed25519Signer
from ledger.feed import create_feed
from ledger.identities import add_events
from ledger.storage.engine import open_store
from ledger.writer import StoreWriter
from sync.bundle import BundleReader
from sync.changes import Changes
from sync.database import Database, found, join, register_database
from sync.storage.projection import feed_name
from sync.transaction import Founding, database_id

SPEC = (Path(__file__).resolve().parents[3] / "docs" / "spec" / "bundle.md").read_text("utf-8")
NOW = 1_790_000_120_000


def fences() -> list[str]:
    return re.findall(r"```text\n(.*?)```", SPEC, re.DOTALL)


def stated_file() -> bytes:
    """The hex of every record, joined; ``name =`` lines only name them."""
    return bytes.fromhex("".join(line for line in fences()[0].split("\n") if not line.endswith("=")))


def made_again(directory: Path) -> bytes:
    root, following, device = (Ed25519Signer(bytes([number]) * 32) for number in (1, 2, 3))
    inception = build_inception(
        label="Ada",
        root_keys=[root.public_key],
        next_digests=[key_commitment(following.public_key)],
        time_ms=1_790_000_000_000,
    )
    begun = sign_event(inception, [(0, root)])
    history = fold([begun])
    added = build_add_device(history, device=device.public_key, name="laptop", time_ms=1_790_000_060_000)
    events = [begun, sign_event(added, [(0, root), (1, device)])]
    founding = Founding("notes", history.identity, b"\x09" * 16)
    uid, out = database_id(founding), io.BytesIO()
    with closing(open_store(str(directory / "store.db"), create=True)) as store:
        with store.write() as tx:
            add_events(tx, history.identity, events)
        key = create_feed(store, device, history.identity, feed_name(uid))
        register_database(store, uid, "notes", NOW)
        with StoreWriter(store, [device]) as writer:
            database = Database(store, uid, lambda: NOW, writer=writer, feed=key)
            found(database, founding, events)
            changes = Changes()
            changes.put("notes", "1", {"text": "first"})
            database.commit(changes)
        database.export_bundle(out)
    return out.getvalue()


def test_example_is_what_its_inputs_give(tmp_path: Path) -> None:
    assert stated_file() == made_again(tmp_path)


def test_stated_length_and_digest() -> None:
    stated = dict(line.split(" = ") for line in fences()[1].strip().split("\n"))
    data = stated_file()
    assert stated == {
        "database id": BundleReader(io.BytesIO(data)).header.database.hex(),
        "length": str(len(data)),
        "SHA-256": sha256(data).hexdigest(),
    }


def test_example_can_be_taken_in(tmp_path: Path) -> None:
    with closing(open_store(str(tmp_path / "new.db"), create=True)) as store:
        report = join(store, io.BytesIO(stated_file()), NOW)
        assert (report.entries, report.waiting, report.received.forks) == (2, (), ())
        state = Database(store, report.received.header.database, lambda: NOW).get("notes", "1")
        assert state is not None
        assert state.view.fields == {"text": "first"}

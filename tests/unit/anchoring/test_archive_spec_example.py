"""The worked example of docs/spec/archive.md, made again from the seeds, names and times that it states."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from anchoring.archive_file import archived_store, write_archive
from anchoring.contracts import load_contract
from identity.history import build_add_device, build_inception, fold, key_commitment, sign_event
from identity.keys import Ed25519Signer
from ledger.archive import Purpose
from ledger.feed import append, create_feed
from ledger.identities import add_events
from ledger.storage.sql import SqlStore
from ledger.storage.sqlite import open_sqlite

SPEC = (Path(__file__).resolve().parents[3] / "docs" / "spec" / "archive.md").read_text("utf-8")


def fences() -> list[str]:
    return re.findall(r"```text\n(.*?)```", SPEC, re.DOTALL)


def stated_file() -> bytes:
    """The hex of every record, joined; ``name =`` lines only name them."""
    return bytes.fromhex("".join(line for line in fences()[0].split("\n") if not line.endswith("=")))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
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
    opened = open_sqlite(tmp_path / "store.db", create=True)
    with opened.write() as tx:
        add_events(tx, history.identity, [begun, sign_event(added, [(0, root), (1, device)])])
    key = create_feed(opened, device, history.identity, "journal")
    append(opened, key, device, [b"first entry"])
    append(opened, key, device, [b"second entry", b"third entry"])
    yield opened
    opened.close()


def test_example_is_what_its_inputs_give(store: SqlStore) -> None:
    out = io.BytesIO()
    with store.read() as tx:
        totals = write_archive(
            tx,
            out,
            Purpose.BACKUP,
            archive_id=b"\7" * 32,
            made_ms=1_790_000_120_000,
            files={"policy.toml": b"v = 1\n"},
        )
    assert out.getvalue() == stated_file()
    assert f"counts five sections and {totals.size:,} bytes" in " ".join(SPEC.split())
    assert totals.sections == 5


def test_stated_length_and_digest() -> None:
    stated = dict(line.split(" = ") for line in fences()[1].strip().split("\n"))
    data = stated_file()
    assert stated == {"length": str(len(data)), "SHA-256": sha256(data).hexdigest()}


def test_example_can_be_read(tmp_path: Path) -> None:
    source = io.BytesIO(stated_file())
    with archived_store(source, load_contract().code_hash, folder=tmp_path) as (passing, loaded):
        assert passing.read_only
        assert (loaded.entries, loaded.files) == (3, {"policy.toml": b"v = 1\n"})
    assert list(tmp_path.iterdir()) == []

"""The worked example of docs/spec/feed-export.md, made again from the seeds, names and times that it states."""

from __future__ import annotations

import io
import re
from hashlib import sha256
from pathlib import Path

from identity.history import build_add_device, build_inception, fold, key_commitment, sign_event
from identity.keys import Ed25519Signer
from ledger.feed import append, create_feed
from ledger.identities import add_events
from ledger.storage.memory import MemoryStore
from ledger.transfer import export_feed, ingest_feed

SPEC = (Path(__file__).resolve().parents[3] / "docs" / "spec" / "feed-export.md").read_text("utf-8")


def fences() -> list[str]:
    return re.findall(r"```text\n(.*?)```", SPEC, re.DOTALL)


def stated_file() -> bytes:
    """The hex of every record, joined; ``name =`` lines only name them."""
    return bytes.fromhex("".join(line for line in fences()[0].split("\n") if not line.endswith("=")))


def made_again() -> bytes:
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
    store, out = MemoryStore(), io.BytesIO()
    with store.write() as tx:
        add_events(tx, history.identity, [begun, sign_event(added, [(0, root), (1, device)])])
    key = create_feed(store, device, history.identity, "journal")
    append(store, key, device, [b"first entry"])
    append(store, key, device, [b"second entry", b"third entry"])
    export_feed(store, key, out)
    return out.getvalue()


def test_example_is_what_its_inputs_give() -> None:
    assert stated_file() == made_again()


def test_stated_length_and_digest() -> None:
    stated = dict(line.split(" = ") for line in fences()[1].strip().split("\n"))
    data = stated_file()
    assert stated == {"length": str(len(data)), "SHA-256": sha256(data).hexdigest()}


def test_example_can_be_taken_in() -> None:
    result = ingest_feed(MemoryStore(), io.BytesIO(stated_file()))
    assert (result.start, result.length) == (0, 3)

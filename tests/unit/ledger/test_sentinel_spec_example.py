"""The worked example of docs/spec/sentinel.md."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

from ledger.sentinel import SLOT_BYTES, Sentinel, SentinelHead, encode_slot, machine_digest, parse_slot, slot_offset
from ledger.store import FeedKey

SPEC = (Path(__file__).resolve().parents[3] / "docs" / "spec" / "sentinel.md").read_text("utf-8")


def stated() -> dict[str, bytes]:
    (fence,) = re.findall(r"```text\n(.*?)```", SPEC, re.DOTALL)
    pairs = (line.split("=") for line in fence.strip().split("\n"))
    return {name.strip(): bytes.fromhex(value) for name, value in pairs}


def test_the_example_is_what_its_inputs_give() -> None:
    fields = stated()
    head = SentinelHead(FeedKey(fields["key"]), 3, fields["tree"])
    sentinel = Sentinel(5, bytes(range(32)), machine_digest(b"till-3"), 1, 3, 0, sha256().digest(), (head,))
    *shown, checksum = fields.values()
    slot = b"".join(shown).ljust(SLOT_BYTES - len(checksum), b"\0") + checksum
    assert encode_slot(sentinel) == slot
    assert parse_slot(slot) == sentinel
    assert slot_offset(5) == SLOT_BYTES

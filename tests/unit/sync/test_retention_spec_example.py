"""The worked example of docs/spec/retention.md."""

from __future__ import annotations

import re
from pathlib import Path

from ledger.entry import encode_entry, parse_entry
from ledger.values import Reference
from sync.clock import reading_at
from sync.transaction import DocumentId, Erasure, Stamp, erasure_entry, parse_erasure

SPEC = (Path(__file__).resolve().parents[3] / "docs" / "spec" / "retention.md").read_text("utf-8")

STAMP = Stamp(
    database=b"\1" * 32,
    back=Reference(b"\2" * 32, 4, b"\4" * 32),
    deps=(),
    lamport=9,
    reading=reading_at(1_800_000_000_000),
)
EXAMPLE = Erasure(STAMP, DocumentId("clients", "17"), (b"\x09" * 16,), "Art. 17 request")


def test_the_example_is_what_its_inputs_give() -> None:
    (fence,) = re.findall(r"```text\nentry =\n(.*?)```", SPEC, re.DOTALL)
    stated = bytes.fromhex("".join(fence.split()))
    assert encode_entry(erasure_entry(EXAMPLE)) == stated
    assert parse_erasure(parse_entry(stated)) == EXAMPLE
    assert f'"hlc": {STAMP.reading}' in SPEC

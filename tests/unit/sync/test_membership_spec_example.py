"""The worked example of docs/spec/membership.md."""

from __future__ import annotations

import re
from pathlib import Path

from identity.event import LastGood
from ledger.entry import encode_entry, parse_entry
from ledger.values import Reference
from sync.acts import Dismiss, MemberEntry, member_entry, parse_member
from sync.clock import reading_at
from sync.transaction import Stamp

SPEC = (Path(__file__).resolve().parents[3] / "docs" / "spec" / "membership.md").read_text("utf-8")

STAMP = Stamp(
    database=b"\1" * 32,
    back=Reference(b"\2" * 32, 4, b"\4" * 32),
    deps=(),
    lamport=9,
    reading=reading_at(1_800_000_000_000),
)
EXAMPLE = MemberEntry(STAMP, Dismiss(b"\7" * 32, {b"\3" * 32: LastGood(6, b"\x08" * 32)}, "left the bank"))


def test_the_example_is_what_its_inputs_give() -> None:
    (fence,) = re.findall(r"```text\nentry =\n(.*?)```", SPEC, re.DOTALL)
    stated = bytes.fromhex("".join(fence.split()))
    assert encode_entry(member_entry(EXAMPLE)) == stated
    assert parse_member(parse_entry(stated)) == EXAMPLE
    assert f'"hlc": {STAMP.reading}' in SPEC

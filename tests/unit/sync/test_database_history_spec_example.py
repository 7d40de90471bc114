"""The worked example of docs/spec/database-history.md."""

from __future__ import annotations

import re
from pathlib import Path

from identity.encoding import encode
from ledger.entry import encode_entry, parse_entry
from ledger.values import Reference, parse_reference_text, reference_text
from sync.cells import LiveDot, StoredOp
from sync.clock import reading_at
from sync.storage.documents import count_increments
from sync.transaction import DocumentId, Dot, Stamp, Transaction, Verb, parse_transaction, transaction_entry
from sync.undo import Footprint, Knowledge, invert

SPEC = (Path(__file__).resolve().parents[3] / "docs" / "spec" / "database-history.md").read_text("utf-8")

FEEDS = {1: b"\2" * 32, 2: b"\3" * 32}
LEAVES = {1: b"\4" * 32, 2: b"\5" * 32}
DOCUMENT = DocumentId("accounts", "4711")
UNDONE = Reference(FEEDS[1], 5, LEAVES[1])

OLD = LiveDot(1, 2, 7, 0, Verb.SET, "/owner", encode("Novak"))
SET = LiveDot(3, 1, 5, 0, Verb.SET, "/owner", encode("Smith"))
INC = LiveDot(4, 1, 5, 1, Verb.INC, "/balance", encode({"$dec": "12.30"}))
OTHERS = LiveDot(2, 2, 8, 0, Verb.INC, "/balance", encode({"$dec": "1.00"}))


def _name(dot: LiveDot) -> Dot:
    return Dot(Reference(FEEDS[dot.branch], dot.seq, LEAVES[dot.branch]), dot.op)


def _fence(name: str) -> str:
    (found,) = re.findall(rf"```text\n{name} =\n(.*?)```", SPEC, re.DOTALL)
    return "".join(found.split())


def test_the_example_is_what_its_inputs_give() -> None:
    own = [StoredOp(SET, None), StoredOp(INC, None)]
    footprint = Footprint(DOCUMENT, own, [], [OLD], [], [SET], count_increments([OTHERS, INC]))
    known = Knowledge(lambda _branch, _seq: {2: 8}, lambda dot: (True, dot.place, b""), _name, lambda _op: None)
    ops, skipped = invert(footprint, known)
    assert skipped == []
    stamp = Stamp(b"\1" * 32, UNDONE, (), 10, reading_at(1_800_000_000_000))
    undoing = Transaction(stamp, tuple(ops), undoes=(UNDONE,))
    stated = bytes.fromhex(_fence("entry"))
    assert encode_entry(transaction_entry(undoing)) == stated
    assert parse_transaction(parse_entry(stated)) == undoing
    assert f'"hlc": {stamp.reading}' in SPEC


def test_the_reference_is_written_as_stated() -> None:
    assert reference_text(UNDONE) == _fence("reference")
    assert parse_reference_text(_fence("reference")) == UNDONE

"""What the number of writers costs: merging the feeds of 1, 10 and 100 devices that write as much together.

    python -m benchmarks.database_writers [--writers 1,10,100] [--ops 20000] [--rounds 3] [--json figures.json]

The devices are of one identity, and each has a feed; they take turns with transactions of ten operations. *Apart*: each
writes to documents of its own, and has not seen the others. *Together*: all write to the same documents, and have not
seen each other either, so that several values stand side by side. *Together, with a schema*: the same where the
collection has one, by which each operation is judged as of what its author had seen. *In turns*: in the same documents,
and each has seen all that was written before.

Each figure is of a process of its own: processor time for an operation, the median of the rounds, and the peak of the
resident set. It is held against that of one writer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks._measure import Figures, in_child, option_parser, write_figures
from benchmarks.database import START_MS, Place, new_place, operations
from benchmarks.scale import numbers, peak_mib
from ledger.entry import encode_entry
from ledger.feed import FeedWriter, create_feed
from ledger.merkle import leaf_node
from ledger.values import Reference
from sync.clock import reading_at
from sync.storage.projection import feed_name
from sync.transaction import DocumentId, Op, Stamp, Transaction, transaction_entry

SCRIPT: Final = "benchmarks.database_writers"
WITH_A_SCHEMA: Final = "together, with a schema"
KINDS: Final = ("apart", "together", WITH_A_SCHEMA, "in turns")
RULES: Final = {"type": "object", "properties": {"f0": {"type": "text"}}}


@dataclass(frozen=True, slots=True)
class Row:
    """Microseconds of processor time for an operation, and MiB; ``growth`` is against one writer."""

    kind: str
    writers: int
    operation_us: float
    growth: float
    peak: float


def main() -> None:
    parser = option_parser(__doc__, rounds=3)
    parser.add_argument("--writers", type=numbers, default="1,10,100", help="ascending")
    parser.add_argument("--ops", type=int, default=20_000, help="operations of all writers (default: 20,000)")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, place, writers, ops = options.child
        print(json.dumps(merge(kind, place, int(writers), int(ops))))
        return
    rows: list[Row] = []
    for kind in KINDS:
        first: float | None = None
        for writers in options.writers:
            figures = [in_new_place(kind, writers, options.ops, options.directory) for _ in range(options.rounds)]
            operation = statistics.median(one["operation"] for one in figures)
            first = first or operation
            rows.append(Row(kind, writers, operation, operation / first, max(one["peak"] for one in figures)))
    show(options.ops, rows)
    if options.json is not None:
        write_figures("cost against writers", "one writer", rows, options.json)


def in_new_place(kind: str, writers: int, ops: int, directory: Path | None) -> Figures:
    with tempfile.TemporaryDirectory(dir=directory) as name:
        return in_child(SCRIPT, kind, Path(name) / "writers.db", writers, ops)


def show(ops: int, rows: Sequence[Row]) -> None:
    print(f"merge of {ops:,} operations by their writers, SQLite\nfloor: one writer\n")
    print(f"{'':>24}  {'writers':>7}  {'an operation, us':>16}  {'growth':>7}  {'peak MiB':>8}")
    for row in rows:
        print(f"{row.kind:>24}  {row.writers:>7}  {row.operation_us:>16.1f}  x{row.growth:>6.2f}  {row.peak:>8.1f}")
    print()


# --- in a process of its own ---


def merge(kind: str, location: str, writers: int, ops: int) -> Figures:
    """Let a database take in what its devices have written."""
    place = new_place(location, writers)
    if kind == WITH_A_SCHEMA:
        place.database.set_schema("accounts", RULES)
    authors = Authors(place)
    transactions = operations(ops, ops // 100, at_random=True)
    for number, one in enumerate(transactions):
        who = number % writers
        authors.write(who, apart(who, one) if kind == "apart" else one, has_seen_all=kind == "in turns")
    authors.append()
    begun = time.process_time_ns()
    assert place.database.take_new() == len(transactions)
    taken = (time.process_time_ns() - begun) / 1000
    place.close()
    return {"operation": taken / ops, "peak": peak_mib()}


def apart(who: int, ops: Iterable[Op]) -> list[Op]:
    """The same in documents that nobody else writes to."""
    return [op._replace(document=DocumentId(op.document.collection, f"{who}-{op.document.key}")) for op in ops]


class Entry(NamedTuple):
    """What one that follows has to know of it."""

    reference: Reference
    lamport: int


class Authors:
    """The devices of a place, each with a feed. All have seen what the first one has written so far."""

    def __init__(self, place: Place) -> None:
        self._place = place
        uid = place.database.uid
        others = [create_feed(place.store, one, place.identity, feed_name(uid)) for one in place.devices[1:]]
        self._feeds = [place.feed, *others]
        with place.store.read() as tx:
            state = tx.feed(place.feed)
            assert state is not None
            index = state.length - 1
            reference = Reference(place.feed, index, leaf_node(index, tx.block(place.feed, index)).hash)
        self._begun = self._newest = Entry(reference, index)
        self._last: dict[int, Entry] = {0: self._begun}
        self._blocks: list[list[bytes]] = [[] for _ in place.devices]
        self._times = count(START_MS)

    def write(self, who: int, ops: Iterable[Op], *, has_seen_all: bool) -> None:
        """Make an entry whose author has seen what was there at the beginning and its own, or all that was written."""
        own = self._last.get(who)
        seen = self._newest if has_seen_all else self._begun
        known = [one for one in (own, seen) if one is not None]
        lamport = 1 + max(one.lamport for one in known)
        index = 0 if own is None else own.reference.index + 1
        feed = self._feeds[who]
        is_news = own is None or (has_seen_all and seen.reference.feed != feed)
        stamp = Stamp(
            self._place.database.uid,
            None if own is None else own.reference,
            (seen.reference,) if is_news else (),
            lamport,
            reading_at(next(self._times)),
        )
        block = encode_entry(transaction_entry(Transaction(stamp, tuple(ops))))
        entry = Entry(Reference(feed, index, leaf_node(index, block).hash), lamport)
        self._last[who] = self._newest = entry
        self._blocks[who].append(block)

    def append(self) -> None:
        """Let all of it be in the feeds."""
        for feed, device, blocks in zip(self._feeds, self._place.devices, self._blocks, strict=True):
            FeedWriter(self._place.store, feed, device).append(blocks)


if __name__ == "__main__":
    main()

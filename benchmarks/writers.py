"""Many threads that each append one 200-byte entry at a time and wait for it to be durable.

    python -m benchmarks.writers [--engine sqlite|postgresql|both] [--writers 1,4,16,64] [--seconds 0.5] [--rounds 3]
                                 [--json figures.json]

Three ways, each on a store of its own: the shared writer (``ledger.writer``), the same with a condition on every entry
that reads the store, and a lock for each append (``ledger.feed.FeedWriter``). The floor is a single thread of
straight-line code that appends as many entries at a time as there are writers, under one signature: nobody waits in it,
nobody is woken, and nothing is checked. A round runs the floor and one of the ways, ``--seconds`` each; so 64 writers
for a minute are ``--writers 64 --seconds 60 --rounds 1``.

At the end every entry that was acknowledged is looked for where it was said to be, and every feed is audited.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks._engines import Engine, add_engine_option, device_of_new_identity, engines
from benchmarks._floor import Floor
from benchmarks._measure import option_parser, write_figures
from benchmarks.append import ENTRY_BYTES
from identity.errors import ConflictError
from ledger.audit import audit_feed
from ledger.feed import FeedWriter, create_feed
from ledger.storage.leases import keeper_for
from ledger.storage.location import PostgresLocation, parse_location
from ledger.storage.postgres import open_postgres
from ledger.storage.sql import SqlStore
from ledger.storage.sqlite import open_sqlite
from ledger.store import FeedKey
from ledger.turn import Turn
from ledger.writer import StoreWriter

FLOOR: Final = "one thread, as many entries a commit as there are writers: BLAKE2b tree, PyNaCl, sqlite3 or psycopg"
WAYS: Final = ("shared", "shared, conditions", "a lock each")
PATIENCE_MS: Final = 60_000

Append = Callable[[int, int], int]
"""(writer, how many it has appended before): appends that entry, returns the index that was acknowledged."""


@dataclass(frozen=True, slots=True)
class Row:
    """Entries per second, medians over the rounds; latencies of single appends in milliseconds, over all rounds."""

    subject: str
    writers: int
    ours: float
    floor: float
    ratio: float
    rounds: int
    p50_ms: float
    p99_ms: float
    entries: int
    entries_a_signature: float


@dataclass(slots=True)
class Contender:
    """One way of writing, on a store of its own, with what it was told."""

    name: str
    store: SqlStore
    key: FeedKey
    append: Append
    acknowledged: list[list[int]]
    """For each writer the indices that its entries got, in order."""
    latencies: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def run(self, seconds: float) -> None:
        """All writers at once, for so long."""
        threads = [threading.Thread(target=self._write, args=(number, seconds)) for number in range(self.writers)]
        begun, before = time.perf_counter(), self.entries
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.rates.append((self.entries - before) / (time.perf_counter() - begun))

    def _write(self, number: int, seconds: float) -> None:
        mine, latencies = self.acknowledged[number], []
        before, end = time.perf_counter(), time.perf_counter() + seconds
        while before < end:
            mine.append(self.append(number, len(mine)))
            now = time.perf_counter()
            latencies.append(now - before)
            before = now
        self.latencies += latencies

    @property
    def writers(self) -> int:
        """How many threads write."""
        return len(self.acknowledged)

    @property
    def entries(self) -> int:
        """How many were acknowledged."""
        return sum(map(len, self.acknowledged))

    def check(self) -> int:
        """Every acknowledged entry is there, once, in its place, and the feed is sound. Returns the number of heads."""
        expected = {
            at: entry(n, count) for n, indices in enumerate(self.acknowledged) for count, at in enumerate(indices)
        }
        assert len(expected) == self.entries, "one index was acknowledged twice"
        with self.store.read() as tx:
            state = tx.feed(self.key)
            assert state is not None
            for index, block in enumerate(tx.blocks(self.key, 0, state.length)):
                assert expected.pop(index, None) == block, f"block {index} is not the one that was acknowledged"
        assert not expected, f"{len(expected)} acknowledged entries are missing"
        result = audit_feed(self.store, self.key)
        assert result.first_bad is None
        return result.heads


def entry(writer: int, number: int) -> bytes:
    """200 bytes that no other entry has."""
    return b"%d:%d;" % (writer, number) + bytes(ENTRY_BYTES - len(b"%d:%d;" % (writer, number)))


@contextmanager
def new_store(engine: Engine) -> Iterator[SqlStore]:
    """A new store of ours, in which a writer waits for its turn as long as it takes."""
    place = parse_location(engine.location())
    opened = (
        open_postgres(place, create=True, busy_timeout_ms=PATIENCE_MS)
        if isinstance(place, PostgresLocation)
        else open_sqlite(place, create=True, busy_timeout_ms=PATIENCE_MS)
    )
    with closing(opened) as store:
        yield store


@contextmanager
def contender(engine: Engine, way: str, writers: int) -> Iterator[Contender]:
    """A way of writing, ready to be run."""
    acknowledged: list[list[int]] = [[] for _ in range(writers)]

    def still_there(turn: Turn, writer: int, number: int) -> None:
        if number and turn.block(key, acknowledged[writer][-1]) != entry(writer, number - 1):
            raise ConflictError("this writer's last entry is not where it was")

    def share(writer: int, number: int) -> int:
        return shared.append(key, [entry(writer, number)]).start

    def share_on_condition(writer: int, number: int) -> int:
        result = shared.append(key, [entry(writer, number)], condition=lambda turn: still_there(turn, writer, number))
        return result.start

    def lock(writer: int, number: int) -> int:
        return alone.append([entry(writer, number)]).start

    with new_store(engine) as store:
        device, identity = device_of_new_identity(store)
        key = create_feed(store, device, identity, "benchmark")
        keeper = keeper_for(store)
        alone = FeedWriter(store, key, device, keeper)
        with StoreWriter(store, [device], keeper=keeper) as shared:
            append = dict(zip(WAYS, (share, share_on_condition, lock), strict=True))[way]
            yield Contender(way, store, key, append, acknowledged)


def run_floor(floor: Floor, writers: int, seconds: float) -> float:
    """Entries per second of the straight line."""
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        floor.append([entry(number, done) for number in range(writers)])
        done += writers
    return done / (time.perf_counter() - begun)


def measure(engine: Engine, way: str, writers: int, rounds: int, seconds: float) -> Row:
    """One way with so many writers, in turns with the floor."""
    floors = []
    with closing(engine.floor()) as floor, contender(engine, way, writers) as runner:
        for _ in range(rounds):
            floors.append(run_floor(floor, writers, seconds))
            runner.run(seconds)
        latencies = sorted(runner.latencies)
        heads = runner.check()
        return Row(
            f"{engine.name}: {way}, {writers} writer{'s' * (writers > 1)}",
            writers,
            statistics.median(runner.rates),
            statistics.median(floors),
            statistics.median(ours / least for ours, least in zip(runner.rates, floors, strict=True)),
            rounds,
            1e3 * latencies[len(latencies) // 2],
            1e3 * latencies[len(latencies) * 99 // 100],
            runner.entries,
            runner.entries / heads,
        )


def show(rows: list[Row]) -> None:
    """Print the table."""
    print(f"{ENTRY_BYTES}-byte entries, one an append, every one durable when it is acknowledged\nfloor: {FLOOR}\n")
    width = max(len(row.subject) for row in rows)
    print(
        f"{'':{width}}  {'ours/s':>8}  {'floor/s':>8}  ratio  {'p50 ms':>7}  {'p99 ms':>7}  a signature  acknowledged"
    )
    for row in rows:
        print(
            f"{row.subject:{width}}  {row.ours:>8,.0f}  {row.floor:>8,.0f}  {row.ratio:>5.2f}  {row.p50_ms:>7.2f}"
            f"  {row.p99_ms:>7.2f}  {row.entries_a_signature:>11.1f}  {row.entries:>12,}"
        )
    print("\nEvery acknowledged entry was found in its place, and every feed passed its audit.")


def main() -> None:
    parser = option_parser(__doc__, rounds=3)
    parser.add_argument("--writers", default="1,4,16,64", help="how many threads, one table row for each number")
    parser.add_argument("--seconds", type=float, default=0.5, help="how long each way and the floor run in a round")
    add_engine_option(parser)
    options: argparse.Namespace = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name, engines(options.engine, Path(name)) as chosen:
        rows = [
            measure(engine, way, writers, options.rounds, options.seconds)
            for engine in chosen
            for writers in map(int, options.writers.split(","))
            for way in WAYS
        ]
    show(rows)
    if options.json is not None:
        write_figures("writers", FLOOR, rows, options.json)


if __name__ == "__main__":
    main()

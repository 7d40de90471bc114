"""The database: merge, commit, reads, exact reads of the past, the change feed, and the kernel alone.

    python -m benchmarks.database [--rounds 5] [--ops 100000] [--json figures.json]

The floor is ``benchmarks._database_floor``: from the same blocks, the same rows in the same layout, and no judgement.
*Merge* takes in a feed that is in the store already: 10 operations a transaction, each overwriting what its author last
saw in one of 10 fields, in documents one after the other or at random. *Commit* is durable and signed, one writer or 16
that share a signature. *Change feed* is read from its beginning to its end, in events: what a transaction made of a
document, as it was before and after. *Kernel* is what decides which operation replaces which, against plain
dictionaries.
"""

from __future__ import annotations

import random
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, Final

from benchmarks._database_floor import DatabaseFloor
from benchmarks._engines import devices_of_new_identity
from benchmarks._measure import Comparison, Work, compare, option_parser, report
from identity.history import parse_signed_event
from identity.keys import Ed25519Signer
from ledger.entry import encode_entry
from ledger.feed import FeedWriter, create_feed
from ledger.merkle import leaf_node
from ledger.storage.engine import open_store
from ledger.storage.sql import SqlStore
from ledger.store import FeedKey
from ledger.values import Reference
from ledger.writer import StoreWriter
from sync.cells import LiveDot, replaced
from sync.changefeed import START
from sync.changes import Changes
from sync.clock import reading_at
from sync.database import Database, found, register_database
from sync.storage.projection import feed_name
from sync.transaction import (
    DocumentId,
    Founding,
    Op,
    Stamp,
    Transaction,
    Verb,
    database_id,
    path_text,
    transaction_entry,
)

OPS_A_TXN: Final = 10
FIELDS: Final = 10
CHANGES_A_PAGE: Final = 1000
START_MS: Final = 1_790_000_000_000


@dataclass
class Place:
    """A store with a new database, and the devices of its founder, of which the first has a feed and writes."""

    store: SqlStore
    identity: bytes
    devices: list[Ed25519Signer]
    feed: FeedKey
    database: Database
    writer: StoreWriter

    def close(self) -> None:
        """Close it."""
        self.writer.close()
        self.store.close()


def new_place(location: str | Path, devices: int = 1) -> Place:
    """A database that was founded, in a new store."""
    store = open_store(location, create=True)
    signers, identity = devices_of_new_identity(store, devices)
    founding = Founding("benchmark", identity, bytes(16))
    uid = database_id(founding)
    register_database(store, uid, founding.name, START_MS)
    feed = create_feed(store, signers[0], identity, feed_name(uid))
    writer = StoreWriter(store, signers[:1])
    database = Database(store, uid, lambda: START_MS, writer=writer, feed=feed)
    with store.read() as tx:
        events = [parse_signed_event(event.signed_event) for event in tx.identity_events(identity)]
    found(database, founding, events)
    return Place(store, identity, signers, feed, database, writer)


def operations(ops: int, documents: int, *, at_random: bool) -> list[list[Op]]:
    """The operations of each transaction."""
    chosen = random.Random(2)
    made = []
    for number in range(ops):
        cell = chosen.randrange(documents * FIELDS) if at_random else number % (documents * FIELDS)
        document = DocumentId("accounts", str(cell // FIELDS))
        made.append(Op(Verb.SET, document, (f"f{cell % FIELDS}",), str(number)))
    return [made[start : start + OPS_A_TXN] for start in range(0, ops, OPS_A_TXN)]


def blocks_of(place: Place, wanted: Iterable[list[Op]]) -> Iterator[bytes]:
    """Entries that follow the newest one, ready to be appended: signing is not what a merge is measured by."""
    with place.store.read() as tx:
        first = tx.feed(place.feed)
        assert first is not None
        back = Reference(
            place.feed, first.length - 1, leaf_node(first.length - 1, tx.block(place.feed, first.length - 1)).hash
        )
    for number, ops in enumerate(wanted, first.length):
        stamp = Stamp(place.database.uid, back, (), number, reading_at(START_MS + number))
        block = encode_entry(transaction_entry(Transaction(stamp, tuple(ops))))
        back = Reference(place.feed, number, leaf_node(number, block).hash)
        yield block


def append_all(place: Place, blocks: Iterable[bytes]) -> None:
    """Let them be in the feed, and not in the database yet."""
    writer, left = FeedWriter(place.store, place.feed, place.devices[0]), iter(blocks)
    while batch := list(islice(left, 1000)):
        writer.append(batch)


def ready_to_merge(file: Path, wanted: Iterable[list[Op]]) -> tuple[Place, list[bytes]]:
    """A new database with a feed that it has not taken in, and the blocks in that."""
    place = new_place(file)
    blocks = list(blocks_of(place, wanted))
    append_all(place, blocks)
    return place, blocks


def merge(directory: Path, ops: int, rounds: int, *, at_random: bool) -> Comparison:
    """Taking in a feed of ``ops`` operations."""
    names = count()
    kind = "random" if at_random else "order"
    wanted = operations(ops, max(ops // 100, 1), at_random=at_random)

    ready = [ready_to_merge(directory / f"merge-{kind}-{next(names)}.db", wanted) for _ in range(rounds + 1)]
    floors = [(blocks, DatabaseFloor(directory / f"floor-{kind}-{next(names)}.db")) for _, blocks in ready]

    def ours() -> int:
        place, blocks = ready.pop()
        taken = place.database.take_new()
        assert taken == len(blocks)
        place.close()
        return ops

    def straight() -> int:
        blocks, floor = floors.pop()
        done = floor.merge(blocks, 1, 1)
        assert done == ops
        floor.close()
        return ops

    return compare(f"merge, {'at random' if at_random else 'in order'}", ours, straight, rounds=rounds)


def commit(directory: Path, commits: int, rounds: int, writers: int) -> Comparison:
    """Durable commits of two fields."""
    place = new_place(directory / f"commit-{writers}.db")
    floor = DatabaseFloor(directory / f"commit-floor-{writers}.db")
    numbers = count()

    def write(how_many: int) -> None:
        for _ in range(how_many):
            number = next(numbers)
            changes = Changes()
            changes.patch("accounts", str(number % 1000), {"owner": str(number), "limit": number})
            place.database.commit(changes)

    def ours() -> int:
        threads = [threading.Thread(target=write, args=(commits // writers,)) for _ in range(writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return commits // writers * writers

    def block(number: int) -> bytes:
        document = DocumentId("accounts", str(number % 1000))
        ops = (Op(Verb.SET, document, ("owner",), str(number)), Op(Verb.SET, document, ("limit",), number))
        back = Reference(place.feed, number, bytes(32))
        stamp = Stamp(place.database.uid, back, (), number, reading_at(START_MS + number))
        return encode_entry(transaction_entry(Transaction(stamp, ops)))

    made = count()

    def straight() -> int:
        for _ in range(commits // writers):
            numbers = [next(made) for _ in range(writers)]
            floor.commit([block(number) for number in numbers], numbers[0])
        return commits // writers * writers

    row = compare(f"commit, {writers} writer{'s' if writers > 1 else ''}", ours, straight, rounds=rounds)
    place.close()
    floor.close()
    return row


def reads(directory: Path, rounds: int) -> list[Comparison]:
    """Documents as they are and as they were, from a database of 1,000 with 10 fields and 10 versions of each."""
    ops, floor = 100_000, DatabaseFloor(directory / "reads-floor.db")
    place, blocks = ready_to_merge(directory / "reads.db", operations(ops, 1000, at_random=False))
    place.database.take_new()
    floor.merge(blocks, 1, 1)
    keys = [str(random.Random(3).randrange(1000)) for _ in range(1000)]
    with place.database.read() as reader:
        half = reader.newest_place() // 2

        def ours() -> int:
            for key in keys:
                found = reader.document(DocumentId("accounts", key))
                assert found is not None
                assert found.stored
            return len(keys)

        def ours_at() -> int:
            cut = reader.known(half)
            for key in keys:
                found = reader.document_at(DocumentId("accounts", key), cut)
                assert found is not None
                assert found.stored
            return len(keys)

        def ours_alone() -> int:
            for key in keys:
                found = place.database.get("accounts", key)
                assert found is not None
                assert found.stored
            return len(keys)

        rows = [
            compare(
                "get, in one snapshot", ours, repeated(keys, lambda key: floor.get("accounts", key)), rounds=rounds
            ),
            compare(
                "get, each in its own",
                ours_alone,
                repeated(keys, lambda key: floor.get("accounts", key)),
                rounds=rounds,
            ),
            compare(
                "as of, exact", ours_at, repeated(keys, lambda key: floor.get_at("accounts", key, half)), rounds=rounds
            ),
            changes(place.database, floor, ops // OPS_A_TXN, rounds),
        ]
    place.close()
    floor.close()
    return rows


def repeated(keys: Iterable[str], read: Callable[[str], Any]) -> Work:
    """Read each of the keys."""

    def work() -> int:
        return sum(1 for key in keys if read(key))

    return work


def changes(database: Database, floor: DatabaseFloor, events: int, rounds: int) -> Comparison:
    """Every event there is, ours read in pages."""

    def ours() -> int:
        cursor, seen, more = START, 0, True
        while more:
            page = database.changes(cursor, limit=CHANGES_A_PAGE)
            cursor, more = page.cursor, page.more
            seen += len(page.events)
        assert seen == events
        return events

    def straight() -> int:
        seen = sum(1 for _ in floor.changes())
        assert seen == events
        return events

    return compare("change feed, from its beginning", ours, straight, rounds=rounds)


def kernel(ops: int, rounds: int) -> Comparison:
    """Which operation replaces which, in memory."""
    dots = [
        (op.document, LiveDot(place, 1, place, 0, op.verb, path_text(op.path), str(place).encode()))
        for place, op in enumerate(one for ops in operations(ops, ops // 100, at_random=True) for one in ops)
    ]

    def ours() -> int:
        documents: dict[DocumentId, dict[str, list[LiveDot]]] = {}
        for name, dot in dots:
            live = documents.setdefault(name, {})
            for victim in replaced(dot, None, live, None):
                live[victim.path].remove(victim)
            live.setdefault(dot.path, []).append(dot)
        return ops

    def plain() -> int:
        cells: dict[tuple[DocumentId, str], dict[int, bytes]] = {}
        for name, dot in dots:
            cell = cells.setdefault((name, dot.path), {})
            cell.clear()
            cell[dot.place] = dot.val
        return ops

    return compare("kernel, in memory", ours, plain, rounds=rounds)


def main() -> None:
    parser = option_parser(__doc__, rounds=5)
    parser.add_argument("--ops", type=int, default=100_000, help="operations of a merge (default: 100,000)")
    parser.add_argument("--commits", type=int, default=480, help="commits of a round (default: 480)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        directory = Path(name)
        rows = [
            merge(directory, options.ops, options.rounds, at_random=False),
            merge(directory, options.ops, options.rounds, at_random=True),
            commit(directory, options.commits, options.rounds, 1),
            commit(directory, options.commits, options.rounds, 16),
            *reads(directory, options.rounds),
            kernel(options.ops, options.rounds),
        ]
    floor = "the same rows in the same layout, from the same blocks, without a judgement"
    report("database", floor, rows, options.json)


if __name__ == "__main__":
    main()

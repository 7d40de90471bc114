"""What the size of a database costs: its documents, and the changes of one document.

    python -m benchmarks.database_scale [--engine sqlite|postgresql|both] [--documents 1000,100000]
                                        [--changes 100,10000] [--json figures.json]

Each figure is of a process of its own, and held against that of the smallest size: it may grow with the logarithm of
the size and no faster. They are in processor time on SQLite, and by the clock on PostgreSQL, where the server does the
work. Peaks are of the resident set; what the database server takes is not in them.

*Documents* have three fields, one of them indexed, and are merged from a feed, ten to a transaction; *merge* is what
that took for each operation. Then documents from all over the collection are committed to, read as they are and as of
half of the feed, found by the index, a page of 100 in its order, and told by the change feed, the last 100 events.
*Open* goes from the file to the first document read, *first write* from the file to the first commit.

*Changes* are of one document with ten fields, one a transaction. It is read as it is, and as of the middle of its
changes; a page of its history is the first 100 entries.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import count, islice
from pathlib import Path
from typing import Final

from benchmarks._engines import DEVICE_SEED, Engine, add_engine_option, engines
from benchmarks._measure import Figures, in_child, option_parser, surroundings
from benchmarks.database import FIELDS, START_MS, append_all, blocks_of, new_place
from benchmarks.scale import median_us, numbers, only_feed, peak_mib
from identity.encoding import Value
from identity.keys import Ed25519Signer
from ledger.storage.engine import open_store
from ledger.writer import StoreWriter
from sync.changefeed import Position
from sync.changes import Changes
from sync.database import Commit, Database, list_databases
from sync.transaction import DocumentId, Op, Verb

SCRIPT: Final = "benchmarks.database_scale"
BY_THE_CLOCK: Final = ", by the clock"
ACCOUNTS: Final = "accounts"
RULES: Final = {
    "type": "object",
    "properties": {
        "owner": {"type": "text"},
        "balance": {"type": "integer", "indexed": True},
        "status": {"type": "text"},
    },
}
OPS_A_DOCUMENT: Final = 3
DOCUMENTS_A_TXN: Final = 10
PAGE: Final = 100
OPENINGS: Final = 20
STEP: Final = 7919
"""Between the balances of one document and the next: a prime, so they are in another order than the keys."""
NUMBERS: Final = count()

Clock = Callable[[], int]


def main() -> None:
    parser = option_parser(__doc__)
    add_engine_option(parser)
    parser.add_argument("--documents", type=numbers, default="1000,100000", help="in the database, ascending")
    parser.add_argument("--changes", type=numbers, default="100,10000", help="of one document, ascending")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        what, place, size = options.child
        clock = time.perf_counter_ns if what.endswith(BY_THE_CLOCK) else time.process_time_ns
        print(json.dumps(WORK[what.removesuffix(BY_THE_CLOCK)](place, int(size), clock)))
        return
    figures: dict[str, dict[str, list[Figures]]] = {}
    with tempfile.TemporaryDirectory(dir=options.directory) as name, engines(options.engine, Path(name)) as chosen:
        for engine in chosen:
            figures[engine.name] = {
                "documents": [measured("documents", engine, size) for size in options.documents],
                "changes": [measured("changes", engine, size) for size in options.changes],
            }
            for subject, rows in figures[engine.name].items():
                show(f"cost against {subject}, {engine.name}", subject, rows)
    if options.json is not None:
        content = {"title": "cost against the size of a database", **surroundings(), "engines": figures}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


def measured(what: str, engine: Engine, size: int) -> Figures:
    """Fill a new store in one process, and find the costs in another."""
    place, by = engine.location(), "" if engine.server is None else BY_THE_CLOCK
    built = in_child(SCRIPT, f"{what}: build{by}", place, size)
    costs = in_child(SCRIPT, f"{what}: cost{by}", place, size)
    return {what: size, **built, **costs}


def show(title: str, subject: str, rows: Sequence[Figures]) -> None:
    """A line for each figure, a column for each size."""
    print(f"{title}; microseconds, peaks in MiB\nfloor: the smallest size\n")
    print(f"{subject:>16}" + "".join(f"  {row[subject]:>20,.0f}" for row in rows))
    for what in [what for what in rows[0] if what != subject]:
        cells = "".join(f"  {row[what]:>12,.1f} x{row[what] / rows[0][what]:>6.2f}" for row in rows)
        print(f"{what:>16}{cells}")
    print()


# --- in a process of its own ---


def key_of(number: int) -> str:
    return f"{number:07}"


def documents_in(size: int) -> Iterator[list[Op]]:
    """The transactions that write as many documents, each document once."""
    for first in range(0, size, DOCUMENTS_A_TXN):
        ops = []
        for number in range(first, min(first + DOCUMENTS_A_TXN, size)):
            document = DocumentId(ACCOUNTS, key_of(number))
            fields: dict[str, Value] = {"owner": f"owner {number}", "balance": number * STEP % size, "status": "open"}
            ops += [Op(Verb.SET, document, (name,), value) for name, value in fields.items()]
        yield ops


def changes_of_one(size: int) -> Iterator[list[Op]]:
    """The transactions that change one document as often."""
    for number in range(size):
        yield [Op(Verb.SET, DocumentId(ACCOUNTS, key_of(0)), (f"f{number % FIELDS}",), str(number))]


@contextmanager
def reopened(location: str) -> Iterator[Database]:
    """The database of a store that is there, to be written to."""
    with closing(open_store(location)) as store, StoreWriter(store, [Ed25519Signer(DEVICE_SEED)]) as writer:
        (info,) = list_databases(store)
        yield Database(store, info.uid, lambda: START_MS, writer=writer, feed=only_feed(store))


def build(location: str, wanted: Iterable[list[Op]], ops: int, clock: Clock, rules: object = None) -> Figures:
    """A new database that has merged them from its feed."""
    place = new_place(location)
    if rules is not None:
        place.database.set_schema(ACCOUNTS, rules)
    append_all(place, blocks_of(place, wanted))
    begun = clock()
    place.database.take_new()
    taken = (clock() - begun) / 1000
    place.close()
    return {"merge": taken / ops, "merge, peak": peak_mib()}


def build_documents(location: str, size: int, clock: Clock) -> Figures:
    return build(location, documents_in(size), size * OPS_A_DOCUMENT, clock, RULES)


def build_changes(location: str, size: int, clock: Clock) -> Figures:
    return build(location, changes_of_one(size), size, clock)


def cost_of_documents(location: str, size: int, clock: Clock) -> Figures:
    chosen = random.Random(4)

    def open_and_read() -> None:
        with closing(open_store(location)) as store:
            (info,) = list_databases(store)
            assert Database(store, info.uid, lambda: START_MS).get(ACCOUNTS, any_key(size))

    def open_and_write() -> None:
        with reopened(location) as database:
            patch(database, any_key(size))

    def any_key(below: int) -> str:
        return key_of(chosen.randrange(below))

    def read(database: Database) -> None:
        assert database.get(ACCOUNTS, any_key(size))

    def read_as_of(database: Database, place: int) -> None:
        assert database.get(ACCOUNTS, any_key(size // 2 - DOCUMENTS_A_TXN), database.as_of(place=place))

    def find(database: Database) -> None:
        page = database.find(ACCOUNTS, f"balance >= {chosen.randrange(size - PAGE)}", order="balance", limit=PAGE)
        assert len(page.documents) == PAGE

    def tail(database: Database, cursor: str) -> None:
        assert len(database.changes(cursor, limit=PAGE).events) == PAGE

    costs = {
        "open": median_us(open_and_read, clock, OPENINGS),
        "first write": median_us(open_and_write, clock, OPENINGS),
    }
    with reopened(location) as database:
        with database.read() as reader:
            half = reader.newest_place() // 2
        commits: list[Commit] = []
        costs["commit"] = median_us(lambda: commits.append(patch(database, any_key(size))), clock)
        costs["get"] = median_us(lambda: read(database), clock)
        costs["as of"] = median_us(lambda: read_as_of(database, half), clock)
        costs["query page"] = median_us(lambda: find(database), clock)
        cursor = behind(commits[-PAGE - 1])
        costs["changes page"] = median_us(lambda: tail(database, cursor), clock, OPENINGS)
    return {**costs, "peak": peak_mib()}


def cost_of_changes(location: str, _size: int, clock: Clock) -> Figures:
    key = key_of(0)

    def read(database: Database, place: int | None = None) -> None:
        assert database.get(ACCOUNTS, key, None if place is None else database.as_of(place=place))

    def history(database: Database) -> None:
        assert len(list(islice(database.history(ACCOUNTS, key), PAGE))) == PAGE

    with reopened(location) as database:
        with database.read() as reader:
            middle = reader.newest_place() // 2
        return {
            "get": median_us(lambda: read(database), clock),
            "as of the middle": median_us(lambda: read(database, middle), clock),
            "history page": median_us(lambda: history(database), clock, OPENINGS),
            "commit": median_us(lambda: patch(database, key), clock),
            "peak": peak_mib(),
        }


def patch(database: Database, key: str) -> Commit:
    """Change two fields. An owner is given only once: what is so already is not written."""
    changes = Changes()
    changes.patch(ACCOUNTS, key, {"owner": f"another {next(NUMBERS)}", "status": "closed"})
    return database.commit(changes)


def behind(commit: Commit) -> str:
    """The cursor of the change feed behind a commit."""
    assert commit.reference is not None
    return Position(commit.place, commit.reference.leaf_hash).text()


WORK: Final[dict[str, Callable[[str, int, Clock], Figures]]] = {
    "documents: build": build_documents,
    "documents: cost": cost_of_documents,
    "changes: build": build_changes,
    "changes: cost": cost_of_changes,
}

if __name__ == "__main__":
    main()

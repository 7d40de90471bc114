"""Sync over HTTP on loopback: the Berka database to a fresh device, against a bundle of the same; and ten changes.

    python -m benchmarks.sync_http [--rounds 3] [--rows 5000] [--json figures.json]

A home serves a database in which each row of the bank's tables is a document, and an entry of its own; all tables are
read when ``shared/data`` lies beside the repository, else the sample of transactions in ``examples``. *Full* lets an
empty store join it (``api.peer``), *local* lets another one join it from a bundle in a file: both verify every
signature and hash, and make every document. *Incremental* is ten changes behind that, fetched by a peer that was in
step.

What an exchange needs beyond its payload is all bytes of frames, both ways, without those of the entries themselves.
"""

from __future__ import annotations

import csv
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from threading import Thread
from typing import Final

from api.access.signing import RequestSigner
from api.databases import open_databases
from api.home import Home
from api.peer import Outcome, Peer
from benchmarks._load import apply_load, prepare
from benchmarks._measure import option_parser, write_figures
from benchmarks._served import DATABASE, PASSPHRASE, Server, device_of, new_home, served_home
from benchmarks.berka_import import ROOT, SHARED
from identity.keys import Ed25519Signer
from ledger.storage.engine import open_store
from sync.changes import Changes
from sync.database import Database, join, list_databases
from sync.replica import DatabaseReplica, NewReplica

TABLES: Final = ("district", "account", "client", "disp", "card", "loan", "order", "trans")
WRITERS: Final = 16
CHANGES: Final = 10


@dataclass(frozen=True, slots=True)
class Row:
    """What a way of taking in has come to, medians over the rounds."""

    subject: str
    entries: int
    entries_s: float
    """Entries a second."""
    own_us: float
    """Processor time for an entry, of the side that takes in."""
    server_us: float
    bytes_entry: float
    """Sent and received."""
    requests: int


@dataclass(frozen=True, slots=True)
class Taken:
    """One time of taking in."""

    entries: int
    seconds: float
    own_s: float
    server_s: float
    size: int
    requests: int


def main() -> None:
    parser = option_parser(__doc__, rounds=3)
    parser.add_argument("--rows", type=int, help="only so many rows of each table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        directory = Path(name)
        home = new_home(directory / "node")
        device = device_of(home)
        payload = fill(home, options.rows, directory / "bundle")
        with served_home(home) as server:
            place = Place(directory, server, device)
            pairs = [(place.full(number), place.local(number)) for number in range(options.rounds)]
            full, local = (row("full, over HTTP", [one for one, _ in pairs]), row("local", [one for _, one in pairs]))
            little = [place.incremental() for _ in range(options.rounds)]
    ratios = [(one.entries / one.seconds) / (other.entries / other.seconds) for one, other in pairs]
    show(full, local, payload / full.entries, statistics.median(ratios), little)
    if options.json is not None:
        write_figures("sync over HTTP", "a bundle of the same, in a file", [full, local, *little], options.json)


# --- what is exchanged ----------------------------------------------------------------------------------------------


def rows_of(most: int | None) -> Iterator[tuple[str, dict[str, object]]]:
    """A table's name and a row, of all tables that are here."""
    whole = SHARED / "data" / "berka"
    files = [whole / f"{table}.asc" for table in TABLES] if whole.exists() else []
    for file in files or [ROOT / "examples" / "berka-transactions.csv"]:
        with file.open(newline="", encoding="ascii") as stream:
            for found in islice(csv.DictReader(stream, delimiter=";"), most):
                yield file.stem, {name: value for name, value in found.items() if value}


def fill(home: Home, most: int | None, bundle: Path) -> int:
    """Found the database, an entry for each row, and write its bundle. Returns the bytes of the entries."""
    with open_databases(home.root, PASSPHRASE) as databases:
        database = databases.create(DATABASE)
        left = enumerate(rows_of(most))
        parts = [list(part) for part in iter(lambda: list(islice(left, 1000)), [])]
        writers = [Thread(target=_write, args=(database, parts[first::WRITERS])) for first in range(WRITERS)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        with bundle.open("wb") as out:
            database.export_bundle(out)
        return _size(database)


def _write(database: Database, parts: Sequence[Sequence[tuple[int, tuple[str, dict[str, object]]]]]) -> None:
    for number, (table, fields) in chain.from_iterable(parts):
        changes = Changes()
        changes.put(table, str(number), fields)
        database.commit(changes)


def _size(database: Database) -> int:
    """The bytes of all entries."""
    with database.holdings() as (tx, _, _):
        return sum(len(block) for state in tx.feeds() for block in tx.blocks(state.key, 0, state.length))


# --- exchanging -----------------------------------------------------------------------------------------------------


class Place:
    """A node that is served, and the stores that take its database in."""

    def __init__(self, directory: Path, server: Server, device: Ed25519Signer) -> None:
        self._directory = directory
        self._server = server
        self._sign = RequestSigner(device)
        self._written = 0

    def full(self, number: int) -> Taken:
        """Let a new store join the database that is served."""
        with closing(open_store(self._directory / f"full-{number}.db", create=True)) as store:
            peer = Peer(self._server.url, self._sign)
            return self._taken(lambda: peer.sync(DATABASE, NewReplica(store, _now_ms)))

    def local(self, number: int) -> Taken:
        """Let a new store join it from the bundle."""
        bundle = self._directory / "bundle"
        with (
            closing(open_store(self._directory / f"local-{number}.db", create=True)) as store,
            bundle.open("rb") as file,
        ):
            begun, own = time.perf_counter(), time.process_time()
            entries = join(store, file, _now_ms()).entries
            taken = time.perf_counter() - begun, time.process_time() - own
        return Taken(entries, *taken, 0.0, bundle.stat().st_size, 0)

    def incremental(self) -> Row:
        """Ten changes, fetched by a peer that has what came before."""
        with closing(open_store(self._directory / "full-0.db")) as store:
            (info,) = list_databases(store)
            database = Database(store, info.uid, _now_ms)
            peer = Peer(self._server.url, self._sign)
            replica = DatabaseReplica(database)
            peer.sync(DATABASE, replica)
            before = _size(database)
            self._change()
            taken = self._taken(lambda: peer.sync(DATABASE, replica))
            assert taken.entries == CHANGES
            beyond = taken.size - (_size(database) - before)
        return Row(
            f"incremental: {taken.seconds * 1000:.0f} ms, {beyond} bytes beyond the payload",
            taken.entries,
            taken.entries / taken.seconds,
            taken.own_s / taken.entries * 1e6,
            taken.server_s / taken.entries * 1e6,
            taken.size / taken.entries,
            taken.requests,
        )

    def _change(self) -> None:
        path = f"/v1/databases/{DATABASE}/collections/changed/documents"
        self._written += CHANGES
        bodies = [b'{"changed": %d}' % number for number in range(self._written, self._written + CHANGES)]
        wanted = [
            prepare(self._sign, self._server.url, "PUT", f"{path}/{self._written + at}", body, {"if-none-match": "*"})
            for at, body in enumerate(bodies)
        ]
        statuses = {found.status for found in apply_load(self._server.port, wanted, 1).answers.values()}
        if statuses != {201}:
            raise RuntimeError(f"the changes were answered with {statuses}")

    def _taken(self, exchange: Callable[[], Outcome]) -> Taken:
        server, begun, own = self._server.cpu_s(), time.perf_counter(), time.process_time()
        outcome = exchange()
        taken = time.perf_counter() - begun, time.process_time() - own
        cpu = self._server.cpu_s() - server
        return Taken(outcome.entries, *taken, cpu, outcome.sent + outcome.received, outcome.requests)


def row(subject: str, taken: Sequence[Taken]) -> Row:
    """Medians."""
    return Row(
        subject,
        taken[0].entries,
        statistics.median(one.entries / one.seconds for one in taken),
        statistics.median(one.own_s / one.entries for one in taken) * 1e6,
        statistics.median(one.server_s / one.entries for one in taken) * 1e6,
        taken[0].size / taken[0].entries,
        taken[0].requests,
    )


def show(full: Row, local: Row, raw: float, ratio: float, little: Sequence[Row]) -> None:
    print(f"sync over HTTP of {full.entries:,} entries, {raw:.0f} bytes each as they are in the feed")
    print(f"floor: a bundle of the same, in a file; full is {ratio:.2f} of it, and of both processors' time ", end="")
    print(f"{local.own_us / (full.own_us + full.server_us):.2f}\n")
    width = max(len(one.subject) for one in (full, local, *little))
    print(f"{'':{width}}  {'entries/s':>9}  {'own us':>7}  {'server us':>9}  {'bytes/entry':>11}  {'requests':>8}")
    for one in (full, local, *little):
        print(
            f"{one.subject:{width}}  {one.entries_s:>9,.0f}  {one.own_us:>7.0f}  {one.server_us:>9.0f}"
            f"  {one.bytes_entry:>11.0f}  {one.requests:>8}"
        )
    print()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


if __name__ == "__main__":
    main()

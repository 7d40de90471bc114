"""The HTTP interface over loopback: single writes, reads, bulk, and the change feed to a hundred listeners.

    python -m benchmarks.http [--rounds 5] [--requests 320] [--json figures.json]

Ours is ``holdfast serve`` over a home; the floor is bare FastAPI routes with a bare SQL insert into one table
(``benchmarks._http_floor``), durable too, under the same server with the same bounds. Both get the same requests, with
the headers that sign them, which the floor reads past. They are signed before the clock starts, and sent from one
process (``_load``).

*Write* puts a document of three fields on condition that it is in the version that was last read (If-Match), and is
answered when that is on the disk. *Bulk* posts documents as lines, a hundred to a transaction. *Listeners* are event
streams: a document is written, and the next one when all of them have been told.

The cpu ratio is of the processor time of the two servers, which other work on the machine disturbs least. p50 and p99
are of single requests, in milliseconds: of listeners, from the moment the write is sent until each has its event.
"""

from __future__ import annotations

import json
import selectors
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

from api.access.signing import RequestSigner
from api.databases import open_databases
from api.home import Home
from benchmarks._load import Answered, apply_load, prepare, streaming
from benchmarks._measure import option_parser, write_figures
from benchmarks._served import DATABASE, PASSPHRASE, Server, device_of, new_home, served_floor, served_home
from sync.changes import Changes

DOCUMENTS: Final = 2000
COLLECTION: Final = f"/v1/databases/{DATABASE}/collections/accounts"
BULK: Final = 1000
LISTENERS: Final = 100
THREADS: Final = 500
"""Of ours: half of them may follow, and those of the round before are noticed to be gone after a second only."""
TOLD: Final = 10
"""Documents that are written to the listeners in a round."""


@dataclass(frozen=True, slots=True)
class Row:
    """Items a second of ours and the floor, medians over the rounds; ``spread`` is of the ratio."""

    subject: str
    ours: float
    floor: float
    ratio: float
    cpu_ratio: float
    spread: tuple[float, float]
    ours_cpu_us: float
    floor_cpu_us: float
    ours_ms: tuple[float, float]
    floor_ms: tuple[float, float]
    """p50 and p99."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One round on one server."""

    items: int
    seconds: float
    cpu_s: float
    latencies: Sequence[float]


class Side:
    """A server, and what it was last told of each document."""

    def __init__(self, server: Server, sign: RequestSigner, versions: dict[str, str] | None) -> None:
        self.server = server
        self._sign = sign
        self._versions = versions
        """None: of the floor's documents there are none."""
        self._numbers = count()

    def writes(self, requests: int, clients: int) -> Measured:
        """Single conditional writes."""
        keys = [str(next(self._numbers) % DOCUMENTS) for _ in range(requests)]
        return self._applied([self._put(key) for key in keys], clients, lambda at, found: self._keep(keys[at], found))

    def reads(self, requests: int, clients: int) -> Measured:
        """Documents by key."""
        keys = [str(7 * number % DOCUMENTS) for number in range(requests)]
        wanted = [self._request("GET", f"{COLLECTION}/documents/{key}") for key in keys]
        return self._applied(wanted, clients, lambda _at, _found: None)

    def bulk(self, requests: int) -> Measured:
        """Many documents in a request, counted one by one."""
        bodies = [b"\n".join(self._line() for _ in range(BULK)) for _ in range(requests)]
        path = f"/v1/databases/{DATABASE}/collections/imported/import"
        measured = self._applied([self._request("POST", path, body) for body in bodies], 1, _check_imported)
        return Measured(requests * BULK, measured.seconds, measured.cpu_s, measured.latencies)

    def listeners(self, writes: int) -> Measured:
        """Events to all listeners, counted one by one."""
        path = f"/v1/databases/{DATABASE}/changes/stream?after=now"
        asked = [self._request("GET", path) for _ in range(LISTENERS)]
        with streaming(self.server.port, asked) as sockets, selectors.DefaultSelector() as ready:
            for one in sockets:
                ready.register(one, selectors.EVENT_READ, one)
            latencies: list[float] = []
            cpu, begun = self.server.cpu_s(), time.perf_counter()
            for _ in range(writes):
                key = str(next(self._numbers) % DOCUMENTS)
                sent = time.perf_counter()
                (found,) = apply_load(self.server.port, [self._put(key)], 1).answers.values()
                self._keep(key, found)
                told: set[int] = set()
                while len(told) < LISTENERS:
                    for each, _ in ready.select():
                        part = each.data.recv(1 << 16)
                        if not part:
                            raise ConnectionError("a stream has ended")
                        if b"event: change" in part:
                            told.add(each.fd)
                            latencies.append(time.perf_counter() - sent)
            taken = time.perf_counter() - begun
            return Measured(writes * LISTENERS, taken, self.server.cpu_s() - cpu, latencies)

    def _line(self) -> bytes:
        number = next(self._numbers)
        return json.dumps({"key": f"{number:08}", "fields": fields(number)}).encode()

    def _put(self, key: str) -> bytes:
        version = "1.AAAAAAAAAAAAAAAAAAAAAA" if self._versions is None else self._versions[key]
        body = json.dumps(fields(next(self._numbers))).encode()
        return self._request("PUT", f"{COLLECTION}/documents/{key}", body, {"if-match": f'"{version}"'})

    def _keep(self, key: str, found: Answered) -> None:
        if self._versions is not None:
            self._versions[key] = found.header("etag").strip('"')

    def _request(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
        return prepare(self._sign, self.server.url, method, path, body, headers)

    def _applied(self, wanted: Sequence[bytes], clients: int, see: Callable[[int, Answered], None]) -> Measured:
        cpu = self.server.cpu_s()
        load = apply_load(self.server.port, wanted, clients)
        cpu = self.server.cpu_s() - cpu
        for at, found in load.answers.items():
            if found.status != 200:
                raise RuntimeError(f"{found.status}: {found.body[:500]!r}")
            see(at, found)
        return Measured(len(wanted), load.seconds, cpu, [found.seconds for found in load.answers.values()])


def fields(number: int) -> dict[str, Any]:
    """A document."""
    return {"owner": f"Novak {number}", "balance": {"$dec": f"{number % 100_000}.50"}, "limit": number}


def _check_imported(_at: int, found: Answered) -> None:
    """A stream that went wrong says so in its last line."""
    if b'"problem"' in found.body:
        raise RuntimeError(found.body[-500:].decode())


# --- side by side ---------------------------------------------------------------------------------------------------


def compare(subject: str, ours: Callable[[], Measured], floor: Callable[[], Measured], rounds: int) -> Row:
    """Both in turns, after one round to warm up; who begins changes from round to round."""
    pairs = []
    for number in range(rounds + 1):
        if number % 2:
            mine, theirs = ours(), floor()
        else:
            theirs, mine = floor(), ours()
        pairs.append((mine, theirs))
    measured = pairs[1:]
    ratios = [(mine.items / mine.seconds) / (theirs.items / theirs.seconds) for mine, theirs in measured]
    return Row(
        subject,
        statistics.median(mine.items / mine.seconds for mine, _ in measured),
        statistics.median(theirs.items / theirs.seconds for _, theirs in measured),
        statistics.median(ratios),
        statistics.median((theirs.cpu_s / theirs.items) / (mine.cpu_s / mine.items) for mine, theirs in measured),
        (min(ratios), max(ratios)),
        statistics.median(mine.cpu_s / mine.items for mine, _ in measured) * 1e6,
        statistics.median(theirs.cpu_s / theirs.items for _, theirs in measured) * 1e6,
        _quantiles([one for mine, _ in measured for one in mine.latencies]),
        _quantiles([one for _, theirs in measured for one in theirs.latencies]),
    )


def _quantiles(seconds: Sequence[float]) -> tuple[float, float]:
    """p50 and p99 in milliseconds."""
    ordered = sorted(seconds)
    return ordered[len(ordered) // 2] * 1000, ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] * 1000


def filled_home(directory: Path, threads: int) -> tuple[Home, dict[str, str]]:
    """A home with a database of ``DOCUMENTS`` documents, and their versions."""
    versions: dict[str, str] = {}
    home = new_home(directory, threads=threads)
    with open_databases(home.root, PASSPHRASE) as databases:
        database = databases.create(DATABASE)
        for first in range(0, DOCUMENTS, 100):
            changes = Changes()
            for number in range(first, first + 100):
                changes.put("accounts", str(number), {"owner": f"Novak {number}", "limit": number})
            versions |= {name.key: etag for name, etag in database.commit(changes).etags.items()}
    return home, versions


def measure(directory: Path, rounds: int, requests: int, only: str) -> list[Row]:
    """Every row whose subject contains ``only``."""
    rows: list[Row] = []
    with ExitStack() as stack:
        home, versions = filled_home(directory / "ours", threads=THREADS)
        sign = RequestSigner(device_of(home))
        ours = Side(stack.enter_context(served_home(home)), sign, versions)
        floor = Side(stack.enter_context(served_floor(directory)), sign, None)
        floor.writes(DOCUMENTS, 16)

        def add(subject: str, work: Callable[[Side], Measured]) -> None:
            if only in subject:
                rows.append(compare(subject, lambda: work(ours), lambda: work(floor), rounds))

        for clients in (1, 16, 64):
            add(f"write, clients: {clients}", partial(Side.writes, requests=requests, clients=clients))
        for clients in (1, 16):
            add(f"read, clients: {clients}", partial(Side.reads, requests=requests, clients=clients))
        add(f"bulk, {BULK:,} to a request: documents", partial(Side.bulk, requests=2))
        add(f"change feed, {LISTENERS} listeners: events", partial(Side.listeners, writes=TOLD))
    return rows


def show(rows: Sequence[Row]) -> None:
    width = max(len(row.subject) for row in rows)
    print("HTTP over loopback\nfloor: bare FastAPI routes with a bare SQL insert, the same server and requests\n")
    print(
        f"{'':{width}}  {'ours/s':>8}  {'floor/s':>8}  ratio  cpu ratio  {'spread':>9}"
        f"  {'cpu us':>7}  {'floor':>6}  {'p50 / p99 ms':>15}  {'floor':>15}"
    )
    for row in rows:
        print(
            f"{row.subject:{width}}  {row.ours:>8,.0f}  {row.floor:>8,.0f}  {row.ratio:>5.2f}  {row.cpu_ratio:>9.2f}"
            f"  {row.spread[0]:.2f}-{row.spread[1]:.2f}  {row.ours_cpu_us:>7,.0f}  {row.floor_cpu_us:>6,.0f}"
            f"  {_pair(row.ours_ms):>15}  {_pair(row.floor_ms):>15}"
        )
    print()


def _pair(milliseconds: tuple[float, float]) -> str:
    return " / ".join(f"{one:.1f}" for one in milliseconds)


def main() -> None:
    parser = option_parser(__doc__, rounds=5)
    parser.add_argument("--requests", type=int, default=320, help="single requests of a round (default: 320)")
    parser.add_argument("--subject", default="", help="only rows whose subject contains this")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        rows = measure(Path(name), options.rounds, options.requests, options.subject)
    show(rows)
    if options.json is not None:
        write_figures("HTTP", "bare FastAPI routes with a bare SQL insert", rows, options.json)


if __name__ == "__main__":
    main()

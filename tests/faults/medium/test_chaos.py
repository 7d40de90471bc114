"""Processes that are killed, again and again, at random and at every named write point, and power that is cut.

Rows A1, A2, A8 and A10 of the fault catalogue, on SQLite, and on PostgreSQL, where the server is killed as well, loses
its power, and (rows A5 and A6) finds its disk full or failing. After each round: nothing acknowledged is missing,
nothing that was refused is there, no index was signed twice, the sentinel never says more than the store, the store
opens and everything audits clean.

CHAOS_ROUNDS sets the number of rounds; ``make chaos`` runs 500. Every second round kills at a named point, each in its
turn. What is left to chance depends on the way and the number of the round alone; CHAOS_ROUND=NUMBER runs that round
alone, on a store of its own.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.fault

ROUNDS = range(int(os.environ.get("CHAOS_ROUNDS", "20")))
if alone := os.environ.get("CHAOS_ROUND"):
    ROUNDS = range(int(alone), int(alone) + 1)
ROUNDS_A_STORE = 5
"""Then a fresh one: an audit of everything after each round grows with what was written."""
WRITERS = ((0,), (0, 1, 2), (0, 0, 1))
"""The device of each process, store after store: one, several with a feed each, several of which two share a feed."""
WRITE, FLUSH = 1, 2
FAILING = {"disk full": (WRITE, errno.ENOSPC, 10**9), "flush fails": (FLUSH, errno.EIO, 1)}
"""What the server's medium does: calls of which class fail, with which error, how many of them."""
POINTS = (
    "locked",
    "signed",
    "written",
    "durable",
    "sentinel written",
    "committed",
    "told",
    "answered",
    "checkpoint signed",
    "checkpoint committed",
)
HERE = Path(__file__).parent
LONGEST_S = 0.25
PATIENCE_S = 120


class Process:
    """A fork, and what it says."""

    def __init__(self, pid: int, out: int) -> None:
        self.pid, self._out = pid, out
        self.said = bytearray()
        self.at_work = threading.Event()
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def _listen(self) -> None:
        while part := os.read(self._out, 65_536):
            self.said += part
            self.at_work.set()
        self.at_work.set()  # or dead

    @property
    def is_at_point(self) -> bool:
        """Whether it has come to the write point that it was given."""
        return any(line.startswith(b"point ") for line in bytes(self.said).split(b"\n"))

    def end(self) -> bytes:
        """Everything it said until it ended."""
        self._listener.join()
        os.close(self._out)
        return bytes(self.said)


class Forks:
    """What starts processes (forking.py)."""

    def __init__(self, root: Path, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder, self._numbers = folder, count()
        self._errors = (folder / "stderr").open("w+b")
        self._server = subprocess.Popen(
            [sys.executable, HERE / "forking.py"],
            env={**environment, "PYTHONPATH": str(root)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )

    def _ask(self, order: Mapping[str, object]) -> Any:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(order).encode() + b"\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline() or self._fail())

    def _fail(self) -> bytes:
        raise AssertionError("what starts the processes has ended: " + self.errors())

    def errors(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-3000:]

    def start(self, what: str, *arguments: object) -> Process:
        pipe = self._folder / f"{next(self._numbers)}"
        os.mkfifo(pipe)
        out = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        pid = self._ask({"do": what, "arguments": arguments, "out": str(pipe)})["pid"]
        pipe.unlink()
        os.set_blocking(out, True)
        return Process(pid, out)

    def wait(self, process: Process) -> int:
        return int(self._ask({"wait": process.pid})["status"])

    def call(self, what: str, *arguments: object) -> str:
        """What a process says that ends by itself."""
        process = self.start(what, *arguments)
        said = process.end().decode()
        assert self.wait(process) == 0, self.errors()
        return said

    def close(self) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()
        self._errors.close()


class Chaos:
    """One store, the processes on it, and everything that any of them has ever acknowledged."""

    def __init__(self, forks: Forks, location: str, sentinel: Path, writers: Sequence[int]) -> None:
        self.forks, self.location, self.sentinel = forks, location, str(sentinel)
        sentinel.parent.mkdir(exist_ok=True)
        self.writers = writers
        self.feeds = forks.call("found", location, len(set(writers))).split()
        self.heads: dict[str, dict[int, str]] = {feed: {} for feed in self.feeds}
        self.notes: dict[int, str] = {}
        self.blocks: dict[str, set[str]] = {"kept": set(), "never": set()}
        self.points: set[str] = set()
        """Those at which a process has killed itself."""

    def start(self, process: int, seed: int, point: str | None, nth: int) -> Process:
        device = self.writers[process]
        orders = {"location": self.location, "sentinel": self.sentinel, "feed": self.feeds[device], "device": device}
        return self.forks.start("child", {**orders, "process": process, "seed": seed, "point": point, "nth": nth})

    def hear(self, process: int, said: bytes) -> int:
        """Take down what a process acknowledged; returns how many lines it said."""
        lines = said.split(b"\n")[:-1]  # the last one may be cut
        for line in lines:
            kind, *rest = line.decode().split()
            if kind in self.blocks:
                self.blocks[kind].add(rest[0])
                continue
            if kind == "point":
                self.points.add(" ".join(rest))
                continue
            known = self.heads[self.feeds[self.writers[process]]] if kind == "head" else self.notes
            assert known.setdefault(int(rest[0]), rest[1]) == rest[1], f"{line!r}: signed twice"
        return len(lines)

    def check(self) -> None:
        """The store opens, holds everything that was acknowledged and nothing that was not, and audits clean."""
        found = json.loads(self.forks.call("look", self.location, self.sentinel))
        assert found["faults"] == []
        # One slot may be torn where the power was cut, or its writer killed: then the other one decides, or nothing.
        begun = {"same", "damaged"} if any(self.heads.values()) else {"same", "damaged", "missing"}
        assert found["sentinel"] in begun
        for feed, heads in self.heads.items():
            stored = {int(length): signature for length, signature in found["heads"][feed].items()}
            gone = {length for length, signature in heads.items() if stored.get(length) != signature}
            assert not gone, f"acknowledged heads are gone, or signed again: {sorted(gone)[:5]}"
        notes = {int(size): root for size, root in found["notes"].items()}
        assert self.notes.items() <= notes.items(), "an acknowledged checkpoint is gone, or signed again"
        assert self.blocks["kept"] <= set(found["blocks"]), "what was said to be written is not there"
        assert not self.blocks["never"] & set(found["blocks"]), "what was said not to be written is there"


def point_of(number: int) -> str | None:
    """The write point at which the processes of that round kill themselves."""
    return POINTS[number // 2 % len(POINTS)] if number % 2 else None


@contextmanager
def chance_of(way: str, number: int) -> Iterator[random.Random]:
    """What is left to chance in one round. When the round fails, the error says how to run it again."""
    seed = f"{way} {number}"
    try:
        yield random.Random(seed)
    except BaseException as exc:
        exc.add_note(f"round {number}, seed {seed!r}; that round alone: CHAOS_ROUND={number}, and this test")
        raise


def run_round(chaos: Chaos, chance: random.Random, number: int, point: str | None, disturb: Callable[[], None]) -> int:
    """Start processes, disturb them, kill them, hear what they said. Returns how much they acknowledged.

    In a round with a write point they are killed when one of them has met it.
    """
    children = [chaos.start(process, number, point, chance.randrange(1, 12)) for process in range(len(chaos.writers))]
    for child in children:
        assert child.at_work.wait(PATIENCE_S), "a process neither acknowledged anything nor died"
    disturb()
    if point is not None:
        deadline = time.monotonic() + PATIENCE_S
        while not any(child.is_at_point for child in children):
            assert time.monotonic() < deadline, f"no process came to the point {point!r}"
            time.sleep(0.005)
    time.sleep(chance.random() * LONGEST_S)
    for child in children:
        os.kill(child.pid, signal.SIGKILL)
    said = [child.end() for child in children]
    for child in children:
        assert chaos.forks.wait(child) == -signal.SIGKILL, "a process ended by itself: " + chaos.forks.errors()
    return sum(chaos.hear(process, words) for process, words in enumerate(said))


def check_points(points: set[str]) -> None:
    """No write point was left out, when there were rounds for all of them."""
    if len(ROUNDS) >= 2 * len(POINTS):
        assert points == set(POINTS)


@pytest.mark.parametrize("way", ["killed", "power cut"])
def test_nothing_acknowledged_is_lost_and_no_index_is_signed_twice(
    medium: Any, root: Path, tmp_path: Path, way: str
) -> None:
    """SQLite: one process and several, in turns, each with a shared writer of its own, on feeds of their own or not."""
    acknowledged, points = 0, set[str]()
    forks = Forks(root, tmp_path, medium.forgetful if way == "power cut" else medium.environment)
    for number in ROUNDS:
        with chance_of(way, number) as chance:
            medium.heal()
            if number % ROUNDS_A_STORE == 0 or number == ROUNDS[0]:
                place = medium.root / str(number)
                place.mkdir()
                writers = WRITERS[number // ROUNDS_A_STORE % len(WRITERS)]
                chaos = Chaos(forks, str(place / "store.db"), place / "sentinels" / "one", writers)
            medium.flush()

            def disturb(number: int = number, chance: random.Random = chance) -> None:
                if number % 4 == 2:
                    medium.arm(7, first=chance.randrange(1, 60), times=1)  # the call kills whoever makes it

            acknowledged += run_round(chaos, chance, number, point_of(number), disturb)
            medium.heal()
            if way == "power cut":
                medium.cut_power(chance)
            chaos.check()
            points |= chaos.points
    forks.close()
    assert acknowledged > len(ROUNDS), "hardly anything was written"
    check_points(points)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A directory that another user may enter."""
    with tempfile.TemporaryDirectory(prefix="holdfast-chaos-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def begin(own: Any, medium: Any) -> None:
    """Start a server that has no databases yet."""
    own.environment = None
    own.initialize("--wal-segsize=1")
    own.environment = medium.forgetful
    medium.flush()
    own.start()


def begin_anew(own: Any, medium: Any) -> None:
    """The same in the place of one that is done with: a power cut is about all files that there are."""
    own.kill()
    medium.heal()
    shutil.rmtree(own.directory / "data")
    begin(own, medium)


@pytest.fixture
def server(postgres: Any, medium_type: Any, faultio: Path, open_folder: Path) -> Iterator[tuple[Any, Any]]:
    """A server of its own whose data lies on a medium that forgets what was never flushed, and that medium."""
    library = Path(shutil.copy(faultio, open_folder))
    library.chmod(0o755)
    medium = medium_type(library, open_folder)
    options = "-c shared_buffers=8MB -c max_wal_size=8MB -c min_wal_size=2MB -c autovacuum=off"
    own = type(postgres)(postgres.binaries, medium.root, postgres.port + 1, postgres.user, options=options)
    if own.user is not None:
        shutil.chown(medium.root, own.user)
    begin(own, medium)
    yield own, medium
    with suppress(FileNotFoundError):  # a test may have failed while it was down
        own.kill()


@pytest.mark.parametrize("way", ["clients killed", "server killed", "power cut", *FAILING])
def test_nothing_acknowledged_by_postgresql_is_lost(
    server: tuple[Any, Any], root: Path, tmp_path: Path, way: str
) -> None:
    """PostgreSQL: clients, all processes of the server, its machine's power, its disk; commits that go unanswered."""
    own, medium = server
    acknowledged, failed, points = 0, 0, set[str]()
    forks = Forks(root, tmp_path, os.environ)

    def disturb_with(chance: random.Random) -> None:
        nonlocal failed
        if way == "clients killed":
            return
        if way in FAILING:
            mask, error, times = FAILING[way]
            medium.arm(mask, first=chance.randrange(1, 60), times=times, error=error)
        time.sleep(chance.random() * LONGEST_S)
        with suppress(FileNotFoundError, ProcessLookupError):  # a server may give up a medium that fails
            own.kill()
        failed += medium.failed
        medium.heal()
        if way != "power cut":
            own.start()  # the clients go on, and find out what became of their commits

    for number in ROUNDS:
        with chance_of(way, number) as chance:
            if number % ROUNDS_A_STORE == 0 or number == ROUNDS[0]:
                if number != ROUNDS[0]:
                    begin_anew(own, medium)
                location = own.url(own.new_database())
                writers = WRITERS[number // ROUNDS_A_STORE % len(WRITERS)]
                chaos = Chaos(forks, location, tmp_path / f"sentinel {number}" / "one", writers)
            point = point_of(number) if way == "clients killed" else None
            acknowledged += run_round(chaos, chance, number, point, partial(disturb_with, chance))
            if way == "power cut":
                medium.cut_power(chance)
                own.start()
            chaos.check()
            points |= chaos.points
    forks.close()
    assert acknowledged > len(ROUNDS), "hardly anything was written"
    if way == "clients killed":
        check_points(points)
    assert failed or way not in FAILING, "no call failed: the fault was not injected"

"""Processes that are killed, again and again, at random and at every named write point, and power that is cut.

Rows A1, A2, A8 and A10 of the fault catalogue, on SQLite, and on PostgreSQL, where the server is killed as well and
loses its power. After each round: nothing acknowledged is missing, nothing that was refused is there, no index was
signed twice, the sentinel never says more than the store, the store opens and everything audits clean.

CHAOS_ROUNDS sets the number of rounds; ``make chaos`` runs 500.
"""

from __future__ import annotations

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
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.fault

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "20"))
ROUNDS_A_STORE = 5
"""Then a fresh one: an audit of everything after each round grows with what was written."""
PROCESSES = (1, 3)
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

    def __init__(self, forks: Forks, location: str, sentinel: Path, devices: int) -> None:
        self.forks, self.location, self.sentinel = forks, location, str(sentinel)
        sentinel.parent.mkdir(exist_ok=True)
        self.feeds = forks.call("found", location, devices).split()
        self.heads: dict[str, dict[int, str]] = {feed: {} for feed in self.feeds}
        self.notes: dict[int, str] = {}
        self.blocks: dict[str, set[str]] = {"kept": set(), "never": set()}

    def start(self, number: int, seed: int, point: str | None, nth: int) -> Process:
        orders = {"location": self.location, "sentinel": self.sentinel, "feed": self.feeds[number]}
        return self.forks.start("child", {**orders, "device": number, "seed": seed, "point": point, "nth": nth})

    def hear(self, number: int, said: bytes) -> int:
        """Take down what a process acknowledged; returns how many lines it said."""
        lines = said.split(b"\n")[:-1]  # the last one may be cut
        for line in lines:
            kind, *rest = line.decode().split()
            if kind in self.blocks:
                self.blocks[kind].add(rest[0])
                continue
            known = self.heads[self.feeds[number]] if kind == "head" else self.notes
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


def run_round(
    chaos: Chaos, chance: random.Random, seed: int, processes: int, point: str | None, disturb: Callable[[], None]
) -> int:
    """Start processes, disturb them, kill them, hear what they said. Returns how much they acknowledged."""
    children = [chaos.start(number, seed, point, chance.randrange(1, 12)) for number in range(processes)]
    for child in children:
        assert child.at_work.wait(120), "a process neither acknowledged anything nor died"
    disturb()
    time.sleep(chance.random() * LONGEST_S)
    for child in children:
        os.kill(child.pid, signal.SIGKILL)
    said = [child.end() for child in children]
    for child in children:
        assert chaos.forks.wait(child) == -signal.SIGKILL, "a process ended by itself: " + chaos.forks.errors()
    return sum(chaos.hear(number, words) for number, words in enumerate(said))


def nothing() -> None:
    """For rounds in which only the processes are killed."""


@pytest.mark.parametrize("power_cut", [False, True], ids=["killed", "power cut"])
def test_nothing_acknowledged_is_lost_and_no_index_is_signed_twice(
    medium: Any, root: Path, tmp_path: Path, power_cut: bool
) -> None:
    """SQLite: one process and several, in turns, each with a feed and a shared writer of its own."""
    chance = random.Random(power_cut)
    acknowledged = 0
    forks = Forks(root, tmp_path, medium.forgetful if power_cut else medium.environment)
    for number in range(ROUNDS):
        processes = PROCESSES[number // ROUNDS_A_STORE % 2]
        medium.heal()
        if number % ROUNDS_A_STORE == 0:
            place = medium.root / str(number)
            place.mkdir()
            chaos = Chaos(forks, str(place / "store.db"), place / "sentinels" / "one", processes)
        medium.flush()
        way = chance.choice(("moment", "call", "point"))

        def disturb(way: str = way) -> None:
            if way == "call":
                medium.arm(7, first=chance.randrange(1, 60), times=1)  # the call kills whoever makes it

        point = chance.choice(POINTS) if way == "point" else None
        acknowledged += run_round(chaos, chance, number, processes, point, disturb)
        medium.heal()
        if power_cut:
            medium.cut_power(chance)
        chaos.check()
    forks.close()
    assert acknowledged > ROUNDS, "hardly anything was written"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A directory that another user may enter."""
    with tempfile.TemporaryDirectory(prefix="holdfast-chaos-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


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
    own.initialize("--wal-segsize=1")
    own.environment = medium.forgetful
    medium.flush()
    own.start()
    yield own, medium
    with suppress(FileNotFoundError):  # a test may have failed while it was down
        own.kill()


@pytest.mark.parametrize("way", ["clients killed", "server killed", "power cut"])
def test_nothing_acknowledged_by_postgresql_is_lost(
    server: tuple[Any, Any], root: Path, tmp_path: Path, way: str
) -> None:
    """PostgreSQL: clients, all processes of the server, or the power of its machine; commits that go unanswered."""
    own, medium = server
    chance = random.Random(way)
    acknowledged = 0
    forks = Forks(root, tmp_path, os.environ)

    def disturb() -> None:
        if way == "clients killed":
            return
        time.sleep(chance.random() * LONGEST_S)
        own.kill()
        if way == "server killed":
            own.start()  # the clients go on, and find out what became of their commits

    for number in range(ROUNDS):
        processes = PROCESSES[number // ROUNDS_A_STORE % 2]
        if number % ROUNDS_A_STORE == 0:
            location = own.url(own.new_database())
            chaos = Chaos(forks, location, tmp_path / f"sentinel {number}" / "one", processes)
        point = chance.choice(POINTS) if way == "clients killed" and chance.random() < 0.6 else None
        acknowledged += run_round(chaos, chance, number, processes, point, disturb)
        if way == "power cut":
            medium.cut_power(chance)
            own.start()
        chaos.check()
    forks.close()
    assert acknowledged > ROUNDS, "hardly anything was written"

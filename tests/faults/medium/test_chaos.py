"""Processes that are killed, again and again, at random and at every named write point, and power that is cut.

Rows A1, A2, A8 and A10 of the fault catalogue. After each round: nothing acknowledged is missing, no index was signed
twice, the store opens and everything audits clean. CHAOS_ROUNDS sets the number of rounds; ``make chaos`` runs 500.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.fault

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "20"))
ROUNDS_A_STORE = 5
"""Then a fresh one: an audit of everything after each round grows with what was written."""
POINTS = ("locked", "signed", "written", "committed", "told", "answered", "checkpoint signed", "checkpoint committed")
HERE = Path(__file__).parent


class Chaos:
    """One store, the processes on it, and everything that any of them has ever acknowledged."""

    def __init__(self, medium: Any, root: Path, location: str, devices: int) -> None:
        self.medium, self.location = medium, location
        self.paths = {"PYTHONPATH": str(root)}
        self.feeds = self._tool(location, str(devices)).split()
        self.heads: dict[str, dict[int, str]] = {feed: {} for feed in self.feeds}
        self.notes: dict[int, str] = {}

    def _tool(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, HERE / "founded.py", *arguments],
            env={**os.environ, **self.paths},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, number: int, seed: int, environment: Mapping[str, str], point: str | None, nth: int) -> Any:
        orders = {"location": self.location, "feed": self.feeds[number], "device": number, "seed": seed}
        return subprocess.Popen(
            [sys.executable, HERE / "chaos_child.py", json.dumps({**orders, "point": point, "nth": nth})],
            env={**environment, **self.paths},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def hear(self, number: int, said: bytes) -> int:
        """Take down what a process acknowledged; returns how many lines it said."""
        lines = said.split(b"\n")[:-1]  # the last one may be cut
        for line in lines:
            kind, size, rest = line.decode().split()
            known = self.heads[self.feeds[number]] if kind == "head" else self.notes
            assert known.setdefault(int(size), rest) == rest, f"{kind} {size} was signed twice"
        return len(lines)

    def check(self) -> None:
        """The store opens, holds everything that was acknowledged, and audits clean."""
        found = json.loads(self._tool(self.location))
        assert found["faults"] == []
        for feed, heads in self.heads.items():
            stored = {int(length): signature for length, signature in found["heads"][feed].items()}
            gone = {length for length, signature in heads.items() if stored.get(length) != signature}
            assert not gone, f"acknowledged heads are gone, or signed again: {sorted(gone)[:5]}"
        notes = {int(size): root for size, root in found["notes"].items()}
        assert self.notes.items() <= notes.items(), "an acknowledged checkpoint is gone, or signed again"


def run_round(chaos: Chaos, chance: random.Random, seed: int, *, processes: int, power_cut: bool) -> int:
    """Start processes, let them die, hear what they said. Returns how much they acknowledged."""
    medium = chaos.medium
    environment = medium.forgetful if power_cut else medium.environment
    way = chance.choice(("moment", "call", "point"))
    point = chance.choice(POINTS) if way == "point" else None
    medium.heal()
    medium.flush()  # what was founded, or opened to be checked, was not written through the library
    children = [chaos.start(number, seed, environment, point, chance.randrange(1, 12)) for number in range(processes)]
    said = [bytearray() for _ in children]
    at_work = [threading.Event() for _ in children]

    def listen(number: int) -> None:
        while part := os.read(children[number].stdout.fileno(), 65_536):
            said[number] += part
            at_work[number].set()
        at_work[number].set()  # or dead

    listeners = [threading.Thread(target=listen, args=(number,)) for number in range(processes)]
    for listener in listeners:
        listener.start()
    for event in at_work:
        assert event.wait(120), "a process neither acknowledged anything nor died"
    if way == "call":
        medium.arm(7, first=chance.randrange(1, 60), times=1)  # the call kills whoever makes it
    time.sleep(chance.random() * 0.4)
    for child in children:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdin.close()
    for listener in listeners:
        listener.join()
    for child in children:
        assert child.returncode == -signal.SIGKILL, "a process ended by itself"
        child.stdout.close()
    medium.heal()
    if power_cut:
        medium.cut_power(chance)
    return sum(chaos.hear(number, bytes(said[number])) for number in range(processes))


@pytest.mark.parametrize("power_cut", [False, True], ids=["killed", "power cut"])
def test_nothing_acknowledged_is_lost_and_no_index_is_signed_twice(medium: Any, root: Path, power_cut: bool) -> None:
    """One process and several, in turns, each with a feed and a shared writer of its own."""
    chance = random.Random(power_cut)
    acknowledged = 0
    for number in range(ROUNDS):
        processes = (1, 3)[number // ROUNDS_A_STORE % 2]
        if number % ROUNDS_A_STORE == 0:
            chaos = Chaos(medium, root, str(medium.root / f"{number}.db"), processes)
        acknowledged += run_round(chaos, chance, number, processes=processes, power_cut=power_cut)
        chaos.check()
    assert acknowledged > ROUNDS, "hardly anything was written"

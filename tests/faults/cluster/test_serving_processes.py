"""Several ``holdfast serve`` on one PostgreSQL under load, and kill -9 of one at random: what was answered is there."""

from __future__ import annotations

import json
import random
import subprocess
import threading
from contextlib import suppress
from itertools import count
from typing import Any

import pytest

from api.remote import RemoteNode, RemoteProblem
from identity.errors import TransportError

pytestmark = pytest.mark.fault

PROCESSES = 3
DATABASE = "/v1/databases/bank"
SHARED = f"{DATABASE}/collections/accounts/documents/shared"


class Loaded:
    """One process that serves, and a client that never stops writing to it, over HTTP and signed."""

    def __init__(self, fleet: Any, number: int, answered: Answered) -> None:
        self._fleet = fleet
        self._number = number
        self._answered = answered
        self._stop = threading.Event()
        self.process: subprocess.Popen[str] = fleet.serve(number)
        assert self.process.stdout is not None
        self.url = str(json.loads(self.process.stdout.readline())["url"])
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def _write(self) -> None:
        chance = random.Random(self._number)
        with RemoteNode(self.url, self._fleet.signer(self._number)) as node:
            while not self._stop.is_set():
                with suppress(TransportError):
                    self._answered.write(node, checkpoint=chance.random() < 0.1)

    def kill(self) -> None:
        """SIGKILL, in the middle of whatever it does."""
        self.process.kill()
        self._ended()

    def end(self) -> None:
        """As an operator ends it."""
        self._stop.set()
        self.process.terminate()
        self._ended()
        assert self.process.returncode == 0

    def _ended(self) -> None:
        self._stop.set()
        self.process.communicate(timeout=60)
        self._thread.join(60)
        assert not self._thread.is_alive()


class Answered:
    """What processes have said to be written."""

    def __init__(self) -> None:
        self._numbers = count()
        self._lock = threading.Lock()
        self.documents: dict[str, int] = {}
        self.added = 0
        self.checkpoints: dict[int, str] = {}
        self.unexpected: list[str] = []
        self.reached = threading.Condition()

    def write(self, node: RemoteNode, *, checkpoint: bool) -> None:
        """A document of its own, a counter that all share, and now and then a checkpoint."""
        number = next(self._numbers)
        try:
            path = f"{DATABASE}/collections/accounts/documents/{number}"
            node.ask("PUT", path, {"n": number}, headers={"if-none-match": "*"})
            with self.reached:
                self.documents[str(number)] = number
                self.reached.notify_all()
            changes = [{"do": "increment", "collection": "accounts", "key": "shared", "field": "n", "by": 1}]
            node.ask("POST", f"{DATABASE}/transactions", {"changes": changes})
            with self._lock:
                self.added += 1
            if checkpoint:
                made = node.ask("POST", "/v1/checkpoints", {}).json
                with self._lock:
                    self.checkpoints[made["size"]] = made["root"]
        except RemoteProblem as problem:
            others_were_first = checkpoint and "nothing to commit" in str(problem)
            if problem.status not in (503, 500) and not others_were_first:
                self.unexpected.append(str(problem))

    def wait_for_more(self, documents: int) -> None:
        """Until so many more were answered for."""
        with self.reached:
            wanted = len(self.documents) + documents
            assert self.reached.wait_for(lambda: len(self.documents) >= wanted, 120), self.unexpected[-3:]


@pytest.fixture
def fleet(postgres: Any, new_fleet: Any) -> Any:
    made = new_fleet(postgres.url(postgres.new_database()), PROCESSES)
    made.run("db", "create", "bank", "--device", "feed-0", HOLDFAST_PASSPHRASE_FILE=str(made.passphrase_file))
    return made


def test_a_process_that_serves_is_killed_at_random(fleet: Any) -> None:
    chance, answered = random.Random("which one"), Answered()
    serving = {number: Loaded(fleet, number, answered) for number in range(PROCESSES)}
    try:
        answered.wait_for_more(30)
        for _ in range(2):
            victim = chance.randrange(PROCESSES)
            serving[victim].kill()
            answered.wait_for_more(30)
            serving[victim] = Loaded(fleet, victim, answered)
            answered.wait_for_more(30)
    finally:
        for one in serving.values():
            one.end()
    assert answered.unexpected == []
    found = fleet.audit()
    assert found.faults == []
    with fleet.databases() as databases:
        bank = databases.open("bank")
        assert bank.audit() == []
        shown = {state.name.key: dict(state.fields) for state in bank.scan("accounts", limit=10_000).documents}
    total = shown.pop("shared")["n"]
    assert {key: fields["n"] for key, fields in shown.items()}.items() >= answered.documents.items()
    assert answered.added <= total <= len(shown), "each increment counts once, also one whose answer was lost"
    assert answered.checkpoints

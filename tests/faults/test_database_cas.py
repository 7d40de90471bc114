"""Compare-and-set by 32 threads on one document: one winner a version, and a history that one thread could have made.

Every call is recorded with when it began and when it was answered, and the history is searched for an order of the
calls that respects both these times and what a single register would have answered (Wing and Gong's search, as in
Porcupine). Beside it: readers see transactions whole, and what other devices wrote is taken in while threads write.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ledger.transfer import ingest_feed
from sync.changes import Changes, StaleVersion
from sync.transaction import DocumentId

pytestmark = pytest.mark.fault

THREADS = 32
ROUNDS = 6
NAME = DocumentId("accounts", "1")


class Call(NamedTuple):
    """A call on the register: answered with the version that it found, or, for one that wrote, has made.

    ``expected`` is what a compare-and-set was conditional on, None for a read. Times are positions in the order of all
    beginnings and answers.
    """

    began: int
    answered: int
    expected: str | None
    wrote: bool
    version: str


# --- the checker ----------------------------------------------------------------------------------------------------


def is_linearizable(history: Sequence[Call], version: str) -> bool:
    """Whether the calls could have been made one after the other, each between its beginning and its answer."""
    waiting = [(frozenset(range(len(history))), version)]
    seen = set()
    while waiting:
        left, version = waiting.pop()
        left = _without_looks(history, left, version)
        if not left:
            return True
        if (left, version) not in seen:
            seen.add((left, version))
            waiting += [
                (left - {one}, history[one].version)
                for one in _possible(history, left)
                if history[one].wrote and history[one].expected == version
            ]
    return False


def _without_looks(history: Sequence[Call], left: frozenset[int], version: str) -> frozenset[int]:
    """The calls that are left when those that saw ``version`` and changed nothing are made as soon as they can be."""
    while found := {one for one in _possible(history, left) if _looks(history[one], version)}:
        left -= found
    return left


def _looks(call: Call, version: str) -> bool:
    return not call.wrote and call.version == version and call.expected != version


def _possible(history: Sequence[Call], left: frozenset[int]) -> list[int]:
    """The calls that could be next: they began before any other one was answered."""
    first = min((history[one].answered for one in left), default=0)
    return [one for one in left if history[one].began < first]


@pytest.mark.parametrize(
    ("history", "verdict"),
    [
        pytest.param([Call(0, 1, "a", True, "b"), Call(2, 3, None, False, "b")], True, id="one after the other"),
        pytest.param([Call(0, 3, "a", True, "b"), Call(1, 2, None, False, "a")], True, id="a read beside a write"),
        pytest.param([Call(0, 3, "a", True, "b"), Call(1, 2, "a", False, "b")], True, id="a loser beside its winner"),
        pytest.param([Call(0, 1, "a", True, "b"), Call(2, 3, None, False, "a")], False, id="a stale read"),
        pytest.param([Call(0, 2, "a", True, "b"), Call(1, 3, "a", True, "c")], False, id="two winners"),
        pytest.param([Call(0, 1, "a", False, "a")], False, id="refused for nothing"),
        pytest.param([Call(0, 1, "a", False, "b"), Call(2, 3, "a", True, "b")], False, id="it knew the future"),
        pytest.param(
            [Call(0, 1, None, False, "b"), Call(2, 3, None, False, "a")], False, id="a version that never was"
        ),
    ],
)
def test_the_checker(history: list[Call], verdict: bool) -> None:
    assert is_linearizable(history, "a") is verdict


# --- the threads ----------------------------------------------------------------------------------------------------


class Recorder:
    """Threads that count in one document, and what they were answered."""

    def __init__(self) -> None:
        self.history: list[Call] = []
        self.trouble: list[BaseException] = []
        self._clock = count()

    def run(self, databases: Sequence[Any]) -> None:
        start = threading.Barrier(THREADS)
        threads = [
            threading.Thread(target=self._count, args=(databases[number % len(databases)], start))
            for number in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert self.trouble == []

    def _count(self, database: Any, start: threading.Barrier) -> None:
        try:
            start.wait(60)
            for _ in range(ROUNDS):
                self._write(database, *self._read(database))
        except BaseException as exc:  # noqa: BLE001  (the test that waits for the threads tells it)
            self.trouble.append(exc)

    def _read(self, database: Any) -> tuple[str, int]:
        began = next(self._clock)
        state = database.get(*NAME)
        self.history.append(Call(began, next(self._clock), None, False, state.etag))
        return state.etag, state.view.fields["count"]

    def _write(self, database: Any, etag: str, number: int) -> None:
        changes = Changes()
        changes.put(*NAME, {"count": number + 1, "by": threading.get_ident()}, if_match=etag)
        began = next(self._clock)
        try:
            version, wrote = database.commit(changes).etags[NAME], True
        except StaleVersion as exc:
            version, wrote = exc.etag, False
        self.history.append(Call(began, next(self._clock), etag, wrote, version))


def check(recorder: Recorder, begun: str, replica: Any) -> None:
    winners = {call.expected: call.version for call in recorder.history if call.wrote}
    assert len(winners) == sum(call.wrote for call in recorder.history), "a version has two winners"
    version, steps = begun, 0
    while version in winners:
        version, steps = winners[version], steps + 1
    state = replica.db.get(*NAME)
    assert (state.etag, state.view.fields["count"]) == (version, steps)
    assert steps == len(winners) >= ROUNDS, "whoever loses lost to somebody who won since it had read"
    assert state.view.conflicts == ()
    assert is_linearizable(recorder.history, begun)


@contextmanager
def opened(replica: Any) -> Iterator[Any]:
    """The replica's database opened a second time, by what could be another process: store and writer of its own."""
    from ledger.storage.engine import open_store
    from ledger.writer import StoreWriter
    from sync.database import Database

    store = open_store(replica.url)
    writer = StoreWriter(store, [replica.device])
    try:
        yield Database(store, replica.world.uid, replica.now_ms, writer=writer, feed=replica.feed)
    finally:
        writer.close()
        store.close()


def test_threads_of_one_program(make_world: Any, tmp_path: Path) -> None:
    with replica_at(make_world(tmp_path, "one program"), "") as replica:
        run_threads(replica)


def test_threads_of_two_programs(make_world: Any, tmp_path: Path) -> None:
    with replica_at(make_world(tmp_path, "two programs"), "") as replica:
        run_two_programs(replica)


def test_threads_of_one_program_on_a_server(make_world: Any, tmp_path: Path, empty_postgres: str) -> None:
    with replica_at(make_world(tmp_path, "one program"), empty_postgres) as replica:
        run_threads(replica)


def test_threads_of_two_programs_on_a_server(make_world: Any, tmp_path: Path, empty_postgres: str) -> None:
    with replica_at(make_world(tmp_path, "two programs"), empty_postgres) as replica:
        run_two_programs(replica)


@contextmanager
def replica_at(world: Any, url: str) -> Iterator[Any]:
    try:
        yield world.replica("laptop", url)
    finally:
        world.close()


def run_threads(replica: Any) -> None:
    begun = replica.put(*NAME, count=0).etags[NAME]
    recorder = Recorder()
    recorder.run([replica.db])
    check(recorder, begun, replica)


def run_two_programs(replica: Any) -> None:
    begun = replica.put(*NAME, count=0).etags[NAME]
    recorder = Recorder()
    with opened(replica) as other:
        recorder.run([replica.db, other])
        check(recorder, begun, replica)
        assert other.get(*NAME).etag == replica.db.get(*NAME).etag
    assert replica.db.audit() == []


# --- readers --------------------------------------------------------------------------------------------------------


def test_readers_see_transactions_whole(make_world: Any, tmp_path: Path) -> None:
    with replica_at(make_world(tmp_path, "readers"), "") as replica:
        run_readers(replica)


def test_readers_see_transactions_whole_on_a_server(make_world: Any, tmp_path: Path, empty_postgres: str) -> None:
    with replica_at(make_world(tmp_path, "readers"), empty_postgres) as replica:
        run_readers(replica)


def run_readers(replica: Any) -> None:
    """Two documents are always written together, here or by another device: no snapshot has one without the other."""
    writer = replica.world.replica("phone")
    is_over, seen = threading.Event(), set()
    trouble: list[BaseException] = []

    def read() -> None:
        try:
            while not is_over.is_set():
                with replica.db.read() as reader:
                    one, other = (reader.document(DocumentId("pairs", key)) for key in "12")
                assert (one and one.view.fields) == (other and other.view.fields)
                seen.add(None if one is None else one.view.fields["number"])
        except BaseException as exc:  # noqa: BLE001  (told below)
            trouble.append(exc)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(30):
        changes = Changes()
        for key in "12":
            changes.put("pairs", key, {"number": number})
        (replica if number % 2 else writer).db.commit(changes)
        replica.receive(writer)
        writer.receive(replica)
    is_over.set()
    for thread in threads:
        thread.join()
    assert trouble == []
    assert len(seen) > 3


def test_entries_of_others_come_in_while_threads_write(make_world: Any, tmp_path: Path) -> None:
    with replica_at(make_world(tmp_path, "coming in"), "") as laptop:
        phone = laptop.world.replica("phone")
        pieces = []
        for number in range(20):
            phone.put("c", str(number % 5), phone=number)
            pieces.append(phone.exported(phone.feed))
        trouble: list[BaseException] = []

        def write(name: int) -> None:
            try:
                for number in range(20):
                    changes = Changes()
                    changes.patch("c", str(number % 5), {f"thread {name}": number})
                    changes.increment("c", str(number % 5), "n")
                    laptop.db.commit(changes)
            except BaseException as exc:  # noqa: BLE001  (told below)
                trouble.append(exc)

        threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        taken = 0
        for piece in pieces:
            ingest_feed(laptop.store, BytesIO(piece))
            taken += laptop.db.take_new()
        for thread in threads:
            thread.join()
        assert trouble == []
        assert taken == len(pieces)
        assert sum(laptop.fields("c", str(key))["n"] for key in range(5)) == 80
        assert laptop.db.audit() == []
        phone.receive(laptop)
        assert all(laptop.db.get("c", str(key)).etag == phone.db.get("c", str(key)).etag for key in range(5))

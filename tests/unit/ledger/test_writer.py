"""The shared writer: what a caller is told after a fault at each step, and that no thread is left waiting."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from typing import Any

import pytest

from identity.errors import (
    ConflictError,
    LimitExceeded,
    MissingEvidenceError,
    RefusedError,
    StorageError,
    StoreBusy,
    Unacknowledged,
    UnknownOutcome,
)
from identity.keys import Ed25519Signer
from ledger.audit import audit_feed
from ledger.feed import AppendResult, append, create_feed
from ledger.identities import add_events
from ledger.store import FeedKey, ReadTransaction, Store, WriteTransaction
from ledger.turn import Turn
from ledger.writer import AfterCommit, StoreWriter, WriterLimits

PATIENCE_S = 20


class Moved:
    """A write transaction that fails at its append, when it is told to."""

    def __init__(self, inner: Any, fault: str | None) -> None:
        self._inner = inner
        self._fault = fault

    def __getattr__(self, name: str) -> Any:
        if name == "append" and self._fault == "append":
            raise StorageError("append: the disk is full")
        return getattr(self._inner, name)


class FaultyStore:
    """A store whose next write transactions each have a fault, or none; and that can be held at their beginning."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.faults: list[str | None] = []
        self.entered = threading.Semaphore(0)
        self.gate: threading.Event | None = None

    def read(self) -> Any:
        return self.inner.read()

    @contextmanager
    def write(self) -> Iterator[WriteTransaction]:
        fault = self.faults.pop(0) if self.faults else None
        if self.gate is not None:
            self.entered.release()
            assert self.gate.wait(PATIENCE_S)
        if fault == "busy":
            raise StoreBusy("begin: another process is writing")
        if fault == "begin":
            raise StorageError("begin: no such device")
        if fault == "surprise":
            raise RuntimeError("nobody expected that")
        with self.inner.write() as tx:
            yield Moved(tx, fault)  # type: ignore[misc]
            if fault == "before commit":
                raise StorageError("commit: input/output error")
        if fault == "after commit":
            raise StorageError("commit: connection lost")
        if fault == "unknown":
            raise UnknownOutcome("commit: not answered")

    def close(self) -> None:
        self.inner.close()


@pytest.fixture
def store(known: Store) -> FaultyStore:
    return FaultyStore(known)


@pytest.fixture
def key(known: Store, member: Any) -> FeedKey:
    return create_feed(known, member.device, member.identity, "notes")


class NewWriter:
    """Makes writers, and closes them when the test is over."""

    def __init__(self, store: FaultyStore, member: Any) -> None:
        self.store = store
        self.device = member.device
        self.made: list[StoreWriter] = []

    def __call__(self, after_commit: AfterCommit | None = None, *signers: Any, **limits: Any) -> StoreWriter:
        made = StoreWriter(
            self.store,
            signers or [self.device],
            after_commit=after_commit,
            limits=WriterLimits(**{"settle_s": 0.0, **limits}),
        )
        self.made.append(made)
        return made


@pytest.fixture
def new_writer(store: FaultyStore, member: Any) -> Iterator[NewWriter]:
    made = NewWriter(store, member)
    yield made
    if store.gate is not None:
        store.gate.set()
    for writer in made.made:
        writer.close()
    alive = [thread.name for thread in threading.enumerate() if thread.name == "holdfast-writer"]
    assert alive == []


def stored(store: FaultyStore, key: FeedKey) -> list[bytes]:
    assert audit_feed(store.inner, key).first_bad is None
    with store.read() as tx:
        state = tx.feed(key)
        assert state is not None
        return list(tx.blocks(key, 0, state.length))


def in_one_turn(
    store: FaultyStore, writer: StoreWriter, plug: FeedKey, submit: Callable[[], list[Future[AppendResult]]]
) -> list[Future[AppendResult]]:
    """Hold the writer in a turn of its own (of the item b"plug") while ``submit`` queues: the next turn has it all."""
    store.gate = threading.Event()
    first = writer.submit(plug, [b"plug"])
    assert store.entered.acquire(timeout=PATIENCE_S)
    futures = submit()
    gate, store.gate = store.gate, None
    gate.set()
    done, waiting = wait_for([first, *futures], PATIENCE_S)
    assert not waiting
    assert first in done
    return futures


def error_of(future: Future[Any]) -> BaseException | None:
    return future.exception(PATIENCE_S)


def always(error: Exception) -> Callable[[Turn], None]:
    def refuse(turn: Turn) -> None:
        raise error

    return refuse


# --- what is told when all goes well ---


def test_append(store: FaultyStore, key: FeedKey, new_writer: NewWriter) -> None:
    writer = new_writer()
    first, second = writer.append(key, [b"a", b"b"]), writer.append(key, [b"c"])
    assert [(one.key, one.start, one.length) for one in (first, second)] == [(key, 0, 2), (key, 2, 3)]
    with store.read() as tx:
        assert [tx.head(key, 2), tx.head(key, 3)] == [first.head, second.head]
    assert stored(store, key) == [b"a", b"b", b"c"]


def test_what_is_queued_shares_a_head(store: FaultyStore, key: FeedKey, new_writer: NewWriter) -> None:
    told: list[Sequence[AppendResult]] = []
    writer = new_writer(told.append)
    futures = in_one_turn(store, writer, key, lambda: [writer.submit(key, [b"%d" % n] * n) for n in (1, 2, 3)])
    results = [future.result() for future in futures]
    assert [(one.start, one.length, one.head.length) for one in results] == [(1, 2, 7), (2, 4, 7), (4, 7, 7)]
    assert [[(one.start, one.length, one.head) for one in turn] for turn in told] == [
        [(0, 1, told[0][0].head)],
        [(1, 7, results[0].head)],
    ]


def test_several_feeds_share_a_transaction(
    store: FaultyStore, key: FeedKey, new_writer: NewWriter, member: Any
) -> None:
    other = create_feed(store.inner, member.device, member.identity, "other")
    told: list[Sequence[AppendResult]] = []
    writer = new_writer(told.append)
    in_one_turn(store, writer, key, lambda: [writer.submit(one, [b"x"]) for one in (other, key, other)])
    assert [[(one.key, one.start, one.length) for one in turn] for turn in told] == [
        [(key, 0, 1)],
        [(other, 0, 2), (key, 1, 2)],
    ]


@pytest.mark.parametrize(
    ("limits", "lengths"),
    [({}, [4, 4, 4]), ({"turn_items": 2}, [3, 3, 4]), ({"turn_bytes": 200}, [3, 3, 4]), ({"turn_bytes": 1}, [2, 3, 4])],
)
def test_turns_end_at_their_limits(
    store: FaultyStore, key: FeedKey, new_writer: NewWriter, limits: dict[str, int], lengths: list[int]
) -> None:
    writer = new_writer(None, **limits)
    futures = in_one_turn(store, writer, key, lambda: [writer.submit(key, [bytes(20)]) for _ in range(3)])
    assert [future.result().head.length for future in futures] == lengths


def test_hook_comes_before_the_answer_and_after_the_commit(
    store: FaultyStore, key: FeedKey, new_writer: NewWriter
) -> None:
    seen: list[tuple[bool, int]] = []
    futures: list[Future[AppendResult]] = []

    def look(results: Sequence[AppendResult]) -> None:
        with store.read() as tx:
            state = tx.feed(key)
        assert state is not None
        seen.append((any(future.done() for future in futures), state.length))

    writer = new_writer(look)

    def submit() -> list[Future[AppendResult]]:
        futures.extend(writer.submit(key, [b"x"]) for _ in range(5))
        return futures

    in_one_turn(store, writer, key, submit)
    assert seen == [(False, 1), (False, 6)]


def test_another_writer_of_the_store_is_seen(
    store: FaultyStore, key: FeedKey, new_writer: NewWriter, member: Any
) -> None:
    writer = new_writer()
    writer.append(key, [b"a"])
    append(store.inner, key, member.device, [b"of another"])
    assert writer.append(key, [b"b"]).start == 2


# --- what one item does wrong ---


@pytest.mark.parametrize("error", [ConflictError("lost"), RefusedError("no"), ValueError("foreign"), StorageError("x")])
def test_condition_fails_its_item_alone(
    store: FaultyStore, key: FeedKey, new_writer: NewWriter, error: Exception
) -> None:
    writer = new_writer()
    futures = in_one_turn(
        store,
        writer,
        key,
        lambda: [writer.submit(key, [b"%d" % n], condition=always(error) if n == 1 else None) for n in range(3)],
    )
    assert error_of(futures[1]) is error
    assert [futures[n].result().start for n in (0, 2)] == [1, 2]
    assert stored(store, key) == [b"plug", b"0", b"2"]


def test_condition_that_ends_the_thread_does_not(store: FaultyStore, key: FeedKey, new_writer: NewWriter) -> None:
    writer = new_writer()

    def leave(turn: Turn) -> None:
        raise SystemExit(3)

    assert isinstance(error_of(writer.submit(key, [b"x"], condition=leave)), SystemExit)
    assert writer.append(key, [b"a"]).start == 0


def test_condition_that_writes_on_its_own_or_waits_for_its_own_thread(
    store: FaultyStore, key: FeedKey, new_writer: NewWriter
) -> None:
    writer = new_writer()

    def write(turn: Turn) -> None:
        with store.inner.write():
            raise AssertionError("two write transactions at once")

    for condition in (write, lambda turn: writer.append(key, [b"x"])):
        assert isinstance(error_of(writer.submit(key, [b"a"], condition=condition)), RuntimeError)
    assert writer.append(key, [b"b"]).start == 0


def test_refused_at_once(store: FaultyStore, key: FeedKey, new_writer: NewWriter) -> None:
    writer = new_writer()
    wrong: list[tuple[Any, type[Exception]]] = [
        ([], RefusedError),
        ([bytes(1024 * 1024 + 1)], LimitExceeded),
        ([b""] * 65_537, LimitExceeded),
        (["text"], TypeError),
        ([bytearray(3)], TypeError),
    ]
    for blocks, kind in wrong:
        with pytest.raises(kind):
            writer.submit(key, blocks)
    assert stored(store, key) == []


def test_feed_that_is_not_known(store: FaultyStore, key: FeedKey, new_writer: NewWriter) -> None:
    writer = new_writer()
    futures = in_one_turn(store, writer, key, lambda: [writer.submit(one, [b"x"]) for one in (FeedKey(b"?" * 32), key)])
    assert isinstance(error_of(futures[0]), MissingEvidenceError)
    assert futures[1].result().start == 1


def test_revoked_while_the_writer_runs(store: FaultyStore, key: FeedKey, new_writer: NewWriter, member: Any) -> None:
    writer = new_writer()
    writer.append(key, [b"a"])
    with store.inner.write() as tx:
        add_events(tx, member.identity, [member.revocation()])
    with pytest.raises(RefusedError, match="revoked"):
        writer.append(key, [b"b"])
    assert stored(store, key) == [b"a"]


class BrokenSigner:
    """A device whose key is out of reach."""

    def __init__(self, inner: Ed25519Signer) -> None:
        self.public_key = inner.public_key

    def sign(self, message: bytes) -> bytes:
        raise OSError("the token was pulled out")


def test_feed_that_cannot_be_signed_does_not_stop_the_others(
    store: FaultyStore, key: FeedKey, new_writer: NewWriter, new_member: Any, member: Any
) -> None:
    other = new_member(1)
    with store.inner.write() as tx:
        add_events(tx, other.identity, other.events)
    broken = create_feed(store.inner, other.device, other.identity, "notes")
    writer = new_writer(None, member.device, BrokenSigner(other.device))

    def expect_nothing_of_the_broken(turn: Turn) -> None:
        state = turn.feed(broken)
        if state is None or state.length:
            raise ConflictError("it sees what will never be")

    futures = in_one_turn(
        store,
        writer,
        key,
        lambda: [
            writer.submit(broken, [b"never"]),
            writer.submit(key, [b"a"], condition=expect_nothing_of_the_broken),
            writer.submit(broken, [b"never"], condition=always(ConflictError("lost"))),
            writer.submit(key, [b"b"]),
        ],
    )
    assert [type(error_of(futures[n])) for n in (0, 2)] == [OSError, OSError]
    assert [futures[n].result().start for n in (1, 3)] == [1, 2]
    assert stored(store, broken) == []


class WrongSigner(BrokenSigner):
    """A device that signs with another key."""

    def sign(self, message: bytes) -> bytes:
        return Ed25519Signer(b"w" * 32).sign(message)


def test_wrong_signature_is_not_stored(store: FaultyStore, key: FeedKey, new_writer: NewWriter, member: Any) -> None:
    error = error_of(new_writer(None, WrongSigner(member.device)).submit(key, [b"a"]))
    assert "signature" in str(error)
    assert stored(store, key) == []


# --- faults of the store ---


@pytest.mark.parametrize(
    ("faults", "kind", "is_stored"),
    [
        (["busy"], StoreBusy, False),
        (["begin"], StorageError, False),
        (["append"], StorageError, False),
        (["before commit"], StorageError, False),
        (["after commit"], None, True),
        (["unknown"], None, True),
        (["before commit", "begin"], UnknownOutcome, False),
        (["before commit", "before commit"], UnknownOutcome, False),
        (["after commit", "busy"], UnknownOutcome, True),
        (["after commit", "after commit"], UnknownOutcome, True),
        (["unknown", "begin"], UnknownOutcome, True),
    ],
)
def test_fault_at_each_step(
    store: FaultyStore,
    key: FeedKey,
    new_writer: NewWriter,
    faults: list[str | None],
    kind: type[Exception] | None,
    is_stored: bool,
) -> None:
    told: list[Sequence[AppendResult]] = []
    writer = new_writer(told.append)
    store.faults = [None, *faults]  # the plug's turn, then the one in question, then the attempts to read it back
    futures = in_one_turn(
        store,
        writer,
        key,
        lambda: [
            writer.submit(key, [b"a"]),
            writer.submit(key, [b"b"], condition=always(ConflictError("lost"))),
            writer.submit(key, [b"c"]),
        ],
    )
    errors = [error_of(future) for future in futures]
    assert [type(errors[n]) for n in (0, 2)] == [type(None) if kind is None else kind] * 2
    assert stored(store, key) == [b"plug", *([b"a", b"c"] if is_stored else [])]
    # Whoever was refused is never told "unknown", and is told the reason only when the turn it was found in happened.
    assert not isinstance(errors[1], UnknownOutcome)
    assert isinstance(errors[1], ConflictError) == (kind is None)
    assert len(told) == 1 + (kind is None)
    if kind is None:
        assert [(future.result().start, future.result().length) for future in futures[::2]] == [(1, 2), (2, 3)]
    after = writer.append(key, [b"after"])  # the thread lives on, and builds on what is stored
    assert after.start == (3 if is_stored else 1)
    assert stored(store, key)[after.start :] == [b"after"]


def test_known_failure_is_never_called_unknown(store: FaultyStore, key: FeedKey, new_writer: NewWriter) -> None:
    """A driver that does not know what happened, and a store that does: nothing was written."""

    @contextmanager
    def lost() -> Iterator[Any]:
        store.write = type(store).write.__get__(store)  # type: ignore[method-assign]
        with store.inner.write() as tx:
            yield tx
            raise UnknownOutcome("commit: not answered")

    writer = new_writer()
    store.write = lost  # type: ignore[method-assign]
    error = error_of(writer.submit(key, [b"a"]))
    assert type(error) is StorageError
    assert "not written" in str(error)
    assert stored(store, key) == []


def test_goes_on_asking_what_became_of_a_commit(store: FaultyStore, key: FeedKey, new_writer: NewWriter) -> None:
    store.faults = ["after commit", "busy", "busy"]
    assert new_writer(None, settle_s=PATIENCE_S).append(key, [b"a"]).start == 0


def test_a_surprise_while_it_asks_leaves_nobody_waiting(
    store: FaultyStore, key: FeedKey, new_writer: NewWriter
) -> None:
    writer = new_writer()
    store.faults = ["after commit", "surprise"]
    assert isinstance(error_of(writer.submit(key, [b"a"])), UnknownOutcome)
    assert writer.append(key, [b"b"]).start == 1


def test_error_of_a_turn_that_came_to_nothing_carries_no_signature(
    store: FaultyStore, key: FeedKey, new_writer: NewWriter
) -> None:
    """Tracebacks would: the frames of a failed commit hold the head. Some log handlers print locals."""
    store.faults = ["before commit"]
    error = error_of(new_writer().submit(key, [b"a"]))
    while error is not None:
        assert error.__traceback__ is None
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("error", [OSError("no space"), ValueError(), SystemExit(1), StorageError("x")])
def test_hook_that_fails(store: FaultyStore, key: FeedKey, new_writer: NewWriter, error: BaseException) -> None:
    faults = [error]

    def hook(results: Sequence[AppendResult]) -> None:
        if faults:
            raise faults.pop()

    writer = new_writer(hook)
    failed = error_of(writer.submit(key, [b"a", b"b"]))
    assert isinstance(failed, Unacknowledged)
    assert (failed.start, failed.length) == (0, 2)
    assert stored(store, key) == [b"a", b"b"]
    assert writer.append(key, [b"c"]).start == 2


def test_callback_that_fails_leaves_the_others_their_answers(
    store: FaultyStore, key: FeedKey, new_writer: NewWriter
) -> None:
    def leave(future: Future[AppendResult]) -> None:
        raise SystemExit(1)

    writer = new_writer()

    def submit() -> list[Future[AppendResult]]:
        futures = [writer.submit(key, [b"x"]) for _ in range(3)]
        futures[0].add_done_callback(leave)
        return futures

    assert [future.result().start for future in in_one_turn(store, writer, key, submit)] == [1, 2, 3]
    assert writer.append(key, [b"y"]).start == 4


# --- the queue ---


def test_full_queue_refuses_at_once(store: FaultyStore, key: FeedKey, new_writer: NewWriter) -> None:
    writer = new_writer(None, queue_items=2)

    def submit() -> list[Future[AppendResult]]:
        queued = [writer.submit(key, [b"x"]) for _ in range(2)]
        with pytest.raises(StoreBusy, match="full") as caught:
            writer.submit(key, [b"y"])
        assert "try again" in caught.value.hint
        assert writer.queued() == 2
        return queued

    assert [future.result().start for future in in_one_turn(store, writer, key, submit)] == [1, 2]
    assert writer.append(key, [b"z"]).start == 3
    assert b"y" not in stored(store, key)


def test_queue_is_bounded_in_bytes(store: FaultyStore, key: FeedKey, new_writer: NewWriter) -> None:
    writer = new_writer(None, queue_bytes=1000)

    def submit() -> list[Future[AppendResult]]:
        queued = [writer.submit(key, [bytes(300)]), writer.submit(key, [b""] * 7)]
        with pytest.raises(StoreBusy):
            writer.submit(key, [bytes(200)])
        return [*queued, writer.submit(key, [bytes(100)])]

    in_one_turn(store, writer, key, submit)
    assert writer.append(key, [bytes(900)]).length == 11


def test_cancelled_before_its_turn(store: FaultyStore, key: FeedKey, new_writer: NewWriter) -> None:
    writer = new_writer()

    def submit() -> list[Future[AppendResult]]:
        futures = [writer.submit(key, [b"%d" % n]) for n in range(3)]
        assert futures[1].cancel()
        return [futures[0], futures[2]]

    in_one_turn(store, writer, key, submit)
    assert stored(store, key) == [b"plug", b"0", b"2"]


@pytest.mark.parametrize("drain", [True, False])
def test_close_answers_everybody(store: FaultyStore, key: FeedKey, new_writer: NewWriter, drain: bool) -> None:
    writer = new_writer()
    store.gate = threading.Event()
    first = writer.submit(key, [b"plug"])
    assert store.entered.acquire(timeout=PATIENCE_S)
    queued = [writer.submit(key, [b"%d" % n]) for n in range(3)]
    queued[2].cancel()
    with ThreadPoolExecutor() as pool:
        closing = [pool.submit(writer.close, drain=drain) for _ in range(2)]
        while refusal_of(writer, key) is None:
            wait_for(closing, 0.01)
        store.gate.set()
        wait_for(closing, PATIENCE_S)
    assert first.result().length == 1
    assert all(future.done() for future in queued)
    if drain:
        assert [future.result().start for future in queued[:2]] == [1, 2]
    else:
        assert [type(error_of(future)) for future in queued[:2]] == [RefusedError] * 2
    with pytest.raises(CancelledError):
        queued[2].result()
    writer.close()
    with pytest.raises(RefusedError, match="closed"):
        writer.append(key, [b"late"])


def refusal_of(writer: StoreWriter, key: FeedKey) -> Exception | None:
    try:
        writer.submit(key, [b"too late, or cancelled"]).cancel()
    except RefusedError as exc:
        return exc
    return None


def test_close_from_a_callback(store: FaultyStore, key: FeedKey, new_writer: NewWriter) -> None:
    writer = new_writer()
    closed = threading.Event()

    def close(future: Future[AppendResult]) -> None:
        writer.close()
        closed.set()

    writer.submit(key, [b"a"]).add_done_callback(close)
    assert closed.wait(PATIENCE_S)


def test_leaving_the_block_drains(store: FaultyStore, key: FeedKey, new_writer: NewWriter) -> None:
    with new_writer() as writer:
        futures = [writer.submit(key, [b"x"]) for _ in range(20)]
    assert all(future.done() for future in futures)
    assert len(stored(store, key)) == 20


def test_forked_child_cannot_use_it(store: FaultyStore, key: FeedKey, new_writer: NewWriter) -> None:
    writer = new_writer()
    writer.append(key, [b"a"])
    with writer._changed:  # as if another thread were submitting
        child = os.fork()
        if not child:
            code = 1
            try:
                writer.close()
                writer.submit(key, [b"of the child"])
            except StorageError:
                code = 0
            finally:
                os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert writer.append(key, [b"b"]).start == 1


def test_many_threads(store: FaultyStore, key: FeedKey, new_writer: NewWriter) -> None:
    writer = new_writer()

    def work(number: int) -> list[tuple[int, bytes]]:
        mine = [b"%d of %d" % (count, number) for count in range(20)]
        return [(writer.append(key, [one]).start, one) for one in mine]

    with ThreadPoolExecutor(16) as pool:
        acknowledged = [pair for pairs in pool.map(work, range(16)) for pair in pairs]
    assert sorted(acknowledged) == list(enumerate(stored(store, key)))


def read_counter(tx: ReadTransaction, key: FeedKey) -> int:
    state = tx.feed(key)
    assert state is not None
    return int(tx.block(key, state.length - 1)) if state.length else 0


def test_no_update_is_lost(store: FaultyStore, key: FeedKey, new_writer: NewWriter) -> None:
    writer = new_writer()

    def increment(_: int) -> bool:
        with store.read() as tx:
            seen = read_counter(tx, key)

        def unchanged(turn: Turn) -> None:
            if read_counter(turn, key) != seen:
                raise ConflictError("somebody was faster")

        try:
            writer.append(key, [b"%d" % (seen + 1)], condition=unchanged)
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        acknowledged = sum(pool.map(increment, range(400)))
    with store.read() as tx:
        assert read_counter(tx, key) == acknowledged > 0

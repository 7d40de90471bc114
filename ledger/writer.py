"""The writer of a store that many threads share: one thread, a bounded queue, one transaction for all who wait.

Implements docs/spec/feed.md section 3.1 and docs/spec/storage.md rule 4 for programs with several writers. A flush of
the medium costs as much for one entry as for a thousand, and a signature nearly so; so the thread takes everything that
is queued, without waiting for more, up to a limit, and makes a turn of it (``ledger.turn``): lock, each item under its
condition, hash, sign once a feed, compare and swap, commit, ``after_commit``, and only then the answers.

A signature leaves this module in one way: in the results of a turn whose commit is known to have happened. When a turn
comes to nothing its signature is dropped with it, so the next turn may sign something else at the same index.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Self

from identity.errors import (
    NotRecorded,
    RefusedError,
    StorageError,
    StoreBusy,
    Unacknowledged,
    UnknownOutcome,
)
from identity.keys import Signer
from ledger.feed import AppendResult, Keeper, check_batch
from ledger.store import FeedKey, Store
from ledger.turn import Compose, Condition, ItemFailed, OpenFeeds, Resolve, SigningFailed, Turn

__all__ = ["AfterCommit", "StoreWriter", "WriterLimits"]

_BLOCK_OVERHEAD: Final = 64
"""What a block costs beside its bytes, in bytes: an empty one is not free."""
_SETTLE_PAUSE_S: Final = 0.1

AfterCommit = Callable[[Sequence[AppendResult]], object]
"""Told what a turn has written, one result a feed, when it is durable and nobody has been answered yet."""


@dataclass(frozen=True, slots=True)
class WriterLimits:
    """How much a writer holds and does at a time. A block counts with 64 bytes more than it has."""

    turn_items: int = 1_000
    turn_bytes: int = 1024 * 1024
    """A turn ends before the item that would exceed this; an item that is larger by itself has a turn of its own."""
    queue_items: int = 10_000
    queue_bytes: int = 128 * 1024 * 1024
    """What waits. Beyond it an item is refused; the largest that an append may be fits into an empty queue."""
    settle_s: float = 10.0
    """How long to go on trying to find out what became of a commit that failed."""


@dataclass(slots=True, eq=False)
class _Job:
    key: FeedKey
    blocks: tuple[bytes, ...] | Compose
    condition: Condition | None
    size: int
    future: Future[AppendResult] = field(default_factory=Future)
    written: FeedKey | None = None
    """The feed that it goes into, once a turn has taken it: ``key``, or one that continues it."""
    start: int = 0
    stop: int = 0
    """The index of its first block there, and the one after its last."""

    def succeed(self, result: AppendResult) -> None:
        with suppress(BaseException):  # what a callback of the caller's raises
            self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        with suppress(BaseException):
            self.future.set_exception(error)


@dataclass(slots=True)
class _Attempt:
    """Jobs on their way through one turn. Nobody is answered before it is known what became of it."""

    jobs: list[_Job]
    refused: dict[_Job, Exception] = field(default_factory=dict)
    results: list[AppendResult] | None = None
    """Set when everything was written and only the commit is left."""

    def run(self, turn: Turn) -> None:
        for job in self.jobs:
            try:
                job.written, job.start, job.stop = turn.take(job.key, job.blocks, job.condition)
            except ItemFailed as failure:
                self.refused[job] = failure.error
        self.results = turn.finish()


class _Outcome(Enum):
    WRITTEN = "written"
    NOT_WRITTEN = "not written"
    UNKNOWN = "unknown"


class StoreWriter:
    """Appends to the feeds of ``store`` that ``signers`` have the keys of, for any number of threads.

    ``keeper`` decides in every turn whether this process may sign for a feed (leases), and ``resolve`` which feed is
    meant by a key: one that may not be signed any more is continued by another. ``after_commit`` is called once
    a turn, in the writer's thread; when it raises, the turn's callers get ``Unacknowledged``. Use as a context manager,
    or ``close`` it; the store stays open.
    """

    def __init__(
        self,
        store: Store,
        signers: Iterable[Signer],
        *,
        keeper: Keeper | None = None,
        resolve: Resolve | None = None,
        after_commit: AfterCommit | None = None,
        limits: WriterLimits | None = None,
    ) -> None:
        self._store = store
        self._feeds = OpenFeeds(signers, keeper, resolve)
        self._after_commit = after_commit
        self._limits = limits or WriterLimits()
        self._queue: deque[_Job] = deque()
        self._queued_bytes = 0
        self._changed = threading.Condition()
        self._closed = False
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._work, name="holdfast-writer", daemon=True)
        self._thread.start()

    def submit(
        self, key: FeedKey, blocks: Sequence[bytes], *, condition: Condition | None = None
    ) -> Future[AppendResult]:
        """Queue blocks to be appended together. The future's result is durable; its exception says what happened.

        An exception other than ``UnknownOutcome`` and ``Unacknowledged`` means that nothing of it was written: what
        ``condition`` raised, ``RefusedError`` when the feed may not be written to by this process, ``StoreBusy`` and
        ``StorageError`` from the store, anything from a signer. A future can be cancelled until its turn begins.

        Raises at once ``StoreBusy`` when the queue is full, ``RefusedError`` when the writer is closed or the batch
        empty, ``LimitExceeded`` for a batch over the limits of an append, ``StorageError`` in a forked process.
        """
        if os.getpid() != self._process:  # first: another thread may have held the lock when the process was forked
            raise StorageError("the writer belongs to another process: make one in this process")
        check_batch(blocks)
        if any(type(block) is not bytes for block in blocks):
            raise TypeError("blocks are bytes")
        return self._enqueue(_Job(key, tuple(blocks), condition, sum(map(len, blocks)) + _BLOCK_OVERHEAD * len(blocks)))

    def submit_composed(self, key: FeedKey, compose: Compose, *, size: int) -> Future[AppendResult]:
        """Queue an item whose blocks are made in its turn, about ``size`` bytes of them. As ``submit`` otherwise."""
        if os.getpid() != self._process:
            raise StorageError("the writer belongs to another process: make one in this process")
        return self._enqueue(_Job(key, compose, None, size + _BLOCK_OVERHEAD))

    def _enqueue(self, job: _Job) -> Future[AppendResult]:
        with self._changed:
            if self._closed:
                raise RefusedError("the writer is closed")
            limits = self._limits
            if len(self._queue) >= limits.queue_items or self._queued_bytes + job.size > limits.queue_bytes:
                raise StoreBusy("the writer's queue is full", hint="try again in a moment")
            self._queue.append(job)
            self._queued_bytes += job.size
            self._changed.notify()
        return job.future

    def append(self, key: FeedKey, blocks: Sequence[bytes], *, condition: Condition | None = None) -> AppendResult:
        """``submit``, and wait for the result. Raises what ``submit`` raises, and what its future holds."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("the writer's own thread would wait for itself: use submit")
        return self.submit(key, blocks, condition=condition).result()

    def queued(self) -> int:
        """How many items wait for a turn."""
        with self._changed:
            return len(self._queue)

    def close(self, *, drain: bool = True) -> None:
        """Take no more, write what is queued or (``drain`` False) refuse it, and wait for the last answer. Idempotent.

        In a forked process it does nothing.
        """
        if os.getpid() != self._process:
            return
        with self._changed:
            self._closed = True
            refused = [] if drain else list(self._queue)
            if refused:
                self._queue.clear()
                self._queued_bytes = 0
            self._changed.notify_all()
        for job in _begun(refused):
            job.fail(RefusedError("the writer was closed before this was written"))
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The writer's thread.

    def _work(self) -> None:
        while jobs := self._next_jobs():
            self._serve(list(_begun(jobs)))

    def _next_jobs(self) -> list[_Job]:
        """What the next turn is made of; empty when the writer is closed and nothing is left."""
        jobs: list[_Job] = []
        size = 0
        with self._changed:
            while not self._queue and not self._closed:
                self._changed.wait()
            while self._queue and len(jobs) < self._limits.turn_items:
                if jobs and size + self._queue[0].size > self._limits.turn_bytes:
                    break
                jobs.append(self._queue.popleft())
                size += jobs[-1].size
            self._queued_bytes -= size
        return jobs

    def _serve(self, jobs: list[_Job]) -> None:
        """Answer every job: in one turn, or in more of them when a feed that can't be signed has to be left out."""
        while jobs:
            attempt = _Attempt(jobs)
            try:
                with self._store.write() as tx:
                    attempt.run(Turn(tx, self._feeds))
            except SigningFailed as failure:
                for job in jobs:
                    if (job.written or job.key) == failure.key:
                        job.fail(_bare(failure.error))
                jobs = [job for job in jobs if (job.written or job.key) != failure.key]
                continue
            except BaseException as exc:  # noqa: BLE001  (whoever waits is told, and the thread lives on)
                self._answer_failed(attempt, exc)
            else:
                self._answer(attempt)
            return

    def _answer_failed(self, attempt: _Attempt, exc: BaseException) -> None:
        """A turn failed: before its commit was tried, or in it."""
        self._feeds.forget()
        if isinstance(exc, NotRecorded):
            self._answer(attempt, exc)
            return
        outcome = _Outcome.NOT_WRITTEN if attempt.results is None else self._settle(attempt.results)
        if outcome is _Outcome.WRITTEN:
            self._answer(attempt)
            return
        error = StorageError(f"not written: {exc}") if isinstance(exc, UnknownOutcome) else _bare(exc)
        unknown = UnknownOutcome(f"a commit failed, and the store can't be read to see whether it took place: {exc}")
        for job in attempt.jobs:
            # A condition that did not hold was held against blocks that may not be: its error is not told.
            job.fail(unknown if outcome is _Outcome.UNKNOWN and job not in attempt.refused else error)

    def _settle(self, results: list[AppendResult]) -> _Outcome:
        """What became of a commit that failed.

        Read under the write lock, which waits for a commit of ours that is still under way elsewhere, and behind a
        fence: what this commit finds is as durable as it is itself.
        """
        deadline = time.monotonic() + self._limits.settle_s
        while True:
            try:
                with self._store.write() as tx:
                    tx.fence()
                    held = [tx.head(result.key, result.head.length) == result.head for result in results]
            except Exception:  # noqa: BLE001  (whatever it is: whoever waits is told, and the thread lives on)
                if time.monotonic() >= deadline:
                    return _Outcome.UNKNOWN
                time.sleep(_SETTLE_PAUSE_S)
            else:
                if all(held):
                    return _Outcome.WRITTEN
                # One transaction is there or not; a part of it is damage, and nothing to answer for.
                return _Outcome.UNKNOWN if any(held) else _Outcome.NOT_WRITTEN

    def _answer(self, attempt: _Attempt, failure: BaseException | None = None) -> None:
        """The turn is durable: tell the one who has to know first, then everybody.

        ``failure``: the store itself could not record it (its sentinel), so nobody is told that all is well.
        """
        results = attempt.results or []
        if failure is None and self._after_commit is not None and results:
            try:
                self._after_commit(results)
            except BaseException as exc:  # noqa: BLE001  (whoever waits is told, and the thread lives on)
                failure = exc
        heads = {result.key: result.head for result in results}
        for job in attempt.jobs:
            length = job.stop
            if job in attempt.refused:
                job.fail(attempt.refused[job])
            elif failure is not None:
                job.fail(Unacknowledged(job.start, length, str(failure) or type(failure).__name__))
            elif job.written is not None:
                job.succeed(AppendResult(job.written, job.start, length, heads[job.written]))


def _begun(jobs: Iterable[_Job]) -> Iterator[_Job]:
    """The jobs that nobody has cancelled; from now on nobody can."""
    return (job for job in jobs if job.future.set_running_or_notify_cancel())


def _bare(error: BaseException) -> BaseException:
    """The error without its tracebacks: their frames hold the signature of the turn that came to nothing."""
    seen: BaseException | None = error
    while seen is not None:
        seen.__traceback__ = None
        seen = seen.__cause__ or seen.__context__
    return error

"""Anchoring as something that runs for months: rounds, again and again, each part by a schedule of its own.

Every part (each authority, the chain, the rollback check) fails and recovers alone; ``anchoring.schedule`` says when it
is tried again, and for an authority the pool does (``anchoring.tsa.backoff``), which remembers it between two runs of
whatever program. What a round does is durable step by step, so the service may be ended between any two, and the next
one goes on. A state in which the store must not be written to ends it: somebody has to look.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from anchoring.rollback import RollbackState
from anchoring.schedule import Part, Retry, after_failure, after_success, due_parts, wait_ms
from anchoring.storage import AnchorState, load_anchors
from anchoring.tsa.backoff import Trouble, next_attempt_ms
from anchoring.tsa.pool import PoolPolicy
from anchoring.worker import AnchorSender, Failure, Round, run_round
from api.last_round import LastRound, keep_round
from api.pool import keep_troubles, load_troubles
from identity.errors import (
    MissingEvidenceError,
    ReadOnlyState,
    RefusedError,
    StoreBusy,
    TransportError,
    VerificationError,
)

if TYPE_CHECKING:
    from anchoring.tsa.source import TimestampSource
    from api.bootstrap import Session

__all__ = ["ROLLBACK_CHECK", "AnchorEvent", "AnchorService", "Surroundings"]

ROLLBACK_CHECK: Final = "rollback check"
_POLL_MS: Final = 15_000
"""While an anchor is on its way the chain is asked this often, or at the interval if that is shorter."""


@dataclass(frozen=True, slots=True)
class AnchorEvent:
    """Something that has changed at ``at_ms``: a token, a step of an anchor, how a part or the store stands."""

    at_ms: int
    part: str
    event: str
    size: int | None = None
    state: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Clocks, chance, and who listens. ``ticks_ms`` never goes back; ``now_ms`` is UTC; ``jitter`` is from 0 to 1."""

    now_ms: Callable[[], int]
    ticks_ms: Callable[[], int]
    jitter: Callable[[], float]
    tell: Callable[[AnchorEvent], None]


@dataclass(slots=True)
class AnchorService:
    """The loop over one open home. ``stop`` ends it: at once while it waits, else before its next step."""

    session: Session
    sources: Mapping[str, TimestampSource]
    sender: AnchorSender | None
    interval_ms: int
    around: Surroundings
    stop: threading.Event
    pool: PoolPolicy = field(default_factory=PoolPolicy)
    close: Callable[[], object] | None = None
    """Brings the close of the log before this one further, where there is one; asked whenever the chain is due."""
    retry: Retry = field(default_factory=Retry)
    _parts: dict[str, Part] = field(default_factory=dict)
    _state: RollbackState | None = None

    def run(self) -> None:
        """Rounds until stopped. Raises ``ReadOnlyState`` when the store must not be written to any more.

        Raises also what trying again does not mend: ``ConfigurationError``, ``StorageError``.
        """
        self._tell("service", "started")
        while not self.stop.is_set():
            self.turn()
            self.stop.wait(wait_ms(self._parts, self._names(), self.around.ticks_ms()) / 1000)
        self._tell("service", "stopped")

    def turn(self) -> None:
        """Do what is due now."""
        due = due_parts(self._parts, self._names(), self.around.ticks_ms())
        if ROLLBACK_CHECK in due:
            self._check()
        if due - {ROLLBACK_CHECK} and not self.stop.is_set():
            self._round(due - {ROLLBACK_CHECK})

    def _names(self) -> Iterator[str]:
        yield from self.sources
        if self.sender is not None:
            yield self.sender.name
            yield ROLLBACK_CHECK

    def _check(self) -> None:
        found = self.session.check_rollback()
        if found.state is RollbackState.UNVERIFIED:
            self._failed(ROLLBACK_CHECK, found.detail)
            return
        if not found.state.writable:
            raise ReadOnlyState(found.state.value, found.detail)
        self._succeeded(ROLLBACK_CHECK, self.interval_ms)
        if found.state is not self._state:
            self._tell(ROLLBACK_CHECK, "state", state=found.state.value, detail=found.detail)
            self._state = found.state

    def _round(self, due: set[str]) -> None:
        session = self.session
        log_id, descriptor = session.vault.log_descriptor()
        # The pool knows whom to leave alone for a while, and how many are wanted.
        sources = list(self.sources.values()) if due & self.sources.keys() else []
        sender = self.sender if self.sender is not None and self.sender.name in due else None
        try:
            done = run_round(
                session.vault.store,
                log_id,
                descriptor,
                sources,
                sender,
                self.around.now_ms(),
                pool=self.pool,
                troubles=load_troubles(session.home),
                go_on=lambda: not self.stop.is_set(),
            )
        except MissingEvidenceError:  # no checkpoint yet
            self._settle(due, {})
        except StoreBusy as exc:
            self._settle(due, dict.fromkeys(due, str(exc)))
        else:
            if sources:
                keep_troubles(session.home, done.troubles)
            self._report(done)
            if sender is not None and self.close is not None:
                self._close(self.close, sender, done)
            left_alone = {name: trouble.reason for name, trouble in done.backed_off.items()}
            failures = left_alone | {failure.what: str(failure.error) for failure in done.failures}
            self._settle(due, failures, done.troubles)

    def _close(self, close: Callable[[], object], sender: AnchorSender, done: Round) -> None:
        try:
            close()
        except (TransportError, VerificationError, RefusedError) as exc:
            done.failures.append(Failure(sender.name, exc))

    def _report(self, done: Round) -> None:
        chain = "" if self.sender is None else self.sender.name
        for name in done.tokens:
            self._tell(name, "token", size=done.size)
        for change in done.changes:
            self._tell(chain, "anchor", size=change.size, state=change.after.value, detail=change.reason)
        if self.session.is_development() and any(change.after is AnchorState.FINAL for change in done.changes):
            self.session.pin_final_anchors()
        for failure in done.failures:
            if isinstance(failure.error, ReadOnlyState):
                raise failure.error

    def _settle(
        self, due: set[str], failures: Mapping[str, str], troubles: Mapping[str, Trouble] | None = None
    ) -> None:
        """Set when each part is due again, and remember what failed for whoever asks for the status."""
        for name in sorted(due):
            if name in failures:
                self._failed(name, failures[name], (troubles or {}).get(name))
            else:
                self._succeeded(name, self._interval(name))
        standing = {name: part.reason for name, part in self._parts.items() if part.reason is not None}
        keep_round(self.session.home, LastRound(self.around.now_ms(), standing))

    def _interval(self, name: str) -> int:
        if self.sender is None or name != self.sender.name:
            return self.interval_ms
        with self.session.vault.store.read() as tx:
            is_open = load_anchors(tx.connection, AnchorState.PENDING, AnchorState.SUBMITTED, AnchorState.MINED)
        return min(_POLL_MS, self.interval_ms) if is_open else self.interval_ms

    def _succeeded(self, name: str, interval_ms: int) -> None:
        before = self._parts.get(name)
        self._parts[name] = after_success(self.around.ticks_ms(), interval_ms)
        if before is not None and before.failures:
            self._tell(name, "recovered", detail=f"after {before.failures} failures")

    def _failed(self, name: str, reason: str, trouble: Trouble | None = None) -> None:
        before, ticks_ms = self._parts.get(name), self.around.ticks_ms()
        after = after_failure(before, ticks_ms, reason, self.retry, self.around.jitter())
        if trouble is not None:
            after = replace(after, due_ms=ticks_ms + max(0, next_attempt_ms(trouble) - self.around.now_ms()))
        self._parts[name] = after
        if before is None or before.reason != reason:
            self._tell(name, "failed", detail=reason)

    def _tell(
        self, part: str, event: str, *, size: int | None = None, state: str | None = None, detail: str | None = None
    ) -> None:
        self.around.tell(AnchorEvent(self.around.now_ms(), part, event, size, state, detail))

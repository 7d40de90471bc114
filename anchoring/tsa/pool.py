"""Several authorities asked side by side, until k that do not depend on each other have answered.

Spec: docs/spec/timestamp.md, section 13. An authority that is down, slow, refusing or lying costs its own time and
nothing else: it is named with its reason, and asked again later (``anchoring.tsa.backoff``).
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from anchoring.timestamp.independence import group_independent
from anchoring.tsa.backoff import Trouble, add_failure, is_due
from anchoring.tsa.source import AcquiredToken, TimestampSource
from identity.errors import AuditError, MissingEvidenceError, TransportError, VerificationError

__all__ = ["PoolOutcome", "PoolPolicy", "ask_pool"]

_FAILURES: Final = (TransportError, VerificationError, MissingEvidenceError)
"""What an authority can do wrong. Anything else is this machine's fault and ends the round."""


@dataclass(frozen=True, slots=True)
class PoolPolicy:
    """How many independent authorities are wanted, and how they are asked."""

    k: int = 1
    ask_all: bool = True
    """Ask all that are missing; else only as many as ``k`` still needs, the first ones first."""
    parallel: int = 4
    """At most so many at a time."""
    patience_s: float = 120.0
    """For one authority: token, revocation data, repetitions, all of it."""


@dataclass(slots=True)
class PoolOutcome:
    """What became of the sources that were given, by name: each stands in one of the first three, or was not needed."""

    tokens: dict[str, AcquiredToken] = field(default_factory=dict)
    failures: dict[str, AuditError] = field(default_factory=dict)
    backed_off: dict[str, Trouble] = field(default_factory=dict)
    troubles: dict[str, Trouble] = field(default_factory=dict)
    """What is to be remembered until the next time."""
    authorities: int = 0
    """Independent ones that have stamped the message, counted with those that had before."""


def ask_pool(
    sources: Sequence[TimestampSource],
    message: bytes,
    now_ms: int,
    policy: PoolPolicy,
    *,
    held: Sequence[frozenset[bytes]] = (),
    troubles: Mapping[str, Trouble] | None = None,
    keep: Callable[[str, AcquiredToken], None] | None = None,
    go_on: Callable[[], bool] | None = None,
) -> PoolOutcome:
    """Ask ``sources``, which have not stamped ``message`` yet, as ``policy`` says.

    ``held`` are the keys (``path_keys``) of the tokens that are there already, ``troubles`` what ended the last time.
    ``keep`` is called in this thread with each token as it comes, so that what was acquired is safe before the slowest
    has answered. When ``go_on`` says no, nobody else is asked, and nobody is waited for. Raises what ``keep`` raises,
    and what a source raises that is no authority's fault.
    """
    return _Asking(sources, message, now_ms, policy, held, troubles or {}, keep, go_on).run()


def _always() -> bool:
    return True


class _Asking:
    """One pool being asked. The threads outlive it at worst by what their exchanges may last; they change nothing."""

    def __init__(
        self,
        sources: Sequence[TimestampSource],
        message: bytes,
        now_ms: int,
        policy: PoolPolicy,
        held: Sequence[frozenset[bytes]],
        troubles: Mapping[str, Trouble],
        keep: Callable[[str, AcquiredToken], None] | None,
        go_on: Callable[[], bool] | None,
    ) -> None:
        self._message = message
        self._now_ms = now_ms
        self._policy = policy
        self._held = list(held)
        self._keep = keep
        self._go_on = go_on or _always
        self._answers: queue.SimpleQueue[tuple[TimestampSource, AcquiredToken | BaseException]] = queue.SimpleQueue()
        self._running: dict[str, float] = {}
        self._outcome = PoolOutcome(troubles=dict(troubles))
        self._waiting: deque[TimestampSource] = deque()
        for source in sources:
            trouble = troubles.get(source.name)
            if trouble is None or is_due(trouble, now_ms):
                self._waiting.append(source)
            else:
                self._outcome.backed_off[source.name] = trouble

    def run(self) -> PoolOutcome:
        while self._go_on():
            while self._waiting and len(self._running) < self._room():
                self._start(self._waiting.popleft())
            if not self._running:
                break
            self._take_answer()
        self._outcome.authorities = self._count()
        return self._outcome

    def _room(self) -> int:
        """How many may be asked at a time now."""
        if self._policy.ask_all:
            return self._policy.parallel
        return min(self._policy.parallel, self._policy.k - self._count())

    def _count(self) -> int:
        return len(group_independent(self._held))

    def _start(self, source: TimestampSource) -> None:
        self._running[source.name] = time.monotonic() + self._policy.patience_s

        def ask() -> None:
            try:
                self._answers.put((source, source.acquire(self._message, self._now_ms)))
            except BaseException as exc:  # noqa: BLE001  (whoever waits is told)
                self._answers.put((source, exc))

        threading.Thread(target=ask, name=f"ask {source.name}", daemon=True).start()

    def _take_answer(self) -> None:
        try:
            left_s = max(0.0, min(self._running.values()) - time.monotonic())
            source, answer = self._answers.get(timeout=left_s)
        except queue.Empty:
            self._give_up()
            return
        if self._running.pop(source.name, None) is None:
            return  # it was given up
        if isinstance(answer, AcquiredToken):
            self._accept(source, answer)
        elif isinstance(answer, _FAILURES):
            self._fail(source.name, answer)
        else:
            raise answer

    def _accept(self, source: TimestampSource, token: AcquiredToken) -> None:
        if self._keep is not None:
            self._keep(source.name, token)
        self._held.append(token.verified.keys)
        self._outcome.tokens[source.name] = token
        self._outcome.troubles.pop(source.name, None)

    def _give_up(self) -> None:
        now = time.monotonic()
        for name in [name for name, deadline in self._running.items() if deadline <= now]:
            del self._running[name]
            self._fail(name, TransportError(f"{name}: nothing within {self._policy.patience_s:g} s"))

    def _fail(self, name: str, error: AuditError) -> None:
        self._outcome.failures[name] = error
        self._outcome.troubles[name] = add_failure(self._outcome.troubles.get(name), self._now_ms, str(error))

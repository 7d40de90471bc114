"""What the requests of a service share beside its nodes: limits, who has asked how often, answers that were given.

All of it is kept in memory and bounded. An answer that is remembered under an Idempotency-Key is given again for a day,
unless the process ends or so many came since that it had to go.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from api.problems import InProgress, NotFound, TooManyRequests, UsedKey
from identity.errors import StoreBusy

if TYPE_CHECKING:
    from api.metrics import Metrics
    from api.node import Node

__all__ = [
    "Answer",
    "Answers",
    "Limits",
    "RateLimiter",
    "Service",
]


_BODIES: Final = 4
"""So many bodies of the largest kind are held at once; of smaller ones as many as fit."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may cost."""

    body_bytes: int = 4 * 1024 * 1024
    import_bytes: int = 64 * 1024 * 1024
    """Of a body that holds many documents."""
    documents: int = 1000
    """Changes in one transaction."""
    requests_a_minute: int = 6000
    """Of one key."""
    threads: int = 40
    """Requests that are served at a time."""
    body_s: float = 60.0
    """How long a body may take to come."""


# --- how often ------------------------------------------------------------------------------------------------------


class RateLimiter:
    """A bucket of tokens for each key, filled at an even pace."""

    _MOST_KEYS: Final = 10_000

    def __init__(self, a_minute: int, ticks_s: Callable[[], float] = time.monotonic) -> None:
        self._most = float(a_minute)
        self._pace = a_minute / 60
        self._ticks_s = ticks_s
        self._lock = threading.Lock()
        self._buckets: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def take(self, key: bytes) -> None:
        """Count a request of this key. Raises ``TooManyRequests``."""
        now = self._ticks_s()
        with self._lock:
            left, at = self._buckets.pop(key, (self._most, now))
            left = min(self._most, left + (now - at) * self._pace)
            enough = left >= 1
            self._buckets[key] = (left - 1 if enough else left, now)
            if len(self._buckets) > self._MOST_KEYS:
                self._buckets.popitem(last=False)
        if not enough:
            raise TooManyRequests(int((1 - left) / self._pace) + 1)


# --- answers that were given ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered to a request."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class _Kept:
    digest: bytes
    answer: Answer | None
    """None while the first request is under way."""
    until_s: float


class Answers:
    """Answers by the key that their request had, so that a request that is sent again is not served again."""

    _KEEP_S: Final = 86_400.0

    def __init__(
        self, *, most: int = 10_000, most_bytes: int = 64 * 1024 * 1024, ticks_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._ticks_s = ticks_s
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[bytes, str], _Kept] = OrderedDict()
        self._bytes = 0

    def begin(self, whose: bytes, key: str, digest: bytes) -> Answer | None:
        """The answer that this request got before; None: serve it, and then ``keep`` or ``drop``.

        Raises ``UsedKey`` when the key came with another request, ``InProgress`` when the first is under way.
        """
        with self._lock:
            self._forget_old()
            found = self._kept.get((whose, key))
            if found is None:
                self._kept[whose, key] = _Kept(digest, None, self._ticks_s() + self._KEEP_S)
                return None
        if found.digest != digest:
            raise UsedKey("this Idempotency-Key has come with another request")
        if found.answer is None:
            raise InProgress("the first request with this Idempotency-Key is under way")
        return found.answer

    def keep(self, whose: bytes, key: str, digest: bytes, answer: Answer) -> None:
        """Remember what was answered."""
        with self._lock:
            self._kept[whose, key] = _Kept(digest, answer, self._ticks_s() + self._KEEP_S)
            self._kept.move_to_end((whose, key))
            self._bytes += len(answer.body)
            self._forget_old()

    def drop(self, whose: bytes, key: str) -> None:
        """Forget a request that was begun, because it may be tried again."""
        with self._lock:
            self._kept.pop((whose, key), None)

    def _forget_old(self) -> None:
        now = self._ticks_s()
        done = [
            name
            for at, (name, kept) in enumerate(self._kept.items())
            if kept.answer is not None and (kept.until_s <= now or at < len(self._kept) - self._most)
        ]
        for name in done:
            self._pop(name)
        while self._bytes > self._most_bytes:
            self._pop(next(name for name, kept in self._kept.items() if kept.answer is not None))

    def _pop(self, name: tuple[bytes, str]) -> None:
        kept = self._kept.pop(name)
        self._bytes -= 0 if kept.answer is None else len(kept.answer.body)


# --- all of it ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Service:
    """Nodes by the names of their tenants, the default one under "", and what their requests share."""

    nodes: Mapping[str, Node]
    limits: Limits
    metrics: Metrics
    public_url: str | None = None
    """The origin that clients sign for, when it is not the one that is in their requests' Host."""
    rates: RateLimiter = field(init=False)
    answers: Answers = field(init=False)
    _followers: threading.BoundedSemaphore = field(init=False)
    _held_bytes: int = field(default=0, init=False)
    _holding: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        self.rates = RateLimiter(self.limits.requests_a_minute)
        self.answers = Answers()
        # Who follows holds a thread while nothing comes: others have to be served meanwhile.
        self._followers = threading.BoundedSemaphore(max(1, self.limits.threads // 2))

    def node(self, tenant: str) -> Node:
        """The node of a tenant. Raises ``NotFound``."""
        if tenant not in self.nodes:
            raise NotFound("there is no such tenant")
        return self.nodes[tenant]

    @contextmanager
    def held(self) -> Iterator[Callable[[int], None]]:
        """Count the bytes of a body, of whomever it is, that are told to what this gives, until the block ends.

        That raises ``StoreBusy`` when it is too much of all bodies together. They are held before it is known who sends
        them, so that strangers must not be able to fill the memory.
        """
        counted = 0

        def hold(count: int) -> None:
            nonlocal counted
            with self._holding:
                if self._held_bytes + count > _BODIES * max(self.limits.body_bytes, self.limits.import_bytes):
                    raise StoreBusy("too many bodies are being read")
                self._held_bytes += count
            counted += count

        try:
            yield hold
        finally:
            with self._holding:
                self._held_bytes -= counted

    def follow(self) -> None:
        """Count one who waits for changes. Raises ``StoreBusy`` when there are too many."""
        if not self._followers.acquire(blocking=False):
            raise StoreBusy("too many wait for changes")

    def unfollow(self) -> None:
        """The one who waited waits no more."""
        self._followers.release()

    @contextmanager
    def following(self) -> Iterator[None]:
        """``follow`` and ``unfollow`` around a block."""
        self.follow()
        try:
            yield
        finally:
            self.unfollow()

"""When each part of anchoring is tried again: pure, so that a loop only has to sleep.

A part (an authority, the chain, the rollback check) that succeeds is due after the interval. One that fails is due
sooner or later than that: at first soon, then twice as long each time, within bounds, and spread by a jitter so that
many stores do not ask a recovering node in the same second. Times are milliseconds of any clock that does not go back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

__all__ = ["NO_PARTS", "Part", "Retry", "after_failure", "after_success", "due_parts", "retry_delay_ms", "wait_ms"]


@dataclass(frozen=True, slots=True)
class Retry:
    """The bounds of the back-off: the first delay, before jitter, and the longest."""

    first_ms: int = 5_000
    most_ms: int = 3_600_000

    def __post_init__(self) -> None:
        if not 0 < self.first_ms <= self.most_ms:
            raise ValueError("a back-off needs 0 < first_ms <= most_ms")


@dataclass(frozen=True, slots=True)
class Part:
    """How a part stands: how often it has failed in a row, why, and when it is due."""

    due_ms: int
    failures: int = 0
    reason: str | None = None


NO_PARTS: Final[Mapping[str, Part]] = MappingProxyType({})
"""Nothing was tried yet, so everything is due."""

_MOST_DOUBLINGS: Final = 40


def retry_delay_ms(retry: Retry, failures: int, jitter: float) -> int:
    """How long to wait after ``failures`` in a row; ``jitter`` from 0 to 1 takes up to half of it off.

    Never below half of the first delay, never above the longest.
    """
    if failures < 1 or not 0 <= jitter <= 1:
        raise ValueError("a delay follows a failure, and jitter is from 0 to 1")
    whole = min(retry.first_ms << min(failures - 1, _MOST_DOUBLINGS), retry.most_ms)
    return whole - int(whole / 2 * jitter)


def after_success(now_ms: int, interval_ms: int) -> Part:
    """A part that has done what it could, due again after the interval."""
    return Part(now_ms + interval_ms)


def after_failure(part: Part | None, now_ms: int, reason: str, retry: Retry, jitter: float) -> Part:
    """A part that has failed once more."""
    failures = 1 if part is None else part.failures + 1
    return Part(now_ms + retry_delay_ms(retry, failures, jitter), failures, reason)


def due_parts(parts: Mapping[str, Part], names: Iterable[str], now_ms: int) -> set[str]:
    """The names that are due, those that were never tried among them."""
    return {name for name in names if name not in parts or parts[name].due_ms <= now_ms}


def wait_ms(parts: Mapping[str, Part], names: Iterable[str], now_ms: int) -> int:
    """How long nothing is due, 0 when something is."""
    return max(0, min((parts[name].due_ms - now_ms if name in parts else 0 for name in names), default=0))

"""Hybrid logical clocks: a label for entries that people can read, and the tie-break between concurrent ones.

Implements docs/spec/transaction.md, section "Clock". A reading is ``milliseconds UTC << 15 | count``. It never decides
between entries of which one has seen the other: those are ordered by their hashes, so a clock that lies loses nothing
that its owner had not seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ledger.entry import MAX_CLAIMED_MS

__all__ = ["MAX_AHEAD_MS", "MAX_READING", "next_reading", "reading_at", "wall_ms"]

_COUNT_BITS: Final = 15
"""So many that the year 9999 fits a signed integer of 64 bits: its milliseconds take 48. A count that is full goes on
in the next millisecond."""

MAX_READING: Final = MAX_CLAIMED_MS << _COUNT_BITS | (1 << _COUNT_BITS) - 1
"""The last one of the year 9999."""

MAX_AHEAD_MS: Final = 5 * 60 * 1000
"""How far ahead of the wall clock somebody else's reading may be and still be adopted."""


def wall_ms(reading: int) -> int:
    """The milliseconds UTC in a reading."""
    return reading >> _COUNT_BITS


def reading_at(ms: int, *, last: bool = False) -> int:
    """The first (or ``last``) reading of a millisecond UTC."""
    return ms << _COUNT_BITS | ((1 << _COUNT_BITS) - 1 if last else 0)


def next_reading(now_ms: int, own_last: int, seen: Iterable[int] = ()) -> int:
    """The reading of a new entry: after the feed's last one, and after those that were seen, as far as they are honest.

    A reading that is more than ``MAX_AHEAD_MS`` ahead of ``now_ms`` is not adopted, so that one clock in the year 9999
    does not take every other one along. Raises nothing: past the year 9999 it stays at the last reading there is, which
    its feed can use once.
    """
    limit = reading_at(now_ms + MAX_AHEAD_MS, last=True)
    after = max((reading for reading in seen if reading <= limit), default=0)
    return min(max(reading_at(now_ms), own_last + 1, after + 1), MAX_READING)

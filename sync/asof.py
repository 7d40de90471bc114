"""As of: which part of a database's history a point in time means.

Implements docs/spec/database-history.md, section "As of". A point in time needs to say whose: when this replica came to
know, when the authors say that they wrote, or when an outside anchor shows that it was there. Each becomes a cut, and
reading at a cut is exact.
"""

from __future__ import annotations

from collections.abc import Mapping

from identity.errors import MalformedError
from ledger.entry import MAX_CLAIMED_MS
from ledger.store import FeedKey
from sync.clock import reading_at
from sync.storage.reader import Cut, Reader

__all__ = ["anchored_at", "claimed_at", "known_at", "known_at_place"]


def known_at_place(reader: Reader, place: int) -> Cut:
    """What this replica had taken in up to a place. An entry that a place cuts through is not in it.

    Raises ``MalformedError`` for a negative one.
    """
    if place < 0:
        raise MalformedError(f"place: {place} is negative")
    return reader.known(min(place, reader.newest_place()))


def known_at(reader: Reader, ms: int) -> Cut:
    """What this replica had taken in at a time of its own clock: up to the last entry that came by then.

    Raises ``MalformedError`` for a time that there is not.
    """
    _check_time(ms)
    row = reader.tx.fetch_one(reader.sql.taken_before, (reader.number, ms))
    return reader.known(0 if row is None else row[0] + row[1])


def claimed_at(reader: Reader, ms: int) -> Cut:
    """What the authors say had been written by a time: of the entries whose clocks say so, those whose whole past does.

    Nothing shows that a clock was right. Raises ``MalformedError`` for a time that there is not.
    """
    _check_time(ms)
    return reader.before_reading(reading_at(ms, last=True))


def anchored_at(reader: Reader, lengths: Mapping[FeedKey, int]) -> Cut:
    """What is shown to have been there: at most these lengths of the feeds, and of each entry its whole past.

    ``lengths`` are those of the newest checkpoint that was anchored by the time in question; that they are is taken on
    trust here. A feed that is not named had nothing.
    """
    limits = {}
    for feed, length in lengths.items():
        for branch in reader.branches.of_feed(feed):
            limits[branch.id] = length - 1
    return reader.closed(limits)


def _check_time(ms: int) -> None:
    if not 0 <= ms <= MAX_CLAIMED_MS:
        raise MalformedError(f"time: {ms} ms is not between 1970 and 9999")

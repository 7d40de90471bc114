"""As of: which part of a database's history a point in time means.

Implements docs/spec/database-history.md, section "As of". A point in time needs to say whose: when this replica came to
know, when the authors say that they wrote, or when an outside anchor shows that it was there. Each becomes a cut, and
reading at a cut is exact.
"""

from __future__ import annotations

from collections.abc import Iterable

from identity.errors import MalformedError
from ledger.entry import MAX_CLAIMED_MS
from ledger.statement import FeedHead
from ledger.store import FeedKey, stored_tree_hash
from sync.clock import reading_at
from sync.membership import Ending
from sync.storage.branches import Branch
from sync.storage.forks import vouched_end
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


def anchored_at(reader: Reader, heads: Iterable[FeedHead]) -> Cut:
    """What is shown to have been there: at most what these heads cover, and of each entry its whole past.

    ``heads`` are those that the newest checkpoint states which was anchored by the time in question, one a feed; that
    they are is taken on trust here. What they say of a feed's tree is not: of a feed that forked only the side shows
    that has that tree, and of one that has another tree here, or fewer blocks, nothing does.
    """
    limits = {}
    for head in heads:
        for branch in reader.branches.of_feed(FeedKey(head.key)):
            end = _anchored_end(reader, branch, head)
            if end:
                limits[branch.id] = end - 1
    return reader.closed(limits)


def _anchored_end(reader: Reader, branch: Branch, head: FeedHead) -> int | None:
    tracks = reader.tracks.of_feed(branch.feed)
    if tracks:
        return vouched_end(reader.branches, tracks, branch, Ending(head.length, head.length, head.tree_hash))
    state = reader.tx.feed(branch.feed)
    if state is None or state.length < head.length:
        return None
    return head.length if stored_tree_hash(reader.tx, branch.feed, head.length) == head.tree_hash else None


def _check_time(ms: int) -> None:
    if not 0 <= ms <= MAX_CLAIMED_MS:
        raise MalformedError(f"time: {ms} ms is not between 1970 and 9999")

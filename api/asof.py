"""As of: which part of a database's history a point in time means, by one of three clocks.

    known      what this replica had taken in, by its own clock
    claimed    what its authors say had been written, by theirs
    anchored   what an outside chain shows to have been there, by the time of its blocks

The first two need the database alone (``sync.asof``); for the third the anchors of this home's log are asked.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from anchoring.receipt import parse_header
from anchoring.storage import load_receipt, newest_final_anchor
from identity.errors import MissingEvidenceError
from ledger.identities import key_history
from ledger.log_writer import covered_heads
from ledger.store import FeedKey
from sync.asof import anchored_at, claimed_at, known_at, known_at_place
from sync.storage.reader import Cut, Reader

__all__ = ["AsOf", "Axis", "as_of", "as_of_place"]


class Axis(StrEnum):
    """Whose clock a point in time is of."""

    KNOWN = "known"
    CLAIMED = "claimed"
    ANCHORED = "anchored"


@dataclass(frozen=True, slots=True)
class AsOf:
    """A cut, and what it means. What has a default is said with ``anchored`` only.

    ``checkpoint`` and ``block`` are those of the anchor. ``left_out`` is how many entries that are here now are not in
    the cut, and ``unbound`` how many of them are of identities that have not bound this home's log: its anchors show
    none of those.
    """

    cut: Cut
    axis: Axis
    at_ms: int | None
    checkpoint: int | None = None
    block: int | None = None
    left_out: int = 0
    unbound: int = 0


def as_of(reader: Reader, axis: Axis, at_ms: int) -> AsOf:
    """The cut of a point in time, in milliseconds UTC.

    Raises ``MalformedError`` for a time that there is not, ``MissingEvidenceError`` when nothing was anchored by then.
    """
    if axis is Axis.KNOWN:
        return AsOf(known_at(reader, at_ms), axis, at_ms)
    if axis is Axis.CLAIMED:
        return AsOf(claimed_at(reader, at_ms), axis, at_ms)
    return _anchored(reader, at_ms)


def as_of_place(reader: Reader, place: int) -> AsOf:
    """The cut of everything that this replica had taken in up to a place, such as that of a commit."""
    return AsOf(known_at_place(reader, place), Axis.KNOWN, None)


def _anchored(reader: Reader, at_ms: int) -> AsOf:
    """The newest final anchor whose block says that it was there by then."""
    connection = reader.tx.connection
    anchor = newest_final_anchor(connection)
    while anchor is not None:
        receipt = load_receipt(connection, anchor)
        if receipt is not None and parse_header(receipt.header).timestamp_s * 1000 <= at_ms:
            feeds = {FeedKey(branch.feed) for branch in reader.branches}
            cut = anchored_at(reader, covered_heads(reader.tx, anchor.size, feeds).values())
            return AsOf(cut, Axis.ANCHORED, at_ms, anchor.size, anchor.block_number, *_left_out(reader, cut))
        anchor = newest_final_anchor(connection, below=anchor.size)
    raise MissingEvidenceError(
        "nothing was anchored by then", hint="see 'holdfast anchor status', or take another --axis: claimed, known"
    )


def _left_out(reader: Reader, cut: Cut) -> tuple[int, int]:
    """How many entries are not in the cut, and how many of them are of identities that have not bound the log."""
    counts: Counter[bytes] = Counter()
    for branch, count in reader.left_out(cut):
        counts[branch.author.identity] += count
    log = reader.tx.log()
    known = {one for one in reader.tx.identities() if one in counts}
    bound = {one for one in known if log is not None and log.log_id in key_history(reader.tx, one).logs}
    return counts.total(), sum(count for identity, count in counts.items() if identity not in bound)

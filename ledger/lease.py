"""Leases: which of several processes on one store signs for a feed now.

Implements docs/spec/storage.md section 3.7. The store's write lock and the compare-and-swap of a feed's head keep two
processes from signing one index; a lease keeps them out of each other's feeds, and out of a feed that the history of
the database itself has left behind. It is looked at in the transaction that appends, so a lease that moved on stops its
old holder before anything is signed, however wrong that one's clock may be.

Pure: ``ledger.storage.leases`` reads and writes the rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from identity.errors import StoreBusy
from ledger.store import FeedKey

__all__ = ["DURATION_MS", "HOLDER_BYTES", "Lease", "Surroundings", "claim", "lapse"]

DURATION_MS: Final = 10_000
HOLDER_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Lease:
    """Feed ``key`` is written by the process ``holder`` (16 random bytes) until ``expires_ms`` of the database's clock.

    ``epoch`` grows when the holder changes, and never falls. ``incarnation`` is the database's at that time.
    """

    key: FeedKey
    holder: bytes
    epoch: int
    expires_ms: int
    incarnation: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the database says of itself: its clock, and which history of it this is.

    ``incarnation`` changes when a replica takes over, or an archive is restored: what was acknowledged before may be
    missing after it. It is empty on an engine that has none.
    """

    now_ms: int
    incarnation: str


def claim(
    held: Lease | None, key: FeedKey, holder: bytes, known: int | None, around: Surroundings, duration_ms: int
) -> Lease | None:
    """The lease under which ``holder`` may sign for the feed, given the stored one; None when nobody may any more.

    ``known`` is the epoch under which ``holder`` believes to hold it. The result equals ``held`` when nothing has to be
    written. None means that the database has another history than the one in which the feed was leased: the feed has to
    be retired. Raises ``StoreBusy`` while another process holds the lease, and once when the caller had it and lost it:
    others wrote to the feed meanwhile.
    """
    expires_ms = around.now_ms + duration_ms
    if held is None:
        return Lease(key, holder, 1, expires_ms, around.incarnation)
    if held.incarnation != around.incarnation:
        return None
    if held.holder == holder:
        return replace(held, expires_ms=expires_ms) if 2 * (held.expires_ms - around.now_ms) < duration_ms else held
    if known is not None and held.epoch > known:
        raise StoreBusy(
            f"the lease of feed {key.hex()} was lost: another process has had it since epoch {held.epoch}",
            hint="this process was too slow to keep it; it may take it again when the other one lets go",
        )
    if held.expires_ms > around.now_ms:
        raise StoreBusy(
            f"another process writes feed {key.hex()}, for {held.expires_ms - around.now_ms} ms more at least",
            hint="write to a feed of your own, or try again when the other process has ended",
        )
    return Lease(key, holder, held.epoch + 1, expires_ms, around.incarnation)


def lapse(held: Lease | None, holder: bytes, around: Surroundings) -> Lease | None:
    """The lease given back before its time, or None when ``holder`` does not have it."""
    if held is None or held.holder != holder or held.expires_ms <= around.now_ms:
        return None
    return replace(held, expires_ms=around.now_ms)

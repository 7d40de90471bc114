"""Feeds that continue others: which of them tell one history, and which are forks.

Implements docs/spec/feed.md section 3.2. A fork within one feed shows in its heads; a writer can also tell two
histories by beginning two feeds where one belongs. Manifests alone prove nothing of that, since anybody can make one;
heads that the device signed under them do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from identity.errors import ForkDetected, RootMismatch, VerificationError
from ledger.head import signable
from ledger.manifest import Continuation, FeedDescription, Manifest, describe, feed_key, parse_manifest
from ledger.store import FeedKey, FeedState, ReadTransaction, stored_tree_hash

__all__ = [
    "check_all_lineages",
    "check_lineage",
    "find_rival",
    "find_successor",
    "first_feeds",
    "lineage_faults",
    "may_continue",
]


def find_rival(tx: ReadTransaction, manifest: Manifest) -> FeedState | None:
    """A feed of the store that is a fork with the feed of ``manifest``, or None.

    It has the same device, name and continued feed, or continues the same feed. A feed of another identity is none:
    anybody can make a manifest that names somebody's feed.
    """
    description, key = describe(manifest), feed_key(manifest)
    if description is None:
        return None
    older = description.continues
    for feed in tx.feeds():
        other = parse_manifest(feed.manifest)
        told = describe(other)
        if feed.key == key or told is None or _key(told.continues) != _key(older):
            continue
        if told.identity != description.identity:
            continue
        if older is not None or (other.signers, told.name) == (manifest.signers, description.name):
            return feed
    return None


def find_successor(tx: ReadTransaction, key: FeedKey) -> FeedState | None:
    """A feed of the store that continues the feed ``key``, or None. To one that is continued nothing is appended.

    Only the same identity continues a feed: else a stranger could end anybody's.
    """
    older = tx.feed(key)
    owner = None if older is None else describe(parse_manifest(older.manifest))
    for feed in tx.feeds():
        # A manifest that continues a feed holds its key as it is: parsing all of them would cost far more.
        told = describe(parse_manifest(feed.manifest)) if feed.manifest.count(key) else None
        if told is not None and _key(told.continues) == key and (owner is None or told.identity == owner.identity):
            return feed
    return None


def check_lineage(tx: ReadTransaction, state: FeedState, manifest: Manifest) -> None:
    """Return only when the feed and those it continues, or that continue it, tell one history as far as they are here.

    ``state`` is where the feed stands in ``tx``; feeds without a signed head claim nothing yet. Raises
    ``ForkDetected`` with a signed head of each of two rivals (signable || signature), ``RootMismatch`` when a feed
    takes over another tree than the older feed has at that length.
    """
    if not state.length:
        return
    rival = find_rival(tx, manifest)
    if rival is not None and rival.length:
        raise _forked(tx, rival, state)
    description = describe(manifest)
    if description is not None and description.continues is not None:
        _check_taken_over(tx, description.identity, description.continues)
    for feed in tx.feeds():
        told = describe(parse_manifest(feed.manifest)) if feed.length else None
        if told is None or told.continues is None or told.continues.key != state.key:
            continue
        _check_taken_over(tx, told.identity, told.continues)


def check_all_lineages(tx: ReadTransaction) -> None:
    """``check_lineage`` for every feed of the store, in one pass. Raises as it does."""
    for _, fault in lineage_faults(tx):
        raise fault


def lineage_faults(tx: ReadTransaction) -> Iterator[tuple[FeedKey, VerificationError]]:
    """Each feed that does not tell one history with the others, and what ``check_lineage`` would raise about it."""
    places: dict[object, FeedState] = {}
    for state in tx.feeds():
        manifest = parse_manifest(state.manifest)
        description = describe(manifest)
        if description is None or not state.length:
            continue
        older = description.continues
        place = (description.identity, (manifest.signers, description.name) if older is None else older.key)
        rival = places.setdefault(place, state)
        if rival is not state:
            yield state.key, _forked(tx, rival, state)
        if older is not None:
            try:
                _check_taken_over(tx, description.identity, older)
            except RootMismatch as exc:
                yield state.key, exc


def _forked(tx: ReadTransaction, one: FeedState, other: FeedState) -> ForkDetected:
    return ForkDetected(
        f"feeds {one.key.hex()} and {other.key.hex()} are two where the device may have one",
        first=_newest_statement(tx, one),
        second=_newest_statement(tx, other),
    )


def _key(older: Continuation | None) -> FeedKey | None:
    return None if older is None else older.key


def _check_taken_over(tx: ReadTransaction, identity: bytes, older: Continuation) -> None:
    """Hold what a feed of ``identity`` takes over against the older feed, where that is here, long enough, and not
    somebody else's: then it takes over nothing."""
    held = tx.feed(older.key)
    if held is None or held.length < older.length or not may_continue(identity, held):
        return
    found = stored_tree_hash(tx, older.key, older.length)
    if found != older.tree_hash:
        what = f"feed {older.key.hex()}, continued from {older.length} blocks"
        raise RootMismatch(what, expected=older.tree_hash, computed=found)


def may_continue(identity: bytes, older: FeedState) -> bool:
    """Whether a feed of ``identity`` can go on from a feed: what one of somebody else says of it binds nobody."""
    owner = describe(parse_manifest(older.manifest))
    return owner is None or owner.identity == identity


def _newest_statement(tx: ReadTransaction, feed: FeedState) -> bytes:
    head = next(iter(tx.heads(feed.key, feed.length - 1)))
    return signable(feed.key, head.tree_hash, head.length) + head.signature


def first_feeds(feeds: Mapping[FeedKey, FeedDescription | None], most: int) -> list[FeedKey]:
    """At most so many of these feeds: those that continue none of them, then those that continue one of these, and on.

    Who has a device's key can only go on from its feeds, so what they begin stands behind what was there.
    """
    depth: dict[FeedKey, int] = {}
    for key in feeds:
        chain: list[FeedKey] = []
        at: FeedKey | None = key
        while at is not None and at in feeds and at not in depth:
            chain.append(at)
            description = feeds[at]
            at = None if description is None or description.continues is None else description.continues.key
        start = -1 if at is None else depth.get(at, -1)
        depth.update((one, start + steps) for steps, one in enumerate(reversed(chain), 1))
    return sorted(feeds, key=lambda key: (depth[key], key))[:most]

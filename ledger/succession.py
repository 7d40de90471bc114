"""Going on in new feeds: when a store may hold less than this node has signed, none of its feeds is signed again.

Implements docs/spec/sentinel.md, section "New feeds". Restoring, a lost sentinel, a copy on another machine and a start
without the chain all come here. Retiring a feed is for ever; the feed that continues it is of the same device and name
and says from which length it goes on. It takes no key: an empty feed has nothing to sign.
"""

from __future__ import annotations

from collections.abc import Container

from identity.errors import DamagedFile, RefusedError, RootMismatch
from ledger.feed import check_device, create_feed_in, feed_state
from ledger.head import FORK, verify_head
from ledger.identities import key_history
from ledger.lineage import find_successor
from ledger.manifest import Continuation, Manifest, describe, device_key, feed_key, parse_manifest
from ledger.merkle import TreeBuilder, tree_hash
from ledger.store import FeedKey, FeedState, ReadTransaction, WriteTransaction

__all__ = [
    "continue_feed",
    "copy_feed_to",
    "feed_to_append",
    "newest_continuation",
    "retire_local_feeds",
    "was_written_here",
]


def retire_local_feeds(tx: WriteTransaction, keep: Container[FeedKey] = ()) -> list[FeedKey]:
    """Retire every feed that this node writes but those in ``keep``. Returns those that were not retired before."""
    active = [feed.key for feed in tx.feeds() if feed.local and not feed.retired and feed.key not in keep]
    for key in active:
        tx.retire_feed(key)
    return active


def continue_feed(tx: WriteTransaction, key: FeedKey, nonce: bytes) -> FeedKey:
    """A new feed of the same device and name that goes on where the feed ends here; the feed is retired.

    ``nonce``: 16 random bytes, so that it is a feed that nobody has ever signed, whatever this store has forgotten.

    Raises ``RefusedError`` when the feed is not written here, is not a feed of ours, was continued already, or its
    device may not write any more.
    """
    state = feed_state(tx, key)
    manifest = parse_manifest(state.manifest)
    description = describe(manifest)
    if description is None or not state.local:
        raise RefusedError(f"feed {key.hex()} is not written here")
    check_device(key_history(tx, description.identity), device_key(manifest))
    older = Continuation(key, state.length, tree_hash(state.roots), nonce)
    return create_feed_in(tx, device_key(manifest), description.identity, description.name, older)


def feed_to_append(
    tx: WriteTransaction, key: FeedKey, begun: set[FeedKey], nonce: bytes, *, only_begun: bool
) -> FeedKey:
    """The feed that entries for this one go into: itself, or one that continues it, which is begun here if need be.

    ``begun`` are the feeds that this process has begun for that; a new one is added to them. With ``only_begun`` no
    other may grow. A retired feed that somebody else has continued is given as it is: whoever names it by its key is
    told. ``nonce`` and errors as in ``continue_feed``.
    """
    state = tx.feed(key)
    if state is not None and state.local and not state.retired and (key in begun or not only_begun):
        return key  # nearly always, and without reading all feeds
    newest = newest_continuation(tx, key)
    if newest != key and newest not in begun:
        return key
    state = tx.feed(newest)
    if state is None or not state.local or _is_continued(tx, newest):
        return newest
    if not state.retired and (newest in begun or not only_begun):
        return newest
    following = continue_feed(tx, newest, nonce)
    begun.add(following)
    return following


def _is_continued(tx: ReadTransaction, key: FeedKey) -> bool:
    return find_successor(tx, key) is not None


def copy_feed_to(tx: WriteTransaction, source: ReadTransaction, feed: FeedState) -> None:
    """Copy a feed of ``source`` to another store, every block, node and head, after verifying all of them.

    It is as local there as it was here, and retired when it is local: where it is written from now on is not the place
    that it was written from. Raises ``DamagedFile``, ``RootMismatch`` or ``SignatureMismatch``.
    """
    manifest = parse_manifest(feed.manifest)
    state = tx.create_feed(feed.key, feed.manifest, local=feed.local)
    tree = TreeBuilder()
    for head in source.heads(feed.key):
        blocks = list(source.blocks(feed.key, tree.length, head.length))
        nodes = tree.append_many(blocks)
        computed = tree.tree_hash()
        if computed != head.tree_hash:
            raise RootMismatch(f"feed {feed.key.hex()}, head {head.length}", expected=head.tree_hash, computed=computed)
        verify_head(manifest, head.tree_hash, head.length, FORK, head.signature)
        state = tx.append(state, blocks, nodes, head, tree.roots)
    if state.length != feed.length:
        raise DamagedFile(f"feed {feed.key.hex()}: no signed head of {feed.length} blocks")
    if feed.local:
        tx.retire_feed(feed.key)


def newest_continuation(tx: ReadTransaction, key: FeedKey) -> FeedKey:
    """The feed that goes on from this one, or from the one that does, and so on: the last of them that is here.

    Only feeds of the same name count, and only those that this node writes.
    """
    following: dict[tuple[FeedKey, str], FeedKey] = {}
    names: dict[FeedKey, str] = {}
    for feed in tx.feeds():
        description = describe(parse_manifest(feed.manifest))
        if description is None or not feed.local:
            continue
        names[feed.key] = description.name
        if description.continues is not None:
            following[description.continues.key, description.name] = feed.key
    name = names.get(key)
    # A feed's key is the hash of what names the older one, so this cannot go round in a circle.
    while name is not None and (key, name) in following:
        key = following[key, name]
    return key


def was_written_here(tx: ReadTransaction, manifest: Manifest) -> bool:
    """Whether a feed that comes from somebody else, and is new here, is one that this node wrote and has forgotten.

    Its device signs feeds of this store, and it stands where that device's next feed would: it goes on from a retired
    one, or is the device's first of that name. Such a feed has to come in as a local one, retired: else this node would
    begin another feed in its place, and that is a fork.
    """
    description = describe(manifest)
    if description is None:
        return False
    own: list[tuple[FeedState, str, bool]] = []
    for state in tx.feeds():
        if not state.local or state.key == feed_key(manifest):
            continue
        other = parse_manifest(state.manifest)
        told = describe(other)
        if told is not None and told.identity == description.identity:
            own.append((state, told.name, other.signers == manifest.signers))
    if not any(is_same for _, _, is_same in own):
        return False
    if description.continues is None:
        return not any(is_same and name == description.name for _, name, is_same in own)
    older = description.continues.key
    return any(
        is_same and name == description.name and state.key == older and state.retired for state, name, is_same in own
    )

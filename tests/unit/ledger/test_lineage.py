"""Feeds that continue others: two where the device may have one are a fork; what is taken over must be what it was."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest

from identity.errors import ForkDetected, RefusedError, RootMismatch
from ledger.feed import append, create_feed
from ledger.head import SIGNABLE_BYTES, sign_head
from ledger.identities import add_events
from ledger.lineage import find_successor, first_feeds, lineage_faults
from ledger.manifest import Continuation, FeedDescription, device_manifest, encode_manifest, feed_key
from ledger.merkle import EMPTY_TREE_HASH, TreeBuilder
from ledger.storage.memory import MemoryStore
from ledger.store import FeedKey, SignedHead, Store
from ledger.transfer import export_feed, ingest_feed


@pytest.fixture(params=["memory", "sqlite"])
def target(request: pytest.FixtureRequest, tmp_path: Any, new_sqlite: Any) -> Iterator[Store]:
    store = MemoryStore() if request.param == "memory" else new_sqlite(tmp_path / "target.db")
    yield store
    store.close()


def take_in(target: Store, source: Store, key: FeedKey) -> None:
    out = io.BytesIO()
    export_feed(source, key, out)
    ingest_feed(target, io.BytesIO(out.getvalue()))


def force(member: Any, name: str, continues: Continuation | None, *blocks: bytes) -> tuple[MemoryStore, FeedKey]:
    """A store whose owner keeps no rules: the feed as it was asked for."""
    store = MemoryStore()
    manifest = device_manifest(member.device.public_key, FeedDescription(member.identity, name, continues))
    key = feed_key(manifest)
    with store.write() as tx:
        add_events(tx, member.identity, member.events)
        state = tx.create_feed(key, encode_manifest(manifest), local=True)
        if blocks:
            tree = TreeBuilder()
            nodes = tree.append_many(blocks)
            head = SignedHead(
                tree.length, tree.tree_hash(), sign_head(member.device, key, tree.tree_hash(), tree.length)
            )
            tx.append(state, blocks, nodes, head, tree.roots)
    return store, key


def older(store: Store, key: FeedKey, length: int) -> Continuation:
    with store.read() as tx:
        head = tx.head(key, length)
    assert head is not None
    return Continuation(key, length, head.tree_hash)


def test_a_continuation_arrives_before_or_after_what_it_continues(member: Any, fill_feed: Any, target: Store) -> None:
    source = MemoryStore()
    old = fill_feed(source, member, [[b"a"], [b"b", b"c"]])
    new = create_feed(source, member.device, member.identity, "notes", older(source, old, 1))
    append(source, new, member.device, [b"d"])
    for key in (new, old, new):
        take_in(target, source, key)
    with target.read() as tx:
        assert [feed.length for feed in tx.feeds()] == [1, 3]


def test_two_continuations_are_a_fork(member: Any, fill_feed: Any, target: Store) -> None:
    old = fill_feed(MemoryStore(), member, [[b"a"]])
    first = force(member, "notes", Continuation(old, 0, EMPTY_TREE_HASH), b"one")
    second = force(member, "other name", Continuation(old, 1, bytes(32)), b"two")
    take_in(target, *first)
    with pytest.raises(ForkDetected) as caught:
        take_in(target, *second)
    for statement, (_, key) in ((caught.value.first, first), (caught.value.second, second)):
        assert statement[32:64] == key
        assert len(statement) == SIGNABLE_BYTES + 68
    with target.read() as tx:
        assert [feed.key for feed in tx.feeds()] == [first[1]]


def test_two_feeds_of_one_name_are_a_fork_whatever_they_take_over(member: Any, fill_feed: Any, target: Store) -> None:
    old = fill_feed(MemoryStore(), member, [[b"a"]])
    take_in(target, *force(member, "notes", Continuation(old, 0, EMPTY_TREE_HASH), b"one"))
    with pytest.raises(ForkDetected):
        take_in(target, *force(member, "notes", Continuation(old, 1, bytes(32)), b"two"))


def test_a_manifest_that_was_never_signed_under_accuses_nobody(member: Any, target: Store) -> None:
    key = FeedKey(bytes(32))
    take_in(target, *force(member, "notes", Continuation(key, 1, bytes(32))))
    take_in(target, *force(member, "other", Continuation(key, 2, bytes(32)), b"one"))
    with target.read() as tx:
        assert sorted(feed.length for feed in tx.feeds()) == [0, 1]


@pytest.mark.parametrize("old_first", [True, False])
def test_what_is_taken_over_was_something_else(member: Any, fill_feed: Any, target: Store, old_first: bool) -> None:
    source = MemoryStore()
    old = fill_feed(source, member, [[b"a"], [b"b"]])
    feeds = [(source, old), force(member, "notes", Continuation(old, 1, bytes(32)), b"c")]
    first, second = feeds if old_first else reversed(feeds)
    take_in(target, *first)
    with pytest.raises(RootMismatch, match="continued from 1"):
        take_in(target, *second)


def test_a_feed_of_ours_beside_its_rival_is_not_begun(member: Any, known: Store, fill_feed: Any) -> None:
    old = fill_feed(known, member, [[b"a"]])
    take_in(known, *force(member, "notes", Continuation(old, 0, EMPTY_TREE_HASH), b"one"))
    with pytest.raises(RefusedError, match="would be a fork"):
        create_feed(known, member.device, member.identity, "notes", older(known, old, 1))


def test_a_stranger_continues_nobodys_feed(member: Any, new_member: Any, fill_feed: Any, target: Store) -> None:
    source = MemoryStore()
    old = fill_feed(source, member, [[b"a"], [b"b"]])
    taking, theirs = force(new_member(7), "notes", older(source, old, 1), b"mine now")
    lying, lies = force(new_member(8), "notes", Continuation(old, 2, b"\7" * 32), b"another tree")
    for store, key in ((taking, theirs), (lying, lies), (source, old)):
        take_in(target, store, key)
    with target.read() as tx:
        assert find_successor(tx, old) is None
        assert list(lineage_faults(tx)) == []  # a lie about the tree binds nobody, and makes nobody's store a bad one
    new = create_feed(source, member.device, member.identity, "notes", older(source, old, 2))
    append(source, new, member.device, [b"c"])
    take_in(target, source, new)
    with target.read() as tx:
        successor = find_successor(tx, old)
        assert successor is not None
        assert successor.key == new


def test_the_first_feeds_are_those_that_others_go_on_from() -> None:
    keys = [FeedKey(bytes([number]) * 32) for number in range(6)]
    older = {0: 3, 3: 5, 1: 0, 4: None, 2: 9}  # the one behind the other: 5, 3, 0, 1; two more, one of an absent one
    feeds = {
        key: FeedDescription(
            bytes(32),
            "notes",
            None if older.get(at) is None else Continuation(FeedKey(bytes([older[at]]) * 32), 1, bytes(32)),
        )
        for at, key in enumerate(keys)
    }
    assert first_feeds(feeds, 9) == [keys[at] for at in (2, 4, 5, 3, 0, 1)]
    assert first_feeds(feeds, 4) == [keys[at] for at in (2, 4, 5, 3)]
    assert first_feeds({keys[0]: None}, 4) == [keys[0]]

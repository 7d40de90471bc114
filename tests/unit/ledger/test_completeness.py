"""What a store holds less, or otherwise, than its own log states."""

from __future__ import annotations

from typing import Any

from ledger.completeness import Shortfall, find_shortfalls
from ledger.feed import head_covering
from ledger.statement import FeedHead
from ledger.store import FeedKey, Store


def stated(store: Store, key: FeedKey, index: int) -> FeedHead:
    with store.read() as tx:
        head = head_covering(tx, key, index)
    return FeedHead(key, head.length, head.tree_hash)


def found(store: Store, *heads: FeedHead) -> list[Shortfall]:
    with store.read() as tx:
        return find_shortfalls(tx, {head.key: head for head in heads})


def test_what_the_log_states_is_here(known: Store, member: Any, fill_feed: Any) -> None:
    key = fill_feed(known, member, [[b"a"], [b"b", b"c"]])
    assert found(known, stated(known, key, 0)) == []
    assert found(known, stated(known, key, 2)) == []
    assert found(known) == []


def test_a_feed_that_is_shorter_or_gone(known: Store, member: Any, fill_feed: Any) -> None:
    key = fill_feed(known, member, [[b"a"]])
    other = FeedKey(bytes(32))
    heads = FeedHead(key, 3, bytes(32)), FeedHead(other, 2, bytes(32))
    assert found(known, *heads) == [Shortfall(key, 1, 3, True), Shortfall(other, 0, 2, True)]


def test_a_feed_of_another_history(known: Store, member: Any, fill_feed: Any) -> None:
    key = fill_feed(known, member, [[b"a"], [b"b"]])
    assert found(known, FeedHead(key, 1, bytes(32))) == [Shortfall(key, 2, 1, False)]

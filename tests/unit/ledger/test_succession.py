"""Feeds that this node wrote and has forgotten: they come back as its own, retired, and others' never do."""

from __future__ import annotations

import io
from typing import Any

import pytest

from identity.errors import RefusedError
from identity.history import parse_signed_event
from ledger.feed import append, create_feed
from ledger.identities import add_events
from ledger.manifest import Continuation
from ledger.storage.memory import MemoryStore
from ledger.store import FeedKey, FeedState, Store
from ledger.succession import continue_feed, copy_feed_to, newest_continuation
from ledger.transfer import export_feed, ingest_feed

NONCE = b"n" * 16


@pytest.fixture
def source() -> MemoryStore:
    return MemoryStore()


def take_in(target: Store, source: Store, key: FeedKey) -> FeedState:
    out = io.BytesIO()
    export_feed(source, key, out)
    ingest_feed(target, io.BytesIO(out.getvalue()))
    with target.read() as tx:
        state = tx.feed(key)
    assert state is not None
    return state


def copy_of(source: MemoryStore, *keys: FeedKey) -> MemoryStore:
    """A store that was put back: it has these feeds, as its own, and retired."""
    target = MemoryStore()
    with source.read() as tx:
        identity = tx.identities()[0]
        events = tx.identity_events(identity)
    with target.write() as tx, source.read() as held:
        add_events(tx, identity, [parse_signed_event(one.signed_event) for one in events])
        for key in keys:
            state = held.feed(key)
            assert state is not None
            copy_feed_to(tx, held, state)
    return target


def older(store: Store, key: FeedKey) -> Continuation:
    with store.read() as tx:
        state = tx.feed(key)
        assert state is not None
        head = tx.head(key, state.length)
    assert head is not None
    return Continuation(key, head.length, head.tree_hash)


def test_what_went_on_from_a_retired_feed_comes_back_and_is_gone_on_from(
    member: Any, fill_feed: Any, source: MemoryStore
) -> None:
    old = fill_feed(source, member, [[b"a"]])
    restored = copy_of(source, old)
    new = create_feed(source, member.device, member.identity, "notes", older(source, old))
    append(source, new, member.device, [b"b"])
    state = take_in(restored, source, new)
    assert (state.local, state.retired) == (True, True)
    with restored.write() as tx:
        assert newest_continuation(tx, old) == new
        with pytest.raises(RefusedError):
            continue_feed(tx, old, NONCE)  # it would be the rival of the one that came back
        following = continue_feed(tx, new, NONCE)
    append(restored, following, member.device, [b"c"])


def test_a_first_feed_of_a_device_that_writes_here_comes_back(member: Any, fill_feed: Any, source: MemoryStore) -> None:
    old = fill_feed(source, member, [[b"a"]])
    restored = copy_of(source, old)
    other = create_feed(source, member.device, member.identity, "other")
    append(source, other, member.device, [b"b"])
    assert take_in(restored, source, other).retired


def test_a_device_that_writes_nothing_here_is_somebody_elses(member: Any, fill_feed: Any, source: MemoryStore) -> None:
    state = take_in(MemoryStore(), source, fill_feed(source, member, [[b"a"]]))
    assert (state.local, state.retired) == (False, False)


def test_what_goes_on_from_a_feed_that_is_still_written_is_a_copys(
    member: Any, fill_feed: Any, source: MemoryStore
) -> None:
    """A clone of this node has begun it. It is not taken over, or the two would take turns in silencing each other."""
    old = fill_feed(source, member, [[b"a"]])
    writing = copy_of(source, old)
    clone = create_feed(source, member.device, member.identity, "notes", older(source, old))
    append(source, clone, member.device, [b"b"])
    with writing.write() as tx:
        going_on = continue_feed(tx, old, NONCE)
    append(writing, going_on, member.device, [b"c"])
    further = create_feed(source, member.device, member.identity, "notes", older(source, clone))
    append(source, further, member.device, [b"d"])
    assert not take_in(writing, source, further).local

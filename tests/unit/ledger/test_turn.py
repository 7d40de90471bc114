"""One turn: what conditions see, what a refused item leaves behind, and that a feed is signed once."""

from __future__ import annotations

from typing import Any

import pytest

from identity.errors import ConflictError, DamagedFile, MissingEvidenceError, RefusedError, StorageError, StoreBusy
from identity.keys import Ed25519Signer
from ledger.feed import append, create_feed
from ledger.identities import add_events
from ledger.merkle import TreeBuilder
from ledger.noderow import pack_nodes
from ledger.storage.memory import MemoryStore
from ledger.storage.sql import SqlWriteTransaction
from ledger.storage.sqlite import open_sqlite
from ledger.store import FeedKey, ReadTransaction, Store, WriteTransaction
from ledger.turn import ItemFailed, OpenFeeds, SigningFailed, Turn


class CountingSigner:
    """A device key that says how often it was used, or refuses."""

    def __init__(self, inner: Ed25519Signer) -> None:
        self._inner = inner
        self.signed: list[bytes] = []
        self.broken = False

    @property
    def public_key(self) -> bytes:
        return self._inner.public_key

    def sign(self, message: bytes) -> bytes:
        if self.broken:
            raise OSError("the token was pulled out")
        self.signed.append(message)
        return self._inner.sign(message)


@pytest.fixture
def signer(member: Any) -> CountingSigner:
    return CountingSigner(member.device)


@pytest.fixture
def feeds(signer: CountingSigner) -> OpenFeeds:
    return OpenFeeds([signer])


@pytest.fixture
def key(known: Store, member: Any) -> FeedKey:
    return create_feed(known, member.device, member.identity, "notes")


def test_items_of_a_feed_are_signed_once(
    known: Store, key: FeedKey, feeds: OpenFeeds, signer: CountingSigner, member: Any
) -> None:
    other = create_feed(known, member.device, member.identity, "other")
    append(known, key, member.device, [b"before"])
    with known.write() as tx:
        turn = Turn(tx, feeds)
        taken = [turn.take(*item, None)[1] for item in ((key, [b"a", b"b"]), (other, [b"x"]), (key, [b"c"]))]
        results = turn.finish()
    assert taken == [1, 0, 3]
    assert [(result.key, result.start, result.length) for result in results] == [(key, 1, 4), (other, 0, 1)]
    assert len(signer.signed) == 2
    with known.read() as tx:
        assert list(tx.blocks(key, 0, 4)) == [b"before", b"a", b"b", b"c"]
        assert tx.head(key, 4) == results[0].head
        assert [head.length for head in tx.heads(key)] == [1, 4]


def test_turn_that_took_nothing_signs_nothing(
    known: Store, key: FeedKey, feeds: OpenFeeds, signer: CountingSigner
) -> None:
    def refuse(turn: Turn) -> None:
        raise ConflictError("lost")

    with known.write() as tx:
        turn = Turn(tx, feeds)
        with pytest.raises(ItemFailed):
            turn.take(key, [b"a"], refuse)
        assert turn.finish() == []
    assert signer.signed == []


@pytest.mark.parametrize("before", [0, 1, 5, 8])
def test_condition_sees_what_the_turn_took_before_it(
    known: Store, key: FeedKey, feeds: OpenFeeds, member: Any, before: int
) -> None:
    stored = [b"stored %d" % index for index in range(before)]
    fresh = [b"fresh %d" % index for index in range(6)]
    if stored:
        append(known, key, member.device, stored)
    tree = TreeBuilder()
    rows = tree.append_many([*stored, *fresh])
    length = before + 6

    def look(tx: ReadTransaction) -> None:
        state = tx.feed(key)
        assert state is not None
        assert (state.length, state.roots, state.byte_length) == (length, tree.roots, tree.byte_length)
        assert tx.feeds() == [state]
        assert list(tx.blocks(key, 0, length)) == [*stored, *fresh]
        assert list(tx.blocks(key, 3, length - 2)) == [*stored, *fresh][3 : length - 2]
        assert [tx.block(key, index) for index in range(length)] == [*stored, *fresh]
        assert list(tx.tree_rows(key, 0, length)) == [pack_nodes(row) for row in rows]
        assert [[tx.node(key, node.index) for node in row] for row in rows] == [list(row) for row in rows]
        assert [head.length for head in tx.heads(key)] == ([before] if before else [])
        for absent in (lambda: tx.block(key, length), lambda: tx.node(key, 2 * length), lambda: tx.block(key, -1)):
            with pytest.raises(MissingEvidenceError):
                absent()
        for absent_range in (tx.blocks(key, length - 1, length + 1), tx.tree_rows(key, length - 1, length + 1)):
            next(absent_range)
            with pytest.raises(MissingEvidenceError):
                next(absent_range)
        assert tx.identities() == [member.identity]
        assert len(tx.identity_events(member.identity)) == 2
        assert (tx.log(), tx.checkpoint(1), list(tx.checkpoints())) == (None, None, [])

    with known.write() as tx:
        turn = Turn(tx, feeds)
        turn.take(key, fresh[:2], None)
        turn.take(key, fresh[2:], lambda turn: turn.feed(key))
        assert turn.take(key, [b"last"], look) == (key, length, length + 1)
        turn.finish()


def test_two_items_that_expect_one_place(known: Store, key: FeedKey, feeds: OpenFeeds) -> None:
    def expect_empty(turn: Turn) -> None:
        state = turn.feed(key)
        if state is None or state.length:
            raise ConflictError("somebody was faster")

    with known.write() as tx:
        turn = Turn(tx, feeds)
        turn.take(key, [b"first"], expect_empty)
        with pytest.raises(ItemFailed) as caught:
            turn.take(key, [b"second"], expect_empty)
        turn.take(key, [b"third"], None)
        turn.finish()
    assert isinstance(caught.value.error, ConflictError)
    with known.read() as tx:
        assert list(tx.blocks(key, 0, 2)) == [b"first", b"third"]


def test_what_a_refused_condition_wrote_is_undone(
    tmp_path: Any, new_sqlite: Any, feeds: OpenFeeds, member: Any
) -> None:
    store = new_sqlite(tmp_path / "store.db")
    with store.write() as tx:
        add_events(tx, member.identity, member.events)
        tx.connection.exec_driver_sql("CREATE TABLE projection (at INTEGER)")
    key = create_feed(store, member.device, member.identity, "notes")

    def project(turn: Turn) -> None:
        state = turn.feed(key)
        assert state is not None
        turn.connection.exec_driver_sql(f"INSERT INTO projection VALUES ({state.length})")
        if state.length == 1:
            raise ValueError("of a foreign type")

    with store.write() as tx:
        turn = Turn(tx, feeds)
        turn.take(key, [b"a"], project)
        with pytest.raises(ItemFailed, match="foreign"):
            turn.take(key, [b"b"], project)
        turn.take(key, [b"c"], None)
        turn.take(key, [b"d"], project)
        turn.finish()
    with store.read() as tx:
        assert tx.connection.exec_driver_sql("SELECT at FROM projection").scalars().all() == [0, 2]
        assert list(tx.blocks(key, 0, 3)) == [b"a", b"c", b"d"]


def test_only_a_condition_that_can_write_has_a_savepoint(
    tmp_path: Any, new_sqlite: Any, feeds: OpenFeeds, member: Any, fill_feed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new_sqlite(tmp_path / "store.db")
    key = fill_feed(store, member, [])
    savepoints = []
    original = SqlWriteTransaction.savepoint
    monkeypatch.setattr(SqlWriteTransaction, "savepoint", lambda tx: savepoints.append(tx) or original(tx))
    with store.write() as tx:
        turn = Turn(tx, feeds)
        turn.take(key, [b"a"], lambda turn: turn.feed(key))
        assert savepoints == []
        turn.take(key, [b"b"], lambda turn: (turn.connection, turn.connection))
        assert len(savepoints) == 1
        turn.take(key, [b"c"], lambda turn: turn.connection)
        assert len(savepoints) == 2
        turn.finish()


def test_revoked_between_two_turns(known: Store, key: FeedKey, feeds: OpenFeeds, member: Any) -> None:
    with known.write() as tx:
        turn = Turn(tx, feeds)
        turn.take(key, [b"a"], None)
        turn.finish()
    with known.write() as tx:
        add_events(tx, member.identity, [member.revocation()])
    with known.write() as tx:
        turn = Turn(tx, feeds)
        for _ in range(2):
            with pytest.raises(ItemFailed, match="revoked"):
                turn.take(key, [b"b"], None)
        assert turn.finish() == []


def test_retired_between_two_turns(known: Store, key: FeedKey, feeds: OpenFeeds) -> None:
    with known.write() as tx:
        Turn(tx, feeds).take(key, [b"not finished, so not written"], None)
    with known.write() as tx:
        tx.retire_feed(key)
    with known.write() as tx, pytest.raises(ItemFailed) as caught:
        Turn(tx, feeds).take(key, [b"b"], None)
    assert isinstance(caught.value.error, RefusedError)


def test_feeds_that_cannot_be_written(known: Store, member: Any, new_member: Any, feeds: OpenFeeds) -> None:
    other = new_member(1)
    with known.write() as tx:
        add_events(tx, other.identity, other.events)
    anothers = create_feed(known, other.device, other.identity, "notes")
    with known.write() as tx:
        turn = Turn(tx, feeds)
        for key, kind in ((anothers, RefusedError), (FeedKey(b"?" * 32), MissingEvidenceError)):
            with pytest.raises(ItemFailed) as caught:
                turn.take(key, [b"a"], None)
            assert isinstance(caught.value.error, kind)


def test_feed_whose_end_is_damaged(tmp_path: Any, new_sqlite: Any, fill_feed: Any, tamper: Any, member: Any) -> None:
    path = tmp_path / "store.db"
    store = new_sqlite(path)
    key = fill_feed(store, member, [[b"a"], [b"b"]])
    whole = create_feed(store, member.device, member.identity, "whole")
    store.close()
    tamper(path, f"UPDATE block SET data = x'00' WHERE pos = {(1 << 40) + 1}")
    with open_sqlite(path).write() as tx:
        turn = Turn(tx, OpenFeeds([member.device]))
        with pytest.raises(ItemFailed) as caught:
            turn.take(key, [b"c"], None)
        assert isinstance(caught.value.error, DamagedFile)
        turn.take(whole, [b"x"], None)
        assert [result.key for result in turn.finish()] == [whole]


def test_signer_that_fails_names_its_feed(known: Store, key: FeedKey, feeds: OpenFeeds, signer: CountingSigner) -> None:
    signer.broken = True

    def one_turn() -> None:
        with known.write() as tx:
            turn = Turn(tx, feeds)
            turn.take(key, [b"a"], None)
            turn.finish()

    with pytest.raises(SigningFailed) as caught:
        one_turn()
    assert caught.value.key == key
    assert isinstance(caught.value.error, OSError)
    with known.read() as tx:
        assert list(tx.heads(key)) == []


class Refusing:
    """A keeper that lets nobody sign."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.asked = 0

    def hold(self, tx: WriteTransaction, key: FeedKey) -> None:
        self.asked += 1
        raise self.error


def test_keeper_is_asked_once_a_turn(known: Store, key: FeedKey, signer: CountingSigner) -> None:
    keeper = Refusing(StoreBusy("another process holds the lease"))
    with known.write() as tx:
        turn = Turn(tx, OpenFeeds([signer], keeper))
        for _ in range(3):
            with pytest.raises(ItemFailed, match="lease"):
                turn.take(key, [b"a"], None)
        turn.finish()
    assert (keeper.asked, signer.signed) == (1, [])


def test_store_that_fails_while_a_feed_is_opened_loses_the_turn(known: Store, key: FeedKey, member: Any) -> None:
    with known.write() as tx, pytest.raises(StorageError, match="gone"):
        Turn(tx, OpenFeeds([member.device], Refusing(StorageError("gone")))).take(key, [b"a"], None)


def test_turn_on_a_store_without_sql(member: Any) -> None:
    store = MemoryStore()
    with store.write() as tx, pytest.raises(AttributeError):
        Turn(tx, OpenFeeds([member.device])).connection  # noqa: B018

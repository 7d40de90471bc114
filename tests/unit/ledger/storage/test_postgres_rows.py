"""Rows on their way to PostgreSQL: in one statement or by COPY, and the feed's row that is read with the lock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from identity.errors import ConflictError, DamagedFile
from ledger.merkle import TreeBuilder
from ledger.noderow import pack_nodes
from ledger.storage import postgres_rows
from ledger.storage.engine import open_store
from ledger.store import FeedKey, FeedState, SignedHead, Store

OTHER = FeedKey(b"o" * 32)


@pytest.fixture
def store(empty_postgres: str) -> Iterator[Store]:
    with closing(open_store(empty_postgres)) as opened:
        yield opened


@pytest.fixture
def other_process(empty_postgres: str) -> Iterator[Store]:
    """The same store, with nothing that this process remembers of it."""
    with closing(open_store(empty_postgres)) as opened:
        yield opened


@pytest.fixture(params=["one statement", "copy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Appends of any size go that way."""
    monkeypatch.setattr(postgres_rows, "_COPY_FROM", 1 if request.param == "copy" else 1 << 20)


def created(store: Store, key: FeedKey) -> FeedState:
    with store.write() as tx:
        return tx.create_feed(key, b"a manifest", local=True)


def grown(store: Store, state: FeedState, grow: Callable[..., FeedState], blocks: list[bytes]) -> FeedState:
    with store.write() as tx:
        return grow(tx, state, blocks)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("blocks", [[b""], [b"a", b"", b"c" * 70_000], [b"%d" % n for n in range(3000)]])
def test_every_way_stores_the_same_rows(store: Store, key: FeedKey, grow: Any, blocks: list[bytes]) -> None:
    state = grown(store, created(store, key), grow, blocks)
    tree = TreeBuilder()
    rows = [pack_nodes(nodes) for nodes in tree.append_many(blocks)]
    with store.read() as tx:
        assert tx.feed(key) == state
        assert list(tx.blocks(key, 0, len(blocks))) == blocks
        assert list(tx.tree_rows(key, 0, len(blocks))) == rows
        assert list(tx.heads(key)) == [SignedHead(len(blocks), tree.tree_hash(), b"signature of %d" % len(blocks))]


@pytest.mark.usefixtures("way")
def test_feed_that_stands_elsewhere_gets_no_row(store: Store, other_process: Store, key: FeedKey, grow: Any) -> None:
    state = grown(store, created(store, key), grow, [b"first"])
    grown(other_process, state, grow, [b"theirs"])
    with store.write() as tx:
        with pytest.raises(ConflictError):
            grow(tx, state, [b"ours"])
        tx.create_feed(OTHER, b"a manifest", local=True)  # the transaction goes on
    with store.read() as tx:
        assert list(tx.blocks(key, 0, 2)) == [b"first", b"theirs"]
        assert [head.length for head in tx.heads(key)] == [1, 2]
        assert tx.feed(OTHER) is not None


@pytest.mark.usefixtures("way")
def test_row_that_stands_in_the_way_is_damage(
    store: Store, postgres: Any, empty_postgres: str, key: FeedKey, grow: Any
) -> None:
    state = created(store, key)
    database = empty_postgres.rpartition("/")[2]
    postgres.execute(
        f"INSERT INTO holdfast.tree (pos, nodes) VALUES ({(1 << 40) + 1}, repeat('n', 40)::bytea)", database
    )
    with pytest.raises(DamagedFile):
        grown(store, state, grow, [b"a", b"b"])
    with store.read() as tx:
        assert tx.feed(key) == state
        assert list(tx.heads(key)) == []


def test_row_that_is_read_with_the_lock_is_what_others_committed(
    store: Store, other_process: Store, key: FeedKey, grow: Any
) -> None:
    state = grown(store, created(store, key), grow, [b"0"])
    for number in range(1, 4):
        state = grown(other_process, state, grow, [b"%d" % number])
        with store.write() as tx:
            assert tx.feed(key) == state


def test_row_that_was_read_with_the_lock_is_not_taken_for_what_was_written_since(
    store: Store, key: FeedKey, grow: Any
) -> None:
    state = created(store, key)
    for _ in range(2):
        with store.write() as tx:
            assert tx.feed(key) == state
            state = grow(tx, state, [b"a"])
            assert tx.feed(key) == state
        with store.write() as tx:  # here nobody asks before it is written
            state = grow(tx, state, [b"b"])
            assert tx.feed(key) == state
    with store.write() as tx:
        tx.retire_feed(key)
        found = tx.feed(key)
        assert found is not None
        assert found.retired


def test_row_of_another_feed_is_not_mistaken(store: Store, key: FeedKey, grow: Any) -> None:
    states = {name: created(store, name) for name in (key, OTHER)}
    states[OTHER] = grown(store, states[OTHER], grow, [b"a"])
    for name in (key, OTHER, OTHER, key, key):
        with store.write() as tx:
            assert tx.feed(name) == states[name]
            assert tx.feed(FeedKey(b"absent".ljust(32))) is None


def test_feed_that_was_looked_for_and_is_not_there_is_created(store: Store, key: FeedKey) -> None:
    for _ in range(2):
        with store.write() as tx:
            assert tx.feed(key) is None
    assert created(store, key).length == 0
    with store.write() as tx:
        assert tx.feed(key) is not None


def test_insert_that_is_not_of_parameters_alone_is_not_copied() -> None:
    with pytest.raises(TypeError, match="nothing but parameters"):
        postgres_rows._copy_statement("INSERT INTO block (pos, data) VALUES (%s, x'00')")


@pytest.mark.parametrize("count", [1, 7, 8, 3000])
def test_rows_with_texts_and_nulls_and_narrow_numbers(store: Any, count: int) -> None:
    """COPY's binary form is not for them: it takes every number for one of 64 bits."""
    with store.write() as tx:
        tx.execute("CREATE TABLE one (place BIGINT, kind INTEGER, name TEXT, val BYTEA)", ())
        rows = [(n, n % 4, None if n % 3 else f"a\tb\\{n}\n", None if n % 5 else b"\0\\x%d" % n) for n in range(count)]
        tx.insert_many("INSERT INTO one (place, kind, name, val) VALUES (%s, %s, %s, %s)", rows)
        assert tx.fetch_all("SELECT place, kind, name, val FROM one ORDER BY place") == rows
        tx.execute("DROP TABLE one", ())

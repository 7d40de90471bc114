"""Anchoring's tables: what is asked for, what is history, and what the engine refuses to change."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from anchoring.receipt import AnchorReceipt, receipt_digest
from anchoring.storage import (
    AnchorState,
    StoredAnchor,
    StoredTimestamp,
    StoredTransaction,
    add_timestamp,
    add_transaction,
    archive_receipt,
    enqueue_anchor,
    find_anchor,
    load_anchors,
    load_receipt,
    load_timestamps,
    load_transactions,
    move_anchor,
    newest_final_anchor,
    newest_token_size,
    newest_tokens,
    timestamped_sizes,
)
from identity.errors import ConflictError, DamagedFile, RefusedError, StorageError
from ledger.storage.engine import open_store
from ledger.storage.sql import SqlStore

PENDING, SUBMITTED, MINED, FINAL, FAILED = AnchorState
TABLES = {"anchor", "anchor_transaction", "anchor_receipt", "timestamp_token", "timestamp_material"}
RECEIPT = AnchorReceipt(b"header", (b"account",), ((b"meta",), ()))
TOKEN = StoredTimestamp(5, "dev", b"response", (b"c1", b"c2"), (b"crl",), (), 1_790_000_000_123, 1_790_000_000_456)


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[SqlStore]:
    """For what is altered in SQLite's own words."""
    with closing(open_store(tmp_path / "altered.db", create=True)) as opened:
        yield opened


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlStore]:
    if request.param == "sqlite":
        opened = open_store(tmp_path / "store.db", create=True)
    else:
        opened = open_store(request.getfixturevalue("empty_postgres"))
    yield opened
    opened.close()


def enqueue(store: SqlStore, size: int, root: bytes | None = None) -> StoredAnchor:
    with store.write() as tx:
        enqueue_anchor(tx.connection, size, root or bytes([size]) * 32, now_ms=size)
        return next(anchor for anchor in load_anchors(tx.connection) if anchor.size == size)


def move(
    store: SqlStore, anchor: StoredAnchor, state: AnchorState, block: tuple[int, bytes] | None = None
) -> StoredAnchor:
    with store.write() as tx:
        return move_anchor(tx.connection, anchor, state, 77, block=block)


def transaction(size: int, number: int = 1) -> StoredTransaction:
    return StoredTransaction(bytes([number]) * 32, size, 0, number, 30 * 10**9, 10**9, b"\2raw", 5)


def sizes(store: SqlStore, *states: AnchorState) -> list[int]:
    with store.read() as tx:
        return [anchor.size for anchor in load_anchors(tx.connection, *states)]


# Asking


def test_asking_twice_changes_nothing(store: SqlStore) -> None:
    first = enqueue(store, 5)
    with store.write() as tx:
        enqueue_anchor(tx.connection, 5, b"\x05" * 32, now_ms=99)
    assert enqueue(store, 5) == first == StoredAnchor(5, b"\x05" * 32, PENDING, None, None, None, 5)


def test_asking_is_part_of_the_callers_transaction(store: SqlStore) -> None:
    class Stop(Exception):
        pass

    with pytest.raises(Stop), store.write() as tx:
        enqueue_anchor(tx.connection, 5, bytes(32), now_ms=1)
        raise Stop
    assert sizes(store) == []


def test_another_root_of_a_size_is_a_conflict(store: SqlStore) -> None:
    enqueue(store, 5)
    with pytest.raises(ConflictError, match="another root of size 5"):
        enqueue(store, 5, b"\xff" * 32)


def test_a_smaller_size_is_refused(store: SqlStore) -> None:
    enqueue(store, 5)
    with pytest.raises(RefusedError):
        enqueue(store, 4)
    assert sizes(store) == [5]


def test_a_request_covers_older_ones_for_which_nothing_was_sent(store: SqlStore) -> None:
    for size in (3, 5):
        enqueue(store, size)
    with store.write() as tx:
        add_transaction(tx.connection, transaction(5))
    for size in (7, 9):
        enqueue(store, size)
    assert sizes(store) == [5, 9]


@pytest.mark.parametrize(("size", "root"), [(0, bytes(32)), (-1, bytes(32)), (5, bytes(31)), (5, b"")])
def test_the_engine_refuses_what_is_no_checkpoint(store: SqlStore, size: int, root: bytes) -> None:
    with pytest.raises(StorageError), store.write() as tx:
        enqueue_anchor(tx.connection, size, root, now_ms=1)


# Moving


def test_anchors_move_by_compare_and_swap(store: SqlStore) -> None:
    pending = enqueue(store, 5)
    submitted = move(store, pending, SUBMITTED)
    mined = move(store, submitted, MINED, (8, b"\x88" * 32))
    assert (mined.block_number, mined.block_hash, mined.changed_ms) == (8, b"\x88" * 32, 77)
    for stale in (pending, submitted, replace(mined, block_hash=b"\x89" * 32)):
        with pytest.raises(ConflictError):
            move(store, stale, FAILED)
    assert sizes(store, MINED) == sizes(store, MINED, FINAL) == [5]
    assert sizes(store, PENDING, FINAL) == []


@pytest.mark.parametrize("state", [MINED, FINAL])
def test_a_mined_anchor_has_a_block(store: SqlStore, state: AnchorState) -> None:
    with pytest.raises(StorageError):
        move(store, enqueue(store, 5), state)


@pytest.mark.parametrize(("state", "block"), [(FINAL, (8, b"\x88" * 32)), (FAILED, None)])
def test_settled_anchors_stay(store: SqlStore, state: AnchorState, block: tuple[int, bytes] | None) -> None:
    settled = move(store, enqueue(store, 5), state, block)
    for other in AnchorState:
        with pytest.raises(StorageError):
            move(store, settled, other, (9, b"\x99" * 32))
    assert sizes(store, state) == [5]


def test_what_is_anchored_never_changes(store: SqlStore) -> None:
    enqueue(store, 5)
    for change in ("UPDATE anchor SET root = zeroblob(32)", "UPDATE anchor SET size = 6"):
        with pytest.raises(StorageError), store.write() as tx:
            tx.connection.execute(text(change))


def test_the_newest_final_anchor(store: SqlStore) -> None:
    for size in (5, 9):
        move(store, enqueue(store, size), FINAL, (size, bytes([size]) * 32))
    enqueue(store, 12)
    with store.read() as tx:
        newest = newest_final_anchor(tx.connection)
    assert newest is not None
    assert newest.size == 9


def test_no_final_anchor(store: SqlStore) -> None:
    enqueue(store, 5)
    with store.read() as tx:
        assert newest_final_anchor(tx.connection) is None


# Transactions and receipts


def test_transactions_come_back_in_order(store: SqlStore) -> None:
    enqueue(store, 5)
    made = [transaction(5, number) for number in (3, 1, 2)]
    with store.write() as tx:
        for item in [*made, made[0]]:
            add_transaction(tx.connection, item)
    with store.read() as tx:
        assert load_transactions(tx.connection, 5) == made
        assert load_transactions(tx.connection, 6) == []


@pytest.mark.parametrize(
    "changes", [{"size": 6}, {"prev_size": 5}, {"prev_size": -1}, {"nonce": -1}, {"priority_fee": 31 * 10**9}]
)
def test_transactions_that_cannot_be(store: SqlStore, changes: dict[str, Any]) -> None:
    enqueue(store, 5)
    with pytest.raises(StorageError), store.write() as tx:
        add_transaction(tx.connection, replace(transaction(5), **changes))


def test_a_receipt_belongs_to_a_block(store: SqlStore) -> None:
    mined = move(store, enqueue(store, 5), MINED, (8, b"\x88" * 32))
    with store.write() as tx:
        archive_receipt(tx.connection, mined, RECEIPT, 10)
        archive_receipt(tx.connection, mined, replace(RECEIPT, header=b"other"), 11)
    with store.read() as tx:
        assert load_receipt(tx.connection, mined) == RECEIPT
        assert load_receipt(tx.connection, replace(mined, block_hash=b"\x89" * 32)) is None
        assert load_receipt(tx.connection, replace(mined, block_hash=None)) is None


@pytest.mark.parametrize("change", ["receipt = x'ff'", "receipt = x'a0'", "digest = zeroblob(32)"])
def test_an_altered_receipt_is_noticed(sqlite_store: SqlStore, change: str) -> None:
    mined = move(sqlite_store, enqueue(sqlite_store, 5), MINED, (8, b"\x88" * 32))
    with sqlite_store.write() as tx:
        archive_receipt(tx.connection, mined, RECEIPT, 10)
        tx.connection.execute(text("DROP TRIGGER anchor_receipt_no_update"))
        tx.connection.execute(text(f"UPDATE anchor_receipt SET {change}"))
    with sqlite_store.read() as tx, pytest.raises(DamagedFile):
        load_receipt(tx.connection, mined)


def test_the_digest_is_stored_with_the_receipt(store: SqlStore) -> None:
    mined = move(store, enqueue(store, 5), MINED, (8, b"\x88" * 32))
    with store.write() as tx:
        archive_receipt(tx.connection, mined, RECEIPT, 10)
        stored = tx.connection.execute(text("SELECT digest FROM anchor_receipt")).scalar()
    assert stored == receipt_digest(RECEIPT)


def test_an_unknown_state_is_noticed(sqlite_store: SqlStore) -> None:
    enqueue(sqlite_store, 5)
    with sqlite_store.write() as tx:
        tx.connection.execute(text("PRAGMA ignore_check_constraints = ON"))
        tx.connection.execute(text("UPDATE anchor SET state = 'anchored'"))
        tx.connection.execute(text("PRAGMA ignore_check_constraints = OFF"))
    with sqlite_store.read() as tx, pytest.raises(DamagedFile, match="no known state"):
        load_anchors(tx.connection)


# Timestamps


def test_timestamps_come_back_as_they_were(store: SqlStore) -> None:
    other = replace(TOKEN, authority="second", response=b"other", certificates=(), crls=(), ocsps=(b"o2", b"o1"))
    elsewhere = replace(TOKEN, size=6)
    with store.write() as tx:
        for token in (TOKEN, other, elsewhere, TOKEN):
            add_timestamp(tx.connection, token)
    with store.read() as tx:
        assert load_timestamps(tx.connection, 5) == [TOKEN, other]
        assert load_timestamps(tx.connection, 6) == [elsewhere]
        assert load_timestamps(tx.connection, 7) == []
        assert timestamped_sizes(tx.connection) == {5, 6}


def test_large_revocation_lists_are_kept(store: SqlStore) -> None:
    token = replace(TOKEN, crls=(bytes(3 * 2**20),))
    with store.write() as tx:
        add_timestamp(tx.connection, token)
    with store.read() as tx:
        assert load_timestamps(tx.connection, 5) == [token]


# History


@pytest.mark.parametrize("table", sorted(TABLES - {"anchor"}))
@pytest.mark.parametrize("change", ["UPDATE {} SET id = id + 1", "DELETE FROM {}"])
def test_history_is_insert_only(store: SqlStore, table: str, change: str) -> None:
    mined = move(store, enqueue(store, 5), MINED, (8, b"\x88" * 32))
    with store.write() as tx:
        add_transaction(tx.connection, transaction(5))
        archive_receipt(tx.connection, mined, RECEIPT, 10)
        add_timestamp(tx.connection, TOKEN)
    with pytest.raises(StorageError, match="insert-only"), store.write() as tx:
        tx.connection.execute(text(change.format(table)))


def test_only_pending_anchors_can_be_dropped(store: SqlStore) -> None:
    move(store, enqueue(store, 5), SUBMITTED)
    with pytest.raises(StorageError, match="insert-only"), store.write() as tx:
        tx.connection.execute(text("DELETE FROM anchor"))


def test_the_migration_imports_nothing_of_ours() -> None:
    source = Path(__file__).parents[3] / "ledger" / "storage" / "migrations" / "versions" / "0002_anchoring.py"
    imports = re.findall(r"^(?:from|import) (\S+)", source.read_text(encoding="utf-8"), re.MULTILINE)
    assert imports == ["__future__", "alembic"]


# Asking for the newest


def test_one_anchor_by_its_size_and_the_newest_final_one(store: SqlStore) -> None:
    block = (9, b"\x09" * 32)
    for size in (3, 5, 8):
        pending = enqueue(store, size)
        mined = move(store, pending, AnchorState.MINED, block)
        if size != 8:
            move(store, mined, AnchorState.FINAL, block)
    with store.read() as tx:
        found = find_anchor(tx.connection, 5)
        assert found is not None
        assert (found.size, found.state) == (5, AnchorState.FINAL)
        assert find_anchor(tx.connection, 4) is None
        newest = [newest_final_anchor(tx.connection, below=below) for below in (None, 6, 5, 3)]
    assert [None if one is None else one.size for one in newest] == [5, 5, 3, None]


def test_the_newest_tokens(store: SqlStore) -> None:
    with store.read() as tx:
        assert (newest_tokens(tx.connection), newest_token_size(tx.connection)) == ({}, None)
    for number, (authority, size) in enumerate([("b", 3), ("a", 3), ("b", 7), ("a", 5)]):
        with store.write() as tx:
            token = StoredTimestamp(size, authority, b"response %d" % number, (), (), (), 1000 + number, 0)
            add_timestamp(tx.connection, token)
    with store.read() as tx:
        assert newest_tokens(tx.connection) == {"a": (5, 1003), "b": (7, 1002)}
        assert [newest_token_size(tx.connection, below=below) for below in (None, 7, 5, 3)] == [7, 5, 3, None]

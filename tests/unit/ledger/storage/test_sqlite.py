"""SQLite as the engine: opening, what is refused, what damage looks like, and that reading changes nothing."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from identity.errors import (
    AuditError,
    ConfigurationError,
    ConflictError,
    DamagedFile,
    MissingEvidenceError,
    NewerFormat,
    RefusedError,
    StorageError,
    StoreBusy,
)
from ledger.storage import sqlite as engine
from ledger.storage.sql import SqlStore, SqlWriteTransaction
from ledger.storage.sqlite import open_sqlite
from ledger.store import FeedKey, FeedState, StoredCheckpoint, StoredEvent

MANIFEST = b"a manifest"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def filled(path: Path, key: FeedKey, grow: Any, grow_log: Any, new_sqlite: Any) -> Path:
    """A closed store with a feed of 2,000 blocks, a log, a checkpoint and an event."""
    store = new_sqlite(path)
    with store.write() as tx:
        state = grow(tx, tx.create_feed(key, MANIFEST, local=True), [b"%d" % index * 20 for index in range(1000)])
        grow(tx, state, [b"%d" % index * 20 for index in range(1000, 2000)])
        grow_log(tx, None, [b"descriptor", b"leaf", b"leaf"])
        tx.add_checkpoint(StoredCheckpoint(3, b"r" * 32, "note"))
        tx.add_identity_event(StoredEvent(b"i" * 32, 0, b"d" * 32, b"event"))
    store.close()
    return path


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.parent.iterdir()}


# --- creating and opening ---


def test_created_whole_and_private(path: Path) -> None:
    open_sqlite(path, create=True).close()
    assert files(path).keys() == {"store.db"}
    assert path.stat().st_mode & 0o777 == 0o600


def test_create_refuses_what_exists(filled: Path) -> None:
    before = files(filled)
    with pytest.raises(RefusedError, match="exists"):
        open_sqlite(filled, create=True)
    assert files(filled) == before


def test_create_refuses_beside_an_unfinished_one(path: Path) -> None:
    draft = path.with_name("store.db.new")
    draft.touch()
    with pytest.raises(RefusedError, match=r"store\.db\.new exists"):
        open_sqlite(path, create=True)
    assert files(path).keys() == {"store.db.new"}


def test_creation_that_fails_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StorageError("power cut")

    monkeypatch.setattr(engine, "sync_file", fail)
    with pytest.raises(StorageError, match="power cut"):
        open_sqlite(path, create=True)
    assert files(path) == {}


def test_create_in_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot create"):
        open_sqlite(tmp_path / "nowhere" / "store.db", create=True)


@pytest.mark.parametrize("read_only", [False, True])
def test_open_creates_nothing(path: Path, read_only: bool) -> None:
    with pytest.raises(StorageError, match="there is no store"):
        open_sqlite(path, read_only=read_only)
    assert files(path) == {}


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    "content", [b"", b"SQLite format 3\0", b"x" * 5000, b"SQLite format 3\0" + b"\xff" * 5000], ids=range(4)
)
def test_what_is_not_a_store(path: Path, content: bytes, read_only: bool) -> None:
    path.write_bytes(content)
    with pytest.raises(DamagedFile):
        open_sqlite(path, read_only=read_only)
    assert files(path) == {"store.db": content}


def test_database_of_another_program(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE feed (id)")
    connection.close()
    before = files(path)
    with pytest.raises(DamagedFile, match="not a store of this program"):
        open_sqlite(path)
    assert files(path) == before


def test_directory_in_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read"):
        open_sqlite(tmp_path)


def test_network_file_systems_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_file_system", lambda _: "nfs4")
    with pytest.raises(RefusedError, match="nfs4"):
        open_sqlite(path, create=True)


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="this system does not list its mounts")
def test_file_system_is_found() -> None:
    assert engine._file_system(Path("/proc/self")) == "proc"


def test_the_engine_is_set_to_keep_what_it_commits(path: Path) -> None:
    with open_sqlite(path, create=True).write() as tx:
        for pragma, value in (
            ("journal_mode", "wal"),
            ("synchronous", 2),
            ("foreign_keys", 1),
            ("recursive_triggers", 1),
            ("fullfsync", 1),
            ("checkpoint_fullfsync", 1),
        ):
            assert tx.connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() == value


def test_reading_transactions_cannot_write(filled: Path) -> None:
    with pytest.raises(StorageError, match="read-only"), open_sqlite(filled).read() as tx:
        tx.connection.execute(text("INSERT INTO checkpoint VALUES (9, x'00', '')"))


# --- versions ---


def test_newer_version_is_refused_and_left_alone(filled: Path, tamper: Any) -> None:
    tamper(filled, "UPDATE alembic_version SET version_num = '9999_future'")
    before = files(filled)
    for read_only in (False, True):
        with pytest.raises(NewerFormat, match="9999_future"):
            open_sqlite(filled, read_only=read_only)
    assert files(filled) == before


@pytest.mark.parametrize(
    "statement", ["DELETE FROM alembic_version", "INSERT INTO alembic_version VALUES ('0001_ledger ')"]
)
def test_version_that_cannot_be(filled: Path, statement: str, tamper: Any) -> None:
    tamper(filled, statement)
    with pytest.raises(DamagedFile, match="versions"):
        open_sqlite(filled)


def test_store_without_tables(filled: Path, tamper: Any) -> None:
    tamper(filled, "DROP TABLE alembic_version")
    with pytest.raises(DamagedFile, match="no tables"):
        open_sqlite(filled)


def test_older_version_is_not_read_only_opened(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "REVISIONS", ("0001_ledger", "0002_more"))
    with pytest.raises(ConfigurationError, match="older than 0002_more"):
        open_sqlite(filled, read_only=True)


@pytest.fixture
def first_version(tmp_path: Path, next_steps: Callable[..., None]) -> Path:
    """A store as the first version made it."""
    next_steps()
    path = tmp_path / "first.db"
    open_sqlite(path, create=True).close()
    return path


def test_older_version_is_brought_up(first_version: Path, next_steps: Callable[..., None]) -> None:
    next_steps(a_more='op.execute("CREATE TABLE more (id)")', b_most='op.execute("CREATE TABLE most (id)")')
    with open_sqlite(first_version).read() as tx:
        assert tx.connection.execute(text("SELECT count(*) FROM more, most")).scalar() == 0
        assert tx.connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "b_most"


def test_steps_are_taken_together_or_not_at_all(first_version: Path, next_steps: Callable[..., None]) -> None:
    next_steps(a_more='op.execute("CREATE TABLE more (id)")', b_broken='op.execute("CREATE TABLE feed (id)")')
    with pytest.raises(StorageError, match="already exists"):
        open_sqlite(first_version)
    with closing(sqlite3.connect(first_version)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("0001_ledger",)]
        assert connection.execute("SELECT name FROM sqlite_schema WHERE name = 'more'").fetchall() == []


# --- reading only ---


def read_all(store: SqlStore, key: FeedKey) -> list[bytes]:
    with store.read() as tx:
        state = tx.feed(key)
        assert state is not None
        return list(tx.blocks(key, 0, state.length))


def test_read_only_creates_and_changes_nothing(filled: Path, key: FeedKey) -> None:
    before = files(filled)
    store = open_sqlite(filled, read_only=True)
    assert store.read_only
    assert len(read_all(store, key)) == 2000
    with pytest.raises(StorageError, match="reading only"), store.write():
        pass
    store.close()
    assert files(filled) == before


def test_read_only_beside_a_writer(filled: Path, key: FeedKey, grow: Any) -> None:
    writer = open_sqlite(filled)
    with writer.write() as tx:
        state = grow(tx, tx.feed(key), [b"new"])
    reader = open_sqlite(filled, read_only=True)
    assert read_all(reader, key)[-1] == b"new"
    with reader.read() as reading:
        with writer.write() as tx:
            grow(tx, state, [b"newer"])
        assert reading.feed(key) == state
    assert read_all(reader, key)[-1] == b"newer"
    reader.close()
    writer.close()


def test_read_only_notices_a_writer_that_came_later(filled: Path, key: FeedKey, grow: Any) -> None:
    reader = open_sqlite(filled, read_only=True)
    writer = open_sqlite(filled)

    def read_while_written_to() -> None:
        with reader.read() as tx:
            assert tx.block(key, 0) == b"0" * 20
            with writer.write() as writing:
                grow(writing, writing.feed(key), [b"new"])

    with pytest.raises(StoreBusy, match="written to"):
        read_while_written_to()
    writer.close()
    with pytest.raises(StoreBusy), reader.read():
        pass
    assert read_all(open_sqlite(filled, read_only=True), key)[-1] == b"new"


def test_read_only_after_a_crash(filled: Path, key: FeedKey, grow: Any, tmp_path: Path) -> None:
    writer = open_sqlite(filled)
    with writer.write() as tx:
        grow(tx, tx.feed(key), [b"only in the log"])
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for file in tmp_path.glob("store.db*"):
        shutil.copy(file, crashed)
    writer.close()
    before = files(crashed / "store.db")
    assert before.keys() == {"store.db", "store.db-wal", "store.db-shm"}
    assert read_all(open_sqlite(crashed / "store.db", read_only=True), key)[-1] == b"only in the log"
    assert files(crashed / "store.db") == before
    (crashed / "store.db-shm").unlink()
    with pytest.raises(StorageError, match="cannot be opened"):
        open_sqlite(crashed / "store.db", read_only=True)
    assert (crashed / "store.db-shm").exists() is False


def test_medium_that_cannot_be_written_to(filled: Path) -> None:
    read_only = closing(sqlite3.connect(f"{filled.as_uri()}?mode=ro", uri=True))
    with read_only as connection, pytest.raises(sqlite3.OperationalError) as caught:
        connection.execute("INSERT INTO checkpoint VALUES (9, zeroblob(32), '')")
    error = engine._translate(caught.value)
    assert type(error) is StorageError
    assert "read-only" in str(error)


# --- locks ---


def test_locked_by_another_process(filled: Path) -> None:
    other = sqlite3.connect(filled, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store = open_sqlite(filled, busy_timeout_ms=20)
    with pytest.raises(StoreBusy), store.write():
        pass
    with store.read() as tx:
        assert tx.log() is not None
    other.execute("ROLLBACK")
    with store.write() as tx:
        assert tx.log() is not None
    other.close()


def test_locked_by_another_thread(filled: Path) -> None:
    store = open_sqlite(filled, busy_timeout_ms=20)
    seen: list[type[BaseException]] = []

    def write() -> None:
        try:
            with store.write():
                pass
        except AuditError as exc:
            seen.append(type(exc))

    with store.write():
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    assert seen == [StoreBusy]


def use_after_fork(store: SqlStore, answer: Any) -> None:
    try:
        with store.read():
            answer.put("read")
    except StorageError as exc:
        answer.put(str(exc))


def test_store_does_not_cross_a_fork(filled: Path) -> None:
    store = open_sqlite(filled)
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    child = context.Process(target=use_after_fork, args=(store, answer))
    child.start()
    assert "another process" in answer.get()
    child.join()


# --- history is insert-only, feeds and log move forward ---


@pytest.mark.parametrize(
    "statement",
    [
        *(f"DELETE FROM {table}" for table in ("feed", "tree", "block", "head", "log", "log_leaf", "checkpoint")),
        "DELETE FROM identity_event",
        "UPDATE tree SET nodes = x'00'",
        "UPDATE block SET data = x'00'",
        "UPDATE head SET signature = x'00'",
        "UPDATE log_leaf SET statement = x'00'",
        "UPDATE checkpoint SET note = ''",
        "UPDATE identity_event SET seq = 1",
        "UPDATE feed SET manifest = x'00'",
        "UPDATE feed SET local = 0",
        "UPDATE feed SET length = length - 1",
        "UPDATE feed SET roots = x''",
        "UPDATE feed SET byte_length = byte_length - 1, length = length + 1",
        "UPDATE feed SET retired = 1, length = length + 1",
        "UPDATE log SET size = size - 1",
        "UPDATE log SET log_id = zeroblob(32), size = size + 1",
        "REPLACE INTO block SELECT pos, x'00' FROM block",
    ],
)
def test_engine_keeps_history(filled: Path, statement: str) -> None:
    store = open_sqlite(filled)
    with pytest.raises(StorageError, match=r"insert-only|moves forward"), store.write() as tx:
        tx.connection.execute(text(statement))


def test_retired_feed_stays_retired(filled: Path, key: FeedKey) -> None:
    store = open_sqlite(filled)
    with store.write() as tx:
        tx.retire_feed(key)
    with pytest.raises(StorageError, match="moves forward"), store.write() as tx:
        tx.connection.execute(text("UPDATE feed SET retired = 0"))


# --- damage ---


def damage_of(path: Path, key: FeedKey, tx_use: Any) -> AuditError:
    with pytest.raises(AuditError) as caught, open_sqlite(path).read() as tx:
        tx_use(tx)
    return caught.value


POS = (1 << 40) + 7


@pytest.mark.parametrize(
    ("statement", "use"),
    [
        (f"DELETE FROM block WHERE pos = {POS}", lambda tx, key: tx.block(key, 7)),
        (f"DELETE FROM block WHERE pos = {POS}", lambda tx, key: list(tx.blocks(key, 0, 20))),
        (f"DELETE FROM block WHERE pos >= {POS}", lambda tx, key: list(tx.blocks(key, 0, 20))),
        (f"UPDATE block SET data = 'text' WHERE pos = {POS}", lambda tx, key: tx.block(key, 7)),
        (f"UPDATE block SET data = 'text' WHERE pos = {POS}", lambda tx, key: list(tx.blocks(key, 0, 20))),
        (f"DELETE FROM tree WHERE pos = {POS}", lambda tx, key: tx.node(key, 14)),
        (f"DELETE FROM tree WHERE pos = {POS}", lambda tx, key: list(tx.tree_rows(key, 0, 20))),
        (f"UPDATE tree SET nodes = zeroblob(40) WHERE pos = {POS}", lambda tx, key: tx.node(key, 7)),
        (f"UPDATE tree SET nodes = zeroblob(59) WHERE pos = {POS}", lambda tx, key: tx.node(key, 13)),
        ("UPDATE head SET tree_hash = 5", lambda tx, key: list(tx.heads(key))),
        ("UPDATE head SET signature = 'x'", lambda tx, key: tx.head(key, 1000)),
        ("UPDATE feed SET roots = x''", lambda tx, key: tx.feed(key)),
        ("UPDATE feed SET length = 'long'", lambda tx, key: tx.feed(key)),
        ("UPDATE feed SET length = -1", lambda tx, key: tx.feed(key)),
        ("UPDATE log SET frontier = zeroblob(32)", lambda tx, key: tx.log()),
        ("UPDATE log SET size = -3", lambda tx, key: tx.log()),
        ("DELETE FROM log_leaf WHERE idx = 1", lambda tx, key: list(tx.log_leaves(0, 3))),
        ("DELETE FROM log_leaf WHERE idx = 1", lambda tx, key: tx.log_node(0, 1)),
        ("UPDATE log_leaf SET hashes = zeroblob(32)", lambda tx, key: tx.log_node(1, 0)),
        ("UPDATE log_leaf SET hashes = 5", lambda tx, key: tx.log_node(0, 0)),
        ("UPDATE checkpoint SET note = x'00'", lambda tx, key: tx.checkpoint(3)),
        ("UPDATE identity_event SET seq = 'one'", lambda tx, key: tx.identity_events(b"i" * 32)),
    ],
)
def test_row_that_cannot_be(filled: Path, key: FeedKey, statement: str, use: Any, tamper: Any) -> None:
    tamper(filled, statement)
    assert isinstance(damage_of(filled, key, lambda tx: use(tx, key)), DamagedFile)


def test_row_in_the_way_of_an_append(filled: Path, key: FeedKey, grow: Any, tamper: Any) -> None:
    tamper(filled, f"INSERT INTO block VALUES ({(1 << 40) + 2001}, x'00')")
    store = open_sqlite(filled)
    with pytest.raises(DamagedFile, match="in the way"), store.write() as tx:
        grow(tx, tx.feed(key), [b"a", b"b"])
    assert len(read_all(store, key)) == 2000


def test_failed_operation_is_not_committed_though_somebody_caught_it(
    filled: Path, key: FeedKey, grow: Any, tamper: Any
) -> None:
    tamper(filled, f"INSERT INTO block VALUES ({(1 << 40) + 2001}, x'00')")
    store = open_sqlite(filled)
    with pytest.raises(StorageError, match="nothing of it is kept"), store.write() as tx, pytest.raises(DamagedFile):
        grow(tx, tx.feed(key), [b"a", b"b"])
    assert len(read_all(store, key)) == 2000


def test_savepoint_does_not_hide_that_a_statement_failed(filled: Path, key: FeedKey, grow: Any, tamper: Any) -> None:
    """The engine may have undone more than the savepoint: nothing is kept, whatever was raised in its place."""
    tamper(filled, f"INSERT INTO block VALUES ({(1 << 40) + 2001}, x'00')")
    store = open_sqlite(filled)

    def condition(tx: SqlWriteTransaction) -> None:
        try:
            grow(tx, tx.feed(key), [b"a", b"b"])
        except DamagedFile as exc:
            raise ConflictError("lost") from exc

    with pytest.raises(StorageError, match="nothing of it is kept"), store.write() as tx, tx.savepoint():
        condition(tx)
    assert len(read_all(store, key)) == 2000


def test_savepoint_undoes_what_the_layers_above_wrote(filled: Path, key: FeedKey, grow: Any) -> None:
    store = open_sqlite(filled)
    with store.write() as tx:
        tx.connection.exec_driver_sql("CREATE TABLE counter (value INTEGER NOT NULL UNIQUE)")
        tx.connection.exec_driver_sql("INSERT INTO counter VALUES (1)")
        with pytest.raises(IntegrityError), tx.savepoint():
            tx.connection.exec_driver_sql("INSERT INTO counter VALUES (2)")
            tx.connection.exec_driver_sql("INSERT INTO counter VALUES (1)")
        grow(tx, tx.feed(key), [b"kept"])
    with store.read() as tx:
        assert tx.connection.exec_driver_sql("SELECT value FROM counter").scalars().all() == [1]
        assert tx.feed(key).length == 2001


@pytest.mark.parametrize("cut", [1, 17, 511, 4095, 4096, 4097, 40_000])
def test_truncated_file_is_noticed(filled: Path, key: FeedKey, cut: int) -> None:
    content = filled.read_bytes()
    filled.write_bytes(content[:-cut])
    with pytest.raises(DamagedFile):
        read_all(open_sqlite(filled), key)


@pytest.mark.parametrize("cut", [0, 1, 99, 100, 1000, 4096])
def test_file_of_which_only_the_beginning_is_left(filled: Path, cut: int) -> None:
    filled.write_bytes(filled.read_bytes()[:cut])
    with pytest.raises(DamagedFile):
        open_sqlite(filled)


def test_overwritten_pages_never_escape_as_another_error(filled: Path, key: FeedKey) -> None:
    content = filled.read_bytes()
    for page in range(1, len(content) // 4096, 7):
        filled.write_bytes(content[: page * 4096] + os.urandom(4096) + content[(page + 1) * 4096 :])
        try:
            store = open_sqlite(filled)
            with store.read() as tx:
                for state in tx.feeds():
                    list(tx.blocks(state.key, 0, state.length))
                    list(tx.tree_rows(state.key, 0, state.length))
                    list(tx.heads(state.key))
                list(tx.log_leaves(0, 3))
            store.close()
        except (DamagedFile, MissingEvidenceError):
            continue


def test_disk_full(filled: Path, key: FeedKey, grow: Any) -> None:
    store = open_sqlite(filled)
    with store.write() as tx:
        pages = tx.connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        tx.connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageError, match="disk is full"), store.write() as tx:
        grow(tx, tx.feed(key), [bytes(100_000)])
    with store.write() as tx:  # on a new connection, which is not limited
        grow(tx, tx.feed(key), [bytes(100_000)])
    assert len(read_all(store, key)) == 2001


# --- transactions of the layers above ---


def test_other_tables_share_the_transaction(filled: Path, key: FeedKey, grow: Any) -> None:
    store = open_sqlite(filled)
    with store.write() as tx:
        tx.connection.execute(text("CREATE TABLE pending (feed BLOB, length INTEGER)"))

    def write_and_lose() -> None:
        with store.write() as tx:
            state = grow(tx, tx.feed(key), [b"lost"])
            tx.connection.execute(text("INSERT INTO pending VALUES (:k, :n)"), {"k": key, "n": state.length})
            raise ConflictError("a condition was lost")

    with pytest.raises(ConflictError):
        write_and_lose()
    with store.read() as reading:
        assert reading.connection.execute(text("SELECT count(*) FROM pending")).scalar() == 0
    with store.write() as tx:
        state = grow(tx, tx.feed(key), [b"kept"])
        tx.connection.execute(text("INSERT INTO pending VALUES (:k, :n)"), {"k": key, "n": state.length})
    with store.read() as reading:
        assert reading.connection.execute(text("SELECT length FROM pending")).scalar() == 2001


def test_statement_of_another_layer_that_fails(filled: Path) -> None:
    store = open_sqlite(filled)
    with pytest.raises(StorageError, match="no such table"), store.read() as tx:
        tx.connection.execute(text("SELECT * FROM nowhere"))


def test_stream_ends_with_its_transaction(filled: Path, key: FeedKey) -> None:
    store = open_sqlite(filled)
    with store.read() as tx:
        blocks: Iterator[bytes] = tx.blocks(key, 0, 2000)
        assert next(blocks) == b"0" * 20
    with pytest.raises(StorageError):
        list(blocks)


def test_transaction_is_over_when_it_is_over(filled: Path, key: FeedKey, grow: Any) -> None:
    store = open_sqlite(filled)
    with store.read() as reading:
        assert reading.block(key, 0)
    with store.write() as writing:
        state = writing.feed(key)
    for wrong in (
        lambda: reading.block(key, 0),
        lambda: list(reading.blocks(key, 0, 1)),
        lambda: writing.feed(key),
        lambda: grow(writing, state, [b"x"]),
        lambda: writing.create_feed(FeedKey(bytes(32)), MANIFEST, local=True),
    ):
        with pytest.raises(StorageError, match="is over"):
            wrong()


@pytest.mark.parametrize("name", ["with space.db", "question?mark#hash%41.db", "ümlaut.db", "-wal", "a:b;c=d&e.db"])
def test_path_may_hold_anything(tmp_path: Path, name: str, key: FeedKey, grow: Any) -> None:
    store = open_sqlite(tmp_path / name, create=True)
    with store.write() as tx:
        grow(tx, tx.create_feed(key, MANIFEST, local=True), [b"x"])
    store.close()
    assert files(tmp_path / name).keys() == {name}
    assert read_all(open_sqlite(tmp_path / name, read_only=True), key) == [b"x"]


def test_state_is_read_from_the_medium_after_a_failure(filled: Path, key: FeedKey, grow: Any) -> None:
    store = open_sqlite(filled)
    with store.read() as tx:
        before: FeedState | None = tx.feed(key)

    def write_and_fail() -> None:
        with store.write() as tx:
            grow(tx, tx.feed(key), [b"lost"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    with store.write() as tx:
        assert tx.feed(key) == before

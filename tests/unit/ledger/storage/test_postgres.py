"""PostgreSQL as the engine: opening, what is refused, damage, lost connections, and commits of unknown outcome."""

from __future__ import annotations

import multiprocessing
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

import psycopg
import pytest
from psycopg import errors
from sqlalchemy import text

from identity.errors import (
    AuditError,
    ConfigurationError,
    ConflictError,
    DamagedFile,
    NewerFormat,
    RefusedError,
    StorageError,
    StoreBusy,
    StoreUnreachable,
    UnknownOutcome,
)
from ledger.storage import postgres as engine
from ledger.storage.engine import open_store
from ledger.storage.location import PostgresLocation, parse_location
from ledger.storage.postgres import drop_postgres, open_postgres
from ledger.storage.sql import SqlStore
from ledger.store import FeedKey, StoredCheckpoint, StoredEvent

MANIFEST = b"a manifest"
POS = (1 << 40) + 7
PASSWORD = "".join(("s3", "cret"))
"""In no line of this file, because a traceback quotes those."""


def located(url: str) -> PostgresLocation:
    location = parse_location(url)
    assert isinstance(location, PostgresLocation)
    return location


def fill(url: str, key: FeedKey, grow: Any, grow_log: Any) -> str:
    """A feed of 2,000 blocks, a log, a checkpoint and an event."""
    with closing(open_store(url)) as store, store.write() as tx:
        state = grow(tx, tx.create_feed(key, MANIFEST, local=True), [b"%d" % index * 20 for index in range(1000)])
        grow(tx, state, [b"%d" % index * 20 for index in range(1000, 2000)])
        grow_log(tx, None, [b"descriptor", b"leaf", b"leaf"])
        tx.add_checkpoint(StoredCheckpoint(3, b"r" * 32, "note"))
        tx.add_identity_event(StoredEvent(b"i" * 32, 0, b"d" * 32, b"event"))
    return url


@pytest.fixture
def filled(empty_postgres: str, key: FeedKey, grow: Any, grow_log: Any) -> str:
    """The URL of a store whose tables a test leaves as they are."""
    return fill(empty_postgres, key, grow, grow_log)


@pytest.fixture
def damageable(postgres_url: str, key: FeedKey, grow: Any, grow_log: Any) -> str:
    return fill(postgres_url, key, grow, grow_log)


def tamper(url: str, *statements: str) -> None:
    """What somebody with the rights of an administrator can do: past triggers and foreign keys."""
    with psycopg.connect(url, options="-c search_path=holdfast -c session_replication_role=replica") as connection:
        for statement in statements:
            connection.execute(statement)


def read_all(store: SqlStore, key: FeedKey) -> list[bytes]:
    with store.read() as tx:
        state = tx.feed(key)
        assert state is not None
        return list(tx.blocks(key, 0, state.length))


# --- creating and opening ---


def test_created_in_a_schema_of_its_own(postgres: Any) -> None:
    name = postgres.new_database()
    for schema in ("one", "two"):
        open_store(f"{postgres.url(name)}?schema={schema}", create=True).close()
    with psycopg.connect(postgres.url(name)) as connection:
        rows = connection.execute("SELECT schemaname, tablename FROM pg_tables WHERE tablename = 'block'").fetchall()
    assert sorted(rows) == [("one", "block"), ("two", "block")]


def test_create_refuses_what_exists(filled: str, key: FeedKey) -> None:
    with pytest.raises(RefusedError, match="the schema exists"):
        open_store(filled, create=True)
    assert len(read_all(open_store(filled), key)) == 2000


def test_one_of_two_that_create_at_once(postgres: Any) -> None:
    url = postgres.url(postgres.new_database())

    def create(_: int) -> str:
        try:
            open_store(url, create=True).close()
        except RefusedError:
            return "refused"
        return "made"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(create, range(2))) == ["made", "refused"]


def test_creation_that_fails_leaves_nothing(postgres: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    url = postgres.url(postgres.new_database())

    def fail(connection: Any) -> None:
        connection.execute(text("CREATE TABLE half (id INTEGER)"))
        connection.execute(text("SELECT 1 / 0"))

    monkeypatch.setattr(engine, "upgrade", fail)
    with pytest.raises(StorageError, match="division"):
        open_store(url, create=True)
    monkeypatch.undo()
    with pytest.raises(StorageError, match="there is no store"):
        open_store(url)


def test_dropped(postgres_url: str) -> None:
    drop_postgres(located(postgres_url))
    drop_postgres(located(postgres_url))
    with pytest.raises(StorageError, match="there is no store at postgresql://vault@127"):
        open_store(postgres_url, read_only=True)


def test_schema_of_another_program(postgres_url: str) -> None:
    tamper(postgres_url, "CREATE SCHEMA theirs", "CREATE TABLE theirs.feed (id INTEGER)")
    with pytest.raises(DamagedFile, match="no tables of a store"):
        open_store(f"{postgres_url}?schema=theirs")


def test_database_whose_text_is_not_utf8(postgres: Any) -> None:
    postgres.execute("CREATE DATABASE ascii TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    with pytest.raises(RefusedError, match="SQL_ASCII"):
        open_store(postgres.url("ascii"), create=True)


def test_server_that_would_lose_what_it_committed(postgres: Any, filled: str, key: FeedKey) -> None:
    def shown() -> str:
        with psycopg.connect(filled) as connection:
            return str(connection.execute("SHOW full_page_writes").fetchone()[0])  # type: ignore[index]

    def switch(value: str) -> None:
        postgres.execute(f"ALTER SYSTEM SET full_page_writes = {value}")
        postgres.execute("SELECT pg_reload_conf()")
        while shown() != value:
            time.sleep(0.01)

    switch("off")
    try:
        with pytest.raises(RefusedError, match="would lose"):
            open_store(filled)
        assert len(read_all(open_store(filled, read_only=True), key)) == 2000
    finally:
        switch("on")


def test_no_setting_of_the_server_makes_a_commit_less_durable(postgres: Any, postgres_url: str) -> None:
    database = postgres_url.rpartition("/")[2]
    postgres.execute(f"ALTER DATABASE {database} SET synchronous_commit = off")
    with open_store(postgres_url).write() as tx:
        show = tx.connection.exec_driver_sql
        assert show("SHOW synchronous_commit").scalar() == "on"
        assert show("SHOW row_security").scalar() == "off"
        assert show("SHOW lock_timeout").scalar() == "5s"
        assert show("SHOW statement_timeout").scalar() == "1min"
        assert show("SHOW search_path").scalar() == '"holdfast", pg_temp'
        assert show("SHOW transaction_isolation").scalar() == "read committed"


def test_reading_is_a_snapshot_and_cannot_write(filled: str) -> None:
    with open_store(filled).read() as tx:
        assert tx.connection.exec_driver_sql("SHOW transaction_isolation").scalar() == "repeatable read"
    with pytest.raises(StorageError, match="read-only"), open_store(filled).read() as tx:
        tx.connection.execute(text("INSERT INTO checkpoint VALUES (9, '', '')"))


def test_read_only(filled: str, key: FeedKey) -> None:
    store = open_store(filled, read_only=True)
    assert store.read_only
    assert len(read_all(store, key)) == 2000
    with pytest.raises(StorageError, match="reading only"), store.write():
        pass


@pytest.mark.parametrize("port", [1, 0])
def test_server_that_is_not_there(port: int) -> None:
    with pytest.raises(AuditError) as caught:
        open_store(f"postgresql://bob:{PASSWORD}@127.0.0.1:{port}/db")
    assert isinstance(caught.value, StorageError)
    assert not isinstance(caught.value, StoreBusy)
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("place", "match"), [("h:port/db", ""), ("h/db?nonsense=1", "nonsense"), ("%zz@h/db", ""), ("h/db?sslmode", "")]
)
def test_url_that_libpq_does_not_take(place: str, match: str) -> None:
    url = f"postgresql://bob:{PASSWORD}{place}" if "@" in place else f"postgresql://bob:{PASSWORD}@{place}"
    with pytest.raises(AuditError) as caught:
        open_store(url)
    assert isinstance(caught.value, ConfigurationError | StorageError)
    assert match in str(caught.value)
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


def test_no_connection_left(postgres: Any, filled: str) -> None:
    postgres.execute("CREATE ROLE crowd LOGIN CONNECTION LIMIT 0")
    with pytest.raises(StoreBusy, match="no connection left"):
        open_store(filled.replace("vault@", "crowd@"))


def test_role_without_rights(postgres: Any, filled: str) -> None:
    postgres.execute("CREATE ROLE stranger LOGIN")
    with pytest.raises(StorageError, match="permit"):
        open_store(filled.replace("vault@", "stranger@"))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.LockNotAvailable, StoreBusy),
        (errors.SerializationFailure, StoreBusy),
        (errors.DeadlockDetected, StoreBusy),
        (errors.TooManyConnections, StoreBusy),
        (errors.CannotConnectNow, StoreBusy),
        (errors.QueryCanceled, StorageError),
        (errors.DiskFull, StorageError),
        (errors.IoError, StorageError),
        (errors.ReadOnlySqlTransaction, StorageError),
        (errors.InsufficientPrivilege, StorageError),
        (errors.AdminShutdown, StorageError),
        (errors.DataCorrupted, DamagedFile),
        (errors.IndexCorrupted, DamagedFile),
        (errors.UndefinedTable, DamagedFile),
        (errors.UniqueViolation, DamagedFile),
    ],
)
def test_kinds_of_errors(error: type[psycopg.Error], kind: type[StorageError]) -> None:
    assert type(engine._translate(error("why"))) is kind


def test_messages_do_not_quote_rows(filled: str) -> None:
    with pytest.raises(DamagedFile) as caught, open_store(filled).write() as tx:
        tx.connection.execute(text("INSERT INTO checkpoint VALUES (3, repeat('r', 32)::bytea, 'confidential')"))
    assert "confidential" not in str(caught.value)
    assert "(3)" not in str(caught.value)


# --- versions ---


def test_newer_version_is_refused(damageable: str) -> None:
    tamper(damageable, "UPDATE alembic_version SET version_num = '9999_future'")
    for read_only in (False, True):
        with pytest.raises(NewerFormat, match="9999_future"):
            open_store(damageable, read_only=read_only)


def test_older_version_is_brought_up_by_one_of_several(postgres: Any, next_steps: Callable[..., None]) -> None:
    url = postgres.url(postgres.new_database())
    next_steps()
    open_store(url, create=True).close()
    next_steps(a_more='op.execute("CREATE TABLE more (id INTEGER)")')
    with pytest.raises(ConfigurationError, match="older than a_more"):
        open_store(url, read_only=True)
    with ThreadPoolExecutor(3) as pool:
        for store in pool.map(lambda _: open_store(url), range(3)):
            with store.read() as tx:
                assert tx.connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "a_more"
            store.close()


def test_steps_are_taken_together_or_not_at_all(postgres: Any, next_steps: Callable[..., None]) -> None:
    url = postgres.url(postgres.new_database())
    next_steps()
    open_store(url, create=True).close()
    next_steps(a_more='op.execute("CREATE TABLE more (id INTEGER)")', b_broken='op.execute("CREATE TABLE feed (id)")')
    with pytest.raises(AuditError):
        open_store(url)
    with psycopg.connect(url, options="-c search_path=holdfast") as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("0001_ledger",)]
        assert connection.execute("SELECT to_regclass('more')").fetchone() == (None,)


# --- locks ---


def test_locked_by_another_process(filled: str) -> None:
    with psycopg.connect(filled, options="-c search_path=holdfast") as other:
        other.execute("SELECT one FROM store_lock FOR UPDATE")
        store = open_postgres(located(filled), busy_timeout_ms=50)
        with pytest.raises(StoreBusy, match="is writing"), store.write():
            pass
        with store.read() as tx:
            assert tx.log() is not None
        other.rollback()
        with store.write() as tx:
            assert tx.log() is not None


def test_writer_that_waited_reads_what_was_written_meanwhile(filled: str, key: FeedKey, grow: Any) -> None:
    first, second = open_store(filled), open_store(filled)
    waiting = threading.Event()

    def append() -> int:
        waiting.set()
        with second.write() as tx:
            return int(grow(tx, tx.feed(key), [b"second"]).length)

    with ThreadPoolExecutor(1) as pool:
        with first.write() as tx:
            later = pool.submit(append)
            waiting.wait()
            grow(tx, tx.feed(key), [b"first"])
        assert later.result() == 2002


def race(url: str, name: int, grow: Any, key: FeedKey, answer: Any) -> None:
    """Append to one feed as fast as it goes, each time from what was read before the lock was taken."""
    store, won = open_store(url), []
    while len(won) < 20:
        with store.read() as reading:
            seen = reading.feed(key)
        with suppress(ConflictError), store.write() as tx:
            won.append(grow(tx, seen, [b"%d" % name]).length - 1)
    store.close()
    answer.put((name, won))


def test_two_processes_race_on_one_feed(empty_postgres: str, key: FeedKey, grow: Any) -> None:
    with closing(open_store(empty_postgres)) as store:
        with store.write() as tx:
            tx.create_feed(key, MANIFEST, local=True)
        context = multiprocessing.get_context("fork")
        answer = context.SimpleQueue()
        children = [context.Process(target=race, args=(empty_postgres, n, grow, key, answer)) for n in range(2)]
        for child in children:
            child.start()
        won = dict(answer.get() for _ in children)
        for child in children:
            child.join()
        assert sorted(won[0] + won[1]) == list(range(40))
        with store.read() as reading:
            assert [int(block) for block in reading.blocks(key, 0, 40)] == [int(n in won[1]) for n in range(40)]
            assert [head.length for head in reading.heads(key)] == list(range(1, 41))


# --- history is insert-only, feeds and log move forward ---


@pytest.mark.parametrize(
    "statement",
    [
        *(f"DELETE FROM {table}" for table in ("feed", "tree", "block", "head", "log", "log_leaf", "checkpoint")),
        *(f"TRUNCATE {table} CASCADE" for table in ("feed", "tree", "block", "head", "log", "log_leaf", "checkpoint")),
        *(f"TRUNCATE {table} CASCADE" for table in ("identity_event", "anchor", "anchor_transaction", "store_lock")),
        *(f"TRUNCATE {table} CASCADE" for table in ("anchor_receipt", "timestamp_token", "timestamp_material")),
        "DELETE FROM identity_event",
        "DELETE FROM store_lock",
        "UPDATE tree SET nodes = ''",
        "UPDATE block SET data = ''",
        "UPDATE head SET signature = ''",
        "UPDATE log_leaf SET statement = ''",
        "UPDATE checkpoint SET note = ''",
        "UPDATE identity_event SET seq = 1",
        "UPDATE feed SET manifest = ''",
        "UPDATE feed SET local = 0",
        "UPDATE feed SET length = length - 1",
        "UPDATE feed SET roots = ''",
        "UPDATE feed SET byte_length = byte_length - 1, length = length + 1",
        "UPDATE feed SET retired = 1, length = length + 1",
        "UPDATE log SET size = size - 1",
        "UPDATE log SET log_id = repeat('x', 32)::bytea, size = size + 1",
        "INSERT INTO block SELECT pos, '' FROM block ON CONFLICT (pos) DO UPDATE SET data = ''",
        "MERGE INTO block USING head ON block.pos < head.pos WHEN MATCHED THEN DELETE",
    ],
)
def test_engine_keeps_history(filled: str, statement: str) -> None:
    with pytest.raises(StorageError, match=r"insert-only|moves forward"), open_store(filled).write() as tx:
        tx.connection.exec_driver_sql(statement)


def test_retired_feed_stays_retired(filled: str, key: FeedKey) -> None:
    store = open_store(filled)
    with store.write() as tx:
        tx.retire_feed(key)
    with pytest.raises(StorageError, match="moves forward"), store.write() as tx:
        tx.connection.execute(text("UPDATE feed SET retired = 0"))


# --- damage ---


@pytest.mark.parametrize(
    ("statement", "use"),
    [
        (f"DELETE FROM block WHERE pos = {POS}", lambda tx, key: tx.block(key, 7)),
        (f"DELETE FROM block WHERE pos = {POS}", lambda tx, key: list(tx.blocks(key, 0, 20))),
        (f"DELETE FROM block WHERE pos = {POS}", lambda tx, key: list(tx.blocks(key, 0, 2000))),
        (f"DELETE FROM tree WHERE pos = {POS}", lambda tx, key: tx.node(key, 14)),
        (f"DELETE FROM tree WHERE pos >= {POS}", lambda tx, key: list(tx.tree_rows(key, 0, 20))),
        (f"UPDATE tree SET nodes = repeat('x', 40)::bytea WHERE pos = {POS}", lambda tx, key: tx.node(key, 7)),
        ("UPDATE feed SET roots = ''", lambda tx, key: tx.feed(key)),
        ("UPDATE feed SET length = 2001", lambda tx, key: tx.feed(key)),
        ("UPDATE log SET frontier = repeat('x', 32)::bytea", lambda tx, key: tx.log()),
        ("DELETE FROM log_leaf WHERE idx = 1", lambda tx, key: list(tx.log_leaves(0, 3))),
        ("UPDATE log_leaf SET hashes = repeat('x', 32)::bytea", lambda tx, key: tx.log_node(1, 0)),
    ],
)
def test_row_that_cannot_be(filled: str, key: FeedKey, statement: str, use: Any) -> None:
    tamper(filled, statement)
    with pytest.raises(DamagedFile), open_store(filled).read() as tx:
        use(tx, key)


WRONG_TYPES = (
    ("ALTER TABLE block ALTER data TYPE text USING 'x'", lambda tx, key: tx.block(key, 7)),
    ("ALTER TABLE block ALTER data TYPE text USING 'x'", lambda tx, key: list(tx.blocks(key, 0, 2000))),
    ("ALTER TABLE block ALTER data DROP NOT NULL; UPDATE block SET data = NULL", lambda tx, key: tx.block(key, 7)),
    ("ALTER TABLE block ALTER pos TYPE text", lambda tx, key: list(tx.blocks(key, 0, 20))),
    ("ALTER TABLE head ALTER signature TYPE text USING 'x'", lambda tx, key: list(tx.heads(key))),
    ("ALTER TABLE head ALTER signature TYPE text USING 'x'", lambda tx, key: tx.head(key, 1000)),
    (
        "DROP TRIGGER feed_moves_forward ON feed; ALTER TABLE feed ALTER manifest TYPE text",
        lambda tx, key: tx.feed(key),
    ),
    ("ALTER TABLE checkpoint ALTER note TYPE bytea USING note::bytea", lambda tx, key: tx.checkpoint(3)),
    ("ALTER TABLE checkpoint ALTER note TYPE integer USING 1", lambda tx, key: list(tx.checkpoints())),
    ("ALTER TABLE identity_event DROP seq", lambda tx, key: tx.identity_events(b"i" * 32)),
    ("ALTER TABLE log DROP CONSTRAINT log_size_check; UPDATE log SET size = -3", lambda tx, key: tx.log()),
    ("DROP TABLE tree", lambda tx, key: tx.node(key, 0)),
    ("DROP TABLE head", lambda tx, key: list(tx.heads(key))),
    ("DROP TABLE log", lambda tx, key: tx.log()),
    ("DROP SCHEMA holdfast CASCADE", lambda tx, key: tx.log()),
)


def test_wrong_types_and_missing_tables(postgres: Any, damageable: str, key: FeedKey) -> None:
    """Each in a copy of one database, which is quicker than making it anew."""
    template = damageable.rpartition("/")[2]
    for statement, use in WRONG_TYPES:
        url = postgres.url(postgres.new_database(template))
        store = open_store(url)
        tamper(url, statement)
        with pytest.raises(DamagedFile), store.read() as tx:
            use(tx, key)
        store.close()
        postgres.execute(f"DROP DATABASE {url.rpartition('/')[2]}")


@pytest.mark.parametrize("statement", ["DELETE FROM store_lock", "DROP TABLE store_lock"])
def test_nobody_writes_without_the_lock(damageable: str, statement: str) -> None:
    store = open_store(damageable)
    tamper(damageable, statement)
    with pytest.raises(DamagedFile), store.write():
        pass


@pytest.mark.parametrize("blocks", [2, 100])
def test_row_in_the_way_of_an_append(filled: str, key: FeedKey, grow: Any, blocks: int) -> None:
    tamper(filled, f"INSERT INTO block VALUES ({(1 << 40) + 2001}, '')")
    store = open_store(filled)
    with pytest.raises(DamagedFile, match="in the way"), store.write() as tx:
        grow(tx, tx.feed(key), [b"a"] * blocks)
    with pytest.raises(StorageError, match="nothing of it is kept"), store.write() as tx, pytest.raises(DamagedFile):
        grow(tx, tx.feed(key), [b"a"] * blocks)
    assert len(read_all(store, key)) == 2000


def test_failed_statement_of_a_layer_above_is_not_committed_though_somebody_caught_it(filled: str) -> None:
    with pytest.raises(StorageError, match="nothing of it is kept"), open_store(filled).write() as tx:
        tx.create_feed(FeedKey(bytes(32)), MANIFEST, local=True)
        with suppress(Exception):
            tx.connection.execute(text("SELECT 1 / 0"))
    with open_store(filled).read() as reading:
        assert reading.feed(FeedKey(bytes(32))) is None


# --- streams ---


def test_several_streams_beside_other_reads(filled: str, key: FeedKey) -> None:
    with open_store(filled).read() as tx:
        streams = [tx.blocks(key, 0, 2000), tx.blocks(key, 0, 2000), tx.tree_rows(key, 0, 2000)]
        firsts = [next(stream) for stream in streams]
        assert firsts[0] == firsts[1] == tx.block(key, 0)
        assert [len(list(stream)) for stream in streams] == [1999, 1999, 1999]


def test_stream_ends_with_its_transaction(filled: str, key: FeedKey) -> None:
    with open_store(filled).read() as tx:
        blocks: Iterator[bytes] = tx.blocks(key, 0, 2000)
        assert next(blocks) == b"0" * 20
    with pytest.raises(StorageError):
        list(blocks)


# --- the server goes ---


def test_server_killed_between_transactions(postgres: Any, filled: str, key: FeedKey, grow: Any) -> None:
    store = open_store(filled)
    with store.write() as tx:
        grow(tx, tx.feed(key), [b"kept"])
    with store.read() as reading:
        assert reading.block(key, 2000) == b"kept"
    postgres.stop("immediate")
    try:
        with pytest.raises(StorageError), store.write():
            pass
        with pytest.raises(StorageError), store.read():
            pass
    finally:
        postgres.start()
    with store.write() as tx:
        grow(tx, tx.feed(key), [b"after"])
    assert read_all(store, key)[2000:] == [b"kept", b"after"]


def test_server_killed_and_back_is_not_noticed(postgres: Any, filled: str, key: FeedKey, grow: Any) -> None:
    store = open_store(filled)
    with store.write() as tx:
        grow(tx, tx.feed(key), [b"kept"])
    assert len(read_all(store, key)) == 2001
    postgres.stop("immediate")
    postgres.start()
    assert len(read_all(store, key)) == 2001
    with store.write() as tx:
        grow(tx, tx.feed(key), [b"after"])


def test_server_killed_during_a_transaction(postgres: Any, filled: str, key: FeedKey, grow: Any) -> None:
    store = open_store(filled)

    def lose(more: bool) -> None:
        with store.write() as tx:
            state = grow(tx, tx.feed(key), [b"lost"])
            postgres.stop("immediate")
            postgres.start()
            if more:
                grow(tx, state, [b"lost"])

    for more in (True, False):  # the second finds out at the commit
        with pytest.raises(StorageError):
            lose(more)
        assert len(read_all(store, key)) == 2000

    def read_on() -> None:
        with store.read() as tx:
            blocks = tx.blocks(key, 0, 2000)
            next(blocks)
            postgres.stop("immediate")
            postgres.start()
            list(blocks)

    with pytest.raises(StorageError):
        read_on()
    assert len(read_all(store, key)) == 2000


# --- commits of unknown outcome ---


class Cutter:
    """Stands between store and server, and cuts the line at a commit: before the server hears of it, or after."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.cut: str | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                for args in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._forward, args=args, daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, outward: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if outward and b"COMMIT\0" in data and self.cut is not None:
                    if self.cut == "after":
                        source.shutdown(socket.SHUT_RDWR)
                        target.sendall(data)
                        return
                    break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def cutter(postgres: Any) -> Iterator[Cutter]:
    made = Cutter(postgres.port)
    yield made
    made.close()


@pytest.mark.parametrize(("cut", "kept"), [("before", False), ("after", True)])
def test_commit_whose_connection_is_cut(
    postgres: Any, filled: str, key: FeedKey, grow: Any, cutter: Cutter, cut: str, kept: bool
) -> None:
    store = open_store(filled.replace(f":{postgres.port}/", f":{cutter.port}/"))
    cutter.cut = cut
    with pytest.raises(UnknownOutcome, match="was not answered"), store.write() as tx:
        grow(tx, tx.feed(key), [b"perhaps"])
    cutter.cut = None
    with store.write() as tx:  # the lock is free when the server has ended the other transaction, either way
        state = tx.feed(key)
        assert state is not None
        assert state.length == 2000 + kept
        grow(tx, state, [b"next"])
    assert read_all(store, key)[2000:] == [b"perhaps", b"next"][1 - kept :]


def at_commit(url: str, body: str) -> None:
    """Let the server do something when a transaction that added a head is committed."""
    tamper(
        url,
        f"CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NULL; END $$",
        "CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON head DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION at_commit()",
    )


def test_commit_with_a_warning(damageable: str, key: FeedKey, grow: Any) -> None:
    at_commit(damageable, "RAISE WARNING 'canceling wait for synchronous replication'")
    with pytest.raises(UnknownOutcome, match="01000 canceling wait"), open_store(damageable).write() as tx:
        grow(tx, tx.feed(key), [b"perhaps"])


def test_warning_before_the_commit_is_none_of_it(damageable: str, key: FeedKey, grow: Any) -> None:
    with open_store(damageable).write() as tx:
        tx.connection.execute(text("DO 'BEGIN RAISE WARNING $$old$$; END'"))
        grow(tx, tx.feed(key), [b"kept"])
    assert len(read_all(open_store(damageable), key)) == 2001


def test_commit_that_takes_too_long(damageable: str, key: FeedKey, grow: Any) -> None:
    at_commit(damageable, "PERFORM pg_sleep(3)")
    store = open_postgres(located(damageable), commit_timeout_s=0.2)
    with pytest.raises(UnknownOutcome), store.write() as tx:
        grow(tx, tx.feed(key), [b"perhaps"])


def test_commit_that_is_cancelled(damageable: str, key: FeedKey, grow: Any) -> None:
    at_commit(damageable, "RAISE query_canceled")
    with pytest.raises(UnknownOutcome), open_store(damageable).write() as tx:
        grow(tx, tx.feed(key), [b"perhaps"])


def test_commit_that_is_refused_is_no_unknown_outcome(damageable: str, key: FeedKey, grow: Any) -> None:
    at_commit(damageable, "RAISE foreign_key_violation")
    store = open_store(damageable)
    with pytest.raises(DamagedFile), store.write() as tx:
        grow(tx, tx.feed(key), [b"lost"])
    assert len(read_all(store, key)) == 2000


# --- transactions of the layers above ---


def test_other_tables_share_the_transaction(damageable: str, key: FeedKey, grow: Any) -> None:
    store = open_store(damageable)
    with store.write() as tx:
        tx.connection.execute(text("CREATE TABLE pending (feed BYTEA, length INTEGER)"))

    def write_and_lose() -> None:
        with store.write() as tx:
            state = grow(tx, tx.feed(key), [b"lost"])
            tx.connection.execute(text("INSERT INTO pending VALUES (:k, :n)"), {"k": key, "n": state.length})
            raise ConflictError("a condition was lost")

    with pytest.raises(ConflictError):
        write_and_lose()
    with store.write() as tx:
        state = grow(tx, tx.feed(key), [b"kept"])
        tx.connection.execute(text("INSERT INTO pending VALUES (:k, :n)"), {"k": key, "n": state.length})
    with store.read() as reading:
        assert reading.connection.execute(text("SELECT length FROM pending")).scalars().all() == [2001]


def test_transaction_is_over_when_it_is_over(filled: str, key: FeedKey) -> None:
    store = open_store(filled)
    with store.read() as reading:
        assert reading.block(key, 0)
    for wrong in (lambda: reading.block(key, 0), lambda: list(reading.blocks(key, 0, 2000))):
        with pytest.raises(StorageError, match="is over"):
            wrong()


def test_a_server_that_was_never_reached_is_not_called_lost() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(StoreUnreachable, match="the database server cannot be reached"):
        open_postgres(located(f"postgresql://nobody@127.0.0.1:{port}/nothing"))


def test_a_server_that_refuses_is_not_called_unreachable(postgres: Any) -> None:
    with pytest.raises(StorageError, match="the database server does not take the connection") as caught:
        open_postgres(located(postgres.url("no_such_database")))
    assert not isinstance(caught.value, StoreUnreachable)


def several_hosts(postgres: Any, database: str, options: str = "") -> str:
    """A URL whose first host is not there."""
    return f"postgresql://vault@127.0.0.1:1,127.0.0.1:{postgres.port}/{database}{options}"


def test_of_several_hosts_the_one_that_can_be_written_to(postgres: Any) -> None:
    database = postgres.new_database()
    open_store(several_hosts(postgres, database), create=True).close()
    postgres.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")  # as a standby looks
    with pytest.raises(StoreBusy, match="another one is taking over") as caught:
        open_store(several_hosts(postgres, database))
    assert len(str(caught.value).splitlines()) == 1
    assert "All failures" not in str(caught.value)
    open_store(several_hosts(postgres, database), read_only=True).close()
    opened = open_store(several_hosts(postgres, database, "?target_session_attrs=any"))
    with opened.write() as tx:
        assert tx.feeds() == []
    opened.close()


def test_limits_of_several_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter than those of one, unless the URL has others."""
    asked: list[dict[str, str]] = []

    def refuse(**options: str) -> None:
        asked.append(options)
        raise psycopg.OperationalError("connection failed: not in this test")

    monkeypatch.setattr(engine._Driver, "connect", refuse)
    for url in ("postgresql://a/b", "postgresql://a,c/b", "postgresql://a,c/b?connect_timeout=7"):
        with pytest.raises(StorageError):
            open_store(url)
    assert [one["connect_timeout"] for one in asked] == ["5", "2", "7"]
    assert [one.get("target_session_attrs") for one in asked] == [None, "read-write", "read-write"]

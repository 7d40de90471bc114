"""PostgreSQL as the engine: a store is one schema of a database, and several processes may use it.

Implements docs/spec/storage.md section 5. A write transaction takes the store's row lock when it begins; a reader
works on a REPEATABLE READ snapshot. A commit that was not answered, or was answered with a warning, has an unknown
outcome and says so. No advisory locks and no statement triggers but TRUNCATE's, so that other engines that speak
PostgreSQL's protocol stay within reach.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from itertools import count
from typing import Any, Final, TypeVar

import psycopg
from psycopg import errors, waiting
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import PGconn, Ping, TransactionStatus
from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from identity.errors import (
    ConfigurationError,
    DamagedFile,
    RefusedError,
    StorageError,
    StoreBusy,
    StoreUnreachable,
    UnknownOutcome,
)
from ledger.storage.connections import Connections, Rim, commit
from ledger.storage.location import PostgresLocation
from ledger.storage.migrate import REVISIONS, current_revision, upgrade
from ledger.storage.postgres_rows import append_rows, insert_many, prepare_for_rows
from ledger.storage.sql import SqlStore
from ledger.storage.statements import compile_statements

__all__ = [
    "BUSY_TIMEOUT_MS",
    "COMMIT_TIMEOUT_S",
    "STATEMENT_TIMEOUT_MS",
    "drop_postgres",
    "open_postgres",
    "schema_exists",
]

BUSY_TIMEOUT_MS: Final = 5_000
STATEMENT_TIMEOUT_MS: Final = 60_000
COMMIT_TIMEOUT_S: Final = 30.0
"""How long a commit is waited for. It can wait for a replica without limit, and statement_timeout does not end that."""

_OLDEST_SERVER: Final = 130_000
_ATTEMPTS: Final = 3
"""Begins of a write transaction that met a serialization failure. Nothing was shown to anybody by then."""

_DEFAULTS: Final = {
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "25000",
}
"""For what the URL leaves open: a host that vanished is noticed within half a minute."""

_SEVERAL: Final = {
    "connect_timeout": "2",
    "keepalives_idle": "4",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
"""The same where the URL names several hosts: there is another one to go to."""

_BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
_BEGIN_READ: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_BEGIN_ASIDE: Final = f"{_BEGIN}; SET LOCAL synchronous_commit = off"
_LOCK: Final = "SELECT one FROM store_lock FOR UPDATE"
"""A statement of its own, also where others follow in the same message: each sees what was committed before it."""

_SESSION: Final = """
    SELECT set_config('search_path', %s, false),
        set_config('lock_timeout', %s, false),
        set_config('statement_timeout', %s, false),
        set_config('row_security', 'off', false),
        set_config('synchronous_commit',
            CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false)
"""
"""Policies that would hide rows are an error instead; no setting of server or role makes a commit less durable."""

_SERVER: Final = """
    SELECT current_setting('server_version_num')::int, current_setting('server_encoding'),
        current_setting('fsync'), current_setting('full_page_writes'),
        (SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = %s)
"""

_MEANING: Final[tuple[tuple[str, type[StorageError], str], ...]] = (
    ("55P03", StoreBusy, "another process is writing to the store"),
    ("40", StoreBusy, "another process was in the way"),
    ("53300", StoreBusy, "the database server has no connection left"),
    ("57P03", StoreBusy, "the database server is starting or stopping, or another one is taking over"),
    ("57014", StorageError, "the database server gave the statement up"),
    ("57", StorageError, "the database server ended the connection"),
    ("08001", StoreUnreachable, "the database server cannot be reached"),
    ("08004", StorageError, "the database server does not take the connection"),
    ("08", StorageError, "the connection to the database server was lost"),
    ("53100", StorageError, "the disk of the database server is full"),
    ("53", StorageError, "the database server is out of something"),
    ("25006", StorageError, "the store cannot be written to: the database server is read-only, or a standby"),
    ("25", StorageError, "the transaction failed before"),
    ("P0001", StorageError, "refused by the store"),
    ("23", DamagedFile, "rows are in the way that should not be there"),
    ("42501", StorageError, "the database server does not permit it"),
    ("42P01", DamagedFile, "a table of the store is missing"),
    ("42703", DamagedFile, "a column of the store is missing"),
    ("42883", DamagedFile, "a column of the store has another type"),
    ("42804", DamagedFile, "a column of the store has another type"),
    ("42", StorageError, "the database server does not take the statement"),
    ("3F", DamagedFile, "the schema of the store is gone"),
    ("22", StorageError, "the database server does not take the value"),
    ("XX001", DamagedFile, "data of the database server is damaged"),
    ("XX002", DamagedFile, "data of the database server is damaged"),
    ("58P01", DamagedFile, "a file of the database server is missing"),
    ("58", StorageError, "the database server could not read or write its medium"),
)
"""SQLSTATE by prefix: the first that fits."""

_NO_CONNECTION_LEFT: Final = ("too many clients", "too many connections", "remaining connection slots")
"""In the text of a refused connection, where the protocol's library gives no SQLSTATE."""

_NOT_THE_PRIMARY: Final = ("session is read-only", "server is in hot standby mode")
"""The same of a server that was asked for as one to write to. While a replica takes over all of them are such."""

_RV = TypeVar("_RV")


def open_postgres(
    location: PostgresLocation,
    *,
    read_only: bool = False,
    create: bool = False,
    busy_timeout_ms: int = BUSY_TIMEOUT_MS,
    commit_timeout_s: float = COMMIT_TIMEOUT_S,
) -> SqlStore:
    """Open the store in the schema of ``location``.

    With ``create`` the schema must not exist; it appears whole or not at all. Without, it must, and older tables are
    brought to the newest version. ``read_only`` changes nothing, the version included, and works on a standby.

    Raises ``DamagedFile`` when the schema is not a store of ours or is broken, ``NewerFormat`` when a newer program
    wrote it, ``StoreBusy`` when another process is writing for longer than ``busy_timeout_ms`` or the server takes no
    connection now, ``RefusedError`` when ``create`` meets an existing schema or the server would lose what it
    committed, ``ConfigurationError`` for a URL that libpq does not take, ``StorageError`` for all else.
    """
    engine = create_engine(
        "postgresql+psycopg://",
        creator=_connector(location, busy_timeout_ms, writable=not read_only),
        poolclass=NullPool,
        paramstyle="format",
        use_native_hstore=False,  # would ask the server for a type that no table has
    )
    durably = partial(_commit, timeout_s=commit_timeout_s)
    reading = Connections(engine, _begin_read, _RIM)
    begin_write = partial(_begin_write, feed_sql=compile_statements(engine.dialect).feed)
    writing = Connections(engine, begin_write, _RIM, durably)
    try:
        exists = _check_server(reading, location, durable=not read_only)
        if create:
            if exists:
                raise _exists(location)
            _create(Connections(engine, _begin, _RIM, durably), location)
        elif not exists:
            raise StorageError(f"there is no store at {location}")
        revision = _revision(reading)
        if revision != REVISIONS[-1] and read_only:
            raise ConfigurationError(
                f"the store is of version {revision}, older than {REVISIONS[-1]}", hint="open it for writing once"
            )
        if revision != REVISIONS[-1]:
            _upgrade(writing)
    except BaseException:
        reading.close()
        writing.close()
        raise
    return SqlStore(
        reading,
        None if read_only else writing,
        rim=_RIM,
        guard=_unguarded,
        busy_timeout_s=busy_timeout_ms / 1000,
        reopen=partial(
            open_postgres,
            location,
            read_only=read_only,
            busy_timeout_ms=busy_timeout_ms,
            commit_timeout_s=commit_timeout_s,
        ),
        noting=None if read_only else Connections(engine, _begin_aside, _RIM),
    )


def schema_exists(location: PostgresLocation) -> bool:
    """Whether there is a schema of that name, whatever is in it."""
    with _RIM.translated(), _connector(location, BUSY_TIMEOUT_MS)() as driver:
        found = driver.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (location.schema,)).fetchone()
    return found is not None


def drop_postgres(location: PostgresLocation) -> None:
    """Remove the store at ``location``, with everything in its schema. For one that this process has just made."""
    with _RIM.translated(), _connector(location, BUSY_TIMEOUT_MS)() as driver:
        driver.execute(f'DROP SCHEMA IF EXISTS "{location.schema}" CASCADE')


# --- connections ---


class _Driver(psycopg.Connection[Any]):
    """A connection that remembers the server's warnings, and whose commits are waited for but never cancelled."""

    warnings: list[str]
    patience_s: float | None = None
    usual_feed: bytes | None = None
    """The feed that the last write transaction read first: most probably the next one will too."""
    feed_row: Sequence[Any] | None = None
    """Its row, read when the present write transaction began."""

    def wait(self, gen: PQGen[_RV], interval: float = 0.1, timeout: float | None = None) -> _RV:
        if self.patience_s is None:
            return super().wait(gen, interval, timeout)
        # The library would cancel the commit when it is interrupted. A commit that is cancelled while it waits for a
        # replica is reported as done.
        return waiting.wait(gen, self.pgconn.socket, interval=interval, timeout=self.patience_s)


def _connector(location: PostgresLocation, busy_timeout_ms: int, *, writable: bool = True) -> Any:
    """What opens a connection. Raises ``ConfigurationError`` for a URL that libpq does not take.

    Of several hosts it takes the first that can be written to, where ``writable`` asks for one and the URL for nothing.
    """
    try:
        given = conninfo_to_dict(location.url)
    except psycopg.ProgrammingError as exc:
        unknown = re.search(r'invalid URI query parameter: "\w+"', str(exc))
        # Nothing else of the text is shown: it may quote a part of a password. Nor does the error it came from.
        raise ConfigurationError(
            f"the database URL of {location.schema} is not one that PostgreSQL's library takes"
            + (f": {unknown[0]}" if unknown else "")
        ) from None
    defaults = {**_DEFAULTS, "application_name": "holdfast"}
    if "," in str(given.get("host") or given.get("hostaddr") or ""):
        defaults |= _SEVERAL
        defaults |= {"target_session_attrs": "read-write"} if writable else {}
    options = {**defaults, **given, "client_encoding": "utf8"}
    settings = (f'"{location.schema}", pg_temp', str(busy_timeout_ms), str(STATEMENT_TIMEOUT_MS))

    def connect() -> _Driver:
        driver = _Driver.connect(**options, autocommit=True)  # type: ignore[arg-type]
        driver.warnings = []
        prepare_for_rows(driver)
        try:
            driver.add_notice_handler(partial(_keep_warning, driver.warnings))
            driver.execute(_SESSION, settings)
        except BaseException:
            driver.close()
            raise
        return driver

    return connect


def _keep_warning(warnings: list[str], notice: errors.Diagnostic) -> None:
    if notice.severity_nonlocalized == "WARNING":
        warnings.append(f"{notice.sqlstate} {notice.message_primary}")


def _begin(driver: _Driver) -> None:
    driver.execute(_BEGIN)


def _begin_read(driver: _Driver) -> None:
    driver.execute(_BEGIN_READ)


def _begin_aside(driver: _Driver) -> None:
    driver.execute(_BEGIN_ASIDE)


def _begin_write(driver: _Driver, feed_sql: str) -> None:
    """Begin, take the store's lock, and read the row of the feed that will probably be written to: one round trip.

    What the transaction reads comes after the lock: READ COMMITTED sees to it.
    """
    statements = f"{_BEGIN}; {_LOCK}"
    if driver.usual_feed is not None:
        statements += "; " + feed_sql.replace("%s", f"'\\x{driver.usual_feed.hex()}'")
    for attempt in count(1):
        try:
            cursor = driver.execute(statements)
        except (errors.SerializationFailure, errors.DeadlockDetected):
            driver.rollback()
            if attempt == _ATTEMPTS:
                raise
        else:
            break
    cursor.nextset()
    if cursor.fetchone() is None:
        raise DamagedFile("the row that writers lock is missing")
    driver.feed_row = cursor.fetchone() if cursor.nextset() else None


def _read_ahead(driver: _Driver, key: bytes) -> Sequence[Any] | None:
    read, driver.usual_feed = driver.usual_feed, key
    return driver.feed_row if read == key else None


def _commit(connection: Connection, *, timeout_s: float) -> None:
    """Commit. Raises ``UnknownOutcome`` unless the server says plainly that it did, or that it did not."""
    driver: Any = connection.connection.driver_connection
    if driver.info.transaction_status is TransactionStatus.INERROR:
        raise StorageError("a statement of the transaction failed: nothing of it is kept")
    if driver.closed:
        raise StorageError("the connection was lost before the commit: nothing of the transaction is kept")
    driver.warnings.clear()
    driver.patience_s = timeout_s
    try:
        commit(connection)
    except KeyboardInterrupt as exc:
        raise UnknownOutcome("interrupted while the commit was under way") from exc
    except (SQLAlchemyError, psycopg.Error) as exc:
        state, text = _reason(exc)
        if state[:2] in ("23", "40") and state != "40003":  # refused, by a constraint or for the sake of another one
            raise
        raise UnknownOutcome(f"the commit was not answered: {text}") from exc
    finally:
        driver.patience_s = None
    if driver.warnings:
        raise UnknownOutcome(f"the commit was answered with a warning: {'; '.join(driver.warnings)}")


# --- opening ---


def _check_server(connections: Connections, location: PostgresLocation, *, durable: bool) -> bool:
    """Whether the schema exists. Raises ``RefusedError`` for a server that does not do what a store is promised."""
    with connections.transaction() as connection:
        driver: Any = connection.connection.driver_connection
        version, encoding, fsync, full_pages, usable = driver.execute(_SERVER, (location.schema,)).fetchone()
    if version < _OLDEST_SERVER:
        raise RefusedError(f"the database server is older than version {_OLDEST_SERVER // 10_000}")
    if encoding != "UTF8":
        raise RefusedError(f"the database is in {encoding}, and a store's text is UTF-8", hint="use another database")
    if durable and "off" in (fsync, full_pages):
        raise RefusedError("the database server would lose what it committed: fsync or full_page_writes is off")
    if usable is False:
        raise StorageError(f"{location}: the database server does not permit the use of the schema")
    return usable is not None


def _create(connections: Connections, location: PostgresLocation) -> None:
    """Make the schema and its tables, in one transaction."""
    with connections.transaction() as connection:
        driver: Any = connection.connection.driver_connection
        try:
            driver.execute(f'CREATE SCHEMA "{location.schema}"')
        except (errors.DuplicateSchema, errors.UniqueViolation) as exc:
            raise _exists(location) from exc
        connection.begin()  # else Alembic commits after every step
        upgrade(connection)
    connections.close()


def _exists(location: PostgresLocation) -> RefusedError:
    return RefusedError(
        f"{location}: the schema exists", hint="a store is never overwritten: name another schema, or open this store"
    )


def _revision(connections: Connections) -> str:
    with connections.transaction() as connection:
        revision = current_revision(connection)
    if revision is None:
        raise DamagedFile("the schema has no tables of a store")
    return revision


def _upgrade(writing: Connections) -> None:
    """Apply what is missing, under the write lock, so that of several processes one does it."""
    with writing.transaction() as connection:
        driver: Any = connection.connection.driver_connection
        driver.execute("SET LOCAL statement_timeout = 0")
        connection.begin()  # else Alembic commits after every step
        upgrade(connection)


def _unguarded() -> None:
    """What the engine's own locks protect needs no watching."""


# --- statements ---

_NAMES = count(1)


def _execute(driver: _Driver, sql: str, parameters: Sequence[Any]) -> Any:
    return driver.execute(sql, parameters, binary=True)


def _stream(driver: _Driver, few: bool) -> Any:
    """A cursor of the server's for what may be long; for a few rows its three further round trips are not worth it."""
    return driver.cursor(binary=True) if few else driver.cursor(f"stream_{next(_NAMES)}", binary=True)


# --- errors ---


_LIST_OF_ATTEMPTS: Final = "Multiple connection attempts failed"
_NEVER_CONNECTED: Final = "connection failed"
"""How the driver begins what it says of a connection that was never there, in every language of the server."""


def _reason(exc: BaseException) -> tuple[str, str]:
    """SQLSTATE, empty when there is none, and what to say: never DETAIL or CONTEXT, which quote rows."""
    cause = exc.orig if isinstance(exc, DBAPIError) and exc.orig is not None else exc
    if not isinstance(cause, psycopg.Error):
        return "", str(cause).partition("\n")[0]
    # Of several hosts what was heard from the last one: the driver lists all of them after that.
    text = cause.diag.message_primary or " ".join(str(cause).partition(_LIST_OF_ATTEMPTS)[0].split())
    return cause.sqlstate or _state_of_connection(cause), text


def _state_of_connection(exc: psycopg.Error) -> str:
    """The SQLSTATE that a refused connection would have."""
    text = str(exc)
    if any(phrase in text for phrase in _NO_CONNECTION_LEFT):
        return "53300"
    if any(phrase in text for phrase in _NOT_THE_PRIMARY):
        return "57P03"
    if exc.pgconn is None or not isinstance(exc, psycopg.OperationalError):
        return ""
    answer = _ping(exc.pgconn)
    if answer == Ping.REJECT:
        return "57P03"
    if not text.startswith(_NEVER_CONNECTED):
        return "08006"
    return "08004" if answer == Ping.OK else "08001"


def _ping(connection: Any) -> int:
    """What the server that was not reached says of itself: it takes others, it is starting or stopping, or nothing."""
    options = connection.info
    conninfo = b" ".join(
        b"%s='%s'" % (option.keyword, option.val.replace(b"\\", b"\\\\").replace(b"'", b"\\'"))
        for option in options
        if option.keyword in (b"host", b"hostaddr", b"port", b"user", b"dbname", b"connect_timeout") and option.val
    )
    return PGconn.ping(conninfo)


def _translate(exc: Exception) -> StorageError:
    """What PostgreSQL, its driver or SQLAlchemy raised, as this project's error; the caller raises it ``from exc``."""
    state, text = _reason(exc)
    for prefix, kind, meaning in _MEANING:
        if state.startswith(prefix):
            return kind(f"{meaning} ({text})")
    return StorageError(text)


def _is_lost(exc: Exception) -> bool:
    """Whether an idle connection turned out to be dead, or of a primary that is one no more: another can be tried."""
    state = getattr(exc, "sqlstate", None) or ""
    return isinstance(exc, psycopg.OperationalError | psycopg.InterfaceError) and (
        not state or state in ("57P01", "57P02", "57P05", "25P03", "25006") or state.startswith("08")
    )


_RIM: Final = Rim(
    driver_error=(psycopg.Error,),
    translate=_translate,
    execute=_execute,
    stream=_stream,
    insert_many=insert_many,
    append=append_rows,
    read_ahead=_read_ahead,
    is_lost=_is_lost,
)

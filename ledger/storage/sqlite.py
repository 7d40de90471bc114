"""SQLite as the engine: one file, opened so that what was committed survives a power cut.

Implements docs/spec/storage.md section 4. Write-ahead log, ``synchronous=FULL``; a write transaction takes the write
lock when it begins. Opening for reading creates and changes no file: while no write-ahead log is there the file is read
as immutable, and every reading is checked to have seen one and the same file.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from identity.durable import sync_directory, sync_file
from identity.errors import ConfigurationError, DamagedFile, RefusedError, StorageError, StoreBusy
from ledger.storage.connections import Connections, FeedRows, Rim
from ledger.storage.migrate import REVISIONS, current_revision, upgrade
from ledger.storage.sql import SqlStore
from ledger.storage.statements import Statements

__all__ = ["BUSY_TIMEOUT_MS", "open_sqlite"]

BUSY_TIMEOUT_MS: Final = 5_000

_APPLICATION_ID: Final = 0x686F6C64
"""In the file header, so that another program's database is not taken for a store."""

_PRAGMAS: Final = (
    "PRAGMA foreign_keys = ON",
    "PRAGMA recursive_triggers = ON",  # without it REPLACE deletes rows behind the triggers' back
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
)
_WAL: Final = "PRAGMA journal_mode = WAL"
_SYNC: Final = (
    _WAL,
    "PRAGMA synchronous = FULL",
    "PRAGMA fullfsync = ON",  # macOS: fsync alone leaves data in the drive's cache; elsewhere without effect
    "PRAGMA checkpoint_fullfsync = ON",
)
_QUERY_ONLY: Final = "PRAGMA query_only = ON"
_MARK: Final = f"PRAGMA application_id = {_APPLICATION_ID}"

_NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"afs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"}
)

_MEANING: Final[tuple[tuple[str, type[StorageError], str], ...]] = (
    ("SQLITE_BUSY", StoreBusy, "another process is writing to the store"),
    ("SQLITE_LOCKED", StoreBusy, "another process is writing to the store"),
    ("SQLITE_NOTADB", DamagedFile, "the file is not a store"),
    ("SQLITE_CORRUPT", DamagedFile, "the file of the store is damaged"),
    ("SQLITE_CONSTRAINT_TRIGGER", StorageError, "refused by the store"),
    ("SQLITE_CONSTRAINT", DamagedFile, "rows are in the way that should not be there"),
    ("SQLITE_FULL", StorageError, "the disk is full"),
    ("SQLITE_READONLY", StorageError, "the store cannot be written to: medium or file is read-only"),
    ("SQLITE_CANTOPEN", StorageError, "the store, or the log beside it, cannot be opened"),
    ("SQLITE_IOERR", StorageError, "reading or writing the medium failed"),
)
"""SQLite's names of its errors, by prefix: the first that fits."""


def open_sqlite(
    path: str | os.PathLike[str],
    *,
    read_only: bool = False,
    create: bool = False,
    busy_timeout_ms: int = BUSY_TIMEOUT_MS,
) -> SqlStore:
    """Open the store in the file ``path``.

    With ``create`` the file must not exist; it appears whole or not at all. Without, it must, and older tables are
    brought to the newest version. ``read_only`` creates and changes nothing, the version included.

    Raises ``DamagedFile`` when the file is not a store of ours or is broken, ``NewerFormat`` when a newer program wrote
    it, ``StoreBusy`` when another process is writing for longer than ``busy_timeout_ms``, ``RefusedError`` when
    ``create`` meets an existing file or the file lies on a network file system, ``StorageError`` for all else.
    """
    file = Path(path).absolute()
    if not read_only:
        _refuse_network_file_system(file.parent)
    if create:
        _create(file)
    _check_header(file)
    return _open_read_only(file, busy_timeout_ms) if read_only else _open(file, busy_timeout_ms)


def _open(file: Path, busy_timeout_ms: int) -> SqlStore:
    uri = f"{file.as_uri()}?mode=rw"
    reading = _connections(uri, "BEGIN", (*_PRAGMAS, *_SYNC, _QUERY_ONLY), busy_timeout_ms)
    writing = _connections(uri, "BEGIN IMMEDIATE", (*_PRAGMAS, *_SYNC), busy_timeout_ms)
    if _revision(reading) != REVISIONS[-1]:
        _upgrade(writing)
    return SqlStore(
        reading,
        writing,
        rim=_RIM,
        guard=_unguarded,
        busy_timeout_s=busy_timeout_ms / 1000,
        reopen=partial(open_sqlite, file, busy_timeout_ms=busy_timeout_ms),
    )


def _open_read_only(file: Path, busy_timeout_ms: int) -> SqlStore:
    """Open without creating or changing anything: not a lock file, not the index of the write-ahead log.

    SQLite insists on both when there is a log. When there is none it can be told that the file is immutable, which is
    true only as long as nobody writes: ``_Unchanged`` watches that.
    """
    guard: Callable[[], None] = _unguarded
    uri = f"{file.as_uri()}?mode=ro&readonly_shm=1"
    if not _has_log(file):
        guard, uri = _Unchanged(file), f"{file.as_uri()}?mode=ro&immutable=1"
    reading = _connections(uri, "BEGIN", (*_PRAGMAS, _QUERY_ONLY), busy_timeout_ms)
    revision = _revision(reading)
    if revision != REVISIONS[-1]:
        reading.close()
        raise ConfigurationError(
            f"the store is of version {revision}, older than {REVISIONS[-1]}", hint="open it for writing once"
        )
    return SqlStore(
        reading,
        None,
        rim=_RIM,
        guard=guard,
        busy_timeout_s=busy_timeout_ms / 1000,
        reopen=partial(open_sqlite, file, read_only=True, busy_timeout_ms=busy_timeout_ms),
    )


def _unguarded() -> None:
    """What the engine's own locks protect needs no watching."""


class _Unchanged:
    """That nobody wrote to a file since this was made. Call it: raises ``StoreBusy`` when somebody did."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._first = self._fingerprint()

    def __call__(self) -> None:
        if self._fingerprint() != self._first or _has_log(self._file):
            raise StoreBusy("the store was written to while it was open for reading", hint="open it again")

    def _fingerprint(self) -> tuple[int, int, int]:
        try:
            found = self._file.stat()
        except OSError as exc:
            raise StorageError(f"cannot read {self._file}: {exc.strerror}") from exc
        return found.st_ino, found.st_size, found.st_mtime_ns


def _has_log(file: Path) -> bool:
    """A write-ahead log with something in it: another process has the store open, or one died."""
    try:
        return file.with_name(file.name + "-wal").stat().st_size > 0
    except FileNotFoundError:
        return False


def _connections(uri: str, begin: str, pragmas: tuple[str, ...], busy_timeout_ms: int) -> Connections:
    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            uri, uri=True, isolation_level=None, check_same_thread=False, timeout=busy_timeout_ms / 1000
        )
        connection.text_factory = _decode_text
        try:
            for pragma in pragmas:
                connection.execute(pragma)
        except BaseException:
            connection.close()
            raise
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)
    return Connections(engine, lambda driver: driver.execute(begin), _RIM)


def _decode_text(data: bytes) -> str:
    """Text that is none, where bytes belong, is a damaged row like any other; the driver would call it an error."""
    return data.decode("utf-8", "surrogateescape")


def _revision(connections: Connections) -> str:
    try:
        with connections.transaction() as connection:
            revision = current_revision(connection)
        if revision is None:
            raise DamagedFile("the store has no tables")
    except BaseException:
        connections.close()
        raise
    return revision


def _upgrade(connections: Connections) -> None:
    with connections.transaction() as connection, connection.begin():  # else Alembic commits after every step
        upgrade(connection)


def _create(file: Path) -> None:
    """Make an empty store beside its place and move it there when it is complete and durable."""
    draft = file.with_name(file.name + ".new")
    try:
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError as exc:
        raise RefusedError(f"{draft} exists", hint="another process is creating the store, or died: remove it") from exc
    except OSError as exc:
        raise StorageError(f"cannot create {file}: {exc.strerror}") from exc
    try:
        if file.exists():
            raise RefusedError(f"{file} exists", hint="a store is never overwritten: move it away, or open it")
        making = _connections(f"{draft.as_uri()}?mode=rw", "BEGIN IMMEDIATE", (_MARK,), 0)
        _upgrade(making)
        making.close()
        _set_log_mode(draft)
        sync_file(draft)
        draft.rename(file)
        sync_directory(file.parent)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _set_log_mode(file: Path) -> None:
    """Switch to the write-ahead log, which the file then remembers; it cannot be done within a transaction."""
    with _RIM.translated(), closing(sqlite3.connect(file)) as connection:
        connection.execute(_WAL)


def _check_header(file: Path) -> None:
    """Refuse what is not a store of ours before SQLite touches it."""
    try:
        with file.open("rb") as stream:
            header, size = stream.read(100), os.fstat(stream.fileno()).st_size
    except FileNotFoundError as exc:
        raise StorageError(f"there is no store at {file}") from exc
    except OSError as exc:
        raise StorageError(f"cannot read {file}: {exc.strerror}") from exc
    if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
        raise DamagedFile(f"{file} is not a SQLite database, or its beginning is gone")
    if int.from_bytes(header[68:72], "big") != _APPLICATION_ID:
        raise DamagedFile(f"{file} is a SQLite database, but not a store of this program")
    page = int.from_bytes(header[16:18], "big") or 65536
    if not _has_log(file) and (size % page or size < page * int.from_bytes(header[28:32], "big")):
        raise DamagedFile(f"{file} is truncated: SQLite itself would read what is missing as zeroes")


def _refuse_network_file_system(directory: Path) -> None:
    kind = _file_system(directory)
    if kind in _NETWORK_FILE_SYSTEMS:
        raise RefusedError(f"{directory} lies on a network file system ({kind})", hint="keep the store on a local disk")


def _file_system(directory: Path) -> str | None:
    """The type of the file system that ``directory`` lies on, where the system tells (Linux)."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    place = os.path.realpath(directory) + "/"
    best, kind = "", None
    for mount in mounts:
        fields = mount.split(" ")
        point = fields[4].replace("\\040", " ").rstrip("/") + "/"
        if place.startswith(point) and len(point) >= len(best):
            best, kind = point, fields[fields.index("-") + 1]
    return kind


def _translate(exc: Exception) -> StorageError:
    """What SQLite, its driver or SQLAlchemy raised, as this project's error; the caller raises it ``from exc``."""
    cause = exc.orig if isinstance(exc, DBAPIError) and exc.orig is not None else exc
    if isinstance(cause, UnicodeDecodeError):  # the driver could not read SQLite's message, which quotes the schema
        return DamagedFile("the file of the store is damaged: its schema is not text")
    name = getattr(cause, "sqlite_errorname", "") or ""
    for prefix, kind, text in _MEANING:
        if name.startswith(prefix):
            return kind(f"{text} ({cause})")
    return StorageError(str(cause))


def _append(driver: Any, sql: Statements, rows: FeedRows) -> bool:
    if driver.execute(sql.move_feed, rows.move).rowcount != 1:
        return False
    driver.executemany(sql.add_block, zip(count(rows.first), rows.blocks, strict=False))
    driver.executemany(sql.add_tree_row, zip(count(rows.first), rows.tree_rows, strict=False))
    driver.execute(sql.add_head, rows.head)
    return True


_RIM: Final = Rim(
    driver_error=(sqlite3.Error, UnicodeDecodeError),
    translate=_translate,
    execute=lambda driver, sql, parameters: driver.execute(sql, parameters),
    stream=lambda driver, _few: driver.cursor(),
    insert_many=lambda driver, sql, rows: driver.cursor().executemany(sql, rows),
    append=_append,
    read_ahead=lambda _driver, _key: None,
    is_lost=lambda _: False,
)

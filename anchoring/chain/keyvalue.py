"""The development chain's disk: a key-value table in one SQLite file, durable at every commit.

Light on purpose: reading what a chain has stored needs nothing but SQLite.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from identity.errors import ConfigurationError, DamagedFile, NewerFormat, StorageError, StoreBusy

__all__ = ["KeyValueFile"]

_APPLICATION_ID: Final = 0x4846_4456
_VERSION: Final = 1
_BUSY_MS: Final = 5_000


class KeyValueFile:
    """Byte strings under byte strings. One writer at a time; readers in other processes see whole transactions only."""

    def __init__(self, path: Path, *, create: bool = False, read_only: bool = False) -> None:
        """Open the file. ``create`` makes an absent one, which stays empty until the first transaction.

        Raises ``StorageError`` when it is absent or cannot be opened, ``ConfigurationError`` when it is something else,
        ``NewerFormat`` when a newer holdfast wrote it.
        """
        if not create and not path.exists():
            raise StorageError(f"there is no development chain at {path}")
        mode = "ro" if read_only else "rwc" if create else "rw"
        with _translated(path):
            # Every method is called under its owner's mutex, from any thread.
            self._connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False
            )
        self._path = path
        try:
            with _translated(path):
                self._connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
                self._check_format(may_be_empty=create)
                if not read_only:
                    for pragma in ("journal_mode = WAL", "synchronous = FULL", "fullfsync = 1"):
                        self._connection.execute(f"PRAGMA {pragma}")
        except BaseException:
            self._connection.close()
            raise

    def _check_format(self, *, may_be_empty: bool) -> None:
        application, version = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        is_empty = self._connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
        if is_empty and may_be_empty:
            return
        if is_empty or application != _APPLICATION_ID:
            raise ConfigurationError(f"{self._path} is not a development chain")
        if version > _VERSION:
            raise NewerFormat(f"{self._path} has format {version}, this holdfast knows up to {_VERSION}")

    def get(self, key: bytes) -> bytes | None:
        """The value under the key, or None."""
        with _translated(self._path):
            row = self._connection.execute("SELECT v FROM kv WHERE k = ?", (key,)).fetchone()
        value = None if row is None else row[0]
        if value is not None and not isinstance(value, bytes):
            raise DamagedFile(f"development chain {self._path}: a value of another type than belongs there")
        return value

    def put(self, key: bytes, value: bytes) -> None:
        """Set the value under the key."""
        with _translated(self._path):
            self._connection.execute("INSERT OR REPLACE INTO kv (k, v) VALUES (?, ?)", (key, value))

    def delete(self, key: bytes) -> None:
        """Remove the key, if it is there."""
        with _translated(self._path):
            self._connection.execute("DELETE FROM kv WHERE k = ?", (key,))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything written inside is durable when the block ends, or none of it is there."""
        with _translated(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            with _translated(self._path):
                self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def create_table(self) -> None:
        """The table of an empty file. Inside a transaction, so that a file is empty or complete."""
        with _translated(self._path):
            self._connection.execute("CREATE TABLE kv (k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID")
            self._connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            self._connection.execute(f"PRAGMA user_version = {_VERSION}")

    def is_empty(self) -> bool:
        """True before ``create_table``."""
        with _translated(self._path):
            return not self._connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'kv'").fetchone()

    def close(self) -> None:
        """Release the file. Idempotent."""
        self._connection.close()


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as exc:
        if not hasattr(exc, "sqlite_errorcode"):  # the driver's own: it could not read what SQLite gave it
            raise DamagedFile(f"development chain {path}: {exc}") from exc
        if exc.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StoreBusy(f"development chain {path}: {exc}") from exc
        raise StorageError(f"development chain {path}: {exc}") from exc
    except (sqlite3.DatabaseError, UnicodeDecodeError) as exc:  # also when SQLite's own message is not text
        raise DamagedFile(f"development chain {path}: {exc}") from exc

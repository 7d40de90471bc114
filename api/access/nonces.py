"""Nonces: each counts once while a request with it could still be taken; how many a key has sent is known with it.

They have to outlive the process: a request that was taken just before a restart must not be taken just after it, and
the clock of who made it may be ahead by as much as is allowed, so its time tells nothing. A flush for each request
would cost as much as a commit, and what is kept for two minutes is not worth one. So they are rows that are written
without a flush. A store on SQLite has one machine: there they lie in a file of their own beside it (``NonceFile``).
On PostgreSQL several server processes share a table of the store (``StoredNonces``), beside the store's lock.

A crash of the machine, or of the database server, can lose the last fraction of a second of them. Then a request of
that moment can be sent once more, by whoever had got hold of it.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, Final, Protocol

from api.access.signatures import MAX_AGE_S
from identity.errors import StorageError, StoreBusy, Unauthenticated
from ledger.storage.sql import SqlStore

__all__ = ["WINDOW_S", "NonceFile", "Nonces", "StoredNonces", "nonces_for"]

WINDOW_S: Final = 60
"""Requests of a key are counted over so many seconds."""

_KEEP_S: Final = 2 * MAX_AGE_S
"""A request of the farthest future that is allowed is taken for so long after it was first seen."""
_MOST: Final = 1_000_000
"""Rows in a file: about 150 MB."""


class Nonces(Protocol):
    """What was seen in the last two minutes."""

    def remember(self, key: bytes, nonce: str, now_s: int) -> int:
        """How many requests of ``key`` were seen in the last minute, with this one, which is remembered from now on.

        Raises ``Unauthenticated`` (REPLAYED) when it was seen before, ``StoreBusy`` when there is no room for it.
        """

    def close(self) -> None:
        """Release what is held. Idempotent."""


class NonceFile:
    """Nonces in a file, for the processes of one machine. Threads share one object."""

    def __init__(self, file: Path | None, *, most: int = _MOST) -> None:
        """``file`` None: in memory, which tests want. A file that cannot be read is replaced by an empty one."""
        self._most = most
        self._lock = Lock()
        self._pruned_s: int | None = None
        try:
            self._rows = _open_rows(file)
        except sqlite3.DatabaseError:
            if file is None:
                raise
            for one in (file, file.with_name(file.name + "-wal"), file.with_name(file.name + "-shm")):
                one.unlink(missing_ok=True)
            self._rows = _open_rows(file)

    def remember(self, key: bytes, nonce: str, now_s: int) -> int:
        """As in ``Nonces``."""
        with self._lock:
            try:
                return self._remember(key, nonce, now_s)
            except sqlite3.Error as exc:
                raise StorageError(f"the file of nonces cannot be used: {exc}") from exc

    def _remember(self, key: bytes, nonce: str, now_s: int) -> int:
        if self._pruned_s is None or now_s - self._pruned_s >= WINDOW_S:
            self._rows.execute("DELETE FROM request_nonce WHERE seen_s < ?", (now_s - _KEEP_S,))
            (self._held,) = self._rows.execute("SELECT count(*) FROM request_nonce").fetchone()
            self._pruned_s = now_s
        if self._held >= self._most:
            raise StoreBusy("more requests in two minutes than can be remembered", hint="try again in a minute")
        added = self._rows.execute("INSERT OR IGNORE INTO request_nonce VALUES (?, ?, ?)", (key, nonce, now_s)).rowcount
        if added != 1:
            raise _replayed()
        self._held += 1
        counting = "SELECT count(*) FROM request_nonce WHERE key = ? AND seen_s > ?"
        (count,) = self._rows.execute(counting, (key, now_s - WINDOW_S)).fetchone()
        return int(count)

    def close(self) -> None:
        """As in ``Nonces``."""
        with self._lock, suppress(sqlite3.Error):
            self._rows.close()


def _open_rows(file: Path | None) -> sqlite3.Connection:
    rows = sqlite3.connect(file or ":memory:", isolation_level=None, check_same_thread=False, timeout=5.0)
    try:
        rows.execute("PRAGMA journal_mode = WAL")
        rows.execute("PRAGMA synchronous = OFF")
        rows.execute(
            "CREATE TABLE IF NOT EXISTS request_nonce"
            " (key BLOB NOT NULL, nonce TEXT NOT NULL, seen_s INTEGER NOT NULL, PRIMARY KEY (key, nonce)) WITHOUT ROWID"
        )
        rows.execute("CREATE INDEX IF NOT EXISTS ix_request_nonce_seen ON request_nonce (key, seen_s)")
    except BaseException:
        rows.close()
        raise
    return rows


class StoredNonces:
    """Nonces in a table of a store on PostgreSQL, for all server processes that share it."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._pruned_s: int | None = None

    def remember(self, key: bytes, nonce: str, now_s: int) -> int:
        """As in ``Nonces``."""
        with self._store.aside() as tx:
            if self._pruned_s is None or now_s - self._pruned_s >= WINDOW_S:
                tx.execute("DELETE FROM request_nonce WHERE seen_s < %s", (now_s - _KEEP_S,))
                self._pruned_s = now_s
            added = tx.execute(_ADD, (key, nonce, now_s))
            row: Any = tx.fetch_one(_COUNT, (key, now_s - WINDOW_S))
        if added != 1:
            raise _replayed()
        return int(row[0])

    def close(self) -> None:
        """As in ``Nonces``: the store is its owner's."""


_ADD: Final = "INSERT INTO request_nonce (key, nonce, seen_s) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
_COUNT: Final = "SELECT count(*) FROM request_nonce WHERE key = %s AND seen_s > %s"


def _replayed() -> Unauthenticated:
    return Unauthenticated("REPLAYED", "this nonce was used already")


def nonces_for(store: SqlStore, file: Path | None) -> Nonces:
    """What the servers of this store remember nonces in; ``file`` is where, for a store on SQLite."""
    return NonceFile(file) if store.dialect == "sqlite" else StoredNonces(store)

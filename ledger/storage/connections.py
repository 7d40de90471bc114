"""The connections of a SQL engine, and what its driver does its own way.

Every failure of engine or driver leaves here as a ``StorageError``. A connection on which something failed is given up,
so that what is read next comes from the medium and not from a cache, and a server that was restarted is met anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from identity.errors import AuditError, StorageError
from ledger.storage.statements import Statements

__all__ = ["Connections", "FeedRows", "Rim", "commit"]


@dataclass(frozen=True, slots=True)
class FeedRows:
    """What an append writes. The rows of blocks and tree stand at ``first`` and after it, one of each for a block."""

    move: tuple[int, int, bytes, int, bytes, int, bytes]
    """The parameters of ``Statements.move_feed``: where the feed goes, and where it must stand."""
    first: int
    blocks: Sequence[bytes]
    tree_rows: Sequence[bytes]
    head: tuple[int, bytes, bytes]
    """The parameters of ``Statements.add_head``."""


@dataclass(frozen=True, slots=True)
class Rim:
    """What a driver does its own way, and how its failures leave this package.

    ``driver`` is always the driver's own connection.
    """

    driver_error: tuple[type[Exception], ...]
    """What the driver raises."""
    translate: Callable[[Exception], StorageError]
    """The ``StorageError`` that such an error means."""
    execute: Callable[[Any, str, Sequence[Any]], Any]
    """(driver, sql, parameters): a cursor over one statement's rows."""
    stream: Callable[[Any, bool], Any]
    """(driver, few): a cursor whose rows are fetched bit by bit; ``few`` when all of them may be held at once."""
    insert_many: Callable[[Any, str, Iterable[Sequence[Any]]], None]
    """(driver, sql, rows): an INSERT of many rows."""
    append: Callable[[Any, Statements, FeedRows], bool]
    """(driver, statements, rows): move a feed and write the rows; False, with nothing written, if it stands elsewhere.

    When it raises, some may have been written."""
    read_ahead: Callable[[Any, bytes], Sequence[Any] | None]
    """(driver, key): asked first in a write transaction: the feed's row, if it was read together with the lock."""
    is_lost: Callable[[Exception], bool]
    """Whether the connection was gone before the statement reached the server."""

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Let nothing of SQLAlchemy or of the driver out of the block but as a ``StorageError``."""
        try:
            yield
        except SQLAlchemyError as exc:
            raise self.translate(exc) from exc
        except self.driver_error as exc:
            raise self.translate(exc) from exc


def commit(connection: Connection) -> None:
    """Commit at the driver, or through SQLAlchemy where a layer above used that, which counts its transactions."""
    (connection if connection.in_transaction() else _driver(connection)).commit()


class Connections:
    """The connections of one engine, for transactions that ``begin`` begins and ``commit`` ends.

    They are kept for the next transaction, and given up when something failed. The transaction is begun and committed
    at the driver; SQLAlchemy takes part when a layer above uses the connection, which costs more than all else that a
    transaction needs.
    """

    def __init__(
        self,
        engine: Engine,
        begin: Callable[[Any], None],
        rim: Rim,
        commit: Callable[[Connection], None] = commit,
    ) -> None:
        self.dialect = engine.dialect
        self._engine = engine
        self._begin = begin
        self._commit = commit
        self._rim = rim
        self._idle: list[Connection] = []
        self._closed = False

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A connection in a transaction, which is durable when the block was left without an exception."""
        with self._rim.translated():
            connection, sound = self._begun(), False
            try:
                yield connection
                self._commit(connection)
                sound = True
            except AuditError as exc:
                if not isinstance(exc, StorageError):  # the caller refused something: nothing is wrong here
                    (connection if connection.in_transaction() else _driver(connection)).rollback()
                    sound = True
                raise
            finally:
                self._put_back(connection, sound)

    def _begun(self) -> Connection:
        """A connection in a new transaction: an idle one unless the server ended it meanwhile, else another."""
        while True:
            connection, fresh = self._take()
            try:
                self._begin(_driver(connection))
            except BaseException as exc:
                self._put_back(connection, sound=False)
                if fresh or not (isinstance(exc, self._rim.driver_error) and self._rim.is_lost(exc)):
                    raise
            else:
                return connection

    def _take(self) -> tuple[Connection, bool]:
        try:
            return self._idle.pop(), False
        except IndexError:
            return self._engine.connect(), True

    def _put_back(self, connection: Connection, sound: bool) -> None:
        if sound and not self._closed:
            self._idle.append(connection)
        else:
            connection.invalidate()
            connection.close()

    def close(self) -> None:
        """Close what is idle now, and the others when their transactions end."""
        self._closed = True
        with self._rim.translated():
            while self._idle:
                self._idle.pop().close()


def _driver(connection: Connection) -> Any:
    return connection.connection.driver_connection

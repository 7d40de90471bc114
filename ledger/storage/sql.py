"""The store over a SQL engine: implements ``ledger.store`` on the tables of ``ledger.storage.schema``.

SQLAlchemy holds the connections and the transactions; the statements of the hot paths are compiled once and go to the
driver as tuples (``ledger.storage.statements``). Every failure of engine or driver leaves here as a ``StorageError``.
What an engine does its own way (opening, locking, streaming, adding many rows, naming its errors) is in the module of
that engine and comes here as a ``Rim``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

from sqlalchemy import Connection

from identity.errors import ConflictError, DamagedFile, MalformedError, MissingEvidenceError, NotRecorded, StorageError
from ledger.flattree import depth, right_leaf
from ledger.log import Frontier
from ledger.merkle import HASH_BYTES, Node
from ledger.noderow import NODE_BYTES, pack_hashes, pack_nodes, unpack_hashes, unpack_node, unpack_roots
from ledger.storage.connections import Connections, FeedRows, Rim
from ledger.storage.lock import WriteLock
from ledger.storage.moves import is_written, log_rows, moved_feed
from ledger.storage.rows import checked, count_sound, read_checkpoint, read_head
from ledger.storage.schema import MAX_FEEDS, MAX_LENGTH, POSITION_BITS
from ledger.storage.statements import Statements, compile_statements
from ledger.store import (
    Committed,
    CommittedLog,
    FeedChange,
    FeedKey,
    FeedState,
    LogState,
    SignedHead,
    StoredCheckpoint,
    StoredEvent,
)

__all__ = ["SqlReadTransaction", "SqlStore", "SqlWriteTransaction"]

_NO_TEXT = "a text with a lone surrogate: no store holds one"

_FETCH = 1024
"""Rows taken from the driver at a time while streaming: at 200 bytes a block, about 200 kB."""


class _Over:
    """In the place of the driver's connection when a transaction has ended."""

    def __getattr__(self, name: str) -> Any:
        raise StorageError("the transaction is over")


_Parsed = dict[FeedKey, tuple[Sequence[Any], tuple[int, FeedState]]]
"""Feed rows as they were read or written last, with the feed's number and state."""


class SqlReadTransaction:
    """A snapshot on one connection. ``connection`` lets the layers above read their own tables in the same snapshot."""

    def __init__(self, connection: Connection, statements: Statements, rim: Rim, parsed: _Parsed) -> None:
        self.connection = connection
        self._driver: Any = connection.connection.driver_connection
        self._sql = statements
        self._rim = rim
        self._streams: set[Any] = set()
        self._parsed = parsed
        self.failed = False
        """True once a statement failed: the engine may have undone what came before it, so nothing is committed."""

    # -- feeds ---------------------------------------------------------------------------------------------------

    def feeds(self) -> list[FeedState]:
        return [self._feed_row(row)[1] for row in self.fetch_all(self._sql.feeds)]

    def feed(self, key: FeedKey) -> FeedState | None:
        found = self._lookup(key)
        return None if found is None else found[1]

    def block(self, key: FeedKey, index: int) -> bytes:
        row = self.fetch_one(self._sql.block, (index, key, index)) if 0 <= index < MAX_LENGTH else None
        if row is None:
            raise self._absent(key, index, "block")
        (data,) = checked(row, bytes)
        return data  # type: ignore[no-any-return]

    def blocks(self, key: FeedKey, start: int, stop: int) -> Iterator[bytes]:
        for blocks in self._range(self._sql.blocks, key, start, stop, "block"):
            yield from blocks

    def node(self, key: FeedKey, index: int) -> Node:
        row, offset = right_leaf(index), depth(index) * NODE_BYTES
        found = self.fetch_one(self._sql.node, (offset + 1, row, key, row)) if index >= 0 and row < MAX_LENGTH else None
        if found is None:
            raise self._absent(key, row, "tree row")
        (packed,) = checked(found, bytes)
        if len(packed) != NODE_BYTES:
            raise DamagedFile(f"tree node {index}: {len(packed)} bytes in its row")
        return unpack_node(index, packed)

    def tree_rows(self, key: FeedKey, start: int, stop: int) -> Iterator[bytes]:
        for rows in self._range(self._sql.tree_rows, key, start, stop, "tree row"):
            yield from rows

    def heads(self, key: FeedKey, above: int = 0) -> Iterator[SignedHead]:
        found = self._lookup(key)
        if found is None:
            return
        base = found[0] << POSITION_BITS
        above = min(max(above, 0), MAX_LENGTH)
        for row in self._stream(self._sql.heads, (base + above, base + MAX_LENGTH)):
            yield read_head(base, row)

    def head(self, key: FeedKey, length: int) -> SignedHead | None:
        found = self._lookup(key)
        if found is None or not 0 < length <= MAX_LENGTH:
            return None
        base = found[0] << POSITION_BITS
        row = self.fetch_one(self._sql.head, (base + length,))
        return None if row is None else read_head(base, row)

    # -- checkpoint log ------------------------------------------------------------------------------------------

    def log(self) -> LogState | None:
        row = self.fetch_one(self._sql.log)
        if row is None:
            return None
        log_id, size, frontier = checked(row, bytes, int, bytes)
        if size <= 0:
            raise DamagedFile(f"the log has {size} leaves")
        return LogState(log_id, size, tuple(unpack_hashes(size.bit_count(), frontier)))

    def log_leaves(self, start: int, stop: int) -> Iterator[bytes]:
        state = self.log()
        size = 0 if state is None else state.size
        if 0 <= start < min(stop, size):
            for statements in self._contiguous(self._sql.log_leaves, 0, start, min(stop, size), "log leaf"):
                yield from statements
        if start < stop and not 0 <= start < stop <= size:
            raise MissingEvidenceError(f"log leaf {max(start, size)}: the log has {size}")

    def log_node(self, level: int, index: int) -> bytes:
        state = self.log()
        row = ((index + 1) << level) - 1 if 0 <= level < 64 else -1
        if state is None or index < 0 or not 0 <= row < state.size:
            raise MissingEvidenceError(f"log node {level}/{index} is not complete")
        found = self.fetch_one(self._sql.log_node, (level * HASH_BYTES + 1, row))
        if found is None or len(checked(found, bytes)[0]) != HASH_BYTES:
            raise DamagedFile(f"log node {level}/{index} is missing")
        return found[0]  # type: ignore[no-any-return]

    def checkpoints(self, above: int = 0) -> Iterator[StoredCheckpoint]:
        for row in self._stream(self._sql.checkpoints, (above,)):
            yield read_checkpoint(row)

    def checkpoint(self, size: int) -> StoredCheckpoint | None:
        row = self.fetch_one(self._sql.checkpoint, (size,))
        return None if row is None else read_checkpoint(row)

    # -- identities ----------------------------------------------------------------------------------------------

    def identities(self) -> list[bytes]:
        return [checked(row, bytes)[0] for row in self.fetch_all(self._sql.identities)]

    def identity_events(self, identity: bytes) -> list[StoredEvent]:
        rows = self.fetch_all(self._sql.identity_events, (identity,))
        return [StoredEvent(*checked(row, bytes, int, bytes, bytes)) for row in rows]

    # -- the driver: also for the layers above, with statements in the words of the engine -----------------------

    def fetch_one(self, sql: str, parameters: Sequence[Any] = ()) -> Sequence[Any] | None:
        """The first row, or None."""
        try:
            return self._rim.execute(self._driver, sql, parameters).fetchone()  # type: ignore[no-any-return]
        except self._rim.driver_error as exc:
            raise self._failure(exc) from exc
        except UnicodeEncodeError as exc:
            raise MalformedError(_NO_TEXT) from exc

    def fetch_all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Sequence[Any]]:
        """Rows that the caller holds all at once anyway."""
        try:
            return self._rim.execute(self._driver, sql, parameters).fetchall()  # type: ignore[no-any-return]
        except self._rim.driver_error as exc:
            raise self._failure(exc) from exc
        except UnicodeEncodeError as exc:
            raise MalformedError(_NO_TEXT) from exc

    def _stream(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[Sequence[Any]]:
        for rows in self._fetch(sql, parameters):
            yield from rows

    def _fetch(self, sql: str, parameters: Sequence[Any], most: int | None = None) -> Iterator[list[Sequence[Any]]]:
        """The rows, in lists of some length; whoever takes only the first gets one row quickly.

        ``most`` is how many there can be, where that is known.
        """
        cursor = self._rim.stream(self._driver, most is not None and most <= _FETCH)
        self._streams.add(cursor)
        try:
            cursor.execute(sql, parameters)
            size = 1
            while rows := cursor.fetchmany(size):
                yield rows
                size = min(4 * size, _FETCH)
        except self._rim.driver_error as exc:
            raise self._failure(exc) from exc
        finally:
            self._end(cursor)

    def _failure(self, exc: Exception) -> StorageError:
        self.failed = True
        return self._rim.translate(exc)

    def _end(self, cursor: Any) -> None:
        """Close a cursor, once: a generator may be collected long after its connection is gone."""
        if cursor in self._streams:
            self._streams.remove(cursor)
            cursor.close()

    def _range(self, sql: str, key: FeedKey, start: int, stop: int, what: str) -> Iterator[Sequence[bytes]]:
        """Rows ``start`` to ``stop - 1`` of a feed's table, so many at a time."""
        number, state = self._lookup(key) or (0, None)
        present = min(stop, state.length) if state else 0
        if 0 <= start < present:
            yield from self._contiguous(sql, number << POSITION_BITS, start, present, what)
        if start < stop and not 0 <= start < stop <= present:
            raise self._absent(key, max(start, present) if start >= 0 else start, what)

    def _contiguous(self, sql: str, base: int, start: int, stop: int, what: str) -> Iterator[Sequence[bytes]]:
        """The same for rows every one of which should be there. What comes before a fault is given first."""
        expected = start
        for rows in self._fetch(sql, (base + start, base + stop), stop - start):
            whole = count_sound(base + expected, rows)
            yield [row[1] for row in rows[:whole]]
            expected += whole
            if whole < len(rows):
                break
        if expected != stop:
            raise DamagedFile(f"{what} {expected} is missing or altered")

    def _lookup(self, key: FeedKey) -> tuple[int, FeedState] | None:
        """The feed's number and state. Its row is always read; it is parsed only when it is not the one parsed last."""
        row = self._read_feed(key)
        if row is None:
            return None
        last = self._parsed.get(key)
        if last is None or last[0] != row:
            last = self._parsed[key] = (row, self._feed_row(row))
        return last[1]

    def _read_feed(self, key: FeedKey) -> Sequence[Any] | None:
        return self.fetch_one(self._sql.feed, (key,))

    def _feed_row(self, row: Sequence[Any]) -> tuple[int, FeedState]:
        number, key, manifest, local, retired, length, byte_length, packed = checked(
            row, int, bytes, bytes, int, int, int, int, bytes
        )
        if not 0 < number <= MAX_FEEDS or not 0 <= length <= MAX_LENGTH or byte_length < 0:
            raise DamagedFile(f"the row of feed {key.hex()} is out of bounds: id {number}, length {length}")
        roots = unpack_roots(length, packed)
        return number, FeedState(FeedKey(key), manifest, length, byte_length, roots, bool(local), bool(retired))

    def _absent(self, key: FeedKey, index: int, what: str) -> MissingEvidenceError | DamagedFile:
        """Why a row was not found: nobody wrote it yet, or it should be there."""
        state = self.feed(key)
        if state is None:
            return MissingEvidenceError(f"{what} {index}: feed {key.hex()} is not in this store")
        if not 0 <= index < state.length:
            return MissingEvidenceError(f"{what} {index}: the feed has {state.length} blocks")
        return DamagedFile(f"{what} {index} of feed {key.hex()} is missing")

    def close(self) -> None:
        """Close what is still being streamed: an open cursor would hold the snapshot after its transaction.

        Whoever goes on reading gets a ``StorageError``, and not what another transaction sees.
        """
        for cursor in tuple(self._streams):
            self._end(cursor)
        self._driver = _Over()


class SqlWriteTransaction(SqlReadTransaction):
    """The one writer. ``connection`` lets the layers above write their own tables in the same transaction."""

    def __init__(self, connection: Connection, statements: Statements, rim: Rim, parsed: _Parsed) -> None:
        super().__init__(connection, statements, rim, parsed)
        self._lengths_before: dict[FeedKey, int | None] = {}
        self._logged = False

    def committed(self) -> Committed:
        """What the transaction has written so far and has not undone again."""
        changes = []
        for key, before in self._lengths_before.items():
            found = self._lookup(key)
            if found is not None and (before is None or found[1].length > before):
                changes.append(FeedChange(before or 0, found[1], created=before is None))
        log = self.log() if self._logged else None
        root = None if log is None else CommittedLog(log.size, Frontier(log.size, log.frontier).root())
        return Committed(tuple(changes), root)

    durable = False
    """True once its commit is known to have happened."""

    _depth = 0  # of open savepoints: their names
    _untouched = True  # False once the transaction has written, or used what was read ahead

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        began_before = frozenset(self._streams)
        name = f"inner_{self._depth}"
        self.execute(f"SAVEPOINT {name}", ())
        self._depth += 1
        try:
            yield
        except BaseException as exc:
            if self.failed:
                raise StorageError("a statement of the transaction failed: nothing of it is kept") from exc
            for cursor in self._streams - began_before:
                self._end(cursor)
            self.execute(f"ROLLBACK TO SAVEPOINT {name}", ())
            raise
        finally:
            self._depth -= 1
            if not self.failed:
                self.execute(f"RELEASE SAVEPOINT {name}", ())

    def fence(self) -> None:
        self.execute("UPDATE alembic_version SET version_num = version_num", ())

    def create_feed(self, key: FeedKey, manifest: bytes, *, local: bool) -> FeedState:
        if self._lookup(key) is not None:
            raise ConflictError(f"feed {key.hex()} exists")
        (last,) = self.fetch_one(self._sql.last_feed) or (0,)
        if last >= MAX_FEEDS:
            raise StorageError(f"a store holds at most {MAX_FEEDS} feeds")
        self.execute(self._sql.create_feed, (last + 1, key, manifest, int(local), b""))
        self._lengths_before.setdefault(key, None)
        self._parsed.pop(key, None)  # it may have had another number in a transaction that was rolled back
        return FeedState(key, manifest, 0, 0, (), local)

    def retire_feed(self, key: FeedKey) -> None:
        if self._lookup(key) is None:
            raise MissingEvidenceError(f"feed {key.hex()} is not in this store")
        self.execute(self._sql.retire_feed, (key,))

    def append(
        self,
        expected: FeedState,
        blocks: Sequence[bytes],
        nodes: Sequence[Sequence[Node]],
        head: SignedHead,
        roots: Sequence[Node],
    ) -> FeedState:
        last = self._parsed.get(expected.key)
        found = last[1] if last is not None and last[1][1] == expected else self._lookup(expected.key)
        if found is None or found[1].length != expected.length or found[1].roots != expected.roots:
            raise ConflictError(f"feed {expected.key.hex()} no longer stands at {expected.length}")
        number, state = found
        self._lengths_before.setdefault(state.key, state.length)
        moved = moved_feed(state, blocks, nodes, head, roots)
        to = (moved.length, moved.byte_length, pack_nodes(moved.roots))
        base = number << POSITION_BITS
        rows = FeedRows(
            move=(*to, number, state.key, state.length, pack_nodes(state.roots)),
            first=base + state.length,
            blocks=blocks,
            tree_rows=[pack_nodes(completed) for completed in nodes],
            head=(base + head.length, head.tree_hash, head.signature),
        )
        if not self._append(rows):
            raise ConflictError(f"feed {state.key.hex()} no longer stands at {state.length}")
        row = (number, moved.key, moved.manifest, int(moved.local), int(moved.retired), *to)
        self._parsed[moved.key] = (row, (number, moved))
        return moved

    def append_leaves(self, expected: LogState | None, state: LogState, leaves: Sequence[bytes]) -> None:
        if self.log() != expected:
            raise ConflictError(f"the log no longer stands at {0 if expected is None else expected.size}")
        rows = map(pack_hashes, log_rows(expected, state, leaves))
        frontier = pack_hashes(state.frontier)
        self._logged = True
        if expected is None:
            self.execute(self._sql.create_log, (state.log_id, state.size, frontier))
        else:
            self.execute(self._sql.move_log, (state.size, frontier, expected.size, pack_hashes(expected.frontier)))
        self.insert_many(self._sql.add_leaf, zip(count(state.size - len(leaves)), rows, leaves, strict=False))

    def add_checkpoint(self, checkpoint: StoredCheckpoint) -> None:
        held = self.checkpoint(checkpoint.size)
        if held is None:
            self.execute(self._sql.add_checkpoint, (checkpoint.size, checkpoint.root, checkpoint.note))
        elif held != checkpoint:
            raise ConflictError(f"another checkpoint of size {checkpoint.size} is held")

    def add_identity_event(self, event: StoredEvent) -> None:
        if self.fetch_one(self._sql.identity_event, (event.digest,)) is None:
            row = (event.identity, event.seq, event.digest, event.signed_event)
            self.execute(self._sql.add_identity_event, row)

    def _read_feed(self, key: FeedKey) -> Sequence[Any] | None:
        untouched, self._untouched = self._untouched, False
        row = self._rim.read_ahead(self._driver, key) if untouched else None
        return super()._read_feed(key) if row is None else row

    def _append(self, rows: FeedRows) -> bool:
        self._untouched = False
        try:
            return self._rim.append(self._driver, self._sql, rows)
        except self._rim.driver_error as exc:
            raise self._failure(exc) from exc

    def execute(self, sql: str, parameters: Sequence[Any]) -> int:
        """Run a statement; how many rows it changed."""
        self._untouched = False
        try:
            return self._rim.execute(self._driver, sql, parameters).rowcount  # type: ignore[no-any-return]
        except self._rim.driver_error as exc:
            raise self._failure(exc) from exc

    def update_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement that is no plain INSERT once for each of ``rows``."""
        if not rows:
            return
        self._untouched = False
        try:
            self._driver.cursor().executemany(sql, rows)
        except self._rim.driver_error as exc:
            raise self._failure(exc) from exc

    def insert_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run an INSERT, with a parameter for each column, for each of ``rows``."""
        self._untouched = False
        try:
            self._rim.insert_many(self._driver, sql, rows)
        except self._rim.driver_error as exc:
            raise self._failure(exc) from exc


class SqlStore:
    """A store on an engine (``ledger.storage.sqlite`` sets one up).

    ``writing`` begins its transactions with the write lock; it is None for a store that is only read. ``noting`` begins
    those that need none, where the engine has them. ``guard`` is
    called before and after each reading, and raises when what was read in between may not be one snapshot. One thread
    writes at a time; others wait for ``busy_timeout_s``. ``reopen`` opens the same store in the same way once more, in
    another process too: it can be pickled.
    """

    def __init__(
        self,
        reading: Connections,
        writing: Connections | None,
        *,
        rim: Rim,
        guard: Callable[[], None],
        busy_timeout_s: float,
        reopen: Callable[[], SqlStore],
        noting: Connections | None = None,
    ) -> None:
        self.reopen = reopen
        self._noting = noting
        self._reading = reading
        self._writing = writing
        self._rim = rim
        self._guard = guard
        self._statements = compile_statements(reading.dialect)
        self._parsed: _Parsed = {}
        self._lock = WriteLock(busy_timeout_s)
        self._process = os.getpid()
        self._closed = False
        self.after_commit: Callable[[Committed], None] | None = None
        """Told what each write transaction wrote, after it became durable and before ``write`` returns.

        What a commit without an answer wrote it is told by the next one, when that has found it.
        """
        self._unanswered: list[Committed] = []

    @property
    def dialect(self) -> str:
        """The engine, by the name that SQLAlchemy has for it."""
        return self._reading.dialect.name

    @property
    def read_only(self) -> bool:
        """True when this store was opened for reading only."""
        return self._writing is None

    @contextmanager
    def read(self) -> Iterator[SqlReadTransaction]:
        """A snapshot for reading, fixed when the block is entered."""
        self._check_open()
        self._guard()
        with self._reading.transaction() as connection:
            tx = SqlReadTransaction(connection, self._statements, self._rim, self._parsed)
            tx.fetch_one(self._statements.log)  # an engine fixes the snapshot at the first read, not at the beginning
            try:
                yield tx
            finally:
                tx.close()
        self._guard()

    @contextmanager
    def write(self) -> Iterator[SqlWriteTransaction]:
        """The write transaction. It is durable when the block has been left without an exception.

        A ``StorageError`` from leaving the block means that the outcome is unknown: read the heads again. It is
        ``NotRecorded`` when only ``after_commit`` failed.
        """
        self._check_open()
        if self._writing is None:
            raise StorageError("the store is open for reading only")
        with self._lock.held():
            told: list[Committed] = []
            try:
                with self._writing.transaction() as connection:
                    tx = SqlWriteTransaction(connection, self._statements, self._rim, self._parsed)
                    try:
                        yield tx
                        if self.after_commit is not None and not tx.failed:
                            told = [one for one in self._unanswered if is_written(tx, one)] + [tx.committed()]
                    finally:
                        tx.close()
                    if tx.failed:
                        raise StorageError("a statement of the transaction failed: nothing of it is kept")
            except StorageError:
                self._unanswered = told or self._unanswered
                raise
            tx.durable = True
            self._unanswered = []
            self._tell(told)

    @contextmanager
    def aside(self) -> Iterator[SqlWriteTransaction]:
        """A transaction on tables that are no part of what the store keeps: it takes no lock and waits for no flush.

        What it wrote is seen by everybody at once, and can be lost when the server crashes. PostgreSQL only.
        """
        self._check_open()
        if self._noting is None:
            raise StorageError("the store has no transactions beside its lock")
        with self._noting.transaction() as connection:
            tx = SqlWriteTransaction(connection, self._statements, self._rim, self._parsed)
            try:
                yield tx
            finally:
                tx.close()
            if tx.failed:
                raise StorageError("a statement of the transaction failed: nothing of it is kept")

    def _tell(self, told: Sequence[Committed]) -> None:
        for one in told:
            try:
                if self.after_commit is not None:
                    self.after_commit(one)
            except StorageError as exc:
                raise NotRecorded(f"written, but not recorded: {exc}") from exc

    def close(self) -> None:
        """Release the connections. Idempotent."""
        self._closed = True
        self._reading.close()
        if self._writing is not None:
            self._writing.close()
        if self._noting is not None:
            self._noting.close()

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError("the store is closed")
        if os.getpid() != self._process:
            raise StorageError("the store was opened by another process: open it again in this one")

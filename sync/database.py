"""A database, open: documents in collections, every change a signed transaction in this device's feed.

    changes = Changes(note="salary")
    changes.increment("accounts", "4711", "balance", Decimal("1250.00"))
    changes.patch("accounts", "4711", {"owner": "Novak"}, if_match=etag)
    commit = database.commit(changes)

A database is read by anybody who has its store, and written to with a ``StoreWriter``, which has the device's key.
Writing threads share one: their changes become one transaction of the store under one signature, and each sees what
those before it have changed. What other devices wrote is taken in from their feeds by ``take_new``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from identity.errors import AuditError, MissingEvidenceError, RefusedError
from identity.history import SignedEvent
from identity.textforms import check_name
from ledger.storage.rows import checked
from ledger.storage.sql import SqlStore
from ledger.store import FeedKey
from ledger.turn import Turn
from ledger.values import Reference
from ledger.writer import StoreWriter
from sync.changes import Changes, resolve
from sync.document_keys import DocumentKeys
from sync.membership import Found, MemberEntry
from sync.storage.projection import Content, Projection
from sync.storage.queries import queries_for
from sync.storage.reader import Cut, DocumentState, Reader
from sync.storage.writing import Writing, encode_context
from sync.transaction import DocumentId, Founding, Transaction

__all__ = ["Commit", "Database", "DatabaseInfo", "Make", "found", "list_databases", "register_database"]

_TYPICAL_BYTES: Final = 512
"""What a transaction is taken to be long before it is made, for the writer's queue."""


Make = Callable[[Writing], Content | None]
"""Makes the content of an entry, for the database as it stands in the transaction that writes it."""


@dataclass(frozen=True, slots=True)
class DatabaseInfo:
    """A database that a store has."""

    uid: bytes
    name: str
    created_ms: int


@dataclass(frozen=True, slots=True)
class Commit:
    """What was written. ``etags`` are the versions of the documents after it; "" for one in which nothing is left."""

    reference: Reference | None
    """The entry; None when all was so already and nothing had to be written."""
    place: int
    """Where it stands among what this replica has taken in: reading up to here reads it."""
    etags: Mapping[DocumentId, str] = field(default_factory=dict)


class Database:
    """One database of a store.

    ``writer`` and ``feed`` (this device's feed of the database, or an older one that it continues) are what writing
    takes; without them it is only read. ``keys`` holds the keys of sealed values, if this replica keeps any.
    """

    def __init__(
        self,
        store: SqlStore,
        uid: bytes,
        now_ms: Callable[[], int],
        *,
        writer: StoreWriter | None = None,
        feed: FeedKey | None = None,
        keys: DocumentKeys | None = None,
    ) -> None:
        """Raises ``MissingEvidenceError`` when the store has no such database."""
        self.store = store
        self.uid = uid
        self.keys = keys
        self.now_ms = now_ms
        self._writer = writer
        self._feed = feed
        self._sql = queries_for(store.dialect)
        with store.read() as tx:
            row = tx.fetch_one(self._sql.database, (uid,))
        if row is None:
            raise MissingEvidenceError(f"this store has no database {uid.hex()}")
        self._number, self.name, _ = row
        self._projection = Projection(uid, self._number, self._sql)
        self._introduced = False

    # --- writing ---

    def commit(self, changes: Changes) -> Commit:
        """Make the changes so, all of them or none. What is returned is durable, and signed by this device.

        Raises ``StaleVersion`` (a ``ConflictError``) when a condition does not hold, ``MissingDocument`` for a deletion
        of what is not there, ``MalformedError`` for values that cannot be stored or that break a schema,
        ``RefusedError`` when this device may not write, and what ``StoreWriter.append`` raises.
        """
        return self.write(lambda current: self._transaction(current, changes))

    def _transaction(self, current: Writing, changes: Changes) -> Transaction | None:
        base = None if changes.base is None else current.vector(changes.base)
        ops, guards = resolve(changes, current, base)
        if not ops:
            return None
        current.check_required(ops)
        return Transaction(current.stamp(), tuple(ops), tuple(guards), changes.note)

    def write(self, make: Make) -> Commit:
        """Write one entry: what ``make`` returns for the database as it stands in the transaction that writes it.

        ``make`` runs in the writer's thread and must not have effects of its own; None writes nothing. Raises what it
        raises, and as ``commit``.
        """
        if not self._introduced:
            self.introduce()
        return self._submit(make)

    def _submit(self, make: Make) -> Commit:
        writer, feed = self._writing()
        composing = _Composing(self._projection, self._see, make)
        try:
            writer.submit_composed(feed, composing, size=_TYPICAL_BYTES).result()
        except _NothingToWrite:
            return composing.commit
        return composing.commit

    def _see(self, projection: Projection, feed: FeedKey) -> Writing:
        return Writing(projection, feed, self.now_ms, self.keys)

    def introduce(self) -> Commit:
        """Carry identity events of this device's owner that the database does not have: a new device, a revocation.

        The first write of an open database does it by itself.
        """
        commit = self._submit(lambda writing: writing.introduction())
        self._introduced = True
        return commit

    def _writing(self) -> tuple[StoreWriter, FeedKey]:
        if self._writer is None or self._feed is None:
            raise RefusedError("this database is open for reading only")
        return self._writer, self._feed

    def take_new(self, advance: Callable[[int], None] | None = None) -> int:
        """Take in what is new in the feeds of the store. Returns how many entries.

        ``advance`` is told how many blocks were looked at. Erasures among them are carried out by
        ``sync.retention.settle_erasures``.
        """
        with self.store.write() as tx:
            self._projection.begin(tx)
            taken = self._projection.take_new(self.now_ms(), advance)
            self._projection.finish()
        return taken

    # --- reading ---

    @contextmanager
    def read(self) -> Iterator[Reader]:
        """A snapshot: everything that is read through it belongs together."""
        with self.store.read() as tx:
            yield Reader(tx, self._sql, self._number, self.uid)

    def get(self, collection: str, key: str, at: Cut | None = None) -> DocumentState | None:
        """The document, now or at a cut; None when it is absent or deleted."""
        name = DocumentId(collection, key)
        with self.read() as reader:
            state = reader.document(name) if at is None else reader.document_at(name, at)
        return state if state is not None and state.view.exists else None

    def context(self) -> str:
        """A token for everything that is here now: ``Changes.base`` of writes that are based on it."""
        with self.read() as reader:
            return encode_context(reader.branches.clock(), reader.branches)


class _NothingToWrite(AuditError):
    """All is so already."""


class _Companion:
    """The databases in one turn of the writer: one is open at a time, because all count on in the same numbers."""

    def __init__(self, tx: Any) -> None:
        self._tx = tx
        self._open: Projection | None = None

    def open(self, projection: Projection) -> None:
        """Let the projection see what the turn has written so far, its own and that of others."""
        if self._open is not projection:
            self.finish()
            projection.begin(self._tx)
            self._open = projection

    def finish(self) -> None:
        """Write what the turn's transactions have changed."""
        if self._open is not None:
            self._open.finish()
            self._open = None


class _Composing:
    """One call of ``Database.write``, on its way through a turn. It may run twice, when the first turn was lost."""

    def __init__(self, projection: Projection, see: Callable[[Projection, FeedKey], Writing], make: Make) -> None:
        self._projection = projection
        self._see = see
        self._make = make
        self.commit = Commit(None, 0)

    def __call__(self, turn: Turn, feed: FeedKey, start: int) -> Sequence[bytes]:
        projection = self._projection
        turn.companion(_Companion, _Companion).open(projection)
        writing = self._see(projection, feed)
        writing.catch_up(start)
        content = self._make(writing)
        if content is None:
            self.commit = Commit(None, projection.next_place - 1)
            raise _NothingToWrite("all is so already")
        block, reference, place = writing.take(content, start)
        documents = {op.document for op in content.ops} if isinstance(content, Transaction) else set()
        self.commit = Commit(reference, place, {document: writing.etag(document) for document in documents})
        return [block]


# --- beginning ------------------------------------------------------------------------------------------------------


def list_databases(store: SqlStore) -> list[DatabaseInfo]:
    """The databases of a store, oldest first."""
    with store.read() as tx:
        rows = tx.fetch_all(queries_for(store.dialect).databases)
    return [DatabaseInfo(*checked(row, bytes, str, int)) for row in rows]


def register_database(store: SqlStore, uid: bytes, name: str, now_ms: int) -> None:
    """Let the store have the database ``uid``, empty so far. One that is there already is left as it is."""
    check_name(name, "database")
    queries = queries_for(store.dialect)
    with store.write() as tx:
        if tx.fetch_one(queries.database, (uid,)) is None:
            (last,) = tx.fetch_one(queries.last_database) or (None,)
            tx.execute(queries.add_database, ((last or 0) + 1, uid, name, now_ms))


def found(database: Database, founding: Founding, events: Sequence[SignedEvent]) -> Commit:
    """Write the first entry of a database that was just registered: its founder becomes its admin.

    ``events`` are the identity events of the founder. Raises ``RefusedError`` when it has entries already.
    """

    def make(writing: Writing) -> MemberEntry:
        if writing.projection.branches.clock():
            raise RefusedError(f"database {founding.name!r} has entries already")
        return MemberEntry(writing.stamp(), Found(founding, tuple(events)))

    return database.write(make)

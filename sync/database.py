"""A database, open: documents in collections, every change a signed transaction in this device's feed.

    database.put("accounts", "4711", {"owner": "Novak"}, if_absent=True)
    account = database.get("accounts", "4711")
    changes = Changes(note="salary")
    changes.increment("accounts", "4711", "balance", Decimal("1250.00"))
    changes.patch("accounts", "4711", {"status": "open"}, if_match=account.etag)
    commit = database.commit(changes)

A database is read by anybody who has its store, and written to with a ``StoreWriter``, which has the device's key.
Writing threads share one: their changes become one transaction of the store under one signature, and each sees what
those before it have changed. What other devices wrote is taken in from their feeds by ``take_new``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from threading import Condition
from time import monotonic
from typing import Any, BinaryIO, Final

from identity.errors import MalformedError, MissingEvidenceError, RefusedError
from identity.history import SignedEvent
from identity.textforms import check_name
from ledger.statement import FeedHead
from ledger.storage.rows import checked
from ledger.storage.sql import SqlStore, SqlWriteTransaction
from ledger.store import FeedKey
from ledger.turn import Turn
from ledger.values import Reference, from_python, to_python
from ledger.writer import StoreWriter
from sync.acts import Found, MemberEntry
from sync.asof import anchored_at, claimed_at, known_at, known_at_place
from sync.bundle import BundleHeader, BundleReader, Have
from sync.changefeed import START, ChangePage
from sync.changes import Changes, Fields, Strength, resolve
from sync.conflicts import OpenConflicts, open_conflicts
from sync.content import Content
from sync.document_keys import DocumentKeys
from sync.exchange import ImportReport, Sent, integrate, receive_runs, take_bundle, write_bundle
from sync.filtertext import parse_field, parse_filter
from sync.frames import FrameRun
from sync.history import (
    DocumentDifference,
    HistoryEntry,
    RecordedEntry,
    differences_between,
    history_of,
    recorded_entry,
)
from sync.intent import Intent
from sync.query import EVERYTHING, KEY, Query
from sync.receiving import Receiving
from sync.schema import parse_schema, schema_value
from sync.serial import Decision, Home, Proposal, Rejection
from sync.storage.audit import audit_database
from sync.storage.changefeed import changes_after
from sync.storage.deciding import (
    decide,
    decision_of,
    find_decision,
    hand_over,
    homes_now,
    make_serial,
    name_home,
    pending_for,
)
from sync.storage.fieldindex import drop_indexes
from sync.storage.intents import check_intent, earlier_commit, intended, rival_intents
from sync.storage.projection import Projection
from sync.storage.queries import Queries, queries_for
from sync.storage.query import QueryPage, run_query
from sync.storage.reader import Cut, DocumentState, Reader
from sync.storage.rebuilding import forget_database
from sync.storage.restoring import Restoration
from sync.storage.scan import Page, scan
from sync.storage.sides import Sides
from sync.storage.state_leaves import refresh_leaves
from sync.storage.state_roots import (
    RivalRoots,
    StatedRoot,
    VerifiedState,
    make_state_root,
    rival_roots,
    stated_roots,
    verify_state_root,
)
from sync.storage.undoing import UndoPlan, plan_redo, plan_undo
from sync.storage.writing import MuchUnseen, Writing, encode_context
from sync.transaction import SCHEMAS, DocumentId, Founding, Path, Transaction
from sync.undo import Skipped
from sync.unsealing import unseal_view

__all__ = [
    "Commit",
    "Database",
    "DatabaseInfo",
    "Make",
    "Restored",
    "Undone",
    "found",
    "join",
    "list_databases",
    "register_database",
]

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
    resealed: frozenset[DocumentId] = frozenset()
    """Documents that were erased before, and hold sealed values again: under new keys, so they can be read again."""
    pending: bool = False
    """It was proposed to the home of the collection: see ``Database.decision`` of the reference."""


@dataclass(frozen=True, slots=True)
class Undone:
    """What was taken back. The commit has no reference when nothing was left to take back."""

    commit: Commit
    skipped: tuple[Skipped, ...]
    """What was left as it is, because somebody has written there since, and the like."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored: by no transaction when all was so already."""

    commits: tuple[Commit, ...]
    left: tuple[DocumentId, ...]
    """Documents that were changed while it was under way, and left as they were then."""


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
        self._written = Condition()
        self._writes = 0
        """Grows whenever this object has written, and who waits is told."""
        self._watchers: list[Callable[[], None]] = []

    # --- writing ---

    def commit(self, changes: Changes, *, intent: Intent | None = None) -> Commit:
        """Make the changes so, all of them or none. What is returned is durable, and signed by this device.

        With ``intent`` its operations are what is written, as they are, in the name of whoever has signed it;
        ``changes`` says conditions and a note, and wishes, if any, that come to the same operations. An intent that was
        committed already changes nothing: the first commit is returned, with the versions of its documents now. Another
        one of that number is ``RivalIntents``, which proves against its key. The intent must be signed, and for this
        database: else ``VerificationError``. Whether its key may write is for the caller to know.

        Raises ``StaleVersion`` (a ``ConflictError``) when a condition does not hold, ``MissingDocument`` for a deletion
        of what is not there, ``MalformedError`` for values that cannot be stored or that break a schema,
        ``RefusedError`` when this device may not write, and what ``StoreWriter.append`` raises.

        Of strength serial it is decided at once where the home is; elsewhere it is proposed, and ``pending``.
        """
        if intent is not None:
            return self._commit_intent(changes, intent)
        return self.write(lambda current: self._transaction(current, changes))

    def _commit_intent(self, changes: Changes, intent: Intent) -> Commit:
        check_intent(intent, self.uid)
        known: list[Commit] = []

        def make(current: Writing) -> Transaction | None:
            held = earlier_commit(current, intent)
            if held is None:
                known.clear()
                return intended(current, changes, intent)
            documents = {op.document for op in intent.ops}
            known[:] = [Commit(*held, {document: current.etag(document) for document in documents})]
            return None

        written = self.write(make)
        return known[0] if known else written

    def rival_intents(self) -> list[tuple[bytes, bytes]]:
        """Every two intents here that one key has signed under one number: evidence against it, as they were signed.

        Both count: nobody can say which was meant.
        """
        with self.read() as reader:
            return rival_intents(reader)

    def next_sequence(self, key: bytes) -> int:
        """The number for the next intent of a key, as far as is known here."""
        with self.store.read() as tx:
            (last,) = tx.fetch_one(self._sql.last_intent, (self._number, key)) or (None,)
        return 0 if last is None else int(last) + 1

    def _transaction(self, current: Writing, changes: Changes) -> Transaction | Proposal | None:
        base = None if changes.base is None else current.vector(changes.base)
        if changes.strength is Strength.SERIAL:
            return make_serial(current, changes, base)
        ops, guards = resolve(changes, current, base)
        if not ops:
            return None
        current.check_required(ops)
        return Transaction(current.stamp(), tuple(ops), tuple(guards), changes.note)

    def put(
        self,
        collection: str,
        key: str,
        fields: Fields,
        *,
        if_match: str | None = None,
        if_absent: bool = False,
        note: str = "",
    ) -> Commit:
        """Commit one ``Changes.put``. Raises as it does, and as ``commit``."""
        changes = Changes(note=note)
        changes.put(collection, key, fields, if_match=if_match, if_absent=if_absent)
        return self.commit(changes)

    def patch(
        self, collection: str, key: str, fields: Fields, *, if_match: str | None = None, note: str = ""
    ) -> Commit:
        """Commit one ``Changes.patch``. Raises as it does, and as ``commit``."""
        changes = Changes(note=note)
        changes.patch(collection, key, fields, if_match=if_match)
        return self.commit(changes)

    def increment(
        self, collection: str, key: str, where: str | Sequence[str], by: int | Decimal = 1, *, note: str = ""
    ) -> Commit:
        """Commit one ``Changes.increment``. Raises as it does, and as ``commit``."""
        changes = Changes(note=note)
        changes.increment(collection, key, where, by)
        return self.commit(changes)

    def delete(self, collection: str, key: str, *, if_match: str | None = None, note: str = "") -> Commit:
        """Commit one ``Changes.delete``. Raises as it does, and as ``commit``."""
        changes = Changes(note=note)
        changes.delete(collection, key, if_match=if_match)
        return self.commit(changes)

    def set_schema(self, collection: str, rules: Any, *, note: str = "") -> Commit:
        """Say what the documents of a collection may hold from now on: ``rules`` as in docs/spec/schema.md.

        What is there already stays as it is. Raises as ``sync.schema.parse_schema`` does, and as ``commit``.
        """
        schema = parse_schema(from_python(rules))
        changes = Changes(note=note)
        changes.put(SCHEMAS, collection, {"schema": to_python(schema_value(schema))})
        return self.commit(changes)

    # --- serial writes ---

    @property
    def own_feed(self) -> FeedKey:
        """The feed that this device writes. Raises ``RefusedError`` when the database is open for reading."""
        return self._writing()[1]

    def set_home(self, collection: str, feed: FeedKey) -> Commit:
        """Let a feed be the home of a collection: its device decides every write to it from then on.

        A home that there is already gives it away when it next decides; one that was revoked or dismissed is replaced.
        The commit has no reference when it is so, or was asked for. Raises ``RefusedError`` when this device is no
        admin's, or the feed is not a member's that may write, and as ``commit``.
        """
        return self.write(lambda writing: name_home(writing, collection, feed))

    def homes(self) -> Mapping[str, Home]:
        """The homes of collections, by collection."""
        with self.read() as reader:
            return homes_now(reader)

    def decide_pending(self) -> list[Decision]:
        """Decide, as the home, what others have proposed, in the order in which it came, and give away collections
        that an admin asks for. Returns what was decided.

        To be called after entries were taken in. What was decided is not decided again, also after a crash.
        """
        _, feed = self._writing()
        with self.read() as reader:
            waiting = pending_for(reader, feed)
        decided = [found for reference in waiting if (found := self._decide(reference)) is not None]
        for collection, home in self.homes().items():
            if home.feed == feed and home.asked is not None:
                self.write(lambda writing, collection=collection: hand_over(writing, collection))  # type: ignore[misc]
        return decided

    def _decide(self, proposal: Reference) -> Decision | None:
        made: list[Transaction | Rejection | None] = []

        def make(writing: Writing) -> Transaction | Rejection | None:
            made.append(decide(writing, proposal))
            return made[-1]

        entry = self.write(make).reference
        return None if entry is None or made[-1] is None else decision_of(proposal, made[-1], entry)

    def decision(self, proposal: Reference) -> Decision | None:
        """What became of a proposal; None while it waits. Raises ``MissingEvidenceError`` when it is not here."""
        with self.read() as reader:
            return find_decision(reader, proposal)

    def await_decision(self, proposal: Reference, timeout_s: float, poll_s: float = 1.0) -> Decision | None:
        """The same, waiting for it for ``timeout_s`` at most. Somebody else has to take entries in meanwhile."""
        deadline = monotonic() + timeout_s
        while True:
            writes = self._writes
            found = self.decision(proposal)
            left = deadline - monotonic()
            if found is not None or left <= 0:
                return found
            self._wait(writes, min(poll_s, left))

    # --- entries of any kind ---

    def write(self, make: Make) -> Commit:
        """Write one entry: what ``make`` returns for the database as it stands in the transaction that writes it.

        ``make`` runs in the writer's thread and must not have effects of its own; None writes nothing. Raises what it
        raises, and as ``commit``.
        """
        if not self._introduced:
            self.introduce()
        return self._submit_after_all(make)

    def _submit_after_all(self, make: Make) -> Commit:
        """Submit it; where more is new than an entry can say that it has seen, behind others that do."""
        while True:
            try:
                return self._submit(make)
            except MuchUnseen:
                while self._submit(lambda writing: writing.witness()).reference is not None:
                    pass

    def _submit(self, make: Make) -> Commit:
        writer, feed = self._writing()
        composing = _Composing(self._projection, self._see, make)
        try:
            writer.submit_composed(feed, composing, size=_TYPICAL_BYTES).result()
        except _NothingToWrite:
            return composing.commit
        except RefusedError as exc:
            self._refuse_copied(feed, exc)
            raise
        self._tell()
        return composing.commit

    def _refuse_copied(self, feed: FeedKey, cause: RefusedError) -> None:
        """Say so when the feed is not written to any more because somebody else has signed for it."""
        with self.store.read() as tx:
            state, sides = tx.feed(feed), Sides(tx, self._sql, self._number).of_feed(feed)
        if sides and state is not None and state.retired:
            raise RefusedError(
                f"feed {feed.hex()} has forked: a copy of this device has signed for it as well, so it ends here",
                hint="go on in a new feed that continues it; when the copy is not yours, revoke the device",
            ) from cause

    def _tell(self) -> None:
        """Wake up who follows the change feed."""
        with self._written:
            self._writes += 1
            self._written.notify_all()
            watchers = list(self._watchers)
        for wake in watchers:
            wake()

    def _see(self, projection: Projection, feed: FeedKey) -> Writing:
        return Writing(projection, feed, self.now_ms, self.keys)

    def introduce(self) -> Commit:
        """Carry identity events of this device's owner that the database does not have: a new device, a revocation.

        The first write of an open database does it by itself.
        """
        commit = self._submit_after_all(lambda writing: writing.introduction())
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
        with self._taking_in() as tx:
            taken = self.take_new_in(tx, advance)
        self._tell()
        return taken

    def take_new_in(self, tx: SqlWriteTransaction, advance: Callable[[int], None] | None = None) -> int:
        """The same within a write transaction of the caller, who commits it."""
        self._projection.begin(tx)
        taken = self._projection.take_new(self.now_ms(), advance)
        self._projection.finish()
        return taken

    @contextmanager
    def _taking_in(self) -> Iterator[SqlWriteTransaction]:
        try:
            with self.store.write() as tx:
                try:
                    yield tx
                except BaseException:
                    self._projection.forget()  # while nobody else can have begun it
                    raise
        except BaseException:
            self._projection.forget()
            raise

    # --- bundles ---

    def export_bundle(
        self, out: BinaryIO, since: Have | None = None, advance: Callable[[int], None] | None = None
    ) -> Sent:
        """Write to ``out``, a buffered binary stream, what others may not have: all of it, or what ``since`` has not.

        ``since`` comes from a bundle of theirs (``sync.bundle.read_have``), or from one that they have taken in.
        ``advance`` is told how many blocks were written. Raises ``RefusedError`` when ``since`` is of another database,
        ``StorageError`` when writing fails.
        """
        with self.store.read() as tx:
            return write_bundle(tx, self._sql, self._number, self._header(), out, since=since, advance=advance)

    def write_have(self, out: BinaryIO) -> None:
        """Write a bundle that says only what is here: whoever gets it knows what to leave out of theirs."""
        with self.store.read() as tx:
            write_bundle(tx, self._sql, self._number, self._header(), out, only_have=True)

    def _header(self) -> BundleHeader:
        return BundleHeader(self.uid, self.name, None, max(self.now_ms(), 0))

    def import_bundle(self, source: BinaryIO, advance: Callable[[int], None] | None = None) -> ImportReport:
        """Take in a bundle of this database: whole, or nothing of it. One that was taken in before changes nothing.

        ``advance`` is told how many blocks were verified. Raises ``RefusedError`` for a bundle of another database,
        ``MissingEvidenceError`` when there is a gap between what is here and what it has, ``VerificationError`` when a
        claim in it is false, ``MalformedError`` for what is no bundle. That somebody has told two histories ends
        nothing: it stands in the report.
        """
        reader = BundleReader(source)
        with self._taking_in() as tx:
            report = take_bundle(tx, self._sql, self._number, self._projection, reader, self.now_ms(), advance)
        self._tell()
        return report

    # --- sessions (sync.replica) ---

    @contextmanager
    def holdings(self) -> Iterator[tuple[Any, Queries, int]]:
        """A snapshot of the store, the statements for it and the database's number: what is sent to others is read so.

        Nothing waits for whoever has it; keep it for one frame.
        """
        with self.store.read() as tx:
            yield tx, self._sql, self._number

    def take_events(self, events: Sequence[bytes]) -> int:
        """Keep signed identity events, by ascending identity and then by seq, that another replica has sent.

        All of them or none. Returns how many were new. Raises ``MalformedError`` when they are not in order,
        ``VerificationError`` when they do not fold together with those that are here.
        """
        with self.store.write() as tx:
            receiving = Receiving(tx, Sides(tx, self._sql, self._number), self.uid, "sync")
            for event in events:
                receiving.take_event(event)
            receiving.end_events()
        return receiving.events

    def take_runs(self, runs: Sequence[FrameRun], advance: Callable[[int], None] | None = None) -> ImportReport:
        """Keep runs of blocks that another replica has sent, and take in the entries that they bring.

        All of them or none, in one transaction. ``advance`` is told how many blocks were verified. Raises as
        ``import_bundle``. That somebody has told two histories ends nothing: it stands in the report.
        """
        with self._taking_in() as tx:
            receiving = Receiving(tx, Sides(tx, self._sql, self._number), self.uid, "sync", advance)
            received = receive_runs(receiving, runs)
            report = integrate(tx, self._sql, self._number, self._projection, received, self.now_ms())
        self._tell()
        return report

    @contextmanager
    def watched(self, wake: Callable[[], None]) -> Iterator[None]:
        """Call ``wake`` after each write of this object and each time that it has taken something in.

        It is called by the thread that has written, and must neither wait nor raise. What other processes write it is
        not told.
        """
        with self._written:
            self._watchers.append(wake)
        try:
            yield
        finally:
            with self._written:
                self._watchers.remove(wake)

    # --- taking back ---

    def undo(self, *references: Reference, note: str = "") -> Undone:
        """Take transactions back, all together, as far as nobody has changed since what they wrote.

        Raises ``MissingEvidenceError`` for one that is not here, ``ConflictError`` for one that has no effect or is
        undone already, ``LimitExceeded`` when one transaction cannot do it, and as ``commit``.
        """
        return self._take_back(plan_undo, references, note)

    def redo(self, *references: Reference, note: str = "") -> Undone:
        """Do transactions again that were undone: the undoing of what undid them.

        Raises as ``undo`` does, ``ConflictError`` for one that is not undone.
        """
        return self._take_back(plan_redo, references, note)

    def _take_back(
        self, plan: Callable[[Writing, Sequence[Reference]], UndoPlan], references: Sequence[Reference], note: str
    ) -> Undone:
        if not references:
            raise MalformedError("there is no transaction named")
        skipped: list[Skipped] = []

        def make(writing: Writing) -> Transaction | None:
            planned = plan(writing, references)
            skipped[:] = planned.skipped
            if not planned.ops:
                return None
            writing.check_required(planned.ops)
            return Transaction(writing.stamp(), tuple(planned.ops), (), note, planned.targets)

        return Undone(self.write(make), tuple(skipped))

    def restore(
        self,
        cut: Cut,
        collection: str | None = None,
        key: str | None = None,
        *,
        note: str = "",
        several: bool = False,
    ) -> Restored:
        """Let documents show what they showed at a cut: one, those of a collection, or all. It can be undone.

        Schemas and legal holds are restored only when their collection is named. With ``several`` it takes as many
        transactions as it needs, each of them whole documents; a document that somebody changes in the meantime is left
        as it is then. Raises ``LimitExceeded`` when it needs more than one and may not, and as ``commit``.
        """
        restoration = Restoration(cut, collection, key, note, several)
        commits = []
        while not restoration.is_done:
            commits.append(self.write(restoration.make))
            restoration.advance()
        return Restored(tuple(one for one in commits if one.reference is not None), tuple(restoration.left))

    def resolve(
        self,
        collection: str,
        key: str,
        *,
        if_match: str,
        choose: Mapping[str | Path, object] | None = None,
        keep_all: Iterable[str | Path] = (),
        note: str = "",
    ) -> Commit:
        """Decide all conflicts of a document: these fields get these values, those the list of all that stand there,
        and the others what shows. ``if_match`` is the ETag that the decision rests on.

        Raises as ``commit``, and ``MalformedError`` for a field that is no register.
        """
        changes = Changes(note=note)
        changes.require(collection, key, if_match)
        for where, value in (choose or {}).items():
            changes.choose(collection, key, where, value)
        for where in keep_all:
            changes.keep_all(collection, key, where)
        changes.accept(collection, key)
        return self.commit(changes)

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
        return state if state is not None and state.exists else None

    def scan(
        self,
        collection: str,
        *,
        prefix: str | None = None,
        start: str | None = None,
        end: str | None = None,
        limit: int = 100,
        after: str | None = None,
        deleted: bool = False,
        at: Cut | None = None,
    ) -> Page:
        """A page of a collection's documents, by key. See ``sync.storage.scan.scan``."""
        with self.read() as reader:
            return scan(
                reader,
                collection,
                prefix=prefix,
                start=start,
                end=end,
                limit=limit,
                after=after,
                deleted=deleted,
                at=at,
            )

    def find(
        self,
        collection: str,
        where: str = "",
        *,
        order: str | None = None,
        descending: bool = False,
        everywhere: bool = False,
        limit: int = 100,
        after: str | None = None,
        at: Cut | None = None,
    ) -> Page:
        """A page of the documents that fit a filter: ``balance >= 100.00 and owner ^= "No"``; all of them without one.

        They come in the order of their keys, or of the indexed field ``order``. With ``everywhere`` every document may
        be looked at where no index helps. Raises as ``query`` does, and ``MalformedError`` for what is no filter.
        """
        chosen = parse_filter(where) if where.strip() else EVERYTHING
        asked = Query(collection, chosen, KEY if order is None else parse_field(order), descending, scan=everywhere)
        page = self.query(asked, limit=limit, after=after, at=at)
        return Page(tuple(one.state for one in page.documents), page.cursor)

    def unsealed(self, state: DocumentState) -> DocumentState:
        """The document with its sealed values opened, as far as their keys are here."""
        if self.keys is None:
            return state
        return state.showing(unseal_view(state.view, self.uid, state.name, self.keys.find).view)

    def query(self, query: Query, *, limit: int = 100, after: str | None = None, at: Cut | None = None) -> QueryPage:
        """A page of the documents that a query asks for. See ``sync.storage.query.run_query``."""
        with self.read() as reader:
            return run_query(reader, query, limit=limit, after=after, at=at)

    def changes(
        self,
        cursor: str = START,
        *,
        limit: int = 100,
        collections: Collection[str] | None = None,
        fields: Sequence[Path] | None = None,
    ) -> ChangePage:
        """What was changed behind a cursor. See ``sync.storage.changefeed.changes_after``."""
        with self.read() as reader:
            return changes_after(reader, cursor, limit=limit, collections=collections, fields=fields)

    def follow(
        self,
        cursor: str = START,
        *,
        limit: int = 1000,
        collections: Collection[str] | None = None,
        fields: Sequence[Path] | None = None,
        poll_s: float = 1.0,
        timeout_s: float | None = None,
    ) -> Iterator[ChangePage]:
        """Pages of ``changes`` for ever, or until nothing has come for ``timeout_s``: each one that leads further.

        What this object writes or takes in is there at once, what other processes write within ``poll_s``. A page can
        be without events, when what came was left out: its cursor is worth keeping all the same.
        """
        patience = float("inf") if timeout_s is None else timeout_s
        deadline = monotonic() + patience
        while True:
            writes = self._writes
            page = self.changes(cursor, limit=limit, collections=collections, fields=fields)
            if page.cursor != cursor:
                cursor = page.cursor
                yield page
                deadline = monotonic() + patience
            if not page.more:
                left = deadline - monotonic()
                if left <= 0:
                    return
                self._wait(writes, min(poll_s, left))

    def _wait(self, writes: int, longest_s: float) -> None:
        """Wait until this object has written again, when it had written so often."""
        with self._written:
            self._written.wait_for(lambda: self._writes != writes, longest_s)

    def context(self) -> str:
        """A token for everything that is here now: ``Changes.base`` of writes that are based on it."""
        with self.read() as reader:
            return encode_context(reader.branches.clock(), reader.branches)

    # --- looking back ---

    def as_of(
        self,
        *,
        place: int | None = None,
        known_ms: int | None = None,
        claimed_ms: int | None = None,
        anchored: Collection[FeedHead] | None = None,
    ) -> Cut:
        """The cut that one of these means: what this replica had taken in up to a place or a time, what was written by
        a time as the authors claim, or what the heads in an anchored checkpoint show. See ``sync.asof``.

        Raises ``MalformedError`` for none or several of them, and for a time that there is not.
        """
        asked = [one for one in (place, known_ms, claimed_ms, anchored) if one is not None]
        if len(asked) != 1:
            raise MalformedError("as of: name one point in time")
        with self.read() as reader:
            if place is not None:
                return known_at_place(reader, place)
            if known_ms is not None:
                return known_at(reader, known_ms)
            if claimed_ms is not None:
                return claimed_at(reader, claimed_ms)
            return anchored_at(reader, anchored or ())

    def entry(self, reference: Reference) -> RecordedEntry:
        """An entry as it was taken in. Raises ``MissingEvidenceError`` when it was not."""
        with self.read() as reader:
            return recorded_entry(reader, reference)

    def history(self, collection: str, key: str, path: Path = ()) -> Iterator[HistoryEntry]:
        """What was done to a document, or to the cell at a path, oldest first. It is read while it is iterated over."""
        with self.read() as reader:
            yield from history_of(reader, DocumentId(collection, key), path)

    def diff(
        self, before: Cut, after: Cut | None = None, collection: str | None = None, key: str | None = None
    ) -> Iterator[DocumentDifference]:
        """The documents that do not show the same at two cuts, the second being now by default."""
        with self.read() as reader:
            yield from differences_between(reader, before, after or reader.now(), collection, key)

    def conflicts(self, collection: str | None = None) -> Iterator[OpenConflicts]:
        """The documents with conflicts that nobody has decided, by collection and key."""
        with self.read() as reader:
            yield from open_conflicts(reader, collection)

    # --- what can be shown to others ---

    def checkpoint_state(self) -> Commit:
        """State the root of everything that is here, in an entry that the checkpoint log will prove the time of.

        Raises ``RefusedError`` when there is nothing yet, and as ``commit``.
        """
        refresh_leaves(self.store, self._number, self.uid)
        return self.write(make_state_root)

    def state_roots(self) -> list[StatedRoot]:
        """Every root that an entry states, of this device or another, in the order in which they came here."""
        with self.read() as reader:
            return stated_roots(reader)

    def verify_state_root(self, reference: Reference) -> VerifiedState:
        """Rebuild the state that an entry speaks of from the feeds alone. See ``sync.storage.state_roots``."""
        with self.read() as reader:
            return verify_state_root(reader, reference)

    def rival_state_roots(self) -> list[RivalRoots]:
        """Every two entries that contradict each other about one cut: evidence against one of their devices."""
        return rival_roots(self.state_roots())

    def audit(self) -> list[str]:
        """Compare all that the tables say with what follows from the feeds; each fault in words, none when all is well.

        That the feeds are whole is for the audit of the store.
        """
        with self.store.read() as tx:
            return audit_database(tx, self.store.dialect, self.uid)

    def rebuild(self) -> int:
        """Forget all that the tables say, and take every entry in again from the feeds. Returns how many there were.

        What comes out is the same, but for the order in which entries came here: a place that somebody remembers, as
        the cursor of a change feed, means nothing any more.
        """
        with self._taking_in() as tx:
            forget_database(tx, self.store.dialect, self._number)
            drop_indexes(tx, self._sql, self.uid)
            taken = self.take_new_in(tx)
        self._tell()
        return taken


class _NothingToWrite(RefusedError):
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
        etags = {document: writing.etag(document) for document in documents}
        self.commit = Commit(reference, place, etags, frozenset(writing.resealed), isinstance(content, Proposal))
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
    with store.write() as tx:
        _register(tx, queries_for(store.dialect), uid, name, now_ms)


def _register(tx: SqlWriteTransaction, queries: Queries, uid: bytes, name: str, now_ms: int) -> int:
    """The number of the database, which is new or was there."""
    held = tx.fetch_one(queries.database, (uid,))
    if held is not None:
        return int(held[0])
    (last,) = tx.fetch_one(queries.last_database) or (None,)
    number = (last or 0) + 1
    tx.execute(queries.add_database, (number, uid, name, now_ms))
    return number


def join(store: SqlStore, source: BinaryIO, now_ms: int) -> ImportReport:
    """Let the store have the database that a bundle is of, with all that the bundle holds: whole, or nothing of it.

    Raises as ``Database.import_bundle``, and ``MissingEvidenceError`` for a bundle that does not say how the database
    was founded.
    """
    reader, queries = BundleReader(source), queries_for(store.dialect)
    header = reader.header
    if header.founding is None:
        raise MissingEvidenceError(
            "this bundle does not say how its database was founded", hint="ask somebody for a bundle who has all of it"
        )
    with store.write() as tx:
        number = _register(tx, queries, header.database, header.founding.name, now_ms)
        projection = Projection(header.database, number, queries)
        return take_bundle(tx, queries, number, projection, reader, now_ms)


def found(database: Database, founding: Founding, events: Sequence[SignedEvent]) -> Commit:
    """Write the first entry of a database that was just registered: its founder becomes its admin.

    ``events`` are the identity events of the founder. Raises ``RefusedError`` when it has entries already.
    """

    def make(writing: Writing) -> MemberEntry:
        if writing.projection.branches.clock():
            raise RefusedError(f"database {founding.name!r} has entries already")
        return MemberEntry(writing.stamp(), Found(founding, tuple(events)))

    return database.write(make)

"""What is kept and what goes: the trash, purges, legal holds, and erasure.

Implements docs/spec/retention.md. A deletion only hides a document; for 30 days, or as long as it takes until every
device has seen it, it can be undeleted. A purge then ends it for good. Values that were declared ``sealed`` can be
erased at any time: their keys are destroyed, and what feeds, proofs and backups of feeds hold of them can be read by
nobody any more. A legal hold stands in the way of both. Purges, erasures and holds take an admin of the database.

What was written in the clear stays in the feeds, which are what is proven: a purge hides it, and does not erase it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from identity.encoding import Value, decode
from identity.errors import ConfigurationError, RefusedError
from ledger.entry import parse_entry
from ledger.values import Sealed, to_python
from sync.cells import LiveDot
from sync.changes import Changes, MissingDocument
from sync.clock import wall_ms
from sync.database import Commit, Database
from sync.document_keys import DocumentKeys
from sync.membership import Membership
from sync.storage.branches import Branches
from sync.storage.projection import KIND_NUMBER
from sync.storage.reader import Reader
from sync.storage.writing import Writing
from sync.transaction import ERASE, HOLDS, MAX_KIDS, DocumentId, Erasure, Op, Transaction, Verb, parse_erasure
from sync.vector import Vector, sees
from sync.view import View

__all__ = [
    "RETENTION_MS",
    "Erased",
    "Hold",
    "Trashed",
    "erase",
    "holds",
    "place_hold",
    "purge",
    "release_hold",
    "settle_erasures",
    "stable_cut",
    "trash",
]

RETENTION_MS: Final = 30 * 24 * 60 * 60 * 1000
"""How long a deleted document can be undeleted, at least."""


# --- legal holds ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hold:
    """A legal hold on a document, or, without ``key``, on everything in a collection."""

    name: str
    collection: str
    key: str | None
    reason: str

    def covers(self, document: DocumentId) -> bool:
        """Whether the document may not be purged or erased."""
        return self.collection == document.collection and self.key in (None, document.key)


def place_hold(database: Database, hold: Hold) -> Commit:
    """Place a hold. Raises ``StaleVersion`` when there is one of that name, ``RefusedError`` for who is no admin."""
    changes = Changes(note=f"hold {hold.name}")
    fields = {"collection": hold.collection, "key": hold.key, "reason": hold.reason}
    changes.put(HOLDS, hold.name, fields, if_absent=True)
    return database.commit(changes)


def release_hold(database: Database, name: str) -> Commit:
    """Release a hold, and carry out the erasures that it had kept from being.

    Raises ``MissingDocument`` when there is none, ``RefusedError`` for who is no admin.
    """
    changes = Changes(note=f"release hold {name}")
    changes.delete(HOLDS, name)
    commit = database.commit(changes)
    settle_erasures(database)
    return commit


def holds(reader: Reader) -> list[Hold]:
    """The holds that are in force, by name."""
    found = []
    for (name,) in reader.tx.fetch_all(reader.sql.shown, (reader.number, HOLDS)):
        state = reader.document(DocumentId(HOLDS, name))
        if state is not None:
            found += list(_held(name, state.view))
    return found


def _held(name: str, view: View) -> Iterator[Hold]:
    """A hold as its document shows it, and as its siblings say: whatever anybody meant to hold is held."""
    values = {cell.path: cell.values for cell in view.cells}
    reason = str(values.get("/reason", ("",))[0])
    for collection in values.get("/collection", ()):
        for key in values.get("/key", (None,)):
            yield Hold(name, str(collection), None if key is None else str(key), reason)


def _refuse_held(writing: Writing, document: DocumentId) -> None:
    for (name,) in writing.projection.documents_shown(HOLDS):
        for hold in _held(name, writing.view(DocumentId(HOLDS, name))):
            if hold.covers(document):
                raise RefusedError(f"{document} is held: {hold.name}: {hold.reason}", hint="release the hold first")


# --- the trash ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trashed:
    """A deleted document. ``keeps`` says why it cannot be purged yet; "" when it can be."""

    document: DocumentId
    deleted_ms: int
    """When, as its deletion claims, or as it came in here: the later of both."""
    keeps: str


def trash(reader: Reader, now_ms: int, retention_ms: int = RETENTION_MS) -> Iterator[Trashed]:
    """The deleted documents that were not purged, by collection and key."""
    stable = stable_cut(reader.branches, reader.standing.within(None))
    held = holds(reader)
    for _, collection, key in reader.tx.fetch_all(reader.sql.hidden, (reader.number,)):
        document = DocumentId(collection, key)
        state = reader.document(document)
        if state is None or state.view.purged:
            continue
        deleted_ms = max(_deleted_ms(reader, state.dots), 0)
        hold = next((hold for hold in held if hold.covers(document)), None)
        keeps = "" if hold is None else f"held: {hold.name}"
        parts = [(part.branch, part.last) for part in state.counters]
        seen = [(dot.branch, dot.seq) for dot in state.dots] + parts
        keeps = keeps or _keeps(deleted_ms, now_ms, retention_ms, seen, stable)
        yield Trashed(document, deleted_ms, keeps)


def _deleted_ms(reader: Reader, dots: Iterable[LiveDot]) -> int:
    times = [0]
    for dot in dots:
        if dot.verb is Verb.HIDE:
            row = reader.tx.fetch_one(reader.sql.txn, (dot.branch, dot.seq))
            times += [wall_ms(row[4]), row[7]]
    return max(times)


def _keeps(deleted_ms: int, now_ms: int, retention_ms: int, seen: Iterable[tuple[int, int]], stable: Vector) -> str:
    if now_ms < deleted_ms + retention_ms:
        return f"deleted {max(now_ms - deleted_ms, 0) // 86_400_000} days ago"
    if not all(sees(stable, branch, seq) for branch, seq in seen):
        return "not every device has seen the deletion"
    return ""


def stable_cut(branches: Branches, membership: Membership) -> dict[int, int]:
    """What every device that may write has seen, as far as their newest entries say.

    A device that was authorised and has never written to the database is not waited for.
    """
    active = [
        {**branches.past_of(branch.id, branch.head.seq), branch.id: branch.head.seq}
        for branch in branches
        if branch.head is not None
        and not branches.is_excluded(branch.id, branch.head.seq + 1)
        and membership.may_write(branch.author) is None
        and not branches.is_continued(branch)
    ]
    if not active:
        return {}
    return {one: min(vector.get(one, -1) for vector in active) for one in active[0]}


def purge(database: Database, documents: Sequence[DocumentId], retention_ms: int = RETENTION_MS) -> Commit:
    """End deleted documents for good, in one transaction, and erase their sealed values.

    Raises ``RefusedError`` for one that is not deleted, not for long enough, not seen as deleted by every device, or
    held; then none is purged.
    """
    with database.read() as reader:
        due = {one.document: one.keeps for one in trash(reader, database.now_ms(), retention_ms)}
    for document in documents:
        if document not in due:
            raise RefusedError(f"{document} is not in the trash", hint="delete it first")
        if due[document]:
            raise RefusedError(f"{document} cannot be purged yet: {due[document]}")

    def make(writing: Writing) -> Transaction:
        for document in documents:
            _refuse_held(writing, document)
            if not writing.view(document).deleted:
                raise RefusedError(f"{document} was undeleted meanwhile")
        ops = tuple(Op(Verb.PURGE, document, (), None) for document in documents)
        return Transaction(writing.stamp(), ops, note="purge")

    commit = database.write(make)
    for document in documents:
        if database.keys is not None and database.keys.of_document(database.uid, document):
            erase(database, document, "purged")
    return commit


# --- erasure --------------------------------------------------------------------------------------------------------


class Erased(NamedTuple):
    """What came of an erasure. ``commit`` is its first entry. ``unreachable`` are copies of the key file that may still
    hold keys."""

    commit: Commit
    kids: tuple[bytes, ...]
    unreachable: tuple[str, ...]


def erase(database: Database, document: DocumentId, reason: str) -> Erased:
    """Destroy the keys of all sealed values that the document holds or ever held, and record it as a signed entry.

    The entry comes first: a process that is killed before the keys are destroyed completes that when it next settles
    erasures. It takes several where they are more than one can name: anybody can have written values under keys that
    nobody has, and must not stand in the way by their number. Raises ``MissingDocument``, ``RefusedError`` when it is
    held or has no sealed values, ``ConfigurationError`` when this replica keeps no keys.
    """
    erasing = _Erasing(database, document, reason)
    commits = [database.write(erasing.make)]
    while erasing.goes_on():
        commits.append(database.write(erasing.make))
    unreachable: dict[str, None] = {}
    for kids in erasing.named:  # also those that are not here
        destroyed = erasing.keys.destroy(database.uid, document, database.now_ms(), kids)
        unreachable.update(dict.fromkeys(destroyed.unreachable))
    return Erased(commits[0], destroyed.kids, tuple(unreachable))


class _Erasing:
    """The entries that one erasure takes. ``named`` has the keys of each that was written, those here first."""

    def __init__(self, database: Database, document: DocumentId, reason: str) -> None:
        self.keys = _keys(database)
        self.named: list[tuple[bytes, ...]] = []
        self._uid = database.uid
        self._document = document
        self._reason = reason
        self._next: tuple[bytes, ...] = ()
        self._left = 0

    def make(self, writing: Writing) -> Erasure:
        """The next entry. Raises as ``erase`` does."""
        _refuse_held(writing, self._document)
        found = writing.projection.documents.find(self._document)
        if found is None:
            raise MissingDocument(self._document)
        history = writing.projection.documents.history(found.id)
        kids = {kid for (dot, _), _ in history for kid in _kids_in(decode(dot.val))}
        here = set(self.keys.of_document(self._uid, self._document))
        if not kids | here:
            raise RefusedError(
                f"{self._document} has no sealed values", hint="only fields declared sealed can be erased"
            )
        due = sorted((kids | here).difference(*self.named), key=lambda kid: (kid not in here, kid))
        self._next, self._left = tuple(sorted(due[:MAX_KIDS])), max(len(due) - MAX_KIDS, 0)
        return Erasure(writing.stamp(), self._document, self._next, self._reason)

    def goes_on(self) -> bool:
        """Take note that the entry was written. Returns whether another one is needed."""
        self.named.append(self._next)
        return self._left > 0


def settle_erasures(database: Database) -> list[DocumentId]:
    """Destroy the keys that entries of others, or of an earlier run, have erased and that are still here.

    Those of documents that are held stay until the hold is released. Returns the documents whose keys went.
    """
    if database.keys is None:
        return []
    due: list[tuple[DocumentId, tuple[bytes, ...]]] = []
    with database.read() as reader:
        held = holds(reader)
        for number, seq, kind, leaf, masked in reader.tx.fetch_all(reader.sql.others, (reader.number,)):
            if kind == KIND_NUMBER[ERASE] and masked is None and not reader.branches.is_excluded(number, seq):
                erasure = parse_erasure(parse_entry(reader.branches.block(number, seq, leaf)))
                if not any(hold.covers(erasure.document) for hold in held):
                    due.append((erasure.document, erasure.kids))
    settled = []
    for document, kids in due:
        here = set(kids) & set(database.keys.of_document(database.uid, document))
        if here or not set(kids) <= set(database.keys.destroyed(database.uid, document)):
            # Also what is not here is remembered as destroyed, so that no bundle brings it later.
            database.keys.destroy(database.uid, document, database.now_ms(), kids)
        if here:
            settled.append(document)
    return settled


def _kids_in(value: Value) -> Iterator[bytes]:
    """The key ids of all sealed values in what an operation writes, however deep they stand in it."""
    match value:
        case {"$sealed": _}:
            sealed = to_python(value)
            assert isinstance(sealed, Sealed)
            yield sealed.kid
        case list():
            for item in value:
                yield from _kids_in(item)
        case dict():
            for item in value.values():
                yield from _kids_in(item)


def _keys(database: Database) -> DocumentKeys:
    if database.keys is None:
        raise ConfigurationError("this replica keeps no keys of sealed values")
    return database.keys

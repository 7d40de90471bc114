"""History: what happened to a document, transaction by transaction, and what differs between two cuts.

Implements docs/spec/database-history.md, sections "History" and "Differences". Nothing is kept for the purpose: the
operations of a document say when they came and when they were replaced, and the rest stands in their entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, NamedTuple

from identity.encoding import Value, decode, encode
from identity.errors import DamagedFile, MalformedError, MissingEvidenceError
from ledger.entry import parse_entry
from ledger.storage.rows import checked
from ledger.values import Reference
from sync.cells import FLAGS, WRITES, CellKey, LiveDot, cell_key, is_beneath
from sync.difference import CellChange, differences
from sync.membership import Author
from sync.storage.branches import EntryFacts
from sync.storage.documents import count_increments, read_dot
from sync.storage.projection import KIND_NUMBER
from sync.storage.reader import Cut, DocumentState, Reader
from sync.transaction import TXN, DocumentId, IntentMark, Path, Transaction, Verb, parse_transaction, path_text
from sync.view import CounterPart, View, exact_sum, make_view

__all__ = [
    "DocumentDifference",
    "HistoryEntry",
    "HistoryOp",
    "RecordedEntry",
    "differences_between",
    "history_of",
    "recorded_entry",
    "touched_between",
]

_KINDS = {number: kind for kind, number in KIND_NUMBER.items()}
_EXCLUDED = "it was revoked or dismissed"
_ROWS_AT_FIRST, _ROWS_A_TIME = 64, 4096


@dataclass(frozen=True, slots=True)
class RecordedEntry:
    """An entry of a database, as it was taken in."""

    place: int
    reference: Reference
    kind: str
    author: Author
    reading: int
    """Of its author's clock (``sync.clock``): a claim."""
    taken_ms: int
    """When this replica took it in, by its own clock: milliseconds UTC."""
    masked: str | None
    """Why it has no effect; None: it counts."""
    transaction: Transaction | None
    """What it carries, when that is a transaction that can be read."""

    @property
    def note(self) -> str:
        """What its author wrote beside it."""
        return "" if self.transaction is None else self.transaction.note

    @property
    def intent(self) -> IntentMark | None:
        """Who wanted it, when that is not the author of the feed: proven by a signature of theirs."""
        return None if self.transaction is None else self.transaction.intent

    @property
    def undoes(self) -> tuple[Reference, ...]:
        """What it takes back."""
        return () if self.transaction is None else self.transaction.undoes


class HistoryOp(NamedTuple):
    """One operation, as it was written."""

    verb: Verb
    path: str
    """As a JSON Pointer."""
    value: Value


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """What one transaction did to a document, in the order in which this replica took it in."""

    entry: RecordedEntry
    ops: tuple[HistoryOp, ...]
    changes: tuple[CellChange, ...]
    """What the document showed before and after; nothing when the transaction does not count, or came too late."""


@dataclass(frozen=True, slots=True)
class DocumentDifference:
    """What one document shows at two cuts."""

    name: DocumentId
    before: DocumentState | None
    after: DocumentState | None
    changes: tuple[CellChange, ...]


# --- entries --------------------------------------------------------------------------------------------------------


def recorded_entry(reader: Reader, reference: Reference) -> RecordedEntry:
    """The entry that a reference means. Raises ``MissingEvidenceError`` when it was not taken in."""
    facts = reader.branches.find(reference)
    if facts is None:
        raise MissingEvidenceError("the database has no such entry")
    return _recorded(reader, facts)


def _recorded(reader: Reader, facts: EntryFacts) -> RecordedEntry:
    row = reader.tx.fetch_one(reader.sql.txn, (facts.branch, facts.seq))
    place, kind, taken_ms = checked((row[0], row[1], row[7]), int, int, int)
    if kind not in _KINDS:
        raise DamagedFile(f"the entry at place {place} is of a kind that there is not")
    masked = row[6] or (_EXCLUDED if reader.branches.is_excluded(facts.branch, facts.seq) else None)
    transaction = _transaction(reader, facts) if kind == KIND_NUMBER[TXN] else None
    author = reader.branches[facts.branch].author
    reference = reader.branches.reference(facts)
    return RecordedEntry(place, reference, _KINDS[kind], author, facts.reading, taken_ms, masked, transaction)


def _transaction(reader: Reader, facts: EntryFacts) -> Transaction | None:
    try:
        return parse_transaction(parse_entry(reader.branches.block(facts.branch, facts.seq, facts.leaf)))
    except MalformedError:
        return None


# --- one document ---------------------------------------------------------------------------------------------------


def history_of(reader: Reader, name: DocumentId, path: Path = ()) -> Iterator[HistoryEntry]:
    """The transactions that touched a document, or the cell at a path and those beneath it, as they were taken in.

    What they changed is what is known of that now: when an author turns out to have been revoked, what they wrote after
    that is shown as without effect from the beginning. A document that never was has no history.
    """
    row = reader.tx.fetch_one(reader.sql.document, (reader.number, *name))
    if row is None:
        return
    pointer = path_text(path)
    lives = _Lives(reader)
    for _, rows in groupby(_lives_of(reader, row[0]), key=lambda one: one[8]):
        found = [(read_dot(one), one[7]) for one in rows]
        changes = tuple(change for change in lives.take(found) if is_beneath(change.path, pointer))
        ops = tuple(HistoryOp(dot.verb, dot.path, decode(dot.val)) for dot, _ in found if _is_about(dot, pointer))
        if changes or any(is_beneath(op.path, pointer) for op in ops):
            facts = reader.branches.facts(found[0][0].branch, found[0][0].seq)
            assert facts is not None
            yield HistoryEntry(_recorded(reader, facts), ops, changes)


def _lives_of(reader: Reader, document: int) -> Iterator[Sequence[Any]]:
    """The rows of a document's operations, few at first: who wants the beginning does not wait for all of them."""
    size, place = _ROWS_AT_FIRST, 0
    while rows := reader.tx.fetch_all(reader.sql.lives, (document, place, size)):
        yield from rows
        size, place = min(4 * size, _ROWS_A_TIME), rows[-1][0]


def _is_about(dot: LiveDot, pointer: str) -> bool:
    return is_beneath(dot.path, pointer) or (dot.verb is Verb.DEL and is_beneath(pointer, dot.path))


@dataclass(slots=True)
class _Counter:
    """The live increments at one path, by place, and what they sum up to, by branch."""

    dots: dict[int, LiveDot] = field(default_factory=dict)
    parts: dict[int, CounterPart] = field(default_factory=dict)


class _Lives:
    """A document while its operations pass by: what is live after each."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._live: dict[CellKey, dict[int, LiveDot]] = {}
        self._counters: dict[str, _Counter] = {}
        self._flags: dict[int, LiveDot] = {}
        self._dying: dict[int, list[LiveDot]] = {}

    def take(self, ops: Sequence[tuple[LiveDot, int | None]]) -> list[CellChange]:
        """Let the operations of one entry pass, each with the place at which it died. Returns what they changed."""
        touched = {cell_key(dot) for dot, _ in ops if dot.verb in WRITES}
        touched.update(cell_key(victim) for dot, _ in ops for victim in self._dying.get(dot.place, ()))
        before = self._view(touched)
        for dot, died in ops:
            self._remove(self._dying.pop(dot.place, ()))
            if dot.verb in WRITES and died != dot.place:
                self._add(dot)
                if died is not None:
                    self._dying.setdefault(died, []).append(dot)
        return differences(before, self._view(touched))

    def _add(self, dot: LiveDot) -> None:
        if dot.verb in FLAGS:
            self._flags[dot.place] = dot
        elif dot.verb is not Verb.INC:
            self._live.setdefault(cell_key(dot), {})[dot.place] = dot
        else:
            counter = self._counters.setdefault(dot.path, _Counter())
            counter.dots[dot.place] = dot
            (one,) = count_increments([dot])
            part = counter.parts.get(dot.branch)
            if part is not None:
                total = exact_sum((part.total, one.total))
                one = replace(one, first=part.first, count=part.count + 1, total=total)
            counter.parts[dot.branch] = one

    def _remove(self, dots: Sequence[LiveDot]) -> None:
        counters = {}
        for dot in dots:
            if dot.verb in FLAGS:
                del self._flags[dot.place]
            elif dot.verb is not Verb.INC:
                del self._live[cell_key(dot)][dot.place]
            else:
                counters[dot.path] = self._counters[dot.path]
                del counters[dot.path].dots[dot.place]
        for counter in counters.values():
            counter.parts = {part.branch: part for part in count_increments(counter.dots.values())}

    def _view(self, touched: set[CellKey]) -> View:
        """What the touched cells show, and whether the document is deleted."""
        dots = [dot for key in touched for dot in self._live.get(key, {}).values()]
        paths = {path for path, verb, _ in touched if verb is Verb.INC}
        parts = [part for path in sorted(paths & set(self._counters)) for part in self._counters[path].parts.values()]
        return replace(self._make(dots, parts), deleted=self._is_deleted())

    def _is_deleted(self) -> bool:
        if all(dot.val == _FALSE for dot in self._flags.values()):
            return False
        dots = [*self._flags.values(), *(dot for found in self._live.values() for dot in found.values())]
        return self._make(dots, [part for one in self._counters.values() for part in one.parts.values()]).deleted

    def _make(self, dots: Sequence[LiveDot], parts: Sequence[CounterPart]) -> View:
        return make_view(dots, parts, self._reader.rank, self._reader.branches.past_of)


_FALSE = encode(False)


# --- between cuts ---------------------------------------------------------------------------------------------------


def differences_between(
    reader: Reader, before: Cut, after: Cut, collection: str | None = None, key: str | None = None
) -> Iterator[DocumentDifference]:
    """The documents that do not show the same at two cuts, in the order in which this replica first heard of them.

    By default of the whole database, else of one collection or one document.
    """
    for number in touched_between(reader, before, after):
        row = reader.tx.fetch_one(reader.sql.document_by_id, (number,))
        name, exact_from = DocumentId(*checked(row[:2], str, str)), row[4]
        if collection in (None, name.collection) and key in (None, name.key):
            was = reader.state_at(number, name, before, exact_from)
            now = reader.state_at(number, name, after, exact_from)
            changes = differences(None if was is None else was.view, None if now is None else now.view)
            if changes:
                yield DocumentDifference(name, was, now, tuple(changes))


def touched_between(reader: Reader, before: Cut, after: Cut) -> list[int]:
    """The numbers of the documents that may differ between two cuts: what was written in one of them alone, and what a
    revocation or dismissal that stands in one of them alone takes away."""
    found: set[int] = set()
    memberships = [reader.standing.within(cut.vector) for cut in (before, after)]
    for branch in reader.branches:
        ends = [cut.vector.get(branch.id, -1) for cut in (before, after)]
        low, high = min(ends), max(ends)
        limits = {membership.cut(branch.author) for membership in memberships}
        if len(limits) > 1:
            low = min(low, *(limit - 1 for limit in limits if limit is not None))
        if reader.is_disputed(branch, before.vector) != reader.is_disputed(branch, after.vector):
            low = -1
        if low < high:
            rows: list[tuple[Any, ...]] = reader.tx.fetch_all(reader.sql.touched_between, (branch.id, low, high))
            found.update(row[0] for row in rows)
    return sorted(found)

"""What is to be undone, found in the tables: which transactions belong together, and what each did to a document.

Implements docs/spec/database-history.md, section "Undo", with ``sync.undo``. Undoings form chains: a transaction, what
took it back, what took that back. A link counts while nothing that counts takes it back in turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from identity.errors import ConflictError, LimitExceeded, MalformedError, MissingEvidenceError
from ledger.storage.rows import checked
from ledger.values import Reference, reference_text
from sync.cells import LiveDot, StoredOp
from sync.schema import check_op
from sync.storage.documents import read_dot, read_stored_op
from sync.storage.projection import KIND_NUMBER
from sync.storage.reader import Reader
from sync.storage.writing import Writing
from sync.transaction import MAX_OPS, MAX_REFERENCES, TXN, DocumentId, Op
from sync.undo import Footprint, Knowledge, Skipped, invert

__all__ = ["UndoPlan", "plan_redo", "plan_undo"]

_Key = tuple[int, int]
"""An entry within a replica: branch and index."""


@dataclass(frozen=True, slots=True)
class UndoPlan:
    """What takes transactions back."""

    targets: tuple[Reference, ...]
    """What the transaction that does it names as undone."""
    ops: list[Op]
    skipped: list[Skipped]


class _Target(NamedTuple):
    """A transaction: its name within the replica, and where it stands."""

    branch: int
    seq: int
    place: int
    ops: int

    @property
    def key(self) -> _Key:
        return (self.branch, self.seq)


def plan_undo(writing: Writing, references: Sequence[Reference]) -> UndoPlan:
    """What takes these transactions back, all together, as the database stands in the transaction that is being made.

    Raises ``MissingEvidenceError`` for one that is not here, ``MalformedError`` for an entry that is none,
    ``ConflictError`` for one that has no effect, is undone already, or was undone and done again together with others,
    ``LimitExceeded`` when it takes more operations than a transaction has.
    """
    reader = writing.reader()
    targets = [_find(reader, reference) for reference in dict.fromkeys(references)]
    undoings = _Undoings(reader, min(target.place for target in targets))
    for target in targets:
        undoings.check_in_effect(target.key)
    return _plan(writing, reader, undoings, targets)


def plan_redo(writing: Writing, references: Sequence[Reference]) -> UndoPlan:
    """What does these transactions again: the undoing of everything by which they are undone.

    Raises as ``plan_undo`` does, ``ConflictError`` for one that is not undone.
    """
    reader = writing.reader()
    undone = [_find(reader, reference) for reference in dict.fromkeys(references)]
    undoings = _Undoings(reader, min(target.place for target in undone))
    found: dict[_Key, None] = {}
    for target in undone:
        by = undoings.in_effect_against(target.key)
        if not by:
            raise ConflictError(f"{undoings.text(target.key)} is not undone: there is nothing to do again")
        found.update(dict.fromkeys(by))
    return _plan(writing, reader, undoings, [_target(reader, key) for key in found])


def _plan(writing: Writing, reader: Reader, undoings: _Undoings, targets: Sequence[_Target]) -> UndoPlan:
    own = undoings.family([target.key for target in targets])
    first = min(target.place for target in targets)
    cancelled = undoings.cancelled(own, first)
    known = Knowledge(reader.branches.past_of, reader.rank, writing.dot_name, lambda op: _misfit(writing, op))
    ops: list[Op] = []
    skipped: list[Skipped] = []
    for footprint in _footprints(writing, reader, own, cancelled, first):
        if writing.view(footprint.document).purged:
            skipped.append(Skipped(footprint.document, "", "the document was purged"))
            continue
        further, left = invert(footprint, known)
        ops += further
        skipped += left
    if len(ops) > MAX_OPS:
        raise LimitExceeded(
            f"it takes {len(ops)} operations, and a transaction has {MAX_OPS}", hint="undo fewer transactions at a time"
        )
    references = tuple(undoings.reference(target.key) for target in targets)
    return UndoPlan(references, _lightened(writing, ops), skipped)


def _lightened(writing: Writing, ops: list[Op]) -> list[Op]:
    """The operations without the dots that they put back, when they name more entries than a transaction can.

    Those are not live: an operation replaces the same without naming them.
    """
    if len({dot.entry for op in ops for dot in op.context or ()}) <= MAX_REFERENCES:
        return ops
    live = {writing.dot_name(dot) for name in {op.document for op in ops} for dot in writing.dots(name)}
    contexts = (op.context and tuple(dot for dot in op.context if dot in live) for op in ops)
    return [op._replace(context=context) for op, context in zip(ops, contexts, strict=True)]


def _misfit(writing: Writing, op: Op) -> str | None:
    schema = writing.schema(op.document.collection)
    return None if schema is None else check_op(schema, op)


# --- transactions ---------------------------------------------------------------------------------------------------


def _find(reader: Reader, reference: Reference) -> _Target:
    """The transaction that a reference means. Raises as ``plan_undo`` does."""
    facts = reader.branches.find(reference)
    if facts is None:
        raise MissingEvidenceError(f"entry {reference_text(reference)} is not here")
    return _target(reader, (facts.branch, facts.seq))


def _target(reader: Reader, key: _Key) -> _Target:
    row = reader.tx.fetch_one(reader.sql.txn, key)
    place, kind, ops = checked(row[:3], int, int, int)
    if kind != KIND_NUMBER[TXN]:
        raise MalformedError("only transactions can be undone")
    reason = row[6] or ("it was revoked or dismissed" if reader.branches.is_excluded(*key) else None)
    if reason is not None:
        raise ConflictError(f"the transaction has no effect that could be undone: {reason}")
    return _Target(*key, place, ops)


@dataclass(slots=True)
class _Links:
    """What takes an entry back, and what it takes back itself."""

    undoers: list[_Key] = field(default_factory=list)
    undone: list[_Key] = field(default_factory=list)


class _Undoings:
    """Which entries were taken back behind a place, and whether that still counts."""

    def __init__(self, reader: Reader, place: int) -> None:
        self._reader = reader
        self._links: dict[_Key, _Links] = {}
        self._places: dict[_Key, int] = {}
        for row in reader.tx.fetch_all(reader.sql.undone_after, (reader.number, place)):
            branch, seq, at, by_branch, by_seq, by_at = checked(row, int, int, int, int, int, int)
            undone, by = (branch, seq), (by_branch, by_seq)
            if not reader.branches.is_excluded(*undone) and not reader.branches.is_excluded(*by):
                self._links.setdefault(undone, _Links()).undoers.append(by)
                self._links.setdefault(by, _Links()).undone.append(undone)
                self._places[undone], self._places[by] = at, by_at
        self._against: dict[_Key, list[_Key]] = {}
        for key in sorted(self._places, key=self._places.__getitem__, reverse=True):
            self._against[key] = self.in_effect_against(key)  # what undoes an entry is newer than it

    def in_effect_against(self, key: _Key) -> list[_Key]:
        """The entries by which one is undone: those that are not undone themselves."""
        links = self._links.get(key)
        return [] if links is None else [by for by in links.undoers if not self._against[by]]

    def check_in_effect(self, key: _Key) -> None:
        """Return only when nothing undoes the entry. Raises ``ConflictError``."""
        by = self.in_effect_against(key)
        if by:
            raise ConflictError(
                f"{self.text(key)} is undone already, by {self.text(by[0])}", hint="redo it to have it again"
            )

    def family(self, targets: Iterable[_Key]) -> set[_Key]:
        """The transactions with all that came of undoing them and doing them again.

        Raises ``ConflictError`` when others that are in effect were undone and done again together with them.
        """
        found = set(targets)
        ahead = list(found)
        while ahead:
            for by in self._links.get(ahead.pop(), _Links()).undoers:
                if by in found:
                    continue
                found.add(by)
                ahead.append(by)
                for other in self._links[by].undone:
                    if other not in found and not self.in_effect_against(other):
                        raise ConflictError(
                            f"it was undone and done again together with {self.text(other)}",
                            hint="undo them together as well",
                        )
                    if other not in found:
                        found.add(other)
                        ahead.append(other)
        return found

    def cancelled(self, own: set[_Key], first: int) -> set[_Key]:
        """Entries behind a place of which one takes back others that nothing else does: so nothing has changed."""
        found: set[_Key] = set()
        for by, links in self._links.items():
            group = {by, *links.undone}
            if links.undone and not self.in_effect_against(by) and not group & own:
                is_alone = all(self.in_effect_against(key) == [by] for key in links.undone)
                if is_alone and all(self._places[key] > first for key in group):
                    found |= group
        return found

    def reference(self, key: _Key) -> Reference:
        """What names an entry on every replica."""
        facts = self._reader.branches.facts(*key)
        assert facts is not None
        return self._reader.branches.reference(facts)

    def text(self, key: _Key) -> str:
        """The same for an error."""
        return f"transaction {reference_text(self.reference(key))}"


# --- what they did --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Traces:
    """What entries did to one document."""

    own: list[StoredOp] = field(default_factory=list)
    cancelled: list[StoredOp] = field(default_factory=list)
    lost: dict[int, LiveDot] = field(default_factory=dict)


def _footprints(
    writing: Writing, reader: Reader, own: set[_Key], cancelled: set[_Key], first: int
) -> Iterator[Footprint]:
    """What the entries did, document by document."""
    traces: dict[int, _Traces] = {}
    for key in own:
        _trace(reader, _target(reader, key), traces)
    for key in cancelled:
        for number, one in _ops(reader, _target(reader, key)):
            if number in traces:
                traces[number].cancelled.append(one)
    both = own | cancelled
    for number, found in sorted(traces.items()):
        row = reader.tx.fetch_one(reader.sql.document_by_id, (number,))
        name = DocumentId(*checked(row[:2], str, str))
        yield Footprint(
            name,
            sorted(found.own, key=_place_of),
            sorted(found.cancelled, key=_place_of),
            [dot for _, dot in sorted(found.lost.items()) if dot.key[:2] not in own],
            _since(reader, number, first, both),
            writing.dots(name),
            writing.counters(name),
        )


def _trace(reader: Reader, target: _Target, traces: dict[int, _Traces]) -> None:
    """Find what a transaction wrote, and what that replaced."""
    touched = set()
    for number, one in _ops(reader, target):
        traces.setdefault(number, _Traces()).own.append(one)
        touched.add(number)
    for number in touched:
        where = (number, target.place, target.place, target.place + target.ops)
        for row in reader.tx.fetch_all(reader.sql.lost_between, where):
            traces[number].lost[row[0]] = read_dot(row)


def _ops(reader: Reader, target: _Target) -> Iterator[tuple[int, StoredOp]]:
    """The operations of a transaction, each with the number of its document."""
    for row in reader.tx.fetch_all(reader.sql.ops_between, (target.place, target.place + target.ops)):
        yield row[7], read_stored_op((*row[:7], row[9]))


def _since(reader: Reader, document: int, place: int, without: set[_Key]) -> list[StoredOp]:
    """The operations of others that came behind a place and count."""
    rows = reader.tx.fetch_all(reader.sql.history_after, (document, place))
    found = (read_stored_op(row) for row in rows if row[8] is None)
    return [
        one
        for one in found
        if (one.dot.branch, one.dot.seq) not in without and not reader.branches.is_excluded(one.dot.branch, one.dot.seq)
    ]


def _place_of(one: StoredOp) -> int:
    return one.dot.place

"""Conflicts: the documents that wait for somebody's decision.

Implements docs/spec/database-history.md, section "Conflicts". Two things are conflicts: what a document shows that
contradicts itself (``sync.view``), and a condition that a writer had signed and that did not hold any more elsewhere.
The first lasts until it is decided. The second is settled by the next write to the document that has seen both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ledger.storage.rows import checked
from ledger.values import Reference
from sync.storage.reader import DocumentState, Reader
from sync.transaction import DocumentId
from sync.vector import sees
from sync.view import Conflict

__all__ = ["Contest", "OpenConflicts", "open_conflicts"]


@dataclass(frozen=True, slots=True)
class Contest:
    """A write whose condition did not hold everywhere, and one to the same document that it had not seen."""

    guarded: Reference
    other: Reference


@dataclass(frozen=True, slots=True)
class OpenConflicts:
    """A document with what is to be decided about it."""

    state: DocumentState
    conflicts: tuple[Conflict, ...]
    """What it shows that contradicts itself."""
    contests: tuple[Contest, ...]
    """Which conditions were broken, and nobody has written since who knew that."""

    @property
    def name(self) -> DocumentId:
        """The document."""
        return self.state.name


def open_conflicts(reader: Reader, collection: str | None = None) -> Iterator[OpenConflicts]:
    """The documents with conflicts that nobody has decided, of one collection or all, by collection and key."""
    numbers = {row[0] for row in reader.tx.fetch_all(reader.sql.conflicting, (reader.number,))}
    contested = {row[0] for row in reader.tx.fetch_all(reader.sql.contested, (reader.number,))}
    names = {}
    for number in numbers | contested:
        name = DocumentId(*checked(reader.tx.fetch_one(reader.sql.document_by_id, (number,))[:2], str, str))
        if collection in (None, name.collection):
            names[name] = number
    for name, number in sorted(names.items()):
        state = reader.document(name)
        contests = tuple(_open_contests(reader, number)) if number in contested else ()
        if state is not None and not state.view.purged and (state.view.conflicts or contests):
            yield OpenConflicts(state, state.view.conflicts, contests)


@dataclass(frozen=True, slots=True)
class _Writer:
    """An entry that counts."""

    place: int
    branch: int
    seq: int


def _open_contests(reader: Reader, document: int) -> Iterator[Contest]:
    later: list[_Writer] | None = None
    for row in reader.tx.fetch_all(reader.sql.contests, (document,)):
        guarded, other = (_writer(reader, place) for place in checked(row[:2], int, int))
        if guarded is None or other is None:
            continue
        if later is None:
            later = _writers(reader, document)
        newer = max(guarded.place, other.place)
        if not any(_saw(reader, one, guarded) and _saw(reader, one, other) for one in later if one.place > newer):
            yield Contest(_reference(reader, guarded), _reference(reader, other))


def _writers(reader: Reader, document: int) -> list[_Writer]:
    """The entries that touch a document and count."""
    found = (
        _Writer(*checked(row, int, int, int)) for row in reader.tx.fetch_all(reader.sql.writers_after, (document, 0))
    )
    return [one for one in found if not reader.branches.is_excluded(one.branch, one.seq)]


def _writer(reader: Reader, place: int) -> _Writer | None:
    """The entry at a place; None when it does not count any more."""
    row = reader.tx.fetch_one(reader.sql.txn_at, (place,))
    one = _Writer(*checked(row[:3], int, int, int))
    return None if row[6] is not None or reader.branches.is_excluded(one.branch, one.seq) else one


def _saw(reader: Reader, one: _Writer, other: _Writer) -> bool:
    return sees(reader.branches.past_of(one.branch, one.seq), other.branch, other.seq)


def _reference(reader: Reader, one: _Writer) -> Reference:
    facts = reader.branches.facts(one.branch, one.seq)
    assert facts is not None
    return reader.branches.reference(facts)

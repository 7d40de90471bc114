"""Restoring documents to what they showed at a cut, as far as that fits into one transaction, or in several.

Implements docs/spec/database-history.md, section "Restore". What has to be written is found in the transaction that
writes it, so nothing that came in between is overwritten unseen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from identity.errors import LimitExceeded
from ledger.entry import encode_entry
from ledger.storage.rows import checked
from sync.difference import Shown, restoring
from sync.history import touched_between
from sync.schema import FieldType
from sync.storage.reader import Cut, Reader
from sync.storage.writing import Writing
from sync.transaction import MAX_OPS, DocumentId, Op, Path, Transaction, transaction_entry

__all__ = ["Restoration"]


@dataclass(frozen=True, slots=True)
class _Batch:
    """What one transaction restores."""

    ops: list[Op]
    documents: int
    left: list[DocumentId]
    rest: list[int]
    """The numbers of the documents that come after it."""
    start: int
    """The newest place when the first batch was made."""


@dataclass(slots=True)
class Restoration:
    """Documents on their way back to a cut: of the whole database, of a collection, or one.

    Collections whose names begin with ``$`` are restored only when they are named: schemas and legal holds stay.
    ``make`` is for ``Database.write``; when that has succeeded ``advance`` is called, until it is done.
    """

    cut: Cut
    collection: str | None = None
    key: str | None = None
    note: str = ""
    several: bool = False
    """It may take several transactions, each of which restores whole documents."""
    left: list[DocumentId] = field(default_factory=list)
    """Documents that somebody changed while it was under way: they were left as they are."""
    is_done: bool = False
    _parts: int = 0
    _last: _Batch | None = None
    _next: _Batch | None = None

    def make(self, writing: Writing) -> Transaction | None:
        """The next transaction; None when there is nothing to restore.

        Raises ``LimitExceeded`` when it does not fit into one, ``MalformedError`` when a schema requires what a
        document did not have.
        """
        reader = writing.reader()
        if self._last is None:
            numbers, start = touched_between(reader, reader.now(), self.cut), reader.newest_place()
        else:
            numbers, start = self._last.rest, self._last.start
        most = len(numbers)
        while True:
            batch = self._batch(writing, reader, numbers, start, most)
            self._next = batch
            if not batch.ops:
                return None
            writing.check_required(batch.ops)
            note = self.note if not self._parts else f"{self.note}, part {self._parts + 1}".removeprefix(", ")
            transaction = Transaction(writing.stamp(), tuple(batch.ops), (), note)
            try:
                encode_entry(transaction_entry(transaction))
            except LimitExceeded as exc:
                most = batch.documents // 2
                if not most or not self.several:
                    raise _too_much() from exc
            else:
                return transaction

    def advance(self) -> None:
        """Go on to the next transaction: what was made last is written."""
        assert self._next is not None
        self._last = self._next
        self._parts += 1
        self.left += self._last.left
        self.is_done = not self._last.rest

    def _batch(self, writing: Writing, reader: Reader, numbers: Sequence[int], start: int, most: int) -> _Batch:
        ops: list[Op] = []
        left: list[DocumentId] = []
        documents = 0
        for at, (name, place, exact_from) in enumerate(_documents(reader, numbers)):
            if not self._is_meant(name) or writing.view(name).purged:
                continue
            if self._last is not None and place > start:
                left.append(name)
                continue
            then = reader.state_at(numbers[at], name, self.cut, exact_from)
            now = Shown(name, writing.view(name), writing.dots(name))
            more = restoring(now, None if then is None else then.view, writing.dot_name, _DecimalsOf(writing, name))
            if len(ops) + len(more) > MAX_OPS or documents == most:
                if not ops or not self.several:
                    raise _too_much()
                return _Batch(ops, documents, left, list(numbers[at:]), start)
            ops += more
            documents += bool(more)
        return _Batch(ops, documents, left, [], start)

    def _is_meant(self, name: DocumentId) -> bool:
        if self.collection is None:
            return not name.collection.startswith("$")
        return name.collection == self.collection and self.key in (None, name.key)


def _documents(reader: Reader, numbers: Sequence[int]) -> Iterator[tuple[DocumentId, int, int]]:
    """Name, newest place, and from which place on the recorded deaths are exact."""
    for number in numbers:
        row = reader.tx.fetch_one(reader.sql.document_by_id, (number,))
        collection, key, place, _, exact_from = checked(row, str, str, int, str, int)
        yield DocumentId(collection, key), place, exact_from


@dataclass(frozen=True, slots=True)
class _DecimalsOf:
    """Whether the schema of a document has a decimal at a path, and no integer."""

    writing: Writing
    name: DocumentId

    def __call__(self, path: Path) -> bool:
        schema = self.writing.schema(self.name.collection)
        found = None if schema is None else schema.property_at(path)
        return found is not None and FieldType.DECIMAL in found.types and FieldType.INTEGER not in found.types


def _too_much() -> LimitExceeded:
    return LimitExceeded(
        "what has to be written does not fit into one transaction",
        hint="restore one collection or document at a time, or allow several transactions",
    )

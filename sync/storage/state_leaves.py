"""The leaves of state roots: kept with the documents they are made of, and made anew for those that have changed.

Implements docs/spec/state-root.md for a store. A leaf that was made when its document was last changed is still good,
so a state root costs one pass over leaves, and one over what is new.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from ledger.storage.rows import checked
from ledger.storage.sql import SqlStore
from sync.stateroot import Leaf, leaf_of
from sync.storage.queries import queries_for
from sync.storage.reader import Cut, DocumentState, Reader
from sync.transaction import DocumentId
from sync.vector import Vector
from sync.view import ABSENT_ETAG

__all__ = ["leaves_at", "leaves_now", "refresh_leaves"]

_ROWS_A_TIME: Final = 2048


class _Row(NamedTuple):
    """A document, and the leaf that was kept for it; ``made_at`` None: there is none."""

    number: int
    name: DocumentId
    place: int
    etag: str
    exact_from: int
    made_at: int | None
    version: bytes
    content: bytes


def leaves_now(reader: Reader) -> Iterator[Leaf]:
    """The leaves of everything that is here, in the order of a state root."""
    for row in _rows(reader):
        leaf = _current(reader, row)
        if leaf is not None:
            yield leaf


def leaves_at(reader: Reader, cut: Cut) -> Iterator[Leaf]:
    """The leaves of the state at a cut, in that order."""
    for row in _rows(reader):
        if cut.place is not None and row.place <= cut.place:
            leaf = _current(reader, row)
        else:
            state = reader.state_at(row.number, row.name, cut, row.exact_from)
            leaf = None if state is None else _leaf_of(reader, state, cut.vector)
        if leaf is not None:
            yield leaf


def refresh_leaves(store: SqlStore, number: int, uid: bytes) -> None:
    """Make the leaves of documents that have changed, a few at a time: others may write in between."""
    after = DocumentId("", "")
    while True:
        with store.write() as tx:
            reader = Reader(tx, queries_for(store.dialect), number, uid)
            rows = _page(reader, after)
            stale = [row for row in rows if row.etag != ABSENT_ETAG and row.made_at != row.place]
            leaves = [(row, leaf) for row in stale if (leaf := _current(reader, row)) is not None]
            tx.update_many(
                reader.sql.put_leaf, [(row.number, row.place, leaf.version, leaf.content) for row, leaf in leaves]
            )
        if len(rows) < _ROWS_A_TIME:
            return
        after = rows[-1].name


def _rows(reader: Reader) -> Iterator[_Row]:
    rows = _page(reader, DocumentId("", ""))
    while rows:
        yield from rows
        rows = _page(reader, rows[-1].name) if len(rows) == _ROWS_A_TIME else []


def _page(reader: Reader, after: DocumentId) -> list[_Row]:
    found = reader.tx.fetch_all(reader.sql.leaves_behind, (reader.number, *after, _ROWS_A_TIME))
    return [_read_row(row) for row in found]


def _read_row(row: Any) -> _Row:
    number, collection, key, place, etag, exact_from = checked(row[:6], int, str, str, int, str, int)
    name = DocumentId(collection, key)
    if row[6] is None:
        return _Row(number, name, place, etag, exact_from, None, b"", b"")
    return _Row(number, name, place, etag, exact_from, *checked(row[6:], int, bytes, bytes))


def _current(reader: Reader, row: _Row) -> Leaf | None:
    """The leaf of a document as it is; None when nothing is live in it."""
    if row.etag == ABSENT_ETAG:
        return None
    if row.made_at == row.place:
        return Leaf(row.name, row.version, row.content)
    state = reader.document(row.name)
    return None if state is None else _leaf_of(reader, state, reader.branches.clock())


def _leaf_of(reader: Reader, state: DocumentState, vector: Vector) -> Leaf:
    version = reader.version_within(vector, state.name, state.dots, state.counters)
    return leaf_of(state.name, version, state.view)

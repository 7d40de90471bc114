"""Scans: the documents of a collection in the order of their keys, a page at a time or all of them.

Implements docs/spec/query.md, section "Scans". Keys are compared byte by byte, on every engine. A page begins behind
the last key of the one before it, so what was written in between neither repeats nor hides another document. The same
can be asked of any cut: then each document is decided as it was there, and which of them existed follows from that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final, NamedTuple

from identity.errors import MalformedError
from ledger.storage.rows import checked
from sync.cells import LiveDot
from sync.query import decode_cursor, encode_cursor, text_after
from sync.storage.documents import read_counter, read_dot
from sync.storage.queries import MANY
from sync.storage.reader import Cut, DocumentState, Reader
from sync.transaction import DocumentId
from sync.view import CounterPart

__all__ = ["MAX_PAGE", "Listed", "Page", "check_limit", "iterate", "numbered", "padded", "read_states", "scan"]

MAX_PAGE: Final = 10_000
"""Documents of one page."""

_BATCH: Final = 512

_SHOWN, _HIDDEN = 1, 2


@dataclass(frozen=True, slots=True)
class Page:
    """Some documents, and where the next ones begin: None when there are no more."""

    documents: tuple[DocumentState, ...]
    cursor: str | None


class Listed(NamedTuple):
    """The row of a document."""

    number: int
    key: str
    etag: str
    exact_from: int


def scan(
    reader: Reader,
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
    """One page of a collection's documents, by key: those with ``prefix``, from ``start`` on and before ``end``.

    ``after`` is the cursor of the page before. With ``deleted`` it is those that are deleted instead of those that a
    reader finds: the trash. ``at`` lists them as they were at a cut. Raises ``MalformedError`` for a cursor that is
    none, and for a limit that is not 1 to ``MAX_PAGE``.
    """
    check_limit(limit)
    last = None if after is None else decode_cursor(after, str)[0]
    bounds = _Bounds.of(prefix, start, end, last)
    found = [state for _, state in islice(_states(reader, collection, bounds, at, limit + 1, deleted), limit + 1)]
    more = len(found) > limit
    return Page(tuple(found[:limit]), encode_cursor(found[limit - 1].name.key) if more else None)


def check_limit(limit: int) -> None:
    """Return only when a page can have so many documents. Raises ``MalformedError``."""
    if not 1 <= limit <= MAX_PAGE:
        raise MalformedError(f"a page has 1 to {MAX_PAGE} documents, not {limit}")


def iterate(
    reader: Reader,
    collection: str,
    *,
    prefix: str | None = None,
    start: str | None = None,
    end: str | None = None,
    deleted: bool = False,
    at: Cut | None = None,
) -> Iterator[DocumentState]:
    """All documents that ``scan`` would list, one after the other, in memory that does not grow with their number."""
    bounds = _Bounds.of(prefix, start, end, None)
    return (state for _, state in _states(reader, collection, bounds, at, _BATCH, deleted))


def numbered(reader: Reader, collection: str) -> Iterator[tuple[int, DocumentState]]:
    """The documents of a collection that a reader finds, with their numbers in this store, by key.

    Rows of documents that were given already may be changed while it runs.
    """
    return _states(reader, collection, _Bounds.of(None, None, None, None), None, _BATCH, deleted=False)


class _Bounds(NamedTuple):
    """``low`` up to ``high``, which is not included; ``low`` neither when it is ``open``."""

    low: str
    high: str | None
    open: bool

    @classmethod
    def of(cls, prefix: str | None, start: str | None, end: str | None, last: str | None) -> _Bounds:
        low = max(prefix or "", start or "")
        highs = [high for high in (text_after(prefix) if prefix else None, end) if high is not None]
        is_open = last is not None and last >= low
        return cls(last if last is not None and is_open else low, min(highs, default=None), is_open)


def _states(
    reader: Reader, collection: str, bounds: _Bounds, at: Cut | None, batch: int, deleted: bool
) -> Iterator[tuple[int, DocumentState]]:
    """The documents within the bounds, ``batch`` rows of them at a time."""
    batch = min(batch, _BATCH)
    while True:
        rows = _rows(reader, collection, bounds, batch, None if at is not None else _HIDDEN if deleted else _SHOWN)
        for row, state in zip(rows, read_states(reader, collection, rows, at), strict=True):
            if state is not None and (state.view.deleted if deleted else state.view.exists):
                yield row.number, state
        if len(rows) < batch:
            return
        bounds = _Bounds(rows[-1].key, bounds.high, True)


def _rows(reader: Reader, collection: str, bounds: _Bounds, limit: int, shown: int | None) -> list[Listed]:
    mark = reader.sql.mark
    where = f"key {'>' if bounds.open else '>='} {mark}"
    parameters: list[object] = [reader.number, collection, bounds.low]
    if bounds.high is not None:
        where += f" AND key < {mark}"
        parameters.append(bounds.high)
    if shown is not None:
        where += f" AND shown = {shown}"
    sql = f"""SELECT id, key, etag, exact_from FROM database_document
        WHERE database = {mark} AND collection = {mark} AND {where} ORDER BY key LIMIT {mark}"""  # noqa: S608  (marks)
    return [Listed(*checked(row, int, str, str, int)) for row in reader.tx.fetch_all(sql, (*parameters, limit))]


# --- reading many documents at once ---------------------------------------------------------------------------------


def read_states(
    reader: Reader, collection: str, rows: Sequence[Listed], at: Cut | None = None
) -> list[DocumentState | None]:
    """The documents of these rows, in their order, now or at a cut; None where nothing was live then."""
    states: list[DocumentState | None] = []
    for first in range(0, len(rows), MANY):
        some = rows[first : first + MANY]
        states += _read_now(reader, collection, some) if at is None else _read_at(reader, collection, some, at)
    return states


def _read_now(reader: Reader, collection: str, rows: Sequence[Listed]) -> list[DocumentState | None]:
    numbers = padded(row.number for row in rows)
    dots: defaultdict[int, list[LiveDot]] = defaultdict(list)
    counters: defaultdict[int, list[CounterPart]] = defaultdict(list)
    for found in reader.tx.fetch_all(reader.sql.live_of_many, numbers):
        dots[found[7]].append(read_dot(found))
    for found in reader.tx.fetch_all(reader.sql.counters_of_many, numbers):
        counters[found[7]].append(read_counter(found[:7]))
    states: list[DocumentState | None] = []
    for row in rows:
        name, live, parts = DocumentId(collection, row.key), tuple(dots[row.number]), tuple(counters[row.number])
        look = partial(reader.view, live, parts)
        states.append(DocumentState(name, row.etag, look, live, parts))
    return states


def _read_at(reader: Reader, collection: str, rows: Sequence[Listed], at: Cut) -> list[DocumentState | None]:
    """As ``Reader.state_at``: documents of which the rows say what was live at the cut's place are read together."""
    exact = [row.number for row in rows if at.place is not None and at.place >= row.exact_from]
    live: dict[int, list[LiveDot]] = {number: [] for number in exact}
    if exact:
        for found in reader.tx.fetch_all(reader.sql.live_of_many_at, (*padded(exact), at.place, at.place)):
            live[found[7]].append(read_dot(found))
    states = []
    for row in rows:
        name = DocumentId(collection, row.key)
        if row.number in live:
            states.append(reader.state_of(name, live[row.number], at))
        else:
            states.append(reader.state_at(row.number, name, at, row.exact_from))
    return states


def padded(numbers: Iterable[int]) -> list[int]:
    """Documents as a statement for ``MANY`` of them takes them: at least one, at most so many."""
    found = list(numbers)
    return found + found[:1] * (MANY - len(found))

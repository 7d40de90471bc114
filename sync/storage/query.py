"""Queries over a store: what fits a filter, in the order of a field or of the keys, a page at a time.

Implements docs/spec/query.md. An index over a field (``sync.storage.fieldindex``) finds candidates; whether a document
fits is always decided over the values that it shows, so a key that holds only the beginning of its value, or an index
that knows too little, can cost time and never a wrong answer. Each alternative of a filter is read by a statement of
its own, in the order that is asked for, and the rows are merged.

PostgreSQL knows how many rows a condition leaves and plans by that. SQLite has no such knowledge of a store: it takes
the collection's keys to be few, so it is told which index to use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from typing import Final, NamedTuple

from identity.encoding import Value
from identity.errors import MalformedError, RefusedError
from ledger.storage.rows import checked
from sync.indexkey import index_key, index_prefix
from sync.query import (
    KEY,
    Comparison,
    Conjunction,
    Filter,
    Operator,
    Query,
    bind,
    decode_cursor,
    encode_cursor,
    matcher,
    project,
    query_digest,
    text_after,
)
from sync.sortkey import is_cut
from sync.storage.fieldindex import condition_of, index_name, indexes_of, key_expression
from sync.storage.reader import Cut, DocumentState, Reader
from sync.storage.scan import Listed, check_limit, iterate, read_states
from sync.transaction import DocumentId, Path, path_text

__all__ = ["Found", "QueryPage", "explain", "run_query"]

_BATCH: Final = 256
"""Candidates that are read at a time, of each alternative."""


@dataclass(frozen=True, slots=True)
class Found:
    """A document that fits. ``fields`` is what was selected of it, ``state`` all of it."""

    name: DocumentId
    etag: str
    fields: Mapping[str, Value]
    state: DocumentState


@dataclass(frozen=True, slots=True)
class QueryPage:
    """Some of what fits, and where the rest begins: None when there is no more."""

    documents: tuple[Found, ...]
    cursor: str | None


def run_query(
    reader: Reader, query: Query, *, limit: int = 100, after: str | None = None, at: Cut | None = None
) -> QueryPage:
    """One page of the documents that a query asks for. ``after`` is the cursor of the page before.

    A document that is changed between two pages so that it comes to stand elsewhere in the order can be met twice, or
    not at all; every other one is met once. At a cut every document of the collection is looked at, in the order of the
    keys. Raises ``RefusedError`` for what no index answers, unless the query allows a scan, and ``MalformedError`` for
    a cursor of another query, a limit that is not 1 to ``sync.storage.scan.MAX_PAGE``, and as ``sync.query.bind`` does.
    """
    check_limit(limit)
    planned = _plan(reader, query, at)
    last = None if after is None else _read_cursor(query, after)
    fitting = _fitting(reader, planned, last, limit + 1) if at is None else _fitting_at(reader, planned, last, at)
    rows = list(islice(fitting, limit + 1))
    found = tuple(_found(query, state) for _, state in rows[:limit])
    cursor = None
    if len(rows) > limit:
        place, _ = rows[limit - 1]
        cursor = encode_cursor(query_digest(query), place.sort, place.key)
    return QueryPage(found, cursor)


def explain(reader: Reader, query: Query) -> list[str]:
    """How the engine goes about the first page, in its own words: a line for each step of each statement."""
    planned = _plan(reader, query, None)
    word = "EXPLAIN QUERY PLAN" if _is_sqlite(reader) else "EXPLAIN"
    lines: list[str] = []
    for conjunction in planned.where.alternatives:
        sql, parameters = _Statement(reader, planned, conjunction).text(("", ()))
        rows = reader.tx.fetch_all(f"{word} {sql}", (*parameters, _BATCH))
        lines += [str(row[-1]) for row in rows]
    return lines


class _Place(NamedTuple):
    """Where a document stands in the order: its key of the field that is ordered by, empty by keys, and its own key."""

    sort: str
    key: str


@dataclass(frozen=True, slots=True)
class _Planned:
    """A query with its filter bound to the schema, and the fields over which there are indexes."""

    query: Query
    where: Filter
    indexed: frozenset[str]


def _found(query: Query, state: DocumentState) -> Found:
    fields = project(state.view.fields, query.select) if query.select else state.view.fields
    return Found(state.name, state.etag, fields, state)


def _is_sqlite(reader: Reader) -> bool:
    return reader.sql.mark == "?"


# --- what can be asked ----------------------------------------------------------------------------------------------


def _plan(reader: Reader, query: Query, at: Cut | None) -> _Planned:
    schema = reader.schema(query.collection, at)
    where = bind(query.where, schema)
    declared = () if schema is None or at is not None else schema.indexed
    indexed = indexes_of(reader, query.collection, declared)
    if query.order != KEY and not _is_indexed(query.order, indexed):
        _refuse(query.collection, query.order, at, "ordered by", scan=True)
    if at is not None and query.descending:
        raise RefusedError(f"{query.collection}: what was at a cut is listed in ascending order only")
    for conjunction in where.alternatives:
        for comparison in conjunction:
            if comparison.path != KEY and not _is_indexed(comparison.path, indexed) and not query.scan:
                _refuse(query.collection, comparison.path, at, "compared", scan=False)
    return _Planned(query, where, indexed)


def _is_indexed(path: Path, indexed: frozenset[str]) -> bool:
    return len(path) == 1 and path[0] in indexed


def _refuse(collection: str, path: Path, at: Cut | None, done: str, *, scan: bool) -> None:
    if at is not None:
        reason, way = "the indexes say only what is now", "order by the documents' keys" if scan else "allow a scan"
    else:
        reason, way = "there is no index over it", "let the schema say that it is indexed"
        way += "" if scan else ", or allow a scan"
    raise RefusedError(f"{collection}: {path_text(path)} can't be {done}: {reason}", hint=way)


def _read_cursor(query: Query, cursor: str) -> _Place:
    digest, sort, key = decode_cursor(cursor, bytes, str, str)
    if digest != query_digest(query):
        raise MalformedError("cursor: of another query")
    return _Place(sort, key)


# --- finding --------------------------------------------------------------------------------------------------------

_Fitting = Iterator[tuple[_Place, DocumentState]]


def _fitting(reader: Reader, planned: _Planned, last: _Place | None, wanted: int) -> _Fitting:
    """The documents that fit behind a place, in order. ``wanted`` is how many are probably taken."""
    fits = matcher(planned.where)
    collection = planned.query.collection
    candidates = _candidates(reader, planned, last)
    size = min(wanted, _BATCH)
    while batch := list(islice(candidates, size)):
        states = read_states(reader, collection, [row for _, row in batch])
        for (place, row), state in zip(batch, states, strict=True):
            assert state is not None
            if fits(row.key, state.view.fields):
                yield place, state
        size = min(4 * size, _BATCH)


def _fitting_at(reader: Reader, planned: _Planned, last: _Place | None, at: Cut) -> _Fitting:
    """The same at a cut, where only the keys are in order."""
    fits = matcher(planned.where)
    for state in iterate(reader, planned.query.collection, start=None if last is None else last.key, at=at):
        key = state.name.key
        if (last is None or key > last.key) and fits(key, state.view.fields):
            yield _Place("", key), state


def _candidates(reader: Reader, planned: _Planned, last: _Place | None) -> Iterator[tuple[_Place, Listed]]:
    """The rows that can fit, each once."""
    statements = [_Statement(reader, planned, conjunction) for conjunction in planned.where.alternatives]
    before: _Place | None = None
    descending = planned.query.descending
    for place, row in merge(*(one.rows(last) for one in statements), key=lambda one: one[0], reverse=descending):
        if place != before:
            yield place, row
        before = place


class _Statement:
    """One alternative of a filter as SQL."""

    def __init__(self, reader: Reader, planned: _Planned, conjunction: Conjunction) -> None:
        query, queries = planned.query, reader.sql
        self._reader = reader
        self._query = query
        self._sort = "''" if query.order == KEY else key_expression(query.order[0], queries)
        self._where = [condition_of(reader.number, query.collection, queries)]
        self._parameters: list[str] = []
        known = [one for one in conjunction if one.path == KEY or _is_indexed(one.path, planned.indexed)]
        for comparison in known:
            sql, texts = _condition(comparison, reader)
            self._where.append(sql)
            self._parameters += texts
        field = _index_to_use(known, query.order) if _is_sqlite(reader) else None
        self._told = "" if field is None else f"INDEXED BY {index_name(reader.uid, query.collection, field)}"

    def rows(self, last: _Place | None) -> Iterator[tuple[_Place, Listed]]:
        """The rows behind a place, in order."""
        behind = self._behind(last)
        while behind:
            sql, parameters = self.text(behind[0])
            rows = self._reader.tx.fetch_all(sql, (*parameters, _BATCH))
            for row in rows:
                number, key, etag, exact_from, sort = checked(row, int, str, str, int, str)
                last = _Place(sort, key)
                yield last, Listed(number, key, etag, exact_from)
            behind = self._behind(last) if len(rows) == _BATCH else behind[1:]

    def _behind(self, last: _Place | None) -> list[_Condition]:
        """What holds of the rows behind a place: one condition after the other, so that an index leads to each."""
        if last is None:
            return [("", ())]
        mark, than = self._reader.sql.mark, "<" if self._query.descending else ">"
        if self._query.order == KEY:
            return [(f"key {than} {mark}", (last.key,))]
        return [
            (f"{self._sort} = {mark} AND key {than} {mark}", (last.sort, last.key)),
            (f"{self._sort} {than} {mark}", (last.sort,)),
        ]

    def text(self, behind: _Condition) -> tuple[str, list[str]]:
        """The statement, and its parameters without the limit, which is the last one."""
        way = " DESC" if self._query.descending else ""
        order = f"key{way}" if self._query.order == KEY else f"{self._sort}{way}, key{way}"
        where = " AND ".join(filter(None, [*self._where, behind[0]]))
        sql = f"""SELECT id, key, etag, exact_from, {self._sort} FROM database_document {self._told}
            WHERE {where} ORDER BY {order} LIMIT {self._reader.sql.mark}"""  # noqa: S608  (quoted by fieldindex)
        return sql, [*self._parameters, *behind[1]]


_Condition = tuple[str, Sequence[str]]
"""SQL and its parameters."""


def _index_to_use(known: Sequence[Comparison], order: Path) -> str | None:
    """The field whose index SQLite is to read; None when that of the keys is best."""
    for operators in ({Operator.EQUAL}, {Operator.IN, Operator.PREFIX}):
        for comparison in known:
            if comparison.operator in operators:
                return None if comparison.path == KEY and order == KEY else _field_of(comparison.path, order)
    if order != KEY:
        return order[0]
    ranges = (one.path[0] for one in known if one.path != KEY and one.operator in _BOUNDED)
    return next(ranges, None)


def _field_of(path: Path, order: Path) -> str:
    return order[0] if path == KEY else path[0]


_BOUNDED: Final = frozenset({Operator.LESS, Operator.AT_MOST, Operator.MORE, Operator.AT_LEAST, Operator.ABSENT})


def _condition(comparison: Comparison, reader: Reader) -> _Condition:
    """What holds of the rows of all documents that fit, and where a key is cut of others too."""
    mark = reader.sql.mark
    if comparison.path == KEY:
        return _key_condition(comparison, mark)
    expression = key_expression(comparison.path[0], reader.sql)
    keys = [index_key(value) for value in comparison.values]
    match comparison.operator:
        case Operator.EXISTS:
            return f"{expression} <> ''", ()
        case Operator.ABSENT:
            return f"{expression} = ''", ()
        case Operator.EQUAL:
            return f"{expression} = {mark}", keys
        case Operator.IN:
            return f"{expression} IN ({', '.join([mark] * len(keys))})", keys
        case Operator.UNEQUAL if is_cut(keys[0]):
            return f"{expression} <> ''", ()
        case Operator.UNEQUAL:
            return f"{expression} <> '' AND {expression} <> {mark}", keys
        case Operator.PREFIX:
            return f"{expression} >= {mark} AND {expression} < {mark}", index_prefix(str(comparison.values[0]))
    return _range_condition(comparison.operator, expression, keys[0], mark)


def _range_condition(operator: Operator, expression: str, key: str, mark: str) -> _Condition:
    """Keys of the same kind of value, which their first character says, on one side of ``key``."""
    including = operator in (Operator.AT_MOST, Operator.AT_LEAST) or is_cut(key)
    than = "=" if including else ""
    if operator in (Operator.LESS, Operator.AT_MOST):
        return f"{expression} >= {mark} AND {expression} <{than} {mark}", (key[0], key)
    return f"{expression} >{than} {mark} AND {expression} < {mark}", (key, chr(ord(key[0]) + 1))


def _key_condition(comparison: Comparison, mark: str) -> _Condition:
    texts = [str(value) for value in comparison.values]
    match comparison.operator:
        case Operator.IN:
            return f"key IN ({', '.join([mark] * len(texts))})", texts
        case Operator.UNEQUAL:
            return f"key <> {mark}", texts
        case Operator.PREFIX:
            high = text_after(texts[0])
            return (f"key >= {mark}", texts) if high is None else (f"key >= {mark} AND key < {mark}", (*texts, high))
    return f"key {comparison.operator.value} {mark}", texts

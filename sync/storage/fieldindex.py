"""Indexes over fields: SQL indexes over what ``sync.indexkey`` keeps of a document, one for each field that is indexed.

Implements docs/spec/query.md, section "Indexes". A schema that declares a field as indexed makes one, and one that does
not any more drops it, in the transaction in which the schema comes into force: with it the kept keys of all documents
of the collection are made anew. So an index that is there is whole, and its name says by which rules it was made: an
index of other rules has another name, and is replaced by the next who writes.

Collections have any names, and SQL has no parameters in the definition of an index: they are quoted here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import islice
from typing import Any, Final

from identity.encoding import encode
from identity.errors import MalformedError
from identity.textforms import to_zbase32
from ledger.storage.rows import checked
from sync.indexkey import index_line, index_text
from sync.storage.queries import Queries
from sync.storage.reader import Reader
from sync.storage.scan import numbered

__all__ = [
    "MAX_INDEXES",
    "condition_of",
    "drop_indexes",
    "follow_schema",
    "index_name",
    "indexes_of",
    "key_expression",
    "quoted",
]

MAX_INDEXES: Final = 1024
"""Indexes over fields of one database."""

_PREFIX: Final = "ix_field_"
_RULES: Final = 1
"""Of keys and expressions. Another number makes every index anew."""

_BATCH: Final = 500

_NAMES: Final = {
    "?": "SELECT name FROM sqlite_master WHERE type = 'index' AND substr(name, 1, ?) = ?",
    "%s": (
        "SELECT indexname::text FROM pg_indexes WHERE schemaname = current_schema()"
        " AND left(indexname::text, %s::int) = %s"
    ),
}
"""The names of indexes that begin so, by the engine's mark of parameters. Takes the prefix's length, and the prefix."""


# --- SQL ------------------------------------------------------------------------------------------------------------


def quoted(text: str, queries: Queries) -> str:
    """The text as a literal of the engine, in a statement that also has parameters.

    Raises ``MalformedError`` for text that no engine stores: with a NUL or a lone surrogate.
    """
    if "\0" in text or not _is_text(text):
        raise MalformedError("SQL: a text with a NUL or a lone surrogate")
    literal = text.replace("'", "''")
    if queries.mark == "?":
        return f"'{literal}'"
    # E'' means the same whatever the server's standard_conforming_strings says; psycopg reads a single % as its mark.
    return "E'" + literal.replace("\\", "\\\\").replace("%", "%%") + "'"


def _is_text(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def key_expression(field: str, queries: Queries) -> str:
    """The index key of a field: what ``sync.indexkey.read_index_key`` says, in the engine's words.

    The same text stands in the index and in the query: by that the engine knows that they belong together. SQLite's
    functions of JSON can't be in an index where ``trusted_schema`` is off, so neither engine uses its own.
    """
    line = index_line(field)
    if queries.mark == "?":
        found = f"instr(sort_keys, '{line}')"
        rest = f"substr(sort_keys, {found} + {len(line)})"
        return f"coalesce(CASE WHEN {found} = 0 THEN '' ELSE substr({rest}, 1, instr({rest}, '\n') - 1) END, '')"
    return f"coalesce(split_part(split_part(sort_keys, '{line}', 2), '\n', 1), '') COLLATE \"C\""


def condition_of(number: int, collection: str, queries: Queries) -> str:
    """What holds of the rows in a collection's indexes, and has to stand in a query so that it can use one."""
    return f"database = {number} AND collection = {quoted(collection, queries)} AND shown = 1"


def index_name(uid: bytes, collection: str, field: str) -> str:
    """The name of the index over a field: made of hashes, so that no name is too long or holds anything strange."""
    return _prefix(uid, collection) + to_zbase32(sha256(encode([_RULES, field])).digest()[:12])


def _prefix(uid: bytes, collection: str | None = None) -> str:
    """How the names of all indexes of a database begin, or of one of its collections."""
    prefix = f"{_PREFIX}{to_zbase32(sha256(uid).digest()[:6])}_"
    return prefix if collection is None else f"{prefix}{to_zbase32(sha256(encode(collection)).digest()[:12])}_"


# --- what there is --------------------------------------------------------------------------------------------------


def indexes_of(reader: Reader, collection: str, fields: Sequence[str]) -> frozenset[str]:
    """Those of the fields over which there is an index that is whole, and of these rules."""
    held = _held(reader.tx, reader.sql, _prefix(reader.uid, collection))
    return frozenset(field for field in fields if index_name(reader.uid, collection, field) in held)


def _held(tx: Any, queries: Queries, prefix: str) -> set[str]:
    return {checked(row, str)[0] for row in tx.fetch_all(_NAMES[queries.mark], (len(prefix), prefix))}


# --- following a schema ---------------------------------------------------------------------------------------------


def follow_schema(
    tx: Any,
    queries: Queries,
    number: int,
    uid: bytes,
    collection: str,
    fields: Sequence[str],
    *,
    has_changed: bool = True,
) -> bool:
    """Let a collection have indexes over just these fields, and keys for them. Returns whether anything had to be done.

    ``tx`` is a write transaction of the store, in which everything so far was written. Where the database has
    ``MAX_INDEXES`` already, fields go without: anybody who may write can declare thousands of them, and an engine reads
    the definitions of all whenever it opens the store. A schema that has not changed, and lacks only what there is no
    room for, is left alone: else whoever opens the store would make the keys of all its documents anew.
    """
    wanted = {index_name(uid, collection, field): field for field in fields}
    held = _held(tx, queries, _prefix(uid, collection))
    if held == set(wanted):
        return False
    if not has_changed and held < set(wanted) and not _room(tx, queries, uid):
        return False
    for name in sorted(held - set(wanted)):
        tx.execute(f"DROP INDEX {name}", ())
    if queries.mark != "?":
        tx.execute("SET LOCAL statement_timeout = 0", ())  # what follows takes as long as the collection is large
    for rows in _batches(_keys(Reader(tx, queries, number, uid), collection, fields)):
        tx.update_many(queries.put_sort_keys, rows)
    where = condition_of(number, collection, queries)
    for name in sorted(set(wanted) - held)[: _room(tx, queries, uid)]:
        expression = key_expression(wanted[name], queries)
        tx.execute(f"CREATE INDEX {name} ON database_document (({expression}), key) WHERE {where}", ())
    return True


def _room(tx: Any, queries: Queries, uid: bytes) -> int:
    return max(MAX_INDEXES - len(_held(tx, queries, _prefix(uid))), 0)


def _keys(reader: Reader, collection: str, fields: Sequence[str]) -> Iterator[tuple[str | None, int]]:
    """What is to be kept for each document that a reader finds, and its number."""
    for number, state in numbered(reader, collection):
        yield index_text(state.view.fields, fields) if fields else None, number


def drop_indexes(tx: Any, queries: Queries, uid: bytes) -> None:
    """Let a database have no indexes over fields: its documents are about to be forgotten."""
    for name in sorted(_held(tx, queries, _prefix(uid))):
        tx.execute(f"DROP INDEX {name}", ())


def _batches(rows: Iterator[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    while batch := list(islice(rows, _BATCH)):
        yield batch

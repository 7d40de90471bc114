"""How rows travel to PostgreSQL: an append in one statement, and COPY for what is long.

A round trip to the server costs an append of one block more than all else in it but the flush of the medium. So the
feed's move, its blocks, tree rows and head are one statement, prepared once, whose rows come as arrays; from some
thousand rows on COPY is faster. What the statements mean is ``ledger.storage.sql``'s matter.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import count
from typing import Any, Final

import psycopg
from psycopg import Connection
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.types.numeric import Int8BinaryDumper

from ledger.storage.connections import FeedRows
from ledger.storage.statements import Statements

__all__ = ["append_rows", "insert_many", "prepare_for_rows"]


def prepare_for_rows(driver: Connection[Any]) -> None:
    """Set up a new connection for the functions below."""
    # Without the first a number's size decides its type, and each combination of types is another prepared statement.
    driver.adapters.register_dumper(int, Int8BinaryDumper)
    driver.adapters.register_dumper(_Array, _ArrayDumper)
    driver.adapters.register_dumper(_Numbers, _NumbersDumper)


_COPY_FROM: Final = 2048
"""Blocks from which rows are sent by COPY. One statement with all rows in arrays was level with it or faster up to
1,000 blocks, COPY was faster at 4,000 (benchmarks/append.py); nothing between them was measured."""
_COPY_INSERTS_FROM: Final = 8
"""Rows from which COPY is faster than an INSERT for each, all sent at once."""
_COPY_BYTES: Final = 1 << 20
_COPY_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_TRAILER: Final = b"\xff\xff"

_APPEND: Final = """
    WITH moved AS ({move_feed} RETURNING id),
    blocks AS (INSERT INTO block (pos, data) SELECT added.* FROM moved, unnest(%s, %s) AS added),
    rows AS (INSERT INTO tree (pos, nodes) SELECT added.* FROM moved, unnest(%s, %s) AS added)
    INSERT INTO head (pos, tree_hash, signature) SELECT %s::BIGINT, %s, %s FROM moved
"""
"""All of an append in one round trip. A feed that stands elsewhere moves nowhere, and then nothing is added."""


class _Array:
    """``bytea[]``."""

    __slots__ = ("values",)

    def __init__(self, values: Sequence[bytes]) -> None:
        self.values = values


class _Numbers:
    """``int8[]``, so many in a row."""

    __slots__ = ("values",)

    def __init__(self, first: int, length: int) -> None:
        self.values = range(first, first + length)


_ARRAY_HEADER: Final = struct.Struct("!iiIii")
"""Dimensions, whether there are nulls, type of the elements, their number, the first one's index."""


class _ArrayDumper(Dumper):
    """The library's own takes five times as long."""

    format = Format.BINARY
    oid = psycopg.adapters.types["bytea"].array_oid

    def dump(self, obj: _Array) -> bytes:
        parts, pack = [_ARRAY_HEADER.pack(1, 0, psycopg.adapters.types["bytea"].oid, len(obj.values), 1)], _LENGTH.pack
        for value in obj.values:
            parts += (pack(len(value)), value)
        return b"".join(parts)


class _NumbersDumper(Dumper):
    format = Format.BINARY
    oid = psycopg.adapters.types["int8"].array_oid

    def dump(self, obj: _Numbers) -> bytes:
        header = _ARRAY_HEADER.pack(1, 0, psycopg.adapters.types["int8"].oid, len(obj.values), 1)
        pack = _NUMBER.pack
        return header + b"".join([pack(8, value) for value in obj.values])


_COUNT, _NUMBER, _LENGTH = (struct.Struct(form) for form in ("!h", "!iq", "!i"))


def append_rows(driver: Connection[Any], sql: Statements, rows: FeedRows) -> bool:
    """Move a feed and add its rows; False, with nothing written, when the feed stands elsewhere."""
    if len(rows.blocks) < _COPY_FROM:
        numbers = _Numbers(rows.first, len(rows.blocks))
        added = (numbers, _Array(rows.blocks), numbers, _Array(rows.tree_rows))
        return driver.execute(_append_statement(sql.move_feed), (*rows.move, *added, *rows.head)).rowcount == 1
    if driver.execute(sql.move_feed, rows.move).rowcount != 1:
        return False
    _copy(driver, sql.add_block, zip(count(rows.first), rows.blocks, strict=False))
    _copy(driver, sql.add_tree_row, zip(count(rows.first), rows.tree_rows, strict=False))
    driver.execute(sql.add_head, rows.head)
    return True


@lru_cache
def _append_statement(move_feed: str) -> str:
    return _APPEND.format(move_feed=move_feed)


def insert_many(driver: Connection[Any], sql: str, rows: Iterable[Sequence[Any]]) -> None:
    """Run an INSERT, with a parameter for each column, for each of ``rows``."""
    rows = list(rows)
    if len(rows) < _COPY_INSERTS_FROM:
        driver.cursor().executemany(sql, rows)
    elif all(type(value) is int or type(value) is bytes for row in rows for value in row):
        _copy(driver, sql, rows)
    else:
        _copy_text(driver, sql, rows)


def _copy(driver: Connection[Any], sql: str, rows: Iterable[Sequence[Any]]) -> None:
    with driver.cursor() as cursor, cursor.copy(_copy_statement(sql)) as copy:
        for chunk in _copy_chunks(rows):
            copy.write(chunk)


def _copy_text(driver: Connection[Any], sql: str, rows: Iterable[Sequence[Any]]) -> None:
    """The same for rows with texts and nulls; the server reads a number as its column has it."""
    with driver.cursor() as cursor, cursor.copy(_copy_statement(sql).removesuffix(_BINARY)) as copy:
        for row in rows:
            copy.write_row(row)


_BINARY: Final = " (FORMAT BINARY)"


@lru_cache
def _copy_statement(sql: str) -> str:
    """The COPY of the same table and columns as an INSERT with one parameter for each."""
    found = re.fullmatch(r"INSERT INTO (\w+ \([\w, ]+\)) VALUES \(%s(::\w+)?(, %s(::\w+)?)*\)", sql)
    if found is None:
        raise TypeError(f"not an INSERT of nothing but parameters: {sql}")
    return f"COPY {found[1]} FROM STDIN{_BINARY}"


def _copy_chunks(rows: Iterable[Sequence[Any]]) -> Iterator[bytes]:
    """The rows as COPY's binary format: a number is 64 bits, the rest are bytes."""
    pack_count, pack_number, pack_length = _COUNT.pack, _NUMBER.pack, _LENGTH.pack
    parts, size = [_COPY_HEADER], 0
    for row in rows:
        parts.append(pack_count(len(row)))
        for value in row:
            if type(value) is int:
                parts.append(pack_number(8, value))
            else:
                parts += (pack_length(len(value)), value)
                size += len(value)
        if size > _COPY_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
    yield b"".join([*parts, _COPY_TRAILER])

"""The tables of a holdfast store: one ``MetaData`` that every layer above registers its own tables on.

Implements docs/spec/storage.md. The tables themselves are made by the migrations, in literal DDL; a test compares the
two. Because all tables share one MetaData and one database, a block, its projection and its pending work can commit in
one transaction.

``pos`` is ``feed << 40 | n``: rows of one feed stand together, in order, under the table's integer primary key, so that
appending touches the right edge of each tree and a range is one scan.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, MetaData, Table, Text

__all__ = [
    "MAX_FEEDS",
    "MAX_LENGTH",
    "POSITION_BITS",
    "block",
    "checkpoint",
    "feed",
    "head",
    "identity_event",
    "lease",
    "log",
    "log_leaf",
    "metadata",
    "tree",
]

POSITION_BITS: Final = 40
MAX_LENGTH: Final = (1 << POSITION_BITS) - 1
"""Blocks in one feed: the length itself must fit into a ``pos`` too, because heads are keyed by it."""
MAX_FEEDS: Final = (1 << (63 - POSITION_BITS)) - 1

metadata: Final = MetaData()

_Row = BigInteger().with_variant(Integer(), "sqlite")
"""64 bits everywhere; spelt INTEGER on SQLite, where only that makes a column the row's own address."""

feed: Final = Table(
    "feed",
    metadata,
    Column("id", _Row, primary_key=True),
    Column("key", LargeBinary, nullable=False, unique=True),
    Column("manifest", LargeBinary, nullable=False),
    Column("local", Integer, nullable=False),
    Column("retired", Integer, nullable=False),
    Column("length", BigInteger, nullable=False),
    Column("byte_length", BigInteger, nullable=False),
    Column("roots", LargeBinary, nullable=False),
)

tree: Final = Table(
    "tree",
    metadata,
    Column("pos", _Row, primary_key=True),
    Column("nodes", LargeBinary, nullable=False),
)

block: Final = Table(
    "block",
    metadata,
    Column("pos", _Row, primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

head: Final = Table(
    "head",
    metadata,
    Column("pos", _Row, primary_key=True),
    Column("tree_hash", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
)

log: Final = Table(
    "log",
    metadata,
    Column("one", Integer, primary_key=True),
    Column("log_id", LargeBinary, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("frontier", LargeBinary, nullable=False),
)

log_leaf: Final = Table(
    "log_leaf",
    metadata,
    Column("idx", _Row, primary_key=True),
    Column("hashes", LargeBinary, nullable=False),
    Column("statement", LargeBinary, nullable=False),
)

checkpoint: Final = Table(
    "checkpoint",
    metadata,
    Column("size", _Row, primary_key=True),
    Column("root", LargeBinary, nullable=False),
    Column("note", Text, nullable=False),
)

identity_event: Final = Table(
    "identity_event",
    metadata,
    Column("id", _Row, primary_key=True),
    Column("identity", LargeBinary, nullable=False, index=True),
    Column("seq", BigInteger, nullable=False),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("signed_event", LargeBinary, nullable=False),
)

lease: Final = Table(
    "lease",
    metadata,
    Column("feed", LargeBinary, primary_key=True),
    Column("holder", LargeBinary, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("incarnation", Text, nullable=False),
)

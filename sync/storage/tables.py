"""The tables of databases, on the ``MetaData`` that all layers share.

Specified in docs/spec/database-storage.md; made by the migrations. Everything in them follows from entries in feeds and
can be made anew from those, so rows change here, and none of them is proof of anything.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from ledger.storage.schema import metadata

__all__ = ["DATABASE_TABLES"]

_Row = BigInteger().with_variant(Integer(), "sqlite")
"""A primary key that is SQLite's own number of the row: no index beside the table."""

_database: Final = Table(
    "database",
    metadata,
    Column("id", _Row, primary_key=True, autoincrement=False),
    Column("uid", LargeBinary, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
)

_branch: Final = Table(
    "database_branch",
    metadata,
    Column("id", _Row, primary_key=True, autoincrement=False),
    Column("database", BigInteger, ForeignKey("database.id"), nullable=False),
    Column("uid", LargeBinary, nullable=False),
    Column("feed", LargeBinary, nullable=False),
    Column("parent", BigInteger, ForeignKey("database_branch.id")),
    Column("first_seq", BigInteger, nullable=False),
    Column("next_seq", BigInteger, nullable=False),
    Column("disputed", Integer, nullable=False),
    Column("excluded_from", BigInteger),
    Column("waits_for", LargeBinary),
    UniqueConstraint("database", "uid"),
    Index("ix_database_branch_feed", "feed"),
)

_txn: Final = Table(
    "database_txn",
    metadata,
    Column("place", _Row, primary_key=True, autoincrement=False),
    Column("branch", BigInteger, ForeignKey("database_branch.id"), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("kind", Integer, nullable=False),
    Column("ops", Integer, nullable=False),
    Column("lamport", BigInteger, nullable=False),
    Column("reading", BigInteger, nullable=False),
    Column("leaf", LargeBinary, nullable=False),
    Column("past", LargeBinary),
    Column("masked", Text),
    Column("taken_ms", BigInteger, nullable=False),
    UniqueConstraint("branch", "seq"),
    Index(
        "ix_database_txn_past",
        "branch",
        "seq",
        sqlite_where=text("past IS NOT NULL"),
        postgresql_where=text("past IS NOT NULL"),
    ),
    Index("ix_database_txn_others", "branch", sqlite_where=text("kind <> 1"), postgresql_where=text("kind <> 1")),
)

_document: Final = Table(
    "database_document",
    metadata,
    Column("id", _Row, primary_key=True, autoincrement=False),
    Column("database", BigInteger, ForeignKey("database.id"), nullable=False),
    Column("collection", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("place", BigInteger, nullable=False),
    Column("etag", Text, nullable=False),
    Column("shown", Integer, nullable=False),
    Column("conflicts", Integer, nullable=False),
    Column("exact_from", BigInteger, nullable=False),
    Column("sort_keys", Text),
    UniqueConstraint("database", "collection", "key"),
    Index("ix_database_document_place", "database", "place"),
    Index(
        "ix_database_document_hidden",
        "database",
        "collection",
        "key",
        sqlite_where=text("shown = 2"),
        postgresql_where=text("shown = 2"),
    ),
    Index(
        "ix_database_document_conflicts",
        "database",
        "collection",
        "key",
        sqlite_where=text("conflicts > 0"),
        postgresql_where=text("conflicts > 0"),
    ),
)

_LIVE = text("dead IS NULL AND verb <> 3")

_op: Final = Table(
    "database_op",
    metadata,
    Column("place", _Row, primary_key=True, autoincrement=False),
    Column("branch", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("op", Integer, nullable=False),
    Column("document", BigInteger, nullable=False),
    Column("path", Text, nullable=False),
    Column("verb", Integer, nullable=False),
    Column("val", LargeBinary, nullable=False),
    Column("context", LargeBinary),
    Column("dead", BigInteger),
    Index("ix_database_op_live", "document", sqlite_where=_LIVE, postgresql_where=_LIVE),
    Index("ix_database_op_history", "document", "place"),
)

_counter: Final = Table(
    "database_counter",
    metadata,
    Column("document", BigInteger, primary_key=True, autoincrement=False),
    Column("path", Text, primary_key=True),
    Column("branch", BigInteger, primary_key=True, autoincrement=False),
    Column("first_seq", BigInteger, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("last_op", Integer, nullable=False),
    Column("increments", BigInteger, nullable=False),
    Column("total", Text, nullable=False),
)

_guard: Final = Table(
    "database_guard",
    metadata,
    Column("document", BigInteger, primary_key=True, autoincrement=False),
    Column("place", BigInteger, primary_key=True, autoincrement=False),
    Column("etag", Text),
)

_contest: Final = Table(
    "database_contest",
    metadata,
    Column("document", BigInteger, primary_key=True, autoincrement=False),
    Column("guarded", BigInteger, primary_key=True, autoincrement=False),
    Column("other", BigInteger, primary_key=True, autoincrement=False),
    Column("found_at", BigInteger, nullable=False),
    Index("ix_database_contest_found", "found_at"),
)

_rebuild: Final = Table(
    "database_rebuild",
    metadata,
    Column("place", BigInteger, primary_key=True, autoincrement=False),
    Column("document", BigInteger, primary_key=True, autoincrement=False),
)

_intent: Final = Table(
    "database_intent",
    metadata,
    Column("place", _Row, primary_key=True, autoincrement=False),
    Column("database", BigInteger, ForeignKey("database.id"), nullable=False),
    Column("key", LargeBinary, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Index("ix_database_intent_key", "database", "key", "sequence"),
)

_undo: Final = Table(
    "database_undo",
    metadata,
    Column("place", BigInteger, primary_key=True, autoincrement=False),
    Column("undone", BigInteger, primary_key=True, autoincrement=False),
)

_proposal: Final = Table(
    "database_proposal",
    metadata,
    Column("place", BigInteger, primary_key=True, autoincrement=False),
    Column("pending", Integer, nullable=False),
    Index(
        "ix_database_proposal_pending",
        "place",
        sqlite_where=text("pending = 1"),
        postgresql_where=text("pending = 1"),
    ),
)

_decision: Final = Table(
    "database_decision",
    metadata,
    Column("proposal", BigInteger, primary_key=True, autoincrement=False),
    Column("place", BigInteger, primary_key=True, autoincrement=False),
)

_leaf: Final = Table(
    "database_leaf",
    metadata,
    Column("document", _Row, primary_key=True, autoincrement=False),
    Column("place", BigInteger, nullable=False),
    Column("version", LargeBinary, nullable=False),
    Column("content", LargeBinary, nullable=False),
)

_side: Final = Table(
    "database_side",
    metadata,
    Column("id", _Row, primary_key=True, autoincrement=False),
    Column("database", BigInteger, ForeignKey("database.id"), nullable=False),
    Column("feed", LargeBinary, nullable=False),
    Column("manifest", LargeBinary, nullable=False),
    Column("first_seq", BigInteger, nullable=False),
    Column("length", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("proof", LargeBinary, nullable=False),
    Column("refused", Integer, nullable=False),
    Index("ix_database_side_feed", "feed"),
)

_side_block: Final = Table(
    "database_side_block",
    metadata,
    Column("side", BigInteger, ForeignKey("database_side.id"), primary_key=True, autoincrement=False),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("nodes", LargeBinary, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

_side_head: Final = Table(
    "database_side_head",
    metadata,
    Column("side", BigInteger, ForeignKey("database_side.id"), primary_key=True, autoincrement=False),
    Column("length", BigInteger, primary_key=True, autoincrement=False),
    Column("tree_hash", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
)

_track: Final = Table(
    "database_track",
    metadata,
    Column("feed", LargeBinary, primary_key=True),
    Column("side", BigInteger, primary_key=True, autoincrement=False),
    Column("branch", BigInteger, ForeignKey("database_branch.id"), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("next_seq", BigInteger, nullable=False),
    Column("waits_for", LargeBinary),
)

_stray: Final = Table(
    "database_stray",
    metadata,
    Column("database", BigInteger, ForeignKey("database.id"), primary_key=True, autoincrement=False),
    Column("feed", LargeBinary, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("leaf", LargeBinary, primary_key=True),
    Column("kind", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("taken_ms", BigInteger, nullable=False),
)

DATABASE_TABLES: Final = (
    _database,
    _branch,
    _txn,
    _document,
    _op,
    _counter,
    _guard,
    _contest,
    _rebuild,
    _undo,
    _proposal,
    _decision,
    _intent,
    _leaf,
    _side,
    _side_block,
    _side_head,
    _track,
    _stray,
)

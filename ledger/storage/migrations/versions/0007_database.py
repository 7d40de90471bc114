"""Databases: what their entries amount to, kept up to date with the feeds that they are in.

Everything here can be made anew from the feeds, so unlike history it changes, and nothing of it is proof.
"""

from __future__ import annotations

from alembic import op

revision = "0007_database"
down_revision = "0006_closing"
branch_labels = None
depends_on = None

DDL = (
    """
    CREATE TABLE database (
        id {id},
        uid {bytes} NOT NULL UNIQUE CHECK (length(uid) = 32),
        name TEXT NOT NULL,
        created_ms BIGINT NOT NULL
    )
    """,
    """
    CREATE TABLE database_branch (
        id {id},
        database BIGINT NOT NULL REFERENCES database (id),
        uid {bytes} NOT NULL CHECK (length(uid) = 32),
        feed {bytes} NOT NULL CHECK (length(feed) = 32),
        parent BIGINT REFERENCES database_branch (id),
        first_seq BIGINT NOT NULL CHECK (first_seq >= 0),
        next_seq BIGINT NOT NULL CHECK (next_seq >= first_seq),
        disputed INTEGER NOT NULL CHECK (disputed IN (0, 1)),
        excluded_from BIGINT CHECK (excluded_from >= 0),
        waits_for {bytes},
        UNIQUE (database, uid)
    )
    """,
    "CREATE INDEX ix_database_branch_feed ON database_branch (feed)",
    """
    CREATE TABLE database_txn (
        place {id} CHECK (place > 0),
        branch BIGINT NOT NULL REFERENCES database_branch (id),
        seq BIGINT NOT NULL CHECK (seq >= 0),
        kind INTEGER NOT NULL CHECK (kind BETWEEN 1 AND 4),
        ops INTEGER NOT NULL CHECK (ops >= 0),
        lamport BIGINT NOT NULL CHECK (lamport >= 0),
        reading BIGINT NOT NULL CHECK (reading >= 0),
        leaf {bytes} NOT NULL CHECK (length(leaf) = 32),
        past {bytes},
        masked TEXT,
        taken_ms BIGINT NOT NULL,
        UNIQUE (branch, seq)
    )
    """,
    "CREATE INDEX ix_database_txn_past ON database_txn (branch, seq) WHERE past IS NOT NULL",
    "CREATE INDEX ix_database_txn_others ON database_txn (branch) WHERE kind <> 1",
    """
    CREATE TABLE database_document (
        id {id},
        database BIGINT NOT NULL REFERENCES database (id),
        collection TEXT NOT NULL{binary},
        key TEXT NOT NULL{binary},
        place BIGINT NOT NULL,
        etag TEXT NOT NULL,
        shown INTEGER NOT NULL CHECK (shown IN (0, 1, 2)),
        conflicts INTEGER NOT NULL CHECK (conflicts >= 0),
        exact_from BIGINT NOT NULL,
        sort_keys TEXT,
        UNIQUE (database, collection, key)
    )
    """,
    "CREATE INDEX ix_database_document_place ON database_document (database, place)",
    "CREATE INDEX ix_database_document_hidden ON database_document (database, collection, key) WHERE shown = 2",
    "CREATE INDEX ix_database_document_conflicts ON database_document (database, collection, key) WHERE conflicts > 0",
    """
    CREATE TABLE database_op (
        place {id},
        branch BIGINT NOT NULL,
        seq BIGINT NOT NULL,
        op INTEGER NOT NULL,
        document BIGINT NOT NULL,
        path TEXT NOT NULL,
        verb INTEGER NOT NULL CHECK (verb BETWEEN 1 AND 8),
        val {bytes} NOT NULL,
        context {bytes},
        dead BIGINT
    )
    """,
    "CREATE INDEX ix_database_op_live ON database_op (document) WHERE dead IS NULL AND verb <> 3",
    "CREATE INDEX ix_database_op_history ON database_op (document, place)",
    """
    CREATE TABLE database_counter (
        document BIGINT NOT NULL,
        path TEXT NOT NULL,
        branch BIGINT NOT NULL,
        first_seq BIGINT NOT NULL,
        last_seq BIGINT NOT NULL,
        last_op INTEGER NOT NULL,
        increments BIGINT NOT NULL CHECK (increments > 0),
        total TEXT NOT NULL,
        PRIMARY KEY (document, path, branch)
    )
    """,
    """
    CREATE TABLE database_guard (
        document BIGINT NOT NULL,
        place BIGINT NOT NULL,
        etag TEXT,
        PRIMARY KEY (document, place)
    )
    """,
    """
    CREATE TABLE database_contest (
        document BIGINT NOT NULL,
        guarded BIGINT NOT NULL,
        other BIGINT NOT NULL,
        found_at BIGINT NOT NULL,
        PRIMARY KEY (document, guarded, other)
    )
    """,
    "CREATE INDEX ix_database_contest_found ON database_contest (found_at)",
    """
    CREATE TABLE database_rebuild (
        document BIGINT NOT NULL,
        place BIGINT NOT NULL,
        PRIMARY KEY (place, document)
    )
    """,
    """
    CREATE TABLE database_undo (
        place BIGINT NOT NULL,
        undone BIGINT NOT NULL,
        PRIMARY KEY (place, undone)
    )
    """,
    """
    CREATE TABLE database_leaf (
        document {id},
        place BIGINT NOT NULL,
        version {bytes} NOT NULL CHECK (length(version) = 32),
        content {bytes} NOT NULL CHECK (length(content) = 32)
    )
    """,
    """
    CREATE TABLE database_side (
        id {id},
        database BIGINT NOT NULL REFERENCES database (id),
        feed {bytes} NOT NULL CHECK (length(feed) = 32),
        manifest {bytes} NOT NULL,
        first_seq BIGINT NOT NULL CHECK (first_seq >= 0),
        length BIGINT NOT NULL CHECK (length >= first_seq),
        reason TEXT NOT NULL,
        proof {bytes} NOT NULL,
        refused INTEGER NOT NULL CHECK (refused IN (0, 1))
    )
    """,
    "CREATE INDEX ix_database_side_feed ON database_side (feed)",
    """
    CREATE TABLE database_side_block (
        side BIGINT NOT NULL REFERENCES database_side (id),
        seq BIGINT NOT NULL CHECK (seq >= 0),
        nodes {bytes} NOT NULL,
        data {bytes} NOT NULL,
        PRIMARY KEY (side, seq)
    )
    """,
    """
    CREATE TABLE database_side_head (
        side BIGINT NOT NULL REFERENCES database_side (id),
        length BIGINT NOT NULL CHECK (length > 0),
        tree_hash {bytes} NOT NULL CHECK (length(tree_hash) = 32),
        signature {bytes} NOT NULL,
        PRIMARY KEY (side, length)
    )
    """,
    """
    CREATE TABLE database_track (
        feed {bytes} NOT NULL CHECK (length(feed) = 32),
        side BIGINT NOT NULL,
        branch BIGINT NOT NULL REFERENCES database_branch (id),
        seq BIGINT NOT NULL,
        next_seq BIGINT NOT NULL CHECK (next_seq >= 0),
        waits_for {bytes},
        PRIMARY KEY (feed, side)
    )
    """,
    """
    CREATE TABLE database_stray (
        database BIGINT NOT NULL REFERENCES database (id),
        feed {bytes} NOT NULL CHECK (length(feed) = 32),
        seq BIGINT NOT NULL CHECK (seq >= 0),
        leaf {bytes} NOT NULL CHECK (length(leaf) = 32),
        kind INTEGER NOT NULL CHECK (kind BETWEEN 1 AND 4),
        reason TEXT NOT NULL,
        taken_ms BIGINT NOT NULL,
        PRIMARY KEY (database, feed, seq, leaf)
    )
    """,
)

WORDS = {
    "sqlite": {"id": "INTEGER NOT NULL PRIMARY KEY", "bytes": "BLOB", "binary": ""},
    "postgresql": {"id": "BIGINT NOT NULL PRIMARY KEY", "bytes": "BYTEA", "binary": ' COLLATE "C"'},
}


def upgrade() -> None:
    """Make the tables, in the words of the engine."""
    words = WORDS[op.get_bind().dialect.name]
    for statement in DDL:
        op.execute(statement.format(**words))

"""Serial writes: entries of three more kinds, the proposals among them, and which entries decide those."""

from __future__ import annotations

from alembic import op

revision = "0009_serial"
down_revision = "0008_access"
branch_labels = None
depends_on = None

DDL = (
    """
    CREATE TABLE database_proposal (
        place BIGINT NOT NULL PRIMARY KEY CHECK (place > 0),
        pending INTEGER NOT NULL CHECK (pending IN (0, 1))
    )
    """,
    "CREATE INDEX ix_database_proposal_pending ON database_proposal (place) WHERE pending = 1",
    """
    CREATE TABLE database_decision (
        proposal BIGINT NOT NULL,
        place BIGINT NOT NULL CHECK (place > proposal),
        PRIMARY KEY (proposal, place)
    )
    """,
)

SQLITE_KINDS = (
    """
    CREATE TABLE new_database_txn (
        place INTEGER NOT NULL PRIMARY KEY,
        branch BIGINT NOT NULL REFERENCES database_branch (id),
        seq BIGINT NOT NULL CHECK (seq >= 0),
        kind INTEGER NOT NULL CHECK (kind BETWEEN 1 AND 7),
        ops INTEGER NOT NULL CHECK (ops >= 0),
        lamport BIGINT NOT NULL CHECK (lamport >= 0),
        reading BIGINT NOT NULL CHECK (reading >= 0),
        leaf BLOB NOT NULL CHECK (length(leaf) = 32),
        past BLOB,
        masked TEXT,
        taken_ms BIGINT NOT NULL,
        UNIQUE (branch, seq)
    )
    """,
    """
    INSERT INTO new_database_txn (place, branch, seq, kind, ops, lamport, reading, leaf, past, masked, taken_ms)
    SELECT place, branch, seq, kind, ops, lamport, reading, leaf, past, masked, taken_ms FROM database_txn
    """,
    "DROP TABLE database_txn",
    "ALTER TABLE new_database_txn RENAME TO database_txn",
    "CREATE INDEX ix_database_txn_past ON database_txn (branch, seq) WHERE past IS NOT NULL",
    "CREATE INDEX ix_database_txn_others ON database_txn (branch) WHERE kind <> 1",
    """
    CREATE TABLE new_database_stray (
        database BIGINT NOT NULL REFERENCES database (id),
        feed BLOB NOT NULL CHECK (length(feed) = 32),
        seq BIGINT NOT NULL CHECK (seq >= 0),
        leaf BLOB NOT NULL CHECK (length(leaf) = 32),
        kind INTEGER NOT NULL CHECK (kind BETWEEN 1 AND 7),
        reason TEXT NOT NULL,
        taken_ms BIGINT NOT NULL,
        PRIMARY KEY (database, feed, seq, leaf)
    )
    """,
    """
    INSERT INTO new_database_stray (database, feed, seq, leaf, kind, reason, taken_ms)
    SELECT database, feed, seq, leaf, kind, reason, taken_ms FROM database_stray
    """,
    "DROP TABLE database_stray",
    "ALTER TABLE new_database_stray RENAME TO database_stray",
)

POSTGRESQL_KINDS = (
    "ALTER TABLE database_txn DROP CONSTRAINT database_txn_kind_check",
    "ALTER TABLE database_txn ADD CONSTRAINT database_txn_kind_check CHECK (kind BETWEEN 1 AND 7)",
    "ALTER TABLE database_stray DROP CONSTRAINT database_stray_kind_check",
    "ALTER TABLE database_stray ADD CONSTRAINT database_stray_kind_check CHECK (kind BETWEEN 1 AND 7)",
)


def upgrade() -> None:
    """Make the tables, and let those of entries take the new kinds. SQLite changes no check: the table is copied."""
    kinds = SQLITE_KINDS if op.get_bind().dialect.name == "sqlite" else POSTGRESQL_KINDS
    for statement in (*DDL, *kinds):
        op.execute(statement)

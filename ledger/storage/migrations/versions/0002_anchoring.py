"""The outbox of anchors, their transactions and receipts, and acquired timestamps."""

from __future__ import annotations

from alembic import op

revision = "0002_anchoring"
down_revision = "0001_ledger"
branch_labels = None
depends_on = None

TABLES = (
    """
    CREATE TABLE anchor (
        size INTEGER NOT NULL PRIMARY KEY CHECK (size > 0),
        root BLOB NOT NULL CHECK (length(root) = 32),
        state TEXT NOT NULL CHECK (state IN ('pending', 'submitted', 'mined', 'final', 'failed')),
        reason TEXT,
        block_number BIGINT CHECK (block_number >= 0),
        block_hash BLOB CHECK (length(block_hash) = 32),
        changed_ms BIGINT NOT NULL,
        CHECK ((block_number IS NULL) = (block_hash IS NULL)),
        CHECK ((state IN ('mined', 'final')) <= (block_hash IS NOT NULL))
    )
    """,
    """
    CREATE TABLE anchor_transaction (
        id INTEGER NOT NULL PRIMARY KEY,
        hash BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
        size BIGINT NOT NULL REFERENCES anchor (size),
        prev_size BIGINT NOT NULL CHECK (prev_size >= 0 AND prev_size < size),
        nonce BIGINT NOT NULL CHECK (nonce >= 0),
        max_fee BIGINT NOT NULL CHECK (max_fee >= 0),
        priority_fee BIGINT NOT NULL CHECK (priority_fee BETWEEN 0 AND max_fee),
        raw BLOB NOT NULL,
        prepared_ms BIGINT NOT NULL
    )
    """,
    "CREATE INDEX ix_anchor_transaction_size ON anchor_transaction (size)",
    """
    CREATE TABLE anchor_receipt (
        id INTEGER NOT NULL PRIMARY KEY,
        size BIGINT NOT NULL REFERENCES anchor (size),
        block_hash BLOB NOT NULL CHECK (length(block_hash) = 32),
        digest BLOB NOT NULL CHECK (length(digest) = 32),
        receipt BLOB NOT NULL,
        archived_ms BIGINT NOT NULL,
        UNIQUE (size, block_hash)
    )
    """,
    """
    CREATE TABLE timestamp_token (
        id INTEGER NOT NULL PRIMARY KEY,
        size BIGINT NOT NULL CHECK (size > 0),
        authority TEXT NOT NULL,
        response BLOB NOT NULL,
        gen_time_ms BIGINT NOT NULL,
        acquired_ms BIGINT NOT NULL,
        UNIQUE (size, response)
    )
    """,
    """
    CREATE TABLE timestamp_material (
        id INTEGER NOT NULL PRIMARY KEY,
        token BIGINT NOT NULL REFERENCES timestamp_token (id),
        kind TEXT NOT NULL CHECK (kind IN ('certificates', 'crls', 'ocsps')),
        data BLOB NOT NULL
    )
    """,
    "CREATE INDEX ix_timestamp_material_token ON timestamp_material (token)",
)

HISTORY = ("anchor_transaction", "anchor_receipt", "timestamp_token", "timestamp_material")

OUTBOX = (
    """
    CREATE TRIGGER anchor_is_settled BEFORE UPDATE ON anchor WHEN NOT (
        NEW.size = OLD.size AND NEW.root = OLD.root AND OLD.state NOT IN ('final', 'failed')
    ) BEGIN SELECT RAISE(ABORT, 'a final or failed anchor is history, and no anchor changes what it anchors'); END
    """,
    """
    CREATE TRIGGER anchor_stays BEFORE DELETE ON anchor WHEN OLD.state <> 'pending'
    BEGIN SELECT RAISE(ABORT, 'history is insert-only: anchor'); END
    """,
)


def upgrade() -> None:
    """Make the tables; SQLite is the only engine this step is written for."""
    for statement in TABLES:
        op.execute(statement)
    for table in HISTORY:
        for what in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{what.lower()} BEFORE {what} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, 'history is insert-only: {table}'); END"
            )
    for statement in OUTBOX:
        op.execute(statement)

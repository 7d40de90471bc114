"""The outbox of anchors, their transactions and receipts, and acquired timestamps."""

from __future__ import annotations

from alembic import op

revision = "0002_anchoring"
down_revision = "0001_ledger"
branch_labels = None
depends_on = None

SQLITE = (
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

POSTGRESQL = (
    """
    CREATE TABLE anchor (
        size BIGINT NOT NULL PRIMARY KEY CHECK (size > 0),
        root BYTEA NOT NULL CHECK (length(root) = 32),
        state TEXT NOT NULL CHECK (state IN ('pending', 'submitted', 'mined', 'final', 'failed')),
        reason TEXT,
        block_number BIGINT CHECK (block_number >= 0),
        block_hash BYTEA CHECK (length(block_hash) = 32),
        changed_ms BIGINT NOT NULL,
        CHECK ((block_number IS NULL) = (block_hash IS NULL)),
        CHECK ((state IN ('mined', 'final')) <= (block_hash IS NOT NULL))
    )
    """,
    """
    CREATE TABLE anchor_transaction (
        id BIGSERIAL NOT NULL PRIMARY KEY,
        hash BYTEA NOT NULL UNIQUE CHECK (length(hash) = 32),
        size BIGINT NOT NULL REFERENCES anchor (size),
        prev_size BIGINT NOT NULL CHECK (prev_size >= 0 AND prev_size < size),
        nonce BIGINT NOT NULL CHECK (nonce >= 0),
        max_fee BIGINT NOT NULL CHECK (max_fee >= 0),
        priority_fee BIGINT NOT NULL CHECK (priority_fee BETWEEN 0 AND max_fee),
        raw BYTEA NOT NULL,
        prepared_ms BIGINT NOT NULL
    )
    """,
    "CREATE INDEX ix_anchor_transaction_size ON anchor_transaction (size)",
    """
    CREATE TABLE anchor_receipt (
        id BIGSERIAL NOT NULL PRIMARY KEY,
        size BIGINT NOT NULL REFERENCES anchor (size),
        block_hash BYTEA NOT NULL CHECK (length(block_hash) = 32),
        digest BYTEA NOT NULL CHECK (length(digest) = 32),
        receipt BYTEA NOT NULL,
        archived_ms BIGINT NOT NULL,
        UNIQUE (size, block_hash)
    )
    """,
    """
    CREATE TABLE timestamp_token (
        id BIGSERIAL NOT NULL PRIMARY KEY,
        size BIGINT NOT NULL CHECK (size > 0),
        authority TEXT NOT NULL,
        response BYTEA NOT NULL,
        gen_time_ms BIGINT NOT NULL,
        acquired_ms BIGINT NOT NULL
    )
    """,
    # A response is longer than what an index row may hold.
    "CREATE UNIQUE INDEX timestamp_token_size_response ON timestamp_token (size, sha256(response))",
    """
    CREATE TABLE timestamp_material (
        id BIGSERIAL NOT NULL PRIMARY KEY,
        token BIGINT NOT NULL REFERENCES timestamp_token (id),
        kind TEXT NOT NULL CHECK (kind IN ('certificates', 'crls', 'ocsps')),
        data BYTEA NOT NULL
    )
    """,
    "CREATE INDEX ix_timestamp_material_token ON timestamp_material (token)",
)

HISTORY = ("anchor_transaction", "anchor_receipt", "timestamp_token", "timestamp_material")

SQLITE_TRIGGERS = (
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

POSTGRESQL_TRIGGERS = (
    """
    CREATE FUNCTION refuse_settled_anchor() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'a final or failed anchor is history, and no anchor changes what it anchors';
    END $$
    """,
    """
    CREATE TRIGGER anchor_is_settled BEFORE UPDATE ON anchor FOR EACH ROW WHEN (NOT (
        NEW.size = OLD.size AND NEW.root = OLD.root AND OLD.state NOT IN ('final', 'failed')
    )) EXECUTE FUNCTION refuse_settled_anchor()
    """,
    """
    CREATE TRIGGER anchor_stays BEFORE DELETE ON anchor FOR EACH ROW WHEN (OLD.state <> 'pending')
    EXECUTE FUNCTION refuse_change()
    """,
)


def upgrade() -> None:
    """Make the tables, in the words of the engine."""
    (sqlite if op.get_bind().dialect.name == "sqlite" else postgresql)()


def sqlite() -> None:
    for statement in SQLITE:
        op.execute(statement)
    for table in HISTORY:
        for what in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{what.lower()} BEFORE {what} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, 'history is insert-only: {table}'); END"
            )
    for statement in SQLITE_TRIGGERS:
        op.execute(statement)


def postgresql() -> None:
    for statement in (*POSTGRESQL, *POSTGRESQL_TRIGGERS):
        op.execute(statement)
    for table in HISTORY:
        for what in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{what.lower()} BEFORE {what} ON {table} "
                "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
            )
    for table in (*HISTORY, "anchor"):
        op.execute(
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )

"""The close of the log that this store's log goes on from: its way onto the chain, and its transactions."""

from __future__ import annotations

from alembic import op

revision = "0006_closing"
down_revision = "0005_start_up"
branch_labels = None
depends_on = None

SQLITE = (
    """
    CREATE TABLE log_closing (
        log BLOB NOT NULL PRIMARY KEY CHECK (length(log) = 32),
        successor BLOB NOT NULL CHECK (length(successor) = 32),
        chain BIGINT NOT NULL CHECK (chain > 0),
        contract BLOB NOT NULL CHECK (length(contract) = 20),
        owner BLOB NOT NULL CHECK (length(owner) = 20),
        state TEXT NOT NULL CHECK (state IN ('pending', 'submitted', 'mined', 'final', 'failed')),
        reason TEXT,
        changed_ms BIGINT NOT NULL
    )
    """,
    """
    CREATE TABLE log_closing_transaction (
        id INTEGER NOT NULL PRIMARY KEY,
        hash BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
        nonce BIGINT NOT NULL CHECK (nonce >= 0),
        max_fee BIGINT NOT NULL CHECK (max_fee >= 0),
        priority_fee BIGINT NOT NULL CHECK (priority_fee BETWEEN 0 AND max_fee),
        raw BLOB NOT NULL,
        prepared_ms BIGINT NOT NULL
    )
    """,
)

POSTGRESQL = (
    """
    CREATE TABLE log_closing (
        log BYTEA NOT NULL PRIMARY KEY CHECK (length(log) = 32),
        successor BYTEA NOT NULL CHECK (length(successor) = 32),
        chain BIGINT NOT NULL CHECK (chain > 0),
        contract BYTEA NOT NULL CHECK (length(contract) = 20),
        owner BYTEA NOT NULL CHECK (length(owner) = 20),
        state TEXT NOT NULL CHECK (state IN ('pending', 'submitted', 'mined', 'final', 'failed')),
        reason TEXT,
        changed_ms BIGINT NOT NULL
    )
    """,
    """
    CREATE TABLE log_closing_transaction (
        id BIGSERIAL NOT NULL PRIMARY KEY,
        hash BYTEA NOT NULL UNIQUE CHECK (length(hash) = 32),
        nonce BIGINT NOT NULL CHECK (nonce >= 0),
        max_fee BIGINT NOT NULL CHECK (max_fee >= 0),
        priority_fee BIGINT NOT NULL CHECK (priority_fee BETWEEN 0 AND max_fee),
        raw BYTEA NOT NULL,
        prepared_ms BIGINT NOT NULL
    )
    """,
)

SETTLED = """NOT (
        NEW.log = OLD.log AND NEW.successor = OLD.successor AND NEW.chain = OLD.chain
        AND NEW.contract = OLD.contract AND NEW.owner = OLD.owner AND OLD.state NOT IN ('final', 'failed')
    )"""

KEPT = (("log_closing", "DELETE"), ("log_closing_transaction", "UPDATE"), ("log_closing_transaction", "DELETE"))

POSTGRESQL_TRIGGERS = (
    """
    CREATE FUNCTION refuse_settled_close() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'a settled close is history';
    END $$
    """,
    f"""
    CREATE TRIGGER log_closing_is_settled BEFORE UPDATE ON log_closing FOR EACH ROW WHEN ({SETTLED})
    EXECUTE FUNCTION refuse_settled_close()
    """,
)


def upgrade() -> None:
    """Make the tables, in the words of the engine."""
    (sqlite if op.get_bind().dialect.name == "sqlite" else postgresql)()


def sqlite() -> None:
    for statement in SQLITE:
        op.execute(statement)
    op.execute(
        f"CREATE TRIGGER log_closing_is_settled BEFORE UPDATE ON log_closing WHEN {SETTLED} "
        "BEGIN SELECT RAISE(ABORT, 'a settled close is history'); END"
    )
    for table, what in KEPT:
        op.execute(
            f"CREATE TRIGGER {table}_no_{what.lower()} BEFORE {what} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, 'history is insert-only: {table}'); END"
        )


def postgresql() -> None:
    for statement in (*POSTGRESQL, *POSTGRESQL_TRIGGERS):
        op.execute(statement)
    for table, what in KEPT:
        op.execute(
            f"CREATE TRIGGER {table}_no_{what.lower()} BEFORE {what} ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )
    for table in ("log_closing", "log_closing_transaction"):
        op.execute(
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )

"""The close of the log that this store's log goes on from: its way onto the chain, and its transactions."""

from __future__ import annotations

from alembic import op

revision = "0004_closing"
down_revision = "0003_start_up"
branch_labels = None
depends_on = None

TABLES = (
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

TRIGGERS = (
    """
    CREATE TRIGGER log_closing_is_settled BEFORE UPDATE ON log_closing WHEN NOT (
        NEW.log = OLD.log AND NEW.successor = OLD.successor AND NEW.chain = OLD.chain
        AND NEW.contract = OLD.contract AND NEW.owner = OLD.owner AND OLD.state NOT IN ('final', 'failed')
    ) BEGIN SELECT RAISE(ABORT, 'a settled close is history'); END
    """,
    """
    CREATE TRIGGER log_closing_no_delete BEFORE DELETE ON log_closing
    BEGIN SELECT RAISE(ABORT, 'history is insert-only: log_closing'); END
    """,
    """
    CREATE TRIGGER log_closing_transaction_no_update BEFORE UPDATE ON log_closing_transaction
    BEGIN SELECT RAISE(ABORT, 'history is insert-only: log_closing_transaction'); END
    """,
    """
    CREATE TRIGGER log_closing_transaction_no_delete BEFORE DELETE ON log_closing_transaction
    BEGIN SELECT RAISE(ABORT, 'history is insert-only: log_closing_transaction'); END
    """,
)


def upgrade() -> None:
    """Make the tables; SQLite is the only engine this step is written for."""
    for statement in (*TABLES, *TRIGGERS):
        op.execute(statement)

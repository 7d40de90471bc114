"""Leases: which of several processes writes a feed now."""

from __future__ import annotations

from alembic import op

revision = "0003_lease"
down_revision = "0002_anchoring"
branch_labels = None
depends_on = None

SQLITE = (
    """
    CREATE TABLE lease (
        feed BLOB NOT NULL PRIMARY KEY CHECK (length(feed) = 32),
        holder BLOB NOT NULL CHECK (length(holder) = 16),
        epoch BIGINT NOT NULL CHECK (epoch > 0),
        expires_ms BIGINT NOT NULL,
        incarnation TEXT NOT NULL
    )
    """,
    """
    CREATE TRIGGER lease_moves_on BEFORE UPDATE ON lease WHEN NOT (
        NEW.feed = OLD.feed AND NEW.incarnation = OLD.incarnation
        AND (NEW.epoch > OLD.epoch OR (NEW.epoch = OLD.epoch AND NEW.holder = OLD.holder))
    ) BEGIN SELECT RAISE(ABORT, 'a lease changes its holder only with its epoch, which grows'); END
    """,
    """
    CREATE TRIGGER lease_no_delete BEFORE DELETE ON lease
    BEGIN SELECT RAISE(ABORT, 'a lease is never forgotten'); END
    """,
)

POSTGRESQL = (
    """
    CREATE TABLE lease (
        feed BYTEA NOT NULL PRIMARY KEY CHECK (length(feed) = 32),
        holder BYTEA NOT NULL CHECK (length(holder) = 16),
        epoch BIGINT NOT NULL CHECK (epoch > 0),
        expires_ms BIGINT NOT NULL,
        incarnation TEXT NOT NULL
    )
    """,
    """
    CREATE FUNCTION refuse_lease() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'a lease changes its holder only with its epoch, which grows';
    END $$
    """,
    """
    CREATE TRIGGER lease_moves_on BEFORE UPDATE ON lease FOR EACH ROW WHEN (NOT (
        NEW.feed = OLD.feed AND NEW.incarnation = OLD.incarnation
        AND (NEW.epoch > OLD.epoch OR (NEW.epoch = OLD.epoch AND NEW.holder = OLD.holder))
    )) EXECUTE FUNCTION refuse_lease()
    """,
    "CREATE TRIGGER lease_no_delete BEFORE DELETE ON lease FOR EACH ROW EXECUTE FUNCTION refuse_lease()",
    "CREATE TRIGGER lease_no_truncate BEFORE TRUNCATE ON lease FOR EACH STATEMENT EXECUTE FUNCTION refuse_lease()",
)


def upgrade() -> None:
    """Make the table, in the words of the engine."""
    for statement in SQLITE if op.get_bind().dialect.name == "sqlite" else POSTGRESQL:
        op.execute(statement)

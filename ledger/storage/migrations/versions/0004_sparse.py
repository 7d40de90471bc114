"""Feeds that are held in part: nodes, blocks and heads, insert-only like all history."""

from __future__ import annotations

from alembic import op

revision = "0004_sparse"
down_revision = "0003_lease"
branch_labels = None
depends_on = None

SQLITE = (
    """
    CREATE TABLE sparse_feed (
        id INTEGER NOT NULL PRIMARY KEY,
        key BLOB NOT NULL UNIQUE CHECK (length(key) = 32),
        manifest BLOB NOT NULL,
        length BIGINT NOT NULL CHECK (length BETWEEN 0 AND 4503599627370496)
    )
    """,
    """
    CREATE TABLE sparse_node (
        feed BIGINT NOT NULL REFERENCES sparse_feed (id),
        node BIGINT NOT NULL CHECK (node >= 0),
        hash BLOB NOT NULL CHECK (length(hash) = 32),
        size BIGINT NOT NULL CHECK (size >= 0),
        PRIMARY KEY (feed, node)
    )
    """,
    """
    CREATE TABLE sparse_block (
        feed BIGINT NOT NULL REFERENCES sparse_feed (id),
        idx BIGINT NOT NULL CHECK (idx >= 0),
        data BLOB NOT NULL,
        PRIMARY KEY (feed, idx)
    )
    """,
    """
    CREATE TABLE sparse_head (
        feed BIGINT NOT NULL REFERENCES sparse_feed (id),
        length BIGINT NOT NULL CHECK (length > 0),
        tree_hash BLOB NOT NULL CHECK (length(tree_hash) = 32),
        signature BLOB NOT NULL,
        PRIMARY KEY (feed, length)
    )
    """,
)

POSTGRESQL = (
    """
    CREATE TABLE sparse_feed (
        id BIGSERIAL NOT NULL PRIMARY KEY,
        key BYTEA NOT NULL UNIQUE CHECK (length(key) = 32),
        manifest BYTEA NOT NULL,
        length BIGINT NOT NULL CHECK (length BETWEEN 0 AND 4503599627370496)
    )
    """,
    """
    CREATE TABLE sparse_node (
        feed BIGINT NOT NULL REFERENCES sparse_feed (id),
        node BIGINT NOT NULL CHECK (node >= 0),
        hash BYTEA NOT NULL CHECK (length(hash) = 32),
        size BIGINT NOT NULL CHECK (size >= 0),
        PRIMARY KEY (feed, node)
    )
    """,
    """
    CREATE TABLE sparse_block (
        feed BIGINT NOT NULL REFERENCES sparse_feed (id),
        idx BIGINT NOT NULL CHECK (idx >= 0),
        data BYTEA NOT NULL,
        PRIMARY KEY (feed, idx)
    )
    """,
    """
    CREATE TABLE sparse_head (
        feed BIGINT NOT NULL REFERENCES sparse_feed (id),
        length BIGINT NOT NULL CHECK (length > 0),
        tree_hash BYTEA NOT NULL CHECK (length(tree_hash) = 32),
        signature BYTEA NOT NULL,
        PRIMARY KEY (feed, length)
    )
    """,
)

HISTORY = ("sparse_node", "sparse_block", "sparse_head")

SQLITE_TRIGGERS = (
    """
    CREATE TRIGGER sparse_feed_moves_forward BEFORE UPDATE ON sparse_feed WHEN NOT (
        NEW.id = OLD.id AND NEW.key = OLD.key AND NEW.manifest = OLD.manifest AND NEW.length > OLD.length
    ) BEGIN SELECT RAISE(ABORT, 'a feed only moves forward'); END
    """,
    """
    CREATE TRIGGER sparse_feed_stays BEFORE DELETE ON sparse_feed
    BEGIN SELECT RAISE(ABORT, 'history is insert-only: sparse_feed'); END
    """,
)

POSTGRESQL_TRIGGERS = (
    """
    CREATE TRIGGER sparse_feed_moves_forward BEFORE UPDATE ON sparse_feed FOR EACH ROW WHEN (NOT (
        NEW.id = OLD.id AND NEW.key = OLD.key AND NEW.manifest = OLD.manifest AND NEW.length > OLD.length
    )) EXECUTE FUNCTION refuse_move()
    """,
    """
    CREATE TRIGGER sparse_feed_stays BEFORE DELETE ON sparse_feed FOR EACH ROW EXECUTE FUNCTION refuse_change()
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
    for table in (*HISTORY, "sparse_feed"):
        op.execute(
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )

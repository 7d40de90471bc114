"""Feeds, the checkpoint log and identity events, with the triggers that keep history insert-only."""

from __future__ import annotations

from alembic import op

revision = "0001_ledger"
down_revision = None
branch_labels = None
depends_on = None

SQLITE = (
    """
    CREATE TABLE feed (
        id INTEGER NOT NULL PRIMARY KEY CHECK (id BETWEEN 1 AND 8388607),
        key BLOB NOT NULL UNIQUE CHECK (length(key) = 32),
        manifest BLOB NOT NULL,
        local INTEGER NOT NULL CHECK (local IN (0, 1)),
        retired INTEGER NOT NULL CHECK (retired IN (0, 1)),
        length BIGINT NOT NULL CHECK (length BETWEEN 0 AND 1099511627775),
        byte_length BIGINT NOT NULL CHECK (byte_length >= 0),
        roots BLOB NOT NULL CHECK (length(roots) % 40 = 0)
    )
    """,
    """
    CREATE TABLE tree (
        pos INTEGER NOT NULL PRIMARY KEY,
        nodes BLOB NOT NULL CHECK (length(nodes) >= 40 AND length(nodes) % 40 = 0)
    )
    """,
    """
    CREATE TABLE block (
        pos INTEGER NOT NULL PRIMARY KEY,
        data BLOB NOT NULL
    )
    """,
    """
    CREATE TABLE head (
        pos INTEGER NOT NULL PRIMARY KEY,
        tree_hash BLOB NOT NULL CHECK (length(tree_hash) = 32),
        signature BLOB NOT NULL
    )
    """,
    """
    CREATE TABLE log (
        one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
        log_id BLOB NOT NULL CHECK (length(log_id) = 32),
        size BIGINT NOT NULL CHECK (size > 0),
        frontier BLOB NOT NULL CHECK (length(frontier) >= 32 AND length(frontier) % 32 = 0)
    )
    """,
    """
    CREATE TABLE log_leaf (
        idx INTEGER NOT NULL PRIMARY KEY CHECK (idx >= 0),
        hashes BLOB NOT NULL CHECK (length(hashes) >= 32 AND length(hashes) % 32 = 0),
        statement BLOB NOT NULL
    )
    """,
    """
    CREATE TABLE checkpoint (
        size INTEGER NOT NULL PRIMARY KEY CHECK (size > 0),
        root BLOB NOT NULL CHECK (length(root) = 32),
        note TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE identity_event (
        id INTEGER NOT NULL PRIMARY KEY,
        identity BLOB NOT NULL CHECK (length(identity) = 32),
        seq BIGINT NOT NULL CHECK (seq >= 0),
        digest BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),
        signed_event BLOB NOT NULL
    )
    """,
    "CREATE INDEX ix_identity_event_identity ON identity_event (identity)",
)

POSTGRESQL = (
    """
    CREATE TABLE feed (
        id BIGINT NOT NULL PRIMARY KEY CHECK (id BETWEEN 1 AND 8388607),
        key BYTEA NOT NULL UNIQUE CHECK (length(key) = 32),
        manifest BYTEA NOT NULL,
        local INTEGER NOT NULL CHECK (local IN (0, 1)),
        retired INTEGER NOT NULL CHECK (retired IN (0, 1)),
        length BIGINT NOT NULL CHECK (length BETWEEN 0 AND 1099511627775),
        byte_length BIGINT NOT NULL CHECK (byte_length >= 0),
        roots BYTEA NOT NULL CHECK (length(roots) % 40 = 0)
    )
    """,
    """
    CREATE TABLE tree (
        pos BIGINT NOT NULL PRIMARY KEY,
        nodes BYTEA NOT NULL CHECK (length(nodes) >= 40 AND length(nodes) % 40 = 0)
    )
    """,
    """
    CREATE TABLE block (
        pos BIGINT NOT NULL PRIMARY KEY,
        data BYTEA NOT NULL
    )
    """,
    """
    CREATE TABLE head (
        pos BIGINT NOT NULL PRIMARY KEY,
        tree_hash BYTEA NOT NULL CHECK (length(tree_hash) = 32),
        signature BYTEA NOT NULL
    )
    """,
    """
    CREATE TABLE log (
        one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
        log_id BYTEA NOT NULL CHECK (length(log_id) = 32),
        size BIGINT NOT NULL CHECK (size > 0),
        frontier BYTEA NOT NULL CHECK (length(frontier) >= 32 AND length(frontier) % 32 = 0)
    )
    """,
    """
    CREATE TABLE log_leaf (
        idx BIGINT NOT NULL PRIMARY KEY CHECK (idx >= 0),
        hashes BYTEA NOT NULL CHECK (length(hashes) >= 32 AND length(hashes) % 32 = 0),
        statement BYTEA NOT NULL
    )
    """,
    """
    CREATE TABLE checkpoint (
        size BIGINT NOT NULL PRIMARY KEY CHECK (size > 0),
        root BYTEA NOT NULL CHECK (length(root) = 32),
        note TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE identity_event (
        id BIGSERIAL NOT NULL PRIMARY KEY,
        identity BYTEA NOT NULL CHECK (length(identity) = 32),
        seq BIGINT NOT NULL CHECK (seq >= 0),
        digest BYTEA NOT NULL UNIQUE CHECK (length(digest) = 32),
        signed_event BYTEA NOT NULL
    )
    """,
    "CREATE TABLE store_lock (one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1))",
    "INSERT INTO store_lock (one) VALUES (1)",
    "CREATE INDEX ix_identity_event_identity ON identity_event (identity)",
)

HISTORY = ("tree", "block", "head", "log_leaf", "checkpoint", "identity_event")

SQLITE_TRIGGERS = (
    """
    CREATE TRIGGER feed_moves_forward BEFORE UPDATE ON feed WHEN NOT (
        NEW.id = OLD.id AND NEW.key = OLD.key AND NEW.manifest = OLD.manifest AND NEW.local = OLD.local AND (
            (NEW.retired = OLD.retired AND NEW.length > OLD.length AND NEW.byte_length >= OLD.byte_length)
            OR (NEW.retired > OLD.retired AND NEW.length = OLD.length AND NEW.byte_length = OLD.byte_length
                AND NEW.roots = OLD.roots)
        )
    ) BEGIN SELECT RAISE(ABORT, 'a feed only moves forward'); END
    """,
    "CREATE TRIGGER feed_stays BEFORE DELETE ON feed BEGIN SELECT RAISE(ABORT, 'history is insert-only: feed'); END",
    """
    CREATE TRIGGER log_moves_forward BEFORE UPDATE ON log WHEN NOT (
        NEW.one = OLD.one AND NEW.log_id = OLD.log_id AND NEW.size > OLD.size
    ) BEGIN SELECT RAISE(ABORT, 'the log only moves forward'); END
    """,
    "CREATE TRIGGER log_stays BEFORE DELETE ON log BEGIN SELECT RAISE(ABORT, 'history is insert-only: log'); END",
)

POSTGRESQL_TRIGGERS = (
    """
    CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'history is insert-only: %', TG_TABLE_NAME; END $$
    """,
    """
    CREATE FUNCTION refuse_move() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION '% only moves forward', TG_TABLE_NAME; END $$
    """,
    """
    CREATE TRIGGER feed_moves_forward BEFORE UPDATE ON feed FOR EACH ROW WHEN (NOT (
        NEW.id = OLD.id AND NEW.key = OLD.key AND NEW.manifest = OLD.manifest AND NEW.local = OLD.local AND (
            (NEW.retired = OLD.retired AND NEW.length > OLD.length AND NEW.byte_length >= OLD.byte_length)
            OR (NEW.retired > OLD.retired AND NEW.length = OLD.length AND NEW.byte_length = OLD.byte_length
                AND NEW.roots = OLD.roots)
        )
    )) EXECUTE FUNCTION refuse_move()
    """,
    "CREATE TRIGGER feed_stays BEFORE DELETE ON feed FOR EACH ROW EXECUTE FUNCTION refuse_change()",
    """
    CREATE TRIGGER log_moves_forward BEFORE UPDATE ON log FOR EACH ROW WHEN (NOT (
        NEW.one = OLD.one AND NEW.log_id = OLD.log_id AND NEW.size > OLD.size
    )) EXECUTE FUNCTION refuse_move()
    """,
    "CREATE TRIGGER log_stays BEFORE DELETE ON log FOR EACH ROW EXECUTE FUNCTION refuse_change()",
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
    for table in (*HISTORY, "store_lock"):
        for what in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{what.lower()} BEFORE {what} ON {table} "
                "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
            )
    for table in (*HISTORY, "feed", "log", "store_lock"):
        op.execute(
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )

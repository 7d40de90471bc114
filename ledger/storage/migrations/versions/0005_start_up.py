"""The store's id, and what starts found and did: who may go on writing which feed."""

from __future__ import annotations

from alembic import op

revision = "0005_start_up"
down_revision = "0004_sparse"
branch_labels = None
depends_on = None

SQLITE = (
    """
    CREATE TABLE store_identity (
        id INTEGER NOT NULL PRIMARY KEY,
        store BLOB NOT NULL UNIQUE CHECK (length(store) = 32)
    )
    """,
    """
    CREATE TABLE succession (
        id INTEGER NOT NULL PRIMARY KEY,
        reason TEXT NOT NULL,
        detail TEXT NOT NULL,
        feeds BIGINT NOT NULL CHECK (feeds >= 0),
        recorded_ms BIGINT NOT NULL
    )
    """,
)

POSTGRESQL = (
    """
    CREATE TABLE store_identity (
        id BIGSERIAL NOT NULL PRIMARY KEY,
        store BYTEA NOT NULL UNIQUE CHECK (length(store) = 32)
    )
    """,
    """
    CREATE TABLE succession (
        id BIGSERIAL NOT NULL PRIMARY KEY,
        reason TEXT NOT NULL,
        detail TEXT NOT NULL,
        feeds BIGINT NOT NULL CHECK (feeds >= 0),
        recorded_ms BIGINT NOT NULL
    )
    """,
)

HISTORY = ("store_identity", "succession")


SQLITE_ID = "INSERT INTO store_identity (store) VALUES (randomblob(32))"

POSTGRESQL_ID = """
    INSERT INTO store_identity (store)
    VALUES (decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'))
"""
"""244 random bits: PostgreSQL has no other source of them without an extension."""


def upgrade() -> None:
    """Make the tables and the id, in the words of the engine."""
    (sqlite if op.get_bind().dialect.name == "sqlite" else postgresql)()


def sqlite() -> None:
    for statement in (*SQLITE, SQLITE_ID):
        op.execute(statement)
    for table in HISTORY:
        for what in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{what.lower()} BEFORE {what} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, 'history is insert-only: {table}'); END"
            )


def postgresql() -> None:
    for statement in (*POSTGRESQL, POSTGRESQL_ID):
        op.execute(statement)
    for table in HISTORY:
        for what in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{what.lower()} BEFORE {what} ON {table} "
                "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
            )
        op.execute(
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )

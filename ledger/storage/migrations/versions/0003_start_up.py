"""The store's id, and what starts found and did: who may go on writing which feed."""

from __future__ import annotations

from alembic import op

revision = "0003_start_up"
down_revision = "0002_anchoring"
branch_labels = None
depends_on = None

TABLES = (
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

HISTORY = ("store_identity", "succession")


def upgrade() -> None:
    """Make the tables and the id; SQLite is the only engine this step is written for."""
    for statement in TABLES:
        op.execute(statement)
    op.execute("INSERT INTO store_identity (store) VALUES (randomblob(32))")
    for table in HISTORY:
        for what in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{what.lower()} BEFORE {what} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, 'history is insert-only: {table}'); END"
            )

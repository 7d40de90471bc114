"""What access over the network needs: nonces (docs/spec/http-signature.md), and intents (docs/spec/transaction.md).

On SQLite the table of nonces stays empty: there they lie in a file of their own. Rows are deleted after some minutes.
Intents follow from entries, as everything about databases does.
"""

from __future__ import annotations

from alembic import op

revision = "0008_access"
down_revision = "0007_database"
branch_labels = None
depends_on = None

DDL = (
    """
    CREATE TABLE request_nonce (
        key {bytes} NOT NULL CHECK (length(key) = 32),
        nonce TEXT NOT NULL,
        seen_s BIGINT NOT NULL,
        PRIMARY KEY (key, nonce)
    )
    """,
    "CREATE INDEX ix_request_nonce_seen ON request_nonce (key, seen_s)",
    "CREATE INDEX ix_request_nonce_old ON request_nonce (seen_s)",
    """
    CREATE TABLE database_intent (
        place {id},
        database BIGINT NOT NULL REFERENCES database (id),
        key {bytes} NOT NULL CHECK (length(key) = 32),
        sequence BIGINT NOT NULL CHECK (sequence >= 0),
        digest {bytes} NOT NULL CHECK (length(digest) = 32)
    )
    """,
    "CREATE INDEX ix_database_intent_key ON database_intent (database, key, sequence)",
)

WORDS = {
    "sqlite": {"id": "INTEGER NOT NULL PRIMARY KEY", "bytes": "BLOB"},
    "postgresql": {"id": "BIGINT NOT NULL PRIMARY KEY", "bytes": "BYTEA"},
}


def upgrade() -> None:
    """Make the tables, in the words of the engine."""
    words = WORDS[op.get_bind().dialect.name]
    for statement in DDL:
        op.execute(statement.format(**words))

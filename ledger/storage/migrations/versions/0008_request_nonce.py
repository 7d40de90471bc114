"""Nonces of requests over the network, which the server processes of one store share (docs/spec/http-signature.md).

On SQLite the table stays empty: there they lie in a file of their own. Rows are deleted after two minutes.
"""

from __future__ import annotations

from alembic import op

revision = "0008_request_nonce"
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
)

WORDS = {"sqlite": {"bytes": "BLOB"}, "postgresql": {"bytes": "BYTEA"}}


def upgrade() -> None:
    """Make the table, in the words of the engine."""
    words = WORDS[op.get_bind().dialect.name]
    for statement in DDL:
        op.execute(statement.format(**words))

"""The tables that the migrations make are the tables that the code is written for, of every package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import anchoring.chain.closing as closing_tables
import anchoring.storage as anchoring_tables
import sync.storage.tables as database_tables
from ledger.storage import sparse as sparse_tables
from ledger.storage.engine import open_store
from ledger.storage.schema import metadata
from ledger.storage.sql import SqlStore

DECLARED_BY = (sparse_tables, anchoring_tables, closing_tables, database_tables)
"""What must be imported for ``metadata`` to be whole."""
BARE = {"request_nonce", "store_identity", "store_lock", "succession"}
"""Read and written in plain SQL only: they are of the store, not of what is kept in it."""


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlStore]:
    if request.param == "sqlite":
        opened = open_store(tmp_path / "store.db", create=True)
    else:
        opened = open_store(request.getfixturevalue("empty_postgres"))
    with closing(opened):
        yield opened


def _is_compared(thing: Any, name: str | None, kind: str, *_: object) -> bool:
    if kind == "table":
        return name not in BARE
    # The constraint on (size, response) is an index over the response's digest on PostgreSQL.
    return kind == "column" or thing.table.name != "timestamp_token"


def test_migrated_tables_match_the_metadata(store: SqlStore) -> None:
    with store.read() as tx:
        options = {"compare_type": True, "include_object": _is_compared}
        assert compare_metadata(MigrationContext.configure(tx.connection, opts=options), metadata) == []


def test_every_table_of_the_database_is_listed() -> None:
    ours = {name for name in metadata.tables if name.partition("_")[0] == "database"}
    assert {table.name for table in database_tables.DATABASE_TABLES} == ours

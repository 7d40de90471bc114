"""The tables that the migrations make are the ones that the database's code is written for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from ledger.storage.engine import open_store
from ledger.storage.schema import metadata
from ledger.storage.sql import SqlStore
from sync.storage.tables import DATABASE_TABLES

OURS = {table.name for table in DATABASE_TABLES}


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlStore]:
    if request.param == "sqlite":
        opened = open_store(tmp_path / "store.db", create=True)
    else:
        opened = open_store(request.getfixturevalue("empty_postgres"))
    yield opened
    opened.close()


def test_migrated_tables_match_the_metadata(store: SqlStore) -> None:
    with store.read() as tx:
        context = MigrationContext.configure(
            tx.connection,
            opts={
                "compare_type": True,
                "include_name": lambda name, kind, parents: kind != "table" or name in OURS,
                "include_object": lambda thing, name, kind, *_: kind != "table" or name in OURS,
            },
        )
        assert compare_metadata(context, metadata) == []


def test_every_table_is_listed() -> None:
    assert {name for name in metadata.tables if name.partition("_")[0] == "database"} == OURS

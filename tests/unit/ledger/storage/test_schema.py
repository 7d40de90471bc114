"""What the migrations leave: history that no statement changes, revisions in one line, positions that fit a row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from ledger.storage import migrate
from ledger.storage.engine import open_store
from ledger.storage.schema import MAX_FEEDS, MAX_LENGTH
from ledger.storage.sql import SqlStore

SPARSE = {"sparse_feed", "sparse_node", "sparse_block", "sparse_head"}
OURS = {"block", "checkpoint", "feed", "head", "identity_event", "log", "log_leaf", "tree"} | SPARSE


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlStore]:
    if request.param == "sqlite":
        opened = open_store(tmp_path / "store.db", create=True)
    else:
        opened = open_store(request.getfixturevalue("empty_postgres"))
    yield opened
    opened.close()


def test_every_table_of_history_has_its_triggers(store: SqlStore) -> None:
    with store.read() as tx:
        query = "SELECT tgname FROM pg_trigger"
        if tx.connection.dialect.name == "sqlite":
            query = "SELECT name FROM sqlite_schema WHERE type = 'trigger'"
        rows = tx.connection.exec_driver_sql(query).scalars().all()
    for table in OURS - {"feed", "log", "sparse_feed"}:
        assert {f"{table}_no_update", f"{table}_no_delete"} <= set(rows)


def test_revisions_are_one_line_named_after_their_files() -> None:
    script = ScriptDirectory(str(Path(migrate.__file__).parent / "migrations"))
    line = [step.revision for step in script.walk_revisions()]
    assert tuple(reversed(line)) == migrate.REVISIONS
    assert migrate.REVISIONS[0] == "0001_ledger"


def test_positions_fit_a_row_number() -> None:
    assert (MAX_FEEDS << 40 | MAX_LENGTH) == 2**63 - 1

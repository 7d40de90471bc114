"""The tables that the migrations make are the tables that the code is written for."""

from __future__ import annotations

from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from ledger.storage import migrate
from ledger.storage.schema import MAX_FEEDS, MAX_LENGTH, metadata
from ledger.storage.sqlite import open_sqlite

OURS = {"block", "checkpoint", "feed", "head", "identity_event", "log", "log_leaf", "tree"}


def test_migrated_tables_match_the_metadata(tmp_path: Path) -> None:
    with open_sqlite(tmp_path / "store.db", create=True).read() as tx:
        context = MigrationContext.configure(
            tx.connection,
            opts={
                "compare_type": True,
                "include_name": lambda name, kind, parents: kind != "table" or name in OURS,
                "include_object": lambda thing, name, kind, *_: kind != "table" or name in OURS,
            },
        )
        assert compare_metadata(context, metadata) == []


def test_every_table_of_history_has_its_triggers(tmp_path: Path) -> None:
    with open_sqlite(tmp_path / "store.db", create=True).read() as tx:
        rows = tx.connection.exec_driver_sql("SELECT name FROM sqlite_schema WHERE type = 'trigger'").scalars().all()
    for table in OURS - {"feed", "log"}:
        assert {f"{table}_no_update", f"{table}_no_delete"} <= set(rows)


def test_revisions_are_one_line_named_after_their_files() -> None:
    script = ScriptDirectory(str(Path(migrate.__file__).parent / "migrations"))
    line = [step.revision for step in script.walk_revisions()]
    assert tuple(reversed(line)) == migrate.REVISIONS
    assert migrate.REVISIONS[0] == "0001_ledger"


def test_positions_fit_a_row_number() -> None:
    assert (MAX_FEEDS << 40 | MAX_LENGTH) == 2**63 - 1

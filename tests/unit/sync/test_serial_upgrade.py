"""A store of before there were serial writes: its rows are kept, and it takes entries of the new kinds."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

from sync.changes import Changes, Strength

TABLES = ("database_txn", "database_stray")


def test_entries_are_kept_and_new_kinds_are_taken(world: Any) -> None:
    laptop = world.replica("laptop")
    laptop.put("seats", "1", x=1)
    before = rows(laptop.url)
    laptop.close()
    go_back(laptop.url)
    laptop.reopen()
    assert rows(laptop.url) == before
    assert indexes(laptop.url) >= {"ix_database_txn_past", "ix_database_txn_others"}
    assert laptop.db.audit() == []
    laptop.db.set_home("seats", laptop.feed)
    changes = Changes(strength=Strength.SERIAL)
    changes.put("seats", "1", {"x": 2})
    laptop.db.commit(changes)
    assert laptop.db.audit() == []


def go_back(path: str) -> None:
    """Let a store be as the version before made it."""
    with closing(sqlite3.connect(path)) as database:
        for table in TABLES:
            (made,) = database.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()
            old = made.replace("BETWEEN 1 AND 7", "BETWEEN 1 AND 4").replace(f'"{table}"', f"old_{table}")
            assert old != made
            database.execute(old)
            database.execute(f"INSERT INTO old_{table} SELECT * FROM {table}")
            database.execute(f"DROP TABLE {table}")
            database.execute(f"ALTER TABLE old_{table} RENAME TO {table}")
        database.execute("CREATE INDEX ix_database_txn_past ON database_txn (branch, seq) WHERE past IS NOT NULL")
        database.execute("CREATE INDEX ix_database_txn_others ON database_txn (branch) WHERE kind <> 1")
        database.execute("DROP TABLE database_proposal")
        database.execute("DROP TABLE database_decision")
        database.execute("UPDATE alembic_version SET version_num = '0008_access'")
        database.commit()


def rows(path: str) -> dict[str, list[tuple[Any, ...]]]:
    with closing(sqlite3.connect(path)) as database:
        return {table: database.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES}


def indexes(path: str) -> set[str]:
    with closing(sqlite3.connect(path)) as database:
        return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}

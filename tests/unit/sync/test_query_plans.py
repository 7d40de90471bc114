"""Where SQLite begins with a statement: at what is asked for, never at all that a database has."""

import re
from pathlib import Path

import pytest

from ledger.storage.engine import open_store
from sync.storage.queries import queries_for

BEGINNINGS = {
    "conflict_counts": r"SEARCH database_document USING INDEX ix_database_document_conflicts",
    "conflicting": r"SEARCH database_document USING INDEX ix_database_document_conflicts",
    "contested": r"SCAN c\b",
    "contested_behind": r"SEARCH c .*\(found_at>",
    "contests_found": r"SEARCH database_contest .*\(found_at>",
    "entries_behind": r"SEARCH t .*\((place|rowid)>",
    "entry_before": r"SEARCH t .*\((place|rowid)<",
    "live": r"SEARCH o USING INDEX ix_database_op_live",
    "past": r"SEARCH database_txn USING INDEX ix_database_txn_past",
    "rebuilt_after": r"SEARCH r .*\(\(place,document\)>",
    "undone_after": r"SEARCH u .*\(place>",
    "writers_beyond": r"SEARCH o .*\(document=",
}


@pytest.mark.parametrize("name", BEGINNINGS)
def test_begins_at_what_is_asked_for(name: str, tmp_path: Path) -> None:
    store, statement = open_store(tmp_path / "s.db", create=True), getattr(queries_for("sqlite"), name)
    with store.read() as tx:
        plan = [row[-1] for row in tx.fetch_all(f"EXPLAIN QUERY PLAN {statement}", (None,) * statement.count("?"))]
    store.close()
    assert re.match(BEGINNINGS[name], plan[0]), plan


@pytest.mark.parametrize(
    ("name", "index"), [("heads", "sqlite_autoindex_database_txn"), ("pasts", "ix_database_txn_past")]
)
def test_finds_the_newest_entry_of_each_branch_by_its_index(name: str, index: str, tmp_path: Path) -> None:
    store = open_store(tmp_path / "s.db", create=True)
    with store.read() as tx:
        statement = getattr(queries_for("sqlite"), name)
        plan = [row[-1] for row in tx.fetch_all(f"EXPLAIN QUERY PLAN {statement}", (1,))]
    store.close()
    assert plan[0].startswith("SEARCH b "), plan
    assert any(step.startswith("SEARCH n ") and index in step for step in plan), plan
    assert not any(step.startswith("SCAN") for step in plan), plan


def test_finds_the_entries_that_are_not_transactions_by_their_index(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s.db", create=True)
    with store.read() as tx:
        plan = [row[-1] for row in tx.fetch_all(f"EXPLAIN QUERY PLAN {queries_for('sqlite').others}", (1,))]
    store.close()
    assert plan[1].startswith("SEARCH t USING INDEX ix_database_txn_others"), plan

"""Rows that no replay and no feed reads as a whole, altered below the engine: the audit names each."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest


def alter(path: Path, statement: str) -> None:
    """Run SQL past triggers and checks, as somebody with the file in their hands can."""
    with closing(sqlite3.connect(path)) as connection:
        triggers = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("PRAGMA ignore_check_constraints = ON")
        assert connection.execute(statement).rowcount > 0
        for _, sql in triggers:
            connection.execute(sql)
        connection.commit()


def test_nothing_was_altered(shell: Any) -> None:
    assert "store:" not in shell("audit").out


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE log_leaf SET hashes = zeroblob(length(hashes)) WHERE idx = 1", "log leaf 1: the stored hash of level"),
        ("UPDATE log_leaf SET hashes = substr(hashes, 1, 32) WHERE idx = 1", "log leaf 1: the stored hash of level 1"),
        ("UPDATE log SET frontier = zeroblob(length(frontier))", "frontier"),
        ("UPDATE checkpoint SET root = zeroblob(32) WHERE size = 4", "checkpoint 4: the root beside the note"),
        ("DELETE FROM checkpoint WHERE size = 7", "the checkpoint of its 7 leaves is gone"),
        ("UPDATE identity_event SET digest = zeroblob(32) WHERE seq = 1", "identity event 1"),
        ("DELETE FROM timestamp_token", "of the responses that it names for checkpoint 4, 1 are gone"),
        ("UPDATE timestamp_token SET size = 7", "of the responses that it names for checkpoint 4, 1 are gone"),
        ("UPDATE timestamp_token SET response = CAST(response || x'00' AS BLOB)", "of the responses that it names"),
        ("UPDATE timestamp_token SET gen_time_ms = 5", "the time beside it"),
        ("DELETE FROM timestamp_material", "of the crls that it names for checkpoint 4, 1 are gone"),
        ("UPDATE timestamp_material SET data = CAST(data || x'00' AS BLOB)", "of the crls that it names"),
        ("UPDATE timestamp_material SET kind = 'ocsps'", "of the crls that it names"),
        ("DELETE FROM anchor_receipt", "the final anchor of size 4 that it names, or its receipt, is not here"),
        ("UPDATE anchor_receipt SET block_hash = zeroblob(32)", "it is final, and there is no receipt"),
        ("DELETE FROM anchor", "the final anchor of size 4"),
        ("UPDATE anchor SET state = 'failed'", "the final anchor of size 4"),
        ("UPDATE anchor SET block_number = block_number + 1", "its receipt shows another anchor"),
        ("UPDATE anchor SET root = zeroblob(32)", "anchor of size 4: its root is not the log's"),
    ],
)
def test_an_altered_row_is_named(shell: Any, statement: str, named: str) -> None:
    alter(shell.path("home/vault.db"), statement)
    assert named in shell("audit", code=1).out


@pytest.fixture
def banks(shell: Any) -> Any:
    """A home with two databases that hold one document each."""
    for name in ("bank", "branch"):
        shell("db", "create", name, "--device", "laptop")
        shell("db", "put", name, "accounts/1", '{"owner": "Ada"}')
    return shell


def test_nothing_was_altered_in_a_database(banks: Any) -> None:
    assert "store:" not in banks("audit").out


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE database_op SET val = CAST(val || x'00' AS BLOB) WHERE path = '/owner'", "'val'"),
        ("UPDATE database_op SET dead = place WHERE path = '/owner'", "'dead'"),
        ("UPDATE database_document SET etag = 'AAAA' WHERE key = '1'", "document accounts/1: 'etag'"),
        ("UPDATE database_document SET etag = 5 WHERE key = '1'", "document accounts/1: 'etag'"),
    ],
)
def test_an_altered_row_is_named_in_every_database(banks: Any, statement: str, named: str) -> None:
    alter(banks.path("home/vault.db"), statement)
    ran = banks("audit", code=1)
    for name in ("bank", "branch"):
        assert any(line.startswith(f"store: FAILED: database {name}: ") and named in line for line in ran.lines)
    faults = [row["detail"] for row in banks("audit", "--json", code=1).json if row["kind"] == "store-fault"]
    assert [f"store: FAILED: {one}" for one in faults] == [line for line in ran.lines if line.startswith("store:")]
    assert "store:" not in banks("audit", "--log").out, "which is not about databases"


def test_a_database_that_cannot_be_read_hides_no_other(banks: Any) -> None:
    alter(banks.path("home/vault.db"), "UPDATE database_branch SET uid = zeroblob(32) WHERE database = 1")
    alter(banks.path("home/vault.db"), "UPDATE database_op SET dead = place WHERE path = '/owner'")
    out = banks("audit", code=1).out
    assert "store: FAILED: database bank: the tables cannot be read any further" in out
    assert "store: FAILED: database branch: " in out


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO checkpoint SELECT size + 100, root, note FROM checkpoint WHERE size = 4",
        "UPDATE identity_event SET seq = 9 WHERE seq = 1",
        "UPDATE checkpoint SET note = CAST(x'fffe' AS TEXT) WHERE size = 4",
        "UPDATE feed SET id = 4611686018427387904 WHERE id = 1",
        "UPDATE feed SET length = -1 WHERE id = 1",
        "UPDATE timestamp_token SET response = 'text'",
        "UPDATE timestamp_token SET gen_time_ms = 1.5",
        "UPDATE timestamp_material SET data = 5",
        "UPDATE anchor SET changed_ms = 'text'",
        "UPDATE anchor SET block_hash = 'text'",
        "UPDATE anchor_receipt SET receipt = 5",
    ],
)
def test_a_value_that_cannot_be_is_a_damaged_store(shell: Any, statement: str) -> None:
    alter(shell.path("home/vault.db"), statement)
    for line in ("audit", "anchor status", "checkpoint list", "status", "evidence export ledger 41 -o again.json"):
        assert shell(*line.split(), code=None).code in (0, 1, 2, 74)
    assert shell("audit", code=None).code in (1, 2, 74)


def test_a_logged_head_that_is_gone(shell: Any) -> None:
    """A later head covers its entries, so the feed holds; what the log states could not be shown any more."""
    shell("feed", "append", "ledger", "notes.jsonl")
    shell("checkpoint", "create")
    alter(shell.path("home/vault.db"), "DELETE FROM head WHERE pos = (1 << 40) + 42")
    out = shell("audit", code=1).out
    assert "the signed head of length 42 that it states is gone" in out
    assert "feed ledger: PASSED" in out


def test_a_logged_head_that_was_replaced(shell: Any) -> None:
    shell("feed", "append", "ledger", "notes.jsonl")
    shell("checkpoint", "create")
    alter(shell.path("home/vault.db"), "UPDATE head SET tree_hash = zeroblob(32) WHERE pos = (1 << 40) + 42")
    assert "the signed head of length 42 is another than it states" in shell("audit", code=1).out

"""No table is forgotten by a backup: each is archived, or docs/spec/archive.md says why it stays behind."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import inspect

from ledger.storage.engine import open_store

ARCHIVED = {
    "identities": {"identity_event"},
    "feed": {"feed", "block", "tree", "head"},
    "log": {"log", "log_leaf", "checkpoint"},
    "timestamps": {"timestamp_token", "timestamp_material"},
    "anchors": {"anchor", "anchor_transaction", "anchor_receipt"},
}
"""By the section that holds them."""


@pytest.fixture(params=["sqlite", "postgresql"])
def tables(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[set[str]]:
    """The tables of a store, as its engine has them."""
    place: Path | str = tmp_path / "store.db"
    if request.param == "postgresql":
        place = request.getfixturevalue("empty_postgres")
    with closing(open_store(place, create=request.param == "sqlite")) as store, store.read() as tx:
        yield set(inspect(tx.connection).get_table_names())


def test_every_table_is_archived_or_has_a_reason(tables: set[str], root: Path) -> None:
    text = (root / "docs" / "spec" / "archive.md").read_text(encoding="utf-8")
    left_out = text.partition("| table | why a backup leaves it out |")[2].partition("\n\n")[0]
    rows = [row.split("|")[1] for row in left_out.splitlines() if row.startswith("| `")]
    local = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    archived = set().union(*ARCHIVED.values())
    assert local.isdisjoint(archived)
    assert tables - archived - local == set(), "a new table: archive it, or say why not"
    assert archived <= tables
    assert local - tables <= {"store_lock"}, "the table that only PostgreSQL has"

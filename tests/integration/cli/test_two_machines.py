"""Two machines, each with its home, on one PostgreSQL store: neither takes the other for a copy of itself."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from api import founding
from api.home import Home
from api.settings import load_settings
from api.start_up import sentinel_path
from identity.keystore import ONLY_FOR_TESTING
from ledger.sentinel import describe_store
from ledger.sentinel_file import SentinelFile
from ledger.storage.engine import open_store
from ledger.storage.start_up import load_store_id

pytestmark = pytest.mark.integration


@pytest.fixture
def machines(shell: Any, postgres: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """A home with two devices, and the same home on a second machine."""
    real = founding.create_keystore
    monkeypatch.setattr(founding, "create_keystore", lambda *given, profile: real(*given, profile=ONLY_FOR_TESTING))
    database = str(postgres.url(postgres.new_database()))
    first = shell.at("one", HOLDFAST_MACHINE="one", HOLDFAST_SENTINEL_DIR=str(shell.path("sentinels-one")))
    first("init", "--phrase-file", "p.txt", "--device", "laptop", "--device", "phone", "--database", database)
    shutil.copytree(shell.path("one"), shell.path("two"))
    second = shell.at("two", HOLDFAST_MACHINE="two", HOLDFAST_SENTINEL_DIR=str(shell.path("sentinels-two")))
    first("feed", "create", "ledger", "--device", "laptop")
    first("feed", "create", "empty", "--device", "laptop")
    first("feed", "append", "ledger", "notes.jsonl")
    return first, second


def feeds(shell: Any) -> dict[str, tuple[bool, int]]:
    return {feed["name"]: (feed["retired"], feed["length"]) for feed in shell("feed", "list", "--json").json}


def test_a_second_machine_leaves_the_first_ones_feeds_alone(machines: tuple[Any, Any]) -> None:
    first, second = machines
    ran = second("feed", "create", "second", "--device", "phone")
    assert "retired" not in ran.err
    second("feed", "append", "second", "notes.jsonl")
    assert not any(retired for retired, _ in feeds(second).values())
    for machine, feed in ((first, "ledger"), (first, "empty"), (second, "second"), (first, "ledger")):
        assert "retired" not in machine("feed", "append", feed, "notes.jsonl").err
    status = [machine("status", "--json").json[0] for machine in machines]
    assert [(one["sentinel"], one["new_feeds"]) for one in status] == [("same", 0)] * 2
    second("checkpoint", "create")
    second("anchor", "run")
    first("audit")


def test_a_machine_that_has_lost_its_sentinel_goes_on(machines: tuple[Any, Any]) -> None:
    """The leases say that the database has the history in which the feeds were signed."""
    first, second = machines
    second("feed", "append", "ledger", "notes.jsonl")
    shutil.rmtree(first.path("sentinels-one"))
    assert "retired" not in first("feed", "append", "ledger", "notes.jsonl").err


def test_a_store_that_was_put_back_is_found_by_both(machines: tuple[Any, Any]) -> None:
    """What the sentinel of either has seen and the store does not hold: then nobody goes on in these feeds."""
    first, second = machines
    second("feed", "append", "ledger", "notes.jsonl")
    settings = load_settings(Home(first.path("one")), first.environment())
    with closing(open_store(settings.database, read_only=True)) as opened, opened.read() as tx:
        store_id = load_store_id(tx.connection)
        file = SentinelFile(sentinel_path(settings, store_id), store_id)
        was = file.read().newest
        assert was is not None
        now = describe_store(tx, store_id, was.machine, sequence=was.sequence + 1)
        file.begin(replace(now, entries=now.entries + 1))
        file.close()
    assert "1 entries are missing" in first("feed", "append", "ledger", "notes.jsonl").err
    assert feeds(first)["empty"][0]

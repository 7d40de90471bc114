"""``recover succeed`` when more is lost than the end of the log: a key, the chain, or the keystore itself."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from identity.keystore import ONLY_FOR_TESTING, KeyRing, open_keystore, replace_keystore
from ledger.storage.engine import open_store

pytestmark = pytest.mark.integration

PASSPHRASE = "correct horse battery staple"


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    from identity import keystore

    monkeypatch.setattr(keystore.create_keystore, "__kwdefaults__", {"profile": ONLY_FOR_TESTING})


@pytest.fixture
def database(postgres: Any) -> Iterator[str]:
    """A database without a store."""
    name = postgres.new_database()
    yield str(postgres.url(name))
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def lost(shell: Any) -> Any:
    """A home of a backup that is older than the newest anchor; nobody has what came after it."""
    return lose(shell)


def lose(shell: Any, *options: str) -> Any:
    """Put an older backup back, with those options of ``restore``."""
    shell("backup", "create", "older.backup")
    shell("feed", "append", "ledger", "notes.jsonl")
    shell("checkpoint", "create")
    shell("anchor", "run")
    shutil.rmtree(shell.path("home"))
    shell("restore", "older.backup", "--home", "restored", *options)
    return shell.at("restored")


def change_keys(shell: Any, **changes: Any) -> KeyRing:
    file = shell.path("restored/keystore.hfk")
    ring = open_keystore(file, PASSPHRASE)
    replace_keystore(file, PASSPHRASE, replace(ring, **changes), expected=ring)
    return ring


def go_on(shell: Any, feed: str = "ledger") -> dict[str, Any]:
    """Write, commit and anchor in the successor, as on any day; returns what the audit says."""
    shell("feed", "append", feed, "notes.jsonl")
    shell("checkpoint", "create")
    shell("anchor", "run")
    found = shell("audit", "--log", "--json", code=None).json
    return dict(found[-1])


def test_on_postgresql(shell: Any, database: str) -> None:
    """The successor is another schema of the same database."""
    lost = lose(shell, "--database", database)
    (planned,) = lost("recover", "succeed", "--dry-run", "--json").json
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM pg_namespace WHERE nspname LIKE '%after%'").fetchone() == (0,)
    ran = lost("recover", "succeed", "--json")
    assert [answer["kind"] for answer in ran.json] == ["succession", "close"]
    assert ran.json[0]["store"] == planned["store"]
    assert "whoever else uses postgresql://" in ran.err
    found = go_on(lost)
    assert (found["state"], found["predecessor"]) == ("consistent", "closed")
    before = lost.at("restored", HOLDFAST_DATABASE=database)
    assert before("feed", "append", "ledger", "notes.jsonl", code=77).err  # it is there, and it is closed
    keys = {feed["name"]: feed["key"] for feed in before("feed", "list", "--json").json}
    assert before("feed", "read", keys["ledger"]).lines == lost("feed", "read", keys["ledger"]).lines != []


def test_a_successor_that_was_begun_on_postgresql(shell: Any, database: str) -> None:
    """Stopped after its schema was made: the next run fills it. A schema of somebody else is left alone."""
    lost = lose(shell, "--database", database)
    (planned,) = lost("recover", "succeed", "--dry-run", "--json").json
    schema = planned["store"].rpartition("=")[2]
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
        assert "has no tables of a store" in lost("recover", "succeed", code=74).err
        connection.execute(f"DROP SCHEMA {schema}")
    open_store(f"{database}?schema={schema}", create=True).close()
    lost("recover", "succeed")
    assert go_on(lost)["state"] == "consistent"


def test_the_anchor_key_is_lost(lost: Any) -> None:
    change_keys(lost, anchor_key=None)
    ran = lost("recover", "succeed", "--json")
    assert "the log cannot be closed on chain" in ran.err
    assert ran.json[0]["close"] is False
    found = go_on(lost)
    assert (found["state"], found["predecessor"]) == ("consistent", "not-closed")


def test_another_key_that_has_coins(lost: Any) -> None:
    """Only when the one is lost by which the log can be closed."""
    key = bytes(31) + b"\x07"
    lost.write("coins.key", key.hex() + "\n")
    before = lost.kept()
    option = ("--anchor-key-file", "coins.key")
    assert "closes it with its own anchor key" in lost("recover", "succeed", *option, code=77).err
    assert lost.kept() == before
    change_keys(lost, anchor_key=None)
    lost("recover", "succeed", *option)
    assert open_keystore(lost.path("restored/keystore.hfk"), PASSPHRASE).anchor_key == key
    assert go_on(lost)["state"] == "consistent"


def test_the_chain_is_gone(lost: Any) -> None:
    shutil.rmtree(lost.path("dev"))
    assert lost("feed", "append", "ledger", "notes.jsonl", code=None).code in (75, 77)
    lost("recover", "succeed", code=None)
    ran = lost("recover", "succeed", "--chain-is-gone", "--json")
    assert ran.json[0]["close"] is False
    assert go_on(lost)["state"] == "consistent"


def test_the_keystore_is_lost(shell: Any) -> None:
    """With it go the keys of log and anchors: the phrase gives the root, and the root a successor."""
    shell.path("home/keystore.hfk").unlink()
    ran = shell("identity", "recover", "--phrase-file", "phrase.txt", "--device", "desk", "--json")
    assert "the log's key is lost" in shell("recover", "succeed").err
    (line,) = [line for line in ran.err.splitlines() if "feed create ledger" in line]
    new = shell(*line[line.index("feed create ledger") : line.rindex('"')].split()).field("key")
    found = go_on(shell, new)
    assert (found["state"], found["predecessor"]) == ("consistent", "not-closed")
    for row in shell("feed", "list", "--json").json:
        assert row["retired"] == (row["key"] != new)


def test_a_keystore_that_cannot_sign_for_the_root(lost: Any) -> None:
    change_keys(lost, root_seeds=())
    before = lost.kept()
    assert "bound by the root" in lost("recover", "succeed", code=77).err
    assert lost.kept() == before

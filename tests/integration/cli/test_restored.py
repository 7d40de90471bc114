"""What a restored home does next, on both engines: it writes in new feeds, and what it lacks can be brought back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from api.home import Home
from api.settings import load_settings
from api.start_up import sentinel_path
from ledger.manifest import describe, parse_manifest
from ledger.storage.engine import open_store
from ledger.storage.start_up import load_store_id, load_successions

pytestmark = pytest.mark.integration

Signed = dict[tuple[bytes, int], set[bytes]]
"""Feed and length -> every tree hash that was signed for it."""


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """The options with which ``restore`` makes its store on an engine."""
    if request.param == "sqlite":
        yield []
        return
    postgres = request.getfixturevalue("postgres")
    name = postgres.new_database()
    yield ["--database", postgres.url(name)]
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


def store_of(shell: Any) -> Any:
    settings = load_settings(Home(shell.path(shell.home)), shell.environment())
    return closing(open_store(settings.database, read_only=True))


def store_id(shell: Any) -> bytes:
    with store_of(shell) as store, store.read() as tx:
        return load_store_id(tx.connection)


def collect(signed: Signed, shell: Any) -> None:
    """Add every signature that stands in the store."""
    with store_of(shell) as store, store.read() as tx:
        for feed in tx.feeds():
            for head in tx.heads(feed.key):
                signed.setdefault((feed.key, head.length), set()).add(head.tree_hash)


def assert_nothing_signed_twice(signed: Signed) -> None:
    assert [place for place, hashes in signed.items() if len(hashes) > 1] == []


def restore(shell: Any, backup: str, home: str, *options: str) -> Any:
    shell("restore", backup, "--home", home, *options)
    return shell.at(home)


def row(shell: Any, text: str) -> str:
    return str(shell.write("row.jsonl", f'{{"text": "{text}"}}\n'))


def test_a_backup_names_its_store_and_the_restored_one_is_another(shell: Any, database: list[str]) -> None:
    from anchoring.archive_file import archived_store
    from anchoring.contracts import load_contract

    shell("backup", "create", "home.backup")
    with (
        shell.path("home.backup").open("rb") as stream,
        archived_store(stream, load_contract().code_hash) as (_, found),
    ):
        assert found.header.store_id == store_id(shell)
    restored = restore(shell, "home.backup", "restored", *database)
    assert store_id(restored) != store_id(shell)


def test_the_first_write_goes_on_in_a_new_feed(shell: Any, database: list[str]) -> None:
    shell("backup", "create", "home.backup")
    old = {feed["name"]: feed["key"] for feed in shell("feed", "list", "--json").json}
    restored = restore(shell, "home.backup", "restored", *database)
    settings = load_settings(Home(restored.path("restored")), restored.environment())
    sentinel = sentinel_path(settings, store_id(restored))
    assert not sentinel.exists()
    ran = restored("feed", "append", "ledger", row(shell, "six"), "--json")
    (answer,) = ran.json
    assert f"feed {old['ledger']} is retired; feed {answer['key']} continues it" in ran.err
    assert "no sentinel" not in ran.err
    assert (answer["first"], answer["length"]) == (0, 1)
    assert sentinel.exists()
    assert "retired" not in restored("feed", "append", "ledger", row(shell, "seven")).err
    with store_of(restored) as store, store.read() as tx:
        (found,) = load_successions(tx.connection)
        assert (found.reason, found.feeds) == ("restored", 2)
        newest = tx.feeds()[-1]
        told = describe(parse_manifest(newest.manifest))
        assert told is not None
        assert told.continues is not None
        assert (told.continues.key, newest.length) == (tx.feeds()[0].key, 2)
    restored("checkpoint", "create")
    restored("anchor", "run")
    restored("audit")


def test_no_index_is_signed_twice(shell: Any, database: list[str]) -> None:
    """Backup, write, lose the home, restore, write: once more from a backup of that, and from the first one."""
    signed: Signed = {}
    shell("backup", "create", "one.backup")
    for text in ("a", "b"):
        shell("feed", "append", "ledger", row(shell, text))
    collect(signed, shell)
    second = restore(shell, "one.backup", "second", *database)
    second("feed", "append", "ledger", row(shell, "c"))
    second("backup", "create", "two.backup")
    second("feed", "append", "ledger", row(shell, "d"))
    collect(signed, second)
    third = restore(shell, "two.backup", "third")
    third("feed", "append", "ledger", row(shell, "e"))
    third("feed", "append", "notes", row(shell, "f"))
    collect(signed, third)
    again = restore(shell, "one.backup", "again")
    again("feed", "append", "ledger", row(shell, "g"))
    collect(signed, again)
    assert_nothing_signed_twice(signed)
    third("checkpoint", "create")
    third("audit")


@pytest.mark.parametrize("newer", ["backup", "export"])
def test_a_newer_archive_brings_an_older_backup_back(shell: Any, database: list[str], newer: str) -> None:
    """Row B1, by way of backups: read-only, until what was anchored after it is there again, tokens and all."""
    signed: Signed = {}
    shell("backup", "create", "older.backup")
    shell("feed", "append", "ledger", row(shell, "later"))
    shell("feed", "create", "third", "--device", "laptop")
    shell("feed", "append", "third", row(shell, "elsewhere"))
    shell("checkpoint", "create")
    shell("anchor", "run")
    shell("checkpoint", "create", "--restate")
    shell("anchor", "run")
    command = ("backup", "create", "newer.archive") if newer == "backup" else ("audit", "--export", "newer.archive")
    shell(*command)
    collect(signed, shell)
    restored = restore(shell, "older.backup", "restored", *database)
    assert "behind-anchor" in restored("feed", "append", "ledger", row(shell, "no"), code=77).err
    (told,) = restored("recover", "fetch", "newer.archive", "--json").json
    assert (told["state"], told["entries"], told["missing"]) == ("consistent", 2, [])
    assert told["statements"] > 0
    for feed in ("ledger", "third") if newer == "backup" else ("ledger",):
        restored("feed", "append", feed, row(shell, "again"))
    restored("checkpoint", "create")
    restored("anchor", "run")
    collect(signed, restored)
    assert_nothing_signed_twice(signed)
    restored("audit")


@pytest.mark.parametrize("damage", ["cut", "altered", "another log"])
def test_an_archive_that_does_not_hold_brings_nothing_back(shell: Any, fresh: Any, damage: str) -> None:
    shell("backup", "create", "older.backup")
    source = fresh() if damage == "another log" else shell
    source("feed", "append", "ledger", row(source, "later"))
    source("checkpoint", "create")
    source("anchor", "run")
    source("backup", "create", "newer.backup")
    data = bytearray(source.path("newer.backup").read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "altered":
        data[len(data) // 2] ^= 1
    if damage == "another log":  # a copy of this home that went on by itself: what it has is not what was anchored here
        shell("feed", "append", "ledger", row(shell, "other"))
        shell("checkpoint", "create")
        shell("anchor", "run")
    shell.write("newer.backup", bytes(data))
    restored = restore(shell, "older.backup", "restored")
    before = restored("feed", "heads", "ledger").lines
    assert restored("recover", "fetch", "newer.backup", code=None).code in (1, 2, 77)
    assert restored("feed", "heads", "ledger").lines == before
    assert restored("status", "--json", code=None).json[0]["state"] == "behind-anchor"

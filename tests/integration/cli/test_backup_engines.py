"""Row F1: a home moves from SQLite to PostgreSQL and back, and every root, head, note and evidence file is the same."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anchoring.archive_file import write_archive
from api.backup import verify_archive
from api.home import Home
from api.settings import load_settings
from identity.history import build_add_device, build_inception, fold, key_commitment, sign_event
from identity.keys import Ed25519Signer
from ledger.archive import Purpose
from ledger.feed import FeedWriter, create_feed
from ledger.identities import add_events
from ledger.log import root_at
from ledger.storage.engine import open_store

pytestmark = pytest.mark.integration


@pytest.fixture
def url(postgres: Any) -> Iterator[str]:
    """A database without a store."""
    name = postgres.new_database()
    yield postgres.url(name)
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


def facts(shell: Any) -> dict[str, Any]:
    """Everything that a proof can be made of, from the rows of the home's store."""
    home = Home(shell.path(shell.home))
    store = open_store(load_settings(home, shell.environment()).database, read_only=True)
    try:
        with store.read() as tx:
            state = tx.log()
            assert state is not None
            return {
                "feeds": [(f.key, f.manifest, f.length, f.byte_length, f.roots) for f in tx.feeds()],
                "blocks": [list(tx.blocks(f.key, 0, f.length)) for f in tx.feeds()],
                "nodes": [list(tx.tree_rows(f.key, 0, f.length)) for f in tx.feeds()],
                "heads": [list(tx.heads(f.key)) for f in tx.feeds()],
                "log": state,
                "root": root_at(tx.log_node, state.size),
                "leaves": list(tx.log_leaves(0, state.size)),
                "checkpoints": list(tx.checkpoints()),
                "events": [tx.identity_events(identity) for identity in tx.identities()],
            }
    finally:
        store.close()


def answers(shell: Any) -> list[bytes]:
    """What is handed to others: evidence, exports, the log."""
    commands = [
        ("evidence", "export", "ledger", "0", "-o", "-"),
        ("evidence", "export", "ledger", "41", "-o", "-"),
        ("evidence", "export", "notes", "1", "-o", "-"),
        ("feed", "export", "ledger", "-o", "-"),
        ("checkpoint", "export", "-o", "-"),
        ("anchor", "status"),
    ]
    return [shell(*command).stdout for command in commands]


def test_there_and_back(shell: Any, url: str) -> None:
    shell("backup", "create", "sqlite.backup")
    shell("restore", "sqlite.backup", "--home", "pg", "--database", url)
    pg = shell.at("pg")
    assert not (shell.path("pg") / "vault.db").exists()
    pg("audit")
    assert pg("status", "--json").json[0]["state"] == "consistent"
    pg("backup", "create", "pg.backup")
    shell("backup", "verify", "pg.backup")
    shell("restore", "pg.backup", "--home", "back")
    back = shell.at("back")
    back("audit")
    assert facts(shell) == facts(pg) == facts(back)
    assert answers(shell) == answers(pg) == answers(back)


def test_an_export_from_postgresql(shell: Any, url: str) -> None:
    shell("backup", "create", "sqlite.backup")
    shell("restore", "sqlite.backup", "--home", "pg", "--database", url)
    shell.at("pg")("audit", "--export", "bank.archive")
    (found,) = shell("backup", "verify", "bank.archive", "--json").json
    assert (found["purpose"], found["entries"]) == ("export", 44)


def test_a_backup_of_postgresql_is_one_moment(empty_postgres: str) -> None:
    """An append in the middle of it goes through, and is not in it."""
    root, following, device = (Ed25519Signer(bytes([number]) * 32) for number in (1, 2, 3))
    inception = build_inception(
        label="bank", root_keys=[root.public_key], next_digests=[key_commitment(following.public_key)], time_ms=0
    )
    begun = sign_event(inception, [(0, root)])
    added = build_add_device(fold([begun]), device=device.public_key, name="till", time_ms=0)
    store, out, appended = open_store(empty_postgres), io.BytesIO(), []
    with store.write() as tx:
        identity = add_events(tx, fold([begun]).identity, [begun, sign_event(added, [(0, root), (1, device)])]).identity
    writer = FeedWriter(store, create_feed(store, device, identity, "till"), device)
    for number in range(3):
        writer.append([b"before %d" % number])

    def append_once(_entries: int) -> None:
        if not appended:
            appended.append(writer.append([b"meanwhile"]).length)

    with store.read() as tx:
        write_archive(tx, out, Purpose.BACKUP, archive_id=bytes(32), made_ms=0, advance=append_once)
    store.close()
    assert appended == [4]
    assert verify_archive(io.BytesIO(out.getvalue())).entries == 3


def schemas(url: str) -> set[str]:
    """The schemas of a database, without the server's own."""
    import psycopg

    with psycopg.connect(url) as connection:
        names = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%'")
        return {name for (name,) in names}


def test_a_restore_over_a_store_that_is_there(shell: Any, url: str) -> None:
    shell("backup", "create", "sqlite.backup")
    shell("restore", "sqlite.backup", "--home", "pg", "--database", url)
    before = facts(shell.at("pg"))
    shell("restore", "sqlite.backup", "--home", "second", "--database", url, code=77)
    assert not shell.path("second").exists()
    assert facts(shell.at("pg")) == before


@pytest.mark.parametrize("damage", ["cut", "false"])
def test_a_bad_backup_leaves_no_schema(shell: Any, url: str, damage: str) -> None:
    shell("backup", "create", "sqlite.backup")
    file: Path = shell.path("sqlite.backup")
    data = file.read_bytes()
    file.write_bytes(data[:-10] if damage == "cut" else data.replace(b"dtextcone", b"dtextctwo"))
    before = schemas(url)
    shell("restore", file, "--home", "pg", "--database", url, code=77 if damage == "cut" else 1)
    assert schemas(url) == before
    assert not shell.path("pg").exists()


def test_a_place_that_is_taken_leaves_no_schema(shell: Any, url: str) -> None:
    shell("backup", "create", "sqlite.backup")
    before = schemas(url)
    shell("restore", "sqlite.backup", "--home", "home", "--database", url, code=77)
    assert schemas(url) == before


@pytest.mark.parametrize("given", ["vault.db", "mysql://x/y", "postgresql://vault:secret@127.0.0.1/x"])
def test_what_is_no_database_for_a_restore(shell: Any, given: str) -> None:
    shell("backup", "create", "sqlite.backup")
    ran = shell("restore", "sqlite.backup", "--home", "pg", "--database", given, code=64)
    assert "secret" not in ran.err

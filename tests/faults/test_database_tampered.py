"""B8 for databases: every column of every row of their tables is changed, and the audit of the database names it.

What nobody relies on is listed with the reason. Every table is filled, so a new one is not forgotten. A short run takes
the first and the last row of each table; with CHAOS_ROUNDS it takes all.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from copy import copy
from dataclasses import replace
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from identity.errors import AuditError
from identity.history import RevocationReason, build_revoke_device, fold
from identity.keys import Ed25519Signer
from ledger.entry import encode_entry
from ledger.feed import append
from ledger.identities import add_events
from ledger.transfer import ingest_feed
from sync.changes import Changes, Strength
from sync.document_keys import DocumentKeys
from sync.intent import sign_intent
from sync.transaction import DocumentId, Op, Stamp, Transaction, Verb, transaction_entry

EVERY_ROW = "CHAOS_ROUNDS" in os.environ

IRRELEVANT: Mapping[tuple[str, str], str] = {
    ("database", "created_ms"): "a label for people",
    ("database_txn", "taken_ms"): "when this replica came to know: nobody else can say",
    ("database_stray", "taken_ms"): "the same",
    ("database_leaf", "place"): "a leaf of an older place is made anew before it is used",
}
"""(table, column) -> why nobody relies on it."""

IRRELEVANT_WHEN_FORKED: Mapping[tuple[str, str], str] = {
    ("database_branch", "next_seq"): "how far a feed that forked was read is said by its tracks",
}
"""The same, where that is so."""

MAY_BE_DELETED: Mapping[str, str] = {
    "database_leaf": "one that is absent is made anew",
}
"""Tables of which some row may go unnoticed, and why that loses nothing."""


@pytest.fixture(scope="module")
def forked(make_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A replica that has met both histories of a device that was cloned."""
    world = make_world(tmp_path_factory.mktemp("forked"), "bank")
    laptop, phone = world.replica("laptop"), world.replica("phone")
    phone.put("accounts", "1", owner="A")
    twin = clone(world, phone)
    phone.put("accounts", "1", owner="B")
    twin.put("accounts", "1", owner="C")
    for other in (phone, twin):
        bundle = BytesIO()
        other.db.export_bundle(bundle)
        laptop.db.import_bundle(BytesIO(bundle.getvalue()))
    yield laptop
    world.close()


def clone(world: Any, replica: Any) -> Any:
    """The device with its store and its key, and nobody who tells either of the other."""
    twin = copy(replica)
    twin.url = f"{replica.url}.twin"
    with closing(sqlite3.connect(replica.url)) as source, closing(sqlite3.connect(twin.url)) as target:
        source.backup(target)
    twin.keys = DocumentKeys(Path(f"{twin.url}.keys"))
    twin.reopen()
    world.replicas["twin"] = twin
    return twin


@pytest.fixture(params=["kept", "forked"])
def replica(request: pytest.FixtureRequest) -> Any:
    """Each of these."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def kept(make_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A replica with everything in its tables."""
    directory = tmp_path_factory.mktemp("tampered")
    world = make_world(directory, "bank")
    laptop, phone, thief = (world.replica(name) for name in ("laptop", "phone", "thief"))
    shape = {"type": "object", "properties": {"age": {"type": "integer", "indexed": True}}}
    laptop.put("$schema", "people", schema=shape)
    laptop.put("people", "ada", age=36)
    etag = laptop.put("accounts", "1", owner="A").etags[DocumentId("accounts", "1")]
    world.exchange()
    base = laptop.db.context()
    for replica, name in ((laptop, "B"), (phone, "C")):
        changes = Changes()
        changes.patch("accounts", "1", {"owner": name}, if_match=etag)
        changes.increment("accounts", "1", "balance", Decimal("1.50"))
        changes.add("accounts", "1", "labels", name)
        replica.db.commit(changes)
    stale = Changes(base=base)
    stale.patch("accounts", "1", {"owner": "D"})
    laptop.db.commit(stale)
    undone = laptop.put("accounts", "2", owner="E").reference
    laptop.db.undo(undone)
    propose(laptop, phone)
    wish = Op(Verb.SET, DocumentId("accounts", "1"), ("wish",), "I")
    laptop.db.commit(Changes(), intent=sign_intent(Ed25519Signer(b"\7" * 32), world.uid, [wish], sequence=0))
    thief.put("accounts", "1", owner="F")
    world.exchange()
    revoke(world, laptop, thief)
    forge(phone)
    laptop.receive(phone)
    laptop.db.checkpoint_state()
    wait(world, laptop, phone)
    yield laptop
    world.close()


def propose(home: Any, other: Any) -> None:
    """What others propose to a home: something that it has decided, and something that waits."""
    home.db.set_home("seats", home.feed)
    for seat in ("12a", "12b"):
        other.receive(home)
        home.receive(other)
        home.db.decide_pending()
        changes = Changes(strength=Strength.SERIAL)
        changes.put("seats", seat, {"owner": "A"})
        other.db.commit(changes)


def revoke(world: Any, teller: Any, victim: Any) -> None:
    """The victim's device loses all that it wrote."""
    event = build_revoke_device(
        fold(world.events), device=victim.device.public_key, last_good={}, reason=RevocationReason.STOLEN, time_ms=1_000
    )
    world.events.append(world.sign(event, world.root))
    with teller.store.write() as tx:
        add_events(tx, world.identity, world.events)
    teller.db.introduce()


def forge(device: Any) -> None:
    """Entries that are masked, and one that has no place."""
    stamps: list[Stamp] = []
    device.db.write(lambda writing: stamps.append(writing.stamp()))
    op = Op(Verb.SET, DocumentId("people", "ada"), ("age",), "old")
    for stamp in (replace(stamps[0], back=None), replace(stamps[0], lamport=99), stamps[0]):
        block = encode_entry(transaction_entry(Transaction(stamp, (op,))))
        append(device.store, device.feed, device.device, [block])


def wait(world: Any, here: Any, there: Any) -> None:
    """An entry of ``there`` that has seen what is not ``here``."""
    tablet = world.replica("tablet")
    tablet.put("accounts", "9", owner="G")
    there.receive(tablet)
    there.put("accounts", "9", owner="H")
    ingest_feed(here.store, BytesIO(there.exported(there.feed)))
    here.db.take_new()


def tables(database: sqlite3.Connection) -> dict[str, list[str]]:
    """Of each of the tables the columns."""
    names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    ours = [name for name in names if name.partition("_")[0] == "database"]
    return {name: [row[1] for row in database.execute(f"PRAGMA table_info({name})")] for name in ours}


def others(value: Any) -> Iterator[Any]:
    """Other values of the same type, the nearest first."""
    if isinstance(value, bytes):
        yield value[:-1] + bytes([value[-1] ^ 1]) if value else b"\0"
    elif isinstance(value, int):
        yield from (value ^ 1, value ^ (1 << 30))
    elif isinstance(value, str):
        yield value[:-1] + chr(ord(value[-1]) ^ 1) if value else "x"
    else:
        yield from (1, "x", b"x")


def change(database: sqlite3.Connection, table: str, column: str, row: int, values: Iterator[Any]) -> int | None:
    """Put another value there; the row's number afterwards, None when no other value can be there."""
    for value in values:
        try:
            database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, row))
        except sqlite3.IntegrityError:
            continue
        database.commit()
        is_key = any(one[5] and one[1] == column for one in database.execute(f"PRAGMA table_info({table})"))
        found = database.execute(f"SELECT count(*) FROM {table} WHERE rowid = ?", (row,)).fetchone()[0]
        return value if is_key and not found else row
    return None


def test_every_column_of_every_row(replica: Any) -> None:
    assert replica.db.audit() == []
    unnoticed = []
    harmless = {*IRRELEVANT, *(IRRELEVANT_WHEN_FORKED if "forked" in replica.url else ())}
    with closing(sqlite3.connect(replica.url)) as database:
        database.execute("PRAGMA ignore_check_constraints = ON")
        for table, columns in tables(database).items():
            numbers = [number for (number,) in database.execute(f"SELECT rowid FROM {table} ORDER BY rowid")]
            for row in numbers if EVERY_ROW else dict.fromkeys((*numbers[:1], *numbers[-1:])):
                for column in columns:
                    (value,) = database.execute(f"SELECT {column} FROM {table} WHERE rowid = ?", (row,)).fetchone()
                    moved = change(database, table, column, row, others(value))
                    assert moved is not None, (table, column, value)
                    if not replica.db.audit() and (table, column) not in harmless:
                        unnoticed.append((table, column, row, value))
                    database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, moved))
                    database.commit()
    assert unnoticed == []
    assert replica.db.audit() == []


def test_every_row_deleted(replica: Any) -> None:
    unnoticed = []
    with closing(sqlite3.connect(replica.url)) as database:
        for table, columns in tables(database).items():
            numbers = [number for (number,) in database.execute(f"SELECT rowid FROM {table} ORDER BY rowid")]
            for row in numbers if EVERY_ROW else dict.fromkeys((*numbers[:1], *numbers[-1:])):
                values = database.execute(f"SELECT * FROM {table} WHERE rowid = ?", (row,)).fetchone()
                database.execute(f"DELETE FROM {table} WHERE rowid = ?", (row,))
                database.commit()
                if not replica.db.audit() and table not in MAY_BE_DELETED:
                    unnoticed.append((table, row))
                names = ", ".join(("rowid", *columns)) if "id" not in columns else ", ".join(columns)
                held = values if "id" in columns else (row, *values)
                database.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(held))})", held)
                database.commit()
    assert unnoticed == []
    assert replica.db.audit() == []


def test_no_table_is_forgotten(kept: Any, forked: Any) -> None:
    empty = []
    for one in (kept, forked):
        with closing(sqlite3.connect(one.url)) as database:
            named = tables(database)
            empty.append({name for name in named if database.execute(f"SELECT 1 FROM {name}").fetchone() is None})
    assert empty[0] & empty[1] == set()
    assert {(table, column) for table, column in IRRELEVANT if column not in named[table]} == set()


WRONG: Mapping[tuple[str, str], tuple[Any, ...]] = {
    ("database_branch", "id"): (-1, 1 << 62),
    ("database_branch", "database"): (b"x",),
    ("database_branch", "parent"): (b"x", 1, 1 << 62),
    ("database_branch", "excluded_from"): (b"",),
    ("database_branch", "waits_for"): (7, b"x"),
    ("database_txn", "kind"): (0,),
    ("database_op", "document"): ("", 1 << 62),
    ("database_op", "path"): ("", "x", 1.5),
    ("database_op", "context"): (7,),
    ("database_counter", "path"): ("", "x"),
    ("database_counter", "total"): ("x", "NaN"),
    ("database_contest", "document"): ("x",),
    ("database_contest", "guarded"): ("x",),
    ("database_contest", "other"): ("x",),
    ("database_rebuild", "place"): ("x",),
    ("database_leaf", "place"): ("x",),
}
"""(table, column) -> values that can never stand there, and that something once stumbled over."""


def read_everything(database: Any) -> None:
    for collection in ("accounts", "people"):
        for state in database.scan(collection).documents:
            _ = state.fields, state.conflicts  # made when they are looked at
    list(database.history("accounts", "1"))
    list(database.conflicts())
    database.changes()
    database.get("accounts", "1", database.as_of(place=3))
    database.get("accounts", "1", database.as_of(claimed_ms=1 << 42))
    database.export_bundle(BytesIO())


def test_what_can_never_stand_there_is_a_fault_and_nothing_worse(kept: Any) -> None:
    read_everything(kept.db)
    with closing(sqlite3.connect(kept.url)) as database:
        database.execute("PRAGMA ignore_check_constraints = ON")
        for (table, column), values in WRONG.items():
            for value in values:
                (row, held) = database.execute(f"SELECT rowid, {column} FROM {table} ORDER BY rowid DESC").fetchone()
                moved = change(database, table, column, row, iter([value]))
                assert moved is not None, (table, column, value)
                assert kept.db.audit() != [], (table, column, value)
                with suppress(AuditError):
                    read_everything(kept.db)
                database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (held, moved))
                database.commit()
    assert kept.db.audit() == []


def test_a_replica_that_is_made_anew_is_whole_again(kept: Any) -> None:
    with closing(sqlite3.connect(kept.url)) as database:
        database.execute("UPDATE database_document SET etag = 'wrong', conflicts = 7")
        database.execute("DELETE FROM database_counter")
        database.execute("UPDATE database_op SET dead = 1 WHERE dead IS NULL")
        database.commit()
    assert kept.db.audit() != []
    kept.db.rebuild()
    assert kept.db.audit() == []

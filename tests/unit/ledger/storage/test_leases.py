"""Leases in a database: several processes on one store, each with a keeper of its own."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from identity.errors import DamagedFile, RefusedError, StorageError, StoreBusy
from ledger.audit import audit_feed
from ledger.feed import FeedWriter, create_feed
from ledger.identities import add_events
from ledger.storage import leases
from ledger.storage.engine import open_store
from ledger.storage.leases import LeaseKeeper, keeper_for
from ledger.storage.memory import MemoryStore
from ledger.storage.sql import SqlStore, SqlWriteTransaction
from ledger.store import FeedKey
from ledger.writer import StoreWriter, WriterLimits


class Database:
    """What a test decides of the database's surroundings."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.now_ms = 1_000_000
        self.be("71/00000001")

    def be(self, incarnation: str, *, later_ms: int = 0) -> None:
        self.now_ms += later_ms
        self.incarnation = incarnation
        for dialect in ("sqlite", "postgresql"):
            self._monkeypatch.setitem(leases._SURROUNDINGS, dialect, text(f"SELECT {self.now_ms}, '{incarnation}'"))

    def wait(self, ms: int) -> None:
        self.be(self.incarnation, later_ms=ms)


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    return Database(monkeypatch)


@pytest.fixture(params=["sqlite", "postgresql"])
def location(request: pytest.FixtureRequest, tmp_path: Path, new_sqlite: Any) -> str:
    """Where an empty store is."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("empty_postgres"))
    new_sqlite(tmp_path / "store.db").close()
    return str(tmp_path / "store.db")


@pytest.fixture
def store(location: str, member: Any) -> Iterator[SqlStore]:
    opened = open_store(location)
    with opened.write() as tx:
        add_events(tx, member.identity, member.events)
    yield opened
    opened.close()


@pytest.fixture
def key(store: SqlStore, member: Any) -> FeedKey:
    return create_feed(store, member.device, member.identity, "notes")


def row(store: SqlStore) -> tuple[Any, ...]:
    with store.read() as tx:
        return tuple(tx.connection.exec_driver_sql("SELECT holder, epoch, expires_ms, incarnation FROM lease").one())


def test_the_databases_own_clock(store: SqlStore, key: FeedKey) -> None:
    keeper = LeaseKeeper(holder=b"h" * 16)
    with store.write() as tx:
        keeper.hold(tx, key)
    holder, epoch, expires_ms, incarnation = row(store)
    assert (holder, epoch) == (b"h" * 16, 1)
    assert abs(expires_ms - time.time() * 1000 - 10_000) < 5_000
    assert re.fullmatch("" if store.dialect == "sqlite" else "[0-9]+/[0-9A-F]{8}", incarnation)


def test_two_writers_of_one_feed(store: SqlStore, location: str, key: FeedKey, database: Database, member: Any) -> None:
    elsewhere = open_store(location)
    one, other = LeaseKeeper(), LeaseKeeper()
    with (
        StoreWriter(store, [member.device], keeper=one) as first,
        StoreWriter(elsewhere, [member.device], keeper=other) as second,
    ):
        assert first.append(key, [b"a"]).start == 0
        with pytest.raises(StoreBusy, match="another process writes"):
            second.append(key, [b"b"])
        database.wait(9_999)
        assert first.append(key, [b"c"]).start == 1  # which renews it
        database.wait(9_999)
        with pytest.raises(StoreBusy):
            second.append(key, [b"d"])
        database.wait(1)
        assert second.append(key, [b"e"]).start == 2
        with pytest.raises(StoreBusy, match="lost"):
            first.append(key, [b"f"])
        with pytest.raises(StoreBusy):
            first.append(key, [b"g"])
        other.release(elsewhere)
        assert first.append(key, [b"h"]).start == 3
        assert row(store)[1] == 3
    with store.read() as tx:
        assert list(tx.blocks(key, 0, 4)) == [b"a", b"c", b"e", b"h"]
    elsewhere.close()


def test_writer_that_slept_through_its_lease_signs_nothing(
    store: SqlStore, key: FeedKey, database: Database, member: Any
) -> None:
    class Recording:
        public_key = member.device.public_key
        signed = 0

        def sign(self, message: bytes) -> bytes:
            self.signed += 1
            return member.device.sign(message)  # type: ignore[no-any-return]

    signer = Recording()
    with StoreWriter(store, [signer], keeper=LeaseKeeper()) as sleeper:
        sleeper.append(key, [b"a"])
        database.wait(60_000)
        with store.write() as tx:
            LeaseKeeper().hold(tx, key)
        with pytest.raises(StoreBusy, match="lost"):
            sleeper.append(key, [b"b"])
    assert signer.signed == 1


def test_another_timeline_retires_the_feed(store: SqlStore, key: FeedKey, database: Database, member: Any) -> None:
    other = create_feed(store, member.device, member.identity, "other")
    with StoreWriter(store, [member.device], keeper=LeaseKeeper()) as writer:
        writer.append(key, [b"a"])
        database.be("71/00000002")
        with pytest.raises(RefusedError, match="another history") as caught:
            writer.append(key, [b"b"])
        assert "continues" in caught.value.hint
        assert writer.append(other, [b"never leased before"]).start == 0
        with pytest.raises(RefusedError, match="retired"):
            writer.append(key, [b"c"])
    with pytest.raises(RefusedError, match="retired"):
        FeedWriter(store, key, member.device)
    assert audit_feed(store, key).entries == 1


def test_a_lease_that_was_lost_with_what_it_covered(
    location: str, store: SqlStore, database: Database, member: Any, tmp_path: Path, new_sqlite: Any
) -> None:
    """The other history knows the feed, but neither its lease nor its entries: another store stands for it."""
    behind = new_sqlite(tmp_path / "behind.db")
    with behind.write() as tx:
        add_events(tx, member.identity, member.events)
    key, same = (create_feed(one, member.device, member.identity, "notes") for one in (store, behind))
    assert key == same
    keeper = LeaseKeeper()
    with StoreWriter(store, [member.device], keeper=keeper) as writer:
        writer.append(key, [b"a"])
    database.be("71/00000002")
    with StoreWriter(behind, [member.device], keeper=keeper) as writer:
        with pytest.raises(RefusedError, match="another history"):
            writer.append(key, [b"b"])
        with pytest.raises(RefusedError, match="retired"):
            writer.append(key, [b"c"])
    behind.close()


def test_whoever_watches_the_history_may_retire_the_feed(store: SqlStore, key: FeedKey, database: Database) -> None:
    seen: list[str] = []

    def meet(tx: SqlWriteTransaction, incarnation: str) -> bool:
        seen.append(incarnation)
        if len(seen) < 2:
            return False
        tx.retire_feed(key)
        return True

    keeper = LeaseKeeper(meet=meet)
    with store.write() as tx:
        keeper.hold(tx, key)
    with store.write() as tx, pytest.raises(RefusedError, match="another history"):
        keeper.hold(tx, key)
    assert seen == ["71/00000001"] * 2


def test_one_shot_writer_respects_a_lease(store: SqlStore, key: FeedKey, database: Database, member: Any) -> None:
    with store.write() as tx:
        LeaseKeeper().hold(tx, key)
    mine = LeaseKeeper()
    writer = FeedWriter(store, key, member.device, mine)
    with pytest.raises(StoreBusy):
        writer.append([b"a"])
    database.wait(10_000)
    assert writer.append([b"a"]).length == 1
    mine.release(store)
    with store.write() as tx:
        LeaseKeeper().hold(tx, key)


def test_lease_that_was_rolled_back_is_not_believed(store: SqlStore, key: FeedKey, database: Database) -> None:
    mine, other = LeaseKeeper(), LeaseKeeper()

    def take_and_fail() -> None:
        with store.write() as tx:
            mine.hold(tx, key)
            raise RefusedError("and the transaction is lost")

    with pytest.raises(RefusedError, match="lost"):
        take_and_fail()
    with store.write() as tx:
        other.hold(tx, key)
    with pytest.raises(StoreBusy), store.write() as tx:
        mine.hold(tx, key)


def test_a_feed_that_is_free(store: SqlStore, key: FeedKey, database: Database, member: Any) -> None:
    keys = [key, *(create_feed(store, member.device, member.identity, name) for name in ("second", "third"))]
    holders = [LeaseKeeper() for _ in range(4)]
    assert [holder.hold_one(store, keys) for holder in holders] == [*keys, None]
    holders[1].release(store)
    assert holders[3].hold_one(store, keys) == keys[1]
    database.be("72/00000001", later_ms=60_000)
    assert LeaseKeeper().hold_one(store, keys) is None
    with store.read() as tx:
        assert [state.retired for state in tx.feeds()] == [True] * 3


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE lease SET holder = feed",
        "UPDATE lease SET epoch = 0",
        "UPDATE lease SET epoch = 2, incarnation = 'x'",
        "UPDATE lease SET feed = holder",
        "DELETE FROM lease",
    ],
)
def test_lease_is_not_taken_by_accident(store: SqlStore, key: FeedKey, statement: str) -> None:
    keeper = LeaseKeeper()
    with store.write() as tx:
        keeper.hold(tx, key)
    before = row(store)
    with pytest.raises(StorageError) as caught, store.write() as tx:
        tx.connection.exec_driver_sql(statement)
    assert isinstance(caught.value.__cause__, DBAPIError)
    assert row(store) == before


def test_lease_that_cannot_be(tmp_path: Path, new_sqlite: Any, fill_feed: Any, member: Any, tamper: Any) -> None:
    store = new_sqlite(tmp_path / "store.db")
    key = fill_feed(store, member, [])
    with store.write() as tx:
        LeaseKeeper().hold(tx, key)
    store.close()
    tamper(tmp_path / "store.db", "UPDATE lease SET expires_ms = 'soon'")
    with pytest.raises(DamagedFile), open_store(tmp_path / "store.db").write() as tx:
        LeaseKeeper().hold(tx, key)


def test_server_on_another_timeline(postgres: Any, postgres_url: str, member: Any) -> None:
    """What a failover does, on one server: it starts as a standby and is promoted."""
    store = open_store(postgres_url)
    with store.write() as tx:
        add_events(tx, member.identity, member.events)
    key, fresh = (create_feed(store, member.device, member.identity, name) for name in ("notes", "fresh"))
    with StoreWriter(store, [member.device], keeper=LeaseKeeper(), limits=WriterLimits(settle_s=30)) as writer:
        writer.append(key, [b"a"])
        postgres.stop("fast")
        signal = postgres.directory / "data" / "standby.signal"
        signal.touch()
        if postgres.user is not None:
            shutil.chown(signal, postgres.user)
        postgres.start()
        postgres.run("pg_ctl", "promote", "-w", "-D", str(postgres.directory / "data"))
        with pytest.raises(RefusedError, match="another history"):
            writer.append(key, [b"b"])
        with pytest.raises(RefusedError, match="retired"):
            writer.append(key, [b"b"])
        assert writer.append(fresh, [b"x"]).start == 0
    assert audit_feed(store, key).entries == 1
    store.close()


def test_who_needs_leases(store: SqlStore) -> None:
    assert (keeper_for(store) is None) == (store.dialect == "sqlite")
    memory = MemoryStore()
    with pytest.raises(StorageError, match="no leases"), memory.write() as tx:
        LeaseKeeper().hold(tx, FeedKey(b"k" * 32))

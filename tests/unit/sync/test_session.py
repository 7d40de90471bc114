"""Sessions between replicas, without a network: what arrives, in which order, at what cost, and who is cut off."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from identity.errors import AuditError, PeerMisbehaved, StorageError
from identity.keys import Ed25519Signer
from ledger.feed import FeedWriter
from ledger.merkle import EMPTY_TREE_HASH
from ledger.store import SignedHead
from sync.bundle import Point
from sync.changes import Changes
from sync.database import list_databases
from sync.document_keys import DocumentKeys
from sync.frames import (
    MAX_BODY_BYTES,
    Ack,
    Batch,
    Blocks,
    Done,
    Events,
    Failure,
    FrameRun,
    HaveFrame,
    Hello,
    Holding,
    More,
    Refine,
    encode_frame,
    parse_frame,
)
from sync.replica import DatabaseReplica, NewReplica
from sync.report import SideReason
from sync.session import MAX_UNACKED, PeerDone, PeerFailed, Session, TookIn
from sync.storage.audit import audit_database
from sync.transaction import Founding, database_id


class Wire:
    """Two sessions and what passed between them."""

    def __init__(self, one: Session, other: Session) -> None:
        self.sessions = (one, other)
        self.frames: tuple[list[bytes], list[bytes]] = ([], [])
        """What each has sent."""
        self.events: tuple[list[Any], list[Any]] = ([], [])
        """What each was told."""

    def run(self, most: int = 100_000) -> Wire:
        """Move frames, one of each in turn, until nobody has any; at most so many."""
        moved = True
        while moved and most > 0:
            moved = False
            for side in (0, 1):
                frame = self.sessions[side].next_frame()
                if frame is not None:
                    moved, most = True, most - 1
                    self.frames[side].append(frame)
                    self.events[1 - side].extend(self.sessions[1 - side].receive(frame))
        return self

    def sent(self, side: int, kind: type) -> list[Any]:
        return [one for one in map(parse_frame, self.frames[side]) if isinstance(one, kind)]

    def blocks(self, side: int) -> int:
        return sum(len(run.blocks) for batch in self.sent(side, Batch) for run in batch.runs)


def session_of(replica: Any, **options: Any) -> Session:
    return Session(DatabaseReplica(replica.db), **options)


def sync(one: Any, other: Any) -> Wire:
    wire = Wire(session_of(one), session_of(other)).run()
    assert all(session.is_even for session in wire.sessions)
    return wire


def reports(wire: Wire, side: int) -> list[Any]:
    return [event.report for event in wire.events[side] if isinstance(event, TookIn)]


def facts(replica: Any) -> Any:
    """All that a session could change; and that every row is as a replay from the feeds has it."""
    with replica.store.read() as tx:
        documents = tx.fetch_all("SELECT collection, key, etag, conflicts FROM database_document ORDER BY 1, 2")
        lines = tx.fetch_all("SELECT uid, disputed FROM database_branch WHERE next_seq > first_seq ORDER BY 1")
        events = sum(len(tx.identity_events(identity)) for identity in tx.identities())
        assert audit_database(tx, replica.store.dialect, replica.world.uid) == []
    return documents, lines, events


def everything(replica: Any) -> list[Any]:
    """Every row of every table of a store."""
    with replica.store.read() as tx:
        names = [row[0] for row in tx.fetch_all("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")]
        return [(name, sorted(map(repr, tx.fetch_all(f"SELECT * FROM {name}")))) for name in names]


def points(replica: Any) -> list[Point]:
    with DatabaseReplica(replica.db).snapshot() as snapshot:
        return sorted(
            Point(feed, line.length, line.tree_hash(line.length))
            for feed in snapshot.feeds()
            for line in snapshot.lines(feed)
        )


def copy_of(replica: Any, name: str) -> Any:
    """A device that was cloned: its store, its key, and nobody who tells either of the other."""
    from ledger.storage.engine import open_store

    world, path = replica.world, replica.world.directory / f"{name}.db"
    source, target = sqlite3.connect(replica.url), sqlite3.connect(path)
    source.backup(target)
    source.close()
    target.close()
    clone = object.__new__(type(replica))
    clone.__dict__.update({**replica.__dict__, "name": name, "url": str(path)})
    clone.store = open_store(str(path))
    clone.keys = DocumentKeys(world.directory / f"{name}.keys")
    clone.open()
    world.replicas[name] = clone
    return clone


@pytest.fixture
def world(make_world: Any, tmp_path: Path) -> Iterator[Any]:
    made = make_world(tmp_path, "bank")
    yield made
    made.close()


@pytest.fixture
def three(world: Any) -> tuple[Any, Any, Any]:
    """Three replicas that know of the founding."""
    return tuple(world.replica(name) for name in ("laptop", "phone", "desk"))  # type: ignore[return-value]


# --- what arrives ---


def test_both_sides_get_what_they_lack_in_one_session(three: tuple[Any, Any, Any]) -> None:
    laptop, phone, _ = three
    laptop.put("accounts", "1", owner="A")
    phone.put("accounts", "2", owner="B")
    wire = sync(laptop, phone)
    assert (wire.blocks(0), wire.blocks(1)) == (1, 1)
    assert facts(laptop) == facts(phone)
    assert points(laptop) == points(phone)
    assert laptop.fields("accounts", "2") == {"owner": "B"}


def test_a_second_session_sends_nothing(three: tuple[Any, Any, Any]) -> None:
    laptop, phone, _ = three
    laptop.put("accounts", "1", owner="A")
    sync(laptop, phone)
    wire = sync(laptop, phone)
    for side in (0, 1):
        kinds = [type(parse_frame(frame)) for frame in wire.frames[side]]
        assert kinds in ([Hello, HaveFrame, Done], [Hello, HaveFrame, Done, Done])


def test_a_new_device_joins(three: tuple[Any, Any, Any], world: Any, tmp_path: Path) -> None:
    laptop, _, _ = three
    laptop.put("accounts", "1", owner="A")
    store = world.open_new(str(tmp_path / "new.db"))
    try:
        replica = NewReplica(store, lambda: 5)
        wire = Wire(Session(replica), session_of(laptop)).run()
        assert all(session.is_even for session in wire.sessions)
        (info,) = list_databases(store)
        assert (info.uid, info.name) == (world.uid, "bank")
        from sync.database import Database

        state = Database(store, world.uid, lambda: 0).get("accounts", "1")
        assert state is not None
        assert state.view.fields == {"owner": "A"}
    finally:
        store.close()

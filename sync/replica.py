"""A database of a store as a session reads and writes it.

Each frame is one transaction of the store: what it brings is verified, kept and taken in, or nothing of it is. Between
frames nothing is held open, so a slow peer keeps no snapshot of the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from identity.errors import MissingEvidenceError, PeerMisbehaved
from ledger.manifest import Manifest, encode_manifest
from ledger.storage.sql import SqlStore
from ledger.store import FeedKey, StoredEvent
from sync.database import Database, register_database
from sync.frames import FrameRun
from sync.holdings import authors, feeds_in_order, find_founding, manifests
from sync.report import ImportReport
from sync.storage.queries import Queries
from sync.storage.sides import Line, Sides
from sync.transaction import Founding, database_id

__all__ = ["DatabaseReplica", "NewReplica", "StoreSnapshot"]


class DatabaseReplica:
    """A database that is here. ``advance`` is told how many blocks were verified."""

    def __init__(self, database: Database, advance: Callable[[int], None] | None = None) -> None:
        self._database = database
        self._advance = advance

    @property
    def database(self) -> bytes:
        """The database's id."""
        return self._database.uid

    def begin(self, founding: Founding) -> None:
        """Nothing: it is here."""

    @contextmanager
    def snapshot(self) -> Iterator[StoreSnapshot]:
        """What is here now."""
        with self._database.holdings() as (tx, queries, number):
            yield StoreSnapshot(tx, queries, number, self._database.uid)

    def take_events(self, events: Sequence[bytes]) -> int:
        """Take in identity events; how many were new. Raises as ``Database.take_events``."""
        return self._database.take_events(events)

    def take_runs(self, runs: Sequence[FrameRun]) -> ImportReport:
        """Take in runs of blocks. Raises as ``Database.take_runs``."""
        return self._database.take_runs(runs, self._advance)


class NewReplica:
    """A database that a session brings: it is registered when the peer has said how it was founded.

    ``uid`` is what it has to be, when that is known.
    """

    def __init__(
        self,
        store: SqlStore,
        now_ms: Callable[[], int],
        uid: bytes | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> None:
        self._store = store
        self._now_ms = now_ms
        self._uid = uid
        self._advance = advance
        self._begun: DatabaseReplica | None = None

    @property
    def database(self) -> bytes | None:
        """The database's id; None before ``begin``."""
        return None if self._begun is None else self._begun.database

    def begin(self, founding: Founding) -> None:
        """Register it. Raises ``PeerMisbehaved`` when it is not the one that is expected."""
        uid = database_id(founding)
        if self._uid not in (None, uid):
            raise PeerMisbehaved("OTHER_DATABASE", f"the peer has database {uid.hex()} there")
        register_database(self._store, uid, founding.name, self._now_ms())
        self._begun = DatabaseReplica(Database(self._store, uid, self._now_ms), self._advance)

    @contextmanager
    def snapshot(self) -> Iterator[StoreSnapshot]:
        """What is here now."""
        with self._here().snapshot() as snapshot:
            yield snapshot

    def take_events(self, events: Sequence[bytes]) -> int:
        """As ``DatabaseReplica.take_events``."""
        return self._here().take_events(events)

    def take_runs(self, runs: Sequence[FrameRun]) -> ImportReport:
        """As ``DatabaseReplica.take_runs``."""
        return self._here().take_runs(runs)

    def _here(self) -> DatabaseReplica:
        if self._begun is None:
            raise MissingEvidenceError("the database is not here yet")
        return self._begun


class StoreSnapshot:
    """What a store has of a database, in one transaction."""

    def __init__(self, tx: Any, queries: Queries, number: int, database: bytes) -> None:
        self._tx = tx
        self._queries = queries
        self._number = number
        self._database = database
        self._sides = Sides(tx, queries, number)
        self._found: dict[FeedKey, Manifest] | None = None
        self._encoded: dict[FeedKey, bytes] | None = None
        self._lines: dict[FeedKey, list[Line]] = {}

    def founding(self) -> Founding | None:
        """What the database was founded with; None when that is not here."""
        return find_founding(self._tx, self._queries, self._number, self._database)

    def feeds(self) -> Mapping[FeedKey, bytes]:
        """The manifests of its feeds, each behind the one that it continues."""
        if self._encoded is None:
            self._encoded = {feed: encode_manifest(manifest) for feed, manifest in self._manifests().items()}
        return self._encoded

    def lines(self, feed: FeedKey) -> Sequence[Line]:
        """The lines of a feed, that of the ledger first when there is one."""
        if feed not in self._lines:
            self._lines[feed] = [line for line in self._sides.lines(feed) if line.length]
        return self._lines[feed]

    def identities(self) -> Sequence[bytes]:
        """The authors of the feeds, ascending."""
        return authors(self._manifests())

    def events(self, identity: bytes) -> Sequence[StoredEvent]:
        """The events of an identity by seq."""
        events: list[StoredEvent] = self._tx.identity_events(identity)
        return events

    def _manifests(self) -> dict[FeedKey, Manifest]:
        if self._found is None:
            self._found = feeds_in_order(manifests(self._tx, self._sides, self._database))
        return self._found

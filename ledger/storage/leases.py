"""Leases in the database: read, taken and renewed in the transaction that appends. See ``ledger.lease``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import Connection, insert, select, text, update

from identity.errors import DamagedFile, RefusedError, StorageError, StoreBusy
from ledger.feed import feed_state
from ledger.lease import DURATION_MS, HOLDER_BYTES, Lease, Surroundings, claim, lapse
from ledger.storage.schema import lease
from ledger.storage.sql import SqlStore, SqlWriteTransaction
from ledger.store import FeedKey, WriteTransaction

__all__ = ["LeaseKeeper", "MeetHistory", "keeper_for", "leased_feeds"]

MeetHistory = Callable[[SqlWriteTransaction, str], bool]
"""Given the transaction that is to append, and the incarnation of the database that it sees, before a lease is taken.

Returns whether it has retired feeds.
"""

_SURROUNDINGS: Final = {
    "sqlite": text("SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER), ''"),
    # The name of the log file, because pg_control_checkpoint() names the old timeline for a while after a failover.
    "postgresql": text(
        "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint, "
        "(SELECT system_identifier FROM pg_control_system())::text "
        "|| '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8)"
    ),
}
"""By dialect: the database's clock in milliseconds UTC, and its incarnation."""


def keeper_for(store: SqlStore, meet: MeetHistory | None = None) -> LeaseKeeper | None:
    """What the writers of this store have to hold: leases where several servers may share it, nothing on SQLite.

    A SQLite store lies on one machine and has one history; its write lock is all that its processes need. ``meet`` as
    for ``LeaseKeeper``.
    """
    return None if store.dialect == "sqlite" else LeaseKeeper(meet=meet)


def leased_feeds(connection: Connection) -> set[FeedKey]:
    """The feeds that some process has leased in the present history of the database, now or before."""
    around = _surroundings(connection)
    rows = connection.execute(select(lease.c.feed).where(lease.c.incarnation == around.incarnation))
    return {FeedKey(key) for key in rows.scalars()}


class LeaseKeeper:
    """Holds leases of feeds for one open store: ``ledger.feed.Keeper``. All writers of the store share it.

    ``holder`` is 16 random bytes by default, so every process, and every start of one, is a holder of its own.
    ``meet`` is told in every transaction which history of the database this is.
    """

    def __init__(
        self, *, holder: bytes | None = None, duration_ms: int = DURATION_MS, meet: MeetHistory | None = None
    ) -> None:
        self._holder = os.urandom(HOLDER_BYTES) if holder is None else holder
        self._duration_ms = duration_ms
        self._meet = meet
        self._epochs: dict[FeedKey, int] = {}
        self._incarnations: dict[FeedKey, str] = {}
        """In which history each feed was first held here. The database may have lost the very row of a lease."""

    def hold(self, tx: WriteTransaction, key: FeedKey) -> None:
        """Take, renew or confirm the lease of a feed in the transaction that is to append to it.

        Raises ``StoreBusy`` while another process holds it or when it was lost, ``RefusedError`` when the database has
        another history than the one in which the feed was leased: then the feed is retired.
        """
        sql = _sql(tx)
        connection = sql.connection
        known = self._epochs.pop(key, None)
        around = _surroundings(connection)
        is_left = self._incarnations.setdefault(key, around.incarnation) != around.incarnation
        if self._meet is not None and self._meet(sql, around.incarnation):
            is_left = is_left or feed_state(tx, key).retired
        held = _load(connection, key)
        taken = None if is_left else claim(held, key, self._holder, known, around, self._duration_ms)
        if taken is None:
            tx.retire_feed(key)
            raise RefusedError(
                f"feed {key.hex()} was written in another history of the database ({around.incarnation} is the present "
                "one): it is retired",
                hint="append to a feed that continues it",
            )
        if taken != held:
            _store(connection, taken, is_new=held is None)
        self._epochs[key] = taken.epoch

    def hold_one(self, store: SqlStore, keys: Iterable[FeedKey]) -> FeedKey | None:
        """Take the lease of the first of these feeds that no other process holds; None when there is none."""
        for key in keys:
            with store.write() as tx, suppress(RefusedError, StoreBusy):  # inside, so that what was retired stays so
                self.hold(tx, key)
            if key in self._epochs:
                return key
        return None

    def release(self, store: SqlStore) -> None:
        """Give back what this keeper holds, so that others need not wait until it has expired."""
        if not self._epochs:
            return
        with store.write() as tx:
            around = _surroundings(tx.connection)
            for key in self._epochs:
                given_back = lapse(_load(tx.connection, key), self._holder, around)
                if given_back is not None:
                    _store(tx.connection, given_back, is_new=False)
        self._epochs.clear()


def _sql(tx: WriteTransaction) -> SqlWriteTransaction:
    if not isinstance(tx, SqlWriteTransaction):
        raise StorageError("this store has no leases: only one process uses it")
    return tx


def _surroundings(connection: Connection) -> Surroundings:
    now_ms, incarnation = connection.execute(_SURROUNDINGS[connection.dialect.name]).one()
    return Surroundings(now_ms, incarnation)


def _load(connection: Connection, key: FeedKey) -> Lease | None:
    row: Any = connection.execute(
        select(lease.c.holder, lease.c.epoch, lease.c.expires_ms, lease.c.incarnation).where(lease.c.feed == key)
    ).one_or_none()
    if row is None:
        return None
    if tuple(map(type, row)) != (bytes, int, int, str):
        raise DamagedFile(f"the lease of feed {key.hex()} holds other types than it should")
    return Lease(key, *row)


def _store(connection: Connection, taken: Lease, *, is_new: bool) -> None:
    values = {
        "holder": taken.holder,
        "epoch": taken.epoch,
        "expires_ms": taken.expires_ms,
        "incarnation": taken.incarnation,
    }
    if is_new:
        connection.execute(insert(lease).values(feed=taken.key, **values))
    else:
        connection.execute(update(lease).where(lease.c.feed == taken.key).values(**values))

"""How keys stand in a store: whose device a key is, and who is a member of which database, in what role.

Two things speak of a device: the identity events that the store keeps, and those that members have carried into a
database. What either takes away is gone; that one of them does not know of a new device yet takes nothing. All of it is
read once and kept until something that it rests on has been added, which every request asks anew: so a revocation or a
dismissal counts from the next request on, in every process of the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from threading import Lock
from types import MappingProxyType
from typing import Final

from identity.errors import AuditError, Forbidden
from identity.history import KeyHistory
from ledger.identities import key_history
from ledger.storage.sql import SqlReadTransaction, SqlStore
from sync.acts import Role
from sync.database import Database, list_databases
from sync.membership import Author, Membership, Refusal

__all__ = ["MemberStanding", "Standing", "StandingReader"]

_MARK: Final = """
    SELECT (SELECT count(*) FROM identity_event), (SELECT count(*) FROM database),
        (SELECT count(*) FROM database_txn WHERE kind <> 1 AND kind = 2)
"""
"""Grows with everything that standing rests on: identity events, databases, acts of membership."""


@dataclass(frozen=True, slots=True)
class MemberStanding:
    """A device of a member of a database, as of now."""

    identity: bytes
    role: Role


@dataclass(frozen=True, slots=True)
class Standing:
    """How every key stood when the store was read. ``own`` is the identity whose node it is."""

    own: bytes
    _histories: Mapping[bytes, tuple[KeyHistory, ...]]
    """By identity, all that is known of it: from the store, and from each database."""
    _owners: Mapping[bytes, tuple[bytes, ...]]
    """By device key, the identities of which it is or was a device."""
    _members: Mapping[bytes, Membership]

    def knows(self, key: bytes) -> bool:
        """Whether the key is, or was, a device of anybody who is known here."""
        return key in self._owners

    def owner(self, key: bytes) -> bytes:
        """Whose node it is, when the key is a device of that identity. Raises ``Forbidden``."""
        if self.own not in self._owners.get(key, ()):
            raise Forbidden("NOT_THE_OWNER", "only devices of the identity whose node this is may do that")
        self._check_device(self.own, key)
        return self.own

    def member(self, key: bytes, database: bytes) -> MemberStanding:
        """The role in a database of whom the key is a device of. Raises ``Forbidden``, with why.

        A database that is not here has no members.
        """
        membership = self._members.get(database)
        refusal = Forbidden("NOT_A_MEMBER", "the key is no device of a member of this database")
        for identity in self._owners.get(key, ()) if membership is not None else ():
            assert membership is not None
            try:
                return self._member(membership, identity, key)
            except Forbidden as exc:
                refusal = exc
        raise refusal

    def _member(self, membership: Membership, identity: bytes, key: bytes) -> MemberStanding:
        found = membership.may_write(Author(b"", key, identity))
        # A device that the store knows, and the database does not yet: its first entry will carry the event.
        if found not in (None, Refusal.READ_ONLY_ROLE, Refusal.UNKNOWN_DEVICE):
            raise Forbidden(str(found), "by what the members of this database say")
        self._check_device(identity, key)
        return MemberStanding(identity, membership.members[identity].role)

    def _check_device(self, identity: bytes, key: bytes) -> None:
        """The device may sign for the identity, by everything that is known of it. Raises ``Forbidden``."""
        histories = self._histories.get(identity, ())
        if any(history.closed for history in histories):
            raise Forbidden("IDENTITY_CLOSED", "the identity is closed")
        if any(history.duplicity is not None for history in histories):
            raise Forbidden("IDENTITY_DISPUTED", "the identity contradicts itself")
        found = [history.devices[key] for history in histories if key in history.devices]
        if any(device.revocation is not None for device in found):
            raise Forbidden("REVOKED_DEVICE", "the device was revoked")
        if not found:
            raise Forbidden("UNKNOWN_DEVICE", "the identity has no such device")


class StandingReader:
    """Reads the standing of keys in a store, and keeps it while nothing has changed. Threads share one."""

    def __init__(self, store: SqlStore, own: bytes) -> None:
        """``own`` is the identity whose node it is."""
        self._store = store
        self._own = own
        self._lock = Lock()
        self._held: tuple[tuple[object, ...], Standing] | None = None

    def now(self) -> Standing:
        """As it is at this moment. Raises ``StorageError``."""
        with self._store.read() as tx:
            mark = tuple(tx.fetch_one(_MARK) or ())
            held = self._held
            if held is not None and held[0] == mark:
                return held[1]
        with self._lock:  # one reads it, the others wait: reading folds every membership
            held = self._held
            if held is None or held[0] != mark:
                # The mark is older than what is read now, so what comes in between is noticed by the next request.
                self._held = held = (mark, self._read())
            return held[1]

    def _read(self) -> Standing:
        members = {}
        for info in list_databases(self._store):
            with Database(self._store, info.uid, int).read() as reader:
                members[info.uid] = reader.standing.within(None)
        with self._store.read() as tx:
            known = list(_histories(tx))
        known += [
            (identity, member.history)
            for membership in members.values()
            for identity, member in membership.members.items()
            if member.history is not None
        ]
        histories: dict[bytes, tuple[KeyHistory, ...]] = {}
        owners: dict[bytes, tuple[bytes, ...]] = {}
        for identity, history in known:
            histories[identity] = (*histories.get(identity, ()), history)
            for key in history.devices:
                if identity not in owners.get(key, ()):
                    owners[key] = (*owners.get(key, ()), identity)
        return Standing(self._own, *map(MappingProxyType, (histories, owners, members)))  # type: ignore[arg-type]


def _histories(tx: SqlReadTransaction) -> Iterable[tuple[bytes, KeyHistory]]:
    """What the store's identity events say. Events that do not fold speak for nobody."""
    for identity in tx.identities():
        try:
            yield identity, key_history(tx, identity)
        except AuditError:
            continue

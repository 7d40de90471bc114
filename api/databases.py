"""The databases of a home, as a user's program sees them.

    with open_databases("bank.home", passphrase) as databases:
        bank = databases.create("bank")
        bank.put("accounts", "4711", {"owner": "Novak", "balance": Decimal("12.30")}, note="the first account")

A program that has a session already makes ``Databases(session, ring)`` of it. Without keys the databases are read; with
the home's keys they are written to, in a feed of this device that is begun when there is none yet. What feeds hold of a
database can always be taken in again: after a restore, or when a feed came from somebody else, ``take_in`` makes the
tables of every database that the store's feeds tell of.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Self

from api.vault import device_signer
from identity.errors import MalformedError, MissingEvidenceError, RefusedError
from identity.textforms import check_name, is_whole_id
from ledger.entry import parse_entry
from ledger.lineage import find_successor
from ledger.manifest import describe, device_key, parse_manifest
from ledger.store import FeedKey, ReadTransaction
from ledger.succession import newest_continuation
from sync.acts import Found, parse_member
from sync.bundle import BundleReader
from sync.database import Database, DatabaseInfo, found, join, list_databases, register_database
from sync.document_keys import DocumentKeys
from sync.exchange import ImportReport
from sync.retention import settle_erasures
from sync.storage.projection import feed_name
from sync.transaction import Founding, database_id

if TYPE_CHECKING:
    from api.bootstrap import Session
    from identity.keys import Signer
    from identity.keystore import KeyRing
    from ledger.storage.sql import SqlStore
    from ledger.writer import StoreWriter

__all__ = ["Databases", "TakenIn", "open_databases", "open_home", "take_in"]

_SALT_BYTES: Final = 16
_FEEDS: Final = feed_name(b"")
"""How the names of all feeds of databases begin."""
_LEAST_PREFIX: Final = 6
"""Hex digits of a database's id that can stand for it."""


@dataclass(frozen=True, slots=True)
class TakenIn:
    """A database and how many entries were new to its tables."""

    info: DatabaseInfo
    entries: int


def open_databases(home: str | Path, passphrase: str | None = None) -> Databases:
    """The databases of the home in a directory: for writing with its passphrase, without one for reading only.

    Use it as a context manager, or ``close`` it: that closes the home. The settings are those of the home and of
    HOLDFAST_* in the environment. Raises ``ConfigurationError`` when there is no home, ``WrongPassphrase``, and what
    ``open_session`` raises.
    """
    with ExitStack() as opened:
        session, ring = open_home(opened, home, passphrase)
        return Databases(session, ring, opened.pop_all())


def open_home(opened: ExitStack, home: str | Path, passphrase: str | None) -> tuple[Session, KeyRing | None]:
    """The home in a directory, which ``opened`` closes, and its keys. Raises as ``open_databases``."""
    from api.bootstrap import open_session
    from api.home import Home
    from api.settings import load_settings
    from identity.keystore import open_keystore

    place = Home(Path(home).absolute())
    settings = load_settings(place, os.environ)
    session = opened.enter_context(open_session(place, settings, read_only=passphrase is None))
    return session, None if passphrase is None else open_keystore(settings.keystore, passphrase)


class Databases:
    """The databases of one open home. Use as a context manager, or ``close`` it before the session.

    With ``ring`` those that are opened can be written to, by any number of threads: they share one writer. ``opened``
    is closed with them.
    """

    def __init__(self, session: Session, ring: KeyRing | None = None, opened: ExitStack | None = None) -> None:
        self.keys = DocumentKeys(session.home.document_keys)
        self._session = session
        self._ring = ring
        self._closing = opened or ExitStack()
        self._writer: StoreWriter | None = None
        self._has_asked = False
        self._begun: set[bytes] = set()
        """Those that are known to have entries: they always will."""

    # --- finding ---

    def known(self) -> list[DatabaseInfo]:
        """Every database of the home, oldest first."""
        store = self._session.vault.store
        return [info for info in list_databases(store) if self._has_begun(store, info.uid)]

    def find(self, name: str) -> DatabaseInfo:
        """The database with that id, or of that name, or whose id begins with these hex digits, six at least.

        A whole id means nothing else, also when it is not here: whoever founds a database can call it by the id of
        another. Raises ``MissingEvidenceError`` when there is none, or several.
        """
        known = self.known()
        if is_whole_id(name):
            matches = [info for info in known if info.uid.hex() == name]
        else:
            begins = name if len(name) >= _LEAST_PREFIX else None
            matches = [
                info
                for info in known
                if info.name == name or (begins is not None and info.uid.hex().startswith(begins))
            ]
        if not matches:
            raise MissingEvidenceError(f"no database is called {name!r}", hint="see 'holdfast db list'")
        if len(matches) > 1:
            raise MissingEvidenceError(
                f"{len(matches)} databases are called {name!r}",
                hint="name it by its id, or the first digits of that: see 'holdfast db list'",
            )
        return matches[0]

    # --- opening ---

    def open(self, name: str, *, device: str | None = None) -> Database:
        """The database, for reading, or with the home's keys for writing as ``device``.

        By default that is the device that has written to it, or the only one. What other feeds of the store hold of it
        is taken in first. Raises as ``find`` does, ``RefusedError`` when no device can be meant, and for writing what
        ``Vault.start_writer`` and ``Vault.create_feed`` raise.
        """
        return self.open_known(self.find(name).uid, device=device)

    def open_known(self, uid: bytes, *, device: str | None = None) -> Database:
        """The same for a database whose id is known."""
        if self._ring is None:
            return self._reading(uid)
        self._ask_own_heads(self._ring)
        database = self._opened(uid, self._feed(self._ring, uid, device))
        database.take_new()
        settle_erasures(database)
        return database

    def create(self, name: str, *, device: str | None = None) -> Database:
        """Found a database: its founder is the home's identity, as ``device``, by default the only one.

        Raises ``MalformedError`` for what is no name, ``RefusedError`` when one is called so already, no keys were
        given or no device can be meant, and what ``Vault.create_feed`` raises.
        """
        check_name(name, "database")
        vault = self._session.vault
        if self._ring is None:
            raise RefusedError("founding a database takes the home's keys")
        if any(info.name == name for info in self.known()):
            raise RefusedError(f"there is a database {name!r} already", hint="see 'holdfast db list'")
        founding = Founding(name, vault.history().identity, secrets.token_bytes(_SALT_BYTES))
        uid = database_id(founding)
        feed = vault.create_feed(self._ring, device or self._only_device(self._ring), feed_name(uid))
        register_database(vault.store, uid, name, self._session.now_ms())
        database = self._opened(uid, feed)
        found(database, founding, vault.signed_events())
        return database

    def receive(
        self, bundle: BinaryIO, advance: Callable[[int], None] | None = None
    ) -> tuple[DatabaseInfo, ImportReport, bool]:
        """Take in a bundle, of a database that is here or of one that is joined by it: whole, or nothing of it.

        ``bundle`` can be read from its beginning again. Returns the database, what was new, and whether it was joined.
        Erasures are carried out. Raises as ``Database.import_bundle`` and ``sync.database.join``, and what the guard
        raises when the store must not be written to.
        """
        session = self._session
        session.vault.require_writable()
        uid = BundleReader(bundle).header.database
        bundle.seek(0)
        is_known = any(info.uid == uid for info in self.known())
        store = session.vault.store
        if is_known:
            report = self._reading(uid).import_bundle(bundle, advance)
        else:
            report = join(store, bundle, session.now_ms())
        settle_erasures(self._reading(uid))
        (info,) = (info for info in list_databases(store) if info.uid == uid)  # a bundle can be without entries
        return info, report, not is_known

    def take_in(self) -> list[TakenIn]:
        """``take_in`` for the databases of this home. The store must be open for writing."""
        return take_in(self._session.vault.store, self.keys, self._session.now_ms)

    def signer(self, device: str | None = None) -> Signer:
        """The key of a device of this home, by default of the only one: what signs requests to other nodes.

        Raises ``RefusedError`` when no device can be meant, or none is at hand.
        """
        if self._ring is None:
            raise RefusedError("signing takes the home's keys")
        return device_signer(self._ring, self.device(device), self._session.tokens.signer)

    def writer(self) -> StoreWriter:
        """The one writer of everything that this home writes, started when it is first asked for.

        Raises what ``Vault.start_writer`` raises, ``RefusedError`` without keys.
        """
        if self._ring is None:
            raise RefusedError("writing takes the home's keys")
        if self._writer is None:
            self._writer = self._session.vault.start_writer(self._ring)
        return self._writer

    def device(self, named: str | None = None) -> str:
        """The name of the device as which this home writes and speaks. Raises ``RefusedError`` when it is not clear."""
        if self._ring is None:
            raise RefusedError("that takes the home's keys")
        return named or self._only_device(self._ring)

    def queued(self) -> int:
        """How many writes wait for the writer's next turn."""
        return 0 if self._writer is None else self._writer.queued()

    def close(self) -> None:
        """Write what is on its way, and release the keys. Idempotent."""
        with self._closing:
            if self._writer is not None:
                self._writer.close()
            self.keys.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- inside ---

    def _reading(self, uid: bytes) -> Database:
        return Database(self._session.vault.store, uid, self._session.now_ms, keys=self.keys)

    def _opened(self, uid: bytes, feed: FeedKey) -> Database:
        store = self._session.vault.store
        return Database(store, uid, self._session.now_ms, writer=self.writer(), feed=feed, keys=self.keys)

    def _ask_own_heads(self, ring: KeyRing) -> None:
        """Before a store that was put back begins new feeds: others may hold what it does not know of any more."""
        session = self._session
        if self._has_asked or not session.home.peers.exists():
            return
        session.vault.require_appendable()  # says by the sentinel whether it was put back
        if _begins_new_feeds(session.vault.store):
            from api.peer_recovery import ask_own_heads

            names = sorted(self._good_devices(ring))
            if names:
                signer = device_signer(ring, names[0], session.tokens.signer)
                ask_own_heads(session, signer, session.tell)
        self._has_asked = True

    def _feed(self, ring: KeyRing, uid: bytes, device: str | None) -> FeedKey:
        """The feed of the database that this device writes, begun if there is none."""
        vault = self._session.vault
        names = {key: name for name, key in ring.device_keys().items() if device in (None, name)}
        with vault.store.read() as tx:
            written = {names[owner]: feed for feed, owner in _written_here(tx, uid) if owner in names}
        good = self._good_devices(ring)
        usable = [name for name in written if name in good]
        if len(usable) == 1:
            return written[usable[0]]
        chosen = device or self._only_device(ring)
        return vault.create_feed(ring, chosen, feed_name(uid)) if chosen not in written else written[chosen]

    def _has_begun(self, store: SqlStore, uid: bytes) -> bool:
        if uid not in self._begun and _has_begun(store, uid):
            self._begun.add(uid)
        return uid in self._begun

    def _only_device(self, ring: KeyRing) -> str:
        """The one device of the keystore that may write. Raises ``RefusedError``."""
        names = sorted(self._good_devices(ring))
        if len(names) != 1:
            raise RefusedError("which device is to write?", hint=f"--device with one of: {', '.join(names) or 'none'}")
        return names[0]

    def _good_devices(self, ring: KeyRing) -> set[str]:
        known = self._session.vault.history().devices
        return {name for name, key in ring.device_keys().items() if key in known and known[key].revocation is None}


def _begins_new_feeds(store: SqlStore) -> bool:
    """Whether the next write to a database begins a feed that goes on from a retired one."""
    with store.read() as tx:
        for state in tx.feeds():
            if not (state.local and state.retired and state.length):
                continue
            description = describe(parse_manifest(state.manifest))
            is_ours = description is not None and description.name.startswith(_FEEDS)
            if is_ours and find_successor(tx, state.key) is None:
                return True
    return False


def _has_begun(store: SqlStore, uid: bytes) -> bool:
    """Whether the database has any entry. One whose founding was cut short has none, and never will."""
    with Database(store, uid, int).read() as reader:
        return reader.newest_place() > 0 and bool(reader.branches.clock())


def _written_here(tx: ReadTransaction, uid: bytes) -> Iterator[tuple[FeedKey, bytes]]:
    """The feeds of a database that this node writes, the newest of those that continue each other, and whose."""
    name = feed_name(uid)
    newest = set()
    for state in tx.feeds():
        description = describe(parse_manifest(state.manifest))
        if state.local and description is not None and description.name == name:
            newest.add(newest_continuation(tx, state.key))
    for key in sorted(newest):
        held = tx.feed(key)
        assert held is not None
        yield key, device_key(parse_manifest(held.manifest))


# --- taking in ------------------------------------------------------------------------------------------------------


def take_in(
    store: SqlStore,
    keys: DocumentKeys,
    now_ms: Callable[[], int],
    advance: Callable[[int], None] | None = None,
) -> list[TakenIn]:
    """Let the store have every database of which its feeds hold the founding, with all that they hold of it.

    Erasures among it are carried out in ``keys``. ``advance`` is told how many blocks were looked at.
    """
    with store.read() as tx:
        foundings = _foundings(tx)
    known = {info.uid for info in list_databases(store)}
    for uid, founding in foundings.items():
        if uid not in known:
            register_database(store, uid, founding.name, now_ms())
    taken = []
    for info in list_databases(store):
        database = Database(store, info.uid, now_ms, keys=keys)
        taken.append(TakenIn(info, database.take_new(advance)))
        settle_erasures(database)
    return taken


def _foundings(tx: ReadTransaction) -> Mapping[bytes, Founding]:
    """The foundings that the feeds of databases begin with, by the database's id, which they prove."""
    known = {}
    for state in tx.feeds():
        description = describe(parse_manifest(state.manifest))
        if description is None or not state.length:
            continue
        founding = _founding_in(tx.block(state.key, 0))
        if founding is not None and description.name == feed_name(database_id(founding)):
            known[database_id(founding)] = founding
    return known


def _founding_in(block: bytes) -> Founding | None:
    """A founding is the first entry of its feed."""
    try:
        act = parse_member(parse_entry(block)).act
    except MalformedError:
        return None
    return act.founding if isinstance(act, Found) else None

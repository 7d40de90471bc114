"""An identity with a device that may write, and stores that know it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from identity.event import RevocationReason
from identity.history import (
    KeyHistory,
    SignedEvent,
    build_add_device,
    build_close,
    build_inception,
    build_revoke_device,
    fold,
    key_commitment,
    sign_event,
)
from identity.keys import Ed25519Signer
from ledger.feed import append, create_feed
from ledger.identities import add_events
from ledger.storage.engine import open_store
from ledger.storage.memory import MemoryStore
from ledger.storage.sql import SqlStore
from ledger.storage.sqlite import open_sqlite
from ledger.store import FeedKey, Store


@dataclass(frozen=True)
class Member:
    """An identity with one root key and one device; everything follows from ``number``."""

    root: Ed25519Signer
    device: Ed25519Signer
    events: tuple[SignedEvent, ...]

    @property
    def history(self) -> KeyHistory:
        return fold(self.events)

    @property
    def identity(self) -> bytes:
        return self.history.identity

    def revocation(self) -> SignedEvent:
        """The event that revokes the device, vouching for nothing it wrote."""
        body = build_revoke_device(
            self.history, device=self.device.public_key, last_good={}, reason=RevocationReason.STOLEN, time_ms=2
        )
        return sign_event(body, [(0, self.root)])

    def closing(self) -> SignedEvent:
        """The event that closes the identity."""
        return sign_event(build_close(self.history, time_ms=2), [(0, self.root)])


class NewMember(Protocol):
    def __call__(self, number: int = 0) -> Member: ...


def signer(*seed: int) -> Ed25519Signer:
    return Ed25519Signer(bytes(seed).rjust(32, b"\0"))


@pytest.fixture(scope="session")
def new_member() -> NewMember:
    def make(number: int = 0) -> Member:
        root, following, device = (signer(number, role) for role in (1, 2, 3))
        body = build_inception(
            label=f"member {number}",
            root_keys=[root.public_key],
            next_digests=[key_commitment(following.public_key)],
            time_ms=1,
        )
        inception = sign_event(body, [(0, root)])
        added = build_add_device(fold([inception]), device=device.public_key, name="laptop", time_ms=1)
        return Member(root, device, (inception, sign_event(added, [(0, root), (1, device)])))

    return make


@pytest.fixture
def member(new_member: NewMember) -> Member:
    return new_member()


@pytest.fixture(scope="session")
def new_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], SqlStore]:
    """An empty store in a file, copied from one that was created once: creating takes a tenth of a second."""
    template = tmp_path_factory.mktemp("store") / "template.db"
    open_sqlite(template, create=True).close()

    def make(path: Path) -> SqlStore:
        shutil.copy(template, path)
        return open_sqlite(path)

    return make


@pytest.fixture
def open_empty(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Store]:
    """An empty store on the engine of that name; on PostgreSQL one for each test."""

    def make(engine: str) -> Store:
        if engine == "memory":
            return MemoryStore()
        if engine == "postgresql":
            return open_store(request.getfixturevalue("empty_postgres"))
        return request.getfixturevalue("new_sqlite")(tmp_path / "empty.db")  # type: ignore[no-any-return]

    return make


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def known(request: pytest.FixtureRequest, member: Member, open_empty: Callable[[str], Store]) -> Iterator[Store]:
    """A store, of any kind, that holds the identity of ``member``."""
    store = open_empty(request.param)
    with store.write() as tx:
        add_events(tx, member.identity, member.events)
    yield store
    store.close()


class FillFeed(Protocol):
    def __call__(self, store: Store, member: Member, batches: Sequence[Sequence[bytes]]) -> FeedKey: ...


@pytest.fixture(scope="session")
def fill_feed() -> FillFeed:
    """Make the identity's feed "notes" in a store and append the batches, one signed head each."""

    def fill(store: Store, member: Member, batches: Sequence[Sequence[bytes]]) -> FeedKey:
        with store.write() as tx:
            add_events(tx, member.identity, member.events)
        key = create_feed(store, member.device, member.identity, "notes")
        for batch in batches:
            append(store, key, member.device, batch)
        return key

    return fill


@pytest.fixture(scope="session")
def tamper() -> Callable[[Path, str], None]:
    """Run SQL on a closed database past its triggers and checks, as somebody with the file in their hands can."""

    def run(path: Path, statement: str) -> None:
        with closing(sqlite3.connect(path)) as connection:
            triggers = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
            for name, _ in triggers:
                connection.execute(f"DROP TRIGGER {name}")
            connection.execute("PRAGMA ignore_check_constraints = ON")
            connection.execute(statement)
            for _, sql in triggers:
                connection.execute(sql)
            connection.commit()

    return run

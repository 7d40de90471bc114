"""The engines that a benchmark runs on: for each a place for our stores, and the floor beside them.

PostgreSQL is a private server on the same disk (``benchmarks.postgres_server``); without one it is left out by name.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

from benchmarks._floor import Floor, PostgresFloor, SqliteFloor
from benchmarks.postgres_server import PostgresServer, ServerAbsent, private_server
from identity.history import build_add_device, build_inception, fold, key_commitment, sign_event
from identity.keys import Ed25519Signer, Signer
from ledger.feed import FeedWriter, create_feed
from ledger.identities import add_events
from ledger.storage.engine import open_store
from ledger.storage.sql import SqlStore
from ledger.store import FeedKey, Store

__all__ = [
    "DEVICE_SEED",
    "Engine",
    "add_engine_option",
    "device_of_new_identity",
    "devices_of_new_identity",
    "engines",
    "fill",
    "fill_floor",
    "new_feed",
]

DEVICE_SEED: Final = bytes([3]) * 32
APPENDS_A_TRANSACTION: Final = 1000


@dataclass
class Engine:
    """``name``, for tables; stores and floors are new ones every time."""

    name: str
    directory: Path
    server: PostgresServer | None = None

    def __post_init__(self) -> None:
        self._numbers = count()

    def location(self) -> str:
        """Where a new store can be created."""
        if self.server is not None:
            return self.server.url(self.server.new_database())
        return str(self.directory / f"ours-{next(self._numbers)}.db")

    def store(self) -> SqlStore:
        """A new, empty store of ours."""
        return open_store(self.location(), create=True)

    def floor(self) -> Floor:
        """A new, empty floor."""
        if self.server is not None:
            return PostgresFloor(self.server.url(self.server.new_database()))
        return SqliteFloor(self.directory / f"floor-{next(self._numbers)}.db")


def add_engine_option(parser: argparse.ArgumentParser) -> None:
    """``--engine``."""
    parser.add_argument("--engine", choices=("sqlite", "postgresql", "both"), default="both", help="(default: both)")


@contextmanager
def engines(choice: str, directory: Path) -> Iterator[list[Engine]]:
    """The engines that ``--engine`` names. ``directory`` is on a disk."""
    with ExitStack() as stack:
        chosen = []
        if choice != "postgresql":
            chosen.append(Engine("SQLite", directory))
        if choice != "sqlite":
            try:
                # Its own user has to reach its files, so they lie beside the directory and not in it.
                server = stack.enter_context(private_server(directory.parent))
                chosen.append(Engine("PostgreSQL", directory, server))
            except ServerAbsent as exc:
                print(f"without PostgreSQL: {exc}")
        yield chosen


def device_of_new_identity(store: Store) -> tuple[Ed25519Signer, bytes]:
    """A device that may write in ``store``, and the identity it belongs to."""
    (device,), identity = devices_of_new_identity(store, 1)
    return device, identity


def devices_of_new_identity(store: Store, many: int) -> tuple[list[Ed25519Signer], bytes]:
    """The same for many of one identity. The first has ``DEVICE_SEED``."""
    root, following = Ed25519Signer(bytes([1]) * 32), Ed25519Signer(bytes([2]) * 32)
    devices = [Ed25519Signer((int.from_bytes(DEVICE_SEED) + number).to_bytes(32)) for number in range(many)]
    inception = build_inception(
        label="benchmark", root_keys=[root.public_key], next_digests=[key_commitment(following.public_key)], time_ms=0
    )
    events = [sign_event(inception, [(0, root)])]
    for number, device in enumerate(devices):
        added = build_add_device(fold(events), device=device.public_key, name=f"benchmark {number}", time_ms=0)
        events.append(sign_event(added, [(0, root), (1, device)]))
    identity = fold(events).identity
    with store.write() as tx:
        add_events(tx, identity, events)
    return devices, identity


def new_feed(store: Store, name: str = "benchmark") -> tuple[FeedKey, Ed25519Signer]:
    """A feed in an empty store, and who signs it."""
    device, identity = device_of_new_identity(store)
    return create_feed(store, device, identity, name), device


def fill(store: SqlStore, key: FeedKey, signer: Signer, blocks: Sequence[bytes], length: int) -> None:
    """Append the same blocks again and again up to ``length``: how is not what is measured.

    Many appends share a transaction, but not all: PostgreSQL keeps each version of the feed's row until the commit, and
    looks for the newest one behind them.
    """
    writer = FeedWriter(store, key, signer)
    for appends in _turns(length // len(blocks)):
        with store.write() as tx:
            for _ in range(appends):
                writer.append_in(tx, blocks)


def fill_floor(floor: Floor, blocks: list[bytes], length: int) -> None:
    """The same for the floor."""
    for appends in _turns(length // len(blocks)):
        with floor.transaction():
            for _ in range(appends):
                floor.write(blocks)


def _turns(appends: int) -> Iterator[int]:
    """How many of so many appends go into each transaction."""
    for begun in range(0, appends, APPENDS_A_TRANSACTION):
        yield min(APPENDS_A_TRANSACTION, appends - begun)

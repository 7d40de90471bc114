"""What all tests share: where ``shared/`` is, a PostgreSQL server, and an account of what was skipped.

A test whose tool or data is absent skips by name. With REQUIRE_ALL_TESTS=1, as in .ci/run, a skip is a failure.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from benchmarks.postgres_server import PostgresServer, ServerAbsent, private_server

# The same examples in every run, so that a failure is of what was changed; ``make fuzz`` looks for others.
# No test is about time: a busy machine would fail it.
settings.register_profile("the same", derandomize=True, deadline=None)
settings.register_profile("others", deadline=None)
settings.load_profile("others" if "FUZZ_EXAMPLES" in os.environ else "the same")

ROOT = Path(__file__).resolve().parent.parent
REQUIRE_ALL = os.environ.get("REQUIRE_ALL_TESTS") == "1"


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data and vectors that lies beside the repository; SHARED_DIR names another place."""
    path = Path(os.environ.get("SHARED_DIR", ROOT.parent / "shared"))
    if not path.is_dir():
        pytest.skip("shared/ is not beside the repository")
    return path


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this run's own; skips when none is installed, or root has no user to run it as."""
    try:
        running = private_server()
    except ServerAbsent as exc:
        pytest.skip(str(exc))
    with running as server:
        yield server


@pytest.fixture(scope="session")
def _store_template(postgres: PostgresServer) -> str:
    """A database with a new, empty store, to be copied: the migrations take a third of a second."""
    from ledger.storage.engine import open_store

    name = postgres.new_database()
    open_store(postgres.url(name), create=True).close()
    return name


@pytest.fixture
def postgres_url(postgres: PostgresServer, _store_template: str) -> Iterator[str]:
    """The URL of a new, empty store on PostgreSQL, whose tables a test may damage."""
    name = postgres.new_database(_store_template)
    yield postgres.url(name)
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def _reused_store(postgres: PostgresServer, _store_template: str) -> tuple[str, str]:
    """A database for one test after the other, and what empties its tables past their triggers."""
    import psycopg

    name = postgres.new_database(_store_template)
    with psycopg.connect(postgres.url(name)) as connection:
        query = "SELECT tablename FROM pg_tables WHERE schemaname = 'holdfast'"
        tables = {table for (table,) in connection.execute(query)} - {"alembic_version", "store_lock"}
    emptying = [f"DELETE FROM holdfast.{table}" for table in sorted(tables)]
    settings = ["SET session_replication_role = replica", "SET synchronous_commit = off"]
    return name, "; ".join([*settings, *emptying, _WITHOUT_FIELD_INDEXES])


_WITHOUT_FIELD_INDEXES = """
    DO $$ DECLARE found TEXT; BEGIN
        FOR found IN SELECT indexname FROM pg_indexes WHERE schemaname = 'holdfast' AND indexname LIKE 'ix_field_%'
        LOOP EXECUTE 'DROP INDEX holdfast.' || found; END LOOP;
    END $$
"""


@pytest.fixture
def empty_postgres(postgres: PostgresServer, _reused_store: tuple[str, str]) -> str:
    """The URL of an empty store on PostgreSQL whose tables a test leaves as they are: quicker than a new one."""
    name, emptying = _reused_store
    postgres.execute(emptying, name)
    return postgres.url(name)


def _refuse_skip(report: Any) -> None:
    """Turn a skipped report into a failed one, with the reason of the skip."""
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: skipped, and REQUIRE_ALL_TESTS allows none ({reason})"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    """A module that skips itself."""
    report = yield
    _refuse_skip(report)
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    skipped = len(terminalreporter.stats.get("skipped", []))
    terminalreporter.write_line("zero skips" if not skipped else f"{skipped} skipped: -rs names them")


class Replica:
    """A device with a store of its own and a database in it."""

    def __init__(self, world: SyncWorld, name: str, seed: bytes, url: str) -> None:
        from identity.keys import Ed25519Signer
        from ledger.feed import create_feed
        from ledger.identities import add_events
        from sync.database import register_database
        from sync.document_keys import DocumentKeys
        from sync.storage.projection import feed_name

        self.world = world
        self.name = name
        self.device = Ed25519Signer(seed)
        self.url = url
        self.clock: Callable[[], int] = world.now_ms
        """Its own, when it is to go wrong."""
        self.store = world.open_new(url)
        self.keys = DocumentKeys(world.directory / f"{name}.keys")
        register_database(self.store, world.uid, "bank", 0)
        with self.store.write() as tx:
            add_events(tx, world.identity, world.events)
        self.feed = create_feed(self.store, self.device, world.identity, feed_name(world.uid))
        self.open()

    def open(self) -> None:
        """Open the database, anew when it was open."""
        from ledger.writer import StoreWriter
        from sync.database import Database

        self.writer = StoreWriter(self.store, [self.device])
        self.db = Database(self.store, self.world.uid, self.now_ms, writer=self.writer, feed=self.feed, keys=self.keys)

    def now_ms(self) -> int:
        """What its clock says."""
        return self.clock()

    def reopen(self) -> None:
        """Open the store again after ``close``, as another process would."""
        from ledger.storage.engine import open_store

        self.store = open_store(self.url)
        self.open()

    def copied(self, name: str) -> Replica:
        """A device that was cloned: its store, which is a file, and its key; nobody tells either of the other."""
        from ledger.storage.engine import open_store
        from sync.document_keys import DocumentKeys

        path = self.world.directory / f"{name}.db"
        with closing(sqlite3.connect(self.url)) as source, closing(sqlite3.connect(path)) as target:
            source.backup(target)
        clone = object.__new__(type(self))
        clone.__dict__.update({**self.__dict__, "name": name, "url": str(path)})
        clone.store = open_store(str(path))
        clone.keys = DocumentKeys(self.world.directory / f"{name}.keys")
        clone.open()
        self.world.replicas[name] = clone
        return clone

    def receive(self, *others: Replica) -> int:
        """Take in everything that the others have, feed by feed; how many entries were new."""
        from io import BytesIO

        from ledger.transfer import ingest_feed

        for other in others:
            for feed in other.feeds():
                if feed != self.feed:
                    ingest_feed(self.store, BytesIO(other.exported(feed)))
        return int(self.db.take_new())

    def feeds(self) -> list[bytes]:
        """The feeds of the database that are here and not empty."""
        from ledger.manifest import describe, parse_manifest
        from sync.storage.projection import feed_name

        with self.store.read() as tx:
            states = [state for state in tx.feeds() if state.length]
        described = [(state.key, describe(parse_manifest(state.manifest))) for state in states]
        return [key for key, found in described if found is not None and found.name == feed_name(self.world.uid)]

    def exported(self, feed: bytes) -> bytes:
        """A feed as a file, as far as it is here."""
        from io import BytesIO

        from ledger.transfer import export_feed

        file = BytesIO()
        export_feed(self.store, feed, file)  # type: ignore[arg-type]
        return file.getvalue()

    def put(self, collection: str, key: str, **fields: object) -> Any:
        """Let a document have just these fields."""
        from sync.changes import Changes

        changes = Changes()
        changes.put(collection, key, fields)
        return self.db.commit(changes)

    def fields(self, collection: str, key: str) -> Any:
        """What a document shows, as stored values; None when it is absent."""
        state = self.db.get(collection, key)
        return None if state is None else state.view.fields

    def close(self) -> None:
        """Close everything."""
        self.writer.close()
        self.keys.close()
        self.store.close()


class SyncWorld:
    """One identity with its devices, one database, a clock that a test may set: what replicas are made of.

    ``label`` tells it from another world in the same store. ``empty`` is the file of an empty store, to be copied.
    """

    def __init__(self, directory: Path, label: str = "bank", empty: Path | None = None) -> None:
        from identity.contexts import IDENTITY_EVENT_SIGNATURE
        from identity.history import SignedEvent, build_add_device, build_inception, fold, key_commitment
        from identity.keys import Ed25519Signer
        from sync.transaction import Founding, database_id

        self.directory = directory
        self._empty = empty
        self.clock_ms = 1_800_000_000_000
        self.root = Ed25519Signer(b"\1" * 32)
        self.replicas: dict[str, Replica] = {}

        def sign(event: bytes, *signers: Any) -> SignedEvent:
            context = IDENTITY_EVENT_SIGNATURE + event
            return SignedEvent(event, tuple((place, one.sign(context)) for place, one in enumerate(signers)))

        following = key_commitment(Ed25519Signer(b"\2" * 32).public_key)
        inception = build_inception(label=label, root_keys=[self.root.public_key], next_digests=[following], time_ms=1)
        self.events = [sign(inception, self.root)]
        for number in range(1, 10):
            device = Ed25519Signer(bytes([100 + number]) * 32)
            history = fold(self.events)
            event = build_add_device(history, device=device.public_key, name=f"device {number}", time_ms=1 + number)
            self.events.append(sign(event, self.root, device))
        self.sign = sign
        self.identity = fold(self.events).identity
        self.founding = Founding("bank", self.identity, bytes(16))
        self.uid = database_id(self.founding)

    def now_ms(self) -> int:
        """The clock: it stands until a test moves it."""
        return self.clock_ms

    def open_new(self, url: str) -> Any:
        """A store for a new replica: an empty file, or the one on a server, which may have other worlds in it."""
        from ledger.storage.engine import open_store

        if self._empty is not None and not url.startswith("postgresql"):
            shutil.copyfile(self._empty, url)
            return open_store(url)
        return open_store(url, create=not url.startswith("postgresql"))

    def replica(self, name: str, url: str = "") -> Replica:
        """A new device with a store of its own, on SQLite or at ``url``. The first one founds the database."""
        from sync.database import found

        replica = self.newcomer(name, url)
        if len(self.replicas) == 1:
            found(replica.db, self.founding, self.events)
        else:
            replica.receive(next(iter(self.replicas.values())))
        return replica

    def newcomer(self, name: str, url: str = "") -> Replica:
        """A new device that knows nothing of the database yet."""
        seed = bytes([101 + len(self.replicas)]) * 32
        self.replicas[name] = Replica(self, name, seed, url or str(self.directory / f"{name}.db"))
        return self.replicas[name]

    def exchange(self, *names: str) -> None:
        """Let these replicas, by default all, take in everything that each has."""
        chosen = [self.replicas[name] for name in names or self.replicas]
        for replica in chosen:
            replica.receive(*(other for other in chosen if other is not replica))

    def close(self) -> None:
        """Close every replica."""
        for replica in self.replicas.values():
            replica.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[SyncWorld]:
    """What replicas of one database are made of."""
    made = SyncWorld(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="session")
def make_world(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, str], SyncWorld]:
    """Makes a world in a folder; its label tells it from others in one store. For tests that need many of them."""
    from ledger.storage.engine import open_store

    empty = tmp_path_factory.mktemp("empty") / "store.db"
    open_store(str(empty), create=True).close()
    return lambda directory, label: SyncWorld(directory, label, empty)

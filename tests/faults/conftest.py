"""A world for the attacks: a home with two devices, and outside it the development chain and authority.

Founded once for all tests and copied for each. Its clock stands still until a test moves it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anchoring.chain.dev import DevChain
from anchoring.chain.outbox import AnchorTarget
from anchoring.chain.transactions import LocalKey
from anchoring.contracts import load_contract
from anchoring.exporter import export_evidence
from anchoring.headers import TrustedHeader, TrustedHeaders
from anchoring.policy import ChainTrust, Policy
from anchoring.policy_file import load_policy
from anchoring.receipt import DEVELOPMENT_CHAIN_ID, parse_header
from anchoring.report import Report
from anchoring.rollback import RollbackCheck
from anchoring.tsa.dev import DevelopmentAuthority
from anchoring.tsa.source import EmbeddedSource
from anchoring.verifier import verify_evidence
from anchoring.witness import open_archive
from anchoring.worker import AnchorSender, Round, run_round
from api.bootstrap import Session, open_session
from api.cli.__main__ import main
from api.founding import Founding, found_home
from api.home import Home
from api.settings import default_settings_text, load_settings
from identity.event import DeviceClass
from identity.keystore import ONLY_FOR_TESTING, KeyRing, open_keystore
from ledger.entry import Entry, Record, encode_entry, record_entry
from ledger.feed import FeedWriter
from ledger.log_transfer import export_log
from ledger.storage.sql import SqlStore
from ledger.storage.sqlite import open_sqlite
from ledger.store import FeedKey, StoredCheckpoint

START_MS = 1_767_225_600_000
MINUTE_MS = 60_000
PASSPHRASE = "a passphrase"


class Clock:
    """Milliseconds UTC since 1970. Every authority and every chain of a world reads it."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms

    def tick(self, ms: int = MINUTE_MS) -> None:
        self.now_ms += ms


class World:
    """A home at ``home``, its surroundings in ``dev``, and what people do with them.

    The laptop writes the feed "ledger", the phone writes "approvals".
    """

    def __init__(self, home: Path, dev: Path, clock: Clock) -> None:
        self.home = Home(home)
        self.dev = dev
        self.clock = clock

    # The home.

    @property
    def ring(self) -> KeyRing:
        return open_keystore(self.home.keystore, PASSPHRASE)

    @contextmanager
    def session(self, *, read_only: bool = False) -> Iterator[Session]:
        """The home as every start opens it: with the rollback check before the first write."""
        settings = load_settings(self.home, {"HOLDFAST_DEV_DIR": str(self.dev)})
        with open_session(self.home, settings, read_only=read_only) as session:
            yield session

    @contextmanager
    def unguarded(self) -> Iterator[SqlStore]:
        """The store alone, as a program opens it that asks nobody."""
        store = open_sqlite(self.home.database)
        try:
            yield store
        finally:
            store.close()

    def check(self) -> RollbackCheck:
        with self.session(read_only=True) as session:
            return session.check_rollback()

    def copy(self, name: str) -> World:
        """A copy of the home, with the same surroundings."""
        return World(shutil.copytree(self.home.root, self.home.root.with_name(name)), self.dev, self.clock)

    def restore(self, copy: World) -> None:
        """Put the copy in the place of the home, all of it."""
        shutil.rmtree(self.home.root)
        shutil.copytree(copy.home.root, self.home.root)

    def sentinels(self) -> dict[Path, bytes]:
        """The sentinels of the stores of this world, as they are now."""
        return {file: file.read_bytes() for file in self.dev.parent.glob("sentinels/*")}

    def put_sentinels(self, kept: Mapping[Path, bytes]) -> None:
        """Make them what they were; one that was begun meanwhile is gone."""
        for file in self.sentinels().keys() - kept.keys():
            file.unlink()
        for file, data in kept.items():
            file.write_bytes(data)

    def key(self, feed: str) -> FeedKey:
        with self.session(read_only=True) as session:
            return session.vault.find_feed(feed).state.key

    # What its owner does.

    def append(self, *texts: str, feed: str = "ledger") -> FeedKey:
        """Append an entry for each text, all of them under one signature."""
        with self.session() as session:
            key = session.vault.find_feed(feed).state.key
            session.vault.append(self.ring, key, [self.entry(text) for text in texts])
        return key

    def entry(self, text: str, claimed_ms: int | None = None) -> Entry:
        return record_entry(Record("notes", {"text": text}), self.clock() if claimed_ms is None else claimed_ms)

    def checkpoint(self, *, restate: bool = False) -> StoredCheckpoint:
        with self.session() as session:
            return session.vault.checkpoint(self.ring, restate=restate)

    def authority(self, name: str = "tsa") -> DevelopmentAuthority:
        return DevelopmentAuthority(self.dev / name, clock=self.clock)

    @contextmanager
    def chain(self) -> Iterator[DevChain]:
        with DevChain(self.dev / "chain.db", clock_s=lambda: self.clock() // 1000) as chain:
            yield chain

    def anchor(self) -> Round:
        """Timestamp the newest checkpoint and bring it onto the chain, whatever the rollback check would say."""
        with self.session() as session, self.chain() as chain:
            log_id, descriptor = session.vault.log_descriptor()
            binding = descriptor.chain
            assert binding is not None
            target = AnchorTarget(binding.id, binding.contract, binding.owner, log_id, load_contract().code_hash)
            key = self.ring.anchor_key
            assert key is not None
            sender = AnchorSender(chain, LocalKey(key), target)
            sources = [EmbeddedSource(self.authority())]
            done = run_round(session.vault.store, log_id, descriptor, sources, sender, self.clock())
        assert done.failures == []
        return done

    def seal(self) -> int:
        """Checkpoint, timestamp, anchor; a minute passes. Returns the checkpoint's size."""
        size = self.checkpoint(restate=True).size
        self.anchor()
        self.clock.tick()
        return size

    def seal_and_show(self) -> int:
        """``seal``, and once more a checkpoint, so that what was sealed can be shown under a fresh identity head."""
        size = self.seal()
        self.checkpoint(restate=True)
        return size

    # What somebody does who has the keys and a program of their own.

    def append_unguarded(self, *texts: str, feed: str = "ledger", device: str = "laptop") -> None:
        from api.vault import device_signer

        key = self.key(feed)
        with self.unguarded() as store:
            writer = FeedWriter(store, key, device_signer(self.ring, device))
            writer.append([encode_entry(self.entry(text)) for text in texts])

    # What others see.

    def evidence(self, feed: str, index: int) -> Any:
        """What ``holdfast evidence export`` writes, before it is encoded."""
        key = self.key(feed)
        with self.unguarded() as store, store.read() as tx:
            return export_evidence(tx, open_archive(tx), key, index)

    def policy(self) -> Policy:
        """The home's policy, which demands every claim, with every block of the chain pinned."""
        policy = load_policy(self.home.policy)
        trust = policy.chains[DEVELOPMENT_CHAIN_ID]
        with self.chain() as chain:
            numbers = range(chain.head_number() + 1)
            headers = [parse_header(chain.header(number)) for number in numbers]
        pinned = TrustedHeaders(
            TrustedHeader(DEVELOPMENT_CHAIN_ID, header.number, header.hash, "the test", self.clock())
            for header in headers
        )
        return replace(policy, chains={trust.id: ChainTrust(trust.id, trust.code_hash, pinned)})

    def verify(self, evidence: bytes, at_ms: int | None = None) -> Report:
        return verify_evidence(evidence, self.policy(), self.clock() if at_ms is None else at_ms)

    def export(self, path: Path) -> Path:
        """The complete log, as an outsider is given it."""
        with self.unguarded() as store, path.open("xb") as file:
            export_log(store, file)
        return path


def found_world(root: Path) -> World:
    """A new home with its two feeds; nothing is logged yet."""
    world = World(root / "home", root / "dev", Clock(START_MS))
    world.dev.mkdir()
    settings = default_settings_text({"kind": "dev"}, [{"kind": "dev"}])
    with DevChain(world.dev / "chain.db", create=True, clock_s=lambda: world.clock() // 1000) as chain:
        founding = Founding(
            label="bank",
            devices={"laptop": DeviceClass.DEVICE, "phone": DeviceClass.DEVICE},
            log_name="bank.example",
            chain=chain,
            fund=lambda address: chain.fund(address, 10**20),
            authorities=[world.authority().authority],
            settings=settings,
            kdf=ONLY_FOR_TESTING,
        )
        found_home(world.home, founding, PASSPHRASE, now_ms=world.clock())
    with world.session() as session:
        for device, feed in (("laptop", "ledger"), ("phone", "approvals")):
            session.vault.create_feed(world.ring, device, feed)
    world.clock.tick()
    return world


@pytest.fixture(scope="session")
def founded(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The world that all others are copies of."""
    return found_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def clone() -> Callable[[World, Path], World]:
    """Copy a world, its chain and authority included, to another directory."""

    def copy(world: World, root: Path) -> World:
        home, dev = (shutil.copytree(path, root / path.name) for path in (world.home.root, world.dev))
        copied = World(home, dev, Clock(world.clock()))
        with copied.session() as session:
            session.start_up.adopt()  # the other one is not written any more
        return copied

    return copy


@pytest.fixture
def world(founded: World, clone: Callable[[World, Path], World], tmp_path: Path) -> World:
    """A founded home, for this test alone."""
    return clone(founded, tmp_path)


@pytest.fixture(scope="session")
def written_world(
    founded: World, clone: Callable[[World, Path], World], tmp_path_factory: pytest.TempPathFactory
) -> World:
    """Three entries, sealed, as of "yesterday"; then two more, sealed as well, as of "today"."""
    world = clone(founded, tmp_path_factory.mktemp("written"))
    world.append("one", "two", "three")
    world.append("pay", feed="approvals")
    world.seal_and_show()
    world.copy("yesterday")
    world.append("four", "five")
    world.seal_and_show()
    world.copy("today")
    return world


@pytest.fixture
def dated_world(written_world: World, clone: Callable[[World, Path], World], tmp_path: Path) -> World:
    """That world for this test alone, with the copies of both days beside it."""
    world = clone(written_world, tmp_path)
    for name in ("yesterday", "today"):
        shutil.copytree(written_world.home.root.with_name(name), tmp_path / name)
    return world


Cli = Callable[..., int]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """Run ``holdfast`` in this process on a world's home; returns the exit code."""
    passphrase = tmp_path / "passphrase"
    passphrase.write_text(PASSPHRASE + "\n")

    def run(world: World, *arguments: Sequence[str] | Path) -> int:
        monkeypatch.setenv("HOLDFAST_HOME", str(world.home.root))
        monkeypatch.setenv("HOLDFAST_DEV_DIR", str(world.dev))
        monkeypatch.setenv("HOLDFAST_PASSPHRASE_FILE", str(passphrase))
        return int(main([str(argument) for argument in arguments]))

    return run

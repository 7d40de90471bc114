"""Backup and restore under SIGKILL, on a full disk, and while others write: whole or absent, and the source unharmed.

Row F1 of the fault catalogue, with A5 (disk full) and A1 (kill) for the two commands.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from anchoring.archive_file import archived_store, write_archive
from anchoring.contracts import load_contract
from anchoring.tsa.dev import DevelopmentAuthority
from api.backup import create_backup, export_archive, open_snapshot, restore_home, verify_archive
from api.founding import Founding, found_home
from api.home import Home
from api.settings import Settings, default_settings_text, load_settings
from api.vault import device_signer, log_signer
from identity.errors import AuditError, StorageError
from identity.event import DeviceClass
from identity.keystore import ONLY_FOR_TESTING, KeyRing, open_keystore
from ledger.archive import Purpose
from ledger.audit import audit_feed
from ledger.feed import FeedWriter, create_feed
from ledger.log_writer import LogWriter
from ledger.storage.sqlite import open_sqlite
from ledger.store import FeedKey

pytestmark = pytest.mark.fault

PASSPHRASE = "a passphrase"
ROUNDS = 12
ENTRIES = 4000


class Bank:
    """A home without a chain, with a feed and a checkpoint."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = Home(directory / "home")

    @property
    def environ(self) -> dict[str, str]:
        return {"HOLDFAST_DEV_DIR": str(self.directory / "dev")}

    @property
    def settings(self) -> Settings:
        return load_settings(self.home, self.environ)

    @property
    def ring(self) -> KeyRing:
        return open_keystore(self.home.keystore, PASSPHRASE)

    @property
    def key(self) -> FeedKey:
        with closing(open_sqlite(self.home.database)) as store, store.read() as tx:
            return tx.feeds()[0].key

    def back_up(self, path: Path) -> None:
        create_backup(self.home, self.settings, path, with_keystore=True, made_ms=0)

    def restore(self, path: Path, target: Path) -> None:
        with path.open("rb") as stream:
            restore_home(stream, Home(target), self.environ, at_ms=7)

    def assert_sound(self) -> None:
        """Every entry is there, and the next append works."""
        with closing(open_sqlite(self.home.database)) as store:
            found = audit_feed(store, self.key)
            assert (found.first_bad, found.entries >= ENTRIES) == (None, True)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    bank = Bank(tmp_path_factory.mktemp("bank"))
    founding = Founding(
        label="bank",
        devices={"till": DeviceClass.DEVICE},
        log_name="bank.example",
        chain=None,
        fund=None,
        authorities=[DevelopmentAuthority(bank.directory / "dev" / "tsa").authority],
        settings=default_settings_text({"kind": "none"}, []),
        kdf=ONLY_FOR_TESTING,
    )
    founded = found_home(bank.home, founding, PASSPHRASE, now_ms=0)
    chance = random.Random(5)
    with closing(open_sqlite(bank.home.database)) as store:
        signer = device_signer(bank.ring, "till")
        writer = FeedWriter(store, create_feed(store, signer, founded.identity, "till"), signer)
        for _ in range(0, ENTRIES, 100):
            writer.append([chance.randbytes(200) for _ in range(100)])
        LogWriter(store, log_signer(bank.ring)).append_checkpoint()
    return bank


@pytest.fixture
def bank(template: Bank, tmp_path: Path) -> Bank:
    shutil.copytree(template.directory, tmp_path / "bank")
    return Bank(tmp_path / "bank")


def in_child(run: Callable[[], None], *, kill_after_s: float | None = None) -> int | None:
    """Run in a process of its own, and kill that after some time. Returns its exit code, negative for a signal."""
    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    if kill_after_s is not None:
        child.join(kill_after_s)
        if child.is_alive() and child.pid is not None:
            os.kill(child.pid, signal.SIGKILL)
    child.join()
    return child.exitcode


def duration_s(run: Callable[[], None]) -> float:
    began = time.monotonic()
    in_child(run)
    return time.monotonic() - began


# --- killed


def test_a_killed_backup_is_whole_or_absent(bank: Bank, tmp_path: Path) -> None:
    long_s = duration_s(lambda: bank.back_up(tmp_path / "first"))
    chance, ended = random.Random(1), set()
    for number in range(ROUNDS):
        target = tmp_path / f"backup{number}"
        in_child(lambda target=target: bank.back_up(target), kill_after_s=chance.uniform(0, 1.1 * long_s))  # type: ignore[misc]
        ended.add(target.exists())
        if target.exists():
            with target.open("rb") as stream:
                assert verify_archive(stream, folder=tmp_path).entries == ENTRIES
    bank.assert_sound()
    bank.back_up(tmp_path / "last")
    assert False in ended


def test_a_killed_restore_is_whole_or_absent(bank: Bank, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    bank.back_up(backup)
    data = backup.read_bytes()
    long_s = duration_s(lambda: bank.restore(backup, tmp_path / "first"))
    chance, ended = random.Random(2), set()
    for number in range(ROUNDS):
        target = tmp_path / f"restored{number}"
        in_child(lambda target=target: bank.restore(backup, target), kill_after_s=chance.uniform(0, 1.1 * long_s))  # type: ignore[misc]
        ended.add(target.exists())
        if target.exists():
            with closing(open_sqlite(Home(target).database, read_only=True)) as store:
                assert audit_feed(store, bank.key).first_bad is None
            assert open_keystore(Home(target).keystore, PASSPHRASE) == bank.ring
        else:
            bank.restore(backup, target)  # what a killed one left is in nobody's way
    assert backup.read_bytes() == data
    assert False in ended


# --- the disk is full


def limited(size: int, run: Callable[[], None]) -> Callable[[], None]:
    """Run where no file can grow beyond so many bytes; exit with 74 when that was said as a storage error."""

    def child() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        try:
            run()
        except StorageError:
            os._exit(74)
        except AuditError:
            os._exit(70)
        os._exit(0)

    return child


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_backup_onto_a_full_disk(bank: Bank, tmp_path: Path, share: float) -> None:
    bank.back_up(tmp_path / "whole")
    size = (tmp_path / "whole").stat().st_size
    target = tmp_path / "backup"
    before = sorted(tmp_path.iterdir())
    assert in_child(limited(int(size * share), lambda: bank.back_up(target))) == 74
    assert sorted(tmp_path.iterdir()) == before
    bank.assert_sound()
    bank.back_up(target)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.7])
def test_a_restore_onto_a_full_disk(bank: Bank, tmp_path: Path, share: float) -> None:
    backup, target = tmp_path / "backup", tmp_path / "restored"
    bank.back_up(backup)
    bank.restore(backup, tmp_path / "whole")
    size = Home(tmp_path / "whole").database.stat().st_size
    before = sorted(tmp_path.iterdir())
    assert in_child(limited(int(size * share), lambda: bank.restore(backup, target))) == 74
    assert sorted(tmp_path.iterdir()) == before
    bank.restore(backup, target)


def test_a_restore_for_which_only_the_last_checkpoint_of_the_engine_had_no_room_is_whole(
    bank: Bank, tmp_path: Path
) -> None:
    """Everything was committed, and stands in the write-ahead log: whoever opens the store next moves it."""
    backup, restored = tmp_path / "backup", Bank(tmp_path / "restored")
    bank.back_up(backup)
    bank.restore(backup, tmp_path / "whole")
    size = Home(tmp_path / "whole").database.stat().st_size
    restored.directory.mkdir()
    assert in_child(limited(int(size * 0.85), lambda: bank.restore(backup, restored.home.root))) == 0
    assert restored.home.database.stat().st_size < size
    restored.assert_sound()


def test_a_check_of_a_backup_where_there_is_no_space(bank: Bank, tmp_path: Path) -> None:
    backup, passing = tmp_path / "backup", tmp_path / "passing"
    bank.back_up(backup)
    passing.mkdir()

    def check() -> None:
        with backup.open("rb") as stream:
            verify_archive(stream, folder=passing)

    assert in_child(limited(200_000, check)) == 74
    assert list(passing.iterdir()) == []


# --- while others write


def test_a_backup_during_writes_is_one_moment_of_them(bank: Bank, tmp_path: Path) -> None:
    """Row F1: each backup holds a signed prefix of the feed, and the log never speaks of more than is in it."""
    key, ring, stop = bank.key, bank.ring, threading.Event()
    written: list[int] = []

    def write() -> None:
        with closing(open_sqlite(bank.home.database)) as store:
            writer = FeedWriter(store, key, device_signer(ring, "till"))
            log = LogWriter(store, log_signer(ring))
            while not stop.is_set():
                written.append(writer.append([b"%d" % len(written)] * 10).length)
                if len(written) % 5 == 0:
                    log.append_checkpoint()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        lengths = []
        for number in range(5):
            before = len(written)
            while len(written) == before:
                time.sleep(0.001)
            bank.back_up(tmp_path / f"backup{number}")
            with (tmp_path / f"backup{number}").open("rb") as stream:
                (feed,) = verify_archive(stream, folder=tmp_path).feeds
            lengths.append((feed.length, feed.tree_hash))
    finally:
        stop.set()
        thread.join()
    assert sorted(set(lengths)) == lengths
    with closing(open_sqlite(bank.home.database)) as store, store.read() as tx:
        for length, tree_hash in lengths:
            head = tx.head(key, length)
            assert head is not None
            assert head.tree_hash == tree_hash


def test_a_backup_does_not_hold_up_who_writes(bank: Bank) -> None:
    """In the middle of a backup an append goes through, and is not in it."""
    with closing(open_sqlite(bank.home.database)) as store:
        writer = FeedWriter(store, bank.key, device_signer(bank.ring, "till"))
        out, appended = io.BytesIO(), []

        def append_once(_entries: int) -> None:
            if not appended:
                appended.append(writer.append([b"meanwhile"]).length)

        with store.read() as tx:
            write_archive(tx, out, Purpose.BACKUP, archive_id=bytes(32), made_ms=0, advance=append_once)
    assert appended == [ENTRIES + 1]
    with archived_store(io.BytesIO(out.getvalue()), load_contract().code_hash) as (_, loaded):
        assert loaded.entries == ENTRIES


def test_a_backup_from_a_medium_that_cannot_be_written_to(
    bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.BytesIO()
    with monkeypatch.context() as patched:
        patched.setattr("api.backup.os.access", lambda *_: False)  # whoever is root may write anything
        with open_snapshot(bank.settings) as store:
            assert store.read_only
            assert sorted(path.name for path in bank.home.root.glob("vault.db*")) == ["vault.db"]
        export_archive(bank.settings, out, made_ms=0)
    assert verify_archive(io.BytesIO(out.getvalue()), folder=tmp_path).entries == ENTRIES

"""Erasure under SIGKILL: a key is whole and found, or in no file after the next destruction; and proofs still hold."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from identity.encoding import Value
from identity.errors import VerificationError
from identity.history import build_add_device, build_inception, fold, key_commitment, sign_event
from identity.keys import Ed25519Signer
from ledger.audit import audit_feed
from ledger.entry import encode_record, parse_entry, parse_record
from ledger.feed import FeedWriter, create_feed
from ledger.identities import add_events
from ledger.storage.sqlite import open_sqlite
from ledger.store import FeedKey
from ledger.values import Sealed, to_python
from sync.document_keys import DocumentKey, DocumentKeys
from sync.sealing import SealedPlace, open_sealed, seal
from sync.transaction import DocumentId

pytestmark = pytest.mark.fault

DATABASE, ADA = bytes([0xDB]) * 32, DocumentId("people", "ada")
PLACE = SealedPlace(DATABASE, *ADA, ("address",))
SECRET_TEXT = "12 St James's Square, London"
NOW = 1_790_000_000_000
ROOT, FOLLOWING, DEVICE = (Ed25519Signer(bytes([number]) * 32) for number in (1, 2, 3))
TIMERS_S = [0.0005 * 1.4**step for step in range(12)]


def files_with(directory: Path, data: bytes) -> list[str]:
    """Files beneath the directory that hold the bytes, whatever they are called."""
    return sorted(file.name for file in directory.rglob("*") if file.is_file() and data in file.read_bytes())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the keys of twelve documents, and a copy of them on a stick."""
    home = tmp_path_factory.mktemp("homes") / "home"
    (home / "stick").mkdir(parents=True)
    with DocumentKeys(home / "keys.db") as keys:
        for n in range(12):
            keys.key_for(DATABASE, ADA if n == 7 else DocumentId("people", f"{n:03}" * 100))
    return home


@pytest.fixture
def fresh(home: Path, tmp_path: Path) -> Callable[[str], tuple[Path, DocumentKey]]:
    """A copy of the home, and Ada's key in it. Its backup is made anew, because a home knows where its backups are."""

    def fresh(name: str) -> tuple[Path, DocumentKey]:
        copy = shutil.copytree(home, tmp_path / name)
        with DocumentKeys(copy / "keys.db") as keys:
            keys.backup(copy / "stick" / "copy.db")
            return copy, keys.key_for(DATABASE, ADA)

    return fresh


def destruction(home: Path) -> Callable[[], object]:
    return lambda: DocumentKeys(home / "keys.db").destroy(DATABASE, ADA, NOW)


def backup(home: Path, name: str) -> Callable[[], object]:
    return lambda: DocumentKeys(home / "keys.db").backup(home / "stick" / name)


def killed_in(work: Callable[[], object], arrange: Callable[[], object]) -> bool:
    """Do the work in a process that ``arrange`` has prepared to be killed; whether it was."""

    def child() -> None:
        arrange()
        work()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL, -signal.SIGALRM)
    return process.exitcode != 0


def kill_at(count: int) -> Callable[[], None]:
    """Kill the process before the statement of that number; 400 steps of SQLite within a statement count as one too."""
    left = [count]

    def step() -> int:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    class Counted(sqlite3.Connection):
        def execute(self, *arguments: Any) -> sqlite3.Cursor:
            step()
            return super().execute(*arguments)

    connect = sqlite3.connect

    def counted(*arguments: Any, **named: Any) -> sqlite3.Connection:
        connection = connect(*arguments, factory=Counted, **named)
        connection.set_progress_handler(step, 400)
        return connection

    def arrange() -> None:
        sqlite3.connect = counted  # type: ignore[assignment]  # in the child alone

    return arrange


def kill_after(seconds: float) -> Callable[[], object]:
    """The kernel ends the process after that time, also while it is within a write or a commit."""

    def arrange() -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    return arrange


def check_what_is_left(home: Path, key: DocumentKey) -> bool:
    """The key is whole, or it is not in the key file once that was opened; destroyed again it is nowhere."""
    with DocumentKeys(home / "keys.db") as keys:
        found = keys.find(key.kid)
        assert found in (None, key.secret)
        if found is None:
            assert set(files_with(home, key.secret)) <= {"copy.db", "copy.db-journal"}
        assert len(keys.export_keys(DATABASE)) > 11 * 300
        done = keys.destroy(DATABASE, ADA, NOW)
        assert (done.kids, done.unreachable) == ((key.kid,), ())
        assert files_with(home, key.secret) == []
        assert keys.find(key.kid) is None
        assert keys.find(keys.key_for(DATABASE, DocumentId("people", "000" * 100)).kid) is not None
    return found is None


def test_killed_before_any_statement_of_a_destruction(fresh: Callable[[str], tuple[Path, DocumentKey]]) -> None:
    outcomes = set()
    count, killed = 0, True
    while killed:
        home, key = fresh(str(count))
        killed = killed_in(destruction(home), kill_at(count))
        if not killed:
            assert files_with(home, key.secret) == []
        outcomes.add(check_what_is_left(home, key))
        shutil.rmtree(home)
        count += 2
    assert count > 40
    assert outcomes == {True, False}


def test_killed_at_any_moment_of_a_destruction(fresh: Callable[[str], tuple[Path, DocumentKey]]) -> None:
    for place, seconds in enumerate(TIMERS_S):
        home, key = fresh(str(place))
        killed_in(destruction(home), kill_after(seconds))
        check_what_is_left(home, key)
        shutil.rmtree(home)


def test_a_backup_that_was_killed_is_not_forgotten(fresh: Callable[[str], tuple[Path, DocumentKey]]) -> None:
    held = set()
    count, killed = 0, True
    while killed:
        home, key = fresh(str(count))
        killed = killed_in(backup(home, "second.db"), kill_at(count))
        held.add("second.db" in files_with(home, key.secret))
        with DocumentKeys(home / "keys.db") as keys:
            assert keys.destroy(DATABASE, ADA, NOW).unreachable == ()
        assert files_with(home, key.secret) == []
        shutil.rmtree(home)
        count += 7
    assert held == {True, False}


def test_a_key_is_durable_before_anybody_has_it(tmp_path: Path) -> None:
    reading, writing = os.pipe()

    def work() -> None:
        key = DocumentKeys(tmp_path / "keys.db").key_for(DATABASE, ADA)
        os.write(writing, key.kid + key.secret)
        os.kill(os.getpid(), signal.SIGKILL)

    assert killed_in(work, lambda: None)
    said = os.read(reading, 100)
    os.close(reading)
    os.close(writing)
    with DocumentKeys(tmp_path / "keys.db") as keys:
        assert keys.find(said[:16]) == said[16:]
        assert keys.key_for(DATABASE, ADA).kid == said[:16]


def destroy_beside_others(path: Path, number: int) -> None:
    with DocumentKeys(path) as keys:
        for n in range(5):
            document = DocumentId("people", f"{number}-{n}")
            key = keys.key_for(DATABASE, document)
            if n == 2:
                keys.backup(path.with_name(f"copy-{number}.db"))
            assert keys.destroy(DATABASE, document, NOW).kids == (key.kid,)
            for file in (path, path.with_name("keys.db-journal")):
                assert key.secret not in file.read_bytes()


def test_processes_that_destroy_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "keys.db"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=destroy_beside_others, args=(path, number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    with DocumentKeys(path) as keys:
        assert len(keys.copies()) == 3
        assert b"people" not in keys.export_keys(DATABASE)


# --- what the feed keeps


def new_feed(path: Path, block: bytes) -> FeedKey:
    inception = build_inception(
        label="faults", root_keys=[ROOT.public_key], next_digests=[key_commitment(FOLLOWING.public_key)], time_ms=0
    )
    begun = sign_event(inception, [(0, ROOT)])
    history = fold([begun])
    added = build_add_device(history, device=DEVICE.public_key, name="phone", time_ms=0)
    store = open_sqlite(path, create=True)
    with store.write() as tx:
        add_events(tx, history.identity, [begun, sign_event(added, [(0, ROOT), (1, DEVICE)])])
    key = create_feed(store, DEVICE, history.identity, "notes")
    FeedWriter(store, key, DEVICE).append([block])
    store.close()
    return key


def stored_value(path: Path, feed: FeedKey) -> Sealed:
    """What the feed holds for Ada's address, after all of its hashes and signatures were checked."""
    store = open_sqlite(path)
    assert audit_feed(store, feed).first_bad is None
    with store.read() as tx:
        (block,) = tx.blocks(feed, 0, 1)
    store.close()
    value = to_python(parse_record(parse_entry(block)).fields["address"])
    assert isinstance(value, Sealed)
    return value


def test_an_erased_value_is_in_no_file_and_the_feed_still_verifies(tmp_path: Path) -> None:
    with DocumentKeys(tmp_path / "keys.db") as keys:
        kid, secret = keys.key_for(DATABASE, ADA)
        keys.backup(tmp_path / "copy.db")
        value: Value = SECRET_TEXT
        stored = seal(value, key=secret, kid=kid, place=PLACE, salt=os.urandom(32), nonce=os.urandom(24))
        feed = new_feed(tmp_path / "vault.db", encode_record("people", {"address": stored}, NOW))
        before = stored_value(tmp_path / "vault.db", feed)
        assert open_sealed(before, secret, PLACE) == SECRET_TEXT
        assert keys.destroy(DATABASE, ADA, NOW).unreachable == ()
        later = keys.key_for(DATABASE, ADA)
    assert files_with(tmp_path, secret) == []
    assert files_with(tmp_path, SECRET_TEXT.encode()) == []
    assert stored_value(tmp_path / "vault.db", feed) == before
    with pytest.raises(VerificationError):
        open_sealed(before, later.secret, PLACE)

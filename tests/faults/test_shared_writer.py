"""Many threads and several processes on one feed, and SIGKILL: no entry lost, none twice, no index signed twice.

Each child runs a ``StoreWriter`` with several threads and says what was acknowledged, line by line, after it was.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from identity.errors import ConflictError, StoreBusy
from identity.history import build_add_device, build_inception, fold, key_commitment, sign_event
from identity.keys import Ed25519Signer
from ledger.audit import audit_feed
from ledger.feed import check_tail, create_feed
from ledger.identities import add_events
from ledger.storage.engine import open_store
from ledger.storage.leases import LeaseKeeper
from ledger.store import FeedKey, ReadTransaction, Store
from ledger.turn import Turn
from ledger.writer import StoreWriter

pytestmark = pytest.mark.fault

ROOT, FOLLOWING, DEVICE = (Ed25519Signer(bytes([number]) * 32) for number in (1, 2, 3))

Said = list[list[str]]
"""The words of each whole line that the children wrote."""


@pytest.fixture(params=["sqlite", "postgresql"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where an empty store is."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    place = str(tmp_path / "store.db")
    open_store(place, create=True).close()
    return place


@pytest.fixture
def key(path: str) -> FeedKey:
    inception = build_inception(
        label="faults",
        root_keys=[ROOT.public_key],
        next_digests=[key_commitment(FOLLOWING.public_key)],
        time_ms=0,
    )
    begun = sign_event(inception, [(0, ROOT)])
    history = fold([begun])
    added = build_add_device(history, device=DEVICE.public_key, name="phone", time_ms=0)
    store = open_store(path)
    with store.write() as tx:
        add_events(tx, history.identity, [begun, sign_event(added, [(0, ROOT), (1, DEVICE)])])
    made = create_feed(store, DEVICE, history.identity, "notes")
    store.close()
    return made


class Child:
    """What a child process does: ``threads`` threads call ``work`` until it has been called ``limit`` times in all."""

    def __init__(self, path: str, key: FeedKey, pipe: int, name: str, *, leased: bool = False) -> None:
        self.store = open_store(path)
        self.keeper = LeaseKeeper(duration_ms=150) if leased else None
        self.writer = StoreWriter(self.store, [DEVICE], keeper=self.keeper)
        self.key = key
        self.name = name
        self._pipe = pipe

    def say(self, *words: object) -> None:
        """One write of less than a pipe's atomic size, so that lines of several threads and processes stay whole."""
        os.write(self._pipe, (" ".join(map(str, words)) + "\n").encode())

    def run(self, work: Callable[[Child, int], None], threads: int, limit: int) -> None:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(lambda number: work(self, number), range(limit)):
                pass
        self.writer.close()
        if self.keeper is not None:
            self.keeper.release(self.store)
        self.store.close()


def append_one(child: Child, number: int) -> None:
    entry = f"{child.name}-{number}"
    result = child.writer.append(child.key, [entry.encode()])
    child.say(result.start, entry, result.head.length, result.head.signature.hex())


def count(tx: ReadTransaction, key: FeedKey) -> int:
    state = tx.feed(key)
    assert state is not None
    return int(tx.block(key, state.length - 1)) if state.length else 0


def increment(child: Child, number: int) -> None:
    """Read, add one, and write it if nothing was written meanwhile; else begin again."""
    while True:
        with child.store.read() as tx:
            seen = count(tx, child.key)

        def unchanged(turn: Turn, seen: int = seen) -> None:
            if count(turn, child.key) != seen:
                raise ConflictError("somebody was faster")

        try:
            result = child.writer.append(child.key, [b"%d" % (seen + 1)], condition=unchanged)
        except ConflictError:
            continue
        except StoreBusy:  # another process has the lease, or took it from this one
            time.sleep(0.01)
            continue
        child.say(result.start, seen + 1)
        return


def run_children(
    names: list[str],
    path: str,
    key: FeedKey,
    work: Callable[[Child, int], None],
    *,
    threads: int,
    limit: int,
    leased: bool = False,
    kill_after_s: float | None = None,
) -> Said:
    reading, writing = os.pipe()

    def body(name: str) -> None:
        Child(path, key, writing, name, leased=leased).run(work, threads, limit)

    context = multiprocessing.get_context("fork")
    children = [context.Process(target=body, args=(name,)) for name in names]
    for child in children:
        child.start()
    os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        said = pipe.read(1)  # something was acknowledged
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            for child in children:
                assert child.pid is not None
                os.kill(child.pid, signal.SIGKILL)
        while part := pipe.read(65_536):
            said += part
    for child in children:
        child.join()
        assert child.exitcode == (0 if kill_after_s is None else -signal.SIGKILL)
    return [line.split() for line in said.decode().split("\n")[:-1]]


def stored(path: str, key: FeedKey) -> tuple[list[bytes], dict[int, str]]:
    """The feed's blocks, and its heads by length; audited."""
    store: Store = open_store(path)
    with store.read() as tx:
        state, _ = check_tail(tx, key)
        blocks = list(tx.blocks(key, 0, state.length))
        heads = {head.length: head.signature.hex() for head in tx.heads(key)}
    assert audit_feed(store, key).first_bad is None
    store.close()
    return blocks, heads


def check(path: str, key: FeedKey, said: Said) -> int:
    """Everything that was acknowledged is where it was said to be, once, under the head that was given."""
    blocks, heads = stored(path, key)
    assert len(set(blocks)) == len(blocks), "an entry is there twice"
    for start, entry, length, signature in said:
        assert blocks[int(start)] == entry.encode()
        assert int(start) < int(length)
        assert heads[int(length)] == signature
    return len(blocks)


def test_64_threads_on_one_feed(path: str, key: FeedKey) -> None:
    said = run_children(["one"], path, key, append_one, threads=64, limit=2000)
    assert len(said) == 2000
    assert check(path, key, said) == 2000


@pytest.mark.parametrize("leased", [False, True])
def test_two_processes_race_on_one_feed(path: str, key: FeedKey, leased: bool) -> None:
    """Without leases they take turns at the write lock; with leases of 150 ms the feed changes hands."""
    work = append_until_it_is_ours if leased else append_one
    said = run_children(["one", "two", "three"], path, key, work, threads=8, limit=100, leased=leased)
    assert len(said) == 300
    assert check(path, key, said) == 300


def append_until_it_is_ours(child: Child, number: int) -> None:
    while True:
        try:
            append_one(child, number)
        except StoreBusy:
            time.sleep(0.01)
        else:
            return


@pytest.mark.parametrize("leased", [False, True])
def test_no_update_is_lost_between_processes(path: str, key: FeedKey, leased: bool) -> None:
    said = run_children(["one", "two"], path, key, increment, threads=4, limit=25, leased=leased)
    blocks, _ = stored(path, key)
    assert len(said) == 50
    assert blocks == [b"%d" % (number + 1) for number in range(50)]
    assert sorted((int(start), int(value)) for start, value in said) == [(n, n + 1) for n in range(50)]


def test_killed_at_any_moment(path: str, key: FeedKey) -> None:
    chance = random.Random(6)
    everything: Said = []
    length = 0
    for number in range(8):
        said = run_children(
            [f"{number}a", f"{number}b"],
            path,
            key,
            append_one,
            threads=8,
            limit=10**6,
            kill_after_s=chance.random() * 0.1,
        )
        assert said
        assert min(int(start) for start, *_ in said) >= length, "an index below what was stored was signed again"
        everything += said
        length = check(path, key, everything)

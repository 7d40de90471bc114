"""Feeds under SIGKILL: what was acknowledged is there, no index was signed twice, and the audit passes."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from identity.history import build_add_device, build_inception, fold, key_commitment, sign_event
from identity.keys import Ed25519Signer
from ledger.audit import audit_feed
from ledger.feed import FeedWriter, check_tail, create_feed
from ledger.identities import add_events
from ledger.storage.sqlite import open_sqlite
from ledger.store import FeedKey

pytestmark = pytest.mark.fault

ROUNDS = 20
ROOT, FOLLOWING, DEVICE = (Ed25519Signer(bytes([number]) * 32) for number in (1, 2, 3))

Acknowledged = dict[int, str]
"""Length -> signature, as the child said them after each append."""


def new_feed(path: Path) -> FeedKey:
    inception = build_inception(
        label="faults",
        root_keys=[ROOT.public_key],
        next_digests=[key_commitment(FOLLOWING.public_key)],
        time_ms=0,
    )
    begun = sign_event(inception, [(0, ROOT)])
    history = fold([begun])
    added = build_add_device(history, device=DEVICE.public_key, name="phone", time_ms=0)
    store = open_sqlite(path, create=True)
    with store.write() as tx:
        add_events(tx, history.identity, [begun, sign_event(added, [(0, ROOT), (1, DEVICE)])])
    key = create_feed(store, DEVICE, history.identity, "notes")
    store.close()
    return key


def append_for_ever(path: Path, key: FeedKey, pipe: int, seed: int, limit: int) -> None:
    """What the child does: append, and say so only after the append has returned."""
    chance = random.Random(seed)
    store = open_sqlite(path, busy_timeout_ms=30_000)
    writer = FeedWriter(store, key, DEVICE)
    for _ in range(limit):
        batch = [chance.randbytes(chance.randrange(400)) for _ in range(chance.choice((1, 1, 2, 50, 300)))]
        result = writer.append(batch)
        os.write(pipe, f"{result.length} {result.head.signature.hex()}\n".encode())


def run_children(path: Path, key: FeedKey, seeds: list[int], limit: int, kill: Callable[[int], None]) -> Acknowledged:
    """Fork a child for each seed, let ``kill`` end them (or wait), and collect what they said in whole lines."""
    reading, writing = os.pipe()
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=append_for_ever, args=(path, key, writing, seed, limit)) for seed in seeds]
    for child in children:
        child.start()
    os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        said = pipe.read(1)  # the first append was acknowledged
        for child in children:
            assert child.pid is not None
            kill(child.pid)
        while part := pipe.read(65_536):
            said += part
    for child in children:
        child.join()
    pairs = [line.split() for line in said.decode().split("\n")[:-1]]
    acknowledged = {int(length): signature for length, signature in pairs}
    assert len(acknowledged) == len(pairs), "two appends were acknowledged with one length"
    return acknowledged


def check(path: Path, key: FeedKey, acknowledged: Acknowledged) -> int:
    store = open_sqlite(path)
    with store.read() as tx:
        state, _ = check_tail(tx, key)
        stored = {head.length: head.signature.hex() for head in tx.heads(key)}
    assert acknowledged.items() <= stored.items(), "an acknowledged append is gone, or was signed again"
    assert audit_feed(store, key).first_bad is None
    store.close()
    return state.length


def test_killed_at_any_moment(tmp_path: Path) -> None:
    path, chance = tmp_path / "store.db", random.Random(4)
    key = new_feed(path)
    everything: Acknowledged = {}

    def kill_soon(pid: int) -> None:
        time.sleep(chance.random() * 0.1)
        os.kill(pid, signal.SIGKILL)

    length = 0
    for seed in range(ROUNDS):
        acknowledged = run_children(path, key, [seed], 10**6, kill_soon)
        assert acknowledged
        assert min(acknowledged) > length, "a length below what was stored was signed again"
        everything |= acknowledged
        length = check(path, key, everything)
    assert length >= max(everything)


def test_two_processes_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    key = new_feed(path)
    acknowledged = run_children(path, key, [100, 200, 300], 15, lambda pid: None)
    assert len(acknowledged) == 45
    assert check(path, key, acknowledged) == max(acknowledged)


def test_write_ahead_log_torn_at_any_byte(tmp_path: Path) -> None:
    """The last appends are gone, as after a rollback; what is left is a state that once was, and it holds."""
    path, chance = tmp_path / "store.db", random.Random(5)
    key = new_feed(path)
    store = open_sqlite(path)
    writer = FeedWriter(store, key, DEVICE)
    appended = [writer.append([chance.randbytes(300)] * chance.randrange(1, 9)) for _ in range(30)]
    database, log = path.read_bytes(), path.with_name("store.db-wal").read_bytes()
    store.close()
    heads = {result.length: result.head.signature.hex() for result in appended}
    seen = set()
    for number, cut in enumerate([len(log), *chance.sample(range(len(log)), 25)]):
        torn = tmp_path / f"torn-{number}.db"
        torn.write_bytes(database)
        torn.with_name(f"{torn.name}-wal").write_bytes(log[:cut])
        length = check(torn, key, {})
        with open_sqlite(torn).read() as tx:
            stored = {head.length: head.signature.hex() for head in tx.heads(key)}
        assert stored == {at: signature for at, signature in heads.items() if at <= length}
        assert length == max(stored, default=0)
        seen.add(length)
    assert max(heads) in seen
    assert len(seen) > 10

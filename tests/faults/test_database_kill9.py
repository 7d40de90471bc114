"""A database under SIGKILL: what was acknowledged is there, and the tables are what the feeds make them.

A child commits changes and takes in what another device wrote, says of each commit that it was acknowledged, and is
killed in the middle of it. ``medium/test_database_on_medium.py`` kills at every single write instead.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from identity.errors import ConflictError
from ledger.audit import audit_feed
from ledger.merkle import leaf_node
from ledger.transfer import ingest_feed
from sync.changes import Changes

pytestmark = pytest.mark.fault

ROUNDS = 8
SCHEMA = {
    "type": "object",
    "properties": {"owner": {"type": "text", "indexed": True}, "balance": {"type": "integer", "cell": "ctr"}},
}

Acknowledged = dict[int, bytes]
"""Index in the feed -> leaf hash."""


def some_change(chance: random.Random) -> Changes:
    """A transaction over a few documents, with every kind of cell."""
    changes = Changes()
    for _ in range(chance.choice((1, 1, 2, 20))):
        document = ("accounts", str(chance.randrange(8)))
        match chance.randrange(6):
            case 0:
                changes.patch(*document, {"owner": chance.choice(["A", "B"]), "since": chance.randrange(9)})
            case 1:
                changes.put(*document, {"owner": "C"})
            case 2:
                changes.increment(*document, "balance", chance.randrange(-9, 9))
            case 3:
                changes.add(*document, "labels", chance.randrange(3))
            case 4:
                changes.remove(*document, "labels", chance.randrange(3))
            case _:
                changes.unset(*document, "owner")
    if chance.random() < 0.2:
        changes.delete("accounts", str(chance.randrange(8)))
    return changes


def work_for_ever(replica: Any, pipe: int, seed: int, arriving: list[bytes]) -> None:
    """What the child does: write, now and then take in the next piece of another feed, and say what is durable."""
    chance = random.Random(seed)
    replica.reopen()
    for _ in count():
        with suppress(ConflictError):
            reference = replica.db.commit(some_change(chance)).reference
            if reference is not None:
                os.write(pipe, f"{reference.index} {reference.leaf_hash.hex()}\n".encode())
        if chance.random() < 0.2:
            ingest_feed(replica.store, BytesIO(chance.choice(arriving)))
            replica.db.take_new()


def run_child(replica: Any, seed: int, arriving: list[bytes], kill: Callable[[int], None]) -> Acknowledged:
    reading, writing = os.pipe()
    child = multiprocessing.get_context("fork").Process(target=work_for_ever, args=(replica, writing, seed, arriving))
    child.start()
    os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        said = pipe.read(1)  # the first commit was acknowledged
        assert child.pid is not None
        kill(child.pid)
        while part := pipe.read(65_536):
            said += part
    child.join()
    pairs = [line.split() for line in said.decode().split("\n")[:-1]]
    return {int(index): bytes.fromhex(leaf) for index, leaf in pairs}


def check(replica: Any, acknowledged: Acknowledged) -> int:
    """Hold what a process finds that opens the store against what was acknowledged. Returns the feed's length."""
    replica.reopen()
    with replica.store.read() as tx:
        length = tx.feed(replica.feed).length
        for index, leaf in acknowledged.items():
            assert leaf_node(index, tx.block(replica.feed, index)).hash == leaf, "an acknowledged commit is gone"
    for feed in replica.feeds():
        assert audit_feed(replica.store, feed).first_bad is None
    assert replica.db.audit() == []
    replica.db.take_new()
    assert replica.put("accounts", "after", round=length).reference.index == length
    assert replica.db.audit() == []
    replica.close()
    with closing(sqlite3.connect(replica.url)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    return int(length)


def test_killed_at_any_moment(make_world: Any, tmp_path: Path) -> None:
    chance = random.Random(11)
    world = make_world(tmp_path, "killed")
    laptop, phone = world.replica("laptop"), world.replica("phone")
    laptop.put("$schema", "accounts", schema=SCHEMA)
    world.exchange()
    arriving = []
    for _ in range(30):
        with suppress(ConflictError):
            phone.db.commit(some_change(chance))
        arriving.append(phone.exported(phone.feed))
    laptop.close()

    def kill_soon(pid: int) -> None:
        time.sleep(chance.random() * 0.15)
        os.kill(pid, signal.SIGKILL)

    everything: Acknowledged = {}
    length = 0
    for seed in range(ROUNDS):
        acknowledged = run_child(laptop, seed, arriving, kill_soon)
        assert min(acknowledged) > length - 1, "an index below what was stored was written again"
        everything |= acknowledged
        length = check(laptop, everything) + 1
    laptop.reopen()
    world.exchange()
    names = [("accounts", key) for key in [*map(str, range(8)), "after"]]
    states = [[replica.db.get(*name) for name in names] for replica in (laptop, phone)]
    assert [state and state.etag for state in states[0]] == [state and state.etag for state in states[1]]
    laptop.db.rebuild()
    assert [state and state.etag for state in states[0]] == [
        state and state.etag for state in (laptop.db.get(*name) for name in names)
    ]
    world.close()

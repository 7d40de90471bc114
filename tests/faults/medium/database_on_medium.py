"""Run under the preloaded library: a database whose process is killed at each call that it makes on the medium.

    python database_on_medium.py STORE DATABASE FEED SEED ARRIVING HALFWAY STEP

STORE is a store with the database, in which the feed (both in hex) is that of the device with the key SEED; ARRIVING
is an export of another device's feed. For every STEP-th call a forked process opens a copy of the store, commits, takes
the other feed in, and commits again, and is killed at that call. Prints a JSON object for each: what it had
acknowledged, and what a process finds that opens the store afterwards.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from itertools import count
from pathlib import Path
from typing import Any

from exploring import Faults

from identity.keys import Ed25519Signer
from ledger.audit import audit_feed
from ledger.storage.sql import SqlStore
from ledger.storage.sqlite import open_sqlite
from ledger.store import FeedKey
from ledger.transfer import ingest_feed
from ledger.writer import StoreWriter
from sync.changes import Changes
from sync.database import Database

ALL_CALLS = 7
KILL = 0
NOW_MS = 1_800_000_000_000


class Device:
    """Who writes, and to what."""

    def __init__(self, database: str, feed: str, seed: str) -> None:
        self.database = bytes.fromhex(database)
        self.feed = FeedKey(bytes.fromhex(feed))
        self.signer = Ed25519Signer(bytes.fromhex(seed))

    def open(self, store: SqlStore) -> tuple[StoreWriter, Database]:
        writer = StoreWriter(store, [self.signer])
        return writer, Database(store, self.database, lambda: NOW_MS, writer=writer, feed=self.feed)


def changes(number: int) -> Changes:
    """A transaction over several documents, with every kind of cell."""
    made = Changes(note=f"number {number}")
    for place in range(3):
        made.patch("accounts", str(place), {"owner": f"owner {number}", "since": number})
        made.increment("accounts", str(place), "balance", number)
        made.add("accounts", str(place), "labels", number)
    made.unset("accounts", "1", "owner")
    made.delete("accounts", "2")
    return made


def work(device: Device, path: Path, arriving: Path, pipe: int) -> None:
    """What the process does that is killed; it says of each commit that it is durable."""
    store = open_sqlite(path)
    _, database = device.open(store)

    def commit(number: int) -> None:
        reference = database.commit(changes(number)).reference
        assert reference is not None
        os.write(pipe, json.dumps([reference.index, reference.leaf_hash.hex()]).encode() + b"\n")

    commit(1)
    with arriving.open("rb") as file:
        ingest_feed(store, file)
    database.take_new()
    commit(2)


def in_a_process_that_dies(device: Device, path: Path, arriving: Path) -> tuple[bool, list[Any]]:
    """Whether it came to its end, and what it had said until then."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            work(device, path, arriving, writing)
        except BaseException as exc:  # noqa: BLE001  (a fork must not go on as its parent does)
            os.write(2, f"{exc!r}\n".encode())
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status <= 0, "the process failed by itself"
    return status == 0, [json.loads(line) for line in said.splitlines() if line.endswith(b"]")]


def find(device: Device, path: Path) -> dict[str, Any]:
    """What the next process finds, and that it can go on."""
    store = open_sqlite(path)
    writer, database = device.open(store)
    before = database.audit()
    with store.read() as tx:
        state = tx.feed(device.feed)
        assert state is not None
        leaves = [tx.node(device.feed, 2 * index).hash.hex() for index in range(state.length)]
    taken = database.take_new()
    next_one = database.commit(changes(3)).reference
    assert next_one is not None
    found = {
        "audit": before + database.audit(),
        "sound": all(audit_feed(store, feed).first_bad is None for feed in feeds(store)),
        "leaves": leaves,
        "late": taken,
        "next": next_one.index,
        "tables": [row for (row,) in tables(store)],
    }
    writer.close()
    store.close()
    return found


def feeds(store: SqlStore) -> list[FeedKey]:
    with store.read() as tx:
        return [state.key for state in tx.feeds() if state.length]


def tables(store: SqlStore) -> list[Any]:
    with store.read() as tx:
        return list(tx.fetch_all("PRAGMA integrity_check"))


def main() -> None:
    store, database, feed, seed, arriving, halfway, step = sys.argv[1:]
    device = Device(database, feed, seed)
    faults = Faults(ALL_CALLS, KILL, 1, int(halfway))
    faults.heal()
    for call in count(1, int(step)):
        path = Path(store).with_name(f"{call}.db")
        shutil.copy(store, path)
        faults.arm(call)
        is_over, said = in_a_process_that_dies(device, path, Path(arriving))
        faults.heal()
        print(json.dumps({"call": call, "acknowledged": said, **find(device, path)}), flush=True)
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()
        if is_over:
            return


if __name__ == "__main__":
    main()

"""One process of the chaos: threads that append through a shared writer, and (process 0) checkpoints, until it dies.

Says each answer on stdout in one line, only after it has it: ``head LENGTH SIGNATURE``, ``note SIZE ROOT``; of what was
refused for good ``never BLOCK``, of what is written although it was not acknowledged ``kept BLOCK``. At the named write
point, when it is reached for the ``nth`` time, it says ``point NAME`` and kills itself.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from founded import LOG, begin_sentinel, device, open_patiently

from identity.errors import RefusedError, StorageError, Unacknowledged, UnknownOutcome
from identity.keys import Signer
from ledger.feed import AppendResult
from ledger.log_writer import LogWriter
from ledger.sentinel_file import SentinelFile
from ledger.storage.leases import LeaseKeeper
from ledger.store import Committed, FeedKey
from ledger.writer import StoreWriter

POINTS = (
    "locked",
    "signed",
    "written",
    "durable",
    "sentinel written",
    "committed",
    "told",
    "answered",
    "checkpoint signed",
    "checkpoint committed",
)
"""Between any two of these something becomes durable, or leaves the process."""

THREADS = 4
MOST_BLOCKS = 40
LEASE_MS = 300
PAUSE_S = 0.02


class Fuse:
    """Kills the process when a point is reached for the n-th time."""

    def __init__(self, point: str | None, nth: int) -> None:
        self._point, self._left = point, nth
        self._lock = threading.Lock()

    def reach(self, point: str) -> None:
        if point != self._point:
            return
        with self._lock:
            self._left -= 1
            if self._left == 0:
                say(f"point {point}")
                os.kill(os.getpid(), signal.SIGKILL)


class FusedSigner:
    """A key that reaches a point when it has signed."""

    def __init__(self, signer: Signer, fuse: Fuse, point: str) -> None:
        self._signer, self._fuse, self._point = signer, fuse, point

    @property
    def public_key(self) -> bytes:
        return self._signer.public_key

    def sign(self, message: bytes) -> bytes:
        signature = self._signer.sign(message)
        self._fuse.reach(self._point)
        return signature


class FusedStore:
    """A store that reaches points around its write transactions; all else is the store's own."""

    def __init__(self, store: Any, fuse: Fuse, *, committed: str) -> None:
        self._store, self._fuse, self._committed = store, fuse, committed

    @contextmanager
    def write(self) -> Iterator[Any]:
        with self._store.write() as tx:
            self._fuse.reach("locked")
            yield tx
            self._fuse.reach("written")
        self._fuse.reach(self._committed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def say(line: str) -> None:
    """One write, so that lines of threads and processes do not mix, and no line is half said."""
    os.write(1, f"{line}\n".encode())


def append_for_ever(writer: StoreWriter, key: FeedKey, seed: int, fuse: Fuse) -> None:
    chance = random.Random(seed)
    while True:
        blocks = [chance.randbytes(16 + chance.randrange(400)) for _ in range(chance.choice((1, 1, 2, MOST_BLOCKS)))]
        try:
            result = writer.append(key, blocks)
        except UnknownOutcome:
            continue  # it may be there or not
        except Unacknowledged:
            say(f"kept {blocks[0][:16].hex()}")
            continue
        except StorageError:
            say(f"never {blocks[0][:16].hex()}")
            time.sleep(PAUSE_S)
            continue
        say(f"head {result.head.length} {result.head.signature.hex()}")
        fuse.reach("answered")


def checkpoint_for_ever(store: Any, fuse: Fuse) -> None:
    log = LogWriter(
        FusedStore(store, fuse, committed="checkpoint committed"), FusedSigner(LOG, fuse, "checkpoint signed")
    )
    while True:
        try:
            checkpoint = log.append_checkpoint()
        except (RefusedError, StorageError):
            time.sleep(PAUSE_S)
            continue  # nothing has changed since the last one, or it is not known whether it was written
        say(f"note {checkpoint.size} {checkpoint.root.hex()}")


def run(orders: dict[str, Any]) -> None:
    """Write until killed."""
    fuse = Fuse(orders["point"], orders["nth"])
    store = open_patiently(orders["location"])
    key = FeedKey(bytes.fromhex(orders["feed"]))
    sentinel: SentinelFile = begin_sentinel(store, orders["sentinel"])

    def durable(committed: Committed) -> None:
        fuse.reach("durable")
        sentinel.add(committed)
        fuse.reach("sentinel written")

    def told(_results: Sequence[AppendResult]) -> None:
        fuse.reach("told")

    store.after_commit = durable
    signer = FusedSigner(device(orders["device"]), fuse, "signed")
    keeper = None if store.dialect == "sqlite" else LeaseKeeper(duration_ms=LEASE_MS)
    fused = FusedStore(store, fuse, committed="committed")
    writer = StoreWriter(fused, [signer], keeper=keeper, after_commit=told)
    if orders["process"] == 0:
        threading.Thread(target=checkpoint_for_ever, args=(store, fuse), daemon=True).start()
    for number in range(THREADS):
        seed = 1000 * orders["seed"] + 10 * orders["process"] + number  # so that no two blocks begin alike
        threading.Thread(target=append_for_ever, args=(writer, key, seed, fuse), daemon=True).start()
    while True:
        signal.pause()

"""Run under the preloaded library: every call that an action makes on the medium fails once, one after the other.

    python exploring.py ROOT MASK ERROR TIMES HALFWAY

Prints a JSON object for each call: which action, which call, what was answered, and what was found afterwards.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from founded import LOG, device, found

from identity.errors import AuditError
from ledger.audit import audit_feed
from ledger.feed import FeedWriter, check_tail
from ledger.log_writer import LogWriter
from ledger.storage.sql import SqlStore
from ledger.storage.sqlite import open_sqlite
from ledger.store import FeedKey

DEVICE = device(0)
MOST = max(12, int(os.environ.get("CHAOS_ROUNDS", "0")))
"""Calls of one action that are tried, spread over all it makes."""


class Faults:
    """The orders to the library, from within (conftest.py has the layout)."""

    def __init__(self, mask: int, error: int, times: int, halfway: int) -> None:
        with Path(os.environ["FAULTIO_CONTROL"]).open("r+b") as file:
            self._mapped = mmap.mmap(file.fileno(), 48)
        self._orders = (times, mask, error, halfway)

    def arm(self, first: int) -> None:
        times, mask, error, halfway = self._orders
        struct.pack_into("<QQQQIIII", self._mapped, 0, 0, first, times, 0, mask, error, halfway, 0)

    def heal(self) -> None:
        self._mapped[:] = bytes(48)

    @property
    def calls(self) -> int:
        return int(struct.unpack_from("<Q", self._mapped)[0])


class Tried:
    """One store through all its faults. ``acknowledged`` is what was answered: length -> signature."""

    def __init__(self, path: Path, key: FeedKey) -> None:
        self.path, self.key = path, key
        self.acknowledged: dict[int, str] = {}
        self.notes: list[str] = []
        self.number = 0
        self.store = open_sqlite(path, busy_timeout_ms=200)

    def append(self, count: int) -> None:
        self.number += 1
        blocks = [b"%d %d" % (self.number, place) * 20 for place in range(count)]
        result = FeedWriter(self.store, self.key, DEVICE).append(blocks)
        assert result.length not in self.acknowledged, "one length was acknowledged twice"
        self.acknowledged[result.length] = result.head.signature.hex()

    def checkpoint(self) -> None:
        self.append(1)
        self.notes.append(LogWriter(self.store, LOG).append_checkpoint().note)

    def open(self) -> None:
        self.store.close()
        self.store = open_sqlite(self.path, busy_timeout_ms=200)

    def attempt(self, action: Callable[[], None]) -> str | None:
        """None when it was done, else the error that was answered. Nothing but our own errors is caught."""
        try:
            action()
        except AuditError as exc:
            return f"{type(exc).__name__}: {exc}"
        return None

    def find(self, store: SqlStore) -> dict[str, object]:
        """What is in the store now."""
        with store.read() as tx:
            state, _ = check_tail(tx, self.key)
            stored = {head.length: head.signature.hex() for head in tx.heads(self.key)}
            notes = [checkpoint.note for checkpoint in tx.checkpoints()]
        return {
            "kept": self.acknowledged.items() <= stored.items() and set(self.notes) <= set(notes),
            "unasked": len(stored) - len(self.acknowledged),
            "length": state.length,
            "audit": audit_feed(store, self.key).first_bad is None,
        }


def explore(tried: Tried, faults: Faults, name: str, action: Callable[[], None]) -> None:
    faults.arm(0)
    action()
    calls = faults.calls
    for call in range(1, calls + 1, max(1, calls // MOST)):
        faults.arm(call)
        answered = tried.attempt(action)
        after = tried.attempt(lambda: tried.append(1))
        faults.heal()
        on_the_handle = tried.attempt(lambda: tried.append(1))
        tried.open()
        tried.append(1)
        said = {"action": name, "call": call, "answered": answered, "after": after, "healed": on_the_handle}
        print(json.dumps({**said, **tried.find(tried.store)}), flush=True)


def main() -> None:
    root, *orders = sys.argv[1:]
    faults = Faults(*map(int, orders))
    path = Path(root) / "store.db"
    faults.heal()
    (key,) = found(str(path), 1)
    tried = Tried(path, key)
    explore(tried, faults, "append", lambda: tried.append(2))
    explore(tried, faults, "large append", lambda: tried.append(3000))
    explore(tried, faults, "checkpoint", tried.checkpoint)
    explore(tried, faults, "open", tried.open)


if __name__ == "__main__":
    main()

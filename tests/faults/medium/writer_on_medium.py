"""Run under the preloaded library: a shared writer whose turn fails at one call on the medium, and which then dies.

    python writer_on_medium.py ROOT MASK ERROR TIMES HALFWAY

For each call that a turn makes a forked process appends once while all is well, once while that call fails, says what
it was answered, and is gone without closing anything. Prints a JSON object for each: what was answered, and what a
process finds that opens the store afterwards.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from exploring import Faults
from founded import device, found

from identity.errors import StorageError
from ledger.audit import audit_feed
from ledger.storage.sqlite import open_sqlite
from ledger.store import FeedKey
from ledger.writer import StoreWriter, WriterLimits

DEVICE = device(0)
MOST = 40
"""Calls are tried up to this one; a turn of two items makes fewer."""


def attempt(path: Path, key: FeedKey, faults: Faults, call: int) -> list[str]:
    """What is answered to two items of one turn, or of two. Does not return what the writer has not answered."""
    writer = StoreWriter(
        open_sqlite(path, busy_timeout_ms=100), [DEVICE], limits=WriterLimits(settle_s=0.0, turn_items=2)
    )
    writer.append(key, [b"while all was well"])
    faults.arm(call)
    futures = [writer.submit(key, [b"item %d" % number * 300]) for number in range(2)]
    errors = [future.exception() for future in futures]
    assert all(error is None or isinstance(error, StorageError) for error in errors), errors
    return [type(error).__name__ for error in errors]


def in_a_process_that_dies(path: Path, key: FeedKey, faults: Faults, call: int) -> list[str]:
    reading, writing = os.pipe()
    if not os.fork():
        try:
            os.write(writing, json.dumps(attempt(path, key, faults, call)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    os.wait()
    assert said, f"call {call}: the process died before it said anything"
    return [str(name) for name in json.loads(said)]


def stored(path: Path, key: FeedKey) -> list[str]:
    store = open_sqlite(path)
    assert audit_feed(store, key).first_bad is None
    with store.read() as tx:
        state = tx.feed(key)
        assert state is not None
        blocks = [block[:6].decode() for block in tx.blocks(key, 0, state.length)]
    store.close()
    return blocks


def main() -> None:
    root, *orders = sys.argv[1:]
    faults = Faults(*map(int, orders))
    faults.heal()
    template = Path(root) / "template.db"
    (key,) = found(str(template), 1)
    for call in range(1, MOST):
        path = Path(root) / f"{call}.db"
        shutil.copy(template, path)
        answered = in_a_process_that_dies(path, key, faults, call)
        was_reached = faults.calls >= call
        faults.heal()
        print(json.dumps({"call": call, "answered": answered, "stored": stored(path, key)}), flush=True)
        if not was_reached:
            break


if __name__ == "__main__":
    main()

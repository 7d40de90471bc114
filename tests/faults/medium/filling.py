"""Run where the disk is small: a store is written until the disk is full; when there is space again it goes on.

    python filling.py DIRECTORY

Prints a JSON object for each time that the disk was full: what was answered then, and what was found afterwards. The
first time there is something else on the disk that can be deleted. The second time there is nothing but the store.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from exploring import Tried
from founded import found

from ledger.storage.sqlite import open_sqlite

BALLAST_BYTES = 1024 * 1024
MOST = 10_000
"""Appends that a disk of some MiB can't hold."""


def refusals(tried: Tried, action: Callable[[], None]) -> Iterator[str]:
    """Act until it fails, then once more: two errors in a row."""
    for _ in range(MOST):
        answered = tried.attempt(action)
        if answered is not None:
            yield answered
            yield tried.attempt(action) or "done"
            return
    raise AssertionError("the disk is not full")


def fill(tried: Tried) -> list[str]:
    """Until nothing fits any more, not even what is small; what was answered then."""
    return [
        *refusals(tried, lambda: tried.append(1000)),
        *refusals(tried, lambda: tried.append(1)),
        *refusals(tried, tried.checkpoint),
    ]


def main() -> None:
    directory = Path(sys.argv[1])
    ballast, path = directory / "ballast", directory / "store.db"
    ballast.write_bytes(bytes(BALLAST_BYTES))
    (key,) = found(str(path), 1)
    tried = Tried(path, key)
    answered = fill(tried)
    full = tried.find(tried.store)
    ballast.unlink()
    tried.append(1)
    tried.open()
    tried.append(1)
    print(json.dumps({"answered": answered, "found": [full, tried.find(tried.store)]}))
    answered = fill(tried)
    full = tried.find(tried.store)
    tried.store.close()
    with_nothing_written = open_sqlite(path, read_only=True)
    print(json.dumps({"answered": answered, "found": [full, tried.find(with_nothing_written)]}))


if __name__ == "__main__":
    main()

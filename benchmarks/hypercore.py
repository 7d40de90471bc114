"""Ours beside JS hypercore, in turns within one run: appends, reads and proofs.

    BENCH_MODULES=<folder with node_modules> python -m benchmarks.hypercore [--rounds 3] [--json figures.json]

The two do not promise the same: JS hypercore does not flush the medium for each append, ours does. So there is a second
row of ours for each append, with SQLite's flush left out by a pragma that this script sets and the product does not
know; that row is the one to compare the two programs by, the other one is what durability costs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import urandom
from pathlib import Path
from typing import Final

from benchmarks._engines import Engine, fill, new_feed
from benchmarks._measure import Comparison, compare, option_parser, report
from benchmarks.append import ENTRIES_A_ROUND, ENTRY_BYTES
from ledger.feed import FeedWriter, block_proof
from ledger.storage.sql import SqlStore

LENGTH: Final = 100_000
READS, PROOFS = 2_000, 200
"""In a round."""
STEP: Final = 7919
"""Between the indices that are read: a prime, and the same on both sides."""


class Peer:
    """The node process: a line to it is work, a line from it says how long that took."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.versions = self._answer()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        answer: dict[str, float] = json.loads(self._process.stdout.readline())
        return answer

    def __call__(self, *words: object) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        return int(self._answer()["items"])


@contextmanager
def peer(modules: str, directory: Path) -> Iterator[Peer]:
    script = Path(__file__).with_suffix(".mjs")
    environ = {**os.environ, "BENCH_MODULES": modules, "BENCH_DIRECTORY": str(directory)}
    with subprocess.Popen(
        ["node", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
    ) as js:
        yield Peer(js)
        assert js.stdin is not None
        js.stdin.close()


def main() -> None:
    options = option_parser(__doc__, rounds=3).parse_args()
    modules = os.environ.get("BENCH_MODULES")
    if not modules or shutil.which("node") is None:
        sys.exit(
            "benchmarks.hypercore: set BENCH_MODULES to a folder whose node_modules hold hypercore; node is needed"
        )
    with tempfile.TemporaryDirectory(dir=options.directory) as name, peer(modules, Path(name)) as js:
        engine = Engine("SQLite", Path(name))
        rows = [row for batch in ENTRIES_A_ROUND for row in measure_appends(engine, js, batch, options.rounds)]
        rows += measure_reading(engine, js, options.rounds)
        floor = f"hypercore {js.versions['hypercore']} on node {js.versions['node']}"
    report(f"beside JS hypercore, {ENTRY_BYTES}-byte blocks", floor, rows, options.json)


def measure_appends(engine: Engine, js: Peer, batch: int, rounds: int) -> list[Comparison]:
    entries = ENTRIES_A_ROUND[batch]
    rows = []
    for durable in (True, False):
        store = engine.store()
        key, device = new_feed(store)
        if not durable:
            leave_out_flushes(store)
        writer, blocks = FeedWriter(store, key, device), [urandom(ENTRY_BYTES) for _ in range(batch)]

        def ours(append: Callable[[list[bytes]], object] = writer.append, blocks: list[bytes] = blocks) -> int:
            for _ in range(entries // batch):
                append(blocks)
            return entries

        subject = f"append, {batch} a signature, {'durable' if durable else 'without flushes'}"
        rows.append(compare(subject, ours, lambda: js("append", entries, batch), rounds=rounds))
        store.close()
    return rows


def leave_out_flushes(store: SqlStore) -> None:
    """For the connection that the store writes with, which it keeps."""
    with store.write():
        connection = store._writing._idle
    for idle in connection:
        idle.connection.driver_connection.execute("PRAGMA synchronous = OFF")


def measure_reading(engine: Engine, js: Peer, rounds: int) -> list[Comparison]:
    store = engine.store()
    key, device = new_feed(store)
    fill(store, key, device, [urandom(ENTRY_BYTES) for _ in range(1000)], LENGTH)
    js("fill", LENGTH)

    def read() -> int:
        with store.read() as tx:
            for number in range(READS):
                tx.block(key, number * STEP % LENGTH)
        return READS

    def prove() -> int:
        with store.read() as tx:
            for number in range(PROOFS):
                block_proof(tx, key, number * STEP % LENGTH, length=LENGTH, head_length=LENGTH)
        return PROOFS

    rows = [
        compare("random read", read, lambda: js("get", READS), rounds=rounds),
        compare("block + upgrade proof made", prove, lambda: js("proof", PROOFS), rounds=rounds),
    ]
    store.close()
    return rows


if __name__ == "__main__":
    main()

"""Ours beside JS hypercore, in turns within one run: appends, reads and proofs.

    python -m benchmarks.hypercore [--rounds 3] [--json figures.json]

Hypercore is installed by ``npm ci`` from the lock file that the tests use, into a folder that is gone afterwards; or it
is what lies below ``node_modules`` in the folder that BENCH_MODULES names.

The two do not promise the same: JS hypercore does not flush the medium for each append, ours does. So there is a second
row of ours for each append, with SQLite's flush left out by a pragma that this script sets and the product does not
know; that row is the one to compare the two programs by, the other one is what durability costs.

The other side, ``hypercore.mjs``, is a script of its own and answers line by line, because a ratio is only worth
something when ours and theirs take turns within a run: ``bench_hypercore.mjs``, which it goes back to, measures all of
Hypercore in one go, and Hyperbee, which has no counterpart here. Lengths, sizes of blocks and batches are the same.
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

LOCKED: Final = Path(__file__).resolve().parent.parent / "tests" / "integration" / "hypercore" / "pinned"
LENGTH: Final = 100_000
READS, PROOFS = 2_000, 200
"""In a round."""
STEP: Final = 7919
"""Between the indices that are read: a prime, and the same on both sides."""


@contextmanager
def installed_modules() -> Iterator[str]:
    """A folder whose ``node_modules`` hold hypercore."""
    given = os.environ.get("BENCH_MODULES")
    if given:
        yield given
        return
    npm = shutil.which("npm")
    if npm is None:
        sys.exit("benchmarks.hypercore: npm is not installed, and BENCH_MODULES names no folder with hypercore")
    with tempfile.TemporaryDirectory(prefix="hypercore-") as folder:
        for file in ("package.json", "package-lock.json"):
            shutil.copy(LOCKED / file, folder)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"benchmarks.hypercore: hypercore cannot be had from npm: {done.stderr.strip()[-200:]}")
        yield folder


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
    if shutil.which("node") is None:
        sys.exit("benchmarks.hypercore: node is not installed")
    with (
        installed_modules() as modules,
        tempfile.TemporaryDirectory(dir=options.directory) as name,
        peer(modules, Path(name)) as js,
    ):
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
    with store.write() as tx:
        driver = tx.connection.connection.driver_connection
    assert driver is not None
    driver.execute("PRAGMA synchronous = OFF")


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
        compare("random read, one after the other", read, lambda: js("get", READS), rounds=rounds),
        compare("random read, theirs 100 in flight", read, lambda: js("gets", READS), rounds=rounds),
        compare("block + upgrade proof made", prove, lambda: js("proof", PROOFS), rounds=rounds),
    ]
    store.close()
    return rows


if __name__ == "__main__":
    main()

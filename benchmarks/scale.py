"""What a feed's length costs: appends, opening, proofs and memory at growing lengths; peak memory of whole-feed work.

    python -m benchmarks.scale [--lengths 10000,100000] [--memory-entries 100000] [--json figures.json]

Each row is a process of its own. Costs are held against those of the shortest feed: they may grow with the logarithm of
the length and no faster. Memory is the peak of the resident set, held against that of a process that has opened the
same store and read the feed's state.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from benchmarks._engines import DEVICE_SEED, Engine, fill, new_feed
from benchmarks._measure import option_parser, surroundings
from benchmarks.append import ENTRY_BYTES
from identity.keys import Ed25519Signer
from ledger.audit import audit_feed
from ledger.feed import FeedWriter, block_proof
from ledger.storage.engine import open_store
from ledger.store import FeedKey, Store
from ledger.transfer import export_feed

TIMES: Final = 200
BATCH: Final = 1000


def main() -> None:
    parser = option_parser(__doc__)
    parser.add_argument("--lengths", default="10000,100000", help="of the feeds, ascending")
    parser.add_argument("--memory-entries", type=int, default=100_000, help="in what is imported, audited and exported")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        what, path, entries = options.child.split(":")
        print(json.dumps(CHILDREN[what](Path(path), int(entries))))
        return
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        directory = Path(name)
        lengths = [cost_at(directory, int(length)) for length in options.lengths.split(",")]
        memory = peaks(directory, options.memory_entries)
    show(lengths, memory, options.memory_entries)
    if options.json is not None:
        figures = {"title": "cost against length", **surroundings(), "lengths": lengths, "memory": memory}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def show(lengths: list[dict[str, float]], memory: dict[str, float], entries: int) -> None:
    print(f"cost against length, {ENTRY_BYTES}-byte entries, SQLite\nfloor: the shortest feed\n")
    print(f"{'length':>10}  {'append, us':>14}  {'open, us':>14}  {'proof, us':>14}  {'peak MiB':>14}")
    for row in lengths:
        cells = "  ".join(
            f"{row[what]:>7.1f} x{row[what] / lengths[0][what]:>5.2f}" for what in ("append", "open", "proof", "peak")
        )
        print(f"{row['length']:>10,.0f}  {cells}")
    print(f"\npeak memory with {entries:,} entries\nfloor: a process that has opened the store\n")
    for what, peak in memory.items():
        print(f"{what:>10}  {peak:>7.1f} MiB  +{peak - memory['opened']:.1f}")
    print()


def run_child(what: str, path: Path, entries: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.scale", "--child", f"{what}:{path}:{entries}"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=Path(__file__).resolve().parent.parent)
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def cost_at(directory: Path, length: int) -> dict[str, float]:
    """Microseconds of processor time, medians of some, at that length."""
    path = Path(Engine("SQLite", directory).location()).with_name(f"length-{length}.db")
    run_child("fill", path, length)
    return run_child("cost", path, length)


def peaks(directory: Path, entries: int) -> dict[str, float]:
    """MiB by what was done."""
    path = directory / "memory.db"
    imported = run_child("import", path, entries)["peak"]
    done = {what: run_child(what, path, entries)["peak"] for what in ("opened", "audit", "export")}
    return {"opened": done.pop("opened"), "import": imported, **done}


# --- in a process of its own ---


def child_fill(path: Path, length: int) -> dict[str, float]:
    store = open_store(path, create=True)
    key, device = new_feed(store)
    fill(store, key, device, [bytes([number % 256]) * ENTRY_BYTES for number in range(BATCH)], length)
    store.close()
    return {"length": length}


def child_import(path: Path, entries: int) -> dict[str, float]:
    """As ``feed import`` does it: all rows in one transaction."""
    from benchmarks.berka_import import straight_rows, table

    def rows() -> Iterator[bytes]:
        while True:
            yield from straight_rows(table())

    store = open_store(path, create=True)
    key, device = new_feed(store)
    writer, blocks = FeedWriter(store, key, device), islice(rows(), entries)
    with store.write() as tx:
        while chunk := list(islice(blocks, BATCH)):
            writer.append_in(tx, chunk)
    store.close()
    return {"peak": peak_mib()}


def child_opened(path: Path, _entries: int) -> dict[str, float]:
    only_feed(open_store(path))
    return {"peak": peak_mib()}


def child_audit(path: Path, entries: int) -> dict[str, float]:
    store = open_store(path)
    result = audit_feed(store, only_feed(store))
    assert result.first_bad is None
    assert result.entries == entries
    return {"peak": peak_mib()}


def child_export(path: Path, _entries: int) -> dict[str, float]:
    store = open_store(path)
    with path.with_suffix(".feed").open("wb") as out:
        export_feed(store, only_feed(store), out)
    return {"peak": peak_mib()}


def child_cost(path: Path, length: int) -> dict[str, float]:
    store = open_store(path)
    key, device = only_feed(store), Ed25519Signer(DEVICE_SEED)
    opened = median_us(lambda: FeedWriter(store, key, device))
    with store.read() as tx:
        proof = median_us(lambda: block_proof(tx, key, length // 3, length=length, head_length=length))
    writer, block = FeedWriter(store, key, device), [bytes(ENTRY_BYTES)]
    return {
        "length": length,
        "append": median_us(lambda: writer.append(block)),
        "open": opened,
        "proof": proof,
        "peak": peak_mib(),
    }


def median_us(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(TIMES):
        begun = time.process_time_ns()
        work()
        taken.append((time.process_time_ns() - begun) / 1000)
    return statistics.median(taken)


def only_feed(store: Store) -> FeedKey:
    with store.read() as tx:
        (state,) = tx.feeds()
    return state.key


def peak_mib() -> float:
    """Of this process since it began; not of the one that started it, which getrusage would count in."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


CHILDREN: Final[dict[str, Callable[[Path, int], dict[str, float]]]] = {
    "fill": child_fill,
    "cost": child_cost,
    "import": child_import,
    "opened": child_opened,
    "audit": child_audit,
    "export": child_export,
}

if __name__ == "__main__":
    main()

"""What a feed's length costs: appends, opening and proofs at growing lengths, and the memory of whole-feed work.

    python -m benchmarks.scale [--engine sqlite|postgresql|both] [--lengths 10000,100000]
                               [--memory-entries 10000,100000] [--json figures.json]

Each figure is of a process of its own. Costs are held against those of the shortest feed: they may grow with the
logarithm of the length and no faster. They are in processor time on SQLite, and by the clock on PostgreSQL, where the
server does the work.

Memory is the peak of the resident set, held against that of the smallest store and of ``feed list``, which opens the
store and reads where each feed stands. What is measured is what a user runs: ``Vault.import_blocks`` with the rows of
the import's benchmark, the audit of a home, ``feed export``, ``audit --export``, and the outsider's audit of the file
that this wrote. A process that a command starts has a row of its own. The import is measured from the moment when the
keystore is open: deriving its key takes 256 MiB, on purpose, and gives them back. What the database server takes is not
in it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from benchmarks._engines import DEVICE_SEED, Engine, add_engine_option, engines, fill, new_feed
from benchmarks._measure import Figures, in_child, option_parser, surroundings
from benchmarks.append import ENTRY_BYTES
from identity.keys import Ed25519Signer
from ledger.feed import FeedWriter, block_proof
from ledger.storage.engine import open_store
from ledger.store import FeedKey, Store

SCRIPT: Final = "benchmarks.scale"
TIMES: Final = 200
BATCH: Final = 1000


def main() -> None:
    parser = option_parser(__doc__)
    add_engine_option(parser)
    parser.add_argument("--lengths", type=numbers, default="10000,100000", help="of the feeds, ascending")
    parser.add_argument(
        "--memory-entries", type=numbers, default="10000,100000", help="in what is worked on, ascending"
    )
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        what, place, entries = options.child
        print(json.dumps(CHILDREN[what](place, int(entries))))
        return
    figures: dict[str, dict[str, list[Figures]]] = {}
    with tempfile.TemporaryDirectory(dir=options.directory) as name, engines(options.engine, Path(name)) as chosen:
        for engine in chosen:
            lengths = [cost_at(engine, length) for length in options.lengths]
            memory = [peaks(engine, entries) for entries in options.memory_entries]
            figures[engine.name] = {"lengths": lengths, "memory": memory}
            show(engine.name, lengths, memory)
    if options.json is not None:
        content = {"title": "cost against length", **surroundings(), "engines": figures}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


def numbers(text: str) -> list[int]:
    """With commas between them."""
    return [int(number) for number in text.split(",")]


def show(engine: str, lengths: Sequence[Figures], memory: Sequence[Figures]) -> None:
    print(f"cost against length, {ENTRY_BYTES}-byte entries, {engine}\nfloor: the shortest feed\n")
    print(f"{'length':>10}  {'append, us':>14}  {'open, us':>14}  {'proof, us':>14}  {'peak MiB':>14}")
    for row in lengths:
        cells = "  ".join(
            f"{row[what]:>7.1f} x{row[what] / lengths[0][what]:>5.2f}" for what in ("append", "open", "proof", "peak")
        )
        print(f"{row['entries']:>10,.0f}  {cells}")
    print(f"\npeak MiB by entries, {engine}\nfloor: the fewest entries\n")
    print(f"{'':>18}" + "".join(f"  {row['entries']:>10,.0f}" for row in memory) + "      growth")
    for what in list(memory[-1])[1:]:
        cells = "".join(f"  {row.get(what, 0):>10.1f}" for row in memory)
        print(f"{what:>18}{cells}  {memory[-1][what] - memory[0].get(what, 0):>+10.1f}")
    print()


def cost_at(engine: Engine, length: int) -> Figures:
    """Microseconds, medians of some, at that length."""
    place = engine.location()
    in_child(SCRIPT, "fill", place, length)
    return in_child(SCRIPT, "cost" if engine.server is None else "cost by the clock", place, length)


def peaks(engine: Engine, entries: int) -> Figures:
    """MiB by what was done, in a new home on that engine."""
    with tempfile.TemporaryDirectory(dir=engine.directory) as name:
        home = {"HOLDFAST_HOME": f"{name}/bank", "HOLDFAST_DEV_DIR": f"{name}/outside"}
        database = {} if engine.server is None else {"BENCH_DATABASE": engine.location()}
        found: Figures = {"entries": entries}
        for what in WORK:
            done = in_child(SCRIPT, what, name, entries, environ=home | database)
            found[what] = done["peak"]
            if done.get("other"):
                found[f"{what}: 2nd process"] = done["other"]
    return found


# --- in a process of its own ---


def child_fill(place: str, length: int) -> Figures:
    store = open_store(place, create=True)
    key, device = new_feed(store)
    fill(store, key, device, [bytes([number % 256]) * ENTRY_BYTES for number in range(BATCH)], length)
    store.close()
    return {"entries": length}


def child_cost(place: str, length: int, clock: Callable[[], int] = time.process_time_ns) -> Figures:
    store = open_store(place)
    key, device = only_feed(store), Ed25519Signer(DEVICE_SEED)
    opened = median_us(lambda: FeedWriter(store, key, device), clock)
    with store.read() as tx:
        proof = median_us(lambda: block_proof(tx, key, length // 3, length=length, head_length=length), clock)
    writer, block = FeedWriter(store, key, device), [bytes(ENTRY_BYTES)]
    return {
        "entries": length,
        "append": median_us(lambda: writer.append(block), clock),
        "open": opened,
        "proof": proof,
        "peak": peak_mib(),
    }


def child_cost_by_the_clock(place: str, length: int) -> Figures:
    return child_cost(place, length, time.perf_counter_ns)


def median_us(work: Callable[[], object], clock: Callable[[], int], times: int = TIMES) -> float:
    taken = []
    for _ in range(times):
        begun = clock()
        work()
        taken.append((clock() - begun) / 1000)
    return statistics.median(taken)


def only_feed(store: Store) -> FeedKey:
    with store.read() as tx:
        (state,) = tx.feeds()
    return state.key


def child_import(directory: str, entries: int) -> Figures:
    """Found a bank, import so many rows into one feed in one transaction, as ``feed import`` does, and seal them."""
    from api.cli.feed import DEFAULT_BATCH
    from api.demo.bank import FEED, Bank, transactions
    from ledger.storage.location import PostgresLocation, parse_location

    database = os.environ.get("BENCH_DATABASE")
    location = None if database is None else parse_location(database)
    bank = Bank.found(Path(directory), location if isinstance(location, PostgresLocation) else None)
    ring, file = bank.keys(), so_many_rows(Path(directory) / "rows.csv", entries)
    with bank.open() as session:
        key = session.vault.create_feed(ring, "branch", FEED)
        forget_peak()
        result = session.vault.import_blocks(
            ring, key, transactions(file), batch=DEFAULT_BATCH, on_batch=lambda _: None
        )
        peak = peak_mib()
        assert result is not None
        assert result.length == entries
        bank.seal(session, ring)
    return {"peak": peak}


def so_many_rows(file: Path, entries: int) -> Path:
    """The rows of the import's benchmark, and again from the first one when they are fewer."""
    from benchmarks.berka_import import table

    left = entries
    with file.open("wb") as out:
        while left:
            with table().open("rb") as source:
                header = source.readline()
                if left == entries:
                    out.write(header)
                for row in islice(source, left):
                    out.write(row)
                    left -= 1
    return file


def command(*words: str) -> Callable[[str, int], Figures]:
    """A command of holdfast, with the directory in place of ``{}``."""

    def run(directory: str, _entries: int) -> Figures:
        from api.cli.__main__ import main as holdfast

        assert holdfast(["--quiet", *(word.format(directory) for word in words)]) == 0
        return {"peak": peak_mib(), "other": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024}

    return run


def peak_mib() -> float:
    """Of this process since it began; not of the one that started it, which getrusage would count in."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def forget_peak() -> None:
    """Let the peak be counted from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


WORK: Final[dict[str, Callable[[str, int], Figures]]] = {
    "import": child_import,
    "feed list": command("feed", "list"),
    "audit": command("audit"),
    "feed export": command("feed", "export", "transactions", "-o", "{}/transactions.feed"),
    "audit --export": command("audit", "--export", "{}/bank.archive"),
    "audit FILE": command("audit", "{}/bank.archive", "--policy", "{}/bank/policy.toml", "--dev-chain", "{}/outside"),
}
CHILDREN: Final[dict[str, Callable[[str, int], Figures]]] = {
    "fill": child_fill,
    "cost": child_cost,
    "cost by the clock": child_cost_by_the_clock,
    **WORK,
}

if __name__ == "__main__":
    main()

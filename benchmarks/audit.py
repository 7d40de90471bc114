"""Audits of 200-byte entries, in one process and on two cores, against reading, hashing and verifying straight on.

    python -m benchmarks.audit [--engine sqlite|postgresql|both] [--entries 60000] [--rounds 5] [--json figures.json]

The floor reads the same rows in order, hashes, compares and verifies; it stops at the first thing that is wrong without
saying what it is. Two processes are held against one, both of them ours, when the feed is long enough to be cut; the
second one starts, and imports what it needs, within the time that is measured. What two cores can give at all says the
row of the machine: the same hashing and verifying in two processes at once, against one. Its cpu ratio is what the work
costs when it has company.

The outsider's audit takes an archive into a passing store and examines that; a quarter of the entries are in it. Its
floor reads the file, hashes and verifies what is in it, and stores that in SQLite. Threads verify signatures beside the
hashing.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from functools import partial
from os import urandom
from pathlib import Path
from typing import Final

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair

from benchmarks._engines import Engine, add_engine_option, engines, fill, fill_floor, new_feed
from benchmarks._floor import Tree
from benchmarks._measure import Comparison, compare, option_parser, report
from benchmarks.append import ENTRY_BYTES
from ledger.audit import _cut, audit_feed
from ledger.audit_processes import in_processes
from ledger.feed import feed_state
from ledger.store import FeedKey, Store

CORES: Final = 2
MACHINE_ENTRIES: Final = 100_000


def main() -> None:
    parser = option_parser(__doc__, rounds=5)
    add_engine_option(parser)
    parser.add_argument("--entries", type=int, default=60_000, help="in the feed; a tenth where each is signed")
    options = parser.parse_args()
    sizes = {1: options.entries // 10, 100: options.entries, 1000: options.entries}
    rows = [measure_machine(options.rounds)]
    with tempfile.TemporaryDirectory(dir=options.directory) as name, engines(options.engine, Path(name)) as chosen:
        for engine in chosen:
            for batch, entries in sizes.items():
                rows += measure(engine, batch, entries, options.rounds)
        for batch in (1, 1000) if options.engine != "postgresql" else ():  # the passing store is in SQLite
            rows += measure_archive(Path(name), batch, sizes[batch] // 4, options.rounds)
    title = f"audit of {ENTRY_BYTES}-byte entries; {os.cpu_count()} cores here"
    report(title, "the same rows, BLAKE2b, PyNaCl, one process; or what the row names", rows, options.json)


def measure_machine(rounds: int) -> Comparison:
    """What a second core is worth here, to work that neither reads nor waits."""
    forked = multiprocessing.get_context("fork")

    def at_once(processes: int) -> int:
        running = [forked.Process(target=hash_and_verify) for _ in range(processes)]
        for process in running:
            process.start()
        for process in running:
            process.join()
            assert process.exitcode == 0
        return processes * MACHINE_ENTRIES

    return compare(
        f"the machine, {CORES} processes against 1", partial(at_once, CORES), partial(at_once, 1), rounds=rounds
    )


def hash_and_verify() -> None:
    """A tree of many blocks, and a signature for every hundred of them."""
    tree, blocks = Tree(), [bytes(ENTRY_BYTES)] * 100
    public, secret = crypto_sign_seed_keypair(bytes(32))
    signed = crypto_sign(bytes(ENTRY_BYTES), secret)
    for _ in range(MACHINE_ENTRIES // len(blocks)):
        tree.add(blocks)
        crypto_sign_open(signed, public)


def measure(engine: Engine, batch: int, entries: int, rounds: int) -> list[Comparison]:
    """Audits of a feed with one signature for ``batch`` entries."""
    store, floor = engine.store(), engine.floor()
    key, device = new_feed(store)
    blocks = [urandom(ENTRY_BYTES) for _ in range(batch)]
    fill(store, key, device, blocks, entries)
    fill_floor(floor, blocks, entries)

    def audit(processes: int) -> int:
        elsewhere = in_processes(store.reopen, processes) if processes > 1 else None
        result = audit_feed(store, key, elsewhere=elsewhere)
        assert result.first_bad is None
        return result.entries

    alone = partial(audit, 1)
    subject = f"{engine.name}, {entries:,}, {batch} a signature"
    rows = [compare(f"{subject}, 1 process", alone, floor.audit, rounds=rounds)]
    if is_cut(store, key):
        rows.append(compare(f"{subject}, {CORES} processes against 1", partial(audit, CORES), alone, rounds=rounds))
    store.close()
    floor.close()
    return rows


def is_cut(store: Store, key: FeedKey) -> bool:
    """Whether an audit of the feed would use a second process."""
    with store.read() as tx:
        return len(_cut(tx, feed_state(tx, key))) > 1


def measure_archive(directory: Path, batch: int, entries: int, rounds: int) -> list[Comparison]:
    """The outsider's audit of such a feed, with one thread and with two."""
    # Here, since the second process of an audit imports this module, and has no use for it.
    from benchmarks._archive import ArchivedFeed

    archived = ArchivedFeed.made(directory, batch, entries)
    alone = partial(archived.audit, 1)
    subject = f"archive, {entries:,}, {batch} a signature"
    return [
        compare(f"{subject}, 1 thread", alone, archived.straight, rounds=rounds),
        compare(f"{subject}, {CORES} threads against 1", partial(archived.audit, CORES), alone, rounds=rounds),
    ]


if __name__ == "__main__":
    main()

"""Audits of 200-byte entries, in one process and on two cores, against reading, hashing and verifying straight on.

    python -m benchmarks.audit [--engine sqlite|postgresql|both] [--entries 60000] [--rounds 5] [--json figures.json]

The floor reads the same rows in order, hashes, compares and verifies; it stops at the first thing that is wrong without
saying what it is. On two cores ours starts its processes within the time that is measured.
"""

from __future__ import annotations

import os
import tempfile
from functools import partial
from os import urandom
from pathlib import Path

from benchmarks._engines import Engine, add_engine_option, engines, fill, new_feed
from benchmarks._measure import Comparison, compare, option_parser, report
from benchmarks.append import ENTRY_BYTES
from ledger.audit import audit_feed
from ledger.audit_processes import in_processes

CORES = 2


def main() -> None:
    parser = option_parser(__doc__, rounds=5)
    add_engine_option(parser)
    parser.add_argument("--entries", type=int, default=60_000, help="in the feed; a tenth where each is signed")
    options = parser.parse_args()
    sizes = {1: options.entries // 3, 100: options.entries, 1000: options.entries}
    with tempfile.TemporaryDirectory(dir=options.directory) as name, engines(options.engine, Path(name)) as chosen:
        rows = [
            row for engine in chosen for batch in sizes for row in measure(engine, batch, sizes[batch], options.rounds)
        ]
    title = f"audit of {ENTRY_BYTES}-byte entries; {os.cpu_count()} cores here"
    report(title, "the same rows, BLAKE2b, PyNaCl, one process", rows, options.json)


def measure(engine: Engine, batch: int, entries: int, rounds: int) -> list[Comparison]:
    """Audits of a feed with one signature for ``batch`` entries."""
    store, floor = engine.store(), engine.floor()
    key, device = new_feed(store)
    blocks = [urandom(ENTRY_BYTES) for _ in range(batch)]
    fill(store, key, device, blocks, entries)
    with floor.transaction():
        for _ in range(entries // batch):
            floor.write(blocks)

    def audit(processes: int) -> int:
        elsewhere = in_processes(store.reopen, processes) if processes > 1 else None
        result = audit_feed(store, key, elsewhere=elsewhere)
        assert result.first_bad is None
        return result.entries

    rows = []
    for processes in (1, CORES):
        subject = f"{engine.name}, {entries:,}, {batch} a signature, {processes} process{'es' * (processes > 1)}"
        rows.append(compare(subject, partial(audit, processes), floor.audit, rounds=rounds))
    store.close()
    return rows


if __name__ == "__main__":
    main()

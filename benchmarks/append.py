"""Durable signed appends of 200-byte entries, by one writer, against straight-line code with the same primitives.

    python -m benchmarks.append [--engine sqlite|postgresql|both] [--rounds 7] [--json figures.json]

The floor is ``benchmarks._floor``: BLAKE2b tree, one PyNaCl signature an append, the same rows, the same durability. It
keeps the tree in memory, and no second process may write beside it; ours takes the store's lock and reads where the
feed stands in every append.
"""

from __future__ import annotations

import tempfile
from os import urandom
from pathlib import Path
from typing import Final

from benchmarks._engines import Engine, add_engine_option, engines, new_feed
from benchmarks._measure import Comparison, compare, option_parser, report
from ledger.feed import FeedWriter

ENTRY_BYTES: Final = 200
ENTRIES_A_ROUND: Final = {1: 200, 100: 5_000, 1000: 10_000}
"""Entries per append -> entries per round, so that a round takes a fraction of a second."""


def main() -> None:
    parser = option_parser(__doc__)
    add_engine_option(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name, engines(options.engine, Path(name)) as chosen:
        rows = [measure(engine, batch, options.rounds) for engine in chosen for batch in ENTRIES_A_ROUND]
    floor = "BLAKE2b tree, PyNaCl, sqlite3 synchronous=FULL, psycopg with pipeline and COPY"
    report(f"append of {ENTRY_BYTES}-byte entries", floor, rows, options.json)


def measure(engine: Engine, batch: int, rounds: int) -> Comparison:
    """Appends with one signature for ``batch`` entries."""
    store, floor = engine.store(), engine.floor()
    key, device = new_feed(store)
    writer = FeedWriter(store, key, device)
    blocks, entries = [urandom(ENTRY_BYTES) for _ in range(batch)], ENTRIES_A_ROUND[batch]

    def ours() -> int:
        for _ in range(entries // batch):
            writer.append(blocks)
        return entries

    def straight() -> int:
        for _ in range(entries // batch):
            floor.append(blocks)
        return entries

    row = compare(f"{engine.name}, {batch} a signature", ours, straight, rounds=rounds)
    store.close()
    return row


if __name__ == "__main__":
    main()

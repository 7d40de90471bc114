"""Reading single blocks of a feed of 100,000 in random order, within one snapshot, against the driver alone.

    python -m benchmarks.random_read [--engine sqlite|postgresql|both] [--rounds 5] [--json figures.json]

The floor looks a block up by its primary key. Ours is given the feed's key and an index, finds the feed, and tells a
block that is missing from one that was never written. A proof is what makes a block that was read worth something:
``benchmarks.proof``.
"""

from __future__ import annotations

import random
import tempfile
from os import urandom
from pathlib import Path
from typing import Final

from benchmarks._engines import Engine, add_engine_option, engines, fill, fill_floor, new_feed
from benchmarks._measure import Comparison, compare, option_parser, report
from benchmarks.append import ENTRY_BYTES

LENGTH: Final = 100_000
READS: Final = 3_000
"""In a round."""


def main() -> None:
    parser = option_parser(__doc__, rounds=5)
    add_engine_option(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name, engines(options.engine, Path(name)) as chosen:
        rows = [measure(engine, options.rounds) for engine in chosen]
    report(f"random reads from {LENGTH:,} blocks of {ENTRY_BYTES} bytes", "by primary key", rows, options.json)


def measure(engine: Engine, rounds: int) -> Comparison:
    """The same indices for both."""
    store, floor = engine.store(), engine.floor()
    key, device = new_feed(store)
    blocks = [urandom(ENTRY_BYTES) for _ in range(1000)]
    fill(store, key, device, blocks, LENGTH)
    fill_floor(floor, blocks, LENGTH)
    wanted = random.Random(7).choices(range(LENGTH), k=READS)

    def ours() -> int:
        with store.read() as tx:
            for index in wanted:
                assert tx.block(key, index) == blocks[index % 1000]
        return READS

    def straight() -> int:
        with floor.transaction():
            for index in wanted:
                assert floor.block(index) == blocks[index % 1000]
        return READS

    row = compare(f"{engine.name}, one after the other", ours, straight, rounds=rounds)
    store.close()
    return row


if __name__ == "__main__":
    main()

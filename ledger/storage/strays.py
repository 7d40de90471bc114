"""Rows of history that belong to nothing: left over where a feed was shortened or its own row was taken away.

An audit reads what a feed's row says is there. Whoever deletes that row, or sets it back, leaves the rest behind. And
what the engine itself finds wrong with its file, which no reading of rows shows.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, Table, func, select, text

from identity.errors import DamagedFile
from ledger.storage.schema import (
    MAX_FEEDS,
    MAX_LENGTH,
    POSITION_BITS,
    block,
    checkpoint,
    feed,
    head,
    log,
    log_leaf,
    tree,
)

__all__ = ["engine_faults", "stray_rows"]

_FIRST, _LAST = -(1 << 63), (1 << 63) - 1
"""The ends of what a ``pos`` can be."""


def engine_faults(connection: Connection) -> Iterator[str]:
    """What the engine finds wrong with its own file, at most a few of it; PostgreSQL has tools of its own for that.

    Indexes are compared with the tables, so this reads everything once.
    """
    if connection.dialect.name == "sqlite":
        for (found,) in connection.execute(text("PRAGMA integrity_check(5)")):
            if found != "ok":
                yield f"the file of the store is damaged: {' '.join(str(found).split())}"


def stray_rows(connection: Connection) -> Iterator[str]:
    """Each kind of row that belongs to no feed, or lies beyond its feed's or the log's end, in a sentence.

    Costs some look-ups for each feed, whatever its length.
    """
    rows = connection.execute(select(feed.c.id, feed.c.length).order_by(feed.c.id)).all()
    for number, length in rows:
        if not (isinstance(number, int) and 0 < number <= MAX_FEEDS and isinstance(length, int)):
            raise DamagedFile(f"the row of feed number {number} is out of bounds")
    for table, past in ((block, 0), (tree, 0), (head, 1)):  # a head stands at its length, a block at its index
        bases = [number << POSITION_BITS for number, _ in rows]
        beyond = [base + max(0, min(length, MAX_LENGTH)) + past for base, (_, length) in zip(bases, rows, strict=True)]
        ends = [base - 1 + past for base in bases]
        for start, last in zip([_FIRST, *beyond], [*ends, _LAST], strict=True):
            yield from _between(connection, table, start, last)
    yield from _beyond_the_log(connection)


def _between(connection: Connection, table: Table, start: int, last: int) -> Iterator[str]:
    found = connection.execute(
        select(table.c.pos).where(table.c.pos.between(start, last)).order_by(table.c.pos).limit(1)
    ).scalar()
    if found is not None:
        number, index = found >> POSITION_BITS, found & ((1 << POSITION_BITS) - 1)
        yield f"table {table.name}: a row {index} of feed number {number}, which does not reach so far or is not here"


def _beyond_the_log(connection: Connection) -> Iterator[str]:
    size = connection.execute(select(func.max(log.c.size))).scalar() or 0
    last = connection.execute(select(func.max(log_leaf.c.idx))).scalar()
    if last is not None and last >= size:
        yield f"log leaf {last}: the log has {size} leaves"
    if not size and connection.execute(select(checkpoint.c.size).limit(1)).scalar() is not None:
        yield "a checkpoint, and no log"

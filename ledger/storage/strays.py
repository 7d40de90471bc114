"""Rows of history that belong to nothing: left over where a feed was shortened or its own row was taken away.

An audit reads what a feed's row says is there. Whoever deletes that row, or sets it back, leaves the rest behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection, Table, func, select

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
    metadata,
    tree,
)

__all__ = ["stray_rows"]

_FIRST, _LAST = -(1 << 63), (1 << 63) - 1
"""The ends of what a ``pos`` can be."""

_PARTS: Final = ("sparse_node", "sparse_block", "sparse_head")


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
    feeds_in_part = select(metadata.tables["sparse_feed"].c.id)
    for name in _PARTS:
        table = metadata.tables[name]
        for number in connection.execute(
            select(table.c.feed).where(table.c.feed.not_in(feeds_in_part)).distinct()
        ).scalars():
            yield f"table {name}: rows of a feed {number} that is not here"


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

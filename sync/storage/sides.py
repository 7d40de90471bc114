"""What is kept beside the ledger of feeds that tell more than one history: their other sides, verified like any block.

Implements docs/spec/bundle.md, section "Forks". The ledger holds one history of a feed, the one that came first, and
no two feeds where the device may have one. What its author has signed against that is kept here, because the entries
in it were seen by others: each *side* from the block on in which it leaves what the ledger holds. A *line* is one
history from its first block to its last: that of the ledger, or a side with what stands before it.

Unlike the other tables of a database these follow from nothing else that the store has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from identity.errors import DamagedFile
from ledger.flattree import depth, full_roots, right_leaf
from ledger.merkle import Node, leaf_node, tree_hash
from ledger.noderow import NODE_BYTES, pack_nodes, unpack_node
from ledger.storage.rows import checked
from ledger.store import FeedKey, SignedHead
from sync.report import SideReason
from sync.storage.queries import Queries

__all__ = ["LEDGER", "MAX_SIDES", "Line", "Side", "SideReason", "Sides", "read_block"]

LEDGER: Final = 0
"""In the place of a side's number: what the ledger holds."""

MAX_SIDES: Final = 16
"""Sides that are kept of one feed. Of one more only the proof is."""

_BLOCKS_A_TIME: Final = 1024


@dataclass(frozen=True, slots=True)
class Side:
    """A side as it is on record. ``refused``: it was one too many, and only the proof was kept."""

    number: int
    feed: FeedKey
    first: int
    length: int
    reason: SideReason
    proof: bytes
    refused: bool


class Line:
    """One history of a feed. ``side`` is ``LEDGER``, or the number of the side that it ends in."""

    def __init__(self, tx: Any, queries: Queries, feed: FeedKey, side: int, first: int, length: int) -> None:
        self._tx = tx
        self._sql = queries
        self.feed = feed
        self.side = side
        self.first = first
        """The first block that is not in the ledger."""
        self.length = length

    def blocks(self, start: int, stop: int) -> Iterator[bytes]:
        """Blocks ``start`` to ``stop - 1``, some at a time: whoever reads them may write in between."""
        for at in range(start, stop, _BLOCKS_A_TIME):
            yield from self._some(at, min(at + _BLOCKS_A_TIME, stop))

    def _some(self, start: int, stop: int) -> list[bytes]:
        middle = min(max(start, self.first), stop)
        found = list(self._tx.blocks(self.feed, start, middle)) if start < middle else []
        if middle < stop:
            rows = self._tx.fetch_all(self._sql.side_blocks, (self.side, middle, stop))
            found += [checked(row, bytes)[0] for row in rows]
        if len(found) != stop - start:
            raise DamagedFile(f"side {self.side} of feed {self.feed.hex()} has lost blocks from {start} to {stop}")
        return found

    def common(self, start: int, blocks: Sequence[bytes]) -> int:
        """How many of ``blocks``, which begin at ``start``, it has too."""
        held = self.blocks(start, min(start + len(blocks), self.length))
        for count, (block, other) in enumerate(zip(blocks, held, strict=False)):
            if block != other:
                return count
        return min(len(blocks), self.length - start)

    def node(self, index: int) -> Node:
        """The tree node at flat-tree ``index``. Raises ``DamagedFile`` when it is missing."""
        row = right_leaf(index)
        if row < self.first:
            node: Node = self._tx.node(self.feed, index)
            return node
        found = self._tx.fetch_one(self._sql.side_nodes, (self.side, row))
        at = depth(index) * NODE_BYTES
        if found is None or len(checked(found, bytes)[0]) < at + NODE_BYTES:
            raise DamagedFile(f"side {self.side} of feed {self.feed.hex()} has lost node {index}")
        return unpack_node(index, found[0], at)

    def roots(self, length: int) -> tuple[Node, ...]:
        """The roots of its first ``length`` blocks."""
        return tuple(map(self.node, full_roots(length)))

    def tree_hash(self, length: int) -> bytes:
        """The tree hash of its first ``length`` blocks."""
        return tree_hash(self.roots(length))

    def heads(self, above: int = 0) -> Iterator[SignedHead]:
        """Its signed heads longer than ``above``, shortest first."""
        for head in self._tx.heads(self.feed, above):
            if head.length > self.first:
                break
            yield head
        while self.side != LEDGER:
            rows = self._tx.fetch_all(self._sql.side_heads, (self.side, above, _BLOCKS_A_TIME))
            yield from (SignedHead(*checked(row, int, bytes, bytes)) for row in rows)
            if len(rows) < _BLOCKS_A_TIME:
                return
            above = rows[-1][0]


class Sides:
    """The sides of one database's feeds, and the lines that they make, in one transaction."""

    def __init__(self, tx: Any, queries: Queries, database: int) -> None:
        self.queries = queries
        self._tx = tx
        self._sql = queries
        self._database = database

    def feeds(self) -> list[FeedKey]:
        """The feeds of which a side is kept."""
        return [FeedKey(checked(row, bytes)[0]) for row in self._tx.fetch_all(self._sql.sided_feeds, (self._database,))]

    def of_feed(self, feed: FeedKey) -> list[Side]:
        """What is on record about a feed, in the order in which it was found."""
        rows = self._tx.fetch_all(self._sql.sides, (self._database, feed))
        return [_read_side(row) for row in rows]

    def manifest(self, feed: FeedKey) -> bytes | None:
        """The manifest of a feed of which a side is kept."""
        row = self._tx.fetch_one(self._sql.side_manifest, (feed,))
        return None if row is None else checked(row, bytes)[0]

    def lines(self, feed: FeedKey) -> list[Line]:
        """The lines of a feed, that of the ledger first when there is one. None is the beginning of another."""
        state = self._tx.feed(feed)
        found = [] if state is None else [Line(self._tx, self._sql, feed, LEDGER, state.length, state.length)]
        kept = (side for side in self.of_feed(feed) if not side.refused)
        return found + [Line(self._tx, self._sql, feed, side.number, side.first, side.length) for side in kept]

    def add(
        self,
        feed: FeedKey,
        manifest: bytes,
        base: Line | None,
        at: int,
        reason: SideReason,
        proof: bytes,
        *,
        refused: bool = False,
    ) -> Line:
        """A side that leaves ``base`` at block ``at``: what ``base`` has before that and the ledger has not is copied.

        ``base`` None: nothing of the feed is here.
        """
        (last,) = self._tx.fetch_one(self._sql.last_side)
        number = (last or 0) + 1
        first = at if base is None else min(base.first, at)
        row = (number, self._database, feed, manifest, first, at, reason.value, proof, int(refused))
        self._tx.execute(self._sql.add_side, row)
        if base is not None and first < at and not refused:
            self._tx.execute(self._sql.copy_side_blocks, (number, base.side, at))
            self._tx.execute(self._sql.copy_side_heads, (number, base.side, at))
        return Line(self._tx, self._sql, feed, number, first, at)

    def append(self, line: Line, blocks: Sequence[bytes], nodes: Sequence[Sequence[Node]], head: SignedHead) -> None:
        """Let a side go on with these blocks, for each the nodes that it completes, and the head that signs them."""
        rows = [
            (line.side, seq, pack_nodes(completed), block)
            for seq, (completed, block) in enumerate(zip(nodes, blocks, strict=True), line.length)
        ]
        self._tx.insert_many(self._sql.add_side_block, rows)
        self._tx.execute(self._sql.add_side_head, (line.side, head.length, head.tree_hash, head.signature))
        self._tx.execute(self._sql.move_side, (head.length, line.side))
        line.length = head.length


def read_block(tx: Any, queries: Queries, feed: FeedKey, seq: int, leaf: bytes) -> bytes:
    """The block of an entry that was taken in, wherever it is kept. Raises ``DamagedFile`` when it is nowhere."""
    state = tx.feed(feed)
    if state is not None and seq < state.length:
        block: bytes = tx.block(feed, seq)
        if leaf_node(seq, block).hash == leaf:
            return block
    for row in tx.fetch_all(queries.side_block, (feed, seq)):
        (block,) = checked(row, bytes)
        if leaf_node(seq, block).hash == leaf:
            return block
    raise DamagedFile(f"the store has lost block {seq} of feed {feed.hex()}")


def _read_side(row: Sequence[Any]) -> Side:
    number, feed, first, length, reason, proof, refused = checked(row, int, bytes, int, int, str, bytes, int)
    if reason not in {one.value for one in SideReason}:
        raise DamagedFile(f"side {number} is kept for a reason that is none")
    return Side(number, FeedKey(feed), first, length, SideReason(reason), proof, bool(refused))

"""The feeds of a database as a store has them, in the form in which ``sync.replay`` takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, overload

from ledger.merkle import leaf_node
from ledger.store import FeedKey
from ledger.values import Reference
from sync.lines import KnownBlock, KnownFeed
from sync.membership import Author
from sync.storage.sides import LEDGER, Line

__all__ = ["StoredBlocks", "find_block", "known_block", "known_feed"]

_BLOCKS_A_TIME: Final = 1024


class StoredBlocks(Sequence[KnownBlock]):
    """The first ``length`` blocks of a feed, read from the store each time they are asked for.

    That block, leaf hash and feed belong together is for an audit of the feed; the leaf hash is made of the block.
    """

    def __init__(self, tx: Any, feed: FeedKey, length: int) -> None:
        self._tx = tx
        self._feed = feed
        self._length = length

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, place: int) -> KnownBlock: ...

    @overload
    def __getitem__(self, place: slice) -> list[KnownBlock]: ...

    def __getitem__(self, place: int | slice) -> KnownBlock | list[KnownBlock]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(self._length))]
        if not 0 <= place < self._length:
            raise IndexError(place)
        return known_block(place, self._tx.block(self._feed, place))

    def __iter__(self) -> Iterator[KnownBlock]:
        """In pieces, because others read in the same transaction meanwhile."""
        for start in range(0, self._length, _BLOCKS_A_TIME):
            blocks = list(self._tx.blocks(self._feed, start, min(start + _BLOCKS_A_TIME, self._length)))
            yield from (known_block(seq, block) for seq, block in enumerate(blocks, start))


def known_feed(tx: Any, author: Author, lines: Sequence[Line], references: Iterable[Reference]) -> KnownFeed | None:
    """A feed as far as these entries, each on one of its lines; None when one of them is on none."""
    ends: dict[Line, int] = {}
    for reference in references:
        line = next((one for one in lines if _has(one, reference)), None)
        if line is None:
            return None
        ends[line] = max(reference.index + 1, ends.get(line, 0))
    (first, end), *others = ends.items()
    starts = [min(first.first, line.first) for line, _ in others]
    sides = tuple(_blocks(line, start, stop) for (line, stop), start in zip(others, starts, strict=True))
    end = max(end, *starts, 0)
    blocks = StoredBlocks(tx, first.feed, end) if first.side == LEDGER else _blocks(first, 0, end)
    return KnownFeed(author, blocks, sides)


def find_block(lines: Iterable[Line], reference: Reference) -> KnownBlock | None:
    """The block of an entry on one of its feed's lines; None when it is on none."""
    for line in lines:
        if _has(line, reference):
            return _blocks(line, reference.index, reference.index + 1)[0]
    return None


def _has(line: Line, reference: Reference) -> bool:
    return reference.index < line.length and line.node(2 * reference.index).hash == reference.leaf_hash


def _blocks(line: Line, start: int, stop: int) -> list[KnownBlock]:
    return [known_block(seq, block) for seq, block in enumerate(line.blocks(start, stop), start)]


def known_block(seq: int, block: bytes) -> KnownBlock:
    """A block at an index of a feed, with the leaf hash that follows from both."""
    return KnownBlock(seq, leaf_node(seq, block).hash, block)

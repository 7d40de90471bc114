"""The feeds of a database as a store has them, in the form in which ``sync.replay`` takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, overload

from ledger.merkle import leaf_node
from ledger.store import FeedKey
from sync.replay import KnownBlock

__all__ = ["StoredBlocks", "known_block"]

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


def known_block(seq: int, block: bytes) -> KnownBlock:
    """A block at an index of a feed, with the leaf hash that follows from both."""
    return KnownBlock(seq, leaf_node(seq, block).hash, block)

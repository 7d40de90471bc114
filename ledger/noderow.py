"""How tree nodes and log hashes lie in rows: the byte layouts of docs/spec/storage.md, packed and read back.

A node is 40 bytes, ``hash || u64 little-endian size``; its index is not stored, the row and the place in it give it.
The row of block i holds the block's leaf node and then the parents that this block completes, lowest first: a node of
depth d stands in the row of the last block it covers, at offset 40 d. The log's hashes lie the same way, 32 bytes each.
Readers raise ``DamagedFile`` for a row that cannot be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from identity.errors import DamagedFile
from ledger.flattree import full_roots
from ledger.merkle import HASH_BYTES, Node

__all__ = [
    "NODE_BYTES",
    "completed_by",
    "pack_hashes",
    "pack_nodes",
    "unpack_hashes",
    "unpack_node",
    "unpack_roots",
]

NODE_BYTES: Final = HASH_BYTES + 8


def completed_by(index: int) -> int:
    """How many nodes leaf ``index`` completes, itself included."""
    return (~index & (index + 1)).bit_length()


def pack_nodes(nodes: Iterable[Node]) -> bytes:
    """The row of a block, or the roots of a feed."""
    return b"".join([digest + size.to_bytes(8, "little") for _, size, digest in nodes])


def unpack_node(index: int, packed: bytes, offset: int = 0) -> Node:
    """The node at flat-tree ``index`` whose 40 bytes begin at ``offset``; that they are all there was checked."""
    split = offset + HASH_BYTES
    return Node(index, int.from_bytes(packed[split : split + 8], "little"), packed[offset:split])


def unpack_roots(length: int, packed: bytes) -> tuple[Node, ...]:
    """The roots of a feed of ``length`` blocks."""
    indices = full_roots(length)
    if len(packed) != len(indices) * NODE_BYTES:
        raise DamagedFile(f"roots of a feed of {length} blocks: {len(packed)} bytes")
    return tuple(unpack_node(index, packed, place * NODE_BYTES) for place, index in enumerate(indices))


def pack_hashes(hashes: Iterable[bytes]) -> bytes:
    """The hash row of a log leaf, or the log's frontier."""
    return b"".join(hashes)


def unpack_hashes(count: int, packed: bytes) -> Sequence[bytes]:
    """``count`` hashes, as they were packed."""
    if len(packed) != count * HASH_BYTES:
        raise DamagedFile(f"log hashes: {len(packed)} bytes where {count * HASH_BYTES} belong")
    return [packed[place : place + HASH_BYTES] for place in range(0, len(packed), HASH_BYTES)]

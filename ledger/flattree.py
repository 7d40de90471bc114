"""Positions in a flat in-order tree: how Hypercore numbers the nodes of a Merkle tree that only grows.

Implements docs/spec/feed.md section 2.2. Block ``i`` is node ``2 i``; a parent stands between its children, so a node
keeps its number while the tree grows. A node of depth ``d`` covers ``2^d`` blocks. Pure arithmetic: nothing here knows
of hashes. All arguments are non-negative; the callers have bounded them.
"""

from __future__ import annotations

__all__ = [
    "contains",
    "covering",
    "depth",
    "full_roots",
    "leaf_count",
    "left_child",
    "left_leaf",
    "node_over",
    "parent",
    "path",
    "right_leaf",
    "sibling",
]


def depth(node: int) -> int:
    """Levels above the blocks: 0 for a block's own node."""
    return (~node & (node + 1)).bit_length() - 1


def leaf_count(node: int) -> int:
    """How many blocks the node covers."""
    return ~node & (node + 1)


def left_leaf(node: int) -> int:
    """The number of the first block (not of its node) that the node covers."""
    return (node - leaf_count(node) + 1) >> 1


def right_leaf(node: int) -> int:
    """The number of the last block (not of its node) that the node covers."""
    return (node + leaf_count(node) - 1) >> 1


def parent(node: int) -> int:
    """The node above."""
    bit = ~node & (node + 1)
    return (node | bit) & ~(bit << 1)


def sibling(node: int) -> int:
    """The other child of the node's parent."""
    return node ^ ((~node & (node + 1)) << 1)


def left_child(node: int) -> int:
    """The left one of the two nodes below ``node``, which must not be a block's own."""
    return node - (leaf_count(node) >> 1)


def contains(node: int, other: int) -> bool:
    """Whether ``other`` is ``node`` or lies below it."""
    return abs(other - node) < leaf_count(node)


def path(node: int, top: int) -> list[int]:
    """The siblings on the way from ``node`` up to ``top``, which must contain it; lowest first."""
    siblings = []
    while node != top:
        siblings.append(sibling(node))
        node = parent(node)
    return siblings


def node_over(leaf: int, level: int) -> int:
    """The node of depth ``level`` that covers block ``leaf``."""
    return (leaf >> level << (level + 1)) + (1 << level) - 1


def covering(start: int, stop: int) -> list[int]:
    """The fewest nodes that together cover blocks ``start`` to ``stop - 1``, from left to right.

    There is one such list. It is what a tree of ``start`` blocks needs to become one of ``stop`` blocks, and with
    ``start`` 0 it is the roots of the tree. At most 2 log2(stop) nodes.
    """
    nodes = []
    while start < stop:
        size = 1 << ((stop - start).bit_length() - 1)
        if start:
            size = min(size, start & -start)
        nodes.append(2 * start + size - 1)
        start += size
    return nodes


def full_roots(length: int) -> list[int]:
    """The roots of a tree of ``length`` blocks, from left to right; none for an empty one."""
    return covering(0, length)

"""Hypercore's Merkle tree: BLAKE2b-256 over blocks, nodes and roots, and the builder that appends to it.

Implements docs/spec/feed.md section 2.3. A leaf hash binds a block's bytes, not its position: position is bound by the
path above it and by the root's index, so whoever checks a path demands exact indices (``ledger.proof_checking``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from identity.errors import LimitExceeded, MalformedError
from ledger.codec import MAX_UINT, Reader, encode_uint
from ledger.flattree import full_roots, leaf_count, left_leaf

__all__ = [
    "EMPTY_TREE_HASH",
    "HASH_BYTES",
    "MAX_LENGTH",
    "MAX_PATH_NODES",
    "Node",
    "TreeBuilder",
    "encode_node",
    "leaf_node",
    "parent_node",
    "read_node",
    "tree_hash",
]

HASH_BYTES: Final = 32

MAX_LENGTH: Final = 2**52
"""Blocks in a feed: the index of the last node then still fits the integers of ``ledger.codec``."""

MAX_PATH_NODES: Final = 104
"""Nodes in one list of a proof: twice the height of the largest tree, more than any walk through it emits."""


_LEAF: Final = blake2b(b"\x00", digest_size=32)
_PARENT: Final = blake2b(b"\x01", digest_size=32)
"""States to copy and never to update: copying one costs a third less than setting one up."""


class Node(NamedTuple):
    """A node of the tree: its flat-tree index, the number of block bytes below it, its 32-byte hash.

    A tuple and not a dataclass: appending makes two of them for each block, and that is the hot path of the vault.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls on a node
    size: int
    hash: bytes


def leaf_node(block_index: int, data: bytes) -> Node:
    """The node of block ``block_index``: H(00 || u64 length || data)."""
    state = _LEAF.copy()
    state.update(len(data).to_bytes(8, "little") + data)
    return Node(2 * block_index, len(data), state.digest())


def parent_node(left: Node, right: Node) -> Node:
    """The node above two siblings: H(01 || u64 total size || left hash || right hash).

    That they are siblings, ``left`` before ``right``, is taken on trust. Raises ``LimitExceeded`` when the sizes add up
    to more than 2^53 - 1 bytes.
    """
    size = left.size + right.size
    if size > MAX_UINT:
        raise LimitExceeded("tree: more than 2^53-1 bytes")
    state = _PARENT.copy()
    state.update(size.to_bytes(8, "little") + left.hash + right.hash)
    return Node((left.index + right.index) >> 1, size, state.digest())


def encode_node(node: Node) -> bytes:
    """The node as manifests, signatures and proofs carry it: index, size, hash."""
    return encode_uint(node.index) + encode_uint(node.size) + node.hash


def read_node(reader: Reader) -> Node:
    """The node at the reader's place. Raises ``MalformedError``."""
    return Node(reader.uint("node index"), reader.uint("node size"), reader.fixed(HASH_BYTES, "node hash"))


def tree_hash(roots: Iterable[Node]) -> bytes:
    """The 32-byte hash of a whole tree: H(02 || for each root: hash || u64 index || u64 size), left to right."""
    state = blake2b(b"\x02", digest_size=32)
    for index, size, digest in roots:
        state.update(digest + index.to_bytes(8, "little") + size.to_bytes(8, "little"))
    return state.digest()


EMPTY_TREE_HASH: Final = tree_hash(())
"""The hash of a feed without blocks."""


class TreeBuilder:
    """A tree that grows at its right edge, held as its roots: O(log n) space, O(1) hashes an append on average.

    ``roots`` are taken on trust as hashes; that they are the roots of a tree of ``length`` blocks is checked
    (``MalformedError``).
    """

    __slots__ = ("_length", "_roots")

    def __init__(self, roots: Sequence[Node] = (), length: int = 0) -> None:
        if not 0 <= length <= MAX_LENGTH or [root.index for root in roots] != full_roots(length):
            raise MalformedError(f"not the roots of a tree of {length} blocks")
        self._roots = list(roots)
        self._length = length

    @property
    def length(self) -> int:
        """Blocks so far."""
        return self._length

    @property
    def byte_length(self) -> int:
        """Bytes of all blocks so far."""
        return sum(root.size for root in self._roots)

    @property
    def roots(self) -> tuple[Node, ...]:
        """The roots, largest subtree first."""
        return tuple(self._roots)

    def tree_hash(self) -> bytes:
        """The hash that a head signs."""
        return tree_hash(self._roots)

    def append(self, data: bytes) -> tuple[Node, ...]:
        """Add a block. Returns its leaf node and the parents that it completes, lowest first."""
        return self.append_many((data,))[0]

    def append_many(self, blocks: Iterable[bytes]) -> list[tuple[Node, ...]]:
        """Add blocks in order. Returns for each what ``append`` would have. All are added or, on an exception, none.

        ``leaf_node`` and ``parent_node`` are written out here: this loop is where appending and auditing spend their
        time, and it is a third faster so.
        """
        roots, length = list(self._roots), self._length
        copy_leaf, copy_parent, new = _LEAF.copy, _PARENT.copy, tuple.__new__
        completed: list[tuple[Node, ...]] = []
        for data in blocks:
            size = len(data)
            state = copy_leaf()
            state.update(size.to_bytes(8, "little") + data)
            digest = state.digest()
            index = 2 * length
            nodes = [new(Node, (index, size, digest))]
            merges = ~length & (length + 1)
            while merges > 1:
                left_index, left_size, left_digest = roots.pop()
                size += left_size
                state = copy_parent()
                state.update(size.to_bytes(8, "little") + left_digest + digest)
                digest = state.digest()
                index = (left_index + index) >> 1
                nodes.append(new(Node, (index, size, digest)))
                merges >>= 1
            roots.append(nodes[-1])
            length += 1
            completed.append(tuple(nodes))
        self._commit(roots, length)
        return completed

    def append_node(self, node: Node) -> tuple[Node, ...]:
        """Add a complete subtree at once: the blocks that ``node`` covers, unseen.

        Returns the node and the parents that it completes, lowest first. Raises ``MalformedError``, with nothing added,
        unless it begins where the tree ends.
        """
        leaves = leaf_count(node.index)
        if left_leaf(node.index) != self._length:
            raise MalformedError(f"node {node.index} does not continue a tree of {self._length} blocks")
        roots, completed = [*self._roots, node], [node]
        while len(roots) > 1 and leaf_count(roots[-1].index) == leaf_count(roots[-2].index):
            right, left = roots.pop(), roots.pop()
            roots.append(parent_node(left, right))
            completed.append(roots[-1])
        self._commit(roots, self._length + leaves)
        return tuple(completed)

    def _commit(self, roots: list[Node], length: int) -> None:
        if length > MAX_LENGTH or sum(root.size for root in roots) > MAX_UINT:
            raise LimitExceeded("tree: more than 2^52 blocks or 2^53-1 bytes")
        self._roots = roots
        self._length = length

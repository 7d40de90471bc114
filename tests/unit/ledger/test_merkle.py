"""The tree against a slow one written straight from the definition."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.errors import LimitExceeded, MalformedError
from ledger.codec import MAX_UINT, Reader
from ledger.flattree import full_roots
from ledger.merkle import (
    EMPTY_TREE_HASH,
    MAX_LENGTH,
    Node,
    TreeBuilder,
    encode_node,
    leaf_node,
    parent_node,
    read_node,
    tree_hash,
)

BLOCKS = st.lists(st.binary(max_size=40), max_size=40)


def digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=32).digest()


def slow_node(blocks: list[bytes], first: int, count: int) -> Node:
    """The node over ``count`` blocks from ``first`` on."""
    if count == 1:
        data = blocks[first]
        return Node(2 * first, len(data), digest(b"\x00" + len(data).to_bytes(8, "little") + data))
    half = count // 2
    left, right = slow_node(blocks, first, half), slow_node(blocks, first + half, half)
    size = left.size + right.size
    hashed = digest(b"\x01" + size.to_bytes(8, "little") + left.hash + right.hash)
    return Node(2 * first + count - 1, size, hashed)


def slow_roots(blocks: list[bytes]) -> list[Node]:
    roots, first = [], 0
    while first < len(blocks):
        count = 1 << ((len(blocks) - first).bit_length() - 1)
        roots.append(slow_node(blocks, first, count))
        first += count
    return roots


@given(BLOCKS)
def test_builder_gives_the_roots_and_hash_of_the_definition(blocks: list[bytes]) -> None:
    tree = TreeBuilder()
    tree.append_many(blocks)
    assert list(tree.roots) == slow_roots(blocks)
    assert tree.length == len(blocks)
    assert tree.byte_length == sum(map(len, blocks))
    hashed = b"".join(r.hash + r.index.to_bytes(8, "little") + r.size.to_bytes(8, "little") for r in slow_roots(blocks))
    assert tree.tree_hash() == tree_hash(tree.roots) == digest(b"\x02" + hashed)


@given(BLOCKS, st.integers(0, 40))
def test_resuming_from_roots_and_appending_one_by_one_changes_nothing(blocks: list[bytes], cut: int) -> None:
    whole, resumed = TreeBuilder(), TreeBuilder()
    completed = whole.append_many(blocks)
    resumed.append_many(blocks[:cut])
    resumed = TreeBuilder(resumed.roots, resumed.length)
    assert [resumed.append(block) for block in blocks[cut:]] == completed[cut:]
    assert resumed.roots == whole.roots


@given(BLOCKS)
def test_completed_nodes_are_the_leaf_and_its_parents(blocks: list[bytes]) -> None:
    known: dict[int, Node] = {}
    for index, nodes in enumerate(TreeBuilder().append_many(blocks)):
        assert nodes[0] == leaf_node(index, blocks[index])
        known.update({node.index: node for node in nodes})
        for left, above in pairwise(nodes):
            assert above == parent_node(known[2 * above.index - left.index], left)
    inner = len(blocks) - len(full_roots(len(blocks)))  # a forest of n leaves and r roots has n - r inner nodes
    assert len(known) == len(blocks) + inner


@given(BLOCKS)
def test_append_node_joins_subtrees_unseen(blocks: list[bytes]) -> None:
    whole = TreeBuilder()
    nodes: dict[int, Node] = {}
    for completed in whole.append_many(blocks):
        nodes.update({node.index: node for node in completed})
    tree = TreeBuilder()
    for index in full_roots(len(blocks)):
        tree.append_node(nodes[index])
    assert tree.roots == whole.roots


def test_empty_tree() -> None:
    assert TreeBuilder().tree_hash() == EMPTY_TREE_HASH == digest(b"\x02")
    assert TreeBuilder().append_many([]) == []


def test_position_and_size_are_bound_by_the_tree_hash() -> None:
    node = leaf_node(0, b"data")
    assert tree_hash([node]) != tree_hash([node._replace(index=2)])
    assert tree_hash([node]) != tree_hash([node._replace(size=5)])


@pytest.mark.parametrize(
    ("indices", "length"),
    [([], 1), ([0], 0), ([0, 2], 2), ([1], 3), ([4, 1], 3), ([2], 1), ([], -1), ([2**53 - 1], 2**53)],
)
def test_roots_that_are_none_of_that_length_are_refused(indices: list[int], length: int) -> None:
    with pytest.raises(MalformedError):
        TreeBuilder([Node(index, 1, bytes(32)) for index in indices], length)


@pytest.mark.parametrize("index", [0, 1, 2, 6, 9, 3])
def test_a_node_that_does_not_begin_where_the_tree_ends_is_refused(index: int) -> None:
    tree = TreeBuilder()
    tree.append_many([b"a", b"b"])
    before = tree.roots
    with pytest.raises(MalformedError):
        tree.append_node(Node(index, 1, bytes(32)))
    assert (tree.roots, tree.length) == (before, 2)


def test_a_tree_larger_than_the_integers_is_refused_and_left_as_it_was() -> None:
    tree = TreeBuilder([Node(0, MAX_UINT, bytes(32))], 1)
    for attempt in (lambda: tree.append_node(Node(2, 1, bytes(32))), lambda: tree.append_many([b"", b"x"])):
        with pytest.raises(LimitExceeded):
            attempt()
        assert (tree.length, tree.byte_length) == (1, MAX_UINT)
    full = TreeBuilder([Node(MAX_LENGTH - 1, 0, bytes(32))], MAX_LENGTH)
    with pytest.raises(LimitExceeded):
        full.append(b"")


def test_a_failing_source_of_blocks_leaves_the_tree_as_it_was() -> None:
    def blocks() -> Iterator[bytes]:
        yield b"one"
        raise OSError

    tree = TreeBuilder()
    with pytest.raises(OSError):
        tree.append_many(blocks())
    assert (tree.length, tree.roots) == (0, ())


@given(st.integers(0, MAX_UINT), st.integers(0, MAX_UINT), st.binary(min_size=32, max_size=32))
def test_node_round_trip(index: int, size: int, hashed: bytes) -> None:
    node = Node(index, size, hashed)
    reader = Reader(encode_node(node), "test")
    assert read_node(reader) == node
    reader.done()


def test_a_cut_off_node_is_refused() -> None:
    with pytest.raises(MalformedError):
        read_node(Reader(encode_node(Node(1, 2, bytes(32)))[:-1], "test"))

"""Positions in the flat tree, against their definition by depth and offset."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.flattree import covering, depth, full_roots, leaf_count, left_leaf, node_over, parent, right_leaf, sibling


def position(level: int, offset: int) -> int:
    """Node number by the definition: the ``offset``-th node of depth ``level``."""
    return ((1 + 2 * offset) << level) - 1


@given(st.integers(0, 50), st.integers(0, 1 << 40))
def test_every_relation_follows_from_depth_and_offset(level: int, offset: int) -> None:
    node = position(level, offset)
    assert depth(node) == level
    assert leaf_count(node) == 2**level
    assert parent(node) == position(level + 1, offset >> 1)
    assert sibling(node) == position(level, offset ^ 1)
    assert left_leaf(node) == offset << level
    assert right_leaf(node) == left_leaf(node) + leaf_count(node) - 1
    assert node_over(left_leaf(node), level) == node_over(right_leaf(node), level) == node


@pytest.mark.parametrize(
    ("length", "roots"),
    [(0, []), (1, [0]), (2, [1]), (3, [1, 4]), (4, [3]), (5, [3, 8]), (7, [3, 9, 12]), (8, [7]), (21, [15, 35, 40])],
)
def test_full_roots(length: int, roots: list[int]) -> None:
    assert full_roots(length) == roots


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_covering_tiles_the_range_with_the_fewest_nodes(start: int, count: int) -> None:
    stop = start + count
    nodes = covering(start, stop)
    assert [leaf for node in nodes for leaf in range(left_leaf(node), right_leaf(node) + 1)] == list(range(start, stop))
    for node in nodes:  # none could be replaced by its parent
        above = parent(node)
        assert left_leaf(above) < start or right_leaf(above) >= stop


@pytest.mark.parametrize(("start", "stop"), [(1, 2**52), (2**51 - 1, 2**52), (0, 2**52 - 1)])
def test_covering_stays_short(start: int, stop: int) -> None:
    assert len(covering(start, stop)) <= 104


def test_covering_of_nothing() -> None:
    assert covering(5, 5) == []

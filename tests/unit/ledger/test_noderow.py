"""Byte layouts of rows: round trips, and rows that cannot be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.errors import DamagedFile
from ledger.merkle import TreeBuilder
from ledger.noderow import (
    completed_by,
    pack_hashes,
    pack_nodes,
    unpack_hashes,
    unpack_node,
    unpack_roots,
)


@given(st.lists(st.binary(max_size=9), min_size=1, max_size=70))
def test_rows_and_roots_come_back(blocks: list[bytes]) -> None:
    tree = TreeBuilder()
    for index, row in enumerate(tree.append_many(blocks)):
        assert len(row) == completed_by(index)
        packed = pack_nodes(row)
        assert tuple(unpack_node(node.index, packed, 40 * depth) for depth, node in enumerate(row)) == row
    assert unpack_roots(len(blocks), pack_nodes(tree.roots)) == tree.roots


def test_layout_of_a_node() -> None:
    (row,) = TreeBuilder().append_many([b"abc"])
    assert pack_nodes(row) == row[0].hash + bytes([3, 0, 0, 0, 0, 0, 0, 0])


@pytest.mark.parametrize(("index", "count"), [(0, 1), (1, 2), (2, 1), (3, 3), (7, 4), (8, 1), (2**39 - 1, 40)])
def test_nodes_that_a_block_completes(index: int, count: int) -> None:
    assert completed_by(index) == count


@pytest.mark.parametrize("size", [0, 39, 40, 41, 79, 81, 120])
def test_row_of_the_wrong_size(size: int) -> None:
    with pytest.raises(DamagedFile):
        unpack_roots(3, bytes(size))


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=9))
def test_hashes_come_back(hashes: list[bytes]) -> None:
    assert unpack_hashes(len(hashes), pack_hashes(hashes)) == hashes
    with pytest.raises(DamagedFile):
        unpack_hashes(len(hashes) + 1, pack_hashes(hashes))

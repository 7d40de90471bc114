"""The stores that the contract is run against, and the few moves that every test of a store makes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from ledger.log import append_to_frontier, hash_leaf
from ledger.merkle import TreeBuilder
from ledger.storage.memory import MemoryStore
from ledger.store import FeedKey, FeedState, LogState, SignedHead, Store, WriteTransaction


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path, new_sqlite: Any) -> Iterator[Store]:
    opened: Store = MemoryStore() if request.param == "memory" else new_sqlite(tmp_path / "store.db")
    yield opened
    opened.close()


class Grow(Protocol):
    def __call__(self, tx: WriteTransaction, state: FeedState, blocks: Sequence[bytes]) -> FeedState: ...


@pytest.fixture
def grow() -> Grow:
    """Append blocks with the right nodes and a head whose signature is made up: a store does not verify any."""

    def append(tx: WriteTransaction, state: FeedState, blocks: Sequence[bytes]) -> FeedState:
        tree = TreeBuilder(state.roots, state.length)
        nodes = tree.append_many(blocks)
        head = SignedHead(tree.length, tree.tree_hash(), b"signature of %d" % tree.length)
        return tx.append(state, blocks, nodes, head, tree.roots)

    return append


class GrowLog(Protocol):
    def __call__(self, tx: WriteTransaction, state: LogState | None, leaves: Sequence[bytes]) -> LogState: ...


@pytest.fixture
def grow_log() -> GrowLog:
    def append(tx: WriteTransaction, state: LogState | None, leaves: Sequence[bytes]) -> LogState:
        grown, _ = append_to_frontier(state or LogState(hash_leaf(leaves[0]), 0, ()), leaves)
        tx.append_leaves(state, grown, leaves)
        return grown

    return append


@pytest.fixture
def key() -> FeedKey:
    return FeedKey(b"k" * 32)

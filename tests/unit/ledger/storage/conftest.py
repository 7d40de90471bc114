"""The stores that the contract is run against, and the few moves that every test of a store makes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import pytest

from ledger.log import append_to_frontier, hash_leaf
from ledger.merkle import TreeBuilder
from ledger.storage import migrate, postgres, sqlite
from ledger.store import FeedKey, FeedState, LogState, SignedHead, Store, WriteTransaction


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, open_empty: Callable[[str], Store]) -> Iterator[Store]:
    opened = open_empty(request.param)
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


SCRIPTS = migrate._SCRIPTS


@pytest.fixture
def next_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give the program further migrations than it has, each a line of Python."""

    def add(**steps: str) -> None:
        scripts = tmp_path / "100% migrations"
        shutil.rmtree(scripts, ignore_errors=True)
        shutil.copytree(SCRIPTS, scripts, ignore=shutil.ignore_patterns("__pycache__", "000[2-9]_*.py"))
        names = ["0001_ledger", *steps]
        for before, name in pairwise(names):
            head = f"from alembic import op\nrevision, down_revision = {name!r}, {before!r}\n"
            (scripts / "versions" / f"{name}.py").write_text(f"{head}def upgrade():\n    {steps[name]}\n")
        monkeypatch.setattr(migrate, "_SCRIPTS", scripts)
        for module in (migrate, sqlite, postgres):
            monkeypatch.setattr(module, "REVISIONS", tuple(names))

    return add

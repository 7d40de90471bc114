"""Runs of blocks on their way in: hashed on, their heads verified, compared with what is here, put where they belong.

Implements docs/spec/bundle.md, section "Reading", steps 4 and 5, for whatever carries runs: a bundle or a session. A
run has to join a line that is here: the roots there are known, so the tree that its heads sign is computed from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from identity.errors import DamagedFile, LimitExceeded, MalformedError, RootMismatch
from ledger.feed import MAX_BATCH_BLOCKS, MAX_BATCH_BYTES
from ledger.fork import branch_of, encode_fork, make_fork
from ledger.head import FORK, verify_head
from ledger.manifest import Manifest
from ledger.merkle import Node, TreeBuilder
from ledger.store import FeedKey, SignedHead
from sync.storage.sides import Line

__all__ = ["Grown", "Run", "RunFeed"]


class Grown(NamedTuple):
    """Blocks that a head has just been verified for: the tree before them and behind them, and the nodes they make."""

    before: TreeBuilder
    blocks: Sequence[bytes]
    nodes: Sequence[Sequence[Node]]
    head: SignedHead
    tree: TreeBuilder

    def tree_at(self, length: int) -> TreeBuilder:
        """The tree of the first ``length`` blocks, which ends among these."""
        tree = TreeBuilder(self.before.roots, self.before.length)
        tree.append_many(self.blocks[: length - self.before.length])
        return tree


class RunFeed(Protocol):
    """The feed that a run is of: where what is new of it goes. A line of None: there are too many sides already."""

    what: str
    """What carries the run, for error messages."""
    key: FeedKey
    manifest: Manifest

    def append(
        self, line: Line, blocks: Sequence[bytes], nodes: Sequence[Sequence[Node]], head: SignedHead, tree: TreeBuilder
    ) -> None:
        """Let a line go on."""

    def line_behind(self, line: Line, grown: Grown) -> Line | None:
        """The line to go on with where one ends."""

    def first_line(self, head: SignedHead) -> Line | None:
        """The line of a feed of which nothing is here."""

    def side_of(self, line: Line, at: int, proof: bytes) -> Line | None:
        """The side that leaves ``line`` at block ``at``."""

    def passed(self, blocks: int) -> None:
        """So many blocks were verified."""


class Run:
    """A run of blocks: compared with the lines that it may be on, and kept from where it leaves or outgrows them."""

    def __init__(self, feed: RunFeed, tree: TreeBuilder, lines: list[Line]) -> None:
        self._feed = feed
        self._tree = tree
        self._lines = lines
        """Those that have had the same blocks so far, until it is clear which one it goes on."""
        self._target: Line | None = None
        self._refused = False
        self._batch: list[bytes] = []
        self._batch_bytes = 0

    def take_block(self, block: bytes) -> None:
        """The next block."""
        self._batch_bytes += len(block)
        if len(self._batch) == MAX_BATCH_BLOCKS or self._batch_bytes > MAX_BATCH_BYTES:
            raise LimitExceeded(
                f"{self._feed.what}: more than {MAX_BATCH_BLOCKS} blocks or {MAX_BATCH_BYTES} bytes to a head"
            )
        self._batch.append(block)

    def take_head(self, head: SignedHead) -> None:
        """The head that signs them. Raises ``RootMismatch`` or ``SignatureMismatch`` when it does not."""
        before = TreeBuilder(self._tree.roots, self._tree.length)
        nodes = self._tree.append_many(self._batch)
        if head.length != self._tree.length:
            raise MalformedError(
                f"{self._feed.what}: a head of {head.length} blocks behind block {self._tree.length - 1}"
            )
        computed = self._tree.tree_hash()
        if computed != head.tree_hash:
            what = f"{self._feed.what}: feed {self._feed.key.hex()}, head of {head.length} blocks"
            raise RootMismatch(what, expected=head.tree_hash, computed=computed)
        verify_head(self._feed.manifest, head.tree_hash, head.length, FORK, head.signature)
        self._keep(Grown(before, self._batch, nodes, head, self._tree))
        self._feed.passed(len(self._batch))
        self._batch, self._batch_bytes = [], 0

    def _keep(self, grown: Grown) -> None:
        """Keep what is not here."""
        same = 0
        if self._target is None and not self._refused:
            same = self._follow(grown)
            if same == len(grown.blocks):
                return
            self._target = self._choose(grown, grown.before.length + same)
            self._refused = self._target is None
        if self._target is not None:
            self._feed.append(self._target, grown.blocks[same:], grown.nodes[same:], grown.head, grown.tree)

    def _follow(self, grown: Grown) -> int:
        """How many of the blocks are here. Leaves the lines that have them."""
        found = [(line.common(grown.before.length, grown.blocks), line) for line in self._lines]
        same = max((count for count, _ in found), default=0)
        self._lines = [line for count, line in found if count == same]
        return same

    def _choose(self, grown: Grown, at: int) -> Line | None:
        """The line that block ``at`` and what follows go on; None when they are not kept."""
        ended = next((line for line in self._lines if line.length == at), None)
        if ended is not None:
            return self._feed.line_behind(ended, grown)
        if not self._lines:
            return self._feed.first_line(grown.head)
        line = self._lines[0]
        return self._feed.side_of(line, at, _fork_proof(self._feed.manifest, line, at, grown))


def _fork_proof(manifest: Manifest, line: Line, at: int, grown: Grown) -> bytes:
    """That the head of these blocks contradicts the one that covers block ``at`` of a line."""
    held = next(iter(line.heads(at)), None)
    if held is None:
        raise DamagedFile(f"feed {line.feed.hex()}: no signed head covers block {at}")
    common = min(held.length, grown.head.length)
    new = {node.index: node for done in (grown.tree_at(common).roots, *grown.nodes) for node in done}
    theirs = branch_of(grown.head, common, new.__getitem__)
    ours = branch_of(held, common, line.node)
    if held.length == grown.head.length:
        ours, theirs = replace(ours, prefix=()), replace(theirs, prefix=())
    return encode_fork(make_fork(manifest, ours, theirs))

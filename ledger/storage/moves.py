"""What every store works out in the same way before it moves a feed or the log.

The hashes are taken as they are given: a store keeps history, the callers in ``ledger`` verify it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from identity.errors import StorageError
from ledger.log import append_to_frontier, root_at
from ledger.merkle import Node, tree_hash
from ledger.noderow import completed_by
from ledger.storage.schema import MAX_LENGTH
from ledger.store import Committed, CommittedLog, FeedState, LogState, ReadTransaction, SignedHead, stored_tree_hash

__all__ = ["is_written", "log_rows", "moved_feed"]


def moved_feed(
    state: FeedState,
    blocks: Sequence[bytes],
    nodes: Sequence[Sequence[Node]],
    head: SignedHead,
    roots: Sequence[Node],
) -> FeedState:
    """Where the feed stands after an append. ``ValueError`` when the arguments do not fit together in number."""
    length = state.length + len(blocks)
    if not blocks or len(nodes) != len(blocks) or head.length != length or len(roots) != length.bit_count():
        raise ValueError(f"an append of {len(blocks)} blocks at {state.length} does not lead to {head.length}")
    if list(map(len, nodes)) != list(map(completed_by, range(state.length, length))):
        raise ValueError("an append that does not carry the nodes that its blocks complete")
    if length > MAX_LENGTH:
        raise StorageError(f"a feed holds at most {MAX_LENGTH} blocks")
    return replace(state, length=length, byte_length=sum(root.size for root in roots), roots=tuple(roots))


def log_rows(expected: LogState | None, state: LogState, leaves: Sequence[bytes]) -> list[list[bytes]]:
    """For each leaf the hashes of the subtrees that it completes, lowest first.

    ``ValueError`` when the leaves do not lead from ``expected`` to ``state``.
    """
    reached, completed = append_to_frontier(expected or LogState(state.log_id, 0, ()), leaves)
    if not leaves or reached != state:
        raise ValueError(f"{len(leaves)} leaves do not lead the log to {state.size}")
    rows: list[list[bytes]] = [[] for _ in leaves]
    first = state.size - len(leaves)
    for level, index, digest in completed:
        rows[((index + 1) << level) - 1 - first].append(digest)
    return rows


def is_written(tx: ReadTransaction, told: Committed) -> bool:
    """Whether the store holds what a commit without an answer was to write.

    As long a feed, or log, is not enough: another process may have gone on there instead.
    """
    return _logged(tx, told.log) and all(_appended(tx, change.after) for change in told.feeds)


def _logged(tx: ReadTransaction, told: CommittedLog | None) -> bool:
    if told is None:
        return True
    log = tx.log()
    return log is not None and log.size >= told.size and root_at(tx.log_node, told.size) == told.root


def _appended(tx: ReadTransaction, told: FeedState) -> bool:
    feed = tx.feed(told.key)
    if feed is None or feed.length < told.length:
        return False
    return stored_tree_hash(tx, told.key, told.length) == tree_hash(told.roots)

"""The comparison of a checkpoint log with what the chain holds for it: pure, the same for the store and for outsiders.

The chain cannot go back, so a log that is shorter than its newest anchor has lost something, and one that has another
root at an anchored size has been rewritten (promise P4). docs/spec/rollback.md says what each state means and allows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from anchoring.receipt import AnchorRecord

__all__ = [
    "ArchivedAnchor",
    "PredecessorCheck",
    "PredecessorState",
    "RollbackCheck",
    "RollbackState",
    "compare_with_chain",
]


class RollbackState(StrEnum):
    """Where a log stands against its chain. All but the first three are read-only."""

    CONSISTENT = "consistent"
    """The newest anchor is a prefix of the log."""
    NOT_ANCHORED = "not-anchored"
    """The chain holds no anchor of this log, and the log knows of none."""
    NO_CHAIN = "no-chain"
    """The log's descriptor names no chain: nothing outside can show a rollback."""
    BEHIND_ANCHOR = "behind-anchor"
    """The chain holds a larger size than the log: entries are missing here."""
    DIVERGED = "diverged"
    """The log has another root than the chain at the anchored size: history was rewritten."""
    FOREIGN_CHAIN = "foreign-chain"
    """A block in which this log has a final anchor is not on that chain: it is another chain, or it was reset."""
    CLOSED = "closed"
    """The log was closed on chain: its successor goes on."""
    OTHER_SUCCESSOR = "other-successor"
    """The log before this one was closed on chain, and the chain names another log as the one that goes on."""
    UNVERIFIED = "unverified"
    """The chain could not be read: nothing is known."""

    @property
    def writable(self) -> bool:
        """True when the store may append to its feeds and its log."""
        return self in {RollbackState.CONSISTENT, RollbackState.NOT_ANCHORED, RollbackState.NO_CHAIN}


class PredecessorState(StrEnum):
    """What the chain says of the log before a successor."""

    CLOSED = "closed"
    """Closed, at the size where the descriptor says it ends, naming this log as the one that goes on."""
    NOT_CLOSED = "not-closed"
    """Not closed, as far as can be read: two logs of one identity may go on."""
    OTHER_SUCCESSOR = "other-successor"
    """Closed, and another log, or none, is named as the one that goes on."""
    OTHER_END = "other-end"
    """The contract holds another size or root for its end than the descriptor says."""
    UNREAD = "unread"
    """The chain could not be read."""


@dataclass(frozen=True, slots=True)
class PredecessorCheck:
    """The state, and one sentence that says it to a person."""

    state: PredecessorState
    detail: str


@dataclass(frozen=True, slots=True)
class ArchivedAnchor:
    """The newest final anchor that the log's owner has archived, and whether its block is on the chain that was read.

    ``block_on_chain`` is None when nobody could tell.
    """

    size: int
    block_number: int
    block_on_chain: bool | None


@dataclass(frozen=True, slots=True)
class RollbackCheck:
    """The result: the state, both sizes, and one sentence that says it to a person."""

    state: RollbackState
    local_size: int
    anchored_size: int
    detail: str


def compare_with_chain(
    local_size: int,
    root_at: Callable[[int], bytes],
    record: AnchorRecord | None,
    archived: ArchivedAnchor | None,
) -> RollbackCheck:
    """Compare a log with the newest anchor that a verified storage proof shows for it.

    ``root_at(size)`` is the log's own root at a size up to ``local_size``; ``record`` is None when the chain provably
    holds no anchor for the log; ``archived`` is the newest final anchor known here, if any.
    """
    anchored = 0 if record is None else record.size

    def result(state: RollbackState, detail: str) -> RollbackCheck:
        return RollbackCheck(state, local_size, anchored, detail)

    if archived is not None and (archived.block_on_chain is False or archived.size > anchored):
        return result(
            RollbackState.FOREIGN_CHAIN,
            f"the final anchor of size {archived.size} in block {archived.block_number} is not on this chain",
        )
    if record is None:
        return result(RollbackState.NOT_ANCHORED, "the chain holds no anchor of this log yet")
    if anchored > local_size:
        return result(
            RollbackState.BEHIND_ANCHOR,
            f"the chain holds size {anchored}, the log here has {local_size}: "
            f"{anchored - local_size} statements are missing",
        )
    if anchored and root_at(anchored) != record.root:
        return result(RollbackState.DIVERGED, f"the log here has another history than the chain at size {anchored}")
    if record.closed:
        return result(RollbackState.CLOSED, f"the log was closed on chain at size {anchored}")
    return result(
        RollbackState.CONSISTENT,
        f"the chain holds size {anchored} of {local_size}, and it is a prefix of the log here",
    )

"""Whether the log before a successor was closed on chain in its favour: read with proof, for its owner and outsiders.

Spec: docs/spec/rollback.md, section "Ways out". A successor anchors in the contract, and under the address, of the log
before it, unless those were lost; only there can the close be found.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from anchoring.chain.check import ChainView, fetch_final_header
from anchoring.chain.closing import read_closing
from anchoring.chain.outbox import AnchorTarget
from identity.errors import MalformedError, StorageError, TransportError, VerificationError
from ledger.statement import LogDescriptor

__all__ = ["PredecessorCheck", "PredecessorState", "check_predecessor"]


class PredecessorState(StrEnum):
    """What the chain says of the log before."""

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


def check_predecessor(
    view: ChainView | None, log_id: bytes, descriptor: LogDescriptor, now_ms: int
) -> PredecessorCheck | None:
    """Look for the close of the log before this one; None for a log that has none before it.

    ``view`` None: there is no chain to ask. Never raises for what the chain does: that is ``unread``.
    """
    older = descriptor.predecessor
    if older is None:
        return None
    said = f"this log goes on from log {older.log.hex()}, which ends at size {older.size}"
    if descriptor.chain is None or view is None:
        return PredecessorCheck(PredecessorState.UNREAD, f"{said}; there is no chain to ask whether it was closed")
    chain = descriptor.chain
    target = AnchorTarget(chain.id, chain.contract, chain.owner, older.log, view.code_hash)
    try:
        header = fetch_final_header(view, now_ms)
        record, successor = read_closing(next(iter(view.nodes.values())), target, header.number, header.hash)
    except (TransportError, StorageError, MalformedError, VerificationError) as exc:
        return PredecessorCheck(PredecessorState.UNREAD, f"{said}; whether it was closed could not be read: {exc}")
    if record is None or not record.closed:
        return PredecessorCheck(PredecessorState.NOT_CLOSED, f"{said}, and was not closed on this chain")
    if successor != log_id:
        named = successor.hex() if any(successor) else "none"
        detail = f"{said}, and was closed on chain in favour of another: {named}"
        return PredecessorCheck(PredecessorState.OTHER_SUCCESSOR, detail)
    if record.size and (record.size, record.root) != (older.size, older.root):
        detail = f"{said}; the chain holds size {record.size} and root {record.root.hex()} as its end"
        return PredecessorCheck(PredecessorState.OTHER_END, detail)
    return PredecessorCheck(PredecessorState.CLOSED, f"{said}, and was closed on chain in favour of this one")

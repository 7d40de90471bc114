"""Whether the log before a successor was closed on chain in its favour: read with proof, for its owner and outsiders.

Spec: docs/spec/rollback.md, section "Ways out". A successor anchors in the contract, and under the address, of the log
before it, unless those were lost; only there can the close be found.
"""

from __future__ import annotations

from anchoring.chain.check import ChainView, fetch_final_header
from anchoring.chain.closing import read_closing
from anchoring.chain.outbox import AnchorTarget
from anchoring.rollback import PredecessorCheck, PredecessorState
from identity.errors import MalformedError, StorageError, TransportError, VerificationError
from ledger.statement import ChainBinding, LogDescriptor

__all__ = ["check_predecessor", "find_successor"]


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


def find_successor(view: ChainView, log_id: bytes, chain: ChainBinding, now_ms: int) -> bytes | None:
    """The log in favour of which this one was closed; None when it names none, is not closed, or could not be read."""
    target = AnchorTarget(chain.id, chain.contract, chain.owner, log_id, view.code_hash)
    try:
        header = fetch_final_header(view, now_ms)
        record, successor = read_closing(next(iter(view.nodes.values())), target, header.number, header.hash)
    except (TransportError, StorageError, MalformedError, VerificationError):
        return None
    return successor if record is not None and record.closed and any(successor) else None

"""Asking a chain where a log stands, with proof: the reading half of the rollback check (docs/spec/rollback.md).

What the nodes say is used for one thing only: which header is final now. All configured nodes must agree on it; the
account and storage proofs are then verified under it, so no node can make an anchor up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from anchoring.chain.client import ChainReader
from anchoring.receipt import (
    DEVELOPMENT_CHAIN_ID,
    AnchorReceipt,
    AnchorRecord,
    BlockHeader,
    parse_header,
    read_anchor,
    slots,
)
from anchoring.rollback import ArchivedAnchor, RollbackCheck, RollbackState, compare_with_chain
from identity.errors import MalformedError, ReceiptMismatch, StorageError, TransportError, VerificationError
from ledger.statement import ChainBinding

__all__ = [
    "ChainView",
    "LogPosition",
    "check_rollback",
    "fetch_final_header",
    "fetch_header",
    "read_anchor_history",
    "read_newest_anchor",
]

MAX_HEADER_AGE_MS = 3_600_000
"""How old the newest final block may be for the check to count as made: one hour, several times Ethereum's finality."""


@dataclass(frozen=True, slots=True)
class ChainView:
    """The nodes that are asked, by name, and what the chain must be."""

    nodes: Mapping[str, ChainReader]
    chain_id: int
    code_hash: bytes


@dataclass(frozen=True, slots=True)
class LogPosition:
    """The log that is compared: its id, where it is anchored, how long it is here, and its root at a size."""

    log_id: bytes
    binding: ChainBinding
    size: int
    root_at: Callable[[int], bytes]


def fetch_final_header(view: ChainView, now_ms: int) -> BlockHeader:
    """The newest final header that every node gives. Raises ``TransportError`` when they disagree or it is stale.

    ``now_ms`` is the local time, against which staleness is measured; the development chain mines on demand only and
    is exempt.
    """
    if not view.nodes:
        raise TransportError("no chain node is configured")
    for name, node in view.nodes.items():
        if (found := node.chain_id()) != view.chain_id:
            raise TransportError(f"{name} is on chain {found}, not {view.chain_id}")
    header = fetch_header(view, min(node.final_number() for node in view.nodes.values()))
    if view.chain_id != DEVELOPMENT_CHAIN_ID and now_ms - header.timestamp_s * 1000 > MAX_HEADER_AGE_MS:
        raise TransportError(f"the newest final block {header.number} is older than an hour: the nodes are behind")
    return header


def fetch_header(view: ChainView, number: int) -> BlockHeader:
    """The header of a block that every node gives. Raises ``TransportError`` when they disagree or lack it."""
    headers = {name: parse_header(node.header(number)) for name, node in view.nodes.items()}
    if not headers:
        raise TransportError("no chain node is configured")
    header = next(iter(headers.values()))
    if any(other.hash != header.hash for other in headers.values()) or header.number != number:
        raise TransportError(f"the nodes {', '.join(headers)} give different headers for block {number}")
    return header


def read_newest_anchor(
    view: ChainView, header: BlockHeader, log_id: bytes, binding: ChainBinding
) -> AnchorRecord | None:
    """The log's record in the state of ``header``, verified; None when there provably is none.

    Raises ``TransportError``, ``MalformedError`` or ``ReceiptMismatch``.
    """
    node = next(iter(view.nodes.values()))
    meta, root, _ = slots(binding.owner, log_id)
    proofs = node.get_proof(binding.contract, [meta, root], header.number)
    return read_anchor(
        AnchorReceipt(
            node.header(header.number), proofs.account_proof, (proofs.storage_proofs[0], proofs.storage_proofs[1])
        ),
        contract=binding.contract,
        owner=binding.owner,
        log_id=log_id,
        block_hash=header.hash,
        code_hash=view.code_hash,
    )


def read_anchor_history(
    view: ChainView, header: BlockHeader, log_id: bytes, binding: ChainBinding
) -> Iterator[AnchorRecord]:
    """Every record that the contract ever held for the log, newest first, each by proof in the state before the next.

    The contract keeps only the newest: a longer rewritten history would pass there. Needs a node that proves old
    states. Raises as ``read_newest_anchor``.
    """
    record = read_newest_anchor(view, header, log_id, binding)
    while record is not None and record.size:
        yield record
        header = fetch_header(view, record.block - 1)
        try:
            older = read_newest_anchor(view, header, log_id, binding)
        except ReceiptMismatch as exc:
            if exc.reason != "NO_CONTRACT":
                raise
            return  # the contract was deployed in the block of its first anchor
        if older is not None and older.block >= record.block:
            raise TransportError(f"the node shows an anchor of block {older.block} before block {record.block}")
        record = older


def check_rollback(
    view: ChainView, log: LogPosition, archived: tuple[int, int, bytes] | None, now_ms: int
) -> RollbackCheck:
    """Compare the log with its chain. Never raises for what the chain does: that is ``unverified``, with the reason.

    ``archived`` is the newest final anchor known here: log size, block number, block hash.
    """
    try:
        header = fetch_final_header(view, now_ms)
        known = None if archived is None else _locate(view, header, archived)
        # Another chain may not even have the contract, so there is nothing to read from it.
        is_foreign = known is not None and known.block_on_chain is False
        record = None if is_foreign else _read_final_anchor(view, header, log)
    except (TransportError, StorageError, MalformedError, VerificationError) as exc:
        return RollbackCheck(RollbackState.UNVERIFIED, log.size, 0, f"the chain could not be read: {exc}")
    return compare_with_chain(log.size, log.root_at, record, known)


def _read_final_anchor(view: ChainView, header: BlockHeader, log: LogPosition) -> AnchorRecord | None:
    """The log's record in the final state, None when there provably is none.

    A contract that was deployed a moment ago is in a block that is not final yet; then nothing is anchored in one that
    is. A chain that does not have it in its newest block either is not the log's chain.
    """
    try:
        return read_newest_anchor(view, header, log.log_id, log.binding)
    except ReceiptMismatch as exc:
        if exc.reason != "NO_CONTRACT":
            raise
    newest = fetch_header(view, min(node.head_number() for node in view.nodes.values()))
    read_newest_anchor(view, newest, log.log_id, log.binding)
    return None


def _locate(view: ChainView, final: BlockHeader, archived: tuple[int, int, bytes]) -> ArchivedAnchor:
    size, number, block_hash = archived
    if number > final.number:
        if view.chain_id != DEVELOPMENT_CHAIN_ID:
            raise TransportError(f"the nodes are behind block {number}, in which this log is anchored")
        # The development chain never lags: a block it does not have is a block of another chain.
        return ArchivedAnchor(size, number, False)
    return ArchivedAnchor(size, number, fetch_header(view, number).hash == block_hash)

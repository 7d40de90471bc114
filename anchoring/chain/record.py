"""What a chain holds for one log, read with its proof: for whoever sends anchors.

``AnchorTarget`` says where a log is anchored. A record is believed under the header that the chain gave with it; which
header is final, and whether other nodes have the same one, is for the caller.

Spec: docs/spec/anchor.md, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

from eth_hash.auto import keccak

from anchoring.chain.client import ChainReader
from anchoring.receipt import AnchorReceipt, AnchorRecord, read_anchor, slots

__all__ = ["AnchorTarget", "RecordReader", "refusal", "shows"]


@dataclass(frozen=True, slots=True)
class AnchorTarget:
    """Where a log is anchored, from its descriptor, and the code that the contract must have."""

    chain_id: int
    contract: bytes
    owner: bytes
    log_id: bytes
    code_hash: bytes


@dataclass(frozen=True, slots=True)
class RecordReader:
    """Reads the records of one log. Every method raises ``TransportError`` and ``ReceiptMismatch``."""

    chain: ChainReader
    target: AnchorTarget

    def record(self, number: int) -> AnchorRecord | None:
        """The log's record in the state after block ``number``, verified under the header that the chain gives."""
        header = self.chain.header(number)
        return self.verify(self.receipt(number, header), keccak(header))

    def receipt(self, number: int, header: bytes) -> AnchorReceipt:
        """The proofs for that state, as the chain gives them; nothing is verified."""
        meta, root, _ = slots(self.target.owner, self.target.log_id)
        proofs = self.chain.get_proof(self.target.contract, (meta, root), number)
        return AnchorReceipt(header, proofs.account_proof, (proofs.storage_proofs[0], proofs.storage_proofs[1]))

    def verify(self, receipt: AnchorReceipt, block_hash: bytes) -> AnchorRecord | None:
        """The record that the receipt shows under the block, or None when it shows that there is none."""
        return read_anchor(
            receipt,
            contract=self.target.contract,
            owner=self.target.owner,
            log_id=self.target.log_id,
            block_hash=block_hash,
            code_hash=self.target.code_hash,
        )


def shows(record: AnchorRecord | None, size: int, root: bytes) -> bool:
    """Whether the record is the anchor of this size and root."""
    return record is not None and (record.size, record.root) == (size, root)


def refusal(record: AnchorRecord | None, size: int) -> str | None:
    """Why the contract refuses an anchor of that size while it holds ``record``, or None."""
    if record is not None and record.closed:
        return "CLOSED"
    if record is not None and record.size >= size:
        return "STALE"
    return None

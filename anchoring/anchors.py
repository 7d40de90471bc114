"""What the receipts in evidence prove about its checkpoints (docs/spec/evidence.md, step 6).

``verify_anchors`` verifies every receipt under the headers that the policy trusts, and holds the log's ``anchor``
statements against the receipts that they name. It raises nothing: what is wrong with a receipt is a finding, and a
receipt with a finding does not count. Whether an anchored checkpoint covers the entry is for the verifier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anchoring.evidence import CheckpointEvidence
from anchoring.policy import ChainTrust, Policy
from anchoring.receipt import (
    DEVELOPMENT_CHAIN_ID,
    AnchorReceipt,
    VerifiedAnchor,
    parse_header,
    receipt_digest,
    verify_receipt,
)
from anchoring.report import Claim, Finding, failure
from anchoring.trusted_log import LogView, VerifiedLeaf
from identity.errors import AuditError, MalformedError, MissingEvidenceError, ReceiptMismatch, RootMismatch
from identity.verdict import Status
from ledger.statement import AnchorStatement, ChainBinding

__all__ = ["CheckpointAnchors", "TrustedAnchor", "verify_anchors"]


@dataclass(frozen=True, slots=True)
class TrustedAnchor:
    """The anchor of a checkpoint in a block that the policy pins; ``source`` is who vouched for the block's header."""

    anchor: VerifiedAnchor
    source: str


@dataclass(frozen=True, slots=True)
class CheckpointAnchors:
    """The receipts that count, by the position of their checkpoint in the evidence, and what was found about the rest.

    ``stated`` are the ``anchor`` statements with the digest of a receipt in the evidence, each with the anchor that
    this receipt shows, or None when it does not count. ``development`` names a chain that proves nothing to others.
    """

    by_position: Mapping[int, TrustedAnchor]
    stated: tuple[tuple[VerifiedLeaf, VerifiedAnchor | None], ...]
    findings: tuple[Finding, ...]
    development: tuple[str, ...]


def verify_anchors(log: LogView, checkpoints: Sequence[CheckpointEvidence], policy: Policy) -> CheckpointAnchors:
    """Verify every receipt of the evidence, and that the log's anchor statements name the blocks of these receipts."""
    verifying = _Verification(log, checkpoints)
    verifying.verify_receipts(policy)
    verifying.match_statements()
    return CheckpointAnchors(
        verifying.anchors, tuple(verifying.stated), tuple(verifying.findings), tuple(verifying.development)
    )


class _Verification:
    """One verification in progress."""

    def __init__(self, log: LogView, checkpoints: Sequence[CheckpointEvidence]) -> None:
        self._log = log
        self._receipts = {
            position: checkpoint.anchor
            for position, checkpoint in enumerate(checkpoints)
            if checkpoint.anchor is not None
        }
        self.anchors: dict[int, TrustedAnchor] = {}
        self.stated: list[tuple[VerifiedLeaf, VerifiedAnchor | None]] = []
        self.findings: list[Finding] = []
        self.development: list[str] = []

    def verify_receipts(self, policy: Policy) -> None:
        chain = self._log.descriptor.chain
        if chain is None:
            self._open("NO_CHAIN", "the log's descriptor names no chain")
            if self._receipts:
                self._refuse("UNREFERENCED", "a receipt, and the log has no chain")
            return
        trust = policy.chains.get(chain.id)
        if trust is None:
            self._open("UNKNOWN_CHAIN", f"the policy does not name chain {chain.id}")
            return
        if chain.id == DEVELOPMENT_CHAIN_ID:
            self.development.append(f"chain {chain.id}: the embedded development chain")
        if not self._receipts:
            self._open("NOT_ANCHORED", "no checkpoint in the evidence carries a final anchor")
        for position, receipt in self._receipts.items():
            try:
                self.anchors[position] = self._verify_receipt(position, receipt, chain, trust)
            except MissingEvidenceError as exc:
                self._open("HEADER_NOT_TRUSTED", str(exc))
            except AuditError as exc:
                self.findings.append(failure(Claim.ANCHOR, exc))

    def _verify_receipt(
        self, position: int, receipt: AnchorReceipt, chain: ChainBinding, trust: ChainTrust
    ) -> TrustedAnchor:
        header = parse_header(receipt.header)
        pinned = trust.headers.find(chain.id, header.number)
        if pinned is None:
            raise MissingEvidenceError(f"no trusted header of block {header.number} on chain {chain.id}")
        anchor = verify_receipt(
            receipt,
            contract=chain.contract,
            owner=chain.owner,
            log_id=self._log.log_id,
            block_hash=pinned.hash,
            code_hash=trust.code_hash,
        )
        checkpoint = self._log.checkpoints[position]
        if anchor.record.size != checkpoint.size:
            raise ReceiptMismatch("OTHER_SIZE", f"the chain holds size {anchor.record.size}, not {checkpoint.size}")
        if anchor.record.root != checkpoint.root:
            raise RootMismatch("anchored root", expected=checkpoint.root, computed=anchor.record.root)
        return TrustedAnchor(anchor, pinned.source)

    def match_statements(self) -> None:
        """Find the statements about receipts that are here; each must name the block that its receipt shows."""
        for leaf, statement in self._log.statements(AnchorStatement):
            position = self._log.position(statement.size)
            receipt = None if position is None else self._receipts.get(position)
            if position is None or receipt is None or _digest(receipt) != statement.receipt:
                continue
            trusted = self.anchors.get(position)
            anchor = None if trusted is None else trusted.anchor
            if anchor is not None and (anchor.header.hash, anchor.header.number) != (statement.block, statement.number):
                detail = f"anchor leaf {leaf.index} names another block than the receipt whose digest it holds"
                self._refuse("OTHER_BLOCK", detail)
                anchor = None
            self.stated.append((leaf, anchor))

    def _open(self, reason: str, detail: str) -> None:
        self.findings.append(Finding(Claim.ANCHOR, Status.INDETERMINATE, reason, detail))

    def _refuse(self, reason: str, detail: str) -> None:
        self.findings.append(Finding(Claim.ANCHOR, Status.FAILED, reason, detail))


def _digest(receipt: AnchorReceipt) -> bytes | None:
    """What an anchor statement names the receipt by; None for one that is larger than a receipt can be."""
    try:
        return receipt_digest(receipt)
    except MalformedError:
        return None

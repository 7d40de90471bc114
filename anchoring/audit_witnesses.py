"""What authorities and the chain say of a complete log: every archived token and receipt, under a policy.

One checkpoint's tokens are held at a time, newest first, because a later one can prove an older one that has expired
meanwhile. Reads the archive; what a token or a receipt is worth is for ``times`` and ``receipt``.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

from anchoring.audit_report import AuditFinding, CheckpointStanding, Subject
from anchoring.chain.check import ChainView, fetch_header
from anchoring.policy import Policy
from anchoring.receipt import VerifiedAnchor, verify_receipt
from anchoring.report import format_time, reason_of
from anchoring.storage import AnchorState, StoredAnchor, load_anchors, load_receipt
from anchoring.times import JudgedTokens, judge_tokens, names_all
from anchoring.timestamp import TimestampEvidence
from anchoring.witness import tokens_of
from identity.errors import AuditError, MalformedError, StorageError, TransportError
from identity.verdict import Status
from ledger.checkpoint import imprint_message
from ledger.statement import (
    AnchorStatement,
    FeedHead,
    IdentityHead,
    LogDescriptor,
    TimeStatement,
    log_origin,
    parse_statement,
)
from ledger.storage.sql import SqlReadTransaction
from ledger.store import FeedKey

__all__ = ["Statements", "Witnesses", "read_statements", "standings"]


@dataclass(slots=True)
class Statements:
    """What one pass over the leaves keeps: statements about tokens and anchors, and what a revocation needs.

    ``heads`` are leaf index and length of the stated heads of feeds of revoked devices, ``revocations`` the first leaf
    that shows the revocation, by feed.
    """

    times: dict[int, list[tuple[int, TimeStatement]]] = field(default_factory=dict)
    anchors: list[tuple[int, AnchorStatement]] = field(default_factory=list)
    heads: dict[bytes, list[tuple[int, int]]] = field(default_factory=dict)
    revocations: dict[bytes, int] = field(default_factory=dict)


def read_statements(tx: SqlReadTransaction, size: int, revoked: Mapping[FeedKey, tuple[bytes, int]]) -> Statements:
    """Read the log once. ``revoked``: identity and number of the revoking event, by feed of a revoked device."""
    found = Statements()
    for index, leaf in enumerate(tx.log_leaves(0, size)):
        match parse_statement(leaf):
            case TimeStatement() as statement:
                found.times.setdefault(statement.size, []).append((index, statement))
            case AnchorStatement() as statement:
                found.anchors.append((index, statement))
            case FeedHead(key, length) if FeedKey(key) in revoked:
                found.heads.setdefault(key, []).append((index, length))
            case IdentityHead(identity, seq):
                for feed, (whose, revoking) in revoked.items():
                    if whose == identity and seq >= revoking:
                        found.revocations.setdefault(feed, index)
    return found


class Witnesses:
    """The tokens and receipts of one log. What is wrong with them comes to stand in ``findings``."""

    def __init__(
        self, tx: SqlReadTransaction, descriptor: LogDescriptor, log_id: bytes, policy: Policy, now_ms: int
    ) -> None:
        self._tx = tx
        self._descriptor = descriptor
        self._log_id = log_id
        self._policy = policy
        self._now_ms = now_ms
        self.findings: list[AuditFinding] = []
        self.development: list[str] = []

    # -- receipts ----------------------------------------------------------------------------------------------------

    def verify_receipts(self, view: ChainView | None, stated: Statements) -> dict[int, VerifiedAnchor]:
        """The archived anchors whose receipts verify under a header that the nodes agree on, or the policy pins."""
        anchors: dict[int, VerifiedAnchor] = {}
        unvouched: list[int] = []
        for stored in load_anchors(self._tx.connection, AnchorState.FINAL):
            assert stored.block_number is not None
            block_hash = self._header_hash(view, stored.block_number)
            if block_hash is None:
                unvouched.append(stored.size)
                continue
            verified = self._verify_receipt(stored, block_hash)
            if verified is not None:
                anchors[stored.size] = verified
        if unvouched:
            detail = (
                f"receipts of sizes {', '.join(map(str, unvouched))}: nobody vouches for the headers of their blocks"
            )
            self._find(Subject.ANCHOR, Status.INDETERMINATE, "HEADER_NOT_TRUSTED", detail)
        self._match_statements(stated, anchors)
        return anchors

    def _verify_receipt(self, stored: StoredAnchor, block_hash: bytes) -> VerifiedAnchor | None:
        receipt, chain, size = load_receipt(self._tx.connection, stored), self._descriptor.chain, stored.size
        if receipt is None or chain is None:
            return None  # among the faults of the archive
        try:
            verified = verify_receipt(
                receipt,
                contract=chain.contract,
                owner=chain.owner,
                log_id=self._log_id,
                block_hash=block_hash,
                code_hash=self._policy.chains[chain.id].code_hash,
            )
        except AuditError as exc:
            self._find(Subject.ANCHOR, Status.FAILED, reason_of(exc), f"the receipt of size {size}: {exc}")
            return None
        if (verified.record.size, verified.record.root) != (size, stored.root):
            self._find(Subject.ANCHOR, Status.FAILED, "OTHER_SIZE", f"the receipt of size {size} shows another anchor")
            return None
        return verified

    def _header_hash(self, view: ChainView | None, number: int) -> bytes | None:
        """The hash of a block as the nodes give it now, or else as the policy pins it."""
        chain = self._descriptor.chain
        trust = None if chain is None else self._policy.chains.get(chain.id)
        if trust is None:
            return None
        pinned = trust.headers.find(trust.id, number)
        try:
            if view is not None and view.nodes:
                return fetch_header(view, number).hash
        except (TransportError, StorageError, MalformedError):
            return None if pinned is None else pinned.hash
        return None if pinned is None else pinned.hash

    def _match_statements(self, stated: Statements, anchors: Mapping[int, VerifiedAnchor]) -> None:
        for index, statement in stated.anchors:
            anchor = anchors.get(statement.size)
            if anchor is not None and (anchor.header.hash, anchor.header.number) != (statement.block, statement.number):
                detail = f"leaf {index} names another block for size {statement.size} than its receipt shows"
                self._find(Subject.ANCHOR, Status.FAILED, "OTHER_BLOCK", detail)

    # -- tokens ------------------------------------------------------------------------------------------------------

    def judge_tokens(self, stated: Statements, anchors: Mapping[int, VerifiedAnchor]) -> dict[int, JudgedTokens]:
        """What the tokens of each checkpoint that has any are worth, sizes ascending."""
        judged: dict[int, JudgedTokens] = {}
        renewals = _Renewals()
        blocks = _Blocks(stated, anchors)
        origin = log_origin(self._descriptor, self._log_id)
        for size in reversed([checkpoint.size for checkpoint in self._tx.checkpoints()]):
            timestamps = tokens_of(self._tx.connection, size)
            checkpoint = self._tx.checkpoint(size)
            if not timestamps or checkpoint is None:
                continue
            message = imprint_message(checkpoint.note, origin, self._descriptor.key)
            proven_by_ms = renewals.proven_by_ms(stated, size, timestamps)
            tokens = judge_tokens(timestamps, message, self._policy, self._now_ms, proven_by_ms)
            self.findings += (
                AuditFinding(Subject.TIME, b"", Status.FAILED, found.reason, f"checkpoint {size}: {found.detail}")
                for found in tokens.failed
            )
            self._refuse_contradictions(size, tokens, blocks)
            self.development += [f"timestamps: {one.authority}" for one in tokens.accepted.values() if one.development]
            renewals.add(size, tokens.existence_ms(self._policy.k))
            judged[size] = tokens
        return dict(reversed(judged.items()))

    def _refuse_contradictions(self, size: int, tokens: JudgedTokens, blocks: _Blocks) -> None:
        """A token cannot be older than a block whose anchor stands in the log that it covers."""
        block_ms = blocks.newest_ms(size)
        for token in tokens.accepted.values():
            if block_ms is not None and token.latest_ms < block_ms:
                detail = (
                    f"{token.authority} states {format_time(token.gen_time_ms)} for checkpoint {size}, which already "
                    f"names a block of {format_time(block_ms)}"
                )
                self._find(Subject.TIME, Status.FAILED, "TIME_CONTRADICTION", detail)

    def _find(self, subject: Subject, status: Status, reason: str, detail: str) -> None:
        self.findings.append(AuditFinding(subject, b"", status, reason, detail))


class _Renewals:
    """By when later checkpoints existed, to find what they prove about older tokens. Sizes come in descending."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._earliest_ms: list[int] = []

    def add(self, size: int, existence_ms: int | None) -> None:
        if existence_ms is not None:
            before = self._earliest_ms[-1] if self._earliest_ms else existence_ms
            self._sizes.append(-size)
            self._earliest_ms.append(min(before, existence_ms))

    def proven_by_ms(self, stated: Statements, size: int, timestamps: list[TimestampEvidence]) -> int | None:
        """By when these tokens existed: the earliest of all checkpoints that hold a leaf which names them all."""
        times = [
            self._earliest_ms[place - 1]
            for index, statement in stated.times.get(size, ())
            if names_all(statement, timestamps) and (place := bisect_left(self._sizes, -index))
        ]
        return min(times, default=None)


class _Blocks:
    """The times of the blocks that the log names, by the leaf that names them."""

    def __init__(self, stated: Statements, anchors: Mapping[int, VerifiedAnchor]) -> None:
        self._leaves: list[int] = []
        self._newest_ms: list[int] = []
        for index, statement in stated.anchors:
            anchor = anchors.get(statement.size)
            if anchor is not None:
                newest = self._newest_ms[-1] if self._newest_ms else 0
                self._leaves.append(index)
                self._newest_ms.append(max(newest, anchor.header.timestamp_s * 1000))

    def newest_ms(self, size: int) -> int | None:
        """The newest block named before leaf ``size``, None when there is none."""
        place = bisect_right(self._leaves, size - 1)
        return self._newest_ms[place - 1] if place else None


def standings(
    judged: Mapping[int, JudgedTokens], anchors: Mapping[int, VerifiedAnchor], k: int
) -> tuple[CheckpointStanding, ...]:
    """Since when which sizes existed, and in which block they stand: every checkpoint with a token or an anchor."""
    found = []
    for size in sorted({*judged, *anchors}):
        tokens, anchor = judged.get(size), anchors.get(size)
        found.append(
            CheckpointStanding(
                size=size,
                authorities=() if tokens is None else tuple(one.authority for one in tokens.accepted.values()),
                existed_by_ms=None if tokens is None else tokens.existence_ms(k),
                block=None if anchor is None else anchor.header.number,
                block_ms=None if anchor is None else anchor.header.timestamp_s * 1000,
            )
        )
    return tuple(found)

"""The offline verifier: evidence and a policy in, a report out (docs/spec/evidence.md, section "Verification").

Pure and total: no network, file, clock or randomness, and nothing about the evidence is raised. Whatever is wrong with
it becomes a finding. The steps are numbered as in the specification:

1. read the file;
2. the log: descriptor, notes, consistency, leaves;
3. the feed: manifest, block and upgrade proof, entry;
4. the identity: fold its events to the history of its keys;
5. the place: the logged head that covers the entry;
6. the anchors: headers that the policy trusts, account and storage proofs;
7. the tokens, newest checkpoint first, since a later one can prove an older one that has expired;
8. the identity head: complete, and fresh enough at ``at``;
9. the verdict on the entry, from T and R (DESIGN 3.2 and 3.6);
10. nothing in the file that no step has used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from anchoring.evidence import CheckpointEvidence, Evidence, parse_evidence
from anchoring.policy import Policy
from anchoring.receipt import DEVELOPMENT_CHAIN_ID, VerifiedAnchor, parse_header, receipt_digest, verify_receipt
from anchoring.report import Claim, Finding, Report, format_time
from anchoring.timestamp import Authority, TimestampEvidence, VerifiedToken, match_authority, verify_token
from anchoring.trusted_log import LogView, VerifiedLeaf, verify_log
from identity.errors import (
    AuditError,
    HistoryError,
    ImprintMismatch,
    MalformedError,
    MissingEvidenceError,
    ReceiptMismatch,
    RootMismatch,
    SignatureMismatch,
    TokenRejected,
    TokenUndecided,
)
from identity.history import KeyHistory, fold, parse_signed_event
from identity.textforms import to_did_key, to_hex, to_zbase32
from identity.verdict import Status, judge_entry
from ledger.checkpoint import imprint_message
from ledger.entry import Entry, parse_entry
from ledger.manifest import FeedDescription, describe, device_key, parse_manifest
from ledger.proof import VerifiedProof, parse_evidence_proof, verify_proof
from ledger.statement import AnchorStatement, FeedHead, IdentityHead, TimeStatement, log_origin
from ledger.values import to_plain

__all__ = ["verify_evidence"]


def verify_evidence(data: bytes, policy: Policy, at_ms: int) -> Report:
    """Verify an evidence file as of ``at_ms`` (milliseconds UTC) under ``policy``."""
    return _Verification(policy, at_ms).run(data)


@dataclass(frozen=True, slots=True)
class _Feed:
    """The verified feed part: whose feed it is, and what the proof shows."""

    description: FeedDescription
    device: bytes
    proof: VerifiedProof


class _Verification:
    """One verification in progress. Each step records findings and keeps what later steps may rely on."""

    def __init__(self, policy: Policy, at_ms: int) -> None:
        self._policy = policy
        self._at_ms = at_ms
        self._findings: list[Finding] = []
        self._facts: dict[str, Any] = {}
        self._development: list[str] = []
        self._used_leaves: set[int] = set()
        # Positions of checkpoints whose tokens serve a finding; those on the first one always do.
        self._used_tokens: set[int] = {0}
        # By position of the checkpoint.
        self._tokens: dict[int, dict[Authority, VerifiedToken]] = {}
        self._anchors: dict[int, VerifiedAnchor] = {}

    def run(self, data: bytes) -> Report:
        try:
            evidence = parse_evidence(data)
        except MalformedError as exc:
            self._fail(Claim.INTEGRITY, exc)
            return self._report()
        log = self._verify_log(evidence)
        feed = self._verify_feed(evidence)
        history = self._verify_identity(evidence, feed)
        if log is not None:
            self._judge_log(log, history)
            head = self._verify_place(log, feed)
            self._verify_anchors(log, evidence.checkpoints, head)
            self._verify_tokens(log, evidence.checkpoints)
            self._judge_time(head)
            self._verify_identity_head(log, history)
            if feed is not None and history is not None:
                self._judge_origin(log, feed, history, head)
                self._refuse_unused(log, evidence.checkpoints, feed, history, head)
        return self._report()

    def _report(self) -> Report:
        return Report(
            at_ms=self._at_ms,
            required=self._policy.require,
            findings=tuple(self._findings),
            facts=self._facts,
            development=tuple(dict.fromkeys(self._development)),
        )

    # Steps 2 to 4: the three signed structures, each on its own.

    def _verify_log(self, evidence: Evidence) -> LogView | None:
        try:
            log = verify_log(evidence.descriptor, evidence.checkpoints)
        except AuditError as exc:
            self._fail(Claim.LOG, exc)
            return None
        self._facts["log"] = to_hex(log.log_id)
        return log

    def _verify_feed(self, evidence: Evidence) -> _Feed | None:
        try:
            manifest = parse_manifest(evidence.manifest)
            description = describe(manifest)
            if description is None:
                raise MalformedError("the feed's manifest does not describe a holdfast feed")
            proof = verify_proof(manifest, parse_evidence_proof(evidence.proof))
            entry = parse_entry(proof.block)
        except AuditError as exc:
            self._fail(Claim.INTEGRITY, exc)
            return None
        self._facts["feed"] = to_zbase32(proof.head.feed_key)
        self._facts["feed_name"] = description.name
        self._facts["index"] = proof.index
        self._facts["entry"] = _entry_facts(entry)
        self._pass(
            Claim.INTEGRITY,
            f"entry {proof.index} of feed {description.name!r}, under the signed head of length {proof.head.length}",
        )
        return _Feed(description, device_key(manifest), proof)

    def _verify_identity(self, evidence: Evidence, feed: _Feed | None) -> KeyHistory | None:
        try:
            history = fold([parse_signed_event(event) for event in evidence.events])
        except AuditError as exc:
            self._fail(Claim.ORIGIN, exc)
            return None
        if feed is not None and feed.description.identity != history.identity:
            self._find(
                Claim.ORIGIN, Status.FAILED, "OTHER_IDENTITY", "the feed belongs to another identity than the events"
            )
            return None
        self._facts["identity"] = to_hex(history.identity)
        self._facts["identity_label"] = history.label
        if history.identity not in self._policy.identities:
            self._open(Claim.ORIGIN, "UNKNOWN_IDENTITY", f"the policy does not name {to_hex(history.identity)}")
        return history

    def _judge_log(self, log: LogView, history: KeyHistory | None) -> None:
        origin = log_origin(log.descriptor, log.log_id)
        if history is not None and log.log_id not in history.logs:
            self._find(Claim.LOG, Status.FAILED, "LOG_NOT_BOUND", f"no event of the identity names the log {origin}")
        if log.log_id not in self._policy.logs:
            self._open(Claim.LOG, "UNKNOWN_LOG", f"the policy does not name {origin}")

    # Step 5.

    def _verify_place(self, log: LogView, feed: _Feed | None) -> VerifiedLeaf | None:
        """The feed head under the first checkpoint that the proof leads to. Other feed heads stay unused.

        A proof leads from its block to trees that hold the block, so a head that it leads to covers the entry.
        """
        if feed is None:
            return None
        for leaf, head in log.statements(FeedHead):
            shown = feed.proof.trees.get(head.length)
            if leaf.checkpoint == 0 and head.key == feed.proof.head.feed_key and shown is not None:
                self._used_leaves.add(leaf.index)
                if shown != head.tree_hash:
                    self._find(
                        Claim.LOG,
                        Status.FAILED,
                        "OTHER_HISTORY",
                        f"the log holds another tree of length {head.length} than the one the entry is in",
                    )
                    return None
                size = log.checkpoints[0].size
                self._pass(Claim.LOG, f"leaf {leaf.index} of checkpoint {size}: head of length {head.length}")
                return leaf
        self._open(Claim.LOG, "HEAD_NOT_LOGGED", "the first checkpoint shows no head of the feed that covers the entry")
        return None

    # Step 6.

    def _verify_anchors(self, log: LogView, checkpoints: tuple[CheckpointEvidence, ...]) -> None:
        chain = log.descriptor.chain
        offered = [position for position, checkpoint in enumerate(checkpoints) if checkpoint.anchor is not None]
        if chain is None:
            reason = "NO_CHAIN" if not offered else "UNREFERENCED"
            self._open(Claim.ANCHOR, reason, "the log's descriptor names no chain")
            return
        trust = self._policy.chains.get(chain.id)
        if trust is None:
            self._open(Claim.ANCHOR, "UNKNOWN_CHAIN", f"the policy does not name chain {chain.id}")
            return
        if chain.id == DEVELOPMENT_CHAIN_ID:
            self._development.append(f"chain {chain.id}: the embedded development chain")
        if not offered:
            self._open(Claim.ANCHOR, "NOT_ANCHORED", "no checkpoint in the evidence carries a final anchor")
        for position in offered:
            receipt = checkpoints[position].anchor
            assert receipt is not None
            try:
                header = parse_header(receipt.header)
                pinned = trust.headers.find(chain.id, header.number)
                if pinned is None:
                    raise MissingEvidenceError(f"no trusted header of block {header.number} on chain {chain.id}")
                anchor = verify_receipt(
                    receipt,
                    contract=chain.contract,
                    owner=chain.owner,
                    log_id=log.log_id,
                    block_hash=pinned.hash,
                    code_hash=trust.code_hash,
                )
                _match_anchor(anchor, log, position)
            except MissingEvidenceError as exc:
                self._open(Claim.ANCHOR, "HEADER_NOT_TRUSTED", str(exc))
            except AuditError as exc:
                self._fail(Claim.ANCHOR, exc)
            else:
                self._accept_anchor(anchor, log, position, pinned.source)

    def _accept_anchor(self, anchor: VerifiedAnchor, log: LogView, position: int, source: str) -> None:
        self._anchors[position] = anchor
        block_ms = anchor.header.timestamp_s * 1000
        self._facts["anchor"] = {"block": anchor.header.number, "hash": to_hex(anchor.header.hash), "time": block_ms}
        closed = "; the log is closed on chain" if anchor.record.closed else ""
        self._pass(
            Claim.ANCHOR,
            f"checkpoint {log.checkpoints[position].size} stands in block {anchor.header.number} of "
            f"{format_time(block_ms)}, header vouched for by {source}{closed}",
        )

    # Step 7.

    def _verify_tokens(self, log: LogView, checkpoints: tuple[CheckpointEvidence, ...]) -> None:
        origin = log_origin(log.descriptor, log.log_id)
        for position in reversed(range(len(checkpoints))):
            self._tokens[position] = {}
            message = imprint_message(checkpoints[position].note, origin, log.descriptor.key)
            proven_by_ms = self._renewed_by(log, position, checkpoints[position].timestamps)
            for timestamp in checkpoints[position].timestamps:
                self._verify_token(position, timestamp, message, proven_by_ms)
        self._refuse_contradictions(log, checkpoints)

    def _verify_token(
        self, position: int, timestamp: TimestampEvidence, message: bytes, proven_by_ms: int | None
    ) -> None:
        try:
            authority = match_authority(timestamp, self._policy.authorities)
            if authority is None:
                self._open(
                    Claim.TIME, "UNKNOWN_AUTHORITY", "a token is from an authority that the policy does not name"
                )
                return
            token = verify_token(timestamp, message, authority, at_ms=self._at_ms, proven_by_ms=proven_by_ms)
        except TokenUndecided as exc:
            self._open(Claim.TIME, exc.reason, str(exc))
            return
        except AuditError as exc:
            self._fail(Claim.TIME, exc)
            return
        if authority.root in self._tokens[position]:
            self._find(Claim.TIME, Status.FAILED, "UNREFERENCED", f"two tokens of {token.authority} on one checkpoint")
            return
        self._tokens[position][authority.root] = token
        if token.development:
            self._development.append(f"timestamps: {token.authority}")

    def _renewed_by(self, log: LogView, position: int, timestamps: tuple[TimestampEvidence, ...]) -> int | None:
        """When the tokens on a checkpoint provably existed: by the tokens on a later one that logs their digests."""
        size = log.checkpoints[position].size
        times = [
            existence
            for leaf, statement in log.statements(TimeStatement)
            if statement.size == size and leaf.checkpoint > position and _names_all(statement, timestamps)
            if (existence := self._existence_ms(leaf.checkpoint)) is not None
        ]
        return min(times, default=None)

    def _existence_ms(self, position: int) -> int | None:
        """T of a checkpoint: the k-th smallest (genTime + accuracy) over distinct authorities, or None."""
        times = sorted(token.latest_ms for token in self._tokens[position].values())
        return times[self._policy.k - 1] if len(times) >= self._policy.k else None

    def _refuse_contradictions(self, log: LogView, checkpoints: tuple[CheckpointEvidence, ...]) -> None:
        """A token cannot be older than a block whose anchor stands in the log that it covers (DESIGN 3.6)."""
        for leaf, statement in log.statements(AnchorStatement):
            position = log.position(statement.size)
            anchor = None if position is None else self._anchors.get(position)
            if position is None or anchor is None or anchor.header.hash != statement.block:
                continue
            receipt = checkpoints[position].anchor
            assert receipt is not None
            if receipt_digest(receipt) != statement.receipt or anchor.header.number != statement.number:
                continue
            self._used_leaves.add(leaf.index)
            block_ms = anchor.header.timestamp_s * 1000
            for later, tokens in self._tokens.items():
                for token in tokens.values():
                    if log.checkpoints[later].size > leaf.index and token.latest_ms < block_ms:
                        self._find(
                            Claim.TIME,
                            Status.FAILED,
                            "TIME_CONTRADICTION",
                            f"{token.authority} states {format_time(token.gen_time_ms)} for a checkpoint that already "
                            f"names block {anchor.header.number} of {format_time(block_ms)}",
                        )

    def _judge_time(self, head: VerifiedLeaf | None) -> None:
        proven_ms = self._existence_ms(0)
        if proven_ms is None:
            count, k = len(self._tokens[0]), self._policy.k
            reason = "NOT_ENOUGH_AUTHORITIES" if count else "NO_TIMESTAMP"
            self._open(Claim.TIME, reason, f"{count} of the {k} authorities that the policy asks for")
            return
        if head is None:
            self._open(Claim.TIME, "HEAD_NOT_LOGGED", "the timestamped checkpoint is not shown to cover the entry")
            return
        if proven_ms > self._at_ms:
            self._open(
                Claim.TIME, "NOT_YET_PROVEN", f"proven only by {format_time(proven_ms)}, after the time asked for"
            )
            return
        self._facts["existed_by"] = proven_ms
        names = ", ".join(token.authority for token in self._tokens[0].values())
        self._pass(Claim.TIME, f"existed by {format_time(proven_ms)}, according to {names}")

    # Step 8.

    def _verify_identity_head(self, log: LogView, history: KeyHistory | None) -> None:
        """The newest identity head shown must be the one the events lead to, and fresh."""
        if history is None:
            return
        digests = {seq: digest for seq, digest, _ in history.events}
        newest: tuple[VerifiedLeaf, IdentityHead] | None = None
        for leaf, head in log.statements(IdentityHead):
            if head.identity != history.identity:
                continue
            if head.seq > history.seq:
                self._find(
                    Claim.ORIGIN,
                    Status.FAILED,
                    "EVENTS_TRUNCATED",
                    f"the log knows identity event {head.seq}, the evidence ends at {history.seq}",
                )
                return
            if digests.get(head.seq) != head.digest or (newest is not None and head.seq < newest[1].seq):
                self._find(
                    Claim.ORIGIN,
                    Status.FAILED,
                    "OTHER_EVENTS",
                    f"leaf {leaf.index} names another identity event {head.seq} than the evidence",
                )
                return
            newest = leaf, head
        if newest is None or newest[1].seq < history.seq:
            self._open(Claim.ORIGIN, "NO_FRESH_IDENTITY", "the log does not show the newest of the identity's events")
            return
        leaf, head = newest
        self._used_leaves.add(leaf.index)
        self._facts["identity_head"] = {"seq": head.seq, "leaf": leaf.index}
        self._judge_freshness(log, leaf, head)

    def _judge_freshness(self, log: LogView, leaf: VerifiedLeaf, head: IdentityHead) -> None:
        not_before = self._not_before_ms(log, leaf)
        if not_before is None:
            self._open(
                Claim.ORIGIN, "NO_FRESH_IDENTITY", f"nothing shows since when identity head {head.seq} is newest"
            )
            return
        self._facts["identity_not_before"] = not_before
        if self._at_ms - not_before > self._policy.max_identity_age_ms:
            self._open(
                Claim.ORIGIN,
                "NO_FRESH_IDENTITY",
                f"identity head {head.seq} is only known to be later than {format_time(not_before)}, "
                "which is older than the policy allows",
            )
            return
        self._pass(Claim.ORIGIN, f"as of identity head {head.seq}, made after {format_time(not_before)}")

    def _not_before_ms(self, log: LogView, identity_leaf: VerifiedLeaf) -> int | None:
        """The latest trusted genTime whose ``time`` leaf precedes the identity leaf."""
        times = []
        for leaf, statement in log.statements(TimeStatement):
            position = log.position(statement.size)
            if position is not None and leaf.index < identity_leaf.index:
                times += [token.earliest_ms for token in self._tokens[position].values()]
        return max(times, default=None)

    # Step 9.

    def _judge_origin(
        self,
        log: LogView,
        feed: _Feed,
        history: KeyHistory,
        head: VerifiedLeaf | None,
    ) -> None:
        device = history.devices.get(feed.device)
        proven_ms = self._existence_ms(0) if head is not None else None
        revoked_ms, logged_before = self._revocation_time(log, history, feed.device)
        verdict = judge_entry(
            history,
            feed.device,
            feed.proof.head.feed_key,
            feed.proof.index,
            feed.proof.trees,
            proven_before_ms=proven_ms,
            revoked_before_ms=revoked_ms,
            logged_before_revocation=logged_before,
        )
        self._facts["device"] = to_did_key(feed.device)
        if device is not None:
            self._facts["device_name"] = device.name
        self._find(Claim.ORIGIN, verdict.status, verdict.reason, verdict.detail)

    def _revocation_time(self, log: LogView, history: KeyHistory, key: bytes) -> tuple[int | None, bool]:
        """R, and whether T's checkpoint is smaller than the leaf that first shows the revocation."""
        device = history.devices.get(key)
        if device is None or device.revocation is None:
            return None, False
        for leaf, head in log.statements(IdentityHead):
            if head.identity == history.identity and head.seq >= device.revocation.seq:
                self._used_leaves.add(leaf.index)
                self._used_tokens.add(leaf.checkpoint)
                times = [token.earliest_ms for token in self._tokens[leaf.checkpoint].values()]
                return min(times, default=None), log.checkpoints[0].size <= leaf.index
        return None, False

    # Step 10.

    def _refuse_unused(self, log: LogView, checkpoints: tuple[CheckpointEvidence, ...]) -> None:
        for leaf, statement in log.statements(TimeStatement):
            position = log.position(statement.size)
            if position is None or not checkpoints[position].timestamps:
                continue
            if not _names_all(statement, checkpoints[position].timestamps):
                self._find(
                    Claim.TIME,
                    Status.FAILED,
                    "OTHER_TOKENS",
                    f"time leaf {leaf.index} names other tokens for checkpoint {statement.size} than the evidence",
                )
            self._used_leaves.add(leaf.index)
            self._used_tokens |= {position, leaf.checkpoint}
        for leaf in log.leaves:
            if leaf.index not in self._used_leaves:
                self._find(Claim.LOG, Status.FAILED, "UNREFERENCED", f"no finding needs log leaf {leaf.index}")
        for position, checkpoint in enumerate(checkpoints):
            if checkpoint.timestamps and position not in self._used_tokens:
                self._find(
                    Claim.TIME, Status.FAILED, "UNREFERENCED", f"no finding needs the tokens on checkpoint {position}"
                )
            if position and not (checkpoint.leaves or checkpoint.timestamps or checkpoint.anchor):
                self._find(Claim.LOG, Status.FAILED, "UNREFERENCED", f"no finding needs checkpoint {position}")

    # Findings.

    def _find(self, claim: Claim, status: Status, reason: str, detail: str) -> None:
        self._findings.append(Finding(claim, status, reason, detail))

    def _pass(self, claim: Claim, detail: str) -> None:
        self._find(claim, Status.PASSED, "OK", detail)

    def _open(self, claim: Claim, reason: str, detail: str) -> None:
        self._find(claim, Status.INDETERMINATE, reason, detail)

    def _fail(self, claim: Claim, error: AuditError) -> None:
        self._find(claim, Status.FAILED, _reason(error), str(error))


def _match_anchor(anchor: VerifiedAnchor, log: LogView, position: int) -> None:
    checkpoint = log.checkpoints[position]
    if anchor.record.size != checkpoint.size:
        raise ReceiptMismatch("OTHER_SIZE", f"the chain holds size {anchor.record.size}, not {checkpoint.size}")
    if anchor.record.root != checkpoint.root:
        raise RootMismatch("anchored root", expected=checkpoint.root, computed=anchor.record.root)


def _names_all(statement: TimeStatement, timestamps: tuple[TimestampEvidence, ...]) -> bool:
    """True when the time leaf names the digest of every token and of everything that came with it."""
    return all(
        {sha256(item).digest() for item in items} <= set(digests)
        for timestamp in timestamps
        for items, digests in (
            ((timestamp.response,), statement.responses),
            (timestamp.certificates, statement.certificates),
            (timestamp.crls, statement.crls),
            (timestamp.ocsps, statement.ocsps),
        )
    )


def _entry_facts(entry: Entry) -> Mapping[str, Any]:
    return {"kind": entry.kind, "claimed": entry.claimed_ms, "body": to_plain(entry.body)}


def _reason(error: AuditError) -> str:
    if isinstance(error, (TokenRejected, ReceiptMismatch)):
        return error.reason
    if isinstance(error, MalformedError):
        return "MALFORMED"
    if isinstance(error, SignatureMismatch):
        return "SIGNATURE"
    if isinstance(error, RootMismatch):
        return "ROOT"
    if isinstance(error, HistoryError):
        return "IDENTITY_EVENT"
    if isinstance(error, ImprintMismatch):
        return "IMPRINT"
    return "REFUSED"

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
9. the verdict on the entry, from T and R (docs/spec/identity.md, section "Verdict");
10. nothing in the file that no step has used.

Steps 2, 6, 7 and 10 have modules of their own (``trusted_log``, ``anchors``, ``times``, ``usage``); here they meet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anchoring.anchors import CheckpointAnchors, verify_anchors
from anchoring.evidence import CheckpointEvidence, Evidence, parse_evidence
from anchoring.policy import Policy
from anchoring.receipt import VerifiedAnchor
from anchoring.report import Claim, Finding, Report, failure, format_time
from anchoring.times import CheckpointTimes, verify_times
from anchoring.trusted_log import LogView, VerifiedLeaf, verify_log
from anchoring.usage import Usage, find_unused_trees
from identity.errors import AuditError, MalformedError
from identity.history import KeyHistory, fold, parse_signed_event
from identity.textforms import to_did_key, to_hex, to_zbase32
from identity.verdict import Status, judge_entry
from ledger.entry import Entry, parse_entry
from ledger.manifest import FeedDescription, describe, device_key, parse_manifest
from ledger.proof import parse_evidence_proof
from ledger.proof_checking import VerifiedProof, verify_proof
from ledger.statement import FeedHead, IdentityHead, TimeStatement, log_origin
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
        self._usage = Usage()

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
            anchors = self._verify_anchors(log, evidence.checkpoints, head)
            times = self._verify_times(log, evidence.checkpoints)
            self._refuse_contradictions(log, times, anchors)
            self._judge_time(times, head)
            self._verify_identity_head(log, times, history)
            if feed is not None and history is not None:
                self._judge_origin(log, times, feed, history, head)
                self._refuse_unused(log, times, evidence, feed, history, head)
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
        if (older := log.descriptor.predecessor) is not None:
            self._facts["predecessor"] = {"log": to_hex(older.log), "size": older.size, "root": to_hex(older.root)}
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
                self._usage.use_leaf(leaf.index)
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

    def _verify_anchors(
        self, log: LogView, checkpoints: tuple[CheckpointEvidence, ...], head: VerifiedLeaf | None
    ) -> CheckpointAnchors:
        anchors = verify_anchors(log, checkpoints, self._policy)
        self._findings += anchors.findings
        self._development += anchors.development
        for leaf, _ in anchors.stated:
            self._usage.use_leaf(leaf.index)
        for position, trusted in anchors.by_position.items():
            self._accept_anchor(trusted.anchor, log.checkpoints[position].size, head, trusted.source)
        return anchors

    def _accept_anchor(self, anchor: VerifiedAnchor, size: int, head: VerifiedLeaf | None, source: str) -> None:
        if head is None:
            self._open(Claim.ANCHOR, "HEAD_NOT_LOGGED", "the anchored checkpoint is not shown to cover the entry")
            return
        block_ms = anchor.header.timestamp_s * 1000
        self._facts["anchor"] = {"block": anchor.header.number, "hash": to_hex(anchor.header.hash), "time": block_ms}
        closed = "; the log is closed on chain" if anchor.record.closed else ""
        self._pass(
            Claim.ANCHOR,
            f"checkpoint {size} stands in block {anchor.header.number} of {format_time(block_ms)}, "
            f"header vouched for by {source}{closed}",
        )

    # Step 7.

    def _verify_times(self, log: LogView, checkpoints: tuple[CheckpointEvidence, ...]) -> CheckpointTimes:
        times = verify_times(log, checkpoints, self._policy, self._at_ms)
        self._findings += times.findings
        tokens = [token for position in range(len(checkpoints)) for token in times.tokens(position)]
        self._development += [f"timestamps: {token.authority}" for token in tokens if token.development]
        return times

    def _refuse_contradictions(self, log: LogView, times: CheckpointTimes, anchors: CheckpointAnchors) -> None:
        """A token cannot be older than a block whose anchor stands in the log that it covers."""
        for leaf, anchor in anchors.stated:
            if anchor is None:
                continue
            block_ms = anchor.header.timestamp_s * 1000
            covering = [number for number, checkpoint in enumerate(log.checkpoints) if checkpoint.size > leaf.index]
            for token in (token for number in covering for token in times.tokens(number)):
                if token.latest_ms < block_ms:
                    self._find(
                        Claim.TIME,
                        Status.FAILED,
                        "TIME_CONTRADICTION",
                        f"{token.authority} states {format_time(token.gen_time_ms)} for a checkpoint that already "
                        f"names block {anchor.header.number} of {format_time(block_ms)}",
                    )

    def _judge_time(self, times: CheckpointTimes, head: VerifiedLeaf | None) -> None:
        proven_ms = times.existence_ms(0)
        if proven_ms is None:
            count, k = times.authorities(0), self._policy.k
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
        names = ", ".join(token.authority for token in times.tokens(0))
        left_out = ", ".join(times.left_out(0))
        detail = f"existed by {format_time(proven_ms)}, according to {names}"
        self._pass(Claim.TIME, f"{detail}; tokens that do not count: {left_out}" if left_out else detail)

    # Step 8.

    def _verify_identity_head(self, log: LogView, times: CheckpointTimes, history: KeyHistory | None) -> None:
        """The newest identity head shown must be the one the events lead to, and fresh."""
        if history is None:
            return
        shown = [(leaf, head) for leaf, head in log.statements(IdentityHead) if head.identity == history.identity]
        digests = {seq: digest for seq, digest, _ in history.events}
        newest = -1
        for leaf, head in shown:
            if head.seq > history.seq:
                self._find(
                    Claim.ORIGIN,
                    Status.FAILED,
                    "EVENTS_TRUNCATED",
                    f"the log knows identity event {head.seq}, the evidence ends at {history.seq}",
                )
                return
            if digests[head.seq] != head.digest or head.seq < newest:
                self._find(
                    Claim.ORIGIN,
                    Status.FAILED,
                    "OTHER_EVENTS",
                    f"leaf {leaf.index} names another identity event {head.seq} than the evidence",
                )
                return
            newest = head.seq
        if shown:
            self._usage.use_identity_leaf(shown[-1][0].index)
        if newest < history.seq:
            self._open(Claim.ORIGIN, "NO_FRESH_IDENTITY", "the log does not show the newest of the identity's events")
            return
        leaf, head = shown[-1]
        self._facts["identity_head"] = {"seq": head.seq, "leaf": leaf.index}
        self._judge_freshness(log, times, leaf, head)

    def _judge_freshness(self, log: LogView, times: CheckpointTimes, leaf: VerifiedLeaf, head: IdentityHead) -> None:
        if log.log_id not in self._policy.logs:
            self._open(Claim.ORIGIN, "NO_FRESH_IDENTITY", "the identity head is in a log that the policy does not name")
            return
        not_before = _fresh_since_ms(log, times, leaf)
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

    # Step 9.

    def _judge_origin(
        self,
        log: LogView,
        times: CheckpointTimes,
        feed: _Feed,
        history: KeyHistory,
        head: VerifiedLeaf | None,
    ) -> None:
        device = history.devices.get(feed.device)
        proven_ms = times.existence_ms(0) if head is not None else None
        revoked_ms, logged_before = self._revocation_time(log, times, history, feed.device)
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

    def _revocation_time(
        self, log: LogView, times: CheckpointTimes, history: KeyHistory, key: bytes
    ) -> tuple[int | None, bool]:
        """R, and whether T's checkpoint is smaller than the leaf that first shows the revocation."""
        device = history.devices.get(key)
        if device is None or device.revocation is None:
            return None, False
        for leaf, head in log.statements(IdentityHead):
            if head.identity == history.identity and head.seq >= device.revocation.seq:
                self._usage.use_leaf(leaf.index)
                logged_before = log.checkpoints[0].size <= leaf.index
                position = min((number for number in times.stamped if number >= leaf.checkpoint), default=None)
                if position is None:
                    return None, logged_before
                self._usage.use_tokens(position)
                return times.earliest_ms(position), logged_before
        return None, False

    # Step 10.

    def _refuse_unused(
        self,
        log: LogView,
        times: CheckpointTimes,
        evidence: Evidence,
        feed: _Feed,
        history: KeyHistory,
        head: VerifiedLeaf | None,
    ) -> None:
        if any(finding.status is Status.FAILED for finding in self._findings):
            return  # what is left over may belong to what failed, and there is nothing to add
        self._findings += self._usage.find_unused(log, times, evidence.checkpoints)
        if head is not None:
            assert isinstance(head.statement, FeedHead)
            device = history.devices.get(feed.device)
            self._findings += find_unused_trees(feed.proof, head.statement.length, device)

    # Findings.

    def _find(self, claim: Claim, status: Status, reason: str, detail: str) -> None:
        self._findings.append(Finding(claim, status, reason, detail))

    def _pass(self, claim: Claim, detail: str) -> None:
        self._find(claim, Status.PASSED, "OK", detail)

    def _open(self, claim: Claim, reason: str, detail: str) -> None:
        self._find(claim, Status.INDETERMINATE, reason, detail)

    def _fail(self, claim: Claim, error: AuditError) -> None:
        self._findings.append(failure(claim, error))


def _fresh_since_ms(log: LogView, times: CheckpointTimes, identity_leaf: VerifiedLeaf) -> int | None:
    """The latest time of a checkpoint whose tokens stand in the log before the identity leaf."""
    found = [
        time_ms
        for leaf, statement in log.statements(TimeStatement)
        if leaf.index < identity_leaf.index
        and (position := log.position(statement.size)) is not None
        and (time_ms := times.not_before_ms(position)) is not None
    ]
    return max(found, default=None)


def _entry_facts(entry: Entry) -> Mapping[str, Any]:
    return {"kind": entry.kind, "claimed": entry.claimed_ms, "body": to_plain(entry.body)}

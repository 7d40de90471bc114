"""What the tokens in evidence prove about when its checkpoints existed (docs/spec/evidence.md, step 7).

``verify_times`` verifies every token, from the last checkpoint to the first, because a later one can prove an older one
that has expired meanwhile. It raises nothing: what is wrong with a token is a finding, and a token with a finding does
not count. The bounds that the verifier asks for come from the ``k`` authorities that the policy demands, so that fewer
than k that lie can move none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from anchoring.evidence import CheckpointEvidence
from anchoring.policy import Policy
from anchoring.report import Claim, Finding, failure
from anchoring.timestamp import Authority, TimestampEvidence, VerifiedToken, match_authority, verify_token
from anchoring.timestamp.independence import group_independent
from anchoring.trusted_log import LogView
from identity.errors import AuditError, TokenUndecided
from identity.verdict import Status
from ledger.checkpoint import imprint_message
from ledger.statement import TimeStatement, log_origin

__all__ = ["CheckpointTimes", "JudgedTokens", "judge_tokens", "names_all", "verify_times"]

Tokens = dict[Authority, VerifiedToken]


@dataclass(frozen=True, slots=True)
class JudgedTokens:
    """The tokens on one checkpoint: those that count, by authority, and what was found about the others."""

    accepted: Mapping[Authority, VerifiedToken]
    failed: tuple[Finding, ...]
    undecided: tuple[Finding, ...]

    @property
    def authorities(self) -> int:
        """How many distinct authorities state a time for the checkpoint."""
        return len(_independent(self.accepted))

    def existence_ms(self, k: int) -> int | None:
        """By when k authorities say that the checkpoint existed: the k-th smallest (genTime + accuracy), if k do."""
        return _existence_ms(self.accepted, k)

    def earliest_ms(self) -> int | None:
        """The earliest (genTime - accuracy) on the checkpoint, None without a token."""
        return min((token.earliest_ms for token in self.accepted.values()), default=None)


def judge_tokens(
    timestamps: Sequence[TimestampEvidence], message: bytes, policy: Policy, at_ms: int, proven_by_ms: int | None
) -> JudgedTokens:
    """Verify the tokens on one checkpoint, whose imprint is that of ``message``, as of ``at_ms``.

    ``proven_by_ms``: by when something else proves that they existed, None when nothing does.
    """
    accepted: Tokens = {}
    failed: list[Finding] = []
    undecided: list[Finding] = []
    for timestamp in timestamps:
        try:
            authority = match_authority(timestamp, policy.authorities)
            if authority is None:
                detail = "a token is from an authority that the policy does not name"
                undecided.append(Finding(Claim.TIME, Status.INDETERMINATE, "UNKNOWN_AUTHORITY", detail))
                continue
            token = verify_token(timestamp, message, authority, at_ms=at_ms, proven_by_ms=proven_by_ms)
        except TokenUndecided as exc:
            undecided.append(Finding(Claim.TIME, Status.INDETERMINATE, exc.reason, str(exc)))
            continue
        except AuditError as exc:
            failed.append(failure(Claim.TIME, exc))
            continue
        if authority in accepted:
            detail = f"two tokens of {token.authority} on one checkpoint"
            failed.append(Finding(Claim.TIME, Status.FAILED, "UNREFERENCED", detail))
            continue
        accepted[authority] = token
    return JudgedTokens(accepted, tuple(failed), tuple(undecided))


class CheckpointTimes:
    """The tokens that count, for each checkpoint by its position in the evidence, and what was found about the rest."""

    def __init__(
        self,
        tokens: Mapping[int, Tokens],
        stamped: frozenset[int],
        findings: Sequence[Finding],
        left_out: Mapping[int, Sequence[Finding]],
        k: int,
    ) -> None:
        """``stamped`` are the positions that carry any token, whether it counts or not."""
        self._tokens = tokens
        self._k = k
        self.stamped = stamped
        self.findings = tuple(findings)
        self._left_out = left_out

    def left_out(self, position: int) -> tuple[str, ...]:
        """Why tokens on the checkpoint do not count, where enough others do."""
        return tuple(finding.reason for finding in self._left_out[position])

    def tokens(self, position: int) -> tuple[VerifiedToken, ...]:
        """The tokens that count on the checkpoint."""
        return tuple(self._tokens[position].values())

    def authorities(self, position: int) -> int:
        """How many distinct authorities state a time for the checkpoint."""
        return len(_independent(self._tokens[position]))

    def existence_ms(self, position: int) -> int | None:
        """By when k authorities say that the checkpoint existed: the k-th smallest (genTime + accuracy), if k do."""
        return _existence_ms(self._tokens[position], self._k)

    def not_before_ms(self, position: int) -> int | None:
        """When k authorities say that they saw the checkpoint: the k-th largest (genTime - accuracy), if k do.

        What was made with these tokens at hand is later than this.
        """
        groups = _independent(self._tokens[position])
        times = sorted((max(token.earliest_ms for token in tokens) for tokens in groups), reverse=True)
        return times[self._k - 1] if len(times) >= self._k else None

    def earliest_ms(self, position: int) -> int | None:
        """The earliest (genTime - accuracy) on the checkpoint, None without a token."""
        return min((token.earliest_ms for token in self.tokens(position)), default=None)


def verify_times(
    log: LogView, checkpoints: Sequence[CheckpointEvidence], policy: Policy, at_ms: int
) -> CheckpointTimes:
    """Verify every token of the evidence as of ``at_ms``, and that the log's time leaves speak of these tokens."""
    verifying = _Verification(log, checkpoints, policy, at_ms)
    for position in reversed(range(len(checkpoints))):
        verifying.verify_checkpoint(position)
    verifying.refuse_other_tokens()
    stamped = frozenset(position for position, checkpoint in enumerate(checkpoints) if checkpoint.timestamps)
    return CheckpointTimes(verifying.tokens, stamped, verifying.findings, verifying.left_out, policy.k)


class _Verification:
    """One verification in progress."""

    def __init__(self, log: LogView, checkpoints: Sequence[CheckpointEvidence], policy: Policy, at_ms: int) -> None:
        self._log = log
        self._checkpoints = checkpoints
        self._policy = policy
        self._at_ms = at_ms
        self.tokens: dict[int, Tokens] = {}
        self.findings: list[Finding] = []
        self.left_out: dict[int, list[Finding]] = {}

    def verify_checkpoint(self, position: int) -> None:
        checkpoint = self._checkpoints[position]
        origin = log_origin(self._log.descriptor, self._log.log_id)
        message = imprint_message(checkpoint.note, origin, self._log.descriptor.key)
        proven_by_ms = self._renewed_by(position)
        judged = judge_tokens(checkpoint.timestamps, message, self._policy, self._at_ms, proven_by_ms)
        self.tokens[position] = dict(judged.accepted)
        self.findings += judged.failed
        # Nothing rests on an undecided token where k others count: of a pool, some authorities are unknown to some
        # readers, and some certificates end before others. Where too few count, it is what is missing.
        enough = judged.existence_ms(self._policy.k) is not None
        self.left_out[position] = list(judged.undecided) if enough else []
        self.findings += () if enough else judged.undecided

    def _renewed_by(self, position: int) -> int | None:
        """When the tokens on a checkpoint provably existed: by the tokens on a later one that logs their digests."""
        size = self._log.checkpoints[position].size
        timestamps = self._checkpoints[position].timestamps
        # The leaf stands under the first checkpoint here that covers it; each later one covers it too.
        times = [
            existence
            for leaf, statement in self._log.statements(TimeStatement)
            if statement.size == size and names_all(statement, timestamps)
            for later in range(max(leaf.checkpoint, position + 1), len(self._checkpoints))
            if (existence := _existence_ms(self.tokens[later], self._policy.k)) is not None
        ]
        return min(times, default=None)

    def refuse_other_tokens(self) -> None:
        """A time leaf about a checkpoint that is here must name every token that is here with it."""
        for leaf, statement in self._log.statements(TimeStatement):
            position = self._log.position(statement.size)
            if position is not None and not names_all(statement, self._checkpoints[position].timestamps):
                detail = f"time leaf {leaf.index} names other tokens for checkpoint {statement.size} than the evidence"
                self._find(Status.FAILED, "OTHER_TOKENS", detail)

    def _find(self, status: Status, reason: str, detail: str) -> None:
        self.findings.append(Finding(Claim.TIME, status, reason, detail))


def _existence_ms(tokens: Mapping[Authority, VerifiedToken], k: int) -> int | None:
    times = sorted(min(token.latest_ms for token in group) for group in _independent(tokens))
    return times[k - 1] if len(times) >= k else None


def _independent(tokens: Mapping[Authority, VerifiedToken]) -> list[list[VerifiedToken]]:
    """The tokens by who can have made them: authorities whose paths share a key speak once."""
    held = list(tokens.values())
    return [[held[member] for member in group] for group in group_independent(token.keys for token in held)]


def names_all(statement: TimeStatement, timestamps: Sequence[TimestampEvidence]) -> bool:
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

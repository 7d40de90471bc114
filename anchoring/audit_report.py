"""What an audit of a complete log and its feeds found (docs/spec/report.md, section "Audit of an archive"). Pure.

A finding is about one subject and PASSED, FAILED or INDETERMINATE, with a named reason. Beside the findings stand the
facts that a reader needs to weigh them: what was read again and what the log only chains, who signed, since when which
sizes existed, and how wide the blind window is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from anchoring.health import BlindWindow
from anchoring.report import reason_of
from anchoring.rollback import PredecessorCheck, PredecessorState, RollbackCheck, RollbackState
from identity.errors import ForkDetected, MissingEvidenceError
from identity.history import KeyHistory
from identity.textforms import to_hex
from identity.verdict import Reason, Status
from ledger.archive_reader import ArchiveFault, FaultReason
from ledger.archive_sections import FEED, IDENTITIES
from ledger.statement import LogDescriptor

__all__ = [
    "ArchiveAudit",
    "AuditFinding",
    "CheckpointStanding",
    "FeedReading",
    "Subject",
    "binding_findings",
    "chain_findings",
    "fault_finding",
    "identity_findings",
    "overall",
    "unproven",
]


class Subject(StrEnum):
    """What a finding is about."""

    ARCHIVE = "archive"
    IDENTITY = "identity"
    FEED = "feed"
    LOG = "log"
    TIME = "time"
    ANCHOR = "anchor"
    CHAIN = "chain"


@dataclass(frozen=True, slots=True)
class AuditFinding:
    """One thing that was found. ``about`` is the feed's key or the identity's id, empty for everything else.

    ``proof`` is a portable fork proof (docs/spec/feed.md) where there is one.
    """

    subject: Subject
    about: bytes
    status: Status
    reason: str
    detail: str
    proof: bytes = b""


@dataclass(frozen=True, slots=True)
class FeedReading:
    """One feed: what of it was read again, and up to which length the log, k authorities and the chain cover it.

    ``reread`` False: the file does not hold it, and only the log's statements about it were chained; then ``length`` is
    what the log states, and nothing is known of bytes, heads, identity and device.
    """

    key: bytes
    reread: bool
    length: int
    byte_length: int
    heads: int
    name: str
    identity: bytes
    device: bytes
    device_name: str
    logged: int
    timestamped: int
    anchored: int

    @property
    def entries_per_signature(self) -> float:
        """How many entries a signature covers on average."""
        return self.length / self.heads if self.heads else 0.0


@dataclass(frozen=True, slots=True)
class CheckpointStanding:
    """Since when a checkpoint provably existed: ``authorities`` state a time, and of k of them ``existed_by_ms``.

    ``block`` and ``block_ms`` are those of its anchor, where its receipt was verified under a header that counts.
    """

    size: int
    authorities: tuple[str, ...]
    existed_by_ms: int | None
    block: int | None
    block_ms: int | None


@dataclass(frozen=True, slots=True)
class ArchiveAudit:
    """Everything about one archive under one policy. ``check`` is None when no log could be replayed."""

    findings: tuple[AuditFinding, ...]
    feeds: tuple[FeedReading, ...]
    checkpoints: tuple[CheckpointStanding, ...]
    log_id: bytes | None
    descriptor: LogDescriptor | None
    size: int
    checkpoint_count: int
    wanted: int
    check: RollbackCheck | None
    predecessor: PredecessorCheck | None
    successor: bytes | None
    anchored_size: int
    blind: BlindWindow
    labels: dict[bytes, str]
    development: tuple[str, ...]
    not_proven: tuple[str, ...]

    @property
    def verdict(self) -> Status:
        """FAILED when anything is, else INDETERMINATE when anything is."""
        return overall(self.findings)


def overall(findings: Iterable[AuditFinding]) -> Status:
    """The worst of them. Nothing found at all is nothing proven: INDETERMINATE."""
    found = {finding.status for finding in findings} or {Status.INDETERMINATE}
    return next(status for status in (Status.FAILED, Status.INDETERMINATE, Status.PASSED) if status in found)


_ANOTHER: Final = {
    RollbackState.BEHIND_ANCHOR,
    RollbackState.DIVERGED,
    RollbackState.FOREIGN_CHAIN,
    RollbackState.OTHER_SUCCESSOR,
}


def chain_findings(check: RollbackCheck, predecessor: PredecessorCheck | None) -> list[AuditFinding]:
    """FAILED where another history or another log counts, INDETERMINATE where the chain does not say."""
    if check.state in _ANOTHER:
        status = Status.FAILED
    else:
        known = check.state in {RollbackState.CONSISTENT, RollbackState.CLOSED}
        status = Status.PASSED if known else Status.INDETERMINATE
    reason = "OK" if status is Status.PASSED else check.state.name
    found = [AuditFinding(Subject.CHAIN, b"", status, reason, check.detail)]
    if predecessor is not None and predecessor.state is not PredecessorState.CLOSED:
        false = predecessor.state in {PredecessorState.OTHER_SUCCESSOR, PredecessorState.OTHER_END}
        status = Status.FAILED if false else Status.INDETERMINATE
        reason = f"PREDECESSOR_{predecessor.state.name}"
        found.append(AuditFinding(Subject.CHAIN, b"", status, reason, predecessor.detail))
    return found


def fault_finding(fault: ArchiveFault) -> AuditFinding:
    """What a fault of the file amounts to: it is false, or something that belongs to it was not given. Both FAIL."""
    error = fault.error
    proof = error.proof if isinstance(error, ForkDetected) else b""
    if isinstance(error, ForkDetected):
        reason = "FORK"
    else:
        reason = fault.reason.value if fault.reason is not None else reason_of(error)
    detail = str(error)
    if isinstance(error, ForkDetected) and not proof:
        detail += f"; the two signed statements: {error.first.hex()} and {error.second.hex()}"
    if isinstance(error, MissingEvidenceError):
        reason = "NOT_GIVEN"
    return AuditFinding(_subject(fault), fault.about, Status.FAILED, reason, detail, proof)


def _subject(fault: ArchiveFault) -> Subject:
    if fault.section == IDENTITIES or fault.reason is FaultReason.EVENTS_TRUNCATED:
        return Subject.IDENTITY
    if fault.section == FEED or fault.about:
        return Subject.FEED
    return {"log": Subject.LOG, "descriptor": Subject.LOG}.get(fault.section, Subject.ARCHIVE)


def identity_findings(history: KeyHistory, trusted: frozenset[bytes]) -> Iterator[AuditFinding]:
    """Whether the identity tells one history, and the policy names it."""
    if history.duplicity is not None:
        one, other = map(to_hex, history.duplicity)
        detail = f"it signed two events after one: {one} and {other}"
        yield AuditFinding(Subject.IDENTITY, history.identity, Status.FAILED, Reason.DUPLICITOUS, detail)
    if history.identity not in trusted:
        detail = "the policy does not name it"
        yield AuditFinding(Subject.IDENTITY, history.identity, Status.INDETERMINATE, "UNKNOWN_IDENTITY", detail)


def binding_findings(
    history: KeyHistory, log_id: bytes, before: bytes | None, after: bytes | None, trusted: frozenset[bytes]
) -> Iterator[AuditFinding]:
    """Whether the identity has bound this log, and no other that neither the chain nor the policy accounts for.

    ``before`` is the log that this one goes on from; ``after`` the one in favour of which the chain holds this one as
    closed. Logs of ``trusted`` are for an audit of their own.
    """
    if log_id not in history.logs:
        detail = f"no event of the identity binds the log {log_id.hex()}: a second log without one is a fork"
        yield AuditFinding(Subject.IDENTITY, history.identity, Status.FAILED, "LOG_NOT_BOUND", detail)
        return
    place = history.logs.index(log_id)
    # What a predecessor went on from is told by the predecessor.
    older = () if before is not None and before in history.logs[:place] else history.logs[:place]
    newer = history.logs[place + 1 :]
    accounted = trusted | {log for log in (before, after) if log is not None}
    if after is not None and after in newer:
        newer = ()
    for log in (*older, *newer):
        if log not in accounted:
            detail = f"it has bound the log {log.hex()} too, and nothing shows that one of them ended for the other"
            yield AuditFinding(Subject.IDENTITY, history.identity, Status.INDETERMINATE, "OTHER_LOG", detail)


def unproven(check: RollbackCheck | None, feeds: Sequence[FeedReading], blind: BlindWindow, newest: int) -> list[str]:
    """What nobody can conclude from this audit, in sentences. ``newest``: the newest size that k authorities date."""
    said = []
    chained = [feed for feed in feeds if not feed.reread]
    if chained:
        said.append(f"{len(chained)} feeds were only chained: nothing shows what their entries say")
    unlogged = sum(feed.length - feed.logged for feed in feeds if feed.reread)
    if unlogged:
        said.append(f"{unlogged} entries are not in the log yet: their feeds show nobody else has seen them")
    if blind.entries:
        said.append(f"that the {blind.entries} entries after the newest anchor are all there are, or will stay")
    if check is not None and check.local_size > newest:
        said.append(f"since when the log existed beyond size {newest}")
    if check is None or check.state not in {RollbackState.CONSISTENT, RollbackState.CLOSED}:
        said.append("that this is all of the log, and its only history")
    return [*said, "that nothing was written elsewhere, under another identity or not at all"]

"""What decides the verdict of an audit: each state of the chain, each fault of a file, each binding of a log."""

from __future__ import annotations

from dataclasses import replace

import pytest

from anchoring.audit_report import (
    AuditFinding,
    FeedReading,
    Subject,
    binding_findings,
    chain_findings,
    fault_finding,
    identity_findings,
    overall,
    unproven,
)
from anchoring.health import BlindWindow
from anchoring.rollback import PredecessorCheck, PredecessorState, RollbackCheck, RollbackState
from identity.errors import (
    AuditError,
    ForkDetected,
    MalformedError,
    MissingEvidenceError,
    SignatureMismatch,
    VerificationError,
)
from identity.history import KeyHistory
from identity.verdict import Status
from ledger.archive_reader import ArchiveFault, FaultReason

TRUNCATED, MISSING = FaultReason.EVENTS_TRUNCATED, FaultReason.MISSING_SECTION
PASSED, FAILED, OPEN = Status.PASSED, Status.FAILED, Status.INDETERMINATE
LOG, OLDER, NEWER = b"b" * 32, b"a" * 32, b"c" * 32
HISTORY = KeyHistory(
    identity=b"i" * 32,
    label="x",
    seq=1,
    head=b"h" * 32,
    generation=0,
    root_keys=(b"r" * 32,),
    root_threshold=1,
    next_digests=(b"n" * 32,),
    next_threshold=1,
    devices={},
    logs=(LOG,),
    closed=False,
    duplicity=None,
    events=(),
)


def finding(status: Status) -> AuditFinding:
    return AuditFinding(Subject.LOG, b"", status, "X", "")


@pytest.mark.parametrize(
    ("statuses", "worst"),
    [((), OPEN), ((PASSED,), PASSED), ((PASSED, OPEN), OPEN), ((OPEN, FAILED, PASSED), FAILED)],
)
def test_the_worst_counts(statuses: tuple[Status, ...], worst: Status) -> None:
    assert overall(map(finding, statuses)) is worst


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (RollbackState.CONSISTENT, PASSED),
        (RollbackState.CLOSED, PASSED),
        (RollbackState.NOT_ANCHORED, OPEN),
        (RollbackState.NO_CHAIN, OPEN),
        (RollbackState.UNVERIFIED, OPEN),
        (RollbackState.BEHIND_ANCHOR, FAILED),
        (RollbackState.DIVERGED, FAILED),
        (RollbackState.FOREIGN_CHAIN, FAILED),
        (RollbackState.OTHER_SUCCESSOR, FAILED),
    ],
)
def test_states_of_the_chain(state: RollbackState, status: Status) -> None:
    (found,) = chain_findings(RollbackCheck(state, 5, 4, "said"), None)
    assert (found.status, found.detail) == (status, "said")
    assert found.reason == ("OK" if status is PASSED else state.name)


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (PredecessorState.CLOSED, PASSED),
        (PredecessorState.NOT_CLOSED, OPEN),
        (PredecessorState.UNREAD, OPEN),
        (PredecessorState.OTHER_SUCCESSOR, FAILED),
        (PredecessorState.OTHER_END, FAILED),
    ],
)
def test_the_log_before(state: PredecessorState, status: Status) -> None:
    found = chain_findings(RollbackCheck(RollbackState.CONSISTENT, 5, 4, ""), PredecessorCheck(state, ""))
    assert overall(found) is status


@pytest.mark.parametrize(
    ("fault", "subject", "reason"),
    [
        (ArchiveFault("feed", LOG, SignatureMismatch("x")), Subject.FEED, "SIGNATURE"),
        (ArchiveFault("feed", b"", MalformedError("x")), Subject.FEED, "MALFORMED"),
        (ArchiveFault("log", LOG, VerificationError("x"), FaultReason.SHORTER), Subject.FEED, "SHORTER"),
        (ArchiveFault("log", b"", VerificationError("x")), Subject.LOG, "REFUSED"),
        (ArchiveFault("log", b"", MissingEvidenceError("x")), Subject.LOG, "NOT_GIVEN"),
        (
            ArchiveFault("log", LOG, MalformedError("x"), FaultReason.EVENTS_TRUNCATED),
            Subject.IDENTITY,
            "EVENTS_TRUNCATED",
        ),
        (ArchiveFault("identities", LOG, VerificationError("x")), Subject.IDENTITY, "REFUSED"),
        (
            ArchiveFault("anchors", b"", MalformedError("x"), FaultReason.MISSING_SECTION),
            Subject.ARCHIVE,
            "MISSING_SECTION",
        ),
    ],
)
def test_faults_of_a_file_fail(fault: ArchiveFault, subject: Subject, reason: str) -> None:
    found = fault_finding(fault)
    assert (found.subject, found.status, found.reason, found.about) == (subject, FAILED, reason, fault.about)


def test_a_fork_is_shown_by_its_proof_or_by_what_was_signed() -> None:
    error: AuditError = ForkDetected("two", first=b"\1", second=b"\2", proof=b"proof")
    assert fault_finding(ArchiveFault("feed", LOG, error)).proof == b"proof"
    shown = fault_finding(ArchiveFault("feed", LOG, ForkDetected("two", first=b"\1", second=b"\2")))
    assert (shown.reason, shown.proof) == ("FORK", b"")
    assert shown.detail.endswith("01 and 02")


def test_two_events_after_one_fail_whatever_the_policy_names() -> None:
    duplicitous = replace(HISTORY, duplicity=(b"\1" * 32, b"\2" * 32))
    found = list(identity_findings(duplicitous, frozenset({HISTORY.identity})))
    assert [(one.status, one.reason) for one in found] == [(FAILED, "DUPLICITOUS")]
    assert "01" * 32 in found[0].detail
    assert [one.reason for one in identity_findings(HISTORY, frozenset())] == ["UNKNOWN_IDENTITY"]


@pytest.mark.parametrize(
    ("logs", "before", "after", "trusted", "reasons"),
    [
        ((LOG,), None, None, set(), []),
        ((), None, None, {LOG}, ["LOG_NOT_BOUND"]),
        ((OLDER,), None, None, {LOG}, ["LOG_NOT_BOUND"]),
        ((OLDER, LOG), OLDER, None, {LOG}, []),
        ((NEWER, OLDER, LOG), OLDER, None, {LOG}, []),
        ((OLDER, LOG), None, None, {LOG}, ["OTHER_LOG"]),
        ((OLDER, LOG), NEWER, None, {LOG}, ["OTHER_LOG"]),
        ((OLDER, LOG), None, None, {LOG, OLDER}, []),
        ((LOG, NEWER), None, NEWER, {LOG}, []),
        ((LOG, NEWER), None, None, {LOG}, ["OTHER_LOG"]),
        ((LOG, NEWER), None, OLDER, {LOG}, ["OTHER_LOG"]),
        ((OLDER, LOG, NEWER), None, None, {LOG}, ["OTHER_LOG", "OTHER_LOG"]),
    ],
)
def test_logs_of_one_identity(
    logs: tuple[bytes, ...], before: bytes | None, after: bytes | None, trusted: set[bytes], reasons: list[str]
) -> None:
    found = binding_findings(replace(HISTORY, logs=logs), LOG, before, after, frozenset(trusted))
    assert [one.reason for one in found] == reasons


def test_what_is_not_proven() -> None:
    check = RollbackCheck(RollbackState.UNVERIFIED, 9, 0, "")
    held = FeedReading(LOG, True, 5, 50, 2, "x", b"", b"", "", 3, 0, 0)
    chained = replace(held, reread=False, logged=5)
    said = "\n".join(unproven(check, [held, chained], BlindWindow(4, None), 6))
    for part in (
        "1 feeds were only chained",
        "2 entries are not in",
        "the 4 entries",
        "beyond size 6",
        "all of the log",
    ):
        assert part in said
    consistent = replace(check, state=RollbackState.CONSISTENT)
    assert len(unproven(consistent, [replace(held, logged=5)], BlindWindow(0, None), 9)) == 1

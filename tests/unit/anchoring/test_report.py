from __future__ import annotations

import json
from itertools import product

import pytest

from anchoring.report import Claim, Finding, Report, failure, format_time
from identity.errors import (
    AuditError,
    ForkDetected,
    HistoryError,
    ImprintMismatch,
    LimitExceeded,
    LogRuleViolation,
    MalformedError,
    ReceiptMismatch,
    RootMismatch,
    SignatureMismatch,
    TokenRejected,
    UnsupportedVersion,
    VerificationError,
)
from identity.verdict import Status

PASSED, FAILED, OPEN = Status.PASSED, Status.FAILED, Status.INDETERMINATE
ALL = frozenset(Claim)


def report(*findings: tuple[Claim, Status], required: frozenset[Claim] = ALL) -> Report:
    return Report(0, required, tuple(Finding(claim, status, "OK", "") for claim, status in findings))


def every(status: Status) -> list[tuple[Claim, Status]]:
    return [(claim, status) for claim in Claim]


def test_a_claim_about_which_nothing_was_found_is_not_passed() -> None:
    empty = report()
    assert {empty.status(claim) for claim in Claim} == {OPEN}
    assert (empty.overall, empty.exit_code) == (OPEN, 2)


@pytest.mark.parametrize(("one", "other"), list(product(Status, Status)))
def test_the_worst_finding_is_the_claims(one: Status, other: Status) -> None:
    found = report((Claim.LOG, one), (Claim.LOG, other)).status(Claim.LOG)
    assert found is max(one, other, key=[PASSED, OPEN, FAILED].index)


def test_a_failed_claim_fails_the_report_whether_it_was_demanded_or_not() -> None:
    findings = [*every(PASSED), (Claim.ANCHOR, FAILED)]
    assert report(*findings).exit_code == 1
    assert report(*findings, required=frozenset({Claim.ORIGIN})).exit_code == 1


def test_an_open_claim_counts_only_where_it_was_demanded() -> None:
    findings = [(claim, PASSED) for claim in Claim if claim is not Claim.ANCHOR] + [(Claim.ANCHOR, OPEN)]
    assert report(*findings).exit_code == 2
    assert report(*findings, required=ALL - {Claim.ANCHOR}).exit_code == 0


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MalformedError("x"), "MALFORMED"),
        (LimitExceeded("x"), "MALFORMED"),
        (UnsupportedVersion("x"), "MALFORMED"),
        (SignatureMismatch("x"), "SIGNATURE"),
        (RootMismatch("x", expected=b"a", computed=b"b"), "ROOT"),
        (HistoryError(3, "x"), "IDENTITY_EVENT"),
        (ImprintMismatch(expected=b"a", found=b"b"), "IMPRINT"),
        (TokenRejected("POLICY", "x"), "POLICY"),
        (ReceiptMismatch("CODE_HASH", "x"), "CODE_HASH"),
        (VerificationError("x"), "REFUSED"),
        (LogRuleViolation(3, "x"), "REFUSED"),
        (ForkDetected("x", first=b"", second=b""), "REFUSED"),
    ],
)
def test_the_reason_is_the_errors(error: AuditError, reason: str) -> None:
    assert failure(Claim.LOG, error) == Finding(Claim.LOG, FAILED, reason, str(error))


def test_for_machines() -> None:
    made = Report(
        at_ms=1_767_225_600_000,
        required=frozenset({Claim.TIME, Claim.ORIGIN}),
        findings=(Finding(Claim.TIME, FAILED, "IMPRINT", "other bytes"),),
        facts={"index": 3},
        development=("chain 1",),
    )
    document = json.loads(json.dumps(made.to_json()))
    assert document == {
        "v": 1,
        "kind": "verification-report",
        "overall": "FAILED",
        "at": 1_767_225_600_000,
        "required": ["origin", "time"],
        "claims": {
            "origin": "INDETERMINATE",
            "integrity": "INDETERMINATE",
            "log": "INDETERMINATE",
            "time": "FAILED",
            "anchor": "INDETERMINATE",
        },
        "findings": [{"claim": "time", "status": "FAILED", "reason": "IMPRINT", "detail": "other bytes"}],
        "facts": {"index": 3},
        "development": ["chain 1"],
    }


def test_for_people() -> None:
    findings = (
        Finding(Claim.TIME, FAILED, "IMPRINT", "the token covers other bytes"),
        Finding(Claim.LOG, PASSED, "OK", "leaf 2 of checkpoint 3"),
    )
    text = Report(0, ALL - {Claim.ANCHOR}, findings, {}, ("timestamps: x",)).to_text()
    assert text.startswith("FAILED   as of 1970-01-01 00:00:00 UTC\n")
    assert "IMPRINT: the token covers other bytes" in text
    assert "OK" not in text
    assert "(not demanded by the policy)" in text
    assert "DEVELOPMENT ONLY" in text
    assert "Not proven by one file" in text
    assert "DEVELOPMENT" not in report(*every(PASSED)).to_text()
    for claim, question in zip(Claim, ("who", "unchanged", "in the log", "since when", "anchored"), strict=True):
        assert f"  {question}" in text, claim


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "1970-01-01 00:00:00 UTC"),
        (1_767_225_600_123, "2026-01-01 00:00:00.123 UTC"),
        (-1, "1969-12-31 23:59:59.999 UTC"),
        (253_402_300_799_999, "9999-12-31 23:59:59.999 UTC"),
        (253_402_300_800_000, "253402300800000 ms since 1970 (no calendar date)"),
        (2**63 - 1, "9223372036854775807 ms since 1970 (no calendar date)"),
        (-(2**63), "-9223372036854775808 ms since 1970 (no calendar date)"),
        ((2**64 - 1) * 1000, "18446744073709551615000 ms since 1970 (no calendar date)"),
    ],
)
def test_times_come_out_whatever_they_are(milliseconds: int, text: str) -> None:
    assert format_time(milliseconds) == text

"""What a verification found: claims, findings and a report, for people as text and for machines as JSON.

Three values as in ETSI EN 319 102-1 clause 5.1.3; a claim about which nothing was found is INDETERMINATE, never PASSED.
docs/spec/report.md lists every reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from identity.errors import (
    AuditError,
    HistoryError,
    ImprintMismatch,
    MalformedError,
    ReceiptMismatch,
    RootMismatch,
    SignatureMismatch,
    TokenRejected,
)
from identity.verdict import Status

__all__ = ["Claim", "Finding", "Report", "failure", "format_time", "reason_of"]

_LONGEST_SHOWN = 2000
"""Characters of one value in the text for people."""


class Claim(StrEnum):
    """What evidence can prove. The names are those of a policy's ``require``."""

    ORIGIN = "origin"
    """P1: a device that the identity authorised signed the entry, and the signature counts."""
    INTEGRITY = "integrity"
    """P2: the entry's bytes and its position in its feed are those that were signed."""
    LOG = "log"
    """The head that covers the entry stands in the identity's checkpoint log."""
    TIME = "time"
    """P3: the entry existed by a time that enough authorities of the policy state."""
    ANCHOR = "anchor"
    """A checkpoint that covers the entry is stored in the log's contract, under a header that the policy trusts."""


_QUESTIONS: Mapping[Claim, str] = {
    Claim.ORIGIN: "who",
    Claim.INTEGRITY: "unchanged",
    Claim.LOG: "in the log",
    Claim.TIME: "since when",
    Claim.ANCHOR: "anchored",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked. ``reason`` is stable and in upper case; ``detail`` is prose."""

    claim: Claim
    status: Status
    reason: str
    detail: str


def failure(claim: Claim, error: AuditError) -> Finding:
    """The finding that ``error`` is about ``claim``: FAILED, for the reason that the error carries or is."""
    return Finding(claim, Status.FAILED, reason_of(error), str(error))


def reason_of(error: AuditError) -> str:
    """The stable name of what the error found: the one that it carries, or that of its class."""
    if isinstance(error, (TokenRejected, ReceiptMismatch)):
        return error.reason
    return next((reason for kind, reason in _REASONS.items() if isinstance(error, kind)), "REFUSED")


_REASONS: Mapping[type[AuditError], str] = {
    MalformedError: "MALFORMED",
    SignatureMismatch: "SIGNATURE",
    RootMismatch: "ROOT",
    HistoryError: "IDENTITY_EVENT",
    ImprintMismatch: "IMPRINT",
}


@dataclass(frozen=True, slots=True)
class Report:
    """All findings about one evidence file under one policy, as of ``at_ms``.

    ``facts`` are verified values worth showing (entry, device, times); ``development`` names every authority or chain
    that exists for development only and therefore proves nothing to anybody else.
    """

    at_ms: int
    required: frozenset[Claim]
    findings: tuple[Finding, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    development: tuple[str, ...] = ()

    def status(self, claim: Claim) -> Status:
        """FAILED if anything about the claim failed, INDETERMINATE if anything is open or nothing was found."""
        found = {finding.status for finding in self.findings if finding.claim is claim}
        if Status.FAILED in found:
            return Status.FAILED
        if Status.INDETERMINATE in found or not found:
            return Status.INDETERMINATE
        return Status.PASSED

    @property
    def overall(self) -> Status:
        """FAILED if any finding failed, demanded or not; else INDETERMINATE if a demanded claim is; else PASSED."""
        if any(finding.status is Status.FAILED for finding in self.findings):
            return Status.FAILED
        if any(self.status(claim) is not Status.PASSED for claim in self.required):
            return Status.INDETERMINATE
        return Status.PASSED

    @property
    def exit_code(self) -> int:
        """0 passed, 1 failed, 2 indeterminate: the process exit code of ``holdfast verify``."""
        return {Status.PASSED: 0, Status.FAILED: 1, Status.INDETERMINATE: 2}[self.overall]

    def to_json(self) -> dict[str, Any]:
        """The report for machines; ``overall`` and the exit code always agree."""
        return {
            "v": 1,
            "kind": "verification-report",
            "overall": self.overall.value,
            "at": self.at_ms,
            "required": sorted(claim.value for claim in self.required),
            "claims": {claim.value: self.status(claim).value for claim in Claim},
            "findings": [
                {
                    "claim": finding.claim.value,
                    "status": finding.status.value,
                    "reason": finding.reason,
                    "detail": finding.detail,
                }
                for finding in self.findings
            ],
            "facts": dict(self.facts),
            "development": list(self.development),
        }

    def to_text(self) -> str:
        """The report for people: what it is about, a line for each claim, then what is not proven."""
        lines = [f"{self.overall.value}   as of {format_time(self.at_ms)}", *self._subject(), ""]
        for claim in Claim:
            status = self.status(claim)
            demanded = "" if claim in self.required else "   (not demanded by the policy)"
            lines.append(f"  {_QUESTIONS[claim]:<12}{status.value:<15}{demanded}".rstrip())
            for finding in self.findings:
                if finding.claim is claim:
                    reason = "" if finding.reason == "OK" else f"{finding.reason}: "
                    lines.append(f"  {'':<12}{reason}{finding.detail}")
        if self.development:
            lines += ["", "DEVELOPMENT ONLY, proves nothing to an outsider:"]
            lines += [f"  {name}" for name in self.development]
        lines += [
            "",
            "Not proven by one file: that nothing else was written, and that nothing was rolled back since.",
            "The audit of the complete log shows the latter.",
        ]
        return "\n".join(lines) + "\n"

    def _subject(self) -> list[str]:
        """What was established about the entry, as far as it was."""
        facts = self.facts
        shown: dict[str, str] = {}
        if "entry" in facts:
            entry = facts["entry"]
            shown["entry"] = f"{facts['index']} of feed {_named(facts['feed_name'], facts['feed'])}"
            shown["claimed"] = format_time(entry["claimed"]) + ", by its author"
            shown["content"] = f"{entry['kind']} {_text(entry['body'])}"
        if "device" in facts:
            shown["device"] = _named(facts.get("device_name"), facts["device"])
        if "identity" in facts:
            shown["identity"] = _named(facts["identity_label"], facts["identity"])
        if "predecessor" in facts:
            older = facts["predecessor"]
            shown["log"] = f"goes on from log {older['log']}, which ends at size {older['size']}"
        return ["", *(f"  {name:<12}{text}" for name, text in shown.items())] if shown else []


def _named(name: object, key: object) -> str:
    """A name, quoted because anybody may have chosen it, and the key that nobody can choose."""
    return f"{_text(name)} {key}"


def _text(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_SHOWN else f"({len(text)} characters; --json shows them)"


def format_time(milliseconds: int) -> str:
    """A UTC time in RFC 3339 form, to the millisecond."""
    seconds, rest = divmod(milliseconds, 1000)
    try:
        moment = datetime.fromtimestamp(seconds, tz=UTC)
    except (OverflowError, ValueError, OSError):
        # Claimed times may be any 64-bit number; a report must come out all the same.
        return f"{milliseconds} ms since 1970 (no calendar date)"
    return moment.strftime("%Y-%m-%d %H:%M:%S") + (f".{rest:03d}" if rest else "") + " UTC"

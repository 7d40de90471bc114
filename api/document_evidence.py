"""Evidence of a document's state: made from a database and the store it is in, and judged offline.

Here the two halves meet. ``anchoring`` shows an entry: who signed it, that it is unchanged, since when it existed.
``sync`` shows that a document was in the state that this entry speaks of. What both show together is that a device
*stated* what the document was; that this was true follows from the feeds, by ``Database.verify_state_root``.

Judging imports nothing that needs a store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from anchoring.evidence import encode_evidence, parse_evidence
from anchoring.policy import Policy
from anchoring.report import Claim, Report, format_time, reason_of
from anchoring.timestamp import Authority
from anchoring.verifier import verify_evidence
from identity.errors import AuditError, MalformedError, MissingEvidenceError
from identity.textforms import to_hex
from identity.verdict import Status
from ledger.manifest import parse_manifest
from ledger.proof import parse_evidence_proof
from ledger.proof_checking import verify_proof
from ledger.store import FeedKey
from sync.clock import wall_ms
from sync.document_evidence import (
    DocumentEvidence,
    encode_document_evidence,
    parse_document_evidence,
    verify_document_state,
)
from sync.jsonform import to_json
from sync.transaction import DocumentId, StateRoot, entry_id
from sync.view import etag_of

if TYPE_CHECKING:
    from sync.database import Database
    from sync.storage.state_roots import StatedRoot

__all__ = ["DocumentReport", "StateFinding", "export_document_evidence", "verify_document_evidence"]

_NOT_SHOWN: Final = "ENTRY_NOT_SHOWN"
_HONEST: Final = (
    "The device below stated this. Whether it is so follows from the feeds of the database:",
    "who has them can rebuild the state and compare its root.",
)


@dataclass(frozen=True, slots=True)
class StateFinding:
    """Whether the document was in the state that the entry speaks of. ``reason`` is stable and in upper case."""

    status: Status
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class DocumentReport:
    """What the evidence of a document's state shows: the report on its entry, and one finding more.

    ``facts`` are what is shown of the document; empty unless the finding is PASSED.
    """

    entry: Report
    state: StateFinding
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def overall(self) -> Status:
        """FAILED if either is, else INDETERMINATE if either is, else PASSED."""
        found = {self.entry.overall, self.state.status}
        return next(one for one in (Status.FAILED, Status.INDETERMINATE, Status.PASSED) if one in found)

    @property
    def exit_code(self) -> int:
        """0 passed, 1 failed, 2 indeterminate."""
        return {Status.PASSED: 0, Status.FAILED: 1, Status.INDETERMINATE: 2}[self.overall]

    def to_json(self) -> dict[str, Any]:
        """The report on the entry with the claim ``state`` among the others."""
        report = self.entry.to_json()
        found = {"status": self.state.status.value, "reason": self.state.reason, "detail": self.state.detail}
        return {
            **report,
            "kind": "document-verification-report",
            "overall": self.overall.value,
            "required": sorted([*report["required"], "state"]),
            "claims": {**report["claims"], "state": self.state.status.value},
            "findings": [*report["findings"], {"claim": "state", **found}],
            "facts": {**report["facts"], **({"document": dict(self.facts)} if self.facts else {})},
        }

    def to_text(self) -> str:
        """The report for people: the document first, then the entry that states it."""
        detail = self.state.detail if self.state.reason == "OK" else f"{self.state.reason}: {self.state.detail}"
        lines = [f"{self.overall.value}   the state of a document", ""]
        lines += [f"  {'state':<12}{self.state.status.value}", f"  {'':<12}{detail}", *self._shown(), ""]
        lines += ["The entry that states it:", "", self.entry.to_text()]
        return "\n".join(lines)

    def _shown(self) -> list[str]:
        """What the document showed, a line for each value."""
        if not self.facts:
            return []
        lines = ["", f"  {self.facts['collection']}/{self.facts['key']}, version {self.facts['etag']}"]
        lines += [f"  it was {flag}" for flag in ("deleted", "purged") if self.facts[flag]]
        for cell in self.facts["cells"]:
            lines += [f"  {cell['path']} ({cell['kind']}): {_text(value)}" for value in cell["values"]]
        return [*lines, "", *_HONEST]


# --- making ---------------------------------------------------------------------------------------------------------


def export_document_evidence(
    database: Database, document: DocumentId, at_ms: int, authorities: Sequence[Authority] = (), k: int = 1
) -> bytes:
    """The file for the document as it was at ``at_ms`` (milliseconds UTC), for readers who trust ``k`` of those
    authorities.

    It shows the newest state whose root was stated, as its author's clock says, by that time, and whose statement is
    under a timestamped checkpoint. Raises ``MissingEvidenceError``, with a hint, when there is none, or the document
    was not in it; ``RootMismatch`` when the state that is here had another root.
    """
    from anchoring.exporter import export_evidence
    from anchoring.witness import open_archive
    from sync.storage.state_roots import founding_of, show_document, stated_roots

    with database.read() as reader:
        archive = open_archive(reader.tx, authorities, k)
        for stated in _newest_first(stated_roots(reader), at_ms):
            feed, index = FeedKey(stated.reference.feed), stated.reference.index
            try:
                entry = export_evidence(reader.tx, archive, feed, index)
            except MissingEvidenceError:
                continue  # not under a timestamped checkpoint yet: an older one may be
            shown = show_document(reader, stated, document)
            evidence = DocumentEvidence(
                encode_evidence(entry), founding_of(reader), document, shown.version, shown.content, shown.proof
            )
            return encode_document_evidence(evidence)
    raise MissingEvidenceError(
        f"no state of {database.name!r} up to {format_time(at_ms)} is stated and timestamped",
        hint=f"'holdfast db state-root {database.name}' states what is now, 'holdfast checkpoint create' and 'holdfast"
        f" anchor run' stamp it; 'holdfast db state-roots {database.name}' lists what was stated",
    )


def _newest_first(stated: list[StatedRoot], at_ms: int) -> list[StatedRoot]:
    due = [one for one in stated if wall_ms(one.statement.stamp.reading) <= at_ms]
    return sorted(due, key=lambda one: (one.statement.stamp.reading, entry_id(one.reference)), reverse=True)


# --- judging --------------------------------------------------------------------------------------------------------


def verify_document_evidence(data: bytes, policy: Policy, at_ms: int) -> DocumentReport:
    """Verify a file as of ``at_ms`` under ``policy``. Total: whatever is wrong becomes a finding."""
    try:
        evidence = parse_document_evidence(data)
    except MalformedError as exc:
        report = verify_evidence(b"", policy, at_ms)
        return DocumentReport(report, StateFinding(Status.FAILED, reason_of(exc), str(exc)))
    report = verify_evidence(evidence.entry, policy, at_ms)
    if report.status(Claim.INTEGRITY) is not Status.PASSED:
        found = StateFinding(Status.INDETERMINATE, _NOT_SHOWN, "the entry that states the root is not shown")
        return DocumentReport(report, found)
    try:
        statement = verify_document_state(_block(evidence.entry), evidence)
    except MissingEvidenceError as exc:
        return DocumentReport(report, StateFinding(Status.INDETERMINATE, "UNKNOWN_RULES", str(exc)))
    except AuditError as exc:
        return DocumentReport(report, StateFinding(Status.FAILED, reason_of(exc), str(exc)))
    detail = (
        f"{evidence.document} was in the state that the entry speaks of, one of {evidence.proof.documents} documents"
    )
    return DocumentReport(report, StateFinding(Status.PASSED, "OK", detail), _facts(evidence, statement))


def _block(entry: bytes) -> bytes:
    """The block of an entry whose evidence was verified."""
    evidence = parse_evidence(entry)
    return verify_proof(parse_manifest(evidence.manifest), parse_evidence_proof(evidence.proof)).block


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _facts(evidence: DocumentEvidence, statement: StateRoot) -> dict[str, Any]:
    content = evidence.content
    return {
        "database": to_hex(statement.stamp.database),
        "database_name": evidence.founding.name,
        "collection": evidence.document.collection,
        "key": evidence.document.key,
        "etag": etag_of(evidence.version),
        "stated": wall_ms(statement.stamp.reading),
        "root": to_hex(statement.root),
        "documents": evidence.proof.documents,
        "deleted": content.deleted,
        "purged": content.purged,
        "cells": [
            {"path": cell.path, "kind": cell.kind, "values": [to_json(value) for value in cell.values]}
            for cell in content.cells
        ],
    }

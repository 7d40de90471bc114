"""``holdfast verify``: judge an evidence file offline. Imports nothing that needs a database, a chain or a network."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from anchoring.evidence import MAX_EVIDENCE_BYTES
from anchoring.policy_file import load_policy
from anchoring.verifier import verify_evidence
from api.cli.exit_codes import ExitCode, code_of_status
from api.cli.files import read_input, source_name
from api.cli.group import CommandGroup, invocation
from api.cli.output import Output
from api.cli.times import parse_time
from api.cli.unpack import unpack_evidence
from identity.errors import LimitExceeded, MalformedError, RefusedError

if TYPE_CHECKING:
    from anchoring.policy import Policy
    from anchoring.report import Report
    from api.document_evidence import DocumentReport

__all__ = ["group"]

MAX_DOCUMENT_EVIDENCE_BYTES: Final = 32 << 20
"""As in ``sync.document_evidence``, which is loaded for files that are such evidence."""

_DOCUMENT_MARK: Final = b"vnd.holdfast.document-evidence"

group = CommandGroup("verify", "Verify an evidence file offline, under a policy.")


@group.add(
    "verify",
    examples=[
        "holdfast verify payment.evidence.json --policy bank.toml",
        "holdfast verify payment.evidence.json --policy bank.toml --at 2026-12-31T23:59:59Z --json",
        "holdfast verify payment.evidence.json --policy bank.toml --unpack payment.parts",
    ],
)
def verify(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The evidence; - reads it from stdin.")],
    policy: Annotated[Path, typer.Option("--policy", metavar="FILE", help="What to trust and what to demand.")],
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="Verify as of this time (RFC 3339); default: now.")
    ] = None,
    unpack: Annotated[
        Path | None,
        typer.Option("--unpack", metavar="DIR", help="Write its parts into a new DIR, for openssl and other tools."),
    ] = None,
) -> ExitCode:
    """Verify an evidence file: who wrote the entry, that it is unchanged, where it stands, since when it existed.

    Of evidence of a document's state also whether the document follows from the state root that the entry speaks of.
    Needs no home, no network and no keys. The exit code is the verdict.
    """
    out = invocation(ctx).out
    if unpack is not None and unpack.exists():
        raise RefusedError(f"{unpack} exists", hint="name a new directory")
    at_ms = time.time_ns() // 1_000_000 if at is None else parse_time(at)
    data = read_input(file, MAX_DOCUMENT_EVIDENCE_BYTES)
    if _is_of_document(data):
        return _verify_document(out, data, load_policy(policy), at_ms, unpack)
    if len(data) > MAX_EVIDENCE_BYTES:
        raise LimitExceeded(f"{source_name(file)}: more than {MAX_EVIDENCE_BYTES} bytes")
    report = verify_evidence(data, load_policy(policy), at_ms)
    _answer(out, report)
    if unpack is not None:
        _unpack(out, data, unpack)
    return code_of_status(report.overall)


def _answer(out: Output, report: Report | DocumentReport) -> None:
    found = report.to_json()
    fields = {key: value for key, value in found.items() if key not in ("v", "kind")}
    out.record(found["kind"], fields, text=report.to_text())


def _is_of_document(data: bytes) -> bool:
    """Whether the file says that it is evidence of a document; most are not, and need nothing more loaded."""
    if _DOCUMENT_MARK not in data:
        return False
    from sync.document_evidence import is_document_evidence

    return is_document_evidence(data)


def _verify_document(out: Output, data: bytes, policy: Policy, at_ms: int, unpack: Path | None) -> ExitCode:
    from api.document_evidence import verify_document_evidence
    from sync.document_evidence import parse_document_evidence

    report = verify_document_evidence(data, policy, at_ms)
    _answer(out, report)
    if unpack is not None:
        try:
            entry = parse_document_evidence(data).entry
        except MalformedError as exc:
            out.note(f"nothing was unpacked: {exc}")
        else:
            _unpack(out, entry, unpack)
    return code_of_status(report.overall)


def _unpack(out: Output, data: bytes, directory: Path) -> None:
    """Write the parts, and say so. What is no evidence has no parts; the report says what is wrong with it."""
    try:
        out.note(f"{unpack_evidence(data, directory)} parts are in {directory}")
    except MalformedError as exc:
        out.note(f"nothing was unpacked: {exc}")

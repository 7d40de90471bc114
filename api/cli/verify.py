"""``holdfast verify``: judge an evidence file offline. Imports nothing that needs a database, a chain or a network."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from anchoring.evidence import MAX_EVIDENCE_BYTES
from anchoring.policy_file import load_policy
from anchoring.verifier import verify_evidence
from api.cli.exit_codes import ExitCode, code_of_status
from api.cli.files import read_input
from api.cli.group import CommandGroup, invocation
from api.cli.output import Output
from api.cli.times import parse_time
from api.cli.unpack import unpack_evidence
from identity.errors import MalformedError, RefusedError

__all__ = ["group"]

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

    Needs no home, no network and no keys. The exit code is the verdict.
    """
    out = invocation(ctx).out
    if unpack is not None and unpack.exists():
        raise RefusedError(f"{unpack} exists", hint="name a new directory")
    at_ms = time.time_ns() // 1_000_000 if at is None else parse_time(at)
    data = read_input(file, MAX_EVIDENCE_BYTES)
    report = verify_evidence(data, load_policy(policy), at_ms)
    fields = {key: value for key, value in report.to_json().items() if key not in ("v", "kind")}
    out.record("verification-report", fields, text=report.to_text())
    if unpack is not None:
        _unpack(out, data, unpack)
    return code_of_status(report.overall)


def _unpack(out: Output, data: bytes, directory: Path) -> None:
    """Write the parts, and say so. What is no evidence has no parts; the report says what is wrong with it."""
    try:
        out.note(f"{unpack_evidence(data, directory)} parts are in {directory}")
    except MalformedError as exc:
        out.note(f"nothing was unpacked: {exc}")

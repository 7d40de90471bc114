"""Run the command line, and say once, for every command, how it ended.

One line says what is wrong and one what to do about it. No traceback: HOLDFAST_DEBUG=1 shows it, for a report of a bug.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Mapping, Sequence

import typer

from api.cli.app import COMMANDS, build_app
from api.cli.exit_codes import ExitCode, code_of_error
from api.cli.group import Invocation, Source
from api.cli.output import Output, OutputClosed
from identity.errors import AuditError

__all__ = ["main"]

_TYPER_USAGE = 2
"""Typer's own exit code for a wrong command line; ours for it is 64, because 2 means INDETERMINATE."""

_NEGATIVE = re.compile(r"-[0-9]")
"""How Typer names what it takes for an option: by its first character."""

_REPORT = "this is a fault of holdfast: please report it with what HOLDFAST_DEBUG=1 prints"


def main(arguments: Sequence[str] | None = None, *, commands: Mapping[str, Source] = COMMANDS) -> int:
    """Run one command line and return its exit code. ``arguments``: those of the process by default."""
    arguments = sys.argv[1:] if arguments is None else arguments
    out = Output.for_process(arguments, os.environ)
    try:
        code = _run(arguments, out, commands)
        out.flush()
    except (OutputClosed, SystemExit):  # Typer exits by itself in one case: when its help meets a closed pipe
        out.abandon()
        return ExitCode.IO
    except BaseException as error:  # noqa: BLE001  (the one place where every error ends)
        return _report(error, out)
    if code == ExitCode.INTERRUPTED:
        out.note("interrupted")
    return code


def _run(arguments: Sequence[str], out: Output, commands: Mapping[str, Source]) -> int:
    app = build_app(commands)
    result = app.main(list(arguments), "holdfast", standalone_mode=False, obj=Invocation(out, os.environ))
    return result if isinstance(result, int) else ExitCode.OK


def _report(error: BaseException, out: Output) -> int:
    """Say what is wrong, in one line, and return its exit code."""
    if os.environ.get("HOLDFAST_DEBUG") == "1":
        traceback.print_exception(error, file=out.stderr)
    code, message, hint = _explain(error)
    try:
        out.error(message, code=code, hint=hint, reason=type(error).__name__)
    except (OSError, OutputClosed):
        out.abandon()  # nobody is left to tell; the exit code still says it
    return code


def _explain(error: BaseException) -> tuple[ExitCode, str, str]:
    match error:
        case KeyboardInterrupt() | typer.Abort():
            return ExitCode.INTERRUPTED, "interrupted", ""
        case typer.TyperException():
            return _explain_usage(error)
        case AuditError():
            return code_of_error(error), str(error), error.hint
        case OSError():
            where = f"{error.filename}: " if error.filename is not None else ""
            return ExitCode.IO, f"{where}{error.strerror or error}", ""
    return ExitCode.INTERNAL, f"{type(error).__name__}: {error}".removesuffix(": "), _REPORT


def _explain_usage(error: typer.TyperException) -> tuple[ExitCode, str, str]:
    message = " ".join(error.format_message().split()).removesuffix(".")
    message = message[:1].lower() + message[1:]
    if error.exit_code != _TYPER_USAGE:
        return ExitCode.IO, message, ""
    context = getattr(error, "ctx", None)
    path = "holdfast" if context is None else context.command_path
    if _NEGATIVE.fullmatch(getattr(error, "option_name", "")):
        return ExitCode.USAGE, message, "a negative number goes behind two dashes: -- -5"
    return ExitCode.USAGE, message, f"{path} --help"


if __name__ == "__main__":
    sys.exit(main())

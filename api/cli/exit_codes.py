"""What the exit code of ``holdfast`` says, and the one place where errors become exit codes.

docs/reference/exit-codes.md is this table for people; a test compares the two. A code that is not in it means failure.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from identity.errors import (
    AuditError,
    ConfigurationError,
    ConflictError,
    MalformedError,
    MissingEvidenceError,
    RefusedError,
    StorageError,
    StoreBusy,
    StoreUnreachable,
    TransportError,
    UnknownOutcome,
    VerificationError,
)

if TYPE_CHECKING:
    from identity.verdict import Status

__all__ = ["MEANING", "ExitCode", "UsageError", "code_of_error", "code_of_status"]


class UsageError(AuditError):
    """The command line asks for something that cannot be meant: the user has to write it differently."""


class ExitCode(IntEnum):
    """The codes. 0 to 2 are the verdict of a verification; from 64 on they follow sysexits.h."""

    OK = 0
    FAILED = 1
    INDETERMINATE = 2
    USAGE = 64
    INTERNAL = 70
    IO = 74
    TRY_AGAIN = 75
    REFUSED = 77
    CONFIGURATION = 78
    INTERRUPTED = 130


MEANING: Final[Mapping[ExitCode, str]] = MappingProxyType(
    {
        ExitCode.OK: "done, or every demanded claim PASSED",
        ExitCode.FAILED: "a verification FAILED",
        ExitCode.INDETERMINATE: "a demanded claim is INDETERMINATE: what was given does not decide it",
        ExitCode.USAGE: "the command line is wrong",
        ExitCode.INTERNAL: "a fault of holdfast itself",
        ExitCode.IO: "a file or the store could not be read or written, or is damaged",
        ExitCode.TRY_AGAIN: (
            "not now: locked by another process; a database server, a peer, an authority or a node "
            "cannot be reached; the outcome of a commit is unknown; or a document was changed since it was read"
        ),
        ExitCode.REFUSED: "refused, nothing was changed: input not in its format, wrong passphrase, read-only state",
        ExitCode.CONFIGURATION: "settings, policy or home cannot be used as they are",
        ExitCode.INTERRUPTED: "interrupted",
    }
)

# The first class that fits decides, so a class stands before those it derives from.
_OF_ERROR: Final[tuple[tuple[type[AuditError], ExitCode], ...]] = (
    (UsageError, ExitCode.USAGE),
    (VerificationError, ExitCode.FAILED),
    (MissingEvidenceError, ExitCode.INDETERMINATE),
    (MalformedError, ExitCode.REFUSED),
    (RefusedError, ExitCode.REFUSED),
    (ConflictError, ExitCode.TRY_AGAIN),
    (StoreBusy, ExitCode.TRY_AGAIN),
    (StoreUnreachable, ExitCode.TRY_AGAIN),
    (UnknownOutcome, ExitCode.TRY_AGAIN),
    (StorageError, ExitCode.IO),
    (TransportError, ExitCode.TRY_AGAIN),
    (ConfigurationError, ExitCode.CONFIGURATION),
)

# By the status's text, so that a command that verifies nothing need not load what verifies.
_OF_STATUS: Final[Mapping[str, ExitCode]] = MappingProxyType(
    {"PASSED": ExitCode.OK, "FAILED": ExitCode.FAILED, "INDETERMINATE": ExitCode.INDETERMINATE}
)


def code_of_error(error: BaseException) -> ExitCode:
    """The code for an error that ended a command. What nobody foresaw is ``INTERNAL``."""
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    if isinstance(error, OSError):
        return ExitCode.IO
    return next((code for kind, code in _OF_ERROR if isinstance(error, kind)), ExitCode.INTERNAL)


def code_of_status(status: Status) -> ExitCode:
    """The code for a verdict; it is the exit code under ``--json`` as well."""
    return _OF_STATUS[status.value]

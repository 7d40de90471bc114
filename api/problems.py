"""Errors as HTTP answers them: problem documents (RFC 9457), made in one place from the error tree.

Every error of ``identity.errors`` has a kind here, its own or that of the class that it extends. A kind has a name,
which makes its type URI, and a status. What went wrong inside the node is told to nobody outside: then the
detail is what stands here, and not the error's text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from identity import errors
from identity.errors import AuditError
from identity.textforms import to_base64
from sync.changes import MissingDocument, PurgedDocument, StaleVersion
from sync.intent import RivalIntents
from sync.jsonform import to_json
from sync.view import Cell, View

__all__ = [
    "HEADERS_TOO_LARGE",
    "KINDS",
    "METHOD_NOT_ALLOWED",
    "PROBLEM_JSON",
    "InProgress",
    "Kind",
    "NotFound",
    "PreconditionRequired",
    "Problem",
    "RequestFailed",
    "RequestTimedOut",
    "StaleForReader",
    "TooManyRequests",
    "UsedKey",
    "kind_of",
    "problem_of",
    "siblings_json",
]

PROBLEM_JSON: Final = "application/problem+json"
_URN: Final = "urn:holdfast:problem:"


# --- what only a request can do wrong -------------------------------------------------------------------------------


class RequestFailed(AuditError):
    """A request cannot be served, by a rule of HTTP rather than of the vault."""


class NotFound(RequestFailed):
    """There is nothing of that name."""


class PreconditionRequired(RequestFailed):
    """The request has to say on which version it rests."""


class RequestTimedOut(RequestFailed):
    """A request did not come in time."""


class StaleForReader(StaleVersion):
    """A stale version, told to somebody who may read the document: ``shown`` is what of it may be seen."""

    def __init__(self, stale: StaleVersion, shown: Mapping[str, Any]) -> None:
        AuditError.__init__(self, str(stale), hint=stale.hint)
        self.document, self.etag, self.current = stale.document, stale.etag, stale.current
        self.shown = shown


class TooManyRequests(RequestFailed):
    """This key has asked for more than it may in a minute. ``after_s`` is when to try again."""

    def __init__(self, after_s: int) -> None:
        super().__init__("too many requests with this key", hint=f"try again in {after_s} s")
        self.after_s = after_s


class UsedKey(RequestFailed):
    """An Idempotency-Key that has come before with another request."""


class InProgress(RequestFailed):
    """The request that came before with this Idempotency-Key is still under way."""


# --- kinds ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem. ``detail`` stands in the place of the error's own text, where that is nobody's business."""

    name: str
    status: int
    title: str
    detail: str | None = None
    retry_s: int | None = None
    """When to try again."""
    members: Callable[[Any], Mapping[str, Any]] | None = None
    """Extension members, made from the error."""

    @property
    def type(self) -> str:
        """The URI that names it."""
        return _URN + self.name


_INSIDE: Final = "something went wrong inside the node; its log has more under this request's id"
_WRITTEN: Final = "it may have been written: read what is there before you try again"


def _roots(error: errors.RootMismatch) -> dict[str, Any]:
    return {"expected": error.expected.hex(), "computed": error.computed.hex()}


def _imprints(error: errors.ImprintMismatch) -> dict[str, Any]:
    return {"expected": error.expected.hex(), "found": error.found.hex()}


def _fork(error: errors.ForkDetected) -> dict[str, Any]:
    return {name: to_base64(getattr(error, name)) for name in ("first", "second", "proof")}


def _rivals(error: RivalIntents) -> dict[str, Any]:
    return {name: to_base64(getattr(error, name)) for name in ("first", "second")}


def _reason(error: Any) -> dict[str, Any]:
    return {"reason": error.reason}


def _stale(error: StaleVersion) -> dict[str, Any]:
    return {"document": str(error.document), "etag": error.etag or None}


def _document(error: MissingDocument | PurgedDocument) -> dict[str, Any]:
    return {"document": str(error.document)}


KINDS: Final[Mapping[type[AuditError], Kind]] = {
    errors.AuditError: Kind("internal", 500, "Internal error", _INSIDE),
    errors.MalformedError: Kind("malformed", 400, "Malformed"),
    errors.LimitExceeded: Kind("limit-exceeded", 413, "Larger than is taken"),
    errors.UnsupportedVersion: Kind("unsupported-version", 400, "Unknown version"),
    errors.VerificationError: Kind("verification-failed", 422, "A claim is false"),
    errors.SignatureMismatch: Kind("signature-mismatch", 422, "A signature does not hold"),
    errors.RootMismatch: Kind("root-mismatch", 422, "A Merkle root is another one", members=_roots),
    errors.ForkDetected: Kind("fork-detected", 422, "Two histories under one key", members=_fork),
    errors.HistoryError: Kind(
        "history-error",
        422,
        "An identity event does not follow",
        members=lambda one: {"seq": one.seq, "reason": one.reason},
    ),
    errors.ImprintMismatch: Kind("imprint-mismatch", 422, "A token covers other bytes", members=_imprints),
    errors.TokenRejected: Kind("token-rejected", 422, "A timestamp token fails a check", members=_reason),
    errors.ReceiptMismatch: Kind("receipt-mismatch", 422, "A receipt does not show it", members=_reason),
    errors.LogRuleViolation: Kind(
        "log-rule-violation",
        422,
        "A statement that a log must not carry",
        members=lambda one: {"index": one.index, "reason": one.reason},
    ),
    errors.MissingEvidenceError: Kind("missing-evidence", 404, "Not here"),
    errors.TokenUndecided: Kind("token-undecided", 422, "A timestamp token cannot be judged", members=_reason),
    errors.ConflictError: Kind("conflict", 409, "Somebody else wrote first"),
    RivalIntents: Kind("rival-intents", 409, "Two intents of one key under one number", members=_rivals),
    StaleVersion: Kind("stale-version", 412, "The document is in another version", members=_stale),
    StaleForReader: Kind(
        "stale-version",
        412,
        "The document is in another version",
        members=lambda one: {**_stale(one), **one.shown},
    ),
    MissingDocument: Kind("missing-document", 404, "There is no such document", members=_document),
    errors.RefusedError: Kind("refused", 409, "Refused"),
    PurgedDocument: Kind("purged-document", 410, "The document was ended for good", members=_document),
    errors.WrongPassphrase: Kind("internal", 500, "Internal error", _INSIDE),
    errors.WrongPin: Kind("internal", 500, "Internal error", _INSIDE),
    errors.ReadOnlyState: Kind(
        "read-only-state",
        503,
        "The node must not be written to",
        "the node reads only, until somebody has looked at it",
        members=lambda one: {"state": one.state},
    ),
    errors.PeerMisbehaved: Kind("peer-misbehaved", 422, "Not what the sync protocol has", members=_reason),
    errors.PeerRefused: Kind("peer-refused", 409, "The other side has ended the session", members=_reason),
    errors.Unauthenticated: Kind("unauthenticated", 401, "The request is not signed as it must be", members=_reason),
    errors.Forbidden: Kind("forbidden", 403, "Not allowed", members=_reason),
    errors.TooMany: Kind("too-many-requests", 429, "Too many requests", members=_reason),
    errors.StorageError: Kind("internal", 500, "Internal error", _INSIDE),
    errors.StoreBusy: Kind("busy", 503, "Busy", "the node is busy: try again", retry_s=1),
    errors.StoreUnreachable: Kind("store-unreachable", 503, "The store does not answer", "try again later", retry_s=5),
    errors.Unacknowledged: Kind(
        "unacknowledged",
        500,
        "Written, and not acknowledged",
        "it is written: do not write it again",
        members=lambda one: {"start": one.start, "length": one.length},
    ),
    errors.UnknownOutcome: Kind("unknown-outcome", 500, "Perhaps written", _WRITTEN),
    errors.NotRecorded: Kind("not-recorded", 500, "Written, and not recorded", _WRITTEN),
    errors.DamagedFile: Kind("internal", 500, "Internal error", _INSIDE),
    errors.TransportError: Kind("unreachable", 503, "Somebody else does not answer", "try again later", retry_s=15),
    errors.ConfigurationError: Kind("internal", 500, "Internal error", _INSIDE),
    errors.NewerFormat: Kind("internal", 500, "Internal error", _INSIDE),
    RequestFailed: Kind("bad-request", 400, "Bad request"),
    NotFound: Kind("not-found", 404, "Not found"),
    PreconditionRequired: Kind("precondition-required", 428, "If-Match is missing"),
    RequestTimedOut: Kind("timed-out", 408, "The request did not come in time"),
    TooManyRequests: Kind("too-many-requests", 429, "Too many requests"),
    UsedKey: Kind("idempotency-key-used", 422, "The Idempotency-Key was used for another request"),
    InProgress: Kind("in-progress", 409, "The first request with this Idempotency-Key is under way", retry_s=1),
}
"""The kind of each class of errors; a class that is not named is of the kind of the nearest one that it extends."""

HEADERS_TOO_LARGE: Final = Kind("headers-too-large", 431, "Headers or URL larger than is taken")
METHOD_NOT_ALLOWED: Final = Kind("method-not-allowed", 405, "Not a method of this resource")


def kind_of(error: AuditError) -> Kind:
    """The kind of an error."""
    return next(KINDS[one] for one in type(error).__mro__ if one in KINDS)


# --- documents ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem document, with the headers that go with it."""

    kind: Kind
    detail: str
    members: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        """The document."""
        members = {name: value for name, value in self.members.items() if value is not None or name == "etag"}
        document = {"type": self.kind.type, "title": self.kind.title, "status": self.kind.status}
        return json.dumps({**document, "detail": self.detail, **members}, ensure_ascii=False).encode()


def problem_of(error: AuditError, request_id: str | None = None) -> Problem:
    """What is answered to whoever met an error."""
    kind = kind_of(error)
    members: dict[str, Any] = dict(kind.members(error)) if kind.members is not None else {}
    if kind.status >= 500:
        members["request_id"] = request_id
    elif error.hint and "holdfast " not in error.hint:  # a hint at the command line is none for a program
        members["hint"] = error.hint
    return Problem(kind, str(error) if kind.detail is None else kind.detail, members, dict(_headers(kind, error)))


def _headers(kind: Kind, error: AuditError) -> Iterator[tuple[str, str]]:
    if isinstance(error, TooManyRequests):
        yield "Retry-After", str(error.after_s)
    elif isinstance(error, errors.TooMany):
        yield "Retry-After", str(error.retry_after_s)
    elif kind.retry_s is not None:
        yield "Retry-After", str(kind.retry_s)
    if isinstance(error, errors.Unauthenticated):
        yield "WWW-Authenticate", "Signature"
    if isinstance(error, StaleVersion) and error.etag:
        yield "ETag", f'"{error.etag}"'


def siblings_json(view: View) -> dict[str, list[Any]]:
    """By path, every value of a register that has several, the one that shows first."""
    return {cell.path: [to_json(value) for value in found] for cell in view.cells if (found := _siblings(cell))}


def _siblings(cell: Cell) -> list[Any]:
    different: list[Any] = []
    for value in cell.values if cell.kind.value == "reg" else ():
        if value not in different:
            different.append(value)
    return different if len(different) > 1 else []

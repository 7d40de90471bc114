"""What the visit feed and the revocation feed say: grants, visits, summaries of refusals, and revocations.

Implements docs/spec/visit.md. Each is an entry of a feed of the node's device, so it is signed, checkpointed and
anchored as any other. Here it is decided whether bytes are in the format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, TypeAlias

from api.access.action import Action, Operation
from api.access.capability import MAX_BLOCKS, MAX_NOTE, Scope, Terms
from identity.contexts import VISIT_TERMS
from identity.encoding import Fields, Value, encode
from identity.errors import MalformedError
from ledger.entry import Entry

__all__ = [
    "GRANT",
    "MAX_LINE",
    "REVOKE",
    "SUMMARY",
    "VISIT",
    "Granted",
    "Record",
    "Refusals",
    "Revoked",
    "Visit",
    "action_fields",
    "parse_record",
    "record_entry",
    "terms_digest",
    "terms_fields",
]

VISIT: Final = "visit"
GRANT: Final = "visit-grant"
SUMMARY: Final = "visit-refusals"
REVOKE: Final = "visit-revoke"

MAX_LINE: Final = 512
"""Characters of a request line that are kept."""
_MAX_REASON: Final = 64
_MAX_WHY: Final = 4096
_ID_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class Visit:
    """A request that came with a token, and what was decided.

    ``key`` has signed it, None when no signature held. ``about`` is what it asked for: the fields of an action, or the
    request line alone when it was refused before anybody looked. ``reason`` is "" for a visit that was allowed, and
    ``policy`` the digest of the terms in force, None when the token was not looked into.
    """

    time_ms: int
    token: bytes
    ids: tuple[bytes, ...]
    key: bytes | None
    about: Mapping[str, Value]
    reason: str
    policy: bytes | None

    @property
    def allowed(self) -> bool:
        """Whether the visitor was let in."""
        return not self.reason


@dataclass(frozen=True, slots=True)
class Granted:
    """A token that was minted by this node."""

    time_ms: int
    token: bytes
    id: bytes
    """The revocation id of its first block: what ends it, and all that was made of it."""
    device: bytes
    terms: Terms


@dataclass(frozen=True, slots=True)
class Refusals:
    """So many requests were refused for one reason, without a token that was minted for this node."""

    time_ms: int
    reason: str
    count: int
    since_ms: int


@dataclass(frozen=True, slots=True)
class Revoked:
    """A block of a token that counts no more, and with it every token that it is in."""

    time_ms: int
    id: bytes
    by: bytes
    """The key of whoever wanted it."""
    why: str


Record: TypeAlias = Visit | Granted | Refusals | Revoked


def terms_digest(terms: Terms) -> bytes:
    """32 bytes that stand for terms."""
    return sha256(VISIT_TERMS + encode(terms_fields(terms))).digest()


def terms_fields(terms: Terms) -> dict[str, Value]:
    """Terms as entries carry them."""
    return {
        "holder": terms.holder,
        "db": terms.database,
        "ops": sorted(operation.value for operation in terms.operations),  # type: ignore[dict-item]
        "until": terms.expires_s,
        "scopes": None if terms.scopes is None else [[scope.collection, scope.prefix] for scope in terms.scopes],
        "fields": None if terms.fields is None else sorted(terms.fields),  # type: ignore[dict-item]
        "match": terms.if_match,
        "rate": terms.rate,
        "note": terms.note,
    }


def action_fields(action: Action) -> dict[str, Value]:
    """What an action is about, as a visit says it: only what it says itself."""
    found: dict[str, Value] = {"op": action.operation.value}
    if action.database is not None:
        found["db"] = action.database
    if action.collection is not None:
        found["col"] = action.collection
    if action.key is not None:
        found["key"] = action.key
    if action.key_prefix:
        found["pre"] = action.key_prefix
    if action.fields:
        found["fields"] = sorted(action.fields)  # type: ignore[assignment]
    return found


def record_entry(record: Record) -> Entry:
    """The entry that carries the record."""
    body: dict[str, Value]
    match record:
        case Visit():
            body = {
                "token": record.token,
                "ids": list(record.ids),
                "key": record.key,
                "about": dict(record.about),
                "reason": record.reason,
                "policy": record.policy,
            }
            return Entry(VISIT, record.time_ms, body)
        case Granted():
            body = {"token": record.token, "id": record.id, "dev": record.device, "terms": terms_fields(record.terms)}
            return Entry(GRANT, record.time_ms, body)
        case Refusals():
            body = {"reason": record.reason, "count": record.count, "since": record.since_ms}
            return Entry(SUMMARY, record.time_ms, body)
        case Revoked():
            return Entry(REVOKE, record.time_ms, {"id": record.id, "by": record.by, "why": record.why})


def parse_record(entry: Entry) -> Record | None:
    """What an entry of these feeds says; None for one of another kind. Raises ``MalformedError``."""
    fields = Fields(dict(entry.body), entry.kind)
    record: Record
    match entry.kind:
        case "visit":
            record = Visit(
                entry.claimed_ms,
                fields.bytes("token", length=32),
                fields.bytes_list("ids", length=_ID_BYTES, max=MAX_BLOCKS),
                fields.optional_bytes("key", length=32),
                _parse_about(fields.map("about")),
                fields.text("reason", max=_MAX_REASON),
                fields.optional_bytes("policy", length=32),
            )
        case "visit-grant":
            record = Granted(
                entry.claimed_ms,
                fields.bytes("token", length=32),
                fields.bytes("id", length=_ID_BYTES),
                fields.bytes("dev", length=32),
                _parse_terms(fields.map("terms")),
            )
        case "visit-refusals":
            record = Refusals(
                entry.claimed_ms,
                fields.text("reason", min=1, max=_MAX_REASON),
                fields.int("count", min=1),
                fields.int("since"),
            )
        case "visit-revoke":
            record = Revoked(
                entry.claimed_ms,
                fields.bytes("id", length=_ID_BYTES),
                fields.bytes("by", length=32),
                fields.text("why", max=_MAX_WHY),
            )
        case _:
            return None
    fields.done()
    return record


def _parse_about(fields: Fields) -> dict[str, Value]:
    about: dict[str, Value] = {}
    if fields.has("line"):
        about["line"] = fields.text("line", min=1, max=MAX_LINE)
    else:
        about["op"] = fields.text("op", min=1, max=_MAX_REASON)
        if fields.has("db"):
            about["db"] = fields.bytes("db", length=32)
        for name, most in (("col", 200), ("key", 512), ("pre", 512)):
            if fields.has(name):
                about[name] = fields.text(name, max=most)
        if fields.has("fields"):
            about["fields"] = _texts(fields.list("fields", min=1))  # type: ignore[assignment]
    fields.done()
    return about


def _parse_terms(fields: Fields) -> Terms:
    operations, names = _texts(fields.list("ops")), fields.optional_list("fields")
    scopes = fields.optional_list("scopes")
    try:
        terms = Terms(
            fields.bytes("holder", length=32),
            fields.bytes("db", length=32),
            frozenset(map(Operation, operations)),
            fields.int("until"),
            None if scopes is None else tuple(Scope(*_texts(scope, 2)) for scope in scopes),
            None if names is None else frozenset(_texts(names)),
            fields.bool("match"),
            fields.int("rate", min=1),
            fields.text("note", max=MAX_NOTE),
        )
    except ValueError as exc:
        raise MalformedError("terms: an operation that there is not") from exc
    fields.done()
    return terms


def _texts(value: Value, count: int | None = None) -> list[str]:
    if not isinstance(value, list) or (count is not None and len(value) != count):
        raise MalformedError("a list of texts is wanted")
    texts = [one for one in value if isinstance(one, str)]
    if len(texts) != len(value):
        raise MalformedError("a list of texts is wanted")
    return texts

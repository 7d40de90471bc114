"""Identity events: their bytes, their digests, and the signatures that stand beside them.

An event is canonical CBOR ``{v, type, seq, time, body}`` and, in all but the inception, ``id`` and ``prev``. What is
parsed here is well-formed and no more: whether it follows from the events before it, and whether its signers may say
it, is decided by ``identity.history``. Specified in docs/spec/identity.md, section "Events".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from types import MappingProxyType
from typing import Final, TypeAlias, TypeVar

from identity.contexts import IDENTITY_EVENT_DIGEST, IDENTITY_EVENT_SIGNATURE, ROOT_KEY_COMMITMENT
from identity.encoding import Fields, Value, decode, encode
from identity.errors import LimitExceeded, MalformedError, UnsupportedVersion
from identity.keys import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Signer
from identity.textforms import parse_zbase32, to_zbase32

__all__ = [
    "MAX_EVENT_BYTES",
    "MAX_LAST_GOOD",
    "MAX_ROOT_KEYS",
    "AddDevice",
    "BindLog",
    "Body",
    "Close",
    "DeviceClass",
    "Event",
    "Inception",
    "LastGood",
    "NextKeys",
    "RevocationReason",
    "RevokeDevice",
    "RootKeys",
    "RotateRoot",
    "SignedEvent",
    "encode_event",
    "event_digest",
    "key_commitment",
    "parse_event",
    "parse_signed_event",
    "sign_event",
]

EVENT_VERSION: Final = 1
MAX_EVENT_BYTES: Final = 512 * 1024
MAX_ROOT_KEYS: Final = 64
MAX_LAST_GOOD: Final = 4096
"""Feeds that one revocation can name."""

_DIGEST_BYTES: Final = 32

_Choice = TypeVar("_Choice", bound=StrEnum)


class DeviceClass(StrEnum):
    """What a device key may do besides signing its feeds: only an admin may add devices."""

    ADMIN = "admin"
    DEVICE = "device"
    SERVICE = "service"


class RevocationReason(StrEnum):
    """Why a device is revoked. Only ``RETIRED`` says that nobody else had the key."""

    RETIRED = "retired"
    LOST = "lost"
    STOLEN = "stolen"
    COMPROMISED = "compromised"
    SUPERSEDED = "superseded"
    UNSPECIFIED = "unspecified"


@dataclass(frozen=True, slots=True)
class RootKeys:
    """Root keys in force: any ``threshold`` of the 32-byte ``keys`` sign for the root."""

    threshold: int
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class NextKeys:
    """The root keys after these, known only by their commitments (``key_commitment``, 32 bytes each) until revealed."""

    threshold: int
    digests: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class LastGood:
    """How far a feed is vouched for: its first ``length`` entries, whose tree hash (32 bytes) is ``tree_hash``."""

    length: int
    tree_hash: bytes


@dataclass(frozen=True, slots=True)
class Inception:
    """The first event: its digest is the identity's id."""

    label: str
    roots: RootKeys
    next: NextKeys


@dataclass(frozen=True, slots=True)
class RotateRoot:
    """Reveals the pre-committed root keys in full and commits to the ones after them."""

    roots: RootKeys
    next: NextKeys


@dataclass(frozen=True, slots=True)
class AddDevice:
    """Authorises a device key. ``by`` is the authorising admin's key, or None for the root."""

    device: bytes
    device_class: DeviceClass
    name: str
    by: bytes | None


@dataclass(frozen=True, slots=True)
class RevokeDevice:
    """Ends a device key. ``last_good`` (feed key to LastGood) is what it wrote that is vouched for.

    ``last_event``, for an admin only, is the digest of the last event up to which its authorisations stand.
    """

    device: bytes
    last_good: Mapping[bytes, LastGood]
    last_event: bytes | None
    compromised_since_ms: int | None
    reason: RevocationReason


@dataclass(frozen=True, slots=True)
class BindLog:
    """Names a checkpoint log (its 32-byte id) as one of this identity's."""

    log: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """Nothing comes after it."""


Body: TypeAlias = Inception | RotateRoot | AddDevice | RevokeDevice | BindLog | Close


@dataclass(frozen=True, slots=True)
class Event:
    """One event, parsed. ``time_ms`` is claimed (ms UTC) and proves nothing; the inception has no identity and prev."""

    seq: int
    time_ms: int
    body: Body
    identity: bytes | None
    prev: bytes | None

    @property
    def type(self) -> str:
        """The event type as it stands in the bytes."""
        return _TYPE_NAMES[type(self.body)]


_TYPE_NAMES: Final[dict[type[Body], str]] = {
    Inception: "inception",
    RotateRoot: "rotate_root",
    AddDevice: "add_device",
    RevokeDevice: "revoke_device",
    BindLog: "bind_log",
    Close: "close",
}


@dataclass(frozen=True, slots=True)
class SignedEvent:
    """An event's bytes and the signatures beside them, as (key index, 64-byte signature) in ascending order."""

    event: bytes
    signatures: tuple[tuple[int, bytes], ...]

    def encode(self) -> bytes:
        """The bytes that ``parse_signed_event`` reads."""
        return encode({"event": self.event, "signatures": [[index, signature] for index, signature in self.signatures]})


def event_digest(event: bytes) -> bytes:
    """SHA-256 over context and event bytes: what ``prev`` names; the inception's is the identity id. 32 bytes."""
    return hashlib.sha256(IDENTITY_EVENT_DIGEST + event).digest()


def key_commitment(public_key: bytes) -> bytes:
    """SHA-256 over context and a root public key: what the event before its rotation carries of it. 32 bytes."""
    return hashlib.sha256(ROOT_KEY_COMMITMENT + public_key).digest()


def sign_event(event: bytes, signers: Iterable[tuple[int, Signer]]) -> SignedEvent:
    """Sign event bytes with one or several keys; each index is the key's place in the event's signer list.

    Raises ``MalformedError`` when ``event`` is not one, or an index stands twice.
    """
    parse_event(event)
    signatures = [(index, signer.sign(IDENTITY_EVENT_SIGNATURE + event)) for index, signer in signers]
    signed = SignedEvent(event, tuple(sorted(signatures)))
    return parse_signed_event(signed.encode())


def parse_signed_event(data: bytes) -> SignedEvent:
    """Read ``{event, signatures: [[index, signature], ...]}``. Neither the event nor a signature is verified.

    Raises ``MalformedError``.
    """
    fields = Fields(decode(data), "signed event")
    event = fields.bytes("event", max=MAX_EVENT_BYTES)
    signatures = tuple(_signature(item) for item in fields.list("signatures", min=1, max=MAX_ROOT_KEYS + 1))
    fields.done()
    if any(first[0] >= second[0] for first, second in pairwise(signatures)):
        raise MalformedError("signed event: signatures out of order or one index twice")
    return SignedEvent(event, signatures)


def _signature(item: Value) -> tuple[int, bytes]:
    match item:
        case [int() as index, bytes() as signature] if (
            not isinstance(index, bool) and 0 <= index <= MAX_ROOT_KEYS and len(signature) == SIGNATURE_BYTES
        ):
            return index, signature
    raise MalformedError("signed event: a signature must be [key index, 64 bytes]")


# --- events as bytes ------------------------------------------------------------------------------------------------


def encode_event(event: Event) -> bytes:
    """The canonical bytes of an event. Raises ``MalformedError`` where ``parse_event`` would refuse them."""
    members: dict[str, object] = {
        "v": EVENT_VERSION,
        "type": event.type,
        "seq": event.seq,
        "time": event.time_ms,
        "body": _encode_body(event.body),
    }
    if not isinstance(event.body, Inception):
        members |= {"id": event.identity, "prev": event.prev}
    data = encode(members)
    parse_event(data)
    return data


def _encode_body(body: Body) -> dict[str, object]:
    match body:
        case Inception():
            return {"label": body.label, **_encode_root_keys(body.roots, body.next)}
        case RotateRoot():
            return _encode_root_keys(body.roots, body.next)
        case AddDevice():
            return {"device": body.device, "class": str(body.device_class), "name": body.name, "by": body.by}
        case RevokeDevice():
            return {
                "device": body.device,
                "last_good": {to_zbase32(feed): [g.length, g.tree_hash] for feed, g in body.last_good.items()},
                "last_event": body.last_event,
                "compromised_since": body.compromised_since_ms,
                "reason": str(body.reason),
            }
        case BindLog():
            return {"log": body.log}
        case Close():
            return {}


def _encode_root_keys(roots: RootKeys, following: NextKeys) -> dict[str, object]:
    return {
        "roots": {"k": roots.threshold, "keys": list(roots.keys)},
        "next": {"k": following.threshold, "digests": list(following.digests)},
    }


def parse_event(data: bytes) -> Event:
    """Read one event. Raises ``MalformedError``; ``UnsupportedVersion`` for a version or type this reader lacks."""
    if len(data) > MAX_EVENT_BYTES:
        raise LimitExceeded(f"identity event: {len(data)} bytes, at most {MAX_EVENT_BYTES}")
    fields = Fields(decode(data), "identity event")
    version = fields.int("v")
    if version != EVENT_VERSION:
        raise UnsupportedVersion(f"identity event: version {version}")
    event_type = fields.text("type", max=64)
    seq, time_ms = fields.int("seq"), fields.int("time")
    body = _parse_body(event_type, fields.map("body"))
    identity = prev = None
    if not isinstance(body, Inception):
        identity = fields.bytes("id", length=_DIGEST_BYTES)
        prev = fields.bytes("prev", length=_DIGEST_BYTES)
    fields.done()
    if (seq == 0) != isinstance(body, Inception):
        raise MalformedError(f"identity event: {event_type} at seq {seq}")
    return Event(seq, time_ms, body, identity, prev)


def _parse_body(event_type: str, fields: Fields) -> Body:
    body: Body
    match event_type:
        case "inception":
            body = Inception(fields.name("label"), _parse_roots(fields), _parse_next(fields))
        case "rotate_root":
            body = RotateRoot(_parse_roots(fields), _parse_next(fields))
        case "add_device":
            body = _parse_add_device(fields)
        case "revoke_device":
            body = _parse_revoke_device(fields)
        case "bind_log":
            body = BindLog(fields.bytes("log", length=_DIGEST_BYTES))
        case "close":
            body = Close()
        case _:
            raise UnsupportedVersion(f"identity event: type {event_type!r}")
    fields.done()
    return body


def _parse_roots(fields: Fields) -> RootKeys:
    threshold, keys = _parse_key_set(fields.map("roots"), "keys", PUBLIC_KEY_BYTES)
    return RootKeys(threshold, keys)


def _parse_next(fields: Fields) -> NextKeys:
    threshold, digests = _parse_key_set(fields.map("next"), "digests", _DIGEST_BYTES)
    return NextKeys(threshold, digests)


def _parse_key_set(fields: Fields, key: str, length: int) -> tuple[int, tuple[bytes, ...]]:
    members = fields.bytes_list(key, length=length, min=1, max=MAX_ROOT_KEYS)
    threshold = fields.int("k", min=1, max=len(members))
    fields.done()
    if len(set(members)) != len(members):
        raise MalformedError(f"{fields.what}: {key!r} holds one value twice")
    return threshold, members


def _parse_add_device(fields: Fields) -> AddDevice:
    return AddDevice(
        device=fields.bytes("device", length=PUBLIC_KEY_BYTES),
        device_class=_parse_choice(DeviceClass, fields, "class"),
        name=fields.name("name"),
        by=fields.optional_bytes("by", length=PUBLIC_KEY_BYTES),
    )


def _parse_revoke_device(fields: Fields) -> RevokeDevice:
    body = RevokeDevice(
        device=fields.bytes("device", length=PUBLIC_KEY_BYTES),
        last_good=_parse_last_good(fields.dict("last_good", max=MAX_LAST_GOOD)),
        last_event=fields.optional_bytes("last_event", length=_DIGEST_BYTES),
        compromised_since_ms=fields.optional_int("compromised_since"),
        reason=_parse_choice(RevocationReason, fields, "reason"),
    )
    if body.reason is RevocationReason.RETIRED and body.compromised_since_ms is not None:
        raise MalformedError(f"{fields.what}: a retired device can't have 'compromised_since'")
    return body


def _parse_last_good(feeds: Mapping[str, Value]) -> Mapping[bytes, LastGood]:
    return MappingProxyType({parse_zbase32(feed): _last_good(item) for feed, item in feeds.items()})


def _last_good(item: Value) -> LastGood:
    match item:
        case [int() as length, bytes() as tree_hash] if (
            not isinstance(length, bool) and length >= 1 and len(tree_hash) == _DIGEST_BYTES
        ):
            return LastGood(length, tree_hash)
    raise MalformedError("identity event: an item of 'last_good' must be [length from 1, tree hash of 32 bytes]")


def _parse_choice(choices: type[_Choice], fields: Fields, key: str) -> _Choice:
    value = fields.text(key, max=64)
    try:
        return choices(value)
    except ValueError as exc:
        raise MalformedError(f"{fields.what}: {key!r} is {value!r}") from exc

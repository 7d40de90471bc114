"""Acts of membership: what entries of kind ``member`` carry.

Implements docs/spec/membership.md, section "Format". Here it is decided whether bytes are in the format; what a set of
acts amounts to is ``sync.membership``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

from identity.encoding import Fields, Value
from identity.errors import LimitExceeded, MalformedError
from identity.event import MAX_LAST_GOOD, LastGood, SignedEvent, event_digest, parse_event, parse_signed_event
from identity.textforms import parse_zbase32, to_zbase32
from ledger.entry import Entry
from ledger.merkle import HASH_BYTES, MAX_LENGTH
from sync.clock import wall_ms
from sync.transaction import MEMBER, Founding, Stamp, stamp_fields, stamp_of

__all__ = [
    "MAX_ACT_BYTES",
    "MAX_EVENTS",
    "Act",
    "Admit",
    "CarryEvents",
    "Dismiss",
    "EventLink",
    "Found",
    "MemberEntry",
    "Role",
    "event_link",
    "member_entry",
    "parse_member",
]

MAX_EVENTS: Final = 1024
"""Identity events in one act."""

MAX_ACT_BYTES: Final = 512 * 1024
"""Of all signed events in one act together."""

_SALT_BYTES: Final = 16
_MAX_REASON: Final = 4096


class Role(StrEnum):
    """What a member may do. An admin writes and decides about members; a reader does neither."""

    ADMIN = "admin"
    WRITER = "writer"
    READER = "reader"


@dataclass(frozen=True, slots=True)
class Found:
    """The first act: the founder is an admin whom nobody else can dismiss."""

    founding: Founding
    events: tuple[SignedEvent, ...]

    @property
    def identity(self) -> bytes:
        """The founder's."""
        return self.founding.identity


@dataclass(frozen=True, slots=True)
class Admit:
    """An admin makes ``identity`` a member, or gives a member another role.

    Its ``events`` may be left to a ``CarryEvents`` of the new member's own.
    """

    identity: bytes
    role: Role
    events: tuple[SignedEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class CarryEvents:
    """Newer events of ``identity``. Anybody may carry them: their signatures speak for themselves."""

    identity: bytes
    events: tuple[SignedEvent, ...]


@dataclass(frozen=True, slots=True)
class Dismiss:
    """An admin ends a membership. ``last_good``, by feed key, is what counts of each feed; one left out has nothing."""

    identity: bytes
    last_good: Mapping[bytes, LastGood]
    reason: str


Act: TypeAlias = Found | Admit | CarryEvents | Dismiss


@dataclass(frozen=True, slots=True)
class MemberEntry:
    """What an entry of kind ``member`` carries: one act."""

    stamp: Stamp
    act: Act


# --- the entry ------------------------------------------------------------------------------------------------------


def member_entry(member: MemberEntry) -> Entry:
    """The entry that carries the act; its claimed time is the clock's. Events are put in their one order.

    Raises ``MalformedError`` or ``LimitExceeded`` when the act is not well-formed.
    """
    body: dict[str, Value] = {**stamp_fields(member.stamp), "act": _act_fields(member.act)}
    entry = Entry(MEMBER, wall_ms(member.stamp.reading), body)
    parse_member(entry)
    return entry


def parse_member(entry: Entry) -> MemberEntry:
    """The act that an entry of kind ``member`` carries. Its events are well-formed, and not verified.

    Raises ``MalformedError``, ``LimitExceeded``, ``UnsupportedVersion`` for events that this reader does not know.
    """
    if entry.kind != MEMBER:
        raise MalformedError(f"entry: of kind {entry.kind!r}, not an act of membership")
    fields = Fields(dict(entry.body), "member")
    stamp = stamp_of(entry, fields)
    act = fields.map("act")
    reader = _READERS.get(act.text("type", max=64))
    if reader is None:
        raise MalformedError("member: an unknown act")
    member = MemberEntry(stamp, reader(act))
    act.done()
    fields.done()
    return member


def _act_fields(act: Act) -> dict[str, Value]:
    match act:
        case Found():
            return {"type": "found", **act.founding.fields(), "events": _encode_events(act.events)}
        case Admit():
            events = _encode_events(act.events)
            return {"type": "admit", "identity": act.identity, "role": str(act.role), "events": events}
        case CarryEvents():
            return {"type": "events", "identity": act.identity, "events": _encode_events(act.events)}
        case Dismiss():
            last_good: dict[str, Value] = {
                to_zbase32(feed): [good.length, good.tree_hash] for feed, good in act.last_good.items()
            }
            return {"type": "dismiss", "identity": act.identity, "last_good": last_good, "reason": act.reason}


def _encode_events(events: Iterable[SignedEvent]) -> list[Value]:
    return [signed.encode() for signed in sorted(events, key=lambda signed: event_link(signed).order)]


def _read_found(fields: Fields) -> Found:
    name, identity = fields.name("name"), fields.bytes("identity", length=HASH_BYTES)
    founding = Founding(name, identity, fields.bytes("salt", length=_SALT_BYTES))
    return Found(founding, _read_events(fields, identity, least=1))


def _read_admit(fields: Fields) -> Admit:
    identity, role = fields.bytes("identity", length=HASH_BYTES), fields.text("role", max=64)
    if role not in _ROLES:
        raise MalformedError("member: an unknown role")
    return Admit(identity, Role(role), _read_events(fields, identity, least=0))


def _read_carried(fields: Fields) -> CarryEvents:
    identity = fields.bytes("identity", length=HASH_BYTES)
    return CarryEvents(identity, _read_events(fields, identity, least=1))


def _read_dismiss(fields: Fields) -> Dismiss:
    identity = fields.bytes("identity", length=HASH_BYTES)
    feeds = fields.dict("last_good", max=MAX_LAST_GOOD)
    last_good = {parse_zbase32(feed): _read_last_good(item) for feed, item in feeds.items()}
    return Dismiss(identity, MappingProxyType(last_good), fields.text("reason", max=_MAX_REASON))


_ROLES: Final = frozenset(role.value for role in Role)
_READERS: Final[Mapping[str, Callable[[Fields], Act]]] = {
    "found": _read_found,
    "admit": _read_admit,
    "events": _read_carried,
    "dismiss": _read_dismiss,
}


def _read_last_good(item: Value) -> LastGood:
    match item:
        case [int() as length, bytes() as tree_hash] if (
            not isinstance(length, bool) and 1 <= length <= MAX_LENGTH and len(tree_hash) == HASH_BYTES
        ):
            return LastGood(length, tree_hash)
    raise MalformedError("member: an item of 'last_good' is a length from 1 and a 32-byte tree hash")


def _read_events(fields: Fields, identity: bytes, *, least: int) -> tuple[SignedEvent, ...]:
    """Events of one identity in ascending order of seq and digest: a set has one spelling."""
    events = []
    left = MAX_ACT_BYTES
    for item in fields.list("events", min=least, max=MAX_EVENTS):
        if not isinstance(item, bytes):
            raise MalformedError("member: an event is bytes")
        left -= len(item)
        if left < 0:
            raise LimitExceeded(f"member: more than {MAX_ACT_BYTES} bytes of events")
        events.append(parse_signed_event(item))
    links = [event_link(signed) for signed in events]
    if any(link.identity != identity for link in links):
        raise MalformedError("member: an event of another identity")
    if any(first.order >= second.order for first, second in pairwise(links)):
        raise MalformedError("member: 'events' is not in ascending order")
    return tuple(events)


# --- where events belong --------------------------------------------------------------------------------------------


class EventLink(NamedTuple):
    """Where an event says that it belongs. ``prev`` is None for an inception, whose digest is the identity."""

    seq: int
    digest: bytes
    prev: bytes | None
    identity: bytes

    @property
    def order(self) -> tuple[int, bytes]:
        """In which the events of an act stand."""
        return self.seq, self.digest


@lru_cache(maxsize=4096)  # each is looked at in every fold over a set that has it
def event_link(signed: SignedEvent) -> EventLink:
    """Where an event says that it belongs. Raises ``MalformedError``."""
    event = parse_event(signed.event)
    digest = event_digest(signed.event)
    return EventLink(event.seq, digest, event.prev, digest if event.identity is None else event.identity)

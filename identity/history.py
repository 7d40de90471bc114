"""Key history: which keys spoke for an identity, when, and how far each is vouched for.

``fold`` is a pure function from the events of one identity, in the order they were accepted, to a ``KeyHistory``. It
verifies every signature and every rule; one event that breaks a rule is refused by name and nothing is returned.
Specified in docs/spec/identity.md, section "Folding". The builders below it make the next event of a history.

The event format is in ``identity.event``; its public names are given on here, because whoever folds needs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

from identity.contexts import IDENTITY_EVENT_SIGNATURE
from identity.errors import HistoryError, SignatureMismatch
from identity.event import (
    AddDevice,
    BindLog,
    Body,
    Close,
    DeviceClass,
    Event,
    Inception,
    LastGood,
    NextKeys,
    RevocationReason,
    RevokeDevice,
    RootKeys,
    RotateRoot,
    SignedEvent,
    encode_event,
    event_digest,
    key_commitment,
    parse_event,
    parse_signed_event,
    sign_event,
)
from identity.keys import verify_signature

__all__ = [
    "Device",
    "DeviceClass",
    "EventRecord",
    "KeyHistory",
    "LastGood",
    "ProposedEvent",
    "Revocation",
    "RevocationReason",
    "SignedEvent",
    "build_add_device",
    "build_bind_log",
    "build_close",
    "build_inception",
    "build_revoke_device",
    "build_rotate_root",
    "event_digest",
    "fold",
    "fold_proposed",
    "key_commitment",
    "parse_signed_event",
    "sign_event",
]


@dataclass(frozen=True, slots=True)
class Revocation:
    """The end of a device key, from the ``revoke_device`` at ``seq`` with ``digest``. A device has at most one.

    ``last_good`` maps feed keys to what is vouched for; a feed that isn't in it has nothing that is.
    """

    seq: int
    digest: bytes
    last_good: Mapping[bytes, LastGood]
    compromised_since_ms: int | None
    reason: RevocationReason
    last_event: bytes | None


@dataclass(frozen=True, slots=True)
class Device:
    """An authorised device key. ``authorised_by`` is the admin's key, or None when the root added it."""

    key: bytes
    name: str
    device_class: DeviceClass
    added_seq: int
    authorised_by: bytes | None
    revocation: Revocation | None


class EventRecord(NamedTuple):
    """One accepted event: its position, digest and type."""

    seq: int
    digest: bytes
    type: str


@dataclass(frozen=True, slots=True)
class KeyHistory:
    """What the events of one identity amount to.

    ``seq`` and ``head`` are the last event's; ``generation`` counts root rotations. ``logs`` are ids in the order they
    were bound. ``duplicity``, when there is any, holds the digests of two valid events with one ``prev``; the rest is
    then the branch of the first, and nothing about the identity after that ``prev`` can be relied on.
    """

    identity: bytes
    label: str
    seq: int
    head: bytes
    generation: int
    root_keys: tuple[bytes, ...]
    root_threshold: int
    next_digests: tuple[bytes, ...]
    next_threshold: int
    devices: Mapping[bytes, Device]
    logs: tuple[bytes, ...]
    closed: bool
    duplicity: tuple[bytes, bytes] | None
    events: tuple[EventRecord, ...]


@dataclass(frozen=True, slots=True)
class ProposedEvent:
    """An event that follows from those before it, and who has signed it so far.

    ``authority`` are the keys of which ``threshold`` have to sign, ``signed`` the places among them of those that have.
    ``before`` and ``after`` are the histories around it; an inception has none before.
    """

    signed_event: SignedEvent
    event: Event
    authority: tuple[bytes, ...]
    threshold: int
    signed: frozenset[int]
    before: KeyHistory | None
    after: KeyHistory

    @property
    def missing(self) -> int:
        """How many signatures it still takes."""
        return max(0, self.threshold - len(self.signed))


def fold(events: Sequence[SignedEvent]) -> KeyHistory:
    """The key history of one identity from all its events, in the order they were accepted.

    Every signature that is given is verified and must hold. One event may contradict the accepted ones by using a
    ``prev`` that is taken; when it is valid otherwise the history becomes duplicitous and goes on with the first
    branch. Anything further on another branch is refused.

    Raises ``HistoryError`` (naming the rule), ``SignatureMismatch`` or ``MalformedError``.
    """
    return _fold(events).freeze()


def fold_proposed(history: Sequence[SignedEvent], proposed: Sequence[SignedEvent]) -> list[ProposedEvent]:
    """What events amount to that are going to follow ``history`` and lack signatures of their authority.

    All rules of ``fold`` hold but one: fewer signatures than the threshold will do, none included. Those that are given
    must hold, and a device must have signed for itself. ``history`` is empty when the first one is an inception. Raises
    as ``fold``.
    """
    folding = _fold(history) if history else None
    steps = []
    for signed in proposed:
        event = parse_event(signed.event)
        before = None if folding is None else folding.freeze()
        if folding is None:
            folding = _Folding(signed, complete=False)
        else:
            folding.complete = False
            folding.extend(signed, event)
        after = folding.freeze()
        authority, threshold = _authority(event.body, after)
        places = frozenset(index for index, _ in signed.signatures if index < len(authority))
        steps.append(ProposedEvent(signed, event, authority, threshold, places, before, after))
    return steps


def _authority(body: Body, after: KeyHistory) -> tuple[tuple[bytes, ...], int]:
    """The keys that sign an event, and how many: the admin that is named, or the root keys as they are after it."""
    if isinstance(body, AddDevice) and body.by is not None:
        return (body.by,), 1
    return after.root_keys, after.root_threshold


def _fold(events: Sequence[SignedEvent]) -> _Folding:
    if not events:
        raise HistoryError(0, "no events")
    folding = _Folding(events[0])
    accepted = [events[0]]
    for signed in events[1:]:
        event = parse_event(signed.event)
        position = folding.positions.get(event.prev or b"")
        if position is None or position == folding.seq:
            folding.extend(signed, event)
            accepted.append(signed)
        else:
            _check_rival(folding, accepted[: position + 1], signed, event)
    return folding


def _check_rival(folding: _Folding, before: Sequence[SignedEvent], signed: SignedEvent, event: Event) -> None:
    """Record that ``signed`` contradicts the accepted event after ``before``, if it would have been valid there."""
    digest = event_digest(signed.event)
    if digest in folding.positions:
        raise HistoryError(event.seq, "the event is in the history already")
    if folding.duplicity is not None:
        raise HistoryError(event.seq, "one more branch of a history that is known to be duplicitous")
    branch = _Folding(before[0])
    for accepted in before[1:]:
        branch.extend(accepted, parse_event(accepted.event))
    branch.extend(signed, event)
    folding.duplicity = (folding.events[len(before)].digest, digest)


class _Folding:
    """The history so far, while it is being folded. ``complete``: every event must have all signatures it takes."""

    def __init__(self, signed: SignedEvent, *, complete: bool = True) -> None:
        self.complete = complete
        event = parse_event(signed.event)
        body = event.body
        if not isinstance(body, Inception):
            raise HistoryError(event.seq, f"the first event is {event.type}, not an inception")
        self._verify(event.seq, signed, body.roots.keys, body.roots.threshold)
        self.identity = event_digest(signed.event)
        self.label = body.label
        self.roots, self.next = body.roots, body.next
        self.generation = 0
        self.devices: dict[bytes, Device] = {}
        self.logs: list[bytes] = []
        self.closed = False
        self.duplicity: tuple[bytes, bytes] | None = None
        self.events: list[EventRecord] = []
        self.positions: dict[bytes, int] = {}
        # Commitments of every key that has a role or will get one: a key serves one purpose, once.
        self.taken: set[bytes] = set()
        self._take(event.seq, [key_commitment(key) for key in body.roots.keys])
        self._take(event.seq, body.next.digests)
        self._record(event, self.identity)

    @property
    def seq(self) -> int:
        return len(self.events) - 1

    def extend(self, signed: SignedEvent, event: Event) -> None:
        """Apply the next event. Raises when it does not follow from the ones before it."""
        if isinstance(event.body, Inception):
            raise HistoryError(event.seq, "a second inception")
        if event.identity != self.identity:
            raise HistoryError(event.seq, "belongs to another identity")
        if self.closed and event.prev == self.events[-1].digest:
            raise HistoryError(event.seq, "comes after the identity was closed")
        if event.prev != self.events[-1].digest:
            raise HistoryError(event.seq, "its prev is not an event of this history")
        if event.seq != self.seq + 1:
            raise HistoryError(event.seq, f"its prev is at seq {self.seq}")
        digest = event_digest(signed.event)
        self._apply(signed, event, event.body, digest)
        self._record(event, digest)

    def freeze(self) -> KeyHistory:
        return KeyHistory(
            identity=self.identity,
            label=self.label,
            seq=self.seq,
            head=self.events[-1].digest,
            generation=self.generation,
            root_keys=self.roots.keys,
            root_threshold=self.roots.threshold,
            next_digests=self.next.digests,
            next_threshold=self.next.threshold,
            devices=MappingProxyType(dict(self.devices)),
            logs=tuple(self.logs),
            closed=self.closed,
            duplicity=self.duplicity,
            events=tuple(self.events),
        )

    def _record(self, event: Event, digest: bytes) -> None:
        self.positions[digest] = event.seq
        self.events.append(EventRecord(event.seq, digest, event.type))

    def _take(self, seq: int, commitments: Iterable[bytes]) -> None:
        for commitment in commitments:
            if commitment in self.taken:
                raise HistoryError(seq, "a key that has, had or will get another role in this identity")
            self.taken.add(commitment)

    def _apply(self, signed: SignedEvent, event: Event, body: Body, digest: bytes) -> None:
        match body:
            case RotateRoot():
                self._rotate_root(signed, event.seq, body)
            case AddDevice():
                self._add_device(signed, event.seq, body)
            case RevokeDevice():
                self._verify_root(signed, event.seq)
                self._revoke_device(event.seq, body, digest)
            case BindLog():
                self._verify_root(signed, event.seq)
                if body.log in self.logs:
                    raise HistoryError(event.seq, "binds a log that is bound already")
                self.logs.append(body.log)
            case Close():
                self._verify_root(signed, event.seq)
                self.closed = True

    def _verify_root(self, signed: SignedEvent, seq: int) -> None:
        self._verify(seq, signed, self.roots.keys, self.roots.threshold)

    def _verify(
        self,
        seq: int,
        signed: SignedEvent,
        authority: Sequence[bytes],
        threshold: int,
        *,
        possession: bytes | None = None,
    ) -> None:
        _verify_threshold(seq, signed, authority, threshold if self.complete else 0, possession=possession)

    def _rotate_root(self, signed: SignedEvent, seq: int, body: RotateRoot) -> None:
        if tuple(key_commitment(key) for key in body.roots.keys) != self.next.digests:
            raise HistoryError(seq, "the root keys are not the ones that were committed to")
        if body.roots.threshold != self.next.threshold:
            raise HistoryError(seq, "the root threshold is not the one that was committed to")
        self._verify(seq, signed, body.roots.keys, body.roots.threshold)
        self._take(seq, body.next.digests)
        self.roots, self.next = body.roots, body.next
        self.generation += 1

    def _add_device(self, signed: SignedEvent, seq: int, body: AddDevice) -> None:
        authority, threshold = self.roots.keys, self.roots.threshold
        if body.by is not None:
            self._check_admin(seq, body, body.by)
            authority, threshold = (body.by,), 1
        self._verify(seq, signed, authority, threshold, possession=body.device)
        self._take(seq, [key_commitment(body.device)])
        self.devices[body.device] = Device(body.device, body.name, body.device_class, seq, body.by, None)

    def _check_admin(self, seq: int, body: AddDevice, by: bytes) -> None:
        admin = self.devices.get(by)
        if admin is None or admin.device_class is not DeviceClass.ADMIN:
            raise HistoryError(seq, "authorised by a key that is no admin")
        if admin.revocation is not None:
            raise HistoryError(seq, "authorised by an admin that is revoked")
        if body.device_class is DeviceClass.ADMIN:
            raise HistoryError(seq, "an admin can't add an admin")

    def _revoke_device(self, seq: int, body: RevokeDevice, digest: bytes) -> None:
        device = self.devices.get(body.device)
        if device is None:
            raise HistoryError(seq, "revokes a device that is not in the history")
        if device.revocation is not None:
            raise HistoryError(seq, "revokes a device that is revoked already")
        revocation = Revocation(seq, digest, body.last_good, body.compromised_since_ms, body.reason, body.last_event)
        if body.last_event is not None:
            self._void_authorisations(seq, device, body.last_event, revocation)
        self.devices[device.key] = replace(device, revocation=revocation)

    def _void_authorisations(self, seq: int, admin: Device, last_event: bytes, revocation: Revocation) -> None:
        """Revoke what the admin authorised after ``last_event``, with nothing of it vouched for.

        A device that was revoked before stays as it was: the root has judged it by itself.
        """
        if admin.device_class is not DeviceClass.ADMIN:
            raise HistoryError(seq, "last_event for a device that is no admin")
        last_seq = self.positions.get(last_event)
        if last_seq is None or last_seq < admin.added_seq:
            raise HistoryError(seq, "last_event is not an event since the admin was added")
        void = replace(revocation, last_good=MappingProxyType({}), last_event=None)
        for device in self.devices.values():
            if device.authorised_by == admin.key and device.added_seq > last_seq and device.revocation is None:
                self.devices[device.key] = replace(device, revocation=void)


def _verify_threshold(
    seq: int, signed: SignedEvent, authority: Sequence[bytes], threshold: int, *, possession: bytes | None = None
) -> None:
    """At least ``threshold`` of the ``authority`` keys signed and, as the last key, ``possession`` when it is given.

    Every signature that stands beside the event must hold, also those that were not needed.
    """
    keys = tuple(authority) if possession is None else (*authority, possession)
    indices = {index for index, _ in signed.signatures}
    if len(indices) != len(signed.signatures):
        raise HistoryError(seq, "two signatures of one key")
    for index, signature in signed.signatures:
        if not 0 <= index < len(keys):
            raise HistoryError(seq, f"a signature by key {index} of {len(keys)}")
        try:
            verify_signature(keys[index], IDENTITY_EVENT_SIGNATURE + signed.event, signature)
        except SignatureMismatch as exc:
            raise SignatureMismatch(f"identity event {seq}: {exc}") from exc
    count = sum(1 for index in indices if index < len(authority))
    if count < threshold:
        raise HistoryError(seq, f"signed by {count} of the {threshold} keys that are required")
    if possession is not None and len(authority) not in indices:
        raise HistoryError(seq, "the device key has not signed")


# --- builders: the next event of a history, ready to be signed -------------------------------------------------------


def build_inception(
    *,
    label: str,
    root_keys: Sequence[bytes],
    next_digests: Sequence[bytes],
    time_ms: int,
    threshold: int = 1,
    next_threshold: int = 1,
) -> bytes:
    """Event bytes that begin an identity; signers: ``root_keys`` in this order.

    ``next_digests`` are ``key_commitment`` of the next root keys. Raises ``MalformedError``, as all builders do, when
    the result would not be a well-formed event; whether the history allows it is decided by ``fold``.
    """
    body = Inception(label, RootKeys(threshold, tuple(root_keys)), NextKeys(next_threshold, tuple(next_digests)))
    return encode_event(Event(0, time_ms, body, None, None))


def build_rotate_root(
    history: KeyHistory,
    *,
    root_keys: Sequence[bytes],
    next_digests: Sequence[bytes],
    time_ms: int,
    next_threshold: int = 1,
) -> bytes:
    """Event bytes that reveal the next root keys, in full and in their committed order; signers: those new keys.

    Their threshold is the committed one.
    """
    roots = RootKeys(history.next_threshold, tuple(root_keys))
    return _build(history, time_ms, RotateRoot(roots, NextKeys(next_threshold, tuple(next_digests))))


def build_add_device(
    history: KeyHistory,
    *,
    device: bytes,
    name: str,
    time_ms: int,
    device_class: DeviceClass = DeviceClass.DEVICE,
    by: bytes | None = None,
) -> bytes:
    """Event bytes that authorise a device key.

    Signers: the root keys and then the device as the last one; or, with ``by`` an admin's key, admin 0 and device 1.
    """
    return _build(history, time_ms, AddDevice(device, device_class, name, by))


def build_revoke_device(
    history: KeyHistory,
    *,
    device: bytes,
    last_good: Mapping[bytes, LastGood],
    reason: RevocationReason,
    time_ms: int,
    compromised_since_ms: int | None = None,
    last_event: bytes | None = None,
) -> bytes:
    """Event bytes that end a device key, vouching for ``last_good`` (feed key to length and tree hash); signers: root.

    ``last_event``, for an admin, is the digest of the last event whose authorisations by it stand; None: all stand.
    """
    return _build(history, time_ms, RevokeDevice(device, last_good, last_event, compromised_since_ms, reason))


def build_bind_log(history: KeyHistory, *, log: bytes, time_ms: int) -> bytes:
    """Event bytes that bind a checkpoint log by its id; signers: root."""
    return _build(history, time_ms, BindLog(log))


def build_close(history: KeyHistory, *, time_ms: int) -> bytes:
    """Event bytes that close the identity; signers: root."""
    return _build(history, time_ms, Close())


def _build(history: KeyHistory, time_ms: int, body: Body) -> bytes:
    return encode_event(Event(history.seq + 1, time_ms, body, history.identity, history.head))

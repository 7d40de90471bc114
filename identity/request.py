"""Signing requests: events that wait for the signatures of root keys which different people hold.

A request carries the identity's events so far and the proposed ones with the signatures that they have already. Each
holder folds all of it, sees what it says, adds a signature and hands it on; whoever keeps the store joins the copies
and accepts the events when they have all signatures they take. Specified in docs/spec/signing-request.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from identity.contexts import IDENTITY_EVENT_SIGNATURE, SIGNING_REQUEST
from identity.encoding import Fields, decode
from identity.errors import LimitExceeded, MalformedError, RefusedError
from identity.event import MAX_EVENT_BYTES, MAX_ROOT_KEYS, SignedEvent, event_digest, parse_event, parse_signed_event
from identity.history import KeyHistory, ProposedEvent, fold, fold_proposed
from identity.keys import Signer
from identity.textforms import parse_base64, to_base64, to_did_key, to_hex

__all__ = [
    "MAX_PROPOSED",
    "MAX_REQUEST_BYTES",
    "SigningRequest",
    "accept_request",
    "encode_request",
    "join_requests",
    "parse_request",
    "propose",
    "review_request",
    "sign_request",
]

MAX_REQUEST_BYTES: Final = 64 * 1024 * 1024
MAX_PROPOSED: Final = 1024
"""Events that one request can propose: an identity with as many devices as a keystore can hold is founded by one."""

_MAGIC: Final = b"holdfast/v1 signing-request"


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """``events`` are proposed to follow ``history``, which is empty when the first of them is an inception.

    A proposed event can have any number of signatures, none included.
    """

    history: tuple[SignedEvent, ...]
    events: tuple[SignedEvent, ...]

    @property
    def id(self) -> bytes:
        """What the request is called: 32 bytes, the same in every copy, however many have signed."""
        digests = b"".join(event_digest(signed.event) for signed in self.events)
        return hashlib.sha256(SIGNING_REQUEST + digests).digest()


# --- the file -------------------------------------------------------------------------------------------------------


def encode_request(request: SigningRequest) -> bytes:
    """The request as the text that ``parse_request`` reads."""
    lines = [b"history " + _base64(signed) for signed in request.history]
    lines += [b"event " + _base64(signed) for signed in request.events]
    return b"\n".join([_MAGIC, *lines, b"request " + to_hex(request.id).encode(), b""])


def parse_request(data: bytes, what: str = "signing request") -> SigningRequest:
    """Read a request. Neither its events nor their signatures are verified: see ``review_request``.

    Raises ``MalformedError``, naming the line; ``what`` names the input.
    """
    if len(data) > MAX_REQUEST_BYTES:
        raise LimitExceeded(f"{what}: {len(data)} bytes, at most {MAX_REQUEST_BYTES}")
    first, *lines = data.split(b"\n")
    if first != _MAGIC:
        raise MalformedError(f"{what}: not a signing request")
    if len(lines) < 3 or lines[-1]:
        raise MalformedError(f"{what}: cut short")
    history: list[SignedEvent] = []
    events: list[SignedEvent] = []
    for number, line in enumerate(lines[:-2], start=2):
        try:
            if line.startswith(b"history ") and not events:
                history.append(parse_signed_event(_from_base64(line.removeprefix(b"history "))))
            elif line.startswith(b"event ") and len(events) < MAX_PROPOSED:
                events.append(_parse_proposed(_from_base64(line.removeprefix(b"event "))))
            else:
                raise MalformedError("neither history nor an event where it belongs")
        except MalformedError as exc:
            raise MalformedError(f"{what}:{number}: {exc}") from exc
    request = SigningRequest(tuple(history), tuple(events))
    if not events or lines[-2] != b"request " + to_hex(request.id).encode():
        raise MalformedError(f"{what}: the last line does not name these events: it was altered or cut short")
    return request


def _base64(signed: SignedEvent) -> bytes:
    return to_base64(signed.encode()).encode("ascii")


def _from_base64(line: bytes) -> bytes:
    try:
        return parse_base64(line.decode("ascii"))
    except UnicodeDecodeError as exc:
        raise MalformedError("not ASCII") from exc


def _parse_proposed(data: bytes) -> SignedEvent:
    """As ``parse_signed_event``, but no signature at all will do."""
    fields = Fields(decode(data), "proposed event")
    event = fields.bytes("event", max=MAX_EVENT_BYTES)
    if not fields.list("signatures", max=MAX_ROOT_KEYS + 1):
        fields.done()
        parse_event(event)
        return SignedEvent(event, ())
    signed = parse_signed_event(data)
    parse_event(signed.event)
    return signed


# --- proposing and signing ------------------------------------------------------------------------------------------


def propose(history: Sequence[SignedEvent], events: Sequence[SignedEvent]) -> SigningRequest:
    """A request for ``events`` to follow ``history``. Raises as ``fold`` when they cannot, however many sign them."""
    request = SigningRequest(tuple(history), tuple(events))
    review_request(request)
    return request


def review_request(request: SigningRequest) -> list[ProposedEvent]:
    """What each proposed event says, who may sign it and who has. Verifies everything that the request carries.

    Raises ``HistoryError``, ``SignatureMismatch`` or ``MalformedError`` when the events do not follow from the history
    or from each other, or a signature does not hold.
    """
    return fold_proposed(request.history, request.events)


def sign_request(request: SigningRequest, signers: Iterable[Signer]) -> SigningRequest:
    """The request with the signatures of ``signers`` under every event whose authority they are of.

    Raises ``RefusedError`` when none of them is, or all of theirs stand there already; and as ``review_request``, also
    for a signature that a signer made and that does not hold.
    """
    held = {signer.public_key: signer for signer in signers}
    steps = review_request(request)
    if not any(key in held for step in steps for key in step.authority):
        raise RefusedError(
            "none of these keys may sign this request",
            hint="a rotation is signed by the next root key: the one that the recovery phrase gives",
        )
    events = tuple(_sign_step(step, held) for step in steps)
    if events == request.events:
        raise RefusedError("this key has signed the request already")
    signed = replace(request, events=events)
    review_request(signed)
    return signed


def _sign_step(step: ProposedEvent, held: dict[bytes, Signer]) -> SignedEvent:
    message = IDENTITY_EVENT_SIGNATURE + step.signed_event.event
    fresh = [
        (index, held[key].sign(message))
        for index, key in enumerate(step.authority)
        if key in held and index not in step.signed
    ]
    return SignedEvent(step.signed_event.event, tuple(sorted([*step.signed_event.signatures, *fresh])))


# --- collecting -----------------------------------------------------------------------------------------------------


def join_requests(requests: Sequence[SigningRequest]) -> SigningRequest:
    """One request with the signatures of all copies. Raises ``RefusedError`` when they are not of one request.

    What the copies carry is verified before it is joined, so that no bad signature hides behind a good one.
    """
    first = requests[0]
    for request in requests:
        if request.id != first.id:
            raise RefusedError(
                f"signatures for different requests: {to_hex(first.id)} and {to_hex(request.id)}",
                hint="submit the copies of one request at a time",
            )
        review_request(request)
    events = []
    for copies in zip(*(request.events for request in requests), strict=True):
        signatures = {index: signature for copy in reversed(copies) for index, signature in copy.signatures}
        events.append(SignedEvent(copies[0].event, tuple(sorted(signatures.items()))))
    return replace(first, events=tuple(events))


def accept_request(request: SigningRequest, held: Sequence[SignedEvent]) -> tuple[list[SignedEvent], KeyHistory]:
    """The proposed events, when they have all signatures and follow what is ``held`` now; and the history with them.

    ``held`` is empty for a store that has no identity yet. Raises ``RefusedError`` when the events are held already,
    when others have been accepted since they were proposed, or when signatures are missing (it names the keys), and as
    ``review_request``.
    """
    steps = review_request(request)
    _check_following(request, steps, held)
    for step in steps:
        if step.missing:
            raise RefusedError(_missing_text(step), hint="hand the request to more holders: holdfast identity sign")
    # Folded again with what is held, thresholds and all: what the request says of its history decides nothing.
    together = [*held, *request.events]
    return list(request.events), fold(together)


def _check_following(request: SigningRequest, steps: list[ProposedEvent], held: Sequence[SignedEvent]) -> None:
    known = [event_digest(signed.event) for signed in held]
    proposed = [event_digest(signed.event) for signed in request.events]
    if proposed[-1] in known:
        raise RefusedError("the events of this request are in the history already")
    identity = steps[-1].after.identity
    if known and identity != known[0]:
        raise RefusedError(f"the request is for another identity, {to_hex(identity)}")
    before = steps[0].before
    if not known and before is not None:
        raise RefusedError("this store has no identity, and the request continues one")
    head = None if before is None else before.head
    if known and head not in known:
        raise RefusedError("the request follows events that this store does not have", hint="holdfast identity import")
    if held and head != fold(held).head:
        raise RefusedError(
            "the request no longer follows: other events were accepted since it was proposed",
            hint="propose it again",
        )


def _missing_text(step: ProposedEvent) -> str:
    rest = [to_did_key(key) for index, key in enumerate(step.authority) if index not in step.signed]
    count = f"{len(step.signed)} of the {step.threshold} keys that are required"
    return f"event {step.event.seq} ({step.event.type}) is signed by {count}; not yet by {', '.join(rest)}"

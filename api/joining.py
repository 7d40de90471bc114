"""The guest's side of a pairing: claim an offer, and keep what the two sides have agreed on (docs/spec/pairing.md)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from api.pairing import OfferState, Party, answer_statement, guest_of, safety_number
from api.remote import RemoteNode, RemoteProblem
from identity.errors import MalformedError, RefusedError, TransportError, VerificationError
from identity.event import SignedEvent
from identity.history import parse_signed_event
from identity.keys import verify_signature
from identity.textforms import parse_base64, parse_did_key, parse_hex, to_base64
from sync.acts import Role

__all__ = ["ClaimedOffer", "OfferedDatabase", "claim", "wait_for_decision"]

_LOOK_EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class OfferedDatabase:
    """A database that the node's owner lets the guest be a member of, by the name that the node has for it."""

    uid: bytes
    name: str


@dataclass(frozen=True, slots=True)
class ClaimedOffer:
    """What the node has said of itself, and offers. Its signature holds. Whether it is the node that was meant is for
    people to say, who compare ``safety_number``."""

    id: str
    node: Party
    label: str
    events: tuple[SignedEvent, ...]
    role: Role
    databases: tuple[OfferedDatabase, ...]
    safety_number: str


def claim(remote: RemoteNode, code: str, own: Party, events: Sequence[bytes]) -> ClaimedOffer:
    """Claim the offer that has this code, as ``own``, of which ``events`` are all signed events, each encoded.

    Raises ``RemoteProblem`` when the node refuses it, ``VerificationError`` when what it says of itself does not hold,
    ``MalformedError`` when it is no answer, ``TransportError``.
    """
    body = {"code": code, "events": [to_base64(one) for one in events]}
    said = remote.ask("POST", "/v1/pairings/claims", body).json
    match said:
        case {
            "id": str(name),
            "role": str(role),
            "databases": list(databases),
            "identity": str(identity),
            "device": str(device),
            "events": list(told),
            "signature": str(signature),
        }:
            node = Party(parse_hex(identity, 32), parse_did_key(device))
            found = guest_of([parse_signed_event(parse_base64(one)) for one in map(_text, told)], node.device)
            if found.party != node:
                raise VerificationError("the node's events are those of another identity")
            verify_signature(node.device, answer_statement(name, node, own), parse_base64(signature, 64))
            offered = tuple(map(_database, databases))
            return ClaimedOffer(name, node, found.label, found.events, _role(role), offered, safety_number(node, own))
    raise MalformedError("that is no answer to a claim")


def wait_for_decision(
    remote: RemoteNode, offer: ClaimedOffer, until_s: float, pause: Callable[[float], None] = time.sleep
) -> None:
    """Return when the node's owner has accepted. ``until_s`` is by ``time.monotonic``.

    Raises ``RefusedError`` when the owner has refused, or the offer has ended; ``TransportError`` when time is up.
    """
    while True:
        try:
            said = remote.ask("GET", f"/v1/pairings/{offer.id}/state").json
        except RemoteProblem as exc:
            raise RefusedError("the offer has ended", hint="begin again on the other side") from exc
        state = said.get("state") if isinstance(said, dict) else None
        if state == OfferState.ACCEPTED:
            return
        if state != OfferState.CLAIMED:
            raise RefusedError("the other side has refused" if state == OfferState.REFUSED else "the offer has ended")
        if time.monotonic() >= until_s:
            raise TransportError("the other side has not decided", hint="run it again: the offer may still stand")
        pause(_LOOK_EVERY_S)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise MalformedError("an event of the node is no text")
    return value


def _role(text: str) -> Role:
    try:
        return Role(text)
    except ValueError as exc:
        raise MalformedError(f"{text!r} is no role") from exc


def _database(value: Any) -> OfferedDatabase:
    match value:
        case {"id": str(uid), "name": str(name)}:
            return OfferedDatabase(parse_hex(uid, 32), name)
    raise MalformedError("a database of the offer is none")

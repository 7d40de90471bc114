"""Pairing over HTTP: the owner's side of an offer, and the guest's (docs/spec/pairing.md)."""

from __future__ import annotations

import secrets
from typing import Any

from fastapi.responses import Response

from api.access.action import Operation
from api.members import admit
from api.models import PairingAnswer, PairingClaim, PairingDecision, PairingModel, PairingOffer, PairingStateModel
from api.node import Node
from api.pairing import (
    Guest,
    Offer,
    OfferState,
    Party,
    answer_statement,
    guest_of,
    make_code,
    parse_code,
    safety_number,
)
from api.routes.dependencies import Called, Met, Routes, answer
from api.routes.forms import time_json
from identity.errors import MissingEvidenceError, Unauthenticated
from identity.history import parse_signed_event
from identity.textforms import parse_base64, to_base64, to_did_key
from sync.acts import Role

__all__ = ["claim_offer", "decide_offer", "make_offer", "read_offer", "read_offer_state", "routes"]

routes = Routes("pairing")

_RANDOM_BYTES = 16


@routes.declare(
    "POST",
    "/pairings",
    Operation.OPERATE,
    answers=PairingModel,
    status=201,
    body=PairingOffer,
    body_example={"databases": ["bank"], "role": "writer"},
)
def make_offer(call: Called) -> Response:
    """Offer membership of databases to whoever has the code, until the offer ends by itself or by a newer one."""
    body = call.read(PairingOffer)
    call.allow()
    node = call.node
    databases = [node.find(name).uid for name in body.databases]
    code, name = make_code(secrets.token_bytes(_RANDOM_BYTES)), secrets.token_hex(_RANDOM_BYTES)
    offer = node.offers.make(name, code, databases, Role(body.role), node.session.now_ms())
    return answer(_offer(node, offer), 201)


@routes.declare("GET", "/pairings/{pairing}", Operation.OPERATE, answers=PairingModel)
def read_offer(call: Called, pairing: str) -> Response:
    """An offer of this node, and who has claimed it."""
    call.allow()
    return answer(_offer(call.node, call.node.offers.find(pairing, call.node.session.now_ms())))


@routes.declare(
    "POST",
    "/pairings/{pairing}/decision",
    Operation.OPERATE,
    answers=PairingModel,
    body=PairingDecision,
    body_example={"accept": True},
)
def decide_offer(call: Called, pairing: str) -> Response:
    """Accept who has claimed the offer, and admit that identity to the databases; or refuse it, and nothing is kept."""
    body = call.read(PairingDecision)
    call.allow()
    node = call.node
    now_ms = node.session.now_ms()
    offer = node.offers.find(pairing, now_ms)
    if body.accept and offer.state is OfferState.CLAIMED and offer.guest is not None:
        _welcome(node, offer, offer.guest)
    return answer(_offer(node, node.offers.decide(pairing, accept=body.accept, now_ms=now_ms)))


def _welcome(node: Node, offer: Offer, guest: Guest) -> None:
    """Admit the guest to each database; where it is a member in that role already nothing is to be done."""
    vault = node.session.vault
    own = vault.history().identity
    vault.import_events(guest.events)
    if guest.party.identity == own:
        return  # another home of the same identity: it is a member as it stands
    for uid in offer.databases:
        database = node.writing(uid)
        with database.read() as reader:
            member = reader.standing.within(None).members.get(guest.party.identity)
        if member is None or member.dismissed or member.role is not offer.role:
            admit(database, own, guest.party.identity, offer.role)


# --- the guest's side -----------------------------------------------------------------------------------------------


@routes.declare(
    "POST",
    "/pairings/claims",
    Operation.PAIR,
    answers=PairingAnswer,
    body=PairingClaim,
    body_example={"code": "7K4M-Q2RT", "events": ["oWVldmVudA=="]},
)
def claim_offer(met: Met) -> Response:
    """Claim an offer by its code, as the identity that the events tell of and with the key that signs the request."""
    body, node = met.read(PairingClaim), met.node
    guest = guest_of([parse_signed_event(parse_base64(one)) for one in body.events], met.key)
    offer = node.offers.claim(parse_code(body.code), guest, node.session.now_ms())
    own, signer = _own(node), node.signer()
    names = {info.uid: info.name for info in node.known()}
    return answer(
        {
            "v": 1,
            "kind": "pairing-answer",
            "id": offer.id,
            "state": offer.state.value,
            "role": offer.role.value,
            "databases": [{"id": uid.hex(), "name": names.get(uid, "")} for uid in offer.databases],
            "identity": own.identity.hex(),
            "device": to_did_key(own.device),
            "events": [to_base64(one.signed_event) for one in node.session.vault.events()],
            "signature": to_base64(signer.sign(answer_statement(offer.id, own, guest.party))),
        }
    )


@routes.declare("GET", "/pairings/{pairing}/state", Operation.PAIR, answers=PairingStateModel)
def read_offer_state(met: Met, pairing: str) -> Response:
    """How far the pairing has come, for the guest who has claimed it."""
    try:
        offer = met.node.offers.find(pairing, met.node.session.now_ms())
    except MissingEvidenceError as exc:
        raise Unauthenticated("UNKNOWN_KEY", "the key has claimed no such offer") from exc
    if offer.guest is None or offer.guest.party.device != met.key:
        raise Unauthenticated("UNKNOWN_KEY", "the key has claimed no such offer")
    return answer({"v": 1, "kind": "pairing-state", "id": offer.id, "state": offer.state.value})


def _own(node: Node) -> Party:
    return Party(node.session.vault.history().identity, node.signer().public_key)


def _offer(node: Node, offer: Offer) -> dict[str, Any]:
    guest = offer.guest
    return {
        "v": 1,
        "kind": "pairing",
        "id": offer.id,
        "code": offer.code,
        "state": offer.state.value,
        "expires": time_json(offer.expires_ms),
        "identity": None if guest is None else guest.party.identity.hex(),
        "label": None if guest is None else guest.label,
        "device": None if guest is None else to_did_key(guest.party.device),
        "safety_number": None if guest is None else safety_number(_own(node), guest.party),
    }

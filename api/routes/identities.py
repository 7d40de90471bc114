"""Identities that the node knows: their events, and the devices that follow from them."""

from __future__ import annotations

from typing import Any

from fastapi.responses import Response

from api.access.action import Operation
from api.models import DeviceList, IdentityEventList, IdentityList, IdentityModel
from api.problems import NotFound
from api.routes.dependencies import Call, Called, Routes, answer
from api.routes.forms import time_json
from api.routes.ledger import Database
from identity.event import parse_event
from identity.history import KeyHistory, parse_signed_event
from identity.textforms import parse_hex, to_base64, to_did_key, to_hex

__all__ = ["routes"]

routes = Routes("identities")


def _known(call: Call, database: str | None) -> list[bytes]:
    """Ask, and return the identities that may be told of: all of the node, or the members of a database."""
    if database is None:
        call.allow()
        return call.node.session.vault.identities()
    on = call.on(database)
    with on.database.read() as reader:
        members = reader.standing.within(None).members
    return [one for one in call.node.session.vault.identities() if one in members]


def _meant(call: Call, database: str | None, text: str) -> bytes:
    identity = parse_hex(text, 32)
    if identity not in _known(call, database):
        raise NotFound(f"no identity {text} is known here")
    return identity


@routes.declare("GET", "/identities", Operation.PROVE, answers=IdentityList)
def read_identities(call: Called, database: Database = None) -> Response:
    """Every identity that the node knows, its own first; of a database, its members."""
    vault = call.node.session.vault
    return answer(
        {"v": 1, "kind": "identities", "identities": [_facts(vault.history(one)) for one in _known(call, database)]}
    )


@routes.declare("GET", "/identities/{identity}", Operation.PROVE, answers=IdentityModel)
def read_identity(call: Called, identity: str, database: Database = None) -> Response:
    """What the events of an identity amount to."""
    return answer(_facts(call.node.session.vault.history(_meant(call, database, identity))))


@routes.declare("GET", "/identities/{identity}/events", Operation.PROVE, answers=IdentityEventList)
def read_events(call: Called, identity: str, database: Database = None) -> Response:
    """The events of an identity, oldest first, each as it was signed. Claimed times prove nothing."""
    rows = []
    for stored in call.node.session.vault.events(_meant(call, database, identity)):
        event = parse_event(parse_signed_event(stored.signed_event).event)
        rows.append(
            {
                "seq": stored.seq,
                "type": event.type,
                "claimed": time_json(event.time_ms),
                "digest": to_hex(stored.digest),
                "signed_event": to_base64(stored.signed_event),
            }
        )
    return answer({"v": 1, "kind": "identity-events", "events": rows})


@routes.declare("GET", "/identities/{identity}/devices", Operation.PROVE, answers=DeviceList)
def read_devices(call: Called, identity: str, database: Database = None) -> Response:
    """Every device that the identity ever authorised, and by which event it was revoked, if it was."""
    rows = [
        {
            "name": device.name,
            "key": to_did_key(device.key),
            "class": device.device_class.value,
            "added": device.added_seq,
            "revoked": None if device.revocation is None else device.revocation.seq,
            "reason": None if device.revocation is None else device.revocation.reason.value,
        }
        for device in call.node.session.vault.history(_meant(call, database, identity)).devices.values()
    ]
    return answer({"v": 1, "kind": "devices", "devices": rows})


def _facts(history: KeyHistory) -> dict[str, Any]:
    return {
        "v": 1,
        "kind": "identity",
        "identity": to_hex(history.identity),
        "label": history.label,
        "events": history.seq + 1,
        "head": to_hex(history.head),
        "root_generation": history.generation,
        "root_keys": len(history.root_keys),
        "root_threshold": history.root_threshold,
        "devices": len(history.devices),
        "logs": [to_hex(log) for log in history.logs],
        "closed": history.closed,
        "duplicitous": history.duplicity is not None,
    }

"""Visits: let apps in, end what they were given, and read what they did (docs/spec/visit.md).

With a database it is for those who may admit visitors to it, and about that database alone; without one it is for the
devices of the identity whose node it is, and about everything. Tokens are minted by the node's own device.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Annotated, Any, Final

from fastapi import Query
from fastapi.responses import Response

from api.access.action import VISITABLE, Operation
from api.access.capability import Scope, Terms
from api.access.opening import Access, token_seed
from api.access.records import Granted, Record, Refusals, Revoked, Visit
from api.access.visits import RecordPage, read_page
from api.models import GrantBody, GrantList, GrantModel, RevocationBody, RevocationModel, VisitList
from api.problems import NotFound
from api.routes.dependencies import Call, Called, Limit, Routes, answer
from api.routes.forms import time_json
from identity.errors import Forbidden, MalformedError, RefusedError
from identity.textforms import parse_did_key, to_did_key, to_hex
from ledger.store import FeedKey

__all__ = ["routes"]

routes = Routes("visits")

Database = Annotated[
    str | None,
    Query(description="The database that it is about: then its admins may ask, else only the node's own devices."),
]
After = Annotated[str | None, Query(max_length=8192, description="The cursor of the page before.")]

_MAX_FEEDS: Final = 1024
_HEX_KEY: Final = re.compile(r"[0-9a-f]{64}")


# --- reading --------------------------------------------------------------------------------------------------------


@routes.declare("GET", "/visits", Operation.VISITS, answers=VisitList)
def read_visits(
    call: Called,
    database: Database = None,
    denied: Annotated[bool, Query(description="Only what was refused.")] = False,
    after: After = None,
    limit: Limit = 100,
) -> Response:
    """What visitors did and were refused, tokens that were given out, and revocations, oldest first.

    About a database that is what names it: a request that was refused before anybody looked names none.
    """
    uid = _allow(call, database)

    def wants(record: Record) -> bool:
        if denied and not (isinstance(record, Refusals) or (isinstance(record, Visit) and not record.allowed)):
            return False
        return uid is None or _is_about(record, uid)

    page, revoked = _page(call, after, limit, wants)
    rows = [_row(one, revoked) for one in page.records]
    return answer({"v": 1, "kind": "visits", "visits": rows, "cursor": _cursor(page), "more": page.more})


@routes.declare("GET", "/grants", Operation.VISITS, answers=GrantList)
def read_grants(call: Called, database: Database = None, after: After = None, limit: Limit = 100) -> Response:
    """Every token that this node has given out, oldest first, and whether it was revoked."""
    uid = _allow(call, database)

    def wants(record: Record) -> bool:
        return isinstance(record, Granted) and (uid is None or record.terms.database == uid)

    page, revoked = _page(call, after, limit, wants)
    rows = [_row(one, revoked) for one in page.records]
    return answer({"v": 1, "kind": "grants", "grants": rows, "cursor": _cursor(page), "more": page.more})


def _allow(call: Call, database: str | None) -> bytes | None:
    """Ask for what is about a database, or the whole node. Returns the database's id."""
    if database is None:
        call.allow()
        return None
    return call.on(database).database.uid


def _is_about(record: Record, uid: bytes) -> bool:
    match record:
        case Visit():
            return record.about.get("db") == uid
        case Granted():
            return record.terms.database == uid
    return False


def _page(
    call: Call, after: str | None, limit: int, wants: Callable[[Record], bool]
) -> tuple[RecordPage, frozenset[bytes]]:
    vault = call.node.session.vault
    page = read_page(vault.store, vault.history().identity, _positions(after), wants, limit)
    access = call.node.access
    return page, frozenset() if access is None else access.revocations.now()


def _positions(cursor: str | None) -> dict[FeedKey, int]:
    """What a cursor says: how far each feed was read. Raises ``MalformedError``."""
    if cursor is None:
        return {}
    with suppress(ValueError, RecursionError):
        found = json.loads(base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True))
        if isinstance(found, dict) and len(found) <= _MAX_FEEDS and all(map(_is_position, found.items())):
            return {FeedKey(bytes.fromhex(key)): at for key, at in found.items()}
    raise MalformedError("cursor: not one of this list")


def _is_position(item: tuple[str, object]) -> bool:
    key, at = item
    return _HEX_KEY.fullmatch(key) is not None and type(at) is int and 0 <= at < 1 << 53


def _cursor(page: RecordPage) -> str:
    positions = {key.hex(): at for key, at in sorted(page.positions.items())}
    return base64.urlsafe_b64encode(json.dumps(positions, separators=(",", ":")).encode()).decode()


# --- how records are written ----------------------------------------------------------------------------------------


def _row(record: Record, revoked: frozenset[bytes]) -> dict[str, Any]:
    facts: Mapping[str, Any]
    match record:
        case Visit():
            kind, facts = "visit", _visit(record)
        case Granted():
            kind, facts = "visit-grant", _granted(record, is_revoked=record.id in revoked)
        case Refusals():
            since = time_json(record.since_ms)
            kind, facts = "visit-refusals", {"reason": record.reason, "count": record.count, "since": since}
        case Revoked():
            kind, facts = "visit-revocation", _revoked(record.id, record.by, record.why)
    return {"v": 1, "kind": kind, "time": time_json(record.time_ms), **facts}


def _visit(record: Visit) -> dict[str, Any]:
    about = record.about
    database = about.get("db")
    return {
        "token": to_hex(record.token),
        "ids": [to_hex(one) for one in record.ids],
        "key": None if record.key is None else to_did_key(record.key),
        "allowed": record.allowed,
        "reason": record.reason or None,
        "operation": about.get("op"),
        "database": database.hex() if isinstance(database, bytes) else None,
        "collection": about.get("col"),
        "document": about.get("key"),
        "prefix": about.get("pre"),
        "fields": about.get("fields"),
        "line": about.get("line"),
        "policy": None if record.policy is None else to_hex(record.policy),
    }


def _granted(record: Granted, *, is_revoked: bool) -> dict[str, Any]:
    terms = record.terms
    scopes = terms.scopes
    return {
        "token": to_hex(record.token),
        "id": to_hex(record.id),
        "device": to_did_key(record.device),
        "holder": to_did_key(terms.holder),
        "database": to_hex(terms.database),
        "operations": sorted(one.value for one in terms.operations),
        "until": time_json(terms.expires_s * 1000),
        "scopes": None if scopes is None else [{"collection": one.collection, "prefix": one.prefix} for one in scopes],
        "fields": None if terms.fields is None else sorted(terms.fields),
        "if_match": terms.if_match,
        "rate": terms.rate,
        "note": terms.note,
        "revoked": is_revoked,
    }


def _revoked(id_: bytes, by: bytes, why: str) -> dict[str, Any]:
    return {"id": to_hex(id_), "by": to_did_key(by), "why": why}


# --- letting in and sending away ------------------------------------------------------------------------------------


@routes.declare(
    "POST",
    "/grants",
    Operation.VISITS,
    answers=GrantModel,
    status=201,
    body=GrantBody,
    body_example={
        "database": "bank",
        "holder": "did:key:z6Mkon3Necd6NkkyfoGoHxid2znGc59LU3K7mubaRcFbLfLX",
        "operations": ["read", "update"],
        "scopes": [{"collection": "accounts", "prefix": "47"}],
        "fields": ["owner", "limit"],
        "seconds": 3600,
        "note": "monthly report",
    },
)
def make_grant(call: Called) -> Response:
    """Let an app in: a token for the holder of a key, minted by the node's device. It is told this once.

    For devices of the identity whose node it is, and for admins of the database. Nobody is let in to more than the
    node's own identity may do there.
    """
    body = call.read(GrantBody)
    uid = _allow_granting(call, body.database)
    access = _access(call)
    ring = call.node.ring
    assert ring is not None  # or there is no access
    terms = _terms(body, uid, access.now_ms() // 1000)

    def make() -> Response:
        name = call.node.device()
        token, granted = access.grant(token_seed(ring, name), ring.device_keys()[name], terms)
        capability = base64.urlsafe_b64encode(token).decode()
        return answer({**_row(granted, frozenset()), "capability": capability}, 201)

    return call.once(make)


def _allow_granting(call: Call, database: str) -> bytes:
    """Ask for admitting visitors to a database: the owner of the node may, and who is its admin."""
    if call.caller.token is None:
        with suppress(Forbidden):
            call.allow()
            return call.find(database)
    return call.on(database).database.uid


def _terms(body: GrantBody, uid: bytes, now_s: int) -> Terms:
    unknown = set(body.operations) - {one.value for one in VISITABLE}
    if unknown:
        known = ", ".join(sorted(VISITABLE))
        raise MalformedError(f"operations: {min(unknown)[:64]!r} is not for visitors", hint=f"some of {known}")
    scopes = None if body.scopes is None else {Scope(one.collection, one.prefix) for one in body.scopes}
    return Terms(
        parse_did_key(body.holder),
        uid,
        frozenset(map(Operation, body.operations)),
        now_s + body.seconds,
        None if scopes is None else tuple(sorted(scopes)),
        None if body.fields is None else frozenset(body.fields),
        body.if_match,
        body.rate,
        body.note,
    )


@routes.declare(
    "POST",
    "/revocations",
    Operation.VISITS,
    answers=RevocationModel,
    status=201,
    body=RevocationBody,
    body_example={"id": "5e" * 64, "why": "the report is done"},
)
def revoke(call: Called, database: Database = None) -> Response:
    """End a token and all that was made of it, from the next request on. Nothing takes that back.

    With a database, only a token that this node gave out for that one.
    """
    body = call.read(RevocationBody)
    uid, access = _allow(call, database), _access(call)
    id_ = bytes.fromhex(body.id)
    if uid is not None and not _was_granted(call, id_, uid):
        raise NotFound("this node gave out no such token for that database")

    def end() -> Response:
        if id_ not in access.revocations.now():
            access.revoke(id_, call.caller.key, body.why)
        return answer({"v": 1, "kind": "visit-revocation", **_revoked(id_, call.caller.key, body.why)}, 201)

    return call.once(end)


def _was_granted(call: Call, id_: bytes, uid: bytes) -> bool:
    def wants(record: Record) -> bool:
        return isinstance(record, Granted) and (record.id, record.terms.database) == (id_, uid)

    vault, positions, more = call.node.session.vault, dict[FeedKey, int](), True
    while more:
        page = read_page(vault.store, vault.history().identity, positions, wants, 1)
        if page.records:
            return True
        positions, more = dict(page.positions), page.more
    return False


def _access(call: Call) -> Access:
    if call.node.access is None:
        raise RefusedError("this node is open for reading only, and lets nobody in")
    return call.node.access

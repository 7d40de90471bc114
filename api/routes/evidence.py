"""Evidence: files that prove an entry, or what a document was, and their verification; and state roots."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query
from fastapi.responses import Response

from anchoring.evidence import MAX_EVIDENCE_BYTES
from anchoring.policy_file import load_policy
from anchoring.verifier import verify_evidence
from api.access.action import Operation
from api.document_evidence import export_document_evidence, verify_document_evidence
from api.members import list_members
from api.models import EvidenceBody, MemberList, ReportModel, StateCheckModel, StateRootList, StateRootModel, VerifyRoot
from api.problems import NotFound
from api.routes.dependencies import Called, Routes, answer, check_collection
from api.routes.forms import parse_time, place_json, time_json
from api.routes.ledger import Database, feed_of
from identity.errors import LimitExceeded
from identity.textforms import to_hex
from ledger.values import parse_reference_text, reference_text
from sync.clock import wall_ms
from sync.document_evidence import is_document_evidence
from sync.transaction import DocumentId

__all__ = ["routes"]

routes = Routes("evidence")

_JSON = "application/json"

Time = Annotated[str | None, Query(max_length=64, description="RFC 3339; default: now.")]


# --- evidence -------------------------------------------------------------------------------------------------------


@routes.declare("GET", "/feeds/{feed}/evidence/{index}", Operation.PROVE, answers=EvidenceBody)
def read_evidence(call: Called, feed: str, index: int, database: Database = None) -> Response:
    """The evidence file of an entry. There is none before the entry is under a timestamped checkpoint."""
    info = feed_of(call, database, feed)
    if not 0 <= index < info.state.length:
        raise NotFound(f"the feed has {info.state.length} entries")
    return Response(call.node.session.vault.evidence(info.state.key, index, *call.node.trusted()), media_type=_JSON)


@routes.declare(
    "GET",
    "/databases/{database}/collections/{collection}/evidence/{key:path}",
    Operation.PROVE,
    answers=EvidenceBody,
)
def read_document_evidence(call: Called, database: str, collection: str, key: str, as_of: Time = None) -> Response:
    """The evidence file of what a document was in the newest state root that was stated by then."""
    at_ms = call.node.session.now_ms() if as_of is None else parse_time(as_of)
    on = call.on(database, check_collection(collection), key)
    on.require_all_fields("evidence of a document")
    name = DocumentId(collection, key)
    return Response(export_document_evidence(on.database, name, at_ms, *call.node.trusted()), media_type=_JSON)


@routes.declare("POST", "/verify", Operation.PROVE, answers=ReportModel, body=EvidenceBody, large=True)
def verify(call: Called, at: Time = None, database: Database = None) -> Response:
    """Judge an evidence file under the policy of this node. What is no evidence is a report too, that says FAILED."""
    call.allow() if database is None else call.on(database)
    at_ms = call.node.session.now_ms() if at is None else parse_time(at)
    policy, data = load_policy(call.node.session.home.policy), call.request.body
    if is_document_evidence(data):
        return answer(verify_document_evidence(data, policy, at_ms).to_json())
    if len(data) > MAX_EVIDENCE_BYTES:
        raise LimitExceeded(f"body: more than {MAX_EVIDENCE_BYTES} bytes")
    return answer(verify_evidence(data, policy, at_ms).to_json())


# --- state roots ----------------------------------------------------------------------------------------------------


@routes.declare("GET", "/databases/{database}/state-roots", Operation.PROVE, answers=StateRootList)
def read_state_roots(call: Called, database: str) -> Response:
    """Every root of a state that an entry states, in the order in which they came here."""
    on = call.on(database)
    rows = [
        {
            "entry": reference_text(one.reference),
            "root": to_hex(one.statement.root),
            "rules": one.statement.rules,
            "claimed": time_json(wall_ms(one.statement.stamp.reading)),
        }
        for one in on.database.state_roots()
    ]
    return answer({"v": 1, "kind": "state-roots", "roots": rows})


@routes.declare("POST", "/databases/{database}/state-roots", Operation.OPERATE, answers=StateRootModel, status=201)
def state_root(call: Called, database: str) -> Response:
    """State the root of everything that is here, in an entry that the checkpoint log will prove the time of."""
    call.allow()
    on = call.on(database, writes=True)

    def state() -> Response:
        with call.committing():
            made = on.database.checkpoint_state()
        root = next((one for one in on.database.state_roots() if one.reference == made.reference), None)
        facts = {"root": None if root is None else to_hex(root.statement.root)}
        return answer({"v": 1, "kind": "state-root", **facts, **place_json(made.reference, made.place)}, 201)

    return call.once(state)


@routes.declare(
    "POST",
    "/databases/{database}/state-roots/verify",
    Operation.PROVE,
    answers=StateCheckModel,
    body=VerifyRoot,
)
def verify_root(call: Called, database: str) -> Response:
    """Rebuild the state that an entry speaks of from the feeds alone. A root that does not follow is a problem."""
    body = call.read(VerifyRoot)
    reference = parse_reference_text(body.entry)
    on = call.on(database)
    found = on.database.verify_state_root(reference)
    facts: dict[str, Any] = {"entry": body.entry, "root": to_hex(found.stated.statement.root)}
    return answer({"v": 1, "kind": "state-check", "verdict": "PASSED", **facts, "documents": found.documents})


# --- members --------------------------------------------------------------------------------------------------------


@routes.declare("GET", "/databases/{database}/members", Operation.PROVE, answers=MemberList)
def read_members(call: Called, database: str) -> Response:
    """Everybody who is or was a member of a database, the founder first."""
    on = call.on(database)
    rows = [
        {
            "identity": to_hex(one.identity),
            "label": one.label,
            "role": one.role.value,
            "admitted_by": None if one.admitted_by is None else to_hex(one.admitted_by),
            "dismissed": one.dismissed,
            "feeds": one.feeds,
        }
        for one in list_members(on.database)
    ]
    return answer({"v": 1, "kind": "members", "members": rows})

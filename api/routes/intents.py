"""Intents: what visitors and devices that are elsewhere want written, signed by themselves.

Implements docs/spec/transaction.md, section "Intents", over HTTP. The node's feed carries the change, and the intent in
it says whose it is. Each document that it touches is asked for at the gate, as it stood before the intent: so an intent
that comes again is judged as it was the first time.
"""

from __future__ import annotations

from typing import Final

from fastapi.responses import Response

from api.access.action import Operation
from api.access.wanted import Found, wanted
from api.models import IntentModel
from api.routes.dependencies import Call, Called, Note, On, Routes, answer
from api.routes.documents import condition
from api.routes.forms import place_json
from identity.errors import ConflictError, LimitExceeded, MalformedError, VerificationError
from identity.textforms import to_hex
from sync.asof import known_at_place
from sync.changes import ANY_VERSION, StaleVersion, Strength
from sync.database import Commit
from sync.intent import Intent, parse_intent
from sync.storage.intents import place_of_intent
from sync.storage.reader import DocumentState, Reader
from sync.transaction import DocumentId, parse_path

__all__ = ["MEDIA_TYPE", "routes"]

MEDIA_TYPE: Final = "application/vnd.holdfast.intent"

routes = Routes("intents")

_MOST_OF_VISITORS: Final = 100
"""Documents that a visitor's intent touches: each of them is a record of the visit feed."""
_TRIES: Final = 5


@routes.declare(
    "POST",
    "/databases/{database}/intents",
    Operation.UPDATE,
    also=[Operation.CREATE, Operation.DELETE, Operation.SCHEMA, Operation.HOLD, Operation.PURGE],
    answers=IntentModel,
    takes=MEDIA_TYPE,
)
def commit_intent(call: Called, database: str, note: Note = "") -> Response:
    """Write what an intent says, all of it or nothing, in the name of who signed it: the key of the request.

    The body is the intent as it travels. With If-Match, or "If-None-Match: *", it is about one document, and written
    only where that is so. An intent that was written already is answered with that entry, and changes nothing.
    """
    intent = parse_intent(call.request.body)
    uid = call.find(database)
    if intent.database != uid:
        raise VerificationError("the intent is for another database")
    documents = sorted({op.document for op in intent.ops})
    most = call.service.limits.documents if call.caller.token is None else _MOST_OF_VISITORS
    if len(documents) > most:
        raise LimitExceeded(f"{len(documents)} documents, at most {most} go into one intent")
    if call.strength() is Strength.SERIAL:
        raise MalformedError("Prefer: an intent is not proposed to a home: it is written here, or refused")
    if_match, if_absent = condition(call)
    is_conditional = if_match is not None or if_absent
    if is_conditional and len(documents) != 1:
        raise MalformedError("If-Match and If-None-Match go with an intent about one document")
    for _ in range(_TRIES):
        found, place = _before(call, uid, intent)
        on = _allowed(call, intent, found, documents if if_match not in (None, ANY_VERSION) else [])
        changes = call.changes(note)
        changes.base = None  # the intent has its own
        for document in documents:
            if is_conditional:
                changes.require(*document, if_match)
            else:
                # What was allowed is what is done: who may only create does not change what came meanwhile.
                changes.require(*document, ANY_VERSION if found[document].exists else None)
        if not is_conditional:
            changes.strength = Strength.LOCAL
        try:
            with call.committing(on if is_conditional else None):
                made = on.database.commit(changes, intent=intent)
            return _written(call, intent, made, is_repeated=place is not None)
        except StaleVersion as exc:
            if is_conditional:
                raise
            stale = exc
    raise ConflictError(f"{stale.document}: it comes and goes while it is written to", hint="try again")


def _before(call: Call, uid: bytes, intent: Intent) -> tuple[dict[DocumentId, Found], int | None]:
    """The documents of an intent as they stood before it, and its place when it was written already."""
    with call.node.reading(uid).read() as reader:
        place = place_of_intent(reader, intent)
        return {one: _found(_state(reader, one, place)) for one in {op.document for op in intent.ops}}, place


def _state(reader: Reader, document: DocumentId, place: int | None) -> DocumentState | None:
    if place is None:
        return reader.document(document)
    return reader.document_at(document, known_at_place(reader, place - 1))


def _found(state: DocumentState | None) -> Found:
    if state is None or state.exists:
        return Found(state is not None)
    return Found(exists=False, hidden=frozenset(path[0] for one in state.view.cells if (path := parse_path(one.path))))


def _allowed(call: Call, intent: Intent, found: dict[DocumentId, Found], guarded: list[DocumentId]) -> On:
    """Ask for each document. Raises ``Forbidden``."""
    grants = [call.ask(action) for action in wanted(intent, found.__getitem__, guarded)]
    return On(call.node.writing(intent.database), grants[0])


def _written(call: Call, intent: Intent, made: Commit, *, is_repeated: bool) -> Response:
    etags = {str(name): etag or None for name, etag in sorted(made.etags.items())}
    headers = call.applied()
    if len(etags) == 1 and (etag := next(iter(etags.values()))):
        headers["ETag"] = f'"{etag}"'
    facts = {"intent": to_hex(intent.digest()), "repeated": is_repeated, "etags": etags}
    return answer({"v": 1, "kind": "intent", **place_json(made.reference, made.place), **facts}, headers=headers)

"""Schemas, and what goes for good: the trash, purges, legal holds, erasure of sealed values."""

from __future__ import annotations

from itertools import islice
from typing import Any

from fastapi.responses import Response

from api.access.action import Operation
from api.models import (
    EraseBody,
    ErasureModel,
    HoldBody,
    HoldList,
    HoldModel,
    PurgeBody,
    PurgedModel,
    SchemaBody,
    SchemaModel,
    TrashList,
)
from api.problems import NotFound
from api.routes.dependencies import Called, Limit, Note, On, Routes, answer, check_collection
from api.routes.forms import place_json, time_json
from identity.errors import ConflictError, MalformedError
from identity.textforms import check_name
from ledger.values import to_python
from sync import retention
from sync.changes import StaleVersion
from sync.database import Commit
from sync.jsonform import to_json
from sync.schema import Schema, check_document, schema_from_json, schema_value
from sync.storage.scan import iterate
from sync.transaction import SCHEMAS, DocumentId

__all__ = ["routes"]

routes = Routes("retention")

_SCHEMA = "/databases/{database}/collections/{collection}/schema"
_MAX_COUNTED = 100_000


# --- schemas --------------------------------------------------------------------------------------------------------


@routes.declare("GET", _SCHEMA, Operation.READ, answers=SchemaModel)
def read_schema(call: Called, database: str, collection: str) -> Response:
    """What the documents of a collection may hold; null when nothing is said of it."""
    on = call.on(database, check_collection(collection))
    return _answer_schema(on, collection, None, None)


@routes.declare(
    "PUT",
    _SCHEMA,
    Operation.SCHEMA,
    answers=SchemaModel,
    body=SchemaBody,
    body_example={"type": "object", "properties": {"balance": {"type": "decimal", "indexed": True}}},
)
def put_schema(call: Called, database: str, collection: str, note: Note = "") -> Response:
    """Say what documents may hold from now on (docs/spec/schema.md). What is there stays; what is unfit is counted."""
    on = call.on(database, check_collection(collection), writes=True)
    wanted = schema_from_json(call.request.body)

    def put() -> Response:
        changes = call.changes(note)
        changes.put(SCHEMAS, collection, {"schema": to_python(schema_value(wanted))})
        return _answer_schema(on, collection, wanted, call.commit(on, changes))

    return call.once(put)


@routes.declare("DELETE", _SCHEMA, Operation.SCHEMA, answers=SchemaModel)
def delete_schema(call: Called, database: str, collection: str, note: Note = "") -> Response:
    """Let there be no schema: documents may hold anything."""
    on = call.on(database, check_collection(collection), writes=True)

    def delete() -> Response:
        changes = call.changes(note)
        changes.unset(SCHEMAS, collection, "schema")
        return _answer_schema(on, collection, None, call.commit(on, changes))

    return call.once(delete)


def _answer_schema(on: On, collection: str, wanted: Schema | None, made: Commit | None) -> Response:
    with on.database.read() as reader:
        found = reader.schema(collection)
        unfit = None
        if wanted is not None:
            states = islice(iterate(reader, collection), _MAX_COUNTED)
            unfit = sum(bool(check_document(wanted, dict(state.view.fields))) for state in states)
    shown = None if found is None else schema_value(found)
    if isinstance(shown, dict) and on.grant.fields is not None:
        declared = shown.get("properties")
        shown = {**shown, "properties": on.shown(declared if isinstance(declared, dict) else {})}
    place = place_json(None, None) if made is None else place_json(made.reference, made.place)
    facts = {"collection": collection, "schema": None if shown is None else to_json(shown), "unfit": unfit}
    return answer({"v": 1, "kind": "schema", **facts, **place})


# --- holds ----------------------------------------------------------------------------------------------------------


@routes.declare("GET", "/databases/{database}/holds", Operation.HOLD, answers=HoldList)
def read_holds(call: Called, database: str) -> Response:
    """The legal holds that are in force."""
    on = call.on(database)
    with on.database.read() as reader:
        rows = [_hold(one) for one in retention.holds(reader)]
    return answer({"v": 1, "kind": "holds", "holds": rows})


@routes.declare(
    "PUT",
    "/databases/{database}/holds/{name}",
    Operation.HOLD,
    answers=HoldModel,
    body=HoldBody,
    body_example={"collection": "accounts", "key": "4711", "reason": "court order 17/2026"},
)
def place_hold(call: Called, database: str, name: str) -> Response:
    """Let nobody purge or erase a document, or without key a whole collection, until the hold is released."""
    body = call.read(HoldBody)
    placed = retention.Hold(check_name(name, "hold"), check_collection(body.collection), body.key, body.reason)
    on = call.on(database, body.collection, body.key, writes=True)

    def place() -> Response:
        try:
            with call.committing():
                made = retention.place_hold(on.database, placed)
        except StaleVersion as exc:
            raise ConflictError(f"there is a hold {name!r} already") from exc
        return _answer_hold(placed, made, released=False)

    return call.once(place)


@routes.declare("DELETE", "/databases/{database}/holds/{name}", Operation.HOLD, answers=HoldModel)
def release_hold(call: Called, database: str, name: str) -> Response:
    """Release a hold. Erasures that came from other devices meanwhile are carried out."""
    on = call.on(database, writes=True)

    def release() -> Response:
        with on.database.read() as reader:
            placed = next((one for one in retention.holds(reader) if one.name == name), None)
        if placed is None:
            raise NotFound(f"there is no hold {name!r}")
        with call.committing():
            made = retention.release_hold(on.database, name)
        return _answer_hold(placed, made, released=True)

    return call.once(release)


def _hold(hold: retention.Hold) -> dict[str, Any]:
    covers = hold.collection if hold.key is None else f"{hold.collection}/{hold.key}"
    return {"hold": hold.name, "covers": covers, "reason": hold.reason}


def _answer_hold(hold: retention.Hold, made: Commit, *, released: bool) -> Response:
    place = place_json(made.reference, made.place)
    return answer({"v": 1, "kind": "hold", **_hold(hold), "released": released, **place})


# --- the trash ------------------------------------------------------------------------------------------------------


@routes.declare("GET", "/databases/{database}/trash", Operation.HISTORY, answers=TrashList)
def read_trash(call: Called, database: str, limit: Limit = 100) -> Response:
    """The deleted documents, and what keeps each of them from being purged."""
    on = call.on(database)
    rows: list[dict[str, Any]] = []
    with on.database.read() as reader:
        for one in retention.trash(reader, on.database.now_ms()):
            if not one.document.collection.startswith("$"):
                deleted = time_json(one.deleted_ms)
                rows.append({"document": str(one.document), "deleted": deleted, "kept": one.keeps or None})
            if len(rows) > limit:
                break
    return answer({"v": 1, "kind": "trash", "documents": rows[:limit], "more": len(rows) > limit})


@routes.declare(
    "POST",
    "/databases/{database}/purge",
    Operation.PURGE,
    answers=PurgedModel,
    body=PurgeBody,
    body_example={"documents": [{"collection": "accounts", "key": "4711"}], "confirm": "bank"},
)
def purge(call: Called, database: str) -> Response:
    """End deleted documents for good. Nobody can undelete them, and their keys stay taken.

    ``confirm`` is the database's name: this cannot be undone.
    """
    body = call.read(PurgeBody)
    on = call.on(database, writes=True)
    if body.confirm != on.database.name:
        raise MalformedError("confirm: the name of the database, because this cannot be undone")
    named = [DocumentId(check_collection(one.collection), one.key) for one in body.documents]

    def end() -> Response:
        with call.committing():
            made = retention.purge(on.database, named)
        purged = [str(one) for one in named]
        return answer({"v": 1, "kind": "purged", "documents": purged, **place_json(made.reference, made.place)})

    return call.once(end)


# --- erasure --------------------------------------------------------------------------------------------------------


@routes.declare(
    "POST",
    "/databases/{database}/collections/{collection}/erase/{key:path}",
    Operation.ERASE,
    answers=ErasureModel,
    body=EraseBody,
    body_example={"confirm": "clients/88", "reason": "request of 2026-11-22"},
)
def erase(call: Called, database: str, collection: str, key: str) -> Response:
    """Destroy the keys of all sealed values that the document holds or ever held: nobody can read them again.

    ``unreachable``: copies of the key file that may still hold them. Ask again when they are back.
    """
    name = DocumentId(check_collection(collection), key)
    body = call.read(EraseBody)
    if body.confirm != str(name):
        raise MalformedError(f"confirm: {name}, because this cannot be undone")
    on = call.on(database, collection, key, writes=True)

    def destroy() -> Response:
        with call.committing():
            erased = retention.erase(on.database, name, body.reason)
        facts = {"document": str(name), "keys": len(erased.kids), "unreachable": len(erased.unreachable)}
        place = place_json(erased.commit.reference, erased.commit.place)
        return answer({"v": 1, "kind": "erasure", **facts, **place})

    return call.once(destroy)

"""Databases of the node, and the collections of one."""

from __future__ import annotations

from typing import Any

from fastapi.responses import Response

from api.access.action import Operation
from api.models import CollectionList, DatabaseList, DatabaseModel, NewDatabase
from api.routes.dependencies import Called, Routes, answer
from api.routes.forms import time_json
from identity.errors import Forbidden
from sync.database import DatabaseInfo
from sync.storage.collections import list_collections

__all__ = ["routes"]

routes = Routes("databases")


@routes.declare("GET", "/databases", Operation.OPERATE, also=[Operation.READ], answers=DatabaseList)
def read_databases(call: Called) -> Response:
    """The databases of the node, for its own devices; for others those of which they may read everything."""
    known = call.node.known()
    try:
        call.allow()
    except Forbidden:
        if call.caller.token is not None:
            raise
        known = [info for info in known if call.permits(Operation.READ, info.uid)]
    return answer({"v": 1, "kind": "databases", "databases": [_database(info) for info in known]})


@routes.declare(
    "POST",
    "/databases",
    Operation.OPERATE,
    answers=DatabaseModel,
    status=201,
    body=NewDatabase,
    body_example={"name": "bank"},
)
def create_database(call: Called) -> Response:
    """Found a database. The identity whose node this is becomes its admin."""
    body = call.read(NewDatabase)
    call.allow()

    def create() -> Response:
        with call.committing():
            made = call.node.create(body.name)
        return answer(_database(call.node.find(made.uid.hex())), 201)

    return call.once(create)


@routes.declare("GET", "/databases/{database}", Operation.READ, answers=DatabaseModel)
def read_database(call: Called, database: str) -> Response:
    """A database, by its name or id."""
    on = call.on(database)
    return answer(_database(call.node.find(on.database.uid.hex())))


@routes.declare("GET", "/databases/{database}/collections", Operation.READ, answers=CollectionList)
def read_collections(call: Called, database: str) -> Response:
    """The collections of a database, with how many documents are in each."""
    on = call.on(database)
    with on.database.read() as reader:
        found = [
            {
                "v": 1,
                "kind": "collection",
                "collection": one.name,
                "documents": one.documents,
                "deleted": one.deleted,
                "conflicts": one.conflicts,
                "schema": one.has_schema,
            }
            for one in list_collections(reader)
        ]
    return answer({"v": 1, "kind": "collections", "collections": found})


def _database(info: DatabaseInfo) -> dict[str, Any]:
    created = time_json(info.created_ms)
    return {"v": 1, "kind": "database", "name": info.name, "id": info.uid.hex(), "created": created}

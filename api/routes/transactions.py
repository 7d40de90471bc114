"""Several documents at once: transactions, imports, exports."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from fastapi import Query
from fastapi.responses import Response, StreamingResponse

from api.access.action import Operation
from api.models import (
    ChangeModel,
    DeleteChange,
    ElementsChange,
    ImportLine,
    IncrementChange,
    PatchChange,
    PutChange,
    RequireChange,
    TransactionBody,
    TransactionModel,
    UndeleteChange,
)
from api.problems import problem_of
from api.routes.dependencies import Call, Called, Note, On, Routes, check_collection, json_bytes, ndjson
from api.routes.documents import AsOfTime, AxisName
from api.routes.forms import as_of_json, commit_json, listed_json, place_json, point_in_time
from identity.errors import AuditError, LimitExceeded, MalformedError
from identity.jsontext import parse_json
from sync.changes import Changes
from sync.database import Commit, Database
from sync.jsonform import MAX_DOCUMENT_BYTES, parse_path, read_field, read_json
from sync.schema import Schema
from sync.storage.scan import scan
from sync.transaction import DocumentId, Path

__all__ = ["routes"]

routes = Routes("transactions")

_NDJSON: Final = "application/x-ndjson"
_PAGE: Final = 500
_MAX_LINES: Final = 1_000_000


# --- transactions ---------------------------------------------------------------------------------------------------


@routes.declare(
    "POST",
    "/databases/{database}/transactions",
    Operation.UPDATE,
    also=[Operation.CREATE, Operation.DELETE],
    answers=TransactionModel,
    body=TransactionBody,
    body_example={
        "note": "transfer 17",
        "changes": [
            {"do": "require", "collection": "accounts", "key": "4711", "etag": "1.K5rW5XlQW0Yb3nNq5n1E"},
            {"do": "increment", "collection": "accounts", "key": "4711", "field": "balance", "by": {"$dec": "-250.00"}},
            {"do": "increment", "collection": "accounts", "key": "4712", "field": "balance", "by": {"$dec": "250.00"}},
        ],
    },
)
def commit_transaction(call: Called, database: str) -> Response:
    """Make changes together, or none of them.

    What can make a document, or change one, takes both operations, unless a condition says which it is.
    """
    body = call.read(TransactionBody)
    _check_count(call, len(body.changes))
    on = _allowed(call, database, body.changes)

    def commit() -> Response:
        changes = call.changes(body.note, body.context)
        types = _Types(on.database)
        for change in body.changes:
            _add(changes, change, types)
        made = call.commit(on, changes)
        found = {str(name): etag or None for name, etag in sorted(made.etags.items())}
        return call.answer_commit(made, {**commit_json(None, made), "etags": found}, {}, 200)

    return call.once(commit)


def _check_count(call: Call, count: int) -> None:
    most = call.service.limits.documents
    if count > most:
        raise LimitExceeded(f"{count} changes, at most {most} go into one transaction")


def _allowed(call: Call, database: str, changes: Sequence[ChangeModel]) -> On:
    """Ask for everything that the changes do. Raises ``Forbidden``."""
    conditions = {(one.collection, one.key): found for one in changes if (found := _condition(one)) is not None}
    on = None
    for change in changes:
        check_collection(change.collection)
        named = _fields_named(change)
        for operation in _operations(change, conditions.get((change.collection, change.key))):
            on = call.on(database, change.collection, change.key, named, operation=operation, writes=True)
            on.require_fields(named)
            if isinstance(change, PutChange) and operation is Operation.UPDATE:
                on.require_all_fields("to put where something is")
    assert on is not None
    return on


def _condition(change: ChangeModel) -> Operation | None:
    """What a condition makes of the changes to its document: an update, or a creation."""
    match change:
        case RequireChange():
            return Operation.CREATE if change.etag is None else Operation.UPDATE
        case PutChange() if change.if_absent:
            return Operation.CREATE
        case PutChange() | PatchChange() if change.if_match is not None:
            return Operation.UPDATE
    return None


def _operations(change: ChangeModel, condition: Operation | None) -> tuple[Operation, ...]:
    match change:
        case RequireChange():
            return (Operation.READ,)
        case DeleteChange() | UndeleteChange():
            return (Operation.DELETE,)
    return (Operation.UPDATE, Operation.CREATE) if condition is None else (condition,)


def _fields_named(change: ChangeModel) -> set[str]:
    match change:
        case PutChange():
            return set(change.fields)
        case PatchChange():
            return {*change.fields, *(parse_path(one)[0] for one in change.unset)}
        case IncrementChange() | ElementsChange():
            return {parse_path(change.field)[0]}
    return set()


@dataclass(slots=True)
class _Types:
    """What the schemas of a database say of values, each read once."""

    database: Database
    _schemas: dict[str, Schema | None] | None = None

    def schema(self, collection: str) -> Schema | None:
        known = self._schemas = {} if self._schemas is None else self._schemas
        if collection not in known:
            with self.database.read() as reader:
                known[collection] = reader.schema(collection)
        return known[collection]

    def fields(self, collection: str, given: dict[str, Any]) -> dict[str, object]:
        schema = self.schema(collection)
        return {name: read_field(name, value, schema) for name, value in given.items()}

    def value(self, collection: str, path: Path, value: object, *, element: bool = False) -> Any:
        schema = self.schema(collection)
        rule = None if schema is None else schema.property_at(path)
        rule = rule.items if element and rule is not None else rule
        return read_json(value, rule, "/".join(path))


def _add(changes: Changes, change: ChangeModel, types: _Types) -> None:
    name = DocumentId(change.collection, change.key)
    match change:
        case RequireChange():
            changes.require(*name, change.etag)
        case PutChange():
            fields = types.fields(change.collection, change.fields)
            changes.put(*name, fields, if_match=change.if_match, if_absent=change.if_absent)
        case PatchChange():
            if not change.fields and not change.unset:
                raise MalformedError(f"{name}: there is nothing to change")
            changes.patch(*name, types.fields(change.collection, change.fields), if_match=change.if_match)
            for one in change.unset:
                changes.unset(*name, parse_path(one))
        case IncrementChange():
            path = parse_path(change.field)
            changes.increment(*name, path, types.value(change.collection, path, change.by))
        case ElementsChange():
            path = parse_path(change.field)
            elements = [types.value(change.collection, path, one, element=True) for one in change.elements]
            (changes.add if change.do == "add" else changes.remove)(*name, path, *elements)
        case DeleteChange():
            changes.delete(*name, if_match=change.if_match)
        case UndeleteChange():
            changes.undelete(*name)


# --- imports --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Line:
    key: str
    fields: dict[str, object]


@routes.declare(
    "POST",
    "/databases/{database}/collections/{collection}/import",
    Operation.CREATE,
    also=[Operation.UPDATE],
    media=_NDJSON,
    body=ImportLine,
    body_media=_NDJSON,
    large=True,
)
def import_documents(
    call: Called,
    database: str,
    collection: str,
    existing: Annotated[
        Literal["refuse", "replace", "update"], Query(description="What becomes of a document that is there.")
    ] = "refuse",
    batch: Annotated[int, Query(ge=1, le=10_000, description="Documents in one transaction.")] = 100,
    note: Note = "",
) -> Response:
    """Write a line of JSON for each document: {"key": "4711", "fields": {"owner": "Novak"}}.

    All lines are read before the first is written. Then each batch is a transaction, and a line of the answer. What
    stops it is the last line, a problem document: what was written before stays, and the rest can be sent again.
    """
    check_collection(collection)
    _check_count(call, batch)
    operations = [Operation.CREATE] if existing == "refuse" else [Operation.CREATE, Operation.UPDATE]
    ons = [call.on(database, collection, operation=one, writes=True) for one in operations]
    lines = list(_read_lines(call, ons[0].database, collection))
    for on in ons:
        on.require_fields(name for line in lines for name in line.fields)
    if existing == "replace":
        ons[-1].require_all_fields("to replace documents")
    add = _ADDING[existing]

    def written() -> Iterator[bytes]:
        return ndjson(_import(call, ons[0], collection, lines, batch, add, note))

    if call.header("idempotency-key") is None:
        return StreamingResponse(written(), media_type=_NDJSON)
    return call.once(lambda: Response(b"".join(written()), media_type=_NDJSON))


def _read_lines(call: Call, database: Database, collection: str) -> Iterator[_Line]:
    """Every line, read whole. Raises ``MalformedError`` naming the line."""
    with database.read() as reader:
        schema = reader.schema(collection)
    texts = call.request.body.split(b"\n")
    if len(texts) > _MAX_LINES:
        raise LimitExceeded(f"body: more than {_MAX_LINES} lines")
    seen: set[str] = set()
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        match parse_json(text, what=f"line {number}", max_bytes=MAX_DOCUMENT_BYTES):
            case {"key": str(key), "fields": dict(fields), **rest} if key and not rest:
                if key in seen:
                    raise MalformedError(f"line {number}: the key {key!r} stands there twice")
                seen.add(key)
                try:
                    yield _Line(key, {name: read_field(name, value, schema) for name, value in fields.items()})
                except MalformedError as exc:
                    raise MalformedError(f"line {number}: {exc}", hint=exc.hint) from exc
            case _:
                raise MalformedError(f'line {number}: not {{"key": TEXT, "fields": OBJECT}}')


_ADDING: Final[dict[str, Callable[[Changes, str, _Line], None]]] = {
    "refuse": lambda changes, collection, line: changes.put(collection, line.key, line.fields, if_absent=True),
    "replace": lambda changes, collection, line: changes.put(collection, line.key, line.fields),
    "update": lambda changes, collection, line: changes.patch(collection, line.key, line.fields),
}


def _import(
    call: Call,
    on: On,
    collection: str,
    lines: Sequence[_Line],
    batch: int,
    add: Callable[[Changes, str, _Line], None],
    note: str,
) -> Iterator[dict[str, Any]]:
    done = transactions = 0
    try:
        for some in _batches(lines, batch):
            changes = call.changes(note)
            for line in some:
                add(changes, collection, line)
            made: Commit = call.commit(on, changes)
            done += len(some)
            transactions += made.reference is not None
            yield {"v": 1, "kind": "imported", "rows": len(some), **place_json(made.reference, made.place)}
    except AuditError as exc:
        problem = problem_of(exc, call.id)
        document = parse_json(problem.body(), what="problem", max_bytes=1 << 24)
        yield {"v": 1, "kind": "problem", "rows": done, "problem": document}
        return
    yield {"v": 1, "kind": "document-import", "collection": collection, "rows": done, "transactions": transactions}


def _batches(lines: Sequence[_Line], size: int) -> Iterator[Sequence[_Line]]:
    return (lines[first : first + size] for first in range(0, len(lines), size))


# --- exports --------------------------------------------------------------------------------------------------------


@routes.declare(
    "GET",
    "/databases/{database}/collections/{collection}/export",
    Operation.READ,
    also=[Operation.HISTORY],
    media=_NDJSON,
)
def export_documents(
    call: Called, database: str, collection: str, as_of: AsOfTime = None, axis: AxisName = "claimed"
) -> Response:
    """Every document of a collection as a line of JSON, by key: as they are at the beginning, whatever is written
    meanwhile.
    """
    operation = None if as_of is None else Operation.HISTORY
    on = call.on(database, check_collection(collection), operation=operation)
    with on.database.read() as reader:
        point = point_in_time(reader, as_of, axis)
        cut = reader.now() if point is None else point.cut

    def lines() -> Iterator[bytes]:
        after: str | None = None
        count = 0
        while True:
            with on.database.read() as reader:  # none is kept open: a slow client would hold up others
                page = scan(reader, collection, limit=_PAGE, after=after, at=cut)
                rows = [{"v": 1, "kind": "listed", **listed_json(on, state)} for state in page.documents]
            count += len(rows)
            yield b"".join(ndjson(rows))
            after = page.cursor
            if after is None:
                break
        end = {"v": 1, "kind": "document-export", "collection": collection, "documents": count}
        yield json_bytes({**end, "as_of": as_of_json(point)}) + b"\n"

    return StreamingResponse(lines(), media_type=_NDJSON)

"""Documents: read, listed, written and deleted, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Final

from fastapi import Query
from fastapi.responses import Response

from api.access.action import Operation
from api.models import CommitModel, DocumentBody, DocumentModel, PageModel, PatchBody
from api.problems import NotFound
from api.routes.dependencies import (
    CONTEXT,
    Call,
    Called,
    Limit,
    Note,
    On,
    Routes,
    answer,
    check_collection,
)
from api.routes.forms import as_of_json, commit_json, document_json, listed_json, point_in_time
from identity.errors import ConflictError, Forbidden, MalformedError
from sync.changes import ANY_VERSION, StaleVersion, Strength
from sync.database import Commit, Database
from sync.jsonform import parse_path, read_field, read_fields
from sync.storage.reader import Reader
from sync.storage.scan import scan
from sync.storage.writing import encode_context
from sync.transaction import DocumentId

__all__ = ["AsOfTime", "AxisName", "condition", "fields_of", "match_of", "routes", "written"]

routes = Routes("documents")

AsOfTime = Annotated[
    str | None, Query(max_length=64, description="As it was at a time, or (axis=known) after a commit's place.")
]
AxisName = Annotated[str, Query(description="Whose clock: known, claimed or anchored.")]

_DOCUMENT = "/databases/{database}/collections/{collection}/documents/{key:path}"
_MAX_CONTEXT = 4096
"""Characters of a context that goes into a header. A longer one is left out."""

_EXAMPLE = {
    "v": 1,
    "kind": "document",
    "document": "accounts/4711",
    "etag": "1.K5rW5XlQW0Yb3nNq5n1E",
    "fields": {"owner": "Novak", "balance": {"$dec": "12.30"}},
    "conflicts": [],
    "sealed": [],
    "as_of": None,
}
_COMMIT = {
    "v": 1,
    "kind": "commit",
    "document": "accounts/4711",
    "etag": "1.K5rW5XlQW0Yb3nNq5n1E",
    "written": True,
    "entry": "kjw8egyi1oru/12/0606060606060606060606060606060606060606060606060606060606060606",
    "feed": "kjw8egyi1oru",
    "index": 12,
    "place": 41,
}


# --- reading --------------------------------------------------------------------------------------------------------


@routes.declare(
    "GET",
    _DOCUMENT,
    Operation.READ,
    also=[Operation.HISTORY],
    answers=DocumentModel,
    example=_EXAMPLE,
    more={304: "It is in the version that If-None-Match names."},
)
def read_document(
    call: Called,
    database: str,
    collection: str,
    key: str,
    siblings: Annotated[
        str | None, Query(pattern="^all$", description="all: also the values that do not show.")
    ] = None,
    as_of: AsOfTime = None,
    axis: AxisName = "claimed",
) -> Response:
    """A document, with its version as ETag.

    The header Holdfast-Context says what was read: a write that brings it back overwrites nothing newer.
    """
    operation = None if as_of is None else Operation.HISTORY
    on = call.on(database, check_collection(collection), key, operation=operation)
    with on.database.read() as reader:
        point = point_in_time(reader, as_of, axis)
        name = DocumentId(collection, key)
        state = reader.document(name) if point is None else reader.document_at(name, point.cut)
        headers = _context(reader) if point is None else {}
        if state is None or not state.exists:
            raise NotFound(f"there is no document {name}")
        headers["ETag"] = f'"{state.etag}"'
        if point is None and _is_known(call.header("if-none-match"), state.etag):
            return Response(status_code=304, headers=headers)
        return answer(document_json(on, state, point, siblings=siblings is not None), headers=headers)


@routes.declare(
    "HEAD", _DOCUMENT, Operation.READ, more={304: "It is in the version that If-None-Match names."}, media=""
)
def head_document(call: Called, database: str, collection: str, key: str) -> Response:
    """Whether there is such a document, and its version."""
    on = call.on(database, check_collection(collection), key)
    with on.database.read() as reader:
        state = reader.document(DocumentId(collection, key))
        if state is None or not state.exists:
            raise NotFound(f"there is no document {DocumentId(collection, key)}")
        headers = {"ETag": f'"{state.etag}"', **_context(reader)}
    return Response(status_code=304 if _is_known(call.header("if-none-match"), state.etag) else 200, headers=headers)


@routes.declare(
    "GET",
    "/databases/{database}/collections/{collection}/documents",
    Operation.READ,
    also=[Operation.HISTORY],
    answers=PageModel,
)
def list_documents(
    call: Called,
    database: str,
    collection: str,
    prefix: Annotated[str | None, Query(description="Whose keys begin so.")] = None,
    start: Annotated[str | None, Query(description="From this key on.")] = None,
    end: Annotated[str | None, Query(description="Before this key.")] = None,
    after: Annotated[str | None, Query(description="The cursor of the page before.")] = None,
    limit: Limit = 100,
    deleted: Annotated[bool, Query(description="Those that are deleted instead.")] = False,
    as_of: AsOfTime = None,
    axis: AxisName = "claimed",
) -> Response:
    """A page of a collection's documents, by key."""
    is_past = as_of is not None or deleted
    asked = Operation.HISTORY if is_past else None
    on = call.on(database, check_collection(collection), prefix=prefix or "", operation=asked)
    with on.database.read() as reader:
        point = point_in_time(reader, as_of, axis)
        page = scan(
            reader,
            collection,
            prefix=prefix,
            start=start,
            end=end,
            limit=limit,
            after=after,
            deleted=deleted,
            at=None if point is None else point.cut,
        )
        rows = [listed_json(on, state) for state in page.documents]
        headers = _context(reader) if point is None else {}
    found = {"v": 1, "kind": "page", "documents": rows, "cursor": page.cursor, "as_of": as_of_json(point)}
    return answer(found, headers=headers)


def _context(reader: Reader) -> dict[str, str]:
    token = encode_context(reader.branches.clock(), reader.branches)
    return {CONTEXT: token} if len(token) <= _MAX_CONTEXT else {}


def _is_known(header: str | None, etag: str) -> bool:
    """Whether ``If-None-Match`` names the version (RFC 9110 section 13.1.2: compared weakly)."""
    named = [one.strip().removeprefix("W/") for one in (header or "").split(",")]
    return "*" in named or f'"{etag}"' in named


# --- writing --------------------------------------------------------------------------------------------------------


@routes.declare(
    "PUT",
    _DOCUMENT,
    Operation.UPDATE,
    also=[Operation.CREATE],
    answers=CommitModel,
    example=_COMMIT,
    body=DocumentBody,
    body_example={"owner": "Novak", "balance": {"$dec": "12.30"}},
    more={201: "It was not there before."},
)
def put_document(call: Called, database: str, collection: str, key: str, note: Note = "") -> Response:
    """Let a document have these fields and no others; it is made if it is not there.

    With If-Match only if its version is that one, with "If-None-Match: *" only if there is no such document.
    """
    name = DocumentId(check_collection(collection), key)
    if_match, if_absent = condition(call)

    def put(on: On, wanted: str | None, *, absent: bool, local: bool) -> Response:
        fields = fields_of(call, on.database, name)
        on.require_fields(fields)
        if not absent:
            on.require_all_fields("PUT where something is")
        changes = call.changes(note)
        changes.put(*name, fields, if_match=wanted, if_absent=absent)
        if local and changes.strength is not Strength.SERIAL:
            changes.strength = Strength.LOCAL
        made = call.commit(on, changes)
        return written(call, on.database, name, made, status=201 if absent and made.reference else 200)

    def ask(operation: Operation) -> On:
        return call.on(database, collection, key, operation=operation, writes=True)

    if if_absent:
        creating = ask(Operation.CREATE)
        return call.once(lambda: put(creating, None, absent=True, local=False))
    if if_match is not None:
        updating = ask(Operation.UPDATE)
        return call.once(lambda: put(updating, if_match, absent=False, local=False))
    return call.once(lambda: _put_either(ask, name, put))


def _put_either(ask: Callable[[Operation], On], name: DocumentId, put: Callable[..., Response]) -> Response:
    """A PUT without a condition creates or updates, by what is there: each has to be allowed by itself.

    What was allowed is what is done: if the document comes or goes meanwhile, it is asked again.
    """
    try:
        updating = ask(Operation.UPDATE)
    except Forbidden as exc:
        creating = ask(Operation.CREATE)
        try:
            return put(creating, None, absent=True, local=True)
        except StaleVersion:
            raise exc from None
    for _ in range(_TRIES):
        try:
            if _exists(updating, name):
                return put(updating, ANY_VERSION, absent=False, local=True)
            return put(ask(Operation.CREATE), None, absent=True, local=True)
        except StaleVersion:
            continue
    raise ConflictError(f"{name}: it comes and goes while it is written to", hint="try again")


_TRIES: Final = 5


def _exists(on: On, name: DocumentId) -> bool:
    with on.database.read() as reader:
        state = reader.document(name)
        return state is not None and state.exists


@routes.declare(
    "PATCH",
    _DOCUMENT,
    Operation.UPDATE,
    answers=CommitModel,
    example=_COMMIT,
    body=PatchBody,
    body_example={"fields": {"owner": "Nowak"}, "unset": ["address/street"]},
)
def patch_document(call: Called, database: str, collection: str, key: str, note: Note = "") -> Response:
    """Let a document that is there have these fields, and leave its others as they are."""
    name = DocumentId(check_collection(collection), key)
    body = call.read(PatchBody)
    gone = [parse_path(one) for one in body.unset]
    named = {*body.fields, *(path[0] for path in gone)}
    if not named:
        raise MalformedError("body: there is nothing to change")
    on = call.on(database, collection, key, named, writes=True)
    on.require_fields(named)
    if_match = match_of(call)

    def patch() -> Response:
        changes = call.changes(note)
        if if_match is None:
            changes.strength = Strength.LOCAL
        changes.patch(*name, fields_of(call, on.database, name, body.fields), if_match=if_match or ANY_VERSION)
        for path in gone:
            changes.unset(*name, path)
        try:
            return written(call, on.database, name, call.commit(on, changes))
        except StaleVersion as exc:
            if if_match is None:
                raise NotFound(f"there is no document {name}") from exc
            raise

    return call.once(patch)


@routes.declare("DELETE", _DOCUMENT, Operation.DELETE, answers=CommitModel, example=_COMMIT)
def delete_document(call: Called, database: str, collection: str, key: str, note: Note = "") -> Response:
    """Hide a document. Nothing of it is lost: it can be undeleted, and read as it was."""
    name = DocumentId(check_collection(collection), key)
    on = call.on(database, collection, key, writes=True)
    if_match = match_of(call)

    def delete() -> Response:
        changes = call.changes(note)
        changes.delete(*name, if_match=if_match)
        return written(call, on.database, name, call.commit(on, changes))

    return call.once(delete)


@routes.declare(
    "POST",
    "/databases/{database}/collections/{collection}/undelete/{key:path}",
    Operation.DELETE,
    answers=CommitModel,
    example=_COMMIT,
)
def undelete_document(call: Called, database: str, collection: str, key: str, note: Note = "") -> Response:
    """Show a deleted document again, as it was."""
    name = DocumentId(check_collection(collection), key)
    on = call.on(database, collection, key, writes=True)

    def undelete() -> Response:
        changes = call.changes(note)
        changes.undelete(*name)
        return written(call, on.database, name, call.commit(on, changes))

    return call.once(undelete)


# --- inside ---------------------------------------------------------------------------------------------------------


def condition(call: Call) -> tuple[str | None, bool]:
    """``If-Match``, and whether ``If-None-Match: *`` stands there. Raises ``MalformedError``."""
    if_match, none = match_of(call), call.header("if-none-match")
    if none is not None and none.strip() != "*":
        raise MalformedError("If-None-Match: only * goes with a write")
    if none is not None and if_match is not None:
        raise MalformedError("If-Match and If-None-Match exclude each other")
    return if_match, none is not None


def match_of(call: Call) -> str | None:
    """The version that ``If-Match`` names; ``*`` for any. Raises ``MalformedError`` for several, or a weak one."""
    text = call.header("if-match")
    if text is None:
        return None
    text = text.strip()
    if text == ANY_VERSION:
        return text
    if len(text) < 3 or text[0] != '"' or text[-1] != '"' or '"' in text[1:-1]:
        raise MalformedError('If-Match: one ETag in quotes, or *: "1.K5rW5XlQW0Yb3nNq5n1E"')
    return text[1:-1]


def fields_of(
    call: Call, database: Database, name: DocumentId, given: dict[str, object] | None = None
) -> dict[str, object]:
    """The fields of the body, or those that were taken out of it, typed by the collection's schema."""
    with database.read() as reader:
        schema = reader.schema(name.collection)
    if given is None:
        return read_fields(call.request.body, schema, what=str(name))
    return {field: read_field(field, value, schema) for field, value in given.items()}


def written(call: Call, database: Database, name: DocumentId, made: Commit, *, status: int = 200) -> Response:
    """The answer to a write of one document."""
    if made.reference is None:
        with database.read() as reader:
            state = reader.document(name)
        made = replace(made, etags={} if state is None else {name: state.etag})
    etag = made.etags.get(name)
    headers = {"ETag": f'"{etag}"'} if etag else {}
    return call.answer_commit(made, commit_json(name, made), headers, status)

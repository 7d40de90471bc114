"""What happened to documents, what differs between two points, the ways back, and conflicts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Annotated, Any

from fastapi import Query
from fastapi.responses import Response

from api.access.action import Operation
from api.models import (
    CommitModel,
    ConflictList,
    DifferenceList,
    HistoryList,
    ResolveBody,
    RestorationModel,
    RestoreBody,
    UndoBody,
    UndoneModel,
)
from api.problems import PreconditionRequired, siblings_json
from api.routes.dependencies import Call, Called, Limit, On, Routes, answer, check_collection
from api.routes.documents import AxisName, match_of, written
from api.routes.forms import (
    as_of_json,
    change_json,
    conflicts_json,
    cut_of,
    place_json,
    point_in_time,
    time_json,
    unsealed,
)
from identity.errors import MalformedError
from identity.textforms import to_did_key, to_hex
from ledger.values import Reference, parse_reference_text, reference_text
from sync.clock import wall_ms
from sync.conflicts import OpenConflicts, open_conflicts
from sync.database import Database
from sync.history import HistoryEntry, differences_between, history_of
from sync.jsonform import parse_path, read_json, to_json
from sync.transaction import HOLDS, SCHEMAS, DocumentId, IntentMark

__all__ = ["routes"]

routes = Routes("history")


# --- what happened --------------------------------------------------------------------------------------------------


@routes.declare(
    "GET",
    "/databases/{database}/collections/{collection}/history/{key:path}",
    Operation.HISTORY,
    answers=HistoryList,
)
def read_history(
    call: Called,
    database: str,
    collection: str,
    key: str,
    field: Annotated[str | None, Query(description="Only what happened to this field.")] = None,
    after: Annotated[int, Query(ge=0, description="The cursor of the page before.")] = 0,
    limit: Limit = 100,
) -> Response:
    """Every transaction that touched a document, in the order in which it came here: who, when, what it changed."""
    path = () if field is None else parse_path(field)
    on = call.on(database, check_collection(collection), key, path[:1])
    on.require_fields(path[:1])
    with on.database.read() as reader:
        found = history_of(reader, DocumentId(collection, key), path)
        due = (facts for one in found if one.entry.place > after and (facts := _entry(on, one)) is not None)
        rows = list(islice(due, limit + 1))
    cursor = rows[limit - 1]["place"] if len(rows) > limit else None
    return answer({"v": 1, "kind": "history", "entries": rows[:limit], "cursor": cursor})


def _entry(on: On, one: HistoryEntry) -> dict[str, Any] | None:
    """An entry, as much of it as may be seen; None when nothing of it may."""
    entry = one.entry
    ops = [op for op in one.ops if on.shows_path(op.path)]
    changes = [change for change in one.changes if on.shows_path(change.path)]
    if not ops and not changes:
        return None
    return {
        "entry": reference_text(entry.reference),
        "place": entry.place,
        "claimed": time_json(wall_ms(entry.reading)),
        "taken": time_json(entry.taken_ms),
        "device": to_did_key(entry.author.device),
        "identity": to_hex(entry.author.identity),
        "note": entry.note if on.grant.fields is None else "",  # it may speak of fields that are withheld
        "undoes": [reference_text(other) for other in entry.undoes],
        "masked": entry.masked,
        "intent": None if entry.intent is None else _intent(entry.intent),
        "ops": [{"verb": op.verb.value, "path": op.path, "value": to_json(op.value)} for op in ops],
        "changes": [change_json(change) for change in changes],
    }


def _intent(mark: IntentMark) -> dict[str, Any]:
    identity = None if mark.identity is None else to_hex(mark.identity)
    return {"key": to_did_key(mark.key), "identity": identity, "sequence": mark.sequence}


@routes.declare("GET", "/databases/{database}/diff", Operation.HISTORY, answers=DifferenceList)
def read_differences(
    call: Called,
    database: str,
    since: Annotated[str, Query(alias="from", max_length=64, description="The earlier point.")],
    until: Annotated[str | None, Query(alias="to", max_length=64, description="The later one; default: now.")] = None,
    axis: AxisName = "claimed",
    collection: Annotated[str | None, Query(description="Only of this one.")] = None,
    key: Annotated[str | None, Query(description="Only this document of it.")] = None,
    limit: Limit = 100,
) -> Response:
    """What documents show at one point and not at another. ``more``: there are others that it has no room for."""
    if key is not None and collection is None:
        raise MalformedError("key: of which collection?")
    if collection is not None:
        check_collection(collection)
    on = call.on(database, collection, key)
    rows: list[dict[str, Any]] = []
    with on.database.read() as reader:
        before, after = cut_of(reader, since, axis), cut_of(reader, until, axis)
        for one in differences_between(reader, before, after, collection, key):
            changes = [change_json(change) for change in one.changes if on.shows_path(change.path)]
            if one.name.collection.startswith("$") or not changes:
                continue
            etags = {
                "before": None if one.before is None else one.before.etag,
                "after": None if one.after is None else one.after.etag,
            }
            rows.append({"document": str(one.name), **etags, "changes": changes})
            if len(rows) > limit:
                break
    return answer({"v": 1, "kind": "differences", "documents": rows[:limit], "more": len(rows) > limit})


# --- back -----------------------------------------------------------------------------------------------------------


@routes.declare(
    "POST",
    "/databases/{database}/undo",
    Operation.UNDO,
    also=[Operation.SCHEMA, Operation.HOLD],
    answers=UndoneModel,
    body=UndoBody,
)
def undo(call: Called, database: str) -> Response:
    """Take back what transactions wrote, and nobody has changed since. It is a transaction, which can be undone."""
    return _take_back(call, database, again=False)


@routes.declare(
    "POST",
    "/databases/{database}/redo",
    Operation.UNDO,
    also=[Operation.SCHEMA, Operation.HOLD],
    answers=UndoneModel,
    body=UndoBody,
)
def redo(call: Called, database: str) -> Response:
    """Do again what was undone: the entries are those that were, not the ones that undid them."""
    return _take_back(call, database, again=True)


def _take_back(call: Call, database: str, *, again: bool) -> Response:
    body = call.read(UndoBody)
    named = [parse_reference_text(one) for one in body.entries]
    on = call.on(database, writes=True)
    on.require_all_fields("to take back")
    _allow_system(call, database, on, named)

    def take() -> Response:
        with call.committing(on):
            done = (on.database.redo if again else on.database.undo)(*named, note=body.note)
        return answer(
            {
                "v": 1,
                "kind": "redo" if again else "undo",
                "entries": [reference_text(one) for one in named],
                "changed": sorted(map(str, done.commit.etags)),
                "skipped": [
                    {
                        "document": str(one.document),
                        "path": one.path,
                        "reason": one.reason,
                        "by": _reference(one.by),
                    }
                    for one in done.skipped
                ],
                **place_json(done.commit.reference, done.commit.place),
            }
        )

    return call.once(take)


def _allow_system(call: Call, database: str, on: On, named: Sequence[Reference]) -> None:
    """Ask for what it takes to take back schemas and holds, where one of the transactions wrote any.

    The node may: it would do it for everybody. Raises ``Forbidden``, and ``MissingEvidenceError`` for what is not here.
    """
    touched: set[str] = set()
    for reference in named:
        transaction = on.database.entry(reference).transaction
        touched |= set() if transaction is None else {op.document.collection for op in transaction.ops}
    for collection in sorted(touched):
        if collection.startswith("$"):
            call.on(database, operation=_TAKES.get(collection, Operation.OPERATE), writes=True)


_TAKES = {SCHEMAS: Operation.SCHEMA, HOLDS: Operation.HOLD}


def _reference(reference: Reference | None) -> str | None:
    return None if reference is None else reference_text(reference)


@routes.declare(
    "POST",
    "/databases/{database}/restore",
    Operation.UNDO,
    answers=RestorationModel,
    body=RestoreBody,
    body_example={"as_of": "2026-03-31T23:59:59Z", "collection": "accounts", "key": "4711", "note": "as at the close"},
)
def restore(call: Called, database: str) -> Response:
    """Let documents show again what they showed then: one, a collection, or all. It can be undone."""
    body = call.read(RestoreBody)
    if body.key is not None and body.collection is None:
        raise MalformedError("key: of which collection?")
    if body.collection is not None:
        check_collection(body.collection)
    on = call.on(database, body.collection, body.key, writes=True)
    on.require_all_fields("to restore")

    def again() -> Response:
        with on.database.read() as reader:
            point = point_in_time(reader, body.as_of, body.axis)
        assert point is not None
        with call.committing(on):
            done = on.database.restore(point.cut, body.collection, body.key, note=body.note, several=body.several)
        made = [reference_text(one.reference) for one in done.commits if one.reference is not None]
        left = [str(one) for one in done.left]
        return answer({"v": 1, "kind": "restoration", "as_of": as_of_json(point), "entries": made, "left": left})

    return call.once(again)


# --- conflicts ------------------------------------------------------------------------------------------------------


@routes.declare("GET", "/databases/{database}/conflicts", Operation.READ, answers=ConflictList)
def read_conflicts(
    call: Called,
    database: str,
    collection: Annotated[str | None, Query(description="Only of this one.")] = None,
    limit: Limit = 100,
) -> Response:
    """Documents that wait for a decision. A contest is a write whose condition another broke without knowing of it."""
    on = call.on(database, None if collection is None else check_collection(collection))
    with on.database.read() as reader:
        found = (one for one in open_conflicts(reader, collection) if not one.name.collection.startswith("$"))
        rows = [_conflict(on, one) for one in islice(found, limit + 1)]
    return answer({"v": 1, "kind": "conflicts", "documents": rows[:limit], "more": len(rows) > limit})


def _conflict(on: On, one: OpenConflicts) -> dict[str, Any]:
    siblings = siblings_json(unsealed(on.database, one.state).view)
    return {
        "document": str(one.name),
        "etag": one.state.etag,
        "conflicts": conflicts_json(on, one.conflicts),
        "siblings": {path: values for path, values in siblings.items() if on.shows_path(path)},
        "contests": [
            {"guarded": reference_text(contest.guarded), "other": reference_text(contest.other)}
            for contest in one.contests
        ],
    }


@routes.declare(
    "POST",
    "/databases/{database}/collections/{collection}/resolve/{key:path}",
    Operation.RESOLVE,
    answers=CommitModel,
    body=ResolveBody,
    body_example={"choose": {"owner": "Novak"}, "note": "asked her"},
    more={428: "If-Match is missing."},
)
def resolve(call: Called, database: str, collection: str, key: str) -> Response:
    """Decide all conflicts of a document: these fields get these values, those the list of all that stand there, and
    the others what shows. If-Match is the version that the decision rests on.
    """
    name = DocumentId(check_collection(collection), key)
    body, etag = call.read(ResolveBody), match_of(call)
    if etag is None:
        raise PreconditionRequired("If-Match: the version that the decision rests on")
    chosen = {parse_path(where): value for where, value in body.choose.items()}
    kept = [parse_path(where) for where in body.keep_all]
    named = {path[0] for path in (*chosen, *kept)}
    on = call.on(database, collection, key, named, writes=True)
    on.require_all_fields("to decide about a document")

    def decide() -> Response:
        values = _typed(on.database, collection, chosen)
        with call.committing(on):
            made = on.database.resolve(*name, if_match=etag, choose=values, keep_all=kept, note=body.note)
        return written(call, on.database, name, made)

    return call.once(decide)


def _typed(database: Database, collection: str, chosen: dict[tuple[str, ...], Any]) -> dict[Any, object]:
    with database.read() as reader:
        schema = reader.schema(collection)
    rules = {path: None if schema is None else schema.property_at(path) for path in chosen}
    return {path: read_json(value, rules[path], "/".join(path)) for path, value in chosen.items()}

"""Queries: documents by what they hold."""

from __future__ import annotations

from os.path import commonprefix
from typing import Annotated, Any

from fastapi import Query as Parameter
from fastapi.responses import Response

from api.access.action import Operation
from api.models import PageModel, QueryBody
from api.routes.dependencies import Call, Called, Limit, On, Routes, answer, check_collection
from api.routes.documents import AsOfTime, AxisName
from api.routes.forms import as_of_json, conflicts_json, point_in_time, unsealed
from sync.filtertext import parse_field, parse_filter
from sync.jsonform import to_json
from sync.query import EVERYTHING, KEY, Conjunction, Filter, Operator, Query, filter_from_json, project
from sync.storage.query import Found, run_query

__all__ = ["routes"]

routes = Routes("queries")

_QUERY = "/databases/{database}/collections/{collection}/query"


@routes.declare("GET", _QUERY, Operation.READ, also=[Operation.HISTORY], answers=PageModel)
def query(
    call: Called,
    database: str,
    collection: str,
    where: Annotated[str, Parameter(description='A filter: balance >= 100.00 and owner ^= "No".')] = "",
    order: Annotated[str, Parameter(description="An indexed field, or $key.")] = "$key",
    select: Annotated[list[str] | None, Parameter(max_length=64, description="Only these fields.")] = None,
    descending: Annotated[bool, Parameter(description="The largest first.")] = False,
    scan: Annotated[bool, Parameter(description="Look at every document where no index helps.")] = False,
    limit: Limit = 100,
    after: Annotated[str | None, Parameter(description="The cursor of the page before.")] = None,
    as_of: AsOfTime = None,
    axis: AxisName = "claimed",
) -> Response:
    """A page of the documents that fit a filter (docs/spec/query.md)."""
    body = QueryBody(
        where=where,
        order=order,
        select=select or [],
        descending=descending,
        scan=scan,
        limit=limit,
        after=after,
        as_of=as_of,
        axis=axis,
    )
    return _answer(call, database, collection, body)


@routes.declare(
    "POST",
    _QUERY,
    Operation.READ,
    also=[Operation.HISTORY],
    answers=PageModel,
    body=QueryBody,
    body_example={"where": 'balance >= 100.00 and owner ^= "No"', "order": "balance", "limit": 20},
)
def post_query(call: Called, database: str, collection: str) -> Response:
    """The same, for filters that are long, or written as JSON."""
    return _answer(call, database, collection, call.read(QueryBody))


def _answer(call: Call, database: str, collection: str, body: QueryBody) -> Response:
    asked = Query(
        check_collection(collection),
        _filter(body.where),
        parse_field(body.order),
        body.descending,
        tuple(map(parse_field, body.select)),
        body.scan,
    )
    named = _fields_named(asked)
    at = None if body.as_of is None else Operation.HISTORY
    on = call.on(database, collection, None, named, prefix=_prefix(asked.where), operation=at)
    on.require_fields(named)  # a filter over a field that is withheld would tell what it holds
    with on.database.read() as reader:
        point = point_in_time(reader, body.as_of, body.axis)
        page = run_query(reader, asked, limit=body.limit, after=body.after, at=None if point is None else point.cut)
        rows = [_row(on, one, asked) for one in page.documents]
    return answer({"v": 1, "kind": "page", "documents": rows, "cursor": page.cursor, "as_of": as_of_json(point)})


def _filter(where: Any) -> Filter:
    if where is None or (isinstance(where, str) and not where.strip()):
        return EVERYTHING
    return parse_filter(where) if isinstance(where, str) else filter_from_json(where)


def _fields_named(asked: Query) -> set[str]:
    paths = [one.path for conjunction in asked.where.alternatives for one in conjunction]
    return {path[0] for path in (*paths, asked.order, *asked.select) if path != KEY}


def _prefix(where: Filter) -> str:
    """With what the key of every document begins that can fit."""
    return commonprefix([_prefix_of(one) for one in where.alternatives])  # noqa: RUF071  (of texts, no paths)


def _prefix_of(conjunction: Conjunction) -> str:
    exact = (Operator.EQUAL, Operator.PREFIX)
    texts = [one.values[0] for one in conjunction if one.path == KEY and one.operator in exact]
    return max((one for one in texts if isinstance(one, str)), key=len, default="")


def _row(on: On, one: Found, asked: Query) -> dict[str, Any]:
    fields = dict(unsealed(on.database, one.state).view.fields)
    shown = project(fields, asked.select) if asked.select else fields
    conflicts = len(conflicts_json(on, one.state.conflicts))
    return {"key": one.name.key, "etag": one.etag, "conflicts": conflicts, "fields": on.shown(to_json(dict(shown)))}

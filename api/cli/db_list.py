"""``holdfast db list``: the databases, the collections of one, the documents of a collection."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.db_common import AsOfTime, AxisName, group, meet_node, note_if_unknown, point_in_time, reading
from api.cli.db_show import plain
from api.cli.group import invocation
from api.cli.session import as_usage, opened
from api.cli.times import time_text

__all__ = ["say_more"]


@group.add(
    "list",
    node=True,
    examples=[
        "holdfast db list",
        "holdfast db list bank",
        "holdfast db list bank accounts --prefix 47 --limit 20",
    ],
)
def list_(
    ctx: typer.Context,
    database: Annotated[
        str | None, typer.Argument(metavar="[DATABASE]", help="Show its collections.", show_default=False)
    ] = None,
    collection: Annotated[
        str | None, typer.Argument(metavar="[COLLECTION]", help="Show its documents.", show_default=False)
    ] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", metavar="TEXT", help="Only documents whose key begins so.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, metavar="N", help="Documents, at most.")] = 100,
    after: Annotated[
        str | None, typer.Option("--after", metavar="CURSOR", help="Go on where the list before this one ended.")
    ] = None,
    deleted: Annotated[bool, typer.Option("--deleted", help="Show the documents that are deleted instead.")] = False,
    when: AsOfTime = None,
    axis: AxisName = "claimed",
) -> None:
    """The databases of this home; with a name, its collections; with a collection, its documents by key."""
    if database is None:
        _list_databases(ctx)
    elif collection is None:
        _list_collections(ctx, database)
    else:
        _list_documents(ctx, database, collection, prefix, limit, after, when, axis, deleted=deleted)


def _list_databases(ctx: typer.Context) -> None:
    from api.databases import Databases

    out = invocation(ctx).out
    meet_node(ctx, None)
    with opened(ctx, read_only=True) as session, Databases(session) as databases:
        rows = [(info.name, info.uid.hex(), time_text(out, info.created_ms)) for info in databases.known()]
    out.table("database", ("name", "id", "created"), rows)


def _list_collections(ctx: typer.Context, database: str) -> None:
    from sync.storage.collections import list_collections

    with reading(ctx, database) as opening, opening.database.read() as reader:
        found = list_collections(reader)
    rows = [(one.name, one.documents, one.deleted, one.conflicts, one.has_schema) for one in found]
    invocation(ctx).out.table("collection", ("collection", "documents", "deleted", "conflicts", "schema"), rows)


def _list_documents(
    ctx: typer.Context,
    database: str,
    collection: str,
    prefix: str | None,
    limit: int,
    after: str | None,
    when: str | None,
    axis: str,
    *,
    deleted: bool,
) -> None:
    from sync.storage.scan import scan
    from sync.unsealing import unseal_view

    out = invocation(ctx).out
    with reading(ctx, database) as opening, opening.database.read() as reader, as_usage():
        point = point_in_time(out, reader, when, axis)
        at = None if point is None else point.cut
        page = scan(reader, collection, prefix=prefix, limit=limit, after=after, deleted=deleted, at=at)
        keys, uid = opening.databases.keys, opening.database.uid
        rows = [
            (
                state.name.key,
                state.etag,
                len(state.view.conflicts),
                plain(out, dict(unseal_view(state.view, uid, state.name, keys.find).view.fields)),
            )
            for state in page.documents
        ]
        if not rows:
            note_if_unknown(out, reader, collection)
    out.table("listed", ("key", "etag", "conflicts", "fields"), rows)
    say_more(ctx, page.cursor)


def say_more(ctx: typer.Context, cursor: str | None) -> None:
    """Where the next page begins: under ``--json`` a line of its own, else a note when there is one."""
    out = invocation(ctx).out
    if out.json:
        out.record("page", {"cursor": cursor})
    elif cursor is not None:
        out.note(f"to go on: --after {cursor}")

"""``holdfast db``: queries, and following changes as they come."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.db_common import (
    AsOfTime,
    AxisName,
    DatabaseName,
    device_name,
    group,
    note_if_unknown,
    point_in_time,
    reading,
)
from api.cli.db_list import say_more
from api.cli.db_show import plain
from api.cli.exit_codes import UsageError
from api.cli.group import invocation
from api.cli.session import as_usage
from api.cli.times import time_text
from sync.membership import Author

if TYPE_CHECKING:
    from api.cli.db_common import Opened
    from api.cli.output import Output
    from identity.encoding import Value
    from sync.changefeed import ChangeEvent
    from sync.query import Query
    from sync.storage.query import Found
    from sync.transaction import Path as FieldPath

__all__: list[str] = []

_POLL_S = 0.5


@group.add(
    "query",
    node=True,
    examples=[
        "holdfast db query bank accounts 'balance >= 100.00 and owner ^= \"No\"' --limit 20",
        "holdfast db query bank accounts 'status = \"frozen\"' --scan --select owner --select balance",
        "holdfast db query bank accounts --order balance --descending --json",
    ],
)
def query(
    ctx: typer.Context,
    database: DatabaseName,
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", help="Whose documents.")],
    where: Annotated[str, typer.Argument(metavar="[FILTER]", help="Which; all by default.", show_default=False)] = "",
    order: Annotated[
        str, typer.Option("--order", metavar="FIELD", help="An indexed field; default: the documents' keys.")
    ] = "$key",
    descending: Annotated[bool, typer.Option("--descending", help="The largest first.")] = False,
    select: Annotated[
        list[str] | None, typer.Option("--select", metavar="FIELD", help="Only this field; can be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, metavar="N", help="Documents, at most.")] = 100,
    after: Annotated[
        str | None, typer.Option("--after", metavar="CURSOR", help="Go on where the page before this one ended.")
    ] = None,
    scan: Annotated[bool, typer.Option("--scan", help="Look at every document where no index helps.")] = False,
    when: AsOfTime = None,
    axis: AxisName = "claimed",
    explain: Annotated[bool, typer.Option("--explain", help="How the engine would go about it.")] = False,
) -> None:
    """Find documents by what they hold.

    A filter compares fields: = != < <= > >= ^= (begins with), in (...), exists, absent; joined by 'and' and 'or'.
    Texts stand in double quotes; of days, points in time and decimals the schema says what they are.
    """
    with as_usage():
        asked = _query(collection, where, order, select or [], descending=descending, scan=scan)
    if explain and when is not None:
        raise UsageError("--explain and --as-of exclude each other")
    if explain:
        _explain(ctx, database, asked)
        return
    from sync.storage.query import run_query

    out = invocation(ctx).out
    with reading(ctx, database) as opening, opening.database.read() as reader, as_usage():
        point = point_in_time(out, reader, when, axis)
        page = run_query(reader, asked, limit=limit, after=after, at=None if point is None else point.cut)
        found = [(one, _opened(opening, one, asked)) for one in page.documents]
        if not found:
            note_if_unknown(out, reader, collection)
    _answer(out, found)
    say_more(ctx, page.cursor)


def _query(collection: str, where: str, order: str, select: list[str], *, descending: bool, scan: bool) -> Query:
    from sync.filtertext import parse_field, parse_filter
    from sync.query import EVERYTHING, Query

    chosen = EVERYTHING if not where.strip() else parse_filter(where)
    return Query(collection, chosen, parse_field(order), descending, tuple(map(parse_field, select)), scan)


def _explain(ctx: typer.Context, database: str, asked: Query) -> None:
    from sync.storage.query import explain as explain_query

    with reading(ctx, database) as opening, opening.database.read() as reader, as_usage():
        lines = explain_query(reader, asked)
    invocation(ctx).out.table("plan", ("step",), [(line,) for line in lines])


def _opened(opening: Opened, one: Found, asked: Query) -> dict[str, Value]:
    """What was selected of a document, its sealed values opened where that can be."""
    from sync.query import project
    from sync.unsealing import unseal_view

    find, uid = opening.databases.keys.find, opening.database.uid
    fields = dict(unseal_view(one.state.view, uid, one.name, find).view.fields)
    return project(fields, asked.select) if asked.select else fields


def _answer(out: Output, found: list[tuple[Found, dict[str, Value]]]) -> None:
    """For people a column for each field that any of them has."""
    if out.json:
        rows = [(one.name.key, one.etag, len(one.state.view.conflicts), plain(out, fields)) for one, fields in found]
        out.table("listed", ("key", "etag", "conflicts", "fields"), rows)
        return
    names = list(dict.fromkeys(name for _, fields in found for name in fields))
    out.table(
        "listed",
        ("key", "conflicts", *names),
        [
            (one.name.key, len(one.state.view.conflicts), *(plain(out, fields.get(name)) for name in names))
            for one, fields in found
        ],
    )


# --- following ------------------------------------------------------------------------------------------------------


@group.add(
    "watch",
    examples=[
        "holdfast db watch bank --collection accounts --follow",
        "holdfast db watch bank --after 0 --json > changes.jsonl",
    ],
)
def watch(
    ctx: typer.Context,
    database: DatabaseName,
    after: Annotated[
        str | None, typer.Option("--after", metavar="CURSOR", help="Behind this one; 0: from the beginning.")
    ] = None,
    collection: Annotated[
        list[str] | None, typer.Option("--collection", metavar="NAME", help="Only of this one; can be repeated.")
    ] = None,
    field: Annotated[
        list[str] | None, typer.Option("--field", metavar="FIELD", help="Only this field; can be repeated.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for what comes, until interrupted.")] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=1, metavar="N", help="End after N changes; those of one transaction stay together."
        ),
    ] = None,
) -> None:
    """Every change of a document, in the order in which it came here: by transactions of this device and of others.

    Each change has a cursor: --after goes on behind it, and tells every change exactly once. Without --after it begins
    at the beginning, with --follow at what comes next.
    """
    from sync.changefeed import START
    from sync.query import KEY
    from sync.storage.changefeed import MAX_EVENTS, changes_after

    out = invocation(ctx).out
    fields = None if not field else _fields(field)
    if fields is not None and KEY in fields:
        raise UsageError("$key is no field", hint="every change names its document")
    with reading(ctx, database) as opening:
        cursor = after if after is not None else _newest(opening) if follow else START
        told = 0
        while True:
            most = MAX_EVENTS if limit is None else min(MAX_EVENTS, limit - told)
            with opening.database.read() as reader, as_usage():
                page = changes_after(
                    reader, cursor, limit=min(most, 500), collections=collection or None, fields=fields
                )
            _tell(out, opening, page.events)
            cursor, told = page.cursor, told + len(page.events)
            if (limit is not None and told >= limit) or not (page.more or follow):
                break
            if not page.more:
                out.flush()
                time.sleep(_POLL_S)
    say_more(ctx, cursor)


def _fields(names: list[str]) -> list[FieldPath]:
    from sync.filtertext import parse_field

    with as_usage():
        return [parse_field(name) for name in names]


def _newest(opening: Opened) -> str:
    """The cursor behind everything that is here."""
    from sync.changefeed import START, Position

    with opening.database.read() as reader:
        row = reader.tx.fetch_one(reader.sql.entry_before, (reader.number, reader.newest_place()))
    return START if row is None else Position(row[0], row[7]).text()


def _tell(out: Output, opening: Opened, events: Iterable[ChangeEvent]) -> None:
    from sync.changefeed import event_json

    if out.json:
        for event in events:
            out.record(
                "change", {name: value for name, value in event_json(event).items() if name not in ("v", "kind")}
            )
        return
    rows = (
        (
            event.kind.value,
            str(event.document),
            ", ".join(_changed(event)),
            device_name(opening.session, Author(b"", event.device, event.identity)),
            time_text(out, event.claimed_ms),
            event.note,
            event.cursor,
        )
        for event in events
    )
    out.table("change", ("change", "document", "fields", "device", "claimed", "note", "cursor"), rows)


def _changed(event: ChangeEvent) -> list[str]:
    """The names of the fields that are others than before."""
    old, new = event.old or {}, event.new or {}
    return [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]

"""``holdfast db``: what happened to documents, what differs between two points, and the ways back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.db_common import (
    AsOfTime,
    AxisName,
    DatabaseName,
    Device,
    DocumentName,
    Note,
    Opened,
    as_of_facts,
    device_name,
    document,
    entry_named,
    entry_text,
    field_path,
    group,
    note_of,
    part_of,
    place_of,
    point_in_time,
    reading,
    writing,
)
from api.cli.db_show import plain
from api.cli.exit_codes import UsageError
from api.cli.group import invocation
from api.cli.session import PassphraseFile
from api.cli.times import time_text
from identity.errors import ConflictError, RefusedError
from identity.textforms import to_did_key

if TYPE_CHECKING:
    from api.cli.output import Output, Plain
    from identity.encoding import Value
    from ledger.values import Reference
    from sync.database import Database
    from sync.difference import CellChange
    from sync.history import DocumentDifference, HistoryEntry
    from sync.storage.reader import Cut, Reader
    from sync.storage.undoing import UndoPlan
    from sync.storage.writing import Writing
    from sync.transaction import DocumentId
    from sync.undo import Skipped

__all__: list[str] = []

Part = Annotated[
    str | None,
    typer.Argument(metavar="[COLLECTION[/KEY]]", help="Only this collection, or this document.", show_default=False),
]
Entries = Annotated[
    list[str] | None,
    typer.Argument(metavar="[ENTRY...]", help="Transactions, FEED/INDEX, as 'db history' shows them."),
]
LastOf = Annotated[
    str | None,
    typer.Option("--last-of", metavar="COLLECTION/KEY", help="The newest transaction that touched this document."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")]


# --- what happened --------------------------------------------------------------------------------------------------


@group.add(
    "history",
    node=True,
    examples=[
        "holdfast db history bank accounts/4711",
        "holdfast db history bank accounts/4711 --field balance --json",
    ],
)
def history(
    ctx: typer.Context,
    database: DatabaseName,
    name: DocumentName,
    field: Annotated[
        str | None, typer.Option("--field", metavar="FIELD", help="Only what happened to this field.")
    ] = None,
) -> None:
    """Every transaction that touched a document, in the order in which it came here: who, when, and what it changed.

    One that does not count is shown with the reason. Claimed times are those of the authors' clocks.
    """
    from sync.history import history_of

    named, path = document(name), () if field is None else field_path(field)
    out = invocation(ctx).out
    with reading(ctx, database) as opening, opening.database.read() as reader:
        found = history_of(reader, named, path)
        first = next(found, None)
        if first is None:
            out.note(f"nothing was ever written to {named}{'' if field is None else f', {field}'}")
        found = chain([] if first is None else [first], found)
        if out.json:
            for one in found:
                out.record("history", _history_facts(out, opening, one))
        else:
            rows = (row for one in found for row in _history_rows(out, opening, one))
            out.table("history", ("entry", "claimed", "device", "field", "before", "after", "note"), rows)


def _history_facts(out: Output, opening: Opened, one: HistoryEntry) -> dict[str, Plain]:
    entry = one.entry
    return {
        "entry": entry_text(entry.reference),
        "place": entry.place,
        "claimed": _claimed(out, entry.reading),
        "taken": time_text(out, entry.taken_ms),
        "device": device_name(opening.session, entry.author),
        "identity": entry.author.identity.hex(),
        "intent": None if entry.intent is None else to_did_key(entry.intent.key),
        "note": entry.note,
        "undoes": [entry_text(other) for other in entry.undoes],
        "masked": entry.masked,
        "ops": [{"verb": op.verb.value, "path": op.path, "value": plain(out, op.value)} for op in one.ops],
        "changes": [_change_facts(out, change) for change in one.changes],
    }


def _history_rows(out: Output, opening: Opened, one: HistoryEntry) -> Iterator[tuple[Plain, ...]]:
    """A line for each field that changed, or one that says why there is none."""
    entry = one.entry
    author = device_name(opening.session, entry.author)
    if entry.intent is not None:
        author = f"{to_did_key(entry.intent.key)} by {author}"
    who = (_short(entry.reference), _claimed(out, entry.reading), author)
    note = entry.note if entry.masked is None else f"does not count: {entry.masked}"
    for change in one.changes:
        yield (*who, change.path or "(deleted)", _shown(out, change.before), _shown(out, change.after), note)
    if not one.changes:
        yield (*who, None, None, None, note)


def _claimed(out: Output, reading_: int) -> str:
    from sync.clock import wall_ms

    return time_text(out, wall_ms(reading_))


def _short(reference: Reference) -> str:
    """An entry without its hash: what a person types."""
    return entry_text(reference).rpartition("/")[0]


def _change_facts(out: Output, change: CellChange) -> dict[str, Plain]:
    before, after = ([plain(out, value) for value in values] for values in (change.before, change.after))
    return {"path": change.path, "kind": change.kind.value, "before": before, "after": after}


def _shown(out: Output, values: Sequence[Value]) -> Plain:
    """What a cell showed: nothing, its value, or all of several."""
    if not values:
        return None
    return plain(out, values[0]) if len(values) == 1 else [plain(out, value) for value in values]


@group.add(
    "diff",
    node=True,
    examples=[
        "holdfast db diff bank --from 2026-03-31T23:59:59Z",
        "holdfast db diff bank accounts --from 2026-03-31T23:59:59Z --to 2026-06-30T23:59:59Z --axis anchored",
        "holdfast db diff bank accounts/4711 --from 120 --to 140 --axis known",
    ],
)
def diff(
    ctx: typer.Context,
    database: DatabaseName,
    part: Part = None,
    since: Annotated[str, typer.Option("--from", metavar="WHEN", help="The earlier point.", show_default=False)] = "",
    until: Annotated[str | None, typer.Option("--to", metavar="WHEN", help="The later point; default: now.")] = None,
    axis: AxisName = "claimed",
) -> None:
    """What documents show at one point and not at another."""
    if not since:
        raise UsageError("from when?", hint="--from 2026-03-31T23:59:59Z, or a place with --axis known")
    collection, key = part_of(part)
    out = invocation(ctx).out
    with reading(ctx, database) as opening, opening.database.read() as reader:
        before, after = _cut(out, reader, since, axis), _cut(out, reader, until, axis)
        _answer_differences(out, _differences(reader, before, after, collection, key))


def _cut(out: Output, reader: Reader, when: str | None, axis: str) -> Cut:
    point = point_in_time(out, reader, when, axis)
    return reader.now() if point is None else point.cut


def _differences(
    reader: Reader, before: Cut, after: Cut, collection: str | None, key: str | None
) -> Iterator[DocumentDifference]:
    """As ``differences_between``, without schemas and holds unless they are asked for."""
    from sync.history import differences_between

    found = differences_between(reader, before, after, collection, key)
    return (one for one in found if collection is not None or not one.name.collection.startswith("$"))


def _answer_differences(out: Output, found: Iterator[DocumentDifference]) -> None:
    if out.json:
        for one in found:
            facts: dict[str, Plain] = {
                "document": str(one.name),
                "before": None if one.before is None else one.before.etag,
                "after": None if one.after is None else one.after.etag,
                "changes": [_change_facts(out, change) for change in one.changes],
            }
            out.record("difference", facts)
        return
    rows = (
        (str(one.name), change.path or "(deleted)", _shown(out, change.before), _shown(out, change.after))
        for one in found
        for change in one.changes
    )
    out.table("difference", ("document", "field", "before", "after"), rows)


# --- back -----------------------------------------------------------------------------------------------------------


@group.add(
    "undo",
    node=True,
    examples=[
        "holdfast db undo bank --last-of accounts/4711 --dry-run",
        "holdfast db undo bank kjw8egyi1oru/12 --note 'wrong file imported'",
    ],
)
def undo(
    ctx: typer.Context,
    database: DatabaseName,
    entries: Entries = None,
    last_of: LastOf = None,
    dry_run: DryRun = False,
    note: Note = "",
    device: Device = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Take back what transactions wrote, and nobody has changed since. It is a new transaction, which can be undone.

    Where somebody has written since, the field is left as it is, and that is said.
    """
    if bool(entries) == (last_of is not None):
        raise UsageError("what is to be undone?", hint="ENTRY, or --last-of COLLECTION/KEY")
    last = None if last_of is None else document(last_of)
    _take_back(ctx, database, entries or [], device, passphrase_file, note=note, last=last, dry_run=dry_run)


@group.add(
    "redo",
    node=True,
    examples=["holdfast db redo bank kjw8egyi1oru/12", "holdfast db redo bank kjw8egyi1oru/12 kjw8egyi1oru/13"],
)
def redo(
    ctx: typer.Context,
    database: DatabaseName,
    entries: Annotated[
        list[str], typer.Argument(metavar="ENTRY...", help="Transactions, FEED/INDEX, as 'db history' shows them.")
    ],
    dry_run: DryRun = False,
    note: Note = "",
    device: Device = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Do again what was undone: ENTRY is the transaction that was, not the one that undid it."""
    _take_back(ctx, database, entries, device, passphrase_file, note=note, again=True, dry_run=dry_run)


def _take_back(
    ctx: typer.Context,
    database: str,
    entries: Sequence[str],
    device: str | None,
    passphrase_file: Path | None,
    *,
    note: str,
    last: DocumentId | None = None,
    again: bool = False,
    dry_run: bool,
) -> None:
    named: list[Reference] = []
    kept = note_of(note)

    def find(read: Database) -> None:
        with read.read() as reader:
            named.extend(entry_named(reader, one) for one in entries)
            if last is not None:
                named.append(_newest(reader, last))

    with writing(ctx, database, passphrase_file, device, before=find) as opening:
        try:
            if dry_run:
                plan = _plan(opening.database, named, again=again)
                changed, skipped, place = {op.document for op in plan.ops}, plan.skipped, place_of(None)
            else:
                take = opening.database.redo if again else opening.database.undo
                done = take(*named, note=kept)
                changed, skipped, place = set(done.commit.etags), list(done.skipped), place_of(done.commit)
        except ConflictError as exc:  # nothing that trying again could change
            raise RefusedError(str(exc), hint=exc.hint) from exc
    out = invocation(ctx).out
    facts: dict[str, Plain] = {
        "entries": [entry_text(one) for one in named],
        "changed": sorted(map(str, changed)),
        "skipped": [_skipped_facts(one) for one in skipped],
    }
    out.record("redo" if again else "undo", facts | place | {"dry_run": dry_run})
    for one in skipped:
        by = "" if one.by is None else f", by {entry_text(one.by)}"
        out.note(f"left as it is: {one.document}{one.path}: {one.reason}{by}")
    if not changed:
        out.note("there is nothing to write")


def _newest(reader: Reader, name: DocumentId) -> Reference:
    """The newest transaction that touched a document and counts. Raises ``RefusedError`` when there is none."""
    from sync.history import history_of

    newest = None
    for one in history_of(reader, name):
        newest = one.entry.reference if one.entry.masked is None else newest
    if newest is None:
        raise RefusedError(f"there is no document {name}")
    return newest


def _plan(database: Database, named: Sequence[Reference], *, again: bool) -> UndoPlan:
    """What would be written, found out where it would be, and not written."""
    from sync.storage.undoing import plan_redo, plan_undo

    plans: list[UndoPlan] = []

    def make(current: Writing) -> None:
        plans[:] = [(plan_redo if again else plan_undo)(current, named)]

    database.write(make)
    return plans[0]


def _skipped_facts(one: Skipped) -> dict[str, Plain]:
    by = None if one.by is None else entry_text(one.by)
    return {"document": str(one.document), "path": one.path, "reason": one.reason, "by": by}


@group.add(
    "restore",
    node=True,
    examples=[
        "holdfast db restore bank accounts/4711 --as-of 2026-03-31T23:59:59Z --dry-run",
        "holdfast db restore bank accounts --as-of 2026-03-31T23:59:59Z --several --note 'before the import'",
    ],
)
def restore(
    ctx: typer.Context,
    database: DatabaseName,
    part: Part = None,
    when: AsOfTime = None,
    axis: AxisName = "claimed",
    several: Annotated[
        bool, typer.Option("--several", help="In several transactions, each of whole documents, if one is too small.")
    ] = False,
    dry_run: DryRun = False,
    note: Note = "",
    device: Device = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Let documents show again what they showed then. It is a new transaction: nothing is lost, and it can be undone.

    Without COLLECTION it is the whole database but its schemas and legal holds.
    """
    if when is None:
        raise UsageError("to when?", hint="--as-of 2026-03-31T23:59:59Z, or a place with --axis known")
    collection, key = part_of(part)
    out = invocation(ctx).out
    if dry_run:
        with reading(ctx, database) as opening, opening.database.read() as reader:
            _answer_differences(out, _differences(reader, reader.now(), _cut(out, reader, when, axis), collection, key))
        return
    with writing(ctx, database, passphrase_file, device) as opening:
        with opening.database.read() as reader:
            point = point_in_time(out, reader, when, axis)
        assert point is not None
        done = opening.database.restore(point.cut, collection, key, note=note_of(note), several=several)
    made = [entry_text(one.reference) for one in done.commits if one.reference is not None]
    facts: dict[str, Plain] = {"as_of": as_of_facts(out, point), "entries": made}
    out.record("restoration", facts | {"left": [str(one) for one in done.left]})
    if not made:
        out.note("everything shows that already; nothing was written")
    for one in done.left:
        out.note(f"left as it is, because somebody wrote to it meanwhile: {one}")

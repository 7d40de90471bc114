"""``holdfast db``: what waits for somebody's decision, and deciding it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.db_common import (
    DatabaseName,
    Device,
    DocumentName,
    IfMatch,
    Note,
    answer_commit,
    commit,
    device_name,
    document,
    entry_text,
    field_path,
    group,
    note_of,
    reading,
)
from api.cli.db_show import plain
from api.cli.exit_codes import UsageError
from api.cli.group import invocation
from api.cli.session import PassphraseFile
from api.cli.times import time_text
from identity.errors import RefusedError
from identity.jsontext import parse_json
from ledger.values import to_python
from sync.cells import CellKind, LiveDot
from sync.changes import Changes
from sync.clock import wall_ms
from sync.conflicts import OpenConflicts, open_conflicts
from sync.jsonform import MAX_DOCUMENT_BYTES, read_json
from sync.transaction import path_text
from sync.unsealing import unseal_view

if TYPE_CHECKING:
    from api.cli.db_common import Opened
    from api.cli.output import Output, Plain
    from identity.encoding import Value
    from sync.database import Database
    from sync.storage.reader import DocumentState, Reader
    from sync.transaction import DocumentId, Path

__all__: list[str] = []


@dataclass(frozen=True, slots=True)
class _Choice:
    """A value that stands beside others. ``number`` counts from 1, the one that shows."""

    path: str
    number: int
    kind: CellKind
    value: Value
    dot: LiveDot | None
    """None for a counter, which many entries make."""


@group.add(
    "conflicts",
    node=True,
    examples=["holdfast db conflicts bank", "holdfast db conflicts bank accounts --json"],
)
def conflicts(
    ctx: typer.Context,
    database: DatabaseName,
    collection: Annotated[
        str | None, typer.Argument(metavar="[COLLECTION]", help="Only this one.", show_default=False)
    ] = None,
) -> None:
    """Documents that wait for a decision: each value that stands beside others, who wrote it, and when.

    A contest is a write whose condition was broken by another that did not know of it.
    """
    out = invocation(ctx).out
    with reading(ctx, database) as opening, opening.database.read() as reader:
        found = open_conflicts(reader, collection)
        if out.json:
            for one in found:
                out.record("conflict", _facts(out, opening, reader, one))
        else:
            rows = (row for one in found for row in _rows(out, opening, reader, one))
            out.table("conflict", ("document", "conflict", "field", "number", "value", "device", "claimed"), rows)


def _choices(database: Database, state: DocumentState, path: str) -> list[_Choice]:
    """The values that stand at a path, the one that shows first; sealed ones opened where that can be."""
    view = state.view
    if database.keys is not None:
        view = unseal_view(view, database.uid, state.name, database.keys.find).view
    found: list[_Choice] = []
    for cell in (one for one in view.cells if one.path == path):
        values = [cell.shown] if cell.kind in (CellKind.SET, CellKind.CTR) else list(cell.values)
        for at, value in enumerate(values):
            dot = cell.dots[at] if cell.dots else None
            found.append(_Choice(path, len(found) + 1, cell.kind, value, dot))
    return found


def _facts(out: Output, opening: Opened, reader: Reader, one: OpenConflicts) -> dict[str, Plain]:
    listed: list[Plain] = []
    for conflict in one.conflicts:
        values: list[Plain] = []
        for choice in _choices(opening.database, one.state, conflict.path):
            device, claimed, entry = _writer(out, opening, reader, choice)
            who: dict[str, Plain] = {"device": device, "claimed": claimed, "entry": entry}
            values.append({"number": choice.number, "value": plain(out, choice.value), **who})
        listed.append({"kind": conflict.kind.value, "path": conflict.path, "values": values})
    contests: list[Plain] = [
        {"guarded": entry_text(contest.guarded), "other": entry_text(contest.other)} for contest in one.contests
    ]
    return {"document": str(one.name), "etag": one.state.etag, "conflicts": listed, "contests": contests}


def _rows(out: Output, opening: Opened, reader: Reader, one: OpenConflicts) -> Iterator[tuple[Plain, ...]]:
    name = str(one.name)
    for conflict in one.conflicts:
        choices = _choices(opening.database, one.state, conflict.path)
        for choice in choices:
            device, claimed, _ = _writer(out, opening, reader, choice)
            value = plain(out, choice.value)
            yield name, conflict.kind.value, conflict.path, choice.number, value, device, claimed
        if not choices:
            yield name, conflict.kind.value, conflict.path or None, None, None, None, None
    for contest in one.contests:
        for number, entry in enumerate((contest.guarded, contest.other), 1):
            yield name, "contest", None, number, entry_text(entry).rpartition("/")[0], None, None


def _writer(out: Output, opening: Opened, reader: Reader, choice: _Choice) -> tuple[str | None, str | None, str | None]:
    """Who wrote a value, when that is one entry."""
    facts = None if choice.dot is None else reader.branches.facts(choice.dot.branch, choice.dot.seq)
    if facts is None:
        return None, None, None
    author = reader.branches[facts.branch].author
    reference = reader.branches.reference(facts)
    return device_name(opening.session, author), time_text(out, wall_ms(facts.reading)), entry_text(reference)


# --- deciding -------------------------------------------------------------------------------------------------------


@group.add(
    "resolve",
    node=True,
    examples=[
        "holdfast db resolve bank accounts/4711 owner --keep 2",
        "holdfast db resolve bank accounts/4711 owner --value '\"Novak\"' --note 'asked her'",
        "holdfast db resolve bank accounts/4711 --accept",
    ],
)
def resolve(
    ctx: typer.Context,
    database: DatabaseName,
    name: DocumentName,
    field: Annotated[
        str | None, typer.Argument(metavar="[FIELD]", help="What to decide about.", show_default=False)
    ] = None,
    keep: Annotated[
        int | None, typer.Option("--keep", min=1, metavar="NUMBER", help="This value, as 'db conflicts' counts them.")
    ] = None,
    value: Annotated[str | None, typer.Option("--value", metavar="JSON", help="Another value.")] = None,
    keep_all: Annotated[bool, typer.Option("--keep-all", help="All of them, as a list.")] = False,
    accept: Annotated[bool, typer.Option("--accept", help="What shows, wherever something is to be decided.")] = False,
    if_match: IfMatch = None,
    note: Note = "",
    device: Device = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Decide a conflict: the value that is chosen replaces all that stand beside it, on every device.

    What another device writes meanwhile is not replaced by that: it becomes a conflict of its own.
    """
    named = document(name)
    if sum((keep is not None, value is not None, keep_all, accept)) != 1 or accept == (field is not None):
        raise UsageError(
            "what is it to be?", hint="FIELD with --keep, --value or --keep-all; or --accept without FIELD"
        )
    path = () if field is None else field_path(field)

    def make(read: Database) -> Changes:
        with read.read() as reader:
            state = reader.document(named)
            if state is None:
                raise RefusedError(f"there is no document {named}")
            changes = Changes(note_of(note))
            changes.require(*named, if_match or state.etag)
            if accept:
                _require_conflict(reader, state)
                changes.accept(*named)
            elif keep_all:
                changes.keep_all(*named, path)
            else:
                at = path_text(path)
                chosen = _other(reader, named, path, value) if value is not None else _kept(read, state, at, keep or 0)
                changes.choose(*named, path, chosen)
        return changes

    answer_commit(ctx, named, commit(ctx, database, make, passphrase_file, device))


def _require_conflict(reader: Reader, state: DocumentState) -> None:
    if not any(one.name == state.name for one in open_conflicts(reader, state.name.collection)):
        raise RefusedError(f"{state.name} has no conflict", hint="see 'holdfast db conflicts'")


def _other(reader: Reader, named: DocumentId, path: Path, value: str) -> object:
    """A value of the command line, typed by the schema."""
    schema = reader.schema(named.collection)
    rule = None if schema is None else schema.property_at(path)
    data = value.encode()
    at = path_text(path)
    return read_json(parse_json(data, what=at, max_bytes=MAX_DOCUMENT_BYTES), rule, at)


def _kept(read: Database, state: DocumentState, at: str, number: int) -> object:
    """The value with that number. Raises ``RefusedError`` when there is none, or it can't be read here."""
    choices = _choices(read, state, at)
    if number > len(choices):
        raise RefusedError(f"{state.name}{at} has {len(choices)} values", hint="see 'holdfast db conflicts'")
    chosen = choices[number - 1].value
    if isinstance(chosen, dict) and "$sealed" in chosen:
        raise RefusedError(f"{state.name}{at}: the value is sealed, and no key here opens it")
    return to_python(chosen)

"""``holdfast db``: databases of documents. Beginning one, reading, and what documents may hold.

Commands that write, and those about members, history and files, are in modules of their own, which this one imports so
that they are in its group.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli import (
    db_conflicts,
    db_exchange,
    db_export,
    db_history,
    db_import,
    db_list,
    db_members,
    db_query,
    db_retention,
    db_serial,
    db_write,
)
from api.cli.db_common import (
    AsOfTime,
    AxisName,
    DatabaseName,
    Device,
    DocumentName,
    Note,
    as_of_facts,
    document,
    group,
    note_of,
    place_of,
    point_in_time,
    reading,
    writing,
)
from api.cli.db_show import plain, show_document
from api.cli.exit_codes import UsageError
from api.cli.files import read_input
from api.cli.group import invocation
from api.cli.session import PassphraseFile, check_names, opened, unlock
from identity.errors import RefusedError
from ledger.values import to_python
from sync.changes import Changes
from sync.schema import MAX_SCHEMA_BYTES, check_document, schema_from_json, schema_value
from sync.storage.scan import iterate
from sync.storage.writing import encode_context
from sync.transaction import SCHEMAS, DocumentId
from sync.unsealing import unseal_view

if TYPE_CHECKING:
    from api.cli.output import Plain
    from sync.database import Database
    from sync.schema import Schema
    from sync.storage.reader import DocumentState, Reader

__all__ = ["group"]

# Their commands are in the group because they were imported.
_PARTS = (
    db_conflicts,
    db_exchange,
    db_export,
    db_history,
    db_import,
    db_list,
    db_members,
    db_query,
    db_retention,
    db_serial,
    db_write,
)


@group.add("create", examples=["holdfast db create bank", "holdfast db create bank --device laptop"])
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call the database; it stays its name for ever.")],
    device: Device = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Found a database. This home's identity is its first admin."""
    from api.databases import Databases

    check_names(database=name)
    with opened(ctx) as session:
        ring = unlock(ctx, session, passphrase_file)
        with Databases(session, ring) as databases:
            made = databases.create(name, device=device)
    invocation(ctx).out.record("database", {"name": name, "id": made.uid.hex()})


# --- reading --------------------------------------------------------------------------------------------------------


@group.add(
    "get",
    node=True,
    examples=[
        "holdfast db get bank accounts/4711",
        "holdfast db get bank accounts/4711 --as-of 2026-03-31T23:59:59Z --axis anchored --json",
    ],
)
def get(
    ctx: typer.Context, database: DatabaseName, name: DocumentName, when: AsOfTime = None, axis: AxisName = "claimed"
) -> None:
    """Show a document: every field, and every value that stands beside another, because nobody has decided yet."""
    named = document(name)
    with reading(ctx, database) as opening, opening.database.read() as reader:
        point = point_in_time(invocation(ctx).out, reader, when, axis)
        state = reader.document(named) if point is None else reader.document_at(named, point.cut)
        if state is None or not state.view.exists:
            raise _missing(database, named, state, when)
        shown = unseal_view(state.view, opening.database.uid, named, opening.databases.keys.find)
        seen = reader.branches.clock() if point is None else point.cut.vector
        extra: dict[str, Plain] = {
            "context": encode_context(seen, reader.branches),
            "as_of": as_of_facts(invocation(ctx).out, point),
        }
    show_document(invocation(ctx).out, named, state.etag, shown, extra)


def _missing(database: str, named: DocumentId, state: DocumentState | None, when: str | None) -> RefusedError:
    if when is not None:
        return RefusedError(f"there was no document {named} then", hint=f"see 'holdfast db history {database} {named}'")
    if state is not None and state.view.purged:
        return RefusedError(f"{named} was purged", hint=f"see 'holdfast db history {database} {named}'")
    if state is not None and state.view.deleted:
        return RefusedError(f"{named} is deleted", hint=f"holdfast db undelete {database} {named}")
    return RefusedError(f"there is no document {named}", hint=f"see 'holdfast db list {database} {named.collection}'")


# --- schemas --------------------------------------------------------------------------------------------------------


@group.add(
    "schema",
    examples=[
        "holdfast db schema bank accounts > accounts.schema.json",
        "holdfast db schema bank accounts --set accounts.schema.json --note 'balances are decimals'",
    ],
)
def schema(
    ctx: typer.Context,
    database: DatabaseName,
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", help="The collection.")],
    set_: Annotated[
        Path | None, typer.Option("--set", metavar="FILE", help="Let it be this one, JSON; - for stdin.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Let there be none.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read the schema, count, and change nothing.")] = False,
    note: Note = "",
    device: Device = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Show what the documents of a collection may hold, or decide it.

    A new schema binds what is written from then on. What is there already stays as it is; documents that do not fit
    are counted.
    """
    if set_ is not None and remove:
        raise UsageError("--set and --remove exclude each other")
    if dry_run and set_ is None:
        raise UsageError("--dry-run goes with --set")
    check_names(collection=collection)
    wanted = None if set_ is None else schema_from_json(read_input(set_, MAX_SCHEMA_BYTES))
    if dry_run or not (remove or wanted):
        with reading(ctx, database) as opening:
            _answer_schema(ctx, opening.database, collection, wanted, place_of(None))
        return
    changes = Changes(note_of(note))
    if wanted is None:
        changes.unset(SCHEMAS, collection, "schema")
    else:
        changes.put(SCHEMAS, collection, {"schema": to_python(schema_value(wanted))})
    with writing(ctx, database, passphrase_file, device) as opening:
        made = opening.database.commit(changes)
        _answer_schema(ctx, opening.database, collection, wanted, place_of(made))


def _answer_schema(
    ctx: typer.Context,
    database: Database,
    collection: str,
    wanted: Schema | None,
    place: dict[str, Plain],
) -> None:
    """Show the schema that is in force; and of one that is wanted, how many documents do not fit it."""
    out = invocation(ctx).out
    with database.read() as reader:
        state = reader.document(DocumentId(SCHEMAS, collection))
        found = reader.schema(collection)
        unfit = None if wanted is None else _count_unfit(reader, collection, wanted)
    shown = None if found is None else schema_value(found)
    if shown is None:
        out.note(f"collection {collection} has no schema: its documents may hold anything")
    if unfit:
        out.note(f"{unfit} documents do not fit it: they stay as they are, and who writes to one has to mend it")
    if out.json:
        facts: dict[str, Plain] = {"collection": collection, "schema": plain(out, shown), "unfit": unfit}
        out.record("schema", facts | place)
    elif shown is not None:
        out.text(json.dumps(shown, indent=2, ensure_ascii=False))
    if state is not None and state.view.conflicts:
        out.note(f"devices set different schemas at the same time: holdfast db get {database.name} {state.name}")


def _count_unfit(reader: Reader, collection: str, wanted: Schema) -> int:
    return sum(bool(check_document(wanted, dict(state.view.fields))) for state in iterate(reader, collection))

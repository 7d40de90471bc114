"""``holdfast db``: writing to documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.db_common import (
    Base,
    DatabaseName,
    Device,
    DocumentName,
    FieldName,
    IfMatch,
    JsonText,
    Note,
    Prefer,
    answer_commit,
    commit,
    document,
    field_path,
    group,
    json_text,
    note_of,
    strength_of,
)
from api.cli.exit_codes import UsageError
from api.cli.session import PassphraseFile

if TYPE_CHECKING:
    from sync.changes import Changes
    from sync.database import Database
    from sync.schema import Property
    from sync.transaction import DocumentId, Path

__all__: list[str] = []

Elements = Annotated[list[str], typer.Argument(metavar="ELEMENT...", help="Each a text, unless the schema types them.")]
AsJson = Annotated[bool, typer.Option("--parse", help='Each ELEMENT is JSON: 7, true, {"$dec": "0.5"}.')]


@group.add(
    "put",
    node=True,
    examples=[
        'holdfast db put bank accounts/4711 \'{"owner": "Novak", "balance": {"$dec": "12.30"}}\'',
        "holdfast db put bank accounts/4711 - --if-match 1.K5rW5XlQW0Yb3nNq5n1E",
        "holdfast db put bank accounts/4712 '{\"owner\": \"Svoboda\"}' --if-absent --note 'new customer'",
        'holdfast db put bank seats/12a \'{"owner": "Novak"}\' --if-absent --prefer serial',
    ],
)
def put(
    ctx: typer.Context,
    database: DatabaseName,
    name: DocumentName,
    json: JsonText,
    if_match: IfMatch = None,
    if_absent: Annotated[bool, typer.Option("--if-absent", help="Only if there is no such document.")] = False,
    base: Base = None,
    note: Note = "",
    prefer: Prefer = "carried",
    device: Device = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Let a document have these fields and no others; it is made if it is not there.

    What is so already is not written again. A condition that does not hold is exit code 75: read it again first.
    """
    if if_absent and if_match is not None:
        raise UsageError("--if-match and --if-absent exclude each other")
    named, text = document(name), json_text(json)

    def make(read: Database) -> Changes:
        fields = _fields(read, named, text)
        changes = _changes(note, base, prefer)
        changes.put(*named, fields, if_match=if_match, if_absent=if_absent)
        return changes

    answer_commit(ctx, named, commit(ctx, database, make, passphrase_file, device))


@group.add(
    "patch",
    node=True,
    examples=[
        "holdfast db patch bank accounts/4711 '{\"owner\": \"Nowak\"}' --note 'spelling'",
        "holdfast db patch bank accounts/4711 --unset note --unset /address/street",
    ],
)
def patch(
    ctx: typer.Context,
    database: DatabaseName,
    name: DocumentName,
    json: Annotated[
        str,
        typer.Argument(
            metavar="[JSON]", help="Fields and values, as docs/reference/json.md says; - for stdin.", show_default=False
        ),
    ] = "{}",
    unset: Annotated[
        list[str] | None, typer.Option("--unset", metavar="FIELD", help="Remove this field; can be repeated.")
    ] = None,
    if_match: IfMatch = None,
    base: Base = None,
    note: Note = "",
    prefer: Prefer = "carried",
    device: Device = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Let a document have these fields, and leave its others as they are."""
    named, text = document(name), json_text(json)
    gone = [field_path(one) for one in unset or []]

    def make(read: Database) -> Changes:
        fields = _fields(read, named, text)
        if not fields and not gone:
            raise UsageError("there is nothing to change", hint="give fields as JSON, or --unset FIELD")
        changes = _changes(note, base, prefer)
        changes.patch(*named, fields, if_match=if_match)
        for path in gone:
            changes.unset(*named, path)
        return changes

    answer_commit(ctx, named, commit(ctx, database, make, passphrase_file, device))


@group.add(
    "delete",
    node=True,
    examples=[
        "holdfast db delete bank accounts/4711",
        "holdfast db delete bank accounts/4711 --if-match 1.K5rW5XlQW0Yb3nNq5n1E --note 'account closed'",
    ],
)
def delete(
    ctx: typer.Context,
    database: DatabaseName,
    name: DocumentName,
    if_match: IfMatch = None,
    note: Note = "",
    prefer: Prefer = "carried",
    device: Device = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Hide a document. Nothing of it is lost: 'db undelete' shows it again, and 'db get --as-of' as it was."""
    named = document(name)

    def make(_: Database) -> Changes:
        changes = _changes(note, None, prefer)
        changes.delete(*named, if_match=if_match)
        return changes

    answer_commit(ctx, named, commit(ctx, database, make, passphrase_file, device))


@group.add(
    "undelete",
    node=True,
    examples=[
        "holdfast db undelete bank accounts/4711",
        "holdfast db undelete bank accounts/4711 --note 'closed by mistake'",
    ],
)
def undelete(
    ctx: typer.Context,
    database: DatabaseName,
    name: DocumentName,
    note: Note = "",
    prefer: Prefer = "carried",
    device: Device = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Show a deleted document again, as it was."""
    named = document(name)

    def make(_: Database) -> Changes:
        changes = _changes(note, None, prefer)
        changes.undelete(*named)
        return changes

    answer_commit(ctx, named, commit(ctx, database, make, passphrase_file, device))


# --- single cells ---------------------------------------------------------------------------------------------------


@group.add(
    "increment",
    node=True,
    examples=[
        "holdfast db increment bank accounts/4711 balance 1250.00 --note 'salary'",
        "holdfast db increment bank accounts/4711 visits",
    ],
)
def increment(
    ctx: typer.Context,
    database: DatabaseName,
    name: DocumentName,
    field: FieldName,
    by: Annotated[
        str, typer.Argument(metavar="[AMOUNT]", help="What to add, -5 or 12.30 for example.", show_default=False)
    ] = "1",
    note: Note = "",
    prefer: Prefer = "carried",
    device: Device = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Add to a counter. Devices that add while they are apart lose nothing: all is counted.

    A negative amount goes behind two dashes: holdfast db increment bank accounts/4711 balance -- -5
    """
    from sync.jsonform import read_amount

    named, path = document(name), field_path(field)

    def make(read: Database) -> Changes:
        changes = _changes(note, None, prefer)
        changes.increment(*named, path, read_amount(by, _rule(read, named, path), field))
        return changes

    answer_commit(ctx, named, commit(ctx, database, make, passphrase_file, device))


@group.add(
    "add",
    node=True,
    examples=[
        "holdfast db add bank accounts/4711 labels gold 'paper statements'",
        "holdfast db add bank accounts/4711 limits 500 1000 --parse",
    ],
)
def add(
    ctx: typer.Context,
    database: DatabaseName,
    name: DocumentName,
    field: FieldName,
    elements: Elements,
    parse: AsJson = False,
    note: Note = "",
    prefer: Prefer = "carried",
    device: Device = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Put elements into a set."""
    named, path = document(name), field_path(field)

    def make(read: Database) -> Changes:
        changes = _changes(note, None, prefer)
        changes.add(*named, path, *_elements(elements, _rule(read, named, path), field, parse=parse))
        return changes

    answer_commit(ctx, named, commit(ctx, database, make, passphrase_file, device))


@group.add(
    "remove",
    node=True,
    examples=[
        "holdfast db remove bank accounts/4711 labels gold",
        "holdfast db remove bank accounts/4711 limits 500 --parse",
    ],
)
def remove(
    ctx: typer.Context,
    database: DatabaseName,
    name: DocumentName,
    field: FieldName,
    elements: Elements,
    parse: AsJson = False,
    note: Note = "",
    prefer: Prefer = "carried",
    device: Device = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Take elements out of a set. What another device adds meanwhile stays in it."""
    named, path = document(name), field_path(field)

    def make(read: Database) -> Changes:
        changes = _changes(note, None, prefer)
        changes.remove(*named, path, *_elements(elements, _rule(read, named, path), field, parse=parse))
        return changes

    answer_commit(ctx, named, commit(ctx, database, make, passphrase_file, device))


def _changes(note: str, base: str | None, prefer: str) -> Changes:
    from sync.changes import Changes

    return Changes(note_of(note), base, strength_of(prefer))


def _fields(read: Database, named: DocumentId, text: bytes) -> dict[str, object]:
    """The fields that a JSON text gives, typed by the collection's schema."""
    from sync.jsonform import read_fields

    with read.read() as reader:
        schema = reader.schema(named.collection)
    return read_fields(text, schema, what=str(named))


def _rule(read: Database, named: DocumentId, path: Path) -> Property | None:
    with read.read() as reader:
        schema = reader.schema(named.collection)
    return None if schema is None else schema.property_at(path)


def _elements(texts: list[str], rule: Property | None, at: str, *, parse: bool) -> list[object]:
    """The elements of a set, as values: texts, typed by the schema or, with ``parse``, by how they are written."""
    from identity.jsontext import parse_json
    from sync.jsonform import MAX_DOCUMENT_BYTES, read_json, read_text

    items = None if rule is None else rule.items
    if not parse:
        return [read_text(text, items, at) for text in texts]
    read = (parse_json(text.encode(), what=at, max_bytes=MAX_DOCUMENT_BYTES) for text in texts)
    return [read_json(value, items, at) for value in read]

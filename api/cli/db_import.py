"""``holdfast db import``: a table into a collection, a row a document."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from api.cli.db_common import DatabaseName, Device, Note, group, note_of, note_resealed, reading, writing
from api.cli.exit_codes import UsageError
from api.cli.files import open_input, rewindable, source_name
from api.cli.group import invocation
from api.cli.output import Output, Plain
from api.cli.progress import Advance, progress
from api.cli.rows import SkippedRows, read_rows, skip_file, skipping, table_kind
from api.cli.session import PassphraseFile, as_usage, check_names
from api.tabular import ENCODINGS, OnError, Row, RowError, parse_columns
from identity.errors import AuditError, LimitExceeded, MalformedError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from identity.encoding import Value
    from sync.changes import Changes
    from sync.database import Database
    from sync.schema import Schema
    from sync.transaction import DocumentId

__all__: list[str] = []

_EXISTING = ("replace", "update", "refuse")

_SHOWN_COLUMNS = 10
"""How many columns an error names, of a row that lacks one."""

_KEY_COLUMN = "$key"
"""Where a Parquet file has the documents' keys: the one column that is no field."""


@dataclass(frozen=True, slots=True)
class _Source:
    """A table, and how its rows become documents."""

    stream: BinaryIO
    name: str
    kind: str
    columns: str
    typed: frozenset[str]
    """The columns whose type was given: what the schema would make of them is not asked."""
    delimiter: str
    encoding: str
    key: str
    schema: Schema | None

    def documents(self, on_error: OnError | None) -> Iterator[_Document]:
        """Every row as a document, from the beginning. Raises ``RowError``, or gives it to ``on_error``."""
        self.stream.seek(0)
        seen: dict[str, int] = {}
        for row in self._rows(on_error):
            try:
                found = self._document(row)
                if found.key in seen:
                    raise RowError(self.name, row.line, self.key, f"stands in line {seen[found.key]} too")
            except RowError as exc:
                if on_error is None:
                    raise
                on_error(exc, json.dumps(row.fields, default=repr))
                continue
            seen[found.key] = row.line
            yield found

    def _rows(self, on_error: OnError | None) -> Iterator[Row]:
        if self.kind != "parquet":
            return read_rows(self.stream, self.kind, self.columns, self.name, self.delimiter, self.encoding, on_error)
        from api.parquet import read_parquet

        return read_parquet(self.stream, name=self.name, **({} if on_error is None else {"on_error": on_error}))

    def _document(self, row: Row) -> _Document:
        from ledger.values import from_python, to_python
        from sync.jsonform import read_field
        from sync.schema import check_document

        key = self._key(row)
        fields: dict[str, object] = {}
        for name, value in row.fields.items():
            if name == _KEY_COLUMN:
                continue
            try:
                fields[name] = to_python(value) if name in self.typed else read_field(name, value, self.schema)
            except MalformedError as exc:
                raise RowError(self.name, row.line, name, str(exc).partition(": ")[2]) from exc
        if self.schema is not None:
            faults = check_document(self.schema, {name: from_python(value) for name, value in fields.items()})
            if faults:
                raise RowError(self.name, row.line, "", faults[0])
        return _Document(row.line, key, fields)

    def _key(self, row: Row) -> str:
        if self.key not in row.fields:
            there = ", ".join(list(row.fields)[:_SHOWN_COLUMNS])
            raise RowError(
                self.name, row.line, self.key, f"is missing, and is to be the document's key; the row has {there}"
            )
        key = _key_text(row.fields[self.key])
        if not key:
            raise RowError(self.name, row.line, self.key, "can't be a document's key: it is no text, number or day")
        return key


@dataclass(frozen=True, slots=True)
class _Document:
    line: int
    key: str
    fields: Mapping[str, object]


def _key_text(value: Value) -> str:
    """A value as a document's key; "" for what can be none."""
    match value:
        case str():
            return value
        case int() if not isinstance(value, bool):
            return str(value)
        case {"$dec": str(text)} | {"$date": str(text)}:
            return text
    return ""


@group.add(
    "import",
    examples=[
        "holdfast db import bank accounts accounts.csv --key id --columns 'id:int,owner:text,balance:dec'",
        "holdfast db import bank accounts accounts.jsonl --key id --dry-run",
        "holdfast db import bank transactions trans.csv --key trans_id --batch 500 --on-error skip=unfit.jsonl",
        "holdfast db import bank accounts accounts.parquet",
    ],
)
def import_(
    ctx: typer.Context,
    database: DatabaseName,
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", help="Where the documents go.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, or what ends in .jsonl or .parquet; - for stdin.")],
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="COLUMN", help="Whose value is the document's key; it is a field as well."),
    ] = None,
    columns: Annotated[
        str, typer.Option("--columns", metavar="SPEC", help="name:type,...; others are as the schema says, or text.")
    ] = "",
    existing: Annotated[
        str,
        typer.Option(
            "--existing", metavar="HOW", help="replace it, update its fields, or refuse, when a document is there."
        ),
    ] = "replace",
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch", min=1, max=4096, metavar="N", help="Rows to a transaction, at most; default: all in one."
        ),
    ] = None,
    on_error: Annotated[
        str | None,
        typer.Option("--on-error", metavar="skip=FILE", help="Write rows that do not fit to FILE and import the rest."),
    ] = None,
    format_: Annotated[
        str | None, typer.Option("--format", metavar="csv|jsonl|parquet", help="Whatever the name says.")
    ] = None,
    delimiter: Annotated[str, typer.Option("--delimiter", metavar="C", help="Between CSV fields; or: tab.")] = ",",
    encoding: Annotated[str, typer.Option("--encoding", help=f"Of a CSV file: {', '.join(ENCODINGS)}.")] = "utf-8",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check every row, and import none.")] = False,
    note: Note = "",
    device: Device = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Import a table: a row is a document. Every row is read and checked before anything is written.

    Without --batch all of it is one transaction: whole or not at all, here and on every device. A transaction holds
    4,096 operations, about one for each field; a larger file takes --batch, and then each batch is whole or nothing.
    """
    kind = table_kind(file, format_, "parquet")
    key = key or (_KEY_COLUMN if kind == "parquet" else None)
    if key is None:
        raise UsageError("which column is the documents' key?", hint="--key COLUMN")
    if columns and kind == "parquet":
        raise UsageError("a Parquet file says what its columns are", hint="leave --columns away")
    with as_usage():
        typed = frozenset(column.name for column in parse_columns(columns))
    if existing not in _EXISTING:
        raise UsageError(f"{existing!r} is none of {', '.join(_EXISTING)}", hint="--existing update, for example")
    check_names(collection=collection)
    out, note = invocation(ctx).out, note_of(note)
    name = source_name(file)
    with open_input(file) as given, rewindable(given) as stream, skipping(out, on_error) as skipped:
        with reading(ctx, database) as opening, opening.database.read() as reader:
            schema = reader.schema(collection)
        source = _Source(stream, name, kind, columns, typed, delimiter, encoding, key, schema)
        rows = _check(out, source, skipped)
        writer = _Importing(source, collection, existing, note, batch)
        if rows and not dry_run:
            with (
                writing(ctx, database, passphrase_file, device) as opening,
                progress(out, f"import {name}", total=rows, unit="rows") as advance,
            ):
                writer.run(out, opening.database, advance)
    unfit = 0 if skipped is None else skipped.count
    _say(out, name, rows, unfit, on_error)
    note_resealed(out, writer.resealed)
    facts: dict[str, Plain] = {"collection": collection, "rows": rows, "skipped": unfit}
    facts |= {"changed": writer.changed, "transactions": writer.transactions, "dry_run": dry_run}
    out.record("document-import", facts)


def _say(out: Output, name: str, rows: int, unfit: int, on_error: str | None) -> None:
    if unfit:
        out.note(
            f"{unfit} rows of {name} do not fit and were skipped; {skip_file(on_error)} has them, with the reasons"
        )
    if not rows:
        out.note(f"{name} has no rows{' that fit' if unfit else ''}; nothing was written")


def _check(out: Output, source: _Source, on_error: SkippedRows | None) -> int:
    """How many rows there are to import, after reading every one."""
    count = 0
    with progress(out, f"check {source.name}", unit="rows") as advance:
        for _ in source.documents(on_error):
            count += 1
            advance(1)
    return count


class _Importing:
    """Writes the rows of a source that was checked."""

    def __init__(self, source: _Source, collection: str, existing: str, note: str, batch: int | None) -> None:
        self._source = source
        self._collection = collection
        self._existing = existing
        self._note = note
        self._batch = batch
        self._done = 0
        self.changed = 0
        """Documents that are another version now."""
        self.transactions = 0
        self.resealed: set[DocumentId] = set()
        """Documents that were erased before, and hold sealed values again."""

    def run(self, out: Output, database: Database, advance: Advance) -> None:
        """Write every row; one that does not fit was told before, and is left out."""
        try:
            for chunk in self._chunks():
                self._write(database, chunk)
                self._done += len(chunk)
                advance(len(chunk))
        except (AuditError, KeyboardInterrupt):
            if self.transactions:
                out.note(f"{self._done} rows were written before that, in {self.transactions} transactions")
            raise

    def _chunks(self) -> Iterator[list[_Document]]:
        chunk: list[_Document] = []
        for document in self._source.documents(lambda _error, _row: None):
            chunk.append(document)
            if self._batch is not None and len(chunk) == self._batch:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def _write(self, database: Database, documents: Sequence[_Document]) -> None:
        from sync.changes import StaleVersion

        try:
            commit = database.commit(self._changes(documents))
        except StaleVersion as exc:
            line = next(one.line for one in documents if one.key == exc.document.key)
            raise RefusedError(
                f"{self._source.name}:{line}: there is a document {exc.document} already",
                hint="--existing update or replace",
            ) from exc
        except LimitExceeded as exc:
            if self._batch is None:
                raise RefusedError(
                    f"{self._source.name} is too large for one transaction ({exc})",
                    hint="--batch 500 writes it in several, each of them whole or nothing",
                ) from exc
            if len(documents) == 1:
                raise RowError(self._source.name, documents[0].line, "", str(exc)) from exc
            half = len(documents) // 2
            self._write(database, documents[:half])
            self._write(database, documents[half:])
            return
        if commit.reference is not None:
            self.transactions += 1
            self.changed += len(commit.etags)
            self.resealed |= commit.resealed

    def _changes(self, documents: Sequence[_Document]) -> Changes:
        from sync.changes import Changes

        changes = Changes(self._note)
        for one in documents:
            if self._existing == "update":
                changes.patch(self._collection, one.key, one.fields)
            else:
                changes.put(self._collection, one.key, one.fields, if_absent=self._existing == "refuse")
        return changes

"""``holdfast db export``: a collection as a table, a document a row."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from api.cli.db_common import (
    AsOfTime,
    AxisName,
    DatabaseName,
    Opened,
    group,
    note_if_unknown,
    point_in_time,
    reading,
)
from api.cli.files import open_output, written
from api.cli.group import invocation
from api.cli.progress import Advance, progress
from api.cli.rows import table_kind
from api.cli.session import Force, OutputFile, check_names
from identity.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from identity.encoding import Value
    from sync.storage.reader import Cut, Reader

__all__: list[str] = []


@group.add(
    "export",
    examples=[
        "holdfast db export bank accounts -o accounts.csv",
        "holdfast db export bank accounts -o accounts.jsonl --key id --as-of 2026-03-31T23:59:59Z",
        "holdfast db export bank accounts -o accounts.parquet",
        "holdfast db export bank accounts -o - --format jsonl | head",
    ],
)
def export(
    ctx: typer.Context,
    database: DatabaseName,
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", help="Whose documents.")],
    output: OutputFile,
    key: Annotated[str, typer.Option("--key", metavar="COLUMN", help="The column of the documents' keys.")] = "key",
    format_: Annotated[
        str | None, typer.Option("--format", metavar="csv|jsonl|parquet", help="Whatever the name says.")
    ] = None,
    when: AsOfTime = None,
    axis: AxisName = "claimed",
    force: Force = False,
) -> None:
    """Write the documents of a collection as CSV, JSON Lines or Parquet, by key, all of one moment.

    JSON Lines keep the typed forms of values, and 'db import' reads them again. In CSV a list or a map is JSON. Parquet
    has typed columns, and the keys in $key. Only what shows is written: documents with siblings are counted.
    """
    kind = table_kind(output, format_, "parquet")
    check_names(column=key)
    out = invocation(ctx).out
    with reading(ctx, database) as opening, opening.database.read() as reader:
        point = point_in_time(out, reader, when, axis)
        source = _Source(opening, reader, collection, key, None if point is None else point.cut)
        write = _WRITERS[kind]
        with (
            open_output(out, output, force=force) as stream,
            progress(out, f"export {collection}", unit="documents") as advance,
        ):
            write(source, stream, advance)
        if not source.count:
            note_if_unknown(out, reader, collection)
    if source.contested:
        out.note(
            f"{source.contested} of the documents hold values that do not show: see 'holdfast db conflicts {database}'"
        )
    if source.closed:
        out.note(f"{source.closed} of the documents hold sealed values that no key here opens")
    written(
        out,
        "document-export",
        output,
        {"collection": collection, "documents": source.count, "conflicts": source.contested, "sealed": source.closed},
    )


@dataclass(slots=True)
class _Source:
    """The documents of a collection as rows, and what was met on the way."""

    opening: Opened
    reader: Reader
    collection: str
    key: str
    at: Cut | None
    count: int = 0
    contested: int = 0
    closed: int = 0

    def documents(self) -> Iterator[tuple[str, Mapping[str, Value]]]:
        """Each document's key and fields."""
        from sync.storage.scan import iterate
        from sync.unsealing import unseal_view

        self.count = self.contested = self.closed = 0
        find, uid = self.opening.databases.keys.find, self.opening.database.uid
        for state in iterate(self.reader, self.collection, at=self.at):
            shown = unseal_view(state.view, uid, state.name, find)
            self.count += 1
            self.contested += bool(state.view.conflicts)
            self.closed += bool(shown.closed)
            yield state.name.key, shown.view.fields

    def rows(self) -> Iterator[Mapping[str, Value]]:
        """Each document's fields, its key before them. Raises ``RefusedError`` when a field stands in the key's way."""
        for key, fields in self.documents():
            if self.key in fields and _as_key(fields[self.key]) != key:
                raise RefusedError(
                    f"{self.collection}/{key}: has a field {self.key!r} that is not its key",
                    hint="name another column: --key",
                )
            yield {self.key: key, **fields}


def _as_key(value: Value) -> str:
    from ledger.values import to_plain

    return str(to_plain(value))


def _write_json_lines(source: _Source, stream: BinaryIO, advance: Advance) -> None:
    from sync.jsonform import to_json

    for row in source.rows():
        stream.write(json.dumps(to_json(dict(row)), ensure_ascii=False).encode("utf-8") + b"\n")
        advance(1)


def _write_csv(source: _Source, stream: BinaryIO, advance: Advance) -> None:
    """Twice over the documents: the header names every field that any of them has."""
    columns = _columns(source)
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
    try:
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(columns)
        for row in source.rows():
            rows.writerow([_cell(row[name]) if name in row else "" for name in columns])
            advance(1)
    finally:
        text.detach()


def _columns(source: _Source) -> list[str]:
    """The key's column, those of the schema as it keeps them (short names first), and the others by name."""
    schema = source.reader.schema(source.collection, source.at)
    found = {name for row in source.rows() for name in row} - {source.key}
    declared = [] if schema is None else [name for name in schema.shape.properties if name in found]
    return [source.key, *declared, *sorted(found - set(declared))]


def _cell(value: Value) -> str:
    from ledger.values import to_plain
    from sync.jsonform import to_json

    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case list():
            return json.dumps(to_json(value), ensure_ascii=False)
    shown = to_plain(value)
    return json.dumps(to_json(value), ensure_ascii=False) if isinstance(shown, dict) else str(shown)


def _write_parquet(source: _Source, stream: BinaryIO, advance: Advance) -> None:
    from api.parquet import columns_of, write_parquet

    def told() -> Iterator[tuple[str, Mapping[str, Value]]]:
        for document in source.documents():
            yield document
            advance(1)

    write_parquet(stream, columns_of(source.documents()), told())


_WRITERS = {"csv": _write_csv, "jsonl": _write_json_lines, "parquet": _write_parquet}

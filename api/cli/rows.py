"""Rows of a table on their way to become entries: where they come from, and which one is at fault."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

from api.bootstrap import now_ms
from api.cli.exit_codes import UsageError
from api.cli.files import open_output
from api.cli.output import Output
from api.cli.session import as_usage
from api.tabular import OnError, Row, RowError, parse_columns, read_csv, read_json_lines
from identity.errors import MalformedError, RefusedError
from ledger.entry import encode_record

__all__ = ["SkippedRows", "read_rows", "record_blocks", "skip_file", "skipping", "table_kind"]

_OTHER_TABLES = (".json", ".ods", ".xls", ".xlsx")
"""Names that promise another format than CSV, which is what a name stands for otherwise."""

_TABS = ("tab", "\\t")
"""What is typed for a tab, which a shell makes hard to type."""


def record_blocks(rows: Iterator[Row], table: str, name: str, on_error: OnError | None = None) -> Iterator[bytes]:
    """Each row of the source ``name`` as a block: a record of ``table`` that claims to be written now.

    A row that no entry can hold, for its size for example, is a ``RowError`` like any other: raised, or given to
    ``on_error``.
    """
    claimed_ms = now_ms()
    for row in rows:
        try:
            block = encode_record(table, row.fields, claimed_ms)
        except MalformedError as exc:
            error = RowError(name, row.line, "", str(exc))
            if on_error is None:
                raise error from exc
            on_error(error, json.dumps(row.fields, default=repr))
            continue
        yield block


class SkippedRows:
    """Writes rows that do not fit to a file, a JSON object a line: ``line``, ``column``, ``reason`` and the ``row``."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.count = 0

    def __call__(self, error: RowError, row: str) -> None:
        """Keep the row, and what is wrong with it."""
        self.count += 1
        facts = {"line": error.line, "column": error.column or None, "reason": error.reason, "row": row}
        self._stream.write(json.dumps(facts, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")


def read_rows(
    stream: BinaryIO,
    kind: str,
    spec: str,
    name: str,
    delimiter: str,
    encoding: str,
    on_error: OnError | None = None,
) -> Iterator[Row]:
    """The rows of a ``csv`` or ``jsonl`` stream, with the columns of ``spec``.

    Raises ``UsageError`` at once for a spec, a delimiter or an encoding that cannot be, ``RowError`` while reading
    unless ``on_error`` takes it.
    """
    taking = {} if on_error is None else {"on_error": on_error}
    with as_usage():
        columns = parse_columns(spec) if spec else ()
        if kind == "jsonl":
            return read_json_lines(stream, columns, name=name, **taking)
        delimiter = "\t" if delimiter in _TABS else delimiter
        return read_csv(stream, columns, name=name, delimiter=delimiter, encoding=encoding, **taking)


def table_kind(file: Path, format_: str | None, *others: str) -> str:
    """Of which kind a table is, csv, jsonl or one of ``others``: as ``--format`` says, or the file's name.

    Raises ``UsageError``.
    """
    known = ("csv", "jsonl", *others)
    formats = f"{', '.join(known[:-1])} or {known[-1]}"
    suffix = file.suffix.lower()
    if format_ is None and suffix in _OTHER_TABLES:
        raise UsageError(f"{file}: {file.suffix} is not a format", hint=f"{formats}; --format says which it is")
    named = {".ndjson": "jsonl"}.get(suffix, suffix.removeprefix("."))
    kind = format_ or (named if named in known else "csv")
    if kind not in known:
        raise UsageError(f"{kind!r} is not a format", hint=formats)
    return kind


def skip_file(on_error: str | None) -> Path | None:
    """Where rows that do not fit go; None when the first of them is to end the import."""
    if on_error is None:
        return None
    action, _, file = on_error.partition("=")
    if action != "skip" or file in ("", "-"):
        raise UsageError(f"--on-error {on_error!r} is not skip=FILE")
    return Path(file)


@contextmanager
def skipping(out: Output, on_error: str | None) -> Iterator[SkippedRows | None]:
    """What takes rows that do not fit; its file appears when the import is done, also when there are none."""
    path = skip_file(on_error)
    if path is not None and path.exists():
        raise RefusedError(f"{path} exists", hint="name another file: --on-error skip=FILE")
    with nullcontext() if path is None else open_output(out, path) as stream:
        yield None if stream is None else SkippedRows(stream)

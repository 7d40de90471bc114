"""Rows of a table on their way to become entries: where they come from, and which one is at fault."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import BinaryIO

from api.bootstrap import now_ms
from api.cli.session import as_usage
from api.tabular import OnError, Row, RowError, parse_columns, read_csv, read_json_lines
from identity.errors import MalformedError
from ledger.entry import encode_record

__all__ = ["SkippedRows", "read_rows", "record_blocks"]

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

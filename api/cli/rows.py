"""Rows of a table on their way to become entries: where they come from, and which one is at fault."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from api.bootstrap import now_ms
from api.cli.session import as_usage
from api.tabular import Row, RowError, parse_columns, read_csv, read_json_lines
from identity.errors import MalformedError
from ledger.entry import Entry, Record, encode_entry, record_entry

__all__ = ["Rows", "read_rows"]

_TABS = ("tab", "\\t")
"""What is typed for a tab, which a shell makes hard to type."""


class Rows:
    """Rows of the source ``name`` as entries of one table. It knows which row came last, for errors about it."""

    def __init__(self, rows: Iterator[Row], table: str, name: str) -> None:
        self._rows = rows
        self._table = table
        self._name = name
        self._line = 0

    def entries(self) -> Iterator[Entry]:
        """Each row as an entry that claims to be written now."""
        claimed_ms = now_ms()
        for row in self._rows:
            self._line = row.line
            yield record_entry(Record(self._table, row.fields), claimed_ms)

    def checked(self) -> Iterator[Entry]:
        """The same, each of them one that can be stored."""
        with self.named():
            for entry in self.entries():
                encode_entry(entry)
                yield entry

    @contextmanager
    def named(self) -> Iterator[None]:
        """Name the row in what is wrong with the entry that was made of it, its size for example."""
        try:
            yield
        except RowError:
            raise
        except MalformedError as exc:
            if not self._line:
                raise
            raise RowError(self._name, self._line, "", str(exc)) from exc


def read_rows(stream: BinaryIO, kind: str, spec: str, name: str, delimiter: str, encoding: str) -> Iterator[Row]:
    """The rows of a ``csv`` or ``jsonl`` stream, with the columns of ``spec``.

    Raises ``UsageError`` at once for a spec, a delimiter or an encoding that cannot be, ``RowError`` while reading.
    """
    with as_usage():
        columns = parse_columns(spec) if spec else ()
        if kind == "jsonl":
            return read_json_lines(stream, columns, name=name)
        delimiter = "\t" if delimiter in _TABS else delimiter
        return read_csv(stream, columns, name=name, delimiter=delimiter, encoding=encoding)

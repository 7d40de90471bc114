"""CSV and JSON Lines to typed rows, for ``holdfast feed import``.

docs/reference/import.md says what is read. Nothing is guessed: a column is what ``parse_columns`` was told, a decimal
never passes through a float, and a row that does not fit is an error that names the file, the row and the column. The
first one ends the reading, unless the caller takes such rows as they were read and goes on. Rows come one at a time,
so a file may be larger than memory; a row may not.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple, NoReturn, Protocol

from identity.encoding import MAX_DEPTH, MAX_INT, MIN_INT, Value
from identity.errors import MalformedError
from identity.textforms import check_name, parse_hex
from ledger.values import check_value, date_value, decimal_value, timestamp_value

__all__ = [
    "ENCODINGS",
    "MAX_ROW_BYTES",
    "Column",
    "LineSource",
    "OnError",
    "Row",
    "RowError",
    "parse_columns",
    "read_csv",
    "read_json_lines",
]

MAX_ROW_BYTES: Final = 1_048_576
"""Of a line, and of a CSV row that spans lines. An entry could not hold more."""

_MAX_SHOWN: Final = 200
"""Characters of a header in an error."""

ENCODINGS: Final = ("utf-8", "iso-8859-1", "iso-8859-2", "windows-1250", "windows-1252")
"""In each of them a line feed is the byte 0A and nothing else is."""


class RowError(MalformedError):
    """A row that does not fit. ``line`` counts from 1 and is where the row begins; ``column`` may be empty."""

    def __init__(self, name: str, line: int, column: str, reason: str) -> None:
        super().__init__(f"{name}:{line}: {column}: {reason}" if column else f"{name}:{line}: {reason}")
        self.name = name
        self.line = line
        self.column = column
        self.reason = reason


class LineSource(Protocol):
    """A binary file, as far as it is needed."""

    def readline(self, size: int, /) -> bytes:
        """The next line with its line feed, or its first ``size`` bytes; nothing at the end."""


class Row(NamedTuple):
    """One row: the line where it begins, and its stored values by column. A tuple because a file has so many."""

    line: int
    fields: Mapping[str, Value]


OnError = Callable[[RowError, str], None]
"""Given what is wrong with a row, and the row as it was read. When it returns, reading goes on behind that row."""


def _refuse(error: RowError, _row: str) -> NoReturn:
    raise error


@dataclass(frozen=True, slots=True)
class Column:
    """What a column holds. ``form`` is a strptime format, or a unit of time; empty for the type's own form.

    ``nullable``: an empty CSV field, or a JSON null, is stored as null instead of being an error.
    """

    name: str
    type: str
    form: str = ""
    nullable: bool = False


# --- columns --------------------------------------------------------------------------------------------------------

_SPEC: Final = re.compile(r"(?P<name>[^:,]+):(?P<type>[a-z]+)(\((?P<form>[^()]+)\))?(?P<null>\?)?(,(?!$)|$)")


def parse_columns(text: str) -> tuple[Column, ...]:
    """Read ``name:type`` separated by commas: ``amount:dec,date:date(%y%m%d),bank:text?``.

    Types are text, int, dec, bool, date and ts; date and ts take a form in brackets; a question mark allows null.
    Raises ``MalformedError``.
    """
    columns: list[Column] = []
    position = 0
    while position < len(text):
        found = _SPEC.match(text, position)
        if found is None:
            raise MalformedError(f"columns: cannot read {text[position : position + 40]!r}; write NAME:TYPE,NAME:TYPE")
        column = Column(found["name"], found["type"], found["form"] or "", nullable=found["null"] is not None)
        _check_column(column)
        columns.append(column)
        position = found.end()
    names = [column.name for column in columns]
    if len(set(names)) != len(names):
        raise MalformedError("columns: a name stands twice")
    return tuple(columns)


def _check_column(column: Column) -> None:
    if column.type not in _PARSERS:
        raise MalformedError(f"columns: {column.name}: {column.type!r} is not one of {', '.join(_PARSERS)}")
    if not column.form or (column.type == "ts" and column.form in _UNITS):
        return
    if column.type not in ("date", "ts"):
        raise MalformedError(f"columns: {column.name}: {column.type} takes no form")
    try:
        known = _SAMPLE.strftime(column.form)
        datetime.strptime(known, column.form)  # noqa: DTZ007  (only whether it can be read)
    except (ValueError, re.error) as exc:  # re.error: a directive that stands twice
        raise MalformedError(f"columns: {column.name}: {column.form!r} is not a form: {exc}") from exc
    if known == column.form:
        raise MalformedError(f"columns: {column.name}: {column.form!r} is not a form such as %Y-%m-%d")


# --- CSV ------------------------------------------------------------------------------------------------------------


def read_csv(
    source: LineSource,
    columns: Sequence[Column] = (),
    *,
    name: str,
    delimiter: str = ",",
    encoding: str = "utf-8",
    on_error: OnError = _refuse,
) -> Iterator[Row]:
    """The rows of RFC 4180 CSV whose first line names the columns.

    Columns that ``columns`` does not name are text. ``name`` is the file's, for errors. Raises ``RowError`` at the
    first row that does not fit, or gives it to ``on_error``; a header that does not fit is always raised, and so is
    ``MalformedError``, before any row, for a delimiter or encoding that cannot be.
    """
    if len(delimiter) != 1 or delimiter in '"\r\n' or not (delimiter.isprintable() or delimiter == "\t"):
        raise MalformedError("the delimiter is one character, and no quote or line end")
    return _csv_rows(_Lines(source, name, encoding), columns, delimiter, on_error)


def _csv_rows(lines: _Lines, columns: Sequence[Column], delimiter: str, on_error: OnError) -> Iterator[Row]:
    csv.field_size_limit(MAX_ROW_BYTES)  # of the whole process; its own limit is smaller than a row may be
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    header = _next_row(rows, lines)
    if header is None:
        raise RowError(lines.name, 1, "", "no header line")
    _check_header(header, columns, lines.name)
    # Cells are text as they come, so only what is to be something else is looked at.
    readers = [
        (header.index(column.name), column, column.name, _PARSERS[column.type], column.form)
        for column in columns
        if column.type != "text"
    ]
    nullable = [(header.index(column.name), column.name) for column in columns if column.nullable]
    new_row = tuple.__new__  # half the time of Row(...)
    while True:
        try:
            if (cells := _next_row(rows, lines)) is None:
                return
            fields = _fields(header, cells, readers, lines)
        except RowError as exc:
            on_error(exc, lines.taken())
            continue
        for position, title in nullable:
            if not cells[position]:
                fields[title] = None
        yield new_row(Row, (lines.row, fields))


_Reader = tuple[int, Column, str, "_Parser", str]
"""A column that is not text: where it stands in a row, its name, and how it is read."""


def _fields(header: Sequence[str], cells: Sequence[str], readers: Sequence[_Reader], lines: _Lines) -> dict[str, Value]:
    if len(cells) != len(header):
        raise RowError(lines.name, lines.row, "", f"{len(cells)} fields, the header has {len(header)}")
    fields: dict[str, Value] = dict(zip(header, cells, strict=True))
    for position, column, name, parse, form in readers:
        text = cells[position]
        try:
            if text or not column.nullable:
                fields[name] = parse(text, form)
        except (MalformedError, ValueError) as exc:
            raise _misfit(column, text, lines.name, lines.row) from exc
    return fields


class _Lines:
    """Decoded lines, bounded for the row as a whole. ``row`` is the line where the present row began."""

    def __init__(self, source: LineSource, name: str, encoding: str) -> None:
        if encoding not in ENCODINGS:
            raise MalformedError(f"encoding {encoding!r} is not one of {', '.join(ENCODINGS)}")
        self.name, self._source, self._encoding = name, source, encoding
        self._left = MAX_ROW_BYTES
        self._taken: list[bytes] = []
        self.line = 0
        self.row = 1

    def begin_row(self) -> None:
        self._left, self.row = MAX_ROW_BYTES, self.line + 1
        self._taken.clear()

    def taken(self) -> str:
        """The present row as far as it was read, with bytes that are not of the encoding written out."""
        return b"".join(self._taken).decode(self._encoding, "backslashreplace").rstrip("\r\n")

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        data = self._source.readline(self._left + 1)
        if not data:
            raise StopIteration
        self.line += 1
        self._taken.append(data)
        self._left -= len(data)
        if self._left < 0:
            self._skip_line(data)
            raise RowError(self.name, self.row, "", f"longer than {MAX_ROW_BYTES} bytes (a quote that is not closed?)")
        if self.line == 1 and self._encoding == "utf-8":
            data = data.removeprefix(b"\xef\xbb\xbf")
        try:
            return data.decode(self._encoding)
        except UnicodeDecodeError as exc:
            raise RowError(self.name, self.line, "", f"byte {exc.start + 1} is not {self._encoding}") from exc

    def _skip_line(self, data: bytes) -> None:
        """Leave a line that is too long behind, so that the next row begins where a row does."""
        while data and not data.endswith(b"\n"):
            data = self._source.readline(MAX_ROW_BYTES)


def _next_row(rows: Iterator[list[str]], lines: _Lines) -> list[str] | None:
    """The next row that is not an empty line, or None at the end."""
    while True:
        lines.begin_row()
        try:
            cells = next(rows)
        except StopIteration:
            return None
        except csv.Error as exc:
            doubt = "; is the delimiter right?" if lines.row == 1 else ""
            raise RowError(lines.name, lines.row, "", f"not CSV: {exc}{doubt}") from exc
        if cells:
            return cells


def _check_header(header: Sequence[str], columns: Sequence[Column], name: str) -> None:
    for title, times in Counter(header).items():
        _check_title(title, name, 1)
        if times > 1:
            raise RowError(name, 1, title, "stands twice in the header")
    for column in columns:
        if column.name not in header:
            raise RowError(name, 1, column.name, f"is not in the header, which names {_listed(header)}")


def _listed(header: Sequence[str]) -> str:
    text = ", ".join(header)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _check_title(title: str, name: str, line: int) -> None:
    try:
        check_name(title, "the column's name")
    except MalformedError as exc:
        raise RowError(name, line, "", str(exc)) from exc
    if title.startswith("$"):
        raise RowError(name, line, title, "names that begin with $ are reserved")


# --- JSON Lines -----------------------------------------------------------------------------------------------------


def read_json_lines(
    source: LineSource, columns: Sequence[Column] = (), *, name: str, on_error: OnError = _refuse
) -> Iterator[Row]:
    """The rows of JSON Lines: one object a line, in UTF-8.

    Columns that ``columns`` names are read as their type, from text as in CSV or from a JSON value of that type; each
    row must have them. The others are stored as they are: text, whole numbers as int, other numbers as decimals with
    the scale that is written, true, false, null, lists, maps and the typed forms of ``ledger.values``. Raises
    ``RowError`` at the first row that does not fit, or gives it to ``on_error``.
    """
    lines = _Lines(source, name, "utf-8")
    given = {column.name: column for column in columns}
    while True:
        lines.begin_row()
        try:
            if (text := next(lines, None)) is None:
                return
            fields = _members(text, given, lines) if text.strip() else None
        except RowError as exc:
            on_error(exc, lines.taken())
            continue
        if fields is not None:
            yield Row(lines.row, fields)


def _members(text: str, given: Mapping[str, Column], lines: _Lines) -> dict[str, Value]:
    name, line = lines.name, lines.row
    members = _parse_object(text, name, line)
    for title in given:
        if title not in members:
            raise RowError(name, line, title, "is missing")
    for key in members:
        _check_title(key, name, line)
    return {key: _from_json(given.get(key), key, value, name, line) for key, value in members.items()}


class _Number(str):
    """A JSON number as it is written."""

    __slots__ = ()


class _Rejected(Exception):
    """Why ``json`` is to stop, from inside one of its callbacks."""


def _parse_object(text: str, name: str, line: int) -> dict[str, object]:
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise RowError(name, line, "", f"nested deeper than {MAX_DEPTH}")
    try:
        value = json.loads(
            text, parse_int=_Number, parse_float=_Number, parse_constant=_no_constant, object_pairs_hook=_no_duplicates
        )
    except _Rejected as exc:
        raise RowError(name, line, "", str(exc)) from exc
    except ValueError as exc:
        raise RowError(name, line, "", f"not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise RowError(name, line, "", "not a JSON object")
    return value


def _depth(text: str) -> int:
    """How deep brackets nest outside strings, in one pass and without recursion."""
    deepest = depth = 0
    # A string that never ends is taken too: looking again from each quote in it would take for ever.
    for bracket in re.findall(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', text):
        if bracket in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif bracket in "]}":
            depth -= 1
    return deepest


def _no_constant(text: str) -> object:
    raise _Rejected(f"{text} is not a number that can be stored")


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise _Rejected(f"the key {twice!r} stands twice")
    return members


def _from_json(column: Column | None, key: str, value: object, name: str, line: int) -> Value:
    if column is not None and isinstance(value, str) and not (column.type == "text" and isinstance(value, _Number)):
        stored = _from_text(column, str(value), name, line)
    elif column is None or (value is None and column.nullable) or (isinstance(value, bool) and column.type == "bool"):
        stored = _untyped(value, key, name, line)
    else:
        raise RowError(name, line, key, f"{_shown(json.dumps(value))} is not {_ARTICLE[column.type]}")
    try:
        check_value(stored)
    except MalformedError as exc:
        raise RowError(name, line, key, str(exc)) from exc
    return stored


def _untyped(value: object, key: str, name: str, line: int) -> Value:
    match value:
        case _Number():
            type_ = "int" if value.removeprefix("-").isdigit() else "dec"
            return _from_text(Column(key, type_), str(value), name, line)
        case list():
            return [_untyped(item, key, name, line) for item in value]
        case {"$hex": str(text), **rest} if not rest and not isinstance(text, _Number):
            return _hex(text, key, name, line)
        case {"$ref": [str(feed), _Number() as index, str(leaf)], **rest} if not rest:
            return {"$ref": [_hex(feed, key, name, line), int(index), _hex(leaf, key, name, line)]}
        case dict():
            return {inner: _untyped(item, key, name, line) for inner, item in value.items()}
    assert value is None or isinstance(value, bool | str)
    return value


def _hex(text: str, key: str, name: str, line: int) -> bytes:
    """Bytes, which JSON writes in hex."""
    try:
        return parse_hex(text)
    except MalformedError as exc:
        raise RowError(name, line, key, str(exc)) from exc


# --- values ---------------------------------------------------------------------------------------------------------

_ISO_TS: Final = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(\.\d{1,6})?(Z|[+-]\d{2}:\d{2})", re.ASCII)
_UNITS: Final = MappingProxyType({"s": 1_000_000, "ms": 1_000, "us": 1})
_SAMPLE: Final = datetime(2001, 12, 31, 23, 59, 58, 123456, tzinfo=UTC)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_ARTICLE: Final = MappingProxyType(
    {
        "text": "text",
        "int": "a whole number",
        "dec": "a decimal",
        "bool": "true or false",
        "date": "a date",
        "ts": "a point in time with its offset from UTC",
    }
)


def _from_text(column: Column, text: str, name: str, line: int) -> Value:
    if not text and column.nullable:
        return None
    try:
        return _PARSERS[column.type](text, column.form)
    except (MalformedError, ValueError) as exc:
        raise _misfit(column, text, name, line) from exc


def _misfit(column: Column, text: str, name: str, line: int) -> RowError:
    form = f" of the form {column.form}" if column.form else ""
    return RowError(name, line, column.name, f"{_shown(text)} is not {_ARTICLE[column.type]}{form}")


def _shown(text: str) -> str:
    return json.dumps(text if len(text) <= 40 else f"{text[:40]}...", ensure_ascii=False)


def _text(text: str, _: str) -> Value:
    return text


def _int(text: str, _: str) -> Value:
    number = int(text)
    if str(number) != text or not MIN_INT <= number <= MAX_INT:  # int reads signs, spaces, underscores, other digits
        raise MalformedError("not a whole number of 64 bits")
    return number


def _dec(text: str, _: str) -> Value:
    return decimal_value(text)


def _bool(text: str, _: str) -> Value:
    if text not in ("true", "false"):
        raise MalformedError("neither true nor false")
    return text == "true"


def _date(text: str, form: str) -> Value:
    if not form:
        value = date_value(date.fromisoformat(text))
        if value != {"$date": text}:
            raise MalformedError("not written YYYY-MM-DD")
        return value
    return {**_day_by_form(text, form)}


def _ts(text: str, form: str) -> Value:
    if form in _UNITS:
        micros = _int(text, "")
        assert isinstance(micros, int)
        return timestamp_value(micros * _UNITS[form])
    if not form and not _ISO_TS.fullmatch(text):
        raise MalformedError("not written YYYY-MM-DDThh:mm:ss with an offset")
    moment = _by_form(text, form) if form else datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return timestamp_value((moment - _EPOCH) // _MICROSECOND)


@lru_cache(maxsize=4096)  # a column of days holds few different ones, and strptime is slow
def _day_by_form(text: str, form: str) -> dict[str, Value]:
    value = date_value(_by_form(text, form).date())
    assert isinstance(value, dict)
    return value


@lru_cache(maxsize=4096)
def _by_form(text: str, form: str) -> datetime:
    """Read by a strptime format, and only what the format would have written: strptime itself is lenient."""
    moment = datetime.strptime(text, form)  # noqa: DTZ007  (a date has no zone; a time without one is UTC)
    if "%z" not in form and moment.strftime(form) != text:
        raise MalformedError(f"not written as {form}")
    return moment


_Parser = Callable[[str, str], Value]
"""From a text and the column's form to what is stored."""

_PARSERS: Final[Mapping[str, _Parser]] = MappingProxyType(
    {"text": _text, "int": _int, "dec": _dec, "bool": _bool, "date": _date, "ts": _ts}
)

"""Documents to Parquet files and back, for programs that read columns.

docs/reference/parquet.md says how values are kept. A column has the type that all its values have: whole numbers,
decimals with as many places as the longest has, days, points in time, text, bytes, booleans. What is a list or a map,
or of several types, is JSON text, and the file says so. No value passes through a float, and none is read from one.

Parquet is pyarrow's: without it a call says what to install. A file is written and read a part at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from itertools import islice
from typing import Any, BinaryIO, Final, NoReturn

from api.tabular import OnError, Row, RowError
from identity.encoding import MAX_INT, Value
from identity.errors import AuditError, ConfigurationError, MalformedError
from identity.jsontext import parse_json
from identity.textforms import check_name
from ledger.values import MAX_DECIMAL_DIGITS, from_python, to_python
from sync.jsonform import MAX_DOCUMENT_BYTES, read_json, to_json

__all__ = ["KEY_COLUMN", "ColumnKind", "ParquetColumn", "columns_of", "read_parquet", "write_parquet"]

KEY_COLUMN: Final = "$key"
"""The column of the documents' keys: no field can be called so."""

_ROWS: Final = 4096
"""Documents of one row group."""

_KIND, _EMPTY = b"holdfast:kind", b"holdfast:empty"

Documents = Iterable[tuple[str, Mapping[str, Value]]]
"""Keys and fields."""


class ColumnKind(StrEnum):
    """What all values of a column are."""

    BOOLEAN = "boolean"
    INTEGER = "integer"
    DECIMAL = "decimal"
    """Integers among them are kept as decimals."""
    DATE = "date"
    TIMESTAMP = "timestamp"
    TEXT = "text"
    BYTES = "bytes"
    JSON = "json"
    """All else, as JSON text."""


@dataclass(frozen=True, slots=True)
class ParquetColumn:
    """A column. ``scale``: places behind the point of a decimal. ``empty_is_null``: an empty cell is a null, not a
    field that is absent; a column that has both keeps only that it is empty.
    """

    name: str
    kind: ColumnKind
    scale: int = 0
    empty_is_null: bool = False


# --- what there is --------------------------------------------------------------------------------------------------


def columns_of(documents: Documents) -> tuple[ParquetColumn, ...]:
    """The columns that these documents need, by name. All of them are looked at, one after the other."""
    seen: dict[str, _Seen] = {}
    number = 0
    for _, fields in documents:
        number += 1
        for name, value in fields.items():
            seen.setdefault(name, _Seen()).add(value)
    return tuple(found.column(name, number) for name, found in sorted(seen.items()))


class _Seen:
    """What was seen of one column."""

    def __init__(self) -> None:
        self._kinds: set[ColumnKind] = set()
        self._count = self._nulls = self._whole = self._scale = 0

    def add(self, value: Value) -> None:
        """Look at one more value."""
        self._count += 1
        if value is None:
            self._nulls += 1
            return
        kind = _kind_of(value)
        self._kinds.add(kind)
        if kind in (ColumnKind.INTEGER, ColumnKind.DECIMAL):
            number = Decimal(value) if isinstance(value, int) else to_python(value)
            assert isinstance(number, Decimal)
            scale = -int(number.as_tuple().exponent)
            self._scale = max(self._scale, scale)
            self._whole = max(self._whole, len(number.as_tuple().digits) - scale)

    def column(self, name: str, documents: int) -> ParquetColumn:
        """The column, of so many documents."""
        kinds = self._kinds
        if kinds == {ColumnKind.INTEGER, ColumnKind.DECIMAL}:
            kinds = {ColumnKind.DECIMAL}
        kind = kinds.pop() if len(kinds) == 1 else ColumnKind.JSON
        if kind is ColumnKind.DECIMAL and self._whole + self._scale > MAX_DECIMAL_DIGITS:
            kind = ColumnKind.JSON
        is_null = self._nulls > 0 and self._count == documents and kind is not ColumnKind.JSON
        return ParquetColumn(name, kind, self._scale if kind is ColumnKind.DECIMAL else 0, is_null)


def _kind_of(value: Value) -> ColumnKind:
    match value:
        case bool():
            return ColumnKind.BOOLEAN
        case int():
            return ColumnKind.INTEGER
        case str():
            return ColumnKind.TEXT
        case bytes():
            return ColumnKind.BYTES
        case {"$dec": _}:
            return ColumnKind.DECIMAL
        case {"$date": _}:
            return ColumnKind.DATE
        case {"$ts": _}:
            return ColumnKind.TIMESTAMP
    return ColumnKind.JSON


# --- writing --------------------------------------------------------------------------------------------------------


def write_parquet(file: BinaryIO, columns: Sequence[ParquetColumn], documents: Documents) -> int:
    """Write documents to an empty file, with their keys in the first column. Returns how many there were.

    ``columns`` are those of ``columns_of``, or others into which the values fit. Raises ``MalformedError`` for a value
    that does not, ``ConfigurationError`` without pyarrow.
    """
    arrow, parquet = _pyarrow()
    schema = arrow.schema([arrow.field(KEY_COLUMN, arrow.string(), False), *(_field(arrow, one) for one in columns)])
    rows, number = iter(documents), 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while batch := list(islice(rows, _ROWS)):
            arrays = [arrow.array([key for key, _ in batch], arrow.string())]
            for column, field in zip(columns, list(schema)[1:], strict=True):
                cells = [_cell(column, key, fields) for key, fields in batch]
                try:
                    arrays.append(arrow.array(cells, field.type))
                except (arrow.ArrowException, OverflowError, TypeError) as exc:
                    raise MalformedError(f"Parquet: column {column.name!r}: a value that does not fit: {exc}") from exc
            writer.write_batch(arrow.RecordBatch.from_arrays(arrays, schema=schema))
            number += len(batch)
    return number


def _field(arrow: Any, column: ParquetColumn) -> Any:
    types = {
        ColumnKind.BOOLEAN: arrow.bool_(),
        ColumnKind.INTEGER: arrow.int64(),
        ColumnKind.DECIMAL: arrow.decimal128(MAX_DECIMAL_DIGITS, column.scale),
        ColumnKind.DATE: arrow.date32(),
        ColumnKind.TIMESTAMP: arrow.timestamp("us", tz="UTC"),
        ColumnKind.TEXT: arrow.string(),
        ColumnKind.BYTES: arrow.binary(),
        ColumnKind.JSON: arrow.string(),
    }
    empty = b"null" if column.empty_is_null else b"absent"
    return arrow.field(column.name, types[column.kind], metadata={_KIND: column.kind.encode(), _EMPTY: empty})


def _cell(column: ParquetColumn, key: str, fields: Mapping[str, Value]) -> object:
    """What pyarrow takes for the value."""
    if column.name not in fields:
        return None
    value = fields[column.name]
    if column.kind is ColumnKind.JSON:
        return json.dumps(to_json(value), ensure_ascii=False)
    if value is None:
        return None
    kind = _kind_of(value)
    if kind is not column.kind and (kind, column.kind) != (ColumnKind.INTEGER, ColumnKind.DECIMAL):
        raise MalformedError(f"Parquet: {key}: {column.name!r} is a {kind} where the column is of {column.kind}s")
    if column.kind is ColumnKind.DECIMAL:
        number = to_python(value)
        return Decimal(number) if isinstance(number, int) else number
    if isinstance(value, dict) and "$ts" in value:
        return value["$ts"]
    return to_python(value)


# --- reading --------------------------------------------------------------------------------------------------------


def _refuse(error: RowError, _row: str) -> NoReturn:
    raise error


def read_parquet(file: BinaryIO, *, name: str, on_error: OnError = _refuse) -> Iterator[Row]:
    """The rows of a Parquet file, counted from 1, with their stored values by column.

    Columns that ``write_parquet`` wrote give back what they were made of, an empty cell what its column says. Those of
    other programs are read by their type; an empty cell is a null. ``name`` is the file's, for errors. Raises
    ``RowError`` at the first row that does not fit, or gives it to ``on_error``; ``MalformedError``, before any row,
    for what is no Parquet file and for columns of floats, of times without a zone, and of other types that no stored
    value has; ``ConfigurationError`` without pyarrow.
    """
    arrow, parquet = _pyarrow()
    try:
        opened = parquet.ParquetFile(file)
        readers = [_reader(arrow, field, name) for field in opened.schema_arrow]
    except (arrow.ArrowException, OSError) as exc:
        raise MalformedError(f"{name}: not a Parquet file: {exc}") from exc
    titles = [reader.title for reader in readers]
    for title in titles:
        _check_title(title, name)
    if len(set(titles)) != len(titles):
        raise MalformedError(f"{name}: a column stands twice")
    return _rows(arrow, opened, readers, name, on_error)


@dataclass(frozen=True, slots=True)
class _Reader:
    """How a column is read: a cell that is not empty, and whether an empty one is a null."""

    title: str
    read: Callable[[Any], Value]
    empty_is_null: bool


def _rows(arrow: Any, opened: Any, readers: Sequence[_Reader], name: str, on_error: OnError) -> Iterator[Row]:
    number = 0
    try:
        for batch in opened.iter_batches(batch_size=_ROWS):
            columns = [_plain_cells(arrow, column) for column in batch.columns]
            for cells in zip(*columns, strict=True):
                number += 1
                try:
                    yield Row(number, _fields(readers, cells, name, number))
                except RowError as exc:
                    on_error(exc, ", ".join(map(str, cells)))
    except (arrow.ArrowException, OSError) as exc:
        raise MalformedError(f"{name}: damaged behind row {number}: {exc}") from exc


def _plain_cells(arrow: Any, column: Any) -> list[Any]:
    """The cells as Python's values; points in time as a number of the column's unit, which Python's type has not."""
    if arrow.types.is_timestamp(column.type):
        return column.cast(arrow.int64()).to_pylist()  # type: ignore[no-any-return]
    return column.to_pylist()  # type: ignore[no-any-return]


def _fields(readers: Sequence[_Reader], cells: Sequence[Any], name: str, row: int) -> dict[str, Value]:
    fields: dict[str, Value] = {}
    for reader, cell in zip(readers, cells, strict=True):
        try:
            if cell is not None:
                fields[reader.title] = reader.read(cell)
            elif reader.empty_is_null:
                fields[reader.title] = None
        except (AuditError, ValueError) as exc:
            raise RowError(name, row, reader.title, str(exc).removeprefix("value: ")) from exc
    return fields


def _check_title(title: str, name: str) -> None:
    if title == KEY_COLUMN:
        return
    try:
        check_name(title, "the column's name")
    except MalformedError as exc:
        raise MalformedError(f"{name}: {exc}") from exc
    if title.startswith("$"):
        raise MalformedError(f"{name}: {title}: names that begin with $ are reserved")


def _reader(arrow: Any, field: Any, name: str) -> _Reader:
    metadata = field.metadata or {}
    empty_is_null = metadata.get(_EMPTY, b"null") == b"null"
    if metadata.get(_KIND) == ColumnKind.JSON.encode() and arrow.types.is_string(field.type):
        return _Reader(field.name, _read_json_cell, empty_is_null)
    return _Reader(field.name, _read_of(arrow, field.type, f"{name}: {field.name}"), empty_is_null)


def _read_json_cell(text: str) -> Value:
    return from_python(read_json(parse_json(text.encode(), what="cell", max_bytes=MAX_DOCUMENT_BYTES), None, "cell"))


_PER_SECOND: Final = {"s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}


def _read_of(arrow: Any, kind: Any, what: str) -> Callable[[Any], Value]:
    """What reads the cells of an Arrow type. Raises ``MalformedError`` for one that no stored value has."""
    types = arrow.types
    if types.is_dictionary(kind):
        return _read_of(arrow, kind.value_type, what)
    if types.is_timestamp(kind):
        if kind.tz is None:
            raise MalformedError(f"{what}: points in time without a time zone", hint="give the column the zone UTC")
        return lambda count: _moment(count, _PER_SECOND[kind.unit])
    if types.is_floating(kind):
        raise MalformedError(f"{what}: floating point numbers", hint="make it a decimal column: money is never a float")
    if any(is_it(kind) for is_it in _plain_types(types)):
        return _plain
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        item = _read_of(arrow, _in_parts(arrow, kind.value_type, what), what)
        return lambda cells: [None if cell is None else item(cell) for cell in cells]
    if types.is_struct(kind):
        if any(one.name.startswith("$") for one in kind):
            raise MalformedError(f"{what}: names that begin with $ are reserved")
        members = {one.name: _read_of(arrow, _in_parts(arrow, one.type, what), what) for one in kind}
        return lambda cells: {key: None if cells[key] is None else read(cells[key]) for key, read in members.items()}
    raise MalformedError(f"{what}: {kind} is no type that can be stored")


def _plain_types(types: Any) -> tuple[Callable[[Any], bool], ...]:
    return (
        *(types.is_null, types.is_boolean, types.is_integer, types.is_decimal, types.is_date),
        *(types.is_string, types.is_large_string, types.is_binary, types.is_large_binary, types.is_fixed_size_binary),
    )


def _in_parts(arrow: Any, kind: Any, what: str) -> Any:
    """The type of what stands within a cell, where points in time come as Python's and not as numbers."""
    if arrow.types.is_timestamp(kind):
        raise MalformedError(f"{what}: points in time within lists or maps")
    return kind


def _plain(cell: object) -> Value:
    if isinstance(cell, int) and cell > MAX_INT:
        return from_python(Decimal(cell))
    return from_python(cell)


def _moment(count: int, per_second: int) -> Value:
    micros, rest = divmod(count * 1_000_000, per_second)
    if rest:
        raise MalformedError("a point in time that is not a whole number of microseconds")
    return _checked({"$ts": micros})


def _checked(value: Value) -> Value:
    to_python(value)
    return value


def _pyarrow() -> tuple[Any, Any]:
    """The library. Raises ``ConfigurationError`` where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as exc:
        raise ConfigurationError("Parquet files need pyarrow", hint="install it: pip install pyarrow") from exc
    return pyarrow, pyarrow.parquet

"""Parquet: what documents become, what is read back, and what is refused of files by other programs."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.parquet import KEY_COLUMN, ColumnKind, ParquetColumn, columns_of, read_parquet, write_parquet
from api.tabular import Row, RowError
from identity.errors import ConfigurationError, MalformedError
from ledger.values import MAX_TIMESTAMP, MIN_TIMESTAMP, Reference, Sealed, from_python

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet")

DAY, MOMENT = date(2026, 11, 22), datetime(2026, 11, 22, 14, 2, 0, 123456, tzinfo=UTC)


def stored(**fields: Any) -> dict[str, Any]:
    return {name: from_python(value) for name, value in fields.items()}


def file_of(documents: list[tuple[str, Mapping[str, Any]]]) -> io.BytesIO:
    file = io.BytesIO()
    assert write_parquet(file, columns_of(documents), documents) == len(documents)
    return io.BytesIO(file.getvalue())


def read(file: io.BytesIO | bytes, **options: Any) -> list[Row]:
    return list(read_parquet(io.BytesIO(file) if isinstance(file, bytes) else file, name="t.parquet", **options))


def foreign(**columns: Any) -> bytes:
    """A file as another program writes it."""
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def test_columns_have_the_types_of_their_values() -> None:
    documents = [
        ("1", stored(owner="A", balance=Decimal("12.3"), n=1, on=DAY, at=MOMENT, raw=b"\0", ok=True, mixed=1, l=[1])),
        ("2", stored(balance=Decimal("-0.125"), n=None, mixed="x", l={"a": 1}, many=1)),
        ("3", stored(balance=7, n=2, many=Decimal("1.0"))),
    ]
    schema = pq.read_schema(file_of(documents))
    assert {field.name: str(field.type) for field in schema} == {
        "$key": "string",
        "at": "timestamp[us, tz=UTC]",
        "balance": "decimal128(38, 3)",
        "l": "string",
        "many": "decimal128(38, 1)",
        "mixed": "string",
        "n": "int64",
        "ok": "bool",
        "on": "date32[day]",
        "owner": "string",
        "raw": "binary",
    }
    assert not schema.field("$key").nullable
    table = pq.read_table(file_of(documents)).to_pydict()
    assert table["balance"] == [Decimal("12.300"), Decimal("-0.125"), Decimal("7.000")]
    assert table["at"][0] == MOMENT
    assert table["mixed"] == ["1", '"x"', None]
    assert table["l"] == ["[1]", '{"a": 1}', None]


def test_what_is_written_is_read_back() -> None:
    reference = Reference(b"\1" * 32, 7, b"\2" * 32)
    documents = [
        ("1", stored(a="x", b=1, d=[1, Decimal("1.50"), DAY, b"\0"], e=reference, f=False, g=b"", h=DAY)),
        ("2", stored(b=2**63 - 1, c="y", d={"m": {"n": [None]}}, i=MOMENT)),
        ("é", {}),
    ]
    assert [row.fields for row in read(file_of(documents))] == [
        {KEY_COLUMN: key, **fields} for key, fields in documents
    ]


values = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**20), max_value=10**20).map(
        lambda number: Decimal(0).scaleb(-3) if number.is_zero() else number
    ),
    st.dates(),
    st.integers(MIN_TIMESTAMP, MAX_TIMESTAMP).map(lambda micros: {"$ts": micros}),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    st.binary(max_size=5),
    st.lists(st.integers(0, 9), max_size=3),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), values, max_size=3), min_size=1, max_size=5))
def test_any_values_come_back(rows: list[dict[str, Any]]) -> None:
    """An integer among decimals as a decimal, and every decimal of a column with the places of the longest."""
    documents: list[Any] = [
        (str(at), {k: v if isinstance(v, dict) else from_python(v) for k, v in row.items()})
        for at, row in enumerate(rows)
    ]
    kinds = {column.name: column for column in columns_of(documents)}
    for (key, fields), row in zip(documents, read(file_of(documents)), strict=True):
        expected: dict[str, Any] = {KEY_COLUMN: key}
        for name, value in fields.items():
            expected[name] = value
            if kinds[name].kind is ColumnKind.DECIMAL:
                number = Decimal(value) if isinstance(value, int) else Decimal(value["$dec"])
                expected[name] = from_python(number.quantize(Decimal(1).scaleb(-kinds[name].scale)))
        assert row.fields == expected


def test_empty_cells_are_absent_or_null_as_their_column_says() -> None:
    documents = [("1", stored(a=None, b=1)), ("2", stored(a=1)), ("3", stored(a=2, c=None))]
    assert [(one.name, one.empty_is_null) for one in columns_of(documents)] == [("a", True), ("b", False), ("c", False)]
    assert [dict(row.fields) for row in read(file_of(documents))] == [
        {KEY_COLUMN: "1", "a": None, "b": 1},
        {KEY_COLUMN: "2", "a": 1},
        {KEY_COLUMN: "3", "a": 2, "c": None},
    ]


def test_decimals_that_do_not_fit_one_column_are_text() -> None:
    documents = [("1", stored(a=Decimal("1" * 38))), ("2", stored(a=Decimal("0." + "1" * 30)))]
    assert columns_of(documents)[0].kind is ColumnKind.JSON
    assert [row.fields["a"] for row in read(file_of(documents))] == [fields["a"] for _, fields in documents]


def test_no_documents() -> None:
    assert columns_of([]) == ()
    assert read(file_of([])) == []


def test_many_documents_in_parts() -> None:
    documents = [(str(number), stored(n=number)) for number in range(9000)]
    file = file_of(documents)
    assert pq.ParquetFile(file).num_row_groups == 3
    rows = read(file)
    assert [row.fields["n"] for row in rows] == list(range(9000))
    assert (rows[0].line, rows[-1].line) == (1, 9000)


@pytest.mark.parametrize("value", ["x", 1, True, b"", DAY, MOMENT, Decimal("1.5"), [1]])
@pytest.mark.parametrize("kind", [kind for kind in ColumnKind if kind is not ColumnKind.JSON])
def test_a_value_that_is_not_of_its_column(kind: ColumnKind, value: Any) -> None:
    documents = [("k", stored(a=value))]
    column = columns_of(documents)[0]
    fits = column.kind is kind or (kind is ColumnKind.DECIMAL and column.kind is ColumnKind.INTEGER)
    if fits:
        write_parquet(io.BytesIO(), [ParquetColumn("a", kind, scale=1)], documents)
    else:
        with pytest.raises(MalformedError, match="a"):
            write_parquet(io.BytesIO(), [ParquetColumn("a", kind, scale=0)], documents)


def test_what_other_programs_write() -> None:
    data = foreign(
        small=pa.array([1, None], pa.int8()),
        large=pa.array([2**64 - 1, 0], pa.uint64()),
        dec=pa.array([Decimal("1.50"), None], pa.decimal128(10, 2)),
        on=pa.array([DAY, None], pa.date64()),
        at=pa.array([MOMENT, None], pa.timestamp("ns", "Europe/Prague")),
        name=pa.array(["x", None]).dictionary_encode(),
        raw=pa.array([b"ab", None], pa.binary(2)),
        items=pa.array([[1, None], None]),
        inner=pa.array([{"a": 1, "b": "x"}, None]),
        nothing=pa.nulls(2),
    )
    first, second = read(data)
    assert first.fields == {
        "small": 1,
        "large": {"$dec": "18446744073709551615"},
        "dec": {"$dec": "1.50"},
        "on": {"$date": "2026-11-22"},
        "at": {"$ts": 1_795_356_120_123_456},
        "name": "x",
        "raw": b"ab",
        "items": [1, None],
        "inner": {"a": 1, "b": "x"},
        "nothing": None,
    }
    assert set(second.fields.values()) == {None, 0}


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (lambda: pa.array([1.5]), "floating point"),
        (lambda: pa.array([[1.5]]), "floating point"),
        (lambda: pa.array([1.5], pa.float32()), "floating point"),
        (lambda: pa.array([datetime(2026, 1, 1)]), "without a time zone"),  # noqa: DTZ001
        (lambda: pa.array([[MOMENT]], pa.list_(pa.timestamp("us", "UTC"))), "within lists"),
        (lambda: pa.array([1], pa.duration("s")), "no type"),
        (lambda: pa.array([1], pa.time64("us")), "no type"),
        (lambda: pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), "no type"),
        (lambda: pa.array([{"$dec": "x"}]), "reserved"),
    ],
)
def test_columns_that_are_refused(column: Any, reason: str) -> None:
    with pytest.raises(MalformedError, match=f"t.parquet: a: .*{reason}"):
        read(foreign(a=column()))


@pytest.mark.parametrize("title", ["", "$ref", "a\n", "x" * 201])
def test_titles_that_are_refused(title: str) -> None:
    with pytest.raises(MalformedError, match=r"t\.parquet"):
        read(foreign(**{title: pa.array([1])}))


@pytest.mark.parametrize(
    "column",
    [
        lambda: pa.array([1], pa.timestamp("ns", "UTC")),
        lambda: pa.array([-(2**62)], pa.timestamp("ms", "UTC")),
        lambda: pa.array([Decimal("1" * 39)], pa.decimal256(39, 0)),
    ],
)
def test_rows_that_are_refused_or_taken_as_they_are(column: Any) -> None:
    data = foreign(n=pa.array([5]), a=column())
    with pytest.raises(RowError, match=r"t\.parquet:1: a: "):
        read(data)
    refused: list[Any] = []
    assert read(data, on_error=lambda error, row: refused.append((error.line, row))) == []
    assert refused[0][0] == 1
    assert refused[0][1].startswith("5, ")


def test_json_text_of_ours_that_was_changed_is_refused() -> None:
    field = pa.field("a", pa.string(), metadata={b"holdfast:kind": b"json"})
    for text in ("", "{", "1.5", '{"$dec": "x"}', '{"$sealed": []}'):
        file = io.BytesIO()
        pq.write_table(pa.Table.from_arrays([pa.array([text])], schema=pa.schema([field])), file)
        with pytest.raises(RowError):
            read(file.getvalue())


def test_a_sealed_value_is_shown_and_not_taken_back() -> None:
    file = file_of([("1", stored(a=Sealed(b"k" * 16, b"c" * 32, b"x" * 80)))])
    with pytest.raises(RowError, match="sealed"):
        read(file)


def test_damaged_files() -> None:
    whole = file_of([(str(number), stored(a="x" * 50, n=number)) for number in range(200)]).getvalue()
    for data in (b"", b"PAR1", whole[:-1], whole[: len(whole) // 2], b"not parquet at all" * 9, whole[8:]):
        with pytest.raises(MalformedError, match=r"t\.parquet"):
            read(data)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigurationError) as found:
        write_parquet(io.BytesIO(), (), [])
    assert "pip install pyarrow" in found.value.hint

"""Rows of CSV and JSON Lines: what is read, exactly, and above all what is refused, by file, row and column."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.tabular import MAX_ROW_BYTES, Column, Row, RowError, parse_columns, read_csv, read_json_lines
from identity.encoding import MAX_DEPTH
from identity.errors import MalformedError
from ledger.values import from_python, to_python


def csv_rows(text: str | bytes, columns: str = "", **options: str) -> list[Row]:
    data = text if isinstance(text, bytes) else text.encode()
    return list(read_csv(io.BytesIO(data), parse_columns(columns), name="t.csv", **options))


def json_rows(text: str | bytes, columns: str = "") -> list[Row]:
    data = text if isinstance(text, bytes) else text.encode()
    return list(read_json_lines(io.BytesIO(data), parse_columns(columns), name="t.jsonl"))


# --- columns


def test_columns() -> None:
    assert parse_columns("trans_id:int,date:date(%d.%m.%Y, %y)?,amount:dec,at:ts(ms)") == (
        Column("trans_id", "int"),
        Column("date", "date", "%d.%m.%Y, %y", nullable=True),
        Column("amount", "dec"),
        Column("at", "ts", "ms"),
    )
    assert parse_columns("") == ()


@pytest.mark.parametrize(
    "text",
    [
        "amount",
        "amount:",
        ":int",
        "amount:money",
        "amount:int,",
        ",amount:int",
        "a:int,,b:int",
        "a:int b:int",
        "a:INT",
        "a:int(%d)",
        "a:dec(2)",
        "a:date(day)",
        "a:date(%d%d)",
        "a:date(%)",
        "a:date(%Q)",
        "a:date()",
        "a:date(ms)",
        "a:ts(min)",
        "a:int??",
        "a:int,b:text,a:dec",
    ],
)
def test_columns_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_columns(text)


@given(st.text(max_size=40))
def test_columns_are_total(text: str) -> None:
    with suppress(MalformedError):
        parse_columns(text)


# --- CSV


def test_csv_types() -> None:
    rows = csv_rows(
        'id,day,amount,at,ok,memo\n7,930101,-700.10,2026-01-02T03:04:05.5+01:00,true,"a ""b"", c"\n',
        "id:int,day:date(%y%m%d),amount:dec,at:ts,ok:bool",
    )
    assert [row.line for row in rows] == [2]
    assert {name: to_python(value) for name, value in rows[0].fields.items()} == {
        "id": 7,
        "day": date(1993, 1, 1),
        "amount": Decimal("-700.10"),
        "at": datetime(2026, 1, 2, 2, 4, 5, 500_000, tzinfo=UTC),
        "ok": True,
        "memo": 'a "b", c',
    }


def test_a_decimal_keeps_its_scale() -> None:
    assert csv_rows("a\n0.10\n12345678901234567890123456789012345.678\n", "a:dec")[1].fields["a"] == {
        "$dec": "12345678901234567890123456789012345.678"
    }
    assert csv_rows("a\n0.10\n", "a:dec")[0].fields["a"] == {"$dec": "0.10"}


def test_rows_are_counted_by_the_line_where_they_begin() -> None:
    rows = csv_rows('a,b\r\n"one\nand more",1\r\n\r\n"two",2\r\n', "b:int")
    assert [(row.line, row.fields["a"]) for row in rows] == [(2, "one\nand more"), (5, "two")]
    with pytest.raises(RowError) as caught:
        csv_rows('a,b\n"one\nand more",1\n"two\n\n",x\n', "b:int")
    assert (caught.value.line, caught.value.column) == (4, "b")


def test_delimiter_encoding_and_byte_order_mark() -> None:
    assert csv_rows("a;b\n1;x,y\n", delimiter=";")[0].fields == {"a": "1", "b": "x,y"}
    assert csv_rows("a\tb\n1\t2\n", delimiter="\t")[0].fields == {"a": "1", "b": "2"}
    assert csv_rows("a\nPříjem\n".encode("iso-8859-2"), encoding="iso-8859-2")[0].fields == {"a": "Příjem"}
    assert csv_rows(b"\xef\xbb\xbfa\n1\n")[0].fields == {"a": "1"}


def test_a_field_may_be_as_long_as_a_row() -> None:
    """What an export of documents has written is read again."""
    text = "x" * (MAX_ROW_BYTES - 4)
    assert csv_rows(f"id,text\n1,{text}\n")[0].fields == {"id": "1", "text": text}


def test_null_only_where_it_is_allowed() -> None:
    assert csv_rows("a,b,c\n,,\n", "a:int?,b:text?")[0].fields == {"a": None, "b": None, "c": ""}
    with pytest.raises(RowError, match=r't\.csv:2: a: "" is not a whole number'):
        csv_rows('a\n""\n', "a:int")


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("a:int", "1.0"),
        ("a:int", "007"),
        ("a:int", "+1"),
        ("a:int", "-0"),
        ("a:int", " 1"),
        ("a:int", "1_000"),
        ("a:int", "٣"),
        ("a:int", "9223372036854775808"),
        ("a:int", "9" * 5000),
        ("a:dec", "1,2.3"),
        ("a:dec", "1e3"),
        ("a:dec", "NaN"),
        ("a:dec", "Infinity"),
        ("a:dec", "-0.00"),
        ("a:dec", ".5"),
        ("a:dec", "5."),
        ("a:dec", "01.5"),
        ("a:dec", "1" * 39),
        ("a:bool", "True"),
        ("a:bool", "1"),
        ("a:date", "2026-02-29"),
        ("a:date", "20260101"),
        ("a:date", "2026-W01-1"),
        ("a:date", "26-01-01"),
        ("a:date(%y%m%d)", "93011"),
        ("a:date(%y%m%d)", "930230"),
        ("a:date(%d.%m.%Y)", "1.2.2026"),
        ("a:ts", "2026-01-01T00:00:00"),
        ("a:ts", "2026-01-01T00:00:00.1234567Z"),
        ("a:ts", "2026-01-01"),
        ("a:ts", "2026-01-01T24:00:00Z"),
        ("a:ts", "0001-01-01T00:00:00+01:00"),
        ("a:ts(ms)", "1.5"),
        ("a:ts(s)", "9223372036854775807"),
    ],
)
def test_a_cell_that_does_not_fit_names_file_row_and_column(column: str, cell: str) -> None:
    with pytest.raises(RowError) as caught:
        csv_rows(f'z,a\n,"{cell}"\n', column)
    error = caught.value
    assert (error.name, error.line, error.column) == ("t.csv", 2, "a")
    assert str(error).startswith("t.csv:2: a: ")
    assert len(str(error)) < 200


def test_the_message_is_the_promised_one() -> None:
    with pytest.raises(RowError, match=r'^t\.csv:3: amount: "1,2\.3" is not a decimal$'):
        csv_rows('amount\n1.0\n"1,2.3"\n', "amount:dec")


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", 1),
        (b"\n\n", 1),
        (b"a,a\n1,2\n", 1),
        (b"a,\n1,2\n", 1),
        (b"$a\n1\n", 1),
        (b"a\x07\n1\n", 1),
        (b"b\n1\n", 1),  # the column a is asked for and absent
        (b"a,b\n1\n", 2),
        (b"a,b\n1,2,3\n", 2),
        (b'a\n1\n"2\n', 3),
        (b'a\n"1"2\n', 2),
        (b"a\n1\r2\n", 2),
        (b"a\n1\n\xff\n", 3),
        (b"a\n1\n\xed\xa0\x80\n", 3),  # a surrogate in UTF-8
        (b"a\n1\n" + b"x" * (MAX_ROW_BYTES + 1), 3),
        (b'a\n1\n"' + b"\n" * (MAX_ROW_BYTES + 1), 3),
        (b"a\n" + b'"x\n",' * (MAX_ROW_BYTES // 4), 2),
    ],
)
def test_csv_refused(data: bytes, line: int) -> None:
    with pytest.raises(RowError) as caught:
        csv_rows(data, "a:text")
    assert caught.value.line == line


@pytest.mark.parametrize(
    "options", [{"delimiter": d} for d in ("", ",,", '"', "\n", "\r", "\0")] + [{"encoding": "utf-16"}]
)
def test_impossible_options_refused(options: dict[str, str]) -> None:
    with pytest.raises(MalformedError):
        csv_rows("a\n1\n", **options)


def test_rows_come_one_at_a_time() -> None:
    """The second row is at fault, and the first has been handed out: nothing waits for the end of the file."""
    rows = read_csv(io.BytesIO(b"a\n1\nx\n"), parse_columns("a:int"), name="t.csv")
    assert next(rows).fields == {"a": 1}
    with pytest.raises(RowError):
        next(rows)


SKIPPING = """a,b
1,x
one,x
2
3,"y
z"
4,"q" more
5,v
"""


def test_rows_that_do_not_fit_are_handed_over_and_the_others_are_read() -> None:
    skipped: list[tuple[int, str, str]] = []
    rows = read_csv(
        io.BytesIO(SKIPPING.encode()),
        parse_columns("a:int"),
        name="t.csv",
        on_error=lambda error, row: skipped.append((error.line, error.column, row)),
    )
    assert [(row.line, row.fields["a"]) for row in rows] == [(2, 1), (5, 3), (8, 5)]
    assert skipped == [(3, "a", "one,x"), (4, "", "2"), (7, "", '4,"q" more')]


@pytest.mark.parametrize(
    "bad",
    [b'{"a": 1', b"[1]", b'{"a": 1e9}', b'{"b": 1}', b'{"a": "\xff"}', b"x" * (MAX_ROW_BYTES + 9), b'{"a":1,"a":1}'],
)
def test_a_line_that_does_not_fit_spoils_no_other(bad: bytes) -> None:
    skipped: list[str] = []
    rows = read_json_lines(
        io.BytesIO(b'{"a": 1}\n' + bad + b'\n\n{"a": 2}\n'),
        parse_columns("a:int"),
        name="t.jsonl",
        on_error=lambda _, row: skipped.append(row),
    )
    assert [(row.line, row.fields["a"]) for row in rows] == [(1, 1), (4, 2)]
    assert [row.encode()[:MAX_ROW_BYTES] for row in skipped] == [bad.replace(b"\xff", b"\\xff")[:MAX_ROW_BYTES]]


@pytest.mark.parametrize("encoding", ["utf-8", "windows-1250"])
def test_a_row_of_the_wrong_encoding_is_handed_over(encoding: str) -> None:
    data = b"a\n\x81\nb\n"
    skipped: list[str] = []
    rows = read_csv(io.BytesIO(data), name="t", encoding=encoding, on_error=lambda _, row: skipped.append(row))
    assert [row.fields["a"] for row in rows] == ["b"]
    assert skipped == ["\\x81"]


@pytest.mark.parametrize("data", ["", "a,a\n1,2\n", "b\n1\n", '"a\n1\n'])
def test_a_header_that_does_not_fit_ends_the_reading_all_the_same(data: str) -> None:
    with pytest.raises(RowError):
        csv_rows(data, "a:int", on_error=lambda *_: None)


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@given(st.lists(st.lists(cells, min_size=3, max_size=3), max_size=8), st.sampled_from([",", ";", "\t", "|"]))
def test_csv_round_trip(rows: list[list[str]], delimiter: str) -> None:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows([["a", "b", "c"], *rows])
    read = csv_rows(stream.getvalue(), delimiter=delimiter)
    assert [list(row.fields.values()) for row in read] == rows


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_csv_is_total(data: bytes) -> None:
    with suppress(RowError):
        csv_rows(b"a,b\n" + data, "a:int?")


# --- JSON Lines


def test_json_without_columns() -> None:
    (row,) = json_rows('{"i": -7, "d": 12.30, "t": "x", "b": false, "n": null, "l": [1, 1.0], "m": {"k": "v"}}\n')
    assert row == Row(
        1,
        {
            "i": -7,
            "d": {"$dec": "12.30"},
            "t": "x",
            "b": False,
            "n": None,
            "l": [1, {"$dec": "1.0"}],
            "m": {"k": "v"},
        },
    )


def test_json_with_columns() -> None:
    (row,) = json_rows(
        '{"a": "700.00", "d": "930101", "t": "1", "n": null, "b": true, "i": 5, "whole": 3}\n',
        "a:dec,d:date(%y%m%d),t:text,n:int?,b:bool,i:int,whole:dec",
    )
    assert row.fields == {
        "a": {"$dec": "700.00"},
        "d": {"$date": "1993-01-01"},
        "t": "1",
        "n": None,
        "b": True,
        "i": 5,
        "whole": {"$dec": "3"},
    }
    assert all(type(value) is not str or value == "1" for value in row.fields.values())


def test_json_lines_are_counted_and_empty_ones_skipped() -> None:
    assert [row.line for row in json_rows('{"a":1}\n\n  \r\n{"a":2}')] == [1, 4]


@pytest.mark.parametrize(
    ("text", "columns", "column"),
    [
        ('{"a": 1.5}', "a:int", "a"),
        ('{"a": 1e3}', "a:dec", "a"),
        ('{"a": 1e3}', "", "a"),
        ('{"a": 9223372036854775808}', "", "a"),
        ('{"a": %s}' % ("9" * 6000), "", "a"),
        ('{"a": -0}', "", "a"),
        ('{"a": 5}', "a:text", "a"),
        ('{"a": null}', "a:text", "a"),
        ('{"a": true}', "a:int", "a"),
        ('{"a": 1}', "a:bool", "a"),
        ('{"a": [1]}', "a:int", "a"),
        ('{"b": 1}', "a:int", "a"),
        ('{"a": "\\ud800"}', "", "a"),
        ('{"a": "\\ud800"}', "a:text", "a"),
        ('{"a": {"$dec": "1e3"}}', "", "a"),
        ('{"a": {"$x": 1}}', "", "a"),
        ('{"$a": 1}', "", "$a"),
        ('{"": 1}', "", ""),
        ('{"\\u0000": 1}', "", ""),
        ('{"a": NaN}', "", ""),
        ('{"a": -Infinity}', "a:dec", ""),
        ('{"a": 1, "a": 1}', "", ""),
        ('{"a": {"b": 1, "b": 1}}', "", ""),
        ('{"a": 1', "", ""),
        ('{"a": 1} {"a": 2}', "", ""),
        ("[1]", "", ""),
        ("1", "", ""),
        ("{'a': 1}", "", ""),
        ('{"a": 01}', "", ""),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "", ""),
        ('{"a": ' + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1) + "}", "", ""),
        ('{"a": ' + "[" * 100_000, "", ""),
        ('{"a": "' + "x" * MAX_ROW_BYTES + '"}', "", ""),
    ],
)
def test_json_refused(text: str, columns: str, column: str) -> None:
    with pytest.raises(RowError) as caught:
        json_rows(text, columns)
    assert caught.value.column == column
    assert len(str(caught.value)) < 300


def test_brackets_inside_text_are_not_depth() -> None:
    (row,) = json_rows(json.dumps({"a": '\\"' + "[" * 500}))
    assert row.fields == {"a": '\\"' + "[" * 500}


def test_json_bytes_that_are_not_utf8_name_the_line() -> None:
    with pytest.raises(RowError, match=r"^t\.jsonl:2: byte 8 is not utf-8$"):
        json_rows(b'{"a":1}\n{"a": "\xff"}\n')


def json_values() -> st.SearchStrategy[object]:
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
    scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | text
    names = text.filter(lambda name: not name.startswith("$"))
    return st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))


@given(json_values())
def test_json_round_trip(value: object) -> None:
    (row,) = json_rows(json.dumps({"a": value}))
    assert row.fields == {"a": from_python(value)}


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**20), max_value=10**20))
def test_a_json_number_is_never_a_float(number: Decimal) -> None:
    text = format(abs(number), "f")
    (row,) = json_rows(f'{{"a": {text}}}')
    assert row.fields == {"a": {"$dec": text}}


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_json_is_total(data: bytes) -> None:
    with suppress(RowError):
        json_rows(b'{"a": ' + data)


def mutated(line: bytes) -> Iterator[bytes]:
    for position in range(len(line)):
        for bit in range(8):
            yield line[:position] + bytes([line[position] ^ 1 << bit]) + line[position + 1 :]


def test_every_bit_flip_is_read_or_refused() -> None:
    for data in mutated(b'{"a": 12.30, "b": ["x", null]}\n'):
        with suppress(RowError):
            json_rows(data)


def test_a_string_that_never_ends_is_refused_at_once() -> None:
    # It took hours for one line: time by the square of its quotes.
    line = '{"a": "' + '\\"' * 400_000 + "[" * (MAX_DEPTH + 1)
    assert len(line) < MAX_ROW_BYTES
    with pytest.raises(RowError, match="not JSON"):
        json_rows(line)


def test_json_has_a_form_for_bytes() -> None:
    text = json.dumps({"a": {"$hex": "00ff"}, "b": {"$ref": ["11" * 32, 7, "22" * 32]}})
    (row,) = read_json_lines(io.BytesIO(text.encode()), name="rows")
    assert row.fields == {"a": b"\x00\xff", "b": {"$ref": [b"\x11" * 32, 7, b"\x22" * 32]}}


@pytest.mark.parametrize(
    "value", [{"$hex": "0F"}, {"$hex": "0"}, {"$hex": 12}, {"$hex": "00", "b": 1}, {"$ref": ["x", 7, "22" * 32]}]
)
def test_json_bytes_that_are_none(value: object) -> None:
    with pytest.raises(RowError, match="rows:1: a: "):
        list(read_json_lines(io.BytesIO(json.dumps({"a": value}).encode()), name="rows"))

from __future__ import annotations

import sqlite3
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from identity.encoding import MAX_INT, MIN_INT, Value
from ledger.values import MAX_TIMESTAMP, MIN_TIMESTAMP, Reference, decimal_value, from_python, to_python
from sync.sortkey import MAX_KEYED, MAX_SORT_KEY, is_cut, prefix_range, sort_key

SPEC = (Path(__file__).resolve().parents[3] / "docs" / "spec" / "schema.md").read_text("utf-8")
FEED, LEAF = b"\x01" * 32, b"\xff" * 32

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.text("a~} !\x00\x1f\x7f\uffff😀", max_size=6)


@st.composite
def decimals(draw: st.DrawFn) -> Decimal:
    """Any stored decimal: up to 38 digits that are written, any scale."""
    digits = draw(st.text("0123456789", min_size=1, max_size=38))
    scale = draw(st.integers(0, len(digits) - 1))
    whole, fraction = digits[: len(digits) - scale].lstrip("0") or "0", digits[len(digits) - scale :]
    text = f"{whole}.{fraction}" if fraction else whole
    return Decimal(text) if draw(st.booleans()) or not text.strip("0.") else -Decimal(text)


numbers = st.one_of(
    decimals(),
    st.integers(MIN_INT, MAX_INT),
    st.integers(-20, 20),
    st.builds(lambda units, scale: Decimal(units).scaleb(-scale), st.integers(-300, 300), st.integers(0, 3)),
).map(lambda number: Decimal(0) if isinstance(number, Decimal) and number.is_zero() else number)

references = st.builds(Reference, st.binary(min_size=32, max_size=32), st.integers(0, 2**52 - 1), st.just(LEAF))


def rank(value: Any) -> tuple[int, Any]:
    """The order that keys promise, said in Python's terms."""
    match value:
        case None:
            return 0, 0
        case bool():
            return 1, value
        case int() | Decimal():
            return 2, value
        case datetime():
            return 4, value
        case date():
            return 3, value
        case str():
            return 5, [ord(one) for one in value]
        case bytes():
            return 6, value
    return 7, (value.feed, value.index, value.leaf_hash)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    numbers,
    st.dates(),
    st.datetimes(timezones=st.just(UTC)),
    texts,
    st.binary(max_size=4),
    references,
)


def key_of(value: object) -> str:
    key = sort_key(from_python(value))
    assert key is not None
    assert key.isascii()
    return key


def assert_same_order(a: object, b: object) -> None:
    key_a, key_b = key_of(a), key_of(b)
    assert (key_a < key_b) == (rank(a) < rank(b))
    assert (key_a == key_b) == (rank(a) == rank(b))


@given(scalars, scalars)
def test_keys_stand_in_the_order_of_the_values(a: object, b: object) -> None:
    assert_same_order(a, b)


@given(numbers, numbers)
@example(1, Decimal("1.00"))
@example(0, Decimal("0.000"))
@example(-1, Decimal("-1.0"))
@example(Decimal("-0.12"), Decimal("-0.123"))
@example(Decimal("-9.9"), -10)
@example(MIN_INT, MIN_INT + 1)
@example(Decimal("9" * 38), Decimal("9" * 37))
@example(Decimal("0." + "0" * 36 + "1"), 0)
@example(Decimal("-0." + "0" * 36 + "1"), 0)
@example(Decimal("1." + "0" * 36 + "1"), 1)
def test_numbers_by_what_they_amount_to(a: int | Decimal, b: int | Decimal) -> None:
    assert_same_order(a, b)


@given(numbers, st.integers(0, 5))
def test_the_scale_of_a_number_is_not_in_its_key(number: int | Decimal, zeros: int) -> None:
    text = f"{Decimal(number):f}"
    longer = (text if "." in text else text + ".") + "0" * zeros
    if zeros and len(longer.strip("-").replace(".", "")) <= 38:
        assert sort_key(decimal_value(longer)) == key_of(number)


@given(texts, texts)
@example("a", "ab")
@example("a", "a\x00")
@example("}", "~")
@example(" ", "!")
@example("\uffff", "\U00010000")
@example("~", "~z")
def test_text_by_code_points(a: str, b: str) -> None:
    assert_same_order(a, b)


@given(st.integers(MIN_TIMESTAMP, MAX_TIMESTAMP), st.integers(MIN_TIMESTAMP, MAX_TIMESTAMP))
@example(MIN_TIMESTAMP, -1)
@example(-1, 0)
@example(MAX_TIMESTAMP - 1, MAX_TIMESTAMP)
def test_points_in_time(a: int, b: int) -> None:
    key_a, key_b = sort_key({"$ts": a}), sort_key({"$ts": b})
    assert key_a is not None
    assert key_b is not None
    assert (a < b, a == b) == (key_a < key_b, key_a == key_b)


def test_the_order_of_the_types() -> None:
    late = datetime(9999, 12, 31, tzinfo=UTC)
    ladder: list[object] = [
        None,
        False,
        True,
        Decimal("-" + "9" * 38),
        MIN_INT,
        0,
        Decimal("9" * 38),
        date(1, 1, 1),
        date(9999, 12, 31),
        late - timedelta(days=3_000_000),
        late,
        "",
        "\x00",
        "\U0010ffff",
        b"",
        b"\x00",
        b"\xff",
        Reference(FEED, 0, LEAF),
    ]
    keys = [key_of(value) for value in ladder]
    assert all(a < b for a, b in pairwise(keys))


@given(st.lists(scalars, max_size=12))
def test_sqlite_orders_them_so(values: list[object]) -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (key TEXT)")
    connection.executemany("INSERT INTO t VALUES (?)", [(key_of(value),) for value in values])
    found = [key for (key,) in connection.execute("SELECT key FROM t ORDER BY key")]
    connection.close()
    assert found == [key_of(value) for value in sorted(values, key=rank)]


@given(texts, texts)
@example("", "")
@example("a", "ab")
@example("a", "b")
@example("\x00", "\x00\U0010ffff")
@example("x", "x" + "\U0010ffff" * MAX_KEYED)
def test_prefix_ranges(prefix: str, rest: str) -> None:
    low, high = prefix_range(prefix)
    for text in (rest, prefix + rest):
        assert (low <= key_of(text) < high) == text.startswith(prefix)


@pytest.mark.parametrize("other", [None, True, 5, b"", b"\xff"])
def test_a_prefix_range_holds_texts_only(other: Value) -> None:
    low, high = prefix_range("")
    assert not low <= key_of(other) < high


@pytest.mark.parametrize("unit", ["x", "é", "😀", "~", "\x00"])
def test_long_texts_share_the_key_of_their_beginning(unit: str) -> None:
    whole, longer, other = unit * MAX_KEYED, unit * MAX_KEYED + "a", unit * MAX_KEYED + "b"
    assert not is_cut(key_of(whole))
    assert is_cut(key_of(longer))
    assert key_of(whole) < key_of(longer) == key_of(other) < key_of(unit * (MAX_KEYED - 1) + "\U0010ffff" * 2)
    assert len(key_of(longer)) <= MAX_SORT_KEY
    low, high = prefix_range(longer)
    assert low <= key_of(other) < high, "which is why the texts of a long prefix have to be compared"


def test_long_bytes_share_the_key_of_their_beginning() -> None:
    whole = bytes(MAX_KEYED)
    assert not is_cut(key_of(whole))
    assert key_of(whole) < key_of(whole + b"\0") == key_of(whole + b"\1") < key_of(whole[:-1] + b"\1")
    assert is_cut(key_of(whole + b"\1"))


@given(scalars)
def test_short_values_are_not_cut(value: object) -> None:
    assert not is_cut(key_of(value))


def deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        [],
        [1],
        {},
        {"a": 1},
        {"a": 1, "b": 2},
        {"$sealed": []},
        {"$dec": "1", "$ts": 1},
        {"$dec": "1", "a": 1},
        {"$dec": "1.e5"},
        {"$dec": "9" * 39},
        {"$dec": 1},
        {"$ts": MAX_TIMESTAMP + 1},
        {"$ts": 10**5000},
        {"$date": "2026-02-30"},
        {"$date": None},
        {"$ref": []},
        {"$ref": [FEED, 10**5000, LEAF]},
        {"$what": 1},
        {10**5000: 1},
        1.5,
        MAX_INT + 1,
        -(10**5000),
        "\ud800",
        Decimal(1),
        date(2026, 1, 1),
        object(),
        deep(10_000),
        {"a": deep(10_000)},
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_key(value: Any) -> None:
    assert sort_key(value) is None


REFERENCE_KEY = "8" + "01" * 32 + "0000000000000007" + "ff" * 32


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (None, "0"),
        (True, "2"),
        (0, "31"),
        (42, "325242"),
        ({"$dec": "42.00"}, "325242"),
        ({"$dec": "-12.30"}, "3047876~"),
        ({"$dec": "0.05"}, "32495"),
        ({"$date": "2026-11-22"}, "42026-11-22"),
        ({"$ts": 1790000000123456}, "5063925596800123456"),
        ("Zoë ~1", "6Zo~00eb 20~007e1"),
        (b"\x01\xff", "701ff"),
        ({"$ref": [FEED, 7, LEAF]}, REFERENCE_KEY),
    ],
)
def test_examples_of_the_specification(value: Value, key: str) -> None:
    assert sort_key(value) == key
    assert f"`{key}`" in SPEC or key == REFERENCE_KEY


def test_the_prefix_of_the_specification() -> None:
    assert prefix_range("Zo") == ("6Zo", "6Zo~~")


@given(scalars)
def test_a_key_is_of_the_stored_value(value: object) -> None:
    assert sort_key(from_python(to_python(from_python(value)))) == key_of(value)

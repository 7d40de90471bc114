from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.encoding import MAX_DEPTH, Value, decode, encode
from identity.errors import LimitExceeded, MalformedError
from identity.textforms import to_base64, to_zbase32
from ledger.values import (
    MAX_SEALED_BYTES,
    MAX_TIMESTAMP,
    MIN_SEALED_BYTES,
    MIN_TIMESTAMP,
    Reference,
    Sealed,
    check_value,
    date_value,
    decimal_value,
    from_python,
    parse_reference,
    reference_value,
    sealed_value,
    timestamp_value,
    to_plain,
    to_python,
)

FEED, LEAF = bytes(range(32)), bytes(range(32, 64))
REFERENCE = Reference(FEED, 7, LEAF)
KID, COMMITMENT, CIPHERTEXT = bytes(16), bytes(range(64, 96)), bytes(range(73))
SEALED = Sealed(KID, COMMITMENT, CIPHERTEXT)

decimals = st.builds(
    lambda sign, digits, scale: Decimal((sign if any(digits) else 0, tuple(digits), -scale)),
    st.integers(0, 1),
    st.lists(st.integers(0, 9), min_size=1, max_size=19),
    st.integers(0, 18),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.text(max_size=10),
    st.binary(max_size=10),
    decimals,
    st.dates(),
    st.datetimes(timezones=st.just(UTC)).map(lambda moment: moment.replace(fold=0)),
    st.builds(
        Reference,
        feed=st.binary(min_size=32, max_size=32),
        index=st.integers(0, 2**52 - 1),
        leaf_hash=st.binary(min_size=32, max_size=32),
    ),
    st.builds(
        Sealed,
        kid=st.binary(min_size=16, max_size=16),
        commitment=st.binary(min_size=32, max_size=32),
        ciphertext=st.binary(min_size=MIN_SEALED_BYTES, max_size=MIN_SEALED_BYTES + 9),
    ),
)
keys = st.text(max_size=8).filter(lambda key: not key.startswith("$"))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)


@given(values)
def test_round_trip_through_bytes(value: object) -> None:
    stored = from_python(value)
    check_value(stored)
    again = to_python(decode(encode(stored)))
    assert again == value
    assert from_python(again) == stored
    to_plain(stored)


@given(decimals)
def test_a_decimal_keeps_its_scale(number: Decimal) -> None:
    assert repr(to_python(from_python(number))) == repr(number)


@given(st.binary(max_size=60), st.integers(0, 59 * 8))
def test_whatever_decodes_is_judged_and_shown_without_another_error(data: bytes, bit: int) -> None:
    encoded = bytearray(encode(from_python([{"a": Decimal("1.50")}, date(2026, 1, 1), REFERENCE, SEALED, data])))
    encoded[bit // 8 % len(encoded)] ^= 1 << bit % 8
    try:
        value = decode(bytes(encoded))
    except MalformedError:
        return
    to_plain(value)
    try:
        plain = to_python(value)
    except MalformedError:
        return
    assert encode(from_python(plain)) == bytes(encoded)


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "0.00",
        "7",
        "-7",
        "-12.30",
        "0.1",
        "-0.01",
        "9" * 38,
        "-" + "9" * 38,
        "0." + "9" * 37,
        "9." + "0" * 37,
        "12345678901234567890.123456789012345678",
        "-12345678901234567890.123456789012345678",
    ],
)
def test_canonical_decimals(text: str) -> None:
    value = decimal_value(text)
    assert value == {"$dec": text}
    number = to_python(value)
    assert isinstance(number, Decimal)
    assert from_python(number) == value
    assert to_plain(value) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        ".",
        "+1",
        "-0",
        "-0.00",
        "00",
        "01",
        "-01.5",
        "1.",
        ".5",
        "-.5",
        "1e3",
        "1E3",
        "1E+3",
        "1_000",
        "1,5",
        " 1",
        "1 ",
        "1\n",
        "--1",
        "1.2.3",
        "NaN",
        "Infinity",
        "0x10",
        "\u0661",
        "9" * 39,
        "0." + "9" * 38,
        "-" + "9" * 39,
        "9" * 10_000,
    ],
)
def test_decimals_in_another_form(text: str) -> None:
    with pytest.raises(MalformedError):
        decimal_value(text)
    with pytest.raises(MalformedError):
        check_value({"$dec": text})


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("1E+2", "100"),
        ("1.50E+1", "15.0"),
        ("-0", "0"),
        ("-0.00", "0.00"),
        ("0E-3", "0.000"),
        ("1E-7", "0.0000001"),
        ("1E+37", "1" + "0" * 37),
    ],
)
def test_decimals_from_python_are_written_out(number: str, text: str) -> None:
    assert from_python(Decimal(number)) == {"$dec": text}


@pytest.mark.parametrize(
    "number", ["NaN", "sNaN", "Infinity", "-Infinity", "1E+38", "1E+999999", "1E-38", "1E-999999", "0E+50", "0E-999999"]
)
def test_decimals_that_cannot_be_stored(number: str) -> None:
    with pytest.raises(MalformedError):
        from_python(Decimal(number))


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (date(1, 1, 1), {"$date": "0001-01-01"}),
        (date(2024, 2, 29), {"$date": "2024-02-29"}),
        (datetime(1970, 1, 1, tzinfo=UTC), {"$ts": 0}),
        (datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), {"$ts": -1}),
        (datetime(1970, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), {"$ts": 0}),
        (datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), {"$ts": MAX_TIMESTAMP}),
        (datetime(1, 1, 1, tzinfo=UTC), {"$ts": MIN_TIMESTAMP}),
        (REFERENCE, {"$ref": [FEED, 7, LEAF]}),
        (SEALED, {"$sealed": [KID, COMMITMENT, CIPHERTEXT]}),
        ((1, 2), [1, 2]),
    ],
)
def test_typed_forms(value: object, stored: object) -> None:
    assert from_python(value) == stored


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-02-29",
        "2026-13-01",
        "2026-00-10",
        "0000-01-01",
        "2026-1-1",
        "20260101",
        "2026-W01-1",
        "02026-01-01",
        "2026-01-01\n",
        "2026-01-01T00:00",
        "\u0662026-01-01",
    ],
)
def test_days_that_do_not_exist_or_are_written_otherwise(text: str) -> None:
    with pytest.raises(MalformedError):
        check_value({"$date": text})


@pytest.mark.parametrize("micros", [MIN_TIMESTAMP - 1, MAX_TIMESTAMP + 1, 2**63 - 1, -(2**63)])
def test_timestamps_out_of_bounds(micros: int) -> None:
    with pytest.raises(MalformedError):
        check_value({"$ts": micros})
    with pytest.raises(MalformedError):
        timestamp_value(micros)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        1.5,
        float("nan"),
        [0.0],
        {"a": 1.0},
        2**63,
        -(2**63) - 1,
        "\ud800",
        {"\ud800": 1},
        {1: 2},
        {"$": 1},
        {"$other": 1},
        {"$dec": 1},
        {"$dec": None},
        {"$dec": "1", "more": 1},
        {"$dec": "1", "$ts": 1},
        {"a": {"$dec": "x"}},
        {"a": 1, "$b": 2},
        {"$ts": "0"},
        {"$ts": True},
        {"$ts": 1.5},
        {"$date": 20260101},
        {"$date": None},
        {"$ref": None},
        {"$ref": []},
        {"$ref": [FEED, 7]},
        {"$ref": [FEED, 7, LEAF, 1]},
        {"$ref": [FEED, -1, LEAF]},
        {"$ref": [FEED, True, LEAF]},
        {"$ref": [FEED, 2**52, LEAF]},
        {"$ref": [FEED[1:], 7, LEAF]},
        {"$ref": [FEED, 7, LEAF + b"\0"]},
        {"$ref": [7, FEED, LEAF]},
        {"$sealed": None},
        {"$sealed": []},
        {"$sealed": [KID, COMMITMENT]},
        {"$sealed": [KID, COMMITMENT, CIPHERTEXT, None]},
        {"$sealed": [KID, CIPHERTEXT, COMMITMENT]},
        {"$sealed": [KID.hex(), COMMITMENT, CIPHERTEXT]},
        {"$sealed": [KID, COMMITMENT, None]},
        {"$sealed": [KID[1:], COMMITMENT, CIPHERTEXT]},
        {"$sealed": [KID + b"\0", COMMITMENT, CIPHERTEXT]},
        {"$sealed": [KID, COMMITMENT[1:], CIPHERTEXT]},
        {"$sealed": [KID, COMMITMENT, CIPHERTEXT[1:]]},
        {"$sealed": [KID, COMMITMENT, bytes(MAX_SEALED_BYTES + 1)]},
        {"$sealed": {"kid": KID, "com": COMMITMENT, "ct": CIPHERTEXT}},
        object(),
        {1, 2},
        bytearray(b"x"),
    ],
)
def test_what_is_no_stored_value(value: Any) -> None:
    with pytest.raises(MalformedError):
        check_value(value)


@pytest.mark.parametrize(
    "value",
    [
        1.5,
        datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None),
        {"$dec": "1"},
        {"$": 1},
        {1: 2},
        2**63,
        "\ud800",
        object(),
        {1, 2},
        timedelta(1),
        1j,
    ],
)
def test_what_python_values_cannot_be_stored(value: object) -> None:
    with pytest.raises(MalformedError):
        from_python(value)


def test_depth_is_bounded() -> None:
    check_value(nested(MAX_DEPTH))
    from_python(nested(MAX_DEPTH))
    for too_deep in (nested(MAX_DEPTH + 1), nested(100_000)):
        with pytest.raises(LimitExceeded):
            check_value(too_deep)
        with pytest.raises(LimitExceeded):
            from_python(too_deep)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (True, True),
        ("text", "text"),
        (b"\x00\xff", "00ff"),
        ({"$dec": "-12.30"}, "-12.30"),
        ({"$dec": "0.00000012"}, "0.00000012"),
        ({"$ts": 0}, "1970-01-01T00:00:00.000000Z"),
        ({"$date": "2026-11-22"}, "2026-11-22"),
        ({"$ref": [FEED, 7, LEAF]}, f"{to_zbase32(FEED)}/7/{LEAF.hex()}"),
        (
            {"$sealed": [KID, COMMITMENT, CIPHERTEXT]},
            {"$sealed": {"kid": KID.hex(), "com": COMMITMENT.hex(), "ct": to_base64(CIPHERTEXT)}},
        ),
        ({"$sealed": [KID]}, {"$sealed": [KID.hex()]}),
        ({"a": [{"$dec": "1"}, b"\x01"]}, {"a": ["1", "01"]}),
        ({"$dec": "x"}, {"$dec": "x"}),
        ({"$ref": [b"\x01"]}, {"$ref": ["01"]}),
        ({"$dec": "1", "b": b"\x01"}, {"$dec": "1", "b": "01"}),
    ],
)
def test_display(value: Any, plain: object) -> None:
    assert to_plain(value) == plain


def test_constructors() -> None:
    assert date_value(date(2026, 11, 22)) == {"$date": "2026-11-22"}
    assert timestamp_value(5) == {"$ts": 5}
    assert reference_value(REFERENCE) == {"$ref": [FEED, 7, LEAF]}
    assert sealed_value(SEALED) == {"$sealed": [KID, COMMITMENT, CIPHERTEXT]}
    assert parse_reference(REFERENCE.members()) == REFERENCE
    wrong: list[Value] = [None, [FEED, 7], {"feed": FEED}]
    for value in wrong:
        with pytest.raises(MalformedError):
            parse_reference(value)
    for arguments in ((FEED[1:], 7, LEAF), (FEED, 7, LEAF[1:]), (FEED, -1, LEAF), (FEED, 2**52, LEAF)):
        with pytest.raises(MalformedError):
            Reference(*arguments)


def test_a_sealed_value_has_a_largest_size() -> None:
    Sealed(KID, COMMITMENT, bytes(MAX_SEALED_BYTES))
    with pytest.raises(LimitExceeded):
        Sealed(KID, COMMITMENT, bytes(MAX_SEALED_BYTES + 1))

"""JSON for documents: typed forms, plain JSON that a schema types, and everything that is refused."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.encoding import MAX_INT, MIN_INT
from identity.errors import LimitExceeded, MalformedError
from identity.jsontext import parse_json
from identity.textforms import to_zbase32
from ledger.values import Reference, Sealed, from_python, to_plain, to_python
from sync.jsonform import MAX_DOCUMENT_BYTES, parse_path, read_amount, read_fields, read_json, read_text, to_json
from sync.schema import Property, parse_schema

SCHEMA = parse_schema(
    {
        "type": "object",
        "properties": {
            "owner": {"type": "text"},
            "balance": {"type": "decimal"},
            "opened": {"type": "date"},
            "seen": {"type": ["timestamp", "null"]},
            "key": {"type": "bytes"},
            "count": {"type": "integer"},
            "either": {"type": ["integer", "decimal"]},
            "active": {"type": "boolean"},
            "free": {},
            "bank": {"type": "reference", "collection": "banks"},
            "entry": {"type": "reference"},
            "rates": {"type": "array", "cell": "set", "items": {"type": "decimal"}},
            "address": {"type": "object", "cell": "map", "properties": {"since": {"type": "date"}}},
            "limit": {"type": "object", "properties": {"amount": {"type": "decimal"}}},
        },
    }
)


def read(text: str, schema: Any = SCHEMA) -> dict[str, object]:
    return read_fields(text.encode(), schema)


def rule(name: str) -> Property:
    found = SCHEMA.property_at((name,))
    assert found is not None
    return found


scalars = (
    st.none()
    | st.booleans()
    | st.integers(MIN_INT, MAX_INT)
    | st.text(max_size=8).filter(lambda text: text.isascii())
    | st.binary(max_size=8)
    | st.decimals(min_value=-(10**9), max_value=10**9, places=2)
    | st.dates()
    | st.datetimes(timezones=st.just(UTC))
    | st.builds(Reference, st.binary(min_size=32, max_size=32), st.integers(0, 99), st.binary(min_size=32, max_size=32))
)
names = st.from_regex(r"[a-z]{1,5}", fullmatch=True)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))


@given(values)
def test_what_is_shown_is_read_again(value: object) -> None:
    stored = from_python(value)
    text = json.dumps({"field": to_json(stored)}).encode()
    assert from_python(read_fields(text)["field"]) == stored


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": {"$dec": "12.30"}}', Decimal("12.30")),
        ('{"a": {"$date": "2026-11-22"}}', date(2026, 11, 22)),
        ('{"a": {"$ts": 1000000}}', datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)),
        ('{"a": {"$ts": "1970-01-01T01:00:01+01:00"}}', datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)),
        ('{"a": {"$hex": "00ff"}}', b"\x00\xff"),
        ('{"a": [1, {"b": {"$hex": ""}}]}', [1, {"b": b""}]),
        ('{"a": null}', None),
        ('{"a": "2026-11-22"}', "2026-11-22"),
    ],
)
def test_typed_forms_without_a_schema(text: str, value: object) -> None:
    assert read(text, None) == {"a": value}


@pytest.mark.parametrize(
    ("field", "written", "value"),
    [
        ("balance", '"12.30"', Decimal("12.30")),
        ("balance", "12.30", Decimal("12.30")),
        ("balance", "12", Decimal(12)),
        ("balance", '{"$dec": "12.30"}', Decimal("12.30")),
        ("either", "12", 12),
        ("either", "12.5", Decimal("12.5")),
        ("opened", '"2026-11-22"', date(2026, 11, 22)),
        ("seen", '"2026-11-22T10:00:00Z"', datetime(2026, 11, 22, 10, tzinfo=UTC)),
        ("seen", '"2026-11-22T10:00:00.5+02:00"', datetime(2026, 11, 22, 8, 0, 0, 500_000, tzinfo=UTC)),
        ("seen", '""', None),
        ("seen", "null", None),
        ("key", '"00ff"', b"\x00\xff"),
        ("count", '"5"', 5),
        ("count", "5", 5),
        ("active", '"true"', True),
        ("active", "false", False),
        ("owner", '"2026-11-22"', "2026-11-22"),
        ("free", '"2026-11-22"', "2026-11-22"),
        ("bank", '"banks/7"', "banks/7"),
        ("rates", '["0.5", 1.5]', [Decimal("0.5"), Decimal("1.5")]),
        (
            "address",
            '{"since": "1993-01-05", "other": "1993-01-05"}',
            {"since": date(1993, 1, 5), "other": "1993-01-05"},
        ),
        ("limit", '{"amount": 10.00}', {"amount": Decimal("10.00")}),
        ("unknown", "7", 7),
    ],
)
def test_a_schema_types_plain_json(field: str, written: str, value: object) -> None:
    (found,) = read(f'{{"{field}": {written}}}').values()
    assert found == value
    assert type(found) is type(value)


def test_an_entry_is_written_as_it_is_shown() -> None:
    reference = Reference(b"f" * 32, 7, b"h" * 32)
    text = to_plain(from_python(reference))
    assert text == f"{to_zbase32(b'f' * 32)}/7/{(b'h' * 32).hex()}"
    assert read(json.dumps({"entry": text})) == {"entry": reference}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "not a JSON object"),
        ("{", "not JSON"),
        ('{"a": 1, "a": 2}', "stands twice"),
        ('{"free": 12.3}', "/free: a number with a fraction"),
        ('{"unknown": {"deep": [12.3]}}', "/unknown/deep/0: a number with a fraction"),
        ('{"count": 12.3}', "/count: a number with a fraction"),
        ('{"balance": "12,30"}', "/balance: not a decimal such as -12.30"),
        ('{"balance": "1e3"}', "/balance: not a decimal"),
        ('{"balance": ""}', "/balance: not a decimal"),
        ('{"opened": "22.11.2026"}', "/opened: not a day, written YYYY-MM-DD"),
        ('{"opened": "20261122"}', "/opened: not a day"),
        ('{"opened": "2026-02-30"}', "/opened: not a day"),
        ('{"seen": "2026-11-22T10:00:00"}', "/seen: not a point in time"),
        ('{"seen": "2026-11-22T25:00:00Z"}', "/seen: not a point in time"),
        ('{"key": "0F"}', "/key: not bytes in hex"),
        ('{"key": "0 f"}', "/key: not bytes in hex"),
        ('{"count": "05"}', "/count: not a whole number"),
        ('{"count": "\u0665"}', "/count: not a whole number"),
        ('{"active": "yes"}', "/active: not true or false"),
        ('{"entry": "a/b"}', "/entry: not an entry"),
        ('{"$dec": "1"}', "names with '\\$' are reserved"),
        ('{"a": {"$dec": "1", "b": 2}}', "/a: a typed form has one key"),
        ('{"a": {"$dec": 1}}', "/a: '\\$dec' is not a typed form"),
        ('{"a": {"$dec": "1e5"}}', "/a: not a canonical decimal"),
        ('{"a": {"$hex": "0F"}}', "/a: not hex in lower case"),
        ('{"a": {"$hex": "xy"}}', "/a: "),
        ('{"a": {"$new": "x"}}', "/a: '\\$new' is not a typed form"),
        ('{"a": {"$ts": true}}', "/a: '\\$ts' is not a typed form"),
        ('{"a": {"$ref": ["00", 1, "00"]}}', "/a: reference"),
        ('{"a": {"$sealed": ["00", "00", "00"]}}', "/a: a sealed value can't be written"),
        ('{"address": {"since": "soon"}}', "/address/since: not a day"),
        ('{"rates": ["1", "two"]}', "/rates/1: not a decimal"),
    ],
)
def test_refused(text: str, says: str) -> None:
    with pytest.raises(MalformedError, match=says):
        read(text)


def test_the_hint_says_how_a_decimal_is_written() -> None:
    with pytest.raises(MalformedError) as found:
        read('{"amount": 12.30}', None)
    assert '{"$dec": "12.30"}' in found.value.hint


def test_a_document_has_a_size() -> None:
    with pytest.raises(LimitExceeded):
        read_fields(b" " * (MAX_DOCUMENT_BYTES + 1))


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    for name in ("owner", "balance", "opened", "seen", "key", "count", "active", "entry", "bank", "rates"):
        try:
            found = read_text(text, rule(name), "/x")
        except MalformedError:
            continue
        try:
            assert to_python(from_python(found)) == found
        except MalformedError:
            assert any("\ud800" <= one <= "\udfff" for one in text) or len(text) > 18


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("5", "", 5),
        ("-5", "", -5),
        ("12.30", "", Decimal("12.30")),
        ("5", "balance", Decimal(5)),
        ("5", "either", 5),
        ("5", "count", 5),
    ],
)
def test_amounts(text: str, name: str, value: object) -> None:
    found = read_amount(text, rule(name) if name else None, "/x")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["", "x", "1,5", "1e5", "--5", "+5", "05", " 5", "NaN", "\u0665"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(MalformedError, match="/x: not a decimal"):
        read_amount(text, None, "/x")


def test_a_sealed_value_is_shown_as_it_stands() -> None:
    stored = from_python(Sealed(b"k" * 16, b"c" * 32, b"t" * 80))
    assert to_json(stored) == {"$sealed": [(b"k" * 16).hex(), (b"c" * 32).hex(), (b"t" * 80).hex()]}
    shown = json.dumps(to_json(stored)).encode()
    with pytest.raises(MalformedError):
        read_json(parse_json(shown, what="x", max_bytes=9999), None, "/x")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("balance", ("balance",)),
        ("a~b", ("a~b",)),
        ("/address/street", ("address", "street")),
        ("/a~1b~0c", ("a/b~c",)),
    ],
)
def test_fields_are_named(text: str, path: tuple[str, ...]) -> None:
    assert parse_path(text) == path


@pytest.mark.parametrize("text", ["", "/", "/a/", "//a", "$x", "/a/$x", "/a~2"])
def test_what_names_no_field(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_path(text)

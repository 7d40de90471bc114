from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path as FilePath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.encoding import MAX_INT, Value
from identity.errors import LimitExceeded, MalformedError
from ledger.values import MIN_SEALED_BYTES, Sealed, check_value, sealed_value
from sync.cells import CellKind
from sync.schema import (
    MAX_PROPERTIES,
    MAX_SCHEMA_BYTES,
    MAX_SCHEMA_DEPTH,
    FieldType,
    Property,
    Schema,
    check_document,
    check_op,
    document_reference,
    parse_schema,
    schema_from_json,
    schema_value,
)
from sync.transaction import MAX_KEY, DocumentId, Op, Path, Verb

SPEC = (FilePath(__file__).resolve().parents[3] / "docs" / "spec" / "schema.md").read_text("utf-8")
DOCUMENT = DocumentId("accounts", "42")
ENTRY: Value = {"$ref": [b"\x01" * 32, 0, b"\x02" * 32]}
SEALED = sealed_value(Sealed(bytes(16), bytes(32), bytes(MIN_SEALED_BYTES)))

ACCOUNT: dict[str, Any] = {
    "type": "object",
    "title": "Account",
    "properties": {
        "owner": {"type": "text", "sealed": True, "minLength": 1, "description": "the holder's name"},
        "iban": {"type": "text", "pattern": "^[A-Z]{2}[0-9]{2}[A-Z0-9]{1,30}$", "indexed": True},
        "balance": {"type": ["integer", "decimal"], "cell": "ctr", "indexed": True},
        "status": {"type": "text", "enum": ["open", "closed"], "cell": "lww", "indexed": True},
        "limit": {"type": ["null", "decimal"], "minimum": {"$dec": "0.00"}, "exclusiveMaximum": 1000},
        "opened": {"type": "date", "minimum": {"$date": "1993-01-01"}},
        "seen": {"type": "timestamp", "maximum": {"$ts": 1000}},
        "bank": {"type": "reference", "collection": "banks", "indexed": True},
        "proof": {"type": "reference"},
        "photo": {"type": ["null", "bytes"], "maxLength": 3},
        "tags": {"type": "array", "cell": "set", "items": {"type": "text", "maxLength": 5}},
        "lines": {"type": "array", "items": {"type": "text"}, "minItems": 1, "maxItems": 2},
        "address": {
            "type": "object",
            "cell": "map",
            "properties": {
                "city": {"type": "text"},
                "visits": {"type": "integer", "cell": "ctr"},
                "door": {"type": "text", "sealed": True},
                "inner": {"type": "object", "cell": "map", "properties": {"x": {"type": "integer", "cell": "lww"}}},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
        "geo": {
            "type": "object",
            "properties": {"lat": {"type": "decimal"}, "lon": {"type": "decimal"}},
            "required": ["lat", "lon"],
            "additionalProperties": False,
        },
        "free": {},
    },
    "required": ["status", "owner"],
    "additionalProperties": False,
}


def one(property_: Any) -> Schema:
    """A schema of one field, ``x``."""
    return parse_schema({"type": "object", "properties": {"x": property_}})


def put(value: Any, path: Path = ("x",), verb: Verb = Verb.SET) -> Op:
    return Op(verb, DOCUMENT, path, value)


def fits(property_: Any, value: Any) -> bool:
    return check_op(one(property_), put(value)) is None


# --- reading and writing


def test_the_account_is_read() -> None:
    schema = parse_schema(ACCOUNT)
    assert schema.title == "Account"
    assert schema.indexed == ("balance", "bank", "iban", "status")
    assert schema.shape.required == ("owner", "status")
    assert schema.shape.properties["limit"].types == (FieldType.NULL, FieldType.DECIMAL)


def test_the_canonical_form_says_the_same() -> None:
    schema = parse_schema(ACCOUNT)
    value = schema_value(schema)
    check_value(value)
    assert parse_schema(value) == schema
    assert schema_value(parse_schema(value)) == value


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ({"type": "string"}, {"type": "text"}),
        ({"type": "number"}, {"type": "decimal"}),
        ({"type": ["text"]}, {"type": "text"}),
        ({"type": ["text", "null"]}, {"type": ["null", "text"]}),
        ({"type": "any"}, {}),
        ({"const": 1}, {"enum": [1]}),
        ({"const": None}, {"enum": [None]}),
        ({"cell": "reg", "indexed": False, "sealed": False, "description": ""}, {}),
        ({"minLength": 0, "minItems": 0, "maxLength": 0}, {"maxLength": 0}),
        ({"minimum": 0}, {"minimum": 0}),
        ({"minimum": {"$dec": "1.50"}}, {"minimum": {"$dec": "1.50"}}),
        ({"type": "object", "properties": {}, "required": [], "additionalProperties": True}, {"type": "object"}),
        ({"type": "object", "additionalProperties": False}, {"type": "object", "additionalProperties": False}),
        ({"items": {}}, {"items": {}}),
    ],
)
def test_canonical_forms(written: Any, canonical: Any) -> None:
    schema = one(written)
    assert schema_value(schema) == {"type": "object", "properties": {"x": canonical}}
    assert parse_schema(schema_value(schema)) == schema


scalar_values: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(-9, 9), st.text("ab", max_size=2), st.just({"$dec": "1.50"}), st.just(ENTRY)
)
properties = st.recursive(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from([*FieldType]) | st.lists(st.sampled_from([*FieldType]), min_size=1, unique=True),
            "enum": st.lists(scalar_values, min_size=1, max_size=3),
            "minimum": st.integers(-9, 9) | st.just({"$date": "2026-01-01"}),
            "minLength": st.integers(0, 3),
            "maxLength": st.integers(0, 3),
            "pattern": st.sampled_from(["^a", "b$", "("]),
            "cell": st.sampled_from(["reg", "lww", "ctr", "set", "map"]),
            "indexed": st.booleans(),
            "sealed": st.booleans(),
            "collection": st.just("c"),
        },
    ).map(lambda found: {key: value.value if isinstance(value, FieldType) else value for key, value in found.items()}),
    lambda inner: st.one_of(
        st.builds(lambda items: {"type": "array", "items": items}, inner),
        st.builds(lambda items: {"type": "array", "cell": "set", "items": items}, inner),
        st.builds(lambda cell, found: {"type": "object", "properties": found} | cell,
                  st.sampled_from([{}, {"cell": "map"}]), st.dictionaries(st.sampled_from("xyz"), inner, max_size=2)),
    ),
    max_leaves=3,
)  # fmt: skip
json_values = st.recursive(
    scalar_values | st.binary(max_size=2) | st.floats() | st.just(SEALED) | st.just({"$date": "x"}),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("xyz$", max_size=2), inner, max_size=3),
    max_leaves=6,
)
paths = st.lists(st.sampled_from("xyz"), max_size=3).map(tuple)


@given(properties, st.sampled_from([*Verb]), paths, json_values, st.booleans())
def test_reading_and_judging_are_total(written: Any, verb: Verb, path: Path, value: Any, opened: bool) -> None:
    try:
        schema = one(written)
    except MalformedError:
        return
    assert parse_schema(schema_value(schema)) == schema
    assert isinstance(check_op(schema, put(value, path, verb), opened=opened), str | None)
    assert all(isinstance(reason, str) for reason in check_document(schema, {"x": value, "z": value}))


@given(json_values)
def test_any_value_is_a_schema_or_malformed(value: Any) -> None:
    attempts: list[Any] = [
        value,
        {"type": "object", "properties": value},
        {"type": "object", "properties": {"x": value}},
    ]
    for written in attempts:
        try:
            parse_schema(written)
        except MalformedError:
            continue


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "array"}, "'type'"),
        ({"type": ["object"]}, "'type'"),
        ({"type": None}, "'type'"),
        ({"$schema": "https://json-schema.org/draft/2020-12/schema"}, "unknown key '\\$schema'"),
        ({"patternProperties": {}}, "unknown key 'patternProperties'"),
        ({"cell": "map"}, "unknown key 'cell'"),
        ({"title": 1}, "'title'"),
        ({"description": "x" * 5000}, "'description'"),
        ({"properties": []}, "'properties'"),
        ({"properties": {"": {}}}, "empty"),
        ({"properties": {"$x": {}}}, "reserved"),
        ({"properties": {"a\nb": {}}}, "not allowed"),
        ({"properties": {"x" * 201: {}}}, "201"),
        ({"required": ["nothing"]}, "'required'"),
        ({"required": ["x", "x"]}, "'required'"),
        ({"required": [1]}, "'required'"),
        ({"required": "x"}, "'required'"),
        ({"additionalProperties": {}}, "'additionalProperties'"),
    ],
)
def test_schemas_that_are_none(change: Any, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        parse_schema({"type": "object", "properties": {"x": {}}, **change})


@pytest.mark.parametrize("value", [None, 1, "object", [], {}, b"", 1.5, {"properties": {}}])
def test_values_that_are_no_schema(value: Any) -> None:
    with pytest.raises(MalformedError):
        parse_schema(value)


@pytest.mark.parametrize(
    "written",
    [
        None,
        True,
        [],
        "text",
        {"type": "float"},
        {"type": "Text"},
        {"type": []},
        {"type": ["text", "string"]},
        {"type": ["text", "any"]},
        {"type": [["text"]]},
        {"type": {"text": 1}},
        {"type": 1},
        {"format": "date"},
        {"minimun": 1},
        {"multipleOf": 2},
        {"oneOf": []},
        {"$ref": "#/properties/y"},
        {"default": 1},
        {"cell": "list"},
        {"cell": None},
        {"cell": "flag"},
        {"type": "text", "cell": "ctr"},
        {"cell": "ctr"},
        {"type": ["null", "integer"], "cell": "ctr"},
        {"type": "integer", "cell": "ctr", "minimum": 0},
        {"type": "integer", "cell": "ctr", "enum": [1]},
        {"type": "integer", "cell": "ctr", "const": 1},
        {"type": "integer", "cell": "ctr", "sealed": True},
        {"type": "text", "cell": "set"},
        {"cell": "set"},
        {"type": ["array", "null"], "cell": "set"},
        {"type": "array", "cell": "set", "minItems": 1},
        {"type": "array", "cell": "set", "indexed": True},
        {"type": "array", "cell": "set", "sealed": True},
        {"type": "array", "cell": "set", "items": {"cell": "reg"}},
        {"cell": "map"},
        {"type": ["object", "null"], "cell": "map"},
        {"type": "object", "cell": "map", "sealed": True},
        {"type": "object", "cell": "map", "indexed": True},
        {"type": "object", "cell": "map", "properties": {"y": {"indexed": True, "type": "text"}}},
        {"type": "object", "properties": {"y": {"cell": "lww"}}},
        {"type": "object", "properties": {"y": {"sealed": True}}},
        {"type": "object", "properties": {"y": {"indexed": False}}},
        {"type": "array", "items": {"sealed": False}},
        {"type": "array", "items": [{}]},
        {"type": "array", "indexed": True},
        {"type": ["array", "text"], "indexed": True},
        {"indexed": True},
        {"type": "text", "indexed": True, "sealed": True},
        {"type": "text", "indexed": 1},
        {"type": "text", "minimum": 1},
        {"type": "integer", "minLength": 1},
        {"type": "bytes", "pattern": "a"},
        {"type": "text", "items": {}},
        {"type": "text", "properties": {}},
        {"type": "text", "required": []},
        {"type": "text", "collection": "banks"},
        {"type": ["reference", "text"], "collection": "banks"},
        {"collection": "banks"},
        {"type": "reference", "collection": ""},
        {"type": "reference", "collection": "$schema"},
        {"type": "reference", "collection": "banks", "enum": ["1"]},
        {"type": "integer", "minimum": "1"},
        {"type": "integer", "minimum": True},
        {"type": "integer", "minimum": None},
        {"type": "integer", "minimum": {"$date": "2026-01-01"}},
        {"type": "date", "minimum": 1},
        {"type": "date", "minimum": {"$ts": 1}},
        {"type": "date", "minimum": "2026-01-01"},
        {"type": "date", "minimum": {"$date": "2026-02-30"}},
        {"type": "decimal", "minimum": {"$dec": "01"}},
        {"type": "decimal", "maximum": 1.5},
        {"minimum": ENTRY},
        {"minLength": -1},
        {"minLength": 1.0},
        {"minLength": True},
        {"minLength": None},
        {"minLength": 2, "maxLength": 1},
        {"minItems": 2, "maxItems": 1},
        {"pattern": "("},
        {"pattern": 1},
        {"pattern": "a{1001}"},
        {"enum": []},
        {"enum": 1},
        {"enum": [[]]},
        {"enum": [{}]},
        {"enum": [SEALED]},
        {"enum": [{"$what": 1}]},
        {"enum": [1, 1]},
        {"enum": [1, {"$dec": "1.0"}]},
        {"enum": [*range(257)]},
        {"enum": [1], "const": 1},
        {"type": "text", "enum": [1]},
        {"type": "integer", "enum": [True]},
        {"const": []},
        {"properties": {"y": None}},
        {"description": None},
    ],
)  # fmt: skip
def test_properties_that_are_none(written: Any) -> None:
    with pytest.raises(MalformedError):
        one(written)


def test_faults_are_named_with_their_place() -> None:
    with pytest.raises(MalformedError, match=r"^schema at /x/a~1b/\[\]: unknown key 'minimun'$"):
        one({"properties": {"a/b": {"items": {"minimun": 1}}}})
    with pytest.raises(MalformedError, match=r"^schema at /x: pattern at character 3: "):
        one({"pattern": "a**"})


def nested(levels: int, inner: Any) -> Any:
    for _ in range(levels):
        inner = {"items": inner}
    return inner


def test_limits() -> None:
    many: dict[str, Value] = {f"f{place}": {} for place in range(MAX_PROPERTIES)}
    assert len(parse_schema({"type": "object", "properties": many}).shape.properties) == MAX_PROPERTIES
    with pytest.raises(LimitExceeded):
        parse_schema({"type": "object", "properties": {**many, "more": {}}})
    with pytest.raises(LimitExceeded):
        parse_schema({"type": "object", "properties": {**dict([*many.items()][1:]), "f1": {"items": {"items": {}}}}})
    one(nested(MAX_SCHEMA_DEPTH - 1, {}))
    for levels in (MAX_SCHEMA_DEPTH, 40, 10_000):
        with pytest.raises(LimitExceeded):
            one(nested(levels, {}))
    with pytest.raises(LimitExceeded):
        parse_schema(
            {"type": "object", "properties": {"x" * 190 + str(n): {"description": "y" * 4000} for n in range(17)}}
        )
    with pytest.raises(LimitExceeded):
        parse_schema({"type": "object", "properties": {f"f{n}": {"pattern": "a{1000}"} for n in range(5)}})


def test_schemas_from_json() -> None:
    assert schema_from_json(json.dumps(ACCOUNT).encode()) == parse_schema(ACCOUNT)
    with pytest.raises(MalformedError) as caught:
        schema_from_json(b'{"type": "object", "properties": {"x": {"minimum": 0.5}}}')
    assert "$dec" in caught.value.hint
    for text in (b"", b"[]", b'{"type": "object", "type": "object"}', b"\xff", b'{"type": "object", "title": NaN}'):
        with pytest.raises(MalformedError):
            schema_from_json(text)
    with pytest.raises(LimitExceeded):
        schema_from_json(b" " * MAX_SCHEMA_BYTES + b'{"type": "object"}')


# --- what is declared


@pytest.mark.parametrize(
    ("path", "kind", "sealed"),
    [
        (("owner",), CellKind.REG, True),
        (("balance",), CellKind.CTR, False),
        (("status",), CellKind.LWW, False),
        (("tags",), CellKind.SET, False),
        (("address",), None, False),
        (("address", "city"), CellKind.REG, False),
        (("address", "visits"), CellKind.CTR, False),
        (("address", "door"), CellKind.REG, True),
        (("address", "inner", "x"), CellKind.LWW, False),
        (("address", "nothing"), None, False),
        (("geo", "lat"), None, False),
        (("geo",), CellKind.REG, False),
        (("nothing",), None, False),
        ((), None, False),
    ],
)
def test_what_is_declared(path: Path, kind: CellKind | None, sealed: bool) -> None:
    schema = parse_schema(ACCOUNT)
    assert schema.cell_kind(path) is kind
    assert schema.sealed(path) is sealed


@pytest.mark.parametrize(
    ("property_", "seals"),
    [
        ({"type": "text"}, False),
        ({"type": "text", "sealed": True}, True),
        ({"type": "object", "cell": "map", "properties": {"y": {"type": "text"}}}, False),
        ({"type": "object", "cell": "map", "properties": {"y": {"sealed": True}}}, True),
        ({"type": "object", "cell": "map"}, False),
    ],
)
def test_whether_anything_is_sealed(property_: Any, seals: bool) -> None:
    assert parse_schema({"type": "object", "properties": {"x": property_}}).seals is seals


def test_a_property_by_its_path() -> None:
    found = parse_schema(ACCOUNT).property_at(("address", "visits"))
    assert found == Property(types=(FieldType.INTEGER,), cell=CellKind.CTR)


# --- operations


@pytest.mark.parametrize(
    "op",
    [
        put(SEALED, ("owner",)),
        put("CZ6508000000192000145399", ("iban",)),
        put(5, ("balance",), Verb.INC),
        put({"$dec": "-0.05"}, ("balance",), Verb.INC),
        put("open", ("status",), Verb.LWW),
        put(None, ("limit",)),
        put({"$dec": "999.99"}, ("limit",)),
        put({"$dec": "0"}, ("limit",)),
        put({"$date": "1993-01-01"}, ("opened",)),
        put({"$ts": 1000}, ("seen",)),
        put("7", ("bank",)),
        put("banks/7", ("bank",)),
        put(ENTRY, ("proof",)),
        put(b"123", ("photo",)),
        put("vip", ("tags",), Verb.ADD),
        put("no longer allowed", ("tags",), Verb.REM),
        put("gone", ("gone",), Verb.REM),
        put(["a", "b"], ("lines",)),
        put("Praha", ("address", "city")),
        put(1, ("address", "visits"), Verb.INC),
        put(1, ("address", "inner", "x"), Verb.LWW),
        put("anything", ("address", "inner", "y"), Verb.ADD),
        put("anything", ("address", "inner", "y", "z"), Verb.ADD),
        put({"lat": {"$dec": "50.1"}, "lon": {"$dec": "14.4"}}, ("geo",)),
        put([{"deep": [SEALED]}], ("free",)),
        put(SEALED, ("free",)),
        put(None, (), Verb.DEL),
        put(None, ("gone", "x"), Verb.DEL),
        put(None, ("geo", "lat"), Verb.DEL),
        put(True, (), Verb.HIDE),
    ],
)
def test_operations_that_fit(op: Op) -> None:
    assert check_op(parse_schema(ACCOUNT), op) is None


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        (put("Jana", ("owner",)), "/owner: has to be sealed"),
        (put(None, ("owner",)), "/owner: has to be sealed"),
        (put({"$sealed": []}, ("owner",)), "/owner: has to be sealed"),
        (put({10**5000: 1}, ("owner",)), "/owner: has to be sealed"),
        (put("cz65", ("iban",)), "/iban: does not fit its pattern"),
        (put(SEALED, ("iban",)), "/iban: a sealed value where text is asked for"),
        (put("CZ65X", ("iban",), Verb.LWW), "/iban: is a reg, which takes no lww"),
        (put("CZ65X", ("iban",), Verb.ADD), "/iban: is a reg, which takes no add"),
        (put(5, ("balance",)), "/balance: is a ctr, which takes no set"),
        (put(5, ("status",), Verb.INC), "/status: is a lww, which takes no inc"),
        (put("gone", ("status",), Verb.LWW), "/status: is none of the values that are listed"),
        (put(None, ("status",), Verb.LWW), "/status: null where text is asked for"),
        (put({"$dec": "1000.00"}, ("limit",)), "/limit: breaks its exclusiveMaximum"),
        (put({"$dec": "-0.01"}, ("limit",)), "/limit: breaks its minimum"),
        (put(5, ("limit",)), "/limit: integer where null or decimal is asked for"),
        (put({"$dec": "05"}, ("limit",)), "/limit: not a stored value"),
        (put({"$date": "1992-12-31"}, ("opened",)), "/opened: breaks its minimum"),
        (put({"$ts": 5}, ("opened",)), "/opened: timestamp where date is asked for"),
        (put({"$ts": 1001}, ("seen",)), "/seen: breaks its maximum"),
        (put("", ("bank",)), "/bank: is no reference to a document of 'banks'"),
        (put("banks/", ("bank",)), "/bank: is no reference to a document of 'banks'"),
        (put(ENTRY, ("bank",)), "/bank: is no reference to a document of 'banks'"),
        (put(7, ("bank",)), "/bank: integer where reference is asked for"),
        (put("banks/7", ("proof",)), "/proof: text where reference is asked for"),
        (put(b"1234", ("photo",)), "/photo: is longer than its maxLength"),
        (put("123456", ("tags",), Verb.ADD), "/tags: is longer than its maxLength"),
        (put(1, ("tags",), Verb.ADD), "/tags: integer where text is asked for"),
        (put(["vip"], ("tags",)), "/tags: is a set, which takes no set"),
        (put([], ("lines",)), "/lines: has fewer items than its minItems"),
        (put(["a", "b", "c"], ("lines",)), "/lines: has more items than its maxItems"),
        (put(["a", 1], ("lines",)), "/lines/1: integer where text is asked for"),
        (put({"city": "Praha"}, ("address",)), "/address: is a map of cells, and no cell"),
        (put(1, ("address", "city")), "/address/city: integer where text is asked for"),
        (put(1, ("address", "zip")), "/address/zip: no such field"),
        (put(1, ("address", "city", "x")), "/address/city: has no cells beneath it"),
        (put("12", ("address", "door")), "/address/door: has to be sealed"),
        (put({"lat": {"$dec": "1"}}, ("geo",)), "/geo/lon: is required"),
        (put({"lat": 1, "lon": 1}, ("geo",)), "/geo/lat: integer where decimal is asked for"),
        (put({"lat": {"$dec": "1"}, "lon": {"$dec": "1"}, "z": 1}, ("geo",)), "/geo/z: no such field"),
        (put({"$dec": "1"}, ("geo",)), "/geo: decimal where object is asked for"),
        (put(1, ("geo", "lat")), "/geo: has no cells beneath it"),
        (put(1, ("nothing",)), "/nothing: no such field"),
        (put(1, ("nothing", "x"), Verb.ADD), "/nothing: no such field"),
        (put(1, ()), "set: needs a field"),
    ],
)
def test_operations_that_do_not_fit(op: Op, reason: str) -> None:
    assert check_op(parse_schema(ACCOUNT), op) == reason


@pytest.mark.parametrize("verb", [Verb.SET, Verb.LWW, Verb.INC, Verb.ADD])
def test_of_a_field_that_is_not_declared_nothing_is_asked(verb: Verb) -> None:
    assert check_op(one({}), put(5, ("y",), verb)) is None
    assert check_op(one({}), put(5, ("y", "z"), verb)) is None


def test_the_writer_of_a_sealed_field_judges_the_plain_value() -> None:
    schema = one({"type": "text", "sealed": True, "maxLength": 2})
    assert check_op(schema, put("ab"), opened=True) is None
    assert check_op(schema, put(SEALED), opened=True) is None
    assert check_op(schema, put("abc"), opened=True) == "/x: is longer than its maxLength"
    assert check_op(schema, put("ab")) == "/x: has to be sealed"


@pytest.mark.parametrize(
    ("written", "good", "bad"),
    [
        ({"type": "null"}, [None], [False, 0, "", {}, []]),
        ({"type": "boolean"}, [True, False], [None, 0, 1, "true"]),
        ({"type": "integer"}, [0, -5, MAX_INT], [True, 1.0, {"$dec": "1"}, "1", MAX_INT + 1, 10**5000]),
        ({"type": "decimal"}, [{"$dec": "1"}, {"$dec": "-0.10"}], [1, "1", {"$dec": "1e5"}, {"$dec": 1}, Decimal(1)]),
        ({"type": "text"}, ["", "é", "😀"], [b"", None, "\ud800", ["a"]]),
        ({"type": "bytes"}, [b"", b"a"], ["", "YQ==", bytearray(b"a")]),
        ({"type": "date"}, [{"$date": "2024-02-29"}], ["2024-02-29", {"$date": "2023-02-29"}, {"$ts": 0}]),
        ({"type": "timestamp"}, [{"$ts": 0}, {"$ts": -1}], [0, {"$date": "2024-02-29"}, {"$ts": 1 << 60}]),
        ({"type": "reference"}, [ENTRY], [{"$ref": []}, "a/b", b"\x01" * 32]),
        ({"type": "array"}, [[], [1, [2]]], [{}, "[]", (1,)]),
        ({"type": "object"}, [{}, {"a": {}}], [[], {"$dec": "1"}, {"$x": 1}, {"a": 1, "$b": 1}, {1: 1}, {10**5000: 1}]),
        ({}, [None, 1, "a", b"", [], {}, SEALED, {"$dec": "1"}], [1.5, {"$sealed": []}, {"$x": 1}, object()]),
        ({"enum": [1, "1", None, True]}, [1, {"$dec": "1.00"}, "1", None, True], [0, False, {"$dec": "1.01"}, SEALED]),
        ({"const": False}, [False], [0, None]),
        ({"enum": [{"$date": "2026-01-01"}, {"$ts": 0}]}, [{"$date": "2026-01-01"}, {"$ts": 0}], [{"$ts": 1}, 0]),
        ({"minimum": 1, "maximum": {"$dec": "2.5"}}, [1, 2, {"$dec": "2.50"}, "0", None], [0, 3, {"$dec": "2.51"}]),
        ({"exclusiveMinimum": 1, "exclusiveMaximum": 3}, [2, {"$dec": "1.01"}], [1, 3, {"$dec": "3.00"}]),
        ({"type": "integer", "minimum": MAX_INT}, [MAX_INT], [MAX_INT - 1]),
        ({"exclusiveMinimum": {"$ts": 5}}, [{"$ts": 6}, 1, {"$date": "1960-01-01"}], [{"$ts": 5}]),
        ({"minLength": 2, "maxLength": 2}, ["ab", "😀😀", b"ab", 1, [1]], ["a", "abc", b"a", b"abc"]),
        ({"pattern": "^a"}, ["ab", b"b", 1], ["ba"]),
        ({"items": {"type": "integer"}}, [[], [1], "a"], [["a"], [1, None]]),
        ({"items": {"items": {"maxLength": 1}}}, [[["a"]], [1]], [[["ab"]], [[], ["ab"]]]),
        ({"properties": {"y": {"type": "integer"}}}, [{}, {"y": 1}, {"z": "a"}, 1], [{"y": "a"}]),
        ({"properties": {"y": {}}, "required": ["y"]}, [{"y": None}, []], [{}, {"z": 1}]),
        ({"additionalProperties": False}, [{}, 1], [{"y": 1}]),
        ({"type": ["null", "reference"], "collection": "c"},
         [None, "k", "c/k", "d/k", "k" * MAX_KEY, "c/" + "k" * MAX_KEY],
         ["", "c/", "k" * (MAX_KEY + 1), "a\n", "a" * 300 + "\x00", ENTRY, {}, 1]),
    ],
)  # fmt: skip
def test_values(written: Any, good: list[Any], bad: list[Any]) -> None:
    assert [value for value in good if not fits(written, value)] == []
    assert [value for value in bad if fits(written, value)] == []


def test_values_as_deep_as_they_like() -> None:
    value: Any = []
    for _ in range(10_000):
        value = [value]
    assert fits({"items": {"items": {"type": "array"}}}, value)
    assert not fits({"enum": [1]}, value)
    assert not fits({"type": "text"}, {"a": value})


def test_reasons_do_not_tell_the_value() -> None:
    for value in ({"$date": "secret"}, {"$dec": "secret"}, {"$secret": 1}, "secret", b"secret", {"secret": 1}):
        reason = check_op(one({"type": "integer"}), put(value))
        assert reason is not None
        assert "secret" not in reason


def test_reasons_are_short() -> None:
    reason = check_op(one({"type": "object", "additionalProperties": False}), put({"x" * 100_000: 1}))
    assert reason is not None
    assert len(reason) < 300


# --- documents


def test_a_document_that_fits() -> None:
    document: dict[str, Any] = {
        "owner": "Jana",
        "status": "open",
        "balance": {"$dec": "12.50"},
        "tags": ["vip"],
        "address": {"city": "Praha", "door": SEALED, "inner": {"x": 1, "y": [1.5]}},
        "geo": {"lat": {"$dec": "1"}, "lon": {"$dec": "1"}},
    }
    assert check_document(parse_schema(ACCOUNT), document) == []
    assert check_document(parse_schema(ACCOUNT), {**document, "owner": SEALED}) == []


def test_everything_that_is_wrong_with_a_document_is_said() -> None:
    document: dict[Any, Any] = {
        "owner": "",
        "tags": ["vip", 1],
        "address": {"door": "", "inner": {"x": "a"}, "zip": 1},
        "geo": {"lat": {"$dec": "1"}},
        "more": 1,
        5: 1,
    }
    assert check_document(parse_schema(ACCOUNT), document) == [
        "/status: is required",
        "/owner: is shorter than its minLength",
        "/tags/1: integer where text is asked for",
        "/address/city: is required",
        "/address/inner/x: text where integer is asked for",
        "/address/zip: no such field",
        "/geo/lon: is required",
        "/more: no such field",
        "the document: has a name that is not text",
    ]


@pytest.mark.parametrize("value", [1, None, [], {"$dec": "1"}, SEALED, {"$x": 1}])
def test_a_map_of_cells_is_a_map(value: Any) -> None:
    schema = one({"type": "object", "cell": "map"})
    assert len(check_document(schema, {"x": value})) == 1
    assert check_document(schema, {"x": {}}) == []


def test_document_references() -> None:
    assert document_reference("banks", "banks/7") == DocumentId("banks", "7")
    assert document_reference("banks", "7") == DocumentId("banks", "7")
    assert document_reference("banks", "a/7") == DocumentId("banks", "a/7")
    assert document_reference("banks", "banks/banks/7") == DocumentId("banks", "banks/7")
    with pytest.raises(MalformedError):
        document_reference("banks", "")
    with pytest.raises(LimitExceeded):
        document_reference("banks", "k" * (MAX_KEY + 1))


# --- the specification


def spec_schema() -> Schema:
    found = re.search(r"```json\n(.*?)```", SPEC, re.DOTALL)
    assert found is not None
    return schema_from_json(found[1].encode())


SPEC_OPERATIONS = re.findall(r"^\| `(\w+) (/\S+)(?: (.*))?` \| (?:fits.*|does not fit: `(.*)`) \|$", SPEC, re.MULTILINE)


@pytest.mark.parametrize(("verb", "pointer", "value", "reason"), SPEC_OPERATIONS)
def test_operations_of_the_specification(verb: str, pointer: str, value: str, reason: str) -> None:
    op = put(json.loads(value or "null"), tuple(pointer[1:].split("/")), Verb(verb))
    assert check_op(spec_schema(), op) == (reason or None)


def test_the_specification_has_operations() -> None:
    assert len(SPEC_OPERATIONS) == 12


def test_the_sum_of_decimals_may_be_whole() -> None:
    """A counter shows an integer when its sum has no fraction, whatever was added."""
    schema = parse_schema({"type": "object", "properties": {"turnover": {"type": "decimal", "cell": "ctr"}}})
    assert check_document(schema, {"turnover": 5}) == []
    assert check_document(schema, {"turnover": {"$dec": "0.5"}}) == []
    assert check_document(schema, {"turnover": True}) == ["/turnover: boolean where decimal is asked for"]
    assert check_document(schema, {"turnover": "5"}) == ["/turnover: text where decimal is asked for"]

"""Canonical CBOR: one byte string a value, from either codec, and an error for everything else."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from identity import encoding
from identity.encoding import MAX_BYTES, MAX_DEPTH, MAX_INT, MAX_ITEMS, MIN_INT, Fields, Value, decode, encode
from identity.errors import LimitExceeded, MalformedError

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "canonical_encoding.json").read_text())["vectors"]
GOOD = [vector for vector in VECTORS if "wantErr" not in vector]
BAD = [vector for vector in VECTORS if "wantErr" in vector]


def from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if isinstance(value, dict):
        if set(value) == {"$bytes"}:
            return bytes.fromhex(value["$bytes"])
        return {key: from_json(item) for key, item in value.items()}
    return value


def described(vectors: list[Any]) -> Any:
    return pytest.mark.parametrize("vector", vectors, ids=[vector["desc"] for vector in vectors])


@described(GOOD)
def test_vectors_decode_and_encode(vector: Any) -> None:
    data, value, floats = bytes.fromhex(vector["hex"]), from_json(vector["value"]), vector.get("floats", False)
    assert decode(data, floats=floats) == value
    assert encode(value, floats=floats) == data
    assert encoding._decode_pure(data, floats) == value
    assert encoding._encode_pure(value, floats) == data


@described(BAD)
def test_vectors_are_refused(vector: Any) -> None:
    data, floats = bytes.fromhex(vector["hex"]), vector.get("floats", False)
    wanted = {"malformed": MalformedError, "limit": LimitExceeded}[vector["wantErr"]]
    for codec in (lambda: decode(data, floats=floats), lambda: encoding._decode_pure(data, floats)):
        with pytest.raises(MalformedError) as error:
            codec()
        assert type(error.value) is wanted


def test_types_survive() -> None:
    value = decode(encode({"a": True, "b": 1, "c": "1", "d": b"1", "e": None}))
    assert isinstance(value, dict)
    assert {key: type(item) for key, item in value.items()} == {
        "a": bool,
        "b": int,
        "c": str,
        "d": bytes,
        "e": type(None),
    }


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [33, 100, 2000, 4095, 5000, 1_000_000])
@pytest.mark.parametrize("head", [b"\x81", b"\xa1\x61a"])
def test_depth_bombs(depth: int, head: bytes) -> None:
    with pytest.raises(LimitExceeded):
        decode((head * depth)[:MAX_BYTES])


@pytest.mark.parametrize("limit", [1000, 100_000])
def test_a_value_that_contains_itself(limit: int) -> None:
    loop: list[object] = []
    loop.append({"again": loop})
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(limit)  # a library in the process may have raised it, and native code then overflows
    try:
        with pytest.raises(LimitExceeded):
            encode(loop)
    finally:
        sys.setrecursionlimit(before)


@pytest.mark.parametrize(("count", "fits"), [(MAX_ITEMS - 1, True), (MAX_ITEMS, False)])
def test_items(count: int, fits: bool) -> None:
    head = b"\x99\xff\xff" if count == 0xFFFF else b"\x9a" + struct.pack(">I", count)
    data = head + b"\x00" * count
    if fits:
        assert encode(decode(data)) == data
        return
    with pytest.raises(LimitExceeded):
        decode(data)
    with pytest.raises(LimitExceeded):
        encode([0] * count)


def test_items_in_many_small_lists() -> None:
    inner = b"\x99\x40\x00" + b"\x00" * 0x4000
    with pytest.raises(LimitExceeded):
        decode(b"\x84" + inner * 4)


def test_items_of_a_list_that_follow_a_nested_one_count_too() -> None:
    with pytest.raises(LimitExceeded):
        decode(b"\x99\xff\x00" + b"\x99\x01\x00" + b"\x00" * 0x100 + b"\x00" * 0xFEFF)
    with pytest.raises(LimitExceeded):
        encode([[0] * 0x100, *[0] * 0xFEFF])


def test_map_keys_count_as_items() -> None:
    members = {f"{number:05}": 0 for number in range(MAX_ITEMS // 2)}
    with pytest.raises(LimitExceeded):
        encode(members)
    members.popitem()
    assert decode(encode(members)) == members


def test_size() -> None:
    exact = b"\x00" * (MAX_BYTES - 5)
    assert decode(encode(exact)) == exact
    for codec in (encode, lambda value: encoding._encode_pure(value, False)):
        with pytest.raises(LimitExceeded):
            codec(exact + b"\x00")
    with pytest.raises(LimitExceeded):
        decode(b"\x5a" + struct.pack(">I", MAX_BYTES) + b"\x00" * MAX_BYTES)


def test_many_strings_beyond_the_size() -> None:
    with pytest.raises(LimitExceeded):
        encode([b"\x00" * 1000] * 2000)
    # The same with a string in it that keeps the fast codec away.
    with pytest.raises(LimitExceeded):
        encode([b"\xd8\x2a" + b"\x00" * 1000] * 2000)


# --- values that have no encoding -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        1.5,
        float("nan"),
        MAX_INT + 1,
        MIN_INT - 1,
        1 << 64,
        1 << 200,
        "\ud800",
        {"\udfff": 1},
        {1: 2},
        {b"a": 1},
        {None: 1},
        (1, 2),
        {1, 2},
        bytearray(b"x"),
        memoryview(b"x"),
        1j,
        object(),
        [[object()]],
        {"a": (1,)},
    ],
    ids=repr,
)
def test_values_without_an_encoding(value: object) -> None:
    for codec in (encode, lambda item: encoding._encode_pure(item, False)):
        with pytest.raises(MalformedError):
            codec(value)
        with pytest.raises(MalformedError):
            codec({"within": [value]})


def test_negative_zero_is_kept() -> None:
    assert str(decode(encode([0.0, -0.0], floats=True), floats=True)) == "[0.0, -0.0]"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_floats_must_be_finite(value: float) -> None:
    with pytest.raises(MalformedError):
        encode([value], floats=True)


# --- the two codecs agree ---------------------------------------------------------------------------------------------

CID_SHAPED = st.one_of(
    st.binary(min_size=32, max_size=32).map(lambda digest: b"\x01\x71\x12\x20" + digest),
    st.binary(min_size=32, max_size=32).map(lambda digest: b"\x12\x20" + digest),
    st.binary(min_size=31, max_size=31).map(lambda digest: b"\x01" + digest),
    st.binary(max_size=40).map(lambda digest: b"\xd8\x2a" + digest),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(MIN_INT, MAX_INT),
    st.binary(max_size=40),
    CID_SHAPED,
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


def values(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=30
    )


@given(values(SCALARS))
def test_round_trip_by_either_codec(value: Value) -> None:
    data = encode(value)
    assert data == encoding._encode_pure(value, False)
    assert decode(data) == value == encoding._decode_pure(data, False)


@given(values(SCALARS | st.floats(allow_nan=False, allow_infinity=False)))
def test_round_trip_with_floats(value: Value) -> None:
    data = encode(value, floats=True)
    assert data == encoding._encode_pure(value, True)
    assert encode(decode(data, floats=True), floats=True) == data
    assert encode(encoding._decode_pure(data, True), floats=True) == data


def outcome(codec: Any, data: bytes) -> tuple[str, Any]:
    try:
        return "value", codec(data)
    except MalformedError as exc:
        return type(exc).__name__, None


@given(st.binary(max_size=60), st.booleans())
@example(b"\xd8\x2a", False)
@example(b"\x81" * 60, False)
def test_any_bytes_are_refused_alike_or_are_canonical(data: bytes, floats: bool) -> None:
    kind, value = outcome(lambda raw: decode(raw, floats=floats), data)
    assert (kind, value) == outcome(lambda raw: encoding._decode_pure(raw, floats), data)
    if kind == "value":
        assert encode(value, floats=floats) == data


@given(values(SCALARS), st.data())
def test_flipping_a_bit_gives_another_value_or_an_error(value: Value, data: st.DataObject) -> None:
    encoded = bytearray(encode(value))
    bit = data.draw(st.integers(0, 8 * len(encoded) - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    flipped = bytes(encoded)
    kind, other = outcome(decode, flipped)
    assert (kind, other) == outcome(lambda raw: encoding._decode_pure(raw, False), flipped)
    if kind == "value":
        assert encode(other) == flipped != encode(value)


@given(st.dictionaries(KEYS, st.integers(0, 5), min_size=2, max_size=6), st.randoms())
def test_the_order_of_insertion_does_not_matter(members: dict[str, int], random: Any) -> None:
    shuffled = list(members.items())
    random.shuffle(shuffled)
    assert encode(dict(shuffled)) == encode(members)


def test_large_values_go_the_same_way() -> None:
    digest = bytes.fromhex("01e3436709b0b6851238da772f76e0245a90b62ddf151391272b47a0c842104f")
    for filler in (b"\x00" * 5000, digest + b"\x00" * 5000):
        value: Value = {"filler": filler, "digest": digest, "list": list(range(3000))}
        data = encode(value)
        assert data == encoding._encode_pure(value, False)
        assert decode(data) == value
        with pytest.raises(MalformedError):
            decode(data[:-1])
        with pytest.raises(MalformedError):
            decode(data + b"\x00")


# --- Fields -----------------------------------------------------------------------------------------------------------


def fields(**members: Any) -> Fields:
    return Fields(members, "thing")


@pytest.mark.parametrize("value", [None, 1, "map", b"", [], True])
def test_fields_need_a_map(value: Value) -> None:
    with pytest.raises(MalformedError, match="thing: not a map"):
        Fields(value, "thing")


def test_fields_read_each_type() -> None:
    reader = fields(
        a="x", b=b"12", c=7, d=True, e=[1], f={"g": 1}, h={"data": 2}, i=[b"12"], j=None, k=None, l=None, m=None, n=None
    )
    assert reader.has("a")
    assert reader.text("a", max=1) == "x"
    assert not reader.has("a")
    assert reader.bytes("b", length=2) == b"12"
    assert reader.int("c", min=7, max=7) == 7
    assert reader.bool("d") is True
    assert reader.list("e", max=1) == [1]
    inner = reader.map("f")
    assert inner.int("g") == 1
    inner.done()
    assert reader.dict("h") == {"data": 2}
    assert reader.bytes_list("i", length=2) == (b"12",)
    assert reader.optional_text("j", max=1) is None
    assert reader.optional_bytes("k") is None
    assert reader.optional_int("l") is None
    assert reader.optional_map("m") is None
    assert reader.optional_list("n") is None
    reader.done()


def test_optional_fields_that_are_not_null() -> None:
    reader = fields(a="x", b=b"1", c=2, d={}, e=[])
    assert reader.optional_text("a", max=1) == "x"
    assert reader.optional_bytes("b", length=1) == b"1"
    assert reader.optional_int("c") == 2
    inner = reader.optional_map("d")
    assert inner is not None
    inner.done()
    assert reader.optional_list("e") == []


@pytest.mark.parametrize(
    "read",
    [
        lambda reader: reader.text("a", max=9),
        lambda reader: reader.name("a"),
        lambda reader: reader.bytes("a"),
        lambda reader: reader.int("a"),
        lambda reader: reader.bool("a"),
        lambda reader: reader.list("a"),
        lambda reader: reader.map("a"),
        lambda reader: reader.dict("a"),
        lambda reader: reader.bytes_list("a", length=1),
    ],
)
def test_fields_refuse_other_types_and_absence(read: Any) -> None:
    refused = 0
    for value in ("x", b"x", 1, True, None, 1.0, [1], {"x": 1}):
        try:
            accepted = read(fields(a=value))
        except MalformedError:
            refused += 1
            continue
        assert isinstance(accepted, Fields) or type(accepted) is type(value)
    assert refused >= 7
    with pytest.raises(MalformedError, match="'a' is missing"):
        read(fields(b=1))


@pytest.mark.parametrize(
    "read",
    [
        lambda reader: reader.optional_text("a", max=9),
        lambda reader: reader.optional_bytes("a"),
        lambda reader: reader.optional_int("a"),
        lambda reader: reader.optional_map("a"),
        lambda reader: reader.optional_list("a"),
    ],
)
def test_an_optional_field_still_has_to_stand(read: Any) -> None:
    with pytest.raises(MalformedError, match="'a' is missing"):
        read(fields())


def test_fields_refuse_what_is_out_of_range() -> None:
    for read, value in [
        (lambda r: r.text("a", max=2), "abc"),
        (lambda r: r.text("a", min=1, max=2), ""),
        (lambda r: r.bytes("a", length=2), b"abc"),
        (lambda r: r.bytes("a", max=2), b"abc"),
        (lambda r: r.int("a"), -1),
        (lambda r: r.int("a", max=5), 6),
        (lambda r: r.int("a"), True),
        (lambda r: r.list("a", max=1), [1, 2]),
        (lambda r: r.list("a", min=1), []),
        (lambda r: r.dict("a", max=0), {"b": 1}),
        (lambda r: r.bytes_list("a", length=1), [b"a", b"bb"]),
        (lambda r: r.bytes_list("a", length=1), ["a"]),
        (lambda r: r.name("a"), "two\nlines"),
    ]:
        with pytest.raises(MalformedError, match="'a'"):
            read(fields(a=value))


def test_fields_refuse_what_nobody_read() -> None:
    reader = fields(a=1, surprise=2)
    reader.int("a")
    with pytest.raises(MalformedError, match="unknown key 'surprise'"):
        reader.done()


def test_fields_do_not_change_what_they_read() -> None:
    value: dict[str, Value] = {"a": 1}
    Fields(value, "thing").int("a")
    assert value == {"a": 1}


def test_parts_that_are_shared_count_as_often_as_they_stand() -> None:
    value: list[Any] = []
    for _ in range(MAX_DEPTH - 1):
        value = [value, value]
    with pytest.raises(LimitExceeded):
        encode(value)


@pytest.mark.parametrize("milliseconds", [0x1A13B80_0000, 0x1A11B80_0000, 0x1A1FB00_0000])
def test_numbers_that_look_like_heads_inside_are_numbers(milliseconds: int) -> None:
    value = {"t": milliseconds, "b": bytes.fromhex("1bff3bfffb")}
    assert decode(encode(value)) == value

"""RLP: one encoding for each value, against the rlp library as the oracle."""

from __future__ import annotations

import contextlib

import pytest
import rlp
from hypothesis import given, settings
from hypothesis import strategies as st

from anchoring.rlp_codec import Item, decode_rlp, encode_rlp, integer_from_rlp, integer_to_rlp
from identity.errors import LimitExceeded, MalformedError

DEPTH = 8

items = st.recursive(
    st.one_of(st.binary(max_size=4), st.binary(min_size=54, max_size=58), st.binary(min_size=250, max_size=260)),
    lambda inner: st.lists(inner, max_size=6).map(tuple),
    max_leaves=20,
)


@settings(deadline=None)
@given(items)
def test_round_trip_and_oracle(item: Item) -> None:
    encoded = encode_rlp(item)
    assert encoded == rlp.encode(item)
    assert decode_rlp(encoded, what="test", max_depth=DEPTH + 20) == item


@settings(deadline=None)
@given(st.binary(max_size=80) | items.map(encode_rlp))
def test_whatever_decodes_is_the_one_encoding(data: bytes) -> None:
    try:
        item = decode_rlp(data, what="test", max_depth=DEPTH)
    except MalformedError:
        return
    assert encode_rlp(item) == data


@settings(deadline=None)
@given(items, st.data())
def test_a_flipped_bit_never_gives_the_same_value(item: Item, data: st.DataObject) -> None:
    encoded = bytearray(encode_rlp(item))
    position = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[position // 8] ^= 1 << position % 8
    with contextlib.suppress(MalformedError):
        assert decode_rlp(bytes(encoded), what="test", max_depth=DEPTH + 20) != item


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("", "nothing"),
        ("8100", "a byte below 0x80 stands for itself"),
        ("817f", "a byte below 0x80 stands for itself"),
        ("82ff", "cut off"),
        ("b8", "length cut off"),
        ("b801ff", "long form for a short string"),
        ("b837" + "00" * 55, "long form for 55 bytes"),
        ("b90038" + "00" * 56, "length with a leading zero"),
        ("b838" + "00" * 55, "one byte short"),
        ("bf" + "ff" * 8, "length of 2^64 - 1"),
        ("bfffff", "length of lengths beyond the end"),
        ("c1", "list cut off"),
        ("c180ff", "something after the list"),
        ("c281", "member cut off"),
        ("c28100", "member not in its shortest form"),
        ("c182ffff", "member ends beyond its list"),
        ("f800", "long form for an empty list"),
        ("f837" + "c0" * 55, "long form for 55 bytes"),
        ("f90038" + "c0" * 56, "length with a leading zero"),
        ("ff" + "ff" * 8, "length of 2^64 - 1"),
        ("0000", "two values"),
    ],
)
def test_refused(data: str, why: str) -> None:
    with pytest.raises(MalformedError):
        decode_rlp(bytes.fromhex(data), what="test", max_depth=DEPTH)


def test_depth_is_bounded_without_recursion_errors() -> None:
    deep: Item = ()
    for _ in range(DEPTH - 1):
        deep = (deep,)
    assert decode_rlp(encode_rlp(deep), what="test", max_depth=DEPTH) == deep
    with pytest.raises(LimitExceeded):
        decode_rlp(encode_rlp((deep,)), what="test", max_depth=DEPTH)
    bomb = b"\xc0"
    for _ in range(3000):
        bomb = (bytes([0xC0 + len(bomb)]) if len(bomb) < 56 else b"\xf9" + len(bomb).to_bytes(2, "big")) + bomb
    with pytest.raises(MalformedError):
        decode_rlp(bomb, what="test", max_depth=DEPTH)


@settings(deadline=None)
@given(st.integers(0, 2**256 - 1))
def test_integers_round_trip(number: int) -> None:
    assert integer_from_rlp(integer_to_rlp(number), what="test", max_bytes=32) == number


@pytest.mark.parametrize("data", [b"\0", b"\0\1", bytes(8), b"\1" * 9, (), (b"\1",)])
def test_integers_refused(data: Item) -> None:
    with pytest.raises(MalformedError):
        integer_from_rlp(data, what="test", max_bytes=8)

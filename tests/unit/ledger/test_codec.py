"""Compact-encoding: one form for each value, and nothing else gets through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.errors import LimitExceeded, MalformedError
from ledger.codec import MAX_UINT, Reader, encode_array, encode_buffer, encode_u64, encode_uint


def read_uint(data: bytes) -> int:
    reader = Reader(data, "test")
    value = reader.uint("n")
    reader.done()
    return value


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (0xFC, "fc"),
        (0xFD, "fdfd00"),
        (0xFFFF, "fdffff"),
        (0x1_0000, "fe00000100"),
        (0xFFFF_FFFF, "feffffffff"),
        (0x1_0000_0000, "ff0000000001000000"),
        (MAX_UINT, "ffffffffffffff1f00"),
    ],
)
def test_uint_has_one_form_at_each_width(value: int, encoded: str) -> None:
    assert encode_uint(value).hex() == encoded
    assert read_uint(bytes.fromhex(encoded)) == value


@pytest.mark.parametrize("encoded", ["fd0000", "fdfc00", "fe00000000", "feffff0000", "ffffffffff00000000"])
def test_longer_forms_are_refused(encoded: str) -> None:
    with pytest.raises(MalformedError):
        read_uint(bytes.fromhex(encoded))


@pytest.mark.parametrize("encoded", ["", "fd", "fdff", "fe010000", "ff00000000010000", "ff0000000000002000"])
def test_cut_off_and_oversized_uints_are_refused(encoded: str) -> None:
    with pytest.raises(MalformedError):
        read_uint(bytes.fromhex(encoded))


@pytest.mark.parametrize("value", [-1, MAX_UINT + 1])
def test_what_has_no_form_is_not_written(value: int) -> None:
    with pytest.raises(MalformedError):
        encode_uint(value)
    with pytest.raises(MalformedError):
        encode_u64(value)


def test_u64_is_little_endian() -> None:
    assert encode_u64(258).hex() == "0201000000000000"


@given(st.integers(0, MAX_UINT))
def test_uint_round_trip(value: int) -> None:
    assert read_uint(encode_uint(value)) == value


@given(st.binary(max_size=12))
def test_a_uint_is_read_only_from_the_bytes_it_is_written_as(data: bytes) -> None:
    try:
        value = read_uint(data)
    except MalformedError:
        return
    assert encode_uint(value) == data


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_arrays_of_buffers_round_trip(items: list[bytes]) -> None:
    data = encode_array(encode_buffer(item) for item in items)
    reader = Reader(data, "test")
    assert list(reader.array(lambda: reader.buffer("b", maximum=300), "items", maximum=5)) == items
    reader.done()


def test_a_length_is_checked_before_its_bytes_are_looked_for() -> None:
    with pytest.raises(LimitExceeded):
        Reader(encode_uint(1 << 40), "test").buffer("b", maximum=1 << 20)
    with pytest.raises(LimitExceeded):
        Reader(encode_uint(6), "test").array(bytes, "items", maximum=5)


def test_a_buffer_longer_than_what_follows_is_refused() -> None:
    with pytest.raises(MalformedError, match="ends within b"):
        Reader(encode_uint(4) + b"abc", "test").buffer("b", maximum=10)


def test_trailing_bytes_are_refused() -> None:
    reader = Reader(b"\x01\x02", "test")
    reader.uint("n")
    with pytest.raises(MalformedError, match="1 bytes after"):
        reader.done()

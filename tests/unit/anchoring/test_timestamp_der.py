"""Strict DER: what has two spellings elsewhere has one here."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchoring.timestamp.der import (
    INTEGER,
    OBJECT_IDENTIFIER,
    SEQUENCE,
    SET,
    DerReader,
    check_set_order,
    encode_der,
    encode_integer,
    parse_der,
    read_elements,
    read_integer,
    read_oid,
)
from identity.errors import LimitExceeded, MalformedError

GOOD = {
    "null": "0500",
    "true": "0101ff",
    "zero": "020100",
    "minus-one": "0201ff",
    "minus-128": "020180",
    "128": "02020080",
    "empty-sequence": "3000",
    "oid": "06082a8648ce3d040302",
    "bit-string": "03020780",
    "empty-bit-string": "030100",
    "utf8": "0c02c3a9",
    "printable": "130141",
    "utc-time": "170d" + b"260601120000Z".hex(),
    "time": "180f" + b"20260601120000Z".hex(),
    "time-with-fraction": "1813" + b"20260601120000.123Z".hex(),
    "context-primitive": "800101",
    "context-constructed": "a0020500",
    "length-of-128": "048180" + "00" * 128,
}

BAD = {
    "nothing": "",
    "tag-only": "05",
    "trailing": "050000",
    "cut-off": "020200",
    "indefinite-length": "30800000",
    "long-form-of-a-short-length": "04810100",
    "length-with-leading-zero": "04820080" + "00" * 128,
    "length-of-five-bytes": "0485000000000100",
    "tag-31": "1f0100",
    "application-tag": "4100",
    "private-tag": "c100",
    "unknown-type": "0900",
    "null-with-contents": "050100",
    "boolean-one": "010101",
    "boolean-empty": "0100",
    "boolean-long": "0102ffff",
    "integer-empty": "0200",
    "integer-padded": "02020001",
    "negative-padded": "0202ff80",
    "constructed-integer": "2203020101",
    "constructed-octet-string": "240304 0100".replace(" ", ""),
    "primitive-sequence": "1000",
    "bit-string-empty": "0300",
    "bit-string-unused-8": "03020800",
    "bit-string-unused-of-nothing": "030101",
    "bit-string-padding-set": "03020781",
    "oid-empty": "0600",
    "oid-cut-off": "060180",
    "oid-padded-first": "06028001",
    "oid-padded-later": "06042a018001",
    "utf8-bad": "0c01ff",
    "utc-time-without-seconds": "170b" + b"2606011200Z".hex(),
    "time-with-offset": "1813" + b"20260601120000+0100".hex(),
    "time-with-trailing-zero": "1811" + b"20260601120000.0Z".hex(),
    "time-with-empty-fraction": "1810" + b"20260601120000.Z".hex(),
    "bad-inside": "3003020200",
    "inner-longer-than-outer": "300302020001",
}


@pytest.mark.parametrize("form", GOOD.values(), ids=GOOD.keys())
def test_reads(form: str) -> None:
    data = bytes.fromhex(form)
    assert parse_der(data, what="value", max_bytes=1000).raw == data


@pytest.mark.parametrize("form", BAD.values(), ids=BAD.keys())
def test_refuses(form: str) -> None:
    with pytest.raises(MalformedError):
        parse_der(bytes.fromhex(form), what="value", max_bytes=1000)


def test_size_and_depth_are_limited() -> None:
    with pytest.raises(LimitExceeded):
        parse_der(encode_der(0x04, bytes(100)), what="value", max_bytes=100)
    nested = b""
    for _ in range(40):
        nested = encode_der(SEQUENCE, nested)
    with pytest.raises(LimitExceeded):
        parse_der(nested, what="value", max_bytes=1000)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_malformed(data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        assert parse_der(data, what="value", max_bytes=200).raw == data


@given(st.integers(min_value=0, max_value=2**200))
def test_integers_round_trip(value: int) -> None:
    element = parse_der(encode_integer(value), what="value", max_bytes=100)
    assert read_integer(element, "value") == value


def test_long_integers_are_refused() -> None:
    with pytest.raises(LimitExceeded):
        read_integer(parse_der(encode_integer(2**256), what="value", max_bytes=100), "value")


@pytest.mark.parametrize(
    ("dotted", "content"),
    [
        ("1.2.840.10045.4.3.2", "2a8648ce3d040302"),
        ("0.9.2342", "099226"),
        ("2.999", "8837"),
        ("2.25.284970224362471960167844392135630326949", None),
    ],
)
def test_object_identifiers(dotted: str, content: str | None) -> None:
    body = bytes.fromhex(content) if content else oid_content(dotted)
    assert read_oid(parse_der(encode_der(OBJECT_IDENTIFIER, body), what="oid", max_bytes=100), "oid") == dotted


def test_long_object_identifiers_are_refused() -> None:
    element = parse_der(encode_der(OBJECT_IDENTIFIER, b"\x2a" + b"\xff" * 80 + b"\x01"), what="oid", max_bytes=100)
    with pytest.raises(LimitExceeded):
        read_oid(element, "oid")


def test_a_set_must_be_in_order() -> None:
    one, two = encode_integer(1), encode_integer(2)
    check_set_order(read_elements(parse_der(encode_der(SET, one, two), what="set", max_bytes=100)), "set")
    with pytest.raises(MalformedError):
        check_set_order(read_elements(parse_der(encode_der(SET, two, one), what="set", max_bytes=100)), "set")


def test_a_reader_takes_fields_in_order() -> None:
    element = parse_der(encode_der(SEQUENCE, encode_integer(7), b"\x05\x00"), what="pair", max_bytes=100)
    reader = DerReader(element, "pair")
    assert reader.optional(SEQUENCE) is None
    assert read_integer(reader.take(INTEGER), "first") == 7
    with pytest.raises(MalformedError, match="field 2"):
        reader.take(INTEGER)
    with pytest.raises(MalformedError, match="field 2"):
        reader.end()
    with pytest.raises(MalformedError, match="tag"):
        DerReader(element, "pair", tag=SET)


def oid_content(dotted: str) -> bytes:
    """Written out once more, another way: base 128, most significant first, the first two arcs together."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    content = b""
    for arc in (40 * first + second, *rest):
        digits = [arc & 0x7F]
        while arc := arc >> 7:
            digits.append(arc & 0x7F | 0x80)
        content += bytes(reversed(digits))
    return content

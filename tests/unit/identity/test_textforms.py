"""Text forms: one spelling a value."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.errors import LimitExceeded, MalformedError
from identity.textforms import (
    check_name,
    parse_base64,
    parse_did_key,
    parse_hex,
    parse_zbase32,
    to_base64,
    to_did_key,
    to_hex,
    to_zbase32,
)

KEY = bytes(range(32))
ZBASE32 = to_zbase32(KEY)
DID = to_did_key(KEY)


def test_known_forms() -> None:
    # z-base-32 of the specification's own examples; did:key from the did:key method specification.
    assert to_zbase32(bytes.fromhex("f0bfc7")) == "6n9hq"
    assert to_zbase32(bytes.fromhex("d47a04")) == "4t7ye"
    assert parse_did_key("did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK") == bytes.fromhex(
        "2e6fcce36701dc791488e0d0b1745cc1e33a4c1c9fcc41c63bd343dbbe0970e6"
    )
    assert to_base64(b"\xff\xfe\xfd") == "//79"


@given(st.binary(max_size=70))
def test_round_trips(data: bytes) -> None:
    assert parse_hex(to_hex(data), len(data)) == data == parse_hex(to_hex(data))
    assert parse_base64(to_base64(data), len(data)) == data == parse_base64(to_base64(data))
    assert parse_zbase32(to_zbase32(data), len(data)) == data


@given(st.binary(min_size=32, max_size=32))
def test_did_key_round_trip(key: bytes) -> None:
    text = to_did_key(key)
    assert text.startswith("did:key:z6Mk")
    assert parse_did_key(text) == key


@pytest.mark.parametrize("text", ["A0", "0", "0x00", " 00", "00 ", "0g", "00\n", "٠٠", "a_", "-1"])  # noqa: RUF001
def test_hex_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_hex(text)


@pytest.mark.parametrize(
    "text",
    [
        "AA",
        "AA=",
        "AA===",
        "AB==",
        "AAB=",
        "A===",
        "A A=",
        "AA==\n",
        "__79",
        "/\u00ff79",
        "=",
        "AAAA=",
        "AA==AA==",
        "A",
    ],
)
def test_base64_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_base64(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ZBASE32[:-1],
        ZBASE32 + "y",
        ZBASE32.upper(),
        " " + ZBASE32[1:],
        "0" + ZBASE32[1:],
        "l" + ZBASE32[1:],
        "v" + ZBASE32[1:],
        "2" + ZBASE32[1:],
        ZBASE32[:-1] + "b",
        ZBASE32[:-1] + "9",
        "é" + ZBASE32[1:],
    ],
)
def test_zbase32_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_zbase32(text)


def test_zbase32_spare_bits() -> None:
    # 32 bytes fill one bit of the last character: of the 32 there, only two spell a key.
    accepted = 0
    for character in "ybndrfg8ejkmcpqxot1uwisza345h769":
        try:
            parse_zbase32(ZBASE32[:-1] + character)
        except MalformedError:
            continue
        accepted += 1
    assert accepted == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "did:key:",
        "did:key:z",
        DID[8:],
        DID.replace("did:key:z", "did:key:m"),
        DID.replace("did", "DID"),
        DID + "1",
        DID[:-1],
        DID[:-1] + "0",
        DID[:-1] + "l",
        DID[:-1] + "é",
        DID + "#" + DID[8:],
        " " + DID,
        "did:key:z1" + DID[9:],
        "did:key:z1" + DID[10:],
        "did:key:z" + "z" * 47,  # more than 34 bytes can hold
        "did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme",  # secp256k1
        "did:key:z6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc",  # X25519
    ],
)
def test_did_key_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_did_key(text)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_did_key_is_for_32_bytes(size: int) -> None:
    with pytest.raises(MalformedError):
        to_did_key(bytes(size))


@given(st.text(max_size=60))
def test_any_text_is_refused_or_canonical(text: str) -> None:
    parsers: list[tuple[Callable[[str], bytes], Callable[[bytes], str]]] = [
        (parse_hex, to_hex),
        (parse_base64, to_base64),
        (parse_zbase32, to_zbase32),
        (parse_did_key, to_did_key),
    ]
    for parse, write in parsers:
        try:
            data = parse(text)
        except MalformedError:
            continue
        assert write(data) == text


@given(st.integers(0, 51), st.sampled_from("ybndrfg8ejkmcpqxot1uwisza345h769"))
def test_another_character_is_another_key(place: int, character: str) -> None:
    text = ZBASE32[:place] + character + ZBASE32[place + 1 :]
    try:
        assert (parse_zbase32(text) == KEY) == (text == ZBASE32)
    except MalformedError:
        assert text != ZBASE32


@pytest.mark.parametrize(("parse", "text"), [(parse_hex, "00"), (parse_base64, "AA=="), (parse_base64, "AAA=")])
def test_lengths(parse: Callable[[str, int], bytes], text: str) -> None:
    for length in (0, 3, 4, 32):
        with pytest.raises(MalformedError):
            parse(text, length)


@pytest.mark.parametrize("name", ["a", "x" * 200, "Zoë's phone", "銀行", "a b", "👩‍💻"])
def test_names(name: str) -> None:
    assert check_name(name, "name") == name


@pytest.mark.parametrize(
    "name", ["", "a\nb", "\t", "\0", "\x7f", "\x85", "\x9f", "\u2028", "\u2029", "\ud800", "a\r", "\x1b[31m"]
)
def test_names_refused(name: str) -> None:
    with pytest.raises(MalformedError, match="the field"):
        check_name(name, "the field")


def test_name_too_long() -> None:
    with pytest.raises(LimitExceeded):
        check_name("x" * 201, "name")

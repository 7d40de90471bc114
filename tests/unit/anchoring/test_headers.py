"""Trusted headers: strict lines, and no block with two hashes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchoring.headers import TrustedHeader, TrustedHeaders, encode_header_line, parse_headers
from identity.errors import MalformedError

GOOD = b'{"chain": 1, "number": 5, "hash": "' + b"ab" * 32 + b'", "source": "node-a", "seen": 7}'


def test_reads_what_it_writes() -> None:
    header = TrustedHeader(chain=1, number=5, hash=b"\xab" * 32, source="Knoten Ä", seen_ms=7)
    headers = parse_headers(encode_header_line(header).encode() + b"\n")
    assert headers.find(1, 5) == header
    assert headers.find(1, 6) is None
    assert headers.find(2, 5) is None


def test_newest_is_by_chain() -> None:
    headers = TrustedHeaders(
        TrustedHeader(chain, number, bytes([number]) * 32, "s", 0) for chain, number in [(1, 5), (1, 9), (2, 12)]
    )
    newest = headers.newest(1)
    assert newest is not None
    assert newest.number == 9
    assert headers.newest(3) is None


def test_one_block_with_two_hashes_is_refused() -> None:
    with pytest.raises(MalformedError, match="two hashes"):
        parse_headers(GOOD + b"\n" + GOOD.replace(b"ab" * 32, b"cd" * 32) + b"\n")


@pytest.mark.parametrize(
    "line",
    [
        GOOD[:-1],
        GOOD.replace(b'"seen": 7', b'"seen": 7, "more": 1'),
        GOOD.replace(b', "seen": 7', b""),
        GOOD.replace(b"ab" * 32, b"AB" * 32),
        GOOD.replace(b"ab" * 32, b"ab" * 31),
        GOOD.replace(b'"chain": 1', b'"chain": "1"'),
        GOOD.replace(b'"chain": 1', b'"chain": true'),
        GOOD.replace(b'"number": 5', b'"number": -5'),
        GOOD.replace(b'"number": 5', b'"number": 5.0'),
        GOOD.replace(b'"node-a"', b"1"),
        b"",
        b"[]",
    ],
)
def test_refused(line: bytes) -> None:
    with pytest.raises(MalformedError, match="line 2"):
        parse_headers(GOOD.replace(b'"number": 5', b'"number": 4') + b"\n" + line + b"\n")


@given(st.binary(max_size=300))
def test_total(data: bytes) -> None:
    try:
        parse_headers(data)
    except MalformedError:
        return

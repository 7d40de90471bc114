"""Strict JSON: one reading, or an error."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.errors import LimitExceeded, MalformedError
from identity.jsontext import parse_json


def parse(text: bytes) -> object:
    return parse_json(text, what="test", max_bytes=10_000)


def test_numbers_with_a_point_are_decimals_never_floats() -> None:
    assert parse(b'{"a": 0.10, "b": 1e2, "c": -7}') == {"a": Decimal("0.10"), "b": Decimal("1E+2"), "c": -7}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[1,]",
        b'{"a":1,"a":1}',
        b'{"x":{"a":1,"a":2}}',
        b"NaN",
        b"[Infinity]",
        b"[-Infinity]",
        b'"\xff"',
        b'"\\ud800"',
        b"{'a':1}",
        b"1 2",
        b"\xef\xbb\xbf{}",
        b"[" * 33 + b"]" * 33,
        b'{"a":' * 5000 + b"1",
        b"9" * 101,
        b"1." + b"9" * 101,
        b"1e99999999999999999999",
        b"-1.5E-99999999999999999999",
    ],
)
def test_refused(text: bytes) -> None:
    with pytest.raises(MalformedError):
        parse(text)


def test_brackets_inside_strings_are_not_depth() -> None:
    assert parse(b'["' + b"[" * 100 + b'\\"[[[["]') == ["[" * 100 + '"[[[[']


def test_too_long() -> None:
    with pytest.raises(LimitExceeded):
        parse(b" " * 10_001)


@given(st.binary(max_size=200))
def test_total(data: bytes) -> None:
    try:
        parse(data)
    except MalformedError:
        return

"""Requests: one byte string each, and numbers within their limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.errors import MalformedError
from ledger.merkle import MAX_LENGTH, MAX_PATH_NODES
from ledger.request import Request, Seek, Target, Upgrade, encode_request, parse_request

UINT = st.integers(0, 2**53 - 1)
LENGTH = st.integers(0, MAX_LENGTH)
LEVELS = st.integers(0, MAX_PATH_NODES)
REQUESTS = st.builds(
    Request,
    st.none() | st.builds(Target, st.integers(0, MAX_LENGTH - 1), LEVELS),
    st.none() | st.builds(Target, UINT, LEVELS),
    st.none() | st.builds(Seek, UINT, UINT),
    st.none() | st.builds(Upgrade, LENGTH, LENGTH),
    UINT,
    UINT,
    st.booleans(),
    UINT,
)


@given(REQUESTS)
def test_round_trip(request_: Request) -> None:
    assert parse_request(encode_request(request_)) == request_


@given(REQUESTS, st.data())
def test_a_changed_or_cut_request_is_another_one_or_none(request_: Request, data: st.DataObject) -> None:
    encoded = bytearray(encode_request(request_))
    place = data.draw(st.integers(0, len(encoded) - 1))
    cut = bytes(encoded[:place])
    encoded[place] ^= data.draw(st.integers(1, 255))
    for changed in (bytes(encoded), cut, bytes(encoded) + b"\x00"):
        try:
            other = parse_request(changed)
        except MalformedError:
            continue
        assert other != request_
        assert encode_request(other) == changed


@given(st.binary(max_size=60))
def test_any_bytes_are_a_request_or_malformed(data: bytes) -> None:
    try:
        request_ = parse_request(data)
    except MalformedError:
        return
    assert encode_request(request_) == data


@pytest.mark.parametrize(
    "fields",
    [
        {"block": Target(MAX_LENGTH)},
        {"block": Target(0, MAX_PATH_NODES + 1)},
        {"block": Target(-1)},
        {"hash": Target(2**53)},
        {"seek": Seek(-1)},
        {"seek": Seek(0, 2**53)},
        {"upgrade": Upgrade(-1, 5)},
        {"upgrade": Upgrade(0, MAX_LENGTH + 1)},
        {"id": 2**53},
        {"fork": -1},
        {"priority": -1},
    ],
    ids=str,
)
def test_numbers_beyond_their_limits_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(MalformedError):
        Request(**fields)  # type: ignore[arg-type]


def test_a_priority_of_zero_has_one_form() -> None:
    with pytest.raises(MalformedError, match="priority"):
        parse_request(b"\x20\x00\x00\x00")

"""Requests: what rfc3161ng writes is what the strict reader reads."""

from __future__ import annotations

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchoring.timestamp.der import OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, encode_der, encode_integer
from anchoring.tsa.request import MAX_REQUEST_BYTES, encode_request, parse_request
from identity.errors import ConfigurationError, LimitExceeded, MalformedError

SHA256 = encode_der(SEQUENCE, encode_der(OBJECT_IDENTIFIER, bytes.fromhex("608648016503040201")))
IMPRINT = encode_der(SEQUENCE, SHA256, encode_der(OCTET_STRING, bytes(32)))


@given(message=st.binary(max_size=100), nonce=st.integers(min_value=0, max_value=2**64 - 1))
def test_requests_round_trip(message: bytes, nonce: int) -> None:
    policy = "2.25.284970224362471960167844392135630326949"
    request = parse_request(encode_request(message, policy_oid=policy, nonce=nonce))
    assert request.version == 1
    assert request.imprint_algorithm == "sha256"
    assert request.imprint == hashlib.sha256(message).digest()
    assert request.policy_oid == policy
    assert request.nonce == nonce
    assert request.wants_certificate
    assert not request.has_extensions


@given(position=st.integers(min_value=0), bit=st.integers(min_value=0, max_value=7))
def test_a_flipped_bit_is_malformed_or_read_as_something_else(position: int, bit: int) -> None:
    data = encode_request(b"message", policy_oid="1.2.3", nonce=7)
    altered = bytearray(data)
    altered[position % len(data)] ^= 1 << bit
    with contextlib.suppress(MalformedError):
        assert parse_request(bytes(altered)) != parse_request(data)


def test_a_bare_request_is_read() -> None:
    request = parse_request(encode_der(SEQUENCE, encode_integer(1), IMPRINT))
    assert (request.policy_oid, request.nonce, request.wants_certificate) == (None, None, False)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        encode_der(SEQUENCE),
        encode_der(SEQUENCE, encode_integer(1)),
        encode_der(SEQUENCE, IMPRINT, encode_integer(1)),
        encode_der(SEQUENCE, encode_integer(1), IMPRINT, encode_integer(1), encode_integer(2)),
        encode_der(SEQUENCE, encode_integer(1), IMPRINT, encode_integer(2**256)),
        encode_der(SEQUENCE, encode_integer(1), encode_der(SEQUENCE, SHA256)),
        encode_der(SEQUENCE, encode_integer(1), IMPRINT) + b"\x00",
    ],
)
def test_malformed_requests(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_request(data)


@pytest.mark.parametrize("policy", ["1.99.1", "3.1", "x", "1"])
def test_unusable_policies(policy: str) -> None:
    with pytest.raises(ConfigurationError, match="policy"):
        encode_request(b"message", policy_oid=policy, nonce=1)


def test_size_is_limited() -> None:
    with pytest.raises(LimitExceeded):
        parse_request(bytes(MAX_REQUEST_BYTES + 1))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_malformed(data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        parse_request(data)

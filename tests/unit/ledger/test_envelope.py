"""The two forms of an envelope: one byte string each, and nothing else is read as one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.errors import MalformedError
from ledger.codec import encode_array, encode_uint
from ledger.envelope import (
    Envelope,
    EnvelopeProof,
    encode_envelope,
    encode_envelope_v0,
    parse_envelope,
    parse_envelope_v0,
)
from ledger.flattree import covering
from ledger.merkle import Node, encode_node

LENGTH = 5


@st.composite
def envelopes(draw: st.DrawFn) -> Envelope:
    signers = draw(st.lists(st.integers(0, 254), unique=True, max_size=4))
    ahead = draw(st.lists(st.integers(0, 40), min_size=len(signers), max_size=len(signers)))
    proofs = tuple(EnvelopeProof(n, bytes([n]) * 64, more) for n, more in zip(signers, ahead, strict=True))
    needed = dict.fromkeys(index for more in ahead for index in covering(LENGTH, LENGTH + more))
    return Envelope(proofs, tuple(Node(index, index, bytes(32)) for index in needed))


@given(envelopes())
def test_round_trip_in_both_forms(made: Envelope) -> None:
    assert parse_envelope(encode_envelope(made)) == made
    assert parse_envelope_v0(encode_envelope_v0(made, LENGTH), LENGTH) == made


@given(envelopes(), st.data())
def test_a_changed_byte_gives_another_envelope_or_none(made: Envelope, data: st.DataObject) -> None:
    encoded = bytearray(encode_envelope_v0(made, LENGTH))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        other = parse_envelope_v0(bytes(encoded), LENGTH)
    except MalformedError:
        return
    assert other != made
    assert encode_envelope_v0(other, LENGTH) == bytes(encoded)


@given(st.binary(max_size=300), st.integers(0, 2**52))
def test_any_bytes_are_an_envelope_or_malformed(data: bytes, length: int) -> None:
    try:
        made = parse_envelope_v0(data, length)
    except MalformedError:
        return
    assert encode_envelope_v0(made, length) == data


def v0(*fields: int, nodes: tuple[int, ...] = (10,)) -> bytes:
    """One signature of version 0 whose patch says ``fields``: end, length, count and references."""
    proof = b"\x01\x00" + bytes(64) + b"".join(map(encode_uint, fields))
    return b"\x01" + proof + encode_array(encode_node(Node(index, 1, bytes(32))) for index in nodes)


def test_what_a_patch_of_version_0_states_must_follow_from_the_length() -> None:
    assert parse_envelope_v0(v0(6, 1, 1, 0), 5).proofs[0].patch_length == 1
    wrong = [
        v0(7, 1, 1, 0),
        v0(6, 2, 1, 0),
        v0(6, 1, 1, 1),
        v0(6, 1, 2, 0, 0),
        v0(6, 1, 0),
        v0(5, 0, 0),
        v0(6, 1, 1, 0, nodes=()),
        v0(6, 1, 1, 0, nodes=(12,)),
        v0(6, 1, 2**40),
        v0(2**52 + 1, 2**52 - 4, 1, 0),
    ]
    for data in wrong:
        with pytest.raises(MalformedError):
            parse_envelope_v0(data, 5)


def test_counts_beyond_the_limits_are_refused_before_anything_is_read() -> None:
    for parse in (parse_envelope, lambda data: parse_envelope_v0(data, 5)):
        with pytest.raises(MalformedError):
            parse(encode_uint(256) + bytes(200))
        with pytest.raises(MalformedError):
            parse(b"\x00" + encode_uint(2**40))


def test_a_patch_that_lacks_what_a_signer_needs_is_not_written_in_version_0() -> None:
    with pytest.raises(MalformedError, match="lacks nodes of signer 3"):
        encode_envelope_v0(Envelope((EnvelopeProof(3, bytes(64), 2),)), 5)

"""The bytes of proofs: one string each, limits, and the one form that evidence carries."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.errors import MalformedError
from ledger.manifest import FeedDescription, Manifest, ManifestSigner, Prologue, device_manifest
from ledger.merkle import MAX_LENGTH, Node
from ledger.proof import (
    MAX_BLOCK_BYTES,
    BlockPart,
    HashPart,
    Proof,
    SeekPart,
    UpgradePart,
    encode_proof,
    parse_evidence_proof,
    parse_proof,
)

MANIFEST = device_manifest(b"\x07" * 32, FeedDescription(b"\x11" * 32, "notes"))
BORN = Manifest(1, 1, (ManifestSigner(b"\x07" * 32),), prologue=Prologue(bytes(32), 5))
PATH = (Node(8, 3, bytes(32)), Node(13, 4, bytes(32)))
GOOD = Proof(0, 0, BlockPart(5, b"block", PATH), upgrade=UpgradePart(0, 11, PATH, PATH[:1], bytes(68)))

NODE = st.builds(Node, st.integers(0, 2**53 - 1), st.integers(0, 2**53 - 1), st.binary(min_size=32, max_size=32))
NODE_LISTS = st.lists(NODE, max_size=3).map(tuple)
PROOFS = st.builds(
    Proof,
    st.integers(0, 2**53 - 1),
    st.integers(0, 2**53 - 1),
    st.none() | st.builds(BlockPart, st.integers(0, MAX_LENGTH - 1), st.binary(max_size=300), NODE_LISTS),
    st.none() | st.builds(HashPart, st.integers(0, 2**53 - 1), NODE_LISTS),
    st.none() | st.builds(SeekPart, st.integers(0, 2**53 - 1), NODE_LISTS),
    st.none()
    | st.builds(UpgradePart, st.integers(0, 99), st.integers(0, 99), NODE_LISTS, NODE_LISTS, st.binary(max_size=80)),
    st.none() | st.just(MANIFEST) | st.just(BORN),
)


@given(PROOFS)
def test_round_trip(proof: Proof) -> None:
    assert parse_proof(encode_proof(proof)) == proof


@given(PROOFS, st.data())
def test_a_flipped_bit_gives_another_proof_or_none(proof: Proof, data: st.DataObject) -> None:
    encoded = bytearray(encode_proof(proof))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        other = parse_proof(bytes(encoded))
    except MalformedError:
        return
    assert other != proof
    assert encode_proof(other) == bytes(encoded)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_proof_or_malformed(data: bytes) -> None:
    try:
        proof = parse_proof(data)
    except MalformedError:
        return
    assert encode_proof(proof) == data


ENCODED = encode_proof(GOOD)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x20" + ENCODED[1:],
        ENCODED + b"\x00",
        ENCODED[:-1],
        b"\xfd\x09\x00" + ENCODED[1:],
        b"\x09\xfd\x00\x00" + ENCODED[2:],
        bytes(16 * 1024 * 1024 + 1),
        b"\x01\x00\x00\x00\xfe" + (MAX_BLOCK_BYTES + 1).to_bytes(4, "little"),
        b"\x01\x00\x00\x00\x00\x69" + bytes(34) * 105,
        b"\x08\x00\x00\xff\x01\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00",
    ],
    ids=["nothing", "unknown flag", "trailing", "cut", "long flags", "long request", "huge", "block", "nodes", "start"],
)
def test_malformed_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_proof(data)


@pytest.mark.parametrize(
    "changes",
    [
        {"request": 1},
        {"fork": 1},
        {"manifest": MANIFEST},
        {"hash": HashPart(1, ())},
        {"seek": SeekPart(1, ())},
        {"block": None},
        {"upgrade": None},
        {"upgrade": UpgradePart(1, 1, (), (), b"")},
    ],
)
def test_evidence_carries_one_form_only(changes: dict[str, object]) -> None:
    proof = replace(GOOD, **changes)  # type: ignore[arg-type]
    assert parse_proof(encode_proof(proof)) == proof
    with pytest.raises(MalformedError, match="evidence proof"):
        parse_evidence_proof(encode_proof(proof))

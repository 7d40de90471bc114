"""Fork proofs: two histories under one key, and what is not one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.encoding import decode, encode
from identity.errors import AuditError, MalformedError, SignatureMismatch, UnsupportedVersion, VerificationError
from identity.keys import Ed25519Signer
from ledger.fork import Branch, ForkProof, encode_fork, make_fork, parse_fork, verify_fork
from ledger.head import sign_head, signable
from ledger.manifest import FeedDescription, device_manifest, feed_key
from ledger.merkle import TreeBuilder

SIGNER = Ed25519Signer(b"\x07" * 32)
MANIFEST = device_manifest(SIGNER.public_key, FeedDescription(b"\x11" * 32, "notes"))
KEY = feed_key(MANIFEST)


def branch(*blocks: bytes) -> Branch:
    tree = TreeBuilder()
    tree.append_many(blocks)
    return Branch(tree.tree_hash(), sign_head(SIGNER, KEY, tree.tree_hash(), tree.length))


ONE, OTHER = branch(b"paid 10", b"paid 20"), branch(b"paid 10", b"paid 99")
PROOF = make_fork(MANIFEST, 2, ONE, OTHER)


def test_two_signed_heads_of_one_length_are_a_fork_that_anyone_can_check() -> None:
    received = parse_fork(encode_fork(PROOF))
    fork = verify_fork(received.manifest, received)
    assert fork.first.feed_key == fork.second.feed_key == KEY
    assert {fork.first.tree_hash, fork.second.tree_hash} == {ONE.tree_hash, OTHER.tree_hash}
    assert fork.first.length == fork.second.length == 2


def test_one_fork_has_one_proof_whichever_head_was_seen_first() -> None:
    assert encode_fork(make_fork(MANIFEST, 2, OTHER, ONE)) == encode_fork(PROOF)
    with pytest.raises(MalformedError, match="smaller one first"):
        ForkProof(MANIFEST, 2, PROOF.second, PROOF.first)


def test_the_same_tree_twice_is_no_fork() -> None:
    with pytest.raises(MalformedError, match="must differ"):
        make_fork(MANIFEST, 2, ONE, ONE)


def test_heads_of_other_lengths_forks_and_feeds_are_no_fork() -> None:
    longer = branch(b"paid 10", b"paid 20", b"paid 30")
    for proof in (
        make_fork(MANIFEST, 2, ONE, longer),
        make_fork(MANIFEST, 3, ONE, OTHER),
        make_fork(MANIFEST, 2, ONE, OTHER, fork=1),
    ):
        with pytest.raises(SignatureMismatch):
            verify_fork(MANIFEST, proof)
    other = device_manifest(SIGNER.public_key, FeedDescription(b"\x11" * 32, "other"))
    with pytest.raises(VerificationError, match="about feed"):
        verify_fork(other, PROOF)
    with pytest.raises(SignatureMismatch):
        verify_fork(other, replace(PROOF, manifest=other))


def test_a_truncation_that_hypercore_allows_is_not_taken_for_one() -> None:
    signed = SIGNER.sign(signable(KEY, OTHER.tree_hash, 2, 1))
    rewritten = Branch(OTHER.tree_hash, b"\x01\x00" + signed + b"\x00\x00")
    with pytest.raises(SignatureMismatch):
        verify_fork(MANIFEST, make_fork(MANIFEST, 2, ONE, rewritten))


def test_any_changed_byte_is_refused() -> None:
    encoded = encode_fork(PROOF)
    for position in range(len(encoded)):
        for flip in (1, 0x80, 0xFF):
            changed = bytearray(encoded)
            changed[position] ^= flip
            with pytest.raises(AuditError):
                verify_fork(MANIFEST, parse_fork(bytes(changed)))


HASHES = st.binary(min_size=32, max_size=32)
BRANCHES = st.builds(Branch, HASHES, st.binary(min_size=1, max_size=100))


@given(BRANCHES, BRANCHES, st.integers(1, 2**52), st.integers(0, 2**53 - 1))
def test_round_trip(one: Branch, other: Branch, length: int, counter: int) -> None:
    if one.tree_hash == other.tree_hash:
        return
    proof = make_fork(MANIFEST, length, one, other, fork=counter)
    assert parse_fork(encode_fork(proof)) == proof


@given(st.binary(max_size=200))
def test_any_other_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_fork(data)


def members() -> dict[str, object]:
    decoded = decode(encode_fork(PROOF))
    assert isinstance(decoded, dict)
    return {**decoded}


@pytest.mark.parametrize(
    "changes",
    [
        {"more": 1},
        {"manifest": b""},
        {"manifest": "text"},
        {"length": 0},
        {"length": 2**52 + 1},
        {"fork": -1},
        {"fork": 2**53},
        {"first": {"tree": bytes(32)}},
        {"first": {"tree": bytes(31), "signature": b"x"}},
        {"first": {"tree": bytes(32), "signature": b""}},
        {"first": {"tree": bytes(32), "signature": bytes(64 * 1024 + 1)}},
        {"first": {"tree": bytes(32), "signature": b"x", "more": 1}},
        {"second": None},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_malformed_fields_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(MalformedError):
        parse_fork(encode({**members(), **changes}))


def test_a_later_version_is_named() -> None:
    with pytest.raises(UnsupportedVersion):
        parse_fork(encode({**members(), "v": 2}))

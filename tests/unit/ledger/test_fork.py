"""Fork proofs: two histories under one key, and what is not one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.encoding import decode, encode
from identity.errors import AuditError, MalformedError, SignatureMismatch, UnsupportedVersion, VerificationError
from identity.keys import Ed25519Signer
from ledger.fork import (
    MAX_FORK_BYTES,
    Branch,
    ForkProof,
    branch_of,
    encode_fork,
    make_fork,
    parse_fork,
    verify_fork,
)
from ledger.head import sign_head, signable
from ledger.manifest import FeedDescription, device_manifest, encode_manifest, feed_key
from ledger.merkle import Node, TreeBuilder
from ledger.store import SignedHead

SIGNER = Ed25519Signer(b"\x07" * 32)
MANIFEST = device_manifest(SIGNER.public_key, FeedDescription(b"\x11" * 32, "notes"))
KEY = feed_key(MANIFEST)


def branch(*blocks: bytes) -> Branch:
    tree = TreeBuilder()
    tree.append_many(blocks)
    return Branch(tree.length, tree.tree_hash(), sign_head(SIGNER, KEY, tree.tree_hash(), tree.length))


ONE, OTHER = branch(b"paid 10", b"paid 20"), branch(b"paid 10", b"paid 99")
PROOF = make_fork(MANIFEST, ONE, OTHER)


def test_two_signed_heads_of_one_length_are_a_fork_that_anyone_can_check() -> None:
    received = parse_fork(encode_fork(PROOF))
    fork = verify_fork(received.manifest, received)
    assert fork.first.feed_key == fork.second.feed_key == KEY
    assert {fork.first.tree_hash, fork.second.tree_hash} == {ONE.tree_hash, OTHER.tree_hash}
    assert fork.first.length == fork.second.length == 2


def test_one_fork_has_one_proof_whichever_head_was_seen_first() -> None:
    assert encode_fork(make_fork(MANIFEST, OTHER, ONE)) == encode_fork(PROOF)
    with pytest.raises(MalformedError, match="smaller head"):
        ForkProof(MANIFEST, PROOF.second, PROOF.first)


def test_the_same_tree_twice_is_no_fork() -> None:
    with pytest.raises(MalformedError, match="must differ"):
        make_fork(MANIFEST, ONE, ONE)


def test_heads_of_other_lengths_forks_and_feeds_are_no_fork() -> None:
    longer = branch(b"paid 10", b"paid 20", b"paid 30")
    for proof in (
        make_fork(MANIFEST, ONE, replace(longer, length=2)),
        make_fork(MANIFEST, replace(ONE, length=3), replace(OTHER, length=3)),
        make_fork(MANIFEST, replace(ONE, fork=1), replace(OTHER, fork=1)),
    ):
        with pytest.raises(SignatureMismatch):
            verify_fork(MANIFEST, proof)
    other = device_manifest(SIGNER.public_key, FeedDescription(b"\x11" * 32, "other"))
    with pytest.raises(VerificationError, match="about feed"):
        verify_fork(other, PROOF)
    with pytest.raises(SignatureMismatch):
        verify_fork(other, replace(PROOF, manifest=other))


def at_fork(branch: Branch, fork: int) -> Branch:
    signed = SIGNER.sign(signable(KEY, branch.tree_hash, branch.length, fork))
    return replace(branch, fork=fork, signature=b"\x01\x00" + signed + b"\x00\x00")


def test_a_second_fork_counter_is_a_fault_whatever_the_trees_are() -> None:
    shorter = at_fork(branch(b"paid 10"), 1)
    for other in (shorter, at_fork(OTHER, 1), at_fork(ONE, 1)):
        received = parse_fork(encode_fork(make_fork(MANIFEST, other, ONE)))
        fork = verify_fork(MANIFEST, received)
        assert sorted((fork.first.fork, fork.second.fork)) == [0, 1]
    with pytest.raises(SignatureMismatch):
        verify_fork(MANIFEST, make_fork(MANIFEST, ONE, replace(OTHER, fork=1)))
    with pytest.raises(MalformedError, match="without nodes"):
        make_fork(MANIFEST, ONE, replace(shorter, prefix=(Node(0, 7, bytes(32)),)))


def test_any_changed_byte_is_refused() -> None:
    encoded = encode_fork(PROOF)
    for position in range(len(encoded)):
        for flip in (1, 0x80, 0xFF):
            changed = bytearray(encoded)
            changed[position] ^= flip
            with pytest.raises(AuditError):
                verify_fork(MANIFEST, parse_fork(bytes(changed)))


HASHES = st.binary(min_size=32, max_size=32)
SIGNATURES = st.binary(min_size=1, max_size=100)


@given(HASHES, HASHES, SIGNATURES, st.integers(1, 2**52), st.integers(0, 2**53 - 1), st.integers(0, 2**53 - 1))
def test_round_trip(one: bytes, other: bytes, signature: bytes, length: int, counter: int, later: int) -> None:
    if one == other and counter == later:
        return
    proof = make_fork(MANIFEST, Branch(length, one, signature, counter), Branch(length, other, signature, later))
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
        parse_fork(encode({**members(), "v": 3}))


# --- heads of different lengths ---


class History:
    """What a signer told once: blocks, their nodes, and a head at any length."""

    def __init__(self, blocks: Sequence[bytes]) -> None:
        self.blocks = blocks
        self.nodes = {node.index: node for done in TreeBuilder().append_many(blocks) for node in done}

    def head(self, length: int) -> SignedHead:
        tree = TreeBuilder()
        tree.append_many(self.blocks[:length])
        return SignedHead(length, tree.tree_hash(), sign_head(SIGNER, KEY, tree.tree_hash(), length))

    def branch(self, length: int, common: int) -> Branch:
        return branch_of(self.head(length), common, self.nodes.__getitem__)


TOLD = History([bytes([n]) * n for n in range(30)])
RETOLD = History([*TOLD.blocks[:3], b"another", *TOLD.blocks[4:]])


@pytest.mark.parametrize(("long", "short"), [(5, 4), (4, 4), (29, 4), (30, 7), (16, 8), (17, 16)])
def test_the_nodes_between_show_that_two_lengths_contradict(long: int, short: int) -> None:
    for one, other in ((TOLD, RETOLD), (RETOLD, TOLD)):
        made = make_fork(MANIFEST, one.branch(long, short), other.branch(short, short))
        received = parse_fork(encode_fork(made))
        assert received == made
        fork = verify_fork(MANIFEST, received)
        assert {fork.first.length, fork.second.length} == {long, short}


@pytest.mark.parametrize(("long", "short"), [(5, 3), (29, 2), (30, 1)])
def test_an_honest_history_and_its_beginning_are_no_fork(long: int, short: int) -> None:
    with pytest.raises(MalformedError, match="the same first"):
        make_fork(MANIFEST, TOLD.branch(long, short), RETOLD.branch(short, short))


def test_bytes_moved_between_two_nodes_accuse_nobody() -> None:
    """Where the longer tree merges two nodes only the sum of their sizes is signed: shifted sizes are no other tree."""
    long = TOLD.branch(4, 3)
    left, right = long.prefix[1], long.rest[0]
    shifted = replace(
        long,
        prefix=(long.prefix[0], left._replace(size=left.size + 1)),
        rest=(right._replace(size=right.size - 1),),
    )
    with pytest.raises(MalformedError, match="the same first"):
        make_fork(MANIFEST, shifted, TOLD.branch(3, 3))


def test_nodes_that_are_not_of_the_signed_trees_are_refused() -> None:
    long, short = TOLD.branch(13, 7), RETOLD.branch(7, 7)
    verify_fork(MANIFEST, make_fork(MANIFEST, long, short))
    foreign = History([b"x"] * 13).branch(13, 7)
    for changed in (
        replace(long, prefix=foreign.prefix),
        replace(long, rest=foreign.rest),
        replace(long, tree_hash=bytes(32)),
    ):
        with pytest.raises(VerificationError):
            verify_fork(MANIFEST, make_fork(MANIFEST, changed, short))
    for changed in (
        replace(long, prefix=()),
        replace(long, rest=()),
        replace(long, rest=long.rest[:-1]),
        replace(long, prefix=long.prefix[::-1]),
        replace(long, rest=(*long.rest, long.rest[-1])),
    ):
        with pytest.raises(MalformedError):
            make_fork(MANIFEST, changed, short)


def test_a_strangers_heads_are_no_fork() -> None:
    forged = replace(RETOLD.branch(7, 7), signature=TOLD.head(7).signature)
    with pytest.raises(SignatureMismatch):
        verify_fork(MANIFEST, make_fork(MANIFEST, TOLD.branch(13, 7), forged))


def test_any_changed_byte_of_a_proof_with_nodes_is_refused() -> None:
    encoded = encode_fork(make_fork(MANIFEST, TOLD.branch(13, 7), RETOLD.branch(7, 7)))
    for position in range(len(encoded)):
        for flip in (1, 0x80, 0xFF):
            changed = bytearray(encoded)
            changed[position] ^= flip
            with pytest.raises(AuditError):
                verify_fork(MANIFEST, parse_fork(bytes(changed)))


def test_two_heads_that_need_no_nodes_have_one_form() -> None:
    plain = make_fork(MANIFEST, TOLD.branch(4, 4), RETOLD.branch(4, 4))
    stripped = make_fork(MANIFEST, replace(plain.first, prefix=()), replace(plain.second, prefix=()))
    verify_fork(MANIFEST, stripped)
    assert decode(encode_fork(stripped))["v"] == 1  # type: ignore[call-overload,index]
    bare = {"fork": 0, "length": 4, "signature": b"x", "prefix": b"", "rest": b""}
    first, second = {**bare, "tree": bytes(32)}, {**bare, "tree": b"\x01" * 32}
    with pytest.raises(MalformedError, match="version 1"):
        parse_fork(encode({"v": 2, "manifest": encode_manifest(MANIFEST), "first": first, "second": second}))


def test_a_file_that_is_too_long_is_refused_unread() -> None:
    with pytest.raises(MalformedError, match="more than"):
        parse_fork(bytes(MAX_FORK_BYTES + 1))

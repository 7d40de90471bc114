"""Proofs of blocks and upgrades: what verifies, and everything that must not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.errors import (
    AuditError,
    MalformedError,
    MissingEvidenceError,
    RootMismatch,
    SignatureMismatch,
    UnsupportedVersion,
    VerificationError,
)
from identity.keys import Ed25519Signer
from ledger.head import sign_head, signable
from ledger.manifest import FeedDescription, Manifest, ManifestSigner, Prologue, device_manifest, feed_key
from ledger.merkle import MAX_LENGTH, Node, TreeBuilder, leaf_node
from ledger.proof import (
    MAX_BLOCK_BYTES,
    BlockPart,
    HashPart,
    Proof,
    SeekPart,
    UpgradePart,
    encode_proof,
    make_proof,
    parse_evidence_proof,
    parse_proof,
    verify_block,
    verify_proof,
    verify_upgrade,
)
from ledger.store import SignedHead

SIGNER = Ed25519Signer(b"\x07" * 32)
MANIFEST = device_manifest(SIGNER.public_key, FeedDescription(b"\x11" * 32, "notes"))
BLOCKS = [bytes([n]) * (n * 7 % 11) for n in range(40)]


class Feed:
    """Blocks and nodes in memory; counts what is read."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self.blocks = list(blocks)
        self.nodes = {node.index: node for done in TreeBuilder().append_many(self.blocks) for node in done}
        self.reads = 0

    def node(self, index: int) -> Node:
        self.reads += 1
        return self.nodes[index]

    def block(self, index: int) -> bytes:
        return self.blocks[index]

    def tree(self, length: int) -> TreeBuilder:
        built = TreeBuilder()
        built.append_many(self.blocks[:length])
        return built

    def head(self, length: int) -> SignedHead:
        tree_hash = self.tree(length).tree_hash()
        return SignedHead(length, tree_hash, sign_head(SIGNER, feed_key(MANIFEST), tree_hash, length))


FEED = Feed(BLOCKS)


def evidence(index: int, length: int, signed: int) -> Proof:
    return make_proof(FEED, FEED.head(signed), block=index, upgrade=(0, length))


# --- what verifies ---


@pytest.mark.parametrize(
    ("index", "length", "signed"),
    [(0, 1, 1), (0, 1, 40), (3, 4, 4), (3, 4, 5), (6, 7, 11), (6, 11, 11), (10, 11, 11), (0, 32, 40), (39, 40, 40)],
)
def test_a_block_is_shown_in_the_tree_asked_for_and_in_the_signed_one(index: int, length: int, signed: int) -> None:
    proof = parse_evidence_proof(encode_proof(evidence(index, length, signed)))
    verified = verify_proof(MANIFEST, proof)
    assert (verified.index, verified.block) == (index, BLOCKS[index])
    assert verified.leaf_hash == leaf_node(index, BLOCKS[index]).hash
    assert verified.trees == {n: FEED.tree(n).tree_hash() for n in (length, signed)}
    assert (verified.head.feed_key, verified.head.length) == (feed_key(MANIFEST), signed)
    assert verified.roots == FEED.tree(signed).roots


def test_a_reader_goes_on_from_the_roots_it_has_verified() -> None:
    known: tuple[Node, ...] = ()
    for start, stop, signed in [(0, 3, 5), (5, 6, 11), (11, 27, 27)]:
        proof = make_proof(FEED, FEED.head(signed), upgrade=(start, stop - start))
        verified = verify_upgrade(MANIFEST, parse_proof(encode_proof(proof)), known=known)
        assert sorted(verified.trees) == sorted({stop, signed})
        known = verified.roots
    assert known == FEED.tree(27).roots


def test_an_old_block_is_shown_beside_an_upgrade_or_alone() -> None:
    known = FEED.tree(11).roots
    beside = make_proof(FEED, FEED.head(20), block=5, nodes=3, upgrade=(11, 9))
    assert verify_proof(MANIFEST, beside, known=known).block == BLOCKS[5]
    alone = make_proof(FEED, FEED.head(11), block=9, nodes=1)
    assert verify_block(alone, known).block == BLOCKS[9]


def test_the_request_id_proves_nothing_and_changes_nothing() -> None:
    proof = replace(evidence(3, 9, 11), request=77)
    assert verify_proof(MANIFEST, proof) == verify_proof(MANIFEST, evidence(3, 9, 11))


def test_a_carried_manifest_may_stand_when_it_is_the_feeds_own() -> None:
    proof = parse_proof(encode_proof(replace(evidence(3, 9, 11), manifest=MANIFEST)))
    assert verify_proof(MANIFEST, proof).index == 3
    other = device_manifest(SIGNER.public_key, FeedDescription(b"\x11" * 32, "other"))
    with pytest.raises(VerificationError, match="another feed"):
        verify_proof(MANIFEST, replace(proof, manifest=other))


def test_making_reads_a_logarithmic_number_of_nodes() -> None:
    feed = Feed([b"x"] * 20_001)
    make_proof(feed, feed.head(20_001), block=7_777, upgrade=(0, 13_333))
    assert feed.reads <= 3 * 15


# --- what must not ---


@pytest.mark.parametrize(("index", "length", "signed"), [(0, 1, 1), (5, 7, 11), (6, 7, 7), (3, 4, 13)])
def test_any_changed_byte_but_the_request_is_refused(index: int, length: int, signed: int) -> None:
    encoded = encode_proof(evidence(index, length, signed))
    for position in range(len(encoded)):
        for flip in (1, 0x40, 0x80, 0xFF):
            changed = bytearray(encoded)
            changed[position] ^= flip
            with pytest.raises(AuditError):
                verify_proof(MANIFEST, parse_evidence_proof(bytes(changed)))
            if position != 1:
                with pytest.raises(AuditError):
                    verify_proof(MANIFEST, parse_proof(bytes(changed)))


def test_any_changed_byte_of_a_block_alone_is_refused() -> None:
    known = FEED.tree(11).roots
    encoded = encode_proof(make_proof(FEED, FEED.head(11), block=5, nodes=3))
    for position in set(range(len(encoded))) - {1}:
        for flip in (1, 0x80, 0xFF):
            changed = bytearray(encoded)
            changed[position] ^= flip
            with pytest.raises(AuditError):
                verify_block(parse_proof(bytes(changed)), known)


def upgrade_of(proof: Proof) -> UpgradePart:
    assert proof.upgrade is not None
    return proof.upgrade


def block_of(proof: Proof) -> BlockPart:
    assert proof.block is not None
    return proof.block


GOOD = evidence(5, 11, 13)
NODES = upgrade_of(GOOD).nodes
EXTRA = upgrade_of(GOOD).additional_nodes
PATH = block_of(GOOD).nodes


@pytest.mark.parametrize(
    "changes",
    [
        {"nodes": NODES[1:]},
        {"nodes": NODES[::-1]},
        {"nodes": (*NODES, NODES[0])},
        {"nodes": (*NODES, FEED.nodes[22])},
        {"nodes": (FEED.nodes[7], *NODES)},
        {"nodes": ()},
        {"additional_nodes": ()},
        {"additional_nodes": EXTRA[::-1]},
        {"additional_nodes": (*EXTRA, FEED.nodes[26])},
        {"additional_nodes": EXTRA[:-1]},
        {"length": 12},
        {"length": 0},
        {"start": 1, "length": 10},
        {"signature": b""},
    ],
)
def test_a_node_list_other_than_the_one_that_belongs_is_refused(changes: dict[str, object]) -> None:
    upgrade = replace(upgrade_of(GOOD), **changes)  # type: ignore[arg-type]
    with pytest.raises(AuditError):
        verify_proof(MANIFEST, replace(GOOD, upgrade=upgrade))


@pytest.mark.parametrize(
    "changes",
    [
        {"index": 4},
        {"index": 21},
        {"value": b""},
        {"value": BLOCKS[5] + b"x"},
        {"nodes": PATH[1:]},
        {"nodes": PATH[:-1]},
        {"nodes": PATH[::-1]},
        {"nodes": (*PATH, FEED.nodes[23])},
        {"nodes": ()},
    ],
)
def test_a_block_other_than_the_one_that_belongs_is_refused(changes: dict[str, object]) -> None:
    block = replace(block_of(GOOD), **changes)  # type: ignore[arg-type]
    with pytest.raises(AuditError):
        verify_proof(MANIFEST, replace(GOOD, block=block))


def test_a_block_that_is_not_under_the_upgrade_is_refused() -> None:
    """Stock Hypercore's verifyFullyRemote (11.37.1) lets this one through: it never asks where the block leads."""
    whole = make_proof(FEED, FEED.head(13), upgrade=(0, 11))
    for index in (0, 5, 12, 13, 1000, MAX_LENGTH - 1):
        forged = replace(whole, block=BlockPart(index, b"forged", ()))
        with pytest.raises(VerificationError):
            verify_proof(MANIFEST, forged)


def test_a_sibling_from_the_same_tree_in_another_place_is_refused() -> None:
    moved = replace(block_of(GOOD), nodes=(PATH[0]._replace(index=PATH[0].index + 4), *PATH[1:]))
    with pytest.raises(VerificationError, match="where"):
        verify_proof(MANIFEST, replace(GOOD, block=moved))


def test_two_leaves_instead_of_their_parent_hash_the_same_and_are_refused() -> None:
    upgrade = upgrade_of(make_proof(FEED, FEED.head(4), upgrade=(0, 1)))
    split = (FEED.nodes[2], FEED.nodes[4], FEED.nodes[6])
    assert [node.index for node in upgrade.additional_nodes] == [2, 5]
    proof = Proof(0, 0, upgrade=replace(upgrade, additional_nodes=split))
    with pytest.raises(VerificationError, match="additional nodes"):
        verify_upgrade(MANIFEST, proof)


def test_a_signature_over_another_length_of_the_same_tree_is_refused() -> None:
    upgrade = upgrade_of(GOOD)
    with pytest.raises(SignatureMismatch):
        verify_proof(MANIFEST, replace(GOOD, upgrade=replace(upgrade, signature=FEED.head(11).signature)))


def test_a_proof_does_not_verify_for_another_feed() -> None:
    other = device_manifest(SIGNER.public_key, FeedDescription(b"\x11" * 32, "other"))
    with pytest.raises(SignatureMismatch):
        verify_proof(other, GOOD)


def test_a_higher_fork_is_refused_even_when_its_owner_signed_it() -> None:
    tree_hash = FEED.tree(13).tree_hash()
    signed = SIGNER.sign(signable(feed_key(MANIFEST), tree_hash, 13, 1))
    forked = replace(GOOD, fork=1, upgrade=replace(upgrade_of(GOOD), signature=b"\x01\x00" + signed + b"\x00\x00"))
    with pytest.raises(VerificationError, match="fork counter 1"):
        verify_proof(MANIFEST, forked)
    assert verify_proof(MANIFEST, forked, fork=1).head.fork == 1


def test_known_roots_of_another_length_or_feed_are_refused() -> None:
    proof = make_proof(FEED, FEED.head(13), upgrade=(5, 8))
    for known in ((), FEED.tree(4).roots, FEED.tree(6).roots):
        with pytest.raises(MalformedError):
            verify_upgrade(MANIFEST, proof, known=known)
    with pytest.raises(SignatureMismatch):
        verify_upgrade(MANIFEST, proof, known=Feed([b"other"] * 5).tree(5).roots)


def test_an_old_block_must_lead_to_a_known_root() -> None:
    known = FEED.tree(11).roots
    proof = make_proof(FEED, FEED.head(20), block=5, nodes=3, upgrade=(11, 9))
    block = block_of(proof)
    with pytest.raises(RootMismatch):
        verify_proof(MANIFEST, replace(proof, block=replace(block, value=b"forged")), known=known)
    with pytest.raises(MissingEvidenceError):
        verify_proof(MANIFEST, replace(proof, block=replace(block, nodes=block.nodes[:-1])), known=known)
    with pytest.raises(MissingEvidenceError):
        verify_block(make_proof(FEED, FEED.head(11), block=9, nodes=0), known)


@pytest.mark.parametrize("extra", [{"hash": HashPart(1, ())}, {"seek": SeekPart(7, ())}])
def test_hash_and_seek_parts_are_unsupported_by_name(extra: dict[str, object]) -> None:
    proof = replace(GOOD, **extra)  # type: ignore[arg-type]
    assert parse_proof(encode_proof(proof)) == proof
    with pytest.raises(UnsupportedVersion, match="hash and seek"):
        verify_proof(MANIFEST, proof)


def test_each_verifier_takes_the_parts_it_is_for() -> None:
    upgrade, block = replace(GOOD, block=None), replace(GOOD, upgrade=None)
    for attempt in (
        lambda: verify_proof(MANIFEST, upgrade),
        lambda: verify_proof(MANIFEST, block),
        lambda: verify_upgrade(MANIFEST, GOOD),
        lambda: verify_upgrade(MANIFEST, block),
        lambda: verify_block(GOOD, ()),
        lambda: verify_block(upgrade, ()),
        lambda: verify_block(replace(block, manifest=MANIFEST), ()),
    ):
        with pytest.raises(MalformedError):
            attempt()


# --- prologues ---

BORN = Manifest(1, 1, (ManifestSigner(SIGNER.public_key),), prologue=Prologue(FEED.tree(5).tree_hash(), 5))


def born_head(length: int) -> SignedHead:
    tree_hash = FEED.tree(length).tree_hash()
    return SignedHead(length, tree_hash, sign_head(SIGNER, feed_key(BORN), tree_hash, length))


def test_a_feed_is_not_read_from_or_up_to_a_place_within_its_prologue() -> None:
    assert verify_proof(BORN, make_proof(FEED, born_head(8), block=2, upgrade=(0, 5))).head.length == 8
    assert verify_proof(BORN, make_proof(FEED, born_head(8), block=6, upgrade=(0, 8))).head.length == 8
    with pytest.raises(VerificationError, match="within a prologue"):
        verify_proof(BORN, make_proof(FEED, born_head(8), block=2, upgrade=(0, 4)))
    with pytest.raises(VerificationError, match="within a prologue"):
        verify_upgrade(BORN, make_proof(FEED, born_head(8), upgrade=(4, 4)), known=FEED.tree(4).roots)


def test_a_signed_tree_that_does_not_begin_with_the_prologue_is_refused() -> None:
    other = replace(BORN, prologue=Prologue(FEED.tree(6).tree_hash(), 5))
    tree_hash = FEED.tree(8).tree_hash()
    head = SignedHead(8, tree_hash, sign_head(SIGNER, feed_key(other), tree_hash, 8))
    with pytest.raises(RootMismatch):
        verify_upgrade(other, make_proof(FEED, head, upgrade=(0, 5)))


# --- requests ---


@pytest.mark.parametrize(
    "request_",
    [
        {"block": 11},
        {"block": 5, "upgrade": (0, 12)},
        {"block": 9, "upgrade": (0, 9)},
        {"block": 9, "nodes": 2},
        {"block": 0, "nodes": 5},
        {"block": 0, "nodes": 10**9},
        {"upgrade": (11, 1)},
    ],
    ids=str,
)
def test_a_request_beyond_the_head_is_refused(request_: dict[str, object]) -> None:
    with pytest.raises(MissingEvidenceError):
        make_proof(FEED, FEED.head(11), **request_)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "request_", [{"block": -1}, {"upgrade": (0, 0)}, {"upgrade": (-1, 5)}, {"block": 1, "nodes": -1}], ids=str
)
def test_a_request_that_no_feed_could_answer_is_refused(request_: dict[str, object]) -> None:
    with pytest.raises(MalformedError):
        make_proof(FEED, FEED.head(11), **request_)  # type: ignore[arg-type]


# --- bytes ---

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

"""Proofs of blocks and upgrades: what verifies, and everything that must not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from identity.errors import (
    AuditError,
    MalformedError,
    MissingEvidenceError,
    RootMismatch,
    SignatureMismatch,
    VerificationError,
)
from identity.keys import Ed25519Signer
from ledger.flattree import full_roots, left_leaf, right_leaf
from ledger.head import sign_head, signable
from ledger.manifest import FeedDescription, Manifest, ManifestSigner, Prologue, device_manifest, feed_key
from ledger.merkle import MAX_LENGTH, Node, TreeBuilder, leaf_node
from ledger.proof import (
    BlockPart,
    HashPart,
    Proof,
    SeekPart,
    UpgradePart,
    encode_proof,
    parse_evidence_proof,
    parse_proof,
)
from ledger.proof_checking import (
    NOTHING_KNOWN,
    verify_answer,
    verify_block,
    verify_proof,
    verify_upgrade,
)
from ledger.proof_making import make_proof
from ledger.request import Seek
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
def test_a_part_beside_block_and_upgrade_is_refused(extra: dict[str, object]) -> None:
    proof = replace(GOOD, **extra)  # type: ignore[arg-type]
    assert parse_proof(encode_proof(proof)) == proof
    with pytest.raises(MalformedError, match="no more"):
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


# --- nodes and bytes ---


class Known:
    """A reader that has verified every node of a tree of ``length`` blocks, or only some of them."""

    def __init__(self, length: int, only: Iterable[int] | None = None) -> None:
        self.length = length
        self.only = None if only is None else set(only)

    def find(self, index: int) -> Node | None:
        if right_leaf(index) >= self.length or (self.only is not None and index not in self.only):
            return None
        return FEED.nodes.get(index)


REQUESTS: list[tuple[int, dict[str, Any]]] = [
    (0, {"hash": 5, "upgrade": (0, 13)}),
    (0, {"hash": 7, "upgrade": (0, 8)}),
    (0, {"seek": Seek(40), "upgrade": (0, 13)}),
    (0, {"seek": Seek(0), "upgrade": (0, 11)}),
    (13, {"hash": 1, "nodes": 2}),
    (13, {"hash": 0, "nodes": 3, "seek": Seek(34)}),
    (13, {"block": 0, "nodes": 3, "seek": Seek(34)}),
    (13, {"block": 9, "nodes": 2}),
    (5, {"block": 2, "nodes": 2, "upgrade": (5, 6)}),
    (5, {"hash": 2, "nodes": 2, "seek": Seek(14), "upgrade": (5, 6)}),
    (5, {"hash": 13, "upgrade": (5, 8)}),
    (5, {"block": 10, "upgrade": (5, 8)}),
    (11, {"seek": Seek(60), "upgrade": (11, 2)}),
    (1, {"upgrade": (1, 1)}),
]


def answer(known: int, request: dict[str, Any]) -> Proof:
    return make_proof(FEED, FEED.head(13), **request)


@pytest.mark.parametrize(("known", "request_"), REQUESTS, ids=str)
def test_every_kind_of_answer_verifies_and_what_it_shows_is_so(known: int, request_: dict[str, Any]) -> None:
    proof = parse_proof(encode_proof(answer(known, request_)))
    verified = verify_answer(MANIFEST, proof, Known(known))
    assert (verified.hash is not None) == ("hash" in request_)
    assert (verified.block is not None) == ("block" in request_)
    assert all(FEED.nodes[node.index] == node for node in verified.nodes)
    if verified.seek is not None:
        block = verified.seek.node.index // 2
        assert verified.seek.start == sum(len(one) for one in BLOCKS[: left_leaf(verified.seek.node.index)])
        assert verified.seek.node == FEED.nodes[2 * block] or verified.seek.node.index % 2
    if verified.upgrade is not None:
        assert verified.upgrade.head.length == 13
        assert verified.upgrade.roots == FEED.tree(13).roots


def test_two_thousand_changed_answers_are_refused_and_raise_what_they_should() -> None:
    random = Random(3)
    for number in range(2000):
        known, request_ = REQUESTS[number % len(REQUESTS)]
        good = answer(known, request_)
        encoded = bytearray(encode_proof(good))
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            kind, place = random.random(), random.randrange(len(encoded))
            if kind < 0.7:
                encoded[place] ^= random.randrange(1, 256)
            elif kind < 0.85:
                del encoded[place : place + random.randrange(1, 9)]
            else:
                encoded[place:place] = random.randbytes(random.randrange(1, 9))
        try:
            proof = parse_proof(bytes(encoded))
            verified = verify_answer(MANIFEST, proof, Known(known))
        except (MalformedError, VerificationError, MissingEvidenceError):
            continue
        same = replace(proof, request=0) == good
        asked_otherwise = proof.seek is not None and good.seek is not None and proof.seek.offset != good.seek.offset
        assert same or asked_otherwise
        assert all(FEED.nodes[node.index] == node for node in verified.nodes)


@pytest.mark.parametrize(("known", "request_"), REQUESTS, ids=str)
def test_a_list_of_nodes_with_one_more_or_one_less_is_refused(known: int, request_: dict[str, Any]) -> None:
    good = answer(known, request_)
    for name in ("block", "hash", "seek", "upgrade"):
        part = getattr(good, name)
        if part is None:
            continue
        for nodes in altered(part.nodes):
            with pytest.raises((MalformedError, VerificationError, MissingEvidenceError)):
                verify_answer(
                    MANIFEST, replace(good, **{name: replace(part, nodes=nodes)}), Known(known, only=full_roots(known))
                )


def altered(nodes: tuple[Node, ...]) -> Iterator[tuple[Node, ...]]:
    for place in range(len(nodes)):
        yield nodes[:place] + nodes[place + 1 :]
        yield (*nodes[:place], nodes[place], *nodes[place:])
        moved = nodes[place]._replace(index=nodes[place].index + 2)
        yield (*nodes[:place], moved, *nodes[place + 1 :])
        for changed in (nodes[place]._replace(hash=bytes(32)), nodes[place]._replace(size=nodes[place].size + 1)):
            yield (*nodes[:place], changed, *nodes[place + 1 :])
    yield (*nodes, FEED.nodes[25])


def test_sizes_that_only_their_sum_binds_are_not_passed_on() -> None:
    """Whoever answers can move bytes between two nodes that are both given: the hash above them stays the same."""
    good = answer(13, {"hash": 1, "nodes": 2})
    assert good.hash is not None
    node, beside, above = good.hash.nodes
    shifted = (node._replace(size=node.size + 3), beside._replace(size=beside.size - 3), above)
    verified = verify_answer(MANIFEST, replace(good, hash=replace(good.hash, nodes=shifted)), Known(13))
    assert {one.index for one in verified.nodes} == {3, 11, 7}
    assert all(FEED.nodes[one.index] == one for one in verified.nodes)


def test_the_shorter_tree_of_an_upgrade_is_not_bound_by_its_sizes() -> None:
    good = make_proof(FEED, FEED.head(4), upgrade=(0, 3))
    upgrade = upgrade_of(good)
    assert [node.index for node in (*upgrade.nodes, *upgrade.additional_nodes)] == [1, 4, 6]
    left, right = upgrade.nodes[1], upgrade.additional_nodes[0]
    shifted = replace(
        upgrade,
        nodes=(upgrade.nodes[0], left._replace(size=left.size + 1)),
        additional_nodes=(right._replace(size=right.size - 1),),
    )
    verified = verify_answer(MANIFEST, replace(good, upgrade=shifted), NOTHING_KNOWN)
    assert verified.upgrade is not None
    assert verified.upgrade.trees[3] != FEED.tree(3).tree_hash()
    assert {node.index for node in verified.nodes} == {1, 3, 5}
    assert all(FEED.nodes[node.index] == node for node in verified.nodes)


def test_a_node_that_is_the_first_of_another_list_is_refused() -> None:
    good = answer(13, {"hash": 1, "nodes": 2})
    with pytest.raises(VerificationError, match="not the first"):
        verify_answer(MANIFEST, replace(good, hash=HashPart(5, good.hash.nodes if good.hash else ())), Known(13))
    with pytest.raises(VerificationError, match="not the first"):
        verify_answer(MANIFEST, replace(good, hash=HashPart(1, ())), Known(13))


def test_a_byte_that_is_elsewhere_is_refused() -> None:
    good = answer(0, {"seek": Seek(40), "upgrade": (0, 13)})
    assert good.seek is not None
    verified = verify_answer(MANIFEST, good, NOTHING_KNOWN).seek
    assert verified is not None
    for offset in (verified.start - 1, verified.start + verified.node.size + 1, 0, 10**6):
        with pytest.raises(VerificationError, match="is not in node"):
            verify_answer(MANIFEST, replace(good, seek=replace(good.seek, offset=offset)), NOTHING_KNOWN)


def test_parts_that_answer_nothing_together_are_malformed() -> None:
    seek = answer(0, {"seek": Seek(40), "upgrade": (0, 13)}).seek
    alone = answer(13, {"hash": 1, "nodes": 2})
    for proof in (
        Proof(0, 0),
        Proof(0, 0, seek=seek),
        replace(alone, block=BlockPart(0, b"", ())),
        replace(alone, seek=SeekPart(3, ())),
    ):
        with pytest.raises(MalformedError):
            verify_answer(MANIFEST, proof, Known(13))


def test_a_way_to_a_byte_that_does_not_meet_the_path_is_refused() -> None:
    good = answer(13, {"hash": 0, "nodes": 3, "seek": Seek(34)})
    other = answer(13, {"hash": 16, "nodes": 2, "seek": Seek(52)})
    assert other.seek is not None
    with pytest.raises(VerificationError):
        verify_answer(MANIFEST, replace(good, seek=other.seek), Known(13))
    with pytest.raises(VerificationError):
        verify_answer(MANIFEST, replace(good, hash=other.hash), Known(13))


def test_an_upgrade_from_another_length_than_the_readers_is_refused() -> None:
    proof = answer(5, {"upgrade": (5, 8)})
    for length in (0, 4, 6, 13):
        with pytest.raises(MalformedError, match="the reader has"):
            verify_answer(MANIFEST, proof, Known(length))
    with pytest.raises(MissingEvidenceError, match="root 3"):
        verify_answer(MANIFEST, proof, Known(5, only={8}))

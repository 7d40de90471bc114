"""A feed against a plain list of blocks: whatever is appended, asked for and tampered with."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from identity.errors import AuditError
from identity.keys import Ed25519Signer
from ledger.flattree import depth, full_roots, right_leaf
from ledger.head import sign_head
from ledger.manifest import FeedDescription, device_manifest, feed_key
from ledger.merkle import Node, TreeBuilder
from ledger.proof import Proof, encode_proof, parse_evidence_proof, parse_proof
from ledger.proof_checking import verify_block, verify_proof, verify_upgrade
from ledger.proof_making import make_proof
from ledger.store import SignedHead

SIGNER = Ed25519Signer(b"\x07" * 32)
MANIFEST = device_manifest(SIGNER.public_key, FeedDescription(b"\x11" * 32, "notes"))
KEY = feed_key(MANIFEST)
BLOCKS = st.lists(st.binary(max_size=20), min_size=1, max_size=9)


class Feed:
    """Appends, keeps every signed head, and counts the nodes that proofs read."""

    def __init__(self) -> None:
        self.blocks: list[bytes] = []
        self.nodes: dict[int, Node] = {}
        self.heads: dict[int, SignedHead] = {}
        self.tree = TreeBuilder()
        self.reads = 0

    def append(self, blocks: list[bytes]) -> None:
        for completed in self.tree.append_many(blocks):
            self.nodes.update({node.index: node for node in completed})
        self.blocks += blocks
        tree_hash = self.tree.tree_hash()
        signature = sign_head(SIGNER, KEY, tree_hash, self.tree.length)
        self.heads[self.tree.length] = SignedHead(self.tree.length, tree_hash, signature)

    def node(self, index: int) -> Node:
        self.reads += 1
        return self.nodes[index]

    def block(self, index: int) -> bytes:
        return self.blocks[index]

    def roots(self, length: int) -> list[Node]:
        return [self.nodes[index] for index in full_roots(length)]


class FeedMachine(RuleBasedStateMachine):
    """A writer that appends, and a reader that follows it by proofs alone."""

    @initialize(blocks=BLOCKS)
    def start(self, blocks: list[bytes]) -> None:
        self.feed = Feed()
        self.feed.append(blocks)
        self.known: tuple[Node, ...] = ()
        self.length = 0

    @rule(blocks=BLOCKS)
    def append(self, blocks: list[bytes]) -> None:
        self.feed.append(blocks)

    @rule(data=st.data())
    def show_any_block_in_any_tree_under_any_later_head(self, data: st.DataObject) -> None:
        head = self.feed.heads[data.draw(st.sampled_from(sorted(self.feed.heads)))]
        length = data.draw(st.integers(1, head.length))
        index = data.draw(st.integers(0, length - 1))
        self.feed.reads = 0
        encoded = encode_proof(make_proof(self.feed, head, block=index, upgrade=(0, length)))
        assert self.feed.reads <= 4 * head.length.bit_length()
        verified = verify_proof(MANIFEST, parse_evidence_proof(encoded))
        assert (verified.index, verified.block) == (index, self.feed.blocks[index])
        model = TreeBuilder()
        model.append_many(self.feed.blocks[:length])
        assert verified.trees[length] == model.tree_hash()
        assert verified.trees[head.length] == verified.head.tree_hash == head.tree_hash

    @precondition(lambda self: self.length < self.feed.tree.length)
    @rule(data=st.data())
    def follow_to_any_later_head(self, data: st.DataObject) -> None:
        later = sorted(length for length in self.feed.heads if length > self.length)
        head = self.feed.heads[data.draw(st.sampled_from(later))]
        stop = data.draw(st.integers(self.length + 1, head.length))
        proof = make_proof(self.feed, head, upgrade=(self.length, stop - self.length))
        verified = verify_upgrade(MANIFEST, parse_proof(encode_proof(proof)), known=self.known)
        self.known, self.length = verified.roots, verified.head.length

    @precondition(lambda self: self.length > 0)
    @rule(data=st.data())
    def read_a_block_already_covered(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, self.length - 1))
        root = next(node.index for node in self.known if index <= right_leaf(node.index))
        head = self.feed.heads[self.length]
        proof = make_proof(self.feed, head, block=index, nodes=depth(root))
        assert verify_block(parse_proof(encode_proof(proof)), self.known).block == self.feed.blocks[index]

    @invariant()
    def the_reader_has_the_writers_roots(self) -> None:
        assert list(self.known) == self.feed.roots(self.length)


FeedMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=12, deadline=None)
TestFeed = FeedMachine.TestCase


@st.composite
def evidence(draw: st.DrawFn) -> tuple[Feed, Proof]:
    feed = Feed()
    for blocks in draw(st.lists(BLOCKS, min_size=1, max_size=4)):
        feed.append(blocks)
    head = feed.heads[draw(st.sampled_from(sorted(feed.heads)))]
    length = draw(st.integers(1, head.length))
    return feed, make_proof(feed, head, block=draw(st.integers(0, length - 1)), upgrade=(0, length))


@given(evidence(), st.data())
@settings(max_examples=150, deadline=None)
def test_a_changed_byte_is_refused_wherever_it_is(made: tuple[Feed, Proof], data: st.DataObject) -> None:
    encoded = bytearray(encode_proof(made[1]))
    position = data.draw(st.integers(0, len(encoded) - 1).filter(lambda at: at != 1))
    encoded[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(AuditError):
        verify_proof(MANIFEST, parse_proof(bytes(encoded)))


@given(evidence(), st.data())
@settings(max_examples=150, deadline=None)
def test_bytes_cut_out_or_put_in_are_refused(made: tuple[Feed, Proof], data: st.DataObject) -> None:
    encoded = encode_proof(made[1])
    start = data.draw(st.integers(2, len(encoded)))
    stop = data.draw(st.integers(start, min(len(encoded), start + 40)))
    changed = encoded[:start] + data.draw(st.binary(max_size=40)) + encoded[stop:]
    if changed == encoded:
        return
    with pytest.raises(AuditError):
        verify_proof(MANIFEST, parse_proof(changed))


@given(evidence(), evidence())
@settings(max_examples=100, deadline=None)
def test_parts_of_two_proofs_make_no_third(one: tuple[Feed, Proof], other: tuple[Feed, Proof]) -> None:
    """A block under another upgrade verifies only when both feeds have the same bytes there."""
    mixed = replace(one[1], upgrade=other[1].upgrade)
    try:
        verified = verify_proof(MANIFEST, mixed)
    except AuditError:
        return
    assert other[0].blocks[verified.index] == verified.block


@given(evidence(), st.data())
@settings(max_examples=100, deadline=None)
def test_a_block_verifies_at_no_other_index(made: tuple[Feed, Proof], data: st.DataObject) -> None:
    part = made[1].block
    assert part is not None
    index = data.draw(st.integers(0, 2 * len(made[0].blocks)).filter(lambda at: at != part.index))
    with pytest.raises(AuditError):
        verify_proof(MANIFEST, replace(made[1], block=replace(part, index=index)))


@given(BLOCKS, BLOCKS)
def test_two_histories_never_share_a_tree(one: list[bytes], other: list[bytes]) -> None:
    trees = []
    for blocks in (one, other):
        tree = TreeBuilder()
        tree.append_many(blocks)
        trees.append(tree.tree_hash())
    assert (trees[0] == trees[1]) == (one == other)

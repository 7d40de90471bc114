"""What to ask for next, and whether an answer is of what was asked: arithmetic over what is known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.errors import MalformedError, MissingEvidenceError, VerificationError
from identity.keys import Ed25519Signer
from ledger.flattree import full_roots, path
from ledger.head import sign_head
from ledger.manifest import FeedDescription, device_manifest, feed_key
from ledger.merkle import Node, TreeBuilder
from ledger.proof import HashPart, Proof, SeekPart, UpgradePart, encode_proof
from ledger.proof_making import answer_request, make_proof
from ledger.request import Request, Seek, Target, Upgrade
from ledger.sparse import (
    Position,
    ask_block,
    ask_byte,
    ask_growth,
    ask_head,
    ask_node,
    check_answer,
    find_fork,
    judge_answer,
    read_bytes,
)
from ledger.store import SignedHead

SIGNER = Ed25519Signer(b"\x07" * 32)
MANIFEST = device_manifest(SIGNER.public_key, FeedDescription(b"\x11" * 32, "notes"))
BLOCKS = [bytes([n]) * (n * 7 % 11) for n in range(23)]
WHOLE = b"".join(BLOCKS)


class Feed:
    """Blocks and nodes in memory."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self.blocks = list(blocks)
        self.nodes = {node.index: node for done in TreeBuilder().append_many(self.blocks) for node in done}

    def node(self, index: int) -> Node:
        return self.nodes[index]

    def block(self, index: int) -> bytes:
        return self.blocks[index]

    def head(self) -> SignedHead:
        tree = TreeBuilder()
        tree.append_many(self.blocks)
        signature = sign_head(SIGNER, feed_key(MANIFEST), tree.tree_hash(), tree.length)
        return SignedHead(tree.length, tree.tree_hash(), signature)


FEED = Feed(BLOCKS)


class Held:
    """The roots of a tree, and what was added to them."""

    def __init__(self, length: int = 23) -> None:
        self.length = length
        self.nodes = {index: FEED.nodes[index] for index in full_roots(length)}
        self.blocks: dict[int, bytes] = {}

    def find(self, index: int) -> Node | None:
        return self.nodes.get(index)

    def block(self, index: int) -> bytes | None:
        return self.blocks.get(index)

    def learn(self, request: Request) -> None:
        learned = judge_answer(MANIFEST, self, request, encode_proof(answer_request(FEED, FEED.head(), request)))
        self.nodes.update({node.index: node for node in learned.nodes})
        if learned.block is not None:
            self.blocks[learned.block[0]] = learned.block[1]


def test_a_block_is_asked_for_up_to_the_next_known_node() -> None:
    held = Held()
    assert ask_block(held, 5) == Request(block=Target(5, 4))
    held.learn(Request(block=Target(4, 4)))
    assert ask_block(held, 5) == Request(block=Target(5, 0))
    assert ask_block(held, 7) == Request(block=Target(7, 1))
    assert ask_block(held, 4) is None
    assert ask_block(held, 22) == Request(block=Target(22, 0))
    with pytest.raises(MissingEvidenceError, match="beyond the 23 blocks"):
        ask_block(held, 23)


def test_a_node_is_asked_for_when_it_is_not_known() -> None:
    held = Held()
    assert ask_node(held, 15) is None
    assert ask_node(held, 3) == Request(hash=Target(3, 2))
    with pytest.raises(MissingEvidenceError):
        ask_node(held, 31)


def test_growth_is_asked_for_from_where_the_reader_is() -> None:
    assert ask_growth(Held(8)) == Request(upgrade=Upgrade(8, 1))
    assert ask_head(8) == Request(upgrade=Upgrade(0, 8))


@given(st.integers(0, len(WHOLE) - 1))
def test_every_byte_is_found_in_few_steps(offset: int) -> None:
    held = Held()
    steps = 0
    while isinstance(place := ask_byte(held, offset), Request):
        held.learn(place)
        steps += 1
    assert steps <= 5
    assert sum(map(len, BLOCKS[: place.block])) + place.offset == offset
    assert place.offset < len(BLOCKS[place.block])
    assert all(FEED.nodes[index] == node for index, node in held.nodes.items())
    assert all(set(path(index, top)) <= held.nodes.keys() for index, top in climbs(held)), "closed upwards"


def climbs(held: Held) -> list[tuple[int, int]]:
    """Each known node with the root that it is under."""
    roots = full_roots(held.length)
    return [
        (index, next(root for root in roots if abs(index - root) <= (root ^ (root + 1)) // 2)) for index in held.nodes
    ]


def test_the_last_step_asks_for_a_block_because_hashes_do_not_tell_two_sizes_apart() -> None:
    held = Held()
    request = ask_byte(held, 0)
    assert request == Request(hash=Target(0, 4), seek=Seek(0))
    held.learn(request)
    assert ask_byte(held, 3) == Request(block=Target(0, 1))


@pytest.mark.parametrize("offset", [len(WHOLE), 10**9, -1])
def test_a_byte_that_the_feed_does_not_have(offset: int) -> None:
    with pytest.raises(MissingEvidenceError, match="is not in the"):
        ask_byte(Held(), offset)


def test_reading_stops_where_nothing_is_held() -> None:
    held = Held()
    for index in range(6):
        request = ask_block(held, index)
        assert request is not None
        held.learn(request)
    begin = len(b"".join(BLOCKS[:6]))
    assert b"".join(read_bytes(held, 0, begin)) == WHOLE[:begin]
    assert b"".join(read_bytes(held, 3, 9)) == WHOLE[3:12]
    assert isinstance(ask_byte(held, 0), Position)
    with pytest.raises(MissingEvidenceError, match=r"not held|not known"):
        b"".join(read_bytes(held, 3, begin))


BLOCK = make_proof(FEED, FEED.head(), block=3, nodes=1)
NODE = make_proof(FEED, FEED.head(), hash=3, nodes=1)
GROWN = make_proof(FEED, FEED.head(), upgrade=(8, 3))


@pytest.mark.parametrize(
    ("request_", "proof"),
    [
        (Request(block=Target(4, 1)), BLOCK),
        (Request(hash=Target(3, 1)), BLOCK),
        (Request(block=Target(3, 1)), NODE),
        (Request(hash=Target(5, 1)), NODE),
        (Request(block=Target(3, 1), upgrade=Upgrade(8, 3)), BLOCK),
        (Request(block=Target(3, 1)), replace(BLOCK, upgrade=GROWN.upgrade)),
        (Request(upgrade=Upgrade(8, 2)), GROWN),
        (Request(upgrade=Upgrade(7, 3)), GROWN),
        (Request(hash=Target(3, 1)), replace(NODE, seek=SeekPart(3, ()))),
        (Request(hash=Target(3, 1), seek=Seek(4)), replace(NODE, seek=SeekPart(3, ()))),
    ],
)
def test_an_answer_to_something_else_is_refused(request_: Request, proof: Proof) -> None:
    with pytest.raises(VerificationError):
        check_answer(request_, proof)


def test_an_answer_of_what_was_asked_passes() -> None:
    check_answer(Request(block=Target(3, 1)), BLOCK)
    check_answer(Request(hash=Target(3, 1), seek=Seek(4)), NODE)
    check_answer(Request(upgrade=Upgrade(8, 3)), GROWN)
    within = Proof(0, 0, upgrade=UpgradePart(0, 5, (), (), b""))
    check_answer(Request(upgrade=Upgrade(0, 1)), within, prologue=5)
    with pytest.raises(VerificationError):
        check_answer(Request(upgrade=Upgrade(5, 1)), within, prologue=5)


def test_an_honest_head_is_no_fork_at_any_length() -> None:
    for length in (1, 7, 8, 22, 23):
        early = Feed(BLOCKS[:length])
        data = encode_proof(make_proof(FEED, FEED.head(), upgrade=(0, length)))
        assert find_fork(MANIFEST, early.head(), early.nodes.get, data) is None
        shorter = encode_proof(make_proof(early, early.head(), upgrade=(0, 1)))
        assert find_fork(MANIFEST, FEED.head(), FEED.nodes.get, shorter) is None


def test_moved_sizes_accuse_nobody() -> None:
    """Whoever answers can move bytes between two roots that the signed tree merges; their hashes stay the same."""
    early = Feed(BLOCKS[:3])
    proof = make_proof(FEED, replace_head(4), upgrade=(0, 3))
    assert proof.upgrade is not None
    left, right = proof.upgrade.nodes[1], proof.upgrade.additional_nodes[0]
    shifted = replace(
        proof.upgrade,
        nodes=(proof.upgrade.nodes[0], left._replace(size=left.size + 1)),
        additional_nodes=(right._replace(size=right.size - 1),),
    )
    data = encode_proof(replace(proof, upgrade=shifted))
    assert find_fork(MANIFEST, early.head(), early.nodes.get, data) is None


def replace_head(length: int) -> SignedHead:
    return Feed(BLOCKS[:length]).head()


def test_what_shows_no_head_from_nothing_is_not_compared() -> None:
    for proof in (GROWN, NODE, Proof(0, 0, hash=HashPart(1, ()))):
        with pytest.raises(MalformedError, match="upgrade from 0"):
            find_fork(MANIFEST, FEED.head(), FEED.nodes.get, encode_proof(proof))
    lacking = encode_proof(make_proof(FEED, FEED.head(), upgrade=(0, 7)))
    with pytest.raises(MissingEvidenceError):
        find_fork(MANIFEST, Feed(BLOCKS[:7]).head(), {}.get, lacking)

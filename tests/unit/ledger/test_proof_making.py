"""Making proofs: what is asked for is answered with what belongs in it, and what cannot be answered is refused."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from identity.errors import MalformedError, MissingEvidenceError
from identity.keys import Ed25519Signer
from ledger.head import sign_head
from ledger.manifest import FeedDescription, device_manifest, feed_key
from ledger.merkle import Node, TreeBuilder
from ledger.proof import Proof
from ledger.proof_making import answer_request, make_proof
from ledger.request import Request, Seek, Target, Upgrade
from ledger.store import SignedHead

SIGNER = Ed25519Signer(b"\x07" * 32)
MANIFEST = device_manifest(SIGNER.public_key, FeedDescription(b"\x11" * 32, "notes"))
BLOCKS = [bytes([n]) * (n * 7 % 11) for n in range(40)]


class Feed:
    """Blocks and nodes in memory."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self.blocks = list(blocks)
        self.nodes = {node.index: node for done in TreeBuilder().append_many(self.blocks) for node in done}

    def node(self, index: int) -> Node:
        if index not in self.nodes:
            raise MissingEvidenceError(f"node {index}")
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
        {"hash": 7, "nodes": 1},
        {"hash": 2**52},
        {"hash": 13, "upgrade": (0, 7)},
        {"hash": 3, "seek": Seek(60)},
        {"block": 9, "seek": Seek(3)},
        {"block": 9, "nodes": 2, "upgrade": (10, 1)},
    ],
    ids=str,
)
def test_a_request_beyond_the_head_is_refused(request_: dict[str, object]) -> None:
    with pytest.raises(MissingEvidenceError):
        make_proof(FEED, FEED.head(11), **request_)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "request_",
    [
        {"block": -1},
        {"upgrade": (0, 0)},
        {"upgrade": (-1, 5)},
        {"block": 1, "nodes": -1},
        {},
        {"seek": Seek(3)},
        {"block": 3, "hash": 3},
        {"hash": -1},
        {"block": 3, "seek": Seek(5), "upgrade": (0, 11)},
        {"hash": 3, "seek": Seek(5), "upgrade": (0, 11)},
    ],
    ids=str,
)
def test_a_request_that_no_feed_could_answer_is_refused(request_: dict[str, object]) -> None:
    with pytest.raises(MalformedError):
        make_proof(FEED, FEED.head(11), **request_)  # type: ignore[arg-type]


def test_an_empty_feed_proves_nothing() -> None:
    with pytest.raises((MalformedError, MissingEvidenceError)):
        make_proof(FEED, SignedHead(0, bytes(32), b""), block=0)


# --- nodes, bytes and prologues ---


def shape(proof: Proof) -> dict[str, object]:
    """The indices that a proof carries."""
    shown: dict[str, object] = {}
    for name, part in (("block", proof.block), ("hash", proof.hash), ("seek", proof.seek), ("upgrade", proof.upgrade)):
        if part is not None:
            shown[name] = [node.index for node in part.nodes]
    if proof.upgrade is not None:
        shown["more"] = [node.index for node in proof.upgrade.additional_nodes]
    return shown


def test_a_node_is_first_in_its_own_list() -> None:
    assert shape(make_proof(FEED, FEED.head(13), hash=1, nodes=2)) == {"hash": [1, 5, 11]}
    assert shape(make_proof(FEED, FEED.head(13), hash=7)) == {"hash": [7]}
    assert shape(make_proof(FEED, FEED.head(13), hash=5, upgrade=(0, 13))) == {
        "hash": [5, 1, 11],
        "upgrade": [19, 24],
        "more": [],
    }
    assert shape(make_proof(FEED, FEED.head(14), hash=3, nodes=1, upgrade=(13, 1))) == {
        "hash": [3, 11],
        "upgrade": [26],
        "more": [],
    }
    assert shape(make_proof(FEED, FEED.head(8), hash=7, upgrade=(0, 8))) == {"hash": [7], "upgrade": [], "more": []}


def offset_of(block: int) -> int:
    return sum(len(one) for one in BLOCKS[:block])


def test_a_byte_is_led_to_under_an_upgrade() -> None:
    within = make_proof(FEED, FEED.head(13), seek=Seek(offset_of(9) + 1), upgrade=(0, 13))
    assert shape(within) == {"seek": [18, 16, 21], "upgrade": [7, 24], "more": []}
    border = make_proof(FEED, FEED.head(13), seek=Seek(offset_of(4)), upgrade=(0, 13))
    assert shape(border) == {"seek": [3, 11], "upgrade": [19, 24], "more": []}
    first = make_proof(FEED, FEED.head(13), seek=Seek(0), upgrade=(0, 13))
    assert shape(first) == {"seek": [7], "upgrade": [19, 24], "more": []}


def test_a_byte_that_the_upgrade_does_not_hold_is_left_out() -> None:
    beyond = make_proof(FEED, FEED.head(13), seek=Seek(offset_of(13) + 1), upgrade=(0, 13))
    assert shape(beyond) == {"upgrade": [7, 19, 24], "more": []}
    before = make_proof(FEED, FEED.head(13), seek=Seek(5), upgrade=(8, 5))
    assert shape(before) == {"upgrade": [19, 24], "more": []}


def test_a_byte_is_led_to_beside_a_block_or_node_that_leads_to_the_same() -> None:
    proof = make_proof(FEED, FEED.head(13), hash=0, nodes=3, seek=Seek(offset_of(6) + 1))
    assert shape(proof) == {"hash": [0, 2, 5], "seek": [12, 14, 9]}
    beside = make_proof(FEED, FEED.head(14), block=0, nodes=3, seek=Seek(offset_of(6) + 1), upgrade=(13, 1))
    assert shape(beside) == {"block": [2, 5], "seek": [12, 14, 9], "upgrade": [26], "more": []}
    same = make_proof(FEED, FEED.head(13), hash=0, nodes=3, seek=Seek(offset_of(1)))
    assert shape(same) == {"hash": [0, 2, 5, 11]}


def test_padding_is_not_counted() -> None:
    feed = Feed([b"p" * 8 + b"x" * 10] * 6)
    proof = make_proof(feed, feed.head(6), seek=Seek(25, padding=8), upgrade=(0, 6))
    assert shape(proof)["seek"] == [4, 6, 1]


def test_a_source_with_holes_answers_with_the_last_node_that_it_holds() -> None:
    feed = Feed(BLOCKS)
    del feed.nodes[16], feed.nodes[18]
    proof = make_proof(feed, feed.head(13), seek=Seek(offset_of(9) + 1), upgrade=(0, 13))
    assert shape(proof)["seek"] == [17, 21]
    with pytest.raises(MissingEvidenceError):
        make_proof(feed, feed.head(13), block=9, upgrade=(0, 13))


def test_within_a_prologue_the_answer_leads_to_its_end() -> None:
    for asked in ((0, 2), (3, 1), (0, 11)):
        proof = make_proof(FEED, FEED.head(11), upgrade=asked, prologue=5)
        assert proof.upgrade is not None
        assert (proof.upgrade.start, proof.upgrade.length) == (0, 5)
    with pytest.raises(MissingEvidenceError):
        make_proof(FEED, FEED.head(11), block=6, upgrade=(0, 11), prologue=5)
    proof = make_proof(FEED, FEED.head(11), block=6, upgrade=(5, 6), prologue=5)
    assert proof.upgrade is not None
    assert proof.upgrade.start == 5


def test_a_parsed_request_is_answered_like_its_arguments() -> None:
    request = Request(block=Target(5, 3), upgrade=Upgrade(11, 2), id=9)
    made = make_proof(FEED, FEED.head(13), block=5, nodes=3, upgrade=(11, 2), request=9)
    assert answer_request(FEED, FEED.head(13), request) == made
    request = Request(hash=Target(0, 3), seek=Seek(20))
    assert answer_request(FEED, FEED.head(13), request) == make_proof(
        FEED, FEED.head(13), hash=0, nodes=3, seek=Seek(20)
    )

"""The worked example of docs/spec/feed.md, recomputed from the seed, the names and the blocks that it states."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from identity.encoding import decode
from identity.keys import Ed25519Signer
from identity.textforms import to_zbase32
from ledger.flattree import covering
from ledger.fork import branch_of, encode_fork, make_fork, parse_fork, verify_fork
from ledger.head import sign_head, signable, verify_head
from ledger.manifest import (
    FeedDescription,
    describe,
    device_manifest,
    encode_description,
    encode_manifest,
    feed_key,
    parse_manifest,
)
from ledger.merkle import Node, TreeBuilder, leaf_node, parent_node
from ledger.proof import encode_proof, parse_evidence_proof
from ledger.proof_checking import Roots, verify_answer, verify_proof
from ledger.proof_making import answer_request, make_proof
from ledger.request import Request, Seek, Target, encode_request, parse_request
from ledger.store import SignedHead

SPEC = (Path(__file__).resolve().parents[3] / "docs" / "spec" / "feed.md").read_text("utf-8")


def read_values() -> dict[str, bytes]:
    """The ``name   hex`` lines of the fenced text blocks; a line without a name continues the one before."""
    values: dict[str, str] = {}
    name = ""
    for fence in re.findall(r"```text\n(.*?)```", SPEC, re.DOTALL):
        for line in filter(None, fence.split("\n")):
            label, digits = line[:14].strip(), line[14:].strip()
            name = label or name
            values[name] = values.get(name, "") + digits
    return {label: bytes.fromhex(digits) for label, digits in values.items()}


VALUES = read_values()
SIGNER = Ed25519Signer(VALUES["device seed"])
BLOCKS = [VALUES["block 0"], VALUES["block 1"]]


class Feed:
    """The example's two blocks."""

    nodes: dict[int, Node] = {node.index: node for done in TreeBuilder().append_many(BLOCKS) for node in done}

    def node(self, index: int) -> Node:
        return self.nodes[index]

    def block(self, index: int) -> bytes:
        return BLOCKS[index]


def test_the_example_states_what_it_says() -> None:
    assert BLOCKS == [b"first entry", b"second entry"]
    assert VALUES["device seed"] == bytes([0x42]) * 32
    assert decode(VALUES["user data"]) == {"identity": VALUES["identity"], "name": "journal", "continues": None}
    assert f"`{to_zbase32(VALUES['feed key'])}`" in SPEC


def test_manifest_and_key() -> None:
    description = FeedDescription(VALUES["identity"], "journal")
    manifest = device_manifest(SIGNER.public_key, description)
    assert SIGNER.public_key == VALUES["device key"]
    assert encode_description(description) == VALUES["user data"]
    assert encode_manifest(manifest) == VALUES["manifest"]
    assert feed_key(manifest) == VALUES["feed key"]
    assert describe(parse_manifest(VALUES["manifest"])) == description


def test_hashes() -> None:
    leaves = [leaf_node(index, block) for index, block in enumerate(BLOCKS)]
    assert [leaf.hash for leaf in leaves] == [VALUES["leaf 0"], VALUES["leaf 1"]]
    assert parent_node(*leaves).hash == VALUES["parent"]


@pytest.mark.parametrize("length", [1, 2])
def test_heads(length: int) -> None:
    tree = TreeBuilder()
    tree.append_many(BLOCKS[:length])
    key, tree_hash, signature = VALUES["feed key"], VALUES[f"tree {length}"], VALUES[f"signature {length}"]
    assert tree.tree_hash() == tree_hash
    assert signable(key, tree_hash, length) == VALUES[f"signable {length}"]
    assert sign_head(SIGNER, key, tree_hash, length) == signature
    verify_head(parse_manifest(VALUES["manifest"]), tree_hash, length, 0, signature)


def test_proof() -> None:
    head = SignedHead(2, VALUES["tree 2"], VALUES["signature 2"])
    assert encode_proof(make_proof(Feed(), head, block=0, upgrade=(0, 1))) == VALUES["proof"]
    verified = verify_proof(parse_manifest(VALUES["manifest"]), parse_evidence_proof(VALUES["proof"]))
    assert (verified.index, verified.block, verified.leaf_hash) == (0, b"first entry", VALUES["leaf 0"])
    assert verified.trees == {1: VALUES["tree 1"], 2: VALUES["tree 2"]}


def test_a_request_and_its_answer() -> None:
    head = SignedHead(2, VALUES["tree 2"], VALUES["signature 2"])
    request = parse_request(VALUES["request"])
    assert request == Request(hash=Target(0, 1), seek=Seek(12))
    assert encode_request(request) == VALUES["request"]
    answer = answer_request(Feed(), head, request)
    assert encode_proof(answer) == VALUES["answer"]
    held = Roots([Feed.nodes[1]], 2)
    verified = verify_answer(parse_manifest(VALUES["manifest"]), answer, held)
    assert verified.hash == Feed.nodes[0]
    assert [node.index for node in verified.nodes] == [1]


def test_fork_proof() -> None:
    manifest = parse_manifest(VALUES["manifest"])
    other = TreeBuilder()
    (nodes,) = other.append_many([b"another entry"])
    signature = sign_head(SIGNER, VALUES["feed key"], other.tree_hash(), 1)
    short = branch_of(SignedHead(1, other.tree_hash(), signature), 1, {0: nodes[0]}.__getitem__)
    long = branch_of(SignedHead(2, VALUES["tree 2"], VALUES["signature 2"]), 1, Feed.nodes.__getitem__)
    assert encode_fork(make_fork(manifest, long, short)) == VALUES["fork proof"]
    fork = verify_fork(manifest, parse_fork(VALUES["fork proof"]))
    assert (fork.first.length, fork.second.length) == (1, 2)


def test_the_positions_that_section_2_2_names() -> None:
    assert covering(0, 13) == [7, 19, 24]
    assert covering(3, 13) == [6, 11, 19, 24]

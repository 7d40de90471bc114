"""Byte compatibility with stock Hypercore: what it made is remade byte for byte, verified, and refused when altered.

Two sets of vectors. ``hypercore.json`` came with the design and stands beside the repository; its tests skip when it is
absent. ``hypercore_feeds.json`` stands here, made by ``make_hypercore_feeds.mjs``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from identity.errors import AuditError, UnsupportedVersion
from identity.keys import Ed25519Signer
from ledger.codec import Reader, encode_uint
from ledger.head import encode_envelope, parse_envelope, sign_head, signable, verify_head
from ledger.manifest import (
    DEFAULT_NAMESPACE,
    Manifest,
    ManifestSigner,
    Prologue,
    describe,
    encode_manifest,
    feed_key,
    parse_manifest,
)
from ledger.merkle import Node, TreeBuilder
from ledger.proof import (
    Proof,
    VerifiedProof,
    VerifiedUpgrade,
    encode_proof,
    make_proof,
    parse_evidence_proof,
    parse_proof,
    verify_block,
    verify_proof,
    verify_upgrade,
)
from ledger.store import SignedHead

DESIGN_VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors" / "hypercore.json"
FEED_VECTORS = Path(__file__).resolve().parent / "hypercore_feeds.json"
FLIPS = (0x01, 0x80, 0xFF)

unhex = bytes.fromhex


@pytest.fixture(scope="module")
def vectors() -> dict[str, Any]:
    if not DESIGN_VECTORS.exists():
        pytest.skip("the design's vectors (../shared/vectors/hypercore.json) are not here")
    loaded: dict[str, Any] = json.loads(DESIGN_VECTORS.read_text())
    return loaded


@pytest.fixture(scope="module")
def feeds() -> dict[str, Any]:
    loaded = json.loads(FEED_VECTORS.read_text())
    return {feed["name"]: feed for feed in loaded["feeds"]}


class Feed:
    """A feed's blocks and nodes in memory."""

    def __init__(self, blocks: list[bytes]) -> None:
        self.blocks = blocks
        self.nodes = {node.index: node for done in TreeBuilder().append_many(blocks) for node in done}

    def node(self, index: int) -> Node:
        return self.nodes[index]

    def block(self, index: int) -> bytes:
        return self.blocks[index]

    def tree(self, length: int) -> TreeBuilder:
        built = TreeBuilder()
        built.append_many(self.blocks[:length])
        return built


def remake(feed: Feed, head: SignedHead, request: dict[str, Any], *, request_id: int, fork: int) -> Proof:
    block, upgrade = request.get("block"), request.get("upgrade")
    return make_proof(
        feed,
        head,
        block=block and block["index"],
        nodes=block["nodes"] if block else 0,
        upgrade=upgrade and (upgrade["start"], upgrade["length"]),
        request=request_id,
        fork=fork,
    )


def verify(manifest: Manifest, proof: Proof, feed: Feed, length: int, *, fork: int = 0) -> None:
    """Verify with all that a reader could know: the roots where the upgrade starts, or those of ``length`` blocks."""
    if proof.upgrade is None:
        block = verify_block(proof, feed.tree(length).roots, fork=fork)
        assert block.block == feed.blocks[block.index]
        return
    start, stop = proof.upgrade.start, proof.upgrade.start + proof.upgrade.length
    known = feed.tree(start).roots
    if proof.block is None:
        verified: VerifiedProof | VerifiedUpgrade = verify_upgrade(manifest, proof, known=known, fork=fork)
    else:
        verified = shown = verify_proof(manifest, proof, known=known, fork=fork)
        assert (shown.index, shown.block) == (proof.block.index, feed.blocks[proof.block.index])
    assert verified.trees == {n: feed.tree(n).tree_hash() for n in (stop, length)}
    assert verified.head.length == length


def design_proofs(vectors: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for state in vectors["single"]["lengths"]:
        for made in state.get("proofs", []):
            yield state, made


def design_feed(vectors: dict[str, Any]) -> Feed:
    return Feed([unhex(block) for block in vectors["single"]["blocks"]])


def head_of(state: dict[str, Any]) -> SignedHead:
    return SignedHead(state["length"], unhex(state["treeHash"]), unhex(state["signature"]))


# --- the design's vectors ---


def test_uints(vectors: dict[str, Any]) -> None:
    for vector in vectors["uint"]:
        assert encode_uint(vector["n"]).hex() == vector["hex"]
        reader = Reader(unhex(vector["hex"]), "vector")
        assert reader.uint("n") == vector["n"]
        reader.done()


def test_namespaces(vectors: dict[str, Any]) -> None:
    assert vectors["namespaces"]["DEFAULT_NAMESPACE"] == DEFAULT_NAMESPACE.hex()
    assert signable(bytes(32), bytes(32), 0)[:32].hex() == vectors["namespaces"]["TREE"]


def as_manifest(vector: dict[str, Any]) -> Manifest:
    prologue, linked, user_data = vector["prologue"], vector["linked"], vector["userData"]
    return Manifest(
        vector["version"],
        vector["quorum"],
        tuple(ManifestSigner(unhex(s["publicKey"]), unhex(s["namespace"])) for s in vector["signers"]),
        vector["allowPatch"],
        None if prologue is None else Prologue(unhex(prologue["hash"]), prologue["length"]),
        None if linked is None else tuple(unhex(key) for key in linked),
        None if user_data is None else unhex(user_data),
    )


def test_manifests_of_every_version(vectors: dict[str, Any]) -> None:
    made = [vectors["single"]["manifest"], *vectors["manifests"]]
    assert {vector["version"] for vector in made} == {0, 1, 2}
    for vector in made:
        manifest = as_manifest(vector)
        assert encode_manifest(manifest).hex() == vector["encoded"]
        assert parse_manifest(unhex(vector["encoded"])) == manifest
        assert feed_key(manifest).hex() == vector["manifestHash"]
    assert vectors["single"]["manifest"]["manifestHash"] == vectors["single"]["key"]


def test_trees_signables_and_signatures(vectors: dict[str, Any]) -> None:
    single = vectors["single"]
    manifest, signer = as_manifest(single["manifest"]), Ed25519Signer(unhex(single["seed"]))
    key, tree = feed_key(manifest), TreeBuilder()
    for state, block in zip(single["lengths"], single["blocks"], strict=True):
        tree.append(unhex(block))
        assert (tree.length, tree.byte_length) == (state["length"], state["byteLength"])
        assert [(n.index, n.size, n.hash.hex()) for n in tree.roots] == [
            (root["index"], root["size"], root["hash"]) for root in state["roots"]
        ]
        assert tree.tree_hash().hex() == state["treeHash"]
        assert signable(key, tree.tree_hash(), tree.length).hex() == state["signable"]
        assert sign_head(signer, key, tree.tree_hash(), tree.length).hex() == state["signature"]
        verify_head(manifest, tree.tree_hash(), tree.length, 0, unhex(state["signature"]))


def test_states_after_a_truncation(vectors: dict[str, Any]) -> None:
    single, fork = vectors["single"], vectors["single"]["fork"]
    manifest = as_manifest(single["manifest"])
    blocks = [unhex(block) for block in single["blocks"][: fork["truncatedTo"]]] + [unhex(fork["appended"])]
    feed = Feed(blocks)
    for state in (fork["afterTruncate"], fork["afterAppend"]):
        tree_hash = feed.tree(state["length"]).tree_hash()
        assert tree_hash.hex() == state["treeHash"]
        assert signable(unhex(single["key"]), tree_hash, state["length"], state["fork"]).hex() == state["signable"]
        verify_head(manifest, tree_hash, state["length"], state["fork"], unhex(state["signature"]))
    proof = parse_proof(unhex(fork["reorgProof"]["wireData"]))
    made = remake(feed, head_of(fork["afterAppend"]), fork["reorgProof"]["request"], request_id=proof.request, fork=1)
    assert encode_proof(made).hex() == fork["reorgProof"]["wireData"]
    verify(manifest, proof, feed, 12, fork=1)
    with pytest.raises(AuditError):
        verify(manifest, proof, feed, 12)


def test_every_wire_message_reencodes_to_itself(vectors: dict[str, Any]) -> None:
    count = 0
    for _, made in design_proofs(vectors):
        assert encode_proof(parse_proof(unhex(made["wireData"]))).hex() == made["wireData"]
        count += 1
    assert count == 54


def test_block_and_upgrade_proofs_are_remade_and_verified(vectors: dict[str, Any]) -> None:
    manifest, feed, count = as_manifest(vectors["single"]["manifest"]), design_feed(vectors), 0
    for state, made in design_proofs(vectors):
        proof = parse_proof(unhex(made["wireData"]))
        if "hash" in made["request"] or "seek" in made["request"]:
            continue
        remade = remake(feed, head_of(state), made["request"], request_id=proof.request, fork=0)
        assert encode_proof(remade).hex() == made["wireData"]
        verify(manifest, proof, feed, state["length"])
        count += 1
    assert count == 44


def test_hash_and_seek_proofs_are_parsed_and_unsupported_by_name(vectors: dict[str, Any]) -> None:
    manifest = as_manifest(vectors["single"]["manifest"])
    feed, count = design_feed(vectors), 0
    for state, made in design_proofs(vectors):
        proof = parse_proof(unhex(made["wireData"]))
        if proof.seek is not None or proof.hash is not None:
            with pytest.raises(UnsupportedVersion, match="hash and seek"):
                verify(manifest, proof, feed, state["length"])
            count += 1
    assert count == 10


def test_every_changed_byte_of_the_design_proofs_is_refused(vectors: dict[str, Any]) -> None:
    manifest, feed = as_manifest(vectors["single"]["manifest"]), design_feed(vectors)
    tried = 0
    for state, made in design_proofs(vectors):
        if "hash" in made["request"] or "seek" in made["request"] or state["length"] not in (1, 5, 13, 21):
            continue
        tried += refuse_every_change(manifest, unhex(made["wireData"]), feed, state["length"])
    assert tried > 10_000


def refuse_every_change(manifest: Manifest, encoded: bytes, feed: Feed, length: int) -> int:
    """Change each byte but the request id (byte 1) in three ways; each change must be refused. Returns how many."""
    tried = 0
    for position in (0, *range(2, len(encoded))):
        for flip in FLIPS:
            changed = bytearray(encoded)
            changed[position] ^= flip
            with pytest.raises(AuditError):
                verify(manifest, parse_proof(bytes(changed)), feed, length)
            tried += 1
    return tried


def test_multisignatures_and_patches(vectors: dict[str, Any]) -> None:
    manifests = {vector["manifestHash"]: as_manifest(vector) for vector in vectors["manifests"]}
    feed = design_feed(vectors)
    for vector in vectors["multisig"]:
        manifest, length, signature = manifests[vector["key"]], vector["certifiedLength"], unhex(vector["signature"])
        tree = feed.tree(length)
        assert tree.tree_hash().hex() == vector["treeHash"]
        assert encode_envelope(parse_envelope(signature)) == signature
        verify_head(manifest, tree.tree_hash(), length, 0, signature, roots=tree.roots)
        for position in range(len(signature)):
            for flip in FLIPS:
                changed = bytearray(signature)
                changed[position] ^= flip
                with pytest.raises(AuditError):
                    verify_head(manifest, tree.tree_hash(), length, 0, bytes(changed), roots=tree.roots)


# --- feeds made by stock Hypercore for this repository ---

NAMES = [
    "device feed, manifest version 2 with user data",
    "single signer, manifest version 0",
    "prologue of 5 blocks and a signer",
]


@pytest.mark.parametrize("name", NAMES)
def test_feeds_of_stock_hypercore(feeds: dict[str, Any], name: str) -> None:
    vector = feeds[name]
    manifest, feed = parse_manifest(unhex(vector["manifest"])), Feed([unhex(block) for block in vector["blocks"]])
    assert feed_key(manifest).hex() == vector["key"]
    heads = {}
    for state in vector["heads"]:
        head = head_of(state)
        assert feed.tree(head.length).tree_hash() == head.tree_hash
        verify_head(manifest, head.tree_hash, head.length, 0, head.signature)
        heads[head.length] = head
    for made in vector["proofs"]:
        remade = remake(feed, heads[made["length"]], made["request"], request_id=0, fork=0)
        assert encode_proof(remade).hex() == made["wireData"]
        verify(manifest, remade, feed, made["length"])


def test_heads_of_a_device_feed_are_signed_byte_for_byte(feeds: dict[str, Any]) -> None:
    vector = feeds[NAMES[0]]
    description = describe(parse_manifest(unhex(vector["manifest"])))
    assert description is not None
    assert description.name == "ledger of branch 7"
    signer = Ed25519Signer(bytes([vector["seeds"][0]]) * 32)
    for state in vector["heads"]:
        signed = sign_head(signer, unhex(vector["key"]), unhex(state["treeHash"]), state["length"])
        assert signed.hex() == state["signature"]


def test_stock_hypercore_accepted_the_evidence_that_we_make(feeds: dict[str, Any]) -> None:
    vector = feeds[NAMES[0]]
    manifest = parse_manifest(unhex(vector["manifest"]))
    evidence: list[VerifiedProof] = []
    for made in vector["proofs"]:
        if made["request"]["upgrade"]["start"] == 0:
            assert made["accepted"] == made["length"]
            evidence.append(verify_proof(manifest, parse_evidence_proof(unhex(made["wireData"]))))
    assert len(evidence) == 11
    assert any(len(verified.trees) == 2 for verified in evidence)
    assert any(not verified.block for verified in evidence), "an empty block is a block"


@pytest.mark.parametrize("name", NAMES)
def test_every_changed_byte_of_these_proofs_is_refused(feeds: dict[str, Any], name: str) -> None:
    vector = feeds[name]
    manifest, feed = parse_manifest(unhex(vector["manifest"])), Feed([unhex(block) for block in vector["blocks"]])
    for made in vector["proofs"][-3:]:
        refuse_every_change(manifest, unhex(made["wireData"]), feed, made["length"])

"""Byte compatibility with stock Hypercore: what it made is remade byte for byte, verified, and refused when altered.

Two sets of vectors. ``hypercore.json`` came with the design and stands beside the repository; its tests skip when it is
absent. Every value in it is either read by a test or named in NOT_OURS, with the reason. ``hypercore_feeds.json``
stands here, made by ``make_hypercore_feeds.mjs``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

from identity.errors import AuditError, MalformedError
from identity.keys import Ed25519Signer
from ledger.codec import Reader, encode_uint
from ledger.envelope import encode_envelope, parse_envelope
from ledger.flattree import right_leaf
from ledger.head import sign_head, signable, verify_head
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
from ledger.proof import Proof, encode_proof, parse_evidence_proof, parse_proof
from ledger.proof_checking import VerifiedAnswer, VerifiedProof, verify_answer, verify_proof
from ledger.proof_making import make_proof
from ledger.quorum import assemble_head, sign_partial
from ledger.request import Request, Seek, Target, Upgrade, encode_request, parse_request
from ledger.store import SignedHead

DESIGN_VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors" / "hypercore.json"
FEED_VECTORS = Path(__file__).resolve().parent / "hypercore_feeds.json"
FLIPS = (0x01, 0x80, 0xFF)

NOT_OURS = {
    "namespaces.REPLICATE_": "the handshake of live replication",
    "namespaces.DEFAULT_ENCRYPTION": "Hypercore's block encryption, which authenticates nothing",
    "namespaces.secretStream": "the transport of live replication",
    "encryption.": "the same block encryption; the tree over what it stores is checked",
    "capability.": "the handshake of live replication",
    "corestore.": "how Corestore derives keys from one; the feeds of those keys are checked",
    "keetIdentity.": "Keet's identities: ours are another format",
    "noise.": "the transport of live replication",
    "wire.": "messages of live replication other than requests and data",
}
"""What holdfast has no counterpart of, by the beginning of its path; whatever a test reads needs no excuse."""

unhex = bytes.fromhex


class Tracked:
    """A value of the file that remembers which leaves below it were read."""

    def __init__(self, value: Any, path: str, read: set[str]) -> None:
        self.value, self.path, self.read = value, path, read

    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, slice):
            return [self[n] for n in range(*key.indices(len(self.value)))]
        return self._wrap(self.value[key], f"{self.path}.{key}")

    def get(self, key: str) -> Any:
        return self[key] if key in self.value else None

    def __contains__(self, key: object) -> bool:
        return key in self.value

    def __iter__(self) -> Iterator[Any]:
        return (self[n] for n in range(len(self.value)))

    def __len__(self) -> int:
        return len(self.value)

    def _wrap(self, value: Any, path: str) -> Any:
        if isinstance(value, dict | list) and value:
            return Tracked(value, path, self.read)
        self.read.add(path)
        return value


def leaves(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict | list) and value:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, f"{path}.{key}")
    else:
        yield path


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


class Known:
    """A reader that has verified every node of a tree of ``length`` blocks."""

    def __init__(self, feed: Feed, length: int) -> None:
        self.feed, self.length = feed, length

    def find(self, index: int) -> Node | None:
        return self.feed.nodes.get(index) if right_leaf(index) < self.length else None


def remake(feed: Feed, head: SignedHead, request: Any, *, request_id: int, fork: int) -> Proof:
    block, node, seek, upgrade = (request.get(part) for part in ("block", "hash", "seek", "upgrade"))
    target = block or node
    return make_proof(
        feed,
        head,
        block=block and block["index"],
        hash=node and node["index"],
        nodes=target["nodes"] if target else 0,
        seek=seek and Seek(seek["bytes"], seek["padding"]),
        upgrade=upgrade and (upgrade["start"], upgrade["length"]),
        request=request_id,
        fork=fork,
    )


def verify(manifest: Manifest, proof: Proof, feed: Feed, length: int, *, fork: int = 0) -> VerifiedAnswer:
    """Verify with all that a reader could know: every node of the tree where the upgrade starts, or of ``length``."""
    start = length if proof.upgrade is None else proof.upgrade.start
    answer = verify_answer(manifest, proof, Known(feed, start), fork=fork)
    assert all(feed.nodes[node.index] == node for node in answer.nodes)
    if answer.block is not None:
        assert answer.block.block == feed.blocks[answer.block.index]
    if answer.hash is not None:
        assert answer.hash == feed.nodes[answer.hash.index]
    if answer.seek is not None:
        assert answer.seek.node == feed.nodes[answer.seek.node.index]
        before = sum(map(len, feed.blocks[: answer.seek.node.index // 2]))
        assert answer.seek.start == before
        assert before <= answer.seek.offset <= before + answer.seek.node.size
    if proof.upgrade is not None:
        assert answer.upgrade is not None
        stop = start + proof.upgrade.length
        assert answer.upgrade.trees == {n: feed.tree(n).tree_hash() for n in (stop, length)}
        assert answer.upgrade.head.length == length
    return answer


def head_of(state: Any) -> SignedHead:
    return SignedHead(state["length"], unhex(state["treeHash"]), unhex(state["signature"]))


def as_manifest(vector: Any) -> Manifest:
    assert (vector["hash"], {signer["signature"] for signer in vector["signers"]}) in (
        ("blake2b", {"ed25519"}),
        ("blake2b", set()),
    )
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


def refuse_every_change(manifest: Manifest, encoded: bytes, feed: Feed, length: int) -> int:
    """Change each byte but the request id (byte 1) in three ways; each change must be refused. Returns how many.

    Another byte offset is another question, to which the same nodes may be the answer: a reader compares it.
    """
    asked, tried = parse_proof(encoded).seek, 0
    for position in (0, *range(2, len(encoded))):
        for flip in FLIPS:
            changed = bytearray(encoded)
            changed[position] ^= flip
            with pytest.raises(AuditError):
                proof = parse_proof(bytes(changed))
                verify(manifest, proof, feed, length)
                if proof.seek is not None and asked is not None and proof.seek.offset != asked.offset:
                    raise MalformedError("another byte than the one asked for")
            tried += 1
    return tried


# --- the design's vectors, section by section ---


def check_generator(section: Any, _: Any) -> None:
    assert section["packages"]["hypercore"] == "11.37.1"
    assert section["node"]
    assert all(section["packages"][name] for name in section["packages"].value)


def check_namespaces(section: Any, _: Any) -> None:
    assert section["DEFAULT_NAMESPACE"] == DEFAULT_NAMESPACE.hex()
    assert signable(bytes(32), bytes(32), 0)[:32].hex() == section["TREE"]
    name = blake2b(b"hypercore", digest_size=32).digest()
    assert blake2b(name + b"\x03", digest_size=32).hexdigest() == section["MANIFEST"]


def check_uint(section: Any, _: Any) -> None:
    for vector in section:
        assert encode_uint(vector["n"]).hex() == vector["hex"]
        reader = Reader(unhex(vector["hex"]), "vector")
        assert reader.uint("n") == vector["n"]
        reader.done()


def check_manifest(vector: Any) -> Manifest:
    manifest = as_manifest(vector)
    assert encode_manifest(manifest).hex() == vector["encoded"]
    assert parse_manifest(unhex(vector["encoded"])) == manifest
    assert feed_key(manifest).hex() == vector["manifestHash"]
    return manifest


def check_manifests(section: Any, _: Any) -> None:
    names = {vector["name"]: check_manifest(vector) for vector in section}
    assert {manifest.version for manifest in names.values()} == {0, 1, 2}


def check_state(state: Any, tree: TreeBuilder, manifest: Manifest, signer: Ed25519Signer | None) -> SignedHead:
    """Lengths, sizes, roots, hash, signable and signature of one state, made and read."""
    key, head = feed_key(manifest), head_of(state)
    assert (tree.length, tree.byte_length) == (state["length"], state["byteLength"])
    assert [(n.index, n.size, n.hash.hex()) for n in tree.roots] == [
        (root["index"], root["size"], root["hash"]) for root in state["roots"]
    ]
    assert tree.tree_hash().hex() == state["treeHash"] == state["publicTreeHash"]
    assert signable(key, tree.tree_hash(), tree.length, state["fork"]).hex() == state["signable"]
    verify_head(manifest, tree.tree_hash(), tree.length, state["fork"], head.signature)
    assert encode_envelope(parse_envelope(head.signature)) == head.signature
    if signer is not None:
        share = sign_partial(signer, manifest, tree.tree_hash(), tree.length, fork=state["fork"])
        nodes = {node.index: node for node in tree.roots}
        assert assemble_head(manifest, tree.length, [share], nodes.__getitem__, fork=state["fork"]) == head.signature
    return head


def check_single(section: Any, _: Any) -> None:
    manifest, signer = check_manifest(section["manifest"]), Ed25519Signer(unhex(section["seed"]))
    assert (feed_key(manifest).hex(), signer.public_key.hex()) == (section["key"], section["publicKey"])
    assert blake2b(b"hypercore", key=unhex(section["key"]), digest_size=32).hexdigest() == section["discoveryKey"]
    feed, count = Feed([unhex(block) for block in section["blocks"]]), 0
    assert len(section["lengths"]) == len(feed.blocks)
    for length, state in enumerate(section["lengths"], 1):
        head = check_state(state, feed.tree(length), manifest, signer)
        for made in state.get("proofs") or ():
            proof = parse_proof(unhex(made["wireData"]))
            assert encode_proof(proof).hex() == made["wireData"]
            remade = remake(feed, head, made["request"], request_id=proof.request, fork=0)
            assert encode_proof(remade).hex() == made["wireData"]
            verify(manifest, proof, feed, length)
            if "proof" in made:
                check_decoded(proof, made["proof"])
            count += 1
    assert count == 54
    check_truncation(section["fork"], manifest, signer, feed)


def check_decoded(proof: Proof, shown: Any) -> None:
    """The same proof as Hypercore's own decoder shows it."""
    assert proof.fork == shown["fork"]
    parts = {"block": proof.block, "hash": proof.hash, "seek": proof.seek, "upgrade": proof.upgrade}
    assert {name for name, part in parts.items() if part is not None} == set(shown.value) - {"fork"}
    if proof.block is not None:
        block = shown["block"]
        assert (proof.block.index, proof.block.value.hex()) == (block["index"], block["value"])
        assert proof.block.nodes == as_nodes(block["nodes"])
    if proof.hash is not None:
        assert (proof.hash.index, proof.hash.nodes) == (shown["hash"]["index"], as_nodes(shown["hash"]["nodes"]))
    if proof.seek is not None:
        assert (proof.seek.offset, proof.seek.nodes) == (shown["seek"]["bytes"], as_nodes(shown["seek"]["nodes"]))
    if proof.upgrade is not None:
        upgrade = shown["upgrade"]
        assert (proof.upgrade.start, proof.upgrade.length) == (upgrade["start"], upgrade["length"])
        assert proof.upgrade.nodes == as_nodes(upgrade["nodes"])
        assert proof.upgrade.additional_nodes == as_nodes(upgrade["additionalNodes"])
        assert proof.upgrade.signature.hex() == upgrade["signature"]


def as_nodes(shown: Any) -> tuple[Node, ...]:
    return tuple(Node(node["index"], node["size"], unhex(node["hash"])) for node in shown)


def check_truncation(fork: Any, manifest: Manifest, signer: Ed25519Signer, before: Feed) -> None:
    feed = Feed([*before.blocks[: fork["truncatedTo"]], unhex(fork["appended"])])
    for state in (fork["afterTruncate"], fork["afterAppend"]):
        check_state(state, feed.tree(state["length"]), manifest, signer)
    made = fork["reorgProof"]
    proof = parse_proof(unhex(made["wireData"]))
    remade = remake(feed, head_of(fork["afterAppend"]), made["request"], request_id=proof.request, fork=1)
    assert encode_proof(remade).hex() == made["wireData"]
    verify(manifest, proof, feed, 12, fork=1)
    with pytest.raises(AuditError):
        verify(manifest, proof, feed, 12)


def check_seeds(section: Any, whole: Any) -> None:
    assert [Ed25519Signer(unhex(seed)).public_key.hex() for seed in section] == [
        signer["publicKey"] for signer in whole["manifests"][1]["signers"]
    ]


def check_multisig(section: Any, whole: Any) -> None:
    manifests = {vector["manifestHash"]: as_manifest(vector) for vector in whole["manifests"]}
    feed = Feed([unhex(block) for block in whole["single"]["blocks"]])
    signers = [Ed25519Signer(unhex(seed)) for seed in whole["multiSeeds"]]
    for vector in section:
        manifest, length, signature = manifests[vector["key"]], vector["certifiedLength"], unhex(vector["signature"])
        assert (manifest.allow_patch, vector["verified"]) == (vector["allowPatch"], True)
        tree = feed.tree(length)
        assert tree.tree_hash().hex() == vector["treeHash"]
        assert encode_envelope(parse_envelope(signature)) == signature
        verify_head(manifest, tree.tree_hash(), length, 0, signature, roots=tree.roots)
        numbers = [proof.signer for proof in parse_envelope(signature).proofs]
        shares = [
            sign_partial(signers[number], manifest, feed.tree(signed).tree_hash(), signed)
            for number, signed in zip(numbers, vector["lengthsSigned"], strict=True)
        ]
        assert assemble_head(manifest, length, shares, feed.node) == signature


def check_encryption(section: Any, whole: Any) -> None:
    assert section["coreKey"] == whole["single"]["key"]
    manifest, tree = as_manifest(whole["single"]["manifest"]), TreeBuilder()
    tree.append_many(unhex(block["stored"]) for block in section["blocks"])
    check_state(section["snapshot"], tree, manifest, Ed25519Signer(unhex(whole["single"]["seed"])))


def check_corestore(section: Any, _: Any) -> None:
    for named in section["named"]:
        signer = Ed25519Signer(unhex(named["seed"]))
        assert signer.public_key.hex() == named["publicKey"]
        manifest = Manifest(1, 1, (ManifestSigner(signer.public_key, unhex(named["signerNamespace"])),))
        assert feed_key(manifest).hex() == named["key"]


def check_hyperbee(section: Any, whole: Any) -> None:
    tree = TreeBuilder()
    tree.append_many(unhex(block) for block in section["blocks"])
    assert tree.tree_hash().hex() == section["treeHash"]
    assert (section["key"], bool(section["note"])) == (whole["single"]["key"], True)


def check_wire(section: Any, _: Any) -> None:
    requests = [message for message in section["messages"] if message["type"] == "request"]
    assert len(requests) == 2
    for message in requests:
        value = message["value"]
        block, node, seek, upgrade = (value[part] for part in ("block", "hash", "seek", "upgrade"))
        request = Request(
            block=block and Target(block["index"], block["nodes"]),
            hash=node and Target(node["index"], node["nodes"]),
            seek=seek and Seek(seek["bytes"], seek["padding"]),
            upgrade=upgrade and Upgrade(upgrade["start"], upgrade["length"]),
            id=value["id"],
            fork=value["fork"],
            manifest=value["manifest"],
            priority=value["priority"],
        )
        assert encode_request(request).hex() == message["hex"]
        assert parse_request(unhex(message["hex"])) == request


def check_nothing(section: Any, _: Any) -> None:
    """A section of which holdfast has no counterpart at all."""
    assert section.path + "." in NOT_OURS


CHECKS: dict[str, Callable[[Any, Any], None]] = {
    "generator": check_generator,
    "namespaces": check_namespaces,
    "uint": check_uint,
    "single": check_single,
    "manifests": check_manifests,
    "multiSeeds": check_seeds,
    "multisig": check_multisig,
    "encryption": check_encryption,
    "capability": check_nothing,
    "corestore": check_corestore,
    "keetIdentity": check_nothing,
    "noise": check_nothing,
    "wire": check_wire,
    "hyperbee": check_hyperbee,
}


def test_every_section_of_the_file_has_a_check(vectors: dict[str, Any]) -> None:
    assert set(CHECKS) == set(vectors)


@pytest.mark.parametrize("name", CHECKS)
def test_section(vectors: dict[str, Any], name: str) -> None:
    """The check holds, and what it did not read is named in NOT_OURS: nothing in the file is passed over."""
    read: set[str] = set()
    CHECKS[name](Tracked(vectors[name], name, read), vectors)
    unread = [path for path in leaves(vectors[name], name) if path not in read]
    assert [path for path in unread if not path.startswith(tuple(NOT_OURS))] == []


def test_what_is_read_is_accounted_for_leaf_by_leaf() -> None:
    read: set[str] = set()
    tracked = Tracked({"a": [1, {"b": 2, "c": 3}], "d": []}, "x", read)
    assert tracked["a"][1]["b"] == 2
    assert read == {"x.a.1.b"}
    assert list(leaves(tracked.value, "x")) == ["x.a.0", "x.a.1.b", "x.a.1.c", "x.d"]


def test_every_changed_byte_of_the_design_proofs_is_refused(vectors: dict[str, Any]) -> None:
    single = vectors["single"]
    manifest, feed = as_manifest(single["manifest"]), Feed([unhex(block) for block in single["blocks"]])
    tried = 0
    for state in single["lengths"]:
        for made in state.get("proofs", []) if state["length"] in (1, 5, 13, 21) else ():
            tried += refuse_every_change(manifest, unhex(made["wireData"]), feed, state["length"])
    assert tried > 10_000


def test_every_changed_byte_of_the_multisignatures_is_refused(vectors: dict[str, Any]) -> None:
    manifests = {vector["manifestHash"]: as_manifest(vector) for vector in vectors["manifests"]}
    feed = Feed([unhex(block) for block in vectors["single"]["blocks"]])
    for vector in vectors["multisig"]:
        manifest, tree = manifests[vector["key"]], feed.tree(vector["certifiedLength"])
        signature = unhex(vector["signature"])
        for position in range(len(signature)):
            for flip in FLIPS:
                changed = bytearray(signature)
                changed[position] ^= flip
                with pytest.raises(AuditError):
                    verify_head(manifest, tree.tree_hash(), tree.length, 0, bytes(changed), roots=tree.roots)


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

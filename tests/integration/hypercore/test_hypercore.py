"""Stock Hypercore and holdfast read each other: proofs, heads and feeds made on one side are judged on the other."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from identity.errors import AuditError, MissingEvidenceError, TransportError
from identity.keys import Ed25519Signer
from ledger.flattree import left_leaf, right_leaf
from ledger.head import sign_head, verify_head
from ledger.manifest import (
    FeedDescription,
    Manifest,
    ManifestSigner,
    Prologue,
    device_manifest,
    encode_manifest,
    feed_key,
    parse_manifest,
)
from ledger.merkle import Node, TreeBuilder
from ledger.proof import BlockPart, Proof, encode_proof, parse_proof
from ledger.proof_checking import verify_answer, verify_proof
from ledger.proof_making import answer_request, make_proof
from ledger.quorum import assemble_head, sign_partial
from ledger.request import Request, Seek, Target, Upgrade, encode_request
from ledger.sparse_fetch import SparseReader
from ledger.storage.sparse import sparse_faults, sparse_feed
from ledger.storage.sqlite import open_sqlite
from ledger.store import SignedHead

pytestmark = pytest.mark.integration

Peer = Callable[[str, Any], Any]

SIGNERS = [Ed25519Signer(bytes([n]) * 32) for n in range(1, 4)]
DEVICE = device_manifest(SIGNERS[0].public_key, FeedDescription(b"\x11" * 32, "ledger of branch 7"))
BLOCKS = [bytes([n]) * (n * 7 % 11) for n in range(64)]


class Feed:
    """Blocks and nodes in memory."""

    def __init__(self, blocks: Sequence[bytes]) -> None:
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

    def known(self, length: int) -> Known:
        return Known(self, length)


class Known:
    """A reader that has verified every node of a tree of ``length`` blocks."""

    def __init__(self, feed: Feed, length: int) -> None:
        self.feed, self.length = feed, length

    def find(self, index: int) -> Node | None:
        return self.feed.nodes.get(index) if right_leaf(index) < self.length else None


FEED = Feed(BLOCKS)


def manifest(version: int = 1, quorum: int = 2, *, signers: int = 3, patches: bool = False) -> Manifest:
    keys = tuple(ManifestSigner(signer.public_key) for signer in SIGNERS[:signers])
    return Manifest(version, quorum, keys, allow_patch=patches)


def head(of: Manifest, length: int, lengths: dict[int, int] | None = None) -> SignedHead:
    """A head that the signers sign at their own lengths; by default the first ones, as many as it takes."""
    at = lengths or dict.fromkeys(range(of.quorum), length)
    shares = [sign_partial(SIGNERS[n], of, FEED.tree(own).tree_hash(), own) for n, own in at.items()]
    return SignedHead(length, FEED.tree(length).tree_hash(), assemble_head(of, length, shares, FEED.node))


# --- Hypercore judges what holdfast makes ---


def evidence(of: Manifest, index: int, length: int, signed: SignedHead) -> Proof:
    return make_proof(FEED, signed, block=index, upgrade=(0, length))


def good_proofs() -> Iterator[tuple[Manifest, Proof]]:
    for length, signed in [(1, 1), (1, 64), (3, 4), (5, 8), (8, 13), (31, 32), (33, 64), (64, 64)]:
        for index in {0, length // 2, length - 1}:
            yield DEVICE, evidence(DEVICE, index, length, head(DEVICE, signed))
    two_of_three, patching = manifest(), manifest(patches=True)
    for lengths in ({0: 13, 1: 13}, {2: 13, 0: 13}):
        yield two_of_three, evidence(two_of_three, 4, 11, head(two_of_three, 13, lengths))
    for lengths in ({0: 13, 1: 20}, {2: 40, 1: 14}, {1: 13, 2: 13}):
        yield patching, evidence(patching, 4, 11, head(patching, 13, lengths))
    old, old_patching = manifest(0), manifest(0, patches=True)
    yield old, evidence(old, 4, 11, head(old, 13))
    yield old_patching, evidence(old_patching, 4, 11, head(old_patching, 13, {0: 13, 2: 29}))
    single = manifest(0, 1, signers=1)
    yield single, evidence(single, 4, 13, head(single, 13))
    born = replace(manifest(1, 1, signers=1), prologue=Prologue(FEED.tree(5).tree_hash(), 5))
    yield born, evidence(born, 2, 5, head(born, 13))
    static = Manifest(1, 0, (), prologue=Prologue(FEED.tree(5).tree_hash(), 5))
    yield static, evidence(static, 2, 5, SignedHead(5, FEED.tree(5).tree_hash(), b""))


def tampered(of: Manifest, proof: Proof) -> Iterator[Proof]:
    """What both sides must refuse; the signature's own bytes among them."""
    assert proof.block is not None
    assert proof.upgrade is not None
    block, upgrade = proof.block, proof.upgrade
    yield replace(proof, block=replace(block, value=block.value + b"!"))
    yield replace(proof, block=replace(block, index=block.index + 2))
    yield replace(proof, fork=1)
    if block.nodes:
        yield replace(proof, block=replace(block, nodes=block.nodes[:-1]))
        yield replace(proof, block=replace(block, nodes=block.nodes[::-1])) if len(block.nodes) > 1 else proof
    if upgrade.nodes:
        yield replace(proof, upgrade=replace(upgrade, nodes=upgrade.nodes[:-1]))
        changed = upgrade.nodes[0]._replace(hash=bytes(32))
        yield replace(proof, upgrade=replace(upgrade, nodes=(changed, *upgrade.nodes[1:])))
    for place in {len(upgrade.signature) // 2, 10}:
        signature = bytearray(upgrade.signature)
        signature[place] ^= 1
        yield replace(proof, upgrade=replace(upgrade, signature=bytes(signature)))
    if of.quorum == 2 and of.version and not of.allow_patch:
        twice = sign_head(SIGNERS[0], feed_key(of), FEED.tree(13).tree_hash(), 13)[1:-1]
        yield replace(proof, upgrade=replace(upgrade, signature=b"\x02" + twice + twice + b"\x00"))


def case(of: Manifest, proof: Proof) -> dict[str, str]:
    return {"manifest": encode_manifest(of).hex(), "proof": encode_proof(proof).hex()}


def test_hypercore_accepts_what_holdfast_makes_and_refuses_what_is_altered(peer: Peer) -> None:
    good = list(good_proofs())
    bad = [
        (of, one)
        for of, proof in good[3:26:3] + good[-8:-2]
        for one in tampered(of, proof)
        if one != proof and proof.upgrade is not None
    ]
    assert (len(good) > 25, len(bad) > 60) == (True, True)
    results = peer("verify", {"cases": [case(*one) for one in good + bad]})
    for (of, proof), result in zip(good, results, strict=False):
        assert result["key"] == feed_key(of).hex()
        assert (result["refused"], result["length"]) == (None, verify_proof(of, proof).head.length)
    for (of, proof), result in zip(bad, results[len(good) :], strict=True):
        assert result["refused"], proof
        with pytest.raises(AuditError):
            verify_proof(of, proof)


def test_a_forged_block_that_leads_nowhere_is_accepted_by_hypercore_and_refused_here(peer: Peer) -> None:
    """docs/spec/feed.md section 3.3: an offline check of stock Hypercore never asks where a block leads."""
    whole = make_proof(FEED, head(DEVICE, 13), upgrade=(0, 13))
    forged = replace(whole, block=BlockPart(5, b"forged", ()))
    (result,) = peer("verify", {"cases": [case(DEVICE, forged)]})
    assert (result["length"], result["refused"]) == (13, None)
    with pytest.raises(AuditError):
        verify_proof(DEVICE, forged)


def test_a_reader_of_hypercores_follows_a_feed_of_holdfasts(peer: Peer) -> None:
    early, late = head(DEVICE, 5), head(DEVICE, 40)
    proofs = [
        make_proof(FEED, early, block=2, upgrade=(0, 5)),
        make_proof(FEED, late, block=37, upgrade=(5, 35)),
        make_proof(FEED, late, block=20, nodes=5),
        make_proof(FEED, late, block=0, nodes=1),
    ]
    feed = {"manifest": encode_manifest(DEVICE).hex(), "proofs": [encode_proof(one).hex() for one in proofs]}
    result = peer("replicate", {**feed, "blocks": [2, 37, 20, 0]})
    assert result["length"] == 40
    assert [bytes.fromhex(block) for block in result["blocks"]] == [BLOCKS[n] for n in (2, 37, 20, 0)]


# --- holdfast judges what Hypercore makes ---


def ask(random: Random, feed: Feed, length: int) -> dict[str, Any]:
    """A request of any kind that a reader could make of a feed of ``length`` blocks."""
    request: dict[str, Any] = {}
    start = random.choice((0, 0, random.randrange(length)))
    if random.random() < 0.6:
        request["upgrade"] = {"start": start, "length": random.randint(1, length - start)}
    upgrade = request.get("upgrade")
    stop = length if upgrade is None else start + upgrade["length"]
    kind = random.choice(("block", "hash", "seek", "none") if upgrade else ("block", "hash"))
    if kind in ("block", "hash"):
        block = random.randrange(stop)
        index, levels = (block, 0) if kind == "block" else random.choice(within(feed, start if upgrade else 0, stop))
        below = upgrade is None or right_leaf(2 * index if kind == "block" else index) < start
        if below:
            known = start if upgrade else stop
            levels = random.choice(climbs(2 * index if kind == "block" else index, known))
        request[kind] = {"index": index, "nodes": levels}
        if below and random.random() < 0.5:
            top = climbed(2 * index if kind == "block" else index, levels)
            first = sum(map(len, feed.blocks[: left_leaf(top)]))
            size = feed.nodes[top].size
            if size:
                request["seek"] = {"bytes": first + random.randrange(size), "padding": 0}
    elif kind == "seek":
        request["seek"] = {"bytes": random.randrange(sum(map(len, feed.blocks[:stop])) + 2), "padding": 0}
    return request


def within(feed: Feed, start: int, stop: int) -> list[tuple[int, int]]:
    """Nodes that lie within an upgrade or wholly below it."""
    return [
        (index, 0)
        for index in feed.nodes
        if right_leaf(index) < stop and (left_leaf(index) >= start or right_leaf(index) < start)
    ]


def climbed(index: int, levels: int) -> int:
    for _ in range(levels):
        bit = ~index & (index + 1)
        index = (index | bit) & ~(bit << 1)
    return index


def climbs(index: int, stop: int) -> list[int]:
    return [levels for levels in range(7) if right_leaf(climbed(index, levels)) < stop]


def as_request(asked: dict[str, Any]) -> Request:
    block, node, seek, upgrade = (asked.get(part) for part in ("block", "hash", "seek", "upgrade"))
    return Request(
        block=Target(block["index"], block["nodes"]) if block else None,
        hash=Target(node["index"], node["nodes"]) if node else None,
        seek=Seek(seek["bytes"], seek["padding"]) if seek else None,
        upgrade=Upgrade(upgrade["start"], upgrade["length"]) if upgrade else None,
    )


USER_DATA = replace(manifest(1, 1, signers=1), version=2, user_data=b"what is said of it")

CORES: list[dict[str, Any]] = [
    {"manifest": None, "seed": "07" * 32, "signers": None, "batches": [1, 1, 3, 8, 1, 18]},
    {"manifest": DEVICE, "seed": "01" * 32, "signers": None, "batches": [32]},
    {"manifest": USER_DATA, "seed": "01" * 32, "signers": None, "batches": [7, 6]},
    {"manifest": manifest(), "seed": None, "signers": [[0, "01" * 32], [2, "03" * 32]], "batches": [5, 16]},
]


def test_holdfast_accepts_and_remakes_what_hypercore_makes(peer: Peer) -> None:
    """Every kind of request at every state of each core; what was answered is remade byte for byte."""
    random, cores = Random(17), []
    for core in CORES:
        batches: list[list[bytes]] = []
        requests: list[dict[str, Any]] = []
        for after, size in enumerate(core["batches"]):
            begin = sum(map(len, batches))
            batches.append(BLOCKS[begin : begin + size])
            feed = Feed([block for batch in batches for block in batch])
            requests += [{"after": after, **ask(random, feed, len(feed.blocks))} for _ in range(25)]
        of = None if core["manifest"] is None else encode_manifest(core["manifest"]).hex()
        texts = [[block.hex() for block in batch] for batch in batches]
        cores.append({**core, "manifest": of, "batches": texts, "requests": requests})
    made = peer("make", {"cores": cores})
    assert sum(check_core(core, result) for core, result in zip(cores, made, strict=True)) == 275


def check_core(core: dict[str, Any], made: dict[str, Any]) -> int:
    of = parse_manifest(bytes.fromhex(made["manifest"]))
    assert feed_key(of).hex() == made["key"]
    lengths = [sum(map(len, core["batches"][: n + 1])) for n in range(len(core["batches"]))]
    feed = Feed(BLOCKS[: lengths[-1]])
    whole = feed.tree(lengths[-1])
    assert (whole.length, whole.tree_hash().hex()) == (made["length"], made["treeHash"])
    verify_head(of, whole.tree_hash(), whole.length, 0, bytes.fromhex(made["signature"]), roots=whole.roots)
    for request, answer in zip(core["requests"], made["answers"], strict=True):
        length = lengths[request["after"]]
        proof = parse_proof(bytes.fromhex(answer))
        signature = b"" if proof.upgrade is None else proof.upgrade.signature
        remade = answer_request(
            Feed(BLOCKS[:length]), SignedHead(length, feed.tree(length).tree_hash(), signature), as_request(request)
        )
        assert encode_proof(remade).hex() == answer, request
        start = length if proof.upgrade is None else proof.upgrade.start
        verified = verify_answer(of, proof, feed.known(start))
        assert all(feed.nodes[node.index] == node for node in verified.nodes)
        if verified.seek is not None:
            assert verified.seek.start == sum(map(len, BLOCKS[: left_leaf(verified.seek.node.index)]))
    return len(made["answers"])


# --- holdfast reads a live core of Hypercore's, in parts ---


class LiveCore:
    """A source on the other side of a pipe."""

    name = "hypercore"

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def call(self, **message: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise TransportError("the process has ended")
        return json.loads(line)

    def answer(self, request: Request) -> bytes:
        reply = self.call(request=encode_request(request).hex())
        if "refused" in reply:
            raise MissingEvidenceError(reply["refused"])
        return bytes.fromhex(reply["answer"])


def test_a_live_core_is_followed_and_read_in_parts(serving: subprocess.Popen[str], tmp_path: Path) -> None:
    live = LiveCore(serving)
    of = parse_manifest(bytes.fromhex(live.call(seed="05" * 32)["manifest"]))
    live.call(append=[block.hex() for block in BLOCKS[:9]])
    store = open_sqlite(tmp_path / "parts.db", create=True)
    try:
        reading = SparseReader(store, of, [live])
        assert reading.follow() == 9
        reading.fetch_blocks(3, 6)
        live.call(append=[block.hex() for block in BLOCKS[9:40]])
        assert reading.follow() == 40
        reading.fetch_blocks(25, 33)
        whole = b"".join(BLOCKS[:40])
        for offset, length in ((0, 5), (100, 40), (len(whole) - 3, 3)):
            assert b"".join(reading.read(offset, length)) == whole[offset : offset + length]
        assert reading.follow() == 40
        assert reading.dropped == {}
        with store.read() as tx:
            held = sparse_feed(tx.connection, feed_key(of))
            assert held is not None
            assert sparse_faults(held) == []
            assert {3, 4, 5, *range(25, 33)} <= set(held.blocks())
            assert all(held.block(index) == BLOCKS[index] for index in held.blocks())
    finally:
        store.close()


def test_the_lock_files_name_digests_and_no_addresses() -> None:
    for folder in ("pinned", "newest"):
        text = (Path(__file__).parent / folder / "package-lock.json").read_text(encoding="utf-8")
        assert "http" not in text
        packages = json.loads(text)["packages"]
        assert all(package.get("integrity") for name, package in packages.items() if name)

"""Proofs: the nodes and the signature that show a block to be in a feed, or a feed to have grown from what it was.

Implements docs/spec/feed.md section 2.6. The bytes are Hypercore's ``data`` messages: what stock Hypercore makes is
verified here and the other way round. A proof contains no choices. Every node that belongs in it follows from the
block, the lengths and the signed length, so the verifier works out the list of indices and refuses any other list.

Blocks and upgrades are made and verified; the ``hash`` and ``seek`` parts, which only replication asks for, are parsed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from identity.errors import (
    LimitExceeded,
    MalformedError,
    MissingEvidenceError,
    RootMismatch,
    UnsupportedVersion,
    VerificationError,
)
from ledger.codec import Reader, encode_array, encode_buffer, encode_uint
from ledger.flattree import covering, left_leaf, node_over, parent, right_leaf, sibling
from ledger.head import FORK, VerifiedHead, verify_head
from ledger.manifest import Manifest, encode_manifest, read_manifest
from ledger.merkle import MAX_LENGTH, MAX_PATH_NODES, Node, TreeBuilder, encode_node, leaf_node, parent_node, read_node
from ledger.store import SignedHead

__all__ = [
    "MAX_BLOCK_BYTES",
    "MAX_PROOF_BYTES",
    "BlockPart",
    "HashPart",
    "NodeSource",
    "Proof",
    "SeekPart",
    "UpgradePart",
    "VerifiedBlock",
    "VerifiedProof",
    "VerifiedUpgrade",
    "encode_proof",
    "make_proof",
    "parse_evidence_proof",
    "parse_proof",
    "verify_block",
    "verify_proof",
    "verify_upgrade",
]

MAX_BLOCK_BYTES: Final = 15 * 1024 * 1024
"""Hypercore's own limit for a block."""

MAX_PROOF_BYTES: Final = 16 * 1024 * 1024
MAX_SIGNATURE_BYTES: Final = 1024 * 1024

_BLOCK, _HASH, _SEEK, _UPGRADE, _MANIFEST = 1, 2, 4, 8, 16


class NodeSource(Protocol):
    """Where a proof's contents come from: a feed's nodes and blocks."""

    def node(self, index: int) -> Node:
        """The tree node at flat-tree ``index``. Raises ``MissingEvidenceError`` when it is not here."""

    def block(self, index: int) -> bytes:
        """Block ``index``. Raises ``MissingEvidenceError`` when it is not here."""


@dataclass(frozen=True, slots=True)
class BlockPart:
    """A block and the siblings on the way from it up to a node that the rest of the proof, or its reader, knows."""

    index: int
    value: bytes
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class HashPart:
    """A node by its flat-tree index: itself first, then the siblings on the way up."""

    index: int
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class SeekPart:
    """The way to the block that holds byte ``offset`` of the feed."""

    offset: int
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class UpgradePart:
    """What a tree of ``start`` blocks needs to become one of ``start + length``, and then the one that was signed.

    ``signature`` is empty when the feed's manifest itself vouches for the tree.
    """

    start: int
    length: int
    nodes: tuple[Node, ...]
    additional_nodes: tuple[Node, ...]
    signature: bytes


@dataclass(frozen=True, slots=True)
class Proof:
    """A Hypercore ``data`` message: well-formed, nothing verified. ``request`` answers a request and proves nothing."""

    request: int
    fork: int
    block: BlockPart | None = None
    hash: HashPart | None = None
    seek: SeekPart | None = None
    upgrade: UpgradePart | None = None
    manifest: Manifest | None = None


@dataclass(frozen=True, slots=True)
class VerifiedBlock:
    """A block that was proven to be at ``index``."""

    index: int
    block: bytes
    leaf_hash: bytes


@dataclass(frozen=True, slots=True)
class VerifiedUpgrade:
    """A signed head, and the trees (length -> tree hash) that were proven on the way to it: asked for, and signed.

    ``roots`` are those of the signed tree: what the next upgrade can start from.
    """

    trees: Mapping[int, bytes]
    head: VerifiedHead
    roots: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class VerifiedProof:
    """A block that was proven to be at ``index`` in every one of ``trees`` (as in ``VerifiedUpgrade``)."""

    index: int
    block: bytes
    leaf_hash: bytes
    trees: Mapping[int, bytes]
    head: VerifiedHead
    roots: tuple[Node, ...]


# --- bytes ---


def encode_proof(proof: Proof) -> bytes:
    """The proof's one byte string."""
    flags, body = 0, b""
    if proof.block is not None:
        flags |= _BLOCK
        body += encode_uint(proof.block.index) + encode_buffer(proof.block.value) + _encode_nodes(proof.block.nodes)
    if proof.hash is not None:
        flags |= _HASH
        body += encode_uint(proof.hash.index) + _encode_nodes(proof.hash.nodes)
    if proof.seek is not None:
        flags |= _SEEK
        body += encode_uint(proof.seek.offset) + _encode_nodes(proof.seek.nodes)
    if proof.upgrade is not None:
        flags |= _UPGRADE
        body += _encode_upgrade(proof.upgrade)
    if proof.manifest is not None:
        flags |= _MANIFEST
        body += encode_manifest(proof.manifest)
    return encode_uint(flags) + encode_uint(proof.request) + encode_uint(proof.fork) + body


def parse_proof(data: bytes) -> Proof:
    """The proof that ``encode_proof`` writes as ``data``; no other bytes are accepted for it. Nothing is verified.

    Raises ``MalformedError``.
    """
    if len(data) > MAX_PROOF_BYTES:
        raise LimitExceeded(f"proof: more than {MAX_PROOF_BYTES} bytes")
    reader = Reader(data, "proof")
    flags = reader.uint("flags", maximum=_BLOCK | _HASH | _SEEK | _UPGRADE | _MANIFEST)
    proof = Proof(
        request=reader.uint("request"),
        fork=reader.uint("fork"),
        block=_read_block(reader) if flags & _BLOCK else None,
        hash=HashPart(reader.uint("hash index"), _read_nodes(reader)) if flags & _HASH else None,
        seek=SeekPart(reader.uint("seek bytes"), _read_nodes(reader)) if flags & _SEEK else None,
        upgrade=_read_upgrade(reader) if flags & _UPGRADE else None,
        manifest=read_manifest(reader) if flags & _MANIFEST else None,
    )
    reader.done()
    return proof


def parse_evidence_proof(data: bytes) -> Proof:
    """A proof in the one form that evidence carries: a block under an upgrade from 0, and none of what proves nothing.

    Request and fork are 0 and the manifest stands elsewhere. Raises ``MalformedError``. Nothing is verified.
    """
    proof = parse_proof(data)
    if proof.request or proof.fork != FORK or proof.manifest or proof.hash or proof.seek:
        raise MalformedError("evidence proof: request and fork must be 0, without manifest, hash and seek")
    if proof.block is None or proof.upgrade is None or proof.upgrade.start:
        raise MalformedError("evidence proof: it must hold a block and an upgrade from 0")
    return proof


def _encode_nodes(nodes: Sequence[Node]) -> bytes:
    return encode_array(encode_node(node) for node in nodes)


def _encode_upgrade(upgrade: UpgradePart) -> bytes:
    span = encode_uint(upgrade.start) + encode_uint(upgrade.length)
    return (
        span + _encode_nodes(upgrade.nodes) + _encode_nodes(upgrade.additional_nodes) + encode_buffer(upgrade.signature)
    )


def _read_nodes(reader: Reader) -> tuple[Node, ...]:
    return reader.array(lambda: read_node(reader), "nodes", maximum=MAX_PATH_NODES)


def _read_block(reader: Reader) -> BlockPart:
    index = reader.uint("block index", maximum=MAX_LENGTH - 1)
    return BlockPart(index, reader.buffer("block", maximum=MAX_BLOCK_BYTES), _read_nodes(reader))


def _read_upgrade(reader: Reader) -> UpgradePart:
    start = reader.uint("upgrade start", maximum=MAX_LENGTH)
    length = reader.uint("upgrade length", maximum=MAX_LENGTH - start)
    nodes, additional_nodes = _read_nodes(reader), _read_nodes(reader)
    return UpgradePart(start, length, nodes, additional_nodes, reader.buffer("signature", maximum=MAX_SIGNATURE_BYTES))


# --- making ---


def make_proof(
    source: NodeSource,
    head: SignedHead,
    *,
    block: int | None = None,
    nodes: int = 0,
    upgrade: tuple[int, int] | None = None,
    request: int = 0,
    fork: int = FORK,
) -> Proof:
    """The proof that answers a request, as Hypercore makes it; O(log n) reads of ``source``.

    ``upgrade`` is (start, length): from the blocks that the reader has to the ones it asks for, at most ``head.length``
    together. A ``block`` within the upgrade is led up to it; below ``start``, or without an upgrade, it is led up the
    ``nodes`` levels to where the reader knows a node. For evidence: ``block`` i, ``upgrade`` (0, L) and no more.

    Raises ``MalformedError`` for a request that no feed could answer, ``MissingEvidenceError`` for one that reaches
    beyond the head or the source.
    """
    start, length = upgrade or (0, head.length)
    stop = start + length
    if not 0 <= start < stop or nodes < 0 or (block is not None and block < 0):
        raise MalformedError(f"proof request: block {block}, {nodes} nodes, upgrade {start} to {stop}")
    if stop > head.length or (block is not None and block >= stop):
        raise MissingEvidenceError(f"proof request: block {block} or length {stop} is beyond the head's {head.length}")
    cover = covering(start, stop)
    part = None
    if block is not None:
        within = upgrade is not None and block >= start
        top = next(node for node in cover if block <= right_leaf(node)) if within else _climb(block, nodes, stop)
        part = BlockPart(block, source.block(block), tuple(source.node(index) for index in _path(2 * block, top)))
        cover = [index for index in cover if index != top]
    if upgrade is None:
        return Proof(request, fork, part)
    upgrade_nodes = tuple(source.node(index) for index in cover)
    additional = tuple(source.node(index) for index in covering(stop, head.length))
    return Proof(request, fork, part, upgrade=UpgradePart(start, length, upgrade_nodes, additional, head.signature))


def _climb(block: int, levels: int, length: int) -> int:
    """The node ``levels`` above a block, which must be complete in a tree of ``length`` blocks."""
    if levels > length.bit_length() or right_leaf(node_over(block, levels)) >= length:
        raise MissingEvidenceError(f"proof request: {levels} levels above block {block} there is no node yet")
    return node_over(block, levels)


def _path(node: int, top: int) -> list[int]:
    """The siblings on the way from ``node`` up to ``top``."""
    siblings = []
    while node != top:
        siblings.append(sibling(node))
        node = parent(node)
    return siblings


# --- verifying ---


def verify_proof(manifest: Manifest, proof: Proof, *, known: Sequence[Node] = (), fork: int = FORK) -> VerifiedProof:
    """The block, when it is at its index in the feed of ``manifest`` under a head that the manifest's signers signed.

    ``known`` are the roots of the tree that the reader has verified before, of exactly ``upgrade.start`` blocks; they
    are taken on trust. ``fork`` is the fork counter that the reader accepts. The request id is not checked: it is the
    only part of a proof that proves nothing. Raises ``VerificationError`` when something claimed is false or does not
    belong in the proof, ``MalformedError`` when it can't be a proof of a block under an upgrade, ``UnsupportedVersion``
    for hash and seek parts.
    """
    _check_parts(proof, fork)
    if proof.block is None or proof.upgrade is None:
        raise MalformedError("proof: a block and an upgrade are needed")
    block, top = _rebuild_block(proof.block)
    upgrade = _verify_upgrade(manifest, proof, proof.upgrade, top, known)
    return VerifiedProof(block.index, block.block, block.leaf_hash, upgrade.trees, upgrade.head, upgrade.roots)


def verify_upgrade(
    manifest: Manifest, proof: Proof, *, known: Sequence[Node] = (), fork: int = FORK
) -> VerifiedUpgrade:
    """The head, when its tree continues the tree whose roots are ``known`` and the manifest's signers signed it.

    For a proof without a block. Takes on trust and raises what ``verify_proof`` does.
    """
    _check_parts(proof, fork)
    if proof.block is not None or proof.upgrade is None:
        raise MalformedError("proof: an upgrade alone is needed")
    return _verify_upgrade(manifest, proof, proof.upgrade, None, known)


def verify_block(proof: Proof, known: Sequence[Node], *, fork: int = FORK) -> VerifiedBlock:
    """The block, when its path ends at one of the ``known`` nodes, which the reader has verified before.

    For a proof without an upgrade. Raises ``RootMismatch`` when it ends at the place of a known node with another hash
    or size, ``MissingEvidenceError`` when it ends where no node is known, and what ``verify_proof`` does.
    """
    _check_parts(proof, fork)
    if proof.block is None or proof.upgrade is not None or proof.manifest is not None:
        raise MalformedError("proof: a block alone is needed")
    block, top = _rebuild_block(proof.block)
    _check_known(top, known)
    return block


def _check_parts(proof: Proof, fork: int) -> None:
    if proof.hash is not None or proof.seek is not None:
        raise UnsupportedVersion("proof: hash and seek parts are not verified by this version")
    if proof.fork != fork:
        raise VerificationError(f"proof: fork counter {proof.fork}, only {fork} is accepted")


def _rebuild_block(part: BlockPart) -> tuple[VerifiedBlock, Node]:
    """The block and the node that its path leads up to; every sibling must stand exactly where it belongs."""
    leaf = node = leaf_node(part.index, part.value)
    for other in part.nodes:
        if other.index != sibling(node.index):
            raise VerificationError(f"proof: node {other.index} where {sibling(node.index)} belongs")
        node = parent_node(node, other) if node.index < other.index else parent_node(other, node)
    return VerifiedBlock(part.index, part.value, leaf.hash), node


def _check_known(top: Node, known: Sequence[Node]) -> None:
    same_place = [node for node in known if node.index == top.index]
    if not same_place:
        raise MissingEvidenceError(f"proof: it leads to node {top.index}, which is not known")
    if same_place[0] != top:
        raise RootMismatch(f"proof: node {top.index}", expected=same_place[0].hash, computed=top.hash)


def _verify_upgrade(
    manifest: Manifest, proof: Proof, part: UpgradePart, top: Node | None, known: Sequence[Node]
) -> VerifiedUpgrade:
    if proof.manifest is not None and proof.manifest != manifest:
        raise VerificationError("proof: it carries the manifest of another feed")
    tree = TreeBuilder(known, part.start)
    if top is not None and left_leaf(top.index) < part.start:
        _check_known(top, known)
        top = None
    for node in _in_order(part, top):
        tree.append_node(node)
    trees = {tree.length: tree.tree_hash()}
    _append_additional(tree, part.additional_nodes)
    trees[tree.length] = tree.tree_hash()
    _check_prologue(manifest, part, trees)
    head = verify_head(manifest, tree.tree_hash(), tree.length, proof.fork, part.signature, roots=tree.roots)
    return VerifiedUpgrade(trees, head, tree.roots)


def _check_prologue(manifest: Manifest, part: UpgradePart, trees: Mapping[int, bytes]) -> None:
    """A feed is never read from or up to a place within its prologue, and at its end it is what the manifest says."""
    prologue = manifest.prologue
    if prologue is None:
        return
    if part.start < prologue.length and (part.start or part.length < prologue.length):
        raise VerificationError(f"proof: upgrade {part.start} + {part.length} within a prologue of {prologue.length}")
    computed = trees.get(prologue.length, prologue.tree_hash)
    if computed != prologue.tree_hash:
        raise RootMismatch("proof: prologue", expected=prologue.tree_hash, computed=computed)


def _in_order(part: UpgradePart, top: Node | None) -> list[Node]:
    """The upgrade's nodes with the rebuilt one in its place; their indices must be exactly the ones that belong."""
    nodes = list(part.nodes)
    if top is not None:
        nodes.insert(sum(node.index < top.index for node in nodes), top)
    expected, found = covering(part.start, part.start + part.length), [node.index for node in nodes]
    if not found or found != expected:
        raise VerificationError(f"proof: upgrade nodes {found} where {expected} belong")
    return nodes


def _append_additional(tree: TreeBuilder, nodes: Sequence[Node]) -> None:
    """Go on to the signed tree. Its length is stated nowhere: it is where the nodes, none of them needless, end."""
    start = tree.length
    for node in nodes:
        tree.append_node(node)
    found = [node.index for node in nodes]
    if found != covering(start, tree.length):
        raise VerificationError(f"proof: additional nodes {found} where {covering(start, tree.length)} belong")

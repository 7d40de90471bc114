"""Proofs: the nodes and the signature that show a block to be in a feed, or a feed to have grown from what it was.

Implements docs/spec/feed.md section 2.6: the bytes, which are Hypercore's ``data`` messages. What stock Hypercore makes
is verified here and the other way round. A proof contains no choices: every node that belongs in it follows from what
was asked, the lengths and the signed length. ``ledger.proof_making`` makes them, ``ledger.proof_checking`` verifies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from identity.errors import LimitExceeded, MalformedError
from ledger.codec import Reader, encode_array, encode_buffer, encode_uint
from ledger.head import FORK
from ledger.manifest import Manifest, encode_manifest, read_manifest
from ledger.merkle import MAX_LENGTH, MAX_PATH_NODES, Node, encode_node, read_node

__all__ = [
    "MAX_BLOCK_BYTES",
    "MAX_PROOF_BYTES",
    "BlockPart",
    "HashPart",
    "Proof",
    "SeekPart",
    "UpgradePart",
    "encode_proof",
    "parse_evidence_proof",
    "parse_proof",
]

MAX_BLOCK_BYTES: Final = 15 * 1024 * 1024
"""Hypercore's own limit for a block."""

MAX_PROOF_BYTES: Final = 16 * 1024 * 1024
MAX_SIGNATURE_BYTES: Final = 1024 * 1024

_BLOCK, _HASH, _SEEK, _UPGRADE, _MANIFEST = 1, 2, 4, 8, 16


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

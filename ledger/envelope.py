"""Envelopes: how the signatures on a head travel, one or several, and the nodes that lead to what each signer signed.

Implements docs/spec/feed.md section 2.5. Manifest versions 1 and 2 share one form. Version 0 has another one for its
quorums, which states the length that a signer signed and refers to the nodes by their places; both follow from the
head's length, so one ``Envelope`` stands for either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from identity.errors import MalformedError
from identity.keys import SIGNATURE_BYTES
from ledger.codec import Reader, encode_array, encode_uint
from ledger.flattree import covering
from ledger.manifest import MAX_SIGNERS
from ledger.merkle import MAX_LENGTH, MAX_PATH_NODES, Node, encode_node, read_node

__all__ = [
    "Envelope",
    "EnvelopeProof",
    "encode_envelope",
    "encode_envelope_v0",
    "parse_envelope",
    "parse_envelope_v0",
]

MAX_PATCH_NODES: Final = MAX_SIGNERS * MAX_PATH_NODES


@dataclass(frozen=True, slots=True)
class EnvelopeProof:
    """One signature: by signer number ``signer``, over the tree ``patch_length`` blocks longer than the head's."""

    signer: int
    signature: bytes
    patch_length: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.signer < MAX_SIGNERS or not 0 <= self.patch_length <= MAX_LENGTH:
            raise MalformedError("head: a signer or patch length beyond its limit")
        if len(self.signature) != SIGNATURE_BYTES:
            raise MalformedError(f"head: a signature has {SIGNATURE_BYTES} bytes")


@dataclass(frozen=True, slots=True)
class Envelope:
    """The signatures on a head, and the nodes that lead from its tree to the longer ones that some signers signed."""

    proofs: tuple[EnvelopeProof, ...]
    patch: tuple[Node, ...] = ()


def encode_envelope(envelope: Envelope) -> bytes:
    """The envelope's one byte string (manifest versions 1 and 2)."""
    proofs = (encode_uint(p.signer) + p.signature + encode_uint(p.patch_length) for p in envelope.proofs)
    return encode_array(proofs) + encode_array(encode_node(node) for node in envelope.patch)


def parse_envelope(data: bytes) -> Envelope:
    """The envelope that ``encode_envelope`` writes as ``data``. Raises ``MalformedError``."""
    reader = Reader(data, "signature envelope")
    proofs = reader.array(lambda: _read_proof(reader), "signatures", maximum=MAX_SIGNERS)
    patch = reader.array(lambda: read_node(reader), "patch nodes", maximum=MAX_PATCH_NODES)
    reader.done()
    return Envelope(proofs, patch)


def encode_envelope_v0(envelope: Envelope, length: int) -> bytes:
    """The byte string of an envelope on a head of ``length`` blocks under a quorum of manifest version 0.

    Raises ``MalformedError`` when the patch lacks a node that a signer's tree needs.
    """
    places = {node.index: place for place, node in enumerate(envelope.patch)}
    proofs = (
        encode_uint(1 if proof.patch_length else 0)
        + encode_uint(proof.signer)
        + proof.signature
        + _encode_references(proof, length, places)
        for proof in envelope.proofs
    )
    return encode_array(proofs) + encode_array(encode_node(node) for node in envelope.patch)


def parse_envelope_v0(data: bytes, length: int) -> Envelope:
    """The envelope that ``encode_envelope_v0`` writes as ``data`` for that length. Raises ``MalformedError``."""
    reader = Reader(data, "signature envelope")
    proofs = reader.array(lambda: _read_proof_v0(reader, length), "signatures", maximum=MAX_SIGNERS)
    patch = reader.array(lambda: read_node(reader), "patch nodes", maximum=MAX_PATCH_NODES)
    reader.done()
    envelope = Envelope(tuple(proof for proof, _ in proofs), patch)
    places = {node.index: place for place, node in enumerate(patch)}
    for proof, references in proofs:
        if references != _references(proof, length, places):
            raise MalformedError(f"signature envelope: signer {proof.signer} refers to other nodes than it needs")
    return envelope


def _encode_references(proof: EnvelopeProof, length: int, places: dict[int, int]) -> bytes:
    if not proof.patch_length:
        return b""
    references = encode_array(encode_uint(place) for place in _references(proof, length, places))
    return encode_uint(length + proof.patch_length) + encode_uint(proof.patch_length) + references


def _references(proof: EnvelopeProof, length: int, places: dict[int, int]) -> tuple[int, ...]:
    """The places, in the patch, of the nodes from ``length`` blocks to those that the signer signed."""
    needed = covering(length, length + proof.patch_length)
    if not places.keys() >= set(needed):
        raise MalformedError(f"signature envelope: the patch lacks nodes of signer {proof.signer}")
    return tuple(places[index] for index in needed)


def _read_proof(reader: Reader) -> EnvelopeProof:
    signer = reader.uint("signer", maximum=MAX_SIGNERS - 1)
    signature = reader.fixed(SIGNATURE_BYTES, "signature")
    return EnvelopeProof(signer, signature, reader.uint("patch length", maximum=MAX_LENGTH))


def _read_proof_v0(reader: Reader, length: int) -> tuple[EnvelopeProof, tuple[int, ...]]:
    patched = reader.uint("flags", maximum=1)
    signer = reader.uint("signer", maximum=MAX_SIGNERS - 1)
    signature = reader.fixed(SIGNATURE_BYTES, "signature")
    if not patched:
        return EnvelopeProof(signer, signature), ()
    end, patch_length = reader.uint("signed length"), reader.uint("patch length", maximum=MAX_LENGTH - length)
    if not patch_length or end != length + patch_length:
        raise MalformedError(f"signature envelope: a patch of {patch_length} blocks from {length} to {end}")
    references = reader.array(lambda: reader.uint("reference"), "references", maximum=MAX_PATH_NODES)
    return EnvelopeProof(signer, signature, patch_length), references

"""Heads by several signers: what each signs for itself, and the envelope that is assembled from their signatures.

Implements docs/spec/feed.md sections 2.5 and 3.5. The signers need not stand at the same length: where the manifest
allows patches, those that are ahead certify a shorter tree with the signature on their longer one, and the envelope
carries the nodes in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from identity.errors import MissingEvidenceError, RefusedError
from identity.keys import Signer
from ledger.envelope import Envelope, EnvelopeProof, encode_envelope, encode_envelope_v0
from ledger.flattree import covering, full_roots
from ledger.head import FORK, is_bare, signable, signing_context, verify_head
from ledger.manifest import Manifest
from ledger.merkle import Node, tree_hash

__all__ = ["PartialSignature", "assemble_head", "certifiable_length", "sign_partial"]


@dataclass(frozen=True, slots=True)
class PartialSignature:
    """The signature (64 bytes) of the manifest's signer number ``signer`` on its own tree of ``length`` blocks."""

    signer: int
    length: int
    signature: bytes


def sign_partial(
    signer: Signer, manifest: Manifest, tree_hash: bytes, length: int, *, fork: int = FORK
) -> PartialSignature:
    """One signer's share of a head. Raises ``RefusedError`` when it is not a signer of the manifest.

    The caller has made sure that this signer never signed another tree of this length.
    """
    for number, known in enumerate(manifest.signers):
        if known.public_key == signer.public_key:
            message = signable(signing_context(manifest, number), tree_hash, length, fork)
            return PartialSignature(number, length, signer.sign(message))
    raise RefusedError(f"{signer.public_key.hex()} is not a signer of this feed")


def certifiable_length(manifest: Manifest, lengths: Sequence[int]) -> int:
    """The most blocks that signers standing at these lengths, one each, can certify together; 0 when they are too few.

    Without patches it takes ``quorum`` signers at one length, with them the shorter of the trees counts.
    """
    if not 0 < manifest.quorum <= len(lengths):
        return 0
    if manifest.allow_patch:
        return sorted(lengths, reverse=True)[manifest.quorum - 1]
    return max((length for length in lengths if lengths.count(length) >= manifest.quorum), default=0)


def assemble_head(
    manifest: Manifest,
    length: int,
    partials: Sequence[PartialSignature],
    node: Callable[[int], Node],
    *,
    fork: int = FORK,
) -> bytes:
    """The signature of a head of ``length`` blocks, as all of ``partials`` certify it, verified.

    ``node`` gives the nodes of the tree up to the longest of the signers' lengths. Their order is kept. Raises
    ``MissingEvidenceError`` when a signer is behind ``length``, ``RefusedError`` when one is ahead and the manifest
    allows no patches, and what ``verify_head`` raises: for too few signers, and for signatures on other trees.
    """
    proofs: list[EnvelopeProof] = []
    patch: dict[int, Node] = {}
    for partial in partials:
        if partial.length < length:
            raise MissingEvidenceError(f"signer {partial.signer} has signed {partial.length} of {length} blocks")
        if partial.length > length and not manifest.allow_patch:
            raise RefusedError(f"signer {partial.signer} is {partial.length - length} blocks ahead: no patches here")
        proofs.append(EnvelopeProof(partial.signer, partial.signature, partial.length - length))
        for index in covering(length, partial.length):
            patch.setdefault(index, node(index))
    signature = _encode(manifest, Envelope(tuple(proofs), tuple(patch.values())), length)
    roots = [node(index) for index in full_roots(length)]
    verify_head(manifest, tree_hash(roots), length, fork, signature, roots=roots)
    return signature


def _encode(manifest: Manifest, envelope: Envelope, length: int) -> bytes:
    if is_bare(manifest) and len(envelope.proofs) == 1:
        return envelope.proofs[0].signature
    return encode_envelope(envelope) if manifest.version else encode_envelope_v0(envelope, length)

"""Heads: the signed statement that a feed of a given key has this length and this tree.

Implements docs/spec/feed.md section 2.5: the 112 bytes that are signed, and the envelope in which signatures travel.
Our own feeds sign with one key and verify at fork 0. Foreign feeds verify as well: version 0 with a single signer,
versions 1 and 2 with any quorum, prologues and patches. Whatever Hypercore would leave unchecked in an envelope is
checked or refused here, so that no byte of it can be changed unnoticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from identity.errors import (
    MalformedError,
    MissingEvidenceError,
    RootMismatch,
    SignatureMismatch,
    UnsupportedVersion,
    VerificationError,
)
from identity.keys import SIGNATURE_BYTES, Signer, verify_signature
from ledger.codec import Reader, encode_array, encode_u64, encode_uint
from ledger.flattree import covering
from ledger.manifest import MAX_SIGNERS, Manifest, feed_key
from ledger.merkle import HASH_BYTES, MAX_LENGTH, MAX_PATH_NODES, Node, TreeBuilder, encode_node, read_node
from ledger.store import FeedKey

__all__ = [
    "FORK",
    "SIGNABLE_BYTES",
    "Envelope",
    "EnvelopeProof",
    "VerifiedHead",
    "encode_envelope",
    "parse_envelope",
    "sign_head",
    "signable",
    "verify_head",
]

FORK: Final = 0
"""The only fork counter of our feeds. Hypercore raises it when an owner truncates, and its readers then drop what they
had: here a feed is never truncated, so a higher one is an incident and never followed."""

SIGNABLE_BYTES: Final = 112

MAX_PATCH_NODES: Final = MAX_SIGNERS * MAX_PATH_NODES

_TREE_CONTEXT: Final = blake2b(blake2b(b"hypercore", digest_size=32).digest() + b"\x00", digest_size=32).digest()


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


@dataclass(frozen=True, slots=True)
class VerifiedHead:
    """A head whose signatures hold: ``length`` blocks under ``tree_hash``. Made by ``verify_head`` only."""

    feed_key: FeedKey
    length: int
    fork: int
    tree_hash: bytes
    signature: bytes


def signable(feed_key: bytes, tree_hash: bytes, length: int, fork: int = FORK) -> bytes:
    """The 112 bytes that a head's signature covers: TREE || feed key || tree hash || u64 length || u64 fork."""
    if len(feed_key) != HASH_BYTES or len(tree_hash) != HASH_BYTES:
        raise MalformedError("head: feed key and tree hash are 32 bytes each")
    return _TREE_CONTEXT + feed_key + tree_hash + encode_u64(length) + encode_u64(fork)


def sign_head(signer: Signer, feed_key: bytes, tree_hash: bytes, length: int) -> bytes:
    """The 68-byte envelope by a feed's single signer over its head, at fork 0.

    The caller has made sure that no other tree of this length was ever signed.
    """
    return encode_envelope(Envelope((EnvelopeProof(0, signer.sign(signable(feed_key, tree_hash, length))),)))


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


def verify_head(
    manifest: Manifest,
    tree_hash: bytes,
    length: int,
    fork: int,
    signature: bytes,
    *,
    roots: Sequence[Node] | None = None,
) -> VerifiedHead:
    """The head, when ``signature`` satisfies the manifest for exactly this tree, length and fork counter.

    Every signature present must hold, not only the first ``quorum`` of them. ``roots`` are the roots of the tree; only
    an envelope whose signers signed longer trees needs them (else ``MissingEvidenceError``). Whether the fork counter
    is acceptable is the caller's decision. Raises ``SignatureMismatch`` or another ``VerificationError`` when the claim
    is false, ``MalformedError`` when the signature is none, ``UnsupportedVersion`` for version 0 with a quorum.
    """
    key = feed_key(manifest)
    head = VerifiedHead(key, length, fork, tree_hash, signature)
    message = signable(key, tree_hash, length, fork)
    if manifest.version == 0:
        _verify_v0(manifest, head)
    elif not _within_prologue(manifest, head):
        envelope = parse_envelope(signature)
        _check_signers(manifest, envelope)
        patch = _Patch(manifest, head, envelope.patch, roots)
        for proof in envelope.proofs:
            signed = patch.signable(proof.patch_length) if proof.patch_length else message
            verify_signature(manifest.signers[proof.signer].public_key, signed, proof.signature)
        patch.check_all_used()
    return head


def _read_proof(reader: Reader) -> EnvelopeProof:
    signer = reader.uint("signer", maximum=MAX_SIGNERS - 1)
    signature = reader.fixed(SIGNATURE_BYTES, "signature")
    return EnvelopeProof(signer, signature, reader.uint("patch length", maximum=MAX_LENGTH))


def _verify_v0(manifest: Manifest, head: VerifiedHead) -> None:
    """Version 0 signs under the signer's namespace, not under the feed's key, and a single signature stands bare."""
    if len(manifest.signers) != 1 or manifest.allow_patch:
        raise UnsupportedVersion("head: a quorum or prologue of manifest version 0")
    signer = manifest.signers[0]
    message = signable(signer.namespace, head.tree_hash, head.length, head.fork)
    verify_signature(signer.public_key, message, head.signature)


def _within_prologue(manifest: Manifest, head: VerifiedHead) -> bool:
    """Whether the manifest itself vouches for the tree. A signature that stands there all the same must hold too."""
    prologue = manifest.prologue
    if prologue is None or head.length > prologue.length:
        return False
    if head.length < prologue.length:
        raise VerificationError(f"head: {head.length} blocks, fewer than the {prologue.length} of the prologue")
    if head.tree_hash != prologue.tree_hash:
        raise RootMismatch("head: prologue", expected=prologue.tree_hash, computed=head.tree_hash)
    return not head.signature


def _check_signers(manifest: Manifest, envelope: Envelope) -> None:
    signers = [proof.signer for proof in envelope.proofs]
    if len(signers) < manifest.quorum or not signers:
        raise SignatureMismatch(f"head: {len(signers)} signatures, the quorum is {manifest.quorum}")
    if len(set(signers)) != len(signers) or max(signers) >= len(manifest.signers):
        raise SignatureMismatch("head: a signer signs twice or is not in the manifest")


class _Patch:
    """The way from a head's tree to the longer trees that signers of the same feed, ahead of it, have signed."""

    def __init__(
        self, manifest: Manifest, head: VerifiedHead, nodes: Sequence[Node], roots: Sequence[Node] | None
    ) -> None:
        self._allowed = manifest.allow_patch
        self._head = head
        self._nodes = {node.index: node for node in nodes}
        self._order = [node.index for node in nodes]
        self._roots = roots
        self._used: dict[int, None] = {}

    def signable(self, patch_length: int) -> bytes:
        """What a signer that is ``patch_length`` blocks ahead has signed."""
        head = self._head
        if not self._allowed:
            raise VerificationError("head: a patch, which the manifest does not allow")
        if self._roots is None:
            raise MissingEvidenceError("head: a patched signature is verified over the roots of the tree")
        tree = TreeBuilder(self._roots, head.length)
        if tree.tree_hash() != head.tree_hash:
            raise RootMismatch("head: roots", expected=head.tree_hash, computed=tree.tree_hash())
        for index in covering(head.length, head.length + patch_length):
            if index not in self._nodes:
                raise VerificationError(f"head: the patch lacks node {index}")
            self._used.setdefault(index)
            tree.append_node(self._nodes[index])
        return signable(head.feed_key, tree.tree_hash(), tree.length, head.fork)

    def check_all_used(self) -> None:
        """The patch must hold the nodes in the order in which they were needed, once each, and no others."""
        if list(self._used) != self._order:
            raise VerificationError("head: patch nodes out of order or not needed")

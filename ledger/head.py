"""Heads: the signed statement that a feed of a given key has this length and this tree.

Implements docs/spec/feed.md section 2.5: the 112 bytes that are signed, and when the signatures on them suffice. Our
own feeds sign with one key and verify at fork 0. Foreign feeds verify as well: every manifest version, any quorum,
prologues and patches. Whatever Hypercore would leave unchecked in an envelope is checked or refused here, so that no
byte of it can be changed unnoticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from identity.errors import MalformedError, MissingEvidenceError, RootMismatch, SignatureMismatch, VerificationError
from identity.keys import Signer, verify_signature
from ledger.codec import encode_u64
from ledger.envelope import Envelope, EnvelopeProof, encode_envelope, parse_envelope, parse_envelope_v0
from ledger.flattree import covering
from ledger.manifest import Manifest, feed_key
from ledger.merkle import HASH_BYTES, Node, TreeBuilder
from ledger.store import FeedKey

__all__ = [
    "FORK",
    "SIGNABLE_BYTES",
    "VerifiedHead",
    "is_bare",
    "sign_head",
    "signable",
    "signing_context",
    "verify_head",
]

FORK: Final = 0
"""The only fork counter of our feeds. Hypercore raises it when an owner truncates, and its readers then drop what they
had: here a feed is never truncated, so a higher one is an incident and never followed."""

SIGNABLE_BYTES: Final = 112

_TREE_CONTEXT: Final = blake2b(blake2b(b"hypercore", digest_size=32).digest() + b"\x00", digest_size=32).digest()


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

    Every signature present must hold, not only the first ``quorum`` of them. ``roots`` are the roots of the tree; an
    envelope whose signers signed longer trees needs them, and a static tree of version 0, whose manifest does not state
    its length (else ``MissingEvidenceError``). Whether the fork counter is acceptable is the caller's decision. Raises
    ``SignatureMismatch`` or another ``VerificationError`` when the claim is false, ``MalformedError`` when the
    signature is none.
    """
    head = VerifiedHead(feed_key(manifest), length, fork, tree_hash, signature)
    if is_bare(manifest):
        signer = manifest.signers[0]
        verify_signature(signer.public_key, signable(signer.namespace, tree_hash, length, fork), signature)
    elif not _within_prologue(manifest, head, roots):
        envelope = parse_envelope(signature) if manifest.version else parse_envelope_v0(signature, length)
        _check_signers(manifest, envelope)
        patch = _Patch(manifest, head, envelope.patch, roots)
        for proof in envelope.proofs:
            signer = manifest.signers[proof.signer]
            signed = patch.signable(signing_context(manifest, proof.signer), proof.patch_length)
            verify_signature(signer.public_key, signed, proof.signature)
        patch.check_all_used()
    return head


def signing_context(manifest: Manifest, signer: int) -> bytes:
    """What stands for the feed in what that signer signs: the feed's key, in version 0 the signer's namespace."""
    return feed_key(manifest) if manifest.version else manifest.signers[signer].namespace


def is_bare(manifest: Manifest) -> bool:
    """Whether a head's signature is 64 bytes without an envelope: version 0 with one signer and no patches."""
    return manifest.version == 0 and len(manifest.signers) == 1 and not manifest.allow_patch


def _within_prologue(manifest: Manifest, head: VerifiedHead, roots: Sequence[Node] | None) -> bool:
    """Whether the manifest itself vouches for the tree. A signature that stands there all the same must hold too."""
    prologue = manifest.prologue
    if prologue is None:
        return False
    length = prologue.length
    if manifest.version == 0:
        length = _tree_of(head, roots, "a static tree of version 0").length
    if head.length > length:
        return False
    if head.length < length:
        raise VerificationError(f"head: {head.length} blocks, fewer than the {length} of the prologue")
    if head.tree_hash != prologue.tree_hash:
        raise RootMismatch("head: prologue", expected=prologue.tree_hash, computed=head.tree_hash)
    if not head.signature and head.fork:
        raise VerificationError(f"head: nobody signed the fork counter {head.fork}")
    return not head.signature


def _tree_of(head: VerifiedHead, roots: Sequence[Node] | None, what: str) -> TreeBuilder:
    """The tree whose hash the head states, from its roots."""
    if roots is None:
        raise MissingEvidenceError(f"head: {what} is verified over the roots of the tree")
    tree = TreeBuilder(roots, head.length)
    if tree.tree_hash() != head.tree_hash:
        raise RootMismatch("head: roots", expected=head.tree_hash, computed=tree.tree_hash())
    return tree


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

    def signable(self, context: bytes, patch_length: int) -> bytes:
        """What a signer that is ``patch_length`` blocks ahead has signed."""
        head = self._head
        if not patch_length:
            return signable(context, head.tree_hash, head.length, head.fork)
        if not self._allowed:
            raise VerificationError("head: a patch, which the manifest does not allow")
        tree = _tree_of(head, self._roots, "a patched signature")
        for index in covering(head.length, head.length + patch_length):
            if index not in self._nodes:
                raise VerificationError(f"head: the patch lacks node {index}")
            self._used.setdefault(index)
            tree.append_node(self._nodes[index])
        return signable(context, tree.tree_hash(), tree.length, head.fork)

    def check_all_used(self) -> None:
        """The patch must hold the nodes in the order in which they were needed, once each, and no others."""
        if list(self._used) != self._order:
            raise VerificationError("head: patch nodes out of order or not needed")

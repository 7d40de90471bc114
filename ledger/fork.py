"""Fork proofs: two signed heads of one feed that cannot both be true, in one portable object.

Implements docs/spec/feed.md section 2.7. Two heads of equal length, at the same fork counter, with different tree
hashes: whoever signed both has told two histories. The object carries the feed's manifest, so that anyone who knows the
feed's key can check it with nothing else at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from identity.encoding import Fields, decode, encode
from identity.errors import MalformedError, UnsupportedVersion, VerificationError
from ledger.codec import MAX_UINT
from ledger.head import FORK, VerifiedHead, verify_head
from ledger.manifest import MAX_MANIFEST_BYTES, Manifest, encode_manifest, feed_key, parse_manifest
from ledger.merkle import HASH_BYTES, MAX_LENGTH

__all__ = ["Branch", "ForkProof", "VerifiedFork", "encode_fork", "make_fork", "parse_fork", "verify_fork"]

VERSION: Final = 1
MAX_SIGNATURE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Branch:
    """What one of the two heads says, and the signature envelope over it."""

    tree_hash: bytes
    signature: bytes

    def __post_init__(self) -> None:
        if len(self.tree_hash) != HASH_BYTES or not 0 < len(self.signature) <= MAX_SIGNATURE_BYTES:
            raise MalformedError("fork proof: a branch is a 32-byte tree hash and a signature")


@dataclass(frozen=True, slots=True)
class ForkProof:
    """Two heads of one feed with equal length and fork counter. The smaller tree hash stands first."""

    manifest: Manifest
    length: int
    first: Branch
    second: Branch
    fork: int = FORK

    def __post_init__(self) -> None:
        if not 0 < self.length <= MAX_LENGTH or not 0 <= self.fork <= MAX_UINT:
            raise MalformedError("fork proof: a length or fork counter beyond its limit")
        if self.first.tree_hash >= self.second.tree_hash:
            raise MalformedError("fork proof: the tree hashes must differ, the smaller one first")


@dataclass(frozen=True, slots=True)
class VerifiedFork:
    """A fork whose both heads are signed by the feed's signers. Made by ``verify_fork`` only."""

    first: VerifiedHead
    second: VerifiedHead


def make_fork(manifest: Manifest, length: int, one: Branch, other: Branch, *, fork: int = FORK) -> ForkProof:
    """The fork proof of two heads, given in either order. Raises ``MalformedError`` when they do not contradict."""
    first, second = sorted((one, other), key=lambda branch: branch.tree_hash)
    return ForkProof(manifest, length, first, second, fork)


def encode_fork(proof: ForkProof) -> bytes:
    """The proof's one byte string: canonical CBOR."""
    return encode(
        {
            "v": VERSION,
            "manifest": encode_manifest(proof.manifest),
            "fork": proof.fork,
            "length": proof.length,
            "first": {"tree": proof.first.tree_hash, "signature": proof.first.signature},
            "second": {"tree": proof.second.tree_hash, "signature": proof.second.signature},
        }
    )


def parse_fork(data: bytes) -> ForkProof:
    """The inverse of ``encode_fork``. Nothing is verified. Raises ``MalformedError``."""
    fields = Fields(decode(data), "fork proof")
    version = fields.int("v")
    if version != VERSION:
        raise UnsupportedVersion(f"fork proof: version {version}")
    proof = ForkProof(
        manifest=parse_manifest(fields.bytes("manifest", max=MAX_MANIFEST_BYTES)),
        fork=fields.int("fork", max=MAX_UINT),
        length=fields.int("length", max=MAX_LENGTH),
        first=_read_branch(fields.map("first")),
        second=_read_branch(fields.map("second")),
    )
    fields.done()
    return proof


def verify_fork(manifest: Manifest, proof: ForkProof) -> VerifiedFork:
    """The fork, when the signers of ``manifest`` signed both heads.

    ``manifest`` is that of the feed in question; a stranger who has only the feed's key takes ``proof.manifest`` after
    comparing its ``feed_key``. Raises ``VerificationError`` when the proof is about another feed, ``SignatureMismatch``
    when one of the heads is not signed, and whatever else ``verify_head`` raises.
    """
    if proof.manifest != manifest:
        raise VerificationError(f"fork proof: it is about feed {feed_key(proof.manifest).hex()}")
    first, second = (
        verify_head(manifest, branch.tree_hash, proof.length, proof.fork, branch.signature)
        for branch in (proof.first, proof.second)
    )
    return VerifiedFork(first, second)


def _read_branch(fields: Fields) -> Branch:
    branch = Branch(fields.bytes("tree", length=HASH_BYTES), fields.bytes("signature", max=MAX_SIGNATURE_BYTES))
    fields.done()
    return branch

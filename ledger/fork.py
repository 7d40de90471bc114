"""Fork proofs: two signed heads of one feed that cannot both be true, in one portable object.

Implements docs/spec/feed.md section 2.10. Whoever signed both heads has told two histories. Heads of one length
contradict each other by their tree hashes. Those of different lengths need the nodes that show what the longer tree was
when it was as short: its roots then, and those that came after. The object carries the feed's manifest, so that anyone
who knows the feed's key can check it with nothing else at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from identity.encoding import Fields, Value, decode, encode
from identity.errors import MalformedError, RootMismatch, UnsupportedVersion, VerificationError
from ledger.codec import MAX_UINT
from ledger.flattree import covering
from ledger.head import FORK, VerifiedHead, verify_head
from ledger.manifest import MAX_MANIFEST_BYTES, Manifest, encode_manifest, feed_key, parse_manifest
from ledger.merkle import HASH_BYTES, MAX_LENGTH, MAX_PATH_NODES, Node, TreeBuilder
from ledger.noderow import NODE_BYTES, pack_nodes, unpack_node
from ledger.store import SignedHead

__all__ = [
    "MAX_FORK_BYTES",
    "Branch",
    "ForkProof",
    "VerifiedFork",
    "branch_of",
    "encode_fork",
    "make_fork",
    "parse_fork",
    "verify_fork",
]

MAX_SIGNATURE_BYTES: Final = 64 * 1024
MAX_FORK_BYTES: Final = 256 * 1024
"""More than two branches and a manifest add up to."""


@dataclass(frozen=True, slots=True)
class Branch:
    """One of the two heads: what it says, and the signature over it.

    ``prefix`` are the roots of its tree at the shorter one's length, ``rest`` the nodes from there to its own.
    """

    length: int
    tree_hash: bytes
    signature: bytes
    fork: int = FORK
    prefix: tuple[Node, ...] = ()
    rest: tuple[Node, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.length <= MAX_LENGTH or not 0 <= self.fork <= MAX_UINT:
            raise MalformedError("fork proof: a length or fork counter beyond its limit")
        if len(self.tree_hash) != HASH_BYTES or not 0 < len(self.signature) <= MAX_SIGNATURE_BYTES:
            raise MalformedError("fork proof: a branch is a 32-byte tree hash and a signature")


@dataclass(frozen=True, slots=True)
class ForkProof:
    """Two heads of one feed that contradict each other; the one with the smaller (length, fork counter, tree) first.

    Raises ``MalformedError`` when they do not contradict, or when other nodes stand in it than those that belong.
    """

    manifest: Manifest
    first: Branch
    second: Branch

    def __post_init__(self) -> None:
        if _order(self.first) > _order(self.second):
            raise MalformedError("fork proof: the smaller head stands first")
        if self.first.fork != self.second.fork:
            if any(branch.prefix or branch.rest for branch in (self.first, self.second)):
                raise MalformedError("fork proof: two fork counters contradict each other without nodes")
        elif self.common < self.second.length or self.first.prefix or self.second.prefix:
            self._check_nodes()
        elif self.first.tree_hash == self.second.tree_hash or self.first.rest or self.second.rest:
            raise MalformedError("fork proof: the tree hashes must differ")

    @property
    def common(self) -> int:
        """The length at which the two are compared: the shorter one's."""
        return self.first.length

    def _check_nodes(self) -> None:
        for branch in (self.first, self.second):
            if [node.index for node in branch.prefix] != covering(0, self.common):
                raise MalformedError(f"fork proof: not the roots of a tree of {self.common} blocks")
            if [node.index for node in branch.rest] != covering(self.common, branch.length):
                raise MalformedError(f"fork proof: not the nodes from {self.common} to {branch.length} blocks")
        # Hashes alone: where the longer tree merges two nodes, only the sum of their sizes is signed.
        if [node.hash for node in self.first.prefix] == [node.hash for node in self.second.prefix]:
            raise MalformedError(f"fork proof: both heads have the same first {self.common} blocks")


@dataclass(frozen=True, slots=True)
class VerifiedFork:
    """A fork whose both heads are signed by the feed's signers. Made by ``verify_fork`` only."""

    first: VerifiedHead
    second: VerifiedHead


def branch_of(head: SignedHead, common: int, node: Callable[[int], Node], *, fork: int = FORK) -> Branch:
    """The branch of a head whose nodes are at hand, for a comparison at ``common`` blocks."""
    prefix, rest = covering(0, common), covering(common, head.length)
    return Branch(head.length, head.tree_hash, head.signature, fork, tuple(map(node, prefix)), tuple(map(node, rest)))


def make_fork(manifest: Manifest, one: Branch, other: Branch) -> ForkProof:
    """The fork proof of two heads, given in either order. Raises ``MalformedError`` when they do not contradict."""
    first, second = sorted((one, other), key=_order)
    return ForkProof(manifest, first, second)


def encode_fork(proof: ForkProof) -> bytes:
    """The proof's one byte string: canonical CBOR, version 1 for two heads that need no nodes, else 2."""
    first, second = proof.first, proof.second
    if _order(first)[:2] == _order(second)[:2] and not first.prefix:
        return encode(
            {
                "v": 1,
                "manifest": encode_manifest(proof.manifest),
                "fork": first.fork,
                "length": first.length,
                "first": {"tree": first.tree_hash, "signature": first.signature},
                "second": {"tree": second.tree_hash, "signature": second.signature},
            }
        )
    branches: dict[str, Value] = {"first": _encode_branch(first), "second": _encode_branch(second)}
    return encode({"v": 2, "manifest": encode_manifest(proof.manifest), **branches})


def parse_fork(data: bytes) -> ForkProof:
    """The proof that ``encode_fork`` writes as ``data``. Nothing is verified. Raises ``MalformedError``."""
    if len(data) > MAX_FORK_BYTES:
        raise MalformedError(f"fork proof: more than {MAX_FORK_BYTES} bytes")
    fields = Fields(decode(data), "fork proof")
    version = fields.int("v")
    if version not in (1, 2):
        raise UnsupportedVersion(f"fork proof: version {version}")
    manifest = parse_manifest(fields.bytes("manifest", max=MAX_MANIFEST_BYTES))
    proof = _read_plain(fields, manifest) if version == 1 else _read_with_nodes(fields, manifest)
    fields.done()
    if encode_fork(proof) != data:
        raise MalformedError("fork proof: two heads that need no nodes are written as version 1")
    return proof


def verify_fork(manifest: Manifest, proof: ForkProof) -> VerifiedFork:
    """The fork, when the signers of ``manifest`` signed both heads.

    ``manifest`` is that of the feed in question; a stranger who has only the feed's key takes ``proof.manifest`` after
    comparing its ``feed_key``. Raises ``VerificationError`` when the proof is about another feed, ``SignatureMismatch``
    when one of the heads is not signed, ``RootMismatch`` when the nodes are not those of the signed trees, and whatever
    else ``verify_head`` raises.
    """
    if proof.manifest != manifest:
        raise VerificationError(f"fork proof: it is about feed {feed_key(proof.manifest).hex()}")
    first, second = (_verify_branch(manifest, branch, proof.common) for branch in (proof.first, proof.second))
    return VerifiedFork(first, second)


def _verify_branch(manifest: Manifest, branch: Branch, common: int) -> VerifiedHead:
    roots: Sequence[Node] | None = None
    if branch.prefix:
        tree = TreeBuilder(branch.prefix, common)
        for node in branch.rest:
            tree.append_node(node)
        if tree.tree_hash() != branch.tree_hash:
            raise RootMismatch("fork proof: nodes", expected=branch.tree_hash, computed=tree.tree_hash())
        roots = tree.roots
    return verify_head(manifest, branch.tree_hash, branch.length, branch.fork, branch.signature, roots=roots)


def _order(branch: Branch) -> tuple[int, int, bytes]:
    return branch.length, branch.fork, branch.tree_hash


def _encode_branch(branch: Branch) -> Value:
    return {
        "fork": branch.fork,
        "length": branch.length,
        "tree": branch.tree_hash,
        "signature": branch.signature,
        "prefix": pack_nodes(branch.prefix),
        "rest": pack_nodes(branch.rest),
    }


def _read_plain(fields: Fields, manifest: Manifest) -> ForkProof:
    fork, length = fields.int("fork", max=MAX_UINT), fields.int("length", max=MAX_LENGTH)
    branches = []
    for name in ("first", "second"):
        inner = fields.map(name)
        branches.append(Branch(length, *_read_signed(inner), fork))
        inner.done()
    return ForkProof(manifest, *branches)


def _read_with_nodes(fields: Fields, manifest: Manifest) -> ForkProof:
    maps = [fields.map("first"), fields.map("second")]
    lengths = [inner.int("length", max=MAX_LENGTH) for inner in maps]
    branches = []
    for inner, length in zip(maps, lengths, strict=True):
        tree_hash, signature = _read_signed(inner)
        prefix = _read_nodes(inner, "prefix", covering(0, min(lengths)))
        rest = _read_nodes(inner, "rest", covering(min(lengths), length))
        branches.append(Branch(length, tree_hash, signature, inner.int("fork", max=MAX_UINT), prefix, rest))
        inner.done()
    return ForkProof(manifest, *branches)


def _read_signed(fields: Fields) -> tuple[bytes, bytes]:
    return fields.bytes("tree", length=HASH_BYTES), fields.bytes("signature", max=MAX_SIGNATURE_BYTES)


def _read_nodes(fields: Fields, key: str, indices: Sequence[int]) -> tuple[Node, ...]:
    """The nodes of these indices, which are not written, or none at all."""
    packed = fields.bytes(key, max=MAX_PATH_NODES * NODE_BYTES)
    if not packed:
        return ()
    if len(packed) != len(indices) * NODE_BYTES:
        raise MalformedError(f"fork proof: {len(packed)} bytes of nodes where {len(indices)} nodes belong")
    nodes = tuple(unpack_node(index, packed, place * NODE_BYTES) for place, index in enumerate(indices))
    if any(node.size > MAX_UINT for node in nodes):
        raise MalformedError("fork proof: a node of more than 2^53-1 bytes")
    return nodes

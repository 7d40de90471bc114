"""Verifying proofs: whether what a proof shows is in the tree that a feed's signers signed, or that its reader knows.

Implements docs/spec/feed.md sections 2.6 and 2.9. The indices of every node list are worked out and any other list is
refused, so a proof cannot lead anywhere but where it claims to.

A node's hash binds what is below it, its size included; but where a proof gives both children of a node and computes
neither, only the sum of their sizes is bound, not each. Such nodes are shown by their hashes and are not among
``VerifiedAnswer.nodes``, and nothing is concluded from their sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Protocol

from identity.errors import MalformedError, MissingEvidenceError, RootMismatch, VerificationError
from ledger.flattree import covering, full_roots, leaf_count, left_leaf, sibling
from ledger.head import FORK, VerifiedHead, verify_head
from ledger.manifest import Manifest
from ledger.merkle import Node, TreeBuilder, leaf_node, parent_node
from ledger.proof import Proof, UpgradePart

__all__ = [
    "NOTHING_KNOWN",
    "KnownTree",
    "Roots",
    "VerifiedAnswer",
    "VerifiedBlock",
    "VerifiedProof",
    "VerifiedSeek",
    "VerifiedUpgrade",
    "verify_answer",
    "verify_block",
    "verify_proof",
    "verify_upgrade",
]


class KnownTree(Protocol):
    """The nodes that a reader has verified before, of a tree of ``length`` blocks; all its roots are among them."""

    @property
    def length(self) -> int:
        """Blocks of the tree."""

    def find(self, index: int) -> Node | None:
        """The node at flat-tree ``index``, or None when it is not known."""


class Roots:
    """A reader that knows the roots of a tree and nothing else.

    They are taken on trust as hashes. Raises ``MalformedError`` unless they are those of a tree of ``length`` blocks.
    """

    def __init__(self, roots: Sequence[Node], length: int) -> None:
        self._nodes = {root.index: root for root in TreeBuilder(roots, length).roots}
        self.length: Final = length

    def find(self, index: int) -> Node | None:
        """The root at ``index``."""
        return self._nodes.get(index)


NOTHING_KNOWN: Final = Roots((), 0)
"""A reader that has the feed's key alone."""


@dataclass(frozen=True, slots=True)
class VerifiedBlock:
    """A block that was proven to be at ``index``."""

    index: int
    block: bytes
    leaf_hash: bytes


@dataclass(frozen=True, slots=True)
class VerifiedSeek:
    """Byte ``offset`` of the feed lies within ``node``, whose first byte is byte ``start``, or right behind it.

    Where ``node`` has a sibling that was given and not computed, the place of the border between the two is the claim
    of whoever answered: the block itself settles it.
    """

    offset: int
    node: Node
    start: int


@dataclass(frozen=True, slots=True)
class VerifiedUpgrade:
    """A signed head, and the trees (length -> tree hash) on the way to it: the one asked for, and the one signed.

    ``roots`` are those of the signed tree: what the next upgrade can start from. The shorter tree is a prefix of the
    signed one; its tree hash states sizes that the signature need not bind, so it can be held equal to a hash that is
    trusted, and that it differs from one is no proof of a fork.
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


@dataclass(frozen=True, slots=True)
class VerifiedAnswer:
    """What an answer proved. ``nodes`` are all nodes that it showed, hash and size; ``hash`` is shown by its hash."""

    block: VerifiedBlock | None
    hash: Node | None
    seek: VerifiedSeek | None
    upgrade: VerifiedUpgrade | None
    nodes: tuple[Node, ...]


def verify_proof(manifest: Manifest, proof: Proof, *, known: Sequence[Node] = (), fork: int = FORK) -> VerifiedProof:
    """The block, when it is at its index in the feed of ``manifest`` under a head that the manifest's signers signed.

    ``known`` are the roots of the tree that the reader has verified before, of exactly ``upgrade.start`` blocks; they
    are taken on trust. ``fork`` is the fork counter that the reader accepts. The request id is not checked: it is the
    only part of a proof that proves nothing. Raises ``VerificationError`` when something claimed is false or does not
    belong in the proof, ``MalformedError`` when it can't be a proof of a block under an upgrade.
    """
    if proof.block is None or proof.upgrade is None or proof.hash is not None or proof.seek is not None:
        raise MalformedError("proof: a block and an upgrade are needed, and no more")
    answer = verify_answer(manifest, proof, Roots(known, proof.upgrade.start), fork=fork)
    assert answer.block is not None
    assert answer.upgrade is not None
    block, upgrade = answer.block, answer.upgrade
    return VerifiedProof(block.index, block.block, block.leaf_hash, upgrade.trees, upgrade.head, upgrade.roots)


def verify_upgrade(
    manifest: Manifest, proof: Proof, *, known: Sequence[Node] = (), fork: int = FORK
) -> VerifiedUpgrade:
    """The head, when its tree continues the tree whose roots are ``known`` and the manifest's signers signed it.

    For a proof with an upgrade alone. Takes on trust and raises what ``verify_proof`` does.
    """
    if proof.upgrade is None or proof.block is not None or proof.hash is not None or proof.seek is not None:
        raise MalformedError("proof: an upgrade alone is needed")
    upgrade = verify_answer(manifest, proof, Roots(known, proof.upgrade.start), fork=fork).upgrade
    assert upgrade is not None
    return upgrade


def verify_block(proof: Proof, known: Sequence[Node], *, fork: int = FORK) -> VerifiedBlock:
    """The block, when its path ends at one of the ``known`` nodes, which the reader has verified before.

    For a proof with a block alone. Raises ``RootMismatch`` when it ends at the place of a known node with another hash
    or size, ``MissingEvidenceError`` when it ends where no node is known, and what ``verify_proof`` does.
    """
    if proof.block is None or proof.upgrade or proof.hash or proof.seek or proof.manifest is not None:
        raise MalformedError("proof: a block alone is needed")
    _check_fork(proof, fork)
    leaf = leaf_node(proof.block.index, proof.block.value)
    top = _Shown().ascend(leaf, proof.block.nodes)
    _check_known(top, {node.index: node for node in known}.get(top.index))
    return VerifiedBlock(proof.block.index, proof.block.value, leaf.hash)


def verify_answer(
    manifest: Manifest, proof: Proof, known: KnownTree, *, fork: int = FORK, padding: int = 0
) -> VerifiedAnswer:
    """Everything that a proof shows to a reader of ``known``, in the feed of ``manifest``.

    ``padding`` is that of the request whose seek is answered. Whether the proof answers what was asked is the caller's
    to compare. Raises ``MalformedError`` for a combination of parts that answers nothing, ``VerificationError`` when
    something claimed is false or does not belong in the proof, ``MissingEvidenceError`` when it leads to a node that is
    not known.
    """
    _check_fork(proof, fork)
    if proof.manifest is not None and proof.manifest != manifest:
        raise VerificationError("proof: it carries the manifest of another feed")
    target, siblings = _target(proof)
    if target is None and proof.upgrade is None:
        raise MalformedError("proof: it holds neither a block nor a node nor an upgrade")
    shown, upgrade = _Shown(), proof.upgrade
    top = None if proof.seek is None else shown.ascend_from(proof.seek.nodes)
    if target is not None:
        if proof.block is not None:
            shown.sure(target)
        top = shown.ascend(target, siblings, top)
    within = top is not None and upgrade is not None and left_leaf(top.index) >= upgrade.start
    if top is not None and not within:
        _check_known(top, known.find(top.index))
        shown.sure(top)
    grown = None
    if upgrade is not None:
        grown = _verify_upgrade(manifest, proof, upgrade, top if within else None, known, shown)
    return VerifiedAnswer(
        block=_block(proof, target),
        hash=None if proof.hash is None else target,
        seek=None if proof.seek is None else _locate(proof, known, shown, padding),
        upgrade=grown,
        nodes=shown.proven(),
    )


class _Shown:
    """The nodes of one proof, given and computed, and for which of them the size is bound as well as the hash."""

    def __init__(self) -> None:
        self._nodes: dict[int, Node] = {}
        self._sure: set[int] = set()
        self._pairs: list[tuple[int, int]] = []

    def get(self, index: int) -> Node | None:
        """The node at ``index``, whatever is known of its size."""
        return self._nodes.get(index)

    def sure(self, node: Node) -> None:
        """Add a node that was computed, or compared as a whole with one that is known or signed."""
        self._nodes[node.index] = node
        self._sure.add(node.index)

    def ascend_from(self, nodes: Sequence[Node]) -> Node:
        """The node that a list of a node and its siblings leads up to."""
        if not nodes:
            raise MalformedError("proof: a list of nodes without the node that it is for")
        return self.ascend(nodes[0], nodes[1:])

    def ascend(self, node: Node, siblings: Iterable[Node], way: Node | None = None) -> Node:
        """The node that ``node`` leads up to; each sibling, ``way`` among them, must stand exactly where it belongs."""
        self._nodes.setdefault(node.index, node)
        for other in siblings:
            if way is not None and way.index == sibling(node.index):
                node, way = self._join(node, way), None
            if other.index != sibling(node.index):
                raise VerificationError(f"proof: node {other.index} where {sibling(node.index)} belongs")
            node = self._join(node, other)
        if way is not None:
            if way.index != sibling(node.index):
                raise VerificationError(f"proof: the way to a byte leads to node {way.index}, which is not needed")
            node = self._join(node, way)
        return node

    def grow(self, tree: TreeBuilder, node: Node) -> None:
        """Append a node to ``tree`` and take note of the parents that it completes."""
        roots = list(tree.roots)
        completed = tree.append_node(node)
        self._nodes.setdefault(node.index, node)
        for child, above in pairwise(completed):
            self._pairs.append((roots.pop().index, child.index))
            self.sure(above)

    def proven(self) -> tuple[Node, ...]:
        """The nodes whose hashes and sizes are both bound, in the order of their indices."""
        sure = set(self._sure)
        for left, right in self._pairs:
            if left in self._sure or right in self._sure:
                sure |= {left, right}
        return tuple(self._nodes[index] for index in sorted(sure))

    def _join(self, node: Node, other: Node) -> Node:
        self._nodes.setdefault(other.index, other)
        left, right = (node, other) if node.index < other.index else (other, node)
        self._pairs.append((left.index, right.index))
        above = parent_node(left, right)
        self.sure(above)
        return above


def _check_fork(proof: Proof, fork: int) -> None:
    if proof.fork != fork:
        raise VerificationError(f"proof: fork counter {proof.fork}, only {fork} is accepted")


def _block(proof: Proof, leaf: Node | None) -> VerifiedBlock | None:
    if proof.block is None or leaf is None:
        return None
    return VerifiedBlock(proof.block.index, proof.block.value, leaf.hash)


def _target(proof: Proof) -> tuple[Node | None, Sequence[Node]]:
    """The block's leaf, or the node that was asked for, and the siblings on its way up."""
    if proof.block is not None:
        if proof.hash is not None:
            raise MalformedError("proof: a block and a node are two answers")
        return leaf_node(proof.block.index, proof.block.value), proof.block.nodes
    if proof.hash is None:
        return None, ()
    if not proof.hash.nodes or proof.hash.nodes[0].index != proof.hash.index:
        raise VerificationError(f"proof: node {proof.hash.index} is not the first of its own list")
    return proof.hash.nodes[0], proof.hash.nodes[1:]


def _check_known(top: Node, held: Node | None) -> None:
    if held is None:
        raise MissingEvidenceError(f"proof: it leads to node {top.index}, which is not known")
    if held != top:
        raise RootMismatch(f"proof: node {top.index}", expected=held.hash, computed=top.hash)


def _locate(proof: Proof, known: KnownTree, shown: _Shown, padding: int) -> VerifiedSeek:
    """Where the byte's node begins, from the sizes of all that lies before it; the byte must be in it or at its end."""
    assert proof.seek is not None
    node, before = proof.seek.nodes[0], 0
    for index in covering(0, left_leaf(node.index)):
        other = shown.get(index) or known.find(index)
        if other is None:
            raise MissingEvidenceError(f"proof: where byte {proof.seek.offset} is depends on node {index}, not known")
        before += other.size
    begin = before - padding * left_leaf(node.index)
    if not begin <= proof.seek.offset <= begin + node.size - padding * leaf_count(node.index):
        raise VerificationError(f"proof: byte {proof.seek.offset} is not in node {node.index}")
    return VerifiedSeek(proof.seek.offset, node, begin)


def _verify_upgrade(
    manifest: Manifest, proof: Proof, part: UpgradePart, top: Node | None, known: KnownTree, shown: _Shown
) -> VerifiedUpgrade:
    if part.start != known.length:
        raise MalformedError(f"proof: an upgrade from {part.start} blocks, the reader has {known.length}")
    tree = TreeBuilder([_known_root(known, index) for index in full_roots(known.length)], known.length)
    for root in tree.roots:
        shown.sure(root)
    for node in _in_order(part, top):
        shown.grow(tree, node)
    trees = {tree.length: tree.tree_hash()}
    _append_additional(tree, part.additional_nodes, shown)
    trees[tree.length] = tree.tree_hash()
    _check_prologue(manifest, part, trees)
    head = verify_head(manifest, tree.tree_hash(), tree.length, proof.fork, part.signature, roots=tree.roots)
    for root in tree.roots:
        shown.sure(root)
    return VerifiedUpgrade(trees, head, tree.roots)


def _known_root(known: KnownTree, index: int) -> Node:
    root = known.find(index)
    if root is None:
        raise MissingEvidenceError(f"proof: root {index} of the tree that it continues is not known")
    return root


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


def _append_additional(tree: TreeBuilder, nodes: Sequence[Node], shown: _Shown) -> None:
    """Go on to the signed tree. Its length is stated nowhere: it is where the nodes, none of them needless, end."""
    start = tree.length
    for node in nodes:
        shown.grow(tree, node)
    found = [node.index for node in nodes]
    if found != covering(start, tree.length):
        raise VerificationError(f"proof: additional nodes {found} where {covering(start, tree.length)} belong")

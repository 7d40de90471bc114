"""Feeds that are held in part: what to ask for next, whether an answer holds, and what is known after it.

Implements docs/spec/feed.md section 2.11. A reader that knows a feed's key, and so its manifest, trusts nobody: it
follows signed heads and takes blocks from anywhere. What it knows is closed upwards: beside every node but a root, its
sibling and its parent are known too. So the place of each byte follows from the sizes that are known, and an answer
only has to lead up to the next node that is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from identity.errors import MalformedError, MissingEvidenceError, VerificationError
from ledger.flattree import covering, depth, full_roots, left_child, left_leaf, parent, right_leaf
from ledger.fork import Branch, ForkProof, branch_of, make_fork
from ledger.head import FORK
from ledger.manifest import Manifest
from ledger.merkle import Node
from ledger.proof import Proof, parse_proof
from ledger.proof_checking import NOTHING_KNOWN, KnownTree, VerifiedAnswer, verify_answer
from ledger.request import Request, Seek, Target, Upgrade
from ledger.store import SignedHead

__all__ = [
    "HeldFeed",
    "Learned",
    "Position",
    "ask_block",
    "ask_byte",
    "ask_growth",
    "ask_head",
    "ask_node",
    "check_answer",
    "find_fork",
    "judge_answer",
    "learned_from",
    "read_bytes",
]


class HeldFeed(KnownTree, Protocol):
    """What is held of a feed: nodes as in ``KnownTree``, and some of its blocks."""

    def block(self, index: int) -> bytes | None:
        """The block, or None when it is not held."""


class Position(NamedTuple):
    """A byte of the feed: the block that holds it, and its place in there."""

    block: int
    offset: int


@dataclass(frozen=True, slots=True)
class Learned:
    """What an answer proved: nodes that are known from now on, a block perhaps, and the signed head it led to.

    ``hash`` is the node that was asked for; unless it is one of ``nodes`` only its hash is proven.
    """

    nodes: tuple[Node, ...]
    block: tuple[int, bytes] | None
    hash: Node | None
    head: SignedHead | None


# --- what to ask for ---


def ask_block(held: HeldFeed, index: int) -> Request | None:
    """The request that brings block ``index``; None when it is held. ``MissingEvidenceError`` beyond the feed."""
    if held.block(index) is not None:
        return None
    return Request(block=Target(index, _levels(held, 2 * index)))


def ask_node(held: KnownTree, index: int) -> Request | None:
    """The request that brings the hash of a node; None when it is known."""
    return None if held.find(index) is not None else Request(hash=Target(index, _levels(held, index)))


def ask_growth(held: KnownTree) -> Request:
    """The request that brings the newest signed head: what follows the blocks that are known."""
    return Request(upgrade=Upgrade(held.length, 1))


def ask_head(length: int) -> Request:
    """The request for a signed head as somebody sees it who knows nothing, by way of the tree of ``length`` blocks."""
    return Request(upgrade=Upgrade(0, length))


def ask_byte(held: KnownTree, offset: int) -> Request | Position:
    """Where byte ``offset`` of the feed is, or the request that comes closer to it.

    Each answer makes two more nodes known on the way down, at least. At the end it is a block that is asked for, and
    not the hashes of two: their sizes would be the claim of whoever answers. Raises ``MissingEvidenceError`` when the
    feed has no such byte.
    """
    node, begin = _root_with(held, offset)
    while node.index & 1:
        left = held.find(left_child(node.index))
        if left is None:
            first, levels = left_leaf(node.index), depth(node.index)
            if levels == 1:
                return Request(block=Target(first, 1))
            return Request(hash=Target(2 * first, levels), seek=Seek(offset))
        if offset < begin + left.size:
            node = left
        else:
            begin += left.size
            node = _known(held, 2 * node.index - left.index)
    return Position(node.index // 2, offset - begin)


def _levels(held: KnownTree, index: int) -> int:
    """How far above a node the next known one is."""
    if right_leaf(index) >= held.length:
        raise MissingEvidenceError(f"node {index} is beyond the {held.length} blocks that are known of the feed")
    levels = 0
    while held.find(index) is None:
        index, levels = parent(index), levels + 1
        if right_leaf(index) >= held.length:
            raise MissingEvidenceError(f"no node above {index} is known")
    return levels


def _root_with(held: KnownTree, offset: int) -> tuple[Node, int]:
    """The root below which the byte is, and the byte that it begins with."""
    begin = 0
    for index in full_roots(held.length):
        root = _known(held, index)
        if begin <= offset < begin + root.size:
            return root, begin
        begin += root.size
    raise MissingEvidenceError(f"byte {offset} is not in the {begin} bytes that are known of the feed")


def _known(held: KnownTree, index: int) -> Node:
    node = held.find(index)
    if node is None:
        raise MissingEvidenceError(f"node {index} is not known")
    return node


# --- what was answered ---


def judge_answer(manifest: Manifest, held: KnownTree, request: Request, data: bytes) -> Learned:
    """What the bytes of an answer prove, when they answer ``request`` and hold against what is known.

    Raises ``MalformedError``, ``VerificationError`` or ``MissingEvidenceError``, whichever way the answer fails.
    """
    proof = parse_proof(data)
    check_answer(request, proof, prologue=0 if manifest.prologue is None else manifest.prologue.length)
    answer = verify_answer(manifest, proof, held)
    return learned_from(answer)


def learned_from(answer: VerifiedAnswer) -> Learned:
    """What is kept of a verified answer."""
    block = None if answer.block is None else (answer.block.index, answer.block.block)
    head = None
    if answer.upgrade is not None:
        signed = answer.upgrade.head
        head = SignedHead(signed.length, signed.tree_hash, signed.signature)
    return Learned(answer.nodes, block, answer.hash, head)


def check_answer(request: Request, proof: Proof, *, prologue: int = 0) -> None:
    """Return only when a proof is of what was asked. That it holds is another question.

    A seek may be left without an answer, and within a prologue of so many blocks an upgrade leads to its end. Raises
    ``VerificationError``.
    """
    asked = (
        request.block and request.block.index,
        request.hash and request.hash.index,
        request.upgrade and _expected(request.upgrade, prologue),
    )
    got = (
        None if proof.block is None else proof.block.index,
        None if proof.hash is None else proof.hash.index,
        None if proof.upgrade is None else (proof.upgrade.start, proof.upgrade.length),
    )
    if asked != got:
        raise VerificationError(f"the answer is of {got}, asked was {asked}")
    if proof.seek is not None and (request.seek is None or request.seek.offset != proof.seek.offset):
        raise VerificationError(f"the answer leads to byte {proof.seek.offset}, which was not asked for")


def _expected(upgrade: Upgrade, prologue: int) -> tuple[int, int]:
    return (0, prologue) if upgrade.start < prologue else (upgrade.start, upgrade.length)


# --- forks ---


def find_fork(
    manifest: Manifest, head: SignedHead, node: Callable[[int], Node | None], data: bytes
) -> ForkProof | None:
    """The proof that the head in ``data`` and our ``head`` contradict each other; None when one continues the other.

    ``data`` answers ``ask_head(head.length)``, or ``ask_head(1)`` where the other head is shorter. ``node`` gives the
    nodes of our tree. Raises what ``verify_answer`` does for a head that nobody signed, ``MissingEvidenceError`` when a
    node of ours is needed that is not known.
    """
    proof = parse_proof(data)
    if proof.upgrade is None or proof.upgrade.start:
        raise MalformedError("a head as it is shown to somebody who knows nothing is an upgrade from 0")
    answer = verify_answer(manifest, proof, NOTHING_KNOWN, fork=proof.fork)
    assert answer.upgrade is not None
    signed = answer.upgrade.head
    if signed.fork != FORK:
        other = Branch(signed.length, signed.tree_hash, signed.signature, signed.fork)
        return make_fork(manifest, Branch(head.length, head.tree_hash, head.signature), other)
    common = min(head.length, signed.length)
    shown = {one.index: one for one in (*proof.upgrade.nodes, *proof.upgrade.additional_nodes, *answer.nodes)}

    def ours(index: int) -> Node:
        found = node(index)
        if found is None:
            raise MissingEvidenceError(f"node {index} of the feed is not known")
        return found

    def theirs(index: int) -> Node:
        if index not in shown:
            raise MissingEvidenceError(f"the answer does not show what the tree was at {common} blocks")
        return shown[index]

    if all(ours(index).hash == theirs(index).hash for index in covering(0, common)):
        return None
    held = branch_of(head, common, ours)
    met = branch_of(SignedHead(signed.length, signed.tree_hash, signed.signature), common, theirs)
    return make_fork(manifest, held, met)


# --- reading ---


def read_bytes(held: HeldFeed, offset: int, length: int) -> Iterator[bytes]:
    """Bytes ``offset`` to ``offset + length - 1`` of the feed, in pieces of one block each.

    Raises ``MissingEvidenceError`` for a range that goes beyond the feed, or, at that place, for a block or node that
    is not held.
    """
    if length < 0 or offset < 0:
        raise MissingEvidenceError(f"no bytes {offset} + {length}")
    while length:
        place = ask_byte(held, offset)
        if isinstance(place, Request):
            raise MissingEvidenceError(f"where byte {offset} is, is not known")
        block = held.block(place.block)
        if block is None:
            raise MissingEvidenceError(f"block {place.block}, with byte {offset}, is not held")
        piece = block[place.offset : place.offset + length]
        yield piece
        offset, length = offset + len(piece), length - len(piece)

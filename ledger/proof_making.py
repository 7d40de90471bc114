"""Making proofs: which nodes answer a request, as Hypercore chooses them, so that its bytes and ours are the same.

Implements docs/spec/feed.md sections 2.6 and 2.8. Everything is worked out from the request and the head; the source is
read for the nodes that the answer carries and, for a seek, for the sizes on the way down: O(log n).
"""

from __future__ import annotations

from typing import Protocol

from identity.errors import MalformedError, MissingEvidenceError
from ledger.flattree import (
    contains,
    covering,
    full_roots,
    leaf_count,
    left_child,
    left_leaf,
    node_over,
    path,
    right_leaf,
    sibling,
)
from ledger.head import FORK
from ledger.merkle import Node
from ledger.proof import BlockPart, HashPart, Proof, SeekPart, UpgradePart
from ledger.request import Request, Seek, Target
from ledger.store import SignedHead

__all__ = ["NodeSource", "answer_request", "make_proof"]


class NodeSource(Protocol):
    """Where a proof's contents come from: a feed's nodes and blocks."""

    def node(self, index: int) -> Node:
        """The tree node at flat-tree ``index``. Raises ``MissingEvidenceError`` when it is not here."""

    def block(self, index: int) -> bytes:
        """Block ``index``. Raises ``MissingEvidenceError`` when it is not here."""


def make_proof(
    source: NodeSource,
    head: SignedHead,
    *,
    block: int | None = None,
    hash: int | None = None,
    nodes: int = 0,
    seek: Seek | None = None,
    upgrade: tuple[int, int] | None = None,
    request: int = 0,
    fork: int = FORK,
    prologue: int = 0,
) -> Proof:
    """The proof that answers a request, as Hypercore makes it; O(log n) reads of ``source``.

    ``upgrade`` is (start, length): from the blocks that the reader has to the ones it asks for, at most ``head.length``
    together. A ``block``, or the node ``hash`` by its flat-tree index, is led up to the upgrade when it lies within;
    else it is led up the ``nodes`` levels to where the reader knows a node. A ``seek`` is answered with the way to the
    byte, from the same node up, and left out where the reader knows enough to find it alone. ``prologue`` is how many
    blocks the manifest vouches for: an upgrade from within them leads from 0 to their end. For evidence: ``block`` i,
    ``upgrade`` (0, L) and no more.

    Raises ``MalformedError`` for a request that no feed could answer, ``MissingEvidenceError`` for one that reaches
    beyond the head or the source.
    """
    if block is not None and hash is not None:
        raise MalformedError("proof request: a block and a hash are two requests")
    target = 2 * block if block is not None else hash
    if nodes < 0 or (target is not None and target < 0):
        raise MalformedError(f"proof request: node {target}, {nodes} levels")
    start, stop = _span(head, upgrade, prologue)
    cover = covering(start, stop)
    if target is not None and (upgrade is None or right_leaf(target) < start):
        top: int | None = _climb(target, nodes, stop)
        found = None if seek is None else _seek_below(source, _climb(target, nodes, stop), seek)
    elif upgrade is not None:
        if target is not None and seek is not None:
            raise MalformedError("proof request: a seek beside a block or node within the upgrade")
        found = None if seek is None else _seek_from_start(source, stop, seek)
        top = _top_in(cover, target, found)
    else:
        raise MalformedError("proof request: nothing is asked for, or a byte that belongs to no node and no upgrade")
    led, way = _lead(source, target, top, found)
    return Proof(
        request,
        fork,
        block=None if block is None else BlockPart(block, source.block(block), led),
        hash=None if hash is None else HashPart(hash, (source.node(hash), *led)),
        seek=None if seek is None or way is None else SeekPart(seek.offset, way),
        upgrade=None if upgrade is None else _upgrade(source, head, start, stop, top),
    )


def answer_request(source: NodeSource, head: SignedHead, request: Request, *, prologue: int = 0) -> Proof:
    """The same for a parsed request; ``ledger.request``. The manifest, when it is asked for, is the caller's to add."""
    target = request.block or request.hash or Target(0)
    return make_proof(
        source,
        head,
        block=None if request.block is None else request.block.index,
        hash=None if request.hash is None else request.hash.index,
        nodes=target.nodes,
        seek=request.seek,
        upgrade=request.upgrade,
        request=request.id,
        prologue=prologue,
    )


def _span(head: SignedHead, upgrade: tuple[int, int] | None, prologue: int) -> tuple[int, int]:
    """From where and up to where the answer leads; without an upgrade the whole tree."""
    start, length = upgrade or (0, head.length)
    if upgrade is not None and 0 <= start < prologue:
        start, length = 0, prologue
    if upgrade is not None and not 0 <= start < start + length:
        raise MalformedError(f"proof request: upgrade {start} + {length}")
    if start + length > head.length:
        raise MissingEvidenceError(f"proof request: length {start + length} is beyond the head's {head.length}")
    return start, start + length


def _climb(node: int, levels: int, length: int) -> int:
    """The node ``levels`` above another one, which must be complete in a tree of ``length`` blocks."""
    level = (leaf_count(node).bit_length() - 1) + levels
    if level > length.bit_length() or right_leaf(node_over(left_leaf(node), level)) >= length:
        raise MissingEvidenceError(f"proof request: {levels} levels above node {node} there is no node yet")
    return node_over(left_leaf(node), level)


def _top_in(cover: list[int], target: int | None, found: int | None) -> int | None:
    """The node of an upgrade that the target or the seek leads up to; None when the reader needs no way to the byte."""
    if target is None:
        return next((node for node in cover if found is not None and contains(node, found)), None)
    for node in cover:
        if contains(node, target):
            return node
    raise MissingEvidenceError(f"proof request: node {target} is not whole within the upgrade")


def _lead(
    source: NodeSource, target: int | None, top: int | None, found: int | None
) -> tuple[tuple[Node, ...], tuple[Node, ...] | None]:
    """The siblings from the target up to ``top``, and the way from the byte's node to where it meets them."""
    if top is None:
        return (), None
    if target is None:
        return (), None if found is None else _way(source, found, top)
    led: list[Node] = []
    way: tuple[Node, ...] | None = None
    for index in path(target, top):
        if found is not None and index != found and contains(index, found):
            way = _way(source, found, index)
        else:
            led.append(source.node(index))
    return tuple(led), way


def _way(source: NodeSource, node: int, top: int) -> tuple[Node, ...]:
    return tuple(source.node(index) for index in (node, *path(node, top)))


def _upgrade(source: NodeSource, head: SignedHead, start: int, stop: int, top: int | None) -> UpgradePart:
    nodes = tuple(source.node(index) for index in covering(start, stop) if index != top)
    additional = tuple(source.node(index) for index in covering(stop, head.length))
    return UpgradePart(start, stop - start, nodes, additional, head.signature)


# --- seeking ---


def _seek_from_start(source: NodeSource, length: int, seek: Seek) -> int | None:
    """The node that holds the byte in a tree of ``length`` blocks, or ends where it begins; None beyond the end."""
    offset = seek.offset
    for root in full_roots(length):
        size = _size(source.node(root), seek)
        if offset == size:
            return root
        if offset < size:
            return _descend(source, root, offset, seek)
        offset -= size
    return None


def _seek_below(source: NodeSource, top: int, seek: Seek) -> int:
    """The same below ``top``. Raises ``MissingEvidenceError`` when the byte is elsewhere."""
    offset = seek.offset - sum(_size(source.node(index), seek) for index in covering(0, left_leaf(top)))
    if offset < 0 or (offset and offset >= _size(source.node(top), seek)):
        raise MissingEvidenceError(f"proof request: byte {seek.offset} is not below node {top}")
    return _descend(source, top, offset, seek)


def _descend(source: NodeSource, node: int, offset: int, seek: Seek) -> int:
    """From ``node`` down to the block with the byte at ``offset`` in it, or to a node that ends or begins right there.

    A source that does not hold all nodes answers with the last one that it holds.
    """
    while offset and node & 1:
        try:
            left = source.node(left_child(node))
        except MissingEvidenceError:
            return node
        size = _size(left, seek)
        if size == offset:
            return left.index
        offset, node = (offset, left.index) if offset < size else (offset - size, sibling(left.index))
    return node


def _size(node: Node, seek: Seek) -> int:
    return node.size - seek.padding * leaf_count(node.index)

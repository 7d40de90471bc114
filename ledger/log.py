"""The checkpoint log's Merkle tree: RFC 6962 / RFC 9162 on SHA-256, its proofs, and the frontier that appends to it.

Implements docs/spec/checkpoint-log.md, sections "The tree" and "Proofs". Verifying takes plain arguments: sizes,
hashes, a list. Making a proof reads O(log n) stored hashes of complete subtrees through a ``NodeReader``.

Indices and sizes are Python ints and may be anything; what lies outside 0..2^53 is refused as malformed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final, Protocol

from identity.errors import MalformedError, RootMismatch
from ledger.store import LogState

__all__ = [
    "HASH_BYTES",
    "MAX_LOG_SIZE",
    "CompletedNode",
    "Frontier",
    "NodeReader",
    "append_to_frontier",
    "consistency_proof",
    "hash_children",
    "hash_leaf",
    "included_in",
    "inclusion_proof",
    "root_at",
    "verify_consistency",
    "verify_inclusion",
]

HASH_BYTES: Final = 32

MAX_LOG_SIZE: Final = 2**53
"""Leaves in a log. Every size is then exact in JSON readers that hold numbers as doubles."""

CompletedNode = tuple[int, int, bytes]
"""(level, index, hash) of a complete subtree, as ``NodeReader`` will be asked for it."""


class NodeReader(Protocol):
    """How proofs read the tree; ``ReadTransaction.log_node`` is one."""

    def __call__(self, level: int, index: int, /) -> bytes:
        """The hash of the complete subtree over leaves index*2^level to (index+1)*2^level - 1."""


def hash_leaf(data: bytes) -> bytes:
    """The 32-byte leaf hash: SHA-256(00 || data)."""
    return sha256(b"\x00" + data).digest()


def hash_children(left: bytes, right: bytes) -> bytes:
    """The 32-byte hash of an inner node: SHA-256(01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


# --- verifying ------------------------------------------------------------------------------------------------------


def verify_inclusion(index: int, size: int, leaf_hash: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Return only when leaf ``index`` of the log of ``size`` leaves and that root has that hash (RFC 9162 2.1.3.2).

    Raises ``RootMismatch`` when the proof leads to another root, ``MalformedError`` when it cannot be a proof for that
    index and size: positions out of range, too few or too many hashes, hashes that do not have 32 bytes.
    """
    _check_hashes("inclusion proof", (), root)
    _check_root(f"inclusion of leaf {index} in {size}", root, included_in(index, size, leaf_hash, proof))


def included_in(index: int, size: int, leaf_hash: bytes, proof: Sequence[bytes]) -> bytes:
    """The root of the only log of ``size`` leaves in which leaf ``index`` has that hash and that proof.

    For a root that is itself a commitment to something larger. Raises ``MalformedError`` as ``verify_inclusion`` does.
    """
    if not 0 <= index < size <= MAX_LOG_SIZE:
        raise MalformedError(f"inclusion proof: leaf {index} of a log of {size} leaves")
    _check_hashes("inclusion proof", proof, leaf_hash)
    path, last = index, size - 1
    computed = leaf_hash
    for sibling in proof:
        if last == 0:
            raise MalformedError(f"inclusion proof: {len(proof)} hashes are too many for leaf {index} of {size}")
        if path & 1 or path == last:
            computed = hash_children(sibling, computed)
            path, last = _skip_absent_siblings(path, last)
        else:
            computed = hash_children(computed, sibling)
        path, last = path >> 1, last >> 1
    if last != 0:
        raise MalformedError(f"inclusion proof: {len(proof)} hashes are too few for leaf {index} of {size}")
    return computed


def verify_consistency(size1: int, size2: int, proof: Sequence[bytes], root1: bytes, root2: bytes) -> None:
    """Return only when the log of ``size1`` leaves is a prefix of the one of ``size2`` (RFC 9162 2.1.4.2).

    Between equal sizes the proof is empty and the roots must be equal. A size of 0 is malformed: everything extends an
    empty log. Raises ``RootMismatch`` or ``MalformedError`` as ``verify_inclusion`` does.
    """
    if not 0 < size1 <= size2 <= MAX_LOG_SIZE:
        raise MalformedError(f"consistency proof: from {size1} to {size2} leaves")
    _check_hashes("consistency proof", proof, root1, root2)
    what = f"consistency of {size1} with {size2}"
    if size1 == size2:
        if proof:
            raise MalformedError("consistency proof: hashes between equal sizes")
        _check_root(what, root2, root1)
        return
    # A log of 2^n leaves is one node of the larger log, and its root is known: the proof leaves it out.
    hashes = [root1, *proof] if size1 & (size1 - 1) == 0 else list(proof)
    if not hashes:
        raise MalformedError("consistency proof: empty")
    path, last = size1 - 1, size2 - 1
    while path & 1:
        path, last = path >> 1, last >> 1
    computed1 = computed2 = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise MalformedError(f"consistency proof: {len(proof)} hashes are too many from {size1} to {size2}")
        if path & 1 or path == last:
            computed1 = hash_children(sibling, computed1)
            computed2 = hash_children(sibling, computed2)
            path, last = _skip_absent_siblings(path, last)
        else:
            computed2 = hash_children(computed2, sibling)
        path, last = path >> 1, last >> 1
    if last != 0:
        raise MalformedError(f"consistency proof: {len(proof)} hashes are too few from {size1} to {size2}")
    _check_root(f"{what}, the first root", root1, computed1)
    _check_root(f"{what}, the second root", root2, computed2)


def _skip_absent_siblings(path: int, last: int) -> tuple[int, int]:
    """On the right edge a node without a sibling is its own parent: go up until there is a left sibling."""
    while not path & 1 and path:
        path, last = path >> 1, last >> 1
    return path, last


def _check_hashes(what: str, proof: Sequence[bytes], *others: bytes) -> None:
    for digest in (*proof, *others):
        if len(digest) != HASH_BYTES:
            raise MalformedError(f"{what}: a hash of {len(digest)} bytes, must have {HASH_BYTES}")


def _check_root(what: str, expected: bytes, computed: bytes) -> None:
    if computed != expected:
        raise RootMismatch(what, expected=expected, computed=computed)


# --- proving --------------------------------------------------------------------------------------------------------


def root_at(nodes: NodeReader, size: int) -> bytes:
    """The root of the log's first ``size`` leaves; for 0 the hash of nothing. Reads O(log n) nodes."""
    if not 0 <= size <= MAX_LOG_SIZE:
        raise MalformedError(f"a log of {size} leaves")
    return _range_root(nodes, 0, size) if size else sha256().digest()


def inclusion_proof(nodes: NodeReader, index: int, size: int) -> list[bytes]:
    """The proof that ``verify_inclusion`` takes: PATH of RFC 9162 2.1.3.1, lowest hash first. O(log n) nodes."""
    if not 0 <= index < size <= MAX_LOG_SIZE:
        raise MalformedError(f"inclusion proof: leaf {index} of a log of {size} leaves")
    path: list[bytes] = []
    start, stop = 0, size
    while stop - start > 1:
        middle = start + _split(stop - start)
        if index < middle:
            path.append(_range_root(nodes, middle, stop))
            stop = middle
        else:
            path.append(_range_root(nodes, start, middle))
            start = middle
    path.reverse()
    return path


def consistency_proof(nodes: NodeReader, size1: int, size2: int) -> list[bytes]:
    """The proof that ``verify_consistency`` takes: PROOF of RFC 9162 2.1.4.1, lowest hash first. O(log n) nodes."""
    if not 0 < size1 <= size2 <= MAX_LOG_SIZE:
        raise MalformedError(f"consistency proof: from {size1} to {size2} leaves")
    path: list[bytes] = []
    start, stop = 0, size2
    while stop != size1:
        middle = start + _split(stop - start)
        if size1 <= middle:
            path.append(_range_root(nodes, middle, stop))
            stop = middle
        else:
            path.append(_range_root(nodes, start, middle))
            start = middle
    if start:
        # The old log is not one node of the new one: its last complete part has to be given.
        path.append(_range_root(nodes, start, stop))
    path.reverse()
    return path


def _split(count: int) -> int:
    """The largest power of two smaller than ``count`` (> 1): where RFC 9162 2.1.1 divides a list."""
    return 1 << ((count - 1).bit_length() - 1)


def _range_root(nodes: NodeReader, start: int, stop: int) -> bytes:
    """The hash over leaves ``start`` to ``stop - 1``; a power of two >= stop - start divides ``start``."""
    hashes = []
    while start < stop:
        level = (stop - start).bit_length() - 1
        hashes.append(nodes(level, start >> level))
        start += 1 << level
    return _fold(hashes)


def _fold(hashes: Sequence[bytes]) -> bytes:
    """The root over complete subtrees, largest first: each smaller one hangs to the right of the larger."""
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = hash_children(left, root)
    return root


# --- appending ------------------------------------------------------------------------------------------------------


class Frontier:
    """A log at its right edge: the roots of its complete subtrees, O(log n) space. It grows leaf by leaf."""

    __slots__ = ("_peaks", "_size")

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        """Continue a log of ``size`` leaves; ``peaks``, largest subtree first, are taken on trust as hashes."""
        if not 0 <= size <= MAX_LOG_SIZE or len(peaks) != size.bit_count():
            raise MalformedError(f"{len(peaks)} hashes are not the frontier of a log of {size} leaves")
        _check_hashes("frontier", peaks)
        self._size = size
        self._peaks = list(peaks)

    @property
    def size(self) -> int:
        """Leaves so far."""
        return self._size

    @property
    def peaks(self) -> tuple[bytes, ...]:
        """The roots of the complete subtrees, largest first."""
        return tuple(self._peaks)

    def append(self, leaf_hash: bytes) -> list[CompletedNode]:
        """Add a leaf by its hash. Returns the subtrees that it completes, itself first. O(1) hashes on average."""
        if self._size >= MAX_LOG_SIZE:
            raise MalformedError(f"a log has at most {MAX_LOG_SIZE} leaves")
        level, index, digest = 0, self._size, leaf_hash
        completed = [(level, index, digest)]
        while index & 1:
            digest = hash_children(self._peaks.pop(), digest)
            level, index = level + 1, index >> 1
            completed.append((level, index, digest))
        self._peaks.append(digest)
        self._size += 1
        return completed

    def root(self) -> bytes:
        """The root of the log as it stands; for an empty one the hash of nothing."""
        return _fold(self._peaks) if self._peaks else sha256().digest()


def append_to_frontier(state: LogState, leaves: Iterable[bytes]) -> tuple[LogState, list[CompletedNode]]:
    """The state after ``leaves`` (their bytes, not their hashes), and every subtree hash that they complete, in order.

    ``state`` of a log to be created has size 0 and an empty frontier.
    """
    frontier = Frontier(state.size, state.frontier)
    completed: list[CompletedNode] = []
    for leaf in leaves:
        completed += frontier.append(hash_leaf(leaf))
    return LogState(state.log_id, frontier.size, frontier.peaks), completed

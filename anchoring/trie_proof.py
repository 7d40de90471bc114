"""Proofs in a Merkle-Patricia trie: the value under one key, or its absence, under a trusted root.

A proof is the list of RLP nodes on the path of the key, root first, as ``eth_getProof`` returns it (EIP-1186). It is
taken as such only when the first node hashes to the root, every other node is the one that its predecessor names, and
none is left over; so every byte of a proof is covered by the root. A node that is shorter than 32 bytes stands inside
its parent instead of being named by hash, and is never an element of the list.

Keys are 32 bytes here, as in Ethereum's state and storage tries, whose keys are hashes: all paths have 64 nibbles, so
branch nodes carry no value.

Spec: docs/spec/anchor.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from eth_hash.auto import keccak

from anchoring.rlp_codec import Item, decode_rlp, encode_rlp
from identity.errors import LimitExceeded, MalformedError, ReceiptMismatch

__all__ = ["EMPTY_TRIE_ROOT", "MAX_NODE_BYTES", "MAX_PROOF_NODES", "lookup", "verify_trie_proof"]

EMPTY_TRIE_ROOT: Final = keccak(b"\x80")
"""The root of a trie that holds nothing; proofs under it are empty."""

MAX_NODE_BYTES: Final = 1_024
"""A branch of sixteen hashes has 532 bytes; a leaf is shorter, since no value here exceeds an account's 110 bytes."""

MAX_PROOF_NODES: Final = 65
"""One node for each of the 64 nibbles of a path, and the leaf."""

_BRANCH: Final = 17
# Nodes inside nodes: 32 bytes hold at most three levels of lists.
_MAX_NODE_DEPTH: Final = 4

_Node = Sequence[Item]


def verify_trie_proof(root: bytes, key: bytes, nodes: Sequence[bytes], *, what: str) -> bytes | None:
    """The value under ``key`` in the trie of ``root``, or None when the proof shows that there is none.

    ``root`` is taken on trust. Raises ``ReceiptMismatch`` (PROOF_HASH, PROOF_INCOMPLETE, PROOF_UNUSED_NODE) when the
    nodes do not show it, ``MalformedError`` when one is no trie node; ``what`` names the proof.
    """
    if len(nodes) > MAX_PROOF_NODES:
        raise LimitExceeded(f"{what}: {len(nodes)} nodes, at most {MAX_PROOF_NODES} are read")
    remaining = iter(nodes)

    def take(node_hash: bytes) -> bytes:
        node = next(remaining, None)
        if node is None:
            raise ReceiptMismatch("PROOF_INCOMPLETE", f"{what}: node {node_hash.hex()} is missing")
        if len(node) > MAX_NODE_BYTES:
            raise LimitExceeded(f"{what}: a node of {len(node)} bytes, at most {MAX_NODE_BYTES} are read")
        if keccak(node) != node_hash:
            raise ReceiptMismatch("PROOF_HASH", f"{what}: a node hashes to {keccak(node).hex()}, not {node_hash.hex()}")
        return node

    value = lookup(root, key, take, what=what)
    if next(remaining, None) is not None:
        raise ReceiptMismatch("PROOF_UNUSED_NODE", f"{what}: holds a node that is not on the path of its key")
    return value


def lookup(root: bytes, key: bytes, fetch: Callable[[bytes], bytes], *, what: str) -> bytes | None:
    """Walk from ``root`` along the 32-byte ``key``; ``fetch`` gives the node of a hash and vouches for it.

    Returns the value or None. The nodes fetched, in order, are the proof. Raises ``MalformedError`` for what is no
    trie node.
    """
    if root == EMPTY_TRIE_ROOT:
        return None
    path = key.hex()
    node = _parse_node(fetch(root), what)
    while True:
        if len(node) == _BRANCH:
            if not path or node[16] != b"":
                raise MalformedError(f"{what}: a branch with a value, or below the end of the path")
            child, path = node[int(path[0], 16)], path[1:]
        else:
            is_leaf, prefix = _parse_prefix(node[0], what)
            if is_leaf:
                return _leaf_value(node[1], prefix, path, what)
            if not prefix or len(prefix) >= len(path):
                raise MalformedError(f"{what}: an extension over nothing, or to below the end of the path")
            if not path.startswith(prefix):
                return None
            child, path = node[1], path[len(prefix) :]
        if child == b"":
            if len(node) != _BRANCH:
                raise MalformedError(f"{what}: an extension that leads nowhere")
            return None
        node = _child(child, fetch, what)


def _child(reference: Item, fetch: Callable[[bytes], bytes], what: str) -> _Node:
    """The node that a reference stands for: a hash, or the node itself when it is shorter than 32 bytes."""
    if isinstance(reference, bytes):
        if len(reference) != 32:
            raise MalformedError(f"{what}: a reference of {len(reference)} bytes to another node")
        data = fetch(reference)
        if len(data) < 32:
            raise MalformedError(f"{what}: a node of {len(data)} bytes stands outside its parent")
        return _parse_node(data, what)
    if len(encode_rlp(reference)) >= 32:
        raise MalformedError(f"{what}: a node of 32 bytes or more stands inside its parent")
    return _check_node(reference, what)


def _parse_node(data: bytes, what: str) -> _Node:
    return _check_node(decode_rlp(data, what=what, max_depth=_MAX_NODE_DEPTH), what)


def _check_node(node: Item, what: str) -> _Node:
    if isinstance(node, bytes) or len(node) not in (2, _BRANCH):
        raise MalformedError(f"{what}: a node that is no branch, extension or leaf")
    return node


def _parse_prefix(encoded: Item, what: str) -> tuple[bool, str]:
    """A hex-prefix-encoded path: whether it ends in a leaf, and its nibbles as hexadecimal digits."""
    if not isinstance(encoded, bytes) or not encoded or encoded[0] >> 4 > 3:
        raise MalformedError(f"{what}: a node whose path is not hex-prefix-encoded")
    digits = encoded.hex()
    is_leaf, is_odd = divmod(int(digits[0], 16), 2)
    if not is_odd and digits[1] != "0":
        raise MalformedError(f"{what}: a node whose path is not hex-prefix-encoded")
    return bool(is_leaf), digits[1:] if is_odd else digits[2:]


def _leaf_value(value: Item, prefix: str, path: str, what: str) -> bytes | None:
    if not isinstance(value, bytes) or not value or len(prefix) != len(path):
        raise MalformedError(f"{what}: a leaf without a value, or not at the end of its path")
    return value if prefix == path else None

"""Proofs in Merkle-Patricia tries, against the trie library as the oracle."""

from __future__ import annotations

import pytest
import rlp
from eth_hash.auto import keccak
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from trie.hexary import HexaryTrie

from anchoring.rlp_codec import Item, encode_rlp
from anchoring.trie_proof import EMPTY_TRIE_ROOT, MAX_PROOF_NODES, verify_trie_proof
from identity.errors import LimitExceeded, MalformedError, ReceiptMismatch

# Keys that share long prefixes make extensions, and, with short values, nodes inside nodes.
keys = st.one_of(
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=2, max_size=2).map(lambda tail: b"\x11" * 30 + tail),
    st.binary(min_size=1, max_size=1).map(lambda tail: b"\x11" * 20 + tail * 12),
)
tries = st.dictionaries(keys, st.binary(min_size=1, max_size=40), min_size=1, max_size=25)


def build(content: dict[bytes, bytes]) -> HexaryTrie:
    trie = HexaryTrie({})
    for key, value in content.items():
        trie[key] = value
    return trie


def prove(trie: HexaryTrie, key: bytes) -> tuple[bytes, ...]:
    """The proof's elements. The library lists the nodes inside other nodes too."""
    nodes = [rlp.encode(node) for node in trie.get_proof(key)]  # type: ignore[no-untyped-call]
    return tuple(node for position, node in enumerate(nodes) if position == 0 or len(node) >= 32)


@settings(deadline=None, max_examples=60)
@given(tries, keys)
def test_presence_and_absence_are_shown(content: dict[bytes, bytes], other: bytes) -> None:
    trie = build(content)
    for key in [*content, other]:
        assert verify_trie_proof(trie.root_hash, key, prove(trie, key), what="test") == content.get(key)


@settings(deadline=None, max_examples=60)
@given(tries, st.data())
def test_no_other_list_of_nodes_is_taken(content: dict[bytes, bytes], data: st.DataObject) -> None:
    trie = build(content)
    key = data.draw(st.sampled_from(sorted(content)))
    nodes = list(prove(trie, key))
    change = data.draw(st.sampled_from(["drop", "repeat", "append", "insert", "swap"]))
    position = data.draw(st.integers(0, len(nodes) - 1))
    if change == "drop":
        del nodes[position]
    elif change == "repeat":
        nodes.insert(position, nodes[position])
    elif change == "append":
        nodes.append(b"\xc0")
    elif change == "insert":
        nodes.insert(position, rlp.encode([b"\x20", b"other"]))
    else:
        assume(len(nodes) > 1)
        nodes[position - 1], nodes[position] = nodes[position], nodes[position - 1]
    with pytest.raises(ReceiptMismatch) as caught:
        verify_trie_proof(trie.root_hash, key, nodes, what="test")
    assert caught.value.reason in {"PROOF_HASH", "PROOF_INCOMPLETE", "PROOF_UNUSED_NODE"}


@settings(deadline=None, max_examples=60)
@given(tries, st.data())
def test_every_flipped_bit_is_refused(content: dict[bytes, bytes], data: st.DataObject) -> None:
    trie = build(content)
    key = data.draw(st.sampled_from(sorted(content)))
    nodes = list(prove(trie, key))
    index = data.draw(st.integers(0, len(nodes) - 1))
    node = bytearray(nodes[index])
    node[data.draw(st.integers(0, len(node) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    nodes[index] = bytes(node)
    with pytest.raises(ReceiptMismatch, match="PROOF_HASH"):
        verify_trie_proof(trie.root_hash, key, nodes, what="test")


def test_an_empty_trie_proves_absence_with_nothing() -> None:
    assert HexaryTrie({}).root_hash == EMPTY_TRIE_ROOT
    assert verify_trie_proof(EMPTY_TRIE_ROOT, bytes(32), (), what="test") is None
    with pytest.raises(ReceiptMismatch, match="PROOF_UNUSED_NODE"):
        verify_trie_proof(EMPTY_TRIE_ROOT, bytes(32), (b"\x80",), what="test")


def test_a_proof_of_another_root_is_refused() -> None:
    content = {bytes([n]) * 32: b"value" * 8 for n in range(5)}
    nodes = prove(build(content), bytes(32))
    with pytest.raises(ReceiptMismatch, match="PROOF_HASH"):
        verify_trie_proof(keccak(b"other"), bytes(32), nodes, what="test")


PATH = "20" + "00" * 32
LONG = b"v" * 40


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (b"text", "a string"),
        ((), "an empty list"),
        ((b"",) * 3, "three items"),
        ((b"",) * 16, "sixteen items"),
        ((b"",) * 16 + (b"value",), "a branch with a value"),
        ((b"x",) + (b"",) * 16, "a reference of one byte"),
        ((b"x" * 31,) + (b"",) * 16, "a reference of 31 bytes"),
        (((b"\x3f" + bytes(31), b"v" * 32),) + (b"",) * 16, "a long node inside its parent"),
        (((b"",) * 3,) + (b"",) * 16, "a node inside that is none"),
        ((b"", b"value"), "no path"),
        (((), b"value"), "a path that is a list"),
        ((bytes.fromhex("40" + "00" * 32), LONG), "an unknown flag"),
        ((bytes.fromhex("21" + "00" * 32), LONG), "a pad nibble that is not zero"),
        ((bytes.fromhex("20" + "00" * 31), LONG), "a leaf above the end of the path"),
        ((bytes.fromhex("30" + "00" * 32), LONG), "a leaf below the end of the path"),
        ((bytes.fromhex(PATH), b""), "a leaf without a value"),
        ((bytes.fromhex(PATH), ()), "a leaf whose value is a list"),
        ((b"\x00", bytes(32)), "an extension over nothing"),
        ((bytes.fromhex("00" + "00" * 32), bytes(32)), "an extension to the end of the path"),
        ((bytes.fromhex("0000"), b""), "an extension that leads nowhere"),
        ((bytes.fromhex("0000"), b"x"), "an extension with a short reference"),
    ],
)
def test_what_is_no_node_is_refused(node: Item, why: str) -> None:
    data = encode_rlp(node)
    with pytest.raises(MalformedError):
        verify_trie_proof(keccak(data), bytes(32), (data,), what="test")


def test_a_short_node_outside_its_parent_is_refused() -> None:
    leaf = encode_rlp((b"\x3f" + bytes(2), b"v"))
    branch = encode_rlp((keccak(leaf),) + (b"",) * 16)
    with pytest.raises(MalformedError, match="outside its parent"):
        verify_trie_proof(keccak(branch), bytes(32), (branch, leaf), what="test")


def test_a_branch_below_the_end_of_the_path_is_refused() -> None:
    nodes = [encode_rlp((b"\x01" * 32,) + (b"",) * 16)]
    for _ in range(64):
        nodes.insert(0, encode_rlp((keccak(nodes[0]),) + (b"",) * 16))
    with pytest.raises(MalformedError):
        verify_trie_proof(keccak(nodes[0]), bytes(32), nodes, what="test")


def test_limits() -> None:
    with pytest.raises(LimitExceeded):
        verify_trie_proof(bytes(32), bytes(32), (b"\xc0",) * (MAX_PROOF_NODES + 1), what="test")
    big = encode_rlp((bytes.fromhex(PATH), b"v" * 1100))
    with pytest.raises(LimitExceeded):
        verify_trie_proof(keccak(big), bytes(32), (big,), what="test")

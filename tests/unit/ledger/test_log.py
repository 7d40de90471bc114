"""The log's tree against a slow reference written down straight from RFC 9162 section 2.1.

A proof binds an index and sizes as far as they change how it is folded: two pairs that fold alike (leaf 0 of 3 and of
4) accept each other's proofs, in RFC 9162 as here, which is why sizes come from signed checkpoints only. The reference
therefore says of every wrong index and size whether it folds alike.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from itertools import pairwise

import pytest

from identity.errors import MalformedError, RootMismatch
from ledger.log import (
    MAX_LOG_SIZE,
    Frontier,
    append_to_frontier,
    consistency_proof,
    hash_children,
    hash_leaf,
    inclusion_proof,
    root_at,
    verify_consistency,
    verify_inclusion,
)
from ledger.store import LogState

SIZE = 70
LEAVES = [b"leaf %d" % index for index in range(SIZE)]
REFUSED = (MalformedError, RootMismatch)


# --- the reference: RFC 9162 2.1.1, 2.1.3.1 and 2.1.4.1, with lists as ranges of LEAVES ------------------------------


def split(count: int) -> int:
    k = 1
    while 2 * k < count:
        k *= 2
    return k


@cache
def mth(start: int, stop: int) -> bytes:
    if stop - start == 0:
        return sha256(b"").digest()
    if stop - start == 1:
        return sha256(b"\x00" + LEAVES[start]).digest()
    k = split(stop - start)
    return sha256(b"\x01" + mth(start, start + k) + mth(start + k, stop)).digest()


def path(index: int, start: int, stop: int) -> list[bytes]:
    if stop - start == 1:
        return []
    k = split(stop - start)
    if index < k:
        return [*path(index, start, start + k), mth(start + k, stop)]
    return [*path(index - k, start + k, stop), mth(start, start + k)]


def subproof(size1: int, start: int, stop: int, complete: bool) -> list[bytes]:
    if size1 == stop - start:
        return [] if complete else [mth(start, stop)]
    k = split(stop - start)
    if size1 <= k:
        return [*subproof(size1, start, start + k, complete), mth(start + k, stop)]
    return [*subproof(size1 - k, start + k, stop, False), mth(start, start + k)]


@cache
def inclusion_folding(index: int, size: int) -> str:
    """On which side each hash of the path stands, lowest first."""
    if size == 1:
        return ""
    k = split(size)
    if index < k:
        return inclusion_folding(index, k) + "R"
    return inclusion_folding(index - k, size - k) + "L"


@cache
def consistency_folding(size1: int, size2: int, complete: bool = True) -> tuple[object, object, int]:
    """How both roots are made from the proof's hashes (by number) and the first root ("R"), and how many there are."""
    if size1 == size2:
        return ("R", "R", 0) if complete else (0, 0, 1)
    k = split(size2)
    if size1 <= k:
        first, second, used = consistency_folding(size1, k, complete)
        return first, (second, used), used + 1
    first, second, used = consistency_folding(size1 - k, size2 - k, False)
    return (used, first), (used, second), used + 1


def stored_node(level: int, index: int) -> bytes:
    assert (index + 1) << level <= SIZE, "a subtree that is not complete was asked for"
    return mth(index << level, (index + 1) << level)


def flipped(digest: bytes) -> bytes:
    return bytes((digest[0] ^ 1,)) + digest[1:]


# --- agreement ------------------------------------------------------------------------------------------------------


def test_known_answers() -> None:
    """The roots of certificate transparency's own eight test leaves."""
    leaves = [
        bytes.fromhex(text)
        for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
    ]
    state, _ = append_to_frontier(LogState(b"", 0, ()), leaves)
    assert Frontier().root().hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert hash_leaf(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert (
        Frontier(8, state.frontier).root().hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
    )


def test_frontier_and_roots_agree_with_the_reference() -> None:
    frontier = Frontier()
    for size in range(SIZE + 1):
        assert frontier.size == size
        assert frontier.root() == root_at(stored_node, size) == mth(0, size)
        assert Frontier(size, frontier.peaks).root() == mth(0, size)
        if size < SIZE:
            for level, index, digest in frontier.append(hash_leaf(LEAVES[size])):
                assert digest == stored_node(level, index)


def test_append_gives_every_complete_subtree_once() -> None:
    for first in (0, 1, 7, 32, 63):
        state, _ = append_to_frontier(LogState(b"id", 0, ()), LEAVES[:first])
        moved, completed = append_to_frontier(state, LEAVES[first:])
        assert moved.log_id == b"id"
        assert moved.size == SIZE
        expected = {
            (level, index)
            for level in range(7)
            for index in range(SIZE >> level)
            if first < (index + 1) << level <= SIZE
        }
        assert [(level, index) for level, index, _ in completed] == sorted(
            expected, key=lambda node: (((node[1] + 1) << node[0]), node[0])
        )
        assert all(digest == stored_node(level, index) for level, index, digest in completed)


def test_every_inclusion_proof() -> None:
    for size in range(1, SIZE + 1):
        for index in range(size):
            proof = inclusion_proof(stored_node, index, size)
            assert proof == path(index, 0, size)
            verify_inclusion(index, size, hash_leaf(LEAVES[index]), proof, mth(0, size))


def test_every_consistency_proof() -> None:
    for size2 in range(1, SIZE + 1):
        for size1 in range(1, size2 + 1):
            proof = consistency_proof(stored_node, size1, size2)
            assert proof == subproof(size1, 0, size2, True)
            verify_consistency(size1, size2, proof, mth(0, size1), mth(0, size2))


# --- refusal --------------------------------------------------------------------------------------------------------


def assert_inclusion_refused(index: int, size: int, leaf: bytes, proof: list[bytes], root: bytes) -> None:
    # A hundred thousand times: pytest.raises would take most of the time.
    try:
        verify_inclusion(index, size, leaf, proof, root)
    except REFUSED:
        return
    pytest.fail(f"inclusion of {index} in {size} was accepted")


def assert_consistency_refused(size1: int, size2: int, proof: list[bytes], root1: bytes, root2: bytes) -> None:
    try:
        verify_consistency(size1, size2, proof, root1, root2)
    except REFUSED:
        return
    pytest.fail(f"consistency of {size1} with {size2} was accepted")


def mutations(proof: list[bytes]) -> list[list[bytes]]:
    """Every hash flipped, dropped, doubled, cut and lengthened, neighbours swapped, and something put at both ends."""
    changed = [[*proof, bytes(32)], [bytes(32), *proof], [*proof, b""]]
    for position, digest in enumerate(proof):
        before, after = proof[:position], proof[position + 1 :]
        others: tuple[list[bytes], ...] = (
            [flipped(digest)],
            [],
            [digest, digest],
            [digest[:-1]],
            [digest + b"\0"],
            [b""],
        )
        changed += [[*before, *other, *after] for other in others]
    changed += [
        [*proof[:position], second, first, *proof[position + 2 :]]
        for position, (first, second) in enumerate(pairwise(proof))
        if first != second
    ]
    return changed


def test_every_change_to_an_inclusion_proof_is_refused() -> None:
    for size in range(1, SIZE + 1):
        root = mth(0, size)
        for index in range(size):
            leaf, proof = hash_leaf(LEAVES[index]), path(index, 0, size)
            assert_inclusion_refused(index, size, flipped(leaf), proof, root)
            assert_inclusion_refused(index, size, leaf, proof, flipped(root))
            assert_inclusion_refused(index, size, leaf[:-1], proof, root)
            assert_inclusion_refused(index, size, leaf, proof, root[:-1])
            for changed in mutations(proof):
                assert_inclusion_refused(index, size, leaf, changed, root)


def test_every_wrong_index_is_refused_and_sizes_as_far_as_they_fold_otherwise() -> None:
    for size in range(1, 40):
        root = mth(0, size)
        for index in range(size):
            leaf, proof = hash_leaf(LEAVES[index]), path(index, 0, size)
            for other in range(-1, size + 1):
                if other != index:
                    assert_inclusion_refused(other, size, leaf, proof, root)
            for other in range(index + 1, 40):
                if inclusion_folding(index, other) == inclusion_folding(index, size):
                    verify_inclusion(index, other, leaf, proof, root)
                else:
                    assert_inclusion_refused(index, other, leaf, proof, root)


def test_every_change_to_a_consistency_proof_is_refused() -> None:
    for size2 in range(1, SIZE + 1):
        for size1 in range(1, size2 + 1):
            proof, root1, root2 = subproof(size1, 0, size2, True), mth(0, size1), mth(0, size2)
            assert_consistency_refused(size1, size2, proof, flipped(root1), root2)
            assert_consistency_refused(size1, size2, proof, root1, flipped(root2))
            assert_consistency_refused(size1, size2, proof, root1[:-1], root2)
            assert_consistency_refused(size1, size2, proof, root1, root2 + b"\0")
            for changed in mutations(proof):
                assert_consistency_refused(size1, size2, changed, root1, root2)


def test_wrong_sizes_are_refused_as_far_as_they_fold_otherwise() -> None:
    for size2 in range(2, 24):
        for size1 in range(1, size2):
            proof, root1, root2 = subproof(size1, 0, size2, True), mth(0, size1), mth(0, size2)
            for other2 in range(24):
                for other1 in range(24):
                    alike = 0 < other1 <= other2 and consistency_folding(other1, other2) == consistency_folding(
                        size1, size2
                    )
                    if alike:
                        verify_consistency(other1, other2, proof, root1, root2)
                    else:
                        assert_consistency_refused(other1, other2, proof, root1, root2)


def test_an_inner_node_is_no_leaf() -> None:
    """Domain separation: the bytes of an inner node, offered as a leaf, hash to something else."""
    inner = hash_leaf(LEAVES[0]) + hash_leaf(LEAVES[1])
    assert hash_leaf(inner) != hash_children(hash_leaf(LEAVES[0]), hash_leaf(LEAVES[1]))
    assert_inclusion_refused(0, 2, hash_leaf(inner), path(0, 0, 4)[1:], mth(0, 4))


@pytest.mark.parametrize(
    ("index", "size"),
    [(0, 0), (-1, 1), (1, 1), (0, -1), (2, 1), (MAX_LOG_SIZE, MAX_LOG_SIZE), (0, MAX_LOG_SIZE + 1)],
)
def test_an_index_outside_the_log_is_malformed(index: int, size: int) -> None:
    with pytest.raises(MalformedError):
        verify_inclusion(index, size, bytes(32), [], bytes(32))
    with pytest.raises(MalformedError):
        inclusion_proof(stored_node, index, size)


@pytest.mark.parametrize(("size1", "size2"), [(0, 0), (0, 1), (-1, 1), (2, 1), (1, MAX_LOG_SIZE + 1)])
def test_sizes_out_of_order_are_malformed(size1: int, size2: int) -> None:
    with pytest.raises(MalformedError):
        verify_consistency(size1, size2, [], bytes(32), bytes(32))
    with pytest.raises(MalformedError):
        consistency_proof(stored_node, size1, size2)


def test_equal_sizes_need_equal_roots_and_no_proof() -> None:
    verify_consistency(5, 5, [], mth(0, 5), mth(0, 5))
    with pytest.raises(RootMismatch):
        verify_consistency(5, 5, [], mth(0, 5), mth(0, 4))
    with pytest.raises(MalformedError):
        verify_consistency(5, 5, [mth(0, 5)], mth(0, 5), mth(0, 5))


def test_an_empty_proof_between_sizes_is_refused() -> None:
    for size1, size2 in ((3, 4), (4, 5), (1, 2), (6, 7)):
        with pytest.raises(MalformedError):
            verify_consistency(size1, size2, [], mth(0, size1), mth(0, size2))


def test_the_error_carries_both_roots() -> None:
    with pytest.raises(RootMismatch) as caught:
        verify_inclusion(0, 1, hash_leaf(b"a"), [], hash_leaf(b"b"))
    assert caught.value.expected == hash_leaf(b"b")
    assert caught.value.computed == hash_leaf(b"a")


@pytest.mark.parametrize("size", [-1, MAX_LOG_SIZE + 1])
def test_no_root_outside_the_bounds(size: int) -> None:
    with pytest.raises(MalformedError):
        root_at(stored_node, size)


@pytest.mark.parametrize(("size", "peaks"), [(1, 0), (0, 1), (3, 1), (4, 3), (-1, 0), (MAX_LOG_SIZE + 1, 2)])
def test_a_frontier_that_does_not_fit_its_size_is_refused(size: int, peaks: int) -> None:
    with pytest.raises(MalformedError):
        Frontier(size, [bytes(32)] * peaks)


def test_a_frontier_of_short_hashes_is_refused() -> None:
    with pytest.raises(MalformedError):
        Frontier(1, [bytes(31)])


def test_a_full_log_takes_no_more_leaves() -> None:
    with pytest.raises(MalformedError):
        Frontier(MAX_LOG_SIZE, [bytes(32)]).append(bytes(32))


# --- sizes that no test can fill: a log whose leaves are all alike has one hash per level -----------------------------


@cache
def uniform_node(level: int) -> bytes:
    return hash_leaf(b"same") if level == 0 else hash_children(uniform_node(level - 1), uniform_node(level - 1))


HUGE = [2**31 - 1, 2**31, 2**32 + 1, 2**52 + 12345, 2**53 - 1, 2**53]


@pytest.mark.parametrize("size", HUGE)
def test_huge_logs(size: int) -> None:
    root = root_at(lambda level, _: uniform_node(level), size)
    for index in (0, 1, size // 3, size // 2, size - 2, size - 1):
        proof = inclusion_proof(lambda level, _: uniform_node(level), index, size)
        assert len(proof) <= 53
        verify_inclusion(index, size, uniform_node(0), proof, root)
        assert_inclusion_refused(index, size, hash_leaf(b"other"), proof, root)
        assert_inclusion_refused(index, size, uniform_node(0), proof[:-1], root)
    for size1 in (1, 2, size // 3, size // 2 + 1, size - 1):
        root1 = root_at(lambda level, _: uniform_node(level), size1)
        proof = consistency_proof(lambda level, _: uniform_node(level), size1, size)
        assert len(proof) <= 54
        verify_consistency(size1, size, proof, root1, root)
        assert_consistency_refused(size1, size, proof, flipped(root1), root)
        assert_consistency_refused(size1, size, [*proof, bytes(32)], root1, root)

"""Heads by several signers: every mix of lengths and versions, and what cannot be assembled."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.errors import AuditError, MissingEvidenceError, RefusedError, SignatureMismatch
from identity.keys import Ed25519Signer
from ledger.head import sign_head, verify_head
from ledger.manifest import Manifest, ManifestSigner, feed_key
from ledger.merkle import Node, TreeBuilder
from ledger.quorum import PartialSignature, assemble_head, certifiable_length, sign_partial

SIGNERS = [Ed25519Signer(bytes([n]) * 32) for n in range(1, 5)]
BLOCKS = [bytes([n]) * n for n in range(30)]
NODES = {node.index: node for done in TreeBuilder().append_many(BLOCKS) for node in done}


def tree(length: int) -> TreeBuilder:
    built = TreeBuilder()
    built.append_many(BLOCKS[:length])
    return built


def node(index: int) -> Node:
    return NODES[index]


def manifest(version: int = 1, quorum: int = 2, *, signers: int = 3, patches: bool = True) -> Manifest:
    known = tuple(ManifestSigner(signer.public_key) for signer in SIGNERS[:signers])
    return Manifest(version, quorum, known, allow_patch=patches)


def partials(of: Manifest, lengths: dict[int, int]) -> list[PartialSignature]:
    return [sign_partial(SIGNERS[n], of, tree(length).tree_hash(), length) for n, length in lengths.items()]


@given(
    st.sampled_from([0, 1]),
    st.dictionaries(st.integers(0, 2), st.integers(1, 30), min_size=2, max_size=3),
    st.integers(1, 30),
)
def test_signers_at_any_lengths_certify_the_shorter_trees(version: int, lengths: dict[int, int], length: int) -> None:
    of = manifest(version)
    certified = min(length, *lengths.values())
    signature = assemble_head(of, certified, partials(of, lengths), node)
    grown = tree(certified)
    head = verify_head(of, grown.tree_hash(), certified, 0, signature, roots=grown.roots)
    assert (head.length, head.feed_key) == (certified, feed_key(of))


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("lengths", [{0: 8, 1: 5}, {2: 5, 0: 29}, {1: 7, 0: 6, 2: 30}])
def test_any_changed_byte_of_an_assembled_head_is_refused(version: int, lengths: dict[int, int]) -> None:
    of = manifest(version)
    signature = assemble_head(of, 5, partials(of, lengths), node)
    for position in range(len(signature)):
        for flip in (1, 0x80, 0xFF):
            changed = bytearray(signature)
            changed[position] ^= flip
            with pytest.raises(AuditError):
                verify_head(of, tree(5).tree_hash(), 5, 0, bytes(changed), roots=tree(5).roots)


@pytest.mark.parametrize("version", [0, 1])
def test_a_head_of_one_form_is_not_one_of_the_other(version: int) -> None:
    of = manifest(version)
    signature = assemble_head(of, 5, partials(of, {0: 8, 1: 5}), node)
    other = replace(of, version=1 - version)
    with pytest.raises(AuditError):
        verify_head(other, tree(5).tree_hash(), 5, 0, signature, roots=tree(5).roots)


def test_one_signer_alone_signs_as_a_device_does() -> None:
    of = manifest(1, 1, signers=1, patches=False)
    made = assemble_head(of, 7, partials(of, {0: 7}), node)
    assert made == sign_head(SIGNERS[0], feed_key(of), tree(7).tree_hash(), 7)
    old = replace(of, version=0)
    bare = assemble_head(old, 7, partials(old, {0: 7}), node)
    assert len(bare) == 64
    assert verify_head(old, tree(7).tree_hash(), 7, 0, bare).length == 7


def test_too_few_signers_and_one_that_counts_twice_are_refused() -> None:
    of = manifest()
    for shares in (partials(of, {0: 5}), partials(of, {0: 5}) * 2, []):
        with pytest.raises(SignatureMismatch):
            assemble_head(of, 5, shares, node)


def test_a_signer_behind_or_ahead_without_patches_is_refused_by_name() -> None:
    of = manifest()
    with pytest.raises(MissingEvidenceError, match="signer 1 has signed 4"):
        assemble_head(of, 5, partials(of, {0: 5, 1: 4}), node)
    strict = manifest(patches=False)
    with pytest.raises(RefusedError, match="signer 1 is 3 blocks ahead"):
        assemble_head(strict, 5, partials(strict, {0: 5, 1: 8}), node)


def test_a_share_in_another_history_is_refused() -> None:
    of = manifest()
    foreign = TreeBuilder()
    foreign.append_many([b"x"] * 8)
    shares = [*partials(of, {0: 5}), sign_partial(SIGNERS[1], of, foreign.tree_hash(), 8)]
    with pytest.raises(SignatureMismatch):
        assemble_head(of, 5, shares, node)


def test_a_share_at_another_fork_counter_is_refused() -> None:
    of = manifest()
    shares = [*partials(of, {0: 5}), sign_partial(SIGNERS[1], of, tree(5).tree_hash(), 5, fork=1)]
    with pytest.raises(SignatureMismatch):
        assemble_head(of, 5, shares, node)


def test_a_stranger_signs_nothing() -> None:
    with pytest.raises(RefusedError, match="not a signer"):
        sign_partial(SIGNERS[3], manifest(), tree(5).tree_hash(), 5)


@pytest.mark.parametrize(
    ("lengths", "with_patches", "without"),
    [([5, 8, 3], 5, 0), ([5, 5, 9], 5, 5), ([9], 0, 0), ([], 0, 0), ([4, 4, 4], 4, 4)],
)
def test_what_signers_can_certify_together(lengths: list[int], with_patches: int, without: int) -> None:
    assert certifiable_length(manifest(), lengths) == with_patches
    assert certifiable_length(manifest(patches=False), lengths) == without

"""Heads: what is signed, by whom, and every way in which an envelope can be wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.errors import (
    AuditError,
    MalformedError,
    MissingEvidenceError,
    RootMismatch,
    SignatureMismatch,
    VerificationError,
)
from identity.keys import Ed25519Signer
from ledger.envelope import Envelope, EnvelopeProof, encode_envelope, encode_envelope_v0, parse_envelope
from ledger.flattree import covering
from ledger.head import sign_head, signable, verify_head
from ledger.manifest import FeedDescription, Manifest, ManifestSigner, Prologue, device_manifest, feed_key
from ledger.merkle import Node, TreeBuilder

SIGNERS = [Ed25519Signer(bytes([n]) * 32) for n in range(1, 5)]
OURS = device_manifest(SIGNERS[0].public_key, FeedDescription(b"\x11" * 32, "notes"))
KEY = feed_key(OURS)
TREE = bytes(range(32))
SIGNATURE = sign_head(SIGNERS[0], KEY, TREE, 3)


def quorum(count: int, **changes: object) -> Manifest:
    manifest = Manifest(1, count, tuple(ManifestSigner(signer.public_key) for signer in SIGNERS[:3]))
    return replace(manifest, **changes)  # type: ignore[arg-type]


def envelope(manifest: Manifest, signers: list[int], length: int = 3, tree_hash: bytes = TREE, fork: int = 0) -> bytes:
    message = signable(feed_key(manifest), tree_hash, length, fork)
    return encode_envelope(Envelope(tuple(EnvelopeProof(n, SIGNERS[n].sign(message)) for n in signers)))


# --- a single signer ---


def test_a_head_of_ours_verifies_and_comes_back() -> None:
    head = verify_head(OURS, TREE, 3, 0, SIGNATURE)
    assert (head.feed_key, head.length, head.fork, head.tree_hash, head.signature) == (KEY, 3, 0, TREE, SIGNATURE)


def test_the_envelope_has_68_bytes_of_which_64_vary() -> None:
    assert len(SIGNATURE) == 68
    assert SIGNATURE[:2] + SIGNATURE[66:] == b"\x01\x00\x00\x00"


@pytest.mark.parametrize("position", range(68))
@pytest.mark.parametrize("flip", [1, 0x80, 0xFF])
def test_any_changed_byte_of_the_envelope_is_refused(position: int, flip: int) -> None:
    changed = bytearray(SIGNATURE)
    changed[position] ^= flip
    with pytest.raises(AuditError):
        verify_head(OURS, TREE, 3, 0, bytes(changed))


@pytest.mark.parametrize(
    ("manifest", "tree_hash", "length", "fork"),
    [
        (OURS, bytes(32), 3, 0),
        (OURS, TREE, 4, 0),
        (OURS, TREE, 3, 1),
        (replace(OURS, user_data=b"\xa0"), TREE, 3, 0),
        (replace(OURS, signers=(ManifestSigner(SIGNERS[1].public_key),)), TREE, 3, 0),
    ],
    ids=["tree", "length", "fork", "feed", "signer"],
)
def test_a_signature_holds_for_one_statement_only(manifest: Manifest, tree_hash: bytes, length: int, fork: int) -> None:
    with pytest.raises(SignatureMismatch):
        verify_head(manifest, tree_hash, length, fork, SIGNATURE)


@pytest.mark.parametrize("signature", [b"", SIGNATURE[2:66], SIGNATURE + b"\x00", SIGNATURE[:-1], bytes(68)])
def test_what_is_no_envelope_is_refused(signature: bytes) -> None:
    with pytest.raises((MalformedError, SignatureMismatch)):
        verify_head(OURS, TREE, 3, 0, signature)


def test_signable_refuses_what_has_no_place_in_112_bytes() -> None:
    assert len(signable(KEY, TREE, 2**52)) == 112
    for arguments in ((KEY[:31], TREE, 1), (KEY, TREE + b"x", 1), (KEY, TREE, -1), (KEY, TREE, 2**53)):
        with pytest.raises(MalformedError):
            signable(*arguments)


# --- the envelope's codec ---

PROOFS = st.builds(EnvelopeProof, st.integers(0, 254), st.binary(min_size=64, max_size=64), st.integers(0, 2**52))
NODES = st.builds(Node, st.integers(0, 2**53 - 1), st.integers(0, 2**53 - 1), st.binary(min_size=32, max_size=32))
ENVELOPES = st.builds(Envelope, st.lists(PROOFS, max_size=3).map(tuple), st.lists(NODES, max_size=3).map(tuple))


@given(ENVELOPES)
def test_envelope_round_trip(made: Envelope) -> None:
    assert parse_envelope(encode_envelope(made)) == made


@given(ENVELOPES, st.data())
def test_a_flipped_bit_gives_another_envelope_or_none(made: Envelope, data: st.DataObject) -> None:
    encoded = bytearray(encode_envelope(made))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        other = parse_envelope(bytes(encoded))
    except MalformedError:
        return
    assert other != made
    assert encode_envelope(other) == bytes(encoded)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_envelope_or_malformed(data: bytes) -> None:
    try:
        made = parse_envelope(data)
    except MalformedError:
        return
    assert encode_envelope(made) == data


def test_proofs_beyond_the_limits_are_refused() -> None:
    for signer, signature, patch_length in ((255, bytes(64), 0), (0, bytes(63), 0), (0, bytes(64), 2**52 + 1)):
        with pytest.raises(MalformedError):
            EnvelopeProof(signer, signature, patch_length)


# --- quorums ---


@pytest.mark.parametrize("signers", [[0, 1], [1, 0], [2, 0], [0, 1, 2]])
def test_a_quorum_verifies_in_any_order_and_with_more_than_needed(signers: list[int]) -> None:
    manifest = quorum(2)
    assert verify_head(manifest, TREE, 3, 0, envelope(manifest, signers)).feed_key == feed_key(manifest)


@pytest.mark.parametrize("signers", [[], [0], [0, 0], [0, 1, 1], [0, 3]])
def test_too_few_repeated_or_foreign_signers_are_refused(signers: list[int]) -> None:
    manifest = quorum(2)
    with pytest.raises(SignatureMismatch):
        verify_head(manifest, TREE, 3, 0, envelope(manifest, signers))


def test_a_signature_beyond_the_quorum_must_hold_too() -> None:
    manifest = quorum(2)
    made = parse_envelope(envelope(manifest, [0, 1, 2]))
    forged = replace(made, proofs=(*made.proofs[:2], EnvelopeProof(2, bytes(64))))
    with pytest.raises(SignatureMismatch):
        verify_head(manifest, TREE, 3, 0, encode_envelope(forged))


def test_two_signatures_swapped_between_their_signers_are_refused() -> None:
    manifest = quorum(2)
    first, second = parse_envelope(envelope(manifest, [0, 1])).proofs
    swapped = Envelope((replace(first, signer=1), replace(second, signer=0)))
    with pytest.raises(SignatureMismatch):
        verify_head(manifest, TREE, 3, 0, encode_envelope(swapped))


# --- patches: signers ahead of the certified length ---

BLOCKS = [bytes([n]) * n for n in range(9)]


def tree(length: int) -> TreeBuilder:
    built = TreeBuilder()
    built.append_many(BLOCKS[:length])
    return built


def patched(manifest: Manifest, lengths: list[int], certified: int) -> Envelope:
    """Signer n has signed its tree of ``lengths[n]`` blocks; together they certify ``certified``."""
    nodes = {node.index: node for completed in TreeBuilder().append_many(BLOCKS) for node in completed}
    needed: dict[int, Node] = {}
    proofs = []
    for n, length in enumerate(lengths):
        message = signable(feed_key(manifest), tree(length).tree_hash(), length)
        proofs.append(EnvelopeProof(n, SIGNERS[n].sign(message), length - certified))
        needed.update({index: nodes[index] for index in covering(certified, length)})
    return Envelope(tuple(proofs), tuple(needed.values()))


PATCHING = quorum(2, allow_patch=True)


@pytest.mark.parametrize(("lengths", "certified"), [([8, 5], 5), ([5, 9], 5), ([9, 7], 3), ([3, 3], 3)])
def test_signers_ahead_of_the_length_certify_it(lengths: list[int], certified: int) -> None:
    signature = encode_envelope(patched(PATCHING, lengths, certified))
    head = verify_head(PATCHING, tree(certified).tree_hash(), certified, 0, signature, roots=tree(certified).roots)
    assert head.length == certified


def test_a_patch_needs_the_roots_of_the_certified_tree() -> None:
    signature = encode_envelope(patched(PATCHING, [8, 5], 5))
    with pytest.raises(MissingEvidenceError):
        verify_head(PATCHING, tree(5).tree_hash(), 5, 0, signature)
    other = TreeBuilder()
    other.append_many([b"x"] * 5)
    with pytest.raises(RootMismatch):
        verify_head(PATCHING, tree(5).tree_hash(), 5, 0, signature, roots=other.roots)


def test_a_patch_that_the_manifest_does_not_allow_is_refused() -> None:
    manifest = quorum(2)
    signature = encode_envelope(patched(manifest, [8, 5], 5))
    with pytest.raises(VerificationError, match="does not allow"):
        verify_head(manifest, tree(5).tree_hash(), 5, 0, signature, roots=tree(5).roots)


def test_patch_nodes_must_be_all_those_needed_in_their_order() -> None:
    made = patched(PATCHING, [9, 7], 3)
    assert len(made.patch) > 2
    for nodes in (made.patch[1:], made.patch[::-1], (*made.patch, Node(2, 1, bytes(32))), (*made.patch, made.patch[0])):
        with pytest.raises(AuditError):
            signature = encode_envelope(replace(made, patch=tuple(nodes)))
            verify_head(PATCHING, tree(3).tree_hash(), 3, 0, signature, roots=tree(3).roots)


def test_any_changed_byte_of_a_patched_envelope_is_refused() -> None:
    signature = encode_envelope(patched(PATCHING, [8, 5], 5))
    for position in range(len(signature)):
        for flip in (1, 0x80, 0xFF):
            changed = bytearray(signature)
            changed[position] ^= flip
            with pytest.raises(AuditError):
                verify_head(PATCHING, tree(5).tree_hash(), 5, 0, bytes(changed), roots=tree(5).roots)


# --- prologues and version 0 ---

BORN = quorum(1, prologue=Prologue(tree(5).tree_hash(), 5))
STATIC = Manifest(1, 0, (), prologue=Prologue(tree(5).tree_hash(), 5))


@pytest.mark.parametrize("manifest", [BORN, STATIC])
def test_a_prologue_needs_no_signature(manifest: Manifest) -> None:
    assert verify_head(manifest, tree(5).tree_hash(), 5, 0, b"").length == 5


def test_within_and_against_the_prologue_nothing_verifies() -> None:
    with pytest.raises(RootMismatch):
        verify_head(BORN, tree(6).tree_hash(), 5, 0, b"")
    with pytest.raises(VerificationError, match="fewer than"):
        verify_head(BORN, tree(4).tree_hash(), 4, 0, envelope(BORN, [0], 4, tree(4).tree_hash()))


def test_a_signature_on_the_prologue_may_stand_but_must_hold() -> None:
    good = envelope(BORN, [0], 5, tree(5).tree_hash())
    assert verify_head(BORN, tree(5).tree_hash(), 5, 0, good).signature == good
    with pytest.raises(SignatureMismatch):
        verify_head(BORN, tree(5).tree_hash(), 5, 0, envelope(BORN, [0], 6, tree(5).tree_hash()))


def test_beyond_the_prologue_only_signers_count() -> None:
    tree_hash = tree(6).tree_hash()
    assert verify_head(BORN, tree_hash, 6, 0, envelope(BORN, [1], 6, tree_hash)).length == 6
    with pytest.raises(MalformedError):
        verify_head(BORN, tree_hash, 6, 0, b"")
    with pytest.raises(SignatureMismatch):
        verify_head(STATIC, tree_hash, 6, 0, envelope(STATIC, [0], 6, tree_hash))


def test_version_0_signs_under_the_namespace_and_bare() -> None:
    manifest = Manifest(0, 1, (ManifestSigner(SIGNERS[0].public_key, b"\x22" * 32),))
    signature = SIGNERS[0].sign(signable(b"\x22" * 32, TREE, 3))
    assert verify_head(manifest, TREE, 3, 0, signature).feed_key == feed_key(manifest)
    with pytest.raises(SignatureMismatch):
        verify_head(manifest, TREE, 3, 0, SIGNERS[0].sign(signable(feed_key(manifest), TREE, 3)))
    with pytest.raises(SignatureMismatch):
        verify_head(manifest, TREE, 3, 0, b"\x01\x00" + signature + b"\x00\x00")


OLD_STATIC = Manifest(0, 0, (), prologue=Prologue(tree(5).tree_hash(), 0))


def test_a_static_tree_of_version_0_is_the_one_of_its_hash_whatever_its_length() -> None:
    assert verify_head(OLD_STATIC, tree(5).tree_hash(), 5, 0, b"", roots=tree(5).roots).length == 5
    with pytest.raises(RootMismatch):
        verify_head(OLD_STATIC, tree(6).tree_hash(), 6, 0, b"", roots=tree(6).roots)
    with pytest.raises(SignatureMismatch):
        verify_head(OLD_STATIC, tree(5).tree_hash(), 5, 0, b"\x00\x00", roots=tree(5).roots)
    with pytest.raises(MissingEvidenceError, match="roots"):
        verify_head(OLD_STATIC, tree(5).tree_hash(), 5, 0, b"")
    with pytest.raises(MalformedError):
        verify_head(OLD_STATIC, tree(5).tree_hash(), 4, 0, b"", roots=tree(5).roots)


@pytest.mark.parametrize("manifest", [BORN, STATIC, OLD_STATIC])
def test_a_fork_counter_that_nobody_signed_is_refused(manifest: Manifest) -> None:
    with pytest.raises(VerificationError, match="fork counter 1"):
        verify_head(manifest, tree(5).tree_hash(), 5, 1, b"", roots=tree(5).roots)


def test_signers_of_version_0_sign_under_their_own_namespaces() -> None:
    signers = tuple(ManifestSigner(signer.public_key, bytes([n]) * 32) for n, signer in enumerate(SIGNERS[:3]))
    manifest = Manifest(0, 2, signers)
    proofs = [EnvelopeProof(n, SIGNERS[n].sign(signable(signers[n].namespace, TREE, 3))) for n in range(3)]
    assert verify_head(manifest, TREE, 3, 0, encode_envelope_v0(Envelope(tuple(proofs[1:])), 3)).length == 3
    with pytest.raises(SignatureMismatch):
        verify_head(manifest, TREE, 3, 0, encode_envelope_v0(Envelope((proofs[1],)), 3))
    swapped = Envelope((replace(proofs[0], signer=1), replace(proofs[1], signer=0)))
    with pytest.raises(SignatureMismatch):
        verify_head(manifest, TREE, 3, 0, encode_envelope_v0(swapped, 3))
    with pytest.raises(AuditError):
        verify_head(manifest, TREE, 3, 0, encode_envelope(Envelope(tuple(proofs))))

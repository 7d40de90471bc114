"""Verifying heads in a row decides every one of them as ``verify_head`` does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.errors import AuditError
from identity.keys import Ed25519Signer
from ledger.head import FORK, sign_head, verify_head
from ledger.head_series import HeadSeries
from ledger.manifest import FeedDescription, Manifest, ManifestSigner, Prologue, device_manifest, feed_key
from ledger.merkle import TreeBuilder
from ledger.store import SignedHead

DEVICE, OTHER = Ed25519Signer(bytes(32)), Ed25519Signer(bytes([1]) * 32)
OURS = device_manifest(DEVICE.public_key, FeedDescription(bytes(32), "feed"))
TREE = TreeBuilder()
TREE.append_many([b"zero", b"one", b"two"])
MANIFESTS = {
    "ours": OURS,
    "another feed of the device": device_manifest(DEVICE.public_key, FeedDescription(bytes(32), "other")),
    "another device's": device_manifest(OTHER.public_key, FeedDescription(bytes(32), "feed")),
    "version 0": Manifest(0, 1, (ManifestSigner(DEVICE.public_key),)),
    "version 1": Manifest(1, 1, (ManifestSigner(DEVICE.public_key),)),
    "one of two": Manifest(1, 1, (ManifestSigner(DEVICE.public_key), ManifestSigner(OTHER.public_key))),
    "two of two": Manifest(1, 2, (ManifestSigner(DEVICE.public_key), ManifestSigner(OTHER.public_key))),
    "patches allowed": Manifest(1, 1, (ManifestSigner(DEVICE.public_key),), allow_patch=True),
    "prologue": Manifest(1, 1, (ManifestSigner(DEVICE.public_key),), prologue=Prologue(TREE.tree_hash(), 3)),
}


def verdict(verify: object, *arguments: object, **named: object) -> str:
    assert callable(verify)
    try:
        verify(*arguments, **named)
    except AuditError as exc:
        return type(exc).__name__
    return "holds"


def both(manifest: Manifest, head: SignedHead) -> tuple[str, str]:
    roots = TREE.roots
    slow = verdict(verify_head, manifest, head.tree_hash, head.length, FORK, head.signature, roots=roots)
    return verdict(HeadSeries(manifest).verify, head, TREE), slow


@pytest.mark.parametrize("signer", [DEVICE, OTHER])
@pytest.mark.parametrize("signed_for", MANIFESTS)
@pytest.mark.parametrize("manifest", MANIFESTS)
def test_every_kind_of_manifest(manifest: str, signed_for: str, signer: Ed25519Signer) -> None:
    signature = sign_head(signer, feed_key(MANIFESTS[signed_for]), TREE.tree_hash(), 3)
    quick, slow = both(MANIFESTS[manifest], SignedHead(3, TREE.tree_hash(), signature))
    assert quick == slow


def test_head_of_ours_holds() -> None:
    head = SignedHead(3, TREE.tree_hash(), sign_head(DEVICE, feed_key(OURS), TREE.tree_hash(), 3))
    assert both(OURS, head) == ("holds", "holds")


@given(place=st.integers(0, 67), value=st.integers(0, 255), cut=st.integers(0, 69))
def test_any_other_signature_is_refused(place: int, value: int, cut: int) -> None:
    whole = sign_head(DEVICE, feed_key(OURS), TREE.tree_hash(), 3)
    changed = (whole[:place] + bytes([value]) + whole[place + 1 :] + b"\0")[:cut]
    quick, slow = both(OURS, SignedHead(3, TREE.tree_hash(), changed))
    assert (quick == "holds") == (slow == "holds") == (changed == whole)


@pytest.mark.parametrize("length", [0, 2, 4, 2**40, 2**52])
def test_another_length_is_refused(length: int) -> None:
    head = SignedHead(length, TREE.tree_hash(), sign_head(DEVICE, feed_key(OURS), TREE.tree_hash(), 3))
    assert both(OURS, head) == ("SignatureMismatch", "SignatureMismatch")


@pytest.mark.parametrize("tree_hash", [b"", TREE.tree_hash()[:-1], TREE.tree_hash() + b"\0", bytes(32)])
def test_another_tree_hash_is_refused(tree_hash: bytes) -> None:
    head = SignedHead(3, tree_hash, sign_head(DEVICE, feed_key(OURS), TREE.tree_hash(), 3))
    quick, slow = both(OURS, head)
    assert "holds" not in (quick, slow)

"""Verifying many heads of one feed: what depends on the feed only is worked out once.

An audit verifies every head that a feed ever had. ``ledger.head.verify_head`` decides each of them; for a head of ours,
one signature by one key in an envelope of one possible form, what is left of it is one comparison and libsodium.
"""

from __future__ import annotations

from typing import Final

from identity.errors import SignatureMismatch
from identity.keys import verify_signature
from ledger.head import FORK, SIGNABLE_BYTES, signable, verify_head
from ledger.manifest import Manifest, feed_key
from ledger.merkle import EMPTY_TREE_HASH, HASH_BYTES, TreeBuilder
from ledger.store import SignedHead

__all__ = ["HeadSeries"]

_BEFORE: Final = b"\x01\x00"
_AFTER: Final = b"\x00\x00"
"""Around the signature in an envelope of one: one proof, by signer 0; over no patch, and no nodes."""
_ENVELOPE_BYTES: Final = 68
_CONTEXT_BYTES: Final = SIGNABLE_BYTES - HASH_BYTES - 16
_FORK: Final = FORK.to_bytes(8, "little")


class HeadSeries:
    """The heads of the feed that ``manifest`` describes, at fork 0."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._context = signable(feed_key(manifest), EMPTY_TREE_HASH, 0)[:_CONTEXT_BYTES]
        plain = manifest.version > 0 and manifest.prologue is None and len(manifest.signers) == 1
        self._public_key = manifest.signers[0].public_key if plain else None

    def verify(self, head: SignedHead, tree: TreeBuilder) -> None:
        """Return only when the head's signature satisfies the manifest; ``tree`` is the one that the head states.

        Raises what ``verify_head`` does.
        """
        signature, key = head.signature, self._public_key
        if (
            key is not None
            and len(signature) == _ENVELOPE_BYTES
            and signature[:2] == _BEFORE
            and signature[66:] == _AFTER
        ):
            message = self._context + head.tree_hash + head.length.to_bytes(8, "little") + _FORK
            if len(message) != SIGNABLE_BYTES:
                raise SignatureMismatch("head: a tree hash has 32 bytes")
            verify_signature(key, message, signature[2:66])
        else:
            verify_head(self._manifest, head.tree_hash, head.length, FORK, signature, roots=tree.roots)

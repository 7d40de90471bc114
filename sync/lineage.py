"""Which feeds of a store go on from which: as ``ledger.lineage``, for a feed before it is in the ledger."""

from __future__ import annotations

from typing import Any

from identity.encoding import encode
from ledger.head import signable
from ledger.lineage import may_continue
from ledger.manifest import Continuation, FeedDescription, Manifest, describe, encode_manifest, parse_manifest
from ledger.store import FeedKey, FeedState, SignedHead, stored_tree_hash
from sync.report import SideReason
from sync.runs import Grown

__all__ = ["Lineage", "description_of", "rival_proof"]


class Lineage:
    """The feeds of the ledger by the place where their device may have one.

    Only feeds of one identity do: anybody can name somebody's feed as continued, and must not end it by that.
    """

    def __init__(self, tx: Any) -> None:
        self._tx = tx
        self._places: dict[object, list[FeedKey]] = {}
        self._continued: dict[tuple[bytes, FeedKey], list[Continuation]] = {}
        for state in tx.feeds():
            if state.length or state.local:
                self.add(state.key, parse_manifest(state.manifest))

    def add(self, key: FeedKey, manifest: Manifest) -> None:
        """Let a feed be one of the ledger's."""
        description = describe(manifest)
        if description is not None:
            self._places.setdefault(_place(manifest, description), []).append(key)
            if description.continues is not None:
                older = (description.identity, description.continues.key)
                self._continued.setdefault(older, []).append(description.continues)

    def conflict_of(self, key: FeedKey, manifest: Manifest) -> tuple[SideReason, FeedState | None] | None:
        """Why a feed that is new cannot be one of the ledger's, and the one where it would stand; None: it can."""
        description = description_of(manifest)
        rivals = [other for other in self._places.get(_place(manifest, description), ()) if other != key]
        if rivals:
            return SideReason.RIVAL, self._tx.feed(rivals[0])
        older = description.continues
        held = None if older is None else self._tx.feed(older.key)
        if older is None or held is None or held.length < older.length:
            return None
        if not may_continue(description.identity, held):
            return None
        is_same = stored_tree_hash(self._tx, older.key, older.length) == older.tree_hash
        return None if is_same else (SideReason.OTHER_CONTINUATION, None)

    def contradicts(self, key: FeedKey, manifest: Manifest, length: int, grown: Grown) -> bool:
        """Whether a feed of the ledger goes on from another history than this one gets by growing beyond ``length``."""
        ends = self._continued.get((description_of(manifest).identity, key), ())
        return any(
            grown.tree_at(end.length).tree_hash() != end.tree_hash
            for end in ends
            if length < end.length <= grown.head.length
        )


def _place(manifest: Manifest, description: FeedDescription) -> object:
    older = description.continues
    return (description.identity, (manifest.signers, description.name) if older is None else older.key)


def rival_proof(tx: Any, rival: FeedState, key: FeedKey, manifest: Manifest, head: SignedHead) -> bytes:
    """A signed head of each of two feeds where the device may have one."""
    newest = next(iter(tx.heads(rival.key, rival.length - 1)), None)
    statements = [b"" if newest is None else _statement(rival.key, newest), _statement(key, head)]
    return encode({"manifests": [rival.manifest, encode_manifest(manifest)], "heads": [*statements]})


def _statement(key: FeedKey, head: SignedHead) -> bytes:
    return signable(key, head.tree_hash, head.length) + head.signature


def description_of(manifest: Manifest) -> FeedDescription:
    """What the manifest of a feed of ours says of it."""
    description = describe(manifest)
    assert description is not None, "only feeds of ours have the name of a database"
    return description

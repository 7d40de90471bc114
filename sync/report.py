"""What came in from others, told: how much was new, what waits for more, which documents conflict, who has forked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ledger.store import FeedKey
from ledger.values import Reference
from sync.bundle import BundleHeader
from sync.transaction import DocumentId

__all__ = ["FoundFork", "ImportReport", "Received", "SideReason", "Waiting"]


class SideReason(StrEnum):
    """Why blocks are kept beside the ledger. The names are stable."""

    FORKED = "FORKED"
    """Others are signed in their place: the proof is a fork proof."""
    RIVAL = "RIVAL"
    """Another feed stands where the device may have one: the proof is a signed head of each."""
    OTHER_CONTINUATION = "OTHER_CONTINUATION"
    """A feed goes on from another history of this one, or this one from another history of an older one."""


@dataclass(frozen=True, slots=True)
class FoundFork:
    """Something that was signed against what is held of ``feed``, from block ``index`` on.

    ``proof`` is a fork proof, or of two feeds where one belongs CBOR of {manifests, heads} (``signable || signature``,
    empty for a feed that has none yet); it is empty where nobody can be shown to have lied. ``refused``: too many sides
    of the feed are kept already, so this one is not.
    """

    feed: FeedKey
    index: int
    reason: SideReason
    proof: bytes
    refused: bool


@dataclass(frozen=True, slots=True)
class Received:
    """What was new: ``blocks`` of ``feeds`` feeds. ``header`` None: it did not come in a bundle."""

    header: BundleHeader | None
    feeds: int
    blocks: int
    forks: tuple[FoundFork, ...]


@dataclass(frozen=True, slots=True)
class Waiting:
    """An entry of ``feed`` cannot be taken in, nor what follows it there, before the one that ``reference`` names."""

    feed: FeedKey
    index: int
    reference: Reference


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What has changed: ``entries`` were taken in, and these documents show conflicts that they did not show
    before, or had a condition that something has broken which was written without knowing of it."""

    received: Received
    entries: int
    waiting: tuple[Waiting, ...]
    conflicts: tuple[DocumentId, ...]
    contested: tuple[DocumentId, ...]

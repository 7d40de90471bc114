"""Auditing a feed: every byte is read again, every hash computed again, every signature verified again.

Nothing that was computed when the feed was written is taken on trust: blocks give leaf hashes, leaf hashes give the
tree, the tree must be what each head says and what the stored nodes say, and each head must be signed by the key that
the feed's own key commits to. The audit names the first entry that does not hold and what about it differs.

What an audit cannot see: a feed whose newest blocks, heads and feed row were all removed is a shorter feed that holds.
That it was longer is known to the checkpoint log, its timestamps and its anchors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice, pairwise
from typing import Final, TypeVar

from identity.errors import AuditError, DamagedFile, MalformedError
from ledger.feed import feed_state
from ledger.flattree import full_roots
from ledger.head_series import HeadSeries
from ledger.manifest import Manifest, feed_key, parse_manifest
from ledger.merkle import Node, TreeBuilder
from ledger.noderow import pack_nodes
from ledger.store import FeedKey, FeedState, ReadTransaction, SignedHead, Store

__all__ = [
    "BadEntry",
    "BadReason",
    "FeedAudit",
    "Piece",
    "PieceAudit",
    "RunPieces",
    "audit_feed",
    "audit_piece",
]

_CHUNK: Final = 4096
"""Blocks held in memory at a time, whatever the distance between two heads."""

_PIECES: Final = 64
"""Into how many pieces a feed is cut at most: none of them long enough to keep one process while the others wait."""

_WORTH_CUTTING: Final = 300_000
"""What an audit must cost at least, in hashed blocks, for the start of a process to be worth it; about a second."""

_HEAD_COST: Final = 15
"""What verifying a signature costs, in hashed blocks."""

_SAMPLE: Final = 1000

T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Called with the entries audited so far and the feed's length."""


class BadReason(StrEnum):
    """What about an entry does not hold. The names are stable."""

    MANIFEST = "MANIFEST"
    """The manifest is not the one that the feed's key is the hash of."""
    MISSING = "MISSING"
    """The block or its tree row is gone, or is not bytes of the right number."""
    BLOCK_DIFFERS = "BLOCK_DIFFERS"
    """The block is not the one that was hashed and signed."""
    NODE_DIFFERS = "NODE_DIFFERS"
    """The block is as it was signed; a stored hash of it, or above it, is not."""
    HEAD_DIFFERS = "HEAD_DIFFERS"
    """Blocks and stored hashes agree with each other, but not with the signed head."""
    SIGNATURE = "SIGNATURE"
    """The head that covers the entry is not signed by the feed's key."""
    NO_HEAD = "NO_HEAD"
    """No signed head covers the entry."""
    LENGTH = "LENGTH"
    """There is a signed head of more blocks than the feed is said to have."""
    FEED_ROW = "FEED_ROW"
    """All entries hold, but the feed's own record of its size or roots is wrong: the next append would fail."""


@dataclass(frozen=True, slots=True)
class BadEntry:
    """The first entry that does not hold; ``index`` counts from 0."""

    index: int
    reason: BadReason
    detail: str


@dataclass(frozen=True, slots=True)
class FeedAudit:
    """What was audited: ``entries`` with ``bytes`` in all, under ``heads``, before ``first_bad`` if there is any."""

    key: FeedKey
    length: int
    entries: int
    bytes: int
    heads: int
    first_bad: BadEntry | None

    @property
    def entries_per_signature(self) -> float:
        """How many entries a signature covers on average: what the speed of an audit depends on."""
        return self.entries / self.heads if self.heads else 0.0


@dataclass(frozen=True, slots=True)
class Piece:
    """Blocks ``start`` to ``stop - 1`` of a feed. ``roots`` are those of the blocks before, taken on trust."""

    key: FeedKey
    start: int
    stop: int
    roots: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class PieceAudit:
    """What was audited of a piece: up to ``stop``, which its heads may not reach, with the roots that this led to."""

    stop: int
    roots: tuple[Node, ...]
    heads: int
    first_bad: BadEntry | None


RunPieces = Callable[[Sequence[Piece], Callable[[Piece], PieceAudit]], Iterable[PieceAudit]]
"""Given pieces and a function that audits one of them here. Does so, or calls ``audit_piece`` anywhere, with a later
snapshot perhaps; gives what that returned, in order."""


def audit_feed(
    store: Store, key: FeedKey, progress: Progress | None = None, *, elsewhere: RunPieces | None = None
) -> FeedAudit:
    """Audit a feed, in one snapshot. With ``elsewhere`` a long one is cut into pieces, which are audited there.

    A piece begins with stored nodes as roots. They hold when the audit of the piece before led to the same ones.

    Raises ``MissingEvidenceError`` for an unknown feed and ``StorageError`` when the store, or the feed's own row,
    cannot be read; everything that does not hold is in the result.
    """
    with store.read() as tx:
        state = feed_state(tx, key)
        try:
            manifest = _manifest(state)
        except _Found as found:
            return FeedAudit(key, state.length, 0, 0, 0, found.bad)
        watch = progress or _nobody_watches
        pieces = _cut(tx, state) if elsewhere else [Piece(key, 0, state.length, ())]
        if elsewhere is None or len(pieces) == 1:
            whole = _Reading(tx, manifest, pieces[0], lambda entries: watch(entries, state.length)).run()
        else:
            audits = elsewhere(pieces, lambda piece: _Reading(tx, manifest, piece, lambda _: None).run())
            whole = _join(audits, pieces, lambda entries: watch(entries, state.length))
        bad = whole.first_bad or _fault_of_end(tx, state, whole)
        if bad is None:
            watch(state.length, state.length)
        size = sum(root.size for root in whole.roots)
        return FeedAudit(key, state.length, whole.stop, size, whole.heads, bad)


def audit_piece(store: Store, piece: Piece) -> PieceAudit:
    """Audit a piece of a feed whose manifest is known to hold. Raises as ``audit_feed`` does."""
    with store.read() as tx:
        manifest = parse_manifest(feed_state(tx, piece.key).manifest)
        return _Reading(tx, manifest, piece, lambda _: None).run()


def _cut(tx: ReadTransaction, state: FeedState) -> list[Piece]:
    """Pieces that begin and end where heads do, so that one finds what an audit in one go would have found."""
    length = state.length
    try:
        newest = sum(1 for _ in tx.heads(state.key, max(0, length - _SAMPLE)))
        if length + newest * _HEAD_COST * length // _SAMPLE < _WORTH_CUTTING:
            return [Piece(state.key, 0, length, ())]
        wanted = (length * part // _PIECES for part in range(1, _PIECES))
        heads = (next(tx.heads(state.key, above), None) for above in wanted)
        cuts = sorted({head.length for head in heads if head is not None and head.length < length})
        roots = [tuple(tx.node(state.key, index) for index in full_roots(cut)) for cut in cuts]
    except DamagedFile:  # where and what is found by reading from the beginning
        return [Piece(state.key, 0, length, ())]
    ends = pairwise([0, *cuts, length])
    return [Piece(state.key, *span, begun) for span, begun in zip(ends, [(), *roots], strict=True)]


def _join(audits: Iterable[PieceAudit], pieces: Sequence[Piece], watch: Callable[[int], None]) -> PieceAudit:
    """What an audit in one go would have led to: the pieces up to the first that does not hold or does not fit."""
    heads, joined = 0, PieceAudit(0, (), 0, None)
    for piece, audit in zip(pieces, audits, strict=True):
        if piece.roots != joined.roots or piece.start != joined.stop:
            where = max(0, piece.start - 1)
            detail = "the stored nodes changed while they were read"
            return PieceAudit(joined.stop, joined.roots, heads, BadEntry(where, BadReason.NODE_DIFFERS, detail))
        heads += audit.heads
        joined = PieceAudit(audit.stop, audit.roots, heads, audit.first_bad)
        if joined.first_bad is not None:
            break
        watch(joined.stop)
    return joined


def _fault_of_end(tx: ReadTransaction, state: FeedState, audit: PieceAudit) -> BadEntry | None:
    """What is wrong behind the last head that belongs to the feed, or with the feed's row."""
    length = state.length
    try:
        further = next(tx.heads(state.key, length), None)
    except DamagedFile as exc:
        return BadEntry(audit.stop, BadReason.NO_HEAD, str(exc))
    if further is not None:
        detail = f"a head of {further.length} blocks is signed, the feed has {length}"
        return BadEntry(length, BadReason.LENGTH, detail)
    if audit.stop < length:
        return BadEntry(audit.stop, BadReason.NO_HEAD, f"no signed head covers blocks {audit.stop} to {length - 1}")
    if audit.roots != state.roots or sum(root.size for root in audit.roots) != state.byte_length:
        return BadEntry(length, BadReason.FEED_ROW, "roots or size in bytes are not those of the blocks")
    return None


def _nobody_watches(_entries: int, _length: int) -> None:
    """The progress of an audit that reports none."""


class _Found(Exception):
    def __init__(self, index: int, reason: BadReason, detail: str) -> None:
        super().__init__(detail)
        self.bad = BadEntry(index, reason, detail)


def _manifest(state: FeedState) -> Manifest:
    try:
        manifest = parse_manifest(state.manifest)
    except MalformedError as exc:
        raise _Found(0, BadReason.MANIFEST, str(exc)) from exc
    if feed_key(manifest) != state.key:
        raise _Found(0, BadReason.MANIFEST, f"it is the manifest of feed {feed_key(manifest).hex()}")
    return manifest


class _Reading:
    """One pass over the blocks, tree rows and heads of a piece, side by side."""

    def __init__(self, tx: ReadTransaction, manifest: Manifest, piece: Piece, progress: Callable[[int], None]) -> None:
        self._stop = piece.stop
        self._heads = tx.heads(piece.key, piece.start)
        self._blocks = tx.blocks(piece.key, piece.start, piece.stop)
        self._rows = tx.tree_rows(piece.key, piece.start, piece.stop)
        self._tree = TreeBuilder(piece.roots, piece.start)
        self._series = HeadSeries(manifest)
        self._verified = 0
        self._progress = progress

    @property
    def entries(self) -> int:
        return self._tree.length

    def run(self) -> PieceAudit:
        try:
            self._audit_heads()
        except _Found as found:
            return PieceAudit(self.entries, self._tree.roots, self._verified, found.bad)
        return PieceAudit(self.entries, self._tree.roots, self._verified, None)

    def _audit_heads(self) -> None:
        """Up to the last head that is not longer than the piece. Raises ``_Found``."""
        reported = self.entries
        while (head := self._next_head()) is not None and head.length <= self._stop:
            self._audit_head(head)
            if self.entries - reported >= _CHUNK:
                reported = self.entries
                self._progress(reported)

    def _next_head(self) -> SignedHead | None:
        try:
            return next(self._heads, None)
        except DamagedFile as exc:
            raise _Found(self.entries, BadReason.NO_HEAD, str(exc)) from exc

    def _audit_head(self, head: SignedHead) -> None:
        start = self.entries
        differs = self._hash_up_to(head.length)
        tree_hash = self._tree.tree_hash()
        if tree_hash != head.tree_hash:
            detail = f"tree hash {tree_hash.hex()}, the head of {head.length} says {head.tree_hash.hex()}"
            if differs is None:
                raise _Found(start, BadReason.HEAD_DIFFERS, detail)
            raise _Found(differs, BadReason.BLOCK_DIFFERS, detail)
        if differs is not None:
            raise _Found(differs, BadReason.NODE_DIFFERS, "a stored tree node is not the hash of what is below it")
        try:
            self._series.verify(head, self._tree)
        except AuditError as exc:
            raise _Found(start, BadReason.SIGNATURE, f"head of {head.length} blocks: {exc}") from exc
        self._verified += 1

    def _hash_up_to(self, stop: int) -> int | None:
        """Hash the blocks before ``stop``. Returns the first one whose stored nodes are not the computed ones."""
        differs = None
        while self.entries < stop:
            start, count = self.entries, min(stop - self.entries, _CHUNK)
            blocks, gone = _take(self._blocks, count)
            rows, gone_too = _take(self._rows, count)
            computed = [pack_nodes(nodes) for nodes in self._tree.append_many(blocks)]
            if differs is None and computed != rows:
                differs = _first_difference(start, computed, rows)
            if gone or gone_too:
                if differs is not None:
                    raise _Found(differs, BadReason.BLOCK_DIFFERS, "block and stored nodes do not fit")
                raise _Found(start + min(len(blocks), len(rows)), BadReason.MISSING, str(gone or gone_too))
        return differs


def _take(stream: Iterator[T], count: int) -> tuple[list[T], DamagedFile | None]:
    """The next ``count`` items, or as many as there are before one that is missing."""
    taken: list[T] = []
    try:
        for item in islice(stream, count):
            taken.append(item)  # noqa: PERF402 - what came before the fault is needed
    except DamagedFile as exc:
        return taken, exc
    return taken, None


def _first_difference(start: int, computed: Sequence[bytes], stored: Sequence[bytes]) -> int | None:
    pairs = enumerate(zip(computed, stored, strict=False), start)
    return next((index for index, (one, other) in pairs if one != other), None)

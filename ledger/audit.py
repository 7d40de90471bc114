"""Auditing a feed: every byte is read again, every hash computed again, every signature verified again.

Nothing that was computed when the feed was written is taken on trust: blocks give leaf hashes, leaf hashes give the
tree, the tree must be what each head says and what the stored nodes say, and each head must be signed by the key that
the feed's own key commits to. The audit names the first entry that does not hold and what about it differs.

What an audit cannot see: a feed whose newest blocks, heads and feed row were all removed is a shorter feed that holds.
That it was longer is known to the checkpoint log, its timestamps and its anchors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Final, TypeVar

from identity.errors import AuditError, DamagedFile, MalformedError
from ledger.feed import feed_state
from ledger.head import FORK, verify_head
from ledger.manifest import Manifest, feed_key, parse_manifest
from ledger.merkle import TreeBuilder
from ledger.noderow import pack_nodes
from ledger.store import FeedKey, FeedState, ReadTransaction, SignedHead, Store

__all__ = ["BadEntry", "BadReason", "FeedAudit", "audit_feed"]

_CHUNK: Final = 4096
"""Blocks held in memory at a time, whatever the distance between two heads."""

_HEADS_A_TASK: Final = 32
"""Signatures that a thread verifies in one go: handing over a task costs about half a verification."""

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


def audit_feed(store: Store, key: FeedKey, progress: Progress | None = None, *, threads: int = 1) -> FeedAudit:
    """Audit a feed, in one snapshot. With more than one of ``threads`` they verify signatures beside the hashing.

    Raises ``MissingEvidenceError`` for an unknown feed and ``StorageError`` when the store, or the feed's own row,
    cannot be read; everything that does not hold is in the result.
    """
    with store.read() as tx, ExitStack() as stack:
        state = feed_state(tx, key)
        try:
            manifest = _manifest(state)
        except _Found as found:
            return FeedAudit(key, state.length, 0, 0, 0, found.bad)
        pool = stack.enter_context(ThreadPoolExecutor(threads)) if threads > 1 else None
        signatures = _Signatures(manifest, pool, 2 * threads)
        reading = _Reading(tx, state, signatures, progress or _nobody_watches)
        first_bad = None
        for step in (reading.run, signatures.finish):
            try:
                step()
            except _Found as found:  # a signature that had not been verified yet covers an earlier entry
                first_bad = found.bad
        return FeedAudit(key, state.length, reading.entries, reading.bytes, signatures.verified, first_bad)


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
    """One pass over blocks, tree rows and heads, side by side."""

    def __init__(self, tx: ReadTransaction, state: FeedState, signatures: _Signatures, progress: Progress) -> None:
        self._state = state
        self._heads = tx.heads(state.key)
        self._blocks = tx.blocks(state.key, 0, state.length)
        self._rows = tx.tree_rows(state.key, 0, state.length)
        self._tree = TreeBuilder()
        self._signatures = signatures
        self._progress = progress

    @property
    def entries(self) -> int:
        return self._tree.length

    @property
    def bytes(self) -> int:
        return self._tree.byte_length

    def run(self) -> None:
        """Audit everything but the signatures, which are handed over. Raises ``_Found``."""
        length, reported = self._state.length, 0
        while (head := self._next_head()) is not None:
            if head.length > length:
                raise _Found(
                    length, BadReason.LENGTH, f"a head of {head.length} blocks is signed, the feed has {length}"
                )
            self._audit_head(head)
            if self.entries - reported >= _CHUNK:
                reported = self.entries
                self._progress(reported, length)
        if self.entries < length:
            raise _Found(
                self.entries, BadReason.NO_HEAD, f"no signed head covers blocks {self.entries} to {length - 1}"
            )
        if self._tree.roots != self._state.roots or self.bytes != self._state.byte_length:
            raise _Found(length, BadReason.FEED_ROW, "roots or size in bytes are not those of the blocks")
        self._progress(length, length)

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
        self._signatures.add(start, head)

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


class _Signatures:
    """Verifies heads in the order they come, in tasks, several of them at a time when there is a pool."""

    def __init__(self, manifest: Manifest, pool: ThreadPoolExecutor | None, limit: int) -> None:
        self._manifest = manifest
        self._pool = pool
        self._limit = limit
        self._task: list[tuple[int, SignedHead]] = []
        self._pending: deque[Future[int]] = deque()
        self.verified = 0

    def add(self, start: int, head: SignedHead) -> None:
        """Verify ``head``, whose tree was recomputed and which is the first to cover block ``start``, now or later."""
        self._task.append((start, head))
        if len(self._task) >= _HEADS_A_TASK:
            self._hand_over()

    def finish(self) -> None:
        """Verify what is left. Raises ``_Found`` for the first bad signature of all, if there is any."""
        self._hand_over()
        self._collect(0)

    def _hand_over(self) -> None:
        task, self._task = self._task, []
        if self._pool is None:
            self.verified += self._verify(task)
        else:
            self._pending.append(self._pool.submit(self._verify, task))
            self._collect(self._limit)

    def _collect(self, limit: int) -> None:
        while len(self._pending) > limit:
            try:
                self.verified += self._pending.popleft().result()
            except _Found:
                self._pending.clear()  # whatever they find comes later in the feed
                raise

    def _verify(self, task: Sequence[tuple[int, SignedHead]]) -> int:
        for start, head in task:
            try:
                verify_head(self._manifest, head.tree_hash, head.length, FORK, head.signature)
            except AuditError as exc:
                raise _Found(start, BadReason.SIGNATURE, f"head of {head.length} blocks: {exc}") from exc
        return len(task)

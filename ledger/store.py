"""The storage port: what the ledger asks of a store, written as the contract that every engine keeps.

A store holds feeds (blocks, tree nodes, every signed head), the checkpoint log (leaves, tree nodes, notes) and the
identity events that both refer to. All of it is history: rows are added, never changed; only a feed's head row moves,
and only by compare-and-swap.

Writing happens in a transaction, one at a time per store (``Store.write``): everything in it becomes durable together,
before ``write`` returns, or nothing of it does. Reading happens in a snapshot (``Store.read``): what a transaction
commits meanwhile is not seen.

Nothing here verifies signatures: the callers in ``ledger`` do, before they write. What a store promises is to give
back the same bytes or to raise, never to give back others knowingly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NewType, Protocol

from ledger.flattree import full_roots
from ledger.merkle import Node, tree_hash

__all__ = [
    "Committed",
    "CommittedLog",
    "FeedChange",
    "FeedKey",
    "FeedState",
    "LogState",
    "ReadTransaction",
    "SignedHead",
    "Store",
    "StoredCheckpoint",
    "StoredEvent",
    "WriteTransaction",
    "newest_checkpoint",
    "stored_tree_hash",
]

FeedKey = NewType("FeedKey", bytes)
"""32 bytes: the hash of the feed's manifest, Hypercore's core key."""


@dataclass(frozen=True, slots=True)
class FeedState:
    """Where a feed stands: everything that appending needs, in O(log n) space."""

    key: FeedKey
    manifest: bytes
    length: int
    byte_length: int
    roots: tuple[Node, ...]
    local: bool
    """True when this node holds the device key and appends; False for a feed ingested from elsewhere."""
    retired: bool = False
    """True when this node must not sign for the feed any more: another feed continues it, or may have to."""


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A signed head as it was stored: ``signature`` is Hypercore's envelope over the 112-byte signable at fork 0."""

    length: int
    tree_hash: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class LogState:
    """Where the checkpoint log stands: its size and the roots of its complete subtrees, largest first."""

    log_id: bytes
    size: int
    frontier: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A checkpoint as it was signed: the note's text stands for itself."""

    size: int
    root: bytes
    note: str


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One identity event with its signatures, as ``SignedEvent.encode`` wrote it."""

    identity: bytes
    seq: int
    digest: bytes
    signed_event: bytes


@dataclass(frozen=True, slots=True)
class FeedChange:
    """What a transaction did to a feed: it was of ``start`` blocks, or is new (``created``), and now is ``after``."""

    start: int
    after: FeedState
    created: bool


@dataclass(frozen=True, slots=True)
class CommittedLog:
    """Where a transaction left the checkpoint log."""

    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Committed:
    """What a transaction of a store wrote, told after it has become durable. ``log`` None: nothing was logged."""

    feeds: tuple[FeedChange, ...]
    log: CommittedLog | None


class ReadTransaction(Protocol):
    """A snapshot. Every method raises ``StorageError`` when the engine fails, ``DamagedFile`` when a row cannot be."""

    def feeds(self) -> list[FeedState]:
        """Every feed, in the order they were created."""

    def feed(self, key: FeedKey) -> FeedState | None:
        """The feed's state, or None when this store does not know the key."""

    def block(self, key: FeedKey, index: int) -> bytes:
        """The block's bytes. Raises ``MissingEvidenceError`` when index >= length."""

    def blocks(self, key: FeedKey, start: int, stop: int) -> Iterator[bytes]:
        """Blocks ``start`` to ``stop - 1`` in order, streamed; ``MissingEvidenceError`` at the first absent one."""

    def node(self, key: FeedKey, index: int) -> Node:
        """The tree node at flat-tree ``index``. Raises ``MissingEvidenceError`` when it is not complete yet."""

    def tree_rows(self, key: FeedKey, start: int, stop: int) -> Iterator[bytes]:
        """For each block in the range its leaf node and the parents that it completed, as ``noderow.pack_nodes`` does.

        Streamed, and packed because this is for comparing them all with recomputed ones; ``node`` gives one of them.
        """

    def heads(self, key: FeedKey, above: int = 0) -> Iterator[SignedHead]:
        """Every signed head longer than ``above``, shortest first, streamed."""

    def head(self, key: FeedKey, length: int) -> SignedHead | None:
        """The signed head of exactly that length, or None."""

    def log(self) -> LogState | None:
        """The state of this store's own checkpoint log, or None before its descriptor is written."""

    def log_leaves(self, start: int, stop: int) -> Iterator[bytes]:
        """Statements ``start`` to ``stop - 1`` in order, streamed."""

    def log_node(self, level: int, index: int) -> bytes:
        """The hash of the complete subtree over leaves index*2^level to (index+1)*2^level - 1 (level 0: leaf hash)."""

    def checkpoints(self, above: int = 0) -> Iterator[StoredCheckpoint]:
        """Every checkpoint larger than ``above``, smallest first."""

    def checkpoint(self, size: int) -> StoredCheckpoint | None:
        """The checkpoint of exactly that size, or None."""

    def identities(self) -> list[bytes]:
        """Ids of the identities whose events this store keeps, in the order they came."""

    def identity_events(self, identity: bytes) -> list[StoredEvent]:
        """That identity's events by seq; two with one seq (duplicity) in the order they came. Empty when unknown."""


class WriteTransaction(ReadTransaction, Protocol):
    """The one writer. What it wrote is visible to its own reads."""

    def savepoint(self) -> AbstractContextManager[None]:
        """A part of the transaction: an exception that leaves the block undoes what was written in it, and goes on up.

        The transaction goes on as if the block had not been entered, and so do readings that began before it. Blocks
        nest. Raises ``StorageError`` instead when the engine cannot undo: then nothing of the transaction is kept.
        """

    def fence(self) -> None:
        """Write what changes nothing, so that a commit of this transaction has to reach the medium (and the copies).

        When it returns, everything that was visible in the transaction is as durable as what it wrote itself; what an
        earlier commit left half done and was not visible is gone.
        """

    def create_feed(self, key: FeedKey, manifest: bytes, *, local: bool) -> FeedState:
        """A new, empty feed. Raises ``ConflictError`` when the key exists."""

    def retire_feed(self, key: FeedKey) -> None:
        """Mark the feed as retired, for ever. What others hold of it can still be added. Idempotent.

        Raises ``MissingEvidenceError`` when this store does not know the key.
        """

    def append(
        self,
        expected: FeedState,
        blocks: Sequence[bytes],
        nodes: Sequence[Sequence[Node]],
        head: SignedHead,
        roots: Sequence[Node],
    ) -> FeedState:
        """Add blocks, for each the leaf node and parents it completes, and the head that signs them; move the feed.

        Raises ``ConflictError``, with nothing written, unless the feed still stands at ``expected.length`` with
        ``expected.roots``; ``ValueError`` when blocks, nodes, head and roots do not fit together in number.
        """

    def append_leaves(self, expected: LogState | None, state: LogState, leaves: Sequence[bytes]) -> None:
        """Add statements to the log, with every subtree hash they complete.

        ``expected`` None creates the log. Raises ``ConflictError`` unless the log stands at ``expected.size``.
        """

    def add_checkpoint(self, checkpoint: StoredCheckpoint) -> None:
        """Keep a signed checkpoint. Raises ``ConflictError`` when another one of that size exists."""

    def add_identity_event(self, event: StoredEvent) -> None:
        """Keep an identity event; one that is here already (same digest) is left as it is."""


class Store(Protocol):
    """A store, open. Use as ``with store.write() as tx: ...``: leaving the block commits, an exception rolls back."""

    def read(self) -> AbstractContextManager[ReadTransaction]:
        """A snapshot for reading."""

    def write(self) -> AbstractContextManager[WriteTransaction]:
        """The write transaction; ``StoreBusy`` when another process holds it, ``StorageError`` when read-only."""

    def close(self) -> None:
        """Release the engine. Idempotent."""


def newest_checkpoint(tx: ReadTransaction) -> StoredCheckpoint | None:
    """The log's newest checkpoint, or None before the first. Costs the same however many there are.

    A checkpoint is signed over all leaves in the transaction that adds them, so it is the one of the log's size; a log
    whose last leaves no checkpoint covers is searched.
    """
    state = tx.log()
    if state is None:
        return None
    return tx.checkpoint(state.size) or max(tx.checkpoints(), key=lambda one: one.size, default=None)


def stored_tree_hash(tx: ReadTransaction, key: FeedKey, length: int) -> bytes:
    """The tree hash of the feed's first ``length`` blocks, from O(log n) stored nodes.

    That they are the blocks' own is for an audit of the feed. Raises ``MissingEvidenceError`` beyond the feed's length.
    """
    return tree_hash(tx.node(key, index) for index in full_roots(length))

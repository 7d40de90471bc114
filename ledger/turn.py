"""One turn of a store's writer: the items of many callers in one transaction, under one signature a feed.

Implements docs/spec/feed.md section 3.1 for writers that share a store; ``ledger.writer`` has the thread and the queue.
A turn takes item after item. An item may come with a condition, which sees the store as it stands with everything that
the turn has taken before it: so two items of one turn can't both build on what only one of them can have seen. Then the
turn ends: the blocks of each feed are hashed, the new head is signed once, and all is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from identity.errors import AuditError, DamagedFile, MissingEvidenceError, RefusedError, StorageError, StoreBusy
from identity.history import KeyHistory, fold, parse_signed_event
from identity.keys import Signer
from ledger.feed import AppendResult, Keeper, OpenFeed, check_batch, check_device, check_writable, feed_state, open_feed
from ledger.flattree import depth, right_leaf
from ledger.manifest import device_key, parse_manifest
from ledger.merkle import Node, TreeBuilder
from ledger.noderow import pack_nodes
from ledger.store import (
    FeedKey,
    FeedState,
    LogState,
    ReadTransaction,
    SignedHead,
    StoredCheckpoint,
    StoredEvent,
    WriteTransaction,
)

__all__ = ["Companion", "Compose", "Condition", "ItemFailed", "OpenFeeds", "Resolve", "SigningFailed", "Turn"]


class ItemFailed(Exception):
    """One item can't be written, and nothing of it was; the turn goes on. ``error`` is what the caller is told."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class SigningFailed(Exception):
    """The head of feed ``key`` could not be signed, so the turn is lost; without that feed it may succeed."""

    def __init__(self, key: FeedKey, error: Exception) -> None:
        super().__init__(str(error))
        self.key = key
        self.error = error


Resolve = Callable[[WriteTransaction, FeedKey], FeedKey]
"""Which feed an append to this one goes into now. It may begin one that continues it. Raises ``AuditError``."""


class Companion(Protocol):
    """What a layer above keeps while a turn lasts: what its items have changed and is not written yet."""

    def finish(self) -> None:
        """Write it, in the turn's transaction. Called once, before anything is signed; when it raises, all is lost."""


C = TypeVar("C", bound=Companion)


class OpenFeeds:
    """What a writer remembers from turn to turn: its signers, the feeds it has opened, the identities it has folded.

    All of it can be read again. Where a feed stands is not remembered: that is read in every turn.
    """

    def __init__(self, signers: Iterable[Signer], keeper: Keeper | None = None, resolve: Resolve | None = None) -> None:
        self._signers = {signer.public_key: signer for signer in signers}
        self._keeper = keeper
        self._resolve = resolve
        self._feeds: dict[FeedKey, OpenFeed] = {}
        self._histories: dict[bytes, tuple[Sequence[StoredEvent], KeyHistory]] = {}

    def forget(self) -> None:
        """Check every feed's end anew before it is appended to: the store has failed."""
        self._feeds.clear()
        self._histories.clear()

    def open(self, tx: WriteTransaction, key: FeedKey) -> tuple[OpenFeed, FeedState]:
        """The feed that an append to this one goes into, and where it stands, when this process may sign for it now.

        Raises ``RefusedError`` when it is not a feed of ours or retired, no signer has its key, its device is revoked
        or not known, and what the keeper raises; ``MissingEvidenceError`` for an unknown one, ``DamagedFile`` for one
        whose end is not whole.
        """
        if self._resolve is None:
            return self._open(tx, key)
        target = self._resolve(tx, key)
        try:
            return self._open(tx, target)
        except RefusedError:
            further = self._resolve(tx, key)  # the keeper may just have retired it
            if further == target:
                raise
            return self._open(tx, further)

    def _open(self, tx: WriteTransaction, key: FeedKey) -> tuple[OpenFeed, FeedState]:
        state = feed_state(tx, key)
        check_writable(state)
        opened = self._feeds.get(key)
        if opened is None:
            signer = self._signers.get(device_key(parse_manifest(state.manifest)))
            if signer is None:
                raise RefusedError(f"no key to sign feed {key.hex()} with", hint="it is the feed of another device")
            opened = self._feeds[key] = open_feed(tx, key, signer)
        check_device(self._history(tx, opened.identity), opened.signer.public_key)
        if self._keeper is not None:
            self._keeper.hold(tx, key)
        return opened, state

    def _history(self, tx: ReadTransaction, identity: bytes) -> KeyHistory:
        """As ``ledger.identities.key_history``, verified again only when the events are no longer the same."""
        events = tx.identity_events(identity)
        held = self._histories.get(identity)
        if held is None or held[0] != events:
            if not events:
                raise MissingEvidenceError(f"identity {identity.hex()} is not in this store")
            held = self._histories[identity] = (events, fold([parse_signed_event(one.signed_event) for one in events]))
        return held[1]


@dataclass(slots=True)
class _Pending:
    """The blocks that a turn adds to one feed. They are hashed when somebody looks, or at the end."""

    feed: OpenFeed
    state: FeedState
    tree: TreeBuilder
    blocks: list[bytes] = field(default_factory=list)
    _rows: list[tuple[Node, ...]] = field(default_factory=list)

    @property
    def length(self) -> int:
        return self.state.length + len(self.blocks)

    def rows(self) -> list[tuple[Node, ...]]:
        """For each block the nodes that it completes."""
        if len(self._rows) < len(self.blocks):
            self._rows += self.tree.append_many(self.blocks[len(self._rows) :])
        return self._rows

    def moved(self) -> FeedState:
        """The feed with these blocks, as if they were signed and stored."""
        self.rows()
        tree = self.tree
        return replace(self.state, length=tree.length, byte_length=tree.byte_length, roots=tree.roots)


class Turn:
    """A turn in the transaction ``tx``. For conditions it is a ``ReadTransaction``: the store with the turn's blocks.

    Blocks that the turn took have no signed head yet. What the layers above keep in tables of their own a condition may
    write, through ``connection``: it becomes durable with its item's blocks, or not at all.
    """

    def __init__(self, tx: WriteTransaction, feeds: OpenFeeds) -> None:
        self._tx = tx
        self._open = feeds
        self._pending: dict[FeedKey, _Pending] = {}
        self._targets: dict[FeedKey, FeedKey] = {}
        self._refused: dict[FeedKey, AuditError] = {}
        self._companions: dict[object, Companion] = {}
        self._undo: ExitStack | None = None
        """What a condition that is running has to undo when it fails; None when nothing, or when none is running."""

    @property
    def connection(self) -> Any:
        """The transaction's SQL connection, on a store that has one. Not to be kept from one condition to the next."""
        tx: Any = self._tx
        if self._undo is not None:
            # Only now, because most conditions only read, and a savepoint costs two exchanges with a server.
            self._undo.enter_context(tx.savepoint())
            self._undo = None
        return tx.connection

    def companion(self, owner: object, make: Callable[[Any], C]) -> C:
        """What ``owner`` keeps for this turn; ``make`` is given the store's transaction when it is first asked for."""
        if owner not in self._companions:
            self._companions[owner] = make(self._tx)
        return self._companions[owner]  # type: ignore[return-value]

    def take(
        self, key: FeedKey, blocks: Sequence[bytes] | Compose, condition: Condition | None
    ) -> tuple[FeedKey, int, int]:
        """Add an item, a batch within the limits of ``check_batch``, or what composes one.

        Returns the feed that it goes into, which is ``key`` or continues it, the index of its first block there, and
        the one after its last.

        Raises ``ItemFailed``, with nothing of the item kept. Any other exception means that the turn is lost.
        """
        pending = self._pending_of(key)
        if condition is not None:
            self._require(condition)
        start = pending.length
        if callable(blocks):
            blocks = self._compose(blocks, pending.feed.key, start)
        pending.blocks.extend(blocks)
        return pending.feed.key, start, pending.length

    def finish(self) -> list[AppendResult]:
        """Hash, sign and write what was taken: one result a feed. Nothing of it may be let out before the commit.

        Raises ``SigningFailed``, or what the store raises; then the transaction must not be committed.
        """
        for companion in self._companions.values():
            companion.finish()
        results = []
        for key, pending in self._pending.items():
            if pending.blocks:
                rows = pending.rows()
                head = _sign(pending)
                self._tx.append(pending.state, pending.blocks, rows, head, pending.tree.roots)
                results.append(AppendResult(key, pending.state.length, head.length, head))
        return results

    def _pending_of(self, key: FeedKey) -> _Pending:
        if key in self._refused:
            raise ItemFailed(self._refused[key])
        if key not in self._targets:
            try:
                feed, state = self._open.open(self._tx, key)
            except AuditError as exc:
                if isinstance(exc, StorageError) and not isinstance(exc, DamagedFile | StoreBusy):
                    raise
                self._refused[key] = exc
                raise ItemFailed(exc) from exc
            self._targets[key] = feed.key
            self._pending.setdefault(feed.key, _Pending(feed, state, TreeBuilder(state.roots, state.length)))
        return self._pending[self._targets[key]]

    def _require(self, condition: Condition) -> None:
        try:
            with ExitStack() as self._undo:
                try:
                    condition(self)
                except Exception as exc:  # (whatever a condition raises is its item's own)
                    raise ItemFailed(exc) from exc
        finally:
            self._undo = None

    def _compose(self, compose: Compose, key: FeedKey, start: int) -> Sequence[bytes]:
        try:
            blocks = compose(self, key, start)
            check_batch(blocks)
        except (AuditError, TypeError) as exc:
            raise ItemFailed(exc) from exc
        return blocks

    # The store with the blocks of this turn: ``ledger.store.ReadTransaction``.

    def feeds(self) -> list[FeedState]:
        """Every feed."""
        return [self._pending[state.key].moved() if state.key in self._pending else state for state in self._tx.feeds()]

    def feed(self, key: FeedKey) -> FeedState | None:
        """Where the feed stands: an item's first block gets the index ``length``."""
        return self._pending[key].moved() if key in self._pending else self._tx.feed(key)

    def block(self, key: FeedKey, index: int) -> bytes:
        """The block's bytes."""
        taken = self._taken(key, index)
        return self._tx.block(key, index) if taken is None else taken[0].blocks[taken[1]]

    def blocks(self, key: FeedKey, start: int, stop: int) -> Iterator[bytes]:
        """Blocks ``start`` to ``stop - 1``."""
        cut = self._cut(key, start, stop)
        yield from self._tx.blocks(key, start, cut)
        yield from (self.block(key, index) for index in range(cut, stop))

    def node(self, key: FeedKey, index: int) -> Node:
        """The tree node at flat-tree ``index``."""
        taken = self._taken(key, right_leaf(index)) if index >= 0 else None
        return self._tx.node(key, index) if taken is None else taken[0].rows()[taken[1]][depth(index)]

    def tree_rows(self, key: FeedKey, start: int, stop: int) -> Iterator[bytes]:
        """Packed tree rows of the range."""
        cut = self._cut(key, start, stop)
        yield from self._tx.tree_rows(key, start, cut)
        for index in range(cut, stop):
            taken = self._taken(key, index)
            if taken is None:
                yield from self._tx.tree_rows(key, index, index + 1)
            else:
                yield pack_nodes(taken[0].rows()[taken[1]])

    def heads(self, key: FeedKey, above: int = 0) -> Iterator[SignedHead]:
        """The signed heads: those of earlier turns."""
        return self._tx.heads(key, above)

    def head(self, key: FeedKey, length: int) -> SignedHead | None:
        """The signed head of that length, of an earlier turn."""
        return self._tx.head(key, length)

    def log(self) -> LogState | None:
        """The checkpoint log's state."""
        return self._tx.log()

    def log_leaves(self, start: int, stop: int) -> Iterator[bytes]:
        """Statements of the log."""
        return self._tx.log_leaves(start, stop)

    def log_node(self, level: int, index: int) -> bytes:
        """A hash of the log's tree."""
        return self._tx.log_node(level, index)

    def checkpoints(self, above: int = 0) -> Iterator[StoredCheckpoint]:
        """The checkpoints above a size."""
        return self._tx.checkpoints(above)

    def checkpoint(self, size: int) -> StoredCheckpoint | None:
        """The checkpoint of that size."""
        return self._tx.checkpoint(size)

    def identities(self) -> list[bytes]:
        """The identities of the store."""
        return self._tx.identities()

    def identity_events(self, identity: bytes) -> list[StoredEvent]:
        """An identity's events."""
        return self._tx.identity_events(identity)

    def _taken(self, key: FeedKey, index: int) -> tuple[_Pending, int] | None:
        """Where among the blocks of this turn block ``index`` is; None when it is not one of them."""
        pending = self._pending.get(key)
        if pending is None or not pending.state.length <= index < pending.length:
            return None
        return pending, index - pending.state.length

    def _cut(self, key: FeedKey, start: int, stop: int) -> int:
        """Where in a range the blocks of this turn begin, or ``stop``."""
        pending = self._pending.get(key)
        return stop if pending is None or start < 0 else max(start, min(stop, pending.state.length))


Condition = Callable[[Turn], object]
"""Called with the turn before its item is taken. To refuse the item it raises, ``ConflictError`` or ``RefusedError``.

It may be called again, with another turn, when the first one came to nothing.
"""

Compose = Callable[[Turn, FeedKey, int], Sequence[bytes]]
"""Called with the turn, the feed that the blocks go into and the index of the first: makes blocks that depend on those.

To refuse the item it raises an ``AuditError``, and then it must not have changed anything, its companion included. It
may be called again as a ``Condition`` may.
"""


def _sign(pending: _Pending) -> SignedHead:
    try:
        return pending.feed.sign(pending.tree)
    except Exception as exc:
        raise SigningFailed(pending.feed.key, exc) from exc

"""A store in memory: the same contract as the others, for tests and for what need not outlive the process.

History is appended to lists that are never changed below a length; what a transaction sees is a ``_View`` of those
lengths. Committing replaces the store's view, rolling back cuts the lists to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from identity.errors import ConflictError, MissingEvidenceError, StorageError
from ledger.flattree import depth, right_leaf
from ledger.merkle import Node
from ledger.noderow import pack_nodes
from ledger.storage.lock import WriteLock
from ledger.storage.moves import log_rows, moved_feed
from ledger.store import FeedKey, FeedState, LogState, SignedHead, StoredCheckpoint, StoredEvent

__all__ = ["MemoryStore"]


@dataclass(slots=True)
class _Feed:
    blocks: list[bytes] = field(default_factory=list)
    nodes: list[tuple[Node, ...]] = field(default_factory=list)
    heads: list[SignedHead] = field(default_factory=list)


@dataclass(slots=True)
class _History:
    """Everything that was ever committed, and, above the lengths of the committed view, what is being written."""

    feeds: dict[FeedKey, _Feed] = field(default_factory=dict)
    leaves: list[bytes] = field(default_factory=list)
    hashes: list[Sequence[bytes]] = field(default_factory=list)
    checkpoints: list[StoredCheckpoint] = field(default_factory=list)
    events: list[StoredEvent] = field(default_factory=list)

    def cut(self, view: _View) -> None:
        """Forget what stands above the lengths of ``view``."""
        for key in self.feeds.keys() - view.feeds.keys():
            del self.feeds[key]
        for key, state in view.feeds.items():
            feed = self.feeds[key]
            del feed.blocks[state.length :], feed.nodes[state.length :]
            feed.heads[:] = [head for head in feed.heads if head.length <= state.length]
        size = view.log.size if view.log else 0
        del self.leaves[size:], self.hashes[size:], self.checkpoints[view.checkpoints :], self.events[view.events :]


@dataclass(frozen=True, slots=True)
class _View:
    feeds: dict[FeedKey, FeedState]
    log: LogState | None
    checkpoints: int
    events: int


class _Reading:
    """A snapshot: ``ledger.store.ReadTransaction`` over the history, up to the lengths of a view."""

    def __init__(self, history: _History, view: _View) -> None:
        self._history = history
        self._view = view

    def feeds(self) -> list[FeedState]:
        return list(self._view.feeds.values())

    def feed(self, key: FeedKey) -> FeedState | None:
        return self._view.feeds.get(key)

    def block(self, key: FeedKey, index: int) -> bytes:
        return self._held(key, index, f"block {index}").blocks[index]

    def blocks(self, key: FeedKey, start: int, stop: int) -> Iterator[bytes]:
        for index in range(start, stop):
            yield self.block(key, index)

    def node(self, key: FeedKey, index: int) -> Node:
        row = right_leaf(index) if index >= 0 else -1
        return self._held(key, row, f"tree node {index}").nodes[row][depth(index)]

    def tree_rows(self, key: FeedKey, start: int, stop: int) -> Iterator[bytes]:
        for index in range(start, stop):
            yield pack_nodes(self._held(key, index, f"tree row {index}").nodes[index])

    def heads(self, key: FeedKey, above: int = 0) -> Iterator[SignedHead]:
        state = self.feed(key)
        if state is not None:
            heads = self._history.feeds[key].heads
            yield from (head for head in tuple(heads) if above < head.length <= state.length)

    def head(self, key: FeedKey, length: int) -> SignedHead | None:
        return next((head for head in self.heads(key, length - 1) if head.length == length), None)

    def log(self) -> LogState | None:
        return self._view.log

    def log_leaves(self, start: int, stop: int) -> Iterator[bytes]:
        size = self._view.log.size if self._view.log else 0
        for index in range(start, stop):
            if not 0 <= index < size:
                raise MissingEvidenceError(f"log leaf {index}: the log has {size}")
            yield self._history.leaves[index]

    def log_node(self, level: int, index: int) -> bytes:
        size = self._view.log.size if self._view.log else 0
        row = ((index + 1) << level) - 1 if 0 <= level < 64 and index >= 0 else size
        if row >= size:
            raise MissingEvidenceError(f"log node {level}/{index} is not complete")
        return self._history.hashes[row][level]

    def checkpoints(self, above: int = 0) -> Iterator[StoredCheckpoint]:
        held = self._history.checkpoints[: self._view.checkpoints]
        yield from sorted((one for one in held if one.size > above), key=lambda one: one.size)

    def checkpoint(self, size: int) -> StoredCheckpoint | None:
        return next((one for one in self.checkpoints(size - 1) if one.size == size), None)

    def identities(self) -> list[bytes]:
        return list(dict.fromkeys(event.identity for event in self._events()))

    def identity_events(self, identity: bytes) -> list[StoredEvent]:
        return sorted((event for event in self._events() if event.identity == identity), key=lambda event: event.seq)

    def _events(self) -> list[StoredEvent]:
        return self._history.events[: self._view.events]

    def _held(self, key: FeedKey, index: int, what: str) -> _Feed:
        state = self.feed(key)
        if state is None:
            raise MissingEvidenceError(f"{what}: feed {key.hex()} is not in this store")
        if not 0 <= index < state.length:
            raise MissingEvidenceError(f"{what}: the feed has {state.length} blocks")
        return self._history.feeds[key]


class _Writing(_Reading):
    """The one writer: ``ledger.store.WriteTransaction``. Its view moves as it writes."""

    @property
    def view(self) -> _View:
        """What is to be committed."""
        return self._view

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        view = self._view
        try:
            yield
        except BaseException:
            self._history.cut(view)
            self._view = view
            raise

    def fence(self) -> None:
        """Nothing outlives the process, so there is nothing to make sure of."""

    def create_feed(self, key: FeedKey, manifest: bytes, *, local: bool) -> FeedState:
        if key in self._view.feeds:
            raise ConflictError(f"feed {key.hex()} exists")
        self._history.feeds[key] = _Feed()
        return self._put(FeedState(key, manifest, 0, 0, (), local))

    def retire_feed(self, key: FeedKey) -> None:
        state = self.feed(key)
        if state is None:
            raise MissingEvidenceError(f"feed {key.hex()} is not in this store")
        self._put(replace(state, retired=True))

    def append(
        self,
        expected: FeedState,
        blocks: Sequence[bytes],
        nodes: Sequence[Sequence[Node]],
        head: SignedHead,
        roots: Sequence[Node],
    ) -> FeedState:
        state = self.feed(expected.key)
        if state is None or state.length != expected.length or state.roots != expected.roots:
            raise ConflictError(f"feed {expected.key.hex()} no longer stands at {expected.length}")
        moved = moved_feed(state, blocks, nodes, head, roots)
        feed = self._history.feeds[state.key]
        feed.blocks.extend(blocks)
        feed.nodes.extend(tuple(completed) for completed in nodes)
        feed.heads.append(head)
        return self._put(moved)

    def append_leaves(self, expected: LogState | None, state: LogState, leaves: Sequence[bytes]) -> None:
        if self._view.log != expected:
            raise ConflictError(f"the log no longer stands at {0 if expected is None else expected.size}")
        self._history.hashes.extend(log_rows(expected, state, leaves))
        self._history.leaves.extend(leaves)
        self._view = replace(self._view, log=state)

    def add_checkpoint(self, checkpoint: StoredCheckpoint) -> None:
        held = self.checkpoint(checkpoint.size)
        if held is None:
            self._history.checkpoints.append(checkpoint)
            self._view = replace(self._view, checkpoints=self._view.checkpoints + 1)
        elif held != checkpoint:
            raise ConflictError(f"another checkpoint of size {checkpoint.size} is held")

    def add_identity_event(self, event: StoredEvent) -> None:
        if all(held.digest != event.digest for held in self._events()):
            self._history.events.append(event)
            self._view = replace(self._view, events=self._view.events + 1)

    def _put(self, state: FeedState) -> FeedState:
        self._view = replace(self._view, feeds={**self._view.feeds, state.key: state})
        return state


class MemoryStore:
    """A store whose history ends with the process."""

    def __init__(self, *, busy_timeout_s: float = 5.0) -> None:
        self._history = _History()
        self._view = _View({}, None, 0, 0)
        self._lock = WriteLock(busy_timeout_s)
        self._closed = False

    @contextmanager
    def read(self) -> Iterator[_Reading]:
        """A snapshot for reading."""
        self._check_open()
        yield _Reading(self._history, self._view)

    @contextmanager
    def write(self) -> Iterator[_Writing]:
        """The write transaction. What it wrote stays when the block is left without an exception."""
        self._check_open()
        with self._lock.held():
            tx = _Writing(self._history, self._view)
            try:
                yield tx
            except BaseException:
                self._history.cut(self._view)
                raise
            self._view = tx.view

    def close(self) -> None:
        """Refuse further transactions. Idempotent."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError("the store is closed")

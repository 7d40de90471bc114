"""Writing the checkpoint log: what has changed in a store becomes one batch of leaves and one signed checkpoint.

Implements docs/spec/checkpoint-log.md, section "Writing". The log serves the identities of the store that have bound it
(``bind_log``) and the feeds of their devices; what belongs to others is not logged, for that would be a second log of
theirs. Each checkpoint is one write transaction; its note leaves this module only after that has committed.

A head that must not be logged, of a device that the identity does not know or beyond what a revocation vouches for, is
withheld: it is left out and named in the plan, and everything else goes on. A store that no longer extends what its own
log states is another matter: it is refused altogether.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import takewhile
from typing import Final

from identity.errors import RefusedError, StorageError
from identity.history import Device, KeyHistory, fold, parse_signed_event
from identity.keys import Signer
from identity.textforms import to_zbase32
from ledger.checkpoint import Checkpoint, sign_checkpoint, verify_checkpoint
from ledger.log import Frontier, append_to_frontier, hash_leaf
from ledger.manifest import describe, parse_manifest
from ledger.merkle import tree_hash
from ledger.replay import order_key
from ledger.statement import (
    AnchorStatement,
    FeedHead,
    IdentityHead,
    LogDescriptor,
    Statement,
    TimeStatement,
    encode_statement,
    feed_head_key,
    log_origin,
    parse_statement,
)
from ledger.store import (
    FeedKey,
    FeedState,
    LogState,
    ReadTransaction,
    Store,
    StoredCheckpoint,
    WriteTransaction,
    stored_tree_hash,
)

__all__ = ["LogWriter", "Plan", "WithheldFeed", "WithheldReason", "begin_log", "covered_heads", "covered_lengths"]

_CHUNK: Final = 4096
"""Leaves read at a time when looking back for what the log states last."""


class WithheldReason(StrEnum):
    """Why a feed's newest head is not logged."""

    UNKNOWN_DEVICE = "UNKNOWN_DEVICE"
    """No event of the identity adds the device whose feed it is."""
    BEYOND_LAST_GOOD = "BEYOND_LAST_GOOD"
    """The device was revoked, and the feed is longer than what the revocation vouches for."""
    OTHER_BRANCH = "OTHER_BRANCH"
    """The device was revoked, and at the length that is vouched for the feed has another tree."""


@dataclass(frozen=True, slots=True)
class WithheldFeed:
    """A feed that this store holds up to ``length``, and the log does not get to state that."""

    key: FeedKey
    length: int
    reason: WithheldReason


@dataclass(frozen=True, slots=True)
class Plan:
    """What the next checkpoint would state. ``changed`` is False when it would only say again what the log says."""

    identities: tuple[IdentityHead, ...]
    feeds: tuple[FeedHead, ...]
    withheld: tuple[WithheldFeed, ...]
    changed: bool


@dataclass(slots=True)
class _Logged:
    """What the log of ``size`` leaves states last: of every identity, and of those feeds that were looked for."""

    size: int = 0
    identities: dict[bytes, IdentityHead] = field(default_factory=dict)
    feeds: dict[bytes, FeedHead | None] = field(default_factory=dict)


def begin_log(tx: WriteTransaction, descriptor: LogDescriptor) -> bytes:
    """Begin the store's log in a transaction of the caller; return its id. ``ConflictError`` when there is one."""
    leaf = encode_statement(descriptor)
    log_id = hash_leaf(leaf)
    state, _ = append_to_frontier(LogState(log_id, 0, ()), [leaf])
    tx.append_leaves(None, state, [leaf])
    return log_id


class LogWriter:
    """The writer of one store's checkpoint log. ``signer`` holds the log's own key.

    It remembers what the log states last, so that a checkpoint costs what has changed and not what was ever logged.
    """

    def __init__(self, store: Store, signer: Signer) -> None:
        self._store = store
        self._signer = signer
        self._logged = _Logged()
        self._held: set[bytes] = set()
        self._searched = 1
        self._histories: dict[tuple[bytes, ...], KeyHistory] = {}

    def create(self, descriptor: LogDescriptor) -> bytes:
        """Begin the store's log with its descriptor; return the 32-byte log id. The first checkpoint comes later.

        Raises ``RefusedError`` when the signer has another key, ``ConflictError`` when the store has a log.
        """
        self._check_key(descriptor)
        with self._store.write() as tx:
            return begin_log(tx, descriptor)

    def pending(self) -> Plan:
        """What the next checkpoint would state, without writing anything. Raises as ``append_checkpoint`` does."""
        with self._store.read() as tx:
            state, _ = self._open(tx)
            return self._plan(tx, state)

    def append_checkpoint(
        self,
        *,
        times: Sequence[TimeStatement] = (),
        anchors: Sequence[AnchorStatement] = (),
        restate: bool = False,
        admit: Callable[[WriteTransaction], object] | None = None,
    ) -> StoredCheckpoint:
        """Log everything that has changed, with these time and anchor statements, and sign the new size and root.

        When nothing has changed, ``RefusedError`` ("nothing to commit"), whatever statements are given; ``restate``
        makes a checkpoint all the same, which keeps the identity heads fresh. ``admit`` is given the transaction before
        anything else, and raises when the log may not be signed now. Raises ``RefusedError`` as well when
        there is no log, the signer has another key, no identity has bound the log, a statement is not about an earlier
        checkpoint or is there already, or the store does not extend its own log. Nothing is written then.
        """
        with self._store.write() as tx:
            if admit is not None:
                admit(tx)
            state, descriptor = self._open(tx)
            plan = self._plan(tx, state)
            if not plan.identities:
                raise RefusedError("nothing to commit: no identity in this store has bound its log")
            if not plan.changed and not restate:
                raise RefusedError("nothing to commit: no feed and no identity has changed since the last checkpoint")
            witnesses: list[TimeStatement | AnchorStatement] = [*times, *anchors]
            _check_witnesses(tx, state, descriptor, witnesses)
            leaves = _in_order((*witnesses, *plan.identities, *plan.feeds))
            moved, _ = append_to_frontier(state, leaves)
            tx.append_leaves(state, moved, leaves)
            checkpoint = self._sign(descriptor, moved)
            tx.add_checkpoint(checkpoint)
        return checkpoint

    def _open(self, tx: ReadTransaction) -> tuple[LogState, LogDescriptor]:
        state = tx.log()
        if state is None:
            raise RefusedError("this store has no checkpoint log")
        descriptor = parse_statement(next(iter(tx.log_leaves(0, 1))))
        if not isinstance(descriptor, LogDescriptor):
            raise StorageError("leaf 0 of this store's log is not a descriptor")
        self._check_key(descriptor)
        self._check_feeds_held(tx, state.size)
        return state, descriptor

    def _check_feeds_held(self, tx: ReadTransaction, size: int) -> None:
        """Every feed that the log has ever stated is in the store; how long it must be is checked when it is planned.

        Reads each leaf once in the life of this writer.
        """
        for start in range(self._searched, size, _CHUNK):
            for leaf in list(tx.log_leaves(start, min(size, start + _CHUNK))):
                key = feed_head_key(leaf)
                if key is None or key in self._held:
                    continue
                if tx.feed(FeedKey(key)) is None:
                    raise RefusedError(
                        f"the log states feed {to_zbase32(key)}, and it is not in this store any more",
                        hint="holdfast recover fetch FILE... brings it back from a peer's export or a newer copy",
                    )
                self._held.add(key)
        self._searched = size

    def _check_key(self, descriptor: LogDescriptor) -> None:
        if self._signer.public_key != descriptor.key:
            raise RefusedError(f"the log's key is {descriptor.key.hex()}, this is {self._signer.public_key.hex()}")

    def _sign(self, descriptor: LogDescriptor, state: LogState) -> StoredCheckpoint:
        root = Frontier(state.size, state.frontier).root()
        origin = log_origin(descriptor, state.log_id)
        note = sign_checkpoint(self._signer, Checkpoint(origin, state.size, root))
        verify_checkpoint(note, origin, descriptor.key)
        return StoredCheckpoint(state.size, root, note)

    def _plan(self, tx: ReadTransaction, state: LogState) -> Plan:
        feeds = [feed for feed in tx.feeds() if feed.length]
        logged = self._look_back(tx, state.size, {feed.key for feed in feeds})
        histories = self._served(tx, state.log_id, logged)
        identities = tuple(
            _identity_head(history, logged.identities.get(identity)) for identity, history in histories.items()
        )
        heads: list[FeedHead] = []
        withheld: list[WithheldFeed] = []
        for feed in feeds:
            last = logged.feeds.get(feed.key)
            if last is not None:
                _check_extends(tx, feed, last)
                if feed.length == last.length:
                    continue
            manifest = parse_manifest(feed.manifest)
            description = describe(manifest)
            if description is None or description.identity not in histories:
                continue
            device = histories[description.identity].devices.get(manifest.signers[0].public_key)
            head, reason = _feed_head(tx, feed, device, 0 if last is None else last.length)
            if head is not None:
                heads.append(head)
            if reason is not None:
                withheld.append(WithheldFeed(feed.key, feed.length, reason))
        changed = bool(heads) or any(logged.identities.get(head.identity) != head for head in identities)
        return Plan(identities, tuple(heads), tuple(withheld), changed)

    def _served(self, tx: ReadTransaction, log_id: bytes, logged: _Logged) -> dict[bytes, KeyHistory]:
        """The identities that have bound the log, and those that it has stated before: a log never drops one."""
        histories = {}
        for identity in dict.fromkeys((*logged.identities, *tx.identities())):
            history = self._history(tx, identity)
            if identity in logged.identities or log_id in history.logs:
                histories[identity] = history
        return histories

    def _history(self, tx: ReadTransaction, identity: bytes) -> KeyHistory:
        events = tx.identity_events(identity)
        if not events:
            raise RefusedError(f"the log states identity {identity.hex()}, and this store has no event of it")
        known = tuple(event.digest for event in events)
        if known not in self._histories:
            self._histories = {key: value for key, value in self._histories.items() if key[0] != known[0]}
            self._histories[known] = fold([parse_signed_event(event.signed_event) for event in events])
        return self._histories[known]

    def _look_back(self, tx: ReadTransaction, size: int, wanted: set[FeedKey]) -> _Logged:
        """What the log states last, found from its end backwards and no further than to what is known already.

        Every checkpoint restates all identities, so they stand in the last run of identity leaves.
        """
        known = self._logged if self._logged.size <= size else _Logged()
        found = _Logged(size)
        missing = set(wanted)
        run_ended = False
        for index, leaf in _backwards(tx, size):
            if (run_ended and not missing) or (index < known.size and missing <= known.feeds.keys()):
                break
            key = feed_head_key(leaf)
            statement = parse_statement(leaf) if key in missing or (key is None and not run_ended) else None
            if isinstance(statement, FeedHead):
                found.feeds[statement.key] = statement
                missing.discard(FeedKey(statement.key))
            elif isinstance(statement, IdentityHead):
                found.identities.setdefault(statement.identity, statement)
            if not isinstance(statement, IdentityHead):
                run_ended = bool(found.identities)
        found.identities = found.identities or known.identities
        found.feeds.update({key: known.feeds.get(key) for key in missing})
        self._logged = found
        return found


def covered_lengths(tx: ReadTransaction, size: int, feeds: set[FeedKey]) -> dict[FeedKey, int]:
    """The lengths up to which the log's first ``size`` leaves cover these feeds; one that they do not name is left out.

    As ``covered_heads`` otherwise.
    """
    return {key: head.length for key, head in covered_heads(tx, size, feeds).items()}


def covered_heads(tx: ReadTransaction, size: int, feeds: set[FeedKey]) -> dict[FeedKey, FeedHead]:
    """The last head of each of these feeds in the log's first ``size`` leaves; one that they do not name is left out.

    Read from the end, no further than to the last head of each feed.
    """
    covered: dict[FeedKey, FeedHead] = {}
    missing = set(feeds)
    for _, leaf in _backwards(tx, size) if missing else ():
        key = feed_head_key(leaf)
        if key is None or FeedKey(key) not in missing:
            continue
        statement = parse_statement(leaf)
        assert isinstance(statement, FeedHead)
        covered[FeedKey(key)] = statement
        missing.discard(FeedKey(key))
        if not missing:
            break
    return covered


def _backwards(tx: ReadTransaction, size: int) -> Iterator[tuple[int, bytes]]:
    """The log's leaves but the descriptor, with their indices, from the end."""
    stop = size
    while stop > 1:
        start = max(1, stop - _CHUNK)
        leaves = list(tx.log_leaves(start, stop))
        yield from zip(range(stop - 1, start - 1, -1), reversed(leaves), strict=True)
        stop = start


def _identity_head(history: KeyHistory, last: IdentityHead | None) -> IdentityHead:
    """The head to state: the newest, or once more the last one when the identity has contradicted itself since."""
    if last is not None and history.duplicity is not None:
        return last
    if last is not None and all((seq, digest) != (last.seq, last.digest) for seq, digest, _ in history.events):
        raise RefusedError(
            f"the log states event {last.seq} of identity {last.identity.hex()}, and this store does not have it"
        )
    return IdentityHead(history.identity, history.seq, history.head)


def _feed_head(
    tx: ReadTransaction, feed: FeedState, device: Device | None, least: int
) -> tuple[FeedHead | None, WithheldReason | None]:
    """The head to log, if one longer than ``least`` may be, and why it is not the feed's newest, if it is not."""
    if device is None:
        return None, WithheldReason.UNKNOWN_DEVICE
    if device.revocation is None:
        return FeedHead(feed.key, feed.length, tree_hash(feed.roots)), None
    last_good = device.revocation.last_good.get(feed.key)
    if last_good is None:
        return None, WithheldReason.BEYOND_LAST_GOOD
    if last_good.length <= feed.length and _tree_hash_at(tx, feed, last_good.length) != last_good.tree_hash:
        return None, WithheldReason.OTHER_BRANCH
    withheld = WithheldReason.BEYOND_LAST_GOOD if feed.length > last_good.length else None
    newest = None
    for head in takewhile(lambda head: head.length <= last_good.length, tx.heads(feed.key, least)):
        newest = FeedHead(feed.key, head.length, head.tree_hash)
    return newest, withheld


def _check_extends(tx: ReadTransaction, feed: FeedState, last: FeedHead) -> None:
    if feed.length < last.length:
        raise RefusedError(
            f"the log states length {last.length} of feed {to_zbase32(feed.key)}, this store has {feed.length}",
            hint="the store is older than its log: holdfast recover fetch FILE... brings back what is missing",
        )
    if _tree_hash_at(tx, feed, last.length) != last.tree_hash:
        raise RefusedError(
            f"feed {to_zbase32(feed.key)} does not extend what the log states of it at length {last.length}"
        )


def _tree_hash_at(tx: ReadTransaction, feed: FeedState, length: int) -> bytes:
    if length == feed.length:
        return tree_hash(feed.roots)
    return stored_tree_hash(tx, feed.key, length)


def _check_witnesses(
    tx: ReadTransaction,
    state: LogState,
    descriptor: LogDescriptor,
    statements: Sequence[TimeStatement | AnchorStatement],
) -> None:
    """Each is about an earlier checkpoint, and neither in the log already nor given twice."""
    if not statements:
        return
    # A statement about a checkpoint stands behind it, so its double can't be any earlier.
    since = min(state.size, *(statement.size for statement in statements))
    stated = set(tx.log_leaves(since, state.size))
    for statement in statements:
        if isinstance(statement, AnchorStatement) and descriptor.chain is None:
            raise RefusedError("an anchor in a log whose descriptor names no chain")
        if tx.checkpoint(statement.size) is None:
            raise RefusedError(f"the log has no checkpoint of size {statement.size}")
        leaf = encode_statement(statement)
        if leaf in stated:
            raise RefusedError(f"the log already states this about checkpoint {statement.size}")
        stated.add(leaf)


def _in_order(statements: Sequence[Statement]) -> list[bytes]:
    """The leaves of a batch, in the order that the log's rules give them."""
    keyed = [(order_key(statement, leaf := encode_statement(statement)), leaf) for statement in statements]
    return [leaf for _, leaf in sorted(keyed)]

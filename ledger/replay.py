"""Replaying a complete checkpoint log: every leaf, in order, under every rule that the log must keep.

Implements docs/spec/checkpoint-log.md, section "Rules"; the numbers below are those of its list. ``LogReplay`` is given
the leaves one by one and each checkpoint's note after the leaves that it covers, and raises at the first one that no
honest log could contain:

    replay = LogReplay(expected_log_id)
    for record in records: replay.add_leaf(leaf) or replay.add_checkpoint(note)
    result = replay.finish()

Memory does not grow with the log but with what it speaks of: one head for each feed and identity, 8 bytes for each
checkpoint, a hash for each time or anchor statement.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NoReturn, Protocol

from identity.errors import LogRuleViolation, MalformedError, RootMismatch, VerificationError
from ledger.checkpoint import VerifiedCheckpoint, verify_checkpoint
from ledger.log import Frontier, hash_leaf
from ledger.statement import (
    AnchorStatement,
    FeedHead,
    IdentityHead,
    LogDescriptor,
    Statement,
    TimeStatement,
    log_origin,
    parse_statement,
)

__all__ = ["DigestSource", "LogReplay", "ReplayResult", "order_key"]


class DigestSource(Protocol):
    """Where a replay learns what feeds and identities hold, beyond what the log says of them."""

    def __call__(self, key: bytes, position: int, /) -> bytes | None:
        """For a feed key: the tree hash at that length. For an identity id: the digest of the event of that number.

        It must be recomputed from the feed's nodes or the events themselves. None when that feed, identity or position
        is not at hand.
        """


def _nothing_at_hand(_key: bytes, _position: int, /) -> bytes | None:
    return None


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What a complete log says, after every rule held. ``feeds`` and ``identities`` hold the last head of each.

    A head was *read* when it was compared with the feed or the events themselves, and only *chained* when it was
    checked against the log alone: then nothing shows that it extends the one before.
    """

    log_id: bytes
    descriptor: LogDescriptor
    checkpoints: int
    last: VerifiedCheckpoint
    feeds: Mapping[bytes, FeedHead]
    identities: Mapping[bytes, IdentityHead]
    feed_heads_read: int
    feed_heads_chained: int
    identity_heads_read: int
    identity_heads_chained: int


_RANKS: Final[dict[type[Statement], int]] = {
    LogDescriptor: 0,
    TimeStatement: 1,
    AnchorStatement: 2,
    IdentityHead: 3,
    FeedHead: 4,
}


def order_key(statement: Statement, leaf: bytes) -> tuple[int, bytes]:
    """Where the statement stands in its batch: leaves of one batch ascend by this, and no two are equal (rule 3)."""
    match statement:
        case IdentityHead(identity):
            place = identity
        case FeedHead(key):
            place = key
        case TimeStatement(size) | AnchorStatement(size):
            place = size.to_bytes(8, "big") + leaf
        case LogDescriptor():
            place = b""
    return _RANKS[type(statement)], place


class LogReplay:
    """One replay in progress. After an exception it must not be used any more."""

    def __init__(
        self,
        expected_log_id: bytes | None = None,
        *,
        tree_hash_at: DigestSource | None = None,
        event_digest_at: DigestSource | None = None,
        closed_at: int | None = None,
    ) -> None:
        """``expected_log_id`` None takes any log. ``closed_at`` is the size at which the chain holds the log as closed.

        What the two sources give is taken on trust.
        """
        self._expected_log_id = expected_log_id
        self._tree_hash_at = tree_hash_at or _nothing_at_hand
        self._event_digest_at = event_digest_at or _nothing_at_hand
        self._closed_at = closed_at
        self._frontier = Frontier()
        self._descriptor: LogDescriptor | None = None
        self._log_id = b""
        self._feeds: dict[bytes, FeedHead] = {}
        self._identities: dict[bytes, IdentityHead] = {}
        self._sizes = array("Q")
        self._stated: set[bytes] = set()
        self._last: VerifiedCheckpoint | None = None
        self._last_key = (-1, b"")
        self._restated = 0
        self._read = {FeedHead: 0, IdentityHead: 0}
        self._chained = {FeedHead: 0, IdentityHead: 0}

    @property
    def size(self) -> int:
        """Leaves so far."""
        return self._frontier.size

    @property
    def descriptor(self) -> LogDescriptor | None:
        """Leaf 0, once it was added."""
        return self._descriptor

    @property
    def log_id(self) -> bytes:
        """The hash of leaf 0, empty before it was added."""
        return self._log_id

    def add_leaf(self, leaf: bytes) -> Statement:
        """Add the next leaf. Raises ``LogRuleViolation``, ``MalformedError`` when it is no statement."""
        statement = parse_statement(leaf)
        digest = hash_leaf(leaf)
        if isinstance(statement, LogDescriptor) != (self.size == 0):
            self._refuse("leaf 0 and no other is the log's descriptor")
        key = order_key(statement, leaf)
        if key <= self._last_key:
            self._refuse("out of order, or twice, within its checkpoint")
        match statement:
            case LogDescriptor():
                self._accept_descriptor(statement, digest)
            case TimeStatement() | AnchorStatement():
                if isinstance(statement, AnchorStatement) and self._descriptor and self._descriptor.chain is None:
                    self._refuse("an anchor in a log whose descriptor names no chain")
                self._accept_witness(statement, digest)
            case IdentityHead():
                self._accept_identity(statement)
            case FeedHead():
                self._accept_feed(statement)
        self._last_key = key
        self._frontier.append(digest)
        return statement

    def add_checkpoint(self, note: str) -> VerifiedCheckpoint:
        """Verify the checkpoint over everything added so far, and begin the next batch.

        Raises ``LogRuleViolation``, ``RootMismatch``, ``SignatureMismatch``, ``MalformedError``.
        """
        if self._descriptor is None:
            raise MalformedError("log: a checkpoint before the descriptor")
        checkpoint = verify_checkpoint(note, log_origin(self._descriptor, self._log_id), self._descriptor.key)
        if checkpoint.size != self.size:
            self._refuse(f"a checkpoint of size {checkpoint.size} stands after {self.size} leaves")
        if self._sizes and checkpoint.size == self._sizes[-1]:
            self._refuse("a second checkpoint of the same size")
        root = self._frontier.root()
        if checkpoint.root != root:
            raise RootMismatch(f"checkpoint {checkpoint.size}", expected=checkpoint.root, computed=root)
        if not self._identities or self._restated != len(self._identities):
            self._refuse(f"the checkpoint states {self._restated} of the log's {len(self._identities)} identities")
        if self._closed_at is not None and checkpoint.size > self._closed_at:
            self._refuse(f"the log was closed on chain at size {self._closed_at}")
        self._sizes.append(checkpoint.size)
        self._last, self._last_key, self._restated = checkpoint, (-1, b""), 0
        return checkpoint

    def finish(self) -> ReplayResult:
        """The result, when the log ends with a checkpoint; else ``LogRuleViolation``."""
        if self._descriptor is None or self._last is None or self._last.size != self.size:
            self._refuse("the log does not end with a checkpoint")
        return ReplayResult(
            log_id=self._log_id,
            descriptor=self._descriptor,
            checkpoints=len(self._sizes),
            last=self._last,
            feeds=MappingProxyType(self._feeds),
            identities=MappingProxyType(self._identities),
            feed_heads_read=self._read[FeedHead],
            feed_heads_chained=self._chained[FeedHead],
            identity_heads_read=self._read[IdentityHead],
            identity_heads_chained=self._chained[IdentityHead],
        )

    def _accept_descriptor(self, descriptor: LogDescriptor, digest: bytes) -> None:
        if self._expected_log_id is not None and digest != self._expected_log_id:
            raise VerificationError(f"log {digest.hex()}, not {self._expected_log_id.hex()}")
        self._descriptor, self._log_id = descriptor, digest

    def _accept_witness(self, statement: TimeStatement | AnchorStatement, digest: bytes) -> None:
        position = bisect_left(self._sizes, statement.size)
        if position == len(self._sizes) or self._sizes[position] != statement.size:
            self._refuse(f"{statement.size} is not the size of an earlier checkpoint")
        if digest in self._stated:
            self._refuse("the same statement stands in the log already")
        self._stated.add(digest)

    def _accept_identity(self, head: IdentityHead) -> None:
        last = self._identities.get(head.identity)
        if last is not None and head.seq < last.seq:
            self._refuse(f"identity {head.identity.hex()} goes back from event {last.seq} to {head.seq}")
        if last is not None and head.seq == last.seq and head.digest != last.digest:
            self._refuse(f"identity {head.identity.hex()} has another event {head.seq} than before")
        self._compare(head, self._event_digest_at(head.identity, head.seq), head.digest)
        self._identities[head.identity] = head
        self._restated += 1

    def _accept_feed(self, head: FeedHead) -> None:
        last = self._feeds.get(head.key)
        if last is not None and head.length < last.length:
            self._refuse(f"feed {head.key.hex()} goes back from length {last.length} to {head.length}")
        if last is not None and head.length == last.length:
            what = "is stated again" if head.tree_hash == last.tree_hash else "has another tree than before"
            self._refuse(f"feed {head.key.hex()} {what} at length {head.length}")
        self._compare(head, self._tree_hash_at(head.key, head.length), head.tree_hash)
        self._feeds[head.key] = head

    def _compare(self, head: FeedHead | IdentityHead, held: bytes | None, stated: bytes) -> None:
        if held is None:
            self._chained[type(head)] += 1
            return
        if held != stated:
            what = "feed" if isinstance(head, FeedHead) else "identity"
            self._refuse(f"the log states {stated.hex()}, the {what} itself holds {held.hex()}")
        self._read[type(head)] += 1

    def _refuse(self, reason: str) -> NoReturn:
        raise LogRuleViolation(self.size, reason)

"""Bringing back what a store has lost, from what others hold: leaves and checkpoints of its own log, and its feeds.

Implements docs/spec/rollback.md, section "Ways out". Everything happens in one transaction of the caller, who commits
only after ``verify_recovered`` has replayed the whole log with what was brought back: nothing is stored on trust.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from identity.errors import DamagedFile, MalformedError, VerificationError
from identity.event import SignedEvent, event_digest, parse_event, parse_signed_event
from ledger.checkpoint import verify_checkpoint
from ledger.completeness import Shortfall, find_shortfalls
from ledger.identities import add_events
from ledger.log import append_to_frontier, hash_leaf
from ledger.log_transfer import EventRecord, LeafRecord, LogRecord, NoteRecord, audit_log, feeds_at_hand, log_records
from ledger.statement import LogDescriptor, log_origin, parse_statement
from ledger.store import LogState, ReadTransaction, StoredCheckpoint, WriteTransaction

__all__ = ["ExtendedLog", "extend_log", "verify_recovered"]

_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class ExtendedLog:
    """The log was of ``start`` leaves and is of ``size`` now."""

    start: int
    size: int


def extend_log(tx: WriteTransaction, records: Iterable[LogRecord]) -> ExtendedLog:
    """Add to the store's log what a longer copy of it has, and the identity events that it speaks of.

    The store's leaves must be the first of that copy. A copy that is not longer adds nothing. Raises
    ``VerificationError`` for another log or another history of this one, ``MalformedError`` for what is no log. Whether
    what was added keeps the log's rules is for ``verify_recovered``.
    """
    state = tx.log()
    if state is None:
        raise VerificationError("this store has no checkpoint log to extend")
    extending = _Extending(tx, state)
    events: dict[bytes, list[SignedEvent]] = {}
    for record in records:
        match record:
            case EventRecord(signed_event):
                signed = parse_signed_event(signed_event)
                identity = parse_event(signed.event).identity or event_digest(signed.event)
                events.setdefault(identity, []).append(signed)
            case LeafRecord(leaf):
                extending.take_leaf(leaf)
            case NoteRecord(note):
                extending.take_note(note)
    for identity, signed_events in events.items():
        add_events(tx, identity, signed_events)
    return ExtendedLog(state.size, extending.state.size)


class _Extending:
    """A copy of the log, compared leaf by leaf with what is here, and added where it goes beyond that."""

    def __init__(self, tx: WriteTransaction, state: LogState) -> None:
        self._tx = tx
        self._descriptor = _descriptor(tx)
        self._origin = log_origin(self._descriptor, state.log_id)
        self._held = _leaves(tx, state.size)
        self._index = 0
        self._batch: list[bytes] = []
        self.state = state

    def take_leaf(self, leaf: bytes) -> None:
        held = next(self._held, None)
        if held is None:
            self._batch.append(leaf)
        elif self._index == 0 and hash_leaf(leaf) != self.state.log_id:
            raise VerificationError(f"this is log {hash_leaf(leaf).hex()}, not {self.state.log_id.hex()}")
        elif held != leaf:
            raise VerificationError(f"another history of this log: leaf {self._index} is not the one that is here")
        self._index += 1

    def take_note(self, note: str) -> None:
        if not self._batch:
            return
        moved, _ = append_to_frontier(self.state, self._batch)
        self._tx.append_leaves(self.state, moved, self._batch)
        checkpoint = verify_checkpoint(note, self._origin, self._descriptor.key)
        if checkpoint.size != moved.size:
            raise MalformedError(f"log: a checkpoint of size {checkpoint.size} stands after {moved.size} leaves")
        self._tx.add_checkpoint(StoredCheckpoint(checkpoint.size, checkpoint.root, note))
        self.state, self._batch = moved, []


def _descriptor(tx: ReadTransaction) -> LogDescriptor:
    descriptor = parse_statement(next(iter(tx.log_leaves(0, 1))))
    if not isinstance(descriptor, LogDescriptor):
        raise DamagedFile("leaf 0 of this store's log is not a descriptor")
    return descriptor


def _leaves(tx: ReadTransaction, size: int) -> Iterator[bytes]:
    """The store's own leaves, read so many at a time because writing comes after them."""
    for start in range(0, size, _CHUNK):
        yield from list(tx.log_leaves(start, min(size, start + _CHUNK)))


def verify_recovered(tx: ReadTransaction) -> list[Shortfall]:
    """Replay the whole log against the feeds that are here. Returns the feeds that it still states longer.

    Raises what ``audit_log`` raises when a rule does not hold or a signature is not the log's.
    """
    if next(tx.checkpoints(), None) is None:
        return []
    found = audit_log(log_records(tx), tree_hash_at=feeds_at_hand(tx))
    return find_shortfalls(tx, found.replay.feeds)

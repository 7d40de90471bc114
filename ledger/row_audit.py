"""Auditing the rows that a store keeps beside feeds and statements, and that nothing else reads as a whole.

A replay shows that the log's leaves and notes hold. It does not read what evidence is made with: the stored hashes of
the log, the roots beside the notes, and the signed heads that the log states. Whoever alters or deletes one of those
makes proofs fail, or an entry unprovable, while every leaf still holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from identity.errors import DamagedFile, MalformedError, MissingEvidenceError, VerificationError
from identity.event import parse_event
from identity.history import event_digest, parse_signed_event
from ledger.checkpoint import parse_checkpoint, parse_note
from ledger.lineage import find_successor
from ledger.log import Frontier, hash_leaf
from ledger.statement import FeedHead, parse_statement
from ledger.store import FeedKey, ReadTransaction, StoredCheckpoint

__all__ = ["going_on", "head_faults", "row_faults"]


def going_on(checks: Iterable[Callable[[], Iterable[str]]]) -> Iterator[str]:
    """What the checks find, one after the other. What one of them cannot even read is a fault too; the next goes on."""
    for check in checks:
        try:
            yield from check()
        except (DamagedFile, MalformedError, MissingEvidenceError, VerificationError) as exc:
            yield str(exc)


def row_faults(tx: ReadTransaction) -> Iterator[str]:
    """What does not hold about the rows of log, checkpoints, logged heads, feeds and identity events, a sentence each.

    Raises ``StorageError`` when the store cannot be read at all.
    """
    return going_on((lambda: _log_faults(tx), lambda: _feed_faults(tx), lambda: _identity_faults(tx)))


def _feed_faults(tx: ReadTransaction) -> Iterator[str]:
    for feed in tx.feeds():
        successor = None if feed.retired else find_successor(tx, feed.key)
        if successor is not None:
            yield f"feed {feed.key.hex()}: it is not marked as retired, and feed {successor.key.hex()} continues it"


def _identity_faults(tx: ReadTransaction) -> Iterator[str]:
    for identity in tx.identities():
        for event in tx.identity_events(identity):
            signed = parse_signed_event(event.signed_event)
            if (event.seq, event.digest) != (parse_event(signed.event).seq, event_digest(signed.event)):
                yield f"identity event {event.seq}: its number or digest is not that of the event in the row"


def _log_faults(tx: ReadTransaction) -> Iterator[str]:
    state = tx.log()
    if state is None:
        return
    checkpoints = {checkpoint.size: checkpoint for checkpoint in tx.checkpoints()}
    if state.size > 1 and state.size not in checkpoints:  # leaves and their checkpoint are written together
        yield f"log: the checkpoint of its {state.size} leaves is gone"
    frontier = Frontier()
    for index, leaf in enumerate(tx.log_leaves(0, state.size)):
        for level, place, digest in frontier.append(hash_leaf(leaf)):
            if _stored_hash(tx, level, place) != digest:
                yield f"log leaf {index}: the stored hash of level {level} is not that of the leaves"
        statement = parse_statement(leaf)
        if isinstance(statement, FeedHead):
            yield from head_faults(tx, index, statement)
        checkpoint = checkpoints.pop(frontier.size, None)
        if checkpoint is not None and _stated(checkpoint) != (frontier.size, frontier.root()):
            yield f"checkpoint {frontier.size}: the root beside the note is not that of the leaves"
    if frontier.peaks != state.frontier:
        yield f"log: the stored frontier is not that of its {state.size} leaves: the next checkpoint would be wrong"
    for size in checkpoints:
        yield f"checkpoint {size}: the log has {state.size} leaves"


def _stored_hash(tx: ReadTransaction, level: int, index: int) -> bytes | None:
    try:
        return tx.log_node(level, index)
    except DamagedFile:
        return None


def _stated(checkpoint: StoredCheckpoint) -> tuple[int, bytes] | None:
    """What row and note say of size and root; None when they differ. The note's signature is for the replay."""
    try:
        noted = parse_checkpoint(parse_note(checkpoint.note).text)
    except MalformedError:
        return None
    stated = (checkpoint.size, checkpoint.root)
    return stated if stated == (noted.size, noted.root) else None


def head_faults(tx: ReadTransaction, index: int, stated: FeedHead) -> Iterator[str]:
    """The signed head that a leaf states must be here. A feed that is shorter is a shortfall, and reported as one."""
    key = FeedKey(stated.key)
    feed = tx.feed(key)
    if feed is None or feed.length < stated.length:
        return
    head = tx.head(key, stated.length)
    if head is None:
        yield f"log leaf {index}: the signed head of length {stated.length} that it states is gone"
    elif head.tree_hash != stated.tree_hash:
        yield f"log leaf {index}: the signed head of length {stated.length} is another than it states"

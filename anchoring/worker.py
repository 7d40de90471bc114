"""One round of anchoring: the newest checkpoint is timestamped and put on its way to the chain; open anchors move on.

Everything a round does is durable by itself and found again by the next one, so a round may be stopped anywhere. An
authority or a node that fails stops nothing but its own part; what failed stands in the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from anchoring.chain.client import Chain
from anchoring.chain.outbox import AnchorChange, AnchorTarget, OutboxPolicy, advance, enqueue
from anchoring.chain.transactions import TransactionSigner
from anchoring.storage import StoredTimestamp, add_timestamp, load_anchors, load_timestamps
from anchoring.tsa.source import AcquiredToken, TimestampSource
from identity.errors import (
    AuditError,
    ConflictError,
    MissingEvidenceError,
    RefusedError,
    TransportError,
    VerificationError,
)
from ledger.checkpoint import imprint_message
from ledger.statement import LogDescriptor, log_origin
from ledger.storage.sql import SqlStore
from ledger.store import StoredCheckpoint

__all__ = ["AnchorSender", "Failure", "Round", "run_round"]


@dataclass(frozen=True, slots=True)
class AnchorSender:
    """What sending anchors takes: the chain, the key that pays, where the log is anchored, and what it may cost."""

    chain: Chain
    signer: TransactionSigner
    target: AnchorTarget
    policy: OutboxPolicy = field(default_factory=OutboxPolicy)


@dataclass(frozen=True, slots=True)
class Failure:
    """A part of a round that did not succeed; it is tried again in the next one."""

    what: str
    error: AuditError


@dataclass(frozen=True, slots=True)
class Round:
    """What a round did for the checkpoint of ``size``: tokens by the source's name, and steps of anchors."""

    size: int
    tokens: dict[str, AcquiredToken]
    changes: list[AnchorChange]
    failures: list[Failure]


def run_round(
    store: SqlStore,
    log_id: bytes,
    descriptor: LogDescriptor,
    sources: Sequence[TimestampSource],
    sender: AnchorSender | None,
    now_ms: int,
) -> Round:
    """Timestamp and anchor the newest checkpoint. Raises ``MissingEvidenceError`` when there is none."""
    with store.read() as tx:
        checkpoints = list(tx.checkpoints())
        if not checkpoints:
            raise MissingEvidenceError("there is no checkpoint yet", hint="run 'holdfast checkpoint create' first")
        newest = checkpoints[-1]
        held = {stored.authority for stored in load_timestamps(tx.connection, newest.size)}
    done = Round(newest.size, {}, [], [])
    message = imprint_message(newest.note, log_origin(descriptor, log_id), descriptor.key)
    for source in sources:
        if source.name not in held:
            _timestamp(store, source, newest, message, now_ms, done)
    if sender is not None:
        _anchor(store, sender, newest, now_ms, done)
    return done


def _timestamp(
    store: SqlStore, source: TimestampSource, checkpoint: StoredCheckpoint, message: bytes, now_ms: int, done: Round
) -> None:
    try:
        token = source.acquire(message, now_ms)
    except (TransportError, VerificationError, MissingEvidenceError) as exc:
        done.failures.append(Failure(source.name, exc))
        return
    with store.write() as tx:
        add_timestamp(
            tx.connection,
            StoredTimestamp(
                size=checkpoint.size,
                authority=source.name,
                response=token.evidence.response,
                certificates=token.evidence.certificates,
                crls=token.evidence.crls,
                ocsps=token.evidence.ocsps,
                gen_time_ms=token.verified.gen_time_ms,
                acquired_ms=now_ms,
            ),
        )
    done.tokens[source.name] = token


def _anchor(store: SqlStore, sender: AnchorSender, checkpoint: StoredCheckpoint, now_ms: int, done: Round) -> None:
    with store.read() as tx:
        known = {anchor.size for anchor in load_anchors(tx.connection)}
    try:
        if checkpoint.size not in known:
            with store.write() as tx:
                enqueue(tx, checkpoint.size, checkpoint.root, now_ms)
        done.changes.extend(advance(store, sender.chain, sender.signer, sender.target, now_ms, sender.policy))
    except (TransportError, VerificationError, ConflictError, RefusedError) as exc:
        done.failures.append(Failure(f"chain {sender.target.chain_id}", exc))

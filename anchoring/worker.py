"""One round of anchoring: the newest checkpoint is timestamped and put on its way to the chain; open anchors move on.

Everything a round does is durable by itself and found again by the next one, so a round may be stopped anywhere. An
authority or a node that fails stops nothing but its own part; what failed stands in the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from anchoring.chain.agreement import HeaderCheck
from anchoring.chain.client import Chain
from anchoring.chain.outbox import AnchorChange, AnchorTarget, OutboxPolicy, advance, enqueue
from anchoring.chain.transactions import TransactionSigner
from anchoring.storage import StoredTimestamp, add_timestamp, find_anchor, load_timestamps
from anchoring.timestamp import TimestampEvidence
from anchoring.timestamp.standing import token_standing
from anchoring.tsa.backoff import Trouble
from anchoring.tsa.pool import PoolPolicy, ask_pool
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
from ledger.store import StoredCheckpoint, newest_checkpoint

__all__ = ["AnchorSender", "Failure", "Round", "run_round"]


@dataclass(frozen=True, slots=True)
class AnchorSender:
    """What sending anchors takes: the chain, the key that pays, where the log is anchored, and what it may cost.

    ``agree`` asks other nodes before anything becomes irrevocable; None where there are none.
    """

    chain: Chain
    signer: TransactionSigner
    target: AnchorTarget
    policy: OutboxPolicy = field(default_factory=OutboxPolicy)
    agree: HeaderCheck | None = None

    @property
    def name(self) -> str:
        """What failures of this part are called."""
        return f"chain {self.target.chain_id}"


@dataclass(frozen=True, slots=True)
class Failure:
    """A part of a round that did not succeed; it is tried again in the next one, an authority after a while."""

    what: str
    error: AuditError
    by_authority: bool = False


@dataclass(frozen=True, slots=True)
class Round:
    """What a round did for the checkpoint of ``size``: tokens by the source's name, and steps of anchors.

    ``authorities`` independent ones have stamped it by now, and ``wanted`` are; ``backed_off`` are those that were not
    asked, because they failed lately; ``troubles`` is what the next round is to be given.
    """

    size: int
    tokens: dict[str, AcquiredToken]
    changes: list[AnchorChange]
    failures: list[Failure]
    authorities: int = 0
    wanted: int = 0
    backed_off: dict[str, Trouble] = field(default_factory=dict)
    troubles: dict[str, Trouble] = field(default_factory=dict)

    @property
    def succeeded(self) -> bool:
        """Whether enough authorities have stamped the checkpoint, and nothing failed on the way to the chain."""
        return self.authorities >= self.wanted and all(failure.by_authority for failure in self.failures)


def run_round(
    store: SqlStore,
    log_id: bytes,
    descriptor: LogDescriptor,
    sources: Sequence[TimestampSource],
    sender: AnchorSender | None,
    now_ms: int,
    *,
    pool: PoolPolicy | None = None,
    troubles: Mapping[str, Trouble] | None = None,
    go_on: Callable[[], bool] | None = None,
) -> Round:
    """Timestamp and anchor the newest checkpoint. Raises ``MissingEvidenceError`` when there is none.

    ``pool`` says how many authorities are wanted and how they are asked, ``troubles`` which of them failed lately.
    ``go_on`` is asked before each step: when it says no, the round ends there, and the next one goes on.
    """
    pool, may_go_on = pool or PoolPolicy(), go_on or _always
    with store.read() as tx:
        newest = newest_checkpoint(tx)
        if newest is None:
            raise MissingEvidenceError("there is no checkpoint yet", hint="run 'holdfast checkpoint create' first")
        stored = load_timestamps(tx.connection, newest.size)
    known = [source.authority for source in sources]
    standings = [token_standing(_evidence(token), known) for token in stored]
    held, names = {token.authority for token in stored}, {source.name for source in sources}
    asked = ask_pool(
        [source for source in sources if source.name not in held],
        imprint_message(newest.note, log_origin(descriptor, log_id), descriptor.key),
        now_ms,
        pool,
        held=[standing.keys for standing in standings if standing is not None],
        troubles={name: trouble for name, trouble in (troubles or {}).items() if name in names},
        keep=partial(_keep_token, store, newest.size, now_ms),
        go_on=may_go_on,
    )
    done = Round(
        newest.size,
        asked.tokens,
        [],
        [Failure(name, error, by_authority=True) for name, error in asked.failures.items()],
        authorities=asked.authorities,
        wanted=pool.k if sources else 0,
        backed_off=asked.backed_off,
        troubles=asked.troubles,
    )
    if sender is not None and may_go_on():
        _anchor(store, sender, newest, now_ms, done, may_go_on)
    return done


def _always() -> bool:
    return True


def _evidence(stored: StoredTimestamp) -> TimestampEvidence:
    return TimestampEvidence(stored.response, stored.certificates, stored.crls, stored.ocsps)


def _keep_token(store: SqlStore, size: int, now_ms: int, name: str, token: AcquiredToken) -> None:
    with store.write() as tx:
        add_timestamp(
            tx.connection,
            StoredTimestamp(
                size=size,
                authority=name,
                response=token.evidence.response,
                certificates=token.evidence.certificates,
                crls=token.evidence.crls,
                ocsps=token.evidence.ocsps,
                gen_time_ms=token.verified.gen_time_ms,
                acquired_ms=now_ms,
            ),
        )


def _anchor(
    store: SqlStore,
    sender: AnchorSender,
    checkpoint: StoredCheckpoint,
    now_ms: int,
    done: Round,
    go_on: Callable[[], bool],
) -> None:
    with store.read() as tx:
        known = find_anchor(tx.connection, checkpoint.size)
    try:
        if known is None:
            with store.write() as tx:
                enqueue(tx, checkpoint.size, checkpoint.root, now_ms)
        advance(
            store,
            sender.chain,
            sender.signer,
            sender.target,
            now_ms,
            sender.policy,
            agree=sender.agree,
            go_on=go_on,
            on_change=done.changes.append,
        )
    except (TransportError, VerificationError, ConflictError, RefusedError) as exc:
        done.failures.append(Failure(sender.name, exc))

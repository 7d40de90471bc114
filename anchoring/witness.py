"""From what anchoring has archived to what the log states about it, and to what evidence shows of it.

Tokens and final anchors are stated by the next checkpoint after they came (docs/spec/checkpoint-log.md: ``time`` and
``anchor``). What is older than the newest one stated is not stated any more: it would only say later what is known
better.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache, partial
from hashlib import sha256

from sqlalchemy import Connection

from anchoring.exporter import Archive
from anchoring.receipt import AnchorReceipt, receipt_digest
from anchoring.stamps import take_at_its_word
from anchoring.storage import AnchorState, load_anchors, load_receipt, load_timestamps
from anchoring.timestamp import Authority, TimestampEvidence
from anchoring.timestamp.standing import token_standing
from ledger.statement import AnchorStatement, Statement, TimeStatement, parse_statement
from ledger.storage.sql import SqlReadTransaction
from ledger.store import ReadTransaction

__all__ = ["open_archive", "pending_witnesses", "time_statement", "tokens_of"]

_CHUNK = 1024


def open_archive(tx: SqlReadTransaction, authorities: Sequence[Authority] = (), k: int = 1) -> Archive:
    """The archived tokens and final receipts, as the exporter reads them; each is read once in the transaction.

    ``authorities`` and ``k`` are those of the policy that the evidence is meant for. Without authorities every token
    is taken at its word.
    """
    connection = tx.connection
    final = {anchor.size: anchor for anchor in load_anchors(connection, AnchorState.FINAL)}

    @cache
    def receipt(size: int) -> AnchorReceipt | None:
        return load_receipt(connection, final[size]) if size in final else None

    @cache
    def timestamps(size: int) -> list[TimestampEvidence]:
        return tokens_of(connection, size)

    judge = partial(token_standing, authorities=authorities) if authorities else take_at_its_word
    return Archive(timestamps, receipt, judge, k)


def pending_witnesses(tx: SqlReadTransaction) -> tuple[list[TimeStatement], list[AnchorStatement]]:
    """The statements that the next checkpoint is to make about tokens and anchors that came since the last."""
    state = tx.log()
    if state is None:
        return [], []
    sizes = [checkpoint.size for checkpoint in tx.checkpoints()]
    anchors = load_anchors(tx.connection, AnchorState.FINAL)
    last_time = _last_stated(tx, state.size, TimeStatement)
    last_anchor = _last_stated(tx, state.size, AnchorStatement) if anchors else 0
    times = [
        time_statement(size, tokens)
        for size in sizes
        if size > last_time and (tokens := tokens_of(tx.connection, size))
    ]
    statements = []
    for anchor in anchors:
        receipt = load_receipt(tx.connection, anchor) if anchor.size > last_anchor else None
        if receipt is not None and anchor.block_hash is not None and anchor.block_number is not None:
            statements.append(
                AnchorStatement(anchor.size, anchor.block_hash, anchor.block_number, receipt_digest(receipt))
            )
    return times, statements


def time_statement(size: int, tokens: Sequence[TimestampEvidence]) -> TimeStatement:
    """What the log says about the tokens of the checkpoint of ``size``: the digests of all that came with them."""
    return TimeStatement(
        size=size,
        responses=_digests(token.response for token in tokens),
        certificates=_digests(item for token in tokens for item in token.certificates),
        crls=_digests(item for token in tokens for item in token.crls),
        ocsps=_digests(item for token in tokens for item in token.ocsps),
    )


def tokens_of(connection: Connection, size: int) -> list[TimestampEvidence]:
    """The archived tokens of the checkpoint of ``size``, in the order they were acquired."""
    return [
        TimestampEvidence(stored.response, stored.certificates, stored.crls, stored.ocsps)
        for stored in load_timestamps(connection, size)
    ]


def _last_stated(tx: ReadTransaction, size: int, kind: type[TimeStatement | AnchorStatement]) -> int:
    """The size that the newest statement of that kind is about, 0 for none: found looking back from the end."""
    stop = size
    while stop > 0:
        start = max(0, stop - _CHUNK)
        for leaf in reversed(list(tx.log_leaves(start, stop))):
            statement: Statement = parse_statement(leaf)
            if isinstance(statement, kind):
                return statement.size
        stop = start
    return 0


def _digests(items: Iterable[bytes]) -> tuple[bytes, ...]:
    return tuple(sorted({sha256(item).digest() for item in items}))

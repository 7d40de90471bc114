"""From what anchoring has archived to what the log states about it, and to what evidence shows of it.

Tokens and final anchors are stated by the next checkpoint after they came (docs/spec/checkpoint-log.md: ``time`` and
``anchor``). What is older than the newest one stated is not stated any more: it would only say later what is known
better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from hashlib import sha256

from sqlalchemy import Connection

from anchoring.exporter import Archive
from anchoring.receipt import AnchorReceipt, receipt_digest
from anchoring.stamps import take_at_its_word
from anchoring.storage import (
    AnchorState,
    find_anchor,
    load_anchors,
    load_receipt,
    load_timestamps,
    newest_final_anchor,
    newest_token_size,
    timestamped_sizes,
)
from anchoring.timestamp import Authority, TimestampEvidence
from anchoring.timestamp.standing import token_standing
from ledger.statement import AnchorStatement, TimeStatement, parse_statement
from ledger.storage.sql import SqlReadTransaction
from ledger.store import ReadTransaction

__all__ = ["open_archive", "pending_witnesses", "time_statement", "tokens_of"]


def open_archive(tx: SqlReadTransaction, authorities: Sequence[Authority] = (), k: int = 1) -> Archive:
    """The archived tokens and final receipts, as the exporter reads them; each is read once in the transaction.

    ``authorities`` and ``k`` are those of the policy that the evidence is meant for. Without authorities every token
    is taken at its word.
    """
    connection = tx.connection
    final = {anchor.size: anchor for anchor in load_anchors(connection, AnchorState.FINAL)}
    stamped = timestamped_sizes(connection)  # most checkpoints of a long log have no token, and each is asked about

    @cache
    def receipt(size: int) -> AnchorReceipt | None:
        return load_receipt(connection, final[size]) if size in final else None

    @cache
    def timestamps(size: int) -> list[TimestampEvidence]:
        return tokens_of(connection, size) if size in stamped else []

    judge = partial(token_standing, authorities=authorities) if authorities else take_at_its_word
    return Archive(timestamps, receipt, judge, k)


def pending_witnesses(tx: SqlReadTransaction) -> tuple[list[TimeStatement], list[AnchorStatement]]:
    """The statements that the next checkpoint is to make about tokens and anchors that came since the last.

    Costs what is new: the archive is walked from its newest token and anchor down, and the log no further than to the
    checkpoint that each of them is about.
    """
    connection = tx.connection

    def next_token(below: int | None) -> int | None:
        return newest_token_size(connection, below=below)

    def next_anchor(below: int | None) -> int | None:
        anchor = newest_final_anchor(connection, below=below)
        return None if anchor is None else anchor.size

    times = [time_statement(size, tokens_of(connection, size)) for size in _unstated(tx, TimeStatement, next_token)]
    anchors = [_anchor_statement(connection, size) for size in _unstated(tx, AnchorStatement, next_anchor)]
    return times, [statement for statement in anchors if statement is not None]


def _anchor_statement(connection: Connection, size: int) -> AnchorStatement | None:
    anchor = find_anchor(connection, size)
    assert anchor is not None
    receipt = load_receipt(connection, anchor)
    if receipt is None or anchor.block_hash is None or anchor.block_number is None:
        return None
    return AnchorStatement(size, anchor.block_hash, anchor.block_number, receipt_digest(receipt))


def _unstated(
    tx: ReadTransaction,
    kind: type[TimeStatement | AnchorStatement],
    next_below: Callable[[int | None], int | None],
) -> list[int]:
    """The sizes, smallest first, that something came for and that are larger than what the log states newest.

    ``next_below`` gives the largest size that something came for, below another or at all. What the log states about a
    size stands behind it, so the leaves behind the largest size are looked at first.
    """
    state = tx.log()
    if state is None:
        return []
    unstated: list[int] = []
    stop = state.size
    while (size := next_below(unstated[0] if unstated else None)) is not None:
        stated = _newest_stated(tx, size, stop, kind)
        if stated is not None and stated >= size:
            break
        unstated.insert(0, size)
        if stated is not None:
            unstated[:0] = _between(stated, size, next_below)
            break
        stop = size
    return unstated


def _between(stated: int, size: int, next_below: Callable[[int | None], int | None]) -> list[int]:
    """The sizes between what is stated and ``size``, smallest first."""
    found: list[int] = []
    below = next_below(size)
    while below is not None and below > stated:
        found.insert(0, below)
        below = next_below(below)
    return found


def _newest_stated(
    tx: ReadTransaction, start: int, stop: int, kind: type[TimeStatement | AnchorStatement]
) -> int | None:
    """The size that the last statement of that kind in leaves ``start`` to ``stop`` - 1 is about, or None.

    Time and anchor statements are the first leaves of a checkpoint, so only these are read. ``start`` and ``stop`` are
    sizes of checkpoints, or of the log.
    """
    begins = [start, *(checkpoint.size for checkpoint in tx.checkpoints(start) if checkpoint.size < stop)]
    for begin, end in zip(reversed(begins), reversed([*begins[1:], stop]), strict=True):
        found = None
        for leaf in tx.log_leaves(begin, end):
            statement = parse_statement(leaf)
            if not isinstance(statement, (TimeStatement, AnchorStatement)):
                break
            found = statement.size if isinstance(statement, kind) else found
        if found is not None:
            return found
    return None


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


def _digests(items: Iterable[bytes]) -> tuple[bytes, ...]:
    return tuple(sorted({sha256(item).digest() for item in items}))

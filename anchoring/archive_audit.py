"""Auditing what anchoring has archived in a store: tokens, what came with them, anchors and their receipts.

Evidence is made of these, years later. The log names them by their digests from the next checkpoint on, so what was
altered or deleted since shows. What came after the last checkpoint is held against what it claims to be about, and a
token of an authority that the home's policy names is verified.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256

from anchoring.outbox_audit import closing_faults, outbox_faults
from anchoring.receipt import receipt_digest, verify_receipt
from anchoring.storage import (
    AnchorState,
    StoredAnchor,
    StoredTimestamp,
    load_anchors,
    load_receipt,
    load_timestamps,
    unattached_rows,
)
from anchoring.timestamp import Authority, TimestampEvidence, match_authority, parse_response, verify_token
from anchoring.witness import time_statement, tokens_of
from identity.errors import AuditError, DamagedFile
from ledger.checkpoint import imprint_message
from ledger.log import root_at
from ledger.row_audit import going_on
from ledger.statement import (
    AnchorStatement,
    ChainBinding,
    LogDescriptor,
    TimeStatement,
    log_origin,
    parse_statement,
)
from ledger.storage.sql import SqlReadTransaction
from ledger.store import LogState

__all__ = ["archive_faults", "unjudged_tokens"]


def archive_faults(tx: SqlReadTransaction, code_hash: bytes, authorities: Sequence[Authority] = ()) -> Iterator[str]:
    """What does not hold about the archive, each in a sentence.

    ``code_hash`` is as ``verify_receipt`` takes it, ``authorities`` are those of the home's policy,
    if it has one. Raises ``StorageError`` when the store cannot be read at all.
    """
    state = tx.log()
    if state is None:
        return
    descriptor = _descriptor(tx)
    yield from going_on(
        (
            lambda: unattached_rows(tx.connection),
            lambda: _statement_faults(tx, state),
            lambda: _all_token_faults(tx, state, descriptor, authorities),
            lambda: _all_anchor_faults(tx, state, descriptor, code_hash),
            lambda: outbox_faults(tx.connection, descriptor.chain, state.log_id),
            lambda: closing_faults(tx.connection, descriptor, state.log_id),
        )
    )


def unjudged_tokens(tx: SqlReadTransaction, authorities: Sequence[Authority]) -> Iterator[str]:
    """The tokens that nothing here can tell about whether they are whole, each in a sentence.

    The log does not name them yet, and they are of no authority of the home's policy.
    """
    stated = _stated_responses(tx)
    for checkpoint in tx.checkpoints():
        for stored in load_timestamps(tx.connection, checkpoint.size):
            if sha256(stored.response).digest() not in stated and _authority_of(stored, authorities) is None:
                yield (
                    f"a token of {stored.authority} on checkpoint {stored.size} is of no authority that the policy "
                    "names, and no log leaf names it yet: only the next checkpoint protects it"
                )


def _descriptor(tx: SqlReadTransaction) -> LogDescriptor:
    statement = parse_statement(next(iter(tx.log_leaves(0, 1))))
    if not isinstance(statement, LogDescriptor):
        raise DamagedFile("log leaf 0 is not the log's descriptor")
    return statement


def _statement_faults(tx: SqlReadTransaction, state: LogState) -> Iterator[str]:
    """Whether everything that the log names is here."""
    anchors = {anchor.size: anchor for anchor in load_anchors(tx.connection)}
    for index, leaf in enumerate(tx.log_leaves(0, state.size)):
        match parse_statement(leaf):
            case TimeStatement() as statement:
                yield from _time_faults(tx, index, statement)
            case AnchorStatement() as statement:
                yield from _anchor_faults(tx, index, statement, anchors.get(statement.size))


def _stated_responses(tx: SqlReadTransaction) -> set[bytes]:
    """The digests of all tokens that the log names."""
    state = tx.log()
    statements = map(parse_statement, tx.log_leaves(0, 0 if state is None else state.size))
    return {digest for one in statements if isinstance(one, TimeStatement) for digest in one.responses}


def _all_token_faults(
    tx: SqlReadTransaction, state: LogState, descriptor: LogDescriptor, authorities: Sequence[Authority]
) -> Iterator[str]:
    stated = _stated_responses(tx)
    for checkpoint in tx.checkpoints():
        message = imprint_message(checkpoint.note, log_origin(descriptor, state.log_id), descriptor.key)
        for stored in load_timestamps(tx.connection, checkpoint.size):
            yield from _token_faults(stored, message)
            if sha256(stored.response).digest() not in stated:
                yield from _verification_faults(stored, message, authorities)


def _all_anchor_faults(
    tx: SqlReadTransaction, state: LogState, descriptor: LogDescriptor, code_hash: bytes
) -> Iterator[str]:
    for anchor in load_anchors(tx.connection):
        if anchor.size > state.size or root_at(tx.log_node, anchor.size) != anchor.root:
            yield f"anchor of size {anchor.size}: its root is not the log's"
        elif anchor.state is AnchorState.FINAL:
            yield from _receipt_faults(tx, anchor, descriptor.chain, state.log_id, code_hash)


def _time_faults(tx: SqlReadTransaction, index: int, stated: TimeStatement) -> Iterator[str]:
    tokens = tokens_of(tx.connection, stated.size)
    held = time_statement(stated.size, tokens) if tokens else None
    for kind in ("responses", "certificates", "crls", "ocsps"):
        missing = set(getattr(stated, kind)) - set(() if held is None else getattr(held, kind))
        if missing:
            yield (
                f"log leaf {index}: of the {kind} that it names for checkpoint {stated.size}, "
                f"{len(missing)} are gone or altered"
            )


def _anchor_faults(
    tx: SqlReadTransaction, index: int, stated: AnchorStatement, anchor: StoredAnchor | None
) -> Iterator[str]:
    found = None
    if anchor is not None and anchor.state is AnchorState.FINAL:
        receipt = load_receipt(tx.connection, anchor)
        digest = None if receipt is None else receipt_digest(receipt)
        found = (anchor.block_number, anchor.block_hash, digest)
    if found != (stated.number, stated.block, stated.receipt):
        yield f"log leaf {index}: the final anchor of size {stated.size} that it names, or its receipt, is not here"


def _token_faults(stored: StoredTimestamp, message: bytes) -> Iterator[str]:
    """A token by what it says."""
    where = f"a token of {stored.authority} on checkpoint {stored.size}"
    try:
        token = parse_response(stored.response).token
    except AuditError as exc:
        yield f"{where}: {exc}"
        return
    if token is None or token.info.imprint != sha256(message).digest():
        yield f"{where}: it is not about that checkpoint"
    elif token.info.gen_time_ns // 10**6 != stored.gen_time_ms:
        yield f"{where}: the time beside it is not the one that it states"


def _authority_of(stored: StoredTimestamp, authorities: Sequence[Authority]) -> Authority | None:
    try:
        return match_authority(_evidence(stored), authorities)
    except AuditError:
        return None


def _evidence(stored: StoredTimestamp) -> TimestampEvidence:
    return TimestampEvidence(stored.response, stored.certificates, stored.crls, stored.ocsps)


def _verification_faults(stored: StoredTimestamp, message: bytes, authorities: Sequence[Authority]) -> Iterator[str]:
    """A token that the log does not name yet, as the policy's verifier sees it at the time that it states."""
    authority = _authority_of(stored, authorities)
    if authority is None:
        return
    try:
        verify_token(_evidence(stored), message, authority, at_ms=stored.gen_time_ms)
    except AuditError as exc:
        yield f"a token of {stored.authority} on checkpoint {stored.size}, or what came with it: {exc}"


def _receipt_faults(
    tx: SqlReadTransaction, anchor: StoredAnchor, binding: ChainBinding | None, log_id: bytes, code_hash: bytes
) -> Iterator[str]:
    where = f"anchor of size {anchor.size}"
    receipt = load_receipt(tx.connection, anchor)
    if receipt is None or binding is None or anchor.block_hash is None:
        yield f"{where}: it is final, and there is no receipt of it"
        return
    try:
        verified = verify_receipt(
            receipt,
            contract=binding.contract,
            owner=binding.owner,
            log_id=log_id,
            block_hash=anchor.block_hash,
            code_hash=code_hash,
        )
    except AuditError as exc:
        yield f"{where}: its receipt does not verify: {exc}"
        return
    shown = (verified.record.size, verified.record.root, verified.header.number)
    if shown != (anchor.size, anchor.root, anchor.block_number):
        yield f"{where}: its receipt shows another anchor"

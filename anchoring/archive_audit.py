"""Auditing what anchoring has archived in a store: tokens, what came with them, anchors and their receipts.

Evidence is made of these, years later. The log names them by their digests from the next checkpoint on, so what was
altered or deleted since shows. What came after the last checkpoint is held against what it claims to be about.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

from anchoring.receipt import receipt_digest, verify_receipt
from anchoring.storage import AnchorState, StoredAnchor, StoredTimestamp, load_anchors, load_receipt, load_timestamps
from anchoring.timestamp import parse_response
from anchoring.witness import time_statement, tokens_of
from identity.errors import AuditError
from ledger.checkpoint import imprint_message
from ledger.log import root_at
from ledger.statement import (
    AnchorStatement,
    ChainBinding,
    LogDescriptor,
    TimeStatement,
    log_origin,
    parse_statement,
)
from ledger.storage.sql import SqlReadTransaction

__all__ = ["archive_faults"]


def archive_faults(tx: SqlReadTransaction, code_hash: bytes) -> Iterator[str]:
    """What does not hold about the archive, each in a sentence. ``code_hash``: as ``verify_receipt`` takes it.

    Raises ``StorageError`` for rows that cannot be read at all.
    """
    state = tx.log()
    if state is None:
        return
    anchors = {anchor.size: anchor for anchor in load_anchors(tx.connection)}
    descriptor: LogDescriptor | None = None
    for index, leaf in enumerate(tx.log_leaves(0, state.size)):
        match parse_statement(leaf):
            case LogDescriptor() as descriptor:
                pass
            case TimeStatement() as statement:
                yield from _time_faults(tx, index, statement)
            case AnchorStatement() as statement:
                yield from _anchor_faults(tx, index, statement, anchors.get(statement.size))
    assert descriptor is not None
    for checkpoint in tx.checkpoints():
        message = imprint_message(checkpoint.note, log_origin(descriptor, state.log_id), descriptor.key)
        for stored in load_timestamps(tx.connection, checkpoint.size):
            yield from _token_faults(stored, message)
    for anchor in anchors.values():
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
    """A token by what it says. Whether its authority and signature count is for a policy, and for the verifier."""
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

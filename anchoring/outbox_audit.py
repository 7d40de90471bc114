"""Auditing the outbox: every transaction in it must be what the columns beside it say, for an anchor or a close.

The bytes are what would be sent, so they are read (docs/spec/anchor.md, section 5), and everything else is compared.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection

from anchoring.chain.closing import Closing, ClosingTransaction, load_closing, load_closing_transactions
from anchoring.chain.transactions import parse_transaction, transaction_hash, transaction_sender
from anchoring.contracts import anchor_call, close_call
from anchoring.storage import StoredTransaction, load_anchors, load_transactions
from identity.errors import MalformedError
from ledger.statement import ChainBinding, LogDescriptor

__all__ = ["closing_faults", "outbox_faults"]


def outbox_faults(connection: Connection, binding: ChainBinding | None, log_id: bytes) -> Iterator[str]:
    """What does not hold about the transactions that anchor the log, each in a sentence."""
    for anchor in load_anchors(connection):
        for stored in load_transactions(connection, anchor.size):
            asked = anchor_call(log_id, stored.prev_size, anchor.size, anchor.root)
            fault = "the log's descriptor names no chain"
            if binding is not None:
                fault = _fault(stored, binding.id, binding.contract, asked)
            if fault:
                yield f"a transaction of the anchor of size {anchor.size}: {fault}"


def closing_faults(connection: Connection, descriptor: LogDescriptor, log_id: bytes) -> Iterator[str]:
    """What does not hold about the close of the log before this one, each in a sentence."""
    closing, sent = load_closing(connection), load_closing_transactions(connection)
    older = descriptor.predecessor
    if closing is None:
        if sent:
            yield "transactions that close a log, and no close was asked for"
        return
    if older is None or (closing.log, closing.successor) != (older.log, log_id):
        yield "the close is not that of the log before this one, in favour of this one"
    # A successor is anchored by the same address unless the key was lost.
    known = descriptor.chain is not None and descriptor.chain.owner == closing.owner
    for stored in sent:
        fault = _fault(stored, closing.chain, closing.contract, close_call(closing.log, closing.successor))
        if not fault and not known:
            fault = _sender_fault(stored, closing)
        if fault:
            yield f"a transaction that closes log {closing.log.hex()}: {fault}"


def _fault(stored: StoredTransaction | ClosingTransaction, chain: int, contract: bytes, call: bytes) -> str:
    """What is wrong with a stored transaction; empty when it is what the row says."""
    if transaction_hash(stored.raw) != stored.hash:
        return "its hash is not that of its bytes"
    try:
        asked = parse_transaction(stored.raw)
    except MalformedError as exc:
        return str(exc)
    if (asked.chain_id, asked.to, asked.value) != (chain, contract, 0):
        return "it is not for the contract and the chain that it should be for"
    if asked.data != call:
        return "it asks for something else"
    if (asked.nonce, asked.max_fee, asked.priority_fee) != (stored.nonce, stored.max_fee, stored.priority_fee):
        return "its nonce or its fees are others than the row says"
    return ""


def _sender_fault(stored: ClosingTransaction, closing: Closing) -> str:
    try:
        sender = transaction_sender(stored.raw)
    except MalformedError as exc:
        return str(exc)
    return "" if sender == closing.owner else f"it is signed by {sender.hex()}, not {closing.owner.hex()}"

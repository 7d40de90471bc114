"""The outbox: brings pending anchors onto the chain, one durable step at a time, from wherever it was stopped.

    pending -> submitted -> mined -> final          (or failed, with the reason)

Every transaction is stored before it is sent. Whatever happens between two steps, the next call goes on from the store
and the chain: a transaction that may or may not have arrived is sent again, which changes nothing; an anchor that is on
the chain although nothing here says so is recognised; and the contract refuses a second one. An anchor whose block is
replaced goes back to pending, and the same bytes are sent again.

Anchors go out in order, the next one when the one before is in a block, so that each block's state shows one of them.
At finality the receipt is verified with ``anchoring.receipt`` and archived; nothing below that state is an anchor.

Spec: docs/spec/anchor.md, section 5.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from eth_hash.auto import keccak
from sqlalchemy import Connection

from anchoring.chain.client import Chain, Inclusion, SendRefused, WhyRefused
from anchoring.chain.transactions import Transaction, TransactionSigner, transaction_hash
from anchoring.contracts import anchor_call
from anchoring.receipt import AnchorReceipt, AnchorRecord, read_anchor, slots
from anchoring.storage import (
    AnchorState,
    StoredAnchor,
    StoredTransaction,
    add_transaction,
    archive_receipt,
    enqueue_anchor,
    load_anchors,
    load_receipt,
    load_transactions,
    move_anchor,
)
from identity.errors import ConfigurationError, ReceiptMismatch, RefusedError

__all__ = ["AnchorChange", "AnchorTarget", "OutboxPolicy", "SqlStorePort", "advance", "enqueue"]

_MAX_MOVES: Final = 8
"""Steps of one anchor in one call: more than it takes to become final, fewer than a lying node could keep us busy."""


@dataclass(frozen=True, slots=True)
class AnchorTarget:
    """Where a log is anchored, from its descriptor, and the code that the contract must have."""

    chain_id: int
    contract: bytes
    owner: bytes
    log_id: bytes
    code_hash: bytes


@dataclass(frozen=True, slots=True)
class OutboxPolicy:
    """What sending may cost. Fees are wei for each unit of gas."""

    gas: int = 150_000
    """Gas limit of an anchor. The first one of a log uses 70,000, later ones 36,000; some chains count more."""
    max_fee_cap: int = 500 * 10**9
    """Never offer more than this."""
    bump_after_ms: int = 600_000
    """Offer more for a transaction that was not mined for so long."""


@dataclass(frozen=True, slots=True)
class AnchorChange:
    """A step that an anchor made."""

    size: int
    before: AnchorState
    after: AnchorState
    reason: str | None


class _Transaction(Protocol):
    @property
    def connection(self) -> Connection: ...


class SqlStorePort(Protocol):
    """What the outbox needs of a store: ``ledger.storage.sql.SqlStore`` is one."""

    def read(self) -> AbstractContextManager[_Transaction]:
        """A snapshot."""

    def write(self) -> AbstractContextManager[_Transaction]:
        """A transaction, durable when left."""


def enqueue(tx: _Transaction, size: int, root: bytes, now_ms: int) -> None:
    """Ask, in the transaction that writes the checkpoint, for its anchor. See ``enqueue_anchor``."""
    enqueue_anchor(tx.connection, size, root, now_ms)


def advance(
    store: SqlStorePort,
    chain: Chain,
    signer: TransactionSigner,
    target: AnchorTarget,
    now_ms: int,
    policy: OutboxPolicy | None = None,
) -> list[AnchorChange]:
    """Move every open anchor as far as it goes now, and return the steps that were made, in order.

    Call it again later: nothing is lost in between. Raises ``ConfigurationError`` when the chain or the key is not the
    log's, ``TransportError`` when the chain fails, ``RefusedError`` when its fees are above the cap,
    ``ReceiptMismatch`` when what the chain shows cannot be, ``ConflictError`` when another process advances too. Steps
    made before an error are kept.
    """
    if (found := chain.chain_id()) != target.chain_id:
        raise ConfigurationError(f"the chain has id {found}, the log is anchored on chain {target.chain_id}")
    if signer.address != target.owner:
        raise ConfigurationError(
            f"the anchor key has address {signer.address.hex()}, the log is anchored by {target.owner.hex()}"
        )
    return _Run(store, chain, signer, target, now_ms, policy or OutboxPolicy()).run()


@dataclass(slots=True)
class _Run:
    """One call of ``advance``."""

    store: SqlStorePort
    chain: Chain
    signer: TransactionSigner
    target: AnchorTarget
    now_ms: int
    policy: OutboxPolicy

    def run(self) -> list[AnchorChange]:
        with self.store.read() as tx:
            opened = load_anchors(tx.connection, AnchorState.PENDING, AnchorState.SUBMITTED, AnchorState.MINED)
        changes: list[AnchorChange] = []
        for anchor in opened:
            moved = self._push(anchor, changes)
            if moved.state in (AnchorState.PENDING, AnchorState.SUBMITTED):
                break
        return changes

    def _push(self, anchor: StoredAnchor, changes: list[AnchorChange]) -> StoredAnchor:
        """Take steps until the anchor has to wait or is done."""
        steps = {
            AnchorState.PENDING: self._submit,
            AnchorState.SUBMITTED: self._watch,
            AnchorState.MINED: self._settle,
        }
        for _ in range(_MAX_MOVES):
            step = steps.get(anchor.state)
            moved = None if step is None else step(anchor)
            if moved is None:
                break
            changes.append(AnchorChange(anchor.size, anchor.state, moved.state, moved.reason))
            anchor = moved
        return anchor

    # pending -> submitted

    def _submit(self, anchor: StoredAnchor) -> StoredAnchor | None:
        if not self._transactions(anchor):
            return self._begin(anchor)
        # Its block was replaced, or a call ended before sending: the transactions are good still.
        return self._move(anchor, AnchorState.SUBMITTED)

    # submitted -> mined

    def _watch(self, anchor: StoredAnchor) -> StoredAnchor | None:
        transactions = self._transactions(anchor)
        for transaction in reversed(transactions):
            inclusion = self.chain.inclusion(transaction.hash)
            if inclusion is not None:
                return self._included(anchor, inclusion)
        nonce = self.chain.transaction_count(self.target.owner)
        live = [transaction for transaction in transactions if transaction.nonce == nonce]
        if live:
            self._send_again(anchor, live[-1])
            return None
        # The nonce went to a transaction that is not kept here: an earlier life of this store, or another user of the
        # key. What the chain holds says whether it was this very anchor.
        return self._begin(anchor)

    def _included(self, anchor: StoredAnchor, inclusion: Inclusion) -> StoredAnchor | None:
        if inclusion.succeeded:
            return self._move(anchor, AnchorState.MINED, block=(inclusion.number, inclusion.block_hash))
        record = self._record(inclusion.number)
        if record is not None and _shows(record, anchor):
            return self._adopt(anchor, record)
        if inclusion.number > self.chain.final_number():
            return None
        return self._move(anchor, AnchorState.FAILED, reason=_refusal(record, anchor) or "REVERTED")

    def _begin(self, anchor: StoredAnchor) -> StoredAnchor | None:
        """For an anchor none of whose transactions can be mined: look whether it is needed, and make one."""
        record = self._record(self.chain.head_number())
        if record is not None and _shows(record, anchor):
            return self._adopt(anchor, record)
        if _refusal(record, anchor) is not None:
            return self._refuse(anchor)
        return self._send_first(anchor, 0 if record is None else record.size)

    def _adopt(self, anchor: StoredAnchor, record: AnchorRecord) -> StoredAnchor:
        """The chain holds the anchor already."""
        block_hash = keccak(self.chain.header(record.block))
        return self._move(anchor, AnchorState.MINED, block=(record.block, block_hash))

    def _refuse(self, anchor: StoredAnchor) -> StoredAnchor | None:
        """The contract would not take the anchor now. It fails when the final state says so too."""
        try:
            record = self._record(self.chain.final_number())
        except ReceiptMismatch as exc:
            if exc.reason != "NO_CONTRACT":
                raise
            return None  # deployed after the final block
        refusal = _refusal(record, anchor)
        return None if refusal is None else self._move(anchor, AnchorState.FAILED, reason=refusal)

    # mined -> final

    def _settle(self, anchor: StoredAnchor) -> StoredAnchor | None:
        assert anchor.block_number is not None
        # Asked before the header is read: what is final by then is not replaced afterwards.
        is_final = anchor.block_number <= self.chain.final_number()
        is_there = anchor.block_number <= self.chain.head_number()
        header = self.chain.header(anchor.block_number) if is_there else b""
        if keccak(header) != anchor.block_hash:
            return self._move(anchor, AnchorState.PENDING, reason="REORG")
        with self.store.read() as tx:
            is_archived = load_receipt(tx.connection, anchor) is not None
        if not is_archived:
            receipt = self._receipt(anchor.block_number, header)
            record = self._verify(receipt, anchor.block_hash)
            if record is None or not _shows(record, anchor):
                # Another anchor followed in the same block, so that no state shows this one; a later one covers it.
                refusal = _refusal(record, anchor) or "NO_ANCHOR"
                return self._move(anchor, AnchorState.FAILED, reason=refusal) if is_final else None
            with self.store.write() as write:
                archive_receipt(write.connection, anchor, receipt, self.now_ms)
        block = anchor.block_number, anchor.block_hash
        return self._move(anchor, AnchorState.FINAL, block=block) if is_final else None

    # Transactions

    def _transactions(self, anchor: StoredAnchor) -> list[StoredTransaction]:
        with self.store.read() as tx:
            return load_transactions(tx.connection, anchor.size)

    def _send_first(self, anchor: StoredAnchor, prev_size: int) -> StoredAnchor | None:
        """Sign, store and send a transaction with the next nonce."""
        max_fee, priority_fee = self._market()
        if max_fee > self.policy.max_fee_cap:
            fees = self.chain.fees()
            max_fee = self.policy.max_fee_cap
            if fees.base + fees.priority > max_fee:
                raise RefusedError(f"the chain asks {fees.base + fees.priority} wei for gas, the cap is {max_fee}")
        nonce = self.chain.transaction_count(self.target.owner)
        transaction = self._sign(anchor, prev_size, nonce, max_fee, priority_fee)
        with self.store.write() as tx:
            add_transaction(tx.connection, transaction)
            moved = move_anchor(tx.connection, anchor, AnchorState.SUBMITTED, self.now_ms)
        self._send(transaction)
        return moved if anchor.state is not AnchorState.SUBMITTED else None

    def _send_again(self, anchor: StoredAnchor, transaction: StoredTransaction) -> None:
        """Send the same bytes, or, when they have waited too long, a transaction that offers more."""
        if self.now_ms - transaction.prepared_ms >= self.policy.bump_after_ms:
            max_fee, priority_fee = self._market()
            # Nodes take a replacement when both fees grow by a tenth (geth) or an eighth (others).
            max_fee = max(max_fee, -(-transaction.max_fee * 9 // 8))
            priority_fee = max(priority_fee, -(-transaction.priority_fee * 9 // 8))
            if priority_fee <= max_fee <= self.policy.max_fee_cap:
                nonce, prev_size = transaction.nonce, transaction.prev_size
                transaction = self._sign(anchor, prev_size, nonce, max_fee, priority_fee)
                with self.store.write() as tx:
                    add_transaction(tx.connection, transaction)
        self._send(transaction)

    def _market(self) -> tuple[int, int]:
        """What to offer now: enough for a base fee that doubles, and the tip."""
        fees = self.chain.fees()
        return 2 * fees.base + fees.priority, fees.priority

    def _sign(
        self, anchor: StoredAnchor, prev_size: int, nonce: int, max_fee: int, priority_fee: int
    ) -> StoredTransaction:
        raw = self.signer.sign(
            Transaction(
                chain_id=self.target.chain_id,
                nonce=nonce,
                to=self.target.contract,
                data=anchor_call(self.target.log_id, prev_size, anchor.size, anchor.root),
                gas=self.policy.gas,
                max_fee=max_fee,
                priority_fee=priority_fee,
            )
        )
        return StoredTransaction(
            hash=transaction_hash(raw),
            size=anchor.size,
            prev_size=prev_size,
            nonce=nonce,
            max_fee=max_fee,
            priority_fee=priority_fee,
            raw=raw,
            prepared_ms=self.now_ms,
        )

    def _send(self, transaction: StoredTransaction) -> None:
        try:
            self.chain.send_raw(transaction.raw)
        except SendRefused as exc:
            # A used nonce is looked into at the next step; a price too low is raised when the transaction has waited.
            if exc.why not in (WhyRefused.NONCE_USED, WhyRefused.UNDERPRICED):
                raise

    # What the chain holds

    def _record(self, number: int) -> AnchorRecord | None:
        """The log's record in the state after block ``number``, verified under the header that the chain gives."""
        header = self.chain.header(number)
        return self._verify(self._receipt(number, header), keccak(header))

    def _receipt(self, number: int, header: bytes) -> AnchorReceipt:
        meta, root, _ = slots(self.target.owner, self.target.log_id)
        proofs = self.chain.get_proof(self.target.contract, (meta, root), number)
        return AnchorReceipt(header, proofs.account_proof, (proofs.storage_proofs[0], proofs.storage_proofs[1]))

    def _verify(self, receipt: AnchorReceipt, block_hash: bytes) -> AnchorRecord | None:
        return read_anchor(
            receipt,
            contract=self.target.contract,
            owner=self.target.owner,
            log_id=self.target.log_id,
            block_hash=block_hash,
            code_hash=self.target.code_hash,
        )

    def _move(
        self,
        anchor: StoredAnchor,
        state: AnchorState,
        *,
        reason: str | None = None,
        block: tuple[int, bytes] | None = None,
    ) -> StoredAnchor:
        with self.store.write() as tx:
            return move_anchor(tx.connection, anchor, state, self.now_ms, reason=reason, block=block)


def _shows(record: AnchorRecord, anchor: StoredAnchor) -> bool:
    return record.size == anchor.size and record.root == anchor.root


def _refusal(record: AnchorRecord | None, anchor: StoredAnchor) -> str | None:
    """Why the contract refuses the anchor when it holds ``record``, or None."""
    if record is not None and record.closed:
        return "CLOSED"
    if record is not None and record.size >= anchor.size:
        return "STALE"
    return None

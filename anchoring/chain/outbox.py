"""The outbox: brings pending anchors onto the chain, one durable step at a time, from wherever it was stopped.

    pending -> submitted -> mined -> final          (or failed, with the reason)

Every transaction is stored before it is sent. Whatever happens between two steps, the next call goes on from the store
and the chain: a transaction that may or may not have arrived is sent again, which changes nothing; an anchor that is on
the chain although nothing here says so is recognised; and the contract refuses a second one. An anchor whose block is
replaced goes back to pending, and the same bytes are sent again.

Anchors go out in order, the next one when the one before is in a block, so that each block's state shows one of them.
At finality the receipt is verified with ``anchoring.receipt`` and archived; nothing below that state is an anchor. What
is final or failed stays so: before that, the other nodes are asked; and when a final block is gone later, nothing is
anchored again: that is an incident, ``foreign-chain``.

Spec: docs/spec/anchor.md, section 5.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, Protocol

from eth_hash.auto import keccak
from sqlalchemy import Connection

from anchoring.chain.agreement import HeaderCheck
from anchoring.chain.client import Chain, Inclusion, SendRefused, WhyRefused
from anchoring.chain.fees import Offer, first_offer, is_priced_out, raised_offer
from anchoring.chain.record import AnchorTarget, RecordReader, refusal, shows
from anchoring.chain.transactions import Transaction, TransactionSigner, transaction_hash
from anchoring.contracts import anchor_call
from anchoring.receipt import DEVELOPMENT_CHAIN_ID, AnchorRecord
from anchoring.rollback import RollbackState
from anchoring.storage import (
    AnchorState,
    StoredAnchor,
    StoredTransaction,
    add_transaction,
    archive_receipt,
    enqueue_anchor,
    find_anchor,
    load_anchors,
    load_receipt,
    load_transactions,
    move_anchor,
    newest_final_anchor,
)
from identity.errors import ConfigurationError, ReadOnlyState, ReceiptMismatch, RefusedError, TransportError

__all__ = ["AnchorChange", "AnchorTarget", "OutboxPolicy", "SqlStorePort", "advance", "enqueue"]

_MAX_MOVES: Final = 8
"""Steps of one anchor in one call: more than it takes to become final, fewer than a lying node could keep us busy."""


@dataclass(frozen=True, slots=True)
class OutboxPolicy:
    """What sending may cost. Fees are wei for each unit of gas."""

    gas: int = 150_000
    """Gas limit of an anchor. The first one of a log uses 70,000, later ones 36,000; some chains count more."""
    max_fee_cap: int = 500 * 10**9
    """Never offer more than this."""
    bump_after_ms: int = 600_000
    """Offer more for a transaction that was not mined for so long; and only then take a gap of nonces for real."""


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
    *,
    agree: HeaderCheck | None = None,
    go_on: Callable[[], bool] | None = None,
    on_change: Callable[[AnchorChange], None] | None = None,
) -> list[AnchorChange]:
    """Move every open anchor as far as it goes now, and return the steps that were made, in order.

    Call it again later: nothing is lost in between. ``agree`` has to accept a block before anything is final or failed
    because of it; ``go_on`` is asked before each step, so that a process can be ended between two; ``on_change`` is
    told of each step once it is durable, also of those before an error.

    Raises ``ConfigurationError`` when the chain or the key is not the log's, ``ReadOnlyState`` (``foreign-chain``) when
    the newest final anchor's block is not on the chain any more, ``TransportError`` when the chain fails,
    ``RefusedError`` when its fees are above the cap, ``ReceiptMismatch`` when what the chain shows cannot be,
    ``ConflictError`` when another process advances too. Steps made before an error are kept.
    """
    if (found := chain.chain_id()) != target.chain_id:
        raise ConfigurationError(f"the chain has id {found}, the log is anchored on chain {target.chain_id}")
    if signer.address != target.owner:
        raise ConfigurationError(
            f"the anchor key has address {signer.address.hex()}, the log is anchored by {target.owner.hex()}"
        )
    run = _Run(
        store=store,
        chain=chain,
        signer=signer,
        target=target,
        now_ms=now_ms,
        policy=policy or OutboxPolicy(),
        agree=agree or _nobody_else,
        go_on=go_on or _always,
        reader=RecordReader(chain, target),
    )
    run.advance(on_change or _ignore)
    return run.changes


def _nobody_else(_number: int, _block_hash: bytes) -> None:
    """The check where only one node is configured: there is nobody to ask."""


def _always() -> bool:
    return True


def _ignore(_change: AnchorChange) -> None:
    """For a caller that looks at the returned list."""


@dataclass(slots=True)
class _Run:
    """One call of ``advance``."""

    store: SqlStorePort
    chain: Chain
    signer: TransactionSigner
    target: AnchorTarget
    now_ms: int
    policy: OutboxPolicy
    agree: HeaderCheck
    go_on: Callable[[], bool]
    reader: RecordReader
    changes: list[AnchorChange] = field(default_factory=list)

    def advance(self, on_change: Callable[[AnchorChange], None]) -> None:
        with self.store.read() as tx:
            opened = load_anchors(tx.connection, AnchorState.PENDING, AnchorState.SUBMITTED, AnchorState.MINED)
            final = newest_final_anchor(tx.connection)
        if opened and final is not None:
            self._require_history(final)
        failed: TransportError | ReceiptMismatch | None = None
        for anchor in opened:
            try:
                state = self._push(anchor, on_change)
            except (TransportError, ReceiptMismatch) as exc:
                state, failed = self._state(anchor.size), failed or exc
            if state in (AnchorState.PENDING, AnchorState.SUBMITTED) or not self.go_on():
                break
        if failed is not None:
            raise failed

    def _state(self, size: int) -> AnchorState:
        with self.store.read() as tx:
            anchor = find_anchor(tx.connection, size)
        assert anchor is not None
        return anchor.state

    def _require_history(self, final: StoredAnchor) -> None:
        """Nothing is sent to a chain that has lost what was final on it: it is another chain, or was rewritten."""
        assert final.block_number is not None
        head = self.chain.head_number()
        is_behind = head < final.block_number
        if is_behind and self.target.chain_id != DEVELOPMENT_CHAIN_ID:
            raise TransportError(
                f"the node is behind: its newest block is {head}, a final anchor is in block {final.block_number}",
                hint="wait until it has caught up; a node that was started empty has to be given its chain back",
            )
        if is_behind or keccak(self.chain.header(final.block_number)) != final.block_hash:
            raise ReadOnlyState(
                RollbackState.FOREIGN_CHAIN.value,
                f"the final anchor of size {final.size} in block {final.block_number} is not on this chain",
                hint="nothing is anchored again by itself; see docs/how-to/operate-anchoring.md",
            )

    def _push(self, anchor: StoredAnchor, on_change: Callable[[AnchorChange], None]) -> AnchorState:
        """Take steps until the anchor has to wait or is done; the state it is in then."""
        steps = {
            AnchorState.PENDING: self._submit,
            AnchorState.SUBMITTED: self._watch,
            AnchorState.MINED: self._settle,
        }
        for _ in range(_MAX_MOVES):
            step = steps.get(anchor.state) if self.go_on() else None
            moved = None if step is None else step(anchor)
            if moved is None:
                break
            self.changes.append(AnchorChange(anchor.size, anchor.state, moved.state, moved.reason))
            on_change(self.changes[-1])
            anchor = moved
        return anchor.state

    # pending -> submitted

    def _submit(self, anchor: StoredAnchor) -> StoredAnchor | None:
        if not self._transactions(anchor):
            return self._begin(anchor)
        # Its block was replaced, or a call ended before sending: the transactions are good still.
        return self._move(anchor, AnchorState.SUBMITTED)

    # submitted -> mined

    def _watch(self, anchor: StoredAnchor) -> StoredAnchor | None:
        transactions = self._transactions(anchor)
        reverted: tuple[StoredTransaction, Inclusion] | None = None
        for transaction in reversed(transactions):
            inclusion = self._inclusion(transaction)
            if inclusion is not None and inclusion.succeeded:
                self._require_effect(anchor, inclusion)
                return self._move(anchor, AnchorState.MINED, block=(inclusion.number, inclusion.block_hash))
            if inclusion is not None:
                reverted = reverted or (transaction, inclusion)
        nonce = self.chain.transaction_count(self.target.owner)
        live = [transaction for transaction in transactions if transaction.nonce == nonce]
        if live:
            self._send_again(anchor, live[-1])
            return None
        ahead = [transaction for transaction in transactions if transaction.nonce > nonce]
        if ahead and self.now_ms - ahead[-1].prepared_ms < self.policy.bump_after_ms:
            # The node is behind, or a transaction of the key that came before ours is gone. The first passes by itself.
            self._send(ahead[-1])
            return None
        if reverted is not None:
            return self._reverted(anchor, *reverted)
        # The nonce went to a transaction that is not kept here: an earlier life of this store, or another user of the
        # key. What the chain holds says whether it was this very anchor. Or there is a gap: the anchor itself fills it.
        return self._begin(anchor)

    def _inclusion(self, transaction: StoredTransaction) -> Inclusion | None:
        """Where the transaction is, in a block that the chain has."""
        found = self.chain.inclusion(transaction.hash)
        if found is not None and keccak(self.chain.header(found.number)) != found.block_hash:
            raise TransportError(
                f"the node names a block {found.block_hash.hex()} that is not its block {found.number}"
            )
        return found

    def _require_effect(self, anchor: StoredAnchor, inclusion: Inclusion) -> None:
        """The state after the block shows the anchor, or one that came after it. Some nodes do not prove that state."""
        header = self.chain.header(inclusion.number)
        try:
            receipt = self.reader.receipt(inclusion.number, header)
        except TransportError:
            return
        record = self.reader.verify(receipt, keccak(header))
        if record is None or record.size < anchor.size:
            raise TransportError(
                f"the node says that block {inclusion.number} holds the anchor, and its state does not"
            )

    def _reverted(
        self, anchor: StoredAnchor, transaction: StoredTransaction, inclusion: Inclusion
    ) -> StoredAnchor | None:
        """The contract refused it: because of what came before, which may be mended, or for good."""
        record = self.reader.record(inclusion.number)
        if record is not None and shows(record, anchor.size, anchor.root):
            return self._adopt(anchor, record)
        why = refusal(record, anchor.size)
        if why is None and (0 if record is None else record.size) != transaction.prev_size:
            return self._begin(anchor)  # it was to follow an anchor that did not come, or came later
        if inclusion.number > self.chain.final_number():
            return None
        return self._fail(anchor, (inclusion.number, inclusion.block_hash), why or "REVERTED")

    def _begin(self, anchor: StoredAnchor) -> StoredAnchor | None:
        """For an anchor none of whose transactions can be mined: look whether it is needed, and make one."""
        record = self.reader.record(self.chain.head_number())
        if record is not None and shows(record, anchor.size, anchor.root):
            return self._adopt(anchor, record)
        if refusal(record, anchor.size) is not None:
            return self._refuse(anchor)
        return self._send_first(anchor, 0 if record is None else record.size)

    def _adopt(self, anchor: StoredAnchor, record: AnchorRecord) -> StoredAnchor:
        """The chain holds the anchor already."""
        block_hash = keccak(self.chain.header(record.block))
        return self._move(anchor, AnchorState.MINED, block=(record.block, block_hash))

    def _refuse(self, anchor: StoredAnchor) -> StoredAnchor | None:
        """The contract would not take the anchor now. It fails when the final state says so too."""
        number = self.chain.final_number()
        header = self.chain.header(number)
        try:
            record = self.reader.verify(self.reader.receipt(number, header), keccak(header))
        except ReceiptMismatch as exc:
            if exc.reason != "NO_CONTRACT":
                raise
            return None  # deployed after the final block
        why = refusal(record, anchor.size)
        return None if why is None else self._fail(anchor, (number, keccak(header)), why)

    def _fail(self, anchor: StoredAnchor, block: tuple[int, bytes], reason: str) -> StoredAnchor:
        """The final block shows that the anchor will never be."""
        self.agree(*block)
        return self._move(anchor, AnchorState.FAILED, reason=reason)

    # mined -> final

    def _settle(self, anchor: StoredAnchor) -> StoredAnchor | None:
        assert anchor.block_number is not None
        # Asked before the header is read: what is final by then is not replaced afterwards.
        is_final = anchor.block_number <= self.chain.final_number()
        is_there = anchor.block_number <= self.chain.head_number()
        header = self.chain.header(anchor.block_number) if is_there else b""
        if keccak(header) != anchor.block_hash:
            return self._move(anchor, AnchorState.PENDING, reason="REORG")
        block = anchor.block_number, keccak(header)
        with self.store.read() as tx:
            is_archived = load_receipt(tx.connection, anchor) is not None
        if not is_archived:
            try:
                receipt = self.reader.receipt(anchor.block_number, header)
            except TransportError:
                return self._show_later(anchor)
            record = self.reader.verify(receipt, block[1])
            if not shows(record, anchor.size, anchor.root):
                # Another anchor followed in the same block, so that no state shows this one; a later one covers it.
                return self._hidden(anchor, block, record) if is_final else None
            with self.store.write() as write:
                archive_receipt(write.connection, anchor, receipt, self.now_ms)
        if not is_final:
            return None
        self.agree(*block)
        return self._move(anchor, AnchorState.FINAL, block=block)

    def _hidden(self, anchor: StoredAnchor, block: tuple[int, bytes], record: AnchorRecord | None) -> StoredAnchor:
        """A final block was said to hold the anchor, and does not show it."""
        why = refusal(record, anchor.size)
        if why is None:
            return self._move(anchor, AnchorState.PENDING, reason="NO_ANCHOR")
        return self._fail(anchor, block, why)

    def _show_later(self, anchor: StoredAnchor) -> StoredAnchor | None:
        """The node proves nothing about the anchor's block any more. Its newest state shows the anchor as well."""
        number = self.chain.head_number()
        header = self.chain.header(number)
        record = self.reader.verify(self.reader.receipt(number, header), keccak(header))
        if shows(record, anchor.size, anchor.root):
            return self._move(anchor, AnchorState.MINED, reason="LATER_BLOCK", block=(number, keccak(header)))
        # A later anchor covers it, if that becomes final; or the node contradicts itself.
        return self._refuse(anchor)

    # Transactions

    def _transactions(self, anchor: StoredAnchor) -> list[StoredTransaction]:
        with self.store.read() as tx:
            return load_transactions(tx.connection, anchor.size)

    def _send_first(self, anchor: StoredAnchor, prev_size: int) -> StoredAnchor | None:
        """Sign, store and send a transaction with the next nonce."""
        offer = first_offer(self.chain.fees(), self.policy.max_fee_cap)
        nonce = self.chain.transaction_count(self.target.owner)
        transaction = self._sign(anchor, prev_size, nonce, offer)
        with self.store.write() as tx:
            add_transaction(tx.connection, transaction)
            moved = move_anchor(tx.connection, anchor, AnchorState.SUBMITTED, self.now_ms)
        self._send(transaction)
        return moved if anchor.state is not AnchorState.SUBMITTED else None

    def _send_again(self, anchor: StoredAnchor, transaction: StoredTransaction) -> None:
        """Send the same bytes, or, when they have waited too long, a transaction that offers more."""
        if self.now_ms - transaction.prepared_ms < self.policy.bump_after_ms:
            self._send(transaction)
            return
        fees, last = self.chain.fees(), Offer(transaction.max_fee, transaction.priority_fee)
        offer = raised_offer(last, fees, self.policy.max_fee_cap)
        if offer is not None:
            transaction = self._sign(anchor, transaction.prev_size, transaction.nonce, offer)
            with self.store.write() as tx:
                add_transaction(tx.connection, transaction)
        self._send(transaction)
        if offer is None and is_priced_out(last, fees):
            raise RefusedError(
                f"the chain asks {fees.base} wei for gas, the anchor offers {last.max_fee}, the cap allows no more",
                hint="wait until gas is cheaper, or raise chain.max_fee_gwei",
            )

    def _sign(self, anchor: StoredAnchor, prev_size: int, nonce: int, offer: Offer) -> StoredTransaction:
        raw = self.signer.sign(
            Transaction(
                chain_id=self.target.chain_id,
                nonce=nonce,
                to=self.target.contract,
                data=anchor_call(self.target.log_id, prev_size, anchor.size, anchor.root),
                gas=self.policy.gas,
                max_fee=offer.max_fee,
                priority_fee=offer.priority_fee,
            )
        )
        return StoredTransaction(
            hash=transaction_hash(raw),
            size=anchor.size,
            prev_size=prev_size,
            nonce=nonce,
            max_fee=offer.max_fee,
            priority_fee=offer.priority_fee,
            raw=raw,
            prepared_ms=self.now_ms,
        )

    def _send(self, transaction: StoredTransaction) -> None:
        try:
            self.chain.send_raw(transaction.raw)
        except SendRefused as exc:
            # A used nonce is looked into at the next step; a price too low is raised when the transaction has waited.
            if exc.why is WhyRefused.NO_FUNDS:
                raise SendRefused(exc.why, self._missing_funds(transaction)) from exc
            if exc.why not in (WhyRefused.NONCE_USED, WhyRefused.UNDERPRICED):
                raise

    def _missing_funds(self, transaction: StoredTransaction) -> str:
        balance = self.chain.balance(self.target.owner)
        needed = self.policy.gas * transaction.max_fee
        return (
            f"the anchor account 0x{self.target.owner.hex()} holds {balance} wei and an anchor may take {needed}; "
            f"send coins to it"
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

"""Closing the log that a successor goes on from: durable like the anchors' outbox, from wherever it was stopped.

    pending -> submitted -> mined -> final          (or failed, with the reason)

The close is stored in the successor's store before anything is sent, each transaction before it is sent. What counts is
what the contract holds: when it names this successor the close is there, whoever sent it; when it names another one
this successor was too late, and never will be the one.

Spec: docs/spec/rollback.md, section "Ways out". Times are milliseconds UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from eth_hash.auto import keccak
from sqlalchemy import BigInteger, Column, Connection, Integer, LargeBinary, Table, Text, insert, select, update

from anchoring.chain.client import Chain, ChainReader, SendRefused, WhyRefused
from anchoring.chain.outbox import AnchorTarget, OutboxPolicy, SqlStorePort
from anchoring.chain.transactions import Transaction, TransactionSigner, transaction_hash
from anchoring.contracts import close_call
from anchoring.receipt import AnchorReceipt, AnchorRecord, read_successor, slots
from anchoring.storage import AnchorState, require_sound
from identity.errors import ConfigurationError, DamagedFile, ReceiptMismatch, RefusedError
from ledger.storage.schema import metadata

__all__ = [
    "Closing",
    "ClosingTransaction",
    "add_closing",
    "advance_closing",
    "load_closing",
    "load_closing_transactions",
    "read_closing",
]

_Row = BigInteger().with_variant(Integer(), "sqlite")

_closing: Final = Table(
    "log_closing",
    metadata,
    Column("log", LargeBinary, primary_key=True),
    Column("successor", LargeBinary, nullable=False),
    Column("chain", BigInteger, nullable=False),
    Column("contract", LargeBinary, nullable=False),
    Column("owner", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text),
    Column("changed_ms", BigInteger, nullable=False),
)

_transaction: Final = Table(
    "log_closing_transaction",
    metadata,
    Column("id", _Row, primary_key=True),
    Column("hash", LargeBinary, nullable=False, unique=True),
    Column("nonce", BigInteger, nullable=False),
    Column("max_fee", BigInteger, nullable=False),
    Column("priority_fee", BigInteger, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Column("prepared_ms", BigInteger, nullable=False),
)

OTHER_SUCCESSOR: Final = "OTHER_SUCCESSOR"


@dataclass(frozen=True, slots=True)
class Closing:
    """The close of ``log`` in favour of ``successor``, and how far it has come."""

    log: bytes
    successor: bytes
    chain: int
    contract: bytes
    owner: bytes
    state: AnchorState
    reason: str | None
    changed_ms: int


@dataclass(frozen=True, slots=True)
class ClosingTransaction:
    """A signed transaction that asks for the close, as ``anchoring.storage.StoredTransaction`` is for an anchor."""

    hash: bytes
    nonce: int
    max_fee: int
    priority_fee: int
    raw: bytes
    prepared_ms: int


def add_closing(connection: Connection, closing: Closing) -> None:
    """Ask for the close, in the transaction that begins the successor."""
    connection.execute(insert(_closing).values(_row(closing)))


def load_closing(connection: Connection) -> Closing | None:
    """The close of the log before this one; None for a first log, or when no close could be made."""
    row = connection.execute(select(_closing)).first()
    if row is None:
        return None
    require_sound(_closing, row)
    try:
        return Closing(**{**row._asdict(), "state": AnchorState(row.state)})
    except ValueError as exc:
        raise DamagedFile(f"the close of the log before is in no known state: {row.state}") from exc


def load_closing_transactions(connection: Connection) -> list[ClosingTransaction]:
    """What was signed to close the log, in the order it was made. Raises ``DamagedFile`` for a row that cannot be."""
    rows = connection.execute(select(_transaction).order_by(_transaction.c.id)).all()
    for row in rows:
        require_sound(_transaction, row)
    return [ClosingTransaction(*(getattr(row, name) for name in ClosingTransaction.__slots__)) for row in rows]


def read_closing(
    chain: ChainReader, target: AnchorTarget, number: int, block_hash: bytes | None = None
) -> tuple[AnchorRecord | None, bytes]:
    """What the contract holds for the log after block ``number``: its record, and the successor or 32 zero bytes.

    Verified under the header of ``block_hash``, by default the one that the chain gives. Raises ``TransportError``,
    ``MalformedError``, ``ReceiptMismatch``.
    """
    header = chain.header(number)
    proofs = chain.get_proof(target.contract, slots(target.owner, target.log_id), number)
    meta, root, successor = proofs.storage_proofs
    return read_successor(
        AnchorReceipt(header, proofs.account_proof, (meta, root)),
        successor,
        contract=target.contract,
        owner=target.owner,
        log_id=target.log_id,
        block_hash=keccak(header) if block_hash is None else block_hash,
        code_hash=target.code_hash,
    )


def advance_closing(
    store: SqlStorePort,
    chain: Chain,
    signer: TransactionSigner,
    code_hash: bytes,
    now_ms: int,
    policy: OutboxPolicy | None = None,
) -> Closing | None:
    """Take the close as far as it goes now; the close as it stands then, None when there is none to make.

    Call it again later. Raises ``ConfigurationError`` when the chain or the key is not the log's, ``TransportError``
    when the chain fails, ``RefusedError`` when its fees are above the cap.
    """
    with store.read() as tx:
        closing = load_closing(tx.connection)
    if closing is None or closing.state in (AnchorState.FINAL, AnchorState.FAILED):
        return closing
    if chain.chain_id() != closing.chain or signer.address != closing.owner:
        raise ConfigurationError("the chain, or the anchor key, is not that of the log that is to be closed")
    target = AnchorTarget(closing.chain, closing.contract, closing.owner, closing.log, code_hash)
    return _Run(store, chain, signer, target, now_ms, policy or OutboxPolicy()).run(closing)


@dataclass(slots=True)
class _Run:
    """One call of ``advance_closing``."""

    store: SqlStorePort
    chain: Chain
    signer: TransactionSigner
    target: AnchorTarget
    now_ms: int
    policy: OutboxPolicy

    def run(self, closing: Closing) -> Closing:
        settled = self._look(closing)
        if settled is not None:
            return settled
        self._send(closing)
        return self._look(closing) or self._move(closing, AnchorState.SUBMITTED)

    def _look(self, closing: Closing) -> Closing | None:
        """What the chain holds already; None when it does not hold the log as closed."""
        record, successor = read_closing(self.chain, self.target, self.chain.head_number())
        if record is None or not record.closed:
            return None
        is_final = self._is_final()
        if successor != closing.successor:
            reason = f"{OTHER_SUCCESSOR} {successor.hex()}"
            return self._move(closing, AnchorState.FAILED if is_final else AnchorState.SUBMITTED, reason)
        return self._move(closing, AnchorState.FINAL if is_final else AnchorState.MINED)

    def _is_final(self) -> bool:
        try:
            record, _ = read_closing(self.chain, self.target, self.chain.final_number())
        except ReceiptMismatch as exc:
            if exc.reason != "NO_CONTRACT":
                raise
            return False
        return record is not None and record.closed

    def _send(self, closing: Closing) -> None:
        """Send what is stored and can still be mined, or sign, store and send a transaction with the next nonce."""
        nonce = self.chain.transaction_count(self.signer.address)
        with self.store.read() as tx:
            rows = load_closing_transactions(tx.connection)
        live = [row for row in rows if row.nonce == nonce]
        last = live[-1] if live else None
        if last is None or self.now_ms - last.prepared_ms >= self.policy.bump_after_ms:
            last = self._sign(closing, nonce, last)
            if all(row.hash != last.hash for row in rows):  # at the cap, the same bytes come out again
                with self.store.write() as tx:
                    tx.connection.execute(
                        insert(_transaction).values({k: getattr(last, k) for k in ClosingTransaction.__slots__})
                    )
        try:
            self.chain.send_raw(last.raw)
        except SendRefused as exc:
            # A used nonce is looked into at the next call; a price too low is raised when the transaction has waited.
            if exc.why not in (WhyRefused.NONCE_USED, WhyRefused.UNDERPRICED):
                raise

    def _sign(self, closing: Closing, nonce: int, before: ClosingTransaction | None) -> ClosingTransaction:
        fees = self.chain.fees()
        max_fee, priority_fee = 2 * fees.base + fees.priority, fees.priority
        if before is not None:
            max_fee = max(max_fee, -(-before.max_fee * 9 // 8))
            priority_fee = max(priority_fee, -(-before.priority_fee * 9 // 8))
        if fees.base + fees.priority > self.policy.max_fee_cap:
            raise RefusedError(f"the chain asks {fees.base + fees.priority} wei for gas, the cap is lower")
        max_fee = min(max_fee, self.policy.max_fee_cap)
        priority_fee = min(priority_fee, max_fee)
        raw = self.signer.sign(
            Transaction(
                chain_id=self.target.chain_id,
                nonce=nonce,
                to=self.target.contract,
                data=close_call(closing.log, closing.successor),
                gas=self.policy.gas,
                max_fee=max_fee,
                priority_fee=priority_fee,
            )
        )
        return ClosingTransaction(transaction_hash(raw), nonce, max_fee, priority_fee, raw, self.now_ms)

    def _move(self, closing: Closing, state: AnchorState, reason: str | None = None) -> Closing:
        moved = replace(closing, state=state, reason=reason, changed_ms=self.now_ms)
        if (state, reason) == (closing.state, closing.reason):
            return closing
        with self.store.write() as tx:
            tx.connection.execute(update(_closing).where(_closing.c.log == closing.log).values(_row(moved)))
        return moved


def _row(closing: Closing) -> dict[str, Any]:
    return {**{name: getattr(closing, name) for name in Closing.__slots__}, "state": closing.state.value}

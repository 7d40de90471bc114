"""The two things that are done to a contract directly, not through the outbox: deploying it, and closing a log.

Both can be interrupted and run again: they look first at what the chain holds.
"""

from __future__ import annotations

import time
from typing import Final

from eth_hash.auto import keccak

from anchoring.chain.client import Chain, SendRefused, WhyRefused
from anchoring.chain.outbox import AnchorTarget
from anchoring.chain.transactions import Transaction, TransactionSigner, contract_address
from anchoring.contracts import AnchorContract, close_call, load_contract
from identity.errors import TransportError

__all__ = ["close_log", "deploy_contract"]

_DEPLOY_GAS: Final = 600_000
"""Deploying uses 312,000."""

_CLOSE_GAS: Final = 150_000
"""Closing uses up to 69,000."""

_NONCES_SEARCHED: Final = 16
_POLL_S: Final = 0.5


def deploy_contract(chain: Chain, signer: TransactionSigner, *, wait_s: float = 120.0) -> bytes:
    """The address of the signer's anchor contract, deployed now unless it is there already.

    Returns when the contract is in a block; every receipt shows later that it is in a final one. Raises
    ``TransportError`` when that takes longer than ``wait_s``, or when the node refuses (no coins, for example). Running
    it again finds a contract whose transaction arrived meanwhile, because the address follows from signer and nonce.
    """
    contract = load_contract()
    nonce = chain.transaction_count(signer.address)
    for used in range(max(0, nonce - _NONCES_SEARCHED), nonce):
        address = contract_address(signer.address, used)
        if _is_deployed(chain, contract, address):
            return address
    _transact(chain, signer, None, contract.creation_code, _DEPLOY_GAS, wait_s)
    address = contract_address(signer.address, nonce)
    if not _is_deployed(chain, contract, address):
        raise TransportError(f"the contract was deployed, but the node does not show it at {address.hex()}")
    return address


def close_log(
    chain: Chain, signer: TransactionSigner, target: AnchorTarget, successor: bytes, *, wait_s: float = 120.0
) -> None:
    """Close the log in its contract, for ever, naming the log that goes on (or 32 zero bytes).

    Returns when that is in a block. Raises ``TransportError`` when it was closed before, or takes longer than
    ``wait_s``.
    """
    _transact(chain, signer, target.contract, close_call(target.log_id, successor), _CLOSE_GAS, wait_s)


def _is_deployed(chain: Chain, contract: AnchorContract, address: bytes) -> bool:
    return keccak(chain.code(address)) == contract.code_hash


def _transact(chain: Chain, signer: TransactionSigner, to: bytes | None, data: bytes, gas: int, wait_s: float) -> None:
    """Send a transaction and wait until it is in a block."""
    fees = chain.fees()
    max_fee = 2 * fees.base + fees.priority
    raw = signer.sign(
        Transaction(
            chain_id=chain.chain_id(),
            nonce=chain.transaction_count(signer.address),
            to=to,
            data=data,
            gas=gas,
            max_fee=max_fee,
            priority_fee=fees.priority,
        )
    )
    try:
        sent = chain.send_raw(raw)
    except SendRefused as exc:
        if exc.why is WhyRefused.NO_FUNDS:
            raise SendRefused(exc.why, _missing_funds(chain, signer.address, gas * max_fee)) from exc
        raise
    deadline = time.monotonic() + wait_s
    while (inclusion := chain.inclusion(sent)) is None:
        if time.monotonic() >= deadline:
            raise TransportError(f"transaction {sent.hex()} is not mined yet", hint="run the command again later")
        time.sleep(_POLL_S)
    if not inclusion.succeeded:
        raise TransportError(f"transaction {sent.hex()} reverted in block {inclusion.number}")


def _missing_funds(chain: Chain, account: bytes, needed: int) -> str:
    return (
        f"the account 0x{account.hex()} holds {chain.balance(account)} wei and this may take {needed}; "
        f"send coins to it and run the command again"
    )

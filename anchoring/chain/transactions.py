"""Transactions as the outbox sends them: EIP-1559, signed here, never by a node.

eth-account does the encoding and the secp256k1 signature; it is loaded at the first use because that takes a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from eth_hash.auto import keccak

from anchoring.receipt import DEVELOPMENT_CHAIN_ID
from anchoring.rlp_codec import encode_rlp, integer_to_rlp
from identity.errors import ConfigurationError, RefusedError

__all__ = ["LocalKey", "Transaction", "TransactionSigner", "contract_address", "transaction_hash"]

_CURVE_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""Of secp256k1 (SEC 2, section 2.4.1): a private key is a number below it."""

_DEVELOPMENT_KEYS: Final = frozenset(number.to_bytes(32, "big") for number in range(1, 11))
"""The keys 1 to 10: test chains give them coins, and everybody knows them."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """An EIP-1559 transaction, unsigned. ``to`` is 20 bytes, or None to create a contract; amounts are wei."""

    chain_id: int
    nonce: int
    to: bytes | None
    data: bytes
    gas: int
    max_fee: int
    priority_fee: int
    value: int = 0


class TransactionSigner(Protocol):
    """Holds a secp256k1 key, in memory or elsewhere."""

    @property
    def address(self) -> bytes:
        """The 20-byte address of the key."""

    def sign(self, transaction: Transaction) -> bytes:
        """The signed transaction's bytes, ready to send."""


class LocalKey:
    """A key in this process's memory."""

    def __init__(self, secret: bytes) -> None:
        """``secret`` is the 32-byte private key. Raises ``ConfigurationError`` when it is none."""
        if len(secret) != 32 or not 0 < int.from_bytes(secret, "big") < _CURVE_ORDER:
            raise ConfigurationError("the anchor key is not a secp256k1 private key")
        from eth_account import Account

        self._account = Account.from_key(secret)

    @property
    def address(self) -> bytes:
        """The 20-byte address of the key."""
        return bytes.fromhex(self._account.address[2:])

    def sign(self, transaction: Transaction) -> bytes:
        """The signed transaction's bytes.

        Raises ``RefusedError`` for a key that everybody knows, on any chain but the development chain.
        """
        if bytes(self._account.key) in _DEVELOPMENT_KEYS and transaction.chain_id != DEVELOPMENT_CHAIN_ID:
            raise RefusedError(f"the key of {self._account.address} is public: it signs for the development chain only")
        signed = self._account.sign_transaction(
            {
                "type": 2,
                "chainId": transaction.chain_id,
                "nonce": transaction.nonce,
                "to": b"" if transaction.to is None else transaction.to,
                "data": transaction.data,
                "gas": transaction.gas,
                "maxFeePerGas": transaction.max_fee,
                "maxPriorityFeePerGas": transaction.priority_fee,
                "value": transaction.value,
            }
        )
        return bytes(signed.raw_transaction)


def transaction_hash(raw: bytes) -> bytes:
    """The hash by which a chain knows the transaction."""
    return keccak(raw)


def contract_address(sender: bytes, nonce: int) -> bytes:
    """The address of the contract that the sender's transaction of that nonce creates."""
    return keccak(encode_rlp((sender, integer_to_rlp(nonce))))[12:]

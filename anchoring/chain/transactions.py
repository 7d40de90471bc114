"""Transactions as the outbox sends them: EIP-1559, signed here, never by a node, and read back from their bytes.

eth-account does the encoding and the secp256k1 signature; it is loaded at the first use because that takes a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from eth_hash.auto import keccak

from anchoring.receipt import DEVELOPMENT_CHAIN_ID
from anchoring.rlp_codec import decode_rlp, encode_rlp, integer_from_rlp, integer_to_rlp
from identity.errors import ConfigurationError, MalformedError, RefusedError

__all__ = [
    "LocalKey",
    "Transaction",
    "TransactionSigner",
    "contract_address",
    "parse_transaction",
    "transaction_hash",
    "transaction_sender",
]

_CURVE_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""Of secp256k1 (SEC 2, section 2.4.1): a private key is a number below it."""

_TYPE: Final = b"\x02"
_FIELD_BYTES: Final = (32, 8, 32, 32, 8)
"""The longest integers of the first five fields: chain id, nonce, the two fees, gas."""

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


def parse_transaction(raw: bytes) -> Transaction:
    """What a signed transaction asks for: the inverse of ``TransactionSigner.sign``, without the signature.

    Whose signature it is stays open: a chain takes it only from the one who signed. Raises ``MalformedError`` for
    anything but an EIP-1559 transaction with an empty access list.
    """
    if raw[:1] != _TYPE:
        raise MalformedError("transaction: not of the type of EIP-1559")
    fields = decode_rlp(raw[1:], what="transaction", max_depth=2)
    if isinstance(fields, bytes) or len(fields) != 12:
        raise MalformedError("transaction: not the twelve fields of EIP-1559")
    limits = zip(fields, _FIELD_BYTES, strict=False)
    chain_id, nonce, priority_fee, max_fee, gas = (
        integer_from_rlp(field, what="transaction", max_bytes=limit) for field, limit in limits
    )
    to, value, data, access, parity, *halves = fields[5:]
    if not isinstance(to, bytes) or len(to) not in (0, 20) or not isinstance(data, bytes) or access != ():
        raise MalformedError("transaction: receiver, data or access list is not in the format")
    if integer_from_rlp(parity, what="transaction", max_bytes=1) > 1:
        raise MalformedError("transaction: the signature's parity is neither 0 nor 1")
    for half in halves:
        if not 0 < integer_from_rlp(half, what="transaction", max_bytes=32) < _CURVE_ORDER:
            raise MalformedError("transaction: no signature of secp256k1")
    amount = integer_from_rlp(value, what="transaction", max_bytes=32)
    return Transaction(chain_id, nonce, to or None, data, gas, max_fee, priority_fee, amount)


def transaction_sender(raw: bytes) -> bytes:
    """The address whose key signed the transaction. Raises ``MalformedError`` when nobody's did."""
    parse_transaction(raw)
    from eth_account import Account
    from eth_keys.exceptions import BadSignature
    from eth_utils.exceptions import ValidationError

    try:
        return bytes.fromhex(Account.recover_transaction(raw)[2:])
    except (BadSignature, ValidationError, ValueError) as exc:
        raise MalformedError(f"transaction: its signature is of no key: {exc}") from exc

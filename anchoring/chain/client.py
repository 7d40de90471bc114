"""The port to an EVM chain: what anchoring asks of one, written as the contract that every implementation keeps.

``DevChain`` (in process) and ``JsonRpcChain`` implement it, and one test suite runs against both. Nothing that comes
from a chain is trusted for being there: headers hash to the block hash, and proofs are verified by
``anchoring.receipt``. What a chain is trusted with is named in docs/threat-model.md: availability, and, until a header
is pinned from several sources, which block is final.

Addresses are 20 bytes, hashes 32, amounts wei. Every method raises ``TransportError`` when the chain cannot be reached
or answers what its protocol does not allow; a chain in this process raises ``StorageError`` when its file fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from identity.errors import TransportError

__all__ = ["CallReverted", "Chain", "ChainReader", "Fees", "Inclusion", "SendRefused", "SlotProofs", "WhyRefused"]


@dataclass(frozen=True, slots=True)
class SlotProofs:
    """The proof of an account, and one proof for each slot asked for, in that order. Nothing is verified."""

    account_proof: tuple[bytes, ...]
    storage_proofs: tuple[tuple[bytes, ...], ...]


@dataclass(frozen=True, slots=True)
class Inclusion:
    """Where a transaction was mined, as the node says. ``succeeded`` is False when it reverted."""

    block_hash: bytes
    number: int
    succeeded: bool


@dataclass(frozen=True, slots=True)
class Fees:
    """What the chain charges now, in wei for each unit of gas (EIP-1559)."""

    base: int
    priority: int


class WhyRefused(StrEnum):
    """Why a node did not take a transaction."""

    NONCE_USED = "nonce-used"
    UNDERPRICED = "underpriced"
    NO_FUNDS = "no-funds"
    OTHER = "other"


class SendRefused(TransportError):
    """A node did not take a transaction. The outbox tells the reasons apart."""

    def __init__(self, why: WhyRefused, message: str) -> None:
        super().__init__(f"the node refused the transaction ({why.value}): {message}")
        self.why = why


class CallReverted(TransportError):
    """A call was executed and refused by the contract. ``data`` is what it returned, usually ``Error(string)``."""

    def __init__(self, reason: str, data: bytes) -> None:
        super().__init__(f"execution reverted: {reason}")
        self.data = data


class ChainReader(Protocol):
    """Reading a chain's final state: all that the rollback check needs."""

    def chain_id(self) -> int:
        """The id that signatures are bound to (EIP-155)."""

    def head_number(self) -> int:
        """The number of the newest block."""

    def final_number(self) -> int:
        """The number of the newest block that is final by the chain's finality rule."""

    def header(self, number: int) -> bytes:
        """The RLP of the canonical block header of that number."""

    def get_proof(self, contract: bytes, slots: Sequence[int], number: int) -> SlotProofs:
        """Proofs of the contract's account and of its storage slots, in the state after block ``number``."""


class Chain(ChainReader, Protocol):
    """A chain that transactions can be sent to."""

    def code(self, address: bytes) -> bytes:
        """The code at the address in the newest state, empty when there is none."""

    def balance(self, address: bytes) -> int:
        """The address's balance in the newest state."""

    def transaction_count(self, address: bytes) -> int:
        """How many transactions of the address are mined: the next nonce, with none of its own pending."""

    def fees(self) -> Fees:
        """What the chain charges now."""

    def call(self, contract: bytes, data: bytes, sender: bytes = bytes(20)) -> bytes:
        """What the contract returns to ``sender`` in the newest state. A look: a node proves nothing with it."""

    def send_raw(self, raw: bytes) -> bytes:
        """Hand over a signed transaction; returns its hash. One that the node knows already is a success.

        Raises ``SendRefused`` when the node did not take it.
        """

    def inclusion(self, transaction_hash: bytes) -> Inclusion | None:
        """Where the transaction was mined, or None while it is not in a canonical block."""

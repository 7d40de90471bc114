"""What to offer for a transaction: pure arithmetic over what the chain charges and what its owner allows.

Fees are wei for each unit of gas (EIP-1559). A market model that predicts base fees would replace these functions.

Spec: docs/spec/anchor.md, section 5.
"""

from __future__ import annotations

from dataclasses import dataclass

from anchoring.chain.client import Fees
from identity.errors import RefusedError

__all__ = ["Offer", "first_offer", "is_priced_out", "raised_offer"]


@dataclass(frozen=True, slots=True)
class Offer:
    """The most that is paid for a unit of gas, and how much of it goes to the block's producer."""

    max_fee: int
    priority_fee: int


def first_offer(fees: Fees, cap: int) -> Offer:
    """Enough for a base fee that doubles, and the tip; never above ``cap``.

    Raises ``RefusedError`` when the chain asks for more than the cap now.
    """
    asked = fees.base + fees.priority
    if asked > cap:
        raise RefusedError(
            f"the chain asks {asked} wei for gas, the cap is {cap}",
            hint="wait until gas is cheaper, or raise chain.max_fee_gwei",
        )
    return Offer(min(2 * fees.base + fees.priority, cap), fees.priority)


def raised_offer(last: Offer, fees: Fees, cap: int) -> Offer | None:
    """An offer that nodes take in place of ``last``, at least what the market asks; None when the cap forbids it.

    Nodes take a replacement when both fees grow by a tenth (geth) or an eighth (others).
    """
    least = Offer(-(-last.max_fee * 9 // 8), -(-last.priority_fee * 9 // 8))
    max_fee = min(max(2 * fees.base + fees.priority, least.max_fee), cap)
    priority_fee = min(max(fees.priority, least.priority_fee), max_fee)
    if max_fee < least.max_fee or priority_fee < least.priority_fee:
        return None
    return Offer(max_fee, priority_fee)


def is_priced_out(last: Offer, fees: Fees) -> bool:
    """Whether no block can hold a transaction with this offer while the base fee is what it is."""
    return last.max_fee < fees.base

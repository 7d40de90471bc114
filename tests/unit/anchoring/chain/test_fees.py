"""What is offered for a transaction: above what nodes take as a replacement, never above the cap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchoring.chain.client import Fees
from anchoring.chain.fees import Offer, first_offer, is_priced_out, raised_offer
from identity.errors import RefusedError

amounts = st.integers(0, 10**13)
markets = st.builds(Fees, amounts, amounts)


def test_the_first_offer_bears_a_base_fee_that_doubles() -> None:
    assert first_offer(Fees(10, 3), 100) == Offer(23, 3)
    assert first_offer(Fees(10, 3), 20) == Offer(20, 3)
    assert first_offer(Fees(10, 3), 13) == Offer(13, 3)
    with pytest.raises(RefusedError, match="asks 13 wei for gas, the cap is 12"):
        first_offer(Fees(10, 3), 12)


def test_an_offer_rises_by_an_eighth_or_to_the_market() -> None:
    assert raised_offer(Offer(80, 8), Fees(1, 1), 1000) == Offer(90, 9)
    assert raised_offer(Offer(80, 8), Fees(100, 30), 1000) == Offer(230, 30)
    assert raised_offer(Offer(81, 7), Fees(1, 1), 1000) == Offer(92, 8)
    assert raised_offer(Offer(80, 8), Fees(100, 30), 95) == Offer(95, 30)
    assert raised_offer(Offer(80, 8), Fees(1, 1), 89) is None
    assert raised_offer(Offer(80, 8), Fees(100, 30), 89) is None


def test_an_offer_below_the_base_fee_is_in_no_block() -> None:
    assert is_priced_out(Offer(80, 8), Fees(81, 0))
    assert not is_priced_out(Offer(80, 8), Fees(80, 0))


@given(markets, amounts)
def test_a_first_offer_is_one_that_a_chain_takes(market: Fees, cap: int) -> None:
    if market.base + market.priority > cap:
        with pytest.raises(RefusedError):
            first_offer(market, cap)
    else:
        offer = first_offer(market, cap)
        assert market.base + market.priority <= offer.max_fee <= cap
        assert offer.priority_fee <= offer.max_fee


@given(amounts, amounts, markets, amounts)
def test_a_raised_offer_is_one_that_nodes_take(max_fee: int, priority: int, market: Fees, cap: int) -> None:
    last = Offer(max_fee + priority, priority)
    offer = raised_offer(last, market, cap)
    if offer is None:
        assert cap * 8 < last.max_fee * 9 or cap < last.priority_fee * 9 / 8
    else:
        assert last.max_fee * 9 <= offer.max_fee * 8 <= cap * 8
        assert last.priority_fee * 9 <= offer.priority_fee * 8
        assert offer.priority_fee <= offer.max_fee

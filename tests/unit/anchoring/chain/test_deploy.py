"""Deploying: a key without coins is told which account wants them."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from anchoring.chain.client import SendRefused, WhyRefused
from anchoring.chain.deploy import deploy_contract
from anchoring.chain.dev import DevChain
from anchoring.chain.transactions import LocalKey


def test_a_key_without_coins_is_told_its_account(chain_path: Path) -> None:
    poor = LocalKey(sha256(b"a key without coins").digest())
    with DevChain(chain_path) as chain:
        chain.fund(poor.address, 5)
        with pytest.raises(SendRefused, match=rf"0x{poor.address.hex()} holds 5 wei .* send coins to it") as caught:
            deploy_contract(chain, poor)
        assert caught.value.why is WhyRefused.NO_FUNDS
        chain.fund(poor.address, 10**18)
        assert deploy_contract(chain, poor)

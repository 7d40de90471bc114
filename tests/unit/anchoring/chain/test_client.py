"""The contract of ``Chain``, kept by the chain in this process and by the same chain behind JSON-RPC."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from eth_hash.auto import keccak

from anchoring.chain.client import Chain, Inclusion, SendRefused, WhyRefused
from anchoring.chain.dev import DevChain
from anchoring.chain.jsonrpc import JsonRpcChain
from anchoring.chain.outbox import AnchorTarget
from anchoring.chain.rpc_server import DevChainServer
from anchoring.chain.transactions import LocalKey, Transaction, transaction_hash
from anchoring.contracts import anchor_call, load_contract, records_call
from anchoring.receipt import DEVELOPMENT_CHAIN_ID, AnchorReceipt, parse_header, slots, verify_receipt
from identity.errors import TransportError


@pytest.fixture(params=["in process", "served"])
def any_chain(request: pytest.FixtureRequest, chain: DevChain) -> Iterator[Chain]:
    if request.param == "in process":
        yield chain
        return
    with (
        DevChainServer(chain) as server,
        JsonRpcChain([server.url], chain_id=DEVELOPMENT_CHAIN_ID, confirmations=None) as client,
    ):
        yield client


def anchor(chain: Chain, key: LocalKey, target: AnchorTarget, **changes: int) -> bytes:
    fees = chain.fees()
    fields = {"nonce": chain.transaction_count(key.address), "gas": 150_000}
    fields |= {"max_fee": 2 * fees.base + fees.priority, "priority_fee": fees.priority} | changes
    data = anchor_call(target.log_id, 0, 5, b"\x05" * 32)
    return key.sign(Transaction(chain_id=chain.chain_id(), to=target.contract, data=data, **fields))


def test_an_anchor_is_sent_found_and_proven(any_chain: Chain, key: LocalKey, target: AnchorTarget) -> None:
    raw = anchor(any_chain, key, target)
    assert any_chain.inclusion(transaction_hash(raw)) is None
    before = any_chain.head_number()
    assert any_chain.send_raw(raw) == transaction_hash(raw)
    inclusion = any_chain.inclusion(transaction_hash(raw))
    header = any_chain.header(before + 1)
    assert inclusion == Inclusion(keccak(header), before + 1, True)
    meta, root, successor = slots(target.owner, target.log_id)
    proofs = any_chain.get_proof(target.contract, (meta, root), before + 1)
    shown = verify_receipt(
        AnchorReceipt(header, proofs.account_proof, (proofs.storage_proofs[0], proofs.storage_proofs[1])),
        contract=target.contract,
        owner=target.owner,
        log_id=target.log_id,
        block_hash=keccak(header),
        code_hash=target.code_hash,
    )
    assert (shown.record.size, shown.record.root) == (5, b"\x05" * 32)
    assert len(any_chain.get_proof(target.contract, (successor, meta, successor), before).storage_proofs) == 3


def test_state_is_the_newest(any_chain: Chain, key: LocalKey, target: AnchorTarget) -> None:
    assert any_chain.chain_id() == DEVELOPMENT_CHAIN_ID
    assert any_chain.code(target.contract) == load_contract().runtime_code
    assert any_chain.code(key.address) == b""
    assert any_chain.transaction_count(key.address) == 1
    balance = any_chain.balance(key.address)
    any_chain.send_raw(anchor(any_chain, key, target))
    assert any_chain.transaction_count(key.address) == 2
    assert 0 < any_chain.balance(key.address) < balance
    assert any_chain.balance(b"\x77" * 20) == any_chain.transaction_count(b"\x77" * 20) == 0


def test_heads_and_headers_agree(any_chain: Chain) -> None:
    assert any_chain.final_number() == any_chain.head_number() == 2
    for number in range(3):
        assert parse_header(any_chain.header(number)).number == number
    for absent in (3, 10**12):
        with pytest.raises(TransportError):
            any_chain.header(absent)


def test_calls_look_at_the_contract(any_chain: Chain, target: AnchorTarget) -> None:
    assert any_chain.call(target.contract, records_call(target.owner, target.log_id)) == bytes(96)
    with pytest.raises(TransportError, match="stale"):
        any_chain.call(target.contract, anchor_call(target.log_id, 1, 5, b"\x05" * 32), target.owner)


def test_a_reverted_transaction_is_found_as_such(any_chain: Chain, key: LocalKey, target: AnchorTarget) -> None:
    any_chain.send_raw(anchor(any_chain, key, target))
    again = any_chain.send_raw(anchor(any_chain, key, target))
    inclusion = any_chain.inclusion(again)
    assert inclusion is not None
    assert not inclusion.succeeded


def test_sending_again_is_a_success(any_chain: Chain, key: LocalKey, target: AnchorTarget) -> None:
    raw = anchor(any_chain, key, target)
    assert any_chain.send_raw(raw) == any_chain.send_raw(raw)
    assert any_chain.transaction_count(key.address) == 2


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"nonce": 0}, WhyRefused.NONCE_USED),
        ({"max_fee": 1, "priority_fee": 1}, WhyRefused.UNDERPRICED),
        ({"max_fee": 10**15}, WhyRefused.NO_FUNDS),
        ({"nonce": 99}, WhyRefused.OTHER),
    ],
)
def test_the_reasons_of_refusal_are_told_apart(
    any_chain: Chain, key: LocalKey, target: AnchorTarget, changes: dict[str, int], why: WhyRefused
) -> None:
    with pytest.raises(SendRefused) as caught:
        any_chain.send_raw(anchor(any_chain, key, target, **changes))
    assert caught.value.why is why


def test_fees_are_enough_for_the_next_block(any_chain: Chain, key: LocalKey, target: AnchorTarget) -> None:
    fees = any_chain.fees()
    any_chain.send_raw(anchor(any_chain, key, target, max_fee=fees.base + fees.priority))

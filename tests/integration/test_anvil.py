"""The chain client and the outbox against anvil, a node that is not ours."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from anchoring.chain.deploy import deploy_contract
from anchoring.chain.jsonrpc import JsonRpcChain
from anchoring.chain.outbox import AnchorTarget, advance, enqueue
from anchoring.chain.transactions import LocalKey
from anchoring.contracts import load_contract, records_call
from anchoring.receipt import verify_receipt
from anchoring.storage import AnchorState, load_anchors, load_receipt
from identity.errors import TransportError
from ledger.storage.sqlite import open_sqlite

pytestmark = pytest.mark.integration

CHAIN_ID = 31337
LOG_ID = bytes(range(32))
KEY = LocalKey((2**200 + 11).to_bytes(32, "big"))


class Anvil:
    """A running node, and the calls that only a test node has."""

    def __init__(self, url: str) -> None:
        self.url = url

    def do(self, method: str, *params: object) -> None:
        answer = httpx.post(self.url, json={"jsonrpc": "2.0", "id": 1, "method": method, "params": params}, timeout=10)
        assert "error" not in answer.json(), answer.text


@pytest.fixture
def anvil() -> Iterator[Anvil]:
    program = shutil.which("anvil")
    if program is None:
        pytest.skip("anvil is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([program, "--port", str(port), "--silent", "--chain-id", str(CHAIN_ID)])
    node = Anvil(f"http://127.0.0.1:{port}")
    try:
        for _ in range(100):
            try:
                node.do("anvil_setBalance", "0x" + KEY.address.hex(), hex(10**19))
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield node
    finally:
        process.kill()
        process.wait()


def test_an_anchor_becomes_final_and_its_receipt_verifies(anvil: Anvil, tmp_path: Path) -> None:
    with JsonRpcChain([anvil.url], chain_id=CHAIN_ID, confirmations=2) as chain:
        contract = deploy_contract(chain, KEY)
        assert deploy_contract(chain, KEY) == contract
        target = AnchorTarget(CHAIN_ID, contract, KEY.address, LOG_ID, load_contract().code_hash)
        store = open_sqlite(tmp_path / "store.db", create=True)
        for size in (5, 9):
            with store.write() as tx:
                enqueue(tx, size, bytes([size]) * 32, now_ms=1)
            assert [step.after for step in advance(store, chain, KEY, target, 1)] == ["submitted", "mined"]
            assert advance(store, chain, KEY, target, 1) == []
            anvil.do("anvil_mine", "0x2")
            assert [step.after for step in advance(store, chain, KEY, target, 1)] == ["final"]
        with store.read() as tx:
            for anchor in load_anchors(tx.connection, AnchorState.FINAL):
                receipt = load_receipt(tx.connection, anchor)
                assert receipt is not None
                assert anchor.block_hash is not None
                shown = verify_receipt(
                    receipt,
                    contract=contract,
                    owner=KEY.address,
                    log_id=LOG_ID,
                    block_hash=anchor.block_hash,
                    code_hash=target.code_hash,
                )
                assert (shown.record.size, shown.record.root) == (anchor.size, anchor.root)
        assert chain.call(contract, records_call(KEY.address, LOG_ID))[24:64] == (9).to_bytes(8, "big") + b"\x09" * 32


def test_a_reorganisation_sends_the_same_bytes_again(anvil: Anvil, tmp_path: Path) -> None:
    with JsonRpcChain([anvil.url], chain_id=CHAIN_ID, confirmations=3) as chain:
        target = AnchorTarget(CHAIN_ID, deploy_contract(chain, KEY), KEY.address, LOG_ID, load_contract().code_hash)
        anvil.do("anvil_mine", "0x5")
        store = open_sqlite(tmp_path / "store.db", create=True)
        with store.write() as tx:
            enqueue(tx, 5, b"\x05" * 32, now_ms=1)
        advance(store, chain, KEY, target, 1)
        anvil.do("anvil_reorg", 1, [])
        steps = [step.after for step in advance(store, chain, KEY, target, 2)]
        assert steps[:2] == ["pending", "submitted"]
        anvil.do("anvil_mine", "0x5")
        steps += [step.after for step in advance(store, chain, KEY, target, 3)]
        anvil.do("anvil_mine", "0x5")
        steps += [step.after for step in advance(store, chain, KEY, target, 3)]
        assert steps[-2:] == ["mined", "final"]
        assert chain.transaction_count(KEY.address) == 2


def test_every_header_of_the_node_rebuilds(anvil: Anvil) -> None:
    with JsonRpcChain([anvil.url], chain_id=CHAIN_ID, confirmations=0) as chain:
        anvil.do("anvil_mine", "0x3")
        assert all(chain.header(number) for number in range(4))
        with pytest.raises(TransportError):
            chain.header(99)


def test_a_node_of_another_chain_is_not_used(anvil: Anvil) -> None:
    with JsonRpcChain([anvil.url], chain_id=1, confirmations=0) as chain, pytest.raises(TransportError, match="31337"):
        chain.head_number()

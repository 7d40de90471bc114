"""What a real node does to an outbox: reorganisations, a fee market, a stuck nonce, an empty purse, a lost chain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from anchoring.chain.agreement import all_who_answer
from anchoring.chain.check import ChainView, LogPosition, check_rollback
from anchoring.chain.client import SendRefused, WhyRefused
from anchoring.chain.deploy import deploy_contract
from anchoring.chain.jsonrpc import JsonRpcChain
from anchoring.chain.outbox import AnchorChange, AnchorTarget, OutboxPolicy, advance, enqueue
from anchoring.chain.transactions import LocalKey, Transaction
from anchoring.contracts import load_contract, records_call
from anchoring.rollback import RollbackState
from anchoring.storage import (
    AnchorState,
    StoredTransaction,
    find_anchor,
    load_anchors,
    load_receipt,
    load_transactions,
)
from identity.errors import ConfigurationError, ReadOnlyState, RefusedError, TransportError
from ledger.statement import ChainBinding
from ledger.storage.sql import SqlStore
from ledger.storage.sqlite import open_sqlite

pytestmark = pytest.mark.integration

Anvil = Any
"""``conftest.Anvil``."""

CHAIN_ID = 31337
LOG_ID = sha256(b"a log").digest()
PENDING, SUBMITTED, MINED, FINAL, FAILED = AnchorState
GWEI = 10**9
BUMP_MS = 1000


class Ground:
    """A store, a log's contract on a node, and rounds of the outbox with a clock that the test moves."""

    def __init__(self, node: Anvil, path: Path, key: LocalKey, *, confirmations: int = 3) -> None:
        self.node, self.key, self.confirmations = node, key, confirmations
        self.store: SqlStore = open_sqlite(path, create=True)
        self.now_ms = 0
        self.policy = OutboxPolicy(bump_after_ms=BUMP_MS, max_fee_cap=300 * GWEI)
        with self.connect() as chain:
            contract = deploy_contract(chain, key)
        self.target = AnchorTarget(CHAIN_ID, contract, key.address, LOG_ID, load_contract().code_hash)
        node.mine(5)

    def connect(self, url: str = "") -> JsonRpcChain:
        return JsonRpcChain([url or self.node.url], chain_id=CHAIN_ID, confirmations=self.confirmations)

    def ask(self, size: int) -> None:
        with self.store.write() as tx:
            enqueue(tx, size, bytes([size]) * 32, now_ms=self.now_ms)

    def advance(self, wait_ms: int = 1, **options: Any) -> list[tuple[int, AnchorState, str | None]]:
        self.now_ms += wait_ms
        changes: list[AnchorChange] = []
        with self.connect() as chain:
            advance(
                self.store,
                chain,
                self.key,
                self.target,
                self.now_ms,
                self.policy,
                on_change=changes.append,
                **options,
            )
        return [(change.size, change.after, change.reason) for change in changes]

    def settle(self) -> dict[int, AnchorState]:
        for _ in range(8):
            self.advance()
            if set(self.states().values()) <= {FINAL, FAILED}:
                break
            self.node.mine(2)
        return self.states()

    def states(self) -> dict[int, AnchorState]:
        with self.store.read() as tx:
            return {anchor.size: anchor.state for anchor in load_anchors(tx.connection)}

    def transactions(self, size: int) -> list[StoredTransaction]:
        with self.store.read() as tx:
            return load_transactions(tx.connection, size)

    def recorded_size(self) -> int:
        with self.connect() as chain:
            return int.from_bytes(
                chain.call(self.target.contract, records_call(self.key.address, LOG_ID))[24:32], "big"
            )


@pytest.fixture
def grounds(own_anvil: Callable[..., Anvil], tmp_path: Path, anchor_key: LocalKey) -> Iterator[Callable[..., Ground]]:
    made: list[Ground] = []

    def make(*options: str, confirmations: int = 3, **arguments: Any) -> Ground:
        node = own_anvil(*options, **arguments)
        made.append(Ground(node, tmp_path / f"store{len(made)}.db", anchor_key, confirmations=confirmations))
        return made[-1]

    yield make
    for ground in made:
        with closing(ground.store):
            pass


@pytest.fixture
def ground(grounds: Callable[..., Ground]) -> Ground:
    return grounds()


# Reorganisations


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_reorganisation_sends_the_same_bytes_again(ground: Ground, depth: int) -> None:
    ground.ask(5)
    ground.advance()
    ground.advance()
    assert ground.states() == {5: MINED}
    ground.node.mine(depth - 1)
    ground.node.do("anvil_reorg", depth, [])
    assert ground.advance()[:2] == [(5, PENDING, "REORG"), (5, SUBMITTED, None)]
    assert ground.settle() == {5: FINAL}
    assert len(ground.transactions(5)) == 1
    assert ground.recorded_size() == 5


def test_a_chain_that_is_set_back_gets_everything_again(ground: Ground) -> None:
    """Two anchors in blocks that never were: both come back, in order."""
    snapshot = ground.node.do("evm_snapshot")
    for size in (5, 9):
        ground.ask(size)
        ground.advance()
        ground.advance()
    assert ground.states() == {5: MINED, 9: MINED}
    assert ground.node.do("evm_revert", snapshot) is True
    assert ground.advance()[:2] == [(5, PENDING, "REORG"), (5, SUBMITTED, None)]
    assert ground.settle() == {5: FINAL, 9: FINAL}
    assert ground.recorded_size() == 9


def test_a_final_block_that_vanishes_is_an_incident_and_nothing_is_anchored_again(ground: Ground) -> None:
    snapshot = ground.node.do("evm_snapshot")
    ground.ask(5)
    assert ground.settle() == {5: FINAL}
    assert ground.node.do("evm_revert", snapshot) is True
    ground.ask(9)
    with pytest.raises(TransportError, match="the node is behind"):
        ground.advance()
    ground.node.mine(40)
    with pytest.raises(ReadOnlyState, match="foreign-chain: the final anchor of size 5") as incident:
        ground.advance()
    assert incident.value.state == RollbackState.FOREIGN_CHAIN
    assert (ground.states(), ground.transactions(9), ground.recorded_size()) == ({5: FINAL, 9: PENDING}, [], 0)
    with ground.store.read() as tx:
        final = find_anchor(tx.connection, 5)
    assert final is not None
    assert final.block_number is not None
    assert final.block_hash is not None
    with ground.connect() as chain:
        log = LogPosition(
            LOG_ID,
            ChainBinding(CHAIN_ID, ground.target.contract, ground.key.address),
            9,
            lambda size: bytes([size]) * 32,
        )
        newest = int(ground.node.do("eth_getBlockByNumber", "latest", False)["timestamp"], 16) * 1000
        view = ChainView({"anvil": chain}, CHAIN_ID, ground.target.code_hash)
        check = check_rollback(view, log, (5, final.block_number, final.block_hash), newest)
    assert check.state is RollbackState.FOREIGN_CHAIN


# Fees and nonces, with blocks that come when the test says so


@pytest.fixture
def pool(ground: Ground) -> Ground:
    ground.node.do("evm_setAutomine", False)
    return ground


def test_a_transaction_that_waits_is_replaced_by_one_that_offers_more(pool: Ground) -> None:
    pool.ask(5)
    pool.advance()
    for _ in range(3):
        assert pool.advance(BUMP_MS) == []
    offers = pool.transactions(5)
    assert len(offers) == 4
    assert len({offer.nonce for offer in offers}) == 1
    for before, after in pairwise(offers):
        assert after.max_fee * 8 >= before.max_fee * 9
        assert after.priority_fee * 8 >= before.priority_fee * 9
    waiting = pool.node.do("txpool_content")["pending"]
    ((only,),) = [list(of_account.values()) for of_account in waiting.values()]
    assert only["hash"] == "0x" + offers[-1].hash.hex(), "the node holds the last offer, and only that"
    pool.node.mine(1)
    assert [state for _, state, _ in pool.advance()] == [MINED]
    assert pool.settle() == {5: FINAL}
    assert pool.recorded_size() == 5


def test_a_fee_above_the_cap_waits_and_says_so(pool: Ground) -> None:
    pool.node.do("anvil_setNextBlockBaseFeePerGas", hex(400 * GWEI))
    pool.node.mine(1)
    pool.ask(5)
    with pytest.raises(RefusedError, match="the cap is 300000000000"):
        pool.advance()
    assert pool.states() == {5: PENDING}
    pool.node.do("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
    pool.node.mine(1)
    pool.advance()
    pool.node.mine(1)
    assert pool.settle() == {5: FINAL}
    assert all(offer.max_fee <= 300 * GWEI for offer in pool.transactions(5))


def test_a_fee_that_rises_above_the_cap_later_waits_for_a_cheaper_block(pool: Ground) -> None:
    pool.ask(5)
    pool.advance()
    pool.node.do("anvil_setNextBlockBaseFeePerGas", hex(400 * GWEI))
    pool.node.mine(1)
    with pytest.raises(RefusedError, match="the cap allows no more"):
        for _ in range(60):
            pool.advance(BUMP_MS)
    offers = pool.transactions(5)
    assert offers[-1].max_fee <= 300 * GWEI
    pool.node.do("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
    pool.node.mine(2)
    assert pool.settle() == {5: FINAL}
    assert pool.transactions(5) == offers


def spend(ground: Ground, nonce: int) -> bytes:
    """A transaction of the anchor key that the outbox knows nothing of."""
    transfer = Transaction(CHAIN_ID, nonce, b"\x11" * 20, b"", 21_000, 250 * GWEI, 20 * GWEI, 1)
    with ground.connect() as chain:
        return chain.send_raw(ground.key.sign(transfer))


def test_a_nonce_that_somebody_else_used(pool: Ground) -> None:
    """Another program with the same key replaces the anchor in the pool: a new transaction takes the next nonce."""
    pool.ask(5)
    pool.advance()
    (own,) = pool.transactions(5)
    spend(pool, own.nonce)
    pool.node.mine(1)
    assert pool.advance() == []
    assert [offer.nonce for offer in pool.transactions(5)] == [own.nonce, own.nonce + 1]
    pool.node.mine(1)
    assert pool.settle() == {5: FINAL}


def test_a_gap_of_nonces_is_filled(pool: Ground) -> None:
    """The other program's transaction came first and is dropped: ours would wait for ever."""
    with pool.connect() as chain:
        nonce = chain.transaction_count(pool.key.address)
    other = spend(pool, nonce)
    pool.node.mine(1)
    pool.ask(5)
    pool.advance()
    (stuck,) = pool.transactions(5)
    assert stuck.nonce == nonce + 1
    pool.node.do("anvil_reorg", 1, [])
    pool.node.do("anvil_dropTransaction", "0x" + other.hex())
    assert pool.advance() == []
    assert pool.transactions(5) == [stuck], "a node that is behind looks the same for a while"
    pool.advance(BUMP_MS)
    assert [offer.nonce for offer in pool.transactions(5)] == [nonce + 1, nonce]
    pool.node.mine(2)
    assert pool.settle() == {5: FINAL}
    assert pool.recorded_size() == 5


def test_a_node_that_forgot_its_pool_gets_the_transaction_again(pool: Ground) -> None:
    pool.ask(5)
    pool.advance()
    pool.node.do("anvil_dropAllTransactions")
    pool.node.mine(1)
    assert pool.advance() == []
    pool.node.mine(1)
    assert pool.settle() == {5: FINAL}
    assert len(pool.transactions(5)) == 1


def test_an_account_without_coins(ground: Ground) -> None:
    ground.node.fund(ground.key.address, 1000)
    ground.node.mine(1)
    ground.ask(5)
    for _ in range(2):
        with pytest.raises(SendRefused, match=rf"0x{ground.key.address.hex()} holds 1000 wei .* send coins") as refused:
            ground.advance()
        assert refused.value.why is WhyRefused.NO_FUNDS
    assert ground.states() == {5: SUBMITTED}
    ground.node.fund(ground.key.address)
    ground.node.mine(1)
    assert ground.settle() == {5: FINAL}
    assert len(ground.transactions(5)) == 1


# Nodes that come back as others


def test_a_node_that_is_down_and_comes_back(grounds: Callable[..., Ground]) -> None:
    ground = grounds(persistent=True)
    ground.ask(5)
    ground.advance()
    ground.node.save()
    ground.node.kill()
    before = ground.states()
    with pytest.raises(TransportError):
        ground.advance()
    assert ground.states() == before
    assert before in ({5: SUBMITTED}, {5: MINED})
    ground.node.start()
    assert ground.settle() == {5: FINAL}


def test_a_node_that_is_started_empty_gets_nothing(grounds: Callable[..., Ground]) -> None:
    """The same id, the same key, even the same contract at the same address: and another chain all the same."""
    ground = grounds()
    ground.ask(5)
    assert ground.settle() == {5: FINAL}
    with ground.store.read() as tx:
        final = find_anchor(tx.connection, 5)
        assert final is not None
        receipt = load_receipt(tx.connection, final)
    ground.node.kill()
    ground.node.start()
    ground.node.fund(ground.key.address)
    ground.ask(9)
    with pytest.raises(TransportError, match="the node is behind"):
        ground.advance()
    with ground.connect() as chain:
        assert deploy_contract(chain, ground.key) == ground.target.contract
    ground.node.mine(60)
    for _ in range(2):
        with pytest.raises(ReadOnlyState, match="foreign-chain"):
            ground.advance()
    assert ground.recorded_size() == 0
    assert ground.transactions(9) == []
    with ground.store.read() as tx:
        assert load_receipt(tx.connection, final) == receipt, "what was proven stays archived"


def test_a_node_of_another_chain_is_not_used(own_anvil: Callable[..., Anvil]) -> None:
    with (
        JsonRpcChain([own_anvil().url], chain_id=1, confirmations=0) as chain,
        pytest.raises(TransportError, match="31337"),
    ):
        chain.head_number()


def test_a_log_of_another_chain_is_not_anchored_here(ground: Ground) -> None:
    ground.ask(5)
    ground.target = AnchorTarget(1, *(getattr(ground.target, name) for name in AnchorTarget.__slots__[1:]))
    with pytest.raises(ConfigurationError, match="anchored on chain 1"):
        ground.advance()


def test_nothing_is_final_while_two_nodes_disagree(grounds: Callable[..., Ground]) -> None:
    one, other = grounds(), grounds()
    one.ask(5)
    one.advance()
    one.advance()
    one.node.mine(5)
    other.node.mine(9)
    with other.connect() as second:
        agree = all_who_answer({"second": second})
        with pytest.raises(TransportError, match="the nodes disagree: second has block"):
            one.advance(agree=agree)
        assert one.states() == {5: MINED}
        other.node.kill()
        assert one.advance(agree=agree) == [(5, FINAL, None)]


def test_every_header_of_the_node_rebuilds(ground: Ground) -> None:
    with ground.connect() as chain:
        assert all(chain.header(number) for number in range(4))
        with pytest.raises(TransportError):
            chain.header(99)

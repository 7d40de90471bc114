"""The outbox: durable at every step, restartable after every failure, at home in reorganisations."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from eth_hash.auto import keccak

from anchoring.chain.client import Chain, Fees, Inclusion, SendRefused, SlotProofs, WhyRefused
from anchoring.chain.deploy import close_log
from anchoring.chain.dev import DevChain
from anchoring.chain.outbox import AnchorChange, AnchorTarget, OutboxPolicy, SqlStorePort, advance, enqueue
from anchoring.chain.transactions import LocalKey, Transaction, transaction_hash
from anchoring.contracts import anchor_call
from anchoring.receipt import AnchorReceipt, read_anchor, slots, verify_receipt
from anchoring.storage import (
    AnchorState,
    StoredAnchor,
    StoredTransaction,
    load_anchors,
    load_receipt,
    load_transactions,
    move_anchor,
)
from identity.errors import (
    ConfigurationError,
    ConflictError,
    ReceiptMismatch,
    RefusedError,
    StorageError,
    TransportError,
)
from ledger.storage.engine import open_store
from ledger.storage.sql import SqlStore
from ledger.storage.sqlite import open_sqlite

PENDING, SUBMITTED, MINED, FINAL, FAILED = AnchorState
GWEI = 10**9


class PoolChain:
    """A chain with a mempool, a finality that lags, and reorganisations, over development chains on disk."""

    def __init__(self, path: Path, confirmations: int) -> None:
        self.path = path
        self.confirmations = confirmations
        self.chain = DevChain(path)
        self.pool: dict[bytes, bytes] = {}
        self.sent: list[bytes] = []
        self.market: Fees | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.chain, name)

    def send_raw(self, raw: bytes) -> bytes:
        self.sent.append(raw)
        if self.market is None:
            self.pool[transaction_hash(raw)] = raw
        return transaction_hash(raw)

    def fees(self) -> Fees:
        return self.market or self.chain.fees()

    def final_number(self) -> int:
        return max(0, self.chain.head_number() - self.confirmations)

    def mine(self, blocks: int = 1) -> None:
        """Blocks with what is in the pool, in the order it came."""
        pool, self.pool = self.pool, {}
        for raw in pool.values():
            self.chain.send_raw(raw)
        for _ in range(blocks):
            self.chain.mine()

    @contextmanager
    def undone(self) -> Iterator[None]:
        """What is mined inside is replaced by an empty block afterwards."""
        self.chain.close()
        shutil.copy(self.path, self.path.with_suffix(".fork"))
        self.chain = DevChain(self.path)
        yield
        self.chain.close()
        shutil.copy(self.path.with_suffix(".fork"), self.path)
        for leftover in ("-wal", "-shm"):
            self.path.with_name(self.path.name + leftover).unlink(missing_ok=True)
        self.chain = DevChain(self.path)
        self.chain.mine()


class Crash(Exception):
    """The process ends here."""


class Crashing:
    """Counts what is done to chain and store, and ends the process at one of these points, once."""

    def __init__(self, at: int) -> None:
        self.left = at

    def point(self) -> None:
        self.left -= 1
        if self.left == -1:
            raise Crash

    def chain(self, chain: Chain) -> Chain:
        return _Intercepted(chain, self)

    def store(self, store: SqlStore) -> SqlStorePort:
        crashing = self

        class Store:
            read = store.read

            @contextmanager
            def write(self) -> Iterator[Any]:
                with store.write() as tx:
                    yield tx
                    crashing.point()
                crashing.point()

        return Store()


class _Intercepted:
    def __init__(self, chain: Chain, crashing: Crashing) -> None:
        self._chain = chain
        self._crashing = crashing

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._chain, name)

        def call(*arguments: Any) -> Any:
            self._crashing.point()
            result = method(*arguments)
            self._crashing.point()
            return result

        return call


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlStore]:
    if request.param == "sqlite":
        opened = open_store(tmp_path / "store.db", create=True)
    else:
        opened = open_store(request.getfixturevalue("empty_postgres"))
    yield opened
    opened.close()


@pytest.fixture
def pool(chain_path: Path) -> Iterator[PoolChain]:
    pool = PoolChain(chain_path, confirmations=2)
    yield pool
    pool.chain.close()


def root(size: int) -> bytes:
    return bytes([size]) * 32


def ask(store: SqlStore, *sizes: int) -> None:
    for size in sizes:
        with store.write() as tx:
            enqueue(tx, size, root(size), now_ms=size)


def anchors(store: SqlStore) -> dict[int, AnchorState]:
    with store.read() as tx:
        return {anchor.size: anchor.state for anchor in load_anchors(tx.connection)}


def the_anchor(store: SqlStore, size: int) -> StoredAnchor:
    with store.read() as tx:
        return next(anchor for anchor in load_anchors(tx.connection) if anchor.size == size)


def transactions(store: SqlStore, size: int) -> list[StoredTransaction]:
    with store.read() as tx:
        return load_transactions(tx.connection, size)


def steps(changes: Sequence[AnchorChange]) -> list[AnchorState]:
    return [change.after for change in changes]


def shown_size(chain: Chain, target: AnchorTarget) -> int:
    """The size that the contract holds, by proof."""
    number = chain.head_number()
    header = chain.header(number)
    proofs = chain.get_proof(target.contract, slots(target.owner, target.log_id)[:2], number)
    record = read_anchor(
        AnchorReceipt(header, proofs.account_proof, (proofs.storage_proofs[0], proofs.storage_proofs[1])),
        contract=target.contract,
        owner=target.owner,
        log_id=target.log_id,
        block_hash=keccak(header),
        code_hash=target.code_hash,
    )
    return 0 if record is None else record.size


def direct(chain: Chain, key: LocalKey, target: AnchorTarget, prev_size: int, size: int, log_id: bytes = b"") -> bytes:
    """An anchor that goes around the outbox."""
    fees = chain.fees()
    data = anchor_call(log_id or target.log_id, prev_size, size, root(size))
    nonce = chain.transaction_count(key.address)
    return chain.send_raw(
        key.sign(
            Transaction(
                target.chain_id, nonce, target.contract, data, 150_000, 2 * fees.base + fees.priority, fees.priority
            )
        )
    )


# The usual way


def test_an_anchor_goes_all_the_way(store: SqlStore, chain: DevChain, key: LocalKey, target: AnchorTarget) -> None:
    ask(store, 5)
    assert steps(advance(store, chain, key, target, 10)) == [SUBMITTED, MINED, FINAL]
    assert advance(store, chain, key, target, 11) == []
    anchor = the_anchor(store, 5)
    with store.read() as tx:
        receipt = load_receipt(tx.connection, anchor)
    assert receipt is not None
    assert anchor.block_hash is not None
    shown = verify_receipt(
        receipt,
        contract=target.contract,
        owner=target.owner,
        log_id=target.log_id,
        block_hash=anchor.block_hash,
        code_hash=target.code_hash,
    )
    assert (shown.record.size, shown.record.root, shown.header.number) == (5, root(5), anchor.block_number)


def test_later_anchors_follow(store: SqlStore, chain: DevChain, key: LocalKey, target: AnchorTarget) -> None:
    for size in (5, 9, 12):
        ask(store, size)
        assert steps(advance(store, chain, key, target, size)) == [SUBMITTED, MINED, FINAL]
    assert anchors(store) == dict.fromkeys((5, 9, 12), FINAL)
    assert [transactions(store, size)[0].prev_size for size in (5, 9, 12)] == [0, 5, 9]


def test_finality_is_waited_for(store: SqlStore, pool: PoolChain, key: LocalKey, target: AnchorTarget) -> None:
    ask(store, 5)
    assert steps(advance(store, pool, key, target, 10)) == [SUBMITTED]
    assert advance(store, pool, key, target, 11) == []
    pool.mine(0)
    assert steps(advance(store, pool, key, target, 12)) == [MINED]
    pool.mine(1)
    assert advance(store, pool, key, target, 13) == []
    pool.mine(1)
    assert steps(advance(store, pool, key, target, 14)) == [FINAL]
    assert len(transactions(store, 5)) == 1


def test_the_next_anchor_goes_out_when_the_one_before_is_in_a_block(
    store: SqlStore, pool: PoolChain, key: LocalKey, target: AnchorTarget
) -> None:
    ask(store, 5)
    advance(store, pool, key, target, 10)
    ask(store, 9)
    assert advance(store, pool, key, target, 11) == []
    assert anchors(store) == {5: SUBMITTED, 9: PENDING}
    pool.mine(0)
    assert [(change.size, change.after) for change in advance(store, pool, key, target, 12)] == [
        (5, MINED),
        (9, SUBMITTED),
    ]
    pool.mine(2)
    changes = advance(store, pool, key, target, 13)
    assert [(change.size, change.after) for change in changes] == [(5, FINAL), (9, MINED), (9, FINAL)]


def test_older_requests_for_which_nothing_was_sent_are_dropped(
    store: SqlStore, pool: PoolChain, key: LocalKey, target: AnchorTarget
) -> None:
    ask(store, 3, 5)
    advance(store, pool, key, target, 10)
    ask(store, 7, 8, 9)
    assert anchors(store) == {5: SUBMITTED, 9: PENDING}


def test_the_transaction_is_stored_before_it_is_sent(
    store: SqlStore, chain: DevChain, key: LocalKey, target: AnchorTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []

    def send_raw(raw: bytes) -> bytes:
        assert [transaction.raw for transaction in transactions(store, 5)] == [raw]
        assert anchors(store) == {5: SUBMITTED}
        sent.append(raw)
        raise TransportError("the line is dead")

    ask(store, 5)
    monkeypatch.setattr(chain, "send_raw", send_raw)
    for _ in range(3):
        with pytest.raises(TransportError):
            advance(store, chain, key, target, 10)
    assert len(set(sent)) == 1
    monkeypatch.undo()
    # The bytes are sent in one call and found in a block in the next.
    assert steps(advance(store, chain, key, target, 11) + advance(store, chain, key, target, 11)) == [MINED, FINAL]


# Ending at any point


def count_points(store: SqlStore, chain: Chain, key: LocalKey, target: AnchorTarget) -> int:
    many = 10**9
    counting = Crashing(many)
    advance(counting.store(store), counting.chain(chain), key, target, 1)
    return many - counting.left


def test_a_process_that_ends_anywhere_leaves_exactly_one_anchor(
    tmp_path: Path, chain_path: Path, key: LocalKey, target: AnchorTarget
) -> None:
    empty = tmp_path / "empty.db"
    made = open_sqlite(empty, create=True)
    ask(made, 5)
    made.close()

    def run(at: int | None) -> int:
        directory = tmp_path / str(at)
        directory.mkdir()
        store = open_sqlite(shutil.copy(empty, directory / "store.db"))
        with DevChain(Path(shutil.copy(chain_path, directory / "chain.db"))) as chain:
            if at is None:
                return count_points(store, chain, key, target)
            crashing = Crashing(at)
            with pytest.raises(Crash):
                advance(crashing.store(store), crashing.chain(chain), key, target, 1)
            store.close()
            store = open_sqlite(directory / "store.db")
            for now_ms in (2, 3):
                advance(store, chain, key, target, now_ms)
            assert anchors(store) == {5: FINAL}
            assert shown_size(chain, target) == 5
            assert chain.transaction_count(key.address) == 2  # the deployment and one anchor
            anchor = the_anchor(store, 5)
            with store.read() as tx:
                assert load_receipt(tx.connection, anchor) is not None
        store.close()
        return 0

    points = run(None)
    assert points > 30
    for at in range(points):
        run(at)


def test_a_store_that_was_lost_finds_its_anchor_on_the_chain(
    store: SqlStore, chain: DevChain, key: LocalKey, target: AnchorTarget
) -> None:
    direct(chain, key, target, 0, 5)
    ask(store, 5)
    assert steps(advance(store, chain, key, target, 10)) == [MINED, FINAL]
    assert transactions(store, 5) == []
    ask(store, 9)
    assert steps(advance(store, chain, key, target, 11)) == [SUBMITTED, MINED, FINAL]


def test_two_processes_at_once_are_noticed(
    store: SqlStore, chain: DevChain, key: LocalKey, target: AnchorTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(store, 5)
    other_acts = [True]
    fees = chain.fees

    def while_the_other_advances() -> Fees:
        if other_acts.pop():
            other_acts.append(False)
            advance(store, chain, key, target, 10)
        return fees()

    monkeypatch.setattr(chain, "fees", while_the_other_advances)
    with pytest.raises(ConflictError):
        advance(store, chain, key, target, 10)
    assert anchors(store) == {5: FINAL}
    assert shown_size(chain, target) == 5


# Reorganisations


def test_a_replaced_block_sends_the_same_bytes_again(
    store: SqlStore, pool: PoolChain, key: LocalKey, target: AnchorTarget
) -> None:
    ask(store, 5)
    with pool.undone():
        advance(store, pool, key, target, 10)
        pool.mine(0)
        assert steps(advance(store, pool, key, target, 11)) == [MINED]
        lost = the_anchor(store, 5).block_hash
    changes = advance(store, pool, key, target, 12)
    assert [(change.after, change.reason) for change in changes] == [(PENDING, "REORG"), (SUBMITTED, None)]
    assert len(set(pool.sent)) == 1
    pool.mine(2)
    assert steps(advance(store, pool, key, target, 13)) == [MINED, FINAL]
    anchor = the_anchor(store, 5)
    assert anchor.block_hash not in (None, lost)
    with store.read() as tx:
        assert load_receipt(tx.connection, anchor) is not None
        assert load_receipt(tx.connection, replace(anchor, block_hash=lost)) is not None


def test_a_chain_that_became_shorter_is_a_replaced_block(
    store: SqlStore, pool: PoolChain, key: LocalKey, target: AnchorTarget
) -> None:
    ask(store, 5)
    with pool.undone():
        advance(store, pool, key, target, 10)
        pool.chain.mine()
        pool.mine(0)
        advance(store, pool, key, target, 11)
    changes = advance(store, pool, key, target, 12)
    assert [(change.after, change.reason) for change in changes] == [(PENDING, "REORG"), (SUBMITTED, None)]


def test_two_anchors_lost_at_once_come_back_in_order(
    store: SqlStore, pool: PoolChain, key: LocalKey, target: AnchorTarget
) -> None:
    pool.confirmations = 5
    with pool.undone():
        for size in (5, 9):
            ask(store, size)
            advance(store, pool, key, target, size)
            pool.mine(0)
        advance(store, pool, key, target, 10)
        assert anchors(store) == {5: MINED, 9: MINED}
    for now_ms in range(11, 16):
        advance(store, pool, key, target, now_ms)
        pool.mine(1)
    pool.mine(5)
    advance(store, pool, key, target, 20)
    assert anchors(store) == {5: FINAL, 9: FINAL}
    assert shown_size(pool, target) == 9
    assert len(transactions(store, 5)) == len(transactions(store, 9)) == 1


# What the contract does not take


def test_a_larger_anchor_on_the_chain_makes_this_one_stale(
    store: SqlStore, pool: PoolChain, key: LocalKey, target: AnchorTarget
) -> None:
    direct(pool, key, target, 0, 7)
    pool.mine(0)
    ask(store, 5)
    # Not before it is final: until then the larger one may disappear.
    assert advance(store, pool, key, target, 10) == []
    pool.mine(2)
    (change,) = advance(store, pool, key, target, 11)
    assert change == AnchorChange(5, PENDING, FAILED, "STALE")
    assert transactions(store, 5) == []
    ask(store, 9)
    advance(store, pool, key, target, 12)
    assert transactions(store, 9)[0].prev_size == 7


def test_another_root_of_the_same_size_is_stale(
    store: SqlStore, chain: DevChain, key: LocalKey, target: AnchorTarget
) -> None:
    direct(chain, key, target, 0, 5)
    with store.write() as tx:
        enqueue(tx, 5, b"\xff" * 32, now_ms=1)
    assert [change.reason for change in advance(store, chain, key, target, 10)] == ["STALE"]


def test_a_closed_log_takes_nothing(store: SqlStore, chain: DevChain, key: LocalKey, target: AnchorTarget) -> None:
    close_log(chain, key, target, bytes(32))
    ask(store, 5)
    assert [change.reason for change in advance(store, chain, key, target, 10)] == ["CLOSED"]
    assert advance(store, chain, key, target, 11) == []


def test_an_anchor_before_the_closing_is_one(
    store: SqlStore, pool: PoolChain, key: LocalKey, target: AnchorTarget
) -> None:
    ask(store, 5)
    advance(store, pool, key, target, 10)
    pool.mine(0)
    close_log(pool.chain, key, target, bytes(32))
    pool.mine(2)
    assert steps(advance(store, pool, key, target, 11)) == [MINED, FINAL]


def test_a_transaction_overtaken_by_another_of_the_key_fails_when_final(
    store: SqlStore, pool: PoolChain, key: LocalKey, target: AnchorTarget
) -> None:
    ask(store, 5)
    advance(store, pool, key, target, 10)
    own, pool.pool = pool.pool, {}
    direct(pool, key, target, 0, 7)
    pool.mine(0)
    pool.pool = own
    with pytest.raises(SendRefused):
        pool.mine(0)
    assert advance(store, pool, key, target, 11) == []
    pool.mine(2)
    assert [change.reason for change in advance(store, pool, key, target, 12)] == ["STALE"]


def test_a_nonce_used_for_something_else_makes_a_new_transaction(
    store: SqlStore, pool: PoolChain, key: LocalKey, target: AnchorTarget
) -> None:
    ask(store, 5)
    advance(store, pool, key, target, 10)
    pool.pool = {}
    direct(pool, key, target, 0, 1, log_id=b"\x77" * 32)
    pool.mine(0)
    assert advance(store, pool, key, target, 11) == []
    assert [transaction.nonce for transaction in transactions(store, 5)] == [1, 2]
    pool.mine(2)
    assert steps(advance(store, pool, key, target, 12)) == [MINED, FINAL]


def test_a_transaction_that_runs_out_of_gas_fails(
    store: SqlStore, pool: PoolChain, key: LocalKey, target: AnchorTarget
) -> None:
    ask(store, 5)
    advance(store, pool, key, target, 10, OutboxPolicy(gas=30_000))
    pool.mine(0)
    assert advance(store, pool, key, target, 11) == []
    pool.mine(2)
    assert [change.reason for change in advance(store, pool, key, target, 12)] == ["REVERTED"]
    ask(store, 9)
    advance(store, pool, key, target, 13)
    pool.mine(2)
    assert steps(advance(store, pool, key, target, 14)) == [MINED, FINAL]


def test_an_anchor_that_no_state_shows_is_not_final(
    store: SqlStore, pool: PoolChain, key: LocalKey, target: AnchorTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two anchors in one block: the state shows the second. Here the node claims so for an anchor of another block."""
    ask(store, 5)
    advance(store, pool, key, target, 10)
    pool.mine(0)
    direct(pool, key, target, 5, 7)
    pool.mine(0)
    later = Inclusion(keccak(pool.header(pool.head_number())), pool.head_number(), True)
    monkeypatch.setattr(pool.chain, "inclusion", lambda _: later)
    assert steps(advance(store, pool, key, target, 11)) == [MINED]
    pool.mine(2)
    assert [change.reason for change in advance(store, pool, key, target, 12)] == ["STALE"]


# Fees


def test_fees_above_the_cap_are_not_paid(store: SqlStore, pool: PoolChain, key: LocalKey, target: AnchorTarget) -> None:
    ask(store, 5)
    pool.market = Fees(100 * GWEI, 2 * GWEI)
    with pytest.raises(RefusedError, match="the cap is"):
        advance(store, pool, key, target, 10, OutboxPolicy(max_fee_cap=101 * GWEI))
    assert anchors(store) == {5: PENDING}
    advance(store, pool, key, target, 10, OutboxPolicy(max_fee_cap=102 * GWEI))
    assert [transaction.max_fee for transaction in transactions(store, 5)] == [102 * GWEI]


def test_a_transaction_that_waits_offers_more_up_to_the_cap(
    store: SqlStore, pool: PoolChain, key: LocalKey, target: AnchorTarget
) -> None:
    ask(store, 5)
    pool.market = Fees(10 * GWEI, 1 * GWEI)
    policy = OutboxPolicy(max_fee_cap=30 * GWEI, bump_after_ms=1000)
    for now_ms in (0, 999, 1000, 1999, 2000, 3000, 4000, 9000):
        advance(store, pool, key, target, now_ms, policy)
    offers = [(transaction.max_fee, transaction.priority_fee) for transaction in transactions(store, 5)]
    assert offers == [
        (21 * GWEI, GWEI),
        (23_625_000_000, 1_125_000_000),
        (26_578_125_000, 1_265_625_000),
        (29_900_390_625, 1_423_828_125),
    ]
    assert {transaction.nonce for transaction in transactions(store, 5)} == {1}
    # After the cap is reached the last offer is repeated.
    assert pool.sent[-1] == pool.sent[-2] == transactions(store, 5)[-1].raw


def test_the_market_sets_the_offer_when_it_has_risen(
    store: SqlStore, pool: PoolChain, key: LocalKey, target: AnchorTarget
) -> None:
    ask(store, 5)
    policy = OutboxPolicy(bump_after_ms=1000)
    pool.market = Fees(10 * GWEI, 1 * GWEI)
    advance(store, pool, key, target, 0, policy)
    pool.market = Fees(100 * GWEI, 3 * GWEI)
    advance(store, pool, key, target, 1000, policy)
    assert [transaction.max_fee for transaction in transactions(store, 5)] == [21 * GWEI, 203 * GWEI]


def test_any_of_the_offers_may_be_mined(store: SqlStore, pool: PoolChain, key: LocalKey, target: AnchorTarget) -> None:
    ask(store, 5)
    policy = OutboxPolicy(bump_after_ms=1000)
    advance(store, pool, key, target, 0, policy)
    advance(store, pool, key, target, 1000, policy)
    first, second = pool.pool.values()
    assert first != second
    pool.pool = {b"": first}
    pool.mine(2)
    assert steps(advance(store, pool, key, target, 1001, policy)) == [MINED, FINAL]
    assert advance(store, pool, key, target, 5000, policy) == []


@pytest.mark.parametrize("why", [WhyRefused.NONCE_USED, WhyRefused.UNDERPRICED])
def test_some_refusals_are_waited_out(
    store: SqlStore, chain: DevChain, key: LocalKey, target: AnchorTarget, monkeypatch: pytest.MonkeyPatch, why: Any
) -> None:
    def refuse(raw: bytes) -> bytes:
        raise SendRefused(why, "not now")

    ask(store, 5)
    monkeypatch.setattr(chain, "send_raw", refuse)
    assert steps(advance(store, chain, key, target, 10)) == [SUBMITTED]
    monkeypatch.undo()
    advance(store, chain, key, target, 11)
    assert steps(advance(store, chain, key, target, 12)) == [MINED, FINAL]


@pytest.mark.parametrize("why", [WhyRefused.NO_FUNDS, WhyRefused.OTHER])
def test_other_refusals_are_reported_and_nothing_is_lost(
    store: SqlStore, chain: DevChain, key: LocalKey, target: AnchorTarget, monkeypatch: pytest.MonkeyPatch, why: Any
) -> None:
    def refuse(raw: bytes) -> bytes:
        raise SendRefused(why, "no")

    ask(store, 5)
    monkeypatch.setattr(chain, "send_raw", refuse)
    for _ in range(2):
        with pytest.raises(SendRefused):
            advance(store, chain, key, target, 10)
    monkeypatch.undo()
    advance(store, chain, key, target, 11)
    assert steps(advance(store, chain, key, target, 12)) == [MINED, FINAL]


# What is not the log's


def test_another_chain_or_key_is_refused(store: SqlStore, chain: DevChain, key: LocalKey, target: AnchorTarget) -> None:
    ask(store, 5)
    with pytest.raises(ConfigurationError, match="anchored on chain 1"):
        advance(store, chain, key, replace(target, chain_id=1), 10)
    with pytest.raises(ConfigurationError, match="anchor key"):
        advance(store, chain, LocalKey(sha256(b"other").digest()), target, 10)
    assert anchors(store) == {5: PENDING}


@pytest.mark.parametrize(
    ("changes", "reason"), [({"contract": b"\x77" * 20}, "NO_CONTRACT"), ({"code_hash": bytes(32)}, "CODE_HASH")]
)
def test_a_contract_that_is_not_ours_gets_nothing(
    store: SqlStore,
    chain: DevChain,
    key: LocalKey,
    target: AnchorTarget,
    changes: dict[str, Any],
    reason: str,
) -> None:
    ask(store, 5)
    with pytest.raises(ReceiptMismatch, match=reason):
        advance(store, chain, key, replace(target, **changes), 10)
    assert anchors(store) == {5: PENDING}


def test_a_node_that_gives_wrong_proofs_finishes_nothing(
    store: SqlStore, pool: PoolChain, key: LocalKey, target: AnchorTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(store, 5)
    advance(store, pool, key, target, 10)
    pool.mine(2)
    get_proof = pool.chain.get_proof

    def lie(contract: bytes, wanted: Sequence[int], number: int) -> SlotProofs:
        proofs = get_proof(contract, wanted, number)
        return SlotProofs(proofs.account_proof, tuple(nodes[:-1] for nodes in proofs.storage_proofs))

    monkeypatch.setattr(pool.chain, "get_proof", lie)
    for now_ms in (11, 12):
        with pytest.raises(ReceiptMismatch):
            advance(store, pool, key, target, now_ms)
    assert anchors(store) == {5: SUBMITTED}
    monkeypatch.undo()
    assert steps(advance(store, pool, key, target, 13)) == [MINED, FINAL]


def test_a_node_that_moves_blocks_about_does_not_hold_us(
    store: SqlStore, pool: PoolChain, key: LocalKey, target: AnchorTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(store, 5)
    advance(store, pool, key, target, 10)
    pool.mine(2)
    monkeypatch.setattr(pool.chain, "inclusion", lambda _: Inclusion(b"\xab" * 32, 1, True))
    with pytest.raises(TransportError, match="not its block 1"):
        advance(store, pool, key, target, 11)
    assert anchors(store) == {5: SUBMITTED}
    own = Inclusion(keccak(pool.header(1)), 1, True)
    monkeypatch.setattr(pool.chain, "inclusion", lambda _: own)
    headers = cycle([pool.header(1), pool.header(2)])
    monkeypatch.setattr(pool.chain, "header", lambda _: next(headers))
    changes: list[AnchorChange] = []
    with suppress(TransportError, ReceiptMismatch):
        advance(store, pool, key, target, 12, on_change=changes.append)
    assert len(changes) <= 8
    assert FINAL not in steps(changes)


# The store's own guard


def test_a_settled_anchor_cannot_be_moved(
    store: SqlStore, chain: DevChain, key: LocalKey, target: AnchorTarget
) -> None:
    ask(store, 5)
    advance(store, chain, key, target, 10)
    anchor = the_anchor(store, 5)
    with pytest.raises(StorageError), store.write() as tx:
        move_anchor(tx.connection, anchor, PENDING, 11)
    assert anchors(store) == {5: FINAL}

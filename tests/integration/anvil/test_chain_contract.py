"""What anchoring needs of a chain, shown on every chain there is: anchor, proof, refusal, closing, restart."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from anchoring.chain.deploy import close_log
from anchoring.chain.outbox import AnchorTarget, advance, enqueue
from anchoring.chain.transactions import LocalKey, Transaction
from anchoring.contracts import anchor_call, close_call, records_call
from anchoring.receipt import VerifiedAnchor, slots, verify_receipt
from anchoring.storage import AnchorState, StoredAnchor, find_anchor, load_anchors, load_receipt, load_transactions
from identity.errors import ReceiptMismatch, TransportError
from ledger.storage.sql import SqlStore
from ledger.storage.sqlite import open_sqlite

pytestmark = pytest.mark.integration

Node = Any
"""``conftest.Node``."""

ROUNDS = 12
"""More than an anchor needs, whatever is done to the node meanwhile."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    with closing(open_sqlite(tmp_path / "store.db", create=True)) as opened:
        yield opened


def root(size: int) -> bytes:
    return bytes([size]) * 32


def ask(store: SqlStore, size: int) -> None:
    with store.write() as tx:
        enqueue(tx, size, root(size), now_ms=1)


def anchor_of(store: SqlStore, size: int) -> StoredAnchor:
    with store.read() as tx:
        anchor = find_anchor(tx.connection, size)
    assert anchor is not None
    return anchor


def settle(
    node: Node,
    store: SqlStore,
    key: LocalKey,
    target: AnchorTarget,
    size: int,
    between: Callable[[], None] | None = None,
) -> list[AnchorState]:
    """Rounds until the anchor is settled; every state that it was seen in after one."""
    seen: list[AnchorState] = []
    for now_ms in range(2, 2 + ROUNDS):
        with node.connect() as chain:
            advance(store, chain, key, target, now_ms)
        seen.append(anchor_of(store, size).state)
        if seen[-1] in (AnchorState.FINAL, AnchorState.FAILED):
            return seen
        if between is not None:
            between()
        node.mine(3)
    raise AssertionError(f"after {ROUNDS} rounds: {seen}")


def shown(store: SqlStore, target: AnchorTarget, size: int) -> VerifiedAnchor:
    """What the archived receipt proves, with nothing but the block's hash at hand."""
    anchor = anchor_of(store, size)
    with store.read() as tx:
        receipt = load_receipt(tx.connection, anchor)
    assert receipt is not None
    assert anchor.block_hash is not None
    return verify_receipt(
        receipt,
        contract=target.contract,
        owner=target.owner,
        log_id=target.log_id,
        block_hash=anchor.block_hash,
        code_hash=target.code_hash,
    )


def recorded_size(node: Node, target: AnchorTarget) -> int:
    with node.connect() as chain:
        return int.from_bytes(chain.call(target.contract, records_call(target.owner, target.log_id))[24:32], "big")


def send(node: Node, key: LocalKey, contract: bytes, data: bytes) -> bool:
    """Send a transaction around the outbox; whether it succeeded."""
    with node.connect() as chain:
        fees = chain.fees()
        nonce = chain.transaction_count(key.address)
        max_fee = 2 * fees.base + fees.priority
        sent = chain.send_raw(
            key.sign(Transaction(node.chain_id, nonce, contract, data, 200_000, max_fee, fees.priority))
        )
        for _ in range(200):
            inclusion = chain.inclusion(sent)
            if inclusion is not None:
                return bool(inclusion.succeeded)
            node.mine(1)
    raise AssertionError("not mined")


def test_an_anchor_becomes_final_and_its_receipt_verifies_offline(
    node: Node, store: SqlStore, anchor_key: LocalKey, target: AnchorTarget
) -> None:
    for size, before in ((5, 0), (9, 5)):
        ask(store, size)
        settle(node, store, anchor_key, target, size)
        anchor = shown(store, target, size)
        assert (anchor.record.size, anchor.record.root, anchor.record.closed) == (size, root(size), False)
        assert anchor.record.block <= anchor.header.number
        with store.read() as tx:
            assert [one.prev_size for one in load_transactions(tx.connection, size)] == [before]
    assert recorded_size(node, target) == 9
    assert shown(store, target, 5).record.size == 5, "the older receipt still proves what it proved"


@pytest.mark.parametrize(("before", "size", "why"), [(4, 12, "stale"), (9, 9, "no growth"), (9, 5, "no growth")])
def test_the_contract_goes_one_way_only(
    node: Node, anchor_key: LocalKey, new_target: Callable[[], AnchorTarget], before: int, size: int, why: str
) -> None:
    target = new_target()
    assert send(node, anchor_key, target.contract, anchor_call(target.log_id, 0, 9, root(9)))
    refused = anchor_call(target.log_id, before, size, root(size))
    with node.connect() as chain, pytest.raises(TransportError, match=why):
        chain.call(target.contract, refused, anchor_key.address)
    assert not send(node, anchor_key, target.contract, refused)
    assert recorded_size(node, target) == 9


def test_a_smaller_or_other_anchor_fails_in_the_outbox(
    node: Node, store: SqlStore, anchor_key: LocalKey, target: AnchorTarget
) -> None:
    send(node, anchor_key, target.contract, anchor_call(target.log_id, 0, 9, root(9)))
    node.mine(3)
    ask(store, 5)
    assert settle(node, store, anchor_key, target, 5)[-1] is AnchorState.FAILED
    assert anchor_of(store, 5).reason == "STALE"
    with store.read() as tx:
        assert load_transactions(tx.connection, 5) == []


def test_a_closed_log_takes_nothing_more(
    node: Node, store: SqlStore, anchor_key: LocalKey, target: AnchorTarget
) -> None:
    ask(store, 5)
    settle(node, store, anchor_key, target, 5)
    with node.connect() as chain:
        close_log(chain, anchor_key, target, b"\x77" * 32)
        with pytest.raises(TransportError):
            close_log(chain, anchor_key, target, b"\x78" * 32)
    node.mine(3)
    ask(store, 9)
    assert settle(node, store, anchor_key, target, 9)[-1] is AnchorState.FAILED
    assert anchor_of(store, 9).reason == "CLOSED"
    with node.connect() as chain:
        words = chain.call(target.contract, records_call(target.owner, target.log_id))
    assert (words[0] >> 7, words[64:96]) == (1, b"\x77" * 32)


def test_squatters_prove_nothing(node: Node, store: SqlStore, anchor_key: LocalKey, target: AnchorTarget) -> None:
    squatter = LocalKey(sha256(b"squatter").digest())
    node.fund(squatter.address, 10**18)
    assert send(node, squatter, target.contract, anchor_call(target.log_id, 0, 200, root(200)))
    assert send(node, squatter, target.contract, close_call(target.log_id, bytes(32)))
    assert recorded_size(node, target) == 0
    ask(store, 5)
    settle(node, store, anchor_key, target, 5)
    assert shown(store, target, 5).record.root == root(5)
    with pytest.raises(ReceiptMismatch):
        shown(store, replace(target, owner=squatter.address), 5)


def test_a_node_that_is_killed_between_every_two_steps(
    node: Node, store: SqlStore, anchor_key: LocalKey, target: AnchorTarget
) -> None:
    """The first time without warning: anvil loses its last second with the block, and the same bytes are sent again."""
    restarts = 0

    def restart() -> None:
        nonlocal restarts
        if restarts:
            node.save()
        restarts += 1
        node.kill()
        node.start()

    node.save()  # else it also loses what an earlier test sent, and the key's next nonce is ahead of the node's
    for size in (5, 9):
        ask(store, size)
        settle(node, store, anchor_key, target, size, restart)
        restart()
    assert restarts >= 2
    assert [shown(store, target, size).record.size for size in (5, 9)] == [5, 9]
    with store.read() as tx:
        assert [anchor.state for anchor in load_anchors(tx.connection)] == [AnchorState.FINAL] * 2


def test_states_from_before_a_restart(node: Node, store: SqlStore, anchor_key: LocalKey, target: AnchorTarget) -> None:
    """The one thing that anvil does not do: it proves its newest state only once it was started again."""
    ask(store, 5)
    settle(node, store, anchor_key, target, 5)
    number = anchor_of(store, 5).block_number
    assert number is not None
    node.mine(3)
    node.save()
    node.kill()
    node.start()
    wanted = slots(target.owner, target.log_id)[:2]
    with node.connect() as chain:
        if node.proves_history:
            assert all(chain.get_proof(target.contract, wanted, number).storage_proofs)
        assert all(chain.get_proof(target.contract, wanted, chain.head_number()).storage_proofs)


class Killing:
    """Lets a child process live until the ``at``-th point, then ends it as kill -9 does."""

    def __init__(self, at: int) -> None:
        self.left = at

    def point(self) -> None:
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1


class KillingStore:
    """A store whose process may end before a commit and after it."""

    def __init__(self, store: SqlStore, killing: Killing) -> None:
        self._store, self._killing = store, killing
        self.read = store.read

    @contextmanager
    def write(self) -> Iterator[Any]:
        with self._store.write() as tx:
            yield tx
            self._killing.point()
        self._killing.point()


class KillingChain:
    """A chain whose client may end before a transaction is sent, and before it learns that it was."""

    def __init__(self, chain: Any, killing: Killing) -> None:
        self._chain, self._killing = chain, killing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chain, name)

    def send_raw(self, raw: bytes) -> bytes:
        self._killing.point()
        sent: bytes = self._chain.send_raw(raw)
        self._killing.point()
        return sent


def in_a_child(act: Callable[[], None]) -> bool:
    """Run ``act`` in a process of its own; whether it ended by itself."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed by itself"
    return os.WIFEXITED(status)


def test_a_process_that_is_killed_between_every_two_steps(
    node: Node, tmp_path: Path, anchor_key: LocalKey, new_target: Callable[[], AnchorTarget]
) -> None:
    """A log of its own for each point, until a child gets through without meeting it."""

    def run(path: Path, target: AnchorTarget, at: int) -> None:
        killing = Killing(at)
        with closing(open_sqlite(path)) as store:
            for now_ms in (2, 3, 4):
                with node.connect() as chain:
                    fused: Any = KillingStore(store, killing)
                    advance(fused, KillingChain(chain, killing), anchor_key, target, now_ms)
                node.mine(3)

    for at in range(40):
        target, path = new_target(), tmp_path / f"{at}.db"
        with closing(open_sqlite(path, create=True)) as store:
            ask(store, 5)
        done = in_a_child(lambda path=path, target=target, at=at: run(path, target, at))
        with closing(open_sqlite(path)) as store:
            settle(node, store, anchor_key, target, 5)
            assert shown(store, target, 5).record.root == root(5), f"killed at {at}"
            with store.read() as tx:
                assert len(load_transactions(tx.connection, 5)) == 1, f"killed at {at}"
        assert recorded_size(node, target) == 5
        if done:
            break
    assert done
    assert at >= 8

"""Closing a log through the durable outbox: from wherever it was stopped, and against a rival."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from anchoring.chain.check import ChainView
from anchoring.chain.closing import Closing, add_closing, advance_closing, load_closing, read_closing
from anchoring.chain.deploy import close_log, deploy_contract
from anchoring.chain.dev import DevChain
from anchoring.chain.outbox import AnchorTarget, OutboxPolicy
from anchoring.chain.predecessor import check_predecessor
from anchoring.chain.transactions import LocalKey
from anchoring.contracts import load_contract
from anchoring.rollback import PredecessorState
from anchoring.storage import AnchorState
from identity.errors import ConfigurationError, RefusedError, TransportError
from ledger.statement import ChainBinding, LogDescriptor, Predecessor
from ledger.storage.sql import SqlStore
from ledger.storage.sqlite import open_sqlite

KEY = LocalKey(bytes([7]) * 32)
LOG, SUCCESSOR, RIVAL = (bytes([number]) * 32 for number in (1, 2, 3))
CODE = load_contract().code_hash
NOW = 1_790_000_000_000


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[DevChain]:
    with DevChain(tmp_path / "chain.db", create=True) as opened:
        opened.fund(KEY.address, 10**20)
        yield opened


@pytest.fixture
def target(chain: DevChain) -> AnchorTarget:
    return AnchorTarget(chain.chain_id(), deploy_contract(chain, KEY), KEY.address, LOG, CODE)


@pytest.fixture
def store(tmp_path: Path, target: AnchorTarget) -> Iterator[SqlStore]:
    store = open_sqlite(tmp_path / "store.db", create=True)
    closing = Closing(LOG, SUCCESSOR, target.chain_id, target.contract, KEY.address, AnchorState.PENDING, None, NOW)
    with store.write() as tx:
        add_closing(tx.connection, closing)
    yield store
    store.close()


def advance(store: SqlStore, chain: DevChain, key: LocalKey = KEY) -> Closing:
    found = advance_closing(store, chain, key, CODE, NOW)
    assert found is not None
    return found


def test_it_is_brought_onto_the_chain_and_settles(store: SqlStore, chain: DevChain, target: AnchorTarget) -> None:
    states = [advance(store, chain).state for _ in range(3)]
    assert states[-1] is AnchorState.FINAL
    record, successor = read_closing(chain, target, chain.head_number())
    assert record is not None
    assert (record.closed, successor) == (True, SUCCESSOR)
    with store.read() as tx:
        kept = load_closing(tx.connection)
    assert kept is not None
    assert kept.state is AnchorState.FINAL
    nonce = chain.transaction_count(KEY.address)
    advance(store, chain)
    assert chain.transaction_count(KEY.address) == nonce


def test_an_unclosed_log_has_no_successor(chain: DevChain, target: AnchorTarget) -> None:
    assert read_closing(chain, target, chain.head_number()) == (None, bytes(32))


def test_one_that_was_sent_by_somebody_else_is_recognised(
    store: SqlStore, chain: DevChain, target: AnchorTarget
) -> None:
    close_log(chain, KEY, target, SUCCESSOR)
    nonce = chain.transaction_count(KEY.address)
    assert advance(store, chain).state in (AnchorState.MINED, AnchorState.FINAL)
    assert chain.transaction_count(KEY.address) == nonce


def test_a_second_successor_fails_by_name(store: SqlStore, chain: DevChain, target: AnchorTarget) -> None:
    close_log(chain, KEY, target, RIVAL)
    for _ in range(3):
        chain.mine()
        found = advance(store, chain)
    assert found.state is AnchorState.FAILED
    assert found.reason == f"OTHER_SUCCESSOR {RIVAL.hex()}"


@pytest.mark.parametrize("when", ["before sending", "after sending"])
def test_stopped_around_the_sending_it_goes_on_with_the_same_bytes(store: SqlStore, chain: DevChain, when: str) -> None:
    sent: list[bytes] = []
    send = DevChain.send_raw

    def stop(self: DevChain, raw: bytes) -> bytes:
        sent.append(raw)
        if when == "after sending":
            send(self, raw)
        raise TransportError("cut off")

    with mock.patch.object(DevChain, "send_raw", stop), pytest.raises(TransportError):
        advance(store, chain)
    with mock.patch.object(DevChain, "send_raw", lambda self, raw: sent.append(raw) or send(self, raw)):
        advance(store, chain)
    assert set(sent) == {sent[0]}
    assert advance(store, chain).state is AnchorState.FINAL


def test_another_key_or_chain_is_not_used(store: SqlStore, chain: DevChain) -> None:
    with pytest.raises(ConfigurationError):
        advance(store, chain, LocalKey(bytes([8]) * 32))


def test_nothing_is_offered_above_the_cap(store: SqlStore, chain: DevChain) -> None:
    with pytest.raises(RefusedError, match="the cap"):
        advance_closing(store, chain, KEY, CODE, NOW, OutboxPolicy(max_fee_cap=1))


def test_a_store_without_a_close_has_nothing_to_do(tmp_path: Path, chain: DevChain) -> None:
    store = open_sqlite(tmp_path / "other.db", create=True)
    assert advance_closing(store, chain, KEY, CODE, NOW) is None
    store.close()


# --- what is read of it -----------------------------------------------------------------------------------------------


def descriptor(target: AnchorTarget, size: int = 5) -> LogDescriptor:
    binding = ChainBinding(target.chain_id, target.contract, target.owner)
    return LogDescriptor("new.example", bytes(32), binding, Predecessor(LOG, size, bytes([9]) * 32))


def view(chain: DevChain) -> ChainView:
    return ChainView({"node": chain}, chain.chain_id(), CODE)


def test_a_log_that_was_not_closed(chain: DevChain, target: AnchorTarget) -> None:
    chain.mine()
    found = check_predecessor(view(chain), SUCCESSOR, descriptor(target), NOW)
    assert found is not None
    assert found.state is PredecessorState.NOT_CLOSED


@pytest.mark.parametrize(
    ("named", "state"),
    [
        (SUCCESSOR, PredecessorState.CLOSED),
        (RIVAL, PredecessorState.OTHER_SUCCESSOR),
        (bytes(32), PredecessorState.OTHER_SUCCESSOR),
    ],
)
def test_a_log_that_was_closed(chain: DevChain, target: AnchorTarget, named: bytes, state: PredecessorState) -> None:
    close_log(chain, KEY, target, named)
    for _ in range(3):
        chain.mine()
    found = check_predecessor(view(chain), SUCCESSOR, descriptor(target), NOW)
    assert found is not None
    assert found.state is state


def test_without_a_chain_nothing_is_known(target: AnchorTarget) -> None:
    found = check_predecessor(None, SUCCESSOR, descriptor(target), NOW)
    assert found is not None
    assert found.state is PredecessorState.UNREAD


def test_a_first_log_has_none_before_it(chain: DevChain) -> None:
    assert check_predecessor(view(chain), LOG, LogDescriptor("new.example", bytes(32)), NOW) is None

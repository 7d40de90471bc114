"""What the rollback check takes from a chain, and what it makes of nodes that fail or lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from anchoring.chain.check import (
    MAX_HEADER_AGE_MS,
    ChainView,
    LogPosition,
    check_rollback,
    fetch_final_header,
    fetch_header,
    read_anchor_history,
    read_newest_anchor,
)
from anchoring.chain.client import SlotProofs
from anchoring.chain.deploy import close_log
from anchoring.chain.dev import DevChain, DevChainReader
from anchoring.chain.outbox import AnchorTarget
from anchoring.chain.transactions import LocalKey, Transaction
from anchoring.contracts import anchor_call, load_contract
from anchoring.receipt import DEVELOPMENT_CHAIN_ID, AnchorRecord, parse_header
from anchoring.rollback import RollbackCheck, RollbackState
from identity.errors import DamagedFile, ReceiptMismatch, TransportError
from ledger.statement import ChainBinding

GENESIS_MS = 1_790_000_000_000
FOREIGN_ID = 31337


def root_of(size: int) -> bytes:
    return sha256(b"root %d" % size).digest()


class Node:
    """A node that gives what ``chain`` gives, except for what a test replaces."""

    def __init__(self, chain: Any, **answers: Any) -> None:
        self._chain, self._answers = chain, answers

    def __getattr__(self, name: str) -> Any:
        if name not in self._answers:
            return getattr(self._chain, name)
        answer = self._answers[name]

        def give(*arguments: Any) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer(*arguments) if callable(answer) else answer

        return give


@pytest.fixture
def anchor(chain: DevChain, key: LocalKey, target: AnchorTarget) -> Callable[[int, int], None]:
    """Anchor a size, in a block of its own."""

    def send(before: int, size: int) -> None:
        fees = chain.fees()
        call = Transaction(
            chain_id=DEVELOPMENT_CHAIN_ID,
            nonce=chain.transaction_count(key.address),
            to=target.contract,
            data=anchor_call(target.log_id, before, size, root_of(size)),
            gas=150_000,
            max_fee=2 * fees.base + fees.priority,
            priority_fee=fees.priority,
        )
        inclusion = chain.inclusion(chain.send_raw(key.sign(call)))
        assert inclusion is not None
        assert inclusion.succeeded

    return send


@pytest.fixture
def binding(target: AnchorTarget) -> ChainBinding:
    return ChainBinding(target.chain_id, target.contract, target.owner)


def view(*nodes: Any, chain_id: int = DEVELOPMENT_CHAIN_ID) -> ChainView:
    return ChainView({f"node {n}": node for n, node in enumerate(nodes)}, chain_id, load_contract().code_hash)


def position(target: AnchorTarget, binding: ChainBinding, size: int) -> LogPosition:
    return LogPosition(target.log_id, binding, size, root_of)


# --- which block is final -------------------------------------------------------------------------------------------


def test_without_a_node_nothing_is_known() -> None:
    with pytest.raises(TransportError, match="no chain node"):
        fetch_final_header(view(), 0)
    with pytest.raises(TransportError, match="no chain node"):
        fetch_header(view(), 0)


def test_every_node_must_be_on_the_chain(chain: DevChain) -> None:
    with pytest.raises(TransportError, match="node 1 is on chain 5"):
        fetch_final_header(view(chain, Node(chain, chain_id=5)), 0)


def test_the_newest_block_that_is_final_for_all(chain: DevChain) -> None:
    chain.mine()
    behind = Node(chain, final_number=chain.final_number() - 1)
    assert fetch_final_header(view(chain, behind), 0).number == chain.head_number() - 1


def test_nodes_must_give_one_header(chain: DevChain) -> None:
    header = chain.header(chain.head_number())
    liar = Node(chain, header=lambda _: header[:-1] + bytes([header[-1] ^ 1]))
    with pytest.raises(TransportError, match="different headers"):
        fetch_final_header(view(chain, liar), 0)
    older = Node(chain, header=lambda _: chain.header(0))
    with pytest.raises(TransportError, match="different headers"):
        fetch_header(view(older), 1)


def test_a_stale_newest_block_is_no_answer_except_on_the_development_chain(chain: DevChain) -> None:
    age = MAX_HEADER_AGE_MS + 1
    newest = parse_header(chain.header(chain.head_number())).timestamp_s * 1000
    assert fetch_final_header(view(chain), newest + age).timestamp_s * 1000 == newest
    elsewhere = Node(chain, chain_id=FOREIGN_ID)
    assert fetch_final_header(view(elsewhere, chain_id=FOREIGN_ID), newest + age - 1)
    with pytest.raises(TransportError, match="older than an hour"):
        fetch_final_header(view(elsewhere, chain_id=FOREIGN_ID), newest + age)


# --- what it holds --------------------------------------------------------------------------------------------------


def test_the_newest_anchor_by_proof(
    chain: DevChain, target: AnchorTarget, binding: ChainBinding, anchor: Callable[[int, int], None]
) -> None:
    header = fetch_final_header(view(chain), 0)
    assert read_newest_anchor(view(chain), header, target.log_id, binding) is None
    anchor(0, 5)
    anchor(5, 9)
    record = read_newest_anchor(view(chain), fetch_final_header(view(chain), 0), target.log_id, binding)
    assert record == AnchorRecord(9, GENESIS_MS // 1000, chain.head_number(), False, root_of(9))


def test_every_anchor_that_there_ever_was(
    chain: DevChain, target: AnchorTarget, binding: ChainBinding, anchor: Callable[[int, int], None]
) -> None:
    for before, size in ((0, 5), (5, 9), (9, 20)):
        anchor(before, size)
        chain.mine()
    header = fetch_final_header(view(chain), 0)
    records = list(read_anchor_history(view(chain), header, target.log_id, binding))
    assert [(record.size, record.root) for record in records] == [(n, root_of(n)) for n in (20, 9, 5)]


def test_a_log_that_was_closed_without_an_anchor_has_no_history(
    chain: DevChain, key: LocalKey, target: AnchorTarget, binding: ChainBinding
) -> None:
    close_log(chain, key, target, bytes(32))
    header = fetch_final_header(view(chain), 0)
    assert list(read_anchor_history(view(chain), header, target.log_id, binding)) == []


def test_a_node_that_shows_one_state_for_another_does_not_keep_us_for_ever(
    chain: DevChain, target: AnchorTarget, binding: ChainBinding, anchor: Callable[[int, int], None]
) -> None:
    """Its headers and proofs agree with each other; only the order of blocks does not."""
    anchor(0, 5)
    number = chain.head_number()
    header = parse_header(chain.header(number))
    stuck = Node(chain, header=lambda _: chain.header(number), get_proof=lambda c, s, _: chain.get_proof(c, s, number))
    with pytest.raises(TransportError):
        list(read_anchor_history(view(stuck), header, target.log_id, binding))


def test_a_node_that_does_not_prove_old_states_says_so(
    chain: DevChain, target: AnchorTarget, binding: ChainBinding, anchor: Callable[[int, int], None]
) -> None:
    anchor(0, 5)
    anchor(5, 9)
    newest = chain.head_number()

    def prove(contract: bytes, slots: Sequence[int], number: int) -> SlotProofs:
        if number < newest:
            raise TransportError("missing trie node")
        return chain.get_proof(contract, slots, number)

    history = read_anchor_history(
        view(Node(chain, get_proof=prove)), fetch_final_header(view(chain), 0), target.log_id, binding
    )
    assert next(history).size == 9
    with pytest.raises(TransportError, match="missing trie node"):
        next(history)


def test_proofs_of_other_slots_or_of_another_contract_are_no_proof(
    chain: DevChain, target: AnchorTarget, binding: ChainBinding, anchor: Callable[[int, int], None]
) -> None:
    anchor(0, 5)
    header = fetch_final_header(view(chain), 0)
    empty = Node(chain, get_proof=lambda c, s, n: SlotProofs((), ((), ())))
    with pytest.raises(ReceiptMismatch):
        read_newest_anchor(view(empty), header, target.log_id, binding)
    nobody = replace(binding, contract=bytes(20))
    with pytest.raises(ReceiptMismatch):
        read_newest_anchor(view(chain), header, target.log_id, nobody)
    other_code = replace(view(chain), code_hash=bytes(32))
    with pytest.raises(ReceiptMismatch):
        read_newest_anchor(other_code, header, target.log_id, binding)


# --- the check ------------------------------------------------------------------------------------------------------


Archived = tuple[int, int, bytes]


def archived(chain: DevChain, size: int) -> Archived:
    number = chain.head_number()
    return size, number, parse_header(chain.header(number)).hash


def run(chain: Any, target: AnchorTarget, binding: ChainBinding, size: int, known: Archived | None) -> RollbackCheck:
    return check_rollback(view(chain), position(target, binding, size), known, GENESIS_MS)


def test_the_states(
    chain: DevChain, target: AnchorTarget, binding: ChainBinding, anchor: Callable[[int, int], None]
) -> None:
    assert run(chain, target, binding, 5, None).state is RollbackState.NOT_ANCHORED
    anchor(0, 5)
    known = archived(chain, 5)
    assert run(chain, target, binding, 5, known).state is RollbackState.CONSISTENT
    assert run(chain, target, binding, 4, None).state is RollbackState.BEHIND_ANCHOR
    other = LogPosition(target.log_id, binding, 9, lambda _: bytes(32))
    assert check_rollback(view(chain), other, known, GENESIS_MS).state is RollbackState.DIVERGED


@pytest.mark.parametrize(
    "error", [TransportError("no answer"), DamagedFile("the file of the embedded chain is damaged")]
)
@pytest.mark.parametrize("method", ["chain_id", "final_number", "header", "get_proof"])
def test_whatever_a_node_fails_at_the_check_was_not_made(
    chain: DevChain, target: AnchorTarget, binding: ChainBinding, method: str, error: Exception
) -> None:
    check = run(Node(chain, **{method: error}), target, binding, 5, archived(chain, 5))
    assert (check.state, check.local_size, check.anchored_size) == (RollbackState.UNVERIFIED, 5, 0)
    assert str(error) in check.detail


def test_what_is_no_header_or_no_proof_is_no_check(
    chain: DevChain, target: AnchorTarget, binding: ChainBinding
) -> None:
    for answers in (
        {"header": lambda _: b"\xc0"},
        {"get_proof": lambda c, s, n: SlotProofs((b"\x80",), ((), ()))},
    ):
        assert run(Node(chain, **answers), target, binding, 5, None).state is RollbackState.UNVERIFIED


def test_a_block_that_is_another_one_there(
    chain: DevChain, target: AnchorTarget, binding: ChainBinding, anchor: Callable[[int, int], None]
) -> None:
    anchor(0, 5)
    size, number, _ = archived(chain, 5)
    for known in ((size, number, bytes(32)), (size, number + 1, bytes(32)), (size, 0, bytes(32))):
        assert run(chain, target, binding, 5, known).state is RollbackState.FOREIGN_CHAIN


def test_a_chain_without_the_contract_is_a_foreign_one_only_for_who_has_an_anchor(
    target: AnchorTarget, binding: ChainBinding, tmp_path: Path
) -> None:
    path = tmp_path / "another.db"
    with DevChain(path, create=True, clock_s=lambda: GENESIS_MS // 1000):
        pass
    with DevChainReader(path) as other:
        assert run(other, target, binding, 5, (5, 1, bytes(32))).state is RollbackState.FOREIGN_CHAIN
        assert run(other, target, binding, 5, None).state is RollbackState.UNVERIFIED


def test_nodes_that_are_behind_our_own_anchor_are_not_another_chain(
    chain: DevChain, target: AnchorTarget, binding: ChainBinding
) -> None:
    """A public chain's nodes lag; only the development chain never does."""
    elsewhere = view(Node(chain, chain_id=FOREIGN_ID), chain_id=FOREIGN_ID)
    known = (5, chain.head_number() + 1, bytes(32))
    check = check_rollback(elsewhere, position(target, binding, 5), known, GENESIS_MS)
    assert check.state is RollbackState.UNVERIFIED
    assert "behind block" in check.detail

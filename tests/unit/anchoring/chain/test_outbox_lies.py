"""An outbox among liars: nodes that deny, invent, lag and change their minds, and a process that ends at any point.

The chain here is a model in memory: the contract's rules over real tries and headers, with a pool, reorganisations and
a base fee. It costs a millisecond where py-evm costs fifty, so a seed can go through a long story.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from eth_hash.auto import keccak
from trie.hexary import HexaryTrie

from anchoring.chain.agreement import all_who_answer
from anchoring.chain.client import Chain, Fees, Inclusion, SendRefused, SlotProofs, WhyRefused
from anchoring.chain.outbox import AnchorTarget, OutboxPolicy, SqlStorePort, advance, enqueue
from anchoring.chain.transactions import LocalKey, transaction_hash
from anchoring.contracts import anchor_call
from anchoring.receipt import slots, verify_receipt
from anchoring.rlp_codec import decode_rlp, encode_rlp, integer_to_rlp
from anchoring.storage import AnchorState, find_anchor, load_anchors, load_receipt, load_transactions
from identity.errors import AuditError, ReceiptMismatch, TransportError
from ledger.storage.sql import SqlStore
from ledger.storage.sqlite import open_sqlite

PENDING, SUBMITTED, MINED, FINAL, FAILED = AnchorState
CHAIN_ID = 31337
KEY = LocalKey(sha256(b"an anchor key").digest())
TARGET = AnchorTarget(CHAIN_ID, b"\xc0" * 20, KEY.address, sha256(b"a log").digest(), keccak(b"code"))
GWEI = 10**9
BUMP_MS = 1000
CONFIRMATIONS = 3


@dataclass(frozen=True)
class Block:
    """A block: its header, the contract's storage after it, the key's next nonce, and what was executed in it."""

    header: bytes
    storage: dict[int, int]
    nonce: int
    executed: dict[bytes, bool] = field(default_factory=dict)
    raw: tuple[bytes, ...] = ()


def contract_state(storage: dict[int, int]) -> tuple[HexaryTrie, HexaryTrie]:
    """The trie of accounts and that of the contract's slots."""
    of_slots, of_accounts = HexaryTrie({}), HexaryTrie({})
    for slot, value in storage.items():
        of_slots[keccak(slot.to_bytes(32, "big"))] = encode_rlp(integer_to_rlp(value))
    of_accounts[keccak(TARGET.contract)] = encode_rlp([b"\x01", b"", of_slots.root_hash, TARGET.code_hash])
    of_accounts[keccak(b"\x0a" * 20)] = encode_rlp([b"\x09", b"\x05", of_slots.root_hash, keccak(b"")])
    return of_accounts, of_slots


class ModelChain:
    """What a node of the chain answers. ``salt`` makes blocks of one number differ."""

    def __init__(self, salt: int = 0) -> None:
        self.pool: dict[bytes, bytes] = {}
        self.market = Fees(GWEI, GWEI)
        self.salt = salt
        self.blocks: list[Block] = []
        self.lag = 0
        self.mine(8)

    # What happens to it

    def mine(self, blocks: int = 1, *, take: bool = True) -> None:
        for _ in range(blocks):
            self._add(take)

    def _add(self, take: bool) -> None:
        before = self.blocks[-1] if self.blocks else Block(b"", {}, 0)
        storage, nonce, executed, raws = dict(before.storage), before.nonce, {}, []
        number = len(self.blocks)
        for raw in sorted(self.pool.values(), key=lambda raw: _fields(raw)[1]) if take else []:
            if int.from_bytes(_fields(raw)[1], "big") == nonce:
                executed[transaction_hash(raw)] = _execute(storage, _fields(raw)[7], number)
                nonce += 1
                raws.append(raw)
        for raw in raws:
            del self.pool[transaction_hash(raw)]
        accounts, _ = contract_state(storage)
        numbers = [integer_to_rlp(n) for n in (0, number, 30_000_000, 0, 1_790_000_000 + number)]
        parent = keccak(before.header)
        self.salt += 1
        fields = [parent, bytes(32), bytes(20), accounts.root_hash, bytes(32), bytes(32), bytes(256), *numbers]
        header = encode_rlp([*fields, integer_to_rlp(self.salt), bytes(32), bytes(8)])
        self.blocks.append(Block(header, storage, nonce, executed, tuple(raws)))

    def reorganise(self, depth: int, *, forget: bool) -> None:
        """Replace the newest blocks by empty ones. Their transactions go back into the pool, or nobody has them."""
        gone = [raw for block in self.blocks[-depth:] for raw in block.raw]
        del self.blocks[-depth:]
        if not forget:
            self.pool |= {transaction_hash(raw): raw for raw in gone}
        self.mine(depth, take=False)

    # The port

    def _seen(self) -> list[Block]:
        return self.blocks[: len(self.blocks) - self.lag]

    def chain_id(self) -> int:
        return CHAIN_ID

    def head_number(self) -> int:
        return len(self._seen()) - 1

    def final_number(self) -> int:
        return max(0, self.head_number() - CONFIRMATIONS)

    def header(self, number: int) -> bytes:
        if not 0 <= number < len(self._seen()):
            raise TransportError(f"no block {number}")
        return self._seen()[number].header

    def get_proof(self, contract: bytes, wanted: Sequence[int], number: int) -> SlotProofs:
        self.header(number)
        accounts, of_slots = contract_state(self.blocks[number].storage)
        return SlotProofs(
            tuple(encode_rlp(node) for node in accounts.get_proof(keccak(contract))),
            tuple(
                tuple(encode_rlp(node) for node in of_slots.get_proof(keccak(slot.to_bytes(32, "big"))) if node)
                for slot in wanted
            ),
        )

    def code(self, address: bytes) -> bytes:
        return b"code" if address == TARGET.contract else b""

    def balance(self, _address: bytes) -> int:
        return 10**18

    def transaction_count(self, _address: bytes) -> int:
        return self._seen()[-1].nonce

    def fees(self) -> Fees:
        return self.market

    def call(self, _contract: bytes, _data: bytes, _sender: bytes = bytes(20)) -> bytes:
        raise TransportError("not asked for")

    def send_raw(self, raw: bytes) -> bytes:
        sent = transaction_hash(raw)
        if sent in self.pool:
            return sent
        nonce = int.from_bytes(_fields(raw)[1], "big")
        if nonce < self.blocks[-1].nonce:
            raise SendRefused(WhyRefused.NONCE_USED, "nonce too low")
        same = [other for other in self.pool.values() if _fields(other)[1] == _fields(raw)[1]]
        for other in same:
            if any(_number(raw, at) * 10 < _number(other, at) * 11 for at in (2, 3)):
                raise SendRefused(WhyRefused.UNDERPRICED, "replacement transaction underpriced")
            del self.pool[transaction_hash(other)]
        self.pool[sent] = raw
        return sent

    def inclusion(self, wanted: bytes) -> Inclusion | None:
        for number, block in enumerate(self._seen()):
            if wanted in block.executed:
                return Inclusion(keccak(block.header), number, block.executed[wanted])
        return None

    def sizes(self) -> list[int]:
        """The sizes that the contract has held, block by block."""
        meta = slots(TARGET.owner, TARGET.log_id)[0]
        return [block.storage.get(meta, 0) & (2**64 - 1) for block in self.blocks]


def _fields(raw: bytes) -> Sequence[bytes]:
    fields: Any = decode_rlp(raw[1:], what="transaction", max_depth=3)
    return fields


def _number(raw: bytes, at: int) -> int:
    return int.from_bytes(_fields(raw)[at], "big")


def _execute(storage: dict[int, int], data: bytes, number: int) -> bool:
    """The contract's ``anchor``, with the key as its sender."""
    log_id, before, size, root = (data[at : at + 32] for at in range(4, 132, 32))
    meta, at_root, _ = slots(TARGET.owner, log_id)
    held = storage.get(meta, 0) & (2**64 - 1)
    if int.from_bytes(before, "big") != held or int.from_bytes(size, "big") <= held:
        return False
    storage[meta] = int.from_bytes(size, "big") | (1_790_000_000 + number) << 64 | number << 128
    storage[at_root] = int.from_bytes(root, "big")
    return True


class Lying:
    """A node that answers one method its own way."""

    def __init__(self, honest: Any, **answers: Callable[..., Any]) -> None:
        self._honest, self._answers = honest, answers

    def __getattr__(self, name: str) -> Any:
        return self._answers.get(name) or getattr(self._honest, name)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    with closing(open_sqlite(tmp_path / "store.db", create=True)) as opened:
        yield opened


@pytest.fixture
def chain() -> ModelChain:
    return ModelChain()


def root(size: int) -> bytes:
    return size.to_bytes(32, "big")


def ask(store: SqlStore, size: int, now_ms: int = 0) -> None:
    with store.write() as tx:
        enqueue(tx, size, root(size), now_ms=now_ms)


def push(store: SqlStorePort, chain: Any, now_ms: int = 0, **options: Any) -> list[AnchorState]:
    policy = OutboxPolicy(bump_after_ms=BUMP_MS)
    return [change.after for change in advance(store, chain, KEY, TARGET, now_ms, policy, **options)]


def states(store: SqlStore) -> dict[int, AnchorState]:
    with store.read() as tx:
        return {anchor.size: anchor.state for anchor in load_anchors(tx.connection)}


def heal(store: SqlStore, chain: ModelChain, now_ms: int) -> None:
    """An honest node, a process that lives, and blocks that come."""
    chain.lag = 0
    for _ in range(12):
        now_ms += BUMP_MS
        push(store, chain, now_ms)
        chain.mine(2)


def check_finals(store: SqlStore, chain: ModelChain) -> None:
    """Every final anchor stands on the chain, with a receipt that shows it."""
    with store.read() as tx:
        for anchor in load_anchors(tx.connection, FINAL):
            receipt = load_receipt(tx.connection, anchor)
            assert receipt is not None
            assert anchor.block_hash is not None
            assert anchor.block_number is not None
            assert keccak(chain.header(anchor.block_number)) == anchor.block_hash
            shown = verify_receipt(
                receipt,
                contract=TARGET.contract,
                owner=TARGET.owner,
                log_id=TARGET.log_id,
                block_hash=anchor.block_hash,
                code_hash=TARGET.code_hash,
            )
            assert (shown.record.size, shown.record.root) == (anchor.size, anchor.root)


def test_the_model_behaves(store: SqlStore, chain: ModelChain) -> None:
    for size in (5, 9):
        ask(store, size)
        assert push(store, chain) == [SUBMITTED]
        chain.mine(1)
        assert push(store, chain) == [MINED]
        chain.mine(CONFIRMATIONS)
        assert push(store, chain) == [FINAL]
    check_finals(store, chain)
    assert chain.sizes()[-1] == 9


# One lie at a time


def proof_of_another_account(chain: ModelChain) -> Callable[..., Any]:
    return lambda _contract, wanted, number: chain.get_proof(b"\x0a" * 20, wanted, number)


def proof_of_another_slot(chain: ModelChain) -> Callable[..., Any]:
    return lambda contract, wanted, number: chain.get_proof(contract, [slot + 7 for slot in wanted], number)


def proof_of_another_block(chain: ModelChain) -> Callable[..., Any]:
    return lambda contract, wanted, _number: chain.get_proof(contract, wanted, 0)


def invented_header(chain: ModelChain) -> Callable[..., Any]:
    return lambda number: chain.header(number)[:-1] + b"\x77"


def receipt_of_no_block(chain: ModelChain) -> Callable[..., Any]:
    return lambda _hash: Inclusion(b"\xab" * 32, chain.head_number(), True)


def receipt_of_the_future(chain: ModelChain) -> Callable[..., Any]:
    return lambda _hash: Inclusion(b"\xab" * 32, chain.head_number() + 100, True)


def receipt_of_an_empty_block(chain: ModelChain) -> Callable[..., Any]:
    return lambda _hash: Inclusion(keccak(chain.header(1)), 1, True)


LIES = [
    ("get_proof", proof_of_another_account),
    ("get_proof", proof_of_another_slot),
    ("get_proof", proof_of_another_block),
    ("header", invented_header),
    ("inclusion", receipt_of_no_block),
    ("inclusion", receipt_of_the_future),
    ("inclusion", receipt_of_an_empty_block),
]


@pytest.mark.parametrize(("method", "lie"), LIES)
def test_a_lie_makes_nothing_final_and_is_survived(
    store: SqlStore, chain: ModelChain, method: str, lie: Callable[[ModelChain], Callable[..., Any]]
) -> None:
    ask(store, 5)
    push(store, chain)
    chain.mine(1 + CONFIRMATIONS)
    liar = Lying(chain, **{method: lie(chain)})
    for now_ms in range(4):
        with suppress(TransportError, ReceiptMismatch):
            push(store, liar, now_ms)
        assert FINAL not in states(store).values()
        assert FAILED not in states(store).values()
    heal(store, chain, 10)
    assert states(store) == {5: FINAL}
    check_finals(store, chain)
    assert chain.sizes()[-1] == 5


def test_a_node_that_calls_everything_final_is_not_believed_alone(store: SqlStore, chain: ModelChain) -> None:
    liar = Lying(chain, final_number=lambda: 10**9)
    ask(store, 5)
    push(store, liar)
    chain.mine(1)
    with pytest.raises(TransportError, match="is not final for honest"):
        push(store, liar, agree=all_who_answer({"honest": chain}))
    assert states(store) == {5: MINED}
    chain.mine(CONFIRMATIONS)
    assert push(store, liar, agree=all_who_answer({"honest": chain})) == [FINAL]


def test_final_numbers_that_go_up_and_down_change_nothing_that_is_settled(store: SqlStore, chain: ModelChain) -> None:
    for size in (5, 9):
        ask(store, size)
        push(store, chain)
        chain.mine(1 + CONFIRMATIONS)
        push(store, chain)
    liar = Lying(chain, final_number=lambda: 0)
    assert push(store, liar) == []
    assert states(store) == {5: FINAL, 9: FINAL}


def test_a_branch_that_one_node_makes_up_does_not_fail_an_anchor(store: SqlStore, chain: ModelChain) -> None:
    """A whole chain of its own, with real proofs, in which a larger anchor came first: only other nodes can tell."""
    forged = ModelChain(salt=1000)
    forged.mine(1)
    meta, at_root, _ = slots(TARGET.owner, TARGET.log_id)
    forged.blocks[-1] = replace(forged.blocks[-1], storage={meta: 99 | 1 << 64 | 1 << 128, at_root: 1})
    forged.mine(2 * CONFIRMATIONS)
    chain.mine(4 * CONFIRMATIONS)
    ask(store, 5)
    with pytest.raises(TransportError, match="the nodes disagree"):
        push(store, forged, agree=all_who_answer({"honest": chain, "dead": Lying(chain, final_number=_dead)}))
    assert states(store) == {5: PENDING}
    heal(store, chain, 1)
    assert states(store) == {5: FINAL}


def _dead() -> int:
    raise TransportError("connection refused")


def test_a_node_that_is_behind_gets_nothing_new_signed(store: SqlStore, chain: ModelChain) -> None:
    """Its old head looks like a gap of nonces. For a while the same bytes are sent, until it has caught up."""
    for size in (5, 9):
        ask(store, size)
        push(store, chain)
        chain.mine(1)
        push(store, chain)
    chain.mine(1)
    chain.lag = 3
    for now_ms in range(5):
        push(store, chain, now_ms)
    chain.lag = 0
    chain.mine(CONFIRMATIONS)
    push(store, chain, 6)
    assert states(store) == {5: FINAL, 9: FINAL}
    with store.read() as tx:
        assert [len(load_transactions(tx.connection, size)) for size in (5, 9)] == [1, 1]


def test_a_node_that_keeps_no_old_states_shows_the_anchor_in_a_later_block(store: SqlStore, chain: ModelChain) -> None:
    def only_newest(contract: bytes, wanted: Sequence[int], number: int) -> SlotProofs:
        if number != chain.head_number():
            raise TransportError("missing trie node")
        return chain.get_proof(contract, wanted, number)

    pruned = Lying(chain, get_proof=only_newest)
    ask(store, 5)
    push(store, pruned)
    chain.mine(2)
    changes = advance(store, pruned, KEY, TARGET, 1)
    assert [(change.after, change.reason) for change in changes] == [(MINED, None), (MINED, "LATER_BLOCK")]
    chain.mine(CONFIRMATIONS)
    assert push(store, pruned) == [FINAL]
    check_finals(store, chain)


def test_an_anchor_that_was_to_follow_one_that_did_not_come_is_made_again(store: SqlStore, chain: ModelChain) -> None:
    """Another user of the key anchored in between: the transaction reverts, and the next one follows what is there."""
    ask(store, 9)
    push(store, chain)
    between = replace(chain.blocks[-1], storage=dict(chain.blocks[-1].storage))
    _execute(between.storage, anchor_call(TARGET.log_id, 0, 7, root(7)), len(chain.blocks) - 1)
    chain.blocks[-1] = between
    chain.mine(1)
    assert chain.blocks[-1].executed.popitem()[1] is False
    chain.mine(0)
    chain.blocks[-1].executed.update({transaction_hash(raw): False for raw in chain.blocks[-1].raw})
    heal(store, chain, 1)
    assert states(store) == {9: FINAL}
    with store.read() as tx:
        assert [one.prev_size for one in load_transactions(tx.connection, 9)] == [0, 7]


def test_a_step_is_not_begun_once_the_process_is_to_end(store: SqlStore, chain: ModelChain) -> None:
    ask(store, 5)
    assert push(store, chain, go_on=lambda: False) == []
    allowed = iter([True, False, False])
    assert push(store, chain, go_on=lambda: next(allowed)) == [SUBMITTED]


# Everything at once


class Crash(BaseException):
    """The process ends here."""


class Fate:
    """Decides at each point whether the process ends."""

    def __init__(self, dice: random.Random, odds: float) -> None:
        self.dice, self.odds = dice, odds

    def point(self) -> None:
        if self.dice.random() < self.odds:
            raise Crash

    def store(self, store: SqlStore) -> Any:
        fate = self

        class Store:
            read = store.read

            @contextmanager
            def write(self) -> Iterator[Any]:
                with store.write() as tx:
                    yield tx
                    fate.point()
                fate.point()

        return Store()

    def chain(self, chain: Any) -> Any:
        names = [name for name in dir(Chain) if not name.startswith("_")]
        return Lying(chain, **{name: self._fused(getattr(chain, name)) for name in names})

    def _fused(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.point()
            answer = method(*arguments)
            self.point()
            return answer

        return call


def live_through(seed: int, store: SqlStore, chain: ModelChain) -> tuple[int, int]:
    """A story of reorganisations, lags, lies and deaths; returns the newest size that was asked for, and the time."""
    dice = random.Random(seed)
    fate = Fate(dice, 0.03)
    size = now_ms = 0
    for _ in range(40):
        now_ms += dice.choice([1, BUMP_MS // 2, BUMP_MS])
        match dice.randrange(8):
            case 0:
                size += dice.randrange(1, 4)
                ask(store, size, now_ms)
            case 1 | 2:
                chain.mine(dice.randrange(1, 3), take=dice.random() < 0.8)
            case 3:
                chain.reorganise(dice.randrange(1, CONFIRMATIONS), forget=dice.random() < 0.5)
            case 4:
                chain.lag = dice.randrange(3)
            case 5:
                chain.market = Fees(dice.randrange(1, 90) * GWEI, GWEI)
        method, lie = dice.choice(LIES)
        node = Lying(chain, **{method: lie(chain)}) if dice.random() < 0.2 else chain
        if dice.random() < 0.1:
            node = Lying(chain, final_number=lambda: 10**9)
        honest = Lying(chain)
        with suppress(Crash, AuditError):
            push(fate.store(store), fate.chain(node), now_ms, agree=all_who_answer({"honest": honest}))
    return size, now_ms


@pytest.mark.parametrize("seed", range(24))
def test_whatever_happens_each_anchor_ends_once_and_none_contradicts(tmp_path: Path, seed: int) -> None:
    chain = ModelChain()
    with closing(open_sqlite(tmp_path / "store.db", create=True)) as store:
        size, now_ms = live_through(seed, store, chain)
        if not size:
            size = 1
            ask(store, size)
        chain.market = Fees(GWEI, GWEI)
        for _ in range(4):
            heal(store, chain, now_ms)
            now_ms += 20 * BUMP_MS
        with store.read() as tx:
            ended = {anchor.size: (anchor.state, anchor.reason) for anchor in load_anchors(tx.connection)}
        # After a reorganisation a later anchor may come first: it covers the smaller one, which is stale then.
        assert set(ended.values()) <= {(FINAL, None), (FAILED, "STALE")}, ended
        assert states(store)[size] is FINAL
        assert max(states(store)) == size
        check_finals(store, chain)
        with store.read() as tx:
            newest = find_anchor(tx.connection, size)
        assert newest is not None
    held = [one for one in chain.sizes() if one]
    assert held == sorted(held)
    assert held[-1] == size

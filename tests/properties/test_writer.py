"""The shared writer under every interleaving of items, conditions and faults.

Whatever happens, the feed holds exactly what was acknowledged, and perhaps what was said to be unknown, in the order of
submission; and of all signatures that the device made, those that left the process agree on every index.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from identity.errors import ConflictError, StorageError, Unacknowledged, UnknownOutcome
from identity.history import build_add_device, build_inception, fold, key_commitment, sign_event
from identity.keys import Ed25519Signer
from ledger.audit import audit_feed
from ledger.feed import AppendResult, create_feed
from ledger.identities import add_events
from ledger.storage.memory import MemoryStore
from ledger.store import FeedKey, SignedHead
from ledger.turn import Condition, Turn
from ledger.writer import StoreWriter, WriterLimits

PATIENCE_S = 20
NAMES = ("one", "two")
ROOT, FOLLOWING, DEVICE = (Ed25519Signer(bytes([number]) * 32) for number in (1, 2, 3))
INCEPTION = sign_event(
    build_inception(
        label="writer",
        root_keys=[ROOT.public_key],
        next_digests=[key_commitment(FOLLOWING.public_key)],
        time_ms=0,
    ),
    [(0, ROOT)],
)
BEGUN = fold([INCEPTION])
ADDED = sign_event(
    build_add_device(BEGUN, device=DEVICE.public_key, name="laptop", time_ms=0), [(0, ROOT), (1, DEVICE)]
)


class RecordingSigner:
    """The device, which remembers everything it signed: (feed, length) -> tree hashes; and fails when it is told to."""

    def __init__(self) -> None:
        self.public_key = DEVICE.public_key
        self.trees: dict[tuple[bytes, int], set[bytes]] = defaultdict(set)
        self.faults: list[bool] = []

    def sign(self, message: bytes) -> bytes:
        if self.faults and self.faults.pop(0):
            raise OSError("the token was pulled out")
        key, tree, length = message[32:64], message[64:96], int.from_bytes(message[96:104], "little")
        self.trees[key, length].add(tree)
        return DEVICE.sign(message)


class FaultyStore(MemoryStore):
    """Each write transaction has the next fault of a list; the first of a round waits until the round is queued."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.entered = threading.Semaphore(0)
        self.gate: threading.Event | None = None

    @contextmanager
    def write(self) -> Iterator[Any]:
        if self.gate is not None:
            self.entered.release()
            assert self.gate.wait(PATIENCE_S)
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "begin":
            raise StorageError("no such device")
        with super().write() as tx:
            yield tx
            if fault == "before commit":
                raise StorageError("input/output error")
        if fault == "after commit":
            raise StorageError("connection lost")


@dataclass(frozen=True)
class Item:
    """``blocks`` blocks for a feed; ``condition`` is what its condition does."""

    feed: int
    blocks: int
    condition: str


ITEMS = st.builds(
    Item,
    st.integers(0, 1),
    st.integers(1, 3),
    st.sampled_from(["none", "none", "holds", "conflicts", "foreign", "feed has not moved"]),
)
ROUNDS = st.lists(
    st.tuples(
        st.lists(ITEMS, min_size=1, max_size=8),
        st.lists(st.sampled_from(["", "", "begin", "before commit", "after commit"]), max_size=6),
        st.lists(st.booleans(), max_size=3),  # the signer's faults
        st.lists(st.booleans(), max_size=3),  # the hook's
    ),
    min_size=1,
    max_size=5,
)


class World:
    """A store, its writer, and what it answered."""

    def __init__(self, turn_items: int) -> None:
        self.store = FaultyStore()
        with self.store.write() as tx:
            add_events(tx, BEGUN.identity, [INCEPTION, ADDED])
        self.keys = [create_feed(self.store, DEVICE, BEGUN.identity, name) for name in NAMES]
        self.signer = RecordingSigner()
        self.hook_faults: list[bool] = []
        self.left: list[tuple[FeedKey, SignedHead]] = []
        """Every head that anybody was told."""
        self.submitted: list[tuple[FeedKey, tuple[bytes, ...], Future[AppendResult]]] = []
        self.writer = StoreWriter(
            self.store,
            [self.signer],
            after_commit=self.told,
            limits=WriterLimits(turn_items=turn_items, settle_s=0),
        )

    def told(self, results: Sequence[AppendResult]) -> None:
        self.left += [(result.key, result.head) for result in results]
        if self.hook_faults and self.hook_faults.pop(0):
            raise OSError("no space")

    def run(self, items: list[Item], faults: list[str], signer: list[bool], hook: list[bool]) -> None:
        """Queue the items while the writer is held in the first one's turn; then let it go."""
        self.store.faults, self.signer.faults, self.hook_faults = list(faults), list(signer), list(hook)
        self.store.gate = gate = threading.Event()
        futures = [self.submit(items[0])]
        assert self.store.entered.acquire(timeout=PATIENCE_S)
        self.store.gate = None
        futures += map(self.submit, items[1:])
        gate.set()
        for future in futures:
            future.exception(PATIENCE_S)

    def submit(self, item: Item) -> Future[AppendResult]:
        key = self.keys[item.feed]
        number = len(self.submitted)
        blocks = tuple(b"%d/%d" % (number, part) for part in range(item.blocks))
        future = self.writer.submit(key, blocks, condition=self.condition(item.condition, key))
        self.submitted.append((key, blocks, future))
        return future

    def condition(self, kind: str, key: FeedKey) -> Condition | None:
        length = self.length(key)

        def check(turn: Turn) -> None:
            if kind == "conflicts":
                raise ConflictError("lost")
            if kind == "foreign":
                raise ZeroDivisionError
            state = turn.feed(key)
            if kind == "feed has not moved" and (state is None or state.length != length):
                raise ConflictError(f"no longer at {length}")

        return None if kind == "none" else check

    def length(self, key: FeedKey) -> int:
        with self.store.read() as tx:
            state = tx.feed(key)
        assert state is not None
        return state.length

    def stored(self, key: FeedKey) -> list[bytes]:
        assert audit_feed(self.store, key).first_bad is None
        with self.store.read() as tx:
            return list(tx.blocks(key, 0, self.length(key)))


def check_entries(world: World, key: FeedKey) -> None:
    """The feed is what was acknowledged and some of what is unknown, whole items in the order of submission."""
    runs = [(int(number), len(list(run))) for number, run in groupby(world.stored(key), lambda one: one.split(b"/")[0])]
    assert [number for number, _ in runs] == sorted({number for number, _ in runs})
    held = dict(runs)
    start = 0
    for number, (of, blocks, future) in enumerate(world.submitted):
        error = future.exception()
        if of != key:
            continue
        assert held.get(number, len(blocks)) == len(blocks), "part of an item"
        if error is None or isinstance(error, Unacknowledged):
            told = future.result() if error is None else error
            assert (told.start, told.length) == (start, start + len(blocks))  # type: ignore[union-attr]
            assert number in held
        elif not isinstance(error, UnknownOutcome):
            assert number not in held, f"{error!r}, and it is there"
        start += held.get(number, 0)


def check_signatures(world: World) -> None:
    """Nothing left that is not stored, so no two trees of one length did: what was signed besides never got out."""
    answered = [future.result() for _, _, future in world.submitted if future.exception() is None]
    left = [*world.left, *((result.key, result.head) for result in answered)]
    with world.store.read() as tx:
        for key, head in left:
            assert tx.head(key, head.length) == head
        for key in world.keys:
            for head in tx.heads(key):
                assert head.tree_hash in world.signer.trees[key, head.length]


@settings(max_examples=150, deadline=None)
@given(ROUNDS, st.integers(1, 4))
def test_any_interleaving(rounds: list[tuple[list[Item], list[str], list[bool], list[bool]]], turn_items: int) -> None:
    world = World(turn_items)
    try:
        for items, faults, signer, hook in rounds:
            world.run(items, faults, signer, hook)
        for key in world.keys:
            check_entries(world, key)
        check_signatures(world)
    finally:
        if world.store.gate is not None:
            world.store.gate.set()
        world.writer.close()
        world.store.close()


def test_the_faults_are_met() -> None:
    """A story that goes through each of them, so that the property above is known to have something to hold against."""
    world = World(1)
    plain = Item(0, 1, "none")
    world.run([plain] * 4, ["", "before commit", "", "after commit", "begin", "after commit"], [], [])
    world.run([plain] * 3, [], [True], [True])
    answers = [type(future.exception()) for _, _, future in world.submitted]
    world.writer.close()
    assert answers == [type(None), StorageError, UnknownOutcome, type(None), OSError, Unacknowledged, type(None)]
    assert world.stored(world.keys[0]) == [b"0/0", b"2/0", b"3/0", b"5/0", b"6/0"]
    assert len(world.signer.trees[world.keys[0], 2]) == 2, "two trees of one length were signed, and one was dropped"
    check_entries(world, world.keys[0])
    check_signatures(world)

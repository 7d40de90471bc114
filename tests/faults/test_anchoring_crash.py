"""A round of anchoring that is cut off at any durable step: the next one goes on, and nothing is done twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from anchoring.chain.client import Inclusion
from anchoring.chain.outbox import AnchorTarget
from anchoring.chain.transactions import LocalKey
from anchoring.contracts import load_contract
from anchoring.evidence import encode_evidence
from anchoring.storage import AnchorState, load_anchors, load_timestamps, load_transactions
from anchoring.timestamp import Authority
from anchoring.tsa.source import AcquiredToken, EmbeddedSource
from anchoring.worker import AnchorSender, Round, run_round

pytestmark = pytest.mark.fault

World = Any
"""``conftest.World``."""


class Killed(BaseException):
    """The process ends here. No ``except AuditError`` may stop it."""


@dataclass
class Fuse:
    """Lets so many steps pass, and raises at the next one."""

    steps: int
    passed: int = 0

    def step(self) -> None:
        if self.passed == self.steps:
            raise Killed
        self.passed += 1


class FusedStore:
    """A store whose process may end before a transaction begins, before it commits, and after it has."""

    def __init__(self, store: Any, fuse: Fuse) -> None:
        self._store, self._fuse = store, fuse

    @contextmanager
    def read(self) -> Iterator[Any]:
        with self._store.read() as tx:
            yield tx

    @contextmanager
    def write(self) -> Iterator[Any]:
        self._fuse.step()
        with self._store.write() as tx:
            yield tx
            self._fuse.step()
        self._fuse.step()


class FusedSource:
    """An authority that may be asked in vain: the process ends before the question, or with the answer in hand."""

    name = "embedded development authority"

    def __init__(self, source: EmbeddedSource, fuse: Fuse) -> None:
        self._source, self._fuse = source, fuse
        self.asked = 0

    @property
    def authority(self) -> Authority:
        return self._source.authority

    def acquire(self, message: bytes, now_ms: int) -> AcquiredToken:
        self._fuse.step()
        self.asked += 1
        token = self._source.acquire(message, now_ms)
        self._fuse.step()
        return token


class FusedChain:
    """A chain to which a transaction is sent, or not, or is sent and nobody learns of it."""

    def __init__(self, chain: Any, fuse: Fuse) -> None:
        self._chain, self._fuse = chain, fuse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chain, name)

    def send_raw(self, raw: bytes) -> bytes:
        self._fuse.step()
        sent: bytes = self._chain.send_raw(raw)
        self._fuse.step()
        return sent


def run(world: World, fuse: Fuse) -> Round:
    """One round in a process of its own: everything is opened anew."""
    with world.unguarded() as store, world.chain() as chain, world.session(read_only=True) as session:
        log_id, descriptor = session.vault.log_descriptor()
        binding = descriptor.chain
        target = AnchorTarget(binding.id, binding.contract, binding.owner, log_id, load_contract().code_hash)
        sender = AnchorSender(FusedChain(chain, fuse), LocalKey(world.ring.anchor_key), target)
        source = FusedSource(EmbeddedSource(world.authority()), fuse)
        fused: Any = FusedStore(store, fuse)
        return run_round(fused, log_id, descriptor, [source], sender, world.clock())


@dataclass(frozen=True)
class Outcome:
    """What is there in the end."""

    tokens: int
    anchors: list[tuple[int, AnchorState]]
    sent: int
    mined: list[bool]


def outcome(world: World) -> Outcome:
    with world.unguarded() as store, store.read() as tx:
        anchors = load_anchors(tx.connection)
        newest = list(tx.checkpoints())[-1].size
        tokens = len(load_timestamps(tx.connection, newest))
        transactions = [one for anchor in anchors for one in load_transactions(tx.connection, anchor.size)]
    with world.chain() as chain:
        inclusions: list[Inclusion | None] = [chain.inclusion(one.hash) for one in transactions]
        mined = [inclusion.succeeded for inclusion in inclusions if inclusion is not None]
    return Outcome(tokens, [(anchor.size, anchor.state) for anchor in anchors], len(transactions), mined)


@pytest.fixture(scope="module")
def checkpointed(founded: World, clone: Callable[..., World], tmp_path_factory: pytest.TempPathFactory) -> World:
    world = clone(founded, tmp_path_factory.mktemp("checkpointed"))
    world.append("one")
    world.checkpoint()
    return world


def steps_of_a_round(world: World) -> int:
    fuse = Fuse(10_000)
    assert run(world, fuse).failures == []
    return fuse.passed


def test_a_round_may_end_at_any_step(checkpointed: World, clone: Callable[..., World], tmp_path: Path) -> None:
    untouched = clone(checkpointed, tmp_path / "whole")
    count = steps_of_a_round(untouched)
    assert count >= 16
    expected = outcome(untouched)
    size = expected.anchors[0][0]
    assert expected == Outcome(1, [(size, AnchorState.FINAL)], 1, [True])
    for steps in range(count):
        world = clone(checkpointed, tmp_path / f"{steps}")
        with pytest.raises(Killed):
            run(world, Fuse(steps))
        for _ in range(2):
            world.clock.tick()
            assert run(world, Fuse(10_000)).failures == []
        assert outcome(world) == expected, f"after {steps} of {count} steps"
        if steps % 5 == 0:
            world.seal_and_show()
            assert world.verify(encode_evidence(world.evidence("ledger", 0))).exit_code == 0


def test_a_round_that_is_done_does_nothing_more(
    checkpointed: World, clone: Callable[..., World], tmp_path: Path
) -> None:
    world = clone(checkpointed, tmp_path)
    assert steps_of_a_round(world) > 0
    again = run(world, Fuse(0))
    assert (again.tokens, again.changes, again.failures) == ({}, [], [])

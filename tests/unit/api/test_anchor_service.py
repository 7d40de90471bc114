"""The anchoring service: what it does when parts fail and recover, and how it ends. The clock is the test's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest

from anchoring.chain.outbox import AnchorTarget
from anchoring.chain.transactions import LocalKey
from anchoring.rollback import RollbackCheck, RollbackState
from anchoring.schedule import Retry
from anchoring.storage import load_anchors, load_timestamps
from anchoring.timestamp import Authority, TimestampEvidence, VerifiedToken
from anchoring.tsa.backoff import FIRST_WAIT_MS
from anchoring.tsa.pool import PoolPolicy
from anchoring.tsa.source import AcquiredToken
from anchoring.worker import AnchorSender
from api.anchor_service import ROLLBACK_CHECK, AnchorEvent, AnchorService, Surroundings
from api.home import Home
from api.last_round import load_round
from identity.errors import AuditError, ConfigurationError, ReadOnlyState, StoreBusy, TransportError
from identity.history import build_bind_log, build_inception, fold, key_commitment, sign_event
from identity.keys import Ed25519Signer
from ledger.identities import add_events
from ledger.log_writer import LogWriter
from ledger.statement import ChainBinding, LogDescriptor
from ledger.storage.sql import SqlStore
from ledger.storage.sqlite import open_sqlite

LOG_KEY: Final = Ed25519Signer(bytes(range(32)))
ANCHOR_KEY: Final = LocalKey(sha256(b"anchor").digest())
BINDING: Final = ChainBinding(31337, bytes(20), ANCHOR_KEY.address)
DESCRIPTOR: Final = LogDescriptor("vault.example", LOG_KEY.public_key, BINDING)
START_MS: Final = 1_767_225_600_000
INTERVAL_MS: Final = 60_000
RETRY: Final = Retry(first_ms=1000, most_ms=8000)
CHAIN: Final = "chain 31337"


class Source:
    def __init__(self, name: str) -> None:
        self.name = name
        self.authority = Authority(b"", "1.2.3", f"CN={name}")
        self.error: AuditError | None = None
        self.asked: list[int] = []
        self.when_asked: Callable[[], None] = lambda: None

    def acquire(self, _message: bytes, now_ms: int) -> AcquiredToken:
        self.asked.append(now_ms)
        self.when_asked()
        if self.error is not None:
            raise self.error
        own = frozenset({self.name.encode()})
        verified = VerifiedToken(now_ms, 1, now_ms - 1, now_ms + 1, self.name, "1.2.3", 1, False, 1 << 50, own)
        return AcquiredToken(TimestampEvidence(self.name.encode(), (), (), ()), verified)


class DeadChain:
    def __init__(self) -> None:
        self.asked = 0
        self.error: AuditError = TransportError("connection refused")

    def __getattr__(self, name: str) -> Any:
        def fail(*_arguments: object) -> None:
            self.asked += 1
            raise self.error

        return fail


class FakeVault:
    def __init__(self, store: SqlStore, log_id: bytes) -> None:
        self.store = store
        self._log_id = log_id

    def log_descriptor(self) -> tuple[bytes, LogDescriptor]:
        return self._log_id, DESCRIPTOR


class FakeSession:
    """What the service uses of ``api.bootstrap.Session``."""

    def __init__(self, home: Home, vault: FakeVault) -> None:
        self.home, self.vault = home, vault
        self.check = RollbackCheck(RollbackState.CONSISTENT, 2, 2, "as it should be")
        self.checked = 0

    def check_rollback(self) -> RollbackCheck:
        self.checked += 1
        return self.check

    def is_development(self) -> bool:
        return False


@dataclass
class Stage:
    """A service, what it works on, and a clock that its waits move."""

    service: AnchorService
    session: FakeSession
    sources: list[Source]
    chain: DeadChain
    events: list[AnchorEvent]
    ticks: list[int]

    def told(self) -> list[tuple[str, str]]:
        found = [(event.part, event.event) for event in self.events]
        self.events.clear()
        return found

    def pass_time(self, milliseconds: int) -> None:
        self.ticks[0] += milliseconds


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with closing(open_sqlite(tmp_path / "vault.db", create=True)) as store:
        log_id = LogWriter(store, LOG_KEY).create(DESCRIPTOR)
        session = FakeSession(Home(tmp_path), FakeVault(store, log_id))
        sources, chain, events, ticks = [Source("one"), Source("two")], DeadChain(), [], [0]
        sender = AnchorSender(chain, ANCHOR_KEY, AnchorTarget(31337, bytes(20), ANCHOR_KEY.address, log_id, b""))
        around = Surroundings(lambda: START_MS + ticks[0], lambda: ticks[0], lambda: 0.0, events.append)
        named: Any = {source.name: source for source in sources}
        in_session: Any = session
        one_by_one = PoolPolicy(k=2, parallel=1)
        service = AnchorService(
            in_session, named, sender, INTERVAL_MS, around, threading.Event(), one_by_one, retry=RETRY
        )
        yield Stage(service, session, sources, chain, events, ticks)


def checkpoint(stage: Stage) -> int:
    store = stage.session.vault.store
    with store.read() as tx:
        known = tx.identities()
        log_id = stage.session.vault.log_descriptor()[0]
    if not known:
        root = Ed25519Signer(bytes(32))
        inception = build_inception(
            label="x", root_keys=[root.public_key], next_digests=[key_commitment(bytes(32))], time_ms=0
        )
        events = [sign_event(inception, [(0, root)])]
        events.append(sign_event(build_bind_log(fold(events), log=log_id, time_ms=0), [(0, root)]))
        with store.write() as tx:
            add_events(tx, fold(events).identity, events)
    return LogWriter(store, LOG_KEY).append_checkpoint(restate=True).size


def test_without_a_checkpoint_it_waits(stage: Stage) -> None:
    stage.service.turn()
    assert stage.told() == [(ROLLBACK_CHECK, "state")]
    assert stage.chain.asked == 0


def test_each_part_fails_and_recovers_alone(stage: Stage) -> None:
    size = checkpoint(stage)
    one, two = stage.sources
    two.error = TransportError("no answer")
    stage.service.turn()
    assert stage.told() == [(ROLLBACK_CHECK, "state"), ("one", "token"), (CHAIN, "failed"), ("two", "failed")]
    with stage.session.vault.store.read() as tx:
        assert [token.authority for token in load_timestamps(tx.connection, size)] == ["one"]
        assert [anchor.size for anchor in load_anchors(tx.connection)] == [size]
    remembered = load_round(stage.session.home)
    assert remembered is not None
    assert remembered.failures == {"two": "no answer", CHAIN: "connection refused"}
    # Nothing is due before the first delay has passed; after it, only what failed, and each by its own schedule.
    asked = stage.chain.asked
    stage.pass_time(999)
    stage.service.turn()
    assert stage.chain.asked == asked
    stage.pass_time(1)
    two.error = None
    stage.service.turn()
    assert stage.chain.asked > asked
    assert (len(one.asked), len(two.asked)) == (1, 1)
    stage.pass_time(FIRST_WAIT_MS - 1000)
    stage.service.turn()
    assert (len(one.asked), len(two.asked)) == (1, 2)
    assert stage.told() == [("two", "token"), ("two", "recovered")], "the chain says what it said before"


def test_delays_double_up_to_the_longest(stage: Stage) -> None:
    checkpoint(stage)
    one, two = stage.sources
    one.error = TransportError("no answer")
    tried = []
    for _ in range(400):
        before = stage.chain.asked
        stage.service.turn()
        tried += [stage.ticks[0]] * (stage.chain.asked > before)
        stage.pass_time(500)
    assert tried[:8] == [0, 1000, 3000, 7000, 15000, 23000, 31000, 39000]
    assert [at - START_MS for at in one.asked] == [0, 30_000, 90_000], "the pool's own schedule"
    assert len(two.asked) == 1


def test_a_reason_is_told_when_it_changes(stage: Stage) -> None:
    checkpoint(stage)
    stage.service.turn()
    stage.told()
    for error in ("connection refused", "garbage", "garbage"):
        stage.chain.error = TransportError(error)
        stage.pass_time(8000)
        stage.service.turn()
    assert stage.told() == [(CHAIN, "failed")]


def test_a_check_that_cannot_be_made_is_tried_again_and_holds_up_no_token(stage: Stage) -> None:
    checkpoint(stage)
    stage.session.check = RollbackCheck(RollbackState.UNVERIFIED, 2, 0, "the chain could not be read")
    stage.service.turn()
    assert (ROLLBACK_CHECK, "failed") in stage.told()
    assert len(stage.sources[0].asked) == 1
    stage.session.check = RollbackCheck(RollbackState.CONSISTENT, 2, 2, "fine")
    stage.pass_time(1000)
    stage.service.turn()
    assert stage.told() == [(ROLLBACK_CHECK, "recovered"), (ROLLBACK_CHECK, "state")]


@pytest.mark.parametrize(
    "state", [state for state in RollbackState if not state.writable and state is not RollbackState.UNVERIFIED]
)
def test_a_store_that_must_not_be_written_to_ends_it(stage: Stage, state: RollbackState) -> None:
    checkpoint(stage)
    stage.session.check = RollbackCheck(state, 2, 9, "look here")
    with pytest.raises(ReadOnlyState, match="look here"):
        stage.service.run()
    assert stage.sources[0].asked == []


def test_a_chain_that_lost_a_final_anchor_ends_it(stage: Stage) -> None:
    checkpoint(stage)
    stage.chain.error = ReadOnlyState("foreign-chain", "the final anchor is not on this chain")
    with pytest.raises(ReadOnlyState, match="foreign-chain"):
        stage.service.run()


def test_what_trying_again_does_not_mend_ends_it(stage: Stage) -> None:
    checkpoint(stage)
    stage.chain.error = ConfigurationError("another chain")
    with pytest.raises(ConfigurationError):
        stage.service.run()


def test_a_busy_store_is_tried_again(stage: Stage) -> None:
    checkpoint(stage)
    stage.sources[0].error = StoreBusy("locked")
    stage.service.turn()
    assert {event for event in stage.told() if event[1] == "failed"} == {
        ("one", "failed"),
        ("two", "failed"),
        (CHAIN, "failed"),
    }
    stage.sources[0].error = None
    stage.pass_time(1000)
    stage.service.turn()
    assert ("one", "recovered") in stage.told()


def test_a_new_checkpoint_is_noticed_at_the_next_interval(stage: Stage) -> None:
    checkpoint(stage)
    stage.service.turn()
    newer = checkpoint(stage)
    stage.pass_time(INTERVAL_MS)
    stage.service.turn()
    with stage.session.vault.store.read() as tx:
        assert len(load_timestamps(tx.connection, newer)) == 2


def test_it_ends_between_two_steps(stage: Stage) -> None:
    """Asked to stop while the first authority answers: its token is kept, and nobody else is asked."""
    size = checkpoint(stage)
    stage.sources[0].when_asked = stage.service.stop.set
    stage.service.run()
    assert stage.told() == [
        ("service", "started"),
        (ROLLBACK_CHECK, "state"),
        ("one", "token"),
        ("service", "stopped"),
    ]
    assert stage.sources[1].asked == []
    assert stage.chain.asked == 0
    with stage.session.vault.store.read() as tx:
        assert len(load_timestamps(tx.connection, size)) == 1

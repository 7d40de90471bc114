"""Serial writes: each key's history is linearizable, through partitions, lost answers, crashes and changes of the home.

Two to four devices propose to one home, are apart, end between two statements, and have clocks that are years off. The
home is given away, or lost with what nobody has heard of. What was told to those who asked, and what the home showed,
has to have one explanation in which every write that was accepted found what it expected. What a home acknowledged
beyond what is vouched for is known to be lost, and is held to be lost everywhere.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from identity.errors import AuditError, RefusedError, StorageError
from identity.event import LastGood
from identity.history import RevocationReason, build_revoke_device, fold
from ledger.identities import add_events
from ledger.store import stored_tree_hash
from ledger.values import Reference
from sync.changes import Changes, Strength
from sync.serial import Verdict
from sync.stateroot import state_root
from sync.storage.audit import audit_database
from sync.storage.state_leaves import leaves_now

from .database_faults import Fuse
from .linearizability import NEVER, Answer, Read, Swap, is_linearizable

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "25"))
KEYS = ("12a", "12b")
YEAR_MS = 365 * 24 * 3600 * 1000
WORLDS = count()

DEVICE = st.integers(0, 3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), DEVICE, st.sampled_from(KEYS)),
        st.tuples(st.just("write"), DEVICE, st.sampled_from(KEYS)),
        st.tuples(st.just("carry"), DEVICE, DEVICE),
        st.tuples(st.just("carry"), DEVICE, DEVICE),
        st.tuples(st.just("decide"), DEVICE),
        st.tuples(st.just("decide"), DEVICE),
        st.tuples(st.just("serve"), DEVICE),
        st.tuples(st.just("race"), DEVICE, DEVICE, st.sampled_from(KEYS)),
        st.tuples(st.just("race"), DEVICE, DEVICE, st.sampled_from(KEYS)),
        st.tuples(st.just("read"), DEVICE),
        st.tuples(st.just("past the home"), DEVICE, st.sampled_from(KEYS)),
        st.tuples(st.just("crash"), DEVICE, st.integers(0, 12), st.booleans()),
        st.tuples(st.just("restart"), DEVICE),
        st.tuples(st.just("clock"), DEVICE, st.integers(-20, 20)),
        st.tuples(st.just("give away"), DEVICE, DEVICE),
        st.tuples(st.just("lose"), DEVICE),
    ),
    min_size=4,
    max_size=40,
)


@dataclass(slots=True)
class Asked:
    """A write, by whom, and what was said about it. ``proposal`` None: it was done at once, by ``entry``."""

    key: str
    expected: int | None
    new: int
    begun: int
    proposal: Reference | None = None
    entry: Reference | None = None
    told: int = NEVER
    verdict: Verdict | None = None


@dataclass(slots=True)
class Seen:
    """What a device that was the home showed, and how much of its feed stood behind that."""

    key: str
    value: int | None
    at: int
    feed: bytes
    length: int


class Script:
    """Devices, what they do, and what they and their users were told."""

    def __init__(self, world: Any, devices: int, url: str = "") -> None:
        self.world = world
        self.now = 0
        self.asked: list[Asked] = []
        self.seen: list[Seen] = []
        self.lost: tuple[bytes, int] | None = None
        """The feed of the home that was lost, and how much of it is vouched for."""
        self.values = count(1)
        self.replicas = [world.replica(f"device {number}", url if number == 1 else "") for number in range(devices)]
        for one in self.replicas:
            one.put("greetings", one.name, x=1)
        world.exchange()
        self.replicas[0].db.set_home("seats", self.replicas[0].feed)
        world.exchange()

    def run(self, steps: list[tuple[Any, ...]]) -> None:
        acts = {
            "write": self.write,
            "carry": self.carry,
            "decide": self.decide,
            "serve": self.serve,
            "race": self.race,
            "read": self.read,
            "past the home": self.write_past_the_home,
            "crash": self.crash,
            "restart": self.restart,
            "clock": self.set_clock,
            "give away": self.give_away,
            "lose": self.lose,
        }
        for name, number, *rest in steps:
            self.now += 2
            acts[name](self.replica(number), *rest)

    def replica(self, number: int) -> Any:
        return self.replicas[number % len(self.replicas)]

    def home_of(self, replica: Any) -> bytes:
        found: bytes = replica.db.homes()["seats"].feed
        return found

    def is_home(self, replica: Any) -> bool:
        return self.home_of(replica) == replica.feed and not self.is_lost(replica)

    def is_lost(self, replica: Any) -> bool:
        """Whether it knows itself that it was ended."""
        with replica.db.read() as reader:
            return any(one.feed == replica.feed and one.excluded_from is not None for one in reader.branches)

    # --- steps ---

    def write(self, replica: Any, key: str) -> None:
        expected = value_of(replica, key)
        asked = Asked(key, expected, next(self.values), self.now)
        changes = Changes(strength=Strength.SERIAL)
        state = replica.db.get("seats", key)
        etag = None if state is None else state.etag
        changes.put("seats", key, {"v": asked.new}, if_match=etag, if_absent=etag is None)
        try:
            commit = replica.db.commit(changes)
        except RefusedError:
            assert self.is_lost(replica)
            return
        self.asked.append(asked)
        if commit.pending:
            assert value_of(replica, key) == expected, "a proposal has no effect"
            asked.proposal = commit.reference
        else:
            asked.entry, asked.told, asked.verdict = commit.reference, self.now + 1, Verdict.ACCEPTED

    def carry(self, target: Any, source: int) -> None:
        """What one has comes to another; the answers too, which the users there are told."""
        other = self.replica(source)
        if other is not target:
            target.receive(other)
        self.tell()

    def tell(self) -> None:
        """Whoever asked sees on the own device what became of it."""
        for asked in self.asked:
            if asked.proposal is not None and asked.told == NEVER:
                replica = next(one for one in self.replicas if one.feed == asked.proposal.feed)
                found = replica.db.decision(asked.proposal)
                if found is not None:
                    asked.verdict, asked.told, asked.entry = found.verdict, self.now + 1, found.entry

    def decide(self, replica: Any) -> None:
        if not self.is_lost(replica):
            for decision in replica.db.decide_pending():
                assert decision.rivals == ()
            self.tell()

    def serve(self, replica: Any) -> None:
        """As a node that is well connected does it: take in, decide, answer."""
        for other in self.replicas:
            if other is not replica:
                replica.receive(other)
        self.decide(replica)
        for other in self.replicas:
            if other is not replica:
                other.receive(replica)
        self.tell()

    def race(self, replica: Any, other: int, key: str) -> None:
        """Two want the same before either hears of the other, and both are heard at once by whoever they take for the
        home."""
        self.write(replica, key)
        self.now += 2
        self.write(self.replica(other), key)
        home = self.home_of(replica)
        self.now += 2
        self.serve(next(one for one in self.replicas if one.feed == home))

    def read(self, replica: Any) -> None:
        if self.is_home(replica):
            with replica.store.read() as tx:
                length = tx.feed(replica.feed).length
            for key in KEYS:
                self.seen.append(Seen(key, value_of(replica, key), self.now, replica.feed, length))

    def write_past_the_home(self, replica: Any, key: str) -> None:
        if self.home_of(replica) != replica.feed:
            with pytest.raises(RefusedError):
                replica.put("seats", key, v=-1)

    def crash(self, replica: Any, statements: int, answered: bool) -> None:
        """The process ends somewhere while it decides; nobody there knows how far it came."""
        if replica.url.startswith("postgresql") or self.is_lost(replica):
            return
        fuse = Fuse(replica, statements * 8, commits=statements, answered=answered)
        with suppress(StorageError, AuditError):
            replica.db.decide_pending()
        fuse.has_blown = True
        with suppress(StorageError, AuditError):
            replica.close()
        replica.reopen()
        self.tell()

    def restart(self, replica: Any) -> None:
        replica.close()
        replica.reopen()

    def set_clock(self, replica: Any, years: int) -> None:
        replica.clock = lambda: self.world.clock_ms + years * YEAR_MS

    def give_away(self, admin: Any, to: int) -> None:
        with suppress(RefusedError):
            admin.db.set_home("seats", self.replica(to).feed)

    def lose(self, successor: Any) -> None:
        """The home's device is gone: revoked where the successor knows its feed, which goes on from there.

        The device itself may not hear of it for long.
        """
        feed = self.home_of(successor)
        if self.lost is not None or feed == successor.feed or len(self.replicas) < 3 or self.is_lost(successor):
            return
        victim = next(one for one in self.replicas if one.feed == feed)
        if self.home_of(victim) != feed:
            return  # it has given the collection away: a revocation that excludes that is another case
        with successor.store.read() as tx:
            length = tx.feed(feed).length
            good = {feed: LastGood(length, stored_tree_hash(tx, feed, length))}
        event = build_revoke_device(
            fold(self.world.events),
            device=victim.device.public_key,
            last_good=good,
            reason=RevocationReason.LOST,
            time_ms=1_000,
        )
        self.world.events.append(self.world.sign(event, self.world.root))
        with successor.store.write() as tx:
            add_events(tx, self.world.identity, self.world.events)
        successor.db.introduce()
        successor.db.set_home("seats", successor.feed)
        assert self.home_of(successor) == successor.feed
        self.lost = (feed, length)

    # --- what has to be so ---

    def check(self) -> None:
        self.world.exchange()
        self.tell()
        self.check_agreement()
        for key in KEYS:
            history = self.history(key)
            assert is_linearizable(history), history

    def check_agreement(self) -> None:
        """Everybody shows the same, and says the same about every proposal, which one entry decides at most."""
        pictures = []
        for replica in self.replicas:
            with replica.store.read() as tx:
                assert audit_database(tx, replica.store.dialect, self.world.uid) == []
            decisions = [replica.db.decision(one.proposal) for one in self.asked if one.proposal is not None]
            assert all(one is None or one.rivals == () for one in decisions)
            states = [replica.db.get("seats", key) for key in KEYS]
            assert all(one is None or one.view.conflicts == () for one in states)
            with replica.db.read() as reader:
                pictures.append((state_root(list(leaves_now(reader))), decisions, self.home_of(replica)))
        assert all(one == pictures[0] for one in pictures)

    def history(self, key: str) -> list[Swap | Read]:
        """What was said and seen about a key, without what is known to be lost."""
        found: list[Swap | Read] = []
        for asked in self.asked:
            if asked.key == key:
                found += self.operation(asked)
        for seen in self.seen:
            if seen.key == key and not (self.lost and seen.feed == self.lost[0] and seen.length > self.lost[1]):
                found.append(Read(seen.value, seen.at, seen.at + 1))
        return found

    def operation(self, asked: Asked) -> list[Swap]:
        swap = Swap(asked.expected, asked.new, Answer.UNKNOWN, asked.begun, asked.told)
        is_lost = bool(
            self.lost and asked.entry and asked.entry.feed == self.lost[0] and asked.entry.index >= self.lost[1]
        )
        rests_on_lost = asked.expected is not None and not self.survives(asked.expected)
        if is_lost:
            assert asked.verdict is not None
            return []  # told, and known to be lost with the device
        if asked.verdict is Verdict.ACCEPTED:
            assert not rests_on_lost, "what was built on something that is lost cannot have been accepted"
            return [replace(swap, answer=Answer.DONE)]
        if asked.verdict is Verdict.REFUSED:
            return [replace(swap, answer=Answer.REFUSED)]
        if asked.verdict is Verdict.LAPSED:
            return []
        return [replace(swap, ended=NEVER)]

    def survives(self, value: int) -> bool:
        """Whether a value that somebody saw was written by an entry that counts."""
        asked = next(one for one in self.asked if one.new == value)
        if self.lost is None or asked.entry is None:
            return True
        return asked.entry.feed != self.lost[0] or asked.entry.index < self.lost[1]


def value_of(replica: Any, key: str) -> int | None:
    state = replica.db.get("seats", key)
    return None if state is None else state.view.fields["v"]


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(devices=st.integers(2, 4), steps=STEPS)
def test_each_key_is_linearizable(make_world: Any, tmp_path: Path, devices: int, steps: list[tuple[Any, ...]]) -> None:
    directory = tmp_path / str(next(WORLDS))
    directory.mkdir()
    world = make_world(directory, "world")
    try:
        script = Script(world, devices)
        script.run(steps)
        script.check()
    finally:
        world.close()


TO_AND_FRO = [
    ("write", 1, "12a"),
    ("write", 2, "12a"),
    ("serve", 0),
    ("read", 0),
    ("write", 1, "12a"),
    ("carry", 0, 1),
    ("give away", 2, 1),
    ("carry", 0, 2),
    ("decide", 0),
    ("write", 0, "12a"),
    ("serve", 1),
    ("clock", 1, -20),
    ("write", 1, "12a"),
    ("read", 1),
    ("carry", 2, 1),
    ("write", 2, "12b"),
    ("carry", 1, 2),
    ("decide", 1),
    ("lose", 2),
    ("write", 1, "12a"),
    ("read", 1),
    ("write", 2, "12a"),
    ("read", 2),
    ("write", 0, "12b"),
    ("serve", 2),
]


def test_a_home_that_moves_and_is_lost(make_world: Any, tmp_path: Path) -> None:
    world = make_world(tmp_path, "world")
    script = Script(world, 3)
    script.run(TO_AND_FRO)
    script.check()
    verdicts = [one.verdict for one in script.asked]
    assert {Verdict.ACCEPTED, Verdict.REFUSED, Verdict.LAPSED} <= set(verdicts)
    world.close()


def test_the_same_on_postgresql(make_world: Any, tmp_path: Path, empty_postgres: str) -> None:
    world = make_world(tmp_path, "world on a server")
    script = Script(world, 3, empty_postgres)
    script.run(TO_AND_FRO)
    script.check()
    world.close()


# --- the checker itself ---


def test_a_history_that_no_order_explains_is_found() -> None:
    done = Swap(None, 1, Answer.DONE, 0, 1)
    assert is_linearizable([done, Read(1, 2, 3)])
    assert not is_linearizable([done, Read(None, 2, 3)]), "a read that comes later sees it"
    assert is_linearizable([done, Read(None, 0, 3)]), "one beside it may not"
    assert not is_linearizable([done, replace(done, new=2)]), "one of two who expect the same is refused"
    assert is_linearizable([done, replace(done, new=2, answer=Answer.REFUSED)])
    assert not is_linearizable([replace(done, answer=Answer.REFUSED)]), "nothing stood in its way"
    unknown = replace(done, answer=Answer.UNKNOWN, ended=NEVER)
    assert is_linearizable([unknown, Read(None, 2, 3), Read(1, 4, 5)])
    assert not is_linearizable([unknown, Read(1, 2, 3), Read(None, 4, 5)])

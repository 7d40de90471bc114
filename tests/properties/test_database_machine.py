"""Replicas of one database in every situation that can be met: apart, behind, doubled, out of order, lied to.

A machine lets two to five devices write and exchange what they have, in pieces, late, twice and in any order; clocks go
wrong, processes end between any two statements, devices are revoked and go on in new feeds. One device lies: it writes
entries that no honest one would, and copies of it sign other histories of the same feed. What a replica shows is held
against an oracle (``database_oracle``) and against ``sync.replay``. Two replicas with the same entries have to show the
same, down to the ETag, and keep what proves the lies.

``FUZZ_EXAMPLES`` is how many histories are tried; ``make fuzz`` tries many, with new seeds.
"""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from copy import copy
from dataclasses import replace
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from identity.errors import (
    AuditError,
    ConflictError,
    ForkDetected,
    MalformedError,
    MissingEvidenceError,
    RefusedError,
    StorageError,
    VerificationError,
)
from identity.event import LastGood
from identity.history import RevocationReason, build_revoke_device, fold
from ledger.entry import parse_entry
from ledger.feed import FeedWriter
from ledger.fork import parse_fork, verify_fork
from ledger.identities import add_events
from ledger.merkle import leaf_node
from ledger.store import stored_tree_hash
from ledger.succession import continue_feed
from ledger.transfer import ingest_feed
from ledger.values import Reference
from sync import retention
from sync.bundle import read_have
from sync.changes import Changes, MissingDocument, PurgedDocument, StaleVersion, Strength
from sync.clock import MAX_AHEAD_MS, wall_ms
from sync.document_keys import DocumentKeys
from sync.transaction import DocumentId, Op, Stamp, Verb, parse_stamp_of

from .database_faults import Fuse
from .database_forgeries import FORGED_ROOT, FORGERIES, block_of, spelled
from .database_oracle import Oracle
from .database_pictures import Picture, Versions, check_as_of, check_evidence, check_replica, feeds_of, trees_of
from .database_wishes import TYPES, WISHES, wish

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "10"))
STEPS = 80 if "FUZZ_EXAMPLES" in os.environ else 30
YEAR_MS = 365 * 24 * 3600 * 1000
COPIES = 3
"""Copies of the device that lies, at most."""

REPLICA = st.integers(0, 7)
WRITES = st.tuples(
    REPLICA,
    st.lists(WISHES, min_size=1, max_size=3),
    st.sampled_from(["", "", "current", "current", "current", "old", "absent", "any"]),
    st.sampled_from(["", "", "", "now", "old"]),
    st.booleans(),
)
"""A transaction: by whom, what, with which condition, on which base, and whether the condition is only for here."""


class Machine(RuleBasedStateMachine):
    """Devices and what can happen to them."""

    make_world: Callable[[Path, str], Any]
    directory: Path
    url = ""
    """Where the second replica has its store; empty: in a file, as the others."""
    numbers = count()

    def __init__(self) -> None:
        super().__init__()
        number = next(Machine.numbers)
        folder = self.directory / str(number)
        folder.mkdir()
        self.world = type(self).make_world(folder, f"world {number}" if self.url else "world")
        self.chance = random.Random(number)
        self.under_way: list[bytes] = []
        """Feeds as they were sent, at any time: they arrive, or not, or more than once."""
        self.bundles: list[bytes] = []
        """The same, of several feeds in a file."""
        self.written: list[Reference] = []
        self.acknowledged: dict[str, list[Reference]] = {}
        """By replica what it was told to be durable."""
        self.known: dict[str, set[Reference]] = {}
        """By replica the entries that it showed when it was last looked at."""
        self.judged: dict[Reference, str | None] = {}
        """Why entries are masked: that never changes, and nobody judges otherwise."""
        self.settled: tuple[set[Reference], set[Any]] = (set(), set())
        """Entries that every honest device has, and the contests between them."""
        self.tokens: list[str] = []
        self.etags: dict[tuple[str, str], list[str]] = {}
        self.versions: Versions = {}
        self.revoked: set[bytes] = set()
        self.readings: dict[str, int] = {}
        self.deaf: set[str] = set()
        """Copies of the liar that take in feeds of others, and nothing of what its other copies sign."""
        self.has_forked = False
        """Whether a feed may have more than one history: then only bundles carry all of it."""

    def teardown(self) -> None:
        try:
            if self.replicas:
                self.deaf.clear()
                self.exchange_everything()
                self.deliver_everything_again()
                self.learn_from_nothing()
        finally:
            self.world.close()

    @property
    def replicas(self) -> list[Any]:
        return list(self.world.replicas.values())

    @property
    def honest(self) -> list[Any]:
        return [replica for replica in self.replicas if not self.is_liar(replica)]

    def is_liar(self, replica: Any) -> bool:
        return bool(replica.device is self.liar.device)

    def replica(self, number: int) -> Any:
        return self.replicas[number % len(self.replicas)]

    @initialize(devices=st.integers(2, 5), liar=st.integers(0, 4), seed=st.integers(0, 1 << 32))
    def found(self, devices: int, liar: int, seed: int) -> None:
        self.chance.seed(seed)
        for number in range(devices):
            self.world.replica(f"device-{number}", self.url if number == 1 else "")
        self.liar = self.replica(liar)

    # Writing.

    @rule(writes=st.lists(WRITES, min_size=1, max_size=4))
    def write(self, writes: list[Any]) -> None:
        """Some transactions, often of several devices that have not met meanwhile."""
        for one in writes:
            self.write_one(*one)

    def write_one(self, who: int, wishes: list[Any], condition: str, base: str, local: bool) -> None:
        replica = self.replica(who)
        if self.is_liar(replica):
            replica.db.take_new()  # what it forged: a write takes it in, too, and then the condition is about that
        changes = Changes(strength=Strength.LOCAL if local else Strength.CARRIED, base=self.base(replica, base))
        for one in wishes:
            wish(changes, *one)
        document = wishes[0][1]
        holds = self.require(changes, replica, document, condition)
        before = {name: replica.db.get(*name) for name in changes.documents}
        try:
            commit = replica.db.commit(changes)
        except StaleVersion:
            assert not holds or base == "old"
        except (MissingDocument, MalformedError, RefusedError):
            after = {name: replica.db.get(*name) for name in changes.documents}
            assert after == before
        else:
            assert holds
            for name, etag in commit.etags.items():
                state = replica.db.get(*name)
                assert state is None or state.etag == etag
                self.etags.setdefault((name.collection, name.key), []).append(etag)
            self.tokens.append(replica.db.context())
            self.acknowledge(replica, commit)

    def acknowledge(self, replica: Any, commit: Any) -> None:
        """Remember what must never be gone again."""
        if commit.reference is not None:
            self.written.append(commit.reference)
            self.acknowledged.setdefault(replica.name, []).append(commit.reference)

    def base(self, replica: Any, which: str) -> str | None:
        if which == "old" and self.tokens:
            return self.chance.choice(self.tokens)
        return replica.db.context() if which == "now" else None

    def require(self, changes: Changes, replica: Any, document: tuple[str, str], condition: str) -> bool:
        """Make the changes conditional. Returns whether the condition holds."""
        state = replica.db.get(*document)
        wanted = {"absent": None, "any": "*", "current": "*" if state is None else state.etag}.get(condition)
        if condition == "old":
            wanted = self.chance.choice(self.etags.get(document, ["1.none"]))
        elif condition == "":
            return True
        changes.require(*document, wanted)
        if wanted is None or state is None:
            return state is None and wanted is None
        return wanted in ("*", state.etag)

    @rule(who=REPLICA, which=st.sampled_from(sorted(TYPES)))
    def set_schema(self, who: int, which: str) -> None:
        with suppress(RefusedError):  # when it is revoked, or its clock has come to its end
            self.replica(who).put("$schema", "typed", schema=TYPES[which])

    @rule(who=REPLICA)
    def purge(self, who: int) -> None:
        changes = Changes()
        changes.do(Op(Verb.PURGE, DocumentId("c", "2"), (), None))
        with suppress(RefusedError, PurgedDocument):
            self.replica(who).db.commit(changes)

    @precondition(lambda self: self.written)
    @rule(who=REPLICA, which=st.integers(0, 99), again=st.booleans())
    def undo(self, who: int, which: int, again: bool) -> None:
        replica, reference = self.replica(who), self.written[which % len(self.written)]
        with suppress(AuditError):  # it is not here, or not undone, or nothing of it is left, or a schema is against it
            undone = replica.db.redo(reference) if again else replica.db.undo(reference)
            self.acknowledge(replica, undone.commit)

    @rule(who=REPLICA, document=st.sampled_from([("c", "1"), ("c", "2")]), past=st.floats(0, 1))
    def restore(self, who: int, document: tuple[str, str], past: float) -> None:
        """A document shows again what it showed at some point of what the replica knew, and all of it."""
        database = self.replica(who).db
        with database.read() as reader:
            cut = reader.known(int(past * reader.newest_place()))
        then = database.get(*document, at=cut)
        with suppress(RefusedError, PurgedDocument):
            for commit in database.restore(cut, *document).commits:
                self.acknowledge(self.replica(who), commit)
            now = database.get(*document)
            assert (then and dict(then.view.fields)) == (now and dict(now.view.fields))

    @rule(who=REPLICA, document=st.sampled_from([("c", "1"), ("c", "2"), ("typed", "1")]))
    def empty_the_trash(self, who: int, document: tuple[str, str]) -> None:
        """A deleted document is ended only when everybody who may still write has seen all of it."""
        replica, name = self.replica(who), DocumentId(*document)
        replica.db.take_new()
        oracle = Oracle(self.world.uid, feeds_of(replica))
        try:
            self.acknowledge(replica, retention.purge(replica.db, [name], retention_ms=0))
        except RefusedError:
            return
        shown = oracle.documents[name]
        assert shown.deleted
        for newest in oracle.newest_that_count():
            assert {entry for entry, _ in shown.names} <= newest.past | {newest.reference}

    @rule(who=REPLICA)
    def state_a_root(self, who: int) -> None:
        with suppress(RefusedError):
            self.acknowledge(self.replica(who), self.replica(who).db.checkpoint_state())

    # Exchange.

    @rule(source=REPLICA, feed=st.integers(0, 9))
    def send(self, source: int, feed: int) -> None:
        """A feed, as far as a replica has it, is on its way from now on."""
        replica = self.replica(source)
        feeds = sorted(replica.feeds())
        if feeds:
            self.under_way.append(replica.exported(feeds[feed % len(feeds)]))

    @precondition(lambda self: self.under_way)
    @rule(number=st.integers(0, 99), to=REPLICA, take=st.booleans())
    def arrive(self, number: int, to: int, take: bool) -> None:
        replica = self.replica(to)
        self.ingest(replica, self.under_way[number % len(self.under_way)])
        if take:
            replica.db.take_new()

    def ingest(self, replica: Any, feed: bytes) -> None:
        """Take in a feed alone. That refuses another history, with what proves it."""
        try:
            ingest_feed(replica.store, BytesIO(feed))
        except ForkDetected as fork:
            assert self.has_forked
            if fork.proof:
                proof = parse_fork(fork.proof)
                verify_fork(proof.manifest, proof)
        except (VerificationError, ConflictError):
            assert self.has_forked

    @rule(source=REPLICA, to=REPLICA, whole=st.booleans())
    def send_bundle(self, source: int, to: int, whole: bool) -> None:
        """Everything, or what somebody has not who may not be the one that gets it."""
        self.bundles.append(self.bundle(self.replica(source), None if whole else self.replica(to)))

    def bundle(self, sender: Any, reader: Any = None) -> bytes:
        """What the sender has, or of that what the reader may not have."""
        since = None
        if reader is not None:
            told = BytesIO()
            reader.db.write_have(told)
            since = read_have(BytesIO(told.getvalue()))
        file = BytesIO()
        sender.db.export_bundle(file, since)
        return file.getvalue()

    @precondition(lambda self: self.bundles)
    @rule(number=st.integers(0, 99), to=REPLICA)
    def bundle_arrives(self, number: int, to: int) -> None:
        replica = self.replica(to)
        if replica.name not in self.deaf:
            with suppress(MissingEvidenceError):  # what it begins behind is not here
                replica.db.import_bundle(BytesIO(self.bundles[number % len(self.bundles)]))

    @precondition(lambda self: self.bundles)
    @rule(number=st.integers(0, 99), to=REPLICA, where=st.floats(0, 1), bit=st.integers(0, 7))
    def bundle_arrives_damaged(self, number: int, to: int, where: float, bit: int) -> None:
        """It is refused, whole."""
        replica, bundle = self.replica(to), bytearray(self.bundles[number % len(self.bundles)])
        bundle[int(where * (len(bundle) - 1))] ^= 1 << bit
        before = trees_of(replica)
        try:
            replica.db.import_bundle(BytesIO(bytes(bundle)))
        except AuditError:
            assert trees_of(replica) == before
        else:
            raise AssertionError("a damaged bundle was taken in")

    @rule(one=REPLICA, other=REPLICA)
    def receive(self, one: int, other: int) -> None:
        if self.replica(one) is not self.replica(other):
            self.give(self.replica(other), self.replica(one), incremental=self.chance.random() < 0.5)

    def give(self, sender: Any, receiver: Any, *, incremental: bool) -> int:
        """Let one replica take in what another has. Returns how many entries were new."""
        if receiver.name in self.deaf:
            for feed in sender.feeds():
                if feed != receiver.feed:
                    self.ingest(receiver, sender.exported(feed))
            return int(receiver.db.take_new())
        if not self.has_forked:
            return int(receiver.receive(sender))
        bundle = self.bundle(sender, receiver if incremental else None)
        return int(receiver.db.import_bundle(BytesIO(bundle)).entries)

    @rule(looked_at=st.sampled_from([False, False, True]))
    def exchange(self, looked_at: bool) -> None:
        if looked_at:
            self.exchange_everything()
        else:
            self.exchange_all()

    def exchange_all(self) -> None:
        """Everybody takes in everything; when only what is missing is sent, in both directions.

        Who is deaf cannot be told that a reader is ahead on another line, so what it has is sent whole
        (docs/spec/bundle.md, section "Writing").
        """
        incremental = self.chance.random() < 0.5
        for _ in range(1 + (incremental and self.has_forked)):
            for receiver in self.replicas:
                for sender in self.replicas:
                    if sender is not receiver:
                        self.give(sender, receiver, incremental=incremental and sender.name not in self.deaf)

    # What goes wrong.

    @rule(who=REPLICA)
    def restart(self, who: int) -> None:
        replica = self.replica(who)
        replica.close()
        replica.reopen()

    @rule(
        who=REPLICA,
        other=REPLICA,
        what=st.sampled_from(["write", "write", "take", "give", "root", "rebuild"]),
        statements=st.integers(0, 60),
        commits=st.integers(0, 3),
        answered=st.booleans(),
        wishes=st.lists(WISHES, min_size=1, max_size=3),
    )
    def crash(
        self, who: int, other: int, what: str, statements: int, commits: int, answered: bool, wishes: list[Any]
    ) -> None:
        """The process ends in the middle of something, and another one finds what was acknowledged, and goes on."""
        replica, before = self.replica(who), Picture(self.replica(who)).reasons.keys()
        fuse = Fuse(replica, statements, commits=commits, answered=answered)
        with suppress(StorageError, RefusedError, MalformedError, MissingDocument):
            if what == "write":
                changes = Changes()
                for one in wishes:
                    wish(changes, *one)
                self.acknowledge(replica, replica.db.commit(changes))
            elif what == "take":
                replica.db.take_new()
            elif what == "rebuild":
                replica.db.rebuild()
            elif what == "root":
                self.acknowledge(replica, replica.db.checkpoint_state())
            elif replica is not self.replica(other):
                self.give(self.replica(other), replica, incremental=False)
        self.restart(who)
        replica.db.take_new()
        assert check_replica(replica, self.versions).reasons.keys() >= before
        self.check_acknowledged(replica)
        if fuse.has_blown:
            assert replica.db.audit() == []

    def check_acknowledged(self, replica: Any) -> None:
        """Nothing that it was told to be durable is gone."""
        with replica.store.read() as tx:
            for reference in self.acknowledged.get(replica.name, ()):
                block = tx.block(reference.feed, reference.index)
                assert leaf_node(reference.index, block).hash == reference.leaf_hash

    @rule(hours=st.integers(0, 100))
    def time_passes(self, hours: int) -> None:
        self.world.clock_ms += hours * 3_600_000

    @rule(who=REPLICA, how=st.sampled_from(["right", "frozen", "year 9999", "behind", "before 1970"]))
    def clock(self, who: int, how: str) -> None:
        replica, now = self.replica(who), self.world.clock_ms
        fixed = {"frozen": now, "year 9999": 253_402_300_000_000, "before 1970": -1}
        replica.clock = self.world.now_ms
        if how in fixed:
            replica.clock = lambda: fixed[how]
        elif how == "behind":
            replica.clock = lambda: self.world.clock_ms - 20 * YEAR_MS

    @precondition(lambda self: len(self.revoked) < len({replica.device for replica in self.replicas}) - 1)
    @rule(who=REPLICA, by=REPLICA, kept=st.integers(0, 99))
    def revoke(self, who: int, by: int, kept: int) -> None:
        """The owner ends a device, and another one tells the database; what the owner vouches for is chosen freely."""
        victim, teller = self.replica(who), self.replica(by)
        keys = {victim.device.public_key, teller.device.public_key}
        if len(keys) == 1 or keys & self.revoked:
            return
        with victim.store.read() as tx:
            heads = [head.length for head in tx.heads(victim.feed)]
            lengths = [0, *heads]
            length = lengths[kept % len(lengths)]
            good = {victim.feed: LastGood(length, stored_tree_hash(tx, victim.feed, length))} if length else {}
        event = build_revoke_device(
            fold(self.world.events),
            device=victim.device.public_key,
            last_good=good,
            reason=RevocationReason.STOLEN,
            time_ms=1_000,
        )
        self.world.events.append(self.world.sign(event, self.world.root))
        with teller.store.write() as tx:
            add_events(tx, self.world.identity, self.world.events)
        with suppress(RefusedError):  # when it is the one that forges, and its feed waits
            teller.db.introduce()
        self.revoked.add(victim.device.public_key)

    # Lies.

    @rule(who=REPLICA, kind=st.sampled_from(sorted(FORGERIES)), take=st.booleans())
    def forge(self, who: int, kind: str, take: bool) -> None:
        liars = [replica for replica in self.replicas if self.is_liar(replica)]
        device = liars[who % len(liars)]
        stamps: list[Stamp] = []
        try:
            device.db.write(lambda writing: stamps.append(writing.stamp()))
            writer = FeedWriter(device.store, device.feed, device.device)
        except RefusedError:
            return  # its clock has come to its end, its feed waits, or it knows that it is revoked or was copied
        for block in FORGERIES[kind](self, device, stamps[0]):
            writer.append([block])
        if take:
            device.db.take_new()

    def some_entry(self, device: Any) -> Reference:
        """One that exists, whether the device knows it or not."""
        everything = {entry for replica in self.replicas for entry in Picture(replica).reasons}
        return self.chance.choice(sorted(everything, key=spelled))

    def some_block(self) -> bytes:
        """One that somebody has signed."""
        feeds = feeds_of(self.chance.choice(self.replicas))
        return self.chance.choice([block for feed in feeds for line in feed.lines for block in line])

    def blind(self, device: Any, stamp: Stamp, *ops: Op) -> bytes:
        """A transaction that claims to have seen only its own feed."""
        oracle = Oracle(self.world.uid, feeds_of(device))
        lamport = 0 if stamp.back is None else oracle.entries[stamp.back].lamport + 1
        return block_of(replace(stamp, deps=(), lamport=lamport), *ops)

    @precondition(lambda self: len(self.replicas) - len({one.device for one in self.replicas}) < COPIES)
    @rule(who=REPLICA, deaf=st.booleans())
    def copy_the_liar(self, who: int, deaf: bool) -> None:
        """Its store is somewhere else as well, with its key: from now on both sign the same feed."""
        liars = [
            replica for replica in self.replicas if self.is_liar(replica) and not replica.url.startswith("postgresql")
        ]
        if not liars:
            return
        source = liars[who % len(liars)]
        twin = copy(source)
        twin.name = f"copy {len(self.replicas)}"
        twin.url = str(self.world.directory / f"{twin.name}.db")
        with closing(sqlite3.connect(source.url)) as old, closing(sqlite3.connect(twin.url)) as new:
            old.backup(new)
        twin.keys = DocumentKeys(self.world.directory / f"{twin.name}.keys")
        twin.reopen()
        self.world.replicas[twin.name] = twin
        self.acknowledged[twin.name] = list(self.acknowledged.get(source.name, ()))
        self.has_forked = True
        if deaf:
            self.deaf.add(twin.name)

    @rule(who=REPLICA)
    def go_on_in_a_new_feed(self, who: int) -> None:
        """What a device does that was restored, or has found that it was copied. Copies that do so are rivals."""
        replica = self.replica(who)
        replica.writer.close()
        with suppress(RefusedError), replica.store.write() as tx:
            replica.feed = continue_feed(tx, replica.feed, self.chance.randbytes(16))
        replica.open()
        self.has_forked = self.has_forked or self.is_liar(replica)

    # What has to hold.

    @rule(who=REPLICA)
    def look(self, who: int) -> None:
        self.replica(who).db.take_new()
        self.look_at(self.replica(who))
        check_as_of(self.replica(who), self.chance)

    def look_at(self, replica: Any) -> Picture:
        """What it shows is right, and nothing that it knew is gone."""
        picture = check_replica(replica, self.versions)
        assert picture.reasons.keys() >= self.known.get(replica.name, set())
        self.known[replica.name] = set(picture.reasons)
        assert picture.reasons == {one: self.judged.setdefault(one, why) for one, why in picture.reasons.items()}
        self.check_acknowledged(replica)
        entries, contests = self.settled
        for _, *pair in picture.contests - contests:
            strangers = [one for one in pair if one not in entries]
            assert len(strangers) == 2 or all(one.feed in self.feeds_of_the_liar() for one in strangers), pair
        return picture

    def feeds_of_the_liar(self) -> set[bytes]:
        """Of all that anybody has the feeds that its device signs."""
        device = self.liar.device.public_key
        return {feed.author.feed for one in self.replicas for feed in feeds_of(one) if feed.author.device == device}

    def exchange_everything(self) -> None:
        self.exchange_all()
        hearing = [replica for replica in self.replicas if replica.name not in self.deaf]
        pictures = [self.look_at(replica) for replica in hearing]
        assert all(picture.state() == pictures[0].state() for picture in pictures)
        everything = set[Any]().union(*map(trees_of, self.replicas))
        for replica in hearing:
            assert trees_of(replica) == everything
            check_evidence(replica)
        if pictures:
            self.settled = (set(pictures[0].reasons), pictures[0].contests)
            written = {one for replica in hearing for one in self.acknowledged.get(replica.name, ())}
            assert written <= pictures[0].reasons.keys()

    def deliver_everything_again(self) -> None:
        """What is known already changes nothing."""
        states = [Picture(replica).state() for replica in self.replicas]
        for receiver in self.replicas:
            for sender in self.replicas:
                assert sender is receiver or self.give(sender, receiver, incremental=False) == 0
        assert [Picture(replica).state() for replica in self.replicas] == states
        assert [replica.db.audit() for replica in self.replicas] == [[] for _ in self.replicas]
        for replica in self.replicas:
            check_as_of(replica, self.chance)
        self.check_roots()

    def check_roots(self) -> None:
        """Whoever stated a root stated the one that follows from the feeds, or is shown to contradict who did."""
        for replica in self.replicas:
            for rivals in replica.db.rival_state_roots():
                assert FORGED_ROOT in (rivals.first.statement.root, rivals.second.statement.root)
        for stated in self.replicas[0].db.state_roots():
            if stated.statement.root != FORGED_ROOT:
                self.replicas[0].db.verify_state_root(stated.reference)

    def learn_from_nothing(self) -> None:
        """A device that comes late, and is told everything in some order, comes to the same."""
        late = self.world.newcomer("late")
        if self.has_forked:
            self.take_bundles(late, [*self.bundles, *map(self.bundle, self.replicas)])
        else:
            feeds = [self.replicas[0].exported(feed) for feed in self.replicas[0].feeds()]
            self.chance.shuffle(feeds)
            for feed in feeds:
                ingest_feed(late.store, BytesIO(feed))
                if self.chance.random() < 0.5:
                    late.db.take_new()
            late.db.take_new()
        assert check_replica(late, self.versions).state() == Picture(self.replicas[0]).state()

    def take_bundles(self, late: Any, bundles: Iterable[bytes]) -> None:
        mixed = list(bundles)
        self.chance.shuffle(mixed)
        for bundle in mixed:
            with suppress(MissingEvidenceError):
                late.db.import_bundle(BytesIO(bundle))

    @invariant()
    def clocks_are_not_led_astray(self) -> None:
        """Whose clock is right stays near it, whatever readings it has seen."""
        for replica in self.honest if self.replicas else ():
            own, now = self.readings.get(replica.name, 0), replica.now_ms()
            with replica.store.read() as tx:
                state = tx.feed(replica.feed)
                if not state.length:
                    continue
                newest = parse_stamp_of(parse_entry(tx.block(replica.feed, state.length - 1)))
            reading = newest.reading  # type: ignore[union-attr]
            if reading != own:
                assert wall_ms(reading) <= max(wall_ms(own) + 1, now + MAX_AHEAD_MS + 1)
            self.readings[replica.name] = reading


def run(machine: type[Machine], examples: int) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


def test_replicas_agree(make_world: Any, tmp_path: Path) -> None:
    run(type("Replicas", (Machine,), {"make_world": staticmethod(make_world), "directory": tmp_path}), EXAMPLES)


def test_engines_agree(make_world: Any, tmp_path: Path, empty_postgres: str) -> None:
    """The same with a replica on PostgreSQL: both engines and the oracle come to the same."""
    given = {"make_world": staticmethod(make_world), "directory": tmp_path, "url": empty_postgres}
    run(type("Engines", (Machine,), given), max(EXAMPLES // 4, 4))

"""Sessions between replicas, without a network: what arrives, in which order, at what cost, and who is cut off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from identity.errors import PeerMisbehaved, StorageError
from identity.keys import Ed25519Signer
from ledger.feed import FeedWriter
from ledger.store import SignedHead
from sync.bundle import Point
from sync.database import list_databases
from sync.frames import (
    MAX_BODY_BYTES,
    Ack,
    Batch,
    Blocks,
    Done,
    Events,
    Failure,
    FrameRun,
    HaveFrame,
    Hello,
    Holding,
    Refine,
    encode_frame,
    parse_frame,
)
from sync.replica import DatabaseReplica, NewReplica
from sync.report import SideReason
from sync.session import MAX_UNACKED, PeerFailed, Session, TookIn
from sync.storage.audit import audit_database
from sync.transaction import Founding


class Wire:
    """Two sessions and what passed between them."""

    def __init__(self, one: Session, other: Session) -> None:
        self.sessions = (one, other)
        self.frames: tuple[list[bytes], list[bytes]] = ([], [])
        """What each has sent."""
        self.events: tuple[list[Any], list[Any]] = ([], [])
        """What each was told."""

    def run(self, most: int = 100_000) -> Wire:
        """Move frames, one of each in turn, until nobody has any; at most so many."""
        moved = True
        while moved and most > 0:
            moved = False
            for side in (0, 1):
                frame = self.sessions[side].next_frame()
                if frame is not None:
                    moved, most = True, most - 1
                    self.frames[side].append(frame)
                    self.events[1 - side].extend(self.sessions[1 - side].receive(frame))
        return self

    def sent(self, side: int, kind: type) -> list[Any]:
        return [one for one in map(parse_frame, self.frames[side]) if isinstance(one, kind)]

    def blocks(self, side: int) -> int:
        return sum(len(run.blocks) for batch in self.sent(side, Batch) for run in batch.runs)


def session_of(replica: Any, **options: Any) -> Session:
    return Session(DatabaseReplica(replica.db), **options)


def sync(one: Any, other: Any) -> Wire:
    wire = Wire(session_of(one), session_of(other)).run()
    assert all(session.is_even for session in wire.sessions)
    return wire


def reports(wire: Wire, side: int) -> list[Any]:
    return [event.report for event in wire.events[side] if isinstance(event, TookIn)]


def facts(replica: Any) -> Any:
    """All that a session could change; and that every row is as a replay from the feeds has it."""
    with replica.store.read() as tx:
        documents = tx.fetch_all("SELECT collection, key, etag, conflicts FROM database_document ORDER BY 1, 2")
        lines = tx.fetch_all("SELECT uid, disputed FROM database_branch WHERE next_seq > first_seq ORDER BY 1")
        events = sum(len(tx.identity_events(identity)) for identity in tx.identities())
        assert audit_database(tx, replica.store.dialect, replica.world.uid) == []
    return documents, lines, events


def everything(replica: Any) -> list[Any]:
    """Every row of every table of a store."""
    with replica.store.read() as tx:
        names = [row[0] for row in tx.fetch_all("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")]
        return [(name, sorted(map(repr, tx.fetch_all(f"SELECT * FROM {name}")))) for name in names]


def points(replica: Any) -> list[Point]:
    with DatabaseReplica(replica.db).snapshot() as snapshot:
        return sorted(
            Point(feed, line.length, line.tree_hash(line.length))
            for feed in snapshot.feeds()
            for line in snapshot.lines(feed)
        )


@pytest.fixture
def world(make_world: Any, tmp_path: Path) -> Iterator[Any]:
    made = make_world(tmp_path, "bank")
    yield made
    made.close()


@pytest.fixture
def three(world: Any) -> tuple[Any, Any, Any]:
    """Three replicas that know of the founding."""
    return tuple(world.replica(name) for name in ("laptop", "phone", "desk"))  # type: ignore[return-value]


# --- what arrives ---


def test_both_sides_get_what_they_lack_in_one_session(three: tuple[Any, Any, Any]) -> None:
    laptop, phone, _ = three
    laptop.put("accounts", "1", owner="A")
    phone.put("accounts", "2", owner="B")
    wire = sync(laptop, phone)
    assert (wire.blocks(0), wire.blocks(1)) == (1, 1)
    assert facts(laptop) == facts(phone)
    assert points(laptop) == points(phone)
    assert laptop.fields("accounts", "2") == {"owner": "B"}


def test_a_second_session_sends_nothing(three: tuple[Any, Any, Any]) -> None:
    laptop, phone, _ = three
    laptop.put("accounts", "1", owner="A")
    sync(laptop, phone)
    wire = sync(laptop, phone)
    for side in (0, 1):
        kinds = [type(parse_frame(frame)) for frame in wire.frames[side]]
        assert kinds in ([Hello, HaveFrame, Done], [Hello, HaveFrame, Done, Done])


def test_a_new_device_joins(three: tuple[Any, Any, Any], world: Any, tmp_path: Path) -> None:
    laptop, _, _ = three
    laptop.put("accounts", "1", owner="A")
    store = world.open_new(str(tmp_path / "new.db"))
    try:
        replica = NewReplica(store, lambda: 5)
        wire = Wire(Session(replica), session_of(laptop)).run()
        assert all(session.is_even for session in wire.sessions)
        (info,) = list_databases(store)
        assert (info.uid, info.name) == (world.uid, "bank")
        from sync.database import Database

        state = Database(store, world.uid, lambda: 0).get("accounts", "1")
        assert state is not None
        assert state.view.fields == {"owner": "A"}
    finally:
        store.close()


def test_entries_come_after_what_they_had_seen(three: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when two have answered each other all the time, and each entry travels in a frame of its own."""
    laptop, phone, desk = three
    for number in range(6):
        laptop.put("accounts", "1", owner=f"L{number}")
        sync(laptop, phone)
        phone.put("accounts", "1", owner=f"P{number}")
        sync(laptop, phone)
    monkeypatch.setattr("sync.outgoing._BLOCKS", 1)
    wire = sync(phone, desk)
    assert len(reports(wire, 1)) == 12
    assert all(report.waiting == () for report in reports(wire, 1))
    assert facts(desk) == facts(laptop) == facts(phone)


def test_in_one_frame_entries_of_several_feeds_stand_in_causal_order(three: tuple[Any, Any, Any]) -> None:
    laptop, phone, desk = three
    for number in range(3):
        laptop.put("accounts", "1", owner=f"L{number}")
        sync(laptop, phone)
        phone.put("accounts", "1", owner=f"P{number}")
        sync(laptop, phone)
    (batch,) = sync(laptop, desk).sent(0, Batch)
    assert [run.feed for run in batch.runs] == [laptop.feed, phone.feed] * 3
    assert [run.manifest is None for run in batch.runs] == [True, False, True, True, True, True]


def test_a_session_that_ends_at_any_frame_is_gone_on_with(three: tuple[Any, Any, Any], monkeypatch: Any) -> None:
    laptop, phone, _ = three
    monkeypatch.setattr("sync.outgoing._BLOCKS", 1)
    for number in range(4):
        laptop.put("accounts", str(number), owner="A")
        phone.put("customers", str(number), name="B")
    taken = 0
    for most in [*range(1, 16), 1000]:
        wire = Wire(session_of(laptop), session_of(phone)).run(most)
        taken += sum(report.entries for side in (0, 1) for report in reports(wire, side))
        if most % 5 == 0:
            facts(laptop), facts(phone)
    assert all(session.is_even for session in wire.sessions)
    assert taken == 8  # nothing twice
    assert facts(laptop) == facts(phone)


def test_only_the_feeds_that_are_wanted_are_sent(three: tuple[Any, Any, Any]) -> None:
    laptop, phone, desk = three
    phone.put("accounts", "1", owner="P")
    sync(laptop, phone)
    laptop.put("accounts", "1", owner="L")
    wire = Wire(session_of(desk, wants=frozenset({laptop.feed})), session_of(laptop)).run()
    assert {run.feed for batch in wire.sent(1, Batch) for run in batch.runs} == {laptop.feed}
    (waiting,) = reports(wire, 0)[-1].waiting  # an entry without its past does not show
    assert waiting.reference.feed == phone.feed
    assert desk.fields("accounts", "1") is None
    sync(desk, laptop)
    assert desk.fields("accounts", "1") == {"owner": "L"}


def test_who_only_pulls_sends_nothing(three: tuple[Any, Any, Any]) -> None:
    laptop, phone, _ = three
    laptop.put("accounts", "1", owner="A")
    phone.put("accounts", "2", owner="B")
    wire = Wire(session_of(phone, sends=False), session_of(laptop)).run()
    assert (wire.blocks(0), wire.blocks(1)) == (0, 1)
    assert laptop.fields("accounts", "2") is None


def test_a_group_larger_than_a_frame_comes_in_pieces(three: tuple[Any, Any, Any]) -> None:
    laptop, phone, _ = three
    blocks = [bytes([number]) * 700_000 for number in range(4)]
    FeedWriter(laptop.store, laptop.feed, laptop.device).append(blocks)
    wire = sync(laptop, phone)
    assert len(wire.sent(0, Blocks)) == 3
    with phone.store.read() as tx:
        held = tx.feed(laptop.feed).length
        assert list(tx.blocks(laptop.feed, held - 4, held)) == blocks
    assert points(phone) == points(laptop)


def test_a_new_device_and_a_revocation_arrive_as_events(three: tuple[Any, Any, Any]) -> None:
    laptop, phone, _ = three
    from identity.event import RevocationReason
    from identity.history import build_revoke_device, fold
    from ledger.identities import add_events

    world = laptop.world
    event = build_revoke_device(
        fold(world.events),
        device=bytes(Ed25519Signer(bytes([109]) * 32).public_key),
        reason=RevocationReason.RETIRED,
        last_good={},
        time_ms=99,
    )
    with laptop.store.write() as tx:
        add_events(tx, world.identity, [*world.events, world.sign(event, world.root)])
    wire = sync(phone, laptop)
    (events,) = wire.sent(1, Events)
    assert len(events.events) == 1  # the one that is new, and no other
    with phone.store.read() as tx:
        assert len(tx.identity_events(world.identity)) == len(world.events) + 1
    assert wire.sent(0, Events) == []


# --- what it costs ---


def test_an_incremental_sync_costs_what_is_new_and_one_round_trip(three: tuple[Any, Any, Any]) -> None:
    laptop, phone, desk = three
    for number in range(300):
        laptop.put("accounts", str(number), owner="somebody", limit=number)
    sync(laptop, phone)
    sync(phone, desk)
    for number in range(10):
        laptop.put("accounts", str(number), owner="somebody else")
    wire = sync(phone, laptop)
    assert wire.blocks(1) == 10
    payload = sum(len(block) for batch in wire.sent(1, Batch) for run in batch.runs for block in run.blocks)
    total = sum(map(len, wire.frames[0] + wire.frames[1]))
    assert total - payload < 4096
    first_batch = next(at for at, frame in enumerate(wire.frames[1]) if isinstance(parse_frame(frame), Batch))
    assert first_batch == 2  # behind what it has: nothing of the peer's but the same was waited for


def test_what_is_here_is_said_by_feed_and_not_by_entry(three: tuple[Any, Any, Any]) -> None:
    laptop, phone, _ = three
    sizes = []
    for count in (1, 200):
        for number in range(count):
            laptop.put("accounts", str(number), owner=str(count))
        sync(laptop, phone)
        wire = sync(laptop, phone)
        sizes.append(sum(map(len, wire.frames[0])))
    assert sizes[1] - sizes[0] <= 8  # a length takes more digits


def test_what_the_peer_had_before_is_not_asked_for_again(three: tuple[Any, Any, Any]) -> None:
    laptop, phone, _ = three
    session = session_of(laptop)
    Wire(session, session_of(phone)).run()
    laptop.put("accounts", "1", owner="A")
    again = session_of(laptop, known=session.known)
    frames = []
    while (frame := again.next_frame()) is not None:
        frames.append(parse_frame(frame))
    assert [type(frame) for frame in frames] == [Hello, HaveFrame, Batch, Done]


# --- forks ---


@pytest.fixture
def forked(world: Any) -> tuple[Any, Any, Any, Any]:
    """Laptop and desk, and a phone that was cloned and wrote in both places behind the same entry."""
    laptop, phone, desk = (world.replica(name) for name in ("laptop", "phone", "desk"))
    phone.put("accounts", "1", owner="before")
    for other in (laptop, desk):
        sync(phone, other)
    clone = phone.copied("clone")
    phone.put("accounts", "1", owner="phone")
    world.clock_ms += 5
    clone.put("accounts", "1", owner="clone")
    return laptop, phone, desk, clone


@pytest.mark.parametrize(("more_here", "more_there"), [(0, 0), (3, 0), (0, 3), (5, 2)])
def test_one_session_shows_both_that_a_feed_has_forked(
    more_here: int, more_there: int, forked: tuple[Any, Any, Any, Any]
) -> None:
    """Whichever of the two has the longer line: who is told a point that it does not have says so."""
    laptop, phone, desk, clone = forked
    for number in range(more_here):
        phone.put("accounts", "2", owner=str(number))
    for number in range(more_there):
        clone.put("accounts", "3", owner=str(number))
    sync(phone, laptop)
    sync(clone, desk)
    wire = sync(laptop, desk)
    for side in (0, 1):
        (fork,) = [fork for report in reports(wire, side) for fork in report.received.forks]
        assert (fork.feed, fork.index, fork.reason) == (phone.feed, 1, SideReason.FORKED)
        from ledger.fork import parse_fork, verify_fork

        proof = parse_fork(fork.proof)
        verify_fork(proof.manifest, proof)
    assert points(laptop) == points(desk)
    assert len([point for point in points(desk) if point.feed == phone.feed]) == 2
    assert facts(laptop) == facts(desk)
    assert sync(laptop, desk).blocks(0) == 0


def test_a_fork_near_the_end_is_told_by_its_end(world: Any) -> None:
    """What both have of a long feed is found by a few points, and not sent again."""
    laptop, phone, desk = (world.replica(name) for name in ("laptop", "phone", "desk"))
    for number in range(60):
        phone.put("accounts", str(number), owner="before")
    for other in (laptop, desk):
        sync(phone, other)
    clone = phone.copied("clone")
    for replica, other in ((phone, laptop), (clone, desk)):
        replica.put("accounts", "1", owner=replica.name)
        sync(replica, other)
    laptop_wire = sync(laptop, desk)
    assert min(laptop_wire.blocks(0), laptop_wire.blocks(1)) == 1
    assert points(laptop) == points(desk)


def test_who_finds_its_own_feed_forked_does_not_sign_it_again(forked: tuple[Any, Any, Any, Any]) -> None:
    laptop, phone, _, clone = forked
    sync(phone, laptop)
    sync(clone, laptop)
    from identity.errors import RefusedError

    with clone.store.read() as tx:
        assert tx.feed(clone.feed).retired
    with pytest.raises(RefusedError):
        clone.put("accounts", "9", owner="nobody")


def test_the_sides_of_a_fork_go_on_in_later_sessions(forked: tuple[Any, Any, Any, Any]) -> None:
    laptop, phone, desk, clone = forked
    sync(phone, laptop)
    sync(clone, desk)
    sync(laptop, desk)
    phone.put("accounts", "4", owner="more")
    clone.put("accounts", "5", owner="more")
    sync(phone, laptop)
    sync(clone, desk)
    wire = sync(laptop, desk)
    assert sum(report.entries for side in (0, 1) for report in reports(wire, side)) == 2
    assert facts(laptop) == facts(desk)


# --- live ---


def test_a_live_session_sends_what_is_written_while_it_lasts(three: tuple[Any, Any, Any]) -> None:
    laptop, phone, _ = three
    wire = Wire(session_of(laptop, live=True), session_of(phone, live=True)).run()
    for number in range(3):
        laptop.put("accounts", "1", owner=f"L{number}")
        phone.put("accounts", "2", owner=f"P{number}")
        for session in wire.sessions:
            session.refresh()
        wire.run()
        assert facts(laptop) == facts(phone)
    assert (wire.blocks(0), wire.blocks(1)) == (3, 3)  # and nothing is sent back
    assert [len(wire.sent(side, Ack)) for side in (0, 1)] == [3, 3]
    count = len(wire.frames[0])
    wire.sessions[0].refresh()
    wire.run()
    assert len(wire.frames[0]) == count  # nothing was written, so nothing is said


def test_a_live_session_is_done_again_before_anything_came_back(three: tuple[Any, Any, Any]) -> None:
    """Who writes twice before the peer has answered has seen no more of it the second time."""
    laptop, phone, _ = three
    one, other = Wire(session_of(laptop, live=True), session_of(phone, live=True)).run().sessions
    told = []
    for number in range(3):
        laptop.put("accounts", "1", owner=str(number))
        one.refresh()
        for frame in iter(one.next_frame, None):
            told += [parse_frame(frame)]
            other.receive(frame)
    done = [frame.seen for frame in told if isinstance(frame, Done)]
    assert len(done) == 3
    assert len(set(done)) == 1
    assert phone.fields("accounts", "1") == {"owner": "2"}


def test_a_live_session_waits_for_a_slow_peer(three: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    laptop, phone, _ = three
    monkeypatch.setattr("sync.outgoing._BLOCKS", 1)
    for number in range(MAX_UNACKED + 5):
        laptop.put("accounts", str(number), owner="A")
    one, other = session_of(laptop, live=True), session_of(phone, live=True)
    for frame in iter(other.next_frame, None):
        one.receive(frame)
    frames = list(iter(one.next_frame, None))
    assert sum(isinstance(parse_frame(frame), Batch) for frame in frames) == MAX_UNACKED
    for frame in frames:
        other.receive(frame)
    one.receive(next(iter(other.next_frame, None)))
    assert isinstance(parse_frame(one.next_frame() or b""), Batch)


# --- who is cut off ---


def hello(world: Any, **other: Any) -> bytes:
    return encode_frame(Hello(**{"database": world.uid, "founding": None, **other}))


NOTHING = encode_frame(HaveFrame((), (), True))


def a_batch(replica: Any, start: int = 0) -> Batch:
    """What a replica would send of its own feed."""
    with DatabaseReplica(replica.db).snapshot() as snapshot:
        (line,) = snapshot.lines(replica.feed)
        blocks = tuple(line.blocks(start, line.length))
        manifest = snapshot.feeds()[replica.feed]
        return Batch(
            (FrameRun(replica.feed, manifest, start, line.tree_hash(start), tuple(line.heads(start)), blocks),)
        )


def altered(batch: Batch, **changes: Any) -> Batch:
    from dataclasses import replace

    return Batch((replace(batch.runs[0], **changes),))


def heads_with(batch: Batch, change: Callable[[SignedHead], SignedHead]) -> Batch:
    return altered(batch, heads=tuple(map(change, batch.runs[0].heads)))


def forged(head: SignedHead) -> SignedHead:
    signature = head.signature[:-9] + bytes([head.signature[-9] ^ 1]) + head.signature[-8:]
    return SignedHead(head.length, head.tree_hash, signature)


def flat(name: str, length: int) -> Point:
    return Point(name.encode().ljust(32, b"."), length, bytes(32))  # type: ignore[arg-type]


ATTACKS: dict[str, tuple[str, Callable[[Any, Any], list[bytes]]]] = {
    "no hello": ("OUT_OF_ORDER", lambda world, _: [NOTHING]),
    "hello twice": ("OUT_OF_ORDER", lambda world, _: [hello(world), hello(world)]),
    "another database": ("OTHER_DATABASE", lambda world, _: [hello(world, database=bytes(32))]),
    "a founding of another": (
        "VERIFICATION_FAILED",
        lambda world, _: [hello(world, founding=Founding("other", world.identity, bytes(16)))],
    ),
    "live where nobody asked": ("OUT_OF_ORDER", lambda world, _: [hello(world, live=True)]),
    "have twice": ("OUT_OF_ORDER", lambda world, _: [hello(world), NOTHING, NOTHING]),
    "have that says nothing": ("MALFORMED", lambda world, _: [hello(world), encode_frame(HaveFrame((), (), False))]),
    "points out of order": (
        "MALFORMED",
        lambda world, _: [hello(world), encode_frame(HaveFrame((flat("b", 1), flat("a", 1)), (), True))],
    ),
    "points out of order between frames": (
        "MALFORMED",
        lambda world, _: [
            hello(world),
            encode_frame(HaveFrame((flat("b", 1),), (), False)),
            encode_frame(HaveFrame((flat("a", 1),), (), True)),
        ],
    ),
    "too many lines of a feed": (
        "TOO_LARGE",
        lambda world, _: [
            hello(world),
            encode_frame(HaveFrame(tuple(flat("a", length) for length in range(1, 100)), (), True)),
        ],
    ),
    "too many feeds": (
        "TOO_LARGE",
        lambda world, _: [
            hello(world),
            *(
                encode_frame(HaveFrame(tuple(flat(f"{frame:03}{n:05}", 1) for n in range(1024)), (), False))
                for frame in range(65)
            ),
        ],
    ),
    "too many identities": (
        "TOO_LARGE",
        lambda world, _: [
            hello(world),
            *(
                encode_frame(
                    HaveFrame(
                        (),
                        tuple(Holding((frame * 1024 + n).to_bytes(32, "big"), 1, bytes(32)) for n in range(1024)),
                        False,
                    )
                )
                for frame in range(5)
            ),
        ],
    ),
    "a batch before what it has": ("OUT_OF_ORDER", lambda world, it: [hello(world), encode_frame(a_batch(it))]),
    "an unknown type": ("MALFORMED", lambda world, _: [hello(world), NOTHING, raw({"t": "gossip"})]),
    "an unknown key": ("MALFORMED", lambda world, _: [hello(world), NOTHING, raw({"t": "more", "x": 1})]),
    "another version": ("UNSUPPORTED_VERSION", lambda world, _: [raw({"t": "hello", "v": 2})]),
    "bytes behind a frame": ("MALFORMED", lambda world, _: [hello(world), NOTHING + b"x"]),
    "garbage": ("TOO_LARGE", lambda world, _: [b"GET / HTTP/1.1\r\n\r\n" * 9]),
    "an empty frame": ("MALFORMED", lambda world, _: [b""]),
    "a header that ends nowhere": ("TOO_LARGE", lambda world, _: [b"\xff\xff\xff\xff"]),
    "a frame that is too long": ("TOO_LARGE", lambda world, _: [bytes(2_000_000)]),
    "sizes that are not there": (
        "MALFORMED",
        lambda world, _: [hello(world), NOTHING, raw({"t": "blocks", "sizes": [2**62]})],
    ),
    "a negative size": (
        "MALFORMED",
        lambda world, _: [hello(world), NOTHING, raw({"t": "blocks", "sizes": [4, -4]})],
    ),
    "a gap": ("GAP", lambda world, it: [hello(world), NOTHING, encode_frame(a_batch(it, 1))]),
    "no manifest": (
        "GAP",
        lambda world, it: [hello(world), NOTHING, encode_frame(altered(a_batch(it), manifest=None))],
    ),
    "the manifest of another feed": (
        "VERIFICATION_FAILED",
        lambda world, it: [
            hello(world),
            NOTHING,
            encode_frame(altered(a_batch(it), manifest=a_batch(world.replicas["laptop"]).runs[0].manifest)),
        ],
    ),
    "a forged signature": (
        "VERIFICATION_FAILED",
        lambda world, it: [hello(world), NOTHING, encode_frame(heads_with(a_batch(it), forged))],
    ),
    "another tree": (
        "VERIFICATION_FAILED",
        lambda world, it: [
            hello(world),
            NOTHING,
            encode_frame(heads_with(a_batch(it), lambda one: SignedHead(one.length, bytes(32), one.signature))),
        ],
    ),
    "another block": (
        "VERIFICATION_FAILED",
        lambda world, it: [
            hello(world),
            NOTHING,
            encode_frame(altered(a_batch(it), blocks=(b"forged", *a_batch(it).runs[0].blocks[1:]))),
        ],
    ),
    "a block too many": (
        "MALFORMED",
        lambda world, it: [
            hello(world),
            NOTHING,
            encode_frame(altered(a_batch(it), blocks=(*a_batch(it).runs[0].blocks, b"more"))),
        ],
    ),
    "a block missing": (
        "MALFORMED",
        lambda world, it: [
            hello(world),
            NOTHING,
            encode_frame(altered(a_batch(it), blocks=a_batch(it).runs[0].blocks[1:])),
        ],
    ),
    "a run that begins elsewhere": (
        "VERIFICATION_FAILED",
        lambda world, it: [hello(world), NOTHING, encode_frame(altered(a_batch(it), tree_hash=bytes(32)))],
    ),
    "blocks that nothing covers": (
        "OUT_OF_ORDER",
        lambda world, _: [hello(world), NOTHING, encode_frame(Blocks((b"x",))), encode_frame(Done(0))],
    ),
    "blocks without end": (
        "TOO_LARGE",
        lambda world, _: [hello(world), NOTHING, *[encode_frame(Blocks((bytes(MAX_BODY_BYTES),)))] * 65],
    ),
    "many small blocks without end": (
        "TOO_LARGE",
        lambda world, _: [hello(world), NOTHING, *[encode_frame(Blocks((b"",) * 1024))] * 65],
    ),
    "an acknowledgement of nothing": (
        "OUT_OF_ORDER",
        lambda world, _: [hello(world), NOTHING, encode_frame(Ack(1, 1))],
    ),
    "done with what was not sent": ("OUT_OF_ORDER", lambda world, _: [hello(world), NOTHING, encode_frame(Done(99))]),
    "done twice": (
        "OUT_OF_ORDER",
        lambda world, _: [hello(world), NOTHING, encode_frame(Done(0)), encode_frame(Done(0))],
    ),
    "a point contradicted twice": (
        "OUT_OF_ORDER",
        lambda world, _: [hello(world), NOTHING, *[encode_frame(Refine(flat("a", 1), ()))] * 2],
    ),
    "events that are none": (
        "MALFORMED",
        lambda world, _: [hello(world), NOTHING, encode_frame(Events((b"event",)))],
    ),
    "events that do not fold": (
        "VERIFICATION_FAILED",
        lambda world, _: [hello(world), NOTHING, encode_frame(Events((strange_event(),)))],
    ),
    "the same events for ever": (
        "NOTHING_NEW",
        lambda world, _: [hello(world), NOTHING, *[encode_frame(Events((world.events[0].encode(),)))] * 1025],
    ),
    "the same for ever": (
        "NOTHING_NEW",
        lambda world, it: [
            hello(world),
            NOTHING,
            *[encode_frame(a_batch(world.replicas["laptop"]))] * 1025,
        ],
    ),
}


def raw(header: Any) -> bytes:
    from identity.encoding import encode

    encoded = encode(header)
    return len(encoded).to_bytes(4, "big") + encoded


def strange_event() -> bytes:
    """An inception that its key did not sign."""
    from identity.history import build_inception, key_commitment, sign_event

    key = Ed25519Signer(b"\7" * 32)
    event = build_inception(
        label="X", root_keys=[key.public_key], next_digests=[key_commitment(key.public_key)], time_ms=1
    )
    return sign_event(event, [(0, Ed25519Signer(b"\x08" * 32))]).encode()


@pytest.mark.parametrize("name", ATTACKS)
def test_who_breaks_a_rule_is_cut_off_and_nothing_is_kept(name: str, three: tuple[Any, Any, Any]) -> None:
    laptop, phone, desk = three
    phone.put("accounts", "1", owner="A")
    phone.put("accounts", "2", owner="B")
    reason, attack = ATTACKS[name]
    frames = attack(laptop.world, phone)
    session = session_of(laptop)
    assert session.next_frame() is not None
    before = everything(laptop)
    with pytest.raises(PeerMisbehaved) as caught:
        for frame in frames:
            session.receive(frame)
    assert caught.value.reason == reason
    assert everything(laptop) == before
    told = [parse_frame(frame) for frame in iter(session.next_frame, None)]
    assert [type(one) for one in told] == [Failure]
    assert told[0].reason == reason  # type: ignore[union-attr]
    assert session.receive(NOTHING) == ()  # it listens no more
    sync(laptop, desk)  # and others are none the worse
    sync(laptop, phone)
    assert facts(laptop) == facts(phone)


def test_a_peer_is_told_of_no_fault_of_this_side(three: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    laptop, phone, _ = three
    phone.put("accounts", "1", owner="A")
    session = session_of(laptop)

    def fail(*_: Any) -> Any:
        raise StorageError("cannot write /home/secret")

    monkeypatch.setattr(laptop.db, "take_runs", fail)
    for frame in (hello(laptop.world), NOTHING):
        session.receive(frame)
    with pytest.raises(StorageError):
        session.receive(encode_frame(a_batch(phone)))
    told = [parse_frame(frame) for frame in iter(session.next_frame, None)]
    assert told == [Failure("UNAVAILABLE", "")]


def test_as_many_lines_of_a_feed_are_told_as_are_kept() -> None:
    from sync.session import MAX_POINTS_OF_A_FEED
    from sync.storage.sides import MAX_SIDES

    assert MAX_POINTS_OF_A_FEED == MAX_SIDES + 1


def test_what_a_peer_says_of_its_end_is_passed_on(three: tuple[Any, Any, Any]) -> None:
    session = session_of(three[0])
    assert session.receive(encode_frame(Failure("GAP", "why", b"proof"))) == (PeerFailed("GAP", "why", b"proof"),)
    assert session.ended
    assert session.next_frame() is None


def test_entries_that_lie_are_taken_in_and_masked(three: tuple[Any, Any, Any]) -> None:
    """A clock of the year 9999: what was written later by somebody who had seen it wins all the same."""
    laptop, phone, desk = three
    phone.clock = lambda: 253_402_300_799_999
    phone.put("accounts", "1", owner="late")
    sync(phone, laptop)
    laptop.put("accounts", "1", owner="now")
    sync(laptop, desk)
    assert desk.fields("accounts", "1") == {"owner": "now"}
    assert facts(desk) == facts(laptop)


def test_entries_that_wait_for_ever_hold_up_nobody_else(three: tuple[Any, Any, Any]) -> None:
    from ledger.entry import encode_entry
    from ledger.values import Reference
    from sync.transaction import DocumentId, Op, Stamp, Transaction, Verb, transaction_entry

    laptop, phone, _ = three
    nowhere = Reference(laptop.feed, 10**6, bytes(32))
    stamp = Stamp(laptop.world.uid, None, (nowhere,), 1, 1)
    op = Op(Verb.SET, DocumentId("accounts", "7"), ("owner",), "X")
    FeedWriter(phone.store, phone.feed, phone.device).append(
        [encode_entry(transaction_entry(Transaction(stamp, (op,))))]
    )
    laptop.put("accounts", "1", owner="A")
    wire = sync(laptop, phone)
    (waiting,) = reports(wire, 0)[-1].waiting
    assert waiting.reference == nowhere
    assert phone.fields("accounts", "1") == {"owner": "A"}
    assert points(laptop) == points(phone)

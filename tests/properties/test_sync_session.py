"""Sessions between devices that write, fork and lose their connections: in the end all have the same, at its price.

And sessions with a peer that sends anything: what is refused changes nothing, and what is kept is what was signed.
"""

from __future__ import annotations

import os
import random
import tempfile
import tracemalloc
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from identity.errors import MalformedError, PeerMisbehaved, RefusedError, VerificationError
from ledger.store import FeedKey
from sync.bundle import Point
from sync.changes import Changes
from sync.frames import (
    MAX_FRAME_BYTES,
    Ack,
    Batch,
    Blocks,
    Done,
    Events,
    Failure,
    Frame,
    FrameBuffer,
    FrameRun,
    HaveFrame,
    Hello,
    Holding,
    More,
    Refine,
    SignedHead,
    blocks_in,
    encode_frame,
    framed,
    parse_frame,
)
from sync.replica import DatabaseReplica
from sync.session import Session, TookIn
from sync.storage.audit import audit_database
from sync.transaction import Founding, database_id

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "6"))
DEVICES = ("laptop", "phone", "desk")


# --- histories ---

WHO = st.integers(0, 4)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), WHO, st.sampled_from("12"), st.integers(0, 3)),
        st.tuples(st.just("write"), WHO, st.sampled_from("12"), st.integers(0, 3)),
        st.tuples(st.just("meet"), WHO, WHO, st.integers(1, 14)),
        st.tuples(st.just("meet"), WHO, WHO, st.just(1000)),
        st.tuples(st.just("clone"), WHO),
    ),
    min_size=6,
    max_size=24,
)


def points_of(replica: Any) -> list[Point]:
    with DatabaseReplica(replica.db).snapshot() as snapshot:
        return sorted(
            Point(feed, line.length, line.tree_hash(line.length))
            for feed in snapshot.feeds()
            for line in snapshot.lines(feed)
        )


def shown(replica: Any) -> Any:
    with replica.store.read() as tx:
        assert audit_database(tx, replica.store.dialect, replica.world.uid) == []
        return tx.fetch_all("SELECT collection, key, etag, conflicts FROM database_document ORDER BY 1, 2")


def meet(one: Any, other: Any, chance: random.Random, most: int = 100_000) -> tuple[list[bytes], list[Any], bool]:
    """A session: frames arrive in their order, and the two directions in any. Returns frames, reports, if it ended."""
    sessions = [Session(DatabaseReplica(replica.db)) for replica in (one, other)]
    way: tuple[list[bytes], list[bytes]] = ([], [])
    frames, reports = [], []
    while most:
        for side in (0, 1):
            if chance.random() < 0.6 and (frame := sessions[side].next_frame()) is not None:
                way[side].append(frame)
                frames.append(frame)
        ready = [side for side in (0, 1) if way[side]]
        if not ready:
            ends = [session.next_frame() for session in sessions]
            if ends == [None, None]:
                break
            for side in (0, 1):
                if (last := ends[side]) is not None:
                    way[side].append(last)
                    frames.append(last)
            continue
        side = chance.choice(ready)
        events = sessions[1 - side].receive(way[side].pop(0))
        reports += [event.report for event in events if isinstance(event, TookIn)]
        most -= 1
    return frames, reports, all(session.is_even for session in sessions)


def write(replica: Any, key: str, number: int) -> None:
    changes = Changes()
    changes.patch("c", key, {"a": number, "by": replica.name})
    changes.increment("c", key, "n")
    try:
        replica.db.commit(changes)
    except RefusedError:
        assert is_copied(replica)


def is_copied(replica: Any) -> bool:
    """Whether the device knows that a copy of it has signed too."""
    with replica.store.read() as tx:
        return bool(tx.feed(replica.feed).retired)


def missing_between(one: Any, other: Any) -> int:
    """How many blocks the two lack of each other, when no feed has forked."""
    held: list[dict[FeedKey, int]] = [{point.feed: point.length for point in points_of(it)} for it in (one, other)]
    return sum(abs(held[0].get(feed, 0) - held[1].get(feed, 0)) for feed in held[0].keys() | held[1].keys())


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, seed=st.integers(0, 1 << 32), batch=st.sampled_from([1, 2, 512]))
def test_all_end_with_all_sides(make_world: Any, steps: list[Any], seed: int, batch: int) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as directory, mock.patch("sync.outgoing._BLOCKS", batch):
        world = make_world(Path(directory), "bank")
        try:
            replicas = [world.replica(name) for name in DEVICES]
            for number, (what, who, *rest) in enumerate(steps):
                world.clock_ms += number % 3
                replica = replicas[who % len(replicas)]
                if what == "write":
                    write(replica, *rest)
                elif what == "meet":
                    other = replicas[rest[0] % len(replicas)]
                    if other is not replica:
                        meet(replica, other, chance, rest[1])
                        shown(other)  # every row is as its feeds have it: nothing without its past
                elif len(replicas) < 5:
                    replicas.append(replica.copied(f"clone {number}"))
            for _ in range(2):
                for one, other in combinations(replicas, 2):
                    assert meet(one, other, chance)[2]
                    assert points_of(one) == points_of(other)
            states = [(points_of(replica), shown(replica)) for replica in replicas]
            assert all(state == states[0] for state in states)
            for one, other in combinations(replicas, 2):
                assert sum(blocks_in(parse_frame(frame)) for frame in meet(one, other, chance)[0]) == 0
        finally:
            world.close()


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, seed=st.integers(0, 1 << 32), batch=st.sampled_from([1, 3, 512]))
def test_nothing_is_sent_that_is_there_and_nobody_waits(
    make_world: Any, steps: list[Any], seed: int, batch: int
) -> None:
    """Where no device was copied: the price is what is missing, and each frame brings entries after their past."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as directory, mock.patch("sync.outgoing._BLOCKS", batch):
        world = make_world(Path(directory), "bank")
        try:
            replicas = [world.replica(name) for name in DEVICES]
            for number, (what, who, *rest) in enumerate(steps):
                world.clock_ms += number % 3
                replica = replicas[who % 3]
                if what == "write":
                    write(replica, *rest)
                elif what == "meet" and replicas[rest[0] % 3] is not replica:
                    other = replicas[rest[0] % 3]
                    missing = missing_between(replica, other)
                    frames, reports, ended = meet(replica, other, chance, rest[1])
                    assert all(report.waiting == () for report in reports)
                    told = [parse_frame(frame) for frame in frames]
                    sent = sum(map(blocks_in, told))
                    assert sent <= missing
                    assert not ended or sent == missing
                    payload = sum(
                        len(block) for one in told if isinstance(one, Batch) for run in one.runs for block in run.blocks
                    )
                    assert sum(map(len, frames)) - payload <= 2048 + 256 * len(DEVICES) + 1024 * sent
        finally:
            world.close()


LIVE_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 2), st.sampled_from("12"), st.integers(0, 3)),
        st.tuples(st.just("send"), st.integers(0, 3), st.integers(1, 8)),
        st.tuples(st.just("arrive"), st.integers(0, 3), st.integers(1, 8)),
    ),
    min_size=10,
    max_size=60,
)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=LIVE_STEPS, batch=st.sampled_from([1, 512]), window=st.sampled_from([1, 2, 16]))
def test_live_sessions_stay_in_step_however_slow_the_way_is(
    make_world: Any, steps: list[Any], batch: int, window: int
) -> None:
    """A node in the middle has a live session with either neighbour; frames take as long as they like."""
    patched = mock.patch.multiple("sync.session", MAX_UNACKED=window)
    with (
        tempfile.TemporaryDirectory() as directory,
        mock.patch("sync.outgoing._BLOCKS", batch),
        patched,
    ):
        world = make_world(Path(directory), "bank")
        try:
            replicas = [world.replica(name) for name in DEVICES]
            ends = [
                (replica, Session(DatabaseReplica(replica.db), live=True))
                for replica in (replicas[0], replicas[1], replicas[1], replicas[2])
            ]
            ways: list[list[bytes]] = [[] for _ in ends]

            def send(at: int, most: int) -> int:
                sent = 0
                while sent < most and (frame := ends[at][1].next_frame()) is not None:
                    ways[at].append(frame)
                    sent += 1
                return sent

            def arrive(at: int, most: int) -> int:
                there = at ^ 1
                arrived = [ways[at].pop(0) for _ in range(min(most, len(ways[at])))]
                for frame in arrived:
                    ends[there][1].receive(frame)
                for replica, session in ends:
                    if arrived and replica is ends[there][0]:
                        session.refresh()
                return len(arrived)

            for what, who, *rest in steps:
                if what == "write":
                    write(replicas[who], *rest)
                    for replica, session in ends:
                        if replica is replicas[who]:
                            session.refresh()
                elif what == "send":
                    send(who, rest[0])
                else:
                    arrive(who, rest[0])
            while sum(send(at, 1000) + arrive(at, 1000) for at in range(4)):
                pass
            assert all(session.is_even and not session.ended for _, session in ends)
            assert shown(replicas[0]) == shown(replicas[1]) == shown(replicas[2])
            assert points_of(replicas[0]) == points_of(replicas[1]) == points_of(replicas[2])
        finally:
            world.close()


# --- frames ---

HASHES = st.binary(min_size=32, max_size=32)
FEEDS = HASHES.map(FeedKey)
POINTS = st.builds(Point, FEEDS, st.integers(1, 2**52), HASHES)
HEADS = st.lists(st.integers(1, 50), min_size=1, max_size=4, unique=True).map(
    lambda found: tuple(SignedHead(length, bytes([length]) * 32, b"s" * length) for length in sorted(found))
)
PARTS = st.lists(st.binary(max_size=40), min_size=1, max_size=6).map(tuple)
RUNS = st.builds(FrameRun, FEEDS, st.none() | st.binary(max_size=200), st.just(0), HASHES, HEADS, PARTS)
FOUNDINGS = st.builds(Founding, st.text("abc", min_size=1), HASHES, st.binary(min_size=16, max_size=16))
FRAMES: st.SearchStrategy[Frame] = st.one_of(
    st.builds(Hello, st.none() | HASHES, st.none(), st.none(), st.booleans()),
    FOUNDINGS.map(lambda one: Hello(database_id(one), one)),
    st.lists(FEEDS, unique=True, max_size=4).map(lambda found: Hello(None, None, tuple(sorted(found)))),
    st.builds(
        HaveFrame,
        st.lists(POINTS, max_size=4).map(tuple),
        st.lists(st.builds(Holding, HASHES, st.integers(1, 9), HASHES), max_size=3).map(tuple),
        st.booleans(),
    ),
    POINTS.flatmap(
        lambda point: st.lists(st.builds(Point, st.just(point.feed), st.integers(1, 2**52), HASHES), max_size=4).map(
            lambda found: Refine(point, tuple(found))
        )
    ),
    st.builds(Events, PARTS),
    st.builds(Blocks, PARTS),
    st.builds(Batch, st.lists(RUNS, min_size=1, max_size=3).map(tuple)),
    st.builds(Ack, st.integers(0, 2**40), st.integers(0, 2**40)),
    st.builds(Done, st.integers(0, 2**40)),
    st.just(More()),
    st.builds(Failure, st.sampled_from(["GAP", "OUT_OF_ORDER"]), st.text(max_size=500), st.binary(max_size=100)),
)


@given(FRAMES)
def test_frames_are_read_back(frame: Frame) -> None:
    assert parse_frame(encode_frame(frame)) == frame


@given(FRAMES, st.data())
def test_a_frame_has_one_spelling(frame: Frame, data: st.DataObject) -> None:
    """Whatever is read is written as the same bytes again, and everything else is malformed."""
    encoded = bytearray(encode_frame(frame))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(encoded) - 1))
        encoded[at] ^= data.draw(st.integers(1, 255))
    mutated = bytes(encoded[: data.draw(st.integers(0, len(encoded)))]) if data.draw(st.booleans()) else bytes(encoded)
    try:
        read = parse_frame(mutated)
    except (MalformedError, VerificationError):
        pass  # the second: a founding that is not the database's
    else:
        assert encode_frame(read) == mutated


@given(st.lists(FRAMES.map(encode_frame), max_size=6), st.data())
def test_a_stream_is_cut_anywhere(frames: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(framed, frames))
    buffer, found = FrameBuffer(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += buffer.feed(stream[:size])
        stream = stream[size:]
    buffer.end()
    assert found == frames


@given(st.binary(max_size=64))
def test_any_bytes_are_a_stream_or_malformed(stream: bytes) -> None:
    buffer = FrameBuffer()
    try:
        for frame in buffer.feed(stream):
            assert 0 < len(frame) <= MAX_FRAME_BYTES
        buffer.end()
    except MalformedError:
        pass


# --- a peer that sends anything ---


def everything(replica: Any) -> list[Any]:
    with replica.store.read() as tx:
        names = [row[0] for row in tx.fetch_all("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")]
        return [(name, sorted(map(repr, tx.fetch_all(f"SELECT * FROM {name}")))) for name in names]


def mutations(frames: list[bytes], chance: random.Random) -> Iterator[bytes]:
    """A transcript with a fault: in a byte, a length, the order, or made of two frames."""
    faulty = random.Random(chance.random()).randrange(len(frames))
    for number, frame in enumerate(frames):
        if number != faulty:
            yield frame
            continue
        kind = chance.randrange(7)
        if kind == 0:
            at = chance.randrange(len(frame))
            yield frame[:at] + bytes([frame[at] ^ 1 << chance.randrange(8)]) + frame[at + 1 :]
        elif kind == 1:
            yield frame[: chance.randrange(len(frame))]
        elif kind == 2:
            yield frame + chance.randbytes(chance.randrange(1, 40))
        elif kind == 3:
            yield frame
            yield frame
        elif kind == 4:
            yield frames[chance.randrange(len(frames))]
        elif kind == 5:
            other = frames[chance.randrange(len(frames))]
            yield frame[: len(frame) // 2] + other[len(other) // 2 :]
        else:
            at = chance.randrange(len(frame))
            yield frame[:at] + chance.randbytes(4) + frame[at + 4 :]


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32))
def test_a_peer_that_sends_anything_changes_nothing_that_was_not_signed(make_world: Any, seed: int) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as directory, mock.patch("sync.outgoing._BLOCKS", 2):
        world = make_world(Path(directory), "bank")
        try:
            laptop, phone, desk = (world.replica(name) for name in DEVICES)
            for number in range(4):
                write(laptop, "1", number)
                write(phone, "2", number)
                meet(laptop, phone, chance)
            asking = Session(DatabaseReplica(laptop.db))
            for frame in iter(Session(DatabaseReplica(desk.db)).next_frame, None):
                asking.receive(frame)
            transcript = list(iter(asking.next_frame, None))
            tracemalloc.start()
            refused = 0
            for _ in range(25):
                session = Session(DatabaseReplica(desk.db))
                for frame in mutations(transcript, chance):
                    before = everything(desk)
                    tracemalloc.reset_peak()
                    base = tracemalloc.get_traced_memory()[0]
                    try:
                        session.receive(frame)
                    except PeerMisbehaved:
                        refused += 1
                        assert everything(desk) == before
                    assert tracemalloc.get_traced_memory()[1] - base < 16 * 1024 * 1024
                    if session.ended:
                        break
            assert refused
            with laptop.store.read() as ours, desk.store.read() as theirs:
                for state in theirs.feeds():
                    held = list(theirs.blocks(state.key, 0, state.length))
                    known = ours.feed(state.key)
                    assert state.length == 0 or held == list(ours.blocks(state.key, 0, min(known.length, state.length)))
            meet(laptop, desk, chance)
            assert shown(laptop) == shown(desk)
        finally:
            tracemalloc.stop()
            world.close()

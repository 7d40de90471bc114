"""As of: the cuts that points in time mean, and what is read at them, against replicas that know only so much."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from identity.errors import MalformedError
from ledger.merkle import tree_hash
from ledger.statement import FeedHead
from sync.changes import Changes
from sync.storage.reader import Cut, Reader


def _increment(replica: Any, key: str = "1") -> Any:
    changes = Changes()
    changes.increment("c", key, "n", 1)
    changes.patch("c", key, {"by": replica.name, "of": 2})
    return replica.db.commit(changes)


def _count(replica: Any, cut: Cut, key: str = "1") -> Any:
    state = replica.db.get("c", key, cut)
    return None if state is None else state.view.fields["n"]


# --- known ----------------------------------------------------------------------------------------------------------


def test_a_place_cuts_no_transaction_in_two(world: Any) -> None:
    laptop = world.replica("laptop")
    first, second = _increment(laptop), _increment(laptop)
    for place in range(first.place, second.place):
        assert _count(laptop, laptop.db.as_of(place=place)) == 1
    assert _count(laptop, laptop.db.as_of(place=second.place)) == 2
    assert _count(laptop, laptop.db.as_of(place=10**12)) == 2
    assert _count(laptop, laptop.db.as_of(place=0)) is None
    assert laptop.db.as_of(place=0) == Cut(0, {})


def test_what_was_known_at_a_time_of_this_clock(world: Any) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    start = world.clock_ms
    _increment(phone)
    world.clock_ms = start + 1_000
    _increment(laptop)
    world.clock_ms = start + 2_000
    world.exchange()
    assert [_count(laptop, laptop.db.as_of(known_ms=start + ms)) for ms in (0, 999, 1_000, 1_999, 2_000)] == [
        None,
        None,
        1,
        1,
        2,
    ]
    world.clock_ms = start + 500  # the clock is set back: what came last counts
    _increment(laptop)
    assert _count(laptop, laptop.db.as_of(known_ms=start + 500)) == 3


def test_points_in_time_that_there_are_not(world: Any) -> None:
    laptop = world.replica("laptop")
    for wrong in ({}, {"place": -1}, {"known_ms": -1}, {"claimed_ms": 1 << 60}, {"place": 1, "known_ms": 1}):
        with pytest.raises(MalformedError):
            laptop.db.as_of(**wrong)


# --- claimed --------------------------------------------------------------------------------------------------------


def test_what_the_authors_say_had_been_written(world: Any) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    start = world.clock_ms
    for step in range(1, 4):
        world.clock_ms = start + 1_000 * step
        _increment(laptop)
        _increment(phone)
    world.clock_ms = start + 60_000
    world.exchange()
    for replica in (laptop, phone):
        found = [_count(replica, replica.db.as_of(claimed_ms=start + ms)) for ms in (0, 999, 1_000, 2_500, 3_000)]
        assert found == [None, None, 2, 4, 6]


def test_who_had_seen_a_clock_that_runs_ahead_comes_after_it(world: Any) -> None:
    """An entry is not in the cut when its past is not, whatever its own clock says."""
    laptop, phone = world.replica("laptop"), world.replica("phone")
    start = world.clock_ms
    world.clock_ms = start + 10**9
    _increment(phone)
    world.clock_ms = start + 1_000
    _increment(laptop)
    laptop.receive(phone)
    _increment(laptop)
    assert _count(laptop, laptop.db.as_of(claimed_ms=start + 5_000)) == 1
    assert _count(laptop, laptop.db.as_of(claimed_ms=start + 10**9)) == 3


# --- anchored -------------------------------------------------------------------------------------------------------


def test_a_feed_s_entries_are_there_as_far_as_their_past_is(world: Any) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    _increment(laptop)
    phone.receive(laptop)
    _increment(phone)
    laptop.receive(phone)
    heads = _heads(laptop)
    _increment(laptop)
    assert _count(laptop, laptop.db.as_of(anchored=heads)) == 2
    only = [head for head in heads if head.key == phone.feed]
    assert _count(laptop, laptop.db.as_of(anchored=only)) is None
    assert laptop.db.as_of(anchored=only).vector == {}
    assert laptop.db.as_of(anchored=[]).vector == {}
    mine = [head for head in _heads(laptop) if head.key == laptop.feed]
    assert _count(laptop, laptop.db.as_of(anchored=mine)) == 1
    assert laptop.db.as_of(anchored=[FeedHead(bytes(32), 5, bytes(32))]).vector == {}


def test_another_tree_than_the_anchored_one_is_not_shown(world: Any) -> None:
    laptop = world.replica("laptop")
    _increment(laptop)
    (head,) = _heads(laptop)
    assert laptop.db.as_of(anchored=[head]).vector != {}
    assert laptop.db.as_of(anchored=[FeedHead(head.key, head.length, bytes(32))]).vector == {}
    assert laptop.db.as_of(anchored=[FeedHead(head.key, head.length + 1, head.tree_hash)]).vector == {}


def _heads(replica: Any) -> list[FeedHead]:
    with replica.store.read() as tx:
        return [FeedHead(state.key, state.length, tree_hash(state.roots)) for state in tx.feeds() if state.length]


# --- any cut --------------------------------------------------------------------------------------------------------

STEPS = st.lists(st.tuples(st.integers(0, 1), st.sampled_from(["write", "put", "receive", "save"])), max_size=10)


def test_a_cut_is_what_a_replica_shows_that_knew_no_more(world: Any) -> None:
    """The phone stops receiving from time to time: what it showed then, the laptop shows at the lengths it had."""
    replicas = [world.replica("laptop"), world.replica("phone")]
    keys = itertools.count()

    @settings(max_examples=8, deadline=None)
    @given(STEPS)
    def run(steps: Any) -> None:
        key = str(next(keys))
        saved: list[Any] = []
        for number, what in steps:
            replica = replicas[number]
            if what == "write":
                _increment(replica, key)
            elif what == "put":
                replica.put("c", key, by=replica.name, at=len(saved))
            elif what == "receive":
                replica.receive(replicas[1 - number])
            else:
                with replica.db.read() as reader:
                    saved.append((_named(reader, reader.now()), _shown(replica.db.get("c", key)), _heads(replica)))
        world.exchange()
        for replica in replicas:
            for vector, shown, heads in saved:
                cut = replica.db.as_of(anchored=heads)
                with replica.db.read() as reader:
                    assert _named(reader, cut) == vector
                assert _shown(replica.db.get("c", key, cut)) == shown

    run()


def _named(reader: Reader, cut: Cut) -> dict[bytes, int]:
    return {reader.branches[branch].uid: seq for branch, seq in cut.vector.items()}


def _shown(state: Any) -> Any:
    return None if state is None else (state.etag, dict(state.view.fields), state.view.conflicts)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_the_largest_closed_cut_is_found(closing: Any, data: Any) -> None:
    """Against trying every entry of every branch."""
    with closing.db.read() as reader:
        ends = reader.branches.clock()
        limits = {branch: data.draw(st.integers(-1, end)) for branch, end in ends.items()}
        expected = {}
        for branch, limit in limits.items():
            for seq in range(limit + 1):
                if reader.branches.facts(branch, seq) is not None:
                    past = dict(reader.branches.past_of(branch, seq))
                    past.pop(branch, None)
                    if all(limits.get(other, -1) >= at for other, at in past.items()):
                        expected[branch] = seq
        assert reader.closed(limits).vector == expected


@pytest.fixture(scope="module")
def closing(make_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A replica that has entries of three devices, which had seen some of each other's."""
    world = make_world(tmp_path_factory.mktemp("closing"), "closing")
    replicas = [world.replica(name) for name in ("laptop", "phone", "tablet")]
    for step in range(24):
        replica = replicas[step * 7 % 3]
        _increment(replica, str(step % 4))
        if step % 4 == 0:
            replica.receive(replicas[(step + 1) % 3])
    world.exchange()
    yield replicas[0]
    world.close()

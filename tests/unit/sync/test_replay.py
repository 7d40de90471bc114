"""Replay: what is parked, what is no entry of its feed, and feeds that forked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import permutations
from typing import Any

import pytest

from identity.contexts import BRANCH_ID
from ledger.entry import Entry, encode_entry
from ledger.merkle import leaf_node
from ledger.values import Reference
from sync.acts import Found, MemberEntry, member_entry
from sync.lines import KnownBlock, KnownFeed, Stray
from sync.membership import Author
from sync.replay import Replay
from sync.stateroot import leaf_of, state_root
from sync.transaction import DocumentId, Op, Stamp, StateRoot, Transaction, Verb, state_root_entry, transaction_entry

NAME = DocumentId("c", "1")


class Writer:
    """Entries of one device, each with all that the test says it had seen; no store."""

    def __init__(self, world: Any, number: int) -> None:
        self.uid = world.uid
        self.author = Author(bytes([number]) * 32, world.devices[number], world.identity)
        self.blocks: list[KnownBlock] = []
        self.last: tuple[Reference, Stamp] | None = None

    def stamp(self, *seen: Writer, reading: int = 0) -> Stamp:
        heads = [one.last for one in seen if one.last is not None]
        before = [] if self.last is None else [self.last]
        lamport = max((stamp.lamport + 1 for _, stamp in (*heads, *before)), default=0)
        own = 0 if self.last is None else self.last[1].reading
        deps = sorted((reference for reference, _ in heads), key=lambda one: (one.feed, one.index, one.leaf_hash))
        back = None if self.last is None else self.last[0]
        return Stamp(self.uid, back, tuple(deps), lamport, max(own + 1, reading))

    def add(self, entry: Entry, stamp: Stamp) -> Reference:
        block, index = encode_entry(entry), len(self.blocks)
        self.blocks.append(KnownBlock(index, leaf_node(index, block).hash, block))
        reference = Reference(self.author.feed, index, self.blocks[-1].leaf_hash)
        self.last = (reference, stamp)
        return reference

    def write(self, value: Any, *seen: Writer, path: str = "a", **more: int) -> Reference:
        stamp = self.stamp(*seen, **more)
        return self.add(transaction_entry(Transaction(stamp, (Op(Verb.SET, NAME, (path,), value),))), stamp)

    def fork(self) -> Writer:
        """The same device, which goes on twice from here."""
        other = object.__new__(Writer)
        other.uid, other.author, other.last, other.blocks = self.uid, self.author, self.last, list(self.blocks)
        return other

    @property
    def feed(self) -> KnownFeed:
        return KnownFeed(self.author, self.blocks)


@pytest.fixture
def writers(world: Any) -> Callable[[int], list[Writer]]:
    def make(count: int) -> list[Writer]:
        from identity.keys import Ed25519Signer

        world.devices = {number: Ed25519Signer(bytes([100 + number]) * 32).public_key for number in range(1, 10)}
        made = [Writer(world, number) for number in range(1, count + 1)]
        stamp = made[0].stamp()
        made[0].add(member_entry(MemberEntry(stamp, Found(world.founding, tuple(world.events)))), stamp)
        return made

    return make


def root_of(replay: Replay) -> bytes:
    return state_root(sorted(leaf_of(one.name, one.version, one.view) for one in replay.documents() if one.version))


def values_of(replay: Replay) -> list[Any]:
    (document,) = replay.documents()
    return [value for cell in document.view.cells for value in cell.values]


def test_siblings_stand_side_by_side(writers: Any) -> None:
    one, two = writers(2)
    one.write("x")
    two.write("y", one)
    one.write("z")
    replay = Replay(one.uid, [one.feed, two.feed])
    assert sorted(values_of(replay)) == ["y", "z"]
    assert (replay.masked, replay.parked, replay.strays) == ({}, {}, {})


def test_what_rests_on_what_is_not_here_is_parked_and_named(writers: Any) -> None:
    one, two, three = writers(3)
    one.write("x")
    missing = three.write("y", one)
    first = two.write("z", one, three)
    second = two.write("w")
    replay = Replay(one.uid, [one.feed, two.feed])
    assert replay.parked == {first: missing, second: first}
    assert values_of(replay) == ["x"]
    whole = Replay(one.uid, [one.feed, two.feed, three.feed])
    assert whole.parked == {}
    assert values_of(whole) == ["w"]


def test_what_stands_behind_a_gap_is_parked(writers: Any) -> None:
    (one,) = writers(1)
    one.write("x")
    behind = [one.write("y"), one.write("z")]
    replay = Replay(one.uid, [KnownFeed(one.author, [*one.blocks[:2], *one.blocks[3:]])])
    assert replay.parked == {behind[1]: None}
    assert values_of(replay) == ["x"]


def test_an_entry_that_does_not_name_the_one_before_it_has_no_place(writers: Any) -> None:
    one, two = writers(2)
    good = one.last
    stamp = one.stamp()
    stray = one.add(transaction_entry(Transaction(two.stamp(), (Op(Verb.SET, NAME, ("a",), "x"),))), stamp)
    one.last = good
    one.write("y")
    replay = Replay(one.uid, [one.feed])
    assert replay.strays == {stray: Stray("txn", "back is not the entry before it")}
    assert values_of(replay) == ["y"]


def test_blocks_of_others_are_passed_over(writers: Any) -> None:
    (one,) = writers(1)
    one.write("x")
    for block in (b"", b"\xff", encode_entry(Entry("note", 0, {})), encode_entry(Entry("txn", 0, {"db": bytes(32)}))):
        index = len(one.blocks)
        one.blocks.append(KnownBlock(index, leaf_node(index, block).hash, block))
    one.write("y")
    replay = Replay(one.uid, [one.feed])
    assert values_of(replay) == ["y"]
    assert [entry.reference.index for entry in replay.entries()] == [0, 1, 6]


@pytest.mark.parametrize("wrong", ["lam", "clock"])
def test_a_stamp_that_is_not_true_masks(writers: Any, wrong: str) -> None:
    (one,) = writers(1)
    one.write("x", reading=100)
    stamp = one.stamp()
    stamp = Stamp(stamp.database, stamp.back, (), stamp.lamport + (wrong == "lam"), 101 if wrong == "lam" else 100)
    masked = one.add(transaction_entry(Transaction(stamp, (Op(Verb.SET, NAME, ("a",), "y"),))), stamp)
    replay = Replay(one.uid, [one.feed])
    assert set(replay.masked) == {masked}
    assert values_of(replay) == ["x"]


def test_a_statement_of_another_cut_than_its_past_is_masked(writers: Any) -> None:
    one, two = writers(2)
    two.write("x", one)
    stamp = one.stamp(two)
    assert one.last is not None
    for cut in ((one.last[0],), (one.last[0], two.last[0])):
        other = one.fork()
        reference = other.add(state_root_entry(StateRoot(stamp, cut, bytes(32), 1)), stamp)
        replay = Replay(one.uid, [other.feed, two.feed])
        assert (reference in replay.masked) == (len(cut) == 1)


def forked(writers: Any) -> tuple[list[Writer], Reference]:
    """A device that went on in two ways from its second entry, and somebody who has seen the second way."""
    one, two, three = writers(3)
    two.write("x", one)
    first, second = two.fork(), two.fork()
    first.write("y")
    first.write("yy")
    at = second.write("z")
    three.write("w", second, path="b")
    return [one, first, second, three], at


def sided(ledger: Writer, *others: Writer) -> KnownFeed:
    """A feed as somebody has it who met this history of it first."""
    sides: list[Sequence[KnownBlock]] = []
    for other in others:
        pairs = zip(ledger.blocks, other.blocks, strict=False)
        start = next(place for place, (mine, its) in enumerate(pairs) if mine != its)
        sides.append(other.blocks[start:])
    return KnownFeed(ledger.author, ledger.blocks, tuple(sides))


def test_both_sides_of_a_fork_count_disputed_whichever_came_first(writers: Any) -> None:
    (one, first, second, three), at = forked(writers)
    seen = set()
    for ledger, other in ((first, second), (second, first)):
        feeds = [one.feed, sided(ledger, other), three.feed]
        for order in permutations(feeds):
            replay = Replay(one.uid, order)
            assert (replay.masked, replay.parked) == ({}, {})
            assert sorted(values_of(replay)) == ["w", "yy", "z"]
            seen.add((root_of(replay), tuple(replay.linear_order()), replay.heads()))
    assert len(seen) == 1
    uids = {line.uid: replay.is_disputed(line.number) for line in replay.lines}
    side = sha256(BRANCH_ID + at.feed + at.index.to_bytes(8, "big") + at.leaf_hash).digest()
    assert uids[side]
    assert not uids[at.feed]
    assert len(uids) == 5


def test_of_one_side_alone_nothing_is_known_of_a_fork(writers: Any) -> None:
    (one, first, _, three), at = forked(writers)
    replay = Replay(one.uid, [one.feed, first.feed, three.feed])
    assert list(replay.parked.values()) == [at]
    assert len(replay.lines) == 3
    assert not any(replay.is_disputed(line.number) for line in replay.lines)


def test_three_sides_that_part_one_after_the_other(writers: Any) -> None:
    one, two = writers(2)
    two.write("x", one)
    first = two.fork()
    first.write("y")
    second = two.fork()
    second.write("z")
    third = second.fork()
    second.write("zz")
    third.write("zzz")
    roots = set()
    for ledger, *others in permutations((first, second, third)):
        replay = Replay(one.uid, [one.feed, sided(ledger, *others)])
        assert sorted(values_of(replay)) == ["y", "zz", "zzz"]
        assert len(replay.lines) == 6
        roots.add(root_of(replay))
    assert len(roots) == 1


def test_a_side_without_entries_is_no_branch(writers: Any) -> None:
    one, two = writers(2)
    two.write("x", one)
    other = two.fork()
    two.write("y")
    block = b"no entry"
    other.blocks.append(KnownBlock(1, leaf_node(1, block).hash, block))
    replay = Replay(one.uid, [one.feed, sided(two, other)])
    assert values_of(replay) == ["y"]
    assert len(replay.lines) == 2


def test_a_side_that_waits_is_no_branch(writers: Any) -> None:
    one, two, three = writers(3)
    two.write("x", one)
    three.write("unseen", one, path="b")
    other = two.fork()
    two.write("y")
    other.write("z", three)
    other.write("zz")
    for sides in permutations((two, other)):
        replay = Replay(one.uid, [one.feed, sided(*sides)])
        assert values_of(replay) == ["y"]
        assert [replay.is_disputed(line.number) for line in replay.lines] == [False, False]
        assert len(replay.parked) == 2
        whole = Replay(one.uid, [one.feed, sided(*sides), three.feed])
        assert sorted(values_of(whole)) == ["unseen", "y", "zz"]
        assert len(whole.lines) == 5

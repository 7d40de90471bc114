"""The sentinel's bytes, and what a start makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.errors import MalformedError, StorageError
from ledger.merkle import EMPTY_TREE_HASH
from ledger.sentinel import (
    FILE_BYTES,
    MAX_HEADS,
    SLOT_BYTES,
    Reading,
    Reason,
    Sentinel,
    SentinelHead,
    Shorter,
    decide,
    encode_slot,
    parse_slot,
    read_slots,
    slot_offset,
    updated,
)
from ledger.sentinel_file import SentinelFile, machine_id
from ledger.store import Committed, CommittedLog, FeedChange, FeedKey, FeedState

STORE, HERE, THERE = bytes([1]) * 32, bytes([2]) * 32, bytes([3]) * 32
ROOT = sha256().digest()

digests = st.binary(min_size=32, max_size=32)
numbers = st.integers(0, 2**63 - 1)
heads = st.lists(
    st.builds(SentinelHead, digests.map(FeedKey), numbers, digests), max_size=MAX_HEADS, unique_by=lambda head: head.key
)
sentinels = st.builds(
    Sentinel,
    sequence=numbers,
    store=digests,
    machine=digests,
    feeds=st.integers(MAX_HEADS, 2**63 - 1),
    entries=numbers,
    log_size=numbers,
    log_root=digests,
    heads=heads.map(tuple),
)


def sentinel(sequence: int = 4, *, entries: int = 10, machine: bytes = HERE, log_size: int = 7) -> Sentinel:
    head = SentinelHead(FeedKey(bytes(32)), entries, bytes([9]) * 32)
    return Sentinel(sequence, STORE, machine, 1, entries, log_size, ROOT, (head,))


def file_of(*slots: Sentinel) -> bytes:
    data = bytearray(FILE_BYTES)
    for slot in slots:
        data[slot_offset(slot.sequence) : slot_offset(slot.sequence) + SLOT_BYTES] = encode_slot(slot)
    return bytes(data)


WHOLE = file_of(sentinel(4, entries=9), sentinel(5, entries=10))


# --- bytes ----------------------------------------------------------------------------------------------------------


@given(sentinels)
def test_a_slot_comes_back(found: Sentinel) -> None:
    assert parse_slot(encode_slot(found)) == found


@given(st.binary(max_size=SLOT_BYTES + 1))
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_slot(data)


@pytest.mark.parametrize(
    "change",
    [
        {"store": b"short"},
        {"machine": bytes(33)},
        {"log_root": b""},
        {"entries": -1},
        {"sequence": 2**63},
        {"heads": (SentinelHead(FeedKey(bytes(32)), 1, bytes(31)),)},
        {"heads": (SentinelHead(FeedKey(bytes(32)), 1, bytes(32)),) * 2, "feeds": 2},
    ],
)
def test_what_no_sentinel_can_be(change: dict[str, object]) -> None:
    with pytest.raises(MalformedError):
        replace(sentinel(), **change)  # type: ignore[arg-type]


def test_every_flipped_byte_leaves_the_other_slot_and_is_named() -> None:
    """And none of them passes: with the slot that is left, the store as it is has to be judged with suspicion."""
    now = sentinel(6, entries=10)
    for position in range(FILE_BYTES):
        data = bytearray(WHOLE)
        data[position] ^= 1 << position % 8
        reading = read_slots(bytes(data), STORE)
        assert reading.damage == "one slot of the sentinel is torn or altered"
        assert reading.newest is not None
        kept = 5 if position < SLOT_BYTES else 4
        assert reading.newest.sequence == kept
        decision = decide(reading, HERE, now, [], ROOT, active=now.feeds)
        assert decision.in_new_feeds == (reading.newest.entries == now.entries)
        assert "torn or altered" in decision.detail


@pytest.mark.parametrize("size", [0, 1, SLOT_BYTES, FILE_BYTES - 1, FILE_BYTES + 1])
def test_a_file_of_another_size(size: int) -> None:
    reading = read_slots((WHOLE + b"\0")[:size], STORE)
    assert reading.newest is None
    assert f"{size} bytes" in str(reading.damage)


def test_no_file_is_no_damage() -> None:
    assert read_slots(None, STORE) == Reading(None, None)


def test_the_newer_slot_decides() -> None:
    assert read_slots(WHOLE, STORE) == Reading(sentinel(5, entries=10), None)


def test_another_stores_slots_are_none() -> None:
    reading = read_slots(WHOLE, THERE)
    assert (reading.newest, reading.damage is not None) == (None, True)


def test_a_slot_in_the_others_place_is_none() -> None:
    swapped = WHOLE[SLOT_BYTES:] + WHOLE[:SLOT_BYTES]
    assert read_slots(swapped, STORE).newest is None


def test_slots_that_do_not_follow_each_other() -> None:
    reading = read_slots(file_of(sentinel(2), sentinel(7)), STORE)
    assert reading.newest == sentinel(7)
    assert reading.damage == "one slot of the sentinel is older than it can be"


# --- the decision ---------------------------------------------------------------------------------------------------

INTACT = Reading(sentinel(5), None)
TORN = Reading(sentinel(5), "one slot of the sentinel is torn or altered")
GONE = Reading(None, None)
DAMAGED = Reading(None, "both slots")
EMPTY = Sentinel(0, STORE, HERE, 0, 0, 1, ROOT, ())

DECISIONS = [
    (INTACT, HERE, 10, 7, Reason.SAME),
    (INTACT, HERE, 11, 7, Reason.SAME),
    (INTACT, HERE, 10, 8, Reason.SAME),
    (INTACT, HERE, 9, 7, Reason.BEHIND),
    (INTACT, HERE, 10, 6, Reason.BEHIND),
    (INTACT, HERE, 11, 6, Reason.BEHIND),
    (INTACT, THERE, 10, 7, Reason.OTHER_MACHINE),
    (INTACT, THERE, 9, 7, Reason.OTHER_MACHINE),
    (INTACT, THERE, 11, 7, Reason.OTHER_MACHINE),
    (TORN, HERE, 9, 7, Reason.BEHIND),
    (TORN, HERE, 10, 7, Reason.DAMAGED),
    (TORN, HERE, 11, 7, Reason.SAME),
    (TORN, THERE, 11, 7, Reason.OTHER_MACHINE),
    *((GONE, machine, entries, 7, Reason.MISSING) for machine in (HERE, THERE) for entries in (9, 10, 11)),
    *((DAMAGED, machine, entries, 7, Reason.DAMAGED) for machine in (HERE, THERE) for entries in (9, 10, 11)),
]


@pytest.mark.parametrize(("reading", "machine", "entries", "log_size", "reason"), DECISIONS)
def test_decisions(reading: Reading, machine: bytes, entries: int, log_size: int, reason: Reason) -> None:
    now = sentinel(6, entries=entries, log_size=log_size, machine=machine)
    short = [Shorter(FeedKey(bytes(32)), entries, 10)] if entries < 10 else []
    found = decide(reading, machine, now, short, ROOT, active=now.feeds)
    assert found.reason is reason
    assert found.in_new_feeds == (reason is not Reason.SAME)
    assert found.detail


@pytest.mark.parametrize("reading", [GONE, DAMAGED])
@pytest.mark.parametrize("now", [EMPTY, sentinel(6, entries=12)])
def test_a_store_without_feeds_to_sign_has_nothing_to_lose(reading: Reading, now: Sentinel) -> None:
    """It is empty, or all of its feeds are retired."""
    assert decide(reading, HERE, now, [], ROOT, active=0).reason is Reason.NEW


@pytest.mark.parametrize(
    ("shorter", "root"),
    [([Shorter(FeedKey(bytes(32)), 12, 10, same_history=False)], ROOT), ([], bytes(32))],
)
def test_another_history_of_the_same_length(shorter: list[Shorter], root: bytes) -> None:
    found = decide(INTACT, HERE, sentinel(6, entries=12), shorter, root, active=1)
    assert (found.reason, found.in_new_feeds) == (Reason.REWRITTEN, True)


def test_one_feed_shorter_and_another_longer_is_behind() -> None:
    found = decide(INTACT, HERE, sentinel(6, entries=12), [Shorter(FeedKey(bytes(32)), 8, 10)], ROOT, active=1)
    assert found.reason is Reason.BEHIND
    assert "2 entries" in found.detail


# --- following the store --------------------------------------------------------------------------------------------


def feed(number: int, length: int, *, local: bool = True) -> FeedState:
    from ledger.merkle import TreeBuilder

    tree = TreeBuilder()
    tree.append_many([b"block"] * length)
    return FeedState(FeedKey(bytes([number]) * 32), b"", length, 5 * length, tuple(tree.roots), local)


def grown(number: int, start: int, length: int, *, local: bool = True, created: bool = False) -> Committed:
    return Committed((FeedChange(start, feed(number, length, local=local), created),), None)


NOTHING = Sentinel(0, STORE, HERE, 0, 0, 0, ROOT, ())


def test_what_was_committed_is_added() -> None:
    found = updated(NOTHING, grown(1, 0, 3, created=True))
    found = updated(found, grown(2, 0, 1, created=True))
    found = updated(found, grown(1, 3, 5))
    assert (found.sequence, found.feeds, found.entries) == (3, 2, 6)
    assert [(head.key[0], head.length) for head in found.heads] == [(1, 5), (2, 1)]
    assert updated(found, Committed((), CommittedLog(4, bytes(32)))).log_size == 4


def test_the_order_in_which_it_is_told_does_not_matter() -> None:
    parts = [
        grown(1, 0, 2, created=True),
        grown(1, 2, 5),
        Committed((), CommittedLog(4, HERE)),
        Committed((), CommittedLog(9, THERE)),
    ]
    one, other = NOTHING, NOTHING
    for part in parts:
        one = updated(one, part)
    for part in reversed(parts):
        other = updated(other, part)
    assert one == other


def test_what_a_process_that_started_has_described_is_not_counted_when_it_is_told() -> None:
    parts = [grown(1, 0, 2, created=True), grown(1, 2, 5), grown(2, 0, 0, created=True), grown(2, 0, 1)]
    found = NOTHING
    for part in parts:
        found = updated(found, part)
    for part in parts:
        again = updated(found, part)
        assert (again.feeds, again.entries, set(again.heads)) == (2, 6, set(found.heads))


def test_feeds_of_others_do_not_count() -> None:
    found = updated(NOTHING, grown(1, 0, 3, local=False, created=True))
    assert (found.feeds, found.entries, found.heads) == (0, 0, ())


def test_the_feeds_that_were_written_last_are_named() -> None:
    found = NOTHING
    for number in range(1, MAX_HEADS + 5):
        found = updated(found, grown(number, 0, 1, created=True))
    assert [head.key[0] for head in found.heads] == list(range(MAX_HEADS + 4, 4, -1))
    assert found.feeds == MAX_HEADS + 4


def test_an_empty_feed_has_the_empty_tree() -> None:
    assert updated(NOTHING, grown(1, 0, 0, created=True)).heads[0].tree_hash == EMPTY_TREE_HASH


# --- the file -------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Iterator[SentinelFile]:
    with closing(SentinelFile(tmp_path / "deep" / "one.sentinel", STORE)) as opened:
        yield opened


def test_slots_are_written_in_turn(file: SentinelFile) -> None:
    file.begin(NOTHING)
    for length in range(1, 6):
        before = file.path.read_bytes()
        file.add(grown(1, length - 1, length, created=length == 1))
        after = file.path.read_bytes()
        changed = {
            place
            for place in (0, 1)
            if before[place * SLOT_BYTES :][:SLOT_BYTES] != after[place * SLOT_BYTES :][:SLOT_BYTES]
        }
        assert len(changed) == 1
        found = file.read()
        assert (found.damage, found.newest and found.newest.entries) == (None, length)


def test_two_processes_add_to_one_file(file: SentinelFile) -> None:
    file.begin(NOTHING)
    with closing(SentinelFile(file.path, STORE)) as other:
        file.add(grown(1, 0, 3, created=True))
        other.add(grown(2, 0, 4, created=True))
        file.add(grown(1, 3, 4))
        newest = other.read().newest
    assert newest is not None
    assert (newest.feeds, newest.entries) == (2, 8)


def test_what_is_not_this_nodes_does_not_touch_the_file(file: SentinelFile) -> None:
    file.begin(NOTHING)
    before = file.path.read_bytes()
    file.add(grown(1, 0, 3, local=False, created=True))
    file.add(Committed((), None))
    assert file.path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", bytes(FILE_BYTES), b"x" * FILE_BYTES])
def test_a_file_that_was_damaged_meanwhile_is_not_built_on(file: SentinelFile, content: bytes) -> None:
    file.begin(NOTHING)
    file.path.write_bytes(content)
    with pytest.raises(StorageError, match="damaged"):
        file.add(grown(1, 0, 3, created=True))
    assert file.path.read_bytes() == content
    file.begin(NOTHING)
    assert file.read().damage is None


def test_a_file_that_cannot_be_written(file: SentinelFile) -> None:
    with pytest.raises(StorageError, match="cannot write the sentinel"):
        file.add(grown(1, 0, 3, created=True))
    assert file.read() == Reading(None, None)


def test_a_directory_in_its_place(tmp_path: Path) -> None:
    with closing(SentinelFile(tmp_path, STORE)) as file:
        with pytest.raises(StorageError):
            file.read()
        with pytest.raises(StorageError):
            file.begin(NOTHING)


def test_a_machine_calls_itself_something() -> None:
    assert machine_id() == machine_id() != b""

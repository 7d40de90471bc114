"""The change feed: each change once, in order, with what was there before and after, from wherever one begins."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from identity.errors import ConflictError, MalformedError
from identity.event import LastGood
from identity.history import RevocationReason, build_revoke_device, fold
from ledger.entry import encode_entry
from ledger.feed import FeedWriter
from ledger.identities import add_events
from ledger.store import stored_tree_hash
from ledger.values import Reference
from sync.changefeed import START, ChangeKind, Position, change_kind, event_json, event_line, parse_position
from sync.changes import Changes, MissingDocument
from sync.storage.changefeed import MAX_EVENTS
from sync.storage.scan import iterate
from sync.transaction import DocumentId, Op, Transaction, Verb, transaction_entry
from sync.view import View


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """Where the store of a replica is: in a file of its own, or on a server."""
    return "" if request.param == "sqlite" else str(request.getfixturevalue("empty_postgres"))


def events_of(replica: Any, cursor: str = START, *, limit: int = MAX_EVENTS, **asked: Any) -> list[Any]:
    """All events behind a cursor, page by page."""
    found: list[Any] = []
    while True:
        page = replica.db.changes(cursor, limit=limit, **asked)
        found += page.events
        cursor = page.cursor
        if not page.more:
            assert replica.db.changes(cursor).events == ()
            return found


def replayed(events: list[Any], copy: dict[DocumentId, Any] | None = None) -> dict[DocumentId, Any]:
    """A copy of the documents, kept by events alone. Each has to fit what the copy holds."""
    copy = {} if copy is None else copy
    for event in events:
        assert copy.get(event.document) == event.old
        if event.new is None:
            copy.pop(event.document, None)
        else:
            copy[event.document] = event.new
    return copy


def shown(replica: Any, *collections: str) -> dict[DocumentId, Any]:
    """What a reader finds."""
    with replica.db.read() as reader:
        return {state.name: state.view.fields for one in collections for state in iterate(reader, one)}


def commit(replica: Any, note: str = "", **wishes: Any) -> Any:
    changes = Changes(note=note)
    for wish, arguments in wishes.items():
        getattr(changes, wish.rstrip("_"))(*arguments)
    return replica.db.commit(changes)


def revoke(victim: Any, teller: Any, length: int) -> None:
    """The owner ends a device, vouching for its feed up to a length, and another one tells the database."""
    world = victim.world
    with victim.store.read() as tx:
        good = {victim.feed: LastGood(length, stored_tree_hash(tx, victim.feed, length))}
    event = build_revoke_device(
        fold(world.events),
        device=victim.device.public_key,
        last_good=good,
        reason=RevocationReason.STOLEN,
        time_ms=1_000,
    )
    world.events.append(world.sign(event, world.root))
    with teller.store.write() as tx:
        add_events(tx, world.identity, world.events)
    teller.db.introduce()


# --- what an event says


def test_events_in_the_life_of_a_document(world: Any, url: str) -> None:
    laptop = world.replica("laptop", url)
    first = commit(laptop, "opened", put=("accounts", "1", {"owner": "A", "balance": Decimal("12.30")}))
    commit(laptop, patch=("accounts", "1", {"owner": "B"}))
    commit(laptop, delete=("accounts", "1"))
    commit(laptop, undelete=("accounts", "1"))
    commit(laptop, unset=("accounts", "1", "owner"))
    events = events_of(laptop)
    assert [event.kind.value for event in events] == ["created", "changed", "deleted", "undeleted", "changed"]
    opened = events[0]
    assert opened.transaction == first.reference
    assert opened.etag == first.etags[DocumentId("accounts", "1")]
    assert (opened.old, opened.new) == (None, {"owner": "A", "balance": {"$dec": "12.30"}})
    assert (opened.note, opened.database, opened.identity) == ("opened", world.uid, world.identity)
    assert opened.device == laptop.device.public_key
    assert opened.claimed_ms == world.clock_ms
    assert (events[2].new, events[2].etag) == (None, "")
    assert [event.new for event in events[3:]] == [
        {"owner": "B", "balance": {"$dec": "12.30"}},
        {"balance": {"$dec": "12.30"}},
    ]
    assert not any(event.made_anew or event.conflicts or event.contests for event in events)
    assert replayed(events) == shown(laptop, "accounts")


def test_one_event_for_each_document_of_a_transaction(world: Any, url: str) -> None:
    laptop = world.replica("laptop", url)
    changes = Changes(note="both")
    changes.put("accounts", "1", {"a": 1})
    changes.put("owners", "2", {"b": 2})
    changes.increment("accounts", "1", "n", 3)
    changes.patch("accounts", "1", {"a": 2})
    laptop.db.commit(changes)
    events = events_of(laptop)
    assert {event.document: event.new for event in events} == {
        ("accounts", "1"): {"a": 2, "n": 3},
        ("owners", "2"): {"b": 2},
    }
    assert len({event.cursor.rpartition(".")[0] for event in events}) == 1
    assert {event.note for event in events} == {"both"}


def test_what_is_so_already_is_no_event(world: Any) -> None:
    laptop = world.replica("laptop")
    commit(laptop, put=("accounts", "1", {"a": 1}))
    before = len(events_of(laptop))
    commit(laptop, unset=("accounts", "1", "nothing"))
    commit(laptop, remove=("accounts", "1", "tags", "x"))
    commit(laptop, add=("accounts", "2", "tags", "x"))
    changes = Changes()
    changes.add("accounts", "2", "tags", "y")
    changes.remove("accounts", "2", "tags", "y")
    laptop.db.commit(changes)
    events = events_of(laptop)
    assert [event.document.key for event in events[before:]] == ["2"]


def test_siblings_and_contests_are_told_on_every_replica(world: Any, url: str) -> None:
    laptop, phone = world.replica("laptop", url), world.replica("phone")
    etag = commit(laptop, put=("accounts", "1", {"owner": "A"})).etags["accounts", "1"]
    world.exchange()
    guarded = []
    for replica in (laptop, phone):
        changes = Changes()
        changes.put("accounts", "1", {"owner": replica.name}, if_match=etag)
        guarded.append(replica.db.commit(changes).reference)
    world.exchange()
    for replica in (laptop, phone):
        last = events_of(replica)[-1]
        assert [(one.kind.value, one.path) for one in last.conflicts] == [("siblings", "/owner")]
        assert {reference for contest in last.contests for reference in contest} == set(guarded)
        assert replayed(events_of(replica)) == shown(replica, "accounts")


def test_a_contest_is_told_where_only_the_condition_was_about_the_document(world: Any) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    etag = commit(laptop, put=("accounts", "1", {"owner": "A"})).etags["accounts", "1"]
    world.exchange()
    commit(laptop, put=("accounts", "1", {"owner": "B"}))
    changes = Changes()
    changes.require("accounts", "1", etag)
    changes.put("accounts", "1", {"owner": "A", "seen": True})
    phone.db.commit(changes)
    world.exchange()
    (told,) = [event for event in events_of(laptop) if event.contests]
    assert told.document == ("accounts", "1")
    assert told.kind is ChangeKind.CHANGED


def test_a_purge(world: Any) -> None:
    laptop = world.replica("laptop")
    commit(laptop, put=("accounts", "1", {"owner": "A"}))
    commit(laptop, delete=("accounts", "1"))
    changes = Changes()
    changes.do(Op(Verb.PURGE, DocumentId("accounts", "1"), (), None))
    laptop.db.commit(changes)
    events = events_of(laptop)
    assert [(event.kind.value, event.old, event.new) for event in events[1:]] == [
        ("deleted", {"owner": "A"}, None),
        ("purged", None, None),
    ]


def state(*, there: bool, deleted: bool = False, purged: bool = False) -> View:
    cell: Any = object()
    return View((cell,) if there else (), deleted=deleted, purged=purged)


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        (None, state(there=True), "created"),
        (state(there=False), state(there=True), "created"),
        (state(there=True), state(there=True), "changed"),
        (None, None, "changed"),
        (None, state(there=True, deleted=True), "changed"),
        (state(there=True, deleted=True), state(there=True, deleted=True), "changed"),
        (state(there=True), state(there=True, deleted=True), "deleted"),
        (state(there=True), state(there=False), "deleted"),
        (state(there=True), None, "deleted"),
        (state(there=True, deleted=True), state(there=True), "undeleted"),
        (state(there=True), state(there=False, deleted=True, purged=True), "purged"),
        (state(there=True, deleted=True), state(there=False, deleted=True, purged=True), "purged"),
        (None, state(there=False, deleted=True, purged=True), "purged"),
        (state(there=False, deleted=True, purged=True), state(there=False, deleted=True, purged=True), "changed"),
    ],
)
def test_kinds(old: View | None, new: View | None, kind: str) -> None:
    assert change_kind(old, new).value == kind


# --- cursors


def test_pages_never_part_a_transaction(world: Any, url: str) -> None:
    laptop = world.replica("laptop", url)
    for number in range(6):
        changes = Changes()
        for key in range(number + 1):
            changes.put("accounts", f"{key}", {"n": number})
        laptop.db.commit(changes)
    everything = events_of(laptop)
    for limit in (1, 2, 4, 100):
        cursor, pages = START, []
        while not pages or pages[-1].more:
            pages.append(laptop.db.changes(cursor, limit=limit))
            cursor = pages[-1].cursor
        assert [event for page in pages for event in page.events] == everything
        for page in pages[:-1]:
            assert len({event.transaction for event in page.events[limit - 1 :]}) <= 1
            assert page.events[-1].transaction not in {event.transaction for event in pages[-1].events}


def test_from_every_cursor_the_rest_follows_exactly(world: Any, url: str) -> None:
    """Those of events within a transaction too."""
    laptop, phone = world.replica("laptop", url), world.replica("phone")
    chance = random.Random(3)
    for _ in range(12):
        for replica in (laptop, phone):
            do_something(replica, chance)
        if chance.random() < 0.3:
            world.exchange()
    world.exchange()
    for replica in (laptop, phone):
        everything = events_of(replica)
        assert len(everything) > 20
        for number, event in enumerate(everything, 1):
            assert events_of(replica, event.cursor, limit=7) == everything[number:]
            assert list(replica.db.changes(event.cursor, limit=1).events)[:1] == everything[number : number + 1]


@pytest.mark.parametrize(
    "cursor",
    [
        *[
            "",
            "x",
            "1",
            "00",
            "-1",
            "1.",
            "1.00",
            f"1.{'0' * 15}",
            f"1.{'0' * 16}.",
            f"1.{'0' * 16}.0",
            f"0.{'0' * 16}",
        ],
        *[f"01.{'0' * 16}", f"1.{'A' * 16}", f"1.{'0' * 16}.1.1", f" 1.{'0' * 16}", f"{'9' * 19}.{'0' * 16}"],
        "٣." + "0" * 16,
    ],
)
def test_cursors_that_are_none(world: Any, cursor: str) -> None:
    laptop = world.replica("laptop")
    with pytest.raises(MalformedError, match="cursor"):
        laptop.db.changes(cursor)


def test_a_cursor_is_written_as_it_is_read() -> None:
    for position in (Position(0, b""), Position(7, b"\1" * 32), Position(7, b"\1" * 32, 3)):
        read = parse_position(position.text())
        assert read.text() == position.text()
        assert read.stands_on(position.leaf)
    assert not Position(7, b"\1" * 32).stands_on(b"\2" * 32)


def test_a_cursor_of_another_store_is_refused(world: Any) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    commit(laptop, put=("accounts", "1", {"a": 1}))
    commit(phone, put=("accounts", "2", {"a": 1}))
    cursor = laptop.db.changes().cursor
    with pytest.raises(ConflictError, match="another store") as found:
        phone.db.changes(cursor)
    assert "empty copy" in found.value.hint


def test_a_cursor_of_tables_that_were_made_anew_is_refused(world: Any) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    commit(laptop, put=("accounts", "1", {"a": 1}))
    commit(phone, put=("accounts", "2", {"a": 1}))
    world.exchange()
    cursor = laptop.db.changes().cursor
    laptop.db.rebuild()
    with pytest.raises(ConflictError):
        laptop.db.changes(cursor)
    assert replayed(events_of(laptop)) == shown(laptop, "accounts")


@pytest.mark.parametrize("limit", [0, -1, MAX_EVENTS + 1])
def test_a_page_has_a_size(world: Any, limit: int) -> None:
    laptop = world.replica("laptop")
    with pytest.raises(MalformedError, match="a page"):
        laptop.db.changes(limit=limit)


def test_filters(world: Any) -> None:
    laptop = world.replica("laptop")
    commit(laptop, put=("accounts", "1", {"a": 1, "m": {"x": 1, "y": 2}}))
    commit(laptop, put=("owners", "1", {"a": 1}))
    commit(laptop, patch=("accounts", "1", {"b": 1}))
    commit(laptop, patch=("accounts", "1", {"m": {"x": 2, "y": 2}}))
    commit(laptop, delete=("accounts", "1"))
    assert [event.document.collection for event in events_of(laptop, collections=["owners"])] == ["owners"]
    found = events_of(laptop, collections=["accounts"], fields=[("a",), ("m", "x")])
    assert [(event.old, event.new) for event in found] == [
        (None, {"a": 1, "m": {"x": 1}}),
        ({"a": 1, "m": {"x": 1}}, {"a": 1, "m": {"x": 2}}),
        ({"a": 1, "m": {"x": 2}}, None),
    ]
    page = laptop.db.changes(collections=["nothing"])
    assert page.events == ()
    assert page.cursor == laptop.db.changes().cursor, "what was left out is passed"


# --- histories


def do_something(replica: Any, chance: random.Random) -> None:
    """One transaction of one or more documents."""
    changes = Changes()
    for _ in range(chance.choice([1, 1, 2, 4])):
        key = str(chance.randrange(5))
        match chance.randrange(7):
            case 0 | 1:
                changes.put("accounts", key, {"owner": chance.choice("ABC"), "n": chance.randrange(3)})
            case 2:
                changes.patch("accounts", key, {"owner": chance.choice("ABC")})
            case 3:
                changes.increment("accounts", key, "visits", chance.choice([1, Decimal("0.50")]))
            case 4:
                changes.add("accounts", key, "tags", chance.choice("xyz"))
            case 5:
                changes.unset("accounts", key, chance.choice(["owner", "visits", "tags"]))
            case 6:
                changes.delete("accounts", key) if chance.random() < 0.7 else changes.undelete("accounts", key)
    try:
        replica.db.commit(changes)
    except MissingDocument:
        replica.put("accounts", "5", n=chance.randrange(100))


@pytest.mark.parametrize("seed", range(6))
def test_a_copy_that_is_kept_by_events_is_the_database(make_world: Any, tmp_path: Path, seed: int) -> None:
    """Two devices apart and together, one of them revoked for a part of what it wrote; copies that read whenever they
    like, in pages of any size, and stores that are closed and opened in between.
    """
    chance = random.Random(seed)
    world = make_world(tmp_path, "bank")
    laptop, phone = world.replica("laptop"), world.replica("phone")
    copies: dict[str, tuple[dict[DocumentId, Any], str]] = {"laptop": ({}, START), "phone": ({}, START)}
    heads = 0

    def read_on(replica: Any, pages: int) -> None:
        copy, cursor = copies[replica.name]
        for _ in range(pages):
            page = replica.db.changes(cursor, limit=chance.choice([1, 2, 5, 50]))
            replayed(list(page.events), copy)
            cursor = page.cursor
        copies[replica.name] = copy, cursor

    for turn in range(25):
        replica = chance.choice([laptop, phone])
        if turn != 18 and (replica is laptop or turn < 18):
            do_something(replica, chance)
        if turn == 8:
            with phone.store.read() as tx:
                heads = tx.feed(phone.feed).length
        if turn == 18:
            revoke(phone, laptop, heads)
        if chance.random() < 0.3:
            world.exchange()
        if chance.random() < 0.3:
            read_on(replica, chance.randrange(3))
        if chance.random() < 0.15:
            replica.close()
            replica.reopen()
    world.exchange()
    for replica in (laptop, phone):
        assert any(event.made_anew for event in events_of(replica))
        copy, cursor = copies[replica.name]
        replayed(events_of(replica, cursor), copy)
        assert copy == shown(replica, "accounts")
        assert replayed(events_of(replica)) == copy
    world.close()


def test_a_revocation_is_told_document_by_document(world: Any, url: str) -> None:
    laptop, phone = world.replica("laptop", url), world.replica("phone")
    commit(phone, put=("accounts", "1", {"owner": "A"}))
    with phone.store.read() as tx:
        good = tx.feed(phone.feed).length
    for key in "123":
        commit(phone, put=("accounts", key, {"owner": "thief"}))
    world.exchange()
    cursor = laptop.db.changes(limit=MAX_EVENTS).cursor
    revoke(phone, laptop, good)
    page = laptop.db.changes(cursor, limit=1)
    assert page.more, "what was made anew need not be told at once"
    events = events_of(laptop, cursor, limit=1)
    assert [(event.document.key, event.kind.value) for event in events] == [
        ("1", "changed"),
        ("2", "deleted"),
        ("3", "deleted"),
    ]
    assert all(event.made_anew and event.old == {"owner": "thief"} for event in events)
    assert len({event.transaction for event in events}) == 1
    assert events[0].device == laptop.device.public_key
    assert replayed(events_of(laptop)) == shown(laptop, "accounts") == {("accounts", "1"): {"owner": "A"}}
    commit(phone, put=("accounts", "4", {"owner": "thief"}))
    laptop.receive(phone)
    assert events_of(laptop, events[-1].cursor) == [], "what does not count is no event"


def test_a_masked_transaction_is_no_event(world: Any) -> None:
    """Here one that breaks the schema that its author had seen."""
    laptop, phone = world.replica("laptop"), world.replica("phone")
    laptop.put("$schema", "accounts", schema={"type": "object", "properties": {"n": {"type": "integer"}}})
    world.exchange()
    stamps: list[Any] = []
    phone.db.write(lambda writing: stamps.append(writing.stamp()))
    ops = tuple(Op(Verb.SET, DocumentId("accounts", key), ("n",), "no number") for key in "12")
    FeedWriter(phone.store, phone.feed, phone.device).append(
        [encode_entry(transaction_entry(Transaction(stamps[0], ops)))]
    )
    before = {replica.name: events_of(replica) for replica in (laptop, phone)}
    world.exchange()
    phone.db.take_new()
    laptop.put("accounts", "1", n=1)
    world.exchange()
    for replica in (laptop, phone):
        events = events_of(replica)[len(before[replica.name]) :]
        assert [event.new for event in events] == [{"n": 1}]


def test_other_databases_of_the_store_are_not_told_of(make_world: Any, tmp_path: Path, postgres_url: str) -> None:
    first, second = make_world(tmp_path, "first"), make_world(tmp_path, "second")
    one, other = first.replica("one", postgres_url), second.replica("other", postgres_url)
    for number in range(4):
        for replica in (one, other):
            changes = Changes()
            for key in range(3):
                changes.put("accounts", f"{key}", {"name": replica.name, "n": number})
            replica.db.commit(changes)
    for replica in (one, other):
        events = events_of(replica, limit=2)
        assert len(events) == 12
        assert replayed(events) == shown(replica, "accounts")
        assert all(event.new["name"] == replica.name for event in events)
    with pytest.raises(ConflictError):
        other.db.changes(one.db.changes(limit=1).cursor)
    first.close()
    second.close()


def test_a_counter_with_many_increments_is_followed(world: Any) -> None:
    laptop = world.replica("laptop")
    changes = Changes()
    for _ in range(300):
        changes.increment("accounts", "1", "n", Decimal("0.10"))
    laptop.db.commit(changes)
    for number in range(20):
        commit(laptop, increment=("accounts", "1", "n", number))
    commit(laptop, unset=("accounts", "1", "n"))
    commit(laptop, increment=("accounts", "1", "n", 5))
    events = events_of(laptop)
    assert [event.new for event in events][-3:] == [{"n": {"$dec": "220.00"}}, None, {"n": 5}]
    assert replayed(events) == shown(laptop, "accounts")


# --- following


def test_following_wakes_up_for_what_is_written(world: Any) -> None:
    laptop = world.replica("laptop")
    laptop.put("accounts", "0", n=0)
    met: list[Any] = []
    waiting = threading.Event()

    def follow() -> None:
        for page in laptop.db.follow(poll_s=60, timeout_s=60):
            met.extend(page.events)
            waiting.set()
            if len(met) == 3:
                return

    follower = threading.Thread(target=follow)
    follower.start()
    assert waiting.wait(30)
    began = time.monotonic()
    for number in (1, 2):
        laptop.put("accounts", str(number), n=number)
    follower.join(30)
    assert not follower.is_alive()
    assert time.monotonic() - began < 30
    assert [event.document.key for event in met] == ["0", "1", "2"]


def test_following_ends_when_nothing_comes(world: Any) -> None:
    laptop = world.replica("laptop")
    laptop.put("accounts", "0", n=0)
    pages = list(laptop.db.follow(poll_s=0.01, timeout_s=0.05))
    assert [event.document.key for page in pages for event in page.events] == ["0"]
    assert list(laptop.db.follow(pages[-1].cursor, timeout_s=0)) == []


def test_following_finds_what_another_process_wrote(world: Any) -> None:
    """Another object stands for it: it tells nobody."""
    from sync.database import Database

    laptop = world.replica("laptop")
    reading = Database(laptop.store, world.uid, world.now_ms)
    following = reading.follow(poll_s=0.01, timeout_s=30)
    laptop.put("accounts", "0", n=0)
    events = next(following).events or next(following).events
    assert [event.document.key for event in events] == ["0"]
    laptop.put("accounts", "1", n=0)
    assert [event.document.key for event in next(following).events] == ["1"]


# --- JSON


def test_lines(world: Any) -> None:
    laptop = world.replica("laptop")
    commit(laptop, "line\n\u2028 ends", put=("accounts", "1\u3000", {"x": b"\0\xff", "d": Decimal("1.50"), "é": "😀"}))
    (event,) = events_of(laptop)
    line = event_line(event)
    assert len(line.splitlines()) == 1
    read: Mapping[str, Any] = json.loads(line)
    assert read == event_json(event)
    assert (read["v"], read["kind"], read["change"], read["old"]) == (1, "change", "created", None)
    assert read["new"] == {"x": {"$hex": "00ff"}, "d": {"$dec": "1.50"}, "é": "😀"}
    assert (read["collection"], read["key"], read["note"]) == ("accounts", "1\u3000", "line\n\u2028 ends")
    assert read["claimed"] == "2027-01-15T08:00:00.000Z"
    assert parse_position(read["cursor"]).place > 0
    assert isinstance(event.transaction, Reference)
    commit(laptop, delete=("accounts", "1\u3000"))
    last = event_json(events_of(laptop)[-1])
    assert (last["change"], last["new"], last["etag"]) == ("deleted", None, None)

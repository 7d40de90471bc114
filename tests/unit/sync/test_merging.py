"""What replicas make of the same entries, whatever came first and whoever else is at work in their stores."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from io import BytesIO
from itertools import pairwise
from typing import Any

import pytest

from identity.errors import MalformedError, RefusedError
from identity.event import LastGood
from identity.history import RevocationReason, build_revoke_device, fold
from ledger.entry import encode_entry
from ledger.feed import FeedWriter, create_feed
from ledger.identities import add_events
from ledger.transfer import ingest_feed
from sync.changes import Changes
from sync.database import Database, found, register_database
from sync.storage.branches import Branch
from sync.storage.projection import Projection, feed_name
from sync.transaction import DocumentId, Founding, Op, Transaction, Verb, database_id, transaction_entry


def give(source: Any, target: Any) -> None:
    """Let one have the other's own feed, and not look at it yet."""
    ingest_feed(target.store, BytesIO(source.exported(source.feed)))


def revoke(world: Any, victim: Any, teller: Any, last_good: Mapping[bytes, LastGood]) -> None:
    """The owner ends a device, and another device tells the database."""
    event = build_revoke_device(
        fold(world.events),
        device=victim.device.public_key,
        last_good=last_good,
        reason=RevocationReason.STOLEN,
        time_ms=1_000,
    )
    world.events.append(world.sign(event, world.root))
    with teller.store.write() as tx:
        add_events(tx, world.identity, world.events)
    teller.db.introduce()


def etags(name: DocumentId, *replicas: Any) -> set[str]:
    return {replica.db.get(*name).etag for replica in replicas}


def test_what_an_entry_had_seen_is_known_before_it_is_written(world: Any) -> None:
    """All is taken in at once: the past of an entry that is not the newest of its feed stands in no row yet."""
    laptop, phone, tablet = (world.replica(name) for name in ("laptop", "phone", "tablet"))
    phone.put("c", "1", x=1)
    laptop.receive(phone)
    laptop.put("c", "2", x=2)
    tablet.receive(laptop, phone)
    tablet.put("c", "1", x=3)
    laptop.put("c", "3", x=2)
    late = world.newcomer("late")
    for source in (laptop, phone, tablet):
        give(source, late)
    late.db.take_new()
    assert late.db.get("c", "1").view.conflicts == ()
    assert len(etags(DocumentId("c", "1"), late, tablet)) == 1


def contests(replica: Any) -> set[tuple[bytes, bytes]]:
    with replica.store.read() as tx:
        leaves = dict(tx.fetch_all("SELECT place, leaf FROM database_txn"))
        return {
            (leaves[one], leaves[other]) for one, other in tx.fetch_all("SELECT guarded, other FROM database_contest")
        }


def test_feeds_that_wait_for_each_other_are_looked_at_when_they_can_go_on(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of a chain comes first: looking at all feeds for each that goes on would take the square of them."""
    chain = [world.replica(str(number)) for number in range(8)]
    for before, replica in pairwise(chain):
        replica.receive(before)
        replica.put("c", replica.name, x=1)
    late = world.newcomer("late")
    for source in reversed(chain):
        give(source, late)
    looked_at: list[bytes] = []
    advance = Projection._advance

    def counted(self: Projection, branch: Branch, *rest: Any) -> int:
        looked_at.append(branch.feed)
        return advance(self, branch, *rest)

    monkeypatch.setattr(Projection, "_advance", counted)
    assert late.db.take_new() == len(chain)
    assert len(looked_at) <= 2 * len(chain), "each once, and once more when what it waits for has come"
    assert late.fields("c", "7") == {"x": 1}


def test_a_guard_is_not_broken_by_its_own_entry(world: Any) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    etag = laptop.put("c", "1", x=1).etags[DocumentId("c", "1")]
    world.exchange()
    leaves = []
    for replica, value in ((laptop, 2), (phone, 3)):
        changes = Changes()
        changes.patch("c", "1", {"x": value}, if_match=etag)
        leaves.append(replica.db.commit(changes).reference.leaf_hash)
    world.exchange()
    expected = {(leaves[0], leaves[1]), (leaves[1], leaves[0])}
    assert contests(laptop) == contests(phone) == expected


def test_a_clock_that_is_set_back_takes_nothing_away(world: Any) -> None:
    """A guarded write that was accepted, and one that comes later with a reading of years before: both stand there."""
    laptop, phone = world.replica("laptop"), world.replica("phone")
    etag = laptop.put("c", "1", x="as it was").etags[DocumentId("c", "1")]
    world.exchange()
    changes = Changes()
    changes.patch("c", "1", {"x": "accepted"}, if_match=etag)
    laptop.db.commit(changes)
    tablet = world.newcomer("tablet")  # a device whose feed has no reading yet that would have to grow
    tablet.receive(phone)
    world.clock_ms -= 10 * 365 * 86_400_000
    changes = Changes()
    changes.patch("c", "1", {"x": "set back"}, if_match=etag)
    tablet.db.commit(changes)
    world.exchange()
    for replica in (laptop, phone, tablet):
        (cell,) = replica.db.get("c", "1").view.cells
        assert set(cell.values) == {"accepted", "set back"}
    assert contests(laptop) == contests(phone) == contests(tablet) != set()


def test_a_schema_of_somebody_revoked_judges_what_had_seen_it(world: Any) -> None:
    """Whether the revocation comes before the schema, after it, or between: who had not seen it is judged alike."""
    laptop, phone, tablet, first, last = (
        world.replica(name) for name in ("laptop", "phone", "tablet", "first", "last")
    )
    phone.put("$schema", "c", schema={"type": "object", "properties": {"x": {"type": "integer"}}})
    tablet.receive(phone)
    stamps: list[Any] = []
    tablet.db.write(lambda writing: stamps.append(writing.stamp()))
    op = Op(Verb.SET, DocumentId("c", "1"), ("x",), "no integer")
    block = encode_entry(transaction_entry(Transaction(stamps[0], (op,))))
    FeedWriter(tablet.store, tablet.feed, tablet.device).append([block])
    revoke(world, phone, laptop, {})
    for replica, order in ((first, (laptop, phone, tablet)), (last, (phone, tablet, laptop))):
        for source in order:
            give(source, replica)
            replica.db.take_new()
        assert replica.fields("c", "1") is None
        assert replica.db.audit() == []


def test_a_schema_that_was_replaced_elsewhere_judges_who_had_not_seen_that(world: Any) -> None:
    """All is taken in at once: the first schema, the one that replaced it, and an entry that breaks the first."""
    laptop, phone, tablet = (world.replica(name) for name in ("laptop", "phone", "tablet"))
    laptop.put("$schema", "c", schema={"type": "object", "properties": {"x": {"type": "integer"}}})
    world.exchange()
    phone.put("$schema", "c", schema={"type": "object", "properties": {"x": {"type": "text"}}})
    stamps: list[Any] = []
    tablet.db.write(lambda writing: stamps.append(writing.stamp()))
    op = Op(Verb.SET, DocumentId("c", "1"), ("x",), "no integer")
    block = encode_entry(transaction_entry(Transaction(stamps[0], (op,))))
    FeedWriter(tablet.store, tablet.feed, tablet.device).append([block])
    first, last = (world.newcomer(name) for name in ("first", "last"))
    for source in (laptop, phone, tablet):
        give(source, first)
    first.db.take_new()
    for source in (laptop, tablet, phone):
        give(source, last)
        last.db.take_new()
    for replica in (first, last):
        assert replica.fields("c", "1") is None
        assert replica.db.audit() == []


def test_a_schema_of_somebody_known_to_be_revoked_judges_who_had_seen_it(world: Any) -> None:
    """It has no effect here, and comes when the schema's document was looked at already: yet others have seen it."""
    laptop, phone, tablet, desk, first, last = (
        world.replica(name) for name in ("laptop", "phone", "tablet", "desk", "first", "last")
    )
    laptop.put("$schema", "c", schema={"type": "object", "properties": {"x": {"type": "integer"}}})
    world.exchange()
    desk.put("c", "2", x=2)
    phone.put("$schema", "c", schema={"type": "object", "properties": {"x": {"type": "text"}}})
    tablet.receive(phone)
    tablet.put("c", "1", x="no integer")
    revoke(world, phone, laptop, {})
    for replica, order in ((first, (laptop, desk, phone, tablet)), (last, (phone, tablet, desk, laptop))):
        for source in order:
            give(source, replica)
            replica.db.take_new()
        assert replica.fields("c", "1") == {"x": "no integer"}
        assert replica.db.audit() == []


def test_counters_are_made_anew_with_what_the_same_transaction_counted(world: Any) -> None:
    """Increments and the revocation that excludes them are taken in at once."""
    laptop, phone, tablet = (world.replica(name) for name in ("laptop", "phone", "tablet"))
    changes = Changes()
    changes.increment("c", "1", "n", 5)
    phone.db.commit(changes)
    laptop.receive(phone)
    changes.increment("c", "1", "n", 1)
    laptop.db.commit(changes)
    revoke(world, phone, laptop, {})
    give(phone, tablet)
    give(laptop, tablet)
    tablet.db.take_new()
    assert tablet.fields("c", "1") == {"n": 6}
    tablet.close()
    tablet.reopen()
    assert tablet.fields("c", "1") == {"n": 6}
    assert tablet.db.audit() == []
    assert len(etags(DocumentId("c", "1"), laptop, tablet)) == 1


def test_a_branch_that_somebody_else_found(world: Any) -> None:
    """Another program takes a feed in that has to wait: nothing is written but the branch, and that has a number."""
    laptop, phone, tablet, watch = (world.replica(name) for name in ("laptop", "phone", "tablet", "watch"))
    laptop.put("c", "1", x=1)
    phone.put("c", "2", x=1)
    tablet.receive(phone)
    tablet.put("c", "2", x=2)
    give(tablet, laptop)
    assert Database(laptop.store, world.uid, world.now_ms).take_new() == 0
    watch.put("c", "3", x=1)
    give(watch, laptop)
    laptop.put("c", "1", x=2)
    give(phone, laptop)
    assert laptop.db.take_new() == 3
    assert laptop.fields("c", "2") == {"x": 2}
    assert laptop.db.audit() == []


def test_two_databases_in_one_turn(world: Any) -> None:
    """Threads that share a writer write to two databases of one store."""
    laptop = world.replica("laptop")
    founding = Founding("shop", world.identity, b"\x01" * 16)
    uid = database_id(founding)
    register_database(laptop.store, uid, "shop", 0)
    feed = create_feed(laptop.store, laptop.device, world.identity, feed_name(uid))
    other = Database(laptop.store, uid, world.now_ms, writer=laptop.writer, feed=feed)
    found(other, founding, world.events)
    trouble: list[BaseException] = []

    def work(database: Database, name: str) -> None:
        try:
            for number in range(10):
                changes = Changes()
                changes.put("c", f"{name} {number}", {"x": number})
                database.commit(changes)
        except BaseException as exc:  # noqa: BLE001  (told below)
            trouble.append(exc)

    threads = [
        threading.Thread(target=work, args=(database, str(number)))
        for number in range(4)
        for database in (laptop.db, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert trouble == []
    for database in (laptop.db, other):
        assert all(database.get("c", f"{name} {number}") for name in range(4) for number in range(10))
        assert database.audit() == []


def test_the_year_9999(world: Any) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    phone.clock = lambda: 253_402_300_700_000
    phone.put("c", "1", x=1)
    phone.put("c", "1", x=2)
    world.exchange()
    laptop.put("c", "1", x=3)
    world.exchange()
    assert phone.fields("c", "1") == {"x": 3}
    phone.clock = lambda: 1 << 60
    phone.put("c", "1", x=4)
    with pytest.raises(RefusedError, match="end of the year 9999"):
        phone.put("c", "1", x=5)
    world.exchange()
    laptop.put("c", "1", x=6)
    assert laptop.fields("c", "1") == {"x": 6}


def test_a_clock_before_1970(world: Any) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    phone.clock = lambda: -1
    phone.put("c", "1", x=1)
    bundle = BytesIO()
    phone.db.export_bundle(bundle)
    laptop.db.import_bundle(BytesIO(bundle.getvalue()))
    assert laptop.fields("c", "1") == {"x": 1}


def test_a_feed_is_read_to_its_end_before_it_goes_on(world: Any) -> None:
    """Its own feed came back to a device whose tables are new: the next entry follows the last one all the same."""
    laptop, phone = world.replica("laptop"), world.replica("phone")
    phone.put("c", "1", x=1)
    stamps: list[Any] = []
    phone.db.write(lambda writing: stamps.append(writing.stamp()))
    op = Op(Verb.SET, DocumentId("c", "1"), ("x",), 2)
    block = encode_entry(transaction_entry(Transaction(stamps[0], (op,))))
    FeedWriter(phone.store, phone.feed, phone.device).append([block])
    phone.put("c", "1", y=3, x=2)
    world.exchange()
    assert laptop.fields("c", "1") == phone.fields("c", "1") == {"x": 2, "y": 3}
    assert laptop.db.audit() == phone.db.audit() == []


def test_wishes_take_effect_one_after_the_other(world: Any) -> None:
    laptop = world.replica("laptop")
    changes = Changes()
    changes.put("c", "1", {"a": 1})
    changes.increment("c", "1", "n", 2)
    changes.patch("c", "1", {"n": 5})
    changes.delete("c", "1")
    changes.put("c", "1", {"b": 2})
    laptop.db.commit(changes)
    assert laptop.fields("c", "1") == {"b": 2}
    with pytest.raises(MalformedError):
        wrong = Changes()
        wrong.add("c", "1", "s", 1)
        wrong.patch("c", "1", {"s": 1})
        laptop.db.commit(wrong)


def test_a_value_that_is_there_beside_a_counter_is_written_again(world: Any) -> None:
    """Two devices made two kinds of one field; whoever puts the value that one of them has decides for it."""
    laptop, phone = world.replica("laptop"), world.replica("phone")
    laptop.put("c", "1", a=1)
    changes = Changes()
    changes.increment("c", "1", "a", 7)
    phone.db.commit(changes)
    world.exchange()
    (conflict,) = laptop.db.get("c", "1").view.conflicts
    assert (conflict.kind, conflict.path) == ("kinds", "/a")
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    laptop.put("$schema", "c", schema=schema)
    laptop.put("c", "1", a=1)
    assert laptop.fields("c", "1") == {"a": 1}
    assert laptop.db.get("c", "1").view.conflicts == ()


def test_a_slash_in_a_name_is_no_step(world: Any) -> None:
    laptop = world.replica("laptop")
    changes = Changes()
    changes.patch("c", "1", {"a/b": 1})
    changes.increment("c", "1", ("a", "b", "c"), 2)
    laptop.db.commit(changes)
    assert laptop.fields("c", "1") == {"a/b": 1, "a": {"b": {"c": 2}}}
    assert laptop.db.get("c", "1").view.conflicts == ()


def test_more_that_is_new_than_an_entry_can_name_is_named_by_several(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    laptop, *others = (world.replica(name) for name in ("laptop", "a", "b", "c", "d", "e"))
    for replica in others:
        replica.put("accounts", replica.name, owner=replica.name)
        give(replica, laptop)
    laptop.db.take_new()
    monkeypatch.setattr("sync.storage.writing.MAX_REFERENCES", 2)
    etag = laptop.db.get("accounts", "e").etag
    laptop.db.patch("accounts", "e", {"owner": "laptop"}, if_match=etag)
    laptop.db.checkpoint_state()
    with laptop.db.read() as reader:
        rows = reader.tx.fetch_all(reader.sql.txns_behind, (reader.branches.of_feed(laptop.feed)[0].id, 0, 10))
    assert len(rows) == 4  # two that name two each, one that names the fifth and writes, and the state root
    world.exchange()
    for replica in (laptop, *others):
        assert replica.db.audit() == []
        assert replica.fields("accounts", "e") == {"owner": "laptop"}
        assert replica.db.get("accounts", "e").conflicts == ()
    (stated,) = others[0].db.state_roots()
    assert others[0].db.verify_state_root(stated.reference).documents == 5


def test_a_context_names_no_feed_of_which_nothing_counts(world: Any) -> None:
    """Strangers can bring any number of feeds, and a token that was given out has to be taken back."""
    laptop, phone, thief = (world.replica(name) for name in ("laptop", "phone", "thief"))
    phone.put("accounts", "1", owner="A")
    thief.put("accounts", "1", owner="B")
    laptop.receive(phone, thief)
    named = len(laptop.db.context())
    revoke(world, thief, laptop, {})
    base = laptop.db.context()
    assert len(base) < named
    phone.put("accounts", "1", owner="C")
    laptop.receive(phone)
    changes = Changes(base=base)
    changes.patch("accounts", "1", {"owner": "D"})
    laptop.db.commit(changes)
    (cell,) = laptop.db.get("accounts", "1").view.cells
    assert set(cell.values) == {"C", "D"}


def test_entries_are_written_while_more_are_taken_in(
    world: Any, monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> None:
    """What bounds the memory of a merge changes nothing in what comes of it."""
    monkeypatch.setattr("sync.storage.projection._OPS_HELD", 2)
    laptop, phone = world.replica("laptop"), world.replica("phone")
    for value in range(3):
        laptop.put("c", "1", x=value, y=value)
        phone.put("c", "1", x=-value, z=value)
    world.exchange()
    for late in (world.newcomer("late"), world.newcomer("later", postgres_url)):
        late.receive(laptop, phone)
        assert late.fields("c", "1") == laptop.fields("c", "1")
        assert len(etags(DocumentId("c", "1"), late, laptop, phone)) == 1
        assert late.db.audit() == []

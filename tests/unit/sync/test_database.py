"""A database from its public calls: writing, conditions, reading, and what replicas make of what others wrote."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from identity.errors import LimitExceeded, MalformedError
from sync.cells import LiveDot, replaced
from sync.changes import Changes, MissingDocument, StaleVersion
from sync.transaction import DocumentId, Op, Transaction, Verb


def test_a_document_is_put_read_and_changed(world: Any) -> None:
    laptop = world.replica("laptop")
    first = laptop.put("accounts", "4711", owner="Novak", balance=Decimal("12.30"))
    assert laptop.fields("accounts", "4711") == {"owner": "Novak", "balance": {"$dec": "12.30"}}
    second = laptop.put("accounts", "4711", owner="Novak", limit=5)
    assert laptop.fields("accounts", "4711") == {"owner": "Novak", "limit": 5}
    assert first.etags != second.etags
    assert laptop.put("accounts", "4711", owner="Novak", limit=5).reference is None


def test_conditions(world: Any) -> None:
    laptop = world.replica("laptop")
    etag = laptop.put("accounts", "1", owner="A").etags[DocumentId("accounts", "1")]
    changes = Changes()
    changes.put("accounts", "1", {"owner": "B"}, if_match=etag)
    laptop.db.commit(changes)
    with pytest.raises(StaleVersion) as found:
        laptop.db.commit(changes)
    assert found.value.current.fields == {"owner": "B"}
    absent = Changes()
    absent.put("accounts", "1", {"owner": "C"}, if_absent=True)
    with pytest.raises(StaleVersion, match="was to be absent"):
        laptop.db.commit(absent)
    absent = Changes()
    absent.put("accounts", "2", {"owner": "C"}, if_absent=True)
    laptop.db.commit(absent)
    assert laptop.fields("accounts", "2") == {"owner": "C"}


def test_a_deleted_document_reads_as_absent_and_comes_back(world: Any) -> None:
    laptop = world.replica("laptop")
    laptop.put("accounts", "1", owner="A")
    gone = Changes()
    gone.delete("accounts", "1")
    laptop.db.commit(gone)
    assert laptop.fields("accounts", "1") is None
    with pytest.raises(MissingDocument):
        laptop.db.commit(gone)
    back = Changes()
    back.undelete("accounts", "1")
    laptop.db.commit(back)
    assert laptop.fields("accounts", "1") == {"owner": "A"}


def test_replicas_that_worked_apart_agree(world: Any) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    laptop.put("accounts", "1", owner="A", tags=[])
    world.exchange()
    for replica, name in ((laptop, "B"), (phone, "C")):
        changes = Changes()
        changes.patch("accounts", "1", {"owner": name})
        changes.increment("accounts", "1", "visits", 2)
        changes.add("accounts", "1", "labels", name)
        replica.db.commit(changes)
    world.exchange()
    views = [replica.db.get("accounts", "1") for replica in (laptop, phone)]
    assert views[0].etag == views[1].etag
    assert views[0].view.fields == views[1].view.fields
    assert views[0].view.fields["visits"] == 4
    assert views[0].view.fields["labels"] == ["B", "C"]
    (conflict,) = views[0].view.conflicts
    assert (conflict.kind, conflict.path) == ("siblings", "/owner")
    owner = next(cell for cell in views[0].view.cells if cell.path == "/owner")
    assert sorted(owner.values) == ["B", "C"]
    etag = views[0].etag
    decided = Changes()
    decided.patch("accounts", "1", {"owner": "D"}, if_match=etag)
    laptop.db.commit(decided)
    world.exchange()
    assert phone.fields("accounts", "1")["owner"] == "D"
    assert phone.db.get("accounts", "1").view.conflicts == ()


def test_an_edit_wins_over_a_deletion_that_had_not_seen_it(world: Any) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    laptop.put("accounts", "1", owner="A")
    world.exchange()
    gone = Changes()
    gone.delete("accounts", "1")
    laptop.db.commit(gone)
    phone.put("accounts", "1", owner="A", phone="123")
    world.exchange()
    for replica in (laptop, phone):
        state = replica.db.get("accounts", "1")
        assert state.view.fields == {"owner": "A", "phone": "123"}
        assert [conflict.kind for conflict in state.view.conflicts] == ["deleted-and-edited"]


def test_a_stale_base_leaves_what_it_had_not_seen(world: Any) -> None:
    laptop = world.replica("laptop")
    laptop.put("accounts", "1", owner="A")
    base = laptop.db.context()
    laptop.put("accounts", "1", owner="B")
    stale = Changes(base=base)
    stale.patch("accounts", "1", {"owner": "C"})
    laptop.db.commit(stale)
    owner = laptop.db.get("accounts", "1").view.cells[0]
    assert sorted(owner.values) == ["B", "C"]


def test_a_document_of_another_device_that_breaks_a_later_schema_can_be_deleted(world: Any) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    laptop.put("accounts", "1", owner=5)
    laptop.put("$schema", "accounts", schema={"type": "object", "properties": {"owner": {"type": "text"}}})
    world.exchange()
    gone = Changes()
    gone.delete("accounts", "1")
    phone.db.commit(gone)
    assert phone.fields("accounts", "1") is None


def test_a_stale_client_neither_deletes_nor_sets_a_counter_over_what_it_has_not_seen(world: Any) -> None:
    laptop = world.replica("laptop")
    changes = Changes()
    changes.patch("accounts", "1", {"owner": "A"})
    changes.increment("accounts", "1", "visits", 100)
    laptop.db.commit(changes)
    seen = laptop.db.context()
    laptop.db.increment("accounts", "1", "visits", 50)
    gone, counted = Changes(base=seen), Changes(base=seen)
    gone.delete("accounts", "1")
    counted.patch("accounts", "1", {"visits": 100})
    for stale in (gone, counted):
        with pytest.raises(StaleVersion):
            laptop.db.commit(stale)
    assert laptop.fields("accounts", "1") == {"owner": "A", "visits": 150}
    again = Changes(base=laptop.db.context())
    again.patch("accounts", "1", {"visits": 7})
    again.delete("accounts", "1")
    laptop.db.commit(again)
    assert laptop.fields("accounts", "1") is None


def test_nothing_is_written_that_others_could_not_read(world: Any) -> None:
    laptop = world.replica("laptop")
    with pytest.raises(LimitExceeded, match="a note of 4097 characters"):
        laptop.db.put("accounts", "1", {"owner": "A"}, note="n" * 4097)
    guarded = Changes()
    guarded.patch("accounts", "1", {"owner": "A"})
    guarded.require("accounts", "a\0b", None)
    with pytest.raises(MalformedError, match=r"U\+0000"):
        laptop.db.commit(guarded)
    many = Changes()
    for number in range(4096):
        many.patch("accounts", str(number), {"owner": "A"})
    many.require("accounts", "other", None)
    with pytest.raises(LimitExceeded, match="about 4097 documents"):
        laptop.db.commit(many)
    assert laptop.fields("accounts", "1") is None


@pytest.mark.parametrize("what", [("increment", "n"), ("add", "tags", "new")])
def test_what_is_added_to_a_deleted_document_undeletes_it(world: Any, what: tuple[str, ...]) -> None:
    laptop = world.replica("laptop")
    laptop.put("accounts", "1", owner="Novak")
    laptop.db.delete("accounts", "1")
    added = Changes()
    getattr(added, what[0])("accounts", "1", *what[1:])
    laptop.db.commit(added)
    assert laptop.db.get("accounts", "1").view.conflicts == ()
    removed = Changes()
    removed.unset("accounts", "1", what[1])
    laptop.db.commit(removed)
    assert laptop.fields("accounts", "1") == {"owner": "Novak"}


def test_a_put_shows_a_deleted_document_whatever_came_before_it_in_the_transaction(world: Any) -> None:
    laptop = world.replica("laptop")
    laptop.put("accounts", "1", owner=None)
    gone = Changes()
    gone.delete("accounts", "1")
    laptop.db.commit(gone)
    back = Changes()
    back.increment("accounts", "1", "visits", 0)
    back.put("accounts", "1", {"owner": None})
    laptop.db.commit(back)
    assert laptop.fields("accounts", "1") == {"owner": None}


def test_the_deepest_value_in_the_deepest_field_is_read(world: Any) -> None:
    """Anybody who may write can put one there, and must not keep others from reading the collection."""
    laptop = world.replica("laptop")
    value: Any = 1
    for _ in range(28):  # of the 32 levels of an entry four are around it
        value = [value]
    path = tuple("abcdefgh")
    op = Op(Verb.SET, DocumentId("accounts", "1"), path, value)
    laptop.db.write(lambda writing: Transaction(writing.stamp(), (op,)))
    (found,) = laptop.db.scan("accounts").documents
    shown: Any = found.fields
    for name in path:
        shown = shown[name]
    assert shown == value


def test_values_that_replace_nothing_do_not_look_at_each_other(world: Any) -> None:
    """Somebody can write thousands beside each other in one entry: what that costs must not be their square."""
    laptop = world.replica("laptop")
    document = DocumentId("accounts", "1")
    nobody_looks: Any = {"/owner": None}
    assert replaced(LiveDot(9, 2, 0, 0, Verb.SET, "/owner", b""), frozenset(), nobody_looks, {1: 99}) == []
    ops = tuple(Op(Verb.SET, document, ("owner",), number, ()) for number in range(500))
    laptop.db.write(lambda writing: Transaction(writing.stamp(), ops))
    assert len(laptop.db.get(*document).view.cells[0].values) == 500
    laptop.put(*document, owner="A")
    assert laptop.db.get(*document).conflicts == ()
    assert laptop.db.audit() == []


@pytest.mark.parametrize(
    ("there", "where"), [(["address"], ["address", "visits"]), (["address", "street"], ["address"])]
)
def test_nothing_is_added_above_or_beneath_what_stands_there(world: Any, there: list[str], where: list[str]) -> None:
    """One of the two would be hidden, as where a field holds something else."""
    laptop = world.replica("laptop")
    laptop.db.write(
        lambda writing: Transaction(
            writing.stamp(), (Op(Verb.SET, DocumentId("accounts", "1"), tuple(there), {"of": "A"}),)
        )
    )
    with pytest.raises(MalformedError, match="is no counter"):
        laptop.db.increment("accounts", "1", where, 1)
    laptop.db.increment("accounts", "1", ["visits", "paid"], 1)
    laptop.db.increment("accounts", "1", ["visits", "free"], 1)
    assert laptop.db.get("accounts", "1").conflicts == ()

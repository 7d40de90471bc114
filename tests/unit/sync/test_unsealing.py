"""Sealed values of a document, opened with the keys that are here, and left sealed with those that are not."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from ledger.values import to_python
from sync.changes import Changes, PurgedDocument, StaleVersion
from sync.document_keys import DocumentKeys
from sync.transaction import DocumentId, Op, Verb
from sync.unsealing import unseal_view

ADA = DocumentId("people", "ada")
SCHEMA = {
    "type": "object",
    "properties": {
        "address": {"sealed": True},
        "contact": {"type": "object", "cell": "map", "properties": {"mail/home": {"type": "text", "sealed": True}}},
        "name": {"type": "text"},
    },
}


@pytest.fixture
def laptop(world: Any) -> Any:
    """A device with a document that has two sealed values, one of them within a map."""
    laptop = world.replica("laptop")
    laptop.put("$schema", "people", schema=SCHEMA)
    laptop.put("people", "ada", name="Ada", address={"city": "London"}, contact={"mail/home": "ada@example"})
    return laptop


def opened(replica: Any) -> Any:
    state = replica.db.get("people", "ada")
    return unseal_view(state.view, replica.db.uid, ADA, replica.keys.find)


def test_values_open_where_the_key_is(laptop: Any) -> None:
    state = laptop.db.get("people", "ada")
    assert "$sealed" in state.view.fields["address"]
    found = opened(laptop)
    assert found.view.fields == {"name": "Ada", "address": {"city": "London"}, "contact": {"mail/home": "ada@example"}}
    assert found.closed == ()
    assert "$sealed" in state.view.fields["address"], "the view that was given is as it was"
    shown = {cell.path: cell.shown for cell in found.view.cells}
    assert shown["/contact/mail~1home"] == "ada@example"


def test_many_documents_are_sealed_with_keys_that_were_made_together(
    laptop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    keys_for = DocumentKeys.keys_for

    def counted(keys: DocumentKeys, database: bytes, documents: Collection[DocumentId]) -> Any:
        asked.append(len(documents))
        return keys_for(keys, database, documents)

    monkeypatch.setattr(DocumentKeys, "keys_for", counted)
    changes = Changes()
    for n in range(500):
        changes.put("people", str(n), {"name": "N", "address": n, "contact": {"mail/home": f"{n}@example"}})
        changes.put("people", f"none{n}", {"name": "N"})
    changes.choose("people", "0", "address", "chosen")
    laptop.db.commit(changes)
    assert asked == [500]
    kids = {laptop.keys.of_document(laptop.db.uid, DocumentId("people", str(n))) for n in range(500)}
    assert len(kids) == 500
    assert {len(one) for one in kids} == {1}
    assert laptop.keys.of_document(laptop.db.uid, DocumentId("people", "none1")) == ()
    state = laptop.db.get("people", "7")
    found = unseal_view(state.view, laptop.db.uid, DocumentId("people", "7"), laptop.keys.find)
    assert found.view.fields == {"name": "N", "address": 7, "contact": {"mail/home": "7@example"}}


@pytest.mark.parametrize("condition", ["stale", "purged"])
def test_what_is_not_written_takes_no_key(laptop: Any, condition: str) -> None:
    bob = DocumentId("people", "bob")
    if condition == "purged":
        laptop.put("people", "bob", name="Bob")
        changes = Changes()
        changes.do(Op(Verb.PURGE, bob, (), None))
        laptop.db.commit(changes)
    changes = Changes()
    changes.put("people", "bob", {"address": "x"}, if_match="AAAA" if condition == "stale" else None)
    with pytest.raises(StaleVersion if condition == "stale" else PurgedDocument):
        laptop.db.commit(changes)
    assert laptop.keys.of_document(laptop.db.uid, bob) == ()


def test_what_is_sealed_already_takes_no_new_key(laptop: Any) -> None:
    state = laptop.db.get("people", "ada")
    laptop.keys.destroy(laptop.db.uid, ADA, 1)
    laptop.put("people", "ada", **state.fields)
    assert laptop.keys.of_document(laptop.db.uid, ADA) == ()


def test_values_stay_sealed_without_the_key(world: Any, laptop: Any) -> None:
    phone = world.replica("phone")
    found = opened(phone)
    assert found.view.fields["name"] == "Ada"
    assert "$sealed" in found.view.fields["address"]
    assert found.closed == ("/address", "/contact/mail~1home")
    phone.keys.import_keys(laptop.keys.export_keys(laptop.db.uid))
    assert opened(phone).closed == ()


def test_a_destroyed_key_opens_nothing(laptop: Any) -> None:
    laptop.keys.destroy(laptop.db.uid, ADA, 1)
    assert opened(laptop).closed == ("/address", "/contact/mail~1home")


def write_apart(world: Any, laptop: Any) -> None:
    """Let Ada have two addresses that were written without knowing of each other, Paris and Turin."""
    phone = world.replica("phone")
    phone.keys.import_keys(laptop.keys.export_keys(laptop.db.uid))
    for replica, city in ((laptop, "Paris"), (phone, "Turin")):
        changes = Changes()
        changes.patch("people", "ada", {"address": city})
        replica.db.commit(changes)
    world.exchange()


def test_siblings_open_both(world: Any, laptop: Any) -> None:
    write_apart(world, laptop)
    (cell,) = (cell for cell in opened(laptop).view.cells if cell.path == "/address")
    assert sorted(cell.values) == ["Paris", "Turin"]
    assert opened(laptop).view.fields["address"] == cell.values[0]


def test_a_value_that_was_moved_stays_sealed(laptop: Any) -> None:
    state = laptop.db.get("people", "ada")
    moved = unseal_view(state.view, laptop.db.uid, DocumentId("people", "eve"), laptop.keys.find)
    assert moved.closed == ("/address", "/contact/mail~1home")


def test_a_view_without_sealed_values_is_returned_as_it_is(laptop: Any) -> None:
    laptop.put("people", "eve", name="Eve")
    state = laptop.db.get("people", "eve")
    assert unseal_view(state.view, laptop.db.uid, DocumentId("people", "eve"), laptop.keys.find).view is state.view


def test_what_is_sealed_and_so_already_is_not_written_again(laptop: Any) -> None:
    opened = laptop.db.unsealed(laptop.db.get("people", "ada")).fields
    assert laptop.put("people", "ada", **opened).reference is None
    laptop.keys.destroy(laptop.db.uid, ADA, 1)
    assert laptop.put("people", "ada", **opened).reference is not None, "nobody can tell any more"


def test_one_of_several_sealed_values_is_chosen_as_it_is(world: Any, laptop: Any) -> None:
    write_apart(world, laptop)
    (cell,) = (cell for cell in laptop.db.get("people", "ada").view.cells if cell.path == "/address")
    changes = Changes()
    changes.choose("people", "ada", "address", to_python(cell.values[1]))
    laptop.db.commit(changes)
    assert opened(laptop).view.fields["address"] in ("Paris", "Turin")


def test_what_stands_in_the_clear_is_sealed_when_it_has_to_be(laptop: Any) -> None:
    """Only sealed values can be erased: the same value, written again, must not stay as it was."""
    laptop.put("clear", "1", name="Ada")
    shape = {"type": "object", "properties": {"name": {"type": "text", "sealed": True}}}
    laptop.db.set_schema("clear", shape)
    assert laptop.put("clear", "1", name="Ada").reference is not None
    assert "$sealed" in laptop.db.get("clear", "1").view.fields["name"]
    assert laptop.put("clear", "1", name="Ada").reference is None

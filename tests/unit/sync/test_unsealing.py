"""Sealed values of a document, opened with the keys that are here, and left sealed with those that are not."""

from __future__ import annotations

from typing import Any

import pytest

from sync.changes import Changes
from sync.transaction import DocumentId
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


def test_siblings_open_both(world: Any, laptop: Any) -> None:
    phone = world.replica("phone")
    phone.keys.import_keys(laptop.keys.export_keys(laptop.db.uid))
    for replica, city in ((laptop, "Paris"), (phone, "Turin")):
        changes = Changes()
        changes.patch("people", "ada", {"address": city})
        replica.db.commit(changes)
    world.exchange()
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

"""Members of a database, as the program decides about them."""

from __future__ import annotations

from typing import Any

import pytest

from api.members import dismiss
from ledger.succession import continue_feed


def test_nobody_escapes_a_dismissal_by_beginning_many_feeds(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The founder leaves with more feeds than a dismissal can name: it vouches for those that the others go on from."""
    laptop, phone = world.replica("laptop"), world.replica("phone")
    phone.put("accounts", "1", owner="A")
    first = phone.feed
    with phone.store.write() as tx:
        phone.feed = continue_feed(tx, first, bytes(16))
    phone.writer.close()
    phone.open()
    phone.put("accounts", "1", owner="B")
    laptop.put("accounts", "2", owner="C")
    world.exchange()
    monkeypatch.setattr("api.members.MAX_LAST_GOOD", 2)
    dismiss(laptop.db, world.identity, world.identity, "leaves")
    assert laptop.fields("accounts", "1") == {"owner": "A"}
    assert laptop.fields("accounts", "2") == {"owner": "C"}

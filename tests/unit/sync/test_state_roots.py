"""State roots in a store, the audit of a database, and making it anew."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from identity.errors import MissingEvidenceError, RefusedError, RootMismatch
from identity.event import event_digest
from identity.history import build_add_device, fold
from identity.keys import Ed25519Signer
from sync.acts import CarryEvents, MemberEntry
from sync.changes import Changes
from sync.stateroot import RULES
from sync.transaction import DocumentId, StateRoot


def write_apart(world: Any) -> tuple[Any, Any]:
    """Two replicas with siblings, a counter, a set, a deletion and a guard, after they have met."""
    laptop, phone = world.replica("laptop"), world.replica("phone")
    etag = laptop.put("accounts", "1", owner="A").etags[DocumentId("accounts", "1")]
    laptop.put("accounts", "2", owner="B")
    world.exchange()
    for replica, name in ((laptop, "C"), (phone, "D")):
        changes = Changes()
        changes.patch("accounts", "1", {"owner": name}, if_match=etag)
        changes.increment("accounts", "1", "balance", Decimal("1.50"))
        changes.add("accounts", "1", "labels", name)
        replica.db.commit(changes)
    gone = Changes()
    gone.delete("accounts", "2")
    phone.db.commit(gone)
    laptop.put("accounts", "3", owner="E")
    return laptop, phone


def test_two_replicas_state_the_same_root_and_it_follows_from_the_feeds(world: Any) -> None:
    laptop, phone = write_apart(world)
    world.exchange()
    first = laptop.db.checkpoint_state()
    second = phone.db.checkpoint_state()
    world.exchange()
    one, two = laptop.db.state_roots()
    assert {one.reference, two.reference} == {first.reference, second.reference}
    assert (one.statement.root, one.statement.cut) == (two.statement.root, two.statement.cut)
    assert laptop.db.rival_state_roots() == []
    for replica in (laptop, phone):
        for commit in (first, second):
            assert replica.db.verify_state_root(commit.reference).documents == 3


def test_a_later_root_is_another_one_and_takes_changes_along(world: Any) -> None:
    laptop, _ = write_apart(world)
    first = laptop.db.checkpoint_state()
    laptop.put("accounts", "1", owner="F")
    laptop.db.write(lambda writing: None)
    second = laptop.db.checkpoint_state()
    one, two = laptop.db.state_roots()
    assert one.statement.root != two.statement.root
    assert laptop.db.verify_state_root(first.reference).stated == one
    assert laptop.db.verify_state_root(second.reference).stated == two
    assert laptop.db.audit() == []


def test_a_root_that_is_not_the_states_is_found_and_contradicts_the_true_one(world: Any) -> None:
    laptop, phone = write_apart(world)
    world.exchange()
    false = phone.db.write(lambda writing: StateRoot(writing.stamp(), writing.projection.heads(), bytes(32), RULES))
    true = laptop.db.checkpoint_state()
    world.exchange()
    with pytest.raises(RootMismatch):
        laptop.db.verify_state_root(false.reference)
    (rivals,) = laptop.db.rival_state_roots()
    assert {rivals.first.reference, rivals.second.reference} == {false.reference, true.reference}


def test_a_statement_whose_cut_is_not_its_past_is_refused(world: Any) -> None:
    laptop, _ = write_apart(world)
    world.exchange()
    with pytest.raises(RefusedError, match="its cut is not what it had seen"):
        laptop.db.write(lambda writing: StateRoot(writing.stamp(), writing.projection.heads()[:1], bytes(32), RULES))


def test_what_cannot_be_checked_is_said(world: Any) -> None:
    laptop, phone = write_apart(world)
    stated = laptop.db.checkpoint_state()
    with pytest.raises(MissingEvidenceError):
        phone.db.verify_state_root(stated.reference)


def test_the_audit_finds_nothing_and_a_database_made_anew_is_the_same(world: Any) -> None:
    laptop, phone = write_apart(world)
    world.exchange()
    laptop.db.checkpoint_state()
    for replica in (laptop, phone):
        assert replica.db.audit() == []
    before = picture(laptop)
    laptop.db.rebuild()
    assert picture(laptop) == before
    assert laptop.db.audit() == []
    laptop.put("accounts", "9", owner="G")
    laptop.db.checkpoint_state()
    assert laptop.db.audit() == []


def picture(replica: Any) -> list[Any]:
    with replica.db.read() as reader:
        names = [DocumentId("accounts", str(number)) for number in range(1, 4)]
        states = [reader.document(name) for name in names]
    return [(state.etag, state.view.fields, state.view.conflicts, state.view.deleted) for state in states]


def test_a_guard_on_a_document_that_is_not_there_keeps_its_number(world: Any) -> None:
    laptop = world.replica("laptop")
    changes = Changes()
    changes.put("accounts", "1", {"owner": "A"})
    changes.require("accounts", "2", None)
    laptop.db.commit(changes)
    laptop.writer.close()
    laptop.open()
    laptop.put("accounts", "3", owner="B")
    assert laptop.db.audit() == []


def test_a_feed_that_is_met_after_its_identity_was_disputed_is_disputed(world: Any) -> None:
    """Whichever came first: the identity's two histories, or the feed."""
    laptop, phone = world.replica("laptop"), world.replica("phone")
    phone.put("accounts", "1", owner="A")
    contradictory = []
    for name in ("one", "other"):
        device = Ed25519Signer(name.ljust(32).encode())
        event = build_add_device(fold(world.events), device=device.public_key, name=name, time_ms=1_000)
        contradictory.append(world.sign(event, world.root, device))
    ordered = tuple(sorted(contradictory, key=lambda one: event_digest(one.event)))
    laptop.db.write(lambda writing: MemberEntry(writing.stamp(), CarryEvents(world.identity, ordered)))
    laptop.receive(phone)
    with laptop.db.read() as reader:
        assert all(branch.disputed for branch in reader.branches)
    assert laptop.db.audit() == []

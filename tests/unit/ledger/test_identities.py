"""Identity events in a store: kept only when all of them together fold."""

from __future__ import annotations

from typing import Any

import pytest

from identity.errors import HistoryError, MissingEvidenceError, SignatureMismatch
from identity.event import SignedEvent
from identity.history import build_close, sign_event
from ledger.identities import add_events, key_history
from ledger.storage.memory import MemoryStore
from ledger.store import Store


def test_events_come_back_as_a_history(known: Store, member: Any) -> None:
    with known.read() as tx:
        assert key_history(tx, member.identity) == member.history


def test_unknown_identity(known: Store) -> None:
    with known.read() as tx, pytest.raises(MissingEvidenceError):
        key_history(tx, bytes(32))


def test_events_are_added_once(known: Store, member: Any) -> None:
    with known.write() as tx:
        add_events(tx, member.identity, member.events * 2)
        assert len(tx.identity_events(member.identity)) == 2
        assert add_events(tx, member.identity, [member.revocation()]).seq == 2
    with known.read() as tx:
        assert key_history(tx, member.identity).devices[member.device.public_key].revocation is not None


def test_events_need_not_come_in_order(member: Any) -> None:
    store = MemoryStore()
    with store.write() as tx:
        assert add_events(tx, member.identity, reversed(member.events)) == member.history


@pytest.mark.parametrize("events", [slice(0, 0), slice(1, 2)])
def test_events_that_do_not_begin(member: Any, events: slice) -> None:
    with MemoryStore().write() as tx, pytest.raises(HistoryError):
        add_events(tx, member.identity, member.events[events])


def test_events_of_another_identity(known: Store, member: Any, new_member: Any) -> None:
    other = new_member(1)
    with MemoryStore().write() as tx, pytest.raises(HistoryError, match="inception of identity"):
        add_events(tx, member.identity, other.events)
    with pytest.raises(HistoryError), known.write() as tx:
        add_events(tx, member.identity, other.events)
    with known.read() as reading:
        assert len(reading.identity_events(member.identity)) == 2
        assert reading.identities() == [member.identity]


def test_event_with_a_wrong_signature(known: Store, member: Any) -> None:
    revocation = member.revocation()
    forged = SignedEvent(revocation.event, ((0, bytes(64)),))
    with pytest.raises(SignatureMismatch), known.write() as tx:
        add_events(tx, member.identity, [forged])
    with known.read() as reading:
        assert len(reading.identity_events(member.identity)) == 2


def test_a_second_event_with_one_prev_is_kept_as_evidence(known: Store, member: Any) -> None:
    rival = sign_event(build_close(member.history, time_ms=9), [(0, member.root)])
    with known.write() as tx:
        add_events(tx, member.identity, [member.revocation()])
        history = add_events(tx, member.identity, [rival])
    assert history.duplicity is not None
    with known.read() as reading:
        assert key_history(reading, member.identity).duplicity == history.duplicity
        assert [event.seq for event in reading.identity_events(member.identity)] == [0, 1, 2, 2]

"""Serial writes: who decides, what becomes of a proposal, and homes that change, are lost, or contradict themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from identity.errors import MalformedError, MissingEvidenceError, RefusedError
from identity.event import LastGood
from identity.history import RevocationReason, build_revoke_device, fold
from ledger.entry import encode_entry
from ledger.feed import append
from ledger.identities import add_events
from ledger.store import stored_tree_hash
from sync.acts import Admit, Dismiss, MemberEntry, Role
from sync.changes import Changes, StaleVersion, Strength
from sync.serial import Fault, HomeEntry, Proposal, Rejection, Verdict, Why, home_entry, proposal_entry, rejection_entry
from sync.storage.audit import audit_database
from sync.transaction import DocumentId, Op, Stamp, Transaction, Verb, transaction_entry

NAME = DocumentId("seats", "12a")


@pytest.fixture
def world(make_world: Any, tmp_path: Path) -> Iterator[Any]:
    made = make_world(tmp_path, "bank")
    yield made
    made.close()


@pytest.fixture
def devices(world: Any) -> tuple[Any, Any, Any]:
    """Three devices; the first, which founded the database, is the home of the seats."""
    desk, phone, tablet = (world.replica(name) for name in ("desk", "phone", "tablet"))
    for one in (phone, tablet):
        one.put("greetings", one.name, x=1)
    world.exchange()
    desk.db.set_home("seats", desk.feed)
    world.exchange()
    return desk, phone, tablet


def put(replica: Any, fields: dict[str, Any], strength: Strength = Strength.SERIAL, **condition: Any) -> Any:
    changes = Changes(strength=strength)
    changes.put(*NAME, fields, **condition)
    return replica.db.commit(changes)


def masked_in(replica: Any) -> dict[str, int]:
    with replica.store.read() as tx:
        found = [row[0] for row in tx.fetch_all("SELECT masked FROM database_txn WHERE masked IS NOT NULL")]
    return {reason: found.count(reason) for reason in set(found)}


def sound(*replicas: Any) -> None:
    """Every table is as a replay from the feeds has it, and the replicas show the same."""
    shown = []
    for replica in replicas:
        with replica.store.read() as tx:
            assert audit_database(tx, replica.store.dialect, replica.world.uid) == []
        state = replica.db.get(*NAME)
        shown.append(None if state is None else (state.etag, state.view.fields, state.view.conflicts))
    assert all(one == shown[0] for one in shown)


def revoke(world: Any, victim: Any, teller: Any, length: int) -> None:
    """The owner ends a device at a length of its feed as ``teller`` has it, and tells the database there."""
    last_good = {}
    if length:
        with teller.store.read() as tx:
            last_good[victim.feed] = LastGood(length, stored_tree_hash(tx, victim.feed, length))
    event = build_revoke_device(
        fold(world.events),
        device=victim.device.public_key,
        last_good=last_good,
        reason=RevocationReason.LOST,
        time_ms=1_000,
    )
    world.events.append(world.sign(event, world.root))
    with teller.store.write() as tx:
        add_events(tx, world.identity, world.events)
    teller.db.introduce()


def length_of(replica: Any, feed: bytes) -> int:
    with replica.store.read() as tx:
        return int(tx.feed(feed).length)


# --- deciding ---


def test_the_home_decides_at_once(devices: Any) -> None:
    desk, phone, _ = devices
    commit = put(desk, {"owner": "Novak"}, if_absent=True)
    assert (commit.pending, commit.reference is not None) == (False, True)
    with pytest.raises(StaleVersion):
        put(desk, {"owner": "Svoboda"}, if_absent=True)
    phone.receive(desk)
    assert phone.fields(*NAME) == {"owner": "Novak"}
    sound(desk, phone)


def test_a_proposal_has_no_effect_until_the_home_accepts_it(devices: Any, world: Any) -> None:
    desk, phone, tablet = devices
    commit = put(phone, {"owner": "Novak"}, if_absent=True)
    assert (commit.pending, commit.etags) == (True, {})
    assert phone.fields(*NAME) is None
    assert phone.db.decision(commit.reference) is None
    world.exchange()
    assert desk.fields(*NAME) is None
    (decided,) = desk.db.decide_pending()
    assert (decided.proposal, decided.verdict) == (commit.reference, Verdict.ACCEPTED)
    assert desk.db.decide_pending() == []
    world.exchange()
    assert tablet.fields(*NAME) == {"owner": "Novak"}
    assert phone.db.decision(commit.reference) == decided
    assert phone.db.entry(decided.entry).transaction.decides == commit.reference
    sound(desk, phone, tablet)


def test_of_two_who_want_one_seat_one_gets_it(devices: Any, world: Any) -> None:
    desk, phone, tablet = devices
    first, second = (put(one, {"owner": one.name}, if_absent=True) for one in (phone, tablet))
    desk.receive(tablet, phone)
    verdicts = {one.proposal: one for one in desk.db.decide_pending()}
    world.exchange()
    refused = [one for one in verdicts.values() if one.verdict is Verdict.REFUSED]
    assert [(one.why, one.detail) for one in refused] == [(Why.STALE, "seats/12a")]
    assert set(verdicts) == {first.reference, second.reference}
    assert len({str(one.fields(*NAME)) for one in devices}) == 1
    assert phone.db.get(*NAME).view.conflicts == ()
    sound(*devices)


def test_what_is_so_here_may_not_be_so_at_the_home(devices: Any, world: Any) -> None:
    """A write that would change nothing here is still a question to the home, and one that it can refuse."""
    desk, phone, _ = devices
    put(desk, {"owner": "Novak"})
    world.exchange()
    put(desk, {"owner": "Svoboda"})
    commit = put(phone, {"owner": "Novak"})
    assert commit.pending
    desk.receive(phone)
    (decided,) = desk.db.decide_pending()
    assert (decided.verdict, decided.why) == (Verdict.REFUSED, Why.STALE)
    assert desk.fields(*NAME) == {"owner": "Svoboda"}


def test_what_only_adds_needs_no_version(devices: Any, world: Any) -> None:
    desk, phone, tablet = devices
    for replica in (phone, tablet):
        changes = Changes(strength=Strength.SERIAL)
        changes.increment(*NAME, "sold", 2)
        assert replica.db.commit(changes).pending
    world.exchange()
    assert [one.verdict for one in desk.db.decide_pending()] == [Verdict.ACCEPTED] * 2
    world.exchange()
    assert tablet.fields(*NAME) == {"sold": 4}
    sound(*devices)


def test_a_schema_refuses_at_the_home(devices: Any, world: Any) -> None:
    desk, phone, _ = devices
    commit = put(phone, {"owner": 7})
    desk.db.set_schema("seats", {"type": "object", "properties": {"owner": {"type": "string"}}})
    desk.receive(phone)
    (decided,) = desk.db.decide_pending()
    assert (decided.proposal, decided.verdict, decided.why) == (commit.reference, Verdict.REFUSED, Why.UNFIT)
    sound(desk)


def test_who_lost_standing_is_refused(devices: Any, world: Any) -> None:
    desk, phone, tablet = devices
    commit = put(phone, {"owner": "Novak"})
    tablet.receive(phone)
    revoke(world, phone, tablet, 1)
    desk.receive(phone, tablet)
    (decided,) = desk.db.decide_pending()
    assert (decided.proposal, decided.why) == (commit.reference, Why.STANDING)
    sound(desk)


def test_who_may_not_write_any_more_is_refused_for_what_counts_as_well(devices: Any, world: Any) -> None:
    """A revocation that vouches for the proposal leaves it as it is, and nobody should act on it for a lost device."""
    desk, phone, tablet = devices
    commit = put(phone, {"owner": "Novak"})
    tablet.receive(phone)
    revoke(world, phone, tablet, length_of(tablet, phone.feed))
    desk.receive(phone, tablet)
    (decided,) = desk.db.decide_pending()
    assert (decided.proposal, decided.why, decided.detail) == (commit.reference, Why.STANDING, "REVOKED_DEVICE")
    sound(desk)


def test_nobody_decides_for_a_collection_without_a_home(devices: Any) -> None:
    _, phone, _ = devices
    changes = Changes(strength=Strength.SERIAL)
    changes.put("rows", "1", {"x": 1})
    with pytest.raises(RefusedError, match="has no home"):
        phone.db.commit(changes)
    with pytest.raises(MissingEvidenceError):
        phone.db.decision(phone.put("rows", "1", x=1).reference)


def test_other_strengths_are_refused_away_from_the_home(devices: Any, world: Any) -> None:
    desk, phone, _ = devices
    with pytest.raises(RefusedError, match="home elsewhere"):
        phone.put(*NAME, owner="Novak")
    desk.put(*NAME, owner="Novak")
    world.exchange()
    assert phone.fields(*NAME) == {"owner": "Novak"}


def test_waiting_for_a_decision(devices: Any, world: Any) -> None:
    desk, phone, _ = devices
    commit = put(phone, {"owner": "Novak"})
    assert phone.db.await_decision(commit.reference, timeout_s=0) is None
    desk.receive(phone)
    desk.db.decide_pending()
    phone.receive(desk)
    assert phone.db.await_decision(commit.reference, timeout_s=0).verdict is Verdict.ACCEPTED


def test_a_decision_survives_a_restart_and_tables_made_anew(devices: Any, world: Any) -> None:
    desk, phone, _ = devices
    commit = put(phone, {"owner": "Novak"})
    desk.receive(phone)
    desk.close()
    desk.reopen()
    assert [one.verdict for one in desk.db.decide_pending()] == [Verdict.ACCEPTED]
    desk.db.rebuild()
    assert desk.db.decide_pending() == []
    assert desk.db.decision(commit.reference).verdict is Verdict.ACCEPTED
    assert desk.db.homes()["seats"].feed == desk.feed
    sound(desk)


# --- homes ---


def test_only_an_admin_names_a_home(devices: Any, world: Any) -> None:
    desk, _, _ = devices
    with pytest.raises(RefusedError, match="no member's"):
        desk.db.set_home("rows", b"\x05" * 32)
    with pytest.raises(MalformedError):
        desk.db.set_home("$schema", desk.feed)
    assert desk.db.set_home("seats", desk.feed).reference is None


def test_a_home_gives_its_collection_away(devices: Any, world: Any) -> None:
    desk, phone, tablet = devices
    put(desk, {"owner": "Novak"})
    world.exchange()
    tablet.db.set_home("seats", phone.feed)
    assert tablet.db.homes()["seats"].feed == desk.feed
    assert tablet.db.homes()["seats"].asked == phone.feed
    assert tablet.db.set_home("seats", phone.feed).reference is None
    late = put(tablet, {"owner": "late"})
    phone.receive(tablet)
    assert put(phone, {"owner": "not yet"}).pending
    desk.receive(tablet)
    (decided,) = desk.db.decide_pending()
    assert (decided.proposal, decided.verdict) == (late.reference, Verdict.ACCEPTED)
    assert desk.db.homes()["seats"].feed == phone.feed
    assert put(desk, {"owner": "too late"}).pending
    world.exchange()
    assert not put(phone, {"owner": "phone"}).pending
    world.exchange()
    assert tablet.fields(*NAME) == {"owner": "phone"}
    sound(*devices)


def test_a_proposal_lapses_with_its_term(devices: Any, world: Any) -> None:
    """Nobody but the home that it was written for decides it: so nobody decides it twice."""
    desk, phone, tablet = devices
    desk.db.set_home("seats", phone.feed)
    commit = put(tablet, {"owner": "tablet"})
    world.exchange()
    assert tablet.db.decision(commit.reference).verdict is Verdict.LAPSED
    assert desk.db.decide_pending() == phone.db.decide_pending() == []
    again = put(tablet, {"owner": "tablet"})
    phone.receive(tablet)
    (decided,) = phone.db.decide_pending()
    assert (decided.proposal, decided.verdict) == (again.reference, Verdict.ACCEPTED)
    world.exchange()
    sound(*devices)


def test_a_home_that_was_lost_is_replaced_where_its_feed_ends(devices: Any, world: Any) -> None:
    """What it decided beyond, and nobody vouches for, does not count; what was proposed to it there lapses."""
    desk, phone, tablet = devices
    put(desk, {"owner": "vouched for"})
    phone.receive(desk)
    kept = length_of(phone, desk.feed)
    commit = put(tablet, {"owner": "accepted and lost"})
    assert put(tablet, {"seat": 1}).pending
    desk.receive(tablet)
    assert commit.reference in {one.proposal for one in desk.db.decide_pending()}
    phone.db.set_home("seats", phone.feed)
    assert phone.db.homes()["seats"].feed == desk.feed, "it has not agreed, and has not been ended"
    revoke(world, desk, phone, kept)
    phone.db.set_home("seats", phone.feed)
    assert phone.db.homes()["seats"].feed == phone.feed
    put(phone, {"owner": "new home"})
    for replica in (phone, tablet):
        replica.receive(desk, phone)
        assert replica.fields(*NAME) == {"owner": "new home"}
        assert replica.db.get(*NAME).view.conflicts == ()
    assert (
        tablet.db.decision(commit.reference) is None or tablet.db.decision(commit.reference).verdict is Verdict.LAPSED
    )
    sound(phone, tablet)


def test_who_has_not_seen_all_that_is_vouched_for_asks_in_vain(devices: Any, world: Any) -> None:
    """A decision of the lost home that counts may be on its way: nobody decides until it is here."""
    desk, phone, tablet = devices
    put(desk, {"owner": "vouched for"})
    late = world.newcomer("late")
    late.receive(desk)
    revoke(world, desk, late, length_of(late, desk.feed))
    for replica in (phone, tablet):
        with replica.store.write() as tx:
            add_events(tx, world.identity, world.events)
        replica.db.introduce()
    phone.db.set_home("seats", phone.feed)
    assert phone.db.homes()["seats"].feed == desk.feed
    assert put(phone, {"owner": "too early"}).pending
    phone.receive(desk)
    phone.db.set_home("seats", phone.feed)
    assert phone.db.homes()["seats"].feed == phone.feed
    assert phone.fields(*NAME) == {"owner": "vouched for"}
    put(phone, {"owner": "phone"})
    tablet.receive(desk, phone)
    sound(phone, tablet)


def test_a_home_that_a_thief_named_is_none_once_that_is_known(devices: Any, world: Any) -> None:
    """Only those who have not heard of it follow him; and the entry that named it stays as judged in its own past."""
    desk, phone, tablet = devices
    known = length_of(desk, phone.feed)
    phone.db.set_home("rows", phone.feed)
    phone.put("rows", "1", x="thief")
    tablet.receive(phone)
    assert tablet.db.homes()["rows"].feed == phone.feed
    revoke(world, phone, desk, known)
    tablet.receive(desk)
    desk.receive(tablet, phone)
    for replica in (desk, tablet):
        assert set(replica.db.homes()) == {"seats"}
        assert replica.fields("rows", "1") is None
    tablet.put("rows", "1", x="ours")
    desk.db.set_home("rows", desk.feed)
    desk.receive(tablet)
    tablet.receive(desk)
    assert tablet.fields("rows", "1") == {"x": "ours"}
    sound(desk, tablet)


def test_rival_homes_are_followed_by_everybody_alike(devices: Any, world: Any) -> None:
    """Two admins replace a lost home without knowing of each other: nothing is lost, and one of them goes on."""
    desk, phone, tablet = devices
    revoke(world, desk, phone, length_of(phone, desk.feed))
    tablet.receive(phone)
    for replica in (phone, tablet):
        replica.db.set_home("seats", replica.feed)
        put(replica, {"owner": replica.name})
    late = world.newcomer("late")
    late.receive(tablet, phone)
    phone.receive(tablet)
    tablet.receive(phone)
    homes = {one.db.homes()["seats"].feed for one in (phone, tablet, late)}
    assert len(homes) == 1
    (cell,) = late.db.get(*NAME).view.cells
    assert sorted(cell.values) == ["phone", "tablet"]
    winner, loser = (phone, tablet) if phone.feed in homes else (tablet, phone)
    assert put(loser, {"owner": "loser"}).pending
    winner.receive(loser)
    assert not put(winner, {"owner": "decided"}).pending
    phone.receive(tablet)
    tablet.receive(phone)
    sound(phone, tablet)


# --- those who lie ---


def forge(replica: Any, make: Any) -> str | None:
    """Sign an entry that no honest device would write; why it is masked where it is taken in."""
    stamps: list[Stamp] = []
    replica.db.write(lambda writing: stamps.append(writing.stamp()))
    append(replica.store, replica.feed, replica.device, [encode_entry(make(stamps[0]))])
    replica.db.take_new()
    with replica.store.read() as tx:
        assert audit_database(tx, replica.store.dialect, replica.world.uid) == []
        (reason,) = tx.fetch_one("SELECT masked FROM database_txn ORDER BY place DESC LIMIT 1")
    return reason  # type: ignore[no-any-return]


OP = Op(Verb.SET, NAME, ("owner",), "thief")


def test_what_is_written_past_the_home_is_masked(devices: Any, world: Any) -> None:
    desk, phone, _ = devices
    reason = forge(phone, lambda stamp: transaction_entry(Transaction(stamp, (OP,))))
    assert reason == Fault.NOT_BY_HOME
    world.exchange()
    assert desk.fields(*NAME) is None
    sound(*devices)


def test_nobody_but_the_home_decides_and_nobody_twice(devices: Any, world: Any) -> None:
    desk, phone, tablet = devices
    commit = put(phone, {"owner": "Novak"})
    world.exchange()
    with phone.db.read() as reader:
        from sync.storage.serial import read_proposal

        proposal = read_proposal(reader.branches, reader.branches.find(commit.reference))

    def accept(stamp: Stamp) -> Any:
        return transaction_entry(replace(proposal.transaction, stamp=stamp, decides=commit.reference))

    def refuse(stamp: Stamp) -> Any:
        return rejection_entry(Rejection(stamp, commit.reference, Why.STALE))

    assert forge(tablet, accept) == forge(tablet, refuse) == Fault.NOT_ITS_TERM
    altered = replace(proposal.transaction, ops=(OP,))
    assert (
        forge(desk, lambda stamp: transaction_entry(replace(altered, stamp=stamp, decides=commit.reference)))
        == Fault.ALTERED
    )
    unknown = desk.put("greetings", "desk", x=1).reference
    assert forge(desk, lambda stamp: rejection_entry(Rejection(stamp, unknown, Why.STALE))) == Fault.UNSEEN
    assert forge(desk, accept) is None
    assert forge(desk, accept) == forge(desk, refuse) == Fault.DECIDED
    world.exchange()
    assert phone.db.decision(commit.reference).rivals == ()
    sound(*devices)


def test_a_proposal_names_the_terms_in_force(devices: Any, world: Any) -> None:
    desk, phone, _ = devices
    term = desk.db.homes()["seats"].since
    other = desk.put("greetings", "desk", x=1).reference
    phone.receive(desk)
    elsewhere = Op(Verb.SET, DocumentId("rows", "1"), ("x",), 1)
    assert (
        forge(phone, lambda stamp: proposal_entry(Proposal(Transaction(stamp, (OP,)), (other,)))) == Fault.OTHER_TERMS
    )
    assert (
        forge(phone, lambda stamp: proposal_entry(Proposal(Transaction(stamp, (elsewhere,)), (term,))))
        == Fault.OTHER_TERMS
    )
    assert forge(phone, lambda stamp: proposal_entry(Proposal(Transaction(stamp, (OP,)), (term,)))) is None


def test_a_home_follows_the_one_in_force(devices: Any, world: Any) -> None:
    desk, phone, _ = devices
    term = desk.db.homes()["seats"].since
    assert forge(phone, lambda stamp: home_entry(HomeEntry(stamp, "seats", phone.feed))) == Fault.NOT_NEXT
    stranger = HomeEntry(Stamp(world.uid, None, (), 0, 1), "seats", b"\x05" * 32, term)
    assert forge(phone, lambda stamp: home_entry(replace(stranger, stamp=stamp))) == Fault.NO_SUCH_HOME
    unasked = HomeEntry(stranger.stamp, "seats", phone.feed, term, term)
    assert forge(phone, lambda stamp: home_entry(replace(unasked, stamp=stamp))) == Fault.NOT_ASKED
    assert forge(desk, lambda stamp: home_entry(replace(unasked, stamp=stamp))) == Fault.NOT_ASKED
    assert phone.db.homes()["seats"].feed == desk.feed
    world.exchange()
    sound(*devices)


def test_replicas_agree_whatever_came_first(devices: Any, world: Any) -> None:
    desk, phone, tablet = devices
    put(phone, {"owner": "phone"}, if_absent=True)
    put(tablet, {"owner": "tablet"}, if_absent=True)
    forge(phone, lambda stamp: transaction_entry(Transaction(stamp, (OP,))))
    desk.receive(phone, tablet)
    tablet.db.set_home("seats", tablet.feed)
    desk.receive(tablet)
    desk.db.decide_pending()
    tablet.receive(desk)
    put(tablet, {"owner": "at last"})
    made = []
    for number, order in enumerate(permutations(devices)):
        late = world.newcomer(f"late {number}")
        for source in order:
            late.receive(source)
        made.append(late)
    for late in made:
        assert late.fields(*NAME) == {"owner": "at last"}
    sound(*made)


# --- a home that contradicts itself, and one of somebody else ---


def test_a_home_that_forked_is_proven_by_its_rival_decisions(devices: Any, world: Any) -> None:
    """A copy of the home refuses what the home accepts: both are kept, and everybody names the same two."""
    desk, phone, tablet = devices
    commit = put(phone, {"owner": "Novak"})
    desk.receive(phone)
    twin = desk.copied("twin")
    desk.db.decide_pending()
    changes = Changes(strength=Strength.SERIAL)
    changes.put(*NAME, {"owner": "the copy"})
    twin.db.commit(changes)
    (refused,) = twin.db.decide_pending()
    assert refused.verdict is Verdict.REFUSED
    for first, second, reader in ((desk, twin, phone), (twin, desk, tablet)):
        for one in (first, second):
            bundle = BytesIO()
            one.db.export_bundle(bundle)
            reader.db.import_bundle(BytesIO(bundle.getvalue()))
    found = phone.db.decision(commit.reference)
    assert found == tablet.db.decision(commit.reference)
    assert (found.verdict, len(found.rivals)) == (Verdict.ACCEPTED, 1)
    (cell,) = phone.db.get(*NAME).view.cells
    assert sorted(cell.values) == ["Novak", "the copy"]
    sound(phone, tablet)


def test_a_home_of_a_writer_gives_it_away_only_when_an_admin_asks(make_world: Any, tmp_path: Path) -> None:
    world, ada, ben, cid = people(make_world, tmp_path)
    with pytest.raises(RefusedError, match="take an admin"):
        ben.db.set_home("seats", ben.feed)
    assert forge(ben, lambda stamp: home_entry(HomeEntry(stamp, "seats", ben.feed))) == "NOT_AN_ADMIN"
    assert ben.db.homes() == {}
    ada.db.set_home("seats", ben.feed)
    share(ada, ben, cid)
    assert not put(ben, {"owner": "Novak"}).pending
    with pytest.raises(RefusedError, match="take an admin"):
        ben.db.set_home("seats", cid.feed)
    share(ben, ada, cid)
    ada.db.set_home("seats", cid.feed)
    share(ada, ben)
    assert ben.db.decide_pending() == []
    share(ben, ada, cid)
    assert {one.db.homes()["seats"].feed for one in (ada, ben, cid)} == {cid.feed}
    assert not put(cid, {"owner": "Svoboda"}).pending
    share(cid, ada, ben)
    sound(ada, ben, cid)
    world.close()


def test_a_home_of_somebody_dismissed_is_replaced(make_world: Any, tmp_path: Path) -> None:
    world, ada, ben, cid = people(make_world, tmp_path)
    ada.db.set_home("seats", ben.feed)
    share(ada, ben, cid)
    put(ben, {"owner": "Novak"})
    share(ben, ada)
    length = length_of(ada, ben.feed)
    with ada.store.read() as tx:
        good = {ben.feed: LastGood(length, stored_tree_hash(tx, ben.feed, length))}
    put(ben, {"owner": "beyond"})
    ada.db.write(lambda writing: MemberEntry(writing.stamp(), Dismiss(ben.world.identity, good, "left the bank")))
    ada.db.set_home("seats", cid.feed)
    share(ada, cid, ben)
    share(ben, ada, cid)
    assert not put(cid, {"owner": "Svoboda"}).pending
    share(cid, ada)
    assert ada.fields(*NAME) == {"owner": "Svoboda"}
    with pytest.raises(RefusedError):
        put(ben, {"owner": "still here"})
    sound(ada, cid)
    world.close()


def test_a_proposal_to_purge_takes_an_admin(make_world: Any, tmp_path: Path) -> None:
    """Else a writer had what only admins may do carried out by a home that is one."""
    world, ada, ben, _ = people(make_world, tmp_path)
    ada.db.set_home("seats", ada.feed)
    put(ada, {"owner": "Novak"})
    share(ada, ben)
    changes = Changes(strength=Strength.SERIAL)
    changes.do(Op(Verb.PURGE, NAME, (), None))
    with pytest.raises(RefusedError, match="take an admin"):
        ben.db.commit(changes)
    term = ben.db.homes()["seats"].since
    purge = Transaction(Stamp(world.uid, None, (), 0, 1), (Op(Verb.PURGE, NAME, (), None),))
    forged = forge(ben, lambda stamp: proposal_entry(Proposal(replace(purge, stamp=stamp), (term,))))
    assert forged == "NOT_AN_ADMIN"
    share(ben, ada)
    assert ada.db.decide_pending() == []
    world.close()


def people(make_world: Any, directory: Path) -> tuple[Any, Any, Any, Any]:
    """A founder, and two writers of other identities who have written something."""
    world = make_world(directory, "ada")
    replicas = [world.replica("ada")]
    for name in ("ben", "cid"):
        home = make_world(directory, name)
        home.uid, home.founding, home.replicas = world.uid, world.founding, world.replicas
        one = home.newcomer(name)
        replicas.append(one)
        admission = Admit(home.identity, Role.WRITER, tuple(home.events))
        replicas[0].db.write(lambda writing, act=admission: MemberEntry(writing.stamp(), act))
    for one in replicas[1:]:
        share(replicas[0], one)
        one.put("greetings", one.name, x=1)
        share(one, replicas[0])
    share(replicas[0], *replicas[1:])
    return (world, *replicas)  # type: ignore[return-value]


def share(source: Any, *targets: Any) -> None:
    bundle = BytesIO()
    source.db.export_bundle(bundle)
    for target in targets:
        target.db.import_bundle(BytesIO(bundle.getvalue()))

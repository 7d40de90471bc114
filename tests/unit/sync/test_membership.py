"""Membership: acts as bytes, and who may write, whatever the order in which the acts arrive."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from identity.errors import LimitExceeded, MalformedError
from identity.event import MAX_LAST_GOOD, LastGood, RevocationReason, SignedEvent, event_digest
from identity.history import (
    DeviceClass,
    KeyHistory,
    build_add_device,
    build_close,
    build_inception,
    build_revoke_device,
    fold,
    key_commitment,
    sign_event,
)
from identity.keys import Ed25519Signer, Signer
from identity.textforms import to_zbase32
from ledger.entry import Entry, encode_entry, parse_entry
from ledger.values import Reference
from sync.acts import MAX_EVENTS, Act, Admit, CarryEvents, Dismiss, Found, MemberEntry, Role, member_entry, parse_member
from sync.clock import reading_at
from sync.membership import Author, Member, Membership, PlacedAct, Refusal, fold_members
from sync.transaction import Founding, Stamp, database_id, entry_id

HASH = b"\x0c" * 32


def signer(*seed: int) -> Ed25519Signer:
    return Ed25519Signer(bytes(seed).rjust(32, b"\0"))


class Person:
    """An identity with one root key and, at first, one device; everything follows from ``number``."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.root = signer(7, number, 1)
        self.devices = [signer(7, number, 3, n) for n in range(4)]
        inception = build_inception(
            label=f"person {number}",
            root_keys=[self.root.public_key],
            next_digests=[key_commitment(signer(7, number, 2).public_key)],
            time_ms=1,
        )
        self.events = [sign_event(inception, [(0, self.root)])]
        self.events.append(self.adding(0))

    @property
    def history(self) -> KeyHistory:
        return fold(self.events)

    @property
    def identity(self) -> bytes:
        return event_digest(self.events[0].event)

    def author(self, feed: int = 0, device: int = 0) -> Author:
        key = sha256(bytes([self.number, feed, device])).digest()
        return Author(key, self.devices[device].public_key, self.identity)

    def adding(self, device: int, *, after: int | None = None, device_class: str = "device") -> SignedEvent:
        """The root adds a device, after all events or the first ``after`` ones."""
        body = build_add_device(
            fold(self.events[:after]),
            device=self.devices[device].public_key,
            name="laptop",
            time_ms=1,
            device_class=DeviceClass(device_class),
        )
        return sign_event(body, [(0, self.root), (1, self.devices[device])])

    def added_by(self, admin: int, device: int, *, after: int | None = None) -> SignedEvent:
        by: Signer = self.devices[admin]
        body = build_add_device(
            fold(self.events[:after]),
            device=self.devices[device].public_key,
            name="phone",
            time_ms=1,
            by=by.public_key,
        )
        return sign_event(body, [(0, by), (1, self.devices[device])])

    def revoking(self, device: int, last_good: Mapping[bytes, int] = {}) -> SignedEvent:
        body = build_revoke_device(
            self.history,
            device=self.devices[device].public_key,
            last_good={feed: LastGood(length, HASH) for feed, length in last_good.items()},
            reason=RevocationReason.STOLEN,
            time_ms=2,
        )
        return sign_event(body, [(0, self.root)])

    def closing(self) -> SignedEvent:
        return sign_event(build_close(self.history, time_ms=2), [(0, self.root)])


def people(count: int) -> list[Person]:
    return [Person(number) for number in range(count)]


FOUNDING = Founding("shop", Person(0).identity, b"\x05" * 16)
DATABASE = database_id(FOUNDING)
STAMP = Stamp(DATABASE, None, (), 0, reading_at(1000))


class World:
    """Acts in the making. ``after`` None: the author has seen all of them; else those and what they had seen."""

    def __init__(self) -> None:
        self.acts: dict[bytes, PlacedAct] = {}

    def add(
        self,
        author: Author,
        index: int,
        act: Act,
        after: Iterable[bytes] | None = None,
        *,
        salt: int = 0,
        stamp: Stamp = STAMP,
    ) -> bytes:
        seen = set(self.acts if after is None else after)
        past = frozenset(seen.union(*(self.acts[name].past for name in seen)))
        leaf = sha256(author.feed + bytes([index, salt]) + repr((act, sorted(past))).encode()).digest()
        placed = PlacedAct(Reference(author.feed, index, leaf), author, MemberEntry(stamp, act), past)
        name = entry_id(placed.reference)
        self.acts[name] = placed
        return name

    def found(self, founder: Person) -> bytes:
        return self.add(founder.author(), 0, Found(FOUNDING, tuple(founder.events)), ())

    def admit(self, by: Person, index: int, who: Person, role: Role = Role.ADMIN, **places: Any) -> bytes:
        return self.add(by.author(), index, Admit(who.identity, role, tuple(who.events)), **places)

    def dismiss(
        self,
        by: Person,
        index: int,
        who: Person,
        last_good: Mapping[bytes, int] = {},
        **places: Any,
    ) -> bytes:
        return self.add(by.author(), index, dismissal(who, last_good), **places)

    def fold(self, names: Iterable[bytes] | None = None) -> Membership:
        chosen = list(self.acts if names is None else names)
        return fold_members(DATABASE, [self.acts[name] for name in chosen])

    def past(self, name: bytes) -> Membership:
        return self.fold(self.acts[name].past)

    def fold_every_way(self) -> Membership:
        """The one result of all orders."""
        results = [fold_members(DATABASE, order) for order in permutations(self.acts.values())]
        assert all(result == results[0] for result in results)
        return results[0]


def dismissal(who: Person, last_good: Mapping[bytes, int] = {}) -> Dismiss:
    return Dismiss(who.identity, {feed: LastGood(length, HASH) for feed, length in last_good.items()}, "left")


# --- the entry ------------------------------------------------------------------------------------------------------

ADA = Person(0)
EVENTS = tuple(ADA.events)
ACTS: list[Act] = [
    Found(FOUNDING, EVENTS),
    Admit(ADA.identity, Role.WRITER, EVENTS),
    Admit(ADA.identity, Role.READER),
    CarryEvents(ADA.identity, EVENTS[1:]),
    dismissal(ADA, {b"\x01" * 32: 1, b"\x02" * 32: 1 << 30}),
    dismissal(ADA),
]


@pytest.mark.parametrize("act", ACTS, ids=lambda act: type(act).__name__)
def test_act_comes_back_from_its_bytes(act: Act) -> None:
    member = MemberEntry(replace(STAMP, back=Reference(HASH, 3, HASH), deps=(Reference(HASH, 4, HASH),)), act)
    entry = member_entry(member)
    assert parse_member(parse_entry(encode_entry(entry))) == member
    assert (entry.kind, entry.claimed_ms) == ("member", 1000)


def test_events_are_written_in_one_order() -> None:
    entry = member_entry(MemberEntry(STAMP, CarryEvents(ADA.identity, EVENTS[::-1])))
    assert parse_member(entry).act == CarryEvents(ADA.identity, EVENTS)


def body_of(act: Act) -> dict[str, Any]:
    return dict(member_entry(MemberEntry(STAMP, act)).body)


def parse_act(act: object) -> MemberEntry:
    return parse_member(Entry("member", 1000, {**body_of(ACTS[0]), "act": act}))  # type: ignore[dict-item]


FOUND, ADMIT, CARRIED, DISMISSED = (body_of(ACTS[at])["act"] for at in (0, 1, 3, 4))
FEED = to_zbase32(b"\x01" * 32)
ENCODED = [signed.encode() for signed in EVENTS]


@pytest.mark.parametrize(
    ("act", "match"),
    [
        (None, "not a map"),
        ({}, "'type' is missing"),
        ({**FOUND, "type": "suspend"}, "unknown act"),
        ({**FOUND, "type": 3}, "'type'"),
        ({**FOUND, "role": "admin"}, "'role'"),
        ({**FOUND, "name": ""}, "'name'"),
        ({**FOUND, "salt": b"\0" * 15}, "'salt' has 15 bytes"),
        ({**FOUND, "identity": b"\0" * 31}, "'identity' has 31 bytes"),
        ({**FOUND, "identity": HASH}, "another identity"),
        ({**FOUND, "events": []}, "'events'"),
        ({**ADMIT, "role": "owner"}, "unknown role"),
        ({**ADMIT, "role": None}, "'role'"),
        ({**ADMIT, "events": None}, "'events'"),
        ({**ADMIT, "events": ["text"]}, "an event is bytes"),
        ({**ADMIT, "events": [b"\xa0"]}, "signed event"),
        ({**ADMIT, "events": ENCODED[::-1]}, "ascending"),
        ({**ADMIT, "events": [ENCODED[0], ENCODED[0]]}, "ascending"),
        ({**ADMIT, "events": [Person(1).events[1].encode()]}, "another identity"),
        ({**CARRIED, "events": []}, "'events'"),
        ({**CARRIED, "reason": ""}, "'reason'"),
        ({key: value for key, value in DISMISSED.items() if key != "reason"}, "'reason' is missing"),
        ({**DISMISSED, "reason": "x" * 4097}, "'reason'"),
        ({**DISMISSED, "events": []}, "'events'"),
        ({**DISMISSED, "last_good": {"feed": [1, HASH]}}, "z-base-32"),
        ({**DISMISSED, "last_good": {FEED: [0, HASH]}}, "length from 1"),
        ({**DISMISSED, "last_good": {FEED: [True, HASH]}}, "length from 1"),
        ({**DISMISSED, "last_good": {FEED: [1, HASH[1:]]}}, "32-byte tree hash"),
        ({**DISMISSED, "last_good": {FEED: [1, HASH, 0]}}, "32-byte tree hash"),
        ({**DISMISSED, "last_good": [FEED]}, "'last_good'"),
    ],
)
def test_act_of_another_form_is_refused(act: object, match: str) -> None:
    with pytest.raises(MalformedError, match=match):
        parse_act(act)


def test_act_is_bounded() -> None:
    with pytest.raises(LimitExceeded, match="events"):
        parse_act({**ADMIT, "events": [ENCODED[0]] * (MAX_EVENTS + 1)})
    large = SignedEvent(b"x" * 200_000, EVENTS[0].signatures).encode()
    with pytest.raises(LimitExceeded, match="bytes of events"):
        parse_act({**ADMIT, "events": [large] * 3})
    with pytest.raises(LimitExceeded, match="last_good"):
        feeds = {to_zbase32(at.to_bytes(32, "big")): [1, HASH] for at in range(MAX_LAST_GOOD + 1)}
        parse_act({**DISMISSED, "last_good": feeds})


def test_entry_around_the_act_is_checked() -> None:
    body = body_of(ACTS[0])
    with pytest.raises(MalformedError, match="not an act"):
        parse_member(Entry("txn", 1000, body))
    with pytest.raises(MalformedError, match="clock"):
        parse_member(Entry("member", 1001, body))
    with pytest.raises(MalformedError, match="'more'"):
        parse_member(Entry("member", 1000, {**body, "more": 1}))
    with pytest.raises(MalformedError, match="'act' is missing"):
        parse_member(Entry("member", 1000, {key: value for key, value in body.items() if key != "act"}))


def test_act_that_could_not_be_read_is_not_written() -> None:
    with pytest.raises(MalformedError, match="another identity"):
        member_entry(MemberEntry(STAMP, Admit(HASH, Role.ADMIN, EVENTS)))
    with pytest.raises(MalformedError, match="length from 1"):
        member_entry(MemberEntry(STAMP, dismissal(ADA, {HASH: 0})))


# --- the founding ---------------------------------------------------------------------------------------------------


def test_founder_is_an_admin_of_depth_0() -> None:
    world, (ada, ben) = World(), people(2)
    world.found(ada)
    result = world.fold()
    assert result.members == {ada.identity: Member(Role.ADMIN, ada.history, None, 0, False)}
    assert result.void == {}
    assert result.may_write(ada.author()) is None
    assert result.may_write(ada.author(device=1)) is Refusal.UNKNOWN_DEVICE
    assert result.may_write(ben.author()) is Refusal.NOT_A_MEMBER
    assert result.cut(ada.author()) is None
    assert result.cut(ben.author()) == 0


def test_wrong_founding_is_void_and_so_is_all_that_rests_on_it() -> None:
    ada, ben = people(2)
    founding = Found(FOUNDING, tuple(ada.events))
    cases: list[tuple[Author, Act, Stamp, str]] = [
        (ada.author(), Found(replace(FOUNDING, name="other"), founding.events), STAMP, "another database"),
        (ada.author(), founding, replace(STAMP, back=Reference(HASH, 0, HASH)), "not the first"),
        (ada.author(), founding, replace(STAMP, deps=(Reference(HASH, 0, HASH),)), "not the first"),
        (ada.author(), founding, replace(STAMP, database=HASH), "another database"),
        (replace(ada.author(), identity=ben.identity), founding, STAMP, "somebody else"),
        (ada.author(device=1), founding, STAMP, "UNKNOWN_DEVICE"),
        (ada.author(), Found(FOUNDING, tuple(ada.events[1:])), STAMP, "UNKNOWN_DEVICE"),
    ]
    for author, act, stamp, reason in cases:
        world = World()
        name = world.add(author, 0, act, (), stamp=stamp)
        admission = world.admit(ada, 1, ben)
        result = world.fold()
        assert reason in result.void[name]
        assert "NOT_A_MEMBER" in result.void[admission]
        assert result.members == {}


def test_nothing_excludes_the_founding() -> None:
    world, (ada, ben) = World(), people(2)
    world.found(ada)
    world.admit(ada, 1, ben)
    revocation = ada.revoking(0)
    world.add(ada.author(), 2, CarryEvents(ada.identity, (revocation,)))
    result = world.fold_every_way()
    assert result.members[ada.identity].depth == 0
    assert ben.identity not in result.members
    assert result.excluded(ada.author(), 0) is Refusal.REVOKED_DEVICE


# --- admissions and roles -------------------------------------------------------------------------------------------


def test_roles_and_depths() -> None:
    world, (ada, ben, cleo, dan) = World(), people(4)
    world.found(ada)
    world.admit(ada, 1, ben)
    world.admit(ben, 0, cleo, Role.WRITER)
    world.admit(ben, 1, dan, Role.READER)
    result = world.fold()
    found = [(result.members[one.identity].role, result.members[one.identity].depth) for one in (ben, cleo, dan)]
    assert found == [(Role.ADMIN, 1), (Role.WRITER, 2), (Role.READER, 2)]
    assert result.members[cleo.identity].admitted_by == ben.identity
    assert result.may_write(cleo.author()) is None
    assert result.may_write(dan.author()) is Refusal.READ_ONLY_ROLE


def test_only_an_admin_admits_and_dismisses() -> None:
    world, (ada, ben, cleo, dan) = World(), people(4)
    world.found(ada)
    world.admit(ada, 1, ben, Role.WRITER)
    world.admit(ada, 2, cleo, Role.READER)
    acts = [world.admit(ben, 0, dan), world.dismiss(ben, 1, cleo), world.admit(dan, 0, ben)]
    acts.append(world.admit(cleo, 0, dan))
    result = world.fold()
    reasons = ["no admin", "no admin", "NOT_A_MEMBER", "READ_ONLY_ROLE"]
    assert all(reason in result.void[name] for name, reason in zip(acts, reasons, strict=True))
    assert dan.identity not in result.members


def test_admission_must_be_in_the_past_of_what_rests_on_it() -> None:
    world, (ada, ben, cleo) = World(), people(3)
    founding = world.found(ada)
    world.admit(ada, 1, ben)
    early = world.admit(ben, 0, cleo, after=[founding])
    result = world.fold_every_way()
    assert "NOT_A_MEMBER" in result.void[early]
    assert result.excluded(cleo.author(), 0) is Refusal.NOT_A_MEMBER


def test_role_is_changed_by_a_later_admission_and_not_by_a_junior() -> None:
    world, (ada, ben, cleo, dan) = World(), people(4)
    world.found(ada)
    world.admit(ada, 1, ben)
    world.admit(ben, 0, cleo)
    junior = world.admit(cleo, 0, ben, Role.READER)
    founder = world.admit(ben, 1, ada, Role.READER)
    world.admit(ada, 2, cleo, Role.WRITER)
    late = world.admit(cleo, 1, dan)
    result = world.fold()
    assert "senior" in result.void[junior]
    assert "founder" in result.void[founder]
    assert "no admin" in result.void[late]
    assert result.members[cleo.identity].role is Role.WRITER
    assert result.members[cleo.identity].depth == 1


def test_of_concurrent_admissions_the_senior_one_gives_the_role_then_the_one_that_allows_least() -> None:
    world, (ada, ben, cleo, dan, eve) = World(), people(5)
    world.found(ada)
    seen = [world.admit(ada, 1, ben), world.admit(ada, 2, cleo)]
    world.admit(ada, 3, dan, Role.WRITER, after=seen)
    world.admit(ben, 0, dan, Role.READER, after=seen)
    world.admit(ben, 1, eve, Role.ADMIN, after=seen)
    world.admit(cleo, 0, eve, Role.WRITER, after=seen)
    result = world.fold()
    assert result.members[dan.identity].role is Role.WRITER
    assert result.members[eve.identity].role is Role.WRITER


def test_admission_without_events_waits_for_them() -> None:
    world, (ada, ben) = World(), people(2)
    world.found(ada)
    world.add(ada.author(), 1, Admit(ben.identity, Role.WRITER))
    before = world.fold()
    assert before.members[ben.identity].history is None
    assert before.may_write(ben.author()) is Refusal.UNKNOWN_DEVICE
    world.add(ben.author(), 0, CarryEvents(ben.identity, tuple(ben.events)))
    assert world.fold().may_write(ben.author()) is None
    assert world.fold().members[ben.identity].history == ben.history


def test_admission_with_events_that_do_not_fold_is_void() -> None:
    world, (ada, ben) = World(), people(2)
    world.found(ada)
    name = world.add(ada.author(), 1, Admit(ben.identity, Role.WRITER, tuple(ben.events[1:])))
    assert "1 of its 1 identity events" in world.fold().void[name]
    assert ben.identity not in world.fold().members


# --- identity events ------------------------------------------------------------------------------------------------


def test_new_device_is_carried_by_its_own_feed() -> None:
    world, (ada, ben) = World(), people(2)
    world.found(ada)
    world.admit(ada, 1, ben)
    added = ben.adding(1)
    phone = ben.author(1, 1)
    assert world.fold().may_write(phone) is Refusal.UNKNOWN_DEVICE
    carried = world.add(phone, 0, CarryEvents(ben.identity, (added,)))
    act = world.add(phone, 1, Admit(ada.identity, Role.ADMIN))
    result = world.fold()
    assert carried not in result.void
    assert "founder" in result.void[act]
    assert world.past(act).may_write(phone) is None
    assert world.past(carried).may_write(phone) is Refusal.UNKNOWN_DEVICE


def test_events_are_merged_from_several_acts_and_anybody_may_carry_them() -> None:
    world, (ada, ben, stranger) = World(), people(3)
    world.found(ada)
    world.admit(ada, 1, ben)
    first = ben.adding(1)
    ben.events.append(first)
    second = ben.adding(2)
    late = world.add(stranger.author(), 0, CarryEvents(ben.identity, (second,)), ())
    assert "do not follow" in world.fold().void[late]
    assert world.fold().may_write(ben.author(device=2)) is Refusal.UNKNOWN_DEVICE
    world.add(stranger.author(), 1, CarryEvents(ben.identity, (first, second)), ())
    result = world.fold_every_way()
    assert result.void == {}
    assert result.may_write(ben.author(device=2)) is None
    assert len(result.members[ben.identity].history.events) == 4  # type: ignore[union-attr]


def test_event_is_not_spoilt_by_bad_copies_of_it() -> None:
    world, (ada, ben, mallory) = World(), people(3)
    world.found(ada)
    world.admit(ada, 1, ben)
    added, closing = ben.adding(1), ben.closing()
    spoilt = tuple(replace(added, signatures=((0, bytes([n]) * 64), (1, b"\xff" * 64))) for n in (0, 255))
    forged = replace(closing, signatures=((0, b"\0" * 64),))
    for index, event in enumerate([*spoilt, forged]):
        world.add(mallory.author(), index, CarryEvents(ben.identity, (event,)), ())
    good = world.add(ben.author(), 0, CarryEvents(ben.identity, (added,)))
    result = world.fold()
    assert good not in result.void
    assert sum("do not follow" in reason for reason in result.void.values()) == 1
    assert result.may_write(ben.author(device=1)) is None
    assert not result.disputed(ben.identity)


def test_closed_identity_binds_what_has_seen_it() -> None:
    world, (ada, ben, cleo) = World(), people(3)
    world.found(ada)
    admitted = world.admit(ada, 1, ben)
    world.add(ben.author(), 0, CarryEvents(ben.identity, (ben.closing(),)))
    late = world.admit(ben, 1, cleo)
    concurrent = world.admit(ben, 2, cleo, after=[admitted])
    result = world.fold_every_way()
    assert result.may_write(ben.author()) is Refusal.IDENTITY_CLOSED
    assert result.excluded(ben.author(), 5) is None
    assert "IDENTITY_CLOSED" in result.void[late]
    assert concurrent not in result.void


def test_revoked_device_is_masked_past_last_good_in_every_order() -> None:
    world, (ada, ben, cleo, dan) = World(), people(4)
    world.found(ada)
    admitted = world.admit(ada, 1, ben)
    early = world.admit(ben, 2, cleo, after=[admitted])
    backdated = world.admit(ben, 3, dan, after=[admitted])
    revocation = ben.revoking(0, {ben.author().feed: 3})
    world.add(ada.author(), 2, CarryEvents(ben.identity, (revocation,)), [admitted])
    result = world.fold_every_way()
    assert early not in result.void
    assert "revoked" in result.void[backdated]
    assert dan.identity not in result.members
    assert result.may_write(ben.author()) is Refusal.REVOKED_DEVICE
    assert [result.excluded(ben.author(), at) for at in (2, 3)] == [None, Refusal.REVOKED_DEVICE]
    assert result.excluded(ben.author(feed=1), 0) is Refusal.REVOKED_DEVICE
    assert result.cut(ben.author()) == 3
    assert result.cut(ben.author(device=1)) is None


def test_two_events_with_one_prev_make_an_identity_disputed() -> None:
    world, (ada, ben) = World(), people(2)
    world.found(ada)
    admitted = world.admit(ada, 1, ben)
    world.add(ben.author(), 0, CarryEvents(ben.identity, (ben.adding(1),)), [admitted])
    world.add(ben.author(), 1, CarryEvents(ben.identity, (ben.adding(2),)), [admitted])
    result = world.fold_every_way()
    assert result.disputed(ben.identity)
    assert not result.disputed(ada.identity)
    assert result.may_write(ben.author()) is None
    assert result.may_write(ben.author(device=1)) is Refusal.IDENTITY_DISPUTED
    assert result.excluded(ben.author(device=1), 9) is None
    history = result.members[ben.identity].history
    assert history is not None
    assert {event_digest(ben.adding(n).event) for n in (1, 2)} == set(history.duplicity or ())


@pytest.mark.parametrize("device", [2, 3])  # so that each of the two chains has the smaller digest once
def test_rival_event_does_not_undo_a_revocation(device: int) -> None:
    world, (ada, ben) = World(), people(2)
    ben.events.append(ben.adding(1, device_class="admin"))
    world.found(ada)
    world.admit(ada, 1, ben)
    before = len(ben.events)
    ben.events.append(ben.added_by(1, 2 if device == 3 else 3))
    revocation = ben.revoking(1)
    world.add(ben.author(), 0, CarryEvents(ben.identity, (ben.events[-1], revocation)))
    thief = ben.author(1, 1)
    assert world.fold().excluded(thief, 0) is Refusal.REVOKED_DEVICE
    world.add(thief, 0, CarryEvents(ben.identity, (ben.added_by(1, device, after=before),)), ())
    result = world.fold()
    assert result.disputed(ben.identity)
    assert result.excluded(thief, 0) is Refusal.REVOKED_DEVICE
    assert result.may_write(thief) is Refusal.REVOKED_DEVICE


# --- dismissal ------------------------------------------------------------------------------------------------------


def test_dismissal_masks_past_last_good_in_every_order() -> None:
    world, (ada, ben, cleo, dan) = World(), people(4)
    world.found(ada)
    admitted = world.admit(ada, 1, ben)
    kept = world.admit(ben, 4, cleo, after=[admitted])
    masked = world.admit(ben, 5, dan, after=[admitted])
    world.dismiss(ada, 2, ben, {ben.author().feed: 5}, after=[admitted])
    result = world.fold_every_way()
    assert kept not in result.void
    assert "dismissed" in result.void[masked]
    assert set(result.members) == {ada.identity, ben.identity, cleo.identity}
    assert result.members[ben.identity].dismissed
    assert result.may_write(ben.author()) is Refusal.DISMISSED
    assert [result.excluded(ben.author(), at) for at in (4, 5)] == [None, Refusal.DISMISSED]
    assert result.excluded(ben.author(feed=1), 0) is Refusal.DISMISSED
    assert (result.cut(ben.author()), result.cut(ben.author(feed=1)), result.cut(ada.author())) == (5, 0, None)


def test_dismissal_also_ends_an_admission_that_has_not_seen_it() -> None:
    world, (ada, ben, cleo) = World(), people(3)
    world.found(ada)
    seen = [world.admit(ada, 1, ben), world.admit(ada, 2, cleo)]
    world.dismiss(ada, 3, cleo, after=seen)
    world.admit(ben, 0, cleo, after=seen)
    assert world.fold_every_way().members[cleo.identity].dismissed


def test_junior_cannot_dismiss_a_senior() -> None:
    world, (ada, ben, cleo, dan) = World(), people(4)
    world.found(ada)
    world.admit(ada, 1, ben)
    world.admit(ada, 2, dan, Role.READER)
    world.admit(ben, 0, cleo)
    acts = [world.dismiss(cleo, at, who) for at, who in enumerate((ada, ben, dan))]
    acts.append(world.dismiss(ben, 1, ada))
    acts.append(world.dismiss(ben, 2, Person(9)))
    result = world.fold()
    expected = ["founder", "dismisses a senior", "dismisses a senior", "founder", "no member"]
    assert all(reason in result.void[name] for name, reason in zip(acts, expected, strict=True))
    assert not any(member.dismissed for member in result.members.values())
    equal = world.dismiss(ben, 3, dan)
    assert equal not in world.fold().void
    assert world.fold().members[dan.identity].dismissed


def test_junior_who_had_not_seen_a_senior_admission_cannot_dismiss_either() -> None:
    world, (ada, ben, cleo, dan) = World(), people(4)
    world.found(ada)
    world.admit(ada, 1, ben)
    seen = [world.admit(ben, 0, cleo), world.admit(ben, 1, dan)]
    world.admit(ada, 2, dan, after=seen)
    act = world.dismiss(cleo, 0, dan, after=seen)
    assert act not in world.fold(world.acts[act].past | {act}).void
    result = world.fold()
    assert "senior" in result.void[act]
    assert not result.members[dan.identity].dismissed


@pytest.mark.parametrize("salt", range(4))
def test_mutual_dismissal_of_equals_is_decided_by_entry_id_in_every_order(salt: int) -> None:
    world, (ada, ben, cleo) = World(), people(3)
    world.found(ada)
    seen = [world.admit(ada, 1, ben), world.admit(ada, 2, cleo)]
    rivals = {world.dismiss(ben, 0, cleo, after=seen, salt=salt): ben, world.dismiss(cleo, 0, ben, after=seen): cleo}
    first, second = sorted(rivals)
    result = world.fold_every_way()
    assert set(result.void) == {second}
    assert not result.members[rivals[first].identity].dismissed
    assert result.members[rivals[second].identity].dismissed


def test_mutual_dismissal_is_won_by_the_senior_whatever_the_entry_ids() -> None:
    for salt in range(4):
        world, (ada, ben, cleo) = World(), people(3)
        world.found(ada)
        world.admit(ada, 1, ben)
        seen = [world.admit(ben, 0, cleo)]
        world.admit(ada, 2, cleo, Role.ADMIN, after=seen)  # cleo does not know that she is ben's equal now
        junior = world.dismiss(cleo, 0, ben, after=seen, salt=salt)
        world.dismiss(ben, 1, cleo, after=seen)
        result = world.fold()
        assert set(result.void) == {junior}
        assert result.members[cleo.identity].dismissed
        assert not result.members[ben.identity].dismissed


def test_both_go_when_each_vouches_for_the_others_act() -> None:
    world, (ada, ben, cleo) = World(), people(3)
    world.found(ada)
    seen = [world.admit(ada, 1, ben), world.admit(ada, 2, cleo)]
    world.dismiss(ben, 0, cleo, {cleo.author().feed: 1}, after=seen)
    world.dismiss(cleo, 0, ben, {ben.author().feed: 1}, after=seen)
    result = world.fold_every_way()
    assert result.void == {}
    assert [result.members[one.identity].dismissed for one in (ada, ben, cleo)] == [False, True, True]


def test_dismissal_that_only_excludes_another_comes_before_it_whatever_the_entry_ids() -> None:
    for salt in range(6):
        world, (ada, ben, cleo, dan) = World(), people(4)
        world.found(ada)
        seen = [world.admit(ada, at, one) for at, one in enumerate((ben, cleo, dan), 1)]
        second = world.dismiss(cleo, 0, dan, after=seen, salt=salt)
        world.dismiss(ben, 0, cleo, after=seen)
        result = world.fold()
        assert set(result.void) == {second}
        assert not result.members[dan.identity].dismissed


def test_circle_of_three_breaks_at_its_smallest_entry_id_before_what_hangs_on_it_is_decided() -> None:
    starts = set()
    for salt in range(12):
        world, (ada, ben, cleo, dan, eve, fay) = World(), people(6)
        world.found(ada)
        seen = [world.admit(ada, at, one) for at, one in enumerate((ben, cleo, dan, eve, fay), 1)]
        pairs = ((ben, cleo), (cleo, dan), (dan, ben))
        circle = [world.dismiss(by, 0, who, after=seen, salt=salt) for by, who in pairs]
        hanging = world.dismiss(dan, 1, eve, after=seen)
        last = world.dismiss(eve, 0, fay, after=seen)
        result = world.fold(reversed(list(world.acts)))
        start = circle.index(min(circle))
        starts.add(start)
        loser = circle[(start + 1) % 3]
        assert set(result.void) == {loser, last if loser == circle[1] else hanging}
        assert result == world.fold()
    assert starts == {0, 1, 2}


def test_void_admission_takes_everything_with_it() -> None:
    world, (ada, ben, cleo, dan, eve) = World(), people(5)
    world.found(ada)
    admitted = world.admit(ada, 1, ben)
    world.admit(ben, 0, cleo, after=[admitted])
    second = world.admit(cleo, 0, dan)
    third = world.dismiss(dan, 0, cleo)
    world.admit(ada, 2, eve, after=[admitted])
    assert not world.fold().void.keys() - {third}
    world.dismiss(ada, 3, ben, after=[admitted])
    result = world.fold()
    assert second in result.void
    assert third in result.void
    assert set(result.members) == {ada.identity, ben.identity, eve.identity}
    assert result.excluded(dan.author(), 0) is Refusal.NOT_A_MEMBER
    assert world.fold(reversed(list(world.acts))) == result


def test_member_stays_who_was_admitted_twice() -> None:
    world, (ada, ben, cleo, dan) = World(), people(4)
    world.found(ada)
    seen = [world.admit(ada, 1, ben), world.admit(ada, 2, cleo)]
    world.admit(ben, 0, dan, after=seen)
    world.admit(cleo, 0, dan, Role.WRITER, after=seen)
    world.dismiss(ada, 3, ben, after=seen)
    assert world.fold().members[dan.identity].admitted_by == cleo.identity
    assert world.fold().excluded(dan.author(), 7) is None


def test_dismissal_by_somebody_dismissed_is_undone() -> None:
    world, (ada, ben, cleo) = World(), people(3)
    world.found(ada)
    seen = [world.admit(ada, 1, ben), world.admit(ada, 2, cleo)]
    world.dismiss(ben, 0, cleo, after=seen)
    assert world.fold().members[cleo.identity].dismissed
    world.dismiss(ada, 3, ben, after=seen)
    assert not world.fold_every_way().members[cleo.identity].dismissed


def test_member_may_leave_and_the_founder_too() -> None:
    world, (ada, ben) = World(), people(2)
    world.found(ada)
    world.admit(ada, 1, ben)
    leaving = world.dismiss(ada, 2, ada, {ada.author().feed: 2})
    result = world.fold_every_way()
    assert result.void == {}
    assert result.members[ada.identity].dismissed
    assert [result.excluded(ada.author(), at) for at in (2, 3)] == [None, Refusal.DISMISSED]
    back = world.admit(ben, 0, ada, Role.WRITER, after=[leaving])
    assert back not in world.fold().void
    assert world.fold().members[ada.identity].depth == 2


def test_readmitted_member_writes_to_a_new_feed() -> None:
    world, (ada, ben, cleo, dan) = World(), people(4)
    world.found(ada)
    admitted = world.admit(ada, 1, ben)
    world.dismiss(ada, 2, ben, {ben.author().feed: 3}, after=[admitted])
    assert world.fold().excluded(ben.author(feed=1), 0) is Refusal.DISMISSED
    world.admit(ada, 3, ben)
    old = world.admit(ben, 3, cleo)
    new = world.add(ben.author(feed=1), 0, Admit(dan.identity, Role.WRITER, tuple(dan.events)))
    result = world.fold()
    assert "DISMISSED" in result.void[old]
    assert new not in result.void
    assert not result.members[ben.identity].dismissed
    assert result.may_write(ben.author()) is Refusal.DISMISSED
    assert result.may_write(ben.author(feed=1)) is None
    assert [result.excluded(ben.author(), at) for at in (2, 3)] == [None, Refusal.DISMISSED]
    assert result.excluded(ben.author(feed=1), 0) is None
    assert world.fold(reversed(list(world.acts))) == result


def test_second_dismissal_ends_the_second_membership() -> None:
    world, (ada, ben, cleo) = World(), people(3)
    world.found(ada)
    world.admit(ada, 1, ben)
    world.dismiss(ada, 2, ben)
    world.admit(ada, 3, ben)
    world.admit(ada, 4, cleo)
    act = world.dismiss(cleo, 0, ben, {ben.author(feed=1).feed: 4})
    result = world.fold()
    assert act not in result.void
    assert result.may_write(ben.author(feed=2)) is Refusal.DISMISSED
    assert [result.excluded(ben.author(feed=1), at) for at in (3, 4)] == [None, Refusal.DISMISSED]
    assert result.excluded(ben.author(), 0) is Refusal.DISMISSED


def test_second_dismissal_may_vouch_for_less() -> None:
    world, (ada, ben) = World(), people(2)
    world.found(ada)
    world.admit(ada, 1, ben)
    world.dismiss(ada, 2, ben, {ben.author().feed: 9})
    world.dismiss(ada, 3, ben, {ben.author().feed: 4})
    assert world.fold().cut(ben.author()) == 4


# --- any history, any order -----------------------------------------------------------------------------------------

CROWD = people(5)
NEWS = [
    CarryEvents(CROWD[1].identity, (CROWD[1].adding(1),)),
    CarryEvents(CROWD[1].identity, (CROWD[1].adding(2),)),
    CarryEvents(CROWD[2].identity, (CROWD[2].revoking(0, {CROWD[2].author().feed: 2}),)),
    CarryEvents(CROWD[3].identity, (CROWD[3].closing(),)),
]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """A founder, then acts of anybody about anybody, each after any of those before it."""
    world = World()
    names = [world.found(CROWD[0])]
    whom = st.sampled_from(CROWD)
    for number in range(draw(st.integers(4, 14))):
        author, who = draw(whom), draw(whom)
        act: Act = draw(st.sampled_from(NEWS))
        kind = draw(st.integers(0, 4))
        if kind < 2:
            act = Admit(who.identity, draw(st.sampled_from(Role)), tuple(who.events))
        elif kind < 4:
            length = draw(st.integers(0, 4))
            act = dismissal(who, {who.author().feed: length} if length else {})
        after = draw(st.sets(st.sampled_from(names), min_size=1)) if draw(st.booleans()) else None
        feed = draw(st.integers(0, 1))
        names.append(world.add(author.author(feed), draw(st.integers(1, 5)), act, after, salt=number))
    return world


@settings(max_examples=40, deadline=None)
@given(worlds(), st.randoms(use_true_random=False))
def test_result_depends_on_the_set_alone(world: World, random: Any) -> None:
    acts = list(world.acts.values())
    expected = fold_members(DATABASE, acts)
    again: Sequence[PlacedAct] = random.sample(acts, len(acts)) + acts[:2]
    assert fold_members(DATABASE, again) == expected
    _check_sense(world, expected)


def _check_sense(world: World, result: Membership) -> None:
    """What holds of every history: who admits counts, the founder stays, and what is void has a reason."""
    assert result.void.keys() <= world.acts.keys()
    assert all(result.void.values())
    founder = result.members[CROWD[0].identity]
    assert founder.role is Role.ADMIN or founder.depth > 0
    for member in result.members.values():
        assert (member.depth == 0) == (member.admitted_by is None)
        assert member.admitted_by is None or member.admitted_by in result.members
    for name, placed in world.acts.items():
        if name in result.void or isinstance(placed.entry.act, Found | CarryEvents):
            continue
        assert placed.author.identity in result.members
        assert world.past(name).may_write(placed.author) is None


@settings(max_examples=25, deadline=None)
@given(worlds())
def test_revoked_device_stays_revoked_whatever_is_added(world: World) -> None:
    seen: list[bytes] = []
    thief, revoked = CROWD[2].author(), False
    for name in world.acts:
        seen.append(name)
        result = world.fold(seen)
        revoked = revoked or world.acts[name].entry.act == NEWS[2]
        if revoked and thief.identity in result.members:
            assert result.excluded(thief, 2) is Refusal.REVOKED_DEVICE

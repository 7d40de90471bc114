"""Pairing: safety numbers, codes, and the one offer that a node makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from api.pairing import OFFER_MS, Guest, Offers, OfferState, Party, guest_of, make_code, parse_code, safety_number
from identity.errors import MalformedError, MissingEvidenceError, RefusedError, SignatureMismatch, VerificationError
from identity.event import RevocationReason
from identity.history import SignedEvent, build_close, build_revoke_device, fold
from identity.keys import Ed25519Signer
from sync.acts import Role

NODE, PHONE, THIEF = (Party(bytes([one]) * 32, bytes([one + 100]) * 32) for one in (1, 2, 3))
BANK = b"\x0b" * 32


def guest(party: Party) -> Guest:
    return Guest(party, "phone", ())


@pytest.fixture
def offers() -> Offers:
    return Offers()


def test_both_sides_show_the_same_number() -> None:
    number = safety_number(NODE, PHONE)
    assert number == safety_number(PHONE, NODE)
    assert [len(group) for group in number.split(" ")] == [5] * 12
    assert number.replace(" ", "").isdigit()


def test_whoever_stands_in_between_shows_another_number_to_one_side() -> None:
    as_seen_by_the_node, as_seen_by_the_phone = safety_number(NODE, THIEF), safety_number(THIEF, PHONE)
    assert len({as_seen_by_the_node, as_seen_by_the_phone, safety_number(NODE, PHONE)}) == 3


def test_the_number_is_about_the_device_too() -> None:
    assert safety_number(NODE, PHONE) != safety_number(NODE, Party(PHONE.identity, THIEF.device))


@pytest.mark.parametrize(("identity", "device"), [(b"", bytes(32)), (bytes(32), bytes(31)), (bytes(33), bytes(32))])
def test_parties_of_another_size_are_refused(identity: bytes, device: bytes) -> None:
    """Else two sides could be cut elsewhere, and two pairs of them have one number."""
    with pytest.raises(MalformedError):
        Party(identity, device)


def test_codes_are_read_as_people_type_them() -> None:
    code = make_code(bytes(range(16)))
    assert parse_code(code) == parse_code(f" {code.lower()}\n") == parse_code(code.replace("-", "")) == code


@pytest.mark.parametrize("text", ["", "2345-678", "2345-67890", "AEIO-2345", "2345-678é", "2" * 10_000])
def test_what_is_no_code_is_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_code(text)


def test_an_offer_is_claimed_and_accepted(offers: Offers) -> None:
    offer = offers.make("a", "2345-6789", [BANK], Role.WRITER, now_ms=0)
    assert offers.claim("2345-6789", guest(PHONE), now_ms=1).state is OfferState.CLAIMED
    assert offers.claim("2345-6789", guest(PHONE), now_ms=2).state is OfferState.CLAIMED, "its answer was lost"
    assert offers.decide("a", accept=True, now_ms=3).state is OfferState.ACCEPTED
    assert offers.decide("a", accept=True, now_ms=4).state is OfferState.ACCEPTED
    assert offers.find("a", now_ms=offer.expires_ms + 1).state is OfferState.ACCEPTED


def test_what_was_decided_stays_decided(offers: Offers) -> None:
    offers.make("a", "2345-6789", [BANK], Role.WRITER, now_ms=0)
    with pytest.raises(RefusedError):
        offers.decide("a", accept=True, now_ms=1)
    offers.claim("2345-6789", guest(PHONE), now_ms=2)
    offers.decide("a", accept=False, now_ms=3)
    with pytest.raises(RefusedError):
        offers.decide("a", accept=True, now_ms=4)
    with pytest.raises(MissingEvidenceError):
        offers.claim("2345-6789", guest(PHONE), now_ms=5)


def test_a_second_guest_is_refused(offers: Offers) -> None:
    offers.make("a", "2345-6789", [BANK], Role.WRITER, now_ms=0)
    offers.claim("2345-6789", guest(PHONE), now_ms=1)
    with pytest.raises(RefusedError):
        offers.claim("2345-6789", guest(THIEF), now_ms=2)
    claimed = offers.find("a", now_ms=3).guest
    assert claimed is not None
    assert claimed.party == PHONE


def test_five_wrong_codes_end_an_open_offer(offers: Offers) -> None:
    offers.make("a", "2345-6789", [BANK], Role.WRITER, now_ms=0)
    for attempt in range(5):
        with pytest.raises(MissingEvidenceError):
            offers.claim(f"2345-678{'BCDFG'[attempt]}", guest(THIEF), now_ms=attempt)
    with pytest.raises(MissingEvidenceError):
        offers.claim("2345-6789", guest(PHONE), now_ms=9)
    assert offers.find("a", now_ms=9).state is OfferState.EXPIRED


def test_strangers_do_not_end_what_has_been_claimed(offers: Offers) -> None:
    offers.make("a", "2345-6789", [BANK], Role.WRITER, now_ms=0)
    offers.claim("2345-6789", guest(PHONE), now_ms=1)
    for _ in range(20):
        with pytest.raises(MissingEvidenceError):
            offers.claim("2345-678B", guest(THIEF), now_ms=2)
    assert offers.decide("a", accept=True, now_ms=3).state is OfferState.ACCEPTED


def test_an_offer_ends_by_itself_and_by_a_newer_one(offers: Offers) -> None:
    offers.make("a", "2345-6789", [BANK], Role.WRITER, now_ms=0)
    with pytest.raises(MissingEvidenceError):
        offers.claim("2345-6789", guest(PHONE), now_ms=OFFER_MS)
    offers.make("b", "2345-6789", [BANK], Role.WRITER, now_ms=0)
    offers.claim("2345-6789", guest(PHONE), now_ms=1)
    with pytest.raises(RefusedError):
        offers.decide("b", accept=True, now_ms=OFFER_MS)
    with pytest.raises(MissingEvidenceError):
        offers.find("a", now_ms=1)


def test_an_offer_of_nothing_is_refused(offers: Offers) -> None:
    with pytest.raises(MalformedError):
        offers.make("a", "2345-6789", [], Role.WRITER, now_ms=0)


# --- what the guest says of itself ---

DEVICE = Ed25519Signer(b"\x65" * 32).public_key


@pytest.fixture(scope="module")
def anna(make_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    world = make_world(Path(tmp_path_factory.mktemp("pairing")), "Anna")
    world.close()
    return world


def test_a_guest_is_who_its_events_say(anna: Any) -> None:
    found = guest_of(anna.events, DEVICE)
    assert found.party == Party(anna.identity, DEVICE)
    assert found.label == "Anna"


def test_a_key_that_is_no_device_of_the_identity_is_refused(anna: Any) -> None:
    with pytest.raises(VerificationError):
        guest_of(anna.events, THIEF.device)


def test_a_revoked_device_and_a_closed_identity_are_refused(anna: Any) -> None:
    history = fold(anna.events)
    revoked = build_revoke_device(history, device=DEVICE, last_good={}, reason=RevocationReason.STOLEN, time_ms=99)
    for last in (revoked, build_close(history, time_ms=99)):
        with pytest.raises(VerificationError):
            guest_of([*anna.events, anna.sign(last, anna.root)], DEVICE)


def test_events_that_nobody_signed_are_refused(anna: Any) -> None:
    first, *rest = anna.events
    forged = SignedEvent(first.event, ((0, bytes(64)),))
    with pytest.raises(SignatureMismatch):
        guest_of([forged, *rest], DEVICE)
    with pytest.raises(MalformedError):
        guest_of([], DEVICE)

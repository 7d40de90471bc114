"""Pairing: two homes that meet for the first time, and the people who see to it that nobody stands between them.

Implements docs/spec/pairing.md. One side offers and gets a short code, the other claims the offer with it. Then each
has what the other said of itself, and shows a *safety number* made of both. Who stands between the two had to say
something else to one of them, and the numbers differ. The code only finds the offer and keeps strangers away: nothing
rests on its being secret.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import sha256
from hmac import compare_digest
from typing import Final

from identity.contexts import PAIRING_ANSWER, SAFETY_NUMBER
from identity.errors import MalformedError, MissingEvidenceError, RefusedError, VerificationError
from identity.event import SignedEvent
from identity.history import fold
from sync.acts import Role

__all__ = [
    "OFFER_MS",
    "Guest",
    "Offer",
    "OfferState",
    "Offers",
    "Party",
    "answer_statement",
    "guest_of",
    "make_code",
    "parse_code",
    "safety_number",
]

OFFER_MS: Final = 600_000
"""How long an offer stands."""

_MOST_WRONG: Final = 5
"""Wrong codes after which an offer ends: of 28 ** 8 that is one chance in 7e10."""

_ALPHABET: Final = "23456789BCDFGHJKMNPQRSTVWXYZ"
"""Nothing that looks like something else, and no vowels: no code is a word."""

_CODE_LENGTH: Final = 8
_DIGITS: Final = 60
_GROUP: Final = 5


@dataclass(frozen=True, slots=True)
class Party:
    """One side: its identity, and the public key of the device with which it speaks. 32 bytes each."""

    identity: bytes
    device: bytes

    def __post_init__(self) -> None:
        if len(self.identity) != 32 or len(self.device) != 32:
            raise MalformedError("pairing: an identity and a device key have 32 bytes")


def safety_number(one: Party, other: Party) -> str:
    """Sixty digits in groups of five, the same for both sides.

    Whoever stands in between has to find two pairs of keys with one number, about 2 ** 100 attempts.
    """
    sides = sorted((_spelled(one), _spelled(other)))
    number = int.from_bytes(sha256(SAFETY_NUMBER + sides[0] + sides[1]).digest(), "big") % 10**_DIGITS
    digits = f"{number:0{_DIGITS}d}"
    return " ".join(digits[at : at + _GROUP] for at in range(0, _DIGITS, _GROUP))


def answer_statement(offer: str, node: Party, guest: Party) -> bytes:
    """What the node signs in its answer to a claim: that it is who it says it is, to this guest."""
    name = offer.encode()
    return PAIRING_ANSWER + bytes([len(name)]) + name + _spelled(node) + _spelled(guest)


def _spelled(party: Party) -> bytes:
    return party.identity + party.device


def make_code(random: bytes) -> str:
    """A code, from at least 16 random bytes."""
    if len(random) < 16:
        raise ValueError("a code takes 16 random bytes")
    number, signs = int.from_bytes(random, "big"), ""
    for _ in range(_CODE_LENGTH):
        number, sign = divmod(number, len(_ALPHABET))
        signs += _ALPHABET[sign]
    return f"{signs[:4]}-{signs[4:]}"


def parse_code(text: str) -> str:
    """A code as a person typed it: in any case, with or without the dash. Raises ``MalformedError``."""
    signs = text.strip().upper().replace("-", "") if len(text) <= 64 else ""
    if len(signs) != _CODE_LENGTH or not set(signs) <= set(_ALPHABET):
        raise MalformedError("that is no pairing code", hint="it looks like 7K4M-Q2RT")
    return f"{signs[:4]}-{signs[4:]}"


class OfferState(StrEnum):
    """How far a pairing has come."""

    OPEN = "open"
    CLAIMED = "claimed"
    """Somebody has sent the code; the people compare numbers."""
    ACCEPTED = "accepted"
    REFUSED = "refused"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Guest:
    """Who claims an offer. That ``party.device`` signed the claim has been verified."""

    party: Party
    label: str
    events: tuple[SignedEvent, ...]


@dataclass(frozen=True, slots=True)
class Offer:
    """What is offered: membership of databases, in a role. ``id`` names it to those who know it."""

    id: str
    code: str
    databases: tuple[bytes, ...]
    role: Role
    expires_ms: int
    state: OfferState = OfferState.OPEN
    guest: Guest | None = None


class Offers:
    """The offer of a node: one at a time. A newer one ends the one before. For any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offer: Offer | None = None
        self._wrong = 0

    def make(self, name: str, code: str, databases: Sequence[bytes], role: Role, now_ms: int) -> Offer:
        """Offer membership of ``databases``; ``name`` is what the offer is called."""
        if not databases:
            raise MalformedError("a pairing is about one database at least")
        with self._lock:
            self._offer, self._wrong = Offer(name, code, tuple(databases), role, now_ms + OFFER_MS), 0
            return self._offer

    def claim(self, code: str, guest: Guest, now_ms: int) -> Offer:
        """Claim the offer that has the code. Raises ``MissingEvidenceError`` when there is none that has it.

        The same guest can claim again: its first answer may have been lost.
        """
        with self._lock:
            offer = self._current(now_ms)
            if offer is None or offer.state not in (OfferState.OPEN, OfferState.CLAIMED):
                raise MissingEvidenceError("nothing is offered", hint="begin on the other side: holdfast pair")
            if not compare_digest(offer.code, code):
                self._wrong += offer.state is OfferState.OPEN
                if self._wrong == _MOST_WRONG:
                    self._offer = replace(offer, state=OfferState.EXPIRED)
                raise MissingEvidenceError("no offer has that code", hint="read it again from the other side")
            if offer.guest is not None and offer.guest.party != guest.party:
                raise RefusedError("somebody else has claimed that offer", hint="begin again on the other side")
            self._offer = replace(offer, state=OfferState.CLAIMED, guest=guest)
            return self._offer

    def find(self, name: str, now_ms: int) -> Offer:
        """The offer as it stands. Raises ``MissingEvidenceError`` when it is not known any more."""
        with self._lock:
            return self._named(name, now_ms)

    def decide(self, name: str, *, accept: bool, now_ms: int) -> Offer:
        """Accept or refuse who has claimed the offer. Raises ``RefusedError`` when nobody has."""
        with self._lock:
            offer = self._named(name, now_ms)
            wanted = OfferState.ACCEPTED if accept else OfferState.REFUSED
            if offer.state not in (OfferState.CLAIMED, wanted):
                raise RefusedError(f"the offer is {offer.state}")
            self._offer = replace(offer, state=wanted)
            return self._offer

    def _named(self, name: str, now_ms: int) -> Offer:
        offer = self._current(now_ms)
        if offer is None or offer.id != name:
            raise MissingEvidenceError("that offer is not known any more", hint="begin again: holdfast pair")
        return offer

    def _current(self, now_ms: int) -> Offer | None:
        offer = self._offer
        if offer is not None and offer.state in (OfferState.OPEN, OfferState.CLAIMED) and now_ms >= offer.expires_ms:
            self._offer = offer = replace(offer, state=OfferState.EXPIRED)
        return offer


def guest_of(events: Sequence[SignedEvent], device: bytes) -> Guest:
    """Who says of itself what ``events`` say, and speaks with ``device``.

    Raises ``VerificationError`` when the key is not one of its devices now, ``MalformedError``, and as ``fold``.
    """
    if not events:
        raise MalformedError("pairing: an identity has events")
    history = fold(events)
    found = history.devices.get(device)
    if found is None or found.revocation is not None:
        raise VerificationError(f"the key that signed is no device of identity {history.identity.hex()}")
    if history.closed or history.duplicity is not None:
        raise VerificationError(f"identity {history.identity.hex()} is closed, or contradicts itself")
    return Guest(Party(history.identity, device), history.label, tuple(events))

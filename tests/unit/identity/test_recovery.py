"""Recovery phrases: BIP-39 as published, and one root seed a generation."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest

from identity.contexts import RECOVERY_ROOT
from identity.errors import HistoryError, LimitExceeded, MalformedError, RefusedError
from identity.event import LastGood, RevocationReason, SignedEvent, key_commitment, parse_event, sign_event
from identity.history import build_add_device, build_inception, build_rotate_root, fold
from identity.keys import Ed25519Signer
from identity.recovery import (
    Recovery,
    generate_phrase,
    next_root_seed,
    parse_phrase,
    plan_recovery,
    present_root_seed,
    root_seed,
)

# BIP-39's published test vectors for 256 bits, with the empty passphrase's seeds computed from their definition below.
ZEROS = " ".join(["abandon"] * 23 + ["art"])
ONES = " ".join(["zoo"] * 23 + ["vote"])


def hkdf(secret: bytes, info: bytes) -> bytes:
    """RFC 5869 with SHA-256, an empty salt and one block of output."""
    extracted = hmac.digest(bytes(32), secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


@pytest.mark.parametrize("phrase", [ZEROS, ONES])
@pytest.mark.parametrize("generation", [0, 1, 2**32, 2**63 - 1])
def test_root_seed_from_first_principles(phrase: str, generation: int) -> None:
    bip39_seed = hashlib.pbkdf2_hmac("sha512", phrase.encode(), b"mnemonic", 2048)
    expected = hkdf(bip39_seed, RECOVERY_ROOT + generation.to_bytes(8, "big"))
    assert root_seed(phrase, generation) == expected


def test_every_generation_and_phrase_has_its_own_seed() -> None:
    seeds = {root_seed(phrase, generation) for phrase in (ZEROS, ONES) for generation in range(3)}
    assert len(seeds) == 6


def test_phrases_are_fresh_and_parse() -> None:
    phrases = {generate_phrase() for _ in range(20)}
    assert len(phrases) == 20
    for phrase in phrases:
        assert len(phrase.split(" ")) == 24
        assert parse_phrase(phrase) == phrase


@pytest.mark.parametrize(
    "typed",
    [ZEROS.upper(), f"  {ZEROS}\n", ZEROS.replace(" ", "\n"), ZEROS.replace(" ", "\t  "), ZEROS.replace(" ", "\u3000")],
)
def test_what_people_type(typed: str) -> None:
    assert parse_phrase(typed) == ZEROS
    assert root_seed(typed, 0) == root_seed(ZEROS, 0)


@pytest.mark.parametrize(
    ("typed", "match"),
    [
        ("", "0 words"),
        ("abandon", "1 words"),
        (ZEROS + " abandon", "25 words"),
        (ZEROS.replace("abandon ", "", 12), "12 words"),
        (ZEROS.replace("art", "artt"), "word 24 is not in the list"),
        (ZEROS.replace("abandon", "abando", 1), "word 1 is not in the list"),
        (ZEROS.replace("art", "abandon"), "checksum"),
        (ZEROS.replace("abandon", "ability", 1), "checksum"),
        (" ".join(["zoo"] * 22 + ["vote", "zoo"]), "checksum"),
    ],
)
def test_phrases_that_are_refused(typed: str, match: str) -> None:
    with pytest.raises(MalformedError, match=match):
        parse_phrase(typed)
    with pytest.raises(MalformedError):
        root_seed(typed, 0)


def test_an_error_never_shows_the_words() -> None:
    with pytest.raises(MalformedError) as error:
        parse_phrase(ZEROS.replace("art", "secretword"))
    assert "secretword" not in str(error.value)


def test_long_text() -> None:
    with pytest.raises(LimitExceeded):
        parse_phrase("abandon " * 10_000)


@pytest.mark.parametrize("generation", [-1, 2**63])
def test_generations_out_of_range(generation: int) -> None:
    with pytest.raises(MalformedError):
        root_seed(ZEROS, generation)


# --- whose phrase it is, and recovery ---------------------------------------------------------------------------------

PHRASE, OTHER = ZEROS, ONES
LOST = Ed25519Signer(b"\xdd" * 32)
NEW = Ed25519Signer(b"\xee" * 32)


def key(phrase: str, generation: int) -> Ed25519Signer:
    return Ed25519Signer(root_seed(phrase, generation))


def identity(phrase: str = PHRASE, *, rotations: list[str] | None = None) -> list[SignedEvent]:
    """An identity of ``phrase`` with one device; each rotation commits to the next key of the phrase it names."""
    root = key(phrase, 0)
    inception = build_inception(
        label="Ada", root_keys=[root.public_key], next_digests=[key_commitment(key(phrase, 1).public_key)], time_ms=1
    )
    events = [sign_event(inception, [(0, root)])]
    added = build_add_device(fold(events), device=LOST.public_key, name="laptop", time_ms=1)
    events.append(sign_event(added, [(0, root), (1, LOST)]))
    for generation, following in enumerate(rotations or [], start=1):
        root = key(phrase, generation)
        rotated = build_rotate_root(
            fold(events),
            root_keys=[root.public_key],
            next_digests=[key_commitment(key(following, generation + 1).public_key)],
            time_ms=1,
        )
        events.append(sign_event(rotated, [(0, root)]))
        phrase = following
    return events


def recovery(events: list[SignedEvent], phrase: str = PHRASE, name: str = "desk", **more: Any) -> Recovery:
    options: dict[str, Any] = {
        "device": NEW,
        "name": name,
        "lost": {LOST.public_key: {}},
        "reason": RevocationReason.LOST,
        "time_ms": 2,
    }
    return plan_recovery(events, phrase, **(options | more))


@pytest.mark.parametrize("rotations", [0, 1, 3])
def test_the_phrase_gives_the_next_root_and_the_present_one(rotations: int) -> None:
    events = identity(rotations=[PHRASE] * rotations)
    assert next_root_seed(PHRASE, events) == root_seed(PHRASE, rotations + 1)
    assert present_root_seed(PHRASE, events) == root_seed(PHRASE, rotations)


def test_a_phrase_of_another_identity() -> None:
    for call in (next_root_seed, present_root_seed):
        with pytest.raises(RefusedError, match="the phrase of another one"):
            call(OTHER, identity())


def test_a_phrase_that_a_rotation_has_replaced() -> None:
    events = identity(rotations=[PHRASE, OTHER])
    with pytest.raises(RefusedError, match="it gave that of generation 2, and another phrase"):
        next_root_seed(PHRASE, events)
    assert next_root_seed(OTHER, events) == root_seed(OTHER, 3)
    assert present_root_seed(PHRASE, events) == root_seed(PHRASE, 2)
    with pytest.raises(RefusedError, match="generation 1"):
        present_root_seed(PHRASE, identity(rotations=[OTHER, OTHER]))


def test_one_phrase_of_several() -> None:
    roots = [key(PHRASE, 0), key(OTHER, 0)]
    inception = build_inception(
        label="Bank",
        root_keys=[root.public_key for root in roots],
        next_digests=[key_commitment(key(phrase, 1).public_key) for phrase in (PHRASE, OTHER)],
        time_ms=1,
        threshold=1,
    )
    events = [sign_event(inception, [(0, roots[0])])]
    with pytest.raises(RefusedError, match="has 2 keys, each with its holder"):
        next_root_seed(OTHER, events)
    assert present_root_seed(OTHER, events) == root_seed(OTHER, 0)


def test_recovery_rotates_first_revokes_and_adds() -> None:
    events = identity()
    good = {b"\x05" * 32: LastGood(7, b"\x06" * 32)}
    made = recovery(events, lost={LOST.public_key: good}, compromised_since_ms=1, reason=RevocationReason.STOLEN)
    assert [parse_event(event.event).type for event in made.events] == ["rotate_root", "revoke_device", "add_device"]
    after = fold([*events, *made.events])
    assert after == made.after
    assert (after.generation, after.root_keys) == (1, (key(PHRASE, 1).public_key,))
    assert made.root_seed == root_seed(PHRASE, 1)
    (revoked,) = made.revoked
    assert revoked.revocation is not None
    assert (revoked.key, dict(revoked.revocation.last_good)) == (LOST.public_key, good)
    assert after.devices[NEW.public_key].revocation is None
    assert root_seed(PHRASE, 1).hex() not in repr(made)
    assert next_root_seed(PHRASE, [*events, *made.events]) == root_seed(PHRASE, 2)


def test_recoveries_that_are_refused() -> None:
    events = identity()
    for changes, error in (
        ({"lost": {b"\x01" * 32: {}}}, HistoryError),
        ({"device": LOST}, HistoryError),
        ({"lost": {}, "name": "laptop"}, RefusedError),
        ({"phrase": OTHER}, RefusedError),
        ({"phrase": "abandon " * 24}, MalformedError),
        ({"reason": RevocationReason.RETIRED, "compromised_since_ms": 1}, MalformedError),
        ({"name": ""}, MalformedError),
    ):
        with pytest.raises(error):
            recovery(events, **changes)  # type: ignore[arg-type]
    revoked = recovery(events).events
    with pytest.raises(HistoryError, match="revoked already"):
        recovery([*events, *revoked], name="other", device=Ed25519Signer(b"\x44" * 32))


@pytest.mark.parametrize(("typed", "meant"), [("abandn", "abandon"), ("zzz", None), ("zebr", "zebra"), ("art1", "art")])
def test_the_nearest_word_and_no_other(typed: str, meant: str | None) -> None:
    with pytest.raises(MalformedError, match="word 3 is not in the list") as caught:
        parse_phrase(" ".join(["abandon", "ability", typed, *["zoo"] * 21]))
    assert (f"'{meant}'" in caught.value.hint) if meant else caught.value.hint == ""
    for word in ("ability", "zoo", f"'{typed}'"):
        assert word not in f"{caught.value} {caught.value.hint}"

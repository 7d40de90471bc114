"""Recovery phrases: BIP-39 as published, and one root seed a generation."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from identity.contexts import RECOVERY_ROOT
from identity.errors import LimitExceeded, MalformedError
from identity.recovery import generate_phrase, parse_phrase, root_seed

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

"""Recovery phrases: 24 words on paper from which the root keys of every generation follow.

The phrase is BIP-39 (English list, 256 bits and their checksum, empty passphrase); the root seed of a generation is
HKDF-SHA256 over its 64-byte seed. Losing every device and the keystore loses nothing that the phrase can't bring back
as far as root control goes. Specified in docs/spec/identity.md, section "Recovery phrase".
"""

from __future__ import annotations

import unicodedata
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from mnemonic import Mnemonic

from identity.contexts import RECOVERY_ROOT
from identity.errors import LimitExceeded, MalformedError
from identity.keys import SEED_BYTES

__all__ = ["PHRASE_WORDS", "generate_phrase", "parse_phrase", "root_seed"]

PHRASE_WORDS: Final = 24
_ENTROPY_BITS: Final = 256
_MAX_TEXT: Final = 1000
_MAX_GENERATION: Final = (1 << 63) - 1


def generate_phrase() -> str:
    """A fresh phrase of 24 English words from the system's random generator."""
    return Mnemonic("english").generate(_ENTROPY_BITS)


def parse_phrase(text: str) -> str:
    """The phrase in its one form, lower case with single spaces, from what a person typed.

    Case and white space are forgiven, nothing else. Raises ``MalformedError`` naming the place of a wrong word, never
    the word: it belongs to a secret.
    """
    if len(text) > _MAX_TEXT:
        raise LimitExceeded(f"recovery phrase: {len(text)} characters, at most {_MAX_TEXT}")
    words = unicodedata.normalize("NFKD", text).lower().split()
    if len(words) != PHRASE_WORDS:
        raise MalformedError(f"recovery phrase: {len(words)} words, must be {PHRASE_WORDS}")
    bip39 = Mnemonic("english")
    for place, word in enumerate(words, start=1):
        if word not in bip39.wordlist:
            raise MalformedError(f"recovery phrase: word {place} is not in the list")
    phrase = " ".join(words)
    if not bip39.check(phrase):
        raise MalformedError("recovery phrase: the checksum does not fit; a word is wrong or in the wrong place")
    return phrase


def root_seed(phrase: str, generation: int) -> bytes:
    """The 32-byte Ed25519 seed of the root key of ``generation``: 0 at inception, one more with each rotation.

    Raises ``MalformedError`` for what ``parse_phrase`` refuses or a generation that is not in 0 .. 2^63-1.
    """
    if not 0 <= generation <= _MAX_GENERATION:
        raise MalformedError(f"root generation {generation}")
    secret = Mnemonic.to_seed(parse_phrase(phrase), "")
    info = RECOVERY_ROOT + generation.to_bytes(8, "big")
    return HKDF(algorithm=SHA256(), length=SEED_BYTES, salt=None, info=info).derive(secret)

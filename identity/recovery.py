"""Recovery phrases: 24 words on paper from which the root keys of every generation follow.

The phrase is BIP-39 (English list, 256 bits and their checksum, empty passphrase); the root seed of a generation is
HKDF-SHA256 over its 64-byte seed. Losing every device and the keystore loses nothing that the phrase can't bring back
as far as root control goes. ``plan_recovery`` says which events do it. Specified in docs/spec/identity.md, sections
"Recovery phrase" and "Recovery".
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from mnemonic import Mnemonic

from identity.contexts import RECOVERY_ROOT
from identity.errors import LimitExceeded, MalformedError, RefusedError
from identity.event import Inception, RevocationReason, RotateRoot, parse_event
from identity.history import (
    Device,
    KeyHistory,
    LastGood,
    SignedEvent,
    build_add_device,
    build_revoke_device,
    build_rotate_root,
    fold,
    key_commitment,
    sign_event,
)
from identity.keys import SEED_BYTES, Ed25519Signer, Signer

__all__ = [
    "PHRASE_WORDS",
    "Recovery",
    "generate_phrase",
    "next_root_seed",
    "parse_phrase",
    "plan_recovery",
    "present_root_seed",
    "root_seed",
]

PHRASE_WORDS: Final = 24
_ENTROPY_BITS: Final = 256
_MAX_TEXT: Final = 1000
_MAX_GENERATION: Final = (1 << 63) - 1


def generate_phrase() -> str:
    """A fresh phrase of 24 English words from the system's random generator."""
    return Mnemonic("english").generate(_ENTROPY_BITS)


def parse_phrase(text: str) -> str:
    """The phrase in its one form, lower case with single spaces, from what a person typed.

    Case and white space are forgiven, nothing else. Raises ``MalformedError`` naming the place of a wrong word and, as
    the hint, the word of the list that is nearest to it; never what was typed, and never another word.
    """
    if len(text) > _MAX_TEXT:
        raise LimitExceeded(f"recovery phrase: {len(text)} characters, at most {_MAX_TEXT}")
    words = unicodedata.normalize("NFKD", text).lower().split()
    if len(words) != PHRASE_WORDS:
        raise MalformedError(f"recovery phrase: {len(words)} words, must be {PHRASE_WORDS}")
    bip39 = Mnemonic("english")
    for place, word in enumerate(words, start=1):
        if word not in bip39.wordlist:
            raise MalformedError(f"recovery phrase: word {place} is not in the list", hint=_nearest(place, word, bip39))
    phrase = " ".join(words)
    if not bip39.check(phrase):
        raise MalformedError("recovery phrase: the checksum does not fit; a word is wrong or in the wrong place")
    return phrase


def _nearest(place: int, word: str, bip39: Mnemonic) -> str:
    near = difflib.get_close_matches(word, bip39.wordlist, n=1)
    return f"the nearest word in the list for word {place} is {near[0]!r}" if near else ""


def root_seed(phrase: str, generation: int) -> bytes:
    """The 32-byte Ed25519 seed of the root key of ``generation``: 0 at inception, one more with each rotation.

    Raises ``MalformedError`` for what ``parse_phrase`` refuses or a generation that is not in 0 .. 2^63-1.
    """
    if not 0 <= generation <= _MAX_GENERATION:
        raise MalformedError(f"root generation {generation}")
    secret = Mnemonic.to_seed(parse_phrase(phrase), "")
    info = RECOVERY_ROOT + generation.to_bytes(8, "big")
    return HKDF(algorithm=SHA256(), length=SEED_BYTES, salt=None, info=info).derive(secret)


# --- whose phrase it is ---------------------------------------------------------------------------------------------


def next_root_seed(phrase: str, events: Sequence[SignedEvent]) -> bytes:
    """The seed of the next root key of the identity of ``events``, which the phrase must give alone.

    Raises ``MalformedError`` for what is no phrase, and ``RefusedError`` for one of another identity, one that a
    rotation has replaced, or one of several that it takes.
    """
    history = fold(events)
    seed = root_seed(phrase, history.generation + 1)
    commitment = key_commitment(Ed25519Signer(seed).public_key)
    if history.next_digests == (commitment,):
        return seed
    if commitment in history.next_digests:
        raise RefusedError(
            f"the root has {len(history.next_digests)} keys, each with its holder: one phrase can't replace it",
            hint="every holder hands over a card: holdfast root card; then identity rotate-root --card",
        )
    raise _not_the_phrase(phrase, events, "the next root key")


def present_root_seed(phrase: str, events: Sequence[SignedEvent]) -> bytes:
    """The seed of the root key that the identity has now. Raises as ``next_root_seed``."""
    history = fold(events)
    seed = root_seed(phrase, history.generation)
    if Ed25519Signer(seed).public_key in history.root_keys:
        return seed
    raise _not_the_phrase(phrase, events, "the root key")


def _not_the_phrase(phrase: str, events: Sequence[SignedEvent], what: str) -> RefusedError:
    """Why the phrase does not give ``what``: whether it is of this identity at all."""
    bodies = [parse_event(signed.event).body for signed in events]
    sets = [body.roots.keys for body in bodies if isinstance(body, Inception | RotateRoot)]
    given = [
        generation
        for generation, keys in enumerate(sets)
        if Ed25519Signer(root_seed(phrase, generation)).public_key in keys
    ]
    if given:
        return RefusedError(
            f"this phrase does not give {what} of this identity: it gave that of generation {given[-1]},"
            " and another phrase has taken its place",
            hint="use the newer phrase",
        )
    return RefusedError(
        f"this phrase does not give {what} of this identity: it is the phrase of another one",
        hint="an identity's id is shown by: holdfast identity list",
    )


# --- recovery -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class Recovery:
    """What brings an identity back under control: the events to store after the ones there are, all signed.

    ``root_seed`` is that of the root key in force after them, ``revoked`` are the devices that they end.
    """

    events: tuple[SignedEvent, ...]
    after: KeyHistory
    root_seed: bytes
    revoked: tuple[Device, ...]


def plan_recovery(
    events: Sequence[SignedEvent],
    phrase: str,
    *,
    device: Signer,
    name: str,
    lost: Mapping[bytes, Mapping[bytes, LastGood]],
    reason: RevocationReason,
    time_ms: int,
    compromised_since_ms: int | None = None,
) -> Recovery:
    """Rotate the root to the key that only the phrase gives, end the ``lost`` devices, authorise ``device``.

    ``events`` are the identity's, in the order of acceptance. ``lost`` maps device keys to what is vouched for of
    theirs. The rotation comes first: whoever has the keystore has the root key of before it. Raises as
    ``next_root_seed``, ``RefusedError`` when a device that is not lost has that name, and ``HistoryError`` when a lost
    one is revoked already or not the identity's.
    """
    seed = next_root_seed(phrase, events)
    generation = fold(events).generation + 1
    root = Ed25519Signer(seed)
    following = Ed25519Signer(root_seed(phrase, generation + 1)).public_key
    planned = list(events)

    def add(event: bytes, *others: tuple[int, Signer]) -> None:
        planned.append(sign_event(event, [(0, root), *others]))

    add(
        build_rotate_root(
            fold(planned),
            root_keys=[root.public_key],
            next_digests=[key_commitment(following)],
            time_ms=time_ms,
        )
    )
    for key, last_good in lost.items():
        add(
            build_revoke_device(
                fold(planned),
                device=key,
                last_good=last_good,
                reason=reason,
                time_ms=time_ms,
                compromised_since_ms=compromised_since_ms,
            )
        )
    if any(one.name == name and one.revocation is None for one in fold(planned).devices.values()):
        raise RefusedError(f"the identity has a device {name!r} already")
    event = build_add_device(fold(planned), device=device.public_key, name=name, time_ms=time_ms)
    add(event, (1, device))
    after = fold(planned)
    revoked = tuple(after.devices[key] for key in lost)
    return Recovery(tuple(planned[len(events) :]), after, seed, revoked)

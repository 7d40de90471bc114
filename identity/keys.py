"""Ed25519 keys: signing through a small protocol, verification with libsodium alone.

Only libsodium decides whether a signature holds: other libraries accept keys of small order, under which one signature
fits many messages. Specified in docs/spec/identity.md, section "Signatures".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError
from nacl.utils import random

from identity.errors import MalformedError, SignatureMismatch

__all__ = [
    "PUBLIC_KEY_BYTES",
    "SEED_BYTES",
    "SIGNATURE_BYTES",
    "Ed25519Signer",
    "Signer",
    "TokenKey",
    "generate_seed",
    "verify_signature",
]

PUBLIC_KEY_BYTES: Final = 32
SEED_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64


class Signer(Protocol):
    """Somebody who can sign: a key in memory, a token, a remote service."""

    @property
    def public_key(self) -> bytes:
        """The 32-byte Ed25519 public key under which ``sign``'s results verify."""

    def sign(self, message: bytes) -> bytes:
        """A 64-byte Ed25519 signature over ``message``, which already begins with its signing context."""


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A key that is in a hardware token: its 32-byte public key and the label of the token. It is no secret."""

    public_key: bytes
    token: str


class Ed25519Signer:
    """A signer that holds its seed in memory. The seed is never shown by ``repr``."""

    __slots__ = ("_public_key", "_secret_key")

    def __init__(self, seed: bytes) -> None:
        """``seed`` is the 32-byte private key of RFC 8032. Raises ``MalformedError`` for any other length."""
        if len(seed) != SEED_BYTES:
            raise MalformedError(f"an Ed25519 seed has {SEED_BYTES} bytes, not {len(seed)}")
        self._public_key, self._secret_key = crypto_sign_seed_keypair(seed)

    @property
    def public_key(self) -> bytes:
        """The 32-byte public key."""
        return self._public_key

    def sign(self, message: bytes) -> bytes:
        """The 64-byte deterministic signature of RFC 8032 over ``message``."""
        return crypto_sign(message, self._secret_key)[:SIGNATURE_BYTES]

    def __repr__(self) -> str:
        return f"Ed25519Signer(public_key={self._public_key.hex()})"


def verify_signature(public_key: bytes, message: bytes, signature: bytes) -> None:
    """Return only when ``signature`` is by ``public_key`` over ``message``; else raise ``SignatureMismatch``.

    Keys of small order or in non-canonical form, and signatures with R of small order or S not below the group order,
    are refused whatever the equation says. A key or signature of another length is a mismatch like any other.
    """
    # The lengths come first: libsodium gets one string and would read the message's first bytes as the signature's.
    if len(signature) != SIGNATURE_BYTES or len(public_key) != PUBLIC_KEY_BYTES:
        raise SignatureMismatch(f"signature of {len(signature)} bytes by a key of {len(public_key)} bytes")
    try:
        crypto_sign_open(signature + message, public_key)
    except BadSignatureError as exc:
        raise SignatureMismatch(f"the signature is not by {public_key.hex()}") from exc


def generate_seed() -> bytes:
    """A fresh 32-byte seed from the system's random generator."""
    return random(SEED_BYTES)

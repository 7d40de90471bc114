"""Sealed values: a value that can be read while its key exists, and never again once the key is destroyed.

Implements docs/spec/sealed-values.md, section "Sealing". A feed can forget nothing, so personal values go into it only
encrypted, under a key of their document that is kept outside (``sync.document_keys``). The associated data binds a
sealed value to its database, document and path: moved anywhere else it does not open. XChaCha20-Poly1305 does not
commit to its key, and one ciphertext can be made that opens to two values under two keys; the commitment that stands
beside it fits one value only, and every opening checks it.

Keys, salts and nonces are arguments. A salt or a nonce must be fresh random bytes each time.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final, NamedTuple

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
    crypto_aead_xchacha20poly1305_ietf_KEYBYTES,
    crypto_aead_xchacha20poly1305_ietf_NPUBBYTES,
)
from nacl.exceptions import CryptoError

from identity.contexts import SEAL_COMMITMENT
from identity.encoding import Value, decode, encode
from identity.errors import MalformedError, VerificationError
from ledger.values import Sealed, check_value, sealed_value
from sync.transaction import Path

__all__ = ["KEY_BYTES", "NONCE_BYTES", "SALT_BYTES", "SealedPlace", "open_sealed", "seal"]

KEY_BYTES: Final = crypto_aead_xchacha20poly1305_ietf_KEYBYTES
NONCE_BYTES: Final = crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
SALT_BYTES: Final = 32


class SealedPlace(NamedTuple):
    """Where a sealed value stands: the database's id, the document's collection and key, the operation's path."""

    database: bytes
    collection: str
    key: str
    path: Path


def seal(value: Value, *, key: bytes, kid: bytes, place: SealedPlace, salt: bytes, nonce: bytes) -> Value:
    """The stored form of ``value`` sealed for ``place`` under ``key``, which is called ``kid``.

    Raises ``MalformedError`` for what is no stored value or has a wrong length, ``LimitExceeded`` when it is too long.
    """
    check_value(value)
    if len(key) != KEY_BYTES or len(salt) != SALT_BYTES or len(nonce) != NONCE_BYTES:
        raise MalformedError("sealing: not a 32-byte key, a 32-byte salt and a 24-byte nonce")
    plaintext = salt + encode(value)
    ciphertext = crypto_aead_xchacha20poly1305_ietf_encrypt(plaintext, _associated_data(place, kid), nonce, key)
    return sealed_value(Sealed(kid, _commitment(plaintext), nonce + ciphertext))


def open_sealed(sealed: Sealed, key: bytes, place: SealedPlace) -> Value:
    """The value that was sealed for ``place``.

    Raises ``VerificationError`` when it does not open (another key or place, or it was altered) or is not the one that
    was committed to, ``MalformedError`` when what opens is no stored value or ``key`` cannot be a key.
    """
    if len(key) != KEY_BYTES:
        raise MalformedError(f"sealed value: a key has {KEY_BYTES} bytes")
    nonce, ciphertext = sealed.ciphertext[:NONCE_BYTES], sealed.ciphertext[NONCE_BYTES:]
    try:
        plaintext = crypto_aead_xchacha20poly1305_ietf_decrypt(
            ciphertext, _associated_data(place, sealed.kid), nonce, key
        )
    except CryptoError as exc:
        raise VerificationError("sealed value: does not open with this key at this place") from exc
    if _commitment(plaintext) != sealed.commitment:
        raise VerificationError("sealed value: opens to another value than the one that was committed to")
    value = decode(plaintext[SALT_BYTES:])
    check_value(value)
    return value


def _associated_data(place: SealedPlace, kid: bytes) -> bytes:
    return encode([place.database, place.collection, place.key, list(place.path), kid])


def _commitment(plaintext: bytes) -> bytes:
    """Over salt and value: the salt has a fixed length, so there is one way to read them."""
    return sha256(SEAL_COMMITMENT + plaintext).digest()

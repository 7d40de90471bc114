"""Text forms of binary values, each with exactly one spelling per value.

Hex and base64 are for digests and opaque bytes, z-base-32 for feed keys (Hypercore's habit), ``did:key`` for Ed25519
public keys. Every parser refuses what its writer would not have written: another case, padding left out, bits set
that carry nothing. Specified in docs/spec/canonical-encoding.md, section "Text forms".
"""

from __future__ import annotations

import base64
import binascii
import re
from functools import lru_cache
from typing import Final

from identity.errors import LimitExceeded, MalformedError

__all__ = [
    "MAX_NAME",
    "check_name",
    "is_whole_id",
    "parse_base64",
    "parse_did_key",
    "parse_hex",
    "parse_zbase32",
    "to_base64",
    "to_did_key",
    "to_hex",
    "to_zbase32",
]

MAX_NAME: Final = 200
"""Characters (code points) in a name or label."""

_KEPT: Final = 1024
"""Keys whose text is remembered, either way: the same few come again and again, and each is arithmetic by the digit."""

_NOT_IN_NAMES: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_HEX_DIGITS: Final = frozenset("0123456789abcdef")
_ZBASE32: Final = "ybndrfg8ejkmcpqxot1uwisza345h769"
_ZBASE32_VALUES: Final = {character: value for value, character in enumerate(_ZBASE32)}
_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE58_VALUES: Final = {character: value for value, character in enumerate(_BASE58)}
_DID_KEY: Final = "did:key:z"
_ED25519_CODE: Final = b"\xed\x01"
"""Multicodec ``ed25519-pub`` (0xed) as an unsigned varint."""

_DID_KEY_DIGITS: Final = 47
"""Base58 digits of 34 bytes that begin with 0xed: always this many."""


def to_hex(data: bytes) -> str:
    """Lower-case hex, two digits a byte."""
    return data.hex()


def parse_hex(text: str, length: int | None = None) -> bytes:
    """Bytes of lower-case hex; exactly ``length`` bytes when that is given. Raises ``MalformedError``."""
    _check_size(text, "hex", None if length is None else 2 * length)
    if len(text) % 2 or not _HEX_DIGITS.issuperset(text):
        raise MalformedError("hex: not pairs of lower-case digits")
    return bytes.fromhex(text)


def is_whole_id(text: str) -> bool:
    """Whether the text is the hex of 32 bytes, in either case: it means that id, known here or not, and no name."""
    return len(text) == 64 and _HEX_DIGITS.issuperset(text.lower())


def to_base64(data: bytes) -> str:
    """RFC 4648 section 4: standard alphabet, padded, no line breaks."""
    return base64.b64encode(data).decode("ascii")


def parse_base64(text: str, length: int | None = None) -> bytes:
    """Bytes of canonical base64 (RFC 4648 sections 3.5 and 4). Raises ``MalformedError``."""
    _check_size(text, "base64", None if length is None else (length + 2) // 3 * 4)
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error) as exc:
        raise MalformedError("base64: not in the standard alphabet with padding") from exc
    # Python's decoder ignores set bits in the last digit; only writing it again shows them.
    if to_base64(data) != text:
        raise MalformedError("base64: not the canonical form")
    if length is not None and len(data) != length:
        raise MalformedError(f"base64: {len(data)} bytes, must be {length}")
    return data


@lru_cache(maxsize=_KEPT)
def to_zbase32(data: bytes) -> str:
    """z-base-32: five bits a character from the most significant on, the last one filled with zero bits."""
    count = (8 * len(data) + 4) // 5
    bits = int.from_bytes(data, "big") << (5 * count - 8 * len(data))
    return "".join(_ZBASE32[bits >> shift & 31] for shift in range(5 * (count - 1), -1, -5))


def parse_zbase32(text: str, length: int = 32) -> bytes:
    """Exactly ``length`` bytes of lower-case z-base-32; the bits that fill the last character must be zero.

    Raises ``MalformedError``.
    """
    count = (8 * length + 4) // 5
    _check_size(text, "z-base-32", count)
    bits = 0
    for character in text:
        value = _ZBASE32_VALUES.get(character)
        if value is None:
            raise MalformedError(f"z-base-32: {character!r} is not in the alphabet")
        bits = bits << 5 | value
    spare = 5 * count - 8 * length
    if bits & ((1 << spare) - 1):
        raise MalformedError("z-base-32: the spare bits of the last character are set")
    return (bits >> spare).to_bytes(length, "big")


@lru_cache(maxsize=_KEPT)
def to_did_key(public_key: bytes) -> str:
    """``did:key:z6Mk...`` of a 32-byte Ed25519 public key (multibase base58btc of multicodec 0xed01 and the key)."""
    if len(public_key) != 32:
        raise MalformedError(f"did:key: an Ed25519 public key has 32 bytes, not {len(public_key)}")
    number = int.from_bytes(_ED25519_CODE + public_key, "big")
    digits = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_BASE58[digit])
    return _DID_KEY + "".join(reversed(digits))


@lru_cache(maxsize=_KEPT)
def parse_did_key(text: str) -> bytes:
    """The 32-byte Ed25519 public key of a ``did:key:z6Mk...``. Whether it is a usable point is not checked.

    Raises ``MalformedError``.
    """
    if not text.startswith(_DID_KEY):
        raise MalformedError("did:key: must begin with 'did:key:z'")
    digits = text[len(_DID_KEY) :]
    _check_size(digits, "did:key", _DID_KEY_DIGITS)
    number = 0
    for character in digits:
        value = _BASE58_VALUES.get(character)
        if value is None:
            raise MalformedError(f"did:key: {character!r} is not a base58 digit")
        number = number * 58 + value
    size = len(_ED25519_CODE) + 32
    data = number.to_bytes(size + 1, "big")
    if data[:3] != b"\0" + _ED25519_CODE:
        raise MalformedError("did:key: not an Ed25519 public key")
    return data[3:]


def check_name(text: str, what: str) -> str:
    """Return ``text`` when it can be a name: 1 to 200 characters, no controls and no line or paragraph separators.

    The refused characters are U+0000..1F, U+007F..9F, U+2028 and U+2029: a fixed list, so that the rule doesn't move
    with the Unicode version. Raises ``MalformedError``; ``what`` names the field.
    """
    if not text:
        raise MalformedError(f"{what}: empty")
    if len(text) > MAX_NAME:
        raise LimitExceeded(f"{what}: {len(text)} characters, at most {MAX_NAME}")
    refused = _NOT_IN_NAMES.search(text)
    if refused is not None:
        raise MalformedError(f"{what}: the character U+{ord(refused[0]):04X} is not allowed")
    return text


def _check_size(text: str, form: str, size: int | None) -> None:
    if size is not None and len(text) != size:
        raise MalformedError(f"{form}: {len(text)} characters, must be {size}")

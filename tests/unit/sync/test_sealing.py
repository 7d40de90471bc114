"""Sealed values open where they were sealed, with their key, to what was committed to, and nowhere else."""

from __future__ import annotations

import hashlib
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt

from identity.contexts import SEAL_COMMITMENT
from identity.encoding import Value, encode
from identity.errors import LimitExceeded, MalformedError, VerificationError
from ledger.values import MAX_SEALED_BYTES, MIN_SEALED_BYTES, Sealed, from_python, to_python
from sync.sealing import SealedPlace, open_sealed, seal

KEY, KID, SALT, NONCE = bytes(range(32)), bytes(range(16)), bytes(range(64, 96)), bytes(range(128, 152))
PLACE = SealedPlace(bytes([0xDB]) * 32, "people", "ada", ("address", "street"))
VALUE: Value = {"street": "12 St James's Square", "since": {"$date": "1835-07-08"}}

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=9) | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5).filter(lambda key: not key.startswith("$")), inner, max_size=3)
    ),
    max_leaves=8,
)


def sealed(value: Value = VALUE, **changed: Any) -> Sealed:
    arguments = {"key": KEY, "kid": KID, "place": PLACE, "salt": SALT, "nonce": NONCE} | changed
    found = to_python(seal(value, **arguments))
    assert isinstance(found, Sealed)
    return found


@given(values, st.binary(min_size=32, max_size=32), st.binary(min_size=24, max_size=24))
def test_round_trip(value: Value, salt: bytes, nonce: bytes) -> None:
    assert open_sealed(sealed(value, salt=salt, nonce=nonce), KEY, PLACE) == value


def test_what_stands_in_an_entry_shows_neither_the_value_nor_that_two_are_equal() -> None:
    first, second = sealed(), sealed(salt=bytes(32), nonce=bytes(24))
    assert b"Square" not in encode(from_python(first))
    assert first.commitment != second.commitment
    assert first.ciphertext[24:] != second.ciphertext[24:]


def test_the_shortest_and_the_longest() -> None:
    assert len(sealed(None).ciphertext) == MIN_SEALED_BYTES
    room = MAX_SEALED_BYTES - len(sealed(bytes(65536)).ciphertext) + 65536
    assert open_sealed(sealed(bytes(room)), KEY, PLACE) == bytes(room)
    with pytest.raises(LimitExceeded):
        sealed(bytes(room + 1))


def test_every_flipped_bit_is_refused() -> None:
    good = sealed(7)
    for name in ("kid", "commitment", "ciphertext"):
        for bit in range(8 * len(getattr(good, name))):
            parts = {"kid": good.kid, "commitment": good.commitment, "ciphertext": good.ciphertext}
            changed = bytearray(parts[name])
            changed[bit // 8] ^= 1 << bit % 8
            with pytest.raises(VerificationError):
                open_sealed(Sealed(**parts | {name: bytes(changed)}), KEY, PLACE)


@given(st.binary(min_size=MIN_SEALED_BYTES, max_size=MIN_SEALED_BYTES + 40))
def test_foreign_bytes_give_verification_errors_only(ciphertext: bytes) -> None:
    with pytest.raises(VerificationError):
        open_sealed(Sealed(KID, SALT, ciphertext), KEY, PLACE)


@pytest.mark.parametrize("cut", [1, 16, 17])
def test_a_ciphertext_that_was_cut_or_grew(cut: int) -> None:
    good = sealed()
    for ciphertext in (good.ciphertext[:-cut], good.ciphertext + bytes(cut)):
        with pytest.raises(VerificationError):
            open_sealed(Sealed(good.kid, good.commitment, ciphertext), KEY, PLACE)


@pytest.mark.parametrize(
    "place",
    [
        PLACE._replace(database=bytes(32)),
        PLACE._replace(collection="peopl", key="eada"),
        PLACE._replace(collection="People"),
        PLACE._replace(key="ad"),
        PLACE._replace(key="grace"),
        PLACE._replace(path=("address",)),
        PLACE._replace(path=("street", "address")),
        PLACE._replace(path=("address/street",)),
        PLACE._replace(path=("address", "street", "")),
        PLACE._replace(path=()),
    ],
)
def test_another_place(place: SealedPlace) -> None:
    with pytest.raises(VerificationError):
        open_sealed(sealed(), KEY, place)


def test_another_key() -> None:
    with pytest.raises(VerificationError):
        open_sealed(sealed(), bytes(32), PLACE)
    for key in (b"", KEY[1:], KEY + b"\0"):
        with pytest.raises(MalformedError):
            open_sealed(sealed(), key, PLACE)


@pytest.mark.parametrize(
    ("value", "changed"),
    [
        (1.5, {}),
        ({"$dec": "01"}, {}),
        ({"$other": 1}, {}),
        (object(), {}),
        ("\ud800", {}),
        (1, {"key": KEY[1:]}),
        (1, {"kid": KID[1:]}),
        (1, {"kid": KID + b"\0"}),
        (1, {"salt": SALT[1:]}),
        (1, {"nonce": NONCE[1:]}),
        (1, {"nonce": NONCE + b"\0"}),
        (1, {"place": PLACE._replace(key="\ud800")}),
    ],
)
def test_what_cannot_be_sealed(value: Any, changed: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        sealed(value, **changed)


def sealed_by_hand(content: bytes) -> Sealed:
    """A ciphertext and a commitment that are right, over any bytes."""
    plaintext = SALT + content
    data = encode([PLACE.database, PLACE.collection, PLACE.key, list(PLACE.path), KID])
    ciphertext = crypto_aead_xchacha20poly1305_ietf_encrypt(plaintext, data, NONCE, KEY)
    return Sealed(KID, hashlib.sha256(SEAL_COMMITMENT + plaintext).digest(), NONCE + ciphertext)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff",
        b"\x01\x00",
        b"\x18\x01",
        b"\xa1\x61",
        encode(1.5, floats=True),
        encode({"$dec": "01"}),
        encode({"$": 1}),
    ],
)
def test_content_that_is_no_stored_value(content: bytes) -> None:
    assert open_sealed(sealed_by_hand(b"\x01"), KEY, PLACE) == 1
    with pytest.raises(MalformedError):
        open_sealed(sealed_by_hand(content), KEY, PLACE)


# --- one ciphertext, two keys ---------------------------------------------------------------------------------------

P1305 = (1 << 130) - 5


def stream(key: bytes, nonce: bytes, length: int) -> bytes:
    """XChaCha20's key stream from block 0 on: the first 32 bytes are Poly1305's key."""
    # HChaCha20: ChaCha20's block function shows state + input; without the input it is the subkey.
    block = Cipher(ChaCha20(key, nonce[:16]), None).encryptor().update(bytes(64))
    words = struct.unpack("<16I", block)
    inputs = (*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key), *struct.unpack("<4I", nonce[:16]))
    core = [(word - given) & 0xFFFFFFFF for word, given in zip(words, inputs, strict=True)]
    subkey = struct.pack("<8I", *core[:4], *core[12:])
    return Cipher(ChaCha20(subkey, bytes(8) + nonce[16:]), None).encryptor().update(bytes(length))


def poly1305_parts(data: bytes, first: bytes, last: bytes, key: bytes) -> tuple[int, int, int]:
    """(a, b, s): the tag is (a + b * x mod P1305) + s mod 2^128, where x is the number of the block between."""

    def padded(part: bytes) -> bytes:
        return part + bytes(-len(part) % 16)

    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    lengths = struct.pack("<QQ", len(data), len(first) + 16 + len(last))
    message = padded(data) + first + bytes(16) + padded(last) + lengths
    free = (len(padded(data)) + len(first)) // 16
    a = b = 0
    for at in range(0, len(message), 16):
        place = at // 16
        number = 0 if place == free else int.from_bytes(message[at : at + 16] + b"\1", "little")
        a, b = (a + number) * r % P1305, (b + (place == free)) * r % P1305
    return a, b, int.from_bytes(key[16:32], "little")


def forge(data: bytes, keys: tuple[bytes, bytes]) -> tuple[bytes, bytes, list[bytes]] | None:
    """Nonce, ciphertext with its tag, and the two plaintexts: a salt, and a number from 16 to 23."""
    for attempt in range(4096):
        nonce = attempt.to_bytes(24, "big")
        streams = [stream(key, nonce, 64 + 33) for key in keys]
        if not 0 < streams[0][96] ^ streams[1][96] < 8:
            continue  # they must open to two numbers that are one byte of CBOR
        first, last = bytes(16), bytes([streams[0][96] ^ 0x10])
        (a1, b1, s1), (a2, b2, s2) = (poly1305_parts(data, first, last, each[:32]) for each in streams)
        for carry in range(-4, 5):
            x = (a2 - a1 + s2 - s1 + (carry << 128)) * pow(b1 - b2, -1, P1305) % P1305
            tags = {((a + b * x) % P1305 + s) % (1 << 128) for a, b, s in ((a1, b1, s1), (a2, b2, s2))}
            if x >> 128 == 1 and len(tags) == 1:
                ciphertext = first + x.to_bytes(17, "little")[:16] + last
                plaintexts = [bytes(c ^ k for c, k in zip(ciphertext, each[64:], strict=True)) for each in streams]
                return nonce, ciphertext + tags.pop().to_bytes(16, "little"), plaintexts
    return None


def test_a_ciphertext_that_opens_under_two_keys_is_caught_by_its_commitment() -> None:
    """The cipher accepts it under both, so that two readers would be shown two values; the commitment fits one."""
    keys = (KEY, bytes(reversed(KEY)))
    data = encode([PLACE.database, PLACE.collection, PLACE.key, list(PLACE.path), KID])
    forged = forge(data, keys)
    assert forged is not None
    nonce, ciphertext, plaintexts = forged
    assert plaintexts[0][32] != plaintexts[1][32]
    for committed in (0, 1):
        commitment = hashlib.sha256(SEAL_COMMITMENT + plaintexts[committed]).digest()
        found = Sealed(KID, commitment, nonce + ciphertext)
        assert open_sealed(found, keys[committed], PLACE) == plaintexts[committed][32]
        with pytest.raises(VerificationError, match="committed"):
            open_sealed(found, keys[1 - committed], PLACE)


def test_the_example_of_the_specification() -> None:
    text = (Path(__file__).parents[3] / "docs" / "spec" / "sealed-values.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    example = {
        name.strip(): bytes.fromhex("".join(value.split()))
        for name, value in re.findall(r"^(\S[^=\n]*)=(.*(?:\n {4}.*)*)", block, re.MULTILINE)
    }
    place = SealedPlace(example["database"], "people", "ada", ("address",))
    value: Value = {"street": "St James's Square", "since": {"$date": "1835-07-08"}}
    arguments = {name: example[name] for name in ("key", "kid", "salt", "nonce")}
    assert encode([*place[:3], list(place.path), example["kid"]]) == example["associated data"]
    assert example["salt"] + encode(value) == example["plaintext"]
    stored = seal(value, place=place, **arguments)
    assert stored == {"$sealed": [example["kid"], example["com"], example["ct"]]}
    assert encode(stored) == example["sealed value"]

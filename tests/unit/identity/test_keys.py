"""Ed25519 as libsodium decides it."""

from __future__ import annotations

import hashlib
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_scalarmult_ed25519_base_noclamp

from identity.errors import MalformedError, SignatureMismatch
from identity.keys import Ed25519Signer, Signer, generate_seed, verify_signature

ORDER: Final = 2**252 + 27742317777372353535851937790883648493
SIGNER: Final = Ed25519Signer(bytes(range(32)))

# RFC 8032 section 7.1: seed, public key, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
]

# Every encoding of a point whose order divides 8, the non-canonical ones included.
SMALL_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
]


def scalar(number: int) -> bytes:
    return number.to_bytes(32, "little")


def challenge(r: bytes, key: bytes, message: bytes) -> int:
    return int.from_bytes(hashlib.sha512(r + key + message).digest(), "little") % ORDER


def secret_scalar(seed: bytes) -> int:
    number = int.from_bytes(hashlib.sha512(seed).digest()[:32], "little")
    return (number & ((1 << 254) - 8)) | (1 << 254)


@pytest.mark.parametrize(("seed", "public_key", "message", "signature"), RFC_8032)
def test_rfc_8032(seed: str, public_key: str, message: str, signature: str) -> None:
    signer: Signer = Ed25519Signer(bytes.fromhex(seed))
    assert signer.public_key.hex() == public_key
    assert signer.sign(bytes.fromhex(message)).hex() == signature
    verify_signature(bytes.fromhex(public_key), bytes.fromhex(message), bytes.fromhex(signature))


@given(st.binary(max_size=200), st.integers(0, 511))
def test_a_flipped_bit_of_the_signature(message: bytes, bit: int) -> None:
    signature = bytearray(SIGNER.sign(message))
    verify_signature(SIGNER.public_key, message, bytes(signature))
    signature[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SignatureMismatch):
        verify_signature(SIGNER.public_key, message, bytes(signature))


@given(st.binary(min_size=1, max_size=200), st.data())
def test_a_flipped_bit_of_the_message_or_key(message: bytes, data: st.DataObject) -> None:
    signature = SIGNER.sign(message)
    for target in ("message", "key"):
        flipped = bytearray(message if target == "message" else SIGNER.public_key)
        bit = data.draw(st.integers(0, 8 * len(flipped) - 1), label=target)
        flipped[bit // 8] ^= 1 << bit % 8
        key, text = (SIGNER.public_key, bytes(flipped)) if target == "message" else (bytes(flipped), message)
        with pytest.raises(SignatureMismatch):
            verify_signature(key, text, signature)


@pytest.mark.parametrize("key", SMALL_ORDER)
def test_keys_of_small_order(key: str) -> None:
    # With S = r and R = rB the equation holds for such a key under any message whose challenge cancels the key, and
    # for the neutral element under every message.
    public_key = bytes.fromhex(key)
    for number in range(1, 33):
        r = crypto_scalarmult_ed25519_base_noclamp(scalar(number))
        with pytest.raises(SignatureMismatch):
            verify_signature(public_key, b"any message", r + scalar(number))


def test_openssl_accepts_what_we_refuse() -> None:
    """Why only libsodium verifies: one signature, every message. Should OpenSSL change its mind, this test may go."""
    neutral = bytes.fromhex(SMALL_ORDER[0])
    signature = crypto_scalarmult_ed25519_base_noclamp(scalar(7)) + scalar(7)
    for message in (b"pay 1", b"pay 1000"):
        Ed25519PublicKey.from_public_bytes(neutral).verify(signature, message)
        with pytest.raises(SignatureMismatch):
            verify_signature(neutral, message, signature)


@pytest.mark.parametrize("multiple", [1, 2, 7])
def test_s_not_below_the_order(multiple: int) -> None:
    signature = SIGNER.sign(b"message")
    s = int.from_bytes(signature[32:], "little") + multiple * ORDER
    with pytest.raises(SignatureMismatch):
        verify_signature(SIGNER.public_key, b"message", signature[:32] + scalar(s))


@pytest.mark.parametrize("encoded", SMALL_ORDER)
def test_signatures_whose_r_is_of_small_order(encoded: str) -> None:
    """Made with the secret key so that the equation holds when R is the neutral element."""
    r = bytes.fromhex(encoded)
    s = challenge(r, SIGNER.public_key, b"message") * secret_scalar(bytes(range(32))) % ORDER
    with pytest.raises(SignatureMismatch):
        verify_signature(SIGNER.public_key, b"message", r + scalar(s))


def test_the_secret_scalar_of_these_tests_is_right() -> None:
    k = scalar(secret_scalar(bytes(range(32))) % ORDER)
    assert crypto_scalarmult_ed25519_base_noclamp(k) == SIGNER.public_key


@pytest.mark.parametrize("size", [0, 1, 32, 63, 65, 96, 128])
def test_signatures_of_another_length(size: int) -> None:
    signature = (SIGNER.sign(b"message") * 2)[:size]
    with pytest.raises(SignatureMismatch):
        verify_signature(SIGNER.public_key, b"message", signature)


def test_bytes_do_not_move_between_signature_and_message() -> None:
    whole = SIGNER.sign(b"message") + b"message"
    for cut in (63, 65, 70):
        with pytest.raises(SignatureMismatch):
            verify_signature(SIGNER.public_key, whole[cut:], whole[:cut])


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_keys_of_another_length(size: int) -> None:
    with pytest.raises(SignatureMismatch):
        verify_signature((SIGNER.public_key * 2)[:size], b"message", SIGNER.sign(b"message"))


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_seeds_of_another_length(size: int) -> None:
    with pytest.raises(MalformedError):
        Ed25519Signer(bytes(size))


def test_nothing_shows_the_seed() -> None:
    seed = generate_seed()
    signer = Ed25519Signer(seed)
    assert seed.hex() not in repr(signer) + str(signer)
    assert signer.public_key.hex() in repr(signer)


def test_seeds_differ() -> None:
    seeds = {generate_seed() for _ in range(100)}
    assert len(seeds) == 100
    assert {len(seed) for seed in seeds} == {32}

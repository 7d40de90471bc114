"""The keystore: one file with the secret keys of this machine, encrypted under a passphrase.

Argon2id makes a key from the passphrase, XChaCha20-Poly1305 encrypts under it; a checksum tells a damaged file from a
wrong passphrase. The file is only ever replaced whole: a reader sees the old keys or the new ones, whenever the
process or the machine dies. Specified in docs/spec/keystore.md.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_ABYTES,
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
    crypto_aead_xchacha20poly1305_ietf_NPUBBYTES,
)
from nacl.exceptions import CryptoError
from nacl.pwhash import argon2id
from nacl.utils import random

from identity.contexts import KEYSTORE_CHECKSUM, KEYSTORE_HEADER
from identity.durable import PRIVATE, create_file, replace_file
from identity.encoding import Fields, Value, decode, encode
from identity.errors import (
    ConfigurationError,
    ConflictError,
    DamagedFile,
    MalformedError,
    NewerFormat,
    RefusedError,
    StorageError,
    WrongPassphrase,
)
from identity.event import MAX_ROOT_KEYS
from identity.keys import PUBLIC_KEY_BYTES, SEED_BYTES, Ed25519Signer, TokenKey
from identity.textforms import check_name

__all__ = [
    "ARGON2ID_2026",
    "ONLY_FOR_TESTING",
    "SECP256K1_ORDER",
    "KdfProfile",
    "KeyRing",
    "create_keystore",
    "open_keystore",
    "replace_keystore",
]

MAX_KEYSTORE_BYTES: Final = 256 * 1024
MAX_PASSPHRASE: Final = 1024
"""Characters."""

MAX_DEVICES: Final = 256

_MAGIC: Final = b"holdfast keystore "
_VERSION: Final = 1
_TOKEN_VERSION: Final = 2
"""Of files that name keys in tokens, which an older reader would not know to be there."""

_SALT_BYTES: Final = argon2id.SALTBYTES
_NONCE_BYTES: Final = crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
_TAG_BYTES: Final = crypto_aead_xchacha20poly1305_ietf_ABYTES
_KEY_BYTES: Final = 32
SECP256K1_ORDER: Final = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141


@dataclass(frozen=True, slots=True)
class KdfProfile:
    """What Argon2id costs. A file names its profile and nothing else, so an edited file can't ask for more memory."""

    name: str
    passes: int
    memory_bytes: int


ARGON2ID_2026: Final = KdfProfile("argon2id-2026-11", passes=3, memory_bytes=256 * 1024 * 1024)
"""The default since 2026-11: three passes over 256 MiB in one lane, libsodium's "moderate" cost."""

ONLY_FOR_TESTING: Final = KdfProfile("only-for-testing", passes=1, memory_bytes=8 * 1024)
"""No protection worth the name. For tests that open many keystores."""

_PROFILES: Final = {profile.name: profile for profile in (ARGON2ID_2026, ONLY_FOR_TESTING)}


@dataclass(frozen=True, slots=True, repr=False)
class KeyRing:
    """The secret keys of one machine, each 32 bytes and each with one purpose.

    ``root_seeds`` are those of the current ``generation`` (empty on a machine that doesn't hold the root), ``devices``
    maps names to seeds, ``log_seed`` signs checkpoints, ``anchor_key`` is a secp256k1 scalar. Nothing shows them.

    ``token_devices`` and ``token_root`` are keys in hardware tokens, only named here. A name is a device
    of one kind or of the other, and the root is here or there.
    """

    root_seeds: tuple[bytes, ...]
    generation: int
    devices: Mapping[str, bytes]
    log_seed: bytes | None
    anchor_key: bytes | None
    token_devices: Mapping[str, TokenKey] = field(default_factory=dict)
    token_root: TokenKey | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "devices", MappingProxyType(dict(self.devices)))
        object.__setattr__(self, "token_devices", MappingProxyType(dict(self.token_devices)))
        for name in (*self.devices, *self.token_devices):
            check_name(name, "keystore: device name")
        self._check_tokens()
        keys = [*self.root_seeds, *self.devices.values(), *filter(None, (self.log_seed, self.anchor_key))]
        if any(len(key) != SEED_BYTES for key in keys):
            raise MalformedError(f"keystore: a secret key must have {SEED_BYTES} bytes")
        if len(set(keys)) != len(keys):
            raise MalformedError("keystore: one key for two purposes")
        if self.anchor_key is not None and not 0 < int.from_bytes(self.anchor_key, "big") < SECP256K1_ORDER:
            raise MalformedError("keystore: the anchor key is not a secp256k1 key")

    def device_keys(self) -> dict[str, bytes]:
        """The public keys of all devices, here and in tokens, by name."""
        here = {name: Ed25519Signer(seed).public_key for name, seed in self.devices.items()}
        return here | {name: key.public_key for name, key in self.token_devices.items()}

    def _check_tokens(self) -> None:
        keys = [*self.token_devices.values(), *filter(None, (self.token_root,))]
        for key in keys:
            check_name(key.token, "keystore: token label")
        if any(len(key.public_key) != PUBLIC_KEY_BYTES for key in keys):
            raise MalformedError(f"keystore: a public key must have {PUBLIC_KEY_BYTES} bytes")
        if len({key.public_key for key in keys}) != len(keys):
            raise MalformedError("keystore: one key in a token for two purposes")
        if self.devices.keys() & self.token_devices.keys():
            raise MalformedError("keystore: one name for two devices")
        if self.root_seeds and self.token_root is not None:
            raise MalformedError("keystore: a root key here and one in a token")

    def __repr__(self) -> str:
        devices = sorted([*self.devices, *self.token_devices])
        return f"KeyRing(generation={self.generation}, root_seeds={len(self.root_seeds)}, devices={devices})"


def create_keystore(path: Path, passphrase: str, ring: KeyRing, *, profile: KdfProfile = ARGON2ID_2026) -> None:
    """Write a new keystore, readable by its owner only. It is durable when this returns.

    Raises ``RefusedError`` when something is at ``path`` already or the passphrase is empty, ``StorageError`` when the
    file can't be written; then nothing is at ``path``.
    """
    data = _seal(passphrase, ring, profile)
    with _locked_directory(path):
        try:
            create_file(path, data, mode=PRIVATE)
        except FileExistsError as exc:
            raise RefusedError(f"{path} exists already; a keystore is never overwritten") from exc


def open_keystore(path: Path, passphrase: str) -> KeyRing:
    """Read and decrypt a keystore.

    Raises ``WrongPassphrase``, ``DamagedFile``, ``NewerFormat``, ``ConfigurationError`` when there is no file, and
    ``StorageError`` when it can't be read.
    """
    ring, _ = _open(path, passphrase)
    return ring


def replace_keystore(
    path: Path,
    passphrase: str,
    ring: KeyRing,
    *,
    expected: KeyRing,
    new_passphrase: str | None = None,
    profile: KdfProfile | None = None,
) -> None:
    """Put ``ring`` in the place of ``expected``, which the keystore must hold now; the passphrase can change with it.

    The profile stays as it is unless one is given. The old file stays whole until the new one is durable. Raises
    ``ConflictError`` when the keystore holds something else by now, and what ``open_keystore`` raises.
    """
    with _locked_directory(path):
        current, current_profile = _open(path, passphrase)
        if current != expected:
            raise ConflictError(f"{path} was changed by another process; nothing was written")
        data = _seal(passphrase if new_passphrase is None else new_passphrase, ring, profile or current_profile)
        replace_file(path, data, mode=PRIVATE)


# --- the file's bytes -----------------------------------------------------------------------------------------------


def _seal(passphrase: str, ring: KeyRing, profile: KdfProfile) -> bytes:
    if not passphrase:
        raise RefusedError("the passphrase is empty")
    if profile not in _PROFILES.values():
        raise RefusedError(f"{profile.name!r} is not a profile that a keystore can name")
    salt, nonce = random(_SALT_BYTES), random(_NONCE_BYTES)
    header = encode({"kdf": profile.name, "salt": salt, "nonce": nonce})
    key = _derive_key(passphrase, salt, profile)
    ciphertext = crypto_aead_xchacha20poly1305_ietf_encrypt(_encode_ring(ring), KEYSTORE_HEADER + header, nonce, key)
    members = {"header": header, "ciphertext": ciphertext, "checksum": _checksum(header, ciphertext)}
    return b"%s%d\n%s" % (_MAGIC, _version_of(ring), encode(members))


def _open(path: Path, passphrase: str) -> tuple[KeyRing, KdfProfile]:
    data = _read(path)
    try:
        version, header, ciphertext = _parse_file(data)
        fields = Fields(decode(header), "keystore header")
        name = fields.text("kdf", max=64)
        salt, nonce = fields.bytes("salt", length=_SALT_BYTES), fields.bytes("nonce", length=_NONCE_BYTES)
        fields.done()
    except MalformedError as exc:
        raise DamagedFile(f"{path}: {exc}", hint="restore the file from a backup") from exc
    profile = _PROFILES.get(name)
    if profile is None:
        raise NewerFormat(f"{path}: key derivation {name!r} is not known")
    key = _derive_key(passphrase, salt, profile)
    try:
        plaintext = crypto_aead_xchacha20poly1305_ietf_decrypt(ciphertext, KEYSTORE_HEADER + header, nonce, key)
    except CryptoError as exc:
        raise WrongPassphrase(f"{path} does not open with this passphrase") from exc
    try:
        return _parse_ring(decode(plaintext), version), profile
    except MalformedError as exc:
        raise DamagedFile(f"{path}: {exc}") from exc


def _version_of(ring: KeyRing) -> int:
    """A keystore without keys in tokens is written as it always was, and older readers can read it."""
    return _TOKEN_VERSION if ring.token_devices or ring.token_root is not None else _VERSION


def _parse_file(data: bytes) -> tuple[int, bytes, bytes]:
    """Version, header and ciphertext of a file whose checksum holds."""
    first_line, newline, _ = data[: len(_MAGIC) + 20].partition(b"\n")
    version = first_line.removeprefix(_MAGIC)
    if not newline or not first_line.startswith(_MAGIC) or not version.isdigit():
        raise MalformedError("not a keystore")
    if version not in (b"%d" % _VERSION, b"%d" % _TOKEN_VERSION):
        raise NewerFormat(f"keystore version {version.decode('ascii')}")
    fields = Fields(decode(data[len(first_line) + 1 :]), "keystore")
    header, ciphertext = fields.bytes("header"), fields.bytes("ciphertext")
    checksum = fields.bytes("checksum", length=hashlib.sha256().digest_size)
    fields.done()
    if len(ciphertext) < _TAG_BYTES or checksum != _checksum(header, ciphertext):
        raise MalformedError("the checksum does not fit: the file was damaged")
    return int(version), header, ciphertext


def _checksum(header: bytes, ciphertext: bytes) -> bytes:
    return hashlib.sha256(KEYSTORE_CHECKSUM + header + ciphertext).digest()


def _derive_key(passphrase: str, salt: bytes, profile: KdfProfile) -> bytes:
    """Argon2id over the passphrase as NFC, so that it is the same on keyboards that compose differently."""
    if len(passphrase) > MAX_PASSPHRASE:
        raise RefusedError(f"the passphrase has {len(passphrase)} characters, at most {MAX_PASSPHRASE}")
    try:
        secret = unicodedata.normalize("NFC", passphrase).encode("utf-8")
    except UnicodeEncodeError as exc:
        raise RefusedError("the passphrase is not valid text") from exc
    try:
        return argon2id.kdf(_KEY_BYTES, secret, salt, opslimit=profile.passes, memlimit=profile.memory_bytes)
    except CryptoError as exc:
        raise StorageError(f"Argon2id needs {profile.memory_bytes >> 20} MiB of memory and did not get them") from exc


def _encode_ring(ring: KeyRing) -> bytes:
    version = _version_of(ring)
    members: dict[str, object] = {
        "v": version,
        "generation": ring.generation,
        "roots": list(ring.root_seeds),
        "devices": dict(ring.devices),
        "log": ring.log_seed,
        "anchor": ring.anchor_key,
    }
    if version == _TOKEN_VERSION:
        members["token_devices"] = {name: _encode_token_key(key) for name, key in ring.token_devices.items()}
        members["token_root"] = None if ring.token_root is None else _encode_token_key(ring.token_root)
    data = encode(members)
    _parse_ring(decode(data), version)  # keys that could not be read back must not replace any that can
    return data


def _encode_token_key(key: TokenKey) -> dict[str, object]:
    return {"key": key.public_key, "token": key.token}


def _parse_ring(value: Value, version: int) -> KeyRing:
    fields = Fields(value, "keys")
    fields.int("v", min=version, max=version)
    names = fields.dict("devices", max=MAX_DEVICES)
    devices = Fields(names, "keys: devices")
    token_devices, token_root = _parse_token_keys(fields) if version == _TOKEN_VERSION else ({}, None)
    ring = KeyRing(
        root_seeds=fields.bytes_list("roots", length=SEED_BYTES, max=MAX_ROOT_KEYS),
        generation=fields.int("generation"),
        devices={name: devices.bytes(name, length=SEED_BYTES) for name in names},
        log_seed=fields.optional_bytes("log", length=SEED_BYTES),
        anchor_key=fields.optional_bytes("anchor", length=SEED_BYTES),
        token_devices=token_devices,
        token_root=token_root,
    )
    fields.done()
    if _version_of(ring) != version:
        raise MalformedError(f"keys: version {version} without a key in a token")
    return ring


def _parse_token_keys(fields: Fields) -> tuple[dict[str, TokenKey], TokenKey | None]:
    items = fields.dict("token_devices", max=MAX_DEVICES)
    devices = {name: _parse_token_key(item) for name, item in items.items()}
    root = fields.value("token_root")
    return devices, None if root is None else _parse_token_key(root)


def _parse_token_key(value: Value) -> TokenKey:
    fields = Fields(value, "keys: key in a token")
    key = TokenKey(fields.bytes("key", length=PUBLIC_KEY_BYTES), fields.name("token"))
    fields.done()
    return key


# --- the file itself ------------------------------------------------------------------------------------------------


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEYSTORE_BYTES + 1)
    except FileNotFoundError as exc:
        raise ConfigurationError(f"no keystore at {path}") from exc
    except OSError as exc:
        raise StorageError(f"{path}: {exc.strerror}") from exc
    if len(data) > MAX_KEYSTORE_BYTES:
        raise DamagedFile(f"{path}: larger than a keystore can be")
    return data


@contextmanager
def _locked_directory(path: Path) -> Iterator[None]:
    """Hold the lock of the file's directory, so that reading, comparing and replacing is one step among processes."""
    descriptor = _open_directory(path.parent)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as exc:
            raise StorageError(f"{path.parent}: cannot be locked: {exc.strerror}") from exc
        yield
    finally:
        os.close(descriptor)


def _open_directory(directory: Path) -> int:
    try:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as exc:
        raise StorageError(f"{directory}: {exc.strerror}") from exc

"""Manifests: the statement of who may sign a feed, whose hash is the feed's key.

Implements docs/spec/feed.md section 2.4. Hypercore's versions 0, 1 and 2 are read and written byte for byte, whatever
their signers; holdfast's own feeds use one form of version 2 only (``device_manifest``), whose user data ties the feed
to an identity, a name and the feed that it continues. A manifest is an identity, so its reader refuses whatever would
not re-encode to the same bytes, and everything that Hypercore reads and then ignores.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from identity.encoding import Fields, decode, encode
from identity.errors import LimitExceeded, MalformedError, UnsupportedVersion
from identity.textforms import check_name
from ledger.codec import Reader, encode_array, encode_buffer, encode_uint
from ledger.merkle import HASH_BYTES, MAX_LENGTH
from ledger.store import FeedKey

__all__ = [
    "DEFAULT_NAMESPACE",
    "MAX_MANIFEST_BYTES",
    "NONCE_BYTES",
    "Continuation",
    "FeedDescription",
    "Manifest",
    "ManifestSigner",
    "Prologue",
    "describe",
    "device_key",
    "device_manifest",
    "encode_description",
    "encode_manifest",
    "feed_key",
    "parse_description",
    "parse_manifest",
    "read_manifest",
]

MAX_SIGNERS: Final = 255
MAX_LINKED: Final = 255
MAX_USER_DATA_BYTES: Final = 16 * 1024
MAX_MANIFEST_BYTES: Final = 64 * 1024
"""More than the limits above add up to; checked before anything is read."""

_BLAKE2B: Final = 0
_ED25519: Final = 0
_ALLOW_PATCH, _PROLOGUE, _LINKED, _USER_DATA = 1, 2, 4, 8
_V0_STATIC, _V0_SINGLE, _V0_QUORUM = 0, 1, 2


def _namespace(number: int) -> bytes:
    """Hypercore's own signing contexts: H(H("hypercore") || byte number)."""
    return blake2b(blake2b(b"hypercore", digest_size=32).digest() + bytes((number,)), digest_size=32).digest()


_MANIFEST_CONTEXT: Final = _namespace(3)
DEFAULT_NAMESPACE: Final = _namespace(4)
"""The namespace of a signer that was given none."""


@dataclass(frozen=True, slots=True)
class ManifestSigner:
    """An Ed25519 key that signs, and the 32-byte namespace that version 0 mixes into what it signs."""

    public_key: bytes
    namespace: bytes = DEFAULT_NAMESPACE

    def __post_init__(self) -> None:
        if len(self.public_key) != HASH_BYTES or len(self.namespace) != HASH_BYTES:
            raise MalformedError("manifest: a signer's key and namespace are 32 bytes each")


@dataclass(frozen=True, slots=True)
class Prologue:
    """The tree (hash, blocks) that a feed is born with; no signature is needed for it."""

    tree_hash: bytes
    length: int

    def __post_init__(self) -> None:
        if len(self.tree_hash) != HASH_BYTES or not 0 <= self.length <= MAX_LENGTH:
            raise MalformedError("manifest: a prologue is a 32-byte hash and a length")


@dataclass(frozen=True, slots=True)
class Manifest:
    """Who may sign: ``quorum`` of ``signers``. ``linked`` None is absent, an empty tuple is present and empty.

    Raises ``MalformedError`` for what cannot be written, or under which nothing could ever be verified.
    """

    version: int
    quorum: int
    signers: tuple[ManifestSigner, ...]
    allow_patch: bool = False
    prologue: Prologue | None = None
    linked: tuple[bytes, ...] | None = None
    user_data: bytes | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.version <= 2:
            raise UnsupportedVersion(f"manifest: version {self.version}")
        self._check_limits()
        if self.signers and not 1 <= self.quorum <= len(self.signers):
            raise MalformedError(f"manifest: a quorum of {self.quorum} out of {len(self.signers)} signers")
        if not self.signers and (self.quorum or self.allow_patch or self.prologue is None):
            raise MalformedError("manifest: without signers it must be a prologue and nothing else")
        if self.version < 2 and (self.linked is not None or self.user_data is not None):
            raise MalformedError("manifest: linked feeds and user data need version 2")
        if self.version == 0 and self.prologue is not None and (self.signers or self.prologue.length):
            raise MalformedError("manifest: version 0 has a prologue without signers and length only")

    def _check_limits(self) -> None:
        if len(self.signers) > MAX_SIGNERS:
            raise LimitExceeded(f"manifest: more than {MAX_SIGNERS} signers")
        if self.linked is not None and len(self.linked) > MAX_LINKED:
            raise LimitExceeded(f"manifest: more than {MAX_LINKED} linked feeds")
        if any(len(key) != HASH_BYTES for key in self.linked or ()):
            raise MalformedError("manifest: a linked feed's key is 32 bytes")
        if self.user_data is not None and not 0 < len(self.user_data) <= MAX_USER_DATA_BYTES:
            raise LimitExceeded(f"manifest: user data of {len(self.user_data)} bytes")


NONCE_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Continuation:
    """The older feed that a feed goes on from, and how far it is taken over: ``length`` blocks under ``tree_hash``.

    ``nonce`` is nothing, or 16 random bytes: a store that was put back to one state twice, and forgot what it began
    after the first time, begins another feed then and signs none of its indexes again.
    """

    key: FeedKey
    length: int
    tree_hash: bytes
    nonce: bytes = b""

    def __post_init__(self) -> None:
        if len(self.key) != HASH_BYTES or len(self.tree_hash) != HASH_BYTES or not 0 <= self.length <= MAX_LENGTH:
            raise MalformedError("feed description: a continuation is a key, a length and a tree hash")
        if len(self.nonce) not in (0, NONCE_BYTES):
            raise MalformedError(f"feed description: a nonce has {NONCE_BYTES} bytes")


@dataclass(frozen=True, slots=True)
class FeedDescription:
    """What a feed of ours says of itself: whose it is, its name, and the feed that it continues, if any."""

    identity: bytes
    name: str
    continues: Continuation | None = None

    def __post_init__(self) -> None:
        if len(self.identity) != HASH_BYTES:
            raise MalformedError("feed description: an identity id is 32 bytes")
        check_name(self.name, "feed description: 'name'")


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest's one byte string."""
    if manifest.version == 0:
        return b"\x00" + _encode_v0(manifest)
    flags = (
        (_ALLOW_PATCH if manifest.allow_patch else 0)
        | (_PROLOGUE if manifest.prologue is not None else 0)
        | (_LINKED if manifest.linked is not None else 0)
        | (_USER_DATA if manifest.user_data is not None else 0)
    )
    encoded = bytes((manifest.version, flags, _BLAKE2B)) + _encode_quorum(manifest)
    if manifest.prologue is not None:
        encoded += manifest.prologue.tree_hash + encode_uint(manifest.prologue.length)
    if manifest.linked is not None:
        encoded += encode_array(manifest.linked)
    if manifest.user_data is not None:
        encoded += encode_buffer(manifest.user_data)
    return encoded


def parse_manifest(data: bytes) -> Manifest:
    """The manifest that ``encode_manifest`` writes as ``data``; no other bytes are accepted for it.

    Raises ``MalformedError``; ``UnsupportedVersion`` for a version, hash or signature algorithm above.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise LimitExceeded(f"manifest: more than {MAX_MANIFEST_BYTES} bytes")
    reader = Reader(data, "manifest")
    manifest = read_manifest(reader)
    reader.done()
    return manifest


def read_manifest(reader: Reader) -> Manifest:
    """The manifest at the reader's place, as within a proof. Raises like ``parse_manifest``."""
    version = reader.uint("version")
    if version == 0:
        return _read_v0(reader)
    if version > 2:
        raise UnsupportedVersion(f"manifest: version {version}")
    flags = reader.uint("flags", maximum=_ALLOW_PATCH | _PROLOGUE | _LINKED | _USER_DATA)
    _read_algorithm(reader, "hash", _BLAKE2B)
    quorum, signers = _read_quorum(reader)
    return Manifest(
        version=version,
        quorum=quorum,
        signers=signers,
        allow_patch=bool(flags & _ALLOW_PATCH),
        prologue=_read_prologue(reader) if flags & _PROLOGUE else None,
        linked=_read_linked(reader) if flags & _LINKED else None,
        user_data=reader.buffer("user data", maximum=MAX_USER_DATA_BYTES) if flags & _USER_DATA else None,
    )


def feed_key(manifest: Manifest) -> FeedKey:
    """The key of the feed: H(MANIFEST || encoded manifest). It is not a public key."""
    return FeedKey(blake2b(_MANIFEST_CONTEXT + encode_manifest(manifest), digest_size=32).digest())


def device_manifest(device: bytes, description: FeedDescription) -> Manifest:
    """The one form of our own feeds: version 2, the device's 32-byte public key as single signer, described."""
    return Manifest(2, 1, (ManifestSigner(device),), user_data=encode_description(description))


def describe(manifest: Manifest) -> FeedDescription | None:
    """What the feed says of itself, or None when the manifest is not exactly as ``device_manifest`` makes it."""
    if manifest.user_data is None or len(manifest.signers) != 1:
        return None
    try:
        description = parse_description(manifest.user_data)
    except MalformedError:
        return None
    return description if manifest == device_manifest(manifest.signers[0].public_key, description) else None


def device_key(manifest: Manifest) -> bytes:
    """The 32-byte public key of the device whose feed it is. Raises ``UnsupportedVersion`` for a foreign manifest."""
    if describe(manifest) is None:
        raise UnsupportedVersion("manifest: not that of a holdfast feed")
    return manifest.signers[0].public_key


def encode_description(description: FeedDescription) -> bytes:
    """The user data of a manifest of ours: canonical CBOR."""
    continues = description.continues
    return encode(
        {
            "identity": description.identity,
            "name": description.name,
            "continues": None
            if continues is None
            else {
                "key": continues.key,
                "length": continues.length,
                "tree": continues.tree_hash,
                **({"nonce": continues.nonce} if continues.nonce else {}),
            },
        }
    )


def parse_description(data: bytes) -> FeedDescription:
    """The inverse of ``encode_description``. Raises ``MalformedError`` for any other bytes."""
    fields = Fields(decode(data), "feed description")
    identity, name = fields.bytes("identity", length=HASH_BYTES), fields.name("name")
    older = fields.optional_map("continues")
    fields.done()
    return FeedDescription(identity, name, None if older is None else _read_continuation(older))


def _read_continuation(fields: Fields) -> Continuation:
    key, tree_hash = fields.bytes("key", length=HASH_BYTES), fields.bytes("tree", length=HASH_BYTES)
    nonce = fields.bytes("nonce", length=NONCE_BYTES) if fields.has("nonce") else b""
    continuation = Continuation(FeedKey(key), fields.int("length", max=MAX_LENGTH), tree_hash, nonce)
    fields.done()
    return continuation


def _encode_v0(manifest: Manifest) -> bytes:
    if manifest.prologue is not None:
        return bytes((_BLAKE2B, _V0_STATIC)) + manifest.prologue.tree_hash
    if len(manifest.signers) == 1 and not manifest.allow_patch:
        return bytes((_BLAKE2B, _V0_SINGLE)) + _encode_signer(manifest.signers[0])
    return bytes((_BLAKE2B, _V0_QUORUM, int(manifest.allow_patch))) + _encode_quorum(manifest)


def _encode_quorum(manifest: Manifest) -> bytes:
    return encode_uint(manifest.quorum) + encode_array(_encode_signer(signer) for signer in manifest.signers)


def _encode_signer(signer: ManifestSigner) -> bytes:
    return bytes((_ED25519,)) + signer.namespace + signer.public_key


def _read_v0(reader: Reader) -> Manifest:
    _read_algorithm(reader, "hash", _BLAKE2B)
    kind = reader.uint("type", maximum=_V0_QUORUM)
    if kind == _V0_STATIC:
        return Manifest(0, 0, (), prologue=Prologue(reader.fixed(HASH_BYTES, "prologue hash"), 0))
    if kind == _V0_SINGLE:
        return Manifest(0, 1, (_read_signer(reader),))
    allow_patch = bool(reader.uint("flags", maximum=_ALLOW_PATCH))
    quorum, signers = _read_quorum(reader)
    if len(signers) == 1 and not allow_patch:
        raise MalformedError("manifest: a single signer is written as type 1")
    return Manifest(0, quorum, signers, allow_patch)


def _read_quorum(reader: Reader) -> tuple[int, tuple[ManifestSigner, ...]]:
    quorum = reader.uint("quorum", maximum=MAX_SIGNERS)
    return quorum, reader.array(lambda: _read_signer(reader), "signers", maximum=MAX_SIGNERS)


def _read_signer(reader: Reader) -> ManifestSigner:
    _read_algorithm(reader, "signature", _ED25519)
    namespace = reader.fixed(HASH_BYTES, "namespace")
    return ManifestSigner(reader.fixed(HASH_BYTES, "public key"), namespace)


def _read_prologue(reader: Reader) -> Prologue:
    digest = reader.fixed(HASH_BYTES, "prologue hash")
    return Prologue(digest, reader.uint("prologue length", maximum=MAX_LENGTH))


def _read_linked(reader: Reader) -> tuple[bytes, ...]:
    return reader.array(lambda: reader.fixed(HASH_BYTES, "linked feed"), "linked feeds", maximum=MAX_LINKED)


def _read_algorithm(reader: Reader, what: str, known: int) -> None:
    number = reader.uint(f"{what} algorithm")
    if number != known:
        raise UnsupportedVersion(f"manifest: {what} algorithm {number}")

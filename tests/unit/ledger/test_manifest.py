"""Manifests: one byte string each, and no key for what nobody could sign."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.encoding import encode
from identity.errors import MalformedError, UnsupportedVersion
from ledger.manifest import (
    DEFAULT_NAMESPACE,
    Continuation,
    FeedDescription,
    Manifest,
    ManifestSigner,
    Prologue,
    describe,
    device_key,
    device_manifest,
    encode_description,
    encode_manifest,
    feed_key,
    parse_description,
    parse_manifest,
)
from ledger.store import FeedKey

BYTES_32 = st.binary(min_size=32, max_size=32)
SIGNERS = st.lists(st.builds(ManifestSigner, BYTES_32, BYTES_32), min_size=1, max_size=4).map(tuple)
CONTINUATIONS = st.builds(Continuation, BYTES_32.map(FeedKey), st.integers(0, 2**52), BYTES_32)
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=200)
DESCRIPTIONS = st.builds(FeedDescription, BYTES_32, NAMES, st.none() | CONTINUATIONS)

DEVICE = bytes(range(32))
OURS = device_manifest(DEVICE, FeedDescription(b"\x11" * 32, "notes"))
SIGNER = ManifestSigner(DEVICE)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    version = draw(st.integers(0, 2))
    if version == 0 and draw(st.booleans()):
        return Manifest(0, 0, (), prologue=Prologue(draw(BYTES_32), 0))
    signers = draw(SIGNERS)
    manifest = Manifest(version, draw(st.integers(1, len(signers))), signers, draw(st.booleans()))
    if version >= 1 and draw(st.booleans()):
        manifest = replace(manifest, prologue=Prologue(draw(BYTES_32), draw(st.integers(0, 2**52))))
    if version == 2:
        linked = draw(st.none() | st.lists(BYTES_32, max_size=3).map(tuple))
        manifest = replace(manifest, linked=linked, user_data=draw(st.none() | st.binary(min_size=1, max_size=300)))
    return manifest


@given(manifests())
def test_round_trip(manifest: Manifest) -> None:
    assert parse_manifest(encode_manifest(manifest)) == manifest


@given(manifests(), st.data())
def test_a_flipped_bit_is_refused_or_another_manifest_with_another_key(manifest: Manifest, data: st.DataObject) -> None:
    encoded = bytearray(encode_manifest(manifest))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        other = parse_manifest(bytes(encoded))
    except MalformedError:
        return
    assert encode_manifest(other) == bytes(encoded)
    assert feed_key(other) != feed_key(manifest)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_malformed(data: bytes) -> None:
    try:
        manifest = parse_manifest(data)
    except MalformedError:
        return
    assert encode_manifest(manifest) == data


ENCODED_SIGNER = b"\x00" + DEFAULT_NAMESPACE + DEVICE


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "ends within version"),
        (b"\x01\x10\x00\x01\x01" + ENCODED_SIGNER, "flags: 16"),
        (b"\x01\x04\x00\x01\x01" + ENCODED_SIGNER + b"\x00", "need version 2"),
        (b"\x01\x08\x00\x01\x01" + ENCODED_SIGNER + b"\x01x", "need version 2"),
        (b"\x02\x08\x00\x01\x01" + ENCODED_SIGNER + b"\x00", "user data of 0 bytes"),
        (b"\x01\x00\x00\x00\x01" + ENCODED_SIGNER, "a quorum of 0 out of 1"),
        (b"\x01\x00\x00\x02\x01" + ENCODED_SIGNER, "a quorum of 2 out of 1"),
        (b"\x01\x00\x00\x00\x00", "without signers"),
        (b"\x01\x03\x00\x00\x00" + bytes(33), "without signers"),
        (b"\x01\x00\x00\x01\x01" + ENCODED_SIGNER + b"\x00", "1 bytes after"),
        (b"\x01\x00\x00\xfd\x01\x00\x01" + ENCODED_SIGNER, "not in its shortest form"),
        (b"\x01\x00\x00\x01\xfd\x00\x01", "the limit is 255"),
        (b"\x00\x00\x03", "type: 3"),
        (b"\x00\x00\x02\x00\x01\x01" + ENCODED_SIGNER, "written as type 1"),
        (b"\x00\x00\x02\x02\x01\x01" + ENCODED_SIGNER, "flags: 2"),
        (b"\x00\x00\x02\x00\x00\x00", "without signers"),
        (bytes(64 * 1024 + 1), "more than 65536 bytes"),
    ],
)
def test_what_hypercore_would_read_and_forget_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(MalformedError, match=why):
        parse_manifest(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x03\x00\x00\x01\x01" + ENCODED_SIGNER,
        b"\x01\x00\x01\x01\x01" + ENCODED_SIGNER,
        b"\x01\x00\x00\x01\x01\x01" + DEFAULT_NAMESPACE + DEVICE,
    ],
    ids=["version 3", "another hash", "another signature"],
)
def test_unknown_versions_and_algorithms_are_named(data: bytes) -> None:
    with pytest.raises(UnsupportedVersion):
        parse_manifest(data)


def test_an_empty_list_of_linked_feeds_is_not_an_absent_one() -> None:
    absent = Manifest(2, 1, (SIGNER,))
    empty = replace(absent, linked=())
    assert feed_key(empty) != feed_key(absent)
    assert parse_manifest(encode_manifest(empty)) == empty


@pytest.mark.parametrize("bad", [b"", bytes(31), bytes(33)])
def test_keys_of_another_length_are_refused(bad: bytes) -> None:
    for make in (
        lambda: ManifestSigner(bad),
        lambda: ManifestSigner(DEVICE, bad),
        lambda: Prologue(bad, 1),
        lambda: replace(OURS, linked=(bad,)),
        lambda: FeedDescription(bad, "notes"),
        lambda: Continuation(FeedKey(bad), 1, bytes(32)),
        lambda: Continuation(FeedKey(bytes(32)), 1, bad),
        lambda: Continuation(FeedKey(bytes(32)), 1, bytes(32), b"x"),
    ):
        with pytest.raises(MalformedError):
            make()


# --- our own feeds ---


def test_a_device_feed_is_version_2_with_the_device_as_single_signer() -> None:
    assert (OURS.version, OURS.quorum, OURS.signers) == (2, 1, (ManifestSigner(DEVICE, DEFAULT_NAMESPACE),))
    assert describe(OURS) == FeedDescription(b"\x11" * 32, "notes")
    assert device_key(OURS) == DEVICE


@given(DESCRIPTIONS)
def test_description_round_trip(description: FeedDescription) -> None:
    assert parse_description(encode_description(description)) == description
    assert describe(parse_manifest(encode_manifest(device_manifest(DEVICE, description)))) == description


def test_every_field_of_the_description_changes_the_feed_key() -> None:
    base = FeedDescription(b"\x11" * 32, "notes", Continuation(FeedKey(bytes(32)), 1, bytes(32)))
    others = [
        replace(base, identity=b"\x12" * 32),
        replace(base, name="notes "),
        replace(base, continues=None),
        replace(base, continues=Continuation(FeedKey(bytes(32)), 2, bytes(32))),
        replace(base, continues=Continuation(FeedKey(bytes(32)), 1, bytes(32), bytes(16))),
    ]
    keys = {feed_key(device_manifest(DEVICE, description)) for description in [base, *others]}
    assert len(keys) == 6


MEMBERS: dict[str, object] = {"identity": bytes(32), "name": "notes", "continues": None}


@pytest.mark.parametrize(
    "members",
    [
        {**MEMBERS, "more": 1},
        {"identity": bytes(32), "name": "notes"},
        {**MEMBERS, "identity": bytes(31)},
        {**MEMBERS, "name": ""},
        {**MEMBERS, "name": "x" * 201},
        {**MEMBERS, "name": "a\nb"},
        {**MEMBERS, "name": b"notes"},
        {**MEMBERS, "continues": {}},
        {**MEMBERS, "continues": {"key": bytes(32), "length": -1, "tree": bytes(32)}},
        {**MEMBERS, "continues": {"key": bytes(32), "length": 2**52 + 1, "tree": bytes(32)}},
        {**MEMBERS, "continues": {"key": bytes(32), "length": 1, "tree": bytes(32), "fork": 0}},
    ],
)
def test_other_descriptions_are_refused_and_make_the_feed_foreign(members: dict[str, object]) -> None:
    data = encode(members)
    with pytest.raises(MalformedError):
        parse_description(data)
    foreign = replace(OURS, user_data=data)
    assert describe(foreign) is None
    with pytest.raises(UnsupportedVersion):
        device_key(foreign)


@pytest.mark.parametrize(
    "foreign",
    [
        replace(OURS, user_data=None),
        replace(OURS, allow_patch=True),
        replace(OURS, linked=()),
        replace(OURS, prologue=Prologue(bytes(32), 0)),
        replace(OURS, signers=(ManifestSigner(DEVICE, bytes(32)),)),
        replace(OURS, signers=(SIGNER, ManifestSigner(bytes(32)))),
        replace(OURS, user_data=b"hello"),
    ],
)
def test_a_manifest_that_we_would_not_write_is_foreign(foreign: Manifest) -> None:
    assert describe(foreign) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 3},
        {"version": -1},
        {"signers": tuple(ManifestSigner(bytes([n]) * 32) for n in range(256))},
        {"linked": (bytes(32),) * 256},
        {"linked": (bytes(31),)},
        {"user_data": b""},
        {"user_data": bytes(16 * 1024 + 1)},
    ],
    ids=["version 3", "version -1", "256 signers", "256 linked", "short link", "no user data", "long user data"],
)
def test_what_could_not_be_read_back_is_not_made(changes: dict[str, object]) -> None:
    with pytest.raises(MalformedError):
        replace(OURS, **changes)  # type: ignore[arg-type]

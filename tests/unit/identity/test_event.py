"""Identity events as bytes: strict, canonical, and refused with a name for everything else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.contexts import IDENTITY_EVENT_SIGNATURE
from identity.encoding import MAX_INT, encode
from identity.errors import LimitExceeded, MalformedError, UnsupportedVersion
from identity.event import (
    MAX_EVENT_BYTES,
    MAX_LAST_GOOD,
    MAX_ROOT_KEYS,
    AddDevice,
    BindLog,
    Body,
    Close,
    DeviceClass,
    Event,
    Inception,
    LastGood,
    NextKeys,
    RevocationReason,
    RevokeDevice,
    RootKeys,
    RotateRoot,
    SignedEvent,
    encode_event,
    event_digest,
    key_commitment,
    parse_event,
    parse_signed_event,
    sign_event,
)
from identity.keys import Ed25519Signer, verify_signature
from identity.textforms import to_zbase32

BYTES32 = st.binary(min_size=32, max_size=32)
NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=20)
TIMES = st.integers(0, MAX_INT)
KEY_LISTS = st.lists(BYTES32, min_size=1, max_size=4, unique=True).map(tuple)


@st.composite
def root_keys(draw: st.DrawFn) -> RootKeys:
    keys = draw(KEY_LISTS)
    return RootKeys(draw(st.integers(1, len(keys))), keys)


@st.composite
def next_keys(draw: st.DrawFn) -> NextKeys:
    digests = draw(KEY_LISTS)
    return NextKeys(draw(st.integers(1, len(digests))), digests)


LAST_GOOD = st.dictionaries(BYTES32, st.builds(LastGood, st.integers(1, MAX_INT), BYTES32), max_size=3)
REVOCATIONS = st.one_of(
    st.builds(RevokeDevice, BYTES32, LAST_GOOD, st.none() | BYTES32, st.none(), st.just(RevocationReason.RETIRED)),
    st.builds(
        RevokeDevice,
        BYTES32,
        LAST_GOOD,
        st.none() | BYTES32,
        st.none() | TIMES,
        st.sampled_from([reason for reason in RevocationReason if reason is not RevocationReason.RETIRED]),
    ),
)
LATER_BODIES = st.one_of(
    st.builds(RotateRoot, root_keys(), next_keys()),
    st.builds(AddDevice, BYTES32, st.sampled_from(DeviceClass), NAMES, st.none() | BYTES32),
    REVOCATIONS,
    st.builds(BindLog, BYTES32),
    st.just(Close()),
)
EVENTS = st.one_of(
    st.builds(Event, st.just(0), TIMES, st.builds(Inception, NAMES, root_keys(), next_keys()), st.none(), st.none()),
    st.builds(Event, st.integers(1, MAX_INT), TIMES, LATER_BODIES, BYTES32, BYTES32),
)

ROOTS = {"k": 1, "keys": [b"\x01" * 32]}
NEXT = {"k": 1, "digests": [b"\x02" * 32]}
FEED = to_zbase32(b"\x07" * 32)
BODIES: dict[str, dict[str, Any]] = {
    "inception": {"label": "Ada", "roots": ROOTS, "next": NEXT},
    "rotate_root": {"roots": ROOTS, "next": NEXT},
    "add_device": {"device": b"\x03" * 32, "class": "device", "name": "phone", "by": None},
    "revoke_device": {
        "device": b"\x03" * 32,
        "last_good": {FEED: [3, b"\x08" * 32]},
        "last_event": None,
        "compromised_since": 5,
        "reason": "stolen",
    },
    "bind_log": {"log": b"\x04" * 32},
    "close": {},
}


def members(event_type: str) -> dict[str, Any]:
    event = {"v": 1, "type": event_type, "seq": 1, "time": 1000, "body": copy.deepcopy(BODIES[event_type])}
    if event_type == "inception":
        return event | {"seq": 0}
    return event | {"id": b"\x05" * 32, "prev": b"\x06" * 32}


@given(EVENTS)
def test_round_trip(event: Event) -> None:
    data = encode_event(event)
    assert parse_event(data) == event
    assert encode_event(parse_event(data)) == data


@given(EVENTS, st.data())
def test_a_flipped_bit_is_refused_or_another_event(event: Event, data: st.DataObject) -> None:
    encoded = bytearray(encode_event(event))
    bit = data.draw(st.integers(0, 8 * len(encoded) - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    try:
        other = parse_event(bytes(encoded))
    except MalformedError:
        return
    assert other != event
    assert encode_event(other) == encoded


@given(st.binary(max_size=200))
def test_any_bytes_give_only_malformed_errors(data: bytes) -> None:
    for parse in (parse_event, parse_signed_event):
        with pytest.raises(MalformedError):
            parse(data)


@pytest.mark.parametrize("event_type", BODIES)
def test_the_plain_form_is_what_is_read(event_type: str) -> None:
    event = parse_event(encode(members(event_type)))
    assert event.type == event_type
    assert (event.identity is None) == (event_type == "inception")
    assert encode_event(event) == encode(members(event_type))


@pytest.mark.parametrize("event_type", BODIES)
def test_every_key_must_stand_and_no_other(event_type: str) -> None:
    event = members(event_type)
    for key in event:
        with pytest.raises(MalformedError):
            parse_event(encode({name: value for name, value in event.items() if name != key}))
    for key in event["body"]:
        body = {name: value for name, value in event["body"].items() if name != key}
        with pytest.raises(MalformedError):
            parse_event(encode(event | {"body": body}))
    with pytest.raises(MalformedError):
        parse_event(encode(event | {"more": 1}))
    with pytest.raises(MalformedError):
        parse_event(encode(event | {"body": event["body"] | {"more": 1}}))


@pytest.mark.parametrize("event_type", BODIES)
@pytest.mark.parametrize("wrong", [None, True, -1, "x", b"x", [], {}, ["x"], {"x": 1}, MAX_INT])
def test_values_of_another_type(event_type: str, wrong: Any) -> None:
    """Each value in turn, in the event and in its body, replaced by one that does not belong there."""
    event = members(event_type)
    allowed = {
        "seq": [MAX_INT],
        "time": [MAX_INT],
        "by": [None],
        "last_event": [None],
        "compromised_since": [None, MAX_INT],
        "last_good": [{}],
        "label": ["x"],
        "name": ["x"],
        "body": [{}] if event_type == "close" else [],
    }
    for key in event:
        if wrong in allowed.get(key, []) and not (key == "seq" and event_type == "inception"):
            continue
        with pytest.raises(MalformedError):
            parse_event(encode(event | {key: wrong}))
    for key in event["body"]:
        if wrong in allowed.get(key, []):
            continue
        with pytest.raises(MalformedError):
            parse_event(encode(event | {"body": event["body"] | {key: wrong}}))


@pytest.mark.parametrize("version", [0, 2, 100])
def test_versions(version: int) -> None:
    with pytest.raises(UnsupportedVersion):
        parse_event(encode(members("close") | {"v": version}))


@pytest.mark.parametrize("event_type", ["bind_x509", "recover", "", "Close"])
def test_types_that_are_not_known(event_type: str) -> None:
    with pytest.raises(UnsupportedVersion):
        parse_event(encode(members("close") | {"type": event_type}))


def test_the_inception_alone_is_at_seq_0() -> None:
    for event in (members("inception") | {"seq": 1}, members("close") | {"seq": 0}):
        with pytest.raises(MalformedError, match="at seq"):
            parse_event(encode(event))
    with pytest.raises(MalformedError):
        parse_event(encode(members("inception") | {"id": b"\x05" * 32, "prev": b"\x06" * 32}))


@pytest.mark.parametrize(
    ("event_type", "change"),
    [
        ("inception", {"roots": {"k": 0, "keys": [b"\x01" * 32]}}),
        ("inception", {"roots": {"k": 2, "keys": [b"\x01" * 32]}}),
        ("inception", {"roots": {"k": 1, "keys": []}}),
        ("inception", {"roots": {"k": 1, "keys": [b"\x01" * 31]}}),
        ("inception", {"roots": {"k": 1, "keys": [b"\x01" * 32] * 2}}),
        ("inception", {"roots": {"k": 1, "keys": [bytes([n]) * 32 for n in range(65)]}}),
        ("inception", {"next": {"k": 1, "digests": []}}),
        ("inception", {"next": {"k": 1, "digests": [b"\x01" * 32], "more": 1}}),
        ("inception", {"next": {"k": 1, "keys": [b"\x01" * 32]}}),
        ("inception", {"label": ""}),
        ("inception", {"label": "x" * 201}),
        ("inception", {"label": "a\nb"}),
        ("rotate_root", {"next": {"k": True, "digests": [b"\x01" * 32]}}),
        ("add_device", {"class": "root"}),
        ("add_device", {"class": "Admin"}),
        ("add_device", {"name": "\x00"}),
        ("add_device", {"device": b"\x03" * 33}),
        ("add_device", {"by": b"\x03" * 31}),
        ("revoke_device", {"reason": "because"}),
        ("revoke_device", {"reason": "retired"}),  # with compromised_since
        ("revoke_device", {"compromised_since": -1}),
        ("revoke_device", {"last_event": b""}),
        ("revoke_device", {"last_good": {FEED: [0, b"\x08" * 32]}}),
        ("revoke_device", {"last_good": {FEED: [True, b"\x08" * 32]}}),
        ("revoke_device", {"last_good": {FEED: [3, b"\x08" * 31]}}),
        ("revoke_device", {"last_good": {FEED: [3, b"\x08" * 32, 1]}}),
        ("revoke_device", {"last_good": {FEED: {"length": 3}}}),
        ("revoke_device", {"last_good": {FEED.upper(): [3, b"\x08" * 32]}}),
        ("revoke_device", {"last_good": {FEED[:-1]: [3, b"\x08" * 32]}}),
        ("revoke_device", {"last_good": {FEED[:-1] + "b": [3, b"\x08" * 32]}}),
        ("bind_log", {"log": b"\x04" * 31}),
    ],
)
def test_bodies_that_are_refused(event_type: str, change: dict[str, Any]) -> None:
    event = members(event_type)
    with pytest.raises(MalformedError):
        parse_event(encode(event | {"body": event["body"] | change}))


def test_a_retired_device_without_a_time() -> None:
    event = members("revoke_device")
    body = event["body"] | {"reason": "retired", "compromised_since": None}
    assert isinstance(parse_event(encode(event | {"body": body})).body, RevokeDevice)


def test_too_many_feeds_and_bytes() -> None:
    event = members("revoke_device")
    feeds = {to_zbase32(n.to_bytes(32, "big")): [1, bytes(32)] for n in range(MAX_LAST_GOOD + 1)}
    with pytest.raises(LimitExceeded):
        parse_event(encode(event | {"body": event["body"] | {"last_good": feeds}}))
    feeds.popitem()
    data = encode(event | {"body": event["body"] | {"last_good": feeds}})
    assert encode_event(parse_event(data)) == data
    with pytest.raises(LimitExceeded):
        parse_event(bytes(MAX_EVENT_BYTES + 1))


@pytest.mark.parametrize(
    "body",
    [
        AddDevice(b"short", DeviceClass.DEVICE, "phone", None),
        AddDevice(bytes(32), DeviceClass.DEVICE, "", None),
        RevokeDevice(bytes(32), {b"short": LastGood(1, bytes(32))}, None, None, RevocationReason.LOST),
        RevokeDevice(bytes(32), {bytes(32): LastGood(0, bytes(32))}, None, None, RevocationReason.LOST),
        BindLog(b""),
        RotateRoot(RootKeys(2, (bytes(32),)), NextKeys(1, (bytes(32),))),
    ],
    ids=repr,
)
def test_nothing_is_written_that_can_not_be_read(body: Body) -> None:
    with pytest.raises(MalformedError):
        encode_event(Event(1, 0, body, bytes(32), bytes(32)))


# --- signed events ----------------------------------------------------------------------------------------------------

EVENT = encode(members("close"))
SIGNERS = [Ed25519Signer(bytes([number]) * 32) for number in range(1, 4)]


def test_signing_with_one_and_several() -> None:
    for chosen in ([(0, SIGNERS[0])], [(2, SIGNERS[2]), (0, SIGNERS[0]), (1, SIGNERS[1])]):
        signed = sign_event(EVENT, chosen)
        assert [index for index, _ in signed.signatures] == sorted(index for index, _ in chosen)
        for index, signature in signed.signatures:
            verify_signature(SIGNERS[index].public_key, IDENTITY_EVENT_SIGNATURE + EVENT, signature)
        assert parse_signed_event(signed.encode()) == signed


@pytest.mark.parametrize("indices", [[], [0, 0], [-1], [MAX_ROOT_KEYS + 1]])
def test_signer_lists_that_are_refused(indices: list[int]) -> None:
    with pytest.raises(MalformedError):
        sign_event(EVENT, [(index, SIGNERS[0]) for index in indices])


def test_only_events_are_signed() -> None:
    for data in (b"", b"transfer 100", encode({"v": 1}), EVENT + b"\x00"):
        with pytest.raises(MalformedError):
            sign_event(data, [(0, SIGNERS[0])])


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {"event": b"x"},
        {"event": b"x", "signatures": []},
        {"event": "x", "signatures": [[0, bytes(64)]]},
        {"event": b"x", "signatures": [[0, bytes(64)]], "more": 1},
        {"event": b"x", "signatures": {"0": bytes(64)}},
        {"event": b"x", "signatures": [[0, bytes(63)]]},
        {"event": b"x", "signatures": [[0, bytes(64), 1]]},
        {"event": b"x", "signatures": [[False, bytes(64)]]},
        {"event": b"x", "signatures": [[-1, bytes(64)]]},
        {"event": b"x", "signatures": [[65, bytes(64)]]},
        {"event": b"x", "signatures": [[1, bytes(64)], [0, bytes(64)]]},
        {"event": b"x", "signatures": [[1, bytes(64)], [1, bytes(64)]]},
        {"event": b"x", "signatures": [bytes(64)]},
        {"event": bytes(MAX_EVENT_BYTES + 1), "signatures": [[0, bytes(64)]]},
    ],
)
def test_signed_events_that_are_refused(value: Any) -> None:
    with pytest.raises(MalformedError):
        parse_signed_event(encode(value))


def test_parsing_does_not_look_into_the_event() -> None:
    signed = SignedEvent(b"anything", ((0, bytes(64)), (64, bytes(64))))
    assert parse_signed_event(signed.encode()) == signed


def test_digests_and_commitments_have_their_own_contexts() -> None:
    key = SIGNERS[0].public_key
    assert len({event_digest(key), key_commitment(key)}) == 2

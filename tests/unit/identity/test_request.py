"""Signing requests: what several holders sign, and everything that is refused by name."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.encoding import encode
from identity.errors import AuditError, HistoryError, MalformedError, RefusedError, SignatureMismatch
from identity.event import RevocationReason, SignedEvent, event_digest, key_commitment, sign_event
from identity.history import (
    ProposedEvent,
    build_add_device,
    build_bind_log,
    build_close,
    build_inception,
    build_revoke_device,
    build_rotate_root,
    fold,
)
from identity.keys import Ed25519Signer
from identity.request import (
    SigningRequest,
    accept_request,
    encode_request,
    join_requests,
    parse_request,
    propose,
    review_request,
    sign_request,
)

ROOTS = [Ed25519Signer(bytes([n]) * 32) for n in (1, 2, 3)]
NEXT = [Ed25519Signer(bytes([n]) * 32) for n in (11, 12, 13)]
AFTER = [Ed25519Signer(bytes([n]) * 32) for n in (21, 22, 23)]
DEVICE = Ed25519Signer(b"\xdd" * 32)
STRANGER = Ed25519Signer(b"\x99" * 32)


def commitments(signers: list[Ed25519Signer]) -> list[bytes]:
    return [key_commitment(signer.public_key) for signer in signers]


def inception() -> bytes:
    return build_inception(
        label="Bank",
        root_keys=[root.public_key for root in ROOTS],
        next_digests=commitments(NEXT),
        time_ms=1,
        threshold=2,
        next_threshold=2,
    )


FIRST = sign_event(inception(), [(0, ROOTS[0]), (2, ROOTS[2])])
ADDED = sign_event(
    build_add_device(fold([FIRST]), device=DEVICE.public_key, name="till", time_ms=2),
    [(0, ROOTS[0]), (1, ROOTS[1]), (3, DEVICE)],
)
HELD = [FIRST, ADDED]
HISTORY = fold(HELD)


def close() -> SigningRequest:
    return propose(HELD, [SignedEvent(build_close(HISTORY, time_ms=3), ())])


def revocation() -> SigningRequest:
    event = build_revoke_device(
        HISTORY, device=DEVICE.public_key, last_good={}, reason=RevocationReason.STOLEN, time_ms=3
    )
    return propose(HELD, [SignedEvent(event, ())])


def rotation() -> SigningRequest:
    event = build_rotate_root(
        HISTORY,
        root_keys=[signer.public_key for signer in NEXT],
        next_digests=commitments(AFTER),
        time_ms=3,
        next_threshold=3,
    )
    return propose(HELD, [SignedEvent(event, ())])


def founding() -> SigningRequest:
    """Inception, device and log, before anybody has signed: the device signs for itself."""
    first = SignedEvent(inception(), ())
    steps = review_request(SigningRequest((), (first,)))
    event = build_add_device(steps[-1].after, device=DEVICE.public_key, name="till", time_ms=2)
    added = sign_event(event, [(3, DEVICE)])
    steps = review_request(SigningRequest((), (first, added)))
    bound = SignedEvent(build_bind_log(steps[-1].after, log=b"\x07" * 32, time_ms=2), ())
    return propose([], [first, added, bound])


def last(request: SigningRequest) -> ProposedEvent:
    return review_request(request)[-1]


# --- as it should go --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [close, revocation, founding])
def test_two_of_three_in_any_order_and_either_way(make: Any) -> None:
    """In parallel on copies, or one after the other on one: the same events."""
    request = make()
    held = list(request.history)
    one, two = (sign_request(request, [ROOTS[n]]) for n in (2, 0))
    chained = sign_request(one, [ROOTS[0]])
    joined = join_requests([one, two])
    assert joined == join_requests([two, one, one]) == chained
    assert joined.id == request.id
    events, history = accept_request(joined, held)
    assert history == fold([*held, *events])
    assert [[index for index, _ in event.signatures if index < 3] for event in events] == [[0, 2]] * len(events)


def test_three_are_more_than_enough() -> None:
    request = sign_request(close(), ROOTS)
    assert last(request).missing == 0
    assert accept_request(request, HELD)[1].closed


def test_a_rotation_is_signed_by_the_next_keys() -> None:
    with pytest.raises(RefusedError, match="may sign"):
        sign_request(rotation(), ROOTS)
    request = sign_request(rotation(), [NEXT[1], NEXT[2]])
    history = accept_request(request, HELD)[1]
    assert (history.generation, history.root_threshold, history.next_threshold) == (1, 2, 3)


def test_what_a_step_says() -> None:
    (step,) = review_request(sign_request(close(), [ROOTS[1]]))
    assert (step.threshold, step.signed, step.missing) == (2, frozenset({1}), 1)
    assert step.authority == tuple(root.public_key for root in ROOTS)
    assert step.before is not None
    assert (step.before.closed, step.after.closed) == (False, True)
    steps = review_request(founding())
    assert [step.before is None for step in steps] == [True, False, False]
    assert [len(step.after.devices) for step in steps] == [0, 1, 1]


def test_an_admin_proposes_with_its_own_authority() -> None:
    admin, phone = Ed25519Signer(b"\xaa" * 32), Ed25519Signer(b"\xbb" * 32)
    from identity.event import DeviceClass

    event = build_add_device(HISTORY, device=admin.public_key, name="desk", time_ms=3, device_class=DeviceClass.ADMIN)
    held = [*HELD, sign_event(event, [(0, ROOTS[0]), (1, ROOTS[1]), (3, admin)])]
    event = build_add_device(fold(held), device=phone.public_key, name="phone", time_ms=4, by=admin.public_key)
    request = propose(held, [sign_event(event, [(1, phone)])])
    with pytest.raises(RefusedError, match="may sign"):
        sign_request(request, ROOTS)
    assert accept_request(sign_request(request, [admin]), held)[1].devices[phone.public_key].name == "phone"


# --- refused ----------------------------------------------------------------------------------------------------------


def test_too_few() -> None:
    with pytest.raises(RefusedError, match=r"event 2 \(close\) is signed by 0 of the 2 keys") as caught:
        accept_request(close(), HELD)
    assert str(caught.value).count("did:key:") == 3
    with pytest.raises(RefusedError, match="signed by 1 of the 2") as caught:
        accept_request(sign_request(close(), [ROOTS[0]]), HELD)
    assert str(caught.value).count("did:key:") == 2


@pytest.mark.parametrize("signer", [STRANGER, NEXT[0], DEVICE], ids=["stranger", "next root", "device"])
def test_keys_that_may_not_sign(signer: Ed25519Signer) -> None:
    with pytest.raises(RefusedError, match="may sign"):
        sign_request(close(), [signer])


def test_one_key_twice_counts_once() -> None:
    request = sign_request(close(), [ROOTS[0]])
    with pytest.raises(RefusedError, match="signed the request already"):
        sign_request(request, [ROOTS[0]])
    with pytest.raises(RefusedError, match="signed by 1 of the 2"):
        accept_request(join_requests([request, request]), HELD)
    (event,) = request.events
    doubled = replace(request, events=(SignedEvent(event.event, (*event.signatures, *event.signatures)),))
    with pytest.raises(MalformedError, match="index twice"):
        parse_request(encode_request(doubled))
    with pytest.raises(HistoryError, match="two signatures of one key"):
        accept_request(doubled, HELD)


def test_a_signature_over_another_event() -> None:
    (other,) = sign_request(revocation(), [ROOTS[0]]).events
    request = sign_request(close(), [ROOTS[1]])
    (event,) = request.events
    mixed = replace(request, events=(SignedEvent(event.event, (*other.signatures, *event.signatures)),))
    for call in (lambda: accept_request(mixed, HELD), lambda: join_requests([request, mixed])):
        with pytest.raises(SignatureMismatch):
            call()


def test_a_signature_in_the_place_of_another_key() -> None:
    request = sign_request(close(), [ROOTS[0]])
    (event,) = request.events
    moved = replace(request, events=(SignedEvent(event.event, ((1, event.signatures[0][1]),)),))
    with pytest.raises(SignatureMismatch):
        accept_request(moved, HELD)
    beside = replace(request, events=(SignedEvent(event.event, ((3, event.signatures[0][1]),)),))
    with pytest.raises(HistoryError, match="key 3 of 3"):
        accept_request(beside, HELD)


def test_two_requests_are_not_joined() -> None:
    with pytest.raises(RefusedError, match="different requests"):
        join_requests([sign_request(close(), [ROOTS[0]]), sign_request(revocation(), [ROOTS[1]])])


def test_an_event_that_no_longer_follows() -> None:
    request = sign_request(revocation(), ROOTS[:2])
    other = sign_event(build_bind_log(HISTORY, log=b"\x01" * 32, time_ms=3), [(0, ROOTS[0]), (1, ROOTS[1])])
    with pytest.raises(RefusedError, match="no longer follows"):
        accept_request(request, [*HELD, other])
    with pytest.raises(RefusedError, match="does not have"):
        accept_request(request, [FIRST])


def test_events_that_are_held_already() -> None:
    request = sign_request(close(), ROOTS)
    with pytest.raises(RefusedError, match="already"):
        accept_request(request, [*HELD, *request.events])


def test_another_identity_and_no_identity() -> None:
    stranger = sign_event(
        build_inception(label="x", root_keys=[STRANGER.public_key], next_digests=commitments([DEVICE]), time_ms=1),
        [(0, STRANGER)],
    )
    request = sign_request(close(), ROOTS)
    with pytest.raises(RefusedError, match="for another identity"):
        accept_request(request, [stranger])
    with pytest.raises(RefusedError, match="has no identity"):
        accept_request(request, [])
    with pytest.raises(RefusedError, match="for another identity"):
        accept_request(sign_request(founding(), ROOTS), [stranger])


def test_what_does_not_fold_is_not_proposed_and_not_signed() -> None:
    unsigned = SignedEvent(build_add_device(HISTORY, device=STRANGER.public_key, name="x", time_ms=3), ())
    with pytest.raises(HistoryError, match="device key has not signed"):
        propose(HELD, [unsigned])
    twice = SignedEvent(build_close(HISTORY, time_ms=3), ())
    for events in ([twice, twice], [SignedEvent(inception(), ())]):
        with pytest.raises(HistoryError):
            sign_request(SigningRequest(tuple(HELD), tuple(events)), ROOTS)
    with pytest.raises(HistoryError, match="signed by 1 of the 2"):
        review_request(replace(close(), history=(replace(FIRST, signatures=FIRST.signatures[:1]), ADDED)))


def test_a_signer_that_signs_wrongly_is_found_out() -> None:
    class Broken:
        public_key = ROOTS[0].public_key

        def sign(self, message: bytes) -> bytes:
            return bytes(64)

    with pytest.raises(SignatureMismatch):
        sign_request(close(), [Broken()])


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [close, revocation, rotation, founding])
def test_round_trip(make: Any) -> None:
    request = make()
    data = encode_request(request)
    assert parse_request(data) == request
    signed = sign_request(request, [*ROOTS, *NEXT])
    assert parse_request(encode_request(signed)) == signed


def test_every_byte_altered() -> None:
    """Nothing that was altered on its way is taken for something else."""
    request = sign_request(close(), ROOTS[:2])
    data = encode_request(request)
    for place in range(len(data)):
        for mask in (0x01, 0x20):
            changed = data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]
            with pytest.raises(AuditError):
                accept_request(parse_request(changed), HELD)


def test_every_truncation() -> None:
    data = encode_request(sign_request(founding(), ROOTS))
    for size in range(len(data)):
        with pytest.raises(MalformedError):
            parse_request(data[:size])


def test_lines_left_out_doubled_and_swapped() -> None:
    """Leaving out a line of history is noticed by what follows; leaving out an event by the last line."""
    lines = encode_request(sign_request(founding(), ROOTS)).splitlines(keepends=True)
    for number in range(len(lines)):
        with pytest.raises(AuditError):
            accept_request(parse_request(b"".join([*lines[:number], *lines[number + 1 :]])), [])
        with pytest.raises(AuditError):
            accept_request(
                parse_request(b"".join([*lines[:number], *lines[number : number + 1] * 2, *lines[number + 1 :]])), []
            )
    lines = encode_request(sign_request(close(), ROOTS)).splitlines(keepends=True)
    for other in (lines[:1] + lines[2:3] + lines[1:2] + lines[3:], lines[:1] + lines[3:4] + lines[1:3] + lines[4:]):
        with pytest.raises(AuditError):
            accept_request(parse_request(b"".join(other)), HELD)


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_give_only_errors_of_ours(data: bytes, begin: bool) -> None:
    with pytest.raises(MalformedError):
        parse_request((b"holdfast/v1 signing-request\n" if begin else b"") + data)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"event ", "event"),
        (b"event " + base64.b64encode(encode({"event": b"", "signatures": []})), "CBOR"),
        (b"event " + base64.b64encode(encode({"event": b"\xa0", "signatures": []})), "'v'"),
        (b"event " + base64.b64encode(encode({"event": inception(), "signatures": [], "more": 1})), "more"),
        (b"event " + base64.b64encode(encode({"event": inception(), "signatures": [[0, b"x"]]})), "signature"),
        (b"event \xff", "ASCII"),
        (b"note hello", "neither"),
    ],
)
def test_lines_that_are_none(line: bytes, says: str) -> None:
    with pytest.raises(MalformedError, match=rf"r:2: .*({says}|ended|empty|byte)"):
        parse_request(b"holdfast/v1 signing-request\n" + line + b"\nrequest " + b"0" * 64 + b"\n", "r")


def test_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    from identity import request as module

    data = encode_request(founding())
    monkeypatch.setattr(module, "MAX_PROPOSED", 2)
    with pytest.raises(MalformedError, match="neither"):
        parse_request(data)
    monkeypatch.setattr(module, "MAX_REQUEST_BYTES", len(data) - 1)
    with pytest.raises(MalformedError, match="at most"):
        parse_request(data)


# --- the specification ------------------------------------------------------------------------------------------------


def test_the_example_in_the_specification() -> None:
    text = (Path(__file__).parents[3] / "docs" / "spec" / "signing-request.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    whole = [block for block in blocks if block.startswith("holdfast/v1 signing-request\n")]
    assert len(whole) == 2
    proposed, signed = (parse_request(block.encode()) for block in whole)
    (step,) = review_request(proposed)
    assert (step.event.type, step.missing, len(step.authority)) == ("close", 2, 3)
    assert accept_request(join_requests([signed]), proposed.history)[1].closed
    assert event_digest(proposed.events[0].event) == event_digest(signed.events[0].event)
    roots = [Ed25519Signer(bytes([n]) * 32) for n in (1, 2, 3)]
    assert sign_request(proposed, roots[:2]) == signed

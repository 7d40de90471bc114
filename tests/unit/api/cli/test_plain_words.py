"""What a person is shown before signing: everything that an event changes, and nothing that steers a terminal."""

from __future__ import annotations

import io

import pytest
import typer

from api.cli import identity_request
from api.cli.exit_codes import UsageError
from api.cli.output import Output
from api.cli.plain_words import describe_event, describe_signatures
from identity.event import DeviceClass, LastGood, RevocationReason, SignedEvent, key_commitment, sign_event
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
from identity.request import propose, review_request, sign_request
from identity.textforms import to_did_key, to_zbase32

ROOTS = [Ed25519Signer(bytes([n]) * 32) for n in (1, 2)]
NEXT = [Ed25519Signer(bytes([n]) * 32) for n in (11, 12)]
DEVICE = Ed25519Signer(b"\xdd" * 32)
FIRST = sign_event(
    build_inception(
        label="Bank\u202eknab",
        root_keys=[root.public_key for root in ROOTS],
        next_digests=[key_commitment(root.public_key) for root in NEXT],
        time_ms=1,
    ),
    [(0, ROOTS[0])],
)
ADDED = sign_event(
    build_add_device(fold([FIRST]), device=DEVICE.public_key, name="till", time_ms=2, device_class=DeviceClass.ADMIN),
    [(0, ROOTS[0]), (2, DEVICE)],
)
HISTORY = fold([FIRST, ADDED])


def step(event: bytes) -> ProposedEvent:
    return review_request(propose([FIRST, ADDED], [SignedEvent(event, ())]))[0]


def said(event: bytes) -> str:
    return "\n".join(describe_event(step(event)))


def test_a_founding_names_every_key_and_escapes_the_label() -> None:
    founding, device = review_request(propose([], [SignedEvent(FIRST.event, ()), ADDED]))
    text = "\n".join(describe_event(founding))
    assert text.startswith("event 0: found the identity 'Bank\\u202eknab'")
    for root in ROOTS:
        assert to_did_key(root.public_key) in text
    for root in NEXT:
        assert key_commitment(root.public_key).hex() in text
    text = "\n".join(describe_event(device))
    assert "an admin: it writes, and it may add devices" in text
    assert to_did_key(DEVICE.public_key) in text


def test_a_revocation_says_what_is_vouched_for() -> None:
    feed = b"\x05" * 32
    event = build_revoke_device(
        HISTORY,
        device=DEVICE.public_key,
        last_good={feed: LastGood(7, b"\x06" * 32)},
        reason=RevocationReason.STOLEN,
        time_ms=3,
        compromised_since_ms=1_790_000_000_000,
    )
    text = said(event)
    assert "end the device 'till', because it is stolen" in text
    assert f"the first 7 entries of feed {to_zbase32(feed)}" in text
    assert "06" * 32 in text
    assert "since 2026-09-21" in text
    event = build_revoke_device(
        HISTORY, device=DEVICE.public_key, last_good={}, reason=RevocationReason.LOST, time_ms=3
    )
    assert "nothing that it wrote is vouched for" in said(event)


def test_the_others() -> None:
    assert "0f" * 32 in said(build_bind_log(HISTORY, log=b"\x0f" * 32, time_ms=3))
    assert "CLOSE the identity for good" in said(build_close(HISTORY, time_ms=3))
    text = said(
        build_rotate_root(
            HISTORY,
            root_keys=[root.public_key for root in NEXT],
            next_digests=[key_commitment(b"\x07" * 32)],
            time_ms=3,
        )
    )
    assert "replace all root keys" in text
    assert "1 of these 2 keys" in text
    assert "1 of 1 keys with these commitments" in text


def test_who_has_signed() -> None:
    close = build_close(HISTORY, time_ms=3)
    assert describe_signatures(step(close)) == "  signed by nobody; it takes 1 of 2"
    (signed,) = review_request(sign_request(propose([FIRST, ADDED], [SignedEvent(close, ())]), [ROOTS[1]]))
    assert describe_signatures(signed) == f"  signed by {to_did_key(ROOTS[1].public_key)}; it takes 1 of 2"


# --- agreeing ---


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def out(**options: bool) -> Output:
    return Output(stdout=io.StringIO(), stderr=io.StringIO(), **options)


@pytest.mark.parametrize("answer", ["", "y", "no", "Yes", "yes please"])
def test_nothing_but_yes_is_yes(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(answer + "\n"))
    monkeypatch.setattr("sys.stderr", Terminal())
    with pytest.raises(typer.Abort):
        identity_request._agree(out(), "words", yes=False)
    monkeypatch.setattr("sys.stdin", Terminal("yes\n"))
    talked = out(quiet=True)
    identity_request._agree(talked, "what\nit does\n", yes=False)
    assert isinstance(talked.stderr, io.StringIO)
    assert talked.stderr.getvalue() == "what\nit does\n", "shown also to those who asked for silence"


def test_nobody_to_ask() -> None:
    with pytest.raises(UsageError, match="no terminal"):
        identity_request._agree(out(), "words", yes=False)
    with pytest.raises(UsageError, match="answers a program"):
        identity_request._agree(out(json=True), "words", yes=False)
    identity_request._agree(out(json=True), "words", yes=True)

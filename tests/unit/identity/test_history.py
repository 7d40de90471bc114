"""Folding identity events: what they amount to, and every way in which one of them is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from identity.errors import AuditError, HistoryError, MalformedError, SignatureMismatch
from identity.event import (
    AddDevice,
    BindLog,
    Body,
    Close,
    Event,
    NextKeys,
    RootKeys,
    RotateRoot,
    encode_event,
    parse_event,
)
from identity.history import (
    DeviceClass,
    KeyHistory,
    LastGood,
    RevocationReason,
    SignedEvent,
    build_add_device,
    build_bind_log,
    build_close,
    build_inception,
    build_revoke_device,
    build_rotate_root,
    event_digest,
    fold,
    key_commitment,
    sign_event,
)
from identity.keys import Ed25519Signer, Signer

ROOTS = [Ed25519Signer(bytes([1, n]) * 16) for n in range(12)]
PHONE, LAPTOP, SERVER, OTHER = (Ed25519Signer(bytes([2, n]) * 16) for n in range(4))
FEED, LOG = b"\x0a" * 32, b"\x0b" * 32
GOOD = {FEED: LastGood(3, b"\x0c" * 32)}


def commitments(signers: Sequence[Signer]) -> list[bytes]:
    return [key_commitment(signer.public_key) for signer in signers]


def keys(signers: Sequence[Signer]) -> list[bytes]:
    return [signer.public_key for signer in signers]


class Story:
    """A history in the making: roots 1-of-1 unless said otherwise, generation g has the roots from g * size on."""

    def __init__(self, size: int = 1, threshold: int = 1) -> None:
        self.size, self.threshold = size, threshold
        inception = build_inception(
            label="Ada",
            root_keys=keys(self.roots(0)),
            threshold=threshold,
            next_digests=commitments(self.roots(1)),
            next_threshold=threshold,
            time_ms=1000,
        )
        self.events = [sign_event(inception, self.root_signers(0))]

    @property
    def history(self) -> KeyHistory:
        return fold(self.events)

    @property
    def generation(self) -> int:
        return self.history.generation

    def roots(self, generation: int) -> list[Ed25519Signer]:
        return ROOTS[generation * self.size : (generation + 1) * self.size]

    def root_signers(self, generation: int | None = None) -> list[tuple[int, Signer]]:
        roots = self.roots(self.generation if generation is None else generation)
        return list(enumerate(roots))[: self.threshold]

    def accept(self, event: bytes, signers: Sequence[tuple[int, Signer]]) -> Story:
        """Add an event that must be valid."""
        events = [*self.events, sign_event(event, signers)]
        fold(events)
        self.events = events
        return self

    def refuse(
        self,
        event: bytes,
        signers: Sequence[tuple[int, Signer]],
        match: str,
        error: type[AuditError] = HistoryError,
    ) -> None:
        """An event that must not be valid; with it the fold gives nothing at all."""
        with pytest.raises(error, match=match):
            fold([*self.events, sign_event(event, signers)])

    def add(
        self, device: Ed25519Signer, device_class: DeviceClass = DeviceClass.DEVICE, by: Ed25519Signer | None = None
    ) -> Story:
        admin = None if by is None else by.public_key
        event = build_add_device(
            self.history, device=device.public_key, name="device", device_class=device_class, by=admin, time_ms=2000
        )
        return self.accept(event, self.add_signers(device, by))

    def add_signers(self, device: Ed25519Signer, by: Ed25519Signer | None = None) -> list[tuple[int, Signer]]:
        return [(0, by), (1, device)] if by is not None else [*self.root_signers(), (self.size, device)]

    def rotate(self) -> Story:
        following = self.generation + 1
        event = build_rotate_root(
            self.history,
            root_keys=keys(self.roots(following)),
            next_digests=commitments(self.roots(following + 1)),
            next_threshold=self.threshold,
            time_ms=2000,
        )
        return self.accept(event, self.root_signers(following))

    def revocation(self, device: Ed25519Signer, reason: RevocationReason = RevocationReason.LOST, **more: Any) -> bytes:
        more = {"last_good": GOOD} | more
        return build_revoke_device(self.history, device=device.public_key, reason=reason, time_ms=3000, **more)

    def revoke(self, device: Ed25519Signer, **more: Any) -> Story:
        return self.accept(self.revocation(device, **more), self.root_signers())

    def event(self, body: Body, **changes: Any) -> bytes:
        """The next event, with anything about it changed."""
        history = self.history
        fields = {"seq": history.seq + 1, "time_ms": 1, "identity": history.identity, "prev": history.head} | changes
        return encode_event(Event(body=body, **fields))


# --- what events amount to --------------------------------------------------------------------------------------------


def test_inception() -> None:
    story = Story()
    history = story.history
    assert history.identity == history.head == event_digest(story.events[0].event)
    assert (history.label, history.seq, history.generation, history.closed) == ("Ada", 0, 0, False)
    assert history.root_keys == (ROOTS[0].public_key,)
    assert history.next_digests == (key_commitment(ROOTS[1].public_key),)
    assert (history.root_threshold, history.next_threshold) == (1, 1)
    assert not history.devices
    assert history.logs == ()
    assert history.duplicity is None
    assert history.events == ((0, history.identity, "inception"),)


def test_a_whole_life() -> None:
    story = Story().add(LAPTOP, DeviceClass.ADMIN).add(PHONE, by=LAPTOP).add(SERVER, DeviceClass.SERVICE)
    story.accept(build_bind_log(story.history, log=LOG, time_ms=1), story.root_signers())
    story.rotate().revoke(PHONE, compromised_since_ms=77)
    story.accept(build_close(story.history, time_ms=1), story.root_signers())
    history = story.history
    assert [event.type for event in history.events] == [
        "inception",
        "add_device",
        "add_device",
        "add_device",
        "bind_log",
        "rotate_root",
        "revoke_device",
        "close",
    ]
    assert [event.seq for event in history.events] == list(range(8))
    assert [event.digest for event in history.events] == [event_digest(signed.event) for signed in story.events]
    assert history.closed
    assert history.logs == (LOG,)
    assert history.generation == 1
    assert history.root_keys == (ROOTS[1].public_key,)
    phone, laptop = history.devices[PHONE.public_key], history.devices[LAPTOP.public_key]
    assert phone.authorised_by == LAPTOP.public_key
    assert laptop.authorised_by is None
    assert (laptop.device_class, phone.device_class) == (DeviceClass.ADMIN, DeviceClass.DEVICE)
    assert (laptop.added_seq, phone.added_seq) == (1, 2)
    assert laptop.revocation is None
    revocation = phone.revocation
    assert revocation is not None
    assert revocation.seq == 6
    assert revocation.digest == history.events[6].digest
    assert revocation.last_good == GOOD
    assert revocation.compromised_since_ms == 77
    assert revocation.reason is RevocationReason.LOST
    assert revocation.last_event is None


def test_a_history_can_not_be_changed() -> None:
    history = Story().add(PHONE).history
    with pytest.raises(TypeError):
        history.devices[LAPTOP.public_key] = history.devices[PHONE.public_key]  # type: ignore[index]
    with pytest.raises(AttributeError):
        history.closed = True  # type: ignore[misc]


def test_no_events() -> None:
    with pytest.raises(HistoryError, match="no events"):
        fold([])


# --- order and linkage ------------------------------------------------------------------------------------------------


def test_the_first_event_is_an_inception() -> None:
    story = Story().add(PHONE)
    with pytest.raises(HistoryError, match="not an inception"):
        fold(story.events[1:])


def test_a_second_inception() -> None:
    story = Story()
    with pytest.raises(HistoryError, match="a second inception"):
        fold([*story.events, story.events[0]])


def test_an_event_of_another_identity() -> None:
    story = Story().add(PHONE)
    story.refuse(story.event(Close(), identity=b"\x09" * 32), story.root_signers(), "another identity")


@pytest.mark.parametrize("seq", [1, 3, 100])
def test_a_gap_or_step_back_in_seq(seq: int) -> None:
    story = Story().add(PHONE)
    story.refuse(story.event(Close(), seq=seq), story.root_signers(), "its prev is at seq 1")


def test_an_unknown_prev() -> None:
    story = Story().add(PHONE)
    story.refuse(story.event(Close(), prev=b"\x09" * 32), story.root_signers(), "not an event of this history")


def test_events_out_of_order() -> None:
    story = Story().add(PHONE).add(LAPTOP)
    first, second, third = story.events
    with pytest.raises(HistoryError, match="not an event of this history"):
        fold([first, third, second])
    with pytest.raises(HistoryError, match="not an event of this history"):
        fold([first, third])


def test_an_event_twice() -> None:
    story = Story().add(PHONE).add(LAPTOP)
    for event in story.events[1:]:
        with pytest.raises(HistoryError, match="in the history already"):
            fold([*story.events, event])


@pytest.mark.parametrize("body", [Close(), BindLog(LOG)], ids=repr)
def test_nothing_comes_after_close(body: Body) -> None:
    story = Story()
    story.accept(build_close(story.history, time_ms=1), story.root_signers())
    story.refuse(story.event(body), story.root_signers(), "after the identity was closed")


def test_a_claimed_time_may_go_back() -> None:
    story = Story().add(PHONE)
    story.accept(build_bind_log(story.history, log=LOG, time_ms=0), story.root_signers())


# --- signatures -------------------------------------------------------------------------------------------------------


def test_an_inception_is_signed_by_its_roots() -> None:
    event = Story().events[0].event
    with pytest.raises(SignatureMismatch):
        fold([sign_event(event, [(0, OTHER)])])
    with pytest.raises(HistoryError, match="a signature by key 1 of 1"):
        fold([sign_event(event, [(1, ROOTS[0])])])
    with pytest.raises(HistoryError, match="signed by 0 of the 1"):
        fold([SignedEvent(event, ())])


@pytest.mark.parametrize("chosen", [[0, 1], [0, 2], [1, 2], [0, 1, 2]])
def test_any_two_of_three_roots(chosen: list[int]) -> None:
    story = Story(3, 2)
    signers: list[tuple[int, Signer]] = [(index, ROOTS[index]) for index in chosen]
    story.accept(story.event(BindLog(LOG)), signers)
    added = build_add_device(story.history, device=PHONE.public_key, name="phone", time_ms=1)
    story.accept(added, [*signers, (3, PHONE)])
    story.revoke(PHONE)
    story.accept(story.event(Close()), signers)


BY_THE_ROOT: list[tuple[str, Callable[[Story], bytes]]] = [
    ("bind_log", lambda story: story.event(BindLog(LOG))),
    ("close", lambda story: story.event(Close())),
    ("revoke_device", lambda story: story.revocation(PHONE)),
    (
        "add_device",
        lambda story: story.event(AddDevice(SERVER.public_key, DeviceClass.DEVICE, "server", None)),
    ),
]


@pytest.mark.parametrize(("name", "build"), BY_THE_ROOT, ids=[name for name, _ in BY_THE_ROOT])
def test_one_of_three_roots_is_not_two(name: str, build: Callable[[Story], bytes]) -> None:
    story = Story(3, 2).add(PHONE)
    event = build(story)
    possession: list[tuple[int, Signer]] = [(3, SERVER)] if name == "add_device" else []
    story.refuse(event, [(1, ROOTS[1]), *possession], "signed by 1 of the 2")
    # The same root twice, under two indices or as two signatures, counts once or not at all.
    story.refuse(event, [(0, ROOTS[0]), (1, ROOTS[0]), *possession], "not by", SignatureMismatch)
    once = sign_event(event, [(0, ROOTS[0]), *possession])
    twice = SignedEvent(once.event, (once.signatures[0], *once.signatures))
    with pytest.raises(HistoryError, match="two signatures of one key"):
        fold([*story.events, twice])


@pytest.mark.parametrize(("name", "build"), BY_THE_ROOT, ids=[name for name, _ in BY_THE_ROOT])
def test_every_signature_must_hold_also_a_needless_one(name: str, build: Callable[[Story], bytes]) -> None:
    story = Story(3, 2).add(PHONE)
    possession: list[tuple[int, Signer]] = [(3, SERVER)] if name == "add_device" else []
    story.refuse(build(story), [(0, ROOTS[0]), (1, ROOTS[1]), (2, OTHER), *possession], "not by", SignatureMismatch)


@pytest.mark.parametrize(("name", "build"), BY_THE_ROOT, ids=[name for name, _ in BY_THE_ROOT])
def test_neither_devices_nor_admins_sign_for_the_root(name: str, build: Callable[[Story], bytes]) -> None:
    story = Story().add(PHONE).add(LAPTOP, DeviceClass.ADMIN)
    event = build(story)
    possession: list[tuple[int, Signer]] = [(1, SERVER)] if name == "add_device" else []
    for signer in (PHONE, LAPTOP, ROOTS[1]):
        story.refuse(event, [(0, signer), *possession], "not by", SignatureMismatch)


def test_a_signature_is_for_one_event() -> None:
    story = Story()
    signed = sign_event(story.event(BindLog(LOG)), story.root_signers())
    with pytest.raises(SignatureMismatch):
        fold([*story.events, SignedEvent(story.event(BindLog(b"\x0d" * 32)), signed.signatures)])


# --- root rotation ----------------------------------------------------------------------------------------------------


def rotation(story: Story, signers: Sequence[Signer], **changes: Any) -> bytes:
    following = changes.pop("following", commitments(story.roots(2)))
    threshold = changes.pop("threshold", story.threshold)
    return story.event(
        RotateRoot(RootKeys(threshold, tuple(keys(signers))), NextKeys(story.threshold, tuple(following)))
    )


def test_rotation_needs_the_new_threshold_of_the_new_keys() -> None:
    story = Story(3, 2)
    event = rotation(story, story.roots(1))
    new = story.roots(1)
    story.refuse(event, [(0, new[0])], "signed by 1 of the 2")
    story.refuse(event, list(enumerate(story.roots(0))), "not by", SignatureMismatch)
    story.refuse(event, [(0, new[0]), (1, story.roots(0)[1])], "not by", SignatureMismatch)
    story.accept(event, [(0, new[0]), (2, new[2])])
    assert story.history.root_keys == tuple(keys(new))


def test_old_roots_have_no_say_after_a_rotation() -> None:
    story = Story().rotate()
    story.refuse(story.event(Close()), story.root_signers(0), "not by", SignatureMismatch)
    story.rotate()
    assert story.history.generation == 2


@pytest.mark.parametrize(
    "choose",
    [
        lambda new: new[:2],  # not in full
        lambda new: [new[1], new[0], new[2]],  # another order
        lambda new: [*new[:2], OTHER],  # a key nobody committed to
        lambda new: [*new, OTHER],
        lambda new: [OTHER, PHONE],
    ],
)
def test_rotation_reveals_exactly_the_committed_keys(choose: Callable[[list[Signer]], list[Signer]]) -> None:
    story = Story(3, 2)
    signers = choose(list(story.roots(1)))
    story.refuse(rotation(story, signers), list(enumerate(signers)), "not the ones that were committed to")


@pytest.mark.parametrize("threshold", [1, 3])
def test_rotation_keeps_the_committed_threshold(threshold: int) -> None:
    story = Story(3, 2)
    event = rotation(story, story.roots(1), threshold=threshold)
    story.refuse(event, list(enumerate(story.roots(1))), "threshold is not the one")


# --- devices ----------------------------------------------------------------------------------------------------------


def test_a_device_proves_possession() -> None:
    story = Story()
    event = build_add_device(story.history, device=PHONE.public_key, name="phone", time_ms=1)
    story.refuse(event, story.root_signers(), "the device key has not signed")
    story.refuse(event, [(0, ROOTS[0]), (1, OTHER)], "not by", SignatureMismatch)
    story.refuse(event, [(1, PHONE)], "signed by 0 of the 1")
    story.refuse(event, [(0, ROOTS[0]), (2, PHONE)], "a signature by key 2 of 2")


def test_the_index_of_possession_counts_for_no_root() -> None:
    story = Story(2, 2)
    event = build_add_device(story.history, device=PHONE.public_key, name="phone", time_ms=1)
    story.refuse(event, [(0, ROOTS[0]), (2, PHONE)], "signed by 1 of the 2")


def by_admin(story: Story, admin: Ed25519Signer, device_class: DeviceClass = DeviceClass.DEVICE) -> bytes:
    return story.event(AddDevice(PHONE.public_key, device_class, "phone", admin.public_key))


def test_an_admin_and_the_device_both_sign() -> None:
    story = Story().add(LAPTOP, DeviceClass.ADMIN)
    event = by_admin(story, LAPTOP)
    story.refuse(event, [(0, LAPTOP)], "the device key has not signed")
    story.refuse(event, [(1, PHONE)], "signed by 0 of the 1")
    story.refuse(event, [(0, PHONE), (1, LAPTOP)], "not by", SignatureMismatch)
    story.refuse(event, [(0, ROOTS[0]), (1, PHONE)], "not by", SignatureMismatch)
    story.accept(event, [(0, LAPTOP), (1, PHONE)])


@pytest.mark.parametrize("device_class", [DeviceClass.DEVICE, DeviceClass.SERVICE])
def test_only_an_admin_authorises(device_class: DeviceClass) -> None:
    story = Story().add(LAPTOP, device_class)
    story.refuse(by_admin(story, LAPTOP), [(0, LAPTOP), (1, PHONE)], "no admin")
    story.refuse(by_admin(story, OTHER), [(0, OTHER), (1, PHONE)], "no admin")
    story.refuse(by_admin(story, ROOTS[0]), [(0, ROOTS[0]), (1, PHONE)], "no admin")


def test_an_admin_adds_no_admin() -> None:
    story = Story().add(LAPTOP, DeviceClass.ADMIN)
    event = by_admin(story, LAPTOP, DeviceClass.ADMIN)
    story.refuse(event, [(0, LAPTOP), (1, PHONE)], "can't add an admin")


@pytest.mark.parametrize("reason", RevocationReason)
def test_a_revoked_admin_authorises_nobody(reason: RevocationReason) -> None:
    story = Story().add(LAPTOP, DeviceClass.ADMIN).revoke(LAPTOP, reason=reason)
    story.refuse(by_admin(story, LAPTOP), [(0, LAPTOP), (1, PHONE)], "an admin that is revoked")


def test_an_admin_neither_revokes_nor_rotates() -> None:
    story = Story().add(LAPTOP, DeviceClass.ADMIN).add(PHONE, by=LAPTOP)
    story.refuse(story.revocation(PHONE), [(0, LAPTOP)], "not by", SignatureMismatch)
    story.refuse(rotation(story, [ROOTS[1]]), [(0, LAPTOP)], "not by", SignatureMismatch)
    story.refuse(rotation(story, [LAPTOP]), [(0, LAPTOP)], "not the ones that were committed to")


def add_event(story: Story, signer: Ed25519Signer) -> bytes:
    return build_add_device(story.history, device=signer.public_key, name="again", time_ms=1)


def test_a_key_has_one_role_once() -> None:
    story = Story().add(PHONE).rotate().revoke(PHONE)
    for signer in (PHONE, ROOTS[0], ROOTS[1], ROOTS[2]):  # a device, an old, the current and the next root
        story.refuse(add_event(story, signer), story.add_signers(signer), "another role")


def test_no_next_root_key_has_a_role_already() -> None:
    story = Story().add(PHONE)
    for signer in (PHONE, ROOTS[0], ROOTS[1]):
        event = rotation(story, [ROOTS[1]], following=commitments([signer]))
        story.refuse(event, [(0, ROOTS[1])], "another role")
    inception = build_inception(label="Ada", root_keys=keys([OTHER]), next_digests=commitments([OTHER]), time_ms=1)
    with pytest.raises(HistoryError, match="another role"):
        fold([sign_event(inception, [(0, OTHER)])])


# --- revocation -------------------------------------------------------------------------------------------------------


def test_only_a_device_can_be_revoked() -> None:
    story = Story().add(PHONE)
    for signer in (OTHER, ROOTS[0]):
        story.refuse(story.revocation(signer), story.root_signers(), "not in the history")


@pytest.mark.parametrize("first", RevocationReason)
@pytest.mark.parametrize("second", [RevocationReason.RETIRED, RevocationReason.COMPROMISED])
def test_a_revocation_is_final(first: RevocationReason, second: RevocationReason) -> None:
    story = Story().add(PHONE).revoke(PHONE, reason=first)
    story.refuse(story.revocation(PHONE, second), story.root_signers(), "revoked already")


def voiding() -> tuple[Story, Mapping[str, bytes]]:
    """An admin that adds a phone, then (after the event named in the result) a server; another device by the root."""
    story = Story().add(LAPTOP, DeviceClass.ADMIN).add(PHONE, by=LAPTOP)
    digests = {"admin added": story.history.events[1].digest, "last good": story.history.head}
    story.add(SERVER, by=LAPTOP).add(OTHER)
    return story, digests | {"latest": story.history.head}


def test_later_authorisations_of_an_admin_are_void() -> None:
    story, digests = voiding()
    story.revoke(LAPTOP, last_event=digests["last good"], compromised_since_ms=9, reason=RevocationReason.STOLEN)
    history = story.history
    laptop, server = history.devices[LAPTOP.public_key].revocation, history.devices[SERVER.public_key].revocation
    assert laptop is not None
    assert server is not None
    assert laptop.last_event == digests["last good"]
    assert laptop.last_good == GOOD
    assert server.last_good == {}
    assert server.last_event is None
    assert (server.seq, server.digest) == (laptop.seq, laptop.digest) == (history.seq, history.head)
    assert (server.reason, server.compromised_since_ms) == (RevocationReason.STOLEN, 9)
    assert history.devices[PHONE.public_key].revocation is None
    assert history.devices[OTHER.public_key].revocation is None


def test_all_of_an_admins_authorisations_can_be_void() -> None:
    story, digests = voiding()
    story.revoke(LAPTOP, last_event=digests["admin added"])
    history = story.history
    assert history.devices[PHONE.public_key].revocation is not None
    assert history.devices[SERVER.public_key].revocation is not None
    assert history.devices[OTHER.public_key].revocation is None


@pytest.mark.parametrize("last_event", ["latest", None])
def test_authorisations_that_stand(last_event: str | None) -> None:
    story, digests = voiding()
    story.revoke(LAPTOP, last_event=digests.get(last_event or ""))
    for signer in (PHONE, SERVER, OTHER):
        assert story.history.devices[signer.public_key].revocation is None


def test_what_was_revoked_before_stays_as_it_was() -> None:
    story, digests = voiding()
    story.revoke(SERVER, reason=RevocationReason.RETIRED)
    before = story.history.devices[SERVER.public_key]
    story.revoke(LAPTOP, last_event=digests["last good"])
    assert story.history.devices[SERVER.public_key] == before


def test_a_void_device_is_revoked() -> None:
    story, digests = voiding()
    story.revoke(LAPTOP, last_event=digests["last good"])
    story.refuse(story.revocation(SERVER), story.root_signers(), "revoked already")


def test_last_event_is_for_admins_and_since_they_were_added() -> None:
    story, digests = voiding()
    refused = {
        PHONE: [digests["latest"]],
        LAPTOP: [b"\x09" * 32, story.history.identity],
    }
    for signer, events in refused.items():
        for last_event in events:
            event = story.revocation(signer, last_event=last_event)
            story.refuse(event, story.root_signers(), "last_event")


# --- logs -------------------------------------------------------------------------------------------------------------


def test_logs_are_bound_once_each() -> None:
    story = Story()
    for log in (LOG, b"\x0d" * 32):
        story.accept(build_bind_log(story.history, log=log, time_ms=1), story.root_signers())
    assert story.history.logs == (LOG, b"\x0d" * 32)
    story.refuse(story.event(BindLog(LOG)), story.root_signers(), "bound already")


# --- duplicity --------------------------------------------------------------------------------------------------------


def rivals() -> tuple[Story, SignedEvent]:
    """inception, add PHONE, bind LOG; and a rival of the second event that adds LAPTOP in its place."""
    story = Story()
    rival = sign_event(add_event(story, LAPTOP), story.add_signers(LAPTOP))
    story.add(PHONE)
    story.accept(story.event(BindLog(LOG)), story.root_signers())
    return story, rival


@pytest.mark.parametrize("place", [2, 3])
def test_two_valid_events_with_one_prev(place: int) -> None:
    story, rival = rivals()
    events = [*story.events[:place], rival, *story.events[place:]]
    history = fold(events)
    assert history.duplicity == (event_digest(story.events[1].event), event_digest(rival.event))
    assert list(history.devices) == [PHONE.public_key]
    assert (history.seq, history.head) == (2, event_digest(story.events[2].event))
    assert event_digest(rival.event) not in [event.digest for event in history.events]
    assert history.logs == (LOG,)


def test_the_accepted_order_decides_which_branch_is_followed() -> None:
    story, rival = rivals()
    history = fold([story.events[0], rival, story.events[1]])
    assert history.duplicity == (event_digest(rival.event), event_digest(story.events[1].event))
    assert list(history.devices) == [LAPTOP.public_key]


def test_nothing_overrides_duplicity() -> None:
    story, rival = rivals()
    story.events.append(rival)
    pair = story.history.duplicity
    story.rotate().add(SERVER).revoke(PHONE)
    story.accept(story.event(Close()), story.root_signers())
    assert story.history.duplicity == pair is not None


def test_a_rival_of_close_is_duplicity_too() -> None:
    story = Story()
    rival = sign_event(add_event(story, LAPTOP), story.add_signers(LAPTOP))
    story.accept(story.event(Close()), story.root_signers())
    history = fold([*story.events, rival])
    assert history.duplicity is not None
    assert history.closed


def test_a_rival_rotation_by_the_same_committed_keys() -> None:
    story = Story()
    rival = sign_event(rotation(story, [ROOTS[1]], following=commitments([ROOTS[5]])), [(0, ROOTS[1])])
    story.rotate()
    assert fold([*story.events, rival]).duplicity is not None


@pytest.mark.parametrize(
    ("change", "signers", "match"),
    [
        ({}, [(0, OTHER)], "not by"),
        ({}, [(0, PHONE)], "not by"),
        ({"seq": 2}, [(0, ROOTS[0])], "its prev is at seq 0"),
        ({"identity": b"\x09" * 32}, [(0, ROOTS[0])], "another identity"),
    ],
)
def test_an_event_that_is_not_valid_makes_nothing_duplicitous(
    change: dict[str, Any], signers: list[tuple[int, Signer]], match: str
) -> None:
    story = Story()
    event = story.event(BindLog(LOG), **change)
    story.add(PHONE)
    with pytest.raises((HistoryError, SignatureMismatch), match=match):
        fold([*story.events, sign_event(event, signers)])


def test_a_rival_is_judged_by_what_came_before_it() -> None:
    """A device of the first branch has no say on the second one; nor have roots of a later generation."""
    story = Story()
    base = story.history
    story.add(LAPTOP, DeviceClass.ADMIN).rotate()
    on_base = {"seq": 1, "prev": base.head}
    with pytest.raises(HistoryError, match="no admin"):
        fold(
            [
                *story.events,
                sign_event(
                    story.event(AddDevice(PHONE.public_key, DeviceClass.DEVICE, "x", LAPTOP.public_key), **on_base),
                    [(0, LAPTOP), (1, PHONE)],
                ),
            ]
        )
    with pytest.raises(SignatureMismatch):
        fold([*story.events, sign_event(story.event(Close(), **on_base), [(0, ROOTS[1])])])
    assert fold([*story.events, sign_event(story.event(Close(), **on_base), [(0, ROOTS[0])])]).duplicity is not None


def test_further_branches_are_refused() -> None:
    story, rival = rivals()
    base = fold(story.events[:1])
    third = sign_event(build_close(base, time_ms=7), story.root_signers())
    with pytest.raises(HistoryError, match="known to be duplicitous"):
        fold([*story.events, rival, third])
    branch = fold([story.events[0], rival])
    after_rival = sign_event(build_close(branch, time_ms=7), story.root_signers())
    with pytest.raises(HistoryError, match="not an event of this history"):
        fold([*story.events, rival, after_rival])


# --- builders ---------------------------------------------------------------------------------------------------------


def test_builders_name_the_history_they_follow() -> None:
    history = Story(3, 2).add(PHONE).history
    for data in (
        build_bind_log(history, log=LOG, time_ms=5),
        build_close(history, time_ms=5),
        build_add_device(history, device=LAPTOP.public_key, name="x", time_ms=5),
        build_revoke_device(history, device=PHONE.public_key, last_good=GOOD, reason=RevocationReason.LOST, time_ms=5),
        build_rotate_root(history, root_keys=keys(ROOTS[3:6]), next_digests=commitments(ROOTS[6:7]), time_ms=5),
    ):
        event = parse_event(data)
        assert (event.seq, event.prev, event.identity, event.time_ms) == (2, history.head, history.identity, 5)
    assert isinstance(event.body, RotateRoot)
    assert event.body.roots.threshold == history.next_threshold


def test_builders_refuse_what_is_no_event() -> None:
    history = Story().history
    with pytest.raises(MalformedError):
        build_bind_log(history, log=b"short", time_ms=1)
    with pytest.raises(MalformedError):
        build_close(history, time_ms=-1)
    with pytest.raises(MalformedError):
        build_inception(label="", root_keys=[bytes(32)], next_digests=[bytes(32)], time_ms=1)
    with pytest.raises(MalformedError):
        build_inception(label="x", root_keys=[bytes(32)], threshold=2, next_digests=[bytes(32)], time_ms=1)

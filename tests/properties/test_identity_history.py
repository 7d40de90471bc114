"""Random valid key histories: they fold, and nothing about them can be altered unnoticed."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from identity.errors import HistoryError, MalformedError, SignatureMismatch, VerificationError
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
    fold,
    key_commitment,
    parse_signed_event,
    sign_event,
)
from identity.keys import Ed25519Signer, Signer


@dataclass
class Controller:
    """Somebody who holds every key and writes one valid event after the other."""

    draw: st.DrawFn
    keys_made: int = 0
    devices: dict[bytes, Ed25519Signer] = field(default_factory=dict)
    events: list[SignedEvent] = field(default_factory=list)
    roots: list[Ed25519Signer] = field(default_factory=list)
    next_roots: list[Ed25519Signer] = field(default_factory=list)

    def new_key(self) -> Ed25519Signer:
        self.keys_made += 1
        return Ed25519Signer(self.keys_made.to_bytes(32, "big"))

    def new_roots(self) -> list[Ed25519Signer]:
        return [self.new_key() for _ in range(self.draw(st.integers(1, 3)))]

    @property
    def history(self) -> KeyHistory:
        return fold(self.events)

    def quorum(self, roots: list[Ed25519Signer], threshold: int) -> list[tuple[int, Signer]]:
        """A random sufficient choice of the roots, in random order."""
        count = self.draw(st.integers(threshold, len(roots)))
        chosen = self.draw(st.permutations(range(len(roots))))[:count]
        return [(index, roots[index]) for index in chosen]

    def incept(self) -> None:
        self.roots, self.next_roots = self.new_roots(), self.new_roots()
        threshold = self.draw(st.integers(1, len(self.roots)))
        event = build_inception(
            label=self.draw(st.sampled_from(["Ada", "Zoë", "銀行"])),
            root_keys=[root.public_key for root in self.roots],
            threshold=threshold,
            next_digests=[key_commitment(root.public_key) for root in self.next_roots],
            next_threshold=self.draw(st.integers(1, len(self.next_roots))),
            time_ms=self.draw(st.integers(0, 10**13)),
        )
        self.events.append(sign_event(event, self.quorum(self.roots, threshold)))

    def by_root(self, event: bytes) -> SignedEvent:
        return sign_event(event, self.quorum(self.roots, self.history.root_threshold))

    def rotate_root(self) -> SignedEvent:
        history, following = self.history, self.new_roots()
        event = build_rotate_root(
            history,
            root_keys=[root.public_key for root in self.next_roots],
            next_digests=[key_commitment(root.public_key) for root in following],
            next_threshold=self.draw(st.integers(1, len(following))),
            time_ms=1,
        )
        signed = sign_event(event, self.quorum(self.next_roots, history.next_threshold))
        self.roots, self.next_roots = self.next_roots, following
        return signed

    def add_device(self) -> SignedEvent:
        history, device = self.history, self.new_key()
        admins = [
            key
            for key, known in history.devices.items()
            if known.device_class is DeviceClass.ADMIN and known.revocation is None
        ]
        by = self.draw(st.sampled_from([None, *admins]))
        classes = list(DeviceClass) if by is None else [DeviceClass.DEVICE, DeviceClass.SERVICE]
        event = build_add_device(
            history,
            device=device.public_key,
            name="device",
            device_class=self.draw(st.sampled_from(classes)),
            by=by,
            time_ms=1,
        )
        self.devices[device.public_key] = device
        if by is not None:
            return sign_event(event, [(0, self.devices[by]), (1, device)])
        return sign_event(event, [*self.quorum(self.roots, history.root_threshold), (len(self.roots), device)])

    def revoke_device(self) -> SignedEvent | None:
        history = self.history
        alive = [device for device in history.devices.values() if device.revocation is None]
        if not alive:
            return None
        device = self.draw(st.sampled_from(alive))
        last_event = None
        if device.device_class is DeviceClass.ADMIN and self.draw(st.booleans()):
            last_event = self.draw(st.sampled_from(history.events[device.added_seq :])).digest
        event = build_revoke_device(
            history,
            device=device.key,
            last_good={bytes([n]) * 32: LastGood(n + 1, bytes(32)) for n in range(self.draw(st.integers(0, 2)))},
            reason=self.draw(st.sampled_from(RevocationReason)),
            last_event=last_event,
            time_ms=1,
        )
        return self.by_root(event)

    def bind_log(self) -> SignedEvent:
        log = len(self.events).to_bytes(32, "big")
        return self.by_root(build_bind_log(self.history, log=log, time_ms=1))

    def close(self) -> SignedEvent:
        return self.by_root(build_close(self.history, time_ms=1))

    def step(self) -> None:
        """One more event, unless the identity is closed."""
        if self.history.closed:
            return
        actions = [self.add_device] * 4 + [self.revoke_device] * 2 + [self.rotate_root, self.bind_log, self.close]
        signed = self.draw(st.sampled_from(actions))()
        if signed is not None:
            self.events.append(signed)


@st.composite
def histories(draw: st.DrawFn, min_events: int = 1) -> list[SignedEvent]:
    controller = Controller(draw)
    controller.incept()
    for _ in range(draw(st.integers(0, 7))):
        controller.step()
    while len(controller.events) < min_events:
        controller.events.append(controller.add_device())
    return controller.events


FEW = settings(max_examples=60, deadline=None)


@FEW
@given(histories())
def test_valid_histories_fold_and_so_does_each_beginning(events: list[SignedEvent]) -> None:
    whole = fold(events)
    assert whole.seq == len(events) - 1
    assert whole.duplicity is None
    for length in range(1, len(events) + 1):
        part = fold(events[:length])
        assert part.events == whole.events[:length]
        assert part.head == whole.events[length - 1].digest
        assert part.identity == whole.identity
        for key, device in part.devices.items():
            later = whole.devices[key]
            assert (later.added_seq, later.authorised_by) == (device.added_seq, device.authorised_by)
            assert device.revocation in (None, later.revocation)


@FEW
@given(histories(), st.data())
def test_a_flipped_bit_is_refused_or_gives_another_head(events: list[SignedEvent], data: st.DataObject) -> None:
    head = fold(events).head
    place = data.draw(st.integers(0, len(events) - 1), label="event")
    encoded = bytearray(events[place].encode())
    bit = data.draw(st.integers(0, 8 * len(encoded) - 1), label="bit")
    encoded[bit // 8] ^= 1 << bit % 8
    try:
        altered = [*events[:place], parse_signed_event(bytes(encoded)), *events[place + 1 :]]
        other = fold(altered)
    except (MalformedError, VerificationError):
        return
    assert other.head != head


@FEW
@given(histories(min_events=3), st.data())
def test_no_event_can_be_left_out_moved_or_repeated(events: list[SignedEvent], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(events) - 2))
    swapped = [*events[:place], events[place + 1], events[place], *events[place + 2 :]]
    for altered in (events[:place] + events[place + 1 :], swapped, [*events, events[place]]):
        with pytest.raises(HistoryError):
            fold(altered)


@st.composite
def rivals(draw: st.DrawFn) -> tuple[list[SignedEvent], SignedEvent, int]:
    """A history, an event that is valid after its first ``n`` events but isn't the one that was accepted, and n."""
    controller = Controller(draw)
    controller.incept()
    for _ in range(draw(st.integers(1, 4))):
        controller.events.append(controller.add_device())
    place = draw(st.integers(1, len(controller.events) - 1))
    base = fold(controller.events[:place])
    rival = controller.by_root(build_bind_log(base, log=b"\xff" * 32, time_ms=1))
    return controller.events, rival, place


@FEW
@given(rivals(), st.data())
def test_a_rival_makes_a_history_duplicitous_wherever_it_comes_in(
    case: tuple[list[SignedEvent], SignedEvent, int], data: st.DataObject
) -> None:
    events, rival, place = case
    arrival = data.draw(st.integers(place + 1, len(events)))
    honest = fold(events)
    history = fold([*events[:arrival], rival, *events[arrival:]])
    assert history.duplicity is not None
    assert history.duplicity[0] == honest.events[place].digest
    assert (history.head, history.devices, history.logs) == (honest.head, honest.devices, honest.logs)


@FEW
@given(rivals(), st.integers(0, 511))
def test_a_rival_that_nobody_signed_is_refused(case: tuple[list[SignedEvent], SignedEvent, int], bit: int) -> None:
    events, rival, _ = case
    index, signature = rival.signatures[0]
    flipped = bytearray(signature)
    flipped[bit // 8] ^= 1 << bit % 8
    forged = SignedEvent(rival.event, ((index, bytes(flipped)), *rival.signatures[1:]))
    with pytest.raises(SignatureMismatch):
        fold([*events, forged])

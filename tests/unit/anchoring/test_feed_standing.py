"""The verdict on all entries of a feed: where a revocation, a head or a date divides it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from anchoring.feed_standing import Proven, judge_feed
from identity.event import DeviceClass, LastGood, RevocationReason
from identity.history import Device, KeyHistory, Revocation
from identity.verdict import Reason

DEVICE, FEED = b"d" * 32, b"f" * 32
TREES = {4: b"t" * 32}
HISTORY = KeyHistory(
    identity=b"i" * 32,
    label="x",
    seq=2,
    head=b"h" * 32,
    generation=0,
    root_keys=(b"r" * 32,),
    root_threshold=1,
    next_digests=(b"n" * 32,),
    next_threshold=1,
    devices={DEVICE: Device(DEVICE, "laptop", DeviceClass.DEVICE, 1, None, None)},
    logs=(),
    closed=False,
    duplicity=None,
    events=(),
)


def revoked(reason: RevocationReason, *, last_good: int | None = 4, since_ms: int | None = None) -> KeyHistory:
    vouched = {} if last_good is None else {FEED: LastGood(last_good, TREES[4])}
    revocation = Revocation(2, b"e" * 32, vouched, since_ms, reason, None)
    return replace(HISTORY, devices={DEVICE: replace(HISTORY.devices[DEVICE], revocation=revocation)})


def judged(history: KeyHistory, times: list[Proven], length: int = 8) -> list[tuple[int, int, str]]:
    """A feed with heads of 2, 4 and 6 entries at leaves 3, 5 and 7; its device's revocation is at leaf 6."""
    segments = judge_feed(
        history,
        DEVICE,
        FEED,
        length,
        TREES,
        logged=[(3, 2), (5, 4), (7, 6)],
        times=times,
        revocation_leaf=6,
    )
    return [(one.start, one.stop, one.verdict.reason) for one in segments]


EARLY = [Proven(4, 100, 90), Proven(6, 200, 190), Proven(9, 300, 290)]


def test_a_device_in_order_makes_one_segment() -> None:
    assert judged(HISTORY, []) == [(0, 8, Reason.OK)]


def test_an_empty_feed_has_no_entries_to_judge() -> None:
    assert judged(revoked(RevocationReason.STOLEN), EARLY, length=0) == []


def test_an_unknown_device() -> None:
    assert judged(replace(HISTORY, devices={}), EARLY) == [(0, 8, Reason.UNKNOWN_DEVICE)]


@pytest.mark.parametrize(
    ("history", "times", "expected"),
    [
        (revoked(RevocationReason.STOLEN), EARLY, [(0, 4, Reason.OK), (4, 8, Reason.REVOKED)]),
        (revoked(RevocationReason.RETIRED), [], [(0, 4, Reason.OK), (4, 8, Reason.REVOKED)]),
        (revoked(RevocationReason.STOLEN), EARLY[2:], [(0, 4, Reason.NO_POE), (4, 8, Reason.REVOKED)]),
        (revoked(RevocationReason.STOLEN), [], [(0, 4, Reason.NO_POE), (4, 8, Reason.REVOKED)]),
        (
            revoked(RevocationReason.STOLEN, since_ms=150),
            EARLY,
            [(0, 2, Reason.OK), (2, 4, Reason.REVOKED_NO_POE), (4, 8, Reason.REVOKED)],
        ),
        (
            revoked(RevocationReason.STOLEN, last_good=None),
            EARLY,
            [(0, 4, Reason.REPUDIATED), (4, 8, Reason.REVOKED)],
        ),
    ],
)
def test_where_a_revocation_divides(
    history: KeyHistory, times: list[Proven], expected: list[tuple[int, int, str]]
) -> None:
    assert judged(history, times) == expected


def test_a_date_later_than_the_revocation_proves_nothing_before_it() -> None:
    late = [Proven(6, 300, 290), Proven(9, 200, 190)]
    assert judged(revoked(RevocationReason.STOLEN), late)[0] == (0, 4, Reason.NO_POE)

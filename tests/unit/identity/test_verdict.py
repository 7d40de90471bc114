"""The verdict table: a test for each row, and for each edge of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from identity.event import DeviceClass, LastGood, RevocationReason
from identity.history import Device, KeyHistory, Revocation
from identity.verdict import Reason, Status, Verdict, judge_entry

DEVICE, FEED = b"\x01" * 32, b"\x02" * 32
TREE, OTHER_TREE = b"\x03" * 32, b"\x04" * 32
LENGTH = 10
"""Entries 0 to 9 are within last_good."""

WITHIN, BEYOND = LENGTH - 1, LENGTH
R, SINCE = 1000, 600


def history(
    reason: RevocationReason | None = None,
    since_ms: int | None = None,
    *,
    duplicitous: bool = False,
    last_good: dict[bytes, LastGood] | None = None,
) -> KeyHistory:
    revocation = None
    if reason is not None:
        good = {FEED: LastGood(LENGTH, TREE)} if last_good is None else last_good
        revocation = Revocation(5, b"\x05" * 32, good, since_ms, reason, None)
    device = Device(DEVICE, "phone", DeviceClass.DEVICE, 1, None, revocation)
    return KeyHistory(
        identity=b"\x06" * 32,
        label="Ada",
        seq=5,
        head=b"\x05" * 32,
        generation=0,
        root_keys=(b"\x07" * 32,),
        root_threshold=1,
        next_digests=(b"\x08" * 32,),
        next_threshold=1,
        devices={DEVICE: device},
        logs=(),
        closed=False,
        duplicity=(b"\x09" * 32, b"\x0a" * 32) if duplicitous else None,
        events=(),
    )


def judge(
    keys: KeyHistory,
    index: int = WITHIN,
    *,
    t: int | None,
    r: int | None = R,
    logged: bool = True,
    trees: dict[int, bytes] | None = None,
    device: bytes = DEVICE,
    rival: int | None = None,
) -> Verdict:
    return judge_entry(
        keys,
        device,
        FEED,
        index,
        {LENGTH: TREE} if trees is None else trees,
        proven_before_ms=t,
        revoked_before_ms=r,
        logged_before_revocation=logged,
        rival_before_ms=rival,
    )


def check(verdict: Verdict, status: Status, reason: Reason) -> None:
    assert (verdict.status, verdict.reason) == (status, reason)
    assert verdict.detail


NOT_RETIRED = [reason for reason in RevocationReason if reason is not RevocationReason.RETIRED]
not_retired = pytest.mark.parametrize("reason", NOT_RETIRED)
any_reason = pytest.mark.parametrize("reason", RevocationReason)


# Row 1: device never revoked, or retired and entry within last_good.


@pytest.mark.parametrize("t", [None, 0, R - 1, R, R + 1])
@pytest.mark.parametrize("index", [0, WITHIN, BEYOND, 10**6])
@pytest.mark.parametrize("trees", [{}, {LENGTH: OTHER_TREE}])
def test_never_revoked(t: int | None, index: int, trees: dict[int, bytes]) -> None:
    verdict = judge(history(), index, t=t, r=None, logged=False, trees=trees)
    check(verdict, Status.PASSED, Reason.OK)


@pytest.mark.parametrize("t", [None, 0, R - 1, R, R + 1])
@pytest.mark.parametrize("index", [0, WITHIN])
@pytest.mark.parametrize("r", [None, R])
@pytest.mark.parametrize("logged", [True, False])
def test_retired_and_within(t: int | None, index: int, r: int | None, logged: bool) -> None:
    verdict = judge(history(RevocationReason.RETIRED), index, t=t, r=r, logged=logged)
    check(verdict, Status.PASSED, Reason.OK)


# Row 2: within last_good, T < min(R, compromised_since).


@not_retired
@pytest.mark.parametrize(
    ("t", "since"),
    [(0, None), (R - 1, None), (0, SINCE), (SINCE - 1, SINCE), (R - 1, R), (R - 1, R + 1), (R - 1, 10 * R)],
)
def test_within_and_proven_before_everything(reason: RevocationReason, t: int, since: int | None) -> None:
    check(judge(history(reason, since), t=t), Status.PASSED, Reason.OK)


# Row 3: within last_good, compromised_since <= T < R.


@not_retired
@pytest.mark.parametrize(("t", "since"), [(SINCE, SINCE), (SINCE + 1, SINCE), (R - 1, SINCE), (R - 1, R - 1), (0, 0)])
def test_within_and_proven_after_the_compromise(reason: RevocationReason, t: int, since: int) -> None:
    check(judge(history(reason, since), t=t), Status.INDETERMINATE, Reason.REVOKED_NO_POE)


# Row 4: within last_good, no T before R.


@not_retired
@pytest.mark.parametrize("since", [None, SINCE, 10 * R])
@pytest.mark.parametrize(
    ("t", "r", "logged"),
    [(None, R, True), (R, R, True), (R + 1, R, True), (R - 1, R, False), (0, None, True), (None, None, False)],
)
def test_within_and_not_proven_before_the_revocation(
    reason: RevocationReason, since: int | None, t: int | None, r: int | None, logged: bool
) -> None:
    check(judge(history(reason, since), t=t, r=r, logged=logged), Status.INDETERMINATE, Reason.NO_POE)


# Row 5: left out by last_good though T < R proves it.


@any_reason
@pytest.mark.parametrize("index", [BEYOND, 10**6])
@pytest.mark.parametrize("t", [0, SINCE, R - 1])
@pytest.mark.parametrize("trees", [{}, {LENGTH: TREE}])
def test_left_out_though_proven_before(reason: RevocationReason, index: int, t: int, trees: dict[int, bytes]) -> None:
    check(judge(history(reason), index, t=t, trees=trees), Status.INDETERMINATE, Reason.REPUDIATED)


@any_reason
@pytest.mark.parametrize("last_good", [{}, {b"\x0b" * 32: LastGood(LENGTH, TREE)}])
def test_a_feed_that_is_not_named_is_left_out(reason: RevocationReason, last_good: dict[bytes, LastGood]) -> None:
    keys = history(reason, last_good=last_good)
    check(judge(keys, 0, t=R - 1), Status.INDETERMINATE, Reason.REPUDIATED)
    check(judge(keys, 0, t=R), Status.FAILED, Reason.REVOKED)
    check(judge(keys, 0, t=None), Status.FAILED, Reason.REVOKED)


def test_a_late_compromise_does_not_turn_repudiation_into_failure() -> None:
    check(judge(history(NOT_RETIRED[0], 0), BEYOND, t=R - 1), Status.INDETERMINATE, Reason.REPUDIATED)


# Row 6: beyond last_good, not proven before R; or on another branch.


@any_reason
@pytest.mark.parametrize("index", [BEYOND, 10**6])
@pytest.mark.parametrize(
    ("t", "r", "logged"),
    [(None, R, True), (R, R, True), (R + 1, R, True), (R - 1, R, False), (0, None, True), (None, None, False)],
)
def test_beyond_and_not_proven_before(
    reason: RevocationReason, index: int, t: int | None, r: int | None, logged: bool
) -> None:
    for trees in ({}, {LENGTH: TREE}):
        verdict = judge(history(reason), index, t=t, r=r, logged=logged, trees=trees)
        check(verdict, Status.FAILED, Reason.REVOKED)


@any_reason
@pytest.mark.parametrize("index", [0, WITHIN, BEYOND])
@pytest.mark.parametrize("t", [None, 0, R - 1, R])
def test_on_another_branch(reason: RevocationReason, index: int, t: int | None) -> None:
    verdict = judge(history(reason), index, t=t, trees={LENGTH: OTHER_TREE, LENGTH + 1: TREE})
    check(verdict, Status.FAILED, Reason.OTHER_BRANCH)


@any_reason
@pytest.mark.parametrize("t", [None, 0, R])
@pytest.mark.parametrize("trees", [{}, {LENGTH - 1: TREE}, {LENGTH + 1: TREE}, {0: TREE}])
def test_within_by_length_on_a_branch_that_is_not_shown(
    reason: RevocationReason, t: int | None, trees: dict[int, bytes]
) -> None:
    check(judge(history(reason), t=t, trees=trees), Status.INDETERMINATE, Reason.LAST_GOOD_NOT_SHOWN)


# Outside the table: a device nobody authorised, and an identity with two histories.


@pytest.mark.parametrize("t", [None, 0])
def test_a_device_nobody_authorised(t: int | None) -> None:
    check(judge(history(), t=t, device=b"\x0c" * 32), Status.FAILED, Reason.UNKNOWN_DEVICE)


@pytest.mark.parametrize("reason", [None, *RevocationReason])
@pytest.mark.parametrize("index", [WITHIN, BEYOND])
@pytest.mark.parametrize(("t", "rival"), [(None, None), (0, None), (None, 500), (500, 500), (501, 500)])
def test_duplicity_overrides_everything(
    reason: RevocationReason | None, index: int, t: int | None, rival: int | None
) -> None:
    verdict = judge(history(reason, duplicitous=True), index, t=t, rival=rival)
    check(verdict, Status.INDETERMINATE, Reason.DUPLICITOUS)


def test_an_unknown_device_of_a_duplicitous_identity_may_be_on_the_other_branch() -> None:
    verdict = judge(history(duplicitous=True), t=0, rival=500, device=b"\x0c" * 32)
    check(verdict, Status.INDETERMINATE, Reason.DUPLICITOUS)


@pytest.mark.parametrize(
    ("reason", "index", "status", "name"),
    [
        (None, WITHIN, Status.PASSED, Reason.OK),
        (RevocationReason.RETIRED, WITHIN, Status.PASSED, Reason.OK),
        (RevocationReason.LOST, WITHIN, Status.PASSED, Reason.OK),
        (RevocationReason.LOST, BEYOND, Status.INDETERMINATE, Reason.REPUDIATED),
    ],
)
def test_what_was_proven_before_both_rivals_is_judged_as_ever(
    reason: RevocationReason | None, index: int, status: Status, name: Reason
) -> None:
    check(judge(history(reason, duplicitous=True), index, t=499, rival=500), status, name)


def test_proof_never_makes_a_verdict_worse() -> None:
    """For every state of the history: an earlier proof of existence gives the same status or a better one."""
    order = [Status.FAILED, Status.INDETERMINATE, Status.PASSED]
    times: list[Any] = [None, R + 1, R, R - 1, SINCE, SINCE - 1, 0]
    for reason in [None, *RevocationReason]:
        since_choices = [None] if reason in (None, RevocationReason.RETIRED) else [None, SINCE]
        for since in since_choices:
            for index in (WITHIN, BEYOND):
                ranks = [order.index(judge(history(reason, since), index, t=t).status) for t in times]
                assert ranks == sorted(ranks)


def test_statuses_are_the_words_of_the_report() -> None:
    assert [str(status) for status in Status] == ["PASSED", "FAILED", "INDETERMINATE"]
    assert all(str(reason) == reason.name for reason in Reason)
    assert replace(judge(history(), t=None)).reason == "OK"

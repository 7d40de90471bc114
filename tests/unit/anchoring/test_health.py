"""Lag, token age and blind window, and when they are worth a warning."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest

from anchoring.health import (
    BlindWindow,
    Health,
    OpenAnchor,
    Thresholds,
    anchor_lag,
    blind_window,
    token_age,
    warnings,
)

NOW: Final = 1_767_225_600_000
HOUR: Final = 3_600_000
DAY: Final = 24 * HOUR
LIMITS: Final = Thresholds(DAY, DAY, DAY)


def waiting(size: int, state: str = "submitted", ago_ms: int = HOUR, reason: str | None = None) -> OpenAnchor:
    return OpenAnchor(size, state, NOW - ago_ms, reason)


WELL: Final = Health(
    lag=anchor_lag([5, 9], (9, NOW - 30 * DAY), []),
    tokens=token_age({"one": (9, NOW - 30 * DAY)}, ["one"], 9),
    blind=blind_window(0, None, NOW),
    chained=True,
    stamped=True,
    failures={},
)


def test_a_quiet_store_is_well_however_old() -> None:
    """Nothing new was written for a month: the last anchor and token cover it all."""
    assert warnings(WELL, LIMITS, NOW) == []
    assert WELL.lag.age_ms(NOW) == 0


def test_the_lag_counts_what_no_final_anchor_covers() -> None:
    lag = anchor_lag([5, 9, 12, 20], (9, NOW - 2 * DAY), [waiting(12), waiting(20, "pending", reason="REORG")])
    assert (lag.final_size, lag.checkpoints, lag.age_ms(NOW)) == (9, 2, 2 * DAY)
    assert [(one.size, one.state) for one in lag.waiting] == [(12, "submitted"), (20, "pending")]
    assert warnings(replace(WELL, lag=lag), LIMITS, NOW) == ["2 checkpoints wait, the newest final anchor is 2d 0h old"]
    assert warnings(replace(WELL, lag=lag, chained=False), LIMITS, NOW) == []


def test_without_a_final_anchor_the_lag_has_no_age() -> None:
    lag = anchor_lag([5], None, [waiting(5, ago_ms=2 * DAY)])
    assert (lag.final_size, lag.checkpoints, lag.age_ms(NOW)) == (None, 1, None)
    assert warnings(replace(WELL, lag=lag), LIMITS, NOW) == ["the anchor of size 5 is submitted for 2d 0h"]
    assert anchor_lag([], None, []).age_ms(NOW) == 0


def test_a_failed_anchor_matters_until_a_later_one_is_final() -> None:
    failed = waiting(9, "failed", reason="STALE")
    open_lag = anchor_lag([5, 9], (5, NOW), [failed])
    assert (open_lag.waiting, open_lag.failed) == ((), (failed,))
    assert warnings(replace(WELL, lag=open_lag), LIMITS, NOW) == ["the anchor of size 9 failed: STALE"]
    assert anchor_lag([5, 9, 12], (12, NOW), [failed]).failed == ()


def test_tokens_by_authority() -> None:
    tokens = token_age({"old": (5, NOW - 2 * DAY), "gone": (9, NOW - 2 * DAY)}, ["old", "never"], 9)
    assert tokens.missing == ("old", "never")
    assert tokens.newest_ms() == NOW - 2 * DAY
    assert warnings(replace(WELL, tokens=tokens), LIMITS, NOW) == [
        "the newest token is 2d 0h old, and the newest checkpoint lacks some"
    ]
    assert warnings(replace(WELL, tokens=tokens, stamped=False), LIMITS, NOW) == []
    assert token_age({}, ["one"], None).missing == ()
    assert token_age({}, ["one"], 9).newest_ms() is None


@pytest.mark.parametrize(
    ("entries", "since_ms", "window", "width_ms"),
    [
        (0, None, BlindWindow(0, None), 0),
        (0, NOW - DAY, BlindWindow(0, None), 0),
        (3, NOW - DAY, BlindWindow(3, NOW - DAY), DAY),
        (3, NOW + DAY, BlindWindow(3, NOW), 0),
        (3, -5, BlindWindow(3, None), 0),
        (3, None, BlindWindow(3, None), 0),
    ],
)
def test_the_blind_window(entries: int, since_ms: int | None, window: BlindWindow, width_ms: int) -> None:
    found = blind_window(entries, since_ms, NOW)
    assert (found, found.width_ms(NOW)) == (window, width_ms)


def test_a_wide_window_and_failed_parts_are_said() -> None:
    health = replace(WELL, blind=blind_window(3, NOW - DAY - 90_000, NOW), failures={"chain 1": "no answer"})
    assert warnings(health, LIMITS, NOW) == [
        "3 entries wait for an anchor, the oldest for 1d 0h",
        "chain 1 failed in the last round: no answer",
    ]
    narrow = replace(LIMITS, blind_ms=2 * DAY)
    assert len(warnings(health, narrow, NOW)) == 1


@pytest.mark.parametrize(
    ("age_ms", "text"), [(1500, "1s"), (61_000, "1m 1s"), (3_660_000, "1h 1m"), (DAY + HOUR, "1d 1h")]
)
def test_ages_are_written_for_people(age_ms: int, text: str) -> None:
    lag = anchor_lag([5], None, [waiting(5, ago_ms=age_ms)])
    assert warnings(replace(WELL, lag=lag), Thresholds(1, DAY, DAY), NOW)[0].endswith(f"for {text}")

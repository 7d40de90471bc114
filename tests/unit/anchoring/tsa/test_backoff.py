"""The schedule after failures, and its file."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchoring.tsa.backoff import (
    FIRST_WAIT_MS,
    LONGEST_WAIT_MS,
    Trouble,
    add_failure,
    encode_troubles,
    is_due,
    next_attempt_ms,
    parse_troubles,
)
from identity.errors import MalformedError

NOW = 1_767_225_600_000
GOOD: dict[str, Any] = {"failures": 1, "failed": NOW, "reason": "down"}


def test_each_failure_doubles_the_wait_up_to_an_hour() -> None:
    trouble = None
    waits = []
    for _ in range(9):
        trouble = add_failure(trouble, NOW, "down")
        waits.append(next_attempt_ms(trouble) - NOW)
    assert waits == [FIRST_WAIT_MS << number for number in range(7)] + [LONGEST_WAIT_MS] * 2


@given(st.integers(1, 1000), st.integers(0, 2**53), st.integers(0, 2**53))
def test_a_wait_is_bounded_whatever_the_clock_does(failures: int, failed_ms: int, now_ms: int) -> None:
    trouble = Trouble(failures, failed_ms, "")
    assert FIRST_WAIT_MS <= next_attempt_ms(trouble) - failed_ms <= LONGEST_WAIT_MS
    assert is_due(trouble, now_ms) or failed_ms <= now_ms < failed_ms + LONGEST_WAIT_MS


def test_who_never_failed_is_asked() -> None:
    assert is_due(None, NOW)


def test_failures_are_counted_and_reasons_cut_within_bounds() -> None:
    trouble = add_failure(Trouble(1000, 0, ""), NOW, "x" * 10_000)
    assert parse_troubles(encode_troubles({"a": trouble})) == {"a": trouble}
    assert (trouble.failures, len(trouble.reason)) == (1000, 500)


@given(
    st.dictionaries(st.text(max_size=20), st.builds(Trouble, st.integers(1, 1000), st.integers(0, 2**53), st.text()))
)
def test_the_file_gives_back_what_was_put_in(troubles: dict[str, Trouble]) -> None:
    kept = {name: add_failure(trouble, trouble.failed_ms, trouble.reason) for name, trouble in troubles.items()}
    assert parse_troubles(encode_troubles(kept)) == kept


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        json.dumps({"v": 2, "troubles": {}}).encode(),
        json.dumps({"v": 1}).encode(),
        json.dumps({"v": 1, "troubles": []}).encode(),
        json.dumps({"v": 1, "troubles": {}, "more": 1}).encode(),
        *(
            json.dumps({"v": 1, "troubles": {"a": {**GOOD, **change}}}).encode()
            for change in (
                {"failures": 0},
                {"failures": 1001},
                {"failures": 1.5},
                {"failed": -1},
                {"failed": 2**60},
                {"failed": None},
                {"reason": 1},
                {"reason": "x" * 501},
                {"more": 1},
            )
        ),
        b" " * (1 << 16) + b"{}",
    ],
)
def test_another_file_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_troubles(data)

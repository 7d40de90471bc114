"""When what has failed is tried again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchoring.schedule import NO_PARTS, Part, Retry, after_failure, after_success, due_parts, retry_delay_ms, wait_ms

RETRY = Retry(first_ms=100, most_ms=1000)


@pytest.mark.parametrize(("failures", "delay"), [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1000), (500, 1000)])
def test_the_delay_doubles_up_to_the_longest(failures: int, delay: int) -> None:
    assert retry_delay_ms(RETRY, failures, 0.0) == delay
    assert retry_delay_ms(RETRY, failures, 1.0) == delay // 2
    assert delay // 2 < retry_delay_ms(RETRY, failures, 0.5) < delay


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(1, 10**4), st.floats(0, 1))
def test_the_delay_stays_within_its_bounds(first: int, more: int, failures: int, jitter: float) -> None:
    retry = Retry(first, first + more)
    assert first // 2 <= retry_delay_ms(retry, failures, jitter) <= retry.most_ms


@pytest.mark.parametrize(("failures", "jitter"), [(0, 0.0), (-1, 0.0), (1, -0.1), (1, 1.1), (1, float("nan"))])
def test_what_is_no_failure_has_no_delay(failures: int, jitter: float) -> None:
    with pytest.raises(ValueError, match="a delay follows"):
        retry_delay_ms(RETRY, failures, jitter)


@pytest.mark.parametrize(("first", "most"), [(0, 1), (2, 1), (-1, 5)])
def test_bounds_that_are_none(first: int, most: int) -> None:
    with pytest.raises(ValueError, match="back-off"):
        Retry(first, most)


def test_failures_add_up_until_a_success() -> None:
    part = after_failure(None, 1000, "no answer", RETRY, 0.0)
    assert part == Part(1100, 1, "no answer")
    part = after_failure(part, 2000, "garbage", RETRY, 0.0)
    assert part == Part(2200, 2, "garbage")
    assert after_success(3000, 60) == Part(3060, 0, None)
    assert after_failure(after_success(3000, 60), 4000, "again", RETRY, 0.0).failures == 1


def test_what_is_due_and_how_long_nothing_is() -> None:
    parts = {"a": Part(100), "b": Part(200)}
    assert due_parts(parts, ["a", "b", "new"], 100) == {"a", "new"}
    assert due_parts(parts, ["a", "b"], 99) == set()
    assert wait_ms(parts, ["a", "b"], 40) == 60
    assert wait_ms(parts, ["b"], 40) == 160
    assert wait_ms(parts, ["a", "b"], 150) == wait_ms(parts, ["a", "new"], 40) == wait_ms(NO_PARTS, [], 0) == 0

"""What requests share: how often a key may ask, and answers that are given again. The clock is the test's."""

from __future__ import annotations

import pytest

from api.problems import InProgress, TooManyRequests, UsedKey
from api.service import Answer, Answers, RateLimiter


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_fills_at_an_even_pace() -> None:
    clock = Clock()
    rates = RateLimiter(60, clock)
    for _ in range(60):
        rates.take(b"key")
    with pytest.raises(TooManyRequests) as refused:
        rates.take(b"key")
    assert refused.value.after_s == 2
    clock.now += 1.0
    rates.take(b"key")
    with pytest.raises(TooManyRequests):
        rates.take(b"key")
    rates.take(b"another")
    clock.now += 3600
    for _ in range(60):
        rates.take(b"key")
    with pytest.raises(TooManyRequests):
        rates.take(b"key")


def test_strangers_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RateLimiter, "_MOST_KEYS", 3)
    rates = RateLimiter(60, Clock())
    for number in range(10):
        rates.take(bytes([number]))
    assert len(rates._buckets) == 3


def answer(size: int = 1) -> Answer:
    return Answer(200, (), b"x" * size)


def test_an_answer_is_given_again_for_a_day() -> None:
    clock = Clock()
    answers = Answers(ticks_s=clock)
    assert answers.begin(b"me", "k", b"1") is None
    with pytest.raises(InProgress):
        answers.begin(b"me", "k", b"1")
    answers.keep(b"me", "k", b"1", answer())
    assert answers.begin(b"me", "k", b"1") == answer()
    with pytest.raises(UsedKey):
        answers.begin(b"me", "k", b"2")
    assert answers.begin(b"you", "k", b"2") is None
    clock.now += 86_401
    assert answers.begin(b"me", "k", b"1") is None


def test_a_request_that_came_to_nothing_may_be_sent_again() -> None:
    answers = Answers(ticks_s=Clock())
    answers.begin(b"me", "k", b"1")
    answers.drop(b"me", "k")
    assert answers.begin(b"me", "k", b"1") is None


def test_what_is_kept_is_bounded_by_number_and_by_bytes() -> None:
    answers = Answers(most=3, most_bytes=100, ticks_s=Clock())
    for number in range(10):
        answers.begin(b"me", str(number), b"1")
        answers.keep(b"me", str(number), b"1", answer(10))
    assert answers.begin(b"me", "9", b"1") == answer(10)
    assert answers.begin(b"me", "0", b"1") is None
    answers.begin(b"me", "large", b"1")
    answers.keep(b"me", "large", b"1", answer(95))
    assert answers.begin(b"me", "large", b"1") == answer(95)
    assert answers.begin(b"me", "8", b"1") is None

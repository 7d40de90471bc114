"""Several authorities at once: who is asked, how many at a time, and what one that fails does to the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from anchoring.timestamp import Authority, TimestampEvidence, VerifiedToken
from anchoring.tsa.backoff import Trouble
from anchoring.tsa.pool import PoolOutcome, PoolPolicy, ask_pool
from anchoring.tsa.source import AcquiredToken
from identity.errors import AuditError, StorageError, TokenRejected, TokenUndecided, TransportError

NOW = 1_767_225_600_000


class Source:
    """Answers with a token under ``keys`` (its name), with an error, or with what ``act`` does first."""

    def __init__(
        self, name: str, error: BaseException | None = None, *, keys: str = "", act: Callable[[], None] = lambda: None
    ) -> None:
        self.name = name
        self.authority = Authority(b"", "1.2.3", f"CN={name}")
        self.asked = 0
        self._error = error
        self._keys = frozenset((keys or name).encode().split())
        self._act = act

    def acquire(self, message: bytes, now_ms: int) -> AcquiredToken:
        self.asked += 1
        self._act()
        if self._error is not None:
            raise self._error
        verified = VerifiedToken(now_ms, 1, now_ms - 1, now_ms + 1, self.name, "1.2.3", 1, False, now_ms, self._keys)
        return AcquiredToken(TimestampEvidence(message + self.name.encode()), verified)


def ask(sources: Sequence[Source], policy: PoolPolicy | None = None, **arguments: Any) -> PoolOutcome:
    return ask_pool(sources, b"message", NOW, policy or PoolPolicy(), **arguments)


def test_no_sources() -> None:
    assert ask([]) == PoolOutcome()


def test_all_are_asked_and_each_token_is_kept_as_it_comes() -> None:
    kept: list[str] = []
    outcome = ask([Source("a"), Source("b"), Source("c")], keep=lambda name, token: kept.append(name))
    assert sorted(outcome.tokens) == sorted(kept) == ["a", "b", "c"]
    assert outcome.authorities == 3


def test_only_as_many_as_are_needed() -> None:
    sources = [Source(name) for name in "abcd"]
    outcome = ask(sources, PoolPolicy(k=2, ask_all=False))
    assert (sorted(outcome.tokens), outcome.authorities) == (["a", "b"], 2)
    assert [source.asked for source in sources] == [1, 1, 0, 0]


def test_one_more_for_each_that_fails_or_is_nobody_new() -> None:
    sources = [
        Source("a"),
        Source("down", TransportError("down")),
        Source("a again", keys="a"),
        Source("b"),
        Source("c"),
    ]
    outcome = ask(sources, PoolPolicy(k=2, ask_all=False, parallel=1))
    assert (sorted(outcome.tokens), outcome.authorities) == (["a", "a again", "b"], 2)
    assert sources[-1].asked == 0


def test_what_is_held_already_counts() -> None:
    source = Source("b")
    held = [frozenset({b"a"}), frozenset({b"a", b"x"})]
    assert ask([source], PoolPolicy(k=1, ask_all=False), held=held).authorities == 1
    assert source.asked == 0
    assert ask([source], PoolPolicy(k=2, ask_all=False), held=held).authorities == 2


def test_fewer_than_k_is_what_is_said() -> None:
    outcome = ask([Source("a"), Source("b", TransportError("down"))], PoolPolicy(k=2))
    assert outcome.authorities == 1


@pytest.mark.parametrize(
    "error", [TransportError("down"), TokenRejected("NONCE", "another"), TokenUndecided("REVOCATION_MISSING", "none")]
)
def test_one_that_fails_is_named_and_stops_nobody(error: AuditError) -> None:
    outcome = ask([Source("bad", error), Source("good")])
    assert outcome.failures == {"bad": error}
    assert outcome.troubles == {"bad": Trouble(1, NOW, str(error))}
    assert list(outcome.tokens) == ["good"]


def test_one_that_failed_lately_is_not_asked_until_its_time_has_come() -> None:
    source, trouble = Source("bad", TransportError("down")), Trouble(3, NOW - 1, "down")
    outcome = ask([source, Source("good")], troubles={"bad": trouble})
    assert (outcome.backed_off, source.asked, list(outcome.tokens)) == ({"bad": trouble}, 0, ["good"])
    assert outcome.troubles == {"bad": trouble}, "it is remembered as it was"
    again = ask([source], troubles={"bad": Trouble(3, NOW - 3_600_000, "down")})
    assert again.troubles == {"bad": Trouble(4, NOW, "down")}


def test_success_is_the_end_of_trouble() -> None:
    assert ask([Source("a")], troubles={"a": Trouble(1, NOW - 60_000, "down")}).troubles == {}


def test_one_that_never_answers_is_given_up_and_its_late_answer_is_dropped() -> None:
    release = threading.Event()
    kept: list[str] = []
    hanging = Source("hanging", act=lambda: release.wait(30) and None)
    outcome = ask([hanging, Source("good")], PoolPolicy(patience_s=0.2), keep=lambda name, token: kept.append(name))
    release.set()
    assert isinstance(outcome.failures["hanging"], TransportError)
    assert (list(outcome.tokens), kept) == (["good"], ["good"])


def test_at_most_so_many_at_a_time() -> None:
    guard = threading.Lock()
    running, most = 0, 0
    together = threading.Barrier(2)

    def enter() -> None:
        nonlocal running, most
        with guard:
            running += 1
            most = max(most, running)
        together.wait(30)  # nobody leaves alone, so two do run at a time
        with guard:
            running -= 1

    outcome = ask([Source(str(number), act=enter) for number in range(6)], PoolPolicy(parallel=2))
    assert (len(outcome.tokens), most) == (6, 2)


def test_what_is_no_fault_of_an_authority_ends_the_round() -> None:
    with pytest.raises(StorageError, match="disk"):
        ask([Source("a", StorageError("disk"))])

    def refuse(name: str, token: AcquiredToken) -> None:
        raise StorageError("full")

    with pytest.raises(StorageError, match="full"):
        ask([Source("a")], keep=refuse)

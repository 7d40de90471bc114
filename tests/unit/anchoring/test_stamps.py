"""Which checkpoints count as stamped, and by which later ones their tokens are renewed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256

import pytest

from anchoring.stamps import Stamps, take_at_its_word
from anchoring.timestamp import TimestampEvidence
from anchoring.timestamp.standing import Stamp, TokenStanding, combine_standings
from ledger.statement import TimeStatement

Tokens = Mapping[int, Sequence[str]]


def evidence(text: str) -> TimestampEvidence:
    return TimestampEvidence(text.encode())


def judge(token: TimestampEvidence) -> TokenStanding | None:
    """A token of these tests says ``who existence until``; a ``?`` is from nobody."""
    who, existence_ms, until_ms = token.response.decode().split()
    return None if who == "?" else TokenStanding(frozenset({who.encode()}), int(existence_ms), int(until_ms))


def stated(size: int, *texts: str) -> TimeStatement:
    return TimeStatement(size, tuple(sorted(sha256(text.encode()).digest() for text in texts)))


def stamps(tokens: Tokens, k: int = 1, times: Sequence[tuple[int, TimeStatement]] | None = None) -> Stamps:
    """Checkpoints of 10, 20, 30 ... leaves; each states, as its first leaf, the tokens of the one before."""
    sizes = sorted(tokens)
    if times is None:
        times = [(size, stated(size, *tokens[size])) for size in sizes if tokens[size]]
    return Stamps(lambda size: [evidence(text) for text in tokens[size]], judge, k, times, sizes)


# --- what tokens are worth together ---------------------------------------------------------------------------------


def standing(keys: str, existence_ms: int, until_ms: int) -> TokenStanding:
    return TokenStanding(frozenset(key.encode() for key in keys), existence_ms, until_ms)


def test_k_independent_authorities_count() -> None:
    three = [standing("a", 1, 10), standing("b", 2, 30), standing("c", 3, 20)]
    assert combine_standings(three, 1) == Stamp(1, 30)
    assert combine_standings(three, 2) == Stamp(2, 20)
    assert combine_standings(three, 3) == Stamp(3, 10)
    assert combine_standings(three, 4) is None
    assert combine_standings([], 1) is None


def test_two_under_one_key_are_one() -> None:
    assert combine_standings([standing("a", 1, 10), standing("ab", 2, 30)], 2) is None
    assert combine_standings([standing("a", 1, 10), standing("ab", 2, 30)], 1) == Stamp(1, 30)


def test_without_authorities_each_token_is_one_of_its_own() -> None:
    one, two = take_at_its_word(evidence("1")), take_at_its_word(evidence("2"))
    assert combine_standings([one, two], 2) is not None
    assert combine_standings([one, one], 2) is None


# --- the first checkpoint -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "behind", "size"), [(1, 5, 20), (2, 5, 30), (3, 5, 40), (2, 30, 40), (1, 25, 30)])
def test_the_first_that_enough_have_stamped(k: int, behind: int, size: int) -> None:
    tokens = {10: [], 20: ["a 1 9"], 30: ["a 2 9", "b 2 9", "? 2 9"], 40: ["a 3 9", "b 3 9", "c 3 9"]}
    assert stamps(tokens, k).first(behind) == size


def test_where_nowhere_enough_have_the_first_with_any() -> None:
    assert stamps({10: [], 20: ["a 1 9"], 30: ["? 2 9"]}, 2).first(5) == 20
    assert stamps({10: [], 20: ["? 1 9"]}).first(5) == 20
    assert stamps({10: [], 20: []}).first(5) is None


# --- what the log states --------------------------------------------------------------------------------------------


def test_the_statement_that_names_enough() -> None:
    tokens = {10: ["a 1 9", "b 1 9"], 20: [], 30: []}
    few, enough = (11, stated(10, "a 1 9")), (21, stated(10, "a 1 9", "b 1 9"))
    assert stamps(tokens, 2, [few, enough]).statement(10) == enough
    assert stamps(tokens, 1, [few, enough]).statement(10) == few
    assert stamps(tokens, 2, [few]).statement(10) is None, "what it leaves out would be left out of the evidence"
    assert stamps(tokens, 3, [few]).statement(10) == few, "too few anyway"
    assert stamps(tokens, 1, [(11, stated(10, "gone 1 9"))]).statement(10) is None
    assert stamps(tokens, 2, [few, enough]).statement(10, before=21) is None


def test_the_newest_statement_that_names_enough() -> None:
    tokens = {10: ["a 1 9", "b 1 9"], 20: ["a 2 9"], 30: []}
    both = [(11, stated(10, *tokens[10])), (21, stated(20, *tokens[20]))]
    assert stamps(tokens, 2, both).newest_statement(10, 99) == both[0]
    assert stamps(tokens, 1, both).newest_statement(10, 99) == both[1]
    assert stamps(tokens, 1, both).newest_statement(10, 21) == both[0]
    assert stamps(tokens, 1, both).newest_statement(20, 21) is None
    assert stamps(tokens, 3, both).newest_statement(10, 99) == both[1]


# --- renewals -------------------------------------------------------------------------------------------------------


def steps(tokens: Tokens, k: int = 1, size: int = 10) -> list[int]:
    return [later for _, _, later in stamps(tokens, k).renewals(size)]


def test_one_step_for_each_generation_of_certificates() -> None:
    tokens = {
        10: ["a 1 100"],
        20: ["a 2 100"],
        30: ["b 90 200"],
        40: ["b 99 200"],
        50: ["c 150 300"],
        60: ["c 190 300"],
    }
    assert steps(tokens) == [40, 60]
    assert next(iter(stamps(tokens).renewals(10)))[:2] == (10, stated(10, "a 1 100"))


def test_no_step_that_gains_nothing() -> None:
    assert steps({10: ["a 1 100"], 20: ["a 2 100"], 30: ["a 3 100"]}) == []
    assert steps({10: ["a 1 100"], 20: ["a 2 50"]}) == []


def test_no_step_over_the_end() -> None:
    assert steps({10: ["a 1 100"], 20: ["b 100 200"]}) == [], "at the end is too late"
    assert steps({10: ["a 1 100"], 20: ["b 99 200"]}) == [20]


def test_what_is_not_stated_is_not_renewed() -> None:
    tokens = {10: ["a 1 100"], 20: ["b 2 200"]}
    assert list(stamps(tokens, times=[]).renewals(10)) == []
    behind = [(20, stated(10, "a 1 100"))]
    assert list(stamps(tokens, times=behind).renewals(10)) == [], "the later tokens do not cover the leaf"


def test_k_of_the_later_tokens_too() -> None:
    tokens = {10: ["a 1 100", "b 1 100"], 20: ["a 2 200"], 30: ["a 3 200", "b 3 150"], 40: []}
    assert steps(tokens, 2) == [30]
    assert steps(tokens, 1) == [30]


def test_one_that_was_revoked_is_renewed_by_the_other() -> None:
    """``a`` ends early; after that only ``b`` stamps. The last one before the end that ``b`` has stamped too is it."""
    tokens = {10: ["a 1 100"], 20: ["a 20 100", "b 20 500"], 30: ["a 30 100"], 40: ["b 120 500"]}
    assert steps(tokens) == [20]


def test_checkpoints_that_nobody_has_stamped_are_passed_by() -> None:
    tokens: Tokens = {10: ["a 1 100"], 20: [], 30: ["b 90 200"], 40: [], 50: ["b 120 200"], 60: []}
    assert steps(tokens) == [30]

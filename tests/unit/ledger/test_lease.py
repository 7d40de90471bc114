"""Who may sign for a feed: what the stored lease says, held against who asks and what the database says of itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.errors import StoreBusy
from ledger.lease import Lease, Surroundings, claim, lapse
from ledger.store import FeedKey

KEY = FeedKey(b"k" * 32)
ME, OTHER = b"m" * 16, b"o" * 16
NOW = 1_000_000
HERE = Surroundings(NOW, "71/00000001")
MINE = Lease(KEY, ME, 3, NOW + 9_000, HERE.incarnation)
OTHERS = replace(MINE, holder=OTHER)


def ask(held: Lease | None, known: int | None = None, around: Surroundings = HERE) -> Lease | None:
    return claim(held, KEY, ME, known, around, 10_000)


def test_feed_that_nobody_ever_leased() -> None:
    assert ask(None) == ask(None, 7) == Lease(KEY, ME, 1, NOW + 10_000, HERE.incarnation)


def test_own_lease_is_renewed_when_half_of_it_is_over() -> None:
    assert ask(MINE, 3) is MINE
    assert ask(replace(MINE, expires_ms=NOW + 5_000), 3) == replace(MINE, expires_ms=NOW + 5_000)
    assert ask(replace(MINE, expires_ms=NOW + 4_999), 3) == replace(MINE, expires_ms=NOW + 10_000)


def test_own_lease_that_expired_and_that_nobody_took() -> None:
    assert ask(replace(MINE, expires_ms=NOW - 1), 3) == replace(MINE, expires_ms=NOW + 10_000)


@pytest.mark.parametrize("known", [None, 3, 4])
def test_another_holder_until_it_expires(known: int | None) -> None:
    with pytest.raises(StoreBusy, match="1 ms more"):
        ask(replace(OTHERS, expires_ms=NOW + 1), known)
    assert ask(replace(OTHERS, expires_ms=NOW), known) == Lease(KEY, ME, 4, NOW + 10_000, HERE.incarnation)


@pytest.mark.parametrize("expires_ms", [NOW - 1, NOW + 1])
def test_lost_lease_is_said_to_be_lost(expires_ms: int) -> None:
    """Also when the one who took it has let go: whoever had it has to know that others wrote meanwhile."""
    with pytest.raises(StoreBusy, match="lost"):
        ask(replace(OTHERS, epoch=4, expires_ms=expires_ms), 3)


@pytest.mark.parametrize("held", [MINE, OTHERS, replace(OTHERS, expires_ms=0), replace(OTHERS, epoch=4)])
def test_another_history_of_the_database(held: Lease) -> None:
    """Whoever held it: what was acknowledged in the other history may be missing in this one."""
    for incarnation in ("71/00000002", "72/00000001", ""):
        assert ask(held, 3, Surroundings(NOW, incarnation)) is None


def test_given_back() -> None:
    assert lapse(MINE, ME, HERE) == replace(MINE, expires_ms=NOW)
    assert lapse(OTHERS, ME, HERE) is lapse(None, ME, HERE) is lapse(replace(MINE, expires_ms=NOW), ME, HERE) is None


HOLDERS = [bytes([number]) * 16 for number in range(3)]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9_000), st.booleans()), max_size=40))
def test_one_holder_at_a_time(asked: list[tuple[int, int, bool]]) -> None:
    """Whoever was given a lease keeps it until it expires; the epoch names one holder; lost commits do no harm."""
    held: Lease | None = None
    known: dict[bytes, int] = {}
    owners: dict[int, bytes] = {}
    now_ms = NOW
    for number, passed, is_committed in asked:
        now_ms += passed
        holder = HOLDERS[number]
        try:
            given_lease = claim(held, KEY, holder, known.pop(holder, None), Surroundings(now_ms, ""), 10_000)
        except StoreBusy:
            assert held is not None
            assert held.holder != holder
            continue
        assert given_lease is not None
        assert held is None or held.holder == holder or held.expires_ms <= now_ms
        assert now_ms + 5_000 <= given_lease.expires_ms <= now_ms + 10_000
        known[holder] = given_lease.epoch
        if is_committed:
            assert held is None or given_lease.epoch >= held.epoch
            assert owners.setdefault(given_lease.epoch, holder) == holder
            held = given_lease

"""Step 10 of docs/spec/evidence.md: nothing in the file is there for nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from anchoring.evidence import CheckpointEvidence as Shown
from ledger.statement import (
    FeedHead,
    IdentityHead,
)
from ledger.store import FeedKey

Bench = Any
"""``conftest.Bench``."""

MINUTE_MS, DAY_MS = 60_000, 86_400_000


# --- step 10: nothing for nothing -----------------------------------------------------------------------------------


def test_leaves_that_no_finding_needs(sealed: Bench) -> None:
    """Genuine leaves of the log, each proven to stand there."""
    another_feed = FeedHead(FeedKey(bytes(32)), 1, bytes(32))
    other_identity = IdentityHead(bytes(32), 0, bytes(32))
    third = sealed.add(
        sealed.when(sealed.second) if sealed.second.size in sealed.tokens else another_feed, other_identity
    )
    first = sealed.first.size
    shown = sealed.show(sealed.first, 2), sealed.show(sealed.second, 3, 5, after=first)
    surplus: Sequence[tuple[Shown, ...]] = (
        (sealed.show(sealed.first, 1, 2), shown[1]),
        (*shown, sealed.show(third, 6, after=sealed.second.size)),
        (*shown, sealed.show(third, 7, after=sealed.second.size)),
    )
    for checkpoints in surplus:
        evidence = sealed.assemble(sealed.proof(2, 4), *checkpoints)
        assert sealed.find(evidence) == {"log FAILED UNREFERENCED"}


def test_an_anchor_statement_without_its_receipt(sealed: Bench) -> None:
    evidence = sealed.assemble(
        sealed.proof(2, 4),
        replace(sealed.show(sealed.first, 2), anchor=None),
        sealed.show(sealed.second, 3, 4, 5, after=sealed.first.size),
    )
    assert sealed.find(evidence) == {"anchor INDETERMINATE NOT_ANCHORED", "log FAILED UNREFERENCED"}


def test_a_time_leaf_behind_the_identity_head(bench: Bench) -> None:
    """It bounds nothing, and no later token covers what it names."""
    bench.append("a")
    first = bench.add(bench.who(), bench.what(1))
    bench.stamp(first)
    bench.anchor(first)
    second = bench.add(bench.when(first), bench.who())
    bench.stamp(second)
    third = bench.add(bench.when(second))
    evidence = bench.assemble(
        bench.proof(0, 1),
        bench.show(first, 2),
        bench.show(second, 3, 4, after=first.size, bare=True),
        bench.show(third, 5, after=second.size),
    )
    assert bench.find(evidence) == {"log FAILED UNREFERENCED"}


def test_a_checkpoint_that_no_finding_needs(sealed: Bench) -> None:
    third = sealed.add(sealed.who())
    empty = sealed.show(third, after=sealed.second.size)
    evidence = replace(sealed.export(2), checkpoints=(*by_hand(sealed), empty))
    assert sealed.find(evidence) == {"log FAILED UNREFERENCED"}


def by_hand(sealed: Bench) -> tuple[Shown, Shown]:
    return sealed.show(sealed.first, 2), sealed.show(sealed.second, 3, 5, after=sealed.first.size)


def test_tokens_that_no_finding_needs(sealed: Bench) -> None:
    third = sealed.add(sealed.who())
    sealed.stamp(third)
    evidence = replace(sealed.export(2), checkpoints=(*by_hand(sealed), sealed.show(third, after=sealed.second.size)))
    assert sealed.find(evidence) == {"time FAILED UNREFERENCED"}


def test_what_serves_a_finding_does_not_depend_on_the_policy(sealed: Bench) -> None:
    """A reader who trusts nobody finds everything open, and nothing failed."""
    found = sealed.find(sealed.export(2), identities=frozenset(), logs=frozenset(), authorities=(), chains={})
    assert {finding.split()[1] for finding in found} == {"INDETERMINATE"}

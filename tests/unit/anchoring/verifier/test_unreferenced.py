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


def test_leaves_that_no_finding_needs(own: Bench) -> None:
    """Genuine leaves of the log, each proven to stand there."""
    another_feed = FeedHead(FeedKey(bytes(32)), 1, bytes(32))
    other_identity = IdentityHead(bytes(32), 0, bytes(32))
    third = own.add(own.when(own.second) if own.second.size in own.tokens else another_feed, other_identity)
    first = own.first.size
    shown = own.show(own.first, 2), own.show(own.second, 3, 5, after=first)
    surplus: Sequence[tuple[Shown, ...]] = (
        (own.show(own.first, 1, 2), shown[1]),
        (*shown, own.show(third, 6, after=own.second.size)),
        (*shown, own.show(third, 7, after=own.second.size)),
    )
    for checkpoints in surplus:
        evidence = own.assemble(own.proof(2, 4), *checkpoints)
        assert own.find(evidence) == {"log FAILED UNREFERENCED"}


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


def test_a_checkpoint_that_no_finding_needs(own: Bench) -> None:
    third = own.add(own.who())
    empty = own.show(third, after=own.second.size)
    evidence = replace(own.export(2), checkpoints=(*by_hand(own), empty))
    assert own.find(evidence) == {"log FAILED UNREFERENCED"}


def by_hand(sealed: Bench) -> tuple[Shown, Shown]:
    return sealed.show(sealed.first, 2), sealed.show(sealed.second, 3, 5, after=sealed.first.size)


def test_tokens_that_no_finding_needs(own: Bench) -> None:
    third = own.add(own.who())
    own.stamp(third)
    later = own.show(third, after=own.second.size)
    without_time_leaf = own.show(own.first, 2), own.show(own.second, 5, after=own.first.size), later
    found = own.find(own.assemble(own.proof(2, 4), *without_time_leaf))
    assert found == {"origin INDETERMINATE NO_FRESH_IDENTITY", "time FAILED UNREFERENCED"}


def test_later_tokens_cover_what_a_time_leaf_names(own: Bench) -> None:
    """Between the leaf and the tokens a checkpoint without tokens may stand."""
    third = own.add(own.who())
    own.stamp(third)
    assert own.find(own.assemble(own.proof(2, 4), *by_hand(own), own.show(third, after=own.second.size))) == set()


def test_what_serves_a_finding_does_not_depend_on_the_policy(sealed: Bench) -> None:
    """A reader who trusts nobody finds everything open, and nothing failed."""
    found = sealed.find(sealed.export(2), identities=frozenset(), logs=frozenset(), authorities=(), chains={})
    assert {finding.split()[1] for finding in found} == {"INDETERMINATE"}

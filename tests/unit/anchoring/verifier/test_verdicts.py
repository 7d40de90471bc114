"""Step 9 of docs/spec/evidence.md: the table of docs/spec/identity.md, through whole evidence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from anchoring.evidence import Evidence
from identity.event import RevocationReason
from ledger.entry import Entry, encode_entry
from ledger.feed import FeedWriter, block_proof
from ledger.manifest import FeedDescription, device_manifest, encode_manifest, feed_key
from ledger.statement import (
    FeedHead,
)
from ledger.storage.memory import MemoryStore

Bench = Any
"""``conftest.Bench``."""

MINUTE_MS, DAY_MS = 60_000, 86_400_000


# --- step 9: the verdict --------------------------------------------------------------------------------------------


STOLEN, RETIRED = RevocationReason.STOLEN, RevocationReason.RETIRED


def proven_before(bench: Bench, vouched: int | None, reason: RevocationReason, since: int | None = None) -> Evidence:
    """Entry 1 of 2 is proven at ``existed_by``; then the phone is revoked, which is proven two minutes later."""
    bench.append("a")
    bench.append("b")
    first = bench.add(bench.who(), bench.what(2))
    bench.stamp(first)
    bench.anchor(first)
    bench.around.clock.now_ms += MINUTE_MS
    since_ms = None if since is None else bench.around.clock.now_ms - MINUTE_MS + since
    bench.revoke(vouched, reason, since_ms)
    second = bench.add(bench.when(first), bench.who())
    bench.stamp(second)
    evidence: Evidence = bench.export(1)
    return evidence


def proven_after(bench: Bench, vouched: int | None, reason: RevocationReason) -> Evidence:
    """The revocation is logged and proven first, and then entry 1."""
    bench.append("a")
    bench.append("b")
    bench.revoke(vouched, reason)
    revoked = bench.add(bench.who())
    bench.stamp(revoked)
    first = bench.add(bench.when(revoked), bench.who(), bench.what(2))
    bench.stamp(first)
    bench.anchor(first)
    bench.add(bench.when(first), bench.who())
    evidence: Evidence = bench.export(1)
    return evidence


@pytest.mark.parametrize(
    ("vouched", "reason", "since", "found"),
    [
        (2, RETIRED, None, None),
        (2, STOLEN, None, None),
        (2, STOLEN, 2 * MINUTE_MS, None),
        (2, STOLEN, -1, "origin INDETERMINATE REVOKED_NO_POE"),
        (1, STOLEN, None, "origin INDETERMINATE REPUDIATED"),
        (None, STOLEN, None, "origin INDETERMINATE REPUDIATED"),
        (1, RETIRED, None, "origin INDETERMINATE REPUDIATED"),
    ],
)
def test_an_entry_proven_before_the_revocation(
    bench: Bench, vouched: int | None, reason: RevocationReason, since: int | None, found: tuple[str, str, str] | None
) -> None:
    evidence = proven_before(bench, vouched, reason, since)
    assert bench.find(evidence) == ({found} if found else set())


@pytest.mark.parametrize(
    ("vouched", "reason", "found"),
    [
        (2, RETIRED, None),
        (2, STOLEN, "origin INDETERMINATE NO_POE"),
        (1, STOLEN, "origin FAILED REVOKED"),
        (1, RETIRED, "origin FAILED REVOKED"),
        (None, STOLEN, "origin FAILED REVOKED"),
    ],
)
def test_an_entry_proven_after_the_revocation(
    bench: Bench, vouched: int | None, reason: RevocationReason, found: tuple[str, str, str] | None
) -> None:
    evidence = proven_after(bench, vouched, reason)
    assert bench.find(evidence) == ({found} if found else set())


def test_a_revocation_without_a_time_proves_nothing_to_be_before_it(bench: Bench) -> None:
    evidence = proven_before(bench, 2, STOLEN)
    untimed = bench.altered(evidence, 1, timestamps=())
    assert bench.find(untimed) == {"origin INDETERMINATE NO_POE"}


def test_a_revocation_that_was_stamped_only_later(bench: Bench) -> None:
    """The checkpoint that first holds the revocation has no token; the first one after it that has some tells R."""
    bench.append("a")
    first = bench.add(bench.who(), bench.what(1))
    bench.stamp(first)
    bench.anchor(first)
    bench.revoke(1, STOLEN)
    bench.add(bench.when(first), bench.who())
    third = bench.add(bench.who())
    bench.stamp(third)
    assert bench.find(bench.export(0)) == set()


def test_time_alone_is_not_before_the_log_must_agree(bench: Bench) -> None:
    """T is earlier than R by the clocks, but T's checkpoint holds the revocation already."""
    bench.append("a")
    bench.append("b")
    bench.revoke(2, STOLEN)
    first = bench.add(bench.who(), bench.what(2))
    bench.stamp(first)
    bench.anchor(first)
    second = bench.add(bench.when(first), bench.who())
    bench.stamp(second)
    bench.add(bench.when(second), bench.who())
    assert bench.find(bench.export(1)) == {"origin INDETERMINATE NO_POE"}
    # Shown by its second leaf only, which the log cannot be asked about: docs/limitations.md.
    third = bench.add(bench.who())
    hidden = bench.assemble(bench.proof(1, 2), bench.show(first, 2), bench.show(second, 3, 4, after=first.size))
    assert third.size > second.size
    assert bench.find(hidden) == set()


def test_an_entry_whose_proof_does_not_lead_to_the_last_good_head(bench: Bench) -> None:
    proven_before(bench, 1, STOLEN)
    evidence = bench.export(0)
    assert bench.find(evidence) == set()
    shorter = replace(evidence, proof=bench.proof(0, 2))
    assert bench.find(shorter) == {"origin INDETERMINATE LAST_GOOD_NOT_SHOWN"}


def test_an_entry_on_another_branch_than_the_last_good_head(bench: Bench) -> None:
    bench.append("a")
    bench.append("b")
    fork = MemoryStore()
    with bench.store.read() as tx, fork.write() as write:
        write.create_feed(bench.key, tx.feed(bench.key).manifest, local=True)
    writer = FeedWriter(fork, bench.key, bench.phone)
    for text in ("a", "B", "C"):
        writer.append([encode_entry(Entry("note", 0, {"text": text}))])
    with fork.read() as tx:
        head = tx.head(bench.key, 3)
        proof = block_proof(tx, bench.key, 1, length=2, head_length=3)
    assert head is not None
    first = bench.add(bench.who(), FeedHead(bench.key, 3, head.tree_hash))
    bench.stamp(first)
    bench.anchor(first)
    bench.revoke(2, STOLEN)
    second = bench.add(bench.when(first), bench.who())
    bench.stamp(second)
    evidence = bench.assemble(proof, bench.show(first, 2), bench.show(second, 3, 4, after=first.size))
    assert bench.find(evidence) == {"origin FAILED OTHER_BRANCH"}


def test_a_device_that_was_never_added(bench: Bench) -> None:
    stranger = bench.signer("stranger")
    manifest = device_manifest(stranger.public_key, FeedDescription(bench.identity, "ledger"))
    bench.key = feed_key(manifest)
    bench.phone = stranger
    with bench.store.write() as tx:
        tx.create_feed(bench.key, encode_manifest(manifest), local=True)
    bench.append("a")
    first = bench.add(bench.who(), bench.what(1))
    bench.stamp(first)
    bench.anchor(first)
    bench.add(bench.when(first), bench.who())
    assert bench.find(bench.export(0)) == {"origin FAILED UNKNOWN_DEVICE"}

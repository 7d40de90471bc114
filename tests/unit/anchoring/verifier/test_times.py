"""Steps 7 and 8 of docs/spec/evidence.md: what tokens prove, and how fresh the identity head is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from anchoring.timestamp import Authority, TimestampEvidence
from identity.history import (
    build_close,
    fold,
    sign_event,
)
from ledger.checkpoint import imprint_message
from ledger.statement import (
    IdentityHead,
    log_origin,
)

Bench = Any
"""``conftest.Bench``."""

MINUTE_MS, DAY_MS = 60_000, 86_400_000


# --- step 7: the tokens ---------------------------------------------------------------------------------------------


def test_no_token(sealed: Bench) -> None:
    evidence = sealed.altered(sealed.export(2), 0, timestamps=())
    identity_only = sealed.show(sealed.second, 5, after=sealed.first.size)
    bare = replace(evidence, checkpoints=(evidence.checkpoints[0], identity_only))
    assert sealed.find(bare) == {"time INDETERMINATE NO_TIMESTAMP", "origin INDETERMINATE NO_FRESH_IDENTITY"}


def test_a_token_of_an_authority_that_the_policy_does_not_name(sealed: Bench) -> None:
    found = sealed.find(sealed.export(2), authorities=(sealed.around.second.authority,))
    assert found == {
        "time INDETERMINATE UNKNOWN_AUTHORITY",
        "time INDETERMINATE NO_TIMESTAMP",
        "origin INDETERMINATE NO_FRESH_IDENTITY",
    }


def test_an_authority_is_its_root_and_not_what_it_is_called(sealed: Bench) -> None:
    namesake = replace(sealed.around.first.authority, root=sealed.around.second.root)
    assert "time FAILED PATH" in sealed.find(sealed.export(2), authorities=(namesake,))


def test_a_token_over_another_checkpoint(own: Bench) -> None:
    own.stamp(own.second)
    tokens = own.tokens[own.second.size]
    assert "time FAILED IMPRINT" in own.find(own.altered(own.export(2), 0, timestamps=tokens))


def test_a_token_that_is_none(sealed: Bench) -> None:
    (token,) = sealed.tokens[sealed.first.size]
    changed = sealed.altered(sealed.export(2), 0, timestamps=(replace(token, response=b"0\0"),))
    assert "time FAILED MALFORMED" in sealed.find(changed)


def test_revocation_data_is_part_of_a_token(sealed: Bench) -> None:
    (token,) = sealed.tokens[sealed.first.size]
    without = sealed.altered(sealed.export(2), 0, timestamps=(replace(token, crls=()),))
    assert "time INDETERMINATE REVOCATION_MISSING" in sealed.find(without)


def test_two_authorities_must_agree_when_the_policy_asks_for_two(bench: Bench) -> None:
    bench.append("a")
    first = bench.add(bench.who(), bench.what(1))
    bench.stamp(first, bench.around.first)
    bench.around.clock.now_ms += MINUTE_MS
    bench.stamp(first, bench.around.second)
    bench.anchor(first)
    bench.add(bench.when(first), bench.who())
    evidence = bench.export(0)
    report = bench.report(evidence, k=2, authorities=bench.both)
    assert report.exit_code == 0
    one = bench.report(evidence, k=1, authorities=bench.both)
    # T is the k-th smallest, not-before the k-th largest.
    assert report.facts["existed_by"] - one.facts["existed_by"] == MINUTE_MS
    assert one.facts["identity_not_before"] - report.facts["identity_not_before"] == MINUTE_MS


def test_one_authority_of_two_is_not_enough(sealed: Bench) -> None:
    found = sealed.find(sealed.export(2), k=2, authorities=sealed.both)
    assert found == {"time INDETERMINATE NOT_ENOUGH_AUTHORITIES", "origin INDETERMINATE NO_FRESH_IDENTITY"}


def test_what_is_undecided_about_a_token_is_no_finding_where_enough_others_count(bench: Bench) -> None:
    """The reader knows the first authority only, and one is enough; another reader asks for both."""
    bench.append("a")
    first = bench.add(bench.who(), bench.what(1))
    bench.stamp(first, bench.around.first, bench.around.second)
    bench.anchor(first)
    bench.add(bench.when(first), bench.who())
    evidence = bench.export(0)
    report = bench.report(evidence)
    assert report.exit_code == 0
    assert "UNKNOWN_AUTHORITY" in report.to_text(), "it is said all the same"
    assert bench.find(evidence, k=2) == {
        "time INDETERMINATE UNKNOWN_AUTHORITY",
        "time INDETERMINATE NOT_ENOUGH_AUTHORITIES",
        "origin INDETERMINATE NO_FRESH_IDENTITY",
    }


def test_what_is_wrong_with_a_token_is_a_finding_all_the_same(bench: Bench) -> None:
    bench.append("a")
    first = bench.add(bench.who(), bench.what(1))
    bench.stamp(first, bench.around.first, bench.around.second)
    bench.anchor(first)
    evidence = bench.export(0)
    good, other = bench.tokens[first.size]
    altered = replace(other, response=other.response[:-1] + bytes([other.response[-1] ^ 1]))
    found = bench.find(bench.altered(evidence, 0, timestamps=(good, altered)), authorities=bench.both)
    assert any(finding.startswith("time FAILED") for finding in found)


def test_one_lying_authority_cannot_make_an_old_identity_head_fresh(bench: Bench) -> None:
    """Its clock is a year ahead when it stamps; the other's is right."""
    bench.append("a")
    first = bench.add(bench.who(), bench.what(1))
    bench.stamp(first, bench.around.second)
    right = bench.around.clock.now_ms
    bench.around.clock.now_ms += 365 * DAY_MS
    bench.stamp(first, bench.around.first)
    bench.around.clock.now_ms = right
    bench.anchor(first)
    bench.add(bench.when(first), bench.who())
    at_ms = right + 366 * DAY_MS
    found = bench.find(bench.export(0), at_ms, k=2, authorities=bench.both)
    assert "origin INDETERMINATE NO_FRESH_IDENTITY" in found
    # Whoever trusts that one alone believes it.
    alone = bench.find(bench.export(0), at_ms, k=1, authorities=bench.both)
    assert "origin INDETERMINATE NO_FRESH_IDENTITY" not in alone


def test_authorities_under_one_root_count_once(bench: Bench, maker: Any, change: Any) -> None:
    """Whoever holds the root can be both."""
    bench.append("a")
    first = bench.add(bench.who(), bench.what(1))
    message = imprint_message(first.note, log_origin(bench.descriptor, bench.log_id), bench.log_key.public_key)
    other = maker.issue("Other TSA", issuer=maker.root)
    info = {"message_imprint": maker.imprint(message, "sha256")}
    bench.tokens[first.size] = (
        maker.evidence(change(info=info)),
        maker.evidence(change(info=info), signer=other),
    )
    authorities = (maker.authority, replace(maker.authority, subject=other.subject))
    bench.anchor(first)
    bench.add(bench.when(first), bench.who())
    evidence, at_ms = bench.export(0), maker.now_ms + MINUTE_MS
    found = bench.find(evidence, at_ms, k=2, authorities=authorities)
    assert found == {"time INDETERMINATE NOT_ENOUGH_AUTHORITIES", "origin INDETERMINATE NO_FRESH_IDENTITY"}
    assert bench.find(evidence, at_ms, k=1, authorities=authorities) == set()


@pytest.mark.parametrize("shared", ["root", "signer"])
def test_authorities_under_one_key_count_once(bench: Bench, maker: Any, change: Any, shared: str) -> None:
    """Two roots, two names, one key: whoever holds it can be both."""
    bench.append("a")
    first = bench.add(bench.who(), bench.what(1))
    message = imprint_message(first.note, log_origin(bench.descriptor, bench.log_id), bench.log_key.public_key)
    other_root = maker.issue("Other Root", ca=True, key=maker.root.key if shared == "root" else None)
    other = maker.issue("Other TSA", issuer=other_root, key=maker.signer.key if shared == "signer" else None)
    stranger_root = maker.issue("Stranger", ca=True)
    stranger = maker.issue("Third TSA", issuer=stranger_root)
    imprint = change(info={"message_imprint": maker.imprint(message, "sha256")})
    bench.tokens[first.size] = tuple(
        TimestampEvidence(maker.response(imprint, signer=signer), crls=(maker.crl(root),))
        for signer, root in ((maker.signer, maker.root), (other, other_root), (stranger, stranger_root))
    )
    bench.anchor(first)
    bench.add(bench.when(first), bench.who())
    evidence, at_ms = bench.export(0), maker.now_ms + MINUTE_MS
    authorities = (
        maker.authority,
        Authority(other_root.der, maker.policy, other.subject),
        Authority(stranger_root.der, maker.policy, stranger.subject),
    )
    found = bench.find(evidence, at_ms, k=3, authorities=authorities)
    assert found == {"time INDETERMINATE NOT_ENOUGH_AUTHORITIES", "origin INDETERMINATE NO_FRESH_IDENTITY"}
    assert bench.find(evidence, at_ms, k=2, authorities=authorities) == set()


def test_two_tokens_of_one_authority_on_one_checkpoint(bench: Bench) -> None:
    bench.append("a")
    first = bench.add(bench.who(), bench.what(1))
    bench.stamp(first, bench.around.first, bench.around.first)
    bench.anchor(first)
    bench.add(bench.when(first), bench.who())
    assert bench.find(bench.export(0)) == {"time FAILED UNREFERENCED"}


def test_other_tokens_than_those_that_the_log_names(own: Bench) -> None:
    """A later token on the same note is genuine; the log says that another one was known when the leaf was written."""
    own.around.clock.now_ms += MINUTE_MS
    evidence = own.export(2)
    own.tokens[own.first.size] = ()
    own.stamp(own.first)
    later = own.altered(evidence, 0, timestamps=own.tokens[own.first.size])
    assert own.find(later) == {"time FAILED OTHER_TOKENS"}


def test_an_expired_certificate_needs_a_later_proof(bench: Bench, maker: Any, change: Any) -> None:
    """``maker`` certifies for a year; the second authority stamps the log that names the token, before that ends."""
    bench.append("a")
    first = bench.add(bench.who(), bench.what(1))
    message = imprint_message(first.note, log_origin(bench.descriptor, bench.log_id), bench.log_key.public_key)
    info = {"message_imprint": maker.imprint(message, "sha256")}
    bench.tokens[first.size] = (maker.evidence(change(info=info)),)
    bench.anchor(first)
    clock = bench.around.clock
    present = clock.now_ms
    authorities = (maker.authority, bench.around.second.authority)
    try:
        clock.now_ms = maker.now_ms + 300 * DAY_MS
        second = bench.add(bench.when(first), bench.who())
        bench.stamp(second, bench.around.second)
        third = bench.add(bench.when(second), bench.who())
    finally:
        clock.now_ms = present
    late = maker.now_ms + 400 * DAY_MS
    plain = bench.assemble(
        bench.proof(0, 1), bench.show(first, 2), bench.show(second, 3, 4, after=first.size, bare=True)
    )
    found = bench.find(plain, late, authorities=authorities, max_identity_age_ms=10**12)
    assert "time INDETERMINATE EXPIRED_NO_POE" in found
    assert bench.find(plain, maker.now_ms + DAY_MS, authorities=authorities, max_identity_age_ms=10**12) == set()
    renewed = bench.assemble(
        bench.proof(0, 1),
        bench.show(first, 2),
        bench.show(second, 3, after=first.size),
        bench.show(third, 5, 6, after=second.size),
    )
    assert bench.find(renewed, late, authorities=authorities, max_identity_age_ms=10**12) == set()


def test_a_token_older_than_a_block_that_the_log_names(bench: Bench) -> None:
    bench.append("a")
    first = bench.add(bench.who(), bench.what(1))
    bench.stamp(first)
    bench.anchor(first)
    second = bench.add(bench.when(first), bench.where(first), bench.who())
    bench.around.clock.now_ms -= 60 * MINUTE_MS
    bench.stamp(second, bench.around.second)
    bench.around.clock.now_ms += 61 * MINUTE_MS
    third = bench.add(bench.when(second), bench.who())
    evidence = bench.assemble(
        bench.proof(0, 1),
        bench.show(first, 2),
        bench.show(second, 3, 4, after=first.size),
        bench.show(third, 6, 7, after=second.size),
    )
    assert bench.find(evidence, authorities=bench.both) == {"time FAILED TIME_CONTRADICTION"}


def test_an_anchor_statement_that_names_another_block_than_its_receipt(bench: Bench) -> None:
    bench.append("a")
    first = bench.add(bench.who(), bench.what(1))
    bench.stamp(first)
    bench.anchor(first)
    true = bench.where(first)
    for false in (replace(true, number=true.number + 1), replace(true, block=bytes(32))):
        second = bench.add(bench.when(first), false, bench.who())
        leaves = range(second.size - 3, second.size)
        evidence = bench.assemble(
            bench.proof(0, 1), bench.show(first, 2), bench.show(second, *leaves, after=first.size)
        )
        assert bench.find(evidence) == {"anchor FAILED OTHER_BLOCK"}


def test_as_of_a_time_before_the_token(sealed: Bench) -> None:
    report = sealed.report(sealed.export(2))
    found = sealed.find(sealed.export(2), report.facts["existed_by"] - 1)
    assert found == {"time INDETERMINATE NOT_YET_PROVEN"}


# --- step 8: the identity head --------------------------------------------------------------------------------------


def test_an_identity_head_gets_old(sealed: Bench) -> None:
    report = sealed.report(sealed.export(2))
    last = report.facts["identity_not_before"] + 30 * DAY_MS
    assert sealed.find(sealed.export(2), last) == set()
    assert sealed.find(sealed.export(2), last + 1) == {"origin INDETERMINATE NO_FRESH_IDENTITY"}


def test_without_a_time_leaf_before_it_nothing_says_how_old_it_is(sealed: Bench) -> None:
    no_time = sealed.assemble(
        sealed.proof(2, 4), sealed.show(sealed.first, 2), sealed.show(sealed.second, 5, after=sealed.first.size)
    )
    assert sealed.find(no_time) == {"origin INDETERMINATE NO_FRESH_IDENTITY"}
    # The token on its own checkpoint is an upper bound, not a lower one.
    first_only = sealed.assemble(sealed.proof(2, 4), sealed.show(sealed.first, 1, 2))
    assert sealed.find(first_only) == {"origin INDETERMINATE NO_FRESH_IDENTITY"}


def test_no_identity_head(sealed: Bench) -> None:
    nothing = sealed.assemble(sealed.proof(2, 4), sealed.show(sealed.first, 2))
    assert sealed.find(nothing) == {"origin INDETERMINATE NO_FRESH_IDENTITY"}


def test_events_that_the_log_does_not_know_yet(sealed: Bench) -> None:
    newer = build_close(fold(sealed.events), time_ms=0)
    events = [*sealed.events, sign_event(newer, [(0, sealed.root)])]
    evidence = replace(sealed.export(2), events=tuple(event.encode() for event in events))
    assert sealed.find(evidence) == {"origin INDETERMINATE NO_FRESH_IDENTITY"}


def test_events_that_the_log_knows_and_the_evidence_does_not(own: Bench) -> None:
    own.accept(build_close(fold(own.events), time_ms=0))
    own.add(own.who())
    evidence = own.export(2)
    assert own.find(evidence) == set()
    truncated = replace(evidence, events=evidence.events[:-1])
    assert own.find(truncated) == {"origin FAILED EVENTS_TRUNCATED"}


def test_other_events_than_those_that_the_log_names(bench: Bench) -> None:
    bench.append("a")
    first = bench.add(bench.who(), bench.what(1))
    bench.stamp(first)
    bench.anchor(first)
    head = bench.who()
    bench.add(bench.when(first), replace(head, digest=bytes(32)))
    assert bench.find(bench.export(0)) == {"origin FAILED OTHER_EVENTS"}


def test_an_identity_head_that_goes_back_within_the_evidence(bench: Bench) -> None:
    bench.append("a")
    first = bench.add(bench.who(), bench.what(1))
    bench.stamp(first)
    bench.anchor(first)
    older = fold(bench.events[:2])
    second = bench.add(bench.when(first), IdentityHead(older.identity, older.seq, older.head))
    evidence = bench.assemble(bench.proof(0, 1), bench.show(first, 1, 2), bench.show(second, 3, 4, after=first.size))
    assert bench.find(evidence) == {"origin FAILED OTHER_EVENTS"}

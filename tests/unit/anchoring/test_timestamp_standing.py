"""What a token is worth, read off it without verifying it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from anchoring.timestamp import TimestampEvidence
from anchoring.timestamp.independence import path_keys
from anchoring.timestamp.standing import TokenStanding, token_standing

YEAR_MS = 365 * 86_400_000


def test_what_is_read(maker: Any) -> None:
    keys = path_keys([maker.signer.certificate, maker.root.certificate])
    expected = TokenStanding(keys, maker.now_ms + 1000, maker.now_ms + YEAR_MS)
    assert token_standing(maker.evidence(), [maker.authority]) == expected


def test_the_time_is_rounded_up_and_an_unstated_accuracy_is_a_second(maker: Any, change: Any) -> None:
    info = {"gen_time": maker.now + timedelta(microseconds=1), "accuracy": None}
    standing = token_standing(maker.evidence(change(info=info)), [maker.authority])
    assert standing is not None
    assert standing.existence_ms == maker.now_ms + 1001


@pytest.mark.parametrize(("revoked_ms", "until_ms"), [(60_000, 60_000), (2 * YEAR_MS, YEAR_MS)])
def test_it_ends_with_the_certificate_or_its_revocation(maker: Any, revoked_ms: int, until_ms: int) -> None:
    authority = replace(maker.authority, revoked_ms=maker.now_ms + revoked_ms)
    standing = token_standing(maker.evidence(), [authority])
    assert standing is not None
    assert standing.until_ms == maker.now_ms + until_ms


def test_the_first_certificate_of_the_path_to_end_counts(maker: Any) -> None:
    middle = maker.issue("Middle", issuer=maker.root, ca=True, eku=None, not_after=timedelta(days=9))
    signer = maker.issue("TSA", issuer=middle)
    evidence = TimestampEvidence(maker.response(signer=signer), (middle.der,))
    standing = token_standing(evidence, [maker.authority])
    assert standing is not None
    assert standing.until_ms == maker.now_ms + 9 * 86_400_000
    assert len(standing.keys) == 3


def test_nothing_of_strangers_and_of_what_cannot_be_read(maker: Any) -> None:
    good = maker.evidence()
    assert token_standing(good, []) is None
    assert token_standing(good, [replace(maker.authority, policy_oid="1.2.3")]) is None
    assert token_standing(TimestampEvidence(b"0"), [maker.authority]) is None
    assert token_standing(good, [replace(maker.authority, root=maker.issue("Root", ca=True).der)]) is None
    assert token_standing(good, [replace(maker.authority, root=b"?")]) is None

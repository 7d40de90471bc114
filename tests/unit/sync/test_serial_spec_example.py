"""The worked examples of docs/spec/serial.md."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.errors import MalformedError
from ledger.entry import Entry, encode_entry, parse_entry
from ledger.values import Reference
from sync.clock import reading_at
from sync.content import read_entry
from sync.serial import (
    HomeEntry,
    Proposal,
    Rejection,
    Why,
    carries_out,
    home_entry,
    parse_home,
    parse_proposal,
    parse_rejection,
    proposal_entry,
    rejection_entry,
)
from sync.transaction import DocumentId, Guard, Op, Stamp, Transaction, Verb

SPEC = (Path(__file__).resolve().parents[3] / "docs" / "spec" / "serial.md").read_text("utf-8")
STAMP = Stamp(b"\1" * 32, Reference(b"\2" * 32, 4, b"\4" * 32), (), 9, reading_at(1_800_000_000_000))
SEAT = DocumentId("seats", "12a")
PROPOSAL = Proposal(
    Transaction(STAMP, (Op(Verb.SET, SEAT, ("owner",), "Novak"),), (Guard(SEAT, None),)),
    (Reference(b"\3" * 32, 7, b"\5" * 32),),
)
REFUSAL = Rejection(STAMP, Reference(b"\6" * 32, 5, b"\7" * 32), Why.STALE, "seats/12a")
NAMED = HomeEntry(STAMP, "seats", b"\3" * 32)
CASES = [
    ("proposal", PROPOSAL, proposal_entry, parse_proposal),
    ("refusal", REFUSAL, rejection_entry, parse_rejection),
    ("home", NAMED, home_entry, parse_home),
]


@pytest.mark.parametrize(("name", "content", "make", "parse"), CASES)
def test_the_examples_are_what_their_inputs_give(name, content, make, parse) -> None:  # type: ignore[no-untyped-def]
    (fence,) = re.findall(rf"```text\n{name} =\n(.*?)```", SPEC, re.DOTALL)
    stated = bytes.fromhex("".join(fence.split()))
    assert encode_entry(make(content)) == stated
    assert parse(parse_entry(stated)) == content


@pytest.mark.parametrize(("name", "content", "make", "parse"), CASES)
@given(data=st.data())
def test_what_is_not_in_the_format_is_refused(name, content, make, parse, data) -> None:  # type: ignore[no-untyped-def]
    """A member left out, one more, or something else in its place: refused, or read as what has just these bytes."""
    entry = make(content)
    key = data.draw(st.sampled_from([*sorted(entry.body), "more"]))
    body = dict(entry.body)
    if key != "more" and data.draw(st.booleans()):
        del body[key]
    else:
        held = body.get(key)
        values = st.sampled_from([7, -1, "x", b"x", None, [], {}, ["x"], [[b"\3" * 32, 7]], True])
        body[key] = data.draw(values.filter(lambda value: value != held))
    spoilt = Entry(entry.kind, entry.claimed_ms, body)
    assert read_entry(spoilt).kind == entry.kind
    try:
        found = parse(spoilt)
    except MalformedError:
        assert read_entry(spoilt).content is None
    else:
        assert found != content
        assert encode_entry(make(found)) == encode_entry(spoilt)


def test_terms_stand_in_ascending_order_and_no_two_are_one() -> None:
    entry = proposal_entry(PROPOSAL)
    terms = entry.body["terms"]
    for wrong in ([*terms, *terms], [[b"\4" * 32, 0, b"\5" * 32], *terms]):  # type: ignore[misc]
        with pytest.raises(MalformedError):
            parse_proposal(Entry(entry.kind, entry.claimed_ms, {**entry.body, "terms": wrong}))


def test_what_is_carried_out_is_what_was_proposed_byte_for_byte() -> None:
    proposed = Proposal(replace(PROPOSAL.transaction, ops=(Op(Verb.SET, SEAT, ("sold",), 1),)), PROPOSAL.terms)
    later = replace(proposed.transaction, stamp=replace(STAMP, lamport=10), decides=REFUSAL.of)
    assert carries_out(later, proposed)
    assert not carries_out(replace(later, ops=(Op(Verb.SET, SEAT, ("sold",), True),)), proposed)
    assert not carries_out(replace(later, guards=()), proposed)
    assert not carries_out(replace(later, note="more"), proposed)

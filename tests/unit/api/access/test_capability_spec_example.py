"""The worked examples of docs/spec/capability.md and docs/spec/visit.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import biscuit_auth

from api.access.action import VISITABLE, Action, Operation
from api.access.capability import Narrowing, Scope, Terms, attenuate, mint
from api.access.records import Visit, action_fields, parse_record, record_entry, terms_digest
from identity.keys import Ed25519Signer
from ledger.entry import encode_entry, parse_entry

SPEC = Path(__file__).resolve().parents[4] / "docs" / "spec"
CAPABILITY = (SPEC / "capability.md").read_text("utf-8")
VISIT = (SPEC / "visit.md").read_text("utf-8")

DEVICE, HOLDER = Ed25519Signer(b"\1" * 32).public_key, Ed25519Signer(b"\2" * 32).public_key
TERMS = Terms(
    HOLDER,
    b"\7" * 32,
    frozenset({Operation.READ, Operation.UPDATE}),
    1_800_003_600,
    (Scope("accounts", "47"), Scope("branches")),
    frozenset({"owner", "limit"}),
    True,
    30,
    "monthly report",
)


def test_the_blocks_are_what_their_terms_give() -> None:
    grant, narrowing = re.findall(r"```text\n(.*?)```", CAPABILITY, re.DOTALL)
    token = mint(b"\1" * 32, TERMS, 1_800_000_000)
    less = Narrowing(operations=frozenset({Operation.READ}), expires_s=1_800_000_600, rate=5, note="for a colleague")
    library: Any = biscuit_auth
    root = library.PublicKey.from_bytes(DEVICE, library.Algorithm.Ed25519)
    read = library.Biscuit.from_bytes(attenuate(token, DEVICE, less), root)
    assert [read.block_source(0), read.block_source(1)] == [grant, narrowing]


def test_the_operations_that_a_token_can_allow() -> None:
    (row,) = re.findall(r"^\| `operation` \| some of (.*), ascending", CAPABILITY, re.MULTILINE)
    assert set(re.findall(r"`([a-z]+)`", row)) == set(VISITABLE)


def test_the_visit_is_what_its_inputs_give() -> None:
    action = Action(Operation.READ, b"\7" * 32, "accounts", "4711", frozenset({"balance"}))
    visit = Visit(
        1_800_000_000_000, b"\5" * 32, (b"\6" * 64,), HOLDER, action_fields(action), "FIELDS", terms_digest(TERMS)
    )
    (fence,) = re.findall(r"```text\nentry =\n(.*?)```", VISIT, re.DOTALL)
    stated = bytes.fromhex("".join(fence.split()))
    assert encode_entry(record_entry(visit)) == stated
    assert parse_record(parse_entry(stated)) == visit
    assert terms_digest(TERMS).hex() in VISIT

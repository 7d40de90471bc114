"""The worked example of docs/spec/transaction.md."""

from __future__ import annotations

import re
from pathlib import Path

from identity.keys import Ed25519Signer
from ledger.entry import encode_entry, parse_entry
from ledger.values import Reference
from sync.clock import reading_at
from sync.intent import sign_intent
from sync.transaction import (
    DocumentId,
    Guard,
    Op,
    Stamp,
    Transaction,
    Verb,
    entry_id,
    parse_transaction,
    transaction_entry,
)

SPEC = (Path(__file__).resolve().parents[3] / "docs" / "spec" / "transaction.md").read_text("utf-8")

ACCOUNT = DocumentId("accounts", "4711")
EXAMPLE = Transaction(
    Stamp(
        database=b"\1" * 32,
        back=Reference(b"\2" * 32, 4, b"\4" * 32),
        deps=(Reference(b"\3" * 32, 7, b"\5" * 32),),
        lamport=9,
        reading=reading_at(1_800_000_000_000),
    ),
    (
        Op(Verb.SET, ACCOUNT, ("owner",), "Novak"),
        Op(Verb.INC, ACCOUNT, ("balance",), {"$dec": "12.30"}),
    ),
    (Guard(ACCOUNT, "1.K5rW5XlQW0Yb3nNq5n1E"),),
    "opened at the counter",
)


def test_the_example_is_what_its_inputs_give() -> None:
    (fence,) = re.findall(r"```text\nentry =\n(.*?)```", SPEC, re.DOTALL)
    stated = bytes.fromhex("".join(fence.split()))
    assert encode_entry(transaction_entry(EXAMPLE)) == stated
    assert parse_transaction(parse_entry(stated)) == EXAMPLE
    assert f'"hlc": {EXAMPLE.stamp.reading}' in SPEC


def test_the_intent() -> None:
    found = {
        name: bytes.fromhex("".join(text.split()))
        for name, text in re.findall(r"(statement|digest|signature) =\n((?: +[0-9a-f]+\n)+)", SPEC)
    }
    ops = [Op(Verb.SET, ACCOUNT, ("owner",), "Novak")]
    intent = sign_intent(Ed25519Signer(b"\2" * 32), b"\1" * 32, ops, sequence=7)
    assert found == {
        "statement": intent.statement(),
        "digest": intent.digest(),
        "signature": intent.mark.signature,
    }


def test_the_entry_id() -> None:
    assert entry_id(Reference(b"\2" * 32, 5, b"\6" * 32)).hex() in SPEC

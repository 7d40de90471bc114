"""Receipts that are too large to have a digest: the verifier judges them like any other."""

from __future__ import annotations

from typing import Any, TypeAlias

from anchoring.receipt import AnchorReceipt
from ledger.statement import AnchorStatement

Bench: TypeAlias = Any


def test_a_receipt_too_large_to_be_encoded(bench: Bench) -> None:
    bench.append("a")
    first = bench.add(bench.who(), bench.what(1))
    bench.stamp(first)
    bench.receipts[first.size] = AnchorReceipt(bytes(1 << 20), (), ((), ()))
    named = AnchorStatement(first.size, bytes(32), 1, bytes(32))
    second = bench.add(bench.when(first), named, bench.who())
    evidence = bench.assemble(bench.proof(0, 1), bench.show(first, 2), bench.show(second, 3, 4, 5, after=first.size))
    assert bench.find(evidence) == {"anchor FAILED MALFORMED"}
    assert bench.find(evidence, chains={}) == {"anchor INDETERMINATE UNKNOWN_CHAIN", "log FAILED UNREFERENCED"}

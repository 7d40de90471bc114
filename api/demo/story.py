"""The story that ``holdfast demo`` tells, step by step, with what was measured."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from api.bootstrap import now_ms
from api.demo import apart, attacks, network
from api.demo.bank import APPROVALS, BATCH, FEED, Bank, feed_key, transactions
from api.demo.offline import verify_offline
from api.demo.steps import Step
from identity.errors import VerificationError
from ledger.audit import audit_feed

__all__ = ["session_anchor", "tell"]

SHOWN_ENTRY = 4711
"""The transaction whose evidence is exported."""


def tell(directory: Path, sample: Path) -> Iterator[Step]:
    """Run the demonstration in ``directory`` on the transactions in ``sample``; yield each step when it is done."""
    started = time.perf_counter()
    bank = Bank.found(directory)
    yield _founding_step(bank, time.perf_counter() - started)
    yield _import_step(bank, sample)
    yield _seal_step(bank)
    yield _freshen_step(bank)
    evidence = directory / "payment.evidence.json"
    yield _evidence_step(bank, evidence)
    yield _verification_step(bank, evidence)
    for attack in attacks.ATTACKS:
        yield _attack_step(attack, bank)
    yield from apart.tell(bank, sample)
    yield from network.tell(bank, apart.ACCOUNT)


def _founding_step(bank: Bank, seconds: float) -> Step:
    founded = bank.founded
    return Step(
        "A bank opens its vault",
        (
            f"Identity {founded.identity.hex()}",
            f"with two devices, {' and '.join(founded.devices)}, each with a key of its own,",
            "and a contract on the (development) chain that will hold its history's fingerprints.",
        ),
        {"seconds": round(seconds, 2)},
    )


def _import_step(bank: Bank, sample: Path) -> Step:
    ring = bank.keys()
    with bank.open() as session:
        vault = session.vault
        key = vault.create_feed(ring, "branch", FEED)
        started = time.perf_counter()
        result = vault.import_blocks(ring, key, transactions(sample), batch=BATCH, on_batch=lambda _: None)
        seconds = time.perf_counter() - started
        approvals = vault.create_feed(ring, "phone", APPROVALS)
        vault.append(ring, approvals, [attacks.approval("branch limit raised", "50000.00", now_ms())])
        audit = audit_feed(vault.store, key)
    if result is None or audit.first_bad is not None:
        raise VerificationError("the import does not audit clean")
    return Step(
        f"It imports {result.length} real transactions",
        (
            f"Read from {sample.name}, every amount an exact decimal, signed {BATCH} to a signature, durable on disk:",
            f"{seconds:.2f} s, {result.length / seconds:,.0f} transactions a second.",
            f"Audited: {audit.entries} entries and {audit.bytes:,} bytes re-read under {audit.heads} signatures.",
        ),
        {"rows": result.length, "seconds": round(seconds, 3), "signatures": audit.heads, "bytes": audit.bytes},
    )


def _seal_step(bank: Bank) -> Step:
    ring = bank.keys()
    started = time.perf_counter()
    with bank.open() as session:
        checkpoint, done = bank.seal(session, ring)
    seconds = time.perf_counter() - started
    (token,) = done.tokens.values()
    anchor = session_anchor(bank)
    return Step(
        "It seals the day",
        (
            f"Checkpoint {checkpoint.size}, root {checkpoint.root.hex()},",
            f"timestamped by {token.verified.authority},",
            f"anchored in block {anchor['block']} of the development chain, final. {seconds:.2f} s.",
        ),
        {"size": checkpoint.size, "block": anchor["block"], "seconds": round(seconds, 3)},
    )


def session_anchor(bank: Bank) -> dict[str, Any]:
    """The newest final anchor of the bank's log."""
    from anchoring.storage import newest_final_anchor

    with bank.open() as session, session.vault.store.read() as tx:
        anchor = newest_final_anchor(tx.connection)
    if anchor is None:
        raise VerificationError("the anchor is not final")
    return {"size": anchor.size, "block": anchor.block_number}


def _freshen_step(bank: Bank) -> Step:
    """The next checkpoint logs token and anchor, and after them the identity's head: so it is known to be newer."""
    ring = bank.keys()
    with bank.open() as session:
        checkpoint = session.vault.checkpoint(ring, restate=True)
    return Step(
        "The next checkpoint writes token and anchor into the log",
        (f"Checkpoint {checkpoint.size}: time, chain and identity now lock each other.",),
        {"size": checkpoint.size},
    )


def _evidence_step(bank: Bank, file: Path) -> Step:
    with bank.open() as session:
        key = feed_key(session, FEED)
        started = time.perf_counter()
        data = session.vault.evidence(key, SHOWN_ENTRY)
        seconds = time.perf_counter() - started
    file.write_bytes(data)
    return Step(
        f"An auditor asks about entry {SHOWN_ENTRY}, one transaction",
        (f"The bank hands over one file, {len(data):,} bytes, made in {seconds * 1000:.0f} ms: {file.name}",),
        {"bytes": len(data), "milliseconds": round(seconds * 1000, 1)},
    )


def _verification_step(bank: Bank, file: Path) -> Step:
    done = verify_offline(file, bank.home.policy)
    if done.code != 0:
        raise VerificationError(f"the genuine evidence does not verify: {done.out}{done.err}")
    return Step(
        f"The auditor verifies it {done.isolation}",
        (*done.out.rstrip().splitlines(), "", f"Exit code {done.code}, {done.seconds:.2f} s with start-up."),
        {"exit": done.code, "seconds": round(done.seconds, 3), "isolation": done.isolation},
    )


def _attack_step(attack: attacks.Attack, bank: Bank) -> Step:
    started = time.perf_counter()
    catch = attack.run(bank)
    seconds = time.perf_counter() - started
    return Step(
        attack.title,
        (*attack.told, *(f"-> {line}" for line in catch.lines)),
        {"seconds": round(seconds, 3), **catch.figures},
        caught=catch.caught,
    )

"""The second part of the demonstration: a database in two offices that work apart.

They book real transactions on the same accounts and merge by files. Every claim that a step prints is checked in the
run that prints it; one that did not hold would end the demonstration with an error.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final

from api.asof import Axis, as_of
from api.bootstrap import now_ms
from api.demo.bank import Bank
from api.demo.offices import (
    ACCOUNTS,
    RULES,
    Booking,
    Office,
    balances,
    book,
    bookings,
    expected,
    give,
    head_office,
    introduce,
    outpost,
)
from api.demo.offline import verify_offline
from api.demo.steps import Step
from api.document_evidence import export_document_evidence
from identity.encoding import encode
from identity.errors import VerificationError
from identity.textforms import to_base64
from ledger.values import decimal_value
from sync.changes import StaleVersion
from sync.database import Database
from sync.transaction import DocumentId

__all__ = ["tell"]

_TOGETHER: Final = 4000
"""Transactions that are booked before the offices part; each of them then books its half of the others."""
_BATCH: Final = 500

ACCOUNT: Final = "485"
"""The account with the most transactions of the sample."""


@dataclass(frozen=True, slots=True)
class _Scene:
    """What the steps share: the head office, its database and the one of the outpost, and the stick between them."""

    bank: Bank
    office: Office
    branch: Database
    counter: Database
    rows: Sequence[Booking]
    stick: Path

    def swap(self) -> tuple[str, ...]:
        """Let each have what the other has. Returns the documents that show new conflicts to the head office."""
        report = give(self.counter, self.branch, self.stick)
        give(self.branch, self.counter, self.stick)
        return tuple(map(str, report.conflicts))

    def check_balances(self, database: Database, rows: Sequence[Booking]) -> int:
        """How many accounts there are. Raises when one has another balance than plain addition gives."""
        found = balances(database)
        _require(found == expected(rows), "the balances are not the sums of the bookings")
        return len(found)

    def check_equal(self) -> None:
        """Raise unless both show every document in the same version."""
        pages = [one.scan(ACCOUNTS, limit=10_000).documents for one in (self.branch, self.counter)]
        versions = [{state.name: state.etag for state in page} for page in pages]
        _require(versions[0] == versions[1], "the two offices do not show the same versions")


def tell(bank: Bank, sample: Path) -> Iterator[Step]:
    """Run the second part; yield each step when it is done."""
    rows = bookings(sample)
    directory = bank.home.root.with_name("outpost")
    stick = bank.home.root.with_name("stick.bundle")
    with head_office(bank) as office, outpost(bank, directory) as other:
        branch = office.databases.create(ACCOUNTS, device="branch")
        yield _booking_step(branch, rows)
        counter = _join(office, other, branch, stick)
        scene = _Scene(bank, office, branch, counter, rows, stick)
        yield _merge_step(scene)
        yield _stale_step(scene)
        yield _conflict_step(scene)
        yield _undo_step(scene)
        yield _as_of_step(scene)
        evidence = bank.home.root.with_name("account.evidence.json")
        yield _proof_step(scene, evidence)
        yield _altered_step(scene, evidence)


def _booking_step(branch: Database, rows: Sequence[Booking]) -> Step:
    branch.set_schema(ACCOUNTS, RULES)
    started = time.perf_counter()
    for first in range(0, _TOGETHER, _BATCH):
        book(branch, rows[first : first + _BATCH], f"transactions {first} to {first + _BATCH - 1}")
    seconds = time.perf_counter() - started
    found = balances(branch)
    _require(found == expected(rows[:_TOGETHER]), "the balances are not the sums of the bookings")
    return Step(
        "The bank keeps its accounts in a database",
        (
            f"{_TOGETHER} of the transactions are booked on {len(found)} accounts, {_BATCH} to a signed transaction,",
            f"durable: {seconds:.2f} s. Every balance is the exact sum of its bookings.",
        ),
        {"booked": _TOGETHER, "accounts": len(found), "seconds": round(seconds, 3)},
    )


def _join(office: Office, other: Office, branch: Database, stick: Path) -> Database:
    """Let the outpost have the database, as a writer."""
    introduce(office, other, branch)
    with stick.open("wb") as out:
        branch.export_bundle(out)
    with stick.open("rb") as bundle:
        info, _, joined = other.databases.receive(bundle)
    _require(joined, "the outpost has not joined the database")
    return other.databases.open_known(info.uid)


def _merge_step(scene: _Scene) -> Step:
    middle = (_TOGETHER + len(scene.rows)) // 2
    here, there = scene.rows[_TOGETHER:middle], scene.rows[middle:]
    shared = {row.account for row in here} & {row.account for row in there}
    book(scene.branch, here, "booked at the head office")
    book(scene.counter, there, "booked at the outpost")
    started = time.perf_counter()
    scene.swap()
    seconds = time.perf_counter() - started
    accounts = [scene.check_balances(one, scene.rows) for one in (scene.branch, scene.counter)]
    scene.check_equal()
    return Step(
        "Two offices work apart, and merge by a memory stick",
        (
            "An outpost with keys of its own joins by a bundle file. Then, without any network between them, the head",
            f"office books {len(here)} transactions and the outpost {len(there)}; {len(shared)} accounts are in both.",
            f"They swap bundles ({seconds:.2f} s): {accounts[0]} accounts, in the same versions at both,",
            "and every balance is again the exact sum of all bookings: none is lost, none counts twice.",
        ),
        {"here": len(here), "there": len(there), "both": len(shared), "merge_seconds": round(seconds, 3)},
    )


def _stale_step(scene: _Scene) -> Step:
    branch = scene.branch
    seen = branch.get(ACCOUNTS, ACCOUNT)
    assert seen is not None
    branch.patch(ACCOUNTS, ACCOUNT, {"limit": Decimal("5000.00")}, if_match=seen.etag, note="by a colleague")
    try:
        branch.patch(ACCOUNTS, ACCOUNT, {"limit": Decimal("900000.00")}, if_match=seen.etag)
    except StaleVersion as exc:
        refusal = str(exc)
    else:
        raise VerificationError("a write with a stale version was taken")
    _require(_limit(branch) == Decimal("5000.00"), "the refused write has left something")
    return Step(
        "A write that rests on an old version is refused",
        (
            f"Somebody decides on a limit for account {ACCOUNT} by what they read; a colleague was quicker:",
            f"{refusal}.",
        ),
        {"document": f"{ACCOUNTS}/{ACCOUNT}"},
    )


def _conflict_step(scene: _Scene) -> Step:
    scene.swap()
    scene.branch.patch(ACCOUNTS, ACCOUNT, {"limit": Decimal("20000.00")}, note="agreed on the telephone")
    scene.counter.patch(ACCOUNTS, ACCOUNT, {"limit": Decimal("35000.00")}, note="agreed at the counter")
    conflicts = scene.swap()
    _require(conflicts == (f"{ACCOUNTS}/{ACCOUNT}",), "the conflict was not caught")
    scene.check_equal()
    here, there = (_limits(one) for one in (scene.branch, scene.counter))
    _require(here == there and len(here) == 2, "a value was lost")
    state = scene.branch.get(ACCOUNTS, ACCOUNT)
    assert state is not None
    decided = max(here)
    scene.branch.resolve(ACCOUNTS, ACCOUNT, if_match=state.etag, choose={"limit": decided}, note="asked the customer")
    scene.swap()
    scene.check_equal()
    left = [list(one.conflicts()) for one in (scene.branch, scene.counter)]
    _require(left == [[], []] and _limits(scene.counter) == [decided], "the decision has not reached the outpost")
    return Step(
        "A conflict is caught, shown and decided",
        (
            f"Both offices give account {ACCOUNT} a new limit while they are apart. After a swap both show both:",
            f"{' and '.join(map(str, here))}. Neither has overwritten the other.",
            f"The head office decides for {decided}, and the next bundle tells the outpost.",
        ),
        {"values": list(map(str, here)), "decided": str(decided)},
    )


def _undo_step(scene: _Scene) -> Step:
    again = scene.rows[-_BATCH:]
    mistake = book(scene.counter, again, "the same file once more")
    assert mistake.reference is not None
    scene.swap()
    _require(balances(scene.branch) == expected([*scene.rows, *again]), "the mistake is not what it was to be")
    scene.branch.patch(ACCOUNTS, ACCOUNT, {"limit": Decimal("36000.00")}, note="written after the mistake")
    undone = scene.counter.undo(mistake.reference, note="imported twice")
    scene.swap()
    scene.check_balances(scene.branch, scene.rows)
    scene.check_equal()
    kept = undone.skipped == () and _limit(scene.counter) == Decimal("36000.00")
    _require(kept, "the undo took too much or too little")
    return Step(
        "A file that was imported twice is undone",
        (
            f"The outpost has booked {len(again)} transactions twice, and the head office has gone on since.",
            "One undo takes back these bookings and nothing else, on both; what came after it stays.",
            "The mistake, the undo and who made them stay in the history.",
        ),
        {"undone": len(again), "skipped": len(undone.skipped)},
    )


def _as_of_step(scene: _Scene) -> Step:
    session, ring, branch = scene.office.session, scene.office.ring, scene.branch
    before = _balance(branch)
    stated = branch.checkpoint_state()
    assert stated.reference is not None
    scene.bank.seal(session, ring)
    session.vault.checkpoint(ring, restate=True)
    book(branch, [Booking(ACCOUNT, Decimal("-1000.00"))], "a withdrawal after the seal")
    started = time.perf_counter()
    with branch.read() as reader:
        then = as_of(reader, Axis.ANCHORED, now_ms())
    state = branch.get(ACCOUNTS, ACCOUNT, then.cut)
    seconds = time.perf_counter() - started
    _require(state is not None and state.fields["balance"] == before, "the anchored state is another one")
    now = _balance(branch)
    _require(now == before - 1000, "the withdrawal is missing")
    scene.swap()
    documents = scene.counter.verify_state_root(stated.reference).documents
    return Step(
        "The state is sealed, and read as it was then",
        (
            f"The head office states one root over all {documents} documents, timestamps and anchors it, and goes on.",
            "The outpost rebuilds that state from the feeds alone and comes to the same root.",
            f"Account {ACCOUNT} has {now} now; as anchored in block {then.block}: {before} ({seconds * 1000:.0f} ms).",
        ),
        {"documents": documents, "block": then.block, "now": str(now), "then": str(before)},
    )


def _proof_step(scene: _Scene, file: Path) -> Step:
    data = export_document_evidence(scene.branch, DocumentId(ACCOUNTS, ACCOUNT), now_ms())
    file.write_bytes(data)
    done = verify_offline(file, scene.bank.home.policy)
    _require(done.code == 0, f"the genuine evidence does not verify: {done.out}{done.err}")
    shown, _, _ = done.out.partition("The entry that states it:")
    return Step(
        f"An auditor verifies what account {ACCOUNT} was, {done.isolation}",
        (
            f"One file, {len(data):,} bytes: {file.name}",
            *shown.rstrip().splitlines(),
            "",
            "The entry that states it passes as the payment did: who, unchanged, in the log, since when, anchored.",
            f"Exit code {done.code}, {done.seconds:.2f} s with start-up.",
        ),
        {"exit": done.code, "bytes": len(data), "seconds": round(done.seconds, 3)},
    )


def _altered_step(scene: _Scene, file: Path) -> Step:
    document = json.loads(file.read_bytes())
    (balance,) = (cell for cell in document["document"]["cells"] if cell["path"] == "/balance")
    balance["values"] = [to_base64(encode(decimal_value("999999.00")))]
    altered = file.with_name("account.altered.json")
    altered.write_text(json.dumps(document), encoding="utf-8")
    done = verify_offline(altered, scene.bank.home.policy)
    _require(done.code == 1, f"altered evidence was not refused: {done.out}{done.err}")
    shown, _, _ = done.out.partition("The entry that states it:")
    return Step(
        "The same file with another balance",
        (*shown.rstrip().splitlines(), "", f"Exit code {done.code}."),
        {"exit": done.code},
    )


def _limits(database: Database) -> list[Decimal]:
    """Every value that stands in the account's limit, in ascending order."""
    state = database.get(ACCOUNTS, ACCOUNT)
    assert state is not None
    (cell,) = (one for one in state.view.cells if one.path == "/limit")
    return sorted(Decimal(str(value["$dec"])) for value in cell.values if isinstance(value, dict))


def _limit(database: Database) -> Decimal:
    (limit,) = _limits(database)
    return limit


def _balance(database: Database) -> Decimal:
    return balances(database)[ACCOUNT]


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise VerificationError(otherwise)

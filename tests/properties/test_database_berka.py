"""Three branches of a bank that worked apart on the same accounts, with the transactions of a real one (Berka).

The accounts are opened by one; then each branch books a third of the transactions without knowing of the others:
balances are counters, who may use an account and which kinds of payment it has seen are sets, the address of its
statements a register. Accounts are closed by one while the others go on booking, and opened again. The branches give
each other bundles, and whoever takes them in, in whatever order, has to come to the same.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from io import BytesIO
from itertools import islice, permutations
from pathlib import Path
from typing import Any

import pytest

from identity.encoding import encode
from sync.cells import WRITES
from sync.changes import Changes
from sync.stateroot import state_root
from sync.storage.documents import VERBS
from sync.storage.state_leaves import leaves_now
from sync.transaction import DocumentId, Verb
from sync.vector import sees

ACCOUNTS, BOOKINGS, AT_ONCE = 40, 480, 8
SCHEMA = {
    "type": "object",
    "properties": {
        "balance": {"type": "decimal", "cell": "ctr", "indexed": True},
        "bookings": {"type": "integer", "cell": "ctr"},
        "clients": {"type": "array", "cell": "set"},
        "symbols": {"type": "array", "cell": "set"},
        "newest": {"type": "text", "cell": "lww"},
    },
}


def rows(file: Path) -> Iterator[dict[str, str]]:
    """The rows of one of the files."""
    with file.open(newline="", encoding="ascii") as stream:
        yield from csv.DictReader(stream, delimiter=";")


class Bank:
    """The files, as far as the test uses them."""

    def __init__(self, folder: Path) -> None:
        transactions = list(rows(folder / "trans.asc"))
        counted: dict[str, int] = defaultdict(int)
        for row in islice(transactions, 20_000):
            counted[row["account_id"]] += 1
        self.accounts = sorted(counted, key=lambda one: (-counted[one], one))[:ACCOUNTS]
        ours = (row for row in transactions if row["account_id"] in set(self.accounts))
        self.bookings = list(islice(ours, BOOKINGS))
        self.frequency = {row["account_id"]: row["frequency"] for row in rows(folder / "account.asc")}
        self.clients: dict[str, list[str]] = defaultdict(list)
        for row in rows(folder / "disp.asc"):
            self.clients[row["account_id"]].append(row["client_id"])

    def amounts(self, account: str) -> list[Decimal]:
        """What was booked to the account: withdrawals ("VYDAJ", "VYBER") are negative."""
        return [amount(row) for row in self.bookings if row["account_id"] == account]


def amount(row: dict[str, str]) -> Decimal:
    return Decimal(row["amount"]) * (1 if row["type"] == "PRIJEM" else -1)


def open_accounts(replica: Any, bank: Bank) -> None:
    replica.put("$schema", "accounts", schema=SCHEMA)
    changes = Changes(note="accounts")
    for account in bank.accounts:
        fields = {"frequency": bank.frequency[account], "balance": Decimal("0.00"), "clients": bank.clients[account]}
        changes.put("accounts", account, fields)
    replica.db.commit(changes)


def book(replica: Any, bank: Bank, branch: int) -> None:
    """The part of the bookings that one branch makes, some of them at once, and what else it does to accounts."""
    own = bank.bookings[branch::3]
    for start in range(0, len(own), AT_ONCE):
        changes = Changes()
        for row in own[start : start + AT_ONCE]:
            account = row["account_id"]
            changes.increment("accounts", account, "balance", amount(row))
            changes.increment("accounts", account, "bookings")
            changes.add("accounts", account, "symbols", row["k_symbol"] or "none", row["operation"] or "none")
            changes.patch("accounts", account, {"newest": row["date"]})
        replica.db.commit(changes)
    for place, account in enumerate(bank.accounts):
        if place % 5 == branch:
            replica.db.commit(manage(account, place, branch))


def manage(account: str, place: int, branch: int) -> Changes:
    """What a branch does to an account that another one may be managing, too."""
    changes = Changes()
    if place % 4 == 0:
        changes.delete("accounts", account)
    elif place % 4 == 1:
        changes.patch("accounts", account, {"frequency": f"branch {branch}"})
    elif place % 4 == 2:
        changes.remove("accounts", account, "symbols", "none")
        changes.unset("accounts", account, "bookings")
    else:
        changes.put("accounts", account, {"frequency": "closed", "clients": []})
    return changes


def edit_together(replicas: list[Any], bank: Bank) -> None:
    """What all branches do to the same accounts, each in its way."""
    for branch, replica in enumerate(replicas):
        changes = Changes()
        for account in bank.accounts[:6]:
            changes.patch("accounts", account, {"frequency": f"as branch {branch} says"})
            changes.add("accounts", account, "clients", f"client of branch {branch}")
        if branch == 1:
            changes.delete("accounts", bank.accounts[7])
            changes.remove("accounts", bank.accounts[8], "clients", *bank.clients[bank.accounts[8]])
        replica.db.commit(changes)


def bundle_of(replica: Any) -> bytes:
    file = BytesIO()
    replica.db.export_bundle(file)
    return file.getvalue()


def table(replica: Any, query: str) -> list[Any]:
    """Rows as the store has them."""
    with replica.store.read() as tx:
        return list(tx.fetch_all(query))


def shown(replica: Any) -> dict[DocumentId, Any]:
    """Every document: its ETag, what it shows, and its conflicts."""
    found = {}
    with replica.db.read() as reader:
        for collection, key in table(replica, "SELECT collection, key FROM database_document"):
            state = reader.document(DocumentId(collection, key))
            found[state.name] = (state.etag, state.view.fields, state.view.deleted, set(state.view.conflicts))
    return found


def root_of(replica: Any) -> bytes:
    with replica.db.read() as reader:
        return state_root(leaves_now(reader))


def check_nothing_is_lost(replica: Any) -> None:
    """Every value that was ever written is live and shown, or was replaced by an entry that had seen it."""
    with replica.db.read() as reader:
        txns = {row[0]: row[1:] for row in table(replica, "SELECT place, branch, seq, masked FROM database_txn")}
        assert not any(masked for _, _, masked in txns.values())
        ops = table(replica, "SELECT place, branch, seq, op, document, path, verb, val, dead FROM database_op")
        names = dict(table(replica, "SELECT id, collection || '/' || key FROM database_document"))
        entry_of = {place: (branch, seq) for place, branch, seq, *_ in ops}
        for _, branch, seq, _, document, path, verb, val, dead in ops:
            if dead is None and VERBS[verb] not in (Verb.INC, Verb.HIDE, Verb.LWW):
                state = reader.document(DocumentId(*names[document].split("/")))
                cells = [cell for cell in state.view.cells if cell.path == path]
                assert val in {encode(value) for cell in cells for value in cell.values}
            elif dead is not None and VERBS[verb] in WRITES:
                killer = entry_of[dead]
                past = {**reader.branches.past_of(*killer), killer[0]: killer[1]}
                assert sees(past, branch, seq)


@pytest.fixture
def branches(make_world: Any, tmp_path: Path) -> Iterator[Any]:
    world = make_world(tmp_path, "bank")
    yield world
    world.close()


def test_branches_that_worked_apart_agree(branches: Any, shared: Path) -> None:
    bank = Bank(shared / "data" / "berka")
    replicas = [branches.replica(f"branch-{number}") for number in range(3)]
    open_accounts(replicas[0], bank)
    branches.exchange()
    for number, replica in enumerate(replicas):
        book(replica, bank, number)
    edit_together(replicas, bank)
    bundles = [bundle_of(replica) for replica in replicas]
    for replica in replicas:
        for bundle in bundles:
            replica.db.import_bundle(BytesIO(bundle))
    expected, root = shown(replicas[0]), root_of(replicas[0])
    assert all((shown(replica), root_of(replica)) == (expected, root) for replica in replicas)
    for number, order in enumerate(permutations(bundles)):
        late = branches.newcomer(f"late-{number}")
        for bundle in order:
            late.db.import_bundle(BytesIO(bundle))
        assert (shown(late), root_of(late)) == (expected, root)
    check_nothing_is_lost(replicas[1])
    check_sums(bank, expected)
    stated = [replica.db.checkpoint_state().reference for replica in replicas]
    branches.exchange(*(replica.name for replica in replicas))
    for reference in stated:
        replicas[2].db.verify_state_root(reference)
    assert replicas[0].db.rival_state_roots() == []
    assert [replica.db.audit() for replica in replicas] == [[], [], []]


def check_sums(bank: Bank, found: dict[DocumentId, Any]) -> None:
    """Balances are the sums of all bookings, to the last digit, but of accounts whose balance somebody has reset."""
    together, conflicts = 0, 0
    for place, account in enumerate(bank.accounts):
        _, fields, deleted, what = found[DocumentId("accounts", account)]
        conflicts += bool(what)
        if place % 5 < 3 and place % 4 == 3:
            continue
        together += 1
        assert not deleted or place % 4 == 0
        assert fields["balance"] == {"$dec": f"{sum(bank.amounts(account), Decimal('0.00')):f}"}
    assert together > ACCOUNTS / 2
    assert conflicts > 6

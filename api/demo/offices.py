"""The bank's two offices: one database of accounts in two homes, which give each other bundles on a memory stick."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final, NamedTuple

from anchoring.tsa.dev import DevelopmentAuthority
from api.bootstrap import Session, now_ms, open_session
from api.databases import Databases
from api.demo.bank import COLUMNS, Bank
from api.founding import Founding, found_home
from api.home import Home
from api.members import admit
from api.root_events import bind_log_event
from api.settings import default_settings_text, load_settings
from api.tabular import parse_columns, read_csv
from identity.encoding import Value
from identity.event import DeviceClass
from identity.keystore import KeyRing, open_keystore
from ledger.identities import add_events
from ledger.values import to_python
from sync.acts import Role
from sync.changes import Changes
from sync.database import Commit, Database
from sync.exchange import ImportReport

__all__ = [
    "ACCOUNTS",
    "RULES",
    "Booking",
    "Office",
    "balances",
    "book",
    "bookings",
    "expected",
    "give",
    "head_office",
    "introduce",
    "outpost",
]

ACCOUNTS: Final = "accounts"
"""The database, and its one collection."""

RULES: Final = {
    "type": "object",
    "properties": {
        "balance": {"type": "decimal", "cell": "ctr"},
        "limit": {"type": "decimal", "minimum": Decimal("0.00")},
    },
    "additionalProperties": False,
}

_PASSPHRASE = "outpost"  # noqa: S105  (the home is thrown away)
_CREDIT: Final = "PRIJEM"


class Booking(NamedTuple):
    """A transaction of the sample: how much an account's balance rises or falls."""

    account: str
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Office:
    """A home that is open, with its keys and its databases."""

    session: Session
    ring: KeyRing
    databases: Databases


def bookings(sample: Path) -> list[Booking]:
    """The sample's rows. What the source calls neither credit nor debit is a withdrawal."""
    with sample.open("rb") as stream:
        rows = [dict(row.fields) for row in read_csv(stream, parse_columns(COLUMNS), name=sample.name, delimiter=";")]
    return [_booking(row) for row in rows]


def _booking(row: Mapping[str, Value]) -> Booking:
    amount = to_python(row["amount"])
    assert isinstance(amount, Decimal)
    return Booking(str(row["account_id"]), amount if row["type"] == _CREDIT else amount.copy_negate())


def book(accounts: Database, rows: Iterable[Booking], note: str) -> Commit:
    """Add every amount to the balance of its account, all of them in one transaction."""
    changes = Changes(note=note)
    for row in rows:
        changes.increment(ACCOUNTS, row.account, "balance", row.amount)
    return accounts.commit(changes)


def balances(accounts: Database) -> dict[str, Decimal]:
    """The balance of every account, as the database shows it."""
    page = accounts.scan(ACCOUNTS, limit=10_000)
    return {state.name.key: state.fields["balance"] for state in page.documents}


def expected(rows: Iterable[Booking]) -> dict[str, Decimal]:
    """The balances by plain addition."""
    found: dict[str, Decimal] = defaultdict(Decimal)
    for row in rows:
        found[row.account] += row.amount
    return dict(found)


def give(source: Database, target: Database, file: Path) -> ImportReport:
    """Write what ``source`` has into a file, and let ``target`` take it in."""
    with file.open("wb") as out:
        source.export_bundle(out)
    with file.open("rb") as bundle:
        return target.import_bundle(bundle)


@contextmanager
def head_office(bank: Bank) -> Iterator[Office]:
    """The bank's own home, open for writing."""
    ring = bank.keys()
    with bank.open() as session, Databases(session, ring) as databases:
        yield Office(session, ring, databases)


@contextmanager
def outpost(bank: Bank, directory: Path) -> Iterator[Office]:
    """A second home with an identity of its own, founded in ``directory``. It has no chain."""
    founding = Founding(
        label="Outpost",
        devices={"counter": DeviceClass.DEVICE},
        log_name="outpost.example",
        chain=None,
        fund=None,
        authorities=[DevelopmentAuthority(bank.outside / "tsa").authority],
        settings=default_settings_text({"kind": "none"}, [{"kind": "dev"}]),
    )
    home = Home(directory)
    found_home(home, founding, _PASSPHRASE, now_ms=now_ms())
    ring = open_keystore(home.keystore, _PASSPHRASE)
    with open_session(home, load_settings(home, bank.environ)) as session, Databases(session, ring) as databases:
        yield Office(session, ring, databases)


def introduce(office: Office, other: Office, accounts: Database) -> None:
    """Let the office know who the other one is, and admit it as a writer.

    The other one lets the office's log speak for its entries, so that they are timestamped and anchored there as well.
    """
    vault, (log_id, _) = other.session.vault, office.session.vault.log_descriptor()
    vault.sign_event_by_root(other.ring, bind_log_event(log_id, now_ms()))
    identity, events = vault.history().identity, vault.signed_events()
    with office.session.vault.store.write() as tx:
        add_events(tx, identity, events)
    admit(accounts, office.session.vault.history().identity, identity, Role.WRITER)

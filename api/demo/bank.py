"""The bank of the demonstration: a home with two devices, and real transactions in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from anchoring.policy import Policy
from anchoring.policy_file import load_policy
from anchoring.tsa.dev import DevelopmentAuthority
from anchoring.worker import Round, run_round
from api.bootstrap import Session, now_ms, open_dev_chain, open_session
from api.founding import Founded, Founding, found_home
from api.home import Home
from api.settings import default_settings_text, load_settings
from api.tabular import parse_columns, read_csv
from identity.event import DeviceClass
from identity.keystore import KeyRing, open_keystore
from ledger.entry import encode_record
from ledger.storage.location import PostgresLocation
from ledger.store import FeedKey, StoredCheckpoint

__all__ = ["COLUMNS", "FEED", "Bank", "feed_key", "transactions"]

COLUMNS = (
    "trans_id:int,account_id:int,date:date(%y%m%d),type:text,operation:text?,amount:dec,balance:dec,"
    "k_symbol:text?,bank:text?,account:int?"
)
"""The columns of the sample: examples/README.md says where it comes from."""

FEED = "transactions"
APPROVALS = "approvals"
BATCH = 500

_PASSPHRASE = "demonstration"  # noqa: S105  (the home is thrown away)
_COINS = 10**20


@dataclass(frozen=True, slots=True)
class Bank:
    """Where the bank's home and the outside world (chain, authority) lie, and what was founded."""

    home: Home
    outside: Path
    founded: Founded

    @classmethod
    def found(cls, directory: Path, database: PostgresLocation | None = None) -> Bank:
        """Found the bank's home in ``directory``: identity, two devices, contract, log.

        Its store is a file in the home, or is made in ``database``.
        """
        outside = directory / "outside"
        with open_dev_chain(outside) as chain:
            founding = Founding(
                label="Demonstration Bank",
                devices={"branch": DeviceClass.DEVICE, "phone": DeviceClass.DEVICE},
                log_name="bank.example",
                chain=chain,
                fund=lambda address: chain.fund(address, _COINS),
                authorities=[DevelopmentAuthority(outside / "tsa").authority],
                settings=default_settings_text(
                    {"kind": "dev"}, [{"kind": "dev"}], database=None if database is None else database.full_url()
                ),
                database=database,
            )
            founded = found_home(Home(directory / "bank"), founding, _PASSPHRASE, now_ms=now_ms())
        return cls(Home(directory / "bank"), outside, founded)

    @property
    def environ(self) -> Mapping[str, str]:
        """The environment that a holdfast of this bank runs in."""
        return {"HOLDFAST_DEV_DIR": str(self.outside)}

    @contextmanager
    def open(self, home: Home | None = None) -> Iterator[Session]:
        """The bank's home, or a copy of it, open as any program opens it."""
        home = home or self.home
        with open_session(home, load_settings(home, self.environ)) as session:
            yield session

    def keys(self) -> KeyRing:
        """All of the bank's keys."""
        return open_keystore(self.home.keystore, _PASSPHRASE)

    def policy(self) -> Policy:
        """The policy that an auditor of the bank was given, with the headers pinned by now."""
        return load_policy(self.home.policy)

    def copy(self, name: str) -> Home:
        """A copy of the home as it is now, as a backup makes one."""
        home = Home(self.home.root.with_name(name))
        shutil.copytree(self.home.root, home.root)
        return home

    def copy_outside(self, name: str) -> Path:
        """A copy of the world outside, for an attack that must not touch the bank's own chain."""
        copy = self.outside.with_name(name)
        shutil.copytree(self.outside, copy)
        return copy

    def restore(self, copy: Home) -> None:
        """Put a copy in the place of the home."""
        shutil.rmtree(self.home.root)
        shutil.copytree(copy.root, self.home.root)

    def seal(self, session: Session, ring: KeyRing, *, restate: bool = False) -> tuple[StoredCheckpoint, Round]:
        """Checkpoint, timestamp and anchor what is new; pin the block's header for the policy."""
        checkpoint = session.vault.checkpoint(ring, restate=restate)
        log_id, descriptor = session.vault.log_descriptor()
        done = run_round(session.vault.store, log_id, descriptor, session.sources(), session.sender(ring), now_ms())
        for failure in done.failures:
            raise failure.error
        session.pin_final_anchors()
        return checkpoint, done


def transactions(sample: Path) -> Iterator[bytes]:
    """The sample's rows as encoded entries, each claiming to be written now."""
    claimed_ms = now_ms()
    with sample.open("rb") as stream:
        for row in read_csv(stream, parse_columns(COLUMNS), name=sample.name, delimiter=";"):
            yield encode_record(FEED, row.fields, claimed_ms)


def feed_key(session: Session, name: str) -> FeedKey:
    """The key of the bank's feed of that name."""
    return session.vault.find_feed(name).state.key

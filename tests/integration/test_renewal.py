"""Tokens that outlive their certificates, end to end on a home: three authorities in turn over 25 years of a clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from anchoring.evidence import parse_evidence
from anchoring.policy import Policy
from anchoring.policy_file import load_policy
from anchoring.timestamp import Authority
from anchoring.tsa.dev import DevelopmentAuthority
from anchoring.tsa.source import EmbeddedSource
from anchoring.verifier import verify_evidence
from anchoring.worker import run_round
from api.founding import Founding, found_home
from api.home import Home
from api.policy_text import policy_text
from api.pool import PoolStanding, pool_standing, trusted_by_home
from api.vault import Vault
from identity.event import DeviceClass
from identity.keystore import ONLY_FOR_TESTING, open_keystore
from ledger.entry import Entry
from ledger.storage.sqlite import open_sqlite
from ledger.store import FeedKey

START_MS = 1_767_225_600_000
DAY_MS = 86_400_000
YEAR_MS = 365 * DAY_MS


class Unguarded:
    def require_writable(self, vault: Vault) -> None:
        pass

    def meet_history(self, tx: object, incarnation: str) -> bool:
        return False

    def check_log(self, tx: object) -> None:
        """Nothing was logged elsewhere."""


class Bank:
    """A home whose log is stamped by one authority at a time; each lasts ten years."""

    def __init__(self, folder: Path) -> None:
        self.now_ms = START_MS
        self.folder = folder
        self.home = Home(folder / "home")
        self.authorities: list[Authority] = []
        self.newest = self.hire("first")
        founding = Founding(
            label="bank",
            devices={"laptop": DeviceClass.DEVICE},
            log_name="bank.example",
            chain=None,
            fund=None,
            authorities=self.authorities,
            settings="",
            kdf=ONLY_FOR_TESTING,
        )
        self.founded = found_home(self.home, founding, "passphrase", now_ms=START_MS)
        self.ring = open_keystore(self.home.keystore, "passphrase")
        self.vault = Vault(open_sqlite(self.home.database), Unguarded())

    def hire(self, name: str) -> DevelopmentAuthority:
        """Another authority, which stamps from now on."""
        self.newest = DevelopmentAuthority(self.folder / name, clock=lambda: self.now_ms)
        self.authorities.append(self.newest.authority)
        return self.newest

    def trust(self) -> None:
        """Write all that were hired into the home's policy."""
        text = policy_text(self.founded.identity, self.founded.log_id, self.authorities, None, b"")
        self.home.policy.write_text(text, encoding="utf-8")

    def seal(self) -> int:
        """A checkpoint that states the tokens so far, and a token on it."""
        size = self.vault.checkpoint(self.ring, restate=True).size
        log_id, descriptor = self.vault.log_descriptor()
        done = run_round(self.vault.store, log_id, descriptor, [EmbeddedSource(self.newest)], None, self.now_ms)
        assert done.succeeded
        self.now_ms += DAY_MS
        return size

    def standing(self, size: int) -> PoolStanding:
        with self.vault.store.read() as tx:
            return pool_standing(tx.connection, size, *trusted_by_home(self.home))

    def evidence(self, key: FeedKey) -> bytes:
        return self.vault.evidence(key, 0, *trusted_by_home(self.home))

    def policy(self) -> Policy:
        return load_policy(self.home.policy)


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    made = Bank(tmp_path)
    with closing(made.vault):
        yield made


def test_a_token_counts_long_after_its_certificate(bank: Bank) -> None:
    key = bank.vault.create_feed(bank.ring, "laptop", "ledger")
    bank.vault.append(bank.ring, key, [Entry("note", 0, {})])
    first = bank.seal()
    existed = bank.now_ms
    bank.seal()
    assert bank.standing(first) == PoolStanding(1, START_MS + 10 * YEAR_MS)
    for years, name in ((9, "second"), (18, "third")):
        bank.now_ms = START_MS + years * YEAR_MS
        bank.hire(name)
        bank.trust()
        assert bank.standing(bank.seal()).expires_ms == START_MS + (years + 10) * YEAR_MS
        bank.seal()
    bank.now_ms = START_MS + 25 * YEAR_MS
    for _ in range(2):
        bank.seal()

    shown = bank.evidence(key)
    report = verify_evidence(shown, bank.policy(), bank.now_ms)
    assert report.exit_code == 0, report.to_text()
    assert report.facts["existed_by"] < existed, "the first token still says when"
    assert len(parse_evidence(shown).checkpoints) <= 6, "a step for each generation of certificates"

    plain = bank.vault.evidence(key, 0)
    without = verify_evidence(plain, bank.policy(), bank.now_ms)
    assert (without.exit_code, "EXPIRED_NO_POE" in without.to_text()) == (2, True), "nothing shows that it is older"
    assert verify_evidence(shown, bank.policy(), bank.now_ms + 4 * YEAR_MS).exit_code == 2, "and it ends again"


def test_nothing_is_shown_while_nothing_is_gained(bank: Bank) -> None:
    key = bank.vault.create_feed(bank.ring, "laptop", "ledger")
    bank.vault.append(bank.ring, key, [Entry("note", 0, {})])
    for _ in range(5):
        bank.seal()
    assert bank.evidence(key) == bank.vault.evidence(key, 0)


def test_a_renewal_that_came_too_late_renews_nothing(bank: Bank) -> None:
    key = bank.vault.create_feed(bank.ring, "laptop", "ledger")
    bank.vault.append(bank.ring, key, [Entry("note", 0, {})])
    bank.seal()
    bank.now_ms = START_MS + 11 * YEAR_MS
    bank.hire("second")
    bank.trust()
    for _ in range(2):
        bank.seal()
    report = verify_evidence(bank.evidence(key), bank.policy(), bank.now_ms)
    assert (report.exit_code, "EXPIRED_NO_POE" in report.to_text()) == (2, True)


def test_a_revocation_that_is_learned_of_later(bank: Bank) -> None:
    """The second authority had stamped what states the first one's token before the first one's key was lost."""
    key = bank.vault.create_feed(bank.ring, "laptop", "ledger")
    bank.vault.append(bank.ring, key, [Entry("note", 0, {})])
    bank.seal()
    bank.hire("second")
    bank.trust()
    for _ in range(2):
        bank.seal()
    lost_ms = bank.now_ms
    bank.now_ms += 10 * DAY_MS
    revoked = [replace(bank.authorities[0], revoked_ms=lost_ms), bank.authorities[1]]
    policy = replace(bank.policy(), authorities=tuple(revoked))
    shown = bank.vault.evidence(key, 0, revoked, 1)
    assert verify_evidence(shown, policy, bank.now_ms).exit_code == 0
    unaware = verify_evidence(bank.vault.evidence(key, 0, bank.authorities[:1], 1), policy, bank.now_ms)
    assert (unaware.exit_code, "REVOKED_NO_POE" in unaware.to_text()) == (2, True)
    earlier = [replace(bank.authorities[0], revoked_ms=START_MS + DAY_MS), bank.authorities[1]]
    report = verify_evidence(shown, replace(policy, authorities=tuple(earlier)), bank.now_ms)
    assert report.exit_code == 2, "before the second authority had seen anything"

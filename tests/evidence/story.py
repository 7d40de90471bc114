"""What the banks do, and the genuine evidence that comes of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from banks import LEDGER, TILL, Bank, Clerk
from cases import Origin, Trust

from anchoring.evidence import Evidence
from ledger.statement import AnchorStatement, IdentityHead, TimeStatement

__all__ = ["Story", "tell"]

DAY_MS = 86_400_000


@dataclass(frozen=True)
class Story:
    """Everything the cases are made from."""

    bank: Bank
    genuine: Origin
    later: Origin
    revoked: Origin
    repudiated: Origin
    two_clerks: Origin
    renewed: Origin
    renewed_late: Origin
    backdated: Origin
    unchained: Origin


def tell(directory: Path) -> Story:
    """Found the banks and let them work."""
    bank = Bank.found(directory, "bank", [Clerk(directory, "clerk")])
    for feed, amounts in ((LEDGER, ("12.30", "4.00", "0.99")), (LEDGER, ("700.00", "25.10")), (TILL, ("3.50", "8.00"))):
        bank.book(feed, *amounts)
    bank.book(TILL, "1.20")
    bank.seal()
    bank.checkpoint()
    genuine = bank.evidence(LEDGER, 3)
    bank.book(LEDGER, "19.95")
    bank.seal()
    bank.checkpoint()
    later = bank.evidence(LEDGER, 5)
    bank.revoke_phone(vouched=2)
    bank.seal()
    bank.checkpoint()

    other = Bank.found(directory, "other", [Clerk(directory, "first"), Clerk(directory, "second")])
    other.book(LEDGER, "12.30", "4.00", "0.99", "700.00")
    other.seal()
    other.checkpoint()
    trust, other_trust = trust_of(bank), trust_of(other).with_policy("k = 1", "k = 2")
    return Story(
        bank,
        Origin(genuine, trust),
        Origin(later, trust),
        Origin(bank.evidence(TILL, 1), trust),
        Origin(bank.evidence(TILL, 2), trust),
        Origin(other.evidence(LEDGER, 3), other_trust),
        renewed(directory, "renewed", 3_640, 3_660),
        renewed(directory, "late", 3_655, 3_660),
        backdated(directory),
        unchained(directory),
    )


def renewed(directory: Path, label: str, days: int, at_days: int) -> Origin:
    """Evidence whose token was logged, and that log timestamped by another authority, ``days`` later."""
    clerk = Clerk(directory, f"{label}-first")
    bank = Bank.found(directory, label, [clerk, Clerk(directory, f"{label}-second", ahead_ms=days * DAY_MS)])
    evidence, trust = witnessed_again(bank)
    return Origin(evidence, replace(trust, at=trust.at + timedelta(days=at_days)))


def backdated(directory: Path) -> Origin:
    """Evidence with a later checkpoint whose token states an hour ago, though the log names a newer block."""
    clerk = Clerk(directory, "punctual")
    bank = Bank.found(directory, "backdated", [clerk, Clerk(directory, "slow", ahead_ms=-3_600_000)])
    evidence, trust = witnessed_again(bank)
    return Origin(bank.with_leaf(evidence, AnchorStatement, 1), trust)


def unchained(directory: Path) -> Origin:
    """Evidence from a log that has no chain, under a policy that demands no anchor."""
    bank = Bank.found(directory, "unchained", [Clerk(directory, "lone")], anchored=False)
    bank.book(LEDGER, "12.30")
    bank.seal()
    bank.checkpoint()
    return Origin(bank.evidence(LEDGER, 0), trust_of(bank))


def witnessed_again(bank: Bank) -> tuple[Evidence, Trust]:
    """Three checkpoints: timestamped by the bank's first clerk and anchored; by the second; and the newest."""
    first, second = bank.clerks
    bank.book(LEDGER, "12.30")
    bank.seal(clerks=[first])
    again = bank.checkpoint()
    bank.stamp(second)
    newest = bank.checkpoint()
    shown = [(again, [TimeStatement]), (newest, [TimeStatement, IdentityHead])]
    return bank.with_checkpoints(bank.evidence(LEDGER, 0), shown), trust_of(bank)


def trust_of(bank: Bank) -> Trust:
    """The bank's own policy and pinned headers, and a time a minute from now."""
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=1)
    return Trust(bank.home.policy.read_text(), bank.home.headers.read_text(), at)

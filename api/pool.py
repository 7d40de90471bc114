"""The pool of timestamp authorities, as a home's settings and policy have it (docs/spec/timestamp.md, section 13)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import Connection

from anchoring.policy import MAX_POLICY_BYTES, parse_policy
from anchoring.policy_file import read_bounded
from anchoring.storage import load_timestamps
from anchoring.timestamp import Authority, TimestampEvidence
from anchoring.timestamp.certificates import load_certificate
from anchoring.timestamp.independence import group_independent, path_keys
from anchoring.timestamp.standing import combine_standings, token_standing
from anchoring.tsa.backoff import MAX_TROUBLES_BYTES, Trouble, encode_troubles, parse_troubles
from anchoring.tsa.pool import PoolPolicy
from api.home import Home
from api.settings import Settings
from identity.durable import replace_file
from identity.errors import AuditError, ConfigurationError, StorageError

__all__ = [
    "PoolStanding",
    "check_independence",
    "keep_troubles",
    "load_troubles",
    "pool_policy",
    "pool_standing",
    "trusted_by_home",
]


@dataclass(frozen=True, slots=True)
class PoolStanding:
    """How the tokens of one checkpoint stand.

    ``authorities`` independent ones that the home's policy trusts have stamped it. ``expires_ms`` is when the tokens
    cease to count by themselves: fewer than k certificates are left then. None when they are too few already.
    """

    authorities: int
    expires_ms: int | None


def pool_policy(settings: Settings) -> PoolPolicy:
    """How the settings want authorities asked."""
    wanted = settings.timestamps
    return PoolPolicy(wanted.k, wanted.ask == "all", wanted.parallel, wanted.patience_s)


def check_independence(authorities: Sequence[Authority], k: int) -> None:
    """Raise ``ConfigurationError`` when these can never be k: some of them are under one root key."""
    roots = [path_keys([load_certificate(authority.root)]) for authority in authorities]
    count = len(group_independent(roots))
    if authorities and count < k:
        raise ConfigurationError(
            f"timestamps.k is {k}, and the authorities are under {count} root keys: those that share one count once"
        )


def trusted_by_home(home: Home) -> tuple[Sequence[Authority], int]:
    """The authorities and ``k`` of the home's own policy; none and 1 for a home whose policy was put away.

    Raises ``ConfigurationError`` for a policy that cannot be used.
    """
    if not home.policy.exists():
        return (), 1
    policy = parse_policy(read_bounded(home.policy, MAX_POLICY_BYTES)).policy
    return policy.authorities, policy.k


def pool_standing(connection: Connection, size: int, authorities: Sequence[Authority], k: int) -> PoolStanding:
    """How the archived tokens of the checkpoint of ``size`` stand for those who trust ``k`` of these authorities."""
    tokens = [
        TimestampEvidence(stored.response, stored.certificates, stored.crls, stored.ocsps)
        for stored in load_timestamps(connection, size)
    ]
    standings = [standing for token in tokens if (standing := token_standing(token, authorities)) is not None]
    stamp = combine_standings(standings, k)
    count = len(group_independent(standing.keys for standing in standings))
    return PoolStanding(count, None if stamp is None else stamp.until_ms)


def load_troubles(home: Home) -> dict[str, Trouble]:
    """Which authorities failed lately; nothing when that is not known."""
    try:
        return parse_troubles(read_bounded(home.troubles, MAX_TROUBLES_BYTES))
    except AuditError:
        return {}


def keep_troubles(home: Home, troubles: Mapping[str, Trouble]) -> None:
    """Remember them for the next round. A home that cannot be written to forgets them, and asks too early."""
    if troubles:
        with suppress(StorageError):
            replace_file(home.troubles, encode_troubles(troubles))
    else:
        with suppress(OSError):
            home.troubles.unlink(missing_ok=True)

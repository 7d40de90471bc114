"""What an archived token is worth to a verifier, read off without verifying it (docs/spec/timestamp.md, section 13).

For those who count authorities and choose what to show. Whatever rests on a token is decided by ``verify_token``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from anchoring.timestamp.certificates import load_certificate
from anchoring.timestamp.independence import group_independent, path_keys
from anchoring.timestamp.response import parse_response
from anchoring.timestamp.verify import (
    UNSTATED_ACCURACY_MS,
    Authority,
    TimestampEvidence,
    expiry_ms,
    match_authority,
    token_path,
)
from identity.errors import AuditError

__all__ = ["Stamp", "TokenStanding", "combine_standings", "token_standing"]


@dataclass(frozen=True, slots=True)
class TokenStanding:
    """One token: whose keys are on its path, by when it says its message existed, and until when it counts by itself.

    Milliseconds UTC. After ``until_ms`` the certificate has expired or the policy says that it was revoked; then
    something has to prove that the token is older than that.
    """

    keys: frozenset[bytes]
    existence_ms: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class Stamp:
    """The tokens on one checkpoint together, as k independent authorities make them count."""

    existence_ms: int
    until_ms: int


def token_standing(evidence: TimestampEvidence, authorities: Sequence[Authority]) -> TokenStanding | None:
    """What the token is worth if it verifies; None when it is from none of the authorities, or cannot be read."""
    try:
        authority = match_authority(evidence, authorities)
        token = parse_response(evidence.response).token
        if authority is None or token is None:
            return None
        path = token_path(evidence, authority.root)
        root = load_certificate(authority.root)
    except AuditError:
        return None
    accuracy_us = token.info.accuracy_us
    accuracy_ns = UNSTATED_ACCURACY_MS * 10**6 if accuracy_us is None else accuracy_us * 1000
    ends = [expiry_ms(path)] + ([] if authority.revoked_ms is None else [authority.revoked_ms])
    return TokenStanding(
        keys=path_keys((*path, root)),
        existence_ms=-(-(token.info.gen_time_ns + accuracy_ns) // 10**6),
        until_ms=min(ends),
    )


def combine_standings(standings: Sequence[TokenStanding], k: int) -> Stamp | None:
    """By when k independent authorities say that the message existed, and until when k of them count by themselves.

    None when fewer than k of them do.
    """
    groups = [
        replace(
            standings[group[0]],
            existence_ms=min(standings[member].existence_ms for member in group),
            until_ms=max(standings[member].until_ms for member in group),
        )
        for group in group_independent(standing.keys for standing in standings)
    ]
    if len(groups) < k:
        return None
    return Stamp(
        existence_ms=sorted(group.existence_ms for group in groups)[k - 1],
        until_ms=sorted((group.until_ms for group in groups), reverse=True)[k - 1],
    )

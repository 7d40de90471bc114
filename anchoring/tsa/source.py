"""What the rest of holdfast asks of an authority: a token over these bytes, verified, with all that proves it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Protocol

from anchoring.timestamp import Authority, TimestampEvidence, VerifiedToken, verify_token
from anchoring.tsa.dev import DevelopmentAuthority
from anchoring.tsa.request import encode_request
from identity.errors import TokenRejected

__all__ = ["CLOCK_TOLERANCE_MS", "AcquiredToken", "EmbeddedSource", "TimestampSource", "accept_token", "new_nonce"]

CLOCK_TOLERANCE_MS = 300_000
"""How far an authority's time may be from ours when a token is acquired: beyond it one of the clocks is wrong."""


@dataclass(frozen=True, slots=True)
class AcquiredToken:
    """A token as it is to be archived, and what it was verified to say."""

    evidence: TimestampEvidence
    verified: VerifiedToken


class TimestampSource(Protocol):
    """An authority that can be asked for tokens."""

    @property
    def name(self) -> str:
        """How to call the source in messages."""

    @property
    def authority(self) -> Authority:
        """What its tokens are verified against."""

    def acquire(self, message: bytes, now_ms: int) -> AcquiredToken:
        """A token over ``message``, verified and complete: response, certificates and revocation data.

        ``now_ms`` is the local time, which the token's must not be far from. Raises ``TransportError`` when the
        authority cannot be reached or answers nonsense, ``TokenRejected`` when it refuses or its token fails a check,
        ``TokenUndecided`` when revocation data for it cannot be had.
        """


class EmbeddedSource:
    """The development authority, in process."""

    def __init__(self, authority: DevelopmentAuthority) -> None:
        """Tokens come from ``authority``."""
        self._authority = authority

    @property
    def name(self) -> str:
        """See ``TimestampSource``."""
        return "embedded development authority"

    @property
    def authority(self) -> Authority:
        """See ``TimestampSource``."""
        return self._authority.authority

    def acquire(self, message: bytes, now_ms: int) -> AcquiredToken:
        """See ``TimestampSource.acquire``; there is nothing to reach, so no ``TransportError``."""
        nonce = new_nonce()
        crl = self._authority.crl()
        response = self._authority.respond(encode_request(message, policy_oid=self.authority.policy_oid, nonce=nonce))
        return accept_token(TimestampEvidence(response, crls=(crl,)), message, self.authority, nonce, now_ms)


def new_nonce() -> int:
    """64 random bits: a token with this nonce was made after the request."""
    return secrets.randbits(64)


def accept_token(
    evidence: TimestampEvidence, message: bytes, authority: Authority, nonce: int, now_ms: int
) -> AcquiredToken:
    """Verify a token that has just been made. Raises as ``verify_token``, and CLOCK when its time is far from ours."""
    verified = verify_token(evidence, message, authority, at_ms=now_ms, nonce=nonce)
    if not verified.earliest_ms - CLOCK_TOLERANCE_MS <= now_ms <= verified.latest_ms + CLOCK_TOLERANCE_MS:
        difference = verified.gen_time_ms - now_ms
        raise TokenRejected("CLOCK", f"the authority's time is {difference} ms from this machine's")
    return AcquiredToken(evidence, verified)

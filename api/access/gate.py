"""The gate of a node: who sent a request, and whether they may have what it asks for.

    caller = gate.identify(request)
    grant = gate.allow(caller, Action(Operation.READ, database, "accounts", "4711"))

Devices come in their own right: the identity log says whose they are, and the acts of a database who is a member of it
and in what role. Apps come as visitors, with a token; ``Visitors`` knows those. ``identify`` proves the key and lets a
request count once; ``allow`` may be asked again and again, by a connection that stays open: what was revoked meanwhile
is refused from then on. Decisions are made over values that were read at that moment; nothing is cached beyond that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from api.access.action import ALLOWED_TO, Action, Author, Caller, Grant, Operation
from api.access.nonces import Nonces
from api.access.request import HttpRequest
from api.access.signatures import VerifiedRequest, verify_request
from api.access.standing import Standing, StandingReader
from identity.errors import Forbidden, TooMany, Unauthenticated

__all__ = ["REQUESTS_A_MINUTE", "Gate", "Visitors", "check_author"]

REQUESTS_A_MINUTE: Final = 6000
"""Of one device, by default."""


def check_author(action: Action, caller: Caller, identity: bytes | None, own: bytes | None = None) -> None:
    """Return only when nobody's change would be told as another one's. Raises ``Forbidden``.

    The node's feeds are signed by its device, ``own``: what anybody else wants written carries their own intent, which
    is that of the key that signed the request, for the ``identity`` that it speaks for.
    """
    if not action.writes:
        return
    if action.author is None:
        if caller.key != own:
            raise Forbidden("INTENT", "only the node's own device writes without an intent", hint=_INTENT_HINT)
    elif action.author != Author(caller.key, identity):
        raise Forbidden("INTENT", "the intent is not signed by the key of the request, or for another identity")


_INTENT_HINT: Final = "sign what is wanted as an intent: POST /v1/databases/{database}/intents"


class Visitors(Protocol):
    """Those who come with a token, and the record of what they did (``api.access.visiting``)."""

    def greet(self, request: HttpRequest, verified: VerifiedRequest, standing: Standing) -> int:
        """How many requests a minute the visitor may make. Raises ``Unauthenticated`` when the token is nobody's here,
        or another's."""

    def turn_away(self, request: HttpRequest, key: bytes | None, refusal: Unauthenticated | Forbidden) -> None:
        """Record that a request was refused before anybody asked what it is about."""

    def admit(self, caller: Caller, action: Action, standing: Standing) -> Grant:
        """What the token allows of it. It is recorded, durably, before this returns or raises ``Forbidden``."""


class Gate:
    """The gate of one node. Threads share it.

    ``visitors`` None: nobody is let in with a token. ``now_s`` is the clock, in seconds since 1970. ``own`` is the key
    that the node's feeds are signed with; None: nothing is written.
    """

    def __init__(
        self,
        standing: StandingReader,
        nonces: Nonces,
        now_s: Callable[[], int],
        *,
        visitors: Visitors | None = None,
        requests_a_minute: int = REQUESTS_A_MINUTE,
        own: bytes | None = None,
    ) -> None:
        self._standing = standing
        self._nonces = nonces
        self._now_s = now_s
        self._visitors = visitors
        self._requests_a_minute = requests_a_minute
        self._own = own

    def identify(self, request: HttpRequest) -> Caller:
        """Who signed the request; it counts from now on, and never again.

        Raises ``Unauthenticated`` when the signature does not hold, the key is a stranger's, the nonce was used or the
        token is not the signer's; ``TooMany`` beyond the rate of the key; ``StoreBusy`` when it cannot be remembered.
        """
        verified: VerifiedRequest | None = None
        try:
            verified = verify_request(request, self._now_s())
            most = self._greet(request, verified)
            count = self._nonces.remember(verified.key, verified.nonce, self._now_s())
            if count > most:
                raise TooMany("RATE", f"{count} requests in a minute, {most} are allowed", retry_after_s=60)
        except (Unauthenticated, Forbidden) as refusal:
            if self._visitors is not None:
                self._visitors.turn_away(request, None if verified is None else verified.key, refusal)
            raise
        return Caller(verified.key, verified.token)

    def turn_away(self, request: HttpRequest, key: bytes | None, refusal: Unauthenticated | Forbidden) -> None:
        """Record a request with a token that was refused although nobody asked what it is about: it is a visit, too.

        ``key`` has signed it, None when that was not looked at. Raises what writing raises.
        """
        if self._visitors is not None and request.values("authorization"):
            self._visitors.turn_away(request, key, refusal)

    def _greet(self, request: HttpRequest, verified: VerifiedRequest) -> int:
        """How many requests a minute the signer may make. Only who is known here has nonces remembered at all: else
        strangers could fill the memory for them."""
        standing = self._standing.now()
        if verified.token is None:
            if not standing.knows(verified.key):
                raise Unauthenticated("UNKNOWN_KEY", "the key is no device of anybody who is known here")
            return self._requests_a_minute
        if self._visitors is None:
            raise Unauthenticated("NO_VISITORS", "this node lets nobody in with a token")
        return self._visitors.greet(request, verified, standing)

    def allow(self, caller: Caller, action: Action) -> Grant:
        """What the caller may have of it. Raises ``Forbidden``.

        A visit is in the visit feed, durably, when this returns or raises.
        """
        standing = self._standing.now()
        if caller.token is not None:
            if self._visitors is None:
                raise Forbidden("NO_VISITORS", "this node lets nobody in with a token")
            return self._visitors.admit(caller, action, standing)
        if action.database is None or action.operation is Operation.OPERATE:
            return Grant(caller, standing.owner(caller.key))
        member = standing.member(caller.key, action.database)
        if action.operation not in ALLOWED_TO[member.role]:
            raise Forbidden("ROLE", f"a {member.role} may not {action.operation}")
        check_author(action, caller, member.identity, self._own)
        return Grant(caller, member.identity)

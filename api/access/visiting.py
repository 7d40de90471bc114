"""Visitors: what a node does with requests that carry a token. ``api.access.gate`` asks it; it records every visit."""

from __future__ import annotations

from collections.abc import Callable

from api.access.action import ALLOWED_TO, Action, Caller, Grant, Token
from api.access.capability import Capability, authorize, minter_of, read_capability
from api.access.gate import check_author
from api.access.records import MAX_LINE, Visit, action_fields, terms_digest
from api.access.request import HttpRequest
from api.access.signatures import VerifiedRequest, token_of
from api.access.standing import Standing, StandingReader
from api.access.visits import Revocations, VisitFeed
from identity.encoding import Value
from identity.errors import Forbidden, MalformedError, TooMany, Unauthenticated, VerificationError
from sync.acts import Role

__all__ = ["VisitorDesk"]


class VisitorDesk:
    """Implements ``api.access.gate.Visitors`` for one node."""

    def __init__(
        self, standing: StandingReader, revocations: Revocations, feed: VisitFeed, now_ms: Callable[[], int]
    ) -> None:
        self._standing = standing
        self._revocations = revocations
        self._feed = feed
        self._now_ms = now_ms

    def greet(self, request: HttpRequest, verified: VerifiedRequest, standing: Standing) -> int:  # noqa: ARG002
        """As in ``Visitors``."""
        assert verified.token is not None
        capability = _read(verified.token, standing)
        if verified.key != capability.terms.holder:
            raise Unauthenticated("HOLDER", "the request is not signed by the key that the token is for")
        return capability.terms.rate

    def turn_away(self, request: HttpRequest, key: bytes | None, refusal: Unauthenticated | Forbidden) -> None:
        """As in ``Visitors``: a visit when the token is one of ours, and a number when it is not.

        Who is only too quick is counted as well: told one by one, that would be what fills the feed.
        """
        known = None if isinstance(refusal, TooMany) else self._known(request)
        if known is None:
            self._feed.count(refusal.reason)
            return
        token, capability = known
        line = f"{request.method} {request.url}"[:MAX_LINE]
        printable = "".join(c if " " <= c <= "~" else "?" for c in line)
        self._feed.add_visit(self._visit(token, capability, key, {"line": printable}, refusal.reason))

    def _known(self, request: HttpRequest) -> tuple[Token, Capability] | None:
        """The token of a request that was refused, when somebody minted it who might."""
        try:
            token = token_of(request)
            if token is None:
                return None
            standing = self._standing.now()
            capability = _read(token, standing)
            _check_minter(capability, standing)
        except (Unauthenticated, Forbidden):
            return None
        return token, capability

    def admit(self, caller: Caller, action: Action, standing: Standing) -> Grant:
        """As in ``Visitors``."""
        assert caller.token is not None
        try:
            capability = _read(caller.token, standing)
            role = _check_minter(capability, standing)
        except (Unauthenticated, Forbidden) as refusal:
            self._feed.count(refusal.reason)
            raise Forbidden(refusal.reason, "nobody who might has minted this token") from refusal
        about = action_fields(action)
        try:
            self._check(caller, capability, role, action)
        except Forbidden as refusal:
            self._feed.add_visit(self._visit(caller.token, capability, caller.key, about, refusal.reason))
            raise
        self._feed.add_visit(self._visit(caller.token, capability, caller.key, about, ""))
        return Grant(caller, None, capability.terms.fields)

    def _check(self, caller: Caller, capability: Capability, role: Role, action: Action) -> None:
        assert caller.token is not None
        if not self._revocations.now().isdisjoint(capability.revocation_ids):
            raise Forbidden("REVOKED", "the token was revoked")
        if action.operation not in ALLOWED_TO[role]:
            raise Forbidden("OPERATION", "who minted the token may not do that")
        now_s = self._now_ms() // 1000
        authorize(caller.token.encoded, capability.device, caller.key, action, now_s)
        check_author(action, caller, None)

    def _visit(
        self, token: Token, capability: Capability, key: bytes | None, about: dict[str, Value], reason: str
    ) -> Visit:
        digest = terms_digest(capability.terms)
        return Visit(self._now_ms(), token.digest, capability.revocation_ids, key, about, reason, digest)


def _read(token: Token, standing: Standing) -> Capability:
    """The token, when a device that is known here has signed it. Raises ``Unauthenticated``."""
    try:
        device = minter_of(token.encoded)
        if not standing.knows(device):
            raise Unauthenticated("TOKEN", "the token was minted by nobody who is known here")
        return read_capability(token.encoded, device)
    except (MalformedError, VerificationError) as exc:
        raise Unauthenticated("TOKEN", f"the token cannot be used: {exc}") from exc


def _check_minter(capability: Capability, standing: Standing) -> Role:
    """The role of who minted it. Raises ``Forbidden`` when that is nobody who may admit visitors now."""
    try:
        role = standing.member(capability.device, capability.terms.database).role
    except Forbidden as exc:
        raise Forbidden("MINTER", f"who minted the token may not admit visitors any more: {exc.reason}") from exc
    if role is Role.READER:
        raise Forbidden("MINTER", "a reader admits no visitors")
    return role

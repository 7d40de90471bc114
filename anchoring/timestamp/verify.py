"""Verification of a timestamp token with the material that was archived beside it (docs/spec/timestamp.md, section 5).

Pure: bytes and times come in as arguments. A token is judged at the time it states; what has become of its certificate
since then is asked for by ``at_ms`` and answered by ``proven_by_ms``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509

from anchoring.timestamp.certificates import assemble_path, check_validity, load_certificate, name_text, to_der
from anchoring.timestamp.independence import path_keys
from anchoring.timestamp.path import PathInput, validate_token
from anchoring.timestamp.response import SignedToken, TimestampInfo, parse_response
from anchoring.timestamp.revocation import RevocationData, check_revocation, load_crl, load_ocsp
from anchoring.timestamp.rules import (
    check_granted,
    check_info,
    check_signed_token,
    check_signing_certificate,
    signing_certificate,
)
from identity.errors import LimitExceeded, MalformedError, TokenRejected, TokenUndecided

__all__ = [
    "DEVELOPMENT_MARK",
    "DEVELOPMENT_POLICY_OID",
    "UNSTATED_ACCURACY_MS",
    "Authority",
    "TimestampEvidence",
    "VerifiedToken",
    "expiry_ms",
    "match_authority",
    "token_path",
    "verify_token",
]

DEVELOPMENT_POLICY_OID: Final = "2.25.284970224362471960167844392135630326949"
"""The policy under which the embedded authority issues. From a random UUID, as ITU-T X.667 allows."""

DEVELOPMENT_MARK: Final = "DEVELOPMENT ONLY"
"""Stands in the names of certificates that prove nothing to anybody else."""

UNSTATED_ACCURACY_MS: Final = 1_000
"""What counts as the accuracy of a token that states none."""

_MAX_ITEMS = 16
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Authority:
    """A timestamping authority that a policy trusts.

    ``root`` is the DER certificate that its path must end in, ``policy_oid`` the one policy that counts, ``subject``
    the RFC 4514 form of its certificate's subject. ``revoked_ms`` is set when the verifier knows from elsewhere that
    the authority's certificate or key ceased to be good at that time.
    """

    root: bytes
    policy_oid: str
    subject: str
    revoked_ms: int | None = None


@dataclass(frozen=True, slots=True)
class TimestampEvidence:
    """A token as it is archived: the response and, all in DER, what shows that its certificate was good then.

    ``certificates`` are those of the path that are not in the token; each item must be needed.
    """

    response: bytes
    certificates: tuple[bytes, ...] = ()
    crls: tuple[bytes, ...] = ()
    ocsps: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """What a verified token proves: the message existed at some time from ``earliest_ms`` to ``latest_ms``.

    Milliseconds UTC; ``earliest_ms`` is genTime - accuracy rounded down, ``latest_ms`` genTime + accuracy rounded up.
    ``authority`` is the subject of the certificate; ``development`` marks a token that proves nothing to anybody else.
    ``expires_ms`` is the earliest notAfter on the path, ``keys`` the digests of all keys on it (``path_keys``).
    """

    gen_time_ms: int
    accuracy_ms: int
    earliest_ms: int
    latest_ms: int
    authority: str
    policy_oid: str
    serial: int
    development: bool
    expires_ms: int
    keys: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class _Signed:
    """A response whose structure keeps the rules, and the certificate its token is bound to."""

    token: SignedToken
    certificate: x509.Certificate
    others: tuple[x509.Certificate, ...]


def verify_token(
    evidence: TimestampEvidence,
    message: bytes,
    authority: Authority,
    *,
    at_ms: int,
    proven_by_ms: int | None = None,
    nonce: int | None = None,
) -> VerifiedToken:
    """Verify that ``authority`` stated a time for exactly ``message``.

    ``at_ms`` is when the question is asked. A certificate that has expired or been revoked by then needs
    ``proven_by_ms``: the time by which something else proves that the response and everything beside it existed.
    ``nonce`` is compared when it is given.

    Raises ``MalformedError`` (not in the format), ``ImprintMismatch`` (other bytes), ``TokenRejected`` (a named rule is
    broken) and ``TokenUndecided`` (what would show it is missing).
    """
    signed = _open(evidence)
    info = signed.token.info
    check_info(info, message, authority.policy_oid, nonce)
    check_signing_certificate(signed.certificate)
    subject = name_text(signed.certificate.subject)
    if subject != authority.subject:
        raise TokenRejected("SUBJECT", f"signed by {subject}, not {authority.subject}")
    moment = _EPOCH + timedelta(microseconds=info.gen_time_ns // 1000)
    root = load_certificate(authority.root)
    if authority.root in evidence.certificates:
        raise TokenRejected("UNUSED_MATERIAL", "the root stands beside the token; the policy has it")
    path = assemble_path(signed.certificate, signed.others, root)
    check_validity(path, moment)
    if len(evidence.crls) + len(evidence.ocsps) > len(path):
        raise TokenRejected("UNUSED_MATERIAL", "more items of revocation data than certificates on the path")
    items: list[RevocationData] = [load_crl(crl) for crl in evidence.crls]
    items += [load_ocsp(response) for response in evidence.ocsps]
    revoked = check_revocation(path, root, items, moment)
    validate_token(
        signed.token.raw,
        PathInput([to_der(item) for item in path], authority.root, evidence.crls, evidence.ocsps, moment),
    )
    verified = _verified(info, subject, (*path, root))
    _check_still_counts(verified, revoked, authority, at_ms=at_ms, proven_by_ms=proven_by_ms)
    return verified


def match_authority(evidence: TimestampEvidence, authorities: Sequence[Authority]) -> Authority | None:
    """Which of the authorities the token says it is from, by subject and policy; None when it is from none of them.

    Where several share both, the one whose root its certificates lead to. Nothing is verified: that is
    ``verify_token``'s part. Raises ``MalformedError`` and ``TokenRejected`` for what cannot be read that far.
    """
    signed = _open(evidence)
    named = (name_text(signed.certificate.subject), signed.token.info.policy_oid)
    candidates = [authority for authority in authorities if (authority.subject, authority.policy_oid) == named]
    for authority in candidates if len(candidates) > 1 else ():
        try:
            assemble_path(signed.certificate, signed.others, load_certificate(authority.root))
        except (TokenRejected, MalformedError):
            continue
        return authority
    return candidates[0] if candidates else None


def expiry_ms(path: Sequence[x509.Certificate]) -> int:
    """The earliest notAfter on a path without its root: after it, a token needs proof that it is older."""
    return min(_ms(certificate.not_valid_after_utc) for certificate in path)


def token_path(evidence: TimestampEvidence, root: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates from the token's signer up to, without, the root, each signed by the next.

    For those who collect revocation data for them; the token itself is not verified. Raises as ``verify_token``.
    """
    signed = _open(evidence)
    return assemble_path(signed.certificate, signed.others, load_certificate(root))


def _open(evidence: TimestampEvidence) -> _Signed:
    for name, items in (("certificates", evidence.certificates), ("CRLs", evidence.crls), ("OCSPs", evidence.ocsps)):
        if len(items) > _MAX_ITEMS:
            raise LimitExceeded(f"timestamp evidence: {len(items)} {name}, at most {_MAX_ITEMS} are read")
    token = check_granted(parse_response(evidence.response))
    if len(token.certificates) > _MAX_ITEMS:
        raise LimitExceeded(f"token: {len(token.certificates)} certificates, at most {_MAX_ITEMS} are read")
    certificate = signing_certificate(token, check_signed_token(token))
    signer_der = to_der(certificate)
    others = [item for item in (*token.certificates, *evidence.certificates) if item != signer_der]
    if len(others) != len(token.certificates) + len(evidence.certificates) - 1:
        raise TokenRejected("UNUSED_MATERIAL", "the signer's certificate stands there twice")
    return _Signed(token, certificate, tuple(load_certificate(item) for item in others))


def _verified(info: TimestampInfo, subject: str, chain: Sequence[x509.Certificate]) -> VerifiedToken:
    accuracy_us = UNSTATED_ACCURACY_MS * 1000 if info.accuracy_us is None else info.accuracy_us
    names = (name_text(certificate.subject) for certificate in chain)
    return VerifiedToken(
        gen_time_ms=info.gen_time_ns // 10**6,
        accuracy_ms=-(-accuracy_us // 1000),
        earliest_ms=(info.gen_time_ns - accuracy_us * 1000) // 10**6,
        latest_ms=-(-(info.gen_time_ns + accuracy_us * 1000) // 10**6),
        authority=subject,
        policy_oid=info.policy_oid,
        serial=info.serial,
        development=info.policy_oid == DEVELOPMENT_POLICY_OID or any(DEVELOPMENT_MARK in name for name in names),
        expires_ms=expiry_ms(chain[:-1]),
        keys=path_keys(chain),
    )


def _check_still_counts(
    verified: VerifiedToken,
    revoked: datetime | None,
    authority: Authority,
    *,
    at_ms: int,
    proven_by_ms: int | None,
) -> None:
    """Raise unless what has become of the certificates by ``at_ms`` cannot matter, or the token is proven older."""
    revocations = [
        time for time in (authority.revoked_ms, None if revoked is None else _ms(revoked)) if time is not None
    ]
    revoked_ms = min(revocations, default=None)
    if revoked_ms is not None:
        if revoked_ms <= verified.gen_time_ms:
            raise TokenRejected("REVOKED", "the policy says that the authority was revoked before the token's time")
        if revoked_ms <= at_ms and (proven_by_ms is None or proven_by_ms >= revoked_ms):
            raise TokenUndecided("REVOKED_NO_POE", "the authority was revoked later; nothing proves the token older")
    expires_ms = verified.expires_ms
    if expires_ms < at_ms and (proven_by_ms is None or proven_by_ms > expires_ms):
        raise TokenUndecided(
            "EXPIRED_NO_POE", "the authority's certificate has expired; nothing proves the token older"
        )


def _ms(moment: datetime) -> int:
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1000

"""Signature, certificate path and revocation at genTime, judged by pyHanko (docs/spec/timestamp.md, section 5).

The one place where pyHanko is called. It takes most of a second to import, so it is imported when a token is verified
and not before.
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from identity.errors import TokenRejected

__all__ = ["PathInput", "validate_token"]

# RFC 5280's weak ones; pyHanko would take SHA-1 signatures in some places otherwise.
_WEAK_DIGESTS = ("md2", "md5", "sha1")


@dataclass(frozen=True, slots=True)
class PathInput:
    """What a token is validated with: DER certificates of its path, signer first, the pinned root, revocation data."""

    path: Sequence[bytes]
    root: bytes
    crls: Sequence[bytes]
    ocsps: Sequence[bytes]
    moment: datetime


def validate_token(content_info: bytes, material: PathInput) -> None:
    """Raise ``TokenRejected`` unless the token's signature and path hold at ``material.moment``.

    The path pyHanko finds must be the one in ``material``, at least one certificate below the root. Imprint and nonce
    are not looked at: ``anchoring.timestamp.rules`` has done that.
    """
    _silence()
    try:
        outcome = _finish(_start(content_info, material))
    except Exception as exc:
        # Two libraries below this line raise what they happen to raise for hostile input: ValueError, AssertionError,
        # KeyError, their own four trees. Whatever it is, the token did not pass.
        raise TokenRejected("VALIDATION", f"the token cannot be validated: {type(exc).__name__}: {exc}") from exc
    if not (outcome["intact"] and outcome["valid"]):
        raise TokenRejected("SIGNATURE", "the token's signature does not hold")
    if outcome["trust_problem_indic"]:
        _refuse_path(outcome["trust_problem_indic"].name)
    if not outcome["validation_path"]:
        _refuse_path("no path")
    found = [certificate.dump() for certificate in outcome["validation_path"].iter_certs(include_root=False)]
    if not found or found != list(reversed(material.path)):
        raise TokenRejected("PATH", "the path that validates is not the one that was given")


def _start(content_info: bytes, material: PathInput) -> Coroutine[Any, Any, dict[str, Any]]:
    from asn1crypto import cms, crl, ocsp, tsp, x509  # noqa: F401  (tsp registers TSTInfo with cms)
    from pyhanko.sign.validation.generic_cms import validate_tst_signed_data
    from pyhanko_certvalidator import ValidationContext

    signed_data = cms.ContentInfo.load(content_info, strict=True)["content"]
    imprint = signed_data["encap_content_info"]["content"].parsed["message_imprint"]["hashed_message"].native
    context = ValidationContext(
        trust_roots=[x509.Certificate.load(material.root, strict=True)],
        other_certs=[x509.Certificate.load(certificate, strict=True) for certificate in material.path],
        moment=material.moment,
        # Not "hard-fail": that skips certificates that name no source of revocation data, even one that is listed.
        revocation_mode="require",
        crls=[crl.CertificateList.load(item, strict=True) for item in material.crls],
        ocsps=[ocsp.OCSPResponse.load(item, strict=True) for item in material.ocsps],
        allow_fetching=False,
        time_tolerance=timedelta(0),
        weak_hash_algos=_WEAK_DIGESTS,
    )
    return validate_tst_signed_data(signed_data, context, expected_tst_imprint=lambda _: imprint)


def _finish(coroutine: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """Run a coroutine that never waits: nothing is fetched, so pyHanko's validation has nothing to wait for.

    No event loop is made, so this works inside a running one, and without the socket pair that a loop opens.
    """
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    coroutine.close()
    raise RuntimeError("the validation waits for something")


def _refuse_path(indication: str) -> None:
    if indication.startswith("REVOKED"):
        raise TokenRejected("REVOKED", "a certificate on the path had been revoked when the token was made")
    raise TokenRejected(
        "PATH", f"the certificates or their revocation data do not hold at the token's time: {indication}"
    )


def _silence() -> None:
    """Keep pyHanko from logging refusals with a traceback, to standard error where no logging is set up."""
    for name in ("pyhanko", "pyhanko_certvalidator"):
        logger = logging.getLogger(name)
        logger.propagate = False
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())

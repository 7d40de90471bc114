"""Which revocation data speaks about which certificate, and what it says (docs/spec/timestamp.md, section 5).

For every certificate on the path exactly one CRL or OCSP response must be there, and nothing else: what no step needs
could be changed at will. The judgement is pyHanko's (``anchoring.timestamp.path``); what is found here gives refusals
their names, and finds the later revocation that a judgement at genTime does not see.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509 import ocsp

from anchoring.timestamp.certificates import (
    READ_ERRORS,
    check_digest_accepted,
    check_same_bytes,
    check_signature_bits,
    check_signed_object,
    key_hash,
    load_certificate,
    name_text,
    to_der,
)
from anchoring.timestamp.der import BIT_STRING, OCTET_STRING, SEQUENCE, DerReader, parse_der, read_elements
from anchoring.timestamp.rules import SIGNATURE_ALGORITHMS
from identity.errors import MalformedError, TokenRejected, TokenUndecided

__all__ = [
    "MAX_CRL_BYTES",
    "MAX_OCSP_BYTES",
    "RevocationData",
    "check_revocation",
    "load_crl",
    "load_ocsp",
    "speaks_about",
]

MAX_CRL_BYTES: Final = 1 << 20
MAX_OCSP_BYTES: Final = 1 << 16

RevocationData = x509.CertificateRevocationList | ocsp.OCSPResponse


@dataclass(frozen=True, slots=True)
class _Statement:
    """What one item says about one certificate. ``revoked`` is when it says the certificate ceased to be good.

    ``vouches_before`` is whether it says besides that it was good until then.
    """

    this_update: datetime
    next_update: datetime | None
    revoked: datetime | None
    known: bool
    vouches_before: bool


def load_crl(der: bytes) -> x509.CertificateRevocationList:
    """A CRL in strict DER. Raises ``MalformedError``, or ``TokenRejected`` for a digest that is not accepted."""
    check_signed_object(der, what="CRL", max_bytes=MAX_CRL_BYTES)
    try:
        crl = x509.load_der_x509_crl(der)
        _ = crl.issuer, crl.extensions, crl.last_update_utc, crl.next_update_utc
        _ = crl.signature_hash_algorithm
    except READ_ERRORS as exc:
        raise MalformedError(f"CRL: {exc}") from exc
    check_same_bytes(to_der(crl), der, "CRL")
    check_digest_accepted(crl, "CRL")
    return crl


def load_ocsp(der: bytes) -> ocsp.OCSPResponse:
    """A successful OCSP response about one certificate, in strict DER, with at most its responder's certificate.

    Raises ``MalformedError``, or ``TokenRejected`` for algorithms that are not accepted and for certificates that the
    response does not need.
    """
    _check_ocsp_envelope(der)
    try:
        response = ocsp.load_der_ocsp_response(der)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise MalformedError(f"OCSP response: {response.response_status.name}")
        _ = response.extensions, response.this_update_utc, response.next_update_utc, response.certificate_status
        _ = response.serial_number, response.issuer_name_hash, response.hash_algorithm, response.revocation_time_utc
    except READ_ERRORS as exc:
        raise MalformedError(f"OCSP response: {exc}") from exc
    check_same_bytes(to_der(response), der, "OCSP response")
    return response


def check_revocation(
    path: Sequence[x509.Certificate], root: x509.Certificate, items: Sequence[RevocationData], moment: datetime
) -> datetime | None:
    """Find the one item for each certificate on the path, and return the earliest revocation after ``moment``.

    Raises ``TokenRejected`` when an item is not needed or a certificate was revoked by then, ``TokenUndecided`` when an
    item is missing or not about that moment.
    """
    if any(not any(speaks_about(item, certificate) for certificate in path) for item in items):
        raise TokenRejected("UNUSED_MATERIAL", "revocation data that is about no certificate on the path")
    later: list[datetime] = []
    for certificate, issuer in zip(path, [*path[1:], root], strict=True):
        fitting = [item for item in items if speaks_about(item, certificate)]
        if not fitting:
            raise TokenUndecided("REVOCATION_MISSING", f"no CRL or OCSP response for {name_text(certificate.subject)}")
        if len(fitting) > 1:
            raise TokenRejected("UNUSED_MATERIAL", f"{len(fitting)} items of revocation data where one suffices")
        _check_signature(fitting[0], issuer)
        revoked = _judge(_statement(fitting[0], certificate), certificate, moment)
        if revoked is not None:
            later.append(revoked)
    return min(later, default=None)


def speaks_about(item: RevocationData, certificate: x509.Certificate) -> bool:
    """Whether a CRL is by the certificate's issuer, or an OCSP response is about the certificate."""
    if isinstance(item, x509.CertificateRevocationList):
        return item.issuer == certificate.issuer
    name_hash = hashlib.new(item.hash_algorithm.name, certificate.issuer.public_bytes()).digest()
    return item.serial_number == certificate.serial_number and item.issuer_name_hash == name_hash


def _check_signature(item: RevocationData, issuer: x509.Certificate) -> None:
    """Raise unless a CRL is by that key, or an OCSP response by the key in it, or by that one if there is none.

    pyHanko checks it too, and whether a key in a response may speak; here it keeps an altered item from being believed.
    """
    what, signer = "a CRL", issuer
    try:
        if isinstance(item, x509.CertificateRevocationList):
            good = item.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
        else:
            what, signer = "an OCSP response", next(iter(item.certificates), issuer)
            good = _is_signed_by(item, signer.public_key())
    except READ_ERRORS as exc:
        raise TokenRejected("REVOCATION_SIGNATURE", f"{what} cannot be checked: {exc}") from exc
    if not good:
        raise TokenRejected("REVOCATION_SIGNATURE", f"{what} is not signed by {name_text(signer.subject)}")


def _is_signed_by(response: ocsp.OCSPResponse, key: object) -> bool:
    digest = response.signature_hash_algorithm
    try:
        match key:
            case rsa.RSAPublicKey() if digest is not None:
                key.verify(response.signature, response.tbs_response_bytes, padding.PKCS1v15(), digest)
            case ec.EllipticCurvePublicKey() if digest is not None:
                key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(digest))
            case _:
                return False
    except InvalidSignature:
        return False
    return True


def _judge(statement: _Statement, certificate: x509.Certificate, moment: datetime) -> datetime | None:
    name = name_text(certificate.subject)
    if not statement.known:
        raise TokenUndecided("REVOCATION_MISSING", f"the OCSP responder does not know {name}")
    if statement.revoked is not None and statement.revoked <= moment:
        raise TokenRejected("REVOKED", f"{name} was revoked as of {statement.revoked:%Y-%m-%d %H:%M:%S} UTC")
    if statement.this_update > moment:
        raise TokenUndecided("REVOCATION_TOO_NEW", f"the revocation data for {name} was issued after the token")
    if statement.next_update is not None and statement.next_update < moment:
        raise TokenUndecided("REVOCATION_STALE", f"the revocation data for {name} had run out when the token was made")
    if statement.revoked is not None and not statement.vouches_before:
        raise TokenRejected("REVOKED", f"an OCSP response calls {name} revoked, and never says that it was good")
    return statement.revoked


def _statement(item: RevocationData, certificate: x509.Certificate) -> _Statement:
    if isinstance(item, ocsp.OCSPResponse):
        status = item.certificate_status
        return _Statement(
            this_update=item.this_update_utc,
            next_update=item.next_update_utc,
            revoked=item.revocation_time_utc if status is ocsp.OCSPCertStatus.REVOKED else None,
            known=status is not ocsp.OCSPCertStatus.UNKNOWN,
            vouches_before=False,
        )
    return _Statement(
        this_update=item.last_update_utc,
        next_update=item.next_update_utc,
        revoked=_revoked_on(item, certificate),
        known=True,
        vouches_before=True,
    )


def _revoked_on(crl: x509.CertificateRevocationList, certificate: x509.Certificate) -> datetime | None:
    """When the CRL says the certificate ceased to be good: revoked, or, when that is said, already invalid before."""
    try:
        entry = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
        if entry is None:
            return None
        invalid = [e.value.invalidity_date_utc for e in entry.extensions if isinstance(e.value, x509.InvalidityDate)]
    except READ_ERRORS as exc:
        raise MalformedError(f"CRL entry: {exc}") from exc
    return min([entry.revocation_date_utc, *invalid])


def _check_ocsp_envelope(der: bytes) -> None:
    """Check the parts of an OCSP response (RFC 6960 4.2.1) that its signature does not cover."""
    what = "OCSP response"
    outer = DerReader(parse_der(der, what=what, max_bytes=MAX_OCSP_BYTES), what)
    outer.take(0x0A)  # responseStatus; the library reads it
    response_bytes = DerReader(outer.take(0xA0), what, tag=0xA0)
    outer.end()
    typed = DerReader(response_bytes.take(SEQUENCE), what)
    response_bytes.end()
    typed.take(0x06)  # responseType; the library reads it
    inner = typed.take(OCTET_STRING).content
    typed.end()
    basic = DerReader(parse_der(inner, what=what, max_bytes=MAX_OCSP_BYTES), what)
    basic.take(SEQUENCE)
    algorithm = basic.take(SEQUENCE)
    signature = basic.take(BIT_STRING).content
    certificates = basic.optional(0xA0)
    basic.end()
    if algorithm.raw not in SIGNATURE_ALGORITHMS or SIGNATURE_ALGORITHMS[algorithm.raw] is None:
        raise TokenRejected("ALGORITHM", "an OCSP response is signed by an algorithm that is not accepted")
    check_signature_bits(signature, algorithm.content, what)
    if certificates is not None:
        holder = DerReader(certificates, what, tag=0xA0)
        _check_responder(der, [element.raw for element in read_elements(holder.take(SEQUENCE))])
        holder.end()


def _check_responder(der: bytes, certificates: list[bytes]) -> None:
    """Raise unless the one certificate in the response is the responder's own."""
    if len(certificates) != 1:
        raise TokenRejected(
            "UNUSED_MATERIAL", f"an OCSP response carries {len(certificates)} certificates, one is enough"
        )
    responder = load_certificate(certificates[0])
    check_digest_accepted(responder, "certificate")
    try:
        response = ocsp.load_der_ocsp_response(der)
        name, digest = response.responder_name, response.responder_key_hash
    except READ_ERRORS as exc:
        raise MalformedError(f"OCSP response: {exc}") from exc
    if name != responder.subject and digest != key_hash(responder):
        raise TokenRejected("UNUSED_MATERIAL", "an OCSP response carries a certificate that is not its responder's")

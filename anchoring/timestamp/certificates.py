"""X.509 certificates as evidence carries them: strict bytes, and the chain from a signer up to a pinned root.

The chain is put together here, by name and signature, so that it is one and complete: every certificate given must
stand on it. Validity, constraints, policies and revocation are judged by pyHanko (``anchoring.timestamp.path``).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from anchoring.timestamp.der import BIT_STRING, INTEGER, SEQUENCE, DerReader, parse_der, read_integer
from identity.errors import MalformedError, TokenRejected

__all__ = [
    "MAX_CERTIFICATE_BYTES",
    "MAX_PATH",
    "READ_ERRORS",
    "assemble_path",
    "check_digest_accepted",
    "check_ecdsa_signature",
    "check_same_bytes",
    "check_signature_bits",
    "check_signed_object",
    "check_validity",
    "find_extension",
    "key_hash",
    "load_certificate",
    "name_text",
    "raw_issuer_and_serial",
    "to_der",
]

MAX_CERTIFICATE_BYTES: Final = 1 << 14
MAX_PATH: Final = 8
"""Certificates in a chain, without the root."""

# The OIDs of signatures that are ECDSA begin so (RFC 5758 3.2, ANSI X9.62); their value is DER itself.
_ECDSA = bytes.fromhex("2a8648ce3d04")
_ACCEPTED_DIGESTS = frozenset({"sha256", "sha384", "sha512"})

READ_ERRORS: Final = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises for certificates, CRLs and OCSP responses that are not well-formed or not known to it."""

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


def load_certificate(der: bytes) -> x509.Certificate:
    """A certificate whose bytes are strict DER and hold nothing that could be changed without breaking a signature.

    Raises ``MalformedError``.
    """
    check_signed_object(der, what="certificate", max_bytes=MAX_CERTIFICATE_BYTES)
    if raw_issuer_and_serial(der)[1] <= 0:
        raise MalformedError("certificate: the serial number is not positive")
    try:
        certificate = x509.load_der_x509_certificate(der)
        # All are read late by the library; errors must come out here.
        _ = certificate.extensions, certificate.issuer, certificate.subject, certificate.public_key()
        _ = certificate.signature_hash_algorithm
    except READ_ERRORS as exc:
        raise MalformedError(f"certificate: {exc}") from exc
    check_same_bytes(to_der(certificate), der, "certificate")
    return certificate


def check_same_bytes(encoded: bytes, der: bytes, what: str) -> None:
    """Raise ``MalformedError`` unless what was read encodes to the bytes it was read from."""
    if encoded != der:
        raise MalformedError(f"{what}: not the bytes that its contents encode to")


def check_digest_accepted(item: x509.Certificate | x509.CertificateRevocationList, what: str) -> None:
    """Raise ``TokenRejected`` unless a certificate or CRL is signed under SHA-2.

    Not for a root: what it says of itself is not what it is trusted for, and some old ones are signed under SHA-1.
    """
    digest = item.signature_hash_algorithm
    if digest is None or digest.name not in _ACCEPTED_DIGESTS:
        raise TokenRejected("ALGORITHM", f"a {what} is not signed under SHA-256, SHA-384 or SHA-512")


def check_signed_object(der: bytes, *, what: str, max_bytes: int) -> None:
    """Check a certificate or CRL: three fields, of which the two that nobody signs leave no choice.

    The outer algorithm must repeat the signed one byte for byte (RFC 5280 4.1.1.2 and 5.1.1.2; libraries do not all
    check it), the signature must fill whole bytes, and an ECDSA signature must be strict DER. Raises
    ``MalformedError``.
    """
    outer = DerReader(parse_der(der, what=what, max_bytes=max_bytes), what)
    body = DerReader(outer.take(SEQUENCE), what)
    algorithm = outer.take(SEQUENCE)
    signature = outer.take(BIT_STRING).content
    outer.end()
    body.optional(0xA0, INTEGER)  # version
    body.optional(INTEGER)  # serial number of a certificate
    if body.take(SEQUENCE).raw != algorithm.raw:
        raise MalformedError(f"{what}: the algorithm beside the signature is not the signed one")
    check_signature_bits(signature, algorithm.content, what)


def check_signature_bits(signature: bytes, algorithm: bytes, what: str) -> None:
    """Check the contents of a signature's BIT STRING. ``algorithm`` is the contents of its AlgorithmIdentifier."""
    if not signature or signature[0] != 0:
        raise MalformedError(f"{what}: the signature does not fill whole bytes")
    if algorithm[2:].startswith(_ECDSA):
        check_ecdsa_signature(signature[1:], what)


def check_ecdsa_signature(signature: bytes, what: str) -> None:
    """Raise ``MalformedError`` unless it is SEQUENCE {r, s} in strict DER."""
    value = DerReader(parse_der(signature, what=f"{what} signature", max_bytes=256), f"{what} signature")
    value.take(INTEGER)
    value.take(INTEGER)
    value.end()


def raw_issuer_and_serial(der: bytes) -> tuple[bytes, int]:
    """The issuer's name as it is encoded, and the serial number."""
    outer = DerReader(parse_der(der, what="certificate", max_bytes=MAX_CERTIFICATE_BYTES), "certificate")
    body = DerReader(outer.take(SEQUENCE), "certificate")
    body.optional(0xA0)
    serial = read_integer(body.take(INTEGER), "certificate serial number")
    body.take(SEQUENCE)
    return body.take(SEQUENCE).raw, serial


def find_extension(certificate: x509.Certificate, kind: type[_Extension]) -> x509.Extension[_Extension] | None:
    """The certificate's extension of that kind, or None."""
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None


def name_text(name: x509.Name) -> str:
    """The RFC 4514 form of a name, most specific part first: how a policy writes an authority's subject."""
    return name.rfc4514_string()


def to_der(item: x509.Certificate | x509.CertificateRevocationList | ocsp.OCSPResponse) -> bytes:
    """The bytes of a certificate, CRL or OCSP response; those it was loaded from, as loading has checked."""
    return item.public_bytes(Encoding.DER)


def assemble_path(
    signer: x509.Certificate, others: Sequence[x509.Certificate], root: x509.Certificate
) -> tuple[x509.Certificate, ...]:
    """The chain from the signer up to, without, the root; each signed by the next and the last by the root.

    Raises ``TokenRejected``: ROOT when the root is not self-issued, PATH when there is no path to it, ALGORITHM when a
    certificate on it is not signed under SHA-2, UNUSED_MATERIAL when some of ``others`` is not on it (the root itself
    may stand among them once: authorities like to include it).
    """
    if root.issuer != root.subject:
        # pyHanko looks for the issuer of whoever signs a CRL, and would find none above this one.
        raise TokenRejected("ROOT", f"the pinned root {name_text(root.subject)} was issued by somebody else")
    pool = [certificate for certificate in others if to_der(certificate) != to_der(root)]
    if len(others) - len(pool) > 1:
        raise TokenRejected("UNUSED_MATERIAL", "the root stands there twice")
    path = [signer]
    while path[-1].issuer != root.subject:
        issuers = [candidate for candidate in pool if candidate.subject == path[-1].issuer]
        if not issuers or len(path) == MAX_PATH:
            raise TokenRejected("PATH", f"no certificate leads from {name_text(path[-1].subject)} to the root")
        path.append(issuers[0])
        pool.remove(issuers[0])
    if pool:
        raise TokenRejected("UNUSED_MATERIAL", f"the certificate of {name_text(pool[0].subject)} is not on the path")
    for certificate, issuer in zip(path, [*path[1:], root], strict=True):
        check_digest_accepted(certificate, "certificate")
        _check_issued_by(certificate, issuer)
    return tuple(path)


def check_validity(path: Sequence[x509.Certificate], moment: datetime) -> None:
    """Raise ``TokenRejected`` unless every certificate on the path was valid at ``moment``."""
    for certificate in path:
        if not certificate.not_valid_before_utc <= moment <= certificate.not_valid_after_utc:
            detail = f"{name_text(certificate.subject)} was not valid at {moment:%Y-%m-%d %H:%M:%S} UTC"
            raise TokenRejected("VALIDITY", detail)


def key_hash(certificate: x509.Certificate) -> bytes:
    """SHA-1 of the subject's key: how an OCSP responder names itself (RFC 6960 4.2.1). It proves nothing."""
    return x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest


def _check_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm) as exc:
        detail = f"{name_text(certificate.subject)} was not issued by {name_text(issuer.subject)}"
        raise TokenRejected("PATH", detail) from exc

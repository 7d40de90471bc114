"""The rules that a token keeps or breaks by itself (docs/spec/timestamp.md, section 5), before anything is trusted.

A token's signature covers TSTInfo and the signed attributes; the rest of a response is covered by nothing. So every
byte outside them is either compared with a signed one, is one of a few fixed byte strings, or is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from anchoring.timestamp.certificates import (
    check_ecdsa_signature,
    find_extension,
    load_certificate,
    raw_issuer_and_serial,
)
from anchoring.timestamp.der import (
    OBJECT_IDENTIFIER,
    OCTET_STRING,
    SEQUENCE,
    DerReader,
    Element,
    read_elements,
    read_oid,
)
from anchoring.timestamp.response import (
    DIGEST_ALGORITHMS,
    TST_INFO,
    SignedToken,
    SignerInfo,
    TimestampInfo,
    TokenResponse,
)
from identity.errors import ImprintMismatch, TokenRejected

__all__ = [
    "SIGNATURE_ALGORITHMS",
    "check_granted",
    "check_info",
    "check_signed_token",
    "check_signing_certificate",
    "signing_certificate",
]

_CONTENT_TYPE = "1.2.840.113549.1.9.3"
_MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
_SIGNING_CERTIFICATE = "1.2.840.113549.1.9.16.2.12"
_SIGNING_CERTIFICATE_V2 = "1.2.840.113549.1.9.16.2.47"

# RFC 5754 3 and RFC 3370 3.2: RSA comes with NULL parameters, ECDSA with none.
SIGNATURE_ALGORITHMS: Final[Mapping[bytes, str | None]] = {
    bytes.fromhex("300a06082a8648ce3d040302"): "sha256",
    bytes.fromhex("300a06082a8648ce3d040303"): "sha384",
    bytes.fromhex("300a06082a8648ce3d040304"): "sha512",
    bytes.fromhex("300d06092a864886f70d01010b0500"): "sha256",
    bytes.fromhex("300d06092a864886f70d01010c0500"): "sha384",
    bytes.fromhex("300d06092a864886f70d01010d0500"): "sha512",
    bytes.fromhex("300d06092a864886f70d0101010500"): None,
}
"""Accepted signature algorithm identifiers (DER) with the digest each implies: ECDSA and RSA PKCS #1 v1.5.

Plain ``rsaEncryption`` implies none; the digest algorithm beside it counts.
"""

_ECDSA_ALGORITHMS = frozenset(algorithm for algorithm in SIGNATURE_ALGORITHMS if algorithm[1] == 0x0A)
_STATUS_NAMES = ("granted", "grantedWithMods", "rejection", "waiting", "revocationWarning", "revocationNotification")


def check_granted(response: TokenResponse) -> SignedToken:
    """The token in an answer that says ``granted`` and nothing else. Raises ``TokenRejected``.

    Text and failure bits beside the status are signed by nobody, so evidence must not carry them.
    """
    if response.status != 0:
        known = 0 <= response.status < len(_STATUS_NAMES)
        name = _STATUS_NAMES[response.status] if known else f"status {response.status}"
        raise TokenRejected("STATUS", f"the authority's answer is {name}, only granted counts")
    if response.token is None:
        raise TokenRejected("NO_TOKEN", "the answer says granted but carries no token")
    if response.texts or response.failures:
        raise TokenRejected("STATUS_TEXT", "the status carries text or failure bits, which no signature covers")
    return response.token


def check_signed_token(token: SignedToken) -> SignerInfo:
    """The one signer of a token whose structure keeps the rules. Raises ``TokenRejected`` with the rule's name."""
    if len(token.signers) != 1:
        raise TokenRejected("SIGNER_COUNT", f"{len(token.signers)} signers, exactly one must stand")
    signer = token.signers[0]
    # RFC 5652 5.1: content other than data makes it version 3. 5.3: the signer's version follows from its identifier.
    if token.version != 3 or signer.version != (1 if signer.key_identifier is None else 3):
        raise TokenRejected("CMS_VERSION", f"SignedData version {token.version}, SignerInfo version {signer.version}")
    if signer.has_unsigned_attributes:
        raise TokenRejected("UNSIGNED_ATTRIBUTES", "the token carries attributes that no signature covers")
    if token.has_revocation_data:
        raise TokenRejected("EMBEDDED_REVOCATION", "revocation data stands in the token; it belongs beside it")
    _check_algorithms(token, signer)
    _check_attributes(token, signer)
    return signer


def check_info(info: TimestampInfo, message: bytes, policy_oid: str, nonce: int | None) -> None:
    """Raise unless TSTInfo states a time for exactly ``message``, under that policy and, when given, that nonce.

    Raises ``ImprintMismatch`` for other bytes, ``TokenRejected`` for the rest.
    """
    if info.version != 1:
        raise TokenRejected("INFO_VERSION", f"TSTInfo version {info.version}, 1 is the only one")
    if info.critical_extensions:
        names = ", ".join(info.critical_extensions)
        raise TokenRejected("CRITICAL_EXTENSION", f"TSTInfo extension {names} is critical and not known here")
    if info.policy_oid != policy_oid:
        raise TokenRejected("POLICY", f"issued under policy {info.policy_oid}, not {policy_oid}")
    if info.imprint_algorithm != "sha256":
        raise TokenRejected("IMPRINT_ALGORITHM", "the imprint is not under SHA-256")
    expected = hashlib.sha256(message).digest()
    if info.imprint != expected:
        raise ImprintMismatch(expected=expected, found=info.imprint)
    if nonce is not None and info.nonce != nonce:
        raise TokenRejected("NONCE", "the nonce is not the one that was asked with")


def signing_certificate(token: SignedToken, signer: SignerInfo) -> x509.Certificate:
    """The one certificate in the token that the signer names, bound to it by signing_certificate_v2 (RFC 5816).

    Raises ``TokenRejected`` when the name fits none or several, or the signed hash is of another certificate.
    """
    named = [certificate for certificate in token.certificates if _is_named(certificate, signer)]
    if len(named) != 1:
        raise TokenRejected("SIGNER_CERTIFICATE", f"{len(named)} certificates in the token fit the signer's identifier")
    algorithm, digest = _signed_certificate_hash(signer)
    if hashlib.new(algorithm, named[0]).digest() != digest:
        raise TokenRejected("ESS_MISMATCH", "signing_certificate_v2 names another certificate than the signer's")
    return load_certificate(named[0])


def check_signing_certificate(certificate: x509.Certificate) -> None:
    """Raise ``TokenRejected`` unless the certificate is for timestamping and for nothing else (RFC 3161 2.3)."""
    usage = find_extension(certificate, x509.ExtendedKeyUsage)
    if usage is None or not usage.critical or list(usage.value) != [ExtendedKeyUsageOID.TIME_STAMPING]:
        raise TokenRejected("EXTENDED_KEY_USAGE", "it must be critical and name timestamping and nothing else")
    constraints = find_extension(certificate, x509.BasicConstraints)
    if constraints is not None and constraints.value.ca:
        raise TokenRejected("CA_CERTIFICATE", "the token is signed by a certification authority's certificate")
    key_usage = find_extension(certificate, x509.KeyUsage)
    if key_usage is not None and not _is_signing_only(key_usage.value):
        raise TokenRejected("KEY_USAGE", "the key is for more than signatures, or not for signatures")


def _check_algorithms(token: SignedToken, signer: SignerInfo) -> None:
    digest = DIGEST_ALGORITHMS.get(signer.digest_algorithm)
    named = [DIGEST_ALGORITHMS.get(algorithm) for algorithm in token.digest_algorithms]
    if digest is None or named != [digest]:
        raise TokenRejected("DIGEST_ALGORITHM", "the digest is not one of SHA-256, SHA-384, SHA-512, named once")
    if signer.signature_algorithm not in SIGNATURE_ALGORITHMS:
        raise TokenRejected("SIGNATURE_ALGORITHM", "the signature is neither ECDSA nor RSA PKCS #1 v1.5 with SHA-2")
    if SIGNATURE_ALGORITHMS[signer.signature_algorithm] not in (None, digest):
        raise TokenRejected("SIGNATURE_ALGORITHM", f"the signature algorithm implies another digest than {digest}")
    if signer.signature_algorithm in _ECDSA_ALGORITHMS:
        check_ecdsa_signature(signer.signature, "token")


def _check_attributes(token: SignedToken, signer: SignerInfo) -> None:
    oids = [attribute.oid for attribute in signer.attributes]
    if len(set(oids)) != len(oids) or any(len(attribute.values) != 1 for attribute in signer.attributes):
        raise TokenRejected("DUPLICATE_ATTRIBUTE", "a signed attribute stands twice or does not have exactly one value")
    content_type = _attribute(signer, _CONTENT_TYPE, OBJECT_IDENTIFIER)
    if content_type is None or read_oid(content_type, "content type attribute") != TST_INFO:
        raise TokenRejected("CONTENT_TYPE", "the signed content type attribute is absent or is not TSTInfo")
    digest = _attribute(signer, _MESSAGE_DIGEST, OCTET_STRING)
    computed = hashlib.new(DIGEST_ALGORITHMS[signer.digest_algorithm], token.info.raw).digest()
    if digest is None or digest.content != computed:
        raise TokenRejected("MESSAGE_DIGEST", "the signed digest is absent or is not that of TSTInfo")


def _attribute(signer: SignerInfo, oid: str, tag: int) -> Element | None:
    values = [attribute.values[0] for attribute in signer.attributes if attribute.oid == oid]
    return values[0] if values and values[0].tag == tag else None


def _is_named(certificate: bytes, signer: SignerInfo) -> bool:
    """Whether the signer's identifier is this certificate's, byte for byte: unsigned bytes must leave no choice."""
    if signer.key_identifier is None:
        return raw_issuer_and_serial(certificate) == (signer.issuer, signer.serial)
    identifier = find_extension(load_certificate(certificate), x509.SubjectKeyIdentifier)
    return identifier is not None and identifier.value.digest == signer.key_identifier


def _signed_certificate_hash(signer: SignerInfo) -> tuple[str, bytes]:
    """Digest name and hash in the first ESSCertIDv2 (RFC 5035 4): the one that names the signer's certificate."""
    value = _attribute(signer, _SIGNING_CERTIFICATE_V2, SEQUENCE)
    if value is None:
        if _attribute(signer, _SIGNING_CERTIFICATE, SEQUENCE) is not None:
            raise TokenRejected("ESS_SHA1", "the certificate is bound by SHA-1 only (signing_certificate version 1)")
        raise TokenRejected("ESS_ABSENT", "no signed attribute binds the certificate (signing_certificate_v2)")
    identifiers = read_elements(DerReader(value, "signing_certificate_v2").take(SEQUENCE))
    if not identifiers:
        raise TokenRejected("ESS_ABSENT", "signing_certificate_v2 names no certificate")
    identifier = DerReader(identifiers[0], "ESSCertIDv2")
    algorithm = identifier.optional(SEQUENCE)
    digest = identifier.take(OCTET_STRING).content
    name = "sha256" if algorithm is None else DIGEST_ALGORITHMS.get(algorithm.raw)
    if name is None:
        raise TokenRejected("ESS_SHA1", "signing_certificate_v2 uses a digest other than SHA-256, SHA-384, SHA-512")
    return name, digest


def _is_signing_only(usage: x509.KeyUsage) -> bool:
    signs = usage.digital_signature or usage.content_commitment
    other = usage.key_encipherment or usage.data_encipherment or usage.key_agreement
    return signs and not (other or usage.key_cert_sign or usage.crl_sign)

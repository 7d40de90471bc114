"""A small public key infrastructure and a maker of timestamp tokens, good ones and such as have one thing wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asn1crypto import cms, core, tsp
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from anchoring.timestamp import Authority, TimestampEvidence
from anchoring.timestamp.der import SEQUENCE, encode_der, encode_integer

NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
POLICY = "1.2.3.4.5"
MESSAGE = b"a checkpoint note\n"

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Attributes = list[tuple[str, list[Any]]]


@dataclass(frozen=True)
class Issued:
    """A certificate and its key."""

    key: Key
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def asn1(self) -> asn1_x509.Certificate:
        return asn1_x509.Certificate.load(self.der)

    @property
    def subject(self) -> str:
        return self.certificate.subject.rfc4514_string()


@dataclass
class Change:
    """What to do differently when a token is made. Every field is applied before signing unless it says otherwise."""

    info: dict[str, Any] = field(default_factory=dict)
    attributes: Callable[[Attributes], Attributes] = lambda attributes: attributes
    signer_info: dict[str, Any] = field(default_factory=dict)
    """After signing."""
    signed_data: dict[str, Any] = field(default_factory=dict)
    status: bytes = encode_der(SEQUENCE, encode_integer(0))
    token: Callable[[bytes], bytes] = lambda token: token
    """After signing, on the bytes of the ContentInfo."""


def name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


class TokenMaker:
    """Makes certificates, revocation data, tokens and whole evidence, at ``now`` unless told otherwise."""

    now = NOW
    now_ms = int(NOW.timestamp()) * 1000
    policy = POLICY
    message = MESSAGE

    def __init__(self, new_key: Callable[[], Key] = lambda: ec.generate_private_key(ec.SECP256R1())) -> None:
        self.new_key = new_key
        self.root = self.issue("Root", ca=True)
        self.signer = self.issue("TSA", issuer=self.root)
        self.rsa_key = rsa.generate_private_key(65537, 2048)

    @property
    def authority(self) -> Authority:
        return Authority(self.root.der, POLICY, self.signer.subject)

    def imprint(self, message: bytes, algorithm: str) -> dict[str, Any]:
        return imprint(message, algorithm)

    def issue(
        self,
        common_name: str,
        *,
        issuer: Issued | None = None,
        key: Key | None = None,
        ca: bool = False,
        path_length: int | None = None,
        eku: Sequence[x509.ObjectIdentifier] | None = (ExtendedKeyUsageOID.TIME_STAMPING,),
        eku_critical: bool = True,
        key_usage: x509.KeyUsage | None = None,
        not_before: timedelta = timedelta(days=-365),
        not_after: timedelta = timedelta(days=365),
        crl_url: str | None = None,
        ocsp_url: str | None = None,
        extensions: Sequence[x509.ExtensionType] = (),
        digest: hashes.HashAlgorithm | None = None,
    ) -> Issued:
        """A certificate; without an issuer it is self-signed and has no extended key usage."""
        key = key or self.new_key()
        subject = name(common_name)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.certificate.subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW + not_before)
            .not_valid_after(NOW + not_after)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if eku and issuer:
            builder = builder.add_extension(x509.ExtendedKeyUsage(eku), critical=eku_critical)
        if key_usage:
            builder = builder.add_extension(key_usage, critical=True)
        if crl_url:
            point = x509.DistributionPoint([x509.UniformResourceIdentifier(crl_url)], None, None, None)
            builder = builder.add_extension(x509.CRLDistributionPoints([point]), critical=False)
        if ocsp_url:
            access = x509.AccessDescription(
                AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(ocsp_url)
            )
            builder = builder.add_extension(x509.AuthorityInformationAccess([access]), critical=False)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        certificate = builder.sign(issuer.key if issuer else key, digest or hashes.SHA256())
        return Issued(key, certificate)

    def crl(
        self,
        issuer: Issued | None = None,
        *,
        this_update: timedelta = timedelta(hours=-1),
        next_update: timedelta = timedelta(days=1),
        revoked: Sequence[tuple[Issued, timedelta]] = (),
        invalid_since: timedelta | None = None,
        digest: hashes.HashAlgorithm | None = None,
    ) -> bytes:
        """A revocation list by ``issuer`` (the root), which lists each certificate with its revocation time."""
        issuer = issuer or self.root
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(issuer.certificate.subject)
            .last_update(NOW + this_update)
            .next_update(NOW + next_update)
        )
        for item, when in revoked:
            entry = (
                x509.RevokedCertificateBuilder()
                .serial_number(item.certificate.serial_number)
                .revocation_date(NOW + when)
            )
            if invalid_since is not None:
                entry = entry.add_extension(x509.InvalidityDate(NOW + invalid_since), critical=False)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(issuer.key, digest or hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    def ocsp(
        self,
        certificate: Issued,
        issuer: Issued | None = None,
        *,
        responder: Issued | None = None,
        embed: Sequence[Issued] = (),
        status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
        this_update: timedelta = timedelta(hours=-1),
        next_update: timedelta = timedelta(days=1),
        revoked: timedelta | None = None,
    ) -> bytes:
        """An OCSP response about ``certificate``, signed by ``responder`` (the issuer)."""
        issuer = issuer or self.root
        responder = responder or issuer
        builder = (
            ocsp.OCSPResponseBuilder()
            .add_response(
                cert=certificate.certificate,
                issuer=issuer.certificate,
                algorithm=hashes.SHA256(),
                cert_status=status,
                this_update=NOW + this_update,
                next_update=NOW + next_update,
                revocation_time=None if revoked is None else NOW + revoked,
                revocation_reason=None,
            )
            .responder_id(ocsp.OCSPResponderEncoding.HASH, responder.certificate)
        )
        if embed:
            builder = builder.certificates([item.certificate for item in embed])
        response = builder.sign(responder.key, hashes.SHA256())
        return response.public_bytes(serialization.Encoding.DER)

    def response(
        self,
        change: Change | None = None,
        *,
        signer: Issued | None = None,
        certificates: Sequence[Issued] | None = None,
    ) -> bytes:
        """A response with a token over ``message``, with the signer's certificate in it unless others are given."""
        change, signer = change or Change(), signer or self.signer
        info = {
            "version": "v1",
            "policy": POLICY,
            "message_imprint": imprint(MESSAGE),
            "serial_number": 4711,
            "gen_time": NOW,
            "accuracy": {"seconds": 1},
            "nonce": 99,
            **change.info,
        }
        content = tsp.TSTInfo({key: value for key, value in info.items() if value is not None}).dump()
        attributes = make_attributes(change.attributes(good_attributes(signer, content)))
        signer_info = {
            "version": "v1",
            "sid": sid(signer),
            "digest_algorithm": {"algorithm": "sha256"},
            "signature_algorithm": {"algorithm": "sha256_rsa" if is_rsa(signer) else "sha256_ecdsa"},
            "signed_attrs": attributes,
            "signature": sign(signer, attributes.untag().dump(force=True)),
            **change.signer_info,
        }
        signed_data = {
            "version": "v3",
            "digest_algorithms": [{"algorithm": "sha256"}],
            "encap_content_info": {"content_type": "tst_info", "content": cms.ParsableOctetString(content)},
            "certificates": [item.asn1 for item in (certificates if certificates is not None else [signer])],
            "signer_infos": [cms.SignerInfo(signer_info)],
            **change.signed_data,
        }
        present = {key: value for key, value in signed_data.items() if value is not None}
        token = cms.ContentInfo({"content_type": "signed_data", "content": cms.SignedData(present)}).dump()
        return encode_der(SEQUENCE, change.status, change.token(token))

    def evidence(self, change: Change | None = None, **kwargs: Any) -> TimestampEvidence:
        """A response with the root's revocation list beside it."""
        return TimestampEvidence(self.response(change, **kwargs), crls=(self.crl(),))


def imprint(message: bytes, algorithm: str = "sha256") -> dict[str, Any]:
    return {
        "hash_algorithm": {"algorithm": algorithm},
        "hashed_message": hashlib.new(algorithm, message).digest(),
    }


def sid(signer: Issued) -> cms.SignerIdentifier:
    certificate = signer.asn1
    return cms.SignerIdentifier(
        "issuer_and_serial_number",
        {"issuer": certificate.issuer, "serial_number": certificate.serial_number},
    )


def good_attributes(signer: Issued, content: bytes) -> Attributes:
    ess = {"hash_algorithm": {"algorithm": "sha256"}, "cert_hash": hashlib.sha256(signer.der).digest()}
    return [
        ("content_type", ["tst_info"]),
        ("message_digest", [core.OctetString(hashlib.sha256(content).digest())]),
        ("signing_certificate_v2", [tsp.SigningCertificateV2({"certs": [tsp.ESSCertIDv2(ess)]})]),
    ]


def make_attributes(attributes: Attributes) -> cms.CMSAttributes:
    items = [cms.CMSAttribute({"type": kind, "values": values}) for kind, values in attributes]
    return cms.CMSAttributes.load(cms.CMSAttributes(items).dump())


def is_rsa(signer: Issued) -> bool:
    return isinstance(signer.key, rsa.RSAPrivateKey)


def sign(signer: Issued, data: bytes) -> bytes:
    if isinstance(signer.key, rsa.RSAPrivateKey):
        return signer.key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    return signer.key.sign(data, ec.ECDSA(hashes.SHA256()))


@pytest.fixture(scope="session")
def maker() -> TokenMaker:
    """One infrastructure for all tests: making keys is what takes time."""
    return TokenMaker()


@pytest.fixture(scope="session")
def change() -> type[Change]:
    """The class that says what is different about a token."""
    return Change

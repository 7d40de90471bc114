"""A timestamping authority for development: RFC 3161 answers signed by a certificate that says DEVELOPMENT ONLY.

It gives demonstrations and tests the whole way of a real authority (root, certificate, revocation list, refusals)
without a network. Its tokens prove nothing to anybody else: whoever holds the state directory can state any time. The
certificate, the policy OID and every report say so.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from asn1crypto import algos, cms, core, tsp
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from anchoring.timestamp import DEVELOPMENT_MARK, DEVELOPMENT_POLICY_OID, Authority
from anchoring.timestamp.certificates import name_text, to_der
from anchoring.timestamp.der import BIT_STRING, SEQUENCE, UTF8_STRING, encode_der, encode_integer
from anchoring.tsa.request import TimestampRequest, parse_request
from identity.durable import PRIVATE, create_file
from identity.errors import DamagedFile, MalformedError, StorageError

__all__ = ["DevelopmentAuthority", "system_clock"]

_STATE_FILE = "authority.pem"
_MAX_STATE_BYTES: Final = 1 << 14
_ROOT_DAYS: Final = 7_300
_CERTIFICATE_DAYS: Final = 3_650
_CRL_DAYS: Final = 7
_CRL_REFRESH: Final = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Bits of PKIFailureInfo, RFC 3161 2.4.2.
_BAD_ALG, _BAD_REQUEST, _BAD_DATA_FORMAT, _UNACCEPTED_POLICY, _UNACCEPTED_EXTENSION = 0, 2, 5, 15, 16
_REJECTION = 2


def system_clock() -> int:
    """Milliseconds UTC by the system's clock."""
    return time.time_ns() // 10**6


@dataclass(frozen=True, slots=True)
class _State:
    root_key: ec.EllipticCurvePrivateKey
    root: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


class DevelopmentAuthority:
    """The embedded authority. Safe to use from several threads, and from several processes on one directory."""

    def __init__(self, state_dir: Path, *, clock: Callable[[], int] = system_clock) -> None:
        """Open the authority in that directory, or create it there: keys, root and certificate in one private file.

        ``clock`` gives milliseconds UTC. Raises ``StorageError`` when the directory cannot be used, ``DamagedFile``
        when the file in it is not one that was written here.
        """
        self._clock = clock
        self._state = _open_state(state_dir, _date(clock()))
        self._crl_lock = threading.Lock()
        self._crl: x509.CertificateRevocationList | None = None

    @property
    def root(self) -> bytes:
        """The root certificate, DER."""
        return to_der(self._state.root)

    @property
    def authority(self) -> Authority:
        """What a policy has to say to trust this authority."""
        return Authority(self.root, DEVELOPMENT_POLICY_OID, name_text(self._state.certificate.subject))

    def crl(self) -> bytes:
        """The root's current revocation list, DER. It is issued anew once a day, and when the clock has gone back."""
        now = _date(self._clock())
        with self._crl_lock:
            if self._crl is None or not self._crl.last_update_utc <= now < self._crl.last_update_utc + _CRL_REFRESH:
                self._crl = _issue_crl(self._state, now)
            return self._crl.public_bytes(serialization.Encoding.DER)

    def respond(self, request: bytes) -> bytes:
        """The DER answer to a DER request: a token, or a refusal that says why. Never raises for what it is sent."""
        try:
            parsed = parse_request(request)
        except MalformedError as exc:
            return _refuse(_BAD_DATA_FORMAT, str(exc))
        refusal = _objection(parsed)
        if refusal is not None:
            return _refuse(*refusal)
        # A token is only as good as revocation data from before it, so the list is brought up to date first.
        self.crl()
        return _grant(_sign_token(self._state, parsed, self._clock()))


def _objection(request: TimestampRequest) -> tuple[int, str] | None:
    """The failure bit and a text when the request must be refused."""
    if request.version != 1:
        return _BAD_REQUEST, "only version 1 is answered"
    if request.imprint_algorithm is None:
        return _BAD_ALG, "the imprint must be under SHA-256, SHA-384 or SHA-512"
    if len(request.imprint) != hashlib.new(request.imprint_algorithm).digest_size:
        return _BAD_DATA_FORMAT, "the imprint has another length than its algorithm's digests"
    if request.policy_oid not in (None, DEVELOPMENT_POLICY_OID):
        return _UNACCEPTED_POLICY, f"the only policy is {DEVELOPMENT_POLICY_OID}"
    if request.has_extensions:
        return _UNACCEPTED_EXTENSION, "no extension is known here"
    return None


def _refuse(failure_bit: int, text: str) -> bytes:
    bits = bytearray(failure_bit // 8 + 1)
    bits[-1] = 0x80 >> failure_bit % 8
    return encode_der(
        SEQUENCE,
        encode_der(
            SEQUENCE,
            encode_integer(_REJECTION),
            encode_der(SEQUENCE, encode_der(UTF8_STRING, text.encode())),
            encode_der(BIT_STRING, bytes((7 - failure_bit % 8,)), bytes(bits)),
        ),
    )


def _grant(token: bytes) -> bytes:
    return encode_der(SEQUENCE, encode_der(SEQUENCE, encode_integer(0)), token)


# The token.


def _sign_token(state: _State, request: TimestampRequest, now_ms: int) -> bytes:
    """A ContentInfo with SignedData over TSTInfo (RFC 3161 2.4.2), bound to its certificate as in RFC 5816."""
    certificate = asn1_x509.Certificate.load(to_der(state.certificate))
    info = _timestamp_info(request, certificate, now_ms).dump()
    attributes = _signed_attributes(certificate, info)
    signature = state.key.sign(attributes.untag().dump(force=True), ec.ECDSA(hashes.SHA256()))
    signer = cms.SignerInfo(
        {
            "version": "v1",
            "sid": cms.SignerIdentifier(
                "issuer_and_serial_number",
                {"issuer": certificate.issuer, "serial_number": certificate.serial_number},
            ),
            "digest_algorithm": {"algorithm": "sha256"},
            "signature_algorithm": {"algorithm": "sha256_ecdsa"},
            "signed_attrs": attributes,
            "signature": signature,
        }
    )
    signed_data = {
        "version": "v3",
        "digest_algorithms": [{"algorithm": "sha256"}],
        "encap_content_info": {"content_type": "tst_info", "content": cms.ParsableOctetString(info)},
        "signer_infos": [signer],
    }
    if request.wants_certificate:
        signed_data["certificates"] = [certificate]
    content = cms.SignedData(signed_data)
    return bytes(cms.ContentInfo({"content_type": "signed_data", "content": content}).dump())


def _timestamp_info(request: TimestampRequest, certificate: asn1_x509.Certificate, now_ms: int) -> tsp.TSTInfo:
    fields = {
        "version": "v1",
        "policy": DEVELOPMENT_POLICY_OID,
        "message_imprint": tsp.MessageImprint.load(request.imprint_der),
        "serial_number": secrets.randbits(127) | 1 << 127,
        "gen_time": _EPOCH + timedelta(milliseconds=now_ms),
        # It reads the clock that its users read: what remains is the rounding to milliseconds.
        "accuracy": {"millis": 1},
        "tsa": asn1_x509.GeneralName("directory_name", certificate.subject),
    }
    if request.nonce is not None:
        fields["nonce"] = request.nonce
    return tsp.TSTInfo(fields)


def _signed_attributes(certificate: asn1_x509.Certificate, info: bytes) -> cms.CMSAttributes:
    identifier = tsp.ESSCertIDv2(
        {
            "hash_algorithm": algos.DigestAlgorithm({"algorithm": "sha256"}),
            "cert_hash": hashlib.sha256(certificate.dump()).digest(),
        }
    )
    attributes = cms.CMSAttributes(
        [
            _attribute("content_type", "tst_info"),
            _attribute("message_digest", core.OctetString(hashlib.sha256(info).digest())),
            _attribute("signing_certificate_v2", tsp.SigningCertificateV2({"certs": [identifier]})),
        ]
    )
    # A SET OF is signed in DER order, into which only loading from bytes brings it.
    return cms.CMSAttributes.load(attributes.dump())


def _attribute(name: str, value: object) -> cms.CMSAttribute:
    return cms.CMSAttribute({"type": name, "values": (value,)})


# Keys, certificates and the revocation list.


def _open_state(state_dir: Path, now: datetime) -> _State:
    path = state_dir / _STATE_FILE
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _write_once(path, _encode_state(_create_state(now)))
        with path.open("rb") as file:
            data = file.read(_MAX_STATE_BYTES + 1)
    except OSError as exc:
        raise StorageError(f"development authority in {state_dir}: {exc.strerror}") from exc
    return _parse_state(data, path)


def _write_once(path: Path, data: bytes) -> None:
    """Create the file whole and private; leave it alone when somebody else was faster."""
    with contextlib.suppress(FileExistsError):
        create_file(path, data, mode=PRIVATE)


def _encode_state(state: _State) -> bytes:
    parts = []
    for key, certificate in ((state.root_key, state.root), (state.key, state.certificate)):
        parts.append(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        parts.append(certificate.public_bytes(serialization.Encoding.PEM))
    return b"".join(parts)


def _parse_state(data: bytes, path: Path) -> _State:
    marker = b"-----BEGIN "
    blocks = [marker + block for block in data.split(marker)[1:]]
    try:
        root_key, root, key, certificate = blocks
        return _State(
            root_key=_load_key(root_key),
            root=x509.load_pem_x509_certificate(root),
            key=_load_key(key),
            certificate=x509.load_pem_x509_certificate(certificate),
        )
    except (ValueError, TypeError) as exc:
        raise DamagedFile(f"{path} is not a development authority's state") from exc


def _load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("not an EC key")
    return key


def _create_state(now: datetime) -> _State:
    # Homes are told apart by this mark, so that a policy for one does not fit another.
    mark = secrets.token_hex(4)
    root_name = _name(f"holdfast root {mark} {DEVELOPMENT_MARK}")
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = (
        _builder(root_name, root_name, root_key.public_key(), now, _ROOT_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(sign=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(root_key.public_key()), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    certificate = (
        _builder(_name(f"holdfast TSA {mark} {DEVELOPMENT_MARK}"), root_name, key.public_key(), now, _CERTIFICATE_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    return _State(root_key, root, key, certificate)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # A day of slack: the clock may be set back a little after the first start.
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
    )


def _key_usage(*, sign: bool) -> x509.KeyUsage:
    """For signatures, or for certificates and revocation lists."""
    return x509.KeyUsage(
        digital_signature=sign,
        content_commitment=sign,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not sign,
        crl_sign=not sign,
        encipher_only=False,
        decipher_only=False,
    )


def _issue_crl(state: _State, now: datetime) -> x509.CertificateRevocationList:
    return (
        x509.CertificateRevocationListBuilder()
        .issuer_name(state.root.subject)
        .last_update(now)
        .next_update(now + timedelta(days=_CRL_DAYS))
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(state.root_key.public_key()), critical=False)
        # RFC 5280 5.2.3: numbers grow. Seconds since 1970 do, and need no memory.
        .add_extension(x509.CRLNumber(int((now - _EPOCH).total_seconds())), critical=False)
        .sign(state.root_key, hashes.SHA256())
    )


def _date(milliseconds: int) -> datetime:
    """Whole seconds, which is all that certificates and CRLs can say; rounded down, so never after a token's time."""
    return _EPOCH + timedelta(seconds=milliseconds // 1000)

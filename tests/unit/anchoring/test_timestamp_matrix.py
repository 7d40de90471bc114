"""The verifier matrix and the revocation matrix: each row one token with one thing wrong, and what three verifiers say.

OpenSSL and rfc3161-client are the oracles. Where they accept what we refuse, the row says so: those are the checks
that nobody makes for us.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import cms, core, tsp
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from anchoring.timestamp import TimestampEvidence, verify_token
from anchoring.timestamp.der import SEQUENCE, encode_der, encode_integer
from identity.errors import ImprintMismatch, MalformedError, TokenRejected, TokenUndecided

OK = "OK"
Maker = Any
Make = Callable[[Maker, Any], tuple[TimestampEvidence, dict[str, Any]]]


@dataclass(frozen=True)
class Row:
    """``make`` returns evidence and further arguments of ``verify_token``; the rest is what each verifier said."""

    ours: str
    openssl: bool
    rfc3161_client: bool
    make: Make
    message: bytes | None = None


def changed(**changes: Any) -> Make:
    return lambda maker, change: (maker.evidence(change(**changes)), {})


def signed_by(**issued: Any) -> Make:
    """A token by another certificate, which the policy names."""

    def make(maker: Maker, change: Any) -> tuple[TimestampEvidence, dict[str, Any]]:
        return maker.evidence(signer=maker.issue("TSA", issuer=maker.root, **issued)), {}

    return make


def without(kind: str) -> Callable[[Any], Any]:
    return lambda attributes: [item for item in attributes if item[0] != kind]


def replaced(kind: str, *values: Any) -> Callable[[Any], Any]:
    return lambda attributes: [(name, list(values) if name == kind else old) for name, old in attributes]


def twice(kind: str) -> Callable[[Any], Any]:
    return lambda attributes: attributes + [item for item in attributes if item[0] == kind]


def ess(digest: bytes, algorithm: str = "sha256") -> tsp.SigningCertificateV2:
    identifier = tsp.ESSCertIDv2({"hash_algorithm": {"algorithm": algorithm}, "cert_hash": digest})
    return tsp.SigningCertificateV2({"certs": [identifier]})


def flip(position: Callable[[bytes], int]) -> Callable[[bytes], bytes]:
    def apply(token: bytes) -> bytes:
        altered = bytearray(token)
        altered[position(token)] ^= 1
        return bytes(altered)

    return apply


def other_root(maker: Maker, change: Any) -> tuple[TimestampEvidence, dict[str, Any]]:
    impostor = maker.issue("Root", ca=True)
    signer = maker.issue("TSA", issuer=impostor)
    return TimestampEvidence(maker.response(signer=signer), crls=(maker.crl(impostor),)), {}


def two_signers(maker: Maker, change: Any) -> tuple[TimestampEvidence, dict[str, Any]]:
    token = cms.ContentInfo.load(tsp.TimeStampResp.load(maker.response())["time_stamp_token"].dump())
    signers = list(token["content"]["signer_infos"])
    other = signers[0].copy()
    other["signature"] = b"\x30\x06\x02\x01\x01\x02\x01\x01"
    return maker.evidence(change(signed_data={"signer_infos": [signers[0], other]})), {}


def sha1_ess(maker: Maker, change: Any) -> tuple[TimestampEvidence, dict[str, Any]]:
    identifier = tsp.ESSCertID({"cert_hash": hashlib.sha1(maker.signer.der).digest()})
    old = ("signing_certificate", [tsp.SigningCertificate({"certs": [identifier]})])
    drop = without("signing_certificate_v2")
    return maker.evidence(change(attributes=lambda attributes: [*drop(attributes), old])), {}


def unsigned_attributes(maker: Maker, change: Any) -> tuple[TimestampEvidence, dict[str, Any]]:
    note = cms.CMSAttribute({"type": "1.2.3.4", "values": [core.OctetString(b"note")]})
    return maker.evidence(change(signer_info={"unsigned_attrs": [note]})), {}


EXTENSION = {"extn_id": "1.2.3.4", "critical": True, "extn_value": b"?"}
MODS = encode_der(SEQUENCE, encode_integer(1))
TEXT = encode_der(SEQUENCE, encode_integer(0), encode_der(SEQUENCE, encode_der(0x0C, b"Operation Okay")))
CODE_SIGNING = ExtendedKeyUsageOID.CODE_SIGNING
TIME_STAMPING = ExtendedKeyUsageOID.TIME_STAMPING


def usage(**flags: bool) -> x509.KeyUsage:
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign "
        "encipher_only decipher_only"
    )
    return x509.KeyUsage(**{name: flags.get(name, False) for name in names.split()})


VERIFIER: dict[str, Row] = {
    "genuine": Row(OK, True, True, lambda maker, change: (maker.evidence(), {})),
    "genuine-rsa": Row(
        OK, True, True, lambda m, c: (m.evidence(signer=m.issue("TSA", issuer=m.root, key=m.rsa_key)), {})
    ),
    "gen-time-altered": Row(
        "MESSAGE_DIGEST", False, False, changed(token=flip(lambda token: token.index(b"20260601120000Z") + 13))
    ),
    "signature-altered": Row("SIGNATURE", False, False, changed(token=flip(lambda token: len(token) - 1))),
    "eku-not-critical": Row("EXTENDED_KEY_USAGE", False, False, signed_by(eku_critical=False)),
    "eku-missing": Row("EXTENDED_KEY_USAGE", False, False, signed_by(eku=None)),
    "eku-code-signing": Row("EXTENDED_KEY_USAGE", False, False, signed_by(eku=[CODE_SIGNING])),
    "eku-extra-purpose": Row("EXTENDED_KEY_USAGE", False, False, signed_by(eku=[TIME_STAMPING, CODE_SIGNING])),
    "key-usage-beyond-signing": Row(
        "KEY_USAGE", False, False, signed_by(key_usage=usage(digital_signature=True, key_agreement=True))
    ),
    "other-root-same-name": Row("PATH", False, False, other_root),
    "wrong-nonce": Row("NONCE", True, False, lambda maker, change: (maker.evidence(), {"nonce": 98})),
    "absent-nonce": Row("NONCE", True, False, lambda m, c: (m.evidence(c(info={"nonce": None})), {"nonce": 99})),
    "expired-before": Row("VALIDITY", False, False, signed_by(not_after=timedelta(days=-1))),
    "not-yet-valid": Row("VALIDITY", False, False, signed_by(not_before=timedelta(days=1))),
    "ess-v2-wrong": Row(
        "ESS_MISMATCH", False, True, changed(attributes=replaced("signing_certificate_v2", ess(bytes(32))))
    ),
    "ess-absent": Row("ESS_ABSENT", False, True, changed(attributes=without("signing_certificate_v2"))),
    "ess-v1-only": Row("ESS_SHA1", True, True, sha1_ess),
    "ess-v2-sha1": Row(
        "ESS_SHA1", False, True, changed(attributes=replaced("signing_certificate_v2", ess(bytes(20), "sha1")))
    ),
    "content-type-wrong": Row("CONTENT_TYPE", True, True, changed(attributes=replaced("content_type", "data"))),
    "content-type-absent": Row("CONTENT_TYPE", True, True, changed(attributes=without("content_type"))),
    "attribute-twice": Row("DUPLICATE_ATTRIBUTE", True, True, changed(attributes=twice("content_type"))),
    "attribute-multi-valued": Row(
        "DUPLICATE_ATTRIBUTE", True, True, changed(attributes=replaced("content_type", "data", "tst_info"))
    ),
    "granted-with-mods": Row("STATUS", True, False, changed(status=MODS)),
    "status-text": Row("STATUS_TEXT", True, True, changed(status=TEXT)),
    "other-policy": Row("POLICY", True, True, changed(info={"policy": "1.2.3.4.6"})),
    "two-signers": Row("SIGNER_COUNT", False, False, two_signers),
    "unsigned-attributes": Row("UNSIGNED_ATTRIBUTES", True, True, unsigned_attributes),
    "ca-certificate": Row("CA_CERTIFICATE", True, True, signed_by(ca=True)),
    "imprint-sha512": Row(
        "IMPRINT_ALGORITHM",
        True,
        True,
        lambda m, c: (m.evidence(c(info={"message_imprint": m.imprint(m.message, "sha512")})), {}),
    ),
    "imprint-sha1": Row(
        "IMPRINT_ALGORITHM",
        True,
        False,
        lambda m, c: (m.evidence(c(info={"message_imprint": m.imprint(m.message, "sha1")})), {}),
    ),
    "info-critical-extension": Row("CRITICAL_EXTENSION", True, True, changed(info={"extensions": [EXTENSION]})),
    "other-subject": Row("SUBJECT", True, True, lambda m, c: (m.evidence(signer=m.issue("TSA 2", issuer=m.root)), {})),
    "root-as-signer": Row("EXTENDED_KEY_USAGE", False, False, lambda m, c: (m.evidence(signer=m.root), {})),
    "info-version-2": Row("INFO_VERSION", False, True, changed(info={"version": "v2"})),
    "other-message": Row(
        "ImprintMismatch", False, False, lambda maker, change: (maker.evidence(), {}), message=b"other"
    ),
    "no-certificate": Row("SIGNER_CERTIFICATE", False, False, changed(signed_data={"certificates": None})),
}

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def crl(**arguments: Any) -> Callable[[Maker], TimestampEvidence]:
    """Evidence whose CRL lists the signer, as revoked at ``revoked``, when that is given."""
    revoked = arguments.pop("revoked", None)

    def make(maker: Maker) -> TimestampEvidence:
        listed = [] if revoked is None else [(maker.signer, revoked)]
        return TimestampEvidence(maker.response(), crls=(maker.crl(revoked=listed, **arguments),))

    return make


REVOCATION: dict[str, tuple[str, timedelta, Callable[[Maker], TimestampEvidence]]] = {
    "clean-crl": (OK, timedelta(0), crl()),
    "no-crl": ("REVOCATION_MISSING", timedelta(0), lambda maker: TimestampEvidence(maker.response())),
    "revoked-before": ("REVOKED", timedelta(0), crl(revoked=-HOUR)),
    "revoked-at-that-second": ("REVOKED", timedelta(0), crl(revoked=timedelta(0))),
    "key-invalid-before": ("REVOKED", timedelta(0), crl(revoked=HOUR, invalid_since=-HOUR)),
    "stale-crl": ("REVOCATION_STALE", timedelta(0), crl(this_update=-2 * DAY, next_update=-DAY)),
    "crl-issued-later": ("REVOCATION_TOO_NEW", timedelta(0), crl(this_update=HOUR)),
    "revoked-later-judged-then": (OK, timedelta(0), crl(revoked=HOUR)),
    "revoked-later-judged-later": ("REVOKED_NO_POE", 2 * HOUR, crl(revoked=HOUR)),
    "crl-of-another-key": (
        "REVOCATION_SIGNATURE",
        timedelta(0),
        lambda maker: TimestampEvidence(maker.response(), crls=(maker.crl(maker.issue("Root", ca=True)),)),
    ),
    "crl-of-another-authority": (
        "UNUSED_MATERIAL",
        timedelta(0),
        lambda maker: TimestampEvidence(maker.response(), crls=(maker.crl(maker.issue("Other", ca=True)),)),
    ),
}


@pytest.mark.parametrize("row", VERIFIER.values(), ids=VERIFIER.keys())
def test_verifier_matrix(row: Row, maker: Maker, change: Any) -> None:
    evidence, arguments = row.make(maker, change)
    assert outcome(evidence, row.message or maker.message, maker, **arguments) == row.ours


@pytest.mark.parametrize(("reason", "later", "make"), REVOCATION.values(), ids=REVOCATION.keys())
def test_revocation_matrix(
    reason: str, later: timedelta, make: Callable[[Maker], TimestampEvidence], maker: Maker
) -> None:
    at_ms = maker.now_ms + int(later.total_seconds() * 1000)
    assert outcome(make(maker), maker.message, maker, at_ms=at_ms) == reason


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize("row", VERIFIER.values(), ids=VERIFIER.keys())
def test_what_openssl_says(row: Row, maker: Maker, change: Any, tmp_path: Path) -> None:
    evidence, _ = row.make(maker, change)
    (tmp_path / "message").write_bytes(row.message or maker.message)
    (tmp_path / "reply").write_bytes(evidence.response)
    (tmp_path / "root.pem").write_bytes(maker.root.certificate.public_bytes(Encoding.PEM))
    command = ["openssl", "ts", "-verify", "-data", "message", "-in", "reply", "-CAfile", "root.pem", "-attime"]
    done = subprocess.run([*command, str(maker.now_ms // 1000)], cwd=tmp_path, capture_output=True, check=False)
    check_oracle(row, accepted=done.returncode == 0, expected=row.openssl)


@pytest.mark.parametrize("row", VERIFIER.values(), ids=VERIFIER.keys())
def test_what_rfc3161_client_says(row: Row, maker: Maker, change: Any) -> None:
    client = pytest.importorskip("rfc3161_client", reason="rfc3161-client is not installed")
    evidence, arguments = row.make(maker, change)
    root = x509.load_der_x509_certificate(maker.root.der)
    try:
        response = client.decode_timestamp_response(evidence.response)
        verifier = client.VerifierBuilder().add_root_certificate(root).nonce(arguments.get("nonce", 99)).build()
        accepted = verifier.verify_message(response, row.message or maker.message)
    except (client.VerificationError, ValueError):
        accepted = False
    check_oracle(row, accepted=accepted, expected=row.rfc3161_client)


def check_oracle(row: Row, *, accepted: bool, expected: bool) -> None:
    """We accept only what the oracle accepts. One that has become stricter than it was is no fault of ours."""
    assert accepted or row.ours != OK
    assert expected or not accepted


def outcome(evidence: TimestampEvidence, message: bytes, maker: Maker, **arguments: Any) -> str:
    """``OK``, the reason of the refusal, or the error's name."""
    try:
        verify_token(evidence, message, maker.authority, **{"at_ms": maker.now_ms, **arguments})
    except (TokenRejected, TokenUndecided) as exc:
        return exc.reason
    except (ImprintMismatch, MalformedError) as exc:
        return type(exc).__name__
    return OK

"""The verifier matrix: one token with one thing wrong a row, from RSA and ECDSA authorities, and what four tools say.

Where another tool accepts what we refuse, ``why`` says why we are stricter. A row fails when any tool changes its mind:
then the row is to be looked at again. The tokens are judged as they are when they have just been acquired.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from asn1crypto import cms, core, tsp
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from anchoring.timestamp import TimestampEvidence
from anchoring.timestamp.der import SEQUENCE, encode_der, encode_integer

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed"),
]

OK = "OK"
Maker = Any
Make = Callable[[Maker, Any], TimestampEvidence]

MALLEABLE = "nobody signs it: bytes could be altered unnoticed"


@dataclass(frozen=True)
class Row:
    """What holdfast, openssl ts, rfc3161-client and pyHanko say; ``why`` we refuse what one of them accepts."""

    make: Make
    ours: str
    openssl: bool
    rfc3161_client: bool
    pyhanko: bool
    why: str = ""
    message: bytes | None = None


def changed(**changes: Any) -> Make:
    return lambda maker, change: maker.evidence(change(**changes))


def signed_by(name: str = "TSA", **issued: Any) -> Make:
    return lambda maker, change: maker.evidence(signer=maker.issue(name, issuer=maker.root, **issued))


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


def other_root(maker: Maker, change: Any) -> TimestampEvidence:
    impostor = maker.issue("Root", ca=True)
    return TimestampEvidence(maker.response(signer=maker.issue("TSA", issuer=impostor)), crls=(maker.crl(impostor),))


def two_signers(maker: Maker, change: Any) -> TimestampEvidence:
    """Both genuine: the second signs the same with another certificate of the same root."""
    tokens = [
        cms.ContentInfo.load(tsp.TimeStampResp.load(maker.response(signer=signer))["time_stamp_token"].dump())
        for signer in (maker.signer, maker.issue("TSA", issuer=maker.root))
    ]
    signers = [token["content"]["signer_infos"][0] for token in tokens]
    certificates = [token["content"]["certificates"][0] for token in tokens]
    return maker.evidence(change(signed_data={"signer_infos": signers, "certificates": certificates}))


def no_signer(maker: Maker, change: Any) -> TimestampEvidence:
    return maker.evidence(change(signed_data={"signer_infos": []}))


def sha1_ess(maker: Maker, change: Any) -> TimestampEvidence:
    identifier = tsp.ESSCertID({"cert_hash": hashlib.sha1(maker.signer.der).digest()})
    old = ("signing_certificate", [tsp.SigningCertificate({"certs": [identifier]})])
    drop = without("signing_certificate_v2")
    return maker.evidence(change(attributes=lambda attributes: [*drop(attributes), old]))


def ess_v2_sha1(maker: Maker, change: Any) -> TimestampEvidence:
    """The hash is right; the algorithm is not one that binds."""
    value = ess(hashlib.sha1(maker.signer.der).digest(), "sha1")
    return maker.evidence(change(attributes=replaced("signing_certificate_v2", value)))


def unsigned_attributes(maker: Maker, change: Any) -> TimestampEvidence:
    note = cms.CMSAttribute({"type": "1.2.3.4", "values": [core.OctetString(b"note")]})
    return maker.evidence(change(signer_info={"unsigned_attrs": [note]}))


def chain(maker: Maker, change: Any, *, inside: bool) -> TimestampEvidence:
    middle = maker.issue("Middle", issuer=maker.root, ca=True, eku=None)
    signer = maker.issue("TSA", issuer=middle)
    response = maker.response(signer=signer, certificates=[signer, middle] if inside else [signer])
    beside = () if inside else (middle.der,)
    return TimestampEvidence(response, beside, crls=(maker.crl(middle), maker.crl()))


def not_a_ca(maker: Maker, change: Any) -> TimestampEvidence:
    """Somebody with an ordinary certificate of the root issues a timestamping one."""
    middle = maker.issue("Middle", issuer=maker.root, eku=None)
    signer = maker.issue("TSA", issuer=middle)
    response = maker.response(signer=signer, certificates=[signer, middle])
    return TimestampEvidence(response, crls=(maker.crl(middle), maker.crl()))


def bytes_after(count: int) -> Make:
    def make(maker: Maker, change: Any) -> TimestampEvidence:
        good = maker.evidence()
        return TimestampEvidence(good.response + bytes(count), crls=good.crls)

    return make


def garbage(size: int) -> Make:
    return lambda maker, change: TimestampEvidence(bytes(number % 251 for number in range(size)), crls=(maker.crl(),))


def long_form(maker: Maker, change: Any) -> TimestampEvidence:
    """The outer length in one byte more than it takes: BER, and not DER."""
    good = maker.evidence()
    assert good.response[1] == 0x82
    return TimestampEvidence(b"\x30\x83\x00" + good.response[2:], crls=good.crls)


def imprint_by(algorithm: str) -> Make:
    return lambda maker, change: maker.evidence(
        change(info={"message_imprint": maker.imprint(maker.message, algorithm)})
    )


def usage(**flags: bool) -> x509.KeyUsage:
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign "
        "encipher_only decipher_only"
    )
    return x509.KeyUsage(**{name: flags.get(name, False) for name in names.split()})


EXTENSION = {"extn_id": "1.2.3.4", "critical": True, "extn_value": b"?"}
MODS = encode_der(SEQUENCE, encode_integer(1))
REJECTION = encode_der(SEQUENCE, encode_integer(2))
TEXT = encode_der(SEQUENCE, encode_integer(0), encode_der(SEQUENCE, encode_der(0x0C, b"Operation Okay")))
CODE_SIGNING = ExtendedKeyUsageOID.CODE_SIGNING
TIME_STAMPING = ExtendedKeyUsageOID.TIME_STAMPING
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def dated(offset: timedelta) -> Make:
    return lambda maker, change: maker.evidence(change(info={"gen_time": maker.now + offset}))


ROWS: dict[str, Row] = {
    "genuine": Row(lambda m, c: m.evidence(), OK, True, True, True),
    "accuracy-absent": Row(changed(info={"accuracy": None}), OK, True, True, True),
    "chain-inside": Row(lambda m, c: chain(m, c, inside=True), OK, True, True, True),
    "chain-beside": Row(lambda m, c: chain(m, c, inside=False), OK, True, True, True),
    "gen-time-altered": Row(
        changed(token=flip(lambda token: token.index(b"20260601120000Z") + 13)), "MESSAGE_DIGEST", False, False, False
    ),
    "signature-altered": Row(changed(token=flip(lambda token: len(token) - 1)), "SIGNATURE", False, False, False),
    "eku-not-critical": Row(
        signed_by(eku_critical=False),
        "EXTENDED_KEY_USAGE",
        False,
        False,
        True,
        "RFC 3161 2.3: the extension is critical",
    ),
    "eku-missing": Row(signed_by(eku=None), "EXTENDED_KEY_USAGE", False, False, False),
    "eku-code-signing": Row(signed_by(eku=[CODE_SIGNING]), "EXTENDED_KEY_USAGE", False, False, False),
    "eku-extra-purpose": Row(
        signed_by(eku=[TIME_STAMPING, CODE_SIGNING]),
        "EXTENDED_KEY_USAGE",
        False,
        False,
        True,
        "RFC 3161 2.3: timestamping and nothing else",
    ),
    "key-usage-beyond-signing": Row(
        signed_by(key_usage=usage(digital_signature=True, key_agreement=True)),
        "KEY_USAGE",
        False,
        False,
        True,
        "a key that also encrypts is no authority's",
    ),
    "key-usage-not-signing": Row(
        signed_by(key_usage=usage(key_encipherment=True)),
        "KEY_USAGE",
        False,
        False,
        True,
        "the key is not for signatures",
    ),
    "other-root-same-name": Row(other_root, "PATH", False, False, False),
    "issuer-is-no-ca": Row(not_a_ca, "PATH", False, False, False),
    "wrong-nonce": Row(
        changed(info={"nonce": 98}), "NONCE", False, False, True, "pyHanko leaves the nonce to its caller"
    ),
    "absent-nonce": Row(
        changed(info={"nonce": None}), "NONCE", False, False, True, "pyHanko leaves the nonce to its caller"
    ),
    "expired-before-gen-time": Row(signed_by(not_after=-DAY), "VALIDITY", False, False, False),
    "not-yet-valid": Row(signed_by(not_before=DAY), "VALIDITY", False, False, False),
    "gen-time-in-the-future": Row(
        dated(2 * HOUR),
        "CLOCK",
        True,
        True,
        True,
        "a verifier of old tokens cannot compare with a clock; who acquires one can",
    ),
    "gen-time-in-the-past": Row(
        dated(-HOUR),
        "CLOCK",
        True,
        True,
        True,
        "a verifier of old tokens cannot compare with a clock; who acquires one can",
    ),
    "ess-v2-wrong": Row(
        changed(attributes=replaced("signing_certificate_v2", ess(bytes(32)))),
        "ESS_MISMATCH",
        False,
        True,
        False,
        "rfc3161-client does not compare the hash: another certificate of the same key could be put in",
    ),
    "ess-absent": Row(
        changed(attributes=without("signing_certificate_v2")),
        "ESS_ABSENT",
        False,
        True,
        True,
        "RFC 5816: without it another certificate of the same key could be put in",
    ),
    "ess-v1-only": Row(sha1_ess, "ESS_SHA1", True, True, True, "SHA-1 binds nothing any more"),
    "ess-v2-sha1": Row(ess_v2_sha1, "ESS_SHA1", True, True, True, "SHA-1 binds nothing any more"),
    "content-type-wrong": Row(
        changed(attributes=replaced("content_type", "data")),
        "CONTENT_TYPE",
        True,
        True,
        False,
        "RFC 5652 11.1: a signature over other content could be passed off as one over TSTInfo",
    ),
    "content-type-absent": Row(
        changed(attributes=without("content_type")),
        "CONTENT_TYPE",
        True,
        True,
        False,
        "RFC 5652 11.1: a signature over other content could be passed off as one over TSTInfo",
    ),
    "message-digest-absent": Row(changed(attributes=without("message_digest")), "MESSAGE_DIGEST", False, False, False),
    "attribute-twice": Row(
        changed(attributes=twice("content_type")),
        "DUPLICATE_ATTRIBUTE",
        True,
        True,
        False,
        "RFC 5652 5.3: readers that take the first and readers that take the last would differ",
    ),
    "message-digest-twice": Row(
        changed(attributes=twice("message_digest")),
        "DUPLICATE_ATTRIBUTE",
        True,
        True,
        False,
        "RFC 5652 5.3: readers that take the first and readers that take the last would differ",
    ),
    "attribute-multi-valued": Row(
        changed(attributes=replaced("content_type", "data", "tst_info")),
        "DUPLICATE_ATTRIBUTE",
        True,
        True,
        False,
        "RFC 5652 11: exactly one value",
    ),
    "granted-with-mods": Row(changed(status=MODS), "STATUS", True, False, True, "what was modified is not said"),
    "rejection-with-a-token": Row(
        changed(status=REJECTION), "STATUS", False, False, True, "pyHanko is given the token alone"
    ),
    "status-text": Row(changed(status=TEXT), "STATUS_TEXT", True, True, True, MALLEABLE),
    "other-policy": Row(
        changed(info={"policy": "1.2.3.4.6"}),
        "POLICY",
        False,
        True,
        True,
        "the policy is part of what is trusted; openssl compares it with the query",
    ),
    "two-signers": Row(two_signers, "SIGNER_COUNT", False, False, False),
    "no-signer": Row(no_signer, "SIGNER_COUNT", False, False, False),
    "unsigned-attributes": Row(unsigned_attributes, "UNSIGNED_ATTRIBUTES", True, True, True, MALLEABLE),
    "ca-certificate-as-signer": Row(
        signed_by(ca=True),
        "CA_CERTIFICATE",
        True,
        True,
        True,
        "who can issue certificates is not to state times: an old fault of another verifier",
    ),
    "root-as-signer": Row(
        lambda m, c: m.evidence(signer=m.root),
        "EXTENDED_KEY_USAGE",
        False,
        False,
        True,
        "the root is trusted to issue, not to stamp",
    ),
    "other-subject": Row(
        signed_by("TSA 2"), "SUBJECT", True, True, True, "the policy names one authority under the root, not all"
    ),
    "imprint-sha512": Row(
        imprint_by("sha512"), "IMPRINT_ALGORITHM", False, True, True, "section 4 of the specification: one imprint"
    ),
    "imprint-sha1": Row(
        imprint_by("sha1"),
        "IMPRINT_ALGORITHM",
        False,
        False,
        True,
        "section 4 of the specification: one imprint; pyHanko is given the digest of the token",
    ),
    "imprint-md5": Row(
        imprint_by("md5"),
        "IMPRINT_ALGORITHM",
        False,
        False,
        True,
        "section 4 of the specification: one imprint; pyHanko is given the digest of the token",
    ),
    "imprint-of-other-bytes": Row(
        lambda m, c: m.evidence(),
        "ImprintMismatch",
        False,
        False,
        True,
        "pyHanko is given the digest of the token",
        message=b"other",
    ),
    "info-critical-extension": Row(
        changed(info={"extensions": [EXTENSION]}),
        "CRITICAL_EXTENSION",
        True,
        True,
        True,
        "RFC 5280 4.2: what is critical and unknown refuses",
    ),
    "info-version-2": Row(
        changed(info={"version": "v2"}), "INFO_VERSION", False, True, True, "only version 1 is known"
    ),
    "no-certificate": Row(changed(signed_data={"certificates": None}), "SIGNER_CERTIFICATE", False, False, False),
    "certificate-twice": Row(
        lambda m, c: m.evidence(certificates=[m.signer, m.signer]), "SIGNER_CERTIFICATE", True, True, True, MALLEABLE
    ),
    "certificate-too-many": Row(
        lambda m, c: m.evidence(certificates=[m.signer, m.issue("TSA 2", issuer=m.root)]),
        "UNUSED_MATERIAL",
        True,
        True,
        True,
        MALLEABLE,
    ),
    "bytes-after": Row(bytes_after(1), "MalformedError", True, False, False, MALLEABLE),
    "not-der": Row(long_form, "MalformedError", True, False, True, MALLEABLE),
    "empty": Row(garbage(0), "MalformedError", False, False, False),
    "garbage-1-kib": Row(garbage(1 << 10), "MalformedError", False, False, False),
    "garbage-1-mib": Row(garbage(1 << 20), "LimitExceeded", False, False, False),
}


@pytest.mark.parametrize("name", ROWS)
def test_row(name: str, maker: Maker, change: Any, new_case: Any, ask_all: Any) -> None:
    row = ROWS[name]
    case = new_case(row.make(maker, change), row.message or maker.message, maker.authority, maker.now_ms)
    assert ask_all(case) == (row.ours, row.openssl, row.rfc3161_client, row.pyhanko)


@pytest.mark.parametrize("name", ROWS)
def test_where_we_are_stricter_the_row_says_why(name: str) -> None:
    row = ROWS[name]
    others = (row.openssl, row.rfc3161_client, row.pyhanko)
    assert bool(row.why) == (row.ours != OK and any(others))
    assert row.ours != OK or all(others), "what we accept, everybody accepts"

"""Verification beyond the matrix: times, paths, material, what has become of the certificate since, and mutations."""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import timedelta
from typing import Any

import pytest
from asn1crypto import cms, tsp
from asn1crypto import crl as asn1_crl
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from anchoring.timestamp import (
    UNSTATED_ACCURACY_MS,
    Authority,
    TimestampEvidence,
    VerifiedToken,
    match_authority,
    verify_token,
)
from anchoring.timestamp.der import SEQUENCE, encode_der, encode_integer
from anchoring.timestamp.independence import path_keys
from identity.errors import ImprintMismatch, LimitExceeded, MalformedError, TokenRejected, TokenUndecided

DAY_MS = 86_400_000
HOUR = timedelta(hours=1)
OCSP_SIGNING = ExtendedKeyUsageOID.OCSP_SIGNING


def verify(maker: Any, evidence: TimestampEvidence, **arguments: Any) -> VerifiedToken:
    arguments.setdefault("at_ms", maker.now_ms)
    return verify_token(evidence, maker.message, arguments.pop("authority", maker.authority), **arguments)


def reason(maker: Any, evidence: TimestampEvidence, **arguments: Any) -> str:
    with pytest.raises((TokenRejected, TokenUndecided)) as caught:
        verify(maker, evidence, **arguments)
    found: str = caught.value.reason
    return found


# What a token says.


def test_what_is_verified(maker: Any) -> None:
    assert verify(maker, maker.evidence(), nonce=99) == VerifiedToken(
        gen_time_ms=maker.now_ms,
        accuracy_ms=1000,
        earliest_ms=maker.now_ms - 1000,
        latest_ms=maker.now_ms + 1000,
        authority="CN=TSA",
        policy_oid=maker.policy,
        serial=4711,
        development=False,
        expires_ms=maker.now_ms + 365 * DAY_MS,
        keys=path_keys([maker.signer.certificate, maker.root.certificate]),
    )


def test_times_round_away_from_each_other(maker: Any, change: Any) -> None:
    token = verify(
        maker,
        maker.evidence(
            change(info={"gen_time": maker.now + timedelta(microseconds=1_500), "accuracy": {"micros": 200}})
        ),
    )
    assert token.gen_time_ms == maker.now_ms + 1
    assert (token.earliest_ms, token.latest_ms) == (maker.now_ms + 1, maker.now_ms + 2)
    assert token.accuracy_ms == 1


def test_unstated_accuracy_counts_as_a_second(maker: Any, change: Any) -> None:
    token = verify(maker, maker.evidence(change(info={"accuracy": None})))
    assert token.latest_ms - token.gen_time_ms == token.gen_time_ms - token.earliest_ms == UNSTATED_ACCURACY_MS


def test_stated_zero_accuracy_is_believed(maker: Any, change: Any) -> None:
    token = verify(maker, maker.evidence(change(info={"accuracy": {"seconds": 0}})))
    assert token.earliest_ms == token.latest_ms == token.gen_time_ms


def test_development_is_marked(maker: Any) -> None:
    signer = maker.issue("TSA DEVELOPMENT ONLY", issuer=maker.root)
    authority = Authority(maker.root.der, maker.policy, signer.subject)
    assert verify(maker, maker.evidence(signer=signer), authority=authority).development


def test_a_key_identifier_names_the_signer_too(maker: Any, change: Any) -> None:
    identifier = cms.SignerIdentifier("subject_key_identifier", maker.signer.asn1.key_identifier)
    by_key = change(signer_info={"version": "v3", "sid": identifier})
    assert verify(maker, maker.evidence(by_key)).authority == "CN=TSA"
    unknown = cms.SignerIdentifier("subject_key_identifier", bytes(20))
    other = change(signer_info={"version": "v3", "sid": unknown})
    assert reason(maker, maker.evidence(other)) == "SIGNER_CERTIFICATE"
    assert reason(maker, maker.evidence(change(signer_info={"sid": identifier}))) == "CMS_VERSION"


def test_larger_digests_sign_too(maker: Any, change: Any) -> None:
    wrong = change(signer_info={"digest_algorithm": {"algorithm": "sha512"}})
    assert reason(maker, maker.evidence(wrong)) == "DIGEST_ALGORITHM"
    mixed = change(
        signer_info={"digest_algorithm": {"algorithm": "sha512"}},
        signed_data={"digest_algorithms": [{"algorithm": "sha512"}]},
    )
    assert reason(maker, maker.evidence(mixed)) == "SIGNATURE_ALGORITHM"


@pytest.mark.parametrize("algorithm", ["sha1_ecdsa", "ed25519", "sha256_rsa", "dsa"])
def test_other_signature_algorithms_are_refused(maker: Any, change: Any, algorithm: str) -> None:
    evidence = maker.evidence(change(signer_info={"signature_algorithm": {"algorithm": algorithm}}))
    expected = {"sha256_rsa": "VALIDATION"}.get(algorithm, "SIGNATURE_ALGORITHM")
    assert reason(maker, evidence) == expected


def test_an_ecdsa_signature_has_one_encoding(maker: Any, change: Any) -> None:
    evidence = maker.evidence(change(signer_info={"signature": b"\x30\x08\x02\x02\x00\x01\x02\x02\x00\x01"}))
    with pytest.raises(MalformedError, match="signature"):
        verify(maker, evidence)


def test_status_must_be_granted_with_a_token(maker: Any) -> None:
    bare = encode_der(SEQUENCE, encode_der(SEQUENCE, encode_integer(0)))
    assert reason(maker, TimestampEvidence(bare)) == "NO_TOKEN"
    refusal = encode_der(SEQUENCE, encode_der(SEQUENCE, encode_integer(2)))
    assert reason(maker, TimestampEvidence(refusal)) == "STATUS"


def test_revocation_data_in_the_token_is_refused(maker: Any, change: Any) -> None:
    inside = change(signed_data={"crls": [asn1_crl.CertificateList.load(maker.crl())]})
    assert reason(maker, maker.evidence(inside)) == "EMBEDDED_REVOCATION"


# The path.


def test_a_path_through_an_intermediate(maker: Any) -> None:
    middle = maker.issue("Middle", issuer=maker.root, ca=True, eku=None)
    signer = maker.issue("TSA", issuer=middle)
    crls = (maker.crl(), maker.crl(middle))
    inside = TimestampEvidence(maker.response(signer=signer, certificates=[signer, middle]), crls=crls)
    beside = TimestampEvidence(maker.response(signer=signer), (middle.der,), crls)
    with_root = TimestampEvidence(maker.response(signer=signer, certificates=[maker.root, middle, signer]), crls=crls)
    for evidence in (inside, beside, with_root):
        assert verify(maker, evidence).authority == "CN=TSA"
    twice = TimestampEvidence(inside.response, (middle.der,), crls)
    assert reason(maker, twice) == "UNUSED_MATERIAL"
    assert reason(maker, TimestampEvidence(beside.response, (), crls)) == "PATH"
    assert reason(maker, TimestampEvidence(inside.response, (), (crls[1],))) == "REVOCATION_MISSING"
    revoked = maker.crl(revoked=[(middle, -HOUR)])
    assert reason(maker, TimestampEvidence(inside.response, (), (revoked, crls[1]))) == "REVOKED"


def test_an_intermediate_is_no_root(maker: Any) -> None:
    middle = maker.issue("Middle", issuer=maker.root, ca=True, eku=None)
    signer = maker.issue("TSA", issuer=middle)
    authority = Authority(middle.der, maker.policy, signer.subject)
    evidence = TimestampEvidence(maker.response(signer=signer), crls=(maker.crl(middle),))
    assert reason(maker, evidence, authority=authority) == "ROOT"


def test_an_issuer_that_is_no_authority(maker: Any) -> None:
    middle = maker.issue("Middle", issuer=maker.root)
    signer = maker.issue("TSA", issuer=middle)
    crls = (maker.crl(), maker.crl(middle))
    evidence = TimestampEvidence(maker.response(signer=signer, certificates=[signer, middle]), crls=crls)
    assert reason(maker, evidence) == "PATH"


def test_a_path_length_limit_is_kept(maker: Any) -> None:
    root = maker.issue("Narrow root", ca=True, path_length=0)
    middle = maker.issue("Middle", issuer=root, ca=True, eku=None, path_length=0)
    low = maker.issue("Low", issuer=middle, ca=True, eku=None)
    for issuer, chain in ((middle, [middle]), (low, [low, middle])):
        signer = maker.issue("TSA", issuer=issuer)
        crls = tuple(maker.crl(item) for item in (root, *chain))
        evidence = TimestampEvidence(maker.response(signer=signer, certificates=[signer, *chain]), crls=crls)
        authority = Authority(root.der, maker.policy, signer.subject)
        if issuer is middle:
            # A limit in the root's own certificate does not bind: it is trusted as it is (RFC 5280 6.1.1).
            assert verify(maker, evidence, authority=authority)
        else:
            assert reason(maker, evidence, authority=authority) == "PATH"


def test_an_unneeded_certificate_is_refused(maker: Any) -> None:
    other = maker.issue("Other", issuer=maker.root)
    crls = (maker.crl(),)
    inside = TimestampEvidence(maker.response(certificates=[maker.signer, other]), crls=crls)
    assert reason(maker, inside) == "UNUSED_MATERIAL"
    assert reason(maker, TimestampEvidence(maker.response(), (other.der,), crls)) == "UNUSED_MATERIAL"
    assert reason(maker, TimestampEvidence(maker.response(), (maker.root.der,), crls)) == "UNUSED_MATERIAL"
    assert reason(maker, TimestampEvidence(maker.response(), (maker.signer.der,), crls)) == "UNUSED_MATERIAL"


def test_two_certificates_that_fit_the_signer(maker: Any) -> None:
    certificates = [maker.signer, maker.signer]
    evidence = TimestampEvidence(maker.response(certificates=certificates), crls=(maker.crl(),))
    assert reason(maker, evidence) == "SIGNER_CERTIFICATE"


def test_a_weak_digest_is_refused(maker: Any) -> None:
    # The library does not sign under SHA-1 any more, so another digest that is not on the list stands for it.
    signer = maker.issue("TSA", issuer=maker.root, digest=hashes.SHA3_256())
    assert reason(maker, maker.evidence(signer=signer)) == "ALGORITHM"
    crl = maker.crl(digest=hashes.SHA3_256())
    assert reason(maker, TimestampEvidence(maker.response(), crls=(crl,))) == "ALGORITHM"


def test_what_a_root_says_of_itself_does_not_matter(maker: Any) -> None:
    root = maker.issue("Old root", ca=True, digest=hashes.SHA3_256())
    signer = maker.issue("TSA", issuer=root)
    authority = Authority(root.der, maker.policy, signer.subject)
    for certificates in ([signer], [signer, root]):
        response = maker.response(signer=signer, certificates=certificates)
        assert verify(maker, TimestampEvidence(response, crls=(maker.crl(root),)), authority=authority)


def test_small_rsa_keys_are_refused(maker: Any) -> None:
    signer = maker.issue("TSA", issuer=maker.root, key=rsa.generate_private_key(65537, 1024))
    assert reason(maker, maker.evidence(signer=signer)) == "PATH"


def test_the_root_stands_in_the_token_once(maker: Any) -> None:
    certificates = [maker.signer, maker.root, maker.root]
    evidence = TimestampEvidence(maker.response(certificates=certificates), crls=(maker.crl(),))
    assert reason(maker, evidence) == "UNUSED_MATERIAL"


def test_serial_numbers_are_positive(maker: Any) -> None:
    serial = maker.issue("Middle", issuer=maker.root, ca=True)
    value = serial.certificate.serial_number
    number = value.to_bytes(value.bit_length() // 8 + 1, "big")
    zero = serial.der.replace(number, b"\xff\x01" + number[2:], 1)
    with pytest.raises(MalformedError, match="positive"):
        verify(maker, TimestampEvidence(maker.response(), (zero,), (maker.crl(),)))


def test_a_binding_attribute_that_binds_nothing(maker: Any, change: Any) -> None:
    empty = tsp.SigningCertificateV2({"certs": []})

    def emptied(attributes: Any) -> Any:
        return [(kind, [empty] if kind == "signing_certificate_v2" else values) for kind, values in attributes]

    assert reason(maker, maker.evidence(change(attributes=emptied))) == "ESS_ABSENT"


def test_certificates_in_a_token_are_counted(maker: Any) -> None:
    with pytest.raises(LimitExceeded, match="17"):
        verify(maker, TimestampEvidence(maker.response(certificates=[maker.signer] * 17)))


def test_material_is_counted(maker: Any) -> None:
    with pytest.raises(LimitExceeded):
        verify(maker, TimestampEvidence(maker.response(), crls=(maker.crl(),) * 17))


# Revocation data.


def test_one_item_for_each_certificate(maker: Any) -> None:
    good = maker.crl()
    assert reason(maker, TimestampEvidence(maker.response(), crls=(good, good))) == "UNUSED_MATERIAL"
    other = maker.issue("Other", issuer=maker.root, ocsp_url="http://ocsp.example/")
    unrelated = maker.ocsp(other)
    assert reason(maker, TimestampEvidence(maker.response(), crls=(good,), ocsps=(unrelated,))) == "UNUSED_MATERIAL"


def test_two_lists_of_one_authority(maker: Any) -> None:
    middle = maker.issue("Middle", issuer=maker.root, ca=True, eku=None)
    signer = maker.issue("TSA", issuer=middle)
    response = maker.response(signer=signer, certificates=[signer, middle])
    twice = TimestampEvidence(response, crls=(maker.crl(middle), maker.crl(middle)))
    assert reason(maker, twice) == "UNUSED_MATERIAL"


def test_a_delta_crl_does_not_count(maker: Any) -> None:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(maker.root.certificate.subject)
        .last_update(maker.now - HOUR)
        .next_update(maker.now + HOUR)
        .add_extension(x509.CRLNumber(2), critical=False)
        .add_extension(x509.DeltaCRLIndicator(1), critical=True)
    )
    delta = builder.sign(maker.root.key, hashes.SHA256())
    evidence = TimestampEvidence(maker.response(), crls=(delta.public_bytes(Encoding.DER),))
    assert reason(maker, evidence) == "PATH"


class TestOcsp:
    @pytest.fixture
    def signer(self, maker: Any) -> Any:
        return maker.issue("TSA", issuer=maker.root, ocsp_url="http://ocsp.example/")

    @pytest.fixture
    def responder(self, maker: Any) -> Any:
        return maker.issue("Responder", issuer=maker.root, eku=[OCSP_SIGNING], extensions=[x509.OCSPNoCheck()])

    def outcome(self, maker: Any, signer: Any, response: bytes, crls: tuple[bytes, ...] = ()) -> str:
        evidence = TimestampEvidence(maker.response(signer=signer), crls=crls, ocsps=(response,))
        try:
            verify(maker, evidence)
        except (TokenRejected, TokenUndecided) as exc:
            return exc.reason
        except MalformedError:
            return "MalformedError"
        return "OK"

    def test_by_the_issuer(self, maker: Any, signer: Any) -> None:
        assert self.outcome(maker, signer, maker.ocsp(signer)) == "OK"

    def test_by_a_delegate(self, maker: Any, signer: Any, responder: Any) -> None:
        response = maker.ocsp(signer, responder=responder, embed=[responder])
        assert self.outcome(maker, signer, response) == "OK"

    def test_by_a_stranger(self, maker: Any, signer: Any) -> None:
        stranger = maker.issue("Root", ca=True)
        delegate = maker.issue("Responder", issuer=stranger, eku=[OCSP_SIGNING], extensions=[x509.OCSPNoCheck()])
        assert self.outcome(maker, signer, maker.ocsp(signer, responder=delegate, embed=[delegate])) == "PATH"

    def test_by_one_who_may_not(self, maker: Any, signer: Any) -> None:
        delegate = maker.issue("Responder", issuer=maker.root)
        assert self.outcome(maker, signer, maker.ocsp(signer, responder=delegate, embed=[delegate])) == "PATH"

    def test_with_certificates_it_does_not_need(self, maker: Any, signer: Any, responder: Any) -> None:
        both = maker.ocsp(signer, responder=responder, embed=[responder, maker.root])
        assert self.outcome(maker, signer, both) == "UNUSED_MATERIAL"
        other = maker.ocsp(signer, embed=[responder])
        assert self.outcome(maker, signer, other) == "UNUSED_MATERIAL"

    def test_revoked(self, maker: Any, signer: Any) -> None:
        response = maker.ocsp(signer, status=ocsp.OCSPCertStatus.REVOKED, revoked=-HOUR)
        assert self.outcome(maker, signer, response) == "REVOKED"

    def test_unknown(self, maker: Any, signer: Any) -> None:
        response = maker.ocsp(signer, status=ocsp.OCSPCertStatus.UNKNOWN)
        assert self.outcome(maker, signer, response) == "REVOCATION_MISSING"

    def test_too_new(self, maker: Any, signer: Any) -> None:
        assert self.outcome(maker, signer, maker.ocsp(signer, this_update=HOUR)) == "REVOCATION_TOO_NEW"

    def test_beside_a_crl(self, maker: Any, signer: Any) -> None:
        assert self.outcome(maker, signer, maker.ocsp(signer), (maker.crl(),)) == "UNUSED_MATERIAL"

    def test_a_refusal_of_the_responder(self, maker: Any, signer: Any) -> None:
        refusal = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER)
        assert self.outcome(maker, signer, refusal.public_bytes(Encoding.DER)) == "MalformedError"

    def test_mutations_never_verify(self, maker: Any, signer: Any, responder: Any) -> None:
        response = maker.ocsp(signer, responder=responder, embed=[responder])
        evidence = TimestampEvidence(maker.response(signer=signer), ocsps=(response,))
        rng = random.Random(6960)
        for _ in range(500):
            altered = mutate(response, rng)
            refuse_all(maker, TimestampEvidence(evidence.response, ocsps=(altered,)))


# What has become of the certificate since.


def test_an_expired_certificate_needs_proof(maker: Any) -> None:
    signer = maker.issue("TSA", issuer=maker.root, not_after=timedelta(days=10))
    evidence = maker.evidence(signer=signer)
    expires_ms = maker.now_ms + 10 * DAY_MS
    assert verify(maker, evidence, at_ms=expires_ms)
    assert reason(maker, evidence, at_ms=expires_ms + 1) == "EXPIRED_NO_POE"
    assert reason(maker, evidence, at_ms=expires_ms + 1, proven_by_ms=expires_ms + 1) == "EXPIRED_NO_POE"
    assert verify(maker, evidence, at_ms=expires_ms + 1, proven_by_ms=expires_ms)
    assert verify(maker, evidence, at_ms=10**15, proven_by_ms=expires_ms)


def test_an_expired_intermediate_needs_proof(maker: Any) -> None:
    middle = maker.issue("Middle", issuer=maker.root, ca=True, not_after=timedelta(days=10))
    signer = maker.issue("TSA", issuer=middle)
    response = maker.response(signer=signer, certificates=[signer, middle])
    evidence = TimestampEvidence(response, crls=(maker.crl(), maker.crl(middle)))
    assert reason(maker, evidence, at_ms=maker.now_ms + 11 * DAY_MS) == "EXPIRED_NO_POE"


def test_a_later_revocation_needs_proof(maker: Any) -> None:
    crl = maker.crl(revoked=[(maker.signer, HOUR)])
    evidence = TimestampEvidence(maker.response(), crls=(crl,))
    revoked_ms = maker.now_ms + 3_600_000
    assert verify(maker, evidence, at_ms=revoked_ms - 1)
    assert reason(maker, evidence, at_ms=revoked_ms) == "REVOKED_NO_POE"
    assert reason(maker, evidence, at_ms=revoked_ms, proven_by_ms=revoked_ms) == "REVOKED_NO_POE"
    assert verify(maker, evidence, at_ms=revoked_ms, proven_by_ms=revoked_ms - 1)


def test_the_policy_can_know_of_a_revocation(maker: Any) -> None:
    def authority(revoked_ms: int) -> Authority:
        known = maker.authority
        return Authority(known.root, known.policy_oid, known.subject, revoked_ms)

    evidence = maker.evidence()
    assert reason(maker, evidence, authority=authority(maker.now_ms)) == "REVOKED"
    later = authority(maker.now_ms + 5_000)
    assert reason(maker, evidence, authority=later, at_ms=maker.now_ms + 5_000) == "REVOKED_NO_POE"
    assert verify(maker, evidence, authority=later, at_ms=maker.now_ms + 5_000, proven_by_ms=maker.now_ms + 4_999)


# Which authority.


def test_match_authority(maker: Any) -> None:
    evidence = maker.evidence()
    mine = maker.authority
    stranger = Authority(maker.issue("Root", ca=True).der, mine.policy_oid, mine.subject)
    assert match_authority(evidence, []) is None
    assert match_authority(evidence, [Authority(mine.root, "1.2.3", mine.subject)]) is None
    assert match_authority(evidence, [Authority(mine.root, mine.policy_oid, "CN=Other")]) is None
    assert match_authority(evidence, [mine]) is mine
    assert match_authority(evidence, [stranger, mine]) is mine
    assert match_authority(evidence, [stranger]) is stranger, "so that verify_token can say what is wrong"


# Surroundings.


def test_inside_a_running_event_loop(maker: Any) -> None:
    async def main() -> VerifiedToken:
        return verify(maker, maker.evidence())

    assert asyncio.run(main()).authority == "CN=TSA"


def test_refusals_are_not_logged(maker: Any, capfd: pytest.CaptureFixture[str]) -> None:
    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise AssertionError(record.getMessage())

    # Not caplog: it listens to loggers that keep their records to themselves, too.
    collector = Collector()
    logging.getLogger().addHandler(collector)
    try:
        middle = maker.issue("Middle", issuer=maker.root)
        signer = maker.issue("TSA", issuer=middle)
        crls = (maker.crl(), maker.crl(middle))
        reason(maker, TimestampEvidence(maker.response(signer=signer, certificates=[signer, middle]), crls=crls))
    finally:
        logging.getLogger().removeHandler(collector)
    assert capfd.readouterr() == ("", "")


# Nothing can be altered.


def mutate(data: bytes, rng: random.Random) -> bytes:
    altered = bytearray(data)
    position = rng.randrange(len(altered))
    altered[position] = (altered[position] + rng.randrange(1, 256)) % 256
    return bytes(altered)


def refuse_all(maker: Any, evidence: TimestampEvidence) -> None:
    with pytest.raises((TokenRejected, TokenUndecided, MalformedError, ImprintMismatch)):
        verify(maker, evidence)


@pytest.mark.parametrize("part", ["response", "crl", "certificate"])
def test_mutations_never_verify(maker: Any, part: str) -> None:
    middle = maker.issue("Middle", issuer=maker.root, ca=True)
    signer = maker.issue("TSA", issuer=middle)
    good = TimestampEvidence(maker.response(signer=signer), (middle.der,), (maker.crl(), maker.crl(middle)))
    assert verify(maker, good)
    rng = random.Random(part)
    for _ in range(2000):
        altered = {
            "response": lambda: TimestampEvidence(mutate(good.response, rng), good.certificates, good.crls),
            "crl": lambda: TimestampEvidence(
                good.response, good.certificates, (good.crls[0], mutate(good.crls[1], rng))
            ),
            "certificate": lambda: TimestampEvidence(good.response, (mutate(middle.der, rng),), good.crls),
        }[part]()
        refuse_all(maker, altered)


def test_mutations_of_an_rsa_token_never_verify(maker: Any) -> None:
    signer = maker.issue("TSA", issuer=maker.root, key=maker.rsa_key)
    good = maker.evidence(signer=signer)
    assert verify(maker, good)
    rng = random.Random(2048)
    for _ in range(500):
        refuse_all(maker, TimestampEvidence(mutate(good.response, rng), crls=good.crls))

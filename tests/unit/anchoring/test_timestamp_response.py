"""Reading responses: what is read, what is malformed, and that nothing else comes out."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest
from asn1crypto import cms, core, tsp
from hypothesis import given
from hypothesis import strategies as st

from anchoring.timestamp import MAX_RESPONSE_BYTES, parse_response
from anchoring.timestamp.der import SEQUENCE, encode_der, encode_integer
from identity.errors import LimitExceeded, MalformedError

NS = 10**9


def gen_time(maker: Any, change: Any, value: bytes) -> int:
    """genTime in nanoseconds, of a token in which those bytes stand (as long as the usual ones)."""
    response = maker.response(change(token=lambda token: token.replace(b"20260601120000Z", value)))
    token = parse_response(response).token
    assert token is not None
    gen_time_ns: int = token.info.gen_time_ns
    return gen_time_ns


def test_what_is_read(maker: Any) -> None:
    response = parse_response(maker.response())
    assert (response.status, response.texts, response.failures) == (0, (), ())
    token = response.token
    assert token is not None
    assert token.info.policy_oid == maker.policy
    assert token.info.serial == 4711
    assert token.info.nonce == 99
    assert token.info.gen_time_ns == maker.now_ms * 10**6
    assert token.info.accuracy_us == 1_000_000
    assert token.certificates == (maker.signer.der,)
    assert [attribute.oid for attribute in token.signers[0].attributes] == [
        "1.2.840.113549.1.9.3",
        "1.2.840.113549.1.9.4",
        "1.2.840.113549.1.9.16.2.47",
    ]


def test_a_refusal_is_read() -> None:
    text = encode_der(SEQUENCE, encode_der(0x0C, b"no"), encode_der(0x0C, b"never"))
    bits = encode_der(0x03, bytes((5, 0x84, 0x20)))
    status = encode_der(SEQUENCE, encode_integer(2), text, bits)
    response = parse_response(encode_der(SEQUENCE, status))
    assert response.status == 2
    assert response.texts == ("no", "never")
    assert response.failures == ("badAlg", "badDataFormat", "bit 10")
    assert response.token is None


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"\x30\x00",
        encode_der(SEQUENCE, encode_der(SEQUENCE)),
        encode_der(SEQUENCE, encode_der(SEQUENCE, encode_integer(0)), encode_integer(1)),
        encode_der(SEQUENCE, encode_der(SEQUENCE, encode_integer(0), encode_integer(0))),
        encode_der(SEQUENCE, encode_der(SEQUENCE, encode_integer(0), encode_der(SEQUENCE, encode_integer(0)))),
        encode_der(SEQUENCE, encode_der(SEQUENCE, encode_integer(0)), encode_der(SEQUENCE)),
    ],
)
def test_malformed_responses(response: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_response(response)


def test_size_is_limited() -> None:
    with pytest.raises(LimitExceeded):
        parse_response(bytes(MAX_RESPONSE_BYTES + 1))


def test_trailing_bytes_are_refused(maker: Any) -> None:
    with pytest.raises(MalformedError):
        parse_response(maker.response() + b"\x00")


def test_other_content_is_refused(maker: Any, change: Any) -> None:
    def as_data(token: bytes) -> bytes:
        return token.replace(bytes.fromhex("06092a864886f70d010702"), bytes.fromhex("06092a864886f70d010701"), 1)

    with pytest.raises(MalformedError, match="SignedData"):
        parse_response(maker.response(change(token=as_data)))
    with pytest.raises(MalformedError, match="TSTInfo"):
        parse_response(maker.response(change(signed_data={"encap_content_info": {"content_type": "data"}})))


def test_something_else_than_a_certificate_is_refused(maker: Any, change: Any) -> None:
    other = cms.CertificateChoices("other", {"other_cert_format": "1.2.3", "other_cert": tsp.Version("v1")})
    with pytest.raises(MalformedError, match="certificate"):
        parse_response(maker.response(change(signed_data={"certificates": [maker.signer.asn1, other]})))


def test_unsorted_attributes_are_refused(maker: Any, change: Any) -> None:
    def swapped(token: bytes) -> bytes:
        """The first two signed attributes, which are not equally long, the other way round."""
        start = token.index(bytes.fromhex("06092a864886f70d010903")) - 2
        first = token[start : start + 2 + token[start + 1]]
        second_start = start + len(first)
        second = token[second_start : second_start + 2 + token[second_start + 1]]
        return token[:start] + second + first + token[second_start + len(second) :]

    with pytest.raises(MalformedError, match="order"):
        parse_response(maker.response(change(token=swapped)))


def test_gen_time_keeps_nanoseconds(maker: Any, change: Any) -> None:
    usual = maker.now_ms * 10**6
    assert gen_time(maker, change, b"20260601120000Z") == usual
    assert gen_time(maker, change, b"20260601120001Z") == usual + NS
    assert gen_time(maker, change, b"19700101000000Z") == 0
    assert gen_time(maker, change, b"99991231235959Z") == 253_402_300_799 * NS
    token = parse_response(maker.response(change(info={"gen_time": tsp.GeneralizedTime(maker.now)}))).token
    assert token is not None
    assert token.info.gen_time_ns == usual


@pytest.mark.parametrize(
    "value",
    [
        b"20260631120000Z",
        b"20260601120060Z",
        b"20260601240000Z",
        b"20261301120000Z",
        b"00000601120000Z",
        b"19691231235959Z",
    ],
)
def test_impossible_times_are_malformed(maker: Any, change: Any, value: bytes) -> None:
    with pytest.raises(MalformedError, match="genTime"):
        gen_time(maker, change, value)


def test_ten_decimals_are_too_many(maker: Any, change: Any) -> None:
    class Exact(tsp.GeneralizedTime):  # type: ignore[misc]
        def set(self, value: Any) -> None:
            super().set(value)
            self.contents = b"20260601120000.0123456789Z"

    with pytest.raises(MalformedError, match="decimals"):
        parse_response(maker.response(change(info={"gen_time": Exact(maker.now)})))


def test_attributes_are_counted(maker: Any, change: Any) -> None:
    many = [(f"1.2.3.{number}", [core.OctetString(b"")]) for number in range(64)]
    with pytest.raises(LimitExceeded, match="67"):
        parse_response(maker.response(change(attributes=lambda attributes: attributes + many)))


@pytest.mark.parametrize(
    ("accuracy", "microseconds"),
    [
        (None, None),
        (tsp.Accuracy.load(b"\x30\x00"), 0),
        ({"seconds": 0}, 0),
        ({"seconds": 2}, 2_000_000),
        ({"millis": 999}, 999_000),
        ({"micros": 1}, 1),
        ({"seconds": 1, "millis": 2, "micros": 3}, 1_002_003),
    ],
)
def test_accuracy(maker: Any, change: Any, accuracy: dict[str, int] | None, microseconds: int | None) -> None:
    token = parse_response(maker.response(change(info={"accuracy": accuracy}))).token
    assert token is not None
    assert token.info.accuracy_us == microseconds


@pytest.mark.parametrize("accuracy", [{"seconds": -1}, {"seconds": 2**31}, {"millis": 1000}, {"micros": -1}])
def test_accuracy_out_of_range_is_malformed(maker: Any, change: Any, accuracy: dict[str, int]) -> None:
    with pytest.raises(MalformedError, match="accuracy"):
        parse_response(maker.response(change(info={"accuracy": accuracy})))


def test_critical_extensions_are_named(maker: Any, change: Any) -> None:
    extensions = [
        {"extn_id": "1.2.3.4", "critical": True, "extn_value": b"?"},
        {"extn_id": "1.2.3.5", "extn_value": b"?"},
    ]
    token = parse_response(maker.response(change(info={"extensions": extensions}))).token
    assert token is not None
    assert token.info.critical_extensions == ("1.2.3.4",)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_malformed(data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        parse_response(data)


def test_altered_responses_are_read_or_malformed(maker: Any) -> None:
    rng = random.Random(3161)
    response = maker.response()
    for _ in range(3000):
        altered = bytearray(response)
        for _ in range(rng.choice((1, 1, 2, 5))):
            altered[rng.randrange(len(altered))] = rng.randrange(256)
        with contextlib.suppress(MalformedError):
            parse_response(bytes(altered))

"""The bytes of a timestamp response, RFC 3161 inside RFC 5652, read into values (docs/spec/timestamp.md, section 3).

Well-formedness only: nothing here has been verified. ``anchoring.timestamp.rules`` judges what is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from anchoring.timestamp.der import (
    BIT_STRING,
    BOOLEAN,
    GENERALIZED_TIME,
    INTEGER,
    OBJECT_IDENTIFIER,
    OCTET_STRING,
    SEQUENCE,
    SET,
    UTF8_STRING,
    DerReader,
    Element,
    check_set_order,
    parse_der,
    read_elements,
    read_integer,
    read_oid,
)
from identity.errors import LimitExceeded, MalformedError

__all__ = [
    "DIGEST_ALGORITHMS",
    "MAX_RESPONSE_BYTES",
    "TST_INFO",
    "SignedAttribute",
    "SignedToken",
    "SignerInfo",
    "TimestampInfo",
    "TokenResponse",
    "parse_response",
    "read_message_imprint",
]

MAX_RESPONSE_BYTES: Final = 1 << 16
_WHAT = "timestamp response"

_SIGNED_DATA = "1.2.840.113549.1.7.2"
TST_INFO: Final = "1.2.840.113549.1.9.16.1.4"

# RFC 2510 3.2.3 (PKIFailureInfo), the bits that RFC 3161 2.4.2 uses.
_FAILURES: Mapping[int, str] = {
    0: "badAlg",
    2: "badRequest",
    5: "badDataFormat",
    14: "timeNotAvailable",
    15: "unacceptedPolicy",
    16: "unacceptedExtension",
    17: "addInfoNotAvailable",
    25: "systemFailure",
}

# RFC 5754 2: SHA-2 comes with absent or with NULL parameters. The specification, section 6, lists these byte strings.
_DIGEST_OIDS = {
    "sha256": "0609608648016503040201",
    "sha384": "0609608648016503040202",
    "sha512": "0609608648016503040203",
}
DIGEST_ALGORITHMS: Final[Mapping[bytes, str]] = {
    bytes.fromhex(form): name for name, oid in _DIGEST_OIDS.items() for form in (f"300b{oid}", f"300d{oid}0500")
}
"""The digest algorithm identifiers (DER) that are accepted, with hashlib's names for them."""


@dataclass(frozen=True, slots=True)
class TimestampInfo:
    """TSTInfo: what the authority signed. Times are nanoseconds since 1970, accuracy is in microseconds or not stated.

    ``imprint_algorithm`` names the digest (``sha256`` ...) or is None for one that this reader does not know.
    """

    raw: bytes
    version: int
    policy_oid: str
    imprint_algorithm: str | None
    imprint: bytes
    serial: int
    gen_time_ns: int
    accuracy_us: int | None
    nonce: int | None
    critical_extensions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SignedAttribute:
    """One signed attribute: its type and the values in its set."""

    oid: str
    values: tuple[Element, ...]


@dataclass(frozen=True, slots=True)
class SignerInfo:
    """One signer as it describes itself. The algorithm identifiers are DER.

    The certificate is named by ``issuer`` (a DER name) and ``serial``, or by ``key_identifier``; the other is None.
    """

    version: int
    issuer: bytes | None
    serial: int | None
    key_identifier: bytes | None
    digest_algorithm: bytes
    attributes: tuple[SignedAttribute, ...]
    signature_algorithm: bytes
    signature: bytes
    has_unsigned_attributes: bool


@dataclass(frozen=True, slots=True)
class SignedToken:
    """The timestamp token: CMS SignedData over a TSTInfo. ``raw`` is its ContentInfo; certificates are DER."""

    raw: bytes
    version: int
    digest_algorithms: tuple[bytes, ...]
    info: TimestampInfo
    certificates: tuple[bytes, ...]
    has_revocation_data: bool
    signers: tuple[SignerInfo, ...]


@dataclass(frozen=True, slots=True)
class TokenResponse:
    """An authority's answer. ``status`` is 0 when granted; ``failures`` are the names in RFC 3161 2.4.2."""

    status: int
    texts: tuple[str, ...]
    failures: tuple[str, ...]
    token: SignedToken | None


def parse_response(data: bytes) -> TokenResponse:
    """Read a TimeStampResp in strict DER. Nothing in it has been verified.

    Raises ``MalformedError`` for anything else, ``LimitExceeded`` beyond 64 KiB.
    """
    outer = DerReader(parse_der(data, what=_WHAT, max_bytes=MAX_RESPONSE_BYTES), _WHAT)
    status_info = DerReader(outer.take(SEQUENCE), "status")
    token = outer.optional(SEQUENCE)
    outer.end()
    status = read_integer(status_info.take(INTEGER), "status")
    texts = status_info.optional(SEQUENCE)
    failures = status_info.optional(BIT_STRING)
    status_info.end()
    return TokenResponse(
        status=status,
        texts=() if texts is None else tuple(_read_text(text) for text in read_elements(texts)),
        failures=() if failures is None else _read_failures(failures),
        token=None if token is None else _read_token(token),
    )


def _read_text(element: Element) -> str:
    if element.tag != UTF8_STRING:
        raise MalformedError("status text: not a UTF8String")
    return element.content.decode("utf-8")


def _read_failures(element: Element) -> tuple[str, ...]:
    bits = element.content[1:]
    numbers = [index for index in range(8 * len(bits)) if bits[index // 8] & 0x80 >> index % 8]
    return tuple(_FAILURES.get(number, f"bit {number}") for number in numbers[:32])


def _read_token(element: Element) -> SignedToken:
    content_info = DerReader(element, "token")
    if read_oid(content_info.take(OBJECT_IDENTIFIER), "token") != _SIGNED_DATA:
        raise MalformedError("token: the content is not CMS SignedData")
    content = DerReader(content_info.take(0xA0), "token content", tag=0xA0)
    content_info.end()
    data = DerReader(content.take(SEQUENCE), "SignedData")
    content.end()
    version = read_integer(data.take(INTEGER), "SignedData version")
    digest_algorithms = _read_set(data.take(SET), "digest algorithms")
    info = _read_encapsulated_info(data.take(SEQUENCE))
    certificates = data.optional(0xA0)
    revocation_data = data.optional(0xA1)
    signers = _read_set(data.take(SET), "signers")
    data.end()
    return SignedToken(
        raw=element.raw,
        version=version,
        digest_algorithms=tuple(algorithm.raw for algorithm in digest_algorithms),
        info=info,
        # Authorities in use do not sort this set, so its order is left as it is (see the specification, section 7).
        certificates=() if certificates is None else tuple(_certificate(item) for item in read_elements(certificates)),
        has_revocation_data=revocation_data is not None,
        signers=tuple(_read_signer(item) for item in signers),
    )


def _read_set(element: Element, what: str) -> tuple[Element, ...]:
    elements = read_elements(element)
    check_set_order(elements, what)
    return elements


def _certificate(element: Element) -> bytes:
    if element.tag != SEQUENCE:
        raise MalformedError("token certificates: something other than an X.509 certificate")
    return element.raw


def _read_encapsulated_info(element: Element) -> TimestampInfo:
    encapsulated = DerReader(element, "encapsulated content")
    if read_oid(encapsulated.take(OBJECT_IDENTIFIER), "content type") != TST_INFO:
        raise MalformedError("token: the signed content is not TSTInfo")
    wrapper = DerReader(encapsulated.take(0xA0), "encapsulated content", tag=0xA0)
    encapsulated.end()
    content = wrapper.take(OCTET_STRING).content
    wrapper.end()
    return _read_info(parse_der(content, what="TSTInfo", max_bytes=MAX_RESPONSE_BYTES))


def _read_info(element: Element) -> TimestampInfo:
    info = DerReader(element, "TSTInfo")
    version = read_integer(info.take(INTEGER), "TSTInfo version")
    policy_oid = read_oid(info.take(OBJECT_IDENTIFIER), "policy")
    imprint_algorithm, imprint = read_message_imprint(info.take(SEQUENCE))
    serial = read_integer(info.take(INTEGER), "token serial number")
    gen_time_ns = _read_gen_time(info.take(GENERALIZED_TIME))
    accuracy = info.optional(SEQUENCE)
    info.optional(BOOLEAN)  # ordering: nothing here relies on it
    nonce = info.optional(INTEGER)
    info.optional(0xA0)  # tsa: a hint; signing_certificate_v2 binds the certificate
    extensions = info.optional(0xA1)
    info.end()
    return TimestampInfo(
        raw=element.raw,
        version=version,
        policy_oid=policy_oid,
        imprint_algorithm=imprint_algorithm,
        imprint=imprint,
        serial=serial,
        gen_time_ns=gen_time_ns,
        accuracy_us=None if accuracy is None else _read_accuracy(accuracy),
        nonce=None if nonce is None else read_integer(nonce, "nonce"),
        critical_extensions=() if extensions is None else _read_critical_extensions(extensions),
    )


def read_message_imprint(element: Element) -> tuple[str | None, bytes]:
    """A MessageImprint: the digest's name, None when it is not one that is known here, and the hashed message."""
    imprint = DerReader(element, "imprint")
    algorithm = imprint.take(SEQUENCE).raw
    digest = imprint.take(OCTET_STRING).content
    imprint.end()
    return DIGEST_ALGORITHMS.get(algorithm), digest


_GEN_TIME = re.compile(rb"([0-9]{4})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})(?:\.([0-9]{1,9}))?Z")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _read_gen_time(element: Element) -> int:
    match = _GEN_TIME.fullmatch(element.content)
    if match is None:
        raise MalformedError("genTime: not a UTC time with at most nine decimals")
    try:
        moment = datetime(*(int(part) for part in match.groups()[:6]), tzinfo=UTC)  # type: ignore[misc,arg-type]
    except ValueError as exc:
        raise MalformedError("genTime: no such date or time") from exc
    if moment < _EPOCH:
        raise MalformedError("genTime: before 1970")
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 10**9 + int((match[7] or b"0").ljust(9, b"0"))


def _read_accuracy(element: Element) -> int:
    """Microseconds. RFC 3161 2.4.2: seconds, then milliseconds and microseconds from 1 to 999, each optional."""
    accuracy = DerReader(element, "accuracy")
    total = 0
    for tag, name, unit, most in (
        (INTEGER, "seconds", 10**6, 2**31 - 1),
        (0x80, "milliseconds", 10**3, 999),
        (0x81, "microseconds", 1, 999),
    ):
        field = accuracy.optional(tag)
        if field is not None:
            value = read_integer(field, f"accuracy {name}")
            if not 0 <= value <= most:
                raise MalformedError(f"accuracy: {value} {name}")
            total += value * unit
    accuracy.end()
    return total


def _read_critical_extensions(element: Element) -> tuple[str, ...]:
    critical = []
    for item in read_elements(element):
        extension = DerReader(item, "TSTInfo extension")
        oid = read_oid(extension.take(OBJECT_IDENTIFIER), "TSTInfo extension")
        flag = extension.optional(BOOLEAN)
        extension.take(OCTET_STRING)
        extension.end()
        if flag is not None and flag.content != b"\x00":
            critical.append(oid)
    return tuple(critical)


def _read_signer(element: Element) -> SignerInfo:
    signer = DerReader(element, "SignerInfo")
    version = read_integer(signer.take(INTEGER), "SignerInfo version")
    issuer, serial, key_identifier = _read_signer_identifier(signer.take(SEQUENCE, 0x80))
    digest_algorithm = signer.take(SEQUENCE).raw
    attributes = signer.optional(0xA0)
    signature_algorithm = signer.take(SEQUENCE).raw
    signature = signer.take(OCTET_STRING).content
    unsigned = signer.optional(0xA1)
    signer.end()
    return SignerInfo(
        version=version,
        issuer=issuer,
        serial=serial,
        key_identifier=key_identifier,
        digest_algorithm=digest_algorithm,
        attributes=() if attributes is None else _read_attributes(attributes),
        signature_algorithm=signature_algorithm,
        signature=signature,
        has_unsigned_attributes=unsigned is not None,
    )


def _read_signer_identifier(element: Element) -> tuple[bytes | None, int | None, bytes | None]:
    if element.tag == 0x80:
        return None, None, element.content
    identifier = DerReader(element, "signer identifier")
    issuer = identifier.take(SEQUENCE).raw
    serial = read_integer(identifier.take(INTEGER), "certificate serial number")
    identifier.end()
    return issuer, serial, None


def _read_attributes(element: Element) -> tuple[SignedAttribute, ...]:
    attributes = []
    # The signature covers this set in DER order (RFC 5652 5.4); tools that sort it first would disagree with others.
    for item in _read_set(element, "signed attributes"):
        attribute = DerReader(item, "signed attribute")
        oid = read_oid(attribute.take(OBJECT_IDENTIFIER), "signed attribute")
        values = _read_set(attribute.take(SET), "signed attribute values")
        attribute.end()
        attributes.append(SignedAttribute(oid, values))
    if len(attributes) > 64:
        raise LimitExceeded(f"{len(attributes)} signed attributes")
    return tuple(attributes)

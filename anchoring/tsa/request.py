"""Timestamp requests (RFC 3161 2.4.1): written by rfc3161ng, read strictly."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

import rfc3161ng

from anchoring.timestamp.der import (
    BOOLEAN,
    INTEGER,
    OBJECT_IDENTIFIER,
    SEQUENCE,
    DerReader,
    parse_der,
    read_integer,
    read_oid,
)
from anchoring.timestamp.response import read_message_imprint
from identity.errors import ConfigurationError

__all__ = ["MAX_REQUEST_BYTES", "TimestampRequest", "encode_request", "parse_request"]

MAX_REQUEST_BYTES: Final = 1 << 14

# X.660: the second number is below 40 under 0 and 1.
_NUMBER = "(?:0|[1-9][0-9]{0,39})"
_OID = re.compile(rf"(?:[01]\.[1-3]?[0-9]|2\.{_NUMBER})(?:\.{_NUMBER}){{1,20}}")


@dataclass(frozen=True, slots=True)
class TimestampRequest:
    """A request as it was read. ``imprint_algorithm`` is ``sha256``, ``sha384``, ``sha512`` or None (another one).

    ``imprint_der`` is the whole MessageImprint, as a token has to repeat it.
    """

    version: int
    imprint_der: bytes
    imprint_algorithm: str | None
    imprint: bytes
    policy_oid: str | None
    nonce: int | None
    wants_certificate: bool
    has_extensions: bool


def encode_request(message: bytes, *, policy_oid: str, nonce: int) -> bytes:
    """The DER request for a token over ``message``: SHA-256, with that policy and nonce, certificate wanted.

    Raises ``ConfigurationError`` when the policy is not an object identifier.
    """
    if not _OID.fullmatch(policy_oid):
        raise ConfigurationError(f"{policy_oid!r} is not a policy's object identifier")
    # Never data=: whatever the hash name, rfc3161ng then hashes with SHA-1.
    request = rfc3161ng.make_timestamp_request(
        digest=hashlib.sha256(message).digest(),
        hashname="sha256",
        nonce=nonce,
        include_tsa_certificate=True,
        tsa_policy_id=policy_oid,
    )
    return bytes(rfc3161ng.encode_timestamp_request(request))


def parse_request(data: bytes) -> TimestampRequest:
    """Read a TimeStampReq in strict DER. Raises ``MalformedError``."""
    request = DerReader(parse_der(data, what="timestamp request", max_bytes=MAX_REQUEST_BYTES), "timestamp request")
    version = read_integer(request.take(INTEGER), "request version")
    imprint_element = request.take(SEQUENCE)
    algorithm, imprint = read_message_imprint(imprint_element)
    policy = request.optional(OBJECT_IDENTIFIER)
    nonce = request.optional(INTEGER)
    wants_certificate = request.optional(BOOLEAN)
    extensions = request.optional(0xA0)
    request.end()
    return TimestampRequest(
        version=version,
        imprint_der=imprint_element.raw,
        imprint_algorithm=algorithm,
        imprint=imprint,
        policy_oid=None if policy is None else read_oid(policy, "request policy"),
        nonce=None if nonce is None else read_integer(nonce, "request nonce"),
        wants_certificate=wants_certificate is not None and wants_certificate.content != b"\x00",
        has_extensions=extensions is not None,
    )

"""RFC 3161 timestamp tokens: read, and verified offline from archived bytes (docs/spec/timestamp.md)."""

from anchoring.timestamp.response import MAX_RESPONSE_BYTES, TokenResponse, parse_response
from anchoring.timestamp.verify import (
    DEVELOPMENT_MARK,
    DEVELOPMENT_POLICY_OID,
    UNSTATED_ACCURACY_MS,
    Authority,
    TimestampEvidence,
    VerifiedToken,
    match_authority,
    verify_token,
)

__all__ = [
    "DEVELOPMENT_MARK",
    "DEVELOPMENT_POLICY_OID",
    "MAX_RESPONSE_BYTES",
    "UNSTATED_ACCURACY_MS",
    "Authority",
    "TimestampEvidence",
    "TokenResponse",
    "VerifiedToken",
    "match_authority",
    "parse_response",
    "verify_token",
]

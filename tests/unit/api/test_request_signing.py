"""The signatures of requests, verified by a library that others wrote."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from http_message_signatures import (
    HTTPMessageVerifier,
    HTTPSignatureKeyResolver,
    InvalidSignature,
    algorithms,
)
from http_message_signatures.structures import CaseInsensitiveDict

from api.request_signing import request_signer
from identity.keys import Ed25519Signer
from identity.textforms import to_did_key

KEY = Ed25519Signer(b"\5" * 32)
_PARAMS = {'"@signature-params"'}


class Keys(HTTPSignatureKeyResolver):
    def resolve_public_key(self, key_id: str) -> Any:
        assert key_id == to_did_key(KEY.public_key)
        return Ed25519PublicKey.from_public_bytes(KEY.public_key)


def request(method: str, url: str, body: bytes, changed: dict[str, Any] | None = None) -> Any:
    sign = request_signer(KEY, lambda: int(time.time()), lambda: "abcdefghijklmnopqrst")
    headers = CaseInsensitiveDict(sign(method, url, {}, body))
    return SimpleNamespace(**{"method": method, "url": url, "headers": headers, "body": body, **(changed or {})})


def verify(message: Any) -> Any:
    verifier = HTTPMessageVerifier(signature_algorithm=algorithms.ED25519, key_resolver=Keys())
    (found,) = verifier.verify(message)
    return found


def test_the_signature_holds() -> None:
    found = verify(request("POST", "https://node.example/v1/databases/bank/sync", b"frames"))
    assert set(found.covered_components) - _PARAMS == {'"@method"', '"@target-uri"', '"content-digest"'}
    assert {"created", "nonce", "keyid", "alg"} <= set(found.parameters)
    assert found.parameters["nonce"] == "abcdefghijklmnopqrst"
    without_body = verify(request("GET", "ws://node.example/sync", b""))
    assert set(without_body.covered_components) - _PARAMS == {'"@method"', '"@target-uri"'}


@pytest.mark.parametrize("changed", [{"method": "GET"}, {"url": "https://node.example/v1/databases/other/sync"}])
def test_what_is_covered_cannot_be_changed(changed: dict[str, Any]) -> None:
    with pytest.raises(InvalidSignature):
        verify(request("POST", "https://node.example/v1/databases/bank/sync", b"frames", changed))

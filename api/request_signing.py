"""Signing the requests that this node makes of others: RFC 9421 HTTP message signatures with a device's key.

What is covered: ``@method``, ``@target-uri``, and ``content-digest`` when there is a body. ``created``, ``nonce``,
``keyid`` and ``alg`` are the parameters, and the nonce counts once. This is the client's side alone.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from hashlib import sha256

from identity.keys import Signer
from identity.textforms import to_did_key

__all__ = ["request_signer"]


def request_signer(
    signer: Signer, now_s: Callable[[], int], nonce: Callable[[], str]
) -> Callable[[str, str, Mapping[str, str], bytes], Mapping[str, str]]:
    """What signs requests by that key: the headers to add, from a request's method, URL, headers and body."""

    def sign(method: str, url: str, _: Mapping[str, str], body: bytes) -> Mapping[str, str]:
        added = {"content-digest": f"sha-256=:{_base64(sha256(body).digest())}:"} if body else {}
        covered = {"@method": method, "@target-uri": url, **added}
        names = " ".join(f'"{name}"' for name in covered)
        keyid = to_did_key(signer.public_key)
        params = f'({names});created={now_s()};nonce="{nonce()}";keyid="{keyid}";alg="ed25519"'
        lines = [*(f'"{name}": {value}' for name, value in covered.items()), f'"@signature-params": {params}']
        signature = _base64(signer.sign("\n".join(lines).encode("ascii")))
        return {**added, "signature-input": f"sig1={params}", "signature": f"sig1=:{signature}:"}

    return sign


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")

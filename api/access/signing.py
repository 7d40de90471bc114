"""Signing the requests that this side makes of a node, each with a time and a nonce of its own."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from typing import Final

from api.access.request import HttpRequest
from api.access.signatures import sign_request
from identity.keys import Signer

__all__ = ["RequestSigner"]

_NONCE_BYTES: Final = 18


class RequestSigner:
    """Signs requests with the key of a device, or with that of a visitor who has a token. Threads may share one."""

    def __init__(self, signer: Signer, token: str | None = None, now_s: Callable[[], float] = time.time) -> None:
        self._signer = signer
        self._token = token
        self._now_s = now_s

    def __call__(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> dict[str, str]:
        """The headers to add to a request with these. Raises ``MalformedError`` for one that nobody could verify."""
        added = {} if self._token is None else {"authorization": f"Biscuit {self._token}"}
        listed = tuple((name.lower(), value) for name, value in {**headers, **added}.items())
        nonce = secrets.token_urlsafe(_NONCE_BYTES)
        request = HttpRequest(method, url, listed, body)
        return {**added, **dict(sign_request(self._signer, request, created=int(self._now_s()), nonce=nonce))}

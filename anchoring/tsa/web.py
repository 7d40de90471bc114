"""HTTP exchanges with strangers: capped, time-limited, retried a bounded number of times, and never through a proxy."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import httpx

from anchoring.deadline import within
from identity.errors import TransportError

__all__ = ["HttpLimits", "WebClient", "printable"]

_MAX_TEXT: Final = 200


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """How long and how often a server is asked. Seconds."""

    connect_s: float = 5.0
    read_s: float = 10.0
    exchange_s: float = 30.0
    """For a whole answer, however slowly it drips."""
    attempts: int = 3
    """At least one."""
    backoff_s: float = 0.5
    """Before the second attempt; it doubles with each further one."""


@dataclass(frozen=True, slots=True)
class _Exchange:
    method: str
    url: str
    cap: int
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    answer_type: str | None = None


class WebClient:
    """Fetches and posts. Every failure is a ``TransportError`` that names the URL."""

    def __init__(
        self, limits: HttpLimits, transport: httpx.BaseTransport | None, sleep: Callable[[float], None]
    ) -> None:
        """``transport`` None is the network; ``sleep`` waits between attempts."""
        self._limits = limits
        self._transport = transport
        self._sleep = sleep

    def get(self, url: str, cap: int) -> bytes:
        """The body at ``url``, of any type, at most ``cap`` bytes."""
        return self._run(_Exchange("GET", url, cap))

    def post(self, url: str, body: bytes, body_type: str, answer_type: str, cap: int) -> bytes:
        """The answer to ``body``, which must be of ``answer_type`` and at most ``cap`` bytes."""
        headers = {"Content-Type": body_type, "Accept": answer_type}
        return self._run(_Exchange("POST", url, cap, body, headers, answer_type))

    def _run(self, exchange: _Exchange) -> bytes:
        attempt = 1
        longest = self._limits.connect_s + self._limits.exchange_s
        while True:
            try:
                return within(longest, exchange.url, lambda: self._run_once(exchange))
            except (httpx.TransportError, _TryAgain) as exc:
                if attempt >= self._limits.attempts:
                    reason = str(exc) or type(exc).__name__
                    raise TransportError(f"{exchange.url}: {reason} (asked {attempt} times)") from exc
            except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as exc:  # UnicodeError: a name no resolver takes
                raise TransportError(f"{exchange.url}: {exc}") from exc
            self._sleep(self._limits.backoff_s * 2 ** (attempt - 1))
            attempt += 1

    def _run_once(self, exchange: _Exchange) -> bytes:
        timeout = httpx.Timeout(self._limits.read_s, connect=self._limits.connect_s)
        # A compressed answer could grow beyond the cap after it was measured, so none is asked for or taken.
        headers = {**exchange.headers, "Accept-Encoding": "identity", "User-Agent": "holdfast"}
        with (
            httpx.Client(trust_env=False, follow_redirects=False, timeout=timeout, transport=self._transport) as client,
            client.stream(exchange.method, exchange.url, content=exchange.body, headers=headers) as answer,
        ):
            _check_headers(exchange, answer)
            return self._read(exchange, answer)

    def _read(self, exchange: _Exchange, answer: httpx.Response) -> bytes:
        deadline = time.monotonic() + self._limits.exchange_s
        data = bytearray()
        for chunk in answer.iter_raw():
            data += chunk
            if len(data) > exchange.cap:
                raise TransportError(f"{exchange.url}: the answer is larger than {exchange.cap} bytes")
            if time.monotonic() > deadline:
                raise TransportError(f"{exchange.url}: the answer takes longer than {self._limits.exchange_s:g} s")
        return bytes(data)


class _TryAgain(Exception):
    """The server says that it cannot answer now."""


def _check_headers(exchange: _Exchange, answer: httpx.Response) -> None:
    status = answer.status_code
    if status >= httpx.codes.INTERNAL_SERVER_ERROR or status == httpx.codes.TOO_MANY_REQUESTS:
        raise _TryAgain(f"HTTP status {status}")
    if status != httpx.codes.OK:
        raise TransportError(f"{exchange.url}: HTTP status {status}")
    found = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if exchange.answer_type is not None and found != exchange.answer_type:
        raise TransportError(f"{exchange.url}: the answer is of type {printable(found)!r}, not {exchange.answer_type}")
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise TransportError(f"{exchange.url}: the answer is compressed")


def printable(text: str) -> str:
    """What a stranger wrote, cut and safe to show: a terminal must not act on it."""
    return "".join(character if character.isprintable() else "?" for character in text[:_MAX_TEXT])

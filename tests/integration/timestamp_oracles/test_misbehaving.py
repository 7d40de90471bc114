"""One honest authority among many that are not: each is named with its reason, and none of them stops that one."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType
from typing import Any, Final

import pytest
from asn1crypto import tsp

from anchoring.timestamp import Authority
from anchoring.timestamp.der import BIT_STRING, SEQUENCE, encode_der, encode_integer
from anchoring.tsa.backoff import next_attempt_ms
from anchoring.tsa.client import HttpSource
from anchoring.tsa.dev import system_clock
from anchoring.tsa.pool import PoolPolicy, ask_pool
from anchoring.tsa.request import TimestampRequest, parse_request
from anchoring.tsa.web import HttpLimits

pytestmark = pytest.mark.integration

MESSAGE = b"a checkpoint note\n"
REPLY: Final = "application/timestamp-reply"
LIMITS = HttpLimits(connect_s=2, read_s=1, exchange_s=1, attempts=1)
DAY = timedelta(days=1)
Respond = Callable[[BaseHTTPRequestHandler, bytes], None]

FAILURES: Final = {
    0: "badAlg",
    2: "badRequest",
    5: "badDataFormat",
    14: "timeNotAvailable",
    15: "unacceptedPolicy",
    16: "unacceptedExtension",
    17: "addInfoNotAvailable",
    25: "systemFailure",
}


def send(handler: BaseHTTPRequestHandler, body: bytes, *, status: int = 200, kind: str = REPLY, **headers: str) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def drip(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", REPLY)
    handler.send_header("Content-Length", "60000")
    handler.end_headers()
    try:
        for _ in range(100):
            handler.wfile.write(b"\x30")
            handler.wfile.flush()
            time.sleep(0.2)
    except OSError:
        handler.close_connection = True


def refusal(bit: int) -> bytes:
    bits = bytearray(bit // 8 + 1)
    bits[-1] = 0x80 >> bit % 8
    return encode_der(
        SEQUENCE,
        encode_der(SEQUENCE, encode_integer(2), encode_der(BIT_STRING, bytes((7 - bit % 8,)), bytes(bits))),
    )


class Liar:
    """Signs what it is told to, with a certificate that its root has issued."""

    def __init__(self, pki: ModuleType) -> None:
        self.pki = pki
        self.maker = pki.TokenMaker()
        # The maker dates things around a fixed time; these are to be around now.
        self.shift = datetime.now(UTC).replace(microsecond=0) - self.maker.now
        self.signer = self.issue()
        self.expired = self.issue(not_after=-DAY)
        self.revoked = self.issue()
        self.authority = Authority(self.maker.root.der, self.maker.policy, self.signer.subject)

    def issue(self, not_after: timedelta = 365 * DAY) -> Any:
        return self.maker.issue("TSA", issuer=self.maker.root, not_after=self.shift + not_after)

    def crl(self) -> bytes:
        yesterday = self.shift - DAY
        crl: bytes = self.maker.crl(
            this_update=self.shift - timedelta(hours=1),
            next_update=self.shift + DAY,
            revoked=[(self.revoked, yesterday)],
        )
        return crl

    def token(self, body: bytes, signer: Any = None, status: bytes | None = None, **info: Any) -> bytes:
        query: TimestampRequest = parse_request(body)
        honest = {
            "message_imprint": tsp.MessageImprint.load(query.imprint_der),
            "nonce": query.nonce,
            "gen_time": datetime.now(UTC),
        }
        extra = {} if status is None else {"status": status}
        change = self.pki.Change(info={**honest, **info}, **extra)
        response: bytes = self.maker.response(change, signer=signer or self.signer)
        return response


@pytest.fixture(scope="module")
def liar(pki: ModuleType) -> Liar:
    return Liar(pki)


def table(liar: Liar) -> dict[str, tuple[Respond, str]]:
    """What each does when it is asked, and what must be said about it."""

    def answers(**changes: Any) -> Respond:
        return lambda handler, body: send(handler, liar.token(body, **changes))

    def rejects(bit: int) -> Respond:
        return lambda handler, body: send(handler, refusal(bit))

    def imprint(body: bytes) -> bytes:
        return liar.token(body, message_imprint=liar.maker.imprint(b"something else", "sha256"))

    misdeeds: dict[str, tuple[Respond, str]] = {
        "drips": (drip, "1 s"),
        "hangs": (lambda handler, body: time.sleep(3), "timed out|within"),
        "hangs-up": (lambda handler, body: handler.connection.shutdown(socket.SHUT_RDWR), "disconnected|closed|reset"),
        "http-500": (lambda handler, body: send(handler, b"", status=500), "HTTP status 500"),
        "http-503": (lambda handler, body: send(handler, b"", status=503), "HTTP status 503"),
        "http-429": (lambda handler, body: send(handler, b"", status=429), "HTTP status 429"),
        "http-404": (lambda handler, body: send(handler, b"", status=404), "HTTP status 404"),
        "redirects": (
            lambda handler, body: send(handler, b"", status=302, Location="/honest"),
            "HTTP status 302",
        ),
        "wrong-type": (lambda handler, body: send(handler, liar.token(body), kind="text/html"), "text/html"),
        "compressed": (lambda handler, body: send(handler, b"x", **{"Content-Encoding": "gzip"}), "compressed"),
        "oversized": (lambda handler, body: send(handler, bytes(70_000)), "larger than 65536"),
        "empty": (lambda handler, body: send(handler, b""), "not a timestamp token"),
        "garbage": (lambda handler, body: send(handler, bytes(range(200))), "not a timestamp token"),
        "granted-without-token": (
            lambda handler, body: send(handler, encode_der(SEQUENCE, encode_der(SEQUENCE, encode_integer(0)))),
            "granted without a token",
        ),
        "granted-with-mods": (answers(status=encode_der(SEQUENCE, encode_integer(1))), "grantedWithMods"),
        "wrong-imprint": (lambda handler, body: send(handler, imprint(body)), "imprint"),
        "wrong-nonce": (answers(nonce=5), "NONCE"),
        "no-nonce": (answers(nonce=None), "NONCE"),
        "time-in-the-past": (answers(gen_time=datetime.now(UTC) - timedelta(minutes=10)), "CLOCK|REVOCATION_TOO_NEW"),
        "time-in-the-future": (answers(gen_time=datetime.now(UTC) + timedelta(minutes=10)), "CLOCK"),
        "other-policy": (answers(policy="1.2.3.4.6"), "POLICY"),
        "expired": (answers(signer=liar.expired), "VALIDITY"),
        "revoked": (answers(signer=liar.revoked), "REVOKED"),
        "stranger": (answers(signer=liar.maker.issue("TSA", issuer=liar.maker.issue("Root", ca=True))), "PATH"),
    }
    return misdeeds | {f"rejects-{name}": (rejects(bit), name) for bit, name in FAILURES.items()}


@pytest.fixture(scope="module")
def url(liar: Liar) -> Iterator[str]:
    does = {name: respond for name, (respond, _) in table(liar).items()}
    does["honest"] = lambda handler, body: send(handler, liar.token(body))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            does[self.path[1:]](self, self.rfile.read(int(self.headers["Content-Length"])))

        def do_GET(self) -> None:
            send(self, liar.crl(), kind="application/pkix-crl")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()


def test_each_is_named_with_its_reason_and_the_honest_one_is_heard(liar: Liar, url: str) -> None:
    expected = {url + name: reason for name, (_, reason) in table(liar).items()}
    expected["http://127.0.0.1:9/"] = "refused"
    names = [*expected, url + "honest"]
    sources = [HttpSource(name, liar.authority, crl_urls=[url + "crl"], limits=LIMITS) for name in names]
    now_ms = system_clock()
    outcome = ask_pool(sources, MESSAGE, now_ms, PoolPolicy(parallel=8, patience_s=15))
    assert list(outcome.tokens) == [url + "honest"]
    assert outcome.authorities == 1
    assert set(outcome.failures) == set(expected)
    for name, reason in expected.items():
        said = str(outcome.failures[name])
        assert any(part in said for part in reason.split("|")), f"{name} is said to be {said}"
    # All of them are left alone for a while, and the honest one has nothing to be asked again.
    assert set(outcome.troubles) == set(expected)
    assert all(next_attempt_ms(trouble) > now_ms for trouble in outcome.troubles.values())
    again = ask_pool(sources, MESSAGE, now_ms + 1, PoolPolicy(), troubles=outcome.troubles)
    assert set(again.backed_off) == set(expected)
    assert again.failures == {}

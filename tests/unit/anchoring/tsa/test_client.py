"""The HTTP client against authorities that behave, that do not, and that are not there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from anchoring.timestamp import Authority
from anchoring.timestamp.der import BIT_STRING, SEQUENCE, UTF8_STRING, encode_der, encode_integer
from anchoring.tsa.client import HttpSource
from anchoring.tsa.request import parse_request
from anchoring.tsa.web import HttpLimits
from identity.errors import ConfigurationError, ImprintMismatch, TokenRejected, TokenUndecided, TransportError

TSA = "http://tsa.example/"
CRL = "http://crl.example/root.crl"
OCSP = "http://ocsp.example/"
REPLY = {"Content-Type": "application/timestamp-reply"}
LIMITS = HttpLimits(attempts=3, backoff_s=0.5)

Answer = Callable[[httpx.Request], httpx.Response]


class Web:
    """A web of answers by URL. Keeps what was asked for, and how long the client waited in between."""

    def __init__(self) -> None:
        self.pages: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.waits: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        url = str(request.url)
        self.asked.append(url)
        if url not in self.pages:
            return httpx.Response(404)
        return self.pages[url](request)

    def source(self, authority: Authority, **arguments: Any) -> HttpSource:
        transport = httpx.MockTransport(self)
        return HttpSource(TSA, authority, limits=LIMITS, transport=transport, sleep=self.waits.append, **arguments)


@pytest.fixture
def web() -> Web:
    return Web()


@pytest.fixture
def signer(maker: Any) -> Any:
    return maker.issue("TSA", issuer=maker.root, crl_url=CRL)


def answering(maker: Any, change: Any, **arguments: Any) -> Answer:
    """An authority that stamps what it is asked to, with the nonce it is given."""
    info = arguments.pop("info", {})
    stated = arguments.pop("status", None)

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["content-type"] == "application/timestamp-query"
        asked = parse_request(request.content)
        imprint = {"hash_algorithm": {"algorithm": "sha256"}, "hashed_message": asked.imprint}
        plan = change(info={"message_imprint": imprint, "nonce": asked.nonce, **info})
        if stated is not None:
            plan.status = stated
        return reply(maker.response(plan, **arguments), REPLY)

    return answer


def reply(content: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
    """An answer that is still to be read, as those from a network are."""
    return httpx.Response(200, headers=headers, stream=httpx.ByteStream(content))


def page(content: bytes, headers: dict[str, str] | None = None) -> Answer:
    return lambda request: reply(content, headers)


def status(code: int, headers: dict[str, str] | None = None) -> Answer:
    return lambda request: httpx.Response(code, headers=headers)


def in_turn(*answers: Answer) -> Answer:
    """An authority that answers each time as the next of these."""
    left = iter(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        return next(left)(request)

    return answer


# What works.


def test_a_token_with_its_revocation_list(web: Web, maker: Any, change: Any, signer: Any) -> None:
    crl = maker.crl()
    web.pages = {TSA: answering(maker, change, signer=signer), CRL: page(crl)}
    source = web.source(maker.authority)
    acquired = source.acquire(b"note\n", maker.now_ms)
    assert acquired.verified.authority == "CN=TSA"
    assert acquired.evidence.crls == (crl,)
    assert web.asked == [TSA, CRL]
    assert source.name == TSA
    assert source.authority == maker.authority


def test_the_answer_is_kept_as_it_came(web: Web, maker: Any, change: Any, signer: Any) -> None:
    sent: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(answering(maker, change, signer=signer)(request).read())
        return reply(sent[0], REPLY)

    web.pages = {TSA: answer, CRL: page(maker.crl())}
    assert web.source(maker.authority).acquire(b"note\n", maker.now_ms).evidence.response == sent[0]


def test_a_status_text_is_left_out_and_the_token_kept(web: Web, maker: Any, change: Any, signer: Any) -> None:
    text = encode_der(SEQUENCE, encode_der(UTF8_STRING, b"Operation Okay"))
    status = encode_der(SEQUENCE, encode_integer(0), text)
    web.pages = {TSA: answering(maker, change, signer=signer, status=status), CRL: page(maker.crl())}
    response = web.source(maker.authority).acquire(b"note\n", maker.now_ms).evidence.response
    assert b"Operation" not in response
    assert response[4:9] == bytes.fromhex("3003020100")


def test_a_configured_list_comes_first(web: Web, maker: Any, change: Any, signer: Any) -> None:
    mirror = "https://mirror.example/root.crl"
    web.pages = {TSA: answering(maker, change, signer=signer), mirror: page(maker.crl())}
    web.source(maker.authority, crl_urls=[mirror]).acquire(b"note\n", maker.now_ms)
    assert web.asked == [TSA, mirror]


def test_a_configured_intermediate(web: Web, maker: Any, change: Any) -> None:
    middle = maker.issue("Middle", issuer=maker.root, ca=True, crl_url=CRL)
    signer = maker.issue("TSA", issuer=middle, crl_url="http://crl.example/middle.crl")
    web.pages = {
        TSA: answering(maker, change, signer=signer),
        CRL: page(maker.crl()),
        "http://crl.example/middle.crl": page(maker.crl(middle)),
    }
    acquired = web.source(maker.authority, certificates=[middle.der]).acquire(b"note\n", maker.now_ms)
    assert acquired.evidence.certificates == (middle.der,)
    assert len(acquired.evidence.crls) == 2


def test_ocsp_where_there_is_no_list(web: Web, maker: Any, change: Any) -> None:
    signer = maker.issue("TSA", issuer=maker.root, crl_url=CRL, ocsp_url=OCSP)
    responder = maker.issue(
        "Responder", issuer=maker.root, eku=[ExtendedKeyUsageOID.OCSP_SIGNING], extensions=[x509.OCSPNoCheck()]
    )

    def respond(request: httpx.Request) -> httpx.Response:
        asked = ocsp.load_der_ocsp_request(request.content)
        assert asked.serial_number == signer.certificate.serial_number
        content = maker.ocsp(signer, responder=responder, embed=[responder])
        return reply(content, {"Content-Type": "application/ocsp-response"})

    web.pages = {TSA: answering(maker, change, signer=signer), OCSP: respond}
    acquired = web.source(maker.authority).acquire(b"note\n", maker.now_ms)
    assert (len(acquired.evidence.crls), len(acquired.evidence.ocsps)) == (0, 1)


def test_revocation_data_made_on_demand_serves_a_second_token(web: Web, maker: Any, change: Any, signer: Any) -> None:
    minute = timedelta(minutes=1)
    first, second = (answering(maker, change, signer=signer, info={"gen_time": maker.now + i * minute}) for i in (0, 2))
    web.pages = {TSA: in_turn(first, second), CRL: page(maker.crl(this_update=minute))}
    acquired = web.source(maker.authority).acquire(b"note\n", maker.now_ms)
    assert acquired.verified.gen_time_ms == maker.now_ms + 120_000
    assert web.asked == [TSA, CRL, TSA]


def test_a_fault_that_passes_is_waited_out(web: Web, maker: Any, change: Any, signer: Any) -> None:
    def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    web.pages = {TSA: in_turn(broken, status(503), answering(maker, change, signer=signer)), CRL: page(maker.crl())}
    assert web.source(maker.authority).acquire(b"note\n", maker.now_ms)
    assert web.waits == [0.5, 1.0]


# What does not.


def test_nobody_there(web: Web, maker: Any) -> None:
    def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectTimeout("timed out")

    web.pages = {TSA: broken}
    with pytest.raises(TransportError, match="timed out"):
        web.source(maker.authority).acquire(b"note\n", maker.now_ms)
    assert len(web.asked) == 3


@pytest.mark.parametrize(("code", "attempts"), [(500, 3), (429, 3), (400, 1), (404, 1), (302, 1), (204, 1)])
def test_other_statuses(web: Web, maker: Any, code: int, attempts: int) -> None:
    web.pages = {TSA: status(code, {"Location": CRL})}
    with pytest.raises(TransportError, match=str(code)):
        web.source(maker.authority).acquire(b"note\n", maker.now_ms)
    assert web.asked == [TSA] * attempts


def test_an_answer_of_another_type(web: Web, maker: Any) -> None:
    web.pages = {TSA: page(b"<html>\x1b[2J", headers={"Content-Type": "text/\x1bhtml"})}
    with pytest.raises(TransportError, match="not application/timestamp-reply"):
        web.source(maker.authority).acquire(b"note\n", maker.now_ms)


def test_an_answer_without_end(web: Web, maker: Any) -> None:
    served = 0

    def endless() -> Iterator[bytes]:
        nonlocal served
        while True:
            served += 1
            yield bytes(10_000)

    web.pages = {TSA: lambda request: httpx.Response(200, headers=REPLY, content=endless())}
    with pytest.raises(TransportError, match="larger than 65536"):
        web.source(maker.authority).acquire(b"note\n", maker.now_ms)
    assert served < 10


def test_an_answer_that_drips(web: Web, maker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(0, 1000, 20))
    monkeypatch.setattr("anchoring.tsa.web.time.monotonic", lambda: next(ticks))
    web.pages = {TSA: lambda request: httpx.Response(200, headers=REPLY, content=iter([b"x"] * 100))}
    with pytest.raises(TransportError, match="longer than"):
        web.source(maker.authority).acquire(b"note\n", maker.now_ms)


def test_a_compressed_answer(web: Web, maker: Any) -> None:
    web.pages = {TSA: page(b"\x1f\x8b", headers={**REPLY, "Content-Encoding": "br"})}
    with pytest.raises(TransportError, match="compressed"):
        web.source(maker.authority).acquire(b"note\n", maker.now_ms)


def test_an_answer_that_is_no_response(web: Web, maker: Any) -> None:
    web.pages = {TSA: page(b"nonsense", headers=REPLY)}
    with pytest.raises(TransportError, match="not a timestamp token"):
        web.source(maker.authority).acquire(b"note\n", maker.now_ms)


def test_a_token_with_a_damaged_certificate(web: Web, maker: Any, change: Any, signer: Any) -> None:
    other = maker.issue("Other", issuer=maker.root)
    # The version becomes one that there is not; the certificate's own signature is not what is looked at first.
    damaged = other.der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020109"), 1)

    def damage(request: httpx.Request) -> httpx.Response:
        whole = answering(maker, change, signer=signer, certificates=[signer, other])(request).read()
        return reply(whole.replace(other.der, damaged), REPLY)

    web.pages = {TSA: damage}
    with pytest.raises(TransportError, match="not a timestamp token"):
        web.source(maker.authority).acquire(b"note\n", maker.now_ms)


def test_a_root_that_is_none(maker: Any) -> None:
    with pytest.raises(ConfigurationError, match="root"):
        HttpSource(TSA, Authority(b"nonsense", maker.policy, "CN=TSA"))


def test_a_refusal_says_why(web: Web, maker: Any) -> None:
    text = encode_der(SEQUENCE, encode_der(UTF8_STRING, b"too \x1b[2Jbusy"))
    refusal = encode_der(SEQUENCE, encode_integer(2), text, encode_der(BIT_STRING, b"\x07\x80"))
    web.pages = {TSA: page(encode_der(SEQUENCE, refusal), headers=REPLY)}
    with pytest.raises(TokenRejected) as caught:
        web.source(maker.authority).acquire(b"note\n", maker.now_ms)
    assert caught.value.reason == "REFUSED"
    assert "rejection (badAlg) saying 'too ?[2Jbusy'" in str(caught.value)


@pytest.mark.parametrize("status", [0, 1, 3, 4, 77])
def test_other_answers_without_a_token(web: Web, maker: Any, status: int) -> None:
    answer = encode_der(SEQUENCE, encode_der(SEQUENCE, encode_integer(status)))
    web.pages = {TSA: page(answer, headers=REPLY)}
    with pytest.raises(TokenRejected, match="REFUSED"):
        web.source(maker.authority).acquire(b"note\n", maker.now_ms)


def test_a_token_over_something_else(web: Web, maker: Any, signer: Any) -> None:
    web.pages = {TSA: page(maker.response(signer=signer), headers=REPLY), CRL: page(maker.crl())}
    with pytest.raises(ImprintMismatch):
        web.source(maker.authority).acquire(b"note\n", maker.now_ms)


def test_an_old_token_played_again(web: Web, maker: Any, signer: Any) -> None:
    web.pages = {TSA: page(maker.response(signer=signer), headers=REPLY), CRL: page(maker.crl())}
    with pytest.raises(TokenRejected, match="NONCE"):
        web.source(maker.authority).acquire(maker.message, maker.now_ms)


def test_a_clock_that_is_far_off(web: Web, maker: Any, change: Any, signer: Any) -> None:
    web.pages = {TSA: answering(maker, change, signer=signer), CRL: page(maker.crl())}
    with pytest.raises(TokenRejected, match="CLOCK"):
        web.source(maker.authority).acquire(b"note\n", maker.now_ms + 3_600_000)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"-----BEGIN X509 CRL-----"])
def test_a_list_that_is_none(web: Web, maker: Any, change: Any, signer: Any, content: bytes) -> None:
    web.pages = {TSA: answering(maker, change, signer=signer), CRL: page(content)}
    with pytest.raises(TokenUndecided, match=r"REVOCATION_MISSING.*CRL"):
        web.source(maker.authority).acquire(b"note\n", maker.now_ms)


def test_a_list_of_another_authority(web: Web, maker: Any, change: Any, signer: Any) -> None:
    web.pages = {TSA: answering(maker, change, signer=signer), CRL: page(maker.crl(maker.issue("Other", ca=True)))}
    with pytest.raises(TokenUndecided, match="about something else"):
        web.source(maker.authority).acquire(b"note\n", maker.now_ms)


def test_no_source_of_revocation_data(web: Web, maker: Any, change: Any) -> None:
    signer = maker.issue("TSA", issuer=maker.root, crl_url="ldap://directory.example/")
    web.pages = {TSA: answering(maker, change, signer=signer)}
    with pytest.raises(TokenUndecided, match="none is configured"):
        web.source(maker.authority).acquire(b"note\n", maker.now_ms)
    assert web.asked == [TSA]


def test_a_stranger_cannot_make_us_fetch(web: Web, maker: Any, change: Any) -> None:
    stranger = maker.issue("Root", ca=True)
    signer = maker.issue("TSA", issuer=stranger, crl_url="http://victim.example/")
    web.pages = {TSA: answering(maker, change, signer=signer)}
    with pytest.raises(TokenRejected, match="PATH"):
        web.source(maker.authority).acquire(b"note\n", maker.now_ms)
    assert web.asked == [TSA]


def test_revocation_data_that_stays_too_new(web: Web, maker: Any, change: Any, signer: Any) -> None:
    web.pages = {
        TSA: answering(maker, change, signer=signer),
        CRL: page(maker.crl(this_update=timedelta(minutes=1))),
    }
    with pytest.raises(TokenUndecided, match="REVOCATION_TOO_NEW"):
        web.source(maker.authority).acquire(b"note\n", maker.now_ms)
    assert web.asked == [TSA, CRL, TSA]


def test_proxies_of_the_environment_are_not_used(
    web: Web, maker: Any, change: Any, signer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:1/")
    monkeypatch.setenv("ALL_PROXY", "http://proxy.example:1/")
    web.pages = {TSA: answering(maker, change, signer=signer), CRL: page(maker.crl())}
    assert web.source(maker.authority).acquire(b"note\n", maker.now_ms)


@pytest.mark.parametrize("url", ["", "tsa.example", "ftp://tsa.example/", "http://[", "http://tsa.example:99999/"])
def test_unusable_urls(maker: Any, url: str) -> None:
    limits = HttpLimits(attempts=1)
    with pytest.raises(TransportError):
        HttpSource(url, maker.authority, limits=limits).acquire(b"note\n", maker.now_ms)

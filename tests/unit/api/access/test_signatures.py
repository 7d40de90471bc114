"""Requests are signed and verified in one profile of RFC 9421, and nothing else is taken."""

from __future__ import annotations

import base64
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from http_message_signatures import (
    HTTPMessageSigner,
    HTTPMessageVerifier,
    HTTPSignatureKeyResolver,
    algorithms,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from api.access.request import HttpRequest
from api.access.signatures import (
    BOUND_FIELDS,
    MAX_AGE_S,
    MAX_TOKEN_BYTES,
    authorization_of,
    sign_request,
    signature_base,
    verify_request,
)
from identity.errors import MalformedError, SignatureMismatch, Unauthenticated
from identity.keys import Ed25519Signer, verify_signature
from identity.textforms import to_did_key

NOW = 1_800_000_000
NONCE = "AAECAwQFBgcICQoLDA0ODw"
SIGNER = Ed25519Signer(b"\1" * 32)
URL = "https://node.example/v1/databases/bank/collections/accounts/documents/4711?axis=known"
BODY = b'{"owner":"Novak"}'
TOKEN = b"a token that nobody minted"


def signed(
    request: HttpRequest, *, signer: Ed25519Signer = SIGNER, created: int = NOW, nonce: str = NONCE
) -> HttpRequest:
    added = sign_request(signer, request, created=created, nonce=nonce)
    return HttpRequest(request.method, request.url, (*request.headers, *added), request.body)


def full() -> HttpRequest:
    headers = (
        ("content-type", "application/json"),
        ("authorization", authorization_of(TOKEN)),
        ("if-match", '"1.K5rW5XlQW0Yb3nNq5n1E"'),
        ("accept", "application/json"),
    )
    return HttpRequest("PUT", URL, headers, BODY)


def put(request: HttpRequest, name: str, value: str) -> HttpRequest:
    """With another value of a header."""
    headers = tuple((one, value if one == name else held) for one, held in request.headers)
    return HttpRequest(request.method, request.url, headers, request.body)


def without(request: HttpRequest, name: str) -> HttpRequest:
    headers = tuple(one for one in request.headers if one[0] != name)
    return HttpRequest(request.method, request.url, headers, request.body)


def edited(request: HttpRequest, edit: Callable[[str], str]) -> HttpRequest:
    """With another ``signature-input``."""
    (value,) = request.values("signature-input")
    return put(request, "signature-input", edit(value))


def refused(request: HttpRequest, reason: str, *, now_s: int = NOW) -> None:
    with pytest.raises(Unauthenticated) as caught:
        verify_request(request, now_s)
    assert caught.value.reason == reason


def test_a_request_tells_who_signed_it() -> None:
    verified = verify_request(signed(full()), NOW)
    assert (verified.key, verified.created, verified.nonce) == (SIGNER.public_key, NOW, NONCE)
    assert verified.token is not None
    assert (verified.token.encoded, verified.token.digest) == (TOKEN, sha256(TOKEN).digest())


def test_a_request_without_body_and_token() -> None:
    assert verify_request(signed(HttpRequest("GET", URL, ())), NOW).token is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda r: HttpRequest("DELETE", r.url, r.headers, r.body),
        lambda r: HttpRequest(r.method, r.url.replace("4711", "4712"), r.headers, r.body),
        lambda r: HttpRequest(r.method, r.url.replace("node.example", "other.example"), r.headers, r.body),
        lambda r: HttpRequest(r.method, r.url.removesuffix("?axis=known"), r.headers, r.body),
        lambda r: put(r, "authorization", authorization_of(b"another token")),
        lambda r: put(r, "if-match", '"*"'),
        lambda r: put(r, "content-type", "text/plain"),
        lambda r: edited(r, lambda value: value.replace(str(NOW), str(NOW + 1))),
        lambda r: edited(r, lambda value: value.replace(NONCE, NONCE[::-1])),
        lambda r: edited(r, lambda value: value.replace(to_did_key(SIGNER.public_key), to_did_key(b"\7" * 32))),
        lambda r: edited(r, lambda value: value.replace('"@method" "@target-uri"', '"@target-uri" "@method"')),
        lambda r: put(r, "signature", f"sig1=:{base64.b64encode(bytes(64)).decode()}:"),
    ],
)
def test_what_is_covered_cannot_change(spoil: Callable[[HttpRequest], HttpRequest]) -> None:
    refused(spoil(signed(full())), "WRONG_SIGNATURE")


@pytest.mark.parametrize("name", ["content-type", "authorization", "if-match"])
def test_what_is_covered_cannot_be_taken_away(name: str) -> None:
    refused(without(signed(full()), name), "COVERAGE")


@pytest.mark.parametrize("name", ["authorization", "if-match", "content-digest", "content-type"])
def test_what_is_covered_cannot_be_there_twice(name: str) -> None:
    request = signed(full())
    doubled = (*request.headers, (name, request.values(name)[0]))
    refused(HttpRequest(request.method, request.url, doubled, request.body), "REQUEST_FORM")


@pytest.mark.parametrize("name", [name for name in BOUND_FIELDS if name != "content-digest"])
def test_what_decides_a_request_cannot_be_added_uncovered(name: str) -> None:
    request = signed(HttpRequest("PUT", URL, (), BODY))
    refused(HttpRequest("PUT", URL, (*request.headers, (name, "added")), BODY), "COVERAGE")


def test_other_headers_may_change_on_the_way() -> None:
    assert verify_request(put(signed(full()), "accept", "text/html"), NOW).key == SIGNER.public_key


@pytest.mark.parametrize("component", ["@method", "@target-uri", "content-digest", "authorization", "if-match"])
def test_each_component_has_to_be_covered(component: str) -> None:
    """Signed by the key all the same: who signs less gets nothing."""
    request = signed(full())
    (value,) = request.values("signature-input")
    spelt = f'"{component}"'
    shorter = value.replace(f"{spelt} ", "") if f"{spelt} " in value else value.replace(f" {spelt}", "")
    refused(put(request, "signature-input", shorter), "COVERAGE")


@pytest.mark.parametrize(
    "edit",
    [
        lambda v: v.replace('"@method" ', '"@method" "@method" '),
        lambda v: v.replace('"@method" ', '"@method" "x-more" '),
        lambda v: v.replace('"@method" ', '"@method" "@authority" '),
    ],
)
def test_nothing_else_is_covered(edit: Callable[[str], str]) -> None:
    refused(edited(signed(full()), edit), "COVERAGE")


@pytest.mark.parametrize(
    "edit",
    [
        lambda v: v.replace("sig1=", "sig2="),
        lambda v: v.replace("sig1=", "SIG1="),
        lambda v: v + ", " + v,
        lambda v: v + ", " + v.replace("sig1=", "sig2="),
        lambda v: v + ';expires="1"',
        lambda v: v + ";expires=1900000000",
        lambda v: v + ';tag="x"',
        lambda v: v + ";created=1",
        lambda v: v.replace(f";created={NOW}", ""),
        lambda v: v.replace(f";created={NOW}", f';created="{NOW}"'),
        lambda v: v.replace(f";created={NOW}", f";created=0{NOW}"),
        lambda v: v.replace(f";created={NOW}", f";created={NOW}.0"),
        lambda v: v.replace(f";created={NOW}", f";created=-{NOW}"),
        lambda v: v.replace(f';nonce="{NONCE}"', ""),
        lambda v: v.replace(NONCE, "short"),
        lambda v: v.replace(NONCE, "A" * 65),
        lambda v: v.replace(NONCE, "A" * 15 + '\\"'),
        lambda v: v.replace('"ed25519"', '"hmac-sha256"'),
        lambda v: v.replace(';alg="ed25519"', ""),
        lambda v: v.replace("did:key:z6Mk", "did:web:z6Mk"),
        lambda v: v.replace("did:key:z6Mk", "did:key:z6LS"),
        lambda v: v.replace('"@method"', '"@method";req'),
        lambda v: v.replace('"@method" ', '"@method"  '),
        lambda v: v.replace("(", "( "),
        lambda v: v.replace(";nonce", "; nonce"),
        lambda v: " " + v,
        lambda v: v + "\n",
        lambda v: v + "\n x",
        lambda v: "",
        lambda v: "sig1",
        lambda v: "sig1=()",
    ],
)
def test_one_spelling(edit: Callable[[str], str]) -> None:
    refused(edited(signed(full()), edit), "SIGNATURE_FORM")


@pytest.mark.parametrize("name", ["signature", "signature-input"])
def test_one_signature(name: str) -> None:
    request = signed(full())
    refused(without(request, name), "NO_SIGNATURE")
    twice = (*request.headers, (name, request.values(name)[0]))
    refused(HttpRequest(request.method, request.url, twice, request.body), "NO_SIGNATURE")
    refused(put(request, name, "x" * 2000), "TOO_LARGE")


@pytest.mark.parametrize(
    "value", ["sig1=::", "sig2=:{0}:", "sig1=:{0}:, sig2=:{0}:", "sig1={0}", "sig1=:{0}:;x", "sig1=:{1}:"]
)
def test_the_signature_has_one_spelling(value: str) -> None:
    request = signed(full())
    text = request.values("signature")[0][6:-1]
    refused(put(request, "signature", value.format(text, text.rstrip("="))), "SIGNATURE_FORM")


def test_the_signature_is_canonical_base64() -> None:
    """86 digits hold four bits more than 64 bytes: whoever sets them has another text of the same bytes."""
    request = signed(full())
    text = request.values("signature")[0][6:-1]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    spoilt = text[:85] + alphabet[alphabet.index(text[85]) | 1] + "=="
    refused(put(request, "signature", f"sig1=:{spoilt}:"), "WRONG_SIGNATURE")


@pytest.mark.parametrize("off", [-MAX_AGE_S - 1, MAX_AGE_S + 1, -(10**9)])
def test_old_and_future_requests(off: int) -> None:
    request = signed(full(), created=NOW + off)
    refused(request, "NOT_NOW")
    assert verify_request(request, NOW + off).created == NOW + off


@pytest.mark.parametrize("off", [-MAX_AGE_S, MAX_AGE_S])
def test_clocks_may_be_a_minute_apart(off: int) -> None:
    assert verify_request(signed(full(), created=NOW + off), NOW).created == NOW + off


def test_the_body_is_the_one_that_was_signed() -> None:
    request = signed(full())
    refused(HttpRequest(request.method, request.url, request.headers, BODY + b" "), "DIGEST")
    refused(HttpRequest(request.method, request.url, request.headers, b""), "DIGEST")
    refused(without(request, "content-digest"), "COVERAGE")
    bare = HttpRequest("GET", URL, ())
    refused(HttpRequest("GET", URL, signed(bare).headers, b"a body"), "DIGEST")


@pytest.mark.parametrize(
    "digest",
    [
        "sha-512=:{0}:",
        "sha-256=:{0}:, sha-512=:{0}:",
        "sha-256=:{0}:;x=1",
        "sha-256={0}",
        "SHA-256=:{0}:",
        "sha-256=:{0}: ",
    ],
)
def test_the_digest_has_one_spelling(digest: str) -> None:
    text = base64.b64encode(sha256(BODY).digest()).decode()
    spoilt = HttpRequest("PUT", URL, (("content-digest", digest.format(text)),), BODY)
    with pytest.raises(MalformedError):
        signed(spoilt)
    good = signed(HttpRequest("PUT", URL, (), BODY))
    with pytest.raises(Unauthenticated):
        verify_request(put(good, "content-digest", digest.format(text)), NOW)


@pytest.mark.parametrize("value", ["a\r\n b", "a\n b", "a\tb", " a", "a ", "", "ä", "a\0b", "x" * 20_000])
def test_folded_and_odd_headers(value: str) -> None:
    with pytest.raises(Unauthenticated):
        verify_request(put(signed(full()), "if-match", value), NOW)
    with pytest.raises(MalformedError):
        signed(put(full(), "if-match", value))


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_websocket_is_asked_for_under_a_signature(scheme: str) -> None:
    url = f"{scheme}://node.example/v1/databases/bank/sync"
    request = signed(HttpRequest("GET", url, ()))
    assert verify_request(request, NOW).key == SIGNER.public_key
    refused(HttpRequest("GET", url.replace("ws", "http", 1), request.headers), "WRONG_SIGNATURE")


@pytest.mark.parametrize(
    "url",
    [
        "/v1/x",
        "ftp://node.example/",
        "https://node.example/#x",
        "https://a/ b",
        "https://a/ä",
        "https://a/" + "x" * 9000,
    ],
)
def test_the_target_is_an_absolute_uri(url: str) -> None:
    with pytest.raises(MalformedError):
        signed(HttpRequest("GET", url, ()))
    refused(HttpRequest("GET", url, signed(HttpRequest("GET", URL, ())).headers), "REQUEST_FORM")


@pytest.mark.parametrize("method", ["get", "G T", "", "GET\n", "X" * 17])
def test_the_method_is_upper_case(method: str) -> None:
    refused(HttpRequest(method, URL, signed(HttpRequest("GET", URL, ())).headers), "REQUEST_FORM")


@pytest.mark.parametrize(
    "value",
    [
        "Bearer abcd",
        "biscuit YWJjZA==",
        "Biscuit ",
        "Biscuit YWJjZA",
        "Biscuit YWJj ZA==",
        "Biscuit YWI+",
        "Biscuit YWJjZB==",
        "Biscuit  YWJjZA==",
        authorization_of(b"x" * (MAX_TOKEN_BYTES + 1)),
    ],
)
def test_the_token_has_one_spelling(value: str) -> None:
    refused(signed(HttpRequest("GET", URL, (("authorization", value.rstrip() or "x"),))), "TOKEN_FORM")


def test_a_nonce_is_fit_before_anything_is_signed() -> None:
    for nonce in ("short", "A" * 65, 'A"' * 10):
        with pytest.raises(MalformedError):
            signed(full(), nonce=nonce)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["signature", "signature-input", "authorization", "content-digest", "if-match"]),
            st.text(max_size=60) | st.binary(max_size=60).map(lambda data: data.decode("latin-1")),
        ),
        max_size=6,
    ),
    st.text(max_size=30),
    st.binary(max_size=20),
)
def test_any_headers(headers: list[tuple[str, str]], url: str, body: bytes) -> None:
    """Nothing but a refusal comes of them."""
    with pytest.raises(Unauthenticated):
        verify_request(HttpRequest("GET", url, tuple(headers), body), NOW)


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 10**6), st.characters(codec="utf-8"))
def test_any_character_changed_in_what_is_signed(at: int, character: str) -> None:
    request = signed(full())
    (value,) = request.values("signature-input")
    at %= len(value)
    spoilt = value[:at] + character + value[at + 1 :]
    if spoilt != value:
        with pytest.raises(Unauthenticated):
            verify_request(put(request, "signature-input", spoilt), NOW)


# --- others -----------------------------------------------------------------------------------------------------------


def test_the_example_of_the_rfc() -> None:
    """RFC 9421 appendix B.2.6: the base, and the signature under the key of appendix B.1.4."""
    components = [
        ("date", "Tue, 20 Apr 2021 02:07:55 GMT"),
        ("@method", "POST"),
        ("@path", "/foo"),
        ("@authority", "example.com"),
        ("content-type", "application/json"),
        ("content-length", "18"),
    ]
    params = (
        '("date" "@method" "@path" "@authority" "content-type" "content-length")'
        ';created=1618884473;keyid="test-key-ed25519"'
    )
    base = signature_base(components, params)
    assert base.decode().splitlines()[-1].startswith('"@signature-params": ("date"')
    seed = base64.urlsafe_b64decode("n4Ni-HpISpVObnQMW0wOhCKROaIKqKtW_2ZYb2p9KcU=")
    signer = Ed25519Signer(seed)
    assert signer.public_key == base64.urlsafe_b64decode("JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs=")
    stated = "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw=="
    verify_signature(signer.public_key, base, base64.b64decode(stated))
    with pytest.raises(SignatureMismatch):
        verify_signature(signer.public_key, base + b"\n", base64.b64decode(stated))


class _Message:
    """A request as the library of the others wants it."""

    def __init__(self, request: HttpRequest) -> None:
        self.method, self.url, self.body = request.method, request.url, request.body
        self.headers: Any = _CaseInsensitive(dict(request.headers))


class _CaseInsensitive(dict[str, str]):
    def __setitem__(self, name: str, value: str) -> None:
        super().__setitem__(name.lower(), value)

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return super().__contains__(str(name).lower())

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


class _Keys(HTTPSignatureKeyResolver):
    def resolve_private_key(self, key_id: str) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(b"\1" * 32)

    def resolve_public_key(self, key_id: str) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_public_bytes(SIGNER.public_key)


def test_another_implementation_verifies_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    import datetime

    verifier = HTTPMessageVerifier(signature_algorithm=algorithms.ED25519, key_resolver=_Keys())
    message = _Message(signed(full(), created=int(datetime.datetime.now(datetime.UTC).timestamp())))
    (result,) = verifier.verify(message, max_age=datetime.timedelta(hours=1))
    assert set(result.covered_components) >= {'"@method"', '"@target-uri"', '"content-digest"', '"authorization"'}


def test_we_verify_another_implementation() -> None:
    import datetime

    request = HttpRequest("GET", URL, (("authorization", authorization_of(TOKEN)),))
    message = _Message(request)
    HTTPMessageSigner(signature_algorithm=algorithms.ED25519, key_resolver=_Keys()).sign(
        message,
        key_id=to_did_key(SIGNER.public_key),
        created=datetime.datetime.fromtimestamp(NOW, datetime.UTC),
        nonce=NONCE,
        label="sig1",
        covered_component_ids=("authorization", "@target-uri", "@method"),
    )
    headers = tuple((name.lower(), value) for name, value in message.headers.items())
    assert verify_request(HttpRequest("GET", URL, headers), NOW).key == SIGNER.public_key

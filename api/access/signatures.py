"""HTTP message signatures (RFC 9421) over requests: one profile, for both sides.

Implements docs/spec/http-signature.md. Of the RFC's many forms exactly one is written and read: one signature, labelled
``sig1``, by Ed25519, over everything that decides what a request does. So there is no parser of structured fields here:
a header that is not in the one canonical spelling is refused. libsodium alone verifies.

Whether a nonce was seen before, and who the key belongs to, is decided elsewhere (``api.access.nonces``,
``api.access.gate``).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from api.access.action import Token
from api.access.request import HttpRequest
from identity.errors import MalformedError, SignatureMismatch, Unauthenticated
from identity.keys import Signer, verify_signature
from identity.textforms import parse_base64, parse_did_key, to_base64, to_did_key

__all__ = [
    "BOUND_FIELDS",
    "MAX_AGE_S",
    "MAX_TOKEN_BYTES",
    "VerifiedRequest",
    "authorization_of",
    "sign_request",
    "signature_base",
    "token_of",
    "verify_request",
]

MAX_AGE_S: Final = 60
"""How far ``created`` may be off the verifier's clock, either way."""

MAX_TOKEN_BYTES: Final = 8192
"""Of a capability token."""

BOUND_FIELDS: Final = (
    "content-digest",
    "content-type",
    "authorization",
    "if-match",
    "if-none-match",
    "prefer",
    "idempotency-key",
)
"""Header fields that decide what a request does: each that is there must be covered, and each covered must be there."""

_ALWAYS: Final = ("@method", "@target-uri")
_LABEL: Final = "sig1"
_SCHEME: Final = "Biscuit "
_MAX_HEADER: Final = 16_384
"""Characters of one bound field: the longest is an authorization of ``MAX_TOKEN_BYTES`` in base64."""
_MAX_INPUT: Final = 1024
_MAX_URL: Final = 8192
_LAST_SECOND: Final = 253_402_300_799

_INPUT: Final = re.compile(
    r'sig1=(\((?:"[a-z0-9@-]+"(?: (?="))?)+\)(?:;[a-z]+=(?:"[!#-\[\]-~]*"|0|[1-9][0-9]{0,11}))+)'
)
_COMPONENT: Final = re.compile(r'"([a-z0-9@-]+)"')
_PARAMETER: Final = re.compile(r';([a-z]+)=(?:"([!#-\[\]-~]*)"|(0|[1-9][0-9]{0,11}))')
_SIGNATURE: Final = re.compile(r"sig1=:([A-Za-z0-9+/]{86}==):")
_DIGEST: Final = re.compile(r"sha-256=:([A-Za-z0-9+/]{43}=):")
_NONCE: Final = re.compile(r"[A-Za-z0-9_-]{16,64}")
_METHOD: Final = re.compile(r"[A-Z]{1,16}")
_URL: Final = re.compile(r"(?:https?|wss?)://[!-~]+")
_VALUE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?")


@dataclass(frozen=True, slots=True)
class VerifiedRequest:
    """Who signed a request, and what came with it: the signature holds, and covers all that it has to."""

    key: bytes
    created: int
    nonce: str
    token: Token | None


# --- signing --------------------------------------------------------------------------------------------------------


def sign_request(signer: Signer, request: HttpRequest, *, created: int, nonce: str) -> tuple[tuple[str, str], ...]:
    """The headers to add, in lower case: ``signature-input``, ``signature`` and, for a body, ``content-digest``.

    ``created`` is in seconds since 1970, ``nonce`` 16 to 64 characters of base64url that are used once. Sign when every
    other header is there. Raises ``MalformedError`` for a request that nobody could verify.
    """
    added: list[tuple[str, str]] = []
    if request.body and not request.values("content-digest"):
        added.append(("content-digest", _digest(request.body)))
    whole = HttpRequest(request.method, request.url, (*request.headers, *added), request.body)
    if not _NONCE.fullmatch(nonce):
        raise MalformedError("request: a nonce is 16 to 64 characters of base64url")
    try:
        names = (*_ALWAYS, *(name for name in BOUND_FIELDS if whole.values(name)))
        lines = [(name, _component(whole, name)) for name in names]
        _check_digest(whole)
    except Unauthenticated as exc:
        raise MalformedError(f"request: it cannot be signed: {exc}") from exc
    listed = " ".join(f'"{name}"' for name in names)
    keyid = to_did_key(signer.public_key)
    params = f'({listed});created={created};nonce="{nonce}";keyid="{keyid}";alg="ed25519"'
    signature = to_base64(signer.sign(signature_base(lines, params)))
    return (*added, ("signature-input", f"{_LABEL}={params}"), ("signature", f"{_LABEL}=:{signature}:"))


def signature_base(components: Iterable[tuple[str, str]], params: str) -> bytes:
    """What is signed (RFC 9421 section 2.5): a line a component, and the parameters as they are spelt."""
    lines = [f'"{name}": {value}' for name, value in components]
    return "\n".join([*lines, f'"@signature-params": {params}']).encode("ascii")


def authorization_of(token: bytes) -> str:
    """The value of the ``authorization`` header that carries a token."""
    return _SCHEME + base64.urlsafe_b64encode(token).decode("ascii")


def _digest(body: bytes) -> str:
    return f"sha-256=:{to_base64(sha256(body).digest())}:"


# --- verifying ------------------------------------------------------------------------------------------------------


def verify_request(request: HttpRequest, now_s: int) -> VerifiedRequest:
    """Who signed the request. Raises ``Unauthenticated`` for all that is not in the profile, or not true.

    That the nonce is new is for the caller to see to.
    """
    text = _only(request, "signature-input", "NO_SIGNATURE", _MAX_INPUT)
    stated = _INPUT.fullmatch(text)
    signed = _SIGNATURE.fullmatch(_only(request, "signature", "NO_SIGNATURE", _MAX_INPUT))
    if stated is None or signed is None:
        raise Unauthenticated("SIGNATURE_FORM", "one signature, labelled sig1, in the canonical spelling is wanted")
    params = stated[1]
    listed, _, rest = params.partition(")")
    names = _COMPONENT.findall(listed)
    created, nonce, key = _parameters(rest)
    if abs(now_s - created) > MAX_AGE_S:
        raise Unauthenticated("NOT_NOW", f"created {created}, and it is {now_s} here: more than {MAX_AGE_S} s apart")
    _check_covered(request, names)
    lines = [(name, _component(request, name)) for name in names]
    _check_digest(request)
    try:
        signature = parse_base64(signed[1], 64)
        verify_signature(key, signature_base(lines, params), signature)
    except (MalformedError, SignatureMismatch) as exc:
        raise Unauthenticated("WRONG_SIGNATURE", "the signature is not by that key over this request") from exc
    return VerifiedRequest(key, created, nonce, token_of(request))


def _only(request: HttpRequest, name: str, reason: str, most: int) -> str:
    found = request.values(name)
    if len(found) != 1:
        raise Unauthenticated(reason, f"the header {name!r} is there {len(found)} times, once is wanted")
    if len(found[0]) > most:
        raise Unauthenticated("TOO_LARGE", f"the header {name!r} has more than {most} characters")
    return found[0]


def _parameters(text: str) -> tuple[int, str, bytes]:
    """``created``, ``nonce`` and the key. Each of the four parameters once, in any order, and no other."""
    found: dict[str, str | int] = {}
    for name, quoted, number in _PARAMETER.findall(text):
        if name in found:
            raise Unauthenticated("SIGNATURE_FORM", f"the parameter {name!r} is there twice")
        found[name] = int(number) if number else quoted
    if found.keys() != {"created", "nonce", "keyid", "alg"}:
        raise Unauthenticated("SIGNATURE_FORM", "the parameters are created, nonce, keyid and alg")
    created, nonce, keyid, alg = (found[name] for name in ("created", "nonce", "keyid", "alg"))
    if not isinstance(created, int) or created > _LAST_SECOND:
        raise Unauthenticated("SIGNATURE_FORM", "'created' is not a time")
    if not isinstance(nonce, str) or not _NONCE.fullmatch(nonce):
        raise Unauthenticated("SIGNATURE_FORM", "'nonce' is not 16 to 64 characters of base64url")
    if alg != "ed25519":
        raise Unauthenticated("SIGNATURE_FORM", "'alg' is not ed25519")
    try:
        return created, nonce, parse_did_key(str(keyid))
    except MalformedError as exc:
        raise Unauthenticated("SIGNATURE_FORM", "'keyid' is no did:key of an Ed25519 key") from exc


def _check_covered(request: HttpRequest, names: Sequence[str]) -> None:
    wanted = {*_ALWAYS, *(name for name in BOUND_FIELDS if request.values(name))}
    if len(set(names)) != len(names):
        raise Unauthenticated("COVERAGE", "a component is covered twice")
    missing, surplus = wanted - set(names), set(names) - wanted
    if missing or surplus:
        which = f"{sorted(missing)} not covered" if missing else f"{sorted(surplus)} covered and not there"
        raise Unauthenticated("COVERAGE", f"what is covered is not what has to be: {which}")


def _component(request: HttpRequest, name: str) -> str:
    if name == "@method":
        if not _METHOD.fullmatch(request.method):
            raise Unauthenticated("REQUEST_FORM", "a method is letters in upper case")
        return request.method
    if name == "@target-uri":
        if len(request.url) > _MAX_URL or not _URL.fullmatch(request.url) or "#" in request.url:
            raise Unauthenticated("REQUEST_FORM", f"a target URI is absolute, at most {_MAX_URL} printable characters")
        return request.url
    value = _only(request, name, "REQUEST_FORM", _MAX_HEADER)
    if not _VALUE.fullmatch(value):
        raise Unauthenticated("REQUEST_FORM", f"the header {name!r} is folded, or not printable ASCII")
    return value


def _check_digest(request: HttpRequest) -> None:
    """The body is the one that the header speaks of. A body without one is nobody's."""
    if not request.values("content-digest"):
        if request.body:
            raise Unauthenticated("DIGEST", "a body comes with a content-digest")
        return
    stated = _only(request, "content-digest", "DIGEST", _MAX_HEADER)
    if not _DIGEST.fullmatch(stated) or stated != _digest(request.body):
        raise Unauthenticated("DIGEST", "the content-digest is not the SHA-256 of the body, in canonical spelling")


def token_of(request: HttpRequest) -> Token | None:
    """The token that came with a request, whoever sent it. Raises ``Unauthenticated`` for what is none."""
    if not request.values("authorization"):
        return None
    value = _only(request, "authorization", "TOKEN_FORM", _MAX_HEADER)
    if not value.startswith(_SCHEME):
        raise Unauthenticated("TOKEN_FORM", "the authorization is not of the scheme Biscuit")
    text = value[len(_SCHEME) :]
    try:
        encoded = base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
    except ValueError as exc:
        raise Unauthenticated("TOKEN_FORM", "the token is not base64url") from exc
    if not 0 < len(encoded) <= MAX_TOKEN_BYTES or authorization_of(encoded) != value:
        raise Unauthenticated("TOKEN_FORM", f"the token is not canonical base64url of at most {MAX_TOKEN_BYTES} bytes")
    return Token(encoded, sha256(encoded).digest())

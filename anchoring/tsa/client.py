"""The HTTP client for a timestamping authority (RFC 3161 3.4): ask, collect revocation data, verify, hand over.

What comes back is complete: years later, when the authority's servers answer no more, the archived bytes alone must
still verify. The authority's bytes are kept as they came.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID

from anchoring.timestamp import MAX_RESPONSE_BYTES, Authority, TimestampEvidence, TokenResponse, parse_response
from anchoring.timestamp.certificates import find_extension, load_certificate, name_text, to_der
from anchoring.timestamp.der import SEQUENCE, encode_der, encode_integer
from anchoring.timestamp.revocation import (
    MAX_CRL_BYTES,
    MAX_OCSP_BYTES,
    RevocationData,
    load_crl,
    load_ocsp,
    speaks_about,
)
from anchoring.timestamp.verify import token_path
from anchoring.tsa.request import encode_request
from anchoring.tsa.source import AcquiredToken, accept_token, new_nonce
from anchoring.tsa.web import HttpLimits, WebClient, printable
from identity.errors import (
    AuditError,
    ConfigurationError,
    MalformedError,
    TokenRejected,
    TokenUndecided,
    TransportError,
)

__all__ = ["HttpSource"]

_REQUEST_TYPE: Final = "application/timestamp-query"
_REPLY_TYPE: Final = "application/timestamp-reply"
_OCSP_REQUEST_TYPE: Final = "application/ocsp-request"


class HttpSource:
    """An authority behind a URL."""

    def __init__(
        self,
        url: str,
        authority: Authority,
        *,
        certificates: Sequence[bytes] = (),
        crl_urls: Sequence[str] = (),
        limits: HttpLimits | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Tokens come from ``url`` and must verify against ``authority``.

        ``certificates`` (DER) are those of its path that it does not send along; ``crl_urls`` are asked before the
        sources that the certificates themselves name. ``transport`` and ``sleep`` are for tests. Raises
        ``ConfigurationError`` when the authority's root is no certificate that a path can end in.
        """
        self._url = url
        self._authority = authority
        try:
            self._root = load_certificate(authority.root)
        except AuditError as exc:
            raise ConfigurationError(f"{url}: the root cannot be used: {exc}") from exc
        self._certificates = tuple(certificates)
        self._crl_urls = tuple(crl_urls)
        self._web = WebClient(limits or HttpLimits(), transport, sleep)

    @property
    def name(self) -> str:
        """See ``TimestampSource``."""
        return self._url

    @property
    def authority(self) -> Authority:
        """See ``TimestampSource``."""
        return self._authority

    def acquire(self, message: bytes, now_ms: int) -> AcquiredToken:
        """See ``TimestampSource.acquire``.

        Some responders sign revocation data on demand, later than the token it is asked for. It is good for a second
        token, so one is asked for.
        """
        held: dict[bytes, RevocationData] = {}
        try:
            try:
                return self._acquire_once(message, now_ms, held)
            except TokenUndecided as exc:
                if exc.reason != "REVOCATION_TOO_NEW":
                    raise
            return self._acquire_once(message, now_ms, held)
        except MalformedError as exc:
            raise TransportError(f"{self._url}: the answer is not a timestamp token: {exc}") from exc

    def _acquire_once(self, message: bytes, now_ms: int, held: dict[bytes, RevocationData]) -> AcquiredToken:
        nonce = new_nonce()
        response = self._ask(encode_request(message, policy_oid=self._authority.policy_oid, nonce=nonce))
        bare = TimestampEvidence(response, self._certificates)
        # Sources of revocation data are read only from certificates that the pinned root has signed.
        path = token_path(bare, self._authority.root)
        items = self._collect(path, held)
        evidence = TimestampEvidence(
            response,
            self._certificates,
            crls=tuple(to_der(item) for item in items if isinstance(item, x509.CertificateRevocationList)),
            ocsps=tuple(to_der(item) for item in items if isinstance(item, ocsp.OCSPResponse)),
        )
        return accept_token(evidence, message, self._authority, nonce, now_ms)

    def _ask(self, request: bytes) -> bytes:
        """The authority's answer in evidence form. Raises ``TokenRejected`` REFUSED when it is not a token."""
        raw = self._web.post(self._url, request, _REQUEST_TYPE, _REPLY_TYPE, MAX_RESPONSE_BYTES)
        response = parse_response(raw)
        if response.status != 0 or response.token is None:
            raise TokenRejected("REFUSED", f"{self._url} answers {_describe(response)}")
        if not (response.texts or response.failures):
            return raw
        # Some authorities say "Operation Okay". Nobody signs that, and evidence must not hold what can be altered
        # unnoticed; the token's own bytes stay as they came.
        return encode_der(SEQUENCE, encode_der(SEQUENCE, encode_integer(0)), response.token.raw)

    def _collect(self, path: Sequence[x509.Certificate], held: dict[bytes, RevocationData]) -> list[RevocationData]:
        """One item for each certificate on the path, from ``held`` or else fetched and put there."""
        chain = [*path, self._root]
        items: dict[int, RevocationData] = {}
        for certificate, issuer in itertools.pairwise(chain):
            key = to_der(certificate)
            if key not in held:
                held[key] = self._fetch_for(certificate, issuer)
            items[id(held[key])] = held[key]
        return list(items.values())

    def _fetch_for(self, certificate: x509.Certificate, issuer: x509.Certificate) -> RevocationData:
        failures: list[str] = []
        for fetch in self._sources(certificate, issuer):
            try:
                item = fetch()
            except AuditError as exc:
                failures.append(str(exc))
                continue
            if speaks_about(item, certificate):
                return item
            failures.append("revocation data about something else")
        tried = "; ".join(failures) or "its certificate names no source over http, and none is configured"
        raise TokenUndecided("REVOCATION_MISSING", f"none for {name_text(certificate.subject)}: {tried}")

    def _sources(
        self, certificate: x509.Certificate, issuer: x509.Certificate
    ) -> Iterator[Callable[[], RevocationData]]:
        for url in (*self._crl_urls, *_crl_urls(certificate)):
            yield lambda url=url: load_crl(self._web.get(url, MAX_CRL_BYTES))  # type: ignore[misc]
        for url in _ocsp_urls(certificate):
            yield lambda url=url: self._ask_responder(url, certificate, issuer)  # type: ignore[misc]

    def _ask_responder(self, url: str, certificate: x509.Certificate, issuer: x509.Certificate) -> ocsp.OCSPResponse:
        # RFC 5019 2.1.1: responders need only know SHA-1 here. It names the certificate and proves nothing.
        request = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA1()).build()  # noqa: S303
        body = request.public_bytes(serialization.Encoding.DER)
        return load_ocsp(self._web.post(url, body, _OCSP_REQUEST_TYPE, "application/ocsp-response", MAX_OCSP_BYTES))


def _crl_urls(certificate: x509.Certificate) -> list[str]:
    extension = find_extension(certificate, x509.CRLDistributionPoints)
    points = () if extension is None else extension.value
    return _http_urls(name for point in points for name in point.full_name or ())


def _ocsp_urls(certificate: x509.Certificate) -> list[str]:
    extension = find_extension(certificate, x509.AuthorityInformationAccess)
    entries = () if extension is None else extension.value
    return _http_urls(
        entry.access_location for entry in entries if entry.access_method == AuthorityInformationAccessOID.OCSP
    )


def _http_urls(names: Iterator[x509.GeneralName]) -> list[str]:
    """RFC 5280 4.2.1.13: revocation data is signed itself and is fetched over plain http."""
    uris = [name.value for name in names if isinstance(name, x509.UniformResourceIdentifier)]
    return [uri for uri in uris if uri.startswith("http://")][:4]


def _describe(response: TokenResponse) -> str:
    kinds = {0: "granted without a token", 1: "grantedWithMods", 2: "rejection", 3: "waiting"}
    parts = [kinds.get(response.status, f"status {response.status}")]
    if response.failures:
        parts.append(f"({', '.join(response.failures)})")
    if response.texts:
        parts.append(f"saying {printable(' '.join(response.texts))!r}")
    return " ".join(parts)

"""The development authority over HTTP, on the loopback interface: for demonstrations and for trying the HTTP client.

POST / takes a timestamp query; GET /crl gives the revocation list (DER), GET /root.pem the root certificate.
"""

from __future__ import annotations

import ipaddress
import threading
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, ClassVar, Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from anchoring.tsa.dev import DevelopmentAuthority
from anchoring.tsa.request import MAX_REQUEST_BYTES
from identity.errors import ConfigurationError

__all__ = ["DevelopmentServer"]

_TIMEOUT_S: Final = 10


class DevelopmentServer:
    """Serves one authority, a thread for each connection. As a context manager it serves in the background."""

    def __init__(self, authority: DevelopmentAuthority, *, host: str = "127.0.0.1", port: int = 0) -> None:
        """Bind to ``host`` (a loopback IPv4 address) and ``port``; 0 takes a free one.

        Raises ``ConfigurationError`` for any other address: strangers have no use for these tokens.
        """
        if not _is_loopback(host):
            raise ConfigurationError(f"the development authority serves loopback addresses only, not {host}")
        try:
            self._server = ThreadingHTTPServer((host, port), partial(_Handler, authority))
        except OSError as exc:
            raise ConfigurationError(f"cannot listen on {host} port {port}: {exc.strerror}") from exc
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where queries go. The list is at ``url + 'crl'``, the root at ``url + 'root.pem'``."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}/"

    def serve_forever(self) -> None:
        """Serve until interrupted."""
        self._server.serve_forever(poll_interval=0.1)

    def close(self) -> None:
        """Stop serving and release the port."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve_forever, name="development authority", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "holdfast-development-authority"
    sys_version = ""
    timeout: ClassVar[float | None] = _TIMEOUT_S
    # Header and body leave in one write: in two, the second waits for the peer's delayed acknowledgement (40 ms).
    wbufsize = -1

    def __init__(self, authority: DevelopmentAuthority, *connection: Any) -> None:
        self._authority = authority
        super().__init__(*connection)  # this already serves the connection

    def do_POST(self) -> None:
        if self.path != "/":
            self._refuse(HTTPStatus.NOT_FOUND)
        elif self.headers.get_content_type() != "application/timestamp-query":
            self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        elif (length := self._content_length()) is not None:
            body = self.rfile.read(length)
            self._answer("application/timestamp-reply", self._authority.respond(body))

    def do_GET(self) -> None:
        if self.path == "/crl":
            self._answer("application/pkix-crl", self._authority.crl())
        elif self.path == "/root.pem":
            root = x509.load_der_x509_certificate(self._authority.root)
            self._answer("application/x-pem-file", root.public_bytes(Encoding.PEM))
        else:
            self._refuse(HTTPStatus.NOT_FOUND)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged: standard error belongs to the command that serves."""

    def _content_length(self) -> int | None:
        """The announced length of the body; None when the request has been refused for it."""
        text = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not (text.isascii() and text.isdigit()):
            self._refuse(HTTPStatus.LENGTH_REQUIRED)
        elif len(text) > 9 or int(text) > MAX_REQUEST_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            return int(text)
        return None

    def _answer(self, content_type: str, body: bytes) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: HTTPStatus) -> None:
        # The body of the request may not have been read; nothing after it can be.
        self.close_connection = True
        self.send_error(status)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        return False

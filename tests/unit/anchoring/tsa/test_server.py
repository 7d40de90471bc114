"""The development authority over HTTP: what it serves and what it refuses."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from anchoring.timestamp import parse_response
from anchoring.tsa.client import HttpSource
from anchoring.tsa.dev import DevelopmentAuthority, system_clock
from anchoring.tsa.request import MAX_REQUEST_BYTES
from anchoring.tsa.server import DevelopmentServer
from identity.errors import ConfigurationError

QUERY = {"Content-Type": "application/timestamp-query"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> DevelopmentAuthority:
    return DevelopmentAuthority(tmp_path_factory.mktemp("tsa"))


@pytest.fixture(scope="module")
def server(authority: DevelopmentAuthority) -> Iterator[DevelopmentServer]:
    with DevelopmentServer(authority) as running:
        yield running


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False) as running:
        yield running


def test_the_client_gets_a_token(authority: DevelopmentAuthority, server: DevelopmentServer) -> None:
    source = HttpSource(server.url, authority.authority, crl_urls=[server.url + "crl"])
    acquired = source.acquire(b"note\n", system_clock())
    assert acquired.verified.development
    assert len(acquired.evidence.crls) == 1


def test_the_root_and_the_list(
    authority: DevelopmentAuthority, server: DevelopmentServer, client: httpx.Client
) -> None:
    root = client.get(server.url + "root.pem").content
    assert x509.load_pem_x509_certificate(root) == x509.load_der_x509_certificate(authority.root)
    answer = client.get(server.url + "crl")
    assert answer.content == authority.crl()
    assert answer.headers["content-type"] == "application/pkix-crl"


def test_nonsense_is_answered_with_a_refusal(server: DevelopmentServer, client: httpx.Client) -> None:
    answer = client.post(server.url, content=b"nonsense", headers=QUERY)
    assert answer.status_code == 200
    assert parse_response(answer.content).failures == ("badDataFormat",)


def test_what_is_refused(server: DevelopmentServer, client: httpx.Client) -> None:
    assert client.get(server.url).status_code == 404
    assert client.get(server.url + "authority.pem").status_code == 404
    assert client.post(server.url + "crl", content=b"", headers=QUERY).status_code == 404
    assert client.post(server.url, content=b"x").status_code == 415
    large = bytes(MAX_REQUEST_BYTES + 1)
    assert client.post(server.url, content=large, headers=QUERY).status_code == 413
    assert client.post(server.url, content=iter([b"x"]), headers=QUERY).status_code == 411
    assert client.put(server.url, content=b"x").status_code == 501


@pytest.mark.parametrize("length", ["", "-1", "1e3", "9" * 5000])
def test_strange_lengths_are_refused(server: DevelopmentServer, length: str) -> None:
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port or 0), timeout=5) as connection:
        head = (
            f"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: {QUERY['Content-Type']}\r\nContent-Length: {length}\r\n\r\n"
        )
        connection.sendall(head.encode())
        assert connection.recv(100).split()[1] in (b"411", b"413")


def test_an_answer_comes_in_one_piece(server: DevelopmentServer) -> None:
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port or 0), timeout=5) as connection:
        connection.sendall(b"GET /crl HTTP/1.1\r\nHost: x\r\n\r\n")
        head, _, body = connection.recv(1 << 16).partition(b"\r\n\r\n")
        length = next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Length"))
        assert len(body) == int(length.partition(b":")[2])


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org", "::1", ""])
def test_only_loopback_is_served(authority: DevelopmentAuthority, host: str) -> None:
    with pytest.raises(ConfigurationError, match="loopback"):
        DevelopmentServer(authority, host=host)


def test_a_taken_port_is_named(authority: DevelopmentAuthority, server: DevelopmentServer) -> None:
    port = httpx.URL(server.url).port
    assert port is not None
    with pytest.raises(ConfigurationError, match=str(port)):
        DevelopmentServer(authority, port=port)


def test_nothing_is_written_to_the_terminal(
    tmp_path: Path, client: httpx.Client, capfd: pytest.CaptureFixture[str]
) -> None:
    with DevelopmentServer(DevelopmentAuthority(tmp_path)) as running:
        client.get(running.url)
        client.get(running.url + "crl")
    assert capfd.readouterr() == ("", "")

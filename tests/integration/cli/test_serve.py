"""``holdfast serve`` as a process: it says where it serves, refuses what nobody signed, and ends when it is asked."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.integration

OPEN = """
import sys
from api.access.action import Caller, Grant
from api.cli.__main__ import main
from api.node import Node

class OpenGate:
    def identify(self, request):
        return Caller(bytes(32))

    def allow(self, caller, action):
        return Grant(caller, bytes(32))

Node._open_gate = lambda _node: OpenGate()
sys.exit(main(sys.argv[1:]))
"""
"""The command with a gate that lets everybody in: what follows is not about who may."""


@pytest.fixture
def start(shell: Any) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def begin(*options: str, is_open: bool = False) -> subprocess.Popen[str]:
        program = ["-c", OPEN] if is_open else ["-m", "api.cli"]
        process = subprocess.Popen(
            [sys.executable, *program, "serve", "--port", "0", "--device", "laptop", "--json", *options],
            env=shell.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def url_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.stderr.read() if process.stderr else ""
    return str(json.loads(line)["url"])


def ended(process: subprocess.Popen[str]) -> list[Any]:
    """End it; the lines of its log."""
    process.send_signal(signal.SIGTERM)
    said, logged = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, ""), logged
    return [json.loads(line) for line in logged.splitlines()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_asked_to_end(start: Callable[..., Any], number: signal.Signals) -> None:
    process = start()
    url = url_of(process)
    assert httpx.get(f"{url}/readyz").json()["state"] == "ready"
    refused = httpx.get(f"{url}/v1/databases")
    assert (refused.status_code, refused.headers["content-type"]) == (401, "application/problem+json")
    process.send_signal(number)
    said, logged = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, "")
    lines = [json.loads(line) for line in logged.splitlines()]
    assert [(line["route"], line["status"]) for line in lines] == [("/readyz", 200), ("/v1/databases", 401)]


def test_what_was_written_is_there_after_it_has_ended(shell: Any, start: Callable[..., Any]) -> None:
    shell("db", "create", "bank", "--device", "laptop")
    process = start("--anchor-every", "1h", is_open=True)
    url = url_of(process)
    made = httpx.put(f"{url}/v1/databases/bank/collections/accounts/documents/4711", json={"owner": "Novak"})
    assert made.status_code == 201, made.text
    events = [line["event"] for line in ended(process)]
    assert "anchoring" in events
    assert shell("db", "get", "bank", "accounts/4711", "--json").json[0]["fields"] == {"owner": "Novak"}


def test_who_follows_is_told_and_sent_home_when_it_ends(shell: Any, start: Callable[..., Any]) -> None:
    shell("db", "create", "bank", "--device", "laptop")
    process = start(is_open=True)
    url = url_of(process)
    path = f"{url}/v1/databases/bank/collections/accounts/documents/4711"
    seen: list[str] = []
    is_told = threading.Event()

    def follow() -> None:
        with httpx.stream("GET", f"{url}/v1/databases/bank/changes/stream", timeout=60) as stream:
            for line in stream.iter_lines():
                seen.append(line)
                if line.startswith("data: ") and "Novak" in line:
                    is_told.set()

    thread = threading.Thread(target=follow)
    thread.start()
    httpx.put(path, json={"owner": "Novak"})
    assert is_told.wait(30)
    ended(process)
    thread.join(30)
    assert not thread.is_alive()
    assert any(line.startswith("id: ") for line in seen)


def test_headers_that_are_too_large_and_bodies_that_lie_are_refused(shell: Any, start: Callable[..., Any]) -> None:
    shell("db", "create", "bank", "--device", "laptop")
    process = start(is_open=True)
    url = url_of(process)
    large = httpx.get(f"{url}/healthz", headers={"X-Large": "x" * 40_000})
    assert (large.status_code, large.json()["type"]) == (431, "urn:holdfast:problem:headers-too-large")
    path = f"{url}/v1/databases/bank/collections/accounts/documents/4711"
    refused = httpx.put(path, content=(b"x" * 65_536 for _ in range(100)))
    assert (refused.status_code, refused.json()["type"]) == (413, "urn:holdfast:problem:limit-exceeded")
    assert httpx.get(path).status_code == 404
    ended(process)


def test_it_speaks_tls(shell: Any, start: Callable[..., Any]) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", shell.path("node.key"), "-out",
         shell.path("node.crt"), "-days", "2", "-subj", "/CN=node", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    key = str(shell.path("node.key"))
    process = start("--tls-cert", str(shell.path("node.crt")), "--tls-key", key)
    url = url_of(process)
    assert url.startswith("https://")
    trusted = ssl.create_default_context(cafile=str(shell.path("node.crt")))
    assert httpx.get(f"{url}/readyz", verify=trusted).status_code == 200
    ended(process)
    refused = shell("serve", "--port", "0", "--device", "laptop", "--tls-cert", key, "--tls-key", key, code=78)
    assert "TLS files" in refused.err


def test_tenants_are_served_beside_it(shell: Any, start: Callable[..., Any]) -> None:
    settings = shell.path("home") / "holdfast.toml"
    settings.write_text(settings.read_text() + '\n[service.tenants]\nnorth = "../other"\n')
    process = start(is_open=True)
    url = url_of(process)
    made = httpx.post(f"{url}/tenants/north/v1/databases", json={"name": "north"})
    assert made.status_code == 201, made.text
    assert [one["name"] for one in httpx.get(f"{url}/v1/databases").json()["databases"]] == []
    ended(process)
    settings.write_text(settings.read_text().replace("../other", "."))
    assert "same store" in shell("serve", "--port", "0", "--device", "laptop", code=78).err


def test_it_listens_to_others_only_with_tls(shell: Any) -> None:
    for host in ("0.0.0.0", "::", "node.example"):
        assert "no TLS" in shell("serve", "--host", host, "--port", "0", code=64).err
    assert "go together" in shell("serve", "--tls-cert", "node.crt", code=64).err
    assert "duration" in shell("serve", "--anchor-every", "soon", code=64).err.lower()


def test_an_address_that_is_taken_is_said(shell: Any, start: Callable[..., Any]) -> None:
    process = start()
    port = url_of(process).rpartition(":")[2]
    assert f"port {port}" in shell("serve", "--port", port, "--device", "laptop", code=78).err
    ended(process)

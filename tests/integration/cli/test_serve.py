"""``holdfast serve`` as a process: it says where it serves, refuses what nobody signed, and ends when it is asked."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.integration


@pytest.fixture
def start(shell: Any) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def begin(*options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "api.cli", "serve", "--port", "0", "--json", *options],
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


def test_it_listens_to_others_only_with_tls(shell: Any) -> None:
    refused = shell("serve", "--host", "0.0.0.0", "--port", "0", code=64)
    assert "no TLS" in refused.err

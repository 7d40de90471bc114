"""``devtsa serve`` and ``devchain serve`` as processes of their own."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def serve(shell: Any, root: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Start ``holdfast ... serve`` and return the process and the URL that it prints."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "api.cli", *arguments, "serve", "--port", "0", "--json"],
            env={**shell.environment(), "PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        answer = json.loads(process.stdout.readline())
        assert answer["kind"] == arguments[0]
        return process, answer["url"]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def interrupt(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    return err


def ask(url: str, method: str, *parameters: object) -> Any:
    call = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}).encode()
    request = urllib.request.Request(url, call, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["result"]


def test_the_chain_is_served_until_interrupted(serve: Any, shell: Any) -> None:
    process, url = serve("devchain")
    assert url.startswith("http://127.0.0.1:")
    assert ask(url, "eth_chainId") == hex(1212434006)
    assert int(ask(url, "eth_blockNumber"), 16) == 5
    assert shell("anchor", "run", "--json", code=75).error["reason"] == "StoreBusy"
    line = ["audit", "--log", "complete.log", "--policy", "home/policy.toml", "--rpc", url]
    assert shell.at("nowhere")(*line).code == 0
    interrupt(process)
    shell("anchor", "run")


def test_the_authority_is_served_until_interrupted(serve: Any, shell: Any) -> None:
    process, url = serve("devtsa")
    with urllib.request.urlopen(f"{url}root.pem", timeout=30) as answer:
        assert answer.read().startswith(b"-----BEGIN CERTIFICATE-----")
    interrupt(process)


@pytest.mark.parametrize("name", ["devtsa", "devchain"])
def test_a_port_that_is_taken(name: str, shell: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = shell(name, "serve", "--port", str(port), code=78)
    assert ran.out == ""
    assert str(port) in ran.err
    assert "in use" in ran.err

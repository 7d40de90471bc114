"""``anchor work`` in a process of its own: lines as they come, signals, and what status says of it afterwards."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.integration


@pytest.fixture
def start(shell: Any) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def begin(*options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "api.cli", "anchor", "work", *options],
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


def read_until(process: subprocess.Popen[str], wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(json.loads(line))
        if wanted(seen[-1]):
            return seen
    raise AssertionError(f"ended after {seen}: {process.stderr.read() if process.stderr else ''}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_anchors_and_ends_when_asked(shell: Any, start: Callable[..., Any], number: signal.Signals) -> None:
    shell("feed", "append", "ledger", "notes.jsonl")
    shell("checkpoint", "create")
    process = start("--every", "1h", "--json")
    seen = read_until(process, lambda event: event["state"] == "final")
    assert [(event["event"], event["state"]) for event in seen] == [
        ("started", None),
        ("state", "consistent"),
        ("token", None),
        ("anchor", "submitted"),
        ("anchor", "mined"),
        ("anchor", "final"),
    ]
    assert {(event["v"], event["kind"]) for event in seen} == {(1, "anchor-event")}
    process.send_signal(number)
    rest, errors = process.communicate(timeout=60)
    assert [json.loads(line)["event"] for line in rest.splitlines()] == ["stopped"]
    assert (process.returncode, errors) == (0, "")
    found = shell("status", "--json").json[0]
    assert (found["checkpoints_behind"], found["waiting"], found["failures"], found["warnings"]) == (0, [], {}, [])


def test_a_store_behind_its_chain_is_not_worked_on(shell: Any, start: Callable[..., Any]) -> None:
    copy = shutil.copytree(shell.path("home"), shell.path("copy"))
    shell("feed", "append", "ledger", "notes.jsonl")
    shell("checkpoint", "create")
    shell("anchor", "run")
    shutil.rmtree(shell.path("home"))
    copy.rename(shell.path("home"))
    process = start("--every", "1h")
    lines, errors = process.communicate(timeout=60)
    assert process.returncode == 77
    assert "behind-anchor" in errors
    assert lines.count("\n") == 1


def test_an_interval_that_is_none(shell: Any) -> None:
    for text in ("0s", "5", "1w", ""):
        shell("anchor", "work", "--every", text, code=64)

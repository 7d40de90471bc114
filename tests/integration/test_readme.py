"""The README's first screen, run as it stands: each command, and each line of output that it shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

VARYING = (
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{3})? UTC"), "<time>"),
    (re.compile(r"TSA [0-9a-f]{8} "), "TSA <id> "),
)


def sessions(root: Path) -> list[tuple[str, list[str]]]:
    """The commands of the console blocks before the first heading after the title, each with the output shown."""
    first_screen = (root / "README.md").read_text(encoding="utf-8").split("\n## ")[0]
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", first_screen, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def plain(text: str) -> str:
    for pattern, name in VARYING:
        text = pattern.sub(name, text)
    return text


@pytest.fixture
def environment(root: Path, tmp_path: Path) -> dict[str, str]:
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "holdfast"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m api.cli "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    shutil.copytree(root / "examples", tmp_path / "examples")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    return {
        **kept,
        "PATH": f"{programs}:{kept['PATH']}",
        "PYTHONPATH": str(root),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }


@pytest.mark.integration
def test_the_first_screen(root: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    shown = 0
    for command, expected in sessions(root):
        if command.startswith("export "):
            environment |= dict(word.split("=", 1) for word in command.split()[1:])
            continue
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        printed = plain(done.stdout + done.stderr)
        assert (done.returncode == 0) == (not any("error:" in line for line in expected)), printed
        for line in expected:
            assert plain(line) in printed.splitlines(), f"{command}\ndoes not print\n{line}\nbut\n{printed}"
            shown += 1
    assert shown > 10

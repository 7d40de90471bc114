"""The tutorial and the auditor's guide, run as they stand: each command, and each line of output that they show."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from identity.keystore import ONLY_FOR_TESTING

VARYING = (
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{3})? UTC"), "<time>"),
    (re.compile(r"\b(0x)?[0-9a-f]{32,}\b|\b[ybndrfg8ejkmcpqxot1uwisza345h769]{52}\b|did:key:z6Mk\w{44}"), "<id>"),
    (re.compile(r"TSA [0-9a-f]{8} "), "TSA <id> "),
    (re.compile(r"^(bytes +)\d+$", re.MULTILINE), r"\1<number>"),
)


def plain(text: str) -> str:
    for pattern, name in VARYING:
        text = pattern.sub(name, text)
    return text


@dataclass
class Step:
    """A command of a page, and the output that the page shows after it."""

    command: str
    expected: list[str] = field(default_factory=list)


def steps(page: Path) -> list[Step]:
    found: list[Step] = []
    for block in re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Step(line[2:]))
            elif found[-1].command.endswith("\\"):
                found[-1].command = found[-1].command.removesuffix("\\") + line
            else:
                found[-1].expected.append(line)
    return found


@dataclass
class Reader:
    """Somebody who types what a page says into a shell."""

    shell: Any

    def run(self, command: str) -> tuple[int, str]:
        """Exit code and output of a line: calls of holdfast in this process, everything else by bash."""
        code, printed = 0, ""
        for part in command.split(" && "):
            if part.startswith("export "):
                self.shell = self.shell.at(self.shell.home, **dict(word.split("=", 1) for word in shlex.split(part)[1:]))
                continue
            code, text = self._run_one(part)
            printed += text
            if code:
                break
        return code, printed

    def _run_one(self, part: str) -> tuple[int, str]:
        given, pipe, call = part.rpartition(" | ")
        if not call.startswith("holdfast "):
            return self._bash(part)
        ran = self.shell(*shlex.split(call)[1:], stdin=self._bash(given)[1] if pipe else "", code=None)
        return ran.code, ran.out + ran.err

    def _bash(self, command: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.shell.directory,
            env=self.shell.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return done.returncode, done.stdout + done.stderr


def follow(page: Path, shell: Any) -> None:
    """Run every command of a page. One that shows an error must end with one; every line shown must be printed."""
    reader = Reader(shell)
    for step in steps(page):
        code, printed = reader.run(step.command)
        fails = any(line.startswith(("holdfast: error:", "FAILED", "INDETERMINATE")) for line in step.expected)
        assert (code != 0) == fails, f"{step.command}\nended with {code}\n{printed}"
        lines = plain(printed).splitlines()
        missing = [line for line in step.expected if line != "[...]" and plain(line) not in lines]
        assert missing == [], f"{step.command}\nprints\n{printed}"


@pytest.fixture
def desk(root: Path, tmp_path: Path, shell: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A terminal in an empty directory with the examples beside it, and keystores that cost nothing to open."""
    from api.founding import Founding

    monkeypatch.setattr(Founding.__init__, "__defaults__", (*Founding.__init__.__defaults__[:-1], ONLY_FOR_TESTING))
    directory = tmp_path / "desk"
    directory.mkdir()
    shutil.copytree(root / "examples", directory / "examples")
    home = tmp_path / "user"
    environ = {"NO_COLOR": "1", "HOME": str(home), "HOLDFAST_DEV_DIR": str(home / ".local/state/holdfast/dev")}
    return replace(shell, directory=directory, environ=environ, terminal=True)


def test_the_tutorial(root: Path, desk: Any) -> None:
    follow(root / "docs" / "tutorial.md", desk)

"""The tutorial, the guides to databases and for auditors, run as they stand: each command, and each line they show."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from anchoring.chain.rpc_server import DevChainServer
from api.bootstrap import open_dev_chain
from identity.keystore import ONLY_FOR_TESTING

VARYING = (
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{3})? UTC"), "<time>"),
    (re.compile(r"\b(0x)?[0-9a-f]{32,}\b|\b[ybndrfg8ejkmcpqxot1uwisza345h769]{52}\b|did:key:z6Mk\w{44}"), "<id>"),
    (re.compile(r"TSA [0-9a-f]{8} "), "TSA <id> "),
    (re.compile(r"\b1\.[A-Za-z0-9_-]{20}(?![A-Za-z0-9_-])"), "<version>"),
    (re.compile(r"^(bytes +)\d+$", re.MULTILINE), r"\1<number>"),
    (re.compile(r"(?<=\S) {2,}"), "  "),  # columns are as wide as their widest name, which a new field may be
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
                self.shell = self.shell.at(
                    self.shell.home, **dict(word.split("=", 1) for word in shlex.split(part)[1:])
                )
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
        words = [re.sub(r"^~(?=/)", self.shell.environ["HOME"], word) for word in shlex.split(call)]
        ran = self.shell(*words[1:], stdin=self._bash(given)[1] if pipe else "", code=None)
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
        fails = any(re.search(r"^holdfast: error:|\b(FAILED|INDETERMINATE)\b", line) for line in step.expected)
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


def test_the_first_minutes_with_a_database(root: Path, desk: Any) -> None:
    follow(root / "docs" / "how-to" / "use-a-database.md", desk)


LARGE = {"account": 4500, "client": 5369, "disp": 5369, "order": 6471, "trans": 49102}
"""The large files of the bank of the tutorial about databases, and their rows, which the page shows."""

SHOWN = re.compile(rb"\d+;(485|1032|7231);")
"""The transactions of the accounts that the page asks for; they lie all over their file."""


def test_the_tutorial_of_a_database(root: Path, desk: Any, shared: Path, tmp_path: Path) -> None:
    """With REQUIRE_ALL_TESTS as it stands; else on 300 rows of each large file, with that for their numbers of rows."""
    page = (root / "docs" / "tutorial-database.md").read_text(encoding="utf-8")
    desk.path("berka").mkdir()
    shorter = () if os.environ.get("REQUIRE_ALL_TESTS") == "1" else LARGE
    for file in (shared / "data" / "berka").glob("*.asc"):
        table = file.read_bytes()
        desk.path(f"berka/{file.name}").write_bytes(some_rows(table, 300) if file.stem in shorter else table)
    if shorter:
        page = re.sub(rf"\b({'|'.join(map(str, LARGE.values()))})\b(?= *(\n|  0 ))", "300", page)
    here = tmp_path / "page.md"
    here.write_text(page, encoding="utf-8")
    follow(here, desk)


def some_rows(table: bytes, count: int) -> bytes:
    """The names of the columns and so many rows: those that are shown, and the first of the others."""
    names, *rows = table.splitlines(keepends=True)
    return names + b"".join(sorted(rows, key=lambda row: SHOWN.match(row) is None)[:count])


@pytest.fixture
def auditor(desk: Any, original: Path) -> Iterator[Any]:
    """Somebody with evidence, a log, a policy and a node, and no home."""
    for there, here in (("evidence.json", "payment.json"), ("complete.archive", "bank.archive")):
        shutil.copy(original / there, desk.path(here))
    shutil.copy(original / "home" / "policy.toml", desk.path("auditor.toml"))
    desk.write("headers.jsonl", "")
    shutil.copytree(original / "dev", desk.path("chain"))
    with open_dev_chain(desk.path("chain")) as chain, DevChainServer(chain) as server:
        yield desk.at("none", NODE=server.url)


@pytest.mark.integration
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_the_auditors_guide(root: Path, auditor: Any, tmp_path: Path) -> None:
    """The page's node is the one of this test, wherever it listens."""
    page = (root / "docs" / "how-to" / "verify-as-an-auditor.md").read_text(encoding="utf-8")
    here = tmp_path / "page.md"
    url = auditor.environ["NODE"]
    here.write_text(page.replace("http://127.0.0.1:8545", url).replace("127.0.0.1:8545", url.removeprefix("http://")))
    follow(here, auditor)


@pytest.mark.integration
def test_the_guides_go_program(auditor: Any, note_checker: Path) -> None:
    auditor("verify", "payment.json", "--policy", "auditor.toml", "--unpack", "parts", code=2)
    parts = auditor.path("parts")
    command = [str(note_checker), str(parts / "log.vkey")]
    shown = subprocess.run([*command, str(parts / "checkpoint-4.note")], capture_output=True, text=True, check=True)
    log_id = json.loads((auditor("verify", "payment.json", "--policy", "auditor.toml", "--json", code=2)).out)
    assert shown.stdout == f"signed by home.example/{log_id['facts']['log']}\n"
    (parts / "other.note").write_text((parts / "checkpoint-4.note").read_text().replace("\n4\n", "\n5\n"))
    assert subprocess.run([*command, str(parts / "other.note")], capture_output=True, check=False).returncode == 1

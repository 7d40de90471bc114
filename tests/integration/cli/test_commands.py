"""Every command as it is meant to be used: what it answers, in a pipe and under ``--json``."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperGroup

from api.cli.app import build_app

HASH = re.compile(r"0x[0-9a-f]{40}|[0-9a-f]{64,128}|did:key:z6Mk\w{44}|[ybndrfg8ejkmcpqxot1uwisza345h769]{52}")

ANSWERS = {
    "status": 1,
    "feed create third --device phone": 1,
    "feed list": 2,
    "feed append notes notes.jsonl": 1,
    "feed import ledger payments.csv --columns id:int,booked:date,amount:dec": 1,
    "feed read ledger 3:7": 4,
    "feed heads ledger": 3,
    "feed audit ledger": 1,
    "feed export ledger -o out": 1,
    "feed ingest ledger.feed --home other": 1,
    "backup create out": 1,
    "backup verify made.backup": 1,
    "restore made.backup --home restored": 1,
    "checkpoint create --restate": 1,
    "checkpoint list": 2,
    "checkpoint show 4": 1,
    "checkpoint export -o out": 1,
    "anchor run": 1,
    "anchor status": 2,
    "evidence export ledger 41 -o out": 1,
    "verify evidence.json --policy home/policy.toml": 1,
    "audit --log": 1,
    "audit --log complete.log --policy home/policy.toml --dev-chain dev": 1,
    "identity list": 1,
    "identity show": 1,
    "identity devices": 2,
    "identity events": 4,
    "identity add-device tablet": 1,
    "identity revoke-device phone --reason lost": 1,
    "identity rotate-root --phrase-file phrase.txt": 1,
    f"identity bind-log {'0f' * 32}": 1,
    "identity close --confirm 'home of a test'": 1,
    "identity review closing.request": 1,
    "identity sign closing.request --phrase-file phrase.txt --yes -o out": 1,
    "identity submit signed.request": 1,
    "identity recover --phrase-file phrase.txt --dry-run": 1,
    "identity export -o out": 1,
    "identity import home.events --home other": 1,
    "root create Anna --keystore a.hfk --phrase-file a.phrase -o out": 1,
    "root card Anna --phrase-file phrase.txt --generation 1 -o out": 1,
    "root restore --phrase-file phrase.txt --generation 1 --keystore a.hfk": 1,
    "headers fetch --number 1 --number 2": 2,
}
"""Command lines, and how many things each answers with."""

NAMES = {name for name, command in build_app().walk() if not isinstance(command, TyperGroup)}
ELSEWHERE = {
    "init",
    "backup forget",
    "recover fetch",
    "recover succeed",
    "sync",
    "proof create",
    "proof ingest",
    "proof read",
    "proof list",
    "proof check-fork",
    "anchor work",
    "serve",
    "demo",
    "devtsa serve",
    "devchain serve",
}
"""Those that make homes of their own, take files of others, or do not end: they have tests of their own."""

ELSEWHERE |= {name for name in NAMES if name.startswith(("device ", "pair ", "visit "))}

ELSEWHERE |= {name for name in NAMES if name.startswith("db ")}  # every one needs a database: test_db*.py have them

MAKES = ("bind-log", "identity close", "submit", "recover")
"""More that answer differently each time: with a new event, or with the key that would be made."""

PROSE = {
    "feed audit ledger",
    "verify evidence.json --policy home/policy.toml",
    "checkpoint show 4",
    "identity review closing.request",
}
"""Those that answer in sentences, or with a note as it is signed."""


@pytest.fixture(scope="session")
def documented(root: Path) -> dict[str, tuple[str, list[str]]]:
    """What docs/reference/json.md says of each command: the kind of its answer, and the fields."""
    page = (root / "docs" / "reference" / "json.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[a-z].*`) \| `([^`]+)`.* \| (.+) \|$", page, re.MULTILINE)
    return {
        command: (kind, re.findall(r"`([^`]+)`", fields))
        for commands, kind, fields in rows
        for command in re.findall(r"`([^`]+)`", commands)
    }


def command_of(line: str) -> str:
    return next(name for name in NAMES if f"{line} ".startswith(f"{name} "))


@pytest.mark.parametrize(("line", "count"), ANSWERS.items())
def test_answer_in_json(line: str, count: int, shell: Any, documented: dict[str, tuple[str, list[str]]]) -> None:
    """One object a thing, each with ``v``, ``kind`` and the documented fields; talk is JSON as well."""
    ran = shell(*shlex.split(line), "--json")
    assert len(ran.json) == count
    for answer in ran.json:
        kind, fields = documented[command_of(line)]
        assert (answer["v"], answer["kind"]) == (1, kind)
        assert list(answer)[2:] == fields
        assert all(re.fullmatch(r"[a-z_]+", name) for name in answer), "a name that a program can use"
    assert all(json.loads(talk)["v"] == 1 for talk in ran.err.splitlines())


@pytest.mark.parametrize("line", [line for line in ANSWERS if line not in PROSE])
def test_answer_in_a_pipe(line: str, fresh: Callable[[], Any]) -> None:
    """The same facts between tabs, a line a field for one thing, a line a thing for many; and no hash is cut."""
    answers = fresh()(*shlex.split(line), "--json").json
    piped = fresh()(*shlex.split(line))
    assert not re.search(r"\x1b|\.\.\.", piped.out)
    if not writes(line):
        assert {text for answer in answers for text in hashes(answer)} <= set(HASH.findall(piped.out))
    if line.startswith("audit"):
        return  # in sentences
    names = [name for name in answers[0] if name not in ("v", "kind")]
    rows = [row.split("\t") for row in piped.lines]
    if len(answers) == 1 and [row[0] for row in rows] == names:
        assert all(len(row) == 2 for row in rows)
    else:
        assert [len(row) for row in rows] == [len(names)] * len(answers)


def writes(line: str) -> bool:
    """Whether the answer is another one each time."""
    return any(
        verb in line for verb in ("create", "append", "import ", "add-device", "revoke", "rotate", "run", *MAKES)
    )


def hashes(value: object) -> Iterator[str]:
    match value:
        case dict():
            for inner in value.values():
                yield from hashes(inner)
        case list():
            for inner in value:
                yield from hashes(inner)
        case str():
            yield from HASH.findall(value)


def test_every_command_is_here(documented: dict[str, tuple[str, list[str]]]) -> None:
    assert NAMES - set(map(command_of, ANSWERS)) == ELSEWHERE
    assert set(documented) == NAMES


@pytest.mark.parametrize("name", sorted(name for name, _ in build_app().walk()))
def test_help_needs_no_home(name: str, shell: Any) -> None:
    ran = shell.at("nowhere")(*name.split(), "--help")
    assert "Examples:" in ran.out or "Commands:" in ran.out
    assert "2 INDETERMINATE" in ran.out

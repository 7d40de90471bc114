"""Every command as it is meant to be used: what it answers, in a pipe and under ``--json``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from typer.core import TyperGroup

from api.cli.app import build_app

HASH = re.compile(r"0x[0-9a-f]{40}|[0-9a-f]{64,128}|did:key:z6Mk\w{44}|[ybndrfg8ejkmcpqxot1uwisza345h769]{52}")

# Command line, the kind of its answer, the fields that the answer must have, and how many answers (None: any).
ANSWERS: list[tuple[str, str, set[str], int]] = [
    (
        "status",
        "status",
        {
            "identity",
            "log",
            "feeds",
            "entries",
            "checkpoint",
            "anchored",
            "blind_entries",
            "state",
            "detail",
            "checked",
        },
        1,
    ),
    ("feed create third --device phone", "feed", {"name", "key", "device"}, 1),
    ("feed list", "feed", {"name", "key", "length", "bytes", "local", "retired", "device", "identity"}, 2),
    ("feed append notes notes.jsonl", "append", {"feed", "table", "entries", "first", "length", "tree"}, 1),
    (
        "feed import ledger payments.csv --columns id:int,booked:date,amount:dec",
        "import",
        {"feed", "table", "rows", "first", "length", "tree", "dry_run"},
        1,
    ),
    ("feed read ledger 3:7", "entry", {"index", "entry", "claimed", "content"}, 4),
    ("feed heads ledger", "head", {"length", "tree", "signature"}, 3),
    ("feed audit ledger", "feed-audit", {"feed", "key", "verdict", "entries", "bytes", "heads", "first_bad"}, 1),
    ("feed export ledger -o out", "feed-export", {"file", "feed", "key", "length"}, 1),
    ("feed ingest ledger.feed --home other", "ingest", {"key", "identity", "first", "length", "new"}, 1),
    ("checkpoint create --restate", "checkpoint", {"size", "root", "withheld"}, 1),
    ("checkpoint list", "checkpoint", {"size", "root", "tokens", "anchor"}, 2),
    ("checkpoint show 4", "checkpoint", {"size", "root", "note"}, 1),
    ("checkpoint export -o out", "log-export", {"file", "checkpoints", "leaves", "events"}, 1),
    ("anchor run", "anchor-round", {"size", "tokens", "anchor", "block", "failures"}, 1),
    ("anchor status", "anchor", {"size", "tokens", "anchor", "block", "since", "reason"}, 2),
    ("evidence export ledger 41 -o out", "evidence", {"file", "feed", "key", "index", "bytes"}, 1),
    ("verify evidence.json --policy home/policy.toml", "verification-report", {"overall", "findings"}, 1),
    ("audit --log", "log-audit", {"verdict", "log", "size", "checkpoints", "state", "anchored_size", "detail"}, 1),
    (
        "audit --log complete.log --policy home/policy.toml --dev-chain dev",
        "log-audit",
        {"verdict", "state", "anchored_size"},
        1,
    ),
    ("identity list", "identity", {"identity", "label", "events", "devices", "duplicitous"}, 1),
    ("identity show", "identity", {"identity", "label", "events", "head", "root_generation", "logs", "closed"}, 1),
    ("identity devices", "device", {"name", "key", "class", "added", "revoked", "reason"}, 2),
    ("identity events", "identity-event", {"seq", "type", "claimed", "digest"}, 4),
    ("identity add-device tablet", "device", {"name", "key", "class", "event"}, 1),
    ("identity revoke-device phone --reason lost", "revocation", {"device", "reason", "event"}, 1),
    ("identity rotate-root --phrase-file phrase.txt", "root", {"generation", "event", "rotated"}, 1),
    ("identity export -o out", "identity-export", {"file", "events"}, 1),
    ("identity import home.events --home other", "identity", {"identity", "events", "duplicitous"}, 1),
    ("headers fetch --number 1 --number 2", "header", {"chain", "number", "hash", "source"}, 2),
]
ELSEWHERE = {"init", "demo", "devtsa serve", "devchain serve"}
"""Those that make homes of their own, or do not end: they have tests of their own."""

PROSE = {"feed audit ledger", "verify evidence.json --policy home/policy.toml", "checkpoint show 4"}
"""Those that answer in sentences, or with a note as it is signed."""


@pytest.mark.parametrize(("line", "kind", "fields", "count"), ANSWERS, ids=[line for line, *_ in ANSWERS])
def test_answer_in_json(line: str, kind: str, fields: set[str], count: int, shell: Any) -> None:
    """One object a thing, each with ``v`` and ``kind``, and names that a program can use; talk is JSON as well."""
    ran = shell(*line.split(), "--json")
    assert len(ran.json) == count
    for answer in ran.json:
        assert (answer["v"], answer["kind"]) == (1, kind)
        assert fields <= set(answer)
        assert all(re.fullmatch(r"[a-z_]+", name) for name in answer)
    assert all(json.loads(talk)["v"] == 1 for talk in ran.err.splitlines())


@pytest.mark.parametrize("line", [line for line, *_ in ANSWERS if line not in PROSE and not line.startswith("audit")])
def test_answer_in_a_pipe(line: str, fresh: Callable[[], Any]) -> None:
    """The same facts between tabs: a line a field for one thing, a line a thing for many."""
    answers = fresh()(*line.split(), "--json").json
    names = [name for name in answers[0] if name not in ("v", "kind")]
    rows = [row.split("\t") for row in fresh()(*line.split()).lines]
    if len(answers) == 1 and [row[0] for row in rows] == names:
        assert all(len(row) == 2 for row in rows)
    else:
        assert [len(row) for row in rows] == [len(names)] * len(answers)


@pytest.mark.parametrize("line", [line for line, *_ in ANSWERS if line not in PROSE])
def test_no_hash_is_cut(line: str, fresh: Callable[[], Any]) -> None:
    """What the answers of a reading command name by hash stands in its text in full."""
    named = {text for answer in fresh()(*line.split(), "--json").json for text in hashes(answer)}
    piped = fresh()(*line.split())
    assert not re.search(r"\x1b|\.\.\.", piped.out)
    if not writes(line):
        assert named <= set(HASH.findall(piped.out))


def writes(line: str) -> bool:
    """Whether the answer is another one each time."""
    return any(verb in line for verb in ("create", "append", "import ", "add-device", "revoke", "rotate", "run"))


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


def test_every_command_is_here() -> None:
    names = {name for name, command in build_app().walk() if not isinstance(command, TyperGroup)}
    tried = {next(name for name in names if f"{line} ".startswith(f"{name} ")) for line, *_ in ANSWERS}
    assert names - tried == ELSEWHERE


@pytest.mark.parametrize("name", sorted(name for name, _ in build_app().walk()))
def test_help_needs_no_home(name: str, shell: Any) -> None:
    ran = shell.at("nowhere")(*name.split(), "--help")
    assert "Examples:" in ran.out or "Commands:" in ran.out
    assert "2 INDETERMINATE" in ran.out

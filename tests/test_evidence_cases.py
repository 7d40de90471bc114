"""The evidence cases through the command line, and what the specification says about them.

tests/evidence/README.md says how another implementation runs the same folders.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from anchoring.evidence import encode_evidence, parse_evidence
from api.cli.__main__ import main

ROOT = Path(__file__).resolve().parent.parent
EVIDENCE = ROOT / "tests" / "evidence"
CASES = sorted(file.parent for file in EVIDENCE.glob("*/expected.json"))
FILES = {"README.md", "at.txt", "evidence.json", "expected.json", "headers.jsonl", "policy.toml"}
CODES = {"fail": 1, "open": 2, "config": 78}


def case_id(folder: Path) -> str:
    return folder.name


def expected_code(folder: Path) -> int:
    return CODES.get(folder.name.rpartition("_")[2], 0)


def arguments(folder: Path) -> list[str]:
    files = [str(folder / "evidence.json"), "--policy", str(folder / "policy.toml")]
    return ["verify", *files, "--at", (folder / "at.txt").read_text().strip(), "--json"]


def names(value: Any) -> set[str]:
    """Every member's name anywhere in a JSON document."""
    if isinstance(value, dict):
        return set(value).union(*map(names, value.values()))
    return set().union(*map(names, value)) if isinstance(value, list) else set()


@pytest.mark.parametrize("folder", CASES, ids=case_id)
def test_case(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(arguments(folder))
    shown = capsys.readouterr()
    expected = json.loads((folder / "expected.json").read_text())
    assert code == expected["exit"] == expected_code(folder), shown
    assert "Traceback" not in shown.err
    if code == CODES["config"]:
        return
    report = json.loads(shown.out)
    found = [{key: finding[key] for key in ("claim", "status", "reason")} for finding in report["findings"]]
    assert [finding for finding in expected["findings"] if finding not in found] == []
    assert report["overall"] == ("PASSED", "FAILED", "INDETERMINATE")[code]


@pytest.mark.parametrize("name", ["genuine", "tampered_block_fail", "no_anchor_open", "unknown_policy_key_config"])
def test_case_in_a_process_of_its_own(name: str) -> None:
    command = [sys.executable, "-m", "api.cli", *arguments(EVIDENCE / name)]
    run = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, timeout=60
    )
    assert run.returncode == expected_code(EVIDENCE / name), run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("folder", CASES, ids=case_id)
def test_a_case_is_whole(folder: Path) -> None:
    assert {file.name for file in folder.iterdir()} == FILES
    title, _, why = (folder / "README.md").read_text().partition("\n\n")
    assert title == f"# {folder.name}"
    assert why.strip()


def test_every_way_to_end_is_among_the_cases() -> None:
    assert {expected_code(folder) for folder in CASES} == {0, *CODES.values()}
    assert len(CASES) > 60


def test_what_the_exporter_writes_is_what_the_reader_writes() -> None:
    data = (EVIDENCE / "genuine" / "evidence.json").read_bytes()
    assert encode_evidence(parse_evidence(data)) == data


def test_the_specification_names_the_members_of_genuine_evidence() -> None:
    text = (ROOT / "docs" / "spec" / "evidence.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| .+ \| (.+) \|$", text, re.MULTILINE)
    named = {part for member, _ in rows for part in member.split(".")}
    # The members of what stands in a list are named where the list is described.
    inner = {name for member, what in rows for name in re.findall(r"`(\w+)`", what) if "." not in member}
    genuine = json.loads((EVIDENCE / "genuine" / "evidence.json").read_text())
    assert named | inner == names(genuine)
    example = json.loads(text.split("```json\n")[1].split("```")[0])
    assert names(example) == names(genuine)


def test_the_cases_can_be_made_anew(tmp_path: Path) -> None:
    """With other keys and at another time, and a verifier finds the same in them."""
    run = subprocess.run(
        [sys.executable, str(EVIDENCE / "generate.py"), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    made = {file.parent.name: file.read_text() for file in tmp_path.glob("*/expected.json")}
    assert made == {folder.name: (folder / "expected.json").read_text() for folder in CASES}

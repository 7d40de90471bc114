"""``holdfast demo`` as a process of its own: attacks caught, two offices that agree, evidence that holds too."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from api.cli.__main__ import main

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Demo:
    """The demonstration that was run: how it ended, and what it left."""

    code: int
    answers: list[dict[str, Any]]
    err: str
    directory: Path
    environ: Mapping[str, str]

    def holdfast(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return run(self.environ, *arguments)


def run(environ: Mapping[str, str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "api.cli", *map(str, arguments)],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def demo(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    directory = tmp_path_factory.mktemp("demo") / "kept"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    environ = {**kept, "PYTHONPATH": str(root), "XDG_STATE_HOME": str(directory.parent / "state")}
    done = run(environ, "demo", "--json", "--keep", directory)
    assert done.returncode == 0, done.stderr
    return Demo(done.returncode, list(map(json.loads, done.stdout.splitlines())), done.stderr, directory, environ)


@pytest.fixture(scope="module")
def parts(demo: Demo) -> Path:
    """The parts of the demonstration's evidence, as ``verify --unpack`` writes them."""
    directory = demo.directory.parent / "parts"
    done = demo.holdfast("verify", evidence(demo), "--policy", policy(demo), "--unpack", directory, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["overall"] == "PASSED"
    return directory


def evidence(demo: Demo) -> Path:
    return demo.directory / "payment.evidence.json"


def policy(demo: Demo) -> Path:
    return demo.directory / "bank" / "policy.toml"


def test_five_attacks_and_each_is_caught(demo: Demo) -> None:
    steps = [answer for answer in demo.answers if answer["kind"] == "step"]
    caught = [step["title"] for step in steps if step["caught"] is True]
    assert len(caught) == len(set(caught)) == 5
    assert [step["title"] for step in steps if step["caught"] is False] == []
    last = demo.answers[-1]
    assert (last["kind"], last["attacks"], last["caught"]) == ("demo", 5, 5)
    assert all(answer["v"] == 1 for answer in demo.answers)
    assert demo.err == ""


def test_its_figures_are_those_of_what_it_left(demo: Demo) -> None:
    """The rows that it says were imported are there, and the seconds were measured."""
    imported = next(answer for answer in demo.answers if "rows" in answer)
    listed = demo.holdfast("feed", "list", "--home", demo.directory / "bank", "--json")
    feeds = {feed["name"]: feed for feed in map(json.loads, listed.stdout.splitlines())}
    assert feeds["transactions"]["length"] == imported["rows"] == 5000
    assert feeds["transactions"]["bytes"] == imported["bytes"]
    assert 0 < imported["seconds"] < demo.answers[-1]["seconds"]


def test_its_evidence_holds_and_an_edited_one_does_not(demo: Demo, parts: Path) -> None:
    assert b"amount" in (parts / "entry.cbor").read_bytes()
    text = evidence(demo).read_text()
    proof = json.loads(text)["feed"]["proof"]
    edited = demo.directory.parent / "edited.json"
    edited.write_text(text.replace(proof, proof[:-9] + ("A" if proof[-9] != "A" else "B") + proof[-8:]))
    assert demo.holdfast("verify", edited, "--policy", policy(demo)).returncode == 1


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_accepts_its_token(demo: Demo, parts: Path) -> None:
    text = policy(demo).read_text()
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    root = parts / "root.pem"
    root.write_text(text[text.index(begin) : text.index(end) + len(end)] + "\n")
    (token,) = parts.glob("checkpoint-*-token-0.tsr")
    note = parts / f"{token.name.partition('-token')[0]}.note"
    command = ["openssl", "ts", "-verify", "-in", token, "-CAfile", root, "-data"]
    done = subprocess.run([*command, note], capture_output=True, text=True, check=False)
    assert (done.returncode, "Verification: OK" in done.stdout + done.stderr) == (0, True)
    other = parts / "other.note"
    other.write_bytes(note.read_bytes().replace(b"\n", b"\n\n", 1))
    assert subprocess.run([*command, other], capture_output=True, check=False).returncode != 0


def test_go_accepts_its_checkpoints(parts: Path, note_checker: Path) -> None:
    notes = sorted(parts.glob("checkpoint-*.note"))
    assert notes
    for note in notes:
        done = subprocess.run([note_checker, parts / "log.vkey", note], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
        assert done.stdout.startswith("signed by bank.example/")


def test_its_two_offices_have_the_same_accounts(demo: Demo) -> None:
    """What it left is what it told: both list the same versions, but of the account on which the phone booked when
    they had met for the last time; nothing waits, and the history has the undo."""
    bank, outpost, phone = (
        {
            row["key"]: row["etag"]
            for row in listed(demo, home, "db", "list", "accounts", "accounts", "--limit", "1000")
            if "etag" in row
        }
        for home in ("bank", "outpost", "phone")
    )
    assert len(bank) == 554
    assert bank == phone
    assert {name for name in bank if bank[name] != outpost[name]} == {"485"}
    assert listed(demo, "bank", "db", "conflicts", "accounts") == []
    history = listed(demo, "outpost", "db", "history", "accounts", "accounts/485")
    notes = [entry["note"] for entry in history]
    assert {"the same file once more", "imported twice", "asked the customer", "booked at the head office"} <= set(
        notes
    )
    assert [entry["note"] for entry in history if entry["undoes"]] == ["imported twice"]
    assert {entry["device"] for entry in history} == {"counter", "branch of Demonstration Bank"}
    for home in ("bank", "outpost"):
        (audit,) = listed(demo, home, "db", "audit", "accounts")
        assert (audit["verdict"], audit["faults"]) == ("PASSED", [])


def test_its_accounts_add_up(demo: Demo, root: Path) -> None:
    """The balance that is proven is the sum of the sample's amounts, by plain addition."""
    with (root / "examples" / "berka-transactions.csv").open(encoding="ascii", newline="") as stream:
        rows = [row for row in csv.DictReader(stream, delimiter=";") if row["account_id"] == "485"]
    total = sum((Decimal(row["amount"]) * (1 if row["type"] == "PRIJEM" else -1) for row in rows), Decimal(0))
    sealed = next(answer for answer in demo.answers if "then" in answer)
    assert (Decimal(sealed["then"]), Decimal(sealed["now"])) == (total, total - 1000)
    conflict = next(answer for answer in demo.answers if "decided" in answer)
    assert (conflict["values"], conflict["decided"]) == (["20000.00", "35000.00"], "35000.00")


@pytest.mark.parametrize(("name", "code"), [("account.evidence.json", 0), ("account.altered.json", 1)])
def test_the_evidence_of_an_account_holds_and_an_altered_one_does_not(demo: Demo, name: str, code: int) -> None:
    assert demo.holdfast("verify", demo.directory / name, "--policy", policy(demo)).returncode == code


def listed(demo: Demo, home: str, *arguments: str) -> list[dict[str, Any]]:
    done = demo.holdfast(*arguments, "--home", demo.directory / home, "--json")
    assert done.returncode == 0, done.stderr
    return list(map(json.loads, done.stdout.splitlines()))


def test_a_demonstration_overwrites_nothing(demo: Demo, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--keep", str(demo.directory)]) == 77
    assert main(["demo", str(demo.directory / "no.csv")]) == 64
    shown = capsys.readouterr()
    assert (shown.out, "there is no" in shown.err) == ("", True)

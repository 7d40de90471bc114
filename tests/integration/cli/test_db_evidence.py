"""Evidence of what a document was, by command line: exported from one home, verified offline, altered and refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

EXPORT = ("evidence", "export", "--database", "bank", "--document", "accounts/1", "-o")
VERIFY = ("verify", "state.json", "--policy", "home/policy.toml")


@pytest.fixture
def bank(shell: Any) -> Any:
    """A home with a document whose state is stated, and not sealed yet."""
    shell("db", "create", "bank", "--device", "laptop")
    shell("db", "put", "bank", "accounts/1", '{"owner": "Ada", "balance": {"$dec": "1.00"}}')
    shell("db", "state-root", "bank")
    return shell


@pytest.fixture
def sealed(bank: Any) -> Any:
    """The same, timestamped and anchored, with evidence of it."""
    for command in (("checkpoint", "create"), ("anchor", "run"), ("checkpoint", "create", "--restate")):
        bank(*command)
    bank(*EXPORT, "state.json")
    return bank


def test_a_state_is_proven(sealed: Any) -> None:
    sealed("db", "patch", "bank", "accounts/1", '{"owner": "Eve"}')
    (report,) = sealed(*VERIFY, "--json", code=None).json
    assert (report["kind"], report["claims"]["state"]) == ("document-verification-report", "PASSED")
    found = report["facts"]["document"]
    assert (found["collection"], found["key"], found["deleted"]) == ("accounts", "1", False)
    assert {cell["path"]: cell["values"] for cell in found["cells"]} == {
        "/owner": ["Ada"],
        "/balance": [{"$dec": "1.00"}],
    }
    shown = sealed(*VERIFY, code=None).out
    assert '/owner (reg): "Ada"' in shown
    assert "rebuild the state and compare its root" in shown


def test_the_verdict_is_the_exit_code(sealed: Any) -> None:
    (report,) = sealed(*VERIFY, "--json", code=0).json
    assert report["overall"] == "PASSED"


@pytest.mark.parametrize("member", ["owner", "place", "salt", "note"])
def test_what_is_altered_fails(sealed: Any, member: str) -> None:
    evidence = json.loads(sealed.path("state.json").read_text())
    match member:
        case "owner":
            evidence["document"]["cells"][-1]["values"] = ["Y0VldmU="]
        case "place":
            evidence["document"]["key"] = "2"
        case "salt":
            evidence["database"]["salt"] = "AAAAAAAAAAAAAAAAAAAAAA=="
        case "note":
            note = evidence["entry"]["log"]["checkpoints"][0]["note"]
            evidence["entry"]["log"]["checkpoints"][0]["note"] = note[:-8] + "AAAA" + note[-4:]
    sealed.write("state.json", json.dumps(evidence))
    assert sealed(*VERIFY, "--json", code=1).json[0]["overall"] == "FAILED"


def test_what_is_not_sealed_yet_is_not_proven(bank: Any) -> None:
    ran = bank(*EXPORT, "state.json", code=2)
    assert "is stated and timestamped" in ran.err
    assert "holdfast db state-root bank" in ran.err
    assert not bank.path("state.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("ledger",),
        ("--database", "bank"),
        ("--document", "accounts/1"),
        ("ledger", "1", "--document", "accounts/1"),
        ("ledger", "1", "--database", "bank", "--document", "accounts/1"),
        ("ledger", "1", "--as-of", "2026-01-01T00:00:00Z"),
        ("--database", "bank", "--document", "accounts"),
        ("--database", "nobank", "--document", "accounts/1"),
        ("--database", "bank", "--document", "accounts/1", "--as-of", "now"),
    ],
)
def test_wrong_usage(bank: Any, arguments: tuple[str, ...]) -> None:
    bank("evidence", "export", *arguments, "-o", "state.json", code=64)


def test_a_document_that_was_not_there(sealed: Any) -> None:
    ran = sealed("evidence", "export", "--database", "bank", "--document", "accounts/9", "-o", "-", code=None)
    assert ran.code in (2, 77)
    assert "accounts/9" in ran.err
    ran = sealed(*EXPORT, "-", "--as-of", "2020-01-01T00:00:00Z", code=2)
    assert "is stated and timestamped" in ran.err

"""Checkpoints, tokens, anchors, evidence, audits and the state of a store, by command line."""

from __future__ import annotations

import base64
import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anchoring.chain.rpc_server import DevChainServer
from api.bootstrap import now_ms, open_dev_chain

HTTP_AUTHORITY = """
[[authorities]]
kind = "http"
url = "http://127.0.0.1:9/"
root = "tsa.pem"
policy = "1.2.3"
subject = "Common Name: nobody"
"""


def status(shell: Any, *options: str, code: int = 0) -> dict[str, Any]:
    (answer,) = shell("status", *options, "--json", code=code).json
    return answer


def seal(shell: Any) -> None:
    shell("checkpoint", "create")
    shell("anchor", "run")


def restore(shell: Any, copy: Path) -> None:
    """Put a copy in the place of the home, as a restored backup is."""
    shutil.rmtree(shell.path("home"))
    shutil.copytree(copy, shell.path("home"))


# --- status ---


def test_status_of_a_sealed_store(shell: Any) -> None:
    found = status(shell)
    assert (found["state"], found["feeds"], found["entries"], found["anchored"]) == ("consistent", 2, 44, 4)
    assert (found["blind_entries"], found["blind_since"], found["anchors_open"]) == (0, None, 0)


def test_status_says_how_wide_the_blind_window_is(shell: Any) -> None:
    shell("feed", "append", "ledger", "notes.jsonl")
    shell("feed", "append", "notes", "notes.jsonl")
    found = status(shell)
    assert found["blind_entries"] == 4
    first = shell("feed", "read", "ledger", "42", "--json").json[0]
    assert found["blind_since"] == first["claimed"]
    seal(shell)
    assert status(shell)["blind_entries"] == 0


def test_somebody_elses_feed_is_not_blind_here(shell: Any) -> None:
    """This store's log does not serve it, so no anchor of this log will ever cover it."""
    other = shell.at("other")
    other("feed", "create", "diary")
    other("feed", "append", "diary", "notes.jsonl")
    other("feed", "export", "diary", "-o", "diary.feed")
    shell("feed", "ingest", "diary.feed")
    found = status(shell)
    assert (found["feeds"], found["blind_entries"]) == (3, 0)


def test_an_alarm_for_entries_that_wait(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shell("status", "--max-blind", "1s")
    shell("feed", "append", "ledger", "notes.jsonl")
    shell("status", "--max-blind", "1h")
    later = now_ms() + 2 * 3_600_000
    monkeypatch.setattr("api.bootstrap.now_ms", lambda: later)
    ran = shell("status", "--max-blind", "1h", code=1)
    assert "wait for an anchor" in ran.err
    shell("status", "--max-blind", "an hour", code=64)


def test_status_offline_repeats_the_last_check(shell: Any) -> None:
    shell.path("home/last-check.json").unlink(missing_ok=True)
    assert status(shell, "--offline")["state"] is None
    checked = status(shell)["checked"]
    shutil.rmtree(shell.path("dev"))
    assert status(shell, code=75)["state"] == "unverified"
    found = status(shell, "--offline")
    assert (found["state"], found["checked"]) == ("consistent", checked), "a check that failed is no check"


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"state": "fine", "detail": "", "checked": 1}', '{"state": 1, "detail": "", "checked": 1}']
    + [f'{{"state": "consistent", "detail": "", "checked": {number}}}' for number in (-1, 10**30)]
    + ["[" * 60_000, " " * 100_000 + "{}"],
)
def test_a_last_check_that_cannot_be_read_is_none(shell: Any, content: str) -> None:
    shell.write("home/last-check.json", content)
    assert status(shell, "--offline")["state"] is None


def test_a_restored_copy_is_read_only(shell: Any) -> None:
    """Reading, exporting and verifying go on; whatever writes is refused and changes nothing."""
    copy = shutil.copytree(shell.path("home"), shell.path("copy"))
    shell("feed", "append", "ledger", "notes.jsonl")
    seal(shell)
    restore(shell, copy)
    assert status(shell, code=77)["state"] == "behind-anchor"
    assert status(shell, "--offline", code=77)["state"] == "behind-anchor"
    before = shell.kept()
    for line in (
        "feed append ledger notes.jsonl",
        "feed import ledger payments.csv",
        "feed create third --device phone",
        "feed ingest ledger.feed",
        "checkpoint create --restate",
        "anchor run",
        "identity add-device tablet",
        "identity revoke-device phone --reason lost",
        "identity rotate-root --phrase-file phrase.txt",
        "identity import home.events",
    ):
        ran = shell(*line.split(), "--json", code=77)
        assert ran.error["reason"] == "ReadOnlyState"
        assert ran.error["message"].startswith("behind-anchor: ")
        assert ran.error["hint"]
    assert shell.kept() == before
    shell("feed", "read", "ledger")
    shell("evidence", "export", "ledger", "3", "-o", "still.json")
    ran = shell("audit", "--json", code=1)
    assert (ran.json[-1]["state"], ran.json[-1]["verdict"]) == ("behind-anchor", "FAILED")


def test_without_its_chain_a_store_is_not_written_to(shell: Any) -> None:
    shutil.rmtree(shell.path("dev"))
    before = shell.kept()
    ran = shell("feed", "append", "ledger", "notes.jsonl", "--json", code=75)
    assert ran.error["message"].startswith("unverified: ")
    assert shell.kept() == before
    assert shell("audit", "--json", code=2).json[-1]["state"] == "unverified"


def test_another_chain_is_told_from_an_empty_one(shell: Any) -> None:
    """The chain's file was deleted and begun anew: the archived anchor is not on it."""
    shutil.rmtree(shell.path("dev"))
    open_dev_chain(shell.path("dev")).close()
    assert status(shell, code=77)["state"] == "foreign-chain"
    young = status(shell.at("young"), code=75)
    assert (young["state"], "NO_CONTRACT" in young["detail"]) == ("unverified", True), "it has no anchor to compare"


# --- checkpoints and anchors ---


def test_nothing_new_is_no_checkpoint(shell: Any) -> None:
    before = shell.kept()
    assert "nothing to commit" in shell("checkpoint", "create", code=77).err
    assert shell.kept() == before
    shell("checkpoint", "create", "--restate")


def test_a_note_is_shown_as_it_was_signed(shell: Any) -> None:
    (answer,) = shell("checkpoint", "show", "4", "--json").json
    assert shell("checkpoint", "show", "4").out == answer["note"]
    assert answer["note"].startswith("home.example/")
    assert "see 'holdfast checkpoint list'" in shell("checkpoint", "show", "5", code=64).err


def test_anchor_run_may_be_repeated(shell: Any) -> None:
    shell("feed", "append", "ledger", "notes.jsonl")
    shell("checkpoint", "create")
    first = shell("anchor", "run", "--json").json[0]
    again = shell("anchor", "run", "--wait", "5", "--json").json[0]
    assert (first["size"], first["anchor"], len(first["tokens"])) == (again["size"], "final", 1)
    assert (again["anchor"], again["tokens"], again["failures"]) == ("final", {}, {})
    assert len(shell("anchor", "status").lines) == 3


def test_there_must_be_something_to_anchor(shell: Any) -> None:
    assert "holdfast checkpoint create" in shell.at("other")("anchor", "run", code=2).err


def test_an_authority_that_cannot_be_reached_stops_nothing_else(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    shell("feed", "append", "ledger", "notes.jsonl")
    shell("checkpoint", "create")
    from anchoring.tsa.dev import DevelopmentAuthority

    shell.write("home/tsa.pem", DevelopmentAuthority(shell.path("dev/tsa")).authority.root)
    settings = shell.path("home/holdfast.toml")
    settings.write_text(settings.read_text() + HTTP_AUTHORITY)
    ran = shell("anchor", "run", "--json")  # one authority is wanted, and one has stamped it
    (answer,) = ran.json
    assert (answer["anchor"], len(answer["tokens"]), answer["wanted"]) == ("final", 1, 1)
    assert list(answer["failures"]) == ["http://127.0.0.1:9/"]
    assert "run it again later" in json.loads(ran.err.splitlines()[-1])["message"]


def test_headers_are_pinned_once(shell: Any) -> None:
    pinned = shell.path("home/headers.jsonl").read_text()
    ran = shell("headers", "fetch")
    assert (ran.out, "nothing new" in ran.err) == ("", True)
    assert shell.path("home/headers.jsonl").read_text() == pinned
    shell("headers", "fetch", "--number", "1", "--number", "1")
    assert len(shell.path("home/headers.jsonl").read_text().splitlines()) == 2
    assert "no block 99" in shell("headers", "fetch", "--number", "99", code=75).err
    shell.at("other")("headers", "fetch", code=78)


def test_a_pinned_header_is_never_replaced(shell: Any) -> None:
    pinned = shell.path("home/headers.jsonl")
    line = json.loads(pinned.read_text())
    pinned.write_text(json.dumps({**line, "hash": "00" * 32}) + "\n")
    before = shell.kept()
    assert "pinned with another hash" in shell("headers", "fetch", code=75).err
    assert shell.kept() == before


# --- evidence ---


def test_evidence_through_a_pipe(shell: Any) -> None:
    ran = shell("evidence", "export", "ledger", "41", "-o", "-")
    assert ran.stdout == shell.path("evidence.json").read_bytes()
    shown = shell("verify", "-", "--policy", "home/policy.toml", stdin=ran.stdout)
    assert shown.out.startswith("PASSED   as of ")
    assert '41 of feed "ledger" ' in shown.out
    assert '"amount": "41.50"' in shown.out
    assert '"laptop" did:key:z6Mk' in shown.out


def test_no_evidence_before_there_is_any(shell: Any) -> None:
    shell("feed", "append", "ledger", "notes.jsonl")
    assert "checkpoint create" in shell("evidence", "export", "ledger", "43", "-o", "new.json", code=2).err
    shell("checkpoint", "create")
    assert "anchor run" in shell("evidence", "export", "ledger", "43", "-o", "new.json", code=2).err
    assert "from 0" in shell("evidence", "export", "ledger", "44", "-o", "new.json", code=64).err
    assert not shell.path("new.json").exists()


def test_the_verdict_is_the_exit_code_in_both_forms(shell: Any) -> None:
    genuine = shell.path("evidence.json").read_text()
    token = json.loads(genuine)["log"]["checkpoints"][0]["timestamps"][0]["response"]
    shell.write("edited.json", genuine.replace(token[:40], token[:39] + ("A" if token[39] != "A" else "B"), 1))
    shell.write("strict.toml", shell.path("home/policy.toml").read_text().replace('"30d"', '"1s"'))
    shutil.copy(shell.path("home/headers.jsonl"), shell.path("headers.jsonl"))
    for file, policy, code, verdict in (
        ("evidence.json", "home/policy.toml", 0, "PASSED"),
        ("edited.json", "home/policy.toml", 1, "FAILED"),
        ("evidence.json", "other/policy.toml", 2, "INDETERMINATE"),
        ("evidence.json", "strict.toml", 2, "INDETERMINATE"),
    ):
        later = "--at=2126-01-01T00:00:00Z" if policy == "strict.toml" else "--no-color"
        assert shell("verify", file, "--policy", policy, later, code=code).out.startswith(verdict)
        assert shell("verify", file, "--policy", policy, later, "--json", code=code).json[0]["overall"] == verdict


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("2026-12-31T23:59:59Z", 1798761599000),
        ("2026-12-31T23:59:59.999+01:00", 1798757999999),
        ("1970-01-01T00:00Z", 0),
    ],
)
def test_the_time_of_a_verification(shell: Any, text: str, milliseconds: int) -> None:
    ran = shell("verify", "evidence.json", "--policy", "home/policy.toml", "--at", text, "--json", code=None)
    assert ran.json[0]["at"] == milliseconds


@pytest.mark.parametrize(
    "text", ["yesterday", "2026-12-31", "2026-12-31T23:59:59", "2026-13-01T00:00:00Z", "", " UTC", "1Z UTC"]
)
def test_a_time_that_is_none(shell: Any, text: str) -> None:
    shell("verify", "evidence.json", "--policy", "home/policy.toml", "--at", text, code=64)


# --- audits ---


def test_an_outsiders_audit(shell: Any) -> None:
    line = ["audit", "--log", "complete.log", "--policy", "home/policy.toml", "--dev-chain", "dev", "--json"]
    (answer,) = shell.at("nowhere")(*line).json
    assert (answer["verdict"], answer["state"], answer["anchored_size"]) == ("PASSED", "consistent", 4)
    assert "the chain ever held" in answer["detail"]
    piped = [part.replace("complete.log", "-") for part in line]
    assert shell.at("nowhere")(*piped, stdin=shell.path("complete.log").read_bytes()).json == [answer]


def test_an_outsider_is_told_what_is_withheld(shell: Any) -> None:
    """The log as it was before the last anchor: whole in itself, and shorter than what the chain holds."""
    seal_new(shell)
    line = ["audit", "--log", "complete.log", "--policy", "home/policy.toml", "--dev-chain", "dev"]
    (answer,) = shell(*line, "--json", code=1).json
    assert (answer["verdict"], answer["state"]) == ("FAILED", "behind-anchor")
    shell("checkpoint", "export", "-o", "complete.log", "--force")
    shell(*line)


def seal_new(shell: Any) -> None:
    shell("feed", "append", "ledger", "notes.jsonl")
    seal(shell)


def test_an_outsider_without_the_chain_cannot_tell(shell: Any) -> None:
    (answer,) = shell("audit", "--log", "complete.log", "--policy", "home/policy.toml", "--json", code=2).json
    assert (answer["verdict"], answer["state"]) == ("INDETERMINATE", "unverified")


def test_the_audit_of_a_log_that_the_policy_does_not_name(shell: Any) -> None:
    line = ["audit", "--log", "complete.log", "--policy", "other/policy.toml", "--dev-chain", "dev"]
    assert "does not name the log" in shell(*line, code=1).err


@pytest.mark.parametrize(
    "line",
    [
        "audit complete.log",
        "audit --log complete.log",
        "audit complete.archive",
        "audit --forks proofs",
        "audit --log complete.log --policy home/policy.toml --forks proofs",
        "audit --policy home/policy.toml",
        "audit --log --dev-chain dev",
        "audit --rpc http://127.0.0.1:1",
        "audit --log complete.log --policy home/policy.toml --dev-chain dev --rpc http://127.0.0.1:1",
    ],
)
def test_audits_that_cannot_be_meant(shell: Any, line: str) -> None:
    shell(*line.split(), code=64)


def test_a_store_from_before_its_first_checkpoint_is_audited_against_the_chain(shell: Any) -> None:
    """There is no log to replay in it, and that is just what the chain contradicts."""
    young = shell.at("young")
    young("feed", "create", "diary")
    assert young("audit", "--json", code=2).json[-1]["state"] == "not-anchored"
    copy = shutil.copytree(shell.path("young"), shell.path("copy"))
    young("feed", "append", "diary", "notes.jsonl")
    seal(young)
    young("audit")
    shutil.rmtree(shell.path("young"))
    copy.rename(shell.path("young"))
    assert young("audit", "--json", code=1).json[-1]["state"] == "behind-anchor"


def test_the_newest_rows_deleted(shell: Any) -> None:
    """Below the engine, with the triggers out of the way: the log states more than the store holds."""
    with sqlite3.connect(shell.path("home/vault.db")) as database:
        for (trigger,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f'DROP TRIGGER "{trigger}"')
        newest = database.execute("SELECT max(pos) FROM block").fetchone()
        database.execute("DELETE FROM block WHERE pos = ?", newest)
    ran = shell("audit", "--json", code=1)
    assert "FAILED" in {answer["verdict"] for answer in ran.json}


# --- headers without a home, and parts ---


@pytest.fixture
def node(shell: Any) -> Iterator[str]:
    with open_dev_chain(shell.path("dev")) as chain, DevChainServer(chain) as server:
        yield server.url


def test_an_auditor_pins_headers_without_a_home(shell: Any, node: str) -> None:
    """The node is named by its host: the rest of its URL may be an access key."""
    auditor = shell.at("nowhere")
    secret = node.replace("//", "//user:s3cret@") + "/v3/s3cret"
    line = ["headers", "fetch", "--file", "mine.jsonl", "--chain", "1212434006", "--number", "1", "--number", "2"]
    ran = auditor(*line, "--rpc", node, "--json")
    assert [row["number"] for row in ran.json] == [1, 2]
    assert {row["source"] for row in ran.json} == {node.removeprefix("http://")}
    written = shell.path("mine.jsonl").read_text()
    assert auditor(*line, "--rpc", node).out == ""
    assert shell.path("mine.jsonl").read_text() == written
    shell.path("mine.jsonl").unlink()
    shown = auditor(*line, "--rpc", secret, code=None)
    assert "s3cret" not in shown.out + shown.err


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ("--file mine.jsonl --chain 1212434006 --number 1", 64),
        ("--file mine.jsonl --chain 1212434006 --rpc NODE", 64),
        ("--file mine.jsonl --number 1 --rpc NODE", 64),
        ("--rpc NODE --number 1", 64),
        ("--chain 5 --number 1", 64),
        ("--file mine.jsonl --chain 5 --number 1 --rpc NODE", 75),
        ("--file mine.jsonl --chain 1212434006 --number 999 --rpc NODE", 75),
        ("--file mine.jsonl --chain 1212434006 --number 1 --rpc http://127.0.0.1:9", 75),
        ("--file pass.txt --chain 1212434006 --number 1 --rpc NODE", 78),
        ("--file no/such.jsonl --chain 1212434006 --number 1 --rpc NODE", 74),
    ],
)
def test_headers_that_cannot_be_pinned(
    shell: Any, node: str, options: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    passphrase = shell.path("pass.txt").read_text()
    shell.at("nowhere")("headers", "fetch", *options.replace("NODE", node).split(), code=code)
    assert not shell.path("mine.jsonl").exists()
    assert shell.path("pass.txt").read_text() == passphrase


def test_the_parts_of_evidence(shell: Any) -> None:
    line = ["verify", "evidence.json", "--policy", "home/policy.toml", "--unpack", "parts"]
    assert "16 parts are in parts" in shell(*line).err
    parts = {file.name: file.read_bytes() for file in shell.path("parts").iterdir()}
    document = json.loads(shell.path("evidence.json").read_text())
    assert parts["proof.bin"] == base64.b64decode(document["feed"]["proof"])
    assert parts["checkpoint-4.note"].decode() == document["log"]["checkpoints"][0]["note"]
    assert b"41.50" in parts["entry.cbor"]
    assert "parts exists" in shell(*line, code=77).err


def test_what_is_no_evidence_has_no_parts(shell: Any) -> None:
    """The verdict stays the exit code."""
    shell.write("evidence.json", "{}")
    ran = shell("verify", "evidence.json", "--policy", "home/policy.toml", "--unpack", "parts", code=1)
    assert "nothing was unpacked" in ran.err
    assert not shell.path("parts").exists()


# --- how well anchoring keeps up ---


def test_status_says_what_waits_and_what_lacks_a_token(shell: Any) -> None:
    shell("feed", "append", "ledger", "notes.jsonl")
    shell("checkpoint", "create")
    found = status(shell)
    assert (found["checkpoints_behind"], found["waiting"], found["warnings"]) == (2, [], [])
    assert found["tokens_missing"] == ["embedded development authority"]
    assert found["newest_tokens"]["embedded development authority"]["size"] == found["anchored"] == 4
    shell("anchor", "run")
    found = status(shell)
    assert (found["checkpoints_behind"], found["tokens_missing"]) == (0, [])
    assert found["anchored_since"] <= found["checked"]


def test_status_warns_beyond_the_thresholds_of_the_settings(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shell("feed", "append", "ledger", "notes.jsonl")
    shell("checkpoint", "create")
    later = now_ms() + 2 * 3_600_000
    monkeypatch.setattr("api.bootstrap.now_ms", lambda: later)
    assert shell("status", "--json").json[0]["warnings"] == []
    with shell.path("home/holdfast.toml").open("a") as settings:
        settings.write('\n[alarms]\nanchor_lag = "1h"\ntoken_age = "90m"\nblind = "1h"\n')
    ran = shell("status")
    assert [line.partition(": warning: ")[2].partition(" ")[2][:18] for line in ran.err.splitlines()] == [
        "checkpoints wait, ",
        "newest token is 2h",
        "entries wait for a",
    ]
    assert len(shell("status", "--json").json[0]["warnings"]) == 3


@pytest.mark.parametrize("value", ['"1w"', '"0h"', "24", '"24h "'])
def test_thresholds_that_are_none(shell: Any, value: str) -> None:
    with shell.path("home/holdfast.toml").open("a") as settings:
        settings.write(f"\n[alarms]\nblind = {value}\n")
    shell("status", code=78)

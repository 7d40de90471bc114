"""Feeds by command line: writing, reading back, handing over."""

from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import IO, Any
from unittest import mock

import pytest

COLUMNS = "id:int,booked:date,amount:dec,note:text?"


def contents(shell: Any, feed: str, where: str = ":") -> list[Any]:
    return [entry["content"]["fields"] for entry in shell("feed", "read", feed, where, "--json").json]


def test_an_import_keeps_every_value(shell: Any) -> None:
    assert contents(shell, "ledger", "2:4") == [
        {"id": 2, "booked": {"$date": "2026-11-03"}, "amount": {"$dec": "2.50"}, "note": None},
        {"id": 3, "booked": {"$date": "2026-11-04"}, "amount": {"$dec": "3.50"}, "note": "x"},
    ]
    (line,) = shell("feed", "read", "ledger", "3").lines
    index, kind, _, content = line.split("\t")
    assert (index, kind) == ("3", "record")
    assert content == (
        '{"table": "payments", "fields": {"id": 3, "note": "x", "amount": "3.50", "booked": "2026-11-04"}}'
    )


def test_what_is_read_as_json_can_be_appended(shell: Any) -> None:
    read = contents(shell, "ledger", "0:5") + contents(shell, "notes")
    shell("feed", "append", "notes", stdin="\n".join(map(json.dumps, read)))
    assert contents(shell, "notes", "2:") == read


def test_an_import_is_signed_in_batches(shell: Any) -> None:
    assert [head["length"] for head in shell("feed", "heads", "ledger", "--json").json] == [20, 40, 42]
    (answer,) = shell("feed", "import", "ledger", "payments.csv", "--table", "again", "--json").json
    assert (answer["rows"], answer["first"], answer["length"]) == (42, 42, 84)


def test_large_rows_make_smaller_batches(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one append may hold bounds a batch as well as --batch does, so rows of any size can be imported."""
    monkeypatch.setattr("api.vault.MAX_BATCH_BYTES", 500)
    monkeypatch.setattr("ledger.feed.MAX_BATCH_BYTES", 500)
    shell("feed", "import", "ledger", "payments.csv", "--columns", COLUMNS)
    lengths = [head["length"] for head in shell("feed", "heads", "ledger", "--json").json][2:]
    assert lengths[-1] == 84
    assert 8 < len(lengths) < 20
    shell("feed", "audit", "ledger")


def test_json_lines_and_tabs_and_stdin(shell: Any) -> None:
    shell.write("t.tsv", "a\tb\n1\t2\n")
    shell("feed", "import", "notes", "t.tsv", "--delimiter", "tab", "--columns", "a:int")
    shell("feed", "import", "notes", "notes.jsonl")
    shell("feed", "import", "notes", "-", "--format", "jsonl", stdin='{"z": 1.0}\n')
    assert contents(shell, "notes", "2:") == [
        {"a": 1, "b": "2"},
        {"text": "one"},
        {"text": "two", "amount": {"$dec": "12.30"}},
        {"z": {"$dec": "1.0"}},
    ]
    tables = [entry["content"]["table"] for entry in shell("feed", "read", "notes", "2:", "--json").json]
    assert tables == ["t", "notes", "notes", "records"]


def test_a_dry_run_needs_no_passphrase_and_writes_nothing(shell: Any) -> None:
    before = shell.kept()
    shell.path("pass.txt").unlink()
    (answer,) = shell("feed", "import", "ledger", "payments.csv", "--columns", COLUMNS, "--dry-run", "--json").json
    assert (answer["rows"], answer["dry_run"], answer["length"]) == (42, True, None)
    assert (
        "payments.csv:2: note"
        in shell("feed", "import", "ledger", "payments.csv", "--columns", "note:int", "--dry-run", code=77).err
    )
    assert shell.kept() == before


def test_rows_that_do_not_fit_can_be_skipped_into_a_file(shell: Any) -> None:
    before = len(contents(shell, "notes"))
    shell.write("some.csv", f"a,b\n1,x\ntwo,y\n3,{'z' * 1_048_570}\n4,w\n")
    importing = ("feed", "import", "notes", "some.csv", "--columns", "a:int")
    assert "some.csv:3: a" in shell(*importing, code=77).err
    ran = shell(*importing, "--on-error", "skip=unfit.jsonl", "--json")
    assert (ran.json[0]["rows"], ran.json[0]["skipped"]) == (2, 2)
    assert "2 rows of some.csv do not fit" in ran.err
    assert [entry["a"] for entry in contents(shell, "notes", f"{before}:")] == [1, 4]
    unfit = [json.loads(line) for line in shell.path("unfit.jsonl").read_text().splitlines()]
    assert [(row["line"], row["column"]) for row in unfit] == [(3, "a"), (4, None)]
    assert (unfit[0]["row"], "not a whole number" in unfit[0]["reason"]) == ("two,y", True)
    assert "unfit.jsonl exists" in shell(*importing, "--on-error", "skip=unfit.jsonl", code=77).err
    for wrong in ("skip", "skip=", "skip=-", "stop"):
        assert "is not skip=FILE" in shell(*importing, "--on-error", wrong, code=64).err
    assert len(contents(shell, "notes")) == before + 2


def test_a_table_without_rows_is_said_to_be_empty(shell: Any) -> None:
    shell.write("empty.csv", "a,b\n")
    ran = shell("feed", "import", "ledger", "empty.csv", "--json")
    assert ran.json[0]["rows"] == 0
    assert "nothing was written" in ran.err
    assert len(contents(shell, "ledger")) == 42


def test_records_typed_at_a_terminal(shell: Any) -> None:
    """stdin is a terminal: what is waited for is said, and Ctrl-D ends it."""

    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    with mock.patch("io.TextIOWrapper", Terminal):
        ran = shell("feed", "append", "notes", stdin='{"a": 1}\n')
    assert "Ctrl-D" in ran.err
    assert contents(shell, "notes", "2") == [{"a": 1}]


def test_whose_feed_it_is(shell: Any) -> None:
    ran = shell("feed", "create", "third", code=64)
    assert "laptop, phone" in ran.err
    assert shell.at("other")("feed", "create", "third").field("device") == "main"
    assert "devices in it: laptop, phone" in shell("feed", "create", "third", "--device", "tablet", code=77).err


def test_a_name_must_mean_one_feed(shell: Any) -> None:
    assert "no feed is called 'leger'" in shell("feed", "read", "leger", code=64).err
    shell("feed", "create", "ledger", "--device", "phone")
    assert "2 feeds are called 'ledger'" in shell("feed", "read", "ledger", code=64).err
    keys = [feed["key"] for feed in shell("feed", "list", "--json").json if feed["name"] == "ledger"]
    assert [len(contents(shell, key)) for key in keys] == [42, 0]


@pytest.mark.parametrize("where", ["42", "-", "x", "1:x", "99999999999999999999", "4.0"])
def test_an_entry_that_is_not_there(shell: Any, where: str) -> None:
    shell("feed", "read", "ledger", where, code=64)


@pytest.mark.parametrize(("where", "count"), [("40:", 2), (":3", 3), ("41", 1), ("30:99", 12), ("9:3", 0), (":", 42)])
def test_a_range_ends_where_the_feed_ends(shell: Any, where: str, count: int) -> None:
    assert len(contents(shell, "ledger", where)) == count


def test_a_feed_goes_on_in_another(shell: Any) -> None:
    shell("feed", "create", "ledger-2", "--device", "laptop", "--continues", "ledger")
    assert "retired" in shell("feed", "append", "ledger", "notes.jsonl", code=77).err
    shell("feed", "append", "ledger-2", "notes.jsonl")
    assert [feed["retired"] for feed in shell("feed", "list", "--json").json] == [True, False, False]


def test_hand_over_and_hand_on(shell: Any) -> None:
    """An export that was taken in is exported again with the same bytes, and taking it in twice adds nothing."""
    other = shell.at("other")
    assert other("feed", "ingest", "ledger.feed").field("new") == "42"
    assert other("feed", "ingest", "-", stdin=shell.path("ledger.feed").read_bytes()).field("new") == "0"
    assert other("feed", "export", "ledger", "-o", "-").stdout == shell.path("ledger.feed").read_bytes()
    assert other("feed", "audit", "ledger").code == 0
    assert "not written here" in other("feed", "append", "ledger", "notes.jsonl", code=77).err
    assert [row["local"] for row in other("feed", "list", "--json").json] == [False]
    assert [row["label"] for row in other("identity", "list", "--json").json] == ["other of a test", "home of a test"]


def test_a_feed_that_has_grown_is_taken_in_from_where_it_was(shell: Any) -> None:
    other = shell.at("other")
    other("feed", "ingest", "ledger.feed")
    shell("feed", "append", "ledger", "notes.jsonl")
    shell("feed", "export", "ledger", "-o", "longer.feed")
    ran = other("feed", "ingest", "longer.feed")
    assert (ran.field("first"), ran.field("new")) == ("42", "2")
    other("feed", "ingest", "ledger.feed")
    assert len(contents(other, "ledger")) == 44


def test_an_audit_names_the_first_bad_entry(shell: Any) -> None:
    with sqlite3.connect(shell.path("home/vault.db")) as database:
        for (trigger,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f'DROP TRIGGER "{trigger}"')
        position, block = next(row for row in database.execute("SELECT pos, data FROM block") if b"3.50" in row[1])
        database.execute("UPDATE block SET data = ? WHERE pos = ?", (block.replace(b"3.50", b"9.50"), position))
    ran = shell("feed", "audit", "ledger", "--json", code=1)
    assert (ran.json[0]["verdict"], ran.json[0]["first_bad"]) == ("FAILED", 3)
    ran = shell("audit", code=1)
    assert "feed ledger: FAILED: entry 3: " in ran.out
    assert "feed notes: PASSED: " in ran.out, "the others are audited all the same"


def test_an_interrupted_import_leaves_nothing(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C after some batches were signed."""
    from api.vault import Vault

    before = shell.kept()
    import_blocks = Vault.import_blocks

    def interrupted(self: Vault, *arguments: Any, on_batch: Any, **options: Any) -> Any:
        batches = 0

        def count(entries: int) -> None:
            nonlocal batches
            batches += 1
            if batches == 3:
                raise KeyboardInterrupt
            on_batch(entries)

        return import_blocks(self, *arguments, on_batch=count, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Vault, "import_blocks", interrupted)
        ran = shell("feed", "import", "ledger", "payments.csv", "--batch", "5", code=130)
    assert ran.err == "holdfast: interrupted\n"
    assert shell.kept() == before
    shell("feed", "import", "ledger", "payments.csv", "--batch", "5")


def test_ctrl_c_while_records_are_waited_for(shell: Any, root: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "api.cli", "feed", "append", "notes"],
        env={**shell.environment(), "PYTHONPATH": str(root), "HOLDFAST_DEBUG": "0"},
        cwd=shell.directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write('{"a": 1}\n')
    process.stdin.flush()
    wait_until_empty(process.stdin)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "interrupted" in err
    assert "Traceback" not in err
    assert len(contents(shell, "notes")) == 2


def wait_until_empty(pipe: IO[str]) -> None:
    """Until whoever reads the pipe has taken what was written, and therefore waits for more."""
    for _ in range(600):
        if fcntl.ioctl(pipe.fileno(), termios.FIONREAD, b"\0" * 4) == b"\0" * 4:
            return
        time.sleep(0.1)
    raise AssertionError("nobody reads")


def test_a_reader_that_goes_away_ends_it_quietly(shell: Any, root: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "api.cli", "evidence", "export", "ledger", "3", "-o", "-"],
        env={**shell.environment(), "PYTHONPATH": str(root)},
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (74, b"")

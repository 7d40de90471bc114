"""Bad input of every kind: refused whole, in one clear line, with the documented exit code, and nothing is written."""

from __future__ import annotations

import base64
import json
import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anchoring.evidence import MAX_EVIDENCE_BYTES
from api.bootstrap import open_dev_chain
from identity.encoding import MAX_DEPTH
from ledger.storage.sqlite import open_sqlite

MIB = 1 << 20


@contextmanager
def unchanged(shell: Any) -> Iterator[None]:
    """Nothing in the home changes within the block, not a byte of the database either."""
    before = shell.kept()
    yield
    assert shell.kept() == before


def refused(shell: Any, *arguments: str, code: int, says: str = "", **options: Any) -> Any:
    """Run a command that must be refused with ``code``: nothing on stdout, and on stderr a line and perhaps a hint."""
    with unchanged(shell):
        ran = shell(*arguments, code=code, **options)
    lines = [line for line in ran.err.splitlines() if line.startswith("holdfast: ")]
    assert ran.out == ""
    assert lines[0].startswith("holdfast: error: ")
    assert all(line.startswith("holdfast: hint: ") for line in lines[1:])
    assert len(lines) <= 2
    assert says in lines[0], lines[0]
    return ran


def every(data: bytes, count: int) -> range:
    """About ``count`` positions all over ``data``."""
    return range(0, len(data), max(1, len(data) // count))


# --- rows ---

BAD_CSV = [
    ('id,amount\n1,1.0\n2,"1,2.3"\n', 'bad.csv:3: amount: "1,2.3" is not a decimal'),
    ("id,amount\n1,1.0\nx,2.0\n", 'bad.csv:3: id: "x" is not a whole number'),
    ("id\n1\n", "bad.csv:1: amount: is not in the header"),
    ("id,amount\n1,1.0\n2\n", "bad.csv:3: 1 fields, the header has 2"),
    ("id,amount\n1,1.0\n2,2.0,3\n", "bad.csv:3: 3 fields, the header has 2"),
    ('id,amount\n1,"1.0\n', "bad.csv:2: not CSV"),
    ("id,amount,id\n1,1.0,1\n", "bad.csv:1: id: stands twice in the header"),
    ("id,amount,$x\n1,1.0,1\n", "bad.csv:1: $x: names that begin with $ are reserved"),
    (b"id,amount,n\n1,1.0,a\n2,2.0,\xff\n", "bad.csv:3: byte 7 is not utf-8"),
    ("", "bad.csv:1: no header line"),
    ("id,amount,n\n1,1.0," + "x" * MIB + "\n", "bad.csv:2: longer than 1048576 bytes"),
    ("id,amount\n" + "1,1.0\n" * 3000 + "1,1.0x\n", 'bad.csv:3002: amount: "1.0x" is not a decimal'),
]


@pytest.mark.parametrize(("content", "says"), BAD_CSV, ids=[says for _, says in BAD_CSV])
def test_malformed_csv(shell: Any, content: str | bytes, says: str) -> None:
    """Row and column are named, and rows that came before are not written either."""
    shell.write("bad.csv", content)
    refused(shell, "feed", "import", "ledger", "bad.csv", "--columns", "id:int,amount:dec", code=77, says=says)


BAD_JSON = [
    ('{"a": 1}\n{"a": NaN}\n', "bad.jsonl:2: NaN is not a number that can be stored"),
    ('{"a": 1}\n{"a": 1, "a": 2}\n', "bad.jsonl:2: the key 'a' stands twice"),
    ('{"a": 1}\n[1]\n', "bad.jsonl:2: not a JSON object"),
    ('{"a": 1}\n{"a": 1\n', "bad.jsonl:2: not JSON"),
    ('{"a": 1}\n{"a": 9223372036854775808}\n', "bad.jsonl:2: a: "),
    ('{"a": 1}\n{"a": 1e3}\n', "bad.jsonl:2: a: "),
    ('{"a": 1}\n{"a": "\\ud800"}\n', "bad.jsonl:2: a: "),
    ('{"a": 1}\n{"a": {"$dec": "1e3"}}\n', "bad.jsonl:2: a: "),
    ('{"a": 1}\n{"a": ' + "[" * 100_000 + "]" * 100_000 + "}\n", f"bad.jsonl:2: nested deeper than {MAX_DEPTH}"),
    ('{"a": 1}\n{"a": "' + "x" * MIB + '"}\n', "bad.jsonl:2: longer than 1048576 bytes"),
    ('{"a": 1}\n{"a": "' + "x" * (MIB - 20) + '"}\n', "bad.jsonl:2: "),
]


@pytest.mark.parametrize(("content", "says"), BAD_JSON, ids=[says[:40] for _, says in BAD_JSON])
@pytest.mark.parametrize("command", ["import", "append"])
def test_malformed_json_lines(shell: Any, command: str, content: str, says: str) -> None:
    shell.write("bad.jsonl", content)
    refused(shell, "feed", command, "ledger", "bad.jsonl", code=77, says=says)


def test_an_entry_over_the_limit_names_its_row(shell: Any) -> None:
    """The line is short enough, what is stored of it is not; the rows before it were batches of their own."""
    shell.write("large.jsonl", '{"a": 1}\n\n{"a": 2}\n{"a": "' + "x" * (MIB - 20) + '"}\n')
    for options in (["--batch", "1"], ["--dry-run"]):
        ran = refused(shell, "feed", "import", "ledger", "large.jsonl", *options, code=77, says="large.jsonl:4: ")
        assert "1048576" in ran.err


def test_more_than_one_append_holds(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.cli.feed.MAX_APPEND_BYTES", 1000)
    refused(shell, "feed", "append", "notes", code=77, says="more than 1000 bytes", stdin='{"a": 1}\n' * 1000)
    monkeypatch.setattr("ledger.feed.MAX_BATCH_BLOCKS", 20)
    refused(shell, "feed", "append", "notes", code=77, says="at most 20", stdin='{"a": 1}\n' * 21)
    refused(shell, "feed", "append", "notes", code=77, says="there is no record", stdin="\n\n")


@pytest.mark.parametrize(
    "options",
    [
        ["--columns", "amount:money"],
        ["--columns", "amount"],
        ["--columns", "id:int,id:int"],
        ["--delimiter", ";;"],
        ["--delimiter", ""],
        ["--encoding", "utf-16"],
        ["--format", "xml"],
        ["--table", ""],
        ["--table", "x" * 201],
        ["--batch", "0"],
        ["--batch", "65537"],
        ["--batch", "many"],
    ],
)
def test_options_of_an_import_that_cannot_be_meant(shell: Any, options: list[str]) -> None:
    refused(shell, "feed", "import", "ledger", "payments.csv", *options, code=64)


# --- what others hand over ---


def test_a_feed_export_that_is_truncated_or_altered(shell: Any) -> None:
    other, export = shell.at("other"), shell.path("ledger.feed").read_bytes()
    with unchanged(other):
        for position in every(export, 30):
            other("feed", "ingest", "-", stdin=export[:position], code=77)
        for position in every(export, 30):
            flipped = bytes([export[position] ^ 1])
            ran = other("feed", "ingest", "-", stdin=export[:position] + flipped + export[position + 1 :], code=None)
            assert ran.code in {1, 77}, position
    other("feed", "ingest", "-", stdin=export)


FIRST_LINE = b"holdfast/v1 feed-export\n"


@pytest.mark.parametrize(
    ("export", "says"),
    [
        (b"", "does not begin"),
        (b"holdfast/v2 feed-export\n", "first line"),
        (FIRST_LINE + b"Z\0\0\0\0", "unknown kind"),
        (FIRST_LINE + b"M\xff\xff\xff\xff", "at most"),
        (FIRST_LINE + b"M\x04\0\0\0" + b"\0" * 4, ""),
        (b"id,amount\n1,2.0\n", "first line"),
    ],
)
def test_what_is_no_feed_export(shell: Any, export: bytes, says: str) -> None:
    shell.write("x.feed", export)
    refused(shell, "feed", "ingest", "x.feed", code=77)


def test_bytes_after_the_end_of_an_export(shell: Any) -> None:
    shell.write("long.feed", shell.path("ledger.feed").read_bytes() + b"\0")
    refused(shell.at("other"), "feed", "ingest", "long.feed", code=77, says="after the end")
    shell.write("long.log", shell.path("complete.log").read_bytes() + b"\0")
    line = ["audit", "--log", "long.log", "--policy", "home/policy.toml", "--dev-chain", "dev"]
    refused(shell, *line, code=77, says="after the end")


def test_a_feed_that_contradicts_what_is_held(fresh: Any) -> None:
    """Two copies of one home have gone on differently with the same key: the second one to arrive is refused."""
    one, two = fresh(), fresh()
    one("feed", "append", "ledger", stdin='{"to": "supplier"}\n')
    two("feed", "append", "ledger", stdin='{"to": "a friend"}\n')
    for shell, name in ((one, "one.feed"), (two, "two.feed")):
        shell("feed", "export", "ledger", "-o", name)
    other = one.at("other")
    other("feed", "ingest", "one.feed")
    shutil.copy(two.path("two.feed"), one.path("two.feed"))
    for home in (other, one):
        before = home.kept()
        assert "two histories" in home("feed", "ingest", "two.feed", code=1).err
        assert "ForkDetected" in home("feed", "ingest", "two.feed", "--json", code=1).err
        proofs = [name for name in home.kept() if name.startswith("forks/")]
        assert len(proofs) == 1, "the proof is kept, and nothing else is"
        assert {name: data for name, data in home.kept().items() if name not in proofs} == before


def test_identity_events_that_contradict_are_kept_as_proof(fresh: Any) -> None:
    one, two = fresh(), fresh()
    for shell, name in ((one, "tablet"), (two, "watch")):
        shell("identity", "add-device", name)
        shell("identity", "export", "-o", f"{name}.events")
    shutil.copy(two.path("watch.events"), one.path("watch.events"))
    other = one.at("other")
    other("identity", "import", "tablet.events")
    ran = other("identity", "import", "watch.events", "--json", code=1)
    assert ran.json[0]["duplicitous"] is True
    assert "DUPLICITOUS" in ran.err
    identity = ran.json[0]["identity"]
    assert other("identity", "show", identity[:10], "--json").json[0]["duplicitous"] is True
    three = fresh()
    three("identity", "add-device", "phone-2")
    three("identity", "export", "-o", "third.events")
    shutil.copy(three.path("third.events"), one.path("third.events"))
    refused(other, "identity", "import", "third.events", code=1, says="known to be duplicitous")


def test_identity_events_that_are_truncated_or_altered(shell: Any) -> None:
    other, export = shell.at("other"), shell.path("home.events").read_bytes()
    magic, *lines = export.splitlines(keepends=True)
    first = base64.b64decode(lines[0])
    loose = lines[0].rstrip(b"\n").rstrip(b"=")
    bad = {
        "empty": (b"", 77),
        "only the first line": (magic, 77),
        "another version": (b"holdfast/v2 identity-events\n" + b"".join(lines), 77),
        "cut in a line": (export[:-9], 77),
        "without the inception": (magic + b"".join(lines[1:]), 1),
        "out of order": (magic + lines[0] + lines[2] + lines[1] + lines[3], 77),
        "one twice": (magic + lines[0] + b"".join(lines), 77),
        "not base64": (magic + b"!!\n", 77),
        "not ASCII": (magic + b"\xff\n", 77),
        "an empty line": (magic + lines[0] + b"\n" + lines[1], 77),
        "CR LF": (export.replace(b"\n", b"\r\n"), 77),
        "bits after the end of base64": (
            magic + loose[:-1] + b"B" + b"=" * (len(lines[0].rstrip()) - len(loose)) + b"\n",
            77,
        ),
        "a huge length": (magic + base64.b64encode(b"\xa2\x65event\x5b\xff\xff\xff\xff\xff\xff\xff\xff") + b"\n", 77),
        "a depth bomb": (magic + base64.b64encode(b"\x81" * 100_000) + b"\n", 77),
        "not the shortest form": (magic + base64.b64encode(b"\xb8\x02" + first[1:]) + b"\n", 77),
        "trailing bytes": (magic + base64.b64encode(first + b"\0") + b"\n", 77),
    }
    with unchanged(other):
        for name, (content, code) in bad.items():
            assert other("identity", "import", "-", stdin=content, code=code).err.startswith("holdfast: error: "), name
    assert "stdin:3: " in other("identity", "import", "-", stdin=magic + lines[0] + b"!!\n", code=77).err
    for position in every(first, 20):
        flipped = first[:position] + bytes([first[position] ^ 1]) + first[position + 1 :]
        content = magic + base64.b64encode(flipped) + b"\n" + b"".join(lines[1:])
        with unchanged(other):
            assert other("identity", "import", "-", stdin=content, code=None).code in {1, 77}, position


def test_a_log_export_that_is_truncated_or_altered(shell: Any) -> None:
    export = shell.path("complete.log").read_bytes()
    line = ["audit", "--log", "-", "--policy", "home/policy.toml", "--dev-chain", "dev"]
    for position in every(export, 25):
        shell(*line, stdin=export[:position], code=77)
        flipped = export[:position] + bytes([export[position] ^ 1]) + export[position + 1 :]
        assert shell(*line, stdin=flipped, code=None).code in {1, 2, 77}, position
    for content in (b"", b"holdfast/v2 log-export\n", b"holdfast/v1 log-export\nI\xff\xff\xff\xff", b"\0" * 1000):
        refused(shell, *line, stdin=content, code=77)
    refused(shell, "audit", "--log", "no.log", *line[3:], code=74, says="cannot read no.log")


# --- evidence and policy ---


def test_evidence_that_is_too_large(shell: Any) -> None:
    with shell.path("huge.json").open("wb") as huge:
        huge.truncate(MAX_EVIDENCE_BYTES + 1)
    refused(shell, "verify", "huge.json", "--policy", "home/policy.toml", code=77, says="huge.json: more than")
    refused(shell, "verify", "no.json", "--policy", "home/policy.toml", code=74, says="cannot read no.json")
    refused(shell, "verify", "home", "--policy", "home/policy.toml", code=74, says="directory")


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text + text,
        lambda text: text.replace('"log"', '"lag"', 1),
        lambda text: text.replace("{", '{"extra": 1,', 1),
        lambda text: text.replace("{", '{"mediaType": "x",', 1),
        lambda text: text.replace("version=1", "version=2", 1),
        lambda text: text.replace('"events": [', '"events": [' + "[" * 5000 + "]" * 5000 + ",", 1),
        lambda text: text.replace('"index": ', '"index": 1' + "0" * 400, 1),
        lambda text: text.replace('"', "'"),
        lambda text: "\ufeff" + text,
    ],
)
def test_evidence_that_is_malformed_fails(shell: Any, edit: Any) -> None:
    """The verifier judges whatever it is given: what is no evidence has FAILED."""
    genuine = json.dumps(json.loads(shell.path("evidence.json").read_text()))
    edited = edit(genuine)
    assert edited != genuine
    ran = shell("verify", "-", "--policy", "home/policy.toml", "--json", stdin=edited, code=1)
    assert ran.json[0]["overall"] == "FAILED"


BAD_POLICIES = [
    ("v = 1", "v = 2"),
    ("v = 1", 'v = 1\nallow = "everything"'),
    ("k = 1", "k = 1\nlenient = true"),
    ("k = 1", "k = 0"),
    ("k = 1", "k = 1\nk = 1"),
    ('"30d"', '"a month"'),
    ('require = ["origin"', 'require = ["orgin"'),
    ("[[chain]]", "[[chains]]"),
    ("headers.jsonl", "no-such.jsonl"),
    ("headers.jsonl", "holdfast.toml"),
    ("-----BEGIN CERTIFICATE-----", "-----BEGIN CERTIFICATE----"),
    ("v = 1", "v = "),
]


@pytest.mark.parametrize(("there", "instead"), BAD_POLICIES)
def test_a_policy_that_cannot_be_used(shell: Any, there: str, instead: str) -> None:
    policy = shell.path("home/policy.toml")
    text = policy.read_text()
    assert there in text
    shell.write("home/policy.toml", text.replace(there, instead, 1))
    refused(shell, "verify", "evidence.json", "--policy", "home/policy.toml", code=78)
    refused(shell, "audit", "--log", "complete.log", "--policy", "home/policy.toml", "--dev-chain", "dev", code=78)


def test_a_policy_that_is_not_there(shell: Any) -> None:
    refused(shell, "verify", "evidence.json", "--policy", "no.toml", code=78, says="no.toml")
    refused(shell, "verify", "evidence.json", "--policy", "home", code=78)
    refused(shell, "verify", "evidence.json", code=64, says="missing option '--policy'")


# --- the home ---


def test_a_home_of_a_newer_version(shell: Any) -> None:
    settings = shell.path("home/holdfast.toml")
    settings.write_text(settings.read_text().replace("format = 1", "format = 2\nnovelty = true"))
    for line in ("status", "feed append notes notes.jsonl", "audit", "feed list"):
        ran = refused(shell, *line.split(), code=78, says="format 2")
        assert "use the newer holdfast" in ran.err


def test_a_store_of_a_newer_version(shell: Any) -> None:
    with closing(sqlite3.connect(shell.path("home/vault.db"))) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999_newer'")
        database.commit()
    for line in ("status", "feed append notes notes.jsonl", "feed list"):
        refused(shell, *line.split(), code=78, says="9999_newer")


def test_a_keystore_of_a_newer_version(shell: Any) -> None:
    keystore = shell.path("home/keystore.hfk")
    keystore.write_bytes(keystore.read_bytes().replace(b"holdfast keystore 1\n", b"holdfast keystore 3\n"))
    refused(shell, "feed", "append", "notes", "notes.jsonl", code=78, says="version 3")


@pytest.mark.parametrize(
    ("there", "instead"),
    [
        ("format = 1", 'format = "1"'),
        ("format = 1", "format = 1\nfromat = 1"),
        ('kind = "dev"', 'kind = "moon"'),
        ('kind = "dev"', 'kind = "dev"\nurl = "http://x"'),
        ("[chain]", "[chain"),
    ],
)
def test_settings_that_cannot_be_used(shell: Any, there: str, instead: str) -> None:
    settings = shell.path("home/holdfast.toml")
    settings.write_text(settings.read_text().replace(there, instead, 1))
    refused(shell, "status", code=78, says=str(settings))


def test_a_home_that_is_none(shell: Any) -> None:
    ran = refused(shell.at("nowhere"), "status", code=78, says="no home at ")
    assert "holdfast init" in ran.err
    refused(shell.at("home", HOLDFAST_DEV_DIR=str(shell.path("home/dev"))), "status", code=78, says="inside the home")
    refused(shell.at("home", HOLDFAST_HOEM="x"), "status", code=78, says="HOLDFAST_HOEM")
    shell.path("home/vault.db").unlink()
    refused(shell, "status", code=78, says="there is no store")


def test_a_damaged_store(shell: Any) -> None:
    database = shell.path("home/vault.db")
    whole = database.read_bytes()
    for content in (b"", b"not a database" * 100, whole[: len(whole) // 2], b"SQLite format 3\0" + b"\0" * 84):
        database.write_bytes(content)
        for line in ("status", "feed append notes notes.jsonl"):
            refused(shell, *line.split(), code=74, says="vault.db")


def test_a_wrong_passphrase_a_damaged_keystore_and_none(shell: Any) -> None:
    line = ["feed", "append", "notes", "notes.jsonl"]
    keystore = shell.path("home/keystore.hfk")
    whole = keystore.read_bytes()
    shell.write("wrong.txt", "wrong\n")
    shell.write("nothing.txt", "\n")
    ran = refused(shell, *line, "--passphrase-file", "wrong.txt", code=77, says="does not open with this passphrase")
    assert "recovery phrase" in ran.err
    refused(shell, *line, "--passphrase-file", "nothing.txt", code=77, says="nothing.txt: empty")
    refused(shell, *line, "--passphrase-file", "no.txt", code=74, says="no.txt")
    ran = refused(shell.at("home", HOLDFAST_PASSPHRASE_FILE=""), *line, code=64, says="no passphrase")
    assert "--passphrase-file FILE" in ran.err
    for position in every(whole, 12):
        keystore.write_bytes(whole[:position])
        refused(shell, *line, code=74)
        keystore.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with unchanged(shell):
            assert shell(*line, code=None).code in {74, 78}, position
    keystore.unlink()
    refused(shell, *line, code=78, says="no keystore at ")


# --- locks and permissions ---


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores are waited for a moment, not five seconds."""
    assert open_sqlite.__kwdefaults__
    monkeypatch.setitem(open_sqlite.__kwdefaults__, "busy_timeout_ms", 50)


@pytest.mark.usefixtures("impatient")
def test_a_locked_database(shell: Any) -> None:
    """Another program is writing. Whoever only reads does not wait for it."""
    with closing(sqlite3.connect(shell.path("home/vault.db"), isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        for line in (
            "feed append notes notes.jsonl",
            "feed import notes notes.jsonl",
            "feed create third --device phone",
            "checkpoint create --restate",
            "identity add-device tablet",
            "identity rotate-root --phrase-file phrase.txt",
        ):
            ran = shell(*line.split(), "--json", code=75)
            assert ran.error["reason"] == "StoreBusy"
        for line in ("status", "feed list", "feed read ledger 3", "identity devices", "feed audit ledger"):
            shell(*line.split())
        database.execute("ROLLBACK")
    assert [row["length"] for row in shell("feed", "list", "--json").json] == [42, 2]
    shell("identity", "add-device", "tablet")
    shell("identity", "rotate-root", "--phrase-file", "phrase.txt")


def test_a_chain_that_another_process_has(shell: Any) -> None:
    with open_dev_chain(shell.path("dev")):
        ran = shell("anchor", "run", "--json", code=75)
        assert ran.error["reason"] == "StoreBusy"
        shell("status")
        assert not shell.path("third").exists()
        shell.at("third")("init", "--phrase-file", "third.txt", code=75)
    assert not shell.path("third").exists()
    assert not shell.path("third.txt").exists()


@contextmanager
def unprivileged() -> Iterator[None]:
    """Without the right of root to write whatever it likes."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def without_write_permission(home: Path) -> Iterator[None]:
    """Nobody may write into the directory or to what is in it."""
    paths = [home, *home.rglob("*")]
    for path in paths:
        if os.geteuid() == 0:
            os.chown(path, 65534, -1)
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        with unprivileged():
            yield
    finally:
        for path in paths:
            path.chmod(stat.S_IRWXU if path.is_dir() else 0o600)


def test_a_read_only_home(shell: Any) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        movable = replace(shell, directory=Path(shutil.copytree(shell.directory, f"{directory}/copy")))
        movable.directory.chmod(0o755)
        for path in (movable.path("pass.txt"), *movable.path("dev").rglob("*"), movable.path("dev")):
            path.chmod(0o777)
        before = movable.kept()
        movable.path("home/last-check.json").unlink(missing_ok=True)
        with without_write_permission(movable.path("home")):
            for line in ("feed append notes notes.jsonl", "checkpoint create --restate", "identity add-device tablet"):
                assert movable(*line.split(), "--json", code=74).error["name"] == "IO"
            movable("status")
            movable("feed", "read", "ledger", "3")
            movable("audit")
            refused_to = movable("evidence", "export", "ledger", "3", "-o", "home/x.json", code=74)
            assert "cannot write home/x.json" in refused_to.err
        assert movable.kept() == before


# --- files that are written ---


@pytest.mark.parametrize(
    "line",
    ["feed export ledger", "identity export", "checkpoint export", "evidence export ledger 41"],
)
def test_a_file_that_is_there_is_not_replaced_unasked(shell: Any, line: str) -> None:
    shell.write("there", "precious")
    refused(shell, *line.split(), "-o", "there", code=77, says="there exists")
    assert shell.path("there").read_text() == "precious"
    shell(*line.split(), "-o", "there", "--force")
    assert shell.path("there").read_bytes() != b"precious"
    refused(shell, *line.split(), "-o", "home", "--force", code=77, says="home is a directory")
    os.mkfifo(shell.path("pipe"))
    refused(shell, *line.split(), "-o", "pipe", "--force", code=77, says="pipe is not a plain file")
    assert shell.path("pipe").is_fifo()
    refused(shell, *line.split(), "-o", "no/such/file", code=74, says="cannot write no/such/file")
    refused(shell, *line.split(), code=64, says="missing option '--output'")
    assert list(shell.directory.glob(".*")) == []


def test_an_export_that_fails_leaves_no_file(shell: Any) -> None:
    before = sorted(shell.directory.iterdir())
    other = shell.at("other")
    other("checkpoint", "export", "-o", "empty.log", code=2)
    assert sorted(shell.directory.iterdir()) == before

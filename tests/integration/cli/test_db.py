"""Documents by command line: writing, reading, conditions, schemas, and everything that is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

NOVAK = '{"owner": "Novak", "balance": {"$dec": "12.30"}}'
SCHEMA = {
    "type": "object",
    "properties": {
        "owner": {"type": "text"},
        "balance": {"type": "decimal"},
        "opened": {"type": "date"},
        "turnover": {"type": "decimal", "cell": "ctr"},
        "limits": {"type": "array", "cell": "set", "items": {"type": "integer"}},
    },
    "required": ["owner"],
}


@pytest.fixture
def bank(shell: Any) -> Any:
    """A home with a database and one document."""
    shell("db", "create", "bank", "--device", "laptop")
    shell("db", "put", "bank", "accounts/4711", NOVAK)
    return shell


def read(shell: Any, name: str = "accounts/4711") -> dict[str, Any]:
    (answer,) = shell("db", "get", "bank", name, "--json").json
    return answer


def with_schema(shell: Any) -> Any:
    shell.write("accounts.schema.json", json.dumps(SCHEMA))
    shell("db", "schema", "bank", "accounts", "--set", "accounts.schema.json")
    return shell


# --- databases


def test_a_database_is_founded(shell: Any) -> None:
    (made,) = shell("db", "create", "bank", "--device", "laptop", "--json").json
    (found,) = shell("db", "list", "--json").json
    assert (found["name"], found["id"]) == ("bank", made["id"])
    (member,) = shell("db", "members", "bank", "--json").json
    assert (member["role"], member["dismissed"], member["admitted_by"]) == ("admin", False, None)
    (feed,) = (row for row in shell("feed", "list", "--json").json if row["name"] == f"database {made['id']}")
    assert feed["length"] == 1


def test_a_name_stands_for_one_database(bank: Any) -> None:
    assert "there is a database 'bank' already" in bank("db", "create", "bank", "--device", "laptop", code=77).err
    assert len(bank("db", "list").lines) == 1


def test_who_writes_has_to_be_clear(shell: Any) -> None:
    assert "--device with one of: laptop, phone" in shell("db", "create", "bank", code=77).err
    assert "holds no device 'till'" in shell("db", "create", "bank", "--device", "till", code=77).err
    assert shell("db", "list").lines == []


def test_a_database_is_named_by_its_id_too(bank: Any) -> None:
    (found,) = bank("db", "list", "--json").json
    assert bank("db", "get", found["id"][:6], "accounts/4711").lines == bank("db", "get", "bank", "accounts/4711").lines
    assert "no database is called" in bank("db", "get", found["id"][:5], "accounts/4711", code=64).err


@pytest.mark.parametrize("command", ["get", "list", "members", "put", "delete", "schema", "trash", "holds"])
def test_a_database_that_is_not_there(shell: Any, command: str) -> None:
    rest = {
        "get": ["accounts/1"],
        "put": ["accounts/1", "{}"],
        "delete": ["accounts/1"],
        "schema": ["accounts"],
    }
    # Nobody is asked for a passphrase to hear that.
    asked = shell.at("home", HOLDFAST_PASSPHRASE_FILE=str(shell.path("no such file")))
    ran = asked("db", command, "nobank", *rest.get(command, []), code=64)
    assert "no database is called 'nobank'" in ran.err
    assert "holdfast db list" in ran.err


# --- writing and reading


def test_a_document_is_put_and_read(bank: Any) -> None:
    found = read(bank)
    assert found["fields"] == {"owner": "Novak", "balance": {"$dec": "12.30"}}
    assert (found["siblings"], found["conflicts"], found["sealed"]) == ({}, [], [])
    lines = bank("db", "get", "bank", "accounts/4711").lines
    assert lines == [
        "document\taccounts/4711",
        f"etag\t{found['etag']}",
        "/balance\t12.30\t",
        "/owner\tNovak\t",
    ]


def test_what_is_so_already_is_not_written(bank: Any) -> None:
    ran = bank("db", "put", "bank", "accounts/4711", NOVAK, "--json")
    (answer,) = ran.json
    assert (answer["written"], answer["index"], answer["etag"]) == (False, None, read(bank)["etag"])
    assert "nothing was written" in ran.err


def test_put_replaces_and_patch_adds(bank: Any) -> None:
    bank("db", "patch", "bank", "accounts/4711", '{"note": "call back"}')
    assert read(bank)["fields"] == {"owner": "Novak", "balance": {"$dec": "12.30"}, "note": "call back"}
    bank("db", "put", "bank", "accounts/4711", '{"owner": "Nowak", "note": "call back"}')
    assert read(bank)["fields"] == {"owner": "Nowak", "note": "call back"}
    bank("db", "patch", "bank", "accounts/4711", "--unset", "note")
    assert read(bank)["fields"] == {"owner": "Nowak"}


def test_json_comes_from_stdin(bank: Any) -> None:
    bank("db", "put", "bank", "accounts/1", "-", stdin='{"owner": "Zoë"}')
    assert read(bank, "accounts/1")["fields"] == {"owner": "Zoë"}
    shown = json.dumps(read(bank)["fields"])
    bank("db", "put", "bank", "accounts/2", "-", stdin=shown)
    assert read(bank, "accounts/2")["fields"] == read(bank)["fields"]


def test_a_key_may_hold_anything(bank: Any) -> None:
    bank("db", "put", "bank", "accounts/a/b c", '{"owner": "X"}')
    assert read(bank, "accounts/a/b c")["fields"] == {"owner": "X"}


def test_counters_and_sets(bank: Any) -> None:
    bank("db", "increment", "bank", "accounts/4711", "visits")
    bank("db", "increment", "bank", "accounts/4711", "visits", "4")
    bank("db", "increment", "bank", "accounts/4711", "turnover", "12.30")
    bank("db", "increment", "bank", "accounts/4711", "turnover", "--", "-0.30")
    bank("db", "add", "bank", "accounts/4711", "labels", "gold", "new")
    bank("db", "remove", "bank", "accounts/4711", "labels", "new")
    bank("db", "add", "bank", "accounts/4711", "limits", "500", '{"$dec": "0.5"}', "--parse")
    fields = read(bank)["fields"]
    assert (fields["visits"], fields["turnover"], fields["labels"]) == (5, {"$dec": "12.00"}, ["gold"])
    assert fields["limits"] == [500, {"$dec": "0.5"}]


def test_a_field_within_another(bank: Any) -> None:
    bank("db", "increment", "bank", "accounts/4711", "counts/visits")
    bank("db", "increment", "bank", "accounts/4711", "/counts/in~1out")
    assert read(bank)["fields"]["counts"] == {"visits": 1, "in/out": 1}
    bank("db", "patch", "bank", "accounts/4711", "--unset", "counts")
    assert "counts" not in read(bank)["fields"]


def test_a_deleted_document_comes_back(bank: Any) -> None:
    bank("db", "delete", "bank", "accounts/4711", "--note", "closed")
    ran = bank("db", "get", "bank", "accounts/4711", code=77)
    assert "is deleted" in ran.err
    assert "holdfast db undelete bank accounts/4711" in ran.err
    assert "is deleted already" in bank("db", "delete", "bank", "accounts/4711", code=77).err
    assert bank("db", "list", "bank", "accounts").lines == []
    assert len(bank("db", "list", "bank", "accounts", "--deleted").lines) == 1
    bank("db", "undelete", "bank", "accounts/4711")
    assert read(bank)["fields"]["owner"] == "Novak"


def test_everything_is_a_signed_entry(bank: Any) -> None:
    (made,) = bank("db", "put", "bank", "accounts/1", '{"owner": "X"}', "--note", "the first", "--json").json
    (entry,) = bank("feed", "read", made["feed"], str(made["index"]), "--json").json
    assert (entry["entry"], entry["content"]["note"]) == ("txn", "the first")
    bank("feed", "audit", made["feed"])
    bank("audit")


def test_siblings_are_always_seen(bank: Any) -> None:
    context = read(bank)["context"]
    bank("db", "patch", "bank", "accounts/4711", '{"owner": "Nowak"}')
    bank("db", "patch", "bank", "accounts/4711", '{"owner": "Nowack"}', "--base", context)
    found = read(bank)
    assert sorted(found["siblings"]["/owner"]) == ["Nowack", "Nowak"]
    assert found["siblings"]["/owner"][0] == found["fields"]["owner"]
    assert found["conflicts"] == [{"kind": "siblings", "path": "/owner"}]
    ran = bank("db", "get", "bank", "accounts/4711")
    other = next(name for name in ("Nowak", "Nowack") if name != found["fields"]["owner"])
    assert f"/owner\t{other}\tsibling" in ran.lines
    assert "accounts/4711/owner has several values" in ran.err
    assert bank("db", "list", "bank").lines == ["accounts\t1\t0\t1\tno"]
    bank("db", "patch", "bank", "accounts/4711", '{"owner": "Novak"}', "--if-match", found["etag"])
    assert read(bank)["siblings"] == {}


# --- conditions


def test_a_stale_version_is_not_overwritten(bank: Any) -> None:
    etag = read(bank)["etag"]
    bank("db", "patch", "bank", "accounts/4711", '{"owner": "Nowak"}', "--if-match", etag)
    before = bank("feed", "list", "--json").lines
    for command in (("put", NOVAK), ("patch", '{"owner": "X"}'), ("delete",)):
        verb, *rest = command
        ran = bank("db", verb, "bank", "accounts/4711", *rest, "--if-match", etag, code=75)
        assert f"{etag} was expected" in ran.err
        assert "holdfast db get bank accounts/4711" in ran.err
    assert bank("feed", "list", "--json").lines == before
    ran = bank("db", "put", "bank", "accounts/4711", NOVAK, "--if-match", etag, "--json", code=75)
    assert (ran.error["reason"], ran.error["name"]) == ("StaleVersion", "TRY_AGAIN")


def test_absence_is_a_condition(bank: Any) -> None:
    bank("db", "put", "bank", "accounts/1", "{}", "--if-match", "*", code=75)
    bank("db", "put", "bank", "accounts/4711", NOVAK, "--if-absent", code=75)
    bank("db", "put", "bank", "accounts/1", '{"owner": "X"}', "--if-absent")
    bank("db", "put", "bank", "accounts/1", '{"owner": "Y"}', "--if-match", "*")
    assert read(bank, "accounts/1")["fields"] == {"owner": "Y"}
    bank("db", "put", "bank", "accounts/1", "{}", "--if-match", "*", "--if-absent", code=64)


# --- schemas


def test_a_schema_types_plain_json(bank: Any) -> None:
    with_schema(bank)
    bank("db", "put", "bank", "accounts/1", '{"owner": "X", "balance": 12.30, "opened": "1993-01-05"}')
    assert read(bank, "accounts/1")["fields"] == {
        "owner": "X",
        "balance": {"$dec": "12.30"},
        "opened": {"$date": "1993-01-05"},
    }
    bank("db", "increment", "bank", "accounts/1", "turnover", "5")
    bank("db", "add", "bank", "accounts/1", "limits", "500", "1000")
    assert read(bank, "accounts/1")["fields"]["turnover"] == 5
    assert read(bank, "accounts/1")["fields"]["limits"] == [500, 1000]


def test_a_schema_is_shown_as_it_can_be_set(bank: Any) -> None:
    assert "has no schema" in bank("db", "schema", "bank", "accounts").err
    with_schema(bank)
    shown = bank("db", "schema", "bank", "accounts").out
    assert json.loads(shown) == SCHEMA
    (answer,) = bank("db", "schema", "bank", "accounts", "--set", "-", "--json", stdin=shown).json
    assert (answer["schema"], answer["written"], answer["unfit"]) == (SCHEMA, False, 0)
    bank("db", "schema", "bank", "accounts", "--remove")
    assert bank("db", "schema", "bank", "accounts").out == ""
    bank("db", "put", "bank", "accounts/1", "{}", code=0)


def test_a_new_schema_counts_what_does_not_fit_it(bank: Any) -> None:
    bank("db", "put", "bank", "accounts/1", '{"owner": 7}')
    bank.write("accounts.schema.json", json.dumps(SCHEMA))
    arguments = ("db", "schema", "bank", "accounts", "--set", "accounts.schema.json")
    (tried,) = bank(*arguments, "--dry-run", "--json").json
    assert (tried["unfit"], tried["written"], tried["schema"]) == (1, False, None)
    ran = bank(*arguments)
    assert "1 documents do not fit it" in ran.err
    assert read(bank, "accounts/1")["fields"] == {"owner": 7}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ('{"owner": 7}', "/owner: integer where text is asked for"),
        ('{"balance": "12.30"}', "/owner: is required"),
        ('{"owner": "X", "balance": "12,30"}', "/balance: not a decimal such as -12.30"),
        ('{"owner": "X", "opened": "5.1.1993"}', "/opened: not a day"),
        ('{"owner": "X", "other": 1.5}', "/other: a number with a fraction"),
    ],
)
def test_what_breaks_the_schema_is_refused(bank: Any, fields: str, says: str) -> None:
    with_schema(bank)
    before = bank("feed", "list", "--json").lines
    assert says in bank("db", "put", "bank", "accounts/1", fields, code=77).err
    assert bank("feed", "list", "--json").lines == before


# --- bad input changes nothing


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("put", "bank", "accounts/1", '{"balance": 12.30}'), 77, '{"$dec": "12.30"}'),
        (("put", "bank", "accounts/1", "{"), 77, "not JSON"),
        (("put", "bank", "accounts/1", "[]"), 77, "not a JSON object"),
        (("put", "bank", "accounts/1", '{"a": 1, "a": 2}'), 77, "stands twice"),
        (("put", "bank", "accounts/1", '{"$a": 1}'), 77, "reserved"),
        (("put", "bank", "accounts/1", '{"a": 9223372036854775808}'), 77, "outside"),
        (("put", "bank", "accounts", "{}"), 64, "is not COLLECTION/KEY"),
        (("put", "bank", "accounts/", "{}"), 64, "is not COLLECTION/KEY"),
        (("put", "bank", "$schema/accounts", '{"schema": 7}'), 77, "schema"),
        (("put", "bank", "$other/1", '{"a": 7}'), 77, "reserved"),
        (("put", "bank", f"accounts/{'k' * 600}", '{"a": 7}'), 77, "at most 512"),
        (("put", "bank", "accounts/1", '{"a": 1}', "--note", "n" * 5000), 64, "the note has"),
        (("put", "bank", "accounts/1", '{"a": 1}', "--base", "x"), 77, "base64"),
        (("patch", "bank", "accounts/1"), 64, "nothing to change"),
        (("patch", "bank", "accounts/1", "--unset", "$x"), 64, "names no field"),
        (("increment", "bank", "accounts/1", "visits", "1,5"), 77, "not a decimal"),
        (("increment", "bank", "accounts/1", "a//b"), 64, "names no field"),
        (("add", "bank", "accounts/1", "labels"), 64, "missing argument"),
        (("add", "bank", "accounts/1", "labels", "{", "--parse"), 77, "not JSON"),
        (("delete", "bank", "accounts/1"), 77, "no such document"),
        (("undelete", "bank", "accounts/1", "--device", "till"), 77, "holds no device"),
        (("schema", "bank", "accounts", "--set", "none.json"), 74, "none.json"),
        (("schema", "bank", "accounts", "--set", "payments.csv"), 77, "not JSON"),
        (("schema", "bank", "accounts", "--set", "-", "--remove"), 64, "exclude each other"),
        (("schema", "bank", "accounts", "--dry-run"), 64, "--set"),
    ],
)
def test_bad_input(bank: Any, arguments: tuple[str, ...], code: int, says: str) -> None:
    before = bank("feed", "list", "--json").lines
    ran = bank("db", *arguments, code=code)
    assert says in ran.err
    assert ran.out == ""
    assert bank("feed", "list", "--json").lines == before
    assert [row["key"] for row in bank("db", "list", "bank", "accounts", "--json").json[:-1]] == ["4711"]


def test_a_wrong_passphrase_writes_nothing(bank: Any) -> None:
    wrong = bank.write("wrong.txt", "not it\n")
    bank("db", "put", "bank", "accounts/1", "{}", "--passphrase-file", wrong, code=77)
    assert "there is no document" in bank("db", "get", "bank", "accounts/1", code=77).err


def test_errors_of_programs(bank: Any) -> None:
    ran = bank("db", "put", "bank", "accounts/1", '{"a": 1.5}', "--json", code=77)
    assert (ran.error["kind"], ran.error["reason"], ran.error["code"]) == ("error", "MalformedError", 77)
    assert "$dec" in ran.error["hint"]


# --- states of the home


def test_a_read_only_home_is_read_and_not_written(bank: Any) -> None:
    """A home that is behind its chain: reading goes on, and nothing is written to it."""
    bank("backup", "create", "old.backup")
    bank("db", "put", "bank", "accounts/1", '{"owner": "X"}')
    bank("checkpoint", "create")
    bank("anchor", "run")
    bank("restore", "old.backup", "--home", "behind")
    behind = bank.at("behind")
    assert read(behind)["fields"]["owner"] == "Novak"
    for command in (("put", "accounts/2", "{}"), ("delete", "accounts/4711"), ("increment", "accounts/4711", "n")):
        verb, name, *rest = command
        ran = behind("db", verb, "bank", name, *rest, "--passphrase-file", "no such file", code=77)
        assert "behind-anchor" in ran.err
    assert "behind-anchor" in behind("db", "create", "other", "--device", "laptop", code=77).err


def test_a_store_that_cannot_be_written_is_read(bank: Any) -> None:
    (bank.path("home") / "vault.db").chmod(0o400)
    assert read(bank)["fields"]["owner"] == "Novak"


def test_a_restored_home_has_its_databases_and_goes_on_in_new_feeds(bank: Any) -> None:
    etag = read(bank)["etag"]
    bank("backup", "create", "home.backup")
    (answer,) = bank("restore", "home.backup", "--home", "restored", "--json").json
    assert answer["databases"] == 1
    restored = bank.at("restored")
    assert read(restored)["etag"] == etag
    (old,) = {row["key"] for row in bank("feed", "list", "--json").json if row["name"].startswith("database ")}
    (made,) = restored("db", "patch", "bank", "accounts/4711", '{"owner": "Nowak"}', "--json").json
    assert made["feed"] != old
    assert read(restored)["fields"]["owner"] == "Nowak"
    assert read(restored)["conflicts"] == []
    assert restored("db", "members", "bank", "--json").json[0]["feeds"] == 2


def test_two_devices_of_one_home_write_apart_feeds(bank: Any) -> None:
    (made,) = bank("db", "patch", "bank", "accounts/4711", '{"note": "x"}', "--device", "phone", "--json").json
    (again,) = bank("db", "patch", "bank", "accounts/4711", '{"note": "y"}', "--device", "laptop", "--json").json
    assert made["feed"] != again["feed"]
    assert read(bank)["conflicts"] == []
    assert "--device with one of" in bank("db", "patch", "bank", "accounts/4711", '{"note": "z"}', code=77).err


def test_a_successor_store_has_the_databases(bank: Any) -> None:
    before = read(bank)
    bank("checkpoint", "create")
    bank("anchor", "run")
    bank("recover", "succeed", "--force", code=None)
    after = read(bank)
    assert (after["etag"], after["fields"]) == (before["etag"], before["fields"])
    bank("db", "patch", "bank", "accounts/4711", '{"owner": "Nowak"}')
    assert (read(bank)["fields"]["owner"], read(bank)["conflicts"]) == ("Nowak", [])


# --- mistakes that a person makes


@pytest.mark.parametrize(
    "line",
    [
        ("put", "bank", "accounts/\udcff", NOVAK),
        ("put", "bank", "accounts/1", '{"owner": "\udcff"}'),
        ("get", "bank", "accounts/\udcff"),
        ("list", "bank", "\udcff"),
        ("add", "bank", "accounts/1", "labels", "gold", "\udcff"),
    ],
)
def test_an_argument_that_is_not_utf8(bank: Any, line: tuple[str, ...]) -> None:
    assert "not UTF-8" in bank("db", *line, code=64).err


@pytest.mark.parametrize(("command", "what"), [("increment", "counter"), ("add", "set")])
def test_what_is_no_counter_and_no_set_is_not_added_to(bank: Any, command: str, what: str) -> None:
    adding = ("db", command, "bank", "accounts/4711", "balance", "5")
    ran = bank(*adding, code=77)
    assert f"accounts/4711: /balance is no {what}" in ran.err
    assert "remove what stands there" in ran.err
    with_schema(bank)
    ran = bank(*adding, code=77)
    assert f"/balance is no {what}" in ran.err
    assert "the schema can say that it is one" in ran.err
    assert read(bank)["fields"]["balance"] == {"$dec": "12.30"}
    assert read(bank)["conflicts"] == []


def test_a_negative_amount_that_looks_like_an_option(bank: Any) -> None:
    ran = bank("db", "increment", "bank", "accounts/4711", "visits", "-30", code=64)
    assert "behind two dashes" in ran.err


def test_what_is_not_there(bank: Any) -> None:
    note = "there is no document accounts/1; nothing was written"
    assert note in bank("db", "undelete", "bank", "accounts/1").err
    assert note in bank("db", "put", "bank", "accounts/1", "{}").err
    assert "no such document" in bank("db", "delete", "bank", "accounts/1", code=77).err
    assert "nothing was ever written to accounts/1" in bank("db", "history", "bank", "accounts/1").err
    assert ", limit" in bank("db", "history", "bank", "accounts/4711", "--field", "limit").err


@pytest.mark.parametrize("line", ["list bank acounts", "query bank acounts", "export bank acounts -o -"])
def test_a_collection_that_is_mistyped(bank: Any, line: str) -> None:
    assert "there is no collection acounts; there are: accounts" in bank("db", *line.split()).err
    bank("db", "delete", "bank", "accounts/4711")
    assert "no collection" not in bank("db", *line.replace("acounts", "accounts").split()).err

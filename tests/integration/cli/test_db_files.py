"""Tables in and out of a database by command line: typed, whole or nothing, and what comes out goes in again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sync import Changes
from sync.database import Commit, Database

COLUMNS = "id:int,booked:date,amount:dec,note:text?"
PAYMENTS = ("db", "import", "bank", "payments", "payments.csv", "--key", "id", "--columns", COLUMNS)


@pytest.fixture
def bank(shell: Any) -> Any:
    """A home with an empty database."""
    shell("db", "create", "bank", "--device", "laptop")
    return shell


def listed(shell: Any, collection: str = "payments") -> dict[str, Any]:
    rows = shell("db", "list", "bank", collection, "--limit", "10000", "--json").json
    return {row["key"]: row["fields"] for row in rows[:-1]}


def feed_length(shell: Any) -> int:
    (row,) = (row for row in shell("feed", "list", "--json").json if row["name"].startswith("database "))
    return int(row["length"])


def test_a_table_is_one_transaction(bank: Any) -> None:
    (answer,) = bank(*PAYMENTS, "--note", "November", "--json").json
    assert (answer["rows"], answer["changed"], answer["transactions"], answer["skipped"]) == (42, 42, 1, 0)
    found = listed(bank)
    assert len(found) == 42
    assert found["7"] == {"id": 7, "booked": {"$date": "2026-11-08"}, "amount": {"$dec": "7.50"}, "note": None}
    assert feed_length(bank) == 2


def test_importing_again_writes_nothing(bank: Any) -> None:
    bank(*PAYMENTS)
    (answer,) = bank(*PAYMENTS, "--json").json
    assert (answer["changed"], answer["transactions"]) == (0, 0)
    assert feed_length(bank) == 2


def test_batches_are_transactions_of_their_own(bank: Any) -> None:
    (answer,) = bank(*PAYMENTS, "--batch", "10", "--json").json
    assert (answer["rows"], answer["transactions"]) == (42, 5)
    assert feed_length(bank) == 6


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_what_comes_out_goes_in_again(bank: Any, kind: str) -> None:
    bank(*PAYMENTS)
    (answer,) = bank("db", "export", "bank", "payments", "-o", f"out.{kind}", "--key", "id", "--json").json
    assert (answer["documents"], answer["conflicts"], answer["sealed"]) == (42, 0, 0)
    columns = ("--columns", COLUMNS) if kind == "csv" else ()
    (answer,) = bank("db", "import", "bank", "payments", f"out.{kind}", "--key", "id", *columns, "--json").json
    assert (answer["rows"], answer["changed"]) == (42, 0)


def test_parquet_comes_out_and_goes_in_again(bank: Any) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    bank(*PAYMENTS)
    (answer,) = bank("db", "export", "bank", "payments", "-o", "out.parquet", "--json").json
    assert answer["documents"] == 42
    (answer,) = bank("db", "import", "bank", "payments", "out.parquet", "--json").json
    assert (answer["rows"], answer["changed"]) == (42, 0)
    (answer,) = bank("db", "import", "bank", "copies", "out.parquet", "--key", "id", "--json").json
    assert (answer["rows"], answer["changed"]) == (42, 42)
    assert listed(bank, "copies") == listed(bank)
    ran = bank("db", "import", "bank", "copies", "out.parquet", "--columns", "id:int", code=64)
    assert "a Parquet file says what its columns are" in ran.err
    assert (
        "not a Parquet file"
        in bank("db", "import", "bank", "copies", "payments.csv", "--format", "parquet", code=77).err
    )


def test_every_kind_of_value_comes_out_and_goes_in(bank: Any) -> None:
    fields = {
        "text": 'ä,"b"\n',
        "list": [1, {"$dec": "0.10"}, [True]],
        "map": {"a": None},
        "bytes": {"$hex": "00ff"},
        "moment": {"$ts": 1},
        "none": None,
    }
    bank("db", "put", "bank", "things/1", json.dumps(fields))
    bank("db", "export", "bank", "things", "-o", "things.jsonl")
    assert json.loads(bank.path("things.jsonl").read_text()) == {"key": "1", **fields}
    bank("db", "import", "bank", "copies", "things.jsonl", "--key", "key")
    assert listed(bank, "copies") == {"1": {"key": "1", **fields}}
    shown = bank("db", "export", "bank", "things", "-o", "-", "--format", "csv").out
    assert shown.splitlines()[0] == "key,bytes,list,map,moment,none,text"
    assert '"[1, {""$dec"": ""0.10""}, [true]]"' in shown


def test_a_schema_types_columns(bank: Any) -> None:
    properties = {"id": {"type": "integer"}, "amount": {"type": "decimal"}, "booked": {"type": "date"}}
    schema = {"type": "object", "properties": properties | {"note": {"type": ["text", "null"]}}}
    bank("db", "schema", "bank", "payments", "--set", "-", stdin=json.dumps(schema))
    bank("db", "import", "bank", "payments", "payments.csv", "--key", "id")
    assert listed(bank)["7"] == {"id": 7, "booked": {"$date": "2026-11-08"}, "amount": {"$dec": "7.50"}, "note": ""}
    bank.write("bad.csv", "id,amount\n1,1.00\n2,1x\n")
    ran = bank("db", "import", "bank", "payments", "bad.csv", "--key", "id", code=77)
    assert "bad.csv:3: amount: not a decimal such as -12.30" in ran.err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("id,amount\n1,1.00\n2,1x\n", ':3: amount: "1x" is not a decimal'),
        ("id,amount\n1,1.00\n1,2.00\n", ":3: id: stands in line 2 too"),
        ("amount\n1.00\n", ":2: id: is missing"),
        ("id,amount\n,1.00\n", ":2: id: can't be a document's key"),
        ("id,amount\n1,1.00,3\n", ":2: 3 fields, the header has 2"),
    ],
)
def test_a_row_that_does_not_fit_ends_it(bank: Any, content: str, says: str) -> None:
    bank.write("bad.csv", content)
    ran = bank("db", "import", "bank", "payments", "bad.csv", "--key", "id", "--columns", "amount:dec", code=77)
    assert f"bad.csv{says}" in ran.err
    assert listed(bank) == {}
    assert feed_length(bank) == 1


def test_rows_that_do_not_fit_can_be_left_out(bank: Any) -> None:
    bank.write("mixed.csv", "id,amount\n1,1.00\n2,1x\n3,3.00\n3,4.00\n")
    arguments = ("db", "import", "bank", "payments", "mixed.csv", "--key", "id", "--columns", "amount:dec")
    (answer,) = bank(*arguments, "--on-error", "skip=unfit.jsonl", "--json").json
    assert (answer["rows"], answer["skipped"], answer["changed"]) == (2, 2, 2)
    assert sorted(listed(bank)) == ["1", "3"]
    unfit = [json.loads(line) for line in bank.path("unfit.jsonl").read_text().splitlines()]
    assert [(one["line"], one["column"]) for one in unfit] == [(3, "amount"), (5, "id")]


def test_a_dry_run_needs_no_passphrase(bank: Any) -> None:
    asked = bank.at("home", HOLDFAST_PASSPHRASE_FILE=str(bank.path("no such file")))
    (answer,) = asked(*PAYMENTS, "--dry-run", "--json").json
    assert (answer["rows"], answer["changed"], answer["transactions"], answer["dry_run"]) == (42, 0, 0, True)
    assert listed(bank) == {}


def test_a_file_that_is_too_large_for_one_transaction_says_so(bank: Any) -> None:
    bank.write("large.csv", "id,a\n" + "".join(f"{n},x\n" for n in range(2100)))
    ran = bank("db", "import", "bank", "many", "large.csv", "--key", "id", code=77)
    assert "too large for one transaction" in ran.err
    assert "--batch 500" in ran.err
    assert listed(bank, "many") == {}
    (answer,) = bank("db", "import", "bank", "many", "large.csv", "--key", "id", "--batch", "4096", "--json").json
    assert (answer["changed"], answer["transactions"]) == (2100, 2)


def test_a_table_comes_through_a_pipe(bank: Any) -> None:
    bank("db", "import", "bank", "notes", "-", "--format", "jsonl", "--key", "id", stdin='{"id": "a", "x": 1.50}\n')
    assert listed(bank, "notes") == {"a": {"id": "a", "x": {"$dec": "1.50"}}}


@pytest.mark.parametrize(
    ("how", "code", "kept"),
    [("replace", 0, {"id": "1", "b": "2"}), ("update", 0, {"id": "1", "a": "1", "b": "2"}), ("refuse", 77, None)],
)
def test_documents_that_are_there(bank: Any, how: str, code: int, kept: Any) -> None:
    before = {"id": "1", "a": "1"}
    bank("db", "put", "bank", "notes/1", json.dumps(before))
    bank.write("notes.csv", "id,b\n0,2\n1,2\n")
    arguments = ("db", "import", "bank", "notes", "notes.csv", "--key", "id", "--existing", how)
    ran = bank(*arguments, code=code)
    assert listed(bank, "notes")["1"] == (kept or before)
    assert ("0" in listed(bank, "notes")) == (how != "refuse"), "whole or nothing"
    if how == "refuse":
        assert "notes.csv:3: there is a document notes/1 already" in ran.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--key", "id", "--existing", "maybe"), "is none of replace, update, refuse"),
        (("--key", "id", "--columns", "id"), "columns: cannot read"),
        (("--key", "id", "--format", "xlsx"), "is not a format"),
        (("--key", "id", "--on-error", "stop"), "is not skip=FILE"),
        (("--key", "id", "--delimiter", ";;"), "the delimiter is one character"),
        ((), "which column is the documents' key?"),
    ],
)
def test_wrong_usage(bank: Any, arguments: tuple[str, ...], says: str) -> None:
    ran = bank("db", "import", "bank", "payments", "payments.csv", *arguments, code=64)
    assert says.lower() in ran.err.lower()
    assert feed_length(bank) == 1


def test_an_export_never_hides_that_it_left_something_out(bank: Any) -> None:
    bank("db", "put", "bank", "notes/1", '{"a": "1"}')
    context = bank("db", "get", "bank", "notes/1", "--json").json[0]["context"]
    bank("db", "patch", "bank", "notes/1", '{"a": "2"}')
    bank("db", "patch", "bank", "notes/1", '{"a": "3"}', "--base", context)
    ran = bank("db", "export", "bank", "notes", "-o", "exported.jsonl", "--json")
    assert ran.json[0]["conflicts"] == 1
    assert "1 of the documents hold values that do not show" in ran.err


def test_a_field_must_not_stand_in_the_place_of_the_key(bank: Any) -> None:
    bank("db", "put", "bank", "notes/1", '{"key": "other"}')
    ran = bank("db", "export", "bank", "notes", "-o", "notes.csv", code=77)
    assert "has a field 'key' that is not its key" in ran.err
    assert not bank.path("notes.csv").exists()
    bank("db", "export", "bank", "notes", "-o", "notes.csv", "--key", "id")
    assert bank.path("notes.csv").read_text() == "id,key\n1,other\n"
    assert "exists" in bank("db", "export", "bank", "notes", "-o", "notes.csv", "--key", "id", code=77).err


def test_pages_of_documents(bank: Any) -> None:
    bank(*PAYMENTS)
    keys: list[str] = []
    after: tuple[str, ...] = ()
    while True:
        *rows, page = bank("db", "list", "bank", "payments", "--limit", "20", *after, "--json").json
        keys += [row["key"] for row in rows]
        if page["cursor"] is None:
            break
        after = ("--after", page["cursor"])
    assert keys == sorted(map(str, range(42)))
    assert [line.split("\t")[0] for line in bank("db", "list", "bank", "payments", "--prefix", "4").lines] == [
        "4",
        "40",
        "41",
    ]


def test_a_name_that_promises_another_format(bank: Any) -> None:
    bank.write("payments.json", '[{"id": 1}]')
    assert ".json is not a format" in bank("db", "import", "bank", "payments", "payments.json", code=64).err
    exporting = ("db", "export", "bank", "payments", "-o", "payments.xlsx")
    assert "csv, jsonl or parquet" in bank(*exporting, code=64).err
    bank(*exporting, "--format", "csv")


def test_a_row_without_its_key_says_what_it_has(bank: Any) -> None:
    bank.write("accounts.csv", "id;owner\n1;Ada\n")
    ran = bank("db", "import", "bank", "accounts", "accounts.csv", "--key", "id", code=77)
    assert "accounts.csv:2: id: is missing" in ran.err
    assert "the row has id;owner" in ran.err


def test_the_file_of_rows_that_do_not_fit_is_not_replaced(bank: Any) -> None:
    bank.write("unfit.jsonl", "")
    ran = bank(*PAYMENTS, "--on-error", "skip=unfit.jsonl", code=77)
    assert "unfit.jsonl exists" in ran.err
    assert "--force" not in ran.err, "this command has none"


def test_an_import_that_is_interrupted_says_how_far_it_came(bank: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, made = Database.commit, []

    def interrupted(database: Database, changes: Changes) -> Commit:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(changes)
        return commit(database, changes)

    monkeypatch.setattr(Database, "commit", interrupted)
    assert "20 rows were written before that, in 2 transactions" in bank(*PAYMENTS, "--batch", "10", code=130).err
    monkeypatch.undo()
    assert bank(*PAYMENTS, "--batch", "10", "--json").json[0]["changed"] == 22

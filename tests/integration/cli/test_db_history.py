"""What documents were, by command line: history, as of, differences, the ways back, conflicts, queries, following."""

from __future__ import annotations

import json
from typing import Any

import pytest


@pytest.fixture
def bank(shell: Any) -> Any:
    """A home with a database and one document that was changed once."""
    shell("db", "create", "bank", "--device", "laptop")
    shell("db", "put", "bank", "accounts/1", '{"owner": "Ada", "balance": {"$dec": "1.00"}}', "--note", "opened")
    shell("db", "patch", "bank", "accounts/1", '{"owner": "Eve"}', "--note", "renamed")
    return shell


def fields(shell: Any, *options: str, name: str = "accounts/1") -> dict[str, Any]:
    (answer,) = shell("db", "get", "bank", name, *options, "--json").json
    found: dict[str, Any] = answer["fields"]
    return found


def places(shell: Any) -> list[int]:
    """The places of the transactions that touched the document, in order."""
    return [row["place"] for row in shell("db", "history", "bank", "accounts/1", "--json").json]


def patch(shell: Any, text: str, *options: str) -> dict[str, Any]:
    (answer,) = shell("db", "patch", "bank", "accounts/1", text, *options, "--json").json
    made: dict[str, Any] = answer
    return made


# --- history and as of


def test_history_says_who_when_and_what(bank: Any) -> None:
    first, second = bank("db", "history", "bank", "accounts/1", "--json").json
    assert [one["note"] for one in (first, second)] == ["opened", "renamed"]
    assert (second["device"], second["masked"]) == ("laptop", None)
    assert second["changes"] == [{"path": "/owner", "kind": "reg", "before": ["Ada"], "after": ["Eve"]}]
    assert second["ops"] == [{"verb": "set", "path": "/owner", "value": "Eve"}]
    lines = [line.split("\t") for line in bank("db", "history", "bank", "accounts/1").lines]
    assert [line[3:] for line in lines] == [
        ["/balance", "", "1.00", "opened"],
        ["/owner", "", "Ada", "opened"],
        ["/owner", "Ada", "Eve", "renamed"],
    ]
    assert len(bank("db", "history", "bank", "accounts/1", "--field", "balance").lines) == 1
    assert bank("db", "history", "bank", "accounts/none").lines == []


def test_a_document_as_it_was_by_each_clock(bank: Any) -> None:
    first, second = bank("db", "history", "bank", "accounts/1", "--json").json
    bank("checkpoint", "create")
    bank("anchor", "run")
    third = patch(bank, '{"owner": "Eva"}')
    for when, axis, owner in (
        (str(second["place"] - 1), "known", "Ada"),
        (first["claimed"], "claimed", "Ada"),
        (second["taken"], "known", "Eve"),
        ("2037-01-01T00:00:00Z", "anchored", "Eve"),
        ("2037-01-01T00:00:00Z", "claimed", "Eva"),
        (str(third["place"]), "known", "Eva"),
    ):
        assert fields(bank, "--as-of", when, "--axis", axis)["owner"] == owner, (when, axis)
    (answer,) = bank(
        "db", "get", "bank", "accounts/1", "--as-of", "2037-01-01T00:00:00Z", "--axis", "anchored", "--json"
    ).json
    assert (answer["as_of"]["axis"], answer["as_of"]["checkpoint"] > 0, answer["as_of"]["block"] > 0) == (
        "anchored",
        True,
        True,
    )
    listed = bank(
        "db", "list", "bank", "accounts", "--as-of", str(second["place"] - 1), "--axis", "known", "--json"
    ).json
    assert listed[0]["fields"]["owner"] == "Ada"
    out = bank("db", "export", "bank", "accounts", "-o", "-", "--format", "csv", "--as-of", first["claimed"]).out
    assert out == "key,balance,owner\n1,1.00,Ada\n"


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (("--as-of", "2020-01-01T00:00:00Z"), 77, "there was no document accounts/1 then"),
        (("--as-of", "2020-01-01T00:00:00Z", "--axis", "anchored"), 2, "nothing was anchored by then"),
        (("--as-of", "yesterday"), 64, "is not a time"),
        (("--as-of", "2026-01-01T00:00:00"), 64, "has no time zone"),
        (("--as-of", "2026-01-01"), 64, "2026-01-01T23:59:59Z, for example"),
        (("--as-of", "3"), 64, "--axis known goes with it"),
        (("--as-of", "4000", "--axis", "known"), 64, "no place 4000 is here yet"),
        (("--as-of", "2026-01-01T00:00:00Z", "--axis", "wished"), 64, "is no axis"),
        (("--as-of", "1969-01-01T00:00:00Z"), 64, "between 1970 and 9999"),
    ],
)
def test_points_in_time_that_cannot_be(bank: Any, options: tuple[str, ...], code: int, says: str) -> None:
    assert says in "".join(bank("db", "get", "bank", "accounts/1", *options, code=code).err)


def test_what_differs(bank: Any) -> None:
    first, second = places(bank)
    bank("db", "put", "bank", "clients/9", "{}")
    bank("db", "delete", "bank", "accounts/1")
    between = ("--from", str(first + 2), "--to", str(second + 1), "--axis", "known")
    assert bank("db", "diff", "bank", *between).lines == ["accounts/1\t/owner\tAda\tEve"]
    (one,) = bank("db", "diff", "bank", "accounts/1", "--from", str(second + 1), "--axis", "known", "--json").json
    assert one["changes"] == [{"path": "", "kind": "flag", "before": [False], "after": [True]}]
    assert bank("db", "diff", "bank", "clients", *between).lines == []
    assert "from when" in bank("db", "diff", "bank", code=64).err
    assert "is not COLLECTION" in bank("db", "diff", "bank", "accounts/", *between, code=64).err


# --- back


def test_an_undo_takes_back_what_nobody_changed_since(bank: Any) -> None:
    made = patch(bank, '{"owner": "X", "note": "y"}')
    patch(bank, '{"note": "z"}')
    entry = made["entry"].rpartition("/")[0]
    (planned,) = bank("db", "undo", "bank", entry, "--dry-run", "--json").json
    assert (planned["changed"], planned["written"], planned["dry_run"]) == (["accounts/1"], False, True)
    assert fields(bank)["owner"] == "X"
    ran = bank("db", "undo", "bank", entry, "--json")
    (done,) = ran.json
    assert [one["path"] for one in done["skipped"]] == ["/note"]
    assert "left as it is: accounts/1/note" in ran.err
    assert (fields(bank)["owner"], fields(bank)["note"]) == ("Eve", "z")
    assert "is undone already" in bank("db", "undo", "bank", entry, code=77).err
    bank("db", "redo", "bank", made["entry"])
    assert fields(bank)["owner"] == "X"


def test_the_newest_transaction_of_a_document(bank: Any) -> None:
    bank("db", "undo", "bank", "--last-of", "accounts/1")
    assert fields(bank)["owner"] == "Ada"
    assert "there is no document" in bank("db", "undo", "bank", "--last-of", "accounts/9", code=77).err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("undo", "bank"), 64, "what is to be undone?"),
        (("undo", "bank", "x"), 64, "is not FEED/INDEX"),
        (("undo", "bank", "y/99"), 64, "no entry of the database"),
        (("undo", "bank", "y/1/00"), 64, "reference"),
        (("redo", "bank"), 64, "missing argument"),
        (("restore", "bank", "accounts/1"), 64, "to when?"),
    ],
)
def test_what_cannot_be_taken_back(bank: Any, arguments: tuple[str, ...], code: int, says: str) -> None:
    assert says in bank("db", *arguments, code=code).err


def test_only_transactions_can_be_undone(bank: Any) -> None:
    (feed,) = (row["key"] for row in bank("feed", "list", "--json").json if row["name"].startswith("database "))
    assert "only transactions can be undone" in bank("db", "undo", "bank", f"{feed[:8]}/0", code=77).err
    (first, _) = bank("db", "history", "bank", "accounts/1", "--json").json
    assert "is not undone" in bank("db", "redo", "bank", first["entry"], code=77).err


def test_restoring(bank: Any) -> None:
    first, _ = places(bank)
    bank("db", "put", "bank", "accounts/2", "{}")
    then = ("--as-of", str(first + 2), "--axis", "known")
    shown = bank("db", "restore", "bank", *then, "--dry-run").lines
    assert "accounts/1\t/owner\tEve\tAda" in shown
    assert fields(bank)["owner"] == "Eve"
    (done,) = bank("db", "restore", "bank", "accounts/1", *then, "--json").json
    assert (len(done["entries"]), done["left"], done["as_of"]["axis"]) == (1, [], "known")
    assert fields(bank) == {"owner": "Ada", "balance": {"$dec": "1.00"}}
    ran = bank("db", "restore", "bank", "accounts/1", *then, "--json")
    assert ran.json[0]["entries"] == []
    assert "nothing was written" in ran.err
    bank("db", "undo", "bank", done["entries"][0])
    assert fields(bank)["owner"] == "Eve"


# --- conflicts


@pytest.fixture
def apart(bank: Any) -> Any:
    """Two values for one field, written without knowing of each other."""
    context = bank("db", "get", "bank", "accounts/1", "--json").json[0]["context"]
    patch(bank, '{"owner": "X"}')
    patch(bank, '{"owner": "Y"}', "--base", context)
    return bank


def test_conflicts_say_who_wrote_what(apart: Any) -> None:
    (one,) = apart("db", "conflicts", "bank", "--json").json
    (conflict,) = one["conflicts"]
    assert (one["document"], conflict["kind"], conflict["path"], one["contests"]) == (
        "accounts/1",
        "siblings",
        "/owner",
        [],
    )
    assert sorted(value["value"] for value in conflict["values"]) == ["X", "Y"]
    assert {value["device"] for value in conflict["values"]} == {"laptop"}
    assert conflict["values"][0]["value"] == fields(apart)["owner"]
    assert len(apart("db", "conflicts", "bank", "accounts").lines) == 2
    assert apart("db", "conflicts", "bank", "clients").lines == []


def test_a_conflict_is_decided(apart: Any) -> None:
    other = next(name for name in "XY" if name != fields(apart)["owner"])
    apart("db", "resolve", "bank", "accounts/1", "owner", "--keep", "2")
    assert fields(apart)["owner"] == other
    assert apart("db", "conflicts", "bank").lines == []


@pytest.mark.parametrize(
    ("options", "owner"),
    [(("owner", "--value", '"Z"'), "Z"), (("owner", "--keep-all"), ["X", "Y"]), (("--accept",), None)],
)
def test_other_ways_to_decide(apart: Any, options: tuple[str, ...], owner: Any) -> None:
    shown = fields(apart)["owner"]
    apart("db", "resolve", "bank", "accounts/1", *options)
    found = fields(apart)["owner"]
    assert (sorted(found) if isinstance(found, list) else found) == (owner or shown)
    assert apart("db", "conflicts", "bank").lines == []


def test_a_decision_rests_on_what_was_seen(apart: Any) -> None:
    etag = apart("db", "get", "bank", "accounts/1", "--json").json[0]["etag"]
    patch(apart, '{"balance": {"$dec": "2.00"}}')
    apart("db", "resolve", "bank", "accounts/1", "owner", "--keep", "1", "--if-match", etag, code=75)
    assert len(apart("db", "conflicts", "bank").lines) == 2


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (("owner",), 64, "what is it to be?"),
        (("owner", "--keep", "1", "--accept"), 64, "what is it to be?"),
        (("--keep", "1"), 64, "what is it to be?"),
        (("owner", "--keep", "3"), 77, "has 2 values"),
        (("owner", "--keep", "0"), 64, "invalid value"),
        (("owner", "--value", "{"), 77, "not JSON"),
    ],
)
def test_decisions_that_cannot_be(apart: Any, options: tuple[str, ...], code: int, says: str) -> None:
    assert says in apart("db", "resolve", "bank", "accounts/1", *options, code=code).err
    assert len(apart("db", "conflicts", "bank").lines) == 2


def test_there_must_be_a_conflict_to_accept(bank: Any) -> None:
    assert "has no conflict" in bank("db", "resolve", "bank", "accounts/1", "--accept", code=77).err
    assert "no document" in bank("db", "resolve", "bank", "accounts/9", "--accept", code=77).err


# --- queries and following


@pytest.fixture
def many(bank: Any) -> Any:
    """Payments with an index."""
    properties = {"id": {"type": "integer", "indexed": True}, "amount": {"type": "decimal"}, "booked": {"type": "date"}}
    bank(
        "db", "schema", "bank", "payments", "--set", "-", stdin=json.dumps({"type": "object", "properties": properties})
    )
    bank("db", "import", "bank", "payments", "payments.csv", "--key", "id")
    return bank


def keys(shell: Any, *arguments: str) -> list[str]:
    return [row["key"] for row in shell("db", "query", "bank", "payments", *arguments, "--json").json[:-1]]


def test_queries(many: Any) -> None:
    assert keys(many, "id >= 40") == ["40", "41"]
    assert keys(many, "id < 2 or id = 7") == ["0", "1", "7"]
    assert keys(many, "--order", "id", "--descending", "--limit", "3") == ["41", "40", "39"]
    assert keys(many, "booked = 2026-11-08 and amount > 10", "--scan") == ["35"]
    assert keys(many, '$key ^= "4"') == ["4", "40", "41"]
    assert many("db", "query", "bank", "payments", "id = 7", "--select", "amount").lines == ["7\t0\t7.50"]
    assert len(keys(many)) == 42
    assert many("db", "query", "bank", "payments", "id = 7", "--explain").lines


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("amount > 10",), 77, "there is no index over it"),
        (("id >> 10",), 64, "a value is expected"),
        (("id = ",), 64, "a value is expected"),
        (("--order", "amount"), 77, "can't be ordered by"),
        (("--select", "a//b"), 64, "field"),
        (("--after", "x"), 64, "cursor"),
        (("--explain", "--as-of", "2026-01-01T00:00:00Z"), 64, "exclude each other"),
    ],
)
def test_queries_that_cannot_be(many: Any, arguments: tuple[str, ...], code: int, says: str) -> None:
    assert says in many("db", "query", "bank", "payments", *arguments, code=code).err


def test_every_change_is_told_once(bank: Any) -> None:
    *events, page = bank("db", "watch", "bank", "--json").json
    assert [(one["change"], one["note"]) for one in events] == [("created", "opened"), ("changed", "renamed")]
    assert (events[1]["old"]["owner"], events[1]["new"]["owner"]) == ("Ada", "Eve")
    bank("db", "delete", "bank", "accounts/1")
    *events, page = bank("db", "watch", "bank", "--after", page["cursor"], "--json").json
    assert [one["change"] for one in events] == ["deleted"]
    *events, page = bank("db", "watch", "bank", "--after", page["cursor"], "--json").json
    assert events == []
    lines = bank("db", "watch", "bank", "--collection", "accounts", "--limit", "1").lines
    assert lines[0].split("\t")[:4] == ["created", "accounts/1", "balance, owner", "laptop"]
    assert bank("db", "watch", "bank", "--collection", "clients").lines == []
    assert len(bank("db", "watch", "bank", "--field", "balance").lines) == 2
    assert "cursor" in bank("db", "watch", "bank", "--after", "x", code=64).err
    assert "$key is no field" in bank("db", "watch", "bank", "--field", "$key", code=64).err


def test_a_rebuilt_database_is_the_same(many: Any) -> None:
    before = many("db", "list", "bank", "payments", "--limit", "99").lines
    (answer,) = many("db", "rebuild", "bank", "--json").json
    assert answer["entries"] == 5
    assert many("db", "list", "bank", "payments", "--limit", "99").lines == before
    assert many("db", "audit", "bank", "--json").json[0]["faults"] == []


def test_a_state_root_is_checked_against_the_feeds(many: Any) -> None:
    (made,) = many("db", "state-root", "bank", "--json").json
    (listed,) = many("db", "state-roots", "bank", "--json").json
    assert (listed["entry"], listed["root"], listed["rival"]) == (made["entry"], made["root"], False)
    (checked,) = many("db", "check-root", "bank", made["entry"], "--json").json
    assert (checked["verdict"], checked["root"]) == ("PASSED", made["root"])
    (first, *_) = many("db", "history", "bank", "accounts/1", "--json").json
    many("db", "check-root", "bank", first["entry"], code=None)

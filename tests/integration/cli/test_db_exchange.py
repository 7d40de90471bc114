"""Two homes and one database by command line: members, bundles, conflicts that are seen and decided, and dismissal."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def pair(shell: Any) -> tuple[Any, Any]:
    """A home with a database, and another person's home that was admitted and has it."""
    other = shell.at("other")
    shell("db", "create", "bank", "--device", "laptop")
    shell("db", "put", "bank", "accounts/1", '{"owner": "Ada"}')
    other("identity", "export", "-o", "other.events")
    shell("identity", "import", "other.events")
    shell("db", "admit", "bank", "other of a test")
    pass_on(shell, other)
    return shell, other


def pass_on(giver: Any, taker: Any, *options: str, code: int | None = 0) -> dict[str, Any]:
    """What the one has goes to the other in a file."""
    giver("db", "bundle", "bank", "-o", "passed.bundle", "--force", *options)
    (answer,) = taker("db", "receive", "passed.bundle", "--json", code=code).json
    report: dict[str, Any] = answer
    return report


def read(shell: Any) -> dict[str, Any]:
    (answer,) = shell("db", "get", "bank", "accounts/1", "--json").json
    answer.pop("context")
    found: dict[str, Any] = answer
    return found


def patch(shell: Any, text: str, code: int | None = 0) -> Any:
    return shell("db", "patch", "bank", "accounts/1", text, code=code)


def test_a_database_is_joined(pair: tuple[Any, Any]) -> None:
    shell, other = pair
    assert read(other) == read(shell)
    members = other("db", "members", "bank", "--json").json
    assert [(one["label"], one["role"]) for one in members] == [
        ("home of a test", "admin"),
        ("other of a test", "writer"),
    ]
    report = pass_on(shell, other)
    assert (report["joined"], report["new"], report["taken"]) == (False, 0, 0)


def test_what_was_written_apart_is_seen_and_decided(pair: tuple[Any, Any]) -> None:
    shell, other = pair
    patch(shell, '{"owner": "Adam"}')
    patch(other, '{"owner": "Eve"}')
    for one in (shell, other):
        one("db", "increment", "bank", "accounts/1", "visits", "2")
    report = pass_on(other, shell)
    assert (report["conflicts"], report["new"]) == (["accounts/1"], 2)
    pass_on(shell, other)
    assert read(shell) == read(other)
    assert (read(shell)["fields"]["visits"], sorted(read(shell)["siblings"]["/owner"])) == (4, ["Adam", "Eve"])
    values = other("db", "conflicts", "bank", "--json").json[0]["conflicts"][0]["values"]
    assert {one["device"] for one in values} == {"main", "laptop of home of a test"}
    other("db", "resolve", "bank", "accounts/1", "owner", "--value", '"Ada"')
    pass_on(other, shell)
    assert read(shell) == read(other)
    assert shell("db", "conflicts", "bank").lines == []


def test_a_condition_that_was_broken_elsewhere_is_told(pair: tuple[Any, Any]) -> None:
    shell, other = pair
    shell("db", "patch", "bank", "accounts/1", '{"a": 1}', "--if-match", read(shell)["etag"])
    patch(other, '{"b": 1}')
    report = pass_on(other, shell)
    assert (report["conflicts"], report["contested"]) == ([], ["accounts/1"])
    (one,) = shell("db", "conflicts", "bank", "--json").json
    assert len(one["contests"]) == 1
    assert [line.split("\t")[1] for line in shell("db", "conflicts", "bank").lines] == ["contest", "contest"]
    shell("db", "resolve", "bank", "accounts/1", "--accept")
    assert shell("db", "conflicts", "bank").lines == []


def test_only_what_is_new_is_sent(pair: tuple[Any, Any]) -> None:
    shell, other = pair
    patch(shell, '{"note": "x"}')
    other("db", "bundle", "bank", "--only-have", "-o", "have.bundle")
    (answer,) = shell("db", "bundle", "bank", "--since", "have.bundle", "-o", "news.bundle", "--json").json
    assert (answer["feeds"], answer["entries"]) == (1, 1)
    assert other("db", "receive", "news.bundle", "--json").json[0]["taken"] == 1
    assert read(other) == read(shell)


def test_a_bundle_comes_through_a_pipe(pair: tuple[Any, Any]) -> None:
    shell, other = pair
    patch(shell, '{"note": "x"}')
    data = shell("db", "bundle", "bank", "-o", "-").stdout
    other("db", "receive", "-", stdin=data)
    assert read(other) == read(shell)


def test_who_is_no_member_cannot_write(shell: Any) -> None:
    young = shell.at("young")
    shell("db", "create", "bank", "--device", "laptop")
    shell("db", "put", "bank", "accounts/1", '{"owner": "Ada"}')
    pass_on(shell, young)
    assert read(young)["fields"] == {"owner": "Ada"}
    assert "may not write to the database: its identity is no member" in patch(young, '{"owner": "Eve"}', code=77).err
    assert read(young)["fields"] == {"owner": "Ada"}


def test_who_is_dismissed_cannot_write_any_more(pair: tuple[Any, Any]) -> None:
    shell, other = pair
    patch(other, '{"owner": "Eve"}')
    pass_on(other, shell)
    shell("db", "dismiss", "bank", "other of a test", "--reason", "left")
    pass_on(shell, other)
    assert "the membership of its identity ended" in patch(other, '{"owner": "Mallory"}', code=77).err
    assert read(shell)["fields"]["owner"] == "Eve", "what was vouched for counts"
    (_, member) = shell("db", "members", "bank", "--json").json
    assert member["dismissed"]
    shell("db", "admit", "bank", "other of a test", "--role", "writer")


def test_acts_that_would_not_count_are_refused(pair: tuple[Any, Any]) -> None:
    shell, other = pair
    own = shell("identity", "show", "--json").json[0]["identity"]
    before = shell("feed", "list").lines
    assert "stays an admin" in shell("db", "admit", "bank", own, "--role", "reader", code=77).err
    assert "is a writer already" in shell("db", "admit", "bank", "other of a test", code=77).err
    assert "is no role" in shell("db", "admit", "bank", "other of a test", "--role", "king", code=64).err
    assert "no identity has that name, or an id" in shell("db", "admit", "bank", "ffff", code=64).err
    assert "holdfast identity import" in shell("db", "admit", "bank", "ffff", code=64).err
    assert shell("feed", "list").lines == before
    assert "is no admin" in other("db", "dismiss", "bank", own, code=77).err
    assert "is no admin" in other("db", "admit", "bank", own, "--role", "reader", code=77).err
    assert "take an admin" in other("db", "hold", "bank", "case-17", "accounts", code=77).err


def test_a_new_device_of_a_member_is_carried(pair: tuple[Any, Any]) -> None:
    shell, other = pair
    other("identity", "add-device", "spare")
    other("identity", "export", "-o", "other.events", "--force")
    assert "has every event" in shell("db", "carry", "bank").err
    shell("identity", "import", "other.events")
    (row,) = shell("db", "carry", "bank", "--json").json
    assert row["events"] == 1
    assert shell("db", "carry", "bank").lines == []


def test_a_damaged_bundle_changes_nothing(pair: tuple[Any, Any]) -> None:
    shell, other = pair
    patch(shell, '{"note": "x"}')
    data = bytearray(shell("db", "bundle", "bank", "-o", "-").stdout)
    before = read(other)
    for at in (100, len(data) // 2, len(data) - 5):
        changed = bytes([*data[:at], data[at] ^ 1, *data[at + 1 :]])
        assert other("db", "receive", "-", stdin=changed, code=None).code in (1, 2, 77)
    assert other("db", "receive", "-", stdin=bytes(data[:-40]), code=None).code in (1, 77)
    assert other("db", "receive", "payments.csv", code=77).err
    assert read(other) == before


def test_a_feed_that_comes_alone_is_taken_in_too(pair: tuple[Any, Any]) -> None:
    shell, other = pair
    patch(other, '{"owner": "Eve"}')
    (feed,) = (
        row["key"]
        for row in other("feed", "list", "--json").json
        if row["name"].startswith("database ") and row["local"]
    )
    other("feed", "export", feed, "-o", "feed.export")
    shell("feed", "ingest", "feed.export")
    assert read(shell)["fields"]["owner"] == "Eve"


def test_what_an_anchored_state_leaves_out_is_told(pair: tuple[Any, Any]) -> None:
    shell, other = pair
    anchored = ("--as-of", "2037-01-01T00:00:00Z", "--axis", "anchored")
    told = "as anchored by 2037-01-01T00:00:00Z, without"
    shell("checkpoint", "create")
    shell("anchor", "run")
    assert shell("db", "get", "bank", "accounts/1", *anchored).err == "", "all that is here is anchored"
    patch(shell, '{"note": "x"}')
    ran = shell("db", "list", "bank", "accounts", *anchored)
    assert ran.err == f"holdfast: {told} 1 of the entries that are here now\n"
    for text in ('{"owner": "Eve"}', '{"owner": "Eva"}'):
        patch(other, text)
    pass_on(other, shell)
    shell("checkpoint", "create")
    shell("anchor", "run")
    for command in (("get", "bank", "accounts/1"), ("query", "bank", "accounts"), ("diff", "bank")):
        since = ("--from", *anchored[1:]) if command[0] == "diff" else anchored
        err = shell("db", *command, *since).err
        assert f"{told} 2 of the entries that are here now, 2 of them of identities that have not bound this log" in err
        assert "holdfast identity bind-log" in err
    assert told in shell("db", "export", "bank", "accounts", "-o", "-", "--format", "csv", *anchored).err
    assert told in shell("db", "restore", "bank", "--dry-run", *anchored).err
    assert shell("db", "get", "bank", "accounts/1", *anchored, "--quiet").err == ""
    assert told not in shell("db", "get", "bank", "accounts/1", *anchored[:2], "--axis", "claimed").err


@pytest.mark.integration
def test_a_home_on_postgresql_has_the_same(pair: tuple[Any, Any], postgres: Any) -> None:
    """A backup of the home, restored into PostgreSQL: the same documents, versions and conflicts, and it goes on."""
    shell, other = pair
    patch(shell, '{"owner": "Adam"}')
    patch(other, '{"owner": "Eve"}')
    pass_on(other, shell)
    shell("backup", "create", "home.backup")
    shell("restore", "home.backup", "--home", "pg", "--database", postgres.url(postgres.new_database()))
    pg = shell.at("pg")
    assert read(pg) == read(shell)
    for command in (("list", "bank"), ("list", "bank", "accounts"), ("conflicts", "bank"), ("members", "bank")):
        assert pg("db", *command).lines == shell("db", *command).lines, command
    pg("db", "resolve", "bank", "accounts/1", "owner", "--value", '"Ada"')
    pass_on(pg, other)
    assert read(other) == read(pg)
    assert pg("db", "audit", "bank", "--json").json[0]["faults"] == []
    pg("db", "state-root", "bank")


def id_of(shell: Any, name: str = "bank") -> str:
    return next(str(one["id"]) for one in shell("db", "list", "--json").json if one["name"] == name)


def test_a_database_that_is_called_by_the_id_of_another_is_not_taken_for_it(pair: tuple[Any, Any]) -> None:
    shell, other = pair
    uid = id_of(shell)
    other("db", "create", uid)
    hers = id_of(other, uid)
    other("db", "put", hers, "accounts/1", '{"owner": "Mallory"}')
    other("db", "bundle", hers, "-o", "hers.bundle")
    shell("db", "receive", "hers.bundle")
    assert [shell("db", "get", one, "accounts/1", "--json").json[0]["fields"]["owner"] for one in (uid, hers)] == [
        "Ada",
        "Mallory",
    ]
    other("db", "create", "ab" * 32)
    other("db", "bundle", id_of(other, "ab" * 32), "-o", "another.bundle")
    shell("db", "receive", "another.bundle")
    assert "no database is called" in shell("db", "list", "ab" * 32, code=64).err


def test_an_identity_that_is_called_by_the_id_of_another_is_not_admitted_for_it(pair: tuple[Any, Any]) -> None:
    shell, other = pair
    wanted = other("identity", "show", "--json").json[0]["identity"]
    unknown = "ab" * 32
    for home, label in (("stranger", wanted), ("another", unknown)):
        stranger = shell.at(home)
        stranger("init", "--label", label, "--device", "main", "--no-chain", "--phrase-file", f"{home}-phrase.txt")
        stranger("identity", "export", "-o", f"{home}.events")
        shell("identity", "import", f"{home}.events")
    (answer,) = shell("db", "admit", "bank", wanted, "--role", "admin", "--json").json
    assert answer["identity"] == wanted
    assert "no identity has that name" in shell("db", "admit", "bank", unknown, "--role", "admin", code=64).err


@pytest.mark.parametrize("file", ["vault.db", "keystore.hfk"])
def test_no_output_takes_the_place_of_a_home(pair: tuple[Any, Any], file: str) -> None:
    shell, _ = pair
    before = shell.kept()[file]
    ran = shell("db", "bundle", "bank", "-o", f"home/{file}", "--force", code=77)
    assert "is what a home lives on" in ran.err
    assert shell.kept()[file] == before


def test_one_seat_is_sold_once(pair: tuple[Any, Any]) -> None:
    """Both want it. The other proposes; the home has sold it meanwhile, and refuses; then it gives the seats away."""
    shell, other = pair
    other("db", "put", "bank", "greetings/other", '{"x": 1}')
    assert "has no home" in shell("db", "put", "bank", "seats/12a", "{}", "--prefer", "serial", code=77).err
    assert "is no strength" in shell("db", "put", "bank", "seats/12a", "{}", "--prefer", "strong", code=64).err
    (named,) = shell("db", "set-home", "bank", "seats", "--json").json
    pass_on(shell, other)
    pass_on(other, shell)
    sold = ("db", "put", "bank", "seats/12a", '{"owner": "Novak"}', "--if-absent")
    assert "home elsewhere" in other(*sold, code=77).err
    (asked,) = other(*sold, "--prefer", "serial", "--json").json
    assert (asked["pending"], asked["etag"]) == (True, None)
    (waiting,) = other("db", "decision", "bank", asked["entry"], "--json").json
    assert waiting["verdict"] == "pending"
    (done,) = shell(*sold, "--prefer", "serial", "--json").json
    assert (done["pending"], done["written"]) == (False, True)
    pass_on(other, shell)
    (decided,) = shell("db", "decide", "bank", "--json").json
    assert (decided["verdict"], decided["why"], decided["detail"]) == ("refused", "stale", "seats/12a")
    assert shell("db", "decide", "bank", "--json").json == []
    pass_on(shell, other)
    assert other("db", "decision", "bank", asked["entry"], "--json").json == [decided]
    (home,) = other("db", "homes", "bank", "--json").json
    assert (home["home"], home["device"], home["asked"]) == (named["home"], "laptop of home of a test", None)
    assert "take an admin" in other("db", "set-home", "bank", "seats", code=77).err
    shell("db", "set-home", "bank", "seats", "--feed", asked["feed"])
    pass_on(shell, other)
    (moved,) = other("db", "homes", "bank", "--json").json
    assert (moved["home"], moved["device"]) == (asked["feed"], "main")
    assert "no feed" in shell("db", "set-home", "bank", "seats", "--feed", "zzzz", code=64).err

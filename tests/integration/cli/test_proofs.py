"""Single entries by command line: proven, handed over, read byte by byte, and forks that are met on the way."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from api.bootstrap import open_session
from api.home import Home
from api.settings import load_settings


@pytest.fixture
def other(shell: Any) -> Any:
    """Another home, without anything of the first one's."""
    return shell.at("other")


@pytest.fixture
def twin(shell: Any) -> Any:
    """A copy of the home, keys and all."""
    shutil.copytree(shell.path("home"), shell.path("twin"))
    return shell.at("twin")


def key_of(shell: Any, feed: str) -> str:
    return next(row["key"] for row in shell("feed", "list", "--json").json if row["name"] == feed)


def test_an_entry_is_handed_over_with_its_proof_and_read_back(shell: Any, other: Any) -> None:
    key = key_of(shell, "ledger")
    for index in ("7", "30"):
        made = shell("proof", "create", "ledger", index, "-o", f"{index}.proof", "--json").json[0]
        assert (made["kind"], made["key"], made["index"]) == ("feed-proof", key, int(index))
        (took,) = other("proof", "ingest", f"{index}.proof", "--json").json
        assert (took["key"], took["index"], took["length"]) == (key, int(index), 42)
    (listed,) = other("proof", "list", "--json").json
    assert (listed["key"], listed["length"], listed["held"], listed["fault"]) == (key, 42, 2, None)
    whole = shell("proof", "read", "ledger", "--offset", "0", "--length", "900", "-o", "-").stdout
    assert len(whole) == 900
    refused = other("proof", "read", key, "--offset", "0", "--length", "9", "-o", "-", code=2)
    assert "not known" in refused.err or "not held" in refused.err


def test_an_altered_row_of_a_feed_held_in_part_is_named(shell: Any, other: Any) -> None:
    shell("proof", "create", "ledger", "7", "-o", "7.proof")
    other("proof", "ingest", "7.proof")
    with closing(sqlite3.connect(other.path("other/vault.db"))) as database:
        database.execute("DROP TRIGGER sparse_block_no_update")
        database.execute("UPDATE sparse_block SET data = data || x'00'")
        database.commit()
    (listed,) = other("proof", "list", "--json", code=1).json
    assert "block 7" in listed["fault"]
    assert "held in part: block 7" in other("audit", code=1).out


def test_what_is_held_in_part_grows_from_where_it_is(shell: Any, other: Any) -> None:
    shell("proof", "create", "notes", "0", "-o", "old.proof")
    other("proof", "ingest", "old.proof")
    length = next(row["length"] for row in shell("feed", "list", "--json").json if row["name"] == "notes")
    shell("feed", "append", "notes", stdin='{"more": true}')
    shell("proof", "create", "notes", str(length), "-o", "scratch.proof")
    refused = other("proof", "ingest", "scratch.proof", code=77)
    assert f"begins at {length}" in refused.err
    shell("proof", "create", "notes", str(length), "--from", str(length), "-o", "new.proof")
    other("proof", "ingest", "new.proof")
    (listed,) = other("proof", "list", "--json").json
    assert (listed["length"], listed["held"], listed["fault"]) == (length + 1, 2, None)


@pytest.mark.parametrize("place", [0, 20, 60, -1])
def test_an_altered_proof_is_refused_and_nothing_is_kept(shell: Any, other: Any, place: int) -> None:
    shell("proof", "create", "ledger", "7", "-o", "7.proof")
    data = bytearray(shell.path("7.proof").read_bytes())
    data[place] ^= 0x40
    shell.write("bad.proof", bytes(data))
    assert other("proof", "ingest", "bad.proof", code=None).code in (1, 2, 77)
    assert other("proof", "list", "--json").json == []


def test_a_feed_that_is_held_whole_is_not_taken_in_part(shell: Any) -> None:
    shell("proof", "create", "ledger", "7", "-o", "7.proof")
    assert "held whole" in shell("proof", "ingest", "7.proof", code=77).err


def test_an_entry_beyond_the_feed_has_no_proof(shell: Any) -> None:
    assert "no entry 42" in shell("proof", "create", "ledger", "42", "-o", "x.proof", code=2).err
    shell("proof", "create", "ledger", "3", "--from", "9", "-o", "x.proof", code=2)
    assert not shell.path("x.proof").exists()


def test_a_fork_leaves_a_proof_that_anybody_can_check(shell: Any, other: Any, twin: Any) -> None:
    """A copied home goes on as if it were the only one: the same device signs two histories."""
    shell("feed", "append", "ledger", stdin='{"paid": 10}')
    shell("feed", "append", "ledger", stdin='{"paid": 11}')
    home = Home(twin.path("twin"))
    with open_session(home, load_settings(home, twin.environment())) as session:
        session.start_up.adopt()  # without it the sentinel shows the copy, which then goes on in a new feed
    twin("feed", "append", "ledger", stdin='{"paid": 99}')
    for home, name in ((shell, "one.proof"), (twin, "two.proof")):
        home("proof", "create", "ledger", "42", "-o", name)
    other("proof", "ingest", "one.proof")
    met = other("proof", "ingest", "two.proof", code=1)
    assert "contradicts ours of 44 blocks" in met.err
    (file,) = other.path("other").glob("forks/*.fork")
    assert str(file) in met.err
    (fork,) = other("proof", "check-fork", str(file), "--json").json
    assert (fork["key"], sorted(fork["lengths"]), fork["forks"]) == (key_of(shell, "ledger"), [43, 44], [0, 0])
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    other.write("bad.fork", bytes(data))
    assert other("proof", "check-fork", "bad.fork", code=None).code in (1, 77)

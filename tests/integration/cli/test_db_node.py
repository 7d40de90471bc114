"""``--node URL``: a home's database, in step with a node before a command and after it."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import Any

import pytest

pytestmark = pytest.mark.integration


def owner(shell: Any, key: str, *options: str, code: int = 0) -> Any:
    ran = shell("db", "get", "bank", f"accounts/{key}", "--json", *options, code=code)
    return ran.json[0]["fields"]["owner"] if code == 0 else None


def test_what_is_read_is_what_the_node_has_and_what_is_written_gets_there(joined: Any, served: Any) -> None:
    home, other = joined
    home("db", "put", "bank", "accounts/2", '{"owner": "Svoboda"}')
    assert owner(other, "2", code=77) is None
    with served(home) as url:
        assert owner(other, "2", "--node", url) == "Svoboda"
        rows = other("db", "list", "bank", "accounts", "--json", "--node", url).json
        assert [row["key"] for row in rows if "key" in row] == ["1", "2"]
        assert [row["name"] for row in other("db", "list", "--json", "--node", url).json] == ["bank"]
        other("db", "patch", "bank", "accounts/2", '{"owner": "Dvorak"}', "--node", url)
        other("db", "query", "bank", "accounts", 'owner = "Dvorak"', "--scan", "--node", url)
        assert len(other("db", "history", "bank", "accounts/2", "--json", "--node", url).json) >= 2
    assert owner(home, "2") == "Dvorak"
    assert owner(other, "2") == "Dvorak", "the answer is of this home, so it is here without the node too"


def test_a_condition_is_held_against_what_the_node_has(joined: Any, served: Any) -> None:
    home, other = joined
    etag = other("db", "get", "bank", "accounts/1", "--json").json[0]["etag"]
    home("db", "patch", "bank", "accounts/1", '{"owner": "Dvorak"}')
    with served(home) as url:
        change = ["db", "patch", "bank", "accounts/1", '{"owner": "Eve"}', "--if-match", etag]
        other(*change, "--node", url, code=75)
        assert owner(other, "1") == "Dvorak"


def test_a_node_that_is_away_is_named_and_the_work_goes_on(joined: Any, served: Any) -> None:
    home, other = joined
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        away = f"http://127.0.0.1:{listening.getsockname()[1]}"
    ran = other("db", "get", "bank", "accounts/1", "--node", away)
    assert f"not in step with {away}, this is what is here" in ran.err
    ran = other("db", "put", "bank", "accounts/3", '{"owner": "Eve"}', "--node", away)
    assert f"written here; {away} does not have it yet" in ran.err
    assert f"holdfast sync {away}" in ran.err
    with served(home) as url:
        other("sync", url)
    assert owner(home, "3") == "Eve"


def test_a_database_that_is_new_here_is_joined(joined: Any, served: Any, fresh: Any) -> None:
    home, other = joined
    home("db", "create", "loans")
    home("db", "put", "loans", "accounts/1", '{"owner": "Novak"}')
    home("db", "admit", "loans", "other of a test")
    with served(home) as url:
        ran = other("db", "get", "loans", "accounts/1", "--node", url)
        assert "joined loans" in ran.err


def test_whom_the_node_does_not_let_in_is_told_so(joined: Any, served: Any, shell: Any) -> None:
    home, _ = joined
    stranger = shell.at("home")
    stranger("db", "create", "bank", "--device", "laptop")
    with served(home) as url:
        stranger("db", "list", "bank", "--node", url, code=77)
        stranger("db", "list", "bank", "--node", "ftp://x", code=64)


def test_a_command_keeps_its_own_passphrase_file(joined: Any, served: Any) -> None:
    home, other = joined
    with served(home) as url:
        secret = str(other.path("pass.txt"))
        bare = other.at("other", HOLDFAST_PASSPHRASE_FILE="/nowhere")
        assert owner(bare, "1", "--node", url, "--passphrase-file", secret) == "Novak"
        bare("db", "put", "bank", "accounts/1", "{}", "--node", url, "--passphrase-file", secret)

"""A home that was put back to an old backup, and another node that holds what it has forgotten."""

from __future__ import annotations

import io
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from api.home import Home
from api.kept_logs import KeptLogs
from api.pairing import Party
from api.peers import PairedNode, keep_peer
from identity.textforms import parse_zbase32
from ledger.store import FeedKey

pytestmark = pytest.mark.integration


@pytest.fixture
def pair(joined: tuple[Any, Any]) -> tuple[Any, Any]:
    """A home with a database and a chain, and another one that has joined the database."""
    return joined


def put(shell: Any, key: str, *options: str) -> Any:
    return shell("db", "put", "bank", f"accounts/{key}", '{"owner": "Novak"}', *options)


def keys(shell: Any) -> list[str]:
    rows = shell("db", "list", "bank", "accounts", "--json").json
    return sorted(row["key"] for row in rows if "key" in row)


def sync(shell: Any, other: Any, served: Any) -> Any:
    """Let the other home sync with the node of this one."""
    with served(shell) as url:
        return other("sync", url, "bank")


def anchor(shell: Any) -> None:
    shell("checkpoint", "create")
    shell("anchor", "run")


def restored(shell: Any, url: str | None = None) -> Any:
    """The home of the old backup, which knows the other node by this address."""
    shell("restore", "early.backup", "--home", "restored")
    home = shell.at("restored")
    if url is not None:
        met(home, url)
    return home


def met(shell: Any, url: str) -> None:
    keep_peer(Home(shell.path(shell.home)), PairedNode(url, Party(bytes(32), bytes(32)), "other", 1))


def test_one_command_brings_an_old_backup_to_where_its_chain_is(pair: tuple[Any, Any], served: Any) -> None:
    shell, other = pair
    shell("backup", "create", "early.backup")
    put(shell, "2")
    anchor(shell)
    sync(shell, other, served)
    put(shell, "3")
    anchor(shell)
    said = sync(shell, other, served).err
    assert "the node's log is kept here up to" in said
    home = restored(shell)
    refused = home("db", "put", "bank", "accounts/4", "{}", code=77)
    assert "behind-anchor" in refused.err
    assert "holdfast recover fetch" in refused.err
    home("recover", "fetch", code=64)  # it was paired with no node, so one has to be named
    with served(other) as url:
        met(home, url)
        before = home("feed", "list", "--json").lines
        (planned,) = home("recover", "fetch", "--dry-run", "--json").json
        assert (planned["state"], planned["dry_run"]) == ("consistent", True)
        assert home("feed", "list", "--json").lines == before
        (told,) = home("recover", "fetch", "--json").json
    assert (told["state"], told["missing"]) == ("consistent", [])
    assert told["statements"] > 0
    assert keys(home) == keys(shell) == ["1", "2", "3"]
    home("audit")
    home("db", "audit", "bank")
    put(home, "4")
    anchor(home)
    home("audit")
    sync(home, other, served)
    assert keys(other) == ["1", "2", "3", "4"]
    assert not list(Path(shell.directory).rglob("forks/*"))


def test_a_node_that_keeps_no_log_brings_the_feeds_alone(pair: tuple[Any, Any], served: Any) -> None:
    """Then nothing is kept, and what is missing is said; with --partial the entries are."""
    shell, other = pair
    shell("backup", "create", "early.backup")
    put(shell, "2")
    anchor(shell)
    with served(shell) as url:
        other("sync", url, "bank", "--pull")
    home = restored(shell)
    with served(other) as url:
        refused = home("recover", "fetch", "--node", url, code=77)
        assert "it keeps no more of the log than is here" in refused.err
        assert "holdfast recover succeed" in refused.err
        assert keys(home) == ["1"]
        ran = home("recover", "fetch", "--node", url, "--partial", "--json", code=77)
    assert ran.json[0]["state"] == "behind-anchor"
    assert keys(home) == ["1", "2"]


def test_a_restored_home_asks_for_its_own_heads_before_its_first_append(pair: tuple[Any, Any], served: Any) -> None:
    """Nothing was anchored since, so the chain shows nothing; it was restored twice, so a feed is missing whole."""
    shell, other = pair
    shell("backup", "create", "early.backup")
    once = restored(shell)
    put(once, "2")
    sync(once, other, served)
    shell("restore", "early.backup", "--home", "twice")
    twice = shell.at("twice")
    with served(other) as url:
        met(twice, url)
        ran = put(twice, "3")
        assert "1 entries of this home were brought back" in ran.err
        assert "brought back" not in put(twice, "4").err
    assert keys(twice) == ["1", "2", "3", "4"]
    said = sync(twice, other, served)
    assert "signed twice" not in said.err
    assert keys(other) == ["1", "2", "3", "4"]
    other("db", "audit", "bank")


def test_a_sync_before_the_first_append_brings_its_own_feeds_as_its_own(pair: tuple[Any, Any], served: Any) -> None:
    shell, other = pair
    shell("backup", "create", "early.backup")
    once = restored(shell)
    put(once, "2")
    sync(once, other, served)
    shell("restore", "early.backup", "--home", "twice")
    twice = shell.at("twice")
    with served(other) as url:
        twice("sync", url, "bank")
    put(twice, "3")
    assert keys(twice) == ["1", "2", "3"]
    sync(twice, other, served)
    assert keys(other) == ["1", "2", "3"]


def test_nodes_that_are_away_are_named_and_nothing_waits_for_them(pair: tuple[Any, Any]) -> None:
    shell, _ = pair
    shell("backup", "create", "early.backup")
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        home = restored(shell, f"http://127.0.0.1:{silent.getsockname()[1]}")
        ran = put(home, "2")
    assert "could not be asked" in ran.err
    assert keys(home) == ["1", "2"]
    assert "no node could be asked" in home("recover", "fetch", code=75).err


def test_the_node_says_that_the_store_was_put_back(pair: tuple[Any, Any], served: Any) -> None:
    """Within the blind window of the chain too: the other node remembers the log."""
    shell, other = pair
    shell("backup", "create", "early.backup")
    put(shell, "2")
    shell("checkpoint", "create")
    sync(shell, other, served)
    home = restored(shell)
    with served(other) as url:
        assert "this store was put back" in home("sync", url, "bank").err
        home("recover", "fetch", "--node", url)
        assert "put back" not in home("sync", url, "bank").err


def test_another_history_of_a_log_is_not_kept_in_its_place(pair: tuple[Any, Any], served: Any) -> None:
    """The node has seen a checkpoint that the restored home does not know, and hands over one that contradicts it."""
    shell, other = pair
    shell("backup", "create", "early.backup")
    put(shell, "2")
    shell("checkpoint", "create")
    sync(shell, other, served)
    home = restored(shell)
    put(home, "3")
    put(home, "4")
    home("checkpoint", "create")
    home("checkpoint", "create", "--restate")
    with served(other) as url:
        said = home("sync", url, "bank").err
    assert "contradicts the one" in said
    logs = KeptLogs(Home(other.path("other")).logs)
    (kept,) = logs.known()
    assert logs.contradiction(kept.log, kept.identity) is not None  # both: they prove it
    assert "contradicts" in sync(home, other, served).err
    assert logs.known() == [kept]


def test_a_node_that_lies_changes_nothing_and_an_honest_one_is_asked_next(
    pair: tuple[Any, Any], served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It alters a byte of every feed that it gives, anywhere; then it answers as it should."""
    from api.routes import logs

    shell, other = pair
    shell("backup", "create", "early.backup")
    put(shell, "2")
    anchor(shell)
    sync(shell, other, served)
    home = restored(shell)
    before = home("feed", "list", "--json").lines
    write, lying = logs.write_feed, True

    def lie(tx: Any, key: Any, out: Any) -> int:
        honest = io.BytesIO()
        length = write(tx, key, honest)
        data = bytearray(honest.getvalue())
        if lying:
            data[2 * len(data) // 3] ^= 1
        out.write(data)
        return length

    monkeypatch.setattr(logs, "write_feed", lie)
    with served(other) as url:
        refused = home("recover", "fetch", "--node", url, code=None)
        assert refused.code in (1, 77)
        assert "does not hold" in refused.err
        assert home("feed", "list", "--json").lines == before
        lying = False
        home("recover", "fetch", "--node", "http://127.0.0.1:9", "--node", url)
    assert keys(home) == ["1", "2"]


def altered(write: Any) -> Any:
    """A node that alters every feed that it gives."""

    def lie(tx: Any, key: Any, out: Any) -> int:
        honest = io.BytesIO()
        length = write(tx, key, honest)
        data = bytearray(honest.getvalue())
        data[-60] ^= 1
        out.write(data)
        return length

    return lie


def test_who_shows_a_signed_head_and_gives_no_entries_stops_the_first_append(
    pair: tuple[Any, Any], served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be a fork; who only claims to have more stops nobody."""
    from api import peer_recovery
    from api.routes import logs

    shell, other = pair
    shell("backup", "create", "early.backup")
    put(restored(shell), "2")
    sync(shell.at("restored"), other, served)
    shell("restore", "early.backup", "--home", "twice")
    twice = shell.at("twice")
    monkeypatch.setattr(logs, "write_feed", altered(logs.write_feed))
    with served(other) as url:
        met(twice, url)
        refused = twice("db", "put", "bank", "accounts/3", "{}", code=77)
        assert "are not here, and they cannot be had" in refused.err
        assert f"recover fetch --node {url}" in refused.err
        with monkeypatch.context() as unsigned:
            unsigned.setattr(peer_recovery, "_is_proven", lambda *_: False)
            assert "cannot show them" in put(twice, "3").err


def test_a_node_that_gives_another_feed_than_it_was_asked_for(
    pair: tuple[Any, Any], served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from api.routes import logs

    shell, other = pair
    other("db", "create", "mine")
    shell("backup", "create", "early.backup")
    put(shell, "2")
    anchor(shell)
    sync(shell, other, served)
    home = restored(shell)
    write = logs.write_feed
    swapped = other("feed", "list", "--json").json[-1]["key"]

    def other_feed(tx: Any, _key: Any, out: Any) -> Any:
        return write(tx, FeedKey(parse_zbase32(swapped)), out)

    monkeypatch.setattr(logs, "write_feed", other_feed)
    with served(other) as url:
        refused = home("recover", "fetch", "--node", url, code=None)
    assert refused.code in (1, 75)
    assert "another feed than" in refused.err
    assert keys(home) == ["1"]


def test_feeds_of_no_database_are_nowhere_else_and_named(pair: tuple[Any, Any], served: Any) -> None:
    shell, other = pair
    shell("feed", "create", "notes", "--device", "main")
    shell("backup", "create", "early.backup")
    shell("feed", "append", "notes", "notes.jsonl")
    put(shell, "2")
    anchor(shell)
    sync(shell, other, served)
    home = restored(shell)
    with served(other) as url:
        refused = home("recover", "fetch", "--node", url, code=77)
        assert "0 of 2" in refused.err
        assert "--partial keeps what there is" in refused.err
        ran = home("recover", "fetch", "--node", url, "--partial", "--json")
    assert (ran.json[0]["state"], len(ran.json[0]["missing"])) == ("consistent", 1)
    put(home, "3")
    assert keys(home) == ["1", "2", "3"]


# --- a backup of a node ---


def test_a_backup_of_a_node_is_verified_and_can_be_restored(pair: tuple[Any, Any], served: Any) -> None:
    shell, other = pair
    with served(shell) as url:
        (told,) = shell("backup", "create", "node.backup", "--node", url, "--keystore", "--json").json
        assert (told["verdict"], told["purpose"]) == ("PASSED", "backup")
        assert "keystore.hfk" in told["files"]
        assert "exists" in shell("backup", "create", "node.backup", "--node", url, code=77).err
        bare = shell("backup", "create", "bare.backup", "--node", url, "--json")
        assert "keystore.hfk" not in bare.json[0]["files"]
        other("backup", "create", "stolen.backup", "--node", url, code=77)  # a member is not the owner
    assert not shell.path("stolen.backup").exists()
    shell("restore", "node.backup", "--home", "again")
    put(shell.at("again"), "2")


def test_the_nodes_that_a_home_was_paired_with_are_in_its_backup(shell: Any) -> None:
    from api.peers import load_peers

    met(shell, "http://127.0.0.1:1")
    shell("backup", "create", "with.backup")
    shell("restore", "with.backup", "--home", "again")
    assert [one.url for one in load_peers(Home(shell.path("again")))] == ["http://127.0.0.1:1"]


def test_a_log_alone_is_no_archive_to_audit(pair: tuple[Any, Any], served: Any) -> None:
    shell, other = pair
    shell("checkpoint", "create")
    sync(shell, other, served)
    (kept,) = KeptLogs(Home(other.path("other")).logs).known()
    assert "without the feeds" in shell("audit", kept.path, "--policy", "young/policy.toml", code=77).err
    assert shell("backup", "verify", kept.path, "--json").json[0]["purpose"] == "log"
    shell("restore", kept.path, "--home", "no", code=77)

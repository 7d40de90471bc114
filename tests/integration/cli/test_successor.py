"""``recover succeed`` when more is lost than the end of the log: a key, the chain, or the keystore itself."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import pytest

from identity.keystore import ONLY_FOR_TESTING, KeyRing, open_keystore, replace_keystore

pytestmark = pytest.mark.integration

PASSPHRASE = "correct horse battery staple"


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    from identity import keystore

    monkeypatch.setattr(keystore.create_keystore, "__kwdefaults__", {"profile": ONLY_FOR_TESTING})


@pytest.fixture
def lost(shell: Any) -> Any:
    """A home of a backup that is older than the newest anchor; nobody has what came after it."""
    shell("backup", "create", "older.backup")
    shell("feed", "append", "ledger", "notes.jsonl")
    shell("checkpoint", "create")
    shell("anchor", "run")
    shutil.rmtree(shell.path("home"))
    shell("restore", "older.backup", "--home", "restored")
    return shell.at("restored")


def change_keys(shell: Any, **changes: Any) -> KeyRing:
    file = shell.path("restored/keystore.hfk")
    ring = open_keystore(file, PASSPHRASE)
    replace_keystore(file, PASSPHRASE, replace(ring, **changes), expected=ring)
    return ring


def go_on(shell: Any, feed: str = "ledger") -> dict[str, Any]:
    """Write, commit and anchor in the successor, as on any day; returns what the audit says."""
    shell("feed", "append", feed, "notes.jsonl")
    shell("checkpoint", "create")
    shell("anchor", "run")
    found = shell("audit", "--log", "--json", code=None).json
    return dict(found[-1])


def test_the_anchor_key_is_lost(lost: Any) -> None:
    change_keys(lost, anchor_key=None)
    ran = lost("recover", "succeed", "--json")
    assert "the log cannot be closed on chain" in ran.err
    assert ran.json[0]["close"] is False
    found = go_on(lost)
    assert (found["state"], found["predecessor"]) == ("consistent", "not-closed")


def test_another_key_that_has_coins(lost: Any) -> None:
    """Only when the one is lost by which the log can be closed."""
    key = bytes(31) + b"\x07"
    lost.write("coins.key", key.hex() + "\n")
    before = lost.kept()
    option = ("--anchor-key-file", "coins.key")
    assert "closes it with its own anchor key" in lost("recover", "succeed", *option, code=77).err
    assert lost.kept() == before
    change_keys(lost, anchor_key=None)
    lost("recover", "succeed", *option)
    assert open_keystore(lost.path("restored/keystore.hfk"), PASSPHRASE).anchor_key == key
    assert go_on(lost)["state"] == "consistent"


def test_the_chain_is_gone(lost: Any) -> None:
    shutil.rmtree(lost.path("dev"))
    assert lost("feed", "append", "ledger", "notes.jsonl", code=None).code in (75, 77)
    lost("recover", "succeed", code=None)
    ran = lost("recover", "succeed", "--chain-is-gone", "--json")
    assert ran.json[0]["close"] is False
    assert go_on(lost)["state"] == "consistent"


def test_the_keystore_is_lost(shell: Any) -> None:
    """With it go the keys of log and anchors: the phrase gives the root, and the root a successor."""
    shell.path("home/keystore.hfk").unlink()
    ran = shell("identity", "recover", "--phrase-file", "phrase.txt", "--device", "desk", "--json")
    assert "the log's key is lost" in shell("recover", "succeed").err
    (line,) = [line for line in ran.err.splitlines() if "feed create ledger" in line]
    new = shell(*line[line.index("feed create ledger") : line.rindex('"')].split()).field("key")
    found = go_on(shell, new)
    assert (found["state"], found["predecessor"]) == ("consistent", "not-closed")
    for row in shell("feed", "list", "--json").json:
        assert row["retired"] == (row["key"] != new)


def test_a_keystore_that_cannot_sign_for_the_root(lost: Any) -> None:
    change_keys(lost, root_seeds=())
    before = lost.kept()
    assert "bound by the root" in lost("recover", "succeed", code=77).err
    assert lost.kept() == before

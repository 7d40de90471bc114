"""Backups, restored homes and an outsider's archive, by command line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

FILES = {"holdfast.toml", "policy.toml", "headers.jsonl", "keystore.hfk"}


def backed_up(shell: Any, name: str = "home.backup", *options: str) -> Path:
    shell("backup", "create", name, *options)
    return shell.path(name)


def test_a_backup_says_what_is_in_it_and_what_is_not(shell: Any) -> None:
    ran = shell("backup", "create", "home.backup", "--json")
    (answer,) = ran.json
    file = shell.path("home.backup")
    assert (answer["kind"], answer["feeds"], answer["entries"]) == ("backup", 2, 44)
    assert (set(answer["files"]), answer["bytes"]) == (FILES, file.stat().st_size)
    assert "passphrase, the recovery phrase, the chain" in ran.err
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_backup_changes_nothing_in_the_home(shell: Any) -> None:
    before = shell.kept()
    backed_up(shell)
    assert shell.kept() == before


def test_a_backup_verifies(shell: Any) -> None:
    backed_up(shell)
    (answer,) = shell("backup", "verify", "home.backup", "--json").json
    assert (answer["verdict"], answer["purpose"], answer["entries"], answer["feeds"]) == ("PASSED", "backup", 44, 2)
    assert answer["log"] == shell("status", "--json").json[0]["log"].split("/")[1]


def test_a_backup_comes_through_a_pipe(shell: Any) -> None:
    data = backed_up(shell).read_bytes()
    shell("backup", "verify", "-", stdin=data)
    shell("restore", "-", "--home", "restored", stdin=data)
    shell.at("restored")("audit")


def test_a_restored_home_is_what_was_backed_up(shell: Any) -> None:
    backed_up(shell)
    (answer,) = shell("restore", "home.backup", "--home", "restored", "--json").json
    assert (answer["home"], answer["entries"], answer["retired"]) == (str(shell.path("restored")), 44, 2)
    restored = shell.at("restored")
    kept = {name: data for name, data in shell.kept().items() if name in FILES}
    assert {name: data for name, data in restored.kept().items() if name in FILES} == kept
    for command in (
        ("feed", "read", "ledger"),
        ("feed", "heads", "ledger"),
        ("feed", "heads", "notes"),
        ("checkpoint", "list"),
        ("anchor", "status"),
        ("identity", "events"),
        ("evidence", "export", "ledger", "41", "-o", "-"),
        ("checkpoint", "export", "-o", "-"),
    ):
        assert restored(*command).stdout == shell(*command).stdout, command
    assert restored("status", "--json").json[0]["state"] == "consistent"
    restored("audit")
    restored("backup", "create", "again.backup")
    shell("backup", "verify", "again.backup")


def test_a_restored_feed_is_not_signed_again(shell: Any) -> None:
    """Entries may have been signed after the backup was made: no index of a feed may be signed a second time."""
    backed_up(shell)
    heads = shell("feed", "heads", "ledger").lines
    shell("restore", "home.backup", "--home", "restored")
    restored = shell.at("restored")
    restored("feed", "append", "ledger", "notes.jsonl")
    key = {row["name"]: row["key"] for row in shell("feed", "list", "--json").json}["ledger"]
    assert restored("feed", "heads", key).lines == heads


def test_no_keystore(shell: Any) -> None:
    ran = shell("backup", "create", "home.backup", "--no-keystore", "--json")
    assert set(ran.json[0]["files"]) == FILES - {"keystore.hfk"}
    assert "the keystore is not in it" in ran.err
    assert b"holdfast/v1 keystore" not in shell.path("home.backup").read_bytes()
    ran = shell("restore", "home.backup", "--home", "restored")
    assert "has no keystore" in ran.err
    assert not (shell.path("restored") / "keystore.hfk").exists()
    shell.at("restored")("audit")


def test_an_older_backup_is_noticed_by_its_chain(shell: Any) -> None:
    """Row B1, by way of a backup: what is older than the newest anchor is read-only."""
    backed_up(shell)
    shell("feed", "append", "ledger", "notes.jsonl")
    shell("checkpoint", "create")
    shell("anchor", "run")
    shell("restore", "home.backup", "--home", "restored")
    restored = shell.at("restored")
    (found,) = restored("status", "--json", code=None).json
    assert found["state"] == "behind-anchor"
    assert "behind-anchor" in restored("feed", "append", "ledger", "notes.jsonl", code=77).err
    assert restored("audit", code=1)


# --- nothing is overwritten, nothing is half there


@pytest.mark.parametrize("place", ["file", "directory", "link", "dangling link"])
def test_a_backup_replaces_nothing(shell: Any, place: str) -> None:
    target = shell.path("home.backup")
    elsewhere = shell.write("elsewhere", "kept")
    match place:
        case "file":
            target.write_text("kept")
        case "directory":
            target.mkdir()
        case "link":
            target.symlink_to(elsewhere)
        case _:
            target.symlink_to(shell.path("nowhere"))
    before = sorted(shell.directory.iterdir())
    ran = shell("backup", "create", "home.backup", code=77)
    assert "exists" in ran.err
    assert sorted(shell.directory.iterdir()) == before
    assert elsewhere.read_text() == "kept"


def test_a_backup_into_a_folder_that_is_not_there(shell: Any) -> None:
    assert "cannot write" in shell("backup", "create", "nowhere/home.backup", code=74).err


def test_a_backup_of_no_home(shell: Any) -> None:
    shell.at("nowhere")("backup", "create", "home.backup", code=78)
    assert not shell.path("home.backup").exists()


@pytest.mark.parametrize("place", ["home", "directory with a file", "file", "link", "dangling link"])
def test_a_restore_into_a_place_that_is_taken(shell: Any, place: str) -> None:
    """Row E3: not into another home, and through no symbolic link."""
    backed_up(shell)
    target = shell.path("restored")
    empty = shell.path("empty")
    empty.mkdir()
    match place:
        case "home":
            shutil.copytree(shell.path("home"), target)
        case "directory with a file":
            target.mkdir()
            (target / "mine.txt").write_text("mine")
        case "file":
            target.write_text("mine")
        case "link":
            target.symlink_to(empty)
        case _:
            target.symlink_to(shell.path("nowhere"))
    before = {path: path.lstat().st_mtime_ns for path in shell.directory.rglob("*")}
    shell("restore", "home.backup", "--home", "restored", code=77)
    assert {path: path.lstat().st_mtime_ns for path in shell.directory.rglob("*")} == before


def test_a_restore_into_an_empty_directory(shell: Any) -> None:
    backed_up(shell)
    shell.path("restored").mkdir()
    shell("restore", "home.backup", "--home", "restored")
    shell.at("restored")("audit")


def test_a_restore_names_its_home(shell: Any) -> None:
    """HOLDFAST_HOME is the home that one has: a restore is never meant for it by accident."""
    backed_up(shell)
    assert "--home DIR" in shell("restore", "home.backup", code=64).err


def test_a_cut_backup(shell: Any) -> None:
    file = backed_up(shell)
    data = file.read_bytes()
    for size in (0, 10, 100, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:size])
        assert "ends before" in shell("backup", "verify", file, code=77).err
        shell("restore", file, "--home", "restored", code=77)
        assert not shell.path("restored").exists()
    assert list(shell.directory.glob(".*")) == []


def test_a_damaged_backup(shell: Any) -> None:
    file = backed_up(shell)
    data = file.read_bytes()
    file.write_bytes(data.replace(b"dtextcone", b"dtextctwo"))
    assert file.read_bytes() != data
    shell("backup", "verify", file, code=1)
    shell("restore", file, "--home", "restored", code=1)
    assert not shell.path("restored").exists()


@pytest.mark.parametrize("name", ["complete.log", "ledger.feed", "evidence.json", "payments.csv"])
def test_what_is_no_backup(shell: Any, name: str) -> None:
    assert "does not begin with the line 'holdfast/v1 archive'" in shell("restore", name, "--home", "x", code=77).err


def test_no_such_backup(shell: Any) -> None:
    shell("restore", "nowhere", "--home", "restored", code=74)
    shell("backup", "verify", "nowhere", code=74)


# --- for an outsider


def test_an_export_holds_no_local_matters(shell: Any) -> None:
    (answer,) = shell("audit", "--export", "bank.archive", "--json").json
    assert (answer["kind"], answer["file"]) == ("audit-export", "bank.archive")
    (found,) = shell("backup", "verify", "bank.archive", "--json").json
    assert (found["purpose"], found["files"], found["entries"], found["feeds"]) == ("export", [], 44, 2)
    assert "no backup of a home" in shell("restore", "bank.archive", "--home", "x", code=77).err
    assert not shell.path("x").exists()


def test_an_export_to_stdout_is_the_file(shell: Any) -> None:
    data = shell("audit", "--export", "-", "--quiet").stdout
    shell("backup", "verify", "-", stdin=data)


def test_an_export_without_a_checkpoint(shell: Any) -> None:
    shell.at("young")("audit", "--export", "young.archive", code=2)
    assert not shell.path("young.archive").exists()


def test_a_young_home_can_be_backed_up(shell: Any) -> None:
    young = shell.at("young")
    young("backup", "create", "young.backup")
    shell("restore", "young.backup", "--home", "restored")
    shell.at("restored")("checkpoint", "create")


@pytest.mark.parametrize("option", [["--log"], ["--policy", "x"], ["--rpc", "http://x"], ["complete.log"]])
def test_an_export_audits_nothing(shell: Any, option: list[str]) -> None:
    assert "audits nothing" in shell("audit", "--export", "x", *option, code=64).err

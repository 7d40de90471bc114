"""What goes for good, by command line: erasure with its backups, legal holds, the trash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SECRET = "12 St James's Square, London"
SCHEMA = {"type": "object", "properties": {"name": {"type": "text"}, "address": {"type": "text", "sealed": True}}}


@pytest.fixture
def bank(shell: Any) -> Any:
    """A home with a database and a document with a sealed value."""
    shell("db", "create", "bank", "--device", "laptop")
    shell("db", "schema", "bank", "people", "--set", "-", stdin=json.dumps(SCHEMA))
    shell("db", "put", "bank", "people/ada", json.dumps({"name": "Ada", "address": SECRET}))
    return shell


def fields(shell: Any, name: str = "people/ada") -> dict[str, Any]:
    (answer,) = shell("db", "get", "bank", name, "--json").json
    found: dict[str, Any] = answer["fields"]
    return found


def files_with(directory: Path, data: bytes) -> list[str]:
    return [file.name for file in directory.rglob("*") if file.is_file() and data in file.read_bytes()]


def erase(shell: Any, *options: str, code: int = 0) -> Any:
    return shell("db", "erase", "bank", "people/ada", "--confirm", "people/ada", *options, code=code)


def test_sealed_values_are_read_where_the_key_is(bank: Any) -> None:
    assert fields(bank) == {"name": "Ada", "address": SECRET}
    assert files_with(bank.path("home"), SECRET.encode()) == []


def test_erasure_needs_its_word(bank: Any) -> None:
    assert "this can't be undone" in bank("db", "erase", "bank", "people/ada", code=64).err
    ran = bank("db", "erase", "bank", "people/ada", "--confirm", "people/eve", code=64)
    assert "--confirm says 'people/eve'" in ran.err
    (tried,) = bank("db", "erase", "bank", "people/ada", "--dry-run", "--json").json
    assert (tried["keys"], tried["written"], tried["dry_run"]) == (1, False, True)
    assert fields(bank)["address"] == SECRET


def test_what_is_erased_is_gone_and_everything_still_holds(bank: Any) -> None:
    (done,) = erase(bank, "--reason", "request", "--json").json
    assert (done["keys"], done["unreachable"], done["written"]) == (1, [], True)
    ran = bank("db", "get", "bank", "people/ada")
    assert "/address\tsealed\t" in ran.lines
    assert "no key is here that opens it: /address" in ran.err
    bank("feed", "audit", done["feed"])
    assert bank("db", "audit", "bank", "--json").json[0]["faults"] == []
    ran = bank("db", "put", "bank", "people/ada", json.dumps({"name": "Ada", "address": "elsewhere"}))
    assert "erased before, and sealed again under a new key: people/ada" in ran.err
    assert fields(bank)["address"] == "elsewhere"


def test_an_import_says_what_it_brings_back(bank: Any) -> None:
    bank("db", "put", "bank", "people/eve", json.dumps({"name": "Eve", "address": "here"}))
    erase(bank)
    bank.path("people.csv").write_text(f'id,name,address\nada,Ada,"{SECRET}"\neve,Eve,there\n')
    ran = bank("db", "import", "bank", "people", "people.csv", "--key", "id")
    assert "erased before, and sealed again under a new key: people/ada\n" in ran.err
    assert fields(bank)["address"] == SECRET


def test_there_must_be_something_to_erase(bank: Any) -> None:
    bank("db", "put", "bank", "notes/1", '{"a": "b"}')
    ran = bank("db", "erase", "bank", "notes/1", "--confirm", "notes/1", code=77)
    assert "has no sealed values" in ran.err
    assert "no such document" in bank("db", "erase", "bank", "notes/9", "--confirm", "notes/9", code=77).err


def test_a_backup_has_the_keys_beside_it_and_erasure_reaches_them(bank: Any) -> None:
    (made,) = bank("backup", "create", "home.backup", "--json").json
    copy = Path(made["document_keys"])
    assert copy == Path("home.backup.keys")
    assert bank.path("home.backup.keys").stat().st_mode & 0o777 == 0o600
    bank("restore", "home.backup", "--home", "restored")
    assert fields(bank.at("restored"))["address"] == SECRET
    erase(bank)
    bank("restore", "home.backup", "--home", "later")
    assert "$sealed" in fields(bank.at("later"))["address"]


def test_a_backup_without_the_keys(bank: Any) -> None:
    ran = bank("backup", "create", "home.backup", "--no-document-keys", "--json")
    assert ran.json[0]["document_keys"] is None
    assert "keys of sealed values are not copied" in ran.err
    ran = bank("restore", "home.backup", "--home", "restored")
    assert "no home.backup.keys lies beside the backup" in ran.err
    assert "$sealed" in fields(bank.at("restored"))["address"]


def test_a_copy_that_cannot_be_reached_is_named_until_it_is_forgotten(bank: Any) -> None:
    bank("backup", "create", "home.backup")
    bank.path("home.backup.keys").rename(bank.path("carried away"))
    ran = erase(bank, code=75)
    assert "could not be reached" in ran.err
    bank("backup", "forget", "home.backup")
    erase(bank)
    assert "no keys were copied" in bank("backup", "forget", "home.backup", code=77).err


def test_a_copy_that_is_there_is_not_forgotten(bank: Any) -> None:
    bank("backup", "create", "home.backup")
    assert "destroy it first" in bank("backup", "forget", "home.backup", code=77).err


def test_what_is_held_is_not_erased(bank: Any) -> None:
    bank("db", "hold", "bank", "case-17", "people/ada", "--reason", "court order")
    assert bank("db", "holds", "bank").lines == ["case-17\tpeople/ada\tcourt order"]
    assert "is held: case-17: court order" in erase(bank, code=77).err
    assert "there is a hold 'case-17' already" in bank("db", "hold", "bank", "case-17", "people", code=77).err
    bank("db", "release", "bank", "case-17")
    assert bank("db", "holds", "bank").lines == []
    assert "there is no hold" in bank("db", "release", "bank", "case-17", code=77).err
    erase(bank)


def test_a_hold_on_a_collection(bank: Any) -> None:
    bank("db", "hold", "bank", "audit", "people")
    assert bank("db", "holds", "bank", "--json").json[0]["covers"] == "people"
    assert "is held" in erase(bank, code=77).err


def test_the_trash_keeps_what_was_deleted(bank: Any) -> None:
    bank("db", "delete", "bank", "people/ada")
    (row,) = bank("db", "trash", "bank", "--json").json
    assert (row["document"], row["kept"]) == ("people/ada", "deleted 0 days ago")
    ran = bank("db", "purge", "bank", "people/ada", "--confirm", "bank", code=77)
    assert "can't be purged yet: deleted 0 days ago" in ran.err
    assert "30 days after its deletion" in ran.err
    ran = bank("db", "purge", "bank", "--dry-run")
    assert (ran.lines, "can be purged yet" in ran.err) == ([], True)
    assert "this can't be undone" in bank("db", "purge", "bank", code=64).err
    assert "is not in the trash" in bank("db", "purge", "bank", "people/eve", "--confirm", "bank", code=77).err
    bank("db", "undelete", "bank", "people/ada")
    assert bank("db", "trash", "bank").lines == []


def test_what_was_long_deleted_is_purged(bank: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bank("db", "delete", "bank", "people/ada")
    monkeypatch.setattr("sync.retention.RETENTION_MS", 0)
    monkeypatch.setattr("sync.retention.trash.__defaults__", (0,))
    monkeypatch.setattr("sync.retention.purge.__defaults__", (0,))
    assert bank("db", "purge", "bank", "--dry-run").lines == ["people/ada\tyes"]
    assert bank("db", "purge", "bank", "--confirm", "bank").lines == ["people/ada\tno"]
    assert "was purged" in bank("db", "get", "bank", "people/ada", code=77).err
    assert "was purged" in bank("db", "put", "bank", "people/ada", "{}", code=77).err
    assert bank("db", "trash", "bank").lines == []


def test_erasing_again_says_that_no_key_was_left(bank: Any) -> None:
    assert "no key of people/ada" not in erase(bank).err
    assert "no key of people/ada was here any more" in erase(bank).err

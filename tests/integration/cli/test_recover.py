"""The keystore is gone, or its passphrase is: what the phrase brings back, and which phrase does not."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from identity.errors import StorageError
from identity.keystore import ONLY_FOR_TESTING, KeyRing, create_keystore, open_keystore

PASSPHRASE = "correct horse battery staple"


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    from identity import keystore

    monkeypatch.setattr(keystore.create_keystore, "__kwdefaults__", {"profile": ONLY_FOR_TESTING})


@pytest.fixture
def forgotten(shell: Any) -> Any:
    """Nobody knows the passphrase of the home's keystore; a new one is at hand."""
    shell.write("new-pass.txt", "another horse entirely\n")
    return shell.at("home", HOLDFAST_PASSPHRASE_FILE=str(shell.path("new-pass.txt")))


def keys(shell: Any) -> KeyRing:
    return open_keystore(shell.path("home/keystore.hfk"), "another horse entirely")


def revoked(shell: Any) -> dict[str, Any]:
    return {one["name"]: (one["revoked"], one["reason"]) for one in shell("identity", "devices", "--json").json}


def recover(shell: Any, *arguments: str, code: int = 0) -> Any:
    return shell("identity", "recover", "--phrase-file", "phrase.txt", *arguments, code=code)


def test_a_forgotten_passphrase(forgotten: Any) -> None:
    """The hint leads here; afterwards the store is written on, and what it held before is vouched for."""
    assert "holdfast identity recover" in forgotten("feed", "append", "notes", "notes.jsonl", code=77).err
    old = forgotten.path("home/keystore.hfk").read_bytes()
    ran = recover(forgotten, "--device", "desk", "--json")
    (answer,) = ran.json
    assert (answer["generation"], answer["device"], answer["revoked"]) == (1, "desk", ["laptop", "phone"])
    assert sorted(answer["vouched"].values()) == [2, 42]
    assert forgotten.path("home/keystore.hfk.lost-1").read_bytes() == old, "set aside, not deleted"
    assert revoked(forgotten) == {"laptop": (5, "lost"), "phone": (6, "lost"), "desk": (None, None)}
    ring = keys(forgotten)
    assert (ring.generation, list(ring.devices), ring.log_seed, ring.anchor_key) == (1, ["desk"], None, None)
    assert "is revoked" in forgotten("feed", "append", "notes", "notes.jsonl", code=77).err
    (line,) = [line for line in ran.err.splitlines() if "feed create notes" in line]
    command = line[line.index("feed create notes") : line.rindex('"')].split()
    new = forgotten(*command).field("key")
    assert "is revoked" in forgotten("feed", "append", command[-1], "notes.jsonl", code=77).err
    forgotten("feed", "append", new, "notes.jsonl")
    assert "recover succeed" in ran.err
    refused = forgotten("checkpoint", "create", code=77).err
    assert "key of the checkpoint log" in refused
    assert "holdfast recover succeed" in refused
    forgotten("identity", "rotate-root", "--phrase-file", "phrase.txt")
    forgotten("identity", "add-device", "tablet")
    forgotten("feed", "audit", new)


@pytest.mark.parametrize("damage", ["gone", "cut", "nonsense"])
def test_a_lost_or_damaged_keystore(forgotten: Any, damage: str) -> None:
    path = forgotten.path("home/keystore.hfk")
    data = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(data[:100] if damage == "cut" else b"x" * 300)
    recover(forgotten)
    assert list(keys(forgotten).devices) == ["recovered"]
    assert path.with_name("keystore.hfk.lost-1").exists() == (damage != "gone")


def test_a_dry_run_does_nothing(forgotten: Any) -> None:
    before = forgotten.kept()
    (answer,) = recover(forgotten, "--dry-run", "--json").json
    assert (answer["dry_run"], answer["revoked"], answer["event"]) == (True, ["laptop", "phone"], 7)
    assert answer["set_aside"].endswith("keystore.hfk.lost-1")
    assert forgotten.kept() == before


def test_what_is_kept_and_why_the_rest_is_revoked(forgotten: Any) -> None:
    recover(forgotten, "--keep", "phone", "--reason", "stolen", "--since", "2026-11-20T08:00:00Z")
    assert revoked(forgotten) == {"laptop": (5, "stolen"), "phone": (None, None), "recovered": (None, None)}


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--keep", "tablet"], 64, "no device is called 'tablet'"),
        (["--reason", "bored"], 64, "is no reason"),
        (["--reason", "retired", "--since", "2026-11-20T08:00:00Z"], 77, "retired"),
        (["--keep", "phone", "--device", "phone"], 77, "device 'phone' already"),
        (["--device", "a\nb"], 64, "not allowed"),
        (["--since", "yesterday"], 64, "not a time"),
        (["--keystore", "x.hfk"], 64, "are for --events"),
        (["--events", "home.events"], 64, "takes --keystore and --output"),
    ],
)
def test_what_is_refused_changes_nothing(forgotten: Any, arguments: list[str], code: int, says: str) -> None:
    before = forgotten.kept()
    assert says in recover(forgotten, *arguments, code=code).err
    assert forgotten.kept() == before


def test_a_keystore_that_is_not_lost(shell: Any) -> None:
    before = shell.kept()
    assert "its keys are not lost" in recover(shell, code=77).err
    assert shell.kept() == before


# --- phrases ---


def test_phrases_that_are_wrong(forgotten: Any) -> None:
    before = forgotten.kept()
    words = forgotten.path("phrase.txt").read_text().split()
    typed = [*words[:6], words[6] + "q", *words[7:]]
    swapped = next([*words[:n], words[n + 1], words[n], *words[n + 2 :]] for n in range(23) if words[n] != words[n + 1])
    for name, text, says in (
        ("typed", " ".join(typed), "word 7 is not in the list"),
        ("swapped", " ".join(swapped), "the checksum does not fit"),
        ("other", forgotten.path("other-phrase.txt").read_text(), "it is the phrase of another one"),
        ("short", " ".join(words[:23]), "23 words, must be 24"),
    ):
        forgotten.write(f"{name}.txt", text)
        refused = forgotten("identity", "recover", "--phrase-file", f"{name}.txt", code=None)
        if name == "swapped" and refused.code == 77 and "another one" in refused.err:
            continue  # one swap in 256 fits the checksum
        assert refused.code == 77
        assert says in refused.err
        pairs = [f"{one} {next_}" for one, next_ in pairwise(words)]
        assert not [pair for pair in pairs if pair in refused.err], "nothing of a phrase is shown but the nearest word"
    hint = forgotten("identity", "recover", "--phrase-file", "typed.txt", code=77).err
    assert f"the nearest word in the list for word 7 is '{words[6]}'" in hint
    assert words[6] + "q" not in hint
    assert forgotten.kept() == before


def test_a_phrase_that_another_has_replaced(shell: Any) -> None:
    """A phrase that somebody may have seen is given up: it rotates once more, to a key of a new one."""
    options = ["--phrase-file", "phrase.txt", "--new-phrase-file", "new-phrase.txt"]
    assert shell("identity", "rotate-root", *options).field("generation") == "1"
    before = shell.kept()
    for command in ("rotate-root", "recover"):
        refused = shell("identity", command, "--phrase-file", "phrase.txt", code=77).err
        assert "it gave that of generation 1, and another phrase has taken its place" in refused
        assert "use the newer phrase" in refused
    assert shell.kept() == before
    assert shell("identity", "rotate-root", "--phrase-file", "new-phrase.txt").field("generation") == "2"


def test_a_new_phrase_is_not_left_by_a_rotation_that_is_refused(shell: Any) -> None:
    options = ["--phrase-file", "other-phrase.txt", "--new-phrase-file", "new-phrase.txt"]
    shell("identity", "rotate-root", *options, code=77)
    assert not shell.path("new-phrase.txt").exists()
    shell.write("taken.txt", "x")
    options = ["--phrase-file", "phrase.txt", "--new-phrase-file", "taken.txt"]
    assert "overwrites nothing" in shell("identity", "rotate-root", *options, code=77).err


def test_a_phrase_file_that_a_killed_run_has_left(shell: Any) -> None:
    shell.write("left.txt", shell.path("phrase.txt").read_bytes())
    refused = shell.at("new")("init", "--no-chain", "--phrase-file", "left.txt", code=77).err
    assert "left.txt exists" in refused
    assert "then delete the file" in refused


# --- stopped midway ---


def test_stopped_after_the_keystore_was_made(forgotten: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new keys are there and no event names them: the next run uses them."""

    def make_and_stop(*arguments: Any, **options: Any) -> None:
        create_keystore(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr("identity.keystore.create_keystore", make_and_stop)
        recover(forgotten, code=130)
    assert forgotten("identity", "show").field("root_generation") == "0"
    begun = keys(forgotten)
    recover(forgotten)
    assert keys(forgotten) == begun
    assert forgotten("identity", "show").field("root_generation") == "1"
    assert not forgotten.path("home/keystore.hfk.lost-2").exists()


def test_a_keystore_that_cannot_be_made_puts_the_old_one_back(forgotten: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageError("no space left on device")

    before = forgotten.kept()
    monkeypatch.setattr("identity.keystore.create_keystore", full)
    recover(forgotten, code=74)
    assert forgotten.kept() == before


# --- no store ---


def test_from_an_export_alone(forgotten: Any) -> None:
    options = ["--events", "home.events", "--keystore", "new.hfk", "-o", "new.events"]
    before = forgotten.kept()
    (planned,) = recover(forgotten, *options, "--dry-run", "--json").json
    assert not forgotten.path("new.hfk").exists()
    ran = recover(forgotten, *options, "--json")
    (answer,) = ran.json
    assert (answer["generation"], answer["revoked"], planned["event"]) == (1, [], answer["event"])
    assert forgotten.kept() == before
    assert ran.err.count("revoke-device did:key:") == 2, "nothing is revoked without the feeds to vouch for"
    forgotten("identity", "import", "new.events")
    forgotten.path("home/keystore.hfk").unlink()
    forgotten.path("new.hfk").rename(forgotten.path("home/keystore.hfk"))
    forgotten("identity", "revoke-device", "laptop", "--reason", "lost")
    assert "exists" in recover(forgotten, *options, code=77).err
    assert not forgotten.path("new.hfk").exists()
    forgotten.write("cut.events", Path(forgotten.path("home.events")).read_bytes()[:-9])
    options = ["--events", "cut.events", "--keystore", "x.hfk", "-o", "x.events"]
    recover(forgotten, *options, code=77)
    assert not forgotten.path("x.hfk").exists()
    assert not forgotten.path("x.events").exists()

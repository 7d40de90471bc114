"""Devices and the root key by command line, and what is left when a command is stopped between its two files."""

from __future__ import annotations

from typing import Any

import pytest

from identity.errors import StorageError
from identity.keystore import KeyRing, open_keystore, replace_keystore

PASSPHRASE = "correct horse battery staple"


def keys(shell: Any) -> KeyRing:
    return open_keystore(shell.directory / shell.home / "keystore.hfk", PASSPHRASE)


def devices(shell: Any) -> dict[str, dict[str, Any]]:
    return {device["key"]: device for device in shell("identity", "devices", "--json").json}


def named(shell: Any, name: str) -> list[dict[str, Any]]:
    return [device for device in devices(shell).values() if device["name"] == name]


def stop(*_: object, **__: object) -> None:
    """What a process does that is killed."""
    raise KeyboardInterrupt


# --- adding ---


def test_a_new_device_can_write(shell: Any) -> None:
    key = shell("identity", "add-device", "till-3", "--class", "service").field("key")
    assert [(one["key"], one["class"], one["added"]) for one in named(shell, "till-3")] == [(key, "service", 4)]
    shell("feed", "create", "till", "--device", "till-3")
    shell("feed", "append", "till", "notes.jsonl")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["laptop"], 64),
        (["tablet", "--class", "king"], 64),
        ([""], 64),
        (["x" * 201], 64),
        (["a\nb"], 64),
        (["tablet", "--passphrase-file", "phrase.txt"], 77),
    ],
)
def test_a_device_that_is_refused_leaves_no_key(shell: Any, arguments: list[str], code: int) -> None:
    before = shell.kept()
    shell("identity", "add-device", *arguments, code=code)
    assert shell.kept() == before


def test_a_name_in_the_identity_that_this_keystore_does_not_hold(shell: Any) -> None:
    """The keystore was restored from before the device was added: its name is taken, its key is gone."""
    keystore = shell.path("home/keystore.hfk")
    older = keystore.read_bytes()
    shell("identity", "add-device", "tablet")
    keystore.write_bytes(older)
    before = shell.kept()
    assert "has a device 'tablet' already" in shell("identity", "add-device", "tablet", code=77).err
    assert shell.kept() == before
    shell("identity", "revoke-device", "tablet", "--reason", "lost")
    shell("identity", "add-device", "tablet")
    assert len(named(shell, "tablet")) == 2


def test_a_key_without_its_event_is_used_when_the_command_is_run_again(
    shell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after the keystore was replaced and before the event was stored."""

    def replace_and_stop(*arguments: Any, **options: Any) -> None:
        replace_keystore(*arguments, **options)
        stop()

    with monkeypatch.context() as stopped:
        stopped.setattr("identity.keystore.replace_keystore", replace_and_stop)
        shell("identity", "add-device", "tablet", code=130)
    assert named(shell, "tablet") == []
    seed = keys(shell).devices["tablet"]
    shell("identity", "add-device", "tablet")
    assert len(named(shell, "tablet")) == 1
    assert keys(shell).devices["tablet"] == seed
    shell("feed", "create", "draft", "--device", "tablet")
    assert "is a device already" in shell("identity", "add-device", "tablet", code=64).err


def test_no_event_without_its_key(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keystore cannot be replaced: then the device is not authorised either."""

    def full(*_: object, **__: object) -> None:
        raise StorageError("no space left on device")

    before = shell.kept()
    monkeypatch.setattr("identity.keystore.replace_keystore", full)
    shell("identity", "add-device", "tablet", code=74)
    assert shell.kept() == before


# --- revoking ---


def test_a_revoked_device_writes_no_more(shell: Any) -> None:
    ran = shell("identity", "revoke-device", "phone", "--reason", "stolen", "--since", "2026-11-20T08:00:00Z")
    assert "checkpoint create" in ran.err
    (phone,) = named(shell, "phone")
    assert (phone["revoked"], phone["reason"]) == (4, "stolen")
    before = shell.kept()
    refused = shell("feed", "append", "notes", "notes.jsonl", code=77).err
    assert "is revoked" in refused
    assert "holdfast feed create NAME --device DEVICE --continues FEED" in refused
    assert "is revoked" in shell("feed", "create", "more", "--device", "phone", code=77).err
    assert "revoked already" in shell("identity", "revoke-device", "phone", "--reason", "lost", code=1).err
    assert "of a revoked device" in shell("identity", "add-device", "phone", code=64).err
    assert shell.kept() == before
    assert shell("feed", "create", "more").field("device") == "laptop", "the only one that is left"


def test_a_device_is_named_by_its_key_too(shell: Any) -> None:
    (phone,) = named(shell, "phone")
    shell("identity", "revoke-device", phone["key"], "--reason", "retired", "--vouch", "notes=2")
    assert named(shell, "phone")[0]["reason"] == "retired"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["tablet", "--reason", "lost"], 64, "no device is called 'tablet'"),
        (["phone", "--reason", "bored"], 64, "'bored' is no reason"),
        (["phone"], 64, "missing option '--reason'"),
        (["phone", "--reason", "lost", "--since", "yesterday"], 64, "'yesterday' is not a time"),
        (["phone", "--reason", "lost", "--vouch", "notes"], 64, "is not FEED=LENGTH"),
        (["phone", "--reason", "lost", "--vouch", "notes=-1"], 64, "is not FEED=LENGTH"),
        (["phone", "--reason", "lost", "--vouch", "nots=1"], 64, "no feed is called 'nots'"),
        (["phone", "--reason", "lost", "--vouch", "ledger=20"], 64, "is not of device 'phone'"),
        (["phone", "--reason", "lost", "--vouch", "notes=1", "--vouch", "notes=2"], 64, "twice"),
        (["phone", "--reason", "lost", "--vouch", "notes=1"], 77, "no signed head of length 1"),
        (["phone", "--reason", "lost", "--vouch", "notes=3"], 77, "no signed head of length 3"),
        (["phone", "--reason", "retired", "--since", "2026-11-20T08:00:00Z"], 77, "retired"),
    ],
)
def test_a_revocation_that_is_refused(shell: Any, arguments: list[str], code: int, says: str) -> None:
    before = shell.kept()
    ran = shell("identity", "revoke-device", *arguments, code=code)
    assert says in ran.err
    assert shell.kept() == before


def test_what_is_not_vouched_for_is_withheld_from_the_log(shell: Any) -> None:
    shell("feed", "append", "notes", "notes.jsonl")
    shell("identity", "revoke-device", "phone", "--reason", "stolen", "--vouch", "notes=2")
    (answer,) = shell("checkpoint", "create", "--json").json
    assert list(answer["withheld"].values()) == ["BEYOND_LAST_GOOD"]


# --- the root ---


def test_the_root_is_replaced(shell: Any) -> None:
    old = keys(shell).root_seeds
    (answer,) = shell("identity", "rotate-root", "--phrase-file", "phrase.txt", "--json").json
    assert (answer["generation"], answer["rotated"]) == (1, True)
    assert keys(shell).generation == 1
    assert keys(shell).root_seeds != old
    shell("identity", "add-device", "tablet")
    words = shell.path("phrase.txt").read_text()
    assert (
        shell("identity", "rotate-root", "--phrase-file", "-", stdin=f"\n {words.upper()} ").field("generation") == "2"
    )


def test_a_phrase_that_is_wrong(shell: Any) -> None:
    before = shell.kept()
    words = shell.path("phrase.txt").read_text().split()
    shell.write("swapped.txt", " ".join([words[1], words[0], *words[2:]]) if words[0] != words[1] else "x")
    shell.write("short.txt", " ".join(words[:23]))
    shell.write("noise.txt", bytes(range(256)))
    shell.write("long.txt", "abandon " * 200)
    for file, says in (
        ("other-phrase.txt", "does not give the next root key of this identity"),
        ("swapped.txt", "recovery phrase: "),
        ("short.txt", "23 words, must be 24"),
        ("noise.txt", "recovery phrase: "),
        ("long.txt", "long.txt: more than"),
    ):
        ran = shell("identity", "rotate-root", "--phrase-file", file, code=77)
        assert says in ran.err
        assert " ".join(words[2:6]) not in ran.err, "no words of a phrase are ever shown"
    shell("identity", "rotate-root", "--phrase-file", "no.txt", code=74)
    assert shell.kept() == before


def test_a_rotation_that_was_interrupted_is_finished(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after the event was stored and before the keystore was replaced: it holds a root that is no root now."""
    with monkeypatch.context() as stopped:
        stopped.setattr("identity.keystore.replace_keystore", stop)
        shell("identity", "rotate-root", "--phrase-file", "phrase.txt", code=130)
    assert keys(shell).generation == 0
    ran = shell("identity", "add-device", "tablet", code=77)
    assert "generation 0, the identity is at 1" in ran.err
    assert "rotate-root" in ran.err
    assert "tablet" not in keys(shell).devices
    before = shell.kept()
    assert (
        "does not give the root key"
        in shell("identity", "rotate-root", "--phrase-file", "other-phrase.txt", code=77).err
    )
    assert shell.kept() == before
    (answer,) = shell("identity", "rotate-root", "--phrase-file", "phrase.txt", "--json").json
    assert (answer["generation"], answer["rotated"]) == (1, False)
    assert keys(shell).generation == 1
    shell("identity", "add-device", "tablet")


# --- whose ---


def test_identities_by_the_beginning_of_their_id(shell: Any) -> None:
    other = shell.at("other")
    other("identity", "import", "home.events")
    own, home = (row["identity"] for row in other("identity", "list", "--json").json)
    assert other("identity", "show").field("identity") == own
    assert other("identity", "show", home[:12]).field("label") == "home of a test"
    assert len(other("identity", "devices", home).lines) == 2
    assert len(other("identity", "events", home[:8]).lines) == 4
    assert other("identity", "export", home, "-o", "-").stdout == shell.path("home.events").read_bytes()
    for text in ("", "zz", home.upper(), "00" * 32):
        assert "see 'holdfast identity list'" in other("identity", "show", text, code=64).err

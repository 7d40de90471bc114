"""Three holders, of whom two sign: founding, every event by the root, rotation; by command line, as people do it."""

from __future__ import annotations

from typing import Any

import pytest

from identity.keystore import ONLY_FOR_TESTING

HOLDERS = ("anna", "bert", "carl")


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keystores that cost nothing to open."""
    from api import founding
    from identity import keystore

    defaults = founding.Founding.__init__.__defaults__
    assert defaults is not None
    monkeypatch.setattr(founding.Founding.__init__, "__defaults__", (*defaults[:-1], ONLY_FOR_TESTING))
    monkeypatch.setattr(keystore.create_keystore, "__kwdefaults__", {"profile": ONLY_FOR_TESTING})


def sign(shell: Any, holder: str, request: str, *, code: int = 0, by: str = "keystore") -> Any:
    """One holder signs a copy: ``close.request`` becomes ``close-anna.request``."""
    source = {"keystore": ["--keystore", f"{holder}.hfk"], "phrase": ["--phrase-file", f"{holder}.phrase"]}[by]
    return shell("identity", "sign", request, *source, "--yes", "-o", f"{request[:-8]}-{holder}.request", code=code)


def both(shell: Any, request: str, *holders: str, code: int = 0, by: str = "keystore") -> Any:
    """The holders sign, and what they signed is submitted."""
    for holder in holders:
        sign(shell, holder, request, by=by)
    return shell("identity", "submit", *(f"{request[:-8]}-{holder}.request" for holder in holders), code=code)


@pytest.fixture
def founded(shell: Any) -> Any:
    """A home whose holders have made their keys, and that waits for them."""
    for holder in HOLDERS:
        options = ["--keystore", f"{holder}.hfk", "--phrase-file", f"{holder}.phrase", "-o", f"{holder}.card"]
        shell("root", "create", holder.capitalize(), *options)
    cards = [argument for holder in HOLDERS for argument in ("--card", f"{holder}.card")]
    bank = shell.at("bank")
    bank("init", *cards, "--threshold", "2", "--label", "Bank", "--device", "till")
    shell.write("founding.request", shell.path("bank/founding.request").read_bytes())
    return bank


@pytest.fixture
def bank(founded: Any) -> Any:
    """The same, after two of three have signed."""
    both(founded, "founding.request", "anna", "carl")
    return founded


# --- founding ---


def test_a_home_waits_for_its_holders(founded: Any) -> None:
    before = founded.kept()
    assert "has no identity" in founded("identity", "show", code=2).err
    assert "identity submit" in founded("feed", "create", "notes", code=2).err
    sign(founded, "anna", "founding.request")
    refused = founded("identity", "submit", "founding-anna.request", code=77).err
    assert "is signed by 1 of the 2 keys" in refused
    assert refused.count("did:key:") == 2, "it names the keys that have not signed"
    assert founded.kept() == before
    sign(founded, "bert", "founding.request")
    founded("identity", "submit", "founding-bert.request", "founding-anna.request")
    assert founded("identity", "show").field("events") == "3"


def test_who_founds_it(bank: Any) -> None:
    (shown,) = bank("identity", "show", "--json").json
    assert (shown["label"], shown["events"], shown["root_keys"], shown["root_threshold"]) == ("Bank", 3, 3, 2)
    assert not bank.path("bank/founding.request").exists()
    bank("feed", "create", "notes")
    bank("feed", "append", "notes", "notes.jsonl")
    bank("checkpoint", "create")
    bank("anchor", "run")
    bank("checkpoint", "create", "--restate")
    bank("evidence", "export", "notes", "1", "-o", "e.json")
    bank("verify", "e.json", "--policy", "bank/policy.toml")
    again = bank("identity", "submit", "founding-anna.request", "founding-carl.request", code=77)
    assert "in the history already" in again.err


def test_only_its_own_request_founds_a_home(founded: Any) -> None:
    """Somebody else's founding, completely signed, is no identity of this home."""
    second = founded.at("second")
    cards = [argument for holder in HOLDERS for argument in ("--card", f"{holder}.card")]
    second("init", *cards, "--threshold", "1")
    founded.write("other.request", founded.path("second/founding.request").read_bytes())
    sign(founded, "anna", "other.request")
    before = founded.kept()
    assert "this is another one" in founded("identity", "submit", "other-anna.request", code=77).err
    assert founded.kept() == before
    second("identity", "submit", "other-anna.request")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--card", "anna.card", "--threshold", "2"], 64, "2 of 1 holders"),
        (["--card", "anna.card", "--threshold", "0"], 64, "0 of 1 holders"),
        (["--card", "anna.card", "--next-threshold", "2"], 64, "2 of 1 holders"),
        (["--threshold", "2"], 64, "give a --card for each"),
        (["--card", "anna.card", "--card", "anna.card"], 77, "name one key"),
        (["--card", "anna.card", "--phrase-file", "x.txt"], 64, "have their own phrases"),
        (["--card", "notes.jsonl"], 77, "not a root card"),
        (["--card", "no.card"], 74, "no.card"),
    ],
)
def test_a_founding_that_is_refused(founded: Any, arguments: list[str], code: int, says: str) -> None:
    assert says in founded.at("new")("init", *arguments, code=code).err
    assert not founded.path("new").exists()


def test_commands_in_a_home_that_waits(founded: Any) -> None:
    """None of them ends in a fault of holdfast, and none changes anything."""
    before = founded.kept()
    for arguments in (
        ["status"],
        ["audit"],
        ["identity", "list"],
        ["identity", "events"],
        ["identity", "export", "-o", "x.events"],
        ["identity", "add-device", "desk", "--propose", "x.request"],
        ["checkpoint", "create"],
        ["anchor", "status"],
    ):
        ran = founded(*arguments, code=None)
        assert ran.code in (0, 2, 77), (arguments, ran.err)
    assert founded.kept() == before


def test_a_request_that_a_stopped_run_has_left(bank: Any) -> None:
    """Killed after the events were stored and before the file was gone: the next submit takes it away."""
    bank.write("bank/founding.request", bank.path("founding.request").read_bytes())
    bank("identity", "submit", "founding-anna.request", "founding-carl.request", code=77)
    assert not bank.path("bank/founding.request").exists()


# --- events by the root ---


def test_every_event_by_the_root(bank: Any) -> None:
    bank("feed", "create", "notes")
    bank("feed", "append", "notes", "notes.jsonl")
    bank("identity", "add-device", "desk", "--class", "admin", "--propose", "desk.request")
    assert [one["name"] for one in bank("identity", "devices", "--json").json] == ["till"], "nothing is stored yet"
    both(bank, "desk.request", "anna", "bert")
    bank("feed", "create", "drafts", "--device", "desk")

    bank("identity", "add-device", "phone", "--by", "desk")
    bank("identity", "revoke-device", "till", "--reason", "lost", "--propose", "till.request")
    words = bank("identity", "review", "till.request").out
    assert "end the device 'till', because it is lost" in words
    assert "vouched for: the first 2 entries of feed" in words
    both(bank, "till.request", "bert", "carl")
    bank("identity", "revoke-device", "desk", "--reason", "stolen", "--last-event", "3", "--propose", "d.request")
    assert "with it ends 'phone'" in bank("identity", "review", "d.request").out
    both(bank, "d.request", "anna", "carl")
    revoked = {one["name"]: one["revoked"] for one in bank("identity", "devices", "--json").json}
    assert revoked == {"till": 5, "desk": 6, "phone": 6}

    bank("identity", "bind-log", "0f" * 32, "--propose", "log.request")
    both(bank, "log.request", "anna", "bert")
    assert bank("identity", "show", "--json").json[0]["logs"][1] == "0f" * 32
    bank("identity", "close", "--confirm", "Bank", "--propose", "close.request")
    assert "CLOSE the identity for good" in bank("identity", "review", "close.request").out
    both(bank, "close.request", "anna", "bert")
    assert bank("identity", "show").field("closed") == "yes"


def test_one_after_the_other_on_one_copy(bank: Any) -> None:
    bank("identity", "bind-log", "0f" * 32, "--propose", "log.request")
    sign(bank, "anna", "log.request")
    sign(bank, "bert", "log-anna.request")
    bank("identity", "submit", "log-anna-bert.request")


def test_without_a_request_the_home_says_who_signs(bank: Any) -> None:
    before = bank.kept()
    for arguments in (
        ["add-device", "desk"],
        ["revoke-device", "till", "--reason", "lost"],
        ["bind-log", "0f" * 32],
        ["close", "--confirm", "Bank"],
    ):
        refused = bank("identity", *arguments, code=77).err
        assert "does not hold the root key" in refused
        assert "--propose" in refused
    assert "anna" not in bank("identity", "close", "--confirm", "bank", code=64).err
    assert bank.kept() == before


def test_what_is_refused_by_name(bank: Any) -> None:
    bank("identity", "bind-log", "0f" * 32, "--propose", "log.request")
    bank("identity", "bind-log", "0e" * 32, "--propose", "two.request")
    for request in ("log.request", "two.request"):
        sign(bank, "anna", request)
        sign(bank, "bert", request)
    before = bank.kept()
    assert "different requests" in bank("identity", "submit", "log-anna.request", "two-bert.request", code=77).err
    assert "1 of the 2 keys" in bank("identity", "submit", "log-anna.request", "log-anna.request", code=77).err
    assert "0 of the 2 keys" in bank("identity", "submit", "log.request", code=77).err
    data = bank.path("log-anna.request").read_bytes()
    bank.write("cut.request", data[:-40])
    assert "cut short" in bank("identity", "submit", "cut.request", "log-bert.request", code=77).err
    other = bank.at("home")
    assert "another identity" in other("identity", "submit", "log-anna.request", "log-bert.request", code=77).err
    assert bank.kept() == before
    bank("identity", "submit", "log-anna.request", "log-bert.request")
    late = bank("identity", "submit", "two-anna.request", "two-bert.request", code=77).err
    assert "no longer follows" in late
    assert "propose it again" in late


def test_signing_is_agreed_to_and_by_one_key(bank: Any) -> None:
    bank("identity", "bind-log", "0f" * 32, "--propose", "log.request")
    options = ["--keystore", "anna.hfk", "-o", "x.request"]
    ran = bank("identity", "sign", "log.request", *options, code=64)
    assert "no terminal to ask on" in ran.err
    assert "make this checkpoint log one of the identity's" in ran.err, "it was shown all the same"
    assert "review it" in bank("identity", "sign", "log.request", *options, "--json", code=64).error["hint"]
    assert "sign with what" in bank("identity", "sign", "log.request", "-o", "x.request", code=64).err
    assert "may sign" in sign(bank, "other", "log.request", code=77, by="phrase").err
    assert (
        "holds no root key"
        in bank(
            "identity", "sign", "log.request", "--keystore", "bank/keystore.hfk", "--yes", "-o", "x.request", code=77
        ).err
    )
    assert not bank.path("x.request").exists()
    sign(bank, "anna", "log.request")
    bank.write("twice.request", bank.path("log-anna.request").read_bytes())
    assert "signed the request already" in sign(bank, "anna", "twice.request", code=77).err


@pytest.fixture(autouse=True)
def _a_phrase_of_nobody(shell: Any) -> None:
    shell.write("other.phrase", shell.path("other-phrase.txt").read_bytes())


# --- rotation ---


def test_all_reveal_and_two_sign(bank: Any) -> None:
    for holder in HOLDERS:
        options = ["--phrase-file", f"{holder}.phrase", "--generation", "1", "-o", f"{holder}-1.card"]
        bank("root", "card", holder.capitalize(), *options)
    cards = [argument for holder in reversed(HOLDERS) for argument in ("--card", f"{holder}-1.card")]
    few = bank("identity", "rotate-root", *cards[:4], "--propose", "few.request", code=77)
    assert "1 of the 3 next root keys are not revealed" in few.err
    wrong = [*cards[:4], "--card", "anna.card"]
    refused = bank("identity", "rotate-root", *wrong, "--propose", "wrong.request", code=77)
    assert "Anna: this key is not one that the identity has committed to" in refused.err
    bank("identity", "rotate-root", *cards, "--threshold", "3", "--propose", "rotate.request")
    assert "replace all root keys" in bank("identity", "review", "rotate.request").out
    assert "may sign" in sign(bank, "anna", "rotate.request", code=77).err, "the keystore has the present key"
    both(bank, "rotate.request", "anna", "bert", by="phrase")
    assert bank("identity", "show").field("root_generation") == "1"

    bank("identity", "bind-log", "0f" * 32, "--propose", "log.request")
    assert "may sign" in sign(bank, "anna", "log.request", code=77).err, "that key was replaced"
    for holder in ("anna", "bert"):
        bank.path(f"{holder}.hfk").unlink()
        options = ["--phrase-file", f"{holder}.phrase", "--generation", "1", "--keystore", f"{holder}.hfk"]
        bank("root", "restore", *options)
    both(bank, "log.request", "anna", "bert")


def test_one_phrase_is_not_enough_to_recover(bank: Any) -> None:
    before = bank.kept()
    for command in (["recover"], ["rotate-root"]):
        refused = bank("identity", *command, "--phrase-file", "anna.phrase", code=77).err
        assert "one phrase can't replace it" in refused
    assert bank.kept() == before


def test_a_holder_is_not_left_with_half(shell: Any) -> None:
    """A root key that could not be made whole leaves nothing that looks like one."""
    options = ["--keystore", "no/such/dir.hfk", "--phrase-file", "d.phrase", "-o", "d.card"]
    shell("root", "create", "Dora", *options, code=74)
    shell.write("taken.card", "x")
    options = ["--keystore", "d.hfk", "--phrase-file", "d.phrase", "-o", "taken.card"]
    assert "exists" in shell("root", "create", "Dora", *options, code=77).err
    assert not any(shell.path(name).exists() for name in ("d.hfk", "d.phrase", "d.card"))
    assert (
        "overwrites nothing"
        in shell(
            "root", "create", "Dora", "--keystore", "d.hfk", "--phrase-file", "phrase.txt", "-o", "d.card", code=77
        ).err
    )
    assert (
        "where is the key to be"
        in shell("root", "create", "Dora", "--phrase-file", "d.phrase", "-o", "d.card", code=64).err
    )

"""Founding a home: whole or not at all, on the development chain, on a node, with authorities of one's own."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anchoring.chain.rpc_server import DevChainServer
from anchoring.tsa.dev import DevelopmentAuthority
from anchoring.tsa.server import DevelopmentServer
from api.bootstrap import open_dev_chain
from identity.errors import TransportError
from identity.keystore import ONLY_FOR_TESTING, open_keystore
from identity.recovery import parse_phrase


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keystores that cost nothing to open."""
    from api import founding

    monkeypatch.setattr(
        founding.Founding.__init__, "__defaults__", (*defaults(founding.Founding)[:-1], ONLY_FOR_TESTING)
    )


def defaults(kind: Any) -> tuple[Any, ...]:
    return kind.__init__.__defaults__  # type: ignore[no-any-return]


def listed(directory: Path) -> set[str]:
    return {file.name for file in directory.iterdir() if file.name != "dev"}


def test_init_as_it_ships(shell: Any) -> None:
    """With the real key derivation, and the phrase on stdout."""
    ran = shell.at("new")(
        "init", "--device", "pc", "--device", "phone", "--label", "Anna", "--log-name", "anna.example"
    )
    home = shell.path("new")
    assert {file.name for file in home.iterdir()} == {
        "headers.jsonl",
        "holdfast.toml",
        "keystore.hfk",
        "policy.toml",
        "vault.db",
    }
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "keystore.hfk").stat().st_mode) == 0o600
    assert b"argon2id-2026-11" in (home / "keystore.hfk").read_bytes()
    (phrase,) = [line.strip() for line in ran.lines if len(line.split()) == 24]
    assert parse_phrase(phrase) == phrase
    assert "DEVELOPMENT ONLY" in ran.err
    new = shell.at("new")
    assert new("identity", "show").field("label") == "Anna"
    assert set(open_keystore(home / "keystore.hfk", "correct horse battery staple").devices) == {"pc", "phone"}
    new("checkpoint", "create")
    assert new("status").field("state") == "not-anchored"


@pytest.mark.usefixtures("cheap")
def test_the_phrase_in_a_file(shell: Any, root: Path) -> None:
    ran = shell.at("new")("init", "--phrase-file", "words.txt", "--json")
    (answer,) = ran.json
    assert answer["kind"] == "home"
    page = (root / "docs" / "reference" / "json.md").read_text(encoding="utf-8")
    assert "| `init` | `home` | " + ", ".join(f"`{name}`" for name in list(answer)[2:]) + " |\n" in page
    words = shell.path("words.txt")
    assert stat.S_IMODE(words.stat().st_mode) == 0o600
    assert words.read_text() == parse_phrase(words.read_text()) + "\n"
    assert words.read_text().split()[0] not in ran.err.split()
    assert shell.at("new")("identity", "rotate-root", "--phrase-file", "words.txt").field("generation") == "1"


@pytest.mark.usefixtures("cheap")
def test_a_home_without_a_chain(shell: Any) -> None:
    new = shell.at("new")
    new("init", "--no-chain", "--phrase-file", "words.txt")
    new("feed", "create", "diary")
    new("feed", "append", "diary", "notes.jsonl")
    new("checkpoint", "create")
    assert new("anchor", "run", "--json").json[0]["anchor"] is None
    new("checkpoint", "create", "--restate")
    new("evidence", "export", "diary", "1", "-o", "diary.json")
    new("verify", "diary.json", "--policy", "new/policy.toml")
    assert new("status").field("state") == "no-chain"
    assert "the log is in order" in new("recover", "succeed", "--dry-run", code=77).err


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--json"], 64, "does not go into JSON"),
        (["--device", "a", "--device", "a"], 64, "two devices of one name"),
        (["--device", ""], 64, "device: empty"),
        (["--label", "x" * 201], 64, "label: 201 characters"),
        (["--label", "a\x07b"], 64, "U+0007"),
        (["--log-name", "Upper Case"], 64, "log descriptor"),
        (["--phrase-file", "phrase.txt"], 77, "phrase.txt exists"),
        (["--phrase-file", "no/such/file"], 74, "cannot write no/such/file"),
        (["--home", "home"], 77, "is not an empty directory"),
        (["--home", "pass.txt"], 77, "is not an empty directory"),
        (["--home", "home", "--phrase-file", "phrase.txt"], 77, "is not an empty directory"),
        (["--home", "pass.txt/new"], 74, "cannot create"),
        (["--settings", "no.toml"], 78, "there is no no.toml"),
        (["--settings", "notes.jsonl"], 78, "not TOML"),
        (["--settings", "home/holdfast.toml", "--no-chain"], 64, "--no-chain and --settings"),
        (["--no-chain", "--contract", "0x" + "00" * 20], 64, "for a home with a chain"),
        (["--contract", "0x00"], 64, "is not an address"),
        (["--contract", "0x" + "11" * 20], 77, "is not the anchor contract"),
        (["--anchor-key-file", "notes.jsonl"], 77, "does not hold 64 hexadecimal digits"),
        (["--passphrase-file", "no.txt"], 74, "no.txt"),
    ],
)
def test_a_founding_that_is_refused_leaves_nothing(shell: Any, arguments: list[str], code: int, says: str) -> None:
    before, home = listed(shell.directory), shell.kept()
    ran = shell.at("new")("init", *arguments, code=code)
    assert says in ran.err
    assert listed(shell.directory) == before
    assert shell.kept() == home


def test_the_development_directory_inside_the_home(shell: Any) -> None:
    inside = shell.at("new", HOLDFAST_DEV_DIR=str(shell.path("new/dev")))
    assert "lies inside the home" in inside("init", code=78).err
    assert not shell.path("new").exists()


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("error", [KeyboardInterrupt(), TransportError("no node"), OSError(28, "No space left")])
@pytest.mark.parametrize(
    "step", ["anchoring.chain.deploy.deploy_contract", "api.founding.add_events", "api.founding._move"]
)
def test_a_founding_that_fails_midway_leaves_nothing(
    shell: Any, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    before = listed(shell.directory)
    with monkeypatch.context() as broken:
        broken.setattr(step.replace("anchoring.chain.deploy", "api.founding"), fail)
        shell.at("new")(
            "init", "--phrase-file", "words.txt", code={KeyboardInterrupt: 130, TransportError: 75}.get(type(error), 74)
        )
    assert listed(shell.directory) == before
    shell.at("new")("init", "--phrase-file", "words.txt")


@pytest.mark.usefixtures("cheap")
def test_a_phrase_that_cannot_be_shown_founds_nothing(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody could ever replace the root key of a home whose phrase went nowhere."""
    from api.cli.output import Output, OutputClosed

    def closed(self: Output, _: str) -> None:
        raise OutputClosed

    monkeypatch.setattr(Output, "text", closed)
    monkeypatch.setattr(Output, "abandon", lambda self: None)
    shell.at("new")("init", code=74)
    assert not shell.path("new").exists()


# --- a node and an authority over the network ---


@pytest.fixture
def node(shell: Any) -> Iterator[str]:
    """The development chain of the shell's directory, behind JSON-RPC."""
    with open_dev_chain(shell.path("dev")) as chain, DevChainServer(chain) as server:
        yield server.url


@pytest.fixture
def authority(shell: Any) -> Iterator[DevelopmentServer]:
    with DevelopmentServer(DevelopmentAuthority(shell.path("tsa"))) as server:
        yield server


def settings(node: str, authority: DevelopmentServer, shell: Any) -> str:
    trusted = DevelopmentAuthority(shell.path("tsa")).authority
    (shell.directory / "certificates").mkdir()
    shell.write("certificates/tsa.der", trusted.root)
    return f"""
format = 1

[chain]
kind = "rpc"
urls = ["{node}"]
chain_id = 1212434006
max_fee_gwei = 50

[[authorities]]
kind = "http"
url = "{authority.url}"
root = "certificates/tsa.der"
policy = "{trusted.policy_oid}"
subject = {json.dumps(trusted.subject)}
crl_urls = ["{authority.url}crl"]
"""


@pytest.mark.usefixtures("cheap")
def test_a_home_on_a_node_with_an_authority_of_its_own(shell: Any, node: str, authority: DevelopmentServer) -> None:
    """From founding to evidence with nothing embedded: a contract that is there, then one of its own."""
    shell.write("bank.toml", settings(node, authority, shell))
    shell.write("key.txt", f"0x{1:064x}\n")
    new = shell.at("bank")
    assert "coins" in new("init", "--settings", "bank.toml", code=64).err
    ran = new("init", "--settings", "bank.toml", "--anchor-key-file", "key.txt", "--phrase-file", "w.txt", "--json")
    (home,) = ran.json
    assert home["anchor_account"] == "0x7e5f4552091a69125d5dfcb7b8c2659029395bdf"
    assert shell.path("bank/certificates/tsa.der").exists()
    new("feed", "create", "ledger")
    new("feed", "append", "ledger", "notes.jsonl")
    new("checkpoint", "create")
    (done,) = new("anchor", "run", "--wait", "20", "--json").json
    assert (done["anchor"], list(done["tokens"])) == ("final", [authority.url])
    new("headers", "fetch")
    new("checkpoint", "create", "--restate")
    new("evidence", "export", "ledger", "1", "-o", "e.json")
    new("verify", "e.json", "--policy", "bank/policy.toml")
    new("checkpoint", "export", "-o", "c.log")
    new("audit", "--log", "c.log", "--policy", "bank/policy.toml", "--rpc", node)
    second = shell.at("second")
    ran = second("init", "--settings", "bank.toml", "--contract", home["contract"], "--phrase-file", "x.txt", "--json")
    assert ran.json[0]["contract"] == home["contract"]
    assert ran.json[0]["anchor_account"] != home["anchor_account"]


@pytest.mark.usefixtures("cheap")
def test_above_the_fee_cap_nothing_is_sent(shell: Any, node: str, authority: DevelopmentServer) -> None:
    text = settings(node, authority, shell)
    shell.write("bank.toml", text)
    shell.write("key.txt", f"{1:064x}")
    new = shell.at("bank", HOLDFAST_CHAIN__MAX_FEE_GWEI="1")
    shell.at("bank")("init", "--settings", "bank.toml", "--anchor-key-file", "key.txt", "--phrase-file", "w.txt")
    new("feed", "create", "ledger")
    new("feed", "append", "ledger", "notes.jsonl")
    new("checkpoint", "create")
    (done,) = new("anchor", "run", "--json", code=75).json
    assert "the cap is 1000000000" in str(done["failures"])
    assert len(done["tokens"]) == 1, "the token does not wait for the chain"
    assert shell.at("bank")("anchor", "run").field("anchor") == "final"


@pytest.mark.usefixtures("cheap")
def test_a_home_can_be_written_to_before_its_contract_is_final(
    shell: Any, node: str, authority: DevelopmentServer
) -> None:
    """The chain mines on demand, so with a confirmation asked for its newest block is never final."""
    shell.write("bank.toml", settings(node, authority, shell))
    shell.write("key.txt", f"{1:064x}")
    new = shell.at("bank", HOLDFAST_CHAIN__CONFIRMATIONS="1")
    new("init", "--settings", "bank.toml", "--anchor-key-file", "key.txt", "--phrase-file", "w.txt")
    assert new("status").field("state") == "not-anchored"
    new("feed", "create", "ledger")
    new("feed", "append", "ledger", "notes.jsonl")
    new("checkpoint", "create")
    assert new("anchor", "run").field("anchor") == "mined"
    assert new("status").field("anchors_open") == "1"

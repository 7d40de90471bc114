"""Visitors by command line: a token is granted, used, listed and ended."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from api.access.action import Action, Operation
from api.access.opening import open_access
from api.access.request import HttpRequest
from api.access.signatures import authorization_of, sign_request
from api.bootstrap import open_session
from api.databases import Databases
from api.home import Home
from api.settings import load_settings
from identity.errors import Forbidden
from identity.keys import Ed25519Signer
from identity.keystore import open_keystore
from identity.textforms import to_did_key

APP = Ed25519Signer(b"\x51" * 32)
HOLDER = to_did_key(APP.public_key)


@pytest.fixture
def bank(shell: Any) -> Any:
    """A home with a database."""
    shell("db", "create", "bank", "--device", "laptop")
    return shell


def grant(bank: Any, *options: str) -> dict[str, Any]:
    (made,) = bank("visit", "grant", "bank", HOLDER, "--device", "laptop", *options, "--json").json
    return made


def visit(bank: Any, token: str, operation: Operation = Operation.READ, signer: Ed25519Signer = APP) -> None:
    """What a server does with one request."""
    home = Home(Path(bank.directory) / bank.home)
    settings = load_settings(home, bank.environment())
    with open_session(home, settings) as session:
        ring = open_keystore(settings.keystore, "correct horse battery staple")
        uid = Databases(session).find("bank").uid
        with session.vault.start_writer(ring) as writer:
            access = open_access(session, ring, writer, "laptop")
            try:
                url = "https://node.example/v1/x"
                bare = HttpRequest("GET", url, (("authorization", authorization_of(base64.urlsafe_b64decode(token))),))
                added = sign_request(signer, bare, created=session.now_ms() // 1000, nonce="A" * 22)
                caller = access.gate.identify(HttpRequest("GET", url, (*bare.headers, *added)))
                access.gate.allow(caller, Action(operation, uid, "accounts", "4711", frozenset({"owner"})))
            finally:
                access.close()


def test_an_app_is_let_in_seen_and_sent_away(bank: Any) -> None:
    made = grant(bank, "--on", "accounts", "--field", "owner", "--note", "monthly report")
    visit(bank, made["token"])
    rows = bank("visit", "list", "--json").json
    assert [(row["what"], row["about"]) for row in rows] == [
        ("granted", "read on accounts (owner)"),
        ("visited", "read accounts/4711 (owner)"),
    ]
    assert rows[0]["key"] == rows[1]["key"] == HOLDER
    assert rows[0]["note"].endswith(": monthly report")
    (ended,) = bank("visit", "revoke", made["id"][:12], "--why", "done", "--device", "laptop", "--json").json
    assert ended["id"] == made["id"]
    listed = bank("visit", "list", "--json").json
    assert [(row["what"], row["note"]) for row in listed][-1] == ("revoked", "done")
    assert listed[0]["note"].startswith("ended")
    bank("feed", "audit", "visits")
    assert {row["name"] for row in bank("feed", "list", "--json").json} >= {"visits", "revocations"}


def test_what_is_refused_is_listed(bank: Any) -> None:
    made = grant(bank, "--on", "accounts")
    with pytest.raises(Forbidden):
        visit(bank, made["token"], Operation.DELETE)
    (row,) = bank("visit", "list", "--denied", "--json").json
    assert (row["what"], row["reason"], row["about"]) == ("refused", "OPERATION", "delete accounts/4711 (owner)")


def test_a_revoked_token_opens_nothing(bank: Any) -> None:
    made = grant(bank)
    bank("visit", "revoke", made["digest"][:6], "--device", "laptop")
    with pytest.raises(Forbidden):
        visit(bank, made["token"])


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--allow", "sync"), 64),
        (("--for", "25h"), 77),
        (("--for", "0s"), 64),
        (("--for", "soon"), 64),
        (("--on", "/x"), 64),
        (("--on", "$schema"), 77),
        (("--rate", "0"), 64),
        (("--note", "x" * 201), 77),
        (("--device", "toaster"), 77),
    ],
)
def test_grants_that_cannot_be(bank: Any, options: tuple[str, ...], code: int) -> None:
    bank("visit", "grant", "bank", HOLDER, "--device", "laptop", *options, code=code)
    assert bank("visit", "list").lines == []


def test_names_that_mean_nothing(bank: Any) -> None:
    bank("visit", "grant", "bank", "did:key:nobody", code=64)
    bank("visit", "grant", "loans", HOLDER, code=64)
    bank("visit", "revoke", "abcdef", code=64)
    bank("visit", "revoke", "xyz", code=64)
    bank("visit", "list", "--since", "yesterday", code=64)


def test_the_token_alone_goes_to_stdout(bank: Any) -> None:
    ran = bank("visit", "grant", "bank", HOLDER, "--device", "laptop")
    (line,) = ran.lines
    assert len(base64.urlsafe_b64decode(line)) > 100
    assert "visit revoke" in ran.err

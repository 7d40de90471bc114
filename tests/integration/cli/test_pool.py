"""Several authorities on the command line: how many have stamped, who failed and why, until when it counts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from anchoring.tsa.dev import DevelopmentAuthority

Shell = Any
"""``conftest.Shell``."""

DOWN = "http://127.0.0.1:9/"


def with_one_that_is_down(shell: Shell, k: int) -> Shell:
    root = x509.load_der_x509_certificate(DevelopmentAuthority(shell.path("other-tsa")).root)
    shell.write("down.pem", root.public_bytes(Encoding.PEM))
    down = {"kind": "http", "url": DOWN, "root": str(shell.path("down.pem")), "policy": "1.2.3", "subject": "CN=TSA"}
    authorities = json.dumps([{"kind": "dev"}, down])
    changed: Shell = shell.at("home", HOLDFAST_AUTHORITIES=authorities, HOLDFAST_TIMESTAMPS__K=str(k))
    return changed


def test_too_few_is_not_done(shell: Shell) -> None:
    two = with_one_that_is_down(shell, 2)
    ran = two("anchor", "run", "--json", code=75)
    found = json.loads(ran.out)
    assert (found["authorities"], found["wanted"], len(found["tokens"])) == (1, 2, 1)
    assert "refused" in found["failures"][DOWN]
    assert "1 of the 2 authorities" in ran.err
    again = json.loads(two("anchor", "run", "--json", code=75).out)
    assert (again["tokens"], again["authorities"]) == ({}, 1)
    assert again["failures"][DOWN].startswith("not asked before ")
    assert "refused" in again["failures"][DOWN], "why it was not asked"
    at_once = json.loads(two("anchor", "run", "--now", "--json", code=75).out)
    assert "asked 3 times" in at_once["failures"][DOWN]


def test_enough_is_done_and_who_failed_is_said(shell: Shell) -> None:
    ran = with_one_that_is_down(shell, 1)("anchor", "run")
    assert DOWN in ran.err
    assert "authorities.json" in {file.name for file in shell.path("home").iterdir()}
    shell("anchor", "run")
    assert "authorities.json" not in {file.name for file in shell.path("home").iterdir()}, "no longer in the settings"


def test_status_says_who_has_stamped_and_until_when_that_counts(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = json.loads(shell("status", "--json").out)
    assert (bare["tokens"], bare["authorities"], bare["authorities_wanted"]) == (0, 0, 1)
    assert bare["tokens_expire"] is None
    shell("anchor", "run")
    ran = shell("status", "--json")
    found = json.loads(ran.out)
    assert (found["tokens"], found["authorities"], found["authorities_wanted"]) == (1, 1, 1)
    assert int(found["tokens_expire"][:4]) >= 2035
    assert "cease to count" not in ran.err
    monkeypatch.setattr("api.bootstrap.now_ms", lambda: 2**41 + 2**40)
    assert "cease to count soon" in shell("status", "--offline", "--json").err


def test_status_of_a_home_whose_policy_is_spoilt(shell: Shell) -> None:
    shell.write("home/policy.toml", "nonsense")
    ran = shell("status", "--json")
    assert json.loads(ran.out)["authorities"] is None
    assert "who is trusted cannot be read" in ran.err


def test_init_writes_k_and_refuses_what_can_never_be(shell: Shell) -> None:
    other = DevelopmentAuthority(shell.path("other-tsa"))
    root = x509.load_der_x509_certificate(other.root)
    shell.write("root.pem", root.public_bytes(Encoding.PEM))
    http = '[[authorities]]\nkind = "http"\nurl = "http://{}.example/"\nroot = "root.pem"\npolicy = "1.2.3"\n'
    http += 'subject = "CN={}"\n'
    base = 'format = 1\n[chain]\nkind = "none"\n[timestamps]\nk = 2\n'
    two = base + http.format("a", "A") + '[[authorities]]\nkind = "dev"\n'
    shell.write("two.toml", two)
    shell.at("new")("init", "--settings", "two.toml", "--phrase-file", "new-phrase.txt")
    assert "\nk = 2\n" in shell.path("new/policy.toml").read_text()
    shell.write("twins.toml", base + http.format("a", "A") + http.format("b", "B"))
    refused = shell.at("newer")("init", "--settings", "twins.toml", "--phrase-file", "newer-phrase.txt", code=78)
    assert "under 1 root keys" in refused.err
    assert not shell.path("newer").exists()

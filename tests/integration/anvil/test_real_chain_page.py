"""The steps of docs/how-to/real-chain.md on a chain that is not ours: from a key with coins to evidence."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from anchoring.chain.transactions import LocalKey

pytestmark = pytest.mark.integration

Anvil = Any
"""``conftest.Anvil``."""

SECRET = sha256(b"the key of the page").digest()


class Person:
    """Somebody who types the page's commands."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
        (directory / "pass.txt").write_text("a passphrase of six words\n")
        self.environ = kept | {
            "HOLDFAST_HOME": str(directory / "home"),
            "HOLDFAST_DEV_DIR": str(directory / "dev"),
            "HOLDFAST_PASSPHRASE_FILE": str(directory / "pass.txt"),
        }

    def __call__(self, line: str, *, code: int = 0, stdin: str = "") -> list[dict[str, Any]]:
        command = [sys.executable, "-m", "api.cli", *line.split(), "--json"]
        ran = subprocess.run(
            command, cwd=self.directory, env=self.environ, input=stdin, capture_output=True, text=True, check=False
        )
        assert ran.returncode == code, f"{line}: {ran.returncode}\n{ran.stdout}{ran.stderr}"
        assert "Traceback" not in ran.stderr
        return [json.loads(text) for text in ran.stdout.splitlines()]


@pytest.fixture
def nodes(own_anvil: Callable[..., Anvil]) -> Anvil:
    """A node whose blocks come by themselves, each second."""
    node = own_anvil("--block-time", "1")
    node.fund(LocalKey(SECRET).address)
    return node


def settings_of_the_page(root: Path, node: Anvil) -> str:
    page = (root / "docs" / "how-to" / "real-chain.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    changed = re.sub(r"urls = .*", f'urls = ["{node.url}"]', str(text))
    changed = re.sub(r"chain_id = .*", "chain_id = 31337", changed)
    changed = re.sub(r"confirmations = .*", "confirmations = 2", changed)
    return re.sub(r"\[\[authorities\]\].*", '[[authorities]]\nkind = "dev"\n', changed, flags=re.DOTALL)


def test_from_a_key_with_coins_to_evidence_that_verifies(root: Path, nodes: Anvil, tmp_path: Path) -> None:
    person = Person(tmp_path)
    (tmp_path / "bank.toml").write_text(settings_of_the_page(root, nodes))
    (tmp_path / "key.hex").write_text(SECRET.hex() + "\n")
    (tmp_path / "entries.jsonl").write_text('{"text": "one"}\n')
    founded = person("init --label Bank --settings bank.toml --anchor-key-file key.hex --phrase-file phrase.txt")[0]
    assert founded["anchor_account"] == "0x" + LocalKey(SECRET).address.hex()
    person("feed create ledger")
    person("feed append ledger entries.jsonl")
    person("checkpoint create")
    (done,) = person("anchor run --wait 60")
    assert (done["anchor"], done["failures"]) == ("final", {})
    (status,) = person("status")
    assert (status["state"], status["checkpoints_behind"], status["development"]) == ("consistent", 0, False)
    person("evidence export ledger 0 -o entry.json")
    report = person("verify entry.json --policy home/policy.toml", code=2)[0]
    assert "HEADER_NOT_TRUSTED" in {finding["reason"] for finding in report["findings"]}
    (pinned,) = person("headers fetch")
    assert (pinned["chain"], pinned["number"]) == (31337, done["block"])
    report = person("verify entry.json --policy home/policy.toml", code=2)[0]
    assert "HEADER_NOT_TRUSTED" not in {finding["reason"] for finding in report["findings"]}
    nodes.kill()
    (down,) = person("status", code=75)
    assert down["state"] == "unverified"
    (offline,) = person("status --offline")
    assert (offline["state"], offline["anchored"]) == ("consistent", done["size"])

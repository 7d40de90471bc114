"""The log's vectors (tests/vectors/log_*.json), as another implementation would run them."""

from __future__ import annotations

import json
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from identity.errors import MalformedError, VerificationError
from ledger.checkpoint import verify_checkpoint
from ledger.log import verify_consistency, verify_inclusion

VECTORS = Path(__file__).resolve().parents[2] / "vectors"


def hashes(texts: list[str]) -> list[bytes]:
    return [b64decode(text) for text in texts]


def inclusion(vector: dict[str, Any]) -> None:
    leaf_hash, root = hashes([vector["leafHash"], vector["root"]])
    verify_inclusion(vector["index"], vector["size"], leaf_hash, hashes(vector["proof"]), root)


def consistency(vector: dict[str, Any]) -> None:
    root1, root2 = hashes([vector["root1"], vector["root2"]])
    verify_consistency(vector["size1"], vector["size2"], hashes(vector["proof"]), root1, root2)


def checkpoint(vector: dict[str, Any]) -> None:
    verified = verify_checkpoint(vector["note"], vector["origin"], b64decode(vector["publicKey"]))
    assert (verified.size, verified.root) == (vector["size"], b64decode(vector["root"]))


RUNS = {"log_inclusion.json": inclusion, "log_consistency.json": consistency, "log_checkpoint.json": checkpoint}


@pytest.mark.parametrize("name", RUNS)
def test_vectors(name: str) -> None:
    vectors: list[dict[str, Any]] = json.loads((VECTORS / name).read_text())
    wrong = []
    for vector in vectors:
        refused = False
        try:
            RUNS[name](vector)
        except (MalformedError, VerificationError):
            refused = True
        if refused != vector["wantErr"]:
            wrong.append(vector["desc"])
    assert not wrong
    assert sum(vector["wantErr"] for vector in vectors) > 4 * sum(not vector["wantErr"] for vector in vectors)


def test_the_files_are_what_the_generator_writes() -> None:
    run = subprocess.run(
        [sys.executable, str(VECTORS / "make_log_vectors.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr

"""docs/spec/timestamp.md against the code: its example, its commands, its byte strings and its reasons."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from anchoring.timestamp import DEVELOPMENT_POLICY_OID, Authority, TimestampEvidence, verify_token
from anchoring.timestamp.response import DIGEST_ALGORITHMS
from anchoring.timestamp.rules import SIGNATURE_ALGORITHMS

ROOT = Path(__file__).parents[3]
AT_MS = 1_780_315_260_000


@pytest.fixture(scope="module")
def spec() -> str:
    return (ROOT / "docs" / "spec" / "timestamp.md").read_text(encoding="utf-8")


def block(spec: str, language: str) -> str:
    """The one fenced block of that kind, or the first of several."""
    match = re.search(rf"^```{language}\n(.*?)^```$", spec, re.MULTILINE | re.DOTALL)
    assert match is not None, f"no block {language}"
    return match[1]


def decoded(spec: str, name: str) -> bytes:
    return base64.b64decode(block(spec, f"base64 {name}"))


def stated(spec: str, name: str) -> int:
    match = re.search(rf"^{name} +(\d+)", spec, re.MULTILINE)
    assert match is not None
    return int(match[1])


def test_the_example_verifies(spec: str) -> None:
    note = block(spec, "note").encode()
    assert hashlib.sha256(note).hexdigest() in block(spec, "text")
    subject = re.search(r"`(CN=holdfast TSA [0-9a-f]{8} DEVELOPMENT ONLY)`", spec)
    assert subject is not None
    assert f"policy `{DEVELOPMENT_POLICY_OID}`" in spec
    authority = Authority(decoded(spec, "root"), DEVELOPMENT_POLICY_OID, subject[1])
    evidence = TimestampEvidence(decoded(spec, "response"), crls=(decoded(spec, "crl"),))
    verified = verify_token(evidence, note, authority, at_ms=AT_MS)
    assert f"`at` = {AT_MS}" in spec
    assert verified.gen_time_ms == stated(spec, "genTime")
    assert verified.accuracy_ms == stated(spec, "accuracy")
    assert (verified.earliest_ms, verified.latest_ms) == (stated(spec, "earliest"), stated(spec, "latest"))
    assert verified.serial == stated(spec, "serial")
    assert verified.development


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_the_printed_commands_run(spec: str, tmp_path: Path) -> None:
    (tmp_path / "note").write_text(block(spec, "note"), encoding="utf-8")
    for name in ("response", "crl", "root"):
        (tmp_path / f"{name}.b64").write_text(block(spec, f"base64 {name}"), encoding="ascii")
    done = subprocess.run(
        ["sh", "-e"], input=block(spec, "sh"), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(block(spec, "note").encode()).hexdigest() in done.stdout
    assert "Status: Granted." in done.stdout
    assert "Verification: OK" in done.stdout
    assert "verify OK" in done.stderr


def test_every_reason_is_listed_and_no_other(spec: str) -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "anchoring" / "timestamp").glob("*.py"))
    rejected = set(re.findall(r'TokenRejected\(\s*"([A-Z0-9_]+)"', sources))
    undecided = set(re.findall(r'TokenUndecided\(\s*"([A-Z0-9_]+)"', sources))
    tables = spec.partition("## 10. Reasons")[2].partition("## 11.")[0].partition("Undecided")
    assert set(re.findall(r"^\| ([A-Z0-9_]+) \|", tables[0], re.MULTILINE)) == rejected
    assert set(re.findall(r"^\| ([A-Z0-9_]+) \|", tables[2], re.MULTILINE)) == undecided


def test_the_algorithms_are_listed(spec: str) -> None:
    section = spec.partition("## 6. Algorithms")[2].partition("## 7.")[0]
    for identifier in DIGEST_ALGORITHMS:
        assert identifier.hex() in section
    for identifier in SIGNATURE_ALGORITHMS:
        assert (
            identifier.hex() in section or f"...{identifier.hex()[-(4 if identifier[1] == 0x0A else 6) :]}" in section
        )

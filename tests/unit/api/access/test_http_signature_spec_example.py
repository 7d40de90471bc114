"""The worked example of docs/spec/http-signature.md."""

from __future__ import annotations

import re
from pathlib import Path

from api.access.request import HttpRequest
from api.access.signatures import sign_request, verify_request
from identity.keys import Ed25519Signer

SPEC = (Path(__file__).resolve().parents[4] / "docs" / "spec" / "http-signature.md").read_text("utf-8")


def test_the_example_is_what_its_inputs_give() -> None:
    (fence,) = re.findall(r"```text\n(PATCH .*?)\n```", SPEC, re.DOTALL)
    line, head, body = fence.split("\n\n")
    method, url = line.split(" ")
    headers = tuple((name, value) for name, value in (row.split(": ", 1) for row in head.splitlines()))
    signer = Ed25519Signer(b"\1" * 32)
    request = HttpRequest(method, url, headers, body.encode())
    assert verify_request(request, 1_800_000_000).key == signer.public_key
    bare = HttpRequest(method, url, headers[:2], body.encode())
    assert sign_request(signer, bare, created=1_800_000_000, nonce="AAECAwQFBgcICQoLDA0ODw") == headers[2:]


def test_every_refusal_has_its_name_in_the_table() -> None:
    sources = Path(__file__).resolve().parents[4] / "api" / "access"
    text = "".join((sources / name).read_text("utf-8") for name in ("signatures.py", "nonces.py"))
    raised = set(re.findall(r'Unauthenticated\(\s*"([A-Z_]+)"', text)) | {"NO_SIGNATURE", "UNKNOWN_KEY"}
    stated = set(re.findall(r"^\| `([A-Z_]+)` \|", SPEC, re.MULTILINE))
    assert raised == stated

"""The worked example of docs/spec/pairing.md."""

from __future__ import annotations

import re
from pathlib import Path

from api.pairing import Party, make_code, safety_number
from identity.keys import Ed25519Signer
from identity.textforms import to_did_key

SPEC = (Path(__file__).resolve().parents[3] / "docs" / "spec" / "pairing.md").read_text("utf-8")
STATED = dict(re.findall(r"^(\S.*?) = (.*)$", re.findall(r"```text\n(.*?)```", SPEC, re.DOTALL)[0], re.MULTILINE))


def test_the_example() -> None:
    devices = [Ed25519Signer(bytes([seed]) * 32).public_key for seed in (1, 2)]
    node, guest = Party(b"\x0a" * 32, devices[0]), Party(b"\x0b" * 32, devices[1])
    assert {
        "device of A": to_did_key(node.device),
        "device of B": to_did_key(guest.device),
        "safety number": safety_number(node, guest),
        "code of the random bytes 00 01 .. 0f": make_code(bytes(range(16))),
    } == STATED

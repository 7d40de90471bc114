"""What a case is, and the changes that make one from genuine evidence."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from anchoring.evidence import Evidence, encode_evidence

__all__ = [
    "Case",
    "Origin",
    "Trust",
    "bump_size",
    "edit",
    "first",
    "flipped",
    "other_spelling",
    "replaced",
    "revoked_since",
    "size_of",
    "to_bytes",
    "with_line",
]

EXIT_CODES = {"_fail": 1, "_open": 2, "_config": 78}

Change = Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class Trust:
    """What a verifier is given beside the evidence."""

    policy: str
    headers: str
    at: datetime

    def with_policy(self, old: str, new: str) -> Trust:
        """With one place of the policy changed."""
        assert self.policy.count(old) == 1, old
        return replace(self, policy=self.policy.replace(old, new))


@dataclass(frozen=True)
class Case:
    """A case. ``findings``, as ``claim STATUS REASON``, are what the case is about; others may follow from them."""

    name: str
    why: str
    evidence: bytes
    trust: Trust
    findings: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        return EXIT_CODES.get("_" + self.name.rpartition("_")[2], 0)


@dataclass(frozen=True)
class Origin:
    """Genuine evidence with the trust under which it passes; cases are made by changing one of them."""

    evidence: Evidence
    trust: Trust

    def case(self, name: str, why: str, *findings: str, trust: Trust | None = None) -> Case:
        return Case(name, why, encode_evidence(self.evidence), trust or self.trust, findings)

    def spoilt(self, name: str, why: str, change: Change, *findings: str) -> Case:
        """With the JSON document changed in place."""
        document = self.document()
        change(document)
        return Case(name, why, to_bytes(document), self.trust, findings)

    def malformed(self, name: str, why: str, change: Change | None = None, *, data: bytes = b"") -> Case:
        """With a document that is no evidence file: nothing else may be judged then."""
        case = self.spoilt(name, why, change or (lambda _: None), "integrity FAILED MALFORMED")
        return replace(case, evidence=data) if change is None else case

    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(encode_evidence(self.evidence))
        return document


def first(document: dict[str, Any]) -> dict[str, Any]:
    """The first checkpoint of the document."""
    member: dict[str, Any] = document["log"]["checkpoints"][0]
    return member


def edit(container: Any, key: Any, change: Callable[[bytes], bytes]) -> None:
    """Change a base64 member as bytes."""
    container[key] = b64encode(change(b64decode(container[key]))).decode()


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        assert data.count(old) == 1
        return data.replace(old, new)

    return change


def flipped(position: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        altered = bytearray(data)
        altered[position] ^= 1
        return bytes(altered)

    return change


def other_spelling(text: str) -> str:
    """The base64 of the same 32 bytes with the lowest of the unused bits set."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    altered = text[:-2] + alphabet[alphabet.index(text[-2]) + 1] + "="
    assert b64decode(altered) == b64decode(text)
    return altered


def size_of(note: str) -> int:
    return int(note.split("\n")[1])


def bump_size(note: str) -> str:
    return note.replace(f"\n{size_of(note)}\n", f"\n{size_of(note) + 1}\n", 1)


def with_line(trust: Trust, key: str, line: str) -> Trust:
    """With the policy's line of that key replaced."""
    lines = [line if text.startswith(f"{key} = ") else text for text in trust.policy.splitlines()]
    assert line in lines
    return replace(trust, policy="\n".join(lines) + "\n")


def revoked_since(trust: Trust, moment: datetime) -> Trust:
    """With the policy's first authority said to be revoked since then."""
    before, mark, after = trust.policy.partition("root = ")
    return replace(trust, policy=f"{before}revoked = {moment.isoformat()}\n{mark}{after}")


def to_bytes(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()

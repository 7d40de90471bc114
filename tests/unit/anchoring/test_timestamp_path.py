"""The wrapper around pyHanko: each of the four things it answers is looked at, and whatever it raises is a refusal."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from anchoring.timestamp.path import PathInput, validate_token
from identity.errors import TokenRejected


class Certificate:
    def __init__(self, der: bytes) -> None:
        self.der = der

    def dump(self) -> bytes:
        return self.der


class Path:
    """A validated path, root side first, as pyHanko gives it."""

    def __init__(self, *certificates: bytes) -> None:
        self.certificates = certificates

    def iter_certs(self, *, include_root: bool) -> Iterator[Certificate]:
        assert not include_root
        return (Certificate(der) for der in self.certificates)


class Indication:
    def __init__(self, name: str) -> None:
        self.name = name


GOOD = {"intact": True, "valid": True, "trust_problem_indic": None, "validation_path": Path(b"middle", b"signer")}


def validate(monkeypatch: pytest.MonkeyPatch, maker: Any, **changes: Any) -> None:
    async def answer() -> dict[str, Any]:
        return {**GOOD, **changes}

    monkeypatch.setattr("anchoring.timestamp.path._start", lambda *_: answer())
    validate_token(b"", PathInput([b"signer", b"middle"], b"root", (), (), maker.now))


def test_all_four_good(monkeypatch: pytest.MonkeyPatch, maker: Any) -> None:
    validate(monkeypatch, maker)


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("SIGNATURE", {"intact": False}),
        ("SIGNATURE", {"valid": False}),
        ("REVOKED", {"trust_problem_indic": Indication("REVOKED_NO_POE")}),
        ("REVOKED", {"trust_problem_indic": Indication("REVOKED_CA_NO_POE")}),
        ("PATH", {"trust_problem_indic": Indication("TRY_LATER")}),
        ("PATH", {"validation_path": None}),
        ("PATH", {"validation_path": Path()}),
        ("PATH", {"validation_path": Path(b"signer")}),
        ("PATH", {"validation_path": Path(b"signer", b"middle")}),
        ("PATH", {"validation_path": Path(b"other", b"signer")}),
    ],
)
def test_one_of_them_bad(monkeypatch: pytest.MonkeyPatch, maker: Any, reason: str, changes: dict[str, Any]) -> None:
    with pytest.raises(TokenRejected) as caught:
        validate(monkeypatch, maker, **changes)
    assert caught.value.reason == reason


@pytest.mark.parametrize("error", [ValueError, KeyError, AssertionError, NotImplementedError, RecursionError])
def test_whatever_is_raised_is_a_refusal(monkeypatch: pytest.MonkeyPatch, maker: Any, error: type[Exception]) -> None:
    async def fail() -> dict[str, Any]:
        raise error("inside")

    monkeypatch.setattr("anchoring.timestamp.path._start", lambda *_: fail())
    with pytest.raises(TokenRejected, match="inside") as caught:
        validate_token(b"", PathInput([], b"", (), (), maker.now))
    assert caught.value.reason == "VALIDATION"


def test_nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch, maker: Any) -> None:
    async def wait() -> dict[str, Any]:
        await asyncio.sleep(0)
        return GOOD

    monkeypatch.setattr("anchoring.timestamp.path._start", lambda *_: wait())
    with pytest.raises(TokenRejected, match="waits"):
        validate_token(b"", PathInput([], b"", (), (), maker.now))

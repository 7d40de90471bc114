"""Tokens without one: how points are read, and how a library's errors come out. A real one: tests/integration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pkcs11
import pytest
from pkcs11 import Attribute, ObjectClass, TokenFlag, exceptions

from identity.errors import (
    ConfigurationError,
    MalformedError,
    RefusedError,
    SignatureMismatch,
    TransportError,
    WrongPin,
)
from identity.keys import Ed25519Signer, TokenKey
from identity.pkcs11 import TokenModule, parse_ec_point

KEY = Ed25519Signer(b"\x01" * 32)


def test_both_encodings_of_a_point() -> None:
    assert parse_ec_point(KEY.public_key) == parse_ec_point(b"\x04\x20" + KEY.public_key) == KEY.public_key


@pytest.mark.parametrize(
    "point",
    [
        b"",
        b"\x04\x20",
        KEY.public_key[:31],
        b"\x04" + KEY.public_key,
        b"\x03\x20" + KEY.public_key,
        b"\x04\x20" + KEY.public_key + b"\0",
        b"\x04\x39" + bytes(57),
        b"\x04\x81\x20" + KEY.public_key,
    ],
)
def test_points_that_are_none(point: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_ec_point(point)


# --- a library whose every step can fail ------------------------------------------------------------------------------


class Handle(dict[Any, Any]):
    """An object in the token; the private half signs."""

    def __init__(self, token: Token, kind: ObjectClass, signer: Ed25519Signer, point: bytes, id_: bytes) -> None:
        super().__init__({Attribute.CLASS: kind, Attribute.EC_POINT: point, Attribute.ID: id_})
        self.token, self.signer = token, signer

    def sign(self, data: bytes, mechanism: object) -> bytes:
        self.token.step("sign")
        return self.token.lie(self.signer.sign(data))


class Token:
    """Stands in for the library, its one token, and a session with that."""

    label = "desk"
    flags: TokenFlag = TokenFlag(0)

    def __init__(self) -> None:
        self.fails: dict[str, Exception] = {}
        self.objects: list[Handle] = []
        self.open_sessions = self.logins = 0
        self.lie: Any = lambda signature: signature

    def step(self, name: str) -> None:
        if name in self.fails:
            raise self.fails[name]

    def add(self, signer: Ed25519Signer, *, wrapped: bool = True, private: Ed25519Signer | None = None) -> None:
        point = (b"\x04\x20" if wrapped else b"") + signer.public_key
        id_ = b"%d" % len(self.objects)
        self.objects += [
            Handle(self, ObjectClass.PUBLIC_KEY, signer, point, id_),
            Handle(self, ObjectClass.PRIVATE_KEY, private or signer, b"", id_),
        ]

    def get_tokens(self) -> list[Token]:
        self.step("find")
        return [self]

    def reinitialize(self) -> None:
        self.step("reinitialize")

    def open(self, user_pin: str | None = None, rw: bool = False) -> Token:
        self.logins += user_pin is not None
        if user_pin is not None:
            self.step("login")
        self.step("open")
        self.open_sessions += 1
        return self

    def get_objects(self, wanted: dict[Attribute, Any]) -> Iterator[Handle]:
        self.step("search")
        asked = {name: value for name, value in wanted.items() if name is not Attribute.KEY_TYPE}
        return iter([one for one in self.objects if all(one[name] == value for name, value in asked.items())])

    def close(self) -> None:
        self.open_sessions -= 1
        self.step("close")


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> Token:
    made = Token()
    made.add(KEY)
    monkeypatch.setattr(pkcs11, "lib", lambda path: made)
    return made


@pytest.fixture
def module(token: Token, tmp_path: Path) -> Iterator[TokenModule]:
    library = tmp_path / "library.so"
    library.write_bytes(b"")
    opened = TokenModule(library, lambda label: f"pin of {label}")
    yield opened
    opened.close()
    opened.close()
    assert token.open_sessions == 0, "every session was ended"


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_key_is_found_by_its_public_key(token: Token, module: TokenModule, wrapped: bool) -> None:
    other = Ed25519Signer(b"\x02" * 32)
    token.add(other, wrapped=wrapped)
    signer = module.signer(TokenKey(other.public_key, "desk"))
    assert (signer.public_key, signer.sign(b"m")) == (other.public_key, other.sign(b"m"))
    assert [one.public_key for one in module.signers("desk")] == [KEY.public_key, other.public_key]
    assert token.logins == 1, "the PIN is asked for once"


def test_keys_of_another_curve_are_passed_over(token: Token, module: TokenModule) -> None:
    token.objects.insert(0, Handle(token, ObjectClass.PUBLIC_KEY, KEY, b"\x04\x39" + bytes(57), b"x"))
    assert len(module.signers("desk")) == 1


def test_a_public_key_without_its_private_half(token: Token, module: TokenModule) -> None:
    del token.objects[1]
    with pytest.raises(RefusedError, match="does not hold the key"):
        module.signer(TokenKey(KEY.public_key, "desk"))


@pytest.mark.parametrize(
    ("error", "flags", "says"),
    [
        (exceptions.PinIncorrect(), TokenFlag(0), "a few wrong ones lock the token"),
        (exceptions.PinIncorrect(), TokenFlag.USER_PIN_COUNT_LOW, "a few wrong ones lock the token"),
        (exceptions.PinIncorrect(), TokenFlag.USER_PIN_FINAL_TRY, "one try is left"),
        (exceptions.PinIncorrect(), TokenFlag.USER_PIN_LOCKED, "is locked now"),
        (exceptions.PinLenRange(), TokenFlag(0), "was refused"),
        (exceptions.PinLocked(), TokenFlag(0), "'desk' is locked"),
    ],
)
def test_tries_that_are_left(token: Token, module: TokenModule, error: Exception, flags: TokenFlag, says: str) -> None:
    token.fails["login"], token.flags = error, flags
    with pytest.raises(WrongPin, match=says) as caught:
        module.signers("desk")
    assert "pin of desk" not in f"{caught.value} {caught.value.hint}"
    token.fails.clear()
    assert len(module.signers("desk")) == 1, "a wrong PIN is not remembered"


@pytest.mark.parametrize("step", ["find", "open", "search", "sign"])
@pytest.mark.parametrize("error", [exceptions.DeviceRemoved(), exceptions.GeneralError(), exceptions.TokenNotPresent()])
def test_a_token_that_is_gone_at_any_step(token: Token, module: TokenModule, step: str, error: Exception) -> None:
    token.fails[step] = error
    with pytest.raises(TransportError, match=type(error).__name__):
        module.signer(TokenKey(KEY.public_key, "desk"))


def test_a_token_that_is_pulled_out_later(token: Token, module: TokenModule) -> None:
    signer = module.signer(TokenKey(KEY.public_key, "desk"))
    token.fails |= {"sign": exceptions.DeviceRemoved(), "close": exceptions.SessionHandleInvalid()}
    with pytest.raises(TransportError, match="DeviceRemoved"):
        signer.sign(b"m")


def test_signatures_that_are_none(token: Token, module: TokenModule) -> None:
    token.lie = lambda signature: signature[:63]
    with pytest.raises(TransportError, match="63 bytes"):
        module.signers("desk")
    token.lie = lambda signature: bytes(64)
    with pytest.raises(SignatureMismatch):
        module.signers("desk")


def test_a_private_key_of_somebody_else(token: Token, module: TokenModule) -> None:
    honest = Ed25519Signer(b"\x03" * 32)
    token.add(honest, private=KEY)
    with pytest.raises(SignatureMismatch):
        module.signer(TokenKey(honest.public_key, "desk"))


def test_another_session_of_this_process_has_logged_in(token: Token, module: TokenModule) -> None:
    token.fails["login"] = exceptions.UserAlreadyLoggedIn()
    assert len(module.signers("desk")) == 1


def test_a_library_that_cannot_be_loaded(module: TokenModule, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> None:
        raise RuntimeError("invalid ELF header")

    monkeypatch.setattr(pkcs11, "lib", fail)
    with pytest.raises(ConfigurationError, match="invalid ELF header"):
        module.signers("desk")

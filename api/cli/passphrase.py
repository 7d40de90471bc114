"""Where a passphrase or a PIN comes from: a file, an open file descriptor, or a prompt; never the command line itself.

The sources are asked in that order, the more explicit first:

    --passphrase-file FILE      HOLDFAST_PASSPHRASE_FD=3      HOLDFAST_PASSPHRASE_FILE=FILE      a terminal
    --pin-file FILE             HOLDFAST_PIN_FD=3             HOLDFAST_PIN_FILE=FILE             a terminal
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from api.cli.exit_codes import UsageError
from identity.errors import ConfigurationError, LimitExceeded, MalformedError, StorageError

__all__ = [
    "FD_VARIABLE",
    "FILE_VARIABLE",
    "MAX_PASSPHRASE_BYTES",
    "PIN_FD_VARIABLE",
    "PIN_FILE_VARIABLE",
    "read_passphrase",
    "read_pin",
]

FD_VARIABLE: Final = "HOLDFAST_PASSPHRASE_FD"
FILE_VARIABLE: Final = "HOLDFAST_PASSPHRASE_FILE"
PIN_FD_VARIABLE: Final = "HOLDFAST_PIN_FD"
PIN_FILE_VARIABLE: Final = "HOLDFAST_PIN_FILE"
MAX_PASSPHRASE_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class _Kind:
    """What is asked for: how it is called, how it is prompted for, and the names of its sources."""

    name: str
    prompt: str
    option: str
    """Empty when not every command has it."""
    fd_variable: str
    file_variable: str

    @property
    def hint(self) -> str:
        variables = f"set {self.file_variable} or {self.fd_variable}"
        return f"give {self.option} FILE, or {variables}" if self.option else variables


_PASSPHRASE: Final = _Kind("passphrase", "Passphrase: ", "--passphrase-file", FD_VARIABLE, FILE_VARIABLE)


def read_passphrase(
    file: Path | None,
    environ: Mapping[str, str],
    *,
    ask_twice: bool = False,
    prompt: Callable[[str], str] | None = None,
) -> str:
    """The passphrase. ``ask_twice`` at a prompt for a new one; ``prompt`` stands in for the terminal in tests.

    One line end at the end of a file is not part of it. Raises ``UsageError`` when there is no source, ``StorageError``
    when the file cannot be read, ``MalformedError`` when what it holds cannot be a passphrase.
    """
    return _read(_PASSPHRASE, file, environ, ask_twice=ask_twice, prompt=prompt)


def read_pin(
    token: str, file: Path | None, environ: Mapping[str, str], *, prompt: Callable[[str], str] | None = None
) -> str:
    """The PIN of a hardware token, which the prompt calls by its label. As ``read_passphrase`` otherwise."""
    kind = _Kind("PIN", f"PIN of token {token!r}: ", "", PIN_FD_VARIABLE, PIN_FILE_VARIABLE)
    return _read(kind, file, environ, ask_twice=False, prompt=prompt)


def _read(
    kind: _Kind,
    file: Path | None,
    environ: Mapping[str, str],
    *,
    ask_twice: bool,
    prompt: Callable[[str], str] | None,
) -> str:
    if file is not None:
        return _from_file(kind, file)
    if descriptor := environ.get(kind.fd_variable):
        return _from_descriptor(kind, descriptor)
    if named := environ.get(kind.file_variable):
        return _from_file(kind, Path(named))
    if prompt is None and _has_terminal():
        prompt = getpass.getpass
    if prompt is None:
        raise UsageError(f"no {kind.name}, and no terminal to ask for one", hint=kind.hint)
    return _from_prompt(kind, prompt, ask_twice=ask_twice)


def _has_terminal() -> bool:
    """Whether somebody can be asked. Records may come through stdin meanwhile: getpass asks the terminal itself."""
    if not sys.stderr.isatty():
        return False
    if sys.stdin.isatty():
        return True
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _from_file(kind: _Kind, path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return _parse(stream.read(MAX_PASSPHRASE_BYTES + 2), str(path))
    except OSError as exc:
        raise StorageError(f"cannot read the {kind.name} file {path}: {exc.strerror}") from exc


def _from_descriptor(kind: _Kind, text: str) -> str:
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise ConfigurationError(f"{kind.fd_variable} is not the number of an open file: {text!r}")
    try:
        with os.fdopen(int(text), "rb") as stream:
            return _parse(stream.read(MAX_PASSPHRASE_BYTES + 2), kind.fd_variable)
    except OSError as exc:
        raise ConfigurationError(f"{kind.fd_variable} names no file that can be read: {exc.strerror}") from exc


def _from_prompt(kind: _Kind, prompt: Callable[[str], str], *, ask_twice: bool) -> str:
    try:
        first = prompt(kind.prompt)
        second = prompt("The same again: ") if ask_twice else first
    except EOFError as exc:
        raise UsageError(f"no {kind.name} was given", hint=kind.hint) from exc
    if first != second:
        raise UsageError(f"the two {kind.name}s differ")
    return _parse(first.encode("utf-8", "surrogateescape"), f"the {kind.name}")


def _parse(data: bytes, source: str) -> str:
    data = data.removesuffix(b"\n").removesuffix(b"\r")
    if len(data) > MAX_PASSPHRASE_BYTES:
        raise LimitExceeded(f"{source}: longer than {MAX_PASSPHRASE_BYTES} bytes")
    if not data:
        raise MalformedError(f"{source}: empty")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise MalformedError(f"{source}: not UTF-8 text") from exc

"""Where a passphrase comes from: a file, an open file descriptor, or a prompt; never the command line itself.

The sources are asked in that order, the more explicit first:

    --passphrase-file FILE      HOLDFAST_PASSPHRASE_FD=3      HOLDFAST_PASSPHRASE_FILE=FILE      a terminal
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from api.cli.exit_codes import UsageError
from identity.errors import ConfigurationError, LimitExceeded, MalformedError, StorageError

__all__ = ["FD_VARIABLE", "FILE_VARIABLE", "MAX_PASSPHRASE_BYTES", "read_passphrase"]

FD_VARIABLE: Final = "HOLDFAST_PASSPHRASE_FD"
FILE_VARIABLE: Final = "HOLDFAST_PASSPHRASE_FILE"
MAX_PASSPHRASE_BYTES: Final = 4096

_HINT: Final = f"give --passphrase-file FILE, or set {FILE_VARIABLE} or {FD_VARIABLE}"


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
    if file is not None:
        return _from_file(file)
    if descriptor := environ.get(FD_VARIABLE):
        return _from_descriptor(descriptor)
    if named := environ.get(FILE_VARIABLE):
        return _from_file(Path(named))
    if prompt is None and _has_terminal():
        prompt = getpass.getpass
    if prompt is None:
        raise UsageError("no passphrase, and no terminal to ask for one", hint=_HINT)
    return _from_prompt(prompt, ask_twice=ask_twice)


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


def _from_file(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return _parse(stream.read(MAX_PASSPHRASE_BYTES + 2), str(path))
    except OSError as exc:
        raise StorageError(f"cannot read the passphrase file {path}: {exc.strerror}") from exc


def _from_descriptor(text: str) -> str:
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise ConfigurationError(f"{FD_VARIABLE} is not the number of an open file: {text!r}")
    try:
        with os.fdopen(int(text), "rb") as stream:
            return _parse(stream.read(MAX_PASSPHRASE_BYTES + 2), FD_VARIABLE)
    except OSError as exc:
        raise ConfigurationError(f"{FD_VARIABLE} names no file that can be read: {exc.strerror}") from exc


def _from_prompt(prompt: Callable[[str], str], *, ask_twice: bool) -> str:
    try:
        first = prompt("Passphrase: ")
        second = prompt("The same again: ") if ask_twice else first
    except EOFError as exc:
        raise UsageError("no passphrase was given", hint=_HINT) from exc
    if first != second:
        raise UsageError("the two passphrases differ")
    return _parse(first.encode("utf-8", "surrogateescape"), "the passphrase")


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

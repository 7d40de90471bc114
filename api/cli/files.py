"""Files that commands read and write: bounded, ``-`` for stdin and stdout, and never half written."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

from api.cli.output import Output, OutputClosed, Plain
from api.home import Home
from identity.durable import drafted
from identity.errors import LimitExceeded, RefusedError, StorageError

__all__ = ["open_input", "open_output", "read_input", "rewindable", "source_name", "written"]

_STANDARD = Path("-")


def source_name(path: Path) -> str:
    """What errors call an input."""
    return "stdin" if path == _STANDARD else str(path)


@contextmanager
def open_input(path: Path) -> Iterator[BinaryIO]:
    """The file at ``path``, or stdin for ``-``. Raises ``StorageError`` when it cannot be opened."""
    if path == _STANDARD:
        yield sys.stdin.buffer
        return
    try:
        stream = path.open("rb")
    except OSError as exc:
        raise StorageError(f"cannot read {path}: {exc.strerror}") from exc
    with stream:
        yield stream


@contextmanager
def rewindable(stream: BinaryIO) -> Iterator[BinaryIO]:
    """The stream, or a copy when it can be read only once, for who reads it twice."""
    if stream.seekable():
        yield stream
        return
    with TemporaryFile() as copy:
        shutil.copyfileobj(stream, copy)
        copy.seek(0)
        yield copy


def read_input(path: Path, most: int) -> bytes:
    """All bytes of an input of at most ``most``. Raises ``LimitExceeded`` for more."""
    with open_input(path) as stream:
        try:
            data = stream.read(most + 1)
        except OSError as exc:
            raise StorageError(f"cannot read {source_name(path)}: {exc.strerror}") from exc
    if len(data) > most:
        raise LimitExceeded(f"{source_name(path)}: more than {most} bytes")
    return data


@contextmanager
def open_output(out: Output, path: Path, *, force: bool = False) -> Iterator[BinaryIO]:
    """A file that appears at ``path`` whole when the block ends well, or not at all; stdout for ``-``.

    Raises ``RefusedError`` when something is there and ``force`` is not given.
    """
    if path == _STANDARD:
        with _stdout(out) as stream:
            yield stream
        return
    if path.is_dir():
        raise RefusedError(f"{path} is a directory")
    if path.exists() and not force:
        raise RefusedError(f"{path} exists", hint="name another file, or give --force")
    if path.exists() and not path.is_file():  # root would put a plain file in the place of a device
        raise RefusedError(f"{path} is not a plain file", hint="- is stdout")
    if _is_vital(path):
        raise RefusedError(f"{path} is what a home lives on", hint="name another file")
    with drafted(path) as stream:
        yield stream


def _is_vital(path: Path) -> bool:
    """Whether it is a home's store, its keystore or its keys: no command writes them so, nothing brings them back."""
    found = path.resolve()
    home = Home(found.parent)
    return home.settings.exists() and found in (home.database, home.keystore, home.document_keys)


@contextmanager
def _stdout(out: Output) -> Iterator[BinaryIO]:
    out.flush()
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except BrokenPipeError as exc:
        raise OutputClosed from exc


def written(out: Output, kind: str, path: Path, facts: Mapping[str, Plain]) -> None:
    """Answer what was written to ``path``; nothing when that was stdout, which holds the file itself."""
    if path != _STANDARD:
        out.record(kind, {"file": str(path), **facts})

"""Files that commands read and write: bounded, ``-`` for stdin and stdout, and never half written."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from api.cli.output import Output
from identity.errors import LimitExceeded, RefusedError, StorageError

__all__ = ["open_input", "open_output", "read_input"]

_STANDARD = Path("-")


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


def read_input(path: Path, most: int) -> bytes:
    """All bytes of an input of at most ``most``. Raises ``LimitExceeded`` for more."""
    with open_input(path) as stream:
        try:
            data = stream.read(most + 1)
        except OSError as exc:
            raise StorageError(f"cannot read {path}: {exc.strerror}") from exc
    if len(data) > most:
        raise LimitExceeded(f"{path}: more than {most} bytes")
    return data


@contextmanager
def open_output(out: Output, path: Path, *, force: bool = False) -> Iterator[BinaryIO]:
    """A file that appears at ``path`` whole when the block ends well, or not at all; stdout for ``-``.

    Raises ``RefusedError`` when something is there and ``force`` is not given.
    """
    if path == _STANDARD:
        out.flush()
        yield sys.stdout.buffer
        return
    if path.exists() and not force:
        raise RefusedError(f"{path} exists", hint="name another file, or give --force")
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    except OSError as exc:
        raise StorageError(f"cannot write {path}: {exc.strerror}") from exc
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        draft.chmod(0o644)
        draft.replace(path)
    except OSError as exc:
        raise StorageError(f"cannot write {path}: {exc.strerror}") from exc
    finally:
        draft.unlink(missing_ok=True)

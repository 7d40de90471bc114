"""Files that appear whole or not at all, and are still there after a power cut.

Data goes into a draft in the same directory, the draft is made durable, moved into its place in one step, and the move
is made durable. Whoever opens the file at any moment finds the old content or the new, never a part of either.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from identity.errors import StorageError

__all__ = ["PRIVATE", "PUBLIC", "create_file", "drafted", "replace_file", "sync_directory", "sync_file"]

PRIVATE: Final = 0o600
"""For files that only their owner reads."""
PUBLIC: Final = 0o666
"""For files that others may read, as far as the umask lets them."""


@contextmanager
def drafted(path: Path, *, mode: int = PUBLIC, replace: bool = True) -> Iterator[BinaryIO]:
    """A stream whose content stands at ``path``, durably, when the block has ended without an exception.

    Otherwise ``path`` is as it was. Raises ``StorageError`` when a file cannot be made or written there; without
    ``replace`` ``FileExistsError`` when something is there at the end, which is left alone.
    """
    with _translated(path), _draft(path, mode) as draft:
        with os.fdopen(os.open(draft, os.O_WRONLY), "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if replace:
            draft.replace(path)
        else:
            _put_in_place(draft, path)
        sync_directory(path.parent)


def replace_file(path: Path, data: bytes, *, mode: int = PUBLIC) -> None:
    """Put ``data`` at ``path``, in the place of what may be there. Raises ``StorageError``; then it is as it was."""
    with drafted(path, mode=mode) as stream:
        stream.write(data)


def create_file(path: Path, data: bytes, *, mode: int = PUBLIC) -> None:
    """Make a file with ``data`` at ``path``, where there must be none.

    Raises ``FileExistsError`` when there is one, which is left alone, ``StorageError`` for all else.
    """
    with drafted(path, mode=mode, replace=False) as stream:
        stream.write(data)


def _put_in_place(draft: Path, path: Path) -> None:
    """Give the draft its name. Raises ``FileExistsError`` when something has it."""
    try:
        path.hardlink_to(draft)  # unlike a rename, never replaces what another process has put there meanwhile
    except OSError as exc:
        if exc.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "exists") from exc
        draft.rename(path)  # a removable medium whose file system knows no links


def sync_file(path: Path) -> None:
    """Make the content of a file durable. Raises ``StorageError``."""
    _sync(path, os.O_RDONLY)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable. Raises ``StorageError``."""
    _sync(directory, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    try:
        descriptor = os.open(path, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise StorageError(f"{path}: {exc.strerror}; what was written there may not survive a power cut") from exc


@contextmanager
def _draft(path: Path, mode: int) -> Iterator[Path]:
    """An empty file beside ``path``, which is gone afterwards unless it was moved."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
    try:
        yield draft
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise
    except OSError as exc:
        raise StorageError(f"cannot write {path}: {exc.strerror}") from exc

"""The sentinel's file: read at a start, and written after each commit of the store, before anybody is told of it.

Implements docs/spec/sentinel.md. It is not made durable at each write: after a power cut it may be older than the
store, which is no alarm, while a store that is older than it is one.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from identity.durable import PRIVATE, sync_directory
from identity.errors import StorageError
from ledger.sentinel import FILE_BYTES, Reading, Sentinel, encode_slot, read_slots, slot_offset, updated
from ledger.store import Committed

__all__ = ["SentinelFile", "machine_id"]

_MACHINE_IDS: Final = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_MAX_ID_BYTES: Final = 256


class SentinelFile:
    """The sentinel of one store at one place. Several processes may write it; each write adds to what it says."""

    def __init__(self, path: Path, store: bytes) -> None:
        self.path = path
        self._store = store
        self._descriptor: int | None = None
        self._seen: tuple[bytes, Sentinel] | None = None

    def read(self) -> Reading:
        """What the file says now. Raises ``StorageError`` when it is there and cannot be read."""
        try:
            with self.path.open("rb") as stream:
                data = stream.read(FILE_BYTES + 1)
        except FileNotFoundError:
            return read_slots(None, self._store)
        except OSError as exc:
            raise StorageError(f"cannot read the sentinel {self.path}: {exc.strerror}") from exc
        return read_slots(data, self._store)

    def begin(self, sentinel: Sentinel) -> None:
        """Write the file anew, durably: both slots are whole. Raises ``StorageError``.

        A file that is there is written in its place, because other processes have it open.
        """
        slots = [encode_slot(sentinel), encode_slot(_next(sentinel))]
        data = b"".join(slots if slot_offset(sentinel.sequence) == 0 else slots[::-1])
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, PRIVATE))
        except OSError as exc:
            raise StorageError(f"cannot create the sentinel {self.path}: {exc.strerror}") from exc
        with self._locked() as descriptor:
            os.ftruncate(descriptor, FILE_BYTES)
            os.pwrite(descriptor, data, 0)
            os.fsync(descriptor)
        sync_directory(self.path.parent)

    def add(self, committed: Committed) -> None:
        """Let the sentinel say what was committed. Raises ``StorageError`` when it cannot be written.

        What was committed is durable all the same; whoever is told of the error reads the heads again.
        """
        if not committed.log and not any(change.after.local for change in committed.feeds):
            return
        with self._locked() as descriptor:
            data = os.pread(descriptor, FILE_BYTES + 1, 0)
            if self._seen is None or self._seen[0] != data:
                newest = read_slots(data, self._store).newest
                if newest is None:
                    raise StorageError(f"the sentinel {self.path} was damaged while the store was open")
                self._seen = (data, newest)
            sentinel = updated(self._seen[1], committed)
            slot, offset = encode_slot(sentinel), slot_offset(sentinel.sequence)
            if os.pwrite(descriptor, slot, offset) != len(slot):
                raise StorageError(f"cannot write the sentinel {self.path}: only a part of it")
            self._seen = (data[:offset] + slot + data[offset + len(slot) :], sentinel)

    def close(self) -> None:
        """Release the file. Idempotent."""
        descriptor, self._descriptor, self._seen = self._descriptor, None, None
        if descriptor is not None:
            with suppress(OSError):
                os.close(descriptor)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            descriptor = self._descriptor
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            try:
                yield descriptor
            finally:
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        except OSError as exc:
            raise StorageError(f"cannot write the sentinel {self.path}: {exc.strerror}") from exc


def _next(sentinel: Sentinel) -> Sentinel:
    return updated(sentinel, Committed((), None))


def machine_id() -> bytes:
    """What this machine calls itself; its name where it has no id. Raises nothing."""
    for path in _MACHINE_IDS:
        with suppress(OSError):
            if found := path.read_bytes()[:_MAX_ID_BYTES].strip():
                return found
    return os.uname().nodename.encode()

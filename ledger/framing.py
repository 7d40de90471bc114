"""Files of records: a first line that names the format, then typed records whose lengths are bounded, then an end.

Shared by docs/spec/feed-export.md and docs/spec/log-export.md. A length is held against its limit before a byte of the
payload is read, so a reader never holds more than the largest record.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import BinaryIO, Final

from identity.errors import LimitExceeded, MalformedError, StorageError

__all__ = ["RecordReader", "encode_record"]

_HEAD: Final = struct.Struct(">cI")


def encode_record(kind: bytes, payload: bytes) -> bytes:
    """One record: type (1 byte), length (4 bytes, big-endian), payload."""
    return _HEAD.pack(kind, len(payload)) + payload


class RecordReader:
    """Reads such a file from front to back. Every method raises ``MalformedError``, or ``StorageError`` from I/O.

    ``what`` names the format in error messages; ``limits`` gives the known types and how long their payloads may be.
    """

    def __init__(self, source: BinaryIO, what: str, limits: Mapping[bytes, int]) -> None:
        self._source = source
        self._what = what
        self._limits = limits

    def first_line(self, line: bytes) -> None:
        """Read the line, LF included, or refuse."""
        if self._read(len(line)) != line:
            raise MalformedError(f"{self._what}: does not begin with the line {line.decode().rstrip()!r}")

    def record(self) -> tuple[bytes, bytes]:
        """The next record's type and payload. ``LimitExceeded`` for one that is too long, before it is read."""
        kind, length = _HEAD.unpack(self._read(_HEAD.size))
        limit = self._limits.get(kind)
        if limit is None:
            raise MalformedError(f"{self._what}: unknown record {kind!r}")
        if length > limit:
            raise LimitExceeded(f"{self._what}: a record {kind!r} of {length} bytes, at most {limit}")
        return kind, self._read(length)

    def end(self) -> None:
        """Refuse anything that follows."""
        if self._read_some(1):
            raise MalformedError(f"{self._what}: bytes after the end record")

    def _read(self, size: int) -> bytes:
        parts, missing = [], size
        while missing:
            part = self._read_some(missing)
            if not part:
                raise MalformedError(f"{self._what}: the file ends before its end record")
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _read_some(self, size: int) -> bytes:
        try:
            return self._source.read(size)
        except OSError as exc:
            raise StorageError(f"cannot read the {self._what}: {exc}") from exc

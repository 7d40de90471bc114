"""Compact-encoding: the integer, buffer and array forms in which Hypercore writes manifests, signatures and proofs.

Implements docs/spec/feed.md section 2.1. The reader is stricter than Hypercore's: an integer has exactly one form and
stops at 2^53 - 1, a length is checked against its limit before a byte of it is taken, and nothing may follow the end.
What was read therefore re-encodes to the same bytes, so those bytes can stand for an identity or serve as evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from identity.errors import LimitExceeded, MalformedError

__all__ = ["MAX_UINT", "Reader", "encode_array", "encode_buffer", "encode_u64", "encode_uint"]

MAX_UINT: Final = 2**53 - 1
"""The largest integer: what a JavaScript number counts exactly."""

T = TypeVar("T")

_WIDTHS: Final = {0xFD: (2, 0xFC), 0xFE: (4, 0xFFFF), 0xFF: (8, 0xFFFF_FFFF)}
"""First byte of a wide integer -> bytes that follow, and the largest value that has a shorter form."""


def encode_uint(value: int) -> bytes:
    """The shortest of 1, 3, 5 or 9 bytes, little-endian. Raises ``MalformedError`` outside 0..2^53 - 1."""
    if 0 <= value <= 0xFC:
        return bytes((value,))
    if 0 < value <= MAX_UINT:
        if value <= 0xFFFF:
            return b"\xfd" + value.to_bytes(2, "little")
        if value <= 0xFFFF_FFFF:
            return b"\xfe" + value.to_bytes(4, "little")
        return b"\xff" + value.to_bytes(8, "little")
    raise MalformedError(f"integer outside 0..2^53-1: {value}")


def encode_u64(value: int) -> bytes:
    """Eight bytes, little-endian: the form that is hashed and signed. Raises ``MalformedError`` outside 0..2^53 - 1."""
    if not 0 <= value <= MAX_UINT:
        raise MalformedError(f"integer outside 0..2^53-1: {value}")
    return value.to_bytes(8, "little")


def encode_buffer(data: bytes) -> bytes:
    """The length, then the bytes."""
    return encode_uint(len(data)) + data


def encode_array(items: Iterable[bytes]) -> bytes:
    """The number of items, then the encoded items."""
    encoded = tuple(items)
    return encode_uint(len(encoded)) + b"".join(encoded)


class Reader:
    """Reads one value from front to back. Every method raises ``MalformedError`` and takes nothing on trust.

    ``what`` names the value in error messages.
    """

    __slots__ = ("_data", "_position", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = bytes(data)
        self._position = 0
        self._what = what

    def uint(self, field: str, *, maximum: int = MAX_UINT) -> int:
        """An integer in its shortest form, at most ``maximum``."""
        if self._position == len(self._data):
            raise MalformedError(f"{self._what}: ends within {field}")
        value = self._data[self._position]
        self._position += 1
        if value > 0xFC:
            value = self._wide(value, field)
        if value > maximum:
            raise LimitExceeded(f"{self._what}: {field}: {value}, the limit is {maximum}")
        return value

    def fixed(self, length: int, field: str) -> bytes:
        """Exactly ``length`` bytes."""
        end = self._position + length
        if end > len(self._data):
            raise MalformedError(f"{self._what}: ends within {field}")
        taken = self._data[self._position : end]
        self._position = end
        return taken

    def buffer(self, field: str, *, maximum: int) -> bytes:
        """A length of at most ``maximum``, then as many bytes."""
        return self.fixed(self.uint(field, maximum=maximum), field)

    def array(self, read: Callable[[], T], field: str, *, maximum: int) -> tuple[T, ...]:
        """A count of at most ``maximum``, then as many items, each taken by ``read``."""
        return tuple([read() for _ in range(self.uint(field, maximum=maximum))])

    def done(self) -> None:
        """Nothing may follow."""
        left = len(self._data) - self._position
        if left:
            raise MalformedError(f"{self._what}: {left} bytes after its end")

    def _wide(self, first: int, field: str) -> int:
        width, shorter = _WIDTHS[first]
        value = int.from_bytes(self.fixed(width, field), "little")
        if value <= shorter:
            raise MalformedError(f"{self._what}: {field} is not in its shortest form")
        return value

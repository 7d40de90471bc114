"""RLP, Ethereum's encoding of nested byte strings (yellow paper, appendix B): strict, bounded, total.

A value is ``bytes`` or a list of values. Each has exactly one encoding, and only that one is read. The decoder does not
recurse deeper than it is told to, so hostile input costs no more than its length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from identity.errors import LimitExceeded, MalformedError

__all__ = ["Item", "decode_rlp", "encode_rlp", "integer_from_rlp", "integer_to_rlp"]

Item: TypeAlias = "bytes | Sequence[Item]"

_STRING: Final = 0x80
_LIST: Final = 0xC0
_SHORT: Final = 55
"""The longest payload whose length fits into the prefix byte itself."""


def encode_rlp(item: Item) -> bytes:
    """The one encoding of ``item``."""
    if isinstance(item, bytes):
        if len(item) == 1 and item[0] < _STRING:
            return item
        return _prefix(_STRING, len(item)) + item
    payload = b"".join(encode_rlp(member) for member in item)
    return _prefix(_LIST, len(payload)) + payload


def decode_rlp(data: bytes, *, what: str, max_depth: int) -> Item:
    """The value that ``data`` encodes, with nothing after it; lists come out as tuples.

    ``max_depth`` is how deeply lists may nest; 0 allows a byte string only. Raises ``MalformedError`` for anything that
    is not the one encoding of a value, ``LimitExceeded`` beyond the depth; ``what`` names the input.
    """
    item, end = _read_item(data, 0, len(data), what, max_depth)
    if end != len(data):
        raise MalformedError(f"{what}: {len(data) - end} bytes after the RLP value")
    return item


def integer_to_rlp(number: int) -> bytes:
    """A non-negative integer as the byte string that stands for it: big-endian, no leading zero, empty for 0."""
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def integer_from_rlp(data: Item, *, what: str, max_bytes: int) -> int:
    """The integer that the byte string stands for. Raises ``MalformedError`` when it is none of ``max_bytes``."""
    if not isinstance(data, bytes) or len(data) > max_bytes or data[:1] == b"\0":
        raise MalformedError(f"{what}: not an integer of at most {max_bytes} bytes without a leading zero")
    return int.from_bytes(data, "big")


def _prefix(kind: int, length: int) -> bytes:
    if length <= _SHORT:
        return bytes([kind + length])
    digits = integer_to_rlp(length)
    return bytes([kind + _SHORT + len(digits)]) + digits


def _read_item(data: bytes, start: int, stop: int, what: str, depth: int) -> tuple[Item, int]:
    """The value at ``start``, and the position after it, never beyond ``stop``."""
    kind, begin, end = _read_prefix(data, start, stop, what)
    if kind == _STRING:
        return data[begin:end], end
    if depth == 0:
        raise LimitExceeded(f"{what}: an RLP list at byte {start} stands deeper than the format allows")
    members: list[Item] = []
    while begin < end:
        member, begin = _read_item(data, begin, end, what, depth - 1)
        members.append(member)
    return tuple(members), end


def _read_prefix(data: bytes, start: int, stop: int, what: str) -> tuple[int, int, int]:
    """Whether a string or a list stands at ``start``, and where its payload begins and ends."""
    if start >= stop:
        raise MalformedError(f"{what}: ends where an RLP value should begin, at byte {start}")
    first = data[start]
    if first < _STRING:
        return _STRING, start, start + 1
    kind = _LIST if first >= _LIST else _STRING
    length = first - kind
    begin = start + 1
    if length > _SHORT:
        digits = data[begin : min(begin + length - _SHORT, stop)]
        begin += length - _SHORT
        length = int.from_bytes(digits, "big")
        if begin > stop or digits[0] == 0 or length <= _SHORT:
            raise MalformedError(f"{what}: an RLP length at byte {start} is cut off or not in its shortest form")
    if length > stop - begin:
        raise MalformedError(f"{what}: an RLP value at byte {start} ends beyond its container")
    if kind == _STRING and length == 1 and data[begin] < _STRING:
        raise MalformedError(f"{what}: a single byte at byte {start} is not in its shortest form")
    return kind, begin, begin + length

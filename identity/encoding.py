"""Canonical bytes: one CBOR byte string for each structured value, the DAG-CBOR rules without tags.

Text keys sorted length-first then bytewise, shortest integers in -2^63..2^63-1, definite lengths, no duplicate keys,
no trailing bytes, no floats unless the schema allows finite 64-bit ones. Specified in docs/spec/canonical-encoding.md.

Two codecs stand behind ``encode`` and ``decode``. The one in this file is complete and decides. libipld is faster and
laxer: it turns byte strings that look like a CID into tag 42 and back, reads longer forms of integers and floats,
writes -0.0 as 0.0, and knows no limits. It is used only where its lapses are excluded: never while ``d8 2a`` (tag 42)
stands in the bytes, only after a scan where limits or number ranges could be touched, and decoding must give the same
bytes back.
"""

from __future__ import annotations

import builtins
import struct
from collections.abc import Iterable
from math import isfinite
from typing import Any, Final, TypeAlias, Union

import libipld

from identity.errors import LimitExceeded, MalformedError
from identity.textforms import check_name

__all__ = [
    "MAX_BYTES",
    "MAX_DEPTH",
    "MAX_INT",
    "MAX_ITEMS",
    "MIN_INT",
    "Fields",
    "Value",
    "decode",
    "decode_stored",
    "encode",
    "encode_scalars",
    "encode_stored",
]

Value: TypeAlias = Union[bool, int, float, str, bytes, "list[Value]", "dict[str, Value]", None]
"""What ``decode`` returns and ``encode`` takes."""

MAX_BYTES: Final = 1 << 20
"""The longest encoding."""

MAX_DEPTH: Final = 32
"""Lists and maps within each other; a value that is none of them has depth 0."""

MAX_ITEMS: Final = 65_536
"""Data items in one value: every list, map, key and scalar is one."""

MIN_INT: Final = -(1 << 63)
MAX_INT: Final = (1 << 63) - 1

_TAG_42: Final = b"\xd8\x2a"
_FLOAT_ZERO: Final = b"\xfb" + bytes(8)
"""What libipld writes for 0.0 and, wrongly, for -0.0."""

_SCAN_FROM: Final = 4096
"""Longer values are scanned before anything is allocated for them; shorter ones can't hold MAX_ITEMS anyway."""

_SHORT: Final = 256
"""Bytes that can hold nothing large or deep."""

_SAFE_DEPTH: Final = 512
"""Lists and maps within each other that libipld's native stack bears in any thread."""

_NOT_CONTAINER_HEADS: Final = bytes(byte for byte in range(256) if not 0x80 <= byte <= 0xBF)
_HEAVIEST: Final = MAX_ITEMS + 1
"""A value of as many items as are allowed, in the list in which it is weighed."""

_TOO_HEAVY: Final = _HEAVIEST + 1

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _LIST, _MAP, _TAG, _SIMPLE = range(8)
_SIMPLE_VALUES: Final[dict[int, bool | None]] = {20: False, 21: True, 22: None}
_FLOAT64: Final = 27
_WIDTHS: Final = {24: 1, 25: 2, 26: 4, 27: 8}


def encode(value: object, *, floats: bool = False) -> bytes:
    """The canonical bytes of ``value``: None, bool, int, str, bytes, list, dict with str keys, and finite floats if
    ``floats``.

    Raises ``MalformedError`` for anything else in it, ``LimitExceeded`` beyond the limits above.
    """
    # Before libipld sees it: a container that holds itself would run its native stack over, and the process with it,
    # where some library has raised Python's recursion limit (py-evm does).
    if _weigh([value], 0, floats) > _HEAVIEST:
        return _encode_pure(value, floats)
    try:
        data = libipld.encode_dag_cbor(value)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return _encode_pure(value, floats)
    if _holds(data, _TAG_42) or (floats and _FLOAT_ZERO in data):
        return _encode_pure(value, floats)
    _check_size(data)
    return data


def encode_scalars(value: dict[str, Value]) -> bytes:
    """``encode`` for a map in which the caller has looked at everything: maps of text, None, bool and int in 64 bits,
    of built-in types only, nested less than ``MAX_DEPTH`` deep, of fewer items than ``MAX_ITEMS``.

    That excludes every lapse of libipld, which has to do with byte strings, floats and limits; a third of the time of
    ``encode`` is what it takes to find that out. Raises ``LimitExceeded`` beyond ``MAX_BYTES``.
    """
    data: bytes = libipld.encode_dag_cbor(value)
    _check_size(data)
    return data


def encode_stored(value: Value) -> bytes:
    """``encode`` for a value that ``decode`` gave or that was checked before: one without parts takes the short way."""
    kind = type(value)
    if kind is str or kind is int:
        data: bytes = libipld.encode_dag_cbor(value)
        return data
    return encode(value)


def decode(data: bytes, *, floats: bool = False) -> Value:
    """The value whose canonical bytes ``data`` are.

    Raises ``MalformedError`` when ``data`` isn't the canonical form of a value, ``LimitExceeded`` beyond the limits
    above. What can be larger than a few KiB is scanned before it is decoded, so hostile input allocates nothing.
    """
    _check_size(data)
    if _holds(data, _TAG_42):
        return _decode_pure(data, floats)
    if _may_be_large(data):
        _scan(data, floats)
    value: Value = None
    try:
        value = libipld.decode_dag_cbor(data)
        proven = libipld.encode_dag_cbor(value) == data and _weigh([value], 0, floats) <= _HEAVIEST
    except (ValueError, TypeError, OverflowError, RecursionError):
        proven = False  # whatever libipld does not like, the codec below names
    if proven:
        return value
    return _decode_pure(data, floats)


def decode_stored(data: bytes) -> Value:
    """``decode`` for what this program has encoded and kept for itself, where nothing rests on its being canonical.

    What is short takes the short way. Raises as ``decode`` does.
    """
    if len(data) > _SHORT or _TAG_42 in data:
        return decode(data)
    try:
        value: Value = libipld.decode_dag_cbor(data)
    except (ValueError, TypeError, OverflowError):
        return decode(data)
    return value


def _weigh(container: list[Any] | dict[Any, Any], depth: int, floats: bool) -> int:
    """The data items in ``container``, itself among them, or some number above ``_HEAVIEST`` when there is anything in
    it that libipld takes and this format doesn't, or that is not of a built-in type: then the codec below decides.
    """
    if depth > MAX_DEPTH:
        return _TOO_HEAVY
    items: Iterable[Any] = container
    weight = 1 + len(container)
    if isinstance(container, dict):
        items = container.values()
        weight += len(container)  # its keys
    for item in items:
        kind = type(item)
        if kind is str or item is None:
            continue
        if kind is int:
            if not MIN_INT <= item <= MAX_INT:
                return _TOO_HEAVY
        elif kind is dict or kind is list:
            weight += _weigh(item, depth + 1, floats) - 1
            if weight > _HEAVIEST:
                return weight
        elif not (kind is bytes or kind is bool or (kind is float and floats and isfinite(item))):
            return _TOO_HEAVY
    return weight


def _check_size(data: bytes) -> None:
    if len(data) > MAX_BYTES:
        raise LimitExceeded(f"CBOR: {len(data)} bytes, at most {MAX_BYTES}")


def _may_be_large(data: bytes) -> bool:
    """False when ``data`` is short and can't nest deeper than is safe: that needs a head byte 0x80..0xbf per level."""
    return len(data) > _SCAN_FROM or len(data.translate(None, _NOT_CONTAINER_HEADS)) > _SAFE_DEPTH


def _holds(data: bytes, part: bytes) -> bool:
    """``part in data``; one byte is found many times faster than several, and most data lacks even that."""
    return part[:1] in data and part in data


# --- heads ----------------------------------------------------------------------------------------------------------


def _malformed(position: int, reason: str) -> MalformedError:
    return MalformedError(f"CBOR at byte {position}: {reason}")


def _read_head(data: bytes, position: int) -> tuple[int, int, int]:
    """Major type, argument and the position after the head. For major type 7 the argument is the additional
    information itself, and its payload follows."""
    if position >= len(data):
        raise _malformed(position, "ends before the value does")
    major, info = data[position] >> 5, data[position] & 31
    if info < 24 or major == _SIMPLE:
        return major, info, position + 1
    width = _WIDTHS.get(info)
    if width is None:
        raise _malformed(position, "indefinite length or reserved head")
    end = position + 1 + width
    if end > len(data):
        raise _malformed(position, "ends within a head")
    argument = int.from_bytes(data[position + 1 : end], "big")
    if argument < 24 or (width > 1 and argument >> (4 * width) == 0):
        raise _malformed(position, "not the shortest form")
    return major, argument, end


def _write_head(major: int, argument: int, out: bytearray) -> None:
    if argument < 24:
        out.append(major << 5 | argument)
        return
    for info, width in _WIDTHS.items():
        if argument < 1 << (8 * width):
            out.append(major << 5 | info)
            out += argument.to_bytes(width, "big")
            return


# --- scan: the shape of the bytes, without building anything --------------------------------------------------------


def _scan(data: bytes, floats: bool) -> None:
    """Walk the heads of one value: limits, lengths, shortest forms, number ranges, and nothing after it.

    Map keys and text are left to the decoder. Allocates one stack of at most MAX_DEPTH counters.
    """
    position = items = 0
    open_counts = [1]  # items still to come on each level; the value itself is the only one on the first
    while open_counts:
        if open_counts[-1] == 0:
            open_counts.pop()
            continue
        open_counts[-1] -= 1
        items += 1
        start = position
        major, argument, position = _read_head(data, position)
        if major in (_LIST, _MAP):
            count = argument if major == _LIST else 2 * argument
            if items + count > MAX_ITEMS:
                raise LimitExceeded(f"CBOR at byte {start}: more than {MAX_ITEMS} items")
            if len(open_counts) > MAX_DEPTH:
                raise LimitExceeded(f"CBOR at byte {start}: nested deeper than {MAX_DEPTH}")
            open_counts.append(count)
        else:
            position = _skip_scalar(data, start, major, argument, position, floats)
    if position != len(data):
        raise _malformed(position, "bytes after the value")
    if items > MAX_ITEMS:
        raise LimitExceeded(f"CBOR: more than {MAX_ITEMS} items")


def _skip_scalar(data: bytes, start: int, major: int, argument: int, position: int, floats: bool) -> int:
    """Check one item that isn't a list or map; return the position after it."""
    if major in (_BYTES, _TEXT):
        if argument > len(data) - position:
            raise _malformed(start, f"a string of {argument} bytes does not fit in the {len(data) - position} left")
        return position + argument
    if major in (_UNSIGNED, _NEGATIVE):
        if argument > MAX_INT:
            raise _malformed(start, "integer outside -2^63..2^63-1")
        return position
    if major == _SIMPLE and argument in _SIMPLE_VALUES:
        return position
    if major == _SIMPLE and argument == _FLOAT64 and floats:
        if len(data) - position < 8:
            raise _malformed(start, "ends within a float")
        if not isfinite(struct.unpack_from(">d", data, position)[0]):
            raise _malformed(start, "a float that is not finite")
        return position + 8
    raise _malformed(start, "a tag" if major == _TAG else "a simple value or float that is not allowed here")


# --- the codec that decides -----------------------------------------------------------------------------------------


def _decode_pure(data: bytes, floats: bool) -> Value:
    _scan(data, floats)
    value, _ = _build(data, 0)
    return value


def _build(data: bytes, position: int) -> tuple[Value, int]:
    """Decode the value at ``position`` of scanned bytes; return it and the position after it."""
    start = position
    major, argument, position = _read_head(data, position)
    if major == _UNSIGNED:
        return argument, position
    if major == _NEGATIVE:
        return -1 - argument, position
    if major == _BYTES:
        return data[position : position + argument], position + argument
    if major == _TEXT:
        return _text(data, start, position, argument), position + argument
    if major == _LIST:
        values: list[Value] = []
        for _ in range(argument):
            value, position = _build(data, position)
            values.append(value)
        return values, position
    if major == _MAP:
        return _build_map(data, position, argument)
    if argument == _FLOAT64:
        number: float = struct.unpack_from(">d", data, position)[0]
        return number, position + 8
    return _SIMPLE_VALUES[argument], position


def _build_map(data: bytes, position: int, count: int) -> tuple[dict[str, Value], int]:
    members: dict[str, Value] = {}
    last = (-1, b"")
    for _ in range(count):
        start = position
        major, length, position = _read_head(data, position)
        if major != _TEXT:
            raise _malformed(start, "a map key that is not text")
        key = _text(data, start, position, length)
        order = (length, data[position : position + length])
        if order <= last:
            raise _malformed(start, "map keys out of order or twice")
        last = order
        members[key], position = _build(data, position + length)
    return members, position


def _text(data: bytes, start: int, position: int, length: int) -> str:
    try:
        return data[position : position + length].decode("utf-8")
    except UnicodeDecodeError as exc:
        raise _malformed(start, "text that is not UTF-8") from exc


def _encode_pure(value: object, floats: bool) -> bytes:
    out = bytearray()
    _write(value, out, 0, floats)
    data = bytes(out)
    _check_size(data)
    _scan(data, floats)
    return data


def _write(value: object, out: bytearray, depth: int, floats: bool) -> None:
    """Append the encoding of ``value``. ``depth`` counts the lists and maps around it."""
    if isinstance(value, (list, dict)) and depth == MAX_DEPTH:
        raise LimitExceeded(f"CBOR: nested deeper than {MAX_DEPTH}")
    if len(out) > MAX_BYTES:
        raise LimitExceeded(f"CBOR: more than {MAX_BYTES} bytes")
    if value is None or isinstance(value, bool):
        out.append({None: 0xF6, True: 0xF5, False: 0xF4}[value])
    elif isinstance(value, int):
        _write_int(value, out)
    elif isinstance(value, str):
        _write_text(value, out)
    elif isinstance(value, bytes):
        _write_head(_BYTES, len(value), out)
        out += value
    elif isinstance(value, list):
        _write_head(_LIST, len(value), out)
        for item in value:
            _write(item, out, depth + 1, floats)
    elif isinstance(value, dict):
        _write_map(value, out, depth, floats)
    elif isinstance(value, float):
        _write_float(value, out, floats)
    else:
        raise MalformedError(f"CBOR: a {type(value).__name__} can't be encoded")


def _write_int(value: int, out: bytearray) -> None:
    if not MIN_INT <= value <= MAX_INT:
        raise MalformedError("CBOR: integer outside -2^63..2^63-1")
    if value >= 0:
        _write_head(_UNSIGNED, value, out)
    else:
        _write_head(_NEGATIVE, -1 - value, out)


def _write_text(value: str, out: bytearray) -> None:
    try:
        text = value.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise MalformedError("CBOR: text with a lone surrogate") from exc
    _write_head(_TEXT, len(text), out)
    out += text


def _write_map(value: dict[object, object], out: bytearray, depth: int, floats: bool) -> None:
    members: list[tuple[int, bytes, object]] = []
    for key, item in value.items():
        if not isinstance(key, str):
            raise MalformedError(f"CBOR: a map key that is a {type(key).__name__}")
        encoded = bytearray()
        _write_text(key, encoded)
        members.append((len(encoded), bytes(encoded), item))
    _write_head(_MAP, len(members), out)
    for _, encoded_key, item in sorted(members, key=lambda member: member[:2]):
        out += encoded_key
        _write(item, out, depth + 1, floats)


def _write_float(value: float, out: bytearray, floats: bool) -> None:
    if not floats or not isfinite(value):
        raise MalformedError("CBOR: a float that is not finite, or where none is allowed")
    out.append(_SIMPLE << 5 | _FLOAT64)
    out += struct.pack(">d", value)


# --- reading decoded maps -------------------------------------------------------------------------------------------


class Fields:
    """A strict reader of one decoded map: every key is read with its type, and ``done`` refuses the ones not read.

    An ``optional_`` field is a key that always stands and may be null, so that "nothing" has one encoding too. Every
    method raises ``MalformedError`` (``LimitExceeded`` for what is too long) naming ``what`` and the key.
    """

    __slots__ = ("_left", "what")

    def __init__(self, value: Value, what: str) -> None:
        if not isinstance(value, dict):
            raise MalformedError(f"{what}: not a map")
        self._left = dict(value)
        self.what = what

    def has(self, key: str) -> bool:
        """Whether the key stands and was not read yet."""
        return key in self._left

    def value(self, key: str) -> Value:
        """Any value."""
        if key not in self._left:
            raise MalformedError(f"{self.what}: {key!r} is missing")
        return self._left.pop(key)

    def text(self, key: str, *, min: builtins.int = 0, max: builtins.int) -> str:
        """Text of ``min`` to ``max`` characters."""
        value = self.value(key)
        if not isinstance(value, str):
            raise self._wrong(key, "text")
        self._check_length(key, len(value), min, max)
        return value

    def name(self, key: str) -> str:
        """A name as ``textforms.check_name`` has it: 1 to 200 characters without controls."""
        value = self.value(key)
        if not isinstance(value, str):
            raise self._wrong(key, "text")
        return check_name(value, f"{self.what}: {key!r}")

    def bytes(self, key: str, *, length: builtins.int | None = None, max: builtins.int = MAX_BYTES) -> builtins.bytes:
        """A byte string of exactly ``length`` bytes, or of at most ``max``."""
        value = self.value(key)
        if not isinstance(value, bytes):
            raise self._wrong(key, "bytes")
        if length is not None and len(value) != length:
            raise MalformedError(f"{self.what}: {key!r} has {len(value)} bytes, must have {length}")
        self._check_length(key, len(value), 0, max)
        return value

    def int(self, key: str, *, min: builtins.int = 0, max: builtins.int = MAX_INT) -> builtins.int:
        """An integer in ``min`` .. ``max``, not a bool."""
        value = self.value(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(key, "an integer")
        if not min <= value <= max:
            raise MalformedError(f"{self.what}: {key!r} is {value}, must be in {min}..{max}")
        return value

    def bool(self, key: str) -> builtins.bool:
        """True or False."""
        value = self.value(key)
        if not isinstance(value, bool):
            raise self._wrong(key, "a bool")
        return value

    def list(self, key: str, *, min: builtins.int = 0, max: builtins.int = MAX_ITEMS) -> builtins.list[Value]:
        """A list of ``min`` to ``max`` values."""
        value = self.value(key)
        if not isinstance(value, list):
            raise self._wrong(key, "a list")
        self._check_length(key, len(value), min, max)
        return value

    def bytes_list(
        self, key: str, *, length: builtins.int, min: builtins.int = 0, max: builtins.int = MAX_ITEMS
    ) -> tuple[builtins.bytes, ...]:
        """A list of byte strings of ``length`` bytes each."""
        values = []
        for value in self.list(key, min=min, max=max):
            if not isinstance(value, bytes) or len(value) != length:
                raise self._wrong(key, f"a list of byte strings of {length} bytes")
            values.append(value)
        return tuple(values)

    def map(self, key: str) -> Fields:
        """A map, to be read field by field and ended with its own ``done``."""
        return Fields(self.value(key), f"{self.what}: {key!r}")

    def dict(self, key: str, *, max: builtins.int = MAX_ITEMS) -> builtins.dict[str, Value]:
        """A map whose keys are data, with at most ``max`` of them."""
        value = self.value(key)
        if not isinstance(value, dict):
            raise self._wrong(key, "a map")
        self._check_length(key, len(value), 0, max)
        return value

    def optional_text(self, key: str, *, min: builtins.int = 0, max: builtins.int) -> str | None:
        """``text`` or null."""
        return None if self._null(key) else self.text(key, min=min, max=max)

    def optional_bytes(
        self, key: str, *, length: builtins.int | None = None, max: builtins.int = MAX_BYTES
    ) -> builtins.bytes | None:
        """``bytes`` or null."""
        return None if self._null(key) else self.bytes(key, length=length, max=max)

    def optional_int(self, key: str, *, min: builtins.int = 0, max: builtins.int = MAX_INT) -> builtins.int | None:
        """``int`` or null."""
        return None if self._null(key) else self.int(key, min=min, max=max)

    def optional_list(
        self, key: str, *, min: builtins.int = 0, max: builtins.int = MAX_ITEMS
    ) -> builtins.list[Value] | None:
        """``list`` or null."""
        return None if self._null(key) else self.list(key, min=min, max=max)

    def optional_map(self, key: str) -> Fields | None:
        """``map`` or null."""
        return None if self._null(key) else self.map(key)

    def done(self) -> None:
        """Every key has been read; else ``MalformedError`` names the first one that has not."""
        if self._left:
            raise MalformedError(f"{self.what}: unknown key {min(self._left)!r}")

    def _null(self, key: str) -> builtins.bool:
        """Whether the key stands with null; takes it if so."""
        if key in self._left and self._left[key] is None:
            del self._left[key]
            return True
        return False

    def _wrong(self, key: str, wanted: str) -> MalformedError:
        return MalformedError(f"{self.what}: {key!r} must be {wanted}")

    def _check_length(self, key: str, length: builtins.int, minimum: builtins.int, maximum: builtins.int) -> None:
        if length > maximum:
            raise LimitExceeded(f"{self.what}: {key!r} has length {length}, at most {maximum}")
        if length < minimum:
            raise MalformedError(f"{self.what}: {key!r} has length {length}, at least {minimum}")

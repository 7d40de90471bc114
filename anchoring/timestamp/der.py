"""Strict DER (ITU-T X.690 clause 10): every value has one byte string, and nothing else is read.

Timestamp tokens, certificates and revocation data come from outside and are partly unsigned, so their encoding must
leave nothing to choose: definite shortest lengths, shortest integers and object identifiers, two booleans, clear
padding bits, primitive strings, no bytes after the end. ``parse_der`` checks a whole value, at every depth, before
anything is taken from it; what it returns can then be read with ``DerReader``.

Contents of OCTET STRINGs and of primitive context-specific fields are opaque here. The order inside a SET OF is
checked by the readers that know a SET OF when they see one.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Final

from identity.errors import LimitExceeded, MalformedError

__all__ = [
    "BIT_STRING",
    "BOOLEAN",
    "GENERALIZED_TIME",
    "INTEGER",
    "OBJECT_IDENTIFIER",
    "OCTET_STRING",
    "SEQUENCE",
    "SET",
    "UTF8_STRING",
    "DerReader",
    "Element",
    "check_set_order",
    "encode_der",
    "encode_integer",
    "parse_der",
    "read_elements",
    "read_integer",
    "read_oid",
]

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
NULL: Final = 0x05
OBJECT_IDENTIFIER: Final = 0x06
ENUMERATED: Final = 0x0A
UTF8_STRING: Final = 0x0C
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30
SET: Final = 0x31

_CONSTRUCTED = 0x20
_CLASS = 0xC0
_CONTEXT_SPECIFIC = 0x80
_MAX_DEPTH = 32
# Numeric, printable, teletex, IA5, visible, universal and BMP strings: what certificates use besides UTF-8.
_OTHER_STRINGS = frozenset({0x12, 0x13, 0x14, 0x16, 0x1A, 0x1C, 0x1E})
_UTC_TIME_FORM = re.compile(rb"[0-9]{12}Z")
_GENERALIZED_TIME_FORM = re.compile(rb"[0-9]{14}(\.[0-9]*[1-9])?Z")


@dataclass(frozen=True, slots=True)
class Element:
    """One value: its identifier octet, its contents, and all of its bytes (identifier, length, contents)."""

    tag: int
    content: bytes
    raw: bytes


def parse_der(data: bytes, *, what: str, max_bytes: int) -> Element:
    """Read exactly one DER value, checked to every depth.

    Raises ``MalformedError`` for anything that is not one strict DER value, ``LimitExceeded`` beyond ``max_bytes`` or
    32 levels. ``what`` names the input in the message.
    """
    if len(data) > max_bytes:
        raise LimitExceeded(f"{what}: {len(data)} bytes, at most {max_bytes} are read")
    end = _check_value(data, 0, len(data), 0, what)
    if end != len(data):
        raise MalformedError(f"{what}: {len(data) - end} bytes after the end")
    return _element_at(data, 0)[0]


def read_elements(element: Element) -> tuple[Element, ...]:
    """The values inside a constructed one that ``parse_der`` has checked."""
    elements: list[Element] = []
    offset = 0
    while offset < len(element.content):
        inner, offset = _element_at(element.content, offset)
        elements.append(inner)
    return tuple(elements)


def read_integer(element: Element, what: str, *, max_bytes: int = 32) -> int:
    """The number in an INTEGER (or an implicitly tagged one). Raises ``MalformedError`` unless shortest and bounded."""
    _check_integer(element.content, what)
    if len(element.content) > max_bytes:
        raise LimitExceeded(f"{what}: an integer of {len(element.content)} bytes, at most {max_bytes} are read")
    return int.from_bytes(element.content, "big", signed=True)


def read_oid(element: Element, what: str) -> str:
    """The dotted form of an OBJECT IDENTIFIER. Raises ``LimitExceeded`` when it is longer than 64 bytes."""
    if len(element.content) > 64:
        raise LimitExceeded(f"{what}: an object identifier of {len(element.content)} bytes")
    arcs: list[int] = []
    arc = 0
    for octet in element.content:
        arc = arc << 7 | octet & 0x7F
        if not octet & 0x80:
            arcs.append(arc)
            arc = 0
    # X.690 8.19.4: the first two arcs share one number.
    first = min(arcs[0] // 40, 2)
    return ".".join(str(number) for number in (first, arcs[0] - 40 * first, *arcs[1:]))


def check_set_order(elements: tuple[Element, ...], what: str) -> None:
    """Raise ``MalformedError`` unless the values of a SET OF stand in ascending order of their bytes (X.690 11.6)."""
    for first, second in itertools.pairwise(elements):
        if first.raw > second.raw:
            raise MalformedError(f"{what}: the set is not in DER order")


def encode_der(tag: int, *parts: bytes) -> bytes:
    """One value with that identifier octet around the concatenated parts."""
    content = b"".join(parts)
    if len(content) < 0x80:
        return bytes((tag, len(content))) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def encode_integer(value: int) -> bytes:
    """A non-negative INTEGER."""
    return encode_der(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


class DerReader:
    """Takes the fields of one constructed value in order. Every mismatch is a ``MalformedError`` that names it."""

    def __init__(self, element: Element, what: str, *, tag: int = SEQUENCE) -> None:
        """Read ``element``, which must be constructed and have that identifier octet."""
        if element.tag != tag:
            raise MalformedError(f"{what}: tag {element.tag:#04x} where {tag:#04x} must stand")
        self._elements = read_elements(element)
        self._position = 0
        self._what = what

    def take(self, *tags: int) -> Element:
        """The next field, which must have one of these identifier octets."""
        element = self.optional(*tags)
        if element is None:
            raise MalformedError(f"{self._what}: field {self._position + 1} is missing or of another type")
        return element

    def optional(self, *tags: int) -> Element | None:
        """The next field if it has one of these identifier octets, else None and nothing is taken."""
        if self._position < len(self._elements) and self._elements[self._position].tag in tags:
            self._position += 1
            return self._elements[self._position - 1]
        return None

    def end(self) -> None:
        """Raise unless every field has been taken."""
        if self._position != len(self._elements):
            raise MalformedError(f"{self._what}: field {self._position + 1} is unknown or out of order")


def _element_at(data: bytes, offset: int) -> tuple[Element, int]:
    start, end = _read_header(data, offset, len(data), "value")
    return Element(data[offset], data[start:end], data[offset:end]), end


def _read_header(data: bytes, offset: int, limit: int, what: str) -> tuple[int, int]:
    """Where the contents of the value at ``offset`` begin and end."""
    if limit - offset < 2:
        raise MalformedError(f"{what}: cut off at byte {offset}")
    if data[offset] & 0x1F == 0x1F:
        raise MalformedError(f"{what}: a tag above 30 at byte {offset}")
    length = data[offset + 1]
    start = offset + 2
    if length & 0x80:
        size = length & 0x7F
        if not 1 <= size <= 4 or limit - start < size:
            raise MalformedError(f"{what}: no definite length at byte {offset}")
        length = int.from_bytes(data[start : start + size], "big")
        start += size
        if length < 0x80 or length >> 8 * (size - 1) == 0:
            raise MalformedError(f"{what}: a length longer than needed at byte {offset}")
    if limit - start < length:
        raise MalformedError(f"{what}: the value at byte {offset} is cut off")
    return start, start + length


def _check_value(data: bytes, offset: int, limit: int, depth: int, what: str) -> int:
    """Check the value at ``offset`` and all inside it; return where it ends."""
    if depth > _MAX_DEPTH:
        raise LimitExceeded(f"{what}: deeper than {_MAX_DEPTH} levels")
    start, end = _read_header(data, offset, limit, what)
    tag = data[offset]
    if tag & _CLASS not in (0, _CONTEXT_SPECIFIC):
        raise MalformedError(f"{what}: an application or private tag at byte {offset}")
    if tag in (SEQUENCE, SET) or tag & (_CLASS | _CONSTRUCTED) == _CONTEXT_SPECIFIC | _CONSTRUCTED:
        inner = start
        while inner < end:
            inner = _check_value(data, inner, end, depth + 1, what)
    elif tag & _CLASS == 0:
        _check_primitive(tag, data[start:end], what)
    return end


def _check_primitive(tag: int, content: bytes, what: str) -> None:
    if tag in (INTEGER, ENUMERATED):
        _check_integer(content, what)
    elif tag == BIT_STRING:
        _check_bit_string(content, what)
    elif tag == OBJECT_IDENTIFIER:
        _check_oid(content, what)
    elif tag == UTF8_STRING:
        _check_utf8(content, what)
    elif tag == BOOLEAN and content not in (b"\x00", b"\xff"):
        raise MalformedError(f"{what}: neither of the two booleans")
    elif tag == NULL and content:
        raise MalformedError(f"{what}: a null with contents")
    elif tag == UTC_TIME and not _UTC_TIME_FORM.fullmatch(content):
        raise MalformedError(f"{what}: not a UTC time in DER form")
    elif tag == GENERALIZED_TIME and not _GENERALIZED_TIME_FORM.fullmatch(content):
        raise MalformedError(f"{what}: not a generalized time in DER form")
    elif tag not in (BOOLEAN, NULL, OCTET_STRING, UTC_TIME, GENERALIZED_TIME) and tag not in _OTHER_STRINGS:
        raise MalformedError(f"{what}: type {tag:#04x} does not belong here")


def _check_integer(content: bytes, what: str) -> None:
    if not content:
        raise MalformedError(f"{what}: an integer without contents")
    # X.690 8.3.2: the first nine bits are neither all zero nor all one.
    if len(content) > 1 and (content[0], content[1] >> 7) in ((0x00, 0), (0xFF, 1)):
        raise MalformedError(f"{what}: an integer longer than needed")


def _check_bit_string(content: bytes, what: str) -> None:
    unused = content[0] if content else 8
    if unused > 7 or (len(content) == 1 and unused):
        raise MalformedError(f"{what}: a bit string with a wrong count of unused bits")
    if content[-1] & ((1 << unused) - 1):
        raise MalformedError(f"{what}: a bit string whose unused bits are not zero")


def _check_oid(content: bytes, what: str) -> None:
    if not content or content[-1] & 0x80:
        raise MalformedError(f"{what}: an object identifier that is cut off")
    # X.690 8.19.2: no number begins with an octet 80.
    begins = b"\x00" + content
    if any(octet == 0x80 and not begins[index] & 0x80 for index, octet in enumerate(content)):
        raise MalformedError(f"{what}: an object identifier longer than needed")


def _check_utf8(content: bytes, what: str) -> None:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise MalformedError(f"{what}: not UTF-8") from exc

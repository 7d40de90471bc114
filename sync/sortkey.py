"""Sort keys: texts in ASCII that stand in the order of the values they are made of.

Implements docs/spec/schema.md, section "Sort keys". SQLite and PostgreSQL know no decimals of our kind and order text
by rules of their own; an index over these keys, compared byte by byte (``BINARY``, ``COLLATE "C"``), gives both the
same order: null, false, true, numbers, days, points in time, text, bytes, references. Equal keys mean equal values,
integers and decimals by what they amount to, unless ``is_cut`` says that the key holds only the beginning of a long
value: what an index finds under such a key has to be compared itself.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Final

from identity.encoding import Value
from identity.errors import MalformedError
from identity.textforms import to_hex
from ledger.values import MIN_TIMESTAMP, Reference, to_python

__all__ = ["MAX_KEYED", "MAX_SORT_KEY", "is_cut", "prefix_range", "sort_key"]

MAX_KEYED: Final = 256
"""Characters of a text, or bytes of a byte string, that go into its key."""

_NULL, _FALSE, _TRUE, _NUMBER, _DATE, _TIMESTAMP, _TEXT, _BYTES, _REFERENCE = "012345678"

_FORMS: Final = frozenset({"$dec", "$ts", "$date", "$ref"})

_CUT: Final = "~z"
"""Ends the key of a longer value. In the key of a text '~' is followed by a hexadecimal digit or 'g'."""
_ABOVE: Final = "~~"
"""Above all that can follow in a key."""

MAX_SORT_KEY: Final = 1 + 7 * MAX_KEYED + len(_CUT)
"""Characters of the longest key."""

_EXPONENT_BIAS: Final = 50
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_TO_ESCAPE: Final = re.compile("[^!-}]")
_COMPLEMENT: Final = str.maketrans("0123456789", "9876543210")


def sort_key(value: Value) -> str | None:
    """The key of a stored value; None for a list, a map, a sealed value, and what is no stored value.

    ``a < b`` gives ``sort_key(a) < sort_key(b)``; two different values have the same key only when they are equal
    numbers, or when ``is_cut`` says so of the key.
    """
    if isinstance(value, list) or (isinstance(value, dict) and not value.keys() <= _FORMS):
        return None
    try:
        return _key(to_python(value))
    except MalformedError:
        return None


def is_cut(key: str) -> bool:
    """Whether the key holds only the beginning of its value, so that different values can share it."""
    return key.endswith(_CUT)


def prefix_range(prefix: str) -> tuple[str, str]:
    """``low`` and ``high`` of the texts that begin with ``prefix``: their keys are ``low <= key < high``.

    Nothing else lies between them, unless ``prefix`` is longer than ``MAX_KEYED``: then the texts have to be compared.
    """
    low = _text_key(prefix)
    return low, low.removesuffix(_CUT) + _ABOVE


def _key(value: object) -> str | None:
    match value:
        case None:
            return _NULL
        case bool():
            return _TRUE if value else _FALSE
        case int():
            return _number_key(value < 0, str(abs(value)), 0)
        case Decimal():
            sign, digits, exponent = value.as_tuple()
            return _number_key(sign == 1, "".join(map(str, digits)), int(exponent))
        case str():
            return _text_key(value)
        case bytes():
            return _BYTES + to_hex(value[:MAX_KEYED]) + (_CUT if len(value) > MAX_KEYED else "")
        case datetime():  # before date, which it is as well
            return f"{_TIMESTAMP}{(value - _EPOCH) // _MICROSECOND - MIN_TIMESTAMP:018}"
        case date():
            return _DATE + value.isoformat()
        case Reference(feed, index, leaf_hash):
            return f"{_REFERENCE}{to_hex(feed)}{index:016x}{to_hex(leaf_hash)}"
    return None


def _number_key(negative: bool, digits: str, exponent: int) -> str:
    """The key of ``digits`` times ten to the ``exponent``: its size first, then its digits as a fraction.

    Of a negative number both are complements, and '~' stands behind them: of two the one with more digits is less.
    """
    point = len(digits.lstrip("0")) + exponent
    fraction = digits.strip("0")
    if not fraction:
        return _NUMBER + "1"
    size = f"{point + _EXPONENT_BIAS:02}"
    if negative:
        return f"{_NUMBER}0{(size + fraction).translate(_COMPLEMENT)}~"
    return f"{_NUMBER}2{size}{fraction}"


def _text_key(text: str) -> str:
    key = _TO_ESCAPE.sub(_escaped, text[:MAX_KEYED])
    return _TEXT + key + (_CUT if len(text) > MAX_KEYED else "")


def _escaped(found: re.Match[str]) -> str:
    """What stands for one character: ' ' begins what comes before '!', '~' what comes after '}'."""
    point = ord(found[0])
    if point < 0x21:
        return f" {point:02x}"
    return f"~{point:04x}" if point <= 0xFFFF else f"~g{point - 0x10000:05x}"

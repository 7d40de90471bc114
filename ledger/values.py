"""Values: what the fields of records and transactions hold, in stored form, in Python's, and for display.

Implements docs/spec/entry.md, section "Values". Stored values are what ``identity.encoding`` writes, without floats; a
map with a key that begins with ``$`` is one of five typed forms or an error:

    {"$dec": "-12.30"}      a decimal number, its scale kept: money is never a float
    {"$ts": 1764000000}     microseconds UTC since 1970
    {"$date": "2026-11-22"} a day, without a time zone
    {"$ref": [...]}         another entry: feed key, index, leaf hash
    {"$sealed": [...]}      a value that only the holder of a key can read: key id, commitment, ciphertext
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Final

from identity.encoding import MAX_DEPTH, MAX_INT, MIN_INT, Value
from identity.errors import LimitExceeded, MalformedError
from identity.textforms import parse_hex, parse_zbase32, to_base64, to_hex, to_zbase32
from ledger.merkle import HASH_BYTES, MAX_LENGTH

__all__ = [
    "KID_BYTES",
    "MAX_DECIMAL_DIGITS",
    "MAX_SEALED_BYTES",
    "MAX_TIMESTAMP",
    "MIN_SEALED_BYTES",
    "MIN_TIMESTAMP",
    "Reference",
    "Sealed",
    "check_scalars",
    "check_value",
    "date_value",
    "decimal_value",
    "from_python",
    "parse_reference",
    "parse_reference_text",
    "reference_text",
    "reference_value",
    "sealed_value",
    "timestamp_value",
    "to_plain",
    "to_python",
]

MAX_DECIMAL_DIGITS: Final = 38
"""All digits that are written count, a zero before the point too."""

MIN_TIMESTAMP: Final = -62_135_596_800_000_000
MAX_TIMESTAMP: Final = 253_402_300_799_999_999
"""Microseconds: the first of the year 1 and the last of the year 9999."""

KID_BYTES: Final = 16

MIN_SEALED_BYTES: Final = 24 + 32 + 1 + 16
"""Of a ciphertext: nonce, salt, the shortest value, tag."""
MAX_SEALED_BYTES: Final = 256 * 1024

_DEC, _TS, _DATE, _REF, _SEALED = "$dec", "$ts", "$date", "$ref", "$sealed"
_DECIMAL: Final = re.compile(r"(?!-[0.]*\Z)-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
_NEGATIVE_ZERO: Final = re.compile(r"-0(?:\.0+)?")
_DATE_FORM: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_REFERENCE_FORM: Final = re.compile(r"([a-z0-9]{52})/(0|[1-9][0-9]*)/([0-9a-f]{64})", re.ASCII)
_MAX_REFERENCE_TEXT: Final = 52 + 1 + 19 + 1 + 64
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Reference:
    """An entry, named so that nothing else can be meant: its feed's key, its index there, its leaf hash."""

    feed: bytes
    index: int
    leaf_hash: bytes

    def __post_init__(self) -> None:
        if len(self.feed) != HASH_BYTES or len(self.leaf_hash) != HASH_BYTES or not 0 <= self.index < MAX_LENGTH:
            raise MalformedError("reference: not a 32-byte feed key, an index and a 32-byte leaf hash")

    def members(self) -> list[Value]:
        """The list that stands for it in an entry."""
        return [self.feed, self.index, self.leaf_hash]


def parse_reference(value: Value) -> Reference:
    """Read the list that ``Reference.members`` writes. Raises ``MalformedError``."""
    match value:
        case [bytes(feed), int(index), bytes(leaf_hash)] if not isinstance(index, bool):
            return Reference(feed, index, leaf_hash)
    raise MalformedError("reference: not a list of feed key, index and leaf hash")


def reference_text(reference: Reference) -> str:
    """A reference as people see it: the feed's key in z-base-32, the index, the leaf hash in hex, with slashes."""
    return f"{to_zbase32(reference.feed)}/{reference.index}/{to_hex(reference.leaf_hash)}"


def parse_reference_text(text: str) -> Reference:
    """Read ``reference_text`` back. Raises ``MalformedError`` for anything that it would not have written."""
    match _REFERENCE_FORM.fullmatch(text) if len(text) <= _MAX_REFERENCE_TEXT else None:
        case re.Match() as found:
            feed, index, leaf_hash = found.groups()
            return Reference(parse_zbase32(feed), int(index), parse_hex(leaf_hash, HASH_BYTES))
    raise MalformedError("reference: not a feed key, an index and a leaf hash with slashes between them")


@dataclass(frozen=True, slots=True)
class Sealed:
    """A value that is encrypted under the key called ``kid``, as ``sync.sealing`` does it; here it is only carried.

    ``commitment`` is a hash that only one value fits, ``ciphertext`` begins with its nonce.
    """

    kid: bytes
    commitment: bytes
    ciphertext: bytes

    def __post_init__(self) -> None:
        if len(self.kid) != KID_BYTES or len(self.commitment) != HASH_BYTES:
            raise MalformedError("sealed value: not a 16-byte key id and a 32-byte commitment")
        if len(self.ciphertext) < MIN_SEALED_BYTES:
            raise MalformedError(f"sealed value: a ciphertext has at least {MIN_SEALED_BYTES} bytes")
        if len(self.ciphertext) > MAX_SEALED_BYTES:
            raise LimitExceeded(f"sealed value: a ciphertext of more than {MAX_SEALED_BYTES} bytes")

    def members(self) -> list[Value]:
        """The list that stands for it in an entry."""
        return [self.kid, self.commitment, self.ciphertext]


def _parse_sealed(value: Value) -> Sealed:
    match value:
        case [bytes(kid), bytes(commitment), bytes(ciphertext)]:
            return Sealed(kid, commitment, ciphertext)
    raise MalformedError("sealed value: not a list of key id, commitment and ciphertext")


# --- stored form ----------------------------------------------------------------------------------------------------


def decimal_value(text: str) -> Value:
    """The stored decimal for a canonical text such as ``-12.30``. Raises ``MalformedError`` for any other spelling."""
    if len(text) > MAX_DECIMAL_DIGITS or not _DECIMAL.fullmatch(text):
        _check_decimal(text)
    return {_DEC: text}


def timestamp_value(micros: int) -> Value:
    """The stored point in time, in microseconds UTC. Raises ``MalformedError`` outside the years 1 to 9999."""
    _parse_timestamp(micros)
    return {_TS: micros}


def date_value(day: date) -> Value:
    """The stored day."""
    return {_DATE: f"{day.year:04}-{day.month:02}-{day.day:02}"}


def reference_value(reference: Reference) -> Value:
    """The stored reference."""
    return {_REF: reference.members()}


def sealed_value(sealed: Sealed) -> Value:
    """The stored sealed value."""
    return {_SEALED: sealed.members()}


def check_value(value: Value) -> None:
    """Return only when ``value`` is a stored value. Raises ``MalformedError``, ``LimitExceeded`` beyond the limits."""
    kind = type(value)
    if kind is str and value.isascii():  # type: ignore[union-attr]
        return  # by far the most, and looked at for each operation of a merge
    if not check_scalars((value,)):
        _to_python(value, 0)


def check_scalars(values: Iterable[Value]) -> bool:
    """Whether all ``values`` are, at a glance, stored values of the plain kinds: text in ASCII, whole numbers, null,
    decimals and days.

    Run for each value that is written: what is plainly good takes the short way, and ``check_value`` judges the rest.
    Raises ``MalformedError`` for a decimal or a day that is none.
    """
    is_decimal = _DECIMAL.fullmatch
    for value in values:
        kind = type(value)
        if kind is str:
            if value.isascii():  # type: ignore[union-attr]
                continue
        elif value is None or (kind is int and MIN_INT <= value <= MAX_INT):  # type: ignore[operator]
            continue
        elif kind is dict and len(value) == 1:  # type: ignore[arg-type]
            for form, content in value.items():  # type: ignore[union-attr]
                if type(content) is not str or form not in _OF_TEXT:
                    return False
                if form != _DEC or len(content) > MAX_DECIMAL_DIGITS or not is_decimal(content):
                    _OF_TEXT[form](content)
            continue
        return False
    return True


# --- Python's form --------------------------------------------------------------------------------------------------


def from_python(value: object) -> Value:
    """The stored form of None, bool, int, str, bytes, list, tuple, dict, ``Decimal``, date, datetime, ``Reference``,
    ``Sealed``.

    A decimal keeps its scale; one with a positive exponent is written out, and a negative zero loses its sign, which no
    amount has. A datetime must know its offset from UTC. Raises ``MalformedError`` for a float and anything else.
    """
    return _from_python(value, 0)


def to_python(value: Value, *, beyond: int = 0) -> object:
    """The same value with ``Decimal``, ``date``, aware ``datetime``, ``Reference`` and ``Sealed`` for the typed forms.

    Raises as ``check_value`` does: this is its judgement too. What was put together of several values may be nested so
    many levels ``beyond`` the limit.
    """
    return _to_python(value, -beyond)


def _from_python(value: object, depth: int) -> Value:
    _check_depth(value, depth)
    match value:
        case None | bool() | bytes():
            return value
        case int():
            return _check_int(value)
        case str():
            return _check_text(value)
        case Decimal():
            return decimal_value(_decimal_text(value))
        case datetime():  # before date, which it is as well
            if value.utcoffset() is None:
                raise MalformedError("value: a datetime without an offset from UTC")
            return timestamp_value((value - _EPOCH) // _MICROSECOND)
        case date():
            return date_value(value)
        case Reference():
            return reference_value(value)
        case Sealed():
            return sealed_value(value)
        case list() | tuple():
            return [_from_python(item, depth + 1) for item in value]
        case dict():
            return {_check_key(key): _from_python(item, depth + 1) for key, item in value.items()}
    raise MalformedError(f"value: a {type(value).__name__} cannot be stored")


def _to_python(value: Value, depth: int) -> object:
    _check_depth(value, depth)
    match value:
        case None | bool() | bytes():
            return value
        case int():
            return _check_int(value)
        case str():
            return _check_text(value)
        case list():
            return [_to_python(item, depth + 1) for item in value]
        case dict():
            if any(str(key).startswith("$") for key in value):
                return _parse_typed(value)
            return {_check_key(key): _to_python(item, depth + 1) for key, item in value.items()}
    raise MalformedError(f"value: a {type(value).__name__} is not a stored value")


def _parse_typed(value: dict[str, Value]) -> object:
    if len(value) != 1:
        raise MalformedError("value: a typed form has one key and nothing else; keys with '$' are reserved")
    ((form, content),) = value.items()
    match form, content:
        case "$dec", str():
            return _parse_decimal(content)
        case "$ts", int() if not isinstance(content, bool):
            return _parse_timestamp(content)
        case "$date", str():
            return _parse_date(content)
        case "$ref", list():
            return parse_reference(content)
        case "$sealed", list():
            return _parse_sealed(content)
    raise MalformedError(f"value: {form!r} is not a typed form, or not with that content")


def _check_decimal(text: str) -> None:
    if len(text) <= MAX_DECIMAL_DIGITS and _DECIMAL.fullmatch(text):
        return  # nearly all of them: what follows only says what is wrong, or counts digits
    # Sign, point and digits: what is longer cannot be canonical, and is not looked at.
    if len(text) <= MAX_DECIMAL_DIGITS + 2 and _NEGATIVE_ZERO.fullmatch(text):
        raise MalformedError("value: a decimal zero has no sign")
    if len(text) > MAX_DECIMAL_DIGITS + 2 or not _DECIMAL.fullmatch(text):
        raise MalformedError("value: not a canonical decimal such as -12.30")
    if len(text) - text.count("-") - text.count(".") > MAX_DECIMAL_DIGITS:
        raise LimitExceeded(f"value: a decimal of more than {MAX_DECIMAL_DIGITS} digits")


def _parse_decimal(text: str) -> Decimal:
    _check_decimal(text)
    return Decimal(text)


def _decimal_text(number: Decimal) -> str:
    if not number.is_finite() or number.adjusted() >= MAX_DECIMAL_DIGITS or int(number.as_tuple().exponent) < -100:
        raise MalformedError(f"value: the decimal is not finite, or longer than {MAX_DECIMAL_DIGITS} digits")
    text = f"{number:f}"
    return text.removeprefix("-") if number.is_zero() else text


def _parse_timestamp(micros: int) -> datetime:
    if not MIN_TIMESTAMP <= micros <= MAX_TIMESTAMP:
        raise MalformedError("value: a timestamp outside the years 1 to 9999")
    return _EPOCH + micros * _MICROSECOND


@lru_cache(maxsize=4096)  # there are few days, and each is read when it comes in and when its entry is made
def _parse_date(text: str) -> date:
    if not _DATE_FORM.fullmatch(text):
        raise MalformedError("value: a date is written YYYY-MM-DD")
    try:
        return date.fromisoformat(text)
    except ValueError as exc:
        raise MalformedError(f"value: there is no day {text}") from exc


_OF_TEXT: Final[Mapping[str, Callable[[str], object]]] = {_DEC: _check_decimal, _DATE: _parse_date}


def _check_depth(value: object, depth: int) -> None:
    if depth >= MAX_DEPTH and isinstance(value, (list, tuple, dict)):
        raise LimitExceeded(f"value: nested deeper than {MAX_DEPTH}")


def _check_int(value: int) -> int:
    if not MIN_INT <= value <= MAX_INT:
        raise MalformedError("value: an integer outside -2^63..2^63-1")
    return value


def _check_text(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise MalformedError("value: text with a lone surrogate") from exc
    return text


def _check_key(key: object) -> str:
    if not isinstance(key, str):
        raise MalformedError(f"value: a map key that is a {type(key).__name__}")
    if key.startswith("$"):
        raise MalformedError(f"value: the key {key!r} is reserved")
    return _check_text(key)


# --- display --------------------------------------------------------------------------------------------------------


def to_plain(value: object) -> object:
    """The value as JSON can show it to a person: typed forms as text, a sealed value as a map of its parts, bytes in
    hex, all else as it is.

    Total, and not reversible: a map that misuses ``$`` keys, as an entry of an unknown kind may, is shown as it stands.
    """
    match value:
        case bytes():
            return to_hex(value)
        case list():
            return [to_plain(item) for item in value]
        case Mapping():
            return _plain_map(value)
    return value


def _plain_map(value: Mapping[str, Value]) -> object:
    try:
        typed = _parse_typed(dict(value))
    except MalformedError:
        return {key: to_plain(item) for key, item in value.items()}
    match typed:
        case Decimal():
            return f"{typed:f}"  # as it is stored; str() would write a small amount with an exponent
        case datetime():
            return typed.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
        case Reference():
            return reference_text(typed)
        case Sealed(kid, commitment, ciphertext):
            return {_SEALED: {"kid": to_hex(kid), "com": to_hex(commitment), "ct": to_base64(ciphertext)}}
    return str(typed)

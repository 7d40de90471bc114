"""Documents as JSON: what people and programs write for one, and what they are shown.

Implements docs/reference/json.md, section "Values of documents". JSON has no decimals, days, points in time and bytes.
They are written in the typed forms of ``ledger.values``, bytes as ``{"$hex": "00ff"}``; where a schema says what a
field holds, plain JSON is enough: ``"2026-11-22"`` is a day where a day is asked for, and text where it is not said.
Nothing is guessed from what a text looks like, and a number with a fraction is a decimal only where one is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final, cast

from identity.encoding import Value
from identity.errors import AuditError, MalformedError
from identity.jsontext import parse_json
from identity.textforms import parse_zbase32
from ledger.values import Reference, decimal_value, to_python
from sync.schema import FieldType, Property, Schema
from sync.transaction import Path, path_text

__all__ = [
    "MAX_DOCUMENT_BYTES",
    "parse_path",
    "read_amount",
    "read_field",
    "read_fields",
    "read_json",
    "read_text",
    "to_json",
]

MAX_DOCUMENT_BYTES: Final = 1_048_576
"""Of the JSON text of one document. An entry could not hold more."""

_HEX: Final = "$hex"
_MOMENT: Final = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(\.\d{1,6})?(Z|[+-]\d{2}:\d{2})", re.ASCII)
_WHOLE: Final = re.compile(r"0|-?[1-9][0-9]{0,18}", re.ASCII)


# --- reading --------------------------------------------------------------------------------------------------------


def read_fields(data: bytes, schema: Schema | None = None, *, what: str = "document") -> dict[str, object]:
    """The fields of a document from its JSON text, as Python values: what ``Changes.put`` takes.

    Raises ``MalformedError`` naming the place, ``LimitExceeded``; ``what`` names the input.
    """
    members = parse_json(data, what=what, max_bytes=MAX_DOCUMENT_BYTES)
    if not isinstance(members, dict):
        raise MalformedError(f"{what}: not a JSON object", hint='write fields and their values: {"owner": "Novak"}')
    return {name: read_field(name, value, schema) for name, value in members.items()}


def read_field(name: str, value: object, schema: Schema | None) -> object:
    """The value of one field, from what ``parse_json`` made of it. Raises ``MalformedError``."""
    if name.startswith("$"):
        raise MalformedError(f"{path_text((name,))}: names with '$' are reserved")
    return read_json(value, None if schema is None else schema.property_at((name,)), path_text((name,)))


def read_json(value: object, rule: Property | None, at: str) -> object:
    """The Python value of a JSON value, typed by ``rule`` where it says something; ``at`` names the place in errors."""
    match value:
        case dict():
            return _read_map(value, rule, at)
        case list():
            items = None if rule is None else rule.items
            return [read_json(item, items, f"{at}/{place}") for place, item in enumerate(value)]
        case str():
            return read_text(value, rule, at)
        case bool():
            return value
        case int():
            return Decimal(value) if _is_decimal_only(rule) else value
        case Decimal():
            return _read_fraction(value, rule, at)
    return value


def read_text(text: str, rule: Property | None, at: str) -> object:
    """What a text stands for: itself, unless ``rule`` names types and text is none of them.

    Raises ``MalformedError`` when it is written like none of these types.
    """
    if rule is None or not rule.types or rule.collection is not None or FieldType.TEXT in rule.types:
        return text
    if not text and FieldType.NULL in rule.types:
        return None
    readable = [kind for kind in rule.types if kind in _FROM_TEXT]
    for kind in readable:
        try:
            return _FROM_TEXT[kind](text)
        except (AuditError, ValueError):
            continue
    if not readable:
        return text  # of no type that has a text: the schema says what is wrong
    raise MalformedError(f"{at}: not {' or '.join(_WRITTEN[kind] for kind in readable)}")


def read_amount(text: str, rule: Property | None, at: str) -> int | Decimal:
    """What is to be added to a counter. With a fraction, or where ``rule`` asks for one, a decimal; else an integer."""
    if _WHOLE.fullmatch(text) and not _is_decimal_only(rule):
        return int(text)
    try:
        return _decimal(text)
    except MalformedError as exc:
        raise MalformedError(f"{at}: not {_WRITTEN[FieldType.DECIMAL]}") from exc


def _is_decimal_only(rule: Property | None) -> bool:
    return rule is not None and FieldType.DECIMAL in rule.types and FieldType.INTEGER not in rule.types


def _read_fraction(number: Decimal, rule: Property | None, at: str) -> Decimal:
    if rule is not None and FieldType.DECIMAL in rule.types:
        return number
    raise MalformedError(
        f"{at}: a number with a fraction, and nothing says that it is a decimal",
        hint=f'write {{"$dec": "{number:f}"}}, or let the schema say that the field is a decimal',
    )


def _read_map(members: Mapping[str, object], rule: Property | None, at: str) -> object:
    if any(name.startswith("$") for name in members):
        return _read_form(members, at)
    shape = None if rule is None else rule.shape
    described = {} if shape is None else shape.properties
    return {name: read_json(item, described.get(name), at + path_text((name,))) for name, item in members.items()}


def _read_form(members: Mapping[str, object], at: str) -> object:
    try:
        return _form_value(members)
    except (AuditError, ValueError) as exc:
        raise MalformedError(f"{at}: {str(exc).removeprefix('value: ')}") from exc


def _form_value(members: Mapping[str, object]) -> object:
    match members:
        case {"$hex": str(text)} if len(members) == 1:
            return _bytes(text)
        case {"$ts": str(text)} if len(members) == 1:
            return _moment(text)
        case {"$ref": [str(feed), int(index), str(leaf)]} if len(members) == 1 and not isinstance(index, bool):
            return Reference(_bytes(feed), index, _bytes(leaf))
        case {"$sealed": _}:
            raise MalformedError("a sealed value can't be written: write the value itself, and the schema seals it")
    return to_python(cast("Value", dict(members)))


def parse_path(text: str) -> Path:
    """A field as people name it: ``balance``, ``address/street``, or by a JSON Pointer, for names with a slash.

    Raises ``MalformedError`` for what is neither.
    """
    names = tuple(text.split("/"))
    if text.startswith("/"):
        names = tuple(name.replace("~1", "/").replace("~0", "~") for name in names[1:])
        if path_text(names) != text:
            raise MalformedError(f"{text!r} is not a JSON Pointer")
    if not all(names) or any(name.startswith("$") for name in names):
        raise MalformedError(f"{text!r} names no field")
    return names


# --- texts ----------------------------------------------------------------------------------------------------------


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise MalformedError("neither true nor false")
    return text == "true"


def _integer(text: str) -> int:
    if not _WHOLE.fullmatch(text):
        raise MalformedError("not a whole number")
    return int(text)


def _decimal(text: str) -> Decimal:
    decimal_value(text)
    return Decimal(text)


def _bytes(text: str) -> bytes:
    data = bytes.fromhex(text)
    if data.hex() != text:
        raise MalformedError("not hex in lower case")
    return data


def _day(text: str) -> date:
    day = date.fromisoformat(text)
    if day.isoformat() != text:
        raise MalformedError("not written YYYY-MM-DD")
    return day


def _moment(text: str) -> datetime:
    if not _MOMENT.fullmatch(text):
        raise MalformedError(f"not {_WRITTEN[FieldType.TIMESTAMP]}")
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except OverflowError as exc:  # its offset leads out of the years 1 to 9999
        raise MalformedError("not within the years 1 to 9999, in UTC") from exc


def _reference(text: str) -> Reference:
    feed, index, leaf = text.split("/")
    return Reference(parse_zbase32(feed), _integer(index), _bytes(leaf))


_FROM_TEXT: Final[Mapping[FieldType, Callable[[str], object]]] = {
    FieldType.BOOLEAN: _boolean,
    FieldType.INTEGER: _integer,
    FieldType.DECIMAL: _decimal,
    FieldType.BYTES: _bytes,
    FieldType.DATE: _day,
    FieldType.TIMESTAMP: _moment,
    FieldType.REFERENCE: _reference,
}

_WRITTEN: Final[Mapping[FieldType, str]] = {
    FieldType.BOOLEAN: "true or false",
    FieldType.INTEGER: "a whole number",
    FieldType.DECIMAL: "a decimal such as -12.30",
    FieldType.BYTES: "bytes in hex",
    FieldType.DATE: "a day, written YYYY-MM-DD",
    FieldType.TIMESTAMP: "a point in time with its offset from UTC, such as 2026-11-22T14:02:00Z",
    FieldType.REFERENCE: "an entry, written FEED/INDEX/LEAF HASH",
}


# --- showing --------------------------------------------------------------------------------------------------------


def to_json(value: Value) -> Any:
    """A stored value as JSON that ``read_json`` reads again, sealed ones aside. Total."""
    match value:
        case bytes():
            return {_HEX: value.hex()}
        case list():
            return [to_json(item) for item in value]
        case {"$ref": list(parts)}:
            return {"$ref": [_hex_or_same(part) for part in parts]}
        case {"$sealed": list(parts)}:
            return {"$sealed": [_hex_or_same(part) for part in parts]}
        case dict():
            return {name: to_json(item) for name, item in value.items()}
    return value


def _hex_or_same(part: Value) -> Any:
    return part.hex() if isinstance(part, bytes) else part

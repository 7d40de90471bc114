"""Strict JSON: one reading of a text, or an error.

Python's ``json`` takes the last of two equal keys, reads NaN, and recurses as deep as its input. Here duplicate keys,
non-finite numbers, lone surrogates, and texts that are too long or too deep are refused, and numbers with a fraction
or an exponent come out as ``decimal.Decimal``, never as a float (RFC 8259 section 6 leaves their precision open).
"""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

from identity.errors import LimitExceeded, MalformedError

__all__ = ["MAX_JSON_DEPTH", "parse_json"]

MAX_JSON_DEPTH = 32
_MAX_NUMBER_LENGTH = 100


def parse_json(data: bytes, *, what: str, max_bytes: int, max_depth: int = MAX_JSON_DEPTH) -> Any:
    """Parse one UTF-8 JSON text.

    Returns dict, list, str, int, ``Decimal``, bool or None. Raises ``MalformedError`` for anything that is not exactly
    one strict JSON text and ``LimitExceeded`` beyond ``max_bytes`` or ``max_depth``; ``what`` names the input.
    """
    if len(data) > max_bytes:
        raise LimitExceeded(f"{what}: {len(data)} bytes, at most {max_bytes} are read")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise MalformedError(f"{what}: not UTF-8 at byte {exc.start}") from exc
    _check_depth(text, what, max_depth)

    def refuse_constant(name: str) -> NoReturn:
        raise MalformedError(f"{what}: {name} is not a JSON number")

    def read_integer(digits: str) -> int:
        _check_number(digits, what)
        return int(digits)

    def read_decimal(digits: str) -> Decimal:
        _check_number(digits, what)
        try:
            return Decimal(digits)
        except InvalidOperation as exc:  # an exponent that no Decimal has
            raise LimitExceeded(f"{what}: the number {digits} is out of bounds") from exc

    def read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            seen: set[str] = set()
            double = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise MalformedError(f"{what}: the key {double!r} stands twice in one object")
        return members

    try:
        value = json.loads(
            text,
            parse_constant=refuse_constant,
            parse_int=read_integer,
            parse_float=read_decimal,
            object_pairs_hook=read_object,
        )
        # An escaped lone surrogate passes the JSON grammar and is no text.
        json.dumps(value, ensure_ascii=False, default=str).encode("utf-8")
    except json.JSONDecodeError as exc:
        raise MalformedError(f"{what}: not JSON at line {exc.lineno}, column {exc.colno}: {exc.msg}") from exc
    except UnicodeEncodeError as exc:
        raise MalformedError(f"{what}: a text holds a lone surrogate") from exc
    return value


def _check_number(digits: str, what: str) -> None:
    if len(digits) > _MAX_NUMBER_LENGTH:
        raise LimitExceeded(f"{what}: a number of {len(digits)} digits")


def _check_depth(text: str, what: str, max_depth: int) -> None:
    """Count brackets outside strings, so that the recursive parser never sees a deep text."""
    if text.count("[") + text.count("{") <= max_depth:
        return
    depth = 0
    in_string = escaped = False
    for character in text:
        if in_string:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                in_string = False
        elif character == '"':
            in_string = True
        elif character in "[{":
            depth += 1
            if depth > max_depth:
                raise LimitExceeded(f"{what}: nested deeper than {max_depth}")
        elif character in "]}":
            depth -= 1

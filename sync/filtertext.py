"""Filters written as text: what a person types behind ``db query``.

Implements docs/spec/query.md, section "Text". The grammar has no brackets and needs none: a filter is a list of
alternatives. What is wrong is named by its character.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Final

from identity.encoding import MAX_INT, MIN_INT, Value
from identity.errors import AuditError, LimitExceeded, MalformedError
from ledger.values import from_python
from sync.query import (
    MAX_CHOICES,
    Comparison,
    Conjunction,
    Filter,
    Operator,
    check_comparison,
    check_field,
    make_filter,
)
from sync.transaction import Path

__all__ = ["MAX_FILTER_TEXT", "parse_field", "parse_filter"]

MAX_FILTER_TEXT: Final = 16_384
"""Characters of a filter."""

_TOKEN: Final = re.compile(
    r"""[ \t\r\n]*(?:
      (?P<text>"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4}))*")
    | (?P<moment>[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(?:\.[0-9]{1,6})?Z)(?!\w)
    | (?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2})(?![\w-])
    | (?P<hex>0x(?:[0-9a-f]{2})*)(?!\w)
    | (?P<number>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?)(?![\w.-])
    | (?P<operator>!=|<=|>=|\^=|=|<|>)
    | (?P<mark>[(),/])
    | (?P<word>\$?[^\W\d][\w-]*)
    | (?P<end>\Z)
    )""",
    re.VERBOSE,
)
_WORDS: Final = frozenset({"and", "or", "in", "exists", "absent", "null", "true", "false"})


def parse_filter(text: str) -> Filter:
    """Read a filter that is written as text, by the grammar of the specification.

    Raises ``MalformedError`` naming the character at which it can't be read on, ``LimitExceeded``.
    """
    return _TextReader(text, "filter").filter()


def parse_field(text: str) -> Path:
    """Read one field, as it stands in a filter: ``balance``, ``address/city``, ``"account id"``, ``$key``.

    Raises ``MalformedError``, ``LimitExceeded``.
    """
    reader = _TextReader(text, "field")
    path = reader.path()
    reader.finish()
    check_field(path, "field")
    return path


class _TextReader:
    """Reads tokens one after the other. ``kind`` and ``token`` are the one that stands next, at ``at``."""

    def __init__(self, text: str, what: str) -> None:
        if len(text) > MAX_FILTER_TEXT:
            raise LimitExceeded(f"{what}: {len(text)} characters, at most {MAX_FILTER_TEXT} are read")
        self._text = text
        self._what = what
        self._next = 0
        self._advance()

    def filter(self) -> Filter:
        alternatives = [self._conjunction()]
        while self._is_word("or"):
            self._advance()
            alternatives.append(self._conjunction())
        self.finish()
        return make_filter(alternatives, self._what)

    def path(self) -> Path:
        names = [self._name()]
        while self._kind == "mark" and self._word == "/":
            self._advance()
            names.append(self._name())
        return tuple(names)

    def finish(self) -> None:
        if self._kind != "end":
            raise self._fault("'and', 'or' or the end is expected")

    def _conjunction(self) -> Conjunction:
        comparisons = [self._comparison()]
        while self._is_word("and"):
            self._advance()
            comparisons.append(self._comparison())
        return tuple(comparisons)

    def _comparison(self) -> Comparison:
        start = self._at
        if self._kind == "mark" and self._word == "(":
            raise self._fault("a filter has no brackets: write out the alternatives, 'a and b or a and c'")
        path = self.path()
        operator = self._operator()
        values: list[Value] = []
        if operator is Operator.IN:
            values = self._choices()
        elif operator not in (Operator.EXISTS, Operator.ABSENT):
            values = [self._literal()]
        return check_comparison(Comparison(path, operator, tuple(values)), f"{self._what}, character {start + 1}")

    def _operator(self) -> Operator:
        if self._kind == "operator" or (self._kind == "word" and self._word in ("in", "exists", "absent")):
            operator = Operator(self._word)
            self._advance()
            return operator
        raise self._fault(f"one of {' '.join(Operator)} is expected")

    def _choices(self) -> list[Value]:
        self._take_mark("(")
        values = [self._literal()]
        while self._kind == "mark" and self._word == ",":
            self._advance()
            values.append(self._literal())
            if len(values) > MAX_CHOICES:
                raise LimitExceeded(f"{self._what}: 'in' with more than {MAX_CHOICES} values")
        self._take_mark(")")
        return values

    def _take_mark(self, mark: str) -> None:
        if self._kind != "mark" or self._word != mark:
            raise self._fault(f"{mark!r} is expected")
        self._advance()

    def _name(self) -> str:
        if self._kind == "text":
            name = str(json.loads(self._word))
        elif self._kind == "word" and self._word not in _WORDS:
            name = self._word
        else:
            raise self._fault("a field is expected (in double quotes when it is not a plain word)")
        self._advance()
        return name

    def _literal(self) -> Value:
        read = _LITERALS.get(self._word if self._kind == "word" else self._kind)
        if read is None:
            raise self._fault(
                'a value is expected: 12.30, "text", 2026-11-22, 2026-11-22T14:02:00Z, 0x00ff, true, false or null'
            )
        try:
            value = from_python(read(self._word))
        except (AuditError, ValueError) as exc:
            raise self._fault(str(exc).removeprefix("value: ")) from exc
        self._advance()
        return value

    def _is_word(self, word: str) -> bool:
        return self._kind == "word" and self._word == word

    def _advance(self) -> None:
        found = _TOKEN.match(self._text, self._next)
        if found is None or found.lastgroup is None:
            self._at = self._next + len(self._text[self._next :]) - len(self._text[self._next :].lstrip(" \t\r\n"))
            raise self._fault(_UNREADABLE.get(self._text[self._at : self._at + 1], "can't be read"))
        self._kind, self._word = found.lastgroup, found[found.lastgroup]
        self._at, self._next = found.start(found.lastgroup), found.end()

    def _fault(self, reason: str) -> MalformedError:
        return MalformedError(f"{self._what}, character {self._at + 1}: {reason}")


def _number(text: str) -> int | Decimal:
    """What is no integer of this format is a decimal; a longer one than a decimal can be, an error to come."""
    number = Decimal(text)
    return int(text) if "." not in text and MIN_INT <= number <= MAX_INT else number


_UNREADABLE: Final = {
    "'": "texts stand in double quotes",
    '"': "a text that can't be read, or that does not end",
}
"""What is wrong where no token begins, by the character that stands there."""

_LITERALS: Final[Mapping[str, Callable[[str], object]]] = {
    "text": json.loads,
    "moment": lambda text: datetime.fromisoformat(text).astimezone(UTC),
    "day": date.fromisoformat,
    "hex": lambda text: bytes.fromhex(text[2:]),
    "number": _number,
    "null": lambda _: None,
    "true": lambda _: True,
    "false": lambda _: False,
}

"""Queries: which documents of a collection are asked for, in which order, and what of them is wanted.

Implements docs/spec/query.md. A filter is a list of alternatives, each of them comparisons that all have to hold. It is
written as text, for people, or as JSON, for programs:

    balance >= 100.00 and owner ^= "No" or status in ("frozen", "closed")

Here a filter is judged over the values that a document shows; that an index finds the same documents faster is a matter
of ``sync.storage.query``. What reads filters, here and in ``sync.filtertext``, is strict, bounded and total, and names
the place of what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final, TypeAlias

from identity.encoding import Value, decode, encode
from identity.errors import LimitExceeded, MalformedError
from identity.textforms import check_name, parse_base64, to_base64
from ledger.values import Reference, from_python, to_python
from sync.jsonform import read_json, read_text, to_json
from sync.schema import FieldType, Property, Schema
from sync.transaction import MAX_PATH, Path, path_text

__all__ = [
    "EVERYTHING",
    "KEY",
    "MAX_ALTERNATIVES",
    "MAX_CHOICES",
    "MAX_COMPARISONS",
    "Comparison",
    "Conjunction",
    "Filter",
    "Matches",
    "Operator",
    "Query",
    "bind",
    "check_comparison",
    "check_field",
    "decode_cursor",
    "encode_cursor",
    "filter_from_json",
    "filter_to_json",
    "make_filter",
    "matcher",
    "project",
    "query_digest",
    "text_after",
]

MAX_ALTERNATIVES: Final = 16
MAX_COMPARISONS: Final = 64
"""In all alternatives of a filter together."""
MAX_CHOICES: Final = 256
"""Values of one ``in``."""

KEY: Final[Path] = ("$key",)
"""In the place of a field: the document's key."""

_CURSOR_VERSION: Final = 1
_MAX_CURSOR: Final = 8192
_LAST_POINT: Final = 0x10FFFF
_SURROGATES: Final = (0xD800, 0xE000)


class Operator(StrEnum):
    """What a comparison asks of a field's value, as it is written."""

    EQUAL = "="
    UNEQUAL = "!="
    """The document has the field, with another value."""
    LESS = "<"
    AT_MOST = "<="
    MORE = ">"
    AT_LEAST = ">="
    IN = "in"
    PREFIX = "^="
    """A text that begins so."""
    EXISTS = "exists"
    ABSENT = "absent"


_ORDERING: Final = frozenset({Operator.LESS, Operator.AT_MOST, Operator.MORE, Operator.AT_LEAST})
_WITHOUT_VALUE: Final = frozenset({Operator.EXISTS, Operator.ABSENT})


@dataclass(frozen=True, slots=True)
class Comparison:
    """One condition. ``values`` are stored values: none for ``exists`` and ``absent``, several for ``in``, else one."""

    path: Path
    operator: Operator
    values: tuple[Value, ...] = ()


Conjunction: TypeAlias = tuple[Comparison, ...]
"""Comparisons that all have to hold; none: every document fits."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Alternatives, of which one has to hold."""

    alternatives: tuple[Conjunction, ...]


EVERYTHING: Final = Filter(((),))


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked of a collection."""

    collection: str
    where: Filter = EVERYTHING
    order: Path = KEY
    """An indexed field, or ``KEY``. Documents with equal values follow each other by key."""
    descending: bool = False
    select: tuple[Path, ...] = ()
    """The fields that are wanted; none: all of them."""
    scan: bool = False
    """Whether every document may be looked at, where no index says which can fit."""


# --- values ---------------------------------------------------------------------------------------------------------

_NULL, _BOOLEAN, _NUMBER, _DAY, _MOMENT, _TEXT, _BYTES, _REFERENCE = range(8)

_ORDERED: Final = frozenset({_NUMBER, _DAY, _MOMENT, _TEXT, _BYTES})
"""Groups whose values are less or more than each other."""

_GROUP_OF: Final = {
    FieldType.NULL: _NULL,
    FieldType.BOOLEAN: _BOOLEAN,
    FieldType.INTEGER: _NUMBER,
    FieldType.DECIMAL: _NUMBER,
    FieldType.DATE: _DAY,
    FieldType.TIMESTAMP: _MOMENT,
    FieldType.TEXT: _TEXT,
    FieldType.BYTES: _BYTES,
    FieldType.REFERENCE: _REFERENCE,
}


def _ranked(value: Value) -> tuple[int, Any] | None:
    """A value's group and what is compared within it; None for a list, a map and a sealed value."""
    match value:
        case None:
            return _NULL, 0
        case bool():
            return _BOOLEAN, value
        case int():
            return _NUMBER, value
        case str():
            return _TEXT, value
        case bytes():
            return _BYTES, value
        case dict() if len(value) == 1:
            return _ranked_form(value)
    return None


def _ranked_form(value: Value) -> tuple[int, Any] | None:
    try:
        plain = to_python(value)
    except MalformedError:
        return None
    match plain:
        case Decimal():
            return _NUMBER, plain
        case datetime():
            return _MOMENT, plain
        case date():
            return _DAY, plain
        case Reference():
            return _REFERENCE, plain
    return None


def _value_at(key: str, fields: Mapping[str, Value], path: Path) -> tuple[bool, Value]:
    """Whether the document has something at the path, and what."""
    if path == KEY:
        return True, key
    found: Any = fields
    for name in path:
        if not isinstance(found, Mapping) or name not in found:
            return False, None
        found = found[name]
    return True, found


# --- judging --------------------------------------------------------------------------------------------------------

Matches: TypeAlias = Callable[[str, Mapping[str, Value]], bool]
"""Whether a document fits, from its key and the fields that it shows."""


def matcher(where: Filter) -> Matches:
    """The judgement of a filter. What it gives is total; a field of another kind than it is compared with never fits
    but for ``!=``, ``exists`` and ``absent``.
    """
    alternatives = [[_comparison_matcher(one) for one in conjunction] for conjunction in where.alternatives]

    def matches(key: str, fields: Mapping[str, Value]) -> bool:
        return any(all(holds(key, fields) for holds in conjunction) for conjunction in alternatives)

    return matches


def _comparison_matcher(comparison: Comparison) -> Matches:
    path, operator = comparison.path, comparison.operator
    wanted = [ranked for ranked in map(_ranked, comparison.values) if ranked is not None]
    if operator in _WITHOUT_VALUE:
        return lambda key, fields: _value_at(key, fields, path)[0] is (operator is Operator.EXISTS)
    holds = _JUDGES[operator]

    def matches(key: str, fields: Mapping[str, Value]) -> bool:
        there, value = _value_at(key, fields, path)
        return there and holds(_ranked(value), wanted)

    return matches


_Ranked: TypeAlias = tuple[int, Any]


def _is_among(found: _Ranked | None, wanted: Sequence[_Ranked]) -> bool:
    return found in wanted


def _is_other(found: _Ranked | None, wanted: Sequence[_Ranked]) -> bool:
    return found not in wanted


def _begins(found: _Ranked | None, wanted: Sequence[_Ranked]) -> bool:
    return found is not None and found[0] == _TEXT and found[1].startswith(wanted[0][1])


def _ordering(holds: Callable[[Any, Any], bool]) -> Callable[[_Ranked | None, Sequence[_Ranked]], bool]:
    def judge(found: _Ranked | None, wanted: Sequence[_Ranked]) -> bool:
        ((group, limit),) = wanted
        return found is not None and found[0] == group and holds(found[1], limit)

    return judge


_JUDGES: Final[Mapping[Operator, Callable[[_Ranked | None, Sequence[_Ranked]], bool]]] = {
    Operator.EQUAL: _is_among,
    Operator.IN: _is_among,
    Operator.UNEQUAL: _is_other,
    Operator.PREFIX: _begins,
    Operator.LESS: _ordering(lambda value, limit: bool(value < limit)),
    Operator.AT_MOST: _ordering(lambda value, limit: bool(value <= limit)),
    Operator.MORE: _ordering(lambda value, limit: bool(value > limit)),
    Operator.AT_LEAST: _ordering(lambda value, limit: bool(value >= limit)),
}


def project(fields: Mapping[str, Value], select: Iterable[Path]) -> dict[str, Value]:
    """Only what stands at the paths, in maps as before; a path at which nothing stands is left out."""
    chosen: dict[str, Any] = {}
    for path in select:
        there, value = _value_at("", fields, path)
        if there and path != KEY:
            within = chosen
            for name in path[:-1]:
                below = within.get(name)
                within[name] = dict(below) if isinstance(below, Mapping) else {}
                within = within[name]
            within[path[-1]] = value
    return chosen


def text_after(prefix: str) -> str | None:
    """The first text behind all that begin with ``prefix``, by code points; None when there is none behind them."""
    while prefix:
        point = ord(prefix[-1]) + 1
        if point <= _LAST_POINT:
            return prefix[:-1] + chr(_SURROGATES[1] if _SURROGATES[0] <= point < _SURROGATES[1] else point)
        prefix = prefix[:-1]
    return None


# --- checking -------------------------------------------------------------------------------------------------------


def check_comparison(comparison: Comparison, what: str) -> Comparison:
    """The comparison, when it can be made at all. Raises ``MalformedError``; ``what`` names it."""
    path, operator, values = comparison.path, comparison.operator, comparison.values
    check_field(path, what)
    groups = [_ranked(value) for value in values]
    if None in groups:
        raise MalformedError(f"{what}: a list, a map or a sealed value can't be compared")
    kinds = {found[0] for found in groups if found is not None}
    if path == KEY and (operator in _WITHOUT_VALUE or kinds != {_TEXT}):
        raise MalformedError(f"{what}: a document always has a key, and it is a text")
    if operator in _ORDERING and not kinds <= _ORDERED:
        raise MalformedError(f"{what}: {operator} compares numbers, days, points in time, texts and bytes")
    if operator is Operator.PREFIX and kinds != {_TEXT}:
        raise MalformedError(f"{what}: {operator} takes a text")
    return comparison


def check_field(path: Path, what: str) -> None:
    """Return only when the path can be one of a field, or is ``KEY``. Raises ``MalformedError``; ``what`` names it."""
    if path == KEY:
        return
    if not 0 < len(path) <= MAX_PATH:
        raise LimitExceeded(f"{what}: a field is 1 to {MAX_PATH} names")
    for name in path:
        check_name(name, f"{what}: field")
        if name.startswith("$"):
            raise MalformedError(f"{what}: there is no field {name!r}; the document's key is {KEY[0]}")


def make_filter(alternatives: Sequence[Conjunction], what: str) -> Filter:
    """The filter of these alternatives. Raises ``LimitExceeded``."""
    if len(alternatives) > MAX_ALTERNATIVES:
        raise LimitExceeded(f"{what}: {len(alternatives)} alternatives, at most {MAX_ALTERNATIVES} are allowed")
    if sum(map(len, alternatives)) > MAX_COMPARISONS:
        raise LimitExceeded(f"{what}: more than {MAX_COMPARISONS} comparisons")
    return Filter(tuple(alternatives))


def bind(where: Filter, schema: Schema | None) -> Filter:
    """The filter with its texts read as what the schema says the fields are, as ``"2026-11-22"`` for a day.

    Raises ``MalformedError`` for a comparison that no value the schema allows could fit: it would find nothing, and
    mean something else.
    """
    if schema is None:
        return where
    return Filter(tuple(tuple(_bound(one, schema) for one in conjunction) for conjunction in where.alternatives))


def _bound(comparison: Comparison, schema: Schema) -> Comparison:
    rule = None if comparison.path == KEY else schema.property_at(comparison.path)
    if rule is None or not comparison.values:
        return comparison
    at = path_text(comparison.path)
    if rule.sealed:
        raise MalformedError(f"{at}: is sealed: its value can't be compared", hint="'exists' and 'absent' can be asked")
    values = tuple(_typed(value, rule, at) for value in comparison.values)
    return check_comparison(Comparison(comparison.path, comparison.operator, values), at)


def _typed(value: Value, rule: Property, at: str) -> Value:
    if isinstance(value, str):
        value = from_python(read_text(value, rule, at))
    ranked = _ranked(value)
    if rule.types and rule.collection is None and ranked is not None:
        allowed = {_GROUP_OF[kind] for kind in rule.types if kind in _GROUP_OF}
        if ranked[0] not in allowed:
            hint = "a field that is not there is 'absent'" if value is None else ""
            raise MalformedError(f"{at}: is {' or '.join(rule.types)}, and never equal to such a value", hint=hint)
    return value


# --- JSON -----------------------------------------------------------------------------------------------------------


def filter_from_json(value: Any) -> Filter:
    """Read a filter from what ``identity.jsontext.parse_json`` made of its JSON.

    A filter is a comparison, ``{"and": [comparison, ...]}``, or ``{"or": [...]}`` of those. A comparison is
    ``{"field": ["balance"], "is": ">=", "value": {"$dec": "100.00"}}``, with ``values`` for ``in``, without either for
    ``exists`` and ``absent``; a field at the top can be its name alone. Raises ``MalformedError`` naming the place,
    ``LimitExceeded``.
    """
    match value:
        case {"or": list(items)} if len(value) == 1:
            if not 0 < len(items) <= MAX_ALTERNATIVES:
                raise LimitExceeded(f"filter: 'or' has 1 to {MAX_ALTERNATIVES} alternatives")
            return make_filter([_conjunction(item, f"filter, or {at}") for at, item in enumerate(items)], "filter")
    return make_filter([_conjunction(value, "filter")], "filter")


def _conjunction(value: Any, what: str) -> Conjunction:
    match value:
        case {"and": list(items)} if len(value) == 1:
            if len(items) > MAX_COMPARISONS:
                raise LimitExceeded(f"{what}: more than {MAX_COMPARISONS} comparisons")
            return tuple(_comparison(item, f"{what}, and {at}") for at, item in enumerate(items))
    return (_comparison(value, what),)


def _comparison(value: Any, what: str) -> Comparison:
    match value:
        case {"field": field, "is": str(word)} if len(value) == 2 and word in _WITHOUT_VALUE:
            values: list[object] = []
        case {"field": field, "is": Operator.IN.value as word, "values": list(values)} if len(value) == 3:
            if not 0 < len(values) <= MAX_CHOICES:
                raise LimitExceeded(f"{what}: 'in' takes 1 to {MAX_CHOICES} values")
        case {"field": field, "is": str(word), "value": one} if len(value) == 3 and word in _OF_ONE:
            values = [one]
        case _:
            raise MalformedError(f"{what}: not a comparison: 'field', 'is', and 'value', 'values' or neither")
    stored = tuple(from_python(read_json(item, None, what)) for item in values)
    return check_comparison(Comparison(_json_path(field, what), Operator(word), stored), what)


_OF_ONE: Final = frozenset(Operator) - _WITHOUT_VALUE - {Operator.IN}


def _json_path(field: object, what: str) -> Path:
    match field:
        case str():
            return (field,)
        case list() if field and all(isinstance(name, str) for name in field):
            return tuple(field)
    raise MalformedError(f"{what}: a field is a text or a list of names")


def filter_to_json(where: Filter) -> Any:
    """The JSON that ``filter_from_json`` reads as this filter."""
    alternatives = [{"and": [_comparison_json(one) for one in conjunction]} for conjunction in where.alternatives]
    return {"or": alternatives}


def _comparison_json(comparison: Comparison) -> Any:
    members: dict[str, Any] = {"field": list(comparison.path), "is": comparison.operator.value}
    values = [to_json(value) for value in comparison.values]
    if comparison.operator is Operator.IN:
        members["values"] = values
    elif values:
        (members["value"],) = values
    return members


# --- cursors --------------------------------------------------------------------------------------------------------


def query_digest(query: Query) -> bytes:
    """8 bytes that tell the pages of one query from those of another: what is left out does not decide what comes next.

    ``select`` and ``scan`` are left out.
    """
    alternatives: list[Value] = [
        [[list(one.path), one.operator.value, list(one.values)] for one in conjunction]
        for conjunction in query.where.alternatives
    ]
    state: Value = [query.collection, alternatives, list(query.order), query.descending]
    return sha256(encode(state)).digest()[:8]


def encode_cursor(*parts: Value) -> str:
    """A place in an order as an opaque text."""
    return to_base64(encode([_CURSOR_VERSION, *parts])).replace("+", "-").replace("/", "_").rstrip("=")


def decode_cursor(text: str, *types: type) -> list[Any]:
    """The parts of a cursor, which have to be of these types. Raises ``MalformedError``."""
    if len(text) > _MAX_CURSOR:
        raise LimitExceeded("cursor: too long")
    padded = text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4)
    try:
        value: Any = decode(parse_base64(padded))
    except MalformedError as exc:
        raise MalformedError("cursor: not one that this program has given out") from exc
    if not isinstance(value, list) or [type(part) for part in value] != [int, *types] or value[0] != _CURSOR_VERSION:
        raise MalformedError("cursor: not one that this kind of call has given out")
    if encode_cursor(*value[1:]) != text:
        raise MalformedError("cursor: not spelt as it was given out")
    return value[1:]

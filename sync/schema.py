"""Schemas: what the documents of a collection may hold, and in which kind of cell each field is kept.

Implements docs/spec/schema.md. A schema is a stored value in a subset of JSON Schema (2020-12). It comes from other
devices and decides, on every replica and for ever, whether an operation counts; so it is bounded, reading it is strict,
and judging is a pure function of schema and operation. ``check_op`` is that function. What only a whole document can
break, a field that is required, is judged by ``check_document`` where the document is written, and never on merge:
two devices can each remove what the other one left.

Reasons name paths and rules, never values: they are shown to people who may not see what a field holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from operator import ge, gt, le, lt
from typing import Any, Final, NamedTuple, TypeAlias, cast

from identity.encoding import MAX_BYTES, MAX_INT, MIN_INT, Fields, Value, encode
from identity.errors import LimitExceeded, MalformedError
from identity.jsontext import parse_json
from identity.textforms import MAX_NAME, check_name
from ledger.values import Reference, from_python, to_python
from sync.cells import KIND_OF, CellKind
from sync.pattern import Pattern, parse_pattern
from sync.transaction import MAX_KEY, DocumentId, Op, Path, Verb, path_text

__all__ = [
    "MAX_PATTERN_STATES",
    "MAX_PROPERTIES",
    "MAX_SCHEMA_BYTES",
    "MAX_SCHEMA_DEPTH",
    "Bound",
    "FieldType",
    "Property",
    "Ranked",
    "Scalar",
    "Schema",
    "Shape",
    "check_document",
    "check_op",
    "check_schema_op",
    "document_reference",
    "parse_schema",
    "schema_from_json",
    "schema_value",
]

MAX_SCHEMA_BYTES: Final = 65_536
"""Of the canonical encoding, and of the JSON text."""

MAX_PROPERTIES: Final = 256
"""Properties of a schema, those within others and descriptions of items counted too."""

MAX_SCHEMA_DEPTH: Final = 8
"""Properties and items within each other."""

MAX_PATTERN_STATES: Final = 4000
"""States (``sync.pattern``) of all patterns of a schema."""

_MAX_CHOICES: Final = 256
_MAX_TEXT: Final = 4096


class FieldType(StrEnum):
    """What a value is."""

    NULL = "null"
    BOOLEAN = "boolean"
    INTEGER = "integer"
    DECIMAL = "decimal"
    TEXT = "text"
    BYTES = "bytes"
    DATE = "date"
    TIMESTAMP = "timestamp"
    REFERENCE = "reference"
    ARRAY = "array"
    OBJECT = "object"


Scalar: TypeAlias = bool | int | str | bytes | Decimal | date | Reference | None
"""A value without parts, in Python's form (``ledger.values``); a point in time is a ``datetime``."""

Ranked: TypeAlias = tuple[str, Scalar]
"""A scalar behind the name of those that it can be compared with: all numbers are one such group."""


class Bound(NamedTuple):
    """A limit that values of its group have to keep to; ``keyword`` says which way."""

    keyword: str
    group: str
    limit: Scalar


@dataclass(frozen=True, slots=True)
class Shape:
    """Which fields a map has. ``additional``: it can have others too, of which nothing is said."""

    properties: Mapping[str, Property] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    """Ascending."""
    additional: bool = True


@dataclass(frozen=True, slots=True)
class Property:
    """What one field, or each element of a list, may hold. Every rule binds only values that it is about."""

    types: tuple[FieldType, ...] = ()
    """Any of them, in the order of ``FieldType``; empty: a value of any type."""
    choices: tuple[Ranked, ...] = ()
    """The only values that fit; empty: no such rule."""
    bounds: tuple[Bound, ...] = ()
    min_length: int = 0
    max_length: int | None = None
    """Characters of a text, bytes of a byte string."""
    pattern: Pattern | None = None
    items: Property | None = None
    min_items: int = 0
    max_items: int | None = None
    shape: Shape | None = None
    collection: str | None = None
    """A reference is to a document of this collection, and not to an entry."""
    cell: CellKind | None = None
    """None: the field is no cell of its own, but part of a value, or a map of cells."""
    is_map: bool = False
    """A map of cells: each of its fields is one, or another such map."""
    indexed: bool = False
    sealed: bool = False
    description: str = ""


@dataclass(frozen=True, slots=True)
class Schema:
    """The schema of a collection."""

    shape: Shape
    title: str = ""
    description: str = ""

    def property_at(self, path: Path) -> Property | None:
        """The property that is declared at the path of a cell or a map of cells; None when none is."""
        found = _resolve(self, path)
        return found if isinstance(found, Property) else None

    def cell_kind(self, path: Path) -> CellKind | None:
        """The kind of cell that is declared at the path; None when nothing is, or a map of cells."""
        found = self.property_at(path)
        return None if found is None else found.cell

    def sealed(self, path: Path) -> bool:
        """Whether values at the path are to be sealed."""
        found = self.property_at(path)
        return found is not None and found.sealed

    @property
    def seals(self) -> bool:
        """Whether any values are to be sealed."""
        return _seals(self.shape)

    @property
    def indexed(self) -> tuple[str, ...]:
        """The names of the fields that are indexed, ascending; all stand at the top of a document."""
        return tuple(sorted(name for name, one in self.shape.properties.items() if one.indexed))


def _seals(shape: Shape) -> bool:
    fields = shape.properties.values()
    return any(one.sealed or (one.is_map and one.shape is not None and _seals(one.shape)) for one in fields)


def _resolve(schema: Schema, path: Path) -> Property | str | None:
    """What is declared at the path; None when nothing is and anything goes, the reason when no cell can be there."""
    shape: Shape | None = schema.shape
    found: Property | None = None
    for depth, name in enumerate(path):
        if found is not None and not found.is_map:
            return f"{path_text(path[:depth])}: has no cells beneath it"
        if shape is None:
            return None
        found = shape.properties.get(name)
        if found is None:
            return None if shape.additional else f"{path_text(path[: depth + 1])}: no such field"
        shape = found.shape
    return found


# --- reading --------------------------------------------------------------------------------------------------------


def schema_from_json(data: bytes) -> Schema:
    """Read a schema from JSON in UTF-8. Raises as ``parse_schema`` does; numbers with a fraction are refused."""
    return parse_schema(parse_json(data, what="schema", max_bytes=MAX_SCHEMA_BYTES))


def parse_schema(value: Value) -> Schema:
    """Read a schema. Raises ``MalformedError`` naming the place, ``LimitExceeded`` beyond the limits above."""
    _check_size(value)
    fields = Fields(value, "schema")
    if fields.value("type") != FieldType.OBJECT:
        raise MalformedError("schema: 'type' must be 'object'")
    shape = _Reader().shape(fields, (), in_document=True)
    schema = Schema(shape or Shape(), _text(fields, "title"), _text(fields, "description"))
    fields.done()
    return schema


def _check_size(value: Value) -> None:
    try:
        size = len(encode(value))
    except LimitExceeded:
        raise
    except MalformedError as exc:
        hint = 'a number with a fraction is written {"$dec": "0.50"}'
        raise MalformedError("schema: it holds what is not a stored value", hint=hint) from exc
    if size > MAX_SCHEMA_BYTES:
        raise LimitExceeded(f"schema: {size} bytes, at most {MAX_SCHEMA_BYTES} are allowed")


def _text(fields: Fields, key: str) -> str:
    return fields.text(key, max=_MAX_TEXT) if fields.has(key) else ""


_SYNONYMS: Final = {"string": FieldType.TEXT, "number": FieldType.DECIMAL}
_TYPES: Final[Mapping[str, FieldType]] = {**{one.value: one for one in FieldType}, **_SYNONYMS}
_ORDER: Final = {one: place for place, one in enumerate(FieldType)}

_CELLS: Final = {"reg": CellKind.REG, "lww": CellKind.LWW, "ctr": CellKind.CTR, "set": CellKind.SET}
_MAP: Final = "map"

_NUMBERS: Final = frozenset({FieldType.INTEGER, FieldType.DECIMAL})
_ORDERED: Final = _NUMBERS | {FieldType.DATE, FieldType.TIMESTAMP}
_MEASURED: Final = frozenset({FieldType.TEXT, FieldType.BYTES})
_LISTS: Final = frozenset({FieldType.ARRAY})
_MAPS: Final = frozenset({FieldType.OBJECT})
_PARTED: Final = _LISTS | _MAPS

_BREAKS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "minimum": lt,
    "maximum": gt,
    "exclusiveMinimum": le,
    "exclusiveMaximum": ge,
}
"""For each kind of bound, how a value relates to a limit that it breaks."""

_ABOUT: Final[Mapping[str, frozenset[FieldType]]] = {
    **dict.fromkeys(_BREAKS, _ORDERED),
    "minLength": _MEASURED,
    "maxLength": _MEASURED,
    "pattern": frozenset({FieldType.TEXT}),
    "items": _LISTS,
    "minItems": _LISTS,
    "maxItems": _LISTS,
    "properties": _MAPS,
    "required": _MAPS,
    "additionalProperties": _MAPS,
    "collection": frozenset({FieldType.REFERENCE}),
}
"""Which types a keyword says something about: with none of them it would be a rule that binds nothing."""

_ABOUT_VALUES: Final = frozenset({*_ABOUT, "enum", "const"})
_ALLOWED_IN: Final = {
    "ctr": frozenset[str](),
    "set": frozenset({"items"}),
    "map": frozenset({"properties", "required", "additionalProperties"}),
}
"""What can be said of cells that no single operation writes whole. Of a sum or a set of elements no rule would hold."""


class _Reader:
    """Reads the properties of one schema, and counts them."""

    def __init__(self) -> None:
        self._properties = 0
        self._states = 0

    def shape(self, fields: Fields, at: Path, *, in_document: bool) -> Shape | None:
        """``in_document``: the fields are cells. None when nothing is said."""
        described = fields.dict("properties", max=MAX_PROPERTIES) if fields.has("properties") else {}
        properties = {
            _field_name(name, at): self.property(value, (*at, name), in_document=in_document)
            for name, value in described.items()
        }
        required = _required(fields, properties) if fields.has("required") else ()
        additional = fields.bool("additionalProperties") if fields.has("additionalProperties") else True
        shape = Shape(properties, required, additional)
        return None if shape == Shape() else shape

    def property(self, value: Value, at: Path, *, in_document: bool) -> Property:
        self._count(at)
        fields = Fields(value, f"schema at {path_text(at)}")
        stated = frozenset(filter(fields.has, _ABOUT_VALUES))
        types = _types(fields)
        cell = _cell_name(fields, types, stated) if in_document else None
        _check_stated(fields.what, types, stated)
        found = Property(
            types=types,
            choices=_choices(fields, types),
            bounds=tuple(_bound(fields, keyword, types) for keyword in _BREAKS if keyword in stated),
            min_length=_size(fields, "minLength") or 0,
            max_length=_size(fields, "maxLength"),
            pattern=self._pattern(fields) if "pattern" in stated else None,
            items=self.property(fields.value("items"), (*at, "[]"), in_document=False) if "items" in stated else None,
            min_items=_size(fields, "minItems") or 0,
            max_items=_size(fields, "maxItems"),
            shape=self.shape(fields, at, in_document=cell == _MAP),
            collection=_collection(fields, types, stated) if "collection" in stated else None,
            cell=None if cell is None or cell == _MAP else _CELLS[cell],
            is_map=cell == _MAP,
            indexed=len(at) == 1 and in_document and _flag(fields, "indexed"),
            sealed=in_document and _flag(fields, "sealed"),
            description=_text(fields, "description"),
        )
        fields.done()
        _check_property(fields.what, found)
        return found

    def _count(self, at: Path) -> None:
        self._properties += 1
        if self._properties > MAX_PROPERTIES:
            raise LimitExceeded(f"schema: more than {MAX_PROPERTIES} properties")
        if len(at) > MAX_SCHEMA_DEPTH:
            raise LimitExceeded(f"schema: properties nested deeper than {MAX_SCHEMA_DEPTH}")

    def _pattern(self, fields: Fields) -> Pattern:
        source = fields.text("pattern", max=MAX_BYTES)
        try:
            pattern = parse_pattern(source)
        except MalformedError as exc:
            raise type(exc)(f"{fields.what}: {exc}") from exc
        self._states += pattern.states
        if self._states > MAX_PATTERN_STATES:
            raise LimitExceeded(f"schema: patterns of more than {MAX_PATTERN_STATES} states together")
        return pattern


def _field_name(name: str, at: Path) -> str:
    check_name(name, f"schema: a field at {path_text(at) or '/'}")
    if name.startswith("$"):
        raise MalformedError(f"schema: the field name {name!r} is reserved")
    return name


def _required(fields: Fields, properties: Mapping[str, Property]) -> tuple[str, ...]:
    names = fields.list("required", max=MAX_PROPERTIES)
    for name in names:
        if not isinstance(name, str) or name not in properties:
            raise MalformedError(f"{fields.what}: 'required' names what is not in 'properties'")
    found = tuple(sorted({cast("str", name) for name in names}))
    if len(found) != len(names):
        raise MalformedError(f"{fields.what}: 'required' names a property twice")
    return found


def _types(fields: Fields) -> tuple[FieldType, ...]:
    stated = fields.value("type") if fields.has("type") else "any"
    if stated == "any":
        return ()
    names = stated if isinstance(stated, list) else [stated]
    found = {_TYPES[name] for name in names if isinstance(name, str) and name in _TYPES}
    if not found or len(found) != len(names):
        raise MalformedError(f"{fields.what}: 'type' must be a type, or a list of different types")
    return tuple(sorted(found, key=_ORDER.__getitem__))


def _cell_name(fields: Fields, types: Sequence[FieldType], stated: frozenset[str]) -> str:
    cell = fields.text("cell", max=MAX_NAME) if fields.has("cell") else "reg"
    if cell != _MAP and cell not in _CELLS:
        raise MalformedError(f"{fields.what}: 'cell' must be reg, lww, ctr, set or map")
    found = {*types}
    right = {"ctr": bool(found) and found <= _NUMBERS, "set": found == _LISTS, "map": found == _MAPS}
    if not right.get(cell, True):
        raise MalformedError(
            f"{fields.what}: a ctr is of type integer or decimal, a set of type array, a map of type object"
        )
    excess = stated - _ALLOWED_IN.get(cell, stated)
    if excess:
        raise MalformedError(f"{fields.what}: {min(excess)!r} can't be kept for a field that is a {cell}")
    return cell


def _check_stated(what: str, types: Sequence[FieldType], stated: frozenset[str]) -> None:
    if not types:
        return
    for keyword in sorted(stated & _ABOUT.keys()):
        if not _ABOUT[keyword] & {*types}:
            raise MalformedError(f"{what}: {keyword!r} says nothing about the type {' or '.join(types)}")


def _choices(fields: Fields, types: Sequence[FieldType]) -> tuple[Ranked, ...]:
    """``enum``; ``const`` is another spelling for one of a single value."""
    if fields.has("const"):
        if fields.has("enum"):
            raise MalformedError(f"{fields.what}: 'const' and 'enum' together")
        values = [fields.value("const")]
    elif fields.has("enum"):
        values = fields.list("enum", min=1, max=_MAX_CHOICES)
    else:
        return ()
    found = tuple(_scalar(fields.what, value, types) for value in values)
    if len({*found}) != len(found):
        raise MalformedError(f"{fields.what}: 'enum' holds a value twice")
    return found


def _scalar(what: str, value: Value, types: Sequence[FieldType]) -> Ranked:
    kind, plain = _classify(value, what)
    if kind is None or kind in _PARTED:
        raise MalformedError(f"{what}: only values without parts can be listed")
    if types and kind not in types:
        raise MalformedError(f"{what}: a value that is listed is not of the property's type")
    return _group(kind), cast("Scalar", plain)


def _bound(fields: Fields, keyword: str, types: Sequence[FieldType]) -> Bound:
    kind, plain = _classify(fields.value(keyword), fields.what)
    if kind not in _ORDERED or _group(kind) not in map(_group, types or _ORDERED):
        raise MalformedError(f"{fields.what}: {keyword!r} is nothing that the property's values can be compared with")
    return Bound(keyword, _group(kind), cast("Scalar", plain))


def _group(kind: FieldType) -> str:
    return "number" if kind in _NUMBERS else kind.value


def _size(fields: Fields, key: str) -> int | None:
    return fields.int(key, max=MAX_BYTES) if fields.has(key) else None


def _flag(fields: Fields, key: str) -> bool:
    return fields.bool(key) if fields.has(key) else False


def _collection(fields: Fields, types: Sequence[FieldType], stated: frozenset[str]) -> str:
    name = fields.name("collection")
    if name.startswith("$"):
        raise MalformedError(f"{fields.what}: collections with '$' are reserved")
    if FieldType.REFERENCE not in types or not {*types} <= {FieldType.REFERENCE, FieldType.NULL}:
        raise MalformedError(f"{fields.what}: with 'collection' the type is reference, or that and null")
    if stated & {"enum", "const"}:
        raise MalformedError(f"{fields.what}: 'collection' and a list of values together")
    return name


def _check_property(what: str, found: Property) -> None:
    """What only the whole of a property shows."""
    for least, most in ((found.min_length, found.max_length), (found.min_items, found.max_items)):
        if most is not None and least > most:
            raise MalformedError(f"{what}: a smallest size that is above the largest")
    if found.indexed and (not found.types or _PARTED & {*found.types} or found.cell in (CellKind.SET, None)):
        raise MalformedError(f"{what}: only a field of a type without parts can be indexed")
    if found.sealed and found.cell not in (CellKind.REG, CellKind.LWW):
        raise MalformedError(f"{what}: only a field that is a reg or an lww can be sealed")
    if found.sealed and found.indexed:
        raise MalformedError(f"{what}: what is sealed can't be indexed")


# --- writing --------------------------------------------------------------------------------------------------------


def schema_value(schema: Schema) -> Value:
    """The canonical form of the schema: every rule once, under its own name, and nothing that is so anyway.

    ``parse_schema`` makes an equal schema of it.
    """
    texts = {"title": schema.title, "description": schema.description}
    return {"type": FieldType.OBJECT.value, **_shape_members(schema.shape), **_without_empty(texts)}


def _shape_members(shape: Shape) -> dict[str, Value]:
    members: dict[str, Value] = {}
    if shape.properties:
        members["properties"] = {name: _property_value(one) for name, one in shape.properties.items()}
    if shape.required:
        members["required"] = list(shape.required)
    if not shape.additional:
        members["additionalProperties"] = False
    return members


def _property_value(one: Property) -> Value:
    cell = _MAP if one.is_map else one.cell.value if one.cell not in (None, CellKind.REG) else ""
    types: list[Value] = [kind.value for kind in one.types]
    members: dict[str, Value] = {
        "type": types if len(types) > 1 else "".join(one.types),
        "enum": [from_python(plain) for _, plain in one.choices],
        "minLength": one.min_length,
        "pattern": None if one.pattern is None else one.pattern.source,
        "minItems": one.min_items,
        "collection": one.collection,
        "cell": cell,
        "indexed": one.indexed,
        "sealed": one.sealed,
        "description": one.description,
    }
    members = _without_empty(members)
    members |= {bound.keyword: from_python(bound.limit) for bound in one.bounds}
    sizes = {"maxLength": one.max_length, "maxItems": one.max_items}
    members |= {key: size for key, size in sizes.items() if size is not None}
    if one.items is not None:
        members["items"] = _property_value(one.items)
    return members | (_shape_members(one.shape) if one.shape is not None else {})


def _without_empty(members: Mapping[str, Value]) -> dict[str, Value]:
    return {key: value for key, value in members.items() if value}


# --- judging operations ---------------------------------------------------------------------------------------------


def check_op(schema: Schema, op: Op, *, opened: bool = False) -> str | None:
    """The reason why the operation breaks the schema; None when it fits. Total.

    ``opened`` says that the values of sealed fields are still plain, as their writer has them, and are judged as such;
    else they have to be sealed, which is all that can be seen on merge. Removing fits always: after a schema has
    changed, what it no longer allows must be removable.
    """
    if op.verb in _REMOVALS:
        return None
    found = _resolve(schema, op.path)
    if isinstance(found, str):
        return found
    if not op.path:
        return f"{op.verb}: needs a field"
    if found is None:
        return None
    at = path_text(op.path)
    if found.is_map:
        return f"{at}: is a map of cells, and no cell"
    if found.cell is not KIND_OF[op.verb]:
        return f"{at}: is a {found.cell}, which takes no {op.verb}"
    if op.verb is Verb.ADD:
        return None if found.items is None else _value_fault(found.items, op.value, at)
    if found.sealed and _is_sealed(op.value):
        return None
    if found.sealed and not opened:
        return f"{at}: has to be sealed"
    return _value_fault(found, op.value, at)


_REMOVALS: Final = frozenset({Verb.REM, Verb.DEL, Verb.HIDE, Verb.PURGE})


def check_document(schema: Schema, plain: Mapping[str, object]) -> list[str]:
    """Every reason why the document does not fit the schema, required fields included; empty when it fits. Total.

    ``plain`` are the document's fields as stored values, a set as the list of its elements; sealed ones opened where
    the writer can, and taken as they are where not. For writers only: on merge nothing is required.
    """
    return list(_shape_faults(schema.shape, plain, "", in_document=True))


def _shape_faults(shape: Shape, members: Mapping[str, object], at: str, *, in_document: bool) -> Iterator[str]:
    for name in shape.required:
        if name not in members:
            yield f"{at}{path_text((name,))}: is required"
    for name, value in members.items():
        if type(name) is not str:
            yield f"{at or 'the document'}: has a name that is not text"
            continue
        found = shape.properties.get(name)
        below = at + path_text((name[:MAX_NAME],))  # within a value a name can be as long as an entry
        if found is None:
            if not shape.additional:
                yield f"{below}: no such field"
        elif in_document:
            yield from _cell_faults(found, value, below)
        else:
            fault = _value_fault(found, value, below)
            if fault is not None:
                yield fault


def _cell_faults(found: Property, value: object, at: str) -> Iterator[str]:
    if found.sealed and _is_sealed(value):
        return
    if found.is_map and isinstance(value, Mapping) and not _is_form(value):
        yield from _shape_faults(found.shape or Shape(), value, at, in_document=True)
        return
    if found.cell is CellKind.CTR and _is_whole(value):
        return  # a sum shows as an integer when it has no fraction, also one of decimals
    fault = _value_fault(found, value, at)
    if fault is not None:
        yield fault


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# --- judging values -------------------------------------------------------------------------------------------------


def _value_fault(rule: Property, value: object, at: str) -> str | None:
    """The first reason why the value does not fit; None when it does. As deep as the schema, however deep the value."""
    try:
        kind, plain = _classify(value, at)
    except MalformedError as exc:
        return str(exc)
    if rule.collection is not None and kind in (FieldType.TEXT, FieldType.REFERENCE):
        return _reference_fault(rule.collection, plain, at)
    if rule.types and kind not in rule.types:
        return f"{at}: {'a sealed value' if kind is None else kind} where {' or '.join(rule.types)} is asked for"
    if rule.choices and (kind is None or (_group(kind), plain) not in rule.choices):
        return f"{at}: is none of the values that are listed"
    judge = None if kind is None else _JUDGES.get(kind)
    return None if kind is None or judge is None else judge(rule, kind, plain, at)


def _classify(value: object, at: str) -> tuple[FieldType | None, object]:
    """The type of a stored value, None for a sealed one, and the value in Python's form when it has no parts."""
    kind = _PLAIN.get(type(value))
    if kind is None:
        return _classify_map(value, at)
    if (kind is FieldType.TEXT and not cast("str", value).isascii()) or (
        kind is FieldType.INTEGER and not MIN_INT <= cast("int", value) <= MAX_INT
    ):
        _to_python(value, at)
    return kind, value


_PLAIN: Final[Mapping[type, FieldType]] = {
    type(None): FieldType.NULL,
    bool: FieldType.BOOLEAN,
    int: FieldType.INTEGER,
    str: FieldType.TEXT,
    bytes: FieldType.BYTES,
    list: FieldType.ARRAY,
}
_TYPED: Final[Mapping[type, FieldType]] = {
    Decimal: FieldType.DECIMAL,
    date: FieldType.DATE,
    datetime: FieldType.TIMESTAMP,
    Reference: FieldType.REFERENCE,
}


def _classify_map(value: object, at: str) -> tuple[FieldType | None, object]:
    if type(value) is not dict or not all(type(key) is str for key in value):
        raise _not_stored(at)
    if not _is_form(value):
        return FieldType.OBJECT, value
    plain = _to_python(value, at)
    return _TYPED.get(type(plain)), plain  # None: a Sealed


def _to_python(value: object, at: str) -> object:
    try:
        return to_python(cast("Value", value))
    except MalformedError as exc:  # its text can quote the value
        raise _not_stored(at) from exc


def _not_stored(at: str) -> MalformedError:
    return MalformedError(f"{at}: not a stored value")


def _is_form(members: Mapping[Any, object]) -> bool:
    """Whether the map is a typed form or none at all: keys with '$' are reserved for those."""
    return any(type(key) is str and key.startswith("$") for key in members)


def _is_sealed(value: object) -> bool:
    try:
        return _classify(value, "")[0] is None
    except MalformedError:
        return False


def _reference_fault(collection: str, plain: object, at: str) -> str | None:
    try:
        document_reference(collection, plain if isinstance(plain, str) else "")
    except MalformedError:
        return f"{at}: is no reference to a document of {collection!r}"
    return None


def document_reference(collection: str, text: str) -> DocumentId:
    """The document that ``text`` names in a field of references to ``collection``: COLLECTION/KEY, or KEY alone.

    Whether it exists is not asked. Raises ``MalformedError`` for what can't be a key.
    """
    key = text.removeprefix(f"{collection}/")
    if len(key) > MAX_KEY:
        raise LimitExceeded(f"document key: {len(key)} characters, at most {MAX_KEY} are allowed")
    for start in range(0, len(key) or 1, MAX_NAME):
        check_name(key[start : start + MAX_NAME], "document key")
    return DocumentId(collection, key)


def _judge_order(rule: Property, kind: FieldType, plain: Any, at: str) -> str | None:
    for keyword, group, limit in rule.bounds:
        if group == _group(kind) and _BREAKS[keyword](plain, limit):
            return f"{at}: breaks its {keyword}"
    return None


def _judge_length(rule: Property, kind: FieldType, plain: Any, at: str) -> str | None:
    if len(plain) < rule.min_length:
        return f"{at}: is shorter than its minLength"
    if rule.max_length is not None and len(plain) > rule.max_length:
        return f"{at}: is longer than its maxLength"
    if rule.pattern is not None and kind is FieldType.TEXT and not rule.pattern.found_in(plain):
        return f"{at}: does not fit its pattern"
    return None


def _judge_list(rule: Property, _: FieldType, plain: Any, at: str) -> str | None:
    if len(plain) < rule.min_items:
        return f"{at}: has fewer items than its minItems"
    if rule.max_items is not None and len(plain) > rule.max_items:
        return f"{at}: has more items than its maxItems"
    if rule.items is None:
        return None
    faults = (_value_fault(rule.items, item, f"{at}/{place}") for place, item in enumerate(plain))
    return next((fault for fault in faults if fault is not None), None)


def _judge_map(rule: Property, _: FieldType, plain: Any, at: str) -> str | None:
    return None if rule.shape is None else next(_shape_faults(rule.shape, plain, at, in_document=False), None)


_JUDGES: Final[Mapping[FieldType, Callable[[Property, FieldType, Any, str], str | None]]] = {
    **dict.fromkeys(_ORDERED, _judge_order),
    **dict.fromkeys(_MEASURED, _judge_length),
    FieldType.ARRAY: _judge_list,
    FieldType.OBJECT: _judge_map,
}


def check_schema_op(op: Op) -> str | None:
    """Why an operation cannot be about a schema, which is one register of its document; None when it can. Total."""
    if op.verb is Verb.DEL:
        return None
    if op.verb is not Verb.SET or op.path != ("schema",):
        return "a schema is the register 'schema'"
    try:
        parse_schema(op.value)
    except MalformedError as exc:
        return str(exc)
    return None

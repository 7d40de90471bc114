"""Sealed values on their way to a reader: opened where their keys are, and shown as sealed where not.

Implements docs/spec/sealed-values.md, section "Sealing", for what a document shows. A value that does not open is not
an error of the document: its key was destroyed, is on another device, or somebody put a value where it does not belong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from identity.encoding import Value
from identity.errors import MalformedError, VerificationError
from ledger.values import Sealed, to_python
from sync.sealing import SealedPlace, open_sealed
from sync.transaction import DocumentId
from sync.view import Cell, View

__all__ = ["Unsealed", "unseal_value", "unseal_view"]

FindKey = Callable[[bytes], bytes | None]
"""The key with this id; None when it is not here."""

_SEALED: Final = "$sealed"


@dataclass(frozen=True, slots=True)
class Unsealed:
    """A view with what could be opened. ``closed`` are the paths that still hold a sealed value."""

    view: View
    closed: tuple[str, ...]


def unseal_view(view: View, database: bytes, document: DocumentId, find: FindKey) -> Unsealed:
    """The view of a document of the database with its id, its sealed values opened with the keys that ``find`` has.

    Total as far as ``find`` is. A view without sealed values is returned as it is.
    """
    opening = _Opening(database, document, find)
    cells = tuple(opening.cell(cell) if _holds_sealed(list(cell.values)) else cell for cell in view.cells)
    if cells == view.cells:
        return Unsealed(view, tuple(opening.closed))
    fields: Any = _copied(view.fields)
    for before, after in zip(view.cells, cells, strict=True):
        if before is not after:
            _replace(fields, _names(before.path), before.shown, after.shown)
    return Unsealed(replace(view, cells=cells, fields=fields), tuple(opening.closed))


def unseal_value(value: Value, place: SealedPlace, find: FindKey) -> Value:
    """What was sealed in a value; the value as it is when it is not sealed, or does not open here."""
    try:
        sealed = to_python(value)
        if not isinstance(sealed, Sealed):
            return value
        key = find(sealed.kid)
        return value if key is None else open_sealed(sealed, key, place)
    except (MalformedError, VerificationError):
        return value


class _Opening:
    """Opens the values of one document."""

    def __init__(self, database: bytes, document: DocumentId, find: FindKey) -> None:
        self._database = database
        self._document = document
        self._find = find
        self.closed: list[str] = []

    def cell(self, cell: Cell) -> Cell:
        place = SealedPlace(self._database, *self._document, tuple(_names(cell.path)))
        values = tuple(self._value(value, place) for value in cell.values)
        if _holds_sealed(list(values)):
            self.closed.append(cell.path)
        return replace(cell, values=values)

    def _value(self, value: Value, place: SealedPlace) -> Value:
        match value:
            case list():
                return [self._value(item, place) for item in value]
            case dict() if _SEALED in value:
                return unseal_value(value, place, self._find)
            case dict():
                return {name: self._value(item, place) for name, item in value.items()}
        return value


def _holds_sealed(value: Value) -> bool:
    match value:
        case list():
            return any(map(_holds_sealed, value))
        case dict():
            return _SEALED in value or any(map(_holds_sealed, value.values()))
    return False


def _copied(value: Any) -> Any:
    """Maps copied, so that values in them can be exchanged."""
    return {name: _copied(item) for name, item in value.items()} if isinstance(value, Mapping) else value


def _names(path: str) -> list[str]:
    return [name.replace("~1", "/").replace("~0", "~") for name in path.split("/")[1:]]


def _replace(fields: Any, names: list[str], before: Value, after: Value) -> None:
    """Exchange the value at a path, if it is the one that shows there: a clash of kinds may show another."""
    for name in names[:-1]:
        fields = fields.get(name) if isinstance(fields, dict) else None
    if isinstance(fields, dict) and fields.get(names[-1]) == before:
        fields[names[-1]] = after

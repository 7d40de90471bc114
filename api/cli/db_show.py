"""How ``holdfast db`` shows a document: what shows in each field, and everything that stands beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from sync.cells import CellKind
from sync.view import ConflictKind

if TYPE_CHECKING:
    from api.cli.output import Output, Plain
    from identity.encoding import Value
    from sync.transaction import DocumentId
    from sync.unsealing import Unsealed
    from sync.view import Cell, View

__all__ = ["CONFLICT_MEANING", "conflicts_of", "plain", "show_document", "siblings_of"]

CONFLICT_MEANING = {
    ConflictKind.SIBLINGS: "has several values, written without knowing of each other",
    ConflictKind.KINDS: "holds cells of several kinds",
    ConflictKind.DELETED_AND_EDITED: "was deleted while somebody else was writing to it",
}
"""What each kind of conflict says, after the name of what it is about."""


def plain(out: Output, value: Value) -> Plain:
    """A value in the dress of the output: typed forms that can be read again under ``--json``, else for people."""
    from ledger.values import to_plain
    from sync.jsonform import to_json

    return cast("Plain", to_json(value) if out.json else to_plain(_without_ciphertext(value)))


def _without_ciphertext(value: Value) -> Value:
    """For people: what is sealed is said to be, and not shown."""
    match value:
        case {"$sealed": _}:
            return "sealed"
        case list():
            return [_without_ciphertext(item) for item in value]
        case dict():
            return {name: _without_ciphertext(item) for name, item in value.items()}
    return value


def show_document(
    out: Output, name: DocumentId, etag: str, shown: Unsealed, extra: dict[str, Plain] | None = None
) -> None:
    """Answer with a document. For people a line for each value; a value that does not show is marked as sibling.

    ``extra`` are members that only the object under ``--json`` has.
    """
    view = shown.view
    if out.json:
        facts: dict[str, Plain] = {
            "document": str(name),
            "etag": etag,
            "fields": plain(out, dict(view.fields)),
            "siblings": siblings_of(out, view),
            "conflicts": conflicts_of(view),
            "sealed": list(shown.closed),
        }
        out.record("document", facts | (extra or {}))
        return
    out.record("document", {"document": str(name), "etag": etag})
    out.table("value", ("field", "value", "standing"), _value_rows(out, view))
    for conflict in view.conflicts:
        out.note(f"{str(name) + conflict.path} {CONFLICT_MEANING[conflict.kind]}")
    if shown.closed:
        out.note(f"sealed, and no key is here that opens it: {', '.join(shown.closed)}")


def _value_rows(out: Output, view: View) -> Iterator[tuple[Plain, ...]]:
    """What shows, and beneath it what does not."""
    for cell in view.cells:
        showing = _value_at(view, cell.path)
        is_shown = showing == cell.shown
        yield cell.path, plain(out, cell.shown), None if is_shown else "hidden"
        yield from ((cell.path, plain(out, value), "sibling") for value in _beside(cell))


def _beside(cell: Cell) -> list[Value]:
    """The different values of a register that do not show."""
    found: list[Value] = []
    for value in cell.values[1:] if cell.kind is CellKind.REG else ():
        if value != cell.values[0] and value not in found:
            found.append(value)
    return found


def _value_at(view: View, path: str) -> object:
    found: object = view.fields
    for name in path.split("/")[1:]:
        found = found.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return found


def siblings_of(out: Output, view: View) -> dict[str, Plain]:
    """By path, every value of a register that has several, the one that shows first."""
    return {
        cell.path: [plain(out, value) for value in (cell.values[0], *_beside(cell))]
        for cell in view.cells
        if _beside(cell)
    }


def conflicts_of(view: View) -> list[Plain]:
    """What about the document needs a decision."""
    return [{"kind": conflict.kind.value, "path": conflict.path} for conflict in view.conflicts]

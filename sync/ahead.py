"""Documents as a transaction that is being made will leave them.

The wishes of a ``Changes`` take effect one after the other, and the operations of an entry do, too. So a wish is turned
into operations against what stands in the database with the operations that came before it in the same transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from identity.encoding import Value, encode
from identity.errors import MalformedError
from sync.cells import FLAGS, KIND_OF, WRITES, CellKind, LiveDot, is_beneath, replaced
from sync.transaction import DocumentId, Op, Path, Verb, path_text
from sync.view import CounterPart, exact_sum

if TYPE_CHECKING:
    from sync.changes import Current

__all__ = ["Ahead", "number_of"]

_OWN: Final = -1
"""The branch of dots of the entry that is being made. It has no number yet, and nobody can name its dots."""

_NEXT: Final = 1 << 62


@dataclass(slots=True)
class _Document:
    live: dict[str, list[LiveDot]] = field(default_factory=dict)
    counters: dict[tuple[str, int], CounterPart] = field(default_factory=dict)
    deleted: bool = False
    deleted_here: bool = False
    """By an operation of this transaction, which sees what comes later in it as well."""
    done: int = 0


class Ahead:
    """The documents of ``current`` with operations that are made and not written, each looked at when asked for."""

    def __init__(self, current: Current) -> None:
        self._current = current
        self._ops: dict[DocumentId, list[Op]] = {}
        self._documents: dict[DocumentId, _Document] = {}

    def take(self, op: Op) -> None:
        """Let the operation be one of the transaction's."""
        self._ops.setdefault(op.document, []).append(op)

    def dots(self, document: DocumentId) -> Sequence[LiveDot]:
        """What will be live in the document, without increments."""
        return [dot for dots in self._settle(document).live.values() for dot in dots]

    def counters(self, document: DocumentId) -> Sequence[CounterPart]:
        """Its counters."""
        return list(self._settle(document).counters.values())

    def is_deleted(self, document: DocumentId) -> bool:
        """Whether the delete flag will hide it."""
        return self._settle(document).deleted

    def exists(self, document: DocumentId) -> bool:
        """Whether a reader will find it."""
        has_cells = any(dot.verb not in FLAGS for dot in self.dots(document)) or bool(self.counters(document))
        return has_cells and not self.is_deleted(document)

    def kinds(self, document: DocumentId, path: Path) -> set[CellKind]:
        """The kinds of the cells at a path."""
        pointer, held = path_text(path), self._settle(document)
        kinds = {KIND_OF[dot.verb] for dot in held.live.get(pointer, ()) if dot.verb not in FLAGS}
        if any(counted == pointer for counted, _ in held.counters):
            kinds.add(CellKind.CTR)
        return kinds

    def is_in_the_way(self, document: DocumentId, path: Path) -> bool:
        """Whether a cell above the path would hide one there, or one there would hide cells beneath it."""
        pointer, held = path_text(path), self._settle(document)
        paths = {dot.path for dots in held.live.values() for dot in dots if dot.verb not in FLAGS}
        paths |= {counted for counted, _ in held.counters}
        return any(one != pointer and (is_beneath(one, pointer) or is_beneath(pointer, one)) for one in paths)

    def _settle(self, name: DocumentId) -> _Document:
        held = self._documents.get(name)
        if held is None:
            held = self._documents[name] = _Document(deleted=self._current.view(name).deleted)
            for dot in self._current.dots(name):
                held.live.setdefault(dot.path, []).append(dot)
            held.counters = {(part.path, part.branch): part for part in self._current.counters(name)}
        ops = self._ops.get(name, ())
        for at in range(held.done, len(ops)):
            self._apply(held, ops[at], at)
        held.done = len(ops)
        return held

    def _apply(self, held: _Document, op: Op, at: int) -> None:
        dot = LiveDot(-1, _OWN, _NEXT, at, op.verb, path_text(op.path), encode(op.value))
        for victim in replaced(dot, None, held.live, None):
            if op.context is None or (victim.branch != _OWN and self._current.dot_name(victim) in op.context):
                held.live[victim.path].remove(victim)
        if op.verb is Verb.DEL and op.context is None:
            held.counters = {key: part for key, part in held.counters.items() if not is_beneath(part.path, dot.path)}
        if op.verb is Verb.INC:
            _count(held, dot, number_of(op.value))
        elif op.verb in WRITES:
            held.live.setdefault(dot.path, []).append(dot)
        if op.verb is Verb.HIDE:
            held.deleted = held.deleted_here = op.value is True
        elif op.verb in WRITES and not held.deleted_here:
            held.deleted = False  # what is written wins over a deletion that had not seen it


def number_of(value: Value) -> Decimal:
    """The amount that a stored value is. Raises ``MalformedError``."""
    match value:
        case int() if not isinstance(value, bool):
            return Decimal(value)
        case {"$dec": str(text)}:
            return Decimal(text)
    raise MalformedError("a counter takes an integer or a decimal")


def _count(held: _Document, dot: LiveDot, amount: Decimal) -> None:
    part = held.counters.get((dot.path, _OWN))
    before = Decimal(0) if part is None else part.total
    total = exact_sum([before, amount])
    count = 1 if part is None else part.count + 1
    held.counters[dot.path, _OWN] = CounterPart(dot.path, _OWN, _NEXT, _NEXT, dot.op, count, total)

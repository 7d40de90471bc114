"""What a document shows: its fields, the siblings that stand beside them, and what clashes.

Implements docs/spec/transaction.md, section "What a document shows". A view is made of live dots alone, so two
replicas with the same dots show the same, whatever came first. Where several values stand side by side one shows, by a
rule that needs no agreement: of a branch that is not disputed, then by the larger clock reading, then by the larger
entry id. The others are never hidden: they are the document's siblings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal
from enum import StrEnum
from hashlib import sha256
from itertools import groupby
from typing import Any, Final

from identity.contexts import DOCUMENT_VERSION
from identity.encoding import Value, decode_stored, encode
from identity.errors import DamagedFile
from identity.textforms import to_base64
from sync.cells import KIND_OF, CellKind, LiveDot
from sync.transaction import DocumentId, Verb
from sync.vector import Vector, sees

__all__ = [
    "ABSENT_ETAG",
    "Cell",
    "Conflict",
    "ConflictKind",
    "CounterPart",
    "Rank",
    "RankOf",
    "View",
    "document_version",
    "etag_of",
    "exact_sum",
    "make_view",
    "total_of",
]

Rank = tuple[bool, int, bytes]
"""Not disputed, clock reading, entry id: the larger one shows."""

RankOf = Callable[[LiveDot], Rank]

ABSENT_ETAG: Final = ""
"""In the place of an ETag: there is nothing live in the document."""

_EXACT: Final = Context(prec=200)


@dataclass(frozen=True, slots=True)
class CounterPart:
    """What one branch contributes to a counter: the sum of its live increments, and from where to where they stand."""

    path: str
    branch: int
    first: int
    """The index of the entry with the first live increment."""
    last: int
    last_op: int
    """The entry and operation of the newest one."""
    count: int
    total: Decimal


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell that holds something. ``values`` are what is live, the one that shows first; of a set its elements."""

    path: str
    kind: CellKind
    values: tuple[Value, ...]
    dots: tuple[LiveDot, ...]
    """The dots of the values, in their order; none for a counter."""

    @property
    def shown(self) -> Value:
        """The value that shows."""
        return list(self.values) if self.kind is CellKind.SET else self.values[0]


class ConflictKind(StrEnum):
    """What about a document needs somebody's decision."""

    SIBLINGS = "siblings"
    """A register holds values that were written without knowing of each other."""
    KINDS = "kinds"
    """Cells of several kinds, or a cell and others beneath it, stand at one path."""
    DELETED_AND_EDITED = "deleted-and-edited"
    """The document was deleted while somebody else was writing to it: it is shown whole."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """One conflict, and the path at which it is."""

    kind: ConflictKind
    path: str


@dataclass(frozen=True, slots=True)
class View:
    """A document as it is now, or was at a cut."""

    cells: tuple[Cell, ...]
    """By path and kind."""
    deleted: bool
    """The delete flag hides it: it reads as absent, and can be undeleted."""
    conflicts: tuple[Conflict, ...] = ()
    fields: Mapping[str, Value] = field(default_factory=dict)
    """What shows, as nested maps of stored values."""
    purged: bool = False
    """It was ended for good: it has no cells, and nothing that is written to it counts."""

    @property
    def exists(self) -> bool:
        """Whether a reader finds it."""
        return bool(self.cells) and not self.deleted


def make_view(
    dots: Iterable[LiveDot],
    counters: Iterable[CounterPart],
    rank: RankOf,
    past_of: Callable[[int, int], Vector],
    declared: Callable[[str], CellKind | None] | None = None,
) -> View:
    """The view of a document from its live dots and counters.

    ``past_of`` gives the causal past of an entry; it is asked only where a delete flag has to be judged. ``declared``
    says which kind of cell a schema wants at a path: where kinds clash that one shows.
    """
    flags: list[LiveDot] = []
    grouped: dict[tuple[str, CellKind], list[LiveDot]] = {}
    for dot in dots:
        if dot.verb is Verb.PURGE:
            return View((), deleted=True, purged=True)
        if dot.verb is Verb.HIDE:
            flags.append(dot)
        else:
            grouped.setdefault((dot.path, KIND_OF[dot.verb]), []).append(dot)
    parts: dict[str, list[CounterPart]] = {}
    for part in counters:
        parts.setdefault(part.path, []).append(part)
    cells = [_cell(path, kind, found, rank) for (path, kind), found in grouped.items()]
    cells += [Cell(path, CellKind.CTR, (_as_value(total_of(found)),), ()) for path, found in parts.items()]
    cells.sort(key=lambda cell: (cell.path, cell.kind))
    conflicts = [Conflict(ConflictKind.SIBLINGS, cell.path) for cell in cells if _is_contested(cell)]
    fields = _fields(cells, conflicts, declared)
    deleted = _is_deleted(flags, grouped, parts.values(), past_of)
    if not deleted and any(decode_stored(flag.val) is True for flag in flags) and cells:
        conflicts.append(Conflict(ConflictKind.DELETED_AND_EDITED, ""))
    return View(tuple(cells), deleted, tuple(conflicts), fields)


def _cell(path: str, kind: CellKind, dots: Sequence[LiveDot], rank: RankOf) -> Cell:
    if kind is CellKind.SET:
        ordered = sorted(dots, key=lambda dot: (dot.val, dot.branch, dot.seq, dot.op))
        ordered = [next(same) for _, same in groupby(ordered, key=lambda dot: dot.val)]
        return Cell(path, kind, tuple(decode_stored(dot.val) for dot in ordered), tuple(ordered))
    if len(dots) > 1:
        dots = sorted(dots, key=lambda dot: (rank(dot), dot.op), reverse=True)
        if kind is CellKind.LWW:
            dots = dots[:1]
    return Cell(path, kind, tuple(decode_stored(dot.val) for dot in dots), tuple(dots))


def _is_contested(cell: Cell) -> bool:
    """Whether a register holds different values; the same one, written twice, is none to decide about."""
    return cell.kind is CellKind.REG and len({dot.val for dot in cell.dots}) > 1


def _is_deleted(
    flags: Sequence[LiveDot],
    grouped: Mapping[tuple[str, CellKind], Sequence[LiveDot]],
    parts: Iterable[Sequence[CounterPart]],
    past_of: Callable[[int, int], Vector],
) -> bool:
    """Whether the flag hides the document: it does unless something is live that a deletion had not seen."""
    hiding = [flag for flag in flags if decode_stored(flag.val) is True]
    if not hiding:
        return False
    if len(hiding) < len(flags):
        return False  # somebody undeleted it while somebody else deleted it: what can be seen is not hidden
    live = [(dot.branch, dot.seq) for dots in grouped.values() for dot in dots]
    live += [(part.branch, part.last) for found in parts for part in found]
    for flag in hiding:
        past = {**past_of(flag.branch, flag.seq), flag.branch: flag.seq}
        if all(sees(past, branch, index) for branch, index in live):
            return True
    return False


def _fields(
    cells: Sequence[Cell], conflicts: list[Conflict], declared: Callable[[str], CellKind | None] | None
) -> dict[str, Value]:
    fields: dict[str, Any] = {}
    taken: set[str] = set()
    for path, found in groupby(cells, key=lambda cell: cell.path):
        here = list(found)
        if len(here) > 1:
            conflicts.append(Conflict(ConflictKind.KINDS, path))
        wanted = declared(path) if declared is not None else None
        cell = next((cell for cell in here if cell.kind is wanted), here[0])
        if not _place(fields, taken, path, cell.shown):
            conflicts.append(Conflict(ConflictKind.KINDS, path))
    return fields


def _place(fields: dict[str, Any], taken: set[str], path: str, value: Value) -> bool:
    """Put a value into nested maps. False when a cell above it is in the way: that one shows."""
    steps = path.split("/")[1:]
    if not steps:
        raise DamagedFile("a value stands in a document at no path")
    names = [step.replace("~1", "/").replace("~0", "~") for step in steps]
    within = fields
    for depth, name in enumerate(names[:-1], 1):
        if "/" + "/".join(steps[:depth]) in taken:
            return False
        within = within.setdefault(name, {})
    within[names[-1]] = value
    taken.add(path)
    return True


def total_of(parts: Iterable[CounterPart]) -> Decimal:
    """The sum of a counter, exact."""
    return exact_sum(part.total for part in parts)


def exact_sum(amounts: Iterable[Decimal]) -> Decimal:
    """The sum without rounding: an integer when all are integers, else with the largest scale."""
    total = Decimal(0)
    for amount in amounts:
        total = _EXACT.add(total, amount)
    return total


def _as_value(total: Decimal) -> Value:
    """An integer when no decimal went into it, and it fits one; else a decimal with its scale."""
    if total.as_tuple().exponent == 0 and -(1 << 63) <= total < 1 << 63:
        return int(total)
    return {"$dec": f"{total:f}".removeprefix("-") if total.is_zero() else f"{total:f}"}


# --- versions -------------------------------------------------------------------------------------------------------


def document_version(
    database: bytes,
    document: DocumentId,
    dots: Iterable[LiveDot],
    counters: Iterable[CounterPart],
    branch_id: Callable[[int], bytes],
) -> bytes:
    """32 bytes that are equal on two replicas exactly when the same is live in the document.

    A counter's increments count as, for each branch, the first and the last that are live: what lies between them is.
    """
    live = sorted((branch_id(dot.branch), dot.seq, dot.op) for dot in dots)
    sums = sorted((part.path, branch_id(part.branch), part.first, part.last, part.last_op) for part in counters)
    state: Value = [
        database,
        list(document),
        [list(dot) for dot in live],
        [list(part) for part in sums],
    ]
    return sha256(DOCUMENT_VERSION + _encode(state)).digest()


def _encode(state: Value) -> bytes:
    """Canonical bytes; a document with more dots than one value can hold is hashed in pieces."""
    assert isinstance(state, list)
    database, document, dots, sums = state
    assert isinstance(dots, list)
    assert isinstance(sums, list)
    if len(dots) + len(sums) <= 4096:
        return encode(state)
    pieces = [sha256(encode(dots[start : start + 4096])).digest() for start in range(0, len(dots), 4096)]
    more = [sha256(encode(sums[start : start + 4096])).digest() for start in range(0, len(sums), 4096)]
    return encode([database, document, len(dots), [*pieces], len(sums), [*more]])


def etag_of(version: bytes) -> str:
    """The ETag of a document's version."""
    return "1." + to_base64(version[:15]).replace("+", "-").replace("/", "_")

"""Liveness from its definition: of a document's operations, all at once, the ones that no other one replaces.

Implements docs/spec/transaction.md, section "Cells", without looking at the order in which operations came:
``sync.cells`` goes through them one after the other. An operation is live when it writes a dot, counts, and none that
counts replaces it; which those are depends on what the entries of the others had seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from identity.encoding import decode
from sync.cells import FLAGS, WRITES, DotKey, LiveDot
from sync.transaction import Verb
from sync.view import CounterPart, exact_sum

__all__ = ["EntryKey", "Past", "ReplayedOp", "counters_of", "dot_of", "live_ops"]

EntryKey = tuple[int, int]
"""An entry within a replay: the number of its line, its index in the feed."""


@dataclass(frozen=True, slots=True)
class Past:
    """The causal past of an entry: a set of entries that holds with each one all that it had seen.

    So it is of each line a beginning: ``before`` is the index of the last one in the entry's own ``line``, -1 for none,
    and ``seen`` has that of the others. ``acts`` are the ids of the member entries in it.
    """

    line: int
    before: int
    seen: Mapping[int, int]
    acts: frozenset[bytes]

    def has(self, line: int, index: int) -> bool:
        """Whether the entry is in it."""
        return (self.before if line == self.line else self.seen.get(line, -1)) >= index

    def vector(self) -> dict[int, int]:
        """Of each line that it has something of, the index of the last entry."""
        own = {self.line: self.before} if self.before >= 0 else {}
        return {**self.seen, **own}


class ReplayedOp(NamedTuple):
    """One operation of an entry that was placed. ``context`` None: it replaces what is in its cell in its past."""

    line: int
    seq: int
    op: int
    verb: Verb
    path: str
    val: bytes
    context: frozenset[DotKey] | None

    @property
    def key(self) -> DotKey:
        """What names the dot that it writes."""
        return self.line, self.seq, self.op


_CellKey = tuple[str, str, bytes]
"""Those who replace each other: what kind of operation, the path, and of a set the element."""


class _Killers:
    """All operations that replace what is in one cell, together: what of it they replace is one set."""

    __slots__ = ("_named", "_own", "_seen")

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}
        self._own: dict[EntryKey, int] = {}
        self._named: set[DotKey] = set()

    def add(self, op: ReplayedOp, past: Past) -> None:
        if op.context is not None:
            self._named |= op.context
            return
        for line, index in past.vector().items():
            self._seen[line] = max(index, self._seen.get(line, -1))
        entry = (op.line, op.seq)
        self._own[entry] = max(op.op, self._own.get(entry, -1))

    def replace(self, op: ReplayedOp) -> bool:
        """Whether one of them replaces it: it had seen its entry, or stands behind it in the same, or names it."""
        if self._seen.get(op.line, -1) >= op.seq or self._own.get((op.line, op.seq), -1) > op.op:
            return True
        return op.verb is not Verb.INC and op.key in self._named


def live_ops(ops: Sequence[ReplayedOp], past_of: Callable[[int, int], Past]) -> list[ReplayedOp]:
    """Of a document's operations, all of which count, the ones that are live. ``past_of`` takes a line and an index."""
    killers: dict[_CellKey, _Killers] = {}
    for op in ops:
        key = _replaces(op)
        if key is not None:
            killers.setdefault(key, _Killers()).add(op, past_of(op.line, op.seq))
    return [
        op
        for op in ops
        if op.verb in WRITES and not any(key in killers and killers[key].replace(op) for key in _replaced_by(op))
    ]


def _replaces(op: ReplayedOp) -> _CellKey | None:
    """The cell whose dots the operation replaces, or the path beneath which it replaces all."""
    match op.verb:
        case Verb.INC | Verb.PURGE:
            return None
        case Verb.ADD | Verb.REM:
            return (Verb.ADD, op.path, op.val)
    return (op.verb, op.path, b"")


def _replaced_by(op: ReplayedOp) -> Iterator[_CellKey]:
    """What could replace the dot that the operation writes."""
    own = _replaces(op)
    if own is not None:
        yield own
    if op.verb not in FLAGS:
        ends = [at for at, letter in enumerate(op.path) if letter == "/"] + [len(op.path)]
        for end in ends:
            yield (Verb.DEL, op.path[:end], b"")


def dot_of(op: ReplayedOp) -> LiveDot:
    """The dot that it writes; a replay has no places, so that is 0."""
    return LiveDot(0, op.line, op.seq, op.op, op.verb, op.path, op.val)


def counters_of(increments: Iterable[ReplayedOp]) -> Iterator[CounterPart]:
    """What live increments make up: one part for each path and line."""
    found: dict[tuple[str, int], list[ReplayedOp]] = {}
    for op in increments:
        found.setdefault((op.path, op.line), []).append(op)
    for (path, line), ops in sorted(found.items()):
        ops.sort()
        total = exact_sum(map(_amount, ops))
        yield CounterPart(path, line, ops[0].seq, ops[-1].seq, ops[-1].op, len(ops), total)


def _amount(op: ReplayedOp) -> Decimal:
    value = decode(op.val)
    return Decimal(str(value["$dec"]) if isinstance(value, dict) else str(value))

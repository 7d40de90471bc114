"""Undo: the operations that take back what a transaction did to a document, and nothing that anybody else did.

Implements docs/spec/database-history.md, section "Undo". A log does not go back: what is taken back is written again.
Each dot of the transaction that is still live is replaced by what it had replaced itself, a removal is made good by
putting back what it removed, increments are balanced. Where somebody has written since, the cell is left as it is, and
that is said. The operations name the dots that they replace one by one, so they can hit no other, and also those that
they put back, so that it can be seen what stands for what.

To do it again is to undo the undoing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from identity.encoding import Value, decode
from ledger.values import Reference
from sync.cells import FLAGS, WRITES, CellKey, DotKey, LiveDot, StoredOp, cell_key, replaced, upwards
from sync.transaction import MAX_CONTEXT, MAX_INCREMENT_DIGITS, DocumentId, Dot, Op, Verb, parse_path
from sync.vector import Vector, sees
from sync.view import CounterPart, Rank, RankOf, exact_sum

__all__ = ["Footprint", "Knowledge", "Skipped", "invert"]

_PATH: Final = 0
_VERB: Final = 1
_FLAG: Final[CellKey] = ("", Verb.HIDE, b"")


@dataclass(frozen=True, slots=True)
class Footprint:
    """What transactions that are to be taken back did to one document, and what has become of it.

    Everything is in the order in which this replica took it in, and counts.
    """

    document: DocumentId
    own: Sequence[StoredOp]
    """Their operations."""
    cancelled: Sequence[StoredOp]
    """Operations that came later, of transactions that were taken back already and of those that took them back:
    together they changed nothing, so they stand in nobody's way."""
    lost: Sequence[LiveDot]
    """Dots of others that ``own`` were the first to replace."""
    since: Sequence[StoredOp]
    """Operations of others that came after the first of ``own``."""
    live: Sequence[LiveDot]
    """What is live in the document now, without increments."""
    counters: Sequence[CounterPart]


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What a replica knows that decides how operations are taken back."""

    past_of: Callable[[int, int], Vector]
    """The causal past of an entry."""
    rank: RankOf
    """The order of concurrent values: the largest shows."""
    name_of: Callable[[LiveDot], Dot]
    """What names a dot on every replica."""
    misfit: Callable[[Op], str | None]
    """Why an operation breaks the schema; None when it fits."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A cell that was left as it is. ``by`` is the entry that wrote there since, when that is why."""

    document: DocumentId
    path: str
    """As a JSON Pointer; empty for the delete flag."""
    reason: str
    by: Reference | None = None


def invert(footprint: Footprint, known: Knowledge) -> tuple[list[Op], list[Skipped]]:
    """The operations that take the transactions back in one document, and the cells in which that cannot be.

    They have to be written by an entry that has seen all of the footprint. Total.
    """
    return _Inverting(footprint, known).run()


@dataclass(slots=True)
class _Cell:
    """What is known of one cell that the transactions touched."""

    key: CellKey
    held: list[LiveDot] = field(default_factory=list)
    """Their dots that count: that are live, or for which others stand that were put back."""
    lost: list[LiveDot] = field(default_factory=list)
    """Dots of others that nobody but they replaced."""
    overwritten: LiveDot | None = None
    """What somebody else wrote over one of their dots."""
    gone: LiveDot | None = None
    """What somebody else wrote over a dot that they had replaced."""


class _Inverting:
    """One document on its way to the inverse operations."""

    def __init__(self, footprint: Footprint, known: Knowledge) -> None:
        self._document = footprint.document
        self._footprint = footprint
        self._known = known
        ours = sorted((*footprint.own, *footprint.cancelled), key=lambda one: one.dot.place)
        self._ours = ours
        self._own = _Replacers(footprint.own, known.past_of)
        self._replacing = _Replacers(ours, known.past_of)
        self._since = _Replacers(footprint.since, known.past_of)
        self._entries = {one.dot.key[:2] for one in footprint.own}
        self._cancelled = {one.dot.key[:2] for one in footprint.cancelled}
        self._dots = {one.dot.key for one in footprint.own}
        self._cells: dict[CellKey, _Cell] = {}
        self._kept: list[LiveDot] = []
        self._idle_flags: set[DotKey] = set()
        """Delete flags that were written to take one back, where none was to be put back."""
        self._put_back = {one.dot.key: one.context or () for one in footprint.cancelled if one.dot.verb is Verb.HIDE}
        """By flags that are cancelled the flags that they replaced."""
        self._live_increments: Counter[tuple[str, int]] = Counter()
        """How many of ours there are, by path and branch."""
        self._content = _Content(footprint)

    def run(self) -> tuple[list[Op], list[Skipped]]:
        self._sort_out()
        # A reset hits all that was written before it, so it comes before what is put back.
        first: list[Op] = []
        then: list[Op] = []
        skipped: list[Skipped] = []
        for cell in sorted(self._cells.values(), key=lambda cell: cell.key == _FLAG):
            ops, fault = self._take_back(cell)
            if fault is not None:
                skipped.append(fault)
                self._kept += cell.held
            elif len(ops) == 1 and ops[0].verb is Verb.DEL and ops[0].context is None:
                first += ops
            else:
                then += ops
        shared = self._shared_flags()
        if shared and _FLAG not in self._cells and not self._would_be_hidden(_Cell(_FLAG)):
            context = tuple(map(self._known.name_of, shared))
            then.append(Op(Verb.HIDE, self._document, (), False, context[:MAX_CONTEXT]))
        if _is_writing(then) and self._would_be_hidden(_Cell(_FLAG)):
            # What is put back is newer than the deletion that hid it, and would show the document.
            then.append(Op(Verb.HIDE, self._document, (), True, ()))
        return first + then, skipped

    def _take_back(self, cell: _Cell) -> tuple[list[Op], Skipped | None]:
        """The operations that take back what was done to a cell, or why there are none."""
        fault = self._fault(cell)
        if fault is not None:
            return [], fault
        ops = self._inverse(cell)
        misfit = next((reason for op in ops if (reason := self._known.misfit(op)) is not None), None)
        if misfit is not None:
            return [], Skipped(self._document, cell.key[_PATH], f"it does not fit the schema any more: {misfit}")
        return ops, None

    def _sort_out(self) -> None:
        for one in self._ours:
            if one.dot.verb is Verb.INC:
                self._sort_increment(one.dot)
            elif self._is_ours(one):
                self._dots.add(one.dot.key)
                self._sort(one.dot, self._replacing.first(one.dot))
        for dot in self._footprint.lost:
            over = self._since.first(dot)
            if over is None:
                self._cell(dot).lost.append(dot)
            else:
                self._cell(dot).gone = over.dot

    def _is_ours(self, one: StoredOp) -> bool:
        """Whether an operation left a dot that is to be taken back."""
        if one.dot.key in self._dots:
            return one.dot.verb in WRITES and one.dot.verb is not Verb.PURGE
        return self._stands_for_ours(one)

    def _sort(self, dot: LiveDot, by_ours: StoredOp | None) -> None:
        over = self._since.first(dot)
        if over is not None:
            self._cell(dot).overwritten = over.dot
        elif by_ours is None:
            self._cell(dot).held.append(dot)

    def _sort_increment(self, dot: LiveDot) -> None:
        """Increments are put back as sums: what is theirs in those counts as if it had never been lost."""
        by_ours = self._replacing.first(dot)
        if by_ours is None and self._since.first(dot) is None:
            self._live_increments[dot.path, dot.branch] += 1
        if dot.key not in self._dots:
            return
        if by_ours is not None and by_ours.dot.key[:2] in self._cancelled:
            if not self._is_counted_again(dot.path, by_ours.dot):
                self._cell(dot).overwritten = by_ours.dot
                return
            by_ours = self._own.first(dot)
        self._sort(dot, by_ours)

    def _is_counted_again(self, path: str, reset: LiveDot) -> bool:
        """Whether what a cancelled reset took from a counter was put back."""
        later = self._footprint.cancelled[
            bisect_right(self._footprint.cancelled, reset.place, key=lambda one: one.dot.place) :
        ]
        found = (one.dot for one in later if one.dot.verb is Verb.INC and one.dot.path == path)
        return any(dot.key[:2] != reset.key[:2] for dot in found)

    def _stands_for_ours(self, one: StoredOp) -> bool:
        """Whether an operation that is cancelled put back dots of theirs, and nobody else's."""
        named = [key for key in one.context or () if key in self._dots or key[:2] not in self._cancelled]
        if not named and one.dot.verb is Verb.HIDE:
            self._idle_flags.add(one.dot.key)
        return one.dot.verb in WRITES and bool(named) and self._dots.issuperset(named)

    def _cell(self, dot: LiveDot) -> _Cell:
        key = cell_key(dot)
        return self._cells.setdefault(key, _Cell(key))

    def _fault(self, cell: _Cell) -> Skipped | None:
        """Why a cell stays as it is; None: it can be taken back, or there is nothing to do in it."""
        if cell.held and cell.lost and cell.key[_VERB] is Verb.HIDE and not self._show_or_hide(cell):
            return Skipped(self._document, cell.key[_PATH], "the document was written to since")
        if cell.held:
            other = self._winner_over(cell, cell.held)
            return None if other is None else self._skipped(cell, "another value shows there", other)
        if cell.overwritten is not None:
            return self._skipped(cell, "it was written since", cell.overwritten)
        if cell.lost:
            clash = self._written_there(cell)
            return None if clash is None else self._skipped(cell, "something was written there since", clash)
        return None if cell.gone is None else self._skipped(cell, "it was written since", cell.gone)

    def _skipped(self, cell: _Cell, reason: str, by: LiveDot) -> Skipped:
        return Skipped(self._document, cell.key[_PATH], reason, self._known.name_of(by).entry)

    def _written_there(self, cell: _Cell) -> LiveDot | None:
        """What was written where the cell was emptied, by somebody who knew that, and would clash with it now."""
        for dot in self._content.around(cell.key[_PATH]):
            key = cell_key(dot)
            is_same = key == cell.key
            if is_same and dot.verb is Verb.INC:
                continue  # increments add up
            clashes = is_same or key[_PATH] != cell.key[_PATH] or key[_VERB] is not cell.key[_VERB]
            if clashes and dot.key not in self._dots and self._saw(dot.branch, dot.seq):
                return dot
        return None

    def _saw(self, branch: int, seq: int) -> bool:
        """Whether an entry of somebody else had seen one of those that are taken back."""
        if (branch, seq) in self._entries:
            return False
        past = self._known.past_of(branch, seq)
        return any(sees(past, *entry) for entry in self._entries)

    # --- the inverse of one cell ---

    def _inverse(self, cell: _Cell) -> list[Op]:
        if cell.key[_VERB] is Verb.INC:
            return self._balance(cell)
        if cell.key[_VERB] is Verb.HIDE:
            return self._show_or_hide(cell)
        held = [self._known.name_of(dot) for dot in cell.held]
        lost = sorted(cell.lost, key=self._order)
        if cell.key[_VERB] in (Verb.ADD, Verb.LWW):
            # An element is there or not, and one value wins, however many there were: the one that won is enough.
            lost = [] if self._winner_over(cell, lost) is not None else lost
            held += [self._known.name_of(dot) for dot in lost[:-1]]
            lost = lost[-1:]
        ops = []
        room = MAX_CONTEXT - 1 if lost else MAX_CONTEXT
        while held and (len(held) > room or not lost):
            ops.append(self._without(cell.key, held[:MAX_CONTEXT]))
            held = held[MAX_CONTEXT:]
        for dot in lost:  # the last one shows, as the largest did
            context = (*held, self._known.name_of(dot))
            ops.append(Op(dot.verb, self._document, parse_path(dot.path), decode(dot.val), context))
            held = []
        return ops

    def _winner_over(self, cell: _Cell, dots: Sequence[LiveDot]) -> LiveDot | None:
        """In a cell of which only the winner shows: what others wrote there and wins over these."""
        if cell.key[_VERB] is not Verb.LWW or not dots:
            return None
        best = max(map(self._order, dots))
        found = (dot for dot in self._content.at.get(cell.key[_PATH], ()) if cell_key(dot) == cell.key)
        return next((dot for dot in found if dot not in cell.held and self._order(dot) > best), None)

    def _order(self, dot: LiveDot) -> tuple[Rank, int]:
        return (self._known.rank(dot), dot.op)

    def _without(self, key: CellKey, context: Sequence[Dot]) -> Op:
        """What replaces dots of a cell by nothing."""
        path, verb, val = key
        if verb is Verb.ADD:
            return Op(Verb.REM, self._document, parse_path(path), decode(val), tuple(context))
        return Op(Verb.DEL, self._document, parse_path(path), None, tuple(context))

    def _show_or_hide(self, cell: _Cell) -> list[Op]:
        """The flag as it would be without the transactions. It names as many dots as an operation can."""
        hidden = self._would_be_hidden(cell)
        if not hidden and not any(map(_is_hiding, cell.held)):
            return []
        context = tuple(map(self._known.name_of, (*cell.held, *cell.lost)))
        return [Op(Verb.HIDE, self._document, (), hidden, context[:MAX_CONTEXT])]

    def _would_be_hidden(self, cell: _Cell) -> bool:
        """Whether the deletions that are left had seen all that is: what somebody wrote since is not hidden by them."""
        not_others = {*self._idle_flags, *(dot.key for dot in cell.held)}
        others = [dot for dot in self._footprint.live if dot.verb is Verb.HIDE and dot.key not in not_others]
        flags = [*others, *cell.lost]
        if not flags or not all(map(_is_hiding, flags)):
            return False
        found = [*self._footprint.live, *self._footprint.lost]
        content = [dot.key[:2] for dot in found if dot.verb not in FLAGS and dot.key not in self._dots]
        content += [dot.key[:2] for dot in self._kept]
        content += [(part.branch, part.last) for part in self._footprint.counters if not self._is_all_ours(part)]
        deletions = {entry for flag in flags for entry in self._deletions(flag.key) or {flag.key[:2]}}
        pasts = ({**self._known.past_of(branch, seq), branch: seq} for branch, seq in deletions)
        return any(all(sees(past, *entry) for entry in content) for past in pasts)

    def _deletions(self, flag: DotKey) -> set[tuple[int, int]]:
        """The entries of others whose flags one that was put back stands for: it hides what those had seen."""
        found: set[tuple[int, int]] = set()
        for key in self._put_back.get(flag, ()):
            if key not in self._dots:
                found |= self._deletions(key) if key[:2] in self._cancelled else {key[:2]}
        return found

    def _shared_flags(self) -> list[LiveDot]:
        """Flags that were put back and stand for deletions of theirs and of others."""
        found = (dot for dot in self._footprint.live if not self._dots.isdisjoint(self._put_back.get(dot.key, ())))
        return [dot for dot in found if dot.key not in self._dots]

    def _is_all_ours(self, part: CounterPart) -> bool:
        """Whether nobody else contributed to a part of a counter."""
        cell = self._cells.get((part.path, Verb.INC, b""))
        return cell is not None and part.count == sum(dot.branch == part.branch for dot in cell.held)

    def _balance(self, cell: _Cell) -> list[Op]:
        path = cell.key[_PATH]
        if cell.held and not cell.lost and self._stands_alone(cell):
            return [Op(Verb.DEL, self._document, parse_path(path), None)]
        amounts = [_amount(dot.val).copy_negate() for dot in cell.held] + [_amount(dot.val) for dot in cell.lost]
        is_decimal = any(isinstance(decode(dot.val), dict) for dot in (*cell.held, *cell.lost))
        return [
            Op(Verb.INC, self._document, parse_path(path), _as_value(amount, is_decimal=is_decimal))
            for amount in _grouped(amounts)
        ]

    def _stands_alone(self, cell: _Cell) -> bool:
        """Whether nothing but their increments is live at the path and beneath it: then a reset hits nothing else."""
        path = cell.key[_PATH]
        if any(dot.verb is not Verb.INC or dot.path != path for dot in self._content.beneath.get(path, ())):
            return False
        here = self._content.parts.get(path, ())
        if any(part.count != self._live_increments[path, part.branch] for part in here):
            return False
        return exact_sum(part.total for part in here) == exact_sum(_amount(dot.val) for dot in cell.held)


class _Content:
    """What is live in a document, without flags; a part of a counter stands as its newest increment."""

    def __init__(self, footprint: Footprint) -> None:
        self.at: dict[str, list[LiveDot]] = {}
        """By path."""
        self.beneath: dict[str, list[LiveDot]] = {}
        """By every path that it is at or beneath."""
        self.parts: dict[str, list[CounterPart]] = {}
        """Parts of counters by path."""
        for dot in footprint.live:
            if dot.verb not in FLAGS:
                self._add(dot)
        for part in footprint.counters:
            self.parts.setdefault(part.path, []).append(part)
            self._add(LiveDot(0, part.branch, part.last, part.last_op, Verb.INC, part.path, b""))

    def _add(self, dot: LiveDot) -> None:
        self.at.setdefault(dot.path, []).append(dot)
        for path in upwards(dot.path):
            self.beneath.setdefault(path, []).append(dot)

    def around(self, path: str) -> Iterator[LiveDot]:
        """What is at a path, beneath it and above it."""
        yield from self.beneath.get(path, ())
        for above in upwards(path):
            if above != path:
                yield from self.at.get(above, ())


class _Replacers:
    """Operations by the dots that they name, or by the cells whose dots they could replace."""

    def __init__(self, ops: Iterable[StoredOp], past_of: Callable[[int, int], Vector]) -> None:
        self._past_of = past_of
        self._naming: dict[DotKey, list[StoredOp]] = {}
        self._by_cell: dict[CellKey, list[StoredOp]] = {}
        for one in ops:
            if one.context is None:
                self._by_cell.setdefault(cell_key(one.dot), []).append(one)
            for key in one.context or ():
                self._naming.setdefault(key, []).append(one)

    def first(self, dot: LiveDot) -> StoredOp | None:
        """The first one that replaces a dot."""
        cells = (cell_key(dot), *((path, Verb.DEL, b"") for path in upwards(dot.path)))
        lists = (self._naming.get(dot.key, []), *(self._by_cell.get(key, []) for key in cells))
        found = (self._first_of(ops, dot) for ops in lists)
        return min((one for one in found if one is not None), key=lambda one: one.dot.place, default=None)

    def _first_of(self, ops: Sequence[StoredOp], dot: LiveDot) -> StoredOp | None:
        for at in range(bisect_right(ops, dot.place, key=lambda one: one.dot.place), len(ops)):
            one = ops[at]
            if replaced(one.dot, one.context, {dot.path: [dot]}, self._past_of(one.dot.branch, one.dot.seq)):
                return one
        return None


def _is_writing(ops: Iterable[Op]) -> bool:
    """Whether operations put something into a document, and say nothing of whether it is deleted."""
    verbs = {op.verb for op in ops}
    return not verbs <= {Verb.DEL, Verb.REM} and Verb.HIDE not in verbs


def _is_hiding(flag: LiveDot) -> bool:
    return decode(flag.val) is True


def _amount(val: bytes) -> Decimal:
    match decode(val):
        case {"$dec": str(text)}:
            return Decimal(text)
        case amount:
            assert isinstance(amount, int)
            return Decimal(amount)


def _grouped(amounts: Iterable[Decimal]) -> Iterator[Decimal]:
    """As few sums as one increment can hold each; none that is nothing."""
    total = Decimal(0)
    for amount in amounts:
        further = exact_sum((total, amount))
        if abs(further) >= 10**MAX_INCREMENT_DIGITS:
            yield total
            further = amount
        total = further
    if total:
        yield total


def _as_value(amount: Decimal, *, is_decimal: bool) -> Value:
    if not is_decimal and -(1 << 63) <= amount < 1 << 63:
        return int(amount)
    return {"$dec": f"{amount:f}"}

"""Cells: which operations replace which, and what of a document is live.

Implements docs/spec/transaction.md, section "Cells". A cell is a path with a kind. An operation writes at most one dot
into its cell and replaces dots that are there: those of its context. A dot is live when no operation that counts has
replaced it, so what is live depends on the set of operations and not on the order in which they came.

Dots carry their value as canonical bytes: it is decoded when somebody looks (``sync.view``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from sync.transaction import Verb
from sync.vector import Vector, sees

__all__ = [
    "FLAGS",
    "KIND_OF",
    "WRITES",
    "CellKey",
    "CellKind",
    "DotKey",
    "Live",
    "LiveDot",
    "StoredOp",
    "cell_key",
    "deaths",
    "is_beneath",
    "is_plain",
    "replaced",
    "upwards",
]


class CellKind(StrEnum):
    """What a cell holds, and what concurrent writes to it amount to."""

    REG = "reg"
    """Every concurrent value, side by side; one of them shows."""
    LWW = "lww"
    """The winner of concurrent values; the others remain in history."""
    CTR = "ctr"
    """The sum of all increments."""
    SET = "set"
    """Elements with an add that no removal had seen."""
    FLAG = "flag"
    """The document's delete flag, and its end."""


KIND_OF: Final = {
    Verb.SET: CellKind.REG,
    Verb.LWW: CellKind.LWW,
    Verb.INC: CellKind.CTR,
    Verb.ADD: CellKind.SET,
    Verb.HIDE: CellKind.FLAG,
    Verb.PURGE: CellKind.FLAG,
}
"""The kind of cell that a verb writes a dot into. The other verbs write none."""

FLAGS: Final = frozenset({Verb.HIDE, Verb.PURGE})
"""Verbs that are about the document and not about what is in it."""

WRITES: Final = frozenset(KIND_OF)

_REGISTERS: Final = frozenset({Verb.SET, Verb.LWW})

DotKey = tuple[int, int, int]
"""A dot within a replica: branch, index of the entry in its feed, operation."""


class LiveDot(NamedTuple):
    """A dot that is live.

    ``place`` is its number in the order in which this replica took operations in, ``seq`` its entry's index in the
    feed.
    """

    place: int
    branch: int
    seq: int
    op: int
    verb: Verb
    path: str
    val: bytes

    @property
    def key(self) -> DotKey:
        """What names it within the replica."""
        return (self.branch, self.seq, self.op)


class StoredOp(NamedTuple):
    """An operation as a replica has it: ``dot`` is what it writes, or, for a removal, where it stands."""

    dot: LiveDot
    context: frozenset[DotKey] | None


Live = Mapping[str, Sequence[LiveDot]]
"""The live dots of one document by path, in the form of ``path_text``."""


CellKey = tuple[str, Verb, bytes]
"""A cell of a document: its path, the verb of its dots, and for a set the element, each of which is judged alone."""


def cell_key(dot: LiveDot) -> CellKey:
    """The cell that an operation with this dot is about; that of a removal from a set is the element's."""
    if dot.verb in (Verb.ADD, Verb.REM):
        return (dot.path, Verb.ADD, dot.val)
    return (dot.path, dot.verb, b"")


def is_beneath(path: str, above: str) -> bool:
    """Whether ``path`` is ``above`` or lies beneath it."""
    return path == above or (path.startswith(above) and path[len(above)] == "/")


def is_plain(dots: Collection[LiveDot]) -> bool:
    """Whether there is one value at each path and nothing that could hide it or clash with it: nothing to judge."""
    seen: set[str] = set()
    for dot in dots:
        path = dot.path
        if dot.verb not in _REGISTERS or path in seen or "/" in path[1:]:
            return False
        seen.add(path)
    return True


def upwards(path: str) -> Iterator[str]:
    """A path and those above it, up to the document itself: all that it is beneath."""
    yield path
    while path:
        path = path.rpartition("/")[0]
        yield path


def replaced(dot: LiveDot, context: frozenset[DotKey] | None, live: Live, past: Vector | None) -> list[LiveDot]:
    """The live dots that an operation replaces; ``dot`` is what it writes, or where it stands.

    ``past`` is the causal past of its entry, None when that is all there is. The operations of one entry take effect
    one after the other, so those before it are seen as well. With a ``context`` only the dots that it names are
    replaced; counters are never replaced one by one.
    """
    if context is not None and not context:
        return []  # nothing is looked at: else as many of these as an entry has would look at each other
    found = _candidates(dot, live)
    if context is not None:
        found = [one for one in found if one.verb is not Verb.INC and (one.branch, one.seq, one.op) in context]
    if found and past is not None:
        entry = (dot.branch, dot.seq)
        found = [one for one in found if sees(past, one.branch, one.seq) or (one.branch, one.seq) == entry]
    return found


def _candidates(dot: LiveDot, live: Live) -> list[LiveDot]:
    verb = dot.verb
    if verb is Verb.DEL:
        above = f"{dot.path}/"
        beneath = (dots for path, dots in live.items() if dots and (path == dot.path or path.startswith(above)))
        return [one for dots in beneath for one in dots if one.verb not in FLAGS]
    at = live.get(dot.path)
    if not at or verb is Verb.INC or verb is Verb.PURGE:
        return []
    if verb is Verb.ADD or verb is Verb.REM:
        return [one for one in at if one.verb is Verb.ADD and one.val == dot.val]
    return [one for one in at if one.verb is verb]


def deaths(ops: Iterable[StoredOp], past_of: Callable[[int, int], Vector]) -> dict[int, int]:
    """For each operation of a document that is not live: the place of the first one that replaced it.

    ``ops`` come in an order in which each stands behind its causal past; all of them count. ``past_of`` gives the
    causal past of the entry at an index of a branch. An operation that writes no dot was never live: it stands with its
    own place. Straight from the definitions: what a store keeps up to date is tested against this.
    """
    live: dict[str, list[LiveDot]] = {}
    dead: dict[int, int] = {}
    for dot, context in ops:
        for victim in replaced(dot, context, live, past_of(dot.branch, dot.seq)):
            dead[victim.place] = dot.place
            live[victim.path].remove(victim)
        if dot.verb in WRITES:
            live.setdefault(dot.path, []).append(dot)
        else:
            dead[dot.place] = dot.place
    return dead

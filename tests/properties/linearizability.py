"""Whether a history of one register is linearizable: the search of Wing and Gong, which remembers where it has been.

An operation is between two moments. One whose answer nobody has got may have happened at any time since, or never.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum

NEVER = 1 << 60


class Answer(StrEnum):
    """What became of an operation, as far as who asked for it knows."""

    DONE = "done"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Swap:
    """Put ``new`` in the place of ``expected``; refused when something else stands there."""

    expected: Hashable
    new: Hashable
    answer: Answer
    begun: int
    ended: int = NEVER


@dataclass(frozen=True, slots=True)
class Read:
    """Somebody saw ``value``."""

    value: Hashable
    begun: int
    ended: int


def is_linearizable(history: Sequence[Swap | Read], first: Hashable = None) -> bool:
    """Whether one order, in which each operation stands between its moments, explains all answers."""
    seen: set[tuple[frozenset[int], Hashable]] = set()
    waiting = [(frozenset(range(len(history))), first)]
    while waiting:
        left, value = waiting.pop()
        if (left, value) in seen:
            continue
        seen.add((left, value))
        if all(isinstance(one := history[at], Swap) and one.answer is Answer.UNKNOWN for at in left):
            return True
        earliest = min(history[at].ended for at in left)
        for at in left:
            if history[at].begun <= earliest:
                waiting += [(left - {at}, after) for after in _outcomes(history[at], value)]
    return False


def _outcomes(one: Swap | Read, value: Hashable) -> list[Hashable]:
    """What can stand there behind an operation that takes effect where ``value`` does; nothing: it cannot."""
    if isinstance(one, Read):
        return [value] if one.value == value else []
    fits = value == one.expected
    match one.answer:
        case Answer.DONE:
            return [one.new] if fits else []
        case Answer.REFUSED:
            return [] if fits else [value]
        case Answer.UNKNOWN:
            return [one.new, value] if fits else [value]

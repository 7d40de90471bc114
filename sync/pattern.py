"""Patterns: a small regular expression language that gives the same answer everywhere, for ever, in linear time.

Implements docs/spec/schema.md, section "Patterns". Schemas come from other devices and are judged by everybody, so
Python's ``re`` won't do: it can be made to run for years, and what it reads changes with its version. The language is a
subset of what JSON Schema asks for (ECMA-262 with the u flag), without what needs backtracking.

A pattern becomes an automaton with one state for each character that it can read (Glushkov's). Sets of states are the
bits of an integer, so a text costs one step a character, whatever the pattern.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import accumulate
from operator import or_, xor
from typing import Final, NamedTuple, TypeAlias

from identity.errors import LimitExceeded, MalformedError

__all__ = ["MAX_PATTERN", "MAX_REPEAT", "MAX_STATES", "Pattern", "parse_pattern"]

MAX_PATTERN: Final = 512
"""Characters of a pattern's source."""

MAX_REPEAT: Final = 1000
"""The largest bound of a quantifier."""

MAX_STATES: Final = 1000
"""Characters and classes of a pattern once its quantifiers are written out."""

_MAX_GROUPS: Final = 16
"""Groups within each other."""

_LAST: Final = 0x10FFFF

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""Code points, as first and last of each range: ascending, apart, not adjacent."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern that was read. Two are equal when their sources are."""

    source: str
    states: int = field(compare=False)
    """How many states its automaton has: what it costs."""
    _automaton: _Automaton = field(compare=False, repr=False)

    def found_in(self, text: str) -> bool:
        """Whether the pattern matches somewhere in ``text``. Total; takes time in proportion to its length."""
        return self._automaton.run(text)


def parse_pattern(source: str) -> Pattern:
    """Read a pattern. Raises ``MalformedError`` naming the place, ``LimitExceeded`` for what is too large."""
    if len(source) > MAX_PATTERN:
        raise LimitExceeded(f"pattern: {len(source)} characters, at most {MAX_PATTERN} are allowed")
    builder = _Builder()
    parts = [(branch, builder.part(branch.body)) for branch in _Reader(source).branches()]
    return Pattern(source, len(builder.follow), _automaton(parts, builder))


# --- reading --------------------------------------------------------------------------------------------------------


class _Class(NamedTuple):
    """One character out of ``ranges``."""

    ranges: Ranges


class _Sequence(NamedTuple):
    items: tuple[_Node, ...]


class _Choice(NamedTuple):
    branches: tuple[_Node, ...]


class _Repeat(NamedTuple):
    """``least`` to ``most`` times; None: any number."""

    node: _Node
    least: int
    most: int | None


_Node: TypeAlias = _Class | _Sequence | _Choice | _Repeat


class _Branch(NamedTuple):
    """One alternative of the whole pattern, and whether it is tied to the text's beginning and end."""

    body: _Sequence
    at_start: bool
    at_end: bool


def _normal(ranges: Iterable[tuple[int, int]]) -> Ranges:
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return tuple(found)


def _others(ranges: Ranges) -> Ranges:
    """All code points that are not in ``ranges``."""
    firsts = [0, *(last + 1 for _, last in ranges)]
    lasts = [*(first - 1 for first, _ in ranges), _LAST]
    return tuple((first, last) for first, last in zip(firsts, lasts, strict=True) if first <= last)


def _of(characters: str) -> Ranges:
    return _normal((ord(one), ord(one)) for one in characters)


_DIGIT: Final = ((0x30, 0x39),)
_WORD: Final = _normal([*_DIGIT, (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)])
_SPACE: Final = _of(" \t\n\r\f\v")
_CLASSES: Final = {
    "d": _DIGIT,
    "w": _WORD,
    "s": _SPACE,
    "D": _others(_DIGIT),
    "W": _others(_WORD),
    "S": _others(_SPACE),
}
_CONTROLS: Final = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v"}
_DOT: Final = _others(_of("\n\r\u2028\u2029"))
_DIGITS: Final = frozenset("0123456789")
_SYNTAX: Final = frozenset("^$\\.*+?()[]{}|")
_ESCAPABLE: Final = _SYNTAX | frozenset("/-")
_QUANTIFIERS: Final = {"*": (0, None), "+": (1, None), "?": (0, 1)}


class _Reader:
    """Reads a source from left to right by recursive descent."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0
        self._groups = 0

    def branches(self) -> list[_Branch]:
        found = [self._branch()]
        while self._take("|"):
            found.append(self._branch())
        if self._at < len(self._source):
            raise self._wrong("a ')' without its '('")
        return found

    def _branch(self) -> _Branch:
        at_start = self._take("^")
        body = self._sequence()
        return _Branch(body, at_start, self._take("$"))

    def _sequence(self) -> _Sequence:
        items = []
        while (next_one := self._peek()) and next_one not in "|)$":
            items.append(self._quantified(self._atom()))
        if next_one == "$" and (self._groups or self._peek(1) not in ("", "|")):
            raise self._wrong("'$' can stand only at the end of an alternative of the whole pattern")
        return _Sequence(tuple(items))

    def _atom(self) -> _Node:
        if self._take("("):
            return self._group()
        if self._take("["):
            return _Class(self._class())
        if self._take("."):
            return _Class(_DOT)
        if self._take("\\"):
            return _Class(self._escape())
        character = self._peek()
        if character == "^":
            raise self._wrong("'^' can stand only at the start of an alternative of the whole pattern")
        if character in _SYNTAX:
            raise self._wrong(f"{character!r} has to be escaped here")
        self._at += 1
        return _Class(_of(character))

    def _group(self) -> _Node:
        if self._take("?") and not self._take(":"):
            raise self._wrong("groups that begin with '(?' are not in the language, except '(?:'")
        self._groups += 1
        if self._groups > _MAX_GROUPS:
            raise LimitExceeded(f"pattern: groups nested deeper than {_MAX_GROUPS}")
        branches = [self._sequence()]
        while self._take("|"):
            branches.append(self._sequence())
        self._groups -= 1
        # Each alternative reads something, so that repeating one always costs states, and MAX_STATES bounds it.
        if not all(branch.items for branch in branches):
            raise self._wrong("an alternative of a group is empty")
        if not self._take(")"):
            raise self._wrong("a '(' without its ')'")
        return _Choice(tuple(branches))

    def _quantified(self, node: _Node) -> _Node:
        character = self._peek()
        if character in _QUANTIFIERS:
            least, most = _QUANTIFIERS[character]
            self._at += 1
        elif self._take("{"):
            least, most = self._bounds()
        else:
            return node
        if self._peek() in ("*", "+", "?", "{"):
            raise self._wrong("a quantifier after a quantifier")
        return _Repeat(node, least, most)

    def _bounds(self) -> tuple[int, int | None]:
        least = self._number()
        most: int | None = least
        if self._take(","):
            most = None if self._peek() == "}" else self._number()
        if not self._take("}"):
            raise self._wrong("a quantifier is {n}, {n,} or {n,m}")
        if most is not None and (most < least or most == 0):
            raise self._wrong("a quantifier goes upwards, and beyond 0")
        return least, most

    def _number(self) -> int:
        start = self._at
        while self._peek() in _DIGITS:
            self._at += 1
        digits = self._source[start : self._at]
        if not digits:
            raise self._wrong("a quantifier is {n}, {n,} or {n,m}")
        if len(digits) > 4 or int(digits) > MAX_REPEAT:
            raise LimitExceeded(f"pattern: a quantifier beyond {MAX_REPEAT}")
        return int(digits)

    def _class(self) -> Ranges:
        negated = self._take("^")
        ranges: list[tuple[int, int]] = []
        while not self._take("]"):
            first = self._member(first=not ranges)
            if self._peek() != "-" or self._peek(1) in ("]", ""):
                ranges += first
                continue
            self._at += 1
            last = self._member(first=False)
            if not (_is_one(first) and _is_one(last) and first <= last):
                raise self._wrong("a range in a class goes from one character up to another")
            ranges.append((first[0][0], last[0][0]))
        if not ranges:
            raise self._wrong("an empty class")
        return _others(_normal(ranges)) if negated else _normal(ranges)

    def _member(self, *, first: bool) -> Ranges:
        if self._take("\\"):
            return self._escape()
        character = self._peek()
        if not character:
            raise self._wrong("a '[' without its ']'")
        if character == "[" or (character == "-" and not first and self._peek(1) != "]"):
            raise self._wrong(f"{character!r} has to be escaped here")
        self._at += 1
        return _of(character)

    def _escape(self) -> Ranges:
        character = self._peek()
        self._at += 1
        if character in _CLASSES:
            return _CLASSES[character]
        if character in _CONTROLS:
            return _of(_CONTROLS[character])
        if character in _ESCAPABLE:
            return _of(character)
        raise self._wrong(f"the escape {chr(92) + character!r} is not in the language")

    def _peek(self, ahead: int = 0) -> str:
        """The next character; empty at the end."""
        return self._source[self._at + ahead : self._at + ahead + 1]

    def _take(self, character: str) -> bool:
        taken = self._peek() == character
        self._at += taken
        return taken

    def _wrong(self, reason: str) -> MalformedError:
        return MalformedError(f"pattern at character {min(self._at, len(self._source)) + 1}: {reason}")


def _is_one(ranges: Ranges) -> bool:
    return len(ranges) == 1 and ranges[0][0] == ranges[0][1]


# --- the automaton --------------------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """A piece of the automaton, its states as bits: where it can begin and end, and whether it can be passed by."""

    first: int
    last: int
    empty: bool


_NOTHING: Final = _Part(0, 0, empty=True)


class _Builder:
    """Makes states out of nodes. ``follow`` says for each state which ones can come next, ``reads`` what it reads."""

    def __init__(self) -> None:
        self.follow: list[int] = []
        self.reads: dict[Ranges, int] = {}

    def part(self, node: _Node) -> _Part:
        match node:
            case _Class(ranges):
                return self._state(ranges)
            case _Sequence(items):
                return self._joined([self.part(item) for item in items])
            case _Choice(branches):
                return _either([self.part(branch) for branch in branches])
            case _Repeat(inner, least, most):
                return self._repeated(inner, least, most)

    def _state(self, ranges: Ranges) -> _Part:
        if len(self.follow) == MAX_STATES:
            raise LimitExceeded(f"pattern: more than {MAX_STATES} characters once its quantifiers are written out")
        state = 1 << len(self.follow)
        self.follow.append(0)
        self.reads[ranges] = self.reads.get(ranges, 0) | state
        return _Part(state, state, empty=False)

    def _repeated(self, node: _Node, least: int, most: int | None) -> _Part:
        """``least`` copies, then one that loops or optional ones within each other: (x(x(x)?)?)?."""
        if most is None:
            copies = [self.part(node) for _ in range(max(least, 1))]
            self._link(copies[-1].last, copies[-1].first)
            if least == 0:
                copies[-1] = copies[-1]._replace(empty=True)
            return self._joined(copies)
        optional = _NOTHING
        for _ in range(most - least):
            optional = self._joined([self.part(node), optional])._replace(empty=True)
        return self._joined([*(self.part(node) for _ in range(least)), optional])

    def _joined(self, parts: Sequence[_Part]) -> _Part:
        """One after the other. From the right, so that each part's ends are linked once."""
        rest = _NOTHING
        for part in reversed(parts):
            self._link(part.last, rest.first)
            rest = _Part(
                part.first | rest.first if part.empty else part.first,
                part.last | rest.last if rest.empty else rest.last,
                part.empty and rest.empty,
            )
        return rest

    def _link(self, states: int, following: int) -> None:
        for state in _bits(states):
            self.follow[state] |= following


def _bits(states: int) -> Iterator[int]:
    while states:
        lowest = states & -states
        yield lowest.bit_length() - 1
        states ^= lowest


def _either(parts: Sequence[_Part]) -> _Part:
    return _Part(
        reduce(or_, (part.first for part in parts)),
        reduce(or_, (part.last for part in parts)),
        any(part.empty for part in parts),
    )


@dataclass(frozen=True, slots=True)
class _Automaton:
    """What runs. ``rows`` holds, for each eight states in two halves, what can follow any set of them."""

    begin: int
    begin_later: int
    """Where a match can begin: at the text's first character, at any other."""
    done: int
    done_at_end: int
    """The states in which it has matched: at once, or when the text is over."""
    always: bool
    """The empty match counts, wherever it is."""
    empty: bool
    """The empty text matches."""
    rows: Sequence[tuple[Sequence[int], Sequence[int]]]
    borders: Sequence[int]
    readers: Sequence[int]
    """The states that read a code point from the border of the same place up to the next one."""

    def run(self, text: str) -> bool:
        if self.always or not text:
            return self.always or self.empty
        rows, borders, readers, done = self.rows, self.borders, self.readers, self.done
        states, begin = 0, self.begin
        for character in text:
            following = begin
            for (low, high), bits in zip(rows, states.to_bytes(len(rows), "little"), strict=True):
                if bits:
                    following |= low[bits & 15] | high[bits >> 4]
            states = following & readers[bisect_right(borders, ord(character)) - 1]
            if states & done:
                return True
            begin = self.begin_later
            if not states | begin:
                return False
        return states & self.done_at_end != 0


def _automaton(parts: Sequence[tuple[_Branch, _Part]], builder: _Builder) -> _Automaton:
    borders, readers = _reading(builder.reads)
    return _Automaton(
        begin=reduce(or_, (part.first for _, part in parts)),
        begin_later=reduce(or_, (part.first for branch, part in parts if not branch.at_start), 0),
        done=reduce(or_, (part.last for branch, part in parts if not branch.at_end), 0),
        done_at_end=reduce(or_, (part.last for _, part in parts)),
        always=any(part.empty and not (branch.at_start and branch.at_end) for branch, part in parts),
        empty=any(part.empty for _, part in parts),
        rows=[
            (_row(builder.follow[start : start + 4]), _row(builder.follow[start + 4 : start + 8]))
            for start in range(0, len(builder.follow), 8)
        ],
        borders=borders,
        readers=readers,
    )


def _row(follow: Sequence[int]) -> list[int]:
    """For each set of four states, as bits: what can follow any of them."""
    row = [0]
    for following in follow:
        row += [following | others for others in row]
    return row


def _reading(reads: dict[Ranges, int]) -> tuple[list[int], list[int]]:
    """Borders between code points, ascending from 0, and the states that read what lies behind each."""
    changes = {0: 0}
    for ranges, states in reads.items():
        for first, last in ranges:
            changes[first] = changes.get(first, 0) ^ states
            changes[last + 1] = changes.get(last + 1, 0) ^ states
    borders = sorted(changes)
    return borders, list(accumulate((changes[border] for border in borders), xor))

"""Differences: what a document shows at one point and not at another, and the operations that lead back.

Implements docs/spec/database-history.md, sections "Differences" and "Restore".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from identity.encoding import Value, decode_stored, encode
from identity.errors import LimitExceeded
from sync.cells import CellKind, LiveDot, upwards
from sync.transaction import MAX_CONTEXT, MAX_INCREMENT_DIGITS, MAX_OPS, DocumentId, Dot, Op, Path, Verb, parse_path
from sync.view import View, exact_sum

__all__ = ["CellChange", "Shown", "differences", "restoring"]

_ABSENT: Final = View((), deleted=False)
_REGISTER_VERBS: Final = {CellKind.REG: Verb.SET, CellKind.LWW: Verb.LWW}

_CellName = tuple[str, CellKind]
_Values = tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class CellChange:
    """What one cell shows at two points.

    The value that shows comes first, behind it its siblings; there is none where there was nothing. Of a set ``before``
    has the elements that only the first point has, ``after`` those that only the second one has. The delete flag is the
    cell with an empty path.
    """

    path: str
    kind: CellKind
    before: tuple[Value, ...]
    after: tuple[Value, ...]

    @property
    def difference(self) -> Value:
        """What was added to a counter; None for other kinds of cells."""
        return (
            _amount_value(exact_sum((_amount(self.after), _amount(self.before).copy_negate())))
            if self.kind is CellKind.CTR
            else None
        )


def differences(before: View | None, after: View | None) -> list[CellChange]:
    """What has changed from one view to another, by path and kind. None stands for a document that is not there."""
    before, after = before or _ABSENT, after or _ABSENT
    earlier, later = _by_name(before), _by_name(after)
    changes = (_change(name, earlier.get(name, ()), later.get(name, ())) for name in sorted({*earlier, *later}))
    found = [change for change in changes if change is not None]
    if before.deleted != after.deleted:
        found.insert(0, CellChange("", CellKind.FLAG, (before.deleted,), (after.deleted,)))
    return found


def _by_name(view: View) -> dict[_CellName, _Values]:
    return {(cell.path, cell.kind): cell.values for cell in view.cells}


def _change(name: _CellName, before: _Values, after: _Values) -> CellChange | None:
    was, now = list(map(encode, before)), list(map(encode, after))
    if was == now:
        return None
    path, kind = name
    if kind is CellKind.SET:
        earlier, later = set(was), set(now)
        before = tuple(value for value, data in zip(before, was, strict=True) if data not in later)
        after = tuple(value for value, data in zip(after, now, strict=True) if data not in earlier)
    return CellChange(path, kind, before, after)


# --- leading back ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shown:
    """A document as it stands: what it shows, and what is live in it, without increments."""

    name: DocumentId
    view: View
    dots: Sequence[LiveDot]


def restoring(
    now: Shown,
    then: View | None,
    name_of: Callable[[LiveDot], Dot],
    takes_decimals: Callable[[Path], bool] = lambda _path: False,
) -> list[Op]:
    """The operations after which the document shows just what ``then`` shows; None: that it was not there.

    They have to be written by an entry that has seen what ``now`` has. What shows already is left alone.
    ``takes_decimals`` says of a counter that no integer may be added to it. Raises ``LimitExceeded`` for a counter that
    no transaction can make show so much.
    """
    return _Restoring(now, then or _ABSENT, name_of, takes_decimals).run()


class _Restoring:
    """One document on its way back."""

    def __init__(
        self, now: Shown, then: View, name_of: Callable[[LiveDot], Dot], takes_decimals: Callable[[Path], bool]
    ) -> None:
        self._now = now
        self._then = then
        self._name_of = name_of
        self._takes_decimals = takes_decimals
        self._resets: set[str] = set()
        held, wanted = _by_name(now.view), _by_name(then)
        self._crowd = Counter(above for path, _ in {*held, *wanted} for above in upwards(path))
        """How many cells there are, or are to be, at a path and beneath it."""

    def run(self) -> list[Op]:
        """The operations. The delete flag comes last, because it hides what was there before it.

        One that is there and hides nothing is taken away as well: without the edit that it had not seen it would.
        """
        ops = list(self._cells())
        flagged = self._then.deleted or any(_hides(dot) for dot in self._now.dots)
        if self._now.view.deleted != self._then.deleted or (ops and flagged):
            ops.append(self._op(Verb.HIDE, "", self._then.deleted))
        return ops

    def _cells(self) -> Iterator[Op]:
        """Resets come first, because they hit what is at their path and beneath it, of any kind."""
        held, wanted = _by_name(self._now.view), _by_name(self._then)
        self._resets = {""} if held and not wanted else _resets(held, wanted)
        for path in sorted(self._resets):
            yield self._op(Verb.DEL, path, None)
        for path, kind in sorted({*held, *wanted}):
            is_gone = not self._resets.isdisjoint(upwards(path))
            have = () if is_gone else held.get((path, kind), ())
            change = _change((path, kind), have, wanted.get((path, kind), ()))
            if change is not None:
                yield from self._lead_back(change)

    def _lead_back(self, change: CellChange) -> Iterator[Op]:
        path, kind = change.path, change.kind
        if kind is CellKind.CTR:
            difference = exact_sum((_amount(change.after), _amount(change.before).copy_negate()))
            is_decimal = self._takes_decimals(parse_path(path))
            for amount in _increments(difference):
                yield self._op(Verb.INC, path, _amount_value(amount, is_decimal=is_decimal))
        elif kind is CellKind.SET:
            yield from (self._op(Verb.REM, path, value) for value in change.before)
            yield from (self._op(Verb.ADD, path, value) for value in change.after)
        else:
            yield from self._set(path, _REGISTER_VERBS[kind], change.after)

    def _set(self, path: str, verb: Verb, values: _Values) -> Iterator[Op]:
        """Let a register hold these values side by side. The first one replaces what is there, and the last shows."""
        for at, value in enumerate(reversed(values)):
            yield self._op(verb, path, value, () if at else None)
        if not values and self._crowd[path] == 1:
            yield self._op(Verb.DEL, path, None)
        elif not values:
            dots = [self._name_of(dot) for dot in self._now.dots if dot.path == path and dot.verb is verb]
            for start in range(0, len(dots), MAX_CONTEXT):
                yield self._op(Verb.DEL, path, None, tuple(dots[start : start + MAX_CONTEXT]))

    def _op(self, verb: Verb, path: str, value: Value, context: tuple[Dot, ...] | None = None) -> Op:
        return Op(verb, self._now.name, parse_path(path), value, context)


def _hides(dot: LiveDot) -> bool:
    return dot.verb is Verb.HIDE and decode_stored(dot.val) is True


def _resets(held: dict[_CellName, _Values], wanted: dict[_CellName, _Values]) -> set[str]:
    """Where counters have to begin anew: those that were not there, or that showed fewer decimal places."""
    found: set[str] = set()
    for path in sorted(path for path, kind in held if kind is CellKind.CTR):
        name = (path, CellKind.CTR)
        can_count = name in wanted and _places(wanted[name]) >= _places(held[name])
        if not can_count and found.isdisjoint(upwards(path)):
            found.add(path)
    return found


def _amount(values: _Values) -> Decimal:
    match values:
        case ({"$dec": str(text)},):
            return Decimal(text)
        case (int(number),):
            return Decimal(number)
    return Decimal(0)


def _places(values: _Values) -> int:
    exponent = _amount(values).as_tuple().exponent
    assert isinstance(exponent, int)
    return -exponent


def _increments(amount: Decimal) -> Iterator[Decimal]:
    """An amount as a sum of what increments can hold."""
    most = Decimal(10**MAX_INCREMENT_DIGITS - 1).copy_sign(amount)
    if abs(amount) > abs(most) * MAX_OPS:
        raise LimitExceeded("a counter shows more than one transaction can add to it")
    while abs(amount) > abs(most):
        yield most
        amount = exact_sum((amount, most.copy_negate()))
    yield amount


def _amount_value(amount: Decimal, *, is_decimal: bool = False) -> Value:
    """An integer when it has no decimal places and may be one."""
    if not is_decimal and not amount.as_tuple().exponent and -(1 << 63) <= amount < 1 << 63:
        return int(amount)
    return {"$dec": f"{amount:f}".removeprefix("-") if amount.is_zero() else f"{amount:f}"}

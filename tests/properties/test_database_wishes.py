"""Wishes come to what plain maps would, each in a transaction of its own or several in one, one after the other.

One device writes alone, so nothing is concurrent: a document reads like the map that the wishes describe.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.changes import Changes, MissingDocument

NUMBERS = count()

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from(["x", "y"]))
FIELDS = st.dictionaries(st.sampled_from(["a", "b", "a/b"]), SCALARS, min_size=1)
SETS = st.sampled_from(["s", ("m", "s")])
WISHES = st.one_of(
    st.tuples(st.just("put"), FIELDS),
    st.tuples(st.just("patch"), FIELDS),
    st.tuples(st.just("increment"), st.sampled_from(["n", ("m", "n")]), st.integers(-3, 3)),
    st.tuples(st.just("add"), SETS, st.integers(0, 2)),
    st.tuples(st.just("remove"), SETS, st.integers(0, 2)),
    st.tuples(st.just("patch"), st.fixed_dictionaries({"n": st.integers(-3, 3)})),
    st.tuples(st.just("patch"), st.fixed_dictionaries({"s": st.lists(st.integers(0, 2), min_size=1, unique=True)})),
    st.tuples(st.just("unset"), st.sampled_from(["a", "n", "s", "m", "a/b", ("m", "n")])),
    st.tuples(st.just("delete")),
    st.tuples(st.just("undelete")),
)
TRANSACTIONS = st.lists(st.lists(WISHES, min_size=1, max_size=6), min_size=1, max_size=4)


class Plain:
    """A document as a map of paths to values; sets are sets."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, ...], Any] = {}
        self.deleted = False

    def copy(self) -> Plain:
        """As it is for the next transaction."""
        made = Plain()
        made.cells = {path: set(held) if isinstance(held, set) else held for path, held in self.cells.items()}
        made.deleted = self.deleted
        return made

    def fits(self, what: str, *rest: Any) -> bool:
        """Whether it is a wish for what is there: a counter or a set is set to a value only when there is one."""
        match what, *rest:
            case "patch", {"n": _} if ("n",) not in self.cells:
                return False
            case "patch", {"s": _} if ("s",) not in self.cells:
                return False
        return True

    def do(self, what: str, *rest: Any) -> None:
        """Raises ``MissingDocument``, as the database does."""
        match what, *rest:
            case ("delete",):
                if not self.cells or self.deleted:
                    raise MissingDocument(None)  # type: ignore[arg-type]
                self.deleted = True
            case ("undelete",):
                self.deleted = False
            case "put" | "patch", fields:
                if what == "put":
                    self.cells = {path: held for path, held in self.cells.items() if path[0] in fields}
                for name, value in fields.items():
                    self.cells[name,] = set(value) if isinstance(value, list) else value
                self.deleted = False
            case "increment", where, by:
                self.cells[path_of(where)] = self.cells.get(path_of(where), 0) + by
                self.deleted = False
            case "add", where, element:
                self.cells.setdefault(path_of(where), set()).add(element)
                self.deleted = False
            case "remove", where, element:
                held = self.cells.get(path_of(where), set())
                held.discard(element)
                if not held:
                    self.cells.pop(path_of(where), None)
            case "unset", where:
                gone = path_of(where)
                self.cells = {path: held for path, held in self.cells.items() if path[: len(gone)] != gone}

    @property
    def fields(self) -> dict[str, Any] | None:
        """What a reader finds."""
        if self.deleted or not self.cells:
            return None
        found: dict[str, Any] = {}
        for path, held in self.cells.items():
            within = found
            for name in path[:-1]:
                within = within.setdefault(name, {})
            within[path[-1]] = sorted(held) if isinstance(held, set) else held
        return found


def path_of(where: str | tuple[str, ...]) -> tuple[str, ...]:
    return (where,) if isinstance(where, str) else where


@pytest.fixture(scope="module")
def replica(make_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    world = make_world(tmp_path_factory.mktemp("wishes"), "wishes")
    yield world.replica("laptop")
    world.close()


@settings(max_examples=150, deadline=None)
@given(TRANSACTIONS)
def test_a_document_is_a_map(replica: Any, transactions: list[list[Any]]) -> None:
    key, plain = str(next(NUMBERS)), Plain()
    for wishes in transactions:
        changes, after, is_refused = Changes(), plain.copy(), False
        for what, *rest in wishes:
            if not is_refused and after.fits(what, *rest):
                getattr(changes, what)("c", key, *rest)
                try:
                    after.do(what, *rest)
                except MissingDocument:
                    is_refused = True
        if is_refused:
            with pytest.raises(MissingDocument):
                replica.db.commit(changes)
        else:
            replica.db.commit(changes)
            plain = after
        assert replica.fields("c", key) == plain.fields

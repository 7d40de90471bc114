"""What devices wish for, as Hypothesis draws it, and the schemas that may be in force."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from sync.changes import Changes

DOCUMENTS = st.sampled_from([("c", "1"), ("c", "1"), ("c", "2"), ("typed", "1")])
REGISTERS = st.sampled_from(["a", "b"])
COUNTERS = st.sampled_from(["n", "n", ("m", "x"), "a"])
SETS = st.sampled_from(["s", "s", ("m", "s"), "b"])
SCALARS = st.one_of(
    st.none(), st.integers(-3, 3), st.sampled_from(["x", "y"]), st.sampled_from([Decimal("1.50"), Decimal(-2)])
)
FIELDS = st.dictionaries(REGISTERS, SCALARS, max_size=2)
AMOUNTS = st.one_of(st.integers(-5, 5), st.sampled_from([Decimal("0.10"), Decimal("-12.345"), 10**17]))
ELEMENTS = st.lists(st.sampled_from([1, 2, "x"]), min_size=1, max_size=2)

WISHES = st.one_of(
    st.tuples(st.just("put"), DOCUMENTS, FIELDS),
    st.tuples(st.just("patch"), DOCUMENTS, FIELDS),
    st.tuples(st.just("put"), DOCUMENTS, st.fixed_dictionaries({"s": ELEMENTS}, optional={"n": st.integers(-9, 9)})),
    st.tuples(st.just("unset"), DOCUMENTS, st.sampled_from(["a", "n", "s", "m", ("m", "x")])),
    st.tuples(st.just("increment"), DOCUMENTS, COUNTERS, AMOUNTS),
    st.tuples(st.just("increment"), DOCUMENTS, COUNTERS, AMOUNTS),
    st.tuples(st.just("add"), DOCUMENTS, SETS, ELEMENTS),
    st.tuples(st.just("remove"), DOCUMENTS, SETS, ELEMENTS),
    st.tuples(st.just("delete"), DOCUMENTS),
    st.tuples(st.just("undelete"), DOCUMENTS),
)


def wish(changes: Changes, what: str, document: tuple[str, str], *rest: Any) -> None:
    """Add one wish, as it was drawn, to changes."""
    method = getattr(changes, what)
    if what in ("add", "remove"):
        where, elements = rest
        method(*document, where, *elements)
    else:
        method(*document, *rest)


TYPES = {
    "numbers": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer", "cell": "lww"}},
    },
    "texts": {
        "type": "object",
        "properties": {"a": {"type": "text", "indexed": True}, "n": {"type": "integer", "cell": "ctr"}},
    },
}

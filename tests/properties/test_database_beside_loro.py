"""Maps and counters beside Loro's: the same writes, the same partitions, and what both must then agree on.

Loro shows one of several concurrent writes and drops the rest, where ours keeps them side by side. So what it shows
must be among ours; where ours has nothing it has nothing; and counters are equal.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sync.changes import Changes

loro: Any = import_module("loro")

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "10"))
DEVICES = st.integers(0, 2)
FIELDS = st.sampled_from("ab")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), DEVICES, FIELDS),
        st.tuples(st.just("set"), DEVICES, FIELDS),
        st.tuples(st.just("unset"), DEVICES, FIELDS),
        st.tuples(st.just("count"), DEVICES, st.integers(-5, 5)),
        st.tuples(st.just("receive"), DEVICES, DEVICES),
    ),
    max_size=30,
)


class Pair:
    """One device, with us and with Loro."""

    def __init__(self, replica: Any, number: int) -> None:
        self.replica = replica
        self.doc = loro.LoroDoc()
        self.doc.peer_id = number

    def set(self, field: str, value: int) -> None:
        """Write a field."""
        changes = Changes()
        changes.patch("c", "1", {field: value})
        self.replica.db.commit(changes)
        self.doc.get_map("m").insert(field, value)
        self.doc.commit()

    def unset(self, field: str) -> None:
        """Remove it, as far as it was seen."""
        changes = Changes()
        changes.unset("c", "1", field)
        self.replica.db.commit(changes)
        if field in self.doc.get_map("m").keys():  # noqa: SIM118  (it is no mapping)
            self.doc.get_map("m").delete(field)
            self.doc.commit()

    def count(self, amount: int) -> None:
        """Add to the counter."""
        changes = Changes()
        changes.increment("c", "1", "n", amount)
        self.replica.db.commit(changes)
        self.doc.get_counter("n").increment(float(amount))
        self.doc.commit()

    def receive(self, other: Pair) -> None:
        """Take in what the other has."""
        self.replica.receive(other.replica)
        self.doc.import_(other.doc.export(loro.ExportMode.Snapshot()))

    def ours(self) -> dict[str, tuple[Any, ...]]:
        """All values of each field."""
        state = self.replica.db.get("c", "1")
        return {} if state is None else {cell.path[1:]: cell.values for cell in state.view.cells}


def run(world: Any, steps: list[tuple[Any, ...]]) -> None:
    pairs = [Pair(world.replica(name), number) for number, name in enumerate(("laptop", "phone", "tablet"), 1)]
    for value, (what, at, *rest) in enumerate(steps):
        match what:
            case "set":
                pairs[at].set(rest[0], value)
            case "receive":
                pairs[at].receive(pairs[rest[0]])
            case _:
                getattr(pairs[at], what)(*rest)
        world.clock_ms += 1
    for _ in range(2):
        for one in pairs:
            for other in pairs:
                one.receive(other)
    assert pairs[0].ours() == pairs[1].ours() == pairs[2].ours()
    ours, theirs = pairs[0].ours(), pairs[0].doc.get_deep_value()
    (total,) = ours.pop("n", (0,))
    assert total == theirs.get("n", 0)
    shown = theirs.get("m", {})
    assert shown.keys() <= ours.keys(), "a write that nobody has replaced is not there"
    assert all(shown[field] in ours[field] for field in shown)
    assert all(shown[field] == values[0] for field, values in ours.items() if field in shown and len(values) == 1)


@settings(max_examples=EXAMPLES, deadline=None)
@given(steps=STEPS)
def test_ours_holds_what_loro_shows(make_world: Callable[[Path, str], Any], steps: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        world = make_world(Path(name), "bank")
        try:
            run(world, steps)
        finally:
            world.close()

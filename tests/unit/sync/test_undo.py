"""Undo: the inverse operations against what a history would be without the transaction, and undo between replicas."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from identity.encoding import encode
from identity.errors import ConflictError, LimitExceeded, MalformedError, MissingEvidenceError
from ledger.values import Reference
from sync.cells import WRITES, CellKind, LiveDot, StoredOp, deaths
from sync.changes import Changes
from sync.storage.documents import count_increments
from sync.transaction import DocumentId, Dot, Op, Verb, path_text
from sync.undo import Footprint, Knowledge, Skipped, invert
from sync.view import View, make_view

DOCUMENT = DocumentId("accounts", "1")
_Entry = tuple[int, int]
_FEEDS = {branch: bytes([branch]) * 32 for branch in range(5)}

# --- a document on paper --------------------------------------------------------------------------------------------


@dataclass
class Paper:
    """One document, as a replica has it that takes everything in; entries say themselves what they had seen."""

    ops: list[StoredOp] = field(default_factory=list)
    pasts: dict[_Entry, dict[int, int]] = field(default_factory=dict)
    heads: dict[int, int] = field(default_factory=dict)

    def write(self, branch: int, ops: Sequence[Op], seen: dict[int, int] | None = None) -> _Entry:
        """An entry of a branch that had seen this, by default everything."""
        seq = self.heads.get(branch, -1) + 1
        past = dict(self.heads if seen is None else seen)
        self.pasts[branch, seq] = past
        for at, op in enumerate(ops):
            dot = LiveDot(len(self.ops) + 1, branch, seq, at, op.verb, path_text(op.path), encode(op.value))
            context = (
                None
                if op.context is None
                else frozenset((dot.entry.feed[0], dot.entry.index, dot.op) for dot in op.context)
            )
            self.ops.append(StoredOp(dot, context))
        self.heads[branch] = seq
        return (branch, seq)

    def past_of(self, branch: int, seq: int) -> dict[int, int]:
        return self.pasts[branch, seq]

    def live(self, without: Collection[_Entry] = ()) -> list[LiveDot]:
        ops = [one for one in self.ops if (one.dot.branch, one.dot.seq) not in without]
        dead = deaths(ops, self.past_of)
        return [one.dot for one in ops if one.dot.place not in dead]

    def view(self, without: Collection[_Entry] = ()) -> View:
        live = self.live(without)
        counters = count_increments(dot for dot in live if dot.verb is Verb.INC)
        return make_view((dot for dot in live if dot.verb is not Verb.INC), counters, _rank, self.past_of)

    def invert(self, *entries: _Entry, cancelled: Sequence[_Entry] = ()) -> tuple[list[Op], list[Skipped]]:
        """The inverse of entries, where others have cancelled each other out since."""
        own = [one for one in self.ops if one.dot.key[:2] in entries]
        both = {*entries, *cancelled}
        others = [one for one in self.ops if one.dot.key[:2] not in both]
        dead = deaths(self.ops, self.past_of)
        places = {one.dot.place for one in own}
        live = self.live()
        footprint = Footprint(
            DOCUMENT,
            own,
            [one for one in self.ops if one.dot.key[:2] in cancelled],
            [
                one.dot
                for one in self.ops
                if one.dot.verb in WRITES and dead.get(one.dot.place) in places - {one.dot.place}
            ],
            [one for one in others if one.dot.place > own[0].dot.place],
            [dot for dot in live if dot.verb is not Verb.INC],
            count_increments(dot for dot in live if dot.verb is Verb.INC),
        )
        footprint = replace(footprint, lost=[dot for dot in footprint.lost if dot.key[:2] not in entries])
        return invert(footprint, Knowledge(self.past_of, _rank, _name, lambda _: None))

    def undo(
        self, branch: int, *entries: _Entry, cancelled: Sequence[_Entry] = ()
    ) -> tuple[_Entry | None, list[Skipped]]:
        ops, skipped = self.invert(*entries, cancelled=cancelled)
        return (self.write(branch, ops) if ops else None), skipped


def _rank(dot: LiveDot) -> tuple[bool, int, bytes]:
    return (True, dot.place - dot.op, b"")


def _name(dot: LiveDot) -> Dot:
    return Dot(Reference(_FEEDS[dot.branch], dot.seq, bytes(32)), dot.op)


def _op(verb: Verb, path: tuple[str, ...], value: Any = None) -> Op:
    return Op(verb, DOCUMENT, path, value)


def _shown(view: View) -> dict[tuple[str, CellKind], Any]:
    """What a view says, whatever the order of siblings; a counter that counts nothing is none."""
    found: dict[tuple[str, CellKind], Any] = {_FLAG: view.deleted}
    for cell in view.cells:
        if cell.kind is CellKind.CTR and cell.values == (0,):
            continue
        found[cell.path, cell.kind] = Counter(map(encode, cell.values))
    return found


_FLAG = ("", CellKind.FLAG)


def _without(shown: dict[tuple[str, CellKind], Any], skipped: Sequence[Skipped]) -> dict[tuple[str, CellKind], Any]:
    return {key: value for key, value in shown.items() if key[0] not in {one.path for one in skipped}}


VALUES = st.integers(1, 3)
OPS = st.one_of(
    st.builds(_op, st.just(Verb.SET), st.sampled_from([("a",), ("m", "x")]), VALUES),
    st.builds(_op, st.just(Verb.INC), st.sampled_from([("n",), ("m", "n")]), VALUES),
    st.builds(_op, st.sampled_from([Verb.ADD, Verb.REM]), st.just(("s",)), VALUES),
    st.builds(_op, st.just(Verb.DEL), st.sampled_from([(), ("a",), ("m",), ("m", "x"), ("n",), ("s",), ("l",)])),
    st.builds(_op, st.just(Verb.HIDE), st.just(()), st.booleans()),
)
OPS_WITH_LWW = OPS | st.builds(_op, st.just(Verb.LWW), st.just(("l",)), VALUES)


def _histories(ops: Any) -> Any:
    return st.lists(
        st.tuples(st.integers(0, 2), st.lists(ops, min_size=1, max_size=3), st.booleans()), min_size=1, max_size=8
    )


HISTORIES = _histories(OPS_WITH_LWW)


def _write_all(entries: Sequence[tuple[int, list[Op], bool]]) -> tuple[Paper, list[_Entry]]:
    """Entries of three devices, each of which catches up when its flag says so, and else has seen what it had seen."""
    paper = Paper()
    seen: dict[int, dict[int, int]] = {branch: {} for branch in range(3)}
    written = []
    for branch, ops, catches_up in entries:
        if catches_up:
            seen[branch] = dict(paper.heads)
        written.append(paper.write(branch, ops, seen[branch]))
        seen[branch] = {**seen[branch], branch: paper.heads[branch]}
    return paper, written


@settings(max_examples=100, deadline=None)
@given(HISTORIES, st.data())
def test_what_is_taken_back_is_as_if_it_had_never_been(entries: Any, data: Any) -> None:
    paper, written = _write_all(entries)
    target = data.draw(st.sampled_from(written))
    without = _shown(paper.view({target}))
    _, skipped = paper.undo(3, target)
    after = _shown(paper.view())
    assert after.pop(_FLAG) <= without.pop(_FLAG)  # in doubt it is shown
    assert _without(after, skipped) == _without(without, skipped)


@settings(max_examples=60, deadline=None)
@given(HISTORIES, st.data())
def test_undo_never_replaces_what_somebody_else_wrote(entries: Any, data: Any) -> None:
    paper, written = _write_all(entries)
    target = data.draw(st.sampled_from(written))
    before = {dot.key for dot in paper.live()}
    paper.undo(3, target)
    replaced = before - {dot.key for dot in paper.live()}
    assert {key[:2] for key in replaced} <= {target}


@settings(max_examples=60, deadline=None)
@given(HISTORIES, st.data())
def test_redo_after_undo_shows_what_was_shown(entries: Any, data: Any) -> None:
    paper, written = _write_all(entries)
    target = data.draw(st.sampled_from(written))
    before = _shown(paper.view())
    undoing, _ = paper.undo(3, target)
    if undoing is not None:
        _, skipped = paper.undo(4, undoing)
        assert [one.path for one in skipped] in ([], [""])  # who deletes again has seen what was not hidden before
        assert _shown(paper.view()) == before


@settings(max_examples=60, deadline=None)
@given(_histories(OPS), st.data())  # of LWW values one that does not show is not put back
def test_one_after_the_other_is_as_if_neither_had_been(entries: Any, data: Any) -> None:
    paper, written = _write_all(entries)
    if len(written) < 2:
        return
    at = data.draw(st.integers(1, len(written) - 1))
    later, earlier = written[at], written[data.draw(st.integers(0, at - 1))]
    without = _shown(paper.view({later, earlier}))
    undoing, skipped = paper.undo(3, later)
    cancelled = [] if undoing is None else [later, undoing]
    _, further = paper.undo(4, earlier, cancelled=cancelled)
    if not skipped:
        shown = _shown(paper.view())
        assert shown.pop(_FLAG) <= without.pop(_FLAG) or further  # in doubt it is shown
        assert _without(shown, further) == _without(without, further)


@settings(max_examples=60, deadline=None)
@given(HISTORIES, st.data())
def test_undo_and_what_somebody_else_does_elsewhere_commute(entries: Any, data: Any) -> None:
    target = data.draw(st.integers(0, len(entries) - 1))
    elsewhere = [_op(Verb.SET, ("far",), 7), _op(Verb.INC, ("count",), 1)]
    shown = []
    for first in (True, False):
        paper, written = _write_all(entries)
        seen = dict(paper.heads)
        if first:
            paper.write(4, elsewhere, seen)
        paper.undo(3, written[target])
        if not first:
            paper.write(4, elsewhere, seen)
        shown.append(_shown(paper.view()))
    assert shown[0] == shown[1]


# --- one cell at a time ---------------------------------------------------------------------------------------------


def test_all_siblings_that_were_replaced_come_back_and_the_same_one_shows() -> None:
    paper = Paper()
    paper.write(0, [_op(Verb.SET, ("a",), 1)], {})
    paper.write(1, [_op(Verb.SET, ("a",), 2)], {})
    before = paper.view()
    target = paper.write(0, [_op(Verb.SET, ("a",), 3)])
    paper.undo(3, target)
    assert [cell.values for cell in paper.view().cells] == [cell.values for cell in before.cells] == [(2, 1)]


def test_a_deletion_that_was_put_back_hides_what_it_had_seen_and_no_more() -> None:
    """Whoever undoes an undeletion has seen everything, and the deletion that comes back by that had not."""
    paper = Paper()
    first = paper.write(0, [_op(Verb.SET, ("a",), 1)])
    emptied = paper.write(0, [_op(Verb.DEL, ())])
    paper.write(1, [_op(Verb.HIDE, (), True)], {})
    shown = paper.write(0, [_op(Verb.HIDE, (), False)])
    undoing, _ = paper.undo(3, shown)
    assert undoing is not None
    assert first in {dot.key[:2] for dot in paper.live({emptied})}
    paper.undo(4, emptied, cancelled=[shown, undoing])
    assert paper.view().exists


@pytest.mark.parametrize("seen", [False, True])
def test_of_two_deletions_that_were_put_back_as_one_each_is_taken_back_alone(seen: bool) -> None:
    """``seen``: whether the deletion that is left had seen the document that it is to hide."""
    paper = Paper()
    paper.write(0, [_op(Verb.SET, ("a",), 1)])
    deletion = paper.write(0, [_op(Verb.HIDE, (), True)])
    paper.write(1, [_op(Verb.HIDE, (), True)], {0: 0} if seen else {})
    shown = paper.write(0, [_op(Verb.HIDE, (), False)])
    undoing, _ = paper.undo(3, shown)
    assert undoing is not None
    assert paper.view().deleted
    paper.undo(4, deletion, cancelled=[shown, undoing])
    assert paper.view().deleted is seen


def test_what_was_replaced_twice_does_not_come_back() -> None:
    paper = Paper()
    base = paper.write(0, [_op(Verb.SET, ("a",), 1)])
    seen = dict([base])
    target = paper.write(0, [_op(Verb.SET, ("a",), 2)], seen)
    paper.write(1, [_op(Verb.SET, ("a",), 3)], seen)
    paper.undo(3, target)
    assert paper.view().fields == {"a": 3}


def test_a_cell_that_was_written_since_is_left_and_named() -> None:
    paper = Paper()
    target = paper.write(0, [_op(Verb.SET, ("a",), 1), _op(Verb.SET, ("b",), 1)])
    later = paper.write(1, [_op(Verb.SET, ("a",), 2)])
    _, (skipped,) = paper.undo(3, target)
    assert (skipped.path, skipped.reason) == ("/a", "it was written since")
    assert skipped.by == Reference(_FEEDS[later[0]], later[1], bytes(32))
    assert paper.view().fields == {"a": 2}


def test_a_removal_is_made_good_unless_something_is_there_again() -> None:
    paper = Paper()
    paper.write(0, [_op(Verb.SET, ("a",), 1), _op(Verb.SET, ("b",), 1), _op(Verb.ADD, ("s",), 1)])
    target = paper.write(0, [_op(Verb.DEL, ()), _op(Verb.SET, ("c",), 1)])
    paper.write(1, [_op(Verb.SET, ("b", "x"), 9)])
    _, (skipped,) = paper.undo(3, target)
    assert (skipped.path, skipped.reason) == ("/b", "something was written there since")
    assert paper.view().fields == {"a": 1, "b": {"x": 9}, "s": [1]}


def test_an_increment_is_balanced_and_a_counter_of_ours_alone_goes() -> None:
    paper = Paper()
    target = paper.write(0, [_op(Verb.INC, ("n",), 5), _op(Verb.INC, ("alone",), 5)])
    paper.write(1, [_op(Verb.INC, ("n",), 2)])
    paper.undo(3, target)
    assert paper.view().fields == {"n": 2}


def test_a_reset_counter_counts_again_what_it_had_lost() -> None:
    paper = Paper()
    paper.write(0, [_op(Verb.INC, ("n",), {"$dec": "9" * 18 + ".5"})])
    paper.write(1, [_op(Verb.INC, ("n",), {"$dec": "9" * 18 + ".5"})])
    shown: Any = paper.view().fields["n"]
    target = paper.write(0, [_op(Verb.DEL, ("n",))])
    paper.write(1, [_op(Verb.INC, ("n",), {"$dec": "1.0"})])
    ops, _ = paper.invert(target)
    assert len(ops) == 2  # the sum has more digits than one increment may have
    paper.undo(3, target)
    after: Any = paper.view().fields["n"]
    assert Decimal(after["$dec"]) == Decimal(shown["$dec"]) + 1


def test_an_lww_value_that_does_not_show_is_left() -> None:
    paper = Paper()
    paper.write(0, [_op(Verb.LWW, ("l",), 1)])
    seen = dict(paper.heads)
    target = paper.write(0, [_op(Verb.LWW, ("l",), 2)], seen)
    paper.write(1, [_op(Verb.LWW, ("l",), 3)], seen)
    undoing, (skipped,) = paper.undo(3, target)
    assert undoing is None
    assert skipped.reason == "another value shows there"


def test_what_breaks_the_schema_is_left_as_a_whole() -> None:
    paper = Paper()
    paper.write(0, [_op(Verb.SET, ("a",), 1)])
    own = paper.write(0, [_op(Verb.SET, ("a",), 2)])
    found = [one for one in paper.ops if (one.dot.branch, one.dot.seq) == own]
    footprint = Footprint(DOCUMENT, found, [], [paper.ops[0].dot], [], paper.live(), [])
    ops, (skipped,) = invert(footprint, Knowledge(paper.past_of, _rank, _name, lambda _: "/a: is text"))
    assert ops == []
    assert skipped.reason == "it does not fit the schema any more: /a: is text"


def test_a_thousand_dots_take_several_operations() -> None:
    paper = Paper()
    own = paper.write(
        0, [_op(Verb.SET, ("a",), 0), *(_op(Verb.SET, ("a",), n)._replace(context=()) for n in range(1, 1100))]
    )
    ops, _ = paper.invert(own)
    assert [(op.verb, len(op.context or ())) for op in ops] == [(Verb.DEL, 1000), (Verb.DEL, 100)]


# --- with replicas --------------------------------------------------------------------------------------------------


def _change(replica: Any, **fields: object) -> Reference:
    changes = Changes()
    changes.patch("accounts", "1", fields)
    return _reference(replica.db.commit(changes))


def _increment(replica: Any, by: int) -> Reference:
    changes = Changes()
    changes.increment("accounts", "1", "visits", by)
    return _reference(replica.db.commit(changes))


def _reference(commit: Any) -> Reference:
    assert isinstance(commit.reference, Reference)
    return commit.reference


def test_undo_and_redo_over_and_over(world: Any) -> None:
    laptop = world.replica("laptop")
    _change(laptop, owner="A")
    changes = Changes()
    changes.patch("accounts", "1", {"owner": "B"})
    changes.increment("accounts", "1", "visits", 2)
    changes.add("accounts", "1", "labels", "x")
    target = _reference(laptop.db.commit(changes))
    without, full = {"owner": "A"}, {"owner": "B", "visits": 2, "labels": ["x"]}
    for _ in range(3):
        undone = laptop.db.undo(target, note="a mistake")
        assert undone.skipped == ()
        assert laptop.fields("accounts", "1") == without
        entry = laptop.db.entry(undone.commit.reference)
        assert (entry.undoes, entry.note) == ((target,), "a mistake")
        with pytest.raises(ConflictError, match="undone already"):
            laptop.db.undo(target)
        laptop.db.redo(target)
        assert laptop.fields("accounts", "1") == full
        with pytest.raises(ConflictError, match="not undone"):
            laptop.db.redo(target)


def test_undo_goes_back_step_by_step(world: Any) -> None:
    laptop = world.replica("laptop")
    steps = [laptop.put("accounts", "1", owner=name, n=at).reference for at, name in enumerate("ABC")]
    visits = _increment(laptop, 5)
    for reference in (visits, steps[2], steps[1]):
        assert laptop.db.undo(reference).skipped == ()
    assert laptop.fields("accounts", "1") == {"owner": "A", "n": 0}
    assert laptop.db.undo(steps[0]).skipped == ()
    assert laptop.db.get("accounts", "1") is None
    for reference in (*steps, visits):
        assert laptop.db.redo(reference).skipped == ()
    assert laptop.fields("accounts", "1") == {"owner": "C", "n": 2, "visits": 5}


def test_several_transactions_at_once(world: Any) -> None:
    laptop = world.replica("laptop")
    _change(laptop, owner="A")
    first, second = _change(laptop, owner="B"), _change(laptop, owner="C")
    assert len(laptop.db.undo(first).skipped) == 1
    undone = laptop.db.undo(first, second)
    assert undone.skipped == ()
    assert laptop.fields("accounts", "1") == {"owner": "A"}
    laptop.db.redo(first, second)
    assert laptop.fields("accounts", "1") == {"owner": "C"}
    with pytest.raises(ConflictError, match="together with"):
        laptop.db.undo(second)
    laptop.db.undo(second, first)
    assert laptop.fields("accounts", "1") == {"owner": "A"}


def test_a_put_that_made_a_document_goes_without_a_trace_in_it(world: Any) -> None:
    laptop = world.replica("laptop")
    made = laptop.put("accounts", "1", owner="A")
    laptop.db.undo(made.reference)
    assert laptop.db.get("accounts", "1") is None
    assert laptop.put("accounts", "1", owner="A").etags != made.etags


def test_a_deletion_is_undone_and_done_again(world: Any) -> None:
    laptop = world.replica("laptop")
    laptop.put("accounts", "1", owner="A")
    changes = Changes()
    changes.delete("accounts", "1")
    gone = _reference(laptop.db.commit(changes))
    laptop.db.undo(gone)
    assert laptop.fields("accounts", "1") == {"owner": "A"}
    laptop.db.redo(gone)
    assert laptop.fields("accounts", "1") is None


def test_what_cannot_be_undone(world: Any) -> None:
    laptop = world.replica("laptop")
    commit = laptop.put("accounts", "1", owner="A")
    with pytest.raises(MalformedError):
        laptop.db.undo()
    with pytest.raises(MissingEvidenceError):
        laptop.db.undo(Reference(bytes(32), 0, bytes(32)))
    with pytest.raises(MissingEvidenceError):
        laptop.db.undo(Reference(commit.reference.feed, commit.reference.index, bytes(32)))
    with pytest.raises(MalformedError, match="only transactions"):
        laptop.db.undo(_founding(laptop))


def _founding(replica: Any) -> Reference:
    with replica.db.read() as reader:
        (branch,) = reader.branches
        facts = reader.branches.facts(branch.id, branch.first_seq)
        found = reader.branches.reference(facts)
        assert isinstance(found, Reference)
        return found


def test_more_than_a_transaction_holds(world: Any) -> None:
    laptop = world.replica("laptop")
    for part in range(2):
        changes = Changes()
        for number in range(2100):
            changes.do(Op(Verb.SET, DOCUMENT, (f"f{part}-{number}",), number))
        laptop.db.commit(changes)
    changes = Changes()
    changes.do(Op(Verb.DEL, DOCUMENT, (), None))
    emptied = _reference(laptop.db.commit(changes))
    with pytest.raises(LimitExceeded, match="4200 operations"):
        laptop.db.undo(emptied)


def test_a_schema_that_has_changed_is_respected(world: Any) -> None:
    laptop = world.replica("laptop")
    laptop.put("accounts", "1", owner="A", n=1)
    target = _change(laptop, owner=7, n=2)
    changes = Changes()
    schema: Any = {"type": "object", "properties": {"owner": {"type": "integer"}}}
    changes.do(Op(Verb.SET, DocumentId("$schema", "accounts"), ("schema",), schema))
    laptop.db.commit(changes)
    (skipped,) = laptop.db.undo(target).skipped
    assert skipped.path == "/owner"
    assert "does not fit the schema" in skipped.reason
    assert laptop.fields("accounts", "1") == {"owner": 7, "n": 1}


def test_two_devices_undo_the_same_and_agree(world: Any) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    _change(laptop, owner="A")
    target = _change(laptop, owner="B")
    world.exchange()
    for replica in (laptop, phone):
        replica.db.undo(target)
    world.exchange()
    states = [replica.db.get("accounts", "1") for replica in (laptop, phone)]
    assert states[0].etag == states[1].etag
    assert states[0].view.fields == {"owner": "A"}
    assert states[0].view.conflicts == ()
    laptop.db.redo(target)
    world.exchange()
    assert phone.fields("accounts", "1") == {"owner": "B"}


def test_what_another_device_wrote_meanwhile_stays(world: Any) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    _change(laptop, owner="A")
    target = _change(laptop, owner="B", n=1)
    world.exchange()
    _change(phone, owner="C")
    laptop.db.undo(target)
    world.exchange()
    states = [replica.db.get("accounts", "1") for replica in (laptop, phone)]
    assert states[0].etag == states[1].etag
    owner = next(cell for cell in states[0].view.cells if cell.path == "/owner")
    assert sorted(owner.values) == ["A", "C"]


def test_an_undo_that_a_replica_learns_late_counts_as_one(world: Any) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    target = _increment(laptop, 5)
    _increment(laptop, 1)
    world.exchange()
    laptop.db.undo(target)
    phone.receive(laptop)
    with pytest.raises(ConflictError, match="undone already"):
        phone.db.undo(target)
    phone.db.redo(target)
    world.exchange()
    assert laptop.fields("accounts", "1") == phone.fields("accounts", "1") == {"visits": 6}


STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "inc", "add", "undo", "redo", "sync"]), st.integers(0, 9)), max_size=12
)


def test_replicas_agree_after_undos(world: Any) -> None:
    replicas = [world.replica("laptop"), world.replica("phone")]
    keys = itertools.count()

    @settings(max_examples=8, deadline=None)
    @given(STEPS)
    def run(steps: Any) -> None:
        key = str(next(keys))
        known: list[Reference] = []
        for at, (what, number) in enumerate(steps):
            _step(replicas[at % 2], key, what, number, known)
            if what == "sync":
                world.exchange()
        world.exchange()
        states = [replica.db.get("accounts", key) for replica in replicas]
        assert len({None if state is None else state.etag for state in states}) == 1

    run()


def _step(replica: Any, key: str, what: str, number: int, known: list[Reference]) -> None:
    changes = Changes()
    if what == "put":
        changes.patch("accounts", key, {"a": number})
    elif what == "inc":
        changes.increment("accounts", key, "n", number)
    elif what == "add":
        changes.add("accounts", key, "s", number % 3)
    if changes:
        commit = replica.db.commit(changes)
        known += [] if commit.reference is None else [commit.reference]
    elif what != "sync" and known:
        try:
            done = (replica.db.undo if what == "undo" else replica.db.redo)(known[number % len(known)])
        except (ConflictError, MissingEvidenceError):
            return
        if done.commit.reference is not None:
            known.append(done.commit.reference)

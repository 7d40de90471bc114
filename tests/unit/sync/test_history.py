"""The history of a document, what differs between cuts, restoring, and conflicts until they are decided."""

from __future__ import annotations

import itertools
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from identity.errors import ConflictError, LimitExceeded, MalformedError, MissingEvidenceError
from identity.history import RevocationReason, build_revoke_device, fold
from ledger.identities import add_events
from ledger.values import Reference, parse_reference_text, reference_text
from sync.cells import CellKind
from sync.changes import Changes, MissingDocument, StaleVersion
from sync.difference import CellChange, Shown, differences, restoring
from sync.storage.restoring import Restoration
from sync.transaction import DocumentId, Op, Verb
from sync.view import Cell, View

DOCUMENT = DocumentId("accounts", "1")


def _commit(replica: Any, note: str = "", **fields: object) -> Any:
    changes = Changes(note=note)
    changes.patch("accounts", "1", fields)
    return replica.db.commit(changes)


def _do(replica: Any, *ops: tuple[Verb, tuple[str, ...], Any], key: str = "1") -> Any:
    changes = Changes()
    for verb, path, value in ops:
        changes.do(Op(verb, DocumentId("accounts", key), path, value))
    return replica.db.commit(changes)


# --- the text form of references ------------------------------------------------------------------------------------


def test_a_reference_has_one_text() -> None:
    reference = Reference(bytes(range(32)), 7, bytes(32))
    text = reference_text(reference)
    assert parse_reference_text(text) == reference
    for wrong in (
        "",
        text + " ",
        text.upper(),
        text.replace("/7/", "/07/"),
        text.replace("/7/", "/-7/"),
        text.replace("/", ":"),
        text[:-1],
        text.replace("/7/", "/" + "9" * 40 + "/"),
        text.replace("/7/", "/9223372036854775807/"),
        "x" * 10_000,
    ):
        with pytest.raises(MalformedError):
            parse_reference_text(wrong)


# --- history --------------------------------------------------------------------------------------------------------


def test_each_transaction_with_what_it_changed(world: Any) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    first = _commit(laptop, "begun", owner="A")
    world.exchange()
    _do(phone, (Verb.INC, ("n",), 2), (Verb.ADD, ("s",), "x"), (Verb.ADD, ("s",), "y"))
    world.exchange()
    _do(laptop, (Verb.INC, ("n",), 3), (Verb.REM, ("s",), "x"), (Verb.DEL, ("owner",), None))
    found = list(laptop.db.history("accounts", "1"))
    assert [[(one.path, one.before, one.after) for one in entry.changes] for entry in found] == [
        [("/owner", (), ("A",))],
        [("/n", (), (2,)), ("/s", (), ("x", "y"))],
        [("/n", (2,), (5,)), ("/owner", ("A",), ()), ("/s", ("x",), ())],
    ]
    assert found[2].changes[0].difference == 3
    assert [entry.entry.note for entry in found] == ["begun", "", ""]
    assert found[0].entry.reference == first.reference
    assert [entry.entry.author.device for entry in found] == [
        laptop.device.public_key,
        phone.device.public_key,
        laptop.device.public_key,
    ]
    assert found[1].entry.author.identity == world.identity
    assert [op.verb for op in found[1].ops] == [Verb.INC, Verb.ADD, Verb.ADD]
    assert all(entry.entry.masked is None for entry in found)
    assert list(laptop.db.history("accounts", "never")) == []


def test_of_one_cell(world: Any) -> None:
    laptop = world.replica("laptop")
    _commit(laptop, owner="A", n=1)
    _commit(laptop, n=2)
    _do(laptop, (Verb.SET, ("m", "x"), 1))
    _do(laptop, (Verb.DEL, (), None))
    found = list(laptop.db.history("accounts", "1", ("owner",)))
    assert [[(one.before, one.after) for one in entry.changes] for entry in found] == [[((), ("A",))], [(("A",), ())]]
    assert [entry.ops[0].verb for entry in found] == [Verb.SET, Verb.DEL]
    assert [one.path for entry in laptop.db.history("accounts", "1", ("m",)) for one in entry.changes] == ["/m/x"] * 2


def test_a_deletion_is_a_change_and_siblings_show(world: Any) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    _commit(laptop, owner="A")
    world.exchange()
    _commit(laptop, owner="B")
    _commit(phone, owner="C")
    world.exchange()
    changes = Changes()
    changes.delete("accounts", "1")
    laptop.db.commit(changes)
    (*_, merged, deleted) = laptop.db.history("accounts", "1")
    (change,) = merged.changes
    assert (change.before, sorted(change.after)) == (("B",), ["B", "C"])
    assert deleted.changes == (CellChange("", CellKind.FLAG, (False,), (True,)),)


def _revoke(world: Any, victim: Any, teller: Any) -> None:
    """The owner ends a device for all that it wrote, and another device tells the database."""
    event = build_revoke_device(
        fold(world.events),
        device=victim.device.public_key,
        last_good={},
        reason=RevocationReason.STOLEN,
        time_ms=1_000,
    )
    world.events.append(world.sign(event, world.root))
    with teller.store.write() as tx:
        add_events(tx, world.identity, world.events)
    teller.db.introduce()


def test_what_has_no_effect_any_more_is_shown_with_the_reason(world: Any) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    _commit(laptop, owner="A")
    world.exchange()
    stolen = _commit(phone, owner="B")
    laptop.receive(phone)
    cut = laptop.db.as_of(place=10**9)
    assert laptop.fields("accounts", "1") == {"owner": "B"}
    _revoke(world, phone, laptop)
    assert laptop.fields("accounts", "1") == {"owner": "A"}
    first, second = laptop.db.history("accounts", "1")
    assert (first.entry.masked, second.entry.masked) == (None, "it was revoked or dismissed")
    assert second.changes == ()
    assert [op.value for op in second.ops] == ["B"]
    with pytest.raises(ConflictError, match="revoked"):
        laptop.db.undo(stolen.reference)
    (difference,) = laptop.db.diff(cut)
    assert [(one.before, one.after) for one in difference.changes] == [(("B",), ("A",))]
    laptop.db.restore(cut)
    assert laptop.fields("accounts", "1") == {"owner": "B"}


def test_an_undo_by_somebody_revoked_is_none(world: Any) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    _commit(laptop, owner="A")
    target = _commit(laptop, owner="B")
    world.exchange()
    phone.db.undo(target.reference)
    laptop.receive(phone)
    with pytest.raises(ConflictError, match="undone already"):
        laptop.db.undo(target.reference)
    _revoke(world, phone, laptop)
    assert laptop.fields("accounts", "1") == {"owner": "B"}
    laptop.db.undo(target.reference)
    assert laptop.fields("accounts", "1") == {"owner": "A"}


def test_an_entry_is_found_by_its_reference(world: Any) -> None:
    laptop = world.replica("laptop")
    commit = _commit(laptop, "hello", owner="A")
    entry = laptop.db.entry(commit.reference)
    assert (entry.kind, entry.note, entry.taken_ms) == ("txn", "hello", world.clock_ms)
    with pytest.raises(MissingEvidenceError):
        laptop.db.entry(Reference(bytes(32), 0, bytes(32)))


PATHS = st.sampled_from([("a",), ("m", "x"), ("m", "y")])
OPS = st.one_of(
    st.tuples(st.just(Verb.SET), PATHS, st.integers(0, 2)),
    st.tuples(st.just(Verb.LWW), st.just(("l",)), st.integers(0, 2)),
    st.tuples(st.just(Verb.INC), st.just(("n",)), st.sampled_from([1, 2, {"$dec": "0.5"}])),
    st.tuples(st.sampled_from([Verb.ADD, Verb.REM]), st.just(("s",)), st.integers(0, 2)),
    st.tuples(st.just(Verb.DEL), st.sampled_from([(), ("a",), ("m",), ("n",), ("s",), ("l",)]), st.none()),
    st.tuples(st.just(Verb.HIDE), st.just(()), st.booleans()),
)
STEPS = st.lists(st.tuples(st.integers(0, 1), st.lists(OPS, min_size=1, max_size=3), st.booleans()), max_size=6)


def _cells(state: Any) -> Any:
    """What a document shows, in every detail."""
    if state is None:
        return None
    return state.view.deleted, [(cell.path, cell.kind, cell.values) for cell in state.view.cells]


def test_every_point_of_a_history_is_what_a_reader_found_then(world: Any) -> None:
    """History, as of a place, differences and restoring, on random histories of two replicas."""
    replicas = [world.replica("laptop"), world.replica("phone")]
    keys = itertools.count()

    @settings(max_examples=8, deadline=None)
    @given(STEPS)
    def run(steps: Any) -> None:
        key = str(next(keys))
        seen = []
        for number, ops, exchanges in steps:
            commit = _do(replicas[number], *ops, key=key)
            if number == 0:
                seen.append((commit.place, replicas[0].db.get("accounts", key)))
            if exchanges:
                world.exchange()
        world.exchange()
        laptop = replicas[0].db
        for place, state in seen:
            there = laptop.get("accounts", key, laptop.as_of(place=place))
            assert _cells(there) == _cells(state)
        assert _replayed(laptop, key) == _registers(laptop, key)
        for place, state in seen[:2]:
            laptop.restore(laptop.as_of(place=place), "accounts", key)
            assert _cells(laptop.get("accounts", key)) == _cells(state)
            assert list(laptop.diff(laptop.as_of(place=place), None, "accounts", key)) == []
        world.exchange()
        etags = {None if state is None else state.etag for state in (one.db.get("accounts", key) for one in replicas)}
        assert len(etags) == 1

    run()


def _replayed(database: Any, key: str) -> Any:
    """The cells that a history leads to, change by change."""
    found: dict[Any, Any] = {}
    for entry in database.history("accounts", key):
        for change in entry.changes:
            if change.kind is CellKind.SET:
                kept = [value for value in found.get((change.path, change.kind), ()) if value not in change.before]
                found[change.path, change.kind] = tuple(sorted([*kept, *change.after]))
            else:
                found[change.path, change.kind] = change.after
    return {name: values for name, values in found.items() if values and name[1] is not CellKind.FLAG}


def _registers(database: Any, key: str) -> Any:
    with database.read() as reader:
        state = reader.document(DocumentId("accounts", key))
    return {} if state is None else {(cell.path, cell.kind): cell.values for cell in state.view.cells}


# --- differences and restoring --------------------------------------------------------------------------------------


def test_differences_of_a_whole_database(world: Any) -> None:
    laptop = world.replica("laptop")
    laptop.put("accounts", "1", owner="A", n=1)
    laptop.put("accounts", "2", owner="B")
    laptop.put("people", "3", name="C")
    before = laptop.db.as_of(place=laptop.put("accounts", "4", owner="D").place)
    laptop.put("accounts", "1", owner="A", n=2)
    laptop.put("people", "3", name="E")
    laptop.put("people", "5", name="F")
    laptop.put("accounts", "2", owner="X")
    laptop.put("accounts", "2", owner="B")
    found = {str(one.name): [(c.path, c.before, c.after) for c in one.changes] for one in laptop.db.diff(before)}
    assert found == {
        "accounts/1": [("/n", (1,), (2,))],
        "people/3": [("/name", ("C",), ("E",))],
        "people/5": [("/name", (), ("F",))],
    }
    assert [str(one.name) for one in laptop.db.diff(before, None, "accounts")] == ["accounts/1"]
    assert [str(one.name) for one in laptop.db.diff(before, None, "people", "5")] == ["people/5"]
    assert list(laptop.db.diff(before, before)) == []
    (back,) = laptop.db.diff(laptop.db.as_of(place=10_000), before, "people", "5")
    assert (back.after, back.changes[0].after) == (None, ())


def test_true_is_not_one() -> None:
    one, true = (View((Cell("/a", CellKind.REG, (value,), ()),), deleted=False) for value in (1, True))
    assert differences(one, true) == [CellChange("/a", CellKind.REG, (1,), (True,))]
    assert differences(one, one) == []


def test_restoring_a_database_is_one_transaction_and_can_be_undone(world: Any) -> None:
    laptop = world.replica("laptop")
    for key in "123":
        laptop.put("accounts", key, owner=key, balance=Decimal("1.50"))
    cut = laptop.db.as_of(place=laptop.put("people", "x", name="X").place)
    laptop.put("accounts", "1", owner="changed")
    laptop.put("accounts", "4", owner="new")
    changes = Changes()
    changes.delete("accounts", "2")
    changes.unset("people", "x", "name")
    laptop.db.commit(changes)
    after = {key: laptop.fields("accounts", key) for key in "1234"}
    restored = laptop.db.restore(cut, note="as it was")
    (commit,) = restored.commits
    assert list(laptop.db.diff(cut)) == []
    assert laptop.fields("accounts", "2") == {"owner": "2", "balance": {"$dec": "1.50"}}
    assert laptop.fields("accounts", "4") is None
    assert laptop.db.entry(commit.reference).note == "as it was"
    assert laptop.db.restore(cut).commits == ()
    laptop.db.undo(commit.reference)
    assert {key: laptop.fields("accounts", key) for key in "1234"} == after


def test_restoring_leaves_schemas_unless_they_are_named(world: Any) -> None:
    laptop = world.replica("laptop")
    cut = laptop.db.as_of(place=laptop.put("accounts", "1", owner="A").place)
    changes = Changes()
    schema: Any = {"type": "object", "properties": {"owner": {"type": "string"}}}
    changes.do(Op(Verb.SET, DocumentId("$schema", "accounts"), ("schema",), schema))
    laptop.db.commit(changes)
    assert laptop.db.restore(cut).commits == ()
    assert len(laptop.db.restore(cut, "$schema").commits) == 1
    with laptop.db.read() as reader:
        assert reader.schema("accounts") is None


def _filled(world: Any) -> tuple[Any, Any]:
    """A replica whose three documents were emptied, and the cut at which they had 1,500 fields each."""
    laptop = world.replica("laptop")
    for key in "123":
        _do(laptop, *((Verb.SET, (f"f{number}",), number) for number in range(1500)), key=key)
    cut = laptop.db.as_of(place=_do(laptop, (Verb.SET, ("owner",), "A"), key="4").place)
    _commit(laptop, owner="B")
    for key in "1234":
        _do(laptop, (Verb.DEL, (), None), key=key)
    return laptop, cut


def test_restoring_more_than_a_transaction_holds(world: Any) -> None:
    laptop, cut = _filled(world)
    with pytest.raises(LimitExceeded, match="one transaction"):
        laptop.db.restore(cut)
    restored = laptop.db.restore(cut, note="back", several=True)
    assert (len(restored.commits), restored.left) == (2, ())
    assert list(laptop.db.diff(cut)) == []
    notes = [[entry.entry.note for entry in laptop.db.history("accounts", key)][-1] for key in "1234"]
    assert notes == ["back", "back", "back, part 2", "back, part 2"]


def test_what_is_changed_between_two_parts_is_left_and_named(world: Any) -> None:
    laptop, cut = _filled(world)
    restoration = Restoration(cut, several=True)
    parts = 0
    while not restoration.is_done:
        laptop.db.write(restoration.make)
        restoration.advance()
        parts += 1
        if parts == 1:
            _do(laptop, (Verb.SET, ("owner",), "C"), key="4")
    assert parts == 2
    assert restoration.left == [DocumentId("accounts", "4")]
    assert laptop.fields("accounts", "4") == {"owner": "C"}
    assert len(laptop.fields("accounts", "3")) == 1500


def test_a_document_that_alone_is_too_much(world: Any) -> None:
    laptop = world.replica("laptop")
    for part in range(3):
        _do(laptop, *((Verb.SET, (f"f{part}-{number}",), number) for number in range(2000)))
    cut = laptop.db.as_of(place=10**9)
    _do(laptop, (Verb.DEL, (), None))
    with pytest.raises(LimitExceeded):
        laptop.db.restore(cut, several=True)


def test_restoring_past_an_edit_that_a_deletion_had_not_seen_does_not_hide_the_document(world: Any) -> None:
    laptop, phone = _apart(world)
    cut = laptop.db.as_of(place=10**9)
    laptop.db.delete("accounts", "1")
    _commit(phone, limit=2)
    world.exchange()
    assert laptop.fields("accounts", "1") == {"owner": "A", "n": 1, "limit": 2}
    laptop.db.restore(cut, "accounts", "1")
    assert laptop.fields("accounts", "1") == {"owner": "A", "n": 1}
    assert list(laptop.db.diff(cut)) == []


def test_restoring_a_counter_counts_from_anew_when_it_had_fewer_places() -> None:
    def counter(value: Any) -> View:
        return View((Cell("/n", CellKind.CTR, (value,), ()),), deleted=False)

    def lead(now: Any, then: Any) -> list[tuple[Verb, Any]]:
        shown = Shown(DOCUMENT, counter(now), ())
        ops = restoring(shown, then and counter(then), lambda dot: pytest.fail("no dot is named"))
        return [(op.verb, op.value) for op in ops]

    assert lead(12, 15) == [(Verb.INC, 3)]
    assert lead(12, {"$dec": "12.50"}) == [(Verb.INC, {"$dec": "0.50"})]
    assert lead({"$dec": "12.50"}, 12) == [(Verb.DEL, None), (Verb.INC, 12)]
    assert lead(12, None) == [(Verb.DEL, None)]
    assert lead(12, 12) == []
    assert lead(0, 2 * 10**18) == [(Verb.INC, 10**18 - 1), (Verb.INC, 10**18 - 1), (Verb.INC, 2)]
    with pytest.raises(LimitExceeded):
        lead(0, {"$dec": "9" * 30})


# --- conflicts ------------------------------------------------------------------------------------------------------


def _apart(world: Any) -> tuple[Any, Any]:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    _commit(laptop, owner="A", n=1)
    world.exchange()
    return laptop, phone


def test_siblings_are_listed_until_they_are_decided(world: Any) -> None:
    laptop, phone = _apart(world)
    _commit(laptop, owner="B")
    _commit(phone, owner="C")
    world.exchange()
    for replica in (laptop, phone):
        (found,) = replica.db.conflicts()
        assert found.name == DOCUMENT
        assert [(one.kind, one.path) for one in found.conflicts] == [("siblings", "/owner")]
    assert list(laptop.db.conflicts("people")) == []
    with pytest.raises(StaleVersion):
        laptop.db.resolve("accounts", "1", if_match="1.other")
    laptop.db.resolve("accounts", "1", if_match=found.state.etag, choose={"owner": "D"}, note="decided")
    world.exchange()
    assert list(phone.db.conflicts()) == []
    assert phone.fields("accounts", "1") == {"owner": "D", "n": 1}


@pytest.mark.parametrize("keeps", [True, False])
def test_all_values_are_kept_or_the_one_that_shows(world: Any, keeps: bool) -> None:
    laptop, phone = _apart(world)
    _commit(laptop, owner="B")
    _commit(phone, owner="C")
    world.exchange()
    (found,) = laptop.db.conflicts()
    (values,) = [cell.values for cell in found.state.view.cells if cell.path == "/owner"]
    laptop.db.resolve("accounts", "1", if_match=found.state.etag, keep_all=["owner"] if keeps else [])
    assert list(laptop.db.conflicts()) == []
    assert laptop.fields("accounts", "1")["owner"] == (list(values) if keeps else values[0])


def test_kinds_that_clash_are_reduced_to_what_shows(world: Any) -> None:
    laptop, phone = _apart(world)
    _do(laptop, (Verb.SET, ("x",), None), (Verb.INC, ("y",), 2), (Verb.ADD, ("z",), 1), (Verb.ADD, ("z",), 2))
    _do(phone, (Verb.SET, ("x", "deep"), 1), (Verb.SET, ("y",), 7), (Verb.SET, ("z", "deep"), 7))
    world.exchange()
    (found,) = laptop.db.conflicts()
    assert {one.path for one in found.conflicts} == {"/x/deep", "/y", "/z/deep"}
    shown = laptop.fields("accounts", "1")
    laptop.db.resolve("accounts", "1", if_match=found.state.etag)
    assert list(laptop.db.conflicts()) == []
    assert laptop.fields("accounts", "1") == shown


def test_a_deletion_and_an_edit_that_met_are_decided_for_the_edit(world: Any) -> None:
    laptop, phone = _apart(world)
    changes = Changes()
    changes.delete("accounts", "1")
    laptop.db.commit(changes)
    _commit(phone, n=2)
    world.exchange()
    (found,) = phone.db.conflicts()
    assert [one.kind for one in found.conflicts] == ["deleted-and-edited"]
    phone.db.resolve("accounts", "1", if_match=found.state.etag)
    assert list(phone.db.conflicts()) == []
    world.exchange()
    assert laptop.fields("accounts", "1") == {"owner": "A", "n": 2}


def test_a_condition_that_was_broken_is_open_until_somebody_writes_who_saw_both(world: Any) -> None:
    laptop, phone = _apart(world)
    etag = laptop.db.get("accounts", "1").etag
    changes = Changes()
    changes.patch("accounts", "1", {"owner": "B"}, if_match=etag)
    guarded = laptop.db.commit(changes)
    other = _commit(phone, n=2)
    _commit(phone, n=3)  # had not seen the condition, and settles nothing
    world.exchange()
    for replica in (laptop, phone):
        (found,) = replica.db.conflicts()
        assert found.conflicts == ()
        assert {one.guarded for one in found.contests} == {guarded.reference}
        assert other.reference in {one.other for one in found.contests}
        assert len(found.contests) == 2
    laptop.db.resolve("accounts", "1", if_match=found.state.etag)
    assert list(laptop.db.conflicts()) == []
    assert len(list(phone.db.conflicts())) == 1
    world.exchange()
    assert list(phone.db.conflicts()) == []
    assert phone.fields("accounts", "1") == {"owner": "B", "n": 3}


def test_what_cannot_be_chosen(world: Any) -> None:
    laptop = world.replica("laptop")
    _do(laptop, (Verb.INC, ("n",), 1), (Verb.SET, ("a",), 1))
    etag = laptop.db.get("accounts", "1").etag
    for wrong in ({"choose": {"n": 3}}, {"keep_all": ["n"]}, {"keep_all": ["none"]}):
        with pytest.raises(MalformedError):
            laptop.db.resolve("accounts", "1", if_match=etag, **wrong)
    changes = Changes()
    changes.accept("accounts", "never")
    with pytest.raises(MissingDocument):
        laptop.db.commit(changes)


def test_history_is_the_same_in_pieces(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a piece ends within a transaction."""
    laptop = world.replica("laptop")
    for value in range(4):
        laptop.put("c", "1", x=value, y=value, z=value)
    whole = list(laptop.db.history("c", "1"))
    monkeypatch.setattr("sync.history._ROWS_AT_FIRST", 1)
    monkeypatch.setattr("sync.history._ROWS_A_TIME", 5)
    assert list(laptop.db.history("c", "1")) == whole
    assert [len(one.changes) for one in whole] == [3, 3, 3, 3]

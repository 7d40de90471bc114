"""Trash, purges, holds and erasure: what is kept, what goes, and who may let it go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from identity.errors import MalformedError, RefusedError
from ledger.entry import Entry, encode_entry
from ledger.feed import FeedWriter
from ledger.merkle import leaf_node
from ledger.values import Reference, Sealed, sealed_value, to_python
from sync.acts import Admit, MemberEntry, Role
from sync.changes import Changes, MissingDocument, PurgedDocument
from sync.retention import (
    RETENTION_MS,
    Hold,
    erase,
    holds,
    place_hold,
    purge,
    release_hold,
    settle_erasures,
    trash,
)
from sync.storage.projection import KIND_NUMBER
from sync.transaction import (
    ERASE,
    MAX_KIDS,
    DocumentId,
    Erasure,
    Op,
    Stamp,
    Transaction,
    Verb,
    erasure_entry,
    transaction_entry,
)

ACCOUNT = DocumentId("accounts", "1")
SCHEMA = {"type": "object", "properties": {"phone": {"type": "text", "sealed": True}}}


def delete(replica: Any, document: DocumentId = ACCOUNT) -> Any:
    changes = Changes()
    changes.delete(*document)
    return replica.db.commit(changes)


def in_trash(replica: Any) -> dict[str, str]:
    with replica.db.read() as reader:
        return {str(one.document): one.keeps for one in trash(reader, replica.world.clock_ms)}


def with_schema(replica: Any) -> None:
    changes = Changes()
    changes.put("$schema", "accounts", {"schema": SCHEMA})
    replica.db.commit(changes)


def test_the_trash_says_how_long_and_why(world: Any) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    laptop.put("accounts", "1", owner="A")
    world.exchange()
    phone.put("accounts", "2", owner="B")
    world.exchange()
    delete(laptop)
    assert in_trash(laptop) == {"accounts/1": "deleted 0 days ago"}
    with pytest.raises(RefusedError, match="0 days ago"):
        purge(laptop.db, [ACCOUNT])
    world.clock_ms += RETENTION_MS
    assert in_trash(laptop) == {"accounts/1": "not every device has seen the deletion"}
    world.exchange()
    phone.put("accounts", "3", owner="C")
    world.exchange()
    assert in_trash(laptop) == {"accounts/1": ""}


def test_a_purge_is_for_good_everywhere(world: Any) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    laptop.put("accounts", "1", owner="A")
    delete(laptop)
    world.exchange()
    phone.put("accounts", "2", owner="B")
    world.exchange()
    world.clock_ms += RETENTION_MS
    phone.put("accounts", "1", owner="written apart")
    purge(laptop.db, [ACCOUNT])
    world.exchange()
    states = []
    for replica in (laptop, phone):
        with replica.db.read() as reader:
            states.append(reader.document(ACCOUNT))
        assert replica.fields("accounts", "1") is None
        assert in_trash(replica) == {}
        with pytest.raises(PurgedDocument):
            replica.put("accounts", "1", owner="again")
    assert states[0].etag == states[1].etag
    assert states[0].view.purged


def test_what_is_not_deleted_is_not_purged(world: Any) -> None:
    laptop = world.replica("laptop")
    laptop.put("accounts", "1", owner="A")
    with pytest.raises(RefusedError, match="not in the trash"):
        purge(laptop.db, [ACCOUNT])


def test_a_hold_stands_in_the_way(world: Any) -> None:
    laptop = world.replica("laptop")
    laptop.put("accounts", "1", owner="A")
    delete(laptop)
    world.clock_ms += RETENTION_MS
    place_hold(laptop.db, Hold("case 7", "accounts", None, "subpoena"))
    with laptop.db.read() as reader:
        assert holds(reader) == [Hold("case 7", "accounts", None, "subpoena")]
    assert in_trash(laptop) == {"accounts/1": "held: case 7"}
    with pytest.raises(RefusedError, match="held: case 7"):
        purge(laptop.db, [ACCOUNT])
    release_hold(laptop.db, "case 7")
    purge(laptop.db, [ACCOUNT])
    with pytest.raises(MissingDocument):
        release_hold(laptop.db, "case 7")


@pytest.fixture
def clerk(world: Any, tmp_path: Path) -> Any:
    """A replica of somebody else, whom the founder has admitted as a writer."""
    theirs = type(world)(tmp_path / "theirs", label="clerk")
    theirs.directory.mkdir()
    theirs.uid, theirs.founding = world.uid, world.founding
    laptop = world.replica("laptop")
    theirs.newcomer("with a key that the laptop has too")
    made = theirs.newcomer("clerk")
    act = Admit(theirs.identity, Role.WRITER, tuple(theirs.events))
    laptop.db.write(lambda writing: MemberEntry(writing.stamp(), act))
    made.receive(laptop)
    yield made
    theirs.close()


def forge(replica: Any, make: Callable[[Stamp], Entry]) -> Reference:
    """Append an entry that the replica itself would not write."""
    stamps: list[Stamp] = []
    replica.db.write(lambda writing: stamps.append(writing.stamp()))
    block = encode_entry(make(stamps[0]))
    head = FeedWriter(replica.store, replica.feed, replica.device).append([block]).head
    replica.db.take_new()
    return Reference(replica.feed, head.length - 1, leaf_node(head.length - 1, block).hash)


FINAL = [
    Op(Verb.PURGE, ACCOUNT, (), None),
    Op(Verb.DEL, DocumentId("$hold", "case 7"), (), None),
    Op(Verb.HIDE, DocumentId("$hold", "case 7"), (), True),
    Op(Verb.SET, DocumentId("$hold", "case 7"), ("collection",), "nothing"),
    Op(Verb.SET, DocumentId("$hold", "case 8"), ("collection",), "accounts"),
]


@pytest.mark.parametrize("op", FINAL, ids=lambda op: f"{op.verb} {op.document}")
def test_what_a_writer_purges_or_lets_go_does_not_count(world: Any, clerk: Any, op: Op) -> None:
    laptop = world.replicas["laptop"]
    laptop.put("accounts", "1", owner="A")
    place_hold(laptop.db, Hold("case 7", "accounts", None, "subpoena"))
    clerk.receive(laptop)
    forged = forge(clerk, lambda stamp: transaction_entry(Transaction(stamp, (op,))))
    laptop.receive(clerk)
    for replica in (laptop, clerk):
        assert replica.db.entry(forged).masked == "NOT_AN_ADMIN"
        assert replica.fields("accounts", "1") == {"owner": "A"}
        with replica.db.read() as reader:
            assert holds(reader) == [Hold("case 7", "accounts", None, "subpoena")]
        assert replica.db.audit() == []


def test_a_writer_is_told_that_holds_and_erasure_take_an_admin(world: Any, clerk: Any) -> None:
    laptop = world.replicas["laptop"]
    place_hold(laptop.db, Hold("case 7", "accounts", None, "subpoena"))
    clerk.receive(laptop)
    clerk.put("accounts", "1", owner="A")
    with pytest.raises(RefusedError, match="take an admin"):
        place_hold(clerk.db, Hold("case 8", "accounts", "1", "mine"))
    with pytest.raises(RefusedError, match="take an admin"):
        release_hold(clerk.db, "case 7")
    forged = forge(clerk, lambda stamp: erasure_entry(Erasure(stamp, ACCOUNT, (bytes(16),), "I want it")))
    laptop.receive(clerk)
    assert laptop.db.entry(forged).masked == "NOT_AN_ADMIN"


def test_an_erased_value_is_found_nowhere(world: Any) -> None:
    laptop = world.replica("laptop")
    with_schema(laptop)
    secret = "+420 555 123 456 789"
    laptop.put("accounts", "1", owner="A", phone=secret)
    sealed = laptop.fields("accounts", "1")["phone"]
    kid = to_python(sealed).kid
    key = laptop.keys.find(kid)
    erased = erase(laptop.db, ACCOUNT, "she asked for it")
    assert erased.kids == (kid,)
    assert erased.unreachable == ()
    laptop.close()
    for file in world.directory.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert key not in content
            assert secret.encode() not in content
    laptop.reopen()
    assert laptop.fields("accounts", "1") == {"owner": "A", "phone": sealed}
    assert laptop.keys.find(kid) is None


def test_an_erasure_reaches_the_other_replicas(world: Any) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    with_schema(laptop)
    laptop.put("accounts", "1", phone="123")
    world.exchange()
    phone.keys.import_keys(laptop.keys.export_keys(world.uid))
    (kid,) = phone.keys.of_document(world.uid, ACCOUNT)
    place_hold(phone.db, Hold("case 7", "accounts", "1", "subpoena"))
    erase(laptop.db, ACCOUNT, "asked")
    world.exchange()
    assert settle_erasures(phone.db) == []
    assert phone.keys.find(kid) is not None
    release_hold(phone.db, "case 7")
    assert phone.keys.find(kid) is None
    assert settle_erasures(phone.db) == []


def test_without_sealed_values_there_is_nothing_to_erase(world: Any) -> None:
    laptop = world.replica("laptop")
    laptop.put("accounts", "1", owner="A")
    with pytest.raises(RefusedError, match="no sealed values"):
        erase(laptop.db, ACCOUNT, "asked")
    with pytest.raises(MissingDocument):
        erase(laptop.db, DocumentId("accounts", "2"), "asked")


def test_a_sealed_value_that_breaks_its_schema_is_refused(world: Any) -> None:
    laptop = world.replica("laptop")
    with_schema(laptop)
    with pytest.raises(MalformedError, match="phone"):
        laptop.put("accounts", "1", phone=7)


def test_a_sealed_null_is_sealed_too(world: Any) -> None:
    laptop = world.replica("laptop")
    changes = Changes()
    rules = {"type": "object", "properties": {"phone": {"type": ["text", "null"], "sealed": True}}}
    changes.put("$schema", "accounts", {"schema": rules})
    laptop.db.commit(changes)
    laptop.put("accounts", "1", phone=None)
    assert isinstance(to_python(laptop.fields("accounts", "1")["phone"]), Sealed)
    assert laptop.db.unsealed(laptop.db.get("accounts", "1")).fields == {"phone": None}


def test_a_key_that_comes_after_its_erasure_is_not_taken(world: Any) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    with_schema(laptop)
    laptop.put("accounts", "1", phone="123")
    handed_over = laptop.keys.export_keys(world.uid)
    erase(laptop.db, ACCOUNT, "asked")
    world.exchange()
    assert settle_erasures(phone.db) == []
    assert phone.keys.import_keys(handed_over) == ()
    assert phone.keys.of_document(world.uid, ACCOUNT) == ()


def test_an_erasure_that_names_the_key_of_another_document_leaves_it(world: Any) -> None:
    laptop = world.replica("laptop")
    with_schema(laptop)
    laptop.put("accounts", "1", phone="123")
    laptop.put("accounts", "2", phone="456")
    (other,) = laptop.keys.of_document(world.uid, DocumentId("accounts", "2"))
    laptop.db.write(lambda writing: Erasure(writing.stamp(), ACCOUNT, (other,), "hostile"))
    for _ in range(2):
        assert settle_erasures(laptop.db) == []
    assert laptop.keys.find(other) is not None


def test_an_erasure_takes_as_many_entries_as_there_are_keys_to_name(world: Any) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    with_schema(laptop)
    laptop.put("accounts", "1", owner="A", phone="+420 555 123")
    kid = to_python(laptop.fields("accounts", "1")["phone"]).kid
    made_up = [number.to_bytes(16, "big") for number in range(MAX_KIDS + 1)]
    for start in range(0, len(made_up), 3000):
        phone.db.write(lambda writing, start=start: _sealed_apart(writing, made_up[start : start + 3000]))
    world.exchange()
    erased = erase(laptop.db, ACCOUNT, "asked")
    assert set(erased.kids) == {kid, *made_up}
    assert laptop.keys.of_document(world.uid, ACCOUNT) == ()
    with laptop.db.read() as reader:
        kinds = [row[2] for row in reader.tx.fetch_all(reader.sql.others, (reader.number,))]
    assert kinds.count(KIND_NUMBER[ERASE]) == 2
    assert settle_erasures(laptop.db) == []
    world.exchange()
    settle_erasures(phone.db)
    assert set(phone.keys.destroyed(world.uid, ACCOUNT)) == {kid, *made_up}


def _sealed_apart(writing: Any, kids: list[bytes]) -> Transaction:
    """Values under keys that nobody has."""
    ops = (Op(Verb.SET, ACCOUNT, (kid.hex(),), sealed_value(Sealed(kid, bytes(32), bytes(73)))) for kid in kids)
    return Transaction(writing.stamp(), tuple(ops))

"""Intents: the author of a change is proven although the feed of somebody else carries it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from identity.encoding import decode, encode
from identity.errors import ConflictError, MalformedError, RefusedError, VerificationError
from identity.keys import Ed25519Signer
from ledger.entry import Entry, encode_entry, parse_entry
from ledger.values import Reference
from sync.changes import Changes, StaleVersion
from sync.content import read_entry
from sync.intent import Intent, RivalIntents, encode_intent, intent_of, parse_intent, sign_intent, verify_intent
from sync.transaction import (
    DocumentId,
    Dot,
    Op,
    Stamp,
    Transaction,
    Verb,
    parse_transaction,
    transaction_entry,
)

APP = Ed25519Signer(b"\x51" * 32)
ACCOUNT = DocumentId("accounts", "4711")
OWNER = Op(Verb.SET, ACCOUNT, ("owner",), "Novak")
RAISE = Op(Verb.INC, ACCOUNT, ("balance",), 5)


def intent(world: Any, *ops: Op, sequence: int = 0, **more: Any) -> Intent:
    return sign_intent(APP, world.uid, ops or (OWNER,), sequence=sequence, **more)


# --- writing ----------------------------------------------------------------------------------------------------------


def test_the_author_of_a_change_is_proven(world: Any) -> None:
    laptop = world.replica("laptop")
    commit = laptop.db.commit(Changes(note="by the app"), intent=intent(world))
    assert laptop.fields("accounts", "4711") == {"owner": "Novak"}
    (told,) = laptop.db.history("accounts", "4711")
    assert told.entry.intent is not None
    assert (told.entry.intent.key, told.entry.intent.sequence, told.entry.note) == (APP.public_key, 0, "by the app")
    assert told.entry.author.device == laptop.device.public_key
    recorded = laptop.db.entry(commit.reference).transaction
    carried = None if recorded is None else intent_of(recorded)
    assert carried == intent(world)
    assert laptop.db.audit() == []


def test_it_counts_on_every_replica(world: Any) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    laptop.db.commit(Changes(), intent=intent(world))
    world.exchange()
    assert phone.fields("accounts", "4711") == {"owner": "Novak"}
    assert next(phone.db.history("accounts", "4711")).entry.intent.key == APP.public_key
    assert phone.db.audit() == []
    assert phone.db.rebuild() > 0
    assert phone.db.audit() == []


def test_a_replay_changes_nothing_and_is_answered_by_the_first_commit(world: Any) -> None:
    laptop = world.replica("laptop")
    first = laptop.db.commit(Changes(), intent=intent(world, RAISE))
    laptop.put("accounts", "1", owner="Svoboda")
    again = laptop.db.commit(Changes(), intent=intent(world, RAISE))
    assert (again.reference, again.place, again.etags) == (first.reference, first.place, first.etags)
    assert laptop.fields("accounts", "4711") == {"balance": 5}


def test_a_replay_after_a_restart(world: Any) -> None:
    laptop = world.replica("laptop")
    first = laptop.db.commit(Changes(), intent=intent(world, RAISE))
    laptop.writer.close()
    laptop.open()
    assert laptop.db.commit(Changes(), intent=intent(world, RAISE)).reference == first.reference
    assert laptop.db.next_sequence(APP.public_key) == 1
    assert laptop.db.next_sequence(b"\1" * 32) == 0


def test_two_intents_with_one_number_are_evidence(world: Any) -> None:
    laptop = world.replica("laptop")
    one, other = intent(world, OWNER), intent(world, RAISE)
    laptop.db.commit(Changes(), intent=one)
    with pytest.raises(RivalIntents) as caught:
        laptop.db.commit(Changes(), intent=other)
    first, second = parse_intent(caught.value.first), parse_intent(caught.value.second)
    assert (first, second) == (one, other)
    assert first.mark.sequence == second.mark.sequence
    assert first.digest() != second.digest()
    assert laptop.fields("accounts", "4711") == {"owner": "Novak"}


def test_two_nodes_that_were_told_different_things_find_out(world: Any) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    one, other = intent(world, OWNER), intent(world, RAISE)
    laptop.db.commit(Changes(), intent=one)
    phone.db.commit(Changes(), intent=other)
    assert laptop.db.rival_intents() == []
    world.exchange()
    for replica in (laptop, phone):
        (pair,) = replica.db.rival_intents()
        assert {parse_intent(pair[0]), parse_intent(pair[1])} == {one, other}
        assert replica.fields("accounts", "4711") == {"owner": "Novak", "balance": 5}
        assert replica.db.audit() == []


def test_numbers_are_a_keys_own(world: Any) -> None:
    laptop = world.replica("laptop")
    laptop.db.commit(Changes(), intent=intent(world))
    other = sign_intent(Ed25519Signer(b"\x52" * 32), world.uid, [RAISE], sequence=0)
    laptop.db.commit(Changes(), intent=other)
    assert laptop.fields("accounts", "4711") == {"owner": "Novak", "balance": 5}


def test_conditions_hold_beside_it(world: Any) -> None:
    laptop = world.replica("laptop")
    laptop.put("accounts", "4711", owner="Svoboda")
    changes = Changes()
    changes.require("accounts", "4711", "1.AAAAAAAAAAAAAAAAAAAA")
    with pytest.raises(StaleVersion):
        laptop.db.commit(changes, intent=intent(world))
    good = Changes()
    good.require("accounts", "4711", laptop.db.get("accounts", "4711").etag)
    laptop.db.commit(good, intent=intent(world))
    assert laptop.fields("accounts", "4711") == {"owner": "Novak"}


def test_wishes_come_to_what_was_signed(world: Any) -> None:
    laptop = world.replica("laptop")
    wish = Changes()
    wish.patch("accounts", "4711", {"owner": "Novak"})
    laptop.db.commit(wish, intent=intent(world))
    other = Changes()
    other.patch("accounts", "4711", {"owner": "Dvorak"})
    with pytest.raises(ConflictError, match="signed"):
        laptop.db.commit(other, intent=intent(world, sequence=1))


def test_nothing_is_overwritten_that_its_author_had_not_seen(world: Any) -> None:
    laptop = world.replica("laptop")
    laptop.put("accounts", "4711", owner="Svoboda")
    base = laptop.db.context()
    laptop.db.commit(Changes(), intent=intent(world, base=base))
    laptop.put("accounts", "4711", owner="Kral")
    late = intent(world, Op(Verb.SET, ACCOUNT, ("owner",), "Late"), sequence=1, base=base)
    with pytest.raises(ConflictError, match="since"):
        laptop.db.commit(Changes(), intent=late)
    assert laptop.fields("accounts", "4711") == {"owner": "Kral"}


@pytest.mark.parametrize(
    ("op", "error"),
    [
        (Op(Verb.PURGE, ACCOUNT, (), None), RefusedError),
        (Op(Verb.SET, DocumentId("$schema", "accounts"), ("schema",), {"type": "object"}), RefusedError),
        (Op(Verb.SET, DocumentId("$hold", "x"), ("reason",), "y"), RefusedError),
        (Op(Verb.SET, ACCOUNT, ("owner",), "x", (Dot(Reference(b"\1" * 32, 0, b"\1" * 32), 0),)), MalformedError),
    ],
)
def test_what_a_visitor_cannot_want(world: Any, op: Op, error: type[Exception]) -> None:
    laptop = world.replica("laptop")
    with pytest.raises(error):
        laptop.db.commit(Changes(), intent=intent(world, op))
    laptop.put("accounts", "1", owner="A")  # the feed goes on
    assert laptop.db.audit() == []


def test_an_intent_of_another_database_or_key(world: Any) -> None:
    laptop = world.replica("laptop")
    foreign = sign_intent(APP, b"\1" * 32, [OWNER], sequence=0)
    with pytest.raises(VerificationError):
        laptop.db.commit(Changes(), intent=foreign)
    forged = replace(intent(world), mark=replace(intent(world).mark, key=b"\x01" * 32))
    with pytest.raises(VerificationError):
        laptop.db.commit(Changes(), intent=forged)
    assert laptop.fields("accounts", "4711") is None


# --- in an entry ------------------------------------------------------------------------------------------------------


def carried(world: Any, **changes: Any) -> Transaction:
    signed = intent(world, OWNER, RAISE)
    stamp = Stamp(world.uid, None, (), 0, 58982400000000000)
    return replace(Transaction(stamp, signed.ops, intent=signed.mark), **changes)


def test_a_true_intent_is_read(world: Any) -> None:
    entry = parse_entry(encode_entry(transaction_entry(carried(world))))
    read = read_entry(entry)
    assert (read.reason, read.content) == (None, carried(world))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda t: replace(t, ops=t.ops[:1]),
        lambda t: replace(t, ops=t.ops[::-1]),
        lambda t: replace(t, ops=(*t.ops, Op(Verb.SET, ACCOUNT, ("limit",), 1))),
        lambda t: replace(t, ops=(t.ops[0]._replace(value="Dvorak"), t.ops[1])),
        lambda t: replace(t, ops=(t.ops[0]._replace(document=DocumentId("accounts", "1")), t.ops[1])),
        lambda t: replace(t, stamp=replace(t.stamp, database=b"\1" * 32)),
        lambda t: replace(t, intent=replace(t.intent, sequence=1)),
        lambda t: replace(t, intent=replace(t.intent, key=b"\2" * 32)),
        lambda t: replace(t, intent=replace(t.intent, identity=b"\2" * 32)),
        lambda t: replace(t, intent=replace(t.intent, base="x")),
        lambda t: replace(t, intent=replace(t.intent, signature=bytes(64))),
    ],
)
def test_a_false_intent_masks_its_entry(world: Any, spoil: Callable[[Transaction], Transaction]) -> None:
    read = read_entry(transaction_entry(spoil(carried(world))))
    assert read.content is None
    assert read.reason == "its intent is not by that key over these operations"
    assert read.stamp is not None  # its place in causality counts all the same


def test_a_node_that_makes_an_intent_up_is_masked_everywhere(world: Any) -> None:
    """By a program that leaves the check out: the entry has no effect, here, elsewhere, and in the replay."""
    laptop, phone = world.replica("laptop"), world.replica("phone")

    def lie(writing: Any) -> Transaction:
        mark = replace(intent(world).mark, signature=bytes(64))
        return Transaction(writing.stamp(), (OWNER,), intent=mark)

    laptop.db.write(lie)  # believes itself, for now
    phone.receive(laptop)
    assert phone.fields("accounts", "4711") is None
    assert phone.db.audit() == []
    assert laptop.db.audit() != []
    laptop.db.rebuild()
    assert laptop.fields("accounts", "4711") is None
    assert laptop.db.audit() == []


def test_an_undo_carries_no_intent(world: Any) -> None:
    spoilt = replace(carried(world), undoes=(Reference(b"\1" * 32, 0, b"\1" * 32),))
    with pytest.raises(MalformedError):
        parse_transaction(transaction_entry(spoilt))


@pytest.mark.parametrize("name", ["id", "key", "seq", "base", "sig"])
def test_every_member_of_an_intent_is_there(world: Any, name: str) -> None:
    entry = transaction_entry(carried(world))
    mark = dict(entry.body["int"])  # type: ignore[arg-type]
    short = {one: value for one, value in mark.items() if one != name}
    for spoilt in (short, {**mark, name: 1.5}, {**mark, "more": 1}, {**mark, "seq": -1}, {**mark, "base": ""}):
        with pytest.raises(MalformedError):
            parse_transaction(Entry(entry.kind, entry.claimed_ms, {**entry.body, "int": spoilt}))


# --- on the way -------------------------------------------------------------------------------------------------------


def test_an_intent_travels(world: Any) -> None:
    signed = intent(world, OWNER, RAISE, sequence=7, identity=b"\3" * 32, base="abc")
    assert parse_intent(encode_intent(signed)) == signed
    verify_intent(signed)


def test_what_is_no_intent(world: Any) -> None:
    data = encode_intent(intent(world))
    fields = decode(data)
    assert isinstance(fields, dict)
    for spoilt in (
        {**fields, "v": 2},
        {**fields, "more": 1},
        {**fields, "ops": []},
        {**fields, "docs": [["accounts", "4711"], ["accounts", "4712"]]},
        {**fields, "sig": bytes(63)},
        {name: value for name, value in fields.items() if name != "seq"},
    ):
        with pytest.raises(MalformedError):
            parse_intent(encode(spoilt))
    with pytest.raises(VerificationError):
        parse_intent(encode({**fields, "seq": 1}))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_any_byte_changed(at: int, change: int) -> None:
    data = bytearray(encode_intent(sign_intent(APP, b"\7" * 32, [OWNER, RAISE], sequence=3)))
    data[at % len(data)] ^= change
    with pytest.raises((MalformedError, VerificationError)):
        parse_intent(bytes(data))

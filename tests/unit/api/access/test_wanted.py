"""An intent is allowed when everything that it does is, and it is the caller's own."""

from __future__ import annotations

from typing import Any

import pytest

from api.access.action import Action, Author, Caller, Operation
from api.access.gate import check_author
from api.access.wanted import Found, wanted
from identity.errors import Forbidden
from identity.keys import Ed25519Signer
from sync.intent import Intent, sign_intent
from sync.transaction import DocumentId, Op, Verb

APP = Ed25519Signer(b"\x51" * 32)
BANK = b"\7" * 32
A, B = DocumentId("accounts", "4711"), DocumentId("branches", "1")
SCHEMA, HOLD = DocumentId("$schema", "accounts"), DocumentId("$hold", "case-17")
HERS = Author(APP.public_key, None)


def intent(*ops: Op, **more: Any) -> Intent:
    return sign_intent(APP, BANK, ops, sequence=0, **more)


def there(_: DocumentId) -> Found:
    return Found(exists=True)


@pytest.mark.parametrize(
    ("ops", "operation", "fields"),
    [
        ([Op(Verb.SET, A, ("owner",), 1)], Operation.UPDATE, {"owner"}),
        ([Op(Verb.SET, A, ("address", "street"), "x"), Op(Verb.INC, A, ("n",), 1)], Operation.UPDATE, {"address", "n"}),
        ([Op(Verb.HIDE, A, (), True)], Operation.DELETE, set()),
        ([Op(Verb.SET, A, ("owner",), 1), Op(Verb.HIDE, A, (), True)], Operation.DELETE, {"owner"}),
        ([Op(Verb.HIDE, A, (), False)], Operation.UPDATE, set()),
        ([Op(Verb.DEL, A, (), None)], Operation.DELETE, set()),
        ([Op(Verb.DEL, A, ("owner",), None)], Operation.UPDATE, {"owner"}),
        ([Op(Verb.PURGE, A, (), None)], Operation.PURGE, set()),
        ([Op(Verb.SET, A, ("owner",), 1), Op(Verb.PURGE, A, (), None)], Operation.PURGE, {"owner"}),
    ],
)
def test_what_it_comes_to(ops: list[Op], operation: Operation, fields: set[str]) -> None:
    assert wanted(intent(*ops), there) == [
        Action(operation, BANK, "accounts", "4711", fields=frozenset(fields), writes=True, author=HERS)
    ]


def test_each_document_is_asked_for() -> None:
    both = intent(Op(Verb.SET, A, ("x",), 1), Op(Verb.SET, B, ("y",), 1), Op(Verb.SET, A, ("z",), 1))
    updated, created = wanted(both, lambda document: Found(document == A), guarded={A})
    assert (updated.operation, updated.fields, updated.guarded) == (Operation.UPDATE, {"x", "z"}, True)
    assert (created.operation, created.collection, created.guarded) == (Operation.CREATE, "branches", False)


def test_who_edits_a_deleted_document_shows_all_of_it_again() -> None:
    for op in (Op(Verb.SET, A, ("owner",), 1), Op(Verb.HIDE, A, (), False)):
        (action,) = wanted(intent(op), lambda _: Found(exists=False, hidden=frozenset({"secret"})))
        assert action.operation is Operation.CREATE
        assert "secret" in action.fields


@pytest.mark.parametrize("verb", [Verb.SET, Verb.HIDE, Verb.DEL])
def test_who_may_write_documents_may_not_write_schemas_and_holds(verb: Verb) -> None:
    value = {Verb.HIDE: True, Verb.DEL: None}.get(verb, 1)
    path = ("schema",) if verb is Verb.SET else ()
    (schema,) = wanted(intent(Op(verb, SCHEMA, path, value)), there)
    (hold,) = wanted(intent(Op(verb, HOLD, path, value)), there)
    assert (schema.operation, hold.operation) == (Operation.SCHEMA, Operation.HOLD)


def test_an_intent_is_the_callers_own() -> None:
    (action,) = wanted(intent(Op(Verb.SET, A, ("x",), 1)), there)
    check_author(action, Caller(APP.public_key), None)
    for key, identity in ((b"\1" * 32, None), (APP.public_key, b"\2" * 32)):
        with pytest.raises(Forbidden) as caught:
            check_author(action, Caller(key), identity, own=key)
        assert caught.value.reason == "INTENT"


def test_only_the_nodes_own_device_writes_without_one() -> None:
    write = Action(Operation.UPDATE, BANK, "accounts", "4711", writes=True)
    check_author(write, Caller(b"\1" * 32), b"\2" * 32, own=b"\1" * 32)
    for own in (None, b"\3" * 32):
        with pytest.raises(Forbidden) as caught:
            check_author(write, Caller(b"\1" * 32), b"\2" * 32, own=own)
        assert "/intents" in caught.value.hint
    check_author(Action(Operation.READ, BANK), Caller(b"\1" * 32), None)

"""An intent is allowed when everything that it does is."""

from __future__ import annotations

from typing import Any

import pytest

from api.access.action import Action, Caller, Grant, Operation
from api.access.wanted import check_signer, wanted
from identity.errors import Forbidden
from identity.keys import Ed25519Signer
from sync.intent import Intent, sign_intent
from sync.transaction import DocumentId, Op, Verb

APP = Ed25519Signer(b"\x51" * 32)
BANK = b"\7" * 32
A, B = DocumentId("accounts", "4711"), DocumentId("branches", "1")


def intent(*ops: Op, **more: Any) -> Intent:
    return sign_intent(APP, BANK, ops, sequence=0, **more)


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
    assert wanted(intent(*ops), lambda _: True) == [
        Action(operation, BANK, "accounts", "4711", fields=frozenset(fields))
    ]


def test_each_document_is_asked_for() -> None:
    both = intent(Op(Verb.SET, A, ("x",), 1), Op(Verb.SET, B, ("y",), 1), Op(Verb.SET, A, ("z",), 1))
    assert wanted(both, lambda document: document == A, guarded={A}) == [
        Action(Operation.UPDATE, BANK, "accounts", "4711", fields=frozenset({"x", "z"}), guarded=True),
        Action(Operation.CREATE, BANK, "branches", "1", fields=frozenset({"y"})),
    ]


def test_an_intent_is_the_callers_own() -> None:
    ours = intent(Op(Verb.SET, A, ("x",), 1))
    caller = Caller(APP.public_key)
    check_signer(ours, caller, Grant(caller))
    for other, identity in ((Caller(b"\1" * 32), None), (caller, b"\2" * 32)):
        with pytest.raises(Forbidden):
            check_signer(ours, other, Grant(other, identity))

"""Every error of the tree has a problem document, and none tells more than it should."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from api import problems
from api.problems import KINDS, kind_of, problem_of
from identity import errors
from identity.errors import (
    AuditError,
    ConfigurationError,
    ForkDetected,
    MalformedError,
    ReadOnlyState,
    RootMismatch,
    StorageError,
    StoreBusy,
    TransportError,
    Unacknowledged,
    UnknownOutcome,
    WrongPassphrase,
)


def tree(error: type[AuditError]) -> Iterator[type[AuditError]]:
    yield error
    for below in error.__subclasses__():
        yield from tree(below)


def test_every_error_of_the_tree_has_a_kind_of_its_own_decision() -> None:
    named = {getattr(errors, name) for name in errors.__all__}
    assert named <= set(KINDS)
    assert {one for one in tree(AuditError) if one.__module__ == problems.__name__} <= set(KINDS)


def test_types_and_statuses() -> None:
    for kind in KINDS.values():
        assert kind.type == f"urn:holdfast:problem:{kind.name}"
        assert kind.name == kind.name.lower()
        assert 400 <= kind.status < 600
    names = {}
    for kind in KINDS.values():
        assert names.setdefault(kind.name, kind.status) == kind.status


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError("/home/bank/keystore.hfk"),
        StorageError("/home/bank/vault.db is damaged"),
        TransportError("https://user:secret@node.example"),
        WrongPassphrase("/home/bank/keystore.hfk"),
        UnknownOutcome("/home/bank: x"),
        Unacknowledged(1, 2, "/home/bank: x"),
        ReadOnlyState("diverged", "/home/bank: x"),
        AuditError("/home/bank"),
    ],
)
def test_what_is_inside_stays_inside(error: AuditError) -> None:
    body = problem_of(error, "r1").body().decode()
    assert "/home" not in body
    assert "secret" not in body
    assert json.loads(body)["request_id"] == "r1"


def test_extension_members_say_what_the_error_carries() -> None:
    mismatch = json.loads(problem_of(RootMismatch("x", expected=b"\1", computed=b"\2")).body())
    assert (mismatch["status"], mismatch["expected"], mismatch["computed"]) == (422, "01", "02")
    fork = json.loads(problem_of(ForkDetected("x", first=b"a", second=b"b", proof=b"c")).body())
    assert (fork["first"], fork["second"], fork["proof"]) == ("YQ==", "Yg==", "Yw==")
    state = json.loads(problem_of(ReadOnlyState("diverged", "x")).body())
    assert (state["status"], state["state"]) == (503, "diverged")


def test_who_may_try_again_is_told_when() -> None:
    for error in (StoreBusy("x"), TransportError("x")):
        problem = problem_of(error)
        assert problem.kind.status == 503
        assert int(problem.headers["Retry-After"]) >= 1
    assert "Retry-After" not in problem_of(ReadOnlyState("diverged", "x")).headers


def test_a_hint_for_the_command_line_is_none_for_a_program() -> None:
    assert b"hint" not in problem_of(MalformedError("x", hint="see 'holdfast db list'")).body()
    assert b"look again" in problem_of(MalformedError("x", hint="look again")).body()


def test_an_error_that_is_not_named_is_of_the_kind_of_what_it_extends() -> None:
    class Narrower(StoreBusy):
        pass

    assert kind_of(Narrower("x")).name == "busy"

"""Signing contexts can't be taken for each other."""

from __future__ import annotations

from itertools import permutations

from identity import contexts


def test_every_context_is_listed() -> None:
    named = {name: value for name, value in vars(contexts).items() if isinstance(value, bytes)}
    assert sorted(named.values()) == sorted(contexts.ALL_CONTEXTS)
    assert set(named) | {"ALL_CONTEXTS"} == set(contexts.__all__)


def test_contexts_are_distinct_versioned_and_end_in_nul() -> None:
    assert len(set(contexts.ALL_CONTEXTS)) == len(contexts.ALL_CONTEXTS)
    for context in contexts.ALL_CONTEXTS:
        assert context.startswith(b"holdfast/v1/")
        assert context.index(b"\0") == len(context) - 1


def test_no_context_begins_another() -> None:
    for first, second in permutations(contexts.ALL_CONTEXTS, 2):
        assert not first.startswith(second)

"""Authorities that share a key are one (docs/spec/timestamp.md, section 13)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from anchoring.timestamp.independence import group_independent, path_keys


def test_a_path_is_known_by_its_keys_not_by_its_certificates(maker: Any) -> None:
    again = maker.issue("Another name", ca=True, key=maker.root.key, not_after=timedelta(days=9))
    assert again.der != maker.root.der
    assert path_keys([again.certificate]) == path_keys([maker.root.certificate])
    assert path_keys([maker.signer.certificate]).isdisjoint(path_keys([maker.root.certificate]))


def test_what_shares_a_key_is_one_group() -> None:
    a, b, c = (frozenset({bytes([number])}) for number in range(3))
    assert group_independent([]) == []
    assert group_independent([a, b, c]) == [[0], [1], [2]]
    assert group_independent([a, b, a]) == [[1], [0, 2]]
    assert group_independent([a, b, c, a | b]) == [[2], [0, 1, 3]]


@given(st.lists(st.frozensets(st.integers(0, 9).map(lambda number: bytes([number])), min_size=1, max_size=3)))
def test_groups_are_the_connected_ones(keys: list[frozenset[bytes]]) -> None:
    groups = group_independent(keys)
    assert sorted(member for group in groups for member in group) == list(range(len(keys)))
    held = [frozenset[bytes]().union(*(keys[member] for member in group)) for group in groups]
    for number, one in enumerate(held):
        assert all(one.isdisjoint(other) for other in held[:number]), "no key is in two groups"
    for group in groups:
        reached, rest = {group[0]}, set(group[1:])
        while joined := {member for member in rest if any(keys[member] & keys[other] for other in reached)}:
            reached |= joined
            rest -= joined
        assert not rest, "and no group falls apart"

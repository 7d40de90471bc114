"""The log against a plain list: whatever is appended in whatever batches can be proven, and nothing else can."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from identity.errors import MalformedError, RootMismatch
from ledger.log import (
    Frontier,
    append_to_frontier,
    consistency_proof,
    hash_leaf,
    inclusion_proof,
    root_at,
    verify_consistency,
    verify_inclusion,
)
from ledger.store import LogState

leaves = st.binary(max_size=8)


def root_of(items: list[bytes]) -> bytes:
    """RFC 9162 2.1.1 over a list."""
    if not items:
        return sha256(b"").digest()
    if len(items) == 1:
        return sha256(b"\x00" + items[0]).digest()
    k = 1 << (len(items) - 1).bit_length() - 1
    return sha256(b"\x01" + root_of(items[:k]) + root_of(items[k:])).digest()


class LogMachine(RuleBasedStateMachine):
    """A log that grows in batches; a list is the model, and every size it ever had is remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.model: list[bytes] = []
        self.state = LogState(b"", 0, ())
        self.nodes: dict[tuple[int, int], bytes] = {}
        self.sizes: list[int] = []

    def node(self, level: int, index: int) -> bytes:
        return self.nodes[level, index]

    @rule(batch=st.lists(leaves, min_size=1, max_size=9))
    def append(self, batch: list[bytes]) -> None:
        self.state, completed = append_to_frontier(self.state, batch)
        self.model += batch
        self.sizes.append(len(self.model))
        for level, index, digest in completed:
            assert (level, index) not in self.nodes
            self.nodes[level, index] = digest

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def include(self, data: st.DataObject) -> None:
        size = data.draw(st.integers(1, len(self.model)))
        index = data.draw(st.integers(0, size - 1))
        root, proof = root_of(self.model[:size]), inclusion_proof(self.node, index, size)
        verify_inclusion(index, size, hash_leaf(self.model[index]), proof, root)
        other = data.draw(leaves)
        if other != self.model[index]:
            with pytest.raises(RootMismatch):
                verify_inclusion(index, size, hash_leaf(other), proof, root)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def extend(self, data: st.DataObject) -> None:
        size1 = data.draw(st.sampled_from(self.sizes))
        root1, root2 = root_of(self.model[:size1]), root_of(self.model)
        proof = consistency_proof(self.node, size1, len(self.model))
        verify_consistency(size1, len(self.model), proof, root1, root2)
        position = data.draw(st.integers(0, size1 - 1))
        rewritten = [*self.model[:position], self.model[position] + b"!", *self.model[position + 1 : size1]]
        with pytest.raises(RootMismatch):
            verify_consistency(size1, len(self.model), proof, root_of(rewritten), root2)

    @invariant()
    def roots_agree(self) -> None:
        assert Frontier(self.state.size, self.state.frontier).root() == root_of(self.model)
        assert root_at(self.node, len(self.model)) == root_of(self.model)


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


@given(
    st.integers(-1, 70),
    st.integers(-1, 70),
    st.binary(max_size=33),
    st.lists(st.binary(min_size=31, max_size=33), max_size=9),
    st.binary(max_size=33),
)
def test_arbitrary_arguments_give_these_two_errors_only(
    first: int, second: int, one: bytes, proof: list[bytes], other: bytes
) -> None:
    """And never acceptance: a root that fits by chance would be a collision, a proof of one hash aside."""
    verifications: list[Callable[[], None]] = [
        lambda: verify_inclusion(first, second, one, proof, other),
        lambda: verify_consistency(first, second, proof, one, other),
    ]
    for verify in verifications:
        try:
            verify()
        except (MalformedError, RootMismatch):
            continue
        assert one == other
        assert not proof

"""The rollback table of docs/spec/rollback.md, row by row."""

from __future__ import annotations

import pytest

from anchoring.receipt import AnchorRecord
from anchoring.rollback import ArchivedAnchor, RollbackState, compare_with_chain

ROOTS = {size: bytes([size]) * 32 for size in range(1, 30)}


def record(size: int, *, root: bytes | None = None, closed: bool = False) -> AnchorRecord:
    return AnchorRecord(size=size, time_s=1, block=1, closed=closed, root=root or ROOTS[size])


@pytest.mark.parametrize(
    ("local", "found", "archived", "state"),
    [
        (17, None, None, RollbackState.NOT_ANCHORED),
        (17, record(17), None, RollbackState.CONSISTENT),
        (17, record(9), ArchivedAnchor(9, 4, True), RollbackState.CONSISTENT),
        (17, record(9), ArchivedAnchor(5, 3, None), RollbackState.CONSISTENT),
        (17, record(18), None, RollbackState.BEHIND_ANCHOR),
        (17, record(23), ArchivedAnchor(9, 4, True), RollbackState.BEHIND_ANCHOR),
        (17, record(17, root=b"x" * 32), None, RollbackState.DIVERGED),
        (17, record(9, root=b"x" * 32), ArchivedAnchor(9, 4, True), RollbackState.DIVERGED),
        (17, record(9), ArchivedAnchor(9, 4, False), RollbackState.FOREIGN_CHAIN),
        (17, record(5), ArchivedAnchor(9, 4, None), RollbackState.FOREIGN_CHAIN),
        (17, None, ArchivedAnchor(9, 4, None), RollbackState.FOREIGN_CHAIN),
        (17, record(17, closed=True), None, RollbackState.CLOSED),
        (16, record(17, closed=True), None, RollbackState.BEHIND_ANCHOR),
    ],
)
def test_table(local: int, found: AnchorRecord | None, archived: ArchivedAnchor | None, state: RollbackState) -> None:
    check = compare_with_chain(local, ROOTS.__getitem__, found, archived)
    assert check.state is state
    assert check.local_size == local
    assert check.anchored_size == (0 if found is None else found.size)


def test_only_three_states_may_write() -> None:
    assert {state for state in RollbackState if state.writable} == {
        RollbackState.CONSISTENT,
        RollbackState.NOT_ANCHORED,
        RollbackState.NO_CHAIN,
    }

"""Who may write, at any point in causality: the member entries of a database that were taken in, and their folds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ledger.entry import parse_entry
from ledger.values import Reference
from sync.acts import MemberEntry, parse_member
from sync.membership import Membership, PlacedAct, fold_members
from sync.storage.branches import Branch, Branches
from sync.transaction import MEMBER, entry_id
from sync.vector import Vector, sees

__all__ = ["Standing"]


class Standing:
    """The member entries of a database, and what any part of them amounts to."""

    def __init__(self, uid: bytes, branches: Branches) -> None:
        self._uid = uid
        self._branches = branches
        self._acts: list[tuple[int, int, bytes, PlacedAct]] = []
        self._folds: dict[frozenset[bytes], Membership] = {}
        self._of_all: Membership | None = None

    def load(self, rows: list[tuple[Any, ...]], kind: int) -> None:
        """Read the entries of that kind among ``rows`` (branch, seq, kind, leaf, masked) from their feeds."""
        for number, seq, found, leaf, masked in rows:
            if found == kind and masked is None:
                branch = self._branches[number]
                entry = parse_entry(self._branches.block(number, seq, leaf))
                assert entry.kind == MEMBER
                self.add(branch, seq, leaf, parse_member(entry))

    def add(self, branch: Branch, seq: int, leaf: bytes, member: MemberEntry) -> None:
        """Let one more act count as far as it does."""
        past = self._branches.past_of(branch.id, seq)
        before = frozenset(name for other, at, name, _ in self._acts if sees(past, other, at))
        reference = Reference(branch.feed, seq, leaf)
        self._acts.append((branch.id, seq, entry_id(reference), PlacedAct(reference, branch.author, member, before)))
        self._of_all = None

    def within(self, past: Vector | None) -> Membership:
        """Who may write, as far as the acts in ``past`` say; None: all of them."""
        if past is not None and not all(past.get(branch, -1) >= seq for branch, seq, _, _ in self._acts):
            return self._fold([(name, act) for branch, seq, name, act in self._acts if sees(past, branch, seq)])
        if self._of_all is None:
            self._of_all = self._fold([(name, act) for _, _, name, act in self._acts])
        return self._of_all

    def _fold(self, acts: Sequence[tuple[bytes, PlacedAct]]) -> Membership:
        ids = frozenset(name for name, _ in acts)
        if ids not in self._folds:
            self._folds[ids] = fold_members(self._uid, [act for _, act in acts])
        return self._folds[ids]

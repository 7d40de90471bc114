"""The branches of a database: which entries of which feeds were taken in, and what each of them had seen.

A vector is recorded with an entry only when it saw something new of other branches; that of any other entry is the
newest recorded one before it, with its own branch added.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from identity.errors import DamagedFile
from ledger.manifest import FeedDescription, describe, device_key, parse_manifest
from ledger.storage.rows import checked
from ledger.store import FeedKey
from ledger.values import Reference
from sync.membership import Author
from sync.storage.queries import Queries
from sync.storage.sides import read_block
from sync.transaction import entry_id
from sync.vector import Vector, covers, decode_vector, join

__all__ = ["Branch", "Branches", "EntryFacts", "decode_reference", "encode_reference"]

_REMEMBERED: Final = 65_536
"""Entries and vectors that are kept in memory, as far as they were looked up."""


@dataclass(slots=True)
class Branch:
    """One line of entries. ``seq`` of an entry is its index in the feed."""

    id: int
    uid: bytes
    """What names it on every replica: the feed's key, or, from a fork on, a hash of the fork and the side."""
    feed: FeedKey
    author: Author
    parent: int | None
    first_seq: int
    next_seq: int
    """The index that is looked at next."""
    disputed: bool = False
    excluded_from: int | None = None
    """Entries from this index on do not count: a revocation or dismissal does not vouch for them."""
    waits_for: Reference | None = None
    """The entry that has to come first; None when everything that is here was taken in."""
    head: EntryFacts | None = None
    """The newest entry that was taken in."""
    past: dict[int, int] = field(default_factory=dict)
    """The causal past of ``head``."""
    is_new: bool = False
    changed: bool = False


@dataclass(frozen=True, slots=True)
class EntryFacts:
    """What is known of an entry that was taken in."""

    branch: int
    seq: int
    lamport: int
    reading: int
    leaf: bytes


class Branches:
    """The branches of one database, in one transaction or, while nobody else writes, in several."""

    def __init__(self, tx: Any, queries: Queries, database: int) -> None:
        self._tx = tx
        self._sql = queries
        self._database = database
        self._by_id: dict[int, Branch] = {}
        self._clock: dict[int, int] = {}
        self._of_feed: dict[FeedKey, list[Branch]] = {}
        self._continued: set[tuple[FeedKey, bytes]] = set()
        self._last_id: int | None = None
        self._facts: dict[tuple[int, int], EntryFacts] = {}
        self._pasts: dict[tuple[int, int], Vector] = {}
        # Of entries that are taken in and not written yet: the rows do not say it.
        self._unwritten: dict[tuple[int, int], EntryFacts] = {}
        self._unwritten_pasts: dict[int, list[tuple[int, Vector]]] = {}
        heads = {row[0]: row for row in tx.fetch_all(queries.heads, (database,))}
        pasts = dict(tx.fetch_all(queries.pasts, (database,)))
        for row in tx.fetch_all(queries.branches, (database,)):
            self._keep(self._read(row, heads.get(row[0]), pasts.get(row[0])))
        for branch in self:
            self._check_parents(branch)

    def use(self, tx: Any) -> None:
        """Go on in another transaction of the store, which stands where the last one left it."""
        self._tx = tx

    def __iter__(self) -> Iterator[Branch]:
        return iter(self._by_id.values())

    def __getitem__(self, branch: int) -> Branch:
        """The branch with a number. Raises ``DamagedFile`` when there is none."""
        try:
            return self._by_id[branch]
        except KeyError as exc:
            raise DamagedFile(f"the database has lost branch {branch}") from exc

    def feeds(self) -> list[FeedKey]:
        """The feeds that the branches are of."""
        return list(self._of_feed)

    def of_feed(self, feed: FeedKey) -> list[Branch]:
        """The branches of a feed: one, or more when it has forked."""
        return self._of_feed.get(feed, [])

    def add(
        self, feed: FeedKey, uid: bytes, author: Author, *, parent: int | None = None, first_seq: int = 0
    ) -> Branch:
        """A branch that was not known."""
        if self._last_id is None:
            (last,) = self._tx.fetch_one(self._sql.last_branch)
            self._last_id = last or 0
        self._last_id += 1
        branch = Branch(
            self._last_id, uid, feed, author, parent, first_seq, first_seq, disputed=parent is not None, is_new=True
        )
        self._keep(branch)
        return branch

    def clock(self) -> dict[int, int]:
        """A vector of everything that was taken in."""
        return dict(self._clock)

    def are_all_in(self, vector: Vector) -> bool:
        """Whether everything that was taken in is included in a vector."""
        return covers(vector, self._clock)

    def take(self, branch: Branch, facts: EntryFacts, past: dict[int, int], *, recorded: bool) -> None:
        """Record that an entry was taken in; ``recorded``: its past is to stand in its row."""
        branch.head, branch.past = facts, past
        self._clock[branch.id] = facts.seq
        branch.next_seq = facts.seq + 1
        branch.changed = True
        self._unwritten[facts.branch, facts.seq] = facts
        if recorded:
            self._unwritten_pasts.setdefault(branch.id, []).append((facts.seq, past))
        self._remember(facts)

    def find(self, reference: Reference) -> EntryFacts | None:
        """The entry that a reference means, when it was taken in."""
        for branch in self.of_feed(FeedKey(reference.feed)):
            if reference.index >= branch.first_seq:
                facts = self.facts(branch.id, reference.index)
                if facts is not None and facts.leaf == reference.leaf_hash:
                    return facts
        return None

    def facts(self, branch: int, seq: int) -> EntryFacts | None:
        """The entry at an index of a branch, when it is one of this database and was taken in."""
        known = self._facts.get((branch, seq)) or self._unwritten.get((branch, seq))
        if known is None:
            row = self._tx.fetch_one(self._sql.txn, (branch, seq))
            if row is None:
                return None
            _, _, _, lamport, reading, leaf, _, _ = row
            known = EntryFacts(branch, seq, *checked((lamport, reading, leaf), int, int, bytes))
            self._remember(known)
        return known

    def block(self, branch: int, seq: int, leaf: bytes) -> bytes:
        """The block of an entry that was taken in; that of a feed that forked may be beside the ledger."""
        return read_block(self._tx, self._sql, self[branch].feed, seq, leaf)

    def is_excluded(self, branch: int, seq: int) -> bool:
        """Whether an entry does not count because no revocation or dismissal vouches for it."""
        excluded_from = self[branch].excluded_from
        return excluded_from is not None and seq >= excluded_from

    def is_continued(self, branch: Branch) -> bool:
        """Whether another feed of its device that is here goes on from the branch's feed: nothing more comes in it."""
        return (branch.feed, branch.author.device) in self._continued

    def reference(self, facts: EntryFacts) -> Reference:
        """The reference that means an entry on every replica."""
        return Reference(self._by_id[facts.branch].feed, facts.seq, facts.leaf)

    def entry_id(self, branch: int, seq: int) -> bytes:
        """``sync.transaction.entry_id`` of an entry that was taken in. Raises ``DamagedFile`` when it is missing."""
        facts = self.facts(branch, seq)
        if facts is None:
            raise DamagedFile(f"the database has lost entry {seq} of branch {branch}")
        return entry_id(self.reference(facts))

    def past_of(self, branch: int, seq: int) -> Vector:
        """The causal past of an entry that was taken in."""
        held = self[branch]
        if held.head is not None and held.head.seq == seq:
            return held.past
        known = self._pasts.get((branch, seq))
        if known is None:
            known = self._recorded_past(branch, seq)
            if seq > held.first_seq:
                known[branch] = seq - 1
            if len(self._pasts) >= _REMEMBERED:
                self._pasts.clear()
            self._pasts[branch, seq] = known
        return known

    def _recorded_past(self, branch: int, seq: int) -> dict[int, int]:
        """The newest past that was recorded with an entry up to an index of the branch."""
        unwritten = self._unwritten_pasts.get(branch, [])
        behind = bisect_right(unwritten, seq, key=lambda one: one[0])
        if behind:
            return dict(unwritten[behind - 1][1])
        row = self._tx.fetch_one(self._sql.past, (branch, seq))
        if row is None:
            raise DamagedFile(f"the database has lost what entry {seq} of branch {branch} had seen")
        return decode_vector(checked(row, bytes)[0])

    def newest_before(self, at: EntryFacts | None, seq: int) -> EntryFacts | None:
        """Of an entry and those before it in its feed the newest one before an index; all of them are written."""
        while at is not None and at.seq >= seq:
            row = self._tx.fetch_one(self._sql.txn_before, (at.branch, seq - 1))
            if row is not None:
                return self.facts(at.branch, row[0])
            parent = self[at.branch].parent
            at = None if parent is None else self[parent].head
        return at

    def next_after(self, at: EntryFacts) -> int | None:
        """The index of the entry behind one in its branch; None when it is the last. All of them are written."""
        row = self._tx.fetch_one(self._sql.txns_behind, (at.branch, at.seq, 1))
        return None if row is None else checked(row, int, int, int, bytes)[1]

    def ends_forked(self, branch: Branch) -> bool:
        """Whether other branches begin where it ends."""
        return any(one.parent == branch.id for one in self.of_feed(branch.feed))

    def newest_of(self, vector: Vector) -> dict[int, int]:
        """A vector without the branches that others of it go on from: what is new in it, feed by feed."""
        parents = {self[branch].parent for branch in vector}
        return {branch: seq for branch, seq in vector.items() if branch not in parents}

    def seen_within(self, vector: Vector) -> dict[int, int]:
        """What branches are for who knows only what is in a vector: a fork shows there when two of its sides do.

        For each branch that goes by another one's name then, that one.
        """
        sides = Counter(self[branch].parent for branch in vector)
        names = {}
        for branch in self:
            at = branch
            while at.parent is not None and sides[at.parent] < 2:
                at = self[at.parent]
            if at is not branch:
                names[branch.id] = at.id
        return names

    def with_entry(self, into: dict[int, int], facts: EntryFacts) -> None:
        """Add an entry and its causal past to a vector."""
        join(into, self.past_of(facts.branch, facts.seq))
        join(into, {facts.branch: facts.seq})

    def flush(self) -> None:
        """Write what has changed."""
        for branch in self:
            waits = None if branch.waits_for is None else encode_reference(branch.waits_for)
            moves = (branch.next_seq, int(branch.disputed), branch.excluded_from, waits)
            if branch.is_new:
                row = (branch.id, self._database, branch.uid, branch.feed, branch.parent, branch.first_seq, *moves)
                self._tx.execute(self._sql.add_branch, row)
            elif branch.changed:
                self._tx.execute(self._sql.move_branch, (*moves, branch.id))
            branch.is_new = branch.changed = False

    def entries_written(self) -> None:
        """The rows of all entries that were taken in are there now."""
        self._unwritten.clear()
        self._unwritten_pasts.clear()

    def _keep(self, branch: Branch) -> None:
        self._by_id[branch.id] = branch
        self._of_feed.setdefault(branch.feed, []).append(branch)
        if branch.head is not None:
            self._clock[branch.id] = branch.head.seq

    def _check_parents(self, branch: Branch) -> None:
        """Return only when a branch goes back to one that begins a feed."""
        met = {branch.id}
        while branch.parent is not None:
            branch = self[branch.parent]
            if branch.id in met:
                raise DamagedFile(f"branch {branch.id} goes on from itself")
            met.add(branch.id)

    def _remember(self, facts: EntryFacts) -> None:
        if len(self._facts) >= _REMEMBERED:
            self._facts.clear()
        self._facts[facts.branch, facts.seq] = facts

    def _read(self, row: Sequence[Any], head: Sequence[Any] | None, past: object) -> Branch:
        number, uid, feed, parent, first_seq, next_seq, disputed, excluded_from, waits_for = row
        checked((number, uid, feed, first_seq, next_seq, disputed), int, bytes, bytes, int, int, int)
        if not {type(parent), type(excluded_from)} <= {int, type(None)}:
            raise DamagedFile(f"branch {number} has a row that cannot be")
        branch = Branch(
            number,
            uid,
            FeedKey(feed),
            self.author(FeedKey(feed)),
            parent,
            first_seq,
            next_seq,
            bool(disputed),
            excluded_from,
            None if waits_for is None else decode_reference(waits_for),
        )
        if head is not None:
            branch.head = EntryFacts(*checked(head, int, int, int, int, bytes))
            if past is None:
                raise DamagedFile(f"the database has lost what branch {number} had seen")
            branch.past = decode_vector(checked((past,), bytes)[0])
            if branch.head.seq > first_seq:
                branch.past[number] = branch.head.seq - 1
        return branch

    def author(self, feed: FeedKey) -> Author:
        """Who writes a feed. Raises ``DamagedFile`` when it is not one of ours."""
        state = self._tx.feed(feed)
        aside = self._tx.fetch_one(self._sql.side_manifest, (feed,)) if state is None else None
        told = checked(aside, bytes)[0] if aside is not None else None if state is None else state.manifest
        found = None if told is None else _described(told)
        if found is None:
            raise DamagedFile(f"the database has lost feed {feed.hex()}")
        device, description = found
        if description.continues is not None:
            self._continued.add((FeedKey(description.continues.key), device))
        return Author(feed, device, description.identity)


@lru_cache(maxsize=1024)
def _described(manifest: bytes) -> tuple[bytes, FeedDescription] | None:
    """The device that signs a feed, and what its manifest says of it; None when that is nothing that we know."""
    parsed = parse_manifest(manifest)
    description = describe(parsed)
    return None if description is None else (device_key(parsed), description)


def encode_reference(reference: Reference) -> bytes:
    """The form in which a store keeps a reference."""
    return reference.feed + reference.index.to_bytes(8, "big") + reference.leaf_hash


def decode_reference(data: bytes) -> Reference:
    """Read ``encode_reference`` back. Raises ``DamagedFile``."""
    if type(data) is not bytes or len(data) != 72:
        raise DamagedFile("the database waits for something that is no entry")
    return Reference(data[:32], int.from_bytes(data[32:40], "big"), data[40:])

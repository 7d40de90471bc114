"""Taking entries in: from feeds to documents, each entry after everything that it had seen.

Implements docs/spec/transaction.md, section "Taking an entry in". An entry whose past is not complete waits, and with
it what follows in its feed; nothing is kept for it, because the feed has it. An entry that is here is placed: its
causal past is computed, and its form, its author's standing and the schema of its time are judged. Each of these
depends on the entry and its past alone, so every replica comes to the same. What is found wanting is masked: recorded
with the reason, without effect. Only one judgement can change later: a revocation or a dismissal excludes entries
wherever it arrives, and then the documents that they had touched are made anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from identity.encoding import encode, encode_stored
from identity.errors import MalformedError
from ledger.manifest import describe, parse_manifest
from ledger.merkle import leaf_node
from ledger.store import FeedKey, StoredEvent
from ledger.values import Reference
from sync.acts import MemberEntry, Role
from sync.cells import FLAGS, DotKey, LiveDot, StoredOp
from sync.content import Content, ReadEntry, entry_of, read_entry
from sync.intent import intent_key
from sync.membership import Membership, Refusal
from sync.serial import DECIDE, HOME, PROPOSE, HomeEntry, Proposal, Rejection
from sync.storage.branches import Branch, Branches, EntryFacts
from sync.storage.documents import Document, Documents
from sync.storage.forks import Track, Tracks, branch_id, branch_to_extend, end_of, split_branch
from sync.storage.queries import Queries
from sync.storage.schemas import Schemas
from sync.storage.serial import Homes, Proposals
from sync.storage.standing import Standing
from sync.transaction import (
    CKPT,
    ERASE,
    HOLDS,
    MEMBER,
    SCHEMAS,
    TXN,
    Dot,
    Erasure,
    Op,
    Stamp,
    StateRoot,
    Transaction,
    Verb,
    path_text,
)
from sync.vector import Vector, encode_vector, join, sees

__all__ = ["KIND_NUMBER", "Projection", "Taken", "feed_name"]

KIND_NUMBER: Final = {TXN: 1, MEMBER: 2, CKPT: 3, ERASE: 4, PROPOSE: 5, DECIDE: 6, HOME: 7}
"""How a store writes the kind of an entry."""

_BLOCKS_A_TIME: Final = 1024
_BLOCKS_AT_FIRST: Final = 16
"""Of a feed that soon waits for another again, as two that answer each other do, few are read in vain."""
_ENTRIES_HELD: Final = 16_384
_OPS_HELD: Final = 65_536
"""Entries and operations that are taken in before they are written: what bounds the memory, however many there are."""


def feed_name(database: bytes) -> str:
    """What the feeds of a database are called."""
    return f"database {database.hex()}"


@dataclass(frozen=True, slots=True)
class Taken:
    """An entry that was taken in. ``masked`` says why it has no effect."""

    place: int
    masked: str | None


@dataclass(frozen=True, slots=True)
class _Placed:
    """An entry's place in causality. ``reason``: its stamp is not true."""

    past: dict[int, int]
    lamport: int
    reading: int
    reason: str | None


class _Waits(Exception):
    def __init__(self, reference: Reference) -> None:
        super().__init__()
        self.reference = reference


class Projection:
    """One database as its tables have it, in the transaction that ``begin`` was given.

    It may be kept from one transaction to the next: ``begin`` notices when somebody else has written in between.
    """

    def __init__(self, uid: bytes, number: int, queries: Queries) -> None:
        self.uid = uid
        self._number = number
        self._sql = queries
        self._left: object = None
        self._woken: deque[FeedKey] = deque()
        """Feeds that may go on, in the order in which they are looked at."""
        self._awaited: dict[tuple[bytes, int], list[FeedKey]] = {}
        """By the entry that they wait for, feeds that cannot."""
        self._tracks: Tracks | None = None
        self._has_indexes = False
        """Whether the indexes over fields are known to be those that the schemas ask for."""

    def begin(self, tx: Any) -> None:
        """Go on in ``tx``, a write transaction of the store."""
        self._tx = tx
        stands = self._stands()
        if self._left is None or stands != self._left:
            self._load(tx)
        else:
            self.branches.use(tx)
            self.documents.use(tx)
            self.proposals.use(tx)
        self._left = None
        self._tracks = None

    def forget(self) -> None:
        """Read everything again when it is next begun: what was finished may not have been committed."""
        self._left = None
        self._has_indexes = False

    def _stands(self) -> tuple[Any, ...]:
        newest = self._tx.fetch_one(self._sql.newest)
        (rebuilt,) = self._tx.fetch_one(self._sql.last_rebuild)
        (branch,) = self._tx.fetch_one(self._sql.last_branch)
        return (None if newest is None else tuple(newest), rebuilt, branch)

    def _load(self, tx: Any) -> None:
        newest, rebuilt, _ = self._stands()
        self.next_place: int = max(0 if newest is None else newest[0] + newest[1], rebuilt or 0) + 1
        self.branches = Branches(tx, self._sql, self._number)
        self.documents = Documents(tx, self._sql, self._number, self.uid, self.branches)
        self._txns: dict[tuple[int, int], tuple[Any, ...]] = {}
        self._has_guards = tx.fetch_one(self._sql.any_guard) is not None
        self.standing = Standing(self.uid, self.branches)
        self.schemas = Schemas(self.documents, self.branches, self.standing, self._history)
        self.standing.load(tx.fetch_all(self._sql.others, (self._number,)), KIND_NUMBER[MEMBER])
        self.homes = Homes(self.branches, self.standing)
        self.homes.load(tx.fetch_all(self._sql.of_kind, (self._number, KIND_NUMBER[HOME])))
        self.proposals = Proposals(tx, self._sql, self.branches, self.homes, self._flush_entries)

    def finish(self) -> None:
        """Write everything that was taken in."""
        self.flush()
        self._left = self._stands()

    def flush(self) -> None:
        """Write what was taken in so far, for who reads it in the same transaction; more may follow."""
        self._flush_entries()
        changed = self.documents.flush(self._indexed)
        self._follow_schemas({name.key for name in changed if name.collection == SCHEMAS})

    def _follow_schemas(self, changed: set[str]) -> None:
        """Let collections whose schema has changed have the indexes that it asks for; the first time, all of them."""
        collections = set(changed)
        if not self._has_indexes:
            collections.update(row[0] for row in self._tx.fetch_all(self._sql.shown, (self._number, SCHEMAS)))
        if collections:
            from sync.storage.fieldindex import follow_schema  # it reads, and what reads builds on this module

            for collection in sorted(collections):
                indexed, has_changed = self._indexed(collection), collection in changed
                follow_schema(self._tx, self._sql, self._number, self.uid, collection, indexed, has_changed=has_changed)
        self._has_indexes = True

    def written(self) -> tuple[Any, Queries, int]:
        """Write what was taken in so far; what reads it: the transaction, its statements, the database's number."""
        self.flush()
        return self._tx, self._sql, self._number

    def _indexed(self, collection: str) -> tuple[str, ...]:
        schema = self.schemas.in_force(collection)
        return () if schema is None else schema.indexed

    def _flush_entries(self) -> None:
        self.branches.flush()
        if self._txns:
            self._tx.insert_many(self._sql.add_txn, self._txns.values())
            self._txns = {}
            self.branches.entries_written()
        self.documents.flush_ops()
        if self._tracks is not None:
            self._tracks.flush()

    # --- what an entry of ours says it has seen ---

    def own_branch(self, feed: FeedKey) -> Branch:
        """The branch that a feed of this node is."""
        found = self.branches.of_feed(feed)
        return found[-1] if found else self._begin_branch(feed)

    def _begin_branch(self, feed: FeedKey) -> Branch:
        branch = self.branches.add(feed, feed, self.branches.author(feed))
        membership = self.standing.within(None)
        branch.excluded_from = membership.cut(branch.author)
        branch.disputed = membership.disputed(branch.author.identity)
        return branch

    def identity_events(self, identity: bytes) -> list[StoredEvent]:
        """The events of an identity that the store has."""
        events: list[StoredEvent] = self._tx.identity_events(identity)
        return events

    def documents_shown(self, collection: str) -> list[tuple[Any, ...]]:
        """The keys of a collection's documents that a reader finds, a row each."""
        self.flush()
        rows: list[tuple[Any, ...]] = self._tx.fetch_all(self._sql.shown, (self._number, collection))
        return rows

    def next_stamp(
        self, branch: Branch, reading_after: Callable[[int, list[int]], int], most: int | None = None
    ) -> Stamp:
        """The stamp of the next entry of a branch of ours, which has seen everything that is here; with ``most``, at
        most so many entries of others that it had not seen, and what those had seen.

        ``reading_after`` makes its clock reading from the branch's last one and those of what is new.
        """
        known = {} if branch.head is None else {**branch.past, branch.id: branch.head.seq}
        fresh = [one.head for one in self.branches if one.head and not sees(known, one.id, one.head.seq)]
        pasts: dict[int, int] = {}
        for facts in fresh:
            join(pasts, self.branches.past_of(facts.branch, facts.seq))
        heads = [one for one in fresh if not sees(pasts, one.branch, one.seq)][:most]
        seen = [facts.lamport for facts in heads] + ([] if branch.head is None else [branch.head.lamport])
        deps = sorted(map(self.branches.reference, heads), key=lambda one: (one.feed, one.index, one.leaf_hash))
        return Stamp(
            self.uid,
            None if branch.head is None else self.branches.reference(branch.head),
            tuple(deps),
            1 + max(seen, default=-1),
            reading_after(0 if branch.head is None else branch.head.reading, [facts.reading for facts in heads]),
        )

    # --- taking entries in ---

    def take_own(self, branch: Branch, seq: int, block: bytes, kind: str, content: Content, now_ms: int) -> Taken:
        """Take in an entry that is being written, which has seen everything that is here."""
        return self._take(
            branch, seq, leaf_node(seq, block).hash, ReadEntry(kind, content.stamp, content, None), now_ms
        )

    def refusal_of(self, branch: Branch, kind: str, content: Content) -> str | None:
        """Why the author of an entry that has seen everything that is here may not write it; None: it may."""
        past = self.branches.clock()
        if isinstance(content, StateRoot) and (reason := self._misstatement(content, past)) is not None:
            return reason
        refusal = self._refusal(branch, kind, content, past) or self.proposals.fault_of(branch.author, content, past)
        is_excluded = branch.excluded_from is not None and kind != MEMBER
        return "it was revoked or dismissed" if refusal is None and is_excluded else refusal

    def misfit_of(self, content: Content) -> str | None:
        """Why an entry that has seen everything that is here does not fit the schemas; None: it does."""
        ops = content.ops if isinstance(content, Transaction) else ()
        return self.schemas.misfit(ops, self.branches.clock(), is_complete=True)

    def context_of(self, op: Op) -> frozenset[DotKey] | None:
        """The dots of an operation's context by their numbers here. Raises ``MalformedError``."""
        return self._context(op, self.branches.clock())

    def take_new(self, now_ms: int, advance: Callable[[int], None] | None = None) -> int:
        """Take in every entry of the database's feeds whose past is here. Returns how many were taken in.

        ``advance`` is told how many blocks were looked at.
        """
        self._discover()
        self._awaited.clear()
        self._woken = deque(self.branches.feeds())
        taken, went_on = 0, True
        while went_on:
            before = taken
            while self._woken:
                feed = self._woken.popleft()
                if feed not in self.tracks:
                    taken += self._advance(self.branches.of_feed(feed)[0], now_ms, advance)
            for track in self.tracks:
                taken += self._advance_track(track, now_ms, advance)
            went_on = taken > before
        if any(self.tracks):
            self._exclude()  # how far a side is vouched for can change with every block of it
        return taken

    def _discover(self) -> None:
        """Find feeds that are new: those with the database's name."""
        name = feed_name(self.uid)
        for state in self._tx.feeds():
            if not self.branches.of_feed(state.key):
                description = describe(parse_manifest(state.manifest))
                if description is not None and description.name == name:
                    self._begin_branch(state.key)
        self.tracks.begin(self.branches, self._begin_branch)

    @property
    def tracks(self) -> Tracks:
        """How far the lines of feeds that forked were taken in."""
        if self._tracks is None:
            self._flush_entries()
            self._tracks = Tracks(self._tx, self._sql, self._number, self.branches)
        return self._tracks

    def waiting(self) -> Iterator[tuple[FeedKey, int, Reference]]:
        """For each line that cannot go on: its feed, the index of its next entry, and what that waits for."""
        for branch in self.branches:
            if branch.waits_for is not None:
                yield branch.feed, branch.next_seq, branch.waits_for
        for track in self.tracks:
            if track.waits_for is not None:
                yield track.line.feed, track.next_seq, track.waits_for

    def advance(self, branch: Branch, now_ms: int) -> bool:
        """Take in what is new in one branch. Returns whether all of it could be."""
        self._advance(branch, now_ms, None)
        return branch.waits_for is None

    def _advance(self, branch: Branch, now_ms: int, advance: Callable[[int], None] | None) -> int:
        """Take in what can be of one branch."""
        taken = 0
        if branch.waits_for is not None and self.branches.find(branch.waits_for) is None:
            self._await(branch.feed, branch.waits_for)
            return 0
        for seq, block in self._blocks(branch):
            entry = entry_of(self.uid, block)
            if entry is not None:
                leaf, read = leaf_node(seq, block).hash, read_entry(entry)
                try:
                    if not self._is_stray(branch.feed, branch.head, seq, leaf, read, now_ms):
                        self._take(branch, seq, leaf, read, now_ms)
                        taken += 1
                except _Waits as waits:
                    branch.waits_for, branch.changed = waits.reference, True
                    self._await(branch.feed, waits.reference)
                    return taken
            branch.next_seq, branch.waits_for, branch.changed = seq + 1, None, True
            self._relieve()
            if advance is not None:
                advance(1)
        return taken

    def _await(self, feed: FeedKey, reference: Reference) -> None:
        """Look at a feed again when an entry is there, and not each time that anything has come."""
        self._awaited.setdefault((reference.feed, reference.index), []).append(feed)

    def _relieve(self) -> None:
        if len(self._txns) >= _ENTRIES_HELD or self.documents.unwritten_ops >= _OPS_HELD:
            self.flush()
            if self._sql.mark != "?":
                # PostgreSQL goes on with plans of when the tables were empty, and reads them whole for each document.
                self._tx.execute("ANALYZE database_document, database_op, database_txn", ())

    def _advance_track(self, track: Track, now_ms: int, advance: Callable[[int], None] | None) -> int:
        """The same for one line of a feed that has several."""
        taken = 0
        if track.waits_for is not None and self.branches.find(track.waits_for) is None:
            return 0
        for seq, block in enumerate(track.line.blocks(track.next_seq, track.line.length), track.next_seq):
            entry = entry_of(self.uid, block)
            if entry is not None:
                try:
                    taken += self._meet(track, seq, leaf_node(seq, block).hash, read_entry(entry), now_ms)
                except _Waits as waits:
                    track.waits_for, track.changed = waits.reference, True
                    return taken
            track.next_seq, track.waits_for, track.changed = seq + 1, None, True
            self._relieve()
            if advance is not None:
                advance(1)
        return taken

    def _meet(self, track: Track, seq: int, leaf: bytes, read: ReadEntry, now_ms: int) -> int:
        """Take in the next entry of a line, when no other line has brought it. Returns how many were taken in."""
        feed = track.line.feed
        if self._is_stray(feed, track.at, seq, leaf, read, now_ms):
            return 0
        known = self.branches.find(Reference(feed, seq, leaf))
        if known is None:
            assert read.stamp is not None  # else it were a stray
            self._seen(feed, read.stamp)  # nothing is split for an entry that has to wait
            branch = self._branch_behind(feed, track.at, seq, leaf)
            self._take(branch, seq, leaf, read, now_ms)
            track.at = self.branches[branch.id].head
            return 1
        track.at = known
        return 0

    def _branch_behind(self, feed: FeedKey, before: EntryFacts | None, seq: int, leaf: bytes) -> Branch:
        """The branch for an entry that stands behind ``before``."""
        branch, has_to_end = branch_to_extend(self.branches, feed, before)
        if has_to_end:
            self._split(branch, before)
            branch = self.branches[branch.id]
        if not self.branches.ends_forked(branch):
            return branch
        uid = branch_id(feed, seq, leaf)
        new = self.branches.add(feed, uid, branch.author, parent=branch.id, first_seq=seq)
        new.excluded_from = self._end_of(new, self.standing.within(None))
        return new

    def _split(self, branch: Branch, before: EntryFacts | None) -> None:
        """Let a branch end with ``before``. The documents that were written to behind it are made anew."""
        self.flush()
        new, touched = split_branch(self._tx, self._sql, self.branches, branch, before)
        self._load(self._tx)
        self.tracks.moved(self.branches, branch.id, self.branches[new.id])
        self._rebuild(touched)

    def _is_stray(
        self, feed: FeedKey, before: EntryFacts | None, seq: int, leaf: bytes, read: ReadEntry, now_ms: int
    ) -> bool:
        """Whether an entry has no place, because it does not name the one before it: then that is all that is kept."""
        reason = "back is not the entry before it"
        if read.stamp is None:
            reason = read.reason or "malformed: no stamp"
        elif read.stamp.back == (None if before is None else self.branches.reference(before)):
            return False
        row = (self._number, feed, seq, leaf, KIND_NUMBER[read.kind], reason, now_ms)
        self._tx.execute(self._sql.add_stray, row)
        return True

    def _blocks(self, branch: Branch) -> Iterator[tuple[int, bytes]]:
        """The blocks of a branch that were not looked at, in pieces: entries are written in between."""
        state = self._tx.feed(branch.feed)
        length = 0 if state is None else state.length
        size = _BLOCKS_AT_FIRST
        while branch.next_seq < length:
            start = branch.next_seq
            stop, size = min(start + size, length), min(2 * size, _BLOCKS_A_TIME)
            yield from enumerate(list(self._tx.blocks(branch.feed, start, stop)), start)
            if branch.next_seq == start:
                return

    def _take(self, branch: Branch, seq: int, leaf: bytes, read: ReadEntry, now_ms: int) -> Taken:
        assert read.stamp is not None  # else it were a stray
        placed = self._place(branch, read.stamp)
        reason = read.reason or placed.reason
        content = read.content if reason is None else None
        is_complete = self.branches.are_all_in(placed.past)
        ops: Sequence[Op] = content.ops if isinstance(content, Transaction) else ()
        contexts: list[frozenset[DotKey] | None] = []
        try:
            contexts = [None if op.context is None else self._context(op, placed.past) for op in ops]
        except MalformedError as exc:
            reason, ops = str(exc), ()
        if reason is None and isinstance(content, StateRoot):
            reason = self._misstatement(content, placed.past)
        if reason is None:
            reason = (
                self._refusal(branch, read.kind, content, placed.past)
                or self.proposals.fault_of(branch.author, content, placed.past)
                or self.schemas.misfit(ops, placed.past, is_complete=is_complete)
            )
        place = self._record(branch, seq, leaf, read.kind, len(ops), placed, reason, now_ms)
        counts = reason is None and not self.branches.is_excluded(branch.id, seq)
        effect = self.documents.apply if counts else self.documents.record_masked
        past = None if is_complete else placed.past
        number, new_tuple = branch.id, tuple.__new__  # half the time of LiveDot(...), for each operation of a merge
        document = None
        for at, (op, context) in enumerate(zip(ops, contexts, strict=True)):
            verb, name, path, value, _ = op
            if document is None or name is not document.name:
                if name.collection == SCHEMAS:
                    self.schemas.expect(name.key)
                document = self.documents[name]
            dot = new_tuple(LiveDot, (place + 1 + at, number, seq, at, verb, path_text(path), encode_stored(value)))
            effect(document, dot, context, past)
        if reason is None:
            self._follow(branch, seq, leaf, content, place, past)
        return Taken(place, reason)

    def _follow(
        self, branch: Branch, seq: int, leaf: bytes, content: Content | None, place: int, past: Vector | None
    ) -> None:
        """What an entry that is in order entails beside its operations."""
        match content:
            case Transaction():
                self._watch(content, place, past)
                self._note_undone(content, place, past)
                self.proposals.add(content, place)
                self._note_intent(content, place)
            case Proposal() | Rejection():
                self.proposals.add(content, place)
            case HomeEntry():
                self.homes.add(branch, seq, leaf, content, self.branches.past_of(branch.id, seq))
            case MemberEntry():
                self.standing.add(branch, seq, leaf, content)
                self._exclude()

    # --- causality ---

    def _place(self, branch: Branch, stamp: Stamp) -> _Placed:
        """Where an entry stands. Raises ``_Waits`` when something that it had seen is not here."""
        before = branch.head or self._before_fork(branch)
        past = {} if before is None else dict(self.branches.past_of(before.branch, before.seq))
        if before is not None:
            past[before.branch] = before.seq
        lamport, reading = (0, 0) if before is None else (before.lamport + 1, before.reading)
        seen = self._seen(branch.feed, stamp)
        if seen is None:
            return _Placed(past, lamport, reading, "deps name an entry of its own feed")
        joined = dict(past)
        for facts in seen:
            self.branches.with_entry(joined, facts)
        expected = max([lamport, *(facts.lamport + 1 for facts in seen)])
        if stamp.lamport != expected:
            return _Placed(past, lamport, reading, f"lam is {stamp.lamport}, and what it had seen makes {expected}")
        if before is not None and stamp.reading <= before.reading:
            return _Placed(past, lamport, reading, "its clock does not go on")
        return _Placed(joined, expected, stamp.reading, None)

    def _seen(self, feed: FeedKey, stamp: Stamp) -> list[EntryFacts] | None:
        """What ``deps`` name; None when that is of its own feed. Raises ``_Waits`` when something is not here."""
        seen = []
        for reference in stamp.deps:
            if reference.feed == feed:
                return None
            facts = self.branches.find(reference)
            if facts is None:
                raise _Waits(reference)
            seen.append(facts)
        return seen

    def _before_fork(self, branch: Branch) -> EntryFacts | None:
        """The entry before the first one of one side of a fork."""
        if branch.parent is None:
            return None
        return self.branches[branch.parent].head

    def _context(self, op: Op, past: Vector) -> frozenset[DotKey] | None:
        """The dots of a context by their numbers here. Raises ``MalformedError`` for one it cannot have."""
        if op.context is None:
            return None
        return frozenset(self._dot(op, dot, past) for dot in op.context)

    def _dot(self, op: Op, dot: Dot, past: Vector) -> DotKey:
        facts = self.branches.find(dot.entry)
        if facts is None or not sees(past, facts.branch, facts.seq):
            raise MalformedError("a context names what it had not seen")
        row = self._tx.fetch_one(self._sql.txn, (facts.branch, facts.seq)) or self._pending_txn(facts)
        found = self.documents.op_at(row[0] + 1 + dot.op) if row is not None and dot.op < row[2] else None
        if found is None or self.documents.by_id(found[1]).name != op.document or not _same_cell(op, found[0]):
            raise MalformedError("a context names a dot of another cell")
        return (facts.branch, facts.seq, dot.op)

    def _pending_txn(self, facts: EntryFacts) -> tuple[Any, ...] | None:
        row = self._txns.get((facts.branch, facts.seq))
        return None if row is None else (row[0], row[3], row[4])

    def heads(self) -> tuple[Reference, ...]:
        """The newest entry of each branch: the cut that everything here is."""
        newest = self.branches.newest_of(self.branches.clock())
        found = (self.branches[branch].head for branch in newest)
        return tuple(self.branches.reference(head) for head in found if head is not None)

    def _misstatement(self, statement: StateRoot, past: Vector) -> str | None:
        facts = (self.branches.facts(branch, seq) for branch, seq in self.branches.newest_of(past).items())
        seen = {self.branches.reference(one) for one in facts if one is not None}
        return None if seen == set(statement.cut) else "its cut is not what it had seen"

    # --- standing ---

    def _refusal(self, branch: Branch, kind: str, content: Content | None, past: Vector) -> str | None:
        if kind == MEMBER:
            return None  # the fold of all acts judges it
        membership = self.standing.within(past)
        refusal = membership.may_write(branch.author)
        if refusal is None and _takes_an_admin(content):
            role = membership.members[branch.author.identity].role
            refusal = None if role is Role.ADMIN else Refusal.NOT_AN_ADMIN
        return None if refusal is None else str(refusal)

    def _exclude(self) -> None:
        """Find which entries do not count any more, or count again, and make the documents anew that they touched."""
        membership = self.standing.within(None)
        touched: set[int] = set()
        for branch in self.branches:
            excluded_from = self._end_of(branch, membership)
            disputed = branch.disputed or membership.disputed(branch.author.identity)
            if excluded_from == branch.excluded_from and disputed == branch.disputed:
                continue
            at = [one for one in (excluded_from, branch.excluded_from) if one is not None]
            since = 0 if disputed != branch.disputed else min(at)
            branch.excluded_from, branch.disputed, branch.changed = excluded_from, disputed, True
            self._flush_entries()
            touched.update(row[0] for row in self._tx.fetch_all(self._sql.touched_from, (branch.id, since)))
        self._rebuild(touched)

    def _end_of(self, branch: Branch, membership: Membership) -> int | None:
        """The index from which on entries of a branch do not count."""
        return end_of(self.branches, self._written_tracks, branch, membership)

    def _written_tracks(self) -> Tracks:
        tracks = self.tracks
        self._flush_entries()
        return tracks

    def _rebuild(self, documents: set[int]) -> None:
        if not documents:
            return
        place = self.next_place
        self.next_place += 1
        for document in map(self.documents.by_id, sorted(documents)):
            history = [
                (one, not masked and not self.branches.is_excluded(one.dot.branch, one.dot.seq))
                for one, masked in self._history(document)
            ]
            self.documents.rebuild(document, history, place)

    def _history(self, document: Document) -> list[tuple[StoredOp, bool]]:
        """Every operation of a document, also of entries that were just taken in, and whether it is masked."""
        self._flush_entries()
        return self.documents.history(document.id)

    # --- effect ---

    def _record(
        self,
        branch: Branch,
        seq: int,
        leaf: bytes,
        kind: str,
        ops: int,
        placed: _Placed,
        reason: str | None,
        now_ms: int,
    ) -> int:
        place = self.next_place
        self.next_place += 1 + ops
        known = {} if branch.head is None else {**branch.past, branch.id: branch.head.seq}
        past = None if branch.head is not None and placed.past == known else encode_vector(placed.past)
        numbers = (KIND_NUMBER[kind], ops, placed.lamport, placed.reading)
        self._txns[branch.id, seq] = (place, branch.id, seq, *numbers, leaf, past, reason, now_ms)
        facts = EntryFacts(branch.id, seq, placed.lamport, placed.reading, leaf)
        self.branches.take(branch, facts, placed.past, recorded=past is not None)
        self._woken.extend(self._awaited.pop((branch.feed, seq), ()))
        return place

    def _watch(self, transaction: Transaction, place: int, past: Vector | None) -> None:
        """Record guards, and which of them were broken by something that was written without knowing of them."""
        if transaction.guards:
            self._has_guards = True
            rows = [(self.documents[guard.document].id, place, guard.etag) for guard in transaction.guards]
            self._tx.insert_many(self._sql.add_guard, rows)
        if past is None or not self._has_guards:
            return
        self._flush_entries()
        contests = []
        for guard in transaction.guards:
            document = self.documents[guard.document].id
            unseen = self._unseen_writers(document, past)
            contests += [(document, place, other, place) for other in unseen if other != place]
        for name in {op.document for op in transaction.ops}:
            document = self.documents[name].id
            for guarded, branch, seq in self._tx.fetch_all(self._sql.guards, (document,)):
                if guarded != place and not sees(past, branch, seq):
                    contests.append((document, guarded, place, place))
        self._tx.update_many(self._sql.add_contest, sorted(set(contests)))

    def _note_undone(self, transaction: Transaction, place: int, past: Vector | None) -> None:
        """Record which entries the transaction takes back: of those that it names, what it had seen."""
        if not transaction.undoes:
            return
        self._flush_entries()
        found = map(self.branches.find, transaction.undoes)
        seen = [facts for facts in found if facts and (past is None or sees(past, facts.branch, facts.seq))]
        places = [self._tx.fetch_one(self._sql.txn, (facts.branch, facts.seq))[0] for facts in seen]
        self._tx.insert_many(self._sql.add_undo, [(place, undone) for undone in places])

    def _note_intent(self, transaction: Transaction, place: int) -> None:
        """Record whose intent the transaction carries, and its number."""
        found = intent_key(transaction)
        if found is not None:
            self._tx.insert_many(self._sql.add_intent, [(place, self._number, *found)])

    def committed_intents(self, key: bytes, sequence: int) -> list[tuple[bytes, Reference, int]]:
        """The digests of intents of a key with that number, the first first, with the entry and its last place."""
        self._flush_entries()
        rows = self._tx.fetch_all(self._sql.intents, (self._number, key, sequence))
        found = []
        for digest, branch, seq, place, ops in rows:
            facts = self.branches.facts(branch, seq)
            assert facts is not None
            found.append((digest, self.branches.reference(facts), place + ops))
        return found

    def _unseen_writers(self, document: int, past: Vector) -> Iterator[int]:
        for branch in self.branches:
            if branch.head is not None and not sees(past, branch.id, branch.head.seq):
                where = (document, branch.id, past.get(branch.id, -1))
                yield from (row[0] for row in self._tx.fetch_all(self._sql.writers_beyond, where))


def _same_cell(op: Op, dot: LiveDot) -> bool:
    """Whether an operation could replace a dot at all."""
    path = path_text(op.path)
    if op.verb is Verb.DEL:
        return dot.verb not in (*FLAGS, Verb.INC) and (dot.path == path or dot.path.startswith(path + "/"))
    if op.verb in (Verb.ADD, Verb.REM):
        return dot.verb is Verb.ADD and dot.path == path and dot.val == encode(op.value)
    return dot.verb is op.verb and dot.path == path


def _takes_an_admin(content: Content | None) -> bool:
    """Whether it destroys what nobody can bring back, or is about what must not be destroyed."""
    told = content.transaction if isinstance(content, Proposal) else content
    return isinstance(told, Erasure) or (
        isinstance(told, Transaction)
        and any(op.verb is Verb.PURGE or op.document.collection == HOLDS for op in told.ops)
    )

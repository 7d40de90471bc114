"""Replay: a database made from its entries alone, straight from the definitions.

Implements docs/spec/transaction.md a second time and without tables, for whoever wants to know whether a state follows
from the feeds: an auditor, the audit of a store, the tests. ``sync.storage`` keeps a state up to date entry by entry,
in the order in which entries come. Here nothing is kept up to date. What every entry had seen comes from its
references; whether an operation is live is asked of all operations of its document at once; so the order in which
feeds or entries are given cannot matter. Only what entries say, who may write and how live values are shown is shared.

Lines are those of ``sync.lines``. An entry that does not name the one before it has no place on one, it is a *stray*.
Blocks of a feed have to be known from the first one on: what stands behind a gap, or rests on an entry that is not
here, is *parked* and left out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from heapq import heapify, heappop, heappush
from itertools import chain
from typing import Final, NamedTuple

from identity.encoding import decode, encode, encode_stored
from identity.errors import MalformedError
from ledger.entry import parse_entry
from ledger.values import Reference
from sync.acts import MemberEntry, Role
from sync.cells import FLAGS, DotKey, LiveDot
from sync.content import Content, ReadEntry, entry_of, read_entry
from sync.intent import intent_key
from sync.lines import KnownFeed, Line, ReplayedEntry, Stray, displaced, draw_lines, end_on
from sync.liveness import EntryKey, Past, ReplayedOp, counters_of, dot_of, live_ops
from sync.membership import Membership, PlacedAct, Refusal, fold_members
from sync.schema import Schema, check_op, check_schema_op, parse_schema
from sync.serial import PROPOSE, Fault, HomeEntry, Proposal, Rejection, Term, carries_out, parse_proposal, term_in_force
from sync.transaction import (
    HOLDS,
    MEMBER,
    SCHEMAS,
    DocumentId,
    Erasure,
    Op,
    Stamp,
    StateRoot,
    Transaction,
    Verb,
    entry_id,
    parse_transaction,
    path_text,
)
from sync.view import ABSENT_ETAG, CounterPart, Rank, View, document_version, etag_of, make_view

__all__ = ["Contest", "Replay", "ReplayedDocument"]


_READ_ENTRIES: Final = 256
"""Transactions that are kept as they were read, for contexts that name them."""


class _Named(NamedTuple):
    """An entry that names a home, and counts. ``begins``: the term does with it; else it asks the home in force."""

    placed: ReplayedEntry
    told: HomeEntry
    begins: bool


class _Believed(NamedTuple):
    """A stamp as far as it is true: what its entry had seen last, lamport and clock, and what is false about it."""

    seen: tuple[ReplayedEntry, ...]
    lamport: int
    reading: int
    falsehood: str | None


@dataclass(frozen=True, slots=True)
class ReplayedDocument:
    """A document: what is live in it, and what that shows. ``version`` None: nothing is live."""

    name: DocumentId
    version: bytes | None
    view: View
    dots: tuple[LiveDot, ...]
    counters: tuple[CounterPart, ...]
    live: frozenset[DotKey]
    """Every operation that is live, increments too."""

    @property
    def etag(self) -> str:
        """As a replica gives it."""
        return ABSENT_ETAG if self.version is None else etag_of(self.version)


class Contest(NamedTuple):
    """A guard that something broke which was written without knowing of it."""

    document: DocumentId
    guarded: Reference
    other: Reference


class Replay:
    """What a set of entries amounts to. Everything is judged when it is made; documents are made when asked for.

    Taken on trust: that blocks, leaf hashes and authors are those of the feeds (``ledger.proof`` shows that).
    """

    def __init__(self, database: bytes, feeds: Iterable[KnownFeed]) -> None:
        self.database = database
        self.parked: dict[Reference, Reference | None] = {}
        """Entries that were left out, and what each waits for; None: for a block of its feed that is missing."""
        self._feeds = {feed.author.feed: feed for feed in feeds}
        self.strays: dict[Reference, Stray] = {}
        """Entries that have no place on a line."""
        self._place_all()
        idle = {_first_on(line) for line in self.lines if line.parent is not None and not line.entries}
        if idle:
            self._place_all(idle)  # what waits makes no fork: the lines are those of what was placed
        self.membership = self._within(frozenset(self._acts))
        """Who may write, as far as all acts that are here say."""
        self.ends = tuple(end_on(line, self._feeds[line.author.feed], self.membership) for line in self.lines)
        """Of each line the index from which on entries do not count, whatever they had seen; None: all of them do."""

    # --- what there is ---

    def find(self, reference: Reference) -> ReplayedEntry | None:
        """The entry that the reference means, when it was placed."""
        found = self._placed.get((reference.feed, reference.index), ())
        return next((entry for entry in found if entry.reference.leaf_hash == reference.leaf_hash), None)

    def entry(self, line: int, index: int) -> ReplayedEntry:
        """The entry at an index of a line. Raises ``KeyError`` when none was placed there."""
        return self.lines[line].entries[index]

    def entries(self) -> Iterator[ReplayedEntry]:
        """Every entry that was placed, line by line."""
        return chain.from_iterable(line.entries.values() for line in self.lines)

    @property
    def masked(self) -> dict[Reference, str]:
        """The entries whose form, standing or schema is bad, and the reason."""
        return {entry.reference: entry.masked for entry in self.entries() if entry.masked is not None}

    def heads(self) -> tuple[Reference, ...]:
        """The newest entry of each feed, and of each side of one that forked: the cut that these entries are."""
        vector = {line.number: line.head.reference.index for line in self.lines if line.head is not None}
        return tuple(sorted(self._newest(vector), key=_spelled))

    def is_excluded(self, line: int, index: int) -> bool:
        """Whether no revocation or dismissal vouches for the entry."""
        end = self.ends[line]
        return end is not None and index >= end

    def counts(self, line: int, index: int) -> bool:
        """Whether the operations of the entry have an effect."""
        return self.entry(line, index).masked is None and not self.is_excluded(line, index)

    def is_disputed(self, line: int) -> bool:
        """Whether the line is one side of a fork, or its author's identity contradicts itself."""
        one = self.lines[line]
        return one.parent is not None or self.membership.disputed(one.author.identity)

    def linear_order(self) -> list[Reference]:
        """The one order of all entries in which each stands behind its past: of those that could be next, the one with
        the smallest clock reading, and of equal ones the smallest entry id."""
        waiting = {entry.key: len(entry.follows) for entry in self.entries()}
        followers: dict[EntryKey, list[ReplayedEntry]] = {}
        for entry in self.entries():
            for key in entry.follows:
                followers.setdefault(key, []).append(entry)
        heap = [_turn(entry) for entry in self.entries() if not entry.follows]
        heapify(heap)
        order = []
        while heap:
            _, _, (line, index) = heappop(heap)
            order.append(self.entry(line, index).reference)
            for entry in followers.get((line, index), ()):
                waiting[entry.key] -= 1
                if not waiting[entry.key]:
                    heappush(heap, _turn(entry))
        return order

    def contests(self) -> frozenset[Contest]:
        """Every pair of a guarded entry and one that wrote to what it guards, neither of which had seen the other."""
        guarded = [(entry, guard.document) for entry in self.entries() for guard in entry.guards]
        writers = self._writers({document for _, document in guarded})
        found = set()
        for entry, document in guarded:
            for line, indices in writers.get(document, {}).items():
                unseen = entry.past.before if line == entry.line else entry.past.seen.get(line, -1)
                for index in indices[bisect_right(indices, unseen) :]:
                    other = self.entry(line, index)
                    if other is entry or other.past.has(*entry.key):
                        break  # and so is or has everything behind it
                    found.add(Contest(document, entry.reference, other.reference))
        return frozenset(found)

    def _writers(self, documents: set[DocumentId]) -> dict[DocumentId, dict[int, list[int]]]:
        """By document and line the indices, ascending, of the entries with an operation about it."""
        writers: dict[DocumentId, dict[int, list[int]]] = {}
        for entry, ops in self.transactions() if documents else ():
            for document in {op.document for op in ops} & documents:
                if entry.masked is None:
                    writers.setdefault(document, {}).setdefault(entry.line, []).append(entry.reference.index)
        return writers

    # --- documents ---

    def documents(self, parts: int = 1) -> Iterator[ReplayedDocument]:
        """Every document that an operation or a guard is about, also those in which nothing is live.

        The blocks are read ``parts`` times, and each time only that part of the documents is held in memory.
        """
        for part in range(parts):
            gathered: dict[DocumentId, list[ReplayedOp]] = {
                guard.document: []
                for entry in self.entries()
                for guard in entry.guards
                if _part(guard.document, parts) == part
            }
            for entry, ops in self.transactions():
                for at, op in enumerate(ops):
                    if _part(op.document, parts) == part:
                        gathered.setdefault(op.document, []).append(self.operation(entry, at, op))
            for name in sorted(gathered):
                yield self.document(name, gathered[name])

    def document(self, name: DocumentId, ops: Iterable[ReplayedOp]) -> ReplayedDocument:
        """The document that operations make, all that were kept of it, in any order."""
        live = live_ops([op for op in ops if self.counts(op.line, op.seq)], self._past)
        dots = tuple(dot_of(op) for op in live if op.verb is not Verb.INC)
        counters = tuple(counters_of(op for op in live if op.verb is Verb.INC))
        view = make_view(dots, counters, self.rank, lambda line, index: self._past(line, index).vector())
        version = None
        if live:
            version = document_version(self.database, name, dots, counters, lambda line: self.lines[line].uid)
        return ReplayedDocument(name, version, view, dots, counters, frozenset(op.key for op in live))

    def transactions(self) -> Iterator[tuple[ReplayedEntry, Sequence[Op]]]:
        """Every entry of which operations were kept, read again from its block."""
        for line in self.lines:
            for block in line.blocks:
                entry = line.entries.get(block.seq)
                if entry is not None and entry.ops:
                    yield entry, parse_transaction(parse_entry(block.block)).ops

    def operation(self, entry: ReplayedEntry, at: int, op: Op) -> ReplayedOp:
        """The operation of an entry with that number, as ``document`` takes it."""
        path, val, context = path_text(op.path), encode_stored(op.value), self._context(op, entry.past)
        return ReplayedOp(entry.line, entry.reference.index, at, op.verb, path, val, context)

    def _past(self, line: int, index: int) -> Past:
        return self.entry(line, index).past

    def rank(self, dot: LiveDot) -> Rank:
        """The order of concurrent values."""
        entry = self.entry(dot.branch, dot.seq)
        return (not self.is_disputed(dot.branch), entry.reading, entry_id(entry.reference))

    # --- placing ---

    def _place_all(self, waiting: Container[Reference] = ()) -> None:
        """Draw the lines, and place every entry whose past is here, each line as far as it goes. ``waiting`` are
        entries that will not be, and known to be parked."""
        self.lines, strays = draw_lines(self.database, self._feeds.values(), waiting)
        self.strays |= strays
        self._placed: dict[tuple[bytes, int], list[ReplayedEntry]] = {}
        self._acts: dict[bytes, PlacedAct] = {}
        self._folds: dict[frozenset[bytes], Membership] = {}
        self._schema_ops: dict[str, list[ReplayedOp]] = {}
        self._named: list[_Named] = []
        self._decided: dict[EntryKey, list[EntryKey]] = {}
        self._schemas: dict[tuple[str, frozenset[DotKey], frozenset[bytes]], Schema | None] = {}
        self._read_ops = lru_cache(maxsize=_READ_ENTRIES)(self._read_ops_of)
        readers = {line.number: self._read_line(line) for line in self.lines}
        ready = [line for line in self.lines if line.parent is None]
        asleep: dict[Reference, list[Line]] = {}
        unfinished: dict[int, Reference | None] = {line.number: None for line in self.lines}
        while ready:
            line = ready.pop()
            for step in readers[line.number]:
                if isinstance(step, ReplayedEntry):
                    ready += asleep.pop(step.reference, ())
                    continue
                unfinished[line.number] = step
                if step is not None:
                    asleep.setdefault(step, []).append(line)
                break
            else:
                del unfinished[line.number]
                ready += [one for one in self.lines if one.parent is line]
        for number, missing in unfinished.items():
            self._park(self.lines[number], missing)

    def _read_line(self, line: Line) -> Iterator[ReplayedEntry | Reference | None]:
        """The entries of a line, each placed; or, as often as it is asked for more, what the next one waits for.

        None: for a block that is missing.
        """
        before = next((one.head for one in line.ancestors if one.head is not None), None)
        expected = 0
        for block in line.blocks:
            while line.is_whole and block.seq != expected:
                yield None
            expected += 1
            entry = entry_of(self.database, block.block)
            if entry is None:
                continue
            read = read_entry(entry)
            reference = Reference(line.author.feed, block.seq, block.leaf_hash)
            fault = displaced(read, None if before is None else before.reference)
            if fault is not None or read.stamp is None:
                self.strays[reference] = Stray(read.kind, fault or "")
                continue
            while (missing := self._missing(line, read.stamp)) is not None:
                yield missing
            before = self._judge(line, reference, read, before)
            line.entries[block.seq] = before
            self._placed.setdefault((line.author.feed, block.seq), []).append(before)
            yield before

    def _park(self, line: Line, missing: Reference | None) -> None:
        """Leave out what was not placed of a line: the first waits for ``missing``, each other for the one before."""
        head = next((one.head for one in (line, *line.ancestors) if one.head is not None), None)
        before = None if head is None else head.reference
        for block in line.blocks:
            entry = None if block.seq in line.entries else entry_of(self.database, block.block)
            reference = Reference(line.author.feed, block.seq, block.leaf_hash)
            if entry is None or reference in self.strays:
                continue
            fault = displaced(read_entry(entry), before)
            if fault is not None and missing is not None:
                self.strays[reference] = Stray(entry.kind, fault)
            else:
                self.parked[reference], missing, before = missing, reference, reference

    def _missing(self, line: Line, stamp: Stamp) -> Reference | None:
        """What a stamp names that is not here, before it names what it must not."""
        for reference in stamp.deps:
            if reference.feed == line.author.feed:
                return None
            if self.find(reference) is None:
                return reference
        return None

    # --- judging ---

    def _judge(self, line: Line, reference: Reference, read: ReadEntry, before: ReplayedEntry | None) -> ReplayedEntry:
        """An entry in its place, whether it counts, and what it means for those that come to see it."""
        assert read.stamp is not None  # else it were a stray
        stamp = self._believe(line, read.stamp, before)
        past = self._past_after(line, stamp.seen)
        reason, content = read.reason or stamp.falsehood, read.content
        ops: Sequence[Op] = content.ops if reason is None and isinstance(content, Transaction) else ()
        if reason is None and content is not None:
            reason, ops = self._refuse(line, read.kind, content, ops, past)
        told = content if isinstance(content, Transaction) and reason is None else None
        undone = () if told is None else tuple(one for one in map(self.find, told.undoes) if one is not None)
        placed = ReplayedEntry(
            reference,
            line.number,
            read.kind,
            len(ops),
            stamp.lamport,
            stamp.reading,
            reason,
            past,
            tuple(one.key for one in stamp.seen),
            () if told is None else told.guards,
            tuple(one.key for one in undone if past.has(*one.key)),
            None if told is None else intent_key(told),
            None if reason is not None else self._proposal_of(content),
        )
        if reason is None:
            self._heed(line, placed, content, ops)
        return placed

    def _believe(self, line: Line, stamp: Stamp, before: ReplayedEntry | None) -> _Believed:
        """What of a stamp is true; of one that is false somewhere, only that its entry stands behind ``before``."""
        seen = () if before is None else (before,)
        lamport, reading = (0, 0) if before is None else (before.lamport + 1, before.reading)
        if any(reference.feed == line.author.feed for reference in stamp.deps):
            return _Believed(seen, lamport, reading, "deps name an entry of its own feed")
        deps = tuple(found for found in map(self.find, stamp.deps) if found is not None)
        expected = max([lamport, *(dep.lamport + 1 for dep in deps)])
        if stamp.lamport != expected:
            falsehood = f"lam is {stamp.lamport}, and what it had seen makes {expected}"
            return _Believed(seen, lamport, reading, falsehood)
        if before is not None and stamp.reading <= before.reading:
            return _Believed(seen, lamport, reading, "its clock does not go on")
        return _Believed(seen + deps, expected, stamp.reading, None)

    def _refuse(
        self, line: Line, kind: str, content: Content, ops: Sequence[Op], past: Past
    ) -> tuple[str | None, Sequence[Op]]:
        """Why an entry whose stamp is true does not count, and the operations that are kept of it all the same."""
        if isinstance(content, StateRoot) and set(content.cut) != self._newest(past.vector()):
            return "its cut is not what it had seen", ()
        try:
            for op in ops:
                self._context(op, past)
        except MalformedError as exc:
            return str(exc), ()
        refusal = self._refusal(line, kind, content, past) or self._serial_fault(line, content, past)
        return (self._misfit(ops, past) if refusal is None else str(refusal)), ops

    def _heed(self, line: Line, placed: ReplayedEntry, content: Content | None, ops: Sequence[Op]) -> None:
        if isinstance(content, MemberEntry):
            act = PlacedAct(placed.reference, line.author, content, placed.past.acts)
            self._acts[entry_id(placed.reference)] = act
        if isinstance(content, HomeEntry):
            self._named.append(_Named(placed, content, self._begins(line, content, placed.past)))
        if placed.decides is not None:
            self._decided.setdefault(placed.decides, []).append(placed.key)
        for at, op in enumerate(ops):
            if op.document.collection == SCHEMAS:
                self._schema_ops.setdefault(op.document.key, []).append(self.operation(placed, at, op))

    def _past_after(self, line: Line, seen: Sequence[ReplayedEntry]) -> Past:
        """The past of an entry that has seen these last, the one before it in its feed first."""
        if len(seen) == 1 and seen[0].line == line.number:
            return Past(line.number, seen[0].reference.index, seen[0].past.seen, self._acts_through(seen[0]))
        acts = frozenset[bytes]().union(*map(self._acts_through, seen))
        joined: dict[int, int] = {}
        for one in seen:
            for number, index in (*one.past.vector().items(), one.key):
                joined[number] = max(index, joined.get(number, -1))
        return Past(line.number, joined.pop(line.number, -1), joined, acts)

    def _acts_through(self, entry: ReplayedEntry) -> frozenset[bytes]:
        """The member entries in the past of one that has seen the entry last."""
        name = entry_id(entry.reference) if entry.kind == MEMBER else b""
        return entry.past.acts | {name} if name in self._acts else entry.past.acts

    def _newest(self, vector: Mapping[int, int]) -> set[Reference]:
        """What is newest in a set of entries: of lines that others of it go on from, nothing."""
        parents = {self.lines[number].parent for number in vector}
        return {self.entry(line, index).reference for line, index in vector.items() if self.lines[line] not in parents}

    # --- contexts ---

    def _context(self, op: Op, past: Past) -> frozenset[DotKey] | None:
        """The dots that a context names. Raises ``MalformedError`` for one that it cannot have."""
        if op.context is None:
            return None
        dots = set()
        for dot in op.context:
            named = self.find(dot.entry)
            if named is None or not past.has(*named.key):
                raise MalformedError("a context names what it had not seen")
            if dot.op >= named.ops or not _could_replace(op, self._read_ops(named.key)[dot.op]):
                raise MalformedError("a context names a dot of another cell")
            dots.add((*named.key, dot.op))
        return frozenset(dots)

    def _read_ops_of(self, key: EntryKey) -> tuple[Op, ...]:
        return parse_transaction(parse_entry(self.lines[key[0]].block(key[1]).block)).ops

    # --- standing ---

    def _within(self, acts: frozenset[bytes]) -> Membership:
        if acts not in self._folds:
            self._folds[acts] = fold_members(self.database, [self._acts[name] for name in acts])
        return self._folds[acts]

    def _refusal(self, line: Line, kind: str, content: Content, past: Past) -> str | None:
        """Why the author might not write that, as far as the entry itself had seen."""
        if kind == MEMBER:
            return None  # the fold of all acts judges them
        membership = self._within(past.acts)
        refusal = membership.may_write(line.author)
        if refusal is None and _takes_an_admin(content):
            role = membership.members[line.author.identity].role
            refusal = None if role is Role.ADMIN else Refusal.NOT_AN_ADMIN
        return None if refusal is None else str(refusal)

    # --- serial writes ---

    def _serial_fault(self, line: Line, content: Content, past: Past) -> str | None:
        """Why an entry does not count as far as homes and proposals go."""
        if isinstance(content, HomeEntry):
            return self._home_fault(line, content, past)
        if isinstance(content, Proposal):
            terms = self._terms(content.transaction.ops, past)
            named = {term.reference for term in terms}
            return None if named == set(content.terms) and _home_of(terms) is not None else Fault.OTHER_TERMS
        if isinstance(content, Rejection) or (isinstance(content, Transaction) and content.decides is not None):
            return self._decision_fault(line, content, past)
        if isinstance(content, Transaction) and self._named:
            elsewhere = {term.home for term in self._terms(content.ops, past)} - {line.author.feed}
            return Fault.NOT_BY_HOME if elsewhere else None
        return None

    def _decision_fault(self, line: Line, content: Transaction | Rejection, past: Past) -> str | None:
        key = self._proposal_of(content)
        if key is None or not past.has(*key) or self.entry(*key).masked is not None:
            return Fault.UNSEEN
        proposal = parse_proposal(parse_entry(self.lines[key[0]].block(key[1]).block))
        terms = self._terms(proposal.transaction.ops, past)
        if {term.reference for term in terms} != set(proposal.terms) or _home_of(terms) != line.author.feed:
            return Fault.NOT_ITS_TERM
        if any(past.has(*other) for other in self._decided.get(key, ())):
            return Fault.DECIDED
        if isinstance(content, Transaction) and not carries_out(content, proposal):
            return Fault.ALTERED
        return None

    def _proposal_of(self, content: Content | None) -> EntryKey | None:
        """The proposal that an entry decides, as far as it was placed."""
        match content:
            case Transaction(decides=Reference() as of) | Rejection(of=of):
                found = self.find(of)
                return found.key if found is not None and found.kind == PROPOSE else None
        return None

    def _home_fault(self, line: Line, told: HomeEntry, past: Past) -> str | None:
        current, membership = self._term(told.collection, past), self._within(past.acts)
        if told.prev != (None if current is None else current.reference):
            return Fault.NOT_NEXT
        named = self._feeds.get(told.home)
        if named is None or self._reach(told.home, past) < 0 or membership.may_write(named.author) is not None:
            return Fault.NO_SUCH_HOME
        if told.asked is not None:
            asked = [
                one.told
                for one in self._named_in(told.collection, past)
                if not one.begins and one.placed.reference == told.asked
            ]
            is_asked = any((one.home, one.prev) == (told.home, told.prev) for one in asked)
            at_home = current is not None and current.home == line.author.feed
            return None if is_asked and at_home else Fault.NOT_ASKED
        is_admin = membership.members[line.author.identity].role is Role.ADMIN
        return None if is_admin else str(Refusal.NOT_AN_ADMIN)

    def _begins(self, line: Line, told: HomeEntry, past: Past) -> bool:
        """Whether a home entry that counts begins a term: there is none, the home itself says so, or its feed ended
        and all that counts of it was seen."""
        current = self._term(told.collection, past)
        if current is None or current.home == line.author.feed:
            return True
        end = self._within(past.acts).cut(self._feeds[current.home].author)
        return end is not None and self._reach(current.home, past) + 1 >= end

    def _reach(self, feed: bytes, past: Past) -> int:
        """The index of the newest entry of a feed in a past; -1 for none."""
        return max(
            (index for number, index in past.vector().items() if self.lines[number].author.feed == feed), default=-1
        )

    def _named_in(self, collection: str, past: Past) -> Iterator[_Named]:
        """The home entries about a collection in a past, but for those of who was excluded as far as known there."""
        membership = self._within(past.acts)
        for one in self._named:
            if one.told.collection == collection and past.has(*one.placed.key):
                end = membership.cut(self.lines[one.placed.line].author)
                if end is None or one.placed.reference.index < end:
                    yield one

    def _term(self, collection: str, past: Past) -> Term | None:
        """The term of a collection that was in force in a past."""
        return term_in_force(
            Term(one.placed.reference, collection, one.told.home, one.told.prev)
            for one in self._named_in(collection, past)
            if one.begins
        )

    def _terms(self, ops: Sequence[Op], past: Past) -> set[Term]:
        found = {self._term(collection, past) for collection in {op.document.collection for op in ops}}
        return {term for term in found if term is not None}

    # --- schemas ---

    def _misfit(self, ops: Sequence[Op], past: Past) -> str | None:
        """Why an operation does not fit the schema that was in force in the past of its entry."""
        for op in ops:
            if op.document.collection == SCHEMAS:
                reason = check_schema_op(op)
            else:
                schema = self._schema(op.document.collection, past)
                reason = None if schema is None else check_op(schema, op)
            if reason is not None:
                return f"schema: {op.document}: {reason}"
        return None

    def _schema(self, collection: str, past: Past) -> Schema | None:
        """The schema of a collection in a past; who is excluded is judged by it as well."""
        seen = [op for op in self._schema_ops.get(collection, ()) if past.has(op.line, op.seq)]
        if not seen:
            return None
        name = (collection, frozenset(op.key for op in seen), past.acts)
        if name not in self._schemas:
            self._schemas[name] = self._schema_of(seen, past)
        return self._schemas[name]

    def _schema_of(self, ops: Sequence[ReplayedOp], past: Past) -> Schema | None:
        membership = self._within(past.acts)
        ends = {op.line: membership.cut(self.lines[op.line].author) for op in ops}
        counted = [op for op in ops if (end := ends[op.line]) is None or op.seq < end]
        live = [op for op in live_ops(counted, self._past) if op.path == "/schema"]
        return parse_schema(decode(max(live, key=self._schema_rank).val)) if live else None

    def _schema_rank(self, op: ReplayedOp) -> tuple[int, bytes, int]:
        """Without whether its line is disputed: that can become known later, and what was judged stays so."""
        entry = self.entry(op.line, op.seq)
        return entry.reading, entry_id(entry.reference), op.op


# --- entries --------------------------------------------------------------------------------------------------------


def _takes_an_admin(content: Content) -> bool:
    """Whether it destroys what nobody can bring back, or is about what must not be destroyed."""
    if isinstance(content, Transaction | Proposal):
        ops = content.ops if isinstance(content, Transaction) else content.transaction.ops
        return any(op.verb is Verb.PURGE or op.document.collection == HOLDS for op in ops)
    return isinstance(content, Erasure)


def _home_of(terms: Iterable[Term]) -> bytes | None:
    """The home that terms have in common; None when there is none, or several."""
    homes = {term.home for term in terms}
    return homes.pop() if len(homes) == 1 else None


def _could_replace(op: Op, named: Op) -> bool:
    """Whether an operation can name that one in its context."""
    if named.document != op.document:
        return False
    if op.verb is Verb.DEL:
        return named.verb not in FLAGS and named.verb is not Verb.INC and named.path[: len(op.path)] == op.path
    if op.verb in (Verb.ADD, Verb.REM):
        return named.verb is Verb.ADD and named.path == op.path and encode(named.value) == encode(op.value)
    return named.verb is op.verb and named.path == op.path


def _first_on(line: Line) -> Reference:
    block = line.blocks[0]
    return Reference(line.author.feed, block.seq, block.leaf_hash)


def _spelled(reference: Reference) -> tuple[bytes, int, bytes]:
    return reference.feed, reference.index, reference.leaf_hash


def _turn(entry: ReplayedEntry) -> tuple[int, bytes, EntryKey]:
    return entry.reading, entry_id(entry.reference), entry.key


def _part(document: DocumentId, parts: int) -> int:
    """Which of so many parts a document belongs to."""
    return int.from_bytes(sha256(encode(list(document))).digest()[:8], "big") % parts if parts > 1 else 0

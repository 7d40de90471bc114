"""Serial writes while entries are taken in: which terms are in force, and what decides which proposal.

Implements docs/spec/serial.md. Each judgement is of an entry in its causal past. ``sync.replay`` makes them a second
time, without tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from identity.errors import DamagedFile, MalformedError
from ledger.entry import parse_entry
from ledger.storage.rows import checked
from ledger.values import Reference
from sync.acts import Role
from sync.content import Content
from sync.membership import Author, Membership, Refusal
from sync.serial import Fault, HomeEntry, Proposal, Rejection, Term, carries_out, parse_home, parse_proposal
from sync.serial import term_in_force as last_of
from sync.storage.branches import Branch, Branches, EntryFacts
from sync.storage.queries import Queries
from sync.storage.standing import Standing
from sync.transaction import Op, Transaction
from sync.vector import Vector, sees

__all__ = ["Homes", "Proposals", "read_proposal"]


class _Placed(NamedTuple):
    """A home entry that counts, and where it stands. ``term`` None: it only asks the home in force."""

    reference: Reference
    branch: int
    seq: int
    author: Author
    entry: HomeEntry
    term: Term | None


class Homes:
    """The homes of a database's collections: every entry that names one, and which of them begin a term."""

    def __init__(self, branches: Branches, standing: Standing) -> None:
        self._branches = branches
        self._standing = standing
        self._placed: dict[str, list[_Placed]] = {}
        self._by_reference: dict[Reference, _Placed] = {}

    def load(self, rows: Iterable[Sequence[Any]]) -> None:
        """Read the home entries among the feeds' that are not masked: rows of branch, seq, leaf, in order of places."""
        for row in rows:
            number, seq, leaf = checked(row, int, int, bytes)
            branch = self._branches[number]
            entry = parse_home(parse_entry(self._branches.block(number, seq, leaf)))
            self.add(branch, seq, leaf, entry, self._branches.past_of(number, seq))

    def __bool__(self) -> bool:
        return bool(self._placed)

    @property
    def collections(self) -> list[str]:
        """The collections that an entry is about."""
        return sorted(self._placed)

    def add(self, branch: Branch, seq: int, leaf: bytes, entry: HomeEntry, past: Vector) -> None:
        """Let one more entry count, which was found to be in order."""
        reference = Reference(branch.feed, seq, leaf)
        term = None
        if self._begins(branch.author, entry, past):
            term = Term(reference, entry.collection, entry.home, entry.prev)
        placed = _Placed(reference, branch.id, seq, branch.author, entry, term)
        self._placed.setdefault(entry.collection, []).append(placed)
        self._by_reference[reference] = placed

    def in_force(self, collection: str, past: Vector | None = None) -> Term | None:
        """The term of a collection that is in force in ``past``; None: now."""
        if collection not in self._placed:
            return None
        counting = self._counting(collection, past)
        return last_of(one.term for one in counting if one.term is not None)

    def author_of(self, feed: bytes) -> Author:
        """Who writes a feed that is a home."""
        return self._branches.of_feed(feed)[0].author  # type: ignore[arg-type]

    def asking(self, term: Term) -> Iterator[HomeEntry]:
        """What admins ask the home of a term in force for, as it would grant it, in the order in which it came."""
        for placed in self._counting(term.collection, None):
            if placed.term is None and placed.entry.prev == term.reference:
                yield replace(placed.entry, asked=placed.reference)

    def is_ended(self, term: Term) -> bool:
        """Whether an admin can replace the home of a term now, without its doing."""
        return self._is_ended(term.home, self._branches.clock())

    def fault_of(self, author: Author, entry: HomeEntry, past: Vector) -> str | None:
        """Why an entry does not count; None: it begins a term, or asks for one."""
        membership = self._standing.within(past)
        current = self.in_force(entry.collection, past)
        if entry.prev != (None if current is None else current.reference):
            return Fault.NOT_NEXT
        if self._newest_of(entry.home, past) < 0 or membership.may_write(self.author_of(entry.home)) is not None:
            return Fault.NO_SUCH_HOME
        is_at_home = current is not None and author.feed == current.home
        if entry.asked is not None:
            return None if is_at_home and self._is_asked(entry, past) else Fault.NOT_ASKED
        return None if membership.members[author.identity].role is Role.ADMIN else str(Refusal.NOT_AN_ADMIN)

    def _begins(self, author: Author, entry: HomeEntry, past: Vector) -> bool:
        """Whether an entry in order takes effect by itself: nobody else could have decided since."""
        current = self.in_force(entry.collection, past)
        return current is None or author.feed == current.home or self._is_ended(current.home, past)

    def _is_ended(self, home: bytes, past: Vector) -> bool:
        """Whether a home's feed has an end in ``past``, and all that counts of it is there."""
        end = self._standing.within(past).cut(self.author_of(home))
        return end is not None and self._newest_of(home, past) >= end - 1

    def _newest_of(self, feed: bytes, past: Vector) -> int:
        branches = self._branches.of_feed(feed)  # type: ignore[arg-type]
        return max((past.get(branch.id, -1) for branch in branches), default=-1)

    def _is_asked(self, entry: HomeEntry, past: Vector) -> bool:
        placed = None if entry.asked is None else self._by_reference.get(entry.asked)
        if placed is None or placed not in self._counting(entry.collection, past) or placed.term is not None:
            return False
        return (placed.entry.home, placed.entry.prev) == (entry.home, entry.prev)

    def _counting(self, collection: str, past: Vector | None) -> list[_Placed]:
        """The entries about a collection that are in ``past``, without those of who was excluded as known there."""
        membership = self._standing.within(past)
        return [
            one
            for one in self._placed.get(collection, ())
            if (past is None or sees(past, one.branch, one.seq)) and _vouched(membership, one.author, one.seq)
        ]


def _vouched(membership: Membership, author: Author, seq: int) -> bool:
    end = membership.cut(author)
    return end is None or seq < end


class Proposals:
    """What was proposed to homes, and what decides it."""

    def __init__(self, tx: Any, queries: Queries, branches: Branches, homes: Homes, flush: Callable[[], None]) -> None:
        """``flush`` writes the entries that were taken in so far."""
        self._tx = tx
        self._sql = queries
        self._branches = branches
        self._homes = homes
        self._flush = flush

    def use(self, tx: Any) -> None:
        """Go on in another transaction of the store, which stands where the last one left it."""
        self._tx = tx

    def fault_of(self, author: Author, content: Content | None, past: Vector) -> str | None:
        """Why an entry does not count as far as homes and proposals go."""
        fault = self._fault_of(author, content, past)
        return None if fault is None else str(fault)

    def _fault_of(self, author: Author, content: Content | None, past: Vector) -> str | None:
        match content:
            case Transaction(decides=None):
                return self._misplaced(author, content.ops, past) if self._homes else None
            case Transaction(decides=Reference() as of) | Rejection(of=of):
                return self._undecidable(author, of, content, past)
            case Proposal():
                return self._misaddressed(content, past)
            case HomeEntry():
                return self._homes.fault_of(author, content, past)
        return None

    def add(self, content: Content, place: int) -> None:
        """Record an entry that counts."""
        match content:
            case Transaction(decides=Reference() as of) | Rejection(of=of):
                proposal = self.place_of(of)
                self._tx.execute(self._sql.add_decision, (proposal, place))
                self._tx.execute(self._sql.settle_proposal, (proposal,))
            case Proposal():
                self._tx.execute(self._sql.add_proposal, (place,))

    def place_of(self, reference: Reference) -> int:
        """The place of a proposal that was taken in."""
        self._flush()
        facts = self._branches.find(reference)
        row = None if facts is None else self._tx.fetch_one(self._sql.txn, (facts.branch, facts.seq))
        if row is None:
            raise DamagedFile("the database has lost a proposal")
        place: int = checked(row[:1], int)[0]
        return place

    def _misplaced(self, author: Author, ops: Iterable[Op], past: Vector) -> str | None:
        """Why a transaction that is written as any other does not count."""
        for collection in {op.document.collection for op in ops}:
            term = self._homes.in_force(collection, past)
            if term is not None and term.home != author.feed:
                return Fault.NOT_BY_HOME
        return None

    def _terms_of(self, ops: Iterable[Op], past: Vector) -> set[Term]:
        found = (self._homes.in_force(collection, past) for collection in {op.document.collection for op in ops})
        return {term for term in found if term is not None}

    def _misaddressed(self, proposal: Proposal, past: Vector) -> str | None:
        terms = self._terms_of(proposal.transaction.ops, past)
        is_one = len({term.home for term in terms}) == 1
        return None if is_one and {term.reference for term in terms} == set(proposal.terms) else Fault.OTHER_TERMS

    def _undecidable(
        self, author: Author, of: Reference, decision: Transaction | Rejection, past: Vector
    ) -> str | None:
        proposal = self._seen(of, past)
        if proposal is None:
            return Fault.UNSEEN
        terms = self._terms_of(proposal.transaction.ops, past)
        if {term.reference for term in terms} != set(proposal.terms) or {term.home for term in terms} != {author.feed}:
            return Fault.NOT_ITS_TERM
        rows = self._tx.fetch_all(self._sql.decisions, (self.place_of(of),))
        if any(sees(past, branch, seq) for branch, seq, *_ in rows):
            return Fault.DECIDED
        is_altered = isinstance(decision, Transaction) and not carries_out(decision, proposal)
        return Fault.ALTERED if is_altered else None

    def _seen(self, of: Reference, past: Vector) -> Proposal | None:
        """The proposal, when it is one that counts and was seen."""
        facts = self._branches.find(of)
        if facts is None or not sees(past, facts.branch, facts.seq):
            return None
        self._flush()
        row = self._tx.fetch_one(self._sql.txn, (facts.branch, facts.seq))
        if row is None or row[6] is not None:
            return None
        return read_proposal(self._branches, facts)


def read_proposal(branches: Branches, facts: EntryFacts) -> Proposal | None:
    """The proposal that an entry carries; None when it carries something else."""
    try:
        return parse_proposal(parse_entry(branches.block(facts.branch, facts.seq, facts.leaf)))
    except MalformedError:
        return None

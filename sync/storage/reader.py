"""Reading a database: documents as they are, and as they were at any cut.

Implements docs/spec/transaction.md, section "As of". A cut is what was known: everything that this replica had taken in
up to a place, or any part of each branch. What was live at a place is one range of rows, because each operation's row
says when it came and when it died. For other cuts liveness is decided anew from the document's operations, and who
could write from the member entries within the cut: exactly what a fresh replica would show that was fed only that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from identity.encoding import Value, decode_stored
from identity.errors import DamagedFile
from ledger.storage.rows import checked
from ledger.values import to_python
from sync.cells import LiveDot, StoredOp, deaths, is_plain
from sync.schema import Schema
from sync.storage.branches import Branch, Branches
from sync.storage.documents import count_increments, join_parts, read_counter, read_dot, read_stored_op
from sync.storage.forks import Tracks, end_of
from sync.storage.projection import KIND_NUMBER
from sync.storage.queries import Queries
from sync.storage.schemas import schema_in_force
from sync.storage.sides import Sides
from sync.storage.standing import Standing
from sync.transaction import MAX_PATH, MEMBER, SCHEMAS, DocumentId, Verb, parse_path
from sync.vector import Vector, sees
from sync.view import Conflict, CounterPart, Rank, View, document_version, etag_of, make_view

__all__ = ["Cut", "DocumentState", "Reader"]


@dataclass(frozen=True, slots=True)
class Cut:
    """A point in the causal history: all that was taken in up to ``place``, or, when that is None, ``vector``."""

    place: int | None
    vector: Vector


class DocumentState:
    """A document at a cut. What it shows is made when it is first asked for, where nothing has to be judged."""

    __slots__ = ("_etag", "_look", "_stored", "_view", "counters", "dots", "name")

    def __init__(
        self,
        name: DocumentId,
        etag: str | Callable[[], str],
        look: Callable[[], View],
        dots: tuple[LiveDot, ...],
        counters: tuple[CounterPart, ...],
    ) -> None:
        """``look`` reads the snapshot where something has to be judged: then it is called at once.

        ``etag`` may be what makes it, which does not read the snapshot.
        """
        self.name = name
        self._etag = etag
        self.dots = dots
        self.counters = counters
        self._look = look
        self._stored: Mapping[str, Value] | None = None
        self._view: View | None = None if self._is_plain else look()

    @property
    def etag(self) -> str:
        """The ETag of the version; "" when nothing is live in it."""
        if not isinstance(self._etag, str):
            self._etag = self._etag()
        return self._etag

    @property
    def view(self) -> View:
        """All that it shows: cells, siblings, conflicts."""
        if self._view is None:
            self._view = self._look()
        return self._view

    @property
    def exists(self) -> bool:
        """Whether a reader finds it."""
        return bool(self.dots) if self._view is None else self._view.exists

    @property
    def deleted(self) -> bool:
        """Whether its delete flag hides it."""
        return self._view is not None and self._view.deleted

    @property
    def purged(self) -> bool:
        """Whether it was ended for good."""
        return self._view is not None and self._view.purged

    @property
    def stored(self) -> Mapping[str, Value]:
        """What shows, as stored values."""
        if self._view is not None:
            return self._view.fields
        if self._stored is None:
            self._stored = {parse_path(dot.path)[0]: decode_stored(dot.val) for dot in self.dots}
        return self._stored

    @property
    def fields(self) -> dict[str, Any]:
        """What shows, as Python values: ``Decimal``, ``date``, aware ``datetime``; ``Sealed`` for what is sealed."""
        # A value can be as deep as values are, in a field that lies as deep as fields do.
        return {name: to_python(value, beyond=MAX_PATH) for name, value in self.stored.items()}

    def showing(self, view: View) -> DocumentState:
        """The same document with another view of it: its sealed values opened."""
        shown = DocumentState(self.name, self._etag, lambda: view, self.dots, self.counters)
        shown._view = view
        return shown

    @property
    def conflicts(self) -> tuple[Conflict, ...]:
        """What about it needs somebody's decision."""
        return () if self._view is None else self._view.conflicts

    @property
    def _is_plain(self) -> bool:
        """Whether there is one value at each path and nothing that could hide it or clash with it."""
        return not self.counters and is_plain(self.dots)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DocumentState):
            return NotImplemented
        return (self.name, self.etag, self.view) == (other.name, other.etag, other.view)

    def __hash__(self) -> int:
        return hash((self.name, self.etag))


class _Entry(NamedTuple):
    """Where an entry stands: in its branch, among all that was taken in, and by its clock."""

    branch: int
    seq: int
    place: int
    reading: int


class Reader:
    """One database in one snapshot of the store."""

    def __init__(self, tx: Any, queries: Queries, number: int, uid: bytes) -> None:
        self.tx = tx
        self.sql = queries
        self.number = number
        self.uid = uid

    @cached_property
    def branches(self) -> Branches:
        """The branches; read when something has to be ranked or cut."""
        return Branches(self.tx, self.sql, self.number)

    @cached_property
    def standing(self) -> Standing:
        """Who may write."""
        standing = Standing(self.uid, self.branches)
        standing.load(self.tx.fetch_all(self.sql.others, (self.number,)), KIND_NUMBER[MEMBER])
        return standing

    @cached_property
    def sides(self) -> Sides:
        """What is kept beside the ledger of feeds that forked."""
        return Sides(self.tx, self.sql, self.number)

    @cached_property
    def tracks(self) -> Tracks:
        """How far the lines of feeds that forked were taken in."""
        return Tracks(self.tx, self.sql, self.number, self.branches)

    # --- documents as they are ---

    def document(self, name: DocumentId) -> DocumentState | None:
        """The document as it is now; None when no operation was ever about it."""
        row = self.tx.fetch_one(self.sql.document_to_show, (self.number, *name))
        if row is None:
            return None
        number, etag = checked(row[:2], int, str)
        dots = tuple(map(read_dot, self.tx.fetch_all(self.sql.live, (number,))))
        counters: tuple[CounterPart, ...] = ()
        if row[2]:
            counters = tuple(map(read_counter, self.tx.fetch_all(self.sql.counters, (number,))))
        return DocumentState(name, etag, lambda: self.view(dots, counters), dots, counters)

    def view(self, dots: Iterable[LiveDot], counters: Iterable[CounterPart]) -> View:
        """What these dots show."""
        return make_view(dots, counters, self.rank, self._past_of)

    def _past_of(self, branch: int, seq: int) -> Vector:
        return self.branches.past_of(branch, seq)

    def rank(self, dot: LiveDot) -> Rank:
        """The order of concurrent values."""
        facts = self.branches.facts(dot.branch, dot.seq)
        if facts is None:
            raise DamagedFile(f"the database has lost entry {dot.seq} of branch {dot.branch}")
        undisputed = not self.branches[dot.branch].disputed
        return (undisputed, facts.reading, self.branches.entry_id(dot.branch, dot.seq))

    # --- cuts ---

    def now(self) -> Cut:
        """Everything that is here."""
        return Cut(self.newest_place(), self.branches.clock())

    def newest_place(self) -> int:
        """The place of the newest operation; 0 when there is none."""
        row = self.tx.fetch_one(self.sql.newest)
        (rebuilt,) = self.tx.fetch_one(self.sql.last_rebuild)
        place, ops, last = checked((*(row or (0, 0))[:2], rebuilt or 0), int, int, int)
        return max(int(place + ops), int(last))

    def known(self, place: int) -> Cut:
        """What this replica had taken in up to a place, whole entries only: the axis ``known``."""
        row = self.tx.fetch_one(self.sql.txn_at, (place,))
        if row is not None and place < row[0] + row[4]:
            place = row[0] - 1  # an entry is there as a whole or not at all
        found = {branch.id: self._newest(branch, lambda one: one.place <= place) for branch in self.branches}
        return Cut(place, {branch: entry.seq for branch, entry in found.items() if entry is not None})

    def of_vector(self, vector: Vector) -> Cut:
        """The cut of a vector that is closed: with each entry it has what that had seen."""
        return self._placed({branch: seq for branch, seq in vector.items() if seq >= 0})

    def closed(self, limits: Mapping[int, int]) -> Cut:
        """The largest cut with at most these entries of each branch, and of each entry all that it had seen.

        ``limits`` are indexes; of a branch that is not named there is nothing. What an entry had seen includes what
        those had seen, and grows along a branch: so each branch has one last entry whose past is within the limits.
        """
        kept = {}
        for branch in self.branches:
            newest = self._newest(branch, lambda one: self._is_within(one, limits))
            if newest is not None:
                kept[branch.id] = newest.seq
        return self.of_vector(kept)

    def before_reading(self, reading: int) -> Cut:
        """The largest cut without an entry whose clock reading is later."""
        limits = {}
        for branch in self.branches:
            newest = self._newest(branch, lambda one: one.reading <= reading)
            if newest is not None:
                limits[branch.id] = newest.seq
        return self.closed(limits)

    def left_out(self, cut: Cut) -> Iterator[tuple[Branch, int]]:
        """How many entries that are here now are not in a cut, branch by branch where there are any."""
        for branch in self.branches:
            (count,) = checked(self.tx.fetch_one(self.sql.count_after, (branch.id, cut.vector.get(branch.id, -1))), int)
            if count:
                yield branch, count

    def _newest(self, branch: Branch, fits: Callable[[_Entry], bool]) -> _Entry | None:
        """The newest entry of a branch that fits; of those that do, every earlier one does too."""
        if branch.head is None:
            return None
        found = self._at_or_before(branch.id, branch.head.seq)
        if found is not None and fits(found):
            return found  # a branch that has rested since, often
        found, low, high = None, branch.first_seq, branch.head.seq - 1
        while low <= high:
            middle = (low + high + 1) // 2
            entry = self._at_or_before(branch.id, middle)
            if entry is None or entry.seq < low:
                low = middle + 1
            elif fits(entry):
                found, low = entry, middle + 1
            else:
                high = entry.seq - 1
        return found

    def _at_or_before(self, branch: int, seq: int) -> _Entry | None:
        """The newest entry of a branch up to an index."""
        row = self.tx.fetch_one(self.sql.txn_before, (branch, seq))
        return None if row is None else _Entry(branch, *checked((row[0], row[1], row[4]), int, int, int))

    def _is_within(self, entry: _Entry, limits: Mapping[int, int]) -> bool:
        """Whether an entry and all that it had seen are within the limits."""
        if limits.get(entry.branch, -1) < entry.seq:
            return False
        past = self._past_of(entry.branch, entry.seq)
        return all(limits.get(other, -1) >= seq for other, seq in past.items() if other != entry.branch)

    def _placed(self, vector: Mapping[int, int]) -> Cut:
        """The cut, with its place when it is just what had been taken in up to one."""
        place = 0
        for branch, seq in vector.items():
            row = self.tx.fetch_one(self.sql.txn, (branch, seq))
            if row is None:
                raise DamagedFile(f"the database has lost entry {seq} of branch {branch}")
            place = max(place, row[0] + row[2])
        known = self.known(place)
        return known if known.vector == vector else Cut(None, vector)

    # --- documents as they were ---

    def document_at(self, name: DocumentId, cut: Cut) -> DocumentState | None:
        """The document at a cut; None when nothing was live in it then."""
        row = self.tx.fetch_one(self.sql.document, (self.number, *name))
        if row is None:
            return None
        number, _, _, _, _, exact_from = checked(row, int, int, str, int, int, int)
        return self.state_at(number, name, cut, exact_from)

    def state_at(self, number: int, name: DocumentId, cut: Cut, exact_from: int) -> DocumentState | None:
        """The same for a document whose row is known."""
        if cut.place is not None and cut.place >= exact_from:
            live = list(map(read_dot, self.tx.fetch_all(self.sql.live_at, (number, cut.place, cut.place))))
        else:
            live = self._live_within(number, cut)
        return self.state_of(name, live, cut)

    def state_of(self, name: DocumentId, live: Collection[LiveDot], cut: Cut) -> DocumentState | None:
        """The document in which these dots, increments among them, are live at a cut; None when there are none."""
        if not live:
            return None
        dots = tuple(dot for dot in live if dot.verb is not Verb.INC)
        counters = tuple(count_increments(dot for dot in live if dot.verb is Verb.INC))
        _ = self.branches  # read while the snapshot can be
        return DocumentState(
            name,
            lambda: etag_of(self.version_within(cut.vector, name, dots, counters)),
            lambda: make_view(dots, counters, lambda dot: self._rank_at(dot, cut), self._past_of),
            dots,
            counters,
        )

    def version_within(
        self, vector: Vector, name: DocumentId, dots: Iterable[LiveDot], counters: Iterable[CounterPart]
    ) -> bytes:
        """The version of a document for who knows only what is in a vector: forks may have become known later."""
        names = self.branches.seen_within(vector)
        parts = join_parts(counters, names) if names else counters
        return document_version(self.uid, name, dots, parts, lambda one: self.branches[names.get(one, one)].uid)

    def _rank_at(self, dot: LiveDot, cut: Cut) -> Rank:
        """The order of concurrent values for who knew only what is in the cut: who is disputed may be known later."""
        return (not self.is_disputed(self.branches[dot.branch], cut.vector), *self.rank(dot)[1:])

    def is_disputed(self, branch: Branch, within: Vector) -> bool:
        """Whether a branch's feed has two sides within a vector, or its identity contradicts itself there."""
        side = branch
        while side.parent is not None:
            if sum(one.parent == side.parent and one.id in within for one in self.branches.of_feed(side.feed)) > 1:
                return True
            side = self.branches[side.parent]
        return self.standing.within(within).disputed(branch.author.identity)

    def _live_within(self, number: int, cut: Cut) -> list[LiveDot]:
        ops = [one for one, counts in self.history(number, cut) if counts]
        dead = deaths(ops, self._past_of)
        return [one.dot for one in ops if one.dot.place not in dead]

    def history(self, number: int, cut: Cut | None = None) -> Iterator[tuple[StoredOp, bool]]:
        """Every operation of a document within a cut, in the order in which they came, and whether it counts there."""
        membership = self.standing.within(None if cut is None else cut.vector)
        ends = {one.id: end_of(self.branches, lambda: self.tracks, one, membership) for one in self.branches}
        for row in self.tx.fetch_all(self.sql.history, (number,)):
            one = read_stored_op(row)
            if cut is None or sees(cut.vector, one.dot.branch, one.dot.seq):
                end = ends[one.dot.branch]
                yield one, row[8] is None and (end is None or one.dot.seq < end)

    # --- schemas ---

    def schema(self, collection: str, cut: Cut | None = None) -> Schema | None:
        """The schema of a collection, now or at a cut."""
        name = DocumentId(SCHEMAS, collection)
        state = self.document(name) if cut is None else self.document_at(name, cut)
        return None if state is None else schema_in_force(state.dots, self.rank)

"""The audit of a database: every row of its tables against what follows from its feeds.

The feeds are replayed (``sync.replay``), which decides about every entry without looking at a table. Then the rows are
read in pieces, in one snapshot: first entries with their operations, which have to be what stands in the feeds; then
documents, one after the other, from operations that are known to be right by now. What a table says and nobody can
know is when an entry came here (``taken_ms``), and when the database was registered (``created_ms``).

A fault names the row and the column, and never a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from heapq import merge
from typing import Any, Final, NamedTuple

from identity.encoding import encode
from identity.errors import AuditError, DamagedFile
from identity.textforms import to_zbase32
from ledger.entry import parse_entry
from ledger.storage.rows import checked
from ledger.store import FeedKey
from ledger.values import Reference
from sync.acts import Found, parse_member
from sync.cells import WRITES, LiveDot, StoredOp, deaths
from sync.lines import KnownBlock, KnownFeed, Line, ReplayedEntry
from sync.liveness import ReplayedOp
from sync.replay import Replay, ReplayedDocument
from sync.schema import Schema
from sync.serial import PROPOSE
from sync.stateroot import leaf_of
from sync.storage.audit_queries import audit_queries_for
from sync.storage.branches import Branches, encode_reference
from sync.storage.documents import VERB_NUMBER, VERBS, columns_of, decode_dots, encode_dots
from sync.storage.projection import KIND_NUMBER
from sync.storage.queries import queries_for
from sync.storage.schemas import schema_in_force
from sync.storage.sides import LEDGER, Sides
from sync.storage.sides_audit import audit_sides
from sync.storage.stored_feeds import StoredBlocks, known_block
from sync.transaction import MEMBER, SCHEMAS, DocumentId, Op, database_id, parse_transaction, path_text
from sync.vector import Vector, encode_vector

__all__ = ["audit_database"]

_ROWS_A_TIME: Final = 2048
_KEPT: Final = 65_536
Row = Sequence[Any]


def audit_database(tx: Any, dialect: str, uid: bytes) -> list[str]:
    """Each fault in words; none when every row is as the feeds have it. Total: damage of any kind is a fault."""
    audit = _Audit(tx, dialect, uid)
    try:
        audit.run()
    except AuditError as exc:
        audit.faults.append(f"the tables cannot be read any further: {exc}")
    return audit.faults


class _Reading(NamedTuple):
    """How far a line was read, and of a feed that forked the newest entry on it: its branch, and its index or -1."""

    feed: FeedKey
    side: int
    next_seq: int
    waits_for: bytes | None
    at: tuple[int, int] | None


class _Audit:
    """One audit in progress. ``faults`` grows."""

    def __init__(self, tx: Any, dialect: str, uid: bytes) -> None:
        self._tx = tx
        self._dialect = dialect
        self._sql = audit_queries_for(dialect)
        self._uid = uid
        self._branch: dict[int, int] = {}
        """Of each line the number of its branch; ``_line`` is the other way round."""
        self._line: dict[int, int] = {}
        self._places: dict[tuple[int, int], int] = {}
        """Of each entry, by line and index."""
        self._schemas: dict[str, Schema | None] = {}
        self._name = lru_cache(maxsize=_KEPT)(self._read_name)
        self.faults: list[str] = []

    def run(self) -> None:
        self._check_strays()
        row = self._tx.fetch_one(self._sql.database, (self._uid,))
        if row is None:
            raise DamagedFile("the database is not registered")
        self._number, name = checked(row, int, str)
        self.faults += audit_sides(self._tx, self._dialect, self._number)
        branches = self._tx.fetch_all(self._sql.branches, (self._number,))
        for row in branches:
            number, *_ = checked((*row[:3], *row[4:7]), int, bytes, bytes, int, int, int)
            if number < 1:
                raise DamagedFile(f"a branch cannot have the number {number}")
        self._lines = self._read_lines(branches)
        self._replay = Replay(self._uid, self._known_feeds(branches))
        self._check_branches(branches)
        self._check_lines()
        for line in self._replay.lines:
            self._check_entries(line)
        self._check_name(name)
        self._contests = self._grouped_contests()
        self._guards = self._grouped_guards()
        self._check_documents()
        self._check_undone()
        self._check_intents()
        self._check_proposals()
        self._check_places()

    def _compare(self, what: str, names: str, found: Iterable[Any], expected: Iterable[Any]) -> None:
        """A fault for each column, by the names in ``names``, that holds something else."""
        for name, one, other in zip(names.split(), found, expected, strict=True):
            if type(one) is not type(other) or one != other:
                self.faults.append(f"{what}: {name!r} is not what follows from the feeds")

    def _compare_rows(self, what: str, found: Iterable[Row], expected: Iterable[Row]) -> None:
        """A fault when two sets of rows are not the same."""
        if set(map(tuple, found)) != set(map(tuple, expected)):
            self.faults.append(f"{what} are not what follows from the feeds")

    def _check_strays(self) -> None:
        for query, what in {
            self._sql.stray_branches: "branches",
            self._sql.stray_tracks: "tracks",
            self._sql.stray_sides: "sides",
            self._sql.stray_side_blocks: "blocks of sides",
            self._sql.stray_side_heads: "heads of sides",
            self._sql.stray_txns: "entries",
            self._sql.stray_ops: "operations",
            self._sql.stray_documents: "documents",
            self._sql.stray_counters: "counters",
            self._sql.stray_guards: "guards",
            self._sql.stray_contests: "contests",
            self._sql.stray_rebuilds: "rebuilds",
            self._sql.stray_leaves: "leaves",
            self._sql.stray_undone: "undone entries",
            self._sql.stray_intents: "intents",
            self._sql.stray_proposals: "proposals",
            self._sql.stray_decisions: "decisions",
        }.items():
            (count,) = checked(self._tx.fetch_one(query), int)
            if count:
                self.faults.append(f"{count} rows of {what} belong to nothing")

    # --- branches ---

    def _read_lines(self, branches: Sequence[Row]) -> list[_Reading]:
        """How far each line of each feed was read: the branch of a feed says so, or of one that forked its tracks."""
        tracks = []
        for row in self._tx.fetch_all(self._sql.tracks, (self._number,)):
            feed, side, branch, seq, next_seq = checked(row[:5], bytes, int, int, int, int)
            tracks.append(_Reading(FeedKey(feed), side, next_seq, row[5], (branch, seq)))
        forked = {one.feed for one in tracks}
        whole = [
            _Reading(FeedKey(feed), LEDGER, next_seq, waits_for, None)
            for _, _, feed, parent, _, next_seq, _, _, waits_for in branches
            if parent is None and feed not in forked
        ]
        return whole + tracks

    def _known_feeds(self, branches: Sequence[Row]) -> Iterator[KnownFeed]:
        """The feeds as far as they were read; of a line that waits, all of it, to see for what."""
        authors = Branches(self._tx, queries_for(self._dialect), -1)
        for feed in dict.fromkeys(FeedKey(row[2]) for row in branches):
            chains = {one.side: self._chain(one) for one in self._lines if one.feed == feed}
            ledger = chains.pop(LEDGER, ())
            yield KnownFeed(authors.author(feed), ledger, tuple(chains.values()))

    def _chain(self, reading: _Reading) -> Sequence[KnownBlock]:
        """The blocks of a line that were read; of a side those that are not in the ledger."""
        if reading.side == LEDGER:
            state = self._tx.feed(reading.feed)
            if state is None or reading.next_seq > state.length:
                raise DamagedFile(f"feed {to_zbase32(reading.feed)} was read beyond its end")
            length = reading.next_seq if reading.waits_for is None else state.length
            return StoredBlocks(self._tx, reading.feed, length)
        lines = Sides(self._tx, queries_for(self._dialect), self._number).lines(reading.feed)
        side = next((line for line in lines if line.side == reading.side), None)
        if side is None or reading.next_seq > side.length:
            raise DamagedFile(f"side {reading.side} of feed {to_zbase32(reading.feed)} was read beyond its end")
        stop = reading.next_seq if reading.waits_for is None else side.length
        return [known_block(seq, block) for seq, block in enumerate(side.blocks(side.first, stop), side.first)]

    def _check_branches(self, rows: Sequence[Row]) -> None:
        lines = {line.uid: line for line in self._replay.lines}
        for number, uid, *_ in rows:
            line = lines.pop(uid, None)
            if line is None:
                raise DamagedFile(f"branch {number} is none that the feeds have")
            self._branch[line.number], self._line[number] = number, line.number
        if lines:
            raise DamagedFile("a branch is missing")
        for number, _, feed, parent, first_seq, _, disputed, excluded_from, waits_for in rows:
            line = self._replay.lines[self._line[number]]
            above = None if line.parent is None else self._branch[line.parent.number]
            first = 0 if line.parent is None else line.blocks[0].seq
            judged = (int(self._replay.is_disputed(line.number)), self._replay.ends[line.number])
            found = (feed, parent, first_seq, disputed, excluded_from)
            names = "feed parent first_seq disputed excluded_from"
            self._compare(f"branch {number}", names, found, (line.author.feed, above, first, *judged))
            if waits_for is not None and any(one.feed == feed and one.at is not None for one in self._lines):
                self.faults.append(f"branch {number}: 'waits_for' is for the lines of a feed that forked")

    def _check_lines(self) -> None:
        """What lines wait for, where they have got to, and what was met on them that has no place."""
        for reading in self._lines:
            what = f"feed {to_zbase32(reading.feed)}, line {reading.side}"
            if reading.waits_for is not None and reading.waits_for != self._awaited(reading):
                self.faults.append(f"{what}: 'waits_for' is not what follows from the feeds")
            if reading.at is not None:
                self._compare(what, "branch seq", reading.at, self._standing(reading))
        held_up = {reference.feed for reference in self._replay.parked}
        for reading in self._lines:
            for block in self._whole_chain(reading) if reading.feed in held_up else ():
                reference = Reference(reading.feed, block.seq, block.leaf_hash)
                if block.seq < reading.next_seq and reference in self._replay.parked:
                    self.faults.append(f"entry {block.seq} of feed {to_zbase32(reading.feed)} waits, and was read")
        self._check_strays_met()

    def _awaited(self, reading: _Reading) -> bytes | None:
        """What the next entry of a line that waits waits for: another line may wait at the same index with another."""
        block = next((one for one in self._chain(reading) if one.seq == reading.next_seq), None)
        if block is None:
            return None
        missing = self._replay.parked.get(Reference(reading.feed, block.seq, block.leaf_hash))
        return None if missing is None else encode_reference(missing)

    def _standing(self, reading: _Reading) -> tuple[int, int]:
        """The branch and index of the newest entry on a line before the block that is looked at next."""
        found = [
            entry
            for block in self._whole_chain(reading)
            if block.seq < reading.next_seq
            and (entry := self._replay.find(Reference(reading.feed, block.seq, block.leaf_hash))) is not None
        ]
        root = next(line for line in self._replay.lines if line.uid == reading.feed)
        return (self._branch[found[-1].line], found[-1].reference.index) if found else (self._branch[root.number], -1)

    def _whole_chain(self, reading: _Reading) -> Iterator[KnownBlock]:
        chain = self._chain(reading)
        if reading.side != LEDGER and len(chain):
            yield from StoredBlocks(self._tx, reading.feed, chain[0].seq)
        yield from chain

    def _check_strays_met(self) -> None:
        """Rows of strays are strays; and those in what every line of their feed has read have a row."""
        read: dict[bytes, int] = {}
        for reading in self._lines:
            read[reading.feed] = min(reading.next_seq, read.get(reading.feed, reading.next_seq))
        every = {
            (one.feed, one.index, one.leaf_hash, KIND_NUMBER[stray.kind], stray.reason)
            for one, stray in self._replay.strays.items()
        }
        due = {row for row in every if row[1] < read[row[0]]}
        found = set(map(tuple, self._tx.fetch_all(self._sql.strays, (self._number,))))
        if not due <= found <= every:
            self.faults.append("entries without a place: rows are not what follows from the feeds")

    def _check_name(self, name: str) -> None:
        """The database's name is the one that it was founded with."""
        for entry in self._replay.entries():
            if entry.kind == MEMBER and entry.masked is None:
                act = parse_member(parse_entry(self._block(entry))).act
                if isinstance(act, Found) and database_id(act.founding) == self._uid:
                    self._compare("the database", "name", [name], [act.founding.name])

    def _block(self, entry: ReplayedEntry) -> bytes:
        return self._replay.lines[entry.line].block(entry.reference.index).block

    # --- entries ---

    def _check_entries(self, line: Line) -> None:
        rows = self._rows_of(line)
        before: ReplayedEntry | None = None
        for entry in line.entries.values():
            what = f"entry {entry.reference.index} of feed {to_zbase32(entry.reference.feed)}"
            row = next(rows, None)
            if row is None or row[0] != entry.reference.index:
                raise DamagedFile(f"{what}: its row is missing")
            seq, place, kind, ops, lamport, reading, leaf, past, masked = row
            names = "kind ops lamport reading leaf past masked"
            facts = (KIND_NUMBER[entry.kind], entry.ops, entry.lamport, entry.reading, entry.reference.leaf_hash)
            expected = (*facts, self._recorded_past(entry, before), entry.masked)
            self._compare(what, names, (kind, ops, lamport, reading, leaf, past, masked), expected)
            self._places[line.number, seq] = place
            self._check_ops(what, entry, place)
            before = entry
        if next(rows, None) is not None:
            self.faults.append(f"feed {to_zbase32(line.author.feed)}: rows for entries that were not taken in")

    def _rows_of(self, line: Line) -> Iterator[Row]:
        after = -1
        while rows := self._tx.fetch_all(self._sql.txns, (self._branch[line.number], after, _ROWS_A_TIME)):
            for row in rows:
                checked(row[:7], int, int, int, int, int, int, bytes)
            yield from rows
            after = rows[-1][0]

    def _recorded_past(self, entry: ReplayedEntry, before: ReplayedEntry | None) -> bytes | None:
        """A past is recorded where it is not just what the entry before it makes."""
        if before is not None and entry.past.seen == before.past.seen:
            return None
        return encode_vector(self._vector(entry))

    def _vector(self, entry: ReplayedEntry) -> Vector:
        return {self._branch[line]: index for line, index in entry.past.vector().items()}

    def _check_ops(self, what: str, entry: ReplayedEntry, place: int) -> None:
        rows = self._tx.fetch_all(self._sql.ops, (place, place + entry.ops))
        if len(rows) != entry.ops:
            self.faults.append(f"{what}: operations are missing")
            return
        ops = parse_transaction(parse_entry(self._block(entry))).ops if entry.ops else ()
        for at, (row, op) in enumerate(zip(rows, ops, strict=True)):
            found_place, branch, seq, number, document, verb, path, val, context = row
            names = "place branch seq op document verb path val context"
            found = (found_place, branch, seq, number, self._name(document), verb, path, val, context)
            expected = (
                *(place + 1 + at, self._branch[entry.line], entry.reference.index, at, op.document),
                *(VERB_NUMBER[op.verb], path_text(op.path), encode(op.value), self._packed_context(op)),
            )
            self._compare(f"{what}, operation {at}", names, found, expected)

    def _packed_context(self, op: Op) -> bytes | None:
        if op.context is None:
            return None
        named = ((self._replay.find(dot.entry), dot.op) for dot in op.context)
        return encode_dots(frozenset((self._branch[one.line], one.reference.index, at) for one, at in named if one))

    def _read_name(self, document: int) -> DocumentId | None:
        row = self._tx.fetch_one(self._sql.name, (document,))
        return None if row is None else DocumentId(*checked(row, str, str))

    # --- documents ---

    def _grouped_contests(self) -> dict[DocumentId, set[Row]]:
        grouped: dict[DocumentId, set[Row]] = {}
        for document, guarded, other in self._replay.contests():
            one, two = (self._place_of(self._replay.find(reference)) for reference in (guarded, other))
            grouped.setdefault(document, set()).add((one, two, max(one, two)))
        return grouped

    def _grouped_guards(self) -> dict[DocumentId, set[Row]]:
        grouped: dict[DocumentId, set[Row]] = {}
        for entry in self._replay.entries():
            for guard in entry.guards:
                grouped.setdefault(guard.document, set()).add((self._place_of(entry), guard.etag))
        return grouped

    def _place_of(self, entry: ReplayedEntry | None) -> int:
        return -1 if entry is None else self._places[entry.key]

    def _check_documents(self) -> None:
        after = 0
        unseen = set(self._guards) | set(self._contests)
        while rows := self._tx.fetch_all(self._sql.documents, (self._number, after, _ROWS_A_TIME)):
            for row in rows:
                number, collection, key, *_ = checked(row[:8], int, str, str, int, str, int, int, int)
                unseen.discard(DocumentId(collection, key))
                self._check_document(number, DocumentId(collection, key), row)
            after = rows[-1][0]
        for name in sorted(unseen):
            self.faults.append(f"document {name}: its row is missing")

    def _check_document(self, number: int, name: DocumentId, row: Row) -> None:
        what = f"document {name}"
        history = self._tx.fetch_all(self._sql.history, (number,))
        ops = [self._read_op(one) for one in history]
        found = self._replay.document(name, ops)
        self._check_deaths(what, found, ops, history)
        rebuilt = _number(self._tx.fetch_one(self._sql.rebuilt, (number,)))
        counting = [one[0] for one, op in zip(history, ops, strict=True) if self._replay.counts(op.line, op.seq)]
        columns = columns_of(None if found.version is None else found.view, self._indexed(name.collection))
        expected = (max([0, rebuilt, *counting]), found.etag, *columns, rebuilt)
        _, _, _, place, etag, shown, conflicts, exact_from, keys = row
        names = "place etag shown conflicts sort_keys exact_from"
        self._compare(what, names, (place, etag, shown, conflicts, keys, exact_from), expected)
        self._check_counters(what, number, found)
        self._check_leaf(what, number, found, place)
        self._compare_rows(
            f"{what}: guards", self._tx.fetch_all(self._sql.guards, (number,)), self._guards.get(name, ())
        )
        contests = self._tx.fetch_all(self._sql.contests, (number,))
        self._compare_rows(f"{what}: contests", contests, self._contests.get(name, ()))
        if not history and name not in self._guards:
            self.faults.append(f"{what}: nothing is about it")

    def _read_op(self, row: Row) -> ReplayedOp:
        """An operation from a row that was found to be right, or was named as a fault."""
        _, branch, seq, op, verb, path, val = checked(row[:7], int, int, int, int, int, str, bytes)
        line = self._line.get(branch)
        if line is None or seq not in self._replay.lines[line].entries or verb not in VERBS:
            raise DamagedFile(f"operation {op} of entry {seq} of branch {branch} is none that the feeds have")
        return ReplayedOp(line, seq, op, VERBS[verb], path, val, self._context(row[7]))

    def _context(self, packed: Any) -> frozenset[tuple[int, int, int]] | None:
        if packed is None:
            return None
        return frozenset(
            (self._line.get(branch, -1), seq, op) for branch, seq, op in decode_dots(*checked((packed,), bytes))
        )

    def _check_deaths(
        self, what: str, found: ReplayedDocument, ops: Sequence[ReplayedOp], history: Sequence[Row]
    ) -> None:
        """What is live has no death; what is not has the place of the first that replaced it, or its own."""
        stored = [
            StoredOp(LiveDot(row[0], *op.key, op.verb, op.path, op.val), op.context)
            for op, row in zip(ops, history, strict=True)
        ]
        counted = [one for one in stored if self._replay.counts(one.dot.branch, one.dot.seq)]
        died = deaths(counted, lambda line, index: self._replay.entry(line, index).past.vector())
        for one, row in zip(stored, history, strict=True):
            dot = one.dot
            counts = dot.verb in WRITES and self._replay.counts(dot.branch, dot.seq)
            expected = None if dot.key in found.live else died.get(dot.place) if counts else dot.place
            self._compare(f"{what}, operation at {dot.place}", "dead", [row[8]], [expected])

    def _check_counters(self, what: str, number: int, found: ReplayedDocument) -> None:
        expected = [
            (
                *(part.path, self._branch[part.branch], part.first, part.last, part.last_op, part.count),
                f"{part.total:f}",
            )
            for part in found.counters
        ]
        self._compare_rows(f"{what}: counters", self._tx.fetch_all(self._sql.counters, (number,)), expected)

    def _check_leaf(self, what: str, number: int, found: ReplayedDocument, place: int) -> None:
        """A leaf that was made before the document last changed is made anew before it is used."""
        row = self._tx.fetch_one(self._sql.leaf, (number,))
        if row is None or checked(row, int, bytes, bytes)[0] < place:
            return
        if found.version is None:
            self.faults.append(f"{what}: leaf is of a document in which nothing is live")
            return
        leaf = leaf_of(found.name, found.version, found.view)
        self._compare(f"{what}: leaf", "place version content", row, (place, leaf.version, leaf.content))

    def _indexed(self, collection: str) -> tuple[str, ...]:
        """The indexed fields of a collection, by the schema that is in force now."""
        if collection not in self._schemas:
            row = self._tx.fetch_one(self._sql.number, (self._number, SCHEMAS, collection))
            schema = None
            if row is not None:
                history = self._tx.fetch_all(self._sql.history, (row[0],))
                found = self._replay.document(DocumentId(SCHEMAS, collection), map(self._read_op, history))
                schema = schema_in_force(found.dots, self._replay.rank)
            self._schemas[collection] = schema
        found_schema = self._schemas[collection]
        return () if found_schema is None else found_schema.indexed

    # --- the rest ---

    def _check_undone(self) -> None:
        expected = [
            (self._places[entry.key], self._places[undone])
            for entry in self._replay.entries()
            for undone in entry.undoes
        ]
        rows = self._tx.fetch_all(self._sql.undone, (self._number,))
        self._compare_rows("what was undone: rows", rows, expected)

    def _check_proposals(self) -> None:
        """What was proposed, which of it waits for its home, and what decides the rest."""
        found = [entry for entry in self._replay.entries() if entry.masked is None]
        decided = [(entry.decides, entry.key) for entry in found if entry.decides is not None]
        settled = {proposal for proposal, _ in decided}
        waiting = [(self._places[entry.key], int(entry.key not in settled)) for entry in found if entry.kind == PROPOSE]
        rows = self._tx.fetch_all(self._sql.proposals, (self._number,))
        self._compare_rows("what was proposed: rows", rows, waiting)
        rows = self._tx.fetch_all(self._sql.decisions, (self._number,))
        expected = [(self._places[proposal], self._places[decision]) for proposal, decision in decided]
        self._compare_rows("what was decided: rows", rows, expected)

    def _check_intents(self) -> None:
        expected = [
            (self._places[entry.key], *entry.intent) for entry in self._replay.entries() if entry.intent is not None
        ]
        rows = self._tx.fetch_all(self._sql.intents, (self._number,))
        self._compare_rows("intents: rows", rows, expected)

    def _check_places(self) -> None:
        """Everything stands behind its past, and no number is left out or given out twice since the last rebuild."""
        for entry in self._replay.entries():
            here = self._places[entry.key]
            if any(self._places[key] >= here for key in entry.follows):
                what = f"entry {entry.reference.index} of feed {to_zbase32(entry.reference.feed)}"
                self.faults.append(f"{what}: stands before what it had seen")
        forgotten = _number(self._tx.fetch_one(self._sql.forgotten))
        following = 1
        for first, last in self._intervals():
            if first < following or (first > following > forgotten):
                self.faults.append(f"place {first}: numbers are left out or given out twice")
            following = last + 1

    def _intervals(self) -> Iterator[tuple[int, int]]:
        """What has a place, in their order: entries with their operations, and rebuilds."""
        entries = ((place, place + ops) for place, ops in self._paged(self._sql.places, int, int))
        rebuilds = ((place, place) for (place,) in self._paged(self._sql.rebuild_places, int))
        return merge(entries, rebuilds)

    def _paged(self, query: str, *types: type) -> Iterator[Row]:
        after = 0
        while rows := self._tx.fetch_all(query, (after, _ROWS_A_TIME)):
            yield from (checked(row, *types) for row in rows)
            after = rows[-1][0]


def _number(row: Row) -> int:
    """The one number of a row; 0 for none."""
    return 0 if row[0] is None else int(checked(row, int)[0])

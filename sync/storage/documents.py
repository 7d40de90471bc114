"""The documents of a database while entries are taken in: what is live in each, changed in memory, written at the end.

A document is read when it is first touched and kept until the transaction ends, or for later ones as long as nobody
else has written in between. Operations, deaths and documents go to the engine in bulk.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Final

from identity.encoding import decode
from identity.errors import DamagedFile
from ledger.storage.rows import checked
from sync.cells import WRITES, DotKey, LiveDot, StoredOp, deaths, is_beneath, is_plain, replaced
from sync.indexkey import index_text
from sync.storage.branches import Branches
from sync.storage.queries import Queries
from sync.transaction import DocumentId, Verb
from sync.vector import Vector
from sync.view import ABSENT_ETAG, CounterPart, Rank, View, document_version, etag_of, exact_sum, make_view

__all__ = [
    "VERBS",
    "VERB_NUMBER",
    "Document",
    "Documents",
    "IndexedFields",
    "columns_of",
    "count_increments",
    "decode_dots",
    "encode_dots",
    "join_parts",
    "read_counter",
    "read_dot",
    "read_stored_op",
]

VERB_NUMBER: Final = {
    Verb.SET: 1,
    Verb.LWW: 2,
    Verb.INC: 3,
    Verb.ADD: 4,
    Verb.REM: 5,
    Verb.DEL: 6,
    Verb.HIDE: 7,
    Verb.PURGE: 8,
}
"""How a store writes a verb. The numbers stand in the statements too."""

VERBS: Final = {number: verb for verb, number in VERB_NUMBER.items()}

_TOTAL: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?", re.ASCII)
_KEPT_DOTS: Final = 200_000
"""Live dots of documents that are kept in memory from one transaction to the next."""

_ABSENT, _SHOWN, _HIDDEN = 0, 1, 2

IndexedFields = Callable[[str], tuple[str, ...]]
"""The names of the indexed fields of a collection."""


@dataclass(slots=True)
class Document:
    """A document as it stands."""

    id: int
    name: DocumentId
    place: int
    etag: str
    exact_from: int
    """From this place on the recorded deaths say exactly what was live; before, an exclusion has changed them since."""
    live: dict[str, list[LiveDot]] = field(default_factory=dict)
    """Live dots by path, without increments."""
    counters: dict[tuple[str, int], CounterPart] = field(default_factory=dict)
    """By path and branch."""
    changed: bool = False
    etag_place: int = 0
    """What ``place`` was when the ETag was made."""
    weight: int = 0
    """What it counted as when its size was last looked at: its live dots, and one."""

    @property
    def dots(self) -> list[LiveDot]:
        """Every live dot, without increments."""
        return [dot for dots in self.live.values() for dot in dots]


class Documents:
    """The documents of one database."""

    def __init__(self, tx: Any, queries: Queries, database: int, uid: bytes, branches: Branches) -> None:
        self._tx = tx
        self._sql = queries
        self._database = database
        self._uid = uid
        self._branches = branches
        self._kept: OrderedDict[DocumentId, Document] = OrderedDict()
        self._changed: dict[int, Document] = {}
        self._weight = 0
        self._ids: dict[int, DocumentId] = {}
        self._last_id: int | None = None
        self._ops: dict[int, list[Any]] = {}
        self._deaths: list[tuple[int, int]] = []
        self._counters: dict[tuple[int, str, int], CounterPart | None] = {}
        self._views: dict[int, tuple[int, View]] = {}
        """What documents showed at a place, as far as somebody has looked since the last flush."""

    def use(self, tx: Any) -> None:
        """Go on in another transaction of the store, which stands where the last one left it."""
        self._tx = tx

    def __getitem__(self, name: DocumentId) -> Document:
        """The document, read if it is not here; a new one when there is none."""
        held = self._kept.get(name)
        if held is not None:
            return held
        row = self._tx.fetch_one(self._sql.document, (self._database, *name))
        if row is None:
            if self._last_id is None:
                (last,) = self._tx.fetch_one(self._sql.last_document)
                self._last_id = last or 0
            self._last_id += 1
            held = Document(self._last_id, name, 0, ABSENT_ETAG, 0)
            self._touch(held)  # its number is taken, also when it is only the subject of a guard
        else:
            number, place, etag, _, _, exact_from = checked(row, int, int, str, int, int, int)
            held = Document(number, name, place, etag, exact_from, etag_place=place)
            for dot in map(read_dot, self._tx.fetch_all(self._sql.live, (number,))):
                held.live.setdefault(dot.path, []).append(dot)
            for part in map(read_counter, self._tx.fetch_all(self._sql.counters, (number,))):
                held.counters[part.path, part.branch] = part
        self._kept[name] = held
        self._ids[held.id] = name
        self._weigh(held)
        return held

    def find(self, name: DocumentId) -> Document | None:
        """The document, or None when no operation was ever about it."""
        held = self._kept.get(name)
        if held is None:
            if self._tx.fetch_one(self._sql.document, (self._database, *name)) is None:
                return None
            held = self[name]
        return held

    def by_id(self, number: int) -> Document:
        """The document with a number. Raises ``DamagedFile`` when there is none."""
        name = self._ids.get(number)
        if name is None:
            row = self._tx.fetch_one(self._sql.document_by_id, (number,))
            if row is None:
                raise DamagedFile(f"the database has lost document {number}")
            collection, key = checked(row[:2], str, str)
            name = DocumentId(collection, key)
        return self[name]

    # --- taking operations in ---

    @property
    def unwritten_ops(self) -> int:
        """Operations that wait to be written."""
        return len(self._ops)

    def apply(self, document: Document, dot: LiveDot, context: frozenset[DotKey] | None, past: Vector | None) -> None:
        """Let an operation take effect. ``past`` None: its entry has seen everything that is here."""
        if not document.changed:
            self._touch(document)
        place, _, _, _, verb, path, _ = dot
        live, dead = document.live, None
        document.place = place
        for victim in replaced(dot, context, live, past):
            self._kill(victim.place, place)
            live[victim.path].remove(victim)
        if verb is Verb.INC:
            self._count(document, dot)
        elif verb in WRITES:
            at = live.get(path)
            if at is None:
                live[path] = [dot]
            else:
                at.append(dot)
        else:
            dead = place
            if verb is Verb.DEL and context is None and document.counters:
                self._reset_counters(document, dot, past)
        self._record(document, dot, context, dead)

    def record_masked(
        self, document: Document, dot: LiveDot, context: frozenset[DotKey] | None, _past: Vector | None
    ) -> None:
        """Keep an operation that does not count."""
        self._touch(document)
        self._record(document, dot, context, dot.place)

    def _touch(self, document: Document) -> None:
        document.changed = True
        self._changed[document.id] = document

    def _record(self, document: Document, dot: LiveDot, context: frozenset[DotKey] | None, dead: int | None) -> None:
        place, branch, seq, op, verb, path, val = dot
        packed = None if context is None else encode_dots(context)
        self._ops[place] = [place, branch, seq, op, document.id, path, VERB_NUMBER[verb], val, packed, dead]

    def _kill(self, victim: int, killer: int) -> None:
        pending = self._ops.get(victim)
        if pending is not None:
            pending[9] = killer
        else:
            self._deaths.append((killer, victim))

    def _count(self, document: Document, dot: LiveDot) -> None:
        amount = _amount(dot.val)
        part = document.counters.get((dot.path, dot.branch))
        if part is None:
            part = CounterPart(dot.path, dot.branch, dot.seq, dot.seq, dot.op, 1, amount)
        else:
            total = exact_sum((part.total, amount))
            part = CounterPart(dot.path, dot.branch, part.first, dot.seq, dot.op, part.count + 1, total)
        self._put_counter(document, part)

    def _put_counter(self, document: Document, part: CounterPart) -> None:
        document.counters[part.path, part.branch] = part
        self._counters[document.id, part.path, part.branch] = part

    def _reset_counters(self, document: Document, dot: LiveDot, past: Vector | None) -> None:
        for part in [part for part in document.counters.values() if is_beneath(part.path, dot.path)]:
            # Its own entry's increments, made before the reset in the same transaction, are before it as well.
            seen = dot.seq if part.branch == dot.branch else (part.last if past is None else past.get(part.branch, -1))
            if seen < part.first:
                continue
            self.flush_ops()
            where = (document.id, part.path, part.branch)
            self._tx.execute(self._sql.kill_increments, (dot.place, *where, min(seen, part.last)))
            del document.counters[part.path, part.branch]
            self._counters[where] = None
            left = self._tx.fetch_all(self._sql.increments, where)
            if left:
                self._put_counter(document, _count_rows(part.path, part.branch, left))

    # --- making a document anew ---

    def rebuild(self, document: Document, history: Sequence[tuple[StoredOp, bool]], place: int) -> None:
        """Decide anew what is live, from all operations of the document and whether each counts."""
        dead = deaths((one for one, counts in history if counts), self._branches.past_of)
        document.live, document.place, document.exact_from = {}, place, place
        self._touch(document)
        document.counters = {}
        self._tx.execute(self._sql.drop_counters, (document.id,))
        self._counters = {where: part for where, part in self._counters.items() if where[0] != document.id}
        increments: list[LiveDot] = []
        moves = []
        for (dot, _), counts in history:
            died = dead.get(dot.place) if counts else dot.place
            moves.append((died, dot.place))
            if died is None and dot.verb is Verb.INC:
                increments.append(dot)
            elif died is None:
                document.live.setdefault(dot.path, []).append(dot)
        self._tx.update_many(self._sql.kill_op, moves)
        for part in count_increments(increments):
            self._put_counter(document, part)
        self._tx.insert_many(self._sql.add_rebuild, [(place, document.id)])

    # --- looking ---

    def op_at(self, place: int) -> tuple[LiveDot, int] | None:
        """The operation at a place, and the number of its document; None when there is none."""
        row = self._ops.get(place)
        if row is not None:
            return LiveDot(row[0], row[1], row[2], row[3], VERBS[row[6]], row[5], row[7]), row[4]
        found = self._tx.fetch_one(self._sql.op, (place,))
        return None if found is None else (read_dot(found), checked(found[7:8], int)[0])

    def history(self, document: int) -> list[tuple[StoredOp, bool]]:
        """Every operation of a document in the order in which they came, and whether its entry is masked."""
        self.flush_ops()
        return [(read_stored_op(row), row[8] is not None) for row in self._tx.fetch_all(self._sql.history, (document,))]

    def view(self, document: Document) -> View:
        """What the document shows."""
        place, view = self._views.get(document.id, (None, None))
        if view is None or place != document.place:
            view = make_view(document.dots, document.counters.values(), self.rank, self._branches.past_of)
            self._views[document.id] = (document.place, view)
        return view

    def rank(self, dot: LiveDot) -> Rank:
        """The order of concurrent values."""
        facts = self._branches.facts(dot.branch, dot.seq)
        if facts is None:
            raise DamagedFile(f"the database has lost entry {dot.seq} of branch {dot.branch}")
        undisputed = not self._branches[dot.branch].disputed
        return (undisputed, facts.reading, self._branches.entry_id(dot.branch, dot.seq))

    def etag(self, document: Document) -> str:
        """The ETag of the document as it stands in memory."""
        if document.etag_place != document.place:
            document.etag = self._make_etag(document)
            document.etag_place = document.place
        return document.etag

    def _make_etag(self, document: Document) -> str:
        dots, parts = document.dots, document.counters.values()
        if not dots and not parts:
            return ABSENT_ETAG
        return etag_of(document_version(self._uid, document.name, dots, parts, lambda one: self._branches[one].uid))

    # --- writing ---

    def flush(self, indexed: IndexedFields) -> list[DocumentId]:
        """Write everything that has changed. Returns which documents those are."""
        self.flush_ops()
        changed = list(self._changed.values())
        rows = [self._row(document, indexed(document.name.collection)) for document in changed]
        self._tx.update_many(self._sql.put_document, rows)
        for document in changed:
            document.changed = False
            self._weigh(document)
        self._changed.clear()
        self._views.clear()
        kept = [part for part in self._counters.items() if part[1] is not None]
        gone = [where for where, part in self._counters.items() if part is None]
        self._tx.update_many(self._sql.drop_counter, gone)
        self._tx.update_many(self._sql.put_counter, [(where[0], *_counter_row(part)) for where, part in kept if part])
        self._counters.clear()
        names = [document.name for document in changed]
        self._forget_some()
        return names

    def flush_ops(self) -> None:
        """Write operations and deaths."""
        if self._ops:
            self._tx.insert_many(self._sql.add_op, self._ops.values())
            self._ops = {}
        self._tx.update_many(self._sql.kill_op, self._deaths)
        self._deaths = []

    def _row(self, document: Document, indexed: tuple[str, ...]) -> tuple[Any, ...]:
        etag = self.etag(document)
        if etag == ABSENT_ETAG:
            shown, conflicts, keys = columns_of(None, indexed)
        elif not indexed and not document.counters and is_plain(document.dots):
            shown, conflicts, keys = _SHOWN, 0, None
        else:
            shown, conflicts, keys = columns_of(self.view(document), indexed)
        name, place, exact_from = document.name, document.place, document.exact_from
        return (document.id, self._database, *name, place, etag, shown, conflicts, exact_from, keys)

    def _weigh(self, document: Document) -> None:
        weight = 1 + sum(map(len, document.live.values()))
        self._weight += weight - document.weight
        document.weight = weight

    def _forget_some(self) -> None:
        """Keep what was read last, within the limit."""
        while self._weight > _KEPT_DOTS:
            _, document = self._kept.popitem(last=False)
            del self._ids[document.id]
            self._weight -= document.weight


def columns_of(view: View | None, indexed: Iterable[str]) -> tuple[int, int, str | None]:
    """Of a document's row ``shown``, ``conflicts`` and ``sort_keys``; the view is None when nothing is live."""
    if view is None:
        return _ABSENT, 0, None
    shown = _SHOWN if view.exists else _HIDDEN if view.deleted else _ABSENT
    keys = index_text(view.fields, indexed) if indexed and shown == _SHOWN else None
    return shown, len(view.conflicts), keys


# --- rows ---


def read_dot(row: Sequence[Any]) -> LiveDot:
    """A row that begins with the columns of an operation. Raises ``DamagedFile``."""
    place, branch, seq, op, number, path, val = row[:7]
    verb = VERBS.get(number)
    if (
        verb is None
        or type(val) is not bytes
        or type(path) is not str
        or not type(place) is type(branch) is type(seq) is type(op) is int
    ):
        raise DamagedFile("the database holds an operation whose row cannot be")
    return LiveDot(place, branch, seq, op, verb, path, val)


def read_stored_op(row: Sequence[Any]) -> StoredOp:
    """The same with its context, the eighth column."""
    return StoredOp(read_dot(row), None if row[7] is None else decode_dots(row[7]))


def read_counter(row: Sequence[Any]) -> CounterPart:
    """A row of a counter."""
    path, branch, first, last, last_op, count, total = checked(row, str, int, int, int, int, int, str)
    if not _TOTAL.fullmatch(total):
        raise DamagedFile("the database holds a sum that is none")
    return CounterPart(path, branch, first, last, last_op, count, Decimal(total))


def _counter_row(part: CounterPart) -> tuple[Any, ...]:
    return (part.path, part.branch, part.first, part.last, part.last_op, part.count, f"{part.total:f}")


def count_increments(increments: Iterable[LiveDot]) -> list[CounterPart]:
    """The parts of counters that live increments, in the order in which they came, make up."""
    found: dict[tuple[str, int], list[tuple[int, int, bytes]]] = {}
    for dot in increments:
        found.setdefault((dot.path, dot.branch), []).append((dot.seq, dot.op, dot.val))
    return [_count_rows(path, branch, rows) for (path, branch), rows in found.items()]


def join_parts(parts: Iterable[CounterPart], names: Mapping[int, int]) -> list[CounterPart]:
    """The parts of counters with those of branches put together that go by one name."""
    joined: dict[tuple[str, int], CounterPart] = {}
    for part in sorted(parts, key=lambda part: part.first):
        where = (part.path, names.get(part.branch, part.branch))
        before = joined.get(where)
        if before is None:
            joined[where] = replace(part, branch=where[1])
        else:
            count, total = before.count + part.count, exact_sum((before.total, part.total))
            joined[where] = replace(part, branch=where[1], first=before.first, count=count, total=total)
    return list(joined.values())


def _count_rows(path: str, branch: int, rows: Iterable[Sequence[Any]]) -> CounterPart:
    """The part of a counter that these live increments, (seq, op, val) in order, make up."""
    found = list(rows)
    total = exact_sum(_amount(val) for _, _, val in found)
    return CounterPart(path, branch, found[0][0], found[-1][0], found[-1][1], len(found), total)


def _amount(val: bytes) -> Decimal:
    value = decode(val)
    if isinstance(value, dict):
        return Decimal(str(value["$dec"]))
    assert isinstance(value, int)
    return Decimal(value)


def encode_dots(context: frozenset[DotKey]) -> bytes:
    """The form in which a store keeps a context."""
    return b"".join(
        branch.to_bytes(8, "big") + seq.to_bytes(8, "big") + op.to_bytes(4, "big")
        for branch, seq, op in sorted(context)
    )


def decode_dots(data: bytes) -> frozenset[DotKey]:
    """Read ``encode_dots`` back. Raises ``DamagedFile``."""
    if type(data) is not bytes or len(data) % 20:
        raise DamagedFile("the database holds a context that is none")
    return frozenset(
        (
            int.from_bytes(data[at : at + 8], "big"),
            int.from_bytes(data[at + 8 : at + 16], "big"),
            int.from_bytes(data[at + 16 : at + 20], "big"),
        )
        for at in range(0, len(data), 20)
    )

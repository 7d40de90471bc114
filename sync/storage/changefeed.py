"""The change feed, read from a store: what each transaction made of each document, in the order of their arrival.

Implements docs/spec/change-feed.md. Nothing is kept for it. An operation's row says when it came and when it died, so
what a document was before and after a transaction is a choice among its rows, and reading the feed again gives the same
events. Where a change of membership has made a document anew since, the rows say only what was live from then on;
before that its images are decided from its operations, as any other cut is (``sync.storage.reader``).

Documents are read for many transactions at once, and their states follow from each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from identity.encoding import MAX_INT, Value
from identity.errors import ConflictError, DamagedFile, MalformedError
from ledger.entry import parse_entry
from ledger.storage.rows import checked
from ledger.values import Reference
from sync.cells import LiveDot
from sync.changefeed import START, ChangeEvent, ChangeKind, ChangePage, Contest, Position, change_kind, parse_position
from sync.clock import wall_ms
from sync.query import project
from sync.storage.documents import count_increments, read_dot
from sync.storage.projection import KIND_NUMBER
from sync.storage.queries import MANY
from sync.storage.reader import DocumentState, Reader
from sync.storage.scan import padded
from sync.transaction import MEMBER, TXN, DocumentId, Path, Verb
from sync.view import CounterPart, document_version, etag_of, exact_sum

__all__ = ["MAX_EVENTS", "changes_after"]

MAX_EVENTS: Final = 10_000
"""Events that can be asked for at once; the last transaction may make them more."""

_ENTRIES: Final = 256
_FEW_ENTRIES: Final = 16
"""Entries that are read at once: as many as events are wanted, within these bounds."""
_MOST_OPS: Final = 16_384
"""Operations of the entries that are read at once, unless the first one has more."""
_MOST_ENTRIES: Final = 20_000
"""Entries that are looked at for one page, however few of them make events."""
_NOTE_KEY: Final = b"\x64note"
"""The CBOR of a note's key: an entry without these bytes has none, and need not be decoded to find that out."""


def changes_after(
    reader: Reader,
    cursor: str = START,
    *,
    limit: int = 100,
    collections: Collection[str] | None = None,
    fields: Sequence[Path] | None = None,
) -> ChangePage:
    """The events behind a cursor: ``limit`` of them, and then those that complete the last transaction.

    With ``collections`` only of documents in these. With ``fields`` the images hold only these, and what left them as
    they were is no event. The page's cursor has passed all that was left out. Raises ``MalformedError`` for what is no
    cursor and a limit that is not 1 to ``MAX_EVENTS``, ``ConflictError`` for a cursor of another store, or of tables
    that were made anew since: then a copy has to be begun anew as well.
    """
    if not 1 <= limit <= MAX_EVENTS:
        raise MalformedError(f"a page has 1 to {MAX_EVENTS} events, not {limit}")
    reading = _Reading(reader, collections, fields)
    position = parse_position(cursor)
    newest = reading.entry_of(position)
    events: list[ChangeEvent] = []
    looked_at = 0
    while looked_at < _MOST_ENTRIES:
        steps = reading.steps(position, newest, limit - len(events))
        for step, found in reading.run(steps, position):
            events += found
            position, newest = step.position, step.entry
            if len(events) >= limit:
                return ChangePage(tuple(events), position.text(), more=True)
        looked_at += len(steps)
        if not steps:
            return ChangePage(tuple(events), position.text(), more=False)
    return ChangePage(tuple(events), position.text(), more=True)


class _Entry(NamedTuple):
    """The row of an entry."""

    place: int
    branch: int
    seq: int
    kind: int
    ops: int
    reading: int
    masked: str | None
    leaf: bytes


def _read_entry(row: Sequence[Any]) -> _Entry:
    """Raises ``DamagedFile``."""
    entry = _Entry(*row)
    checked((*entry[:6], entry.leaf), int, int, int, int, int, int, bytes)
    return entry


@dataclass(frozen=True, slots=True)
class _Step:
    """What changes documents at once: a transaction, or one document that was made anew.

    Its old images are what was shown at the place ``before``, its new ones at ``after``.
    """

    position: Position
    """Where whoever has read it stands."""
    entry: _Entry
    documents: tuple[int, ...]
    """By number."""
    before: int
    after: int
    made_anew: bool = False


class _Document(NamedTuple):
    name: DocumentId
    exact_from: int


class _Reading:
    """What is asked for, and from where."""

    def __init__(self, reader: Reader, collections: Collection[str] | None, fields: Sequence[Path] | None) -> None:
        self._reader = reader
        self._tx = reader.tx
        self._sql = reader.sql
        self._collections = None if collections is None else frozenset(collections)
        self._fields = None if fields is None else tuple(fields)
        self._documents: dict[int, _Document] = {}
        self._contests: defaultdict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        """By place and document the entries whose condition was found broken, and by which, as their places."""

    def entry_of(self, position: Position) -> _Entry | None:
        """The newest entry up to a position; None before the first. Raises ``ConflictError`` when it is another one."""
        if not position.place:
            return None
        row = self._tx.fetch_one(self._sql.entry_before, (self._reader.number, position.place))
        if row is None or not position.stands_on(row[7]):
            raise ConflictError(
                "the cursor is of another store, or of tables that were made anew since",
                hint=f"begin at {START!r}, with an empty copy",
            )
        return _read_entry(row)

    # --- steps ---

    def steps(self, position: Position, newest: _Entry | None, wanted: int) -> list[_Step]:
        """The next steps behind a position, in order; none at the end. ``newest`` is the newest entry up to there.

        They are about ``wanted`` documents, if it can be.
        """
        is_within = position.document is not None and newest is not None and newest.place == position.place
        size = min(_ENTRIES, max(_FEW_ENTRIES, wanted))
        entries, are_all = self._entries(position.place - 1 if is_within else position.place, size)
        touched = self._touched(entries)
        kept = _enough(entries, touched, wanted)
        upto = MAX_INT if are_all and len(kept) == len(entries) else kept[-1].place + kept[-1].ops
        document = MAX_INT if position.document is None or is_within else position.document
        behind = (self._reader.number, upto, position.place, document, size)
        rebuilt = self._tx.fetch_all(self._sql.rebuilt_after, behind)
        if len(rebuilt) == size:
            kept = [entry for entry in kept if entry.place < rebuilt[-1][0]]
        return list(_merged(kept, touched, rebuilt, newest))

    def _entries(self, place: int, size: int) -> tuple[list[_Entry], bool]:
        """The next entries behind a place, at most ``size``, and whether these are all that there are."""
        rows = self._tx.fetch_all(self._sql.entries_behind, (self._reader.number, place, size))
        entries = [_read_entry(row) for row in rows]
        ops = 0
        for at, entry in enumerate(entries):
            ops += entry.ops
            if ops > _MOST_OPS and at:
                return entries[:at], False
        return entries, len(entries) < size

    def _touched(self, entries: Sequence[_Entry]) -> Mapping[int, set[int]]:
        """By an entry's place the documents that its operations are about, or in which it broke a condition."""
        touched: dict[int, set[int]] = {entry.place: set() for entry in entries}
        self._contests.clear()
        if entries:
            first, last = entries[0].place, entries[-1].place + entries[-1].ops
            ends = iter(entries)
            entry = next(ends)
            for row in self._tx.fetch_all(self._sql.touched_at, (first, last)):
                place, document = checked(row, int, int)
                while place > entry.place + entry.ops:
                    entry = next(ends)
                if place > entry.place:  # else it is of another database
                    touched[entry.place].add(document)
            for row in self._tx.fetch_all(self._sql.contests_found, (first - 1, last)):
                found_at, document, guarded, other = checked(row, int, int, int, int)
                if found_at in touched:
                    touched[found_at].add(document)
                    self._contests[found_at, document].append((guarded, other))
        return touched

    # --- events ---

    def run(self, steps: Sequence[_Step], position: Position) -> Iterator[tuple[_Step, list[ChangeEvent]]]:
        """Each step with its events, those that the position has passed left out."""
        if not steps:
            return
        images = self._images(steps)
        for step in steps:
            is_begun = position.document is not None and step.entry.place == position.place and not step.made_anew
            changes = []
            for number in filter(self._is_wanted, step.documents):
                old, new, changed = images[number].pass_over(step)
                contests = () if step.made_anew else self._contests_in(step.entry.place, number)
                if (changed or contests) and not (is_begun and number <= (position.document or 0)):
                    changes.append(_Change(number, old, new, contests))
            yield step, list(self._events(step, changes))

    def _contests_in(self, place: int, document: int) -> tuple[Contest, ...]:
        found = self._contests.get((place, document), ())
        return tuple(Contest(self._reference(guarded), self._reference(other)) for guarded, other in found)

    def _is_wanted(self, number: int) -> bool:
        return self._collections is None or self._documents[number].name.collection in self._collections

    def _images(self, steps: Sequence[_Step]) -> Mapping[int, _Images]:
        """What becomes of each wanted document of the steps."""
        numbers = sorted({number for step in steps for number in step.documents})
        self._name(number for number in numbers if number not in self._documents)
        start, end = steps[0].before, steps[-1].after
        images: dict[int, _Images] = {}
        exact = []
        for number in filter(self._is_wanted, numbers):
            document = self._documents[number]
            if document.exact_from <= start:
                exact.append(number)
            else:
                images[number] = _Decided(self._reader, number, document)
        for first in range(0, len(exact), MANY):
            some = exact[first : first + MANY]
            rows: dict[int, list[Any]] = {number: [] for number in some}
            for row in self._tx.fetch_all(self._sql.lives_of_many, (*padded(some), end, start)):
                rows[row[7]].append(row)
            images |= {one: _Followed(self._reader, self._documents[one].name, rows[one], start) for one in some}
        return images

    def _name(self, numbers: Iterable[int]) -> None:
        missing = list(numbers)
        for first in range(0, len(missing), MANY):
            for row in self._tx.fetch_all(self._sql.rows_of_many, padded(missing[first : first + MANY])):
                number, collection, key, exact_from = checked(row, int, str, str, int)
                self._documents[number] = _Document(DocumentId(collection, key), exact_from)
        lost = [number for number in missing if number not in self._documents]
        if lost:
            raise DamagedFile(f"the database has lost document {lost[0]}")

    def _reference(self, place: int) -> Reference:
        """The entry at a place."""
        row = self._tx.fetch_one(self._sql.entry_before, (self._reader.number, place))
        if row is None or row[0] != place:
            raise DamagedFile(f"the database has lost the entry at place {place}")
        entry = _read_entry(row)
        return Reference(self._reader.branches[entry.branch].feed, entry.seq, entry.leaf)

    def _events(self, step: _Step, changes: Sequence[_Change]) -> Iterator[ChangeEvent]:
        if not changes:
            return
        entry = step.entry
        author = self._reader.branches[entry.branch].author
        note = "" if step.made_anew else self._note(entry)
        for change in changes:
            kind = change_kind(change.old, change.new)
            old, new = self._image(change.old), self._image(change.new)
            if self._fields is not None and kind is ChangeKind.CHANGED and old == new:
                continue
            yield ChangeEvent(
                step.position._replace(document=change.number).text(),
                self._reader.uid,
                Reference(author.feed, entry.seq, entry.leaf),
                self._documents[change.number].name,
                kind,
                old,
                new,
                change.new.etag if change.new is not None and change.new.exists else "",
                () if change.new is None else change.new.conflicts,
                change.contests,
                note,
                author.device,
                author.identity,
                wall_ms(entry.reading),
                step.made_anew,
            )

    def _note(self, entry: _Entry) -> str:
        block = self._reader.branches.block(entry.branch, entry.seq, entry.leaf)
        note = parse_entry(block).body.get("note", "") if _NOTE_KEY in block else ""
        return note if isinstance(note, str) else ""

    def _image(self, state: DocumentState | None) -> Mapping[str, Value] | None:
        """What a reader finds of a document."""
        if state is None or not state.exists:
            return None
        return state.stored if self._fields is None else project(state.stored, self._fields)


def _enough(entries: Sequence[_Entry], touched: Mapping[int, set[int]], wanted: int) -> list[_Entry]:
    """The first entries, up to the one with which they have touched so many documents."""
    documents = 0
    for at, entry in enumerate(entries, 1):
        documents += len(touched[entry.place])
        if documents >= wanted:
            return list(entries[:at])
    return list(entries)


class _Change(NamedTuple):
    """What a step made of one document."""

    number: int
    old: DocumentState | None
    new: DocumentState | None
    contests: tuple[Contest, ...]


def _merged(
    entries: Sequence[_Entry], touched: Mapping[int, set[int]], rebuilt: Sequence[Any], newest: _Entry | None
) -> Iterator[_Step]:
    """Entries and documents that were made anew as steps, by place. ``newest`` is the entry before all of them."""
    waiting = [tuple(checked(row, int, int)) for row in reversed(rebuilt)]
    for entry in (*entries, None):
        while waiting and (entry is None or waiting[-1][0] < entry.place):
            place, document = waiting.pop()
            if newest is None:
                raise DamagedFile("the database has made a document anew before it had any entry")
            position = Position(place, newest.leaf, document)
            # What a member entry takes away was shown before it; what else makes documents anew does so at its place.
            is_act = newest.kind == KIND_NUMBER[MEMBER] and newest.masked is None
            before = newest.place - 1 if is_act else place - 1
            yield _Step(position, newest, (document,), before, place, made_anew=True)
        if entry is not None:
            newest = entry
            is_change = entry.kind == KIND_NUMBER[TXN] and entry.masked is None
            documents = tuple(sorted(touched[entry.place])) if is_change else ()
            position = Position(entry.place, entry.leaf)
            yield _Step(position, entry, documents, entry.place - 1, entry.place + entry.ops)


# --- images ---------------------------------------------------------------------------------------------------------


class _Followed:
    """What one document was, step by step: each state from the one before it."""

    def __init__(self, reader: Reader, name: DocumentId, rows: Sequence[Any], start: int) -> None:
        """``rows`` are its operations that were live at ``start`` or came later, by place, each with its death."""
        self._reader = reader
        self._name = name
        self._dots: dict[int, LiveDot] = {}
        self._increments: defaultdict[tuple[str, int], dict[int, LiveDot]] = defaultdict(dict)
        self._parts: dict[tuple[str, int], CounterPart] = {}
        read = [(read_dot(row), row[8]) for row in rows]
        self._coming = [one for one in reversed(read) if one[0].place > start]
        self._going = sorted(((dead, dot) for dot, dead in read if dead is not None), reverse=True)
        for dot, _ in read[: len(read) - len(self._coming)]:
            self._add(dot)
        self._state = self._make()

    def pass_over(self, step: _Step) -> tuple[DocumentState | None, DocumentState | None, bool]:
        """The document before and after a step, and whether the step made another version of it."""
        old, changed = self._state, False
        while self._coming and self._coming[-1][0].place <= step.after:
            dot, dead = self._coming.pop()
            if dead is None or dead > step.after:
                self._add(dot)
                changed = True
        while self._going and self._going[-1][0] <= step.after:
            _, dot = self._going.pop()
            changed = self._remove(dot) or changed
        if changed:
            self._state = self._make()
        return old, self._state, changed

    def _add(self, dot: LiveDot) -> None:
        if dot.verb is not Verb.INC:
            self._dots[dot.place] = dot
            return
        where = (dot.path, dot.branch)
        self._increments[where][dot.place] = dot
        (part,) = count_increments([dot])
        held = self._parts.get(where)
        if held is not None:
            total = exact_sum((held.total, part.total))
            part = replace(part, first=held.first, count=held.count + 1, total=total)
        self._parts[where] = part

    def _remove(self, dot: LiveDot) -> bool:
        """Whether it was there."""
        if dot.verb is not Verb.INC:
            return self._dots.pop(dot.place, None) is not None
        where = (dot.path, dot.branch)
        if self._increments[where].pop(dot.place, None) is None:
            return False
        self._parts.pop(where)
        for part in count_increments(self._increments[where].values()):
            self._parts[where] = part
        return True

    def _make(self) -> DocumentState | None:
        if not self._dots and not self._parts:
            return None
        reader, dots, parts = self._reader, tuple(self._dots.values()), tuple(self._parts.values())

        def etag() -> str:
            return etag_of(document_version(reader.uid, self._name, dots, parts, lambda one: reader.branches[one].uid))

        return DocumentState(self._name, etag, lambda: reader.view(dots, parts), dots, parts)


class _Decided:
    """The same, each state decided from all operations."""

    def __init__(self, reader: Reader, number: int, document: _Document) -> None:
        self._reader = reader
        self._number = number
        self._document = document

    def pass_over(self, step: _Step) -> tuple[DocumentState | None, DocumentState | None, bool]:
        """As ``_Followed.pass_over``. What made the document anew is always told of."""
        old, new = self._at(step.before), self._at(step.after)
        versions = {"" if state is None else state.etag for state in (old, new)}
        return old, new, step.made_anew or len(versions) > 1

    def _at(self, place: int) -> DocumentState | None:
        name, exact_from = self._document
        return self._reader.state_at(self._number, name, self._reader.known(place), exact_from)


_Images = _Followed | _Decided

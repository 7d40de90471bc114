"""What somebody lacks of a database, and in which order it is sent: no entry before one that it had seen.

Implements docs/spec/sync-protocol.md, sections "What is sent" and "Order". What others have is known by points of lines
(``Known``), which grows with what they tell, send and are sent. Nothing here keeps a snapshot of the store open between
two frames: a line only ever grows, so a cursor on it means the same in the next snapshot.

An order in which nobody ever waits need not exist, because one head can cover entries that had seen each other's
neighbours. Then the receiver lets the entries wait for one frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, NamedTuple, Protocol

from identity.contexts import SYNC_EVENTS
from identity.errors import DamagedFile
from ledger.manifest import describe, parse_manifest
from ledger.merkle import Node
from ledger.store import FeedKey, SignedHead, StoredEvent
from sync.bundle import Point
from sync.content import entry_of
from sync.frames import MAX_BODY_BYTES, MAX_PARTS, Batch, Blocks, Events, Frame, FrameRun, Holding
from sync.transaction import Founding, parse_stamp_of

__all__ = [
    "HeldLine",
    "Known",
    "Outgoing",
    "Snapshot",
    "SnapshotLine",
    "beginnings",
    "events_digest",
    "events_frames",
    "held_of",
    "holding_of",
    "is_on",
    "missing_events",
]

_BODY_BYTES: Final = 256 * 1024
_HEADER_BYTES: Final = 96 * 1024
_BLOCKS: Final = 512
"""What a frame of several groups is filled up to; the numbers are far below what a frame can be."""

_RUN_BYTES: Final = 160
_HEAD_BYTES: Final = 64
_SIZE_BYTES: Final = 5
"""What a run without its manifest, a head without its signature and a block add to a header, at most."""

_READ_AHEAD: Final = 32
_POINTS_OF_A_FEED: Final = 64
"""Points that are remembered of one feed beyond those that were told: forgetting one only costs bytes."""


class HeldLine(Protocol):
    """A line of a feed, as far as who compares needs it."""

    @property
    def first(self) -> int:
        """The first block that is not in the ledger."""

    @property
    def length(self) -> int:
        """How many blocks it has."""

    def tree_hash(self, length: int) -> bytes:
        """The tree hash of its first ``length`` blocks."""


class SnapshotLine(HeldLine, Protocol):
    """A line in a snapshot."""

    @property
    def feed(self) -> FeedKey:
        """The feed that it is of."""

    @property
    def side(self) -> int:
        """What tells it from the feed's other lines, in every snapshot."""

    def node(self, index: int) -> Node:
        """The tree node at flat-tree ``index``."""

    def blocks(self, start: int, stop: int) -> Iterator[bytes]:
        """Blocks ``start`` to ``stop - 1``."""

    def heads(self, above: int = 0) -> Iterator[SignedHead]:
        """Its signed heads longer than ``above``, shortest first."""


class Snapshot(Protocol):
    """What a replica has of one database at one moment."""

    def founding(self) -> Founding | None:
        """What the database was founded with; None when that is not here."""

    def feeds(self) -> Mapping[FeedKey, bytes]:
        """The manifests of its feeds, each behind the one that it continues."""

    def lines(self, feed: FeedKey) -> Sequence[SnapshotLine]:
        """The lines of a feed, that of the ledger first when there is one."""

    def identities(self) -> Sequence[bytes]:
        """The authors of the feeds, ascending."""

    def events(self, identity: bytes) -> Sequence[StoredEvent]:
        """The events of an identity by seq."""


# --- what somebody has ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Known:
    """What is known of what somebody has. It may be less than they have."""

    points: dict[FeedKey, list[Point]] = field(default_factory=dict)
    identities: dict[bytes, Holding] = field(default_factory=dict)
    lacking: dict[FeedKey, set[Point]] = field(default_factory=dict)
    """Points of ours that are on none of their lines."""

    @property
    def blocks(self) -> int:
        """How long their feeds are together, the longest line of each: it grows when they get further."""
        return sum(max(point.length for point in points) for points in self.points.values() if points)

    def add(self, point: Point, instead: Point | None = None) -> None:
        """They have that; ``instead`` is a beginning of it."""
        points = self.points.setdefault(point.feed, [])
        if instead in points:
            points.remove(instead)
        if point not in points:
            points.append(point)
        while len(points) > _POINTS_OF_A_FEED:
            points.remove(min(points, key=lambda one: one.length))

    def has_events(self, snapshot: Snapshot) -> None:
        """They have every identity event that is here and that they did not have more of."""
        for identity in snapshot.identities():
            ours, theirs = holding_of(identity, snapshot.events(identity)), self.identities.get(identity)
            if theirs is None or theirs.count <= ours.count:
                self.identities[identity] = ours

    def lacks(self, point: Point) -> None:
        """They have no line that this is on."""
        found = self.lacking.setdefault(point.feed, set())
        if len(found) < _POINTS_OF_A_FEED:
            found.add(point)


def is_on(point: Point, line: HeldLine) -> bool:
    """Whether a point of a feed is a beginning of a line of it."""
    return point.length <= line.length and line.tree_hash(point.length) == point.tree_hash


def held_of(line: HeldLine, lines: Sequence[HeldLine], points: Sequence[Point], ahead: Sequence[Point]) -> int:
    """How much of a line of a feed somebody has who has ``points``, as far as can be told; they may have more of it.

    ``lines`` are all of the feed. Where none of the points is a beginning of any, they have the line whole when a point
    in ``ahead`` is longer than it is.
    """
    held = -1
    for point in points:
        for other in lines:
            if is_on(point, other):
                shared = line.length if other is line else min(line.first, other.first)
                held = max(held, min(point.length, shared))
    if held < 0 and any(point.length > line.length for point in ahead):
        return line.length  # they are ahead, most likely on this line
    return max(held, 0)


def beginnings(feed: FeedKey, lines: Iterable[HeldLine], length: int) -> tuple[Point, ...]:
    """Beginnings of lines shorter than ``length``, which none of them has as somebody else does: one, two, four ...
    blocks shorter, so that what both have is found to within as much again as was written since."""
    found = set()
    for line in lines:
        back = 1
        while back < length:
            if length - back <= line.length:
                found.add(Point(feed, length - back, line.tree_hash(length - back)))
            back *= 2
    return tuple(sorted(found))


def events_digest(digests: Iterable[bytes]) -> bytes:
    """What stands for a set of identity events, whatever order they came in."""
    return sha256(SYNC_EVENTS + b"".join(sorted(digests))).digest()


def holding_of(identity: bytes, events: Sequence[StoredEvent]) -> Holding:
    """What is here of an identity."""
    return Holding(identity, len(events), events_digest(event.digest for event in events))


def missing_events(snapshot: Snapshot, known: Known) -> list[StoredEvent]:
    """The events of authors that somebody may not have."""
    missing: list[StoredEvent] = []
    for identity in snapshot.identities():
        events = snapshot.events(identity)
        theirs, ours = known.identities.get(identity), holding_of(identity, events)
        if theirs == ours or (theirs is not None and theirs.count > ours.count):
            continue  # who has more sends it first, and then it shows what is missing there
        held = 0 if theirs is None else theirs.count
        is_prefix = theirs is not None and holding_of(identity, events[:held]) == theirs
        missing += events[held if is_prefix else 0 :]
    return missing


# --- what is sent ---------------------------------------------------------------------------------------------------

_Key = tuple[FeedKey, int]


class _Need(NamedTuple):
    """That a block of a line comes before."""

    key: _Key
    seq: int


@dataclass(slots=True)
class _Cursor:
    """A line on its way: what is sent next, and what its next group of blocks waits for."""

    key: _Key
    at: int
    stop: int
    base: tuple[_Need, ...] = ()
    needs: tuple[_Need, ...] | None = None
    point: Point | None = None
    """What the receiver has of it, when something was sent."""


class Outgoing:
    """What is on its way to somebody."""

    def __init__(self, database: bytes, known: Known, wants: frozenset[FeedKey] | None = None) -> None:
        self.known = known
        self.wants = wants
        self._database = database
        self._cursors: dict[_Key, _Cursor] = {}
        self._of_feed: dict[FeedKey, list[_Key]] = {}
        self._stack: list[_Key] = []
        self._told: dict[_Key, Point] = {}
        self._new: set[FeedKey] = set()
        """Feeds of which the receiver has nothing, as far as is known: they need a manifest."""

    def plan(self, snapshot: Snapshot) -> None:
        """Find out anew what is missing."""
        self._cursors, self._of_feed, self._stack, self._new = {}, {}, [], set()
        for feed, manifest in snapshot.feeds().items():
            if self.wants is None or feed in self.wants:
                self._plan_feed(snapshot, feed, manifest)

    def _plan_feed(self, snapshot: Snapshot, feed: FeedKey, manifest: bytes) -> None:
        lines, points = snapshot.lines(feed), self.known.points.get(feed, [])
        ahead = [point for point in points if not any(is_on(point, line) for line in lines)]
        lacking = self.known.lacking.get(feed, set())
        told = list(points)
        for line in lines:
            foreign = [] if any(is_on(point, line) for point in lacking) else ahead
            start, alone = held_of(line, lines, told, foreign), held_of(line, lines, points, foreign)
            if start >= line.length or alone >= line.length:
                continue
            key = (feed, line.side)
            self._cursors[key] = _Cursor(key, start, line.length, self._base(snapshot, line, start, alone, manifest))
            self._of_feed.setdefault(feed, []).append(key)
            told.append(Point(feed, line.length, line.tree_hash(line.length)))
        if not points and feed not in {key[0] for key in self._told}:
            self._new.add(feed)

    def _base(
        self, snapshot: Snapshot, line: SnapshotLine, start: int, alone: int, manifest: bytes
    ) -> tuple[_Need, ...]:
        """What has to be there before the first block of a line: what it leaves, or what its feed continues."""
        needs: list[tuple[Point, int]] = []
        if start > alone:
            needs.append((Point(line.feed, start, line.tree_hash(start)), start - 1))
        description = describe(parse_manifest(manifest))
        older = None if description is None else description.continues
        if older is not None and not start:
            needs.append((Point(older.key, older.length, older.tree_hash), older.length - 1))
        return tuple(
            _Need((point.feed, other.side), seq)
            for point, seq in needs
            for other in snapshot.lines(point.feed)
            if (point.feed, other.side) in self._cursors and is_on(point, other)
        )

    @property
    def is_empty(self) -> bool:
        """Whether nothing is on its way."""
        return not self._cursors

    def next_frames(self, snapshot: Snapshot) -> list[Frame]:
        """The next batch of what is missing, in pieces if it is too large for a frame; empty when nothing is.

        It counts as sent.
        """
        tails = _Tails(snapshot)
        filling = _Filling()
        while (cursor := self._next(tails)) is not None:
            head, blocks = tails.group(cursor)
            manifest = snapshot.feeds()[cursor.key[0]] if cursor.key[0] in self._new else None
            if not filling.has_room(head, blocks, manifest):
                break
            filling.add(cursor.key, tails.line(cursor.key), cursor.at, head, blocks, manifest)
            self._sent(cursor, head, tails)
        return filling.frames()

    def _sent(self, cursor: _Cursor, head: SignedHead, tails: _Tails) -> None:
        feed = cursor.key[0]
        point = Point(feed, head.length, head.tree_hash)
        self.known.add(point, self._told.get(cursor.key))
        self._told[cursor.key] = point
        self._new.discard(feed)
        cursor.at, cursor.needs = head.length, None
        tails.sent(cursor)
        if cursor.at >= cursor.stop:
            del self._cursors[cursor.key]
        self._stack.pop()

    def _next(self, tails: _Tails) -> _Cursor | None:
        """The line whose next group can be sent: of a line, or of what that waits for."""
        while self._cursors:
            if not self._stack:
                self._stack.append(next(iter(self._cursors)))
            cursor = self._cursors.get(self._stack[-1])
            if cursor is None:
                self._stack.pop()
                continue
            unmet = next((need for need in self._needs(cursor, tails) if self._is_unmet(need)), None)
            if unmet is None:
                return cursor
            self._stack.append(unmet.key)
        return None

    def _is_unmet(self, need: _Need) -> bool:
        cursor = self._cursors.get(need.key)
        return cursor is not None and cursor.at <= need.seq and need.key not in self._stack

    def _needs(self, cursor: _Cursor, tails: _Tails) -> tuple[_Need, ...]:
        if len(self._cursors) == 1:
            return ()
        if cursor.needs is None:
            _, blocks = tails.group(cursor)
            seen = {dep for block in blocks for dep in self._seen_by(block) if dep[0] != cursor.key[0]}
            found = (self._need_of(dep, tails) for dep in sorted(seen))
            cursor.needs = (*cursor.base, *(need for need in found if need is not None))
        return cursor.needs

    def _seen_by(self, block: bytes) -> Iterator[tuple[FeedKey, int, bytes]]:
        entry = entry_of(self._database, block)
        stamp = None if entry is None else parse_stamp_of(entry)
        if stamp is not None:
            for dep in stamp.deps:
                yield FeedKey(dep.feed), dep.index, dep.leaf_hash

    def _need_of(self, dep: tuple[FeedKey, int, bytes], tails: _Tails) -> _Need | None:
        """The line on its way that has an entry."""
        feed, index, leaf = dep
        for key in self._of_feed.get(feed, ()):
            cursor = self._cursors.get(key)
            if cursor is not None and cursor.at <= index < cursor.stop and tails.line(key).node(2 * index).hash == leaf:
                return _Need(key, index)
        return None


class _Tails:
    """What is left of lines in one snapshot, group by group: the blocks up to the next head."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._lines: dict[_Key, SnapshotLine] = {}
        self._heads: dict[_Key, Iterator[SignedHead]] = {}
        self._groups: dict[_Key, tuple[SignedHead, list[bytes]]] = {}
        self._ahead: dict[_Key, list[bytes]] = {}

    def line(self, key: _Key) -> SnapshotLine:
        """The line of a cursor."""
        if key not in self._lines:
            self._lines.update({(key[0], line.side): line for line in self._snapshot.lines(key[0])})
        return self._lines[key]

    def group(self, cursor: _Cursor) -> tuple[SignedHead, list[bytes]]:
        """Its next head, and the blocks that no shorter one covers."""
        key = cursor.key
        if key not in self._groups:
            if key not in self._heads:
                self._heads[key] = self.line(key).heads(cursor.at)
            head = next(self._heads[key], None)
            if head is None:
                raise DamagedFile(f"feed {key[0].hex()}: no signed head of {cursor.stop} blocks")
            self._groups[key] = (head, self._blocks(cursor, head.length - cursor.at))
        return self._groups[key]

    def sent(self, cursor: _Cursor) -> None:
        """The cursor was moved behind its group."""
        del self._groups[cursor.key]

    def _blocks(self, cursor: _Cursor, count: int) -> list[bytes]:
        ahead = self._ahead.setdefault(cursor.key, [])
        if len(ahead) < count:
            start = cursor.at + len(ahead)
            stop = min(max(cursor.at + count, start + _READ_AHEAD), cursor.stop)
            ahead += self.line(cursor.key).blocks(start, stop)
        taken, self._ahead[cursor.key] = ahead[:count], ahead[count:]
        return taken


class _Filling:
    """A batch that is being put together."""

    def __init__(self) -> None:
        self._runs: list[FrameRun] = []
        self._last: _Key | None = None
        self._header = self._body = self._count = 0

    def has_room(self, head: SignedHead, blocks: Sequence[bytes], manifest: bytes | None) -> bool:
        """Whether a group can be added. The first one always can."""
        return not self._runs or (
            self._header + self._cost(head, blocks, manifest) <= _HEADER_BYTES
            and self._body + sum(map(len, blocks)) <= _BODY_BYTES
            and self._count + len(blocks) <= _BLOCKS
        )

    def _cost(self, head: SignedHead, blocks: Sequence[bytes], manifest: bytes | None) -> int:
        return _RUN_BYTES + len(manifest or b"") + _HEAD_BYTES + len(head.signature) + _SIZE_BYTES * len(blocks)

    def add(
        self,
        key: _Key,
        line: SnapshotLine,
        at: int,
        head: SignedHead,
        blocks: Sequence[bytes],
        manifest: bytes | None,
    ) -> None:
        """Add a group."""
        self._header += self._cost(head, blocks, manifest)
        self._body += sum(map(len, blocks))
        self._count += len(blocks)
        if key == self._last:
            run = self._runs.pop()
            run = FrameRun(run.feed, run.manifest, run.start, run.tree_hash, (*run.heads, head), (*run.blocks, *blocks))
        else:
            run = FrameRun(key[0], manifest, at, line.tree_hash(at), (head,), tuple(blocks))
        self._runs.append(run)
        self._last = key

    def frames(self) -> list[Frame]:
        """The batch; what does not fit into a frame with it stands before it."""
        if not self._runs:
            return []
        frames: list[Frame] = []
        if self._body > MAX_BODY_BYTES or self._count > MAX_PARTS:  # then it is one group
            (run,) = self._runs
            *before, last = _cut(run.blocks)
            frames += [Blocks(piece) for piece in before]
            self._runs = [FrameRun(run.feed, run.manifest, run.start, run.tree_hash, run.heads, last)]
        return [*frames, Batch(tuple(self._runs))]


def _cut(parts: Sequence[bytes]) -> list[tuple[bytes, ...]]:
    """Parts in pieces that fit into a frame each."""
    pieces: list[list[bytes]] = [[]]
    size = 0
    for part in parts:
        if pieces[-1] and (size + len(part) > MAX_BODY_BYTES or len(pieces[-1]) == MAX_PARTS):
            pieces.append([])
            size = 0
        pieces[-1].append(part)
        size += len(part)
    return [tuple(piece) for piece in pieces]


def events_frames(events: Sequence[StoredEvent]) -> list[Frame]:
    """Identity events in frames."""
    return [Events(piece) for piece in _cut([event.signed_event for event in events]) if piece]

"""A session between two replicas of a database: the sync protocol as a state machine that does no I/O.

Implements docs/spec/sync-protocol.md. Whoever has a connection moves frames:

    session = Session(replica)
    while (frame := session.next_frame()) is not None:
        ...                                      # send it
    for event in session.receive(frame):         # one that has come
        ...                                      # tell the user

Both sides are alike. Each says what it has, and sends what the other lacks in batches, each of which is verified and
applied on its own: a session can end at any frame, and the next one goes on from there. What a frame of the peer's
claims is believed only as far as it is verified; a frame that breaks a rule ends the session with a named reason, and
nothing of it is kept. What is held of a peer is bounded by what one head can cover.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeAlias

from identity.errors import (
    AuditError,
    LimitExceeded,
    MalformedError,
    MissingEvidenceError,
    PeerMisbehaved,
    ReadOnlyState,
    RefusedError,
    UnsupportedVersion,
    VerificationError,
)
from ledger.feed import MAX_BATCH_BLOCKS, MAX_BATCH_BYTES
from ledger.store import FeedKey
from ledger.transfer import MAX_EVENTS_BYTES
from sync.bundle import MAX_POINTS, Point
from sync.frames import (
    MAX_TOLD,
    Ack,
    Batch,
    Blocks,
    Done,
    Events,
    Failure,
    Frame,
    FrameRun,
    HaveFrame,
    Hello,
    Holding,
    More,
    Refine,
    blocks_in,
    encode_frame,
    parse_frame,
)
from sync.outgoing import (
    Known,
    Outgoing,
    Snapshot,
    beginnings,
    events_frames,
    holding_of,
    is_on,
    missing_events,
)
from sync.report import ImportReport
from sync.transaction import Founding

__all__ = [
    "MAX_IDLE",
    "MAX_POINTS_OF_A_FEED",
    "MAX_TOLD_IDENTITIES",
    "MAX_UNACKED",
    "Acknowledged",
    "Event",
    "PeerDone",
    "PeerFailed",
    "PeerHello",
    "PeerMore",
    "Replica",
    "Session",
    "TookIn",
]

MAX_UNACKED: Final = 16
"""Frames of events and batches that a live session has sent and the peer has not taken in yet."""
MAX_IDLE: Final = 1024
"""Frames in a row that may bring nothing: others can have brought it since it was said what is here."""
MAX_POINTS_OF_A_FEED: Final = 17
"""Lines of one feed that a peer can have: that of its ledger, and the sides that are kept of it."""
MAX_TOLD_IDENTITIES: Final = 4096


class Replica(Protocol):
    """What a session reads and writes. What it takes in is verified, and is kept whole or not at all.

    Its methods raise what ``sync.receiving.Receiving`` raises for what comes in, and ``StorageError``.
    """

    @property
    def database(self) -> bytes | None:
        """The database's id; None when it is not here yet."""

    def begin(self, founding: Founding) -> None:
        """Let the replica have the database that was founded so, empty so far."""

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """What is here now."""

    def take_events(self, events: Sequence[bytes]) -> int:
        """Take in identity events. Returns how many were new."""

    def take_runs(self, runs: Sequence[FrameRun]) -> ImportReport:
        """Take in runs of blocks, and the entries that they bring."""


# --- what happens ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PeerHello:
    """The peer has begun the session."""

    hello: Hello


@dataclass(frozen=True, slots=True)
class TookIn:
    """A batch of the peer's was taken in."""

    report: ImportReport


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The peer has taken in what was sent: so many blocks were new to it, in all."""

    blocks: int


@dataclass(frozen=True, slots=True)
class PeerDone:
    """The peer has sent all that is missing here, as far as it knows."""


@dataclass(frozen=True, slots=True)
class PeerMore:
    """The peer sends nothing more in this session, and has more."""


@dataclass(frozen=True, slots=True)
class PeerFailed:
    """The peer has ended the session."""

    reason: str
    detail: str
    proof: bytes


Event: TypeAlias = PeerHello | TookIn | Acknowledged | PeerDone | PeerMore | PeerFailed


# --- the machine ----------------------------------------------------------------------------------------------------


class Session:
    """One side of a session.

    ``wants`` are the feeds that are asked for, None: all; without ``sends`` nothing is sent but what is here. ``known``
    is what the peer had in an earlier session: then what it lacks is sent without waiting to be told.
    """

    def __init__(
        self,
        replica: Replica,
        *,
        live: bool = False,
        wants: frozenset[FeedKey] | None = None,
        sends: bool = True,
        known: Known | None = None,
    ) -> None:
        self.known = Known() if known is None else known
        """What the peer has, as far as it is known now."""
        self.blocks_sent = 0
        self.ended = False
        """Whether nothing more will be sent or listened to, because one of the two has ended it."""
        self._replica = replica
        self._live = live
        self._wants = wants
        self._sends = sends
        self._is_told = known is not None
        self._incoming = _Incoming(replica)
        self._outgoing: Outgoing | None = None
        self._queue: deque[Frame] = deque()
        self._began = self._has_paused = False
        self._must_plan = True
        self._is_clean = False
        """Whether nothing has happened since that was said to be all."""
        self._peer_lives = False
        self._sent = self._received = 0
        """Frames."""
        self._units = self._acked = 0
        """Frames of events and batches: sent, and of those acknowledged."""
        self._must_see = 0
        """How many frames of ours the peer has to have seen, when it says that it is done."""
        self._done_after = self._done_units = -1
        """What the peer had seen, and how many frames of events and batches it had sent, when it was last done."""

    # --- sending ---

    def next_frame(self) -> bytes | None:
        """The next frame to be sent; None: nothing, before something has come or ``refresh`` was called."""
        if not self._began and not self.ended:
            self._begin()
        if not self._queue and not self.ended and not self._has_paused:
            self._fill()
        if not self._queue:
            return None
        frame = self._queue.popleft()
        self._sent += 1
        if isinstance(frame, HaveFrame | Refine):
            self._must_see = self._sent
        return encode_frame(frame)

    @property
    def may_pause(self) -> bool:
        """Whether the peer can use all that was sent, so that this side can stop here."""
        return self._began and not self._queue

    def pause(self) -> bytes:
        """Send nothing more in this session, where ``may_pause``: the frame that says so. The peer is listened to."""
        self._has_paused = True
        self._sent += 1
        return encode_frame(More())

    @property
    def has_more(self) -> bool:
        """Whether the peer lacks something, as far as is known, that was not sent in this session."""
        database = self._replica.database
        if not self._sends or not self._is_told or database is None:
            return False
        with self._replica.snapshot() as snapshot:
            planned = Outgoing(database, self.known, self._incoming.wants)
            planned.plan(snapshot)
            return not planned.is_empty or bool(missing_events(snapshot, self.known))

    def refresh(self) -> None:
        """Something was written here: send it too."""
        self._must_plan = True

    @property
    def is_even(self) -> bool:
        """Whether both sides have said that they have sent everything, and nothing has happened since."""
        return self._is_clean and not self._queue and self._done_after >= self._must_see

    def _begin(self) -> None:
        self._began = True
        wants = None if self._wants is None else tuple(sorted(self._wants))
        frames: list[Frame] = [Hello(None, None, wants, self._live), HaveFrame((), (), True)]
        if self._replica.database is not None:
            with self._replica.snapshot() as snapshot:
                hello = Hello(self._replica.database, snapshot.founding(), wants, self._live)
                frames = [hello, *_have_frames(snapshot)]
        self._queue.extendleft(reversed(frames))

    def _fill(self) -> None:
        """Queue what comes next: what the peer lacks, and then that this was all."""
        database = self._replica.database
        if not self._is_told or (self._peer_lives and self._units - self._acked >= MAX_UNACKED):
            return
        if self._sends and database is not None:
            self._queue += self._missing(database)
        if self._queue:
            self._is_clean = False
        elif not self._is_clean and (self._incoming.is_told or not self._live):
            self._is_clean = True
            self._queue.append(Done(self._received))

    def _missing(self, database: bytes) -> list[Frame]:
        if self._outgoing is None:
            self._outgoing = Outgoing(database, self.known, self._incoming.wants)
        frames: list[Frame] = []
        with self._replica.snapshot() as snapshot:
            if self._must_plan:
                self._must_plan = False
                frames += events_frames(missing_events(snapshot, self.known))
                self.known.has_events(snapshot)
                self._outgoing.plan(snapshot)
            frames += self._outgoing.next_frames(snapshot)
        self._units += sum(isinstance(frame, Events | Batch) for frame in frames)
        self.blocks_sent += sum(map(blocks_in, frames))
        return frames

    # --- receiving ---

    def receive(self, data: bytes) -> tuple[Event, ...]:
        """Take in a frame of the peer's. What has ended is not listened to.

        Raises ``PeerMisbehaved``, with nothing of the frame kept, when the peer breaks a rule or claims what is false:
        then ``next_frame`` tells it so, and that was all. Raises other errors when this side cannot go on.
        """
        if self.ended:
            return ()
        self._received += 1
        try:
            return self._take(parse_frame(data))
        except AuditError as exc:
            self.abort(exc)
            reason = _reason(exc)
            if reason is None or isinstance(exc, PeerMisbehaved):
                raise
            raise PeerMisbehaved(reason, str(exc)) from exc

    def abort(self, exc: AuditError) -> str:
        """End the session, because of what carried the frames, or of this side: the peer is told what it may know.

        Returns the name that it is told.
        """
        reason = _reason(exc)
        detail = exc.detail if isinstance(exc, PeerMisbehaved) else str(exc)
        self.ended = True
        self._queue = deque([Failure(reason or "UNAVAILABLE", detail if reason else "")])
        return reason or "UNAVAILABLE"

    def _take(self, frame: Frame) -> tuple[Event, ...]:
        self._incoming.check_order(frame)
        match frame:
            case Hello():
                return self._take_hello(frame)
            case HaveFrame():
                self._take_have(frame)
            case Refine():
                self._take_refine(frame)
            case Events() | Batch():
                return self._take_unit(frame)
            case Blocks():
                self._incoming.hold(frame)
            case Ack():
                return self._take_ack(frame)
            case Done():
                return self._take_done(frame)
            case More():
                return (PeerMore(),)
            case Failure():
                self.ended = True
                return (PeerFailed(frame.reason, frame.detail, frame.proof),)
        return ()

    def _take_hello(self, hello: Hello) -> tuple[Event, ...]:
        if self._replica.database is None:
            if hello.founding is None:
                raise MissingEvidenceError("sync: the peer does not say how the database was founded")
            self._replica.begin(hello.founding)
        elif hello.database not in (None, self._replica.database):
            raise PeerMisbehaved("OTHER_DATABASE", "the peer speaks of another database")
        if hello.live != self._live:
            raise PeerMisbehaved("OUT_OF_ORDER", "one side of the session is live and the other is not")
        self._peer_lives = hello.live
        self._incoming.wants = None if hello.wants is None else frozenset(hello.wants)
        return (PeerHello(hello),)

    def _take_have(self, frame: HaveFrame) -> None:
        told = self._incoming.take_have(frame)
        if told is None:
            return
        points, identities = told
        self.known.points = {feed: list(found) for feed, found in points.items()}
        self.known.identities = identities
        self._is_told, self._must_plan, self._is_clean = True, True, False
        if self._replica.database is not None:
            with self._replica.snapshot() as snapshot:
                self._queue += self._contradictions(snapshot, points)

    def _contradictions(self, snapshot: Snapshot, points: dict[FeedKey, list[Point]]) -> list[Frame]:
        """What the peer has to be told because it would take what is here for a continuation of its own line."""
        frames: list[Frame] = []
        feeds = snapshot.feeds()
        for feed, told in points.items():
            if feed not in feeds or (self._wants is not None and feed not in self._wants):
                continue
            lines = snapshot.lines(feed)
            for point in told:
                longer = [line for line in lines if line.length >= point.length]
                if longer and not any(is_on(point, line) for line in longer):
                    frames.append(Refine(point, beginnings(feed, lines, point.length)))
        return frames

    def _take_refine(self, frame: Refine) -> None:
        if len(self.known.points.get(frame.point.feed, ())) + len(frame.points) > MAX_TOLD:
            raise LimitExceeded("sync: more points of one feed than there can be lines")
        self.known.lacks(frame.point)
        for point in frame.points:
            self.known.add(point)
        self._must_plan, self._is_clean = True, False

    def _take_unit(self, frame: Events | Batch) -> tuple[Event, ...]:
        events: tuple[Event, ...] = ()
        if isinstance(frame, Events):
            self._incoming.take_events(frame)
            self._must_plan, self._is_clean = True, False
        else:
            runs, report = self._incoming.take_batch(frame)
            for run in runs:
                last = run.heads[-1]
                before = Point(run.feed, run.start, run.tree_hash)
                self.known.add(Point(run.feed, last.length, last.tree_hash), before)
            events = (TookIn(report),)
        if self._live:
            self._queue.append(Ack(self._incoming.units, self._incoming.blocks))
        return events

    def _take_done(self, frame: Done) -> tuple[Event, ...]:
        now = (frame.seen, self._incoming.units)
        if not (self._done_after <= frame.seen <= self._sent and now > (self._done_after, self._done_units)):
            raise PeerMisbehaved("OUT_OF_ORDER", "the peer is done with what was not sent to it, or is done twice")
        self._done_after, self._done_units = now
        return (PeerDone(),)

    def _take_ack(self, frame: Ack) -> tuple[Event, ...]:
        if not self._live or not self._acked < frame.frames <= self._units:
            raise PeerMisbehaved("OUT_OF_ORDER", "the peer acknowledges what was not sent to it")
        self._acked = frame.frames
        return (Acknowledged(frame.blocks),)


class _Incoming:
    """What the peer has sent so far: whether its next frame is in order, and what was held for it."""

    def __init__(self, replica: Replica) -> None:
        self.wants: frozenset[FeedKey] | None = None
        """Of the peer."""
        self.is_told = False
        """Whether the peer has said all that it has."""
        self.units = self.blocks = 0
        self._replica = replica
        self._greeted = False
        self._points: dict[FeedKey, list[Point]] = {}
        self._last_point: Point | None = None
        self._count = 0
        self._identities: dict[bytes, Holding] = {}
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._events_bytes = 0
        self._refined: set[Point] = set()
        self._idle = 0
        self._is_over = False

    def check_order(self, frame: Frame) -> None:
        """Return only when a frame may stand here. Raises ``PeerMisbehaved``."""
        if isinstance(frame, Failure):
            fits = True
        elif self._is_over:
            fits = False
        elif isinstance(frame, Ack):
            fits = self._greeted
        elif isinstance(frame, Hello):
            fits = not self._greeted
        elif isinstance(frame, HaveFrame):
            fits = self._greeted and not self.is_told
        elif self._held:
            fits = isinstance(frame, Blocks | Batch)
        elif isinstance(frame, Refine):
            fits = self.is_told and frame.point not in self._refined
            self._refined.add(frame.point)
        else:
            fits = self.is_told
        if not fits:
            raise PeerMisbehaved("OUT_OF_ORDER", f"a frame {type(frame).__name__} does not belong here")
        self._greeted = True
        self._is_over = isinstance(frame, More)
        if len(self._refined) > MAX_POINTS:
            raise LimitExceeded(f"sync: more than {MAX_POINTS} points are contradicted")

    def take_have(self, frame: HaveFrame) -> tuple[dict[FeedKey, list[Point]], dict[bytes, Holding]] | None:
        """Add to what the peer has; all of it, when this was the last frame about it."""
        if not frame.last and not frame.points and not frame.identities:
            raise MalformedError("sync: a frame that says nothing")
        for point in frame.points:
            if self._last_point is not None and point <= self._last_point:
                raise MalformedError("sync: what the peer has is not in ascending order")
            self._last_point = point
            found = self._points.setdefault(point.feed, [])
            found.append(point)
            if len(found) > MAX_POINTS_OF_A_FEED:
                raise LimitExceeded(f"sync: more than {MAX_POINTS_OF_A_FEED} lines of one feed")
        self._count += len(frame.points)
        if self._count > MAX_POINTS:
            raise LimitExceeded(f"sync: more than {MAX_POINTS} lines of feeds")
        for holding in frame.identities:
            if self._identities and holding.identity <= next(reversed(self._identities)):
                raise MalformedError("sync: identities are not in ascending order")
            self._identities[holding.identity] = holding
        if len(self._identities) > MAX_TOLD_IDENTITIES:
            raise LimitExceeded(f"sync: more than {MAX_TOLD_IDENTITIES} identities")
        self.is_told = frame.last
        return (self._points, self._identities) if frame.last else None

    def hold(self, frame: Blocks) -> None:
        """Keep blocks for the batch whose head covers them."""
        self._held += frame.blocks
        self._held_bytes += sum(map(len, frame.blocks))
        if len(self._held) > MAX_BATCH_BLOCKS or self._held_bytes > MAX_BATCH_BYTES:
            raise LimitExceeded(f"sync: more than {MAX_BATCH_BLOCKS} blocks or {MAX_BATCH_BYTES} bytes to a head")

    def take_events(self, frame: Events) -> None:
        """Take in identity events."""
        self._events_bytes += sum(map(len, frame.events))
        if self._events_bytes > MAX_EVENTS_BYTES:
            raise LimitExceeded(f"sync: more than {MAX_EVENTS_BYTES} bytes of identity events")
        self._count_idle(self._replica.take_events(frame.events))
        self.units += 1

    def take_batch(self, frame: Batch) -> tuple[Sequence[FrameRun], ImportReport]:
        """Take in runs, the first of them with the blocks that were held for it."""
        first, *others = frame.runs
        runs = [replace(first, blocks=(*self._held, *first.blocks)), *others]
        for run in runs:
            if run.start + len(run.blocks) != run.heads[-1].length:
                raise MalformedError(f"sync: a run of {len(run.blocks)} blocks ends with another head")
        self._held, self._held_bytes = [], 0
        report = self._replica.take_runs(runs)
        self._count_idle(report.received.blocks)
        self.units += 1
        self.blocks += report.received.blocks
        return runs, report

    def _count_idle(self, new: int) -> None:
        self._idle = 0 if new else self._idle + 1
        if self._idle > MAX_IDLE:
            raise PeerMisbehaved("NOTHING_NEW", f"the peer has sent {MAX_IDLE} frames of what is here")


def _have_frames(snapshot: Snapshot) -> list[Frame]:
    """Everything that is here, said in as few frames as it takes."""
    points = sorted(
        Point(feed, line.length, line.tree_hash(line.length))
        for feed in snapshot.feeds()
        for line in snapshot.lines(feed)
        if line.length
    )
    held = [holding_of(identity, snapshot.events(identity)) for identity in snapshot.identities()]
    held = [one for one in held if one.count]
    steps = range(0, max(len(points), len(held), 1), MAX_TOLD)
    return [
        HaveFrame(tuple(points[at : at + MAX_TOLD]), tuple(held[at : at + MAX_TOLD]), at == steps[-1]) for at in steps
    ]


def _reason(exc: AuditError) -> str | None:
    """What a peer is told that has sent something which was refused for that; None: it is not the peer's fault."""
    if isinstance(exc, PeerMisbehaved):
        return exc.reason
    for kind, reason in _REASONS:
        if isinstance(exc, kind):
            return reason
    return None


_REASONS: Final[tuple[tuple[type[AuditError], str | None], ...]] = (
    (LimitExceeded, "TOO_LARGE"),
    (UnsupportedVersion, "UNSUPPORTED_VERSION"),
    (MalformedError, "MALFORMED"),
    (VerificationError, "VERIFICATION_FAILED"),
    (MissingEvidenceError, "GAP"),
    (ReadOnlyState, None),
    (RefusedError, "OTHER_DATABASE"),
)

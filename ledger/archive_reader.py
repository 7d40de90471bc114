"""Reading an archive into an empty store: everything in it is verified before any of it counts.

Implements docs/spec/archive.md, section "Reading". It happens in one transaction of the caller, and verifies everything
as it comes: events fold, each feed keeps what its export demands, the log keeps all its rules and agrees with feeds and
events. Sections that other layers own are handed to them at their place; none may be missing, doubled, elsewhere or
unknown. Memory is bounded by one append, one identity's events, the files of a home, and what a replay of a log takes.

An auditor wants to know all that is wrong, so with a list of faults the reader goes on: what does not hold is left out,
whole, and stands in the list. Only what cannot be read as an archive at all is still raised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from identity.encoding import Fields, decode
from identity.errors import (
    AuditError,
    LimitExceeded,
    LogRuleViolation,
    MalformedError,
    RefusedError,
    StorageError,
    VerificationError,
)
from identity.event import MAX_EVENT_BYTES, parse_event
from identity.history import KeyHistory, SignedEvent, event_digest, parse_signed_event
from ledger.archive import ArchiveHeader, ArchiveReader, LogFacts, Purpose, Section
from ledger.archive_files import MAX_FILES, MAX_FILES_BYTES, read_file
from ledger.archive_sections import DESCRIPTOR, FEED, FILE, IDENTITIES, IDENTITIES_END, IDENTITY_EVENT, LOG
from ledger.checkpoint import VerifiedCheckpoint
from ledger.completeness import Shortfall, find_shortfalls
from ledger.framing import RecordReader
from ledger.identities import add_events, key_history
from ledger.lineage import lineage_faults
from ledger.log import append_to_frontier, hash_leaf
from ledger.log_transfer import EventRecord, LeafRecord, LogAudit, LogRecord, audit_log, feeds_at_hand, read_log_export
from ledger.merkle import tree_hash
from ledger.row_audit import head_faults
from ledger.statement import MAX_STATEMENT_BYTES, FeedHead, LogDescriptor, parse_statement
from ledger.store import FeedKey, LogState, StoredCheckpoint, WriteTransaction
from ledger.transfer import MAX_EVENTS, MAX_EVENTS_BYTES, Advance, ingest_feed_in

__all__ = ["ArchiveFault", "FaultReason", "LoadedArchive", "LoadedFeed", "SectionReader", "load_sections"]

_EVENTS: Final = {IDENTITY_EVENT: MAX_EVENT_BYTES + 64 * 1024, IDENTITIES_END: 64}
_LEAVES_A_WRITE: Final = 4096
_SKIPPED: Final = 65_536

SectionReader = Callable[[Section], None]
"""Takes in a section that another layer owns: reads its facts and its content to the end, or raises."""


class FaultReason(StrEnum):
    """What is wrong with an archive as a whole. The names are stable."""

    MISSING_SECTION = "MISSING_SECTION"
    """A section that belongs there is not."""
    MISSING_FEED = "MISSING_FEED"
    """The log states a feed that the archive does not hold."""
    SHORTER = "SHORTER"
    """The archive holds less of a feed than the log states."""
    OTHER_HISTORY = "OTHER_HISTORY"
    """The archive holds another tree of a feed than the log states at that length."""
    HEAD_GONE = "HEAD_GONE"
    """A signed head that the log states is not among those of the feed."""
    EVENTS_TRUNCATED = "EVENTS_TRUNCATED"
    """The log and the archive do not hold the same events of an identity."""


@dataclass(frozen=True, slots=True)
class ArchiveFault:
    """Something in an archive that does not hold, or is not there, in the section of that name.

    ``about`` is the key of a feed or the id of an identity, empty for everything else; ``reason`` names what is wrong
    where the class of the error does not.
    """

    section: str
    about: bytes
    error: AuditError
    reason: FaultReason | None = None


@dataclass(frozen=True, slots=True)
class LoadedFeed:
    """A feed that was taken in, all of it verified. ``local`` and ``retired`` are what the archive says of it."""

    key: FeedKey
    identity: bytes
    length: int
    byte_length: int
    tree_hash: bytes
    local: bool
    retired: bool


@dataclass(frozen=True, slots=True)
class LoadedArchive:
    """What an archive held. ``log`` is None when it has no checkpoint; ``files`` are by their path in the home.

    Everything was verified that can be with the file alone; nothing of it says how new the archive is.
    """

    header: ArchiveHeader
    feeds: tuple[LoadedFeed, ...]
    log: LogAudit | None
    files: Mapping[str, bytes]

    @property
    def entries(self) -> int:
        """Entries of all feeds."""
        return sum(feed.length for feed in self.feeds)


@dataclass(slots=True)
class _Loading:
    """One archive on its way into an empty store."""

    tx: WriteTransaction
    header: ArchiveHeader
    advance: Advance | None
    history_of: Callable[[bytes], KeyHistory]
    faults: list[ArchiveFault] | None = None
    pool: Executor | None = None
    feeds_met: int = 0
    feeds: list[LoadedFeed] = field(default_factory=list)
    log: LogAudit | None = None
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def lacks_log(self) -> bool:
        """Whether the archive's complete log was to be here, and did not hold."""
        return self.faults is not None and self.header.log is not None and self.log is None and self.header.log.size > 1

    @property
    def is_log_alone(self) -> bool:
        """Whether the archive is one without feeds, so that what the log says of them is not compared."""
        return self.header.purpose is Purpose.LOG

    # -- faults ------------------------------------------------------------------------------------------------------

    def refuse(self, section: str, about: bytes, error: AuditError, reason: FaultReason | None = None) -> None:
        """Raise the error, or list it when faults are listed."""
        if self.faults is None:
            raise error
        self.faults.append(ArchiveFault(section, about, error, reason))

    def left_out(self, key: bytes) -> bool:
        """Whether the feed is not here because something about it was found already."""
        return any(fault.about == key and fault.section == FEED for fault in self.faults or ())

    @contextmanager
    def tolerating(self, section: str, about: bytes = b"") -> Iterator[None]:
        """List what the block raises about the archive, and leave nothing of what it wrote; or let it be raised."""
        if self.faults is None:
            yield
            return
        try:
            with self.tx.savepoint():
                yield
        except StorageError:
            raise  # this machine's fault, not the archive's
        except AuditError as exc:
            self.faults.append(ArchiveFault(section, about, exc))

    # -- identities --------------------------------------------------------------------------------------------------

    def identities(self, section: Section) -> None:
        """Fold the events of one identity after the other, and keep them."""
        reader = RecordReader(section.content, "archive: identities", _EVENTS)
        count = events = size = 0
        group: list[SignedEvent] = []
        while True:
            kind, payload = reader.record()
            signed = parse_signed_event(payload) if kind == IDENTITY_EVENT else None
            if group and (signed is None or _identity_in(signed) != _identity_in(group[0])):
                with self.tolerating(IDENTITIES, _identity_in(group[0])):
                    self._keep_identity(group)
                count, events, group, size = count + 1, events + len(group), [], 0
            if signed is None:
                break
            group.append(signed)
            size += len(payload)
            if len(group) > MAX_EVENTS or size > MAX_EVENTS_BYTES:
                raise LimitExceeded(
                    f"archive: an identity of more than {MAX_EVENTS} events or {MAX_EVENTS_BYTES} bytes"
                )
        reader.end()
        stated = _parse_identities_end(payload)
        if stated != (count, events) or count != self.header.identities:
            raise MalformedError(
                f"archive: {count} identities with {events} events; the end of the section says {stated}, "
                f"the header {self.header.identities}"
            )

    def _keep_identity(self, events: Sequence[SignedEvent]) -> None:
        identity = _identity_in(events[0])
        if self.tx.identity_events(identity):
            raise MalformedError(f"archive: the events of identity {identity.hex()} stand in two places")
        add_events(self.tx, identity, events)
        if [event.signed_event for event in self.tx.identity_events(identity)] != [one.encode() for one in events]:
            raise MalformedError(f"archive: events of identity {identity.hex()} are doubled or out of order")

    # -- feeds -------------------------------------------------------------------------------------------------------

    def feed(self, section: Section) -> None:
        """Take in a feed, which must be the one that the section's head says. A local one comes in retired."""
        facts = section.facts
        stated = (facts.bytes("key", length=32), facts.int("length"), facts.bytes("tree", length=32))
        local, retired = facts.bool("local"), facts.bool("retired")
        self.feeds_met += 1
        with self.tolerating(FEED, stated[0]):
            self._take_feed(section, stated, local=local, retired=retired)

    def _take_feed(self, section: Section, stated: tuple[bytes, int, bytes], *, local: bool, retired: bool) -> None:
        if self.feeds_met > self.header.feeds:
            raise MalformedError(f"archive: more than the {self.header.feeds} feeds that its header counts")
        twice = self.tx.feed(FeedKey(stated[0])) is not None
        taken = ingest_feed_in(
            self.tx,
            section.content,
            local=local,
            history_of=self.history_of,
            advance=self.advance,
            pool=self.pool,
        )
        if twice:  # and of one history: two would have been a fork
            raise MalformedError(f"archive: feed {stated[0].hex()} stands in it twice")
        state = self.tx.feed(taken.key)
        assert state is not None
        found = (taken.key, state.length, tree_hash(state.roots))
        if found != stated:
            raise MalformedError(
                f"archive: a feed section holds feed {taken.key.hex()} of {state.length} blocks, "
                f"its head says feed {stated[0].hex()} of {stated[1]}"
            )
        if local or retired:
            self.tx.retire_feed(taken.key)
        self.feeds.append(
            LoadedFeed(taken.key, taken.identity, state.length, state.byte_length, found[2], local, retired)
        )

    # -- the log -----------------------------------------------------------------------------------------------------

    def descriptor(self, section: Section) -> None:
        """Take in a log that has nothing but its descriptor."""
        leaf = section.content.read(MAX_STATEMENT_BYTES + 1)
        if not isinstance(parse_statement(leaf), LogDescriptor):
            raise MalformedError("archive: the descriptor section holds another statement")
        self._check_log(hash_leaf(leaf), 1)
        state, _ = append_to_frontier(LogState(hash_leaf(leaf), 0, ()), [leaf])
        self.tx.append_leaves(None, state, [leaf])

    def complete_log(self, section: Section) -> None:
        """Replay the log against feeds and events, and keep it."""
        assert self.header.log is not None
        kept = _KeptLog(self)
        found = audit_log(
            kept.watch(read_log_export(section.content)),
            expected_log_id=self.header.log.log_id,
            tree_hash_at=kept.tree_hash_at,
            on_checkpoint=kept.checkpoint,
            require_bound=self.faults is None,
        )
        self._check_log(found.replay.log_id, found.replay.last.size)
        for identity, history in found.histories.items():
            if len(history.events) != len(self.tx.identity_events(identity)):
                error = MalformedError(f"archive: the log lacks events of identity {identity.hex()}")
                self.refuse(LOG, identity, error, FaultReason.EVENTS_TRUNCATED)
        shortfalls = [] if self.is_log_alone else find_shortfalls(self.tx, found.replay.feeds)
        for short in shortfalls:
            self._refuse_shortfall(short, kept.contradicted)
        self.log = found

    def _refuse_shortfall(self, short: Shortfall, contradicted: set[bytes]) -> None:
        if self.left_out(short.key) or (not short.same_history and short.key in contradicted):
            return
        what = f"the log states {short.stated} entries of feed {short.key.hex()}, the archive holds {short.held}"
        reason = FaultReason.SHORTER if short.held else FaultReason.MISSING_FEED
        self.refuse(
            LOG, short.key, VerificationError(what), reason if short.same_history else FaultReason.OTHER_HISTORY
        )

    def _check_log(self, log_id: bytes, size: int) -> None:
        if self.header.log != LogFacts(log_id, size):
            raise MalformedError(f"archive: it holds log {log_id.hex()} of {size} leaves, its header says another")

    # -- files of a home -------------------------------------------------------------------------------------------

    def file(self, section: Section) -> None:
        """Read a file of the home into memory; what it says is for whoever puts it there."""
        if self.header.purpose is not Purpose.BACKUP:
            raise MalformedError("archive: an export with a file of a home")
        path, content = read_file(section, self.files)
        size = len(content) + sum(map(len, self.files.values()))
        if len(self.files) == MAX_FILES or size > MAX_FILES_BYTES:
            raise LimitExceeded(f"archive: more than {MAX_FILES} files, or {MAX_FILES_BYTES} bytes of them")
        self.files[path] = content


def load_sections(
    tx: WriteTransaction,
    reader: ArchiveReader,
    others: Mapping[str, SectionReader],
    advance: Advance | None = None,
    *,
    faults: list[ArchiveFault] | None = None,
    pool: Executor | None = None,
) -> LoadedArchive:
    """Fill an empty store with an archive. The caller's transaction must not be committed when this raises.

    ``others`` are the sections that follow the log, by name and in order, each of which stands once. Local feeds come
    in retired. A ``pool`` of threads verifies signatures beside the reading. With ``faults`` what does not hold is left
    out and listed, and only a container that cannot be read is raised. Raises ``MalformedError`` for what is no archive
    or was cut, ``VerificationError`` when a claim in it is false, ``MissingEvidenceError`` when events are missing,
    ``RefusedError`` when the store is not empty.
    """
    if tx.feeds() or tx.identities() or tx.log() is not None:
        raise RefusedError("the store is not empty")
    if reader.header.purpose is Purpose.LOG and (reader.header.feeds or reader.header.log is None):
        raise MalformedError("archive: one of a log holds a log, and no feed")
    loading = _Loading(tx, reader.header, advance, _histories(tx), faults, pool)
    own: dict[str, SectionReader] = {
        IDENTITIES: loading.identities,
        FEED: loading.feed,
        DESCRIPTOR: loading.descriptor,
        LOG: loading.complete_log,
        FILE: loading.file,
    }
    order = _Order(loading, tuple(others))
    for section in reader.sections():
        order.enter(section.name)
        if section.name in others and loading.lacks_log:
            _skip(section)  # about checkpoints that are not here: what is wrong is the log
            continue
        with loading.tolerating(section.name):
            (own.get(section.name) or others[section.name])(section)
            section.facts.done()
        if faults is not None:
            _skip(section)
    order.finish()
    for key, error in lineage_faults(tx):
        loading.refuse(FEED, key, error)
    return LoadedArchive(reader.header, tuple(loading.feeds), loading.log, MappingProxyType(loading.files))


def _histories(tx: WriteTransaction) -> Callable[[bytes], KeyHistory]:
    @lru_cache(maxsize=64)
    def history_of(identity: bytes) -> KeyHistory:
        if not tx.identity_events(identity):
            raise VerificationError(f"archive: a feed of identity {identity.hex()}, which is not in it")
        return key_history(tx, identity)

    return history_of


def _skip(section: Section) -> None:
    """Read to the section's end. What comes is counted into the archive's digest, and that is all."""
    while section.content.read(_SKIPPED):
        pass


class _Order:
    """Which section may come next. Feeds and files stand in theirs until all have come."""

    def __init__(self, loading: _Loading, others: tuple[str, ...]) -> None:
        log = loading.header.log
        own_log = [] if log is None else [DESCRIPTOR if log.size == 1 else LOG]
        self._loading = loading
        self._known = {IDENTITIES, FEED, DESCRIPTOR, LOG, *others, FILE}
        self._waiting = [IDENTITIES, FEED, *own_log, *others, FILE]

    def enter(self, name: str) -> None:
        """The section ``name`` begins. Raises ``MalformedError`` when another belongs there."""
        if name not in self._known:
            raise MalformedError(f"archive: unknown section {name!r}")
        while self._waiting and self._waiting[0] != name and self._complete(self._waiting[0]):
            del self._waiting[0]
        if not self._waiting or name not in self._waiting:
            raise MalformedError(f"archive: section {name!r} stands twice, or where no such section belongs")
        if self._waiting[0] != name:
            while self._waiting[0] != name:
                missing = self._waiting.pop(0)
                if not self._complete(missing):
                    error = MalformedError(f"archive: section {name!r} where {missing!r} belongs")
                    self._loading.refuse(missing, b"", error, FaultReason.MISSING_SECTION)
        if name not in (FEED, FILE):
            del self._waiting[0]

    def finish(self) -> None:
        """The archive ends. Raises ``MalformedError`` when a section is missing."""
        for name in self._waiting:
            if not self._complete(name):
                error = MalformedError(f"archive: section {name!r} is missing")
                self._loading.refuse(name, b"", error, FaultReason.MISSING_SECTION)

    def _complete(self, name: str) -> bool:
        return name == FILE or (name == FEED and self._loading.feeds_met >= self._loading.header.feeds)


class _KeptLog:
    """Keeps a log in the store while it is replayed: each leaf after the replay has accepted it."""

    def __init__(self, loading: _Loading) -> None:
        self._loading = loading
        self._tx = loading.tx
        self._held = feeds_at_hand(loading.tx)
        self.contradicted: set[bytes] = set()
        """Feeds that are another history than the log states. They are listed already, and the replay goes on."""
        self._state: LogState | None = None
        self._leaves: list[bytes] = []
        self._size = 0
        self._events: set[bytes] = set()

    def watch(self, records: Iterable[LogRecord]) -> Iterator[LogRecord]:
        """Hand the records to the replay. When it asks for the next one it has accepted the one before."""
        for record in records:
            if isinstance(record, EventRecord):
                self._check_event(record)
            elif isinstance(record, LeafRecord) and self._loading.faults is not None:
                self._note_contradiction(record.leaf)
            yield record
            if isinstance(record, LeafRecord):
                self._check_head(record.leaf)
                self._leaves.append(record.leaf)
                self._size += 1
                if len(self._leaves) == _LEAVES_A_WRITE:
                    self._write_leaves()

    def tree_hash_at(self, key: bytes, length: int, /) -> bytes | None:
        """What the feeds of the archive hold, without those that were found to contradict the log."""
        return None if key in self.contradicted else self._held(key, length)

    def _note_contradiction(self, leaf: bytes) -> None:
        """List a feed that holds another tree than the log states; once, at the first length where it does."""
        statement = parse_statement(leaf)
        if not isinstance(statement, FeedHead) or statement.key in self.contradicted:
            return
        held = self._held(statement.key, statement.length)
        if held is not None and held != statement.tree_hash:
            self.contradicted.add(statement.key)
            error = LogRuleViolation(
                self._size, f"the log states {statement.tree_hash.hex()}, the feed itself holds {held.hex()}"
            )
            self._loading.refuse(LOG, statement.key, error, FaultReason.OTHER_HISTORY)

    def checkpoint(self, verified: VerifiedCheckpoint) -> None:
        """Keep a checkpoint that the replay has accepted, and the leaves before it."""
        self._write_leaves()
        self._tx.add_checkpoint(StoredCheckpoint(verified.size, verified.root, verified.note))

    def _write_leaves(self) -> None:
        if self._leaves:
            start = self._state or LogState(hash_leaf(self._leaves[0]), 0, ())
            state, _ = append_to_frontier(start, self._leaves)
            self._tx.append_leaves(self._state, state, self._leaves)
            self._state, self._leaves = state, []

    def _check_head(self, leaf: bytes) -> None:
        """The signed head that a leaf states has to be here: evidence is made with it."""
        statement = parse_statement(leaf)
        if self._loading.is_log_alone:
            return
        if isinstance(statement, FeedHead) and statement.key not in self.contradicted:
            for fault in head_faults(self._tx, self._size, statement):
                error = VerificationError(f"archive: {fault}")
                self._loading.refuse(LOG, statement.key, error, FaultReason.HEAD_GONE)

    def _check_event(self, record: EventRecord) -> None:
        """An event has to be one that the archive holds, and stands once: so there are never too many in memory."""
        signed = parse_signed_event(record.signed_event)
        identity, digest = _identity_in(signed), event_digest(signed.event)
        held = {event.digest: event.signed_event for event in self._tx.identity_events(identity)}
        if held.get(digest) != record.signed_event or digest in self._events:
            raise MalformedError(f"archive: the log has an event of identity {identity.hex()} that the archive has not")
        self._events.add(digest)


def _identity_in(signed: SignedEvent) -> bytes:
    return parse_event(signed.event).identity or event_digest(signed.event)


def _parse_identities_end(payload: bytes) -> tuple[int, int]:
    fields = Fields(decode(payload), "archive: end of the identities")
    stated = fields.int("identities"), fields.int("events")
    fields.done()
    return stated

"""The complete checkpoint log as one file, for outsiders: written from a store, read back record by record, audited.

Implements docs/spec/log-export.md. The file carries every leaf and every checkpoint in order, and before them the
events of the identities that the log states. Reading is strict and needs no more memory than the largest record;
``audit_log`` replays what was read, or what a store holds, under every rule of the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import BinaryIO, Final, TypeAlias

from identity.encoding import MAX_BYTES, Fields, decode, encode
from identity.errors import MalformedError, MissingEvidenceError, VerificationError
from identity.event import parse_event
from identity.history import KeyHistory, SignedEvent, event_digest, fold, parse_signed_event
from ledger.checkpoint import MAX_NOTE_BYTES, VerifiedCheckpoint
from ledger.framing import RecordReader, encode_record
from ledger.replay import DigestSource, LogReplay, ReplayResult
from ledger.statement import MAX_STATEMENT_BYTES, IdentityHead, parse_statement
from ledger.store import FeedKey, ReadTransaction, Store, stored_tree_hash

__all__ = [
    "MAGIC",
    "EventRecord",
    "ExportCounts",
    "LeafRecord",
    "LogAudit",
    "LogRecord",
    "NoteRecord",
    "audit_log",
    "export_log",
    "feeds_at_hand",
    "log_records",
    "read_log_export",
    "write_log",
]

MAGIC: Final = b"holdfast/v1 log-export\n"

_EVENT, _LEAF, _NOTE, _END = b"I", b"L", b"C", b"E"
_LIMITS: Final = {_EVENT: MAX_BYTES, _LEAF: MAX_STATEMENT_BYTES, _NOTE: MAX_NOTE_BYTES, _END: 64}
_PAGE: Final = 256
"""Checkpoints read at a time, so that a store never has two streams open."""


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One signed identity event, as ``SignedEvent.encode`` writes it."""

    signed_event: bytes


@dataclass(frozen=True, slots=True)
class LeafRecord:
    """The next leaf of the log."""

    leaf: bytes


@dataclass(frozen=True, slots=True)
class NoteRecord:
    """The checkpoint over all leaves so far."""

    note: str


LogRecord: TypeAlias = EventRecord | LeafRecord | NoteRecord


@dataclass(frozen=True, slots=True)
class ExportCounts:
    """What an export holds."""

    events: int
    leaves: int
    checkpoints: int


@dataclass(frozen=True, slots=True)
class LogAudit:
    """A complete log under which every rule held, and the folded events of each identity that it states.

    A history whose ``duplicity`` is not None is a proven fault of that identity; it is for the caller to report.
    """

    replay: ReplayResult
    histories: Mapping[bytes, KeyHistory]


# --- from a store ---------------------------------------------------------------------------------------------------


def log_records(tx: ReadTransaction) -> Iterator[LogRecord]:
    """The store's log up to its last checkpoint: events by identity, then the leaves of each checkpoint and its note.

    Raises ``MissingEvidenceError`` when the store has no checkpoint yet.
    """
    previous = last = 0
    for checkpoint in tx.checkpoints():
        previous, last = last, checkpoint.size
    if not last:
        raise MissingEvidenceError("this store has no checkpoint", hint="run 'holdfast checkpoint create' first")
    for leaf in list(tx.log_leaves(previous, last)):
        statement = parse_statement(leaf)
        if isinstance(statement, IdentityHead):
            for event in tx.identity_events(statement.identity):
                yield EventRecord(event.signed_event)
    done = 0
    while page := list(islice(tx.checkpoints(done), _PAGE)):
        for checkpoint in page:
            for leaf in tx.log_leaves(done, checkpoint.size):
                yield LeafRecord(leaf)
            yield NoteRecord(checkpoint.note)
            done = checkpoint.size


def export_log(store: Store, out: BinaryIO) -> ExportCounts:
    """Write the store's complete log, one snapshot of it. Raises ``MissingEvidenceError`` as ``log_records`` does."""
    with store.read() as tx:
        return write_log(tx, out)


def write_log(tx: ReadTransaction, out: BinaryIO) -> ExportCounts:
    """``export_log`` in the caller's snapshot."""
    counts = {_EVENT: 0, _LEAF: 0, _NOTE: 0}
    for position, record in enumerate(log_records(tx)):
        if position == 0:
            out.write(MAGIC)
        kind, payload = _encode_record(record)
        out.write(encode_record(kind, payload))
        counts[kind] += 1
    end = encode({"events": counts[_EVENT], "leaves": counts[_LEAF], "checkpoints": counts[_NOTE]})
    out.write(encode_record(_END, end))
    return ExportCounts(counts[_EVENT], counts[_LEAF], counts[_NOTE])


def feeds_at_hand(tx: ReadTransaction) -> DigestSource:
    """The tree hashes of the feeds in a store, for ``audit_log``: None beyond a feed's length, or for an unknown one.

    They come from the stored nodes; that the nodes are those of the blocks is for an audit of the feeds.
    """

    def tree_hash_at(key: bytes, length: int, /) -> bytes | None:
        feed = tx.feed(FeedKey(key))
        if feed is None or length > feed.length:
            return None
        return stored_tree_hash(tx, feed.key, length)

    return tree_hash_at


def _encode_record(record: LogRecord) -> tuple[bytes, bytes]:
    match record:
        case EventRecord(signed_event):
            return _EVENT, signed_event
        case LeafRecord(leaf):
            return _LEAF, leaf
        case NoteRecord(note):
            return _NOTE, note.encode("utf-8")


# --- from a file ----------------------------------------------------------------------------------------------------


def read_log_export(source: BinaryIO) -> Iterator[LogRecord]:
    """The records of an export, in order. Nothing in them is verified: give them to ``audit_log``.

    The file is known to be whole only when the iterator has ended: a truncated one, a wrong count or bytes after the
    end raise ``MalformedError`` then, as anything else that is not in the format does when it is reached.
    """
    reader = RecordReader(source, "log export", _LIMITS)
    reader.first_line(MAGIC)
    counts = dict.fromkeys(_LIMITS, 0)
    before = _EVENT
    while before != _END:
        kind, payload = reader.record()
        if before not in _MAY_FOLLOW[kind]:
            raise MalformedError(f"log export: a record {kind!r} after a record {before!r}")
        counts[kind] += 1
        before = kind
        if kind == _EVENT:
            yield EventRecord(payload)
        elif kind == _LEAF:
            yield LeafRecord(payload)
        elif kind == _NOTE:
            yield NoteRecord(_parse_text(payload))
        else:
            _check_end(payload, ExportCounts(counts[_EVENT], counts[_LEAF], counts[_NOTE]))
    reader.end()


_MAY_FOLLOW: Final = {_EVENT: {_EVENT}, _LEAF: {_EVENT, _LEAF, _NOTE}, _NOTE: {_LEAF}, _END: {_NOTE}}
"""Events, then leaves and after each batch its checkpoint, and the end after a checkpoint."""


def _parse_text(payload: bytes) -> str:
    try:
        return payload.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise MalformedError("log export: a checkpoint that is not UTF-8") from exc


def _check_end(payload: bytes, counted: ExportCounts) -> None:
    fields = Fields(decode(payload), "log export: end record")
    stated = ExportCounts(fields.int("events"), fields.int("leaves"), fields.int("checkpoints"))
    fields.done()
    if stated != counted:
        raise MalformedError(f"log export: the end record counts {stated}, the file holds {counted}")


# --- audit ----------------------------------------------------------------------------------------------------------


def audit_log(
    records: Iterable[LogRecord],
    *,
    expected_log_id: bytes | None = None,
    tree_hash_at: DigestSource | None = None,
    closed_at: int | None = None,
    on_checkpoint: Callable[[VerifiedCheckpoint], None] | None = None,
    require_bound: bool = True,
) -> LogAudit:
    """Replay a complete log, from ``read_log_export`` or ``log_records``, against the events that stand before it.

    Every identity that the log states must bind it and every head of it must be one of its events; feed heads are
    compared with ``tree_hash_at`` as far as that has them. ``on_checkpoint`` is told each checkpoint after it was
    verified. Without ``require_bound`` it is for the caller to see whether the identities bind the log
    (``KeyHistory.logs``). Raises what ``LogReplay`` and ``fold`` raise, ``MissingEvidenceError`` when events are
    missing.
    """
    stream = iter(records)
    histories, record = _take_events(stream)
    digests = {(one.identity, event.seq): event.digest for one in histories.values() for event in one.events}

    def event_digest_at(identity: bytes, seq: int, /) -> bytes:
        if (identity, seq) not in digests:
            raise MissingEvidenceError(f"the log states event {seq} of identity {identity.hex()}, which is not here")
        return digests[identity, seq]

    replay = LogReplay(expected_log_id, tree_hash_at=tree_hash_at, event_digest_at=event_digest_at, closed_at=closed_at)
    while record is not None:
        match record:
            case LeafRecord(leaf):
                replay.add_leaf(leaf)
            case NoteRecord(note):
                checkpoint = replay.add_checkpoint(note)
                if on_checkpoint is not None:
                    on_checkpoint(checkpoint)
            case EventRecord():
                raise MalformedError("log: an identity event after the first leaf")
        record = next(stream, None)
    result = replay.finish()
    _check_bound(result, histories, required=require_bound)
    return LogAudit(result, MappingProxyType(histories))


def _take_events(stream: Iterator[LogRecord]) -> tuple[dict[bytes, KeyHistory], LogRecord | None]:
    """Fold the events that stand first, by identity; return them and the record after them."""
    events: dict[bytes, list[SignedEvent]] = {}
    record = next(stream, None)
    while isinstance(record, EventRecord):
        signed = parse_signed_event(record.signed_event)
        identity = parse_event(signed.event).identity or event_digest(signed.event)
        events.setdefault(identity, []).append(signed)
        record = next(stream, None)
    return {identity: fold(signed) for identity, signed in events.items()}, record


def _check_bound(result: ReplayResult, histories: Mapping[bytes, KeyHistory], *, required: bool) -> None:
    for identity, history in histories.items():
        if identity not in result.identities:
            raise MalformedError(f"log: events of identity {identity.hex()}, which the log does not state")
        if required and result.log_id not in history.logs:
            raise VerificationError(f"no event of identity {identity.hex()} binds the log {result.log_id.hex()}")

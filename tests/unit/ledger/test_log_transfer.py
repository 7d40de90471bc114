"""The export file by hand, and audits of logs that our store would not write. The writing side: test_log_writer."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import BinaryIO, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.encoding import MAX_BYTES, encode
from identity.errors import (
    AuditError,
    HistoryError,
    LimitExceeded,
    LogRuleViolation,
    MalformedError,
    MissingEvidenceError,
    VerificationError,
)
from identity.history import (
    SignedEvent,
    build_bind_log,
    build_close,
    build_inception,
    fold,
    key_commitment,
    sign_event,
)
from identity.keys import Ed25519Signer
from ledger.checkpoint import MAX_NOTE_BYTES, Checkpoint, sign_checkpoint
from ledger.log import Frontier, hash_leaf
from ledger.log_transfer import (
    MAGIC,
    EventRecord,
    LeafRecord,
    LogRecord,
    NoteRecord,
    audit_log,
    export_log,
    read_log_export,
)
from ledger.statement import (
    MAX_STATEMENT_BYTES,
    FeedHead,
    IdentityHead,
    LogDescriptor,
    Statement,
    encode_statement,
    log_origin,
)
from ledger.storage.memory import MemoryStore
from ledger.store import LogState, StoredCheckpoint, StoredEvent

LOG_KEY = Ed25519Signer(bytes(range(32)))
DESCRIPTOR = LogDescriptor("vault.example", LOG_KEY.public_key)
LOG_ID = hash_leaf(encode_statement(DESCRIPTOR))
FEED = bytes(32)


def events_of(name: str, *, log: bytes | None = LOG_ID, close: bool = False) -> list[SignedEvent]:
    root = Ed25519Signer(name.encode().ljust(32, b"\0"))
    events = [
        sign_event(
            build_inception(
                label=name, root_keys=[root.public_key], next_digests=[key_commitment(bytes(32))], time_ms=0
            ),
            [(0, root)],
        )
    ]
    if log is not None:
        events.append(sign_event(build_bind_log(fold(events), log=log, time_ms=0), [(0, root)]))
    if close:
        events.append(sign_event(build_close(fold(events), time_ms=0), [(0, root)]))
    return events


ALICE = events_of("alice")
HISTORY = fold(ALICE)
HEAD = IdentityHead(HISTORY.identity, HISTORY.seq, HISTORY.head)


def records(
    *batches: Sequence[Statement], events: Sequence[SignedEvent] = ALICE, descriptor: LogDescriptor = DESCRIPTOR
) -> list[LogRecord]:
    made: list[LogRecord] = [EventRecord(event.encode()) for event in events]
    frontier = Frontier()
    origin = log_origin(descriptor, hash_leaf(encode_statement(descriptor)))
    for batch in batches:
        for statement in batch:
            leaf = encode_statement(statement)
            frontier.append(hash_leaf(leaf))
            made.append(LeafRecord(leaf))
        made.append(NoteRecord(sign_checkpoint(LOG_KEY, Checkpoint(origin, frontier.size, frontier.root()))))
    return made


GOOD = records([DESCRIPTOR, HEAD, FeedHead(FEED, 1, bytes(32))], [HEAD, FeedHead(FEED, 2, bytes(32))])


def frame(kind: bytes, payload: bytes) -> bytes:
    return kind + len(payload).to_bytes(4, "big") + payload


def framed(record: LogRecord) -> bytes:
    match record:
        case EventRecord(event):
            return frame(b"I", event)
        case LeafRecord(leaf):
            return frame(b"L", leaf)
        case NoteRecord(note):
            return frame(b"C", note.encode())


def end(events: int = 2, leaves: int = 5, checkpoints: int = 2) -> bytes:
    return frame(b"E", encode({"events": events, "leaves": leaves, "checkpoints": checkpoints}))


FILE = MAGIC + b"".join(map(framed, GOOD)) + end()


def read(data: bytes) -> list[LogRecord]:
    return list(read_log_export(BytesIO(data)))


def refuse(data: bytes, error: type[AuditError] = MalformedError) -> None:
    with pytest.raises(error) as caught:
        read(data)
    assert type(caught.value) is error


# --- the file -------------------------------------------------------------------------------------------------------


def test_reading() -> None:
    assert read(FILE) == GOOD


def test_a_store_writes_this_file() -> None:
    store = MemoryStore()
    with store.write() as tx:
        for event, record in zip(ALICE, HISTORY.events, strict=True):
            tx.add_identity_event(StoredEvent(HISTORY.identity, record.seq, record.digest, event.encode()))
        leaves = [record.leaf for record in GOOD if isinstance(record, LeafRecord)]
        frontier = Frontier()
        for leaf in leaves:
            frontier.append(hash_leaf(leaf))
        tx.append_leaves(None, LogState(LOG_ID, frontier.size, frontier.peaks), leaves)
        for size, note in ((3, GOOD[5]), (5, GOOD[8])):
            assert isinstance(note, NoteRecord)
            tx.add_checkpoint(StoredCheckpoint(size, bytes(32), note.note))
    out = BytesIO()
    counts = export_log(store, out)
    assert out.getvalue() == FILE
    assert (counts.events, counts.leaves, counts.checkpoints) == (2, 5, 2)


def test_every_truncation_is_refused() -> None:
    for length in range(len(FILE)):
        refuse(FILE[:length])


def test_what_comes_before_and_after() -> None:
    for data in (b"", b"\n" + FILE, FILE + b"\0", FILE + end(), FILE + FILE, MAGIC, MAGIC[:-1] + b"\r\n" + FILE):
        refuse(data)
    refuse(FILE.replace(b"v1 log-export", b"v2 log-export"))


def test_order_of_records() -> None:
    event, leaf, note = framed(GOOD[0]), framed(GOOD[2]), framed(GOOD[5])
    for body in (
        b"",
        event,
        leaf,
        leaf + event + note,
        leaf + note + event,
        note,
        event + note,
        leaf + note + note,
        leaf + note + leaf,
    ):
        counts = [body.count(record) for record in (event, leaf, note)]
        refuse(MAGIC + body + end(*counts))


@pytest.mark.parametrize("counts", [(1, 5, 2), (3, 5, 2), (2, 4, 2), (2, 6, 2), (2, 5, 1), (2, 5, 3), (0, 0, 0)])
def test_wrong_counts(counts: tuple[int, int, int]) -> None:
    refuse(FILE.removesuffix(end()) + end(*counts))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xa0",
        encode({"events": 2, "leaves": 5}),
        encode({"events": 2, "leaves": 5, "checkpoints": 2, "more": 0}),
        encode({"events": 2, "leaves": 5, "checkpoints": "2"}),
        encode([2, 5, 2]),
        encode({"events": 2, "leaves": 5, "checkpoints": 2}) + b"\0",
    ],
)
def test_end_records_that_are_none(payload: bytes) -> None:
    refuse(FILE.removesuffix(end()) + frame(b"E", payload))


def test_unknown_records() -> None:
    for kind in (b"X", b"\0", b"l", b"\xff"):
        refuse(MAGIC + frame(kind, b"") + FILE.removeprefix(MAGIC))


@pytest.mark.parametrize(
    ("kind", "limit"), [(b"I", MAX_BYTES), (b"L", MAX_STATEMENT_BYTES), (b"C", MAX_NOTE_BYTES), (b"E", 64)]
)
def test_sizes_are_refused_before_anything_is_read(kind: bytes, limit: int) -> None:
    refuse(MAGIC + kind + (limit + 1).to_bytes(4, "big"), LimitExceeded)
    refuse(MAGIC + kind + b"\xff\xff\xff\xff", LimitExceeded)
    refuse(MAGIC + kind + limit.to_bytes(4, "big"))


def test_a_note_that_is_not_utf8() -> None:
    refuse(MAGIC + framed(GOOD[2]) + frame(b"C", b"\xff") + end(0, 1, 1))


def test_a_source_that_gives_a_byte_at_a_time() -> None:
    class Slow:
        def __init__(self) -> None:
            self.rest = FILE

        def read(self, size: int) -> bytes:
            assert size > 0
            part, self.rest = self.rest[:1], self.rest[1:]
            return part

    assert list(read_log_export(cast(BinaryIO, Slow()))) == GOOD


@given(st.integers(0, 8 * len(FILE) - 1))
def test_every_bit_flip_is_refused(bit: int) -> None:
    data = bytearray(FILE)
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises((MalformedError, VerificationError, MissingEvidenceError)):
        audit_log(read_log_export(BytesIO(bytes(data))), expected_log_id=LOG_ID)


# --- the audit ------------------------------------------------------------------------------------------------------


def test_audit() -> None:
    def tree_hash_at(_key: bytes, length: int) -> bytes | None:
        return bytes(32) if length == 1 else None

    audit = audit_log(read(FILE), expected_log_id=LOG_ID, tree_hash_at=tree_hash_at)
    assert (audit.replay.feed_heads_read, audit.replay.feed_heads_chained) == (1, 1)
    assert audit.histories == {HISTORY.identity: HISTORY}


def test_events_and_heads_must_fit() -> None:
    batch: list[Statement] = [DESCRIPTOR, HEAD]
    audit_log(records(batch))
    with pytest.raises(MissingEvidenceError, match="which is not here"):
        audit_log(records(batch, events=[]))
    with pytest.raises(MissingEvidenceError, match="which is not here"):
        audit_log(records(batch, events=ALICE[:1]))
    with pytest.raises(LogRuleViolation, match="the identity itself holds"):
        audit_log(records([DESCRIPTOR, IdentityHead(HISTORY.identity, 1, bytes(32))]))
    with pytest.raises(MalformedError, match="which the log does not state"):
        audit_log(records(batch, events=[*ALICE, *events_of("bob")]))
    with pytest.raises(HistoryError):
        audit_log(records(batch, events=[ALICE[0], ALICE[0], ALICE[1]]))
    with pytest.raises(MalformedError):
        audit_log([EventRecord(b"\xa0"), *records(batch)])


def test_events_that_came_after_the_last_checkpoint_are_welcome() -> None:
    audit = audit_log(records([DESCRIPTOR, HEAD], events=events_of("alice", close=True)))
    assert audit.histories[HISTORY.identity].closed
    assert audit.replay.identities[HISTORY.identity] == HEAD


@pytest.mark.parametrize("log", [None, bytes(32)])
def test_a_log_that_its_identity_has_not_bound(log: bytes | None) -> None:
    """Whoever holds somebody's events can state them in a log of their own: only the identity says which is its own."""
    events = events_of("alice", log=log)
    history = fold(events)
    head = IdentityHead(history.identity, history.seq, history.head)
    with pytest.raises(VerificationError, match="binds the log"):
        audit_log(records([DESCRIPTOR, head], events=events))


def test_records_out_of_order() -> None:
    for wrong in ([], GOOD[:2], GOOD[2:5], [*GOOD, GOOD[2]], [*GOOD[2:], GOOD[0]], [*GOOD, GOOD[0]]):
        with pytest.raises((LogRuleViolation, MalformedError, MissingEvidenceError)):
            audit_log(wrong)

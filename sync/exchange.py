"""Exchange by bundles: what is written into one, and taking one in: whole or nothing, everything in it verified.

Implements docs/spec/bundle.md, sections "Writing" and "Reading". ``sync.receiving`` verifies and keeps what comes in.
Taking entries in behind that, and telling what has changed by it, is here for whatever brings them.

Memory is bounded by what one append can hold, and by the number of feeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, BinaryIO

from identity.errors import DamagedFile, RefusedError
from ledger.manifest import Manifest, encode_manifest, parse_manifest
from ledger.store import SignedHead
from sync.bundle import (
    BlockRecord,
    BundleHeader,
    BundleReader,
    BundleTotals,
    BundleWriter,
    EventRecord,
    FeedRecord,
    Have,
    Point,
    Record,
    RunRecord,
)
from sync.frames import FrameRun
from sync.holdings import authors, feeds_in_order, find_founding, manifests, point_of
from sync.outgoing import held_of
from sync.receiving import Advance, Receiving
from sync.report import FoundFork, ImportReport, Received, Waiting
from sync.storage.projection import Projection
from sync.storage.queries import Queries
from sync.storage.sides import Line, Sides
from sync.transaction import DocumentId

__all__ = [
    "Advance",
    "FoundFork",
    "ImportReport",
    "Received",
    "Sent",
    "Waiting",
    "integrate",
    "receive",
    "receive_runs",
    "take_bundle",
    "write_bundle",
]


@dataclass(frozen=True, slots=True)
class Sent:
    """What a bundle was given: ``blocks`` of ``feeds`` feeds."""

    feeds: int
    blocks: int
    totals: BundleTotals


# --- writing --------------------------------------------------------------------------------------------------------


def write_bundle(
    tx: Any,
    queries: Queries,
    number: int,
    header: BundleHeader,
    out: BinaryIO,
    *,
    since: Have | None = None,
    only_have: bool = False,
    advance: Advance | None = None,
) -> Sent:
    """Write what the database with that number has, in the snapshot ``tx``, and ``since`` does not; everything without.

    The founding is filled in. With ``only_have`` nothing but what the database has is said. Raises ``RefusedError``
    when ``since`` is of another database, ``StorageError`` when reading or writing fails.
    """
    if since is not None and since.header.database != header.database:
        raise RefusedError(f"that is what somebody has of database {since.header.database.hex()}")
    founding = find_founding(tx, queries, number, header.database)
    writer = BundleWriter(out, replace(header, founding=founding))
    sides = Sides(tx, queries, number)
    told = feeds_in_order(manifests(tx, sides, header.database))
    lines = {feed: sides.lines(feed) for feed in told}
    for point in sorted(point_of(line) for found in lines.values() for line in found if line.length):
        writer.add(point)
    feeds = blocks = 0
    if not only_have:
        for identity in authors(told):
            for event in tx.identity_events(identity):
                writer.add(EventRecord(event.signed_event))
        for feed, manifest in told.items():
            points = () if since is None else since.points.get(feed, ())
            count = _write_feed(writer, manifest, lines[feed], points, advance)
            feeds, blocks = feeds + bool(count), blocks + count
    return Sent(feeds, blocks, writer.finish())


def _write_feed(
    writer: BundleWriter, manifest: Manifest, lines: Sequence[Line], points: Sequence[Point], advance: Advance | None
) -> int:
    """Write what of the lines is not in ``points``. Returns how many blocks."""
    known, written = [*points], 0
    for line in lines:
        start = held_of(line, lines, known, known)
        if start < line.length:
            if not written:
                writer.add(FeedRecord(encode_manifest(manifest)))
            written += _write_run(writer, line, start, advance)
            known.append(point_of(line))
    return written


def _write_run(writer: BundleWriter, line: Line, start: int, advance: Advance | None) -> int:
    writer.add(RunRecord(start, line.tree_hash(start)))
    at = start
    blocks = line.blocks(start, line.length)
    for head in line.heads(start):
        for block in islice(blocks, head.length - at):
            writer.add(BlockRecord(block))
        writer.add(head)
        if advance is not None:
            advance(head.length - at)
        at = head.length
    if at != line.length:
        raise DamagedFile(f"feed {line.feed.hex()}: no signed head of {line.length} blocks")
    return at - start


# --- taking in ------------------------------------------------------------------------------------------------------


def take_bundle(
    tx: Any,
    queries: Queries,
    number: int,
    projection: Projection,
    reader: BundleReader,
    now_ms: int,
    advance: Advance | None = None,
) -> ImportReport:
    """Take in a bundle, and the entries that it brings, in the write transaction ``tx``, which must not be committed
    when this raises. Raises as ``receive``."""
    received = receive(tx, queries, number, projection.uid, reader, advance)
    return integrate(tx, queries, number, projection, received, now_ms)


def integrate(
    tx: Any, queries: Queries, number: int, projection: Projection, received: Received, now_ms: int
) -> ImportReport:
    """Take in the entries that what was received has brought, in its transaction, and tell what has changed."""
    shown = dict(tx.fetch_all(queries.conflict_counts, (number,)))
    projection.begin(tx)
    place = projection.next_place - 1
    entries = projection.take_new(now_ms)
    waiting = sorted((Waiting(*one) for one in projection.waiting()), key=lambda one: (one.feed, one.index))
    projection.finish()
    rows = tx.fetch_all(queries.conflicting_behind, (number, place))
    conflicts = (DocumentId(collection, key) for one, collection, key, count in rows if count > shown.get(one, 0))
    contested = (DocumentId(*row) for row in tx.fetch_all(queries.contested_behind, (number, place)))
    return ImportReport(received, entries, tuple(waiting), tuple(conflicts), tuple(contested))


def receive(
    tx: Any, queries: Queries, number: int, database: bytes, reader: BundleReader, advance: Advance | None = None
) -> Received:
    """Verify a bundle and keep what is new of its feeds, in the caller's transaction; entries are not looked at.

    Raises ``RefusedError`` for a bundle or a feed of another database, ``MissingEvidenceError`` when a run does not
    join what is here, ``VerificationError`` when a claim in it is false, ``MalformedError`` for what is no bundle; then
    the transaction must not be committed.
    """
    if reader.header.database != database:
        raise RefusedError(f"this is a bundle of database {reader.header.database.hex()} ({reader.header.name})")
    receiving = Receiving(tx, Sides(tx, queries, number), database, "bundle", advance)
    for record in reader.records():
        _take(receiving, record)
    receiving.end_events()
    return Received(reader.header, len(receiving.grown), receiving.blocks, tuple(receiving.forks))


def receive_runs(receiving: Receiving, runs: Sequence[FrameRun]) -> Received:
    """Verify runs of a session's frame and keep what is new of them, as ``receive`` does with a bundle's."""
    for run in runs:
        receiving.go_on_with(run.feed, run.manifest)
        receiving.begin_run(run.start, run.tree_hash)
        at = run.start
        for head in run.heads:
            for block in run.blocks[at - run.start : head.length - run.start]:
                receiving.take_block(block)
            receiving.take_head(head)
            at = head.length
    return Received(None, len(receiving.grown), receiving.blocks, tuple(receiving.forks))


def _take(receiving: Receiving, record: Record) -> None:
    """The next record; that they stand in order was checked."""
    match record:
        case BlockRecord(block):
            receiving.take_block(block)
        case SignedHead():
            receiving.take_head(record)
        case RunRecord(start, digest):
            receiving.begin_run(start, digest)
        case FeedRecord(manifest):
            receiving.end_events()
            receiving.begin_feed(parse_manifest(manifest))
        case EventRecord(signed_event):
            receiving.take_event(signed_event)
        case Point():
            pass  # for whoever answers

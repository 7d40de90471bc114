"""Bundles: what a database's feeds hold, or what is new in them, as one file: a memory stick is a network too.

Implements docs/spec/bundle.md, section "Format". This is the format alone, over streams that are written and read from
front to back in bounded memory. The trailer's digest tells a damaged or cut file from a whole one and protects nothing
against somebody who makes a file of their own: what a bundle holds is verified by ``sync.exchange``, which takes it in.

A bundle without feeds says only what its sender has. Whoever gets it knows what to leave out of the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import BinaryIO, Final, NamedTuple, TypeAlias

from identity.contexts import BUNDLE_DIGEST
from identity.encoding import Fields, Value, decode, encode
from identity.errors import LimitExceeded, MalformedError, RootMismatch, StorageError, VerificationError
from identity.event import MAX_EVENT_BYTES
from ledger.feed import MAX_BLOCK_BYTES
from ledger.framing import RecordReader, encode_record
from ledger.manifest import MAX_MANIFEST_BYTES
from ledger.merkle import HASH_BYTES, MAX_LENGTH
from ledger.store import FeedKey, SignedHead
from ledger.transfer import MAX_SIGNATURE_BYTES
from sync.transaction import Founding, database_id

__all__ = [
    "FIRST_LINE",
    "MAX_POINTS",
    "BlockRecord",
    "BundleHeader",
    "BundleReader",
    "BundleTotals",
    "BundleWriter",
    "EventRecord",
    "FeedRecord",
    "Have",
    "Point",
    "Record",
    "RunRecord",
    "read_have",
]

FIRST_LINE: Final = b"holdfast/v1 bundle\n"

MAX_POINTS: Final = 65_536
"""Lines of feeds that ``read_have`` holds: more than a store of one database has feeds."""

_HEADER, _POINT, _EVENT, _MANIFEST, _RUN, _BLOCK, _HEAD, _END = b"D", b"V", b"I", b"M", b"R", b"B", b"H", b"E"

_LIMITS: Final = {
    _HEADER: 2048,
    _POINT: 128,
    _EVENT: MAX_EVENT_BYTES + 64 * 1024,  # the event and the signatures beside it
    _MANIFEST: MAX_MANIFEST_BYTES,
    _RUN: 64,
    _BLOCK: MAX_BLOCK_BYTES,
    _HEAD: 1024,
    _END: 128,
}
"""Record type -> the most bytes that its payload has."""

_FOLLOWING: Final = {
    _HEADER: frozenset((_POINT, _EVENT, _MANIFEST, _END)),
    _POINT: frozenset((_POINT, _EVENT, _MANIFEST, _END)),
    _EVENT: frozenset((_EVENT, _MANIFEST, _END)),
    _MANIFEST: frozenset((_RUN,)),
    _RUN: frozenset((_BLOCK,)),
    _BLOCK: frozenset((_BLOCK, _HEAD)),
    _HEAD: frozenset((_BLOCK, _RUN, _MANIFEST, _END)),
}
"""Which records can stand behind one: that is all of a bundle's grammar."""


class Point(NamedTuple):
    """One line of a feed, as far as somebody has it: the first ``length`` blocks, under their tree hash."""

    feed: FeedKey
    length: int
    tree_hash: bytes


class EventRecord(NamedTuple):
    """An identity event with its signatures."""

    signed_event: bytes


class FeedRecord(NamedTuple):
    """What follows is of the feed with this manifest."""

    manifest: bytes


class RunRecord(NamedTuple):
    """What follows are its blocks from ``start`` on, behind a tree with this hash."""

    start: int
    tree_hash: bytes


class BlockRecord(NamedTuple):
    """A block."""

    block: bytes


Record: TypeAlias = Point | EventRecord | FeedRecord | RunRecord | BlockRecord | SignedHead


@dataclass(frozen=True, slots=True)
class BundleHeader:
    """Which database a bundle is of. ``made_ms`` is a label. ``founding`` None: the sender does not have it yet."""

    database: bytes
    name: str
    founding: Founding | None
    made_ms: int


@dataclass(frozen=True, slots=True)
class BundleTotals:
    """What the trailer says: how many records and bytes stand before it, with their digest."""

    records: int
    size: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Have:
    """What somebody has of a database: for each feed the lines, none of which goes on from another."""

    header: BundleHeader
    points: Mapping[FeedKey, tuple[Point, ...]]


# --- writing --------------------------------------------------------------------------------------------------------


class BundleWriter:
    """Writes a bundle to ``out``: the header at once, then records in their order, then ``finish``.

    Every method raises ``StorageError`` when writing fails. What was written before is then no bundle.
    """

    def __init__(self, out: BinaryIO, header: BundleHeader) -> None:
        self._out = out
        self._digest = sha256(BUNDLE_DIGEST)
        self._bytes = 0
        self._records = 0
        self._last = b""
        self._write(FIRST_LINE)
        self._put(_HEADER, encode(_header_fields(header)))

    def add(self, record: Record) -> None:
        """Write the next record."""
        match record:
            case BlockRecord(block):
                self._put(_BLOCK, block)
            case SignedHead(length, digest, signature):
                self._put(_HEAD, encode({"length": length, "tree": digest, "signature": signature}))
            case RunRecord(start, digest):
                self._put(_RUN, encode({"from": start, "tree": digest}))
            case FeedRecord(manifest):
                self._put(_MANIFEST, manifest)
            case EventRecord(signed_event):
                self._put(_EVENT, signed_event)
            case Point(feed, length, digest):
                self._put(_POINT, encode({"feed": feed, "length": length, "tree": digest}))

    def finish(self) -> BundleTotals:
        """Write the trailer. The caller makes the file durable."""
        totals = BundleTotals(self._records, self._bytes, self._digest.digest())
        self._put(_END, encode({"records": totals.records, "bytes": totals.size, "digest": totals.digest}))
        return totals

    def _put(self, kind: bytes, payload: bytes) -> None:
        assert not self._last or kind in _FOLLOWING[self._last], f"a record {kind!r} behind {self._last!r}"
        assert len(payload) <= _LIMITS[kind], f"a record {kind!r} of {len(payload)} bytes"
        self._write(encode_record(kind, payload))
        self._last = kind
        self._records += 1

    def _write(self, data: bytes) -> None:
        try:
            self._out.write(data)
        except OSError as exc:
            raise StorageError(f"cannot write the bundle: {exc.strerror or exc}") from exc
        self._digest.update(data)
        self._bytes += len(data)


# --- reading --------------------------------------------------------------------------------------------------------


class BundleReader:
    """Reads a bundle from ``source``, strictly. Raises ``MalformedError`` for what is none, from any method.

    The file is known to be whole only when ``records`` has ended: nothing that was read before may count before that.
    """

    def __init__(self, source: BinaryIO) -> None:
        self._source = RecordReader(source, "bundle", _LIMITS)
        self._digest = sha256(BUNDLE_DIGEST)
        self._bytes = 0
        self._count = 0
        self.totals: BundleTotals | None = None
        """What the trailer says, once it was read and compared."""
        self._source.first_line(FIRST_LINE)
        self._count_in(FIRST_LINE)
        kind, payload = self._next()
        if kind != _HEADER:
            raise MalformedError(f"bundle: a record {kind!r} where the header belongs")
        self.header = _parse_header(payload)

    def records(self) -> Iterator[Record]:
        """Record after record. Ends when the trailer was read and is that of everything before it, and nothing comes
        after it. Raises ``RootMismatch`` when its digest is another."""
        last, point = _HEADER, None
        while True:
            kind, payload = self._next()
            if kind not in _FOLLOWING[last]:
                raise MalformedError(f"bundle: a record {kind!r} behind {last!r}")
            if kind == _END:
                break
            record = _PARSERS[kind](payload)
            if isinstance(record, Point):
                if point is not None and record <= point:
                    raise MalformedError("bundle: what the sender has is not in ascending order")
                point = record
            yield record
            last = kind
        self._check_end(payload)
        self._source.end()

    def _next(self) -> tuple[bytes, bytes]:
        kind, payload = self._source.record()
        if kind != _END:
            self._count_in(encode_record(kind, payload))
            self._count += 1
        return kind, payload

    def _count_in(self, data: bytes) -> None:
        self._digest.update(data)
        self._bytes += len(data)

    def _check_end(self, payload: bytes) -> None:
        fields = Fields(decode(payload), "bundle: trailer")
        stated = BundleTotals(fields.int("records"), fields.int("bytes"), fields.bytes("digest", length=32))
        fields.done()
        counted = BundleTotals(self._count, self._bytes, self._digest.digest())
        if (stated.records, stated.size) != (counted.records, counted.size):
            raise MalformedError(
                f"bundle: the trailer counts {stated.records} records and {stated.size} bytes, "
                f"there are {counted.records} and {counted.size}"
            )
        if stated.digest != counted.digest:
            raise RootMismatch("bundle: digest", expected=stated.digest, computed=counted.digest)
        self.totals = counted


def read_have(source: BinaryIO) -> Have:
    """What the sender of a bundle has; the bundle is read to its end, and its feeds are not looked at.

    Raises ``MalformedError`` for what is no bundle, ``LimitExceeded`` for more than ``MAX_POINTS`` lines of feeds.
    """
    reader = BundleReader(source)
    points: dict[FeedKey, list[Point]] = {}
    count = 0
    for record in reader.records():
        if isinstance(record, Point):
            count += 1
            if count > MAX_POINTS:
                raise LimitExceeded(f"bundle: more than {MAX_POINTS} lines of feeds")
            points.setdefault(record.feed, []).append(record)
    return Have(reader.header, {feed: tuple(found) for feed, found in points.items()})


# --- the records ----------------------------------------------------------------------------------------------------


def _header_fields(header: BundleHeader) -> dict[str, Value]:
    founding = None if header.founding is None else header.founding.fields()
    return {"id": header.database, "name": header.name, "founding": founding, "made": header.made_ms}


def _parse_header(payload: bytes) -> BundleHeader:
    fields = Fields(decode(payload), "bundle: header")
    inner = fields.optional_map("founding")
    founding = None
    if inner is not None:
        founding = Founding(inner.name("name"), inner.bytes("identity", length=32), inner.bytes("salt", length=16))
        inner.done()
    header = BundleHeader(fields.bytes("id", length=32), fields.name("name"), founding, fields.int("made"))
    fields.done()
    if founding is not None and database_id(founding) != header.database:
        raise VerificationError("bundle: the database's id is not that of its founding")
    return header


def _parse_point(payload: bytes) -> Point:
    fields = Fields(decode(payload), "bundle: what the sender has")
    feed = FeedKey(fields.bytes("feed", length=HASH_BYTES))
    point = Point(feed, fields.int("length", min=1, max=MAX_LENGTH), fields.bytes("tree", length=HASH_BYTES))
    fields.done()
    return point


def _parse_run(payload: bytes) -> RunRecord:
    fields = Fields(decode(payload), "bundle: run")
    run = RunRecord(fields.int("from", max=MAX_LENGTH), fields.bytes("tree", length=HASH_BYTES))
    fields.done()
    return run


def _parse_head(payload: bytes) -> SignedHead:
    fields = Fields(decode(payload), "bundle: head")
    length, digest = fields.int("length", min=1, max=MAX_LENGTH), fields.bytes("tree", length=HASH_BYTES)
    head = SignedHead(length, digest, fields.bytes("signature", max=MAX_SIGNATURE_BYTES))
    fields.done()
    return head


_PARSERS: Final[Mapping[bytes, Callable[[bytes], Record]]] = {
    _POINT: _parse_point,
    _EVENT: EventRecord,
    _MANIFEST: FeedRecord,
    _RUN: _parse_run,
    _BLOCK: BlockRecord,
    _HEAD: _parse_head,
}

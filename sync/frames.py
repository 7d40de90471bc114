"""Frames of the sync protocol: one byte string each, strict, total and bounded.

Implements docs/spec/sync-protocol.md, section "Frames". A frame is a header, canonical CBOR that names its type, and
behind it the bytes that the header counts: blocks and identity events, which are too long for CBOR's limits and need no
second encoding. In a stream each stands behind its length; over WebSocket a frame is a message.

Nothing here is verified: that a run is what its heads sign is found out by ``sync.receiving``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from identity.encoding import Fields, Value, decode, encode
from identity.errors import LimitExceeded, MalformedError, UnsupportedVersion, VerificationError
from ledger.feed import MAX_BLOCK_BYTES
from ledger.fork import MAX_FORK_BYTES
from ledger.manifest import MAX_MANIFEST_BYTES
from ledger.merkle import HASH_BYTES, MAX_LENGTH
from ledger.store import FeedKey, SignedHead
from ledger.transfer import MAX_SIGNATURE_BYTES
from sync.bundle import Point
from sync.transaction import Founding, database_id

__all__ = [
    "MAX_BODY_BYTES",
    "MAX_FRAME_BYTES",
    "MAX_HEADER_BYTES",
    "MAX_PARTS",
    "MAX_TOLD",
    "MAX_WANTED",
    "PROTOCOL_VERSION",
    "Ack",
    "Batch",
    "Blocks",
    "Done",
    "Events",
    "Failure",
    "Frame",
    "FrameBuffer",
    "FrameRun",
    "HaveFrame",
    "Hello",
    "Holding",
    "More",
    "Refine",
    "blocks_in",
    "encode_frame",
    "framed",
    "parse_frame",
]

PROTOCOL_VERSION: Final = 1

MAX_HEADER_BYTES: Final = 256 * 1024
MAX_BODY_BYTES: Final = MAX_BLOCK_BYTES
"""What is behind a header: at least one block of any size."""
MAX_FRAME_BYTES: Final = 4 + MAX_HEADER_BYTES + MAX_BODY_BYTES

MAX_PARTS: Final = 1024
"""Blocks, or identity events, in one frame; and runs, and heads of one run."""
MAX_TOLD: Final = 1024
"""Points, and identities, in one frame."""
MAX_WANTED: Final = 4096
"""Feeds that somebody can ask for by name."""

_MAX_DETAIL: Final = 500
_MAX_REASON: Final = 40
_LENGTH: Final = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Hello:
    """The first frame of either side. ``database`` None: whatever is at this address; it is not here yet.

    ``wants`` None: everything. ``live``: the session goes on, and frames are acknowledged.
    """

    database: bytes | None
    founding: Founding | None = None
    wants: tuple[FeedKey, ...] | None = None
    live: bool = False


@dataclass(frozen=True, slots=True)
class Holding:
    """What somebody has of an identity: how many events, and a digest of which (``sync.outgoing.events_digest``)."""

    identity: bytes
    count: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class HaveFrame:
    """What somebody has: every line of every feed, ascending, and identities. ``last``: that was all."""

    points: tuple[Point, ...]
    identities: tuple[Holding, ...]
    last: bool


@dataclass(frozen=True, slots=True)
class Refine:
    """The receiver's ``point`` is on no line of the sender's, who has these beginnings of lines of that feed."""

    point: Point
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Events:
    """Signed identity events, by ascending identity and then by seq."""

    events: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Blocks:
    """Blocks that the first head of the next batch covers, before those that come with it."""

    blocks: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class FrameRun:
    """Blocks of a feed from ``start`` on, behind a tree with that hash, and the heads over them, shortest first.

    The last head covers the last block. ``manifest`` stands when the feed may be new to the receiver.
    """

    feed: FeedKey
    manifest: bytes | None
    start: int
    tree_hash: bytes
    heads: tuple[SignedHead, ...]
    blocks: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Runs that are taken in together: in causal order, within the frame and from frame to frame."""

    runs: tuple[FrameRun, ...]


@dataclass(frozen=True, slots=True)
class Ack:
    """How many frames of events and batches have been taken in, and how many blocks those brought."""

    frames: int
    blocks: int


@dataclass(frozen=True, slots=True)
class Done:
    """The sender has sent all that the receiver lacks, as far as the first ``seen`` frames of the receiver tell."""

    seen: int


@dataclass(frozen=True, slots=True)
class More:
    """The sender ends here and has more: ask again."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The sender ends the session. ``reason`` is a stable name; ``proof`` shows others what was wrong, if it can."""

    reason: str
    detail: str
    proof: bytes = b""


Frame: TypeAlias = Hello | HaveFrame | Refine | Events | Blocks | Batch | Ack | Done | More | Failure


def blocks_in(frame: Frame) -> int:
    """How many blocks a frame brings."""
    if isinstance(frame, Batch):
        return sum(len(run.blocks) for run in frame.runs)
    return len(frame.blocks) if isinstance(frame, Blocks) else 0


# --- in a stream ----------------------------------------------------------------------------------------------------


def framed(frame: bytes) -> bytes:
    """A frame as it stands in a stream: behind its length."""
    return _LENGTH.pack(len(frame)) + frame


class FrameBuffer:
    """Cuts a stream into frames. Holds at most one frame beside what it was last fed."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames that are complete with ``data``, which has to be taken whole.

        Raises ``LimitExceeded`` at the length of one that is too long, ``MalformedError`` for an empty one.
        """
        self._data += data
        at = 0
        try:
            while len(self._data) - at >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(self._data, at)
                if length > MAX_FRAME_BYTES:
                    raise LimitExceeded(f"sync: a frame of {length} bytes, at most {MAX_FRAME_BYTES}")
                if not length:
                    raise MalformedError("sync: an empty frame")
                if len(self._data) - at < _LENGTH.size + length:
                    break
                frame = bytes(self._data[at + _LENGTH.size : at + _LENGTH.size + length])
                at += _LENGTH.size + length
                yield frame
        finally:
            del self._data[:at]

    def end(self) -> None:
        """The stream has ended. Raises ``MalformedError`` when it did within a frame."""
        if self._data:
            raise MalformedError("sync: the stream ends within a frame")


# --- writing --------------------------------------------------------------------------------------------------------


def encode_frame(frame: Frame) -> bytes:
    """The frame's one byte string. Raises ``LimitExceeded`` for one that is too large."""
    header, parts = _header_of(frame)
    encoded = encode(header)
    if len(encoded) > MAX_HEADER_BYTES or sum(map(len, parts)) > MAX_BODY_BYTES:
        raise LimitExceeded(f"sync: a frame {header['t']!r} is larger than a frame can be")
    return b"".join((_LENGTH.pack(len(encoded)), encoded, *parts))


def _header_of(frame: Frame) -> tuple[dict[str, Value], Sequence[bytes]]:
    match frame:
        case Hello(database, founding, wants, live):
            founded = None if founding is None else founding.fields()
            wanted: Value = None if wants is None else [*wants]
            told: dict[str, Value] = {"db": database, "founding": founded, "wants": wanted, "live": live}
            return {"t": "hello", "v": PROTOCOL_VERSION, **told}, ()
        case HaveFrame(points, identities, last):
            held: list[Value] = [[one.identity, one.count, one.digest] for one in identities]
            return {"t": "have", "points": [[*point] for point in points], "identities": held, "last": last}, ()
        case Refine(point, points):
            others: list[Value] = [[one.length, one.tree_hash] for one in points]
            return {"t": "refine", "point": [*point], "points": others}, ()
        case Events(events):
            return {"t": "events", "sizes": [*map(len, events)]}, events
        case Blocks(blocks):
            return {"t": "blocks", "sizes": [*map(len, blocks)]}, blocks
        case Batch(runs):
            return {"t": "batch", "runs": [_run_fields(run) for run in runs]}, [b for run in runs for b in run.blocks]
        case Ack(frames, blocks_taken):
            return {"t": "ack", "frames": frames, "blocks": blocks_taken}, ()
        case Done(seen):
            return {"t": "done", "seen": seen}, ()
        case More():
            return {"t": "more"}, ()
        case Failure(reason, detail, proof):
            return {"t": "error", "name": reason, "detail": detail[:_MAX_DETAIL]}, [proof] if proof else ()


def _run_fields(run: FrameRun) -> dict[str, Value]:
    return {
        "feed": run.feed,
        "manifest": run.manifest,
        "from": run.start,
        "tree": run.tree_hash,
        "heads": [[head.length, head.tree_hash, head.signature] for head in run.heads],
        "sizes": [*map(len, run.blocks)],
    }


# --- reading --------------------------------------------------------------------------------------------------------


def parse_frame(data: bytes) -> Frame:
    """The frame that ``encode_frame`` writes as ``data``. Nothing is verified.

    Raises ``MalformedError``, ``LimitExceeded`` before anything is made of what is too long, ``UnsupportedVersion``
    for another version, ``VerificationError`` when a database's id is not that of its founding.
    """
    if len(data) > MAX_FRAME_BYTES:
        raise LimitExceeded(f"sync: a frame of {len(data)} bytes, at most {MAX_FRAME_BYTES}")
    if len(data) < _LENGTH.size:
        raise MalformedError("sync: a frame without a header")
    (length,) = _LENGTH.unpack_from(data)
    if length > MAX_HEADER_BYTES:
        raise LimitExceeded(f"sync: a header of {length} bytes, at most {MAX_HEADER_BYTES}")
    if length > len(data) - _LENGTH.size:
        raise MalformedError("sync: a frame ends within its header")
    body = memoryview(data)[_LENGTH.size + length :]
    if len(body) > MAX_BODY_BYTES:
        raise LimitExceeded(f"sync: {len(body)} bytes behind a header, at most {MAX_BODY_BYTES}")
    fields = Fields(decode(data[_LENGTH.size : _LENGTH.size + length]), "sync: frame")
    kind = fields.text("t", max=16)
    parse = _PARSERS.get(kind)
    if parse is None:
        raise MalformedError(f"sync: a frame of unknown type {kind!r}")
    fields.what = f"sync: {kind}"
    parts = _Parts(body)
    frame = parse(fields, parts)
    fields.done()
    parts.done()
    return frame


class _Parts:
    """What is behind a header, cut by the sizes in it."""

    def __init__(self, body: memoryview) -> None:
        self._body = body
        self._at = 0

    def take(self, sizes: Sequence[Value]) -> tuple[bytes, ...]:
        """The next parts. Their sizes are added up before one is cut."""
        for size in sizes:
            if not isinstance(size, int) or isinstance(size, bool) or size < 0:
                raise MalformedError("sync: a size that is none")
        if sum(sizes) > len(self._body) - self._at:  # type: ignore[arg-type]
            raise MalformedError("sync: a frame ends before what its header counts")
        found = []
        for size in sizes:
            assert isinstance(size, int)
            found.append(bytes(self._body[self._at : self._at + size]))
            self._at += size
        return tuple(found)

    def rest(self) -> bytes:
        """All that is left."""
        found, self._at = bytes(self._body[self._at :]), len(self._body)
        return found

    def done(self) -> None:
        if self._at != len(self._body):
            raise MalformedError("sync: bytes behind what the header counts")


def _parse_hello(fields: Fields, _: _Parts) -> Frame:
    version = fields.int("v")
    if version != PROTOCOL_VERSION:
        raise UnsupportedVersion(f"sync: version {version} of the protocol, this side speaks {PROTOCOL_VERSION}")
    database = fields.optional_bytes("db", length=32)
    inner, founding = fields.optional_map("founding"), None
    if inner is not None:
        founding = Founding(inner.name("name"), inner.bytes("identity", length=32), inner.bytes("salt", length=16))
        inner.done()
        if database_id(founding) != database:
            raise VerificationError("sync: the database's id is not that of its founding")
    asked, wants = fields.optional_list("wants", max=MAX_WANTED), None
    if asked is not None:
        wants = tuple(FeedKey(Fields({"feed": one}, "sync: hello").bytes("feed", length=HASH_BYTES)) for one in asked)
        if list(wants) != sorted(set(wants)):
            raise MalformedError("sync: the feeds that are wanted are not in ascending order")
    return Hello(database, founding, wants, fields.bool("live"))


def _parse_have(fields: Fields, _: _Parts) -> Frame:
    points = tuple(_point(row, "sync: have") for row in fields.list("points", max=MAX_TOLD))
    identities = tuple(_holding(row) for row in fields.list("identities", max=MAX_TOLD))
    return HaveFrame(points, identities, fields.bool("last"))


def _parse_refine(fields: Fields, _: _Parts) -> Frame:
    point = _point(fields.value("point"), "sync: refine")
    points = []
    for row in fields.list("points", max=MAX_TOLD):
        length, tree_hash = _row(row, 2, "sync: refine")
        points.append(_point([point.feed, length, tree_hash], "sync: refine"))
    return Refine(point, tuple(points))


def _parse_events(fields: Fields, parts: _Parts) -> Frame:
    return Events(parts.take(fields.list("sizes", min=1, max=MAX_PARTS)))


def _parse_blocks(fields: Fields, parts: _Parts) -> Frame:
    return Blocks(parts.take(fields.list("sizes", min=1, max=MAX_PARTS)))


def _parse_batch(fields: Fields, parts: _Parts) -> Frame:
    runs, count = [], 0
    for row in fields.list("runs", min=1, max=MAX_PARTS):
        run = _parse_run(Fields(row, "sync: batch"), parts)
        count += len(run.blocks)
        if count > MAX_PARTS:
            raise LimitExceeded(f"sync: more than {MAX_PARTS} blocks in one frame")
        runs.append(run)
    return Batch(tuple(runs))


def _parse_run(fields: Fields, parts: _Parts) -> FrameRun:
    run = FrameRun(
        FeedKey(fields.bytes("feed", length=HASH_BYTES)),
        fields.optional_bytes("manifest", max=MAX_MANIFEST_BYTES),
        fields.int("from", max=MAX_LENGTH),
        fields.bytes("tree", length=HASH_BYTES),
        tuple(_head(row) for row in fields.list("heads", min=1, max=MAX_PARTS)),
        parts.take(fields.list("sizes", min=1, max=MAX_PARTS)),
    )
    fields.done()
    lengths = [head.length for head in run.heads]
    if lengths != sorted(set(lengths)) or lengths[0] <= run.start:
        raise MalformedError("sync: heads are not in ascending order, or before their run")
    return run


def _parse_ack(fields: Fields, _: _Parts) -> Frame:
    return Ack(fields.int("frames"), fields.int("blocks"))


def _parse_done(fields: Fields, _: _Parts) -> Frame:
    return Done(fields.int("seen"))


def _parse_more(_fields: Fields, _: _Parts) -> Frame:
    return More()


def _parse_failure(fields: Fields, parts: _Parts) -> Frame:
    reason = fields.text("name", min=1, max=_MAX_REASON)
    if not (reason.isascii() and reason.replace("_", "A").isalpha() and reason.isupper()):
        raise MalformedError("sync: the name of an error is upper case with underscores")
    detail = fields.text("detail", max=_MAX_DETAIL)
    proof = parts.rest()
    if len(proof) > MAX_FORK_BYTES:
        raise LimitExceeded(f"sync: a proof of {len(proof)} bytes, at most {MAX_FORK_BYTES}")
    return Failure(reason, detail, proof)


_PARSERS: Final[Mapping[str, Callable[[Fields, _Parts], Frame]]] = {
    "hello": _parse_hello,
    "have": _parse_have,
    "refine": _parse_refine,
    "events": _parse_events,
    "blocks": _parse_blocks,
    "batch": _parse_batch,
    "ack": _parse_ack,
    "done": _parse_done,
    "more": _parse_more,
    "error": _parse_failure,
}


def _row(value: Value, count: int, what: str) -> list[Value]:
    if not isinstance(value, list) or len(value) != count:
        raise MalformedError(f"{what}: a row is {count} values")
    return value


def _point(value: Value, what: str) -> Point:
    feed, length, tree_hash = _row(value, 3, what)
    fields = Fields({"feed": feed, "length": length, "tree": tree_hash}, what)
    key = FeedKey(fields.bytes("feed", length=HASH_BYTES))
    return Point(key, fields.int("length", min=1, max=MAX_LENGTH), fields.bytes("tree", length=HASH_BYTES))


def _holding(value: Value) -> Holding:
    identity, count, digest = _row(value, 3, "sync: have")
    fields = Fields({"identity": identity, "count": count, "digest": digest}, "sync: have")
    return Holding(fields.bytes("identity", length=32), fields.int("count", min=1), fields.bytes("digest", length=32))


def _head(value: Value) -> SignedHead:
    length, tree_hash, signature = _row(value, 3, "sync: head")
    fields = Fields({"length": length, "tree": tree_hash, "signature": signature}, "sync: head")
    return SignedHead(
        fields.int("length", min=1, max=MAX_LENGTH),
        fields.bytes("tree", length=HASH_BYTES),
        fields.bytes("signature", max=MAX_SIGNATURE_BYTES),
    )

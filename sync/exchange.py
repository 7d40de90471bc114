"""Exchange by bundles: what is written into one, and taking one in: whole or nothing, everything in it verified.

Implements docs/spec/bundle.md, sections "Writing", "Reading" and "Forks". A run of blocks has to join a line that is
here: the roots there are known, so the tree that its heads sign is computed from them. What goes beyond the ledger's
line of its feed is appended to that, as an import of feeds would. What is signed against it, or against another feed,
does not end the import: it is kept beside the ledger (``sync.storage.sides``), because others have seen those entries,
and reported with the proof.

Memory is bounded by what one append can hold, and by the number of feeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, BinaryIO, Final, NamedTuple

from identity.encoding import encode
from identity.errors import (
    DamagedFile,
    LimitExceeded,
    MalformedError,
    MissingEvidenceError,
    RefusedError,
    RootMismatch,
    VerificationError,
)
from identity.event import SignedEvent, event_digest, parse_event, parse_signed_event
from identity.history import KeyHistory
from ledger.entry import parse_entry
from ledger.feed import MAX_BATCH_BLOCKS, MAX_BATCH_BYTES
from ledger.fork import branch_of, encode_fork, make_fork
from ledger.head import FORK, signable, verify_head
from ledger.identities import add_events, key_history
from ledger.lineage import may_continue
from ledger.manifest import Continuation, FeedDescription, Manifest, describe, encode_manifest, feed_key, parse_manifest
from ledger.merkle import Node, TreeBuilder
from ledger.store import FeedKey, FeedState, SignedHead, stored_tree_hash
from ledger.transfer import MAX_EVENTS, MAX_EVENTS_BYTES
from ledger.values import Reference
from sync.acts import Found, parse_member
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
from sync.storage.branches import Branches
from sync.storage.projection import KIND_NUMBER, Projection, feed_name
from sync.storage.queries import Queries
from sync.storage.sides import LEDGER, MAX_SIDES, Line, SideReason, Sides
from sync.transaction import MEMBER, DocumentId, Founding, database_id

__all__ = [
    "MAX_IDENTITIES",
    "Advance",
    "FoundFork",
    "ImportReport",
    "Received",
    "Sent",
    "Waiting",
    "receive",
    "take_bundle",
    "write_bundle",
]

MAX_IDENTITIES: Final = 4096
"""Identities whose events one bundle can carry."""

MAX_FEEDS: Final = 65_536
"""Feeds that one bundle can have something of."""

Advance = Callable[[int], None]
"""Called with how many blocks were just written or taken in."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What a bundle was given: ``blocks`` of ``feeds`` feeds."""

    feeds: int
    blocks: int
    totals: BundleTotals


@dataclass(frozen=True, slots=True)
class FoundFork:
    """Something that was signed against what is held of ``feed``, from block ``index`` on.

    ``proof`` is a fork proof, or of two feeds where one belongs CBOR of {manifests, heads} (``signable || signature``,
    empty for a feed that has none yet); it is empty where nobody can be shown to have lied. ``refused``: too many sides
    of the feed are kept already, so this one is not.
    """

    feed: FeedKey
    index: int
    reason: SideReason
    proof: bytes
    refused: bool


@dataclass(frozen=True, slots=True)
class Received:
    """What of a bundle was new: ``blocks`` of ``feeds`` feeds."""

    header: BundleHeader
    feeds: int
    blocks: int
    forks: tuple[FoundFork, ...]


@dataclass(frozen=True, slots=True)
class Waiting:
    """An entry of ``feed`` cannot be taken in, nor what follows it there, before the one that ``reference`` names."""

    feed: FeedKey
    index: int
    reference: Reference


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What a bundle has changed: ``entries`` were taken in, and these documents show conflicts that they did not show
    before, or had a condition that something has broken which was written without knowing of it."""

    received: Received
    entries: int
    waiting: tuple[Waiting, ...]
    conflicts: tuple[DocumentId, ...]
    contested: tuple[DocumentId, ...]


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
    founding = _founding(tx, queries, number, header.database)
    writer = BundleWriter(out, replace(header, founding=founding))
    sides = Sides(tx, queries, number)
    manifests = _feeds_in_order(_manifests(tx, sides, header.database))
    lines = {feed: sides.lines(feed) for feed in manifests}
    for point in sorted(_point(line) for found in lines.values() for line in found if line.length):
        writer.add(point)
    feeds = blocks = 0
    if not only_have:
        _write_events(tx, writer, manifests.values())
        for feed, manifest in manifests.items():
            points = () if since is None else since.points.get(feed, ())
            count = _write_feed(writer, manifest, lines[feed], points, advance)
            feeds, blocks = feeds + bool(count), blocks + count
    return Sent(feeds, blocks, writer.finish())


def _founding(tx: Any, queries: Queries, number: int, database: bytes) -> Founding | None:
    branches = Branches(tx, queries, number)
    for branch, seq, kind, leaf, _ in tx.fetch_all(queries.others, (number,)):
        if kind == KIND_NUMBER[MEMBER]:
            try:
                act = parse_member(parse_entry(branches.block(branch, seq, leaf))).act
            except MalformedError:
                continue  # masked
            if isinstance(act, Found) and database_id(act.founding) == database:
                return act.founding
    return None


def _manifests(tx: Any, sides: Sides, database: bytes) -> dict[FeedKey, Manifest]:
    """The manifests of the database's feeds that are not empty."""
    name = feed_name(database)
    found = {state.key: parse_manifest(state.manifest) for state in tx.feeds() if state.length}
    found = {key: manifest for key, manifest in found.items() if _is_named(manifest, name)}
    for feed in sides.feeds():
        told = sides.manifest(feed)
        if feed not in found and told is not None:
            found[feed] = parse_manifest(told)
    return found


def _is_named(manifest: Manifest, name: str) -> bool:
    description = describe(manifest)
    return description is not None and description.name == name


def _description(manifest: Manifest) -> FeedDescription:
    description = describe(manifest)
    assert description is not None, "only feeds of ours have the name of a database"
    return description


def _feeds_in_order(manifests: dict[FeedKey, Manifest]) -> dict[FeedKey, Manifest]:
    """Each feed behind the one that it continues."""
    ordered: dict[FeedKey, Manifest] = {}
    for feed in manifests:
        chain: list[FeedKey] = []
        at: FeedKey | None = feed
        while at is not None and at in manifests and at not in ordered:
            chain.append(at)
            continues = _description(manifests[at]).continues
            at = None if continues is None else continues.key
        ordered.update((one, manifests[one]) for one in reversed(chain))
    return ordered


def _point(line: Line) -> Point:
    return Point(line.feed, line.length, line.tree_hash(line.length))


def _write_events(tx: Any, writer: BundleWriter, manifests: Iterable[Manifest]) -> None:
    for identity in sorted({_description(manifest).identity for manifest in manifests}):
        for event in tx.identity_events(identity):
            writer.add(EventRecord(event.signed_event))


def _write_feed(
    writer: BundleWriter, manifest: Manifest, lines: Sequence[Line], points: Sequence[Point], advance: Advance | None
) -> int:
    """Write what of the lines is not in ``points``. Returns how many blocks."""
    known, written = [*points], 0
    for line in lines:
        start = _held_of(line, lines, known)
        if start < line.length:
            if not written:
                writer.add(FeedRecord(encode_manifest(manifest)))
            written += _write_run(writer, line, start, advance)
            known.append(_point(line))
    return written


def _held_of(line: Line, lines: Sequence[Line], points: Sequence[Point]) -> int:
    """How much of a line somebody has who has ``points``, as far as can be told; they may have more of it."""
    held = -1
    for point in points:
        for other in lines:
            if point.length <= other.length and other.tree_hash(point.length) == point.tree_hash:
                shared = line.length if other is line else min(line.first, other.first)
                held = max(held, min(point.length, shared))
    if held < 0 and any(point.length > line.length for point in points):
        return line.length  # they are ahead, most likely on this line
    return max(held, 0)


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
    receiving = _Receiving(tx, Sides(tx, queries, number), database, advance)
    for record in reader.records():
        receiving.take(record)
    receiving.finish()
    return Received(reader.header, len(receiving.grown), receiving.blocks, tuple(receiving.forks))


class _Receiving:
    """A bundle on its way in."""

    def __init__(self, tx: Any, sides: Sides, database: bytes, advance: Advance | None) -> None:
        self.tx = tx
        self.sides = sides
        self.lineage = _Lineage(tx)
        self.grown: set[FeedKey] = set()
        self.blocks = 0
        self.forks: list[FoundFork] = []
        self._name = feed_name(database)
        self._advance = advance
        self._events: list[SignedEvent] = []
        self._events_bytes = 0
        self._digests: set[bytes] = set()
        self._identity = b""
        self._identities = 0
        self._histories: dict[bytes, KeyHistory] = {}
        self._feeds: set[FeedKey] = set()
        self._feed: _Feed | None = None

    def take(self, record: Record) -> None:
        """The next record; that they stand in order was checked."""
        match record:
            case BlockRecord(block):
                self._current().run.take_block(block)
            case SignedHead():
                self._current().run.take_head(record)
            case RunRecord(start, digest):
                self._current().begin_run(start, digest)
            case FeedRecord(manifest):
                self.finish()
                self._begin_feed(parse_manifest(manifest))
            case EventRecord(signed_event):
                self._take_event(signed_event)
            case Point():
                pass  # for whoever answers

    def finish(self) -> None:
        """What comes next is not about the same identity or feed."""
        if self._events:
            self._histories = {}
            add_events(self.tx, self._identity, self._events)
            self._events, self._events_bytes, self._digests = [], 0, set()

    def kept(self, feed: FeedKey, blocks: int) -> None:
        """So many blocks were new."""
        self.grown.add(feed)
        self.blocks += blocks

    def passed(self, blocks: int) -> None:
        """So many blocks were verified."""
        if self._advance is not None:
            self._advance(blocks)

    def _current(self) -> _Feed:
        assert self._feed is not None, "the grammar has a feed before its runs"
        return self._feed

    def _take_event(self, encoded: bytes) -> None:
        signed = parse_signed_event(encoded)
        event, digest = parse_event(signed.event), event_digest(signed.event)
        identity = digest if event.identity is None else event.identity
        if identity != self._identity:
            self.finish()
            if identity < self._identity:
                raise MalformedError("bundle: identities are not in ascending order")
            self._identity, self._identities = identity, self._identities + 1
            if self._identities > MAX_IDENTITIES:
                raise LimitExceeded(f"bundle: more than {MAX_IDENTITIES} identities")
        elif not self._events or event.seq < parse_event(self._events[-1].event).seq or digest in self._digests:
            raise MalformedError("bundle: identity events are doubled or out of order")
        self._digests.add(digest)
        self._events_bytes += len(encoded)
        if len(self._events) == MAX_EVENTS or self._events_bytes > MAX_EVENTS_BYTES:
            raise LimitExceeded(f"bundle: more than {MAX_EVENTS} events of an identity, or {MAX_EVENTS_BYTES} bytes")
        self._events.append(signed)

    def _begin_feed(self, manifest: Manifest) -> None:
        key, description = feed_key(manifest), describe(manifest)
        if description is None or description.name != self._name:
            raise RefusedError(f"bundle: feed {key.hex()} is not one of this database")
        if key in self._feeds:
            raise MalformedError(f"bundle: feed {key.hex()} stands in it twice")
        self._feeds.add(key)
        if len(self._feeds) > MAX_FEEDS:
            raise LimitExceeded(f"bundle: more than {MAX_FEEDS} feeds")
        identity = description.identity
        if identity not in self._histories:
            self._histories[identity] = key_history(self.tx, identity)
        if manifest.signers[0].public_key not in self._histories[identity].devices:
            raise VerificationError(f"bundle: the key that signs feed {key.hex()} was never a device of its identity")
        self._feed = _Feed(self, key, manifest)


class _Feed:
    """One feed of a bundle: its lines that are here, and the run that is being read."""

    run: _Run

    def __init__(self, receiving: _Receiving, key: FeedKey, manifest: Manifest) -> None:
        self.receiving = receiving
        self.key = key
        self.manifest = manifest
        self.lines = receiving.sides.lines(key)
        self._state: FeedState | None = receiving.tx.feed(key)

    def begin_run(self, start: int, digest: bytes) -> None:
        """Find the lines that the run joins. Raises ``MissingEvidenceError`` when there is none."""
        joined = [line for line in self.lines if line.length >= start and line.tree_hash(start) == digest]
        if start and not joined:
            held = max((line.length for line in self.lines), default=0)
            where = f"this bundle begins at block {start} of feed {self.key.hex()}"
            if held < start:
                raise MissingEvidenceError(f"{where}, {held} are here", hint="ask for a bundle since what is here")
            raise MissingEvidenceError(f"{where}, in a history that is not here", hint="ask for a complete bundle")
        roots = joined[0].roots(start) if start else ()
        tree = TreeBuilder(roots, start)
        if tree.tree_hash() != digest:
            raise RootMismatch(f"bundle: feed {self.key.hex()}", expected=digest, computed=tree.tree_hash())
        self.run = _Run(self, tree, joined)

    # What a run has that is not here goes on a line, one of these. None: there are too many sides already.

    def append(
        self, line: Line, blocks: Sequence[bytes], nodes: Sequence[Sequence[Node]], head: SignedHead, tree: TreeBuilder
    ) -> None:
        """Let a line go on."""
        if line.side != LEDGER:
            self.receiving.sides.append(line, blocks, nodes, head)
        else:
            assert self._state is not None
            self._state = self.receiving.tx.append(self._state, blocks, nodes, head, tree.roots)
            line.length = line.first = head.length
            if self._state.local:
                self._retire(self.key)  # others hold more of it than the node that signs it
        self.receiving.kept(self.key, len(blocks))

    def line_behind(self, line: Line, grown: _Grown) -> Line | None:
        """The line to go on with where one ends: itself, or a side when it is the ledger's and would contradict."""
        if line.side != LEDGER or not self.receiving.lineage.contradicts(self.key, self.manifest, line.length, grown):
            return line
        return self._aside(line, line.length, SideReason.OTHER_CONTINUATION, b"")

    def first_line(self, head: SignedHead) -> Line | None:
        """The line of a feed of which nothing is here, whose first head is given."""
        conflict = self.receiving.lineage.conflict_of(self.key, self.manifest)
        if conflict is None:
            tx = self.receiving.tx
            self._state = tx.create_feed(self.key, encode_manifest(self.manifest), local=False)
            self.receiving.lineage.add(self.key, self.manifest)
            line = Line(tx, self.receiving.sides.queries, self.key, LEDGER, 0, 0)
            self.lines.append(line)
            return line
        reason, rival = conflict
        proof = b"" if rival is None else _rival_proof(self.receiving.tx, rival, self.key, self.manifest, head)
        if rival is not None and rival.local and parse_manifest(rival.manifest).signers == self.manifest.signers:
            self._retire(rival.key)  # somebody else has this device's key
        return self._aside(None, 0, reason, proof)

    def side_of(self, line: Line, at: int, proof: bytes) -> Line | None:
        """The side that leaves ``line`` at block ``at``."""
        if self._state is not None and self._state.local:
            self._retire(self.key)  # somebody else has this device's key
        return self._aside(line, at, SideReason.FORKED, proof)

    def _aside(self, base: Line | None, at: int, reason: SideReason, proof: bytes) -> Line | None:
        sides, manifest = self.receiving.sides, encode_manifest(self.manifest)
        held = sides.of_feed(self.key)
        refused = sum(not side.refused for side in held) >= MAX_SIDES
        self.receiving.forks.append(FoundFork(self.key, at, reason, proof, refused))
        if not refused:
            self.lines.append(sides.add(self.key, manifest, base, at, reason, proof))
            return self.lines[-1]
        if not any(side.refused for side in held):
            sides.add(self.key, manifest, base, at, reason, proof, refused=True)
        return None

    def _retire(self, key: FeedKey) -> None:
        self.receiving.tx.retire_feed(key)


class _Grown(NamedTuple):
    """Blocks that a head has just been verified for: the tree before them and behind them, and the nodes they make."""

    before: TreeBuilder
    blocks: Sequence[bytes]
    nodes: Sequence[Sequence[Node]]
    head: SignedHead
    tree: TreeBuilder

    def tree_at(self, length: int) -> TreeBuilder:
        """The tree of the first ``length`` blocks, which ends among these."""
        tree = TreeBuilder(self.before.roots, self.before.length)
        tree.append_many(self.blocks[: length - self.before.length])
        return tree


class _Run:
    """A run of blocks: compared with the lines that it may be on, and kept from where it leaves or outgrows them."""

    def __init__(self, feed: _Feed, tree: TreeBuilder, lines: list[Line]) -> None:
        self._feed = feed
        self._tree = tree
        self._lines = lines
        """Those that have had the same blocks so far, until it is clear which one it goes on."""
        self._target: Line | None = None
        self._refused = False
        self._batch: list[bytes] = []
        self._batch_bytes = 0

    def take_block(self, block: bytes) -> None:
        """The next block."""
        self._batch_bytes += len(block)
        if len(self._batch) == MAX_BATCH_BLOCKS or self._batch_bytes > MAX_BATCH_BYTES:
            raise LimitExceeded(f"bundle: more than {MAX_BATCH_BLOCKS} blocks or {MAX_BATCH_BYTES} bytes to a head")
        self._batch.append(block)

    def take_head(self, head: SignedHead) -> None:
        """The head that signs them. Raises ``RootMismatch`` or ``SignatureMismatch`` when it does not."""
        before = TreeBuilder(self._tree.roots, self._tree.length)
        nodes = self._tree.append_many(self._batch)
        if head.length != self._tree.length:
            raise MalformedError(f"bundle: a head of {head.length} blocks behind block {self._tree.length - 1}")
        computed = self._tree.tree_hash()
        if computed != head.tree_hash:
            what = f"bundle: feed {self._feed.key.hex()}, head of {head.length} blocks"
            raise RootMismatch(what, expected=head.tree_hash, computed=computed)
        verify_head(self._feed.manifest, head.tree_hash, head.length, FORK, head.signature)
        self._keep(_Grown(before, self._batch, nodes, head, self._tree))
        self._feed.receiving.passed(len(self._batch))
        self._batch, self._batch_bytes = [], 0

    def _keep(self, grown: _Grown) -> None:
        """Keep what is not here."""
        same = 0
        if self._target is None and not self._refused:
            same = self._follow(grown)
            if same == len(grown.blocks):
                return
            self._target = self._choose(grown, grown.before.length + same)
            self._refused = self._target is None
        if self._target is not None:
            self._feed.append(self._target, grown.blocks[same:], grown.nodes[same:], grown.head, grown.tree)

    def _follow(self, grown: _Grown) -> int:
        """How many of the blocks are here. Leaves the lines that have them."""
        found = [(line.common(grown.before.length, grown.blocks), line) for line in self._lines]
        same = max((count for count, _ in found), default=0)
        self._lines = [line for count, line in found if count == same]
        return same

    def _choose(self, grown: _Grown, at: int) -> Line | None:
        """The line that block ``at`` and what follows go on; None when they are not kept."""
        ended = next((line for line in self._lines if line.length == at), None)
        if ended is not None:
            return self._feed.line_behind(ended, grown)
        if not self._lines:
            return self._feed.first_line(grown.head)
        line = self._lines[0]
        return self._feed.side_of(line, at, _fork_proof(self._feed.manifest, line, at, grown))


def _fork_proof(manifest: Manifest, line: Line, at: int, grown: _Grown) -> bytes:
    """That the head of these blocks contradicts the one that covers block ``at`` of a line."""
    held = next(iter(line.heads(at)), None)
    if held is None:
        raise DamagedFile(f"feed {line.feed.hex()}: no signed head covers block {at}")
    common = min(held.length, grown.head.length)
    new = {node.index: node for done in (grown.tree_at(common).roots, *grown.nodes) for node in done}
    theirs = branch_of(grown.head, common, new.__getitem__)
    ours = branch_of(held, common, line.node)
    if held.length == grown.head.length:
        ours, theirs = replace(ours, prefix=()), replace(theirs, prefix=())
    return encode_fork(make_fork(manifest, ours, theirs))


def _rival_proof(tx: Any, rival: FeedState, key: FeedKey, manifest: Manifest, head: SignedHead) -> bytes:
    """A signed head of each of two feeds where the device may have one."""
    newest = next(iter(tx.heads(rival.key, rival.length - 1)), None)
    statements = [b"" if newest is None else _statement(rival.key, newest), _statement(key, head)]
    return encode({"manifests": [rival.manifest, encode_manifest(manifest)], "heads": [*statements]})


def _statement(key: FeedKey, head: SignedHead) -> bytes:
    return signable(key, head.tree_hash, head.length) + head.signature


class _Lineage:
    """Which feeds of the ledger go on from which: as ``ledger.lineage``, for a feed before it is in the ledger.

    Only feeds of one identity do: anybody can name somebody's feed as continued, and must not end it by that.
    """

    def __init__(self, tx: Any) -> None:
        self._tx = tx
        self._places: dict[object, list[FeedKey]] = {}
        self._continued: dict[tuple[bytes, FeedKey], list[Continuation]] = {}
        for state in tx.feeds():
            if state.length or state.local:
                self.add(state.key, parse_manifest(state.manifest))

    def add(self, key: FeedKey, manifest: Manifest) -> None:
        """Let a feed be one of the ledger's."""
        description = describe(manifest)
        if description is not None:
            self._places.setdefault(_place(manifest, description), []).append(key)
            if description.continues is not None:
                older = (description.identity, description.continues.key)
                self._continued.setdefault(older, []).append(description.continues)

    def conflict_of(self, key: FeedKey, manifest: Manifest) -> tuple[SideReason, FeedState | None] | None:
        """Why a feed that is new cannot be one of the ledger's, and the one where it would stand; None: it can."""
        description = _description(manifest)
        rivals = [other for other in self._places.get(_place(manifest, description), ()) if other != key]
        if rivals:
            return SideReason.RIVAL, self._tx.feed(rivals[0])
        older = description.continues
        held = None if older is None else self._tx.feed(older.key)
        if older is None or held is None or held.length < older.length:
            return None
        if not may_continue(description.identity, held):
            return None
        is_same = stored_tree_hash(self._tx, older.key, older.length) == older.tree_hash
        return None if is_same else (SideReason.OTHER_CONTINUATION, None)

    def contradicts(self, key: FeedKey, manifest: Manifest, length: int, grown: _Grown) -> bool:
        """Whether a feed of the ledger goes on from another history than this one gets by growing beyond ``length``."""
        ends = self._continued.get((_description(manifest).identity, key), ())
        return any(
            grown.tree_at(end.length).tree_hash() != end.tree_hash
            for end in ends
            if length < end.length <= grown.head.length
        )


def _place(manifest: Manifest, description: FeedDescription) -> object:
    older = description.continues
    return (description.identity, (manifest.signers, description.name) if older is None else older.key)

"""Feed exports: a whole feed, with the identity it belongs to, in one file; and taking one in.

Implements docs/spec/feed-export.md. What is taken in is verified completely, every block, head and identity event, in
one write transaction: the import is whole or nothing. Memory is bounded by what one append can hold.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from itertools import chain, islice, pairwise
from typing import BinaryIO, Final

from identity.encoding import Fields, decode, encode
from identity.errors import (
    ConflictError,
    DamagedFile,
    ForkDetected,
    LimitExceeded,
    MalformedError,
    RefusedError,
    RootMismatch,
    StorageError,
    UnsupportedVersion,
    VerificationError,
)
from identity.event import MAX_EVENT_BYTES, SignedEvent, event_digest, parse_event, parse_signed_event
from identity.history import KeyHistory
from ledger.feed import MAX_BATCH_BLOCKS, MAX_BATCH_BYTES, MAX_BLOCK_BYTES, feed_state
from ledger.fork import branch_of, encode_fork, make_fork
from ledger.framing import RecordReader, encode_record
from ledger.head import FORK, signable, verify_head
from ledger.identities import add_events
from ledger.lineage import check_lineage
from ledger.manifest import (
    MAX_MANIFEST_BYTES,
    Manifest,
    describe,
    encode_manifest,
    feed_key,
    parse_manifest,
)
from ledger.merkle import EMPTY_TREE_HASH, HASH_BYTES, MAX_LENGTH, Node, TreeBuilder
from ledger.store import FeedKey, FeedState, ReadTransaction, SignedHead, Store, WriteTransaction, stored_tree_hash
from ledger.succession import was_written_here

__all__ = [
    "FIRST_LINE",
    "MAX_EVENTS",
    "MAX_EVENTS_BYTES",
    "Advance",
    "IngestResult",
    "export_feed",
    "ingest_feed",
    "ingest_feed_in",
    "peek_manifest",
    "write_feed",
]

FIRST_LINE: Final = b"holdfast/v1 feed-export\n"

MAX_SIGNATURE_BYTES: Final = 512
"""Ours have 68."""

_HEADS_A_TASK: Final = 32
_TASKS: Final = 8
"""Signatures that a thread verifies in one go, and how many such tasks may wait: what bounds the memory."""
MAX_EVENTS: Final = 65_536
MAX_EVENTS_BYTES: Final = 64 * 1024 * 1024

_MANIFEST, _EVENT, _BLOCK, _HEAD, _END = b"M", b"I", b"B", b"H", b"E"

_LIMITS: Final = {
    _MANIFEST: MAX_MANIFEST_BYTES,
    _EVENT: MAX_EVENT_BYTES + 64 * 1024,  # the event and the signatures beside it
    _BLOCK: MAX_BLOCK_BYTES,
    _HEAD: 1024,
    _END: 64,
}
"""Record type -> the most bytes that its payload has."""


_Record = tuple[bytes, bytes]
"""Tag and payload."""

Advance = Callable[[int], None]
"""Called with how many blocks were just written or taken in."""


@dataclass(frozen=True, slots=True)
class IngestResult:
    """The feed ``key`` of ``identity`` was held up to block ``start`` and now is up to ``length``."""

    key: FeedKey
    identity: bytes
    start: int
    length: int


# --- export ---


def export_feed(store: Store, key: FeedKey, out: BinaryIO) -> int:
    """Write the feed to ``out``, a buffered binary stream. Returns its length.

    One snapshot is exported, as it is stored; whoever takes it in verifies it. Raises ``MissingEvidenceError`` for an
    unknown feed, ``RefusedError`` for one that is not a feed of ours, ``StorageError`` when reading or writing fails.
    """
    with store.read() as tx:
        return write_feed(tx, key, out)


def write_feed(
    tx: ReadTransaction, key: FeedKey, out: BinaryIO, *, with_events: bool = True, advance: Advance | None = None
) -> int:
    """``export_feed`` in the caller's snapshot. Without events it is the form that an archive holds."""
    state = feed_state(tx, key)
    description = describe(parse_manifest(state.manifest))
    if description is None:
        raise RefusedError(f"feed {key.hex()} is not a feed of ours: it belongs to no identity")
    try:
        out.write(FIRST_LINE)
        out.write(encode_record(_MANIFEST, state.manifest))
        if with_events:
            events = tx.identity_events(description.identity)
            out.writelines(encode_record(_EVENT, event.signed_event) for event in events)
        out.writelines(encode_record(*record) for record in _records(tx, state, advance or _nobody_watches))
    except OSError as exc:
        raise StorageError(f"cannot write the export: {exc}") from exc
    return state.length


def _nobody_watches(_blocks: int) -> None:
    """The progress of a transfer that reports none."""


def _records(tx: ReadTransaction, state: FeedState, advance: Advance) -> Iterator[_Record]:
    start, newest = 0, EMPTY_TREE_HASH
    blocks = tx.blocks(state.key, 0, state.length)
    for head in tx.heads(state.key):
        if head.length > state.length:
            raise DamagedFile(f"feed {state.key.hex()}: a head of {head.length} blocks, the feed has {state.length}")
        for block in islice(blocks, head.length - start):
            yield _BLOCK, block
        yield _HEAD, _encode_head(head)
        advance(head.length - start)
        start, newest = head.length, head.tree_hash
    if start != state.length:
        raise DamagedFile(f"feed {state.key.hex()}: no signed head of {state.length} blocks")
    yield _END, _encode_end(start, newest)


# --- import ---


def ingest_feed(store: Store, source: BinaryIO) -> IngestResult:
    """Take in the export that ``source`` holds from here to its end: whole, or nothing.

    A feed that is held already is taken in when the export holds exactly the heads that are held, and perhaps more;
    one that ends earlier adds nothing. Raises ``MalformedError`` for what is not an export, ``VerificationError`` when
    a claim in it is false, ``ForkDetected`` with two signed heads (signable || signature) when what is held of this
    feed, or of another where the device may have one, contradicts it, and with a fork proof when both heads are of this
    feed, ``ConflictError`` when only the lengths at which heads were signed differ.
    """
    with store.write() as tx:
        return ingest_feed_in(tx, source)


def ingest_feed_in(
    tx: WriteTransaction,
    source: BinaryIO,
    *,
    local: bool = False,
    history_of: Callable[[bytes], KeyHistory] | None = None,
    advance: Advance | None = None,
    pool: Executor | None = None,
) -> IngestResult:
    """``ingest_feed`` in the caller's transaction, which must not be committed when this raises.

    ``local`` is what a feed that is new here becomes; without it too when this node wrote it, and has forgotten it
    (``was_written_here``). With ``history_of``, which gives the history of an identity, the
    export has to be one without events: the form that an archive holds. Then the caller has to hold all feeds against
    each other when the last one is in (``check_all_lineages``). A ``pool`` of threads verifies the signatures beside
    the hashing; all of them are verified when this returns.
    """
    reader = RecordReader(source, "feed export", _LIMITS)
    reader.first_line(FIRST_LINE)
    records = _records_of(reader)
    manifest = _read_manifest(*next(records))
    if history_of is None:
        identity, following = _read_events(tx, manifest, records)
        local = local or was_written_here(tx, manifest)
    else:
        identity, following = _identity_of(manifest), next(records)
        _check_member(history_of(identity), manifest)
    importing = _Import(tx, manifest, local=local, advance=advance or _nobody_watches, pool=pool)
    for tag, payload in chain((following,), records):
        importing.take(tag, payload)
        if tag == _END:
            break
    reader.end()
    if history_of is None:
        importing.check_lineage()
    return IngestResult(importing.key, identity, importing.start, importing.length)


def peek_manifest(source: BinaryIO) -> Manifest:
    """The manifest of the feed that an export says it holds, before anything is taken in. Raises ``MalformedError``."""
    reader = RecordReader(source, "feed export", _LIMITS)
    reader.first_line(FIRST_LINE)
    return _read_manifest(*reader.record())


def _read_manifest(tag: bytes, payload: bytes) -> Manifest:
    if tag != _MANIFEST:
        raise MalformedError(f"feed export: record {tag!r} where the manifest belongs")
    return parse_manifest(payload)


def _read_events(tx: WriteTransaction, manifest: Manifest, records: Iterator[_Record]) -> tuple[bytes, _Record]:
    """Take in the identity's events. Returns its id, and the record that came after them."""
    identity = _identity_of(manifest)
    events: list[SignedEvent] = []
    size = 0
    for tag, payload in records:
        if tag != _EVENT:
            break
        size += len(payload)
        if len(events) == MAX_EVENTS or size > MAX_EVENTS_BYTES:
            raise LimitExceeded(f"feed export: more than {MAX_EVENTS} identity events, or {MAX_EVENTS_BYTES} bytes")
        events.append(parse_signed_event(payload))
    _check_order(events)
    _check_member(add_events(tx, identity, events), manifest)
    return identity, (tag, payload)


def _identity_of(manifest: Manifest) -> bytes:
    description = describe(manifest)
    if description is None:
        raise UnsupportedVersion("feed export: not the manifest of a feed of ours")
    return description.identity


def _check_member(history: KeyHistory, manifest: Manifest) -> None:
    if manifest.signers[0].public_key not in history.devices:
        raise VerificationError("feed export: the key that signs the feed was never a device of its identity")


def _check_order(events: list[SignedEvent]) -> None:
    order = [(parse_event(signed.event).seq, event_digest(signed.event)) for signed in events]
    if not order or len(set(order)) != len(order) or any(one[0] > other[0] for one, other in pairwise(order)):
        raise MalformedError("feed export: identity events are missing, doubled or out of order")


class _Import:
    """The blocks and heads of one export, verified, compared with what is held, and added where they go beyond it."""

    def __init__(
        self, tx: WriteTransaction, manifest: Manifest, *, local: bool, advance: Advance, pool: Executor | None = None
    ) -> None:
        self.key = feed_key(manifest)
        self._tx = tx
        self._manifest = manifest
        self._state = tx.feed(self.key) or tx.create_feed(self.key, encode_manifest(manifest), local=local)
        self._advance = advance
        self._held_heads = tx.heads(self.key)
        self._signatures = _Signatures(manifest, pool)
        self._tree = TreeBuilder()
        self._batch: list[bytes] = []
        self._batch_bytes = 0
        self.start = self._state.length

    @property
    def length(self) -> int:
        """How far the feed is held now."""
        return self._state.length

    def take(self, tag: bytes, payload: bytes) -> None:
        """The next record."""
        if tag == _BLOCK:
            self._take_block(payload)
        elif tag == _HEAD:
            self._take_head(_parse_head(payload))
        elif tag == _END:
            self._take_end(payload)
        else:
            raise MalformedError(f"feed export: record {tag!r} among the blocks")

    def _take_block(self, block: bytes) -> None:
        self._batch_bytes += len(block)
        if len(self._batch) == MAX_BATCH_BLOCKS or self._batch_bytes > MAX_BATCH_BYTES:
            raise LimitExceeded(
                f"feed export: more than {MAX_BATCH_BLOCKS} blocks or {MAX_BATCH_BYTES} bytes to a head"
            )
        self._batch.append(block)

    def _take_head(self, head: SignedHead) -> None:
        if not self._batch:
            raise MalformedError("feed export: a head without a block of its own")
        before = TreeBuilder(self._tree.roots, self._tree.length) if self._tree.length < self.start else None
        nodes = self._tree.append_many(self._batch)
        if head.length != self._tree.length:
            raise MalformedError(f"feed export: a head of {head.length} blocks after block {self._tree.length - 1}")
        computed = self._tree.tree_hash()
        if computed != head.tree_hash:
            raise RootMismatch(f"feed export: head of {head.length} blocks", expected=head.tree_hash, computed=computed)
        self._signatures.add(head)
        if before is not None:
            self._signatures.finish()  # before it may contradict what is held it has to be somebody's word
            self._compare(before, nodes, head)
        else:
            self._state = self._tx.append(self._state, self._batch, nodes, head, self._tree.roots)
        self._advance(len(self._batch))
        self._batch, self._batch_bytes = [], 0

    def _compare(self, before: TreeBuilder, nodes: Sequence[Sequence[Node]], head: SignedHead) -> None:
        """Hold a head that covers blocks we have against the head that covers them here."""
        held = next(self._held_heads, None)
        if held is None:
            raise DamagedFile(f"feed {self.key.hex()}: no signed head of {self.start} blocks")
        common = min(held.length, head.length)
        before.append_many(self._batch[: common - before.length])
        if before.tree_hash() != stored_tree_hash(self._tx, self.key, common):
            raise ForkDetected(
                f"feed {self.key.hex()}: two histories before block {common} are signed",
                first=self._statement(held),
                second=self._statement(head),
                proof=self._fork_proof(before, nodes, held, head),
            )
        if held.length != head.length:
            raise ConflictError(f"feed {self.key.hex()}: head {held.length} is held where the export has {head.length}")

    def _fork_proof(
        self, before: TreeBuilder, nodes: Sequence[Sequence[Node]], held: SignedHead, head: SignedHead
    ) -> bytes:
        """The proof of a fork at the length of ``before``, where one of the two heads ends."""
        new = {node.index: node for done in (before.roots, *nodes) for node in done}
        theirs = branch_of(head, before.length, new.__getitem__)
        ours = branch_of(held, before.length, lambda index: self._tx.node(self.key, index))
        if held.length == head.length:
            ours, theirs = replace(ours, prefix=()), replace(theirs, prefix=())
        return encode_fork(make_fork(self._manifest, ours, theirs))

    def _statement(self, head: SignedHead) -> bytes:
        return signable(self.key, head.tree_hash, head.length) + head.signature

    def _take_end(self, payload: bytes) -> None:
        if self._batch:
            raise MalformedError("feed export: blocks that no head covers")
        self._signatures.finish()
        if _parse_end(payload) != (self._tree.length, self._tree.tree_hash()):
            raise MalformedError("feed export: the end record is not that of the last head")
        if self._state.local and self._state.length > self.start:
            # Others hold more of it than the node that signs it: this store was put back, and must not sign it again.
            self._tx.retire_feed(self.key)

    def check_lineage(self) -> None:
        """Hold the feed, all of it, against those that it continues, that continue it, or that are its rivals."""
        check_lineage(self._tx, self._state, self._manifest)


class _Signatures:
    """Verifies the signatures of heads: at once, or in tasks for a pool. No task is forgotten before ``finish``."""

    def __init__(self, manifest: Manifest, pool: Executor | None) -> None:
        self._manifest = manifest
        self._pool = pool
        self._task: list[SignedHead] = []
        self._pending: deque[Future[None]] = deque()

    def add(self, head: SignedHead) -> None:
        """Verify ``head``, whose tree was recomputed, now or later. Raises for it or for one before it."""
        self._task.append(head)
        if self._pool is None or len(self._task) == _HEADS_A_TASK:
            self._hand_over()

    def finish(self) -> None:
        """Verify what is left. Raises as ``verify_head`` for the first one that does not hold."""
        self._hand_over()
        while self._pending:
            self._pending.popleft().result()

    def _hand_over(self) -> None:
        task, self._task = self._task, []
        if self._pool is None:
            self._verify(task)
            return
        self._pending.append(self._pool.submit(self._verify, task))
        while len(self._pending) > _TASKS:
            self._pending.popleft().result()

    def _verify(self, task: Sequence[SignedHead]) -> None:
        for head in task:
            verify_head(self._manifest, head.tree_hash, head.length, FORK, head.signature)


def _records_of(reader: RecordReader) -> Iterator[_Record]:
    """Record after record, until the consumer stops: an export ends with its end record, not with the file."""
    while True:
        yield reader.record()


def _encode_head(head: SignedHead) -> bytes:
    return encode({"length": head.length, "tree": head.tree_hash, "signature": head.signature})


def _parse_head(payload: bytes) -> SignedHead:
    fields = Fields(decode(payload), "feed export: head")
    length, digest = _read_position(fields)
    head = SignedHead(length, digest, fields.bytes("signature", max=MAX_SIGNATURE_BYTES))
    fields.done()
    return head


def _encode_end(length: int, digest: bytes) -> bytes:
    return encode({"length": length, "tree": digest})


def _parse_end(payload: bytes) -> tuple[int, bytes]:
    fields = Fields(decode(payload), "feed export: end")
    position = _read_position(fields)
    fields.done()
    return position


def _read_position(fields: Fields) -> tuple[int, bytes]:
    return fields.int("length", min=0, max=MAX_LENGTH), fields.bytes("tree", length=HASH_BYTES)

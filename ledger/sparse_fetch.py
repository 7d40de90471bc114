"""Fetching parts of a feed from several sources: asking, judging and keeping, and dropping whoever lies or fails.

Implements docs/spec/feed.md section 2.11, the procedure. What decides is in ``ledger.sparse``; here requests go out and
what comes back is written, each answer in one transaction, in which it is judged first. A source that lies is dropped
for good, named with what was wrong; the others are asked instead. A fork is nobody's lie but the signers' own: nothing
of it is followed, and the proof goes to the caller.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from identity.errors import AuditError, ForkDetected, MalformedError, MissingEvidenceError, RefusedError
from ledger.fork import ForkProof, encode_fork, verify_fork
from ledger.head import signable
from ledger.manifest import Manifest, feed_key
from ledger.merkle import Node
from ledger.proof import encode_proof, parse_proof
from ledger.proof_checking import NOTHING_KNOWN, verify_answer
from ledger.proof_making import answer_request
from ledger.request import Request
from ledger.sparse import (
    Learned,
    ask_block,
    ask_byte,
    ask_growth,
    ask_head,
    ask_node,
    find_fork,
    judge_answer,
    learned_from,
    read_bytes,
)
from ledger.storage.sparse import SparseFeed, hold_feed, sparse_feed
from ledger.storage.sql import SqlReadTransaction, SqlStore
from ledger.store import FeedKey, ReadTransaction, SignedHead, Store

__all__ = ["IngestedProof", "Source", "SparseReader", "StoredSource", "StoredTree", "fork_detected", "ingest_proof"]


class Source(Protocol):
    """Somebody who may hold the feed, or parts of it. Nothing it says is believed."""

    @property
    def name(self) -> str:
        """What it is called in errors."""

    def answer(self, request: Request) -> bytes:
        """A proof. Raises ``MissingEvidenceError`` for what it does not hold, ``TransportError`` when it fails.

        May be called from another thread than the reader's, one call at a time.
        """


class StoredTree:
    """A feed that a store holds whole, in one transaction: what proofs are made of, and a ``HeldFeed`` to read."""

    def __init__(self, tx: ReadTransaction, key: FeedKey, length: int) -> None:
        self._tx = tx
        self._key = key
        self.length = length

    def node(self, index: int) -> Node:
        """The node. Raises ``MissingEvidenceError`` beyond the feed."""
        return self._tx.node(self._key, index)

    def find(self, index: int) -> Node | None:
        """The node, or None beyond the feed."""
        try:
            return self._tx.node(self._key, index)
        except MissingEvidenceError:
            return None

    def block(self, index: int) -> bytes:
        """The block. Raises ``MissingEvidenceError`` beyond the feed."""
        return self._tx.block(self._key, index)


class StoredSource:
    """A source that answers from a store which holds the feed whole."""

    def __init__(self, store: Store, key: FeedKey, name: str) -> None:
        self._store = store
        self._key = key
        self.name = name

    def answer(self, request: Request) -> bytes:
        """The proof, made from the store. Raises ``MissingEvidenceError`` for what is not in it."""
        with self._store.read() as tx:
            state = tx.feed(self._key)
            head = None if state is None else tx.head(self._key, state.length)
            if head is None:
                raise MissingEvidenceError(f"feed {self._key.hex()} is not in this store")
            return encode_proof(answer_request(StoredTree(tx, self._key, head.length), head, request))


class SparseReader:
    """Reads a feed in parts from ``sources`` into ``store``. ``dropped`` says which of them lied or failed, and how.

    Raises ``RefusedError`` when two sources have one name: neither could be told from the other.
    """

    def __init__(self, store: SqlStore, manifest: Manifest, sources: Sequence[Source]) -> None:
        if len({source.name for source in sources}) != len(sources):
            raise RefusedError("two sources have one name")
        self.key = feed_key(manifest)
        self.dropped: dict[str, AuditError] = {}
        self._store = store
        self._manifest = manifest
        self._sources = list(sources)
        self._turn = 0
        with store.write() as tx:
            hold_feed(tx.connection, manifest)

    def follow(self) -> int:
        """Ask every source for a newer head, and hold each one's head against what is known. Returns the length now.

        Raises ``ForkDetected`` with its proof when a source has a head that contradicts ours, or has another fork
        counter: nothing of that head is kept.
        """
        for source in self._left():
            try:
                self._grow(source)
            except ForkDetected:
                raise
            except AuditError as exc:
                self._drop(source, exc)
        return self._held_length()

    def fetch_blocks(self, start: int, stop: int) -> None:
        """Bring blocks ``start`` to ``stop - 1``, asking all sources at once.

        Raises ``MissingEvidenceError`` when no source is left that has one of them; what came before is kept.
        """
        wanted = iter(range(start, stop))
        with ThreadPoolExecutor(max_workers=max(1, len(self._sources))) as pool:
            while batch := list(islice(wanted, max(1, len(self._left())))):
                requests = [request for index in batch if (request := self._plan(index)) is not None]
                pairs = list(zip(self._rotated(), requests, strict=False))
                answers = [(source, request, pool.submit(source.answer, request)) for source, request in pairs]
                for source, request, answer in answers:
                    try:
                        self._keep(request, answer.result())
                    except MissingEvidenceError:
                        self._ask(request)
                    except AuditError as exc:
                        self._drop(source, exc)
                        self._ask(request)
                for request in requests[len(pairs) :]:
                    self._ask(request)

    def read(self, offset: int, length: int) -> Iterator[bytes]:
        """Bytes of the feed, in pieces, fetched where they are not held. Raises as ``fetch_blocks`` does."""
        while length:
            place = self._seek(offset)
            self.fetch_blocks(place, place + 1)
            with self._store.read() as tx:
                held = self._held(tx)
                found = ask_byte(held, offset)
                assert not isinstance(found, Request)
                rest = len(held.block(found.block) or b"") - found.offset
                piece = b"".join(read_bytes(held, offset, min(length, rest)))
            yield piece
            offset, length = offset + len(piece), length - len(piece)

    # --- one request ---

    def _seek(self, offset: int) -> int:
        """The block that holds the byte, after asking for what it takes to know."""
        while True:
            with self._store.read() as tx:
                found = ask_byte(self._held(tx), offset)
            if not isinstance(found, Request):
                return found.block
            self._ask(found)

    def _ask(self, request: Request) -> Learned:
        """Ask one source after the other until an answer holds, and keep it."""
        for source in self._rotated():
            try:
                return self._keep(request, source.answer(request))
            except MissingEvidenceError:
                continue
            except AuditError as exc:
                self._drop(source, exc)
        raise MissingEvidenceError(
            f"no source of feed {self.key.hex()} has what is asked for ({len(self.dropped)} were dropped)"
        )

    def _keep(self, request: Request, data: bytes) -> Learned:
        with self._store.write() as tx:
            held = hold_feed(tx.connection, self._manifest)
            learned = judge_answer(self._manifest, held, request, data)
            held.learn(learned)
        return learned

    # --- heads ---

    def _grow(self, source: Source) -> None:
        with self._store.read() as tx:
            request = ask_growth(self._held(tx))
        try:
            self._keep(request, source.answer(request))
        except MissingEvidenceError:
            self._compare(source)
        except AuditError:
            self._compare(source)  # which raises when the answer was a fork's; a lie is told as such
            raise

    def _compare(self, source: Source) -> None:
        """Hold a source's head against ours."""
        with self._store.read() as tx:
            held = self._held(tx)
            head = held.head() if held.length else None
        if head is None:
            return
        try:
            data = source.answer(ask_head(head.length))
        except MissingEvidenceError:
            try:
                data = source.answer(ask_head(1))
            except MissingEvidenceError:
                return  # it has nothing yet
        fork = self._find_fork(head, data)
        if fork is not None:
            message = f"{source.name} has a signed head that contradicts ours of {head.length} blocks"
            raise fork_detected(self._manifest, fork, message)

    def _find_fork(self, head: SignedHead, data: bytes) -> ForkProof | None:
        """The fork, if it is one; nodes of ours that are not held are asked for."""
        shown: dict[int, Node] = {}

        def ours(index: int) -> Node | None:
            if index not in shown:
                with self._store.read() as tx:
                    held = self._held(tx)
                    node, request = held.find(index), ask_node(held, index)
                if node is None and request is not None:
                    node = self._ask(request).hash
                if node is not None:
                    shown[index] = node
            return shown.get(index)

        return find_fork(self._manifest, head, ours, data)

    # --- sources and rows ---

    def _left(self) -> list[Source]:
        return [source for source in self._sources if source.name not in self.dropped]

    def _rotated(self) -> list[Source]:
        """The sources that are left, each time another one first."""
        left = self._left()
        self._turn += 1
        turn = self._turn % len(left) if left else 0
        return left[turn:] + left[:turn]

    def _drop(self, source: Source, reason: AuditError) -> None:
        self.dropped[source.name] = reason

    def _held(self, tx: SqlReadTransaction) -> SparseFeed:
        held = sparse_feed(tx.connection, self.key)
        assert held is not None
        return held

    def _held_length(self) -> int:
        with self._store.read() as tx:
            return self._held(tx).length

    def _plan(self, index: int) -> Request | None:
        with self._store.read() as tx:
            return ask_block(self._held(tx), index)


@dataclass(frozen=True, slots=True)
class IngestedProof:
    """A proof was taken in: of the feed ``key``, whose signed length is ``length``; ``block`` is the one it brought."""

    key: FeedKey
    length: int
    block: int | None


def ingest_proof(store: SqlStore, data: bytes) -> IngestedProof:
    """Take in a proof that carries its feed's manifest, as part of a feed: whole, or nothing.

    It may begin at the length that is held, or at 0, when it is about the head that is held or nothing is. Raises
    ``ForkDetected`` with its proof when its signed head contradicts ours, ``RefusedError`` for a feed that is held
    whole, or a head of another length that does not continue ours, and what ``verify_answer`` does.
    """
    proof = parse_proof(data)
    if proof.manifest is None:
        raise MalformedError("a proof that is taken in by itself carries the manifest of its feed")
    key = feed_key(proof.manifest)
    with store.write() as tx:
        if tx.feed(key) is not None:
            raise RefusedError(f"feed {key.hex()} is held whole")
        held = hold_feed(tx.connection, proof.manifest)
        again = held.length > 0 and proof.upgrade is not None and proof.upgrade.start == 0
        if again:
            _check_head(held, data)
        answer = verify_answer(proof.manifest, proof, NOTHING_KNOWN if again else held)
        if again and answer.upgrade is not None and answer.upgrade.head.length != held.length:
            raise RefusedError(
                f"feed {key.hex()} is held at {held.length} blocks, the proof is about {answer.upgrade.head.length}",
                hint=f"ask for one that begins at {held.length}",
            )
        held.learn(learned_from(answer))
        return IngestedProof(key, held.length, None if answer.block is None else answer.block.index)


def _check_head(held: SparseFeed, data: bytes) -> None:
    head = held.head()
    try:
        fork = find_fork(held.manifest, head, held.find, data)
    except MissingEvidenceError:
        return  # the proof does not show its tree at our length: nothing follows from it but what it says itself
    if fork is not None:
        raise fork_detected(held.manifest, fork, f"the proof's head contradicts ours of {head.length} blocks")


def fork_detected(manifest: Manifest, fork: ForkProof, message: str) -> ForkDetected:
    """The error that carries a fork proof, verified, and both signed statements."""
    verify_fork(manifest, fork)
    key = feed_key(manifest)
    first, second = (
        signable(key, branch.tree_hash, branch.length, branch.fork) + branch.signature
        for branch in (fork.first, fork.second)
    )
    return ForkDetected(f"feed {key.hex()}: {message}", first=first, second=second, proof=encode_fork(fork))

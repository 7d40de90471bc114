"""Feeds held in part: several sources at once, none of them believed, and what a fork leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from identity.errors import (
    AuditError,
    DamagedFile,
    ForkDetected,
    MalformedError,
    MissingEvidenceError,
    RefusedError,
    RootMismatch,
    TransportError,
    VerificationError,
)
from identity.keys import Ed25519Signer
from ledger.fork import parse_fork, verify_fork
from ledger.head import sign_head, signable
from ledger.manifest import FeedDescription, Manifest, ManifestSigner, Prologue, device_manifest, feed_key
from ledger.merkle import Node, TreeBuilder
from ledger.proof import Proof, encode_proof, parse_proof
from ledger.proof_making import answer_request
from ledger.request import Request
from ledger.sparse import ask_block, ask_byte, ask_growth, ask_node, judge_answer, read_bytes
from ledger.sparse_fetch import Source, SparseReader
from ledger.storage.engine import open_store
from ledger.storage.sparse import sparse_faults, sparse_feed, sparse_feeds
from ledger.storage.sql import SqlStore
from ledger.storage.sqlite import open_sqlite
from ledger.store import SignedHead

SIGNER = Ed25519Signer(b"\x07" * 32)
MANIFEST = device_manifest(SIGNER.public_key, FeedDescription(b"\x11" * 32, "notes"))
KEY = feed_key(MANIFEST)
BLOCKS = [bytes([n]) * (n * 7 % 11) for n in range(61)]
WHOLE = b"".join(BLOCKS)


class Peer:
    """A source with the first ``length`` blocks of a history, or only the blocks ``only``; counts what it answers."""

    def __init__(
        self,
        name: str,
        blocks: Sequence[bytes],
        *,
        only: Iterable[int] | None = None,
        fork: int = 0,
        manifest: Manifest = MANIFEST,
    ) -> None:
        self.name = name
        self.blocks = list(blocks)
        self.only = None if only is None else set(only)
        self.fork = fork
        self.manifest = manifest
        self.answered = 0
        self.nodes = {node.index: node for done in TreeBuilder().append_many(self.blocks) for node in done}

    def node(self, index: int) -> Node:
        if index not in self.nodes:
            raise MissingEvidenceError(f"node {index}")
        return self.nodes[index]

    def block(self, index: int) -> bytes:
        if self.only is not None and index not in self.only:
            raise MissingEvidenceError(f"block {index}")
        return self.blocks[index]

    def head(self) -> SignedHead:
        tree = TreeBuilder()
        tree.append_many(self.blocks)
        signed = SIGNER.sign(signable(feed_key(self.manifest), tree.tree_hash(), tree.length, self.fork))
        return SignedHead(tree.length, tree.tree_hash(), b"\x01\x00" + signed + b"\x00\x00")

    def answer(self, request: Request) -> bytes:
        self.answered += 1
        prologue = 0 if self.manifest.prologue is None else self.manifest.prologue.length
        proof = answer_request(self, self.head(), request, prologue=prologue)
        return encode_proof(self.change(replace(proof, fork=self.fork)))

    def change(self, proof: Proof) -> Proof:
        """For liars."""
        return proof


class Altering(Peer):
    """Changes a byte of the blocks that it hands out."""

    def change(self, proof: Proof) -> Proof:
        if proof.block is None:
            return proof
        return replace(proof, block=replace(proof.block, value=proof.block.value + b"!"))


class Shifting(Peer):
    """Moves a byte between the two lowest nodes of a list, which their parent's hash does not show."""

    def change(self, proof: Proof) -> Proof:
        if proof.hash is None:
            return proof
        first, second, *rest = proof.hash.nodes
        moved = (first._replace(size=first.size + 1), second._replace(size=second.size - 1), *rest)
        return replace(proof, hash=replace(proof.hash, nodes=moved)) if second.size else proof


class Garbling(Peer):
    """Answers with bytes of no format."""

    def answer(self, request: Request) -> bytes:
        return b"\xff" + super().answer(request)


class Silent(Peer):
    """Is not there."""

    def answer(self, request: Request) -> bytes:
        raise TransportError(f"no answer to {request.id}")


class Elsewhere(Peer):
    """Answers another question, with a proof that holds."""

    def answer(self, request: Request) -> bytes:
        if request.block is not None:
            request = replace(request, block=None, hash=request.block._replace(index=2 * request.block.index))
        return super().answer(request)


NewStore = Callable[[Path], SqlStore]


@pytest.fixture
def store(tmp_path: Path, new_sqlite: NewStore) -> Iterator[SqlStore]:
    opened = new_sqlite(tmp_path / "store.db")
    yield opened
    opened.close()


def reader(store: SqlStore, *sources: Source, manifest: Manifest = MANIFEST) -> SparseReader:
    return SparseReader(store, manifest, sources)


def held(store: SqlStore) -> tuple[int, list[int]]:
    with store.read() as tx:
        feed = sparse_feed(tx.connection, KEY)
        assert feed is not None
        assert sparse_faults(feed) == []
        return feed.length, feed.blocks()


# --- blocks ---


def test_single_blocks_and_ranges_from_a_source(store: SqlStore) -> None:
    peer = Peer("peer", BLOCKS)
    reading = reader(store, peer)
    assert reading.follow() == 61
    reading.fetch_blocks(7, 8)
    reading.fetch_blocks(30, 41)
    assert held(store) == (61, [7, *range(30, 41)])
    before = peer.answered
    reading.fetch_blocks(30, 41)
    assert peer.answered == before, "what is held is not asked for again"


def test_several_sources_that_hold_parts_give_the_whole(store: SqlStore) -> None:
    parts = [Peer(f"part {n}", BLOCKS, only=range(n, 61, 3)) for n in range(3)]
    reading = reader(store, *parts)
    reading.follow()
    reading.fetch_blocks(0, 61)
    assert held(store) == (61, list(range(61)))
    assert reading.dropped == {}
    assert all(part.answered > 10 for part in parts)


def test_parts_are_held_on_postgresql_as_well(empty_postgres: str) -> None:
    store = open_store(empty_postgres)
    try:
        reading = reader(store, Peer("peer", BLOCKS), Altering("bad", BLOCKS))
        reading.follow()
        reading.fetch_blocks(3, 9)
        assert b"".join(reading.read(40, 30)) == WHOLE[40:70]
        assert set(reading.dropped) == {"bad"}
        length, blocks = held(store)
        assert (length, set(range(3, 9)) <= set(blocks)) == (61, True)
        with pytest.raises(AuditError), store.write() as tx:
            tx.connection.exec_driver_sql("UPDATE sparse_node SET size = 1")
    finally:
        store.close()


@pytest.mark.parametrize("kind", [Altering, Garbling, Silent, Elsewhere])
def test_a_source_that_lies_or_fails_is_named_and_dropped_and_the_others_go_on(
    store: SqlStore, kind: type[Peer]
) -> None:
    reading = reader(store, Peer("honest", BLOCKS), kind("bad", BLOCKS), Peer("other", BLOCKS))
    reading.follow()
    reading.fetch_blocks(0, 61)
    assert held(store) == (61, list(range(61)))
    assert set(reading.dropped) == {"bad"}
    assert isinstance(reading.dropped["bad"], MalformedError | VerificationError | TransportError)


def test_when_all_are_dropped_nothing_is_kept_and_it_is_said(store: SqlStore) -> None:
    reading = reader(store, Peer("honest", BLOCKS))
    reading.follow()
    liars = reader(store, Altering("one", BLOCKS), Altering("two", BLOCKS))
    with pytest.raises(MissingEvidenceError, match="2 were dropped"):
        liars.fetch_blocks(5, 6)
    assert held(store) == (61, [])


def test_a_block_beyond_the_feed_and_one_that_nobody_has(store: SqlStore) -> None:
    reading = reader(store, Peer("peer", BLOCKS, only=[3]))
    reading.follow()
    with pytest.raises(MissingEvidenceError, match="beyond the 61 blocks"):
        reading.fetch_blocks(61, 62)
    with pytest.raises(MissingEvidenceError, match="no source"):
        reading.fetch_blocks(3, 5)
    assert held(store) == (61, [3])
    assert reading.dropped == {}


def test_before_a_head_is_known_there_is_nothing_to_ask_for(store: SqlStore) -> None:
    reading = reader(store)
    assert reading.follow() == 0
    with pytest.raises(MissingEvidenceError, match="beyond the 0 blocks"):
        reading.fetch_blocks(0, 1)
    with pytest.raises(MissingEvidenceError, match="0 bytes"):
        list(reading.read(0, 1))


def test_two_sources_of_one_name_are_refused(store: SqlStore) -> None:
    with pytest.raises(RefusedError, match="one name"):
        reader(store, Peer("peer", BLOCKS), Peer("peer", BLOCKS))


# --- following ---


def test_following_a_feed_as_it_grows(store: SqlStore) -> None:
    for length in (1, 2, 3, 7, 8, 20, 33, 61):
        reading = reader(store, Peer("peer", BLOCKS[:length]))
        assert reading.follow() == length
        reading.fetch_blocks(length - 1, length)
        assert held(store)[0] == length
    with store.read() as tx:
        feed = sparse_feeds(tx.connection)[0]
        assert [head.length for head in feed.heads()] == [1, 2, 3, 7, 8, 20, 33, 61]


def test_a_source_that_is_behind_is_no_incident(store: SqlStore) -> None:
    reading = reader(store, Peer("new", BLOCKS), Peer("old", BLOCKS[:13]), Peer("empty", BLOCKS[:1]))
    assert reading.follow() == 61
    assert reading.follow() == 61
    assert reading.dropped == {}


@pytest.mark.parametrize(("ours", "theirs"), [(20, 20), (20, 33), (20, 61), (33, 20), (61, 6), (7, 6)])
def test_a_forked_head_is_an_incident_with_its_proof_and_not_followed(store: SqlStore, ours: int, theirs: int) -> None:
    retold = [*BLOCKS[:5], b"retold", *BLOCKS[6:]]
    good = Peer("good", BLOCKS[:ours])
    reader(store, good).follow()
    with pytest.raises(ForkDetected, match="bad has a signed head") as caught:
        reader(store, good, Peer("bad", retold[:theirs])).follow()
    fork = verify_fork(MANIFEST, parse_fork(caught.value.proof))
    assert {fork.first.length, fork.second.length} == {ours, theirs}
    assert held(store)[0] == ours
    assert caught.value.first[:112] != caught.value.second[:112]


@pytest.mark.parametrize(("length", "blocks"), [(40, BLOCKS), (5, BLOCKS), (61, [*BLOCKS, b"more"])])
def test_a_truncation_is_an_incident_with_both_heads(store: SqlStore, length: int, blocks: list[bytes]) -> None:
    reader(store, Peer("good", BLOCKS)).follow()
    with pytest.raises(ForkDetected) as caught:
        reader(store, Peer("cut", blocks[:length], fork=1)).follow()
    fork = verify_fork(MANIFEST, parse_fork(caught.value.proof))
    assert {fork.first.fork, fork.second.fork} == {0, 1}
    assert held(store)[0] == 61


class Forging(Peer):
    """Has no key of the feed: its heads are signed by somebody else."""

    def head(self) -> SignedHead:
        head = super().head()
        return replace(head, signature=sign_head(Ed25519Signer(b"\x08" * 32), KEY, head.tree_hash, head.length))


def test_a_strangers_head_is_a_lie_and_no_fork(store: SqlStore) -> None:
    reader(store, Peer("good", BLOCKS[:20])).follow()
    reading = reader(store, Forging("stranger", BLOCKS), Peer("good", BLOCKS))
    assert reading.follow() == 61
    assert isinstance(reading.dropped["stranger"], VerificationError)


def test_a_feed_that_is_born_with_a_prologue(store: SqlStore) -> None:
    tree = TreeBuilder()
    tree.append_many(BLOCKS[:5])
    born = Manifest(1, 1, (ManifestSigner(SIGNER.public_key),), prologue=Prologue(tree.tree_hash(), 5))
    reading = reader(store, Peer("peer", BLOCKS[:9], manifest=born), manifest=born)
    assert reading.follow() == 9
    reading.fetch_blocks(0, 9)
    assert b"".join(reading.read(0, len(b"".join(BLOCKS[:9])))) == b"".join(BLOCKS[:9])


# --- bytes ---


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (0, 20), (150, 3), (40, 100), (len(WHOLE) - 1, 1), (9, 0)])
def test_a_range_of_bytes_is_read_with_few_requests(store: SqlStore, offset: int, length: int) -> None:
    peer = Peer("peer", BLOCKS)
    reading = reader(store, peer)
    reading.follow()
    assert b"".join(reading.read(offset, length)) == WHOLE[offset : offset + length]
    assert held(store)[0] == 61
    if length <= 3:
        assert peer.answered <= 8
    again = peer.answered
    assert b"".join(reading.read(offset, length)) == WHOLE[offset : offset + length]
    assert peer.answered == again


def test_random_ranges_from_honest_and_lying_sources(store: SqlStore) -> None:
    random = Random(5)
    reading = reader(store, Peer("a", BLOCKS), Shifting("shifting", BLOCKS), Altering("altering", BLOCKS))
    reading.follow()
    for _ in range(10):
        start = random.randrange(len(WHOLE))
        length = random.randrange(min(30, len(WHOLE) - start))
        assert b"".join(reading.read(start, length)) == WHOLE[start : start + length]
    held(store)
    assert "a" not in reading.dropped


def test_a_border_that_is_moved_between_two_blocks_is_found_by_the_block(store: SqlStore) -> None:
    reading = reader(store, Shifting("shifting", BLOCKS))
    reading.follow()
    for offset in range(0, len(WHOLE), 7):
        assert b"".join(reading.read(offset, 1)) == WHOLE[offset : offset + 1]
    held(store)


def test_bytes_beyond_the_feed(store: SqlStore) -> None:
    reading = reader(store, Peer("peer", BLOCKS))
    reading.follow()
    with pytest.raises(MissingEvidenceError, match=f"in the {len(WHOLE)} bytes"):
        b"".join(reading.read(len(WHOLE) - 2, 3))
    with pytest.raises(MissingEvidenceError):
        b"".join(reading.read(len(WHOLE), 1))


# --- answers, altered ---


def test_changed_answers_are_refused_or_change_nothing(store: SqlStore) -> None:
    """Two thousand altered answers to four kinds of requests: an error of ours, or the very same lesson."""
    peer, random = Peer("peer", BLOCKS), Random(11)
    reading = reader(store, Peer("old", BLOCKS[:33]))
    reading.follow()
    with store.read() as tx:
        feed = sparse_feed(tx.connection, KEY)
        assert feed is not None
        byte = ask_byte(feed, 40)
        requests = [ask_block(feed, 9), ask_node(feed, 17), ask_growth(feed), byte]
        assert all(isinstance(request, Request) for request in requests)
        old = Peer("old", BLOCKS[:33])
        for number in range(2000):
            request = requests[number % 4]
            assert isinstance(request, Request)
            good = (peer if request.upgrade else old).answer(request)
            lesson = judge_answer(MANIFEST, feed, request, good)
            changed = bytearray(good)
            for _ in range(random.choice((1, 1, 2))):
                changed[random.randrange(len(changed))] ^= random.randrange(1, 256)
            try:
                learned = judge_answer(MANIFEST, feed, request, bytes(changed))
            except (MalformedError, VerificationError, MissingEvidenceError):
                continue
            assert (learned.nodes, learned.block, learned.head) == (lesson.nodes, lesson.block, lesson.head)


def test_an_answer_to_another_request_is_refused(store: SqlStore) -> None:
    reading = reader(store, Peer("peer", BLOCKS))
    reading.follow()
    peer = Peer("peer", BLOCKS)
    with store.read() as tx:
        feed = sparse_feed(tx.connection, KEY)
        assert feed is not None
        nine, ten = ask_block(feed, 9), ask_block(feed, 10)
        assert nine is not None
        assert ten is not None
        with pytest.raises(VerificationError, match="asked was"):
            judge_answer(MANIFEST, feed, nine, peer.answer(ten))
        byte = ask_byte(feed, 40)
        assert isinstance(byte, Request)
        assert byte.seek is not None
        other = replace(byte, seek=byte.seek._replace(offset=41))
        with pytest.raises(VerificationError, match="byte 41"):
            judge_answer(MANIFEST, feed, byte, peer.answer(other))
        assert parse_proof(peer.answer(byte)).seek is not None


# --- what is held ---


def test_what_is_not_held_is_not_read(store: SqlStore) -> None:
    reading = reader(store, Peer("peer", BLOCKS))
    reading.follow()
    reading.fetch_blocks(9, 10)
    with store.read() as tx:
        feed = sparse_feed(tx.connection, KEY)
        assert feed is not None
        begin = sum(map(len, BLOCKS[:9]))
        assert b"".join(read_bytes(feed, begin, len(BLOCKS[9]))) == BLOCKS[9]
        for offset, length in ((begin, len(BLOCKS[9]) + 1), (begin - 1, 1), (0, 1), (-1, 1), (0, -1)):
            with pytest.raises(MissingEvidenceError):
                b"".join(read_bytes(feed, offset, length))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE sparse_node SET hash = zeroblob(32) WHERE node = 18",
        "UPDATE sparse_node SET size = size + 1 WHERE node = 18",
        "UPDATE sparse_node SET node = node + 100000 WHERE node = 18",
        "DELETE FROM sparse_node WHERE node = 16",
        "DELETE FROM sparse_node WHERE node = 31",
        "UPDATE sparse_block SET data = x'00' WHERE idx = 9",
        "UPDATE sparse_block SET idx = 8 WHERE idx = 9",
        "UPDATE sparse_head SET tree_hash = zeroblob(32)",
        "UPDATE sparse_head SET signature = zeroblob(68)",
        "UPDATE sparse_head SET length = 60",
        "DELETE FROM sparse_head",
        "UPDATE sparse_feed SET length = 60",
        "UPDATE sparse_feed SET manifest = x'00'",
        "UPDATE sparse_feed SET key = zeroblob(32)",
    ],
)
def test_an_altered_row_is_found(
    tmp_path: Path, new_sqlite: NewStore, tamper: Callable[[Path, str], None], statement: str
) -> None:
    path = tmp_path / "store.db"
    opened = new_sqlite(path)
    reading = reader(opened, Peer("peer", BLOCKS))
    reading.follow()
    reading.fetch_blocks(9, 10)
    opened.close()
    tamper(path, statement)
    opened = open_sqlite(path)
    try:
        with opened.read() as tx:
            try:
                faults = [fault for feed in sparse_feeds(tx.connection) for fault in sparse_faults(feed)]
            except (DamagedFile, MalformedError, RootMismatch) as exc:
                faults = [str(exc)]
        assert faults
    finally:
        opened.close()


def test_history_of_a_feed_held_in_part_cannot_be_changed(store: SqlStore) -> None:
    reading = reader(store, Peer("peer", BLOCKS))
    reading.follow()
    reading.fetch_blocks(9, 10)
    for statement in (
        "UPDATE sparse_node SET size = 1",
        "DELETE FROM sparse_block",
        "DELETE FROM sparse_head",
        "UPDATE sparse_feed SET length = 3",
        "DELETE FROM sparse_feed",
    ):
        with pytest.raises(AuditError), store.write() as tx:
            tx.connection.exec_driver_sql(statement)
    assert held(store) == (61, [9])

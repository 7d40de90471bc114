"""Feeds: what may be appended, by whom, and that a signature and a stored head are one and the same thing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from identity.errors import (
    ConflictError,
    DamagedFile,
    LimitExceeded,
    MalformedError,
    MissingEvidenceError,
    RefusedError,
    SignatureMismatch,
    StorageError,
)
from identity.keys import Ed25519Signer
from ledger import feed
from ledger.feed import FeedWriter, append, block_proof, check_tail, create_feed, head_covering
from ledger.head import verify_head
from ledger.identities import add_events
from ledger.manifest import (
    Continuation,
    FeedDescription,
    describe,
    device_manifest,
    encode_manifest,
    feed_key,
    parse_manifest,
)
from ledger.merkle import EMPTY_TREE_HASH, TreeBuilder
from ledger.noderow import pack_nodes
from ledger.proof import parse_evidence_proof
from ledger.proof_checking import verify_proof
from ledger.storage.memory import MemoryStore
from ledger.storage.sqlite import open_sqlite
from ledger.store import FeedKey, SignedHead, Store

STRANGER = Ed25519Signer(b"s" * 32)


# --- creating ---


def test_manifest_says_whose_feed_it_is(known: Store, member: Any) -> None:
    key = create_feed(known, member.device, member.identity, "notes")
    with known.read() as tx:
        state, manifest = check_tail(tx, key)
    assert state.local
    assert not state.retired
    assert (state.length, state.roots) == (0, ())
    assert describe(manifest) == FeedDescription(member.identity, "notes")
    assert manifest.signers[0].public_key == member.device.public_key


def test_feed_exists_once(known: Store, member: Any) -> None:
    create_feed(known, member.device, member.identity, "notes")
    with pytest.raises(ConflictError):
        create_feed(known, member.device, member.identity, "notes")


def test_identity_is_not_known(member: Any) -> None:
    with pytest.raises(MissingEvidenceError):
        create_feed(MemoryStore(), member.device, member.identity, "notes")


@pytest.mark.parametrize("name", ["", "a" * 300, "a\nb", "\0"])
def test_name_that_cannot_be(known: Store, member: Any, name: str) -> None:
    with pytest.raises(MalformedError):
        create_feed(known, member.device, member.identity, name)


def test_stranger(known: Store, member: Any) -> None:
    with pytest.raises(RefusedError, match="is not a device"):
        create_feed(known, STRANGER, member.identity, "notes")


def test_root_key_is_not_a_device(known: Store, member: Any) -> None:
    with pytest.raises(RefusedError, match="is not a device"):
        create_feed(known, member.root, member.identity, "notes")


def test_revoked_device_and_closed_identity(known: Store, member: Any) -> None:
    with known.write() as tx:
        add_events(tx, member.identity, [member.revocation()])
    with pytest.raises(RefusedError, match="is revoked"):
        create_feed(known, member.device, member.identity, "notes")
    closed = MemoryStore()
    with closed.write() as tx:
        add_events(tx, member.identity, [*member.events, member.closing()])
    with pytest.raises(RefusedError, match="is closed"):
        create_feed(closed, member.device, member.identity, "notes")


# --- continuing ---


def test_continuation_retires_what_it_continues(known: Store, member: Any, fill_feed: Any) -> None:
    old = fill_feed(known, member, [[b"a"], [b"b", b"c"]])
    with known.read() as tx:
        head = head_covering(tx, old, 2)
    new = create_feed(known, member.device, member.identity, "notes", Continuation(old, 3, head.tree_hash))
    with known.read() as tx:
        assert [(state.key, state.retired) for state in tx.feeds()] == [(old, True), (new, False)]
    with pytest.raises(RefusedError, match="is retired"):
        append(known, old, member.device, [b"d"])
    assert append(known, new, member.device, [b"d"]).length == 1


def test_empty_feed_can_be_continued(known: Store, member: Any) -> None:
    old = create_feed(known, member.device, member.identity, "notes")
    create_feed(known, member.device, member.identity, "notes", Continuation(old, 0, EMPTY_TREE_HASH))


@pytest.mark.parametrize(
    ("length", "tree"), [(0, b"0" * 32), (1, EMPTY_TREE_HASH), (2, None), (3, b"0" * 32), (4, None), (2**50, None)]
)
def test_continuation_of_what_was_never_signed(
    known: Store, member: Any, fill_feed: Any, length: int, tree: bytes | None
) -> None:
    old = fill_feed(known, member, [[b"a"], [b"b", b"c"]])
    with known.read() as tx:
        newest = head_covering(tx, old, 2).tree_hash
    with pytest.raises(RefusedError, match="no signed head"):
        create_feed(known, member.device, member.identity, "notes", Continuation(old, length, tree or newest))
    with known.read() as tx:
        assert [state.retired for state in tx.feeds()] == [False]


def test_continuation_of_an_unknown_feed(known: Store, member: Any) -> None:
    with pytest.raises(MissingEvidenceError):
        create_feed(known, member.device, member.identity, "notes", Continuation(FeedKey(bytes(32)), 0, bytes(32)))


def test_two_continuations_would_be_a_fork(known: Store, member: Any) -> None:
    old = create_feed(known, member.device, member.identity, "notes")
    create_feed(known, member.device, member.identity, "first", Continuation(old, 0, EMPTY_TREE_HASH))
    with pytest.raises(RefusedError, match="continues"):
        create_feed(known, member.device, member.identity, "second", Continuation(old, 0, EMPTY_TREE_HASH))


def test_continuation_of_another_identity(known: Store, member: Any, new_member: Any) -> None:
    other = new_member(7)
    with known.write() as tx:
        add_events(tx, other.identity, other.events)
    theirs = create_feed(known, other.device, other.identity, "notes")
    with pytest.raises(RefusedError, match="is not of identity"):
        create_feed(known, member.device, member.identity, "notes", Continuation(theirs, 0, EMPTY_TREE_HASH))


# --- appending ---


def test_one_signature_covers_a_batch(known: Store, member: Any) -> None:
    key = create_feed(known, member.device, member.identity, "notes")
    writer = FeedWriter(known, key, member.device)
    first, second = writer.append([b"a"]), writer.append([b"b", b"", b"d"])
    assert [(one.start, one.length) for one in (first, second)] == [(0, 1), (1, 4)]
    with known.read() as tx:
        assert list(tx.blocks(key, 0, 4)) == [b"a", b"b", b"", b"d"]
        assert list(tx.heads(key)) == [first.head, second.head]
        assert [head_covering(tx, key, index) for index in range(4)] == [first.head] + [second.head] * 3
        state, manifest = check_tail(tx, key)
    for head in (first.head, second.head):
        verify_head(manifest, head.tree_hash, head.length, 0, head.signature)
    assert TreeBuilder(state.roots, 4).tree_hash() == second.head.tree_hash


@pytest.mark.parametrize("index", [3, -(2**80), 2**80])
def test_no_head_covers_what_is_not_there(known: Store, member: Any, fill_feed: Any, index: int) -> None:
    key = fill_feed(known, member, [[b"a", b"b", b"c"]])
    with known.read() as tx:
        if index < 0:
            assert head_covering(tx, key, index).length == 3
        else:
            with pytest.raises(MissingEvidenceError):
                head_covering(tx, key, index)


def test_only_the_feeds_own_key_signs(known: Store, member: Any, fill_feed: Any) -> None:
    key = fill_feed(known, member, [])
    for other in (STRANGER, member.root):
        with pytest.raises(RefusedError, match="is not the key"):
            append(known, key, other, [b"x"])


def test_feed_that_is_not_written_here(known: Store, member: Any) -> None:
    manifest = device_manifest(member.device.public_key, FeedDescription(member.identity, "elsewhere"))
    key = feed_key(manifest)
    with known.write() as tx:
        tx.create_feed(key, encode_manifest(manifest), local=False)
    with pytest.raises(RefusedError, match="is not written here"):
        append(known, key, member.device, [b"x"])


def test_unknown_feed(known: Store, member: Any) -> None:
    with pytest.raises(MissingEvidenceError):
        append(known, FeedKey(bytes(32)), member.device, [b"x"])


def test_feed_retired_between_two_appends(known: Store, member: Any, fill_feed: Any) -> None:
    key = fill_feed(known, member, [])
    writer = FeedWriter(known, key, member.device)
    writer.append([b"a"])
    with known.write() as tx:
        tx.retire_feed(key)
    with pytest.raises(RefusedError, match="is retired"):
        writer.append([b"b"])


def test_limits_of_an_append(known: Store, member: Any, fill_feed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    key = fill_feed(known, member, [])
    writer = FeedWriter(known, key, member.device)
    writer.append([bytes(feed.MAX_BLOCK_BYTES)])
    with pytest.raises(RefusedError, match="at least one block"):
        writer.append([])
    with pytest.raises(LimitExceeded, match="a block of"):
        writer.append([b"small", bytes(feed.MAX_BLOCK_BYTES + 1)])
    with pytest.raises(LimitExceeded, match="blocks"):
        writer.append([b""] * (feed.MAX_BATCH_BLOCKS + 1))
    monkeypatch.setattr(feed, "MAX_BATCH_BYTES", 100)
    assert writer.append([bytes(50), bytes(50)]).length == 3
    with pytest.raises(LimitExceeded, match="bytes"):
        writer.append([bytes(50), bytes(51)])
    with known.read() as tx:
        assert check_tail(tx, key)[0].length == 3


def test_two_writers_of_one_feed_take_turns(known: Store, member: Any, fill_feed: Any) -> None:
    key = fill_feed(known, member, [])
    writers = [FeedWriter(known, key, member.device) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda number: writers[number % 3].append([b"%d" % number]), range(30)))
    assert sorted(result.start for result in results) == list(range(30))
    with known.read() as tx:
        assert {head.length: head for head in tx.heads(key)} == {one.length: one.head for one in results}


class Broken:
    """A signer whose device returns something else than what it should."""

    def __init__(self, signer: Ed25519Signer, answer: bytes) -> None:
        self.public_key = signer.public_key
        self._answer = answer

    def sign(self, message: bytes) -> bytes:
        return self._answer


@pytest.mark.parametrize("answer", [b"", bytes(64), bytes(63), STRANGER.sign(b"something")])
def test_signature_from_elsewhere_is_verified_before_it_is_kept(
    known: Store, member: Any, fill_feed: Any, answer: bytes
) -> None:
    key = fill_feed(known, member, [])
    with pytest.raises((SignatureMismatch, MalformedError)):
        append(known, key, Broken(member.device, answer), [b"x"])
    with known.read() as tx:
        assert check_tail(tx, key)[0].length == 0


class Spy:
    """Signs, and remembers what: a signature that was made is one that could get out."""

    def __init__(self, signer: Ed25519Signer) -> None:
        self.public_key = signer.public_key
        self.signed: list[bytes] = []
        self._signer = signer

    def sign(self, message: bytes) -> bytes:
        self.signed.append(message)
        return self._signer.sign(message)


def test_nothing_is_signed_before_the_batch_is_accepted(known: Store, member: Any, fill_feed: Any) -> None:
    key = fill_feed(known, member, [])
    spy = Spy(member.device)
    writer = FeedWriter(known, key, spy)
    with pytest.raises(RefusedError):
        writer.append([])
    assert spy.signed == []
    writer.append([b"x"])
    assert len(spy.signed) == 1


def test_append_within_a_transaction_that_is_rolled_back(known: Store, member: Any, fill_feed: Any) -> None:
    key = fill_feed(known, member, [[b"a"]])
    writer = FeedWriter(known, key, member.device)

    def stage_and_fail() -> None:
        with known.write() as tx:
            assert writer.append_in(tx, [b"lost"]).length == 2
            raise ConflictError("a condition was lost")

    with pytest.raises(ConflictError):
        stage_and_fail()
    assert writer.append([b"kept"]).length == 2
    with known.read() as tx:
        assert list(tx.blocks(key, 0, 2)) == [b"a", b"kept"]


def test_commit_that_fails_hands_nothing_out(tmp_path: Path, member: Any, fill_feed: Any, new_sqlite: Any) -> None:
    store = new_sqlite(tmp_path / "full.db")
    key = fill_feed(store, member, [[b"a"]])
    writer = FeedWriter(store, key, member.device)
    with store.write() as tx:
        pages = tx.connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        tx.connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageError, match="full"):
        writer.append([bytes(200_000)])
    assert writer.append([b"b"]).length == 2


# --- the end of a feed ---


def state_of(store: Store, key: FeedKey) -> Any:
    with store.read() as tx:
        return check_tail(tx, key)


POS = 1 << 40


@pytest.mark.parametrize(
    "statement",
    [
        f"DELETE FROM block WHERE pos = {POS + 4}",
        f"DELETE FROM tree WHERE pos = {POS + 4}",
        f"DELETE FROM head WHERE pos = {POS + 5}",
        f"UPDATE block SET data = x'00' WHERE pos = {POS + 4}",
        f"UPDATE tree SET nodes = zeroblob(40) WHERE pos = {POS + 4}",
        f"UPDATE head SET tree_hash = zeroblob(32) WHERE pos = {POS + 5}",
        f"UPDATE head SET signature = zeroblob(68) WHERE pos = {POS + 5}",
        f"INSERT INTO head SELECT {POS + 6}, tree_hash, signature FROM head WHERE pos = {POS + 5}",
        f"UPDATE head SET pos = {POS + 6} WHERE pos = {POS + 5}",
        "UPDATE feed SET roots = zeroblob(80)",
        "UPDATE feed SET length = 3, roots = zeroblob(80)",
        "UPDATE feed SET length = 0, roots = x''",
        "UPDATE feed SET manifest = x'00'",
        "UPDATE feed SET key = zeroblob(32)",
    ],
)
def test_tail_that_was_tampered_with(
    tmp_path: Path, member: Any, fill_feed: Any, tamper: Any, statement: str, new_sqlite: Any
) -> None:
    store = new_sqlite(tmp_path / "store.db")
    key = fill_feed(store, member, [[b"a", b"b", b"c"], [b"d", b"e"]])
    store.close()
    tamper(tmp_path / "store.db", statement)
    store = open_sqlite(tmp_path / "store.db")
    with pytest.raises((DamagedFile, SignatureMismatch, MissingEvidenceError, MalformedError)):
        FeedWriter(store, key, member.device)
    with pytest.raises((DamagedFile, SignatureMismatch, MissingEvidenceError, MalformedError)):
        state_of(store, key)


def test_manifest_of_another_feed(tmp_path: Path, member: Any, fill_feed: Any, tamper: Any, new_sqlite: Any) -> None:
    store = new_sqlite(tmp_path / "store.db")
    key = fill_feed(store, member, [])
    store.close()
    other = encode_manifest(device_manifest(member.device.public_key, FeedDescription(member.identity, "other")))
    tamper(tmp_path / "store.db", f"UPDATE feed SET manifest = x'{other.hex()}'")
    with pytest.raises(DamagedFile, match="another feed's"):
        state_of(open_sqlite(tmp_path / "store.db"), key)


# --- proofs ---


def test_proofs_of_every_block_at_every_length(known: Store, member: Any, fill_feed: Any) -> None:
    key = fill_feed(known, member, [[b"a"], [b"b", b"c", b"d"], [b"e", b"f", b"g"]])
    with known.read() as tx:
        manifest = parse_manifest(tx.feeds()[0].manifest)
        blocks = list(tx.blocks(key, 0, 7))
        hashes = {head.length: head.tree_hash for head in tx.heads(key)}
        for head_length in (1, 4, 7):
            for length in range(1, head_length + 1):
                for index in range(length):
                    data = block_proof(tx, key, index, length=length, head_length=head_length)
                    proven = verify_proof(manifest, parse_evidence_proof(data))
                    assert (proven.index, proven.block) == (index, blocks[index])
                    assert proven.trees[head_length] == hashes[head_length] == proven.head.tree_hash
                    assert length in proven.trees


@pytest.mark.parametrize(("index", "length", "head_length"), [(0, 1, 2), (4, 4, 4), (0, 5, 4), (0, 1, 9)])
def test_proof_that_cannot_be_made(
    known: Store, member: Any, fill_feed: Any, index: int, length: int, head_length: int
) -> None:
    key = fill_feed(known, member, [[b"a"], [b"b", b"c", b"d"]])
    with known.read() as tx, pytest.raises(MissingEvidenceError):
        block_proof(tx, key, index, length=length, head_length=head_length)


# --- any sequence of appends ---


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(st.binary(max_size=30), min_size=1, max_size=9), max_size=6))
def test_feed_is_a_list_with_signed_heads(member: Any, fill_feed: Any, batches: list[list[bytes]]) -> None:
    store, tree = MemoryStore(), TreeBuilder()
    key = fill_feed(store, member, batches)
    with store.read() as tx:
        state, manifest = check_tail(tx, key)
        heads = list(tx.heads(key))
        for batch, head in zip(batches, heads, strict=True):
            start = tree.length
            rows = [pack_nodes(nodes) for nodes in tree.append_many(batch)]
            assert list(tx.tree_rows(key, start, tree.length)) == rows
            assert head == SignedHead(tree.length, tree.tree_hash(), head.signature)
            verify_head(manifest, head.tree_hash, head.length, 0, head.signature)
        assert list(tx.blocks(key, 0, state.length)) == [block for batch in batches for block in batch]

"""The contract of ``ledger.store``, run against every engine: what one of them does, all of them do."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from identity.errors import ConflictError, MissingEvidenceError, StorageError
from ledger.flattree import right_leaf
from ledger.log import hash_leaf, root_at
from ledger.merkle import EMPTY_TREE_HASH, Node, TreeBuilder, leaf_node, tree_hash
from ledger.noderow import pack_nodes
from ledger.storage.memory import MemoryStore
from ledger.store import (
    FeedKey,
    FeedState,
    LogState,
    SignedHead,
    Store,
    StoredCheckpoint,
    StoredEvent,
    WriteTransaction,
)

MANIFEST = b"a manifest"
OTHER = FeedKey(b"o" * 32)


def with_feed(store: Store, key: FeedKey, grow: Any, *batches: list[bytes]) -> FeedState:
    with store.write() as tx:
        state = tx.create_feed(key, MANIFEST, local=True)
    for batch in batches:
        with store.write() as tx:
            state = grow(tx, state, batch)
    return state


# --- feeds ---


def test_new_feed_is_empty(store: Store, key: FeedKey) -> None:
    with store.write() as tx:
        created = tx.create_feed(key, MANIFEST, local=True)
    with store.read() as tx:
        assert tx.feed(key) == created == FeedState(key, MANIFEST, 0, 0, (), True)
        assert list(tx.heads(key)) == []
        assert tx.head(key, 0) is None
        assert list(tx.blocks(key, 0, 0)) == []


def test_feeds_come_in_the_order_of_creation(store: Store, key: FeedKey) -> None:
    with store.write() as tx:
        tx.create_feed(OTHER, MANIFEST, local=False)
        tx.create_feed(key, MANIFEST, local=True)
    with store.read() as tx:
        assert [(feed.key, feed.local) for feed in tx.feeds()] == [(OTHER, False), (key, True)]


def test_feed_is_created_once(store: Store, key: FeedKey) -> None:
    with_feed(store, key, None)
    with pytest.raises(ConflictError), store.write() as tx:
        tx.create_feed(key, MANIFEST, local=False)


@pytest.mark.parametrize("batches", [[1], [1, 1, 1], [3, 4], [7], [8], [9, 1], [100, 1, 27]])
def test_what_was_appended_is_read_back(store: Store, key: FeedKey, grow: Any, batches: list[int]) -> None:
    blocks = [b"block %d" % index * (index % 5) for index in range(sum(batches))]
    cut = [sum(batches[:n]) for n in range(len(batches) + 1)]
    state = with_feed(store, key, grow, *(blocks[a:b] for a, b in pairwise(cut)))
    tree = TreeBuilder()
    rows = tree.append_many(blocks)
    with store.read() as tx:
        assert tx.feed(key) == state
        assert state.roots == tree.roots
        assert state.byte_length == sum(map(len, blocks))
        assert list(tx.blocks(key, 0, len(blocks))) == blocks
        assert [tx.block(key, index) for index in range(len(blocks))] == blocks
        assert list(tx.tree_rows(key, 0, len(blocks))) == [pack_nodes(row) for row in rows]
        for row in rows:
            assert [tx.node(key, node.index) for node in row] == list(row)
        heads = list(tx.heads(key))
        assert [head.length for head in heads] == cut[1:]
        assert heads[-1].tree_hash == tree_hash(tree.roots)
        assert [tx.head(key, head.length) for head in heads] == heads


def test_ranges_start_and_stop_anywhere(store: Store, key: FeedKey, grow: Any) -> None:
    blocks = [b"%d" % index for index in range(3000)]
    with_feed(store, key, grow, blocks)
    with store.read() as tx:
        assert list(tx.blocks(key, 1000, 2500)) == blocks[1000:2500]
        leaves = [pack_nodes([leaf_node(index, blocks[index])]) for index in range(5, 8)]
        assert [row[:40] for row in tx.tree_rows(key, 5, 8)] == leaves
        assert list(tx.blocks(key, 7, 7)) == list(tx.blocks(key, 9, 7)) == []


@pytest.mark.parametrize("index", [-1, 5, 6, 2**40 - 1, 2**40, 2**63, 2**200, -(2**70)])
def test_block_that_is_not_there(store: Store, key: FeedKey, grow: Any, index: int) -> None:
    with_feed(store, key, grow, [b"x"] * 5)
    with_feed(store, OTHER, grow, [b"y"] * 9)
    with store.read() as tx:
        for wrong in (lambda: tx.block(key, index), lambda: list(tx.blocks(key, index, index + 1))):
            with pytest.raises(MissingEvidenceError):
                wrong()
        with pytest.raises(MissingEvidenceError):
            list(tx.tree_rows(key, index, index + 1))


@pytest.mark.parametrize("index", [-1, 7, 9, 10, 15, 2**41, 2**64, 2**200 - 1])
def test_node_that_is_not_complete(store: Store, key: FeedKey, grow: Any, index: int) -> None:
    with_feed(store, key, grow, [b"x"] * 5)
    assert index < 0 or right_leaf(index) >= 5
    with store.read() as tx, pytest.raises(MissingEvidenceError):
        tx.node(key, index)


def test_range_that_runs_out_gives_what_is_there_first(store: Store, key: FeedKey, grow: Any) -> None:
    with_feed(store, key, grow, [b"a", b"b"])
    with store.read() as tx:
        blocks = tx.blocks(key, 0, 3)
        assert [next(blocks), next(blocks)] == [b"a", b"b"]
        with pytest.raises(MissingEvidenceError):
            next(blocks)


def test_unknown_feed(store: Store, key: FeedKey) -> None:
    with store.read() as tx:
        assert tx.feed(key) is None
        assert tx.feeds() == []
        assert list(tx.heads(key)) == []
        assert tx.head(key, 1) is None
        for wrong in (lambda: tx.block(key, 0), lambda: tx.node(key, 0), lambda: list(tx.blocks(key, 0, 1))):
            with pytest.raises(MissingEvidenceError):
                wrong()
    with pytest.raises(MissingEvidenceError), store.write() as tx:
        tx.retire_feed(key)


def test_heads_above(store: Store, key: FeedKey, grow: Any) -> None:
    with_feed(store, OTHER, grow, [b"first"])
    with_feed(store, key, grow, [b"a"] * 3, [b"b"] * 2, [b"c"])
    with_feed(store, FeedKey(b"z" * 32), grow, [b"last"])
    with store.read() as tx:
        assert [head.length for head in tx.heads(key)] == [3, 5, 6]
        assert [head.length for head in tx.heads(key, 3)] == [5, 6]
        assert list(tx.heads(key, 6)) == list(tx.heads(key, 2**80)) == []
        assert [head.length for head in tx.heads(key, -4)] == [3, 5, 6]
        assert tx.head(key, 4) is None
        assert tx.head(key, -1) is None
        assert tx.head(key, 2**80) is None


def test_append_to_a_feed_that_moved_meanwhile(store: Store, key: FeedKey, grow: Any) -> None:
    stale = with_feed(store, key, grow)
    with store.write() as tx:
        moved = grow(tx, stale, [b"first"])
    with pytest.raises(ConflictError), store.write() as tx:
        grow(tx, stale, [b"second"])
    with store.read() as tx:
        assert tx.feed(key) == moved
        assert list(tx.blocks(key, 0, 1)) == [b"first"]


def test_append_with_other_roots_is_a_conflict(store: Store, key: FeedKey, grow: Any) -> None:
    state = with_feed(store, key, grow, [b"first"])
    other = FeedState(key, MANIFEST, 1, 1, (leaf_node(0, b"?"),), True)
    with pytest.raises(ConflictError), store.write() as tx:
        grow(tx, other, [b"second"])
    with store.read() as tx:
        assert tx.feed(key) == state


def test_append_to_a_feed_that_is_not_there(store: Store, key: FeedKey, grow: Any) -> None:
    with pytest.raises(ConflictError), store.write() as tx:
        grow(tx, FeedState(key, MANIFEST, 0, 0, (), True), [b"x"])


Change = Callable[[list[bytes], list[tuple[Node, ...]], SignedHead, list[Node]], tuple[Any, Any, Any, Any]]


@pytest.mark.parametrize(
    "change",
    [
        lambda blocks, nodes, head, roots: ([], [], head, roots),
        lambda blocks, nodes, head, roots: (blocks[1:], nodes, head, roots),
        lambda blocks, nodes, head, roots: (blocks, nodes[1:], head, roots),
        lambda blocks, nodes, head, roots: (blocks, [*nodes[:-1], nodes[-1][:1]], head, roots),
        lambda blocks, nodes, head, roots: (blocks, [nodes[-1], *nodes[:-1]], head, roots),
        lambda blocks, nodes, head, roots: (blocks, nodes, SignedHead(1, head.tree_hash, b"s"), roots),
        lambda blocks, nodes, head, roots: (blocks, nodes, head, roots * 2),
        lambda blocks, nodes, head, roots: (blocks, nodes, head, []),
    ],
)
def test_append_that_does_not_fit_together(store: Store, key: FeedKey, change: Change) -> None:
    state = with_feed(store, key, None)
    blocks, tree = [b"a", b"b"], TreeBuilder()
    nodes = tree.append_many(blocks)
    arguments = change(blocks, nodes, SignedHead(2, tree.tree_hash(), b"s"), list(tree.roots))
    with pytest.raises(ValueError, match="an append"), store.write() as tx:
        tx.append(state, *arguments)
    with store.read() as tx:
        assert tx.feed(key) == state


def test_retired_feed_says_so_and_still_grows(store: Store, key: FeedKey, grow: Any) -> None:
    with_feed(store, key, grow, [b"x"])
    for _ in range(2):
        with store.write() as tx:
            tx.retire_feed(key)
    with store.write() as tx:
        state = tx.feed(key)
        assert state is not None
        assert state.retired
        assert grow(tx, state, [b"held by others"]).retired


def test_feed_that_was_rolled_back_and_came_again(store: Store, key: FeedKey, grow: Any) -> None:
    """What was learnt of it in the transaction that was lost must not be used: its place went to another feed."""

    def create_and_fail() -> None:
        with store.write() as tx:
            tx.create_feed(key, MANIFEST, local=True)
            assert tx.feed(key) is not None
            raise ConflictError("lost")

    with pytest.raises(ConflictError):
        create_and_fail()
    with_feed(store, OTHER, grow, [b"other"])
    with store.write() as tx:
        grow(tx, tx.create_feed(key, MANIFEST, local=True), [b"mine"])
    with store.read() as reading:
        assert list(reading.blocks(key, 0, 1)) == [b"mine"]
        assert list(reading.blocks(OTHER, 0, 1)) == [b"other"]
        assert reading.node(key, 0) == leaf_node(0, b"mine")


# --- transactions ---


# --- savepoints ---


def undo(tx: WriteTransaction, write: Callable[[], object]) -> None:
    """Write within a savepoint that an exception leaves."""
    with pytest.raises(ConflictError, match="undone"), tx.savepoint():
        write()
        raise ConflictError("undone")


def test_savepoint_that_is_left_normally_changes_nothing(store: Store, key: FeedKey, grow: Any) -> None:
    state = with_feed(store, key, grow)
    with store.write() as tx, tx.savepoint(), tx.savepoint():
        moved = grow(tx, state, [b"kept"])
    with store.read() as tx:
        assert tx.feed(key) == moved
        assert list(tx.blocks(key, 0, 1)) == [b"kept"]


def test_exception_undoes_a_savepoint_and_the_transaction_goes_on(
    store: Store, key: FeedKey, grow: Any, grow_log: Any
) -> None:
    state = with_feed(store, key, grow, [b"before"])
    with store.write() as tx:
        state = grow(tx, state, [b"outside"])
        log = grow_log(tx, None, [b"descriptor"])

        def write() -> None:
            grow(tx, state, [b"lost", b"lost"])
            tx.create_feed(OTHER, MANIFEST, local=True)
            tx.retire_feed(key)
            grow_log(tx, log, [b"lost"])
            tx.add_checkpoint(StoredCheckpoint(2, b"r" * 32, "lost"))
            tx.add_identity_event(StoredEvent(b"i" * 32, 0, b"d" * 32, b"lost"))

        undo(tx, write)
        assert (tx.feed(key), tx.feed(OTHER), tx.log(), tx.checkpoint(2)) == (state, None, log, None)
        assert tx.identities() == []
        state = grow(tx, state, [b"after"])
    with store.read() as tx:
        assert tx.feeds() == [state]
        assert list(tx.blocks(key, 0, 3)) == [b"before", b"outside", b"after"]
        assert [head.length for head in tx.heads(key)] == [1, 2, 3]
        assert tx.log() == log


def test_savepoints_nest(store: Store, key: FeedKey, grow: Any) -> None:
    with_feed(store, key, grow)
    with store.write() as tx:
        with tx.savepoint():
            undo(tx, lambda: tx.create_feed(OTHER, MANIFEST, local=True))
            grow(tx, tx.feed(key), [b"kept"])
            with tx.savepoint():
                grow(tx, tx.feed(key), [b"kept too"])
        undo(tx, lambda: (grow(tx, tx.feed(key), [b"lost"]), undo(tx, lambda: grow(tx, tx.feed(key), [b"lost"]))))
    with store.read() as tx:
        assert list(tx.blocks(key, 0, 2)) == [b"kept", b"kept too"]
        assert tx.feed(OTHER) is None


def test_feed_made_in_a_savepoint_that_was_undone_and_made_again(store: Store, key: FeedKey, grow: Any) -> None:
    with store.write() as tx:
        undo(tx, lambda: grow(tx, tx.create_feed(key, MANIFEST, local=True), [b"lost"]))
        grow(tx, tx.create_feed(OTHER, MANIFEST, local=True), [b"other"])
        grow(tx, tx.create_feed(key, MANIFEST, local=True), [b"kept"])
    with store.read() as tx:
        assert [list(tx.blocks(one, 0, 1)) for one in (OTHER, key)] == [[b"other"], [b"kept"]]


def test_reading_goes_on_across_a_savepoint_that_was_undone(store: Store, key: FeedKey, grow: Any) -> None:
    blocks = [b"%d" % index for index in range(5000)]
    state = with_feed(store, key, grow, blocks)
    with store.write() as tx:
        reading = tx.blocks(key, 0, 5000)
        first = next(reading)
        undo(tx, lambda: (grow(tx, state, [b"lost"]), next(tx.blocks(key, 0, 5000))))
        assert [first, *reading] == blocks


def test_savepoint_in_a_transaction_that_fails(store: Store, key: FeedKey, grow: Any) -> None:
    def write_and_fail() -> None:
        with store.write() as tx, tx.savepoint():
            tx.create_feed(key, MANIFEST, local=True)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    with store.read() as tx:
        assert tx.feeds() == []


def test_fence_changes_nothing(store: Store, key: FeedKey, grow: Any) -> None:
    state = with_feed(store, key, grow, [b"kept"])
    with store.write() as tx:
        tx.fence()
        tx.fence()
    with store.read() as tx:
        assert tx.feeds() == [state]
        assert list(tx.heads(key, 0)) == [tx.head(key, 1)]


def test_exception_rolls_everything_back(store: Store, key: FeedKey, grow: Any, grow_log: Any) -> None:
    state = with_feed(store, key, grow, [b"kept"])
    with store.write() as tx:
        log = grow_log(tx, None, [b"descriptor"])

    def write_and_fail() -> None:
        with store.write() as tx:
            grow(tx, state, [b"lost", b"lost"])
            tx.create_feed(OTHER, MANIFEST, local=True)
            grow_log(tx, log, [b"lost"])
            tx.add_checkpoint(StoredCheckpoint(2, b"r" * 32, "lost"))
            tx.add_identity_event(StoredEvent(b"i" * 32, 0, b"d" * 32, b"lost"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    with store.read() as reading:
        assert reading.feeds() == [state]
        assert list(reading.blocks(key, 0, 1)) == [b"kept"]
        assert [head.length for head in reading.heads(key)] == [1]
        assert reading.log() == log
        assert list(reading.checkpoints()) == []
        assert reading.identities() == []
    with store.write() as tx:
        grow(tx, state, [b"after"])
    with store.read() as reading:
        assert reading.block(key, 1) == b"after"


def test_writer_sees_what_it_wrote(store: Store, key: FeedKey, grow: Any, grow_log: Any) -> None:
    with store.write() as tx:
        state = grow(tx, tx.create_feed(key, MANIFEST, local=True), [b"a", b"b"])
        assert tx.feed(key) == state
        assert list(tx.blocks(key, 0, 2)) == [b"a", b"b"]
        state = grow(tx, state, [b"c"])
        assert [head.length for head in tx.heads(key)] == [2, 3]
        log = grow_log(tx, None, [b"descriptor"])
        assert tx.log() == log
        assert tx.log_node(0, 0) == hash_leaf(b"descriptor")


def test_reader_does_not_see_what_comes_after_it(store: Store, key: FeedKey, grow: Any, grow_log: Any) -> None:
    state = with_feed(store, key, grow, [b"a"])
    with store.read() as tx:
        with store.write() as writing:
            grow(writing, state, [b"b"])
            writing.create_feed(OTHER, MANIFEST, local=True)
            grow_log(writing, None, [b"descriptor"])
            writing.add_identity_event(StoredEvent(b"i" * 32, 0, b"d" * 32, b"event"))
        assert tx.feeds() == [state]
        assert [head.length for head in tx.heads(key)] == [1]
        with pytest.raises(MissingEvidenceError):
            tx.block(key, 1)
        assert tx.log() is None
        assert tx.identities() == []
    with store.read() as tx:
        assert tx.block(key, 1) == b"b"


def test_write_transactions_do_not_nest(store: Store) -> None:
    with store.write(), pytest.raises(RuntimeError, match="already open"), store.write():
        pass


def test_writers_take_turns(store: Store, key: FeedKey, grow: Any) -> None:
    with_feed(store, key, grow)

    def append(name: int) -> None:
        for number in range(10):
            with store.write() as tx:
                state = tx.feed(key)
                assert state is not None
                grow(tx, state, [b"%d.%d" % (name, number)])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(append, range(4)))
    with store.read() as tx:
        state = tx.feed(key)
        assert state is not None
        assert sorted(tx.blocks(key, 0, state.length)) == sorted(b"%d.%d" % (a, b) for a in range(4) for b in range(10))


def test_closed_store_refuses(store: Store) -> None:
    store.close()
    store.close()
    with pytest.raises(StorageError, match="closed"), store.read():
        pass
    with pytest.raises(StorageError, match="closed"), store.write():
        pass


# --- checkpoint log ---


def test_no_log_yet(store: Store) -> None:
    with store.read() as tx:
        assert tx.log() is None
        assert list(tx.log_leaves(0, 0)) == []
        assert list(tx.checkpoints()) == []
        assert tx.checkpoint(1) is None
        for wrong in (lambda: tx.log_node(0, 0), lambda: list(tx.log_leaves(0, 1))):
            with pytest.raises(MissingEvidenceError):
                wrong()


def test_log_grows(store: Store, grow_log: Any) -> None:
    leaves = [b"leaf %d" % number for number in range(13)]
    state = None
    for start, stop in ((0, 1), (1, 2), (2, 7), (7, 13)):
        with store.write() as tx:
            state = grow_log(tx, state, leaves[start:stop])
    reference = MemoryStore()
    with reference.write() as tx:
        grow_log(tx, None, leaves)
        root = root_at(tx.log_node, 13)
    with store.read() as tx:
        assert tx.log() == state
        assert list(tx.log_leaves(0, 13)) == leaves
        assert list(tx.log_leaves(3, 9)) == leaves[3:9]
        assert root_at(tx.log_node, 13) == root
        assert tx.log_node(0, 5) == hash_leaf(leaves[5])


@pytest.mark.parametrize(("level", "index"), [(0, 5), (1, 2), (2, 1), (3, 0), (0, -1), (-1, 0), (64, 0), (10**9, 0)])
def test_log_node_that_is_not_complete(store: Store, grow_log: Any, level: int, index: int) -> None:
    with store.write() as tx:
        grow_log(tx, None, [b"leaf"] * 5)
    with store.read() as tx, pytest.raises(MissingEvidenceError):
        tx.log_node(level, index)


def test_log_leaves_that_run_out(store: Store, grow_log: Any) -> None:
    with store.write() as tx:
        grow_log(tx, None, [b"a", b"b"])
    with store.read() as tx:
        for start, stop in ((0, 3), (2, 3), (5, 6), (-1, 1)):
            with pytest.raises(MissingEvidenceError):
                list(tx.log_leaves(start, stop))


def test_log_that_moved_meanwhile(store: Store, grow_log: Any) -> None:
    with store.write() as tx:
        first = grow_log(tx, None, [b"descriptor"])
    with store.write() as tx:
        second = grow_log(tx, first, [b"next"])
    for stale in (None, first, LogState(first.log_id, 2, (b"?" * 32,))):
        with pytest.raises(ConflictError), store.write() as tx:
            grow_log(tx, stale, [b"other"])
    with store.read() as tx:
        assert tx.log() == second


def test_log_state_that_the_leaves_do_not_lead_to(store: Store) -> None:
    wrong = LogState(b"i" * 32, 1, (b"?" * 32,))
    for state, leaves in ((wrong, [b"descriptor"]), (wrong, []), (LogState(b"i" * 32, 0, ()), [])):
        with pytest.raises(ValueError, match="do not lead"), store.write() as tx:
            tx.append_leaves(None, state, leaves)
    with store.read() as tx:
        assert tx.log() is None


def test_checkpoints(store: Store) -> None:
    held = [StoredCheckpoint(size, bytes([size]) * 32, f"note {size}\n— sig\n") for size in (2, 5, 9)]
    with store.write() as tx:
        for checkpoint in held:
            tx.add_checkpoint(checkpoint)
            tx.add_checkpoint(checkpoint)
    with store.read() as tx:
        assert list(tx.checkpoints()) == held
        assert list(tx.checkpoints(5)) == held[2:]
        assert tx.checkpoint(5) == held[1]
        assert tx.checkpoint(6) is None
    with pytest.raises(ConflictError), store.write() as tx:
        tx.add_checkpoint(StoredCheckpoint(5, b"?" * 32, "another"))


# --- identities ---


def test_identity_events(store: Store) -> None:
    def event(identity: bytes, seq: int, digest: bytes) -> StoredEvent:
        return StoredEvent(identity * 32, seq, digest * 32, b"signed " + digest)

    alice = [event(b"a", 0, b"0"), event(b"a", 1, b"1"), event(b"a", 1, b"!"), event(b"a", 2, b"2")]
    with store.write() as tx:
        for one in (event(b"b", 0, b"b"), alice[0], alice[3], alice[1], alice[2], alice[1]):
            tx.add_identity_event(one)
    with store.write() as tx:
        tx.add_identity_event(StoredEvent(b"a" * 32, 0, b"0" * 32, b"the same event with other signatures"))
    with store.read() as reading:
        assert reading.identities() == [b"b" * 32, b"a" * 32]
        assert reading.identity_events(b"a" * 32) == alice
        assert reading.identity_events(b"c" * 32) == []


# --- any sequence of appends ---


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=9), min_size=1, max_size=6))
def test_store_behaves_like_a_list(store: Store, grow: Any, batches: list[list[bytes]]) -> None:
    with store.read() as tx:
        key = FeedKey(len(tx.feeds()).to_bytes(32, "big"))
    state = with_feed(store, key, grow, *batches)
    blocks = [block for batch in batches for block in batch]
    with store.read() as tx:
        assert list(tx.blocks(key, 0, len(blocks))) == blocks
        assert state.length == len(blocks)
        assert TreeBuilder(state.roots, state.length).tree_hash() == [*tx.heads(key)][-1].tree_hash != EMPTY_TREE_HASH

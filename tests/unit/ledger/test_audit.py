"""Auditing: a feed that holds passes, and whatever is changed in the database is found and named."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from identity.errors import AuditError, MissingEvidenceError
from ledger import audit
from ledger.audit import BadEntry, BadReason, FeedAudit, Piece, PieceAudit, audit_feed, audit_piece
from ledger.feed import append
from ledger.head import sign_head
from ledger.manifest import FeedDescription, device_manifest, encode_manifest
from ledger.merkle import TreeBuilder
from ledger.noderow import pack_nodes
from ledger.storage.memory import MemoryStore
from ledger.storage.sqlite import open_sqlite
from ledger.store import FeedKey, SignedHead, Store

BATCHES = [[b"zero"], [b"one", b"two", b"three"], [b"four"], [b"five", b"six", b"seven", b"eight"]]
POS = 1 << 40


@pytest.fixture
def path(tmp_path: Path, member: Any, fill_feed: Any, new_sqlite: Any) -> Path:
    """A closed store with a feed of nine blocks under heads of 1, 4, 5 and 9."""
    store = new_sqlite(tmp_path / "audited.db")
    fill_feed(store, member, BATCHES)
    store.close()
    return tmp_path / "audited.db"


@pytest.fixture(params=["in one go", "in pieces"])
def audit_store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FeedAudit]:
    """``audit_feed``, cutting at every head when it cuts; each piece in a snapshot of its own."""
    if request.param == "in one go":
        return audit_feed
    monkeypatch.setattr(audit, "_WORTH_CUTTING", 0)

    def in_pieces(store: Store, key: FeedKey, *watch: Any) -> FeedAudit:
        return audit_feed(
            store, key, *watch, elsewhere=lambda pieces, _: [audit_piece(store, piece) for piece in pieces]
        )

    return in_pieces


@pytest.fixture
def audited(audit_store: Any) -> Callable[[Path], FeedAudit]:
    """The audit of the one feed in a file."""

    def run(path: Path) -> FeedAudit:
        with closing(open_sqlite(path)) as store:
            with store.read() as tx:
                (state,) = tx.feeds()
            result: FeedAudit = audit_store(store, state.key)
            return result

    return run


Audited = Callable[[Path], FeedAudit]


def bad(result: FeedAudit) -> tuple[int, BadReason]:
    assert result.first_bad is not None
    assert result.first_bad.detail
    return result.first_bad.index, result.first_bad.reason


def test_feed_that_holds(known: Store, member: Any, fill_feed: Any, audit_store: Any) -> None:
    key = fill_feed(known, member, BATCHES)
    result = audit_store(known, key)
    assert result == FeedAudit(key, 9, 9, sum(len(block) for batch in BATCHES for block in batch), 4, None)
    assert result.entries_per_signature == 9 / 4


def test_empty_feed(known: Store, member: Any, fill_feed: Any, audit_store: Any) -> None:
    key = fill_feed(known, member, [])
    result = audit_store(known, key)
    assert result == FeedAudit(key, 0, 0, 0, 0, None)
    assert result.entries_per_signature == 0


def test_unknown_feed(known: Store, audit_store: Any) -> None:
    with pytest.raises(MissingEvidenceError):
        audit_store(known, FeedKey(bytes(32)))


def test_progress_and_many_heads(known: Store, member: Any, fill_feed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_CHUNK", 16)
    key = fill_feed(known, member, [*([b"x"] for _ in range(90)), [b"y"] * 70])
    seen: list[tuple[int, int]] = []
    result = audit_feed(known, key, lambda *step: seen.append(step))
    assert (result.entries, result.heads, result.first_bad) == (160, 91, None)
    assert seen == [(16, 160), (32, 160), (48, 160), (64, 160), (80, 160), (160, 160), (160, 160)]


SIGNATURE_OF_NOTHING = "zeroblob(68)"


@pytest.mark.parametrize(
    ("statement", "index", "reason"),
    [
        # blocks
        (f"UPDATE block SET data = x'00' WHERE pos = {POS + 0}", 0, BadReason.BLOCK_DIFFERS),
        (f"UPDATE block SET data = x'00' WHERE pos = {POS + 6}", 6, BadReason.BLOCK_DIFFERS),
        (f"UPDATE block SET data = x'00' WHERE pos >= {POS + 3}", 3, BadReason.BLOCK_DIFFERS),
        (f"UPDATE block SET data = CAST(data || x'00' AS BLOB) WHERE pos = {POS + 8}", 8, BadReason.BLOCK_DIFFERS),
        (f"UPDATE block SET data = CAST(x'ff' AS TEXT) WHERE pos = {POS + 8}", 8, BadReason.MISSING),
        (f"UPDATE block SET data = 'two' WHERE pos = {POS + 2}", 2, BadReason.MISSING),
        (f"DELETE FROM block WHERE pos = {POS + 0}", 0, BadReason.MISSING),
        (f"DELETE FROM block WHERE pos = {POS + 7}", 7, BadReason.MISSING),
        (f"DELETE FROM block WHERE pos >= {POS + 4}", 4, BadReason.MISSING),
        # tree rows
        (f"UPDATE tree SET nodes = zeroblob(40) WHERE pos = {POS + 2}", 2, BadReason.NODE_DIFFERS),
        (f"UPDATE tree SET nodes = substr(nodes, 1, 79) WHERE pos = {POS + 1}", 1, BadReason.NODE_DIFFERS),
        (f"UPDATE tree SET nodes = CAST(nodes || nodes AS BLOB) WHERE pos = {POS + 5}", 5, BadReason.NODE_DIFFERS),
        (f"UPDATE tree SET nodes = nodes || nodes WHERE pos = {POS + 5}", 5, BadReason.MISSING),
        (f"UPDATE tree SET nodes = x'' WHERE pos = {POS + 8}", 8, BadReason.NODE_DIFFERS),
        (f"DELETE FROM tree WHERE pos = {POS + 3}", 3, BadReason.MISSING),
        (f"DELETE FROM tree WHERE pos >= {POS + 8}", 8, BadReason.MISSING),
        # heads
        (f"UPDATE head SET tree_hash = zeroblob(32) WHERE pos = {POS + 4}", 1, BadReason.HEAD_DIFFERS),
        (f"UPDATE head SET signature = {SIGNATURE_OF_NOTHING} WHERE pos = {POS + 1}", 0, BadReason.SIGNATURE),
        (f"UPDATE head SET signature = x'00' WHERE pos = {POS + 5}", 4, BadReason.SIGNATURE),
        (f"UPDATE head SET signature = CAST(signature || x'00' AS BLOB) WHERE pos = {POS + 9}", 5, BadReason.SIGNATURE),
        (f"UPDATE head SET signature = signature || x'00' WHERE pos = {POS + 9}", 5, BadReason.NO_HEAD),
        (f"UPDATE head SET tree_hash = 'text' WHERE pos = {POS + 1}", 0, BadReason.NO_HEAD),
        (
            f"UPDATE head SET signature = (SELECT signature FROM head WHERE pos = {POS + 4}) WHERE pos = {POS + 5}",
            4,
            BadReason.SIGNATURE,
        ),
        (f"UPDATE head SET pos = {POS + 8} WHERE pos = {POS + 9}", 5, BadReason.HEAD_DIFFERS),
        (f"DELETE FROM head WHERE pos = {POS + 9}", 5, BadReason.NO_HEAD),
        ("DELETE FROM head", 0, BadReason.NO_HEAD),
        (f"INSERT INTO head VALUES ({POS + 10}, zeroblob(32), zeroblob(68))", 9, BadReason.LENGTH),
        (f"INSERT INTO head VALUES ({POS + 7}, zeroblob(32), zeroblob(68))", 5, BadReason.HEAD_DIFFERS),
        # the feed's row
        ("UPDATE feed SET byte_length = byte_length + 1", 9, BadReason.FEED_ROW),
        ("UPDATE feed SET roots = zeroblob(80)", 9, BadReason.FEED_ROW),
        ("UPDATE feed SET length = 5, roots = zeroblob(80)", 5, BadReason.LENGTH),
        ("UPDATE feed SET length = 10, roots = zeroblob(80)", 9, BadReason.NO_HEAD),
        ("UPDATE feed SET manifest = x'00'", 0, BadReason.MANIFEST),
        ("UPDATE feed SET key = zeroblob(32)", 0, BadReason.MANIFEST),
    ],
)
def test_tampering_is_found_and_named(
    path: Path, tamper: Any, statement: str, index: int, reason: BadReason, audited: Audited
) -> None:
    tamper(path, statement)
    assert bad(audited(path)) == (index, reason)


def test_the_first_of_several(path: Path, tamper: Any, audited: Audited) -> None:
    tamper(path, f"DELETE FROM block WHERE pos = {POS + 7}")
    tamper(path, f"UPDATE block SET data = x'00' WHERE pos = {POS + 6}")
    assert bad(audited(path)) == (6, BadReason.BLOCK_DIFFERS)
    tamper(path, f"UPDATE head SET signature = {SIGNATURE_OF_NOTHING} WHERE pos = {POS + 4}")
    assert bad(audited(path)) == (1, BadReason.SIGNATURE)


def test_first_bad_signature_of_many(
    tmp_path: Path, member: Any, fill_feed: Any, tamper: Any, new_sqlite: Any, audited: Audited
) -> None:
    store = new_sqlite(tmp_path / "many.db")
    fill_feed(store, member, [[b"x"]] * 400)
    store.close()
    for head in (390, 201, 140, 139):
        tamper(tmp_path / "many.db", f"UPDATE head SET signature = zeroblob(68) WHERE pos = {POS + head}")
    assert bad(audited(tmp_path / "many.db")) == (138, BadReason.SIGNATURE)


def test_everything_rewritten_but_the_signature(path: Path, member: Any, tamper: Any, audited: Audited) -> None:
    """Who holds the database and not the key can make blocks, nodes and tree hashes agree, and gets no further."""
    tree = TreeBuilder()
    for batch in [[b"ZERO"], *BATCHES[1:]]:
        start = tree.length
        for index, nodes in enumerate(tree.append_many(batch), start):
            tamper(path, f"UPDATE tree SET nodes = x'{pack_nodes(nodes).hex()}' WHERE pos = {POS + index}")
        tamper(path, f"UPDATE head SET tree_hash = x'{tree.tree_hash().hex()}' WHERE pos = {POS + tree.length}")
    tamper(path, f"UPDATE block SET data = x'{b'ZERO'.hex()}' WHERE pos = {POS}")
    tamper(path, f"UPDATE feed SET roots = x'{pack_nodes(tree.roots).hex()}'")
    assert bad(audited(path)) == (0, BadReason.SIGNATURE)


def test_signature_by_another_key(path: Path, member: Any, tamper: Any, audited: Audited) -> None:
    store = open_sqlite(path)
    with store.read() as tx:
        (state,) = tx.feeds()
        head = tx.head(state.key, 9)
    store.close()
    assert head is not None
    forged = sign_head(member.root, state.key, head.tree_hash, 9)
    tamper(path, f"UPDATE head SET signature = x'{forged.hex()}' WHERE pos = {POS + 9}")
    assert bad(audited(path)) == (5, BadReason.SIGNATURE)


def test_rows_of_another_feed(path: Path, member: Any, tamper: Any, audited: Audited) -> None:
    """Swapping whole feeds under each other's keys does not help either."""
    other = device_manifest(member.device.public_key, FeedDescription(member.identity, "other"))
    tamper(path, f"UPDATE feed SET manifest = x'{encode_manifest(other).hex()}'")
    assert bad(audited(path)) == (0, BadReason.MANIFEST)


def test_what_comes_before_the_first_bad_entry_was_audited(path: Path, tamper: Any, audited: Audited) -> None:
    tamper(path, f"UPDATE block SET data = x'00' WHERE pos = {POS + 6}")
    result = audited(path)
    assert result.first_bad == BadEntry(6, BadReason.BLOCK_DIFFERS, result.first_bad.detail if result.first_bad else "")
    assert result.length == 9
    assert result.heads == 3


def test_tail_cut_back_with_its_row_is_a_shorter_feed(path: Path, member: Any, tamper: Any, audited: Audited) -> None:
    """The documented limit: only the checkpoint log, its timestamps and its anchors know that there was more."""
    tree = TreeBuilder()
    tree.append_many([block for batch in BATCHES[:3] for block in batch])
    for table, last in (("block", 4), ("tree", 4), ("head", 5)):
        tamper(path, f"DELETE FROM {table} WHERE pos > {POS + last}")
    assert bad(audited(path)) == (5, BadReason.NO_HEAD)
    roots = pack_nodes(tree.roots).hex()
    tamper(path, f"UPDATE feed SET length = 5, byte_length = {tree.byte_length}, roots = x'{roots}'")
    result = audited(path)
    assert (result.length, result.entries, result.first_bad) == (5, 5, None)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_is_found(member: Any, fill_feed: Any, data: st.DataObject) -> None:
    """One bit of a block, a stored node, a head's hash or its signature; the entry named is one that it belongs to."""
    store = MemoryStore()
    key = fill_feed(store, member, BATCHES)
    feed = store._history.feeds[key]
    what = data.draw(st.sampled_from(["block", "node", "tree_hash", "signature"]))

    def flipped(value: bytes) -> bytes:
        bit = data.draw(st.integers(0, 8 * len(value) - 1))
        return (int.from_bytes(value, "big") ^ (1 << bit)).to_bytes(len(value), "big")

    if what in ("block", "node"):
        index = data.draw(st.integers(0, 8))
        if what == "block":
            feed.blocks[index] = flipped(feed.blocks[index])
        else:
            place = data.draw(st.integers(0, len(feed.nodes[index]) - 1))
            row = list(feed.nodes[index])
            row[place] = row[place]._replace(hash=flipped(row[place].hash))
            feed.nodes[index] = tuple(row)
        expected = index
    else:
        place = data.draw(st.integers(0, 3))
        head = feed.heads[place]
        tree_hash, signature = head.tree_hash, head.signature
        if what == "tree_hash":
            tree_hash = flipped(tree_hash)
        else:
            signature = flipped(signature)
        feed.heads[place] = SignedHead(head.length, tree_hash, signature)
        expected = [0, 1, 4, 5][place]
    result = audit_feed(store, key)
    assert result.first_bad is not None
    assert result.first_bad.index == expected


def test_audit_is_whole_while_somebody_appends(known: Store, member: Any, fill_feed: Any) -> None:
    key = fill_feed(known, member, [[b"x"] * 5000])
    lengths: list[int] = []

    def append_meanwhile(_entries: int, length: int) -> None:
        lengths.append(length)
        append(known, key, member.device, [b"later"])

    result = audit_feed(known, key, append_meanwhile)
    assert result.first_bad is None
    assert set(lengths) == {5000}


def test_storage_errors_are_not_findings(path: Path, audited: Audited) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE head")
    with pytest.raises(AuditError, match="no such table"):
        audited(path)


# --- in pieces ---


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_WORTH_CUTTING", 0)


def pieces_of(store: Store, key: FeedKey) -> list[Piece]:
    seen: list[Piece] = []

    def run(pieces: Sequence[Piece], _: Callable[[Piece], PieceAudit]) -> list[PieceAudit]:
        seen.extend(pieces)
        return [audit_piece(store, piece) for piece in pieces]

    assert audit_feed(store, key, elsewhere=run).first_bad is None
    return seen


@pytest.mark.usefixtures("cut")
def test_pieces_end_where_heads_do(known: Store, member: Any, fill_feed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    key = fill_feed(known, member, BATCHES)
    assert [(piece.start, piece.stop) for piece in pieces_of(known, key)] == [(0, 1), (1, 4), (4, 5), (5, 9)]
    monkeypatch.setattr(audit, "_PIECES", 2)
    assert [(piece.start, piece.stop) for piece in pieces_of(known, key)] == [(0, 5), (5, 9)]


def test_short_feed_is_not_cut(known: Store, member: Any, fill_feed: Any) -> None:
    assert pieces_of(known, fill_feed(known, member, BATCHES)) == []


@pytest.mark.parametrize(("limit", "cut"), [(9 + 4 * 15 * 9 // 9, True), (9 + 4 * 15 * 9 // 9 + 1, False)])
def test_signatures_count_for_what_is_worth_cutting(
    known: Store, member: Any, fill_feed: Any, monkeypatch: pytest.MonkeyPatch, limit: int, cut: bool
) -> None:
    monkeypatch.setattr(audit, "_SAMPLE", 9)
    monkeypatch.setattr(audit, "_WORTH_CUTTING", limit)
    assert bool(pieces_of(known, fill_feed(known, member, BATCHES))) == cut


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("place", [1, 2, 3])
def test_piece_that_begins_with_other_roots_is_not_believed(
    known: Store, member: Any, fill_feed: Any, place: int
) -> None:
    """As if stored nodes were one thing when the pieces were cut, and another when they were read."""
    key = fill_feed(known, member, BATCHES)

    def run(pieces: Sequence[Piece], _: Callable[[Piece], PieceAudit]) -> list[PieceAudit]:
        audits = [audit_piece(known, piece) for piece in pieces]
        roots = audits[place - 1].roots
        audits[place - 1] = replace(audits[place - 1], roots=(roots[0]._replace(hash=bytes(32)), *roots[1:]))
        return audits

    result = audit_feed(known, key, elsewhere=run)
    assert bad(result) == ([0, 3, 4][place - 1], BadReason.NODE_DIFFERS)


@pytest.mark.usefixtures("cut")
def test_piece_with_forged_roots_does_not_verify(known: Store, member: Any, fill_feed: Any) -> None:
    key = fill_feed(known, member, BATCHES)
    piece = pieces_of(known, key)[1]
    forged = replace(piece, roots=(piece.roots[0]._replace(hash=bytes(32)),))
    found = audit_piece(known, forged).first_bad
    assert found is not None
    assert (found.index, found.reason) == (1, BadReason.BLOCK_DIFFERS)


@pytest.mark.usefixtures("cut")
def test_pieces_see_what_was_there_when_the_audit_began(known: Store, member: Any, fill_feed: Any) -> None:
    key = fill_feed(known, member, BATCHES)

    def run(pieces: Sequence[Piece], here: Callable[[Piece], PieceAudit]) -> list[PieceAudit]:
        append(known, key, member.device, [b"later"])
        return [audit_piece(known, piece) if number % 2 else here(piece) for number, piece in enumerate(pieces)]

    result = audit_feed(known, key, elsewhere=run)
    assert (result.length, result.entries, result.first_bad) == (9, 9, None)

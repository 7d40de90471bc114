from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest

from anchoring.receipt import AnchorReceipt, receipt_digest
from anchoring.storage import (
    AnchorState,
    StoredTimestamp,
    add_timestamp,
    archive_receipt,
    enqueue_anchor,
    load_anchors,
    move_anchor,
)
from anchoring.timestamp import TimestampEvidence
from anchoring.witness import open_archive, pending_witnesses, time_statement
from identity.errors import DamagedFile, MalformedError, RefusedError
from identity.history import build_bind_log, build_inception, fold, key_commitment, sign_event
from identity.keys import Ed25519Signer
from ledger.identities import add_events
from ledger.log_writer import LogWriter
from ledger.statement import AnchorStatement, ChainBinding, LogDescriptor, TimeStatement
from ledger.storage.sql import SqlStore
from ledger.storage.sqlite import open_sqlite

LOG_KEY: Final = Ed25519Signer(bytes(range(32)))
DESCRIPTOR: Final = LogDescriptor("vault.example", LOG_KEY.public_key, ChainBinding(31337, bytes(20), bytes(20)))
BLOCK: Final = (7, sha256(b"block").digest())
RECEIPT: Final = AnchorReceipt(b"header", (b"account",), ((b"meta",), (b"root",)))


def digest(data: bytes) -> bytes:
    return sha256(data).digest()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    """A store whose log has one checkpoint, of size 2."""
    with closing(open_sqlite(tmp_path / "vault.db", create=True)) as opened:
        log_id = LogWriter(opened, LOG_KEY).create(DESCRIPTOR)
        root = Ed25519Signer(bytes(32))
        inception = build_inception(
            label="x", root_keys=[root.public_key], next_digests=[key_commitment(bytes(32))], time_ms=0
        )
        events = [sign_event(inception, [(0, root)])]
        events.append(sign_event(build_bind_log(fold(events), log=log_id, time_ms=0), [(0, root)]))
        with opened.write() as tx:
            add_events(tx, fold(events).identity, events)
        assert checkpoint(opened) == 2
        yield opened


def checkpoint(store: SqlStore) -> int:
    """Another checkpoint, with everything that is pending."""
    times, anchors = pending(store)
    return LogWriter(store, LOG_KEY).append_checkpoint(times=times, anchors=anchors, restate=True).size


def pending(store: SqlStore) -> tuple[list[TimeStatement], list[AnchorStatement]]:
    with store.read() as tx:
        return pending_witnesses(tx)


def stamp(store: SqlStore, size: int, response: bytes = b"response", *, extra: tuple[bytes, ...] = ()) -> None:
    with store.write() as tx:
        add_timestamp(tx.connection, StoredTimestamp(size, "tsa", response, extra, (b"crl",), (), 1, 2))


def anchor(store: SqlStore, size: int, *, final: bool = True, archived: bool = True) -> None:
    with store.write() as tx:
        enqueue_anchor(tx.connection, size, bytes(32), 0)
        (asked,) = (one for one in load_anchors(tx.connection) if one.size == size)
        mined = move_anchor(tx.connection, asked, AnchorState.MINED, 0, block=BLOCK)
        if archived:
            archive_receipt(tx.connection, mined, RECEIPT, 0)
        if final:
            move_anchor(tx.connection, mined, AnchorState.FINAL, 0, block=BLOCK)


def test_a_store_without_a_log_has_nothing_to_state(tmp_path: Path) -> None:
    with closing(open_sqlite(tmp_path / "empty.db", create=True)) as store:
        assert pending(store) == ([], [])


def test_nothing_came_since(store: SqlStore) -> None:
    assert pending(store) == ([], [])


def test_tokens_are_stated_once_by_their_digests(store: SqlStore) -> None:
    stamp(store, 2, b"one", extra=(b"certificate",))
    stamp(store, 2, b"two", extra=(b"certificate", b"another"))
    (times, anchors) = pending(store)
    assert anchors == []
    assert times == [
        TimeStatement(
            size=2,
            responses=tuple(sorted({digest(b"one"), digest(b"two")})),
            certificates=tuple(sorted({digest(b"certificate"), digest(b"another")})),
            crls=(digest(b"crl"),),
        )
    ]
    assert checkpoint(store) == 4
    assert pending(store) == ([], [])


def test_what_came_for_several_checkpoints_is_stated_for_each_that_is_newer_than_the_last_stated(
    store: SqlStore,
) -> None:
    checkpoint(store)  # 3
    checkpoint(store)  # 4
    stamp(store, 2)
    stamp(store, 4)
    assert [statement.size for statement in pending(store)[0]] == [2, 4]
    checkpoint(store)
    stamp(store, 3, b"late")
    assert pending(store) == ([], []), "what is older than the newest one stated is not stated any more"


def test_only_final_anchors_with_their_receipt_are_stated(store: SqlStore) -> None:
    anchor(store, 2, final=False)
    assert pending(store) == ([], [])


def test_a_final_anchor_is_stated_once(store: SqlStore) -> None:
    anchor(store, 2)
    expected = AnchorStatement(2, BLOCK[1], BLOCK[0], receipt_digest(RECEIPT))
    assert pending(store) == ([], [expected])
    assert checkpoint(store) == 4
    assert pending(store) == ([], [])


def test_the_newest_statement_is_found_far_back(store: SqlStore) -> None:
    """Ten checkpoints without a statement stand behind it."""
    stamp(store, 2)
    anchor(store, 2)
    for _ in range(10):
        checkpoint(store)
    assert pending(store) == ([], [])


class Counting:
    """A read transaction that counts the leaves and checkpoints it is asked for."""

    def __init__(self, tx: Any) -> None:
        self._tx = tx
        self.read = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)

    def log_leaves(self, start: int, stop: int) -> Iterator[bytes]:
        for leaf in self._tx.log_leaves(start, stop):
            self.read += 1
            yield leaf

    def checkpoints(self, above: int = 0) -> Iterator[Any]:
        for found in self._tx.checkpoints(above):
            self.read += 1
            yield found


@pytest.mark.parametrize("before", [5, 60])
def test_the_cost_depends_on_what_is_new(store: SqlStore, before: int) -> None:
    """Tokens and anchors for every checkpoint, however many there were: the last few leaves are looked at."""
    for size in range(2, 2 + before):
        newest = checkpoint(store)
        if size % 3:
            stamp(store, newest)
            anchor(store, newest)
    with store.read() as tx:
        counting: Any = Counting(tx)
        times, anchors = pending_witnesses(counting)
        assert counting.read <= 16
    assert len(times) == len(anchors) <= 1


def test_several_unstated_ones_are_stated_in_order(store: SqlStore) -> None:
    checkpoint(store)
    stamp(store, 2)
    checkpoint(store)
    with store.read() as tx:
        sizes = [one.size for one in tx.checkpoints()]
    for size in sizes[1:]:
        stamp(store, size)
        anchor(store, size)
    times, anchors = pending(store)
    assert [one.size for one in times] == [one.size for one in anchors] == sizes[1:]
    checkpoint(store)
    assert pending(store) == ([], [])


def test_the_archive_gives_what_was_kept(store: SqlStore) -> None:
    stamp(store, 2, extra=(b"certificate",))
    anchor(store, 2)
    with store.read() as tx:
        archive = open_archive(tx)
        assert archive.timestamps(2) == [TimestampEvidence(b"response", (b"certificate",), (b"crl",), ())]
        assert archive.receipt(2) == RECEIPT
        assert (archive.timestamps(3), archive.receipt(3)) == ([], None)


def test_the_archive_gives_no_receipt_of_an_anchor_that_is_not_final(store: SqlStore) -> None:
    anchor(store, 2, final=False)
    with store.read() as tx:
        assert open_archive(tx).receipt(2) is None


def test_a_time_statement_needs_a_token() -> None:
    with pytest.raises(MalformedError):
        time_statement(2, [])


def test_a_damaged_receipt_is_not_given_out(store: SqlStore, tmp_path: Path) -> None:
    anchor(store, 2)
    with closing(sqlite3.connect(tmp_path / "vault.db")) as database:
        database.execute("DROP TRIGGER anchor_receipt_no_update")
        database.execute("UPDATE anchor_receipt SET receipt = X'A0'")
        database.commit()
    with store.read() as tx, pytest.raises(DamagedFile):
        open_archive(tx).receipt(2)
    with pytest.raises(DamagedFile):
        pending(store)


def test_a_statement_is_refused_when_the_log_has_it(store: SqlStore) -> None:
    """``pending_witnesses`` and the writer agree: giving it twice is a mistake that is noticed."""
    stamp(store, 2)
    times, _ = pending(store)
    checkpoint(store)
    with pytest.raises(RefusedError):
        LogWriter(store, LOG_KEY).append_checkpoint(times=times, restate=True)

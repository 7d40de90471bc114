"""The first way out of a read-only state: bringing back what is missing from a peer's exports or a newer backup.

Implements docs/spec/rollback.md, section "Ways out". Everything is taken in and verified in one transaction; it is
kept when the log then is where its chain says, with every feed as long as the log states.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from anchoring.archive_audit import archive_faults
from anchoring.archive_file import archived_store
from anchoring.contracts import load_contract
from anchoring.rollback import RollbackCheck, RollbackState
from anchoring.storage import (
    AnchorState,
    add_timestamp,
    archive_receipt,
    enqueue_anchor,
    load_anchors,
    load_receipt,
    load_timestamps,
    move_anchor,
)
from api.start_up import ways_out
from identity.errors import AuditError, MalformedError, ReadOnlyState, RefusedError, StorageError
from identity.textforms import to_zbase32
from ledger.archive import FIRST_LINE as ARCHIVE
from ledger.completeness import Shortfall
from ledger.log_transfer import MAGIC, log_records, read_log_export
from ledger.manifest import describe, parse_manifest
from ledger.recovery import extend_log, verify_recovered
from ledger.storage.engine import open_store
from ledger.storage.start_up import Succession, add_succession
from ledger.succession import retire_local_feeds
from ledger.transfer import FIRST_LINE, export_feed, ingest_feed_in

if TYPE_CHECKING:
    from api.bootstrap import Session
    from ledger.storage.sql import SqlReadTransaction, SqlStore, SqlWriteTransaction

__all__ = ["Fetched", "fetch_missing", "take_feeds"]

_STORE: Final = b"SQLite format 3\0"
_RECOVERED: Final = "recovered"


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was brought back, where the log stands now, and what is known to be missing still."""

    statements: int
    entries: int
    retired: int
    check: RollbackCheck
    missing: tuple[str, ...]


class _NotKept(AuditError):
    """Ends a transaction without effect."""


@dataclass(slots=True)
class _Counts:
    statements: int = 0
    entries: int = 0


def fetch_missing(
    session: Session, files: Sequence[Path], *, at_ms: int, partial: bool = False, dry_run: bool = False
) -> Fetched:
    """Take what is missing here from log and feed exports, archives and stores, in any order; then this node's feeds
    retire.

    Raises ``ReadOnlyState`` when the log is still not where the chain says, ``RefusedError`` when a feed is still
    shorter than the log states, unless ``partial``; what verification raises for a file that contradicts what is here.
    Nothing is kept then, nor with ``dry_run``.
    """
    store = session.vault.store
    counts = _Counts()
    found: list[Fetched] = []
    try:
        with store.write() as tx:
            _take_files(tx, files, counts, at_ms)
            shortfalls = verify_recovered(tx)
            check = session.check_rollback_in(tx, at_ms)
            if not partial:
                _require_whole(check, shortfalls)
            retired = len(retire_local_feeds(tx))
            detail = f"{counts.statements} statements and {counts.entries} entries were brought back"
            add_succession(tx.connection, Succession(_RECOVERED, detail, retired, at_ms))
            missing = [f"feed {to_zbase32(one.key)}: {one.held} of {one.stated} entries" for one in shortfalls]
            missing += archive_faults(tx, load_contract().code_hash)
            found.append(Fetched(counts.statements, counts.entries, retired, check, tuple(missing)))
            if dry_run:
                raise _NotKept("a dry run")
    except _NotKept:
        return found[0]
    known = session.start_up.missing()
    session.start_up.adopt()
    fetched = found[0]
    return Fetched(fetched.statements, fetched.entries, fetched.retired, fetched.check, (*fetched.missing, *known))


def take_feeds(session: Session, files: Sequence[Path]) -> int:
    """Take in feed exports, all or none, into a store that may be written to. Returns how many entries came.

    What this node wrote, and has forgotten, comes in retired. Raises as ``ingest_feed``.
    """
    counts = _Counts()
    with session.vault.store.write() as tx:
        _take_files(tx, files, counts, session.now_ms())
    return counts.entries


def _require_whole(check: RollbackCheck, shortfalls: Sequence[Shortfall]) -> None:
    if check.state is not RollbackState.UNVERIFIED and not check.state.writable:
        raise ReadOnlyState(check.state.value, f"with these files too, {check.detail}", hint=ways_out(check.state))
    if shortfalls:
        said = "; ".join(f"feed {to_zbase32(one.key)} has {one.held} of {one.stated}" for one in shortfalls)
        raise RefusedError(
            f"with these files too, entries that the log states are missing: {said}",
            hint="give exports of these feeds as well; --partial keeps what there is",
        )


def _take_files(tx: SqlWriteTransaction, files: Sequence[Path], counts: _Counts, at_ms: int) -> None:
    """Feeds before logs: the heads of a log are compared with the feeds that are here."""
    logs = []
    for file in files:
        try:
            with file.open("rb") as stream:
                first = stream.read(max(map(len, (MAGIC, FIRST_LINE, ARCHIVE, _STORE))))
                stream.seek(0)
                if first.startswith(MAGIC):
                    logs.append(file)
                elif first.startswith(FIRST_LINE):
                    _take_feed(tx, stream, counts)
                elif first.startswith(ARCHIVE):
                    with archived_store(stream, load_contract().code_hash) as (other, _):
                        _take_store(tx, other, counts, at_ms)
                elif not first.startswith(_STORE):
                    raise MalformedError(f"{file} is no log export, feed export, archive or store")
        except OSError as exc:
            raise StorageError(f"cannot read {file}: {exc.strerror}") from exc
        if first.startswith(_STORE):
            with closing(open_store(file, read_only=True)) as other:
                _take_store(tx, other, counts, at_ms)
    for file in logs:
        with file.open("rb") as stream:
            grown = extend_log(tx, read_log_export(stream))
        counts.statements += grown.size - grown.start


def _take_feed(tx: SqlWriteTransaction, stream: BinaryIO, counts: _Counts, *, local: bool = False) -> None:
    result = ingest_feed_in(tx, stream, local=local)
    counts.entries += result.length - result.start


def _take_store(tx: SqlWriteTransaction, other: SqlStore, counts: _Counts, at_ms: int) -> None:
    """A newer copy of the store, or another one: its feeds as if they had been exported, and its log.

    The feeds that a copy with this log wrote were written by this node, those too that are not known here yet.
    """
    with other.read() as held:
        state, own = held.log(), tx.log()
        is_copy = state is not None and own is not None and state.log_id == own.log_id
        feeds = [feed for feed in held.feeds() if feed.length and describe(parse_manifest(feed.manifest))]
    for feed in feeds:
        with tempfile.TemporaryFile() as copy:
            export_feed(other, feed.key, copy)
            copy.seek(0)
            _take_feed(tx, copy, counts, local=is_copy and feed.local)
    if is_copy:
        with other.read() as held:
            grown = extend_log(tx, log_records(held))
            counts.statements += grown.size - grown.start
            _take_archive(tx, held, at_ms)


def _take_archive(tx: SqlWriteTransaction, held: SqlReadTransaction, at_ms: int) -> None:
    """The tokens of checkpoints and the receipts of anchors that the statements brought back speak of.

    Each is what a statement of the log names by its digest, or ``archive_faults`` says so.
    """
    for checkpoint in held.checkpoints():
        for timestamp in load_timestamps(held.connection, checkpoint.size):
            add_timestamp(tx.connection, timestamp)
    known = {anchor.size: anchor for anchor in load_anchors(tx.connection)}
    newest = max(known, default=0)
    for anchor in load_anchors(held.connection, AnchorState.FINAL):
        receipt = load_receipt(held.connection, anchor)
        here = known.get(anchor.size)
        if receipt is None or anchor.block_number is None or anchor.block_hash is None:
            continue
        if here is None and anchor.size > newest:
            enqueue_anchor(tx.connection, anchor.size, anchor.root, at_ms)
            (here,) = [one for one in load_anchors(tx.connection) if one.size == anchor.size]
        if here is not None and here.root == anchor.root and here.state not in (AnchorState.FINAL, AnchorState.FAILED):
            block = anchor.block_number, anchor.block_hash
            moved = move_anchor(tx.connection, here, AnchorState.FINAL, at_ms, block=block)
            archive_receipt(tx.connection, moved, receipt, at_ms)

"""Everything that an audit of one's own store looks at beside its feeds: log, rows, archive, outbox, databases.

One check comes after the other. What a check cannot even read is damage that it names, and the next one goes on: in
one's own store nothing is input that could be refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from anchoring.archive_audit import archive_faults, unjudged_tokens
from anchoring.contracts import load_contract
from anchoring.timestamp import Authority
from api.vault import own_history
from identity.textforms import to_zbase32
from ledger.completeness import Shortfall, find_shortfalls
from ledger.log_transfer import LogAudit, audit_log, feeds_at_hand, log_records
from ledger.row_audit import going_on, row_faults
from ledger.storage.sparse import sparse_faults, sparse_feeds, stray_parts
from ledger.storage.sql import SqlReadTransaction, SqlStore
from ledger.storage.strays import engine_faults, stray_rows
from sync.database import DatabaseInfo, list_databases
from sync.storage.audit import audit_database

__all__ = ["StoreAudit", "audit_store", "database_faults"]


@dataclass(slots=True)
class StoreAudit:
    """What was found. ``log`` is None without a checkpoint, and when the log does not hold.

    ``faults`` are sentences about what does not hold; ``doubts`` about what nothing here can tell.
    """

    log: LogAudit | None = None
    shortfalls: list[Shortfall] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


def audit_store(tx: SqlReadTransaction, log_id: bytes, authorities: Sequence[Authority]) -> StoreAudit:
    """Audit everything but the blocks of the feeds. ``authorities`` are those of the home's policy.

    Raises ``StorageError`` when the store cannot be read at all.
    """
    found = StoreAudit()
    checks: tuple[Callable[[], Iterable[str]], ...] = (
        partial(_replay, tx, log_id, found),
        partial(row_faults, tx),
        partial(_own_faults, tx, log_id),
        partial(_sparse_faults, tx),
        partial(stray_rows, tx.connection),
        partial(engine_faults, tx.connection),
        partial(stray_parts, tx.connection),
        partial(archive_faults, tx, load_contract().code_hash, authorities),
    )
    found.faults += dict.fromkeys(going_on(checks))
    if not found.faults:
        found.doubts += unjudged_tokens(tx, authorities)
    return found


def database_faults(store: SqlStore) -> Iterator[str]:
    """Compare every row of every database with what follows from its feeds; a sentence for each that is another.

    Raises ``StorageError`` when the store cannot be read at all.
    """

    def faults_of(info: DatabaseInfo) -> Iterator[str]:
        with store.read() as tx:
            yield from (f"database {info.name}: {fault}" for fault in audit_database(tx, store.dialect, info.uid))

    return going_on(partial(faults_of, info) for info in list_databases(store))


def _replay(tx: SqlReadTransaction, log_id: bytes, found: StoreAudit) -> Iterator[str]:
    """Replay the log and compare the feeds with it. What is found goes into ``found``; the first fault is raised."""
    if next(tx.checkpoints(), None) is not None:
        found.log = audit_log(log_records(tx), expected_log_id=log_id, tree_hash_at=feeds_at_hand(tx))
        found.shortfalls += find_shortfalls(tx, found.log.replay.feeds)
    return iter(())


def _own_faults(tx: SqlReadTransaction, log_id: bytes) -> Iterator[str]:
    if not tx.identities() and next(tx.checkpoints(), None) is None:
        return  # a home whose root holders have not signed yet
    history = own_history(tx)
    if log_id not in history.logs:
        yield f"the first identity here, {history.identity.hex()}, has not bound the log of this store"


def _sparse_faults(tx: SqlReadTransaction) -> Iterator[str]:
    for held in sparse_feeds(tx.connection):
        for fault in sparse_faults(held):
            yield f"feed {to_zbase32(held.key)}, held in part: {fault}"

"""The archive of a home's own checkpoint log, as other nodes keep it (docs/spec/kept-log.md)."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, BinaryIO

from anchoring.archive_file import write_archive
from api.backup import open_snapshot
from ledger.archive import ArchiveTotals, Purpose
from ledger.store import newest_checkpoint

if TYPE_CHECKING:
    from api.bootstrap import Session

__all__ = ["own_log_size", "write_log_archive"]


def write_log_archive(session: Session, out: BinaryIO) -> ArchiveTotals:
    """Write the log with its tokens and receipts. Raises ``MissingEvidenceError`` when it has no checkpoint yet."""
    with open_snapshot(session.settings) as store, store.read() as tx:
        now = session.now_ms()
        return write_archive(tx, out, Purpose.LOG, archive_id=secrets.token_bytes(32), made_ms=now)


def own_log_size(session: Session) -> int:
    """Up to which size the log is signed; 0 without a checkpoint."""
    with session.vault.store.read() as tx:
        newest = newest_checkpoint(tx)
    return 0 if newest is None else newest.size

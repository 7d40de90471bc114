"""Whole archives: a store and its anchoring in one file, and a file read into an empty store, or a passing one.

Puts together what ``ledger`` and ``anchoring`` own (docs/spec/archive.md). Whatever reads an archive goes through
``load_archive``, which verifies everything that can be verified with the file alone before its transaction commits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from anchoring.archive_audit import archive_faults
from anchoring.archive_sections import (
    ANCHORS,
    TIMESTAMPS,
    read_anchors,
    read_timestamps,
    write_anchoring_sections,
)
from identity.errors import VerificationError
from ledger.archive import ArchiveReader, ArchiveTotals, ArchiveWriter, Purpose
from ledger.archive_reader import ArchiveFault, LoadedArchive, load_sections
from ledger.archive_sections import contents_of, header_of, write_file, write_ledger_sections
from ledger.storage.sql import SqlReadTransaction, SqlStore, SqlWriteTransaction
from ledger.storage.sqlite import open_sqlite

__all__ = ["WITNESSES", "archived_store", "load_archive", "write_archive"]

WITNESSES: Final = "timestamps and anchors"
"""Where faults of what anchoring archived are said to stand: some show only when both are read."""

Advance = Callable[[int], None]
"""Called with how many entries were just written or taken in."""


def write_archive(
    tx: SqlReadTransaction,
    out: BinaryIO,
    purpose: Purpose,
    *,
    archive_id: bytes,
    made_ms: int,
    store_id: bytes | None = None,
    files: Mapping[str, bytes] | None = None,
    advance: Advance | None = None,
) -> ArchiveTotals:
    """Write the snapshot of ``tx`` to ``out`` as an archive. The caller makes the file durable.

    ``archive_id``: 32 random bytes. ``files``: of the home, by path, for a backup. Raises ``MissingEvidenceError`` for
    an export of a store without a checkpoint, ``RefusedError`` for a feed that no archive can hold, ``StorageError``
    when reading or writing fails.
    """
    contents = contents_of(tx, purpose)
    header = header_of(contents, purpose, archive_id=archive_id, made_ms=made_ms, store_id=store_id)
    writer = ArchiveWriter(out, header)
    write_ledger_sections(tx, writer, contents, purpose, advance)
    write_anchoring_sections(tx, writer, purpose)
    for path, content in (files or {}).items():
        write_file(writer, path, content)
    return writer.finish()


def load_archive(
    tx: SqlWriteTransaction,
    source: BinaryIO,
    code_hash: bytes,
    advance: Advance | None = None,
    *,
    faults: list[ArchiveFault] | None = None,
    pool: Executor | None = None,
) -> LoadedArchive:
    """Fill an empty store with the archive that ``source`` holds from here to its end, and verify everything in it.

    ``code_hash`` is Keccak-256 of the anchor contract's code, as ``verify_receipt`` takes it; ``faults`` and ``pool``
    are as in ``load_sections``. When this raises, the transaction must not be committed:
    ``MalformedError`` for what is not an archive, or not a whole one,
    ``VerificationError`` when a claim in it is false.
    """
    reader = ArchiveReader(source)
    purpose = reader.header.purpose
    loaded = load_sections(
        tx,
        reader,
        {
            TIMESTAMPS: lambda section: read_timestamps(tx, section),
            ANCHORS: lambda section: read_anchors(tx, section, purpose),
        },
        advance,
        faults=faults,
        pool=pool,
    )
    for fault in archive_faults(tx, code_hash):
        error = VerificationError(f"archive: {fault}")
        if faults is None:
            raise error
        faults.append(ArchiveFault(WITNESSES, b"", error))
    return loaded


@contextmanager
def archived_store(
    source: BinaryIO,
    code_hash: bytes,
    *,
    folder: Path | None = None,
    advance: Advance | None = None,
    faults: list[ArchiveFault] | None = None,
    threads: int = 1,
) -> Iterator[tuple[SqlStore, LoadedArchive]]:
    """A passing store, open for reading only, with what a verified archive holds; it is gone when the block ends.

    It lies in a new directory in ``folder``, by default that of the system for temporary files, and takes about as much
    space as the archive. With ``faults`` it holds what of the archive does hold. With more than one of ``threads`` they
    verify signatures beside the reading. Raises as ``load_archive``.
    """
    with tempfile.TemporaryDirectory(prefix="holdfast-", dir=folder) as directory:
        file = Path(directory) / "archive.db"
        store = open_sqlite(file, create=True)
        try:
            with ExitStack() as stack:
                pool = stack.enter_context(ThreadPoolExecutor(threads)) if threads > 1 else None
                tx = stack.enter_context(store.write())
                loaded = load_archive(tx, source, code_hash, advance, faults=faults, pool=pool)
        finally:
            store.close()
        reading = open_sqlite(file, read_only=True)
        try:
            yield reading, loaded
        finally:
            reading.close()

"""What the ledger puts into an archive: identities, feeds, and the checkpoint log, all from one snapshot.

Implements docs/spec/archive.md, section "Sections". ``ledger.archive_reader`` takes them out again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO, Final

from identity.encoding import encode
from identity.errors import MissingEvidenceError, RefusedError
from ledger.archive import ArchiveHeader, ArchiveWriter, LogFacts, Purpose
from ledger.archive_files import check_path
from ledger.framing import encode_record
from ledger.log_transfer import write_log
from ledger.manifest import describe, parse_manifest
from ledger.merkle import tree_hash
from ledger.statement import IdentityHead, parse_statement
from ledger.store import FeedState, ReadTransaction
from ledger.transfer import Advance, write_feed

__all__ = [
    "DESCRIPTOR",
    "FEED",
    "FILE",
    "IDENTITIES",
    "IDENTITIES_END",
    "IDENTITY_EVENT",
    "LOG",
    "Contents",
    "contents_of",
    "header_of",
    "write_file",
    "write_ledger_sections",
]

IDENTITIES: Final = "identities"
FEED: Final = "feed"
DESCRIPTOR: Final = "descriptor"
LOG: Final = "log"
FILE: Final = "file"
"""The names of the ledger's sections, in the order in which they come; those of other layers are before the files."""

IDENTITY_EVENT: Final = b"I"
IDENTITIES_END: Final = b"E"
"""Types of the records in an identities section."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What of a store an archive holds, as it stands in one snapshot."""

    identities: tuple[bytes, ...]
    feeds: tuple[FeedState, ...]
    log: LogFacts | None
    entries: int


def contents_of(tx: ReadTransaction, purpose: Purpose) -> Contents:
    """What an archive for ``purpose`` holds of this snapshot: everything, or what the log speaks of.

    An export holds the identities that the newest checkpoint states and every feed of theirs, an archive of a log these
    identities and no feed. Raises ``MissingEvidenceError`` for either of a store without a checkpoint,
    ``RefusedError`` for a feed that is not one of ours.
    """
    state = tx.log()
    log = None if state is None else LogFacts(state.log_id, state.size)
    held = [] if purpose is Purpose.LOG else tx.feeds()
    feeds = [(feed, _identity_of(feed)) for feed in held]
    identities = tuple(tx.identities())
    if purpose is not Purpose.BACKUP:
        stated = _stated_identities(tx)
        identities = tuple(identity for identity in identities if identity in stated)
        feeds = [(feed, identity) for feed, identity in feeds if identity in stated]
    return Contents(identities, tuple(feed for feed, _ in feeds), log, sum(feed.length for feed, _ in feeds))


def header_of(
    contents: Contents, purpose: Purpose, *, archive_id: bytes, made_ms: int, store_id: bytes | None
) -> ArchiveHeader:
    """The header of an archive with these contents. An export does not name its store."""
    return ArchiveHeader(
        archive_id=archive_id,
        purpose=purpose,
        made_ms=made_ms,
        store_id=store_id if purpose is Purpose.BACKUP else None,
        identities=len(contents.identities),
        feeds=len(contents.feeds),
        log=contents.log,
    )


def write_ledger_sections(
    tx: ReadTransaction, writer: ArchiveWriter, contents: Contents, purpose: Purpose, advance: Advance | None = None
) -> None:
    """Write identities, feeds and the log. ``advance`` is told how many entries were just written.

    Raises ``DamagedFile`` and other ``StorageError`` for a store that cannot be read as a whole.
    """
    with writer.section(IDENTITIES) as out:
        _write_identities(tx, contents.identities, out)
    backup = purpose is Purpose.BACKUP
    for feed in contents.feeds:
        facts = {
            "key": feed.key,
            "length": feed.length,
            "tree": tree_hash(feed.roots),
            "local": backup and feed.local,
            "retired": backup and feed.retired,
        }
        with writer.section(FEED, facts) as out:
            write_feed(tx, feed.key, out, with_events=False, advance=advance)
    if contents.log is not None and contents.log.size == 1:
        with writer.section(DESCRIPTOR) as out:
            out.writelines(tx.log_leaves(0, 1))
    elif contents.log is not None:
        with writer.section(LOG) as out:
            write_log(tx, out)


def _identity_of(feed: FeedState) -> bytes:
    description = describe(parse_manifest(feed.manifest))
    if description is None:
        raise RefusedError(f"feed {feed.key.hex()} is not a feed of ours: an archive cannot hold it")
    return description.identity


def _stated_identities(tx: ReadTransaction) -> set[bytes]:
    """The identities that the newest checkpoint states: all that the log ever stated."""
    previous = last = 0
    for checkpoint in tx.checkpoints():
        previous, last = last, checkpoint.size
    if not last:
        raise MissingEvidenceError("this store has no checkpoint", hint="run 'holdfast checkpoint create' first")
    statements = map(parse_statement, list(tx.log_leaves(previous, last)))
    return {statement.identity for statement in statements if isinstance(statement, IdentityHead)}


def _write_identities(tx: ReadTransaction, identities: Iterable[bytes], out: BinaryIO) -> None:
    count = events = 0
    for identity in identities:
        count += 1
        for event in tx.identity_events(identity):
            out.write(encode_record(IDENTITY_EVENT, event.signed_event))
            events += 1
    out.write(encode_record(IDENTITIES_END, encode({"identities": count, "events": events})))


def write_file(writer: ArchiveWriter, path: str, content: bytes) -> None:
    """Write a file of the home. ``path`` as ``ledger.archive_files.check_path`` has it."""
    with writer.section(FILE, {"path": check_path(path)}) as out:
        out.write(content)

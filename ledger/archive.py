"""Archives: a whole store in one file, as sections of which each holds one thing. This is the container alone.

Implements docs/spec/archive.md, sections "Format" and "Reading". An archive is written front to back and read front to
back, in bounded memory, from and to streams that cannot seek. What a section holds is for whoever owns it: the ledger's
are in ``ledger.archive_sections``. The trailer's digest tells a damaged or cut file from a whole one; it protects
nothing against somebody who makes a file of their own: what is in the sections has to verify by itself.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Any, BinaryIO, Final, cast

from identity.contexts import ARCHIVE_DIGEST
from identity.encoding import Fields, decode, encode
from identity.errors import MalformedError, RootMismatch, StorageError
from ledger.framing import RecordReader, encode_record

__all__ = [
    "CHUNK_BYTES",
    "FIRST_LINE",
    "MAX_HEAD_BYTES",
    "ArchiveHeader",
    "ArchiveReader",
    "ArchiveTotals",
    "ArchiveWriter",
    "LogFacts",
    "Purpose",
    "Section",
]

FIRST_LINE: Final = b"holdfast/v1 archive\n"
CHUNK_BYTES: Final = 65_536
MAX_HEAD_BYTES: Final = 4096

_HEADER, _SECTION, _DATA, _SECTION_END, _END = b"H", b"S", b"D", b"Z", b"E"
_LIMITS: Final = {
    _HEADER: MAX_HEAD_BYTES,
    _SECTION: MAX_HEAD_BYTES,
    _DATA: CHUNK_BYTES,
    _SECTION_END: 64,
    _END: 128,
}
_WHAT: Final = "archive"


class Purpose(StrEnum):
    """What an archive was made for."""

    BACKUP = "backup"
    """To bring the store back: everything that it holds, and files of its home."""
    EXPORT = "export"
    """To be audited by an outsider: the complete log and its feeds, no local matters."""
    LOG = "log"
    """To be kept by another node: the complete log with its tokens and receipts, and no feed."""


@dataclass(frozen=True, slots=True)
class LogFacts:
    """Which checkpoint log the archive holds, and how many leaves of it: 1 for a log that has only its descriptor."""

    log_id: bytes
    size: int


@dataclass(frozen=True, slots=True)
class ArchiveHeader:
    """What the archive says of itself before its sections.

    ``archive_id``: 32 random bytes that every section repeats. ``made_ms`` is a label. ``store_id`` is that of the
    store a backup was made of. ``identities`` and ``feeds`` count.
    """

    archive_id: bytes
    purpose: Purpose
    made_ms: int
    store_id: bytes | None
    identities: int
    feeds: int
    log: LogFacts | None


@dataclass(frozen=True, slots=True)
class ArchiveTotals:
    """What the trailer says: how many sections, and how many bytes before the trailer, with their digest."""

    sections: int
    size: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Section:
    """A section that is being read: its ``name``, what its head says of it, and its content up to the section's end."""

    name: str
    facts: Fields
    content: BinaryIO


# --- writing --------------------------------------------------------------------------------------------------------


class ArchiveWriter:
    """Writes an archive to ``out``: the header at once, then a section at a time, then ``finish``.

    Every method raises ``StorageError`` when writing fails. What was written before is then no archive.
    """

    def __init__(self, out: BinaryIO, header: ArchiveHeader) -> None:
        self._out = out
        self._digest = sha256(ARCHIVE_DIGEST)
        self._bytes = 0
        self._sections = 0
        self._archive_id = header.archive_id
        self._write(FIRST_LINE)
        self._record(_HEADER, _encode_header(header))

    @contextmanager
    def section(self, name: str, facts: Mapping[str, object] | None = None) -> Iterator[BinaryIO]:
        """A stream for the content of the next section, which ends with the block."""
        self._record(_SECTION, encode({"archive": self._archive_id, "name": name, "facts": dict(facts or {})}))
        raw = _SectionSink(self)
        stream = io.BufferedWriter(cast("Any", raw), CHUNK_BYTES)
        try:
            yield cast("BinaryIO", stream)
            stream.flush()
        except BaseException:
            raw.abandoned = True  # what is still buffered must not be written when the stream is collected
            raise
        self._record(_SECTION_END, encode({"bytes": raw.finish()}))
        self._sections += 1

    def finish(self) -> ArchiveTotals:
        """Write the trailer. The caller makes the file durable."""
        totals = ArchiveTotals(self._sections, self._bytes, self._digest.digest())
        self._record(_END, _encode_end(totals))
        return totals

    def data(self, chunk: bytes) -> None:
        """Write one chunk of the section that is open."""
        self._record(_DATA, chunk)

    def _record(self, kind: bytes, payload: bytes) -> None:
        assert len(payload) <= _LIMITS[kind], f"a record {kind!r} of {len(payload)} bytes"
        self._write(encode_record(kind, payload))

    def _write(self, data: bytes) -> None:
        try:
            self._out.write(data)
        except OSError as exc:
            raise StorageError(f"cannot write the archive: {exc.strerror or exc}") from exc
        self._digest.update(data)
        self._bytes += len(data)


class _SectionSink(io.RawIOBase):
    """Cuts what is written into chunks, all of which but the last are full."""

    def __init__(self, writer: ArchiveWriter) -> None:
        self._writer = writer
        self._pending = bytearray()
        self._bytes = 0
        self.abandoned = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        if self.abandoned:
            return len(data)
        self._pending += data
        start = 0
        while len(self._pending) - start >= CHUNK_BYTES:
            self._writer.data(bytes(self._pending[start : start + CHUNK_BYTES]))
            start += CHUNK_BYTES
        del self._pending[:start]
        self._bytes += len(data)
        return len(data)

    def finish(self) -> int:
        """Write what is left. Returns how many bytes the section has."""
        if self._pending:
            self._writer.data(bytes(self._pending))
            self._pending.clear()
        return self._bytes


# --- reading --------------------------------------------------------------------------------------------------------


class ArchiveReader:
    """Reads an archive from ``source``, strictly. Raises ``MalformedError`` for what is none, from any method.

    The file is known to be whole only when ``sections`` has ended: nothing that was read before may count before that.
    """

    def __init__(self, source: BinaryIO) -> None:
        self._records = RecordReader(source, _WHAT, _LIMITS)
        self._digest = sha256(ARCHIVE_DIGEST)
        self._bytes = 0
        self._count = 0
        self.totals: ArchiveTotals | None = None
        """What the trailer says, once it was read and compared."""
        self._records.first_line(FIRST_LINE)
        self._count_in(FIRST_LINE)
        kind, payload = self.next_record()
        if kind != _HEADER:
            raise MalformedError(f"archive: a record {kind!r} where the header belongs")
        self.header = _parse_header(payload)

    def sections(self) -> Iterator[Section]:
        """Section after section. Each has to be read to its end before the next is asked for.

        Ends when the trailer was read and is that of everything before it, and nothing comes after it. Raises
        ``RootMismatch`` when its digest is another.
        """
        while True:
            kind, payload = self.next_record()
            if kind == _END:
                break
            if kind != _SECTION:
                raise MalformedError(f"archive: a record {kind!r} between sections")
            section = self._section(payload)
            yield section
            if section.content.read(1):
                raise MalformedError(f"archive: bytes after the end of what section {section.name!r} holds")
        self._check_end(payload)
        self._records.end()

    def next_record(self) -> tuple[bytes, bytes]:
        """The next record, counted into the digest unless it is the trailer."""
        kind, payload = self._records.record()
        if kind != _END:
            self._count_in(encode_record(kind, payload))
        return kind, payload

    def _count_in(self, data: bytes) -> None:
        self._digest.update(data)
        self._bytes += len(data)

    def _section(self, payload: bytes) -> Section:
        fields = Fields(decode(payload), "archive: section")
        name = fields.text("name", min=1, max=32)
        archive_id = fields.bytes("archive", length=32)
        facts = fields.map("facts")
        facts.what = f"archive: section {name!r}"
        fields.done()
        if archive_id != self.header.archive_id:
            raise MalformedError(f"archive: section {name!r} is of another archive")
        self._count += 1
        content = io.BufferedReader(cast("Any", _SectionSource(self, name)), CHUNK_BYTES)
        return Section(name, facts, cast("BinaryIO", content))

    def _check_end(self, payload: bytes) -> None:
        stated = _parse_end(payload)
        counted = ArchiveTotals(self._count, self._bytes, self._digest.digest())
        if (stated.sections, stated.size) != (counted.sections, counted.size):
            raise MalformedError(
                f"archive: the trailer counts {stated.sections} sections and {stated.size} bytes, "
                f"there are {counted.sections} and {counted.size}"
            )
        if stated.digest != counted.digest:
            raise RootMismatch("archive: digest", expected=stated.digest, computed=counted.digest)
        self.totals = counted


class _SectionSource(io.RawIOBase):
    """The content of a section, chunk after chunk."""

    def __init__(self, reader: ArchiveReader, name: str) -> None:
        self._reader = reader
        self._name = name
        self._chunk = memoryview(b"")
        self._bytes = 0
        self._full = True
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if not self._chunk and not self._ended:
            self._next_chunk()
        taken = min(len(buffer), len(self._chunk))
        buffer[:taken] = self._chunk[:taken]
        self._chunk = self._chunk[taken:]
        return taken

    def _next_chunk(self) -> None:
        kind, payload = self._reader.next_record()
        if kind == _DATA:
            if not self._full or not payload:
                raise MalformedError(f"archive: section {self._name!r} goes on after a chunk that was not full")
            self._full = len(payload) == CHUNK_BYTES
            self._chunk = memoryview(payload)
            self._bytes += len(payload)
        elif kind == _SECTION_END:
            self._ended = True
            fields = Fields(decode(payload), "archive: section end")
            stated = fields.int("bytes")
            fields.done()
            if stated != self._bytes:
                raise MalformedError(f"archive: section {self._name!r} has {self._bytes} bytes, its end says {stated}")
        else:
            raise MalformedError(f"archive: a record {kind!r} within section {self._name!r}")


# --- the records ----------------------------------------------------------------------------------------------------


def _encode_header(header: ArchiveHeader) -> bytes:
    log = None if header.log is None else {"id": header.log.log_id, "size": header.log.size}
    return encode(
        {
            "id": header.archive_id,
            "purpose": header.purpose.value,
            "made": header.made_ms,
            "store": header.store_id,
            "identities": header.identities,
            "feeds": header.feeds,
            "log": log,
        }
    )


def _parse_header(payload: bytes) -> ArchiveHeader:
    fields = Fields(decode(payload), "archive: header")
    log = fields.optional_map("log")
    header = ArchiveHeader(
        archive_id=fields.bytes("id", length=32),
        purpose=_parse_purpose(fields.text("purpose", max=16)),
        made_ms=fields.int("made"),
        store_id=fields.optional_bytes("store", length=32),
        identities=fields.int("identities"),
        feeds=fields.int("feeds"),
        log=None if log is None else LogFacts(log.bytes("id", length=32), log.int("size", min=1)),
    )
    if log is not None:
        log.done()
    fields.done()
    return header


def _parse_purpose(text: str) -> Purpose:
    try:
        return Purpose(text)
    except ValueError as exc:
        raise MalformedError(f"archive: header: an archive for {text!r}") from exc


def _encode_end(totals: ArchiveTotals) -> bytes:
    return encode({"sections": totals.sections, "bytes": totals.size, "digest": totals.digest})


def _parse_end(payload: bytes) -> ArchiveTotals:
    fields = Fields(decode(payload), "archive: trailer")
    totals = ArchiveTotals(fields.int("sections"), fields.int("bytes"), fields.bytes("digest", length=32))
    fields.done()
    return totals

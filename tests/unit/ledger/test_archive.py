"""The container: what is written comes back, and nothing that was cut, swapped, padded or forged passes for whole."""

from __future__ import annotations

import io
import struct
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.contexts import ARCHIVE_DIGEST
from identity.encoding import decode, encode
from identity.errors import AuditError, LimitExceeded, MalformedError, RootMismatch, StorageError
from ledger.archive import (
    CHUNK_BYTES,
    FIRST_LINE,
    ArchiveHeader,
    ArchiveReader,
    ArchiveTotals,
    ArchiveWriter,
    LogFacts,
    Purpose,
)

HEADER = ArchiveHeader(bytes(range(32)), Purpose.BACKUP, 1_790_000_000_000, b"\7" * 32, 1, 2, LogFacts(b"\3" * 32, 5))

Sections = list[tuple[str, dict[str, Any], bytes]]
Records = list[tuple[bytes, bytes]]

SECTIONS: Sections = [("one", {}, b"first"), ("two", {"n": 2}, b""), ("two", {"n": 3}, b"x" * (CHUNK_BYTES + 1))]


def archive(sections: Sections = SECTIONS) -> bytes:
    out = io.BytesIO()
    writer = ArchiveWriter(out, HEADER)
    for name, facts, content in sections:
        with writer.section(name, facts) as stream:
            stream.write(content)
    writer.finish()
    return out.getvalue()


def read(data: bytes) -> Sections:
    found = []
    for section in ArchiveReader(io.BytesIO(data)).sections():
        facts = {name: section.facts.value(name) for name in ("n",) if section.facts.has(name)}
        section.facts.done()
        found.append((section.name, facts, section.content.read()))
    return found


def take_apart(data: bytes) -> Records:
    data = data.removeprefix(FIRST_LINE)
    records = []
    while data:
        size = int.from_bytes(data[1:5], "big")
        records.append((data[:1], data[5 : 5 + size]))
        data = data[5 + size :]
    return records


def raw(records: Records) -> bytes:
    return FIRST_LINE + b"".join(kind + struct.pack(">I", len(payload)) + payload for kind, payload in records)


def sealed(records: Records) -> bytes:
    """The records, with a trailer that fits whatever was done to those before it: what a forger writes."""
    body = raw([record for record in records if record[0] != b"E"])
    sections = sum(kind == b"S" for kind, _ in records)
    digest = sha256(ARCHIVE_DIGEST + body).digest()
    end = encode({"sections": sections, "bytes": len(body), "digest": digest})
    return body + b"E" + struct.pack(">I", len(end)) + end


def test_what_is_written_is_read() -> None:
    assert read(archive()) == SECTIONS


def test_the_header_comes_back() -> None:
    assert ArchiveReader(io.BytesIO(archive())).header == HEADER
    bare = ArchiveHeader(b"\1" * 32, Purpose.EXPORT, 0, None, 0, 0, None)
    out = io.BytesIO()
    ArchiveWriter(out, bare).finish()
    assert ArchiveReader(io.BytesIO(out.getvalue())).header == bare


def test_the_totals_are_those_of_the_trailer() -> None:
    out = io.BytesIO()
    writer = ArchiveWriter(out, HEADER)
    with writer.section("one") as stream:
        stream.write(b"first")
    totals = writer.finish()
    reader = ArchiveReader(io.BytesIO(out.getvalue()))
    assert [section.content.read() for section in reader.sections()] == [b"first"]
    assert reader.totals == totals == ArchiveTotals(1, totals.size, sha256_of_body(out.getvalue(), totals.size))


def sha256_of_body(data: bytes, size: int) -> bytes:
    return sha256(ARCHIVE_DIGEST + data[:size]).digest()


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.binary(max_size=100)), max_size=5))
def test_round_trip(parts: list[tuple[str, bytes]]) -> None:
    sections: Sections = [(name, {}, content) for name, content in parts]
    assert read(archive(sections)) == sections


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_content_of_every_length_about_a_chunk(size: int) -> None:
    content = bytes(size)
    data = archive([("one", {}, content)])
    assert read(data) == [("one", {}, content)]
    assert [len(payload) for kind, payload in take_apart(data) if kind == b"D"] == [
        min(CHUNK_BYTES, size - start) for start in range(0, size, CHUNK_BYTES)
    ]


def test_how_content_was_written_does_not_matter() -> None:
    pieces = [b"a" * 7, b"b" * CHUNK_BYTES, b"", b"c" * (2 * CHUNK_BYTES + 5)]
    out = io.BytesIO()
    writer = ArchiveWriter(out, HEADER)
    with writer.section("one") as stream:
        for piece in pieces:
            stream.write(piece)
    writer.finish()
    assert out.getvalue() == archive([("one", {}, b"".join(pieces))])


# --- what is not whole


SMALL: Sections = [("one", {}, b"first"), ("two", {"n": 2}, b"second")]


def test_truncated_at_every_byte() -> None:
    data = archive(SMALL)
    for size in range(len(data)):
        with pytest.raises(MalformedError):
            read(data[:size])


def test_every_flipped_bit_is_noticed() -> None:
    data = archive(SMALL)
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            with pytest.raises(AuditError):
                read(bytes(flipped))


def test_bytes_after_the_trailer() -> None:
    with pytest.raises(MalformedError, match="after the end"):
        read(archive() + b"\0")


def test_a_changed_byte_of_content_is_a_wrong_digest() -> None:
    data = archive(SMALL)
    with pytest.raises(RootMismatch, match="digest"):
        read(data.replace(b"second", b"sekond"))


def test_the_trailer_of_another_number_of_sections() -> None:
    records = take_apart(archive(SMALL))
    fields: Any = decode(records[-1][1])
    records[-1] = (b"E", encode({**fields, "sections": 3}))
    with pytest.raises(MalformedError, match="trailer counts 3 sections"):
        read(raw(records))


# --- what a forger writes


def forged(*, drop: int | None = None, insert: tuple[int, bytes, bytes] | None = None) -> bytes:
    records = take_apart(archive(SMALL))
    if drop is not None:
        del records[drop]
    if insert is not None:
        records.insert(insert[0], (insert[1], insert[2]))
    return sealed(records)


def test_the_forger_can_seal() -> None:
    """The digest is no secret; this shows that the cases below are refused for what is wrong with them."""
    assert sealed(take_apart(archive(SMALL))) == archive(SMALL)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (forged(drop=0), "where the header belongs"),
        (forged(drop=1), "between sections"),
        (forged(drop=2), "has 0 bytes, its end says 5"),
        (forged(drop=3), "within section 'one'"),
        (forged(insert=(1, b"H", b"")), "between sections"),
        (forged(insert=(3, b"D", b"more")), "after a chunk that was not full"),
        (forged(insert=(2, b"D", b"")), "after a chunk that was not full"),
        (forged(insert=(1, b"Q", b"")), "unknown record"),
        (forged(insert=(1, b"D", bytes(CHUNK_BYTES + 1))), "at most 65536"),
        (archive(SMALL).replace(b"v1 archive", b"v2 archive"), "does not begin with the line"),
        (b"", "ends before"),
    ],
)
def test_records_out_of_place(data: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        read(data)


def section_head(**changes: object) -> bytes:
    head = {"archive": HEADER.archive_id, "name": "one", "facts": {}} | changes
    return sealed([*take_apart(archive([]))[:1], (b"S", encode(head)), (b"Z", encode({"bytes": 0}))])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (section_head(archive=bytes(32)), "'one' is of another archive"),
        (section_head(archive=b"short"), "must have 32"),
        (section_head(name=""), "at least 1"),
        (section_head(name="n" * 33), "at most 32"),
        (section_head(name=7), "must be text"),
        (section_head(facts=[]), "not a map"),
        (section_head(extra=1), "unknown key 'extra'"),
        (section_head(facts={"x": 1}), "unknown key 'x'"),
    ],
)
def test_section_heads(data: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        read(data)


def header(**changes: object) -> bytes:
    fields: Any = decode(take_apart(archive([]))[0][1])
    fields |= changes
    return sealed([(b"H", encode({name: value for name, value in fields.items() if value != "absent"}))])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header(id=b""), "must have 32"),
        (header(purpose="fun"), "an archive for 'fun'"),
        (header(made=-1), "must be in"),
        (header(store=b"\1"), "must have 32"),
        (header(feeds=-1), "must be in"),
        (header(identities=True), "must be an integer"),
        (header(log={"id": bytes(32), "size": 0}), "must be in"),
        (header(log={"id": bytes(32), "size": 1, "x": 1}), "unknown key 'x'"),
        (header(log="absent"), "'log' is missing"),
        (header(extra=1), "unknown key 'extra'"),
    ],
)
def test_headers(data: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        read(data)


@pytest.mark.parametrize("kind", [b"H", b"S", b"D", b"Z", b"E"])
def test_a_length_that_is_too_large_is_refused_before_it_is_read(kind: bytes) -> None:
    """Row E2: a few bytes that promise four gigabytes."""

    class Counted(io.BytesIO):
        asked = 0

        def read(self, size: int | None = -1) -> bytes:
            Counted.asked = max(Counted.asked, size or 0)
            return super().read(size)

    data = raw(take_apart(archive(SMALL))[:1]) + kind + b"\xff\xff\xff\xff"
    with pytest.raises(LimitExceeded):
        list(ArchiveReader(Counted(data)).sections())
    assert Counted.asked <= CHUNK_BYTES


def test_a_section_that_is_not_read_to_its_end() -> None:
    sections = ArchiveReader(io.BytesIO(archive())).sections()
    next(sections).content.read(2)
    with pytest.raises(MalformedError, match="bytes after the end of what section 'one' holds"):
        next(sections)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        read(data)
    with pytest.raises(AuditError):
        read(FIRST_LINE + data)


# --- the medium


def test_a_medium_that_is_full() -> None:
    class Full(io.BytesIO):
        def write(self, data: Any, /) -> int:
            if self.tell() + len(data) > 1000:
                raise OSError(28, "No space left on device")
            return super().write(data)

    writer = ArchiveWriter(Full(), HEADER)
    with pytest.raises(StorageError, match="No space left"), writer.section("one") as stream:
        stream.write(bytes(100_000))


def test_a_section_that_was_given_up_writes_nothing_later() -> None:
    out = io.BytesIO()
    writer = ArchiveWriter(out, HEADER)
    with pytest.raises(ZeroDivisionError), writer.section("one") as stream:
        stream.write(b"half")
        raise ZeroDivisionError
    size = len(out.getvalue())
    del stream
    assert len(out.getvalue()) == size

"""The format of bundles: what was written is read, and nothing that is cut, altered, reordered, padded or too large."""

from __future__ import annotations

import io
import struct
import tracemalloc
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.contexts import BUNDLE_DIGEST
from identity.encoding import decode, encode
from identity.errors import AuditError, LimitExceeded, MalformedError, RootMismatch, StorageError, VerificationError
from ledger.store import FeedKey, SignedHead
from sync import bundle
from sync.bundle import (
    FIRST_LINE,
    BlockRecord,
    BundleHeader,
    BundleReader,
    BundleWriter,
    EventRecord,
    FeedRecord,
    Point,
    Record,
    RunRecord,
    read_have,
)
from sync.transaction import Founding, database_id

FOUNDING = Founding("bank", b"\1" * 32, b"\2" * 16)
HEADER = BundleHeader(database_id(FOUNDING), "bank", FOUNDING, 1_800_000_000_000)
HEAD = SignedHead(2, b"\7" * 32, b"\x01\x00" + b"\x08" * 66)
RECORDS: list[Record] = [
    Point(FeedKey(b"\3" * 32), 2, b"\4" * 32),
    Point(FeedKey(b"\3" * 32), 5, b"\4" * 32),
    EventRecord(b"an event"),
    FeedRecord(b"a manifest"),
    RunRecord(0, b"\5" * 32),
    BlockRecord(b"zero"),
    BlockRecord(b""),
    HEAD,
    RunRecord(7, b"\6" * 32),
    BlockRecord(b"seven"),
    SignedHead(8, b"\7" * 32, b"s"),
    FeedRecord(b"another"),
    RunRecord(0, b"\5" * 32),
    BlockRecord(b"first"),
    SignedHead(1, b"\7" * 32, b"s"),
]


def written(records: list[Record], header: BundleHeader = HEADER) -> bytes:
    out = io.BytesIO()
    writer = BundleWriter(out, header)
    for record in records:
        writer.add(record)
    writer.finish()
    return out.getvalue()


def read(data: bytes) -> list[Record]:
    return list(BundleReader(io.BytesIO(data)).records())


def take_apart(data: bytes) -> list[tuple[bytes, bytes]]:
    assert data.startswith(FIRST_LINE)
    data, records = data[len(FIRST_LINE) :], []
    while data:
        size = int.from_bytes(data[1:5], "big")
        records.append((data[:1], data[5 : 5 + size]))
        data = data[5 + size :]
    return records


def put_together(records: list[tuple[bytes, bytes]]) -> bytes:
    """A bundle of these records, with a trailer to fit."""
    data = FIRST_LINE + b"".join(kind + struct.pack(">I", len(payload)) + payload for kind, payload in records)
    end = encode({"records": len(records), "bytes": len(data), "digest": sha256(BUNDLE_DIGEST + data).digest()})
    return data + b"E" + struct.pack(">I", len(end)) + end


SMALL = written(RECORDS)


def test_round_trip() -> None:
    reader = BundleReader(io.BytesIO(SMALL))
    assert reader.header == HEADER
    assert list(reader.records()) == RECORDS
    assert reader.totals is not None
    assert put_together(take_apart(SMALL)[:-1]) == SMALL


@given(
    st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=4), max_size=5), st.integers(0, 2**52), st.booleans()
)
def test_what_is_written_is_read(batches: list[list[bytes]], start: int, founded: bool) -> None:
    records: list[Record] = [FeedRecord(b"m"), RunRecord(start, b"\1" * 32)] if batches else []
    for batch in batches:
        records += [*map(BlockRecord, batch), SignedHead(max(start, 1), b"\2" * 32, b"signed")]
    header = HEADER if founded else BundleHeader(HEADER.database, "other name", None, 0)
    data = written(records, header)
    assert (BundleReader(io.BytesIO(data)).header, read(data)) == (header, records)


def test_what_a_sender_has_is_read_from_any_bundle() -> None:
    have = read_have(io.BytesIO(SMALL))
    assert have.header == HEADER
    assert have.points == {b"\3" * 32: tuple(RECORDS[:2])}
    assert read_have(io.BytesIO(written([]))).points == {}


def test_every_byte_counts() -> None:
    for place in range(len(SMALL)):
        for bit in (0, 7):
            data = bytearray(SMALL)
            data[place] ^= 1 << bit
            with pytest.raises(AuditError):
                read(bytes(data))


def test_a_bundle_that_is_cut_is_refused_wherever() -> None:
    for length in range(len(SMALL)):
        with pytest.raises(MalformedError):
            read(SMALL[:length])


def test_bytes_behind_the_end_are_refused() -> None:
    with pytest.raises(MalformedError, match="after the end"):
        read(SMALL + b"\0")
    with pytest.raises(MalformedError):
        read(SMALL + SMALL)


def test_another_digest_is_told_from_another_count() -> None:
    records = take_apart(SMALL)
    end: Any = decode(records[-1][1])
    for change, error in (
        ({"digest": bytes(32)}, RootMismatch),
        ({"records": end["records"] + 1}, MalformedError),
        ({"bytes": 0}, MalformedError),
        ({"more": 1}, MalformedError),
    ):
        payload = encode({**end, **change})
        data = SMALL[: -5 - len(records[-1][1])] + b"E" + struct.pack(">I", len(payload)) + payload
        with pytest.raises(error):
            read(data)


@pytest.mark.parametrize("first", range(1, len(RECORDS)))
def test_records_that_change_places_are_refused(first: int) -> None:
    records = take_apart(SMALL)[:-1]
    for second in range(first + 1, len(records)):
        swapped = list(records)
        swapped[first], swapped[second] = swapped[second], swapped[first]
        if [kind for kind, _ in swapped] != [kind for kind, _ in records]:
            with pytest.raises(MalformedError):
                read(put_together(swapped))


@pytest.mark.parametrize(
    "order",
    ["", "V", "DD", "DB", "DH", "DR", "DM", "DMB", "DMR", "DMRH", "DMRB", "DMRBR", "DMRBM", "DIV", "DMRBHI", "DMRBHV"],
)
def test_the_grammar(order: str) -> None:
    payloads = dict(take_apart(SMALL))
    with pytest.raises(MalformedError):
        read(put_together([(kind.encode(), payloads[kind.encode()]) for kind in order]))


def test_what_a_sender_has_stands_in_order() -> None:
    for points in ([RECORDS[1], RECORDS[0]], [RECORDS[0], RECORDS[0]]):
        with pytest.raises(MalformedError, match="ascending"):
            read(written(points))


HEADER_FIELDS: dict[str, Any] = {
    "id": HEADER.database,
    "name": "bank",
    "founding": {"name": "bank", "identity": b"\1" * 32, "salt": b"\2" * 16},
    "made": 0,
}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"id": bytes(31)}, MalformedError),
        ({"id": bytes(32)}, VerificationError),
        ({"name": ""}, MalformedError),
        ({"name": "a\nb"}, MalformedError),
        ({"made": -1}, MalformedError),
        ({"made": "now"}, MalformedError),
        ({"founding": {**HEADER_FIELDS["founding"], "salt": bytes(16)}}, VerificationError),
        ({"founding": {**HEADER_FIELDS["founding"], "salt": bytes(15)}}, MalformedError),
        ({"founding": {**HEADER_FIELDS["founding"], "more": 1}}, MalformedError),
        ({"founding": {}}, MalformedError),
        ({"extra": None}, MalformedError),
    ],
)
def test_headers_that_are_none(change: dict[str, Any], error: type[AuditError]) -> None:
    with pytest.raises(error):
        BundleReader(io.BytesIO(put_together([(b"D", encode({**HEADER_FIELDS, **change}))])))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("V", {"feed": bytes(31), "length": 1, "tree": bytes(32)}),
        ("V", {"feed": bytes(32), "length": 0, "tree": bytes(32)}),
        ("V", {"feed": bytes(32), "length": 2**52 + 1, "tree": bytes(32)}),
        ("V", {"feed": bytes(32), "length": 1, "tree": bytes(32), "more": 0}),
        ("R", {"from": -1, "tree": bytes(32)}),
        ("R", {"from": 0}),
        ("R", {"from": 0, "tree": bytes(33)}),
        ("H", {"length": 0, "tree": bytes(32), "signature": b"s"}),
        ("H", {"length": 1, "tree": bytes(31), "signature": b"s"}),
        ("H", {"length": 1, "tree": bytes(32), "signature": bytes(513)}),
        ("H", {"length": True, "tree": bytes(32), "signature": b"s"}),
    ],
)
def test_records_that_are_none(kind: str, fields: dict[str, Any]) -> None:
    records = take_apart(SMALL)[:-1]
    place = [one for one, _ in records].index(kind.encode())
    records[place] = (kind.encode(), encode(fields))
    with pytest.raises(MalformedError):
        read(put_together(records))


@pytest.mark.parametrize("kind", "DVIMRBHE")
def test_a_length_is_refused_before_anything_is_read(kind: str) -> None:
    class Bomb(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            assert size is not None
            assert size < 4096
            return super().read(size)

    before = b"" if kind == "D" else SMALL[: len(FIRST_LINE) + 5 + len(take_apart(SMALL)[0][1])][len(FIRST_LINE) :]
    with pytest.raises(LimitExceeded):
        list(BundleReader(Bomb(FIRST_LINE + before + kind.encode() + b"\xff\xff\xff\xff")).records())


def test_unknown_records_are_refused() -> None:
    for kind in (b"X", b"d", b"\0"):
        with pytest.raises(MalformedError, match="unknown record"):
            read(put_together([*take_apart(SMALL)[:-1], (kind, b"")]))


def test_any_number_of_records_is_read_in_bounded_memory() -> None:
    class Source(io.RawIOBase):
        """As many empty blocks as somebody cares to read."""

        def __init__(self) -> None:
            begin = put_together(take_apart(SMALL)[:1] + take_apart(written([*RECORDS[3:5], RECORDS[5], HEAD]))[1:4])
            self._begin = io.BytesIO(begin[: begin.rindex(b"E\0\0\0")])

        def read(self, size: int = -1, /) -> bytes:
            return self._begin.read(size) or (b"B\0\0\0\0")[:size]

    reader = BundleReader(Source())  # type: ignore[arg-type]
    records = reader.records()
    tracemalloc.start()
    try:
        for _ in range(60_000):
            next(records)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_too_many_lines_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MAX_POINTS", 1)
    with pytest.raises(LimitExceeded):
        read_have(io.BytesIO(SMALL))


def test_streams_that_fail() -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError("gone")

        def write(self, data: Any, /) -> int:
            raise OSError("full")

    with pytest.raises(StorageError):
        BundleReader(Failing())
    with pytest.raises(StorageError):
        BundleWriter(Failing(), HEADER)

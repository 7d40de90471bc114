"""Files of records: what does not begin, end or fit as it says is refused before it is read."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.errors import LimitExceeded, MalformedError, StorageError
from ledger.framing import RecordReader, encode_record

LIMITS = {b"A": 3, b"B": 300}


def reader(data: bytes) -> RecordReader:
    return RecordReader(io.BytesIO(data), "test file", LIMITS)


@given(st.lists(st.tuples(st.just(b"A"), st.binary(max_size=3)) | st.tuples(st.just(b"B"), st.binary(max_size=300))))
def test_records_come_back(records: list[tuple[bytes, bytes]]) -> None:
    reading = reader(b"line\n" + b"".join(encode_record(*record) for record in records))
    reading.first_line(b"line\n")
    assert [reading.record() for _ in records] == records
    reading.end()
    with pytest.raises(MalformedError, match="ends before"):
        reading.record()


def test_layout() -> None:
    assert encode_record(b"A", b"xyz") == b"A\0\0\0\3xyz"


@pytest.mark.parametrize("data", [b"", b"line", b"Line\n", b"line\r\n"])
def test_first_line(data: bytes) -> None:
    with pytest.raises(MalformedError):
        reader(data).first_line(b"line\n")


@pytest.mark.parametrize("data", [b"", b"A", b"A\0\0\0", b"A\0\0\0\3", b"A\0\0\0\3xy", b"C\0\0\0\0", b"a\0\0\0\0"])
def test_record_that_is_none(data: bytes) -> None:
    with pytest.raises(MalformedError):
        reader(data).record()


@pytest.mark.parametrize("length", [b"\0\0\0\4", b"\xff\xff\xff\xff", b"\3\0\0\0"])
def test_length_beyond_its_limit(length: bytes) -> None:
    with pytest.raises(LimitExceeded):
        reader(b"A" + length + b"x" * 10).record()


def test_bytes_after_the_end() -> None:
    reading = reader(b"A\0\0\0\0!")
    reading.record()
    with pytest.raises(MalformedError, match="after the end"):
        reading.end()


def test_medium_that_fails() -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError("I/O error")

    with pytest.raises(StorageError, match="cannot read the test file"):
        RecordReader(Failing(), "test file", LIMITS).record()

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.encoding import MAX_BYTES, Value, encode
from identity.errors import LimitExceeded, MalformedError, UnsupportedVersion
from ledger.entry import (
    MAX_CLAIMED_MS,
    Entry,
    Record,
    encode_entry,
    encode_record,
    parse_entry,
    parse_record,
    record_entry,
)

bodies = st.dictionaries(
    st.text(max_size=6), st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=5) | st.binary(max_size=5)
)
entries = st.builds(
    Entry,
    kind=st.from_regex(r"[a-z][a-z0-9-]{0,31}", fullmatch=True),
    claimed_ms=st.integers(0, MAX_CLAIMED_MS),
    body=bodies,
)
ENTRY = {"v": 1, "k": "record", "t": 1_764_000_000_000, "b": {"table": "trans", "fields": {"amount": {"$dec": "7.50"}}}}


@given(entries)
def test_round_trip(entry: Entry) -> None:
    assert parse_entry(encode_entry(entry)) == entry


@given(entries, st.data())
def test_a_flipped_bit_is_refused_or_says_something_else(entry: Entry, data: st.DataObject) -> None:
    encoded = bytearray(encode_entry(entry))
    bit = data.draw(st.integers(0, 8 * len(encoded) - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    try:
        changed = parse_entry(bytes(encoded))
    except MalformedError:
        return
    assert changed != entry
    assert encode_entry(changed) == bytes(encoded)


@given(st.binary(max_size=100))
def test_foreign_blocks_give_malformed_errors_only(block: bytes) -> None:
    try:
        entry = parse_entry(block)
    except MalformedError:
        return
    assert encode_entry(entry) == block


def test_unknown_kinds_are_kept_as_they_are() -> None:
    body: dict[str, Value] = {"$whatever": [1, {"$dec": "not looked at"}], "x": b"\x00"}
    entry = parse_entry(encode({"v": 1, "k": "from-the-future", "t": 0, "b": body}))
    assert entry == Entry("from-the-future", 0, body)
    with pytest.raises(MalformedError):
        parse_record(entry)


@pytest.mark.parametrize("key", ENTRY)
def test_every_member_is_needed(key: str) -> None:
    with pytest.raises(MalformedError):
        parse_entry(encode({name: value for name, value in ENTRY.items() if name != key}))


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("v", 2, UnsupportedVersion),
        ("v", 0, UnsupportedVersion),
        ("v", True, MalformedError),
        ("v", "1", MalformedError),
        ("k", "", MalformedError),
        ("k", "Record", MalformedError),
        ("k", "1st", MalformedError),
        ("k", "a_b", MalformedError),
        ("k", "record\n", MalformedError),
        ("k", "a" * 33, MalformedError),
        ("k", b"record", MalformedError),
        ("t", -1, MalformedError),
        ("t", MAX_CLAIMED_MS + 1, MalformedError),
        ("t", None, MalformedError),
        ("t", "0", MalformedError),
        ("b", None, MalformedError),
        ("b", [], MalformedError),
        ("b", "text", MalformedError),
        ("extra", 1, MalformedError),
    ],
)
def test_members_out_of_bounds(key: str, value: Any, error: type[MalformedError]) -> None:
    with pytest.raises(error):
        parse_entry(encode({**ENTRY, key: value}))


@pytest.mark.parametrize(
    "block",
    [b"", b"\x00", b"{}", b"\xa0", encode(ENTRY) + b"\x00", encode(ENTRY)[:-1], encode([ENTRY]), b"\xff" * 100],
)
def test_blocks_that_are_no_entry(block: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_entry(block)


def test_floats_are_refused() -> None:
    with pytest.raises(MalformedError):
        parse_entry(encode({**ENTRY, "b": {"amount": 1.5}}, floats=True))
    with pytest.raises(MalformedError):
        encode_entry(Entry("record", 0, {"amount": 1.5}))


def test_a_block_is_at_most_a_mebibyte() -> None:
    room = MAX_BYTES - len(encode_entry(Entry("note", 0, {"x": bytes(65536)}))) + 65536
    block = encode_entry(Entry("note", 0, {"x": bytes(room)}))
    assert len(block) == MAX_BYTES
    assert len(parse_entry(block).body["x"]) == room  # type: ignore[arg-type]
    with pytest.raises(LimitExceeded):
        encode_entry(Entry("note", 0, {"x": bytes(room + 1)}))
    with pytest.raises(LimitExceeded):
        parse_entry(block + b"\0")


def test_records() -> None:
    record = Record("trans", {"amount": {"$dec": "7.50"}, "note": None})
    entry = record_entry(record, 5)
    assert entry.kind == "record"
    assert parse_record(parse_entry(encode_entry(entry))) == record


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"table": "t"},
        {"fields": {}},
        {"table": "t", "fields": {}, "more": 1},
        {"table": "", "fields": {}},
        {"table": "a\nb", "fields": {}},
        {"table": "t" * 201, "fields": {}},
        {"table": b"t", "fields": {}},
        {"table": "t", "fields": []},
        {"table": "t", "fields": None},
        {"table": "t", "fields": {"": 1}},
        {"table": "t", "fields": {"$x": 1}},
        {"table": "t", "fields": {"a\x00": 1}},
        {"table": "t", "fields": {"a" * 201: 1}},
        {"table": "t", "fields": {"a": {"$dec": "1e5"}}},
        {"table": "t", "fields": {"a": [{"$other": 1}]}},
    ],
)
def test_bodies_that_are_no_record(body: dict[str, Any]) -> None:
    entry = parse_entry(encode({"v": 1, "k": "record", "t": 0, "b": body}))
    with pytest.raises(MalformedError):
        parse_record(entry)


@pytest.mark.parametrize(("kind", "claimed"), [("", 0), ("A", 0), ("a", -1), ("a", MAX_CLAIMED_MS + 1)])
def test_entries_that_cannot_be_written(kind: str, claimed: int) -> None:
    with pytest.raises(MalformedError):
        Entry(kind, claimed, {})


stored = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.text(max_size=30)
    | st.binary(max_size=40)
    | st.sampled_from(
        [b"\xd8\x2a\x58\x25" + bytes(40), {"$dec": "1.50"}, {"$dec": "01"}, {"$date": "2026-02-30"}, {"$x": 1}]
    )
    | st.fixed_dictionaries({"$ts": st.integers(-(2**62), 2**62)})
    | st.lists(st.text(max_size=3) | st.floats(), max_size=3)
    | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)
)


@given(st.text(max_size=4), st.dictionaries(st.text(max_size=8), stored, max_size=6), st.integers(-2, 2**50))
def test_a_record_is_encoded_as_its_entry_is(table: str, fields: dict[str, Any], claimed_ms: int) -> None:
    """The quick way and the long one agree on the bytes, and on what is refused."""
    try:
        expected = encode_entry(record_entry(Record(table, fields), claimed_ms))
    except MalformedError as exc:
        with pytest.raises(type(exc)):
            encode_record(table, fields, claimed_ms)
    else:
        assert encode_record(table, fields, claimed_ms) == expected


@pytest.mark.parametrize("fields", [{"a": "x" * MAX_BYTES}, {str(n): n for n in range(40_000)}], ids=["bytes", "items"])
def test_a_record_beyond_the_limits_is_refused_the_quick_way_too(fields: dict[str, Any]) -> None:
    with pytest.raises(LimitExceeded):
        encode_record("t", fields, 0)

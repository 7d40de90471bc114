"""Entries: what a block of a holdfast feed says, decoded.

Implements docs/spec/entry.md. Who wrote an entry and where it stands is not in it: the feed's key and the index say
so. The claimed time is a claim. An entry of a kind that this reader does not know is kept and shown as it is, never
guessed at; a block that is not an entry at all (a foreign feed's) is opaque bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from identity.encoding import MAX_ITEMS, Fields, Value, decode, encode, encode_scalars
from identity.errors import MalformedError, UnsupportedVersion
from identity.textforms import check_name
from ledger.values import check_scalars, check_value

__all__ = [
    "ENTRY_VERSION",
    "MAX_CLAIMED_MS",
    "RECORD",
    "Entry",
    "Record",
    "encode_entry",
    "encode_record",
    "parse_entry",
    "parse_record",
    "record_entry",
]

ENTRY_VERSION: Final = 1

RECORD: Final = "record"
"""The kind of an entry whose body is a ``Record``."""

MAX_CLAIMED_MS: Final = 253_402_300_799_999
"""The last millisecond of the year 9999."""

_MAX_PLAIN: Final = MAX_ITEMS // 8
"""Fields of a record that cannot reach the limit of items: each is a name and at most a map of one member."""

_KIND: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: its kind, the time its author claims (milliseconds UTC since 1970), its body.

    A kind is 1 to 32 of a-z, 0-9 and '-', a letter first. What the body must hold depends on the kind.
    """

    kind: str
    claimed_ms: int
    body: Mapping[str, Value]

    def __post_init__(self) -> None:
        if self.kind != RECORD and not _KIND.fullmatch(self.kind):
            raise MalformedError("entry: a kind is 1 to 32 of a-z, 0-9 and '-', a letter first")
        if not 0 <= self.claimed_ms <= MAX_CLAIMED_MS:
            raise MalformedError("entry: the claimed time is not within the years 1970 to 9999")


@dataclass(frozen=True, slots=True)
class Record:
    """A row as it was written: the table's name, and for each field a stored value (``ledger.values``)."""

    table: str
    fields: Mapping[str, Value]

    def __post_init__(self) -> None:
        _check_names(self.table, tuple(self.fields))
        for value in self.fields.values():
            check_value(value)


@lru_cache(maxsize=16)  # the records of a table have the same names; hostile ones may be long
def _check_names(table: str, names: tuple[str, ...]) -> None:
    check_name(table, "record: the table")
    for name in names:
        check_name(name, "record: a field")
        if name.startswith("$"):
            raise MalformedError(f"record: the field name {name!r} is reserved")


def encode_entry(entry: Entry) -> bytes:
    """The block's bytes. Raises ``LimitExceeded`` beyond 1 MiB, ``MalformedError`` for what CBOR cannot hold."""
    return encode({"v": ENTRY_VERSION, "k": entry.kind, "t": entry.claimed_ms, "b": dict(entry.body)})


def parse_entry(block: bytes) -> Entry:
    """Read a block as an entry of any kind; the body is not looked into.

    Raises ``MalformedError`` when the block is not an entry, ``UnsupportedVersion`` when it is one of a later version.
    """
    fields = Fields(decode(block), "entry")
    version = fields.int("v")
    if version != ENTRY_VERSION:
        raise UnsupportedVersion(f"entry: version {version}, this reader knows {ENTRY_VERSION}")
    entry = Entry(kind=fields.text("k", max=32), claimed_ms=fields.int("t"), body=fields.dict("b"))
    fields.done()
    return entry


def record_entry(record: Record, claimed_ms: int) -> Entry:
    """The entry that carries the record."""
    return Entry(RECORD, claimed_ms, {"table": record.table, "fields": dict(record.fields)})


def encode_record(table: str, fields: Mapping[str, Value], claimed_ms: int) -> bytes:
    """``encode_entry(record_entry(Record(table, fields), claimed_ms))``, in a third of the time where it can be.

    What an import spends its time with: a row of plain values is looked at once, and no objects are made of it.
    """
    _check_names(table, tuple(fields))
    if not 0 <= claimed_ms <= MAX_CLAIMED_MS or len(fields) > _MAX_PLAIN or not check_scalars(fields.values()):
        return encode_entry(record_entry(Record(table, fields), claimed_ms))
    body: dict[str, Value] = {"table": table, "fields": fields if type(fields) is dict else dict(fields)}
    return encode_scalars({"v": ENTRY_VERSION, "k": RECORD, "t": claimed_ms, "b": body})


def parse_record(entry: Entry) -> Record:
    """The record that the entry carries. Raises ``MalformedError`` for another kind, or a body that is no record."""
    if entry.kind != RECORD:
        raise MalformedError(f"entry: of kind {entry.kind!r}, not a record")
    fields = Fields(dict(entry.body), "record")
    record = Record(fields.name("table"), fields.dict("fields"))
    fields.done()
    return record

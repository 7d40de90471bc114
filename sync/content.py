"""What an entry of a database carries: one of seven kinds of content, read or not to be read.

Whoever takes entries in begins here: the tables that are kept up to date (``sync.storage.projection``) and the replay
that they are held against (``sync.replay``), which share how an entry is read and nothing of how it is judged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, TypeAlias

from identity.errors import MalformedError
from ledger.entry import Entry, parse_entry
from sync.acts import MemberEntry, parse_member
from sync.intent import misattributed
from sync.serial import (
    DECIDE,
    HOME,
    PROPOSE,
    HomeEntry,
    Proposal,
    Rejection,
    parse_home,
    parse_proposal,
    parse_rejection,
)
from sync.transaction import (
    CKPT,
    ERASE,
    MEMBER,
    TXN,
    Erasure,
    Stamp,
    StateRoot,
    Transaction,
    parse_erasure,
    parse_stamp_of,
    parse_state_root,
    parse_transaction,
)

__all__ = ["Content", "ReadEntry", "entry_of", "read_entry"]

Content: TypeAlias = Transaction | MemberEntry | StateRoot | Erasure | Proposal | Rejection | HomeEntry
"""What an entry of a database carries."""


def entry_of(database: bytes, block: bytes) -> Entry | None:
    """The entry that a block is, when it is one of the database; whatever else is in a feed is nothing to it. Total."""
    try:
        entry = parse_entry(block)
    except MalformedError:
        return None
    return entry if entry.kind in _PARSERS and entry.body.get("db") == database else None


class ReadEntry(NamedTuple):
    """An entry as it was read: what it carries, or why that cannot be read. ``stamp`` may be readable all the same."""

    kind: str
    stamp: Stamp | None
    content: Content | None
    reason: str | None


def read_entry(entry: Entry) -> ReadEntry:
    """Read an entry of one of a database's kinds. Total."""
    try:
        content = _PARSERS[entry.kind](entry)
    except MalformedError as exc:
        return ReadEntry(entry.kind, parse_stamp_of(entry), None, f"malformed: {exc}")
    if isinstance(content, Transaction) and (reason := misattributed(content)) is not None:
        return ReadEntry(entry.kind, content.stamp, None, reason)
    return ReadEntry(entry.kind, content.stamp, content, None)


_PARSERS: Final[Mapping[str, Callable[[Entry], Content]]] = {
    TXN: parse_transaction,
    MEMBER: parse_member,
    CKPT: parse_state_root,
    ERASE: parse_erasure,
    PROPOSE: parse_proposal,
    DECIDE: parse_rejection,
    HOME: parse_home,
}

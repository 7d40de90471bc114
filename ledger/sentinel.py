"""The sentinel: what a store held when it was last written, kept outside of it, and what a start makes of the two.

Implements docs/spec/sentinel.md. A database that was put back to an older state holds less than its sentinel says; a
copy on another machine finds none of its own, or another machine's. Either way this node may have signed more than the
database knows of, so none of its feeds is signed again: writing goes on in feeds that continue them.

The file has two slots of fixed size, written in turn, so that a write that was torn leaves the one before. Everything
here is pure: ``ledger.sentinel_file`` reads and writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import sha256
from typing import Final

from identity.contexts import SENTINEL_CHECKSUM, SENTINEL_MACHINE
from identity.errors import MalformedError
from ledger.log import root_at
from ledger.merkle import HASH_BYTES, tree_hash
from ledger.store import Committed, FeedKey, FeedState, ReadTransaction, stored_tree_hash

__all__ = [
    "FILE_BYTES",
    "MAX_HEADS",
    "SLOT_BYTES",
    "Decision",
    "Reading",
    "Reason",
    "Sentinel",
    "SentinelHead",
    "Shorter",
    "decide",
    "describe_store",
    "encode_slot",
    "find_shorter",
    "machine_digest",
    "parse_slot",
    "read_slots",
    "slot_offset",
    "updated",
]

SLOT_BYTES: Final = 2048
FILE_BYTES: Final = 2 * SLOT_BYTES
MAX_HEADS: Final = 16
"""Feeds whose newest heads a slot names: those that were written last."""

_MAGIC: Final = b"HFSENTN1"
_NUMBER_BYTES: Final = 8
_CHECKSUM_BYTES: Final = 32
_MAX_NUMBER: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class SentinelHead:
    """The newest signed head of one feed when the sentinel was written; length 0 for a feed without any."""

    key: FeedKey
    length: int
    tree_hash: bytes


@dataclass(frozen=True, slots=True)
class Sentinel:
    """What a store held: ``feeds`` local feeds with ``entries`` entries in all, and a log of ``log_size`` leaves.

    Each write of the store makes one of these numbers larger. ``heads`` are those of the feeds that were written last,
    newest first. ``sequence`` counts the writes of the sentinel; ``machine`` is ``machine_digest`` of where it was.
    """

    sequence: int
    store: bytes
    machine: bytes
    feeds: int
    entries: int
    log_size: int
    log_root: bytes
    heads: tuple[SentinelHead, ...]

    def __post_init__(self) -> None:
        if any(len(value) != HASH_BYTES for value in (self.store, self.machine, self.log_root)):
            raise MalformedError("sentinel: ids and roots have 32 bytes")
        if not all(0 <= number <= _MAX_NUMBER for number in self._numbers()) or len(self.heads) > MAX_HEADS:
            raise MalformedError("sentinel: a number beyond its limit")
        if any(len(head.key) != HASH_BYTES or len(head.tree_hash) != HASH_BYTES for head in self.heads):
            raise MalformedError("sentinel: a head is a key, a length and a tree hash")
        if len({head.key for head in self.heads}) != len(self.heads):
            raise MalformedError("sentinel: a feed stands in it twice")

    def _numbers(self) -> tuple[int, ...]:
        return self.sequence, self.feeds, self.entries, self.log_size, *(head.length for head in self.heads)


# --- bytes ----------------------------------------------------------------------------------------------------------


def encode_slot(sentinel: Sentinel) -> bytes:
    """The slot's ``SLOT_BYTES`` bytes: fields, zeros, and a checksum over all before it."""
    parts = [
        _MAGIC,
        _number(sentinel.sequence),
        sentinel.store,
        sentinel.machine,
        _number(sentinel.feeds),
        _number(sentinel.entries),
        _number(sentinel.log_size),
        sentinel.log_root,
        _number(len(sentinel.heads)),
    ]
    for head in sentinel.heads:
        parts += [head.key, _number(head.length), head.tree_hash]
    body = b"".join(parts).ljust(SLOT_BYTES - _CHECKSUM_BYTES, b"\0")
    return body + _checksum(body)


def parse_slot(data: bytes) -> Sentinel:
    """The inverse of ``encode_slot``. Raises ``MalformedError`` for anything that it would not have written."""
    body, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    if len(data) != SLOT_BYTES or not body.startswith(_MAGIC) or checksum != _checksum(body):
        raise MalformedError("sentinel: the slot is torn or altered")
    reader = _Reader(body, len(_MAGIC))
    sequence, store, machine = reader.number(), reader.digest(), reader.digest()
    feeds, entries, log_size, log_root = reader.number(), reader.number(), reader.number(), reader.digest()
    count = reader.number()
    if count > MAX_HEADS:
        raise MalformedError(f"sentinel: {count} heads, at most {MAX_HEADS} have room")
    heads = tuple(SentinelHead(FeedKey(reader.digest()), reader.number(), reader.digest()) for _ in range(count))
    sentinel = Sentinel(sequence, store, machine, feeds, entries, log_size, log_root, heads)
    if encode_slot(sentinel) != data:
        raise MalformedError("sentinel: bytes after the last head")
    return sentinel


def slot_offset(sequence: int) -> int:
    """Where in the file the sentinel of that sequence number stands."""
    return sequence % 2 * SLOT_BYTES


class _Reader:
    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at

    def number(self) -> int:
        return int.from_bytes(self._take(_NUMBER_BYTES), "big")

    def digest(self) -> bytes:
        return self._take(HASH_BYTES)

    def _take(self, count: int) -> bytes:
        self._at += count
        return self._data[self._at - count : self._at]


def _number(value: int) -> bytes:
    return value.to_bytes(_NUMBER_BYTES, "big")


def _checksum(body: bytes) -> bytes:
    return sha256(SENTINEL_CHECKSUM + body).digest()


def machine_digest(machine: bytes) -> bytes:
    """What stands in a sentinel for the machine with that id."""
    return sha256(SENTINEL_MACHINE + machine).digest()


# --- reading it -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reading:
    """What the file says: the newest whole slot, and what is wrong with it. Neither means that there is no file."""

    newest: Sentinel | None
    damage: str | None


def read_slots(data: bytes | None, store: bytes) -> Reading:
    """Read the file of the store with that id; ``data`` is None when there is no file. Raises nothing."""
    if data is None:
        return Reading(None, None)
    if len(data) != FILE_BYTES:
        return Reading(None, f"the sentinel has {len(data)} bytes, not {FILE_BYTES}")
    whole: list[Sentinel] = []
    for place in (0, 1):
        try:
            found = parse_slot(data[place * SLOT_BYTES : (place + 1) * SLOT_BYTES])
        except MalformedError:
            continue
        if found.store == store and found.sequence % 2 == place:
            whole.append(found)
    whole.sort(key=lambda sentinel: sentinel.sequence)
    if not whole:
        return Reading(None, "both slots of the sentinel are torn, altered or another store's")
    if len(whole) == 1:
        return Reading(whole[0], "one slot of the sentinel is torn or altered")
    if whole[1].sequence != whole[0].sequence + 1:
        return Reading(whole[1], "one slot of the sentinel is older than it can be")
    return Reading(whole[1], None)


# --- keeping it -----------------------------------------------------------------------------------------------------


def describe_store(tx: ReadTransaction, store: bytes, machine: bytes, *, sequence: int) -> Sentinel:
    """The sentinel of what the store holds now."""
    feeds = [feed for feed in tx.feeds() if feed.local]
    log = tx.log()
    return Sentinel(
        sequence=sequence,
        store=store,
        machine=machine,
        feeds=len(feeds),
        entries=sum(feed.length for feed in feeds),
        log_size=0 if log is None else log.size,
        log_root=root_at(tx.log_node, 0 if log is None else log.size),
        heads=tuple(map(_head, reversed(feeds[-MAX_HEADS:]))),
    )


def updated(sentinel: Sentinel, committed: Committed) -> Sentinel:
    """The sentinel after a transaction of the store. Transactions may be told in another order than they were made.

    Telling what it knows already changes nothing: a process that starts may have described the store between a commit
    and its telling.
    """
    feeds = [change for change in committed.feeds if change.after.local]
    heads = {head.key: head for head in sentinel.heads}
    names_all = len(heads) < MAX_HEADS
    new_feeds, new_entries = 0, 0
    for change in feeds:
        older = heads.pop(change.after.key, None)
        if older is not None:
            new_entries += max(0, change.after.length - older.length)
        else:
            new_feeds += names_all or change.created
            new_entries += change.after.length - (0 if names_all else change.start)
        longer = older is not None and older.length > change.after.length
        heads[change.after.key] = older if older is not None and longer else _head(change.after)
    written = {change.after.key for change in feeds}
    kept = [head for key, head in heads.items() if key in written][::-1]
    kept += [head for key, head in heads.items() if key not in written]
    log_size, log_root = sentinel.log_size, sentinel.log_root
    if committed.log is not None and committed.log.size > log_size:
        log_size, log_root = committed.log.size, committed.log.root
    return replace(
        sentinel,
        sequence=sentinel.sequence + 1,
        feeds=sentinel.feeds + new_feeds,
        entries=sentinel.entries + new_entries,
        log_size=log_size,
        log_root=log_root,
        heads=tuple(kept[:MAX_HEADS]),
    )


def _head(feed: FeedState) -> SentinelHead:
    return SentinelHead(feed.key, feed.length, tree_hash(feed.roots))


# --- what a start makes of it ---------------------------------------------------------------------------------------


class Reason(StrEnum):
    """What a start found when it compared a store with its sentinel."""

    SAME = "same"
    """The store holds what the sentinel says, and perhaps more: what was written last had not reached the sentinel."""
    NEW = "new"
    """There is no sentinel, and no feed that this node could sign: a new store, or one that was just restored."""
    MISSING = "missing"
    """There is no sentinel here for a store that has feeds: it was moved or copied."""
    DAMAGED = "damaged"
    """The sentinel does not say how far the store was."""
    OTHER_MACHINE = "other-machine"
    """The sentinel was written on another machine: this is a copy, or the other one is."""
    BEHIND = "behind"
    """The store holds less than the sentinel says: it was put back to an older state, or rows were deleted."""
    REWRITTEN = "rewritten"
    """The store holds as much as the sentinel says, and not the same."""


@dataclass(frozen=True, slots=True)
class Shorter:
    """A feed of which the store holds ``held`` entries although the sentinel saw ``known``.

    ``same_history`` is False when the store holds other entries than the sentinel saw.
    """

    key: FeedKey
    held: int
    known: int
    same_history: bool = True


@dataclass(frozen=True, slots=True)
class Decision:
    """``in_new_feeds``: none of this node's feeds may be signed again. ``detail`` says to a person what was found."""

    reason: Reason
    in_new_feeds: bool
    detail: str


def find_shorter(sentinel: Sentinel, tx: ReadTransaction) -> list[Shorter]:
    """The feeds that the sentinel saw longer, or otherwise, than the store holds them."""
    found = []
    for head in sentinel.heads:
        feed = tx.feed(head.key)
        held = 0 if feed is None else feed.length
        if feed is None or held < head.length:
            found.append(Shorter(head.key, held, head.length))
        elif stored_tree_hash(tx, head.key, head.length) != head.tree_hash:
            found.append(Shorter(head.key, held, head.length, same_history=False))
    return found


def decide(
    reading: Reading, machine: bytes, now: Sentinel, shorter: Sequence[Shorter], log_root: bytes, *, active: int
) -> Decision:
    """Judge a start. ``now`` is ``describe_store`` of the store as it is, ``machine`` the digest of this machine.

    ``active`` counts the feeds that this node writes and that are not retired.

    ``shorter`` is ``find_shorter``, and ``log_root`` the root of the store's log at the sentinel's size (anything when
    the log is shorter), both for ``reading.newest``; they do not matter when there is none.
    """
    was = reading.newest
    if was is None and not active:
        return Decision(Reason.NEW, False, "the sentinel begins")
    if was is None and reading.damage is None:
        return Decision(Reason.MISSING, True, "this machine has no sentinel of the store")
    if was is None:
        return Decision(Reason.DAMAGED, True, f"{reading.damage}")
    if was.machine != machine:
        return Decision(Reason.OTHER_MACHINE, True, "the store was last written on another machine")
    if shortfall := _shortfall(was, now, shorter):
        return Decision(Reason.BEHIND, True, shortfall)
    if any(not feed.same_history for feed in shorter) or log_root != was.log_root:
        return Decision(Reason.REWRITTEN, True, "the store holds another history than it held when last written here")
    if reading.damage is not None and _measure(now) == _measure(was):
        # The slot that is gone may have been the newer one, and the store may have been put back to the older.
        return Decision(Reason.DAMAGED, True, f"{reading.damage}, and the store is no longer than the other one says")
    return Decision(Reason.SAME, False, "the store holds what the sentinel says" + _in_brackets(reading.damage))


def _measure(sentinel: Sentinel) -> tuple[int, int, int]:
    return sentinel.feeds, sentinel.entries, sentinel.log_size


def _in_brackets(damage: str | None) -> str:
    return "" if damage is None else f" ({damage})"


def _shortfall(was: Sentinel, now: Sentinel, shorter: Sequence[Shorter]) -> str:
    """What the store holds less than the sentinel says, in words; empty for nothing."""
    missing: Mapping[str, int] = {
        "feeds": was.feeds - now.feeds,
        "entries": was.entries - now.entries,
        "statements of the log": was.log_size - now.log_size,
    }
    said = [f"{count} {what}" for what, count in missing.items() if count > 0]
    if not said and any(feed.held < feed.known for feed in shorter):
        said = [f"{sum(feed.known - feed.held for feed in shorter if feed.held < feed.known)} entries"]
    return f"the store held more when it was last written here: {', '.join(said)} are missing" if said else ""

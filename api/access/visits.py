"""The visit feed and the revocation feed of a node: written through its writer, and read as a list.

Both are feeds of the node's device, ``visits`` and ``revocations``; a second server process of one store, which may not
sign for those, writes ``visits 2`` and so on. A visit is durable before anybody is answered. Requests that carry no
token of ours would be a way to fill the feed, so they are counted, and told as a sum once a minute for each reason; so
are refusals of one token beyond sixty in a minute. What is revoked is read from the feeds, whose lengths are looked at
anew for every visit: a revocation counts from the next request on, in every process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import merge
from threading import Lock
from typing import Any, Final

from api.access.records import Granted, Record, Refusals, Revoked, Visit, parse_record, record_entry
from identity.errors import AuditError, MalformedError, RefusedError, StoreBusy
from ledger.entry import encode_entry, parse_entry
from ledger.manifest import describe, device_key, parse_manifest
from ledger.storage.sql import SqlReadTransaction, SqlStore
from ledger.store import FeedKey
from ledger.writer import StoreWriter

__all__ = ["REVOCATIONS", "VISITS", "RecordPage", "Revocations", "VisitFeed", "read_page", "read_records"]

VISITS: Final = "visits"
REVOCATIONS: Final = "revocations"

_MOST_FEEDS: Final = 64
"""Of one name: server processes of a store, and those that were there before them."""
_SUMMARY_MS: Final = 60_000
_DENIED_A_MINUTE: Final = 60
"""Refusals of one token that are told one by one."""
_TOKENS_COUNTED: Final = 10_000

BeginFeed = Callable[[str], FeedKey]
"""Begins a feed of the node's device with that name."""


class _NamedFeeds:
    """The feeds of one name that this node's device writes, and the one that this process may sign for now."""

    def __init__(self, store: SqlStore, writer: StoreWriter, device: bytes, name: str, begin: BeginFeed) -> None:
        self._store = store
        self._writer = writer
        self._device = device
        self._name = name
        self._begin = begin
        self._lock = Lock()
        self._at = 1
        self._key: FeedKey | None = None

    def append(self, record: Record) -> None:
        """Write a record; it is durable when this returns. Raises as ``StoreWriter.append``."""
        block = encode_entry(record_entry(record))
        while True:
            key = self._feed()
            writing = self._writer.submit(key, [block])  # a full queue is no other process: that is for the caller
            try:
                writing.result()
            except (StoreBusy, RefusedError):
                self._leave(key)
            else:
                return

    def _feed(self) -> FeedKey:
        with self._lock:
            if self._key is None:
                self._key = self._open()
            return self._key

    def _leave(self, key: FeedKey) -> None:
        """Another process signs for the feed: go on with the next one. Raises what is being handled after the last."""
        with self._lock:
            if self._key == key:
                if self._at == _MOST_FEEDS:
                    raise  # noqa: PLE0704  (called where an error is handled)
                self._at, self._key = self._at + 1, None

    def _open(self) -> FeedKey:
        name = self._name if self._at == 1 else f"{self._name} {self._at}"
        with self._store.read() as tx:
            for state in tx.feeds():
                manifest = parse_manifest(state.manifest)
                description = describe(manifest)
                is_first = description is not None and (description.name, description.continues) == (name, None)
                if is_first and state.local and device_key(manifest) == self._device:
                    return state.key
        return self._begin(name)


@dataclass(slots=True)
class _Counted:
    """Refusals for one reason that were not told yet."""

    told_ms: int | None = None
    count: int = 0
    since_ms: int = 0


@dataclass(slots=True)
class _Minute:
    """Refusals of one token in a minute."""

    since_ms: int
    count: int = field(default=0)


class VisitFeed:
    """Writes both feeds for one node. Threads share it. ``begin`` begins a feed of ``device`` where there is none."""

    def __init__(
        self, store: SqlStore, writer: StoreWriter, device: bytes, begin: BeginFeed, now_ms: Callable[[], int]
    ) -> None:
        self._now_ms = now_ms
        self._visits = _NamedFeeds(store, writer, device, VISITS, begin)
        self._revocations = _NamedFeeds(store, writer, device, REVOCATIONS, begin)
        self._lock = Lock()
        self._counted: dict[str, _Counted] = {}
        self._denied: dict[bytes, _Minute] = {}

    def add_visit(self, visit: Visit) -> None:
        """Record a visit, durably; of one token's refusals in a minute beyond the sixtieth only the number."""
        if not visit.allowed and not self._tells(visit):
            self.count(visit.reason)
            return
        self._visits.append(visit)

    def add_grant(self, granted: Granted) -> None:
        """Record a token that was minted, durably."""
        self._visits.append(granted)

    def revoke(self, revoked: Revoked) -> None:
        """End a token. It is durable, and counts, when this returns."""
        self._revocations.append(revoked)

    def _tells(self, visit: Visit) -> bool:
        with self._lock:
            if len(self._denied) >= _TOKENS_COUNTED:
                self._denied.clear()
            minute = self._denied.get(visit.token)
            if minute is None or not 0 <= visit.time_ms - minute.since_ms < _SUMMARY_MS:
                minute = self._denied[visit.token] = _Minute(visit.time_ms)
            minute.count += 1
            return minute.count <= _DENIED_A_MINUTE

    def count(self, reason: str) -> None:
        """Count a refusal that is not told by itself; the sum is written when a minute has passed since the last."""
        now_ms = self._now_ms()
        with self._lock:
            counted = self._counted.setdefault(reason, _Counted())
            counted.since_ms = counted.since_ms if counted.count else now_ms
            counted.count += 1
        self.flush()

    def flush(self, *, all_of_it: bool = False) -> None:
        """Write the sums that are due, or (``all_of_it``, at the end) all that are left.

        What cannot be written now is kept for the next time: a refusal is answered all the same.
        """
        now_ms = self._now_ms()
        for reason, counted, sums in self._due(now_ms, all_of_it):
            try:
                self._visits.append(sums)
            except AuditError:
                with self._lock:
                    counted.since_ms = min(sums.since_ms, counted.since_ms) if counted.count else sums.since_ms
                    counted.count += sums.count
                    self._counted[reason] = counted

    def _due(self, now_ms: int, all_of_it: bool) -> list[tuple[str, _Counted, Refusals]]:
        due = []
        with self._lock:
            for reason, counted in self._counted.items():
                is_due = counted.told_ms is None or not 0 <= now_ms - counted.told_ms < _SUMMARY_MS
                if counted.count and (is_due or all_of_it):
                    due.append((reason, counted, Refusals(now_ms, reason, counted.count, counted.since_ms)))
                    counted.told_ms, counted.count = now_ms, 0
        return due


# --- reading --------------------------------------------------------------------------------------------------------


class Revocations:
    """What was revoked, by the revocation feeds of the devices of one identity. Threads share it."""

    def __init__(self, store: SqlStore, own: bytes) -> None:
        """``own`` is the identity whose node it is."""
        self._store = store
        self._own = own
        self._lock = Lock()
        self._feeds: tuple[object, tuple[FeedKey, ...]] = (None, ())
        self._read: dict[FeedKey, int] = {}
        self._revoked: set[bytes] = set()

    def now(self) -> frozenset[bytes]:
        """The ids of all blocks that are revoked at this moment. Raises ``StorageError``."""
        with self._lock, self._store.read() as tx:
            count = tx.fetch_one("SELECT count(*) FROM feed")
            mark = None if count is None else tuple(count)
            if self._feeds[0] != mark:
                self._feeds = (mark, tuple(_named(tx, REVOCATIONS, self._own)))
            for key in self._feeds[1]:
                state, done = tx.feed(key), self._read.get(key, 0)
                length = 0 if state is None else state.length
                for record in _records(tx, key, done, length):
                    if isinstance(record, Revoked):
                        self._revoked.add(record.id)
                self._read[key] = length
            return frozenset(self._revoked)


def read_records(store: SqlStore, own: bytes, name: str = VISITS, *, since_ms: int = 0) -> list[Record]:
    """What the feeds of that name say, of all devices of the identity ``own``, in the order of the times they claim.

    With ``since_ms`` what claims to be older is left out.
    """
    with store.read() as tx:
        found = [
            record
            for key in _named(tx, name, own)
            for record in _records(tx, key, 0, _length(tx, key))
            if record.time_ms >= since_ms
        ]
    return sorted(found, key=lambda record: record.time_ms)


@dataclass(frozen=True, slots=True)
class RecordPage:
    """Records, and where to go on; ``more``: there may be some at once."""

    records: tuple[Record, ...]
    positions: Mapping[FeedKey, int]
    more: bool


def read_page(
    store: SqlStore,
    own: bytes,
    positions: Mapping[FeedKey, int],
    wants: Callable[[Record], bool],
    limit: int,
) -> RecordPage:
    """The next records of both feeds, by the times that they claim, behind ``positions``: how far each feed was read.

    Feeds only grow, so that who goes on where a page ended is told each record once. Not more than 10,000 records are
    looked at for one page, which can be short, or empty, and have more behind it.
    """
    with store.read() as tx:
        keys = [key for name in (VISITS, REVOCATIONS) for key in _named(tx, name, own)]
        parts = [_placed(tx, key, positions.get(key, 0)) for key in keys]
        reached, found = dict(positions), list[Record]()
        for seen, (_, key, index, record) in enumerate(merge(*parts)):
            if len(found) == limit or seen == _LOOKED_AT:
                return RecordPage(tuple(found), reached, more=True)
            reached[key] = index + 1
            if record is not None and wants(record):
                found.append(record)
    return RecordPage(tuple(found), reached, more=False)


_LOOKED_AT: Final = 10_000
_PIECE: Final = 256

_Placed = tuple[int, FeedKey, int, Record | None]


def _placed(tx: SqlReadTransaction, key: FeedKey, start: int) -> Iterator[_Placed]:
    """The blocks of a feed from ``start`` on with their times; where a clock went back, with the latest before it."""
    latest, length = 0, _length(tx, key)
    while start < length:
        for index, block in enumerate(tx.blocks(key, start, min(start + _PIECE, length)), start):
            record = _record(block)
            latest = latest if record is None else max(latest, record.time_ms)
            yield latest, key, index, record
        start = min(start + _PIECE, length)


def _named(tx: SqlReadTransaction, name: str, own: bytes) -> Iterator[FeedKey]:
    """The feeds of an identity with that name, or that name and a number."""
    for state in tx.feeds():
        description = describe(parse_manifest(state.manifest))
        if description is not None and description.identity == own:
            base, _, number = description.name.partition(" ")
            if base == name and (not number or number.isdecimal()):
                yield state.key


def _length(tx: Any, key: FeedKey) -> int:
    state = tx.feed(key)
    return 0 if state is None else int(state.length)


def _records(tx: SqlReadTransaction, key: FeedKey, start: int, stop: int) -> Iterator[Record]:
    """The records in a part of a feed. What is none is passed over: the feed is signed, and proves it all the same."""
    for block in tx.blocks(key, start, stop) if stop > start else ():
        record = _record(block)
        if record is not None:
            yield record


def _record(block: bytes) -> Record | None:
    try:
        return parse_record(parse_entry(block))
    except MalformedError:
        return None

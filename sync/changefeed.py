"""Change events: what a transaction made of a document, as whoever keeps a copy of the documents is told it.

Implements docs/spec/change-feed.md. Here are the events, their cursors and their form as JSON Lines; they are read from
a store by ``sync.storage.changefeed``. A cursor names a place in the order in which this replica took transactions in,
and the transaction that stands there: in another store, or in tables that were made anew, it fits nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol

from identity.encoding import MAX_INT, Value
from identity.errors import MalformedError
from identity.textforms import to_did_key, to_hex, to_zbase32
from ledger.values import Reference
from sync.jsonform import to_json
from sync.transaction import DocumentId
from sync.view import Conflict

__all__ = [
    "START",
    "ChangeEvent",
    "ChangeKind",
    "ChangePage",
    "Contest",
    "Image",
    "Position",
    "change_kind",
    "event_json",
    "event_line",
    "parse_position",
]

START: Final = "0"
"""The cursor before everything."""

_CURSOR: Final = re.compile(r"([1-9][0-9]{0,18})\.([0-9a-f]{16})(?:\.([1-9][0-9]{0,18}))?")
_LEAF_BYTES: Final = 8


class Position(NamedTuple):
    """What a cursor says: everything up to ``place`` was read, or with ``document`` the events there up to that one."""

    place: int
    leaf: bytes
    """The beginning of the leaf hash of the newest entry that was taken in up to there."""
    document: int | None = None

    def text(self) -> str:
        """The cursor."""
        if not self.place:
            return START
        behind = "" if self.document is None else f".{self.document}"
        return f"{self.place}.{to_hex(self.leaf[:_LEAF_BYTES])}{behind}"

    def stands_on(self, leaf: bytes) -> bool:
        """Whether it was made where the newest entry is the one with this leaf hash."""
        return self.leaf[:_LEAF_BYTES] == leaf[:_LEAF_BYTES]


def parse_position(cursor: str) -> Position:
    """Read a cursor. Raises ``MalformedError``."""
    if cursor == START:
        return Position(0, b"")
    found = _CURSOR.fullmatch(cursor)
    place, document = (0, 0) if found is None else (int(found[1]), int(found[3] or 0))
    if found is None or max(place, document) > MAX_INT:
        raise MalformedError("cursor: not one of a change feed", hint=f"{START!r} is the beginning")
    return Position(place, bytes.fromhex(found[2]), document or None)


class ChangeKind(StrEnum):
    """What became of a document, for those who read it."""

    CREATED = "created"
    CHANGED = "changed"
    DELETED = "deleted"
    UNDELETED = "undeleted"
    PURGED = "purged"


class Image(Protocol):
    """What ``change_kind`` looks at of a document: see ``sync.view.View``."""

    @property
    def exists(self) -> bool: ...
    @property
    def deleted(self) -> bool: ...
    @property
    def purged(self) -> bool: ...


def change_kind(old: Image | None, new: Image | None) -> ChangeKind:
    """What became of a document that was in another version before. None: nothing was live in it.

    ``changed`` is all that neither brings a document before its readers nor takes it away, also where they see none.
    """
    if new is not None and new.purged and (old is None or not old.purged):
        return ChangeKind.PURGED
    was_there, is_there = old is not None and old.exists, new is not None and new.exists
    if was_there == is_there:
        return ChangeKind.CHANGED
    if was_there:
        return ChangeKind.DELETED
    return ChangeKind.UNDELETED if old is not None and old.deleted else ChangeKind.CREATED


class Contest(NamedTuple):
    """A transaction whose condition on a document another one broke, without either knowing of the other."""

    guarded: Reference
    other: Reference


@dataclass(frozen=True, slots=True)
class ChangeEvent:
    """What one transaction made of one document. An image is None where a reader finds no document.

    ``made_anew``: no operation of the transaction did it; what it says of its authors decides which others count.
    """

    cursor: str
    database: bytes
    transaction: Reference
    document: DocumentId
    kind: ChangeKind
    old: Mapping[str, Value] | None
    new: Mapping[str, Value] | None
    etag: str
    """Of the document after it; empty when there is none."""
    conflicts: tuple[Conflict, ...]
    """Those of the document after it."""
    contests: tuple[Contest, ...]
    """Those that came to light by it."""
    note: str
    device: bytes
    """The public key that signed."""
    identity: bytes
    claimed_ms: int
    """What the author's clock said, UTC: a label."""
    made_anew: bool = False


@dataclass(frozen=True, slots=True)
class ChangePage:
    """Some events, and where the next ones begin. ``more``: there may be some at once."""

    events: tuple[ChangeEvent, ...]
    cursor: str
    more: bool


# --- JSON Lines -----------------------------------------------------------------------------------------------------


def event_json(event: ChangeEvent) -> dict[str, Any]:
    """The event as JSON; images hold values as ``sync.jsonform.to_json`` writes them."""
    return {
        "v": 1,
        "kind": "change",
        "cursor": event.cursor,
        "change": event.kind.value,
        "collection": event.document.collection,
        "key": event.document.key,
        "old": _image_json(event.old),
        "new": _image_json(event.new),
        "etag": event.etag or None,
        "conflicts": [{"kind": one.kind.value, "path": one.path} for one in event.conflicts],
        "contests": [{"guarded": _reference(one.guarded), "other": _reference(one.other)} for one in event.contests],
        "database": to_hex(event.database),
        "transaction": _reference(event.transaction),
        "note": event.note,
        "device": to_did_key(event.device),
        "identity": to_hex(event.identity),
        "claimed": _time(event.claimed_ms),
        "made_anew": event.made_anew,
    }


def event_line(event: ChangeEvent) -> str:
    """The event as a line of JSON Lines, without its end."""
    return json.dumps(event_json(event))


def _time(ms: int) -> str:
    moment = datetime(1970, 1, 1) + timedelta(milliseconds=ms)  # noqa: DTZ001  (UTC, which Z says)
    return moment.isoformat(timespec="milliseconds") + "Z"


def _image_json(image: Mapping[str, Value] | None) -> Any:
    return None if image is None else {name: to_json(value) for name, value in image.items()}


def _reference(reference: Reference) -> str:
    return f"{to_zbase32(reference.feed)}/{reference.index}/{to_hex(reference.leaf_hash)}"

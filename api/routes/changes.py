"""The change feed: pages, with waiting for what comes, and a stream of server-sent events.

Implements docs/spec/change-feed.md over HTTP. Whoever follows is asked about again before each page: access that has
ended ends the stream.
"""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final

from fastapi import Query
from fastapi.responses import Response, StreamingResponse

from api.access.action import Grant, Operation
from api.models import ChangePageModel
from api.routes.dependencies import Call, Called, On, Routes, answer, check_collection, grant_shown, grant_shows
from identity.errors import AuditError, MalformedError
from sync.changefeed import START, ChangeEvent, ChangePage, Position, event_json

__all__ = ["routes"]

routes = Routes("changes")

_LONGEST_WAIT_S: Final = 60
_STEP_S: Final = 1.0
"""How long it is not looked whether the node is about to stop."""
_QUIET_S: Final = 15.0
"""After so long without an event a comment is sent, so that nobody takes the connection for dead."""
_STREAMED: Final = 500

Collections = Annotated[list[str] | None, Query(alias="collection", max_length=100, description="Only of these.")]
After = Annotated[
    str | None, Query(max_length=128, description="Behind this cursor; 0: from the beginning; now: only what comes.")
]


@routes.declare("GET", "/databases/{database}/changes", Operation.CHANGES, answers=ChangePageModel)
def read_changes(
    call: Called,
    database: str,
    after: After = None,
    collections: Collections = None,
    limit: Annotated[int, Query(ge=1, le=10_000, description="Events; those of one transaction stay together.")] = 100,
    wait: Annotated[float, Query(ge=0, le=_LONGEST_WAIT_S, description="Seconds to wait while there is none.")] = 0,
) -> Response:
    """Changes of documents in the order in which they came here. Whoever keeps the cursor is told each exactly once."""
    asked = _Asked(call, database, collections)
    on = asked.on()
    cursor = _cursor(on, after)
    page = on.database.changes(cursor, limit=limit, collections=collections)
    events = asked.shown(page)
    if not events and wait > 0:
        with call.service.following():
            cursor, events, more = _wait(asked, page, limit, wait)
            return _answer_page(events, cursor, more)
    return _answer_page(events, page.cursor, page.more)


def _answer_page(events: Sequence[dict[str, Any]], cursor: str, more: bool) -> Response:
    return answer({"v": 1, "kind": "changes", "events": events, "cursor": cursor, "more": more})


def _wait(asked: _Asked, page: ChangePage, limit: int, wait: float) -> tuple[str, list[dict[str, Any]], bool]:
    """The first page behind this one in which something may be seen; an empty one when the time is up."""
    deadline = time.monotonic() + wait
    while (left := deadline - time.monotonic()) > 0 and not asked.call.node.closing.is_set():
        database = asked.on().database
        for found in database.follow(
            page.cursor, limit=limit, collections=asked.collections, timeout_s=min(_STEP_S, left)
        ):
            page = found
            if events := asked.shown(page):
                return page.cursor, events, page.more
            break  # ask the gate again
    return page.cursor, [], page.more


@routes.declare("GET", "/databases/{database}/changes/stream", Operation.CHANGES, media="text/event-stream")
def stream_changes(call: Called, database: str, after: After = None, collections: Collections = None) -> Response:
    """The same as server-sent events. An event's id is its cursor: a client that comes back with Last-Event-ID is told
    what it has missed.
    """
    asked = _Asked(call, database, collections)
    cursor = _cursor(asked.on(), call.header("last-event-id") or after)
    asked.on().database.changes(cursor, limit=1)  # a cursor that means nothing here is refused before anything is sent
    return StreamingResponse(
        _Stream(asked, cursor), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


class _Asked:
    """Which changes somebody asks for. A collection can be withheld, and fields of it."""

    def __init__(self, call: Call, database: str, collections: Sequence[str] | None) -> None:
        self.call = call
        self.collections = None if collections is None else [check_collection(one) for one in collections]
        self._database = database
        self._grants: Mapping[str | None, Grant] = {}

    def on(self) -> On:
        """Ask the gate, for each collection that is named. Raises ``Forbidden``."""
        asked: Sequence[str | None] = self.collections or [None]
        ons = {one: self.call.on(self._database, one) for one in asked}
        self._grants = {one: found.grant for one, found in ons.items()}
        return next(iter(ons.values()))

    def shown(self, page: ChangePage) -> list[dict[str, Any]]:
        """The events of a page, as much of them as may be seen."""
        return [found for event in page.events if (found := self._shown(event)) is not None]

    def _shown(self, event: ChangeEvent) -> dict[str, Any] | None:
        collection = event.document.collection
        grant = self._grants.get(collection if self.collections is not None else None)
        if grant is None or collection.startswith("$"):
            return None
        found = event_json(event)
        if grant.fields is not None:
            for name in ("old", "new"):
                found[name] = None if found[name] is None else grant_shown(grant, found[name])
            found["note"] = ""  # it may speak of fields that are withheld
            found["conflicts"] = [one for one in found["conflicts"] if grant_shows(grant, one["path"])]
            if found["change"] == "changed" and found["old"] == found["new"]:
                return None
        return found


class _Stream:
    """The events of a stream, as the bytes that are sent. It ends when the node does, or the access."""

    def __init__(self, asked: _Asked, cursor: str) -> None:
        """Counts among those who follow until it is gone: also when its client has left before it began."""
        self._asked = asked
        self._cursor = cursor
        service = asked.call.service
        service.follow()
        weakref.finalize(self, service.unfollow)

    def __iter__(self) -> Iterator[bytes]:
        yield b"retry: 1000\n\n"
        quiet_since = time.monotonic()
        while not self._asked.call.node.closing.is_set():
            sent = False
            try:
                database = self._asked.on().database
                for page in database.follow(
                    self._cursor, limit=_STREAMED, collections=self._asked.collections, timeout_s=_STEP_S
                ):
                    yield self._bytes(page)
                    self._cursor, sent = page.cursor, True
                    break  # ask the gate again
            except AuditError:  # above all ``Forbidden``; whoever comes back is told what it is
                return
            if sent:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since >= _QUIET_S:
                quiet_since = time.monotonic()
                yield b": nothing new\n\n"

    def _bytes(self, page: ChangePage) -> bytes:
        events = self._asked.shown(page)
        lines = [_event("change", event["cursor"], event) for event in events]
        if not events or events[-1]["cursor"] != page.cursor:
            lines.append(_event("cursor", page.cursor, {"v": 1, "kind": "cursor", "cursor": page.cursor}))
        return b"".join(lines)


def _event(kind: str, cursor: str, facts: Mapping[str, Any]) -> bytes:
    return f"id: {cursor}\nevent: {kind}\ndata: {json.dumps(facts)}\n\n".encode()


def _cursor(on: On, after: str | None) -> str:
    if after is None:
        return START
    if after != "now":
        if not after.isascii() or not after.isprintable():
            raise MalformedError("cursor: not one of a change feed")
        return after
    with on.database.read() as reader:
        row = reader.tx.fetch_one(reader.sql.entry_before, (reader.number, reader.newest_place()))
    return START if row is None else Position(row[0], row[7]).text()

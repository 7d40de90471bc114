"""Sync over HTTP: one exchange in a POST, and live sessions over WebSocket.

Implements docs/spec/sync-protocol.md, section "Carried by HTTP". The protocol itself is ``sync.session``; here its
frames are moved. A WebSocket takes ``async def``: what of it can wait for a disk or another thread runs in threads.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from threading import Lock
from typing import Final, Protocol

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from starlette.requests import HTTPConnection

from api.access.action import Operation
from api.problems import PROBLEM_JSON, problem_of
from api.routes.dependencies import Routes, read_body
from identity.errors import AuditError, MalformedError, PeerMisbehaved, StoreBusy
from sync.database import Database
from sync.frames import Failure, FrameBuffer, encode_frame, framed
from sync.replica import DatabaseReplica
from sync.retention import settle_erasures
from sync.session import Event, Session, TookIn

__all__ = ["MAX_REQUEST_BYTES", "MAX_RESPONSE_BYTES", "MEDIA_TYPE", "SyncGrant", "SyncHost", "sync_router"]

MEDIA_TYPE: Final = "application/vnd.holdfast.sync"

MAX_REQUEST_BYTES: Final = 16 * 1024 * 1024
"""A request is held in memory, because its signature covers all of it."""

MAX_RESPONSE_BYTES: Final = 8 * 1024 * 1024
"""When a response has become so long it ends at the next frame where it can."""

_BODY_S: Final = 600.0
_POLL_S: Final = 2.0
"""How long it may go unnoticed by a live session what other processes have written, and that it may not go on."""


@dataclass(frozen=True, slots=True)
class SyncGrant:
    """A database that somebody may sync. ``check`` raises ``Forbidden`` from when on they may not any more.

    ``key`` is theirs. ``cut_off`` is told the name of the rule when they have broken one.
    """

    database: Database
    check: Callable[[], object]
    key: bytes
    cut_off: Callable[[str], object]


class SyncHost(Protocol):
    """What the application has for these routes."""

    def reading(self, connection: HTTPConnection) -> AbstractContextManager[Callable[[int], None]]:
        """Around a body: what is told of its bytes before they are kept. That raises ``StoreBusy`` when it is too much
        for one node."""

    def open_for_sync(self, connection: HTTPConnection, body: bytes, database: str) -> SyncGrant:
        """The database of that name or id, when whoever has signed the request may sync it, and it can be written to.

        Raises ``Unauthenticated``, ``Forbidden``, ``MissingEvidenceError``, ``ReadOnlyState``: in this order, so that
        who may not ask is not told what is here.
        """


def sync_router(host: SyncHost, *, most_exchanges: int = 16, most_live: int = 64, most_of_one: int = 4) -> APIRouter:
    """The routes. At most so many sessions are served at once: what bounds the memory that peers can take up.

    ``most_of_one`` are those of one key, so that nobody can keep the others out.
    """
    routes = Routes("sync")
    slots, live_slots = _Slots(most_exchanges, most_of_one), _Slots(most_live, most_of_one)

    async def bounded_body(request: Request) -> AsyncIterator[bytes]:
        with host.reading(request) as hold:
            yield await read_body(request, MAX_REQUEST_BYTES, _BODY_S, hold)

    @routes.declare("POST", "/databases/{database}/sync", Operation.SYNC, media=MEDIA_TYPE, takes=MEDIA_TYPE)
    def exchange(
        request: Request,
        database: str,
        body: bytes = Depends(bounded_body),
    ) -> Response:
        """Take in the frames of the request, and answer with what its sender lacks (docs/spec/sync-protocol.md)."""
        grant = host.open_for_sync(request, body, database)
        with slots.taken(grant.key):
            session = Session(DatabaseReplica(grant.database))
            _take_body(session, grant, body)
        return StreamingResponse(_answer(session, grant, slots), media_type=MEDIA_TYPE)

    @routes.websocket("/databases/{database}/sync")
    async def live(websocket: WebSocket, database: str) -> None:
        """A session that lasts: what is written on either side is sent at once."""
        try:
            grant = await run_sync(host.open_for_sync, websocket, b"", database)
            with live_slots.taken(grant.key):
                await _Live(websocket, grant).run()
        except AuditError as exc:  # nothing was accepted yet: what comes later ends the session
            problem = problem_of(exc)
            headers = dict(problem.headers)
            await websocket.send_denial_response(Response(problem.body(), problem.kind.status, headers, PROBLEM_JSON))

    return routes


class _Slots:
    """How many sessions there may be at once, in all and of one key."""

    def __init__(self, most: int, most_of_one: int) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._lock = Lock()
        self._taken: Counter[bytes] = Counter()

    @contextmanager
    def taken(self, key: bytes) -> Iterator[None]:
        """One of them. Raises ``StoreBusy`` when there is none."""
        with self._lock:
            if self._taken.total() >= self._most or self._taken[key] >= self._most_of_one:
                raise StoreBusy("as many are syncing as this node serves at once", hint="try again later")
            self._taken[key] += 1
        try:
            yield
        finally:
            with self._lock:
                self._taken[key] -= 1
                self._taken += Counter()  # forgets keys that have none


# --- one exchange ---------------------------------------------------------------------------------------------------


def _take_body(session: Session, grant: SyncGrant, body: bytes) -> None:
    """Take in the frames of a body. A peer that misbehaves is told so by the session: that is no error of this side."""
    buffer = FrameBuffer()
    try:
        for frame in buffer.feed(body):
            _settle(grant.database, session.receive(frame))
        buffer.end()
    except PeerMisbehaved as exc:
        grant.cut_off(exc.reason)
    except MalformedError as exc:
        grant.cut_off(session.abort(exc))


def _settle(database: Database, events: tuple[Event, ...]) -> None:
    """Carry out erasures that came in, and decide what was proposed to a home that is here."""
    if any(isinstance(event, TookIn) and event.report.entries for event in events):
        settle_erasures(database)
        database.decide_pending()


def _answer(session: Session, grant: SyncGrant, slots: _Slots) -> Iterator[bytes]:
    """Frames, until there are no more or it is enough for once."""
    try:
        with slots.taken(grant.key):
            size = 0
            while (frame := session.next_frame()) is not None:
                size += len(frame)
                yield framed(frame)
                if size >= MAX_RESPONSE_BYTES and session.may_pause and not session.ended:
                    yield framed(session.pause())
    except AuditError:  # the answer has begun, so nothing else can say that it is not whole
        yield framed(encode_frame(Failure("UNAVAILABLE", "")))
        raise


# --- a session that lasts -------------------------------------------------------------------------------------------


class _Live:
    """A live session over a WebSocket: one task receives and one sends, and their work is done in threads."""

    def __init__(self, websocket: WebSocket, grant: SyncGrant) -> None:
        self._websocket = websocket
        self._grant = grant
        self._database = grant.database
        self._session = Session(DatabaseReplica(grant.database), live=True)
        self._lock = Lock()
        """Held by whoever is in the session."""
        self._wake = anyio.Event()
        self._stale = False

    async def run(self) -> None:
        """Serve until one of the two ends it, or the peer is gone."""
        await self._websocket.accept()
        loop = asyncio.get_running_loop()

        def written() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody is served any more
                loop.call_soon_threadsafe(self._written)

        with self._database.watched(written), suppress(WebSocketDisconnect):
            async with anyio.create_task_group() as group:
                group.start_soon(self._receive, group.cancel_scope)
                await self._send()
                await self._websocket.close(1000)
                group.cancel_scope.cancel()

    def _written(self) -> None:
        self._stale = True
        self._wake.set()

    async def _receive(self, scope: anyio.CancelScope) -> None:
        while not self._session.ended:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                scope.cancel()
                return
            await run_sync(self._take, message.get("bytes"))
            self._wake.set()

    def _take(self, data: bytes | None) -> None:
        with self._lock:
            try:
                if data is None:
                    raise MalformedError("sync: a message of text")
                _settle(self._database, self._session.receive(data))
            except PeerMisbehaved as exc:
                self._grant.cut_off(exc.reason)
            except MalformedError as exc:
                self._grant.cut_off(self._session.abort(exc))
            except AuditError as exc:
                if not self._session.ended:
                    self._session.abort(exc)

    async def _send(self) -> None:
        while True:
            self._wake = anyio.Event()
            frame, has_ended = await run_sync(self._next)
            if frame is not None:
                await self._websocket.send_bytes(frame)
            elif has_ended:
                return
            else:
                with anyio.move_on_after(_POLL_S) as waiting:
                    await self._wake.wait()
                self._stale = self._stale or waiting.cancelled_caught

    def _next(self) -> tuple[bytes | None, bool]:
        """The next frame, and whether there will be no more behind it."""
        with self._lock:
            try:
                if self._stale:
                    self._stale = False
                    self._grant.check()
                    self._session.refresh()
                return self._session.next_frame(), self._session.ended
            except AuditError as exc:
                self._session.abort(exc)
                return self._session.next_frame(), True

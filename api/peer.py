"""Another node, reached over HTTP: pull from it, push to it, or stay in step with it.

    peer = Peer("https://bank.example", sign)
    outcome = peer.sync("bank", DatabaseReplica(database))

Implements the client's side of docs/spec/sync-protocol.md, section "Carried by HTTP". Every request is signed by
``sign``; what comes back is verified by the session, and the peer is trusted with nothing. One ``Peer`` is used by one
thread at a time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event as Flag
from threading import Lock, Thread
from typing import Final, TypeAlias
from urllib.parse import quote, urlsplit

import httpx
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.sync.client import ClientConnection, connect

from identity.errors import (
    AuditError,
    LimitExceeded,
    MalformedError,
    MissingEvidenceError,
    PeerMisbehaved,
    PeerRefused,
    RefusedError,
    TransportError,
)
from ledger.store import FeedKey
from sync.database import Database
from sync.frames import MAX_FRAME_BYTES, FrameBuffer, framed
from sync.outgoing import Known
from sync.replica import DatabaseReplica
from sync.report import FoundFork, Waiting
from sync.retention import settle_erasures
from sync.session import Event, PeerDone, PeerFailed, PeerMore, Replica, Session, TookIn
from sync.transaction import DocumentId

__all__ = ["Connected", "LiveEvent", "Lost", "Outcome", "Peer", "Sign"]

MEDIA_TYPE: Final = "application/vnd.holdfast.sync"

_REQUEST_BYTES: Final = 2 * 1024 * 1024
"""When a request has become so long it ends at the next frame where it can."""
_MOST_BYTES: Final = 16 * 1024 * 1024
"""What a node reads of one request (``api.routes.sync``)."""
_TIMEOUT: Final = httpx.Timeout(60.0, connect=10.0)
_ERROR_BYTES: Final = 64 * 1024
_FIRST_DELAY_S: Final = 0.5
_LAST_DELAY_S: Final = 60.0
_POLL_S: Final = 2.0
"""How long what other processes have written may go unnoticed by a live session."""

Sign = Callable[[str, str, Mapping[str, str], bytes], Mapping[str, str]]
"""Makes the headers that sign a request, from its method, URL, headers and body. A WebSocket is asked for by a GET."""

Tell = Callable[[Event], None]


def _nobody(_: Event) -> None:
    """Who is told nothing."""


@dataclass(slots=True)
class Outcome:
    """What an exchange has brought, on this side, and how much the other side was sent."""

    feeds: set[FeedKey] = field(default_factory=set)
    blocks: int = 0
    entries: int = 0
    waiting: tuple[Waiting, ...] = ()
    """As it stood at the end."""
    conflicts: list[DocumentId] = field(default_factory=list)
    contested: list[DocumentId] = field(default_factory=list)
    forks: list[FoundFork] = field(default_factory=list)
    blocks_sent: int = 0
    sent: int = 0
    """Bytes of frames."""
    received: int = 0
    requests: int = 0

    def add(self, event: Event) -> None:
        """Count what a session has told."""
        if isinstance(event, TookIn):
            report = event.report
            self.blocks += report.received.blocks
            self.entries += report.entries
            self.waiting = report.waiting
            self.conflicts += (one for one in report.conflicts if one not in self.conflicts)
            self.contested += (one for one in report.contested if one not in self.contested)
            self.forks += report.received.forks


@dataclass(frozen=True, slots=True)
class Connected:
    """A live session has begun."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The peer is away, or was lost. It is tried again after ``delay_s``."""

    reason: str
    delay_s: float


LiveEvent: TypeAlias = Event | Connected | Lost


class Peer:
    """A node at ``url``, up to and without ``/v1``. ``client`` is closed by whoever made it."""

    def __init__(self, url: str, sign: Sign, client: httpx.Client | None = None) -> None:
        """Raises ``MalformedError`` for what is no URL of HTTP."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise MalformedError(f"{url!r} is not the URL of a node: https://host, and a path if it has one")
        self.url = url.rstrip("/")
        self._sign = sign
        self._client = client
        self._known: dict[bytes, Known] = {}
        """By database what the peer had when it was last asked: it is sent what it lacks without being asked again."""

    # --- exchanges ---

    def pull(
        self, name: str, replica: Replica, *, feeds: Iterable[FeedKey] | None = None, tell: Tell = _nobody
    ) -> Outcome:
        """Fetch what is missing here of the database that the peer calls ``name``; of some feeds, or of all.

        Raises as ``sync`` does.
        """
        wants = None if feeds is None else frozenset(feeds)
        return self._exchange(name, replica, wants, sends=False, tell=tell)

    def push(self, name: str, replica: Replica, *, tell: Tell = _nobody) -> Outcome:
        """Send what is missing there. Raises as ``sync`` does."""
        return self._exchange(name, replica, frozenset(), sends=True, tell=tell)

    def sync(self, name: str, replica: Replica, *, tell: Tell = _nobody) -> Outcome:
        """Fetch what is missing here and send what is missing there. What was taken in when this raises, stays.

        Erasures among it are carried out by ``sync.retention.settle_erasures``; in a live session they are at once.
        ``tell`` is called with every event of the sessions. Raises ``TransportError`` when the peer cannot be reached
        or does not speak the protocol, ``PeerMisbehaved`` when it breaks a rule, ``PeerRefused`` when it ends the
        session, ``RefusedError`` when it lets nobody in, ``MissingEvidenceError`` when it does not have the database.
        """
        return self._exchange(name, replica, None, sends=True, tell=tell)

    def _exchange(
        self, name: str, replica: Replica, wants: frozenset[FeedKey] | None, *, sends: bool, tell: Tell
    ) -> Outcome:
        outcome, reached, asks_again = Outcome(), -1, True
        while asks_again:
            known = self._known.pop(replica.database or b"", None)
            session = Session(replica, wants=wants, sends=sends, known=known)
            try:
                asks_again = self._request(name, session, outcome, tell)
            except PeerRefused as exc:
                if exc.reason not in ("GAP", "NOTHING_NEW") or known is None:
                    raise
                continue  # it has less than it had, or far more: what it has is asked for first
            before, reached = reached, outcome.blocks + session.known.blocks
            if asks_again and reached <= before:
                raise PeerMisbehaved("NOTHING_NEW", "neither side gets further, and the peer says that there is more")
            if replica.database is not None:
                self._known[replica.database] = session.known
        return outcome

    def _request(self, name: str, session: Session, outcome: Outcome, tell: Tell) -> bool:
        """One request. Returns whether another one is needed."""
        url = self._url(name)
        body = _body_of(session)
        headers = {"content-type": MEDIA_TYPE, "accept": MEDIA_TYPE}
        headers |= self._sign("POST", url, headers, body)
        outcome.sent += len(body)
        outcome.requests += 1
        outcome.blocks_sent += session.blocks_sent
        ends = [False, False]
        with self._stream(url, headers, body) as parts:
            for event in _events_of(session, parts, outcome):
                outcome.add(event)
                tell(event)
                if isinstance(event, PeerFailed):
                    raise PeerRefused(event.reason, event.detail, event.proof)
                ends = [ends[0] or isinstance(event, PeerDone), ends[1] or isinstance(event, PeerMore)]
        if not any(ends):
            raise TransportError(f"{self.url}: the answer ends before its end")
        return ends[1] or session.has_more

    @contextmanager
    def _stream(self, url: str, headers: Mapping[str, str], body: bytes) -> Iterator[Iterator[bytes]]:
        client = self._client or httpx.Client(timeout=_TIMEOUT)
        try:
            with client.stream("POST", url, headers=dict(headers), content=body) as response:
                _check_answer(self.url, response)
                yield response.iter_bytes()
        except httpx.HTTPError as exc:
            raise TransportError(f"{self.url}: {str(exc) or type(exc).__name__}") from exc
        finally:
            if client is not self._client:
                client.close()

    def _url(self, name: str) -> str:
        return f"{self.url}/v1/databases/{quote(name, safe='')}/sync"

    # --- live ---

    def live(self, name: str, database: Database, tell: Callable[[LiveEvent], None], stop: Flag) -> None:
        """Stay in step with the peer until ``stop`` is set: what is written on either side is sent at once.

        A peer that is away is tried again, less and less often, at least once a minute; ``tell`` is told so. It is
        called from several threads, one at a time. Raises as ``sync`` does, but for ``TransportError``.
        """
        delay = _FIRST_DELAY_S
        while not stop.is_set():
            try:
                with self._connected(name) as socket:
                    tell(Connected())
                    delay = _FIRST_DELAY_S
                    _Live(socket, database, tell, stop).run()
            except TransportError as exc:
                if stop.is_set():
                    return
                wait = delay * random.uniform(0.75, 1.25)  # noqa: S311, so that peers do not come back all at once
                tell(Lost(str(exc), wait))
                stop.wait(wait)
                delay = min(2 * delay, _LAST_DELAY_S)

    @contextmanager
    def _connected(self, name: str) -> Iterator[ClientConnection]:
        url = "ws" + self._url(name).removeprefix("http")
        headers = self._sign("GET", url, {}, b"")
        try:
            socket = connect(url, additional_headers=dict(headers), max_size=MAX_FRAME_BYTES, compression=None)
        except InvalidStatus as exc:
            status = exc.response.status_code
            raise _failure(self.url, status, bytes(exc.response.body or b"")) from exc
        except (OSError, InvalidHandshake, InvalidURI, TimeoutError) as exc:
            raise TransportError(f"{self.url}: {exc}") from exc
        with socket:
            yield socket


class _Live:
    """A live session over an open WebSocket: this thread sends, another one receives."""

    def __init__(
        self, socket: ClientConnection, database: Database, tell: Callable[[LiveEvent], None], stop: Flag
    ) -> None:
        self._socket = socket
        self._database = database
        self._tell = tell
        self._stop = stop
        self._session = Session(DatabaseReplica(database), live=True)
        self._lock = Lock()
        """Held by whoever is in the session, or tells."""
        self._wake = Flag()
        self._stale = False
        self._failure: AuditError | None = None
        self._is_closed = False

    def run(self) -> None:
        """Until it is stopped. Raises ``TransportError`` when the peer is lost, and as ``Peer.live`` does."""
        receiver = Thread(target=self._receive, name="sync-receiver", daemon=True)
        receiver.start()
        try:
            with self._database.watched(self._written):
                self._send()
        except ConnectionClosed as exc:
            raise self._failure or TransportError(f"the connection was closed: {exc}") from exc
        finally:
            self._socket.close()
            receiver.join()
        if self._failure is not None:
            raise self._failure
        if not self._stop.is_set():
            raise TransportError("the peer has closed the connection")

    def _written(self) -> None:
        self._stale = True
        self._wake.set()

    def _send(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            with self._lock:
                if self._stale:
                    self._stale = False
                    self._session.refresh()
                frame, has_ended = self._session.next_frame(), self._session.ended
            if frame is not None:
                self._socket.send(frame)
            elif has_ended or self._is_closed:
                return
            elif not self._wake.wait(_POLL_S):
                self._stale = True

    def _receive(self) -> None:
        try:
            for data in self._socket:
                with self._lock:
                    self._take(data)
                self._wake.set()
        except ConnectionClosed:
            pass
        finally:
            self._is_closed = True
            self._wake.set()

    def _take(self, data: str | bytes) -> None:
        try:
            if isinstance(data, str):
                raise PeerMisbehaved("MALFORMED", "sync: a message of text")
            for event in self._session.receive(data):
                if isinstance(event, TookIn) and event.report.entries:
                    settle_erasures(self._database)
                self._tell(event)
                if isinstance(event, PeerFailed):
                    self._failure = self._failure or _refusal(event)
        except AuditError as exc:
            self._failure = self._failure or exc
            if not self._session.ended:
                self._session.abort(exc)


def _refusal(event: PeerFailed) -> AuditError:
    """Why a live session was ended by the peer: what is wrong on its side may pass."""
    if event.reason == "UNAVAILABLE":
        return TransportError("the peer cannot go on")
    return PeerRefused(event.reason, event.detail, event.proof)


def _body_of(session: Session) -> bytes:
    """The frames of a request: all that there are, or as many as are enough for once."""
    parts, size = [], 0
    while (frame := session.next_frame()) is not None:
        parts.append(framed(frame))
        size += len(parts[-1])
        if size >= _REQUEST_BYTES and session.may_pause:
            parts.append(framed(session.pause()))
    if size > _MOST_BYTES:
        raise LimitExceeded(
            f"sync: {size} bytes that were signed at once, a request has at most {_MOST_BYTES}",
            hint="holdfast sync --live has no such limit, and a bundle has none either",
        )
    return b"".join(parts)


def _events_of(session: Session, parts: Iterator[bytes], outcome: Outcome) -> Iterator[Event]:
    buffer = FrameBuffer()
    try:
        for part in parts:
            outcome.received += len(part)
            for frame in buffer.feed(part):
                yield from session.receive(frame)
        buffer.end()
    except MalformedError as exc:
        raise TransportError(f"the answer is not in the protocol: {exc}") from exc


def _check_answer(url: str, response: httpx.Response) -> None:
    if response.status_code != httpx.codes.OK:
        body = b""
        for part in response.iter_bytes():
            body = (body + part)[:_ERROR_BYTES]
            if len(body) == _ERROR_BYTES:
                break
        raise _failure(url, response.status_code, body)
    if response.headers.get("content-type", "").partition(";")[0] != MEDIA_TYPE:
        raise TransportError(f"{url}: that is no answer of a holdfast node")


def _failure(url: str, status: int, body: bytes) -> AuditError:
    """What an answer that is not 200 means."""
    said = body.decode("utf-8", "replace")[:500].strip()
    text = f"{url}: HTTP status {status}" + (f": {said}" if said else "")
    if status in (401, 403):
        return RefusedError(text)
    if status == httpx.codes.NOT_FOUND:
        return MissingEvidenceError(text)
    return TransportError(text)

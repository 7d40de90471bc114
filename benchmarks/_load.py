"""A load on a server over loopback: requests that were signed before the clock starts, by any number of clients.

One thread serves all of the clients, each with a connection that it keeps and one request at a time. It sends bytes
that are ready and looks for the end of an answer only: on a machine with two cores what a client takes would be taken
from the server.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from api.access.signing import RequestSigner

__all__ = ["Answered", "Load", "apply_load", "prepare", "streaming"]

_READ: Final = 1 << 18


class Answered(NamedTuple):
    """An answer as it came, and how long it took from the first byte that was sent to the last that came."""

    status: int
    head: bytes
    body: bytes
    seconds: float

    def header(self, name: str) -> str:
        """A header of the answer. Raises ``ValueError`` when there is none."""
        return _header(self.head, name).decode("ascii")


@dataclass(slots=True)
class Load:
    """What a load has come to: answers by their place among the requests."""

    answers: dict[int, Answered] = field(default_factory=dict)
    seconds: float = 0.0


def prepare(
    sign: RequestSigner, url: str, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> bytes:
    """A signed request, ready to be sent within a minute."""
    host = url.partition("//")[2]
    whole = {"host": host, **(headers or {})}
    if body:
        whole |= {"content-type": "application/json", "content-length": str(len(body))}
    whole |= sign(method, url + path, whole, body)
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in whole.items())]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


def apply_load(port: int, requests: Sequence[bytes], clients: int) -> Load:
    """Let so many clients share the requests, each sending its next one when it has its answer."""
    load, left = Load(), iter(enumerate(requests))
    with ExitStack() as opened, selectors.DefaultSelector() as ready:
        connections = [_Client(opened.enter_context(_connect(port))) for _ in range(clients)]
        begun = time.perf_counter()
        for one in connections:
            if one.send_next(left):
                ready.register(one.socket, selectors.EVENT_READ, one)
        while ready.get_map():
            for key, _ in ready.select():
                one = key.data
                answered = one.receive()
                if answered is not None:
                    load.answers[one.number] = answered
                    if not one.send_next(left):
                        ready.unregister(one.socket)
        load.seconds = time.perf_counter() - begun
    return load


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class _Client:
    """A connection with at most one request on its way."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.number = 0
        self._received = b""
        self._began = 0.0

    def send_next(self, left: Iterator[tuple[int, bytes]]) -> bool:
        """Send the next request, if there is one."""
        following = next(left, None)
        if following is None:
            return False
        self.number, request = following
        self._received, self._began = b"", time.perf_counter()
        self.socket.sendall(request)
        return True

    def receive(self) -> Answered | None:
        """The answer, when this was the last of it."""
        part = self.socket.recv(_READ)
        if not part:
            raise ConnectionError(f"the server closed a connection after {self._received[:200]!r}")
        self._received += part
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found or not _is_whole(head, body):
            return None
        return Answered(int(head[9:12]), head, body, time.perf_counter() - self._began)


def _is_whole(head: bytes, body: bytes) -> bool:
    try:
        return len(body) >= int(_header(head, "content-length"))
    except ValueError:
        return body.endswith(b"0\r\n\r\n")  # chunked


def _header(head: bytes, name: str) -> bytes:
    at = head.lower().index(f"\r\n{name}: ".encode("ascii")) + len(name) + 4
    return head[at:].partition(b"\r\n")[0]


@contextmanager
def streaming(port: int, requests: Sequence[bytes]) -> Iterator[list[socket.socket]]:
    """Connections on which an event stream has begun, one for each request."""
    with ExitStack() as opened:
        listeners = [opened.enter_context(_connect(port)) for _ in requests]
        for listener, request in zip(listeners, requests, strict=True):
            listener.sendall(request)
        for listener in listeners:
            received = b""
            while b"retry: 1000" not in received:
                part = listener.recv(_READ)
                received += part
                if not part or not received.startswith(b"HTTP/1.1 200"):
                    raise ConnectionError(f"no stream began: {received[:500]!r}")
        yield listeners

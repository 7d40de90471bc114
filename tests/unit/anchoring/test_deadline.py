"""A whole exchange ends in time, also with a server that never stops talking."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from anchoring.chain.jsonrpc import JsonRpcChain
from anchoring.deadline import within
from anchoring.tsa.web import HttpLimits, WebClient
from identity.errors import TransportError

LIMITS = HttpLimits(connect_s=0.2, read_s=0.2, exchange_s=0.3, attempts=1)


def raise_(error: BaseException) -> None:
    raise error


def test_what_comes_out_is_what_the_exchange_says() -> None:
    assert within(5, "x", lambda: 7) == 7
    with pytest.raises(KeyError):
        within(5, "x", lambda: raise_(KeyError()))
    with pytest.raises(TimeoutError, match="its own"):
        within(5, "x", lambda: raise_(TimeoutError("its own")))


def test_an_exchange_that_does_not_end() -> None:
    ending = threading.Event()
    with pytest.raises(TransportError, match="node: no whole answer"):
        within(0.01, "node", ending.wait)
    ending.set()


@contextmanager
def server(beginning: bytes, more: bytes) -> Iterator[str]:
    """Answers one request with ``beginning`` and then ``more``, again and again, faster than any read times out."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection, suppress(OSError):
                connection.sendall(beginning)
                while not over.wait(0.02):
                    connection.sendall(more)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        over.set()
        thread.join()


def ask_node(url: str) -> None:
    with JsonRpcChain([url], chain_id=1, confirmations=None, timeout_s=0.2) as chain:
        chain.chain_id()


def ask_authority(url: str) -> None:
    WebClient(LIMITS, None, time.sleep).post(url, b"", "application/x", "application/y", 100)


@pytest.mark.parametrize(
    ("beginning", "more"),
    [(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"), (b"", b"H"), (b"", b"HTTP/1.1 100 Continue\r\n\r\n")],
)
@pytest.mark.parametrize("ask", [ask_node, ask_authority])
def test_a_server_that_drips_its_headers(ask: Callable[[str], None], beginning: bytes, more: bytes) -> None:
    began = time.monotonic()
    with server(beginning, more) as url, pytest.raises(TransportError):
        ask(url)
    assert time.monotonic() - began < 10

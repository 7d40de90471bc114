"""A bound on the time of a whole exchange with a stranger.

An HTTP client bounds the wait for each read, not how many there are: a server that sends one header byte now and then,
or one interim answer after the other, would keep it for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from identity.errors import TransportError

__all__ = ["within"]

T = TypeVar("T")


def within(seconds: float, what: str, exchange: Callable[[], T]) -> T:
    """What ``exchange`` returns or raises. Raises ``TransportError``, naming ``what``, when it lasts longer.

    It runs in a thread of its own, which is then left to itself: it ends with its connection, or with the process.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(exchange())
        except BaseException as exc:  # noqa: BLE001  (whoever waits is told)
            outcome.set_exception(exc)

    threading.Thread(target=run, name="exchange", daemon=True).start()
    try:
        return outcome.result(timeout=seconds)
    except TimeoutError as exc:
        if outcome.done():
            raise
        raise TransportError(f"{what}: no whole answer within {seconds:g} s") from exc

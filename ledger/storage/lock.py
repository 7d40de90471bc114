"""One writer at a time within a process: the lock that every store takes before its write transaction begins."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from identity.errors import StoreBusy

__all__ = ["WriteLock"]


class WriteLock:
    """Threads wait for it in turn, instead of polling the engine's own lock; at most ``timeout_s`` seconds."""

    def __init__(self, timeout_s: float) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None
        self._timeout_s = timeout_s

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock.

        Raises ``StoreBusy`` after the timeout, ``RuntimeError`` in the thread that holds it already.
        """
        if self._owner == threading.get_ident():
            raise RuntimeError("a write transaction is already open in this thread")
        if not self._lock.acquire(timeout=self._timeout_s):
            raise StoreBusy("another thread holds the write transaction")
        self._owner = threading.get_ident()
        try:
            yield
        finally:
            self._owner = None
            self._lock.release()

"""Auditing the pieces of a feed in several processes, because hashing in Python keeps one core busy and no more.

Each of the others opens the store for itself. Threads would not do: what an audit does beside the work of libsodium
holds the interpreter's lock, and whoever verified a signature waits for it.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Final

from identity.errors import AuditError, StorageError
from ledger.audit import Piece, PieceAudit, RunPieces, audit_piece
from ledger.store import Store

__all__ = ["in_processes"]

_AHEAD: Final = 2
"""Pieces that are given to a process at a time, so that it has the next one when it has done one."""

_Outcome = PieceAudit | tuple[type[AuditError], str, str]
"""What was found, or the error that reading ended with: its type, text and hint, since not every error can travel."""


def in_processes(reopen: Callable[[], Store], processes: int) -> RunPieces:
    """For ``audit_feed``: pieces are audited in so many processes, of which this is one.

    The others call ``reopen``, which has to be picklable, to get at the store. Raises what reading the store raised
    there, ``StorageError`` when a process died.
    """
    return partial(_run, reopen, processes - 1)


def _run(
    reopen: Callable[[], Store], others: int, pieces: Sequence[Piece], here: Callable[[Piece], PieceAudit]
) -> Iterator[PieceAudit]:
    # Not forked: the store's connections, and locks that other threads hold, must not be in the child.
    pool = ProcessPoolExecutor(others, multiprocessing.get_context("spawn"), _begin, (reopen,))
    left, begun = deque(pieces), deque[Future[_Outcome] | PieceAudit]()
    try:
        while left or begun:
            away = sum(1 for piece in begun if isinstance(piece, Future) and not piece.done())
            # The first pieces wait for the processes to start, which takes a second. This one begins at once.
            for _ in range(min(len(left), _AHEAD * others - away)):
                begun.append(pool.submit(_audit, left.popleft()))
            if left:
                begun.append(here(left.popleft()))
            while begun and not (left and isinstance(begun[0], Future) and not begun[0].done()):
                yield _result(begun.popleft())
    except BrokenProcessPool as exc:
        raise StorageError("a process of the audit ended before its work was done") from exc
    finally:
        pool.shutdown(cancel_futures=True)


def _result(found: Future[_Outcome] | PieceAudit) -> PieceAudit:
    outcome = found.result() if isinstance(found, Future) else found
    if isinstance(outcome, PieceAudit):
        return outcome
    kind, text, hint = outcome
    raise kind(text, hint=hint)


_reopen: Callable[[], Store] | None = None
_store: Store | None = None
"""This process's own, from its first piece on."""


def _begin(reopen: Callable[[], Store]) -> None:
    global _reopen  # noqa: PLW0603  (what a process is started with)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt goes to all of them, and the parent ends its children
    _reopen = reopen


def _audit(piece: Piece) -> _Outcome:
    global _store  # noqa: PLW0603  (one store, for every piece that the process gets)
    assert _reopen is not None
    try:
        if _store is None:
            _store = _reopen()
        return audit_piece(_store, piece)
    except AuditError as exc:
        plain = type(exc).__init__ is AuditError.__init__
        return type(exc) if plain else StorageError, str(exc), exc.hint

"""The checkpoint logs that a home keeps for others, so that a store that was put back can be brought forward again.

Implements docs/spec/kept-log.md. Each is an archive of a log: its leaves and checkpoints, the identity events, tokens
and receipts that these speak of, and no feed. It is verified before it is kept, and takes the place of a shorter one
only when it begins with it. A log that contradicts the one that is kept is kept beside it: the two are signed by one
key, and prove that it told two histories.
"""

from __future__ import annotations

import re
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from anchoring.archive_file import archived_store
from anchoring.contracts import load_contract
from identity.durable import PRIVATE, drafted
from identity.errors import LimitExceeded, MalformedError, RefusedError, StorageError, VerificationError
from ledger.archive import Purpose
from ledger.log import root_at

if TYPE_CHECKING:
    from ledger.storage.sql import SqlReadTransaction

__all__ = ["MAX_KEPT_BYTES", "KeptLog", "KeptLogs"]

MAX_KEPT_BYTES: Final = 64 * 1024 * 1024
"""Of one log."""

_MOST_OF_AN_IDENTITY: Final = 4
"""A log, its successors, and one that contradicts: nobody needs more in years."""
_BESIDE: Final = ".other"
_PIECE: Final = 65_536
_NAME: Final = re.compile(r"([0-9a-f]{64})-([0-9]{1,16})-([0-9a-f]{64})\.archive", re.ASCII)
_WHOSE: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class KeptLog:
    """A log that is kept: whose it is, how far it goes, and where its archive lies."""

    identity: bytes
    log: bytes
    size: int
    root: bytes
    path: Path


class KeptLogs:
    """The logs that are kept in a directory. For any number of threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()

    def known(self) -> list[KeptLog]:
        """Every log that is kept, the longest first of those with one id. Raises ``StorageError``."""
        found = []
        try:
            for whose in sorted(self._folder.iterdir()) if self._folder.exists() else []:
                if _WHOSE.fullmatch(whose.name):
                    found += [_kept(whose, match) for match in map(_NAME.fullmatch, _names(whose)) if match]
        except OSError as exc:
            raise StorageError(f"cannot read {self._folder}: {exc.strerror}") from exc
        return sorted(found, key=lambda one: (one.identity, one.log, -one.size, one.root))

    def find(self, log: bytes, identity: bytes | None = None) -> KeptLog | None:
        """What is kept of a log, of that identity's or of anybody's: the longest."""
        return next((one for one in self.known() if one.log == log and identity in (None, one.identity)), None)

    def contradiction(self, log: bytes, identity: bytes) -> Path | None:
        """The archive of another history of a log that is kept, which proves with that one that two were signed."""
        folder = self._folder / identity.hex()
        try:
            found = [one for one in _names(folder) if one.startswith(log.hex()) and one.endswith(_BESIDE)]
        except OSError as exc:
            raise StorageError(f"cannot read {folder}: {exc.strerror}") from exc
        return folder / found[0] if found else None

    def keep(self, source: BinaryIO, identity: bytes) -> KeptLog:
        """Verify an archive of a log of ``identity``, which ``source`` holds, and keep it when it goes further.

        Returns what is kept then. Raises ``VerificationError`` when something in it is false, it is not a log of that
        identity, or contradicts what is kept; ``MalformedError`` for what is no such archive, ``LimitExceeded`` for one
        that is too long, ``RefusedError`` when too many logs of the identity are kept already, ``StorageError``.
        """
        with self._lock:
            folder = self._folder / identity.hex()
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as exc:
                raise StorageError(f"cannot create {folder}: {exc.strerror}") from exc
            coming = folder / "coming"
            try:
                with drafted(coming, mode=PRIVATE) as out:
                    _copy(source, out)
                return self._keep(coming, identity)
            finally:
                with suppress(OSError):
                    coming.unlink(missing_ok=True)

    def _keep(self, coming: Path, identity: bytes) -> KeptLog:
        with coming.open("rb") as stream, archived_store(stream, load_contract().code_hash) as (store, loaded):
            log = loaded.log
            if loaded.header.purpose is not Purpose.LOG or log is None:
                raise MalformedError("that is no archive of a log")
            history = log.histories.get(identity)
            if history is None or log.replay.log_id not in history.logs:
                raise VerificationError(f"it is no log of identity {identity.hex()}")
            size, root = log.replay.last.size, log.replay.last.root
            name = f"{log.replay.log_id.hex()}-{size}-{root.hex()}.archive"
            new = KeptLog(identity, log.replay.log_id, size, root, coming.with_name(name))
            before = [one for one in self.known() if one.identity == identity]
            same = [one for one in before if one.log == new.log]
            with store.read() as tx:
                others = [one for one in same if not _agree(tx, new, one)]
        longest = next((one for one in same if one not in others), None)
        if others and longest is None:
            self._keep_beside(coming, new)
            raise VerificationError(
                f"log {new.log.hex()} of {size} statements contradicts the one of {others[0].size} that is kept"
            )
        if longest is not None and longest.size > size:
            return longest
        if len(before) >= _MOST_OF_AN_IDENTITY and longest is None:
            raise RefusedError(f"{len(before)} logs of identity {identity.hex()} are kept already")
        self._move(coming, new.path)
        if longest is not None and longest.path != new.path:
            with suppress(OSError):
                longest.path.unlink(missing_ok=True)
        return new

    def _keep_beside(self, coming: Path, new: KeptLog) -> None:
        """One contradicting log is proof enough."""
        if self.contradiction(new.log, new.identity) is None:
            self._move(coming, new.path.with_name(new.path.name + _BESIDE))

    @staticmethod
    def _move(coming: Path, path: Path) -> None:
        from identity.durable import sync_directory

        try:
            coming.replace(path)
        except OSError as exc:
            raise StorageError(f"cannot write {path}: {exc.strerror}") from exc
        sync_directory(path.parent)


def _agree(tx: SqlReadTransaction, new: KeptLog, kept: KeptLog) -> bool:
    """Whether a log that was just read and one that is kept tell one history, as far as the new one can show it.

    A shorter new log is compared at its own end, which the longer one has to have gone through.
    """
    if new.size >= kept.size:
        return root_at(tx.log_node, kept.size) == kept.root
    with (
        kept.path.open("rb") as stream,
        archived_store(stream, load_contract().code_hash) as (store, _),
        store.read() as longer,
    ):
        return root_at(longer.log_node, new.size) == new.root


def _names(folder: Path) -> list[str]:
    return [one.name for one in folder.iterdir()] if folder.is_dir() else []


def _kept(whose: Path, match: re.Match[str]) -> KeptLog:
    log, size, root = match.groups()
    return KeptLog(bytes.fromhex(whose.name), bytes.fromhex(log), int(size), bytes.fromhex(root), whose / match[0])


def _copy(source: BinaryIO, out: BinaryIO) -> None:
    size = 0
    while piece := source.read(_PIECE):
        size += len(piece)
        if size > MAX_KEPT_BYTES:
            raise LimitExceeded(f"log: an archive of more than {MAX_KEPT_BYTES} bytes is not kept")
        out.write(piece)

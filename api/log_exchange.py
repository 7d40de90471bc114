"""Two homes that keep each other's checkpoint logs: what a sync does besides (docs/spec/kept-log.md).

It is done when one of the two has got further, over the whole log: so no more often than checkpoints are made.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from api.kept_logs import MAX_KEPT_BYTES, KeptLogs
from api.log_archive import own_log_size, write_log_archive
from api.remote import RemoteNode, RemoteProblem
from identity.errors import MalformedError, MissingEvidenceError, VerificationError
from identity.textforms import parse_hex

if TYPE_CHECKING:
    from api.bootstrap import Session

__all__ = ["LogsExchanged", "RemoteLog", "exchange_logs", "remote_logs"]

_IN_MEMORY: Final = 4 * 1024 * 1024
_MOST_SIZE: Final = 1 << 53


@dataclass(frozen=True, slots=True)
class RemoteLog:
    """A log that a node says it has, up to ``size``."""

    log: bytes
    identity: bytes
    size: int
    own: bool


@dataclass(frozen=True, slots=True)
class LogsExchanged:
    """What came of it. ``kept_here`` and ``kept_there``: up to which size a log is kept since; None: nothing new.

    ``ahead``: the node keeps that much more of this home's own log than is here: this store was put back.
    """

    kept_here: int | None = None
    kept_there: int | None = None
    ahead: int = 0


def exchange_logs(session: Session, remote: RemoteNode, databases: Iterable[bytes]) -> LogsExchanged:
    """Hand over this home's log, and keep the node's, where one of the two has got further.

    ``databases`` are those that both may have: one of them says what the two have to do with each other. A node that
    keeps no logs is left alone. Raises ``VerificationError`` when the node's log contradicts what was kept of it,
    ``RemoteProblem`` when the node finds that of this one, ``TransportError``.
    """
    database, told = _told(remote, databases)
    if database is None:
        return LogsExchanged()
    own, size = session.vault.log_descriptor()[0], own_log_size(session)
    held = max((one.size for one in told if one.log == own), default=0)
    sent = _hand_over(session, remote, database) if held < size else None
    kept = None
    theirs = next((one for one in told if one.own), None)
    if theirs is not None and theirs.log != own:
        kept = _keep(session, remote, database, theirs)
    return LogsExchanged(kept, sent, max(held - size, 0))


def remote_logs(remote: RemoteNode, database: bytes) -> list[RemoteLog]:
    """The logs that a node has of the members of a database. Raises as ``RemoteNode.ask``, ``MalformedError``."""
    match remote.ask("GET", "/v1/logs", query={"database": database.hex()}).json:
        case {"logs": list(rows)}:
            return [_log(row) for row in rows]
    raise MalformedError("that is no list of logs")


def _told(remote: RemoteNode, databases: Iterable[bytes]) -> tuple[bytes | None, list[RemoteLog]]:
    for database in databases:
        try:
            return database, remote_logs(remote, database)
        except RemoteProblem as exc:
            if exc.status not in (403, 404):
                raise
    return None, []


def _log(row: Any) -> RemoteLog:
    match row:
        case {"log": str(log), "identity": str(identity), "size": int(size), "own": bool(own)}:
            if 0 <= size <= _MOST_SIZE:
                return RemoteLog(parse_hex(log, 32), parse_hex(identity, 32), size, own)
    raise MalformedError("that is no log of a node")


def _hand_over(session: Session, remote: RemoteNode, database: bytes) -> int | None:
    """Returns up to where the node keeps it now; None when it is too long to be kept."""
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as file:
        try:
            write_log_archive(session, file)  # type: ignore[arg-type]
        except MissingEvidenceError:
            return None
        if file.tell() > MAX_KEPT_BYTES:
            return None
        file.seek(0)
        body = file.read()
    match remote.ask("PUT", f"/v1/databases/{database.hex()}/logs", body, headers=_ARCHIVE).json:
        case {"size": int(kept)}:
            return kept
    raise MalformedError("that is no answer about a log")


_ARCHIVE: Final = {"content-type": "application/vnd.holdfast.archive"}


def _keep(session: Session, remote: RemoteNode, database: bytes, theirs: RemoteLog) -> int | None:
    """Keep the node's own log. Returns up to where it is kept when that is new."""
    logs = KeptLogs(session.home.logs)
    other = logs.contradiction(theirs.log, theirs.identity)
    if other is not None:
        raise VerificationError(
            f"two histories of the node's log were signed: {other} contradicts the one that is kept"
        )
    before = logs.find(theirs.log, theirs.identity)
    if before is not None and before.size >= theirs.size:
        return None
    if theirs.identity not in session.vault.identities():
        return None  # nobody whom this home knows: it is not asked to keep anything
    with tempfile.TemporaryFile() as file:
        query = {"database": database.hex()}
        remote.save("GET", f"/v1/logs/{theirs.log.hex()}", file, most=MAX_KEPT_BYTES, query=query)
        file.seek(0)
        return logs.keep(file, theirs.identity).size

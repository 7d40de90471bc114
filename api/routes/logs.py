"""Checkpoint logs as whole archives: the node's own, and those that it keeps for others (docs/spec/kept-log.md)."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final

from fastapi.responses import Response, StreamingResponse

from api.access.action import Operation
from api.kept_logs import KeptLog
from api.log_archive import own_log_size, write_log_archive
from api.models import KeptLogModel, LogList
from api.problems import NotFound
from api.routes.dependencies import Call, Called, Routes, answer
from api.routes.ledger import Database, feed_of
from identity.errors import Forbidden, MissingEvidenceError, StorageError
from identity.textforms import parse_hex
from ledger.transfer import write_feed

__all__ = ["routes"]

routes = Routes("logs")

_ARCHIVE: Final = "application/vnd.holdfast.archive"
_BINARY: Final = "application/octet-stream"
_PIECE: Final = 65_536
_IN_MEMORY: Final = 4 * 1024 * 1024


@routes.declare("GET", "/logs", Operation.PROVE, answers=LogList)
def read_logs(call: Called, database: Database = None) -> Response:
    """The checkpoint logs that the node has: its own, and those of others, of a database those of its members."""
    rows = []
    own, size = _own(call, database), own_log_size(call.node.session)
    if size:
        identity = call.node.session.vault.history().identity
        rows.append({"log": own.hex(), "identity": identity.hex(), "size": size, "own": True})
    rows += [_row(one) for one in _kept(call, database)]
    return answer({"v": 1, "kind": "logs", "logs": rows})


@routes.declare("GET", "/logs/{log}", Operation.PROVE, media=_ARCHIVE)
def read_log(call: Called, log: str, database: Database = None) -> Response:
    """A checkpoint log with its tokens and receipts: an archive of a log (docs/spec/archive.md)."""
    own, wanted = _own(call, database), parse_hex(log, 32)
    if wanted == own:
        if not own_log_size(call.node.session):
            raise NotFound("the log has no checkpoint yet")
        return _spooled(lambda out: write_log_archive(call.node.session, out), _ARCHIVE)
    found = next((one for one in _kept(call, database) if one.log == wanted), None)
    if found is None:
        raise NotFound(f"log {log} is not kept here")
    try:
        return StreamingResponse(_pieces(found.path.open("rb")), media_type=_ARCHIVE)
    except OSError as exc:
        raise StorageError(f"cannot read {found.path.name}: {exc.strerror}") from exc


@routes.declare("PUT", "/databases/{database}/logs", Operation.SYNC, answers=KeptLogModel, takes=_ARCHIVE, large=True)
def keep_log(call: Called, database: str) -> Response:
    """Let the node keep a checkpoint log of the caller's own identity, for when that has lost it."""
    grant = call.on(database).grant
    if grant.identity is None:
        raise Forbidden("NOT_A_MEMBER", "logs are kept for members")
    kept = call.node.logs.keep(io.BytesIO(call.request.body), grant.identity)
    return answer({"v": 1, "kind": "kept-log", **_row(kept)})


@routes.declare("GET", "/feeds/{feed}/export", Operation.PROVE, media=_BINARY)
def export_feed(call: Called, feed: str, database: Database = None) -> Response:
    """A feed with the events of its identity, whole: a feed export."""
    info = feed_of(call, database, feed)

    def write(out: BinaryIO) -> None:
        with call.node.session.vault.store.read() as tx:
            write_feed(tx, info.state.key, out)

    return _spooled(write, _BINARY)


def _own(call: Call, database: str | None) -> bytes:
    """Ask, and return the id of the node's own log."""
    if database is None:
        call.allow()
    else:
        call.on(database)
    try:
        return call.node.session.vault.log_descriptor()[0]
    except MissingEvidenceError as exc:
        raise NotFound("the node has no log") from exc


def _kept(call: Call, database: str | None) -> list[KeptLog]:
    kept = call.node.logs.known()
    if database is None:
        return kept
    with call.on(database).database.read() as reader:
        members = reader.standing.within(None).members
    return [one for one in kept if one.identity in members]


def _row(kept: KeptLog) -> dict[str, Any]:
    return {"log": kept.log.hex(), "identity": kept.identity.hex(), "size": kept.size, "own": False}


def _spooled(write: Callable[[BinaryIO], object], media: str) -> Response:
    """What is written whole before the first of it is answered, so that what goes wrong is a problem."""
    file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115  (closed when all was sent)
    try:
        write(file)  # type: ignore[arg-type]
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return StreamingResponse(_pieces(file), media_type=media)  # type: ignore[arg-type]


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    with stream:
        while piece := stream.read(_PIECE):
            yield piece

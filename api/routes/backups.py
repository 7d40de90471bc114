"""Backups of the node, made while it serves (docs/how-to/backup-and-restore.md)."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fastapi.responses import Response, StreamingResponse

from api.access.action import Operation
from api.backup import create_backup
from api.models import NewBackup
from api.routes.dependencies import Called, Routes
from identity.errors import StorageError

__all__ = ["routes"]

routes = Routes("backups")

_PIECE: Final = 65_536


@routes.declare(
    "POST",
    "/backup",
    Operation.OPERATE,
    media="application/vnd.holdfast.archive",
    body=NewBackup,
    body_example={"keystore": True},
)
def make_backup(call: Called) -> Response:
    """A backup of the node, of one moment, while others write. The keys of sealed values are not in it.

    It is made whole before the first byte is answered. One is made at a time.
    """
    body = call.read(NewBackup)
    call.allow()
    session = call.node.session
    with call.node.backing_up():
        try:
            folder = Path(tempfile.mkdtemp(prefix="holdfast-"))
        except OSError as exc:
            raise StorageError(f"cannot make a folder for temporary files: {exc.strerror}") from exc
        try:
            file = folder / "node.backup"
            create_backup(
                session.home,
                session.settings,
                file,
                with_keystore=body.keystore,
                made_ms=session.now_ms(),
                with_document_keys=False,
            )
            size, stream = file.stat().st_size, file.open("rb")
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # what is open can still be read

    def pieces() -> Iterator[bytes]:
        with stream:
            while piece := stream.read(_PIECE):
                yield piece

    headers = {"Content-Length": str(size)}
    return StreamingResponse(pieces(), headers=headers, media_type="application/vnd.holdfast.archive")

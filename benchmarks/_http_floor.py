"""The floor of the HTTP interface: bare FastAPI routes over one table of SQLite, durable, and nothing else.

What it leaves out is what ours is for: who asks, whether they may, whether they have asked before, what the document
was, who changed it and when, a signature. The requests are the same, so it reads past the headers that sign them.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from fastapi import Body, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse

__all__ = ["create_floor"]

_DOCUMENTS: Final = "/v1/databases/{database}/collections/{collection}"
_WRITE: Final = "INSERT OR REPLACE INTO document (collection, key, body) VALUES (?, ?, ?)"


def create_floor(file: Path) -> FastAPI:
    """The application. Threads share a connection: on SQLite they would only wait for each other otherwise."""
    rows = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    rows.execute("PRAGMA journal_mode = WAL")
    rows.execute("PRAGMA synchronous = FULL")
    rows.execute(
        "CREATE TABLE IF NOT EXISTS document"
        " (number INTEGER PRIMARY KEY, collection TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL,"
        " UNIQUE (collection, key))"
    )
    lock, app, told = threading.Lock(), FastAPI(docs_url=None, redoc_url=None, openapi_url=None), _Told()

    @app.put(_DOCUMENTS + "/documents/{key}")
    def put(database: str, collection: str, key: str, body: dict[str, Any] = Body()) -> dict[str, Any]:  # noqa: ARG001, B008
        with lock:
            written = rows.execute(_WRITE, (collection, key, json.dumps(body))).lastrowid
        told.wake()
        return {"key": key, "number": written}

    @app.get(_DOCUMENTS + "/documents/{key}")
    def get(database: str, collection: str, key: str) -> dict[str, Any]:  # noqa: ARG001
        with lock:
            found = rows.execute(
                "SELECT body FROM document WHERE collection = ? AND key = ?", (collection, key)
            ).fetchone()
        if found is None:
            raise HTTPException(404)
        return {"key": key, "fields": json.loads(found[0])}

    @app.post(_DOCUMENTS + "/import")
    async def import_documents(database: str, collection: str, request: Request) -> dict[str, Any]:  # noqa: ARG001
        lines = [json.loads(line) for line in (await request.body()).splitlines()]
        with lock:
            rows.execute("BEGIN")
            rows.executemany(_WRITE, [(collection, line["key"], json.dumps(line["fields"])) for line in lines])
            rows.execute("COMMIT")
        return {"rows": len(lines)}

    @app.get("/v1/databases/{database}/changes/stream")
    async def stream(database: str) -> StreamingResponse:  # noqa: ARG001
        async def events() -> AsyncIterator[bytes]:
            (last,) = rows.execute("SELECT coalesce(max(number), 0) FROM document").fetchone()
            yield b"retry: 1000\n\n"
            while True:
                coming = told.coming()
                found = rows.execute("SELECT number, key, body FROM document WHERE number > ?", (last,)).fetchall()
                for number, key, body in found:
                    last = number
                    event = json.dumps({"number": number, "key": key, "new": json.loads(body)})
                    yield f"id: {number}\nevent: change\ndata: {event}\n\n".encode()
                if not found:
                    await coming.wait()

        return StreamingResponse(events(), media_type="text/event-stream")

    return app


class _Told:
    """Wakes all who wait for what is written, from another thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next = asyncio.Event()

    def coming(self) -> asyncio.Event:
        """Set when something was written after this call."""
        self._loop = asyncio.get_running_loop()
        return self._next

    def wake(self) -> None:
        """Something was written."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._next.set()
        self._next = asyncio.Event()

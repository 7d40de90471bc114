"""Around every request: an id, a line in the log, a count, and the problem document of whatever went wrong.

Lines are JSON on stderr. They name routes and not paths, because keys of documents can be personal, and hold no values.
"""

from __future__ import annotations

import re
import sys
import time
import traceback
import uuid
from typing import TYPE_CHECKING, Any, Final, TextIO

import structlog
from starlette.requests import ClientDisconnect

from api.problems import HEADERS_TOO_LARGE, PROBLEM_JSON, Problem, problem_of
from identity.errors import AuditError
from identity.textforms import to_did_key

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from api.metrics import Metrics

__all__ = [
    "MAX_HEAD_BYTES",
    "Observed",
    "make_log",
    "told",
]

_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_HEADER: Final = b"x-request-id"
MAX_HEAD_BYTES: Final = 32_768
"""Of the URL and the headers of a request together."""


def make_log(stream: TextIO | None = None) -> Any:
    """A log that writes a JSON object a line, by default to stderr."""
    return structlog.wrap_logger(
        structlog.WriteLogger(stream or sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.BoundLogger,
    )


def told(error: BaseException) -> dict[str, Any]:
    """What a log may hold of an error that nobody expected: its class and where it came from, not its text."""
    frames = traceback.extract_tb(error.__traceback__)
    return {"error": type(error).__name__, "at": [f"{one.filename}:{one.lineno} {one.name}" for one in frames[-12:]]}


class Observed:
    """The application with its requests observed."""

    def __init__(self, app: ASGIApp, metrics: Metrics, log: Any) -> None:
        self._app = app
        self._metrics = metrics
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, started = time.monotonic(), 500, False
        request_id = _request_id(scope)
        state = scope.setdefault("state", {})
        state["id"] = request_id

        async def answering(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                message = {**message, "headers": [*message["headers"], (_HEADER, request_id.encode())]}
            await send(message)

        try:
            if _head_bytes(scope) > MAX_HEAD_BYTES:
                await _answer(Problem(HEADERS_TOO_LARGE, f"at most {MAX_HEAD_BYTES} bytes are taken"), answering)
            else:
                await self._app(scope, receive, answering)
        except ClientDisconnect:
            status = _LEFT  # nobody is there to be answered
        except Exception as exc:  # noqa: BLE001  (the one place where what nobody expected ends)
            self._log.error("unexpected", request_id=request_id, **told(exc))
            if started:
                raise _BrokenOff from None  # an answer that is not whole must not look as if it were
            await _answer_unexpected(request_id, answering)
        finally:
            seconds = time.monotonic() - began
            route = _route(scope)
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.request(method, route, status, seconds)
            caller = state.get("caller")
            self._log.info(
                "request",
                request_id=request_id,
                method=method,
                route=route,
                status=status,
                ms=round(seconds * 1000, 1),
                caller=None if caller is None else to_did_key(caller),
            )


class _BrokenOff(Exception):
    """Ends a connection in the middle of an answer."""


async def _answer_unexpected(request_id: str, send: Send) -> None:
    """Says nothing of what went wrong: the log does."""
    await _answer(problem_of(AuditError("unexpected"), request_id), send)


async def _answer(problem: Problem, send: Send) -> None:
    headers = [(b"content-type", PROBLEM_JSON.encode())]
    await send({"type": "http.response.start", "status": problem.kind.status, "headers": headers})
    await send({"type": "http.response.body", "body": problem.body()})


_LEFT: Final = 499
"""In the log and the numbers: the client went away before its request had come."""
_PREFIXES: Final = (("/v1/", "/v1"), ("/tenants/", "/tenants/{tenant}/v1"))
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _head_bytes(scope: Scope) -> int:
    """What the URL and the headers of a request take. The server's own bound is coarser: it looks at what it reads."""
    url = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    return url + sum(len(name) + len(value) for name, value in scope["headers"])


def _request_id(scope: Scope) -> str:
    """The id that the client gave the request, when it can be one; else a new one."""
    for name, value in scope["headers"]:
        if name == _HEADER and _ID.fullmatch(value.decode("latin-1")):
            return str(value.decode("ascii"))
    return uuid.uuid4().hex


def _route(scope: Scope) -> str:
    """The route's path with its parameters unfilled, so that there are few of them."""
    route = scope.get("route")
    if route is None:
        return "none"
    prefix = next((one for start, one in _PREFIXES if scope["path"].startswith(start)), "")
    path = str(route.path)
    return path if path.startswith(prefix) else prefix + path

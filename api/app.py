"""The HTTP application over open nodes."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from api.asgi import Observed, make_log, told
from api.metrics import Metrics
from api.openapi import make_openapi
from api.problems import KINDS, METHOD_NOT_ALLOWED, PROBLEM_JSON, Kind, NotFound, Problem, RequestFailed, problem_of
from api.routes import (
    backups,
    changes,
    databases,
    documents,
    evidence,
    health,
    history,
    identities,
    intents,
    ledger,
    logs,
    pairings,
    queries,
    retention,
    serial,
    transactions,
    visits,
)
from api.routes.dependencies import Call, http_request, identify_first
from api.routes.sync import sync_router
from api.service import Limits, Service
from api.sync_host import ServiceHost
from identity.errors import AuditError, Forbidden, MalformedError, Unauthenticated

if TYPE_CHECKING:
    from api.node import Node

__all__ = ["create_app"]

_TOO_SMALL_TO_PACK = 1024

_ROUTES = (  # tried in this order, so what is asked for most stands first
    documents.routes,
    transactions.routes,
    intents.routes,
    queries.routes,
    databases.routes,
    history.routes,
    changes.routes,
    retention.routes,
    ledger.routes,
    logs.routes,
    evidence.routes,
    identities.routes,
    pairings.routes,
    serial.routes,
    backups.routes,
    visits.routes,
    sync_router(ServiceHost()),
)


def create_app(
    nodes: Mapping[str, Node],
    *,
    limits: Limits | None = None,
    public_url: str | None = None,
    log: Any = None,
) -> FastAPI:
    """The application that serves these nodes by the names of their tenants, the default one being "".

    ``public_url`` is the origin that clients sign for, where that is another one than they connect to. The nodes stay
    the caller's, who closes them when the application has ended.
    """
    log = log or make_log()
    service = Service(nodes, limits or Limits(), Metrics(nodes), public_url)

    @asynccontextmanager
    async def living(_app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = service.limits.threads
        yield

    app = FastAPI(title="holdfast", docs_url=None, redoc_url=None, openapi_url=None, lifespan=living)
    app.router.redirect_slashes = False
    app.state.service = service
    app.state.log = log
    for routes in _ROUTES:
        app.include_router(routes, prefix="/v1")
    for routes in _ROUTES:
        app.include_router(routes, prefix="/tenants/{tenant}/v1", include_in_schema=False)
    app.include_router(health.routes)
    app.openapi = lambda: make_openapi(app)  # type: ignore[method-assign]
    app.add_exception_handler(AuditError, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_middleware(GZipMiddleware, minimum_size=_TOO_SMALL_TO_PACK)
    app.add_middleware(Observed, metrics=service.metrics, log=log)
    return app


# --- what went wrong ------------------------------------------------------------------------------------------------


def _answer(problem: Problem) -> Response:
    return Response(problem.body(), problem.kind.status, dict(problem.headers), PROBLEM_JSON)


def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AuditError)
    problem = problem_of(error, request.state.id)
    if not isinstance(error, Unauthenticated | Forbidden):  # those were told where they were raised
        _tell_refusal(request, problem.kind)
    if problem.kind.status == 500:
        request.app.state.log.error("failed", request_id=request.state.id, **told(error))
    return _answer(problem)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    """Parameters that are not as they are declared. What was sent is not repeated."""
    assert isinstance(error, RequestValidationError)
    try:
        await identify_first(request)
    except AuditError as exc:
        return await run_in_threadpool(_answer_error, request, exc)
    said = [f"{'/'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors()[:5]]
    await run_in_threadpool(_tell_refusal, request, KINDS[MalformedError])
    return _answer(Problem(KINDS[MalformedError], "; ".join(said)))


def _tell_refusal(request: Request, kind: Kind) -> None:
    """What comes with a token is a visit, also when it was refused before the gate was asked what it is about."""
    call: Call | None = getattr(request.state, "call", None)
    if call is not None and call.asked:
        return
    service: Service = request.app.state.service
    named = _TENANT.match(request.url.path)
    node = service.nodes.get(named[1] if named else "")
    if node is None or "authorization" not in request.headers:
        return
    refusal = Forbidden(kind.name.replace("-", "_").upper(), kind.title)
    with suppress(AuditError):
        asked = http_request(request, b"") if call is None else call.request
        node.gate.turn_away(asked, None if call is None else call.caller.key, refusal)


_TENANT: Final = re.compile(r"/tenants/([^/]*)/")


def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    _tell_refusal(request, {404: KINDS[NotFound], 405: METHOD_NOT_ALLOWED}.get(error.status_code, KINDS[RequestFailed]))
    if error.status_code == 405:
        return _answer(Problem(METHOD_NOT_ALLOWED, "see the OpenAPI document", headers=error.headers or {}))
    if error.status_code == 404:
        return _answer(Problem(KINDS[NotFound], "there is no such resource"))
    return _answer(Problem(KINDS[RequestFailed], "the request cannot be read"))

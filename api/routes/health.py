"""What anybody may ask: whether the process lives, whether it can be written to, its numbers, and what it can do."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from api.metrics import CONTENT_TYPE
from api.models import HealthModel
from api.service import Service

__all__ = ["routes"]

routes = APIRouter(tags=["health"], redirect_slashes=False)

_PUBLIC: dict[str, Any] = {"security": [], "x-holdfast-operation": "public"}


@routes.get("/healthz", openapi_extra=_PUBLIC, responses={200: {"model": HealthModel}}, response_model=None)
def healthz() -> Response:
    """The process answers."""
    return JSONResponse({"v": 1, "kind": "health", "state": "alive"})


@routes.get(
    "/readyz",
    openapi_extra=_PUBLIC,
    responses={
        200: {"model": HealthModel},
        503: {"model": HealthModel, "description": "Nothing is written: ``state`` says why."},
    },
    response_model=None,
)
def readyz(request: Request) -> Response:
    """Every tenant can be written to; else the name of the first state in which one cannot."""
    service: Service = request.app.state.service
    for node in service.nodes.values():
        standing = node.standing()
        if not standing.writable:
            return JSONResponse({"v": 1, "kind": "health", "state": standing.state}, 503)
    return JSONResponse({"v": 1, "kind": "health", "state": "ready"})


@routes.get(
    "/metrics",
    openapi_extra=_PUBLIC,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    response_class=Response,
    response_model=None,
)
def metrics(request: Request) -> Response:
    """Numbers for Prometheus."""
    service: Service = request.app.state.service
    return Response(service.metrics.text(), media_type=CONTENT_TYPE)


@routes.get(
    "/openapi.json",
    openapi_extra=_PUBLIC,
    responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}}},
    response_class=Response,
    response_model=None,
)
def openapi(request: Request) -> Response:
    """This document."""
    return JSONResponse(request.app.openapi())

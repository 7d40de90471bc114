"""The OpenAPI document: what the framework knows of the routes, and what only we know.

Bodies are read by strict JSON and not by the framework, so their models are put in here. Every operation says what it
takes to be allowed: a signature, by a device or, with a token, by a visitor.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from api import __version__
from api.models import ProblemDocument
from api.routes.dependencies import BODY, LARGE, MODELS

__all__ = ["PUBLIC", "SIGNED", "make_openapi"]

PUBLIC: Final[list[Any]] = []
"""The security of what anybody may ask for."""
SIGNED: Final[list[Any]] = [{"signature": []}, {"signature": [], "token": []}]

_SCHEMES: Final = {
    "signature": {
        "type": "apiKey",
        "in": "header",
        "name": "Signature",
        "description": (
            "RFC 9421 with Ed25519 over @method, @target-uri, content-digest where there is a body and authorization"
            " where there is a token; parameters created, nonce, keyid (did:key) and alg."
        ),
    },
    "token": {
        "type": "http",
        "scheme": "Biscuit",
        "description": "The capability of a visitor.",
    },
}

_DESCRIPTION: Final = """Databases of signed, timestamped and anchored documents. Values are JSON as
docs/reference/json.md says. Errors are problem documents (RFC 9457)."""


def make_openapi(app: FastAPI) -> dict[str, Any]:
    """The document of an application. It is made once."""
    if app.openapi_schema is None:
        app.openapi_schema = _make(app)
    return app.openapi_schema


def _make(app: FastAPI) -> dict[str, Any]:
    made = get_openapi(
        title="holdfast",
        version=__version__,
        description=_DESCRIPTION,
        routes=app.routes,
        servers=[
            {"url": "/", "description": "the default tenant"},
            {"url": "/tenants/{tenant}", "variables": {"tenant": {"default": "main"}}},
        ],
    )
    components = made.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    asked = [(model, "validation") for model in (ProblemDocument, *MODELS.values())]
    _, definitions = models_json_schema(asked, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    schemas.update(definitions["$defs"])
    components["securitySchemes"] = _SCHEMES
    for path, operations in made["paths"].items():
        for operation in operations.values():
            operation.pop(BODY, None)
            operation.pop(LARGE, None)
            operation.setdefault("security", SIGNED if path.startswith("/v1/") else PUBLIC)
    return made

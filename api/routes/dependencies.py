"""What every route begins with: its body within bounds, whose request it is, and whether that is allowed.

A route is declared with its ``Operation``. It is given a ``Call``, which the gate has identified, and asks the call for
its database before it touches any data: that asks the gate whether the operation is allowed.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from hashlib import sha256
from inspect import signature
from typing import Annotated, Any, Final, TypeAlias, TypeVar
from urllib.parse import quote

import anyio
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from api.access.action import Action, Caller, Grant, Operation
from api.access.request import HttpRequest
from api.access.signatures import verify_request
from api.models import ProblemDocument
from api.node import Gate, Node
from api.problems import (
    PROBLEM_JSON,
    NotFound,
    RequestTimedOut,
    StaleForReader,
    problem_of,
    siblings_json,
)
from api.service import Answer, Service
from identity.errors import (
    Forbidden,
    LimitExceeded,
    MalformedError,
    MissingEvidenceError,
    Unacknowledged,
    UnknownOutcome,
)
from identity.jsontext import parse_json
from identity.textforms import check_name
from ledger.values import reference_text
from sync.changes import Changes, StaleVersion, Strength
from sync.database import Commit, Database
from sync.jsonform import to_json

__all__ = [
    "EXAMPLE",
    "OPERATION",
    "Call",
    "Called",
    "Gate",
    "Limit",
    "Met",
    "Note",
    "On",
    "Routes",
    "Stranger",
    "answer",
    "check_collection",
    "grant_shown",
    "grant_shows",
    "http_request",
    "identify_first",
    "json_bytes",
    "ndjson",
    "openapi_body",
    "read_body",
]

OPERATION: Final = "x-holdfast-operation"
ALSO: Final = "x-holdfast-also"
LARGE: Final = "x-holdfast-large-body"
BODY: Final = "x-holdfast-body"
EXAMPLE: Final = "example"
CONTEXT: Final = "Holdfast-Context"

_MAX_IDEMPOTENCY_KEY: Final = 255
_MAX_NOTE: Final = 4096
_STRANGERS_BYTES: Final = 1024 * 1024
_READING: Final = (400, 401, 403, 404, 408, 409, 413, 422, 429, 431, 500, 503)
_WRITING: Final = (*_READING, 410, 412)

Model = TypeVar("Model", bound=BaseModel)

Note = Annotated[str, Query(max_length=_MAX_NOTE, description="What to keep with the transaction.")]
Limit = Annotated[int, Query(ge=1, le=10_000, description="How many, at most.")]


# --- the call -------------------------------------------------------------------------------------------------------


def grant_shown(grant: Grant, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the fields of a document that a grant is for."""
    return {name: value for name, value in fields.items() if grant.fields is None or name in grant.fields}


def grant_shows(grant: Grant, pointer: str) -> bool:
    """Whether a JSON Pointer into a document leads to what a grant is for. The document itself is."""
    if not pointer or grant.fields is None:
        return True
    return pointer.split("/")[1].replace("~1", "/").replace("~0", "~") in grant.fields


@dataclass(frozen=True, slots=True)
class On:
    """A database that a call may do its operation on, and how much of its documents it may see and write."""

    database: Database
    grant: Grant

    def shows(self, name: str) -> bool:
        """Whether a field at the top level of documents may be seen and written."""
        return self.grant.fields is None or name in self.grant.fields

    def shown(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the fields that may be seen."""
        return grant_shown(self.grant, fields)

    def shows_path(self, pointer: str) -> bool:
        """Whether a JSON Pointer into a document leads to what may be seen. The document itself may."""
        return grant_shows(self.grant, pointer)

    def require_fields(self, names: Iterable[str]) -> None:
        """Return only when all of these may be seen and written. Raises ``Forbidden``."""
        hidden = sorted(name for name in set(names) if not self.shows(name))
        if hidden:
            raise Forbidden("FIELDS", f"not allowed: the fields {', '.join(hidden)}")

    def require_all_fields(self, what: str) -> None:
        """Return only when no field is withheld. Raises ``Forbidden``."""
        if self.grant.fields is not None:
            raise Forbidden("FIELDS", f"{what} takes every field of the documents")


@dataclass(frozen=True, slots=True)
class Call:
    """A request of somebody whom the gate knows, to one node."""

    service: Service
    node: Node
    request: HttpRequest
    caller: Caller
    operation: Operation
    id: str
    asked: list[Action] = field(default_factory=list, repr=False)
    """What the gate was asked so far."""

    # --- asking the gate ---

    def ask(self, action: Action) -> Grant:
        """Ask the gate. Raises ``Forbidden``."""
        self.asked.append(action)
        return self.node.gate.allow(self.caller, action)

    def allow(self, operation: Operation | None = None) -> Grant:
        """Ask for an operation on the node itself. Raises ``Forbidden``."""
        return self.ask(Action(operation or self.operation))

    def on(
        self,
        database: str,
        collection: str | None = None,
        key: str | None = None,
        fields: Iterable[str] = (),
        *,
        prefix: str = "",
        operation: Operation | None = None,
        writes: bool = False,
    ) -> On:
        """Ask for the operation, by default the route's, on a database. Raises ``Forbidden``, ``NotFound``.

        What ``writes`` is for the node's own device alone: others send intents. Who may not ask the node what databases
        it has is not told that there is none of that name.
        """
        asked = operation or self.operation
        uid = self.find(database, asked)
        action = Action(asked, uid, collection, key, frozenset(fields), prefix, writes=writes)
        grant = self.ask(action)
        return On(self.node.writing(uid) if writes else self.node.reading(uid), grant)

    def find(self, database: str, operation: Operation | None = None) -> bytes:
        """The id of a database, as ``on`` finds it. Raises ``Forbidden``, ``NotFound``."""
        try:
            return self.node.find(database).uid
        except MissingEvidenceError as exc:
            self.allow(operation)
            raise NotFound(f"there is no database {database!r}, or there are several") from exc

    def permits(self, operation: Operation, uid: bytes) -> bool:
        """Whether an operation on a database is allowed. Nothing of it is opened."""
        try:
            self.ask(Action(operation, uid))
        except Forbidden:
            return False
        return True

    # --- what it says ---

    def header(self, name: str) -> str | None:
        """A header of the request. Raises ``MalformedError`` for one that stands there twice."""
        found = [value for each, value in self.request.headers if each == name.lower()]
        if len(found) > 1:
            raise MalformedError(f"{name}: stands there {len(found)} times")
        return found[0] if found else None

    def json(self, *, what: str = "body") -> Any:
        """The body, as strict JSON. Raises ``MalformedError``, ``LimitExceeded``."""
        return parse_json(self.request.body, what=what, max_bytes=self.service.limits.body_bytes)

    def read(self, model: type[Model]) -> Model:
        """The body as this model has it. Raises ``MalformedError`` naming the place."""
        return _read(self.request.body, model, self.service.limits.body_bytes)

    def changes(self, note: str = "", base: str | None = None) -> Changes:
        """An empty ``Changes``, with the context and the strength that the headers ask for."""
        return Changes(note, base or self.header(CONTEXT), strength=self.strength() or Strength.CARRIED)

    def strength(self) -> Strength | None:
        """What ``Prefer`` asks of conditions; None when it asks nothing that is known here."""
        wanted = {one.strip().lower() for one in (self.header("prefer") or "").split(",")}
        return next((one for one in Strength if one.value in wanted), None)

    def applied(self) -> dict[str, str]:
        """The header that says which preference was followed."""
        strength = self.strength()
        return {} if strength is None else {"Preference-Applied": strength.value}

    def answer_commit(
        self, made: Commit, content: Mapping[str, Any], headers: Mapping[str, str], status: int
    ) -> Response:
        """The answer to a write: what was written, or that the home of its collection decides what was proposed."""
        if not made.pending:
            return answer({**content, "pending": False}, status, {**self.applied(), **headers})
        assert made.reference is not None
        where = self.request.url.partition("/databases/")
        database = where[2].partition("/")[0]
        at = f"{where[0]}/databases/{database}/decision?entry={quote(reference_text(made.reference), safe='')}"
        return answer({**content, "pending": True}, 202, {**self.applied(), "Location": at})

    # --- what it does ---

    def commit(self, on: On, changes: Changes) -> Commit:
        """Commit changes, and measure how long that takes. Raises as ``Database.commit``."""
        if len(changes.documents) > self.service.limits.documents:
            raise LimitExceeded(f"{len(changes.documents)} documents, at most {self.service.limits.documents} go")
        with self.committing(on):
            return on.database.commit(changes)

    @contextmanager
    def committing(self, on: On | None = None) -> Iterator[None]:
        """Measure a write. Who meets a stale version is shown the document, if they may read it."""
        try:
            with self.service.metrics.commit():
                yield
        except StaleVersion as exc:
            shown = None if on is None else self._shown(on.database.uid, exc)
            if shown is None:
                raise
            raise StaleForReader(exc, shown) from exc

    def _shown(self, uid: bytes, stale: StaleVersion) -> dict[str, Any] | None:
        try:
            grant = self.ask(Action(Operation.READ, uid, *stale.document))
        except Forbidden:
            return None
        view = stale.current
        return {
            "fields": grant_shown(grant, to_json(dict(view.fields))) if view.exists else None,
            "siblings": {path: each for path, each in siblings_json(view).items() if grant_shows(grant, path)},
            "conflicts": [
                {"kind": one.kind.value, "path": one.path} for one in view.conflicts if grant_shows(grant, one.path)
            ],
        }

    def once(self, make: Callable[[], Response]) -> Response:
        """The answer that ``make`` makes; the one that it made before, when this request is sent again.

        Without an Idempotency-Key it is always made. Who asks has to be allowed to by now, so call it behind ``on``.
        """
        key = self.header("idempotency-key")
        if key is None:
            return make()
        if not 1 <= len(key) <= _MAX_IDEMPOTENCY_KEY:
            raise MalformedError(f"Idempotency-Key: 1 to {_MAX_IDEMPOTENCY_KEY} characters")
        answers, whose, digest = self.service.answers, self._whose(), self._digest()
        before = answers.begin(whose, key, digest)
        if before is not None:
            return Response(before.body, before.status, {**dict(before.headers), "Idempotency-Replayed": "true"})
        try:
            made = make()
        except (UnknownOutcome, Unacknowledged) as exc:  # it may be written: it must not be tried again by itself
            problem = problem_of(exc, self.id)
            made = Response(problem.body(), problem.kind.status, dict(problem.headers), PROBLEM_JSON)
        except BaseException:
            answers.drop(whose, key)  # nothing was written
            raise
        answers.keep(whose, key, digest, Answer(made.status_code, tuple(made.headers.items()), bytes(made.body)))
        return made

    def _whose(self) -> bytes:
        token = b"" if self.caller.token is None else self.caller.token.digest
        return sha256(self.caller.key + token + str(id(self.node)).encode()).digest()

    def _digest(self) -> bytes:
        conditions = [f"{name}:{value}" for name, value in self.request.headers if name in _DECIDING]
        asked = [self.request.method, self.request.url, *conditions]
        return sha256(json.dumps(asked).encode() + self.request.body).digest()


_DECIDING: Final = frozenset({"if-match", "if-none-match", "prefer", "holdfast-context"})
"""Headers that make another request of it."""


def _read(body: bytes, model: type[Model], most: int) -> Model:
    try:
        return model.model_validate(parse_json(body, what="body", max_bytes=most))
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        at = "/".join(str(step) for step in first["loc"])
        raise MalformedError(f"body: {at}: {first['msg'].removeprefix('Value error, ')}") from exc


# --- identifying ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _arriving(request: Request) -> AsyncIterator[bytes]:
    """The body, read no further than the route allows: also one that does not say how long it is."""
    service: Service = request.app.state.service
    limits = service.limits
    most = limits.import_bytes if _extra(request).get(LARGE) else limits.body_bytes
    with service.held() as hold:
        yield await read_body(request, most, limits.body_s, hold)


async def _body(request: Request) -> AsyncIterator[bytes]:
    async with _arriving(request) as body:
        yield body


async def read_body(request: Request, most: int, within_s: float, hold: Callable[[int], None]) -> bytes:
    """The body of a request. ``hold`` is told of the bytes before they are kept.

    Raises ``LimitExceeded`` beyond ``most`` bytes, ``RequestTimedOut``, and as ``hold`` does.
    """
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and (len(announced) > 18 or int(announced) > most):
        raise LimitExceeded(f"body: {announced[:20]} bytes, at most {most} are taken")
    parts, size = [], 0
    try:
        with anyio.fail_after(within_s):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise LimitExceeded(f"body: more than {most} bytes")
                hold(len(part))
                parts.append(part)
    except TimeoutError as exc:
        raise RequestTimedOut(f"the body took longer than {within_s:g} s") from exc
    return b"".join(parts)


def http_request(connection: HTTPConnection, body: bytes) -> HttpRequest:
    """A request, or one for a WebSocket, as it was signed."""
    service: Service = connection.app.state.service
    raw = connection.headers.raw
    headers = tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in raw)
    method = connection.scope.get("method", "GET")
    return HttpRequest(method, _target(connection, service.public_url), headers, body)


@dataclass(frozen=True, slots=True)
class Stranger:
    """A request of somebody whom the node need not know: ``key`` has signed it, and whose key that is nobody says."""

    node: Node
    request: HttpRequest
    key: bytes

    def read(self, model: type[Model]) -> Model:
        """The body as this model has it. Raises ``MalformedError`` naming the place."""
        return _read(self.request.body, model, _STRANGERS_BYTES)


def _stranger(request: Request, body: Annotated[bytes, Depends(_body)]) -> Stranger:
    """No nonce is remembered of strangers, who could fill the memory for them: asking twice must do no harm."""
    service: Service = request.app.state.service
    node, asked = service.node(request.path_params.get("tenant", "")), http_request(request, body)
    if asked.values("authorization"):  # no token is for what takes none: the visit is refused, and told
        node.gate.allow(node.gate.identify(asked), Action(Operation.PAIR))
    verified = verify_request(asked, node.session.now_ms() // 1000)
    service.rates.take(verified.key)
    return Stranger(node, asked, verified.key)


def _identified(request: Request, body: bytes) -> Call:
    """The call that a request is. Raises as ``Gate.identify``."""
    service: Service = request.app.state.service
    node, asked = service.node(request.path_params.get("tenant", "")), http_request(request, body)
    caller = node.gate.identify(asked)
    request.state.caller = caller.key
    service.rates.take(caller.key)
    call = Call(service, node, asked, caller, Operation(_extra(request)[OPERATION]), request.state.id)
    request.state.call = call
    return call


def _target(connection: HTTPConnection, public_url: str | None) -> str:
    """The target URI, as its client wrote it: its path is not decoded and not tidied up."""
    scope = connection.scope
    if public_url is not None and scope["type"] == "websocket":
        public_url = "ws" + public_url.removeprefix("http")
    origin = public_url or f"{scope['scheme']}://{connection.headers.get('host', '')}"
    query = scope["query_string"].decode("latin-1")
    path = scope["raw_path"].decode("latin-1").partition("?")[0]
    return f"{origin}{path}?{query}" if query else f"{origin}{path}"


def _extra(request: Request) -> Mapping[str, Any]:
    found: Mapping[str, Any] | None = request.scope["route"].openapi_extra
    return found or {}


Called: TypeAlias = Call
"""What a route is given, as its parameter ``call`` (``_for_call``)."""
Met = Annotated[Stranger, Depends(_stranger)]


# --- declaring ------------------------------------------------------------------------------------------------------


class Routes(APIRouter):
    """A router whose routes all have their operation, and say all that they can answer."""

    def __init__(self, subject: str) -> None:
        super().__init__(tags=[subject], redirect_slashes=False)

    def declare(
        self,
        method: str,
        path: str,
        operation: Operation,
        *,
        answers: type[BaseModel] | None = None,
        status: int = 200,
        example: Any = None,
        also: Sequence[Operation] = (),
        body: type[BaseModel] | None = None,
        body_example: Any = None,
        body_media: str = "application/json",
        takes: str | None = None,
        media: str = "application/json",
        large: bool = False,
        more: Mapping[int, str] | None = None,
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register a route. ``answers`` is what it answers with when all is well, ``more`` other answers that are no
        problems, ``also`` operations that it asks for beside its own, by what the request says, ``takes`` the type of
        a body that is no text.
        """
        writes = method not in ("GET", "HEAD")
        responses: dict[int | str, dict[str, Any]] = {
            code: {"description": _ANSWER[code], "content": {PROBLEM_JSON: {"schema": _PROBLEM}}}
            for code in (_WRITING if writes else _READING)
        }
        good: dict[str, Any] = {"description": "Done."}
        if answers is not None:
            good["model"] = answers
            if example is not None:
                good["content"] = {"application/json": {EXAMPLE: example}}
        elif media and media != "application/json":
            good["content"] = {media: {"schema": {"type": "string"}}}
        responses[status] = good
        if operation in _DECIDED and writes:
            responses[202] = {"description": "Proposed to the home of the collection, which decides (Prefer: serial)."}
        for code, meaning in (more or {}).items():
            responses[code] = {"description": meaning}
        extra: dict[str, Any] = {OPERATION: operation.value}
        if also:
            extra[ALSO] = [one.value for one in also]
        if large:
            extra[LARGE] = True
        if body is not None:
            extra[BODY] = body.__name__
            extra["requestBody"] = openapi_body(body, body_example, body_media)
            MODELS[body.__name__] = body
        if takes is not None:
            binary = {"schema": {"type": "string", "format": "binary"}}
            extra["requestBody"] = {"required": True, "content": {takes: binary}}
        register = self.api_route(
            path,
            methods=[method],
            status_code=status,
            response_model=None,
            response_class=Response,
            responses=responses,
            openapi_extra=extra,
            name=f"{method} {path}",
        )
        return lambda route: register(_for_call(route))


def _for_call(route: Callable[..., Any]) -> Callable[..., Any]:
    """The route as the framework calls it: with the request where the route has its call.

    The gate reads the store, so it is asked in the thread that serves the route. As a dependency it would have a thread
    of its own: handing a request to a thread and back costs as much as to verify it.
    """
    wanted = signature(route)
    if "call" not in wanted.parameters:
        return route

    @wraps(route)
    async def served(call: Request, **given: Any) -> Any:
        async with _arriving(call) as body:
            return await run_in_threadpool(lambda: route(call=_identified(call, body), **given))

    parameters = [one.replace(annotation=Request) if one.name == "call" else one for one in wanted.parameters.values()]
    served.__signature__ = wanted.replace(parameters=parameters)  # type: ignore[attr-defined]
    return served


async def identify_first(request: Request) -> None:
    """Where a route has a call: return only when it is one of somebody's. Raises as ``Gate.identify``.

    The framework has read the parameters of a route before the gate is asked. Who is not known is not told what is
    wrong with them.
    """
    if hasattr(request.scope["route"].endpoint, "__wrapped__"):
        async with _arriving(request) as body:
            await run_in_threadpool(_identified, request, body)


MODELS: Final[dict[str, type[BaseModel]]] = {}
"""The models of bodies, for the OpenAPI document: bodies are read by strict JSON, and not by the framework."""


def openapi_body(model: type[BaseModel], example: Any, media: str) -> dict[str, Any]:
    """How the OpenAPI document describes a body."""
    content: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
    return {
        "required": True,
        "content": {media: content | ({} if example is None else {EXAMPLE: example})},
    }


_DECIDED: Final = frozenset({Operation.CREATE, Operation.UPDATE, Operation.DELETE})
_PROBLEM: Final = {"$ref": f"#/components/schemas/{ProblemDocument.__name__}"}
_ANSWER: Final = {
    400: "Malformed: nothing was done.",
    401: "Not signed as it must be.",
    403: "Not allowed.",
    404: "There is no such thing.",
    408: "The body did not come in time.",
    409: "Refused, or somebody else was quicker.",
    410: "The document was ended for good.",
    412: "The document is in another version, which is shown.",
    413: "Larger than is taken.",
    422: "What was sent is well-formed and its claim is false; or the Idempotency-Key was used.",
    429: "Too many requests with this key.",
    431: "Headers or URL larger than is taken.",
    500: "Something went wrong inside.",
    503: "Not now: busy, or read-only.",
}


# --- answering ------------------------------------------------------------------------------------------------------


def answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(json_bytes(content), status, dict(headers or {}), "application/json")


def json_bytes(content: Any) -> bytes:
    """JSON as it is answered."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def ndjson(rows: Iterable[Any]) -> Iterator[bytes]:
    """A line of JSON for each."""
    return (json_bytes(row) + b"\n" for row in rows)


def check_collection(collection: str) -> str:
    """Return the name of a collection of documents. Raises ``MalformedError``, ``NotFound`` for the database's own."""
    if collection.startswith("$"):
        raise NotFound("schemas and holds have paths of their own")
    return check_name(collection, "collection")

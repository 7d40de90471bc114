"""A node, spoken to over HTTP: requests that are signed, and answers that are read strictly.

    with RemoteNode("http://127.0.0.1:8463", signer) as node:
        found = node.ask("GET", "/v1/databases/bank/collections/accounts/documents/4711")
        print(found.json["fields"])

What a node answers here is its own word. A replica that syncs with it verifies what it is told (``api.client``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Self

import httpx

from api.access.signing import RequestSigner
from identity.errors import MalformedError, RefusedError, StorageError, TransportError
from identity.jsontext import parse_json
from identity.keys import Signer

__all__ = ["RemoteAnswer", "RemoteNode", "RemoteProblem", "check_node_url"]

_MAX_ANSWER: Final = 64 * 1024 * 1024
_MAX_PROBLEM: Final = 1024 * 1024
_CONNECT_S: Final = 5.0
_ANSWER_S: Final = 60.0
_PIECE: Final = 65_536
_MAX_URL: Final = 2048
_PROBLEM_JSON: Final = "application/problem+json"


class RemoteProblem(RefusedError):
    """A node refused a request. ``kind`` is the last part of the problem's type, ``members`` all that it says."""

    def __init__(self, status: int, kind: str, detail: str, members: Mapping[str, Any]) -> None:
        super().__init__(f"the node answered {status}: {detail}")
        self.status = status
        self.kind = kind
        self.members = members


@dataclass(frozen=True, slots=True)
class RemoteAnswer:
    """An answer that is no problem."""

    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON; None when there is none. Raises ``MalformedError``."""
        return parse_json(self.body, what="answer", max_bytes=_MAX_ANSWER) if self.body else None


def check_node_url(text: str) -> str:
    """The origin of a node as it is called everywhere, without a slash at its end. Raises ``MalformedError``."""
    try:
        url = httpx.URL(text) if len(text) <= _MAX_URL else httpx.URL("")
    except httpx.InvalidURL:
        url = httpx.URL("")
    is_origin = url.scheme in ("http", "https") and url.host and not url.query and not url.fragment and not url.userinfo
    if not is_origin or not text.isascii():
        raise MalformedError(f"{text[:80]!r} is no address of a node", hint="it looks like http://127.0.0.1:8463")
    return str(url).rstrip("/")


class RemoteNode:
    """A node, for one device or one visitor. Threads may share it. Use it as a context manager, or ``close`` it."""

    def __init__(
        self,
        url: str,
        signer: Signer,
        *,
        token: str | None = None,
        transport: httpx.BaseTransport | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """``token`` is what a visitor was given. Raises ``MalformedError`` for what is no address."""
        self.url = check_node_url(url)
        self.sign = RequestSigner(signer, token, now_s)
        self._client = httpx.Client(
            transport=transport,
            timeout=httpx.Timeout(_ANSWER_S, connect=_CONNECT_S),
            trust_env=False,
            follow_redirects=False,
        )

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> RemoteAnswer:
        """Send a request and read all of the answer. ``path`` begins with /, ``body`` goes as JSON, bytes as they are.

        Raises ``RemoteProblem`` when the node refuses it, ``TransportError`` when it does not answer, or not as a node.
        """
        with self._asking(method, path, body, query, headers) as response:
            return _read(response)

    def save(
        self,
        method: str,
        path: str,
        out: BinaryIO,
        body: Any = None,
        *,
        most: int,
        query: Mapping[str, str] | None = None,
    ) -> int:
        """Send a request and write the body of the answer to ``out``, as it comes: no more than ``most`` bytes.

        Returns how many. Raises as ``ask``, and ``StorageError`` when writing fails.
        """
        size = 0
        with self._asking(method, path, body, query, None) as response:
            if not response.is_success:
                _read(response)
                raise TransportError(f"the node answered {response.status_code}, which says nothing")
            for part in _bounded(response.iter_bytes(_PIECE), most):
                try:
                    out.write(part)
                except OSError as exc:
                    raise StorageError(f"cannot write what {self.url} sends: {exc.strerror}") from exc
                size += len(part)
        return size

    @contextmanager
    def _asking(
        self,
        method: str,
        path: str,
        body: Any,
        query: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
    ) -> Iterator[httpx.Response]:
        content, more = _content(body)
        url = str(httpx.URL(self.url + path, params=query)) if query else self.url + path
        plain = {**more, **(headers or {})}
        signed = {**plain, **self.sign(method, url, plain, content)}
        try:
            with self._client.stream(method, url, content=content, headers=signed) as response:
                yield response
        except httpx.TimeoutException as exc:
            raise TransportError(f"{self.url} did not answer in time", hint="try again later") from exc
        except httpx.HTTPError as exc:
            raise TransportError(f"{self.url} cannot be reached: {str(exc) or type(exc).__name__}") from exc

    def close(self) -> None:
        """Close its connections. Idempotent."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _content(body: Any) -> tuple[bytes, dict[str, str]]:
    match body:
        case None:
            return b"", {}
        case bytes():
            return body, {}
        case _:
            return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(), {
                "content-type": "application/json"
            }


def _read(response: httpx.Response) -> RemoteAnswer:
    """The answer, read no further than is taken. Raises ``RemoteProblem``, ``TransportError``."""
    is_problem = response.headers.get("content-type", "").partition(";")[0] == _PROBLEM_JSON
    most = _MAX_PROBLEM if is_problem else _MAX_ANSWER
    body = b"".join(_bounded(response.iter_bytes(_PIECE), most))
    if response.is_success or response.status_code == httpx.codes.NOT_MODIFIED:
        return RemoteAnswer(response.status_code, response.headers, body)
    raise _problem(response.status_code, body if is_problem else b"")


def _bounded(parts: Iterable[bytes], most: int) -> Iterable[bytes]:
    size = 0
    for part in parts:
        size += len(part)
        if size > most:
            raise TransportError(f"the node's answer has more than {most} bytes")
        yield part


def _problem(status: int, body: bytes) -> RemoteProblem | TransportError:
    with suppress(MalformedError):
        match parse_json(body, what="problem", max_bytes=_MAX_PROBLEM):
            case {"type": str(name), "detail": str(detail), **members}:
                return RemoteProblem(
                    status, name.rpartition(":")[2], detail, {str(one): members[one] for one in members}
                )
    return TransportError(f"the node answered {status}, and not as a node does")

"""An app that visits a node: reads what its token shows, and writes intents that it signs itself.

    with Visitor("http://127.0.0.1:8463", holder, token) as visitor:
        accounts = visitor.database("bank").collection("accounts")
        account = accounts.get("4711")
        accounts.patch("4711", {"owner": "Nowak"}, if_match=account.etag)

The holder's key signs each request and each intent; the token says what is allowed. What a node answers is its own
word. A write whose answer was lost is sent again as the same intent, which changes nothing more.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Self
from urllib.parse import quote

import httpx

from api.access.capability import Terms, minter_of, read_capability
from api.remote import RemoteNode, RemoteProblem
from identity.errors import MalformedError, TransportError
from identity.keys import Signer
from ledger.values import from_python
from sync.intent import Intent, encode_intent, sign_intent
from sync.jsonform import read_field
from sync.transaction import DocumentId, Op, Path, Verb

__all__ = ["VisitedCollection", "VisitedDatabase", "VisitedDocument", "Visitor", "Written"]

_MEDIA_TYPE: Final = "application/vnd.holdfast.intent"
_PAGE: Final = 100


@dataclass(frozen=True, slots=True)
class VisitedDocument:
    """A document, as much of it as the token shows. ``fields`` are Python values."""

    key: str
    etag: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Written:
    """What became of an intent. ``entry`` carries it; ``repeated``: it did so before."""

    entry: str
    place: int
    etags: Mapping[str, str | None]
    repeated: bool
    intent: Intent

    @property
    def etag(self) -> str | None:
        """The version of the document, when it is one."""
        return next(iter(self.etags.values())) if len(self.etags) == 1 else None


class Visitor:
    """A node, for who holds a token. Threads may share it. Use it as a context manager, or ``close`` it."""

    def __init__(
        self,
        url: str,
        holder: Signer,
        token: str,
        *,
        tenant: str = "",
        sequence: Callable[[], int] | None = None,
        transport: httpx.BaseTransport | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """``sequence`` makes the number of each intent, by default of the clock, in nanoseconds: no two of one key may
        be the same, so an app that runs in several processes keeps numbers of its own, or gives each a key.

        Raises ``MalformedError`` for what is no address or no token, ``VerificationError`` for one that does not hold.
        """
        try:
            encoded = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
        except ValueError as exc:
            raise MalformedError("the token is not base64url") from exc
        self.terms: Terms = read_capability(encoded, minter_of(encoded)).terms
        """What the token allows, as it says itself."""
        self._holder = holder
        self._sequence = sequence or _Clock(now_s)
        self._prefix = f"/tenants/{quote(tenant, safe='')}/v1" if tenant else "/v1"
        self._node = RemoteNode(url, holder, token=token, transport=transport, now_s=now_s)

    def database(self, name: str | None = None) -> VisitedDatabase:
        """The database that the token is for. ``name`` is how the node calls it, by default its id."""
        path = f"{self._prefix}/databases/{quote(name or self.terms.database.hex(), safe='')}"
        return VisitedDatabase(self._node, path, self.terms.database, self._holder, self._sequence)

    def close(self) -> None:
        """Close its connections. Idempotent."""
        self._node.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Clock:
    """Numbers that ascend: the time, or one more than the last."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._lock = threading.Lock()
        self._last = 0

    def __call__(self) -> int:
        with self._lock:
            self._last = max(self._last + 1, int(self._now_s() * 1_000_000_000))
            return self._last


@dataclass(frozen=True, slots=True)
class VisitedDatabase:
    """A database of a node, for a visitor."""

    _node: RemoteNode
    _path: str
    uid: bytes
    _holder: Signer
    _sequence: Callable[[], int]

    def collection(self, name: str) -> VisitedCollection:
        """A collection of it."""
        return VisitedCollection(self, name)

    def ask(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """The answer to a request beneath the database, as JSON. Raises as ``RemoteNode.ask``."""
        return self._node.ask(method, self._path + path, body, **options).json

    def write(
        self, ops: Sequence[Op], *, if_match: str | None = None, if_absent: bool = False, note: str = ""
    ) -> Written:
        """Sign operations as one intent, and have it written. Conditions go with operations on one document.

        Raises ``RemoteProblem`` when it is refused, ``MalformedError`` for operations that cannot be.
        """
        intent = sign_intent(self._holder, self.uid, ops, sequence=self._sequence())
        return self.send(intent, if_match=if_match, if_absent=if_absent, note=note)

    def send(self, intent: Intent, *, if_match: str | None = None, if_absent: bool = False, note: str = "") -> Written:
        """Have an intent written that is signed already: again, too, when it is not known what became of it."""
        headers = {"content-type": _MEDIA_TYPE}
        if if_match is not None:
            headers |= {"if-match": "*", "prefer": "local"} if if_match == "*" else {"if-match": f'"{if_match}"'}
        if if_absent:
            headers["if-none-match"] = "*"
        options = {"headers": headers, "query": {"note": note} if note else None}
        data = encode_intent(intent)
        try:
            found = self.ask("POST", "/intents", data, **options)
        except TransportError:
            found = self.ask("POST", "/intents", data, **options)
        match found:
            case {"entry": str(entry), "place": int(place), "etags": dict(etags), "repeated": bool(repeated)}:
                return Written(entry, place, etags, repeated, intent)
        raise TransportError("the node's answer does not say what was written")


@dataclass(frozen=True, slots=True)
class VisitedCollection:
    """The documents of a collection, for a visitor. Every call raises ``RemoteProblem`` for what is refused."""

    _database: VisitedDatabase
    name: str

    # --- reading ---

    def get(self, key: str) -> VisitedDocument:
        """A document. There being none is a ``RemoteProblem`` of kind ``not-found``."""
        return _document(key, self._database.ask("GET", self._at(key)))

    def list(self, prefix: str = "") -> Iterator[VisitedDocument]:
        """The documents by key, those whose keys begin so."""
        asked = {"prefix": prefix} if prefix else {}
        return self._pages(lambda more: self._database.ask("GET", self._at(), query={**asked, **more}))

    def query(self, where: str, *, order: str = "$key", select: Sequence[str] = ()) -> Iterator[VisitedDocument]:
        """The documents that fit a filter, such as ``balance >= 100.00``: over fields that the token shows."""
        path = f"/collections/{quote(self.name, safe='')}/query"
        asked = {"where": where, "order": order, "select": list(select)}
        return self._pages(lambda more: self._database.ask("POST", path, {**asked, **_numbers(more)}))

    def _pages(self, ask: Callable[[Mapping[str, str]], Any]) -> Iterator[VisitedDocument]:
        more = {"limit": str(_PAGE)}
        while True:
            match ask(more):
                case {"documents": list(rows), "cursor": str() | None as cursor}:
                    yield from (_document(str(row["key"]), row) for row in rows)
                case _:
                    raise TransportError("the node's answer is no page of documents")
            if cursor is None:
                return
            more = {"limit": str(_PAGE), "after": cursor}

    def _at(self, key: str | None = None) -> str:
        path = f"/collections/{quote(self.name, safe='')}/documents"
        return path if key is None else f"{path}/{quote(key, safe='/')}"

    # --- writing ---

    def put(self, key: str, fields: Mapping[str, object], *, if_match: str | None = None, note: str = "") -> Written:
        """Let a document have these of the fields that the token shows, and no others of them; it is made if there is
        none. With ``if_match`` only in that version; without it, in the one that is read now.
        """
        try:
            there = self.get(key)
        except RemoteProblem as exc:
            if exc.kind != "not-found" or if_match is not None:
                raise
            return self.create(key, fields, note=note)
        gone = [Op(Verb.DEL, self._name(key), (name,), None) for name in there.fields if name not in fields]
        ops = [*gone, *self._sets(key, fields)]
        return self._database.write(ops, if_match=if_match or there.etag, note=note)

    def create(self, key: str, fields: Mapping[str, object], *, note: str = "") -> Written:
        """Make a document, when there is none."""
        return self._database.write(self._sets(key, fields), if_absent=True, note=note)

    def patch(
        self,
        key: str,
        fields: Mapping[str, object],
        *,
        unset: Sequence[str] = (),
        if_match: str | None = None,
        note: str = "",
    ) -> Written:
        """Let a document that is there have these fields, and leave its others but those in ``unset``."""
        gone = [Op(Verb.DEL, self._name(key), (name,), None) for name in unset]
        return self._database.write([*gone, *self._sets(key, fields)], if_match=if_match or "*", note=note)

    def increment(
        self, key: str, where: str | Path, by: int | Decimal = 1, *, if_match: str | None = None, note: str = ""
    ) -> Written:
        """Add to a counter of a document; a negative amount takes away."""
        op = Op(Verb.INC, self._name(key), (where,) if isinstance(where, str) else where, from_python(by))
        return self._database.write([op], if_match=if_match, note=note)

    def delete(self, key: str, *, if_match: str | None = None, note: str = "") -> Written:
        """Hide a document. It takes a token for all fields."""
        return self._database.write([Op(Verb.HIDE, self._name(key), (), True)], if_match=if_match or "*", note=note)

    def _sets(self, key: str, fields: Mapping[str, object]) -> Sequence[Op]:
        return [Op(Verb.SET, self._name(key), (name,), from_python(value)) for name, value in fields.items()]

    def _name(self, key: str) -> DocumentId:
        return DocumentId(self.name, key)


def _numbers(more: Mapping[str, str]) -> dict[str, Any]:
    return {name: int(value) if name == "limit" else value for name, value in more.items()}


def _document(key: str, found: Any) -> VisitedDocument:
    match found:
        case {"etag": str(etag), "fields": dict(fields)}:
            return VisitedDocument(key, etag, {name: read_field(name, one, None) for name, one in fields.items()})
    raise TransportError("the node's answer is no document")

"""Nodes over real homes behind their own gates, and callers who sign what they ask for."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from api.access.action import Operation
from api.access.capability import Scope, Terms, mint
from api.access.records import Record, Refusals, Visit
from api.access.signing import RequestSigner
from api.access.visits import read_page
from api.bootstrap import open_session
from api.home import Home
from api.node import Node
from api.settings import load_settings
from identity.keys import Ed25519Signer, Signer
from identity.keystore import open_keystore
from sync.intent import encode_intent, sign_intent
from sync.transaction import DocumentId, Op, Verb

PASSPHRASE = "correct horse battery staple"
APP = Ed25519Signer(b"\x51" * 32)
THIEF = Ed25519Signer(b"\x52" * 32)
HIDDEN = "4815162342"
"""What stands in fields that the app must not see."""


@dataclass
class Tenant:
    """A node with a database ``bank`` of which an app may see a part, and a database ``other``."""

    node: Node
    seed: bytes
    _told: Mapping[Any, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.device = Ed25519Signer(self.seed)
        self.bank, self.other = (self.node.create(name) for name in ("bank", "other"))
        for database in (self.bank, self.other):
            for collection in ("accounts", "loans"):
                database.put(collection, "4711", {"owner": "Novak", "limit": 5, "secret": HIDDEN}, note=HIDDEN)
                database.put(collection, "4712", {"owner": "Dvorak", "secret": HIDDEN})
            database.set_schema("accounts", {"type": "object", "properties": {"secret": {"type": "string"}}})

    @property
    def now_s(self) -> int:
        return self.node.session.now_ms() // 1000

    def terms(self, **changes: Any) -> Terms:
        terms = Terms(
            APP.public_key,
            self.bank.uid,
            frozenset({Operation.READ, Operation.UPDATE}),
            self.now_s + 3600,
            (Scope("accounts"),),
            frozenset({"owner", "limit"}),
            rate=6000,
        )
        return replace(terms, **changes)

    def token(self, *, ago_s: int = 0, **changes: Any) -> bytes:
        return mint(self.seed, self.terms(**changes), self.now_s - ago_s)

    def told(self) -> list[Record]:
        """What the feeds say that they did not say when this was asked before."""
        assert self.node.access is not None
        self.node.access.feed.flush(all_of_it=True)
        vault = self.node.session.vault
        page = read_page(vault.store, vault.history().identity, self._told, lambda _: True, 10_000)
        assert not page.more
        self._told = page.positions
        return list(page.records)


def open_tenant(stack: ExitStack, home: Path, dev: Path) -> Tenant:
    """A node over a home, both to be closed with the stack."""
    settings = load_settings(Home(home), {"HOLDFAST_DEV_DIR": str(dev)})
    session = stack.enter_context(open_session(Home(home), settings))
    ring = open_keystore(settings.keystore, PASSPHRASE)
    node = Node(session, ring)
    stack.callback(node.close)
    return Tenant(node, ring.devices["till"])


@dataclass
class Signed:
    """Asks as somebody, with a token or without."""

    client: TestClient
    signer: Signer
    token: bytes | None = None

    def headers(self, method: str, url: str, body: bytes, headers: Mapping[str, str]) -> dict[str, str]:
        text = None if self.token is None else base64.urlsafe_b64encode(self.token).decode()
        return {**headers, **RequestSigner(self.signer, text)(method, url, headers, body)}

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        named = {name.replace("_", "-").lower(): value for name, value in headers.items()}
        if "/resolve/" in path:
            named["if-match"] = '"1.x"'  # or it is not looked at
        url = str(self.client.build_request(method, path).url)
        return self.client.request(method, url, content=content, headers=self.headers(method, url, content, named))


def intent(signer: Signer, database: bytes, sequence: int, ops: Sequence[Op] | None = None, **more: Any) -> bytes:
    """An intent as it travels: by default to change the owner of an account."""
    ops = ops or [Op(Verb.SET, DocumentId("accounts", "4711"), ("owner",), f"Novak {sequence}")]
    return encode_intent(sign_intent(signer, database, ops, sequence=sequence, **more))


def refusals(records: Sequence[Record]) -> list[str]:
    """Why somebody was refused, told one by one or as a number."""
    return [one.reason for one in records if isinstance(one, Refusals) or (isinstance(one, Visit) and not one.allowed)]

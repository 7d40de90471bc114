"""A node over a real home, served in this process, behind a gate that does as a test says."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api import models
from api.access.action import Action, Caller, Grant, Operation
from api.access.request import HttpRequest
from api.app import create_app
from api.asgi import make_log
from api.bootstrap import open_session
from api.founding import Founding, found_home
from api.home import Home
from api.node import Node
from api.service import Limits
from api.settings import default_settings_text, load_settings
from identity.errors import Forbidden, Unauthenticated
from identity.event import DeviceClass
from identity.keystore import ONLY_FOR_TESTING, open_keystore

PASSPHRASE = "correct horse battery staple"
DOCUMENTS = "/v1/databases/bank/collections/accounts/documents"


@dataclass
class FakeGate:
    """Knows callers by a header, and allows what a test has not forbidden. It remembers what it was asked."""

    forbidden: set[Operation] = field(default_factory=set)
    fields: frozenset[str] | None = None
    asked: list[Action] = field(default_factory=list)
    seen: list[HttpRequest] = field(default_factory=list)

    def identify(self, request: HttpRequest) -> Caller:
        self.seen.append(request)
        name = request.header("x-caller")
        if name is None:
            raise Unauthenticated("UNSIGNED", "nobody signed this")
        return Caller(name.encode().ljust(32, b"."))

    def allow(self, caller: Caller, action: Action) -> Grant:
        self.asked.append(action)
        if action.operation in self.forbidden:
            raise Forbidden("ROLE", f"{action.operation} is not for you")
        return Grant(caller, b"i" * 32, self.fields)


def check_documented(described: Any, method: str, path: str, found: Any) -> None:
    """Hold an answer against the model that the OpenAPI document names for it: no member is missing, or not named."""
    target, method = path.partition("?")[0], method.lower()
    paths = [one for one, each in described["paths"].items() if method in each]
    patterns = {one: re.sub(r"\{[^}]*\}", "[^/]+", one.replace("{key}", ".+")) for one in paths}
    fitting = [one for one, pattern in patterns.items() if re.fullmatch(pattern, target)]
    if not fitting:
        return
    responses = described["paths"][min(fitting, key=lambda one: (one.count("{"), -len(one)))][method]["responses"]
    (good,) = (one for code, one in responses.items() if code in ("200", "201") and "content" in one)
    schema = good["content"]["application/json"]["schema"]
    if "$ref" not in schema:
        return
    model = getattr(models, schema["$ref"].rpartition("/")[2])
    if model.model_config.get("extra") != "allow":
        named = {one.alias or name for name, one in model.model_fields.items()}
        assert set(found) <= named, (method, path, set(found) - named)
    model.model_validate(found)


@dataclass
class Served:
    """A client of one node, and what stands behind it."""

    client: TestClient
    gate: FakeGate
    node: Node
    log: io.StringIO

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Ask as the caller ``teller``; ``If_Match="x"`` becomes the header If-Match."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        answered = self.client.request(method, path, content=content, headers={"X-Caller": "teller", **named})
        if answered.status_code < 300 and answered.headers.get("content-type") == "application/json":
            check_documented(self.client.app.openapi(), method, path, answered.json())
        return answered

    def put(self, key: str, **fields: object) -> Any:
        answered = self("PUT", f"{DOCUMENTS}/{key}", fields)
        assert answered.status_code in (200, 201), answered.text
        return answered

    @property
    def database(self) -> Any:
        return self.node.writing(self.node.find("bank").uid)


@pytest.fixture(scope="session")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home without a chain, to be copied."""
    directory = tmp_path_factory.mktemp("service")
    founding = Founding(
        label="bank",
        devices={"till": DeviceClass.DEVICE},
        log_name="bank.example",
        chain=None,
        fund=None,
        authorities=[],
        settings=default_settings_text({"kind": "none"}, []),
        kdf=ONLY_FOR_TESTING,
    )
    found_home(Home(directory / "home"), founding, PASSPHRASE, now_ms=1_767_225_600_000)
    return directory / "home"


@pytest.fixture
def make_served(empty_home: Path, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Serves a new home, with a database ``bank``, under limits that a test may name."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def make(limits: Limits | None = None, *, raises: bool = True) -> Served:
            home = Home(shutil.copytree(empty_home, tmp_path / f"home{len(list(tmp_path.glob('home*')))}"))
            settings = load_settings(home, {"HOLDFAST_DEV_DIR": str(tmp_path / "dev")})
            session = stack.enter_context(open_session(home, settings))
            gate = FakeGate()
            node = Node(session, open_keystore(settings.keystore, PASSPHRASE), gate)
            stack.callback(node.close)
            node.create("bank")
            log = io.StringIO()
            app = create_app({"": node}, limits=limits, log=make_log(log))
            client = stack.enter_context(TestClient(app, raise_server_exceptions=raises))
            return Served(client, gate, node, log)

        yield make


@pytest.fixture
def served(make_served: Callable[..., Served]) -> Served:
    """One home, served."""
    return make_served()

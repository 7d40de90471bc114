"""The whole OpenAPI document against a node with its own gate: requests made from the document, and wrong ones.

Every request is signed by the home's device. What is answered stands in the document: the status, the type, the
schema. Nothing goes wrong inside. Parameters that name something are mostly names of what is there, so that the
routes are reached and not only their refusals.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.access.signing import RequestSigner
from api.app import create_app
from api.asgi import make_log
from api.bootstrap import open_session
from api.home import Home
from api.node import Node
from api.service import Limits
from api.settings import load_settings
from identity.errors import MalformedError
from identity.keystore import open_keystore
from tests.unit.api.routes.conftest import DOCUMENTS, PASSPHRASE

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "6"))
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
PAIRING = {"/v1/pairings/claims", "/v1/pairings/{pairing}/state"}
"""Who has no part in it is not let in."""


@schemathesis.serializer("application/x-ndjson")
def lines(_: Any, value: Any) -> bytes:
    """An import of one line."""
    return json.dumps(value).encode() + b"\n"


@schemathesis.serializer(
    "application/vnd.holdfast.sync", "application/vnd.holdfast.archive", "application/vnd.holdfast.intent"
)
def frames(_: Any, value: Any) -> bytes:
    """Any bytes."""
    return value if isinstance(value, bytes) else bytes(str(value), "utf-8")


@dataclass
class Real:
    """A node whose gate is its own, and a client that signs as its device does."""

    client: TestClient
    node: Node
    log: io.StringIO
    names: dict[str, list[str]] = field(default_factory=dict)
    """By parameter, what is there."""
    values: dict[str, list[Any]] = field(default_factory=dict)
    """By member of a body or of a query, what fits."""
    etag: str = ""
    answered: dict[str, Counter[int]] = field(default_factory=dict)
    """By operation, how often with which status."""

    def send(self, method: str, url: str, **given: Any) -> Any:
        request = self.client.build_request(method, url, **given)
        sign = RequestSigner(self.node.signer())
        body = request.read()
        target = f"{request.url.scheme}://{request.url.netloc.decode()}{request.url.raw_path.decode()}"
        target = target.removesuffix("?")  # an empty query is none to whoever reads the request
        request.headers.update(sign(method, target, dict(request.headers), body))
        return self.client.send(request)

    def told(self) -> list[Any]:
        """What the log has of errors that nobody expected."""
        lines = [json.loads(line) for line in self.log.getvalue().splitlines()]
        self.log.truncate(0)
        self.log.seek(0)
        return [line for line in lines if line["event"] in ("unexpected", "failed")]


@pytest.fixture
def real(empty_home: Path, tmp_path: Path) -> Iterator[Real]:
    """A home that may be written to, with something of everything in it."""
    home = Home(shutil.copytree(empty_home, tmp_path / "home"))
    environ = {"HOLDFAST_DEV_DIR": str(tmp_path / "dev"), "HOLDFAST_SERVICE__LIMITS__REQUESTS_A_MINUTE": "1000000"}
    found = load_settings(home, environ)
    log = io.StringIO()
    with open_session(home, found) as session:
        node = Node(session, open_keystore(found.keystore, PASSPHRASE))
        try:
            app = create_app({"": node}, limits=Limits(requests_a_minute=1_000_000), log=make_log(log))
            with TestClient(app, raise_server_exceptions=False) as client:
                made = Real(client, node, log)
                furnish(made)
                yield made
        finally:
            node.close()


def furnish(real: Real) -> None:
    node = real.node
    node.create("bank")
    for number in range(5):
        assert real.send("PUT", f"{DOCUMENTS}/{number}", json={"owner": "Novak", "n": number}).status_code == 201
    assert real.send("DELETE", f"{DOCUMENTS}/4").status_code == 200
    assert real.send("POST", "/v1/checkpoints", json={}).status_code in (200, 201)
    feeds = real.send("GET", "/v1/feeds").json()["feeds"]
    real.names |= {
        "database": ["bank"],
        "collection": ["accounts"],
        "key": [str(number) for number in range(6)],
        "feed": [one["key"] for one in feeds],
        "identity": [node.session.vault.history().identity.hex()],
        "index": ["0", "1"],
        "size": [str(one["size"]) for one in real.send("GET", "/v1/checkpoints").json()["checkpoints"]],
        "name": ["case-17"],
        "pairing": [real.send("POST", "/v1/pairings", json={"databases": ["bank"]}).json()["id"]],
    }
    history = real.send("GET", "/v1/databases/bank/collections/accounts/history/1").json()["entries"]
    real.values |= {
        "axis": ["known"],
        "as_of": ["0", "3"],
        "from": ["0"],
        "to": ["3"],
        "entries": [[history[0]["entry"]]],
        "entry": [history[0]["entry"]],
        "confirm": ["bank", "accounts/1", "accounts/2"],
        "documents": [[{"collection": "accounts", "key": "4"}]],
        "order": ["n", "$key"],
        "where": ['owner == "Novak"', ["==", "owner", "Novak"]],
        "changes": [[{"do": "patch", "collection": "accounts", "key": "3", "fields": {"n": 7}}]],
        "context": [None],
    }
    real.etag = real.send("GET", f"{DOCUMENTS}/1").headers["etag"]
    node.closing.set()  # so that streams end, and who waits is answered


HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "If-Match": st.sampled_from(["*", '"1.x"', '""', "x", '"a", "b"']),
        "If-None-Match": st.sampled_from(["*", '"1.x"', "x"]),
        "Prefer": st.sampled_from(["carried", "local", "serial", "return=minimal", ",;"]),
        "Idempotency-Key": st.sampled_from(["one", "two", "", "x" * 300]),
        "Holdfast-Context": st.sampled_from(["", "x", "1.AAAA"]),
    },
)


def test_it_answers_as_the_document_says(real: Real) -> None:
    described = schemathesis.openapi.from_asgi("/openapi.json", real.client.app)
    found: list[str] = []
    count = 0
    for each in described.get_all_operations():
        operation = each.ok()
        count += 1
        try:
            attack(real, operation)
        except Exception as exc:  # noqa: BLE001  (all are asked, and then what failed is told)
            found.append(f"{operation.label}: {exc}")
    assert count > 60
    print("by operation, how often with which status:", {name: dict(one) for name, one in real.answered.items()})
    reached = [name for name, each in real.answered.items() if min(each) < 300]
    assert len(reached) > count / 2, "most routes have refused everything: nothing was tested"
    assert not found, "\n\n".join(found)


def attack(real: Real, operation: Any) -> None:
    """Ask one operation in many ways, right ones and wrong ones."""
    right = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    wrong = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
    has_wrong = bool(operation.path_parameters or operation.query or operation.body)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of(right, right, wrong) if has_wrong else right, headers=HEADERS, data=st.data())
    def ask(case: Any, headers: dict[str, str], data: st.DataObject) -> None:
        for name in case.path_parameters or ():
            if name in real.names and data.draw(st.integers(0, 7)):
                case.path_parameters[name] = data.draw(st.sampled_from(real.names[name]))
        for part in (case.query, case.body):
            for name in part if isinstance(part, dict) else ():
                if name in real.values and data.draw(st.integers(0, 3)):
                    part[name] = data.draw(st.sampled_from(real.values[name]))
        if headers.get("If-Match") == "x":
            headers["If-Match"] = real.etag
        for name in ("Authorization", "Signature"):  # which are made below
            case.headers.pop(name, None)
        case.headers.update(headers)
        wanted = case.as_transport_kwargs(base_url="http://testserver")
        wanted.pop("cookies", None)
        try:
            answered = real.send(wanted.pop("method"), wanted.pop("url"), **wanted)
        except (MalformedError, httpx.InvalidURL):  # longer than can be signed, or sent
            reject()
        real.answered.setdefault(operation.label, Counter())[answered.status_code] += 1
        assert operation.path in PAIRING or answered.status_code not in (401, 403), answered.text
        assert answered.status_code < 500 or answered.status_code in (501, 503), answered.text
        assert real.told() == []
        case.validate_response(Response.from_httpx(answered, verify=False), checks=CHECKS)

    ask()

"""Nodes: tenants that know nothing of each other, homes that must not be written to, and a gate that lets nobody in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.access.signing import RequestSigner
from api.app import create_app
from api.node import Node
from identity.errors import ReadOnlyState, StoreUnreachable

DOCUMENT = "/v1/databases/bank/collections/accounts/documents/4711"


def kind(answered: Any) -> str:
    assert answered.headers["content-type"] == "application/problem+json", answered.text
    return str(answered.json()["type"]).removeprefix("urn:holdfast:problem:")


def test_tenants_have_nothing_in_common(make_served: Callable[..., Any]) -> None:
    main, north = make_served(), make_served()
    with TestClient(create_app({"": main.node, "north": north.node})) as client:
        headers = {"X-Caller": "teller", "Idempotency-Key": "one"}
        assert client.put(DOCUMENT, json={"of": "main"}, headers=headers).status_code == 201
        assert client.put(f"/tenants/north{DOCUMENT}", json={"of": "north"}, headers=headers).status_code == 201
        assert client.get(DOCUMENT, headers=headers).json()["fields"] == {"of": "main"}
        assert client.get(f"/tenants/north{DOCUMENT}", headers=headers).json()["fields"] == {"of": "north"}
        assert kind(client.get(f"/tenants/south{DOCUMENT}", headers=headers)) == "not-found"
        assert kind(client.get("/tenants//v1/databases", headers=headers)) == "not-found"
    assert {request.url for request in north.gate.seen} == {f"http://testserver/tenants/north{DOCUMENT}"}
    assert {request.url for request in main.gate.seen} == {f"http://testserver{DOCUMENT}"}


def test_a_node_that_is_told_nothing_of_who_may_asks_for_signatures(served: Any) -> None:
    own = Node(served.node.session, served.node.ring)
    with TestClient(create_app({"": own})) as client:
        refused = client.get(DOCUMENT)
        assert (refused.status_code, kind(refused)) == (401, "unauthenticated")
        assert refused.headers["www-authenticate"] == "Signature"
        signer = own.signer()
        url = f"http://testserver{DOCUMENT}"
        signed = RequestSigner(signer)("GET", url, {}, b"")
        assert kind(client.get(DOCUMENT, headers=signed)) == "not-found"
        assert client.get(DOCUMENT, headers=signed).json()["reason"] == "REPLAYED"
    own.close()


def test_a_home_that_must_not_be_written_to_is_read(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    served.put("4711", owner="Novak")
    asked = []

    def refuse(*_: object, **__: object) -> None:
        asked.append(1)
        raise ReadOnlyState("diverged", "another history was anchored")

    node = served.node
    monkeypatch.setattr(node._writing, "open_known", refuse)
    node._open.clear()
    for _ in range(3):
        assert served("GET", DOCUMENT).json()["fields"] == {"owner": "Novak"}
        refused = served("PUT", DOCUMENT, {"owner": "X"})
        assert (refused.status_code, kind(refused), refused.json()["state"]) == (503, "read-only-state", "diverged")
        assert "retry-after" not in refused.headers
    assert len(asked) == 1  # the chain is not asked for each request
    monkeypatch.undo()
    monkeypatch.setattr(node, "_ticks_s", lambda: float("inf"))
    assert served("PUT", DOCUMENT, {"owner": "X"}).status_code == 200


def test_a_node_without_keys_is_read(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    served.put("4711", owner="Novak")
    monkeypatch.setattr(served.node, "_writing", None)
    served.node._open.clear()
    assert served("GET", DOCUMENT).json()["fields"] == {"owner": "Novak"}
    assert kind(served("PUT", DOCUMENT, {"owner": "X"})) == "refused"
    assert kind(served("POST", "/v1/databases", {"name": "other"})) == "refused"


def test_a_store_that_does_not_answer_is_not_said_to_be_empty(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StoreUnreachable("postgresql://bank:secret@db.internal does not answer")

    monkeypatch.setattr(served.node, "find", fail)
    refused = served("GET", DOCUMENT)
    assert (refused.status_code, kind(refused), refused.headers["retry-after"]) == (503, "store-unreachable", "5")
    assert "internal" not in refused.json()["detail"]
    assert "secret" not in refused.text


def test_databases_are_founded_and_named(served: Any) -> None:
    made = served("POST", "/v1/databases", {"name": "clients"})
    assert (made.status_code, made.json()["name"]) == (201, "clients")
    assert kind(served("POST", "/v1/databases", {"name": "clients"})) == "refused"
    assert kind(served("POST", "/v1/databases", {"name": "x" * 201})) == "malformed"
    assert kind(served("POST", "/v1/databases", {"name": "a\nb"})) == "malformed"
    assert [one["name"] for one in served("GET", "/v1/databases").json()["databases"]] == ["bank", "clients"]
    path = f"/v1/databases/{made.json()['id']}"
    assert served("GET", path).json() == made.json()
    served.put("1", n=1)
    (collection,) = served("GET", "/v1/databases/bank/collections").json()["collections"]
    assert (collection["collection"], collection["documents"], collection["schema"]) == ("accounts", 1, False)


def test_what_is_no_resource_is_a_problem_too(served: Any) -> None:
    assert kind(served("GET", "/v2/databases")) == "not-found"
    wrong = served("PATCH", "/v1/databases")
    assert (wrong.status_code, kind(wrong)) == (405, "method-not-allowed")
    assert set(wrong.headers["allow"].split(", ")) <= {"GET", "POST"}
    assert served.client.get("/docs").status_code == 404

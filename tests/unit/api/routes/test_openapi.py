"""What the service says of itself: each route has its operation, asks the gate first, and answers as documented."""

from __future__ import annotations

from typing import Any

import pytest

from api.access.action import Operation
from identity.textforms import to_did_key
from tests.unit.api.routes.signed import APP, intent

SIGNED = [{"signature": []}, {"signature": [], "token": []}]
PROBLEM = {"$ref": "#/components/schemas/ProblemDocument"}
PARAMETERS = {
    "database": "bank",
    "collection": "accounts",
    "key": "4711",
    "name": "case-17",
    "feed": "y" * 52,
    "identity": "00" * 32,
    "index": "0",
    "size": "1",
    "log": "00" * 32,
    "pairing": "00" * 16,
}
REFERENCE = f"{'y' * 52}/0/{'00' * 32}"
QUERIES = {"diff": "?from=0&axis=known", "decision": f"?entry={REFERENCE}"}
"""What a path has to be asked with, by its end."""
BODIES: dict[str, Any] = {
    "NewDatabase": {"name": "other"},
    "DocumentBody": {"owner": "Novak"},
    "PatchBody": {"fields": {"owner": "Novak"}},
    "TransactionBody": {"changes": [{"do": "put", "collection": "accounts", "key": "1", "fields": {}}]},
    "ImportLine": {"key": "1", "fields": {}},
    "QueryBody": {},
    "UndoBody": {"entries": [REFERENCE]},
    "RestoreBody": {"as_of": "0", "axis": "known"},
    "ResolveBody": {},
    "SchemaBody": {"type": "object"},
    "HoldBody": {"collection": "accounts"},
    "PurgeBody": {"documents": [{"collection": "accounts", "key": "4711"}], "confirm": "bank"},
    "EraseBody": {"confirm": "accounts/4711"},
    "NewCheckpoint": {},
    "NewBackup": {},
    "EvidenceBody": {},
    "VerifyRoot": {"entry": REFERENCE},
    "PairingOffer": {"databases": ["bank"], "role": "admin"},
    "PairingDecision": {"accept": True},
    "PairingClaim": {"code": "7K4M-Q2RT", "events": ["oWVldmVudA=="]},
    "GrantBody": {"database": "bank", "holder": to_did_key(APP.public_key), "operations": ["read"]},
    "RevocationBody": {"id": "5e" * 64},
}


@pytest.fixture
def described(served: Any) -> Any:
    return served.client.get("/openapi.json").json()


def operations(described: Any) -> list[tuple[str, str, Any]]:
    return [(method, path, one) for path, each in described["paths"].items() for method, one in each.items()]


def body_of(operation: Any) -> Any:
    if "requestBody" not in operation:
        return None
    (content,) = operation["requestBody"]["content"].values()
    if "$ref" not in content["schema"]:
        return b""  # of a type that is no text
    return BODIES[content["schema"]["$ref"].rpartition("/")[2]]


def ask(served: Any, method: str, path: str, operation: Any, **headers: str) -> Any:
    target = path.format(**PARAMETERS).replace("{key}", "4711")
    query = QUERIES.get(path.rpartition("/")[2], "")
    body = intent(APP, served.database.uid, 1) if path.endswith("/intents") else body_of(operation)
    return served(method.upper(), target + query, body, If_Match='"1.x"', **headers)


def is_for_guests(operation: Any) -> bool:
    """Whether it is for whoever has the code of an offer: the gate has nothing to say about them."""
    return bool(operation["x-holdfast-operation"] == "pair")


def test_every_route_says_what_it_does_and_what_it_takes(served: Any, described: Any) -> None:
    for method, path, operation in operations(described):
        if path.startswith("/v1/"):
            assert Operation(operation["x-holdfast-operation"]), (method, path)
            assert operation["security"] == SIGNED, (method, path)
        else:
            assert operation["x-holdfast-operation"] == "public"
            assert operation["security"] == []
    declared = {(m, r.path) for r in served.client.app.routes for m in getattr(r, "methods", None) or ()}
    assert {path for _, path in declared if not path.startswith(("/v1/", "/tenants/"))} <= {
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
    }


def test_whoever_is_not_known_gets_nowhere(served: Any, described: Any) -> None:
    count = 0
    for method, path, _ in operations(described):
        if path.startswith("/v1/"):
            target = path.format(**PARAMETERS) + QUERIES.get(path.rpartition("/")[2], "")
            for prefix in ("", "/tenants/none"):
                answered = served.client.request(method, prefix + target)
                assert answered.status_code == (404 if prefix else 401), (method, path)
            count += 1
    assert count > 50
    assert served.gate.asked == []


def test_every_route_asks_the_gate_for_its_operation_first(served: Any, described: Any) -> None:
    """Before anything is there to be found, so that no answer could come from somewhere else."""
    served.gate.forbidden = set(Operation)
    for method, path, operation in operations(described):
        if not path.startswith("/v1/") or path == "/v1/databases" or is_for_guests(operation):
            continue
        served.gate.asked.clear()
        answered = ask(served, method, path, operation)
        assert answered.status_code == 403, (method, path, answered.text)
        may = {operation["x-holdfast-operation"], *operation.get("x-holdfast-also", ())}
        assert {one.operation.value for one in served.gate.asked} <= may, (method, path)


def test_who_is_allowed_one_operation_is_allowed_nothing_else(served: Any, described: Any) -> None:
    for method, path, operation in operations(described):
        if not path.startswith("/v1/") or path == "/v1/databases" or is_for_guests(operation):
            continue
        may = {Operation(one) for one in (operation["x-holdfast-operation"], *operation.get("x-holdfast-also", ()))}
        served.gate.forbidden = may
        assert ask(served, method, path, operation).status_code == 403, (method, path)


def test_every_answer_is_documented(served: Any, described: Any) -> None:
    """Each route, asked in ways that go right and wrong: what it answers with stands in the document."""
    served.put("4711", owner="Novak")
    served.node.closing.set()  # so that a stream ends
    for method, path, operation in operations(described):
        for headers in ({}, {"X_Caller": ""}, {"Idempotency_Key": ""}, {"Prefer": "serial"}):
            answered = ask(served, method, path, operation, **headers)
            told = operation["responses"].get(str(answered.status_code))
            assert told is not None, (method, path, answered.status_code, answered.text)
            if answered.status_code >= 400 and path.startswith("/v1/"):
                assert told["content"]["application/problem+json"]["schema"] == PROBLEM
                assert method == "head" or answered.headers["content-type"] == "application/problem+json"
            elif answered.status_code < 400 and answered.content:
                assert answered.headers["content-type"].partition(";")[0] in told["content"], (method, path)


def test_every_reference_leads_somewhere(described: Any) -> None:
    schemas = described["components"]["schemas"]

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [found for each in value.values() for found in references(each)]
        return [found for each in value for found in references(each)] if isinstance(value, list) else []

    named = {one.removeprefix("#/components/schemas/") for one in references(described)}
    assert named <= set(schemas)
    identifiers = [operation["operationId"] for _, _, operation in operations(described)]
    assert len(set(identifiers)) == len(identifiers)
    assert set(described["components"]["securitySchemes"]) == {"signature", "token"}

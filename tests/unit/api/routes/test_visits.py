"""Letting apps in over HTTP, reading what they did, and sending them away."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.access.action import Operation
from api.access.capability import minter_of, read_capability
from api.app import create_app
from api.members import admit
from identity.errors import StoreBusy
from identity.textforms import to_did_key
from ledger.identities import add_events
from sync.acts import Role
from tests.unit.api.access.test_gate import Person
from tests.unit.api.routes.signed import APP, Signed, Tenant, open_tenant

READ = "/v1/databases/bank/collections/accounts/documents/4711"
GRANT = {
    "database": "bank",
    "holder": to_did_key(APP.public_key),
    "operations": ["read"],
    "scopes": [{"collection": "accounts"}],
    "fields": ["owner"],
    "note": "monthly report",
}


@pytest.fixture
def tenant(empty_home: Path, tmp_path: Path) -> Iterator[Tenant]:
    with ExitStack() as stack:
        yield open_tenant(stack, Path(shutil.copytree(empty_home, tmp_path / "home")), tmp_path / "dev")


@pytest.fixture
def client(tenant: Tenant) -> Iterator[TestClient]:
    with TestClient(create_app({"": tenant.node})) as client:
        yield client


@pytest.fixture
def owner(tenant: Tenant, client: TestClient) -> Signed:
    return Signed(client, tenant.device)


def member(tenant: Tenant, role: Role, database: Any = None) -> Person:
    person = Person(role.value, 40)
    vault = tenant.node.session.vault
    with vault.store.write() as tx:
        add_events(tx, person.identity, person.events)
    admit(database or tenant.bank, vault.history().identity, person.identity, role)
    return person


def visitor(client: TestClient, made: Any) -> Signed:
    assert made.status_code == 201, made.text
    return Signed(client, APP, base64.urlsafe_b64decode(made.json()["capability"]))


def test_an_app_is_let_in_seen_and_sent_away(tenant: Tenant, client: TestClient, owner: Signed) -> None:
    made = owner("POST", "/v1/grants", GRANT)
    app = visitor(client, made)
    assert app.token is not None
    terms = read_capability(app.token, minter_of(app.token)).terms
    assert (terms.holder, terms.database, terms.fields) == (APP.public_key, tenant.bank.uid, {"owner"})
    assert app("GET", READ).json()["fields"] == {"owner": "Novak"}
    assert app("PUT", READ, {}).status_code == 403
    rows = owner("GET", "/v1/visits").json()["visits"]
    assert [(row["kind"], row.get("allowed"), row.get("reason")) for row in rows[:2]] == [
        ("visit-grant", None, None),
        ("visit", True, None),
    ]
    assert (rows[1]["operation"], rows[1]["collection"], rows[1]["document"]) == ("read", "accounts", "4711")
    denied = owner("GET", "/v1/visits?denied=true").json()["visits"]
    assert {row["reason"] for row in denied} == {"OPERATION"}
    (granted,) = owner("GET", "/v1/grants").json()["grants"]
    assert (granted["holder"], granted["revoked"], granted["note"]) == (GRANT["holder"], False, "monthly report")
    assert "capability" not in granted
    ended = owner("POST", "/v1/revocations", {"id": granted["id"], "why": "done"})
    assert (ended.status_code, ended.json()["by"]) == (201, to_did_key(tenant.device.public_key))
    assert app("GET", READ).json()["reason"] == "REVOKED"
    assert owner("POST", "/v1/revocations", {"id": granted["id"]}).status_code == 201
    assert [one["revoked"] for one in owner("GET", "/v1/grants").json()["grants"]] == [True]
    revocations = [row for row in owner("GET", "/v1/visits").json()["visits"] if row["kind"] == "visit-revocation"]
    assert [row["why"] for row in revocations] == ["done"]


def test_pages_tell_each_record_once(tenant: Tenant, client: TestClient, owner: Signed) -> None:
    app = visitor(client, owner("POST", "/v1/grants", GRANT))
    for _ in range(5):
        app("GET", READ)
    whole = owner("GET", "/v1/visits").json()["visits"]
    rows: list[Any] = []
    cursor = ""
    while True:
        page = owner("GET", f"/v1/visits?limit=2{cursor}").json()
        rows += page["visits"]
        cursor = f"&after={page['cursor']}"
        if not page["more"]:
            break
    assert rows == whole
    assert len(rows) == 6
    assert owner("GET", f"/v1/visits?limit=2{cursor}").json()["visits"] == []
    app("GET", READ)
    assert len(owner("GET", f"/v1/visits?limit=2{cursor}").json()["visits"]) == 1


@pytest.mark.parametrize(
    "cursor", ["x", "bnVsbA==", "e30", "eyJhIjoxfQ==", "W10=", "MQ==", "é", "A" * 7000, "W1tb" * 1500]
)
def test_cursors_that_are_none(owner: Signed, cursor: str) -> None:
    assert owner("GET", f"/v1/visits?after={cursor}").status_code == 400


def test_who_administers_a_database_sees_and_ends_what_is_about_it(
    tenant: Tenant, client: TestClient, owner: Signed
) -> None:
    admin = Signed(client, member(tenant, Role.ADMIN).device)
    here = admin("POST", "/v1/grants", GRANT)
    there = owner("POST", "/v1/grants", {**GRANT, "database": "other"})
    visitor(client, here)("GET", READ)
    visitor(client, there)("GET", READ.replace("bank", "other"))
    for path in ("/v1/visits", "/v1/grants", "/v1/visits?database=other", "/v1/grants?database=other"):
        assert admin("GET", path).status_code == 403, path
    assert admin("POST", "/v1/grants", {**GRANT, "database": "other"}).status_code == 403
    assert admin("POST", "/v1/grants", {**GRANT, "database": "none"}).status_code == 403
    rows = admin("GET", "/v1/visits?database=bank").json()["visits"]
    assert {row["database"] for row in rows} == {tenant.bank.uid.hex()}
    assert [row["kind"] for row in rows] == ["visit-grant", "visit"]
    assert [one["id"] for one in admin("GET", "/v1/grants?database=bank").json()["grants"]] == [here.json()["id"]]
    assert admin("POST", "/v1/revocations?database=bank", {"id": there.json()["id"]}).status_code == 404
    assert admin("POST", "/v1/revocations", {"id": here.json()["id"]}).status_code == 403
    assert visitor(client, there)("GET", READ.replace("bank", "other")).status_code == 200
    assert admin("POST", "/v1/revocations?database=bank", {"id": here.json()["id"]}).status_code == 201
    assert visitor(client, here)("GET", READ).status_code == 403


@pytest.mark.parametrize("role", [Role.READER, Role.WRITER])
def test_others_let_nobody_in(tenant: Tenant, client: TestClient, owner: Signed, role: Role) -> None:
    asked = Signed(client, member(tenant, role).device)
    made = owner("POST", "/v1/grants", GRANT)
    assert asked("POST", "/v1/grants", GRANT).json()["reason"] == "ROLE"
    assert asked("GET", "/v1/visits?database=bank").json()["reason"] == "ROLE"
    assert asked("POST", "/v1/revocations?database=bank", {"id": made.json()["id"]}).json()["reason"] == "ROLE"
    app = visitor(client, made)
    for path, body in (("/v1/grants", GRANT), ("/v1/revocations", {"id": made.json()["id"]})):
        assert app("POST", path, body).status_code == 403
    assert app("GET", "/v1/visits").status_code == 403


@pytest.mark.parametrize(
    "changes",
    [
        {"holder": "did:key:nobody"},
        {"operations": []},
        {"operations": ["sync"]},
        {"operations": ["read", "purge"]},
        {"seconds": 86_401},
        {"seconds": 0},
        {"scopes": []},
        {"scopes": [{"collection": "$schema"}]},
        {"scopes": [{"collection": "accounts", "prefix": "a\nb"}]},
        {"scopes": [{"collection": "accounts", "more": 1}]},
        {"fields": []},
        {"rate": 0},
        {"rate": 6001},
        {"note": "x" * 201},
        {"note": "a\nb"},
        {"more": 1},
        {"database": ""},
    ],
)
def test_grants_that_cannot_be(owner: Signed, changes: dict[str, Any]) -> None:
    assert owner("POST", "/v1/grants", {**GRANT, **changes}).status_code in (400, 413)
    assert owner("GET", "/v1/grants").json()["grants"] == []


@pytest.mark.parametrize("id_", ["", "ab", "AB" * 64, "5e" * 65, "zz" * 64])
def test_ids_that_are_none(owner: Signed, id_: str) -> None:
    assert owner("POST", "/v1/revocations", {"id": id_}).status_code == 400


def test_a_grant_that_is_asked_for_again_is_one(owner: Signed) -> None:
    first, again = (owner("POST", "/v1/grants", GRANT, Idempotency_Key="one") for _ in range(2))
    assert first.json() == again.json()
    assert len(owner("GET", "/v1/grants").json()["grants"]) == 1


def test_sums_of_refusals_are_written_when_no_other_comes(
    tenant: Tenant, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A minute passes at once for the node's thread."""
    from threading import Event

    node = tenant.node
    assert node.access is not None
    flushed = Event()
    monkeypatch.setattr(type(node.access.feed), "flush", lambda *_, **__: flushed.set())
    monkeypatch.setattr("api.node._TELL_S", 0.01)
    closing = node.closing
    node.closing = Event()
    try:
        import threading

        thread = threading.Thread(target=node._tell_refusals, args=(node.access,))
        thread.start()
        assert flushed.wait(10)
        node.closing.set()
        thread.join(10)
        assert not thread.is_alive()
    finally:
        node.closing = closing


def test_the_thread_outlives_a_store_that_is_busy(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    access = tenant.node.access
    assert access is not None

    def busy(*_: object) -> None:
        raise StoreBusy("full")

    access.feed.count("UNKNOWN_KEY")
    access.feed.count("UNKNOWN_KEY")
    monkeypatch.setattr(access.feed._visits, "append", busy)
    access.feed.flush(all_of_it=True)
    monkeypatch.undo()
    access.feed.flush(all_of_it=True)
    assert sum(getattr(one, "count", 0) for one in tenant.told()) == 2


def test_a_node_that_is_only_read_lets_nobody_in(
    tenant: Tenant, owner: Signed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenant.node, "access", None)
    assert owner("POST", "/v1/grants", GRANT).status_code == 409
    assert owner("GET", "/v1/visits").status_code == 200


def test_the_operations_of_a_grant_are_those_of_apps(owner: Signed) -> None:
    for one in Operation:
        answered = owner("POST", "/v1/grants", {**GRANT, "operations": [one.value], "fields": None})
        allowed = one.value in ("read", "history", "changes", "create", "update", "delete")
        assert answered.status_code == (201 if allowed else 400), one

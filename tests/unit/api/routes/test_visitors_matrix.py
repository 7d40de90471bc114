"""What an app may that visits: the few things that its token says, and nothing else that there is.

The OpenAPI document names every route, so that a new one is tried as well: it is refused, or it stands in ``ALLOWED``.
Every refusal is looked for in the visit feed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.access.action import ALLOWED_TO, VISITABLE, Operation
from api.access.capability import Narrowing, Scope, attenuate, mint, revocation_ids
from api.access.records import Visit
from api.app import create_app
from api.members import admit, dismiss
from identity.keys import Ed25519Signer
from ledger.identities import add_events
from sync.acts import Role
from tests.unit.api.access.test_gate import Person
from tests.unit.api.routes.signed import APP, HIDDEN, THIEF, Signed, Tenant, intent, open_tenant, refusals
from tests.unit.api.routes.test_openapi import BODIES, PARAMETERS

ALLOWED = {
    ("GET", "/v1/databases/{database}/collections/{collection}/documents/{key}"),
    ("HEAD", "/v1/databases/{database}/collections/{collection}/documents/{key}"),
    ("GET", "/v1/databases/{database}/collections/{collection}/documents"),
    ("GET", "/v1/databases/{database}/collections/{collection}/query"),
    ("POST", "/v1/databases/{database}/collections/{collection}/query"),
    ("GET", "/v1/databases/{database}/collections/{collection}/export"),
    ("GET", "/v1/databases/{database}/collections/{collection}/schema"),
    ("GET", "/v1/databases/{database}/conflicts"),
    ("POST", "/v1/databases/{database}/intents"),
}
"""What is served to an app that may read and update two fields of one collection."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
NUMBERS = count(1)
"""Of the app's intents."""


class World:
    """Two tenants with the same keys, and one application over both."""

    def __init__(self, stack: ExitStack, home: Path, tmp_path: Path) -> None:
        self.main, self.north = (self._open(stack, home, tmp_path, name) for name in ("main", "north"))
        app = create_app({"": self.main.node, "north": self.north.node})
        self.client = stack.enter_context(TestClient(app))
        self.described = app.openapi()

    def _open(self, stack: ExitStack, home: Path, tmp_path: Path, name: str) -> Tenant:
        return open_tenant(stack, Path(shutil.copytree(home, tmp_path / name)), tmp_path / "dev")

    def operations(self) -> Iterator[tuple[str, str, Any]]:
        for path, each in self.described["paths"].items():
            if path.startswith("/v1/"):
                yield from ((method.upper(), path, one) for method, one in each.items())

    def app(self, token: bytes | None, signer: Ed25519Signer = APP) -> Signed:
        return Signed(self.client, signer, token)

    def owner(self) -> Signed:
        return Signed(self.client, self.main.device)


@pytest.fixture(scope="module")
def world(empty_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack, empty_home, tmp_path_factory.mktemp("matrix"))


def target(path: str, operation: Any, *, database: str = "bank", collection: str = "accounts") -> str:
    """A URL of a route about a document that is there."""
    found = path.format(**{**PARAMETERS, "database": database, "collection": collection})
    asked = []
    for one in operation.get("parameters", ()):
        if one["in"] == "query" and one["name"] in ("database", "collection"):
            asked.append(f"{one['name']}={database if one['name'] == 'database' else collection}")
        elif one["in"] == "query" and one.get("required"):
            asked.append(f"{one['name']}=0")
    if path.endswith("/diff"):
        asked.append("axis=known")
    return f"{found}?{'&'.join(asked)}" if asked else found


def body_of(operation: Any, database: bytes, signer: Ed25519Signer = APP, **more: Any) -> Any:
    if "requestBody" not in operation:
        return None
    ((media, content),) = operation["requestBody"]["content"].items()
    if media == "application/vnd.holdfast.intent":
        return intent(signer, database, next(NUMBERS), **more)
    if "$ref" not in content["schema"]:
        return b""
    return BODIES[content["schema"]["$ref"].rpartition("/")[2]]


def refused(tenant: Tenant, answered: Any, *, counted: bool = False) -> str:
    """Hold that a request was refused, and that it was written down, nothing but refusals; why."""
    told = tenant.told()
    assert answered.status_code >= 400, answered.text
    assert answered.status_code < 500, answered.text
    assert HIDDEN not in answered.text
    reasons = refusals(told)
    assert len(reasons) == len(told) > 0, (answered.text, told)
    assert counted or isinstance(told[0], Visit)
    return reasons[0]


def test_the_app_does_what_it_may(world: World) -> None:
    world.main.told()
    for method, path in sorted(ALLOWED):
        operation = world.described["paths"][path][method.lower()]
        app = world.app(world.main.token())
        answered = app(method, target(path, operation), body_of(operation, world.main.bank.uid))
        assert answered.status_code == 200, (path, answered.text)
        assert HIDDEN not in answered.text
        assert "secret" not in answered.text
        (visit,) = world.main.told()
        assert isinstance(visit, Visit)
        assert visit.allowed


def each(world: World) -> Iterator[tuple[str, str, Any]]:
    world.main.told()
    world.north.told()
    yield from world.operations()


def test_every_other_route_is_refused_and_listed(world: World) -> None:
    tried = 0
    for method, path, operation in each(world):
        if (method, path) not in ALLOWED:
            app = world.app(world.main.token())
            refused(world.main, app(method, target(path, operation), body_of(operation, world.main.bank.uid)))
            tried += 1
    assert tried > 50


def test_every_other_method_is_refused_and_listed(world: World) -> None:
    world.main.told()
    for path, known in world.described["paths"].items():
        for method in METHODS if path.startswith("/v1/") else ():
            if method.lower() not in known:
                app = world.app(world.main.token())
                refused(world.main, app(method, target(path, next(iter(known.values())))))


def test_what_is_no_route_is_refused_and_listed(world: World) -> None:
    world.main.told()
    for path in ("/v1/nothing", "/v2/databases", "/tenants/"):
        assert refused(world.main, world.app(world.main.token())("GET", path)) == "NOT_FOUND"


def test_every_other_database_is_refused_and_listed(world: World) -> None:
    for method, path, operation in each(world):
        for database in ("other", "none") if "{database}" in path else ():
            app = world.app(world.main.token(operations=VISITABLE, fields=None))
            refused(
                world.main, app(method, target(path, operation, database=database), _body(world, operation, database))
            )


def _body(world: World, operation: Any, database: str) -> Any:
    return body_of(operation, world.main.other.uid if database == "other" else world.main.bank.uid)


def test_every_other_collection_is_refused_and_listed(world: World) -> None:
    for method, path, operation in each(world):
        if "collection=" in target(path, operation) or "{collection}" in path:
            app = world.app(world.main.token(operations=VISITABLE, fields=None))
            refused(world.main, app(method, target(path, operation, collection="loans"), body_of(operation, b"")))


def test_every_other_tenant_is_refused_and_listed(world: World) -> None:
    """Its devices have the same keys, so that even its tokens are well signed here."""
    for method, path, operation in each(world):
        app = world.app(world.main.token(operations=VISITABLE, fields=None))
        body = body_of(operation, world.main.bank.uid)
        for database in ("bank", world.main.bank.uid.hex()):
            there = target(path, operation, database=database)
            refused(world.north, app(method, f"/tenants/north{there}", body), counted=True)
        assert world.main.told() == []


BAD: dict[str, tuple[Callable[[World], tuple[bytes, Ed25519Signer]], str]] = {
    "expired": (lambda world: (world.main.token(ago_s=7200, expires_s=world.main.now_s - 1), APP), "EXPIRED"),
    "revoked": (lambda world: (_revoked(world), APP), "REVOKED"),
    "stolen": (lambda world: (world.main.token(), THIEF), "HOLDER"),
    "by nobody known": (lambda world: (mint(b"\x66" * 32, world.main.terms(), world.main.now_s), APP), "TOKEN"),
    "forged": (lambda world: (_forged(world.main.token()), APP), "TOKEN"),
}


def _revoked(world: World) -> bytes:
    token, access = world.main.token(), world.main.node.access
    assert access is not None
    device = world.main.device.public_key
    access.revoke(revocation_ids(token, device)[0], device, "")
    world.main.told()
    return token


def _forged(token: bytes) -> bytes:
    """With another field in the place of one that it names."""
    limit, secret = (name.encode().hex().encode() for name in ("limit", "owns!"))
    assert limit in token
    return token.replace(limit, secret)


@pytest.mark.parametrize("how", BAD)
def test_a_token_that_is_none_is_refused_and_listed_by_every_route(world: World, how: str) -> None:
    make, reason = BAD[how]
    for method, path, operation in each(world):
        token, signer = make(world)
        answered = world.app(token, signer)(
            method, target(path, operation), body_of(operation, world.main.bank.uid, signer)
        )
        found = refused(world.main, answered, counted=reason == "TOKEN")
        assert found in (reason, "OPERATION", "DATABASE", "SCOPE", "INTENT"), (path, found)
        if (method, path) in ALLOWED:
            assert found == reason, (path, found)


def test_a_replay_is_refused_and_listed_by_every_route(world: World) -> None:
    for method, path, operation in each(world):
        app, body = world.app(world.main.token()), body_of(operation, world.main.bank.uid)
        asked = world.client.build_request(method, target(path, operation), json=None)
        content = body if isinstance(body, bytes) else b"" if body is None else __import__("json").dumps(body).encode()
        headers = app.headers(method, str(asked.url), content, {})
        world.client.request(method, asked.url, content=content, headers=headers)
        world.main.told()
        answered = world.client.request(method, asked.url, content=content, headers=headers)
        assert (answered.status_code, refused(world.main, answered)) == (401, "REPLAYED"), path


def test_what_is_not_signed_is_refused_and_listed_by_every_route(world: World) -> None:
    for method, path, operation in each(world):
        app = world.app(world.main.token())
        signed = app.headers(method, "http://testserver/", b"", {})
        answered = world.client.request(
            method, target(path, operation), headers={"authorization": signed["authorization"]}
        )
        assert (answered.status_code, refused(world.main, answered)) == (401, "NO_SIGNATURE"), path


def test_a_narrowing_widens_nothing(world: World) -> None:
    """Whoever holds a token can add a block that says everything: what is in force stays what it was."""
    wide = Narrowing(operations=VISITABLE, scopes=(Scope("accounts"), Scope("loans")), fields=frozenset({"secret"}))
    for method, path, operation in each(world):
        token = attenuate(world.main.token(), world.main.device.public_key, wide)
        body = body_of(operation, world.main.bank.uid)
        answered = world.app(token)(method, target(path, operation), body)
        told = world.main.told()
        assert HIDDEN not in answered.text
        if (method, path) not in ALLOWED or "intents" in path:
            assert answered.status_code >= 400
            assert len(refusals(told)) == len(told) > 0
        loans = world.app(token)(method, target(path, operation, collection="loans"), body)
        if "loans" in str(loans.url):
            refused(world.main, loans)
        world.main.told()


FIELDS = [
    ("GET", "query?where=secret%20%3D%20%221%22&scan=true", None),
    ("GET", "query?order=secret", None),
    ("GET", "query?select=secret", None),
    ("POST", "query", {"where": 'secret ^= "48"', "scan": True}),
    ("GET", "history/4711?field=secret", None),
]


@pytest.mark.parametrize(("method", "path", "body"), FIELDS)
def test_every_other_field_is_refused_and_listed(world: World, method: str, path: str, body: Any) -> None:
    world.main.told()
    app = world.app(world.main.token(operations=VISITABLE))
    assert refused(world.main, app(method, f"/v1/databases/bank/collections/accounts/{path}", body)) == "FIELDS"


def test_no_answer_shows_what_is_withheld(world: World) -> None:
    """A token for everything that an app may do at all, but two fields: of every route, whatever it answers."""
    world.main.node.closing.set()  # so that a stream ends
    served = 0
    try:
        for method, path, operation in each(world):
            app = world.app(world.main.token(operations=VISITABLE))
            for more in ("", "siblings=all", "deleted=true", "as_of=4&axis=known"):
                url = target(path, operation)
                url = f"{url}{'&' if '?' in url else '?'}{more}" if more else url
                answered = app(method, url, body_of(operation, world.main.bank.uid))
                assert HIDDEN not in answered.text, (path, more, answered.text)
                served += answered.status_code == 200
    finally:
        world.main.node.closing.clear()
    assert served > 20


# --- members ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def members(world: World) -> dict[Role, Person]:
    found = {}
    for number, role in enumerate(Role):
        person = Person(role.value, 40 + 10 * number)
        for tenant in (world.main, world.north):
            with tenant.node.session.vault.store.write() as tx:
                add_events(tx, person.identity, person.events)
        own = world.main.node.session.vault.history().identity
        admit(world.main.bank, own, person.identity, role)
        found[role] = person
    return found


@pytest.mark.parametrize("role", Role)
def test_members_by_their_role(world: World, members: dict[Role, Person], role: Role) -> None:
    """What an operation is not in, no route does; what it is in, every route but those that write without an intent."""
    world.main.node.closing.set()
    try:
        for method, path, operation in world.operations():
            asked = Signed(world.client, members[role].device)
            options = {"identity": members[role].identity}
            body = body_of(operation, world.main.bank.uid, members[role].device, **options)
            answered = asked(method, target(path, operation), body)
            may = Operation(operation["x-holdfast-operation"])
            if may is Operation.PAIR or path == "/v1/databases":
                continue
            url = target(path, operation)
            is_about = "database=" in url or "{database}" in path or path == "/v1/grants"
            reason = answered.json().get("reason") if answered.status_code == 403 and answered.content else None
            if method == "HEAD":
                assert answered.status_code != 403
            elif not is_about or may is Operation.OPERATE:
                assert reason == "NOT_THE_OWNER", (path, answered.text)
            elif may not in ALLOWED_TO[role]:
                assert reason == "ROLE", (path, answered.text)
            else:
                assert reason in (None, "INTENT"), (path, answered.text)
                is_read = may in (Operation.READ, Operation.HISTORY, Operation.CHANGES, Operation.PROVE, Operation.SYNC)
                assert not is_read or reason is None, (path, answered.text)
    finally:
        world.main.node.closing.clear()


def test_a_member_of_one_tenant_is_none_of_another(world: World, members: dict[Role, Person]) -> None:
    asked = Signed(world.client, members[Role.ADMIN].device)
    for method, path, operation in world.operations():
        if Operation(operation["x-holdfast-operation"]) is Operation.PAIR or method == "HEAD":
            continue
        body = body_of(operation, world.main.bank.uid, members[Role.ADMIN].device)
        for database in ("bank", world.main.bank.uid.hex()):
            answered = asked(method, f"/tenants/north{target(path, operation, database=database)}", body)
            if path == "/v1/databases" and method == "GET":
                assert answered.json()["databases"] == []
                continue
            assert answered.status_code in (403, 422), (path, answered.text)
            if answered.status_code == 422:
                assert "/intents" in path


def test_who_was_dismissed_is_refused_at_once_by_every_route(world: World) -> None:
    gone = Person("gone", 90)
    own = world.main.node.session.vault.history().identity
    with world.main.node.session.vault.store.write() as tx:
        add_events(tx, gone.identity, gone.events)
    admit(world.main.bank, own, gone.identity, Role.ADMIN)
    asked = Signed(world.client, gone.device)
    assert asked("GET", "/v1/databases/bank/collections/accounts/documents/4711").status_code == 200
    dismiss(world.main.bank, own, gone.identity, "left")
    _refused_everywhere(world, asked, gone)
    admit(world.main.bank, own, gone.identity, Role.ADMIN)
    assert asked("GET", "/v1/databases/bank/collections/accounts/documents/4711").status_code == 200
    gone.revoke()
    with world.main.node.session.vault.store.write() as tx:
        add_events(tx, gone.identity, gone.events)
    _refused_everywhere(world, asked, gone)


def _refused_everywhere(world: World, asked: Signed, who: Person) -> None:
    for method, path, operation in world.operations():
        if Operation(operation["x-holdfast-operation"]) is Operation.PAIR or (method, path) == ("GET", "/v1/databases"):
            continue
        body = body_of(operation, world.main.bank.uid, who.device, identity=who.identity)
        assert asked(method, target(path, operation), body).status_code == 403, path
    assert asked("GET", "/v1/databases").json()["databases"] == []

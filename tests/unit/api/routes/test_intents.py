"""Intents over HTTP: what others want written, in their own name, once, and only where it still is as they say."""

from __future__ import annotations

import base64
import doctest
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from api.access.action import VISITABLE, Operation
from api.access.capability import Scope
from api.access.records import Visit
from api.app import create_app
from api.members import admit
from api.remote import RemoteProblem
from api.visitor import Visitor
from identity.errors import MalformedError, VerificationError
from identity.keys import Ed25519Signer
from identity.textforms import to_did_key
from ledger.identities import add_events
from sync.acts import Role
from sync.intent import intent_of, parse_intent
from sync.transaction import DocumentId, Op, Verb
from tests.unit.api.access.test_gate import Person
from tests.unit.api.routes.signed import APP, HIDDEN, THIEF, Signed, Tenant, intent, open_tenant, refusals

ACCOUNT = DocumentId("accounts", "4711")
INTENTS = "/v1/databases/bank/intents"
READ = "/v1/databases/bank/collections/accounts/documents/4711"
ALL = {"operations": VISITABLE, "fields": None}
NUMBERS = count(1000)


@pytest.fixture
def tenant(empty_home: Path, tmp_path: Path) -> Iterator[Tenant]:
    with ExitStack() as stack:
        yield open_tenant(stack, Path(shutil.copytree(empty_home, tmp_path / "home")), tmp_path / "dev")


@pytest.fixture
def client(tenant: Tenant) -> Iterator[TestClient]:
    with TestClient(create_app({"": tenant.node})) as client:
        yield client


@pytest.fixture
def app(tenant: Tenant, client: TestClient) -> Signed:
    return Signed(client, APP, tenant.token())


def kind(answered: Any) -> str:
    return str(answered.json()["type"]).rpartition(":")[2]


def fields(tenant: Tenant, key: str = "4711") -> Any:
    state = tenant.bank.get("accounts", key)
    return None if state is None else dict(state.view.fields)


def member(tenant: Tenant, role: Role, seed: int = 40) -> Person:
    person = Person(role.value, seed)
    vault = tenant.node.session.vault
    with vault.store.write() as tx:
        add_events(tx, person.identity, person.events)
    admit(tenant.bank, vault.history().identity, person.identity, role)
    return person


# --- whose it is ------------------------------------------------------------------------------------------------------


def test_the_entry_proves_who_wanted_it_and_who_carried_it(tenant: Tenant, app: Signed) -> None:
    data = intent(APP, tenant.bank.uid, 7)
    answered = app("POST", f"{INTENTS}?note=by%20phone", data)
    assert answered.status_code == 200
    found = answered.json()
    assert (found["repeated"], found["intent"]) == (False, parse_intent(data).digest().hex())
    assert answered.headers["etag"] == f'"{found["etags"]["accounts/4711"]}"'
    (entry,) = (one for one in tenant.bank.history("accounts", "4711") if one.entry.note == "by phone")
    assert entry.entry.author.device == tenant.device.public_key
    carried = intent_of(tenant.bank.entry(entry.entry.reference).transaction)  # type: ignore[arg-type]
    assert carried == parse_intent(data)
    assert carried is not None
    assert (carried.mark.key, carried.mark.identity) == (APP.public_key, None)
    told = Signed(app.client, tenant.device)("GET", "/v1/databases/bank/collections/accounts/history/4711").json()
    assert [one["intent"] for one in told["entries"]] == [
        None,
        {"key": to_did_key(APP.public_key), "identity": None, "sequence": 7},
    ]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", READ, {"owner": "X"}),
        ("PATCH", READ, {"fields": {"owner": "X"}}),
        ("DELETE", READ, None),
        ("POST", "/v1/databases/bank/collections/accounts/undelete/4711", None),
        (
            "POST",
            "/v1/databases/bank/transactions",
            {"changes": [{"do": "put", "collection": "accounts", "key": "4711", "fields": {}}]},
        ),
        ("POST", "/v1/databases/bank/collections/accounts/import?existing=update", b'{"key":"4711","fields":{}}\n'),
        ("PUT", "/v1/databases/bank/collections/accounts/schema", {"type": "object"}),
        ("POST", "/v1/databases/bank/collections/accounts/resolve/4711", {}),
    ],
)
def test_what_is_no_intent_is_written_for_the_nodes_device_alone(
    tenant: Tenant, client: TestClient, method: str, path: str, body: Any
) -> None:
    before = fields(tenant)
    admin = Signed(client, member(tenant, Role.ADMIN).device)
    visitor = Signed(client, APP, tenant.token(**ALL))
    for who in (admin, visitor):
        answered = who(method, path, body)
        assert answered.status_code == 403
        assert who is visitor or answered.json()["reason"] == "INTENT"
        assert who is visitor or "/v1/databases/{database}/intents" in answered.json()["hint"]
    assert fields(tenant) == before
    assert Signed(client, tenant.device)(method, path, body).status_code in (200, 412, 404)


@pytest.mark.parametrize("role", Role)
def test_members_write_in_their_own_name(tenant: Tenant, client: TestClient, role: Role) -> None:
    person = member(tenant, role)
    asked = Signed(client, person.device)
    answered = asked("POST", INTENTS, intent(person.device, tenant.bank.uid, 0, identity=person.identity))
    if role is Role.READER:
        assert (answered.status_code, answered.json()["reason"]) == (403, "ROLE")
        return
    assert answered.status_code == 200
    for database, identity in ((tenant.bank.uid, None), (tenant.bank.uid, b"\1" * 32)):
        other = asked("POST", INTENTS, intent(person.device, database, next(NUMBERS), identity=identity))
        assert (other.status_code, other.json()["reason"]) == (403, "INTENT")
    schema = [Op(Verb.DEL, DocumentId("$schema", "accounts"), ("schema",), None)]
    asking = asked("POST", INTENTS, intent(person.device, tenant.bank.uid, 5, schema, identity=person.identity))
    assert asking.status_code == (200 if role is Role.ADMIN else 403)
    gone = [Op(Verb.PURGE, ACCOUNT, (), None)]
    ending = asked("POST", INTENTS, intent(person.device, tenant.bank.uid, 6, gone, identity=person.identity))
    assert ending.status_code == (200 if role is Role.ADMIN else 403)


def test_another_ones_intent_is_not_written(tenant: Tenant, app: Signed) -> None:
    tenant.told()
    before = fields(tenant)
    answered = app("POST", INTENTS, intent(THIEF, tenant.bank.uid, 1))
    assert (answered.status_code, answered.json()["reason"]) == (403, "INTENT")
    assert refusals(tenant.told()) == ["INTENT"]
    altered = bytearray(intent(APP, tenant.bank.uid, 1))
    altered[altered.index(b"Novak 1") + 6] = ord("2")
    assert kind(app("POST", INTENTS, bytes(altered))) == "signature-mismatch"
    assert refusals(tenant.told()) == ["SIGNATURE_MISMATCH"]
    assert fields(tenant) == before


def test_an_intent_is_for_one_database(tenant: Tenant, client: TestClient) -> None:
    data = intent(APP, tenant.other.uid, 1)
    app = Signed(client, APP, tenant.token(**ALL))
    assert kind(app("POST", INTENTS, data)) == "verification-failed"
    assert kind(app("POST", "/v1/databases/other/intents", data)) == "forbidden"
    assert "Novak 1" not in str(tenant.other.get("accounts", "4711"))


# --- once -------------------------------------------------------------------------------------------------------------


def test_an_intent_that_comes_again_changes_nothing_more(tenant: Tenant, client: TestClient) -> None:
    app = Signed(client, APP, tenant.token(operations=frozenset({Operation.CREATE})))
    data = intent(APP, tenant.bank.uid, 1, [Op(Verb.SET, DocumentId("accounts", "1"), ("owner",), "A")])
    first = app("POST", INTENTS, data)
    assert first.status_code == 200
    tenant.bank.patch("accounts", "1", {"owner": "B"})
    again = app("POST", INTENTS, data)  # it made the document: that is still what it is allowed as
    assert (again.status_code, again.json()["repeated"]) == (200, True)
    assert again.json()["entry"] == first.json()["entry"]
    assert again.json()["etags"] != first.json()["etags"]
    assert fields(tenant, "1") == {"owner": "B"}
    with_condition = app("POST", INTENTS, data, If_None_Match="*")
    assert with_condition.json()["entry"] == first.json()["entry"]
    other = intent(APP, tenant.bank.uid, 2, [Op(Verb.SET, DocumentId("accounts", "1"), ("owner",), "C")])
    assert app("POST", INTENTS, other).json()["reason"] == "OPERATION"


def test_two_intents_under_one_number_are_evidence(tenant: Tenant, app: Signed) -> None:
    first, second = (intent(APP, tenant.bank.uid, 3, [Op(Verb.SET, ACCOUNT, ("owner",), name)]) for name in ("A", "B"))
    assert app("POST", INTENTS, first).status_code == 200
    rival = app("POST", INTENTS, second)
    assert (rival.status_code, kind(rival)) == (409, "rival-intents")
    assert [base64.b64decode(rival.json()[name]) for name in ("first", "second")] == [first, second]
    for name in ("first", "second"):
        parse_intent(base64.b64decode(rival.json()[name]))  # anybody can see that one key has signed both
    assert fields(tenant)["owner"] == "A"


# --- only where it is so ----------------------------------------------------------------------------------------------


def test_a_stale_intent_is_refused_and_shown_what_may_be_seen(tenant: Tenant, app: Signed) -> None:
    etag = app("GET", READ).headers["etag"]
    tenant.bank.patch("accounts", "4711", {"owner": "Nowak"})
    late = app("POST", INTENTS, intent(APP, tenant.bank.uid, 1), If_Match=etag)
    assert (late.status_code, late.json()["fields"]) == (412, {"owner": "Nowak", "limit": 5})
    assert HIDDEN not in late.text
    current = app("GET", READ).headers["etag"]
    assert app("POST", INTENTS, intent(APP, tenant.bank.uid, 2), If_Match=current).status_code == 200
    assert app("POST", INTENTS, intent(APP, tenant.bank.uid, 3), If_None_Match="*").status_code == 412


def test_conditions_are_about_one_document(tenant: Tenant, app: Signed) -> None:
    ops = [Op(Verb.SET, DocumentId("accounts", key), ("owner",), "X") for key in ("4711", "4712")]
    data = intent(APP, tenant.bank.uid, 1, ops)
    assert kind(app("POST", INTENTS, data, If_Match='"1.x"')) == "malformed"
    assert app("POST", INTENTS, data).status_code == 200


def test_a_token_can_want_the_version_named(tenant: Tenant, client: TestClient) -> None:
    app = Signed(client, APP, tenant.token(if_match=True))
    for more in ({}, {"If_Match": "*"}):
        assert app("POST", INTENTS, intent(APP, tenant.bank.uid, next(NUMBERS)), **more).json()["reason"] == "IF_MATCH"
    etag = app("GET", READ).headers["etag"]
    assert app("POST", INTENTS, intent(APP, tenant.bank.uid, next(NUMBERS)), If_Match=etag).status_code == 200


def test_what_was_written_since_the_base_is_not_replaced(tenant: Tenant, app: Signed) -> None:
    base = tenant.bank.context()
    tenant.bank.patch("accounts", "4711", {"owner": "Nowak"})
    assert kind(app("POST", INTENTS, intent(APP, tenant.bank.uid, 1, base=base))) == "conflict"
    assert fields(tenant)["owner"] == "Nowak"


# --- what of it is allowed --------------------------------------------------------------------------------------------

LOAN = DocumentId("loans", "4711")
WANTED = {
    "another field": ([Op(Verb.SET, ACCOUNT, ("secret",), 1)], "FIELDS"),
    "another field beside one": (
        [Op(Verb.SET, ACCOUNT, ("owner",), 1), Op(Verb.DEL, ACCOUNT, ("secret",), None)],
        "FIELDS",
    ),
    "beneath another field": ([Op(Verb.INC, ACCOUNT, ("secret", "n"), 1)], "FIELDS"),
    "the whole document": ([Op(Verb.DEL, ACCOUNT, (), None)], "OPERATION"),
    "a deletion": ([Op(Verb.HIDE, ACCOUNT, (), True)], "OPERATION"),
    "a purge": ([Op(Verb.PURGE, ACCOUNT, (), None)], "OPERATION"),
    "a new document": ([Op(Verb.SET, DocumentId("accounts", "9"), ("owner",), 1)], "OPERATION"),
    "another collection": ([Op(Verb.SET, LOAN, ("owner",), 1)], "SCOPE"),
    "another collection beside one": (
        [Op(Verb.SET, ACCOUNT, ("owner",), 1), Op(Verb.SET, LOAN, ("owner",), 1)],
        "SCOPE",
    ),
    "a schema": ([Op(Verb.DEL, DocumentId("$schema", "accounts"), ("schema",), None)], "OPERATION"),
    "a hold": ([Op(Verb.SET, DocumentId("$hold", "x"), ("collection",), "accounts")], "OPERATION"),
}


@pytest.mark.parametrize("what", WANTED)
def test_an_intent_that_does_more_is_refused_whole_and_listed(tenant: Tenant, app: Signed, what: str) -> None:
    ops, reason = WANTED[what]
    tenant.told()
    before = tenant.bank.context()
    answered = app("POST", INTENTS, intent(APP, tenant.bank.uid, 1, ops))
    assert (answered.status_code, answered.json()["reason"]) == (403, reason)
    assert refusals(tenant.told()) == [reason]
    assert tenant.bank.context() == before


def test_a_part_of_a_deleted_document_shows_nothing_of_it_again(tenant: Tenant, client: TestClient) -> None:
    """An edit of a deleted document would show it whole: all of its fields are asked for."""
    tenant.bank.delete("accounts", "4711")
    app = Signed(client, APP, tenant.token(operations=VISITABLE))
    for op in (Op(Verb.SET, ACCOUNT, ("owner",), "X"), Op(Verb.HIDE, ACCOUNT, (), False)):
        answered = app("POST", INTENTS, intent(APP, tenant.bank.uid, next(NUMBERS), [op]))
        assert (answered.status_code, answered.json()["reason"]) == (403, "FIELDS")
        assert "secret" not in answered.text
    assert fields(tenant) is None
    whole = Signed(client, APP, tenant.token(**ALL))
    shown = whole("POST", INTENTS, intent(APP, tenant.bank.uid, next(NUMBERS), [Op(Verb.HIDE, ACCOUNT, (), False)]))
    assert shown.status_code == 200
    assert fields(tenant)["owner"] == "Novak"


def test_many_documents_take_several_intents(tenant: Tenant, client: TestClient) -> None:
    app = Signed(client, APP, tenant.token(**ALL))
    ops = [Op(Verb.SET, DocumentId("accounts", str(number)), ("n",), 1) for number in range(101)]
    assert kind(app("POST", INTENTS, intent(APP, tenant.bank.uid, 1, ops))) == "limit-exceeded"
    assert app("POST", INTENTS, intent(APP, tenant.bank.uid, 2, ops[1:])).status_code == 200


@pytest.mark.parametrize("body", [b"", b"\xa0", b"{}", b"\xff" * 100, b"\xa1" * 1000, bytes(100_000)])
def test_what_is_no_intent(tenant: Tenant, app: Signed, body: bytes) -> None:
    tenant.told()
    answered = app("POST", INTENTS, body)
    assert answered.status_code in (400, 413)
    (visit,) = tenant.told()
    assert isinstance(visit, Visit)
    assert visit.reason in ("MALFORMED", "LIMIT_EXCEEDED")
    assert visit.key == APP.public_key


def test_keys_are_within_a_prefix(tenant: Tenant, client: TestClient) -> None:
    app = Signed(client, APP, tenant.token(operations=VISITABLE, scopes=(Scope("accounts", "4711"),)))
    base = "/v1/databases/bank/collections/accounts"
    assert app("GET", f"{base}/documents?prefix=4711").status_code == 200
    assert app("GET", f"{base}/query?where=%24key%20%3D%20%224711%22").status_code == 200
    assert app("GET", f"{base}/query?where=%24key%20%5E%3D%20%2247115%22").status_code == 200
    for path in (
        "documents",
        "documents?prefix=471",
        "documents?start=4711",
        "documents/4712",
        "query",
        "query?where=%24key%20%5E%3D%20%2247%22",
        "query?where=%24key%20%3D%20%224711%22%20or%20%24key%20%3D%20%224712%22",
        "query?where=%24key%20%3E%3D%20%224711%22",
        "export",
    ):
        assert app("GET", f"{base}/{path}").status_code == 403, path
    assert app("GET", "/v1/databases/bank/changes?collection=accounts").status_code == 403
    other = intent(APP, tenant.bank.uid, 1, [Op(Verb.SET, DocumentId("accounts", "4712"), ("owner",), "X")])
    assert app("POST", INTENTS, other).status_code == 403


# --- hostile headers --------------------------------------------------------------------------------------------------


def test_hostile_authorizations(tenant: Tenant, client: TestClient) -> None:
    good = base64.urlsafe_b64encode(tenant.token()).decode()
    url = f"http://testserver{READ}"
    for value in (
        f"Biscuit {'A' * 20_000}",
        f"Biscuit {good}{'A' * 4}",
        f"biscuit {good}",
        f"Bearer {good}",
        f"Biscuit  {good}",
        f"Biscuit {good} ",
        f"Biscuit {good}, Biscuit {good}",
        "Biscuit ",
        "Biscuit ====",
        "Biscuit \x7f",
    ):
        asked = Signed(client, APP, tenant.token()).headers("GET", url, b"", {})
        answered = client.get(url, headers={**asked, "authorization": value})
        assert answered.status_code in (401, 403, 431), value
        assert HIDDEN not in answered.text


def test_two_authorizations(tenant: Tenant, client: TestClient) -> None:
    one, two = tenant.token(), tenant.token(**ALL)
    url = f"http://testserver{READ}"
    for first, second in ((one, one), (one, two), (two, one)):
        signed = Signed(client, APP, first).headers("GET", url, b"", {})
        value = f"Biscuit {base64.urlsafe_b64encode(second).decode()}"
        answered = client.get(url, headers=[*signed.items(), ("authorization", value)])
        assert answered.status_code == 401


def test_a_token_that_was_signed_for_another_is_not_swapped_in(tenant: Tenant, client: TestClient) -> None:
    narrow, wide = tenant.token(), tenant.token(**ALL)
    url = f"http://testserver{READ}"
    signed = Signed(client, APP, narrow).headers("GET", url, b"", {})
    signed["authorization"] = f"Biscuit {base64.urlsafe_b64encode(wide).decode()}"
    assert client.get(url, headers=signed).status_code == 401
    bare = {name: value for name, value in signed.items() if name != "authorization"}
    assert client.get(url, headers=bare).status_code == 401


def test_a_device_with_a_token_is_a_visitor(tenant: Tenant, client: TestClient) -> None:
    """What the device may itself is not what it may with the token."""
    device = tenant.device
    token = tenant.token(holder=device.public_key)
    assert Signed(client, device)("GET", READ).json()["fields"]["secret"] == HIDDEN
    assert HIDDEN not in Signed(client, device, token)("GET", READ).text
    assert Signed(client, device, token)("PATCH", READ, {"fields": {"owner": "X"}}).json()["reason"] == "INTENT"


def test_a_visitor_opens_no_session_of_sync(tenant: Tenant, client: TestClient) -> None:
    from starlette.testclient import WebSocketDenialResponse

    tenant.told()
    url = "ws://testserver/v1/databases/bank/sync"
    headers = Signed(client, APP, tenant.token(**ALL)).headers("GET", url.replace("ws:", "http:"), b"", {})
    with pytest.raises(WebSocketDenialResponse) as caught, client.websocket_connect(url, headers=headers):
        pass
    assert caught.value.status_code in (401, 403)
    assert len(refusals(tenant.told())) == 1


# --- the client -------------------------------------------------------------------------------------------------------


@pytest.fixture
def visitor(tenant: Tenant, client: TestClient) -> Iterator[Visitor]:
    with visiting(tenant, client) as made:
        yield made


def visiting(tenant: Tenant, client: TestClient, **terms: Any) -> Visitor:
    token = base64.urlsafe_b64encode(tenant.token(**terms)).decode()
    return Visitor("http://testserver", APP, token, transport=client._transport)


def test_the_client_reads_and_writes(tenant: Tenant, visitor: Visitor) -> None:
    accounts = visitor.database("bank").collection("accounts")
    account = accounts.get("4711")
    assert (account.key, dict(account.fields)) == ("4711", {"owner": "Novak", "limit": 5})
    made = accounts.patch("4711", {"owner": "Nowak"}, if_match=account.etag, note="spelling")
    assert (made.repeated, made.etag) == (False, accounts.get("4711").etag)
    with pytest.raises(RemoteProblem) as caught:
        accounts.patch("4711", {"owner": "X"}, if_match=account.etag)
    assert (caught.value.kind, caught.value.members["fields"]["owner"]) == ("stale-version", "Nowak")
    assert [one.key for one in accounts.list()] == ["4711", "4712"]
    assert [one.key for one in accounts.list("4712")] == ["4712"]
    assert [one.key for one in accounts.query('$key ^= "47"', select=["owner"])] == ["4711", "4712"]
    again = visitor.database().send(made.intent)
    assert (again.repeated, again.entry) == (True, made.entry)
    for refused in (
        lambda: accounts.get("9"),
        lambda: accounts.create("9", {"owner": "X"}),
        lambda: accounts.delete("4711"),
        lambda: accounts.patch("4711", {"secret": 1}),
        lambda: visitor.database().collection("loans").get("4711"),
        lambda: accounts.query("secret = 1").__next__(),
    ):
        with pytest.raises(RemoteProblem):
            refused()


def test_put_leaves_what_the_token_does_not_show(tenant: Tenant, visitor: Visitor) -> None:
    accounts = visitor.database().collection("accounts")
    accounts.put("4711", {"owner": "Nowak"})
    assert fields(tenant) == {"owner": "Nowak", "secret": HIDDEN}


def test_the_client_with_more(tenant: Tenant, client: TestClient) -> None:
    with visiting(tenant, client, **ALL) as visitor:
        accounts = visitor.database().collection("accounts")
        made = accounts.put("9", {"owner": "A", "address": {"city": "Brno"}})
        assert accounts.get("9").etag == made.etag
        accounts.increment("9", "visits", 2)
        accounts.increment("9", "visits")
        accounts.patch("9", {"owner": "B"}, unset=["address"])
        assert dict(accounts.get("9").fields) == {"owner": "B", "visits": 3}
        with pytest.raises(RemoteProblem) as caught:
            accounts.create("9", {"owner": "X"})
        assert caught.value.kind == "stale-version"
        accounts.delete("9", if_match=accounts.get("9").etag)
        with pytest.raises(RemoteProblem) as caught:
            accounts.get("9")
        assert caught.value.kind == "not-found"
        with pytest.raises(RemoteProblem):
            accounts.patch("9", {"owner": "C"})
    assert fields(tenant, "9") is None


def test_a_token_that_is_none(tenant: Tenant) -> None:
    for token in ("", "x", "é", base64.urlsafe_b64encode(b"x" * 100).decode()):
        with pytest.raises((MalformedError, VerificationError)):
            Visitor("http://testserver", APP, token)


def test_a_stolen_token_is_of_no_use(tenant: Tenant, client: TestClient) -> None:
    token = base64.urlsafe_b64encode(tenant.token()).decode()
    with Visitor("http://testserver", Ed25519Signer(b"\x99" * 32), token, transport=client._transport) as visitor:
        with pytest.raises(RemoteProblem) as caught:
            visitor.database().collection("accounts").get("4711")
        assert caught.value.members["reason"] == "HOLDER"


def test_the_page_about_apps_that_visit(tenant: Tenant, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its examples run as they stand, against a node at that address."""
    page = (root / "docs" / "how-to" / "let-an-app-visit.md").read_text(encoding="utf-8")
    with TestClient(create_app({"": tenant.node}), base_url="http://127.0.0.1:8463") as client:
        real = httpx.Client
        monkeypatch.setattr(
            "api.remote.httpx.Client", lambda **options: real(**{**options, "transport": client._transport})
        )
        examples = "\n".join(re.findall(r"^```pycon\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
        names = {"device": tenant.device}
        test = doctest.DocTestParser().get_doctest(examples, names, "let-an-app-visit.md", None, 0)
        said: list[str] = []
        runner = doctest.DocTestRunner(verbose=False)
        runner.run(test, out=said.append)
    assert not said, "".join(said)
    assert runner.summarize(verbose=False).attempted > 15


def test_what_comes_while_it_is_decided_is_asked_about_again(
    tenant: Tenant, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may only create changes nothing that somebody else has created meanwhile."""
    from api.routes import intents

    look, looked = intents._before, count()

    def raced(*about: Any) -> Any:
        found = look(*about)
        if next(looked) == 0:
            tenant.bank.put("accounts", "1", {"owner": "Quicker"})
        return found

    monkeypatch.setattr(intents, "_before", raced)
    app = Signed(client, APP, tenant.token(operations=frozenset({Operation.CREATE})))
    answered = app(
        "POST", INTENTS, intent(APP, tenant.bank.uid, 1, [Op(Verb.SET, DocumentId("accounts", "1"), ("owner",), "A")])
    )
    assert (answered.status_code, answered.json()["reason"]) == (403, "OPERATION")
    assert fields(tenant, "1") == {"owner": "Quicker"}

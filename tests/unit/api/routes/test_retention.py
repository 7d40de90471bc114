"""Schemas, holds, the trash, purges and erasure over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

DATABASE = "/v1/databases/bank"
ACCOUNTS = f"{DATABASE}/collections/accounts"


def kind(answered: Any) -> str:
    assert answered.headers["content-type"] == "application/problem+json", answered.text
    return str(answered.json()["type"]).removeprefix("urn:holdfast:problem:")


def test_a_schema_binds_what_is_written_from_then_on(served: Any) -> None:
    served.put("1", owner=7)
    rules = {"type": "object", "properties": {"owner": {"type": "text"}, "balance": {"type": "decimal"}}}
    made = served("PUT", f"{ACCOUNTS}/schema", rules)
    assert (made.status_code, made.json()["unfit"], made.json()["written"]) == (200, 1, True)
    assert set(served("GET", f"{ACCOUNTS}/schema").json()["schema"]["properties"]) == {"owner", "balance"}
    assert kind(served("PUT", f"{ACCOUNTS}/documents/2", {"owner": 7})) == "malformed"
    assert served("PUT", f"{ACCOUNTS}/documents/2", {"balance": 1.5}).status_code == 201  # the schema says what it is
    assert kind(served("PUT", f"{ACCOUNTS}/schema", {"type": "nonsense"})) == "malformed"
    served.gate.fields = frozenset({"owner"})
    assert set(served("GET", f"{ACCOUNTS}/schema").json()["schema"]["properties"]) == {"owner"}
    served.gate.fields = None
    assert served("DELETE", f"{ACCOUNTS}/schema").json()["schema"] is None
    assert served("PUT", f"{ACCOUNTS}/documents/3", {"owner": 7}).status_code == 201


@pytest.fixture
def clients(served: Any) -> Any:
    """A client with a sealed value."""
    rules = {"type": "object", "properties": {"name": {"type": "text"}, "birth": {"type": "text", "sealed": True}}}
    served("PUT", f"{DATABASE}/collections/clients/schema", rules)
    served("PUT", f"{DATABASE}/collections/clients/documents/88", {"name": "Novak", "birth": "706213"})
    return served


def test_what_is_held_is_not_erased(clients: Any) -> None:
    erase = f"{DATABASE}/collections/clients/erase/88"
    read = f"{DATABASE}/collections/clients/documents/88"
    assert clients("GET", read).json()["fields"]["birth"] == "706213"
    hold = {"collection": "clients", "key": "88", "reason": "court order"}
    assert clients("PUT", f"{DATABASE}/holds/case-17", hold).json()["covers"] == "clients/88"
    assert kind(clients("PUT", f"{DATABASE}/holds/case-17", hold)) == "conflict"
    assert [one["hold"] for one in clients("GET", f"{DATABASE}/holds").json()["holds"]] == ["case-17"]
    assert kind(clients("POST", erase, {"confirm": "clients/88"})) == "refused"
    assert clients("DELETE", f"{DATABASE}/holds/case-17").json()["released"] is True
    assert kind(clients("DELETE", f"{DATABASE}/holds/case-17")) == "not-found"
    assert kind(clients("POST", erase, {"confirm": "clients/99"})) == "malformed"
    assert clients("POST", erase, {"confirm": "clients/88", "reason": "asked"}).json()["keys"] == 1
    erased = clients("GET", read).json()
    assert erased["sealed"] == ["/birth"]
    assert "706213" not in str(erased)


def test_the_trash_is_purged_only_when_its_time_has_come(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    served.put("4711", owner="Novak")
    served("DELETE", f"{ACCOUNTS}/documents/4711")
    (trashed,) = served("GET", f"{DATABASE}/trash").json()["documents"]
    assert (trashed["document"], trashed["kept"]) == ("accounts/4711", "deleted 0 days ago")
    body = {"documents": [{"collection": "accounts", "key": "4711"}], "confirm": "bank"}
    assert kind(served("POST", f"{DATABASE}/purge", body | {"confirm": "other"})) == "malformed"
    assert kind(served("POST", f"{DATABASE}/purge", body)) == "refused"
    later_ms = served.node.session.now_ms() + 31 * 86_400_000
    monkeypatch.setattr(served.database, "now_ms", lambda: later_ms)
    assert served("POST", f"{DATABASE}/purge", body).json()["documents"] == ["accounts/4711"]
    assert kind(served("PUT", f"{ACCOUNTS}/documents/4711", {"owner": "X"})) in ("purged-document", "refused")
    assert served("GET", f"{DATABASE}/trash").json()["documents"] == []

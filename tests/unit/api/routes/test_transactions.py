"""Several documents at once: all of it or nothing, and who may."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from api.access.action import Operation
from api.service import Limits

TRANSACTIONS = "/v1/databases/bank/transactions"
COLLECTION = "/v1/databases/bank/collections/accounts"


def kind(answered: Any) -> str:
    assert answered.headers["content-type"] == "application/problem+json", answered.text
    return str(answered.json()["type"]).removeprefix("urn:holdfast:problem:")


def change(do: str, key: str, **more: Any) -> dict[str, Any]:
    return {"do": do, "collection": "accounts", "key": key, **more}


def fields(served: Any, key: str) -> Any:
    answered = served("GET", f"{COLLECTION}/documents/{key}")
    return answered.json()["fields"] if answered.status_code == 200 else None


def test_a_transfer_happens_as_a_whole(served: Any) -> None:
    etag = served.put("1", owner="A").json()["etag"]
    body = {
        "note": "transfer 17",
        "changes": [
            change("require", "1", etag=etag),
            change("increment", "1", field="balance", by={"$dec": "-2.50"}),
            change("put", "2", fields={"owner": "B"}, if_absent=True),
            change("increment", "2", field="balance", by={"$dec": "2.50"}),
            change("add", "2", field="labels", elements=["gold", 7]),
            change("remove", "2", field="labels", elements=[7]),
            change("patch", "1", fields={"owner": "AA"}, unset=["gone"]),
        ],
    }
    made = served("POST", TRANSACTIONS, body)
    assert made.status_code == 200, made.text
    assert fields(served, "1") == {"owner": "AA", "balance": {"$dec": "-2.50"}}
    assert fields(served, "2") == {"owner": "B", "balance": {"$dec": "2.50"}, "labels": ["gold"]}
    assert set(made.json()["etags"]) == {"accounts/1", "accounts/2"}
    again = served("POST", TRANSACTIONS, body)
    assert (again.status_code, kind(again)) == (412, "stale-version")
    assert fields(served, "1")["balance"] == {"$dec": "-2.50"}


@pytest.mark.parametrize(
    "last",
    [
        change("put", "2", fields={"owner": 1.5}),
        change("delete", "none"),
        change("increment", "1", field="owner"),
        change("put", "2", fields={}, if_match="1.x"),
        change("put", "2", fields={}, if_match="1.x", if_absent=True),
        change("patch", "2"),
        change("explode", "2"),
        change("put", "2"),
        {"do": "put", "collection": "$holds", "key": "x", "fields": {}},
        change("put", "2", fields={}, unknown=1),
        "not a change",
    ],
)
def test_one_wrong_change_lets_nothing_happen(served: Any, last: Any) -> None:
    served.put("1", owner="A")
    refused = served("POST", TRANSACTIONS, {"changes": [change("patch", "1", fields={"owner": "B"}), last]})
    assert 400 <= refused.status_code < 500
    assert kind(refused)
    assert fields(served, "1") == {"owner": "A"}
    assert fields(served, "2") is None


def test_each_change_takes_the_operations_that_it_may_be(served: Any) -> None:
    served.put("1", owner="A")
    served.gate.forbidden = {Operation.CREATE}
    assert kind(served("POST", TRANSACTIONS, {"changes": [change("patch", "2", fields={"a": 1})]})) == "forbidden"
    kept = change("patch", "1", fields={"a": 1}, if_match="*")
    assert served("POST", TRANSACTIONS, {"changes": [kept]}).status_code == 200
    served.gate.forbidden = {Operation.UPDATE}
    assert kind(served("POST", TRANSACTIONS, {"changes": [kept]})) == "forbidden"
    assert kind(served("POST", TRANSACTIONS, {"changes": [change("increment", "3", field="n")]})) == "forbidden"
    new = [change("require", "3", etag=None), change("increment", "3", field="n")]
    assert served("POST", TRANSACTIONS, {"changes": new}).status_code == 200
    served.gate.forbidden = {Operation.DELETE}
    assert kind(served("POST", TRANSACTIONS, {"changes": [change("delete", "1")]})) == "forbidden"
    assert fields(served, "1") == {"owner": "A", "a": 1}


def test_fields_that_are_withheld_are_not_written_by_any_kind_of_change(served: Any) -> None:
    served.put("1", owner="A", secret=1)
    served.gate.fields = frozenset({"owner"})
    for one in (
        change("put", "1", fields={"owner": "B"}),
        change("put", "2", fields={"secret": 2}, if_absent=True),
        change("patch", "1", fields={"secret": 2}),
        change("patch", "1", unset=["secret/x"]),
        change("increment", "1", field="secret"),
        change("add", "1", field="/secret", elements=[1]),
    ):
        assert kind(served("POST", TRANSACTIONS, {"changes": [one]})) == "forbidden", one
    served.gate.fields = None
    assert fields(served, "1") == {"owner": "A", "secret": 1}


def test_a_transaction_has_so_many_changes(make_served: Callable[..., Any]) -> None:
    served = make_served(Limits(documents=2))
    changes = [change("put", str(n), fields={}) for n in range(3)]
    assert kind(served("POST", TRANSACTIONS, {"changes": changes})) == "limit-exceeded"
    assert kind(served("POST", TRANSACTIONS, {"changes": []})) == "malformed"


def test_a_transaction_that_is_sent_again_is_made_once(served: Any) -> None:
    body = {"changes": [change("increment", "1", field="n")]}
    first = served("POST", TRANSACTIONS, body, Idempotency_Key="one")
    assert served("POST", TRANSACTIONS, body, Idempotency_Key="one").json() == first.json()
    assert fields(served, "1") == {"n": 1}


# --- imports and exports --------------------------------------------------------------------------------------------


def lines(*documents: Any) -> bytes:
    return b"\n".join(one if isinstance(one, bytes) else json.dumps(one).encode() for one in documents) + b"\n"


def imported(answered: Any) -> list[dict[str, Any]]:
    assert answered.headers["content-type"] == "application/x-ndjson", answered.text
    return [json.loads(line) for line in answered.text.splitlines()]


def test_an_import_is_written_batch_by_batch_and_can_be_read_back(served: Any) -> None:
    documents = [{"key": str(n), "fields": {"n": n}} for n in range(5)]
    told = imported(served("POST", f"{COLLECTION}/import?batch=2", lines(*documents)))
    assert [(one["kind"], one["rows"]) for one in told] == [("imported", 2)] * 2 + [
        ("imported", 1),
        ("document-import", 5),
    ]
    assert told[-1]["transactions"] == 3
    exported = imported(served("GET", f"{COLLECTION}/export"))
    assert [{"key": one["key"], "fields": one["fields"]} for one in exported[:-1]] == documents
    assert exported[-1]["documents"] == 5


def test_an_import_that_meets_what_is_there_says_how_far_it_came(served: Any) -> None:
    served.put("3", owner="A")
    documents = [{"key": str(n), "fields": {"n": n}} for n in range(5)]
    told = imported(served("POST", f"{COLLECTION}/import?batch=2", lines(*documents)))
    assert [one["kind"] for one in told] == ["imported", "problem"]
    assert (told[-1]["rows"], told[-1]["problem"]["type"]) == (2, "urn:holdfast:problem:stale-version")
    assert (fields(served, "2"), fields(served, "3")) == (None, {"owner": "A"})
    assert imported(served("POST", f"{COLLECTION}/import?existing=update", lines(*documents)))[-1]["rows"] == 5
    assert fields(served, "3") == {"owner": "A", "n": 3}
    imported(served("POST", f"{COLLECTION}/import?existing=replace", lines(*documents)))
    assert fields(served, "3") == {"n": 3}


@pytest.mark.parametrize(
    "bad",
    [b"{", b"[]", b'{"key": "x"}', b'{"key": 1, "fields": {}}', b'{"key": "x", "fields": {}, "more": 1}',
     b'{"key": "0", "fields": {}}', b'{"key": "x", "fields": {"a": 1.5}}'],
)  # fmt: skip
def test_an_import_with_a_bad_line_writes_nothing(served: Any, bad: bytes) -> None:
    refused = served("POST", f"{COLLECTION}/import?batch=1", lines({"key": "0", "fields": {}}, bad))
    assert kind(refused) == "malformed"
    assert "line 2" in refused.json()["detail"]
    assert fields(served, "0") is None


def test_who_may_import(served: Any) -> None:
    served.gate.fields = frozenset({"n"})
    body = lines({"key": "1", "fields": {"m": 1}})
    assert kind(served("POST", f"{COLLECTION}/import", body)) == "forbidden"
    assert kind(served("POST", f"{COLLECTION}/import?existing=replace", lines({"key": "1", "fields": {"n": 1}}))) == (
        "forbidden"
    )
    served.gate.fields, served.gate.forbidden = None, {Operation.UPDATE}
    assert kind(served("POST", f"{COLLECTION}/import?existing=update", body)) == "forbidden"
    assert imported(served("POST", f"{COLLECTION}/import", body))[-1]["rows"] == 1


def test_an_import_has_a_limit_of_its_own(make_served: Callable[..., Any]) -> None:
    served = make_served(Limits(body_bytes=1024, import_bytes=4096))
    document = lines({"key": "1", "fields": {"text": "x" * 2000}})
    assert imported(served("POST", f"{COLLECTION}/import", document))[-1]["rows"] == 1
    assert kind(served("POST", f"{COLLECTION}/import", lines({"key": "1", "fields": {"text": "x" * 5000}}))) == (
        "limit-exceeded"
    )


def test_an_export_is_of_one_moment_and_shows_only_what_may_be_seen(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.routes.transactions._PAGE", 1)
    for key in ("1", "2", "3"):
        served.put(key, n=1, secret=2)
    from api.routes import transactions

    real = transactions.scan

    def scan(*arguments: Any, **named: Any) -> Any:
        page = real(*arguments, **named)
        served.database.put("accounts", "3", {"n": 9})  # while it is under way
        served.database.put("accounts", "4", {"n": 9})
        return page

    monkeypatch.setattr(transactions, "scan", scan)
    served.gate.fields = frozenset({"n"})
    exported = imported(served("GET", f"{COLLECTION}/export"))
    assert [(one["key"], one["fields"]) for one in exported[:-1]] == [(key, {"n": 1}) for key in ("1", "2", "3")]

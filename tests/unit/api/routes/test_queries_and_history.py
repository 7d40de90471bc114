"""Queries, history, differences, the ways back and conflicts, over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from api.access.action import Operation

DATABASE = "/v1/databases/bank"
COLLECTION = f"{DATABASE}/collections/accounts"


def kind(answered: Any) -> str:
    assert answered.headers["content-type"] == "application/problem+json", answered.text
    return str(answered.json()["type"]).removeprefix("urn:holdfast:problem:")


@pytest.fixture
def books(served: Any) -> Any:
    """Three accounts over an indexed balance."""
    rules = {
        "type": "object",
        "properties": {"owner": {"type": "text"}, "balance": {"type": "integer", "indexed": True}},
    }
    served.database.set_schema("accounts", rules)
    for key, owner, balance in (("1", "Novak", 5), ("2", "Svoboda", 50), ("3", "Novotna", 500)):
        served.put(key, owner=owner, balance=balance)
    return served


def keys(answered: Any) -> list[str]:
    assert answered.status_code == 200, answered.text
    return [one["key"] for one in answered.json()["documents"]]


def test_a_query_finds_what_fits(books: Any) -> None:
    query = f"{COLLECTION}/query"
    assert keys(books("GET", f"{query}?where=balance >= 50&order=balance&descending=true")) == ["3", "2"]
    assert keys(books("POST", query, {"where": 'balance > 1 and owner ^= "Nov"', "scan": True})) == ["1", "3"]
    found = books("POST", query, {"select": ["owner"], "limit": 1}).json()
    assert found["documents"][0]["fields"] == {"owner": "Novak"}
    assert keys(books("POST", query, {"limit": 2, "select": ["owner"], "after": found["cursor"]})) == ["2", "3"]
    assert kind(books("POST", query, {"where": 'owner = "Novak"'})) == "refused"
    assert keys(books("POST", query, {"where": 'owner = "Novak"', "scan": True})) == ["1"]


@pytest.mark.parametrize(
    "body",
    [{"where": "balance >="}, {"where": 7}, {"where": {"a": 1}}, {"order": ""}, {"limit": 0}, {"after": "x"},
     {"unknown": 1}, [], {"limit": True}],
)  # fmt: skip
def test_a_query_that_means_nothing_is_refused(books: Any, body: Any) -> None:
    assert kind(books("POST", f"{COLLECTION}/query", body)) == "malformed"


def test_a_filter_must_not_tell_what_is_withheld(books: Any) -> None:
    books.gate.fields = frozenset({"owner"})
    for body in ({"where": "balance > 100"}, {"order": "balance"}, {"select": ["balance"]}):
        assert kind(books("POST", f"{COLLECTION}/query", body)) == "forbidden"
    found = books("POST", f"{COLLECTION}/query", {}).json()["documents"]
    assert [one["fields"] for one in found] == [{"owner": "Novak"}, {"owner": "Svoboda"}, {"owner": "Novotna"}]
    assert books.gate.asked[-1].operation is Operation.READ


def test_history_says_who_wrote_what(books: Any) -> None:
    books("PATCH", f"{COLLECTION}/documents/1?note=spelling", {"fields": {"owner": "Nowak"}})
    books("PATCH", f"{COLLECTION}/documents/1", {"fields": {"balance": 6}})
    found = books("GET", f"{COLLECTION}/history/1").json()
    assert [one["note"] for one in found["entries"]] == ["", "spelling", ""]
    changed = found["entries"][1]["changes"]
    assert changed == [{"path": "/owner", "kind": "reg", "before": ["Novak"], "after": ["Nowak"]}]
    first = books("GET", f"{COLLECTION}/history/1?limit=1").json()
    assert first["entries"] == found["entries"][:1]
    rest = books("GET", f"{COLLECTION}/history/1?after={first['cursor']}").json()
    assert (rest["entries"], rest["cursor"]) == (found["entries"][1:], None)
    books.gate.fields = frozenset({"owner"})
    seen = books("GET", f"{COLLECTION}/history/1").json()["entries"]
    assert [[op["path"] for op in one["ops"]] for one in seen] == [["/owner"], ["/owner"]]
    assert kind(books("GET", f"{COLLECTION}/history/1?field=balance")) == "forbidden"


def test_what_was_written_is_taken_back_and_done_again(books: Any) -> None:
    made = books("PATCH", f"{COLLECTION}/documents/1", {"fields": {"owner": "Nowak"}}).json()
    taken = books("POST", f"{DATABASE}/undo", {"entries": [made["entry"]], "note": "no"}).json()
    assert (taken["changed"], taken["skipped"], taken["written"]) == (["accounts/1"], [], True)
    assert books("GET", f"{COLLECTION}/documents/1").json()["fields"]["owner"] == "Novak"
    assert kind(books("POST", f"{DATABASE}/undo", {"entries": [made["entry"]]})) == "conflict"
    assert books("POST", f"{DATABASE}/redo", {"entries": [made["entry"]]}).status_code == 200
    assert books("GET", f"{COLLECTION}/documents/1").json()["fields"]["owner"] == "Nowak"
    for entries in ([], ["x"], [made["entry"][:-1] + "g"]):
        assert kind(books("POST", f"{DATABASE}/undo", {"entries": entries})) == "malformed"
    unknown = made["entry"][:-8] + "00000000"
    assert kind(books("POST", f"{DATABASE}/undo", {"entries": [unknown]})) == "missing-evidence"


def test_differences_and_restoring(books: Any) -> None:
    place = books("PATCH", f"{COLLECTION}/documents/1", {"fields": {"owner": "Nowak"}}).json()["place"]
    books("PATCH", f"{COLLECTION}/documents/1", {"fields": {"owner": "X", "balance": 1}})
    found = books("GET", f"{DATABASE}/diff?from={place}&axis=known").json()
    assert [(one["document"], [c["path"] for c in one["changes"]]) for one in found["documents"]] == [
        ("accounts/1", ["/balance", "/owner"])
    ]
    books.gate.fields = frozenset({"balance"})
    limited = books("GET", f"{DATABASE}/diff?from={place}&axis=known").json()
    assert [c["path"] for c in limited["documents"][0]["changes"]] == ["/balance"]
    body = {"as_of": str(place), "axis": "known", "collection": "accounts", "key": "1"}
    assert kind(books("POST", f"{DATABASE}/restore", body)) == "forbidden"
    books.gate.fields = None
    assert len(books("POST", f"{DATABASE}/restore", body).json()["entries"]) == 1
    assert books("GET", f"{COLLECTION}/documents/1").json()["fields"] == {"owner": "Nowak", "balance": 5}
    assert books("GET", f"{DATABASE}/diff?from={place}&axis=known").json()["documents"] == []
    assert kind(books("GET", f"{DATABASE}/diff")) == "malformed"


def test_a_conflict_is_listed_and_decided(books: Any) -> None:
    context = books("GET", f"{COLLECTION}/documents/1").headers["holdfast-context"]
    books("PATCH", f"{COLLECTION}/documents/1", {"fields": {"owner": "A"}})
    books("PATCH", f"{COLLECTION}/documents/1", {"fields": {"owner": "B"}}, Holdfast_Context=context)
    (listed,) = books("GET", f"{DATABASE}/conflicts").json()["documents"]
    assert (listed["document"], sorted(listed["siblings"]["/owner"])) == ("accounts/1", ["A", "B"])
    resolve = f"{COLLECTION}/resolve/1"
    assert kind(books("POST", resolve, {"choose": {"owner": "A"}})) == "precondition-required"
    assert kind(books("POST", resolve, {"choose": {"owner": "A"}}, If_Match='"1.x"')) == "stale-version"
    made = books("POST", resolve, {"choose": {"owner": "A"}, "note": "asked"}, If_Match=f'"{listed["etag"]}"')
    assert made.status_code == 200, made.text
    assert books("GET", f"{COLLECTION}/documents/1").json()["fields"]["owner"] == "A"
    assert books("GET", f"{DATABASE}/conflicts").json()["documents"] == []


def test_who_may_not_place_holds_or_set_schemas_may_not_take_them_back(books: Any) -> None:
    """The node itself is an admin: it would do for anybody what only an admin may."""
    hold = books("PUT", f"{DATABASE}/holds/case-17", {"collection": "accounts", "reason": "court"}).json()["entry"]
    schema = books("PUT", f"{COLLECTION}/schema", {"type": "object"}).json()["entry"]
    for entry, operation in ((hold, Operation.HOLD), (schema, Operation.SCHEMA)):
        books.gate.forbidden = {operation}
        assert kind(books("POST", f"{DATABASE}/undo", {"entries": [entry]})) == "forbidden"
        books.gate.forbidden = {Operation.UNDO}
        assert kind(books("POST", f"{DATABASE}/undo", {"entries": [entry]})) == "forbidden"
    books.gate.forbidden = set()
    assert [one["hold"] for one in books("GET", f"{DATABASE}/holds").json()["holds"]] == ["case-17"]
    taken = books("POST", f"{DATABASE}/undo", {"entries": [hold]})
    assert taken.status_code == 200, taken.text
    books.gate.forbidden = {Operation.HOLD}
    assert kind(books("POST", f"{DATABASE}/redo", {"entries": [hold]})) == "forbidden"
    books("PUT", f"{COLLECTION}/documents/9", {"owner": "X"})
    body = {"as_of": "1", "axis": "known", "collection": "$holds"}
    assert kind(books("POST", f"{DATABASE}/restore", body)) == "not-found"

"""Documents over HTTP: versions and conditions, what is told of them, and what is not."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

from api.access.action import Operation
from api.problems import RequestTimedOut
from api.routes import transactions
from api.routes.dependencies import read_body
from api.service import Limits
from identity.errors import UnknownOutcome
from sync.changes import Changes

DOCUMENTS = "/v1/databases/bank/collections/accounts/documents"
NOVAK = f"{DOCUMENTS}/4711"


def problem(answered: Any) -> str:
    """The name of the problem that was answered, which has to be a whole document."""
    assert answered.headers["content-type"] == "application/problem+json", answered.text
    document = answered.json()
    assert document["status"] == answered.status_code
    assert document["title"]
    return str(document["type"]).removeprefix("urn:holdfast:problem:")


def test_a_document_is_written_and_read_with_its_version(served: Any) -> None:
    made = served("PUT", NOVAK, {"owner": "Novak", "balance": {"$dec": "12.30"}})
    assert (made.status_code, made.json()["written"]) == (201, True)
    read = served("GET", NOVAK)
    assert read.json()["fields"] == {"owner": "Novak", "balance": {"$dec": "12.30"}}
    assert read.headers["etag"] == made.headers["etag"] == f'"{read.json()["etag"]}"'
    head = served("HEAD", NOVAK)
    assert (head.status_code, head.headers["etag"], head.content) == (200, made.headers["etag"], b"")
    assert served("PUT", NOVAK, {"owner": "Novak", "balance": {"$dec": "12.30"}}).json()["written"] is False


@pytest.mark.parametrize("form", ["{etag}", 'W/{etag}, "another"', "*"])
def test_who_has_the_version_is_not_given_it_again(served: Any, form: str) -> None:
    etag = served.put("4711", owner="Novak").headers["etag"]
    known = served("GET", NOVAK, If_None_Match=form.format(etag=etag))
    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", etag)
    served.put("4711", owner="Nowak")
    assert served("GET", NOVAK, If_None_Match='"another"').status_code == 200


def test_a_stale_write_is_shown_what_is_there(served: Any) -> None:
    seen = served.put("4711", owner="Novak").headers["etag"]
    newer = served.put("4711", owner="Nowak").headers["etag"]
    for method, body in (("PUT", {"owner": "X"}), ("PATCH", {"fields": {"owner": "X"}}), ("DELETE", None)):
        refused = served(method, NOVAK, body, If_Match=seen)
        assert (refused.status_code, problem(refused)) == (412, "stale-version")
        assert refused.headers["etag"] == newer
        found = refused.json()
        assert (f'"{found["etag"]}"', found["fields"], found["siblings"]) == (newer, {"owner": "Nowak"}, {})
    assert served("GET", NOVAK).json()["fields"] == {"owner": "Nowak"}
    assert served("PUT", NOVAK, {"owner": "X"}, If_Match=newer).status_code == 200


def test_only_one_creates(served: Any) -> None:
    assert served("PUT", NOVAK, {"owner": "A"}, If_None_Match="*").status_code == 201
    refused = served("PUT", NOVAK, {"owner": "B"}, If_None_Match="*")
    assert (refused.status_code, refused.json()["fields"]) == (412, {"owner": "A"})


@pytest.mark.parametrize(
    "headers",
    [
        {"If_Match": "1.abc"},
        {"If_Match": 'W/"1.abc"'},
        {"If_Match": '"a", "b"'},
        {"If_Match": '"a"', "If_None_Match": "*"},
        {"If_None_Match": '"a"'},
        {"Idempotency_Key": ""},
        {"Holdfast_Context": "not a context"},
    ],
)
def test_headers_that_mean_nothing_are_refused_and_nothing_is_written(served: Any, headers: dict[str, str]) -> None:
    refused = served("PUT", NOVAK, {"owner": "A"}, **headers)
    assert (refused.status_code, problem(refused)) == (400, "malformed")
    assert served("GET", NOVAK).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"a": 1, "a": 2}',
        b'{"a": 1.5}',
        b'{"a": NaN}',
        b'{"$a": 1}',
        b'{"a": {"$dec": "x"}}',
        b'{"a": "\xff"}',
        b"[" * 100_000,
    ],
)
def test_bodies_that_are_no_document_are_refused(served: Any, body: bytes) -> None:
    refused = served("PUT", NOVAK, body)
    assert refused.status_code in (400, 413)
    assert problem(refused) in ("malformed", "limit-exceeded")
    assert served("GET", NOVAK).status_code == 404


def test_a_deleted_document_comes_back(served: Any) -> None:
    served.put("4711", owner="Novak")
    place = served("PATCH", NOVAK, {"fields": {"owner": "Nowak"}, "unset": []}).json()["place"]
    assert served("DELETE", f"{NOVAK}?note=closed").status_code == 200
    assert problem(served("GET", NOVAK)) == "not-found"
    assert served("HEAD", NOVAK).status_code == 404
    assert problem(served("DELETE", NOVAK)) == "missing-document"
    assert problem(served("PATCH", NOVAK, {"fields": {"owner": "X"}})) == "not-found"
    assert [one["key"] for one in served("GET", f"{DOCUMENTS}?deleted=true").json()["documents"]] == ["4711"]
    assert served("GET", f"{NOVAK}?as_of={place}&axis=known").json()["fields"] == {"owner": "Nowak"}
    assert served("POST", NOVAK.replace("/documents/", "/undelete/")).status_code == 200
    assert served("GET", NOVAK).json()["fields"] == {"owner": "Nowak"}


def test_keys_may_hold_slashes_and_anything_else_that_a_key_may(served: Any) -> None:
    for path, key in (
        ("a/b", "a/b"),
        ("50%25", "50%"),
        ("%C4%8Ced", "Čed"),
        ("a%3Fb", "a?b"),
        ("history/x", "history/x"),
    ):
        served("PUT", f"{DOCUMENTS}/{path}", {"n": 1})
        assert served("GET", f"{DOCUMENTS}/{path}").json()["document"] == f"accounts/{key}"


def test_pages_go_on_where_the_last_one_ended(served: Any) -> None:
    for key in ("1", "2", "30", "31"):
        served.put(key, n=1)
    first = served("GET", f"{DOCUMENTS}?limit=2").json()
    assert [one["key"] for one in first["documents"]] == ["1", "2"]
    rest = served("GET", f"{DOCUMENTS}?limit=2&after={first['cursor']}").json()
    assert ([one["key"] for one in rest["documents"]], rest["cursor"]) == (["30", "31"], None)
    assert [one["key"] for one in served("GET", f"{DOCUMENTS}?prefix=3&end=31").json()["documents"]] == ["30"]
    for query in ("limit=0", "limit=10001", "limit=x", "after=x", "as_of=yesterday", "as_of=1", "axis=mine&as_of=1"):
        assert problem(served("GET", f"{DOCUMENTS}?{query}")) == "malformed", query


def test_what_was_read_is_not_overwritten_where_somebody_wrote_since(served: Any) -> None:
    """The context says what a writer has seen: what came since stands beside it, as a sibling."""
    served.put("4711", owner="Novak")
    context = served("GET", NOVAK).headers["holdfast-context"]
    served.put("4711", owner="Nowak")
    assert served("PUT", NOVAK, {"owner": "Novák"}, Holdfast_Context=context).status_code == 200
    both = served("GET", f"{NOVAK}?siblings=all").json()
    assert sorted(both["siblings"]["/owner"]) == ["Novák", "Nowak"]
    assert both["conflicts"] == [{"kind": "siblings", "path": "/owner"}]


@pytest.mark.parametrize("strength", ["local", "carried"])
def test_the_strength_of_a_condition_is_said(served: Any, strength: str) -> None:
    etag = served.put("4711", owner="Novak").headers["etag"]
    made = served("PUT", NOVAK, {"owner": "Nowak"}, If_Match=etag, Prefer=f"respond-async, {strength}")
    assert made.headers["preference-applied"] == strength
    assert "preference-applied" not in served.put("4711", owner="X").headers


def test_a_serial_write_takes_a_home(served: Any) -> None:
    refused = served("PUT", NOVAK, {"owner": "Novak"}, Prefer="serial")
    assert (refused.status_code, problem(refused)) == (409, "refused")
    assert "home" in refused.json()["detail"]
    assert served("GET", NOVAK).status_code == 404


# --- who may --------------------------------------------------------------------------------------------------------


def test_the_gate_is_told_what_a_request_is_about_and_is_given_all_that_is_signed(served: Any) -> None:
    served("PATCH", f"{NOVAK}?note=a%20b", {"fields": {"owner": "X"}, "unset": ["address/street"]})
    asked = served.gate.asked[0]
    assert (asked.operation, asked.collection, asked.key) == (Operation.UPDATE, "accounts", "4711")
    assert (asked.database, asked.fields) == (served.database.uid, {"owner", "address"})
    seen = served.gate.seen[-1]
    assert (seen.method, seen.url) == ("PATCH", f"http://testserver{NOVAK}?note=a%20b")
    assert json.loads(seen.body) == {"fields": {"owner": "X"}, "unset": ["address/street"]}


def test_a_put_creates_or_updates_only_what_each_is_allowed_for(served: Any) -> None:
    served.gate.forbidden = {Operation.UPDATE}
    assert served("PUT", NOVAK, {"owner": "A"}).status_code == 201
    assert problem(served("PUT", NOVAK, {"owner": "B"})) == "forbidden"
    served.gate.forbidden = {Operation.CREATE}
    assert served("PUT", NOVAK, {"owner": "B"}).status_code == 200
    assert problem(served("PUT", f"{DOCUMENTS}/new", {"owner": "B"})) == "forbidden"
    assert served("GET", f"{DOCUMENTS}/new").status_code == 404
    assert served("GET", NOVAK).json()["fields"] == {"owner": "B"}


def test_the_past_is_not_for_who_may_only_read(served: Any) -> None:
    served.put("4711", owner="Novak")
    served.gate.forbidden = {Operation.HISTORY}
    assert served("GET", NOVAK).status_code == 200
    for path in (f"{NOVAK}?as_of=1&axis=known", f"{DOCUMENTS}?as_of=1&axis=known", f"{DOCUMENTS}?deleted=true"):
        assert problem(served("GET", path)) == "forbidden"


def test_fields_that_are_withheld_are_neither_shown_nor_written(served: Any) -> None:
    served.put("4711", owner="Novak", balance=7)
    served.gate.fields = frozenset({"owner"})
    assert served("GET", f"{NOVAK}?siblings=all").json()["fields"] == {"owner": "Novak"}
    assert served("GET", DOCUMENTS).json()["documents"][0]["fields"] == {"owner": "Novak"}
    for method, body in (
        ("PATCH", {"fields": {"balance": 8}}),
        ("PATCH", {"fields": {}, "unset": ["balance/inner"]}),
        ("PUT", {"owner": "X"}),  # it would take the balance away
        ("PUT", {"balance": 8}),
    ):
        assert problem(served(method, NOVAK, body)) == "forbidden"
    assert served("PATCH", NOVAK, {"fields": {"owner": "Nowak"}}).status_code == 200
    assert served("PUT", f"{DOCUMENTS}/new", {"owner": "X"}).status_code == 201
    assert problem(served("PUT", f"{DOCUMENTS}/other", {"balance": 1})) == "forbidden"
    served.gate.fields = None
    assert served("GET", NOVAK).json()["fields"] == {"owner": "Nowak", "balance": 7}


def test_a_stale_write_tells_nothing_of_fields_that_are_withheld(served: Any) -> None:
    served.put("4711", owner="Novak", balance=7)
    served.gate.fields = frozenset({"owner"})
    refused = served("PATCH", NOVAK, {"fields": {"owner": "X"}}, If_Match='"1.another"')
    assert (refused.status_code, refused.json()["fields"]) == (412, {"owner": "Novak"})
    served.gate.forbidden = {Operation.READ}
    refused = served("PUT", NOVAK, {"owner": "X"}, If_None_Match="*")
    assert problem(refused) == "stale-version"
    assert "Novak" not in refused.text


def test_schemas_and_holds_are_no_documents(served: Any) -> None:
    for collection in ("$schemas", "$holds", "$other"):
        for method, body in (("GET", None), ("PUT", {"a": 1}), ("DELETE", None)):
            assert (
                problem(served(method, f"/v1/databases/bank/collections/{collection}/documents/x", body)) == "not-found"
            )


def test_who_may_not_see_a_database_is_not_told_whether_there_is_one(served: Any) -> None:
    served.gate.forbidden = {Operation.READ}
    there, not_there = served("GET", NOVAK), served("GET", NOVAK.replace("/bank/", "/other/"))
    assert problem(there) == problem(not_there) == "forbidden"
    assert there.json() == not_there.json()
    served.gate.forbidden = set()
    assert problem(served("GET", NOVAK.replace("/bank/", "/other/"))) == "not-found"


# --- limits, and requests that come twice ---------------------------------------------------------------------------


def test_a_body_is_read_no_further_than_it_may_be(make_served: Callable[..., Any]) -> None:
    served = make_served(Limits(body_bytes=1024))
    refused = served("PUT", NOVAK, {"note": "x" * 1024})
    assert (refused.status_code, problem(refused)) == (413, "limit-exceeded")
    chunked = served.client.put(NOVAK, content=(b"x" * 512 for _ in range(3)), headers={"X-Caller": "teller"})
    assert problem(chunked) == "limit-exceeded"
    assert served.gate.seen == []


def test_strangers_do_not_fill_the_memory_with_bodies(make_served: Callable[..., Any]) -> None:
    served = make_served(Limits(body_bytes=1024, import_bytes=1024))
    service = served.client.app.state.service
    with service.held() as hold:
        hold(4 * 1024 - 10)
        refused = served("PUT", NOVAK, {"owner": "Novak"})
        assert (refused.status_code, problem(refused), refused.headers["retry-after"]) == (503, "busy", "1")
        assert served.gate.seen == []
    for _ in range(10):
        served("PUT", NOVAK, {"note": "x" * 900})
        served("PUT", NOVAK, {"note": "x" * 2000})
        served("PUT", NOVAK, b"{")
    assert service._held_bytes == 0


def test_a_body_that_does_not_come_in_time_is_refused(make_served: Callable[..., Any]) -> None:
    service = make_served(Limits(body_s=0.01)).client.app.state.service

    class Stalled:
        async def stream(self) -> Any:
            yield b"{"
            await anyio.sleep_forever()

        headers: Mapping[str, str] = {}

    counted: list[int] = []
    with pytest.raises(RequestTimedOut):
        anyio.run(read_body, Stalled(), 1024, service.limits.body_s, counted.append)
    assert counted == [1]


def test_a_key_has_so_many_requests_a_minute(make_served: Callable[..., Any]) -> None:
    served = make_served(Limits(requests_a_minute=3))
    answered = [served("GET", DOCUMENTS).status_code for _ in range(4)]
    assert answered == [200, 200, 200, 429]
    refused = served("GET", DOCUMENTS)
    assert problem(refused) == "too-many-requests"
    assert 1 <= int(refused.headers["retry-after"]) <= 21
    assert served("GET", DOCUMENTS, X_Caller="another").status_code == 200


def test_a_request_that_is_sent_again_is_served_once(served: Any) -> None:
    first = served("PATCH", NOVAK, {"fields": {"n": 1}}, Idempotency_Key="k1")
    assert problem(first) == "not-found"  # nothing was done, so it may be tried again
    served.put("4711", n=0)
    first = served("PATCH", NOVAK, {"fields": {"n": 1}}, Idempotency_Key="k1")
    served.put("4711", n=2)
    again = served("PATCH", NOVAK, {"fields": {"n": 1}}, Idempotency_Key="k1")
    assert (again.status_code, again.json(), again.headers["etag"]) == (200, first.json(), first.headers["etag"])
    assert again.headers["idempotency-replayed"] == "true"
    assert served("GET", NOVAK).json()["fields"] == {"n": 2}
    other = served("PATCH", NOVAK, {"fields": {"n": 3}}, Idempotency_Key="k1")
    assert (other.status_code, problem(other)) == (422, "idempotency-key-used")
    theirs = served("PATCH", NOVAK, {"fields": {"n": 3}}, Idempotency_Key="k1", X_Caller="another")
    assert theirs.status_code == 200
    served.gate.forbidden = {Operation.UPDATE}
    assert problem(served("PATCH", NOVAK, {"fields": {"n": 1}}, Idempotency_Key="k1")) == "forbidden"


# --- what goes wrong inside -----------------------------------------------------------------------------------------


def test_what_goes_wrong_inside_is_told_to_the_log_alone(
    make_served: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = make_served()

    def fail(*_: object, **__: object) -> None:
        raise ValueError("the secret is 4711-Novak")

    monkeypatch.setattr("api.routes.documents.scan", fail)
    failed = served("GET", DOCUMENTS, X_Request_Id="request-1")
    assert (failed.status_code, problem(failed)) == (500, "internal")
    assert "secret" not in failed.text
    assert failed.json()["request_id"] == failed.headers["x-request-id"] == "request-1"
    logged = [json.loads(line) for line in served.log.getvalue().splitlines()]
    assert logged[0]["error"] == "ValueError"
    assert logged[0]["request_id"] == "request-1"
    assert "secret" not in served.log.getvalue()


def test_the_log_names_routes_and_no_keys(served: Any) -> None:
    served("PUT", f"{DOCUMENTS}/Jana%20Novakova", {"owner": "Novakova"})
    (line,) = (json.loads(line) for line in served.log.getvalue().splitlines())
    assert line["route"] == "/v1/databases/{database}/collections/{collection}/documents/{key:path}"
    assert (line["status"], line["method"]) == (201, "PUT")
    assert "Nov" not in served.log.getvalue()


def test_a_local_commit_is_seen_over_http(served: Any) -> None:
    changes = Changes(note="by the program itself")
    changes.put("accounts", "1", {"owner": "A"})
    served.database.commit(changes)
    assert served("GET", f"{DOCUMENTS}/1").json()["fields"] == {"owner": "A"}


def test_of_many_who_write_on_one_version_exactly_one_wins(served: Any) -> None:
    etag = served.put("4711", n=0).headers["etag"]
    with ThreadPoolExecutor(16) as pool:
        answered = list(pool.map(lambda n: served("PUT", NOVAK, {"n": n}, If_Match=etag), range(1, 33)))
    assert sorted(one.status_code for one in answered) == [200] + [412] * 31
    (winner,) = (one for one in answered if one.status_code == 200)
    assert served("GET", NOVAK).headers["etag"] == winner.headers["etag"]


def test_a_write_whose_outcome_is_not_known_is_not_tried_again_by_itself(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.put("4711", n=0)

    def fail(*_: object) -> None:
        raise UnknownOutcome("the store went away")

    monkeypatch.setattr(served.database, "commit", fail)
    first = served("PATCH", NOVAK, {"fields": {"n": 1}}, Idempotency_Key="one")
    monkeypatch.undo()
    again = served("PATCH", NOVAK, {"fields": {"n": 1}}, Idempotency_Key="one")
    assert problem(first) == problem(again) == "unknown-outcome"
    assert served("GET", NOVAK).json()["fields"] == {"n": 0}


def test_an_answer_that_breaks_off_does_not_look_whole(
    make_served: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = make_served(raises=False)
    monkeypatch.setattr("api.routes.transactions._PAGE", 1)
    for key in ("1", "2"):
        served.put(key, secret="Novak")
    real, calls = transactions.scan, iter((False, True))

    def scan(*arguments: Any, **named: Any) -> Any:
        if next(calls):
            raise ValueError("Novak")
        return real(*arguments, **named)

    monkeypatch.setattr(transactions, "scan", scan)
    exported = served("GET", "/v1/databases/bank/collections/accounts/export")
    assert "document-export" not in exported.text
    assert "ValueError" in served.log.getvalue()
    assert "Novak" not in served.log.getvalue()

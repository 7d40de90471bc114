"""The change feed over HTTP: each change once, waiting for what comes, and access that ends."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from api.access.action import Action, Caller, Grant, Operation
from identity.errors import Forbidden
from sync.changefeed import START

CHANGES = "/v1/databases/bank/changes"
DOCUMENTS = "/v1/databases/bank/collections/accounts/documents"


def kind(answered: Any) -> str:
    assert answered.headers["content-type"] == "application/problem+json", answered.text
    return str(answered.json()["type"]).removeprefix("urn:holdfast:problem:")


def sent(text: str) -> list[tuple[str, str, Any]]:
    """The id, kind and data of each event of a stream."""
    found = []
    for part in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in part.splitlines() if ": " in line and not line.startswith(":"))
        if "data" in lines:
            found.append((lines["id"], lines["event"], json.loads(lines["data"])))
    return found


def close_after(served: Any, asks: int) -> None:
    """Let the node stop when the gate has been asked so often."""
    allow = served.gate.allow

    def counted(caller: Caller, action: Action) -> Grant:
        granted: Grant = allow(caller, action)
        if len(served.gate.asked) >= asks:
            served.node.closing.set()
        return granted

    served.gate.allow = counted


def test_each_change_is_told_once(served: Any) -> None:
    for n in range(3):
        served.put("4711", n=n)
    first = served("GET", f"{CHANGES}?limit=2").json()
    assert [(one["change"], one["old"], one["new"]) for one in first["events"]] == [
        ("created", None, {"n": 0}),
        ("changed", {"n": 0}, {"n": 1}),
    ]
    assert first["more"] is True
    rest = served("GET", f"{CHANGES}?after={first['cursor']}").json()
    assert [one["new"] for one in rest["events"]] == [{"n": 2}]
    assert served("GET", f"{CHANGES}?after={rest['cursor']}").json()["events"] == []
    assert served("GET", f"{CHANGES}?after=now").json()["events"] == []


@pytest.mark.parametrize(
    ("query", "name"),
    [("after=x", "malformed"), ("after=99.0000000000000000", "conflict"), ("limit=0", "malformed"),
     ("wait=61", "malformed"), ("wait=nan", "malformed"), ("collection=$schemas", "not-found")],
)  # fmt: skip
def test_what_means_nothing_is_refused(served: Any, query: str, name: str) -> None:
    assert kind(served("GET", f"{CHANGES}?{query}")) == name
    if query.startswith("after"):
        assert kind(served("GET", f"{CHANGES}/stream?{query}")) == name


def test_who_waits_is_told_as_soon_as_something_comes(served: Any) -> None:
    cursor = served("GET", CHANGES).json()["cursor"]
    writing = threading.Event()

    def write() -> None:
        writing.wait()
        served.database.put("accounts", "4711", {"n": 1})

    thread = threading.Thread(target=write)
    thread.start()
    allow = served.gate.allow

    def then_write(caller: Caller, action: Action) -> Grant:
        if len(served.gate.asked) >= 2:  # it has looked once and found nothing
            writing.set()
        return allow(caller, action)

    served.gate.asked.clear()
    served.gate.allow = then_write
    page = served("GET", f"{CHANGES}?after={cursor}&wait=30").json()
    thread.join()
    assert [one["new"] for one in page["events"]] == [{"n": 1}]


def test_waiting_ends_with_the_time_and_with_the_node(served: Any) -> None:
    cursor = served("GET", f"{CHANGES}?wait=0.01").json()["cursor"]
    served.node.closing.set()
    assert served("GET", f"{CHANGES}?after={cursor}&wait=60").json()["events"] == []


def test_a_stream_is_taken_up_where_it_ended(served: Any) -> None:
    for n in range(3):
        served.put("4711", n=n)
    served.gate.asked.clear()
    close_after(served, 4)
    streamed = served("GET", f"{CHANGES}/stream")
    assert streamed.headers["content-type"].startswith("text/event-stream")
    events = [one for one in sent(streamed.text) if one[1] == "change"]
    assert [data["new"]["n"] for _, _, data in events] == [0, 1, 2]
    served.node.closing.clear()
    served.gate.asked.clear()
    again = served("GET", f"{CHANGES}/stream?after={START}", Last_Event_ID=events[1][0])
    assert [data["new"]["n"] for _, what, data in sent(again.text) if what == "change"] == [2]


def test_access_that_has_ended_ends_the_stream(served: Any) -> None:
    served.put("4711", n=1)
    served.gate.asked.clear()
    allow = served.gate.allow

    def revoke(caller: Caller, action: Action) -> Grant:
        if len(served.gate.asked) >= 3:
            raise Forbidden("REVOKED", "the device was revoked")
        return allow(caller, action)

    served.gate.allow = revoke
    streamed = served("GET", f"{CHANGES}/stream")
    assert [what for _, what, _ in sent(streamed.text)][:1] == ["change"]


def test_only_so_many_follow_and_their_places_are_given_back(served: Any) -> None:
    service = served.client.app.state.service
    most = service.limits.threads // 2
    for _ in range(most):
        service.follow()
    refused = served("GET", f"{CHANGES}/stream")
    assert (refused.status_code, kind(refused), refused.headers["retry-after"]) == (503, "busy", "1")
    assert kind(served("GET", f"{CHANGES}?wait=1")) == "busy"
    for _ in range(most):
        service.unfollow()
    served.node.closing.set()
    for _ in range(2 * most):  # each gives its place back
        assert served("GET", f"{CHANGES}/stream").status_code == 200


def test_what_is_withheld_is_in_no_event(served: Any) -> None:
    served.put("4711", owner="Novak", secret=1)
    served.put("4711", owner="Novak", secret=2)
    served.put("4711", owner="Nowak", secret=2)
    served.database.set_schema("accounts", {"type": "object"})
    served.gate.fields = frozenset({"owner"})
    events = served("GET", CHANGES).json()["events"]
    assert [(one["old"], one["new"]) for one in events] == [
        (None, {"owner": "Novak"}),
        ({"owner": "Novak"}, {"owner": "Nowak"}),
    ]
    assert {(one.operation, one.collection) for one in served.gate.asked[-1:]} == {(Operation.CHANGES, None)}
    served("GET", f"{CHANGES}?collection=accounts&collection=other")
    assert [one.collection for one in served.gate.asked[-2:]] == ["accounts", "other"]

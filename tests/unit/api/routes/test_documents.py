"""Documents over HTTP: versions and conditions, what is told of them, and what is not."""

from __future__ import annotations

from typing import Any

DOCUMENTS = "/v1/databases/bank/collections/accounts/documents"
NOVAK = f"{DOCUMENTS}/4711"


def problem(answered: Any) -> str:
    assert answered.headers["content-type"] == "application/problem+json"
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
    assert served("GET", NOVAK, If_None_Match=made.headers["etag"]).status_code == 304
    head = served("HEAD", NOVAK)
    assert (head.status_code, head.headers["etag"], head.content) == (200, made.headers["etag"], b"")
    assert served("PUT", NOVAK, {"owner": "Novak", "balance": {"$dec": "12.30"}}).json()["written"] is False

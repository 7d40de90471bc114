"""The ledger over HTTP: what outsiders need to check the node for themselves, and its own state."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from anchoring.rollback import RollbackCheck, RollbackState
from identity.textforms import parse_zbase32
from ledger.entry import parse_entry
from ledger.proof import parse_proof
from ledger.proof_checking import verify_proof


def kind(answered: Any) -> str:
    assert answered.headers["content-type"] == "application/problem+json", answered.text
    return str(answered.json()["type"]).removeprefix("urn:holdfast:problem:")


@pytest.fixture
def feed(served: Any) -> str:
    """The key of the database's feed, with some entries in it."""
    served.put("4711", owner="Novak")
    entry = served("PATCH", "/v1/databases/bank/collections/accounts/documents/4711", {"fields": {"n": 1}}).json()
    return str(entry["feed"])


def test_a_feed_is_read_and_its_proof_holds(served: Any, feed: str) -> None:
    (listed,) = (one for one in served("GET", "/v1/feeds?database=bank").json()["feeds"])
    found = served("GET", f"/v1/feeds/{feed}").json()
    assert (listed["key"], found["length"], found["head"]["length"]) == (feed, listed["length"], listed["length"])
    read = served("GET", f"/v1/feeds/{feed}/blocks?start=1").json()
    blocks = [base64.b64decode(one) for one in read["blocks"]]
    assert len(blocks) == found["length"] - 1
    assert [parse_entry(block).kind for block in blocks][-1] == "txn"
    data = served("GET", f"/v1/feeds/{feed}/proofs/1").content
    proof = parse_proof(data)
    assert proof.manifest is not None
    verified = verify_proof(proof.manifest, proof)
    assert (verified.head.feed_key, proof.block.value) == (parse_zbase32(feed), blocks[0])  # type: ignore[union-attr]
    heads = served("GET", f"/v1/feeds/{feed}/heads?limit=1").json()
    assert (len(heads["heads"]), heads["more"]) == (1, True)
    assert served("GET", f"/v1/feeds/{feed}/heads?above={found['length']}").json()["heads"] == []


def test_a_feed_of_another_database_is_not_told_of(served: Any, feed: str) -> None:
    served("POST", "/v1/databases", {"name": "other"})
    assert served("GET", "/v1/feeds?database=other").json()["feeds"][0]["key"] != feed
    for path in ("", "/heads", "/blocks", "/proofs/0", "/evidence/0"):
        assert kind(served("GET", f"/v1/feeds/{feed}{path}?database=other")) == "not-found"
    assert kind(served("GET", f"/v1/feeds/{'y' * 52}")) == "not-found"
    assert kind(served("GET", "/v1/feeds/ledger")) == "malformed"
    assert kind(served("GET", f"/v1/feeds/{feed}/proofs/99")) == "not-found"


def test_checkpoints_and_identities(served: Any, feed: str) -> None:
    assert kind(served("GET", "/v1/checkpoints/newest")) == "not-found"
    made = served("POST", "/v1/checkpoints", {})
    assert made.status_code == 201, made.text
    size = made.json()["size"]
    assert served("GET", "/v1/checkpoints/newest").text == made.json()["note"]
    assert served("GET", f"/v1/checkpoints/{size}").text.startswith("bank.example/")
    assert [one["size"] for one in served("GET", "/v1/checkpoints").json()["checkpoints"]] == [size]
    assert kind(served("GET", f"/v1/checkpoints/{size + 1}")) == "not-found"
    assert served("GET", "/v1/anchors").json()["anchors"] == []
    (identity,) = served("GET", "/v1/identities?database=bank").json()["identities"]
    path = f"/v1/identities/{identity['identity']}"
    assert served("GET", path).json() == identity
    assert [one["type"] for one in served("GET", f"{path}/events").json()["events"]][:1] == ["inception"]
    assert [one["name"] for one in served("GET", f"{path}/devices").json()["devices"]] == ["till"]
    (member,) = served("GET", "/v1/databases/bank/members").json()["members"]
    assert (member["identity"], member["role"]) == (identity["identity"], "admin")
    assert kind(served("GET", f"/v1/identities/{'0' * 64}")) == "not-found"


def test_what_is_not_stamped_has_no_evidence_and_what_is_none_is_judged(served: Any, feed: str) -> None:
    assert kind(served("GET", f"/v1/feeds/{feed}/evidence/0")) == "missing-evidence"
    path = "/v1/databases/bank/collections/accounts/evidence/4711"
    assert kind(served("GET", path)) == "missing-evidence"
    report = served("POST", "/v1/verify", {"no": "evidence"}).json()
    assert report["overall"] == "FAILED"


def test_a_state_root_is_stated_and_follows_from_the_feeds(served: Any, feed: str) -> None:
    made = served("POST", "/v1/databases/bank/state-roots", b"")
    assert made.status_code == 201, made.text
    entry = made.json()["entry"]
    (listed,) = served("GET", "/v1/databases/bank/state-roots").json()["roots"]
    assert (listed["entry"], listed["root"]) == (entry, made.json()["root"])
    checked = served("POST", "/v1/databases/bank/state-roots/verify", {"entry": entry}).json()
    assert (checked["verdict"], checked["documents"]) == ("PASSED", 1)


def test_the_audit_finds_nothing_wrong_and_goes_on_alone(served: Any, feed: str) -> None:
    served("POST", "/v1/checkpoints", {})
    assert served("POST", "/v1/audit", b"").json()["verdict"] == "PASSED"
    with served.node.auditing():
        assert kind(served("POST", "/v1/audit", b"")) == "busy"
    assert served("POST", "/v1/audit", b"").status_code == 200


def test_readiness_follows_the_state_of_the_store(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert served.client.get("/healthz").json()["state"] == "alive"
    assert served.client.get("/readyz").json()["state"] == "ready"
    assert served("GET", "/v1/rollback").json()["state"] == "no-chain"
    behind = RollbackCheck(RollbackState.BEHIND_ANCHOR, 1, 2, "leaves are missing")
    monkeypatch.setattr(served.node.session, "check_rollback", lambda *_: behind)
    monkeypatch.setattr(served.node, "_standing", None)
    unready = served.client.get("/readyz")
    assert (unready.status_code, unready.json()["state"]) == (503, "behind-anchor")
    assert served.client.get("/healthz").status_code == 200


def test_the_numbers(served: Any, feed: str) -> None:
    text = served.client.get("/metrics").text
    assert 'holdfast_writer_queue_depth{tenant=""} 0.0' in text
    assert 'holdfast_open_conflicts{tenant=""} 0.0' in text
    assert 'holdfast_writable{tenant=""} 1.0' in text
    assert "holdfast_commit_seconds_count 2.0" in text
    route = "/v1/databases/{database}/collections/{collection}/documents/{key:path}"
    assert f'holdfast_requests_total{{method="PUT",route="{route}",status="201"}} 1.0' in text
    assert "4711" not in text
    assert "bank" not in text


def test_large_answers_are_packed(served: Any) -> None:
    served.put("4711", text="x" * 10_000)
    packed = served("GET", "/v1/databases/bank/collections/accounts/documents/4711", Accept_Encoding="gzip")
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.json()["fields"]["text"] == "x" * 10_000
    plain = served("GET", "/v1/databases", Accept_Encoding="identity")
    assert "content-encoding" not in plain.headers
    assert json.loads(plain.content)["databases"][0]["name"] == "bank"

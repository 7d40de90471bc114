"""Serial writes over HTTP: decided at once where the home is, elsewhere proposed, and what became of that."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient

from api.access.action import Operation
from api.app import create_app
from api.bootstrap import open_session
from api.databases import Databases
from api.founding import Founding, found_home
from api.home import Home
from api.node import Node
from api.settings import default_settings_text, load_settings
from identity.event import DeviceClass
from identity.keystore import ONLY_FOR_TESTING, open_keystore
from sync.database import Database

from .conftest import PASSPHRASE, FakeGate  # type: ignore[import-not-found]

SEAT = "/v1/databases/bank/collections/seats/documents/12a"


class Theatre:
    """A node that speaks as the till, and the office's device, which is the home of the seats."""

    def __init__(self, client: TestClient, gate: Any, office: Database) -> None:
        self.client = client
        self.gate = gate
        self.office = office

    def put(self, owner: str, **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {"X-Caller": "teller", "Prefer": "serial", **named}
        return self.client.put(SEAT, content=json.dumps({"owner": owner}), headers=sent)

    def get(self, path: str) -> Any:
        return self.client.get(path, headers={"X-Caller": "teller"})

    def decision(self, proposed: Any) -> Any:
        where = urlsplit(proposed.headers["location"])
        return self.get(f"{where.path}?{where.query}").json()


@pytest.fixture
def theatre(tmp_path: Path) -> Iterator[Theatre]:
    home = Home(tmp_path / "home")
    founding = Founding(
        label="theatre",
        devices={"till": DeviceClass.DEVICE, "office": DeviceClass.DEVICE},
        log_name="theatre.example",
        chain=None,
        fund=None,
        authorities=[],
        settings=default_settings_text({"kind": "none"}, []),
        kdf=ONLY_FOR_TESTING,
    )
    found_home(home, founding, PASSPHRASE, now_ms=1_767_225_600_000)
    settings = load_settings(home, {"HOLDFAST_DEV_DIR": str(tmp_path / "dev")})
    ring = open_keystore(home.keystore, PASSPHRASE)
    gate = FakeGate()
    with open_session(home, settings) as session:
        node = Node(session, ring, gate, device="till")
        node.create("bank")
        with Databases(session, ring) as offices:
            office = offices.open("bank", device="office")
            office.put("notes", "1", {"text": "it has to have written before it can be a home"})
            assert office.own_feed is not None
            office.set_home("seats", office.own_feed)
            with TestClient(create_app({"": node})) as client:
                yield Theatre(client, gate, office)
        node.close()


def test_what_is_written_elsewhere_is_proposed_and_decided_by_the_home(theatre: Theatre) -> None:
    asked = theatre.put("Anna", If_None_Match="*")
    assert (asked.status_code, asked.json()["pending"]) == (202, True)
    assert asked.headers["preference-applied"] == "serial"
    assert "etag" not in asked.headers
    assert theatre.get(SEAT).status_code == 404, "nothing counts before it is decided"
    assert theatre.decision(asked)["verdict"] == "pending"
    theatre.office.take_new()
    theatre.office.decide_pending()
    told = theatre.decision(asked)
    assert (told["verdict"], told["why"], told["rivals"]) == ("accepted", None, [])
    assert told["entry"] != told["proposal"]
    assert theatre.get(SEAT).json()["fields"] == {"owner": "Anna"}


def test_of_two_proposals_for_one_seat_one_is_refused(theatre: Theatre) -> None:
    first, second = theatre.put("Anna", If_None_Match="*"), theatre.put("Bert", If_None_Match="*")
    assert [first.status_code, second.status_code] == [202, 202]
    theatre.office.take_new()
    theatre.office.decide_pending()
    assert [theatre.decision(one)["verdict"] for one in (first, second)] == ["accepted", "refused"]
    assert theatre.decision(second)["why"] == "stale"
    assert theatre.get(SEAT).json()["fields"] == {"owner": "Anna"}


def test_where_it_is_at_home_it_is_decided_at_once(theatre: Theatre) -> None:
    path = SEAT.replace("seats", "free")
    made = theatre.client.put(path, content=b'{"owner": "Anna"}', headers={"X-Caller": "teller", "If-None-Match": "*"})
    assert (made.status_code, made.json()["pending"]) == (201, False)


def test_what_is_not_serial_is_refused_where_a_home_decides(theatre: Theatre) -> None:
    refused = theatre.put("Anna", Prefer="carried")
    assert refused.status_code == 409, refused.text
    assert theatre.get(SEAT).status_code == 404


def test_who_may_not_read_history_is_not_told_what_was_decided(theatre: Theatre) -> None:
    asked = theatre.put("Anna", If_None_Match="*")
    theatre.gate.forbidden = {Operation.HISTORY}
    where = urlsplit(asked.headers["location"])
    assert theatre.get(f"{where.path}?{where.query}").status_code == 403


@pytest.mark.parametrize("entry", ["", "x", "a/b/c", "y" * 300])
def test_what_names_no_entry_is_refused(theatre: Theatre, entry: str) -> None:
    assert theatre.get(f"/v1/databases/bank/decision?entry={entry}").status_code == 400
